// flare-simplify: factor sums of contractions and of scaled values.
#include "flare/Flare.h"
#include "passes/Passes.h"
#include "passes/StraightLine.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/PatternMatch.h"
#include "mlir/Transforms/GreedyPatternRewriteDriver.h"
#include "mlir/Transforms/CSE.h"
#include "mlir/IR/Dominance.h"

namespace flarec {
#define GEN_PASS_DEF_SIMPLIFY
#include "passes/Passes.h.inc"
} // namespace flarec

using namespace mlir;
using namespace flarec::flare;

namespace {

/// Σ_i a·w + Σ_i b·w → Σ_i (a+b)·w
struct FactorContraction : OpRewritePattern<AddOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(AddOp op, PatternRewriter &r) const override {
    auto a = op.getA().getDefiningOp<ContractOp>(), b = op.getB().getDefiningOp<ContractOp>();
    if (!a || !b || a.getOver() != b.getOver())
      return failure();
    for (Value w : {a.getA(), a.getB()}) {
      if (w != b.getA() && w != b.getB())
        continue;
      Value x = w == a.getA() ? a.getB() : a.getA(), y = w == b.getA() ? b.getB() : b.getA();
      if (cast<FlareTensorType>(x.getType()).indices() != cast<FlareTensorType>(y.getType()).indices())
        continue;
      Value sum = AddOp::create(r, op.getLoc(), x, y);
      r.replaceOpWithNewOp<ContractOp>(op, sum, w, a.getOver());
      return success();
    }
    return failure();
  }
};

/// s·a + s·b → s·(a+b)
struct FactorScale : OpRewritePattern<AddOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(AddOp op, PatternRewriter &r) const override {
    auto a = op.getA().getDefiningOp<ScaleOp>(), b = op.getB().getDefiningOp<ScaleOp>();
    if (!a || !b || a.getFactor() != b.getFactor())
      return failure();
    Value sum = AddOp::create(r, op.getLoc(), a.getA(), b.getA());
    r.replaceOpWithNewOp<ScaleOp>(op, sum, a.getFactor());
    return success();
  }
};

struct Simplify : flarec::impl::SimplifyBase<Simplify> {
  void runOnOperation() override {
    for (auto f : getOperation().getOps<func::FuncOp>())
      if (failed(flarec::straightLine(f)))
        return signalPassFailure();
    RewritePatternSet patterns(&getContext());
    patterns.add<FactorContraction, FactorScale>(&getContext());
    DominanceInfo dominance(getOperation());
    IRRewriter rewriter(&getContext());
    for (Operation &f : getOperation().getOps())
      eliminateCommonSubExpressions(rewriter, dominance, &f);
    (void)applyPatternsGreedily(getOperation(), std::move(patterns)); // what is left undone is right, too
    for (Operation &f : getOperation().getOps())
      eliminateCommonSubExpressions(rewriter, dominance, &f);
  }
};
} // namespace
