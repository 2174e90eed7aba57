// The request's `examine` (flarec/compiler.h): which configurations of each sweep can be run, and what their kernels do. The
// tuner's questions, answered from the IR.
#pragma once
#include "mlir/IR/BuiltinOps.h"
#include "llvm/Support/Error.h"
#include "llvm/Support/JSON.h"
#include <string>

namespace flarec {

/// `module` is at the stage "sweeps", configured. `candidates`: for each function a list for each sweep, of objects of fields that
/// differ from the sweep's configuration.
llvm::Expected<std::string> examine(mlir::ModuleOp module, const llvm::json::Object &candidates, llvm::StringRef target);

} // namespace flarec
