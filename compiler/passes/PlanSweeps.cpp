// flare-plan-sweeps: from dependences to passes over the tokens.
//
// A value that carries n is made while tokens stream by; a reduction over n is complete only when its sweep has ended. So
//   stage(value) = number of reductions over n on the longest path to it,
// and sweep s makes all token values and reductions of stage s. Values of latents alone are computed between the sweeps.
#include "flare/Flare.h"
#include "passes/Passes.h"
#include "passes/Sizes.h"
#include "passes/StraightLine.h"
#include "passes/tiling/Sweep.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/IRMapping.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/SetVector.h"
#include "llvm/ADT/TypeSwitch.h"

namespace flarec {
#define GEN_PASS_DEF_PLANSWEEPS
#include "passes/Passes.h.inc"
} // namespace flarec

using namespace mlir;
using namespace flarec::flare;

namespace {

FlareTensorType typeOf(Value v) { return dyn_cast<FlareTensorType>(v.getType()); }
bool carriesTokens(Value v) { return typeOf(v) && typeOf(v).getTokens(); }

std::optional<Index> contractedIndex(Operation *op) {
  return TypeSwitch<Operation *, std::optional<Index>>(op)
      .Case<ContractOp, SumOp, AttendOp>([](auto o) { return o.getOver(); })
      .Default([](auto) { return std::nullopt; });
}
bool reducesTokens(Operation *op) { return op && contractedIndex(op) == Index::n; }
bool reducesPairsOverLatents(Operation *op) {
  return contractedIndex(op) == Index::m &&
         llvm::any_of(op->getOperands(), [](Value v) { return typeOf(v) && typeOf(v).isPair(); });
}

struct Planner {
  func::FuncOp func;
  int64_t jointLimit, rowLimit;
  bool host;
  DenseMap<Value, unsigned> stages;
  DenseMap<Value, bool> cheap;

  unsigned stage(Value v) {
    Operation *op = v.getDefiningOp();
    if (!op)
      return 0;
    if (auto it = stages.find(v); it != stages.end())
      return it->second;
    unsigned s = 0;
    for (Value o : op->getOperands())
      s = std::max(s, stage(o));
    if (reducesTokens(op))
      ++s;
    for (Value r : op->getResults())
      stages[r] = s;
    return s;
  }

  /// Can v be had from stored tokens without contracting pairs over latents again, which costs an exponential a score?
  bool isCheap(Value v) {
    Operation *op = v.getDefiningOp();
    if (!op || !carriesTokens(v))
      return true;
    if (auto it = cheap.find(v); it != cheap.end())
      return it->second;
    bool r = !reducesPairsOverLatents(op) && llvm::all_of(op->getOperands(), [&](Value o) { return isCheap(o); });
    return cheap[v] = r;
  }

  /// Walks what a sweep of stage `s` computes to make v, and puts costly token values of earlier stages among the roots: they
  /// are stored there and read here.
  void storeWhatIsCostly(Value v, unsigned s, std::map<unsigned, llvm::SetVector<Value>> &roots, llvm::DenseSet<Value> &seen) {
    Operation *op = v.getDefiningOp();
    if (!op || !seen.insert(v).second)
      return;
    if (carriesTokens(v) && !typeOf(v).isPair() && stage(v) < s && !isCheap(v)) {
      roots[stage(v)].insert(v);
      return;
    }
    for (Value o : op->getOperands())
      if (carriesTokens(o))
        storeWhatIsCostly(o, s, roots, seen);
  }

  LogicalResult run() {
    if (failed(flarec::straightLine(func)))
      return failure();
    Block &body = func.getBody().front();
    auto ret = cast<func::ReturnOp>(body.getTerminator());

    // Roots: what a sweep must leave behind.
    std::map<unsigned, llvm::SetVector<Value>> roots;
    for (Operation &op : body)
      if (reducesTokens(&op))
        for (Value r : op.getResults())
          roots[stage(r) - 1].insert(r);
    for (Value v : ret.getOperands())
      if (v.getDefiningOp() && carriesTokens(v)) {
        if (typeOf(v).isPair())
          return func.emitError("returns a pair value; pair values are never stored");
        roots[stage(v)].insert(v);
      }
    // From the last stage to the first: what is stored for a later sweep may need something stored itself.
    unsigned last = roots.empty() ? 0 : roots.rbegin()->first;
    for (unsigned s = last; s > 0; --s) {
      llvm::DenseSet<Value> seen;
      for (Value v : SmallVector<Value>(roots[s].begin(), roots[s].end()))
        storeWhatIsCostly(v, s, roots, seen);
      if (roots[s].empty())
        roots.erase(s);
    }

    OpBuilder b(ret);
    IRMapping map; // old value → value after planning
    for (Value a : body.getArguments())
      map.map(a, a);
    for (auto &[s, values] : roots) {
      auto groups = splitByOrientation(values.getArrayRef());
      storeSharedDots(groups, map);
      for (auto &group : groups)
        buildSweep(b, group, map);
    }
    SmallVector<Value> results;
    for (Value v : ret.getOperands())
      results.push_back(latent(b, v, map));
    ret->setOperands(results);

    // Everything before the first sweep is dead now.
    for (Operation &op : llvm::make_early_inc_range(llvm::reverse(body)))
      if (op.use_empty() && !op.hasTrait<OpTrait::IsTerminator>() && !isa<SweepOp>(op))
        op.erase();
    return success();
  }

