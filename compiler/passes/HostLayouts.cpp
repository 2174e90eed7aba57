// tile-assign-layouts for the host: the type says almost everything.
#include "passes/HostLayouts.h"
#include "layout/Layout.h"
#include "passes/LayoutAttr.h"
#include "llvm/ADT/DenseSet.h"

using namespace mlir;
using namespace flarec;
using tile::TileType;
using flare::Index;

namespace {

void steps(std::vector<Basis> &bases, Axis a, int from, int to) {
  for (int s = from; s < to; s *= 2)
    bases.push_back({a, s});
}

/// Values that must agree: accumulators on their way through a loop.
template <typename F> void forTies(tile::KernelOp kernel, F f) {
  auto loop = [&](ValueRange inits, ValueRange results, Region &region, unsigned first) {
    for (unsigned i = 0; i < inits.size(); ++i)
      f({inits[i], results[i], region.getArgument(first + i), region.front().getTerminator()->getOperand(i)});
  };
  kernel.walk([&](Operation *op) {
    if (auto pairs = dyn_cast<tile::PairsOp>(op))
      loop(pairs.getInits(), pairs.getResults(), pairs.getRegion(), 2 + pairs.getIns().size());
    else if (auto stream = dyn_cast<tile::StreamOp>(op))
      loop(stream.getInits(), stream.getResults(), stream.getRegion(), 1 + stream.getTokens().size());
    else if (auto branch = dyn_cast<scf::IfOp>(op))
      for (unsigned i = 0; i < branch.getNumResults(); ++i)
        f({branch.getResult(i), branch.thenYield().getOperand(i), branch.elseYield().getOperand(i)});
  });
}

} // namespace

bool flarec::isPartialSums(TileType t) {
  if (!t.getD() || !t.getLayout())
    return false;
  Layout l = fromAttr(t.getLayout());
  return llvm::any_of(l.lanes, [](const Basis &b) { return b.step && b.axis == Axis::d; });
}

void flarec::assignHostLayouts(tile::KernelOp kernel) {
  MLIRContext *ctx = kernel.getContext();
  Index rows = kernel.getConfig() ? kernel.getConfigAttr().getRows() : Index::m;
  llvm::DenseSet<Value> partial;
  if (kernel.getConfig()) {
    kernel.walk([&](tile::ContractOp op) {
      if (op.getOver() == rows) {
        partial.insert(op.getAcc());
        partial.insert(op.getOut());
      }
    });
    for (bool changed = !partial.empty(); changed;) {
      changed = false;
      forTies(kernel, [&](std::initializer_list<Value> tied) {
        if (llvm::any_of(tied, [&](Value v) { return partial.contains(v); }))
          for (Value v : tied)
            changed |= partial.insert(v).second;
      });
    }
  }
  auto layoutOf = [&](Value v, TileType t) {
    Layout l;
    int d = std::max<int>(1, t.getD());
    if (partial.contains(v)) {
      steps(l.registers, Axis::d, 16, d);
      steps(l.registers, Axis(int(tile::columnsOf(rows))), 1, tile::blockSize);
      for (int copies = 16 / d; copies > 1; copies /= 2)
        l.lanes.push_back({}); // parts of the sum
      steps(l.lanes, Axis::d, 1, std::min(d, 16));
    } else if (t.getN() && t.getM()) {
      steps(l.registers, Axis(int(tile::columnsOf(rows))), 1, tile::blockSize);
      steps(l.lanes, Axis(int(rows)), 1, tile::blockSize);
    } else {
      steps(l.registers, Axis::d, 1, d);
      steps(l.lanes, t.getN() ? Axis::n : Axis::m, 1, tile::blockSize);
    }
    return l;
  };
  auto lay = [&](Value v) {
    if (auto t = dyn_cast<TileType>(v.getType()))
      v.setType(t.withLayout(toAttr(ctx, layoutOf(v, t))));
  };
  kernel.walk([&](Operation *op) {
    for (Value v : op->getResults())
      lay(v);
    for (Region &r : op->getRegions())
      for (Block &b : r)
        for (Value v : b.getArguments())
          lay(v);
  });
}
