//===- schedule.h - the one-cycle learning rate ---------------------------===//
//
// The cosine one-cycle policy with PyTorch's defaults: the rate climbs from
// peak/25 to the peak during the first `warmup` of the steps, then falls to
// peak/25/10^4, while the momentum (AdamW's beta1) mirrors it between 0.95 and
// 0.85. No torch in here; tests compare it with torch.optim's OneCycleLR.
//
//===----------------------------------------------------------------------===//
#pragma once

#include <cstdint>

namespace flarec::train {

struct OneCycle {
  double peakRate = 1e-3;
  int64_t totalSteps = 1;
  double warmup = 0.1; // share of the steps in which the rate climbs
  double divFactor = 25.0;
  double finalDivFactor = 1e4;
  double baseMomentum = 0.85;
  double maxMomentum = 0.95;

  /// For step 0 … totalSteps - 1.
  double rate(int64_t step) const;
  double momentum(int64_t step) const;
};

} // namespace flarec::train
