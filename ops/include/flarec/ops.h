//===- ops.h - FLARE attention on torch tensors ---------------------------===//
//
// What libflarec_torch.so offers C++ callers. The same functions are
// registered as torch.ops.flarec.mixer, .encode, .decode, .merge and, with
// underscores, .mixer_forward, .mixer_backward and so on.
//
//   encode  z[m] = softmax over tokens  (scale q k^T) v      [B, H, M, D]
//   decode  y[n] = softmax over latents (scale k q^T) z      [B, H, N, D]
//
// the paper's equations (encode) and (decode); a mixer is one after the other.
//
// Shapes. q is [H, M, D], shared by the batch, or [B, H, M, D]; what belongs to
// tokens (k, v, y and their gradients) is [B, H, N, D]; z and dz are
// [B, H, M, D]; log-sum-exps, natural, and deltas are [B, H, M] and [B, H, N].
// D is 1 to 128 and M 1 to 4096; B, H and N are any. Without tokens z is
// 0, its log-sum-exp -inf, and all gradients are 0.
//
// DTypes. q, k, v, y and their gradients have one dtype, float32, bfloat16 or float16;
// z, dz, log-sum-exps and deltas are float32 in either case. Under autocast q,
// k and v are cast to autocast's dtype (z to float32); without it mixed dtypes
// are an error. On a GPU products of float32 are made in TF32 where PyTorch's own
// are (torch.backends.cuda.matmul.allow_tf32, asked at each call), else in
// float32's precision. float64 goes through PyTorch's own operators, in O(N M) memory:
// for torch.autograd.gradcheck and for second derivatives.
//
// Layouts. Tensors are read in place, whatever their strides, where the last
// one is 1; others are copied, once in a forward pass and once in its backward
// pass. A q expanded over the batch gets a gradient of each batch, which expand
// then adds up; for [H, M, D] the kernels do. Results of tokens are new [B, N,
// H, D] tensors seen as [B, H, N, D].
//
// Memory. Beside tensors, z and log-sum-exps a call takes a workspace: partial
// results of at most 64 MiB (or of one head, where that is more; see
// docs/artefact.md), and dz of the heads that are launched together.
//
// Errors are c10::Error.
//
//===----------------------------------------------------------------------===//
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <optional>
#include <tuple>

#define FLAREC_API __attribute__((visibility("default")))

