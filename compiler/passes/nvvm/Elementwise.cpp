// tile-to-nvvm: what a lane does with its own registers, and sums and maxima across the lanes of a warp.
#include "passes/nvvm/KernelLowering.h"

using namespace mlir;

namespace flarec::nvvm {

Registers KernelLowering::matched(Value v, TileType like) {
  TileType t = tileType(v);
  const Registers &from = tiles[v];
  if (t.getLayout() == like.getLayout() && from.size() && blocksOf(t) == blocksOf(like))
    return from;
  Layout l = layoutOf(t), target = layoutOf(like);
  int64_t count = target.registerCount(), own = l.registerCount();
  Registers r;
  for (int64_t block = 0; block < blocksOf(like); ++block)
    for (int64_t i = 0; i < count; ++i) {
      int m = l.matching(target, int(i));
      int64_t fromBlock = blocksOf(t) == 1 ? 0 : block;
      if (m < 0 || fromBlock * own + m >= int64_t(from.size())) {
        status = emitError(loc) << "cannot broadcast " << t << " to " << like;
        return {};
      }
      r.push_back(from[fromBlock * own + m]);
    }
  return r;
}

void KernelLowering::emit(tile::ScaleOp op) {
  Value f = number(op.getFactor());
  unary(op, [&](Value x) { return fmul(x, f); });
}

void KernelLowering::emit(tile::ConstantOp op) {
  TileType t = tileType(op.getOut());
  Value v = cf(op.getValue().convertToDouble());
  tiles[op.getOut()] = Registers(blocksOf(t) * layoutOf(t).registerCount(), v);
}

void KernelLowering::emit(tile::CastOp op) {
  Type from = tileType(op.getA()).getElement(), to = tileType(op.getOut()).getElement();
  const Registers x = tiles[op.getA()];
  Registers r;
  if (from == to) {
    r = x;
  } else if (isHalf(to)) {
    auto known = packed.find(op.getA());
    for (size_t i = 0; i + 1 < x.size(); i += 2)
      r.push_back(known != packed.end() && known->second[i / 2] ? known->second[i / 2] : pack(to, x[i], x[i + 1]));
  } else {
    for (Value v : x) {
      auto [low, high] = unpack(from, v);
      r.push_back(low);
      r.push_back(high);
    }
  }
  tiles[op.getOut()] = r;
}

void KernelLowering::emit(tile::SplitOp op) {
  Type half = tileType(op.getHi()).getElement();
  const Registers x = tiles[op.getA()];
  Registers hi, lo;
  for (size_t i = 0; i + 1 < x.size(); i += 2) {
    Value h = pack(half, x[i], x[i + 1]);
    auto [h0, h1] = unpack(half, h);
    hi.push_back(h);
    // No `contract` here: what rounding took away must survive exactly.
    lo.push_back(pack(half, arith::SubFOp::create(b, loc, x[i], h0), arith::SubFOp::create(b, loc, x[i + 1], h1)));
  }
  tiles[op.getHi()] = hi;
  tiles[op.getLo()] = lo;
}

void KernelLowering::emit(tile::MaskOp op) {
  TileType t = tileType(op.getX());
  Layout l = layoutOf(t);
  Axis a = Axis(int(op.getOver()));
  const Registers x = tiles[op.getX()];
  packed.erase(op.getOut()); // of another block
  // Known at compile time: a block that ends before the limit needs no mask.
  auto limitConst = op.getLimit().getDefiningOp<arith::ConstantIndexOp>();
  APInt first;
  if (limitConst && matchPattern(number(op.getFirst()), m_ConstantInt(&first)) &&
      first.getSExtValue() + tile::blockSize <= limitConst.value()) {
    tiles[op.getOut()] = x;
    if (auto known = packed.find(op.getX()); known != packed.end())
      packed[op.getOut()] = Registers(known->second);
    return;
  }
  Value fill = cf(op.getFill().convertToDouble());
  Value left = sub(number(op.getLimit()), number(op.getFirst())); // valid are those below
  left = narrow(max(min(left, c64(tile::blockSize)), c64(0)));
  left = sub(left, laneCoordinate(l, a));
  Registers r;
  if (isHalf(t.getElement())) { // two in a register
    for (auto [i, v] : llvm::enumerate(x)) {
      auto keep = [&](int which, int64_t bits) { return select(lt(c32(l.element(2 * int(i) + which, 0)[a]), left), c32(bits), c32(0)); };
      r.push_back(arith::AndIOp::create(b, loc, v, orBits(keep(0, 0xffff), keep(1, 0xffff0000))));
    }
    tiles[op.getOut()] = r;
    return;
  }
  for (auto [i, v] : llvm::enumerate(x))
    r.push_back(select(lt(c32(l.element(int(i), 0)[a]), left), v, fill));
  tiles[op.getOut()] = r;
}

void KernelLowering::emit(tile::WhereOp op) {
  TileType t = tileType(op.getOut());
  Registers there = matched(op.getMask(), t), x = matched(op.getX(), t), r;
  if (failed(status))
    return;
  Value fill = cf(op.getFill().convertToDouble());
  for (auto [c, v] : llvm::zip(there, x))
    r.push_back(select(c, v, fill));
  tiles[op.getOut()] = r;
}

void KernelLowering::emit(tile::ReduceOp op) {
  TileType from = tileType(op.getX()), to = tileType(op.getOut());
  Layout l = layoutOf(from), target = layoutOf(to);
  Axis a = Axis(int(op.getOver()));
  bool isMax = op.getKind() == "max";
  auto combine = [&](Value x, Value y) { return !x ? y : isMax ? maxNaN(x, y) : fadd(x, y); };
  const Registers x = tiles[op.getX()];
  Registers r(blocksOf(to) * target.registerCount());
  int64_t count = l.registerCount();
  for (int64_t block = 0; block < blocksOf(from); ++block)
    for (int64_t i = 0; i < count; ++i) {
      int m = target.matching(l, int(i));
      if (m < 0) {
        status = op.emitOpError("result layout does not fit");
        return;
      }
      Value &slot = r[block * target.registerCount() + m];
      slot = combine(slot, x[block * count + i]);
    }
  for (size_t bit = 0; bit < l.lanes.size(); ++bit)
    if (l.lanes[bit].step && l.lanes[bit].axis == a)
      for (Value &v : r)
        v = combine(v, shuffleXor(v, int64_t(1) << bit));
  tiles[op.getOut()] = r;
}

void KernelLowering::emit(tile::ExceedsOp op) { numbers[op.getAny()] = anyLane(exceedsHere(op)); }

Value KernelLowering::exceedsHere(tile::ExceedsOp op) {
  Layout l = layoutOf(tileType(op.getX())), rows = layoutOf(tileType(op.getLimit()));
  const Registers x = tiles[op.getX()], limit = tiles[op.getLimit()];
  Registers largest(rows.registerCount());
  for (int i = 0; i < l.registerCount(); ++i) {
    Value &row = largest[rows.matching(l, i)];
    row = row ? maxNaN(row, x[i]) : x[i];
  }
  double by = op.getBy().convertToDouble();
  Value any;
  for (auto [row, most] : llvm::zip(largest, limit)) {
    Value above = arith::CmpFOp::create(b, loc, arith::CmpFPredicate::UGT, row, by ? fadd(most, cf(by)) : most);
    any = any ? Value(arith::OrIOp::create(b, loc, any, above)) : above;
  }
  return any;
}

void KernelLowering::emit(tile::WithinOp op) {
  Value all;
  for (Value x : tiles[op.getX()]) {
    Value from = arith::CmpFOp::create(b, loc, arith::CmpFPredicate::OGE, x, cf(op.getLow().convertToDouble()));
    Value within = both(from, arith::CmpFOp::create(b, loc, arith::CmpFPredicate::OLE, x, cf(op.getHigh().convertToDouble())));
    all = all ? both(all, within) : within;
  }
  numbers[op.getAll()] = allOfGroup(all);
}

void KernelLowering::emit(tile::OverflowsOp op) { numbers[op.getAny()] = anyLane(overflowsHere(op)); }

Value KernelLowering::overflowsHere(tile::OverflowsOp op) {
  Value largest;
  Type pair = pair16(tileType(op.getW()).getElement());
  for (Value w : tiles[op.getW()])
    largest = largest ? bitcast(i32(), intrinsic("llvm.nvvm.fmax.nan.f16x2", pair, {bitcast(pair, largest), bitcast(pair, w)})) : w;
  // From infinity, 0x7c00, on a step of the exponent carries into the sign.
  return andBits(add(largest, 0x04000400), 0x80008000);
}

void KernelLowering::emit(tile::SumOp op) {
  TileType t = tileType(op.getX());
  Registers acc = tiles[op.getAcc()];
  const Registers x = tiles[op.getX()];
  if (isHalf(t.getElement())) {
    // A product with ones: the sum of the weights as rounded, on the tensor cores.
    Value ones = c32(t.getElement().isBF16() ? 0x3f803f80 : 0x3c003c00);
    tiles[op.getOut()] = mma16(t.getElement(), x, {ones, ones}, acc);
    return;
  }
  Layout l = layoutOf(t), target = layoutOf(tileType(op.getOut()));
  for (int i = 0; i < l.registerCount(); ++i) {
    int m = target.matching(l, i);
    acc[m] = fadd(acc[m], x[i]);
  }
  tiles[op.getOut()] = acc;
}

void KernelLowering::emit(tile::TotalOp op) {
  TileType from = tileType(op.getX()), to = tileType(op.getOut());
  Registers r = tiles[op.getX()];
  if (from.getLayout() != to.getLayout()) {
    r = matched(op.getX(), to); // even and odd columns hold the same
  } else {
    Layout pairs = fragment::pair(Axis(int(config.getRows())), Axis(int(tile::columnsOf(config.getRows()))));
    for (size_t bit = 0; bit < pairs.lanes.size(); ++bit)
      if (pairs.lanes[bit].axis == Axis(int(tile::columnsOf(config.getRows()))))
        for (Value &v : r)
          v = fadd(v, shuffleXor(v, int64_t(1) << bit));
  }
  tiles[op.getOut()] = r;
}

} // namespace flarec::nvvm
