// What every pass on flare functions takes for granted.
#pragma once
#include "mlir/Dialect/Func/IR/FuncOps.h"

namespace flarec {

/// Has f a body of one block? Says so where not.
inline mlir::LogicalResult straightLine(mlir::func::FuncOp f) {
  if (f.isExternal())
    return f.emitError("a flare function has a body; @") << f.getName() << " is only declared";
  if (!f.getBody().hasOneBlock())
    return f.emitError("a flare function is one block of straight-line ops; @") << f.getName() << " has " << f.getBody().getBlocks().size();
  return mlir::success();
}

} // namespace flarec
