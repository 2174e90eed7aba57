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

#include <optional>

namespace flarec::ops {

using MaybeTensor = std::optional<at::Tensor>;

/// Which tokens there are, as kernels take it; undefined: all.
struct Presence {
  at::Tensor range; ///< [B, 2] int32: first and end of each batch's tokens
  at::Tensor mask;  ///< [B, N], packed [total]; bool or uint8

  Presence() = default;
  Presence(const MaybeTensor &range, const MaybeTensor &mask)
      : range(range.value_or(at::Tensor())), mask(mask.value_or(at::Tensor())) {
  }
  bool all() const { return !range.defined() && !mask.defined(); }
};

/// Of tokens: rows [total, H, D] and numbers [H, total] are *packed*, sequences
/// one after the other, `tokens` then the total.
struct Shape {
  c10::SymInt batch, heads, latents, headDim, tokens;
  bool sharedLatents = false; ///< q is [H, M, D]
  bool packed = false;

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
Shape checkInputs(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v,
                  const Presence &presence = {});

Shape checkDecodeInputs(const at::Tensor &k, const at::Tensor &q,
                        const at::Tensor &z, const Presence &presence = {});

/// The same for the backward passes.
Shape checkBackwardInputs(const at::Tensor &gradY, const at::Tensor &q,
                          const at::Tensor &k, const at::Tensor &v,
                          const at::Tensor &y, const at::Tensor &z,
                          const at::Tensor &lseEncode,
                          const at::Tensor &lseDecode,
                          const Presence &presence = {});
Shape checkEncodeBackward(const at::Tensor &gradZ, const at::Tensor &gradLse,
                          const at::Tensor &q, const at::Tensor &k,
                          const at::Tensor &v, const at::Tensor &z,
                          const at::Tensor &lse, const Presence &presence);
Shape checkDecodeBackward(const at::Tensor &gradY, const at::Tensor &gradLse,
                          const at::Tensor &k, const at::Tensor &q,
                          const at::Tensor &z, const at::Tensor &y,
                          const at::Tensor &lse, const Presence &presence);
Shape checkBackwardLatents(const at::Tensor &gradY, const at::Tensor &q,
                           const at::Tensor &k, const at::Tensor &y,
                           const at::Tensor &lseDecode);
Shape checkBackwardJoint(const at::Tensor &gradY, const at::Tensor &q,
                         const at::Tensor &k, const at::Tensor &v,
                         const at::Tensor &z, const at::Tensor &dz,
                         const at::Tensor &lseEncode,
                         const at::Tensor &lseDecode, const at::Tensor &delta);

/// The range of each batch's tokens, from what a caller has: lengths of padded
/// sequences, or where packed ones begin and the last ends. None for neither.
MaybeTensor rangeOf(const at::Tensor &k, const MaybeTensor &lengths,
                    const MaybeTensor &cuSeqlens);

/// What the values of a range on the CPU must be; a GPU's are not looked at.
void checkRange(const Presence &presence, const Shape &shape);

/// Packed rows [total, H, D] or numbers [H, total] as the batch sees them, all
/// of them in each sequence: [B, H, total, D] and [B, H, total]. Others as they
/// are.
at::Tensor batched(const at::Tensor &t, const Shape &shape);

/// [S, B, H, M, D] and [S, B, H, M].
void checkParts(const at::Tensor &zParts, const at::Tensor &lseParts);

} // namespace flarec::ops