  /// A sweep that contracts over m has its rows on the tokens; contractions over n beside it accumulate [m,d] in registers.
  SmallVector<SmallVector<Value>> splitByOrientation(ArrayRef<Value> values) {
    SmallVector<Value> reductions, maps;
    int64_t size = 0, sharers = 1;
    bool wide = false;
    for (Value v : values) {
      if (!reducesTokens(v.getDefiningOp())) {
        maps.push_back(v);
        continue;
      }
      reductions.push_back(v);
      size += typeOf(v).getLatents() * std::max<int64_t>(8, typeOf(v).getChannels());
      // Of more channels dk and dv alone fill the registers.
      if (typeOf(v).getChannels() <= 32)
        sharers = std::min<int64_t>(flarec::mostSharers(typeOf(v).getLatents()), inBf16() ? 4 : 2);
      for (Value o : v.getDefiningOp()->getOperands())
        wide |= typeOf(o) && !typeOf(o).isPair() && typeOf(o).getElement().isF32();
    }
    // Attentions and sums over n have rows on the latents.
    bool latentRows = llvm::any_of(reductions, [](Value v) { return isa<AttendOp>(v.getDefiningOp()) || flarec::tiling::addsUp(v.getDefiningOp()); });
    SmallVector<SmallVector<Value>> groups = splitByRegisters(maps);
    if (groups.size() <= 1 && (maps.empty() || reductions.empty() || (!latentRows && (host || (size <= jointLimit * sharers && !wide)))))
      return {SmallVector<Value>(values)};
    if (!reductions.empty())
      groups.push_back(reductions);
    return groups;
  }

  /// Numbers Σ_d a·b of tokens, such as the backward's Σ_d dy·y, that two sweeps of a stage make: the first one stores them. With rows on the latents
  /// each of a token's many workers would go through its channels again.
  /// Not of packed sequences: what is stored has a place for every token in each of them.
  void storeSharedDots(MutableArrayRef<SmallVector<Value>> groups, const IRMapping &map) {
    if (llvm::any_of(func.getArguments(), [](Value a) { return typeOf(a) && typeOf(a).isRange(); }))
      return;
    SmallVector<llvm::SetVector<Value>> dots(groups.size());
    for (auto [group, found] : llvm::zip(groups, dots)) {
      llvm::SetVector<Value> work(group.begin(), group.end());
      for (size_t i = 0; i < work.size(); ++i) {
        Operation *op = work[i].getDefiningOp();
        FlareTensorType t = typeOf(work[i]);
        if (!op || map.contains(work[i]))
          continue;
        if (carriesTokens(work[i]) && !t.isPair() && contractedIndex(op) == Index::d)
          found.insert(work[i]);
        for (Value o : op->getOperands())
          if (carriesTokens(o))
            work.insert(o);
      }
    }
    for (size_t i = 0; i < groups.size(); ++i)
      for (Value dot : dots[i])
        for (size_t j = i + 1; j < groups.size(); ++j)
          if (dots[j].remove(dot) && !llvm::is_contained(groups[i], dot))
            groups[i].push_back(dot);
  }

  bool inBf16() {
    return llvm::all_of(func.getArgumentTypes(), [](Type t) {
      auto x = dyn_cast<FlareTensorType>(t);
      return !x || !x.getTokens() || !x.getChannels() || x.getElement().isBF16();
    });
  }

