// Measurement: candidates in interleaved rounds, sweep by sweep; who is behind
// drops out.
#pragma once

#include "flarec/autotune/tuner.h"
#include "trial.h"

#include <functional>
#include <optional>

namespace flarec::autotune {

class Race {
public:
  /// `cold`: caches hold other things before each run. What is found is written
  /// to `sweeps`.
  Race(Bench &bench, TestBed &bed, std::vector<SweepResult> &sweeps, bool cold)
      : bench(bench), bed(bed), sweeps(sweeps), cold(cold),
        best(sweeps.size(), 1e9), times(sweeps.size(), 0) {}

  /// A sweep's first must be the heuristic's, candidate 0.
  void enter(size_t sweep, size_t candidate, Trial trial);
  /// A look at the one who entered last, while others are still compiled: not a
  /// sample, but who is far behind is out.
  void glance();
  /// Rounds until `late` says that time is up; at least three.
  void run(const std::function<bool()> &late,
           const std::function<void(int round, size_t done, size_t of)> &say);
  /// For each sweep the first of those that the noise does not tell from the
  /// fastest: reruns agree.
  void decide();

  const Trial &trial(size_t sweep, size_t candidate) const;
  /// MHz, of each round.
  const std::vector<int> &clocks() const { return seenClocks; }

private:
  struct Runner {
    size_t sweep, candidate;
    std::optional<Trial> trial; ///< while it is in the race
    std::vector<double> samples;
  };
  double time(const Runner &runner, int times);
  void drop(Runner &runner, const std::string &why);
  void dropThoseBehind(int round);

  Bench &bench;
  TestBed &bed;
  std::vector<SweepResult> &sweeps;
  bool cold;
  std::vector<Runner> runners;
  std::vector<double> best; ///< of each sweep
  std::vector<int> times;   ///< of each sweep: runs of a sample
  std::vector<int> seenClocks;
};

/// The middle one; 0 of none.
double median(std::vector<double> values);

} // namespace flarec::autotune
