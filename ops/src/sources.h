//===- sources.h - what the ops ask the compiler for ----------------------===//
//
// The functions of the flare dialect behind the ops that are not a mixer, as
// MLIR text. encode and decode are differentiated by the compiler; the two
// stages of a mixer's backward pass are written here, because between them the
// caller adds up what tokens elsewhere contribute.
//
//===----------------------------------------------------------------------===//
#pragma once

#include <cstdint>
#include <string>

namespace flarec::ops {

enum class Stage { Encode, Decode, BackwardLatents, BackwardJoint };

/// The name of a stage's function.
std::string nameOf(Stage stage);

/// `type`: of tokens and q in memory, "f32" or "bf16". `ragged`, `masked`: encode
/// and decode have a range of each batch's tokens, a mask.
std::string sourceOf(Stage stage, int64_t headDim, int64_t latents,
                     const std::string &type, bool ragged, bool masked);

} // namespace flarec::ops
