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
    return flarec::decode(cast(k), cast(q),
                          at::autocast::cached_cast(at::kFloat, z, device),
                          scale, range, mask);
  }

  static void implement(torch::Library &m) {
    m.impl("mixer", TORCH_FN(mixer));
    m.impl("mixer_forward", TORCH_FN(mixerForward));
    m.impl("encode", TORCH_FN(encode));
    m.impl("decode", TORCH_FN(decode));
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
