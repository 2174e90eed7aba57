//===- ops.h - FLARE attention on torch tensors ---------------------------===//
//
// What libflarec_torch.so offers C++ callers. The same functions are
// registered as torch.ops.flarec.mixer, .mixer_forward and .mixer_backward.
//
//   encode  z = softmax over tokens  (scale q k^T) v      [B, H, M, D]
//   decode  y = softmax over latents (scale k q^T) z      [B, H, N, D]
//
//===----------------------------------------------------------------------===//
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <tuple>

namespace flarec {

/// y of the formula above, with gradients. q is `[H, M, D]` (shared by the
/// batch) or `[B, H, M, D]`; k and v are `[B, H, N, D]` and read in place when
/// their last stride is 1. The result is a new `[B, N, H, D]` tensor seen as
/// `[B, H, N, D]`. Throws c10::Error.
__attribute__((visibility("default"))) at::Tensor mixer(const at::Tensor &q,
                                                        const at::Tensor &k,
                                                        const at::Tensor &v,
                                                        double scale = 1.0);

/// y, z and the natural log-sum-exps over tokens `[B, H, M]` and over latents
/// `[B, H, N]`; z and these in float32.
__attribute__((visibility("default")))
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>
mixerForward(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v,
             double scale = 1.0);

/// Gradients for q, k and v of what mixerForward returned as y; those not
/// wanted come back empty.
__attribute__((visibility("default")))
std::tuple<at::Tensor, at::Tensor, at::Tensor>
mixerBackward(const at::Tensor &gradY, const at::Tensor &q, const at::Tensor &k,
              const at::Tensor &v, const at::Tensor &y, const at::Tensor &z,
              const at::Tensor &lseEncode, const at::Tensor &lseDecode,
              double scale = 1.0,
              std::array<bool, 3> wanted = {true, true, true});

} // namespace flarec
