// What the compiler says of a mixer's sweeps: their configurations by the
// heuristic, which others can be run, and what their kernels do, counted.
#pragma once

#include "flarec/autotune/tables.h"

namespace flarec::autotune {

/// Amounts of work by kind, as compiler/passes/Count.h names them.
using Works = std::map<std::string, double>;

/// A sweep's kernel: one worker's work.
struct Counts {
  Works block, tile, pairs; ///< once; a tile of tokens; a 16 × 16 block of pairs
  double pairsOfTile = 0;   ///< such blocks, of one worker
  double held = 0;          ///< bytes in registers all through
  double partial = 0;       ///< bytes of a split's partial results, a head
  bool merged = false;      ///< another kernel merges them

  bool operator==(const Counts &) const = default;
};

struct SweepFacts {
  std::string function;
  size_t index = 0; ///< within the function
  Configuration heuristic;
  int64_t latents = 0;
  double read = 0, written = 0; ///< bytes a token and head
  int partialSweeps = 1; ///< of the function: those with partial results
};

/// About one candidate.
struct Verdict {
  std::string why; ///< it cannot be run; empty: it can
  size_t counts = 0; ///< index in Examination::counts
  int64_t shared = 0; ///< bytes of shared memory of a block
};

struct Examination {
  std::vector<SweepFacts> sweeps;            ///< of all functions, in order
  std::vector<Verdict> own;                  ///< of the heuristic's
  std::vector<std::vector<Verdict>> verdicts; ///< of each sweep's candidates
  std::vector<Counts> counts;
};

/// Throws Error where the compiler refuses the description.
Examination examine(const MixerDescription &description);
/// The same with candidates for each sweep of `plain`, which is what the first
/// answered; fields that are not given are the heuristic's.
Examination
examine(const MixerDescription &description, const Examination &plain,
        const std::vector<std::vector<Configuration>> &candidates);

} // namespace flarec::autotune
