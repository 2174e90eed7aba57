#include "race.h"

#include "flarec/error.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

using namespace flarec;
using namespace flarec::autotune;

double autotune::median(std::vector<double> values) {
  if (values.empty())
    return 0;
  auto middle = values.begin() + ptrdiff_t(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

double Race::time(const Runner &runner, int times) {
  return bed.time(*runner.trial, times, cold);
}

void Race::enter(size_t sweep, size_t candidate, Trial trial) {
  runners.push_back({sweep, candidate, std::move(trial), {}});
  if (times[sweep])
    return;
  // As many runs as make two milliseconds, so that a clock's grain is nothing.
  time(runners.back(), 1);
  double once = time(runners.back(), 1);
  times[sweep] = int(std::clamp(2e-3 / std::max(once, 1e-7), 1.0, 50.0));
}

void Race::glance() {
  Runner &runner = runners.back();
  double least = time(runner, 1);
  // The least of several: compilers are at work, and may keep a launch waiting
  // for milliseconds, so one that is far off says nothing, two do.
  int again = times[runner.sweep] > 1 ? 3 : 2;
  for (int i = 0; i < again && (i < 2 || least < 3 * best[runner.sweep]); ++i)
    least = std::min(least, time(runner, std::max(1, times[runner.sweep] / 3)));
  best[runner.sweep] = std::min(best[runner.sweep], least);
  if (runner.candidate && least > 1.5 * best[runner.sweep]) {
    runner.samples.push_back(least);
    drop(runner, "slower, at first sight");
  }
}

void Race::drop(Runner &runner, const std::string &why) {
  runner.trial.reset();
  sweeps[runner.sweep].candidates[runner.candidate].fate = why;
}

void Race::run(const std::function<bool()> &late,
               const std::function<void(int, size_t, size_t)> &say) {
  constexpr int rounds = 25;
  for (int round = 0; round < rounds && !(round >= 3 && late()); ++round) {
    auto alive =
        size_t(std::count_if(runners.begin(), runners.end(),
                             [](const Runner &r) { return bool(r.trial); }));
    size_t done = 0;
    // Forwards and backwards, so that a drift of the clock favours no one.
    for (size_t k = 0; k < runners.size(); ++k) {
      Runner &r = runners[round % 2 ? runners.size() - 1 - k : k];
      if (!r.trial)
        continue;
      if (r.samples.empty())
        time(r, 1); // code and memory are warm from here on
      r.samples.push_back(time(r, times[r.sweep]));
      say(round + 1, ++done, alive);
    }
    seenClocks.push_back(bench.clock());
    dropThoseBehind(round);
  }
}

void Race::dropThoseBehind(int round) {
  double cut = round == 0 ? 1.6 : round < 3 ? 1.25 : round < 6 ? 1.12 : 1.06;
  best.assign(sweeps.size(), 1e9);
  for (Runner &r : runners)
    if (r.trial)
      best[r.sweep] = std::min(best[r.sweep], median(r.samples));
  for (Runner &r : runners)
    if (r.trial && r.candidate && median(r.samples) > cut * best[r.sweep])
      drop(r, fmt::format("slower, after {} rounds", round + 1));
}

void Race::decide() {
  std::vector<double> noise(sweeps.size(), 0.01);
  for (Runner &r : runners) {
    Candidate &candidate = sweeps[r.sweep].candidates[r.candidate];
    candidate.measured = median(r.samples);
    std::vector<double> deviations;
    for (double s : r.samples)
      deviations.push_back(std::abs(s / candidate.measured - 1));
    candidate.spread = median(deviations);
    // A median of n samples is known to 1.25·σ/√n, σ to 1.5 deviations; of two
    // medians, twice.
    if (r.trial)
      noise[r.sweep] =
          std::max(noise[r.sweep], 2 * 1.9 * candidate.spread /
                                       std::sqrt(double(r.samples.size())));
  }
  for (size_t s = 0; s < sweeps.size(); ++s) {
    double fastest = 1e9;
    for (Runner &r : runners)
      if (r.sweep == s && r.trial)
        fastest = std::min(fastest, median(r.samples));
    // The least candidate, whoever entered first: that depends on the weather.
    size_t chosen = SIZE_MAX;
    for (Runner &r : runners)
      if (r.sweep == s && r.trial &&
          median(r.samples) <= fastest * (1 + std::min(noise[s], 0.1)))
        chosen = std::min(chosen, r.candidate);
    sweeps[s].chosen = chosen == SIZE_MAX ? 0 : chosen;
  }
}

const Trial &Race::trial(size_t sweep, size_t candidate) const {
  for (const Runner &r : runners)
    if (r.sweep == sweep && r.candidate == candidate && r.trial)
      return *r.trial;
  throw Error(fmt::format("candidate {} of sweep {} is not in the race",
                          candidate, sweep));
}
