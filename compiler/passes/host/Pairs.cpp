// Blocks of scores: a loop over blocks of 16 rows around loops over the columns, a few at a time.
//
// Pair values never reach memory, with one exception: a body with several contractions needs more registers than there are, and is cut into phases,
// loops of their own over at most 64 columns, that hand pairs on through 4 KB of the first-level cache.
#include "passes/host/KernelLowering.h"
#include "llvm/ADT/SetVector.h"

using namespace mlir;
using namespace flarec;
using namespace flarec::host;

KernelLowering::Body KernelLowering::bodyOf(tile::PairsOp op) {
  Body body;
  body.op = op;
  body.block = &op.getRegion().front();
  body.numIns = op.getIns().size();
  auto measure = [&](Type type) {
    if (auto t = dyn_cast<TileType>(type)) {
      if (hasRows(t))
        body.rowBlocks = std::max(body.rowBlocks, blocksOf(t.size(rows)));
      else if (hasColumns(t))
        body.columnCount = std::max(body.columnCount, t.size(cols));
    } else if (auto s = dyn_cast<tile::StageType>(type)) {
      body.columnCount = std::max(body.columnCount, s.getN());
    } else if (auto s = dyn_cast<tile::StashType>(type)) {
      body.columnCount = std::max(body.columnCount, s.getM());
    }
  };
  for (Value v : op.getIns())
    measure(v.getType());
  for (Value v : op.getInits())
    measure(v.getType());

  // What depends on columns or on rows alone.
  for (unsigned i = 0; i < body.numIns; ++i)
    (hasRows(tileType(body.in(i))) ? body.rowOnly : body.columnOnly).insert(body.in(i));
  for (Operation &o : body.block->without_terminator()) {
    if (o.getNumResults() != 1 || !tileType(o.getResult(0)))
      continue;
    TileType t = tileType(o.getResult(0));
    if (hasRows(t) && hasColumns(t))
      continue;
    auto &set = hasRows(t) ? body.rowOnly : body.columnOnly;
    bool reducesChannels = isa<tile::ReduceOp>(o) && cast<tile::ReduceOp>(o).getOver() == Index::d;
    if ((isElementwise(&o) || reducesChannels) && llvm::all_of(o.getOperands(), [&](Value v) {
          return !tileType(v) || set.contains(v) || v.getDefiningOp<tile::ConstantOp>();
        }))
      set.insert(o.getResult(0));
  }
  return body;
}

/// All columns against one block of rows; the new values of the accumulators that lie in registers.
SmallVector<Registers> KernelLowering::runRows(Body &body, SmallVector<Phase> &phases, Value block) {
  DenseMap<Value, Registers> saved = tiles;
  rowBlock = block;
  numbers[body.block->getArgument(0)] = block ? mul(block, tile::blockSize) : c64(0);
  for (unsigned i = 0; i < body.numIns; ++i)
    if (Value v = body.op.getIns()[i]; tileType(v))
      tiles[body.in(i)] = registers(v, block);
  for (Operation &o : body.block->without_terminator())
    if (o.getNumResults() == 1 && body.rowOnly.contains(o.getResult(0)))
      lower(&o);
  body.groups.clear();
  body.block->walk([&](tile::ContractOp o) {
    if (o.getOver() == rows)
      body.groups[o.getOut()] = groupRows(registers(o.getB().front()));
  });
  SmallVector<Registers> state;
  for (Value v : body.op.getInits())
    state.push_back(hasRows(tileType(v)) ? registers(v, block) : Registers());
  auto byRows = [&](size_t i) { return body.byRows.contains(body.block->getTerminator()->getOperand(i).getDefiningOp()); };
  for (size_t i = 0; i < state.size(); ++i)
    if (byRows(i))
      state[i] = rowsOfChannels(state[i]);
  for (auto [i, v] : llvm::enumerate(body.op.getInits()))
    if (!hasRows(tileType(v)))
      parked[body.accumulator(i)] = parked.lookup(v);
  runPhases(body, phases, state);
  for (size_t i = 0; i < state.size(); ++i)
    if (byRows(i))
      state[i] = channelsOfRows(state[i]);
  tiles = saved;
  return state;
}

