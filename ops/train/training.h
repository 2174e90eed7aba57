//===- training.h - the training loop -------------------------------------===//
#pragma once

#include "data.h"
#include "model.h"

#include <vector>

namespace flarec::train {

struct TrainingOptions {
  ModelOptions model;
  torch::Device device = torch::kCPU;
  /// Of autocast; float16 with a gradient scaler.
  torch::ScalarType dtype = torch::kFloat;
  int64_t batch = 8, epochs = 15;
  int64_t steps = 0; // stop after so many; 0: all. The schedule is that of all.
  uint64_t seed = 0;
  double peakRate = 1e-3, weightDecay = 1e-5, clip = 1.0;
};

struct TrainingResult {
  double testError = 0;      // mean relative L2 of the test fields
  std::vector<float> losses; // of each step
};

/// AdamW, one-cycle rate, clipped gradients, relative L2 loss. Everything
/// random (initial weights, order of samples) comes from the seed and is drawn
/// on the CPU, so runs that differ in attention or device start alike. Prints
/// progress to stdout. Throws std::runtime_error if the loss is not finite (in
/// float16, whose overflows are skipped: if none of an epoch is).
TrainingResult trainModel(const DataSet &data, const TrainingOptions &options);

} // namespace flarec::train
