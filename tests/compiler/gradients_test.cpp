// The gradient that each op states, against finite differences.
#include "support.h"

using namespace flarec;
using namespace flarec::test;

namespace {

struct Case {
  const char *name, *body; // body: ops that end in `%r`
  const char *result;
};

std::ostream &operator<<(std::ostream &s, const Case &c) { return s << c.name; }

class OpGradient : public testing::TestWithParam<Case> {};

TEST_P(OpGradient, AgreesWithFiniteDifferences) {
  const Case &c = GetParam();
  std::string body = c.body, arguments;
  // Only arguments that the body uses: the others would have no gradient.
  for (auto [n, t] : {std::pair("nd", "!flare.tensor<n, d=4, f32>"), std::pair("nd2", "!flare.tensor<n, d=4, f32>"),
                      std::pair("md", "!flare.tensor<m=3, d=4, f32>"), std::pair("md2", "!flare.tensor<m=3, d=4, f32>"),
                      std::pair("n", "!flare.tensor<n, f32>"), std::pair("m", "!flare.tensor<m=3, f32>"), std::pair("s", "f32")})
    if (body.find(std::string("%") + n + " ") != body.npos || body.find(std::string("%") + n + ",") != body.npos)
      arguments += std::string(arguments.empty() ? "" : ", ") + "%" + n + ": " + t + " {flare.name = \"" + n + "\"}";
  std::string results = c.result;
  bool two = results.find("-> ") == 0;
  std::string types = two ? results.substr(3) : results;
  Program p("func.func @f(" + arguments + ") -> (" + types + ") {\n" + body + "\n  return " + (two ? "%r, %l" : "%r") + " : " + types + "\n}");
  ASSERT_TRUE(p);
  for (bool shared : {false, true}) {
    std::mt19937 rng(7);
    Named a = randomArguments(p.function("f"), {2, 2, 5, shared}, rng, 0.7);
    checkGradients(p.clone(), "f", a, rng);
  }
}

#define ND "!flare.tensor<n, d=4, f32>"
#define MD "!flare.tensor<m=3, d=4, f32>"
#define NN "!flare.tensor<n, f32>"
#define MM "!flare.tensor<m=3, f32>"
#define NM "!flare.tensor<n, m=3, f32>"
#define SCORES "  %x = flare.contract %nd, %md over d : " ND ", " MD "\n"

INSTANTIATE_TEST_SUITE_P(
    Ops, OpGradient,
    testing::Values(
        Case{"encode", "  %r, %l = flare.encode %md, %nd, %nd2 scale %s : " MD ", " ND ", " ND " -> " MD ", " MM, "-> " MD ", " MM},
        Case{"encode_z", "  %r, %l = flare.encode %md, %nd, %nd2 scale %s : " MD ", " ND ", " ND " -> " MD ", " MM, MD},
        Case{"encode_same_keys_and_values", "  %r, %l = flare.encode %md, %nd, %nd scale %s : " MD ", " ND ", " ND " -> " MD ", " MM, MD},
        Case{"encode_lse", "  %z, %r = flare.encode %md, %nd, %nd scale %s : " MD ", " ND ", " ND " -> " MD ", " MM, MM},
        Case{"decode", "  %r, %l = flare.decode %nd, %md, %md2 scale %s : " ND ", " MD ", " MD " -> " ND ", " NN, "-> " ND ", " NN},
        Case{"decode_y", "  %r, %l = flare.decode %nd, %md, %md2 scale %s : " ND ", " MD ", " MD " -> " ND ", " NN, ND},
        Case{"decode_lse", "  %y, %r = flare.decode %nd, %md, %md scale %s : " ND ", " MD ", " MD " -> " ND ", " NN, NN},
        Case{"attend_n", SCORES "  %r, %l = flare.attend %x, %nd2 over n : " NM ", " ND " -> " MD ", " MM, "-> " MD ", " MM},
        Case{"attend_n_out", SCORES "  %r, %l = flare.attend %x, %nd2 over n : " NM ", " ND " -> " MD ", " MM, MD},
        Case{"attend_n_lse", SCORES "  %z, %r = flare.attend %x, %nd over n : " NM ", " ND " -> " MD ", " MM, MM},
        Case{"attend_m", SCORES "  %r, %l = flare.attend %x, %md2 over m : " NM ", " MD " -> " ND ", " NN, "-> " ND ", " NN},
        Case{"attend_m_out", SCORES "  %r, %l = flare.attend %x, %md2 over m : " NM ", " MD " -> " ND ", " NN, ND},
        Case{"attend_m_lse", SCORES "  %y, %r = flare.attend %x, %md over m : " NM ", " MD " -> " ND ", " NN, NN},
        Case{"contract_d", SCORES "  %r = flare.contract %x, %n over n : " NM ", " NN, MM},
        Case{"contract_n", "  %x = flare.mul %m, %n : " MM ", " NN "\n  %r = flare.contract %x, %nd over n : " NM ", " ND, MD},
        Case{"contract_m", SCORES "  %r = flare.contract %md, %x over m : " MD ", " NM, ND},
        Case{"contract_itself", "  %r = flare.contract %nd, %nd over d : " ND ", " ND, NN},
        Case{"contract_pairs", SCORES "  %e = flare.exp2 %x : " NM "\n  %r = flare.contract %x, %e over m : " NM ", " NM, NN},
        Case{"contract_elementwise_over_the_rest", "  %r = flare.contract %nd, %n over n : " ND ", " NN, "!flare.tensor<d=4, f32>"},
        Case{"sum_n", "  %r = flare.sum %nd over n : " ND, "!flare.tensor<d=4, f32>"},
        Case{"sum_d", "  %r = flare.sum %nd over d : " ND, NN},
        Case{"sum_m", SCORES "  %r = flare.sum %x over m : " NM, NN},
        Case{"add_broadcast", "  %r = flare.add %nd, %n : " ND ", " NN, ND},
        Case{"sub_broadcast", "  %r = flare.sub %n, %nd : " NN ", " ND, ND},
        Case{"sub_broadcast_right", "  %r = flare.sub %md, %m : " MD ", " MM, MD},
        Case{"mul_broadcast", "  %r = flare.mul %nd, %n : " ND ", " NN, ND},
        Case{"mul_broadcast_left", "  %r = flare.mul %m, %md : " MM ", " MD, MD},
        Case{"mul_outer", "  %x = flare.mul %n, %m : " NN ", " MM "\n  %r = flare.sum %x over m : " NM, NN},
        Case{"mul_itself", "  %r = flare.mul %nd, %nd : " ND ", " ND, ND},
        Case{"add_itself", "  %r = flare.add %nd, %nd : " ND ", " ND, ND},
        Case{"neg", "  %r = flare.neg %nd : " ND, ND},
        Case{"exp2", "  %r = flare.exp2 %nd : " ND, ND},
        Case{"scale", "  %r = flare.scale %nd by %s : " ND, ND},
        Case{"cast", "  %r = flare.cast %nd : " ND " -> !flare.tensor<n, d=4, bf16>", "!flare.tensor<n, d=4, bf16>"}),
    [](auto &info) { return std::string(info.param.name); });

TEST(Gradients, Mixer) {
  for (const char *type : {"f32", "bf16", "f16"})
    for (bool shared : {false, true}) {
      Program p(mixer(5, 4, type));
      std::mt19937 rng(11);
      Named a = randomArguments(p.function("mixer"), {2, 2, 9, shared}, rng);
      checkGradients(std::move(p), "mixer", a, rng);
    }
}

TEST(Gradients, OfTheTokensThatAreThere) {
  for (auto [range, mask] : {std::pair(true, false), {false, true}, {true, true}})
    for (bool shared : {false, true}) {
      Program p(mixerOfPresent(5, 4, "f32", range, mask));
      std::mt19937 rng(15);
      Named a = randomArguments(p.function("mixer"), {2, 2, 9, shared}, rng);
      p = checkGradients(std::move(p), "mixer", a, rng);
      EXPECT_EQ(p.function("mixer_backward").getNumResults(), 3u); // what there is has no gradient
    }
}

// Both halves with keys of their own (dedicated K projections), and latents that differ too.
TEST(Gradients, MixerWithTwoSetsOfKeysAndLatents) {
  Program p(R"(func.func @f(%q: !flare.tensor<m=3, d=4, f32>, %p: !flare.tensor<m=3, d=4, f32>, %k: !flare.tensor<n, d=4, f32>,
        %c: !flare.tensor<n, d=4, f32>, %v: !flare.tensor<n, d=4, f32>, %s: f32) -> !flare.tensor<n, d=4, f32> {
      %z, %l = flare.encode %q, %k, %v scale %s : !flare.tensor<m=3, d=4, f32>, !flare.tensor<n, d=4, f32>, !flare.tensor<n, d=4, f32>
        -> !flare.tensor<m=3, d=4, f32>, !flare.tensor<m=3, f32>
      %y, %o = flare.decode %c, %p, %z scale %s : !flare.tensor<n, d=4, f32>, !flare.tensor<m=3, d=4, f32>, !flare.tensor<m=3, d=4, f32>
        -> !flare.tensor<n, d=4, f32>, !flare.tensor<n, f32>
      return %y : !flare.tensor<n, d=4, f32>
    })");
  std::mt19937 rng(12);
  Named a = randomArguments(p.function("f"), {}, rng);
  checkGradients(std::move(p), "f", a, rng);
}

