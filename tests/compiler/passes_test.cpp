// A function means the same before and after every pass: in fp64, both regions of a sweep.
#include "support.h"

using namespace flarec;
using namespace flarec::test;

namespace {

const char *const passes[] = {"flare-expand", "flare-to-base-2", "flare-simplify", "flare-plan-sweeps", "flare-share-exponentials"};

/// Runs the passes one by one and compares the results of `names` after each.
void checkPasses(Program p, const std::vector<std::string> &names, const Named &values, const std::string &planOptions = "",
                 double tolerance = 1e-11) {
  std::map<std::string, Named> before;
  for (auto &n : names)
    before[n] = p.evaluate(n, values);
  for (std::string pass : passes) {
    std::string text = p.text();
    if (!p.run(pass + (pass == "flare-plan-sweeps" ? planOptions : "")))
      return;
    for (auto &n : names)
      for (bool safe : {false, true}) {
        Named after = p.evaluate(n, values, {safe, false});
        for (auto &[name, a] : before[n])
          EXPECT_LT(difference(after[name], a), tolerance)
              << name << " of @" << n << " after " << pass << (safe ? ", safe bodies" : ", fast bodies") << "\n"
              << text << p.text();
      }
    if (testing::Test::HasFailure())
      return;
  }
}

/// Differentiates, and prepares what the backward takes.
Named prepare(Program &p, const std::string &name, const std::string &wanted, const Sizes &sizes, double deviation = 1.0) {
  std::mt19937 rng(5);
  Named a = randomArguments(p.function(name), sizes, rng, deviation);
  EXPECT_TRUE(p.run("flare-differentiate{wanted=" + wanted + "}"));
  return backwardArguments(p, name, a, rng);
}

TEST(Passes, MixerMeansTheSame) {
  for (const char *type : {"bf16", "f32"})
    for (bool shared : {false, true}) {
      Program p(mixer(5, 4, type));
      Named v = prepare(p, "mixer", "*", {2, 2, 9, shared});
      checkPasses(std::move(p), {"mixer_forward", "mixer_backward"}, v);
    }
}

TEST(Passes, MixerMeansTheSameForEveryGradient) {
  for (std::string wanted : {"q", "k", "v", "q,k", "q,v", "k,v"})
    for (std::string options : {"", "{joint-limit=1}"}) {
      Program p(mixer(5, 4, "bf16"));
      Named v = prepare(p, "mixer", wanted, {});
      checkPasses(std::move(p), {"mixer_forward", "mixer_backward"}, v, options);
    }
}

TEST(Passes, MixerMeansTheSameWithASweepForDqAlone) {
  Program p(mixer(5, 4, "bf16"));
  Named v = prepare(p, "mixer", "*", {});
  checkPasses(std::move(p), {"mixer_forward", "mixer_backward"}, v, "{joint-limit=1}");
}

TEST(Passes, HalvesMeanTheSame) {
  for (const char *type : {"bf16", "f32"}) {
    Program e(encodeAlone(5, 4, type)), d(decodeAlone(5, 4, type));
    Named ve = prepare(e, "encode", "*", {}), vd = prepare(d, "decode", "*", {});
    checkPasses(std::move(e), {"encode_forward", "encode_backward"}, ve);
    checkPasses(std::move(d), {"decode_forward", "decode_backward"}, vd);
  }
}

// With one token, one latent.
TEST(Passes, SmallestMixerMeansTheSame) {
  Program p(mixer(1, 4, "f32"));
  Named v = prepare(p, "mixer", "*", {1, 1, 1});
  checkPasses(std::move(p), {"mixer_forward", "mixer_backward"}, v);
}

// The fast bodies are only for small scores. With large ones 2^x overflows there, while the safe bodies stay right.
TEST(Passes, SafeBodiesAreRightForLargeScores) {
  Program p(mixer(5, 4, "bf16"));
  Named v = prepare(p, "mixer", "*", {}, 30.0);
  Named before = p.evaluate("mixer_backward", v);
  ASSERT_TRUE(p.run("flare-expand,flare-to-base-2,flare-simplify,flare-plan-sweeps,flare-share-exponentials"));
  Named safe = p.evaluate("mixer_backward", v, {true, false}), fast = p.evaluate("mixer_backward", v);
  for (auto &[name, a] : before)
    EXPECT_LT(difference(safe[name], a), 1e-9) << name;
  EXPECT_GT(difference(fast["grad_k"], before["grad_k"]), 1e-9); // else the test tests nothing
}

TEST(Passes, NoTokens) {
  Program p(mixer(5, 4, "bf16"));
  std::mt19937 rng(5);
  Named a = randomArguments(p.function("mixer"), {2, 1, 0}, rng);
  ASSERT_TRUE(p.run("flare-differentiate"));
  Named v = backwardArguments(p, "mixer", a, rng);
  Array dq = p.evaluate("mixer_backward", v)["grad_q"];
  for (double g : dq.data)
    EXPECT_EQ(g, 0);
  checkPasses(std::move(p), {"mixer_forward"}, v);
}

} // namespace
