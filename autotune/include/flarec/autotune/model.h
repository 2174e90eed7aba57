// How long a sweep takes, predicted from what its kernel does.
//
// On a GPU tensor and ordinary instructions share the issue slots and add up;
// exponentials (MUFU) and memory overlap with them (measured: an m16n8k16 takes
// 6 slots, an m16n8k8 4; docs/architecture.md, section 10). On the host everything
// is vector instructions on two ports, and latency where too few columns are
// under way at once.
#pragma once

#include "flarec/autotune/sweeps.h"

namespace flarec::autotune {

/// What a model knows of a device.
struct Machine {
  std::string target;
  double processors = 1;  ///< multiprocessors, or threads
  double clock = 1e9;     ///< Hz under such loads
  double bandwidth = 1e9; ///< bytes a second, of all
  double launch = 0;      ///< seconds a kernel
  double lanes = 16;      ///< host: f32 in a vector
};

/// Of a device here; with a target that is not here (another GPU's, say): of its
/// typical device.
Machine machineOf(const std::string &target, int cudaDevice);

struct Prediction {
  double seconds = 0;
  /// Its parts as if each were alone: "exponentials", "issue slots", "memory",
  /// "parked" (latents that lie in global memory), "launches"; host: "vectors",
  /// "memory".
  std::map<std::string, double> parts;
  double registers = 0; ///< GPU: expected of a lane
  double scores = 0;    ///< pairs of tokens and latents, all heads
  double bytes = 0;     ///< of global memory
};

/// Of one sweep with its merge. `batch`: of the tokens given, how many batches.
Prediction predict(const Machine &machine, const SweepFacts &facts,
                   const Counts &counts, const Configuration &configuration,
                   const Shape &shape);

} // namespace flarec::autotune
