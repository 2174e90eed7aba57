// Whether a candidate's results can be used: against the formulas in fp64, for
// scores that fast bodies take and for some that only safe ones can.
#pragma once

#include "trial.h"

#include <optional>

namespace flarec::autotune {

class Judge {
public:
  /// Makes the references, which takes a while.
  Judge(DType dtype, int64_t allHeads, int64_t latents, int64_t channels);

  /// Puts what is needed on the bench. `heuristic`: the kernels of each sweep
  /// that candidates are put among; what errors they have others may have too.
  void start(Bench &bench, std::vector<Trial> heuristic);

  /// Why these kernels in the places of some of the heuristic's cannot be used;
  /// empty: they can. By sweep, in the order of the heuristic's.
  std::string wrong(const std::map<size_t, Trial> &instead);

private:
  struct Check {
    Data data;
    Results truth;
    std::map<std::string, Difference> yardstick; ///< an attention in the dtype
    std::map<std::string, Difference> heuristic;
    std::map<std::string, double> size; ///< of what cancels, rms
    double ratio = 1;                   ///< to the yardstick's errors
    std::optional<TestBed> bed;
  };
  void run(Check &check, const std::map<size_t, Trial> &instead, bool forward);
  std::string compare(Check &check, const std::string &name, bool first);

  DType dtype;
  int64_t heads;
  std::vector<Check> checks;
  std::vector<Trial> heuristic;
};

} // namespace flarec::autotune
