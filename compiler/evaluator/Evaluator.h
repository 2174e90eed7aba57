// What a `flare` function means, executed: dense arrays in fp64, one loop nest an op. The oracle of the numerics tests.
//
// It runs any function of `flare` ops at any stage before tiles (so before and after differentiation, expansion, planning and
// sharing), and takes nothing from the passes: `encode` is evaluated by its formula, not by what flare-expand makes of it.
#pragma once

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include <cstdint>
#include <vector>

namespace flarec {

/// A tensor's elements, row by row. The shape is B, H, then the indices that its type carries, in the order n, m, d.
/// Latents that the batch shares have B = 1. A number (f32) has an empty shape.
struct Array {
  std::vector<int64_t> shape;
  std::vector<double> data;

  static Array number(double v) { return {{}, {v}}; }
  /// The element count that a shape asks for.
  static int64_t size(const std::vector<int64_t> &shape);
  bool operator==(const Array &) const = default;
};

struct EvaluatorOptions {
  /// Run the second region of the sweeps that have one, not the first.
  bool safe = false;
  /// Round where the function says so: results of cast, encode and decode go to their element type. Without it every
  /// value is exact to fp64.
  bool round = false;
};

/// Runs a function. On wrong arguments or an op it does not know: a diagnostic at the op.
///
/// Where arguments of integers say which tokens there are (their H is 1), reductions over n leave the others out, and the others are 0 in
/// results. Packed sequences, a range of the same tokens for each batch, have B = 1; results then have a batch for each range.
///
/// The f32 constants that stand for log2(e) and ln(2) are taken for what they stand for; otherwise their rounding
/// (1e-8) would hide mistakes of that size.
mlir::FailureOr<std::vector<Array>> evaluate(mlir::func::FuncOp function, llvm::ArrayRef<Array> arguments,
                                             const EvaluatorOptions &options = {});

/// The gradient of latents that the batch shares: the sum over b, with B = 1.
Array sumOverBatch(const Array &a);

} // namespace flarec
