// A block of 16 rows, one in each lane: how it comes from memory and goes back, and every op on it. Outside pairs any index may be the one across
// lanes. Merges are nothing else, so they are here too.
#include "passes/KeepToRange.h"
#include "passes/host/KernelLowering.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace flarec;
using namespace flarec::host;

void KernelLowering::identify(Value block) {
  if (!config) {
    int64_t perHead = blocksPerHead(kernel);
    rowGroup = rem(block, c64(perHead));
    Value bh = div(block, c64(perHead));
    head = rem(bh, heads);
    batch = div(bh, heads);
    return;
  }
  Value perBlock = c64(config.getHeads());
  Value groups = div(add(heads, config.getHeads() - 1), perBlock);
  firstHead = mul(rem(block, groups), perBlock);
  Value rest = div(block, groups);
  rowGroup = rem(rest, c64(config.getRowGroups()));
  rest = div(rest, c64(config.getRowGroups()));
  split = rem(rest, splits);
  batch = div(rest, splits);
  headsHere = min(perBlock, sub(heads, firstHead));
}

//===-- 16 rows between memory and registers -------------------------------//

void KernelLowering::keepToRange(const Tensor &range) { lowering::keepToRange(*this, range); }

/// Rows of this batch and head from row `first` on.
Rows KernelLowering::rowsOf(const Tensor &t, Value first) {
  int64_t size = bytesOf(t.type.getElement());
  Value at = add(add(mul(batch, t.strideB), mul(head, t.strideH)), mul(first, t.strideRow));
  Rows r{offset(t.pointer, mul(at, size)), mul(t.strideRow, size), t.type.getChannels(), t.type.getElement()};
  if (mask && t.type.getTokens() && !t.type.isMask()) {
    r.there = offset(mask->pointer, add(mul(batch, mask->strideB), mul(first, mask->strideRow)));
    r.thereStride = mask->strideRow;
  }
  return r;
}

/// The rows from row `row` of these on.
Rows KernelLowering::from(Rows r, Value row) {
  r.base = offset(r.base, mul(row, r.stride));
  if (r.there)
    r.there = offset(r.there, mul(row, r.thereStride));
  return r;
}

/// Is the token of a row there by the mask?
Value KernelLowering::isThere(const Rows &r, Value row) { return asFlag(load(b.getI8Type(), offset(r.there, mul(row, r.thereStride)), 1)); }

/// 16 rows, those of tokens that are not there 0. There are `left` (null: 16 or more), so that no byte beyond is read.
Registers KernelLowering::ofPresent(const Rows &r, Value left, Registers x) {
  if (!r.there)
    return x;
  Value bytes = LLVM::PoisonOp::create(b, loc, VectorType::get(lanes, b.getI8Type()));
  for (int64_t i = 0; i < lanes; ++i) {
    Value row = left && !tileIsFull ? min(c64(i), add(left, -1)) : c64(i);
    bytes = LLVM::InsertElementOp::create(b, loc, bytes, load(b.getI8Type(), offset(r.there, mul(row, r.thereStride)), 1), c32(i));
  }
  Value zero = arith::ConstantOp::create(b, loc, b.getZeroAttr(bytes.getType()));
  Value there = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::ne, bytes, zero);
  for (Value &v : x)
    v = select(there, v, all(0));
  return x;
}

/// Channels [first, first + 4) of a row.
Value KernelLowering::piece(const Rows &r, Value row, int64_t first) {
  Type e = stored(r.element);
  int64_t size = bytesOf(e);
  if (first + 4 <= r.channels)
    return load(VectorType::get(4, e), offset(row, first * size), size);
  Value v = arith::ConstantOp::create(b, loc, b.getZeroAttr(VectorType::get(4, e)));
  for (int64_t i = 0; first + i < r.channels; ++i)
    v = LLVM::InsertElementOp::create(b, loc, v, load(e, offset(row, (first + i) * size), size), c32(i));
  return v;
}

