// flare-share-exponentials: one exponential serves both softmaxes while |x| is bounded (kernels.md 2.5, schedules.md II.3.3).
#include "flare/Flare.h"
#include "passes/Feasible.h"
#include "passes/Passes.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/IRMapping.h"
#include "mlir/IR/PatternMatch.h"
#include "mlir/IR/Dominance.h"
#include "mlir/Transforms/CSE.h"
#include "mlir/Transforms/GreedyPatternRewriteDriver.h"

namespace flarec {
#define GEN_PASS_DEF_SHAREEXPONENTIALS
#include "passes/Passes.h.inc"
} // namespace flarec

using namespace mlir;
using namespace flarec::flare;

namespace {

unsigned indices(Value v) { return cast<FlareTensorType>(v.getType()).indices(); }
bool isPair(Value v) { return cast<FlareTensorType>(v.getType()).isPair(); }

/// The operands of a mul as (pair, factor without a pair); null if it is not of that form.
std::pair<Value, Value> pairTimesFactor(Value v) {
  auto mul = v.getDefiningOp<MulOp>();
  if (!mul || !isPair(mul))
    return {};
  if (isPair(mul.getA()) && !isPair(mul.getB()))
    return {mul.getA(), mul.getB()};
  if (isPair(mul.getB()) && !isPair(mul.getA()))
    return {mul.getB(), mul.getA()};
  return {};
}

/// What an exponential's argument is made of: c·(x - a), c null for 1, with pairs x and a vector a.
struct Exponent {
  Value x, a, c;
  explicit Exponent(Value v) {
    auto scale = v.getDefiningOp<ScaleOp>();
    auto sub = (scale ? scale.getA() : v).getDefiningOp<SubOp>();
    if (!sub || !isPair(sub.getA()) || isPair(sub.getB()))
      return;
    x = sub.getA();
    a = sub.getB();
    if (scale)
      c = scale.getFactor();
  }
};

/// 2^(x-a) → 2^x · 2^-a, for a that carries n or m alone.
struct SplitExponential : OpRewritePattern<Exp2Op> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(Exp2Op op, PatternRewriter &r) const override {
    Exponent exponent(op.getA());
    if (!exponent.x)
      return failure();
    auto times = [&](Value v) { return exponent.c ? Value(ScaleOp::create(r, op.getLoc(), v, exponent.c)) : v; };
    Value e = Exp2Op::create(r, op.getLoc(), times(exponent.x));
    Value factor = Exp2Op::create(r, op.getLoc(), NegOp::create(r, op.getLoc(), times(exponent.a)));
    r.replaceOpWithNewOp<MulOp>(op, e, factor);
    return success();
  }
};

/// Σ_i (e·f_i)·w_i → Σ_i e·(f·w)_i
struct SinkIntoContraction : OpRewritePattern<ContractOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(ContractOp op, PatternRewriter &r) const override {
    for (auto [p, w] : {std::pair(op.getA(), op.getB()), std::pair(op.getB(), op.getA())}) {
      auto [e, f] = pairTimesFactor(p);
      if (!e || isPair(w) || (indices(f) & ~indices(w)) || !(indices(e) & bit(op.getOver())))
        continue;
      Value scaled = MulOp::create(r, op.getLoc(), f, w);
      r.replaceOpWithNewOp<ContractOp>(op, e, scaled, op.getOver());
      return success();
    }
    return failure();
  }
};

/// (2^x·f)·t → 2^x·(f·t) for a pair t
struct Reassociate : OpRewritePattern<MulOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(MulOp op, PatternRewriter &r) const override {
    for (auto [p, t] : {std::pair(op.getA(), op.getB()), std::pair(op.getB(), op.getA())}) {
      auto [e, f] = pairTimesFactor(p);
      // Not (e·f)·e' for another exponential e': it would go round and round.
      if (!e || !e.getDefiningOp<Exp2Op>() || !isPair(t) || t.getDefiningOp<Exp2Op>())
        continue;
      Value inner = MulOp::create(r, op.getLoc(), f, t);
      r.replaceOpWithNewOp<MulOp>(op, e, inner);
      return success();
    }
    return failure();
  }
};

/// f·(t - u) → f·t - f·u, and f·Σ_d a·b → Σ_d (f·a)·b. With rows on the latents a token's factor stays with the pairs: each of its many workers would multiply the token's
/// channels, and split the products in two.
struct SinkScale : OpRewritePattern<MulOp> {
  using OpRewritePattern::OpRewritePattern;

  /// The same for a dot product of rows, f·Σ_d a·b without pairs: it shares f·a with the pairs' contraction, rounded alike.
  LogicalResult dotOfRows(MulOp op, PatternRewriter &r) const {
    for (auto [f, t] : {std::pair(op.getA(), op.getB()), std::pair(op.getB(), op.getA())}) {
      auto dot = t.getDefiningOp<ContractOp>();
      if (!dot || dot.getOver() != Index::d || isPair(t) || indices(f) != indices(t))
        continue;
      Value scaled = MulOp::create(r, op.getLoc(), f, dot.getA());
      r.replaceOpWithNewOp<ContractOp>(op, scaled, dot.getB(), Index::d);
      return success();
    }
    return failure();
  }

