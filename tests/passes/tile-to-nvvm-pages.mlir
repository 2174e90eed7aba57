// What groups multiply by and fast memory has no room for comes through it page by page: 512 latents of 32 channels as dk and dv want them.
// RUN: flarec compile --head-dim 32 --latents 512 --grad --target sm_90a --emit tile | FileCheck %s --check-prefix=TILE
// RUN: flarec compile --head-dim 32 --latents 512 --grad --target sm_90a --emit nvvm | FileCheck %s
// Of another size, by hand.
// RUN: flarec compile --head-dim 32 --latents 512 --grad --target sm_90a --dump-stages %t -o %t.flare
// RUN: sed -E 's/m=32, d=[0-9]{3,}, f32/m=32, d=64, f32/g' %t/3-tile.mlir > %t-tile.mlir
// RUN: not flarec compile --head-dim 32 --latents 512 --grad --target sm_90a --from-stage %t-tile.mlir -o %t.flare 2>&1 | FileCheck %s --check-prefix=SIZE

// Columns at once that a page is no multiple of.
// RUN: sed 's/unroll 2/unroll 3/' %t/3-tile.mlir > %t-tile.mlir
// RUN: not flarec compile --head-dim 32 --latents 512 --grad --target sm_90a --from-stage %t-tile.mlir -o %t.flare 2>&1 | FileCheck %s --check-prefix=STEP
// What is stored for grad_q of one sequence would have a place for all tokens in each packed one.
// RUN: flarec compile --head-dim 32 --latents 512 --grad --ragged --target sm_90a --emit sweeps | FileCheck %s --check-prefix=PACKED

// STEP: 'tile.pairs' op takes 3 of 32 blocks of columns at once; pages of 4 blocks come by, 8 of them, once for each tile
// PACKED: func.func @mixer_backward
// PACKED: -> !flare.tensor<n, d=32, bf16>, !flare.tensor<n, d=32, bf16> {

// Scores and what weights are contracted with read the same operand.
// TILE-LABEL: tile.program @mixer_backward
// TILE: tile.kernel @park_2 "park" sweep 1 config <rows = n, {{.*}} park = "none", {{.*}} matrix = "wgmma">
// TILE: tile.kernel @sweep_2 "sweep" sweep 1
// TILE: } else {
// TILE: tile.contract(%{{[a-z0-9]+}}), ([[Q:%arg[0-9]+]]) over d
// TILE: tile.contract(%{{[a-z0-9]+}}), ([[Q]]) over m into

// CHECK-LABEL: llvm.func ptx_kernelcc @mixer_backward_sweep_2(
// Two pages are on their way before the first tile has to be there …
// CHECK-COUNT-3: cp.async.commit.group
// CHECK: cp.async.wait.group"(%{{.*}})
// … and in each body's loop, for each page: it is there, for everyone, and the one after the next is sent for.
// CHECK: cp.async.wait.group
// CHECK: fence.proxy.async
// CHECK: barrier.cta.sync
// CHECK: cp.async.cg.shared.global.16"
// CHECK: cp.async.commit.group
// CHECK: wgmma.mma_async.sync.aligned.m64n32k16

// SIZE: 'tile.stash' op lies in rows of 256 bytes, and 16 latents take
