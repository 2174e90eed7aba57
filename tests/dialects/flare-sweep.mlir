// A sweep with a configuration, no results, two bodies.
// RUN: flare-opt %s | flare-opt | FileCheck %s
// RUN: flare-opt %s --mlir-print-op-generic | flare-opt | FileCheck %s

// CHECK-LABEL: func.func @two_bodies
// CHECK: flare.sweep config #tile.config<rows = n, tile = 64, {{.*}}min_blocks = 2> -> !flare.tensor<n, d=8, f32> {
// CHECK:   flare.yield
// CHECK: } safe {
// CHECK:   flare.yield
// CHECK: }
func.func @two_bodies(%k: !flare.tensor<n, d=8, f32>) -> !flare.tensor<n, d=8, f32> {
  %y = flare.sweep config #tile.config<rows = n, tile = 64, heads = 8, row_groups = 1, workers = 1, worker_rows = 64,
      stages = 2, unroll = 0, blocks = 264, sums = "mma", exp = "mufu", park = "shared", min_blocks = 2>
      -> !flare.tensor<n, d=8, f32> {
    %a = flare.neg %k : !flare.tensor<n, d=8, f32>
    flare.yield %a : !flare.tensor<n, d=8, f32>
  } safe {
    %a = flare.neg %k : !flare.tensor<n, d=8, f32>
    flare.yield %a : !flare.tensor<n, d=8, f32>
  }
  return %y : !flare.tensor<n, d=8, f32>
}

// CHECK-LABEL: func.func @nothing
// CHECK-NEXT: flare.sweep {
// CHECK-NEXT: flare.yield
// CHECK-NEXT: }
func.func @nothing() {
  flare.sweep {
    flare.yield
  }
  return
}
