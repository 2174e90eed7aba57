// Tiles as lists of registers: what the lowerings to every target share.
#pragma once
#include "layout/Layout.h"
#include "passes/LayoutAttr.h"
#include "passes/Sizes.h"
#include "tile/Tile.h"
#include "llvm/ADT/STLExtras.h"
#include <numeric>
#include <optional>

namespace flarec {

/// The registers of one lane (or of the host's one thread, as vectors), block after block of 16 rows or columns.
using Registers = llvm::SmallVector<mlir::Value>;

inline Layout layoutOf(tile::TileType t) { return fromAttr(t.getLayout()); }

/// How many times the layout must be repeated to cover the tile.
inline int64_t blocksOf(tile::TileType t) {
  Layout l = layoutOf(t);
  int64_t extent[3] = {1, 1, 1};
  for (auto *bases : {&l.registers, &l.lanes})
    for (const Basis &b : *bases)
      extent[int(b.axis)] += b.step;
  auto times = [](int64_t size, int64_t covered) { return size ? (size + covered - 1) / covered : 1; };
  return times(t.getN(), extent[0]) * times(t.getM(), extent[1]);
}

/// What the address of a row is a multiple of, where rows lie side by side: 16 bytes at most, which is the most that one copy moves.
inline int64_t rowAlignment(flare::FlareTensorType t) {
  return std::gcd<int64_t>(16, t.getChannels() * bytesOf(t.getElement()));
}

/// Is the value multiplied by? Groups of workers read it from shared memory then, and no lane does.
inline bool isRightOperand(mlir::Value v) {
  return llvm::any_of(v.getUses(), [](mlir::OpOperand &use) {
    auto contract = mlir::dyn_cast<tile::ContractOp>(use.getOwner());
    return contract && llvm::is_contained(contract.getB(), use.get());
  });
}

/// How the operands of a stash lie. For each block of 16 latents what lanes read; behind all of that what groups multiply by (`Swizzle`), in pages that follow each other:
/// from global memory one page after the other comes to fast memory while a tile of tokens is worked on, in fast memory itself all is one page.
struct StashPlan {
  int64_t blocks, blockBytes = 0;
  int64_t pageBlocks, pageBytes;
  int64_t firstPage, end;             // bytes
  llvm::SmallVector<int64_t> offsets; // of each operand in a block, or in a page
  llvm::SmallVector<std::optional<Swizzle>> swizzles;

  StashPlan(tile::StashOp op, tile::ConfigAttr config, int64_t first = 0) : blocks(blocksOf(op.getLatents())) {
    auto isRight = [&](tile::TileType t) { return config.hasGroups() && t.getD(); };
    auto types = llvm::map_to_vector(op.getRegion().front().getTerminator()->getOperands(), [](mlir::Value v) { return mlir::cast<tile::TileType>(v.getType()); });
    llvm::SmallVector<int64_t> channels; // of what is in pages
    for (tile::TileType t : types)
      if (isRight(t))
        channels.push_back(t.getD());
    pageBlocks = op.getMemory() && !channels.empty() ? flarec::pageBlocks(blocks, config.getUnroll(), channels) : blocks;
    PageLayout page(pageBlocks, channels);
    pageBytes = page.bytes;
    auto *offset = page.offsets.begin();
    for (tile::TileType t : types) {
      swizzles.emplace_back();
      if (isRight(t)) {
        swizzles.back().emplace(pageBlocks * tile::blockSize, t.getD());
        offsets.push_back(*offset++);
      } else {
        Layout l = layoutOf(t);
        offsets.push_back(blockBytes);
        blockBytes += int64_t(l.registerCount()) * l.distinctLanes() * bytesOf(t.getElement());
      }
    }
    firstPage = first + blocks * blockBytes;
    if (pageBytes)
      firstPage = roundUp(firstPage, Swizzle::alignment);
    end = firstPage + blocks / pageBlocks * pageBytes;
  }
  /// Of the rows, one for each block of 16 latents, of the tensor that it all lies in; a head's start is on 16 bytes.
  int64_t rowBytes() const { return roundUp((end + blocks - 1) / blocks, 16); }
};

/// Latents that a block of a `merge` finishes: on a GPU as many as a warp's lanes can take 4 channels of at once, but 4 at least; on the host 32.
constexpr int64_t hostMergeRows = 32;
inline int64_t mergeRows(int64_t channels) { return std::max<int64_t>(4, 32 / std::max<int64_t>(1, channels / 4)); }
inline int64_t mergeRows(tile::KernelOp kernel) {
  int64_t rows = 1;
  kernel.walk([&](tile::StoreOp s) { rows = s.getTile().getType().getM(); });
  return rows;
}

/// Workers of a block on a GPU in kernels that run over latents instead of tokens. Merges wait for memory, so they have many; sweeps of many channels leave them few
/// splits, and of many latents fewer still: no more workers than there are parts of 8 heads, which is what FLARE's models have, since idle ones keep other blocks out.
inline int64_t mergeWorkers(tile::KernelOp kernel) {
  int64_t most = kernel.getKind() == "park" || mergeRows(kernel) <= 4 ? 8 : 16;
  if (auto program = kernel->getParentOfType<tile::ProgramOp>(); program && kernel.getKind() == "merge")
    for (auto sweep : program.getOps<tile::KernelOp>())
      if (tile::ConfigAttr c = sweep.getConfigAttr(); sweep.getKind() == "sweep" && sweep.getSweep() == kernel.getSweep() && c.getRows() == flare::Index::m)
        while (most > 2 && most * c.getRowGroups() * std::max<int64_t>(1, 8 / c.getHeads()) > c.getBlocks())
          most /= 2;
  return most;
}

/// Of a block on a GPU.
inline int64_t threadsOf(tile::KernelOp kernel) {
  return kernel.getKind() == "sweep" ? kernel.getConfigAttr().getThreads() : 32 * mergeWorkers(kernel);
}

/// Blocks that each head has in such a kernel, and 1 in others; in a `park` kernel each worker has 16 latents.
inline int64_t blocksPerHead(tile::KernelOp kernel) {
  if (kernel.getKind() == "sweep")
    return 1;
  int64_t latents = 1, covered = kernel.getKind() == "park" ? mergeWorkers(kernel) * tile::blockSize : mergeRows(kernel);
  kernel.walk([&](tile::StoreOp s) { latents = s.getTensor().getType().getLatents(); });
  if (kernel.getKind() == "park")
    kernel.walk([&](tile::StashOp s) { latents = s.getLatents(); });
  return (latents + covered - 1) / covered;
}

} // namespace flarec
