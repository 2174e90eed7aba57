// The oracle itself, against loops written out and against numbers known by heart.
#include "support.h"
#include <cmath>
#include <limits>

using namespace flarec;
using namespace flarec::test;

namespace {

TEST(Evaluator, EncodeIsThePapersEquation) {
  Program p(encodeAlone(3, 4, "f32"));
  std::mt19937 rng(1);
  Named a = randomArguments(p.function("encode"), {2, 2, 5, true}, rng);
  Array z = p.evaluate("encode", a)["result0"];
  ASSERT_EQ(z.shape, (std::vector<int64_t>{2, 2, 3, 4}));
  auto at = [](const Array &x, int b, int h, int i, int d) {
    return x.data[((std::min<int64_t>(b, x.shape[0] - 1) * x.shape[1] + h) * x.shape[2] + i) * x.shape[3] + d];
  };
  for (int b = 0; b < 2; ++b)
    for (int h = 0; h < 2; ++h)
      for (int m = 0; m < 3; ++m)
        for (int d = 0; d < 4; ++d) {
          double sum = 0, total = 0;
          for (int n = 0; n < 5; ++n) {
            double x = 0;
            for (int c = 0; c < 4; ++c)
              x += at(a["q"], b, h, m, c) * at(a["k"], b, h, n, c);
            total += std::exp(0.7 * x);
            sum += std::exp(0.7 * x) * at(a["v"], b, h, n, d);
          }
          EXPECT_NEAR(at(z, b, h, m, d), sum / total, 1e-13);
        }
}

TEST(Evaluator, NoTokens) {
  Program p(mixer(3, 4, "f32"));
  ASSERT_TRUE(p.run("flare-differentiate"));
  std::mt19937 rng(1);
  Named a = randomArguments(p.function("mixer_forward"), {2, 1, 0}, rng);
  Named r = p.evaluate("mixer_forward", a);
  for (double z : r["z"].data)
    EXPECT_EQ(z, 0);
  for (double l : r["lse_encode"].data)
    EXPECT_EQ(l, -std::numeric_limits<double>::infinity());
  EXPECT_TRUE(r["y"].data.empty());
}

TEST(Evaluator, LargeScoresDoNotOverflow) {
  Program p(mixer(3, 4, "f32"));
  std::mt19937 rng(2);
  Named a = randomArguments(p.function("mixer"), {}, rng, 100);
  Array y = p.evaluate("mixer", a)["result0"];
  for (double v : y.data)
    EXPECT_TRUE(std::isfinite(v));
}

TEST(Evaluator, NotANumberStaysInItsHead) {
  Program p(mixer(3, 4, "f32"));
  std::mt19937 rng(3);
  Named a = randomArguments(p.function("mixer"), {2, 2, 5}, rng);
  a["k"].data[0] = std::numeric_limits<double>::quiet_NaN(); // b = h = n = 0
  Array y = p.evaluate("mixer", a)["result0"];
  for (size_t i = 0; i < y.data.size(); ++i)
    EXPECT_EQ(std::isnan(y.data[i]), i < 5 * 4) << i;
}

TEST(Evaluator, RoundsOnlyWhenAsked) {
  Program p("func.func @f(%a: !flare.tensor<n, f32>) -> !flare.tensor<n, bf16> {\n"
            "  %b = flare.cast %a : !flare.tensor<n, f32> -> !flare.tensor<n, bf16>\n"
            "  return %b : !flare.tensor<n, bf16>\n}");
  Named a{{"arg0", {{1, 1, 2}, {1.0 + 1.0 / 256, 1.0 + 3.0 / 256}}}}; // halves: to even
  EXPECT_EQ(p.evaluate("f", a)["result0"].data, (std::vector<double>{1.0 + 1.0 / 256, 1.0 + 3.0 / 256}));
  EXPECT_EQ(p.evaluate("f", a, {false, true})["result0"].data, (std::vector<double>{1.0, 1.0 + 4.0 / 256}));
}

/// Tokens `at` of a batch alone.
Array taken(const Array &a, int64_t batch, const std::vector<int64_t> &at) {
  Array r{a.shape, {}};
  r.shape[0] = 1;
  r.shape[2] = at.size();
  int64_t width = a.shape.size() > 3 ? a.shape[3] : 1;
  for (int64_t h = 0; h < a.shape[1]; ++h)
    for (int64_t n : at)
      for (int64_t d = 0; d < width; ++d)
        r.data.push_back(a.data[((batch * a.shape[1] + h) * a.shape[2] + n) * width + d]);
  return r;
}

TEST(Evaluator, TokensThatAreNotThere) {
  Program p(mixerOfPresent(3, 4, "f32", true, true)), plain(mixer(3, 4, "f32"));
  std::mt19937 rng(5);
  Named a = randomArguments(p.function("mixer"), {3, 2, 6, true}, rng);
  a["range"] = {{3, 1, 2}, {1, 5, 3, 3, 0, 6}};
  a["mask"] = {{3, 1, 6}, {1, 1, 0, 7, 1, 1, /**/ 1, 1, 1, 1, 1, 1, /**/ 0, 1, 0, 0, 0, 0}};
  const std::vector<int64_t> there[] = {{1, 3, 4}, {}, {1}};
  for (int64_t b = 0; b < 3; ++b)
    for (int64_t n = 0; n < 6; ++n)
      if (!llvm::is_contained(there[b], n))
        for (int64_t i = 0; i < 8; ++i) // 2 heads of 4 channels
          a["k"].data[((b * 2 + i / 4) * 6 + n) * 4 + i % 4] = a["v"].data[((b * 2 + i / 4) * 6 + n) * 4 + i % 4] = std::nan("");
  Array y = p.evaluate("mixer", a)["result0"];
  ASSERT_EQ(y.shape, (std::vector<int64_t>{3, 2, 6, 4}));
  double sum = 0;
  for (int64_t b = 0; b < 3; ++b) {
    Named alone{{"q", a["q"]}, {"scale", a["scale"]}, {"k", taken(a["k"], b, there[b])}, {"v", taken(a["v"], b, there[b])}};
    Array expected = plain.evaluate("mixer", alone)["result0"];
    EXPECT_LT(difference(taken(y, b, there[b]), expected), 1e-14) << b;
    for (double v : expected.data)
      sum += std::abs(v);
  }
  double all = 0; // so the others are 0
  for (double v : y.data)
    all += std::abs(v);
  EXPECT_NEAR(all, sum, 1e-12);
}

TEST(Evaluator, RefusesWrongArguments) {
  Program p(mixer(3, 4, "f32"));
  std::mt19937 rng(4);
  std::string message;
  mlir::ScopedDiagnosticHandler handler(&context(), [&](mlir::Diagnostic &d) { message += d.str() + "\n"; });
  auto f = p.function("mixer");
  EXPECT_TRUE(failed(evaluate(f, {})));
  Named a = randomArguments(f, {}, rng);
  std::vector<Array> v{a["q"], a["k"], a["v"], Array::number(1)};
  v[2].shape[2] -= 1;
  EXPECT_TRUE(failed(evaluate(f, v)));
  v[2].data.resize(Array::size(v[2].shape));
  EXPECT_TRUE(failed(evaluate(f, v)));
  EXPECT_EQ(message, "takes 4 arguments, got 0\n"
                     "argument 2 of type '!flare.tensor<n, d=4, f32>' has 56 elements, its shape asks for 48\n"
                     "argument 2 of type '!flare.tensor<n, d=4, f32>' has 6 n, not 7\n");
}

} // namespace
