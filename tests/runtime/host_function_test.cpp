// Functions on the host, their kernels written in C by the rules of
// docs/artefact.md, section 3.
#include "flarec/function.h"
#include "support.h"

#include <numeric>
#include <thread>

using namespace flarec;
using namespace flarec::test;
using testing::HasSubstr;

namespace {

const ParallelFor serially = [](int64_t count, const auto &body) {
  body(0, count);
};

/// Copies its slots to the address in the slot of the last result. The harness
/// knows how many there are.
std::string copySlots(int count, int resultTensor) {
  return "#include <stdint.h>\n#include <string.h>\n"
         "void copy(const uint64_t *s, int64_t b, void *m) { memcpy((void "
         "*)s[" +
         std::to_string(4 * resultTensor) + "], s, " +
         std::to_string(8 * count) + "); }\n";
}

KernelSpec single(const std::string &symbol) {
  return {.symbol = symbol, .grid = Grid::Latents};
}

} // namespace

TEST(HostFunction, SlotsAreThePages) {
  FunctionSpec function;
  function.name = "f";
  function.tensors = {
      {.name = "q",
       .index = Index::Latents,
       .rows = 5,
       .columns = 8,
       .type = DType::BF16},
      {.name = "k", .columns = 8, .type = DType::BF16},
      {.name = "out", .role = Role::Result},
      {.name = "z_partial",
       .role = Role::Workspace,
       .index = Index::Latents,
       .rows = 5,
       .columns = 8,
       .sweep = 1},
      {.name = "lse",
       .role = Role::Workspace,
       .index = Index::Latents,
       .rows = 5},
      {.name = "delta", .role = Role::Workspace, .type = DType::BF16},
  };
  function.scalars = {{"scale"}, {"other"}};
  function.sweeps = {{.tile = 64, .heads = 1, .rowGroups = 1, .blocks = 1},
                     {.tile = 10, .heads = 2, .rowGroups = 1, .blocks = 20}};
  function.kernels = {single("copy")};
  constexpr int slotCount = 6 * 4 + 4 + 2 + 2;
  auto module = Module::load(hostArtefact(function, copySlots(slotCount, 2)));
  const Function &f = module->function("f");

  Sizes sizes{2, 3, 100, 1}; // groups of sweep 1: 2 * 2, so 5 splits
  constexpr int64_t z = 2 * 5 * 3 * 5 * 8 * 4, lse = 2 * 3 * 5 * 4,
                    delta = 2 * 3 * 100 * 2;
  constexpr int64_t zRounded = (z + 255) / 256 * 256, lseRounded = 256,
                    deltaRounded = (delta + 255) / 256 * 256;
  static_assert(lse <= 256);
  EXPECT_EQ(f.workspaceBytes(sizes), zRounded + lseRounded + deltaRounded);

  std::vector<uint64_t> out(slotCount, 99), q(1), k(1);
  alignas(64) static char workspace[zRounded + lseRounded + deltaRounded];
  std::vector<TensorRef> tensors = {
      {q.data(), 0, 40, 8}, {k.data(), -1, 2, 3}, {out.data(), 4, 5, 6}};
  std::vector<float> scalars = {-0.5f, 2.0f};
  f.launchHost(sizes, tensors, scalars, workspace, serially);

  auto address = [](const void *p) { return reinterpret_cast<uint64_t>(p); };
  std::vector<uint64_t> expected = {address(q.data()),
                                    0,
                                    40,
                                    8, //
                                    address(k.data()),
                                    uint64_t(-1),
                                    2,
                                    3, //
                                    address(out.data()),
                                    4,
                                    5,
                                    6, //
                                    address(workspace),
                                    5 * 3 * 5 * 8,
                                    5 * 8,
                                    8, // b stride over all splits
                                    address(workspace) + zRounded,
                                    3 * 5,
                                    5,
                                    1, // no channels
                                    address(workspace) + zRounded + lseRounded,
                                    300,
                                    100,
                                    1, //
                                    2,
                                    3,
                                    100,
                                    1, // B, H, N, BQ
                                    1,
                                    5, // splits
                                    0xbf000000,
                                    0x40000000}; // -0.5, 2
  EXPECT_EQ(out, expected);
}

