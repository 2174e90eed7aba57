// tile-to-nvvm: blocks of 16 × 16 scores, and the latent operands that wait for them in shared memory (the stash).
#include "passes/nvvm/KernelLowering.h"

using namespace mlir;

namespace flarec::nvvm {

int64_t KernelLowering::registersOf(TileType t) {
  int64_t n = layoutOf(t).registerCount();
  return isHalf(t.getElement()) ? n / 2 : n;
}

void KernelLowering::emit(tile::StashOp op) {
  auto yield = cast<tile::YieldOp>(op.getRegion().front().getTerminator());
  int64_t count = blocksOf(op.getLatents());
  for (auto [i, r] : llvm::enumerate(op.getResults())) {
    int64_t regs = registersOf(tileType(yield.getResults()[i]));
    stashes[r] = {stashHeadBytes, regs, op, unsigned(i)};
    if (config.getPark() == "shared")
      stashHeadBytes += (count * regs * 128 + 15) / 16 * 16;
  }
  if (config.getPark() != "shared")
    return;
  Value headBase = stashBase();
  auto loop = scf::ForOp::create(b, loc, worker, c32(count), c32(config.getWorkers()));
  {
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(loop.getBody());
    Value block = loop.getInductionVar();
    numbers[op.getRegion().getArgument(0)] = widen(mul(block, tile::blockSize));
    lowerBlock(op.getRegion().front());
    if (failed(status))
      return;
    for (auto [i, r] : llvm::enumerate(op.getResults())) {
      Parked p = stashes[r];
      Value at = offset(offset(headBase, p.offset), widen(mul(block, p.registers * 128)));
      const Registers &x = tiles[yield.getResults()[i]];
      forChunks(p.registers, [&](int64_t first, int64_t n, int64_t bytes) {
        Value q = offset(offset(at, bytes), widen(mul(lane, n * 4)));
        storeVector(ArrayRef(x).slice(first, n), q);
      });
    }
  }
  barrier();
}

void KernelLowering::storeVector(ArrayRef<Value> x, Value p) {
  if (x.size() == 1)
    return store(x[0], p, 4);
  Value v = LLVM::UndefOp::create(b, loc, VectorType::get(x.size(), x[0].getType()));
  for (auto [i, e] : llvm::enumerate(x))
    v = LLVM::InsertElementOp::create(b, loc, v, e, c32(i));
  store(v, p, 4 * x.size());
}

Registers KernelLowering::loadVector(Type e, int64_t n, Value p) {
  if (n == 1)
    return {load(e, p, 4)};
  Value v = load(VectorType::get(n, e), p, 4 * n);
  Registers r;
  for (int64_t i = 0; i < n; ++i)
    r.push_back(LLVM::ExtractElementOp::create(b, loc, v, c32(i)));
  return r;
}

Registers KernelLowering::fetch(Value stash, Value block, TileType type) {
  Parked p = stashes[stash];
  if (config.getPark() != "shared") {
    // Nothing parked: compute this block again.
    numbers[p.op.getRegion().getArgument(0)] = widen(mul(block, tile::blockSize));
    lowerBlock(p.op.getRegion().front());
    return tiles[p.op.getRegion().front().getTerminator()->getOperand(p.result)];
  }
  Value at = offset(offset(stashPointer, p.offset), widen(mul(block, p.registers * 128)));
  Type e = isHalf(type.getElement()) ? i32() : f32();
  Registers r;
  forChunks(p.registers, [&](int64_t, int64_t n, int64_t bytes) {
    Value q = offset(offset(at, bytes), widen(mul(lane, n * 4)));
    r.append(loadVector(e, n, q));
  });
  return r;
}

void KernelLowering::emit(tile::PairsOp op) {
  Index rows = op.getRows(), cols = tile::columnsOf(rows);
  int64_t rowBlocks = 1, colBlocks = 1;
  auto measure = [&](Type t) {
    if (auto x = dyn_cast<TileType>(t)) {
      rowBlocks = std::max(rowBlocks, blocksOf(x.size(rows)));
      colBlocks = std::max(colBlocks, blocksOf(x.size(cols)));
    } else if (auto x = dyn_cast<tile::StageType>(t)) {
      colBlocks = std::max(colBlocks, blocksOf(x.getN()));
    } else if (auto x = dyn_cast<tile::StashType>(t)) {
      colBlocks = std::max(colBlocks, blocksOf(x.getM()));
    }
  };
  bool columnState = false;
  for (Type t : op.getIns().getTypes())
    measure(t);
  for (Value v : op.getInits()) {
    measure(v.getType());
    columnState |= tileType(v).size(cols) != 0;
  }
  SmallVector<Registers> state;
  for (Value v : op.getInits())
    state.push_back(tiles[v]);
  int64_t unroll = op.getUnroll() == 0 || columnState ? colBlocks : std::min<int64_t>(op.getUnroll(), colBlocks);
  int64_t looped = colBlocks / unroll * unroll;
  if (looped > unroll) {
    Registers flat;
    for (auto &s : state)
      flat.append(s);
    auto loop = scf::ForOp::create(b, loc, c32(0), c32(looped), c32(unroll), flat);
    loop->setAttr("flarec.no_unroll", b.getUnitAttr());
    {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(loop.getBody());
      tf32.clear();
      unsigned next = 0;
      for (auto &s : state) {
        size_t n = s.size();
        s = Registers(ValueRange(loop.getRegionIterArgs()).slice(next, n));
        next += n;
      }
      for (int64_t u = 0; u < unroll; ++u)
        column(op, add(loop.getInductionVar(), u), rowBlocks, state);
      if (failed(status))
        return;
      Registers yields;
      for (auto &s : state)
        yields.append(s);
      scf::YieldOp::create(b, loc, yields);
    }
    tf32.clear();
    unsigned next = 0;
    for (auto &s : state) {
      size_t n = s.size();
      s = Registers(ValueRange(loop.getResults()).slice(next, n));
      next += n;
    }
  } else {
    looped = 0;
  }
  for (int64_t c = looped; c < colBlocks && succeeded(status); ++c)
    column(op, c32(c), rowBlocks, state);
  for (auto [r, s] : llvm::zip(op.getResults(), state))
    tiles[r] = s;
}

void KernelLowering::column(tile::PairsOp op, Value col, int64_t rowBlocks, SmallVector<Registers> &state) {
  Index cols = tile::columnsOf(op.getRows());
  Block &body = op.getRegion().front();
  unsigned ins = op.getIns().size();
  numbers[body.getArgument(1)] = fold(widen(mul(col, tile::blockSize)));
  for (auto [i, v] : llvm::enumerate(op.getIns())) {
    BlockArgument arg = body.getArgument(2 + i);
    TileType type = cast<TileType>(arg.getType());
    if (isa<tile::StashType>(v.getType()))
      tiles[arg] = fetch(v, col, type);
    else if (auto stage = dyn_cast<tile::StageType>(v.getType()))
      tiles[arg] = readStage(stages[v], stage, type, mul(col, tile::blockSize));
  }
  for (int64_t r = 0; r < rowBlocks && succeeded(status); ++r) {
    numbers[body.getArgument(0)] = c64(r * tile::blockSize);
    for (auto [i, v] : llvm::enumerate(op.getIns()))
      if (isa<TileType>(v.getType())) {
        BlockArgument arg = body.getArgument(2 + i);
        int64_t n = registersOf(cast<TileType>(arg.getType()));
        tiles[arg] = Registers(ArrayRef(tiles[v]).slice(r * n, n));
      }
    // Accumulators along columns: which block is known, such loops are unrolled.
    APInt which;
    auto blockOf = [&](TileType t) -> int64_t {
      if (!t.size(cols))
        return r;
      return matchPattern(col, m_ConstantInt(&which)) ? which.getSExtValue() : 0;
    };
    for (unsigned i = 0; i < state.size(); ++i) {
      BlockArgument arg = body.getArgument(2 + ins + i);
      int64_t n = registersOf(cast<TileType>(arg.getType()));
      tiles[arg] = Registers(ArrayRef(state[i]).slice(blockOf(tileType(op.getInits()[i])) * n, n));
    }
    lowerBlock(body);
    if (failed(status))
      return;
    for (auto [i, v] : llvm::enumerate(body.getTerminator()->getOperands())) {
      const Registers &x = tiles[v];
      std::copy(x.begin(), x.end(), state[i].begin() + blockOf(tileType(op.getInits()[i])) * int64_t(x.size()));
    }
  }
}

Value KernelLowering::fold(Value v) {
  APInt c;
  if (auto ext = v.getDefiningOp<arith::ExtUIOp>())
    if (auto m = ext.getIn().getDefiningOp<arith::MulIOp>()) {
      APInt x, y;
      if (matchPattern(m.getLhs(), m_ConstantInt(&x)) && matchPattern(m.getRhs(), m_ConstantInt(&y)))
        return c64(x.getSExtValue() * y.getSExtValue());
    }
  return v;
}

} // namespace flarec::nvvm
