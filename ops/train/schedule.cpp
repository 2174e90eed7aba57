//===- schedule.cpp - the one-cycle learning rate -------------------------===//
#include "schedule.h"

#include <cmath>
#include <numbers>

namespace flarec::train {
namespace {

/// From `start` at 0 to `end` at 1 along half a cosine.
double anneal(double start, double end, double progress) {
  return end +
         (start - end) / 2.0 * (1.0 + std::cos(std::numbers::pi * progress));
}

/// Through three values: at step 0, at the peak and at the last step.
double through(const OneCycle &cycle, int64_t step, double first, double peak,
               double last) {
  double peakStep = cycle.warmup * double(cycle.totalSteps) - 1.0;
  double lastStep = double(cycle.totalSteps) - 1.0;
  if (double(step) <= peakStep)
    // A climb of no length (peakStep = 0) is already over.
    return peakStep > 0 ? anneal(first, peak, double(step) / peakStep) : peak;
  return anneal(peak, last, (double(step) - peakStep) / (lastStep - peakStep));
}

} // namespace

double OneCycle::rate(int64_t step) const {
  double first = peakRate / divFactor;
  return through(*this, step, first, peakRate, first / finalDivFactor);
}

double OneCycle::momentum(int64_t step) const {
  return through(*this, step, maxMomentum, baseMomentum, maxMomentum);
}

} // namespace flarec::train