// 2 MiB of partial results a head: 32 heads fit the bound.
TEST(HostFunction, HeadsAreLaunchedInRoundsWherePartialResultsAreMany) {
  FunctionSpec function;
  function.name = "f";
  function.tensors = {{.name = "out",
                       .role = Role::Result,
                       .index = Index::Latents,
                       .rows = 1},
                      {.name = "partial",
                       .role = Role::Workspace,
                       .index = Index::Latents,
                       .rows = 4096,
                       .columns = 128,
                       .sweep = 0}};
  function.sweeps = {{.tile = 64, .heads = 4, .rowGroups = 1, .blocks = 64}};
  function.kernels = {single("f")};
  auto module = Module::load(hostArtefact(
      function, "#include <stdint.h>\n"
                "void f(const uint64_t *s, int64_t b, void *m) {"
                " ((float *)s[0])[b * (int64_t)s[2]] += (float)s[9]; }\n"));
  const Function &f = module->function("f");
  Sizes sizes{1, 40, 1 << 20, 1};
  EXPECT_EQ(f.workspaceBytes(sizes), 64 << 20);
  std::vector<float> out(3 * 40), expected(3 * 40);
  for (int head = 0; head < 40; ++head)
    expected[size_t(3 * head)] = head < 32 ? 32.0f : 8.0f;
  std::vector<TensorRef> tensors = {{out.data(), 120, 3, 1}};
  alignas(64) static char workspace[64]; // not touched by this kernel
  f.launchHost(sizes, tensors, {}, workspace, serially);
  EXPECT_EQ(out, expected);
}

namespace {

// y[b,h,m] = s * sum over n and d of x[b,h,n,d], through partial sums over
// splits.
const char *sumSource = R"(
#include <stdint.h>
typedef struct { float *p; int64_t b, h, r; } T;
enum { X = 0, Y = 4, P = 8, B = 12, H, N, BQ, S, SCALE };
#define MIN(a, b) ((a) < (b) ? (a) : (b))
void partial(const uint64_t *s, int64_t block, void *scratch) {
  const T *x = (const T *)(s + X), *p = (const T *)(s + P);
  int64_t groups = ((int64_t)s[H] + 1) / 2, splits = s[S], n = s[N];
  int64_t split = block % splits, group = block / splits % groups, b = block / splits / groups;
  int64_t units = (n + 15) / 16, begin = MIN(n, units * split / splits * 16), end = MIN(n, units * (split + 1) / splits * 16);
  float *keep = scratch; // 64 aligned floats of our own
  if ((uint64_t)keep % 64) return;
  for (int64_t h = 2 * group; h < MIN(2 * group + 2, (int64_t)s[H]); ++h) {
    for (int m = 0; m < 3; ++m) keep[m] = 0;
    for (int64_t i = begin; i < end; ++i)
      for (int d = 0; d < 4; ++d)
        for (int m = 0; m < 3; ++m) keep[m] += x->p[b * x->b + h * x->h + i * x->r + d] * (m + 1);
    for (int m = 0; m < 3; ++m) p->p[b * p->b + split * s[H] * 3 + h * p->h + m * p->r] = keep[m];
  }
}
void combine(const uint64_t *s, int64_t block, void *scratch) {
  const T *y = (const T *)(s + Y), *p = (const T *)(s + P);
  int64_t h = block % (int64_t)s[H], b = block / (int64_t)s[H];
  union { uint32_t i; float f; } scale = { (uint32_t)s[SCALE] };
  for (int m = 0; m < 3; ++m) {
    float sum = 0;
    for (int64_t split = 0; split < (int64_t)s[S]; ++split) sum += p->p[b * p->b + split * s[H] * 3 + h * p->h + m * p->r];
    y->p[b * y->b + h * y->h + m * y->r] = sum * scale.f;
  }
}
)";

FunctionSpec sumFunction() {
  FunctionSpec function;
  function.name = "sum";
  function.tensors = {
      {.name = "x", .columns = 4},
      {.name = "y", .role = Role::Result, .index = Index::Latents, .rows = 3},
      {.name = "partial",
       .role = Role::Workspace,
       .index = Index::Latents,
       .rows = 3,
       .sweep = 0}};
  function.scalars = {{"scale"}};
  function.sweeps = {{.tile = 16, .heads = 2, .rowGroups = 1, .blocks = 24}};
  function.kernels = {{.symbol = "partial", .grid = Grid::Sweep, .shared = 200},
                      {.symbol = "combine", .grid = Grid::Latents}};
  return function;
}

