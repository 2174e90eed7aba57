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
  int64_t count = blocksOf(op.getLatents()), first = op.getMemory() ? 0 : stashHeadBytes, bytes = 0;
  for (auto [i, r] : llvm::enumerate(op.getResults())) {
    TileType t = tileType(yield.getResults()[i]);
    stashes[r] = {op, {}, first + bytes, registersOf(t), layoutOf(t).distinctLanes(), 0};
    if (isSwizzled(r))
      stashes[r].swizzle.emplace(count * tile::blockSize, t.getD());
    else
      bytes += stashes[r].registers * stashes[r].lanes * 4;
  }
  int64_t end = first + count * bytes; // behind all blocks what is swizzled
  bool anySwizzled = false;
  for (Value r : op.getResults()) {
    stashes[r].blockBytes = bytes;
    if (!stashes[r].swizzle)
      continue;
    anySwizzled = true;
    stashes[r].offset = roundUp(end, Swizzle::alignment);
    end = roundUp(stashes[r].offset + stashes[r].swizzle->bytes(), Swizzle::alignment);
  }
  Value base, block = worker, step = c32(config.getWorkers());
  if (op.getMemory()) {
    if (!op.getTensor()) {
      status = op.emitOpError("lies in no tensor; run tile-park first");
      return;
    }
    if (int64_t given = tensors[op.getTensor()].type.getChannels() * 4; given != bytes) {
      status = op.emitOpError() << "lies in rows of " << given << " bytes, and 16 latents take " << bytes << "; leave the tensor to tile-park";
      return;
    }
    base = rowAddress(tensors[op.getTensor()], c64(0));
    for (Value r : op.getResults())
      stashes[r].memory = base;
    if (kernel.getKind() == "sweep")
      return; // a kernel before this one has filled it
    block = add(narrow(mul(rowGroup, mergeWorkers(kernel))), worker);
    step = c32(blocksPerHead(kernel) * mergeWorkers(kernel));
  } else {
    stashHeadBytes = end;
    base = stashBase();
  }
  auto loop = scf::ForOp::create(b, loc, block, c32(count), step);
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
        storeSwizzled(x, offset(base, p.offset), *p.swizzle, block);
        continue;
      }
      Value at = offset(base, widen(add(mul(block, p.blockBytes), p.offset)));
      if (p.lanes == 32)
        storeRegisters(x, at);
      else
        onlyIf(lt(lane, c32(p.lanes)), [&] { storeRegisters(x, at, p.lanes); });
    }
  }
  if (anySwizzled)
    proxyFence();
  if (!op.getMemory())
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

// Hundreds of additions to one sum lose more bits than there are to lose in f32: a sum of `chunk` columns starts at zero and is added to the others' after that.
void KernelLowering::columns(tile::PairsOp op, int64_t from, int64_t chunk, int64_t looped, int64_t unroll, int64_t rowBlocks, SmallVector<Registers> &state) {
  auto flat = [&] {
    Registers all;
    for (auto &s : state)
      all.append(s);
    return all;
  };
  auto take = [&](ValueRange from) {
    unsigned next = 0;
    for (auto &s : state) {
      size_t n = s.size();
      s = Registers(from.slice(next, n));
      next += n;
    }
  };
  auto loop = [&](Value first, Value last, int64_t step, function_ref<void(Value)> body) {
    auto loop = scf::ForOp::create(b, loc, first, last, c32(step), flat());
    loop->setAttr("flarec.no_unroll", b.getUnitAttr());
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(loop.getBody());
    tf32.clear();
    take(loop.getRegionIterArgs());
    body(loop.getInductionVar());
    scf::YieldOp::create(b, loc, flat());
    tf32.clear();
    take(loop.getResults());
  };
  auto unrolled = [&](Value first) { several(op, first, unroll, rowBlocks, state); };
  if (chunk == looped)
    return loop(c32(from), c32(looped), unroll, unrolled);
  loop(c32(from), c32(looped), chunk, [&](Value first) {
    Registers before = flat();
    take(Registers(before.size(), cf(0)));
    loop(first, min(add(first, chunk), c32(looped)), unroll, unrolled);
    Registers sum;
    for (auto [x, y] : llvm::zip(before, flat()))
      sum.push_back(fadd(x, y));
    take(sum);
  });
}

