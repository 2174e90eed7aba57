// Finds the fastest configurations of a mixer's sweeps on a device, by a funnel:
// what can be run → what the model likes → compiled in child processes →
// assembled without spills → right by the dense formulas → measured. Each sweep
// has candidates of its own. Happens where it is called and nowhere else; `flarec
// tune` calls it.
//
//   autotune::TuneOptions options{.headDim = 8, .latents = 128, .dtype = DType::BF16};
//   autotune::TuneResult result = autotune::tune(options);
//   autotune::record(autotune::Database::defaultDirectory(), result.device, result.entry);
//
// A program that links this library and is not `flarec` names one in `program`.
#pragma once

#include "flarec/autotune/model.h"
#include "flarec/autotune/sweeps.h"
#include "flarec/autotune/tables.h"

#include <functional>

namespace flarec::autotune {

/// How far a tuning is.
struct TuneProgress {
  std::string step; ///< "compiling", "measuring", …
  size_t done = 0, of = 0;
  double rate = 0;    ///< a second
  double seconds = 0; ///< since the beginning
  double left = 0;    ///< expected, of the whole
};

struct TuneOptions {
  int headDim = 0, latents = 0;
  DType dtype = DType::BF16;
  int64_t heads = 8;
  int64_t tokens = 0; ///< 0: 2^20 on a GPU, 2^14 on the host
  std::string target = "host";
  int cudaDevice = 0;   ///< of a GPU target
  double budget = 10;   ///< seconds; the last step may go a little beyond
  int processes = 0;    ///< that compile; 0: one a processor
  size_t candidates = 512; ///< of a sweep, at most
  double compileTimeout = 20; ///< seconds, of one candidate
  std::string program{}; ///< flarec; empty: this program, which must have `compile-worker`
  std::function<void(const TuneProgress &)> progress{};
};

/// One candidate for one sweep, and what became of it.
struct Candidate {
  Configuration configuration;
  Prediction predicted;
  double measured = 0; ///< seconds, the median; 0: not measured
  double spread = 0;   ///< of the samples, relative
  int registers = 0, spills = 0; ///< as ptxas reports them; 0 where it did not
  std::string fate;    ///< why it went no further; empty: it was measured to the end
};

struct SweepResult {
  SweepFacts facts;
  size_t combinations = 0; ///< of the space, but for ways to launch one kernel
  size_t feasible = 0;     ///< of those
  size_t compiled = 0;     ///< kernels; each may serve several candidates
  std::vector<Candidate> candidates; ///< the heuristic's first, then as the model ranks them
  size_t chosen = 0;                 ///< index of the fastest, the first within the noise
};

struct TuneResult {
  Device device;
  Machine machine;
  Entry entry;
  std::vector<SweepResult> sweeps;
  double seconds = 0;
};

/// Throws Error where the description is not supported or the target not here.
TuneResult tune(const TuneOptions &options);

/// The first half of it alone: candidates as the model ranks them, the
/// heuristic's first. Needs no device.
TuneResult propose(const TuneOptions &options);

/// One configuration that FLARE's paper and code publish results for.
struct Published {
  const char *name;
  int64_t heads;
  int headDim, latents;
  int64_t tokens;
  DType dtype;
};
const std::vector<Published> &published();

/// The compiler that tuning uses: its version, and the beginning of its build.
std::string compilerName();

/// One file of HTML with plots: predicted against measured, roofline, what each
/// knob is worth.
std::string report(const std::vector<TuneResult> &results);

/// All candidates with what was predicted and measured, as JSON: a list of shapes,
/// each with its sweeps, each with its candidates in the order in which they were
/// tried.
std::string records(const std::vector<TuneResult> &results);

/// The child process of a tuner: jobs on stdin, answers on stdout.
int compileWorker();

} // namespace flarec::autotune
