// What f16's five bits of exponent ask of a sweep: headroom for the sum of two softmaxes' gradients, and references that keep weights in range.
#include "passes/tiling/PairBody.h"
#include "mlir/Dialect/SCF/IR/SCF.h"

using namespace flarec;
using namespace flarec::tiling;

void SweepBuilder::makeHeadroom() {
  Value norm;
  llvm::SetVector<Value> latents;
  sweep.walk([&](flare::ContractOp op) {
    for (Value v : op->getOperands())
      if (isLatents(v) && isStored(v) && typeOf(v).getElement().isF32())
        latents.insert(v);
  });
  for (Value v : latents) {
    Value one = tile::MaxNormOp::create(b, loc, b.getF32Type(), storage.tensor.lookup(v));
    norm = norm ? Value(arith::MaximumFOp::create(b, loc, norm, one)) : one;
  }
  if (!norm)
    return;
  auto number = [&](double x) { return arith::ConstantOp::create(b, loc, b.getF32FloatAttr(x)); };
  Value large = arith::CmpFOp::create(b, loc, arith::CmpFPredicate::OGT, norm, number(largeNorm));
  headroom = arith::SelectOp::create(b, loc, large, number(1), number(0));
  headroomFactor = arith::SelectOp::create(b, loc, large, number(2), number(1));
}

Value SweepBuilder::withoutHeadroom(Value t) {
  return headroom ? Value(tile::ScaleOp::create(b, loc, t.getType(), t, headroomFactor)) : t;
}

// Of an attention over latents in f16 a token's reference is estimated from its norm: the largest of M random scores N(0, 1) is about √(2 ln M) - 1/2 where the bound
// ‖q‖·‖k‖, of the longest of M latents, is about √D (√D + 2), in the same unit √D: their ratio times the bound of this token, less 4, which puts the largest score in
// the middle of f16's range. If all rows' sums turn out to be in range it was good enough: no weight is infinite, and the largest has lost no bits. Otherwise the tile is
// done again, safely. So it is where x - reference may be below -126, by |x| ≤ bound.
SmallVector<Value> SweepBuilder::emitEstimated(Region &region, const Guards &guards, ValueRange factors) {
  DenseMap<Operation *, Value> estimates;
  DenseMap<Operation *, double> most; // of the references
  for (Operation &op : region.front()) {
    auto attend = dyn_cast<flare::AttendOp>(op);
    if (!attend)
      continue;
    auto dot = attend.getX().getDefiningOp<flare::ContractOp>();
    auto norm = llvm::find_if(guards.norms, [&](auto &pair) { return pair.second == dot.getA() || pair.second == dot.getB(); });
    Value tokens = norm->second, factor = factors[norm - guards.norms.begin()];
    if (auto scale = tokens.getDefiningOp<flare::ScaleOp>())
      tokens = scale.getA();
    Value stage = stages.lookup(storage.tensor.lookup(tokens));
    auto type = cast<tile::StageType>(stage.getType());
    TileType wide = tileOf(rowCount(), 0, type.getD(), f32()), number = tileOf(rowCount(), 0, 0, f32());
    auto times = [&](Value x, Value f) { return tile::ScaleOp::create(b, loc, x.getType(), x, f); };
    auto constant = [&](double x) { return arith::ConstantOp::create(b, loc, b.getF32FloatAttr(x)); };
    Value k = tile::ReadOp::create(b, loc, wide.withElement(type.getElement()), stage, workerRow);
    k = tile::CastOp::create(b, loc, wide, k);
    Value square = tile::ReduceOp::create(b, loc, number, tile::MulOp::create(b, loc, wide, k, k), Index::d, "add");
    square = times(times(square, factor), factor);
    Value bound = tile::Exp2Op::create(b, loc, number, times(tile::Log2Op::create(b, loc, number, square), constant(0.5))); // the root
    double share = std::max(0.3, std::sqrt(2 * std::log(double(latents))) - 0.5) / (std::sqrt(double(typeOf(tokens).getChannels())) + 2);
    estimates[&op] = tile::AddOp::create(b, loc, number, times(bound, constant(share)), splat(number, -4));
    most[&op] = 120 * share / (1 + share);
  }
  Value good; // a condition in the making
  auto demand = [&](Value x, double low, double high) {
    Value within = tile::WithinOp::create(b, loc, b.getI1Type(), x, b.getF32FloatAttr(low), b.getF32FloatAttr(high));
    good = good ? Value(arith::AndIOp::create(b, loc, good, within)) : within;
  };
  SmallVector<Type> types = {b.getI1Type()}; // did it work? Then the state
  SmallVector<Value> none = {arith::ConstantOp::create(b, loc, b.getBoolAttr(false))};
  for (Operation &op : region.front())
    if (estimates.contains(&op)) {
      demand(estimates[&op], -4, most[&op]);
      llvm::append_range(types, stateTypes(&op));
      llvm::append_range(none, initialState(&op));
    }
  // Not tried at all where it cannot work: large scores take one pass then, not two.
  auto tried = scf::IfOp::create(b, loc, types, good, true);
  Version version;
  {
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToEnd(tried.thenBlock());
    version = emitPairs(region, false, {}, &estimates);
    good = {};
    SmallVector<Value> all;
    for (auto &state : version.state) {
      demand(tile::TotalOp::create(b, loc, state[1].getType(), state[1]), 0x1p-8, 0x1p+100);
      llvm::append_range(all, state);
    }
    all.insert(all.begin(), good);
    scf::YieldOp::create(b, loc, all);
    b.setInsertionPointToEnd(tried.elseBlock());
    scf::YieldOp::create(b, loc, none);
  }
  version.begin = tried;
  auto branch = scf::IfOp::create(b, loc, ArrayRef(types).drop_front(), tried.getResult(0), true);
  {
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToEnd(branch.thenBlock());
    scf::YieldOp::create(b, loc, tried.getResults().drop_front());
    b.setInsertionPointToEnd(branch.elseBlock());
    SmallVector<Value> again;
    for (auto &state : emitPairs(region, true, {}, nullptr).state)
      llvm::append_range(again, state);
    scf::YieldOp::create(b, loc, again);
  }
  unsigned next = 0;
  for (auto &state : version.state)
    for (Value &v : state)
      v = branch.getResult(next++);
  return finish(region, version);
}
