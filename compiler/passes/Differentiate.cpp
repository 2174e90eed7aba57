// flare-differentiate: forward-with-saves and backward of every flare function.
#include "flare/Flare.h"
#include "passes/Passes.h"
#include "passes/StraightLine.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/IRMapping.h"
#include "mlir/Transforms/RegionUtils.h"
#include "mlir/IR/PatternMatch.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/ADT/TypeSwitch.h"

namespace flarec {
#define GEN_PASS_DEF_DIFFERENTIATE
#include "passes/Passes.h.inc"
} // namespace flarec

using namespace mlir;
using namespace flarec::flare;

namespace {

bool isTensor(Value v) { return isa<FlareTensorType>(v.getType()); }
/// Not of integers, which say what tokens there are.
bool isOfNumbers(Value v) { return isTensor(v) && !cast<FlareTensorType>(v.getType()).getElement().isInteger(); }
bool isStorable(Value v) { return isTensor(v) && !cast<FlareTensorType>(v.getType()).isPair(); }

/// Results that cost a pass over tokens or latents: saved rather than computed again.
bool isSaved(OpResult v) {
  if (!isStorable(v))
    return false;
  return TypeSwitch<Operation *, bool>(v.getOwner())
      .Case<EncodeOp, DecodeOp, AttendOp>([](auto) { return true; })
      .Case<flarec::flare::ContractOp, flarec::flare::SumOp>([](auto op) { return op.getOver() != Index::d; })
      .Default([](auto) { return false; });
}

std::string nameOf(OpResult v) {
  return TypeSwitch<Operation *, std::string>(v.getOwner())
      .Case<EncodeOp>([&](auto) { return v.getResultNumber() ? "lse_encode" : "z"; })
      .Case<DecodeOp>([&](auto) { return v.getResultNumber() ? "lse_decode" : "y"; })
      .Default([&](auto) { return "saved"; });
}

struct Names {
  llvm::StringSet<> used;
  std::string unique(std::string name) {
    std::string r = name;
    for (int i = 1; !used.insert(r).second; ++i)
      r = name + "_" + std::to_string(i);
    return r;
  }
};

struct Differentiate : flarec::impl::DifferentiateBase<Differentiate> {
  using DifferentiateBase::DifferentiateBase;

  void runOnOperation() override {
    for (func::FuncOp f : llvm::make_early_inc_range(getOperation().getOps<func::FuncOp>()))
      if (failed(differentiate(f)))
        return signalPassFailure();
  }

  LogicalResult differentiate(func::FuncOp f) {
    if (failed(flarec::straightLine(f)))
      return failure();
    OpBuilder b(f);
    Names names;
    SmallVector<std::string> argNames, resultNames;
    for (unsigned i = 0; i < f.getNumArguments(); ++i) {
      auto attr = f.getArgAttrOfType<StringAttr>(i, "flare.name");
      argNames.push_back(names.unique(attr ? attr.str() : "arg" + std::to_string(i)));
    }
    auto ret = cast<func::ReturnOp>(f.getBody().front().getTerminator());
    for (Value v : ret.getOperands()) {
      auto r = dyn_cast<OpResult>(v);
      resultNames.push_back(names.unique(r ? nameOf(r) : "result"));
    }

    // Forward: the same function, which also returns what is worth saving.
    func::FuncOp fwd = f.clone();
    fwd.setName((f.getName() + "_forward").str());
    b.insert(fwd);
    auto fwdRet = cast<func::ReturnOp>(fwd.getBody().front().getTerminator());
    SmallVector<Value> outputs(fwdRet.getOperands());
    SmallVector<std::string> outputNames(resultNames.begin(), resultNames.end());
    SmallVector<std::pair<unsigned, unsigned>> saves; // op number, result number
    unsigned opNumber = 0;
    for (Operation &op : fwd.getBody().front()) {
      for (OpResult r : op.getResults())
        if (isSaved(r) && !llvm::is_contained(fwdRet.getOperands(), Value(r))) {
          outputs.push_back(r);
          outputNames.push_back(names.unique(nameOf(r)));
          saves.push_back({opNumber, r.getResultNumber()});
        }
      ++opNumber;
    }
    fwdRet->setOperands(outputs);
    fwd.setType(b.getFunctionType(f.getArgumentTypes(), ValueRange(outputs).getTypes()));
    describe(fwd, argNames, outputNames);

    if (!wanted.empty() && failed(buildBackward(f, argNames, resultNames, outputNames, saves)))
      return failure();
    f.erase();
    return success();
  }

