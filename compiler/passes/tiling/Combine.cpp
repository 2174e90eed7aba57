// Workers with the same rows that share out the columns: their parts of sums over these are added up, and each block of rows gets an owner.
#include "passes/tiling/Kernel.h"

using namespace flarec;
using namespace flarec::tiling;

SmallVector<SmallVector<int64_t>> SweepBuilder::combine(Region &region, ArrayRef<Operation *> ops, MutableArrayRef<Value> parts) {
  int64_t blocks = rowCount() / tile::blockSize;
  // What one map is made of has one owner.
  bool apart = llvm::all_of(region.front().getTerminator()->getOperands(), [&](Value y) {
    return !isTokens(y) || llvm::count_if(ops, [&](Operation *op) { return dependsOn(y, op); }) <= 1;
  });
  int64_t shares = blocks * (apart ? ops.size() : 1), sharers = config.getColumnWorkers();
  while (shares % sharers)
    --sharers;
  SmallVector<SmallVector<int64_t>> owners;
  SmallVector<int64_t> all;
  for (unsigned i = 0; i < ops.size(); ++i) {
    owners.emplace_back();
    for (int64_t r = 0; r < blocks; ++r)
      owners.back().push_back((apart ? i * blocks + r : r) * sharers / shares);
    all.append(owners.back());
  }
  auto sums = tile::CombineOp::create(b, loc, ValueRange(ArrayRef<Value>(parts)).getTypes(), ValueRange(ArrayRef<Value>(parts)), all);
  llvm::copy(sums.getSums(), parts.begin());
  return owners;
}
