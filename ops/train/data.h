//===- data.h - fields on a grid as points for the model ------------------===//
#pragma once

#include <filesystem>
#include <string>
#include <torch/torch.h>

namespace flarec::train {

/// Normalised inputs `[S, N, 3]` (x, y, permeability) and targets in their own
/// units `[S, N, 1]`.
struct Samples {
  torch::Tensor inputs, targets;
  int64_t count() const { return inputs.size(0); }
};

struct DataSet {
  Samples train, test;
  /// Of the training targets: the model predicts (target - mean) / deviation.
  double targetMean = 0, targetDeviation = 1;
  std::string summary;
};

/// Reads train_R_x.npy, train_R_y.npy, test_R_x.npy, test_R_y.npy from
/// `directory`, each `[S, R1, R2]`. With `resolution` 0 the directory must have
/// training files of one R only. Throws std::runtime_error.
DataSet readDataSet(const std::filesystem::path &directory, int64_t resolution);

/// Darcy flow on a 16 by 16 grid, solved here: two kinds of rock in random
/// smooth patches, -div(a grad u) = 1, u = 0 on the border. For machines
/// without data; deterministic.
DataSet syntheticDataSet();

/// ||prediction - target|| / ||target|| of each sample, `[S]`.
torch::Tensor relativeL2(const torch::Tensor &prediction,
                         const torch::Tensor &target);

} // namespace flarec::train
