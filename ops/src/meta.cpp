//===- meta.cpp - results without their values ----------------------------===//
#include "results.h"

#include <ATen/ATen.h>
#include <torch/library.h>

namespace flarec::ops {
namespace {

/// Memory as [B, N, H, D], which is what the next linear layer reads, seen as
/// [B, H, N, D].
at::Tensor tokensMajor(const Shape &s, const at::TensorOptions &options) {
  return at::empty_symint({s.batch, s.tokens, s.heads, s.headDim}, options)
      .transpose(1, 2);
}

ForwardResults forwardMeta(const at::Tensor &q, const at::Tensor &k,
                           const at::Tensor &v, double) {
  return emptyForward(checkInputs(q, k, v), k);
}

BackwardResults backwardMeta(const at::Tensor &gradY, const at::Tensor &q,
                             const at::Tensor &k, const at::Tensor &v,
                             const at::Tensor &y, const at::Tensor &z,
                             const at::Tensor &lseEncode,
                             const at::Tensor &lseDecode, double,
                             std::array<bool, 3> wanted) {
  return emptyBackward(
      checkBackwardInputs(gradY, q, k, v, y, z, lseEncode, lseDecode), q,
      wanted);
}

} // namespace

ForwardResults emptyForward(const Shape &s, const at::Tensor &k) {
  at::TensorOptions wide = k.options().dtype(at::kFloat);
  return {tokensMajor(s, k.options()), at::empty_symint(s.latentShape(), wide),
          at::empty_symint({s.batch, s.heads, s.latents}, wide),
          at::empty_symint({s.batch, s.heads, s.tokens}, wide)};
}

BackwardResults emptyBackward(const Shape &s, const at::Tensor &q,
                              std::array<bool, 3> wanted) {
  at::Tensor gradQ, gradK, gradV;
  if (wanted[0])
    gradQ = at::empty_symint(q.sym_sizes(), q.options());
  if (wanted[1])
    gradK = tokensMajor(s, q.options());
  if (wanted[2])
    gradV = tokensMajor(s, q.options());
  return {gradQ, gradK, gradV};
}

} // namespace flarec::ops

TORCH_LIBRARY_IMPL(flarec, Meta, m) {
  m.impl("mixer_forward", TORCH_FN(flarec::ops::forwardMeta));
  m.impl("mixer_backward", TORCH_FN(flarec::ops::backwardMeta));
}
