// feasible: the constraints of configurations, one after the other.
#include "passes/Feasible.h"
#include "layout/Layout.h"
#include "passes/tiling/Sweep.h"
#include "llvm/ADT/SetVector.h"
#include "llvm/Support/raw_ostream.h"

using namespace mlir;
using namespace flarec;
using namespace flarec::tiling;

std::optional<GpuLimits> flarec::gpuLimits(StringRef target) {
  // CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
  // Code for sm_80 runs on everything later too, and of that 8.6, 8.9 and 12.x give a block least (an A100 has 163 KB).
  if (target == "sm_80")
    return GpuLimits{108, 99 * 1024, 100 * 1024};
  if (target == "sm_90a")
    return GpuLimits{132, 227 * 1024, 228 * 1024};
  if (target == "sm_100a")
    return GpuLimits{148, 227 * 1024, 228 * 1024};
  return std::nullopt;
}

bool flarec::isTarget(StringRef target) { return target == "host" || gpuLimits(target); }

Orientation flarec::orientation(flare::SweepOp sweep) {
  Orientation o;
  for (Region &r : sweep->getRegions())
    r.walk([&](Operation *op) {
      if (isa<flare::YieldOp>(op))
        o.tokens |= llvm::any_of(op->getOperands(), isTokens);
      if (!reduces(op))
        return;
      o.tokens |= overOf(op) == Index::m;
      o.latents |= overOf(op) == Index::n && (addsUp(op) || isa<flare::AttendOp>(op));
    });
  return o;
}

bool flarec::isJoint(tile::ConfigAttr config, flare::SweepOp sweep) {
  bool overTokens = false;
  sweep.walk([&](Operation *op) { overTokens |= reduces(op) && overOf(op) == Index::n; });
  return config.getRows() == Index::n && overTokens;
}

//===-- Shared memory --------------------------------------------------------//

namespace {
/// A stash entry: 16 latents at a time, each lane's registers side by side (tile-to-nvvm).
int64_t parkedBytes(Value v, Use use, int64_t latents) {
  int units = int(padded(typeOf(v).getChannels(), false) / 8);
  Layout l = use.role == Role::Vector  ? fragment::columnVector(Axis::m)
             : use.role == Role::Score ? fragment::column(Axis::m, units)
                                       : fragment::weight(Axis::m, units);
  int64_t registers = use.form == Form::Wide ? l.registerCount() : l.registerCount() / 2;
  return blocksOf(latents) * registers * 4 * l.distinctLanes(); // copies read the same
}
} // namespace

/// Do a group's products read the token's staged rows, so that they lie as these want it (nvvm/Warpgroup.cpp)?
static bool isSwizzled(tile::ConfigAttr config, Value token) {
  return config.hasGroups() && config.getRows() == Index::m && typeOf(token).getChannels();
}

/// Three pages of what groups multiply by (StashPlan in passes/Registers.h).
static int64_t bytesOfPages(tile::ConfigAttr config, flare::SweepOp sweep) {
  SmallVector<int64_t> channels;
  for (auto &[v, use] : latentOperands(sweep, halfOf(sweep, false), config))
    if (use.role != Role::Vector)
      channels.push_back(padded(typeOf(v).getChannels(), false));
  return PageLayout(pageBlocks(blocksOf(latentsOf(sweep)), config.getUnroll(), channels), channels).bytes * pagesAtOnce;
}

