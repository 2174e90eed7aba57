//===- checks.h - what the ops accept -------------------------------------===//
//
// Every check of every op, with messages that say what was given, what is
// allowed and what to do. Sizes are symbolic, so that the same code guards
// traced calls.
//
//===----------------------------------------------------------------------===//
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/SymInt.h>

namespace flarec::ops {

struct Shape {
  c10::SymInt batch, heads, latents, headDim, tokens;
  bool sharedLatents = false; ///< q is [H, M, D]

  std::array<c10::SymInt, 4> latentShape() const {
    return {batch, heads, latents, headDim};
  }
  std::array<c10::SymInt, 4> tokenShape() const {
    return {batch, heads, tokens, headDim};
  }
};

/// Of z, dz, log-sum-exps and deltas: float32, and float64 for float64 tokens.
inline at::ScalarType wideType(const at::Tensor &k) {
  return k.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

// Each throws c10::Error unless an op on these is supported.

/// Of a mixer and of encode.
Shape checkInputs(const at::Tensor &q, const at::Tensor &k,
                  const at::Tensor &v);

Shape checkDecodeInputs(const at::Tensor &k, const at::Tensor &q,
                        const at::Tensor &z);

/// The same for the backward passes.
Shape checkBackwardInputs(const at::Tensor &gradY, const at::Tensor &q,
                          const at::Tensor &k, const at::Tensor &v,
                          const at::Tensor &y, const at::Tensor &z,
                          const at::Tensor &lseEncode,
                          const at::Tensor &lseDecode);
Shape checkEncodeBackward(const at::Tensor &gradZ, const at::Tensor &gradLse,
                          const at::Tensor &q, const at::Tensor &k,
                          const at::Tensor &v, const at::Tensor &z,
                          const at::Tensor &lse);
Shape checkDecodeBackward(const at::Tensor &gradY, const at::Tensor &gradLse,
                          const at::Tensor &k, const at::Tensor &q,
                          const at::Tensor &z, const at::Tensor &y,
                          const at::Tensor &lse);
Shape checkBackwardLatents(const at::Tensor &gradY, const at::Tensor &q,
                           const at::Tensor &k, const at::Tensor &y,
                           const at::Tensor &lseDecode);
Shape checkBackwardJoint(const at::Tensor &gradY, const at::Tensor &q,
                         const at::Tensor &k, const at::Tensor &v,
                         const at::Tensor &z, const at::Tensor &dz,
                         const at::Tensor &lseEncode,
                         const at::Tensor &lseDecode, const at::Tensor &delta);

/// [S, B, H, M, D] and [S, B, H, M].
void checkParts(const at::Tensor &zParts, const at::Tensor &lseParts);

} // namespace flarec::ops
