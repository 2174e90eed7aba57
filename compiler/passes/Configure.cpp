// flare-configure: the heuristic author of a sweep's configuration.
#include "flare/Flare.h"
#include "passes/Feasible.h"
#include "passes/Passes.h"
#include "passes/Sizes.h"
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

/// What a sweep holds and moves, counted from its ops.
struct Demand {
  bool tokenRows = false; // makes token values, or contracts pairs over m
  bool joint = false;     // and contracts over n beside
  bool half = false;             // 16-bit tokens
  bool f16 = false;              // of a type that most products split in two (tiling/Sweep.h)
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
      d.columnState += over == Index::n;
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
  d.tokenRows = orientation(sweep).tokens;
  d.joint = d.tokenRows && d.columnState;
  d.tokenTensors = tokens.size();
  d.safe = sweep.hasSafeBody();
  for (Value v : tokens) {
    auto t = typeOf(v);
    int64_t size = t.getElement().getIntOrFloatBitWidth() / 8;
    d.half |= size == 2;
    d.f16 |= t.getElement().isF16();
    d.tokenBytes += std::max<int64_t>(1, roundUp(t.getChannels(), 8)) * size;
  }
  return d;
}

struct Configure : flarec::impl::ConfigureBase<Configure> {
  using ConfigureBase::ConfigureBase;
  void runOnOperation() override {
    if (!isTarget(target)) {
      getOperation().emitError() << "unknown target '" << target << "'; known are host, sm_80, sm_90a, sm_100a";
      return signalPassFailure();
    }
    auto all = getOperation().walk([&](flare::SweepOp sweep) -> WalkResult {
      Attribute given = sweep.getConfigAttr();
      if (given && !isa<tile::ConfigAttr>(given))
        return sweep.emitOpError() << "has a configuration " << given << " that is no #tile.config";
      auto config = given ? cast<tile::ConfigAttr>(given) : target == "host" ? host(measure(sweep)) : gpu(measure(sweep), sweep);
      std::string why;
      if (failed(feasible(config, sweep, target, why)))
        return sweep.emitOpError() << (given ? "cannot be run as configured: " : "the heuristic finds no configuration: ") << why;
      sweep.setConfigAttr(config);
      return WalkResult::advance();
    });
    if (all.wasInterrupted())
      signalPassFailure();
  }

  /// May groups multiply, of bf16 tokens and with rows that are not summed?
  bool mayGroup(const Demand &d) { return target == "sm_90a" && d.half && !d.f16 && !d.joint; }

  /// Null: it cannot be run.
  tile::ConfigAttr withGroups(const Demand &d, flare::SweepOp sweep, int64_t workers, int64_t minBlocks, int64_t tile, int64_t stages, int64_t unroll, StringRef park = "shared") {
    auto text = [&](StringRef s) { return StringAttr::get(&getContext(), s); };
    int64_t groups = d.tokenRows ? 1 : (blocksOf(d.latents) + workers - 1) / workers;
    auto config = tile::ConfigAttr::get(&getContext(), d.tokenRows ? Index::n : Index::m, tile, 1, groups, workers, tile::blockSize, stages, unroll,
                                        gpuLimits(target)->multiprocessors * minBlocks, text("mma"), text(exponentials(d)), text(park), minBlocks, 1, text("wgmma"));
    std::string why;
    return succeeded(feasible(config, sweep, target, why)) ? config : tile::ConfigAttr();
  }

