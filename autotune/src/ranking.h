// Which candidates there are for each sweep of a mixer, and in which order they
// are tried: what can be run, as the model likes it.
#pragma once

#include "flarec/autotune/tuner.h"

namespace flarec::autotune {

struct Field {
  MixerDescription description;
  Shape shape;
  Machine machine;
  size_t candidates = 512; ///< of a sweep, at most
  int threads = 1;         ///< that ask the compiler
};

/// Of each sweep its candidates, the heuristic's first.
std::vector<SweepResult> rank(const Field &field);

/// `ranked` by what is predicted, in the order in which to try them: each further
/// one of a structure counts as a little slower than it is expected to be, since
/// the model hardly tells details of a structure apart. What it expects to be far
/// slower comes last.
std::vector<Candidate> tryingOrder(const std::string &target,
                                   std::vector<Candidate> ranked);

} // namespace flarec::autotune
