// Questions about a sweep's ops.
#include "passes/tiling/Sweep.h"
#include "passes/StraightLine.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "llvm/ADT/DenseSet.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace flarec;
using namespace flarec::tiling;

bool flarec::tiling::vanishesInPadding(Value v) {
  if (!typeOf(v) || !typeOf(v).getChannels())
    return false;
  Operation *op = v.getDefiningOp();
  if (!op || isa<flare::SweepOp>(op))
    return true;
  auto vanishes = [](Value o) { return vanishesInPadding(o); };
  if (isa<flare::AddOp, flare::SubOp>(op))
    return llvm::all_of(op->getOperands(), vanishes);
  return isa<flare::MulOp, flare::ScaleOp, flare::NegOp, flare::CastOp, flare::ContractOp, flare::AttendOp>(op) && llvm::any_of(op->getOperands(), vanishes);
}

bool flarec::tiling::addsUpPadding(Operation *op, int64_t width) {
  return overOf(op) == Index::d && typeOf(op->getOperand(0)).getChannels() != width &&
         llvm::none_of(op->getOperands(), [](Value o) { return vanishesInPadding(o); });
}

bool tiling::isStored(Value v) {
  return typeOf(v) && (isa<BlockArgument>(v) || v.getDefiningOp<flare::SweepOp>() ||
                       llvm::any_of(v.getUsers(), [](Operation *u) { return isa<func::ReturnOp>(u); }));
}

Index tiling::overOf(Operation *op) {
  return TypeSwitch<Operation *, Index>(op)
      .Case<flare::ContractOp, flare::SumOp, flare::AttendOp>([](auto o) { return o.getOver(); })
      .Default([](auto) { return Index::d; });
}

bool tiling::reduces(Operation *op) {
  return isa<flare::ContractOp, flare::SumOp, flare::AttendOp>(op) && overOf(op) != Index::d &&
         llvm::any_of(op->getOperands(), [](Value v) { return isPair(v); });
}

bool tiling::addsUp(Operation *op) {
  return reduces(op) && !isa<flare::AttendOp>(op) && !typeOf(op->getResult(0)).getChannels();
}

SmallVector<Operation *> tiling::carriedReductions(Region &region) {
  SmallVector<Operation *> r;
  for (Value v : region.front().getTerminator()->getOperands())
    if (Operation *op = v.getDefiningOp(); op && reduces(op) && overOf(op) == Index::n && !llvm::is_contained(r, op))
      r.push_back(op);
  return r;
}

bool tiling::dependsOn(Value v, Operation *op) {
  SmallVector<Value> work{v};
  DenseSet<Operation *> seen;
  while (!work.empty())
    if (Operation *d = work.pop_back_val().getDefiningOp(); d && d->getParentRegion() == op->getParentRegion() && seen.insert(d).second) {
      if (d == op)
        return true;
      work.append(d->operand_begin(), d->operand_end());
    }
  return false;
}

Value tiling::maskOf(flare::SweepOp sweep) { return Presence(sweep->getParentOfType<func::FuncOp>()).mask; }

llvm::SetVector<Value> tiling::tokensRead(flare::SweepOp sweep) {
  llvm::SetVector<Value> r;
  for (Region &region : sweep->getRegions())
    region.walk([&](Operation *op) {
      for (Value v : op->getOperands())
        if (isTokens(v) && isStored(v))
          r.insert(v);
    });
  if (Value mask = maskOf(sweep))
    r.insert(mask);
  return r;
}

int64_t tiling::latentsOf(flare::SweepOp sweep) {
  int64_t latents = 0;
  sweep->walk([&](Operation *op) {
    for (Value v : op->getOperands())
      if (typeOf(v) && typeOf(v).getLatents())
        latents = typeOf(v).getLatents();
  });
  return latents;
}

Type tiling::halfOf(flare::SweepOp sweep, bool host) {
  Type half;
  for (Value t : tokensRead(sweep))
    if (Type e = typeOf(t).getElement(); !e.isF32() && !e.isInteger() && !host)
      half = e;
  return half;
}

FailureOr<Guards> tiling::guarded(Region &fast) {
  Guards r;
  bool ok = true;
  fast.walk([&](Operation *op) {
    Value x;
    if (auto attend = dyn_cast<flare::AttendOp>(op))
      x = attend.getX();
    else if (auto e = dyn_cast<flare::Exp2Op>(op); e && isPair(e)) {
      x = e.getA();
      if (auto scale = x.getDefiningOp<flare::ScaleOp>())
        x = scale.getA();
      if (auto sub = x.getDefiningOp<flare::SubOp>(); sub && isPair(sub.getA()) && isTokens(sub.getB())) {
        // |x - a| ≤ |x| + |a|
        Value a = sub.getB();
        if (auto scale = a.getDefiningOp<flare::ScaleOp>())
          a = scale.getA();
        ok &= isStored(a);
        if (!llvm::is_contained(r.numbers, sub.getB()))
          r.numbers.push_back(sub.getB());
        x = sub.getA();
      }
      if (!x.getDefiningOp<flare::ContractOp>())
        x = {};
    }
    if (!x)
      return;
    auto dot = x.getDefiningOp<flare::ContractOp>();
    if (!dot || dot.getOver() != Index::d) {
      ok = false;
      return;
    }
    Value lat = isLatents(dot.getA()) ? dot.getA() : dot.getB(), tok = isLatents(dot.getA()) ? dot.getB() : dot.getA();
    if (!isStored(tok))
      ok = false;
    Value base = lat;
    if (auto s = base.getDefiningOp<flare::ScaleOp>())
      base = s.getA();
    if (!isStored(base))
      ok = false;
    if (!llvm::is_contained(r.norms, std::pair(lat, tok)))
      r.norms.push_back({lat, tok});
  });
  if (!ok)
    return failure();
  return r;
}

