//===- autocast.cpp - what the ops make of mixed dtypes -------------------===//
//
// Under autocast q, k and v, of whatever float dtypes, are cast to autocast's
// dtype as for PyTorch's attention; z to float32, which is how it leaves
// encode. float64 is left alone, as everywhere in autocast. Backward passes get
// what their forward pass has saved and need no rule.
//
//===----------------------------------------------------------------------===//
#include "flarec/ops.h"
#include "results.h"

#include <ATen/autocast_mode.h>
#include <torch/library.h>

namespace flarec::ops {
namespace {

template <c10::DeviceType device> struct Autocast {
  static constexpr c10::DispatchKey key = device == c10::DeviceType::CPU
                                              ? c10::DispatchKey::AutocastCPU
                                              : c10::DispatchKey::AutocastCUDA;

  static at::Tensor cast(const at::Tensor &t) {
    return at::autocast::cached_cast(at::autocast::get_autocast_dtype(device),
                                     t, device);
  }

  static at::Tensor mixer(const at::Tensor &q, const at::Tensor &k,
                          const at::Tensor &v, double scale,
                          const MaybeTensor &mask, const MaybeTensor &lengths,
                          const MaybeTensor &cuSeqlens) {
    c10::impl::ExcludeDispatchKeyGuard below(key);
    return flarec::mixer(cast(q), cast(k), cast(v), scale,
                         {mask, lengths, cuSeqlens});
  }

  static Four mixerForward(const at::Tensor &q, const at::Tensor &k,
                           const at::Tensor &v, double scale,
                           const MaybeTensor &range, const MaybeTensor &mask) {
    c10::impl::ExcludeDispatchKeyGuard below(key);
    return flarec::mixerForward(cast(q), cast(k), cast(v), scale, range, mask);
  }

  static Two encode(const at::Tensor &q, const at::Tensor &k,
                    const at::Tensor &v, double scale, const MaybeTensor &range,
                    const MaybeTensor &mask) {
    c10::impl::ExcludeDispatchKeyGuard below(key);
    return flarec::encode(cast(q), cast(k), cast(v), scale, range, mask);
  }

  static Two decode(const at::Tensor &k, const at::Tensor &q,
                    const at::Tensor &z, double scale, const MaybeTensor &range,
                    const MaybeTensor &mask) {
    c10::impl::ExcludeDispatchKeyGuard below(key);
    return flarec::decode(cast(k), cast(q), wide(z), scale, range, mask);
  }

  static at::Tensor wide(const at::Tensor &t) {
    return at::autocast::cached_cast(at::kFloat, t, device);
  }

  static Two mixerBackwardLatents(const at::Tensor &gradY, const at::Tensor &q,
                                  const at::Tensor &k, const at::Tensor &y,
                                  const at::Tensor &lseDecode, double scale) {
    c10::impl::ExcludeDispatchKeyGuard below(key);
    return flarec::mixerBackwardLatents(cast(gradY), cast(q), cast(k), cast(y),
                                        wide(lseDecode), scale);
  }

  static Three mixerBackwardJoint(const at::Tensor &gradY, const at::Tensor &q,
                                  const at::Tensor &k, const at::Tensor &v,
                                  const at::Tensor &z, const at::Tensor &dz,
                                  const at::Tensor &lseEncode,
                                  const at::Tensor &lseDecode,
                                  const at::Tensor &delta, double scale) {
    c10::impl::ExcludeDispatchKeyGuard below(key);
    return flarec::mixerBackwardJoint(cast(gradY), cast(q), cast(k), cast(v),
                                      wide(z), wide(dz), wide(lseEncode),
                                      wide(lseDecode), wide(delta), scale);
  }

  static void implement(torch::Library &m) {
    m.impl("mixer", TORCH_FN(mixer));
    m.impl("mixer_forward", TORCH_FN(mixerForward));
    m.impl("encode", TORCH_FN(encode));
    m.impl("decode", TORCH_FN(decode));
    m.impl("mixer_backward_latents", TORCH_FN(mixerBackwardLatents));
    m.impl("mixer_backward_joint", TORCH_FN(mixerBackwardJoint));
  }
};

} // namespace
} // namespace flarec::ops

TORCH_LIBRARY_IMPL(flarec, AutocastCPU, m) {
  flarec::ops::Autocast<c10::DeviceType::CPU>::implement(m);
}
TORCH_LIBRARY_IMPL(flarec, AutocastCUDA, m) {
  flarec::ops::Autocast<c10::DeviceType::CUDA>::implement(m);
}
