// Compilations in child processes: a candidate that hangs or crashes the
// compiler costs its time and nothing else.
#pragma once

#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
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
/// that takes longer than `timeout` seconds fails. Ends early when `stop` is
/// asked for.
void compileAll(const std::string &program, int processes, double timeout,
                const std::vector<Job> &jobs,
                const std::function<bool(const Outcome &)> &done,
                std::stop_token stop = {});

/// The same in a thread of its own, so that children have work while outcomes
/// are looked at. Its end ends what is under way.
class Compilation {
public:
  Compilation(std::string program, int processes, double timeout,
              std::vector<Job> jobs);

  /// The next outcome, in the order in which they come; nothing where all were
  /// given, or none comes within so many seconds. Throws what went wrong.
  std::optional<Outcome> next(double seconds);

private:
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<Outcome> outcomes;
  bool finished = false;
  std::exception_ptr failure;
  std::jthread thread; // the last: it uses the others
};

} // namespace flarec::autotune
