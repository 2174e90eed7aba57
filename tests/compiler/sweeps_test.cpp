// What the planner finds, counted in the IR: sweeps, tokens read and written, exponentials a score.
#include "support.h"

using namespace flarec;
using namespace flarec::test;

namespace {

struct Sweep {
  int reads, writes, reductions, exponentials, safeExponentials;
  bool operator==(const Sweep &) const = default;
};
std::ostream &operator<<(std::ostream &s, const Sweep &x) {
  return s << "{reads " << x.reads << ", writes " << x.writes << ", reductions " << x.reductions << ", exponentials " << x.exponentials
           << ", safe " << x.safeExponentials << "}";
}

/// Exponentials a score: exp2 of a pair value, and one for each attend.
int exponentials(mlir::Region &r) {
  int n = 0;
  r.walk([&](mlir::Operation *op) {
    if (auto e = llvm::dyn_cast<flare::Exp2Op>(op))
      n += e.getOut().getType().isPair();
    n += llvm::isa<flare::AttendOp>(op);
  });
  return n;
}

std::vector<Sweep> sweepsOf(mlir::func::FuncOp f) {
  std::vector<Sweep> list;
  f.walk([&](flare::SweepOp s) {
    llvm::SetVector<mlir::Value> read;
    s.getFast().walk([&](mlir::Operation *op) {
      for (mlir::Value v : op->getOperands()) {
        auto t = llvm::dyn_cast<flare::FlareTensorType>(v.getType());
        if (t && t.getTokens() && v.getParentRegion() != &s.getFast())
          read.insert(v);
      }
    });
    Sweep r{int(read.size()), 0, 0, exponentials(s.getFast()), s.hasSafeBody() ? exponentials(s.getSafe().front()) : 0};
    for (mlir::Value v : s.getResults())
      (llvm::cast<flare::FlareTensorType>(v.getType()).getTokens() ? r.writes : r.reductions)++;
    list.push_back(r);
  });
  return list;
}

Program planned(const std::string &text, const std::string &wanted, const std::string &planOptions = "") {
  Program p(text);
  EXPECT_TRUE(p.run("flare-differentiate{wanted=" + wanted + "},flare-expand,flare-to-base-2,flare-simplify,flare-plan-sweeps" +
                    planOptions + ",flare-share-exponentials"));
  return p;
}

using Plan = std::vector<Sweep>;

TEST(Sweeps, MixerForward) {
  Program p = planned(mixer(32, 8, "bf16"), "");
  // k, v → z, l;  k → y, lse
  EXPECT_EQ(sweepsOf(p.function("mixer_forward")), (Plan{{2, 0, 2, 1, 0}, {1, 2, 0, 1, 0}}));
}

TEST(Sweeps, MixerBackward) {
  Program p = planned(mixer(32, 8, "bf16"), "*");
  // k, g, lse → dz;  k, v, g, y, lse → dk, dv and dq with one exponential for both softmaxes, two in the safe body
  EXPECT_EQ(sweepsOf(p.function("mixer_backward")), (Plan{{3, 0, 1, 1, 0}, {5, 2, 1, 1, 2}}));
}

TEST(Sweeps, FourExponentialsAScoreInAll) {
  Program p = planned(mixer(32, 8, "bf16"), "*");
  int n = 0;
  for (const char *f : {"mixer_forward", "mixer_backward"})
    for (const Sweep &s : sweepsOf(p.function(f)))
      n += s.exponentials;
  EXPECT_EQ(n, 4);
}

TEST(Sweeps, EncodeAlone) {
  Program p = planned(encodeAlone(32, 8, "bf16"), "*");
  EXPECT_EQ(sweepsOf(p.function("encode_forward")), (Plan{{2, 0, 2, 1, 0}}));
  // k, v → dk, dv and dq
  EXPECT_EQ(sweepsOf(p.function("encode_backward")), (Plan{{2, 2, 1, 1, 0}}));
}

TEST(Sweeps, DecodeAlone) {
  Program p = planned(decodeAlone(32, 8, "bf16"), "*");
  EXPECT_EQ(sweepsOf(p.function("decode_forward")), (Plan{{1, 2, 0, 1, 0}}));
  // k, g, y, lse → dk, and dq and dz
  EXPECT_EQ(sweepsOf(p.function("decode_backward")), (Plan{{4, 1, 2, 1, 0}}));
}

TEST(Sweeps, TooManyAccumulatorsGetASweepOfTheirOwn) {
  // 512 · 32 elements of dq do not fit beside dk and dv, not even shared out among workers; 256 · 32 do, and 128 · 32 of f16.
  Program p = planned(mixer(512, 32, "bf16"), "*");
  EXPECT_EQ(sweepsOf(p.function("mixer_backward")), (Plan{{3, 0, 1, 1, 0}, {5, 3, 0, 1, 2}, {5, 0, 1, 1, 2}})); // Σ_d dy·y is stored for dq
  for (auto [m, type, sweeps] : {std::tuple(256, "bf16", 2u), {256, "f16", 3u}, {128, "f16", 2u}, {128, "f32", 3u}}) {
    p = planned(mixer(m, 32, type), "*");
    EXPECT_EQ(sweepsOf(p.function("mixer_backward")).size(), sweeps) << m << type;
  }
  // 33 blocks of 16 latents have no equal shares.
  p = planned(mixer(528, 8, "bf16"), "*");
  EXPECT_EQ(sweepsOf(p.function("mixer_backward")).size(), 3u);
  // The same by option, two workers having 128 each, and without dq there is nothing to split.
  p = planned(mixer(32, 8, "bf16"), "*", "{joint-limit=127}");
  EXPECT_EQ(sweepsOf(p.function("mixer_backward")).size(), 3u);
  p = planned(mixer(32, 8, "bf16"), "*", "{joint-limit=128}");
  EXPECT_EQ(sweepsOf(p.function("mixer_backward")).size(), 2u);
  p = planned(mixer(512, 32, "bf16"), "k,v");
  EXPECT_EQ(sweepsOf(p.function("mixer_backward")).size(), 2u);
}

TEST(Sweeps, RowsThatRegistersDoNotHoldGetASweepEach) {
  auto plan = [](int m, int d, const std::string &type) {
    Program p = planned(mixer(m, d, type), "*");
    std::vector<std::pair<int, int>> writes; // token values and reductions of each sweep
    for (const Sweep &s : sweepsOf(p.function("mixer_backward")))
      writes.push_back({s.writes, s.reductions});
    return writes;
  };
  // dz; dk, dv and Σ_d dy·y; dq. dk and dv of 16 tokens are 128 registers a lane at 128 channels.
  decltype(plan(1, 1, "")) together = {{0, 1}, {3, 0}, {0, 1}}, apart = {{0, 1}, {2, 0}, {1, 0}, {0, 1}};
  EXPECT_EQ(plan(128, 95, "bf16"), together);
  EXPECT_EQ(plan(128, 96, "bf16"), apart);
  // Operands of f16 and f32 take twice the registers.
  for (const char *type : {"f16", "f32"}) {
    EXPECT_EQ(plan(128, 63, type), together) << type;
    EXPECT_EQ(plan(128, 64, type), apart) << type;
  }
  // However many latents: workers, row groups and loops over columns share those out.
  for (int m : {64, 1024, 4096})
    EXPECT_EQ(plan(m, 64, "bf16"), together) << m;
}

TEST(Sweeps, EachSubsetOfTheGradients) {
  auto plan = [](const std::string &wanted) {
    Program p = planned(mixer(32, 8, "bf16"), wanted);
    return sweepsOf(p.function("mixer_backward"));
  };
  EXPECT_EQ(plan("v"), (Plan{{3, 0, 1, 1, 0}, {1, 1, 0, 1, 0}}));   // dv needs k alone: one softmax
  EXPECT_EQ(plan("k"), (Plan{{3, 0, 1, 1, 0}, {5, 1, 0, 1, 2}}));
  EXPECT_EQ(plan("q"), (Plan{{3, 0, 1, 1, 0}, {5, 0, 1, 1, 2}}));
  EXPECT_EQ(plan("q,k"), (Plan{{3, 0, 1, 1, 0}, {5, 1, 1, 1, 2}}));
}

// No kernel is known by name: three encodes one after another are three sweeps, side by side they are one.
TEST(Sweeps, FollowDependences) {
  std::string types = "!flare.tensor<n, m=4, f32>, !flare.tensor<n, d=8, f32> -> !flare.tensor<m=4, d=8, f32>, !flare.tensor<m=4, f32>";
  std::string head = "func.func @f(%q: !flare.tensor<m=4, d=8, f32>, %k: !flare.tensor<n, d=8, f32>, %v: !flare.tensor<n, d=8, f32>)"
                     " -> !flare.tensor<m=4, d=8, f32> {\n";
  auto scores = [](const std::string &name, const std::string &q) {
    return "  %" + name + " = flare.contract %k, " + q + " over d : !flare.tensor<n, d=8, f32>, !flare.tensor<m=4, d=8, f32>\n";
  };
  auto attend = [&](const std::string &name, const std::string &x) {
    return "  %" + name + ", %l" + name + " = flare.attend %" + x + ", %v over n : " + types + "\n";
  };
  Program chain(head + scores("x0", "%q") + attend("z0", "x0") + scores("x1", "%z0") + attend("z1", "x1") + scores("x2", "%z1") +
                attend("z2", "x2") + "  return %z2 : !flare.tensor<m=4, d=8, f32>\n}");
  ASSERT_TRUE(chain.run("flare-plan-sweeps"));
  EXPECT_EQ(sweepsOf(chain.function("f")).size(), 3u);

  Program beside(head + scores("x0", "%q") + attend("z0", "x0") +
                 "  %p = flare.neg %q : !flare.tensor<m=4, d=8, f32>\n" + scores("x1", "%p") + attend("z1", "x1") +
                 "  %z = flare.add %z0, %z1 : !flare.tensor<m=4, d=8, f32>, !flare.tensor<m=4, d=8, f32>\n"
                 "  return %z : !flare.tensor<m=4, d=8, f32>\n}");
  ASSERT_TRUE(beside.run("flare-plan-sweeps"));
  EXPECT_EQ(sweepsOf(beside.function("f")), (Plan{{2, 0, 4, 2, 0}}));
}

// Contracting pairs over latents a second time costs an exponential a score, so a later sweep reads what was stored.
TEST(Sweeps, WhatCostsAContractionOverLatentsIsStored) {
  for (std::string through : {"", "  %w = flare.neg %y0 : !flare.tensor<n, d=8, f32>\n"}) {
    Program p("func.func @f(%q: !flare.tensor<m=4, d=8, f32>, %k: !flare.tensor<n, d=8, f32>) -> !flare.tensor<n, d=8, f32> {\n"
              "  %x = flare.contract %k, %q over d : !flare.tensor<n, d=8, f32>, !flare.tensor<m=4, d=8, f32>\n"
              "  %y0, %l0 = flare.attend %x, %q over m : !flare.tensor<n, m=4, f32>, !flare.tensor<m=4, d=8, f32>"
              " -> !flare.tensor<n, d=8, f32>, !flare.tensor<n, f32>\n" + through +
              "  %z, %l1 = flare.attend %x, %" + (through.empty() ? "y0" : "w") +
              " over n : !flare.tensor<n, m=4, f32>, !flare.tensor<n, d=8, f32> -> !flare.tensor<m=4, d=8, f32>, !flare.tensor<m=4, f32>\n"
              "  %y1, %l2 = flare.attend %x, %z over m : !flare.tensor<n, m=4, f32>, !flare.tensor<m=4, d=8, f32>"
              " -> !flare.tensor<n, d=8, f32>, !flare.tensor<n, f32>\n"
              "  %r = flare.mul %y1, %" + (through.empty() ? "y0" : "w") + " : !flare.tensor<n, d=8, f32>, !flare.tensor<n, d=8, f32>\n"
              "  return %r : !flare.tensor<n, d=8, f32>\n}");
    ASSERT_TRUE(p.run("flare-plan-sweeps"));
    int n = 0;
    for (const Sweep &s : sweepsOf(p.function("f")))
      n += s.exponentials;
    EXPECT_EQ(n, 3) << p.text();
  }
}

} // namespace
