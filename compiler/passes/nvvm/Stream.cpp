// tile-to-nvvm: tokens on their way through shared memory.
//
// The tokens of a tile lie in a ring of stages in shared memory, row after row with all of the block's heads side by side; 16 bytes
// between rows (32 for f32) keep the eight rows of a fragment in different banks.
#include "passes/nvvm/KernelLowering.h"

using namespace mlir;

namespace flarec::nvvm {

void KernelLowering::planRing(tile::StreamOp op) {
  for (Value v : op.getTokens()) {
    auto t = cast<FlareTensorType>(v.getType());
    Slot s;
    s.isVector = t.getChannels() == 0;
    int64_t size = bytesOf(t.getElement());
    if (s.isVector) {
      s.slotBytes = config.getTile() * size;
      s.rowBytes = size;
      s.size = s.slotBytes * config.getHeads();
    } else {
      s.slotBytes = (t.getChannels() + 7) / 8 * 8 * size;
      s.rowBytes = s.slotBytes * config.getHeads() + (size == 2 ? 16 : 32);
      s.size = s.rowBytes * config.getTile();
    }
    s.offset = stageBytes;
    stageBytes += (s.size + 15) / 16 * 16;
    slots.push_back(s);
  }
  ringOffset = (stashHeadBytes * config.getHeads() + 127) / 128 * 128;
  sharedBytes = ringOffset + stageBytes * config.getStages();
}

void KernelLowering::issue(tile::StreamOp op, Value n, Value stageBase) {
  int64_t threads = config.getThreads();
  for (auto [v, s] : llvm::zip(op.getTokens(), slots)) {
    const Tensor &t = tensors[v];
    int64_t size = bytesOf(t.type.getElement());
    int64_t chunk = s.isVector ? size : aligned ? chunkBytes(t.type) : size;
    int64_t pieces = s.isVector ? 1 : t.type.getChannels() * size / chunk;
    int64_t perToken = pieces * config.getHeads();
    int64_t total = perToken * config.getTile();
    for (int64_t first = 0; first < total; first += threads) {
      Value i = add(thread, first);
      auto copy = [&] {
        Value token, h, piece;
        if (s.isVector) { // neighbouring threads take neighbouring tokens
          token = rem(i, config.getTile());
          h = div(i, config.getTile());
          piece = c32(0);
        } else {
          piece = rem(i, pieces);
          Value rest = div(i, pieces);
          h = rem(rest, config.getHeads());
          token = div(rest, config.getHeads());
        }
        Value globalHead = add(firstHead, widen(h));
        Value row = add(n, widen(token));
        Value valid = both(lt(row, tokens), lt(globalHead, heads));
        // Outside: any readable address, zero bytes of it.
        Value elements = add(add(mul(batch, t.strideB), mul(globalHead, t.strideH)), mul(row, t.strideRow));
        Value source = offset(t.pointer, select(valid, add(mul(elements, size), widen(mul(piece, chunk))), c64(0)));
        Value target;
        if (s.isVector)
          target = offset(stageBase, widen(add(mul(h, s.slotBytes), mul(token, size))));
        else
          target = offset(stageBase, widen(add(add(mul(token, s.rowBytes), mul(h, s.slotBytes)), mul(piece, chunk))));
        target = offset(target, s.offset);
        if (chunk >= 4 && (aligned || s.isVector)) {
          Value bytes = select(valid, c32(chunk), c32(0));
          std::string kind = chunk == 16 ? "cg" : "ca";
          intrinsic("llvm.nvvm.cp.async." + kind + ".shared.global." + std::to_string(chunk) + ".s", {target, source, bytes});
        } else {
          Type e = b.getIntegerType(size * 8);
          Value zero = arith::ConstantOp::create(b, loc, b.getIntegerAttr(e, 0));
          auto guarded = scf::IfOp::create(b, loc, TypeRange{e}, valid, true);
          {
            OpBuilder::InsertionGuard guard(b);
            b.setInsertionPointToStart(guarded.thenBlock());
            scf::YieldOp::create(b, loc, load(e, source, size));
            b.setInsertionPointToStart(guarded.elseBlock());
            scf::YieldOp::create(b, loc, zero);
          }
          store(guarded.getResult(0), target, size);
        }
      };
      if (first + threads > total)
        onlyIf(lt(i, c32(total)), copy);
      else
        copy();
    }
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
  for (int64_t i = 0; i + 1 < stagesCount; ++i)
    issue(op, mul(add(first, i), T), stageAddress(c32(i)));
  Registers inits;
  for (Value v : op.getInits())
    flatten(v, inits);
  inits.push_back(c32(0)); // stage to work on
  auto loop = scf::ForOp::create(b, loc, first, last, c64(1), inits);
  {
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(loop.getBody());
    Value stage = loop.getRegionIterArgs().back();
    intrinsic("llvm.nvvm.cp.async.wait.group", c32(stagesCount - 2));
    barrier();
    // Everyone is done with the stage before this one: fill it again.
    Value refill = add(stage, stagesCount - 1);
    refill = select(lt(refill, c32(stagesCount)), refill, add(refill, -stagesCount));
    issue(op, mul(add(loop.getInductionVar(), stagesCount - 1), T), stageAddress(refill));

    Block &body = op.getRegion().front();
    numbers[body.getArgument(0)] = mul(loop.getInductionVar(), T);
    Value here = stageAddress(stage);
    for (auto [i, s] : llvm::enumerate(slots))
      stages[body.getArgument(1 + i)] = {offset(offset(here, s.offset), widen(mul(headInBlock, s.slotBytes))), s};
    unsigned next = 0;
    for (unsigned i = 1 + slots.size(); i < body.getNumArguments(); ++i)
      unflatten(body.getArgument(i), loop.getRegionIterArgs(), next);
    lowerBlock(body);
    if (failed(status))
      return;
    Registers yields;
    for (Value v : body.getTerminator()->getOperands())
      flatten(v, yields);
    Value following = add(stage, 1);
    yields.push_back(select(lt(following, c32(stagesCount)), following, c32(0)));
    scf::YieldOp::create(b, loc, yields);
  }
  intrinsic("llvm.nvvm.cp.async.wait.group", c32(0));
  unsigned next = 0;
  for (Value r : op.getResults())
    unflatten(r, loop.getResults(), next);
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
    results.append(n, t ? f32() : r.getType());
  }
  auto copy = scf::IfOp::create(b, loc, results, number(op.getCondition()), true);
  for (bool otherwise : {false, true}) {
    OpBuilder::InsertionGuard guard(b);
    Block *block = otherwise ? copy.elseBlock() : copy.thenBlock();
    block->clear();
    b.setInsertionPointToStart(block);
    Block *from = otherwise ? op.elseBlock() : op.thenBlock();
    tf32.clear(); // values of one branch are unknown in the other
    Registers yields;
    if (from) {
      lowerBlock(*from);
      if (failed(status))
        return;
      for (Value v : from->getTerminator()->getOperands())
        flatten(v, yields);
    }
    scf::YieldOp::create(b, loc, yields);
  }
  tf32.clear();
  unsigned next = 0;
  for (Value r : op.getResults())
    unflatten(r, copy.getResults(), next);
}

void KernelLowering::emit(tile::BoundedOp op) {
  StageAt s = stages[op.getStage()];
  int64_t T = config.getTile(), d = op.getStage().getType().getD();
  Type e = op.getStage().getType().getElement();
  // max over this lane's rows of ‖k‖²
  Value worst = cf(0);
  for (int64_t first = 0; first < T; first += 32) {
    Value row = add(lane, first);
    if (first + 32 > T)
      row = min(row, c32(T - 1));
    Value p = offset(s.address, widen(mul(row, s.slot.rowBytes))), sum = cf(0);
    for (int64_t c = 0; c < d; c += 16 / bytesOf(e)) {
      Registers x = loadVector(isHalf(e) ? i32() : f32(), 4, offset(p, c * bytesOf(e)));
      for (Value v : x) {
        if (!isHalf(e)) {
          sum = fadd(fmul(v, v), sum);
          continue;
        }
        auto [low, high] = unpack(e, v);
        sum = fadd(fmul(low, low), sum);
        sum = fadd(fmul(high, high), sum);
      }
    }
    worst = maxNaN(worst, sum);
  }
  Value factor = number(op.getFactor());
  double limit = op.getLimit().convertToDouble();
  Value square = fmul(fmul(factor, factor), worst);
  // An ordered comparison: NaN answers no. 0·inf is NaN too.
  Value small = arith::CmpFOp::create(b, loc, arith::CmpFPredicate::OLE, square, cf(limit * limit));
  Value full = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::sle, add(number(op.getN0()), T), tokens);
  numbers[op.getOk()] = allLanes(both(small, full));
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
    for (int64_t i = 0; i < count; ++i)
      r.push_back(load(f32(), offset(base, l.element(int(i), 0)[Axis::n] * size), 4));
    return r;
  }
  bool channelsFirst = l.registers[0] == Basis{Axis::d, 1};
  if (!isHalf(e) || channelsFirst) {
    Value base = offset(s.address, widen(add(mul(add(row, laneCoordinate(l, Axis::n)), s.slot.rowBytes), mul(laneCoordinate(l, Axis::d), size))));
    auto at = [&](int64_t i) {
      Coordinates c = l.element(int(i), 0);
      return offset(base, c[Axis::n] * s.slot.rowBytes + c[Axis::d] * size);
    };
    if (isHalf(e))
      for (int64_t i = 0; i < count; i += 2)
        r.push_back(load(i32(), at(i), 4));
    else if (channelsFirst)
      for (int64_t i = 0; i < count; i += 2)
        r.append(loadVector(f32(), 2, at(i)));
    else
      for (int64_t i = 0; i < count; ++i)
        r.push_back(load(f32(), at(i), 4));
    return r;
  }
  // 16-bit rows whose neighbours along n share a register: a transposing ldmatrix, 16 tokens × 8 channels at a time. Lane i gives the address of row i.
  Value base = offset(s.address, widen(mul(add(row, andBits(lane, 15)), s.slot.rowBytes)));
  Type two = LLVM::LLVMStructType::getLiteral(b.getContext(), {i32(), i32()});
  for (int64_t d = 0; d < stage.getD(); d += 8)
    r.append(structElements(intrinsic("llvm.nvvm.ldmatrix.sync.aligned.m8n8.x2.trans.b16.p3", two, offset(base, d * size)), 2));
  return r;
}

} // namespace flarec::nvvm
