// flare-to-tile: each function becomes a tile.program, each sweep a kernel (passes/tiling), each reduction over tokens a merge.
#include "passes/Feasible.h"
#include "passes/Passes.h"
#include "passes/Registers.h"
#include "passes/StraightLine.h"
#include "passes/tiling/Kernel.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/BuiltinOps.h"

namespace flarec {
#define GEN_PASS_DEF_FLARETOTILE
#include "passes/Passes.h.inc"
} // namespace flarec

using namespace mlir;
using namespace flarec;
using namespace flarec::tiling;

namespace {

struct ProgramBuilder {
  func::FuncOp func;
  double limit;
  StringRef target;
  bool host;
  Storage storage;
  tile::ProgramOp program;
  Block *block = nullptr;
  SmallVector<Attribute> descriptions;
  unsigned kernels = 0;

  Value addArgument(OpBuilder &b, Type t, StringRef name, StringRef role, SmallVector<NamedAttribute> extra = {}) {
    extra.push_back(b.getNamedAttr("name", b.getStringAttr(name)));
    extra.push_back(b.getNamedAttr("role", b.getStringAttr(role)));
    descriptions.push_back(b.getDictionaryAttr(extra));
    return block->addArgument(t, func.getLoc());
  }

  LogicalResult run() {
    if (failed(flarec::straightLine(func)))
      return failure();
    OpBuilder b(func);
    Location loc = func.getLoc();
    Block &body = func.getBody().front();
    auto ret = cast<func::ReturnOp>(body.getTerminator());
    program = tile::ProgramOp::create(b, loc, func.getName(), b.getArrayAttr({}));
    block = &program.getRegion().emplaceBlock();

    SmallVector<flare::SweepOp> sweeps(body.getOps<flare::SweepOp>());
    auto name = [&](unsigned i, bool result) {
      auto a = result ? func.getResultAttrOfType<StringAttr>(i, "flare.name") : func.getArgAttrOfType<StringAttr>(i, "flare.name");
      return a ? a.str() : (result ? "result" : "arg") + std::to_string(i);
    };
    for (auto [i, a] : llvm::enumerate(func.getArguments()))
      if (typeOf(a) && !isTokens(a) && !isLatents(a) && !typeOf(a).isRange())
        return func.emitError() << "argument " << i << " is " << a.getType() << "; tensors in memory are of tokens or of latents";
    if (sweeps.empty())
      return func.emitError("returns nothing that depends on tokens, so it has no kernels");
    for (auto [i, a] : llvm::enumerate(func.getArguments()))
      if (typeOf(a))
        storage.tensor[a] = addArgument(b, a.getType(), name(i, false), "input");
    // Results: a latent result may also be read by later sweeps.
    SmallVector<Value> resultTensors;
    for (auto [i, v] : llvm::enumerate(ret.getOperands())) {
      if (storage.tensor.count(v) || !v.getDefiningOp())
        return func.emitError() << "result " << i << " is an argument or is returned twice; return each value once";
      if (!isTokens(v) && !isLatents(v))
        return func.emitError() << "result " << i << " is " << v.getType() << ", without tokens or latents; a kernel has rows of either";
      if (!lastSweep(v))
        return func.emitError() << "result " << i << " depends on no tokens, so no kernel computes it; compute it outside";
      SmallVector<NamedAttribute> extra;
      if (isLatents(v) && name(i, true).rfind("grad_", 0) == 0)
        extra.push_back(b.getNamedAttr("reduced", b.getUnitAttr()));
      resultTensors.push_back(storage.tensor[v] = addArgument(b, v.getType(), name(i, true), "result", extra));
    }
    // Workspace: partials of each sweep, and latent values that later sweeps read.
    SmallVector<SmallVector<Value>> partials(sweeps.size());
    for (auto [s, sweep] : llvm::enumerate(sweeps)) {
      if (!sweep.getConfigAttr() || !isa<tile::ConfigAttr>(sweep.getConfigAttr()))
        return sweep.emitOpError("has no #tile.config; run flare-configure first");
      auto config = cast<tile::ConfigAttr>(sweep.getConfigAttr());
      std::string why;
      if (failed(feasible(config, sweep, target, why)))
        return sweep.emitOpError() << "cannot be run as configured: " << why;
      int64_t copies = config.getRows() == Index::n ? config.getRowWorkers() : 1;
      auto yields = sweep.getFast().front().getTerminator()->getOperands();
      DenseSet<Operation *> seen;
      for (auto [i, y] : llvm::enumerate(yields)) {
        Operation *op = y.getDefiningOp();
        if (isTokens(y)) {
          if (!storage.tensor.count(sweep.getResult(i)))
            storage.tensor[sweep.getResult(i)] = addArgument(b, y.getType(), "tokens_" + std::to_string(s) + "_" + std::to_string(i), "workspace");
          continue;
        }
        if (!op || !reduces(op))
          return sweep.emitOpError("yields a latent value that is no reduction over tokens");
        if (!storage.tensor.count(sweep.getResult(i)) && isReadLater(sweep.getResult(i)))
          storage.tensor[sweep.getResult(i)] = addArgument(b, y.getType(), "latents_" + std::to_string(s) + "_" + std::to_string(i), "workspace");
        if (!seen.insert(op).second)
          continue;
        auto t = typeOf(op->getResult(0));
        int64_t rows = config.getRows() == Index::m ? t.getLatents() : blocksOf(t.getLatents()) * tile::blockSize * copies;
        auto add = [&](int64_t channels, StringRef what) {
          auto type = FlareTensorType::get(b.getContext(), false, rows, channels, b.getF32Type());
          partials[s].push_back(addArgument(b, type, what.str() + "_" + std::to_string(s) + "_" + std::to_string(i), "workspace",
              {b.getNamedAttr("sweep", b.getI64IntegerAttr(s)), b.getNamedAttr("copies", b.getI64IntegerAttr(copies))}));
        };
        add(t.getChannels(), "partial");
        if (isa<flare::AttendOp>(op)) {
          add(0, "partial_sum");
          add(0, "partial_reference");
        }
      }
    }
    for (auto [i, a] : llvm::enumerate(func.getArguments()))
      if (!typeOf(a))
        storage.numbers[a] = addArgument(b, a.getType(), name(i, false), "scalar");
    program.setTensorsAttr(b.getArrayAttr(descriptions));

    for (auto [s, sweep] : llvm::enumerate(sweeps)) {
      auto [kernel, kb, origin] = addKernel(b, "sweep", s, cast<tile::ConfigAttr>(sweep.getConfigAttr()));
      OpBuilder builder = kb;
      if (failed(SweepBuilder(builder, sweep, storage, limit, host, origin).build(partials[s])))
        return failure();
      if (failed(buildMerge(b, s, sweep, partials[s], ret)))
        return failure();
    }
    if (failed(storage.status))
      return failure();
    func.erase();
    return success();
  }

