// tile-to-nvvm: tokens on their way through shared memory.
//
// The tokens of a tile lie in a ring of stages in shared memory, row after row with all of the block's heads side by side; 16 bytes
// between rows (32 for f32) keep the eight rows of a fragment in different banks. What warpgroups read lies as they want it instead, each head's
// tokens apart (Swizzle in passes/Sizes.h).
#include "passes/nvvm/KernelLowering.h"

using namespace mlir;

namespace flarec::nvvm {

void KernelLowering::planRing(tile::StreamOp op) {
  bool anySwizzled = false;
  for (auto [i, v] : llvm::enumerate(op.getTokens())) {
    auto t = cast<FlareTensorType>(v.getType());
    Slot s;
    s.isVector = t.getChannels() == 0;
    int64_t size = bytesOf(t.getElement());
    if (s.isVector) {
      s.slotBytes = config.getTile() * size;
      s.rowBytes = size;
      s.size = s.slotBytes * config.getHeads();
    } else if (isSwizzled(op.getRegion().getArgument(1 + i))) {
      s.swizzle.emplace(config.getTile(), t.getChannels());
      s.slotBytes = s.swizzle->bytes();
      s.rowBytes = s.swizzle->rowBytes();
      s.size = s.slotBytes * config.getHeads();
      stageBytes = roundUp(stageBytes, Swizzle::alignment);
      anySwizzled = true;
    } else {
      s.slotBytes = (t.getChannels() + 7) / 8 * 8 * size;
      s.rowBytes = s.slotBytes * config.getHeads() + (size == 2 ? 16 : 32);
      s.size = s.rowBytes * config.getTile();
    }
    s.offset = stageBytes;
    stageBytes += (s.size + 15) / 16 * 16;
    slots.push_back(s);
  }
  if (anySwizzled)
    stageBytes = roundUp(stageBytes, Swizzle::alignment);
  ringOffset = roundUp(pages ? pages->bytes * pagesAtOnce : stashHeadBytes * config.getHeads(), anySwizzled ? Swizzle::alignment : 128);
  combineOffset = ringOffset + stageBytes * config.getStages();
  sharedBytes = combineOffset + combineBytes(op) * config.getWorkers() * config.getHeads();
}

int64_t KernelLowering::combineBytes(tile::StreamOp op) {
  int64_t bytes = 0;
  op.walk([&](tile::CombineOp combine) {
    int64_t registers = 0;
    for (Value part : combine.getParts())
      registers += blocksOf(tileType(part)) * registersOf(tileType(part));
    bytes = std::max(bytes, registers * 128);
  });
  return bytes;
}

int64_t KernelLowering::piecesPerToken(const Copy &c) {
  FlareTensorType t = tensors[c.tensor].type;
  return c.slot.isVector ? 1 : t.getChannels() * bytesOf(t.getElement()) / c.chunk;
}

void KernelLowering::locate(Copy &c, Value i) {
  const Tensor &t = tensors[c.tensor];
  const Slot &s = c.slot;
  int64_t size = bytesOf(t.type.getElement()), pieces = piecesPerToken(c);
  // Neighbouring threads take the pieces and heads of a token, but of vectors neighbouring tokens.
  int64_t unit = s.isVector ? config.getTile() : pieces * config.getHeads();
  Value token = s.isVector ? rem(i, unit) : div(i, unit), h = s.isVector ? div(i, unit) : div(rem(i, unit), pieces);
  Value piece = s.isVector ? c32(0) : rem(i, pieces);
  Value globalHead = add(firstHead, widen(h));
  Value elements = add(add(mul(batch, t.strideB), mul(globalHead, t.strideH)), mul(widen(token), t.strideRow));
  c.source = offset(t.pointer, add(mul(elements, size), widen(mul(piece, c.chunk))));
  c.token = select(lt(globalHead, heads), token, c32(1 << 30)); // no token of a head that is not there
  Value inRow = mul(piece, c.chunk);
  if (s.swizzle) {
    int64_t width = s.swizzle->width;
    Value chunk = div(inRow, 16);
    inRow = add(add(mul(div(chunk, width), s.swizzle->atomBytes()), swizzled(*s.swizzle, token, rem(chunk, width))), rem(inRow, 16));
    c.target = add(mul(h, s.slotBytes), inRow);
    return;
  }
  c.target = s.isVector ? add(mul(h, s.slotBytes), mul(token, size)) : add(add(mul(token, s.rowBytes), mul(h, s.slotBytes)), inRow);
}

Copies KernelLowering::planCopies(tile::StreamOp op) {
  const int64_t mostInLine = aligned ? 8 : 1; // of a tensor; more are a loop, which takes little longer to run and much less to compile, and holds no addresses
  Copies copies;
  int64_t threads = config.getThreads();
  for (auto [v, s] : llvm::zip(op.getTokens(), slots)) {
    const Tensor &t = tensors[v];
    int64_t size = bytesOf(t.type.getElement());
    Copy c{v, s, s.isVector ? size : aligned ? chunkBytes(t.type) : size, nullptr, nullptr, nullptr, nullptr, 0};
    int64_t perToken = piecesPerToken(c) * config.getHeads(), total = perToken * config.getTile();
    bool looped = total > mostInLine * threads, regular = !s.isVector && threads % perToken == 0;
    if (s.swizzle && threads / perToken % 8) // chunks are exchanged differently in each of 8 rows
      regular = false;
    if (looped && !regular) {
      c.pieces = total;
      copies.push_back(c);
      continue;
    }
    for (int64_t first = 0; first < total; first += threads) {
      if (first && regular) // the same piece and head as the copy before, some tokens on
        c.tokensOn += c.times * threads / perToken;
      else
        locate(c, add(thread, first));
      c.times = looped ? std::max<int64_t>(1, (total - first) / threads) : 1;
      first += (c.times - 1) * threads;
      c.inRange = first + threads > total ? lt(thread, c32(total - first)) : Value();
      copies.push_back(c);
    }
  }
  return copies;
}

KernelLowering::Cursor KernelLowering::cursorAt(tile::StreamOp op, Value tile) {
  Value n = mul(tile, config.getTile());
  // No split has 2^30 tokens: that would be 16 GB of one head's.
  Cursor cursor{narrow(min(sub(tokens, n), c64(1 << 30))), {}, n};
  for (Value v : op.getTokens()) {
    const Tensor &t = tensors[v];
    cursor.bytes.push_back(mul(mul(n, t.strideRow), bytesOf(t.type.getElement())));
  }
  return cursor;
}

KernelLowering::Cursor KernelLowering::advance(tile::StreamOp op, const Cursor &cursor) {
  Cursor next{add(cursor.left, -config.getTile()), {}, add(cursor.first, config.getTile())};
  for (auto [v, bytes] : llvm::zip(op.getTokens(), cursor.bytes)) {
    const Tensor &t = tensors[v];
    next.bytes.push_back(add(bytes, mul(t.strideRow, config.getTile() * bytesOf(t.type.getElement()))));
  }
  return next;
}

void KernelLowering::issue(tile::StreamOp op, const Copies &copies, const Cursor &cursor, Value stageBase) {
  DenseMap<Value, Value> bytesOn; // of the tile
  for (auto [v, b] : llvm::zip(op.getTokens(), cursor.bytes))
    bytesOn[v] = b;
  // `further`: so many tokens on from c, in a loop.
  auto copy = [&](const Copy &c, Value further = {}) {
    const Tensor &t = tensors[c.tensor];
    int64_t size = bytesOf(t.type.getElement());
    Value ofTile = add(c.token, c.tokensOn), target = offset(stageBase, widen(c.target));
    // What is the same for all tiles first: it leaves their loop.
    Value source = offset(offset(c.source, mul(t.strideRow, c.tokensOn * size)), bytesOn[c.tensor]);
    if (further) {
      source = offset(source, mul(mul(widen(further), t.strideRow), size));
      ofTile = add(ofTile, further);
      target = offset(target, widen(mul(further, c.slot.rowBytes)));
    }
    Value valid = lt(ofTile, cursor.left);
    if (mask && !t.type.isMask())
      valid = both(valid, isThere(add(cursor.first, widen(ofTile)), valid));
    target = offset(target, c.slot.offset + c.tokensOn * c.slot.rowBytes);
    if (c.chunk >= 4 && (aligned || c.slot.isVector)) {
      // Outside: zeros are written, and nothing is read at an address that may be no one's.
      Value bytes = select(valid, c32(c.chunk), c32(0));
      std::string kind = c.chunk == 16 ? "cg" : "ca";
      intrinsic("llvm.nvvm.cp.async." + kind + ".shared.global." + std::to_string(c.chunk) + ".s", {target, source, bytes});
      return;
    }
    Type e = b.getIntegerType(size * 8);
    Value zero = arith::ConstantOp::create(b, loc, b.getIntegerAttr(e, 0));
    store(choose(valid, e, [&] { return Registers{load(e, source, size)}; }, [&] { return Registers{zero}; })[0], target, size);
  };
  auto loop = [&](Value from, int64_t to, int64_t step, function_ref<void(Value)> body) {
    auto loop = scf::ForOp::create(b, loc, from, c32(to), c32(step));
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(loop.getBody());
    body(loop.getInductionVar());
  };
  for (const Copy &c : copies) {
    int64_t each = config.getThreads() / (piecesPerToken(c) * config.getHeads());
    if (c.pieces)
      loop(thread, c.pieces, config.getThreads(), [&](Value i) {
        Copy here = c;
        locate(here, i);
        copy(here);
      });
    else if (c.times > 1)
      loop(c32(0), c.times, 1, [&](Value i) { copy(c, mul(i, each)); });
    else if (c.inRange)
      onlyIf(c.inRange, [&] { copy(c); });
    else
      copy(c);
  }
  intrinsic("llvm.nvvm.cp.async.commit.group", {});
}

void KernelLowering::clearPadding(tile::StreamOp op) {
  bool any = false;
  for (Value v : op.getTokens())
    any |= cast<FlareTensorType>(v.getType()).getChannels() % 8 != 0;
  if (!any)
    return;
  Value base = offset(shared, ringOffset);
  int64_t words = stageBytes * config.getStages() / 4;
  auto loop = scf::ForOp::create(b, loc, thread, c32(words), c32(config.getThreads()));
  {
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(loop.getBody());
    store(c32(0), offset(base, widen(mul(loop.getInductionVar(), 4))), 4);
  }
  barrier();
}

/// A stream whose body is `if (still && bounded) fast else safe`: a tile out of bounds makes all later ones safe.
static scf::IfOp fastOrSafe(tile::StreamOp op) {
  Block &body = op.getRegion().front();
  scf::IfOp branch;
  for (Operation &o : body.without_terminator()) {
    if (auto found = dyn_cast<scf::IfOp>(o))
      branch = branch ? scf::IfOp() : found;
    else if (!isa<tile::BoundedOp, arith::AndIOp, arith::ConstantOp>(o))
      return {};
  }
  if (!branch || !branch.elseBlock())
    return {};
  // What it decides is carried to the next tile, and nothing else but its results is.
  auto still = branch.getCondition().getDefiningOp<arith::AndIOp>();
  if (!still)
    return {};
  for (auto [i, v] : llvm::enumerate(body.getTerminator()->getOperands())) {
    BlockArgument carried = body.getArgument(body.getNumArguments() - op.getInits().size() + i);
    if (v != carried && v.getDefiningOp() != branch && (v != branch.getCondition() || (still.getLhs() != carried && still.getRhs() != carried)))
      return {};
  }
  return branch;
}

// All warps of a block pass one barrier a tile, wherever they are: some may be in the safe loop while others are in the fast one.
void KernelLowering::emit(tile::StreamOp op) {
  planRing(op);
  if (stashHeadBytes)
    stashPointer = stashBase();
  clearPadding(op);
  int64_t T = config.getTile(), stagesCount = config.getStages();
  // This split's tiles: [U·s/S, U·(s+1)/S)
  Value tilesCount = div(add(tokens, T - 1), T);
  Value first = div(mul(tilesCount, split), splits), last = div(mul(tilesCount, add(split, 1)), splits);
  Value ring = offset(shared, ringOffset);
  auto stageAddress = [&](Value stage) { return offset(ring, widen(mul(stage, stageBytes))); };
  // The oldest tile under way is there, for all warps, and all are done with the one before it.
  auto arrive = [&](int64_t sentForLater) {
    intrinsic("llvm.nvvm.cp.async.wait.group", c32(sentForLater));
    if (llvm::any_of(slots, [](const Slot &s) { return s.swizzle.has_value(); }))
      proxyFence();
    barrier();
  };
  Copies copies = planCopies(op);
  Cursor cursor = cursorAt(op, first);
  for (int64_t i = 0; i + 1 < stagesCount; ++i) {
    issue(op, copies, cursor, stageAddress(c32(i)));
    cursor = advance(op, cursor);
  }
  if (pages)
    beginPages();
  arrive(stagesCount - 2 + (pages ? pagesAtOnce - 1 : 0));

  Block &body = op.getRegion().front();
  scf::IfOp branch = fastOrSafe(op);
  bool onlyFull = true;
  for (auto bounded : body.getOps<tile::BoundedOp>())
    onlyFull &= !bounded.getPartial();
  // Loops carry the tile, its stage, where the next copies come from, and the body's state.
  Registers state{first, c32(0), cursor.left};
  state.append(cursor.bytes);
  if (mask) // else nobody asks
    state.push_back(cursor.first);
  unsigned firstOfBody = state.size();
  for (Value v : op.getInits())
    flatten(v, state);
  auto bind = [&](ValueRange carried) {
    numbers[body.getArgument(0)] = mul(carried[0], T);
    Value here = stageAddress(carried[1]);
    for (auto [i, s] : llvm::enumerate(slots))
      stages[body.getArgument(1 + i)] = {offset(offset(here, s.offset), widen(mul(headInBlock, s.slotBytes))), s};
    unsigned next = firstOfBody;
    for (unsigned i = 1 + slots.size(); i < body.getNumArguments(); ++i)
      unflatten(body.getArgument(i), carried, next);
  };
  auto loop = [&](function_ref<Value()> mayRun, Block &work, function_ref<Value(Value)> result) {
    auto types = llvm::map_to_vector(state, [](Value v) { return v.getType(); });
    auto loop = scf::WhileOp::create(b, loc, types, state);
    OpBuilder::InsertionGuard guard(b);
    SmallVector<Location> locations(types.size(), loc);
    Block *before = b.createBlock(&loop.getBefore(), {}, types, locations);
    Value inRange = lt(before->getArgument(0), last);
    if (mayRun) {
      auto check = scf::IfOp::create(b, loc, TypeRange{b.getI1Type()}, inRange, true);
      {
        OpBuilder::InsertionGuard guard(b);
        b.setInsertionPointToStart(check.thenBlock());
        bind(before->getArguments());
        scf::YieldOp::create(b, loc, mayRun());
        b.setInsertionPointToStart(check.elseBlock());
        scf::YieldOp::create(b, loc, Value(arith::ConstantOp::create(b, loc, b.getBoolAttr(false))));
      }
      inRange = check.getResult(0);
    }
    scf::ConditionOp::create(b, loc, inRange, before->getArguments());

    Block *after = b.createBlock(&loop.getAfter(), {}, types, locations);
    Value t = after->getArgument(0), stage = after->getArgument(1);
    // Everyone is done with the stage before this one: fill it again.
    Value refill = add(stage, stagesCount - 1);
    refill = select(lt(refill, c32(stagesCount)), refill, add(refill, -stagesCount));
    Cursor cursor{after->getArgument(2), {}, mask ? after->getArgument(firstOfBody - 1) : c64(0)};
    for (unsigned i = 0; i < slots.size(); ++i)
      cursor.bytes.push_back(after->getArgument(3 + i));
    issue(op, copies, cursor, stageAddress(refill));
    cursor = advance(op, cursor);
    bind(after->getArguments());
    if (pages)
      pagesOfTile(sub(t, first));
    tf32.clear();
    fullTile = mayRun && onlyFull; // as the guards of fast bodies have asked
    lowerBlock(work);
    if (pages && succeeded(status) && pages->met != 1)
      status = op.emitOpError("has a body without a tile.pairs over the pages of latents that come by for each tile");
    fullTile = false;
    tf32.clear();
    if (failed(status))
      return;
    Value following = add(stage, 1);
    Registers yields{add(t, 1), select(lt(following, c32(stagesCount)), following, c32(0)), cursor.left};
    yields.append(cursor.bytes);
    if (mask)
      yields.push_back(cursor.first);
    for (Value v : body.getTerminator()->getOperands())
      if (branch && v == branch.getCondition())
        yields.push_back(arith::ConstantOp::create(b, loc, b.getBoolAttr(bool(mayRun))));
      else
        flatten(result(v), yields);
    arrive(pages ? std::min(pages->count, pagesAtOnce - 1) : stagesCount - 2);
    scf::YieldOp::create(b, loc, yields);
    state = Registers(loop.getResults());
  };
  if (branch) {
    auto yielded = [&](Block *from) {
      return [&, from](Value v) { return v.getDefiningOp() == branch ? from->getTerminator()->getOperand(cast<OpResult>(v).getResultNumber()) : v; };
    };
    auto bounded = [&]() -> Value {
      for (Operation &o : body.without_terminator())
        if (&o != branch)
          lower(&o);
      return number(branch.getCondition());
    };
    loop(bounded, *branch.thenBlock(), yielded(branch.thenBlock()));
    if (succeeded(status))
      loop(nullptr, *branch.elseBlock(), yielded(branch.elseBlock()));
  } else {
    loop(nullptr, body, [](Value v) { return v; });
  }
  intrinsic("llvm.nvvm.cp.async.wait.group", c32(0));
  unsigned next = firstOfBody;
  for (Value r : op.getResults())
    if (succeeded(status))
      unflatten(r, state, next);
}

void KernelLowering::flatten(Value v, Registers &out) {
  if (isa<TileType>(v.getType()))
    out.append(tiles[v]);
  else
    out.push_back(number(v));
}

void KernelLowering::unflatten(Value v, ValueRange from, unsigned &next) {
  auto t = dyn_cast<TileType>(v.getType());
  if (!t) {
    numbers[v] = from[next++];
    return;
  }
  int64_t n = blocksOf(t) * registersOf(t);
  tiles[v] = Registers(from.slice(next, n));
  next += n;
}

void KernelLowering::emit(scf::IfOp op) {
  Registers types;
  SmallVector<Type> results;
  for (Value r : op.getResults()) {
    auto t = dyn_cast<TileType>(r.getType());
    int64_t n = t ? blocksOf(t) * registersOf(t) : 1;
    results.append(n, !t ? r.getType() : isHalf(t.getElement()) ? i32() : f32());
  }
  auto give = [&](Block *from) {
    tf32.clear(); // values of one branch are unknown in the other
    Registers yields;
    if (from) {
      lowerBlock(*from);
      for (Value v : from->getTerminator()->getOperands())
        if (succeeded(status))
          flatten(v, yields);
    }
    return yields;
  };
  ValueRange chosen = choose(number(op.getCondition()), results, [&] { return give(op.thenBlock()); }, [&] { return give(op.elseBlock()); });
  if (failed(status))
    return;
  tf32.clear();
  unsigned next = 0;
  for (Value r : op.getResults())
    unflatten(r, chosen, next);
}

void KernelLowering::emit(tile::BoundedOp op) {
  StageAt s = stages[op.getStage()];
  Type e = op.getStage().getType().getElement();
  // The rows that this worker uses.
  bool own = config.getRows() == Index::n;
  int64_t rows = own ? config.getWorkerRows() : config.getTile();
  Value firstRow = own ? mul(rowWorker, rows) : c32(0);
  if (!own && hasGroups()) { // a group's workers answer together: each looks at its share
    rows = (rows + tile::groupWorkers - 1) / tile::groupWorkers;
    firstRow = mul(andBits(worker, tile::groupWorkers - 1), rows);
  }
  // Squares of bf16 may be added up in bf16, two channels at once: each addition is wrong by 2^-9 of the sum at most, for which the limit makes room. So 32 channels at most.
  int64_t bytes = s.slot.swizzle ? s.slot.swizzle->chunks * 16 : s.slot.slotBytes;
  int64_t perSum = std::min<int64_t>(64, bytes);
  bool coarse = e.isBF16();
  // max over this lane's rows of ‖k‖²
  Value worst = cf(0);
  for (int64_t first = 0; first < rows; first += 32) {
    Value row = add(lane, first);
    if (first + 32 > rows)
      row = min(row, c32(rows - 1));
    Value tokenRow = add(firstRow, row), p = offset(s.address, widen(mul(tokenRow, s.slot.rowBytes))), sum = cf(0);
    if (s.slot.isVector) {
      Value x = load(f32(), p, 4);
      worst = maxNaN(worst, fmul(x, x));
      continue;
    }
    Value squares = c32(0);
    for (int64_t at = 0; at < bytes; at += 16) {
      Value q = offset(p, at);
      if (auto &sw = s.slot.swizzle)
        q = offset(offset(s.address, at / 16 / sw->width * sw->atomBytes()), widen(swizzled(*sw, tokenRow, c32(at / 16 % sw->width))));
      Registers x = loadVector(isHalf(e) ? i32() : f32(), 4, q);
      for (Value v : x) {
        if (coarse) {
          squares = fma2(v, v, squares);
        } else if (!isHalf(e)) {
          sum = fadd(fmul(v, v), sum);
        } else {
          auto [low, high] = unpack(e, v);
          sum = fadd(fmul(low, low), sum);
          sum = fadd(fmul(high, high), sum);
        }
      }
      if (coarse && ((at + 16) % perSum == 0 || at + 16 == bytes)) {
        auto [low, high] = unpack(e, squares);
        sum = fadd(fadd(low, high), sum);
        squares = c32(0);
      }
    }
    worst = maxNaN(worst, sum);
  }
  Value factor = number(op.getFactor());
  double limit = op.getLimit().convertToDouble();
  if (coarse)
    limit *= 1 - (perSum / 4 + 1) / 512.0;
  Value square = fmul(fmul(factor, factor), worst);
  // An ordered comparison: NaN answers no. 0·inf is NaN too.
  Value small = arith::CmpFOp::create(b, loc, arith::CmpFPredicate::OLE, square, cf(limit * limit));
  if (!op.getPartial())
    small = both(small, arith::CmpIOp::create(b, loc, arith::CmpIPredicate::sle, add(number(op.getN0()), config.getTile()), tokens));
  numbers[op.getOk()] = allOfGroup(small);
}

void KernelLowering::emit(tile::ReadOp op) {
  TileType t = tileType(op.getTile());
  Registers r;
  for (int64_t block = 0; block < blocksOf(t); ++block)
    r.append(readStage(stages[op.getStage()], op.getStage().getType(), t, add(narrow(number(op.getAt())), block * tile::blockSize)));
  tiles[op.getTile()] = r;
}

Registers KernelLowering::readStage(const StageAt &s, tile::StageType stage, TileType type, Value row) {
  Layout l = layoutOf(type);
  Type e = stage.getElement();
  int64_t size = bytesOf(e), count = l.registerCount();
  Registers r;
  if (s.slot.isVector) {
    Value base = offset(s.address, widen(mul(add(row, laneCoordinate(l, Axis::n)), size)));
    for (int64_t i = 0; i < count; ++i) {
      Value at = offset(base, l.element(int(i), 0)[Axis::n] * size);
      if (!e.isInteger()) {
        r.push_back(load(f32(), at, 4));
        continue;
      }
      Value zero = arith::ConstantOp::create(b, loc, b.getI8IntegerAttr(0)); // of a mask what tile.where asks: is it not 0?
      r.push_back(arith::CmpIOp::create(b, loc, arith::CmpIPredicate::ne, load(e, at, 1), zero));
    }
    return r;
  }
  if (s.slot.swizzle) {
    status = emitError(loc) << "a tile of tokens that groups of workers multiply by is read by something else too; use matrix = \"mma\"";
    return {};
  }
  int64_t present = s.slot.slotBytes / size; // channels, whole units of 8; beyond them only padding
  bool channelsFirst = l.registers[0] == Basis{Axis::d, 1};
  // Rows as operands, transposed or not; those in the layout of results are not what ldmatrix gives.
  if (isHalf(e) && (!channelsFirst || llvm::equal(l.lanes, fragment::row(Axis::n, 1).lanes)))
    return readMatrices(s, l, row, present);
  Value laneChannel = laneCoordinate(l, Axis::d), laneBytes = mul(laneChannel, size);
  Value tileRow = mul(add(row, laneCoordinate(l, Axis::n)), s.slot.rowBytes);
  Value base = offset(s.address, widen(add(tileRow, laneBytes)));
  int64_t together = channelsFirst ? 2 : 1;
  // Where channels are padded, and lanes hold those that a register's number alone does not tell, some lanes have none.
  bool uneven = stage.getD() > present && llvm::any_of(l.lanes, [&](const Basis &b) { return b.axis == Axis::d && b.step * 2 > 8; });
  for (int64_t i = 0; i < count; i += together) {
    Coordinates c = l.element(int(i), 0);
    Value at = offset(base, c[Axis::n] * s.slot.rowBytes + c[Axis::d] * size), isThere;
    if (uneven) {
      Value channel = add(laneChannel, c[Axis::d]);
      isThere = lt(channel, c32(present));
      at = offset(offset(s.address, widen(add(tileRow, mul(min(channel, c32(present - together)), size)))), c[Axis::n] * s.slot.rowBytes);
    }
    Registers x;
    if (c[Axis::d] >= present)
      x.append(isHalf(e) ? 1 : together, isHalf(e) ? c32(0) : cf(0));
    else if (isHalf(e))
      x.push_back(load(i32(), at, 4));
    else if (channelsFirst)
      x.append(loadVector(f32(), 2, at));
    else
      x.push_back(load(f32(), at, 4));
    for (Value v : x)
      r.push_back(isThere ? select(isThere, v, isHalf(e) ? c32(0) : cf(0)) : v);
  }
  return r;
}

// ldmatrix: up to four 8 × 8 matrices of 16-bit numbers at once, a register each, transposed where neighbours along n share a register. Lane i gives the address of row
// i % 8 of matrix i / 8.
Registers KernelLowering::readMatrices(const StageAt &s, const Layout &l, Value row, int64_t present) {
  bool transposed = l.registers[0] != Basis{Axis::d, 1};
  int64_t count = l.registerCount() / 2;
  auto corner = [&](int64_t i) { return l.element(int(2 * i), 0); };
  auto bytesTo = [&](int64_t i) { return corner(i)[Axis::n] * s.slot.rowBytes + corner(i)[Axis::d] * 2; };
  auto isPresent = [&](int64_t i) { return corner(i)[Axis::d] < present; };
  Value tileRow = mul(row, s.slot.rowBytes), laneRow = mul(andBits(lane, 7), s.slot.rowBytes);
  Registers r;
  for (int64_t first = 0, n; first < count; first += n) {
    n = 1;
    if (!isPresent(first)) {
      r.push_back(c32(0));
      continue;
    }
    while (n < 4 && first % (2 * n) == 0 && first + 2 * n <= count && llvm::all_of(llvm::seq(first, first + 2 * n), isPresent))
      n *= 2;
    Value lanePart = laneRow;
    for (int64_t bit = 1; bit < n; bit *= 2) // register numbers are linear in their bits
      lanePart = add(lanePart, mul(andBits(shr(lane, bit == 1 ? 3 : 4), 1), bytesTo(first + bit) - bytesTo(first)));
    Value at = offset(offset(s.address, widen(add(tileRow, lanePart))), bytesTo(first));
    std::string name = "llvm.nvvm.ldmatrix.sync.aligned.m8n8.x" + std::to_string(n) + (transposed ? ".trans" : "") + ".b16.p3";
    if (n == 1)
      r.push_back(intrinsic(name, i32(), at));
    else
      r.append(structElements(intrinsic(name, LLVM::LLVMStructType::getLiteral(b.getContext(), SmallVector<Type>(n, i32())), at), int(n)));
  }
  return r;
}

} // namespace flarec::nvvm
