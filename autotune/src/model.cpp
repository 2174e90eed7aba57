#include "flarec/autotune/model.h"

#include "flarec/autotune/space.h"
#include "flarec/cuda_driver.h"
#include "flarec/device.h"
#include "flarec/host_code.h"
#include "flarec/parallel.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

using namespace flarec;
using namespace flarec::autotune;

namespace {

double of(const Works &works, const char *kind) {
  auto it = works.find(kind);
  return it == works.end() ? 0 : it->second;
}

/// "poly3:5" is the strategy poly3 for 5 of 16.
std::pair<std::string, double> strategyOf(const Configuration &c) {
  auto it = c.find("exp");
  std::string text = it == c.end() ? "" : it->second;
  size_t colon = text.find(':');
  if (colon == text.npos)
    return {text, 1};
  double number = 0;
  std::from_chars(text.data() + colon + 1, text.data() + text.size(), number);
  return {text.substr(0, colon), number / 16};
}

/// The rule of docs/artefact.md, section 2, for one batch.
double splitsOf(const SweepFacts &facts, const Counts &counts,
                const Configuration &c, const Shape &shape, double groups,
                double units) {
  double splits = std::floor(double(field(c, "blocks", 1)) / groups);
  if (counts.partial > 0)
    splits = std::min(splits, std::floor(0x1p26 / (double(shape.heads) * counts.partial *
                                                   std::max(1, facts.partialSweeps))));
  return std::clamp(splits, 1.0, units);
}

//===----------------------------------------------------------------------===//
// GPU
//===----------------------------------------------------------------------===//

/// Exponentials off the MUFU: issue slots of a warp's instruction each, and
/// what of packing to 16 bits is in them. Counted in SASS (2 slots for an
/// instruction of the ALU).
struct Strategy {
  const char *name;
  double slots;
  bool packs;
};
constexpr std::array strategies = {
    // magic add, subtract, three fused multiply-adds, exponent by LEA
    Strategy{"poly3", 7, false},
    // for two: 2 FADD, PRMT, LOP3, 3 HFMA2, which is 4.6 and puts bits:9 too far
    // before bits:8 (fitted, as tests/autotune/recorded/first16-h100.json has it)
    Strategy{"bits", 4.8, true},
};

/// Registers of a lane, fitted to what ptxas makes of 450 candidates of nine
/// mixers, of which it tells 90 % of those that spill from those that don't: one
/// held all through is accompanied by others; several columns at once, all of
/// them, and accumulators over latents beside those over tokens take more.
struct Registers {
  double base, held, several, all, joint;
};
const Registers &registersOf(DType dtype) {
  static constexpr Registers bf16 = {32, 1.42, 14, 6, 35},
                             f16 = {47, 0.96, 32, 50, 38},
                             f32 = {21, 3.5, 21, 47, 0};
  return dtype == DType::F32 ? f32 : dtype == DType::F16 ? f16 : bf16;
}

/// Cycles of a quarter of a multiprocessor, the two things that overlap.
struct Cycles {
  double mufu = 0, slots = 0;

