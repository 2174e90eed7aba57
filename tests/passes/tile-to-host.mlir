// RUN: flare-opt %s --tile-assign-layouts=target=host --tile-to-host --canonicalize --cse | FileCheck %s

// Exponentials: general ones and those of AVX-512, which takes the power of two apart in one instruction. A polynomial of degree 5 is enough for a score's,
// and a bounded one needs no comparisons.
// CHECK-LABEL: llvm.func internal @flarec.exp2(
// CHECK-COUNT-6: llvm.intr.fmuladd
// CHECK-LABEL: llvm.func internal @flarec.exp2_of_score(
// CHECK: arith.cmpf olt
// CHECK: arith.cmpf ogt
// CHECK-LABEL: llvm.func internal @flarec.exp2_of_bounded(
// CHECK-NOT: arith.cmpf
// CHECK-LABEL: llvm.func internal @flarec.exp2.avx512(
// CHECK: call_intrinsic "llvm.x86.avx512.mask.reduce.ps.512"
// CHECK-COUNT-6: llvm.intr.fmuladd
// CHECK-NOT: llvm.intr.fmuladd
// CHECK: call_intrinsic "llvm.x86.avx512.mask.scalef.ps.512"
// CHECK-LABEL: llvm.func internal @flarec.exp2_of_bounded.avx512(
// CHECK: call_intrinsic "llvm.x86.avx512.mask.reduce.ps.512"
// CHECK-COUNT-5: llvm.intr.fmuladd
// CHECK-NOT: llvm.intr.fmuladd
// CHECK: call_intrinsic "llvm.x86.avx512.mask.scalef.ps.512"

// The parameters' slots, the number of the block, scratch memory. Denormals count as zero until the end.
// CHECK-LABEL: llvm.func @encode_sweep(
// CHECK-SAME: %[[SLOTS:.*]]: !llvm.ptr, %[[BLOCK:.*]]: i64, %[[SCRATCH:.*]]: !llvm.ptr)
// CHECK-COUNT-2: llvm.alloca
// CHECK: llvm.call_intrinsic "llvm.x86.sse.stmxcsr"(%[[CONTROL:.*]]) :
// CHECK: llvm.call_intrinsic "llvm.x86.sse.ldmxcsr"
// Loops: heads for the prologue; then tiles, heads, tiles of a head.
// CHECK: scf.for
// CHECK: scf.for %[[CHUNK:.*]] = {{.*}} {
// CHECK: scf.for %[[HEAD:.*]] = {{.*}} {
// CHECK: scf.for %[[TILE:.*]] = {{.*}} iter_args
// Is the tile full, and are its scores bounded? An ordered comparison of 16 numbers at once: NaN says no.
// CHECK: arith.cmpf ole
// CHECK: arith.cmpi eq, %{{.*}}, %{{.*}} : i16
// CHECK: %[[OK:.*]] = arith.andi
// CHECK: scf.if %[[OK]] {
// The fast body: scores of eight tokens, each a broadcast times 16 latents, no mask, no maximum. Accumulators go round the loop in registers.
// CHECK:      scf.for %{{.*}} = %{{.*}} to %{{.*}} step %c8_i64 iter_args
// What this head reads in its next turn is on its way meanwhile.
// CHECK:      llvm.intr.prefetch
// CHECK-NOT:  select
// CHECK:      call @flarec.exp2_of_bounded
// CHECK-NOT:  select
// CHECK:      scf.yield
// CHECK: } else {
// The safe body: tokens past the last one are -inf, sums so far shrink when the maximum grows.
// CHECK:      scf.for %{{.*}} = %{{.*}} to %{{.*}} step %c8_i64 iter_args
// CHECK:      %[[LEFT:.*]] = arith.cmpi sgt
// CHECK-NEXT: %[[LANE:.*]] = llvm.insertelement %[[LEFT]]
// CHECK-NEXT: %[[REAL:.*]] = llvm.shufflevector %[[LANE]]
// CHECK-NEXT: arith.select %[[REAL]], %{{.*}}, %cst{{.*}} : vector<16xi1>, vector<16xf32>
// CHECK-NOT:  llvm.intr.prefetch
// CHECK:      arith.cmpf ogt
// CHECK:      call @flarec.exp2_of_score(
// CHECK:      scf.yield
// CHECK: llvm.call_intrinsic "llvm.x86.sse.ldmxcsr"(%[[CONTROL]])
// CHECK-NEXT: llvm.return

