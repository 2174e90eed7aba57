//===- meta.cpp - results without their values ----------------------------===//
#include "host_memory.h"
#include "results.h"

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <torch/library.h>

namespace flarec::ops {
namespace {

/// A large tensor on the host lies where an earlier one was.
at::Tensor empty(c10::SymIntArrayRef sizes, const at::TensorOptions &options) {
  auto known = c10::asIntArrayRefSlowOpt(sizes);
  at::ScalarType type = options.dtype().toScalarType();
  bool large = known && options.device().is_cpu() &&
               c10::multiply_integers(*known) >=
                   int64_t(largeResult / c10::elementSize(type));
  if (!large)
    return at::empty_symint(sizes, options);
  return at::detail::empty_generic(*known, &hostMemory(),
                                   c10::DispatchKeySet(c10::DispatchKey::CPU),
                                   type, std::nullopt);
}

/// Memory as [B, N, H, D], which is what the next linear layer reads, seen as
/// [B, H, N, D].
at::Tensor tokensMajor(const Shape &s, const at::TensorOptions &options) {
  if (s.packed)
    return empty({s.tokens, s.heads, s.headDim}, options);
  return empty({s.batch, s.tokens, s.heads, s.headDim}, options)
      .transpose(1, 2);
}

at::TensorOptions wide(const at::Tensor &k) {
  return k.options().dtype(wideType(k));
}
at::Tensor perLatent(const Shape &s, const at::Tensor &k) {
  return empty({s.batch, s.heads, s.latents}, wide(k));
}
at::Tensor perToken(const Shape &s, const at::Tensor &k) {
  if (s.packed)
    return empty({s.heads, s.tokens}, wide(k));
  return empty({s.batch, s.heads, s.tokens}, wide(k));
}
at::Tensor latentRows(const Shape &s, const at::Tensor &k) {
  return empty(s.latentShape(), wide(k));
}

Four forwardMeta(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v,
                 double, const MaybeTensor &range, const MaybeTensor &mask) {
  return emptyForward(checkInputs(q, k, v, {range, mask}), k);
}

Three backwardMeta(const at::Tensor &gradY, const at::Tensor &q,
                   const at::Tensor &k, const at::Tensor &v,
                   const at::Tensor &y, const at::Tensor &z,
                   const at::Tensor &lseEncode, const at::Tensor &lseDecode,
                   double, std::array<bool, 3> wanted, const MaybeTensor &range,
                   const MaybeTensor &mask) {
  return emptyBackward(checkBackwardInputs(gradY, q, k, v, y, z, lseEncode,
                                           lseDecode, {range, mask}),
                       q, wanted);
}

Two encodeMeta(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v,
               double, const MaybeTensor &range, const MaybeTensor &mask) {
  return emptyEncode(checkInputs(q, k, v, {range, mask}), k);
}

Three encodeBackwardMeta(const at::Tensor &gradZ, const at::Tensor &gradLse,
                         const at::Tensor &q, const at::Tensor &k,
                         const at::Tensor &v, const at::Tensor &z,
                         const at::Tensor &lse, double,
                         std::array<bool, 3> wanted, const MaybeTensor &range,
                         const MaybeTensor &mask) {
  return emptyBackward(
      checkEncodeBackward(gradZ, gradLse, q, k, v, z, lse, {range, mask}), q,
      wanted);
}

Two decodeMeta(const at::Tensor &k, const at::Tensor &q, const at::Tensor &z,
               double, const MaybeTensor &range, const MaybeTensor &mask) {
  return emptyDecode(checkDecodeInputs(k, q, z, {range, mask}), k);
}

Three decodeBackwardMeta(const at::Tensor &gradY, const at::Tensor &gradLse,
                         const at::Tensor &k, const at::Tensor &q,
                         const at::Tensor &z, const at::Tensor &y,
                         const at::Tensor &lse, double,
                         std::array<bool, 3> wanted, const MaybeTensor &range,
                         const MaybeTensor &mask) {
  return emptyDecodeBackward(
      checkDecodeBackward(gradY, gradLse, k, q, z, y, lse, {range, mask}), q,
      wanted);
}

Two backwardLatentsMeta(const at::Tensor &gradY, const at::Tensor &q,
                        const at::Tensor &k, const at::Tensor &y,
                        const at::Tensor &lseDecode, double) {
  return emptyBackwardLatents(checkBackwardLatents(gradY, q, k, y, lseDecode),
                              k);
}

Three backwardJointMeta(const at::Tensor &gradY, const at::Tensor &q,
                        const at::Tensor &k, const at::Tensor &v,
                        const at::Tensor &z, const at::Tensor &dz,
                        const at::Tensor &lseEncode,
                        const at::Tensor &lseDecode, const at::Tensor &delta,
                        double) {
  return emptyBackwardJoint(
      checkBackwardJoint(gradY, q, k, v, z, dz, lseEncode, lseDecode, delta),
      q);
}

} // namespace

Four emptyForward(const Shape &s, const at::Tensor &k) {
  return {tokensMajor(s, k.options()), latentRows(s, k), perLatent(s, k),
          perToken(s, k)};
}

Three emptyBackward(const Shape &s, const at::Tensor &q,
                    std::array<bool, 3> wanted) {
  at::Tensor gradQ, gradK, gradV;
  if (wanted[0])
    gradQ = empty(q.sym_sizes(), q.options());
  if (wanted[1])
    gradK = tokensMajor(s, q.options());
  if (wanted[2])
    gradV = tokensMajor(s, q.options());
  return {gradQ, gradK, gradV};
}

Two emptyEncode(const Shape &s, const at::Tensor &k) {
  return {latentRows(s, k), perLatent(s, k)};
}

Two emptyDecode(const Shape &s, const at::Tensor &k) {
  return {tokensMajor(s, k.options()), perToken(s, k)};
}

Three emptyDecodeBackward(const Shape &s, const at::Tensor &q,
                          std::array<bool, 3> wanted) {
  at::Tensor gradK, gradQ, gradZ;
  if (wanted[0])
    gradK = tokensMajor(s, q.options());
  if (wanted[1])
    gradQ = empty(q.sym_sizes(), q.options());
  if (wanted[2])
    gradZ = latentRows(s, q);
  return {gradK, gradQ, gradZ};
}

Two emptyBackwardLatents(const Shape &s, const at::Tensor &k) {
  return {latentRows(s, k), perToken(s, k)};
}

Three emptyBackwardJoint(const Shape &s, const at::Tensor &q) {
  return {empty(q.sym_sizes(), wide(q)), tokensMajor(s, q.options()),
          tokensMajor(s, q.options())};
}

} // namespace flarec::ops

TORCH_LIBRARY_IMPL(flarec, Meta, m) {
  using namespace flarec::ops;
  m.impl("mixer_forward", TORCH_FN(forwardMeta));
  m.impl("mixer_backward", TORCH_FN(backwardMeta));
  m.impl("encode", TORCH_FN(encodeMeta));
  m.impl("encode_backward", TORCH_FN(encodeBackwardMeta));
  m.impl("decode", TORCH_FN(decodeMeta));
  m.impl("decode_backward", TORCH_FN(decodeBackwardMeta));
  m.impl("mixer_backward_latents", TORCH_FN(backwardLatentsMeta));
  m.impl("mixer_backward_joint", TORCH_FN(backwardJointMeta));
}
