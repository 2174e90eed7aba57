// What may be chosen for a sweep: the fields of the configuration attribute
// (dialects/tile/TileDialect.td), each with the values worth trying. What of
// them can be run together is for the compiler to say (compiler/passes/Feasible).
#pragma once

#include "flarec/autotune/sweeps.h"

#include <functional>

namespace flarec::autotune {

using Values = std::vector<std::string>;

/// One field. A new one, or a new value of one, is a line in space.cpp.
struct Knob {
  std::string field;
  /// Structure: tried in all combinations. Detail: in all combinations for
  /// those structures that the model likes best. Launch: kernels don't depend
  /// on it, so one compilation serves all its values.
  enum Kind { Structure, Detail, Launch } kind;
  /// May depend on the fields chosen before it.
  std::function<Values(const SweepFacts &, const Configuration &chosen)> values;
};

/// The knobs of a target, in the order in which they are chosen.
const std::vector<Knob> &space(const std::string &target);

/// All combinations of one kind's knobs, each with the other fields as in
/// `base`; the first is `base` itself.
std::vector<Configuration> combinations(const std::string &target,
                                        Knob::Kind kind,
                                        const SweepFacts &facts,
                                        const Configuration &base);

/// What of a configuration its kernels depend on: without fields of a launch.
Configuration kernelsOf(const std::string &target, Configuration configuration);

/// A field as a number; `otherwise` where it is none.
int64_t field(const Configuration &configuration, const char *name,
              int64_t otherwise = 0);

} // namespace flarec::autotune
