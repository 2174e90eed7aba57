// Scalars and intrinsics of a GPU thread under short names.
#pragma once
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/Builders.h"

namespace flarec::nvvm {

using namespace mlir;

inline int64_t bytesOf(Type t) { return t.getIntOrFloatBitWidth() / 8; }
inline bool isHalf(Type t) { return t.getIntOrFloatBitWidth() == 16; }

/// Scalars and intrinsics under short names.
struct Emit {
  OpBuilder b;
  Location loc;

  Type f32() { return b.getF32Type(); }
  Type i32() { return b.getI32Type(); }
  Type i64() { return b.getI64Type(); }
  Type pair16(Type half) { return VectorType::get(2, half); }
  Type pointer(unsigned space) { return LLVM::LLVMPointerType::get(b.getContext(), space); }

  Value c32(int64_t v) { return arith::ConstantOp::create(b, loc, b.getI32IntegerAttr(v)); }
  Value c64(int64_t v) { return arith::ConstantOp::create(b, loc, b.getI64IntegerAttr(v)); }
  Value cf(double v) { return arith::ConstantOp::create(b, loc, b.getF32FloatAttr(v)); }
  Value constantLike(Value like, int64_t v) { return like.getType().isInteger(64) ? c64(v) : c32(v); }

  Value add(Value x, Value y) { return arith::AddIOp::create(b, loc, x, y); }
  Value sub(Value x, Value y) { return arith::SubIOp::create(b, loc, x, y); }
  Value mul(Value x, Value y) { return arith::MulIOp::create(b, loc, x, y); }
  Value mul(Value x, int64_t y) { return y == 1 ? x : mul(x, constantLike(x, y)); }
  Value add(Value x, int64_t y) { return y == 0 ? x : add(x, constantLike(x, y)); }
  Value div(Value x, Value y) { return arith::DivUIOp::create(b, loc, x, y); }
  Value rem(Value x, Value y) { return arith::RemUIOp::create(b, loc, x, y); }
  Value div(Value x, int64_t y) { return div(x, constantLike(x, y)); }
  Value rem(Value x, int64_t y) { return rem(x, constantLike(x, y)); }
  Value andBits(Value x, int64_t y) { return arith::AndIOp::create(b, loc, x, constantLike(x, y)); }
  Value orBits(Value x, Value y) { return arith::OrIOp::create(b, loc, x, y); }
  Value xorBits(Value x, Value y) { return arith::XOrIOp::create(b, loc, x, y); }
  Value shr(Value x, int64_t y) { return y ? arith::ShRUIOp::create(b, loc, x, constantLike(x, y)) : x; }
  Value shl(Value x, int64_t y) { return y ? arith::ShLIOp::create(b, loc, x, constantLike(x, y)) : x; }
  Value widen(Value x) { return arith::ExtUIOp::create(b, loc, i64(), x); }
  Value narrow(Value x) { return arith::TruncIOp::create(b, loc, i32(), x); }
  Value lt(Value x, Value y) { return arith::CmpIOp::create(b, loc, arith::CmpIPredicate::slt, x, y); }
  Value both(Value x, Value y) { return arith::AndIOp::create(b, loc, x, y); }
  Value min(Value x, Value y) { return arith::MinSIOp::create(b, loc, x, y); }
  Value max(Value x, Value y) { return arith::MaxSIOp::create(b, loc, x, y); }
  Value select(Value c, Value x, Value y) { return arith::SelectOp::create(b, loc, c, x, y); }
  Value bitcast(Type t, Value x) { return LLVM::BitcastOp::create(b, loc, t, x); }

  // `contract` alone: a multiply and an add may fuse, nothing else may change (design.md trap 15).
  arith::FastMathFlagsAttr contract() { return arith::FastMathFlagsAttr::get(b.getContext(), arith::FastMathFlags::contract); }
  Value fadd(Value x, Value y) { return arith::AddFOp::create(b, loc, x, y, contract()); }
  Value fsub(Value x, Value y) { return arith::SubFOp::create(b, loc, x, y, contract()); }
  Value fmul(Value x, Value y) { return arith::MulFOp::create(b, loc, x, y, contract()); }
  Value fneg(Value x) { return arith::NegFOp::create(b, loc, x); }

