// What a mask and a range change: the mask is staged beside the rows and asked where pairs are reduced over tokens; a range is an argument, and nothing else.
// RUN: flare-opt %s --flare-to-tile | FileCheck %s
// RUN: flare-opt %s --flare-to-tile --tile-assign-layouts | FileCheck %s --check-prefix=LAYOUT

!q = !flare.tensor<m=16, d=8, bf16>
!k = !flare.tensor<n, d=8, bf16>
!z = !flare.tensor<m=16, d=8, f32>

// CHECK-LABEL: tile.program @encode
// CHECK-SAME: name = "range", role = "input"
// CHECK-SAME: name = "mask", role = "input"
// CHECK: ^bb0({{.*}}, %[[K:.*]]: !flare.tensor<n, d=8, bf16>, %[[RANGE:.*]]: !flare.tensor<d=2, i32>, %[[MASK:.*]]: !flare.tensor<n, i8>,
// CHECK: tile.stream(%[[K]], %[[MASK]]) init
// CHECK-SAME: !flare.tensor<n, i8>
// CHECK: ^bb0(%{{.*}}: index, %{{.*}}: !tile.stage<n=64, d=8, bf16>, %[[STAGE:.*]]: !tile.stage<n=64, i8>,
// The fast body: the weight is 0.
// CHECK: tile.pairs
// CHECK: %[[E:.*]] = tile.exp2
// CHECK-NEXT: tile.where %{{.*}}, %[[E]] else 0.000000e+00 : <n=16, i8>, <n=16, m=16, f32>
// CHECK-NEXT: tile.cast
// The safe body: before the maximum.
// CHECK: } else {
// CHECK: %[[X:.*]] = tile.mask
// CHECK-NEXT: %[[W:.*]] = tile.where %{{.*}}, %[[X]] else 0xFF800000
// CHECK-NEXT: tile.reduce "max" %[[W]]
// LAYOUT: tile.where %{{.*}}, %{{.*}} else 0.000000e+00 : <n=16, i8, #tile.layout<reg [n1, n8], lane [n2, n4, 0, 0, 0]>>
func.func @encode(%q: !q {flare.name = "q"}, %k: !k {flare.name = "k"}, %range: !flare.tensor<d=2, i32> {flare.name = "range"},
                  %mask: !flare.tensor<n, i8> {flare.name = "mask"}, %s: f32 {flare.name = "scale"}) -> !z {
  %c = flare.scale %q by %s : !q
  %r:2 = flare.sweep config #tile.config<rows = m, tile = 64, heads = 8, row_groups = 1, workers = 1, worker_rows = 16, stages = 3,
      unroll = 0, blocks = 264, sums = "mma", exp = "mufu", park = "shared", min_blocks = 2> -> !z, !flare.tensor<m=16, f32> {
    %x = flare.contract %c, %k over d : !z, !k
    %z, %l = flare.attend %x, %k over n base2 : !flare.tensor<n, m=16, f32>, !k -> !z, !flare.tensor<m=16, f32>
    flare.yield %z, %l : !z, !flare.tensor<m=16, f32>
  }
  return %r#0 : !z
}

// With rows = n the mask is the worker's rows, read once. Pairs contracted over n and over m are one value, of present tokens for both.
// CHECK-LABEL: tile.program @joint
// CHECK: tile.read %{{.*}} : <n=32, i8> -> <n=16, i8>
// CHECK: tile.pairs rows n
// CHECK: %[[P:.*]] = tile.where
// CHECK: %[[N:.*]] = tile.cast %[[P]]
// CHECK: tile.contract(%[[N]]), ({{.*}}) over n
// CHECK-NOT: tile.where
// CHECK: %[[M:.*]] = tile.cast %[[P]]
// CHECK: tile.contract(%[[M]]), ({{.*}}) over m
// CHECK: tile.yield
func.func @joint(%q: !q, %k: !k, %mask: !flare.tensor<n, i8>) -> (!z, !flare.tensor<n, d=8, f32>) {
  %r:2 = flare.sweep config #tile.config<rows = n, tile = 32, heads = 2, row_groups = 1, workers = 2, worker_rows = 16, stages = 3,
      unroll = 0, blocks = 264, sums = "mma", exp = "mufu", park = "shared", min_blocks = 2> -> !z, !flare.tensor<n, d=8, f32> {
    %x = flare.contract %q, %k over d : !q, !k
    %a = flare.contract %x, %k over n : !flare.tensor<n, m=16, f32>, !k
    %b = flare.contract %x, %q over m : !flare.tensor<n, m=16, f32>, !q
    flare.yield %a, %b : !z, !flare.tensor<n, d=8, f32>
  }
  return %r#0, %r#1 : !z, !flare.tensor<n, d=8, f32>
}