  /// Groups of four workers multiply together where channels are many: their instructions do twice the work a cycle, and right operands are read once for four
  /// workers (bench/LOG.md). Null: they don't, or cannot.
  tile::ConfigAttr grouped(const Demand &d, flare::SweepOp sweep) {
    int64_t blocks = blocksOf(d.latents);
    bool wide = d.channels >= 64, many = d.channels == 32 && blocks >= 16 && d.attends, narrow = d.channels <= 64;
    if (!mayGroup(d) || d.weights != 1 || !(wide || many))
      return {};
    // 16 workers of a multiprocessor with 128 registers, or 8 with 255 where there are more channels, or more products of them a score.
    bool one = d.scoreTerms <= 2;
    int64_t warps = one && narrow ? 16 : 8;
    if (!d.tokenRows) {
      // 128 latents a block, or 64 where there are no more.
      int64_t workers = blocks > 4 && (one || !narrow) ? 8 : 4;
      if (blocks < 3)
        return {};
      if (one)
        return withGroups(d, sweep, workers, warps / workers, 64, 3, 4);
      // Four columns at once of 64 channels would be 12 % faster, and 255 registers: ptxas then loses an operand (tests/ptx/sass.py, lost_operands).
      return withGroups(d, sweep, workers, warps / workers, narrow ? 64 : 32, narrow || workers == 4 ? 2 : 3, 2);
    }
    if (!one)
      return {};
    // Where tiles are smaller they wait too long for each other.
    for (int64_t workers = narrow ? 8 : 4; workers <= warps; workers *= 2)
      if (auto config = withGroups(d, sweep, workers, warps / workers, workers * tile::blockSize, 2, std::gcd<int64_t>(4, blocks)))
        return config;
    return {};
  }

  /// Latents that fast memory has no room for come by in pages, which groups share.
  tile::ConfigAttr inPages(const Demand &d, flare::SweepOp sweep) {
    if (!mayGroup(d) || d.channels < 32)
      return {};
    bool narrow = d.channels <= 64, one = d.weights == 1 && d.scoreTerms <= 2;
    int64_t workers = one && narrow ? 16 : one || narrow ? 8 : 4;
    return withGroups(d, sweep, workers, 1, workers * tile::blockSize, 2, one || narrow ? std::gcd<int64_t>(2, blocksOf(d.latents)) : 1, "none");
  }

  /// Latent operands as columns lie in shared memory where that leaves room for enough warps: those of fast bodies alone are worth it where 8 are left.
  tile::ConfigAttr gpu(const Demand &d, flare::SweepOp sweep) {
    if (auto config = grouped(d, sweep))
      return config;
    auto warps = [](tile::ConfigAttr c) { return c.getHeads() * c.getWorkers() * c.getMinBlocks(); };
    auto config = gpu(d, sweep, "shared");
    if (!d.tokenRows || !d.latents || (parkedExactly(sweep, "shared") <= sharedForParking() * 3 / 4 && warps(config) >= 4))
      return config;
    if (auto pages = inPages(d, sweep))
      return pages;
    config = gpu(d, sweep, "fast");
    if (d.safe && parkedExactly(sweep, "fast") <= sharedForParking() * 7 / 8 && warps(config) >= 8)
      return config;
    return gpu(d, sweep, "none");
  }

  int64_t sharedForParking() { return gpuLimits(target)->sharedPerMultiprocessor - 8 * 1024 + (target == "sm_80" ? 4 * 1024 : 0); }