void KernelLowering::emit(tile::PairsOp op) {
  Body body = bodyOf(op);
  DenseMap<Value, Columns> savedColumns = columns;
  int64_t sharedAt = 0;
  if (rows == Index::m) {
    buildTable(body, sharedAt);
  } else {
    for (unsigned i = 0; i < body.numIns; ++i)
      if (isa<tile::StashType>(op.getIns()[i].getType()))
        columns[body.in(i)] = columns[op.getIns()[i]];
  }
  if (failed(status))
    return;
  SmallVector<Phase> phases = phasesOf(body);
  for (auto [i, p] : llvm::enumerate(phases))
    p.number = i, p.of = phases.size();
  for (auto &[v, at] : body.between) {
    at = sharedAt;
    sharedAt += phaseColumns * vectorBytes;
  }
  sharedBytes = std::max(sharedBytes, sharedAt);

  bool inMemory = body.rowBlocks > 1 || llvm::any_of(op.getInits(), [&](Value v) { return hasRows(tileType(v)) && parked.count(v); }) ||
                  llvm::any_of(op.getIns(), [&](Value v) { return tileType(v) && hasRows(tileType(v)) && parked.count(v); });
  if (!inMemory) {
    SmallVector<Registers> state = runRows(body, phases, {});
    for (auto [r, v, s] : llvm::zip(op.getResults(), op.getInits(), state)) {
      if (hasRows(tileType(v)))
        tiles[r] = s;
      else
        parked[r] = parked.lookup(v);
    }
  } else {
    // Accumulators stay where they are.
    SmallVector<Parked> targets;
    for (auto [v, r] : llvm::zip(op.getInits(), op.getResults())) {
      auto it = parked.find(v);
      if (it == parked.end()) {
        if (!destinations.count(r))
          return fail(op, "an accumulator of several blocks has no place");
        settle(v, destinations[r]);
        targets.push_back(destinations[r]);
      } else {
        targets.push_back(it->second);
      }
    }
    loop(c64(0), c64(body.rowBlocks), 1, [&](Value block) {
      SmallVector<Registers> state = runRows(body, phases, block);
      for (auto [v, s, t] : llvm::zip(op.getInits(), state, targets))
        if (hasRows(tileType(v)))
          park(s, t, block);
    });
    for (auto [r, t] : llvm::zip(op.getResults(), targets))
      parked[r] = t;
  }
  columns = savedColumns;
}

//===-- The table of tokens ------------------------------------------------//

/// Copies a staged tensor's rows [0, real) to a table, widened and padded with zeros to `width` channels and `count` rows.
void KernelLowering::stageRows(const StageAt &s, int64_t width, Value base, int64_t rowBytes, Value real, int64_t count) {
  int64_t channels = s.rows.channels;
  Type e = stored(s.rows.element);
  int64_t size = bytesOf(e);
  loop(c64(0), real, 1, [&](Value i) {
    Value from = offset(s.rows.base, mul(i, s.rows.stride)), to = offset(base, mul(i, rowBytes));
    Value there = s.rows.there ? isThere(s.rows, i) : Value();
    auto store = [&](Value v, Value p, int64_t align) {
      Emit::store(there ? select(there, v, arith::ConstantOp::create(b, loc, b.getZeroAttr(v.getType()))) : v, p, align);
    };
    if (!channels) {
      store(element(widen(splat(load(e, from, size), 1), s.rows.element), 0), to, 4);
      return;
    }
    if (channels == width) {
      for (int64_t d = 0; d < width; d += lanes) {
        int64_t n = std::min(width - d, lanes);
        store(widen(load(VectorType::get(n, e), offset(from, d * size), size), s.rows.element), offset(to, 4 * d), 4);
      }
      return;
    }
    for (int64_t d = 0; d < width; d += 4)
      store(widen(piece(s.rows, from, d), s.rows.element), offset(to, 4 * d), 4);
  });
  loop(real, c64(count), 1, [&](Value i) {
    Value to = offset(base, mul(i, rowBytes));
    for (int64_t d = 0; d < std::max<int64_t>(1, width); ++d)
      store(cf(0), offset(to, 4 * d), 4);
  });
}

