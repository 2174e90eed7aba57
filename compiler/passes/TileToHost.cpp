// tile-to-host: one thread's program, on vectors of 16 f32.
//
// A block owns a batch, up to `heads` heads and a split of the tokens, as on a GPU, but is run by one thread. Every few tiles it goes over its
// heads, so that a cache line, which holds several heads of a token, is fetched from memory once. What a head keeps from tile to tile
// (accumulators, latent operands) lies in scratch memory, block after block of 16 rows:
//
//     scratch: [a few rows] [head 0: operands, state, numbers, tables of latents] [head 1: …] … [table of tokens, pairs between phases]
//
// Column operands are read one number at a time, broadcast to all lanes, from a *table*: one row a column, the columns of all operands side by
// side, so that a loop over columns moves a single pointer. With tokens as columns the table is made for each tile: rows are copied, widened and
// padded with zeros there, and what depends on tokens alone is computed once for all latents. With latents as columns it is the stash.
#include "layout/Layout.h"
#include "passes/HostLayouts.h"
#include "passes/Manifest.h"
#include "passes/Passes.h"
#include "passes/Registers.h"
#include "tile/Tile.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/BuiltinOps.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/SetVector.h"
#include "llvm/ADT/TypeSwitch.h"
#include <map>

namespace flarec {
#define GEN_PASS_DEF_TILETOHOST
#include "passes/Passes.h.inc"
} // namespace flarec

using namespace mlir;
using namespace flarec;
using flare::FlareTensorType;
using flare::Index;
using tile::TileType;