  /// Registers of a lane as ptxas was seen to need them for these kernels (tests/ptx holds the budgets): a fixed part, and so many
  /// for each block of 16 rows. From them follow the threads of a block and the blocks of an SM: 2 × 256 threads leave 128 registers,
  /// 3 × 128 leave 168, 2 × 128 leave 255.
  tile::ConfigAttr gpu(const Demand &d, flare::SweepOp sweep, StringRef park) {
    MLIRContext *ctx = &getContext();
    auto text = [&](StringRef s) { return StringAttr::get(ctx, s); };
    int64_t units = roundUp(d.channels, 8) / 8, latents = std::max<int64_t>(d.tokenRows ? 0 : 16, roundUp(d.latents, 16));
    GpuLimits limits = *gpuLimits(target);
    int64_t shared = sharedForParking();
    int64_t tile = 64, heads, groups = 1, workers, workerRows, stages = 3, unroll = 0, fixed, perBlock;
    int64_t sharers = 1; // of the columns of the same rows
    // The three classes of registers.
    int64_t warps = 8, minBlocks = 2;
    auto classify = [&](int64_t registers, int64_t few = 104, int64_t some = 160) {
      warps = registers <= few ? 8 : 4;
      minBlocks = registers <= few ? 2 : registers <= some ? 3 : 2;
    };
    int64_t parked = 0; // bytes a head
    // A few bytes of spills around the loops cost less than what avoids them, as an H100 says. Where nobody has measured there are none: with latents as rows ptxas would
    // like 150 to 200 registers and spills by chance with 128, with tokens as rows with 168. Published shapes that spill still are at 255.
    bool spare = target != "sm_90a";
    if (!d.tokenRows) {
      // Operands of scores (split in two, f32 ones as TF32), accumulators, sums and references.
      perBlock = units * (d.half ? 2 : 4) * d.scoreTerms + units * 4 * d.weights + (d.half ? 7 : 12) * d.attends + 2 * d.vectors;
      // Of 64 channels it is exact: 32 latents fit 168 registers.
      bool broad = d.half && !d.f16 && d.attends && units >= 8;
      if (broad && units == 8)
        perBlock = units * 6 + 7;
      if (broad)
        tile = 32;
      fixed = d.half ? 44 + (d.f16 ? 32 : 12) * (d.scoreTerms / 2 - 1) : 70 + 24 * (d.scoreTerms / 2 - 1);
      // Of bf16 128 registers hold 64 latents of up to 16 channels, and 16 warps that share them out are faster than 12 with more each (bench/LOG.md).
      bool narrow = d.half && units <= (d.f16 && d.attends ? 1 : 2) && d.scoreTerms <= 2;
      // Without sums to keep, of up to 32 channels, 64 latents a worker with 255 registers are faster than more workers with fewer.
      bool wide = d.half && !d.attends && units == 4;
      int64_t room = wide ? 240 : d.half ? 160 : spare ? 150 : 190;
      int64_t most = std::max<int64_t>(1, std::min<int64_t>(narrow ? d.attends || units > 1 || spare ? 4 : 8 : wide ? 4 : 6, (room - fixed) / std::max<int64_t>(1, perBlock)));
      // Workers over all; in powers of two, which blocks and groups divide.
      int64_t needed = llvm::PowerOf2Ceil((latents / 16 + most - 1) / most);
      workers = needed;
      while (workers > (narrow && !spare ? 8 : 4)) { // even shares: no worker without latents
        groups *= 2;
        workers = (needed + groups - 1) / groups;
      }
      // No more of anything than latents need.
      workerRows = roundUp((latents + workers * groups - 1) / (workers * groups), 16);
      while (workers > 1 && groups * (workers - 1) * workerRows >= latents)
        --workers;
      while (groups > 1 && (groups - 1) * workers * workerRows >= latents)
        --groups;
      if (spare)
        warps = 4, minBlocks = d.attends || d.scoreTerms > 2 || units >= (d.half ? 4 : 2) ? 2 : 3;
      else
        classify(fixed + perBlock * workerRows / 16, narrow ? 140 : broad ? 0 : 104, d.half || d.attends || units > 1 ? 160 : 190);
      heads = std::max<int64_t>(1, warps / workers);
    } else {
      bool decode = d.weights == 1 && !d.columnState, bf16 = d.half && !d.f16;
      workerRows = decode && (units <= 2 || (bf16 && units == 4 && (latents <= 128 || park == "none"))) ? 32 : 16;
      fixed = d.weights > 1 ? (d.half ? d.columnState ? 145 : 110 : 162) + 16 * (units - 1) : (d.half ? 70 : 110) + 16 * (units - 1);
      if (decode && bf16 && units == 8) // 16 warps of 128 registers are enough
        fixed = 104;
      if (decode && d.half && units == 1 && spare)
        fixed = 128;
      // Accumulators [m,d] of more than 256 · 8 elements are shared out, among as few workers as hold them: of 8 channels beside two blocks of rows, which
      // 128 · 8 each leave room for (schedules.md, "Large M").
      int64_t state = d.columnState * latents * units;
      if (state > 256)
        while (sharers < mostSharers(latents) && fixed + state / sharers / 4 > (units == 1 ? 177 : 257))
          sharers *= 2;
      fixed += state / sharers * 8 / 32;
      // Two blocks of rows share what is read and prepared for one, where registers are left.
      if (d.columnState && d.half && !d.f16 && fixed <= 180 && !spare)
        workerRows = 32;
      classify(fixed, 104, spare ? 0 : 160);
      if (sharers > warps) { // one block with all of them
        warps = sharers;
        minBlocks = 1;
      }
      // What stays in registers along columns is there for all of them; otherwise one or two, a few where two don't divide them.
      int64_t blocks = std::max<int64_t>(1, latents / 16);
      unroll = d.joint ? 0 : !d.half && blocks % 2 == 0 ? 2 : d.weights > 1 || blocks == 1 ? 1 : blocks <= (d.f16 ? 2 : 8) ? 0 : blocks % 4 == 0 && (!d.f16 || units > 1) ? 4 : blocks % 2 == 0 ? 2 : 1;
      parked = latents * units * 8 * (d.half ? 2 : 4) * (d.half ? d.scoreTerms + d.weights : d.scoreTerms / 2 + d.weights + (d.safe ? 2 : 0)) + latents * 12;
      // Neighbouring heads' rows side by side: whole sectors.
      heads = decode && units >= 8 ? 1 : std::min(warps / sharers, d.weights == 1 && d.half ? warps : 4);
      while (heads > 1 && heads * parked * minBlocks > shared * 3 / 4)
        heads /= 2;
      while (minBlocks > 1 && heads * parked * minBlocks > shared * 3 / 4)
        --minBlocks;
      if (park != "shared" || parked > shared * 3 / 4) // that was with two addends for each score
        parked = parkedExactly(sweep, park);
      if (park != "shared") {
        // What lies in global memory comes through the first-level cache, which one block's workers share well and those of several heads don't (bench/LOG.md).
        heads = minBlocks = 1;
        warps = 8;
        if (park == "none" && d.weights > 1 && !d.joint) {
          workerRows = units == 2 && d.half ? 32 : 16;
          unroll = 2 - blocks % 2; // what the next block reads is under way while this one is worked on
        }
      }
      workers = warps / heads;
      tile = workers / sharers * workerRows;
    }
    // The ring of staged tokens takes what is left.
    auto ring = [&] { return (stages * tile * (heads * d.tokenBytes + 32 * d.tokenTensors) + heads * parked) * minBlocks; };
    while (ring() > shared && stages > 2)
      --stages;
    while (ring() > shared && tile > 16 && !d.tokenRows)
      tile /= 2;
    while (ring() > shared && d.tokenRows && workers > sharers) {
      workers /= 2;
      tile = workers / sharers * workerRows;
    }
    while (ring() > shared && minBlocks > 1)
      --minBlocks;
    while (ring() > shared && heads > 1)
      heads /= 2;
    auto config = [&] {
      if (!d.tokenRows && (units >= 4 || !d.attends || !d.half))
        unroll = !d.half && d.scoreTerms <= 2 && (!d.attends || spare) ? 1 : std::min<int64_t>(units == 4 && d.half && !d.f16 ? 4 : 2, tile / 16);
      return tile::ConfigAttr::get(ctx, d.tokenRows ? Index::n : Index::m, tile, heads, groups, workers, workerRows, stages, unroll,
                                   limits.multiprocessors * minBlocks, text(d.half ? "mma" : "add"), text(exponentials(d)), text(park), minBlocks, sharers, text("mma"));
    };
    // Counted exactly it may still be too much: first what each head parks, then what waits, then who shares a multiprocessor.
    auto fits = [&] {
      int64_t bytes = sharedBytes(config(), sweep);
      return bytes <= limits.sharedPerBlock && (bytes + 1024) * minBlocks <= limits.sharedPerMultiprocessor;
    };
    while (!fits()) {
      if (d.tokenRows && heads > 1) {
        heads /= 2;
        workers *= 2;
      } else if (stages > 2) {
        --stages;
      } else if (!d.tokenRows && tile > 16) {
        tile /= 2;
      } else if (minBlocks > 1) {
        --minBlocks;
      } else if (heads > 1) {
        heads /= 2;
      } else if (workers > sharers && d.tokenRows) {
        workers /= 2;
      } else {
        break;
      }
      if (d.tokenRows)
        tile = workers / sharers * workerRows;
    }
    // Alone on its multiprocessor a block may have twice the threads.
    if (d.tokenRows && minBlocks == 1 && heads * workers <= 4) {
      workers *= 2;
      tile *= 2;
      if (!fits()) {
        workers /= 2;
        tile /= 2;
      }
    }
    while (d.tokenRows && stages < 3) {
      ++stages;
      if (!fits()) {
        --stages;
        break;
      }
    }
    return config();
  }

