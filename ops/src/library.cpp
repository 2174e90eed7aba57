//===- library.cpp - schemas, and the ops as C++ functions ----------------===//
#include "flarec/ops.h"
#include "results.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

namespace flarec {
namespace {

/// The op's handle, looked up once.
template <typename Signature>
c10::TypedOperatorHandle<Signature> handle(const char *name) {
  return c10::Dispatcher::singleton()
      .findSchemaOrThrow(name, "")
      .typed<Signature>();
}

using ops::MaybeTensor;

/// What mixer is on every device: the first result of mixer_forward, which has
/// kernels for CPU, CUDA, Meta and Autograd.
at::Tensor composeMixer(const at::Tensor &q, const at::Tensor &k,
                        const at::Tensor &v, double scale,
                        const MaybeTensor &mask, const MaybeTensor &lengths,
                        const MaybeTensor &cuSeqlens) {
  return std::get<0>(mixerForward(
      q, k, v, scale, ops::rangeOf(k, lengths, cuSeqlens), mask));
}

} // namespace

at::Tensor mixer(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v,
                 double scale, const Tokens &tokens) {
  static auto op = handle<decltype(composeMixer)>("flarec::mixer");
  return op.call(q, k, v, scale, tokens.mask, tokens.lengths, tokens.cuSeqlens);
}

ops::Two encode(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v,
                double scale, const MaybeTensor &range,
                const MaybeTensor &mask) {
  static auto op = handle<decltype(encode)>("flarec::encode");
  return op.call(q, k, v, scale, range, mask);
}

ops::Two decode(const at::Tensor &k, const at::Tensor &q, const at::Tensor &z,
                double scale, const MaybeTensor &range,
                const MaybeTensor &mask) {
  static auto op = handle<decltype(decode)>("flarec::decode");
  return op.call(k, q, z, scale, range, mask);
}

ops::Two merge(const at::Tensor &zParts, const at::Tensor &lseParts) {
  static auto op = handle<decltype(merge)>("flarec::merge");
  return op.call(zParts, lseParts);
}

ops::Two mixerBackwardLatents(const at::Tensor &gradY, const at::Tensor &q,
                              const at::Tensor &k, const at::Tensor &y,
                              const at::Tensor &lseDecode, double scale) {
  static auto op =
      handle<decltype(mixerBackwardLatents)>("flarec::mixer_backward_latents");
  return op.call(gradY, q, k, y, lseDecode, scale);
}

ops::Three mixerBackwardJoint(const at::Tensor &gradY, const at::Tensor &q,
                              const at::Tensor &k, const at::Tensor &v,
                              const at::Tensor &z, const at::Tensor &dz,
                              const at::Tensor &lseEncode,
                              const at::Tensor &lseDecode,
                              const at::Tensor &delta, double scale) {
  static auto op =
      handle<decltype(mixerBackwardJoint)>("flarec::mixer_backward_joint");
  return op.call(gradY, q, k, v, z, dz, lseEncode, lseDecode, delta, scale);
}

ops::Four mixerForward(const at::Tensor &q, const at::Tensor &k,
                       const at::Tensor &v, double scale,
                       const MaybeTensor &range, const MaybeTensor &mask) {
  static auto op = handle<decltype(mixerForward)>("flarec::mixer_forward");
  return op.call(q, k, v, scale, range, mask);
}

ops::Three mixerBackward(const at::Tensor &gradY, const at::Tensor &q,
                         const at::Tensor &k, const at::Tensor &v,
                         const at::Tensor &y, const at::Tensor &z,
                         const at::Tensor &lseEncode,
                         const at::Tensor &lseDecode, double scale,
                         std::array<bool, 3> wanted, const MaybeTensor &range,
                         const MaybeTensor &mask) {
  static auto op = handle<decltype(mixerBackward)>("flarec::mixer_backward");
  return op.call(gradY, q, k, v, y, z, lseEncode, lseDecode, scale, wanted,
                 range, mask);
}

ops::Three encodeBackward(const at::Tensor &gradZ, const at::Tensor &gradLse,
                          const at::Tensor &q, const at::Tensor &k,
                          const at::Tensor &v, const at::Tensor &z,
                          const at::Tensor &lse, double scale,
                          std::array<bool, 3> wanted, const MaybeTensor &range,
                          const MaybeTensor &mask) {
  static auto op = handle<decltype(encodeBackward)>("flarec::encode_backward");
  return op.call(gradZ, gradLse, q, k, v, z, lse, scale, wanted, range, mask);
}

ops::Three decodeBackward(const at::Tensor &gradY, const at::Tensor &gradLse,
                          const at::Tensor &k, const at::Tensor &q,
                          const at::Tensor &z, const at::Tensor &y,
                          const at::Tensor &lse, double scale,
                          std::array<bool, 3> wanted, const MaybeTensor &range,
                          const MaybeTensor &mask) {
  static auto op = handle<decltype(decodeBackward)>("flarec::decode_backward");
  return op.call(gradY, gradLse, k, q, z, y, lse, scale, wanted, range, mask);
}

} // namespace flarec

