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
  bool safe = false;             // has a safe body with operands of its own
  int64_t latents = 0, channels = 0;
  int64_t tokenBytes = 0;   // staged, a token and head
  int64_t scoreTerms = 0;   // addends of contractions over d, 16-bit counting
  int64_t weights = 0;      // contractions of pairs
  int64_t columnState = 0;  // contractions over n beside contractions over m
  int64_t attends = 0;
  int64_t vectors = 0;      // latent numbers that meet pairs elementwise
  int64_t tokenTensors = 0;
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
    } else if (isa<flare::AddOp, flare::SubOp, flare::MulOp>(op) && typeOf(op->getResult(0)).isPair()) {
      for (Value v : op->getOperands())
        d.vectors += typeOf(v).getLatents() && !typeOf(v).getTokens();
    } else if (auto s = dyn_cast<flare::SumOp>(op); s && s.getOver() != Index::d) {
      contracts(s.getOver(), s.getA());
    }
  });
  d.tokenTensors = tokens.size();
  d.safe = sweep.hasSafeBody();
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
        sweep.setConfigAttr(target == "host" ? host(measure(sweep)) : gpu(measure(sweep)));
    });
  }

  /// Registers of a lane as ptxas was seen to need them for these kernels (tests/ptx holds the budgets): a fixed part, and so many
  /// for each block of 16 rows. From them follow the threads of a block and the blocks of an SM: 2 × 256 threads leave 128 registers,
  /// 3 × 128 leave 168, 2 × 128 leave 255.
  tile::ConfigAttr gpu(const Demand &d) {
    MLIRContext *ctx = &getContext();
    auto text = [&](StringRef s) { return StringAttr::get(ctx, s); };
    int64_t units = roundUp(d.channels, 8) / 8, latents = roundUp(d.latents, 16);
    int64_t multiprocessors = target == "sm_80" ? 108 : target == "sm_100a" ? 148 : 132;
    int64_t shared = (target == "sm_80" ? 160 : 220) * 1024;
    int64_t tile = 64, heads, groups = 1, workers, workerRows, stages = 3, unroll = 0, fixed, perBlock;
    // The three classes of registers.
    int64_t warps = 8, minBlocks = 2;
    auto classify = [&](int64_t registers) {
      warps = registers <= 104 ? 8 : 4;
      minBlocks = registers <= 104 ? 2 : registers <= 160 ? 3 : 2;
    };
    StringRef park = "shared";
    int64_t parked = 0; // bytes a head
    if (!d.contractsLatents) {
      // Operands of scores (split in two, f32 ones as TF32), accumulators, sums and references.
      perBlock = units * (d.half ? 2 : 4) * d.scoreTerms + units * 4 * d.weights + (d.half ? 7 : 12) * d.attends + 2 * d.vectors;
      fixed = d.half ? 44 + 12 * (d.scoreTerms / 2 - 1) : 70 + 24 * (d.scoreTerms / 2 - 1);
      int64_t most = std::max<int64_t>(1, std::min<int64_t>(6, ((d.half ? 160 : 190) - fixed) / perBlock));
      int64_t needed = (latents / 16 + most - 1) / most; // workers over all
      workers = needed;
      while (workers > 4) { // even shares: no worker without latents
        groups *= 2;
        workers = (needed + groups - 1) / groups;
      }
      workerRows = roundUp((latents + workers * groups - 1) / (workers * groups), 16);
      classify(fixed + perBlock * workerRows / 16);
      heads = std::max<int64_t>(1, warps / workers);
      unroll = units >= 4 || !d.attends ? 2 : 0;
    } else {
      workerRows = d.columnState || d.weights > 1 || units > 2 ? 16 : 32;
      fixed = d.weights > 1 ? (d.half ? d.columnState ? 145 : 110 : 162) + 16 * (units - 1) : (d.half ? 70 : 110) + 16 * (units - 1);
      if (d.columnState)
        fixed += latents * units * 8 / 32;
      classify(fixed);
      unroll = d.columnState || d.weights > 1 ? 1 : 2;
      parked = latents * units * 8 * (d.half ? 2 : 4) * (d.half ? d.scoreTerms + d.weights : d.scoreTerms / 2 + d.weights + (d.safe ? 2 : 0)) + latents * 12;
      heads = 4;
      while (heads > 1 && heads * parked * minBlocks > shared * 3 / 4)
        heads /= 2;
      while (minBlocks > 1 && heads * parked * minBlocks > shared * 3 / 4)
        --minBlocks;
      if (parked > shared * 3 / 4) {
        park = "none";
        parked = 0;
      }
      workers = warps / heads;
      tile = workers * workerRows;
    }
    // The ring of staged tokens takes what is left.
    auto ring = [&] { return (stages * tile * (heads * d.tokenBytes + 32 * d.tokenTensors) + heads * parked) * minBlocks; };
    while (ring() > shared && stages > 2)
      --stages;
    while (ring() > shared && tile > 16 && !d.contractsLatents)
      tile /= 2;
    while (ring() > shared && d.contractsLatents && workers > 1) {
      workers /= 2;
      tile = workers * workerRows;
    }
    while (ring() > shared && minBlocks > 1)
      --minBlocks;
    while (ring() > shared && heads > 1)
      heads /= 2;
    return tile::ConfigAttr::get(ctx, d.contractsLatents ? Index::n : Index::m, tile, heads, groups, workers, workerRows, stages, unroll,
                                 multiprocessors * minBlocks, text(d.half ? "mma" : "add"), text("mufu"), text(park), minBlocks);
  }

  /// One thread. With latents as rows tiles of 64 tokens, with tokens as rows of 16, four of which a head takes before the next head's turn; eight columns
  /// at once are as many independent chains as 32 vector registers hold (docs/host.md).
  tile::ConfigAttr host(const Demand &d) {
    MLIRContext *ctx = &getContext();
    auto text = [&](StringRef s) { return StringAttr::get(ctx, s); };
    int64_t heads = 8, blocks = 64, columns = 8;
    if (d.contractsLatents)
      return tile::ConfigAttr::get(ctx, Index::n, 16, heads, 1, 1, 16, 4, columns, blocks, text("add"), text("poly5"), text("shared"), 1);
    return tile::ConfigAttr::get(ctx, Index::m, 64, heads, 1, 1, roundUp(d.latents, 16), 1, columns, blocks, text("add"), text("poly5"),
                                 text("shared"), 1);
  }
};
} // namespace