void KernelLowering::buildTable(Body &body, int64_t &sharedAt) {
  int64_t count = body.columnCount;
  // A slot for each staged tensor, then for each value made of them that pairs use.
  DenseMap<Value, int64_t> stageSlot, slot;
  int64_t rowBytes = 0;
  auto reserve = [&](int64_t d) {
    int64_t at = rowBytes;
    rowBytes += 4 * std::max<int64_t>(1, d);
    return at;
  };
  SmallVector<Value> order;
  for (unsigned i = 0; i < body.numIns; ++i) {
    Value v = body.op.getIns()[i], a = body.in(i);
    auto type = dyn_cast<tile::StageType>(v.getType());
    if (!type)
      continue;
    if (!stageSlot.count(v)) {
      stageSlot[v] = reserve(type.getD());
      order.push_back(v);
    }
    slot[a] = stageSlot[v];
  }
  SmallVector<Value> derived;
  for (Operation &o : body.block->without_terminator()) {
    if (o.getNumResults() != 1 || !body.columnOnly.contains(o.getResult(0)))
      continue;
    Value r = o.getResult(0);
    if (auto cast = dyn_cast<tile::CastOp>(o); cast && tileType(r).getElement().isF32() && slot.count(cast.getA())) {
      slot[r] = slot[cast.getA()]; // the table is f32
      continue;
    }
    if (llvm::any_of(r.getUsers(), [&](Operation *u) { return u->getNumResults() != 1 || !body.columnOnly.contains(u->getResult(0)); })) {
      slot[r] = reserve(tileType(r).getD());
      derived.push_back(r);
    }
  }
  rowBytes = roundUp(rowBytes, 16);
  Value table = sharedScratch(sharedAt);
  sharedAt += roundUp(rowBytes * count, vectorBytes);

  Value real;
  for (Value v : order) {
    const StageAt &s = stages[v];
    if (!real)
      real = min(s.left, c64(count));
    int64_t width = cast<tile::StageType>(v.getType()).getD();
    stageRows(s, width, offset(table, stageSlot[v]), rowBytes, real, count);
  }
  if (!derived.empty())
    loop(c64(0), c64(count), lanes, [&](Value first) {
      DenseMap<Value, Registers> saved = tiles;
      Value at = offset(table, mul(first, rowBytes));
      auto rowsAt = [&](Value v) { return Rows{offset(at, slot[v]), c64(rowBytes), tileType(v).getD(), f32()}; };
      for (unsigned i = 0; i < body.numIns; ++i)
        if (Value a = body.in(i); slot.count(a))
          tiles[a] = loadRows(rowsAt(a), {}, tileType(a).getD());
      for (Operation &o : body.block->without_terminator())
        if (o.getNumResults() == 1 && body.columnOnly.contains(o.getResult(0)))
          lower(&o);
      for (Value v : derived)
        storeRows(rowsAt(v), {}, registers(v));
      tiles = saved;
    });
  for (auto &[v, at] : slot)
    columns[v] = {table, rowBytes, at};
}

//===-- Phases -------------------------------------------------------------//

/// How many columns at once: each is an independent chain. No more than 128 products in a row, and fewer where a tile is rare: more is no faster, and code.
/// But a running maximum multiplies all accumulators once a step, at the end of a long chain: then as many as the configuration allows.
int64_t KernelLowering::stepOf(Body &body, bool recurrent) {
  int64_t channels = 1, most = config.getUnroll();
  for (Value a : body.block->getArguments())
    if (tileType(a))
      channels = std::max(channels, tileType(a).getD());
  if (!recurrent)
    most = isSafe(body.op) ? std::min<int64_t>({most, 4, 64 / channels}) : std::min<int64_t>(most, 128 / channels);
  return std::max<int64_t>(1, most);
}

/// A reduction over rows or columns, into an accumulator.
static bool isReduction(Operation *op) {
  auto c = dyn_cast<tile::ContractOp>(op);
  return isa<tile::SumOp>(op) || (c && c.getOver() != Index::d);
}

/// The ops on pairs in one loop over the columns, or cut into phases where one contracts over rows and no pair depends on an accumulator.
SmallVector<KernelLowering::Phase> KernelLowering::phasesOf(Body &body) {
  SmallVector<Operation *> ops, overRows;
  bool recurrent = false;
  DenseSet<Value> tainted;
  for (Operation &o : body.block->without_terminator()) {
    if (o.getNumResults() == 1 && (body.columnOnly.contains(o.getResult(0)) || body.rowOnly.contains(o.getResult(0))))
      continue;
    if (isa<tile::ConstantOp>(o) || startsChains(&o))
      continue;
    ops.push_back(&o);
    if (auto c = dyn_cast<tile::ContractOp>(o); c && c.getOver() == rows)
      overRows.push_back(&o);
    if (llvm::any_of(o.getOperands(), [&](Value v) { return body.isAccumulator(v) || tainted.contains(v); })) {
      recurrent |= !isReduction(&o);
      tainted.insert(o.result_begin(), o.result_end());
    }
  }
  // A sum of the step's columns first would be an operation a channel more, and of 16 channels and more spilled.
  body.inRegisters = !recurrent;
  int64_t step = stepOf(body, recurrent);
  if (!overRows.empty() && !recurrent)
    return cutIntoPhases(body, ops, step);
  for (Operation *o : overRows)
    body.between[cast<tile::ContractOp>(o).getA().front()] = 0;
  Phase whole{ops, {}, step};
  for (unsigned i = 0; i < body.op.getInits().size(); ++i)
    whole.accumulators.push_back(i);
  return {whole};
}