/// Runs `sum` on tokens-major [B,N,H,4] and compares with a plain loop.
void checkSum(const Function &f, int64_t batch, int64_t heads, int64_t tokens,
              const ParallelFor &parallelFor) {
  std::vector<float> x(size_t(batch * heads * tokens * 4)),
      y(size_t(batch * heads * 3), -1);
  for (size_t i = 0; i < x.size(); ++i)
    x[i] = float(i % 7) - 2;
  Sizes sizes{batch, heads, tokens, 1};
  std::vector<char> memory(size_t(f.workspaceBytes(sizes)) + 64, char(0xff));
  void *workspace = memory.data() +
                    (64 - reinterpret_cast<uint64_t>(memory.data()) % 64) % 64;
  TensorRef tensors[] = {{x.data(), tokens * heads * 4, 4, heads * 4},
                         {y.data(), heads * 3, 3, 1}};
  float scalars[] = {0.5f};
  f.launchHost(sizes, tensors, scalars, workspace, parallelFor);
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t h = 0; h < heads; ++h)
      for (int64_t m = 0; m < 3; ++m) {
        double sum = 0;
        for (int64_t n = 0; n < tokens; ++n)
          for (int64_t d = 0; d < 4; ++d)
            sum += x[size_t(((b * tokens + n) * heads + h) * 4 + d)];
        ASSERT_EQ(y[size_t((b * heads + h) * 3 + m)],
                  float(sum * double(m + 1) * 0.5))
            << b << h << m;
      }
}

} // namespace

TEST(HostFunction, SplitSumWithOddSizes) {
  auto module = Module::load(hostArtefact(sumFunction(), sumSource));
  const Function &f = module->function("sum");
  for (int64_t batch : {0, 1, 2, 3})
    for (int64_t heads : {0, 1, 2, 5})
      for (int64_t tokens : {0, 1, 15, 16, 17, 100, 1000})
        checkSum(f, batch, heads, tokens, defaultParallelFor());
}

TEST(HostFunction, ManyThreadsLaunchOneFunction) {
  auto module = Module::load(hostArtefact(sumFunction(), sumSource));
  const Function &f = module->function("sum");
  std::vector<std::thread> threads;
  for (int t = 0; t < 6; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 20; ++i)
        checkSum(f, 1 + t % 3, 3, 50 + i,
                 t % 2 ? serially : defaultParallelFor());
    });
  for (std::thread &thread : threads)
    thread.join();
}

TEST(HostFunction, LaunchAfterFork) {
  auto module = Module::load(hostArtefact(sumFunction(), sumSource));
  const Function &f = module->function("sum");
  checkSum(f, 2, 3, 100, defaultParallelFor());
  EXPECT_EQ(inChild([&] {
              alarm(20);
              checkSum(f, 2, 3, 100, defaultParallelFor());
              return testing::Test::HasFailure() ? 1 : 0;
            }),
            0);
}

TEST(HostFunction, GridOfNoBlocksIsNotLaunched) {
  auto module = Module::load(hostArtefact(sumFunction(), sumSource));
  int calls = 0;
  std::vector<TensorRef> tensors(2);
  std::vector<float> scalars = {1};
  module->function("sum").launchHost({0, 3, 10, 1}, tensors, scalars, nullptr,
                                     [&](int64_t, const auto &) { ++calls; });
  EXPECT_EQ(calls, 0);
}

TEST(HostFunction, VariantIsTheFirstWhoseLayoutHolds) {
  FunctionSpec function;
  function.name = "f";
  function.tensors = {{.name = "k", .columns = 8, .type = DType::BF16},
                      {.name = "out",
                       .role = Role::Result,
                       .index = Index::Latents,
                       .rows = 1}};
  function.kernels = {
      {.symbol = "none",
       .grid = Grid::Latents,
       .variants = {{"v16", 16, {0}}, {"v4", 4, {0}}, {"any", 0, {}}}}};
  auto write = [](const char *name, int value) {
    return std::string("void ") + name +
           "(const uint64_t *s, int64_t b, void *m) { *(float *)s[4] = " +
           std::to_string(value) + "; }\n";
  };
  // There is no symbol "none": with variants a kernel's own name is not looked
  // for.
  std::string source = "#include <stdint.h>\n" + write("v16", 16) +
                       write("v4", 4) + write("any", 1);
  auto module = Module::load(hostArtefact(function, source));
  alignas(64) static char memory[1024];
  auto chosen = [&](Sizes sizes, TensorRef k) {
    float out = 0;
    TensorRef tensors[] = {k, {&out, 0, 0, 0}};
    module->function("f").launchHost(sizes, tensors, {}, nullptr, serially);
    return out;
  };
  // bf16: a stride of 8 elements is 16 bytes.
  EXPECT_EQ(chosen({1, 1, 4, 1}, {memory, 0, 0, 8}), 16);
  EXPECT_EQ(chosen({1, 1, 4, 1}, {memory + 4, 0, 0, 8}), 4);
  EXPECT_EQ(chosen({1, 1, 4, 1}, {memory + 2, 0, 0, 8}), 1);
  EXPECT_EQ(chosen({1, 1, 4, 1}, {memory, 0, 0, 10}), 4);
  EXPECT_EQ(chosen({1, 1, 4, 1}, {memory, 0, 0, 9}), 1);
  // A stride over an axis of extent 1 does not matter, over one of 2 it does.
  EXPECT_EQ(chosen({1, 1, 1, 1}, {memory, 7, 7, 7}), 16);
  EXPECT_EQ(chosen({1, 2, 1, 1}, {memory, 7, 7, 7}), 1);
  EXPECT_EQ(chosen({2, 1, 1, 1}, {memory, 2, 7, 7}), 4);
}