namespace {
/// The branch that raises references where one is exceeded.
scf::IfOp raiseOf(Operation &o) {
  auto exceeds = dyn_cast<tile::ExceedsOp>(o);
  auto branch = exceeds && exceeds->getNextNode() ? dyn_cast<scf::IfOp>(exceeds->getNextNode()) : scf::IfOp();
  return branch && branch.getCondition() == exceeds.getAny() && exceeds.getAny().hasOneUse() ? branch : scf::IfOp();
}

/// An accumulator and what adds to it, if all that is done with the two is that the sum is handed over.
bool isAddedTo(Value acc, Value sum) { return acc.hasOneUse() && sum.hasOneUse() && isa<tile::YieldOp>(*sum.user_begin()); }

bool adds(Operation *o) {
  if (auto contract = dyn_cast<tile::ContractOp>(o))
    return contract.getOver() != Index::d && isAddedTo(contract.getAcc(), contract.getOut());
  auto sum = dyn_cast<tile::SumOp>(o);
  return sum && isAddedTo(sum.getAcc(), sum.getOut());
}

/// May columns go through the body together, op by op? Then accumulators are added to, or raised before that, and nothing else is done with them.
bool goTogether(tile::PairsOp op) {
  Block &body = op.getRegion().front();
  DenseSet<Operation *> raises;
  for (Operation &o : body)
    if (scf::IfOp branch = raiseOf(o)) {
      raises.insert(&o);
      raises.insert(branch);
      for (Operation *u : cast<tile::ExceedsOp>(o).getX().getUsers())
        if (auto reduce = dyn_cast<tile::ReduceOp>(u); branch->isProperAncestor(u) && (!reduce || reduce.getKind() != "max" || reduce.getOver() == op.getRows()))
          return false;
      for (auto [result, otherwise] : llvm::zip(branch.getResults(), branch.elseYield().getOperands())) {
        auto arg = dyn_cast<BlockArgument>(otherwise);
        if (!arg || arg.getOwner() != &body || !llvm::all_of(result.getUsers(), [&](Operation *u) { return u->getBlock() == &body && (!isa<tile::ContractOp, tile::SumOp>(u) || adds(u)); }))
          return false;
      }
    } else if (o.getNumRegions() && !raises.contains(&o)) {
      return false;
    }
  for (BlockArgument arg : body.getArguments().drop_front(2 + op.getIns().size()))
    for (Operation *u : arg.getUsers())
      if (!raises.contains(body.findAncestorOpInBlock(*u)) && !adds(u))
        return false;
  return true;
}
} // namespace

// Column by column, unless they have to come to a matrix instruction together, or ask together whether a reference is exceeded: one vote for all of them, and longer
// runs of independent instructions.
void KernelLowering::several(tile::PairsOp op, Value first, int64_t count, int64_t rowBlocks, SmallVector<Registers> &state) {
  APInt known;
  auto further = [&](Value x, int64_t c) { return matchPattern(x, m_ConstantInt(&known)) ? c32(known.getSExtValue() + c) : add(x, c); };
  bool raises = llvm::any_of(op.getRegion().front(), [](Operation &o) { return bool(raiseOf(o)); });
  bool broad = llvm::any_of(op.getInits(), [](Value v) { return tileType(v).getD() >= 32; });
  // Of more columns registers hold no more; one alone is worth it for masks of tokens.
  int64_t most = hasGroups() ? count : broad && rowBlocks <= 2 ? 2 : 1;
  if ((hasGroups() || (raises && (most > 1 || op.getRows() == Index::m))) && goTogether(op)) {
    for (int64_t c = 0; c < count && succeeded(status); c += most)
      together(op, further(first, c), std::min(most, count - c), rowBlocks, state);
    return;
  }
  for (int64_t c = 0; c < count && succeeded(status); ++c)
    if (hasGroups())
      together(op, further(first, c), 1, rowBlocks, state);
    else
      column(op, further(first, c), rowBlocks, state);
}

