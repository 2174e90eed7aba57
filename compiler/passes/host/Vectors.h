// Short names for the IR of one thread: numbers, vectors of 16 f32, memory, structured control flow.
#pragma once
#include "passes/Registers.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/Matchers.h"

namespace flarec::host {
using namespace mlir; // this header and its users are all there is of the namespace
using flare::FlareTensorType;
using flare::Index;
using tile::TileType;

constexpr int64_t lanes = 16, vectorBytes = 64;
constexpr double log2e = 1.4426950408889634;

inline TileType tileType(Value v) { return dyn_cast<TileType>(v.getType()); }
inline int64_t bytesOf(Type t) { return t.getIntOrFloatBitWidth() / 8; }
inline int64_t roundUp(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

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
  Value element(Value v, int64_t i) { return LLVM::ExtractElementOp::create(b, loc, v, c32(i)); }
  Value splat(Value scalar, int64_t n = lanes);
  Value slice(Value v, int64_t first, int64_t n);
  Value concat(ArrayRef<Value> parts);
  void transpose4(Value *v);
  Registers transposeGroups(Registers v);

  void onlyIf(Value condition, function_ref<void()> body);
  Registers choose(Value condition, ArrayRef<Type> types, function_ref<Registers()> then, function_ref<Registers()> otherwise);
  Registers loop(Value first, Value last, int64_t step, const Registers &state, function_ref<Registers(Value, const Registers &)> body);
  void loop(Value first, Value last, int64_t step, function_ref<void(Value)> body);

  void withoutDenormals(function_ref<void()> body);

  /// The type that memory has of an element type; widen makes f32 of it.
  Type stored(Type e) { return e.isF32() ? e : Type(b.getI16Type()); }
  Value widen(Value v, Type e);
  Value narrow(Value v, Type e);
  Value narrowBits(Value v);
  Value widenF16(Value v, int64_t n);
  Value narrowBitsF16(Value v);
  Value rounded(Value v, Type e);
};

/// Defines flarec.exp2, flarec.exp2_of_small, flarec.log2 and flarec.ln on vectors, where b is.
void defineFunctions(OpBuilder &b, Location loc);

} // namespace flarec::host
