// The dense evaluator; see Evaluator.h.
#include "evaluator/Evaluator.h"
#include "flare/Flare.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "llvm/ADT/APFloat.h"
#include "llvm/ADT/DenseMap.h"
#include "llvm/ADT/TypeSwitch.h"
#include <cmath>
#include <functional>
#include <limits>
#include <numbers>
#include <optional>

using namespace mlir;
using namespace flarec;
using namespace flarec::flare;

int64_t Array::size(const std::vector<int64_t> &shape) {
  int64_t s = 1;
  for (int64_t e : shape)
    s *= e;
  return s;
}

Array flarec::sumOverBatch(const Array &a) {
  Array r = a;
  if (a.shape.empty())
    return r;
  r.shape[0] = 1;
  r.data.assign(Array::size(r.shape), 0.0);
  for (size_t i = 0; i < a.data.size(); ++i)
    r.data[i % r.data.size()] += a.data[i];
  return r;
}

namespace {

constexpr int axes = 5; // b, h, n, m, d
enum { atN = 2, atM = 3, atD = 4 };
int axisOf(Index i) { return atN + int(i); }

/// A value over all five axes; one that it lacks has extent 1 and is repeated (its step is 0).
struct Dense {
  int64_t extent[axes] = {1, 1, 1, 1, 1};
  bool carries[axes] = {false, false, false, false, false};
  std::vector<double> data;

  void allocate() {
    int64_t s = 1;
    for (int64_t e : extent)
      s *= e;
    data.assign(s, 0.0);
  }
  /// Steps for a walk over a larger space.
  void steps(int64_t (&step)[axes]) const {
    int64_t s = 1;
    for (int a = axes - 1; a >= 0; --a) {
      bool repeated = a < atN ? extent[a] == 1 : !carries[a];
      step[a] = repeated ? 0 : s;
      s *= extent[a];
    }
  }
};

/// The space that several values span. Sizes agree where the types do; n and B are checked here.
struct Space {
  int64_t extent[axes] = {1, 1, 1, 1, 1};
  bool carries[axes] = {false, false, false, false, false};
  bool agree = true;

  explicit Space(std::initializer_list<const Dense *> values) {
    for (const Dense *v : values)
      for (int a = 0; a < axes; ++a) {
        if (a < atN ? v->extent[a] == 1 : !v->carries[a])
          continue;
        agree &= extent[a] == v->extent[a] || (a < atN ? extent[a] == 1 : !carries[a]);
        extent[a] = v->extent[a];
        carries[a] = true;
      }
  }
  Dense value(int without = -1) const {
    Dense r;
    for (int a = 0; a < axes; ++a)
      if (a != without) {
        r.extent[a] = extent[a];
        r.carries[a] = carries[a];
      }
    r.allocate();
    return r;
  }
  /// Calls f with the positions in x, y and z for each point.
  template <class F> void each(const Dense &x, const Dense &y, const Dense &z, F f) const {
    int64_t sx[axes], sy[axes], sz[axes];
    x.steps(sx), y.steps(sy), z.steps(sz);
    int64_t i[axes];
    for (i[0] = 0; i[0] < extent[0]; ++i[0])
      for (i[1] = 0; i[1] < extent[1]; ++i[1])
        for (i[2] = 0; i[2] < extent[2]; ++i[2])
          for (i[3] = 0; i[3] < extent[3]; ++i[3]) {
            int64_t px = 0, py = 0, pz = 0;
            for (int a = 0; a < atD; ++a)
              px += i[a] * sx[a], py += i[a] * sy[a], pz += i[a] * sz[a];
            for (i[4] = 0; i[4] < extent[4]; ++i[4], px += sx[4], py += sy[4], pz += sz[4])
              f(px, py, pz);
          }
  }
};

double roundTo(double v, Type element) {
  llvm::APFloat f(v);
  bool inexact;
  f.convert(cast<FloatType>(element).getFloatSemantics(), llvm::APFloat::rmNearestTiesToEven, &inexact);
  f.convert(llvm::APFloat::IEEEdouble(), llvm::APFloat::rmNearestTiesToEven, &inexact);
  return f.convertToDouble();
}

class Machine {
public:
  explicit Machine(const EvaluatorOptions &options) : options(options) {}

