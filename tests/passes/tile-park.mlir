// RUN: sed s/PARK/none/ %s | flare-opt --flare-to-tile --tile-assign-layouts --tile-park | FileCheck %s
// RUN: sed s/PARK/shared/ %s | flare-opt --flare-to-tile --tile-assign-layouts --tile-park | FileCheck %s --check-prefix=SHARED
// RUN: sed s/PARK/none/ %s | flare-opt --flare-to-tile --tile-assign-layouts --tile-park --tile-to-nvvm | FileCheck %s --check-prefix=NVVM
// RUN: sed s/PARK/none/ %s | not flare-opt --flare-to-tile --tile-assign-layouts --tile-to-nvvm 2>&1 | FileCheck %s --check-prefix=LATE
// RUN: sed s/PARK/none/ %s | not flare-opt --flare-to-tile --tile-park 2>&1 | FileCheck %s --check-prefix=EARLY
// RUN: sed s/PARK/none/ %s | not flare-opt --flare-to-tile --tile-assign-layouts --tile-park --tile-to-host 2>&1 | FileCheck %s --check-prefix=HOST
// Edited by hand: another size, another kernel in its place, none before the sweep.
// RUN: sed s/PARK/none/ %s | flare-opt --flare-to-tile --tile-assign-layouts --tile-park -o %t
// RUN: sed "s/m=3, d=256/m=3, d=128/" %t | not flare-opt --tile-to-nvvm 2>&1 | FileCheck %s --check-prefix=SIZE
// RUN: sed 's/"park" sweep 0/"park" sweep 7/' %t | not flare-opt --tile-to-nvvm 2>&1 | FileCheck %s --check-prefix=NUMBER
// RUN: sed 's/"sweep" sweep 0/"park" sweep 0/' %t | not flare-opt --tile-to-nvvm 2>&1 | FileCheck %s --check-prefix=NUMBER
// RUN: sed 's/@park_0 "park"/@park_0 "sweep"/' %t | not flare-opt --tile-to-nvvm 2>&1 | FileCheck %s --check-prefix=UNFILLED

// Latent operands that are not parked in shared memory get a tensor of the workspace, a row for each 16 latents, and a kernel that fills it with all that making them needs.
// CHECK: tile.program @decode [{name = "k", role = "input"}, {name = "q", role = "input"}, {name = "y", role = "result"}, {name = "lse", role = "result"}, {name = "park_0", role = "workspace"}, {name = "scale", role = "scalar"}
// CHECK: ^bb0({{.*}}, [[PARKED:%arg[0-9]+]]: !flare.tensor<m=3, d={{[0-9]+}}, f32>, {{%arg[0-9]+}}: f32):
// CHECK: tile.kernel @park_0 "park" sweep 0
// CHECK-NOT: tile.stream
// CHECK: tile.stash 48 memory [[PARKED]] : {{.*}} {
// CHECK: tile.kernel @sweep_0 "sweep" sweep 0
// CHECK: tile.stash 48 memory [[PARKED]] :
// CHECK: tile.stream

// SHARED-NOT: "park"
// SHARED: tile.kernel @sweep_0 "sweep"
// SHARED: tile.stash 48 ->

// One block of the first kernel has 8 · 16 latents; the second reads what is not written while it runs.
// NVVM: blocks_per_head\22:1,
// NVVM: llvm.func ptx_kernelcc @decode_park_0(
// NVVM: llvm.store {{.*}} : vector<{{[24]}}xi32>, !llvm.ptr<1>
// NVVM: llvm.func ptx_kernelcc @decode_sweep_0(
// NVVM: llvm.load {{.*}} invariant {{.*}} : !llvm.ptr<1> -> vector<{{[24]}}xi32>

// LATE: 'tile.stash' op lies in no tensor; run tile-park first
// EARLY: 'tile.stash' op has tiles without a layout; run tile-assign-layouts first
// HOST: 'tile.kernel' op parks latents in memory, which the host does not: there they lie in the cache; use park = "shared"
// SIZE: 'tile.stash' op lies in rows of 512 bytes, and 16 latents take 1024; leave the tensor to tile-park
// NUMBER: 'tile.kernel' op parks for sweep {{[07]}}; there are {{[01]}}
// UNFILLED: 'tile.stash' op is read in memory, and no park kernel before this one fills it; run tile-park, or leave its kernel where it was
func.func @decode(%k: !flare.tensor<n, d=16, bf16> {flare.name = "k"}, %q: !flare.tensor<m=40, d=16, bf16> {flare.name = "q"}, %scale: f32 {flare.name = "scale"})
    -> (!flare.tensor<n, d=16, f32> {flare.name = "y"}, !flare.tensor<n, f32> {flare.name = "lse"}) {
  %c = flare.scale %q by %scale : !flare.tensor<m=40, d=16, bf16>
  %r:2 = flare.sweep config #tile.config<rows = n, tile = 32, heads = 1, row_groups = 1, workers = 2, worker_rows = 16, stages = 2, unroll = 1, blocks = 132,
      sums = "mma", exp = "mufu", park = "PARK", min_blocks = 1> -> !flare.tensor<n, d=16, f32>, !flare.tensor<n, f32> {
    %x = flare.contract %c, %k over d : !flare.tensor<m=40, d=16, f32>, !flare.tensor<n, d=16, bf16>
    %y, %lse = flare.attend %x, %q over m base2 : !flare.tensor<n, m=40, f32>, !flare.tensor<m=40, d=16, bf16> -> !flare.tensor<n, d=16, f32>, !flare.tensor<n, f32>
    flare.yield %y, %lse : !flare.tensor<n, d=16, f32>, !flare.tensor<n, f32>
  }
  return %r#0, %r#1 : !flare.tensor<n, d=16, f32>, !flare.tensor<n, f32>
}
