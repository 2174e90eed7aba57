// The rules of docs/artefact.md, section 2, worked by hand.
#include "flarec/sizes.h"
#include "support.h"

using namespace flarec;
using namespace flarec::test;
using testing::HasSubstr;

TEST(Sizes, Splits) {
  SweepSpec sweep{.tile = 64, .heads = 8, .rowGroups = 1, .blocks = 264};
  EXPECT_EQ(splits(sweep, {1, 8, 1 << 20, 1}), 264);
  EXPECT_EQ(splits(sweep, {1, 8, 65, 1}), 2); // no more than tiles
  EXPECT_EQ(splits(sweep, {1, 8, 64, 1}), 1);
  EXPECT_EQ(splits(sweep, {1, 8, 0, 1}), 1);          // N = 0
  EXPECT_EQ(splits(sweep, {3, 9, 1 << 20, 1}), 44);   // 264 / (3 * 2)
  EXPECT_EQ(splits(sweep, {1000, 8, 1 << 20, 1}), 1); // no fewer than one
  EXPECT_EQ(splits(sweep, {0, 8, 1 << 20, 1}), 1);
  EXPECT_EQ(splits(sweep, {1, 0, 1 << 20, 1}), 1);
  sweep.rowGroups = 4;
  EXPECT_EQ(splits(sweep, {1, 8, 1 << 20, 1}), 66);
}

TEST(Sizes, Grids) {
  FunctionSpec function = sampleArtefact().manifest().functions[0];
  EXPECT_EQ(gridBlocks(function, function.kernels[0], {3, 9, 1 << 20, 1}),
            44 * 2 * 3);
  EXPECT_EQ(gridBlocks(function, function.kernels[0], {2, 8, 0, 1}), 2);
  EXPECT_EQ(gridBlocks(function, function.kernels[0], {0, 8, 100, 1}), 0);
  EXPECT_EQ(gridBlocks(function, function.kernels[1], {3, 9, 100, 1}),
            3 * 9 * 4);
  EXPECT_EQ(gridBlocks(function, function.kernels[1], {3, 0, 100, 1}), 0);
}

TEST(Sizes, WorkspaceIsRoundedTensorByTensor) {
  FunctionSpec function = sampleArtefact().manifest().functions[0];
  // Two splits of 8 heads, 128 rows, 8 channels, f32.
  EXPECT_EQ(workspaceBytes(function, {1, 8, 65, 1}), 2 * 8 * 128 * 8 * 4);
  function.tensors.push_back({.name = "delta", .role = Role::Workspace});
  EXPECT_EQ(workspaceBytes(function, {1, 8, 65, 1}),
            2 * 8 * 128 * 8 * 4 + 2304); // 8 * 65 * 4 = 2080
  EXPECT_EQ(workspaceBytes(function, {1, 8, 0, 1}), 8 * 128 * 8 * 4);
  EXPECT_EQ(workspaceBytes(function, {0, 8, 65, 0}), 0);
}

TEST(Sizes, ARangeBelongsToTheBatchAlone) {
  FunctionSpec function = sampleArtefact().manifest().functions[0];
  TensorSpec range{.name = "range",
                   .index = Index::Batch,
                   .rows = 1,
                   .columns = 2,
                   .type = DType::I32};
  EXPECT_EQ(elements(function, range, {3, 8, 100, 1}), 6);
  EXPECT_EQ(elements(function, range, {3, 8, 0, 1}), 6);
}

// Partial results of all sweeps together, and what is between sweeps, for
// shapes of any size.
TEST(Sizes, PartialResultsAreBounded) {
  constexpr int64_t MiB = 1 << 20;
  for (int64_t latents : {16, 128, 1024, 4096})
    for (int64_t columns : {1, 8, 32, 128})
      for (int64_t heads : {1, 8, 100, 70000})
        for (int64_t batch : {1, 3, 64})
          for (int64_t blocks : {64, 264, 4096}) {
            FunctionSpec function;
            function.sweeps = {{.tile = 64, .heads = 4, .blocks = blocks},
                               {.tile = 16, .heads = 8, .blocks = blocks}};
            for (int sweep : {0, 1}) {
              function.tensors.push_back({.name = "partial",
                                          .role = Role::Workspace,
                                          .index = Index::Latents,
                                          .rows = latents,
                                          .columns = columns,
                                          .sweep = sweep});
              function.sweeps[size_t(sweep)].partialBytes =
                  2 * latents * columns * 4; // two sweeps share the bound
            }
            Sizes sizes{batch, heads, 1 << 20, 1};
            int64_t together = headsAtOnce(function, sizes);
            ASSERT_GE(together, 1);
            ASSERT_LE(together, heads);
            int64_t bytes = workspaceBytes(function, sizes);
            if (together > 1 || 2 * batch * latents * columns * 4 <= 64 * MiB) {
              EXPECT_LE(bytes, 64 * MiB + 512)
                  << latents << " " << columns << " " << heads << " " << batch;
            } else {
              EXPECT_EQ(bytes, 2 * batch * latents * columns * 4);
            }
            // One round where that keeps to the bound.
            if (2 * batch * heads * latents * columns * 4 <= 64 * MiB) {
              EXPECT_EQ(together, heads);
            }
          }
}

TEST(Sizes, OverflowIsAnError) {
  FunctionSpec function = sampleArtefact().manifest().functions[0];
  Sizes huge{int64_t(1) << 40, int64_t(1) << 40, 10, 1};
  EXPECT_THAT(errorOf([&] { workspaceBytes(function, huge); }),
              HasSubstr("do not fit in 64 bits"));
  EXPECT_THAT(errorOf([&] { gridBlocks(function, function.kernels[1], huge); }),
              HasSubstr("do not fit"));
  huge.tokens = 0;
  function.tensors = {{.name = "delta", .role = Role::Workspace}};
  EXPECT_EQ(workspaceBytes(function, huge.tokens
                                         ? huge
                                         : Sizes{1, int64_t(1) << 62, 0, 1}),
            0);
}

TEST(Sizes, NonsenseIsAnError) {
  FunctionSpec function = sampleArtefact().manifest().functions[0];
  EXPECT_THAT(errorOf([&] {
                workspaceBytes(function, {-1, 8, 10, 1});
              }),
              HasSubstr("cannot be negative: batch -1"));
  EXPECT_THAT(errorOf([&] {
                workspaceBytes(function, {4, 8, 10, 3});
              }),
              HasSubstr("latents of 3 batches were given for a batch of 4"));
}
