// The kernel around the stream: operands, guards, versions, carried state, stores.
#include "passes/tiling/Kernel.h"
#include "passes/tiling/PairBody.h"
#include "mlir/Dialect/SCF/IR/SCF.h"

using namespace flarec;
using namespace flarec::tiling;

constexpr double noReference = -3.0e38; // below every finite score
// f32 log-sum-exps are only as exact as their size allows; with a running reference they stay near the largest score. Not on the host,
// where exponentials and logarithms are exact to the last bit or two: there the limit is that of 16 bits (pooled errors, in SDPA's: within 0.1 of those at 24).
constexpr double wideLimit = 24.0;

// Of x - a both: |x - a| ≤ 126. A log-sum-exp over up to 2^14 numbers exceeds the largest of them by 14 at most.
constexpr double differenceLimit = 56.0, subtractedLimit = 70.0;

Expressions SweepBuilder::expressions(OpBuilder &at, std::function<Value(Value)> leaf) {
  return {at, loc, storage, std::move(leaf), half, [this](Value v) { return isRounded(v, half); }};
}

Value SweepBuilder::latentLeaf(OpBuilder &at, Value v, Value first, int64_t count) {
  Value t = storage.tensor.lookup(v);
  if (!t)
    return {};
  int64_t d = typeOf(v).getChannels();
  return tile::LoadOp::create(at, loc, tileOf(0, count, d ? padded(d, host) : 0, f32()), t, first);
}

Value SweepBuilder::toForm(OpBuilder &at, Value t, Form form) {
  auto type = cast<TileType>(t.getType());
  if (form == Form::Wide)
    return t;
  if (form == Form::Round)
    return type.getElement() == half ? t : Value(tile::CastOp::create(at, loc, type.withElement(half), t));
  if (type.getElement() != f32())
    t = tile::CastOp::create(at, loc, type.withElement(f32()), t);
  if (form == Form::Base2)
    return tile::ScaleOp::create(at, loc, t.getType(), t, arith::ConstantOp::create(at, loc, at.getF32FloatAttr(log2e)));
  auto narrow = type.withElement(splitType(half));
  auto split = tile::SplitOp::create(at, loc, narrow, narrow, t);
  return form == Form::High ? split.getHi() : split.getLo();
}

Value SweepBuilder::latentOperand(Value v, Use use) {
  use = keptFor(use, config, host);
  Value &slot = operands[{v, use.key()}];
  if (slot)
    return slot;
  if (rows == Index::m) {
    Expressions &e = *prologue[int(use.role)];
    return slot = toForm(e.b, e.eval(v), use.form);
  }
  Stash &s = inMemory ? memory : stash;
  Value t = toForm(s.builder, s.parked[int(use.role)]->eval(v), use.form);
  auto type = cast<TileType>(t.getType());
  // The stash op is made when all its results are known; until then a placeholder stands for each.
  auto stashType = tile::StashType::get(b.getContext(), columnCount(), type.getD(), type.getElement());
  Value placeholder = UnrealizedConversionCastOp::create(prologueBuilder, loc, TypeRange{stashType}, ValueRange{}).getResult(0);
  s.yields.push_back(t);
  s.placeholders.push_back(placeholder);
  return operands[{v, use.key()}] = placeholder;
}

void SweepBuilder::beginStash(Stash &s) {
  s.body = new Block;
  Value first = s.body->addArgument(b.getIndexType(), loc);
  s.builder.setInsertionPointToStart(s.body);
  for (auto &e : s.parked)
    e = std::make_unique<Expressions>(expressions(s.builder, [this, &s, first](Value v) { return latentLeaf(s.builder, v, first, tile::blockSize); }));
}