Registers KernelLowering::loadRowsAt(const Rows &r, ArrayRef<Value> row, int64_t width) {
  Registers out;
  if (!r.channels) {
    Value v = LLVM::PoisonOp::create(b, loc, VectorType::get(lanes, stored(r.element)));
    for (int64_t i = 0; i < lanes; ++i)
      v = LLVM::InsertElementOp::create(b, loc, v, load(stored(r.element), row[i], bytesOf(r.element)), c32(i));
    return {widen(v, r.element)};
  }
  int64_t first = 0;
  if (r.element.isBF16())
    for (; first + 8 <= r.channels; first += 8) { // two channels in 32 bits: half the shuffles
      auto eight = VectorType::get(8, b.getI16Type());
      auto at = [&](int64_t i) { return load(eight, offset(row[i], 2 * first), 2); };
      Value v[4];
      for (int64_t j = 0; j < 4; ++j)
        v[j] = bitcast(ivec(), concat({at(j), at(4 + j), at(8 + j), at(12 + j)}));
      transpose4(v);
      for (Value pair : v) {
        out.push_back(bitcast(vec(), arith::ShLIOp::create(b, loc, pair, allBits(16))));
        out.push_back(bitcast(vec(), arith::AndIOp::create(b, loc, pair, allBits(0xffff0000))));
      }
    }
  // A row's channels in one piece where they are: a line of the cache is asked for once.
  if (r.element.isF32())
    for (int64_t w; first + 8 <= r.channels; first += w) {
      w = first + lanes <= r.channels ? lanes : 8;
      Registers v;
      auto at = [&](int64_t i) { return load(vec(w), offset(row[i], 4 * first), 4); };
      for (int64_t i = 0; i < w; ++i)
        v.push_back(w == lanes ? at(i) : concat({at(i / 4 * 8 + i % 4), at(i / 4 * 8 + 4 + i % 4)}));
      out.append(channelsOfRows(v));
    }
  for (int64_t d = first; d < width; d += 4) {
    Value v[4];
    for (int64_t j = 0; j < 4; ++j)
      v[j] = widen(concat({piece(r, row[j], d), piece(r, row[4 + j], d), piece(r, row[8 + j], d), piece(r, row[12 + j], d)}), r.element);
    transpose4(v);
    out.append(v, v + 4);
  }
  return out;
}

/// Room for 16 rows on the way to or from a tensor's last ones.
Value KernelLowering::edge() {
  edgeUsed = true;
  return scratch;
}

/// Copies a row as it is.
void KernelLowering::copyRow(const Rows &r, Value from, Value to) {
  Type e = stored(r.element);
  int64_t size = bytesOf(e), n = std::max<int64_t>(1, r.channels);
  for (int64_t d = 0; d < n;) {
    int64_t count = std::min<int64_t>(llvm::bit_floor(uint64_t(n - d)), lanes);
    Type t = count == 1 ? e : Type(VectorType::get(count, e));
    store(load(t, offset(from, d * size), size), offset(to, d * size), size);
    d += count;
  }
}

/// 16 rows with rows across lanes; those from `left` on are 0 (null: all are there).
Registers KernelLowering::loadRows(Rows r, Value left, int64_t width) {
  if (left && !tileIsFull) {
    // The last rows by way of scratch memory, so that all are read by the same code.
    int64_t bytes = std::max<int64_t>(1, r.channels) * bytesOf(r.element);
    Value full = le(c64(lanes), left), copy = edge();
    onlyIf(lt(left, c64(lanes)), [&] {
      Value real = max(left, c64(0));
      loop(c64(0), real, 1, [&](Value i) { copyRow(r, offset(r.base, mul(i, r.stride)), offset(copy, mul(i, bytes))); });
      Value zero = arith::ConstantOp::create(b, loc, b.getI8IntegerAttr(0));
      loop(mul(real, bytes), c64(lanes * bytes), 1, [&](Value i) { store(zero, offset(copy, i), 1); });
    });
    r.base = select(full, r.base, copy);
    r.stride = select(full, r.stride, c64(bytes));
  }
  SmallVector<Value> row{r.base};
  while (int64_t(row.size()) < lanes)
    row.push_back(offset(row.back(), r.stride));
  return ofPresent(r, left, loadRowsAt(r, row, width));
}

