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

/// Throws c10::Error unless a mixer of these is supported.
Shape checkInputs(const at::Tensor &q, const at::Tensor &k,
                  const at::Tensor &v);

/// The same for the backward pass.
Shape checkBackwardInputs(const at::Tensor &gradY, const at::Tensor &q,
                          const at::Tensor &k, const at::Tensor &v,
                          const at::Tensor &y, const at::Tensor &z,
                          const at::Tensor &lseEncode,
                          const at::Tensor &lseDecode);

} // namespace flarec::ops