namespace {
bool isStored16(Value v) { return isStored(v) && !typeOf(v).getElement().isF32(); }
constexpr std::pair<Form, Form> splitAddends[] = {{Form::High, Form::Low}, {Form::Low, Form::High}, {Form::High, Form::High}};
} // namespace

bool tiling::fitsHalf(Value v, Type half) {
  if (typeOf(v).getElement() == half)
    return true;
  if (auto sweep = v.getDefiningOp<flare::SweepOp>())
    return fitsHalf(sweep.getFast().front().getTerminator()->getOperand(cast<OpResult>(v).getResultNumber()), half);
  if (auto cast = v.getDefiningOp<flare::CastOp>())
    return fitsHalf(cast.getA(), half);
  auto attend = v.getDefiningOp<flare::AttendOp>();
  return attend && v == attend.getOut() && fitsHalf(attend.getV(), half);
}

bool tiling::hasWeightsF16(Operation *op, Type half) {
  auto attend = dyn_cast<flare::AttendOp>(op);
  return attend && half && half.isF16() && fitsHalf(attend.getV(), half);
}

SafeReference tiling::safeReference(Operation *attend, Type half) {
  if (hasWeightsF16(attend, half))
    return {true, -7};
  return {bool(half), half ? 60.0 : 0};
}

FastAttention tiling::fastAttention(Operation *attend, Type half, double limit) {
  if (hasWeightsF16(attend, half))
    return {std::min(limit, 14.9), -1};
  if (half && half.isBF16())
    return {limit + 28, 28};
  return {limit, 0};
}

bool tiling::splitsPairs(Operation *op, Type half) { return half && half.isF16() && isa<flare::AttendOp>(op) && !hasWeightsF16(op, half); }

namespace {
/// How many exponentials are multiplied in each term of pairs; -1: terms differ. `sums`: are there terms to be added?
int exponentialsIn(Value v, bool &sums) {
  if (!isPair(v))
    return 0;
  return llvm::TypeSwitch<Operation *, int>(v.getDefiningOp())
      .Case<flare::Exp2Op>([](flare::Exp2Op op) { // of x - a, whose a can take a number more
        auto sub = op.getA().getDefiningOp<flare::SubOp>();
        return sub && isPair(sub.getA()) && !isPair(sub.getB()) && sub->hasOneUse() ? 1 : -1;
      })
      .Case<flare::ContractOp>([](auto) { return 0; })
      .Case<flare::NegOp, flare::ScaleOp>([&](auto op) { return exponentialsIn(op->getOperand(0), sums); })
      .Case([&](flare::MulOp op) {
        int a = exponentialsIn(op.getA(), sums), b = exponentialsIn(op.getB(), sums);
        return a < 0 || b < 0 ? -1 : a + b;
      })
      .Case<flare::AddOp, flare::SubOp>([&](auto op) {
        int a = exponentialsIn(op.getA(), sums), b = exponentialsIn(op.getB(), sums);
        sums |= a > 0 && b > 0;
        return a == b ? a : -1;
      })
      .Default([](Operation *) { return -1; });
}
} // namespace

bool tiling::needsHeadroom(flare::SweepOp sweep, Type half) {
  bool sums = false;
  if (!half || !half.isF16())
    return false;
  for (Operation &op : sweep.getFast().front())
    if (reduces(&op)) {
      if (!isa<flare::ContractOp>(op))
        return false;
      for (Value v : op.getOperands())
        if (isPair(v) && exponentialsIn(v, sums) != 1)
          return false;
    }
  return sums;
}

SmallVector<std::pair<Form, Form>> tiling::addendsOf(Operation *reduction, Type half) {
  if (splitsPairs(reduction, half))
    return SmallVector<std::pair<Form, Form>>(ArrayRef(splitAddends));
  Form form = half ? Form::Round : Form::Wide;
  return {{form, form}};
}