int64_t flarec::sharedBytes(tile::ConfigAttr config, flare::SweepOp sweep) {
  int64_t parked = 0, swizzled = 0, stage = 0, heads = config.getHeads();
  bool anySwizzled = false;
  if (config.getRows() == Index::n && config.getPark() != "none")
    for (auto &[v, use] : latentOperands(sweep, halfOf(sweep, false), config, config.getPark() == "fast"))
      if (int64_t bytes = parkedBytes(v, use, latentsOf(sweep)); config.hasGroups() && use.role != Role::Vector)
        swizzled += roundUp(bytes, Swizzle::alignment);
      else
        parked += bytes;
  if (swizzled)
    parked = roundUp(parked, Swizzle::alignment) + swizzled;
  if (config.getRows() == Index::n && config.hasGroups() && config.getPark() == "none")
    parked = bytesOfPages(config, sweep);
  for (Value v : tokensRead(sweep)) {
    int64_t size = bytesOf(typeOf(v).getElement()), channels = typeOf(v).getChannels();
    // 16 bytes between rows (32 for f32) keep the eight rows of a fragment in different banks.
    int64_t row = channels ? roundUp(channels, 8) * size * heads + (size == 2 ? 16 : 32) : size * heads;
    if (isSwizzled(config, v)) {
      anySwizzled = true;
      stage = roundUp(stage, Swizzle::alignment) + Swizzle(config.getTile(), channels).bytes() * heads;
    } else
      stage += roundUp(row * config.getTile(), 16);
  }
  if (anySwizzled)
    stage = roundUp(stage, Swizzle::alignment);
  // Parts of sums over columns, each worker's (tile.combine).
  int64_t parts = 0;
  if (config.getColumnWorkers() > 1)
    for (Operation &op : sweep.getFast().front())
      if (reduces(&op) && overOf(&op) == Index::m)
        parts += config.getWorkerRows() * padded(typeOf(op.getResult(0)).getChannels(), false) * 4;
  return roundUp(parked * heads, anySwizzled ? Swizzle::alignment : 128) + stage * config.getStages() + parts * config.getWorkers() * heads;
}

//===-- The rules ------------------------------------------------------------//

namespace {
/// The numbers that divide n, as text.
std::string divisors(int64_t n) {
  std::string r;
  for (int64_t i = 1; i <= n; ++i)
    if (n % i == 0)
      r += (r.empty() ? "" : i == n ? " or " : ", ") + std::to_string(i);
  return r;
}

struct Rules {
  tile::ConfigAttr c;
  flare::SweepOp sweep;
  StringRef target;
  llvm::raw_string_ostream &why;
  int64_t latents, columnBlocks;
  bool host, tokenRows;
  Type half;

  Rules(tile::ConfigAttr c, flare::SweepOp sweep, StringRef target, llvm::raw_string_ostream &why)
      : c(c), sweep(sweep), target(target), why(why), latents(latentsOf(sweep)), host(target == "host"), tokenRows(c.getRows() == Index::n),
        half(halfOf(sweep, host)) {
    columnBlocks = tokenRows ? std::max<int64_t>(1, blocksOf(latents) / c.getColumnWorkers()) : c.getTile() / tile::blockSize;
  }

  /// Each rule answers true, or false after it has said why.
  bool hold() {
    return values() && sizes() && orientationFits() && covers() && pipes() && (host ? hostFields() : gpuFields() && fitsSharedMemory() && straightLine());
  }

  /// What kernels have no form for; no configuration helps.
  bool values() {
    const char *what = nullptr;
    Type type;
    sweep->walk([&](Operation *op) {
      for (ValueRange values : {ValueRange(op->getOperands()), op == sweep ? ValueRange() : ValueRange(op->getResults())})
        for (Value v : values) {
          FlareTensorType t = typeOf(v);
          if (!t || what)
            continue;
          type = t;
          if (!t.getTokens() && !t.getLatents())
            what = " without tokens or latents; a kernel has rows of either";
          else if (t.isPair() && t.getChannels())
            what = " with channels; pairs are numbers: contract over d first";
        }
      if (what || op == sweep)
        return;
      unsigned pairs = llvm::count_if(op->getOperands(), isPair);
      bool makesPairs = op->getNumResults() && isPair(op->getResult(0));
      type = op->getNumResults() ? op->getResult(0).getType() : Type();
      if (pairs && isa<flare::CastOp>(op))
        what = " by a cast of pairs; they are rounded where they are contracted";
      else if (pairs == 2 && isa<flare::ContractOp>(op))
        what = " by contracting two pair values; multiply them with flare.mul and add up with flare.sum";
      else if (isa<flare::SumOp, flare::ContractOp>(op) && addsUpPadding(op, padded(typeOf(op->getOperand(0)).getChannels(), host))) {
        type = op->getOperand(0).getType();
        what = ", and adds up what is not 0 in the channels that pad it to a power of two; use as many channels";
      } else if (makesPairs && !isa<flare::AddOp, flare::SubOp, flare::MulOp, flare::NegOp, flare::Exp2Op, flare::ScaleOp, flare::ContractOp>(op))
        what = " by an op that makes no pairs in kernels";
    });
    if (what)
      why << "it makes or reads " << type << what;
    else if (nested())
      why << "it contracts pairs with, or makes them of, what other pairs were contracted to in the same sweep, and a kernel meets each block of "
             "pairs once; put the two into functions of their own";
    else
      return true;
    return false;
  }

