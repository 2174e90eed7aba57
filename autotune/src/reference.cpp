#include "reference.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <random>

using namespace flarec;
using namespace flarec::autotune;

uint32_t autotune::encode(float value, DType dtype) {
  uint32_t bits = std::bit_cast<uint32_t>(value);
  if (dtype == DType::F32)
    return bits;
  if (dtype == DType::BF16) {
    if (std::isnan(value))
      return 0x7fff;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  }
  // f16: by steps of the value's own exponent, subnormal numbers included.
  uint32_t sign = bits >> 31 << 15;
  float size = std::abs(value);
  if (std::isnan(value))
    return 0x7fff;
  if (size >= 65520) // rounds to more than the largest
    return sign | 0x7c00;
  int exponent;
  std::frexp(size, &exponent);
  exponent = std::max(exponent, -13);
  auto steps = uint32_t(std::nearbyint(std::ldexp(size, 11 - exponent)));
  if (steps == 0)
    return sign;
  // A carry into the next exponent is a carry of the sum.
  uint32_t result = steps < 1024 ? steps : (uint32_t(exponent + 14) << 10) + (steps - 1024);
  return sign | result;
}

float autotune::decode(uint32_t bits, DType dtype) {
  if (dtype == DType::F32)
    return std::bit_cast<float>(bits);
  if (dtype == DType::BF16)
    return std::bit_cast<float>(bits << 16);
  uint32_t exponent = bits >> 10 & 31, fraction = bits & 1023;
  float size = exponent == 31 ? (fraction ? std::numeric_limits<float>::quiet_NaN()
                                          : std::numeric_limits<float>::infinity())
               : exponent ? std::ldexp(float(fraction + 1024), int(exponent) - 25)
                          : std::ldexp(float(fraction), -24);
  return bits >> 15 & 1 ? -size : size;
}

float autotune::rounded(float value, DType dtype) {
  return decode(encode(value, dtype), dtype);
}

Data autotune::randomData(DType dtype, int64_t heads, int64_t tokens,
                          int64_t latents, int64_t channels, float scale,
                          uint64_t seed) {
  Data data{heads, tokens, latents, channels, scale, {}, {}, {}, {}};
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  auto fill = [&](std::vector<float> &values, int64_t rows) {
    values.resize(size_t(heads * rows * channels));
    for (float &value : values)
      value = rounded(normal(random), dtype);
  };
  fill(data.q, latents);
  fill(data.k, tokens);
  fill(data.v, tokens);
  fill(data.g, tokens);
  return data;
}