SmallVector<std::pair<Form, Form>> tiling::addendsOf(Value x, Value y, Type half) {
  if (half && half.isF16() && formsOf(x, half).size() + formsOf(y, half).size() > 2) // f16 and bf16 do not meet in a product
    return SmallVector<std::pair<Form, Form>>(ArrayRef(splitAddends));
  SmallVector<std::pair<Form, Form>> r;
  for (Form f : formsOf(x, half))
    for (Form g : formsOf(y, half))
      if (f != Form::Low || g != Form::Low) // that one is below the last bit kept
        r.push_back({f, g});
  return r;
}

bool tiling::isRounded(Value v, Type half) {
  if (!half || !isLatents(v) || formsOf(v, half).size() != 1)
    return false;
  return llvm::any_of(v.getUsers(), [&](Operation *u) {
    auto dot = dyn_cast<flare::ContractOp>(u);
    return dot && (isPair(dot.getOut()) || isPair(dot.getA()) || isPair(dot.getB()));
  });
}

SmallVector<Form> tiling::formsOf(Value v, Type half) {
  if (!half)
    return {Form::Wide};
  Operation *op = v.getDefiningOp();
  if (op && isa<flare::MulOp>(op) &&
      llvm::any_of(op->getOperands(), [&](Value x) { return typeOf(x) && isStored16(x); }))
    return {Form::High, Form::Low};
  return {Form::Round};
}

std::optional<Scaled> tiling::scaledStored(Value v, Type half) {
  auto scale = v.getDefiningOp<flare::ScaleOp>();
  if (!half || !scale || !isStored(scale.getA()) || typeOf(scale.getA()).getElement() != half)
    return std::nullopt;
  return Scaled{scale.getA(), scale.getFactor()};
}

bool tiling::isVersioned(flare::SweepOp sweep) {
  bool attends = false;
  sweep.getFast().walk([&](flare::AttendOp) { attends = true; });
  if (attends || sweep.hasSafeBody())
    return true;
  auto config = dyn_cast_or_null<tile::ConfigAttr>(sweep.getConfigAttr());
  if (!config)
    return false;
  auto [kind, share] = config.getExponentials();
  auto guards = guarded(sweep.getFast());
  return (kind == tile::Exponentials::Poly3 || kind == tile::Exponentials::Bits) && share && succeeded(guards) && !guards->norms.empty();
}

namespace {
/// Follows pairs from the reductions that consume them to their operands.
struct OperandWalk {
  Type half;
  tile::ConfigAttr config;
  SmallVector<std::pair<Value, Use>> found;
  DenseSet<std::pair<Value, int>> known;
  DenseSet<Value> seen;

  void use(Value v, Role role, Form form) {
    Use u = keptFor({role, form}, config, false);
    if (isLatents(v) && known.insert({v, u.key()}).second)
      found.push_back({v, u});
  }
  void pair(Value v) {
    if (!isPair(v))
      return use(v, Role::Vector, Form::Wide);
    if (!seen.insert(v).second)
      return;
    Operation *op = v.getDefiningOp();
    if (auto dot = dyn_cast<flare::ContractOp>(op)) { // over d: scores
      Value x = dot.getA(), y = dot.getB();
      for (Value *v : {&x, &y})
        if (auto scaled = scaledStored(*v, half))
          *v = scaled->stored;
      for (auto [f, g] : addendsOf(x, y, half)) {
        use(x, Role::Score, f);
        use(y, Role::Score, g);
      }
      return;
    }
    for (Value o : op->getOperands())
      if (typeOf(o))
        pair(o);
  }
  void reduction(Operation *op) {
    // With rows = n columns are latents, so a weight of latents is one of columns.
    auto weight = [&](Value w) {
      for (auto [pairs, form] : addendsOf(op, half))
        use(w, Role::ColumnWeight, form);
    };
    if (auto attend = dyn_cast<flare::AttendOp>(op)) {
      pair(attend.getX());
      weight(attend.getV());
    } else {
      for (Value o : op->getOperands())
        isPair(o) ? pair(o) : addsUp(op) ? use(o, Role::Vector, Form::Wide) : weight(o);
    }
  }
};
} // namespace

Use tiling::keptFor(Use use, tile::ConfigAttr config, bool host) {
  if (host || (config.hasGroups() && use.role == Role::ColumnWeight))
    use.role = Role::Score;
  return use;
}

SmallVector<std::pair<Value, Use>> tiling::latentOperands(flare::SweepOp sweep, Type half, tile::ConfigAttr config, bool onlyFast) {
  bool versioned = isVersioned(sweep);
  auto guards = guarded(sweep.getFast());
  bool hasGuards = succeeded(guards) && !guards->norms.empty();
  Region &fast = sweep.getFast(), &safe = sweep.hasSafeBody() ? sweep.getSafe().front() : fast;
  SmallVector<Region *> emitted;
  if (!versioned || hasGuards)
    emitted.push_back(&fast);
  if (versioned && !llvm::is_contained(emitted, &safe) && !(onlyFast && hasGuards))
    emitted.push_back(&safe);
  OperandWalk walk{half, config, {}, {}, {}};
  for (Region *r : emitted)
    for (Operation &op : r->front())
      if (reduces(&op))
        walk.reduction(&op);
  return walk.found;
}
