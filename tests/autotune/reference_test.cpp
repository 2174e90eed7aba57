// The dense formulas that candidates are judged by, against differences and against what rounding must do.
#include "reference.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

using namespace flarec;
using namespace flarec::autotune;

namespace {

TEST(Reference, RoundsToNearestEven) {
  for (DType type : {DType::BF16, DType::F16}) {
    int fraction = type == DType::BF16 ? 7 : 10;
    float step = std::ldexp(1.0f, -fraction);
    EXPECT_EQ(rounded(1 + step, type), 1 + step);
    EXPECT_EQ(rounded(1 + step / 2, type), 1.0f);
    EXPECT_EQ(rounded(1 + 1.5f * step, type), 1 + 2 * step);
    EXPECT_EQ(rounded(-(1 + 0.51f * step), type), -(1 + step));
    EXPECT_EQ(rounded(2 - step / 4, type), 2.0f);
    EXPECT_EQ(rounded(0, type), 0.0f);
    EXPECT_TRUE(std::isnan(rounded(std::numeric_limits<float>::quiet_NaN(), type)));
    EXPECT_TRUE(std::isinf(rounded(std::numeric_limits<float>::infinity(), type)));
  }
  EXPECT_EQ(rounded(65504, DType::F16), 65504.0f);
  EXPECT_TRUE(std::isinf(rounded(65520, DType::F16)));
  EXPECT_EQ(rounded(std::ldexp(1.0f, -24), DType::F16), std::ldexp(1.0f, -24));
  EXPECT_EQ(rounded(std::ldexp(1.5f, -24), DType::F16), std::ldexp(2.0f, -24));
  EXPECT_EQ(rounded(std::ldexp(1.0f, -26), DType::F16), 0.0f);
  EXPECT_EQ(rounded(std::ldexp(1.0f, -14), DType::F16), std::ldexp(1.0f, -14));
}

double loss(const Data &data) {
  Results r = exact(data);
  double sum = 0;
  for (size_t i = 0; i < r.y.size(); ++i)
    sum += r.y[i] * double(data.g[i]);
  return sum;
}

TEST(Reference, GradientsAreThoseOfTheForward) {
  Data data = randomData(DType::F32, 2, 9, 5, 4, 0.7f, 1);
  Results r = exact(data);
  struct {
    std::vector<float> Data::*input;
    const std::vector<double> &gradient;
  } cases[] = {{&Data::q, r.gradQ}, {&Data::k, r.gradK}, {&Data::v, r.gradV}};
  for (auto &c : cases)
    for (size_t i = 0; i < c.gradient.size(); i += 3) {
      Data up = data, down = data;
      float step = 1e-3f;
      (up.*c.input)[i] += step;
      (down.*c.input)[i] -= step;
      double width = double((up.*c.input)[i]) - double((down.*c.input)[i]);
      EXPECT_NEAR((loss(up) - loss(down)) / width, c.gradient[i], 1e-5) << i;
    }
}

TEST(Reference, TheYardstickIsAsGoodAsItsDtype) {
  for (DType type : {DType::F32, DType::F16, DType::BF16}) {
    Data data = randomData(type, 2, 301, 33, 8, 1, 2);
    Results truth = exact(data), other = plain(data, type);
    double unit = type == DType::F32 ? 6e-8 : type == DType::F16 ? 5e-4 : 4e-3;
    for (auto [a, b] : {std::pair(&truth.y, &other.y), std::pair(&truth.z, &other.z), std::pair(&truth.gradV, &other.gradV), std::pair(&truth.gradQ, &other.gradQ),
                        std::pair(&truth.gradK, &other.gradK)}) {
      double relative = difference(*b, *a).rms / rms(*a);
      EXPECT_LT(relative, (type == DType::F32 ? 50 : 8) * unit) << "sums of f32 round too";
      EXPECT_GT(relative, unit / 8) << "it rounds";
    }
  }
}

TEST(Reference, NaNIsTheLargestDifference) {
  EXPECT_TRUE(std::isinf(difference({1, NAN}, {1, 2}).max));
  EXPECT_TRUE(std::isinf(difference({1, NAN}, {1, 2}).rms));
  EXPECT_EQ(difference({1, 2}, {1, 2}).rms, 0);
}

} // namespace
