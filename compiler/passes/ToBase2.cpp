// flare-to-base-2: sink log2(e) into the latents' side of scores, for 16-bit tokens.
#include "flare/Flare.h"
#include "passes/Passes.h"
#include "passes/Sizes.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/Matchers.h"
#include <cmath>

namespace flarec {
#define GEN_PASS_DEF_TOBASE2
#include "passes/Passes.h.inc"
} // namespace flarec

using namespace mlir;
using namespace flarec;
using namespace flarec::flare;

namespace {

bool isTokens16(Value v) {
  auto t = dyn_cast<FlareTensorType>(v.getType());
  return t && t.getTokens() && !t.isPair() && !t.getElement().isF32() && !t.getElement().isF64();
}

/// Scores x = Σ_d (s·q)·k with k in 16 bits; null if v is something else.
ContractOp scoresOf(Value v) {
  auto dot = v.getDefiningOp<ContractOp>();
  if (!dot || dot.getOver() != Index::d || !dot.getOut().getType().isPair())
    return {};
  return isTokens16(dot.getA()) || isTokens16(dot.getB()) ? dot : ContractOp();
}

struct ToBase2 : flarec::impl::ToBase2Base<ToBase2> {
  /// log2(e)·x, with the factor on the latents' side.
  Value sink(ContractOp dot) {
    OpBuilder b(dot);
    Location loc = dot.getLoc();
    bool latentsFirst = !cast<FlareTensorType>(dot.getA().getType()).getTokens();
    Value latents = latentsFirst ? dot.getA() : dot.getB(), tokens = latentsFirst ? dot.getB() : dot.getA();
    Value factor = arith::ConstantOp::create(b, loc, b.getF32FloatAttr(log2e));
    if (auto scale = latents.getDefiningOp<ScaleOp>()) {
      factor = arith::MulFOp::create(b, loc, scale.getFactor(), factor);
      latents = scale.getA();
    }
    return ContractOp::create(b, loc, ScaleOp::create(b, loc, latents, factor), tokens, Index::d);
  }

  void runOnOperation() override {
    getOperation().walk([&](AttendOp op) {
      ContractOp dot = scoresOf(op.getX());
      if (!dot || op.getBase2())
        return;
      op.getXMutable().assign(sink(dot));
      op.setBase2(true);
      OpBuilder b(op->getContext());
      b.setInsertionPointAfter(op);
      Value ln2 = arith::ConstantOp::create(b, op.getLoc(), b.getF32FloatAttr(std::log(2.0)));
      auto lse = ScaleOp::create(b, op.getLoc(), op.getLse(), ln2);
      op.getLse().replaceAllUsesExcept(lse, lse);
    });
    // 2^(log2(e)·(x - l)) → 2^(x' - log2(e)·l)
    getOperation().walk([&](Exp2Op op) {
      auto scale = op.getA().getDefiningOp<ScaleOp>();
      auto sub = scale ? scale.getA().getDefiningOp<SubOp>() : SubOp();
      ContractOp dot = sub ? scoresOf(sub.getA()) : ContractOp();
      FloatAttr c;
      if (!dot || !matchPattern(scale.getFactor(), m_Constant(&c)) || std::abs(c.getValueAsDouble() - log2e) > 1e-6)
        return;
      OpBuilder b(op);
      Value l = ScaleOp::create(b, op.getLoc(), sub.getB(), scale.getFactor());
      op.getAMutable().assign(SubOp::create(b, op.getLoc(), sink(dot), l));
    });
  }
};
} // namespace
