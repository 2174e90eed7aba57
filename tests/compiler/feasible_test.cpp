// The rules of configurations, one a line: what is changed in the heuristic's, and what is said about it. And shared memory as it
// is predicted against what the lowering uses.
#include "passes/Feasible.h"
#include "support.h"
#include "tile/Tile.h"
#include "mlir/AsmParser/AsmParser.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/Diagnostics.h"
#include "llvm/Support/JSON.h"
#include <regex>

using namespace flarec;
using namespace flarec::test;
using namespace mlir;

namespace {

std::string toSweeps(const std::string &target) {
  return "flare-expand,flare-to-base-2,flare-simplify,flare-plan-sweeps{target=" + target + "},flare-share-exponentials{wide=false},flare-configure{target=" +
         target + "}";
}

Program planned(const std::string &source, const std::string &target) {
  Program p(source);
  EXPECT_TRUE(p.run("flare-differentiate{wanted=*}," + toSweeps(target)));
  return p;
}

SmallVector<flare::SweepOp> sweepsOf(Program &p, const std::string &function) {
  SmallVector<flare::SweepOp> r;
  p.function(function).walk([&](flare::SweepOp s) { r.push_back(s); });
  return r;
}

/// Changes fields of a configuration, "tile = 32, heads = 1"; null where the attribute's verifier refuses it, with `why`.
tile::ConfigAttr changed(tile::ConfigAttr config, const std::string &changes, std::string &why) {
  std::string text;
  llvm::raw_string_ostream(text) << config;
  std::regex change(R"((\w+) = ("[^"]*"|[^,]+))");
  for (std::sregex_iterator i(changes.begin(), changes.end(), change), end; i != end; ++i) {
    std::regex field("\\b" + (*i)[1].str() + R"( = ("[^"]*"|[^,>]+))");
    if (std::regex_search(text, field))
      text = std::regex_replace(text, field, i->str());
    else // a field that need not be written
      text.insert(text.size() - 1, ", " + i->str());
  }
  ScopedDiagnosticHandler handler(&context(), [&](Diagnostic &d) {
    why += d.str();
    return success();
  });
  return dyn_cast_or_null<tile::ConfigAttr>(parseAttribute(text, &context()));
}

std::string judge(flare::SweepOp sweep, const std::string &changes, const std::string &target) {
  std::string why;
  tile::ConfigAttr config = changed(cast<tile::ConfigAttr>(sweep.getConfigAttr()), changes, why);
  if (config && failed(feasible(config, sweep, target, why))) {
    EXPECT_FALSE(why.empty()) << changes;
  }
  return why;
}

struct Rule {
  const char *target, *type, *function;
  int sweep;            // of the function
  const char *changes;
  const char *why;      // a part of what is said; empty: it is feasible
};

// Mixers of D = 8, M = 40. Sweeps: forward 0 rows = m (encode), 1 rows = n (decode); backward 0 rows = m (dz), 1 rows = n, which in bf16
// also accumulates dq.
const Rule rules[] = {
    // Each number by itself.
    {"sm_90a", "bf16", "mixer_forward", 0, "tile = 0", "tile = 0 must be a positive multiple of 16, 65536 at most"},
    {"sm_90a", "bf16", "mixer_forward", 0, "tile = -16", "tile = -16 must be a positive multiple of 16"},
    {"sm_90a", "bf16", "mixer_forward", 0, "tile = 24", "tile = 24 must be a positive multiple of 16"},
    {"sm_90a", "bf16", "mixer_forward", 0, "tile = 4611686018427387904", "tile = 4611686018427387904 must be a positive multiple of 16, 65536 at most"},
    {"sm_90a", "bf16", "mixer_forward", 0, "tile = 99999999999999999999", "integer value too large"},
    {"sm_90a", "bf16", "mixer_forward", 0, "worker_rows = 8", "worker_rows = 8 must be a positive multiple of 16"},
    {"sm_90a", "bf16", "mixer_forward", 0, "heads = 0", "heads = 0 must be a positive multiple of 1"},
    {"sm_90a", "bf16", "mixer_forward", 0, "heads = 4611686018427387904", "heads = 4611686018427387904 must be"},
    {"sm_90a", "bf16", "mixer_forward", 0, "workers = 288230376151711744", "workers = 288230376151711744 must be"},
    {"sm_90a", "bf16", "mixer_forward", 0, "blocks = 0", "blocks = 0 must be"},
    {"sm_90a", "bf16", "mixer_forward", 0, "blocks = 9223372036854775807", "blocks = 9223372036854775807 must be"},
    {"sm_90a", "bf16", "mixer_forward", 0, "unroll = -1", "unroll = -1 must be 0 (all) or a number of column blocks"},
    {"sm_90a", "bf16", "mixer_forward", 0, "heads = 33", "heads = 33 of 1 workers are 1056 threads; a block has 1024 at most"},
    {"sm_90a", "bf16", "mixer_forward", 0, "heads = 3", ""},
    // Rows.
    {"sm_90a", "bf16", "mixer_forward", 0, "rows = n, tile = 48", "rows = n, but it attends or sums over n; use rows = m"},
    {"host", "f32", "mixer_forward", 0, "rows = n, tile = 48", "rows = n, but it attends or sums over n; use rows = m"},
    {"sm_90a", "bf16", "mixer_forward", 1, "rows = m", "rows = m, but it makes token values or contracts over m; use rows = n"},
    {"sm_90a", "f32", "mixer_backward", 2, "rows = n, tile = 64", "it contracts f32 pairs over n, and there is no transposition of 32-bit fragments on a GPU"},
    {"sm_90a", "bf16", "mixer_forward", 1, "tile = 128", "must be workers · worker_rows"},
    {"sm_90a", "bf16", "mixer_forward", 1, "row_groups = 7", "row_groups = 7 must be 1 where rows = n"},
    // Latents and who has them.
    {"sm_90a", "bf16", "mixer_forward", 0, "worker_rows = 32", "row_groups = 1 of workers = 1 of worker_rows = 32 are 32 rows for 40 latents; use at least 40, such as worker_rows = 48"},
    {"sm_90a", "bf16", "mixer_forward", 0, "worker_rows = 64", "are 64 rows for 40 latents; worker_rows = 48 would do, so that none is without latents"},
    {"sm_90a", "bf16", "mixer_forward", 0, "workers = 2", "are 96 rows for 40 latents; worker_rows = 32 or workers = 1 would do"},
    {"sm_90a", "bf16", "mixer_forward", 0, "workers = 4, worker_rows = 16", "workers = 3 would do"},
    {"sm_90a", "bf16", "mixer_forward", 0, "row_groups = 7", "are 336 rows for 40 latents; worker_rows = 16 or row_groups = 1 would do"},
    {"sm_90a", "bf16", "mixer_forward", 0, "row_groups = 3, worker_rows = 16", ""},
    {"sm_90a", "bf16", "mixer_forward", 0, "workers = 2, worker_rows = 32", ""},
    {"host", "f32", "mixer_forward", 0, "row_groups = 2, worker_rows = 48", "worker_rows = 32 or row_groups = 1 would do"},
    {"host", "f32", "mixer_forward", 0, "row_groups = 2, worker_rows = 32", ""},
    // The ring, and columns at once.
    {"sm_90a", "bf16", "mixer_forward", 0, "stages = 1", "stages = 1, but a GPU's ring of staged tiles has one to work on and at least one to fill; use 2 to 16"},
    {"sm_90a", "bf16", "mixer_forward", 0, "stages = 17", "stages = 17, but"},
    {"sm_90a", "bf16", "mixer_forward", 0, "unroll = 3", "unroll = 3 does not divide the 4 blocks of 16 columns (tile = 64); use 0 (all), 1, 2 or 4"},
    {"sm_90a", "bf16", "mixer_forward", 0, "unroll = 8", "unroll = 8 does not divide the 4 blocks"},
    {"sm_90a", "bf16", "mixer_forward", 0, "unroll = 2", ""},
    {"sm_90a", "bf16", "mixer_forward", 1, "unroll = 2", "unroll = 2 does not divide the 3 blocks of 16 columns (latents = 40); use 0 (all), 1 or 3"},
    {"sm_90a", "bf16", "mixer_backward", 1, "unroll = 1", "unroll = 1, but accumulators over m beside rows = n lie in registers, so all columns are handled at once; use unroll = 0"},
    {"sm_90a", "bf16", "mixer_backward", 1, "heads = 1, workers = 2, worker_rows = 32, tile = 32, column_workers = 2", "column_workers = 2 do not share out the 3 blocks of 16 latents; use 1 or 3"},
    {"sm_90a", "bf16", "mixer_backward", 1, "heads = 1, workers = 3, worker_rows = 32, tile = 32, column_workers = 3", ""},
    {"sm_90a", "bf16", "mixer_forward", 1, "heads = 1, workers = 3, worker_rows = 32, tile = 32, column_workers = 3", "it attends or sums over m, and only contractions are added up from workers' parts; use column_workers = 1"},
    {"sm_90a", "bf16", "mixer_forward", 0, "tile = 512, heads = 1, stages = 2, min_blocks = 1", "32 blocks of columns at once (unroll = 0) for 3 blocks of rows (worker_rows = 48) are 96 pieces of straight-line code, 64 at most are allowed"},
    {"sm_90a", "bf16", "mixer_forward", 0, "tile = 256, heads = 1, stages = 2, min_blocks = 1", ""},
    {"host", "f32", "mixer_forward", 0, "unroll = 3", "unroll = 3, but with 8 channels the host takes a power of two of at most 16 columns at once"},
    {"host", "f32", "mixer_forward", 0, "unroll = 0", "unroll = 0, but"},
    {"host", "f32", "mixer_forward", 0, "unroll = 32", "unroll = 32, but"},
    {"host", "f32", "mixer_forward", 0, "unroll = 1, stages = 5, tile = 48", ""},
    {"host", "f32", "mixer_forward", 1, "tile = 32, worker_rows = 32", "with rows = n the host takes 16 tokens, one vector, at a time; use tile = 16 and worker_rows = 16"},
    // Groups that multiply together; these mixers have 8 channels.
    {"sm_90a", "bf16", "mixer_forward", 0, "workers = 4, worker_rows = 16, heads = 1, matrix = \"wgmma\"", "matrix = \"wgmma\", but it contracts values of 8 channels, and an instruction takes multiples of 16, 256 at most; use matrix = \"mma\""},
    {"sm_80", "bf16", "mixer_forward", 0, "workers = 4, worker_rows = 16, heads = 1, matrix = \"wgmma\"", "but sm_80 has no matrix instructions of warpgroups; use matrix = \"mma\""},
    {"sm_100a", "bf16", "mixer_forward", 0, "workers = 4, worker_rows = 16, heads = 1, matrix = \"wgmma\"", "but sm_100a has no matrix instructions of warpgroups"},
    {"sm_90a", "f32", "mixer_forward", 0, "workers = 4, worker_rows = 16, heads = 1, matrix = \"wgmma\"", "but f32 tokens are no operands of a 16-bit matrix instruction"},
    {"sm_90a", "bf16", "mixer_backward", 1, "heads = 1, workers = 4, tile = 128, matrix = \"wgmma\"", "but it contracts pairs over their rows, and a group's left operands are not transposed"},
    {"sm_90a", "bf16", "mixer_forward", 1, "heads = 1, workers = 4, tile = 128, park = \"fast\", matrix = \"wgmma\"", "but park = \"fast\", and groups read either all latents' operands from fast memory or pages of them"},
    {"sm_90a", "f16", "mixer_forward", 1, "heads = 1, workers = 4, tile = 128, park = \"none\", matrix = \"wgmma\"", "but park = \"none\", and pages of latents come by for bf16 tokens"},
    {"sm_90a", "bf16", "mixer_forward", 1, "heads = 2, workers = 4, tile = 128, park = \"none\", matrix = \"wgmma\"", "of one head (heads = 1)"},
    // Room.
    {"sm_90a", "bf16", "mixer_forward", 0, "tile = 65536", "bytes of shared memory and has 232448 on sm_90a; use fewer heads, stages or a smaller tile"},
    {"sm_80", "bf16", "mixer_forward", 0, "tile = 2048, unroll = 1", "bytes of shared memory and has 101376 on sm_80"},
    {"sm_90a", "bf16", "mixer_forward", 1, "heads = 4, workers = 8, tile = 256, stages = 16", "or park = \"fast\" or \"none\""},
    {"sm_90a", "bf16", "mixer_forward", 0, "min_blocks = 64", "min_blocks = 64 of 256 threads, but a multiprocessor of sm_90a has room for 2048 threads and 32 blocks; use min_blocks = 8 at most"},
    {"sm_90a", "bf16", "mixer_forward", 0, "tile = 512, unroll = 1, heads = 2, min_blocks = 2", "of shared memory do not fit the 233472 of a multiprocessor of sm_90a; use min_blocks = 1"},
    {"host", "f32", "mixer_forward", 0, "workers = 2, worker_rows = 32", "workers = 2, but on the host a block is one thread; use workers = 1"},
    {"host", "f32", "mixer_forward", 0, "min_blocks = 2", "min_blocks = 2, but on the host a block is one thread"},
    // How exponentials and sums are made, and where operands lie.
    {"sm_90a", "bf16", "mixer_forward", 0, "exp = \"poly3:4\"", ""},
    {"sm_90a", "bf16", "mixer_forward", 0, "exp = \"bits:16\"", ""},
    {"sm_90a", "f16", "mixer_forward", 0, "exp = \"bits:4\"", "which makes exponentials in bf16, but the tokens are f16; use exp = \"mufu\" or \"poly3:4\""},
    {"sm_90a", "f32", "mixer_forward", 0, "exp = \"poly3:4\"", "f32 tokens want exponentials of f32's accuracy; use exp = \"mufu\""},
    {"sm_90a", "bf16", "mixer_forward", 0, "exp = \"poly5\"", "exp = \"poly5\", but on sm_90a exponentials are made one by one; use exp = \"mufu\""},
    {"host", "f32", "mixer_forward", 0, "exp = \"mufu\"", "exp = \"mufu\", but on host exponentials are made by a polynomial on vectors; use exp = \"poly5\""},
    {"sm_90a", "bf16", "mixer_forward", 0, "exp = \"poly3:17\"", "must be \"mufu\", \"poly5\", or \"poly3:k\" or \"bits:k\" with k from 0 to 16"},
    {"sm_90a", "bf16", "mixer_forward", 0, "sums = \"add\"", ""},
    {"sm_90a", "f32", "mixer_forward", 0, "sums = \"mma\"", "sums = \"mma\", but f32 pairs are no operands of a 16-bit matrix instruction; use sums = \"add\""},
    {"host", "bf16", "mixer_forward", 0, "sums = \"mma\"", "sums = \"mma\", but the host has no matrix instruction; use sums = \"add\""},
    {"sm_90a", "bf16", "mixer_forward", 0, "sums = \"tree\"", "sums = \"tree\" must be \"mma\" or \"add\""},
    {"sm_90a", "bf16", "mixer_forward", 0, "park = \"none\"", "park = \"none\" must be \"shared\" where rows = m"},
    {"sm_90a", "bf16", "mixer_forward", 1, "park = \"none\"", ""},
    {"sm_90a", "bf16", "mixer_backward", 1, "park = \"fast\"", ""},
    {"sm_90a", "bf16", "mixer_forward", 0, "park = \"fast\"", "park = \"fast\" must be \"shared\" where rows = m"},
    {"host", "f32", "mixer_forward", 1, "park = \"none\"", "park = \"none\", but on the host parked latents lie in the cache; use park = \"shared\""},
    {"sm_75", "bf16", "mixer_forward", 0, "heads = 1", "unknown target 'sm_75'; known are host, sm_80, sm_90a, sm_100a"},
};

TEST(Feasible, EachRuleSaysWhatIsWrong) {
  std::map<std::string, Program> programs;
  for (const Rule &r : rules) {
    std::string target = isTarget(r.target) ? r.target : "sm_90a";
    auto &p = programs.try_emplace(target + r.type, OwningOpRef<ModuleOp>()).first->second;
    if (!p)
      p = planned(mixer(40, 8, r.type), target);
    auto sweeps = sweepsOf(p, r.function);
    ASSERT_LT(r.sweep, int(sweeps.size()));
    std::string why = judge(sweeps[r.sweep], r.changes, r.target);
    if (*r.why)
      EXPECT_NE(why.find(r.why), std::string::npos) << r.target << " " << r.type << " " << r.changes << ": " << why;
    else
      EXPECT_EQ(why, "") << r.target << " " << r.type << " " << r.changes;
  }
}

// What no configuration helps: the heuristic says so.
struct Hopeless {
  const char *target, *source, *why;
};
const Hopeless hopeless[] = {
    {"host", R"(func.func @f(%a: !flare.tensor<n, d=160, f32>) -> !flare.tensor<n, d=160, f32> {
       %r = flare.neg %a : !flare.tensor<n, d=160, f32>
       return %r : !flare.tensor<n, d=160, f32> })",
     "it reads tokens of 160 channels; the host's kernels take 128 at most"},
    {"host", R"(func.func @f(%a: !flare.tensor<n, d=8, f64>) -> !flare.tensor<n, d=8, f32> {
       %r = flare.neg %a : !flare.tensor<n, d=8, f64>
       return %r : !flare.tensor<n, d=8, f32> })",
     "it reads tokens of type f64; kernels take f32, bf16 and f16"},
    {"sm_90a", R"(func.func @f(%a: !flare.tensor<n, d=8, bf16>, %b: !flare.tensor<n, d=8, f16>) -> !flare.tensor<n, d=8, f32> {
       %r = flare.add %a, %b : !flare.tensor<n, d=8, bf16>, !flare.tensor<n, d=8, f16>
       return %r : !flare.tensor<n, d=8, f32> })",
     "it reads tokens of types bf16 and f16; a GPU's kernels take one 16-bit type beside f32"},
    {"host", R"(func.func @f(%k: !flare.tensor<n, d=8, f32>, %p: !flare.tensor<m=4, d=8, f32>, %q: !flare.tensor<m=9, d=8, f32>)
         -> (!flare.tensor<m=4, d=8, f32>, !flare.tensor<m=9, d=8, f32>) {
       %x = flare.contract %k, %p over d : !flare.tensor<n, d=8, f32>, !flare.tensor<m=4, d=8, f32>
       %y = flare.contract %k, %q over d : !flare.tensor<n, d=8, f32>, !flare.tensor<m=9, d=8, f32>
       %a = flare.contract %x, %k over n : !flare.tensor<n, m=4, f32>, !flare.tensor<n, d=8, f32>
       %b = flare.contract %y, %k over n : !flare.tensor<n, m=9, f32>, !flare.tensor<n, d=8, f32>
       return %a, %b : !flare.tensor<m=4, d=8, f32>, !flare.tensor<m=9, d=8, f32> })",
     "latents; one sweep has one number of them"},
    {"host", R"(func.func @f(%m: !flare.tensor<m=4, f32>) -> !flare.tensor<m=4, f32> {
       %r = flare.sweep -> !flare.tensor<m=4, f32> {
         %a = flare.neg %m : !flare.tensor<m=4, f32>
         flare.yield %a : !flare.tensor<m=4, f32>
       }
       return %r : !flare.tensor<m=4, f32> })",
     "it reads no tokens"},
    {"host", R"(func.func @f(%k: !flare.tensor<n, d=8, f32>, %q: !flare.tensor<m=4, d=8, f32>) -> (!flare.tensor<m=4, d=8, f32>, !flare.tensor<n, d=8, f32>) {
       %r:2 = flare.sweep -> !flare.tensor<m=4, d=8, f32>, !flare.tensor<n, d=8, f32> {
         %x = flare.contract %k, %q over d : !flare.tensor<n, d=8, f32>, !flare.tensor<m=4, d=8, f32>
         %z, %l = flare.attend %x, %k over n : !flare.tensor<n, m=4, f32>, !flare.tensor<n, d=8, f32> -> !flare.tensor<m=4, d=8, f32>, !flare.tensor<m=4, f32>
         %a = flare.neg %k : !flare.tensor<n, d=8, f32>
         flare.yield %z, %a : !flare.tensor<m=4, d=8, f32>, !flare.tensor<n, d=8, f32>
       }
       return %r#0, %r#1 : !flare.tensor<m=4, d=8, f32>, !flare.tensor<n, d=8, f32> })",
     "make two sweeps of it"},
    {"host", R"(func.func @f(%k: !flare.tensor<n, d=8, f32>) -> !flare.tensor<d=8, f32> {
       %r = flare.sum %k over n : !flare.tensor<n, d=8, f32>
       return %r : !flare.tensor<d=8, f32> })",
     "it makes or reads !flare.tensor<d=8, f32> without tokens or latents; a kernel has rows of either"},
    {"host", R"(func.func @f(%k: !flare.tensor<n, d=8, f32>, %q: !flare.tensor<m=4, d=8, f32>) -> !flare.tensor<n, d=8, f32> {
       %x = flare.mul %k, %q : !flare.tensor<n, d=8, f32>, !flare.tensor<m=4, d=8, f32>
       %r = flare.sum %x over m : !flare.tensor<n, m=4, d=8, f32>
       return %r : !flare.tensor<n, d=8, f32> })",
     "with channels; pairs are numbers: contract over d first"},
    {"host", R"(func.func @f(%k: !flare.tensor<n, d=8, f32>, %q: !flare.tensor<m=4, d=8, f32>, %w: !flare.tensor<n, f32>) -> !flare.tensor<m=4, f32> {
       %x = flare.contract %k, %q over d : !flare.tensor<n, d=8, f32>, !flare.tensor<m=4, d=8, f32>
       %y = flare.cast %x : !flare.tensor<n, m=4, f32> -> !flare.tensor<n, m=4, bf16>
       %r = flare.sum %y over n : !flare.tensor<n, m=4, bf16>
       return %r : !flare.tensor<m=4, f32> })",
     "by a cast of pairs; they are rounded where they are contracted"},
    {"host", R"(func.func @f(%k: !flare.tensor<n, d=8, f32>, %q: !flare.tensor<m=4, d=8, f32>, %w: !flare.tensor<n, f32>) -> !flare.tensor<m=4, f32> {
       %x = flare.contract %k, %q over d : !flare.tensor<n, d=8, f32>, !flare.tensor<m=4, d=8, f32>
       %r = flare.contract %x, %x over n : !flare.tensor<n, m=4, f32>, !flare.tensor<n, m=4, f32>
       return %r : !flare.tensor<m=4, f32> })",
     "by contracting two pair values; multiply them with flare.mul and add up with flare.sum"},
    {"host", R"(func.func @f(%k: !flare.tensor<n, d=8, f32>, %q: !flare.tensor<m=4, d=8, f32>) -> !flare.tensor<m=4, d=8, f32> {
       %x = flare.contract %k, %q over d : !flare.tensor<n, d=8, f32>, !flare.tensor<m=4, d=8, f32>
       %y = flare.contract %x, %q over m : !flare.tensor<n, m=4, f32>, !flare.tensor<m=4, d=8, f32>
       %r = flare.contract %x, %y over n : !flare.tensor<n, m=4, f32>, !flare.tensor<n, d=8, f32>
       return %r : !flare.tensor<m=4, d=8, f32> })",
     "a kernel meets each block of pairs once"},
    {"host", R"(func.func @f(%k: !flare.tensor<n, d=12, f32>) -> !flare.tensor<n, f32> {
       %e = flare.exp2 %k : !flare.tensor<n, d=12, f32>
       %r = flare.sum %e over d : !flare.tensor<n, d=12, f32>
       return %r : !flare.tensor<n, f32> })",
     "adds up what is not 0 in the channels that pad it to a power of two; use as many channels"},
    {"sm_90a", R"(func.func @f(%k: !flare.tensor<n, d=4, f32>) -> !flare.tensor<n, f32> {
       %s = flare.sum %k over d : !flare.tensor<n, d=4, f32>
       %e = flare.add %k, %s : !flare.tensor<n, d=4, f32>, !flare.tensor<n, f32>
       %r = flare.contract %e, %e over d : !flare.tensor<n, d=4, f32>, !flare.tensor<n, d=4, f32>
       return %r : !flare.tensor<n, f32> })",
     "adds up what is not 0 in the channels that pad it"},
};

