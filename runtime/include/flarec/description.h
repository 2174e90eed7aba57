// What can be asked of the compiler, and the canonical text of it:
// docs/artefact.md, section 4.
#pragma once

#include "flarec/manifest.h"

#include <string>

namespace flarec {

constexpr int maxHeadDim = 128, maxLatents = 4096;

/// FLARE's attention through latents, forward and the gradients asked for.
struct MixerDescription {
  int headDim = 0;          ///< 1 to maxHeadDim
  int latents = 0;          ///< 1 to maxLatents
  DType dtype = DType::F32; ///< f32, bf16 or f16
  std::string gradients; ///< of "qkv"; empty: "mixer_forward" alone, otherwise
                         ///< "mixer_backward" too
  std::string target;    ///< "host", "sm_80", "sm_90a", "sm_100a"
  std::string configuration{}; ///< empty: the shipped table or the heuristic
  bool tf32 = false; ///< f32 on a GPU: products in TF32, not in f32's precision
  bool ragged = false; ///< each batch has a range of the tokens
  bool masked = false; ///< a mask says which tokens there are

  bool operator==(const MixerDescription &) const = default;
};

/// The request for a mixer. Throws Error unless the description is one that is
/// supported. The order of `gradients` does not matter.
std::string request(const MixerDescription &description);

/// The request for any function of the flare dialect, as MLIR text. With
/// `gradients` (names of arguments, separated by commas, or "*") each becomes
/// `…_forward` and `…_backward`. `tf32`: as of a mixer.
std::string request(const std::string &source, const std::string &target,
                    const std::string &gradients = "", bool tf32 = false);

} // namespace flarec
