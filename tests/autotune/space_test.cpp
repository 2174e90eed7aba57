// The space against the compiler: what it proposes is understood, and most of it can be run.
#include "flarec/autotune/model.h"
#include "flarec/autotune/space.h"
#include "flarec/compiler.h"
#include "flarec/error.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

using namespace flarec;
using namespace flarec::autotune;
using testing::HasSubstr;

namespace {

MixerDescription mixer(const char *target, int headDim = 8, int latents = 128, DType dtype = DType::BF16) {
  return {.headDim = headDim, .latents = latents, .dtype = dtype, .gradients = "qkv", .target = target};
}

/// Every proposal of one kind, for each sweep.
std::vector<std::vector<Configuration>> proposals(const MixerDescription &d, Knob::Kind kind) {
  std::vector<std::vector<Configuration>> all;
  for (const SweepFacts &sweep : examine(d).sweeps)
    all.push_back(combinations(d.target, kind, sweep, sweep.heuristic));
  return all;
}

struct Case {
  const char *target;
  int headDim, latents;
  DType dtype;
};
class Space : public testing::TestWithParam<Case> {};

TEST_P(Space, EveryProposalIsUnderstoodAndManyCanBeRun) {
  auto [target, headDim, latents, dtype] = GetParam();
  MixerDescription d = mixer(target, headDim, latents, dtype);
  auto all = proposals(d, Knob::Structure);
  Examination examined = examine(d, examine(d), all);
  for (size_t s = 0; s < all.size(); ++s) {
    ASSERT_EQ(examined.verdicts[s].size(), all[s].size());
    size_t feasible = 0;
    for (const Verdict &v : examined.verdicts[s]) {
      feasible += v.why.empty();
      // A field or value that the attribute does not know is a mistake in space.cpp, not a candidate.
      EXPECT_THAT(v.why, testing::Not(HasSubstr("has no field")));
      EXPECT_THAT(v.why, testing::Not(HasSubstr("makes no configuration: expected")));
    }
    EXPECT_GE(feasible, 12u) << "sweep " << s << " of " << all[s].size();
    EXPECT_TRUE(examined.verdicts[s][0].why.empty()) << "the heuristic's own: " << examined.verdicts[s][0].why;
  }
}

INSTANTIATE_TEST_SUITE_P(All, Space,
                         testing::Values(Case{"host", 8, 64, DType::F32}, Case{"host", 4, 17, DType::BF16}, Case{"sm_90a", 8, 128, DType::BF16},
                                         Case{"sm_90a", 32, 64, DType::F16}, Case{"sm_90a", 8, 512, DType::F32}, Case{"sm_80", 16, 100, DType::BF16}));

TEST(Space, OfTheHostIsMostlyFeasible) {
  MixerDescription d = mixer("host", 8, 64, DType::F32);
  auto all = proposals(d, Knob::Structure);
  Examination examined = examine(d, examine(d), all);
  for (size_t s = 0; s < all.size(); ++s) {
    auto runs = std::count_if(examined.verdicts[s].begin(), examined.verdicts[s].end(), [](const Verdict &v) { return v.why.empty(); });
    EXPECT_GT(2 * size_t(runs), all[s].size()) << s;
  }
}

TEST(Space, HoldsNoDuplicates) {
  for (auto &list : proposals(mixer("sm_90a"), Knob::Detail))
    EXPECT_EQ(std::set<Configuration>(list.begin(), list.end()).size(), list.size());
}

TEST(Space, KnowsTheFieldsOfTheAttribute) {
  // A knob whose field the attribute lacks would silently never be tried.
  for (const char *target : {"host", "sm_90a"})
    for (const SweepFacts &sweep : examine(mixer(target)).sweeps)
      for (const Knob &knob : space(target))
        EXPECT_TRUE(sweep.heuristic.count(knob.field)) << knob.field;
}

TEST(Examining, CountsWhatKernelsDo) {
  Examination e = examine(mixer("sm_90a"));
  ASSERT_EQ(e.sweeps.size(), 4u); // encode, decode, dz, joint
  for (size_t s = 0; s < 4; ++s) {
    const Counts &c = e.counts[e.own[s].counts];
    EXPECT_EQ(c.pairs.at("exponential"), 256) << s << ": one for each of 16 × 16 scores, in the joint sweep too";
    EXPECT_GT(c.pairsOfTile, 0);
    EXPECT_GT(e.own[s].shared, 0);
  }
  // Encode: q·k is 16 × 16 × 8, one k8 product for each 8 columns; z = Σ e·v one k16; row sums by one more.
  const Counts &encode = e.counts[e.own[0].counts];
  EXPECT_EQ(encode.pairs.at("mma8"), 2);
  EXPECT_EQ(encode.pairs.at("mma16"), 2);
  EXPECT_EQ(encode.pairs.at("pack"), 256);
  EXPECT_FALSE(encode.pairs.count("transpose"));
  // The joint sweep turns dx for dq.
  EXPECT_GT(e.counts[e.own[3].counts].pairs.at("transpose"), 0);
  // k and v of 8 channels in 16 bits.
  EXPECT_EQ(e.sweeps[0].read, 32);
  EXPECT_EQ(e.sweeps[0].written, 0);
  EXPECT_EQ(e.sweeps[1].written, 16 + 4);
}

TEST(Examining, LatentsInGlobalMemoryAreCountedApart) {
  MixerDescription d = mixer("sm_90a");
  std::vector<std::vector<Configuration>> candidates(4);
  candidates[1] = {{{"park", "shared"}}, {{"park", "none"}}};
  Examination e = examine(d, examine(d), candidates);
  const Counts &shared = e.counts[e.verdicts[1][0].counts], &none = e.counts[e.verdicts[1][1].counts];
  EXPECT_FALSE(shared.pairs.count("parked"));
  EXPECT_GT(none.pairs.at("parked"), 0);
  auto sharedBytes = [](const Counts &c) { return c.pairs.count("shared") ? c.pairs.at("shared") : 0; };
  EXPECT_EQ(none.pairs.at("parked") + sharedBytes(none), sharedBytes(shared)) << "read from elsewhere, not made again";
  // That costs something.
  Shape shape{.dtype = d.dtype, .headDim = 8, .latents = 128, .heads = 8, .tokens = 1 << 20};
  Machine machine = machineOf("sm_90a", -1);
  auto seconds = [&](const Counts &counts, const char *park) {
    Configuration c = e.sweeps[1].heuristic;
    c["park"] = park;
    return predict(machine, e.sweeps[1], counts, c, shape).seconds;
  };
  EXPECT_GT(seconds(none, "none"), seconds(shared, "shared"));
}

TEST(Examining, OfTheHostHasNoMatrixInstructions) {
  Examination e = examine(mixer("host", 8, 64, DType::F32));
  const Counts &encode = e.counts[e.own[0].counts];
  EXPECT_EQ(encode.pairs.at("fma"), 256 * (8 + 8 + 1));
  EXPECT_FALSE(encode.pairs.count("mma16"));
}

TEST(Examining, SaysWhyACandidateCannotBeRun) {
  MixerDescription d = mixer("sm_90a");
  std::vector<std::vector<Configuration>> candidates(4);
  candidates[0] = {{{"heads", "4096"}}, {{"colour", "red"}}, {{"stages", "1"}}, {}};
  Examination e = examine(d, examine(d), candidates);
  EXPECT_THAT(e.verdicts[0][0].why, HasSubstr("1024"));
  EXPECT_THAT(e.verdicts[0][1].why, HasSubstr("no field 'colour'; there are rows, tile"));
  EXPECT_THAT(e.verdicts[0][2].why, HasSubstr("use 2 to 16"));
  EXPECT_EQ(e.verdicts[0][3].why, "");
  EXPECT_THROW(examine(d, examine(d), {{}, {}}), Error) << "four sweeps";
}

} // namespace
