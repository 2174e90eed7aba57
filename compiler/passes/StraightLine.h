// What every pass on flare functions takes for granted.
#pragma once
#include "flare/Flare.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"

namespace flarec {

/// Which tokens there are: a function's arguments of integers (dialects/flare/FlareDialect.td), null where all are.
struct Presence {
  mlir::Value range, mask;

  explicit Presence(mlir::func::FuncOp f) {
    for (mlir::Value a : f.getArguments())
      if (auto t = mlir::dyn_cast<flare::FlareTensorType>(a.getType()); t && (t.isRange() || t.isMask()))
        (t.isRange() ? range : mask) = a;
  }
};

/// Has f a body of one block? Says so where not.
inline mlir::LogicalResult straightLine(mlir::func::FuncOp f) {
  if (f.isExternal())
    return f.emitError("a flare function has a body; @") << f.getName() << " is only declared";
  if (!f.getBody().hasOneBlock())
    return f.emitError("a flare function is one block of straight-line ops; @") << f.getName() << " has " << f.getBody().getBlocks().size();
  mlir::Type seen[2];
  for (mlir::Type t : f.getArgumentTypes())
    if (auto a = mlir::dyn_cast<flare::FlareTensorType>(t); a && (a.isRange() || a.isMask())) {
      mlir::Type &slot = seen[a.isMask()];
      if (slot)
        return f.emitError("a flare function has one range and one mask of its tokens at most; @") << f.getName() << " has two of " << a;
      slot = a;
    }
  return mlir::success();
}

} // namespace flarec
