// What is tried, and in which order: against the compiler, against the tables that are shipped, and against what was measured
// (recorded/first16-*.json, as bench/first16.py writes it).
#include "flarec/autotune/space.h"
#include "ranking.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>

using namespace flarec;
using namespace flarec::autotune;
using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

namespace {

DType dtypeOf(const std::string &name) { return name == "f32" ? DType::F32 : name == "f16" ? DType::F16 : DType::BF16; }

std::vector<SweepResult> ranked(const std::string &target, int headDim, int latents, DType dtype, size_t candidates = 512) {
  Field field{.description = {.headDim = headDim, .latents = latents, .dtype = dtype, .gradients = "qkv", .target = target},
              .shape = {.dtype = dtype, .headDim = headDim, .latents = latents, .heads = 8, .tokens = target == "host" ? 1 << 14 : 1 << 20},
              .machine = machineOf(target, -1),
              .candidates = candidates,
              .threads = 2};
  return rank(field);
}

const std::vector<SweepResult> &usual() {
  static const std::vector<SweepResult> sweeps = ranked("sm_90a", 8, 128, DType::BF16);
  return sweeps;
}

TEST(Ranking, BeginsWithTheHeuristicsAndHasEachOnce) {
  for (const char *target : {"host", "sm_90a"})
    for (const SweepResult &sweep : ranked(target, 8, 64, DType::F32, 100)) {
      EXPECT_EQ(sweep.candidates.size(), 100u);
      EXPECT_EQ(sweep.candidates[0].configuration, sweep.facts.heuristic);
      std::set<Configuration> all;
      for (const Candidate &c : sweep.candidates) {
        EXPECT_TRUE(all.insert(c.configuration).second);
        EXPECT_GT(c.predicted.seconds, 0);
      }
      EXPECT_LE(sweep.feasible, sweep.combinations);
    }
}

TEST(Ranking, IsTheSameEachTime) {
  auto other = ranked("sm_90a", 8, 128, DType::BF16, 64);
  for (size_t s = 0; s < other.size(); ++s)
    for (size_t i = 0; i < 64; ++i)
      EXPECT_EQ(usual()[s].candidates[i].configuration, other[s].candidates[i].configuration) << s << " " << i;
}

TEST(Ranking, StructuresTakeTurns) {
  for (const SweepResult &sweep : usual()) {
    std::set<Configuration> structures;
    for (size_t i = 1; i <= 8; ++i) {
      Configuration structure;
      for (const char *name : {"heads", "row_groups", "workers", "worker_rows", "column_workers", "tile", "min_blocks"})
        structure[name] = sweep.candidates[i].configuration.at(name);
      structures.insert(structure);
    }
    EXPECT_GE(structures.size(), 4u) << sweep.facts.function << " " << sweep.facts.index;
  }
}

TEST(Ranking, TriesNoStrategyThatMakesNoDifference) {
  // The joint sweep sums no rows.
  for (const Candidate &c : usual().at(3).candidates)
    EXPECT_EQ(c.configuration.at("sums"), "mma");
}

TEST(Ranking, KernelsDoNotDependOnTheirLaunch) {
  Configuration c = {{"tile", "64"}, {"blocks", "264"}};
  EXPECT_EQ(kernelsOf("sm_90a", c), (Configuration{{"tile", "64"}}));
  EXPECT_EQ(kernelsOf("host", c), (Configuration{{"tile", "64"}}));
}

/// A shipped configuration that this compiler refuses is reported to users, who then run the heuristic's.
TEST(ShippedTables, CanBeRun) {
  Database database({}, /*withShipped=*/true);
  for (const Table &table : database.tables())
    for (const Entry &entry : table.entries) {
      const Shape &shape = entry.shape;
      MixerDescription d{.headDim = shape.headDim, .latents = shape.latents, .dtype = shape.dtype, .gradients = "qkv", .target = table.device.target};
      Examination plain = examine(d);
      std::vector<std::vector<Configuration>> candidates;
      for (const SweepFacts &facts : plain.sweeps)
        candidates.push_back({entry.functions.at(facts.function).sweeps.at(facts.index)});
      Examination examined = examine(d, plain, candidates);
      for (size_t s = 0; s < candidates.size(); ++s)
        EXPECT_EQ(examined.verdicts[s][0].why, "") << table.device.name << ", D " << shape.headDim << ", M " << shape.latents << ", sweep " << s;
    }
}

/// Of what was measured, by today's model: the best of the heuristic's and the first 16, over the best of all. Candidates that dropped out were measured
/// too few times to be the best of anything; they were 6 % behind at least.
double lossOfFirst16(const Json &record, const Json &sweep) {
  MixerDescription d{.headDim = record["head_dim"], .latents = record["latents"], .dtype = dtypeOf(record["dtype"]), .gradients = "qkv", .target = record["target"]};
  Shape shape{.dtype = d.dtype, .headDim = d.headDim, .latents = d.latents, .heads = record["heads"], .tokens = record["tokens"]};
  Examination plain = examine(d);
  size_t s = 0;
  while (plain.sweeps[s].function != sweep["function"] || plain.sweeps[s].index != sweep["sweep"])
    ++s;
  auto text = [](const Json &value) { return value.is_string() ? value.get<std::string>() : value.dump(); };
  Configuration heuristic;
  for (auto &[field, value] : sweep["heuristic"].items())
    heuristic[field] = text(value);
  std::vector<std::vector<Configuration>> candidates(plain.sweeps.size());
  std::map<Configuration, double> times;
  double best = 1e9;
  for (const Json &c : sweep["candidates"])
    if (c.contains("ms") && !c.contains("fate"))
      best = std::min(best, c["ms"].get<double>());
  for (const Json &c : sweep["candidates"])
    if (c.contains("ms")) {
      Configuration configuration = heuristic;
      for (auto &[field, value] : c["changes"].items())
        configuration[field] = text(value);
      candidates[s].push_back(configuration);
      times[configuration] = std::max(c["ms"].get<double>(), (c.contains("fate") ? 1.06 : 1) * best);
    }
  Machine machine = machineOf(d.target, -1);
  Examination examined = examine(d, plain, candidates);
  std::vector<Candidate> feasible;
  for (size_t i = 0; i < candidates[s].size(); ++i)
    if (const Verdict &verdict = examined.verdicts[s][i]; verdict.why.empty() && candidates[s][i] != heuristic)
      feasible.push_back({.configuration = candidates[s][i], .predicted = predict(machine, plain.sweeps[s], examined.counts[verdict.counts], candidates[s][i], shape), .fate = {}});
  std::stable_sort(feasible.begin(), feasible.end(), [](const Candidate &a, const Candidate &b) { return a.predicted.seconds < b.predicted.seconds; });
  feasible = tryingOrder(d.target, std::move(feasible));
  double first = times.at(heuristic);
  for (size_t i = 0; i < std::min<size_t>(16, feasible.size()); ++i)
    first = std::min(first, times.at(feasible[i].configuration));
  return first / best;
}

TEST(Recorded, TheFirst16AreNearTheBest) {
  for (auto &file : fs::directory_iterator(RECORDED)) {
    if (!file.path().filename().string().starts_with("first16-"))
      continue;
    for (const Json &record : Json::parse(std::ifstream(file.path())))
      for (const Json &sweep : record["sweeps"])
        EXPECT_LE(lossOfFirst16(record, sweep), 1.02) << file.path().filename() << ": D " << record["head_dim"] << ", M " << record["latents"] << ", " << record["dtype"] << ", "
                                                      << sweep["function"] << ", sweep " << sweep["sweep"];
  }
}

} // namespace
