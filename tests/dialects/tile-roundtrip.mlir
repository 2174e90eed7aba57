// Types and attributes of the dialect print as they are read, in the custom and in the generic form. The ops: the examples in TileOps.td,
// which tests/dialects/examples.py sends there and back.
// RUN: flare-opt %s | flare-opt | FileCheck %s
// RUN: flare-opt %s --mlir-print-op-generic | flare-opt | FileCheck %s

// CHECK: func.func private @types(!tile.tile<n=16, m=16, f32>, !tile.tile<m=32, d=8, bf16>, !tile.tile<d=4, f16>, !tile.stage<n=64, d=8, bf16>, !tile.stage<n=64, f32>, !tile.stash<m=128, d=8, bf16>, !tile.stash<m=16, f32>)
func.func private @types(!tile.tile<n=16, m=16, f32>, !tile.tile<m=32, d=8, bf16>, !tile.tile<d=4, f16>, !tile.stage<n=64, d=8, bf16>, !tile.stage<n=64, f32>, !tile.stash<m=128, d=8, bf16>, !tile.stash<m=16, f32>)

// CHECK: func.func private @layouts(!tile.tile<n=16, m=16, f32, #tile.layout<reg [n1, m8, n8], lane [n2, n4, m1, m2, m4]>>, !tile.tile<m=16, f32, #tile.layout<reg [0, m8], lane [0, 0, m1, m2, m4]>>, !tile.tile<d=8, f32, #tile.layout<reg [], lane []>>)
func.func private @layouts(!tile.tile<n=16, m=16, f32, #tile.layout<reg [n1, m8, n8], lane [n2, n4, m1, m2, m4]>>, !tile.tile<m=16, f32, #tile.layout<reg [0, m8], lane [0, 0, m1, m2, m4]>>, !tile.tile<d=8, f32, #tile.layout<reg [], lane []>>)

// CHECK: func.func private @config() attributes {c = #tile.config<rows = n, tile = 96, heads = 3, row_groups = 1, workers = 2, worker_rows = 48, stages = 4, unroll = 2, blocks = 264, sums = "add", exp = "poly3:4", park = "none", min_blocks = 3>}
func.func private @config() attributes {c = #tile.config<rows = n, tile = 96, heads = 3, row_groups = 1, workers = 2, worker_rows = 48, stages = 4, unroll = 2, blocks = 264, sums = "add", exp = "poly3:4", park = "none", min_blocks = 3>}

// CHECK: func.func private @columns() attributes {c = #tile.config<rows = n, tile = 64, heads = 1, row_groups = 1, workers = 4, worker_rows = 32, stages = 2, unroll = 0, blocks = 264, sums = "mma", exp = "mufu", park = "shared", min_blocks = 2, column_workers = 2>}
func.func private @columns() attributes {c = #tile.config<rows = n, tile = 64, heads = 1, row_groups = 1, workers = 4, worker_rows = 32, stages = 2, unroll = 0, blocks = 264, sums = "mma", exp = "mufu", park = "shared", min_blocks = 2, column_workers = 2>}

// CHECK: tile.combine %{{.*}}, %{{.*}} owners [0, 1, 2, 3] : !tile.tile<n=32, d=8, f32>, !tile.tile<n=32, d=8, f32> -> !tile.tile<n=32, d=8, f32>, !tile.tile<n=32, d=8, f32>
// CHECK: tile.worker_column 512
// CHECK: tile.store %{{.*}}, %{{.*}} at %{{.*}} owners [2, 3] : <n=32, d=8, f32>, <n, d=8, bf16>
func.func @combined(%dk: !tile.tile<n=32, d=8, f32>, %dv: !tile.tile<n=32, d=8, f32>, %grad: !flare.tensor<n, d=8, bf16>) {
  %k, %v = tile.combine %dk, %dv owners [0, 1, 2, 3] : !tile.tile<n=32, d=8, f32>, !tile.tile<n=32, d=8, f32> -> !tile.tile<n=32, d=8, f32>, !tile.tile<n=32, d=8, f32>
  %c = tile.worker_column 512
  tile.store %v, %grad at %c owners [2, 3] : !tile.tile<n=32, d=8, f32>, !flare.tensor<n, d=8, bf16>
  return
}

// Nothing read, nothing carried.
// CHECK: tile.stream(%{{.*}}) init() tile 16 : (!flare.tensor<n, d=8, f32>), () -> ()
// CHECK: tile.pairs rows n unroll 0 ins() init() : (), () -> ()
func.func @empty(%k: !flare.tensor<n, d=8, f32>) {
  tile.stream (%k) init () tile 16 : (!flare.tensor<n, d=8, f32>), () -> () {
  ^bb0(%n0: index, %s: !tile.stage<n=16, d=8, f32>):
    tile.pairs rows n unroll 0 ins () init () : (), () -> () {
    ^bb0(%i: index, %j: index):
      tile.yield
    }
    tile.yield
  }
  return
}

// CHECK: tile.overflows %{{.*}} : <n=16, m=16, f16>
// CHECK: tile.within %{{.*}} from 5.000000e-01 to 8.000000e+00 : <n=32, f32>
// CHECK: tile.mask %{{.*}} over n first %{{.*}} limit %{{.*}} fill 0.000000e+00 : <n=16, m=16, f16> -> <n=16, m=16, f16>
func.func @after(%w: !tile.tile<n=16, m=16, f16>, %sums: !tile.tile<n=32, f32>, %first: index, %count: index) {
  %a = tile.overflows %w : !tile.tile<n=16, m=16, f16>
  %b = tile.within %sums from 0.5 to 8.0 : !tile.tile<n=32, f32>
  %c = tile.mask %w over n first %first limit %count fill 0.0 : !tile.tile<n=16, m=16, f16> -> !tile.tile<n=16, m=16, f16>
  return
}