namespace {

/// Both computations are the same formulas: `T` is what sums are made in, and
/// `round` what happens to a number that a call of attention would store or
/// hand to a matrix instruction.
template <typename T, typename Round>
Results compute(const Data &data, Round round) {
  const int64_t N = data.tokens, M = data.latents, D = data.channels;
  Results r;
  auto size = [&](std::vector<double> &values, int64_t rows) {
    values.assign(size_t(data.heads * rows * D), 0);
  };
  size(r.y, N), size(r.z, M), size(r.gradQ, M), size(r.gradK, N);
  size(r.gradV, N), size(r.sizeQ, M), size(r.sizeK, N);
  std::vector<T> x(size_t(N * M)), z(size_t(M * D)), dz(size_t(M * D));
  std::vector<T> lseEncode(static_cast<size_t>(M)), deltaEncode(static_cast<size_t>(M));
  auto dot = [&](auto *a, auto *b) {
    T sum = 0;
    for (int64_t d = 0; d < D; ++d)
      sum += T(a[d]) * T(b[d]);
    return sum;
  };
  for (int64_t h = 0; h < data.heads; ++h) {
    const float *q = &data.q[size_t(h * M * D)], *k = &data.k[size_t(h * N * D)],
                *v = &data.v[size_t(h * N * D)], *g = &data.g[size_t(h * N * D)];
    double *y = &r.y[size_t(h * N * D)], *gradQ = &r.gradQ[size_t(h * M * D)],
           *gradK = &r.gradK[size_t(h * N * D)], *gradV = &r.gradV[size_t(h * N * D)];
    double *sizeQ = &r.sizeQ[size_t(h * M * D)], *sizeK = &r.sizeK[size_t(h * N * D)];
    for (int64_t n = 0; n < N; ++n)
      for (int64_t m = 0; m < M; ++m)
        x[size_t(n * M + m)] = T(data.scale) * dot(k + n * D, q + m * D);
    // z[m] = Σ_n softmax_n(x) v[n]
    std::vector<T> top(size_t(M), -std::numeric_limits<T>::infinity()), total(static_cast<size_t>(M));
    for (int64_t n = 0; n < N; ++n)
      for (int64_t m = 0; m < M; ++m)
        top[size_t(m)] = std::max(top[size_t(m)], x[size_t(n * M + m)]);
    std::fill(z.begin(), z.end(), T(0));
    for (int64_t n = 0; n < N; ++n)
      for (int64_t m = 0; m < M; ++m) {
        T e = std::exp(x[size_t(n * M + m)] - top[size_t(m)]);
        total[size_t(m)] += e;
        T w = round(e);
        for (int64_t d = 0; d < D; ++d)
          z[size_t(m * D + d)] += w * T(v[n * D + d]);
      }
    for (int64_t m = 0; m < M; ++m) {
      lseEncode[size_t(m)] = top[size_t(m)] + std::log(total[size_t(m)]);
      for (int64_t d = 0; d < D; ++d)
        r.z[size_t((h * M + m) * D + d)] = z[size_t(m * D + d)] = round(z[size_t(m * D + d)] / total[size_t(m)]);
    }
    // y[n] = Σ_m softmax_m(x) z[m], and its gradients to z and x.
    std::fill(dz.begin(), dz.end(), T(0));
    std::vector<T> row(static_cast<size_t>(M)), dxDecode(size_t(N * M));
    std::vector<T> yn(static_cast<size_t>(D));
    std::vector<double> sizes(size_t(N * M));
    for (int64_t n = 0; n < N; ++n) {
      T most = -std::numeric_limits<T>::infinity(), sum = 0;
      for (int64_t m = 0; m < M; ++m)
        most = std::max(most, x[size_t(n * M + m)]);
      for (int64_t m = 0; m < M; ++m)
        sum += row[size_t(m)] = std::exp(x[size_t(n * M + m)] - most);
      std::fill(yn.begin(), yn.end(), T(0));
      for (int64_t m = 0; m < M; ++m) {
        T w = round(row[size_t(m)]);
        for (int64_t d = 0; d < D; ++d)
          yn[size_t(d)] += w * z[size_t(m * D + d)];
      }
      for (int64_t d = 0; d < D; ++d)
        y[n * D + d] = yn[size_t(d)] = round(yn[size_t(d)] / sum);
      T delta = dot(g + n * D, yn.data());
      for (int64_t m = 0; m < M; ++m) {
        T p = row[size_t(m)] / sum, w = round(p);
        for (int64_t d = 0; d < D; ++d)
          dz[size_t(m * D + d)] += w * T(g[n * D + d]);
        T gz = dot(g + n * D, &z[size_t(m * D)]);
        dxDecode[size_t(n * M + m)] = round(p * (gz - delta));
        sizes[size_t(n * M + m)] = double(p * (std::abs(gz) + std::abs(delta)));
      }
    }
    for (T &value : dz)
      value = round(value);
    for (int64_t m = 0; m < M; ++m)
      deltaEncode[size_t(m)] = dot(&dz[size_t(m * D)], &z[size_t(m * D)]);
    std::vector<T> q1(size_t(M * D)), q2(size_t(M * D)), k1(static_cast<size_t>(D)), k2(static_cast<size_t>(D)),
        dv(static_cast<size_t>(D));
    for (int64_t n = 0; n < N; ++n) {
      std::fill(k1.begin(), k1.end(), T(0));
      std::fill(k2.begin(), k2.end(), T(0));
      std::fill(dv.begin(), dv.end(), T(0));
      for (int64_t m = 0; m < M; ++m) {
        T p = std::exp(x[size_t(n * M + m)] - lseEncode[size_t(m)]), w = round(p);
        T dzv = dot(v + n * D, &dz[size_t(m * D)]);
        T e = round(p * (dzv - deltaEncode[size_t(m)]));
        T d1 = dxDecode[size_t(n * M + m)];
        double both = sizes[size_t(n * M + m)] + double(p * (std::abs(dzv) + std::abs(deltaEncode[size_t(m)])));
        for (int64_t d = 0; d < D; ++d) {
          dv[size_t(d)] += w * dz[size_t(m * D + d)];
          k1[size_t(d)] += d1 * T(q[m * D + d]);
          k2[size_t(d)] += e * T(q[m * D + d]);
          q1[size_t(m * D + d)] += d1 * T(k[n * D + d]);
          q2[size_t(m * D + d)] += e * T(k[n * D + d]);
          sizeK[n * D + d] += data.scale * both * std::abs(q[m * D + d]);
          sizeQ[m * D + d] += data.scale * both * std::abs(k[n * D + d]);
        }
      }
      T s = T(data.scale);
      for (int64_t d = 0; d < D; ++d) {
        gradK[n * D + d] = round(round(s * k1[size_t(d)]) + round(s * k2[size_t(d)]));
        gradV[n * D + d] = round(dv[size_t(d)]);
      }
    }
    for (int64_t i = 0; i < M * D; ++i)
      gradQ[i] = round(round(T(data.scale) * q1[size_t(i)]) + round(T(data.scale) * q2[size_t(i)]));
  }
  return r;
}

} // namespace

Results autotune::exact(const Data &data) {
  return compute<double>(data, [](double value) { return value; });
}

Results autotune::plain(const Data &data, DType dtype) {
  return compute<float>(data, [dtype](float value) { return rounded(value, dtype); });
}

Difference autotune::difference(const std::vector<double> &values,
                                const std::vector<double> &exact) {
  Difference d;
  double sum = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    double e = std::abs(values[i] - exact[i]);
    if (!(e <= d.max)) // NaN is the largest
      d.max = std::isnan(e) ? std::numeric_limits<double>::infinity() : e;
    sum += e * e;
  }
  d.rms = values.empty() ? 0 : std::sqrt(sum / double(values.size()));
  if (std::isnan(d.rms))
    d.rms = std::numeric_limits<double>::infinity();
  return d;
}

double autotune::rms(const std::vector<double> &values) {
  double sum = 0;
  for (double value : values)
    sum += value * value;
  return values.empty() ? 0 : std::sqrt(sum / double(values.size()));
}
