//===- composite.h - the ops in PyTorch's own operators -------------------===//
//
// For float64, which has no kernels: the formulas as they stand, O(N M) memory,
// differentiable as often as one likes. Inputs have been checked.
//
//===----------------------------------------------------------------------===//
#pragma once

#include "results.h"

namespace flarec::ops::composite {

inline bool serves(const at::Tensor &k) {
  return k.scalar_type() == at::kDouble;
}

Two encode(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v,
           double scale, const Shape &shape, const Presence &presence = {});
Two decode(const at::Tensor &k, const at::Tensor &q, const at::Tensor &z,
           double scale, const Shape &shape, const Presence &presence = {});
Four mixer(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v,
           double scale, const Shape &shape, const Presence &presence = {});

/// grad_q, grad_k, grad_v.
Three encodeBackward(const at::Tensor &gradZ, const at::Tensor &gradLse,
                     const at::Tensor &q, const at::Tensor &k,
                     const at::Tensor &v, const at::Tensor &z,
                     const at::Tensor &lse, double scale, const Shape &shape,
                     const Presence &presence = {});
/// grad_k, grad_q, grad_z.
Three decodeBackward(const at::Tensor &gradY, const at::Tensor &gradLse,
                     const at::Tensor &k, const at::Tensor &q,
                     const at::Tensor &z, const at::Tensor &y,
                     const at::Tensor &lse, double scale, const Shape &shape,
                     const Presence &presence = {});
/// grad_q, grad_k, grad_v.
Three mixerBackward(const at::Tensor &gradY, const at::Tensor &q,
                    const at::Tensor &k, const at::Tensor &v,
                    const at::Tensor &y, const at::Tensor &z,
                    const at::Tensor &lseEncode, const at::Tensor &lseDecode,
                    double scale, const Shape &shape,
                    const Presence &presence = {});

Two backwardLatents(const at::Tensor &gradY, const at::Tensor &q,
                    const at::Tensor &k, const at::Tensor &y,
                    const at::Tensor &lseDecode, double scale);
/// grad_q, grad_k, grad_v; with delta = grad_y·y and these tokens' dz, all of a
/// mixer's backward pass.
Three backwardJoint(const at::Tensor &gradY, const at::Tensor &q,
                    const at::Tensor &k, const at::Tensor &v,
                    const at::Tensor &z, const at::Tensor &dz,
                    const at::Tensor &lseEncode, const at::Tensor &lseDecode,
                    const at::Tensor &delta, double scale);

} // namespace flarec::ops::composite