  /// Where the exponential unit is what a sweep waits for, some exponentials go to the FMA pipe. In bf16 up to half of them, made in bf16 at once: the results' pooled errors
  /// stay within 1.25 times SDPA's (bench/LOG.md; schedules.md I.1). Fewer where matrix instructions take more of the issue slots; joint sweeps wait for other things.
  static StringRef exponentials(const Demand &d) {
    if (!d.half || d.weights != 1 || d.scoreTerms > 2 || (!d.attends && d.channels > 16))
      return "mufu";
    if (d.f16)
      return d.tokenRows ? "poly3:3" : "poly3:5";
    return !d.attends ? "bits:6" : d.channels <= 16 ? "bits:8" : "bits:5";
  }

  /// Bytes of parked latent operands, a head.
  int64_t parkedExactly(flare::SweepOp sweep, StringRef park) {
    auto bytes = [&](StringRef park) {
      auto text = [&](StringRef s) { return StringAttr::get(&getContext(), s); };
      return sharedBytes(tile::ConfigAttr::get(&getContext(), Index::n, 16, 1, 1, 1, 16, 2, 0, 1, text("add"), text("mufu"), text(park), 1, 1, text("mma")), sweep);
    };
    return bytes(park) - bytes("none");
  }

  /// One thread. With latents as rows tiles of 64 tokens, with tokens as rows of 16, four of which a head takes before the next head's turn; eight columns
  /// at once, of up to 128 channels, are as many independent chains as 32 vector registers hold.
  tile::ConfigAttr host(const Demand &d) {
    MLIRContext *ctx = &getContext();
    auto text = [&](StringRef s) { return StringAttr::get(ctx, s); };
    // As many blocks as machines have threads, mostly; each costs a table of latents and partial results for each of its heads. Four heads' rows are whole lines.
    int64_t heads = 4, blocks = 32;
    int64_t columns = std::max<int64_t>(1, std::min<int64_t>(8, 128 / std::max<int64_t>(4, llvm::PowerOf2Ceil(d.channels))));
    if (d.tokenRows)
      return tile::ConfigAttr::get(ctx, Index::n, 16, heads, 1, 1, 16, 4, columns, blocks, text("add"), text("poly5"), text("shared"), 1, 1, text("mma"));
    return tile::ConfigAttr::get(ctx, Index::m, 64, heads, 1, 1, std::max<int64_t>(16, roundUp(d.latents, 16)), 1, columns, blocks, text("add"), text("poly5"),
                                 text("shared"), 1, 1, text("mma"));
  }
};
} // namespace