/// Which lanes are below a count (i64).
Value KernelLowering::below(Value count) {
  SmallVector<int32_t> numbers;
  for (int i = 0; i < lanes; ++i)
    numbers.push_back(i);
  Value index = arith::ConstantOp::create(b, loc, DenseElementsAttr::get(ivec(), ArrayRef<int32_t>(numbers)));
  Value limit = arith::TruncIOp::create(b, loc, b.getI32Type(), max(min(count, c64(lanes)), c64(0)));
  return arith::CmpIOp::create(b, loc, arith::CmpIPredicate::slt, index, splat(limit));
}

void KernelLowering::storeRows(const Rows &r, Value left, Registers x) {
  x = ofPresent(r, left, x);
  if (!left || tileIsFull)
    return storeAllRows(r, x);
  int64_t bytes = std::max<int64_t>(1, r.channels) * bytesOf(r.element);
  Value full = le(c64(lanes), left), copy = edge();
  storeAllRows({select(full, r.base, copy), select(full, r.stride, c64(bytes)), r.channels, r.element}, x);
  loop(c64(0), select(full, c64(0), left), 1, [&](Value i) { copyRow(r, offset(copy, mul(i, bytes)), offset(r.base, mul(i, r.stride))); });
}

void KernelLowering::storeAllRows(const Rows &r, const Registers &x) {
  Type e = stored(r.element);
  int64_t size = bytesOf(e);
  SmallVector<Value> row{r.base};
  while (int64_t(row.size()) < lanes)
    row.push_back(offset(row.back(), r.stride));
  if (!r.channels) {
    Value v = narrow(x[0], r.element);
    for (int64_t i = 0; i < lanes; ++i)
      store(element(v, i), row[i], size);
    return;
  }
  int64_t first = 0;
  if (r.element.isBF16())
    for (; first + 8 <= r.channels; first += 8) {
      Value v[4];
      for (int64_t p = 0; p < 4; ++p) {
        Value high = arith::ShLIOp::create(b, loc, narrowBits(x[first + 2 * p + 1]), allBits(16));
        v[p] = arith::OrIOp::create(b, loc, narrowBits(x[first + 2 * p]), high);
      }
      transpose4(v);
      for (int64_t j = 0; j < 4; ++j)
        for (int64_t g = 0; g < 4; ++g)
          store(slice(v[j], 4 * g, 4), offset(row[4 * g + j], 2 * first), 2);
    }
  // In one piece too: each store waits for its line in the store buffer, which has room for few.
  if (r.element.isF32())
    for (int64_t w; first + 8 <= r.channels; first += w) {
      w = first + lanes <= r.channels ? lanes : 8;
      Registers v = rowsOfChannels(Registers(ArrayRef(x).slice(first, w)));
      for (int64_t i = 0; i < lanes; ++i)
        store(w == lanes ? v[i] : slice(v[i / 8 * 4 + i % 4], i / 4 % 2 * 8, 8), offset(row[i], 4 * first), 4);
    }
  for (int64_t d = first; d < int64_t(x.size()); d += 4) {
    Value v[4] = {x[d], x[d + 1], x[d + 2], x[d + 3]};
    transpose4(v);
    for (int64_t j = 0; j < 4; ++j) {
      v[j] = narrow(v[j], r.element);
      for (int64_t g = 0; g < 4; ++g) {
        Value to = offset(row[4 * g + j], d * size);
        if (d + 4 <= r.channels)
          store(slice(v[j], 4 * g, 4), to, size);
        else
          for (int64_t c = 0; d + c < r.channels; ++c)
            store(element(v[j], 4 * g + c), offset(to, c * size), size);
      }
    }
  }
}

//===-- Values -------------------------------------------------------------//

Value KernelLowering::number(Value v) {
  if (auto c = v.getDefiningOp<arith::ConstantOp>()) {
    if (auto i = dyn_cast<IntegerAttr>(c.getValue()); i && c.getType().isIndex())
      return c64(i.getInt());
    return arith::ConstantOp::create(b, loc, c.getValue());
  }
  if (v.getDefiningOp<tile::TokensOp>())
    return tokens;
  if (v.getDefiningOp<tile::WorkerRowOp>())
    return c64(0);
  Value n = numbers.lookup(v);
  if (!n)
    fail(v.getDefiningOp() ? v.getDefiningOp() : kernel, "number has no value yet");
  return n ? n : c64(0);
}