  /// Is a sweep's latent result read by a later sweep, or its merge?
  bool isReadLater(Value v) {
    SmallVector<Value> work{v};
    DenseSet<Value> seen;
    while (!work.empty()) {
      Value x = work.pop_back_val();
      for (Operation *u : x.getUsers()) {
        if (u->getParentOfType<flare::SweepOp>())
          return true;
        for (Value r : u->getResults()) {
          if (lastSweep(r) != v.getDefiningOp())
            return true; // by another sweep's merge
          if (seen.insert(r).second)
            work.push_back(r);
        }
      }
    }
    return false;
  }

  std::tuple<tile::KernelOp, OpBuilder, Value> addKernel(OpBuilder &b, StringRef kind, int64_t sweep, tile::ConfigAttr config) {
    OpBuilder kb = OpBuilder::atBlockEnd(block);
    auto kernel = tile::KernelOp::create(kb, func.getLoc(), (kind + "_" + Twine(kernels++)).str(), kind, sweep, config);
    Block *body = &kernel.getRegion().emplaceBlock();
    Value origin = body->addArgument(b.getIndexType(), func.getLoc());
    return {kernel, OpBuilder::atBlockEnd(body), origin};
  }

  /// Finishes sweep s: merges partials, computes latent results that have become complete.
  LogicalResult buildMerge(OpBuilder &b, int64_t s, flare::SweepOp sweep, ArrayRef<Value> partials, func::ReturnOp ret) {
    if (partials.empty())
      return success();
    auto [kernel, kb, origin] = addKernel(b, "merge", s, {});
    Location loc = func.getLoc();
    Value at = origin;
    OpBuilder &k = kb;
    DenseMap<Value, Value> merged;
    // On a GPU a warp's lanes are shared out over the widest of the function's latents.
    int64_t channels = 0;
    for (BlockArgument a : block->getArguments())
      if (auto t = typeOf(a); t && t.getLatents() && t.getChannels())
        channels = std::max(channels, padded(t.getChannels(), host));
    int64_t rows = host ? hostMergeRows : mergeRows(channels);
    auto tileOf = [&](FlareTensorType t) {
      return TileType::get(k.getContext(), 0, rows, t.getChannels() ? padded(t.getChannels(), host) : 0, k.getF32Type(), {});
    };
    unsigned next = 0;
    DenseMap<Operation *, SmallVector<Value>> byOp;
    auto yields = sweep.getFast().front().getTerminator()->getOperands();
    for (auto [i, y] : llvm::enumerate(yields)) {
      if (isTokens(y))
        continue;
      Operation *op = y.getDefiningOp();
      auto &values = byOp[op];
      if (values.empty()) {
        auto t = typeOf(op->getResult(0));
        if (isa<flare::AttendOp>(op)) {
          auto merge = tile::MergeOp::create(k, loc, tileOf(t), tileOf(typeOf(op->getResult(1))), partials[next], partials[next + 1],
                                             partials[next + 2], at, !cast<flare::AttendOp>(op).getBase2());
          values = {merge.getResult(), merge.getLse()};
          next += 3;
        } else {
          values = {tile::MergeSumOp::create(k, loc, tileOf(t), partials[next], at, isReduced(sweep.getResult(i)))};
          next += 1;
        }
      }
      merged[sweep.getResult(i)] = values[cast<OpResult>(y).getResultNumber()];
    }
    Expressions eval{k, loc, storage, [&](Value v) -> Value {
      if (Value m = merged.lookup(v))
        return m;
      // Arguments and what earlier merges stored; other results are being computed here.
      if (Value t = storage.tensor.lookup(v); t && (isa<BlockArgument>(v) || v.getDefiningOp<flare::SweepOp>()))
        return tile::LoadOp::create(k, loc, tileOf(typeOf(v)), t, at);
      return {};
    }};
    llvm::SetVector<Value> stores;
    for (Value r : sweep.getResults())
      if (isLatents(r) && storage.tensor.count(r))
        stores.insert(r);
    for (Value r : ret.getOperands())
      if (isLatents(r) && lastSweep(r) == sweep.getOperation())
        stores.insert(r);
    for (Value v : stores) {
      Value source = v;
      if (auto cast = v.getDefiningOp<flare::CastOp>())
        source = cast.getA();
      tile::StoreOp::create(k, loc, eval.eval(source), storage.tensor.lookup(v), at, false);
    }
    return success();
  }