TORCH_LIBRARY(flarec, m) {
  // Exact strides: k and v are read where they are, so a compiler must not
  // rearrange them for us.
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag,
                                     at::Tag::needs_exact_strides};
  m.def("mixer(Tensor q, Tensor k, Tensor v, float scale=1.0, *, "
        "Tensor? mask=None, Tensor? lengths=None, Tensor? cu_seqlens=None) -> "
        "Tensor",
        tags);
  m.def("encode(Tensor q, Tensor k, Tensor v, float scale=1.0, *, "
        "Tensor? range=None, Tensor? mask=None) -> "
        "(Tensor z, Tensor lse)",
        tags);
  m.def("decode(Tensor k, Tensor q, Tensor z, float scale=1.0, *, "
        "Tensor? range=None, Tensor? mask=None) -> "
        "(Tensor y, Tensor lse)",
        tags);
  m.def("merge(Tensor z_parts, Tensor lse_parts) -> (Tensor z, Tensor lse)",
        {at::Tag::pt2_compliant_tag});
  m.def("mixer_backward_latents(Tensor grad_y, Tensor q, Tensor k, Tensor y, "
        "Tensor lse_decode, float scale=1.0) -> (Tensor dz, Tensor delta)",
        tags);
  m.def("mixer_backward_joint(Tensor grad_y, Tensor q, Tensor k, Tensor v, "
        "Tensor z, Tensor dz, Tensor lse_encode, Tensor lse_decode, "
        "Tensor delta, float scale=1.0) -> "
        "(Tensor grad_q, Tensor grad_k, Tensor grad_v)",
        tags);
  m.def("mixer_forward(Tensor q, Tensor k, Tensor v, float scale=1.0, *, "
        "Tensor? range=None, Tensor? mask=None) -> "
        "(Tensor y, Tensor z, Tensor lse_encode, Tensor lse_decode)",
        tags);
  m.def("mixer_backward(Tensor grad_y, Tensor q, Tensor k, Tensor v, Tensor y, "
        "Tensor z, Tensor lse_encode, Tensor lse_decode, float scale=1.0, "
        "bool[3] wanted=[True, True, True], *, Tensor? range=None, "
        "Tensor? mask=None) -> "
        "(Tensor grad_q, Tensor grad_k, Tensor grad_v)",
        tags);
  m.def("encode_backward(Tensor grad_z, Tensor grad_lse, Tensor q, Tensor k, "
        "Tensor v, Tensor z, Tensor lse, float scale=1.0, "
        "bool[3] wanted=[True, True, True], *, Tensor? range=None, "
        "Tensor? mask=None) -> "
        "(Tensor grad_q, Tensor grad_k, Tensor grad_v)",
        tags);
  m.def("decode_backward(Tensor grad_y, Tensor grad_lse, Tensor k, Tensor q, "
        "Tensor z, Tensor y, Tensor lse, float scale=1.0, "
        "bool[3] wanted=[True, True, True], *, Tensor? range=None, "
        "Tensor? mask=None) -> "
        "(Tensor grad_k, Tensor grad_q, Tensor grad_z)",
        tags);
  m.impl("mixer", c10::DispatchKey::CompositeImplicitAutograd,
         TORCH_FN(flarec::composeMixer));
}
