//===- mixed_precision_test.cpp - autocast and gradient scaling -----------===//
#include "mixed_precision.h"
#include "optimiser.h"

#include <gtest/gtest.h>

using namespace flarec::train;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

/// One parameter, its optimiser and a scaler; gradients are given.
struct Trained {
  torch::Tensor weight = torch::arange(4, torch::kFloat).requires_grad_();
  AdamW optimiser{{weight}, 1e-2};
  GradScaler scaler{torch::kCPU};

  void step(const std::vector<float> &gradient) {
    weight.mutable_grad() = scaler.scaled(torch::tensor(gradient));
    scaler.unscale(optimiser.gradients());
    optimiser.clipGradients(1.0);
    optimiser.step(1e-2, 0.9, scaler.overflowed());
    scaler.update();
  }
};

TEST(GradScaler, StartsAt65536AndHalvesAtEachOverflow) {
  Trained t;
  EXPECT_EQ(t.scaler.currentScale(), 65536);
  t.step({1, infinity, 0, 0});
  EXPECT_EQ(t.scaler.currentScale(), 32768);
  t.step({1, 0, std::nanf(""), 0});
  EXPECT_EQ(t.scaler.currentScale(), 16384);
  EXPECT_EQ(t.scaler.skippedSteps(), 2);
  t.step({1, 0, 0, 0});
  EXPECT_EQ(t.scaler.currentScale(), 16384);
  EXPECT_EQ(t.scaler.skippedSteps(), 2);
}

TEST(GradScaler, DoublesAfter2000StepsWithoutOverflow) {
  Trained t;
  for (int i = 0; i < 1999; ++i)
    t.step({1, 0, 0, 0});
  t.step({1, -infinity, 0, 0}); // and counts from here
  for (int i = 0; i < 1999; ++i)
    t.step({1, 0, 0, 0});
  EXPECT_EQ(t.scaler.currentScale(), 32768);
  t.step({1, 0, 0, 0});
  EXPECT_EQ(t.scaler.currentScale(), 65536);
}

/// Neither the weights nor the optimiser's averages and counts.
TEST(GradScaler, ASkippedStepChangesNothing) {
  Trained with, without;
  for (float g : {1.0f, infinity, 0.5f, std::nanf(""), -2.0f}) {
    with.step({g, 1, 2, 3});
    if (std::isfinite(g))
      without.step({g, 1, 2, 3});
  }
  EXPECT_TRUE(torch::equal(with.weight, without.weight));
  EXPECT_FALSE(torch::equal(with.weight, torch::arange(4, torch::kFloat)));
}

TEST(GradScaler, ClippingSeesTheGradientsUnscaled) {
  Trained scaled;
  torch::Tensor weight = torch::arange(4, torch::kFloat).requires_grad_();
  AdamW plain({weight}, 1e-2);
  for (float g : {0.25f, 4.0f, 0.5f}) {
    scaled.step({g, 0, 0, 0});
    weight.mutable_grad() = torch::tensor({g, 0.0f, 0.0f, 0.0f});
    plain.clipGradients(1.0);
    plain.step(1e-2, 0.9);
  }
  EXPECT_TRUE(torch::equal(scaled.weight, weight));
}

TEST(GradScaler, SmallGradientsSurviveFloat16) {
  auto gradient = [](const GradScaler *scaler) {
    torch::Tensor w = torch::ones({4}).requires_grad_();
    torch::Tensor loss = (w.to(torch::kHalf) * 1.0).to(torch::kFloat).sum() *
                         1e-8; // no float16 is as small
    (scaler ? scaler->scaled(loss) : loss).backward();
    return w.grad();
  };
  EXPECT_EQ(gradient(nullptr).abs().max().item<float>(), 0);
  GradScaler scaler(torch::kCPU);
  torch::Tensor scaled = gradient(&scaler);
  scaler.unscale({scaled});
  EXPECT_EQ(scaler.overflowed().item<float>(), 0);
  EXPECT_TRUE(torch::allclose(scaled, torch::full({4}, 1e-8), 1e-3, 0));
}

TEST(Autocast, LowersProductsWhileItLives) {
  torch::Tensor x = torch::randn({3, 4}), w = torch::randn({2, 4});
  for (auto type : {torch::kBFloat16, torch::kHalf}) {
    {
      Autocast autocast(torch::kCPU, type);
      EXPECT_EQ(torch::linear(x, w).scalar_type(), type);
      {
        Autocast other(torch::kCPU, torch::kBFloat16);
        EXPECT_EQ(torch::linear(x, w).scalar_type(), torch::kBFloat16);
      }
      EXPECT_EQ(torch::linear(x, w).scalar_type(), type);
    }
    EXPECT_EQ(torch::linear(x, w).scalar_type(), torch::kFloat);
  }
  Autocast none(torch::kCPU, torch::kFloat);
  EXPECT_EQ(torch::linear(x, w).scalar_type(), torch::kFloat);
}

TEST(Autocast, SeesWeightsThatHaveChanged) {
  torch::Tensor x = torch::ones({1, 4});
  torch::Tensor w = torch::ones({1, 4}).requires_grad_();
  auto product = [&] {
    Autocast autocast(torch::kCPU, torch::kBFloat16);
    return torch::linear(x, w).item<float>();
  };
  EXPECT_EQ(product(), 4);
  {
    torch::NoGradGuard noGrad;
    w.mul_(2);
  }
  EXPECT_EQ(product(), 8);
}

} // namespace
