// tile-to-nvvm: blocks of 16 × 16 scores, and the latent operands that wait for them in shared memory or in global memory (the stash).
#include "passes/nvvm/KernelLowering.h"

using namespace mlir;

namespace flarec::nvvm {

int64_t KernelLowering::registersOf(TileType t) {
  int64_t n = layoutOf(t).registerCount();
  return isHalf(t.getElement()) ? n / 2 : n;
}

void KernelLowering::emit(tile::StashOp op) {
  auto yield = cast<tile::YieldOp>(op.getRegion().front().getTerminator());
  int64_t first = op.getMemory() ? 0 : stashHeadBytes;
  StashPlan plan(op, config, first);
  for (auto [i, r] : llvm::enumerate(op.getResults())) {
    TileType t = tileType(yield.getResults()[i]);
    int64_t start = plan.swizzles[i] ? op.getMemory() ? 0 : plan.firstPage : first;
    stashes[r] = {op, {}, start + plan.offsets[i], registersOf(t), layoutOf(t).distinctLanes(), plan.blockBytes, plan.swizzles[i]};
  }
  Value base, block = worker, step = c32(config.getWorkers());
  if (op.getMemory()) {
    if (!op.getTensor()) {
      status = op.emitOpError("lies in no tensor; run tile-park first");
      return;
    }
    if (int64_t given = tensors[op.getTensor()].type.getChannels() * 4; given != plan.rowBytes()) {
      status = op.emitOpError() << "lies in rows of " << given << " bytes, and 16 latents take " << plan.rowBytes() << "; leave the tensor to tile-park";
      return;
    }
    base = rowAddress(tensors[op.getTensor()], c64(0));
    for (Value r : op.getResults())
      stashes[r].memory = base;
    if (kernel.getKind() == "sweep") { // a kernel before this one has filled it
      if (plan.pageBytes)
        pages = Pages{plan.pageBlocks, plan.pageBytes, plan.blocks / plan.pageBlocks, offset(base, plan.firstPage), {}, {}, {}, 0};
      return;
    }
    block = add(narrow(mul(rowGroup, mergeWorkers(kernel))), worker);
    step = c32(blocksPerHead(kernel) * mergeWorkers(kernel));
  } else {
    stashHeadBytes = plan.end;
    base = stashBase();
  }
  auto loop = scf::ForOp::create(b, loc, block, c32(plan.blocks), step);
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
      const Registers &x = tiles[yield.getResults()[i]];
      if (p.swizzle) {
        Value page = offset(base, p.offset);
        if (op.getMemory())
          page = offset(offset(page, plan.firstPage), widen(mul(div(block, plan.pageBlocks), plan.pageBytes)));
        storeSwizzled(x, page, *p.swizzle, op.getMemory() ? rem(block, plan.pageBlocks) : block);
        continue;
      }
      Value at = offset(base, widen(add(mul(block, p.blockBytes), p.offset)));
      if (p.lanes == 32)
        storeRegisters(x, at);
      else
        onlyIf(lt(lane, c32(p.lanes)), [&] { storeRegisters(x, at, p.lanes); });
    }
  }
  if (op.getMemory())
    return;
  if (plan.pageBytes)
    proxyFence();
  barrier();
}

void KernelLowering::storeRegisters(ArrayRef<Value> x, Value p, int64_t lanes) {
  for (int64_t first = 0, n; first < int64_t(x.size()); first += n) {
    n = chunkOf(x.size() - first);
    storeVector(x.slice(first, n), chunkAt(p, first, n, lanes));
  }
}

Registers KernelLowering::loadRegisters(Type e, int64_t registers, Value p, int64_t lanes) {
  Registers r;
  for (int64_t n; int64_t(r.size()) < registers;) {
    n = chunkOf(registers - r.size());
    r.append(loadVector(e, n, chunkAt(p, r.size(), n, lanes)));
  }
  return r;
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
  // Of global memory only what an earlier kernel has written is read so.
  bool invariant = cast<LLVM::LLVMPointerType>(p.getType()).getAddressSpace() == 1;
  auto v = LLVM::LoadOp::create(b, loc, n == 1 ? e : VectorType::get(n, e), p, 4 * n, /*isVolatile=*/false, /*isNonTemporal=*/false, invariant);
  if (n == 1)
    return {v};
  Registers r;
  for (int64_t i = 0; i < n; ++i)
    r.push_back(LLVM::ExtractElementOp::create(b, loc, v, c32(i)));
  return r;
}