  /// Does a reduction of pairs need the result of another one in the sweep?
  bool nested() {
    bool found = false;
    sweep->walk([&](Operation *op) {
      if (!reduces(op))
        return;
      SmallVector<Operation *> work{op};
      DenseSet<Operation *> seen;
      while (!work.empty())
        for (Value v : work.pop_back_val()->getOperands())
          if (Operation *d = v.getDefiningOp(); d && d->getParentOp() == sweep && seen.insert(d).second) {
            found |= reduces(d);
            work.push_back(d);
          }
    });
    return found;
  }

  /// Sizes and types that kernels take.
  bool sizes() {
    auto tokens = tokensRead(sweep);
    if (llvm::all_of(tokens, [](Value v) { return typeOf(v).isMask(); })) {
      why << "it reads no tokens";
      return false;
    }
    bool ok = true;
    sweep->walk([&](Operation *op) {
      for (Value v : op->getOperands())
        if (ok && typeOf(v) && typeOf(v).getLatents() && typeOf(v).getLatents() != latents) {
          why << "it has values of " << typeOf(v).getLatents() << " and of " << latents << " latents; one sweep has one number of them: put them in functions of their own";
          ok = false;
        }
    });
    for (Value v : tokens) {
      Type e = typeOf(v).getElement();
      int64_t channels = typeOf(v).getChannels();
      if (!ok)
        break;
      if (e.isInteger())
        continue; // a mask
      if (bytesOf(e) > 4) {
        why << "it reads tokens of type " << e << "; kernels take f32, bf16 and f16";
        ok = false;
      } else if (host && channels > 128) {
        why << "it reads tokens of " << channels << " channels; the host's kernels take 128 at most";
        ok = false;
      } else if (!host && !e.isF32() && e != half) {
        why << "it reads tokens of types " << e << " and " << half << "; a GPU's kernels take one 16-bit type beside f32";
        ok = false;
      }
    }
    return ok;
  }

  bool orientationFits() {
    Orientation o = orientation(sweep);
    if (o.tokens && o.latents) {
      why << "it makes token values or contracts over m, which takes rows = n, and attends or sums over n, which takes rows = m: "
             "make two sweeps of it";
      return false;
    }
    if (o.tokens && !tokenRows) {
      why << "rows = m, but it makes token values or contracts over m; use rows = n";
      return false;
    }
    if (o.latents && tokenRows) {
      why << "rows = n, but it attends or sums over n; use rows = m";
      return false;
    }
    if (isJoint(c, sweep) && !host && !half) {
      why << "rows = n, but it contracts f32 pairs over n, and there is no transposition of 32-bit fragments on a GPU; use rows = m, in a "
             "sweep without contractions over m";
      return false;
    }
    return true;
  }