void KernelLowering::together(tile::PairsOp op, Value first, int64_t count, int64_t rowBlocks, SmallVector<Registers> &state) {
  Block &body = op.getRegion().front();
  SmallVector<Column> columns;
  for (int64_t c = 0; c < count; ++c) {
    Value col = c ? add(first, c) : first;
    numbers[body.getArgument(1)] = fold(widen(mul(col, tile::blockSize)));
    columns.push_back({col, tiles, numbers, {}});
  }
  auto within = [&](Column &c, function_ref<void()> work) {
    auto exchange = [&] {
      std::swap(tiles, c.tiles);
      std::swap(numbers, c.numbers);
      std::swap(packed, c.packed);
    };
    exchange();
    work();
    exchange();
  };
  // A column's parts are read where they are needed first.
  DenseSet<Value> bound;
  auto bindUsed = [&](Operation &o) {
    o.walk([&](Operation *inner) {
      for (Value v : inner->getOperands())
        if (auto arg = dyn_cast<BlockArgument>(v); arg && arg.getOwner() == &body && bound.insert(v).second)
          for (Column &c : columns)
            within(c, [&] { bindColumn(op, arg, c.number); });
    });
  };
  for (int64_t r = 0; r < rowBlocks && succeeded(status); ++r) {
    for (Column &c : columns)
      within(c, [&] { bindRow(op, r, state); });
    SmallVector<tile::ContractOp> last; // nobody waits for these, and everything that comes later would
    for (Operation &o : body.without_terminator()) {
      bindUsed(o);
      auto contract = dyn_cast<tile::ContractOp>(o);
      auto mask = dyn_cast<tile::MaskOp>(o);
      if (contract && hasGroups() && adds(&o)) {
        last.push_back(contract);
      } else if (contract && hasGroups()) {
        groupContract(contract, columns);
      } else if (mask && mask.getOver() == Index::n && op.getRows() == Index::m) {
        maskLast(mask, columns);
      } else if (scf::IfOp branch = raiseOf(o)) {
        raise(cast<tile::ExceedsOp>(o), branch, columns);
      } else if (!isa<scf::IfOp>(o) || !o.getPrevNode() || !raiseOf(*o.getPrevNode())) {
        for (auto [index, c] : llvm::enumerate(columns)) {
          if (index && adds(&o)) { // to what the column before has added to
            Value acc = contract ? contract.getAcc() : cast<tile::SumOp>(o).getAcc();
            c.tiles[acc] = columns[index - 1].tiles[o.getResult(0)];
          }
          within(c, [&] { lower(&o); });
        }
      }
      if (failed(status))
        return;
    }
    for (tile::ContractOp contract : last)
      groupContract(contract, columns);
    if (failed(status))
      return;
    within(columns.back(), [&] { takeRow(op, r, state); });
  }
}

// All tiles but the last are full. Asked once for all columns, masks cost nothing there.
void KernelLowering::maskLast(tile::MaskOp op, MutableArrayRef<Column> columns) {
  Registers full;
  for (Column &c : columns)
    full.append(c.tiles[op.getX()]);
  Value end = add(columns.back().numbers[op.getFirst()], tile::blockSize);
  auto types = llvm::map_to_vector(full, [](Value v) { return v.getType(); });
  auto branch = scf::IfOp::create(b, loc, types, lt(columns.back().numbers[op.getLimit()], end), true);
  {
    OpBuilder::InsertionGuard guard(b);
    for (Block *block : {branch.thenBlock(), branch.elseBlock()})
      block->clear();
    b.setInsertionPointToStart(branch.elseBlock());
    scf::YieldOp::create(b, loc, full);
    b.setInsertionPointToStart(branch.thenBlock());
    Registers masked;
    for (Column &c : columns) {
      std::swap(tiles, c.tiles);
      std::swap(numbers, c.numbers);
      emit(op);
      masked.append(tiles[op.getOut()]);
      std::swap(tiles, c.tiles);
      std::swap(numbers, c.numbers);
    }
    scf::YieldOp::create(b, loc, masked);
  }
  int64_t count = full.size() / columns.size();
  for (auto [i, c] : llvm::enumerate(columns))
    c.tiles[op.getOut()] = Registers(branch.getResults().slice(i * count, count));
}