  LogicalResult buildBackward(func::FuncOp f, ArrayRef<std::string> argNames, ArrayRef<std::string> resultNames,
                              ArrayRef<std::string> outputNames, ArrayRef<std::pair<unsigned, unsigned>> saves) {
    OpBuilder b(f);
    auto ret = cast<func::ReturnOp>(f.getBody().front().getTerminator());
    SmallVector<bool> wantArg;
    if (failed(parseWanted(f, argNames, wantArg)))
      return failure();

    // Arguments: gradients of results, tensors, results, saves, numbers.
    SmallVector<Type> types(ret.getOperandTypes());
    SmallVector<std::string> names;
    for (auto &n : resultNames)
      names.push_back("grad_" + n);
    auto add = [&](Type t, StringRef n) {
      types.push_back(t);
      names.push_back(n.str());
      return unsigned(types.size() - 1);
    };
    SmallVector<unsigned> position(f.getNumArguments());
    for (auto [i, a] : llvm::enumerate(f.getArguments()))
      if (isTensor(a))
        position[i] = add(a.getType(), argNames[i]);
    unsigned firstResult = types.size();
    for (auto [i, v] : llvm::enumerate(ret.getOperands()))
      add(v.getType(), resultNames[i]);
    unsigned firstSave = types.size();
    SmallVector<Operation *> ops;
    for (Operation &op : f.getBody().front())
      ops.push_back(&op);
    for (auto [i, s] : llvm::enumerate(saves))
      add(ops[s.first]->getResult(s.second).getType(), outputNames[resultNames.size() + i]);
    for (auto [i, a] : llvm::enumerate(f.getArguments()))
      if (!isTensor(a))
        position[i] = add(a.getType(), argNames[i]);

    auto bwd = func::FuncOp::create(b, f.getLoc(), (f.getName() + "_backward").str(), b.getFunctionType(types, {}));
    Block *body = bwd.addEntryBlock();
    b.setInsertionPointToStart(body);

    // The forward again, saved values replaced by arguments; what is left unused is erased below.
    IRMapping map;
    for (auto [i, a] : llvm::enumerate(f.getArguments()))
      map.map(a, body->getArgument(position[i]));
    for (Operation *op : ArrayRef(ops).drop_back()) {
      Operation *copy = b.clone(*op, map);
      (void)copy;
    }
    SmallVector<std::pair<Value, Value>> replace;
    for (auto [i, v] : llvm::enumerate(ret.getOperands()))
      if (v.getDefiningOp())
        replace.push_back({map.lookup(v), body->getArgument(firstResult + i)});
    for (auto [i, s] : llvm::enumerate(saves))
      replace.push_back({map.lookup(Value(ops[s.first]->getResult(s.second))), body->getArgument(firstSave + i)});

    // Reverse accumulation.
    DenseMap<Value, Value> grad;
    auto accumulate = [&](Value v, Value g) {
      if (!g)
        return;
      Value &slot = grad[v];
      slot = slot ? Value(AddOp::create(b, f.getLoc(), slot, g)) : g;
    };
    for (auto [i, v] : llvm::enumerate(ret.getOperands()))
      accumulate(map.lookup(v), body->getArgument(i));
    // Only what leads to a wanted argument is differentiated.
    DenseSet<Value> active;
    for (auto [i, a] : llvm::enumerate(f.getArguments()))
      if (wantArg[i])
        active.insert(map.lookup(a));
    SmallVector<Operation *> copies;
    for (Operation &op : *body) {
      copies.push_back(&op);
      if (llvm::any_of(op.getOperands(), [&](Value v) { return active.contains(v); }))
        active.insert(op.getResults().begin(), op.getResults().end());
    }
    for (Operation *op : llvm::reverse(copies)) {
      SmallVector<Value> resultGrads;
      for (Value r : op->getResults())
        resultGrads.push_back(grad.lookup(r));
      if (llvm::none_of(resultGrads, [](Value v) { return bool(v); }))
        continue;
      SmallVector<bool> want;
      for (Value v : op->getOperands())
        want.push_back(isTensor(v) && active.contains(v));
      if (llvm::none_of(want, [](bool w) { return w; }))
        continue;
      auto diff = dyn_cast<DifferentiableOpInterface>(op);
      if (!diff)
        return op->emitError("has no gradient: it does not implement DifferentiableOpInterface");
      for (auto [v, g] : llvm::zip(op->getOperands(), diff.buildGradient(b, resultGrads, want)))
        accumulate(v, g);
    }

    SmallVector<Value> results;
    SmallVector<std::string> gradNames, without, with;
    for (auto [i, a] : llvm::enumerate(f.getArguments())) {
      if (!wantArg[i])
        continue;
      Value g = grad.lookup(map.lookup(a));
      (g ? with : without).push_back(argNames[i]);
      if (!g)
        continue;
      if (g.getType() != a.getType())
        g = CastOp::create(b, f.getLoc(), a.getType(), g);
      results.push_back(g);
      gradNames.push_back("grad_" + argNames[i]);
    }
    if (!without.empty()) {
      bool many = without.size() > 1;
      auto error = f.emitError() << "no result depends on argument" << (many ? "s '" : " '") << llvm::join(without, "', '")
                                 << "', so there is no gradient for " << (many ? "them; " : "it; ");
      if (with.empty())
        return error << "ask for the forward alone";
      return error << "ask for gradients of " << llvm::join(with, ",") << " only";
    }
    func::ReturnOp::create(b, f.getLoc(), results);
    for (auto [from, to] : replace)
      from.replaceAllUsesWith(to);
    bwd.setType(b.getFunctionType(types, ValueRange(results).getTypes()));
    IRRewriter rewriter(b.getContext());
    (void)runRegionDCE(rewriter, bwd->getRegions());
    describe(bwd, names, gradNames);
    return success();
  }

  LogicalResult parseWanted(func::FuncOp f, ArrayRef<std::string> argNames, SmallVector<bool> &want) {
    SmallVector<StringRef> list;
    StringRef(wanted).split(list, ',', -1, false);
    for (auto [i, a] : llvm::enumerate(f.getArguments()))
      want.push_back((isOfNumbers(a) && wanted == "*") || (isTensor(a) && llvm::is_contained(list, StringRef(argNames[i]))));
    if (wanted != "*")
      for (StringRef w : list)
        if (!llvm::is_contained(argNames, w))
          return f.emitError() << "a gradient is wanted for '" << w << "', but the arguments are "
                               << llvm::join(argNames, ", ");
    return success();
  }

  static void describe(func::FuncOp f, ArrayRef<std::string> args, ArrayRef<std::string> results) {
    OpBuilder b(f.getContext());
    for (auto [i, n] : llvm::enumerate(args))
      f.setArgAttr(i, "flare.name", b.getStringAttr(n));
    for (auto [i, n] : llvm::enumerate(results))
      f.setResultAttr(i, "flare.name", b.getStringAttr(n));
  }
};

} // namespace
