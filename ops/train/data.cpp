//===- data.cpp - fields on a grid as points for the model ----------------===//
#include "data.h"

#include "darcy.h"
#include "npy.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <set>
#include <stdexcept>

namespace flarec::train {
namespace fs = std::filesystem;

namespace {

torch::Tensor toTensor(const NpyArray &array) {
  return torch::from_blob(const_cast<float *>(array.values.data()), array.shape,
                          torch::kFloat32)
      .clone();
}

/// The resolutions R of which `directory` has a train_R_x.npy.
std::set<int64_t> resolutionsIn(const fs::path &directory) {
  std::set<int64_t> found;
  for (const auto &entry : fs::directory_iterator(directory)) {
    std::string name = entry.path().filename().string();
    constexpr std::string_view prefix = "train_", suffix = "_x.npy";
    if (name.size() <= prefix.size() + suffix.size() ||
        !name.starts_with(prefix) || !name.ends_with(suffix))
      continue;
    std::string digits =
        name.substr(prefix.size(), name.size() - prefix.size() - suffix.size());
    if (digits.size() < 7 &&
        digits.find_first_not_of("0123456789") == std::string::npos)
      found.insert(std::stoll(digits));
  }
  return found;
}

struct Pair {
  torch::Tensor x, y; // [S, R1, R2]
};

Pair readPair(const fs::path &directory, const std::string &stem) {
  fs::path xPath = directory / (stem + "_x.npy");
  fs::path yPath = directory / (stem + "_y.npy");
  NpyArray x = readNpy(xPath), y = readNpy(yPath);
  if (x.shape.size() != 3)
    throw std::runtime_error(
        fmt::format("'{}' has shape {}; expected [samples, rows, columns]",
                    xPath.string(), shapeText(x.shape)));
  if (x.shape != y.shape)
    throw std::runtime_error(
        fmt::format("'{}' has shape {} but '{}' has {}; inputs and outputs "
                    "must have the same shape",
                    xPath.string(), shapeText(x.shape), yPath.string(),
                    shapeText(y.shape)));
  if (x.values.empty())
    throw std::runtime_error(
        fmt::format("'{}' is empty (shape {}); at least one sample is needed",
                    xPath.string(), shapeText(x.shape)));
  Pair pair{toTensor(x), toTensor(y)};
  if (!torch::isfinite(pair.x).all().item<bool>() ||
      !torch::isfinite(pair.y).all().item<bool>())
    throw std::runtime_error(
        fmt::format("'{}' or '{}' has values that are not finite",
                    xPath.string(), yPath.string()));
  return pair;
}

/// Cell centres of a grid in [-1, 1], `[N, 2]`.
torch::Tensor coordinates(int64_t rows, int64_t columns) {
  auto axis = [](int64_t count) {
    return (torch::arange(count, torch::kFloat32) * 2 + 1) / double(count) - 1;
  };
  auto grid = torch::meshgrid({axis(rows), axis(columns)}, "ij");
  return torch::stack({grid[0].flatten(), grid[1].flatten()}, -1);
}

Samples makeSamples(const Pair &pair, double mean, double deviation) {
  int64_t count = pair.x.size(0);
  int64_t points = pair.x.size(1) * pair.x.size(2);
  torch::Tensor place = coordinates(pair.x.size(1), pair.x.size(2))
                            .unsqueeze(0)
                            .expand({count, points, 2});
  torch::Tensor value = (pair.x.reshape({count, points, 1}) - mean) / deviation;
  return {torch::cat({place, value}, -1), pair.y.reshape({count, points, 1})};
}

/// Mean and standard deviation; a constant field has deviation 1.
std::pair<double, double> moments(const torch::Tensor &t) {
  torch::Tensor wide = t.to(torch::kFloat64);
  double deviation = wide.std(/*unbiased=*/false).item<double>();
  return {wide.mean().item<double>(), deviation > 0 ? deviation : 1.0};
}

DataSet assemble(const Pair &train, const Pair &test,
                 const std::string &source) {
  auto [inputMean, inputDeviation] = moments(train.x);
  DataSet data;
  std::tie(data.targetMean, data.targetDeviation) = moments(train.y);
  data.train = makeSamples(train, inputMean, inputDeviation);
  data.test = makeSamples(test, inputMean, inputDeviation);
  data.summary = fmt::format("{}: {} training and {} test fields of {} x {}",
                             source, train.x.size(0), test.x.size(0),
                             train.x.size(1), train.x.size(2));
  return data;
}

} // namespace

DataSet readDataSet(const fs::path &directory, int64_t resolution) {
  std::error_code error;
  if (!fs::exists(directory, error))
    throw std::runtime_error(fmt::format(
        "data directory '{}' does not exist; give a directory with "
        "train_R_x.npy, train_R_y.npy, test_R_x.npy and test_R_y.npy (R: the "
        "resolution), or --data synthetic",
        directory.string()));
  if (!fs::is_directory(directory, error))
    throw std::runtime_error(fmt::format(
        "'{}' is not a directory; --data takes the directory of the .npy files",
        directory.string()));
  if (resolution == 0) {
    std::set<int64_t> found = resolutionsIn(directory);
    if (found.empty())
      throw std::runtime_error(
          fmt::format("there is no train_R_x.npy (R: the resolution, as in "
                      "train_16_x.npy) in '{}'",
                      directory.string()));
    if (found.size() > 1)
      throw std::runtime_error(fmt::format(
          "'{}' has training files of {} resolutions ({}); choose one with "
          "--resolution",
          directory.string(), found.size(), fmt::join(found, ", ")));
    resolution = *found.begin();
  }
  return assemble(readPair(directory, fmt::format("train_{}", resolution)),
                  readPair(directory, fmt::format("test_{}", resolution)),
                  directory.string());
}

DataSet syntheticDataSet() {
  constexpr int64_t trainCount = 400, testCount = 50, side = 16;
  auto make = [&](int64_t first, int64_t count) {
    Pair pair{torch::empty({count, side, side}),
              torch::empty({count, side, side})};
    for (int64_t i = 0; i < count; ++i)
      solveDarcy(side, uint64_t(first + i), pair.x[i].data_ptr<float>(),
                 pair.y[i].data_ptr<float>());
    return pair;
  };
  return assemble(make(0, trainCount), make(trainCount, testCount),
                  "synthetic Darcy flow");
}

torch::Tensor relativeL2(const torch::Tensor &prediction,
                         const torch::Tensor &target) {
  auto norm = [](const torch::Tensor &t) { return t.flatten(1).norm(2, {1}); };
  return norm(prediction - target) / norm(target);
}

} // namespace flarec::train
