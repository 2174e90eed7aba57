// A mixer by its dense formulas, forward and gradients: in fp64, and as two
// calls of attention in the tensors' own dtype would have it, whose errors are
// the yardstick for a candidate's.
#pragma once

#include "flarec/manifest.h"

#include <cstdint>
#include <vector>

namespace flarec::autotune {

/// One batch: q is [heads][latents][channels], k, v and the gradient of y
/// [heads][tokens][channels], all numbers of the dtype.
struct Data {
  int64_t heads = 1, tokens = 0, latents = 0, channels = 0;
  float scale = 1;
  std::vector<float> q, k, v, g;
};

/// Normally distributed, the same for the same seed.
Data randomData(DType dtype, int64_t heads, int64_t tokens, int64_t latents,
                int64_t channels, float scale, uint64_t seed);

struct Results {
  std::vector<double> y, z, gradQ, gradK, gradV;
  /// Sums of the terms' sizes of gradQ and gradK: what cancels there.
  std::vector<double> sizeQ, sizeK;
};

/// By the formulas, in fp64.
Results exact(const Data &data);
/// Scores and sums in f32; weights, z, y and gradients rounded to the dtype.
Results plain(const Data &data, DType dtype);

/// Of one tensor against another.
struct Difference {
  double rms = 0, max = 0;
};
Difference difference(const std::vector<double> &values,
                      const std::vector<double> &exact);
double rms(const std::vector<double> &values);

/// A float to the dtype and back.
float rounded(float value, DType dtype);
/// The dtype's bits of a number.
uint32_t encode(float value, DType dtype);
float decode(uint32_t bits, DType dtype);

} // namespace flarec::autotune