  Value intrinsic(StringRef name, Type result, ValueRange args) {
    return LLVM::CallIntrinsicOp::create(b, loc, result, b.getStringAttr(name), args).getResult(0);
  }
  void intrinsic(StringRef name, ValueRange args) {
    LLVM::CallIntrinsicOp::create(b, loc, b.getStringAttr(name), args);
  }
  Value assembly(Type result, StringRef text, StringRef constraints, ValueRange args) {
    return LLVM::InlineAsmOp::create(b, loc, result, args, text, constraints, false, false, LLVM::tailcallkind::TailCallKind::None,
                                     LLVM::AsmDialectAttr::get(b.getContext(), LLVM::AsmDialect::AD_ATT), ArrayAttr())
        .getResult(0);
  }
  Value exp2(Value x) { return intrinsic("llvm.nvvm.ex2.approx.ftz.f32", f32(), x); }
  Value log2(Value x) { return intrinsic("llvm.nvvm.lg2.approx.ftz.f", f32(), x); }
  Value rcp(Value x) { return intrinsic("llvm.nvvm.rcp.approx.ftz.f", f32(), x); }
  Value sqrt(Value x) { return intrinsic("llvm.nvvm.sqrt.approx.ftz.f", f32(), x); }
  Value maxNaN(Value x, Value y) { return intrinsic("llvm.nvvm.fmax.nan.f", f32(), {x, y}); }
  Value shuffleXor(Value x, int64_t mask) {
    return intrinsic("llvm.nvvm.shfl.sync.bfly.f32", f32(), {c32(-1), x, c32(mask), c32(31)});
  }
  Value allLanes(Value c) { return intrinsic("llvm.nvvm.vote.all.sync", b.getI1Type(), {c32(-1), c}); }
  void barrier() { intrinsic("llvm.nvvm.barrier.cta.sync.aligned.all", c32(0)); }

  // Two f32 in one register as bf16 or f16, the first in the lower half.
  Value pack(Type half, Value low, Value high) {
    StringRef name = half.isBF16() ? "llvm.nvvm.ff2bf16x2.rn" : "llvm.nvvm.ff2f16x2.rn";
    return bitcast(i32(), intrinsic(name, pair16(half), {high, low}));
  }
  std::pair<Value, Value> unpack(Type half, Value x) {
    if (half.isBF16())
      return {bitcast(f32(), shl(x, 16)), bitcast(f32(), andBits(x, 0xffff0000))};
    Value v = bitcast(pair16(half), x);
    auto at = [&](int i) -> Value {
      return arith::ExtFOp::create(b, loc, f32(), Value(LLVM::ExtractElementOp::create(b, loc, v, c32(i))));
    };
    return {at(0), at(1)};
  }

  Value offset(Value base, Value bytes) {
    return LLVM::GEPOp::create(b, loc, base.getType(), b.getI8Type(), base, ValueRange{bytes});
  }
  Value offset(Value base, int64_t bytes) {
    return bytes ? Value(LLVM::GEPOp::create(b, loc, base.getType(), b.getI8Type(), base, ArrayRef<LLVM::GEPArg>{int32_t(bytes)})) : base;
  }
  Value load(Type t, Value p, int64_t align) { return LLVM::LoadOp::create(b, loc, t, p, align); }
  void store(Value v, Value p, int64_t align) { LLVM::StoreOp::create(b, loc, v, p, align); }
  Value element(Value aggregate, int64_t i) { return LLVM::ExtractValueOp::create(b, loc, aggregate, i); }

  template <typename F> void onlyIf(Value condition, F body) {
    auto op = scf::IfOp::create(b, loc, condition, false);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(op.thenBlock());
    body();
  }
};

} // namespace flarec::nvvm
