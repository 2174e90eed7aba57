// What vectors of 16 f32 need beyond single operations: element types, transpositions, and the elementary functions as polynomials.
#include "passes/host/Vectors.h"

using namespace mlir;
using namespace flarec;
using namespace flarec::host;

//===-- Control flow -------------------------------------------------------//

void Emit::onlyIf(Value condition, function_ref<void()> body) {
  auto op = scf::IfOp::create(b, loc, condition, false);
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(op.thenBlock());
  body();
}

Registers Emit::choose(Value condition, ArrayRef<Type> types, function_ref<Registers()> then, function_ref<Registers()> otherwise) {
  auto op = scf::IfOp::create(b, loc, types, condition, true);
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(op.thenBlock());
  scf::YieldOp::create(b, loc, Registers(then()));
  b.setInsertionPointToStart(op.elseBlock());
  scf::YieldOp::create(b, loc, Registers(otherwise()));
  return Registers(op.getResults());
}

Registers Emit::loop(Value first, Value last, int64_t step, const Registers &state, function_ref<Registers(Value, const Registers &)> body) {
  auto op = scf::ForOp::create(b, loc, first, last, c64(step), state);
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(op.getBody());
  Registers next = body(op.getInductionVar(), Registers(op.getRegionIterArgs()));
  if (!state.empty())
    scf::YieldOp::create(b, loc, next);
  return Registers(op.getResults());
}

void Emit::loop(Value first, Value last, int64_t step, function_ref<void(Value)> body) {
  loop(first, last, step, Registers(), [&](Value i, const Registers &) {
    body(i);
    return Registers();
  });
}

/// Numbers below 2^-126 count as 0 in the body. Weights of tokens far from the largest score are such numbers, and each operation on one is an exception that
/// costs the processor a hundred cycles and more.
void Emit::withoutDenormals(function_ref<void()> body) {
  constexpr int64_t flushToZero = 0x8000, denormalsAreZero = 0x40;
  // First of all in the entry block: LLVM splits it at divisions, and what came after would be no fixed part of the frame.
  auto word = [&] {
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(b.getInsertionBlock());
    Value one = c32(1);
    return Value(LLVM::AllocaOp::create(b, loc, pointer(), b.getI32Type(), one));
  };
  Value saved = word(), changed = word();
  auto control = [&](StringRef name, Value p) { LLVM::CallIntrinsicOp::create(b, loc, b.getStringAttr(name), ValueRange{p}); };
  control("llvm.x86.sse.stmxcsr", saved);
  store(arith::OrIOp::create(b, loc, load(b.getI32Type(), saved, 4), c32(flushToZero | denormalsAreZero)), changed, 4);
  control("llvm.x86.sse.ldmxcsr", changed);
  body();
  control("llvm.x86.sse.ldmxcsr", saved);
}

//===-- Element types ------------------------------------------------------//

Value Emit::widen(Value v, Type e) { // a vector of e, as f32
  if (e.isF32())
    return v;
  int64_t n = cast<VectorType>(v.getType()).getNumElements();
  if (e.isInteger())
    return arith::UIToFPOp::create(b, loc, vec(n), v);
  if (e.isBF16()) {
    auto wide = VectorType::get(n, b.getI32Type());
    Value bits = arith::ExtUIOp::create(b, loc, wide, v);
    Value sixteen = arith::ConstantOp::create(b, loc, DenseElementsAttr::get(wide, int32_t(16)));
    return bitcast(vec(n), arith::ShLIOp::create(b, loc, bits, sixteen));
  }
  return widenF16(v, n);
}

// f16 by integers: not every x86-64 has instructions for it, and one IR serves all. Numbers below 2^-14 have no leading one; they are
// written as 2^-14 + x, and an ordinary subtraction makes x of that: nothing below 2^-126 is met, which would count as 0.
Value Emit::widenF16(Value v, int64_t n) {
  auto type = VectorType::get(n, b.getI32Type());
  auto bits = [&](int64_t x) -> Value { return arith::ConstantOp::create(b, loc, DenseElementsAttr::get(type, int32_t(x))); };
  auto equals = [&](Value x, int64_t y) -> Value { return arith::CmpIOp::create(b, loc, arith::CmpIPredicate::eq, x, bits(y)); };
  auto plus = [&](Value x, int64_t y) -> Value { return arith::AddIOp::create(b, loc, x, bits(y)); };
  Value h = arith::ExtUIOp::create(b, loc, type, v);
  Value size = arith::ShLIOp::create(b, loc, arith::AndIOp::create(b, loc, h, bits(0x7fff)), bits(13));
  Value exponent = arith::AndIOp::create(b, loc, size, bits(0x0f800000));
  Value small = arith::SubFOp::create(b, loc, bitcast(vec(n), plus(size, 0x38800000)), bitcast(vec(n), bits(0x38800000)));
  Value wide = select(equals(exponent, 0x0f800000), plus(size, 0x70000000), plus(size, 0x38000000));
  wide = select(equals(exponent, 0), bitcast(type, small), wide);
  Value sign = arith::ShLIOp::create(b, loc, arith::AndIOp::create(b, loc, h, bits(0x8000)), bits(16));
  return bitcast(vec(n), arith::OrIOp::create(b, loc, wide, sign));
}

