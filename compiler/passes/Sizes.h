// Arithmetic on sizes that passes share.
#pragma once
#include "tile/Tile.h"
#include <bit>
#include <numeric>

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

/// How rows of channels lie in shared memory where warpgroups multiply by them (PTX ISA 9.7.15.5.1, "swizzling modes"): in *atoms* of up to 8 chunks of 16 bytes, all
/// rows' part of one after the other, and in a row its chunks exchanged, so that the same chunk of 8 rows is in different banks, as are the chunks of a row.
struct Swizzle {
  static constexpr int64_t alignment = 1024; // after which the pattern of the widest repeats
  int64_t rows, chunks, width;               // of a row in all; in an atom: 1, 2, 4 or 8

  Swizzle(int64_t rows, int64_t channels) : rows(rows), chunks(channels / 8), width(std::gcd<int64_t>(8, chunks)) {}
  int64_t rowBytes() const { return 16 * width; }
  int64_t atomBytes() const { return rows * rowBytes(); }
  int64_t bytes() const { return rows * 16 * chunks; }
  /// After so many bytes the pattern repeats, so what lies so starts at a multiple of it.
  int64_t repeat() const { return 8 * rowBytes(); }
  /// Chunk c of row r is where chunk c ^ ((r >> shift) & (width - 1)) of an atom's row would be.
  int64_t shift() const { return 3 - std::countr_zero(uint64_t(width)); }
};

/// Operands of 16 bits in a page, one behind the other, each as `Swizzle` says.
struct PageLayout {
  int64_t bytes = 0;
  llvm::SmallVector<int64_t> offsets;

  /// `blocks` of 16 latents; of each operand its channels.
  PageLayout(int64_t blocks, llvm::ArrayRef<int64_t> channels) {
    int64_t repeat = 1;
    for (int64_t c : channels) {
      Swizzle s(blocks * tile::blockSize, c);
      offsets.push_back(roundUp(bytes, s.repeat()));
      bytes = offsets.back() + s.bytes();
      repeat = std::max(repeat, s.repeat());
    }
    bytes = roundUp(bytes, repeat);
  }
};

/// Blocks of 16 latents, with operands of so many channels, in a page: as many as are 24 KB, of which three leave room for staged tokens, in whole steps of `unroll` blocks and
/// whole pages.
inline int64_t pageBlocks(int64_t blocks, int64_t unroll, llvm::ArrayRef<int64_t> channels) {
  constexpr int64_t most = 24 * 1024;
  int64_t step = unroll ? unroll : blocks, page = step, blockBytes = 0;
  for (int64_t c : channels)
    blockBytes += Swizzle(tile::blockSize, c).bytes();
  for (int64_t more = step; more <= blocks && more * blockBytes <= most; more += step)
    if (blocks % more == 0)
      page = more;
  return page;
}
/// In fast memory: one that is worked on, and two on their way or just done with.
constexpr int64_t pagesAtOnce = 3;

} // namespace flarec
