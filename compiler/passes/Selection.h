// Which kernels a lowering makes: all, or those of one sweep of one function, which are what the tuner measures of a candidate.
#pragma once
#include "tile/Tile.h"
#include "llvm/ADT/StringExtras.h"

namespace flarec {

class Selection {
public:
  /// "function:sweep", or empty for all.
  explicit Selection(llvm::StringRef text) : text(text) {
    auto [name, number] = text.rsplit(':');
    function = name;
    number.getAsInteger(10, sweep);
  }

  bool isAll() const { return text.empty(); }
  bool has(tile::ProgramOp program) const { return isAll() || program.getSymName() == function; }
  bool has(tile::KernelOp kernel) const { return isAll() || kernel.getSweep() == sweep; }

  /// Fails, with a diagnostic, where no kernel is meant.
  llvm::LogicalResult check(mlir::ModuleOp module) const {
    for (auto program : module.getOps<tile::ProgramOp>())
      for (auto kernel : program.getOps<tile::KernelOp>())
        if (has(program) && has(kernel))
          return llvm::success();
    if (isAll())
      return llvm::success();
    return module.emitError() << "there is no sweep '" << text << "'; name one as function:number, the first of a function is 0";
  }

private:
  llvm::StringRef text, function;
  uint64_t sweep = UINT64_MAX;
};

} // namespace flarec