TEST(Feasible, WhatNoConfigurationHelps) {
  for (const Hopeless &h : hopeless) {
    Program p(h.source);
    std::string why;
    ScopedDiagnosticHandler handler(&context(), [&](Diagnostic &d) {
      why += d.str();
      return success();
    });
    std::string target = h.target, plan = std::string(h.source).find("flare.sweep") == std::string::npos ? "flare-plan-sweeps{target=" + target + "}," : "";
    EXPECT_FALSE(p.tries(plan + "flare-configure{target=" + target + "}")) << h.why;
    EXPECT_NE(why.find("the heuristic finds no configuration: "), std::string::npos) << why;
    EXPECT_NE(why.find(h.why), std::string::npos) << why;
  }
}

// The heuristic is feasible wherever a mixer is: flare-configure checks.
TEST(Feasible, TheHeuristicIs) {
  for (const char *target : {"host", "sm_80", "sm_90a", "sm_100a"})
    for (const char *type : {"bf16", "f32"})
      for (int d : {4, 8, 16, 32})
        for (int m : {1, 16, 17, 48, 80, 113, 144, 176, 209, 256, 272, 337, 400, 464, 512})
          planned(mixer(m, d, type), target);
}

TEST(Feasible, SharedMemoryIsAsPredicted) {
  int count = 0;
  for (const char *type : {"bf16", "f32"})
    for (auto [d, m] : {std::pair(4, 17), std::pair(8, 40), std::pair(32, 20)})
      for (std::string changes : {"", "heads = 3, stages = 2, blocks = 7", "park = \"none\"", "park = \"fast\""}) {
        Program p = planned(mixer(m, d, type), "sm_90a");
        std::map<std::string, std::vector<int64_t>> predicted;
        for (std::string f : {"mixer_forward", "mixer_backward"})
          for (flare::SweepOp sweep : sweepsOf(p, f)) {
            auto config = cast<tile::ConfigAttr>(sweep.getConfigAttr());
            std::string why;
            if (!changes.empty() && (config.getRows() == flare::Index::n || changes[0] == 'h'))
              config = changed(config, changes, why);
            ASSERT_TRUE(config) << why;
            ASSERT_TRUE(succeeded(feasible(config, sweep, "sm_90a", why))) << why;
            sweep.setConfigAttr(config);
            predicted[f].push_back(sharedBytes(config, sweep));
          }
        ASSERT_TRUE(p.run("flare-to-tile{target=sm_90a},tile-assign-layouts{target=sm_90a},tile-park,cse,tile-to-nvvm{target=sm_90a}"));
        auto manifest = llvm::cantFail(llvm::json::parse(p.module->getOperation()->getAttrOfType<StringAttr>("flarec.manifest").getValue()));
        for (auto &f : *manifest.getAsArray()) {
          auto &expected = predicted[f.getAsObject()->getString("name")->str()];
          for (auto &k : *f.getAsObject()->getArray("kernels"))
            if (k.getAsObject()->getString("grid") == "sweep") {
              EXPECT_EQ(k.getAsObject()->getInteger("shared"), expected[*k.getAsObject()->getInteger("sweep")])
                  << type << " D = " << d << ", M = " << m << " " << changes << " " << k.getAsObject()->getString("symbol")->str();
              ++count;
            }
        }
      }
  EXPECT_GT(count, 60);
}

} // namespace