void SweepBuilder::finishStash(Stash &s) {
  if (s.yields.empty()) {
    delete s.body;
    return;
  }
  tile::YieldOp::create(s.builder, loc, s.yields);
  auto op = tile::StashOp::create(prologueBuilder, loc, ValueRange(s.placeholders).getTypes(), blocksOf(latents) * tile::blockSize, &s == &memory, Value());
  op.getRegion().push_back(s.body);
  for (auto [p, r] : llvm::zip(s.placeholders, op.getResults())) {
    p.replaceAllUsesWith(r);
    p.getDefiningOp()->erase();
  }
}

SmallVector<TileType> SweepBuilder::stateTypes(Operation *op) {
  Index over = overOf(op);
  Index kept = over == Index::n ? Index::m : Index::n;
  int64_t count = kept == rows ? rowCount() : columnCount();
  int64_t d = 0;
  if (auto t = typeOf(op->getResult(0)); t.getChannels())
    d = padded(t.getChannels(), host);
  auto make = [&](int64_t channels) {
    return kept == Index::n ? tileOf(count, 0, channels, f32()) : tileOf(0, count, channels, f32());
  };
  if (isa<flare::AttendOp>(op))
    return {make(d), make(0), make(0)};
  return {make(d)};
}

SmallVector<Value> SweepBuilder::initialState(Operation *op) {
  SmallVector<Value> r;
  for (auto [i, t] : llvm::enumerate(stateTypes(op)))
    r.push_back(splat(t, i == 2 ? noReference : 0.0));
  return r;
}

SweepBuilder::Version::~Version() = default;

SmallVector<Value> SweepBuilder::emitVersion(Region &region, bool safe, ValueRange carried) {
  Version version = emitPairs(region, safe, carried, nullptr);
  return finish(region, version);
}

SweepBuilder::Version SweepBuilder::emitPairs(Region &region, bool safe, ValueRange carried, const DenseMap<Operation *, Value> *estimates) {
  Version version;
  // After the fast body: what it reads lies in fast memory.
  inMemory = config.getPark() == "none" || (config.getPark() == "fast" && safe && !operands.empty());
  version.body = std::make_unique<PairBody>(*this, region, safe, b);
  PairBody &v = *version.body;
  v.estimates = estimates;
  for (auto &e : v.tokens)
    e = std::make_unique<Expressions>(expressions(rows == Index::n ? b : v.inner, [this, &v](Value x) { return v.tokenLeaf(x); }));

  // All reductions of pairs that the yields need.
  version.ops = carriedReductions(region);
  unsigned numCarried = version.numCarried = version.ops.size();
  for (Operation &op : region.front())
    if (reduces(&op) && !llvm::is_contained(version.ops, &op))
      version.ops.push_back(&op);
  auto &ops = version.ops;
  auto &state = version.state; // outside
  unsigned next = 0;
  for (auto [i, op] : llvm::enumerate(ops)) {
    if (i < numCarried) {
      unsigned n = stateTypes(op).size();
      state.push_back(SmallVector<Value>(carried.slice(next, n)));
      next += n;
    } else {
      state.push_back(initialState(op));
    }
  }
  // Accumulators enter the body sliced; without a running maximum the reference stays outside.
  SmallVector<SmallVector<Value>> inside;
  for (auto [i, op] : llvm::enumerate(ops)) {
    SmallVector<Value> args;
    for (auto [j, t] : llvm::enumerate(state[i]))
      if (safe || j < 2) {
        v.inits.push_back(t);
        args.push_back(v.body->addArgument(PairBody::sliced(cast<TileType>(t.getType())), loc));
      }
    inside.push_back(args);
  }
  SmallVector<Value> yields;
  for (auto [i, op] : llvm::enumerate(ops)) {
    v.step(op, inside[i]);
    llvm::append_range(yields, inside[i]);
  }
  tile::YieldOp::create(v.inner, loc, yields);
  auto pairsOp = tile::PairsOp::create(b, loc, ValueRange(v.inits).getTypes(), v.ins, v.inits, rows, config.getUnroll());
  pairsOp.getRegion().push_back(v.body);
  version.begin = pairsOp;

  // New state; a fast body has a constant reference.
  next = 0;
  for (auto [i, op] : llvm::enumerate(ops)) {
    auto attend = dyn_cast<flare::AttendOp>(op);
    double reference = attend ? fastAttention(op, half, limit).reference / (attend.getBase2() ? 1 : log2e) : 0.0;
    for (auto [j, t] : llvm::enumerate(state[i]))
      t = safe || j < 2 ? pairsOp.getResult(next++) : v.estimated(op) ? v.estimated(op) : splat(cast<TileType>(t.getType()), reference);
    if (attend && v.estimated(op) && !attend.getBase2())
      state[i][2] = tile::ScaleOp::create(b, loc, state[i][2].getType(), state[i][2], arith::ConstantOp::create(b, loc, b.getF32FloatAttr(1 / log2e)));
  }
  return version;
}

