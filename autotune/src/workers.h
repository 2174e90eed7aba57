// Compilations in child processes: a candidate that hangs or crashes the
// compiler costs its time and nothing else.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace flarec::autotune {

struct Job {
  std::string request;
  std::string output; ///< the artefact's file
  std::string target; ///< of a GPU: assembled too, where there is a ptxas
};

struct Outcome {
  size_t job = 0;
  std::string failure; ///< empty: the artefact is there
  double seconds = 0;
  /// As flarec_assemble reports it, a list; empty where nothing was assembled.
  std::string assembly;
};

/// Runs jobs in `processes` children of `program compile-worker`, in order;
/// `done` is called in this thread for each, and says whether to go on. A job
/// that takes longer than `timeout` seconds fails.
void compileAll(const std::string &program, int processes, double timeout,
                const std::vector<Job> &jobs,
                const std::function<bool(const Outcome &)> &done);

} // namespace flarec::autotune