Value KernelLowering::columnBlock(Parked p, Value column) {
  int64_t sharers = config.getColumnWorkers();
  return sharers == 1 ? column : add(column, mul(columnWorker, blocksOf(p.op.getLatents()) / sharers));
}

Registers KernelLowering::fetch(Value stash, Value block, TileType type) {
  Parked p = stashes[stash];
  Value at = offset(offset(p.memory ? p.memory : stashPointer, widen(mul(columnBlock(p, block), p.blockBytes))), p.offset);
  return loadRegisters(isHalf(type.getElement()) ? i32() : f32(), p.registers, at, p.lanes);
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
  if (pages && llvm::any_of(op.getIns(), [&](Value v) { return stashes.contains(v) && stashes[v].swizzle; })) {
    if (pages->blocks % unroll || pages->blocks * pages->count != colBlocks || pages->met++) {
      status = op.emitOpError() << "takes " << unroll << " of " << colBlocks << " blocks of columns at once; pages of " << pages->blocks << " blocks come by, " << pages->count
                                << " of them, once for each tile: leave unroll and the number of tile.pairs as they were, or edit an earlier stage";
      return;
    }
    paged(op, unroll, rowBlocks, state);
    for (auto [r, s] : llvm::zip(op.getResults(), state))
      tiles[r] = s;
    return;
  }
  // What starts at zero need not be multiplied where references are raised first. All columns start there.
  int64_t first = 0;
  bool zero = llvm::all_of(state, [](const Registers &s) { return llvm::all_of(s, [](Value v) { return matchPattern(v, m_Constant()); }); });
  if (hasGroups() && looped > unroll && zero && llvm::any_of(op.getRegion().front(), [](Operation &o) { return isa<tile::ExceedsOp>(o); })) {
    several(op, c32(0), unroll, rowBlocks, state);
    first = unroll;
  }
  if (looped > unroll) {
    constexpr int64_t chain = 16; // blocks of columns that are added to one sum
    bool summed = addsUp(op) && looped > 2 * chain;
    columns(op, first, summed ? std::max<int64_t>(1, chain / unroll) * unroll : looped, looped, unroll, rowBlocks, state);
    if (failed(status))
      return;
  } else {
    looped = 0;
  }
  if (looped < colBlocks)
    several(op, c32(looped), colBlocks - looped, rowBlocks, state);
  for (auto [r, s] : llvm::zip(op.getResults(), state))
    tiles[r] = s;
}

/// Are all accumulators nothing but sums, of terms with f32's precision?
bool KernelLowering::addsUp(tile::PairsOp op) {
  Block &body = op.getRegion().front();
  for (unsigned i = 0; i < op.getInits().size(); ++i) {
    Value v = body.getArgument(2 + op.getIns().size() + i);
    while (v.hasOneUse()) {
      Operation *user = *v.user_begin();
      if (auto contract = dyn_cast<tile::ContractOp>(user); contract && contract.getAcc() == v && !isHalf(tileType(contract.getA().front()).getElement()))
        v = contract.getOut();
      else if (auto sum = dyn_cast<tile::SumOp>(user); sum && sum.getAcc() == v)
        v = sum.getOut();
      else
        break;
    }
    if (isa<BlockArgument>(v) || body.getTerminator()->getOperand(i) != v || !v.hasOneUse())
      return false;
  }
  return !op.getInits().empty();
}

Registers KernelLowering::flattened(ArrayRef<Registers> state) {
  Registers all;
  for (auto &s : state)
    all.append(s);
  return all;
}

void KernelLowering::unflatten(ValueRange from, SmallVector<Registers> &state) {
  unsigned next = 0;
  for (auto &s : state) {
    size_t n = s.size();
    s = Registers(from.slice(next, n));
    next += n;
  }
}