  /// rows = m: every latent has a worker, every row block, worker and row group a latent.
  bool covers() {
    if (tokenRows)
      return true; // of the tile, as the attribute's verifier demands
    int64_t g = c.getRowGroups(), w = c.getWorkers(), r = c.getWorkerRows(), all = g * w * r;
    auto product = [&]() -> llvm::raw_ostream & {
      return why << "row_groups = " << g << " of workers = " << w << " of worker_rows = " << r << " are " << all << " rows for " << latents << " latents; ";
    };
    if (all < latents) {
      product() << "use at least " << latents << ", such as worker_rows = " << roundUp((latents + g * w - 1) / (g * w), tile::blockSize);
      return false;
    }
    auto least = [&](int64_t others) { return (latents + others - 1) / others; };
    int64_t together = c.hasGroups() ? tile::groupWorkers : 1; // a group's other workers may have none
    std::string advice;
    for (auto [name, value, enough] : {std::tuple("worker_rows", r, roundUp(least(g * w), tile::blockSize)), std::tuple("workers", w, roundUp(least(g * r), together)),
                                       std::tuple("row_groups", g, least(w * r))})
      if (value > enough)
        advice += (advice.empty() ? "" : " or ") + std::string(name) + " = " + std::to_string(enough);
    if (advice.empty())
      return true;
    product() << advice << " would do, so that none is without latents";
    return false;
  }

  /// Which units exponentials and row sums run on.
  bool pipes() {
    auto kind = c.getExponentials().kind;
    if (host != (kind == tile::Exponentials::Poly5)) {
      why << "exp = " << c.getExp() << ", but on " << target << " exponentials are made " << (host ? "by a polynomial on vectors; use exp = \"poly5\"" : "one by one; use exp = \"mufu\"");
      return false;
    }
    if (!host && kind != tile::Exponentials::Mufu && !half) {
      why << "exp = " << c.getExp() << ", but f32 tokens want exponentials of f32's accuracy; use exp = \"mufu\"";
      return false;
    }
    if (kind == tile::Exponentials::Bits && !half.isBF16()) {
      why << "exp = " << c.getExp() << ", which makes exponentials in bf16, but the tokens are " << half << "; use exp = \"mufu\" or \"poly3:" << c.getExponentials().share << "\"";
      return false;
    }
    if (c.getSums() == "mma" && !half) {
      why << "sums = \"mma\", but " << (host ? "the host has no matrix instruction" : "f32 pairs are no operands of a 16-bit matrix instruction")
          << "; use sums = \"add\"";
      return false;
    }
    return true;
  }

  bool hostFields() {
    int64_t channels = 1, most = 16;
    sweep->walk([&](Operation *op) {
      for (Value v : op->getOperands())
        if (typeOf(v) && typeOf(v).getChannels())
          channels = std::max(channels, padded(typeOf(v).getChannels(), true));
    });
    most = std::max<int64_t>(1, std::min<int64_t>(most, 128 / channels));
    for (auto [name, value, only] : {std::tuple("workers", c.getWorkers(), 1), std::tuple("min_blocks", c.getMinBlocks(), 1)})
      if (value != only) {
        why << name << " = " << value << ", but on the host a block is one thread; use " << name << " = " << only;
        return false;
      }
    if (c.getPark() != "shared") {
      why << "park = " << c.getPark() << ", but on the host parked latents lie in the cache; use park = \"shared\"";
      return false;
    }
    if (tokenRows && c.getTile() != tile::blockSize) {
      why << "tile = " << c.getTile() << ", but with rows = n the host takes 16 tokens, one vector, at a time; use tile = 16 and worker_rows = 16";
      return false;
    }
    // Their table lies in the second-level cache, and LLVM takes a minute for 65,536.
    if (!tokenRows && c.getTile() > 1024) {
      why << "tile = " << c.getTile() << ", but on the host a tile's tokens lie in a table in the cache; use 1024 at most";
      return false;
    }
    if (c.getUnroll() < 1 || c.getUnroll() > most || !llvm::isPowerOf2_64(c.getUnroll())) {
      why << "unroll = " << c.getUnroll() << ", but with " << channels << " channels the host takes a power of two of at most " << most << " columns at once";
      return false;
    }
    return true;
  }