/// A block's registers of a value.
Registers KernelLowering::registers(Value v, Value block) {
  if (auto c = v.getDefiningOp<tile::ConstantOp>())
    return Registers(registersOf(tileType(v)), all(c.getValue().convertToDouble()));
  if (auto it = tiles.find(v); it != tiles.end())
    return it->second;
  auto it = parked.find(v);
  if (it == parked.end()) {
    fail(v.getDefiningOp() ? v.getDefiningOp() : kernel, "tile has no registers here");
    return Registers(registersOf(tileType(v)), all(0));
  }
  Value base = block ? offset(it->second.base, mul(block, it->second.blockBytes)) : it->second.base;
  Registers r;
  for (int64_t i = 0; i < registersOf(tileType(v)); ++i)
    r.push_back(loadVector(offset(base, i * vectorBytes)));
  return r;
}

void KernelLowering::park(const Registers &x, const Parked &p, Value block) {
  Value base = block ? offset(p.base, mul(block, p.blockBytes)) : p.base;
  for (auto [i, v] : llvm::enumerate(x))
    storeVector(v, offset(base, i * vectorBytes));
}

//===-- Ops on a block of rows ---------------------------------------------//

static bool isNumber(Value v, double x) {
  auto k = v.getDefiningOp<arith::ConstantOp>();
  auto f = k ? dyn_cast<FloatAttr>(k.getValue()) : FloatAttr();
  return f && f.getValue().convertToDouble() == double(float(x));
}

/// log2 e to 24 bits is 1.3e-8 of its size too small, and whatever is made with it errs in one direction: this is the rest.
constexpr double log2eRest = log2e - float(log2e);

/// 2^(±c·x) for a vector x, without the rounding of the product: its error would be that of every weight of a row.
Value KernelLowering::exactPower(Value x, Value factor, bool negative) {
  Value c = splat(number(factor));
  if (negative)
    x = fneg(x);
  Value high = arith::MulFOp::create(b, loc, x, c);
  Value low = fma(x, c, fneg(high));
  if (isNumber(factor, log2e))
    low = fma(x, all(log2eRest), low);
  Value r = exp2(high), change = fmul(r, fmul(low, all(1 / log2e)));
  // Where r is infinite or the product not finite, nothing is to be mended.
  return select(compare(arith::CmpFPredicate::OLT, LLVM::FAbsOp::create(b, loc, change), r), fadd(r, change), r);
}

/// An elementwise op on operands given by `get`; null if it is none.
Value KernelLowering::apply(Operation *op, function_ref<Value(Value)> get) {
  return TypeSwitch<Operation *, Value>(op)
      .Case([&](tile::AddOp o) { return fadd(get(o.getA()), get(o.getB())); })
      .Case([&](tile::SubOp o) { return fsub(get(o.getA()), get(o.getB())); })
      .Case([&](tile::MulOp o) { return fmul(get(o.getA()), get(o.getB())); })
      .Case([&](tile::MaxOp o) { return maxNaN(get(o.getA()), get(o.getB())); })
      .Case([&](tile::NegOp o) { return fneg(get(o.getA())); })
      .Case([&](tile::Exp2Op o) { return exp2(get(o.getA())); })
      .Case([&](tile::Log2Op o) { return log2(get(o.getA())); })
      .Case([&](tile::RcpOp o) { return fdiv(all(1), get(o.getA())); })
      .Case([&](tile::BroadcastOp o) { return get(o.getA()); })
      .Case([&](tile::ScaleOp o) { return fmul(get(o.getA()), splat(number(o.getFactor()))); })
      .Case([&](tile::CastOp o) { return rounded(get(o.getA()), tileType(o.getOut()).getElement()); })
      .Case([&](tile::WhereOp o) {
        Value there = compare(arith::CmpFPredicate::UNE, get(o.getMask()), all(0));
        return select(there, get(o.getX()), all(o.getFill().convertToDouble()));
      })
      .Default([](Operation *) { return Value(); });
}