  void add(const Cycles &other, double times) {
    mufu += times * other.mufu;
    slots += times * other.slots;
  }
};

Cycles cyclesOf(const Works &w, const Configuration &c) {
  constexpr double warp = 32;
  auto [name, share] = strategyOf(c);
  Cycles cycles;
  double exponentials = of(w, "exponential") / warp, packs = of(w, "pack") / warp;
  for (const Strategy &s : strategies)
    if (name == s.name) {
      cycles.slots += share * exponentials * s.slots;
      if (s.packs)
        packs = std::max(0.0, packs - share * exponentials);
      exponentials *= 1 - share;
    }
  cycles.mufu += 8 * (exponentials + of(w, "special") / warp);
  cycles.slots += exponentials; // issued like any other
  // Two elements by one F2FP, which is the ALU's.
  cycles.slots += packs / 2 * 2;
  cycles.slots += of(w, "elementwise") / warp + 2 * of(w, "special") / warp;
  cycles.slots += 6 * of(w, "mma16") + 4 * of(w, "mma8") + 6 * of(w, "mma_wide");
  // 4 at the full rate; each product is waited for.
  cycles.slots += 5 * of(w, "wgmma");
  cycles.slots += 1.5 * of(w, "transpose"); // MOVM, which half hides
  // A lane's loads of 16 bytes, and addresses; the pipe of shared memory gives
  // a quarter 32 bytes a cycle.
  cycles.slots += of(w, "shared") / 512 * 3;
  cycles.slots += of(w, "parked") / 512 * 4; // addresses of 64 bits
  return cycles;
}

Prediction gpu(const Machine &machine, const SweepFacts &facts,
               const Counts &counts, const Configuration &c,
               const Shape &shape) {
  auto ceilDiv = [](double a, double b) { return std::ceil(a / b); };
  double heads = double(field(c, "heads", 1)), workers = double(field(c, "workers", 1));
  double tile = double(field(c, "tile", 64));
  double groups = double(field(c, "row_groups", 1));
  double resident = double(std::max<int64_t>(1, field(c, "min_blocks", 1)));
  double headGroups = ceilDiv(double(shape.heads), heads);
  double units = std::max(1.0, ceilDiv(double(shape.tokens), tile));
  double splits = splitsOf(facts, counts, c, shape, headGroups * groups, units);
  double blocks = splits * headGroups * groups;
  double tilesOfBlock = ceilDiv(units, splits);

  // One warp: the pairs of a tile, what is once a tile (and the barrier), once.
  Cycles tileCycles = cyclesOf(counts.tile, c);
  tileCycles.add(cyclesOf(counts.pairs, c), counts.pairsOfTile);
  tileCycles.slots += 40; // loop, asynchronous copies, barrier
  Cycles warp = cyclesOf(counts.block, c);
  warp.slots += 400; // prologue: addresses, first loads
  warp.add(tileCycles, tilesOfBlock);

  // Over the limit registers spill, which nothing here can price. ptxas wants
  // some to spare: 498 candidates expected to need 126 of 128 spilled, every one.
  double threads = 32 * heads * workers;
  double limit = std::min(255.0, std::floor(65536 / (threads * resident) / 8) * 8);
  Prediction p;
  int64_t columns = field(c, "unroll"); // at once; 0: all
  const Registers &r = registersOf(shape.dtype);
  bool tokenRows = c.at("rows") == "n", joint = tokenRows && counts.partial > 0;
  p.registers = r.base + r.held * counts.held / 4 / 32 +
                (columns == 1 ? 0 : r.several) +
                (columns == 0 && tokenRows && !joint ? r.all : 0) +
                (joint ? r.joint : 0);
  double allColumns = tokenRows ? ceilDiv(double(facts.latents),
                                          16 * double(field(c, "column_workers", 1)))
                                : tile / 16;
  double atOnce = columns ? std::min(allColumns, double(columns)) : allColumns;
  // wgmma's products are under way together: four columns at once spill at 128
  // registers, eight at 168.
  auto matrix = c.find("matrix");
  bool grouped = matrix != c.end() && matrix->second == "wgmma";
  bool paged = grouped && tokenRows && c.at("park") == "none";
  if (grouped)
    p.registers += 6 * std::max(0.0, atOnce - 2) * double(field(c, "worker_rows", 32)) / 32;
  double spill = std::max(0.0, p.registers + 6 - limit);
  double spills = 1 + 0.02 * spill;

  // Rounds of all multiprocessors; in each a quarter serves its share of warps.
  double warpsOfQuarter = heads * workers * resident / 4;
  double rounds = ceilDiv(blocks, machine.processors * resident);
  // A last round that is not full has its multiprocessors to itself.
  double lastBlocks = blocks - (rounds - 1) * machine.processors * resident;
  double lastResident = ceilDiv(lastBlocks, machine.processors);
  double busy = (rounds - 1) + lastResident / resident;
  // Few warps leave latencies open: measured prototypes with 2 and 4 warps a
  // quarter are within 2 % of one another, one alone is not.
  double exposed = 1 + 0.25 / std::max(1.0, warpsOfQuarter * warpsOfQuarter);
  // What else 7,900 candidates of 25 sweeps on an H100 said (bench/first16.py).
  // Assembled for more blocks than come: their registers lie idle (two of three:
  // 7 %).
  double present = std::min(resident, ceilDiv(blocks, machine.processors));
  double waits = 1 + 0.15 * (resident / present - 1);
  // Workers of a head wait for one another at each tile, and groups of rows fetch
  // the same tokens.
  waits *= 1 + 0.015 * std::log2(workers) + 0.05 * std::log2(groups);
  // A block waits for each page of latents (8, 32, 1024 decode: 16.5 cycles, and 15.3 where they lie there).
  waits *= paged ? 1.08 : 1;
  // Products wait where few columns are under way: 5 % with one of latents beside
  // eight, 1 % with one of tokens. Not those of f32, which registers limit.
  if (shape.dtype != DType::F32)
    waits *= tokenRows ? 1 + 0.018 * (3 - std::log2(std::min(8.0, atOnce)))
                       : (columns == 1 ? 1.01 : 1);
  double scale = std::max(1.0, warpsOfQuarter) * busy * exposed * waits * spills / machine.clock;
  double exps = warp.mufu * scale, slots = warp.slots * scale;
  // Prototypes took more than the larger of the two and less than their sum:
  // cycles per 32 scores 9.2 of (8, 5.5), 6.4 of (4, 5.8), 16.5 of (8, 12.5).
  double compute = 1.05 * std::pow(std::pow(exps, 2.5) + std::pow(slots, 2.5), 0.4);

  double tensors = double(shape.tokens) * double(shape.heads);
  double latentBytes = of(counts.block, "memory") * blocks * heads * workers;
  p.bytes = tensors * (facts.read * groups + facts.written) + latentBytes;
  double partial = counts.partial * splits * double(shape.heads);
  p.bytes += 2 * partial;
  double memory = p.bytes / machine.bandwidth;
  // Parked latents come through the first cache, and where they don't stay there
  // from the second, which gives twice what memory does. Workers of a head are
  // near one another, so that two of them need it once.
  double parked = of(counts.pairs, "parked") * counts.pairsOfTile * tilesOfBlock *
                  blocks * heads * workers;
  double parkedTime = parked / (64 * machine.processors * machine.clock);
  constexpr double firstCache = 128 << 10; // what shared memory leaves of it
  double keptParked = of(counts.pairs, "parked") / 16 * double(facts.latents) * heads * resident;
  if (keptParked > firstCache)
    parkedTime = std::max(parkedTime, parked / std::min(workers, 2.0) / (2 * machine.bandwidth));
  double launches = machine.launch * (counts.merged ? 2 : 1);
  if (paged || of(counts.pairs, "parked") > 0)
    launches += machine.launch; // of who parks
  // Merges read all partial results with few blocks.
  double merge = counts.merged ? partial / (0.4 * machine.bandwidth) : 0;
  p.scores = tensors * double(facts.latents);
  p.parts = {{"exponentials", exps},
             {"issue slots", slots},
             {"memory", memory},
             {"launches", launches + merge}};
  if (parked > 0)
    p.parts["parked"] = parkedTime;
  p.seconds = std::max({compute, memory, parkedTime}) + launches + merge;
  return p;
}

//===----------------------------------------------------------------------===//
// Host
//===----------------------------------------------------------------------===//

/// Vector instructions of a worker's work.
double vectorsOf(const Works &w, const Machine &machine) {
  // 2^x: reduce, five multiply-adds, scale; without AVX-512's two special
  // instructions it is twelve.
  double exponential = machine.lanes >= 16 ? 7 : 12;
  return (of(w, "fma") + of(w, "elementwise") + 2 * of(w, "pack") +
          8 * of(w, "special") + exponential * of(w, "exponential")) /
         machine.lanes;
}

Prediction hostTime(const Machine &machine, const SweepFacts &facts,
                    const Counts &counts, const Configuration &c,
                    const Shape &shape) {
  auto ceilDiv = [](double a, double b) { return std::ceil(a / b); };
  double heads = double(field(c, "heads", 1)), tile = double(field(c, "tile", 16));
  double groups = double(field(c, "row_groups", 1));
  double stages = double(std::max<int64_t>(1, field(c, "stages", 1)));
  bool latentRows = c.at("rows") == "m";
  double headGroups = ceilDiv(double(shape.heads), heads);
  double units = std::max(1.0, ceilDiv(double(shape.tokens), tile));
  double splits = splitsOf(facts, counts, c, shape, headGroups * groups, units);
  double blocks = splits * headGroups * groups;
  double tilesOfBlock = ceilDiv(units, splits);

  // Two vector instructions a cycle, if enough independent chains are under
  // way: an fma takes 4 cycles. Prototypes with 1, 2, 4 and 8 columns: 1.27,
  // 1.23, 1.1 and 1 times the time; 16 spill, 1.7.
  constexpr std::array<double, 5> chains = {1.27, 1.23, 1.1, 1, 1.7};
  size_t step = size_t(std::bit_width(uint64_t(std::max<int64_t>(1, field(c, "unroll", 1)))) - 1);
  double chain = chains[std::min(step, chains.size() - 1)];
  double pairs = vectorsOf(counts.pairs, machine) / 2 * chain * counts.pairsOfTile;
  double once = vectorsOf(counts.tile, machine) / 2;
  // Accumulators come from the cache and go back with each tile.
  constexpr double line = 64;
  once += counts.held * 2 / line;
  // With tokens as rows the latents' operands are read by each tile; those that
  // don't fit the first cache come from the second when a head's turn ends.
  double turn = latentRows ? 20 : 60;
  once += turn / stages;
  double worker = vectorsOf(counts.block, machine) / 2 + 300;
  double cycles = heads * (worker + tilesOfBlock * (pairs + once));

  Prediction p;
  double rounds = ceilDiv(blocks, machine.processors);
  double compute = rounds * cycles / machine.clock;
  // A cache line belongs to several heads: blocks of fewer fetch it again.
  double size = shape.dtype == DType::F32 ? 4 : 2;
  double row = heads * shape.headDim * size;
  double again = std::clamp(line / row, 1.0, double(headGroups));
  double tensors = double(shape.tokens) * double(shape.heads);
  double partial = counts.partial * splits * double(shape.heads);
  p.bytes = tensors * (facts.read * groups * again + facts.written) + 2 * partial;
  double memory = p.bytes / machine.bandwidth;
  double launches = machine.launch * (counts.merged ? 2 : 1);
  double merge = counts.merged ? partial / machine.bandwidth : 0;
  p.scores = tensors * double(facts.latents);
  p.parts = {{"vectors", compute}, {"memory", memory}, {"launches", launches + merge}};
  // Prefetching hides most of it, not all.
  p.seconds = std::max(compute, memory) + 0.3 * std::min(compute, memory) + launches + merge;
  return p;
}

} // namespace

