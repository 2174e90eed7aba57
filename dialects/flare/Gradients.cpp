// Each op's gradient, stated as more `flare` ops (kernels.md, section 2.5; the paper's equations (encode), (decode)).
#include "flare/Flare.h"
#include "mlir/IR/Builders.h"
#include <cmath>

using namespace mlir;
using namespace flarec::flare;

namespace {

/// Small vocabulary for writing formulas. Null stands for "nothing flows".
struct Formula {
  OpBuilder &b;
  Location loc;

  static FlareTensorType type(Value v) { return cast<FlareTensorType>(v.getType()); }
  Value mul(Value x, Value y) { return MulOp::create(b, loc, x, y); }
  Value sub(Value x, Value y) { return SubOp::create(b, loc, x, y); }
  Value add(Value x, Value y) {
    return !x ? y : !y ? x : Value(AddOp::create(b, loc, x, y));
  }
  Value neg(Value x) { return NegOp::create(b, loc, x); }
  Value exp2(Value x) { return Exp2Op::create(b, loc, x); }
  Value scale(Value x, Value s) { return ScaleOp::create(b, loc, x, s); }
  Value sum(Value x, Index i) { return SumOp::create(b, loc, x, i); }
  Value contract(Value x, Value y, Index i) { return ContractOp::create(b, loc, x, y, i); }
  Value number(double v) { return arith::ConstantOp::create(b, loc, b.getF32FloatAttr(v)); }

  /// Sum of x·y (y may be null) over all indices that `like` does not carry.
  Value into(Value like, Value x, Value y = {}) {
    unsigned have = type(x).indices() | (y ? type(y).indices() : 0);
    SmallVector<Index> extra;
    for (Index i : {Index::d, Index::m, Index::n})
      if (have & bit(i) & ~type(like).indices())
        extra.push_back(i);
    Value r = x;
    if (y) {
      // The first index goes into the contraction if both carry it.
      if (!extra.empty() && (type(x).indices() & type(y).indices() & bit(extra.front()))) {
        r = contract(x, y, extra.front());
        extra.erase(extra.begin());
      } else {
        r = mul(x, y);
      }
    }
    for (Index i : extra)
      r = sum(r, i);
    return r;
  }

  /// exp(x - lse). The difference comes first: where one weight is nearly 1 it cancels exactly, as it did in the forward.
  Value exp(Value x, Value lse) { return exp2(scale(sub(x, lse), number(log2e))); }
  Value weights(Value q, Value k, Value s, Value lse) { return exp(contract(scale(q, s), k, Index::d), lse); }

  static constexpr double log2e = 1.4426950408889634;
};

using Grads = SmallVector<Value>;

/// Shared by both halves. With weights P = softmax over i and out[j] = Σ_i P v[i]:
///   dv[i] = Σ_j P·dout[j];  dx = P·(dout[j]·v[i] - δ[j] + dlse[j]),  δ[j] = dout[j]·out[j]
///   dq = s·Σ_n dx·k,  dk = s·Σ_m dx·q
Grads attentionGradient(Formula f, Value q, Value k, Value v, Value s, Value out, Value lse, Value dout,
                        Value dlse, Index over, bool wantQ, bool wantK, bool wantV) {
  Index other = over == Index::n ? Index::m : Index::n;
  Grads g(3);
  if (!dout && !dlse)
    return g;
  Value p = f.weights(q, k, s, lse);
  if (wantV && dout)
    g[2] = f.contract(p, dout, other);
  if (!wantQ && !wantK)
    return g;
  Value dx;
  if (dout) {
    Value delta = f.contract(dout, out, Index::d);
    if (dlse)
      delta = f.sub(delta, dlse);
    dx = f.mul(p, f.sub(f.contract(dout, v, Index::d), delta));
  } else {
    dx = f.mul(p, dlse);
  }
  if (wantQ)
    g[0] = f.scale(f.contract(dx, k, Index::n), s);
  if (wantK)
    g[1] = f.scale(f.contract(dx, q, Index::m), s);
  return g;
}

} // namespace