  FailureOr<std::vector<Array>> run(func::FuncOp f, ArrayRef<Array> arguments) {
    if (!f.getBody().hasOneBlock())
      return f.emitError("a flare function is one block of straight-line ops");
    if (arguments.size() != f.getNumArguments())
      return f.emitError() << "takes " << f.getNumArguments() << " arguments, got " << arguments.size();
    for (auto [v, a] : llvm::zip(f.getArguments(), arguments))
      if (failed(bind(f, v, a)))
        return failure();
    if (failed(findPresent(f)))
      return failure();
    Block &body = f.getBody().front();
    if (failed(run(body)))
      return failure();
    std::vector<Array> results;
    for (Value v : body.getTerminator()->getOperands())
      results.push_back(store(v));
    return results;
  }

private:
  EvaluatorOptions options;
  DenseMap<Value, Dense> values;
  int64_t tokens = -1;
  std::optional<Dense> present; // [b, n]: 1 where a token is there; none: all are

  /// From the arguments of integers (dialects/flare/FlareDialect.td).
  LogicalResult findPresent(func::FuncOp f) {
    for (Value v : f.getArguments()) {
      auto t = dyn_cast<FlareTensorType>(v.getType());
      if (!t || (!t.isRange() && !t.isMask()))
        continue;
      const Dense &given = values[v];
      Dense all;
      all.extent[atN] = std::max<int64_t>(0, tokens);
      all.carries[atN] = true;
      all.data.assign(all.extent[atN], 1.0);
      Space space({&given, present ? &*present : &all});
      if (given.extent[1] != 1 || !space.agree)
        return f.emitError() << "argument of type " << t << " has not the batch of the other, or not 1 as the number of heads";
      Dense r = space.value(atD);
      int64_t n = r.extent[atN];
      for (int64_t i = 0; i < int64_t(r.data.size()); ++i) {
        int64_t b = i / n, known = present ? (present->extent[0] == 1 ? i % n : i) : -1;
        int64_t of = given.extent[0] == 1 ? 0 : b;
        bool there = t.isMask() ? given.data[of * n + i % n] != 0 : given.data[2 * of] <= i % n && i % n < given.data[2 * of + 1];
        r.data[i] = there && (known < 0 || present->data[known] != 0);
      }
      present = std::move(r);
    }
    return success();
  }

  /// x with `fill` for tokens that are not there, whatever they were.
  Dense ofPresent(const Dense &x, double fill) {
    if (!present || !x.carries[atN])
      return x;
    Space space({&x, &*present});
    Dense r = space.value();
    space.each(x, *present, r, [&](int64_t i, int64_t p, int64_t k) { r.data[k] = present->data[p] ? x.data[i] : fill; });
    return r;
  }

  LogicalResult bind(func::FuncOp f, BlockArgument v, const Array &a) {
    auto wrong = [&](const std::string &what) {
      return f.emitError() << "argument " << v.getArgNumber() << " of type " << v.getType() << " " << what;
    };
    if (int64_t(a.data.size()) != Array::size(a.shape))
      return wrong("has " + std::to_string(a.data.size()) + " elements, its shape asks for " +
                   std::to_string(Array::size(a.shape)));
    Dense d;
    if (auto t = dyn_cast<FlareTensorType>(v.getType())) {
      int64_t sizes[3] = {tokens, t.getLatents(), t.getChannels()};
      size_t at = 2;
      size_t rank = 2 + t.getTokens() + (t.getLatents() > 0) + (t.getChannels() > 0);
      if (a.shape.size() != rank)
        return wrong("needs " + std::to_string(rank) + " dimensions (B, H, then n, m, d), got " + std::to_string(a.shape.size()));
      d.extent[0] = a.shape[0], d.extent[1] = a.shape[1];
      for (int i = 0; i < 3; ++i) {
        if (!(t.indices() >> i & 1))
          continue;
        if (i == 0 && tokens < 0)
          sizes[0] = tokens = a.shape[at];
        if (a.shape[at] != sizes[i])
          return wrong(std::string("has ") + std::to_string(a.shape[at]) + " " + "nmd"[i] + ", not " + std::to_string(sizes[i]));
        d.extent[atN + i] = a.shape[at++];
        d.carries[atN + i] = true;
      }
    } else if (!a.shape.empty()) {
      return wrong("is a number, its shape is empty");
    }
    d.data = a.data;
    values[v] = std::move(d);
    return success();
  }

