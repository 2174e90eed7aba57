// Numbers and memory of one thread, under short names: what the lowerings to every target emit in the same way.
#pragma once
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/IR/Builders.h"

namespace flarec::lowering {
using namespace mlir; // this header and its users are all there is of the namespace

struct Scalars {
  OpBuilder b;
  Location loc;

  Type f32() { return b.getF32Type(); }
  Type i64() { return b.getI64Type(); }

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

  Value offset(Value base, Value bytes) {
    return LLVM::GEPOp::create(b, loc, base.getType(), b.getI8Type(), base, ValueRange{bytes});
  }
  Value offset(Value base, int64_t bytes) {
    return bytes ? Value(LLVM::GEPOp::create(b, loc, base.getType(), b.getI8Type(), base, ArrayRef<LLVM::GEPArg>{int32_t(bytes)})) : base;
  }

  Value load(Type t, Value p, int64_t align) { return LLVM::LoadOp::create(b, loc, t, p, align); }
  void store(Value v, Value p, int64_t align) { LLVM::StoreOp::create(b, loc, v, p, align); }
};

} // namespace flarec::lowering
