// Four neighbouring workers multiply together (matrix = "wgmma"): 64 rows, right operands as they lie in shared memory.
// RUN: flarec compile --head-dim 64 --latents 64 --target sm_90a --emit sweeps | FileCheck %s --check-prefix=SWEEPS
// RUN: flarec compile --head-dim 64 --latents 64 --target sm_90a --emit ptx | FileCheck %s
// RUN: flarec compile --head-dim 64 --latents 64 --target sm_80 --emit ptx | FileCheck %s --check-prefix=EARLIER
// RUN: flarec compile --head-dim 64 --latents 64 --target sm_90a --config '{mixer_forward = [{matrix = "mma"}, {matrix = "mma"}]}' --emit ptx | FileCheck %s --check-prefix=EARLIER
// RUN: not flarec compile --head-dim 64 --latents 64 --target sm_90a --config '{mixer_forward = [{workers = 2, worker_rows = 32}, {}]}' --emit ptx 2>&1 | FileCheck %s --check-prefix=THREE
// Edited by hand: groups where layouts are none of theirs, none where they are, another target.
// RUN: flarec compile --head-dim 64 --latents 64 --target sm_90a --dump-stages %t -o %t.flare
// RUN: sed 's/, matrix = "wgmma"//' %t/3-tile.mlir > %t-tile.mlir
// RUN: not flarec compile --head-dim 64 --latents 64 --target sm_90a --from-stage %t-tile.mlir -o %t.flare 2>&1 | FileCheck %s --check-prefix=THEIRS
// RUN: flarec compile --head-dim 8 --latents 64 --target sm_90a --dump-stages %t -o %t.flare --config '{mixer_forward = [{workers = 4, worker_rows = 16, heads = 1}, {workers = 4, heads = 1, tile = 128}]}'
// RUN: sed -E 's/(park = "shared", min_blocks = [0-9]+)/\1, matrix = "wgmma"/' %t/3-tile.mlir > %t-tile.mlir
// RUN: not flarec compile --head-dim 8 --latents 64 --target sm_90a --from-stage %t-tile.mlir -o %t.flare 2>&1 | FileCheck %s --check-prefix=NOTHEIRS
// RUN: flarec compile --head-dim 64 --latents 64 --target sm_90a --dump-stages %t -o %t.flare
// RUN: not flarec compile --head-dim 64 --latents 64 --target sm_80 --from-stage %t/3-tile.mlir -o %t.flare 2>&1 | FileCheck %s --check-prefix=OTHER
// A whole configuration from before there was a choice keeps its instruction.
// RUN: flarec compile --head-dim 64 --latents 64 --target sm_90a --emit tile --config '{mixer_forward = [{blocks = 264, column_workers = 1, exp = "mufu", heads = 1, min_blocks = 2, park = "shared", row_groups = 1, rows = "m", stages = 2, sums = "mma", tile = 64, unroll = 4, worker_rows = 16, workers = 4}, {}]}' | FileCheck %s --check-prefix=BEFORE

// THEIRS: 'tile.contract' op has a right operand laid out for groups of workers, which this configuration does not have
// NOTHEIRS: 'tile.contract' op does not fit the instructions of groups, which take 16-bit operands of a multiple of 16 channels, laid out for them
// OTHER: sm_80: the code has matrix instructions of warpgroups, which only sm_90a has
// BEFORE: "sweep" sweep 0 config <rows = m, {{.*}} workers = 4, {{.*}} min_blocks = 2> {
// BEFORE: "sweep" sweep 1 config <rows = n, {{.*}} matrix = "wgmma"> {

// SWEEPS: rows = m, {{.*}} workers = 4, worker_rows = 16, {{.*}} unroll = 4, {{.*}} matrix = "wgmma"
// SWEEPS: rows = n, {{.*}} worker_rows = 16, {{.*}} matrix = "wgmma"

// Swizzles of 128 bytes repeat after 1024.
// CHECK: .extern .shared .align 1024
// CHECK-LABEL: .entry mixer_forward_sweep_0(
// What copies have written is to be seen past the way that loads take, before the barrier.
// CHECK: cp.async.wait_group
// CHECK: fence.proxy.async.shared::cta;
// CHECK: bar{{.*}}.sync
// A group is in one loop: it asks together.
// CHECK: bar.red.and.pred {{.*}}, 128, 
// 16 channels a step for 64 tokens at once, from nothing: the upper half of a descriptor is the stride of 8 rows of 128 bytes, and the swizzle.
// CHECK: wgmma.fence.sync.aligned;
// CHECK: mov.b64 right, {low, 1073741888};
// CHECK-NEXT: wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {{.*}}, right, nothing, 1, 1, 0;
// CHECK: add.s32 low, {{.*}}, 2;
// CHECK: wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {{.*}}, right, all, 1, 1, 0;
// CHECK: wgmma.commit_group.sync.aligned;
// CHECK-NEXT: wgmma.wait_group.sync.aligned 0;
// Sums of weights by a warp's own instruction, then their products with v, 16 tokens a step: K along rows.
// CHECK: mma.sync.aligned.m16n8k16
// CHECK: wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {{.*}}, right, all, 1, 1, 1;
// CHECK: add.s32 low, {{.*}}, 128;
// CHECK: wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {{.*}}, right, all, 1, 1, 1;

// EARLIER-NOT: wgmma
// EARLIER-NOT: fence.proxy

// THREE: matrix = "wgmma" takes workers in groups of 4 that all have rows of their own: workers = 2, column_workers = 1 must be a multiple of 4, and 1