// A residual in front and a product behind: y = decode(encode(v + exp2(v)·k))·k + v.
TEST(Gradients, MixerBetweenElementwiseOps) {
  Program p(R"(func.func @f(%q: !flare.tensor<m=3, d=4, f32>, %k: !flare.tensor<n, d=4, f32>, %v: !flare.tensor<n, d=4, f32>, %s: f32)
        -> !flare.tensor<n, d=4, f32> {
      %e = flare.exp2 %v : !flare.tensor<n, d=4, f32>
      %ek = flare.mul %e, %k : !flare.tensor<n, d=4, f32>, !flare.tensor<n, d=4, f32>
      %w = flare.add %v, %ek : !flare.tensor<n, d=4, f32>, !flare.tensor<n, d=4, f32>
      %z, %l = flare.encode %q, %k, %w scale %s : !flare.tensor<m=3, d=4, f32>, !flare.tensor<n, d=4, f32>, !flare.tensor<n, d=4, f32>
        -> !flare.tensor<m=3, d=4, f32>, !flare.tensor<m=3, f32>
      %zn = flare.neg %z : !flare.tensor<m=3, d=4, f32>
      %y, %o = flare.decode %k, %q, %zn scale %s : !flare.tensor<n, d=4, f32>, !flare.tensor<m=3, d=4, f32>, !flare.tensor<m=3, d=4, f32>
        -> !flare.tensor<n, d=4, f32>, !flare.tensor<n, f32>
      %yk = flare.mul %y, %k : !flare.tensor<n, d=4, f32>, !flare.tensor<n, d=4, f32>
      %r = flare.add %yk, %v : !flare.tensor<n, d=4, f32>, !flare.tensor<n, d=4, f32>
      return %r : !flare.tensor<n, d=4, f32>
    })");
  std::mt19937 rng(13);
  Named a = randomArguments(p.function("f"), {}, rng);
  checkGradients(std::move(p), "f", a, rng);
}

