//===- results.h - the tensors that the ops return ------------------------===//
//
// One place for shapes, dtypes and strides, so that Meta and real kernels
// cannot differ. All are uninitialised, and undefined where not wanted.
//
//===----------------------------------------------------------------------===//
#pragma once

#include "checks.h"

#include <array>
#include <tuple>

namespace flarec::ops {

using Two = std::tuple<at::Tensor, at::Tensor>;
using Three = std::tuple<at::Tensor, at::Tensor, at::Tensor>;
using Four = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

/// y, z, lse_encode, lse_decode.
Four emptyForward(const Shape &shape, const at::Tensor &k);

/// grad_q, grad_k, grad_v.
Three emptyBackward(const Shape &shape, const at::Tensor &q,
                    std::array<bool, 3> wanted);

/// z, lse; also dz and one number a latent.
Two emptyEncode(const Shape &shape, const at::Tensor &k);

/// y, lse.
Two emptyDecode(const Shape &shape, const at::Tensor &k);

/// grad_k, grad_q, grad_z.
Three emptyDecodeBackward(const Shape &shape, const at::Tensor &q,
                          std::array<bool, 3> wanted);

/// dz, delta.
Two emptyBackwardLatents(const Shape &shape, const at::Tensor &k);

/// grad_q (wide), grad_k, grad_v.
Three emptyBackwardJoint(const Shape &shape, const at::Tensor &q);

} // namespace flarec::ops