Machine autotune::machineOf(const std::string &target, int cudaDevice) {
  if (target == "host")
    // A core's share of bandwidth as such machines were seen to have it.
    return {.target = target,
            .processors = double(ThreadPool::process().threads()),
            .clock = 2.9e9,
            .bandwidth = 1.1e10 * double(ThreadPool::process().threads()),
            .launch = 4e-6,
            .lanes = hostIsa() == Isa::Avx512 ? 16.0 : 8.0};
  // Clocks are those under this load, below what an idle card shows.
  Machine machine{.target = target, .processors = 132, .clock = 1.78e9,
                  .bandwidth = 2.9e12, .launch = 4e-6, .lanes = 32};
  if (target == "sm_80")
    machine = {.target = target, .processors = 108, .clock = 1.35e9,
               .bandwidth = 1.5e12, .launch = 4e-6, .lanes = 32};
  if (target == "sm_100a")
    machine = {.target = target, .processors = 148, .clock = 1.75e9,
               .bandwidth = 6.5e12, .launch = 4e-6, .lanes = 32};
  if (cudaDevice >= 0 && CudaDriver::available())
    machine.processors = deviceFacts(cudaDevice).multiprocessors;
  return machine;
}

Prediction autotune::predict(const Machine &machine, const SweepFacts &facts,
                             const Counts &counts,
                             const Configuration &configuration,
                             const Shape &shape) {
  return machine.target == "host"
             ? hostTime(machine, facts, counts, configuration, shape)
             : gpu(machine, facts, counts, configuration, shape);
}
