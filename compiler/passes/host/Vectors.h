// Short names for the IR of one thread: vectors of 16 f32 and structured control flow, beside the numbers that every target has.
#pragma once
#include "passes/Registers.h"
#include "passes/Scalars.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/Matchers.h"
#include "llvm/ADT/DenseMap.h"

namespace flarec::host {
using namespace mlir; // this header and its users are all there is of the namespace
using flare::FlareTensorType;
using flare::Index;
using tile::TileType;

constexpr int64_t lanes = 16, vectorBytes = 64;

inline TileType tileType(Value v) { return dyn_cast<TileType>(v.getType()); }

struct Emit : lowering::Scalars {
  VectorType vec(int64_t n) { return VectorType::get(n, f32()); }
  VectorType vec() { return vec(lanes); }
  VectorType ivec() { return VectorType::get(lanes, b.getI32Type()); }
  Type pointer() { return LLVM::LLVMPointerType::get(b.getContext()); }

  Value flag(bool v) { return arith::ConstantOp::create(b, loc, b.getBoolAttr(v)); }
  Value all(double v) { return arith::ConstantOp::create(b, loc, DenseElementsAttr::get(vec(), float(v))); }
  Value allBits(int64_t v) { return arith::ConstantOp::create(b, loc, DenseElementsAttr::get(ivec(), int32_t(v))); }

  Value le(Value x, Value y) { return arith::CmpIOp::create(b, loc, arith::CmpIPredicate::sle, x, y); }

  Value fdiv(Value x, Value y) { return arith::DivFOp::create(b, loc, x, y); }
  Value fma(Value x, Value y, Value acc) { return acc ? Value(LLVM::FMulAddOp::create(b, loc, x, y, acc)) : fmul(x, y); }
  Value compare(arith::CmpFPredicate p, Value x, Value y) { return arith::CmpFOp::create(b, loc, p, x, y); }
  /// A NaN wins.
  Value maxNaN(Value x, Value y) {
    Value m = select(compare(arith::CmpFPredicate::OGT, x, y), x, y); // y, if either is NaN
    return select(compare(arith::CmpFPredicate::UNO, x, x), x, m);
  }

  Value loadVector(Value p) { return load(vec(), p, vectorBytes); }
  void storeVector(Value v, Value p) { store(v, p, vectorBytes); }

  Value shuffle(Value x, Value y, ArrayRef<int32_t> mask) { return LLVM::ShuffleVectorOp::create(b, loc, x, y, mask); }
  Value element(Value v, int64_t i) { return LLVM::ExtractElementOp::create(b, loc, v, c32(i)); }
  Value splat(Value scalar, int64_t n = lanes);
  Value slice(Value v, int64_t first, int64_t n);
  Value concat(ArrayRef<Value> parts);
  void transpose4(Value *v);
  Registers transposeGroups(Registers v);
  Registers channelsOfRows(const Registers &v);
  Registers rowsOfChannels(const Registers &v);
  DenseMap<Value, Registers> rowForm; // the first channel of some → the rows that they are

  void onlyIf(Value condition, function_ref<void()> body);
  Registers choose(Value condition, ArrayRef<Type> types, function_ref<Registers()> then, function_ref<Registers()> otherwise);
  Registers loop(Value first, Value last, int64_t step, const Registers &state, function_ref<Registers(Value, const Registers &)> body);
  void loop(Value first, Value last, int64_t step, function_ref<void(Value)> body);

  void withoutDenormals(function_ref<void()> body);

  /// The type that memory has of an element type; widen makes f32 of it.
  Type stored(Type e) { return e.isF32() || e.isInteger() ? e : Type(b.getI16Type()); }
  Value widen(Value v, Type e);
  Value narrow(Value v, Type e);
  Value narrowBits(Value v);
  Value widenF16(Value v, int64_t n);
  Value narrowBitsF16(Value v);
  Value rounded(Value v, Type e);
};

/// Defines flarec.exp2, flarec.exp2_of_score, flarec.exp2_of_bounded, flarec.log2 and flarec.ln on vectors, where b is.
void defineFunctions(OpBuilder &b, Location loc);

} // namespace flarec::host
