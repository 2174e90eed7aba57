// Parse, run passes, evaluate by name, and compare: what the compiler's tests share.
#pragma once

#include "evaluator/Evaluator.h"
#include "flare/Flare.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/MLIRContext.h"
#include "mlir/IR/OwningOpRef.h"
#include <gtest/gtest.h>
#include <map>
#include <random>
#include <string>
#include <vector>

namespace flarec::test {

/// Values by the `flare.name` of an argument or result.
using Named = std::map<std::string, Array>;

class Program {
public:
  explicit Program(const std::string &text);
  explicit Program(mlir::OwningOpRef<mlir::ModuleOp> module) : module(std::move(module)) {}

  /// Runs passes, in the pipeline's textual form; false and a test failure if one fails.
  bool run(const std::string &passes);
  /// The same without a test failure.
  bool tries(const std::string &passes);
  mlir::func::FuncOp function(const std::string &name);
  /// Arguments are found by name; results are returned by name. Empty on an error.
  Named evaluate(const std::string &name, const Named &values, const EvaluatorOptions &options = {});
  std::string text();
  Program clone();
  explicit operator bool() const { return bool(module); }

  mlir::OwningOpRef<mlir::ModuleOp> module;
};

/// One context for the whole test program; it has the dialects loaded and prints diagnostics into the test's log.
mlir::MLIRContext &context();

struct Sizes {
  int64_t batches = 2, heads = 1, tokens = 7;
  bool sharedLatents = false;
};

/// Normally distributed values for every argument of a function; numbers (f32) get 0.7. About half of the tokens are in a range, two thirds
/// there by a mask.
Named randomArguments(mlir::func::FuncOp f, const Sizes &sizes, std::mt19937 &rng, double deviation = 1.0);
Array randomLike(const Array &a, std::mt19937 &rng, double deviation = 1.0);

/// max |a - b| / (1 + max |b|); infinite where shapes or NaNs differ.
double difference(const Array &a, const Array &b);

/// The forward and backward that flare-differentiate makes, checked: f_forward against f, the gradients against
/// central differences along random directions. Returns the program after differentiation.
Program checkGradients(Program program, const std::string &name, const Named &arguments, std::mt19937 &rng,
                       const std::string &wanted = "*");

/// The gradients' arguments of `f_backward`, taken from a run of `f_forward`.
Named backwardArguments(Program &differentiated, const std::string &name, const Named &arguments, std::mt19937 &rng);

/// flare source of the mixer; saved and stored as `type`.
std::string mixer(int latents, int channels, const std::string &type);
/// The same of the tokens that are in a `range`, and there by a `mask`.
std::string mixerOfPresent(int latents, int channels, const std::string &type, bool range, bool mask);
std::string encodeAlone(int latents, int channels, const std::string &type);
std::string decodeAlone(int latents, int channels, const std::string &type);

} // namespace flarec::test
