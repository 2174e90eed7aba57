//===- darcy.cpp - Darcy flow through random rock -------------------------===//
#include "darcy.h"

#include <cmath>
#include <numbers>
#include <random>
#include <vector>

namespace flarec::train {
namespace {

/// Uniform in [0, 1). std::uniform_real_distribution differs between standard
/// libraries; the engine does not.
double uniform(std::mt19937_64 &engine) {
  return double(engine() >> 11) * 0x1p-53;
}

/// A sum of random cosines of low frequency.
std::vector<double> smoothField(int64_t side, std::mt19937_64 &engine) {
  std::vector<double> field(side * side, 0.0);
  for (int wave = 0; wave < 12; ++wave) {
    double fx = 5 * (2 * uniform(engine) - 1), fy = 5 * uniform(engine);
    double phase = 2 * std::numbers::pi * uniform(engine);
    double weight = 1 / (1 + fx * fx + fy * fy);
    for (int64_t i = 0; i < side; ++i)
      for (int64_t j = 0; j < side; ++j)
        field[i * side + j] +=
            weight *
            std::cos(2 * std::numbers::pi * (fx * double(i) + fy * double(j)) /
                         double(side) +
                     phase);
  }
  return field;
}

/// The finite-volume operator: harmonic means of the permeability on faces.
class Operator {
public:
  Operator(int64_t side, const std::vector<double> &a) : side(side), a(a) {}

  void apply(const std::vector<double> &u, std::vector<double> &out) const {
    for (int64_t i = 0; i < side; ++i)
      for (int64_t j = 0; j < side; ++j)
        out[i * side + j] = flux(u, i, j, i - 1, j) + flux(u, i, j, i + 1, j) +
                            flux(u, i, j, i, j - 1) + flux(u, i, j, i, j + 1);
  }

private:
  double flux(const std::vector<double> &u, int64_t i, int64_t j, int64_t p,
              int64_t q) const {
    double here = a[i * side + j];
    if (p < 0 || q < 0 || p >= side || q >= side)
      return 2 * here * u[i * side + j]; // u = 0 half a cell away
    double there = a[p * side + q];
    return 2 * here * there / (here + there) *
           (u[i * side + j] - u[p * side + q]);
  }

  int64_t side;
  const std::vector<double> &a;
};

double dot(const std::vector<double> &x, const std::vector<double> &y) {
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i)
    sum += x[i] * y[i];
  return sum;
}

std::vector<double> conjugateGradients(const Operator &op, double rhs,
                                       size_t count) {
  std::vector<double> u(count, 0.0), r(count, rhs), p = r, ap(count);
  double rr = dot(r, r), goal = rr * 1e-20;
  for (size_t step = 0; step < 10 * count && rr > goal; ++step) {
    op.apply(p, ap);
    double alpha = rr / dot(p, ap);
    for (size_t i = 0; i < count; ++i) {
      u[i] += alpha * p[i];
      r[i] -= alpha * ap[i];
    }
    double next = dot(r, r);
    for (size_t i = 0; i < count; ++i)
      p[i] = r[i] + next / rr * p[i];
    rr = next;
  }
  return u;
}

} // namespace

void solveDarcy(int64_t side, uint64_t seed, float *permeability,
                float *pressure) {
  std::mt19937_64 engine(seed * 0x9e3779b97f4a7c15ULL + 1);
  std::vector<double> field = smoothField(side, engine);
  std::vector<double> a(field.size());
  for (size_t i = 0; i < field.size(); ++i) {
    permeability[i] = field[i] > 0 ? 1.0f : 0.0f;
    a[i] = field[i] > 0 ? 12.0 : 3.0;
  }
  double cell = 1.0 / double(side);
  std::vector<double> u =
      conjugateGradients(Operator(side, a), cell * cell, field.size());
  for (size_t i = 0; i < field.size(); ++i)
    pressure[i] = float(u[i]);
}

} // namespace flarec::train