  bool gpuFields() {
    if (c.getStages() < 2 || c.getStages() > 16) {
      why << "stages = " << c.getStages() << ", but a GPU's ring of staged tiles has one to work on and at least one to fill; use 2 to 16";
      return false;
    }
    if (isJoint(c, sweep)) {
      if (c.getUnroll() != 0) {
        why << "unroll = " << c.getUnroll() << ", but accumulators over m beside rows = n lie in registers, so all columns are handled at once; use unroll = 0";
        return false;
      }
    } else if (c.getUnroll() && columnBlocks % c.getUnroll()) {
      why << "unroll = " << c.getUnroll() << " does not divide the " << columnBlocks << " blocks of 16 columns ("
          << (tokenRows ? "latents = " : "tile = ") << (tokenRows ? latents : c.getTile()) << "); use 0 (all), " << divisors(columnBlocks);
      return false;
    }
    if (int64_t sharers = c.getColumnWorkers(); sharers > 1) {
      if (blocksOf(latents) % sharers) {
        why << "column_workers = " << sharers << " do not share out the " << blocksOf(latents) << " blocks of 16 latents; use " << divisors(blocksOf(latents));
        return false;
      }
      if (!llvm::all_of(sweep.getFast().front(), [](Operation &op) { return !reduces(&op) || (isa<flare::ContractOp>(op) && typeOf(op.getResult(0)).getChannels()); })) {
        why << "column_workers = " << sharers << ", but it attends or sums over m, and only contractions are added up from workers' parts; use column_workers = 1";
        return false;
      }
      llvm::SmallSetVector<int64_t, 2> widths;
      for (Operation &op : sweep.getFast().front())
        if (reduces(&op) && overOf(&op) == Index::m)
          widths.insert(padded(typeOf(op.getResult(0)).getChannels(), false));
      if (widths.size() > 1) {
        why << "column_workers = " << sharers << ", but it contracts over m to " << widths[0] << " and to " << widths[1] << " channels, and workers' parts are added up in "
               "pieces of one size; use column_workers = 1";
        return false;
      }
    }
    if (c.hasGroups() && !groupsMultiply())
      return false;
    GpuLimits limits = *gpuLimits(target);
    int64_t threads = c.getThreads();
    int64_t most = std::min(limits.blocksPerMultiprocessor, limits.threadsPerMultiprocessor / threads);
    if (c.getMinBlocks() > most) {
      why << "min_blocks = " << c.getMinBlocks() << " of " << threads << " threads, but a multiprocessor of " << target << " has room for "
          << limits.threadsPerMultiprocessor << " threads and " << limits.blocksPerMultiprocessor << " blocks; use min_blocks = " << most << " at most";
      return false;
    }
    return true;
  }

