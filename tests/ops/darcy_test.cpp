//===- darcy_test.cpp - the synthetic problem -----------------------------===//
#include "darcy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

using namespace flarec::train;

namespace {

struct Field {
  explicit Field(uint64_t seed, int64_t side = 16)
      : rock(side * side), pressure(side * side) {
    solveDarcy(side, seed, rock.data(), pressure.data());
  }
  std::vector<float> rock, pressure;
};

TEST(Darcy, IsRepeatableAndVaries) {
  EXPECT_EQ(Field(3).pressure, Field(3).pressure);
  EXPECT_NE(Field(3).rock, Field(4).rock);
}

TEST(Darcy, PressureIsPositiveAndHighestInside) {
  for (uint64_t seed = 0; seed < 20; ++seed) {
    Field field(seed);
    EXPECT_GT(*std::min_element(field.pressure.begin(), field.pressure.end()),
              0.0f);
    auto top = std::max_element(field.pressure.begin(), field.pressure.end()) -
               field.pressure.begin();
    EXPECT_TRUE(top / 16 > 0 && top / 16 < 15 && top % 16 > 0 && top % 16 < 15);
  }
}

/// What the sources put in leaves through the border: the sum over border cells
/// of 2 a u is the area, 1, in units of cells.
TEST(Darcy, ConservesMass) {
  constexpr int64_t side = 16;
  Field field(7, side);
  double out = 0;
  for (int64_t i = 0; i < side; ++i)
    for (int64_t j = 0; j < side; ++j) {
      int faces = (i == 0) + (i == side - 1) + (j == 0) + (j == side - 1);
      double a = field.rock[i * side + j] > 0 ? 12.0 : 3.0;
      out += faces * 2 * a * field.pressure[i * side + j];
    }
  EXPECT_NEAR(out, 1.0, 1e-5);
}

} // namespace
