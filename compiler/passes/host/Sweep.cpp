// A sweep: the loops around a tile of tokens, and where everything that outlives one lies.
//
//     for each head: prologue                       operands, first state, table of latents → scratch
//     for a few tiles of this split: for each head: for each tile: body
//     for each head: epilogue                       state → memory
//
// What a head keeps from tile to tile has a home in scratch memory. Inside a tile the branches of scf.if (fast or safe) leave
// state at home themselves, so that it never is a result in registers.
#include "passes/host/KernelLowering.h"
#include "llvm/ADT/SetVector.h"
#include <map>

using namespace mlir;
using namespace flarec;
using namespace flarec::host;

int64_t KernelLowering::allocate(int64_t bytes) {
  int64_t at = headBytes;
  headBytes += roundUp(bytes, vectorBytes);
  return at;
}

void KernelLowering::plan() {
  for (Operation &op : kernel.getRegion().front()) {
    if (auto s = dyn_cast<tile::StreamOp>(op))
      stream = s;
    else
      (stream ? after : before).push_back(&op);
  }
  auto neededLater = [&](Value v) {
    return llvm::any_of(v.getUsers(), [&](Operation *u) { return stream->isProperAncestor(u) || llvm::is_contained(after, u); });
  };
  for (Operation *op : before) {
    if (auto s = dyn_cast<tile::StashOp>(op)) {
      stash = s;
      continue;
    }
    if (isa<tile::ConstantOp, arith::ConstantOp, tile::TokensOp, tile::WorkerRowOp>(op))
      continue;
    for (Value v : op->getResults()) {
      if (!neededLater(v))
        continue;
      if (TileType t = tileType(v))
        operandHomes.push_back({v, allocate(blocksIn(t) * blockBytes(t))});
      else
        numberHomes.push_back({v, allocate(8)});
    }
  }
  Block &body = stream.getRegion().front();
  for (unsigned i = 1 + stream.getTokens().size(); i < body.getNumArguments(); ++i) {
    Value a = body.getArgument(i);
    if (TileType t = tileType(a))
      stateHomes.push_back({a, allocate(blocksIn(t) * blockBytes(t))});
    else
      flagHomes.push_back({a, allocate(1)});
  }
  if (stash)
    planStash();
}

void KernelLowering::planStash() {
  for (Value v : stash.getResults()) {
    int which = llvm::all_of(v.getUsers(), isSafe) ? 1 : 0;
    stashSlots.push_back({which, tables[which].rowBytes});
    tables[which].rowBytes += 4 * std::max<int64_t>(1, cast<tile::StashType>(v.getType()).getD());
  }
  for (Table &t : tables) {
    t.rowBytes = roundUp(t.rowBytes, 16);
    t.at = allocate(stashRows() * t.rowBytes);
  }
}

void KernelLowering::operandsAtHome() {
  for (auto &x : operandHomes)
    parked[x.v] = {offset(headBase, x.at), blockBytes(tileType(x.v))};
}

/// Points every value that outlives the prologue at this head's memory.
void KernelLowering::enterHead(Value h) {
  head = add(firstHead, h);
  headBase = offset(offset(scratch, mul(h, headBytes)), edgeBytes);
  operandsAtHome();
  unsigned first = 1 + stream.getTokens().size();
  for (auto &x : stateHomes) {
    Parked p{offset(headBase, x.at), blockBytes(tileType(x.v))};
    parked[x.v] = p;
    parked[stream.getResult(cast<BlockArgument>(x.v).getArgNumber() - first)] = p;
  }
  if (stash)
    for (auto [r, slot] : llvm::zip(stash.getResults(), stashSlots)) {
      Table &t = tables[slot.first];
      columns[r] = {offset(headBase, t.at), t.rowBytes, slot.second};
    }
}

void KernelLowering::loadNumbers() {
  for (auto &x : numberHomes) {
    Type t = x.v.getType().isIndex() ? i64() : x.v.getType();
    numbers[x.v] = load(t, offset(headBase, x.at), bytesOf(t.isInteger(1) ? b.getI8Type() : t));
  }
}

Value KernelLowering::asByte(Value flag) { return arith::ExtUIOp::create(b, loc, b.getI8Type(), flag); }

Value KernelLowering::asFlag(Value byte) {
  return arith::CmpIOp::create(b, loc, arith::CmpIPredicate::ne, byte, arith::ConstantOp::create(b, loc, b.getI8IntegerAttr(0)));
}