SmallVector<Value> EncodeOp::buildGradient(OpBuilder &b, ValueRange d, ArrayRef<bool> want) {
  Grads g = attentionGradient({b, getLoc()}, getQ(), getK(), getV(), getScale(), getZ(), getLse(), d[0],
                              d[1], Index::n, want[0], want[1], want[2]);
  return {g[0], g[1], g[2], Value()};
}

SmallVector<Value> DecodeOp::buildGradient(OpBuilder &b, ValueRange d, ArrayRef<bool> want) {
  Grads g = attentionGradient({b, getLoc()}, getQ(), getK(), getZ(), getScale(), getY(), getLse(), d[0],
                              d[1], Index::m, want[1], want[0], want[2]);
  return {g[1], g[0], g[2], Value()};
}

SmallVector<Value> AttendOp::buildGradient(OpBuilder &b, ValueRange d, ArrayRef<bool> want) {
  Formula f{b, getLoc()};
  Index other = getOver() == Index::n ? Index::m : Index::n;
  // With base 2, d(2^x) = ln 2 · 2^x dx, while the log-sum-exp's derivative is P in either.
  Value p = getBase2() ? f.exp2(f.sub(getX(), getLse())) : f.exp(getX(), getLse());
  Grads g(2);
  if (want[0]) {
    Value inner;
    if (d[0])
      inner = f.sub(f.contract(d[0], getV(), Index::d), f.contract(d[0], getOut(), Index::d));
    if (inner && getBase2())
      inner = f.scale(inner, f.number(std::log(2.0)));
    if (d[1])
      inner = f.add(inner, d[1]);
    if (inner)
      g[0] = f.mul(p, inner);
  }
  if (want[1] && d[0])
    g[1] = f.contract(p, d[0], other);
  return g;
}

SmallVector<Value> ContractOp::buildGradient(OpBuilder &b, ValueRange d, ArrayRef<bool> want) {
  Formula f{b, getLoc()};
  return {want[0] ? f.into(getA(), d[0], getB()) : Value(), want[1] ? f.into(getB(), d[0], getA()) : Value()};
}

SmallVector<Value> SumOp::buildGradient(OpBuilder &b, ValueRange d, ArrayRef<bool> want) {
  // Every element gets the sum's gradient: broadcast it against a tensor of ones, 2^(a - a).
  Formula f{b, getLoc()};
  return {f.mul(d[0], f.exp2(f.sub(getA(), getA())))};
}

SmallVector<Value> AddOp::buildGradient(OpBuilder &b, ValueRange d, ArrayRef<bool> want) {
  Formula f{b, getLoc()};
  return {want[0] ? f.into(getA(), d[0]) : Value(), want[1] ? f.into(getB(), d[0]) : Value()};
}

SmallVector<Value> SubOp::buildGradient(OpBuilder &b, ValueRange d, ArrayRef<bool> want) {
  Formula f{b, getLoc()};
  return {want[0] ? f.into(getA(), d[0]) : Value(), want[1] ? f.neg(f.into(getB(), d[0])) : Value()};
}

SmallVector<Value> MulOp::buildGradient(OpBuilder &b, ValueRange d, ArrayRef<bool> want) {
  Formula f{b, getLoc()};
  return {want[0] ? f.into(getA(), d[0], getB()) : Value(), want[1] ? f.into(getB(), d[0], getA()) : Value()};
}

SmallVector<Value> NegOp::buildGradient(OpBuilder &b, ValueRange d, ArrayRef<bool> want) {
  return {Formula{b, getLoc()}.neg(d[0])};
}

SmallVector<Value> Exp2Op::buildGradient(OpBuilder &b, ValueRange d, ArrayRef<bool> want) {
  Formula f{b, getLoc()};
  return {f.scale(f.mul(d[0], getOut()), f.number(std::log(2.0)))};
}

SmallVector<Value> ScaleOp::buildGradient(OpBuilder &b, ValueRange d, ArrayRef<bool> want) {
  return {Formula{b, getLoc()}.scale(d[0], getFactor()), Value()};
}

SmallVector<Value> CastOp::buildGradient(OpBuilder &b, ValueRange d, ArrayRef<bool> want) { return {d[0]}; }
