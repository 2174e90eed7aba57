// RUN: flare-opt %s --tile-assign-layouts=target=sm_90a | FileCheck %s

// The result fragment of the scores is the left operand of the next product: no data moves between them.
// CHECK-LABEL: tile.kernel @k
// CHECK: %[[X:.*]] = tile.contract({{.*}}) over d : {{.*}} -> <n=16, m=16, f32, #tile.layout<[[P:reg \[m1, n8, m8\], lane \[m2, m4, n1, n2, n4\]]]>>
// CHECK-NEXT: %[[E:.*]] = tile.exp2 %[[X]] : {{.*}} -> <n=16, m=16, f32, #tile.layout<[[P]]>>
// CHECK-NEXT: %[[B:.*]] = tile.cast %[[E]] : {{.*}} -> <n=16, m=16, bf16, #tile.layout<[[P]]>>
// The right operand, contracted over m: m in register bits, d over the quads.
// CHECK-NEXT: tile.contract(%[[B]]), (%{{.*}}) over m {{.*}} : (!tile.tile<n=16, m=16, bf16, #tile.layout<[[P]]>>), (!tile.tile<m=16, d=8, bf16, #tile.layout<reg [m1, m8], lane [m2, m4, d1, d2, d4]>>) -> <n=16, d=8, f32, #tile.layout<reg [d1, n8], lane [d2, d4, n1, n2, n4]>>
tile.program @p [{name = "k", role = "input"}, {name = "q", role = "input"}, {name = "y", role = "result"}] {
^bb0(%k: !flare.tensor<n, d=8, bf16>, %q: !flare.tensor<m=16, d=8, bf16>, %y: !flare.tensor<n, d=8, f32>):
  tile.kernel @k "sweep" sweep 0 config <rows = n, tile = 16, heads = 1, row_groups = 1, workers = 1, worker_rows = 16, stages = 2,
      unroll = 0, blocks = 1, sums = "add", exp = "mufu", park = "shared", min_blocks = 1> {
  ^bb0(%first: index):
    %c0 = arith.constant 0 : index
    %zero = tile.constant 0.0 : !tile.tile<n=16, d=8, f32>
    %kt = tile.load %k at %c0 : !flare.tensor<n, d=8, bf16> -> !tile.tile<n=16, d=8, bf16>
    %qt = tile.load %q at %c0 : !flare.tensor<m=16, d=8, bf16> -> !tile.tile<m=16, d=8, bf16>
    %qr = tile.load %q at %c0 : !flare.tensor<m=16, d=8, bf16> -> !tile.tile<m=16, d=8, bf16>
    %x = tile.contract (%kt), (%qt) over d : (!tile.tile<n=16, d=8, bf16>), (!tile.tile<m=16, d=8, bf16>) -> !tile.tile<n=16, m=16, f32>
    %e = tile.exp2 %x : !tile.tile<n=16, m=16, f32> -> !tile.tile<n=16, m=16, f32>
    %b = tile.cast %e : !tile.tile<n=16, m=16, f32> -> !tile.tile<n=16, m=16, bf16>
    %o = tile.contract (%b), (%qr) over m into %zero : !tile.tile<n=16, d=8, f32> : (!tile.tile<n=16, m=16, bf16>), (!tile.tile<m=16, d=8, bf16>) -> !tile.tile<n=16, d=8, f32>
    tile.store %o, %y at %c0 : !tile.tile<n=16, d=8, f32>, !flare.tensor<n, d=8, f32>
  }
}

