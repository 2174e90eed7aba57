// Between the layout attribute of the IR and the mathematical object.
#pragma once
#include "layout/Layout.h"
#include "tile/Tile.h"

namespace flarec {

inline tile::LayoutAttr toAttr(mlir::MLIRContext *ctx, const Layout &l) {
  auto list = [](const std::vector<Basis> &bases) {
    llvm::SmallVector<int32_t> r;
    for (const Basis &b : bases)
      r.push_back(b.step ? int(b.axis) * 4096 + b.step : 0);
    return r;
  };
  return tile::LayoutAttr::get(ctx, list(l.registers), list(l.lanes));
}

inline Layout fromAttr(tile::LayoutAttr a) {
  auto list = [](llvm::ArrayRef<int32_t> bases) {
    std::vector<Basis> r;
    for (int32_t b : bases)
      r.push_back(b ? Basis{Axis(b / 4096), b % 4096} : Basis{});
    return r;
  };
  return {list(a.getRegisters()), list(a.getLanes())};
}
} // namespace flarec