  Array store(Value v) {
    Dense d = ofPresent(values[v], 0);
    Array a;
    if (isa<FlareTensorType>(v.getType())) {
      a.shape = {d.extent[0], d.extent[1]};
      for (int i = atN; i < axes; ++i)
        if (d.carries[i])
          a.shape.push_back(d.extent[i]);
    }
    a.data = d.data;
    return a;
  }

  LogicalResult run(Block &block) {
    for (Operation &op : block.without_terminator())
      if (failed(run(op)))
        return failure();
    return success();
  }

  void set(Value v, Dense d) {
    if (options.round && isa<EncodeOp, DecodeOp, CastOp>(v.getDefiningOp()))
      for (double &x : d.data)
        x = roundTo(x, cast<FlareTensorType>(v.getType()).getElement());
    values[v] = std::move(d);
  }

  double number(Value v) { return values[v].data.front(); }

  LogicalResult elementwise(Operation &op, Value a, Value b, function_ref<double(double, double)> f) {
    const Dense &x = values[a], &y = values[b];
    Space space({&x, &y});
    if (!space.agree)
      return op.emitError("operands differ in B, H or the number of tokens");
    Dense r = space.value();
    space.each(x, y, r, [&](int64_t i, int64_t j, int64_t k) { r.data[k] = f(x.data[i], y.data[j]); });
    set(op.getResult(0), std::move(r));
    return success();
  }

  LogicalResult contract(Operation &op, Value a, Value b, Index over) {
    Dense x = over == Index::n ? ofPresent(values[a], 0) : values[a], y = over == Index::n ? ofPresent(values[b], 0) : values[b];
    Space space({&x, &y});
    if (!space.agree)
      return op.emitError("operands differ in B, H or the number of tokens");
    Dense r = space.value(axisOf(over));
    space.each(x, y, r, [&](int64_t i, int64_t j, int64_t k) { r.data[k] += x.data[i] * y.data[j]; });
    set(op.getResult(0), std::move(r));
    return success();
  }

  /// out[j] = Σ_i softmax_i(x·unit) v[i], lse[j] in units of 1/unit, for scores x in base e^unit.
  LogicalResult attend(Operation &op, Dense x, Dense v, Index over, double unit) {
    int i = axisOf(over);
    bool some = over == Index::n && present.has_value();
    if (some) {
      x = ofPresent(x, -std::numeric_limits<double>::infinity());
      v = ofPresent(v, 0);
    }
    Space scores({&x});
    Dense top = scores.value(i), sum = top, lse = top;
    std::fill(top.data.begin(), top.data.end(), -std::numeric_limits<double>::infinity());
    scores.each(x, x, top, [&](int64_t p, int64_t, int64_t t) {
      double &best = top.data[t];
      best = std::isnan(x.data[p]) || x.data[p] > best ? x.data[p] : best; // a NaN stays: nothing is greater
    });
    Dense weight = x;
    scores.each(x, weight, top, [&](int64_t p, int64_t w, int64_t t) {
      bool none = some && x.data[p] == top.data[t] && std::isinf(top.data[t]) && top.data[t] < 0; // no token at all
      weight.data[w] = none ? 0 : std::exp(unit * (x.data[p] - top.data[t]));
      sum.data[t] += weight.data[w];
    });
    for (size_t t = 0; t < lse.data.size(); ++t)
      lse.data[t] = std::log(sum.data[t]) / unit + top.data[t];
    scores.each(x, weight, sum, [&](int64_t, int64_t w, int64_t t) { weight.data[w] /= sum.data[t]; });
    if (some)
      weight = ofPresent(weight, 0);
    Space space({&weight, &v});
    if (!space.agree)
      return op.emitError("operands differ in B, H or the number of tokens");
    Dense out = space.value(i);
    space.each(weight, v, out, [&](int64_t w, int64_t p, int64_t o) { out.data[o] += weight.data[w] * v.data[p]; });
    set(op.getResult(0), std::move(out));
    set(op.getResult(1), std::move(lse));
    return success();
  }

  /// encode and decode, by the paper's equations.
  LogicalResult attention(Operation &op, Value q, Value k, Value v, Value scale, Index over) {
    const Dense &a = values[q], &b = values[k];
    Space space({&a, &b});
    if (!space.agree)
      return op.emitError("operands differ in B, H or the number of tokens");
    Dense x = space.value(atD);
    space.each(a, b, x, [&](int64_t i, int64_t j, int64_t p) { x.data[p] += a.data[i] * b.data[j]; });
    for (double &s : x.data)
      s *= number(scale);
    return attend(op, x, values[v], over, 1.0);
  }