// Of 16 channels a lane's are neighbours in what is stored for tokens: the right operand's columns are permuted.
// CHECK-LABEL: tile.kernel @stored
// CHECK: tile.contract({{.*}}) over m {{.*}} : {{.*}}(!tile.tile<m=16, d=16, bf16, #tile.layout<reg [m1, m8, d2], lane [m2, m4, d1, d4, d8]>>) -> <n=16, d=16, f32, #tile.layout<reg [d1, n8, d2], lane [d4, d8, n1, n2, n4]>
// Not where it is the left operand of another product.
// CHECK-LABEL: tile.kernel @used
// CHECK: tile.contract({{.*}}) over m {{.*}} : {{.*}}(!tile.tile<m=16, d=16, bf16, #tile.layout<reg [m1, m8, d8], lane [m2, m4, d1, d2, d4]>>) -> <n=16, d=16, f32, #tile.layout<reg [d1, n8, d8], lane [d2, d4, n1, n2, n4]>
tile.program @wide [{name = "k", role = "input"}, {name = "q", role = "input"}, {name = "y", role = "result"}, {name = "l", role = "result"}] {
^bb0(%k: !flare.tensor<n, d=16, bf16>, %q: !flare.tensor<m=16, d=16, bf16>, %y: !flare.tensor<n, d=16, f32>, %l: !flare.tensor<n, f32>):
  tile.kernel @stored "sweep" sweep 0 config <rows = n, tile = 16, heads = 1, row_groups = 1, workers = 1, worker_rows = 16, stages = 2,
      unroll = 0, blocks = 1, sums = "add", exp = "mufu", park = "shared", min_blocks = 1> {
  ^bb0(%first: index):
    %c0 = arith.constant 0 : index
    %zero = tile.constant 0.0 : !tile.tile<n=16, d=16, f32>
    %kt = tile.load %k at %c0 : !flare.tensor<n, d=16, bf16> -> !tile.tile<n=16, d=16, bf16>
    %qt = tile.load %q at %c0 : !flare.tensor<m=16, d=16, bf16> -> !tile.tile<m=16, d=16, bf16>
    %qr = tile.load %q at %c0 : !flare.tensor<m=16, d=16, bf16> -> !tile.tile<m=16, d=16, bf16>
    %x = tile.contract (%kt), (%qt) over d : (!tile.tile<n=16, d=16, bf16>), (!tile.tile<m=16, d=16, bf16>) -> !tile.tile<n=16, m=16, f32>
    %b = tile.cast %x : !tile.tile<n=16, m=16, f32> -> !tile.tile<n=16, m=16, bf16>
    %o = tile.contract (%b), (%qr) over m into %zero : !tile.tile<n=16, d=16, f32> : (!tile.tile<n=16, m=16, bf16>), (!tile.tile<m=16, d=16, bf16>) -> !tile.tile<n=16, d=16, f32>
    tile.store %o, %y at %c0 : !tile.tile<n=16, d=16, f32>, !flare.tensor<n, d=16, f32>
  }
  tile.kernel @used "sweep" sweep 0 config <rows = n, tile = 16, heads = 1, row_groups = 1, workers = 1, worker_rows = 16, stages = 2,
      unroll = 0, blocks = 1, sums = "add", exp = "mufu", park = "shared", min_blocks = 1> {
  ^bb0(%first: index):
    %c0 = arith.constant 0 : index
    %zero = tile.constant 0.0 : !tile.tile<n=16, d=16, f32>
    %kt = tile.load %k at %c0 : !flare.tensor<n, d=16, bf16> -> !tile.tile<n=16, d=16, bf16>
    %qt = tile.load %q at %c0 : !flare.tensor<m=16, d=16, bf16> -> !tile.tile<m=16, d=16, bf16>
    %qr = tile.load %q at %c0 : !flare.tensor<m=16, d=16, bf16> -> !tile.tile<m=16, d=16, bf16>
    %x = tile.contract (%kt), (%qt) over d : (!tile.tile<n=16, d=16, bf16>), (!tile.tile<m=16, d=16, bf16>) -> !tile.tile<n=16, m=16, f32>
    %b = tile.cast %x : !tile.tile<n=16, m=16, f32> -> !tile.tile<n=16, m=16, bf16>
    %o = tile.contract (%b), (%qr) over m into %zero : !tile.tile<n=16, d=16, f32> : (!tile.tile<n=16, m=16, bf16>), (!tile.tile<m=16, d=16, bf16>) -> !tile.tile<n=16, d=16, f32>
    %h = tile.cast %o : !tile.tile<n=16, d=16, f32> -> !tile.tile<n=16, d=16, bf16>
    %qs = tile.load %q at %c0 : !flare.tensor<m=16, d=16, bf16> -> !tile.tile<m=16, d=16, bf16>
    %z = tile.constant 0.0 : !tile.tile<n=16, f32>
    %w = tile.contract (%h), (%qs) over d : (!tile.tile<n=16, d=16, bf16>), (!tile.tile<m=16, d=16, bf16>) -> !tile.tile<n=16, m=16, f32>
    %s = tile.sum %w over m into %z : !tile.tile<n=16, m=16, f32>, !tile.tile<n=16, f32>
    tile.store %s, %l at %c0 : !tile.tile<n=16, f32>, !flare.tensor<n, f32>
    tile.store %o, %y at %c0 : !tile.tile<n=16, d=16, f32>, !flare.tensor<n, d=16, f32>
  }
}
