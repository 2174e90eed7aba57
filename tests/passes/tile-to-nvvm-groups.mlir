// Four neighbouring workers multiply together (matrix = "wgmma"): 64 rows, right operands as they lie in shared memory.
// RUN: flarec compile --head-dim 64 --latents 64 --target sm_90a --emit sweeps | FileCheck %s --check-prefix=SWEEPS
// RUN: flarec compile --head-dim 64 --latents 64 --target sm_90a --emit ptx | FileCheck %s
// RUN: flarec compile --head-dim 64 --latents 64 --target sm_80 --emit ptx | FileCheck %s --check-prefix=EARLIER
// RUN: flarec compile --head-dim 64 --latents 64 --target sm_90a --config '{mixer_forward = [{matrix = "mma"}, {matrix = "mma"}]}' --emit ptx | FileCheck %s --check-prefix=EARLIER
// RUN: not flarec compile --head-dim 64 --latents 64 --target sm_90a --config '{mixer_forward = [{workers = 2, worker_rows = 32}, {}]}' --emit ptx 2>&1 | FileCheck %s --check-prefix=THREE

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