  LogicalResult matchAndRewrite(MulOp op, PatternRewriter &r) const override {
    auto [t, f] = pairTimesFactor(op.getOut());
    if (!t)
      return dotOfRows(op, r);
    if ((indices(f) & FlareTensorType::N) && !flarec::orientation(op->getParentOfType<SweepOp>()).tokens)
      return failure();
    if (auto sub = t.getDefiningOp<SubOp>()) {
      Value x = MulOp::create(r, op.getLoc(), f, sub.getA()), y = MulOp::create(r, op.getLoc(), f, sub.getB());
      r.replaceOpWithNewOp<SubOp>(op, x, y);
      return success();
    }
    auto dot = t.getDefiningOp<ContractOp>();
    if (!dot || dot.getOver() != Index::d || (indices(f) & FlareTensorType::D)) // f's d is not the dot's
      return failure();
    for (auto [a, b] : {std::pair(dot.getA(), dot.getB()), std::pair(dot.getB(), dot.getA())}) {
      if (indices(f) & ~indices(a))
        continue;
      Value scaled = MulOp::create(r, op.getLoc(), f, a);
      r.replaceOpWithNewOp<ContractOp>(op, scaled, b, Index::d);
      return success();
    }
    return failure();
  }
};

/// e·a + e·b → e·(a+b)
struct FactorExponential : OpRewritePattern<AddOp> {
  using OpRewritePattern::OpRewritePattern;
  LogicalResult matchAndRewrite(AddOp op, PatternRewriter &r) const override {
    auto a = op.getA().getDefiningOp<MulOp>(), b = op.getB().getDefiningOp<MulOp>();
    if (!a || !b)
      return failure();
    for (Value e : {a.getA(), a.getB()}) {
      if (!e.getDefiningOp<Exp2Op>() || (e != b.getA() && e != b.getB()))
        continue;
      Value x = e == a.getA() ? a.getB() : a.getA(), y = e == b.getA() ? b.getB() : b.getA();
      Value sum = AddOp::create(r, op.getLoc(), x, y);
      r.replaceOpWithNewOp<MulOp>(op, e, sum);
      return success();
    }
    return failure();
  }
};

int64_t channelsOf(SweepOp sweep) {
  int64_t channels = 0;
  sweep.getFast().walk([&](Operation *op) {
    for (Value v : op->getOperands())
      if (auto t = dyn_cast<FlareTensorType>(v.getType()))
        channels = std::max(channels, t.getChannels());
  });
  return channels;
}

bool readsBf16(SweepOp sweep) {
  bool found = false;
  sweep.getFast().walk([&](Operation *op) {
    for (Value v : op->getOperands())
      if (auto t = dyn_cast<FlareTensorType>(v.getType()))
        found |= t.getTokens() && t.getChannels() && t.getElement().isBF16();
  });
  return found;
}

struct ShareExponentials : flarec::impl::ShareExponentialsBase<ShareExponentials> {
  using ShareExponentialsBase::ShareExponentialsBase;
  void runOnOperation() override {
    FrozenRewritePatternSet split = [&] {
      RewritePatternSet set(&getContext());
      set.add<SplitExponential>(&getContext());
      return FrozenRewritePatternSet(std::move(set));
    }();
    FrozenRewritePatternSet sink = [&] {
      RewritePatternSet set(&getContext());
      set.add<SinkIntoContraction, Reassociate, SinkScale, FactorExponential>(&getContext());
      return FrozenRewritePatternSet(std::move(set));
    }();
    DominanceInfo dominance(getOperation());
    getOperation().walk([&](SweepOp sweep) {
      // Worth it where two exponentials differ only in what is subtracted from the same scores.
      llvm::DenseMap<Value, unsigned> scores;
      bool shared = false;
      sweep.getFast().walk([&](Exp2Op e) {
        if (Exponent exponent(e.getA()); exponent.x)
          shared |= ++scores[exponent.x] > 1;
      });
      if (!shared || sweep.hasSafeBody() || (!wide && (!readsBf16(sweep) || channelsOf(sweep) > channels)))
        return;
      OpBuilder b(sweep);
      auto copy = SweepOp::create(b, sweep.getLoc(), sweep.getResultTypes(), sweep.getConfigAttr(), 1);
      IRMapping map;
      sweep.getFast().cloneInto(&copy.getSafe().front(), map);
      copy.getFast().takeBody(sweep.getFast());
      sweep->replaceAllUsesWith(copy);
      sweep.erase();
      IRRewriter rewriter(&getContext());
      for (const FrozenRewritePatternSet &patterns : {split, sink}) {
        SmallVector<Operation *> ops;
        for (Operation &op : copy.getFast().front())
          ops.push_back(&op);
        (void)applyOpPatternsGreedily(
            ops, patterns, GreedyRewriteConfig().setStrictness(GreedyRewriteStrictness::ExistingAndNewOps));
        eliminateCommonSubExpressions(rewriter, dominance, copy);
      }
    });
  }
};
} // namespace