SmallVector<Value> SweepBuilder::finish(Region &region, Version &version) {
  PairBody &v = *version.body;
  auto &[body, begin, ops, numCarried, state] = version;

  SmallVector<SmallVector<int64_t>> owners(ops.size());
  if (config.getColumnWorkers() > 1) {
    SmallVector<Value> parts;
    for (unsigned i = numCarried; i < ops.size(); ++i)
      parts.push_back(state[i][0]);
    auto shares = combine(region, ArrayRef(ops).drop_front(numCarried), parts);
    for (unsigned i = numCarried; i < ops.size(); ++i) {
      state[i][0] = parts[i - numCarried];
      owners[i] = shares[i - numCarried];
    }
  }

  // Maps: finish the token values and store them.
  DenseMap<Value, Value> finished;
  for (auto [i, op] : llvm::enumerate(ops)) {
    if (i < numCarried)
      continue;
    if (isa<flare::AttendOp>(op)) {
      Value sum = tile::TotalOp::create(b, loc, state[i][1].getType(), state[i][1]);
      Value r = tile::RcpOp::create(b, loc, sum.getType(), sum);
      finished[op->getResult(0)] = tile::MulOp::create(b, loc, state[i][0].getType(), state[i][0], r);
      Value l = tile::Log2Op::create(b, loc, sum.getType(), sum);
      if (!cast<flare::AttendOp>(op).getBase2())
        l = tile::ScaleOp::create(b, loc, l.getType(), l, arith::ConstantOp::create(b, loc, b.getF32FloatAttr(1 / log2e)));
      finished[op->getResult(1)] = tile::AddOp::create(b, loc, l.getType(), l, state[i][2]);
    } else if (addsUp(op)) {
      finished[op->getResult(0)] = tile::TotalOp::create(b, loc, state[i][0].getType(), state[i][0]);
    } else {
      finished[op->getResult(0)] = withoutHeadroom(state[i][0]);
    }
  }
  Expressions post{b, loc, storage, [&](Value x) -> Value {
    if (Value f = finished.lookup(x))
      return f;
    return v.tokenLeaf(x);
  }};
  Value at;
  for (auto [i, y] : llvm::enumerate(region.front().getTerminator()->getOperands())) {
    if (!isTokens(y))
      continue;
    // Of what is made of no reduction every worker has all, before there are pairs, and registers are free of it then.
    bool early = true;
    SmallVector<int64_t> from(rowCount() / tile::blockSize, 0);
    for (auto [j, op] : llvm::enumerate(ops))
      if (dependsOn(y, op)) {
        early = false;
        if (!owners[j].empty())
          from = owners[j];
      }
    OpBuilder::InsertionGuard guard(b);
    if (early)
      b.setInsertionPoint(begin);
    Value t = storage.tensor.lookup(sweep.getResult(i));
    auto firstRow = [&] { return arith::AddIOp::create(b, loc, n0, workerRow); };
    if (!early && !at)
      at = firstRow();
    // Rounding happens in the store.
    Value source = y;
    if (auto cast = y.getDefiningOp<flare::CastOp>())
      source = cast.getA();
    Expressions before{b, loc, storage, [&](Value x) { return v.tokenLeaf(x); }};
    auto store = tile::StoreOp::create(b, loc, (early ? before : post).eval(source), t, early ? Value(firstRow()) : at, false);
    if (config.getColumnWorkers() > 1)
      store.setOwners(from);
  }
  SmallVector<Value> out;
  for (unsigned i = 0; i < numCarried; ++i)
    llvm::append_range(out, state[i]);
  return out;
}