// The merge: a loop over the splits, the larger reference wins; nothing at all is 0, not 0/0.
// CHECK-LABEL: llvm.func @encode_merge(
// CHECK: scf.for %{{.*}} iter_args
// CHECK:   arith.cmpf ogt
// CHECK-COUNT-2: call @flarec.exp2(
// CHECK:   scf.yield
// CHECK: %[[NONE:.*]] = arith.cmpf oeq
// CHECK: %[[MEAN:.*]] = arith.divf
// CHECK: arith.select %[[NONE]], %{{.*}}, %[[MEAN]]
!rows = !tile.tile<m=16, d=4, f32>
!row = !tile.tile<m=16, f32>
!column = !tile.tile<n=16, d=4, f32>
!pair = !tile.tile<n=16, m=16, f32>
!stage = !tile.stage<n=64, d=4, f32>
!n = !flare.tensor<n, d=4, f32>
!m = !flare.tensor<m=16, d=4, f32>
!l = !flare.tensor<m=16, f32>
tile.program @encode [{name = "q", role = "input"}, {name = "k", role = "input"}, {name = "z", role = "result"},
    {copies = 1 : i64, name = "o", role = "workspace", sweep = 0 : i64}, {copies = 1 : i64, name = "s", role = "workspace", sweep = 0 : i64},
    {copies = 1 : i64, name = "r", role = "workspace", sweep = 0 : i64}, {name = "norm", role = "scalar"}] {
^bb0(%q: !m, %k: !n, %z: !m, %o: !m, %s: !l, %r: !l, %norm: f32):
  tile.kernel @sweep "sweep" sweep 0 config <rows = m, tile = 64, heads = 8, row_groups = 1, workers = 1, worker_rows = 16, stages = 1,
      unroll = 8, blocks = 64, sums = "add", exp = "poly5", park = "shared", min_blocks = 1> {
  ^bb0(%first: index):
    %c = arith.constant 1.44269502 : f32
    %true = arith.constant true
    %zeros = tile.constant 0.0 : !rows
    %zero = tile.constant 0.0 : !row
    %none = tile.constant -3.0e38 : !row
    %qt = tile.load %q at %first : !m -> !rows
    %out:4 = tile.stream (%k) init (%zeros, %zero, %none, %true) tile 64 : (!n), (!rows, !row, !row, i1) -> (!rows, !row, !row, i1) {
    ^bb0(%n0: index, %kt: !stage, %a: !rows, %b: !row, %top: !row, %so_far: i1):
      %small = tile.bounded %kt at %n0 factor %norm limit 6.0e+01 : !stage
      %ok = arith.andi %so_far, %small : i1
      %state:3 = scf.if %ok -> (!rows, !row, !row) {
        %f:2 = tile.pairs rows m unroll 8 ins (%qt, %kt) init (%a, %b) : (!rows, !stage), (!rows, !row) -> (!rows, !row) {
        ^bb0(%r0: index, %c0: index, %qb: !rows, %kb: !column, %aa: !rows, %bb: !row):
          %x = tile.contract (%qb), (%kb) over d : (!rows), (!column) -> !pair
          %xc = tile.scale %x by %c : !pair -> !pair
          %e = tile.exp2 %xc : !pair -> !pair
          %a1 = tile.contract (%e), (%kb) over n into %aa : !rows : (!pair), (!column) -> !rows
          %b1 = tile.sum %e over n into %bb : !pair, !row
          tile.yield %a1, %b1 : !rows, !row
        }
        scf.yield %f#0, %f#1, %zero : !rows, !row, !row
      } else {
        %f:3 = tile.pairs rows m unroll 8 ins (%qt, %kt) init (%a, %b, %top) : (!rows, !stage), (!rows, !row, !row) -> (!rows, !row, !row) {
        ^bb0(%r0: index, %c0: index, %qb: !rows, %kb: !column, %aa: !rows, %bb: !row, %t: !row):
          %x = tile.contract (%qb), (%kb) over d : (!rows), (!column) -> !pair
          %at = arith.addi %c0, %n0 : index
          %count = tile.tokens
          %xm = tile.mask %x over n first %at limit %count fill 0xFF800000 : !pair -> !pair
          %largest = tile.reduce "max" %xm over n : !pair -> !row
          %t1 = tile.max %t, %largest : !row, !row -> !row
          %down = tile.sub %t, %t1 : !row, !row -> !row
          %shrink = tile.exp2 %down : !row -> !row
          %as = tile.mul %aa, %shrink : !rows, !row -> !rows
          %bs = tile.mul %bb, %shrink : !row, !row -> !row
          %xd = tile.sub %xm, %t1 : !pair, !row -> !pair
          %e = tile.exp2 %xd : !pair -> !pair
          %a1 = tile.contract (%e), (%kb) over n into %as : !rows : (!pair), (!column) -> !rows
          %b1 = tile.sum %e over n into %bs : !pair, !row
          tile.yield %a1, %b1, %t1 : !rows, !row, !row
        }
        scf.yield %f#0, %f#1, %f#2 : !rows, !row, !row
      }
      tile.yield %state#0, %state#1, %state#2, %ok : !rows, !row, !row, i1
    }
    tile.store %out#0, %o at %first partial : !rows, !m
    tile.store %out#1, %s at %first partial : !row, !l
    tile.store %out#2, %r at %first partial : !row, !l
  }
  tile.kernel @merge "merge" sweep 0 {
  ^bb0(%first: index):
    %result, %lse = tile.merge %o, %s, %r at %first : !m, !l, !l -> !rows, !row
    tile.store %result, %z at %first : !rows, !m
  }
}