void KernelLowering::sweepKernel() {
  plan();
  if (config.getWorkers() != 1 || config.getTile() % lanes || config.getUnroll() < 1 || lanes % config.getUnroll() ||
      (rows == Index::n && (config.getTile() != lanes || config.getWorkerRows() != lanes))) {
    fail(kernel, "a host configuration has one worker, tiles of 16·k tokens (rows = n: 16, and 16 worker_rows), and unrolls 1, 2, 4, 8 or 16 columns");
    return;
  }
  numbers[kernel.getRegion().getArgument(0)] = rows == Index::m ? mul(rowGroup, config.getWorkerRows()) : c64(0);
  loop(c64(0), headsHere, 1, [&](Value h) {
    enterHead(h);
    prologue();
  });
  // This split's tiles: [U·s/S, U·(s+1)/S), a few of them a head at a time.
  int64_t T = config.getTile(), few = std::max<int64_t>(1, config.getStages());
  Value count = div(add(tokens, T - 1), c64(T));
  Value first = div(mul(count, split), splits), last = div(mul(count, add(split, 1)), splits);
  loop(first, last, few, [&](Value chunk) {
    loop(c64(0), headsHere, 1, [&](Value h) {
      enterHead(h);
      loadNumbers();
      Registers flags;
      for (auto &x : flagHomes)
        flags.push_back(asFlag(load(b.getI8Type(), offset(headBase, x.at), 1)));
      flags = loop(chunk, min(last, add(chunk, few)), 1, flags, [&](Value t, const Registers &state) { return tileBody(mul(t, T), state); });
      for (auto [x, f] : llvm::zip(flagHomes, flags))
        store(asByte(f), offset(headBase, x.at), 1);
    });
  });
  loop(c64(0), headsHere, 1, [&](Value h) {
    enterHead(h);
    loadNumbers();
    blocksOfOps(after, DenseMap<Value, SmallVector<Parked>>());
  });
}

void KernelLowering::prologue() {
  for (Operation *op : before)
    if (op->getNumResults() && !tileType(op->getResult(0)) && op != stash.getOperation())
      lower(op);
  for (auto &x : numberHomes)
    store(number(x.v), offset(headBase, x.at), 4);
  unsigned next = 1 + stream.getTokens().size();
  for (Value v : stream.getInits()) {
    Value a = stream.getRegion().front().getArgument(next++);
    for (auto &x : flagHomes)
      if (x.v == a)
        store(asByte(number(v)), offset(headBase, x.at), 1);
  }
  SmallVector<Operation *> ops;
  for (Operation *op : before)
    if (op->getNumResults() && tileType(op->getResult(0)))
      ops.push_back(op);
  DenseMap<Value, SmallVector<Parked>> homes;
  for (auto &x : operandHomes)
    homes[x.v].push_back(parked[x.v]);
  for (auto &x : stateHomes)
    homes[stream.getInits()[cast<BlockArgument>(x.v).getArgNumber() - 1 - stream.getTokens().size()]].push_back(parked[x.v]);
  for (auto &x : operandHomes)
    parked.erase(x.v); // registers until the prologue ends
  blocksOfOps(ops, homes);
  operandsAtHome();
  if (stash)
    fillStash();
}

/// Runs ops on tiles of several blocks block by block; what has a home is put there.
void KernelLowering::blocksOfOps(ArrayRef<Operation *> ops, const DenseMap<Value, SmallVector<Parked>> &homes) {
  std::map<int64_t, SmallVector<Operation *>> byCount;
  for (Operation *op : ops) {
    TileType t;
    for (Value v : op->getResults())
      t = tileType(v) ? tileType(v) : t;
    for (Value v : op->getOperands())
      if (!t)
        t = tileType(v);
    if (t)
      byCount[blocksIn(t)].push_back(op);
    else
      lower(op);
  }
  for (auto &[count, list] : byCount)
    loop(c64(0), c64(count), 1, [&, &list = list](Value block) {
      blockRow = mul(block, tile::blockSize);
      DenseMap<Value, Registers> saved = tiles;
      for (Operation *op : list) {
        if (failed(status))
          return;
        for (Value v : op->getOperands())
          if (tileType(v) && parked.count(v) && !tiles.count(v))
            tiles[v] = registers(v, block);
        lower(op);
        for (Value v : op->getResults())
          if (auto it = homes.find(v); it != homes.end()) {
            Registers x = registers(v);
            for (const Parked &p : it->second)
              park(x, p, block);
          }
      }
      tiles = saved;
      blockRow = {};
    });
}

void KernelLowering::fillStash() {
  Block &body = stash.getRegion().front();
  loop(c64(0), c64(stashRows()), lanes, [&](Value first) {
    DenseMap<Value, Registers> saved = tiles;
    numbers[body.getArgument(0)] = first;
    lowerBlock(body);
    for (auto [v, r] : llvm::zip(body.getTerminator()->getOperands(), stash.getResults())) {
      const Columns &c = columns[r];
      Rows target{offset(offset(c.base, c.offset), mul(first, c.rowBytes)), c64(c.rowBytes), tileType(v).getD(), f32()};
      storeRows(target, {}, registers(v));
    }
    tiles = saved;
  });
}

