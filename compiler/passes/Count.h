// What a sweep's kernel does, counted in its tile program: the input of a model of its time. Counting is all that happens here; what
// an operation costs on a machine is for autotune/ to say.
#pragma once
#include "tile/Tile.h"
#include "llvm/ADT/StringRef.h"
#include <array>

namespace flarec {

/// Kinds of work, each with its unit. Elements are those of a whole tile of one worker; on a GPU 32 of them are a warp's instruction,
/// on the host 16 a vector's. A new kind is a name here and a line in `countOps`; a cost of it one in autotune/src/model.cpp.
enum class Work {
  Exponential, ///< elements
  Elementwise, ///< elements: add, multiply, maximum, scale, mask, norms
  Pack,        ///< elements rounded to 16 bits
  Special,     ///< elements: reciprocals and logarithms
  Mma16,       ///< matrix instructions m16n8k16, 16-bit
  Mma8,        ///< m16n8k8, 16-bit
  MmaWide,     ///< m16n8k8, TF32
  Wgmma,       ///< a worker's part of the instructions of groups, as so many m16n8k16
  Transpose,   ///< 8 × 8 blocks turned, 16-bit
  Fma,         ///< multiply-adds of contractions and sums, where there is no matrix instruction
  Shared,      ///< bytes read from stages and stashes
  Parked,      ///< bytes read of latent operands that lie in global memory
  Memory,      ///< bytes to and from global memory beside the stream
};
constexpr size_t numWorks = 13;
llvm::StringRef nameOf(Work);

using Works = std::array<double, numWorks>;

/// One worker's work, by how often it is done. Fast bodies: what tiles within bounds take.
struct Counts {
  Works block{};  ///< once
  Works tile{};   ///< for each tile of tokens
  Works pairs{};  ///< for each 16 × 16 block of pairs
  int64_t pairsOfTile = 0; ///< such blocks in a tile, of one worker
  double held = 0;         ///< bytes in a worker's registers all through: accumulators and operands
};

/// Of a "sweep" kernel before layouts; `host`: for its vectors, otherwise for matrix instructions.
Counts countOps(tile::KernelOp kernel, bool host);

} // namespace flarec
