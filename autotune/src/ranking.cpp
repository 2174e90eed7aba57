#include "ranking.h"

#include "flarec/autotune/space.h"

#include <algorithm>
#include <functional>
#include <future>
#include <iterator>
#include <set>

using namespace flarec;
using namespace flarec::autotune;

namespace {

using Choice = std::pair<std::string, std::string>;    // field and value
using Lists = std::vector<std::vector<Configuration>>; // of each sweep
/// Of each sweep.
struct Ranked {
  std::vector<std::vector<Candidate>> candidates;
  std::vector<size_t> kernels; ///< that differ by more than their launch
};

class Ranking {
public:
  explicit Ranking(const Field &field)
      : field(field), target(field.description.target),
        plain(examine(field.description)) {}

  std::vector<SweepResult> run() {
    size_t count = plain.sweeps.size();
    Lists structures(count), details(count);
    for (size_t s = 0; s < count; ++s)
      structures[s] = combinations(target, Knob::Structure, plain.sweeps[s],
                                   plain.sweeps[s].heuristic);
    Ranked liked = judge(structures);
    std::vector<std::set<Choice>> refused = namesRefused();
    for (size_t s = 0; s < count; ++s) {
      std::set<Configuration> seen;
      for (const Candidate &c : liked.candidates[s]) {
        if (!seen.insert(kernelsOf(target, c.configuration)).second)
          continue;
        if (seen.size() > mostStructures)
          break;
        auto some = combinations(target, Knob::Detail, plain.sweeps[s],
                                 c.configuration);
        std::erase_if(some, [&](const Configuration &c) {
          return usesAny(c, refused[s]);
        });
        details[s].insert(details[s].end(), some.begin(), some.end());
      }
    }
    Ranked all = judge(details);
    std::vector<SweepResult> sweeps(count);
    eachSweep([&](size_t s) {
      SweepResult &sweep = sweeps[s];
      sweep.facts = plain.sweeps[s];
      sweep.combinations = structures[s].size() + details[s].size();
      sweep.feasible = liked.kernels[s] + all.kernels[s];
      // The heuristic's is the first: what others must beat.
      const Configuration &first = plain.sweeps[s].heuristic;
      sweep.candidates.push_back(
          predicted(plain.sweeps[s], plain.counts[plain.own[s].counts], first));
      for (Candidate &c : tryingOrder(target, std::move(all.candidates[s]))) {
        if (sweep.candidates.size() == field.candidates)
          break;
        if (c.configuration != first)
          sweep.candidates.push_back(std::move(c));
      }
    });
    return sweeps;
  }

private:
  /// Of which details are tried.
  static constexpr size_t mostStructures = 32;

  /// body(s) for each, at the same time.
  void eachSweep(const std::function<void(size_t)> &body) const {
    std::vector<std::future<void>> running;
    for (size_t s = 0; s < plain.sweeps.size(); ++s)
      running.push_back(std::async(std::launch::async, body, s));
    for (auto &sweep : running)
      sweep.get();
  }

  static bool usesAny(const Configuration &c, const std::set<Choice> &choices) {
    return std::any_of(choices.begin(), choices.end(),
                       [&](const Choice &choice) {
                         auto it = c.find(choice.first);
                         return it != c.end() && it->second == choice.second;
                       });
  }

  Candidate predicted(const SweepFacts &facts, const Counts &counts,
                      const Configuration &c) const {
    return {.configuration = c,
            .predicted = predict(field.machine, facts, counts, c, field.shape),
            .fate = {}};
  }

  /// Names (of strategies, say) that a sweep cannot have whatever the numbers
  /// are, or that make no difference to it, such as how row sums are made where
  /// there are none: not to be combined with everything.
  std::vector<std::set<Choice>> namesRefused() const {
    Lists proposals(plain.sweeps.size());
    std::vector<std::vector<Choice>> choices(plain.sweeps.size());
    for (size_t s = 0; s < plain.sweeps.size(); ++s)
      for (const Knob &knob : space(target))
        for (const std::string &value :
             knob.values(plain.sweeps[s], plain.sweeps[s].heuristic))
          if (knob.kind == Knob::Detail &&
              autotune::field({{knob.field, value}}, knob.field.c_str(), -1) <
                  0) {
            choices[s].push_back({knob.field, value});
            proposals[s].push_back({{knob.field, value}});
          }
    Examination examined = examine(field.description, plain, proposals);
    std::vector<std::set<Choice>> refused(plain.sweeps.size());
    for (size_t s = 0; s < plain.sweeps.size(); ++s)
      for (size_t i = 0; i < choices[s].size(); ++i) {
        const auto &[name, value] = choices[s][i];
        const Verdict &verdict = examined.verdicts[s][i];
        bool same = name == "sums" &&
                    value != plain.sweeps[s].heuristic.at(name) &&
                    examined.counts[verdict.counts] ==
                        plain.counts[plain.own[s].counts];
        if (!verdict.why.empty() || same)
          refused[s].insert(choices[s][i]);
      }
    return refused;
  }