/// 16 f32 as f16, to nearest even; from 65520 on infinity; a NaN stays one.
Value Emit::narrowBitsF16(Value v) {
  auto below = [&](Value x, int64_t y) -> Value { return arith::CmpIOp::create(b, loc, arith::CmpIPredicate::slt, x, allBits(y)); };
  auto shr = [&](Value x, int64_t y) -> Value { return arith::ShRUIOp::create(b, loc, x, allBits(y)); };
  Value size = arith::AndIOp::create(b, loc, bitcast(ivec(), v), allBits(0x7fffffff));
  // Adding 1/2 leaves the 24 bits below 2^-1 that f16's smallest numbers have.
  Value half = bitcast(vec(), allBits(0x3f000000));
  Value small = arith::SubIOp::create(b, loc, bitcast(ivec(), Value(arith::AddFOp::create(b, loc, bitcast(vec(), size), half))), allBits(0x3f000000));
  Value odd = arith::AndIOp::create(b, loc, shr(size, 13), allBits(1));
  Value normal = shr(add(add(size, allBits(0xc8000fff)), odd), 13);
  Value large = select(below(size, 0x7f800001), allBits(0x7c00), allBits(0x7e00));
  Value r = select(below(size, 0x38800000), small, select(below(size, 0x47800000), normal, large));
  return arith::OrIOp::create(b, loc, r, arith::AndIOp::create(b, loc, shr(bitcast(ivec(), v), 16), allBits(0x8000)));
}

/// 16 f32 as bf16, to nearest even; a NaN stays one.
Value Emit::narrowBits(Value v) {
  Value bits = bitcast(ivec(), v);
  auto shr = [&](Value x) { return arith::ShRUIOp::create(b, loc, x, allBits(16)); };
  Value odd = arith::AndIOp::create(b, loc, shr(bits), allBits(1));
  Value rounded = shr(add(bits, add(odd, allBits(0x7fff))));
  Value quiet = arith::OrIOp::create(b, loc, shr(bits), allBits(0x40));
  return select(compare(arith::CmpFPredicate::UNO, v, v), quiet, rounded);
}

Value Emit::narrow(Value v, Type e) {
  if (e.isF32())
    return v;
  auto half = VectorType::get(lanes, b.getI16Type());
  return arith::TruncIOp::create(b, loc, half, e.isBF16() ? narrowBits(v) : narrowBitsF16(v));
}

Value Emit::rounded(Value v, Type e) {
  if (e.isF32())
    return v;
  if (e.isBF16())
    return bitcast(vec(), arith::ShLIOp::create(b, loc, narrowBits(v), allBits(16)));
  return widenF16(arith::TruncIOp::create(b, loc, VectorType::get(lanes, b.getI16Type()), narrowBitsF16(v)), lanes);
}

//===-- Vectors ------------------------------------------------------------//

Value Emit::splat(Value scalar, int64_t n) {
  Value v = LLVM::PoisonOp::create(b, loc, VectorType::get(n, scalar.getType()));
  v = LLVM::InsertElementOp::create(b, loc, v, scalar, c32(0));
  return shuffle(v, v, SmallVector<int32_t>(n, 0));
}

Value Emit::slice(Value v, int64_t first, int64_t n) {
  SmallVector<int32_t> mask;
  for (int64_t i = 0; i < n; ++i)
    mask.push_back(first + i);
  return shuffle(v, v, mask);
}

/// Vectors of equal length, one after the other; their number is a power of two.
Value Emit::concat(ArrayRef<Value> parts) {
  if (parts.size() == 1)
    return parts[0];
  Value low = concat(parts.take_front(parts.size() / 2)), high = concat(parts.drop_front(parts.size() / 2));
  SmallVector<int32_t> mask;
  for (int64_t i = 0, n = 2 * cast<VectorType>(low.getType()).getNumElements(); i < n; ++i)
    mask.push_back(i);
  return shuffle(low, high, mask);
}