  /// What a sweep accumulates for each of its tokens lies in registers, beside the rows that its scores are made of. Where that is too much, each
  /// contraction over m has a sweep of its own, which computes the scores again.
  SmallVector<SmallVector<Value>> splitByRegisters(ArrayRef<Value> maps) {
    SmallVector<std::pair<llvm::SetVector<Operation *>, SmallVector<Value>>> groups; // contractions over m, and the maps made of them
    int64_t channels = 0;
    llvm::SetVector<Operation *> counted;
    for (Value v : maps) {
      std::pair<llvm::SetVector<Operation *>, SmallVector<Value>> group{contractionsOverLatents(v), {v}};
      for (Operation *op : group.first)
        if (counted.insert(op))
          channels += std::max<int64_t>(1, typeOf(op->getResult(0)).getChannels());
      for (auto it = groups.begin(); it != groups.end();) {
        if (llvm::none_of(it->first, [&](Operation *op) { return group.first.contains(op); })) {
          ++it;
          continue;
        }
        group.first.insert_range(it->first);
        group.second.insert(group.second.begin(), it->second.begin(), it->second.end());
        it = groups.erase(it);
      }
      if (group.first.empty() && !groups.empty()) // costs nothing anywhere
        groups.front().second.push_back(v);
      else
        groups.push_back(std::move(group));
    }
    if (maps.empty())
      return {};
    if (host || channels < (inBf16() ? rowLimit : rowLimit * 2 / 3))
      return {SmallVector<Value>(maps)};
    return llvm::map_to_vector(groups, [](auto &g) { return g.second; });
  }

  /// Those that v is made of in its own sweep.
  llvm::SetVector<Operation *> contractionsOverLatents(Value v) {
    llvm::SetVector<Operation *> found;
    llvm::SetVector<Value> work;
    work.insert(v);
    for (size_t i = 0; i < work.size(); ++i)
      if (Operation *op = work[i].getDefiningOp(); op && carriesTokens(work[i]) && stage(work[i]) == stage(v)) {
        if (reducesPairsOverLatents(op))
          found.insert(op);
        for (Value o : op->getOperands())
          work.insert(o);
      }
    return found;
  }

  /// Copies the ops that make `v` inside a sweep; stops at arguments, latent values and stored token values.
  Value inside(OpBuilder &b, Value v, IRMapping &local, IRMapping &map) {
    if (Value known = local.lookupOrNull(v))
      return known;
    Operation *op = v.getDefiningOp();
    if (!op || (carriesTokens(v) && map.contains(v)))
      return map.lookupOrDefault(v);
    if (!carriesTokens(v) && !reducesTokens(op))
      return latent(b, v, map);
    if (reducesTokens(op) && map.contains(v))
      return map.lookup(v);
    IRMapping operands;
    for (Value o : op->getOperands())
      operands.map(o, inside(b, o, local, map));
    Operation *copy = b.clone(*op, operands);
    for (auto [from, to] : llvm::zip(op->getResults(), copy->getResults()))
      local.map(from, to);
    return local.lookup(v);
  }

  /// A value of latents alone (or a number): computed outside, before the sweep that is being built.
  Value latent(OpBuilder &b, Value v, IRMapping &map) {
    if (Value known = map.lookupOrNull(v))
      return known;
    Operation *op = v.getDefiningOp();
    OpBuilder::InsertionGuard guard(b);
    if (auto sweep = dyn_cast_or_null<SweepOp>(b.getInsertionBlock()->getParentOp()))
      b.setInsertionPoint(sweep);
    IRMapping operands;
    for (Value o : op->getOperands())
      operands.map(o, latent(b, o, map));
    Operation *copy = b.clone(*op, operands);
    for (auto [from, to] : llvm::zip(op->getResults(), copy->getResults()))
      map.map(from, to);
    return map.lookup(v);
  }

  void buildSweep(OpBuilder &b, ArrayRef<Value> values, IRMapping &map) {
    SmallVector<Type> types;
    for (Value v : values)
      types.push_back(v.getType());
    auto sweep = SweepOp::create(b, func.getLoc(), types, Attribute(), 0);
    Block *block = &sweep.getFast().emplaceBlock();
    OpBuilder inner = OpBuilder::atBlockEnd(block);
    IRMapping local;
    SmallVector<Value> yields;
    for (Value v : values)
      yields.push_back(inside(inner, v, local, map));
    YieldOp::create(inner, func.getLoc(), yields);
    for (auto [v, r] : llvm::zip(values, sweep.getResults()))
      map.map(v, r);
  }
};

struct PlanSweeps : flarec::impl::PlanSweepsBase<PlanSweeps> {
  using PlanSweepsBase::PlanSweepsBase;
  void runOnOperation() override {
    for (auto f : getOperation().getOps<func::FuncOp>())
      if (failed(Planner{f, jointLimit, rowLimit, target == "host", {}}.run()))
        return signalPassFailure();
  }
};
} // namespace
