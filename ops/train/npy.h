//===- npy.h - reading NumPy's .npy files ---------------------------------===//
//
// As much of the format as fields on grids need: bool, float32 and float64, C
// and Fortran order, format versions 1 to 3. No torch in here.
//
//===----------------------------------------------------------------------===//
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace flarec::train {

/// An array as read: values in C order, whatever the order in the file.
struct NpyArray {
  std::vector<int64_t> shape;
  std::vector<float> values;
};

/// Reads `path`. Throws std::runtime_error with a message that names the file,
/// what is wrong with it and what would be right.
NpyArray readNpy(const std::filesystem::path &path);

/// The same from bytes in memory; `name` is used in messages.
NpyArray parseNpy(const std::string &bytes, const std::string &name);

/// "[1000, 16, 16]", for messages.
std::string shapeText(const std::vector<int64_t> &shape);

} // namespace flarec::train
