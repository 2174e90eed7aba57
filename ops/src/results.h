//===- results.h - the tensors that the ops return ------------------------===//
//
// One place for shapes, dtypes and strides, so that Meta and real kernels
// cannot differ.
//
//===----------------------------------------------------------------------===//
#pragma once

#include "checks.h"

#include <array>
#include <tuple>

namespace flarec::ops {

using ForwardResults =
    std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
using BackwardResults = std::tuple<at::Tensor, at::Tensor, at::Tensor>;

/// y, z, lse_encode, lse_decode, uninitialised.
ForwardResults emptyForward(const Shape &shape, const at::Tensor &k);

/// grad_q, grad_k, grad_v, uninitialised; undefined where not wanted.
BackwardResults emptyBackward(const Shape &shape, const at::Tensor &q,
                              std::array<bool, 3> wanted);

} // namespace flarec::ops