TEST(HostFunction, NoVariantThatHoldsIsAnError) {
  FunctionSpec function;
  function.name = "f";
  function.tensors = {{.name = "k", .columns = 8},
                      {.name = "out", .role = Role::Result}};
  function.kernels = {{.symbol = "copy",
                       .grid = Grid::Latents,
                       .variants = {{"copy", 16, {0, 1}}}}};
  auto module = Module::load(hostArtefact(function, copySlots(1, 1)));
  alignas(64) static char memory[1024];
  TensorRef tensors[] = {{memory + 4, 0, 0, 8}, {memory + 512, 0, 0, 1}};
  EXPECT_THAT(
      errorOf([&] {
        module->function("f").launchHost({1, 1, 1, 1}, tensors, {}, nullptr,
                                         serially);
      }),
      HasSubstr(
          "addresses and strides of k out must be multiples of 16 bytes"));
}

TEST(HostFunction, WrongCallsAreNamed) {
  auto module = Module::load(hostArtefact(sumFunction(), sumSource));
  const Function &f = module->function("sum");
  alignas(64) static float memory[4096];
  TensorRef good[] = {{memory, 0, 0, 4}, {memory, 0, 0, 1}},
            null[] = {{}, {memory, 0, 0, 1}};
  float scale[] = {1};
  Sizes sizes{1, 1, 10, 1};
  auto error = [&](std::span<const TensorRef> tensors,
                   std::span<const float> scalars, void *workspace) {
    return errorOf(
        [&] { f.launchHost(sizes, tensors, scalars, workspace, serially); });
  };
  EXPECT_EQ(error(good, scale, memory), "(no error)");
  EXPECT_EQ(error({good, 1}, scale, memory),
            "sum takes 2 tensors, 1 were given");
  EXPECT_EQ(error(good, {}, memory), "sum takes 1 scalars, 0 were given");
  EXPECT_THAT(error(null, scale, memory), HasSubstr("x of sum has no data"));
  EXPECT_THAT(error(good, scale, nullptr),
              HasSubstr("sum needs a workspace of 256 bytes"));
  EXPECT_THAT(error(good, scale, memory + 1),
              HasSubstr("must be a multiple of 64"));
  EXPECT_THAT(errorOf([&] { f.launch(sizes, good, scale, memory, {}); }),
              HasSubstr("compiled for the host"));
  EXPECT_THAT(errorOf([&] { module->function("product"); }),
              HasSubstr("no function product; it has sum"));
  auto gpu = Module::load(std::make_shared<Artefact>(sampleArtefact()));
  EXPECT_THAT(errorOf([&] {
                gpu->function("mixer_forward")
                    .launchHost(sizes, good, scale, memory, serially);
              }),
              HasSubstr("compiled for sm_90a, not for the host"));
}

TEST(HostFunction, MissingSymbolIsFoundOnLoading) {
  FunctionSpec function = sumFunction();
  function.kernels[1].symbol = "absent";
  EXPECT_THAT(errorOf([&] { Module::load(hostArtefact(function, sumSource)); }),
              HasSubstr("no symbol absent"));
}

TEST(HostFunction, ExceptionOfTheCallersLoopPasses) {
  auto module = Module::load(hostArtefact(sumFunction(), sumSource));
  alignas(64) static float memory[4096];
  TensorRef tensors[] = {{memory, 0, 0, 4}, {memory, 0, 0, 1}};
  float scale[] = {1};
  EXPECT_THROW(
      module->function("sum").launchHost(
          {1, 1, 10, 1}, tensors, scale, memory,
          [](int64_t, const auto &) { throw std::logic_error("stop"); }),
      std::logic_error);
}
