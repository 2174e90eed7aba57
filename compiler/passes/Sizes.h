// Arithmetic on sizes that passes share.
#pragma once
#include "tile/Tile.h"

namespace flarec {

constexpr double log2e = 1.4426950408889634;

inline int64_t bytesOf(mlir::Type t) { return t.getIntOrFloatBitWidth() / 8; }
inline int64_t roundUp(int64_t x, int64_t to) { return (x + to - 1) / to * to; }
/// Blocks of 16 that n rows or columns take.
inline int64_t blocksOf(int64_t n) { return (n + tile::blockSize - 1) / tile::blockSize; }

} // namespace flarec