void KernelLowering::lowerBlock(Block &block) {
  for (Operation &op : block.without_terminator())
    if (succeeded(status))
      lower(&op);
}

void KernelLowering::lowerElementwise(Operation *op) {
  Value out = op->getResult(0);
  auto here = [&](Value v) { return tiles.count(v) || parked.count(v); };
  auto each = [&](Value v, auto f) {
    Registers x = registers(v);
    for (Value &r : x)
      r = f(r);
    return x;
  };
  // 2^(c·x) and 2^-(c·x), where x is no pair value.
  if (auto power = dyn_cast<tile::Exp2Op>(op)) {
    auto neg = power.getA().getDefiningOp<tile::NegOp>();
    Value exponent = neg ? neg.getA() : power.getA();
    if (auto scale = exponent.getDefiningOp<tile::ScaleOp>())
      if (TileType t = tileType(exponent); !(t.getN() && t.getM()) && here(scale.getA())) {
        tiles[out] = each(scale.getA(), [&](Value x) { return exactPower(x, scale.getFactor(), bool(neg)); });
        return;
      }
  }
  if (auto scale = dyn_cast<tile::ScaleOp>(op); scale && isNumber(scale.getFactor(), log2e)) {
    tiles[out] = each(scale.getA(), [&](Value x) { return fma(x, all(log2e), fmul(x, all(log2eRest))); });
    return;
  }
  // log2 x·ln 2 is ln x with one rounding less.
  if (auto scale = dyn_cast<tile::ScaleOp>(op))
    if (auto log = scale.getA().getDefiningOp<tile::Log2Op>(); log && isNumber(scale.getFactor(), 1 / log2e) && tiles.count(log.getA())) {
      tiles[out] = each(log.getA(), [&](Value x) { return ln(x); });
      return;
    }
  DenseMap<Value, Registers> operands;
  for (Value o : op->getOperands())
    if (tileType(o))
      operands[o] = registers(o);
  Registers r;
  for (int64_t i = 0; i < registersOf(tileType(out)); ++i)
    r.push_back(apply(op, [&](Value o) { return operands[o][tileType(o).getD() ? i : 0]; }));
  tiles[out] = r;
  // Where all numbers meet the same one, so do rows.
  if (auto scale = dyn_cast<tile::ScaleOp>(op))
    if (auto it = rowForm.find(operands[scale.getA()][0]); it != rowForm.end() && it->second.size() == r.size()) {
      Registers scaled;
      for (Value v : Registers(it->second))
        scaled.push_back(fmul(v, splat(number(scale.getFactor()))));
      rowForm[r[0]] = scaled;
    }
}

void KernelLowering::lower(Operation *op) {
  if (isElementwise(op))
    return lowerElementwise(op);
  TypeSwitch<Operation *>(op)
      .Case<tile::LoadOp, tile::ReadOp, tile::StoreOp, tile::ReduceOp, tile::MergeOp, tile::MergeSumOp, tile::MaxNormOp, tile::BoundedOp,
            tile::PairsOp, scf::IfOp>([&](auto o) { emit(o); })
      .Case<tile::ConstantOp, arith::ConstantOp, tile::TokensOp, tile::WorkerRowOp>([](auto) {}) // made where they are used
      .Case([&](tile::TotalOp o) { tiles[o.getOut()] = registers(o.getX()); })
      .Case([&](arith::AddIOp o) { numbers[o] = add(number(o.getLhs()), number(o.getRhs())); })
      .Case([&](arith::AndIOp o) { numbers[o] = both(number(o.getLhs()), number(o.getRhs())); })
      .Case([&](arith::MulFOp o) { numbers[o] = arith::MulFOp::create(b, loc, number(o.getLhs()), number(o.getRhs())); })
      .Default([&](Operation *o) { fail(o, "has no lowering to the host"); });
}

