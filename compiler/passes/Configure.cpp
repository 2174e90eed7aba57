// flare-configure: the heuristic author of a sweep's configuration.
#include "flare/Flare.h"
#include "passes/Passes.h"
#include "tile/Tile.h"
#include "mlir/IR/BuiltinOps.h"
#include "llvm/ADT/SetVector.h"

namespace flarec {
#define GEN_PASS_DEF_CONFIGURE
#include "passes/Passes.h.inc"
} // namespace flarec

using namespace mlir;
using namespace flarec;
using flare::FlareTensorType;
using flare::Index;

namespace {

FlareTensorType typeOf(Value v) { return dyn_cast<FlareTensorType>(v.getType()); }
int64_t roundUp(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

/// What a sweep holds and moves, counted from its ops.
struct Demand {
  bool contractsLatents = false; // pairs over m: rows are tokens
  bool half = false;             // 16-bit tokens
  int64_t latents = 0, channels = 0;
  int64_t tokenBytes = 0;   // staged, a token and head
  int64_t scoreTerms = 0;   // addends of contractions over d, 16-bit counting
  int64_t weights = 0;      // contractions of pairs
  int64_t columnState = 0;  // contractions over n beside contractions over m
  int64_t attends = 0;
};

Demand measure(flare::SweepOp sweep) {
  Demand d;
  llvm::SetVector<Value> tokens;
  for (Region &r : sweep->getRegions())
    r.walk([&](Operation *op) {
      for (Value v : op->getOperands())
        if (auto t = typeOf(v)) {
          d.latents = std::max(d.latents, t.getLatents());
          d.channels = std::max(d.channels, t.getChannels());
          if (t.getTokens() && !t.isPair() && v.getParentRegion() != &r)
            tokens.insert(v);
        }
    });
  sweep.getFast().walk([&](Operation *op) {
    auto contracts = [&](Index over, Value x) {
      if (!typeOf(x).isPair())
        return;
      ++d.weights;
      if (over == Index::m)
        d.contractsLatents = true;
      else
        ++d.columnState;
    };
    if (auto c = dyn_cast<flare::ContractOp>(op)) {
      if (c.getOver() == Index::d && c.getOut().getType().isPair())
        d.scoreTerms += 2;
      else if (c.getOver() != Index::d)
        contracts(c.getOver(), typeOf(c.getA()).isPair() ? c.getA() : c.getB());
    } else if (auto a = dyn_cast<flare::AttendOp>(op)) {
      ++d.attends;
      contracts(a.getOver(), a.getX());
    } else if (auto s = dyn_cast<flare::SumOp>(op); s && s.getOver() != Index::d) {
      contracts(s.getOver(), s.getA());
    }
  });
  for (Value v : tokens) {
    auto t = typeOf(v);
    int64_t size = t.getElement().getIntOrFloatBitWidth() / 8;
    d.half |= size == 2;
    d.tokenBytes += std::max<int64_t>(1, roundUp(t.getChannels(), 8)) * size;
  }
  return d;
}

struct Configure : flarec::impl::ConfigureBase<Configure> {
  using ConfigureBase::ConfigureBase;
  void runOnOperation() override {
    if (target != "host" && target != "sm_80" && target != "sm_90a" && target != "sm_100a") {
      getOperation().emitError() << "unknown target '" << target << "'; known are host, sm_80, sm_90a, sm_100a";
      return signalPassFailure();
    }
    getOperation().walk([&](flare::SweepOp sweep) {
      if (!sweep.getConfigAttr())
        sweep.setConfigAttr(gpu(measure(sweep)));
    });
  }

  tile::ConfigAttr gpu(const Demand &d) {
    MLIRContext *ctx = &getContext();
    auto text = [&](StringRef s) { return StringAttr::get(ctx, s); };
    int64_t units = roundUp(d.channels, 8) / 8, wide = d.half ? 1 : 2;
    int64_t latents = roundUp(d.latents, 16);
    int64_t multiprocessors = target == "sm_80" ? 108 : target == "sm_100a" ? 148 : 132;
    int64_t tile = 64, heads, groups = 1, workers = 1, workerRows, stages = 3, minBlocks = 2;
    int64_t sharedBudget = (target == "sm_80" ? 160 : 220) * 1024;
    StringRef park = "shared";
    if (!d.contractsLatents) {
      // Registers of 16 latents: operands of scores, accumulators, sums and references.
      int64_t perBlock = units * wide * 2 * d.scoreTerms + units * 4 * d.weights + 6 * d.attends;
      int64_t most = std::max<int64_t>(1, (d.half ? 116 : 96) / perBlock);
      workerRows = 16 * std::min<int64_t>(most, latents / 16);
      int64_t needed = (latents + workerRows - 1) / workerRows;
      workers = std::min<int64_t>(needed, 8);
      // Even shares: no worker without latents.
      groups = (needed + workers - 1) / workers;
      workers = (needed + groups - 1) / groups;
      workerRows = roundUp((latents + workers * groups - 1) / (workers * groups), 16);
      heads = workers >= 5 ? 1 : workers >= 3 ? 2 : workers == 2 ? 4 : 8;
    } else {
      // Latent operands of a head parked in shared memory: about one tile for each score term and weight.
      int64_t perHead = latents * units * 16 * wide * (d.scoreTerms + d.weights);
      workerRows = d.columnState ? 16 : 32;
      if (units * wide * (d.scoreTerms + d.weights) > 24)
        workerRows = 16;
      heads = 4;
      while (heads > 1 && heads * perHead > 64 * 1024)
        heads /= 2;
      workers = 8 / heads;
      if (perHead > 150 * 1024)
        park = "none";
      if (perHead > 64 * 1024)
        minBlocks = 1;
      tile = workers * workerRows;
      if (park == "shared")
        sharedBudget -= heads * perHead * minBlocks;
    }
    // The ring of staged tokens.
    auto ring = [&] { return stages * tile * (heads * d.tokenBytes + 64) * minBlocks; };
    while (ring() > sharedBudget && stages > 2)
      --stages;
    while (ring() > sharedBudget && tile > 16 && !d.contractsLatents)
      tile /= 2;
    while (ring() > sharedBudget && minBlocks > 1)
      --minBlocks;
    while (ring() > sharedBudget && d.contractsLatents && workers > 1) {
      workers /= 2;
      tile = workers * workerRows;
    }
    int64_t unroll = d.contractsLatents && !d.columnState ? 4 : 0;
    return tile::ConfigAttr::get(ctx, d.contractsLatents ? Index::n : Index::m, tile, heads, groups, workers, workerRows,
                                 stages, unroll, multiprocessors * minBlocks, text(d.half ? "mma" : "add"), text("mufu"), text(park),
                                 minBlocks);
  }
};
} // namespace