//===-- The stream ---------------------------------------------------------//

Registers KernelLowering::tileBody(Value n0, const Registers &flags) {
  Block &body = stream.getRegion().front();
  numbers[body.getArgument(0)] = n0;
  for (auto [i, v] : llvm::enumerate(stream.getTokens()))
    stages[body.getArgument(1 + i)] = {rowsOf(tensors[v], n0), sub(tokens, n0)};
  for (auto [x, f] : llvm::zip(flagHomes, flags))
    numbers[x.v] = f;
  lookAhead(n0);
  Operation *yield = body.getTerminator();
  unsigned first = 1 + stream.getTokens().size();
  destinations.clear();
  for (auto &x : stateHomes)
    destinations[yield->getOperand(cast<BlockArgument>(x.v).getArgNumber() - first)] = parked[x.v];
  lowerBlock(body);
  for (auto &x : stateHomes)
    settle(yield->getOperand(cast<BlockArgument>(x.v).getArgNumber() - first), parked[x.v]);
  Registers next;
  for (auto &x : flagHomes)
    next.push_back(number(yield->getOperand(cast<BlockArgument>(x.v).getArgNumber() - first)));
  return next;
}

/// What this head reads and writes `stages` tiles further on, when its turn comes again.
void KernelLowering::lookAhead(Value n0) {
  ahead.clear();
  llvm::SetVector<Value> read(stream.getTokens().begin(), stream.getTokens().end());
  llvm::SetVector<Value> written;
  stream.walk([&](tile::StoreOp op) { written.insert(op.getTensor()); });
  for (auto *values : {&read, &written})
    for (Value v : *values)
      if (const Tensor &t = tensors[v]; t.type.getTokens() && t.type.getChannels())
        ahead.push_back({rowsOf(t, add(n0, config.getTile() * std::max<int64_t>(1, config.getStages()))), values == &written});
}

/// Copies a tile to where it must be, unless it is there.
void KernelLowering::settle(Value v, const Parked &target) {
  if (auto it = parked.find(v); it != parked.end() && it->second.base == target.base)
    return;
  TileType t = tileType(v);
  loop(c64(0), c64(blocksIn(t)), 1, [&](Value block) { park(registers(v, block), target, block); });
}

/// tile.bounded says so, and what is bounded and something else too.
static bool impliesFull(Value condition) {
  if (auto both = condition.getDefiningOp<arith::AndIOp>())
    return impliesFull(both.getLhs()) || impliesFull(both.getRhs());
  return bool(condition.getDefiningOp<tile::BoundedOp>());
}

void KernelLowering::emit(scf::IfOp op) {
  // Tiles of state are left in memory, all else are results.
  SmallVector<Type> types;
  for (Value r : op.getResults())
    if (!tileType(r))
      types.push_back(r.getType());
    else if (!destinations.count(r))
      types.append(registersOf(tileType(r)), vec());
  auto copy = scf::IfOp::create(b, loc, types, number(op.getCondition()), true);
  auto outer = destinations;
  for (bool otherwise : {false, true}) {
    OpBuilder::InsertionGuard guard(b);
    Block *block = otherwise ? copy.elseBlock() : copy.thenBlock();
    block->clear();
    b.setInsertionPointToStart(block);
    Block *from = otherwise ? op.elseBlock() : op.thenBlock();
    Registers yields;
    if (from) {
      auto saved = tiles;
      bool savedFull = std::exchange(tileIsFull, tileIsFull || (!otherwise && impliesFull(op.getCondition())));
      auto yielded = from->getTerminator()->getOperands();
      for (auto [v, r] : llvm::zip(yielded, op.getResults()))
        if (outer.count(r))
          destinations[v] = outer[r];
      lowerBlock(*from);
      for (auto [v, r] : llvm::zip(yielded, op.getResults())) {
        if (!tileType(v))
          yields.push_back(number(v));
        else if (outer.count(r))
          settle(v, outer[r]);
        else
          yields.append(registers(v));
      }
      tiles = saved;
      tileIsFull = savedFull;
      destinations = outer;
    }
    scf::YieldOp::create(b, loc, yields);
  }
  unsigned next = 0;
  for (Value r : op.getResults()) {
    if (!tileType(r)) {
      numbers[r] = copy.getResult(next++);
    } else if (outer.count(r)) {
      parked[r] = outer[r];
    } else {
      int64_t n = registersOf(tileType(r));
      tiles[r] = Registers(copy.getResults().slice(next, n));
      next += n;
    }
  }
}