void KernelLowering::emit(tile::ReduceOp op) {
  if (op.getOver() != Index::d)
    return fail(op, "reduces over rows outside pairs");
  Value sum;
  // A sum of products has the bits of a contraction.
  auto product = op.getX().getDefiningOp<tile::MulOp>();
  if (product && op.getKind() == "add" && tiles.count(product.getA()) && tiles.count(product.getB()) &&
      tileType(product.getA()).getD() == tileType(product.getB()).getD()) {
    for (auto [x, y] : llvm::zip(registers(product.getA()), registers(product.getB())))
      sum = fma(x, y, sum);
  } else {
    for (Value v : registers(op.getX()))
      sum = !sum ? v : op.getKind() == "max" ? maxNaN(sum, v) : fadd(sum, v);
  }
  tiles[op.getOut()] = {sum};
}

//===-- Tensors ------------------------------------------------------------//

/// Rows of a tensor from row `at` on; null where blocks of 16 always fit.
Value KernelLowering::leftOf(FlareTensorType t, Value at) {
  if (t.getTokens())
    return sub(tokens, at);
  int64_t covered = !config ? hostMergeRows : rows == Index::m ? config.getWorkerRows() : lanes;
  if (t.getLatents() % covered == 0 || (rows == Index::m && config && covered * config.getRowGroups() == t.getLatents()))
    return {};
  return sub(c64(t.getLatents()), at);
}

void KernelLowering::emit(tile::LoadOp op) {
  const Tensor &t = tensors[op.getTensor()];
  Value at = rowAt(op.getAt());
  tiles[op.getTile()] = loadRows(rowsOf(t, at), leftOf(t.type, at), op.getTile().getType().getD());
}

void KernelLowering::emit(tile::ReadOp op) {
  const StageAt &s = stages[op.getStage()];
  // Rows that were looked at to see whether their scores are bounded.
  if (auto it = tiles.find(op.getStage()); it != tiles.end()) {
    tiles[op.getTile()] = it->second;
    return;
  }
  Value at = number(op.getAt());
  Rows r = from(s.rows, at);
  tiles[op.getTile()] = loadRows(r, sub(s.left, at), op.getTile().getType().getD());
}

void KernelLowering::emit(tile::StoreOp op) {
  Tensor t = tensors[op.getTensor()];
  TileType type = tileType(op.getTile());
  Value at = rowAt(op.getAt());
  if (op.getPartial()) {
    Value splitStride = mul(heads, t.type.getLatents() * std::max<int64_t>(1, t.type.getChannels()) * bytesOf(t.type.getElement()));
    t.pointer = offset(t.pointer, mul(split, splitStride));
  }
  Registers x = registers(op.getTile());
  auto put = [&] {
    Rows r = rowsOf(t, at);
    if (isPartialSums(type))
      storeSums(r, leftOf(t.type, at), x, type.getD());
    else
      storeRows(r, leftOf(t.type, at), x);
  };
  if (mayStore)
    onlyIf(mayStore, put);
  else
    put();
}

/// Partial sums, one row a column: the P parts side by side are added up.
void KernelLowering::storeSums(const Rows &r, Value left, const Registers &x, int64_t d) {
  int64_t vectors = std::max<int64_t>(1, d / lanes), parts = std::max<int64_t>(1, lanes / d);
  auto each = [&](int64_t i, auto body) { left ? onlyIf(lt(c64(i), left), body) : body(); };
  for (int64_t i = 0; i < lanes; ++i)
    each(i, [&] {
      Value row = offset(r.base, mul(r.stride, i));
      for (int64_t u = 0; u < vectors; ++u) {
        int64_t count = std::min(d, lanes);
        Value sum;
        for (int64_t p = 0; p < parts; ++p) {
          SmallVector<int32_t> mask;
          for (int64_t c = 0; c < count; ++c)
            mask.push_back(c * parts + p);
          Value part = shuffle(x[i * vectors + u], x[i * vectors + u], mask);
          sum = sum ? fadd(sum, part) : part;
        }
        int64_t real = std::min(count, r.channels - u * lanes);
        if (real == count)
          store(sum, offset(row, u * vectorBytes), 4);
        else
          for (int64_t c = 0; c < real; ++c)
            store(element(sum, c), offset(row, u * vectorBytes + 4 * c), 4);
      }
    });
}