void KernelLowering::columnLoop(Value first, Value last, int64_t step, SmallVector<Registers> &state, function_ref<void(Value)> body) {
  auto loop = scf::ForOp::create(b, loc, first, last, c32(step), flattened(state));
  loop->setAttr("flarec.no_unroll", b.getUnitAttr());
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(loop.getBody());
  tf32.clear();
  unflatten(loop.getRegionIterArgs(), state);
  body(loop.getInductionVar());
  scf::YieldOp::create(b, loc, flattened(state));
  tf32.clear();
  unflatten(loop.getResults(), state);
}

// All warps of a block pass one barrier a page, whichever body they are in.
void KernelLowering::paged(tile::PairsOp op, int64_t unroll, int64_t rowBlocks, SmallVector<Registers> &state) {
  columnLoop(c32(0), c32(pages->count), 1, state, [&](Value page) {
    takePage(page);
    Value first = pages->first;
    auto step = [&](Value column) { several(op, column, unroll, rowBlocks, state); };
    if (pages->blocks == unroll)
      step(first);
    else
      columnLoop(first, add(first, pages->blocks), unroll, state, step);
  });
}

// Hundreds of additions to one sum lose more bits than there are to lose in f32: a sum of `chunk` columns starts at zero and is added to the others' after that.
void KernelLowering::columns(tile::PairsOp op, int64_t from, int64_t chunk, int64_t looped, int64_t unroll, int64_t rowBlocks, SmallVector<Registers> &state) {
  auto unrolled = [&](Value first) { several(op, first, unroll, rowBlocks, state); };
  if (chunk == looped)
    return columnLoop(c32(from), c32(looped), unroll, state, unrolled);
  columnLoop(c32(from), c32(looped), chunk, state, [&](Value first) {
    Registers before = flattened(state);
    unflatten(Registers(before.size(), cf(0)), state);
    columnLoop(first, min(add(first, chunk), c32(looped)), unroll, state, unrolled);
    Registers sum;
    for (auto [x, y] : llvm::zip(before, flattened(state)))
      sum.push_back(fadd(x, y));
    unflatten(sum, state);
  });
}

void KernelLowering::bindColumn(tile::PairsOp op, BlockArgument arg, Value col) {
  if (arg.getArgNumber() < 2 || arg.getArgNumber() >= 2 + op.getIns().size())
    return;
  Value v = op.getIns()[arg.getArgNumber() - 2];
  TileType type = cast<TileType>(arg.getType());
  if (isa<tile::StashType>(v.getType())) {
    if (Parked p = stashes[v]; p.swizzle)
      rightOperands.insert_or_assign(arg, p.op.getMemory() ? RightOperand{offset(pages->address, p.offset), *p.swizzle, pages->first}
                                                           : RightOperand{offset(stashPointer, p.offset), *p.swizzle, {}});
    else
      tiles[arg] = fetch(v, col, type);
  } else if (auto stage = dyn_cast<tile::StageType>(v.getType())) {
    if (const StageAt &s = stages[v]; s.slot.swizzle && isRightOperand(arg))
      rightOperands.insert_or_assign(arg, RightOperand{s.address, *s.slot.swizzle, {}});
    else
      tiles[arg] = readStage(s, stage, type, mul(col, tile::blockSize));
  }
}

void KernelLowering::bindRow(tile::PairsOp op, int64_t row, const SmallVector<Registers> &state, int64_t column) {
  Index cols = tile::columnsOf(op.getRows());
  Block &body = op.getRegion().front();
  unsigned ins = op.getIns().size();
  numbers[body.getArgument(0)] = c64(row * tile::blockSize);
  for (auto [i, v] : llvm::enumerate(op.getIns()))
    if (isa<TileType>(v.getType())) {
      BlockArgument arg = body.getArgument(2 + i);
      int64_t n = registersOf(cast<TileType>(arg.getType()));
      tiles[arg] = Registers(ArrayRef(tiles[v]).slice(row * n, n));
    }
  for (unsigned i = 0; i < state.size(); ++i) {
    BlockArgument arg = body.getArgument(2 + ins + i);
    int64_t n = registersOf(cast<TileType>(arg.getType())), block = tileType(op.getInits()[i]).size(cols) ? column : row;
    tiles[arg] = Registers(ArrayRef(state[i]).slice(block * n, n));
  }
}

