// Layouts on the host: a register is a vector of 16 f32.
#pragma once
#include "tile/Tile.h"
#include "llvm/ADT/DenseMap.h"

namespace flarec {
/// Rows lie across lanes; columns, and channels, in registers. What is accumulated over rows is kept as partial sums with
/// channels across lanes: see partialSums().
void assignHostLayouts(tile::KernelOp kernel);

/// Is this tile [columns, d] of partial sums over rows? P = 16/d of them lie side by side, lane P·channel + i.
bool isPartialSums(tile::TileType type);
} // namespace flarec