/// Four vectors as 4 × 4 matrices, one in each 128 bits, transposed. Its own inverse.
void Emit::transpose4(Value *v) {
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

/// Four times 128 bits of two vectors: 0 to 3 are the first's, 4 to 7 the second's.
static SmallVector<int32_t> quarters(std::array<int, 4> which) {
  SmallVector<int32_t> mask;
  for (int q : which)
    for (int e = 0; e < 4; ++e)
      mask.push_back(4 * q + e);
  return mask;
}

/// 16 rows of 16 channels, a row a vector, or of 8: rows i and 4 + i in vector i, 8 + i and 12 + i in vector 4 + i. As a vector a channel.
Registers Emit::channelsOfRows(const Registers &rows) {
  Registers v = rows;
  for (size_t g = 0; g < v.size(); g += 4)
    transpose4(&v[g]);
  // Vector 4·g + j has channels 4·q + j of four rows in its 128 bits q; of 8 channels those of eight rows.
  Registers out(v.size());
  for (int64_t j = 0; j < 4; ++j) {
    if (v.size() == 8) {
      for (int c : {0, 1})
        out[4 * c + j] = shuffle(v[j], v[4 + j], quarters({c, 2 + c, 4 + c, 6 + c}));
      continue;
    }
    for (int odd : {0, 1}) {
      auto few = quarters({odd, 2 + odd, 4 + odd, 6 + odd});
      Value low = shuffle(v[j], v[4 + j], few), high = shuffle(v[8 + j], v[12 + j], few);
      out[4 * odd + j] = shuffle(low, high, quarters({0, 2, 4, 6}));
      out[4 * (2 + odd) + j] = shuffle(low, high, quarters({1, 3, 5, 7}));
    }
  }
  rowForm[out[0]] = rows;
  return out;
}

/// Its inverse. Rows that are known are not made again.
Registers Emit::rowsOfChannels(const Registers &v) {
  if (auto it = rowForm.find(v[0]); it != rowForm.end() && it->second.size() == v.size())
    return it->second;
  if (v.size() == 16)
    return channelsOfRows(v);
  Registers out(8);
  for (int64_t j = 0; j < 4; ++j)
    for (int g : {0, 1})
      out[4 * g + j] = shuffle(v[j], v[4 + j], quarters({2 * g, 4 + 2 * g, 2 * g + 1, 5 + 2 * g}));
  transpose4(&out[0]);
  transpose4(&out[4]);
  return out;
}

/// n vectors of n elements, each of 16/n lanes: out[j] = (in[0][j], in[1][j], …).
Registers Emit::transposeGroups(Registers v) {
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

//===-- Elementary functions -----------------------------------------------//

namespace {
/// Defines flarec.exp2 and flarec.log2 on vectors. A function named f.avx512 takes f's place where there is AVX-512 (codegen/Targets.cpp).
struct Functions : Emit {
  template <typename F> void define(StringRef name, F body) {
    OpBuilder::InsertionGuard guard(b);
    auto f = LLVM::LLVMFuncOp::create(b, loc, name, LLVM::LLVMFunctionType::get(vec(), {vec()}), LLVM::Linkage::Internal);
    f.setPassthroughAttr(b.getArrayAttr({b.getStringAttr("alwaysinline")}));
    Block *entry = f.addEntryBlock(b);
    b.setInsertionPointToStart(entry);
    Value r = body(entry->getArgument(0));
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
    // The same with one coefficient less, 9e-8 and 8e-8.
    const double shortNearest[] = {1.0, 0.6931470036506653, 0.24022246897220612, 0.0555071085691452, 0.009671292267739773, 0.0013269535265862942};
    const double shortBelow[] = {1.0, 0.6931512951850891, 0.2401645928621292, 0.055799514055252075, 0.009017481468617916, 0.001866951584815979};
    auto intrinsic = [&](StringRef name, ValueRange args) {
      return LLVM::CallIntrinsicOp::create(b, loc, vec(), b.getStringAttr(name), args).getResult(0);
    };
    // The nearest integer plus 127 in the low bits of a number.
    const double magic = 12582912.0 + 127;
    auto power = [&](Value shifted) { return bitcast(vec(), arith::ShLIOp::create(b, loc, bitcast(ivec(), shifted), allBits(23))); };
    auto general = [&](Value x, ArrayRef<double> c, bool bounded) -> Value {
      if (!bounded) {
        // Below -126 and above 127 the nearest bound; comparisons are ordered so that NaN passes, and comes out of the polynomial.
        Value low = all(-126), high = all(127);
        x = select(compare(arith::CmpFPredicate::OLT, x, low), low, x);
        x = select(compare(arith::CmpFPredicate::OGT, x, high), high, x);
      }
      Value shifted = plain(x, all(magic), false);
      Value f = plain(x, plain(shifted, all(magic), true), true);
      return arith::MulFOp::create(b, loc, polynomial(f, c), power(shifted));
    };
    auto scaled = [&](Value x, ArrayRef<double> c) {
      Value mask = arith::ConstantOp::create(b, loc, b.getI16IntegerAttr(-1)), current = c32(4);
      // x - floor x, then the polynomial times 2^floor x: overflow gives inf, underflow 0, NaN NaN.
      Value f = intrinsic("llvm.x86.avx512.mask.reduce.ps.512", {x, c32(9), x, mask, current});
      return intrinsic("llvm.x86.avx512.mask.scalef.ps.512", {polynomial(f, c), x, x, mask, current});
    };
    define("flarec.exp2", [&](Value x) { return general(x, nearest, false); });
    define("flarec.exp2_of_score", [&](Value x) { return general(x, shortNearest, false); });
    define("flarec.exp2_of_bounded", [&](Value x) { return general(x, shortNearest, true); });
    define("flarec.exp2.avx512", [&](Value x) { return scaled(x, below); });
    define("flarec.exp2_of_score.avx512", [&](Value x) { return scaled(x, shortBelow); });
    define("flarec.exp2_of_bounded.avx512", [&](Value x) { return scaled(x, shortBelow); });
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
} // namespace

void flarec::host::defineFunctions(OpBuilder &b, Location loc) { Functions{b, loc}.run(); }
