// Can a sweep be run as it is configured? The one place that knows what a configuration must fulfil beyond what its attribute's
// verifier says, which is what holds for any sweep on any target.
#pragma once
#include "flare/Flare.h"
#include "tile/Tile.h"
#include <optional>
#include <string>

namespace flarec {

/// What a GPU gives a block and a multiprocessor.
struct GpuLimits {
  int64_t multiprocessors;
  int64_t sharedPerBlock, sharedPerMultiprocessor; // bytes; each resident block takes 1024 more of the latter
  int64_t threadsPerMultiprocessor = 2048, blocksPerMultiprocessor = 32;
};
/// Nothing for the host and for targets that there are not.
std::optional<GpuLimits> gpuLimits(llvm::StringRef target);
/// host, sm_80, sm_90a or sm_100a?
bool isTarget(llvm::StringRef target);

/// Success if `sweep` can be run as `config` says on `target`: the lowering then obeys every field of it. Otherwise `why` says what
/// was given, what is allowed and what to do.
mlir::LogicalResult feasible(tile::ConfigAttr config, flare::SweepOp sweep, llvm::StringRef target, std::string &why);

/// Dynamic shared memory of a block on a GPU, in bytes: the parked latents and the ring of staged tokens.
int64_t sharedBytes(tile::ConfigAttr config, flare::SweepOp sweep);

/// Which rows a sweep asks for, as what it computes has it; either (none) where only contractions over n decide nothing, and
/// both where no configuration helps.
struct Orientation {
  bool tokens = false;  // makes token values, or contracts pairs over m: rows = n
  bool latents = false; // attends or sums over n: rows = m
};
Orientation orientation(flare::SweepOp sweep);

/// Does the sweep keep accumulators [m,d] beside rows of tokens (rows = n)? On a GPU its columns are then all handled at once.
bool isJoint(tile::ConfigAttr config, flare::SweepOp sweep);

} // namespace flarec
