// The model: what must hold of any, and how it ranks what was measured.
#include "flarec/autotune/model.h"
#include "flarec/autotune/space.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <fstream>

using namespace flarec;
using namespace flarec::autotune;

namespace {

MixerDescription mixer(const char *target, int headDim, int latents, DType dtype) {
  return {.headDim = headDim, .latents = latents, .dtype = dtype, .gradients = "qkv", .target = target};
}

Shape shapeOf(const MixerDescription &d, int64_t heads, int64_t tokens) {
  return {.dtype = d.dtype, .headDim = d.headDim, .latents = d.latents, .heads = heads, .tokens = tokens};
}

Machine h100() {
  Machine m = machineOf("sm_90a", -1);
  m.processors = 132;
  return m;
}

/// The heuristic's configurations of a mixer, predicted: seconds of each sweep.
std::vector<double> predicted(const Machine &machine, const MixerDescription &d, int64_t heads, int64_t tokens, const Configuration &changes = {}) {
  Examination e = examine(d);
  std::vector<double> all;
  for (size_t s = 0; s < e.sweeps.size(); ++s) {
    Configuration c = e.sweeps[s].heuristic;
    for (auto &[field, value] : changes)
      c[field] = value;
    all.push_back(predict(machine, e.sweeps[s], e.counts[e.own[s].counts], c, shapeOf(d, heads, tokens)).seconds);
  }
  return all;
}

double sum(const std::vector<double> &list, size_t from, size_t to) {
  double total = 0;
  for (size_t i = from; i < to; ++i)
    total += list[i];
  return total;
}

nlohmann::json recorded() { return nlohmann::json::parse(std::ifstream(RECORDED "/sweeps.json")); }

DType dtypeOf(const std::string &name) { return name == "f32" ? DType::F32 : name == "f16" ? DType::F16 : DType::BF16; }

/// Pairs that the two lists order differently, of those that differ by more than a tenth in the first.
int disorder(const std::vector<double> &measured, const std::vector<double> &predictions) {
  int wrong = 0;
  for (size_t i = 0; i < measured.size(); ++i)
    for (size_t j = 0; j < i; ++j)
      wrong += std::abs(std::log(measured[i] / measured[j])) > 0.1 && (measured[i] < measured[j]) != (predictions[i] < predictions[j]);
  return wrong;
}

class Monotonic : public testing::TestWithParam<const char *> {};

TEST_P(Monotonic, MoreWorkTakesLonger) {
  bool host = std::string(GetParam()) == "host";
  Machine machine = host ? machineOf("host", -1) : h100();
  DType dtype = host ? DType::F32 : DType::BF16;
  auto all = [&](int d, int m, int64_t h, int64_t n) {
    auto list = predicted(machine, mixer(GetParam(), d, m, dtype), h, n);
    return sum(list, 0, list.size());
  };
  double base = all(8, 64, 8, 1 << 17);
  EXPECT_GT(all(8, 128, 8, 1 << 17), 1.3 * base);
  EXPECT_GT(all(8, 64, 16, 1 << 17), 1.5 * base);
  EXPECT_GT(all(8, 64, 8, 1 << 18), 1.5 * base);
  EXPECT_GT(all(16, 64, 8, 1 << 17), 1.1 * base);
  // Linear in N where N is large.
  double slope = all(8, 64, 8, 1 << 22) / all(8, 64, 8, 1 << 21);
  EXPECT_NEAR(slope, 2, 0.15);
}
INSTANTIATE_TEST_SUITE_P(Targets, Monotonic, testing::Values("host", "sm_90a"));

TEST(Model, NoSweepBeatsItsBounds) {
  Machine machine = h100();
  MixerDescription d = mixer("sm_90a", 8, 128, DType::BF16);
  Examination e = examine(d);
  for (size_t s = 0; s < e.sweeps.size(); ++s) {
    Prediction p = predict(machine, e.sweeps[s], e.counts[e.own[s].counts], e.sweeps[s].heuristic, shapeOf(d, 8, 1 << 20));
    EXPECT_GE(p.seconds, p.bytes / machine.bandwidth);
    // Sixteen exponentials a cycle and multiprocessor.
    EXPECT_GE(p.seconds, p.scores / (machine.processors * 16 * machine.clock));
    EXPECT_EQ(p.scores, 8.0 * 128 * (1 << 20));
  }
}

TEST(Model, SeesIdleProcessors) {
  Machine machine = h100();
  MixerDescription d = mixer("sm_90a", 8, 128, DType::BF16);
  Examination e = examine(d);
  auto with = [&](const char *blocks) {
    Configuration c = e.sweeps[0].heuristic;
    c["blocks"] = blocks;
    return predict(machine, e.sweeps[0], e.counts[e.own[0].counts], c, shapeOf(d, 8, 1 << 20)).seconds;
  };
  EXPECT_GT(with("16"), 3 * with("264"));
  EXPECT_GT(with("300"), 1.15 * with("264")) << "a second round for a few";
}

TEST(Recorded, SweepsAreRankedAndWithinALimit) {
  // What was measured had all exponentials on MUFU.
  std::vector<double> all = predicted(h100(), mixer("sm_90a", 8, 128, DType::BF16), 8, 1 << 20, {{"exp", "mufu"}}), measured, predictions;
  for (auto &row : recorded()["sweeps"]) {
    measured.push_back(row["ms"]);
    predictions.push_back(1e3 * all[(row["function"] == "mixer_backward" ? 2 : 0) + row["sweep"].get<size_t>()]);
    EXPECT_LT(std::abs(std::log(measured.back() / predictions.back())), std::log(1.6)) << row << " predicted " << predictions.back();
  }
  EXPECT_EQ(disorder(measured, predictions), 0);
}

TEST(Recorded, MixersAreRanked) {
  std::vector<double> forward, both, forwardPredicted, bothPredicted;
  for (auto &row : recorded()["functions"]) {
    auto list = predicted(h100(), mixer("sm_90a", row["head_dim"], row["latents"], dtypeOf(row["dtype"])), row["heads"], row["tokens"], {{"exp", "mufu"}});
    forward.push_back(row["forward"]);
    both.push_back(row["both"]);
    forwardPredicted.push_back(1e3 * sum(list, 0, 2));
    bothPredicted.push_back(1e3 * sum(list, 0, list.size()));
    RecordProperty(row.dump(), std::to_string(forwardPredicted.back()) + " " + std::to_string(bothPredicted.back()));
    EXPECT_LT(std::abs(std::log(forward.back() / forwardPredicted.back())), std::log(2)) << row << " predicted " << forwardPredicted.back();
    EXPECT_LT(std::abs(std::log(both.back() / bothPredicted.back())), std::log(2.2)) << row << " predicted " << bothPredicted.back();
  }
  EXPECT_LE(disorder(forward, forwardPredicted), 2) << "of 28";
  EXPECT_LE(disorder(both, bothPredicted), 3) << "of 28";
}

TEST(Recorded, StrategiesAreRanked) {
  std::vector<double> measured, predictions;
  for (auto &row : recorded()["strategies"]) {
    measured.push_back(row["relative"]);
    predictions.push_back(predicted(h100(), mixer("sm_90a", 8, 128, DType::BF16), 8, 1 << 20, {{"exp", row["exp"]}})[0]);
  }
  EXPECT_EQ(disorder(measured, predictions), 0);
  for (size_t i = 1; i < measured.size(); ++i)
    EXPECT_NEAR(predictions[i] / predictions[0], measured[i], 0.15) << i;
  // The optimum lies inside: all of them on the FMA pipe is slower than a part.
  auto with = [](const char *exp) { return predicted(h100(), mixer("sm_90a", 8, 128, DType::BF16), 8, 1 << 20, {{"exp", exp}})[0]; };
  EXPECT_LT(with("bits:8"), with("bits:16"));
  EXPECT_LT(with("bits:8"), with("bits:2"));
  EXPECT_LT(with("poly3:5"), with("poly3:14"));
}

} // namespace