TEST(Gradients, AnySubsetOfTheMixers) {
  std::mt19937 rng(14);
  Program source(mixer(5, 4, "bf16"));
  Named a = randomArguments(source.function("mixer"), {}, rng);
  for (std::string wanted : {"q", "k", "v", "q,k", "q,v", "k,v", "q,k,v"}) {
    Program p = checkGradients(source.clone(), "mixer", a, rng, wanted);
    auto f = p.function("mixer_backward");
    ASSERT_TRUE(f) << wanted;
    std::string results;
    for (unsigned i = 0; i < f.getNumResults(); ++i)
      results += (i ? "," : "") + f.getResultAttrOfType<mlir::StringAttr>(i, "flare.name").str().substr(5);
    EXPECT_EQ(results, wanted);
  }
}

TEST(Gradients, WhatIsNotAskedForIsNotComputed) {
  auto contractions = [](const std::string &wanted) {
    Program p(mixer(5, 4, "bf16"));
    EXPECT_TRUE(p.run("flare-differentiate{wanted=" + wanted + "},cse"));
    int n = 0;
    p.function("mixer_backward").walk([&](flare::ContractOp) { ++n; });
    return n;
  };
  EXPECT_EQ(contractions("v"), 3); // scores, which both softmaxes share after cse; dz; dv
  EXPECT_LT(contractions("v"), contractions("k"));
  EXPECT_LT(contractions("k"), contractions("q,k,v"));
}

TEST(Gradients, NoneWantedMakesNoBackward) {
  Program p(mixer(5, 4, "bf16"));
  ASSERT_TRUE(p.run("flare-differentiate{wanted=}"));
  EXPECT_TRUE(p.function("mixer_forward"));
  EXPECT_FALSE(p.function("mixer_backward"));
}

} // namespace
