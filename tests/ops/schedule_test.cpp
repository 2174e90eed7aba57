//===- schedule_test.cpp - the one-cycle learning rate --------------------===//
//
// Expected values from torch.optim.lr_scheduler.OneCycleLR of PyTorch 2.11:
//   OneCycleLR(AdamW(...), max_lr=1e-3, total_steps=T, pct_start=P)
//
//===----------------------------------------------------------------------===//
#include "schedule.h"

#include <gtest/gtest.h>

using namespace flarec::train;

namespace {

struct Expected {
  int64_t step;
  double rate, momentum;
};

void expect(int64_t totalSteps, double warmup,
            std::initializer_list<Expected> values) {
  OneCycle cycle;
  cycle.peakRate = 1e-3;
  cycle.totalSteps = totalSteps;
  cycle.warmup = warmup;
  for (const Expected &e : values) {
    EXPECT_NEAR(cycle.rate(e.step), e.rate, 1e-15) << e.step;
    EXPECT_NEAR(cycle.momentum(e.step), e.momentum, 1e-12) << e.step;
  }
}

TEST(OneCycle, AgreesWithPyTorch) {
  expect(1875, 0.1,
         {{0, 3.9999999999999996e-05, 0.95},
          {1, 4.0068099362346784e-05, 0.9499929063164222},
          {2, 4.027237812637401e-05, 0.9499716272785027},
          {186, 0.0009999829748574805, 0.8500017734523457},
          {187, 0.0009999997833840502, 0.8500000216616816},
          {937, 0.0005863673554806907, 0.8913634299056505},
          {1873, 4.866463611274688e-09, 0.9499999133532923},
          {1874, 4e-09, 0.95}});
}

TEST(OneCycle, AgreesWithPyTorchOnShortRuns) {
  expect(20, 0.1,
         {{0, 3.9999999999999996e-05, 0.95},
          {1, 0.001, 0.85},
          {2, 0.000992403906890598, 0.8507596123493896},
          {10, 0.0005000019999999999, 0.8999999999999999},
          {18, 7.600093109402014e-06, 0.9492403876506104},
          {19, 4e-09, 0.95}});
  expect(3, 0.5,
         {{0, 3.9999999999999996e-05, 0.95},
          {1, 0.0007500009999999999, 0.875},
          {2, 4e-09, 0.95}});
  expect(1, 0.1, {{0, 4e-09, 0.95}});
}

TEST(OneCycle, IsFiniteWherePyTorchDividesByZero) {
  expect(10, 0.1, {{0, 1e-3, 0.85}, {9, 4e-09, 0.95}});
}

} // namespace