void KernelLowering::takeRow(tile::PairsOp op, int64_t row, SmallVector<Registers> &state, int64_t column) {
  Index cols = tile::columnsOf(op.getRows());
  for (auto [i, v] : llvm::enumerate(op.getRegion().front().getTerminator()->getOperands())) {
    const Registers &x = tiles[v];
    int64_t block = tileType(op.getInits()[i]).size(cols) ? column : row;
    std::copy(x.begin(), x.end(), state[i].begin() + block * int64_t(x.size()));
  }
}

void KernelLowering::column(tile::PairsOp op, Value col, int64_t rowBlocks, SmallVector<Registers> &state) {
  Block &body = op.getRegion().front();
  numbers[body.getArgument(1)] = fold(widen(mul(col, tile::blockSize)));
  for (BlockArgument arg : body.getArguments())
    bindColumn(op, arg, col);
  // Accumulators along columns: which block is known, such loops are unrolled.
  APInt which;
  int64_t known = matchPattern(col, m_ConstantInt(&which)) ? which.getSExtValue() : 0;
  auto bind = [&](int64_t r) { bindRow(op, r, state, known); };
  auto take = [&](int64_t r) { takeRow(op, r, state, known); };
  if (rowBlocks > 1 && succeeded(rowsTogether(op, rowBlocks, bind, take)))
    return;
  for (int64_t r = 0; r < rowBlocks && succeeded(status); ++r) {
    bind(r);
    lowerBlock(body);
    if (succeeded(status))
      take(r);
  }
}

// Where each block of rows asks whether a weight has become infinite all of them ask at once: one vote, and longer runs of independent instructions.
LogicalResult KernelLowering::rowsTogether(tile::PairsOp op, int64_t rowBlocks, function_ref<void(int64_t)> bind, function_ref<void(int64_t)> take) {
  Block &body = op.getRegion().front();
  auto checks = body.getOps<tile::OverflowsOp>();
  if (!llvm::hasSingleElement(checks) || !(*checks.begin())->hasOneUse())
    return failure();
  tile::OverflowsOp check = *checks.begin();
  auto raise = dyn_cast<scf::IfOp>(*check->user_begin());
  if (!raise || raise->getBlock() != &body || check->getNextNode() != raise)
    return failure();
  SmallVector<std::pair<DenseMap<Value, Registers>, DenseMap<Value, Value>>> rows;
  Value beyond;
  for (int64_t r = 0; r < rowBlocks; ++r) {
    bind(r);
    for (Operation &o : llvm::make_range(body.begin(), check->getIterator())) {
      lower(&o);
      if (failed(status))
        return success();
    }
    Value here = overflowsHere(check);
    beyond = beyond ? orBits(beyond, here) : here;
    rows.push_back({tiles, numbers});
  }
  auto at = [&](int64_t r) { std::tie(tiles, numbers) = rows[r]; };
  Value any = anyLane(beyond);
  SmallVector<Type> types;
  for (int64_t r = 0; r < rowBlocks; ++r)
    for (Value v : raise.getResults()) {
      TileType t = tileType(v);
      types.append(blocksOf(t) * registersOf(t), isHalf(t.getElement()) ? Type(i32()) : Type(f32()));
    }
  auto give = [&](Block *from) {
    Registers all;
    for (int64_t r = 0; r < rowBlocks && succeeded(status); ++r) {
      at(r);
      lowerBlock(*from);
      for (Value v : from->getTerminator()->getOperands())
        if (succeeded(status))
          flatten(v, all);
    }
    return all;
  };
  ValueRange chosen = choose(any, types, [&] { return give(raise.thenBlock()); }, [&] { return give(raise.elseBlock()); });
  if (failed(status))
    return success();
  unsigned next = 0;
  for (int64_t r = 0; r < rowBlocks; ++r) {
    at(r);
    for (Value v : raise.getResults())
      unflatten(v, chosen, next);
    for (Operation &o : llvm::make_range(std::next(raise->getIterator()), body.getTerminator()->getIterator()))
      if (succeeded(status))
        lower(&o);
    if (succeeded(status))
      take(r);
  }
  return success();
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