//===-- Ranges -------------------------------------------------------------//

/// Horizontal maximum.
Value KernelLowering::largest(Value v) {
  for (int64_t s = 8; s >= 1; s /= 2) {
    SmallVector<int32_t> mask;
    for (int64_t i = 0; i < lanes; ++i)
      mask.push_back(i ^ s);
    v = maxNaN(v, shuffle(v, v, mask));
  }
  return element(v, 0);
}

Value KernelLowering::squares(const Registers &x) {
  Value sum;
  for (Value v : x)
    sum = fma(v, v, sum);
  return sum;
}

static int64_t widthOf(FlareTensorType t) { return t.getChannels() ? std::max<int64_t>(4, llvm::PowerOf2Ceil(t.getChannels())) : 0; }

void KernelLowering::emit(tile::MaxNormOp op) {
  const Tensor &t = tensors[op.getTensor()];
  int64_t count = t.type.getLatents();
  Registers r = loop(c64(0), c64(count), lanes, {all(0)}, [&](Value first, const Registers &state) -> Registers {
    Registers x = loadRows(rowsOf(t, first), count % lanes ? sub(c64(count), first) : Value(), widthOf(t.type));
    return {maxNaN(state[0], squares(x))};
  });
  numbers[op.getNorm()] = LLVM::SqrtOp::create(b, loc, largest(r[0]));
}

void KernelLowering::emit(tile::BoundedOp op) {
  const StageAt &s = stages[op.getStage()];
  int64_t T = config.getTile();
  Value factor = number(op.getFactor());
  double limit = op.getLimit().convertToDouble();
  auto isSmall = [&](Value worst) -> Value {
    Value square = fmul(splat(fmul(factor, factor)), worst);
    // An ordered comparison: NaN answers no. 0·inf is NaN too.
    Value small = compare(arith::CmpFPredicate::OLE, square, all(limit * limit));
    Value bits = bitcast(b.getI16Type(), small);
    return arith::CmpIOp::create(b, loc, arith::CmpIPredicate::eq, bits, arith::ConstantOp::create(b, loc, b.getI16IntegerAttr(-1)));
  };
  Value full = le(c64(T), s.left);
  if (T == lanes) { // the rows serve the body, too
    Registers x = tiles[op.getStage()] = loadRows(s.rows, s.left, op.getStage().getType().getD());
    numbers[op.getOk()] = both(full, isSmall(squares(x)));
    return;
  }
  auto answer = [&]() -> Registers {
    Registers worst = loop(c64(0), c64(T), lanes, {all(0)}, [&](Value first, const Registers &state) -> Registers {
      Rows r = from(s.rows, first);
      return {maxNaN(state[0], squares(loadRows(r, {}, op.getStage().getType().getD())))};
    });
    return {isSmall(worst[0])};
  };
  // First as if 16 rows had each channel's largest of T/16: no more than twice the norm, and no transposition for each row. Without their signs floats are
  // ordered like integers, NaN last.
  auto roughly = [&]() -> Registers {
    Type e = stored(s.rows.element);
    int64_t size = bytesOf(e), channels = s.rows.channels;
    auto type = VectorType::get(channels, b.getIntegerType(8 * size));
    Value magnitude = arith::ConstantOp::create(b, loc, DenseElementsAttr::get(type, APInt::getSignedMaxValue(8 * size)));
    Value copy = edge();
    loop(c64(0), c64(lanes), 1, [&](Value i) {
      Value at = offset(s.rows.base, mul(i, s.rows.stride)), most;
      for (int64_t j = 0; j < T / lanes; ++j, at = offset(at, mul(s.rows.stride, lanes))) {
        Value x = arith::AndIOp::create(b, loc, load(type, at, size), magnitude);
        most = most ? arith::MaxUIOp::create(b, loc, most, x) : x;
      }
      Value x = e.isF32() ? bitcast(vec(channels), most) : widen(most, s.rows.element);
      store(x, offset(copy, mul(i, 4 * channels)), 4);
    });
    Rows rows{copy, c64(4 * channels), channels, f32()};
    Value small = isSmall(squares(loadRows(rows, {}, op.getStage().getType().getD())));
    return choose(small, {b.getI1Type()}, [&]() -> Registers { return {flag(true)}; }, answer);
  };
  numbers[op.getOk()] = choose(full, {b.getI1Type()}, roughly, [&]() -> Registers { return {flag(false)}; })[0];
}