/// Each op in order goes to the last phase; a new phase begins where row operands would need more registers than there are (accumulators and polynomials
/// take the rest), and at a contraction over rows of a pair value made in the last phase: it reads 16 rows of a column from memory.
SmallVector<KernelLowering::Phase> KernelLowering::cutIntoPhases(Body &body, ArrayRef<Operation *> ops, int64_t step) {
  constexpr int64_t rowRegisters = 24;
  // Reductions as soon as their operands are there.
  llvm::SetVector<Operation *> order;
  for (Operation *o : ops) {
    if (isReduction(o))
      continue;
    order.insert(o);
    for (Operation *u : ops)
      if (isReduction(u) && u->getOperand(0).getDefiningOp() == o)
        order.insert(u);
  }
  order.insert(ops.begin(), ops.end());

  SmallVector<Phase> phases;
  DenseMap<Operation *, unsigned> phaseOf;
  auto madeBefore = [&](Value v) { return v.getDefiningOp() && phaseOf.count(v.getDefiningOp()) && phaseOf[v.getDefiningOp()] + 1 != phases.size(); };
  auto madeHere = [&](Value v) { return v.getDefiningOp() && phaseOf.count(v.getDefiningOp()) && !madeBefore(v); };
  llvm::SetVector<Value> held; // row operands and accumulators of the last phase
  auto registersHeld = [&] {
    int64_t n = 0;
    for (Value v : held)
      n += registersOf(tileType(v));
    return n;
  };
  for (Operation *o : order) {
    auto c = dyn_cast<tile::ContractOp>(o);
    auto hold = [&] {
      for (Value v : o->getOperands())
        if (TileType t = tileType(v); t && hasRows(t) && !hasColumns(t))
          held.insert(v);
    };
    size_t before = held.size();
    hold();
    bool crowded = before && held.size() > before && registersHeld() > rowRegisters;
    if (phases.empty() || (c && c.getOver() == rows && madeHere(c.getA().front())) || crowded) {
      phases.push_back({{}, {}, step});
      held.clear();
      hold();
    }
    phases.back().ops.push_back(o);
    phaseOf[o] = phases.size() - 1;
    for (Value v : o->getOperands())
      if (TileType t = tileType(v); t && hasRows(t) && hasColumns(t) && madeBefore(v))
        body.between[v] = 0;
    if (c && c.getOver() == Index::d)
      phases.back().step = std::max<int64_t>(1, std::min(phases.back().step, step * int64_t(c.getA().size()) / chainsOf(c)));
  }
  // Of 16 channels, where pairs lie in memory anyway.
  for (auto [o, phase] : phaseOf)
    if (auto c = dyn_cast<tile::ContractOp>(o); c && c.getOver() == cols && tileType(c.getOut()).getD() == lanes && body.isAccumulator(c.getAcc()) &&
                                                body.between.count(c.getA().front()) && columns.count(c.getB().front())) {
      Operation *made = c.getA().front().getDefiningOp();
      if (phaseOf.lookup(made) < phase)
        body.byRows.insert(o);
    }
  for (auto [i, v] : llvm::enumerate(body.block->getTerminator()->getOperands())) {
    Operation *o = v.getDefiningOp();
    phases[o && phaseOf.count(o) ? phaseOf[o] : 0].accumulators.push_back(i);
  }
  return phases;
}

void KernelLowering::runPhases(Body &body, SmallVector<Phase> &phases, SmallVector<Registers> &state) {
  int64_t count = body.columnCount;
  auto flat = [&](ArrayRef<unsigned> which) {
    Registers r;
    for (unsigned i : which)
      r.append(state[i]);
    return r;
  };
  auto unflat = [&](ArrayRef<unsigned> which, const Registers &r) {
    unsigned next = 0;
    for (unsigned i : which) {
      size_t n = state[i].size();
      state[i] = Registers(ArrayRef(r).slice(next, n));
      next += n;
    }
  };
  // Sums of many columns are sums of sums of at most 64.
  auto run = [&](Phase &p, Value first, Value last) {
    Registers before = flat(p.accumulators);
    Registers start = body.inRegisters ? Registers(before.size(), all(0)) : before;
    Registers r = loop(first, last, p.step, start, [&](Value c, const Registers &in) {
      auto saved = state;
      unflat(p.accumulators, in);
      step(body, p, c, state);
      Registers out = flat(p.accumulators);
      state = saved;
      return out;
    });
    if (body.inRegisters)
      for (auto [x, sum] : llvm::zip(before, r))
        sum = fadd(x, sum);
    unflat(p.accumulators, r);
  };
  phaseFirst = c64(0);
  if (phases.size() == 1 && body.between.empty() && (!body.inRegisters || count <= phaseColumns))
    return run(phases[0], c64(0), c64(count));
  SmallVector<unsigned> every;
  for (unsigned i = 0; i < state.size(); ++i)
    every.push_back(i);
  Registers r = loop(c64(0), c64(count), phaseColumns, flat(every), [&](Value first, const Registers &in) {
    auto saved = state;
    unflat(every, in);
    phaseFirst = first;
    Value last = count % phaseColumns ? min(add(first, phaseColumns), c64(count)) : add(first, phaseColumns);
    for (Phase &p : phases)
      run(p, first, last);
    Registers out = flat(every);
    state = saved;
    return out;
  });
  unflat(every, r);
}