LogicalResult SweepBuilder::build(ArrayRef<Value> partials) {
  latents = latentsOf(sweep);
  half = halfOf(sweep, host);
  mask = maskOf(sweep);
  SmallVector<Value> tokens; // as the program holds them
  for (Value v : tokensRead(sweep))
    tokens.push_back(storage.tensor.lookup(v));
  Region &fast = sweep.getFast();
  bool attends = false;
  fast.walk([&](flare::AttendOp) { attends = true; });
  bool versioned = isVersioned(sweep);
  bool natural = false; // are the scores natural ones? the limit is on those of base 2
  fast.walk([&](Operation *op) {
    if (auto a = dyn_cast<flare::AttendOp>(op))
      natural |= !a.getBase2();
    if (auto e = dyn_cast<flare::Exp2Op>(op); e && isPair(e))
      natural |= bool(e.getA().getDefiningOp<flare::ScaleOp>());
  });
  double bound = half || host ? limit : std::min(limit, wideLimit);
  if (half && !attends)
    bound += jointRoom;
  fast.walk([&](flare::AttendOp op) { bound = fastAttention(op, half, bound).limit; });
  Region &safe = sweep.hasSafeBody() ? sweep.getSafe().front() : fast;

  for (auto &e : prologue)
    e = std::make_unique<Expressions>(expressions(prologueBuilder, [this](Value v) {
      return latentLeaf(prologueBuilder, v, origin, rowCount());
    }));
  if (needsHeadroom(sweep, half))
    makeHeadroom();
  Expressions numbers{b, loc, storage, {}};
  Guards guards;
  SmallVector<Value> factors; // of each guard, norms first
  if (versioned) {
    auto g = guarded(fast);
    if (succeeded(g)) {
      guards = *g;
      bounded = !guards.norms.empty();
      // |x| ≤ |s|·max‖q‖·‖k‖ (Cauchy–Schwarz)
      for (auto [lat, tok] : guards.norms) {
        Value base = lat, scale;
        if (auto sc = lat.getDefiningOp<flare::ScaleOp>()) {
          base = sc.getA();
          scale = numbers.scalar(sc.getFactor());
        }
        Value norm = tile::MaxNormOp::create(b, loc, b.getF32Type(), storage.tensor.lookup(base));
        Value factor = scale ? Value(arith::MulFOp::create(b, loc, norm, scale)) : norm;
        if (natural)
          factor = arith::MulFOp::create(b, loc, factor, arith::ConstantOp::create(b, loc, b.getF32FloatAttr(log2e)));
        factors.push_back(factor);
      }
      for (Value a : guards.numbers) {
        auto scale = a.getDefiningOp<flare::ScaleOp>();
        Value unit = arith::ConstantOp::create(b, loc, b.getF32FloatAttr(natural ? log2e : 1));
        factors.push_back(scale ? Value(arith::MulFOp::create(b, loc, numbers.scalar(scale.getFactor()), unit)) : unit);
      }
    }
  }
  if (rows == Index::n) {
    beginStash(stash);
    beginStash(memory);
    workerRow = tile::WorkerRowOp::create(b, loc);
  }

  SmallVector<Value> inits;
  for (Operation *op : carriedReductions(fast))
    llvm::append_range(inits, initialState(op));
  unsigned numState = inits.size();
  bool estimated = !host && rows == Index::n && !numState && !guards.norms.empty() && llvm::all_of(fast.front(), [&](Operation &op) {
    return !reduces(&op) || hasWeightsF16(&op, half);
  });
  if (estimated)
    versioned = bounded = false;
  if (versioned)
    inits.push_back(arith::ConstantOp::create(b, loc, b.getBoolAttr(!guards.norms.empty())));
  auto stream = tile::StreamOp::create(b, loc, ValueRange(inits).getTypes(), tokens, inits, config.getTile());
  prologueBuilder.setInsertionPoint(stream);
  Block *block = &stream.getRegion().emplaceBlock();
  n0 = block->addArgument(b.getIndexType(), loc);
  for (Value t : tokens) {
    int64_t d = typeOf(t).getChannels();
    stages[t] = block->addArgument(tile::StageType::get(b.getContext(), config.getTile(), d ? padded(d, host) : 0, typeOf(t).getElement()), loc);
  }
  SmallVector<Value> carried;
  for (Value i : inits)
    carried.push_back(block->addArgument(i.getType(), loc));
  {
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToEnd(block);
    SmallVector<Value> yields;
    if (estimated) {
      yields = emitEstimated(fast, guards, factors);
    } else if (!versioned) {
      // One body for all tiles, the last one included.
      yields = emitVersion(fast, true, carried);
    } else if (guards.norms.empty()) {
      yields = emitVersion(safe, true, ArrayRef(carried).drop_back());
      yields.push_back(carried.back());
    } else {
      Value ok = carried.back();
      // Rows past the last token do no harm where nothing is summed over them. Still it is faster not to have them in fast bodies, whose stores then need
      // not ask, and a safe body is exact where there is one latent. But sums over many latents are more exact in the fast one (tile-to-nvvm makes them of chunks).
      bool partial = !half && !host && rows == Index::n && !numState && latents > 512;
      auto within = [&](Value tokens, Value factor, double limit) {
        if (auto scale = tokens.getDefiningOp<flare::ScaleOp>())
          tokens = scale.getA();
        Value stage = stages.lookup(storage.tensor.lookup(tokens));
        Value small = tile::BoundedOp::create(b, loc, b.getI1Type(), stage, n0, factor, b.getF32FloatAttr(limit), partial ? b.getUnitAttr() : UnitAttr());
        ok = arith::AndIOp::create(b, loc, ok, small);
      };
      for (auto [i, norm] : llvm::enumerate(guards.norms))
        within(norm.second, factors[i], guards.numbers.empty() ? bound : std::min(bound, differenceLimit));
      for (auto [i, a] : llvm::enumerate(guards.numbers))
        within(a, factors[guards.norms.size() + i], subtractedLimit);
      auto ifOp = scf::IfOp::create(b, loc, ValueRange(inits).drop_back().getTypes(), ok, true);
      for (bool isSafe : {false, true}) {
        OpBuilder::InsertionGuard guard(b);
        Block *branch = isSafe ? ifOp.elseBlock() : ifOp.thenBlock();
        branch->clear(); // an implicit terminator, where there are no results
        b.setInsertionPointToEnd(branch);
        auto r = emitVersion(isSafe ? safe : fast, isSafe, ArrayRef(carried).drop_back());
        scf::YieldOp::create(b, loc, r);
      }
      llvm::append_range(yields, ifOp.getResults());
      // A reduction with a running reference cannot go back to tiles without one; maps can.
      yields.push_back(attends && numState ? ok : carried.back());
    }
    tile::YieldOp::create(b, loc, yields);
  }
  // Partial results of this split.
  unsigned next = 0;
  for (Operation *op : carriedReductions(fast))
    for (unsigned j = 0, e = stateTypes(op).size(); j < e; ++j, ++next) {
      Value t = stream.getResult(next);
      if ((isa<flare::AttendOp>(op) && j == 1) || addsUp(op))
        t = tile::TotalOp::create(b, loc, t.getType(), t);
      t = withoutHeadroom(t);
      tile::StoreOp::create(b, loc, t, partials[next], origin, true);
    }
  if (rows == Index::n) {
    finishStash(stash);
    finishStash(memory);
  }
  return success();
}