  /// Products of groups: their right operands come from fast memory as they are, and their left ones are never transposed.
  bool groupsMultiply() {
    auto no = [&](const llvm::Twine &reason) {
      why << "matrix = \"wgmma\", but " << reason << "; use matrix = \"mma\"";
      return false;
    };
    if (target != "sm_90a")
      return no(target + " has no matrix instructions of warpgroups");
    if (!half)
      return no("f32 tokens are no operands of a 16-bit matrix instruction");
    if (isJoint(c, sweep))
      return no("it contracts pairs over their rows, and a group's left operands are not transposed");
    if (c.getPark() == "fast")
      return no("park = \"fast\", and groups read either all latents' operands from fast memory or pages of them, park = \"none\"");
    if (tokenRows && c.getPark() == "none" && (!half.isBF16() || c.getHeads() > 1 || c.getColumnWorkers() > 1))
      return no("park = \"none\", and pages of latents come by for bf16 tokens, of one head (heads = 1), for workers that take all of them (column_workers = 1)");
    if (int64_t once = c.getUnroll() ? c.getUnroll() : columnBlocks; once * tile::blockSize > 256)
      return no(llvm::Twine(once) + " blocks of columns at once (unroll = " + llvm::Twine(c.getUnroll()) + ") are " + llvm::Twine(once * tile::blockSize) +
                " columns, and an instruction has 256");
    std::string reason;
    for (Region &r : sweep->getRegions())
      r.walk([&](Operation *op) {
        auto fits = [&](Value v, Form form) {
          if (int64_t d = typeOf(v).getChannels(); d % 16 || d > 256)
            reason = "it contracts values of " + std::to_string(d) + " channels, and an instruction takes multiples of 16, 256 at most";
          else if (isTokens(v) && !tokenRows && (!isStored(v) || typeOf(v).getElement() != half || form != Form::Round))
            reason = "it contracts with token values that are made in the sweep, and right operands are read as they were staged";
        };
        if (auto dot = dyn_cast<flare::ContractOp>(op); dot && isPair(dot.getOut())) {
          Value x = dot.getA(), y = dot.getB();
          for (Value *v : {&x, &y})
            if (auto scaled = scaledStored(*v, half))
              *v = scaled->stored;
          for (auto [f, g] : addendsOf(x, y, half)) {
            fits(x, f);
            fits(y, g);
          }
        } else if (reduces(op) && !addsUp(op)) {
          Value w = isa<flare::AttendOp>(op) ? cast<flare::AttendOp>(op).getV() : isPair(op->getOperand(0)) ? op->getOperand(1) : op->getOperand(0);
          for (auto [pairs, form] : addendsOf(op, half))
            fits(w, form);
        } else if (!tokenRows) {
          for (Value v : op->getOperands())
            if (typeOf(v) && isTokens(v) && isStored(v) && typeOf(v).getChannels())
              reason = "it makes other values of tokens that it contracts with";
        }
      });
    return reason.empty() || no(reason);
  }

  bool fitsSharedMemory() {
    GpuLimits limits = *gpuLimits(target);
    int64_t bytes = sharedBytes(c, sweep);
    const char *advice = "fewer heads, stages or a smaller tile";
    const char *unpark = !tokenRows || c.getPark() == "none" ? "" : c.getPark() == "fast" ? ", or park = \"none\"" : ", or park = \"fast\" or \"none\"";
    if (bytes > limits.sharedPerBlock) {
      why << "a block needs " << bytes << " bytes of shared memory and has " << limits.sharedPerBlock << " on " << target << "; use " << advice << unpark;
      return false;
    }
    if ((bytes + 1024) * c.getMinBlocks() > limits.sharedPerMultiprocessor) {
      why << "min_blocks = " << c.getMinBlocks() << " blocks of " << bytes + 1024 << " bytes of shared memory do not fit the "
          << limits.sharedPerMultiprocessor << " of a multiprocessor of " << target << "; use min_blocks = "
          << limits.sharedPerMultiprocessor / (bytes + 1024) << ", " << advice << unpark;
      return false;
    }
    return true;
  }

  /// Blocks of 16 × 16 pairs are written out one after the other: more than these only take time to compile.
  bool straightLine() {
    constexpr int64_t most = 64;
    int64_t columns = c.getUnroll() ? c.getUnroll() : columnBlocks, rows = blocksOf(c.getWorkerRows());
    if (columns * rows <= most)
      return true;
    why << columns << " blocks of columns at once (unroll = " << c.getUnroll() << ") for " << rows << " blocks of rows (worker_rows = "
        << c.getWorkerRows() << ") are " << columns * rows << " pieces of straight-line code, " << most << " at most are allowed; use "
        << (isJoint(c, sweep) ? "a sweep of its own for the contractions over n (joint-limit)" : "a smaller unroll or fewer worker_rows");
    return false;
  }
};
} // namespace

LogicalResult flarec::feasible(tile::ConfigAttr config, flare::SweepOp sweep, StringRef target, std::string &why) {
  why.clear();
  llvm::raw_string_ostream stream(why);
  if (!isTarget(target)) {
    stream << "unknown target '" << target << "'; known are host, sm_80, sm_90a, sm_100a";
    return failure();
  }
  return success(Rules(config, sweep, target, stream).hold());
}
