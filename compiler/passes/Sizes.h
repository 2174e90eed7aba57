// Arithmetic on sizes that passes share.
#pragma once
#include "tile/Tile.h"

namespace flarec {

constexpr double log2e = 1.4426950408889634;

inline int64_t bytesOf(mlir::Type t) { return t.getIntOrFloatBitWidth() / 8; }
inline int64_t roundUp(int64_t x, int64_t to) { return (x + to - 1) / to * to; }
/// Blocks of 16 that n rows or columns take.
inline int64_t blocksOf(int64_t n) { return (n + tile::blockSize - 1) / tile::blockSize; }

/// How many workers with the same rows can share out the latents as columns, in whole blocks.
inline int64_t mostSharers(int64_t latents) {
  int64_t sharers = 8;
  while (blocksOf(latents) % sharers)
    sharers /= 2;
  return sharers;
}

} // namespace flarec