  LogicalResult sweep(SweepOp op) {
    Region &region = options.safe && op.hasSafeBody() ? op.getSafe().front() : op.getFast();
    Block &body = region.front();
    if (failed(run(body)))
      return failure();
    for (auto [r, v] : llvm::zip(op.getResults(), body.getTerminator()->getOperands())) {
      Dense d = values[v];
      values[r] = std::move(d);
    }
    return success();
  }

  LogicalResult constant(arith::ConstantOp op) {
    auto attr = dyn_cast<FloatAttr>(op.getValue());
    if (!attr)
      return op.emitError("only f32 constants have a value here");
    double v = attr.getValueAsDouble();
    for (double exact : {std::numbers::log2e, std::numbers::ln2})
      if (v == double(float(exact)))
        v = exact;
    Dense d;
    d.data = {v};
    values[op.getResult()] = d;
    return success();
  }

  LogicalResult numbers(Operation &op, function_ref<double(double, double)> f) {
    Dense d;
    d.data = {f(number(op.getOperand(0)), number(op.getOperand(op.getNumOperands() - 1)))};
    values[op.getResult(0)] = d;
    return success();
  }

  LogicalResult run(Operation &op) {
    using LR = LogicalResult;
    return TypeSwitch<Operation *, LR>(&op)
        .Case([&](EncodeOp o) { return attention(op, o.getQ(), o.getK(), o.getV(), o.getScale(), Index::n); })
        .Case([&](DecodeOp o) { return attention(op, o.getQ(), o.getK(), o.getZ(), o.getScale(), Index::m); })
        .Case([&](AttendOp o) { return attend(op, values[o.getX()], values[o.getV()], o.getOver(), o.getBase2() ? std::numbers::ln2 : 1.0); })
        .Case([&](flarec::flare::ContractOp o) { return contract(op, o.getA(), o.getB(), o.getOver()); })
        .Case([&](flarec::flare::SumOp o) {
          Dense one;
          one.data = {1.0};
          Dense x = o.getOver() == Index::n ? ofPresent(values[o.getA()], 0) : values[o.getA()];
          Space space({&x});
          Dense r = space.value(axisOf(o.getOver()));
          space.each(x, one, r, [&](int64_t i, int64_t, int64_t k) { r.data[k] += x.data[i]; });
          set(o.getOut(), std::move(r));
          return success();
        })
        .Case([&](AddOp o) { return elementwise(op, o.getA(), o.getB(), [](double x, double y) { return x + y; }); })
        .Case([&](SubOp o) { return elementwise(op, o.getA(), o.getB(), [](double x, double y) { return x - y; }); })
        .Case([&](MulOp o) { return elementwise(op, o.getA(), o.getB(), [](double x, double y) { return x * y; }); })
        .Case([&](NegOp o) { return elementwise(op, o.getA(), o.getA(), [](double x, double) { return -x; }); })
        .Case([&](Exp2Op o) { return elementwise(op, o.getA(), o.getA(), [](double x, double) { return std::exp2(x); }); })
        .Case([&](ScaleOp o) {
          double s = number(o.getFactor());
          return elementwise(op, o.getA(), o.getA(), [&](double x, double) { return s * x; });
        })
        .Case([&](CastOp o) { return elementwise(op, o.getA(), o.getA(), [](double x, double) { return x; }); })
        .Case([&](SweepOp o) { return sweep(o); })
        .Case([&](arith::ConstantOp o) { return constant(o); })
        .Case([&](arith::MulFOp) { return numbers(op, [](double x, double y) { return x * y; }); })
        .Case([&](arith::AddFOp) { return numbers(op, [](double x, double y) { return x + y; }); })
        .Case([&](arith::SubFOp) { return numbers(op, [](double x, double y) { return x - y; }); })
        .Case([&](arith::DivFOp) { return numbers(op, [](double x, double y) { return x / y; }); })
        .Case([&](arith::NegFOp) { return numbers(op, [](double x, double) { return -x; }); })
        .Default([&](Operation *o) -> LR { return o->emitError("has no value in the evaluator: it is not a flare op on tensors"); });
  }
};

} // namespace

FailureOr<std::vector<Array>> flarec::evaluate(func::FuncOp function, ArrayRef<Array> arguments,
                                               const EvaluatorOptions &options) {
  return Machine(options).run(function, arguments);
}
