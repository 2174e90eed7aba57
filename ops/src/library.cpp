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

/// What mixer is on every device: the first result of mixer_forward, which has
/// kernels for CPU, CUDA, Meta and Autograd.
at::Tensor composeMixer(const at::Tensor &q, const at::Tensor &k,
                        const at::Tensor &v, double scale) {
  return std::get<0>(mixerForward(q, k, v, scale));
}

} // namespace

at::Tensor mixer(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v,
                 double scale) {
  static auto op = handle<decltype(composeMixer)>("flarec::mixer");
  return op.call(q, k, v, scale);
}

ops::ForwardResults mixerForward(const at::Tensor &q, const at::Tensor &k,
                                 const at::Tensor &v, double scale) {
  static auto op = handle<decltype(mixerForward)>("flarec::mixer_forward");
  return op.call(q, k, v, scale);
}

ops::BackwardResults mixerBackward(const at::Tensor &gradY, const at::Tensor &q,
                                   const at::Tensor &k, const at::Tensor &v,
                                   const at::Tensor &y, const at::Tensor &z,
                                   const at::Tensor &lseEncode,
                                   const at::Tensor &lseDecode, double scale,
                                   std::array<bool, 3> wanted) {
  static auto op = handle<decltype(mixerBackward)>("flarec::mixer_backward");
  return op.call(gradY, q, k, v, y, z, lseEncode, lseDecode, scale, wanted);
}

} // namespace flarec

TORCH_LIBRARY(flarec, m) {
  // Exact strides: k and v are read where they are, so a compiler must not
  // rearrange them for us.
  m.def("mixer(Tensor q, Tensor k, Tensor v, float scale=1.0) -> Tensor",
        {at::Tag::pt2_compliant_tag, at::Tag::needs_exact_strides});
  m.def("mixer_forward(Tensor q, Tensor k, Tensor v, float scale=1.0) -> "
        "(Tensor y, Tensor z, Tensor lse_encode, Tensor lse_decode)",
        {at::Tag::pt2_compliant_tag, at::Tag::needs_exact_strides});
  m.def("mixer_backward(Tensor grad_y, Tensor q, Tensor k, Tensor v, Tensor y, "
        "Tensor z, Tensor lse_encode, Tensor lse_decode, float scale=1.0, "
        "bool[3] wanted=[True, True, True]) -> "
        "(Tensor grad_q, Tensor grad_k, Tensor grad_v)",
        {at::Tag::pt2_compliant_tag, at::Tag::needs_exact_strides});
  m.impl("mixer", c10::DispatchKey::CompositeImplicitAutograd,
         TORCH_FN(flarec::composeMixer));
}