namespace flarec {

/// Which tokens there are, where not all: a mask, lengths or both, or
/// cu_seqlens and perhaps a mask.
///
/// What the rows of the others hold does not matter, be it NaN; those of y, and
/// of the gradients for k and v, are 0. A batch without tokens has z = 0
/// and a log-sum-exp of -inf.
struct Tokens {
  /// [B, N], bool or uint8: is the token there? For packed sequences [total].
  std::optional<at::Tensor> mask{};
  /// [B], integers: batch b has tokens 0 to lengths[b] - 1.
  std::optional<at::Tensor> lengths{};
  /// [B + 1], integers: k, v and y are *packed*, [total, H, D], and sequence b
  /// has rows cu_seqlens[b] to cu_seqlens[b + 1] - 1 of them. q is [H, M, D] or
  /// [B, H, M, D] as always. Rows before the first and after the last sequence
  /// are tokens that are not there.
  std::optional<at::Tensor> cuSeqlens{};
};
// On a GPU the values of lengths and cu_seqlens are not looked at, since that
// would wait for the device: those that make no sense are taken as the nearest
// that do. On the CPU they are an error.

/// y of both formulas, with gradients.
FLAREC_API at::Tensor mixer(const at::Tensor &q, const at::Tensor &k,
                            const at::Tensor &v, double scale = 1.0,
                            const Tokens &tokens = {});

//===-- The two halves
//-----------------------------------------------------===//

// `range`, [B, 2] int32, has the first and the end of each batch's tokens: {0,
// length} of padded sequences, {cu_seqlens[b], cu_seqlens[b + 1]} of packed
// ones. Packed ranges must not overlap: a row's gradient is that of one
// sequence. `mask` is as above. Encode may leave out tokens that decode reads.

/// z and its log-sum-exp over tokens `[B, H, M]`, both with gradients.
FLAREC_API std::tuple<at::Tensor, at::Tensor>
encode(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v,
       double scale = 1.0, const std::optional<at::Tensor> &range = {},
       const std::optional<at::Tensor> &mask = {});

/// y and its log-sum-exp over latents `[B, H, N]`, both with gradients. k may
/// be of other tokens than encode saw, and z may be kept and used many times.
/// Of packed sequences the log-sum-exp is [H, total].
FLAREC_API std::tuple<at::Tensor, at::Tensor>
decode(const at::Tensor &k, const at::Tensor &q, const at::Tensor &z,
       double scale = 1.0, const std::optional<at::Tensor> &range = {},
       const std::optional<at::Tensor> &mask = {});

/// What encode would give for all tokens, from what it gave for S parts of
/// them,
/// `[S, B, H, M, D]` and `[S, B, H, M]`, float32 or float64:
///
///   lse = ln Σ_s exp(lse_s)      z = Σ_s exp(lse_s - lse) z_s
///
/// A part without tokens (lse_s = -inf) counts for nothing. With gradients of
/// any order.
FLAREC_API std::tuple<at::Tensor, at::Tensor> merge(const at::Tensor &zParts,
                                                    const at::Tensor &lseParts);

//===-- The backward pass of a mixer whose tokens are in several places
//-----===//

/// First stage: what these tokens add to dz (float32: add it up over all
/// places), and delta[n] = grad_y[n]·y[n] for the second.
FLAREC_API std::tuple<at::Tensor, at::Tensor>
mixerBackwardLatents(const at::Tensor &gradY, const at::Tensor &q,
                     const at::Tensor &k, const at::Tensor &y,
                     const at::Tensor &lseDecode, double scale = 1.0);

/// Second stage, with z, dz and lse_encode of all tokens: gradients for q, k
/// and v. That for q is in float32 and what these tokens add to it: add it up
/// over all places, then convert.
FLAREC_API std::tuple<at::Tensor, at::Tensor, at::Tensor>
mixerBackwardJoint(const at::Tensor &gradY, const at::Tensor &q,
                   const at::Tensor &k, const at::Tensor &v,
                   const at::Tensor &z, const at::Tensor &dz,
                   const at::Tensor &lseEncode, const at::Tensor &lseDecode,
                   const at::Tensor &delta, double scale = 1.0);

//===-- What autograd calls
//------------------------------------------------===//
// Gradients that are not wanted come back empty. None of these can be
// differentiated.

/// y, z and the log-sum-exps over tokens and over latents. Gradients flow
/// through y only. `range`, [B, 2] int32, has the first and the end of each
/// batch's tokens; with it k and v may be packed, and then are y and, as
/// [H, total], lse_decode.
FLAREC_API std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>
mixerForward(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v,
             double scale = 1.0, const std::optional<at::Tensor> &range = {},
             const std::optional<at::Tensor> &mask = {});

/// Gradients for q, k and v of what mixerForward returned as y.
FLAREC_API std::tuple<at::Tensor, at::Tensor, at::Tensor>
mixerBackward(const at::Tensor &gradY, const at::Tensor &q, const at::Tensor &k,
              const at::Tensor &v, const at::Tensor &y, const at::Tensor &z,
              const at::Tensor &lseEncode, const at::Tensor &lseDecode,
              double scale = 1.0,
              std::array<bool, 3> wanted = {true, true, true},
              const std::optional<at::Tensor> &range = {},
              const std::optional<at::Tensor> &mask = {});

/// Gradients for q, k and v of what encode returned.
FLAREC_API std::tuple<at::Tensor, at::Tensor, at::Tensor>
encodeBackward(const at::Tensor &gradZ, const at::Tensor &gradLse,
               const at::Tensor &q, const at::Tensor &k, const at::Tensor &v,
               const at::Tensor &z, const at::Tensor &lse, double scale = 1.0,
               std::array<bool, 3> wanted = {true, true, true},
               const std::optional<at::Tensor> &range = {},
               const std::optional<at::Tensor> &mask = {});

/// Gradients for k, q and z of what decode returned.
FLAREC_API std::tuple<at::Tensor, at::Tensor, at::Tensor>
decodeBackward(const at::Tensor &gradY, const at::Tensor &gradLse,
               const at::Tensor &k, const at::Tensor &q, const at::Tensor &z,
               const at::Tensor &y, const at::Tensor &lse, double scale = 1.0,
               std::array<bool, 3> wanted = {true, true, true},
               const std::optional<at::Tensor> &range = {},
               const std::optional<at::Tensor> &mask = {});

} // namespace flarec

#undef FLAREC_API