namespace {

constexpr int64_t lanes = 16, vectorBytes = 64;
/// Columns whose pair values are kept in memory between the phases of a body: 4 KB a value.
constexpr int64_t phaseColumns = 64;
constexpr double log2e = 1.4426950408889634;

TileType tileType(Value v) { return dyn_cast<TileType>(v.getType()); }
int64_t bytesOf(Type t) { return t.getIntOrFloatBitWidth() / 8; }
int64_t roundUp(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

/// Vectors of a block of 16 rows (of partial sums: of 16 columns).
int64_t registersOf(TileType t) {
  if (isPartialSums(t))
    return lanes * std::max<int64_t>(1, t.getD() / lanes);
  return std::max<int64_t>(1, t.getD());
}

//===-- Short names ----------------------------------------------------------//

struct Emit {
  OpBuilder b;
  Location loc;

  Type f32() { return b.getF32Type(); }
  Type i64() { return b.getI64Type(); }
  VectorType vec(int64_t n) { return VectorType::get(n, f32()); }
  VectorType vec() { return vec(lanes); }
  VectorType ivec() { return VectorType::get(lanes, b.getI32Type()); }
  Type pointer() { return LLVM::LLVMPointerType::get(b.getContext()); }

  Value c32(int64_t v) { return arith::ConstantOp::create(b, loc, b.getI32IntegerAttr(v)); }
  Value c64(int64_t v) { return arith::ConstantOp::create(b, loc, b.getI64IntegerAttr(v)); }
  Value flag(bool v) { return arith::ConstantOp::create(b, loc, b.getBoolAttr(v)); }
  Value cf(double v) { return arith::ConstantOp::create(b, loc, b.getF32FloatAttr(v)); }
  Value all(double v) { return arith::ConstantOp::create(b, loc, DenseElementsAttr::get(vec(), float(v))); }
  Value allBits(int64_t v) { return arith::ConstantOp::create(b, loc, DenseElementsAttr::get(ivec(), int32_t(v))); }

  static std::optional<int64_t> constant(Value v) {
    APInt c;
    if (matchPattern(v, m_ConstantInt(&c)))
      return c.getSExtValue();
    return std::nullopt;
  }
  Value add(Value x, Value y) { return arith::AddIOp::create(b, loc, x, y); }
  Value add(Value x, int64_t y) { return y == 0 ? x : add(x, c64(y)); }
  Value sub(Value x, Value y) { return arith::SubIOp::create(b, loc, x, y); }
  Value mul(Value x, Value y) { return arith::MulIOp::create(b, loc, x, y); }
  Value mul(Value x, int64_t y) { return y == 1 ? x : mul(x, c64(y)); }
  Value div(Value x, Value y) { return arith::DivUIOp::create(b, loc, x, y); }
  Value rem(Value x, Value y) { return arith::RemUIOp::create(b, loc, x, y); }
  Value min(Value x, Value y) { return arith::MinSIOp::create(b, loc, x, y); }
  Value max(Value x, Value y) { return arith::MaxSIOp::create(b, loc, x, y); }
  Value lt(Value x, Value y) { return arith::CmpIOp::create(b, loc, arith::CmpIPredicate::slt, x, y); }
  Value le(Value x, Value y) { return arith::CmpIOp::create(b, loc, arith::CmpIPredicate::sle, x, y); }
  Value both(Value x, Value y) { return arith::AndIOp::create(b, loc, x, y); }
  Value select(Value c, Value x, Value y) { return arith::SelectOp::create(b, loc, c, x, y); }
  Value bitcast(Type t, Value x) { return LLVM::BitcastOp::create(b, loc, t, x); }

  // `contract` alone: a multiply and an add may fuse, nothing else may change (design.md trap 15).
  arith::FastMathFlagsAttr contract() { return arith::FastMathFlagsAttr::get(b.getContext(), arith::FastMathFlags::contract); }
  Value fadd(Value x, Value y) { return arith::AddFOp::create(b, loc, x, y, contract()); }
  Value fsub(Value x, Value y) { return arith::SubFOp::create(b, loc, x, y, contract()); }
  Value fmul(Value x, Value y) { return arith::MulFOp::create(b, loc, x, y, contract()); }
  Value fdiv(Value x, Value y) { return arith::DivFOp::create(b, loc, x, y); }
  Value fneg(Value x) { return arith::NegFOp::create(b, loc, x); }
  Value fma(Value x, Value y, Value acc) { return acc ? Value(LLVM::FMulAddOp::create(b, loc, x, y, acc)) : fmul(x, y); }
  Value compare(arith::CmpFPredicate p, Value x, Value y) { return arith::CmpFOp::create(b, loc, p, x, y); }
  /// A NaN wins.
  Value maxNaN(Value x, Value y) {
    Value m = select(compare(arith::CmpFPredicate::OGT, x, y), x, y); // y, if either is NaN
    return select(compare(arith::CmpFPredicate::UNO, x, x), x, m);
  }

  Value offset(Value base, Value bytes) { return LLVM::GEPOp::create(b, loc, pointer(), b.getI8Type(), base, ValueRange{bytes}); }
  Value offset(Value base, int64_t bytes) {
    return bytes ? Value(LLVM::GEPOp::create(b, loc, pointer(), b.getI8Type(), base, ArrayRef<LLVM::GEPArg>{int32_t(bytes)})) : base;
  }
  Value load(Type t, Value p, int64_t align) { return LLVM::LoadOp::create(b, loc, t, p, align); }
  void store(Value v, Value p, int64_t align) { LLVM::StoreOp::create(b, loc, v, p, align); }
  Value loadVector(Value p) { return load(vec(), p, vectorBytes); }
  void storeVector(Value v, Value p) { store(v, p, vectorBytes); }

  Value shuffle(Value x, Value y, ArrayRef<int32_t> mask) { return LLVM::ShuffleVectorOp::create(b, loc, x, y, mask); }
  Value splat(Value scalar, int64_t n = lanes) {
    Value v = LLVM::PoisonOp::create(b, loc, VectorType::get(n, scalar.getType()));
    v = LLVM::InsertElementOp::create(b, loc, v, scalar, c32(0));
    return shuffle(v, v, SmallVector<int32_t>(n, 0));
  }
  Value element(Value v, int64_t i) { return LLVM::ExtractElementOp::create(b, loc, v, c32(i)); }
  Value slice(Value v, int64_t first, int64_t n) {
    SmallVector<int32_t> mask;
    for (int64_t i = 0; i < n; ++i)
      mask.push_back(first + i);
    return shuffle(v, v, mask);
  }
  /// Vectors of equal length, one after the other; their number is a power of two.
  Value concat(ArrayRef<Value> parts) {
    if (parts.size() == 1)
      return parts[0];
    Value low = concat(parts.take_front(parts.size() / 2)), high = concat(parts.drop_front(parts.size() / 2));
    SmallVector<int32_t> mask;
    for (int64_t i = 0, n = 2 * cast<VectorType>(low.getType()).getNumElements(); i < n; ++i)
      mask.push_back(i);
    return shuffle(low, high, mask);
  }

  template <typename F> void onlyIf(Value condition, F body) {
    auto op = scf::IfOp::create(b, loc, condition, false);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(op.thenBlock());
    body();
  }
  template <typename F, typename G> Registers choose(Value condition, ArrayRef<Type> types, F then, G otherwise) {
    auto op = scf::IfOp::create(b, loc, types, condition, true);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(op.thenBlock());
    scf::YieldOp::create(b, loc, Registers(then()));
    b.setInsertionPointToStart(op.elseBlock());
    scf::YieldOp::create(b, loc, Registers(otherwise()));
    return Registers(op.getResults());
  }
  /// for i = first; i < last; i += step: state = body(i, state)
  template <typename F> Registers loop(Value first, Value last, int64_t step, const Registers &state, F body) {
    auto op = scf::ForOp::create(b, loc, first, last, c64(step), state);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(op.getBody());
    Registers next = body(op.getInductionVar(), Registers(op.getRegionIterArgs()));
    if (!state.empty())
      scf::YieldOp::create(b, loc, next);
    return Registers(op.getResults());
  }
  template <typename F> void loop(Value first, Value last, int64_t step, F body) {
    loop(first, last, step, Registers(), [&](Value i, const Registers &) {
      body(i);
      return Registers();
    });
  }

  //-- Element types

  Value widen(Value v, Type e) { // a vector of e, as f32
    if (e.isF32())
      return v;
    int64_t n = cast<VectorType>(v.getType()).getNumElements();
    if (e.isBF16()) {
      auto wide = VectorType::get(n, b.getI32Type());
      Value bits = arith::ExtUIOp::create(b, loc, wide, v);
      Value sixteen = arith::ConstantOp::create(b, loc, DenseElementsAttr::get(wide, int32_t(16)));
      return bitcast(vec(n), arith::ShLIOp::create(b, loc, bits, sixteen));
    }
    return arith::ExtFOp::create(b, loc, vec(n), bitcast(VectorType::get(n, e), v));
  }
  Type stored(Type e) { return e.isF32() ? e : Type(b.getI16Type()); }

  /// 16 f32 as bf16, to nearest even; a NaN stays one.
  Value narrowBits(Value v) {
    Value bits = bitcast(ivec(), v);
    auto shr = [&](Value x) { return arith::ShRUIOp::create(b, loc, x, allBits(16)); };
    Value odd = arith::AndIOp::create(b, loc, shr(bits), allBits(1));
    Value rounded = shr(add(bits, add(odd, allBits(0x7fff))));
    Value quiet = arith::OrIOp::create(b, loc, shr(bits), allBits(0x40));
    return select(compare(arith::CmpFPredicate::UNO, v, v), quiet, rounded);
  }
  Value narrow(Value v, Type e) {
    if (e.isF32())
      return v;
    auto half = VectorType::get(lanes, b.getI16Type());
    if (e.isBF16())
      return arith::TruncIOp::create(b, loc, half, narrowBits(v));
    return bitcast(half, arith::TruncFOp::create(b, loc, VectorType::get(lanes, e), v));
  }
  Value rounded(Value v, Type e) {
    if (e.isF32())
      return v;
    if (e.isBF16())
      return bitcast(vec(), arith::ShLIOp::create(b, loc, narrowBits(v), allBits(16)));
    return arith::ExtFOp::create(b, loc, vec(), Value(arith::TruncFOp::create(b, loc, VectorType::get(lanes, e), v)));
  }

  //-- Transpositions

  /// Four vectors as 4 × 4 matrices, one in each 128 bits, transposed. Its own inverse.
  void transpose4(Value *v) {
    auto two = [&](Value x, Value y, std::array<int, 4> m) {
      SmallVector<int32_t> mask;
      for (int g = 0; g < 4; ++g)
        for (int i : m)
          mask.push_back(i < 4 ? 4 * g + i : 16 + 4 * g + i - 4);
      return shuffle(x, y, mask);
    };
    Value t0 = two(v[0], v[1], {0, 4, 1, 5}), t1 = two(v[0], v[1], {2, 6, 3, 7});
    Value t2 = two(v[2], v[3], {0, 4, 1, 5}), t3 = two(v[2], v[3], {2, 6, 3, 7});
    v[0] = two(t0, t2, {0, 1, 4, 5});
    v[1] = two(t0, t2, {2, 3, 6, 7});
    v[2] = two(t1, t3, {0, 1, 4, 5});
    v[3] = two(t1, t3, {2, 3, 6, 7});
  }

  /// n vectors of n elements, each of 16/n lanes: out[j] = (in[0][j], in[1][j], …).
  Registers transposeGroups(Registers v) {
    int64_t n = v.size(), width = lanes / n;
    for (int64_t s = 1; s < n; s *= 2) {
      // Swaps bit s of the register number with bit s of the element number.
      Registers next(n);
      for (int64_t r = 0; r < n; ++r) {
        if (r & s)
          continue;
        SmallVector<int32_t> low, high;
        for (int64_t e = 0; e < n; ++e)
          for (int64_t i = 0; i < width; ++i) {
            auto at = [&](int64_t reg, int64_t el) { return int32_t((reg ? lanes : 0) + el * width + i); };
            low.push_back(e & s ? at(1, e ^ s) : at(0, e));
            high.push_back(e & s ? at(1, e) : at(0, e ^ s));
          }
        next[r] = shuffle(v[r], v[r | s], low);
        next[r | s] = shuffle(v[r], v[r | s], high);
      }
      v = next;
    }
    return v;
  }
};

/// Where a tensor lies.
struct Tensor {
  Value pointer, strideB, strideH, strideRow;
  FlareTensorType type;
};
/// 16 and more rows in memory: element (r, d) at base + r·stride + d·size.
struct Rows {
  Value base, stride; // bytes
  int64_t channels;   // 0: one number a row
  Type element;
};
/// A tile of several blocks, or one that outlives the tile of tokens.
struct Parked {
  Value base;
  int64_t blockBytes;
};
/// Columns to be broadcast: number d of column c at base + c·rowBytes + offset + 4·d.
struct Columns {
  Value base;
  int64_t rowBytes, offset;
};

struct KernelLowering : Emit {
  tile::ProgramOp program;
  tile::KernelOp kernel;
  tile::ConfigAttr config; // null: a merge
  Index rows = Index::m, cols = Index::n;
  DenseMap<Value, Tensor> tensors;
  DenseMap<Value, Value> numbers;
  DenseMap<Value, Registers> tiles; // the block at hand
  DenseMap<Value, Parked> parked;
  DenseMap<Value, Columns> columns;
  struct StageAt {
    Rows rows; // row 0: the tile's first token
    Value left; // tokens from there on
  };
  DenseMap<Value, StageAt> stages;
  Value tokens, batches, heads, latentBatches, splits;
  Value batch, split, rowGroup, head, firstHead, headsHere, mayStore;
  Value scratch, headBase;
  Value blockRow; // first row of the block within a tile of several (null: 0)
  bool tileIsFull = false; // no token past the last one
  LogicalResult status = success();

  KernelLowering(OpBuilder builder, Location loc, tile::ProgramOp program, tile::KernelOp kernel)
      : Emit{builder, loc}, program(program), kernel(kernel) {
    if (kernel.getConfig()) {
      config = kernel.getConfigAttr();
      rows = config.getRows();
      cols = tile::columnsOf(rows);
    }
  }

  LogicalResult fail(Operation *op, const Twine &why) {
    if (succeeded(status))
      status = op->emitOpError(why);
    return status;
  }

  //-- Who am I?

  void identify(Value block) {
    if (!config) {
      int64_t perHead = mergeBlocks(kernel);
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

  static constexpr int64_t mergeRows = 32;
  static int64_t mergeBlocks(tile::KernelOp kernel) {
    int64_t latents = 1;
    kernel.walk([&](tile::StoreOp s) { latents = s.getTensor().getType().getLatents(); });
    return (latents + mergeRows - 1) / mergeRows;
  }

  /// Rows of this batch and head from row `first` on.
  Rows rowsOf(const Tensor &t, Value first) {
    int64_t size = bytesOf(t.type.getElement());
    Value at = add(add(mul(batch, t.strideB), mul(head, t.strideH)), mul(first, t.strideRow));
    return {offset(t.pointer, mul(at, size)), mul(t.strideRow, size), t.type.getChannels(), t.type.getElement()};
  }

  //-- 16 rows between memory and registers

  /// Channels [first, first + 4) of a row.
  Value piece(const Rows &r, Value row, int64_t first) {
    Type e = stored(r.element);
    int64_t size = bytesOf(e);
    if (first + 4 <= r.channels)
      return load(VectorType::get(4, e), offset(row, first * size), size);
    Value v = arith::ConstantOp::create(b, loc, b.getZeroAttr(VectorType::get(4, e)));
    for (int64_t i = 0; first + i < r.channels; ++i)
      v = LLVM::InsertElementOp::create(b, loc, v, load(e, offset(row, (first + i) * size), size), c32(i));
    return v;
  }

  Registers loadRowsAt(const Rows &r, ArrayRef<Value> row, int64_t width) {
    Registers out;
    if (!r.channels) {
      Value v = LLVM::PoisonOp::create(b, loc, VectorType::get(lanes, stored(r.element)));
      for (int64_t i = 0; i < lanes; ++i)
        v = LLVM::InsertElementOp::create(b, loc, v, load(stored(r.element), row[i], bytesOf(r.element)), c32(i));
      return {widen(v, r.element)};
    }
    for (int64_t d = 0; d < width; d += 4) {
      Value v[4];
      for (int64_t j = 0; j < 4; ++j)
        v[j] = widen(concat({piece(r, row[j], d), piece(r, row[4 + j], d), piece(r, row[8 + j], d), piece(r, row[12 + j], d)}), r.element);
      transpose4(v);
      out.append(v, v + 4);
    }
    return out;
  }

  /// Room for 16 rows on the way to or from a tensor's last ones.
  Value edge() {
    edgeUsed = true;
    return scratch;
  }
  static constexpr int64_t edgeBytes = lanes * 64 * 4; // of at most 64 channels
  bool edgeUsed = false;

  /// Copies a row as it is.
  void copyRow(const Rows &r, Value from, Value to) {
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
  Registers loadRows(Rows r, Value left, int64_t width) {
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
    return loadRowsAt(r, row, width);
  }

  /// Which lanes are below a count (i64).
  Value below(Value count) {
    SmallVector<int32_t> numbers;
    for (int i = 0; i < lanes; ++i)
      numbers.push_back(i);
    Value index = arith::ConstantOp::create(b, loc, DenseElementsAttr::get(ivec(), ArrayRef<int32_t>(numbers)));
    Value limit = arith::TruncIOp::create(b, loc, b.getI32Type(), max(min(count, c64(lanes)), c64(0)));
    return arith::CmpIOp::create(b, loc, arith::CmpIPredicate::slt, index, splat(limit));
  }

  void storeRows(const Rows &r, Value left, Registers x) {
    if (!left || tileIsFull)
      return storeAllRows(r, x);
    int64_t bytes = std::max<int64_t>(1, r.channels) * bytesOf(r.element);
    Value full = le(c64(lanes), left), copy = edge();
    storeAllRows({select(full, r.base, copy), select(full, r.stride, c64(bytes)), r.channels, r.element}, x);
    loop(c64(0), select(full, c64(0), left), 1, [&](Value i) { copyRow(r, offset(copy, mul(i, bytes)), offset(r.base, mul(i, r.stride))); });
  }

  void storeAllRows(const Rows &r, const Registers &x) {
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
    for (int64_t d = 0; d < int64_t(x.size()); d += 4) {
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

  //-- Values

  Value number(Value v) {
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
  Registers registers(Value v, Value block = {}) {
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
  void park(const Registers &x, const Parked &p, Value block = {}) {
    Value base = block ? offset(p.base, mul(block, p.blockBytes)) : p.base;
    for (auto [i, v] : llvm::enumerate(x))
      storeVector(v, offset(base, i * vectorBytes));
  }

  //-- Arithmetic of one register

  Value exp2(Value x) { return call("flarec.exp2", x); }
  Value log2(Value x) { return call("flarec.log2", x); }
  Value ln(Value x) { return call("flarec.ln", x); }
  /// 2^(x·c) for |x·c| < 2^20, without the rounding of the product.
  Value exp2OfSmall(Value x, Value c) { return call("flarec.exp2_of_small", {x, c}); }
  Value call(StringRef name, ValueRange x) { return LLVM::CallOp::create(b, loc, TypeRange{vec()}, name, x).getResult(); }

  /// An elementwise op on operands given by `get`; null if it is none.
  template <typename F> Value apply(Operation *op, F get) {
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
        .Default([](Operation *) { return Value(); });
  }
  /// 2^(±c·x) for a vector x, without the rounding of the product: its error would be that of every weight of a row.
  struct Power {
    Value x, factor;
    bool negative = false;
    explicit Power(Operation *op) {
      auto e = dyn_cast<tile::Exp2Op>(op);
      if (!e)
        return;
      Value v = e.getA();
      if (auto neg = v.getDefiningOp<tile::NegOp>()) {
        negative = true;
        v = neg.getA();
      }
      auto scale = v.getDefiningOp<tile::ScaleOp>();
      if (!scale || (tileType(v).getN() && tileType(v).getM()))
        return;
      x = scale.getA();
      factor = scale.getFactor();
    }
  };
  static bool isNumber(Value v, double x) {
    auto k = v.getDefiningOp<arith::ConstantOp>();
    auto f = k ? dyn_cast<FloatAttr>(k.getValue()) : FloatAttr();
    return f && f.getValue().convertToDouble() == double(float(x));
  }
  Value exactPower(const Power &p, Value x) {
    Value c = splat(number(p.factor));
    if (p.negative)
      x = fneg(x);
    Value high = arith::MulFOp::create(b, loc, x, c);
    Value low = fma(x, c, fneg(high));
    Value r = exp2(high), change = fmul(r, fmul(low, all(1 / log2e)));
    // Where r is infinite or the product not finite, nothing is to be mended.
    return select(compare(arith::CmpFPredicate::OLT, LLVM::FAbsOp::create(b, loc, change), r), fadd(r, change), r);
  }

  static bool isElementwise(Operation *op) {
    return isa<tile::AddOp, tile::SubOp, tile::MulOp, tile::MaxOp, tile::NegOp, tile::Exp2Op, tile::Log2Op, tile::RcpOp, tile::BroadcastOp,
               tile::ScaleOp, tile::CastOp>(op);
  }

  //-- Ops on a block of rows (outside pairs: any index may be the one across lanes)

  void lowerBlock(Block &block) {
    for (Operation &op : block.without_terminator())
      if (succeeded(status))
        lower(&op);
  }

  void lower(Operation *op) {
    if (isElementwise(op)) {
      Value out = op->getResult(0);
      TileType t = tileType(out);
      if (Power power(op); power.x && (tiles.count(power.x) || parked.count(power.x))) {
        Registers x = registers(power.x);
        for (Value &v : x)
          v = exactPower(power, v);
        tiles[out] = x;
        return;
      }
      // log2 x·ln 2 is ln x with one rounding less.
      if (auto scale = dyn_cast<tile::ScaleOp>(op))
        if (auto log = scale.getA().getDefiningOp<tile::Log2Op>(); log && isNumber(scale.getFactor(), 1 / log2e) && tiles.count(log.getA())) {
          Registers x = registers(log.getA());
          for (Value &v : x)
            v = ln(v);
          tiles[out] = x;
          return;
        }
      DenseMap<Value, Registers> operands;
      for (Value o : op->getOperands())
        if (tileType(o))
          operands[o] = registers(o);
      Registers r;
      for (int64_t i = 0; i < registersOf(t); ++i)
        r.push_back(apply(op, [&](Value o) {
          const Registers &x = operands[o];
          return x[tileType(o).getD() ? i : 0];
        }));
      tiles[out] = r;
      return;
    }
    TypeSwitch<Operation *>(op)
        .Case<tile::LoadOp, tile::ReadOp, tile::StoreOp, tile::MergeOp, tile::MergeSumOp, tile::MaxNormOp, tile::BoundedOp, tile::PairsOp,
              scf::IfOp>([&](auto o) { emit(o); })
        .Case<tile::ConstantOp, arith::ConstantOp, tile::TokensOp, tile::WorkerRowOp>([](auto) {}) // made where they are used
        .Case([&](tile::TotalOp o) { tiles[o.getOut()] = registers(o.getX()); })
        .Case([&](tile::ReduceOp o) {
          if (o.getOver() != Index::d) {
            fail(o, "reduces over rows outside pairs");
            return;
          }
          Value sum;
          // A sum of products has the bits of a contraction.
          auto product = o.getX().getDefiningOp<tile::MulOp>();
          if (product && o.getKind() == "add" && tiles.count(product.getA()) && tiles.count(product.getB()) &&
              tileType(product.getA()).getD() == tileType(product.getB()).getD()) {
            for (auto [x, y] : llvm::zip(registers(product.getA()), registers(product.getB())))
              sum = fma(x, y, sum);
          } else {
            for (Value v : registers(o.getX()))
              sum = !sum ? v : o.getKind() == "max" ? maxNaN(sum, v) : fadd(sum, v);
          }
          tiles[o.getOut()] = {sum};
        })
        .Case([&](arith::AddIOp o) { numbers[o] = add(number(o.getLhs()), number(o.getRhs())); })
        .Case([&](arith::AndIOp o) { numbers[o] = both(number(o.getLhs()), number(o.getRhs())); })
        .Case([&](arith::MulFOp o) { numbers[o] = arith::MulFOp::create(b, loc, number(o.getLhs()), number(o.getRhs())); })
        .Default([&](Operation *o) { fail(o, "has no lowering to the host"); });
  }

  //-- Tensors

  Value rowAt(Value at) { return blockRow ? add(number(at), blockRow) : number(at); }

  /// Rows of a tensor from row `at` on; null where blocks of 16 always fit.
  Value leftOf(FlareTensorType t, Value at) {
    if (t.getTokens())
      return sub(tokens, at);
    int64_t covered = !config ? mergeRows : rows == Index::m ? config.getWorkerRows() : lanes;
    if (t.getLatents() % covered == 0 || (rows == Index::m && config && covered * config.getRowGroups() == t.getLatents()))
      return {};
    return sub(c64(t.getLatents()), at);
  }

  void emit(tile::LoadOp op) {
    const Tensor &t = tensors[op.getTensor()];
    Value at = rowAt(op.getAt());
    tiles[op.getTile()] = loadRows(rowsOf(t, at), leftOf(t.type, at), op.getTile().getType().getD());
  }

  void emit(tile::ReadOp op) {
    const StageAt &s = stages[op.getStage()];
    Value at = number(op.getAt());
    Rows r = s.rows;
    r.base = offset(r.base, mul(at, r.stride));
    tiles[op.getTile()] = loadRows(r, sub(s.left, at), op.getTile().getType().getD());
  }

  void emit(tile::StoreOp op) {
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
  void storeSums(const Rows &r, Value left, const Registers &x, int64_t d) {
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

  /// Horizontal maximum.
  Value largest(Value v) {
    for (int64_t s = 8; s >= 1; s /= 2) {
      SmallVector<int32_t> mask;
      for (int64_t i = 0; i < lanes; ++i)
        mask.push_back(i ^ s);
      v = maxNaN(v, shuffle(v, v, mask));
    }
    return element(v, 0);
  }
  Value squares(const Registers &x) {
    Value sum;
    for (Value v : x)
      sum = fma(v, v, sum);
    return sum;
  }
  int64_t widthOf(FlareTensorType t) { return t.getChannels() ? std::max<int64_t>(4, llvm::PowerOf2Ceil(t.getChannels())) : 0; }

  void emit(tile::MaxNormOp op) {
    const Tensor &t = tensors[op.getTensor()];
    int64_t count = t.type.getLatents();
    Registers r = loop(c64(0), c64(count), lanes, {all(0)}, [&](Value first, const Registers &state) -> Registers {
      Registers x = loadRows(rowsOf(t, first), count % lanes ? sub(c64(count), first) : Value(), widthOf(t.type));
      return {maxNaN(state[0], squares(x))};
    });
    numbers[op.getNorm()] = LLVM::SqrtOp::create(b, loc, largest(r[0]));
  }

  void emit(tile::BoundedOp op) {
    const StageAt &s = stages[op.getStage()];
    int64_t T = config.getTile();
    Value factor = number(op.getFactor());
    double limit = op.getLimit().convertToDouble();
    auto answer = [&]() -> Registers {
      Registers worst = loop(c64(0), c64(T), lanes, {all(0)}, [&](Value first, const Registers &state) -> Registers {
        Rows r = s.rows;
        r.base = offset(r.base, mul(first, r.stride));
        return {maxNaN(state[0], squares(loadRows(r, {}, op.getStage().getType().getD())))};
      });
      Value square = fmul(splat(fmul(factor, factor)), worst[0]);
      // An ordered comparison: NaN answers no. 0·inf is NaN too.
      Value small = compare(arith::CmpFPredicate::OLE, square, all(limit * limit));
      Value bits = bitcast(b.getI16Type(), small);
      return {arith::CmpIOp::create(b, loc, arith::CmpIPredicate::eq, bits, arith::ConstantOp::create(b, loc, b.getI16IntegerAttr(-1)))};
    };
    Value full = le(c64(T), s.left);
    numbers[op.getOk()] = choose(full, {b.getI1Type()}, answer, [&]() -> Registers { return {flag(false)}; })[0];
  }

  //-- Merges

  Rows partialRows(Value tensor, Value s, Value batchIndex, Value first) {
    Tensor t = tensors[tensor];
    int64_t width = std::max<int64_t>(1, t.type.getChannels());
    t.pointer = offset(t.pointer, mul(mul(s, mul(heads, t.type.getLatents() * width)), 4));
    Value saved = std::exchange(batch, batchIndex);
    Rows r = rowsOf(t, first);
    batch = saved;
    return r;
  }

  void emit(tile::MergeOp op) {
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

  void emit(tile::MergeSumOp op) {
    TileType type = tileType(op.getResult());
    Value at = rowAt(op.getAt());
    int64_t n = registersOf(type);
    const Tensor &t = tensors[op.getPartial()];
    // Shared latents: the batches of one latent batch follow each other.
    Value each = c64(1), firstBatch = batch;
    if (op.getReduced()) {
      each = div(batches, latentBatches);
      mayStore = lt(batch, latentBatches);
      firstBatch = mul(min(batch, add(latentBatches, -1)), each);
    }
    tiles[op.getResult()] = loop(c64(0), mul(splits, each), 1, Registers(n, all(0)), [&](Value i, const Registers &acc) {
      Value s = rem(i, splits), bb = add(firstBatch, div(i, splits));
      Registers x = loadRows(partialRows(op.getPartial(), s, bb, at), leftOf(t.type, at), type.getD());
      for (int64_t j = 0; j < n; ++j)
        x[j] = fadd(acc[j], x[j]);
      return x;
    });
  }

  void mergeKernel() {
    numbers[kernel.getRegion().getArgument(0)] = mul(rowGroup, mergeRows);
    loop(c64(0), c64(mergeRows), lanes, [&](Value first) {
      blockRow = first;
      lowerBlock(kernel.getRegion().front());
      blockRow = {};
    });
  }

  //-- Sweeps: what lies in scratch memory

  int64_t headBytes = 0, sharedBytes = 0;
  /// scratch: [edge] [heads] [shared by heads]
  int64_t allocate(int64_t bytes) {
    int64_t at = headBytes;
    headBytes += roundUp(bytes, vectorBytes);
    return at;
  }
  Value sharedScratch(int64_t at) { return offset(scratch, edgeBytes + headBytes * config.getHeads() + at); }

  int64_t blocksIn(TileType t) { return std::max(blocksOf(t.getN()), blocksOf(t.getM())); }
  int64_t blockBytes(TileType t) { return registersOf(t) * vectorBytes; }

  tile::StreamOp stream;
  struct Home {
    Value v;
    int64_t at;
  };
  SmallVector<Home> operandHomes, stateHomes, numberHomes, flagHomes; // stateHomes, flagHomes: v is the body's argument
  SmallVector<Operation *> before, after;

  /// The stash: tables of latents. What only safe bodies read has a table of its own, so that it takes no room in the cache.
  struct Table {
    int64_t at = 0, rowBytes = 0;
  };
  tile::StashOp stash;
  Table tables[2];
  SmallVector<std::pair<int, int64_t>> stashSlots; // table, offset
  int64_t stashRows() { return roundUp(stash.getLatents(), lanes); }

  static bool isIn(Operation *op, Operation *ancestor) { return ancestor->isProperAncestor(op); }

  void plan() {
    for (Operation &op : kernel.getRegion().front()) {
      if (auto s = dyn_cast<tile::StreamOp>(op))
        stream = s;
      else
        (stream ? after : before).push_back(&op);
    }
    auto neededLater = [&](Value v) {
      return llvm::any_of(v.getUsers(), [&](Operation *u) { return isIn(u, stream) || llvm::is_contained(after, u); });
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
    if (!stash)
      return;
    auto isFast = [&](Value v) {
      return llvm::any_of(v.getUsers(), [&](Operation *u) {
        auto branch = u->getParentOfType<scf::IfOp>();
        return !branch || branch.thenBlock()->findAncestorOpInBlock(*u);
      });
    };
    for (Value v : stash.getResults()) {
      int which = isFast(v) ? 0 : 1;
      stashSlots.push_back({which, tables[which].rowBytes});
      tables[which].rowBytes += 4 * std::max<int64_t>(1, cast<tile::StashType>(v.getType()).getD());
    }
    for (Table &t : tables) {
      t.rowBytes = roundUp(t.rowBytes, 16);
      t.at = allocate(stashRows() * t.rowBytes);
    }
  }

  /// Points every value that outlives the prologue at this head's memory.
  void enterHead(Value h) {
    head = add(firstHead, h);
    headBase = offset(offset(scratch, mul(h, headBytes)), edgeBytes);
    for (auto &x : operandHomes)
      parked[x.v] = {offset(headBase, x.at), blockBytes(tileType(x.v))};
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
  void loadNumbers() {
    for (auto &x : numberHomes) {
      Type t = x.v.getType().isIndex() ? i64() : x.v.getType();
      numbers[x.v] = load(t, offset(headBase, x.at), bytesOf(t.isInteger(1) ? b.getI8Type() : t));
    }
  }
  Value asByte(Value flag) { return arith::ExtUIOp::create(b, loc, b.getI8Type(), flag); }
  Value asFlag(Value byte) {
    return arith::CmpIOp::create(b, loc, arith::CmpIPredicate::ne, byte, arith::ConstantOp::create(b, loc, b.getI8IntegerAttr(0)));
  }

  void sweepKernel() {
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
      blocksOfOps(after, {});
    });
  }

  void prologue() {
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
    enterHeadAgain();
    if (stash)
      fillStash();
  }
  void enterHeadAgain() {
    for (auto &x : operandHomes)
      parked[x.v] = {offset(headBase, x.at), blockBytes(tileType(x.v))};
  }

  /// Runs ops on tiles of several blocks block by block; what has a home is put there.
  void blocksOfOps(ArrayRef<Operation *> ops, const DenseMap<Value, SmallVector<Parked>> &homes) {
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

  void fillStash() {
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

  //-- The stream

  DenseMap<Value, Parked> destinations; // where a branch must leave a tile

  Registers tileBody(Value n0, const Registers &flags) {
    Block &body = stream.getRegion().front();
    numbers[body.getArgument(0)] = n0;
    for (auto [i, v] : llvm::enumerate(stream.getTokens()))
      stages[body.getArgument(1 + i)] = {rowsOf(tensors[v], n0), sub(tokens, n0)};
    for (auto [x, f] : llvm::zip(flagHomes, flags))
      numbers[x.v] = f;
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

  /// Copies a tile to where it must be, unless it is there.
  void settle(Value v, const Parked &target) {
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

  void emit(scf::IfOp op) {
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

  //-- Blocks of scores

  /// What a pairs op's body is made of.
  struct Body {
    tile::PairsOp op;
    Block *block;
    unsigned numIns;
    DenseSet<Value> columnOnly, rowOnly; // computed from columns, from rows alone; never from accumulators
    DenseMap<Value, Registers> groups;   // right operands of contractions over rows, see contractRows
    llvm::MapVector<Value, int64_t> between; // pairs that pass from one phase to another: offset in scratch
  };
  struct Phase {
    SmallVector<Operation *> ops;
    SmallVector<unsigned> accumulators;
    int64_t step;
  };
  Value phaseFirst; // first column of the columns whose pairs lie in scratch

  TileType columnType(Value v) { return tileType(v); }
  bool hasRows(TileType t) { return t.size(rows) != 0; }
  bool hasColumns(TileType t) { return t.size(cols) != 0; }

  void emit(tile::PairsOp op) {
    Body body{op, &op.getRegion().front(), unsigned(op.getIns().size()), {}, {}, {}, {}};
    int64_t rowBlocks = 1, columnCount = 0, sharedAt = 0;
    auto measure = [&](Type type) {
      if (auto t = dyn_cast<TileType>(type)) {
        if (hasRows(t))
          rowBlocks = std::max(rowBlocks, blocksOf(t.size(rows)));
        else if (hasColumns(t))
          columnCount = std::max(columnCount, t.size(cols));
      } else if (auto s = dyn_cast<tile::StageType>(type)) {
        columnCount = std::max(columnCount, s.getN());
      } else if (auto s = dyn_cast<tile::StashType>(type)) {
        columnCount = std::max(columnCount, s.getM());
      }
    };
    for (Value v : op.getIns())
      measure(v.getType());
    for (Value v : op.getInits())
      measure(v.getType());

    // What depends on columns or on rows alone.
    for (unsigned i = 0; i < body.numIns; ++i) {
      Value a = body.block->getArgument(2 + i);
      (hasRows(tileType(a)) ? body.rowOnly : body.columnOnly).insert(a);
    }
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
    DenseMap<Value, Columns> savedColumns = columns;
    if (rows == Index::m) {
      buildTable(body, columnCount, sharedAt);
    } else {
      for (unsigned i = 0; i < body.numIns; ++i)
        if (isa<tile::StashType>(op.getIns()[i].getType()))
          columns[body.block->getArgument(2 + i)] = columns[op.getIns()[i]];
    }
    if (failed(status))
      return;
    SmallVector<Phase> phases = phasesOf(body);
    for (auto &[v, at] : body.between) {
      at = sharedAt;
      sharedAt += phaseColumns * vectorBytes;
    }
    sharedBytes = std::max(sharedBytes, sharedAt);

    bool inMemory = rowBlocks > 1 || llvm::any_of(op.getInits(), [&](Value v) { return hasRows(tileType(v)) && parked.count(v); }) ||
                    llvm::any_of(op.getIns(), [&](Value v) { return tileType(v) && hasRows(tileType(v)) && parked.count(v); });
    auto work = [&](Value block) {
      DenseMap<Value, Registers> saved = tiles;
      numbers[body.block->getArgument(0)] = block ? mul(block, tile::blockSize) : c64(0);
      for (unsigned i = 0; i < body.numIns; ++i)
        if (Value v = op.getIns()[i]; tileType(v))
          tiles[body.block->getArgument(2 + i)] = registers(v, block);
      for (Operation &o : body.block->without_terminator())
        if (o.getNumResults() == 1 && body.rowOnly.contains(o.getResult(0)))
          lower(&o);
      body.groups.clear();
      body.block->walk([&](tile::ContractOp o) {
        if (o.getOver() == rows)
          body.groups[o.getOut()] = groupRows(registers(o.getB().front()));
      });
      SmallVector<Registers> state;
      for (Value v : op.getInits())
        state.push_back(hasRows(tileType(v)) ? registers(v, block) : Registers());
      for (auto [i, v] : llvm::enumerate(op.getInits()))
        if (!hasRows(tileType(v)))
          parked[body.block->getArgument(2 + body.numIns + i)] = parked.lookup(v);
      runPhases(body, phases, columnCount, state);
      tiles = saved;
      return state;
    };
    if (!inMemory) {
      SmallVector<Registers> state = work({});
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
          if (!destinations.count(r)) {
            fail(op, "an accumulator of several blocks has no place");
            return;
          }
          settle(v, destinations[r]);
          targets.push_back(destinations[r]);
        } else {
          targets.push_back(it->second);
        }
      }
      loop(c64(0), c64(rowBlocks), 1, [&](Value block) {
        SmallVector<Registers> state = work(block);
        for (auto [v, s, t] : llvm::zip(op.getInits(), state, targets))
          if (hasRows(tileType(v)))
            park(s, t, block);
      });
      for (auto [r, t] : llvm::zip(op.getResults(), targets))
        parked[r] = t;
    }
    columns = savedColumns;
  }

  //- The table of tokens

  void buildTable(Body &body, int64_t count, int64_t &sharedAt) {
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
      Value v = body.op.getIns()[i], a = body.block->getArgument(2 + i);
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
      int64_t channels = s.rows.channels, width = cast<tile::StageType>(v.getType()).getD();
      Type e = stored(s.rows.element);
      int64_t size = bytesOf(e);
      Value base = offset(table, stageSlot[v]);
      loop(c64(0), real, 1, [&](Value i) {
        Value from = offset(s.rows.base, mul(i, s.rows.stride)), to = offset(base, mul(i, rowBytes));
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
    if (!derived.empty())
      loop(c64(0), c64(count), lanes, [&](Value first) {
        DenseMap<Value, Registers> saved = tiles;
        Value at = offset(table, mul(first, rowBytes));
        auto rowsAt = [&](Value v) { return Rows{offset(at, slot[v]), c64(rowBytes), tileType(v).getD(), f32()}; };
        for (unsigned i = 0; i < body.numIns; ++i)
          if (Value a = body.block->getArgument(2 + i); slot.count(a))
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

  //- Phases

  bool isAccumulator(Body &body, Value v) {
    auto a = dyn_cast<BlockArgument>(v);
    return a && a.getOwner() == body.block && a.getArgNumber() >= 2 + body.numIns;
  }

  /// A body with several contractions of pairs needs more registers than there are. It is cut into phases, each a loop over the columns of its own, that hand
  /// pairs on through memory in the first-level cache. That is possible where no pair depends on an accumulator.
  SmallVector<Phase> phasesOf(Body &body) {
    SmallVector<Operation *> ops;
    bool overRows = false, recurrent = false;
    DenseSet<Value> tainted;
    for (Operation &o : body.block->without_terminator()) {
      if (o.getNumResults() == 1 && (body.columnOnly.contains(o.getResult(0)) || body.rowOnly.contains(o.getResult(0))))
        continue;
      if (isa<tile::ConstantOp>(o))
        continue;
      ops.push_back(&o);
      auto contract = dyn_cast<tile::ContractOp>(o);
      overRows |= contract && contract.getOver() == rows;
      bool reduction = isa<tile::SumOp>(o) || (contract && contract.getOver() != Index::d);
      if (llvm::any_of(o.getOperands(), [&](Value v) { return isAccumulator(body, v) || tainted.contains(v); })) {
        if (!reduction)
          recurrent = true;
        tainted.insert(o.result_begin(), o.result_end());
      }
    }
    // A safe body is for the rare tile; and no more than 128 products in a row.
    int64_t channels = 1;
    for (Value a : body.block->getArguments())
      if (tileType(a))
        channels = std::max(channels, tileType(a).getD());
    auto branch = body.op->getParentOfType<scf::IfOp>();
    bool rare = branch && !branch.thenBlock()->findAncestorOpInBlock(*body.op);
    int64_t step = std::max<int64_t>(1, std::min<int64_t>(config.getUnroll(), (rare ? 64 : 128) / channels));
    if (rare)
      step = std::min<int64_t>(step, 4);
    Phase whole{ops, {}, step};
    for (unsigned i = 0; i < body.op.getInits().size(); ++i)
      whole.accumulators.push_back(i);
    if (!overRows || recurrent) {
      for (Operation *o : ops)
        if (auto c = dyn_cast<tile::ContractOp>(o); c && c.getOver() == rows)
          body.between[c.getA().front()] = 0;
      return {whole};
    }
    // Reductions as soon as their operands are there.
    SmallVector<Operation *> order;
    DenseSet<Operation *> placed;
    auto isReduction = [&](Operation *o) {
      auto c = dyn_cast<tile::ContractOp>(o);
      return isa<tile::SumOp>(o) || (c && c.getOver() != Index::d);
    };
    auto place = [&](Operation *o) {
      order.push_back(o);
      placed.insert(o);
    };
    for (Operation *o : ops) {
      if (isReduction(o))
        continue;
      place(o);
      for (Operation *u : ops)
        if (isReduction(u) && !placed.count(u) && cast<Operation *>(u)->getOperand(0).getDefiningOp() == o)
          place(u);
    }
    for (Operation *o : ops)
      if (!placed.count(o))
        place(o);
    SmallVector<Phase> phases;
    DenseSet<Value> held;
    int64_t used = 0;
    DenseMap<Operation *, unsigned> phaseOf;
    for (Operation *o : order) {
      int64_t cost = 0;
      SmallVector<Value> fresh;
      for (Value v : o->getOperands())
        if (TileType t = tileType(v); t && hasRows(t) && !hasColumns(t) && !held.contains(v) && !llvm::is_contained(fresh, v)) {
          fresh.push_back(v);
          cost += registersOf(t);
        }
      auto c = dyn_cast<tile::ContractOp>(o);
      bool needsMemory = c && c.getOver() == rows;
      bool here = needsMemory && !phases.empty() && c.getA().front().getDefiningOp() && phaseOf.count(c.getA().front().getDefiningOp()) &&
                  phaseOf[c.getA().front().getDefiningOp()] + 1 == phases.size();
      if (phases.empty() || here || (used && used + cost > 24)) {
        phases.push_back({{}, {}, step});
        held.clear();
        used = 0;
        cost = 0;
        for (Value v : o->getOperands())
          if (TileType t = tileType(v); t && hasRows(t) && !hasColumns(t) && llvm::is_contained(fresh, v) == false)
            fresh.push_back(v);
        for (Value v : fresh)
          cost += registersOf(tileType(v));
      }
      held.insert(fresh.begin(), fresh.end());
      used += cost;
      phases.back().ops.push_back(o);
      phaseOf[o] = phases.size() - 1;
      for (Value v : o->getOperands())
        if (TileType t = tileType(v); t && hasRows(t) && hasColumns(t) && v.getDefiningOp() && phaseOf.count(v.getDefiningOp()) &&
                                      phaseOf[v.getDefiningOp()] + 1 != phases.size())
          body.between[v] = 0;
      if (c && c.getOver() == Index::d && c.getA().size() > 1)
        phases.back().step = std::max<int64_t>(1, std::min(step, step * 2 / int64_t(c.getA().size()) / 2));
    }
    Operation *yield = body.block->getTerminator();
    for (auto [i, v] : llvm::enumerate(yield->getOperands())) {
      Operation *o = v.getDefiningOp();
      unsigned p = o && phaseOf.count(o) ? phaseOf[o] : 0;
      phases[p].accumulators.push_back(i);
    }
    return phases;
  }

  void runPhases(Body &body, SmallVector<Phase> &phases, int64_t count, SmallVector<Registers> &state) {
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
    auto run = [&](Phase &p, Value first, Value last) {
      Registers r = loop(first, last, p.step, flat(p.accumulators), [&](Value c, const Registers &in) {
        auto saved = state;
        unflat(p.accumulators, in);
        step(body, p, c, state);
        Registers out = flat(p.accumulators);
        state = saved;
        return out;
      });
      unflat(p.accumulators, r);
    };
    phaseFirst = c64(0);
    if (phases.size() == 1 && body.between.empty())
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

  //- One step: a few columns

  int64_t width = 0;                  // columns of the step
  Value firstColumn;                  // i64
  DenseMap<Value, Value> tableAt;     // table → address of its row of the first column
  Body *current = nullptr;

  Value betweenAt(Value v, int64_t c) {
    Value base = sharedScratch(current->between[v]);
    return offset(offset(base, mul(sub(firstColumn, phaseFirst), vectorBytes)), c * vectorBytes);
  }

  void step(Body &body, Phase &p, Value first, SmallVector<Registers> &state) {
    DenseMap<Value, Registers> saved = tiles;
    width = p.step;
    firstColumn = first;
    current = &body;
    tableAt.clear();
    numbers[body.block->getArgument(1)] = first;
    for (unsigned i : p.accumulators)
      if (!state[i].empty())
        tiles[body.block->getArgument(2 + body.numIns + i)] = state[i];
    for (auto &[v, at] : body.between)
      if (!llvm::is_contained(p.ops, v.getDefiningOp())) {
        bool wanted = llvm::any_of(p.ops, [&, v = v](Operation *o) {
          auto c = dyn_cast<tile::ContractOp>(o);
          return llvm::is_contained(o->getOperands(), v) && !(c && c.getOver() == rows);
        });
        if (!wanted)
          continue;
        Registers x;
        for (int64_t c = 0; c < width; ++c)
          x.push_back(loadVector(betweenAt(v, c)));
        tiles[v] = x;
      }
    for (Operation *o : p.ops) {
      if (failed(status))
        break;
      lowerPair(o);
      for (Value v : o->getResults())
        if (body.between.count(v))
          for (int64_t c = 0; c < width; ++c)
            storeVector(tiles[v][c], betweenAt(v, c));
    }
    for (unsigned i : p.accumulators)
      if (!state[i].empty())
        state[i] = registers(body.block->getTerminator()->getOperand(i));
    tiles = saved;
  }

  /// Number d of column c of the step, in all lanes.
  Value column(Value v, int64_t c, int64_t d) {
    if (auto k = v.getDefiningOp<tile::ConstantOp>())
      return all(k.getValue().convertToDouble());
    if (auto it = columns.find(v); it != columns.end()) {
      const Columns &t = it->second;
      Value &at = tableAt[t.base];
      if (!at)
        at = offset(t.base, mul(firstColumn, t.rowBytes));
      return splat(load(f32(), offset(at, c * t.rowBytes + t.offset + 4 * d), 4));
    }
    Operation *op = v.getDefiningOp();
    if (auto reduce = dyn_cast_or_null<tile::ReduceOp>(op)) {
      Value sum;
      for (int64_t i = 0; i < tileType(reduce.getX()).getD(); ++i) {
        Value x = column(reduce.getX(), c, i);
        sum = !sum ? x : reduce.getKind() == "max" ? maxNaN(sum, x) : fadd(sum, x);
      }
      return sum;
    }
    Value r = op ? apply(op, [&](Value o) { return column(o, c, tileType(o).getD() ? d : 0); }) : Value();
    if (!r) {
      fail(op ? op : kernel, "column operand has no lowering");
      return all(0);
    }
    return r;
  }

  Registers masked(tile::MaskOp op, const Registers &x, Value fill) {
    Value left = sub(number(op.getLimit()), number(op.getFirst()));
    Value rowValid = op.getOver() == rows ? below(left) : Value();
    Registers r;
    for (auto [c, v] : llvm::enumerate(x))
      r.push_back(select(rowValid ? rowValid : splat(lt(c64(c), left)), v, fill));
    return r;
  }

  /// c, where op is 2^(c·x) with bounded scores x: the product's rounding would not be that of x - lse later.
  Value factorOfSmall(Operation *op) {
    auto e = dyn_cast<tile::Exp2Op>(op);
    auto scale = e ? e.getA().getDefiningOp<tile::ScaleOp>() : tile::ScaleOp();
    auto branch = current->op->getParentOfType<scf::IfOp>();
    if (!scale || !branch || !branch.thenBlock()->findAncestorOpInBlock(*op) || !tiles.count(scale.getA()))
      return {};
    return scale.getFactor();
  }

  void lowerPair(Operation *op) {
    if (isElementwise(op)) {
      TileType t = tileType(op->getResult(0));
      if (!hasColumns(t))
        return lower(op);
      Registers r;
      if (Value factor = factorOfSmall(op)) {
        Value x = op->getOperand(0).getDefiningOp()->getOperand(0), c = splat(number(factor));
        // What a mask has made -inf is not small: 0 afterwards instead.
        auto mask = x.getDefiningOp<tile::MaskOp>();
        for (Value v : registers(mask ? mask.getX() : x))
          r.push_back(exp2OfSmall(v, c));
        if (mask)
          r = masked(mask, r, all(0));
        tiles[op->getResult(0)] = r;
        return;
      }
      for (int64_t c = 0; c < width; ++c)
        r.push_back(apply(op, [&](Value o) {
          TileType x = tileType(o);
          if (hasRows(x) && hasColumns(x))
            return registers(o)[c];
          return hasRows(x) ? registers(o)[0] : column(o, c, 0);
        }));
      tiles[op->getResult(0)] = r;
      return;
    }
    TypeSwitch<Operation *>(op)
        .Case([&](tile::ContractOp o) {
          if (o.getOver() == Index::d)
            scores(o);
          else if (o.getOver() == cols)
            contractColumns(o);
          else
            contractRows(o);
        })
        .Case([&](tile::SumOp o) {
          Registers x = registers(o.getX());
          if (o.getOver() != cols)
            return void(fail(o, "sums over rows"));
          for (size_t n = x.size(); n > 1; n /= 2)
            for (size_t i = 0; i < n / 2; ++i)
              x[i] = fadd(x[i], x[i + n / 2]);
          tiles[o.getOut()] = {fadd(registers(o.getAcc())[0], x[0])};
        })
        .Case([&](tile::ReduceOp o) {
          if (o.getOver() != cols)
            return lower(o);
          Registers x = registers(o.getX());
          Value r;
          for (Value v : x)
            r = !r ? v : o.getKind() == "max" ? maxNaN(r, v) : fadd(r, v);
          tiles[o.getOut()] = {r};
        })
        .Case([&](tile::MaskOp o) { tiles[o.getOut()] = masked(o, registers(o.getX()), all(o.getFill().convertToDouble())); })
        .Default([&](Operation *o) { lower(o); });
  }

  /// acc + Σ_d row·column: one chain for each addend and column. A single addend's sum is finished before acc is added: then scores have the same bits in
  /// every sweep, and x - lse is exact where one weight is all.
  void scores(tile::ContractOp op) {
    Registers sum(width);
    bool together = op.getAcc() && op.getA().size() > 1;
    if (together)
      sum = registers(op.getAcc());
    for (auto [i, av, bv] : llvm::enumerate(op.getA(), op.getB())) {
      Value row = av, col = bv;
      if (!hasRows(tileType(row)))
        std::swap(row, col);
      Registers r = registers(row), chain(width);
      if (i == 0)
        chain = sum;
      for (int64_t d = 0; d < int64_t(r.size()); ++d)
        for (int64_t c = 0; c < width; ++c)
          chain[c] = fma(column(col, c, d), r[d], chain[c]);
      for (int64_t c = 0; c < width; ++c)
        sum[c] = i == 0 ? chain[c] : fadd(sum[c], chain[c]);
    }
    if (op.getAcc() && !together) {
      Registers acc = registers(op.getAcc());
      for (int64_t c = 0; c < width; ++c)
        sum[c] = arith::AddFOp::create(b, loc, sum[c], acc[c]);
    }
    tiles[op.getOut()] = sum;
  }

  void contractColumns(tile::ContractOp op) {
    Registers p = registers(op.getA().front()), acc = registers(op.getAcc());
    for (int64_t c = 0; c < width; ++c)
      for (int64_t d = 0; d < int64_t(acc.size()); ++d)
        acc[d] = fma(column(op.getB().front(), c, d), p[c], acc[d]);
    tiles[op.getOut()] = acc;
  }

  /// Rows w[r][d] regrouped for a contraction over rows: vector j holds w[P·j + i][d] in lane P·d + i, with P = 16/d rows in a vector
  /// (d ≤ 16), or 16 channels of row j in each of d/16 vectors.
  Registers groupRows(const Registers &w) {
    if (w.size() <= lanes)
      return transposeGroups(w);
    Registers r;
    for (size_t u = 0; u < w.size(); u += lanes)
      r.append(transposeGroups(Registers(ArrayRef(w).slice(u, lanes))));
    return r;
  }

  /// state[c] += Σ_r p[r,c] w[r]: P rows' scores broadcast to all channels against P rows of w.
  void contractRows(tile::ContractOp op) {
    Value p = op.getA().front();
    const Registers &w = current->groups[op.getOut()];
    int64_t d = tileType(op.getOut()).getD(), vectors = std::max<int64_t>(1, d / lanes), group = std::max<int64_t>(1, lanes / d);
    auto state = parked.lookup(op.getAcc());
    if (!state.base || !current->between.count(p))
      return void(fail(op, "contracts over rows into what is not in memory"));
    Value base = offset(state.base, mul(firstColumn, vectors * vectorBytes));
    Registers acc;
    for (int64_t i = 0; i < width * vectors; ++i)
      acc.push_back(loadVector(offset(base, i * vectorBytes)));
    SmallVector<int32_t> repeat;
    for (int64_t i = 0; i < lanes; ++i)
      repeat.push_back(i % group);
    for (int64_t j = 0; j < lanes / group; ++j)
      for (int64_t c = 0; c < width; ++c) {
        Value at = offset(betweenAt(p, c), j * group * 4);
        Value few = group == 1 ? splat(load(f32(), at, 4)) : Value();
        if (!few) {
          few = load(vec(group), at, 4 * group);
          few = shuffle(few, few, repeat);
        }
        for (int64_t u = 0; u < vectors; ++u)
          acc[c * vectors + u] = fma(few, w[u * lanes + j], acc[c * vectors + u]);
      }
    for (auto [i, v] : llvm::enumerate(acc))
      storeVector(v, offset(base, i * vectorBytes));
  }
};

//===-- Elementary functions -------------------------------------------------//

/// Defines flarec.exp2 and flarec.log2 on vectors. A function named f.avx512 takes f's place where there is AVX-512 (codegen/Targets.cpp).
struct Functions : Emit {
  template <typename F> void define(StringRef name, F body) {
    define(name, 1, [&](ValueRange args) { return body(args[0]); });
  }
  template <typename F> void define(StringRef name, unsigned arguments, F body) {
    OpBuilder::InsertionGuard guard(b);
    auto f = LLVM::LLVMFuncOp::create(b, loc, name, LLVM::LLVMFunctionType::get(vec(), SmallVector<Type>(arguments, vec())), LLVM::Linkage::Internal);
    f.setPassthroughAttr(b.getArrayAttr({b.getStringAttr("alwaysinline")}));
    Block *entry = f.addEntryBlock(b);
    b.setInsertionPointToStart(entry);
    Value r = body(ValueRange(entry->getArguments()));
    LLVM::ReturnOp::create(b, loc, ValueRange{r});
  }
  Value polynomial(Value x, ArrayRef<double> c) {
    Value r = all(c.back());
    for (double k : llvm::reverse(c.drop_back()))
      r = fma(r, x, all(k));
    return r;
  }
  Value plain(Value x, Value y, bool subtract) {
    return subtract ? Value(arith::SubFOp::create(b, loc, x, y)) : Value(arith::AddFOp::create(b, loc, x, y));
  }

  void run() {
    // Minimax in the relative error (2e-9) on a unit interval among those that are exact at 0.
    const double nearest[] = {1.0, 0.6931471824645996, 0.24022647738456726, 0.055503323674201965, 0.00961843691766262, 0.0013398875016719103,
                              0.00015353361959569156};
    const double below[] = {1.0, 0.6931470632553101, 0.2402293086051941, 0.055485282093286514, 0.009675451554358006, 0.0012467845808714628,
                            0.0002161291631637141};
    auto intrinsic = [&](StringRef name, ValueRange args) {
      return LLVM::CallIntrinsicOp::create(b, loc, vec(), b.getStringAttr(name), args).getResult(0);
    };
    // The nearest integer plus 127 in the low bits of a number.
    const double magic = 12582912.0 + 127;
    auto power = [&](Value shifted) { return bitcast(vec(), arith::ShLIOp::create(b, loc, bitcast(ivec(), shifted), allBits(23))); };
    define("flarec.exp2", [&](Value x) {
      // Below -126 and above 127 the nearest bound; comparisons are ordered so that NaN passes, and comes out of the polynomial.
      Value low = all(-126), high = all(127);
      x = select(compare(arith::CmpFPredicate::OLT, x, low), low, x);
      x = select(compare(arith::CmpFPredicate::OGT, x, high), high, x);
      Value shifted = plain(x, all(magic), false);
      Value f = plain(x, plain(shifted, all(magic), true), true);
      return arith::MulFOp::create(b, loc, polynomial(f, nearest), power(shifted));
    });
    define("flarec.exp2.avx512", [&](Value x) {
      Value mask = arith::ConstantOp::create(b, loc, b.getI16IntegerAttr(-1)), current = c32(4);
      // x - floor x, then the polynomial times 2^floor x: overflow gives inf, underflow 0, NaN NaN.
      Value f = intrinsic("llvm.x86.avx512.mask.reduce.ps.512", {x, c32(9), x, mask, current});
      return intrinsic("llvm.x86.avx512.mask.scalef.ps.512", {polynomial(f, below), x, x, mask, current});
    });
    define("flarec.exp2_of_small", 2, [&](ValueRange args) {
      Value x = args[0], c = args[1];
      Value shifted = fma(x, c, all(magic));
      Value f = fma(x, c, fneg(plain(shifted, all(magic), true)));
      return arith::MulFOp::create(b, loc, polynomial(f, nearest), power(shifted));
    });
    define("flarec.exp2_of_small.avx512", 2, [&](ValueRange args) {
      Value x = args[0], c = args[1], mask = arith::ConstantOp::create(b, loc, b.getI16IntegerAttr(-1)), current = c32(4);
      Value whole = plain(fma(x, c, all(12582912.0)), all(12582912.0), true);
      Value f = fma(x, c, fneg(whole));
      return intrinsic("llvm.x86.avx512.mask.scalef.ps.512", {polynomial(f, nearest), whole, whole, mask, current});
    });
    define("flarec.log2", [&](Value x) { return logarithm(x, 1, 0, log2e); });
    define("flarec.ln", [&](Value x) { return logarithm(x, 0.693145751953125, 1.42860682030941723212e-6, 1); });
  }

  /// e·(high + low) + unit·ln m for x = 2^e·m, m in [√½, √2), with ln m = 2·artanh((m-1)/(m+1)). `high` is short, so that e·high is exact.
  Value logarithm(Value x, double high, double low, double unit) {
    Value tiny = compare(arith::CmpFPredicate::OLT, x, all(1.17549435e-38));
    Value y = select(tiny, arith::MulFOp::create(b, loc, x, all(16777216.0)), x);
    Value bits = bitcast(ivec(), y);
    Value e = arith::ShRSIOp::create(b, loc, arith::SubIOp::create(b, loc, bits, allBits(0x3f3504f3)), allBits(23));
    Value m = bitcast(vec(), arith::SubIOp::create(b, loc, bits, arith::ShLIOp::create(b, loc, e, allBits(23))));
    Value s = fdiv(plain(m, all(1), true), plain(m, all(1), false)), s2 = fmul(s, s);
    Value series = polynomial(s2, {1.0, 1 / 3.0, 1 / 5.0, 1 / 7.0, 1 / 9.0});
    Value exponent = plain(arith::SIToFPOp::create(b, loc, vec(), e), select(tiny, all(24), all(0)), true);
    Value fraction = fmul(fmul(s, series), all(2 * unit));
    if (low)
      fraction = fma(exponent, all(low), fraction);
    Value r = fma(exponent, all(high), fraction);
    r = select(compare(arith::CmpFPredicate::OEQ, x, all(0)), all(-std::numeric_limits<double>::infinity()), r);
    // NaN and +inf answer themselves, a negative number NaN.
    r = select(compare(arith::CmpFPredicate::OLT, x, all(std::numeric_limits<double>::infinity())), r, x);
    return select(compare(arith::CmpFPredicate::OLT, x, all(0)), all(std::numeric_limits<double>::quiet_NaN()), r);
  }
};

//===-- The pass -------------------------------------------------------------//

struct TileToHost : flarec::impl::TileToHostBase<TileToHost> {
  using TileToHostBase::TileToHostBase;

  void runOnOperation() override {
    ModuleOp module = getOperation();
    OpBuilder b(module.getBody(), module.getBody()->end());
    Manifest manifest(b);
    SmallVector<tile::ProgramOp> programs(module.getOps<tile::ProgramOp>());
    if (!programs.empty())
      Functions{b, module.getLoc()}.run();
    for (tile::ProgramOp program : programs) {
      manifest.beginFunction(program);
      for (auto kernel : program.getOps<tile::KernelOp>()) {
        std::string name = (program.getSymName() + "_" + kernel.getSymName()).str();
        int64_t scratch = 0;
        if (failed(lower(b, program, kernel, name, scratch)))
          return signalPassFailure();
        manifest.addKernel(program, kernel, name, 1, scratch, "", KernelLowering::mergeRows);
      }
      manifest.endFunction();
      program.erase();
    }
    module->setAttr("flarec.manifest", manifest.attribute());
  }

  LogicalResult lower(OpBuilder &b, tile::ProgramOp program, tile::KernelOp kernel, StringRef name, int64_t &scratch) {
    Location loc = kernel.getLoc();
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToEnd(getOperation().getBody());
    auto pointer = LLVM::LLVMPointerType::get(b.getContext());
    auto func = LLVM::LLVMFuncOp::create(
        b, loc, name, LLVM::LLVMFunctionType::get(LLVM::LLVMVoidType::get(b.getContext()), {pointer, b.getI64Type(), pointer}));
    Block *entry = func.addEntryBlock(b);
    KernelLowering l(OpBuilder::atBlockEnd(entry), loc, program, kernel);
    // One 8-byte slot a parameter, as docs/artefact.md lays down.
    Value slots = entry->getArgument(0);
    int64_t next = 0;
    auto slot = [&](Type t) { return l.load(t, l.offset(slots, 8 * next++), t.isF32() ? 4 : 8); };
    Block &args = program.getRegion().front();
    int64_t sweeps = 0;
    for (auto k : program.getOps<tile::KernelOp>())
      sweeps = std::max<int64_t>(sweeps, k.getSweep() + 1);
    for (BlockArgument a : args.getArguments())
      if (auto t = dyn_cast<FlareTensorType>(a.getType())) {
        Value p = slot(pointer), sb = slot(l.i64()), sh = slot(l.i64()), sr = slot(l.i64());
        l.tensors[a] = {p, sb, sh, sr, t};
      }
    l.batches = slot(l.i64());
    l.heads = slot(l.i64());
    l.tokens = slot(l.i64());
    l.latentBatches = slot(l.i64());
    for (int64_t s = 0; s < sweeps; ++s)
      if (Value v = slot(l.i64()); s == kernel.getSweep())
        l.splits = v;
    for (BlockArgument a : args.getArguments())
      if (!isa<FlareTensorType>(a.getType()))
        l.numbers[a] = slot(l.f32());
    l.scratch = entry->getArgument(2);
    l.identify(entry->getArgument(1));
    if (l.config)
      l.sweepKernel();
    else
      l.mergeKernel();
    if (failed(l.status))
      return failure();
    LLVM::ReturnOp::create(l.b, loc, ValueRange{});
    scratch = l.config ? l.edgeBytes + l.headBytes * l.config.getHeads() + l.sharedBytes : l.edgeUsed ? l.edgeBytes : 0;
    return success();
  }
};
} // namespace
