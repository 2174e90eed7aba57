// What a GPU thread has beyond numbers: intrinsics, bits, pairs of 16-bit numbers.
#pragma once
#include "passes/Scalars.h"
#include "passes/Sizes.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/Matchers.h"

namespace flarec::nvvm {

using namespace mlir;

inline bool isHalf(Type t) { return t.getIntOrFloatBitWidth() == 16; }

struct Emit : lowering::Scalars {
  Type i32() { return b.getI32Type(); }
  Type pair16(Type half) { return VectorType::get(2, half); }
  Type pointer(unsigned space) { return LLVM::LLVMPointerType::get(b.getContext(), space); }

  Value andBits(Value x, int64_t y) { return arith::AndIOp::create(b, loc, x, constantLike(x, y)); }
  Value orBits(Value x, Value y) { return arith::OrIOp::create(b, loc, x, y); }
  Value xorBits(Value x, Value y) { return arith::XOrIOp::create(b, loc, x, y); }
  Value shr(Value x, int64_t y) { return y ? arith::ShRUIOp::create(b, loc, x, constantLike(x, y)) : x; }
  Value shl(Value x, int64_t y) { return y ? arith::ShLIOp::create(b, loc, x, constantLike(x, y)) : x; }
  Value widen(Value x) { return arith::ExtUIOp::create(b, loc, i64(), x); }
  Value narrow(Value x) { return arith::TruncIOp::create(b, loc, i32(), x); }

  Value intrinsic(StringRef name, Type result, ValueRange args) {
    return LLVM::CallIntrinsicOp::create(b, loc, result, b.getStringAttr(name), args).getResult(0);
  }
  void intrinsic(StringRef name, ValueRange args) {
    LLVM::CallIntrinsicOp::create(b, loc, b.getStringAttr(name), args);
  }
  /// `effects`: it does more than its result shows, so it stays where it is. No result: null.
  Value assembly(Type result, StringRef text, StringRef constraints, ValueRange args, bool effects = false) {
    auto op = LLVM::InlineAsmOp::create(b, loc, result, args, text, constraints, effects, false, LLVM::tailcallkind::TailCallKind::None,
                                        LLVM::AsmDialectAttr::get(b.getContext(), LLVM::AsmDialect::AD_ATT), ArrayAttr());
    return result ? op.getResult(0) : Value();
  }
  Value fma(Value x, Value y, Value z) { return intrinsic("llvm.fma.f32", f32(), {x, y, z}); }
  /// x·y + z of two bf16 at once.
  Value fma2(Value x, Value y, Value z) {
    Type pair = pair16(b.getBF16Type());
    return bitcast(i32(), intrinsic("llvm.nvvm.fma.rn.bf16x2", pair, {bitcast(pair, x), bitcast(pair, y), bitcast(pair, z)}));
  }
  Value exp2(Value x) { return intrinsic("llvm.nvvm.ex2.approx.ftz.f32", f32(), x); }
  Value log2(Value x) { return intrinsic("llvm.nvvm.lg2.approx.ftz.f", f32(), x); }
  Value rcp(Value x) { return intrinsic("llvm.nvvm.rcp.approx.ftz.f", f32(), x); }
  Value sqrt(Value x) { return intrinsic("llvm.nvvm.sqrt.approx.ftz.f", f32(), x); }
  Value maxNaN(Value x, Value y) { return intrinsic("llvm.nvvm.fmax.nan.f", f32(), {x, y}); }
  Value shuffleXor(Value x, int64_t mask) {
    return intrinsic("llvm.nvvm.shfl.sync.bfly.f32", f32(), {c32(-1), x, c32(mask), c32(31)});
  }
  /// Is c true, or a number not 0, in some lane?
  Value anyLane(Value c) {
    if (!c.getType().isInteger(1))
      c = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::ne, c, c32(0));
    return intrinsic("llvm.nvvm.vote.any.sync", b.getI1Type(), {c32(-1), c});
  }
  Value allLanes(Value c) { return intrinsic("llvm.nvvm.vote.all.sync", b.getI1Type(), {c32(-1), c}); }
  /// What ordinary stores and copies have written to shared memory warpgroups' products may read after the next barrier (PTX ISA's async proxy).
  void proxyFence() { assembly({}, "fence.proxy.async.shared::cta;", "~{memory}", {}, /*effects=*/true); }
  void barrier() { intrinsic("llvm.nvvm.barrier.cta.sync.aligned.all", c32(0)); }

  /// A number known to be 0 when code is made: the padding of units of 8 channels.
  static bool isZero(Value x) { return matchPattern(x, m_AnyZeroFloat()) || matchPattern(x, m_Zero()); }

  // Two f32 in one register as bf16 or f16, the first in the lower half.
  Value pack(Type half, Value low, Value high) {
    if (isZero(low) && isZero(high))
      return c32(0);
    StringRef name = half.isBF16() ? "llvm.nvvm.ff2bf16x2.rn" : "llvm.nvvm.ff2f16x2.rn";
    return bitcast(i32(), intrinsic(name, pair16(half), {high, low}));
  }
  std::pair<Value, Value> unpack(Type half, Value x) {
    if (isZero(x))
      return {cf(0), cf(0)};
    if (half.isBF16())
      return {bitcast(f32(), shl(x, 16)), bitcast(f32(), andBits(x, 0xffff0000))};
    Value v = bitcast(pair16(half), x);
    auto at = [&](int i) -> Value {
      return arith::ExtFOp::create(b, loc, f32(), Value(LLVM::ExtractElementOp::create(b, loc, v, c32(i))));
    };
    return {at(0), at(1)};
  }

  Value element(Value aggregate, int64_t i) { return LLVM::ExtractValueOp::create(b, loc, aggregate, i); }

  /// What `then` gives where the condition holds, what `otherwise` gives elsewhere; code that each of them makes runs there alone.
  ValueRange choose(Value condition, TypeRange types, llvm::function_ref<llvm::SmallVector<Value>()> then, llvm::function_ref<llvm::SmallVector<Value>()> otherwise) {
    auto op = scf::IfOp::create(b, loc, types, condition, true);
    for (auto [block, give] : {std::pair(op.thenBlock(), then), std::pair(op.elseBlock(), otherwise)}) {
      OpBuilder::InsertionGuard guard(b);
      block->clear(); // an implicit terminator, where there are no results
      b.setInsertionPointToStart(block);
      scf::YieldOp::create(b, loc, give());
    }
    return op.getResults();
  }

  template <typename F> void onlyIf(Value condition, F body) {
    auto op = scf::IfOp::create(b, loc, condition, false);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(op.thenBlock());
    body();
  }
};

} // namespace flarec::nvvm