//===-- Merges -------------------------------------------------------------//

Rows KernelLowering::partialRows(Value tensor, Value s, Value batchIndex, Value first) {
  Tensor t = tensors[tensor];
  int64_t width = std::max<int64_t>(1, t.type.getChannels());
  t.pointer = offset(t.pointer, mul(mul(s, mul(heads, t.type.getLatents() * width)), 4));
  Value saved = std::exchange(batch, batchIndex);
  Rows r = rowsOf(t, first);
  batch = saved;
  return r;
}

void KernelLowering::emit(tile::MergeOp op) {
  TileType outType = tileType(op.getResult());
  Value at = rowAt(op.getAt());
  int64_t n = registersOf(outType);
  auto read = [&](Value tensor, Value s, int64_t width) {
    return loadRows(partialRows(tensor, s, batch, at), leftOf(tensors[tensor].type, at), width);
  };
  Registers init(n + 1, all(0));
  init.push_back(all(-3.0e38));
  Registers r = loop(c64(0), splits, 1, init, [&](Value s, const Registers &acc) {
    Registers x = read(op.getOut(), s, outType.getD());
    x.append(read(op.getSum(), s, 0));
    x.append(read(op.getReference(), s, 0));
    // (o, L, r) ⊕ (o', L', r'): the larger reference wins.
    Value top = maxNaN(acc[n + 1], x[n + 1]);
    auto power = [&](Value old) {
      Value down = fsub(old, top);
      return exp2(op.getNatural() ? fmul(down, all(log2e)) : down);
    };
    Value f = power(acc[n + 1]), g = power(x[n + 1]);
    Registers next;
    for (int64_t i = 0; i <= n; ++i)
      next.push_back(fma(acc[i], f, fmul(x[i], g)));
    next.push_back(top);
    return next;
  });
  // No tokens: out = 0 and log2 0 = -inf. A NaN sum is not zero.
  Value zero = all(0), none = compare(arith::CmpFPredicate::OEQ, r[n], zero);
  Registers out;
  for (int64_t i = 0; i < n; ++i)
    out.push_back(select(none, zero, fdiv(r[i], r[n])));
  tiles[op.getResult()] = out;
  tiles[op.getLse()] = {fadd(op.getNatural() ? ln(r[n]) : log2(r[n]), r[n + 1])};
}

void KernelLowering::emit(tile::MergeSumOp op) {
  TileType type = tileType(op.getResult());
  Value at = rowAt(op.getAt());
  int64_t n = registersOf(type);
  const Tensor &t = tensors[op.getPartial()];
  // Shared latents: the batches of one latent batch follow each other.
  Value each = c64(1), firstBatch = batch, total = splits;
  if (op.getReduced()) {
    each = div(batches, latentBatches);
    mayStore = lt(batch, latentBatches);
    firstBatch = mul(min(batch, add(latentBatches, -1)), each);
    total = select(mayStore, mul(splits, each), c64(0)); // blocks of other batches have nothing to do
  }
  tiles[op.getResult()] = loop(c64(0), total, 1, Registers(n, all(0)), [&](Value i, const Registers &acc) {
    Value s = rem(i, splits), bb = add(firstBatch, div(i, splits));
    Registers x = loadRows(partialRows(op.getPartial(), s, bb, at), leftOf(t.type, at), type.getD());
    for (int64_t j = 0; j < n; ++j)
      x[j] = fadd(acc[j], x[j]);
    return x;
  });
}

void KernelLowering::mergeKernel() {
  numbers[kernel.getRegion().getArgument(0)] = mul(rowGroup, hostMergeRows);
  loop(c64(0), c64(hostMergeRows), lanes, [&](Value first) {
    blockRow = first;
    lowerBlock(kernel.getRegion().front());
    blockRow = {};
  });
}