  /// Those of the proposals that can be run, with each way to launch them, as
  /// the model ranks them. Examined in as many shares as there are threads.
  Ranked judge(const Lists &proposals) const {
    size_t most = 0;
    for (const auto &list : proposals)
      most = std::max(most, list.size());
    size_t shares = std::clamp<size_t>(most / 64, 1, size_t(field.threads));
    std::vector<std::future<Ranked>> running;
    for (size_t share = 0; share < shares; ++share)
      running.push_back(std::async(std::launch::async, [&, share] {
        Lists some;
        for (const auto &list : proposals)
          some.emplace_back(
              list.begin() + ptrdiff_t(list.size() * share / shares),
              list.begin() + ptrdiff_t(list.size() * (share + 1) / shares));
        return feasible(examine(field.description, plain, some), some);
      }));
    Ranked ranked{std::vector<std::vector<Candidate>>(proposals.size()),
                  std::vector<size_t>(proposals.size())};
    for (auto &share : running) {
      Ranked some = share.get();
      for (size_t s = 0; s < proposals.size(); ++s) {
        std::move(some.candidates[s].begin(), some.candidates[s].end(),
                  std::back_inserter(ranked.candidates[s]));
        ranked.kernels[s] += some.kernels[s];
      }
    }
    eachSweep([&](size_t s) {
      std::stable_sort(ranked.candidates[s].begin(), ranked.candidates[s].end(),
                       [](const Candidate &a, const Candidate &b) {
                         return a.predicted.seconds < b.predicted.seconds;
                       });
    });
    return ranked;
  }

  Ranked feasible(const Examination &examined, const Lists &proposals) const {
    Ranked result{std::vector<std::vector<Candidate>>(proposals.size()),
                  std::vector<size_t>(proposals.size())};
    for (size_t s = 0; s < proposals.size(); ++s)
      for (size_t i = 0; i < proposals[s].size(); ++i) {
        const Verdict &verdict = examined.verdicts[s][i];
        if (!verdict.why.empty())
          continue;
        ++result.kernels[s];
        for (const Configuration &c : combinations(
                 target, Knob::Launch, examined.sweeps[s], proposals[s][i]))
          result.candidates[s].push_back(predicted(
              examined.sweeps[s], examined.counts[verdict.counts], c));
      }
    return result;
  }

  const Field &field;
  const std::string &target;
  Examination plain;
};

} // namespace

std::vector<SweepResult> autotune::rank(const Field &field) {
  return Ranking(field).run();
}

std::vector<Candidate> autotune::tryingOrder(const std::string &target,
                                             std::vector<Candidate> ranked) {
  // Near what the model is wrong by. Whole turns take the first 16 for structures
  // that it puts well behind: with them 22 of 25 recorded sweeps have one within
  // 2 % of the best there, with this 23, and with 0.002 to 0.007.
  constexpr double turnCosts = 0.007;
  std::map<Configuration, size_t> taken; // of a structure
  std::vector<std::pair<double, size_t>> order;
  double limit = ranked.empty() ? 0 : 1.3 * ranked.front().predicted.seconds;
  for (size_t i = 0; i < ranked.size(); ++i) {
    Configuration structure;
    for (const Knob &knob : space(target))
      if (knob.kind == Knob::Structure && knob.field != "stages" &&
          knob.field != "park")
        if (auto it = ranked[i].configuration.find(knob.field);
            it != ranked[i].configuration.end())
          structure.insert(*it);
    size_t turn = taken[structure]++;
    double seconds = ranked[i].predicted.seconds;
    order.push_back({seconds * (1 + turnCosts * double(turn)) * (seconds > limit ? 1e6 : 1), i});
  }
  std::stable_sort(order.begin(), order.end());
  std::vector<Candidate> result;
  for (auto [turn, i] : order)
    result.push_back(std::move(ranked[i]));
  return result;
}
