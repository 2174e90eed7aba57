// RUN: flare-opt %s --flare-differentiate --flare-expand --flare-simplify --flare-plan-sweeps=target=host \
// RUN:   --flare-share-exponentials --flare-configure=target=host --flare-to-tile=target=host --tile-assign-layouts=target=host \
// RUN:   --tile-to-host --canonicalize --cse | FileCheck %s

// Of 16 channels a row of f32 is a vector. Where pair values lie in memory, sums over latents are rows too: a token's number, broadcast from memory, times the latent's row.
// So what memory gets needs no transposition: dv, and dk, which meets the scale first.
// CHECK-LABEL: llvm.func @mixer_backward_sweep_2(
// CHECK:       %[[DV:.*]]:16 = scf.for %{{.*}} to %c64_i64 step %c8_i64 iter_args(%[[SUM:[^ ]*]] =
// CHECK:         %[[DZ:.*]] = llvm.load %{{.*}} {alignment = 4 : i64} : !llvm.ptr -> vector<16xf32>
// CHECK:         %[[WEIGHT:.*]] = llvm.load %{{.*}} {alignment = 4 : i64} : !llvm.ptr -> f32
// CHECK-NEXT:    %[[ONE:.*]] = llvm.insertelement %[[WEIGHT]],
// CHECK-NEXT:    %[[ALL:.*]] = llvm.shufflevector %[[ONE]],
// CHECK-NEXT:    llvm.intr.fmuladd(%[[ALL]], %[[DZ]], %[[SUM]])
// CHECK:       %[[DK:.*]]:16 = scf.for %{{.*}} to %c64_i64 step %c8_i64 iter_args
// CHECK:         scf.yield
// CHECK:       %[[ROW:.*]] = arith.addf %{{.*}}, %[[DK]]#0
// CHECK:       %[[SCALED:.*]] = arith.mulf %[[ROW]], %[[SCALE:.*]] fastmath
// CHECK-COUNT-15: arith.mulf %{{.*}}, %[[SCALE]] fastmath
// CHECK-NOT:   llvm.shufflevector
// CHECK:       llvm.store %[[SCALED]], %{{.*}} {alignment = 4 : i64} : vector<16xf32>, !llvm.ptr
// CHECK-NOT:   llvm.shufflevector
// CHECK-COUNT-31: llvm.store %{{.*}}, %{{.*}} {alignment = 4 : i64} : vector<16xf32>, !llvm.ptr

func.func @mixer(%q: !flare.tensor<m=64, d=16, f32> {flare.name = "q"}, %k: !flare.tensor<n, d=16, f32> {flare.name = "k"},
    %v: !flare.tensor<n, d=16, f32> {flare.name = "v"}, %scale: f32 {flare.name = "scale"}) -> !flare.tensor<n, d=16, f32> {
  %z, %lse_encode = flare.encode %q, %k, %v scale %scale : !flare.tensor<m=64, d=16, f32>, !flare.tensor<n, d=16, f32>,
      !flare.tensor<n, d=16, f32> -> !flare.tensor<m=64, d=16, f32>, !flare.tensor<m=64, f32>
  %y, %lse_decode = flare.decode %k, %q, %z scale %scale : !flare.tensor<n, d=16, f32>, !flare.tensor<m=64, d=16, f32>,
      !flare.tensor<m=64, d=16, f32> -> !flare.tensor<n, d=16, f32>, !flare.tensor<n, f32>
  return %y : !flare.tensor<n, d=16, f32>
}
