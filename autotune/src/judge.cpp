#include "judge.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

using namespace flarec;
using namespace flarec::autotune;

namespace {

const std::vector<std::string> ofForward = {"y", "z", "lse_encode",
                                            "lse_decode"},
                               ofBackward = {"grad_q", "grad_k", "grad_v"};

bool isForward(const Trial &trial) {
  return trial.function().spec().name == "mixer_forward";
}

const std::vector<double> &valuesOf(const Results &r, const std::string &name) {
  return name == "y"        ? r.y
         : name == "z"      ? r.z
         : name == "grad_q" ? r.gradQ
         : name == "grad_k" ? r.gradK
                            : r.gradV;
}

/// What rounding errors are in proportion to.
const std::vector<double> &sizeOf(const Results &r, const std::string &name) {
  return name == "grad_q"   ? r.sizeQ
         : name == "grad_k" ? r.sizeK
                            : valuesOf(r, name);
}

} // namespace

Judge::Judge(DType dtype, int64_t allHeads, int64_t latents, int64_t channels)
    // Of many latents fewer heads, and more tokens: three tiles mostly.
    : dtype(dtype), heads(std::min<int64_t>(allHeads, latents < 512 ? 4 : 1)) {
  int64_t tokens =
      std::clamp<int64_t>(300000 / (heads * latents), 300, 1500) | 1;
  double big = 40 / std::sqrt(double(channels));
  for (auto [scale, ratio] : {std::pair(1.0, 1.3), std::pair(big, 1.5)}) {
    Check &check = checks.emplace_back();
    check.data =
        randomData(dtype, heads, tokens, latents, channels, float(scale), 17);
    check.truth = exact(check.data);
    check.ratio = ratio;
    Results yardstick = plain(check.data, dtype);
    for (const char *name : {"y", "z", "grad_q", "grad_k", "grad_v"}) {
      check.yardstick[name] =
          difference(valuesOf(yardstick, name), valuesOf(check.truth, name));
      check.size[name] = rms(sizeOf(check.truth, name));
    }
  }
}

void Judge::start(Bench &bench, std::vector<Trial> trials) {
  for (const Trial &trial : trials)
    heuristic.push_back(trial.inOneRange(heads));
  for (Check &check : checks) {
    check.bed.emplace(bench, check.data, dtype, check.data.heads,
                      check.data.tokens);
    run(check, {}, /*forward=*/true);
    for (const char *name : {"y", "z", "grad_q", "grad_k", "grad_v"})
      compare(check, name, /*first=*/true);
  }
}

/// Without the forward its results are those of the run before.
void Judge::run(Check &check, const std::map<size_t, Trial> &instead,
                bool forward) {
  if (forward)
    check.bed->tensors.forget(ofForward);
  check.bed->tensors.forget(ofBackward);
  std::vector<Trial> trials;
  for (size_t s = 0; s < heuristic.size(); ++s) {
    auto it = instead.find(s);
    if (forward || !isForward(heuristic[s]))
      trials.push_back(it == instead.end() ? heuristic[s] : it->second);
  }
  check.bed->run(trials);
}

std::string Judge::compare(Check &check, const std::string &name, bool first) {
  Difference ours = difference(check.bed->tensors.values(name),
                               valuesOf(check.truth, name)),
             other = check.yardstick[name];
  if (first)
    check.heuristic[name] = ours;
  Difference heuristic = check.heuristic[name];
  double unit = dtype == DType::BF16  ? 0x1p-8
                : dtype == DType::F16 ? 0x1p-11
                                      : 0x1p-24;
  // GPU products of f32 are three of TF32; the yardstick's sums are plain f32.
  double floor = 2 * unit * check.size[name];
  // What the heuristic's kernels have is allowed, but not whatever they have:
  // they might be wrong.
  double bound = std::max(check.ratio * other.rms + floor,
                          std::min(1.1 * heuristic.rms, 3 * other.rms + floor));
  double most =
      std::max(2 * other.max + 4 * floor,
               std::min(1.5 * heuristic.max, 6 * other.max + 4 * floor));
  if (ours.rms <= bound && ours.max <= most)
    return "";
  return fmt::format("its {} is off by {:.2e} (rms; allowed {:.2e}), at most "
                     "{:.2e} (allowed {:.2e})",
                     name, ours.rms, bound, ours.max, most);
}

std::string Judge::wrong(const std::map<size_t, Trial> &candidates) {
  // Errors were seen that only a block's second tile has.
  std::map<size_t, Trial> instead;
  for (auto &[sweep, trial] : candidates)
    instead.emplace(sweep, trial.inOneRange(heads));
  bool forward = std::any_of(instead.begin(), instead.end(), [](auto &entry) {
    return isForward(entry.second);
  });
  std::string problem;
  for (Check &check : checks) {
    run(check, instead, forward);
    for (const char *name : {"y", "z", "grad_q", "grad_k", "grad_v"})
      if (problem.empty() && (forward || name[0] == 'g'))
        problem = compare(check, name, /*first=*/false);
  }
  if (forward) // back to the heuristic's, which backwards are judged with
    for (Check &check : checks)
      run(check, {}, true);
  return problem;
}