  /// Does v end in a result that is the gradient of shared latents?
  bool isReduced(Value v) {
    auto ret = func.getBody().front().getTerminator();
    for (auto [i, r] : llvm::enumerate(ret->getOperands())) {
      auto a = func.getResultAttrOfType<StringAttr>(i, "flare.name");
      if (!isLatents(r) || !a || !a.getValue().starts_with("grad_"))
        continue;
      SmallVector<Value> work{r};
      while (!work.empty()) {
        Value x = work.pop_back_val();
        if (x == v)
          return true;
        if (Operation *op = x.getDefiningOp(); op && !isa<flare::SweepOp>(op))
          work.append(op->operand_begin(), op->operand_end());
      }
    }
    return false;
  }

  /// The last sweep that a latent value depends on.
  Operation *lastSweep(Value v) {
    Operation *last = nullptr;
    SmallVector<Value> work{v};
    while (!work.empty()) {
      Operation *op = work.pop_back_val().getDefiningOp();
      if (!op)
        continue;
      if (isa<flare::SweepOp>(op)) {
        if (!last || last->isBeforeInBlock(op))
          last = op;
        continue;
      }
      work.append(op->operand_begin(), op->operand_end());
    }
    return last;
  }
};

struct FlareToTile : flarec::impl::FlareToTileBase<FlareToTile> {
  using FlareToTileBase::FlareToTileBase;
  void runOnOperation() override {
    for (func::FuncOp f : llvm::make_early_inc_range(getOperation().getOps<func::FuncOp>())) {
      ProgramBuilder p{f, limit, target, target == "host"};
      if (failed(p.run()))
        return signalPassFailure();
    }
  }
};
} // namespace