void KernelLowering::raise(tile::ExceedsOp exceeds, scf::IfOp branch, MutableArrayRef<Column> columns) {
  Column &front = columns.front(); // nobody's reference is raised yet: all have the same
  Value any;
  for (Column &c : columns) {
    std::swap(tiles, c.tiles);
    Value here = exceedsHere(exceeds);
    any = any ? Value(arith::OrIOp::create(b, loc, any, here)) : here;
    std::swap(tiles, c.tiles);
  }
  Registers unraised;
  for (Value v : branch.elseYield().getOperands())
    unraised.append(front.tiles[v]);
  auto types = llvm::map_to_vector(unraised, [](Value v) { return v.getType(); });
  auto raised = scf::IfOp::create(b, loc, types, anyLane(any), true);
  {
    OpBuilder::InsertionGuard guard(b);
    for (Block *block : {raised.thenBlock(), raised.elseBlock()})
      block->clear();
    b.setInsertionPointToStart(raised.elseBlock());
    scf::YieldOp::create(b, loc, unraised);
    b.setInsertionPointToStart(raised.thenBlock());
    auto all = front.tiles;
    std::swap(tiles, all);
    std::swap(numbers, front.numbers);
    // Element by element the largest of all columns: the branch asks for the largest of each row alone.
    for (Column &c : columns.drop_front())
      for (auto [x, y] : llvm::zip(tiles[exceeds.getX()], c.tiles[exceeds.getX()]))
        x = maxNaN(x, y);
    zeroStays = true;
    lowerBlock(*branch.thenBlock());
    zeroStays = false;
    Registers yields;
    for (Value v : branch.thenYield().getOperands())
      flatten(v, yields);
    std::swap(tiles, all);
    std::swap(numbers, front.numbers);
    if (failed(status))
      return;
    scf::YieldOp::create(b, loc, yields);
  }
  for (Column &c : columns) {
    std::swap(tiles, c.tiles);
    unsigned next = 0;
    for (Value v : branch.getResults())
      unflatten(v, raised.getResults(), next);
    std::swap(tiles, c.tiles);
  }
}

void KernelLowering::bindColumn(tile::PairsOp op, BlockArgument arg, Value col) {
  if (arg.getArgNumber() < 2 || arg.getArgNumber() >= 2 + op.getIns().size())
    return;
  Value v = op.getIns()[arg.getArgNumber() - 2];
  TileType type = cast<TileType>(arg.getType());
  if (isa<tile::StashType>(v.getType())) {
    if (Parked p = stashes[v]; p.swizzle)
      rightOperands.insert_or_assign(arg, RightOperand{offset(stashPointer, p.offset), *p.swizzle});
    else
      tiles[arg] = fetch(v, col, type);
  } else if (auto stage = dyn_cast<tile::StageType>(v.getType())) {
    if (const StageAt &s = stages[v]; s.slot.swizzle && isRightOperand(arg))
      rightOperands.insert_or_assign(arg, RightOperand{s.address, *s.slot.swizzle});
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
  auto branch = scf::IfOp::create(b, loc, types, any, true);
  for (bool otherwise : {false, true}) {
    OpBuilder::InsertionGuard guard(b);
    Block *block = otherwise ? branch.elseBlock() : branch.thenBlock(), *from = otherwise ? raise.elseBlock() : raise.thenBlock();
    block->clear();
    b.setInsertionPointToStart(block);
    Registers all;
    for (int64_t r = 0; r < rowBlocks; ++r) {
      at(r);
      lowerBlock(*from);
      if (failed(status))
        return success();
      for (Value v : from->getTerminator()->getOperands())
        flatten(v, all);
    }
    scf::YieldOp::create(b, loc, all);
  }
  unsigned next = 0;
  for (int64_t r = 0; r < rowBlocks; ++r) {
    at(r);
    for (Value v : raise.getResults())
      unflatten(v, branch.getResults(), next);
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
