// Row sums are made as `sums` says: of 16-bit summands by the matrix instruction, of f32 ones by additions.
// RUN: flare-opt %s --flare-to-tile | FileCheck %s

!q = !flare.tensor<m=16, d=8, bf16>
!k = !flare.tensor<n, d=8, bf16>
!z = !flare.tensor<m=16, d=8, f32>
!l = !flare.tensor<m=16, f32>

// CHECK-LABEL: tile.program @mma
// CHECK: tile.sum %{{.*}} over n into %{{.*}} : <n=16, m=16, bf16>, <m=16, f32>
func.func @mma(%q: !q, %k: !k) -> !l {
  %r = flare.sweep config #tile.config<rows = m, tile = 64, heads = 1, row_groups = 1, workers = 1, worker_rows = 16, stages = 3,
      unroll = 0, blocks = 264, sums = "mma", exp = "mufu", park = "shared", min_blocks = 2> -> !l {
    %x = flare.contract %q, %k over d : !q, !k
    %s = flare.sum %x over n : !flare.tensor<n, m=16, f32>
    flare.yield %s : !l
  }
  return %r : !l
}

// The sum of the weights as rounded, which the contraction has too.
// CHECK-LABEL: tile.program @add
// CHECK: %[[E:.*]] = tile.cast %{{.*}} : <n=16, m=16, f32> -> <n=16, m=16, bf16>
// CHECK: tile.contract(%[[E]])
// CHECK: %[[W:.*]] = tile.cast %[[E]] : <n=16, m=16, bf16> -> <n=16, m=16, f32>
// CHECK: tile.sum %[[W]] over n
func.func @add(%q: !q, %k: !k) -> !z {
  %r:2 = flare.sweep config #tile.config<rows = m, tile = 64, heads = 1, row_groups = 1, workers = 1, worker_rows = 16, stages = 3,
      unroll = 0, blocks = 264, sums = "add", exp = "mufu", park = "shared", min_blocks = 2> -> !z, !l {
    %x = flare.contract %q, %k over d : !q, !k
    %z, %l = flare.attend %x, %k over n base2 : !flare.tensor<n, m=16, f32>, !k -> !z, !l
    flare.yield %z, %l : !z, !l
  }
  return %r#0 : !z
}

// A contraction with a vector is a product and a sum.
// CHECK-LABEL: tile.program @vector
// CHECK: %[[X:.*]] = tile.contract({{.*}}) over d
// CHECK: %[[P:.*]] = tile.mul %[[X]], %{{.*}} : <n=16, m=16, f32>, <n=16, f32>
// CHECK: tile.sum %[[P]] over n
func.func @vector(%q: !z, %k: !flare.tensor<n, d=8, f32>, %w: !flare.tensor<n, f32>) -> !l {
  %r = flare.sweep config #tile.config<rows = m, tile = 64, heads = 1, row_groups = 1, workers = 1, worker_rows = 16, stages = 3,
      unroll = 0, blocks = 264, sums = "add", exp = "mufu", park = "shared", min_blocks = 2> -> !l {
    %x = flare.contract %q, %k over d : !z, !flare.tensor<n, d=8, f32>
    %s = flare.contract %x, %w over n : !flare.tensor<n, m=16, f32>, !flare.tensor<n, f32>
    flare.yield %s : !l
  }
  return %r : !l
}
