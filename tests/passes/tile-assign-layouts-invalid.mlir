// RUN: flare-opt %s --tile-assign-layouts=target=sm_90a -verify-diagnostics

// One load cannot be the right operand of scores and of a contraction over m: flare-to-tile writes two.
tile.program @p [{name = "k", role = "input"}, {name = "q", role = "input"}, {name = "y", role = "result"}] {
^bb0(%k: !flare.tensor<n, d=8, bf16>, %q: !flare.tensor<m=16, d=8, bf16>, %y: !flare.tensor<n, d=8, f32>):
  tile.kernel @k "sweep" sweep 0 config <rows = n, tile = 16, heads = 1, row_groups = 1, workers = 1, worker_rows = 16, stages = 2,
      unroll = 0, blocks = 1, sums = "add", exp = "mufu", park = "shared", min_blocks = 1> {
  ^bb0(%first: index):
    %c0 = arith.constant 0 : index
    %zero = tile.constant 0.0 : !tile.tile<n=16, d=8, f32>
    %kt = tile.load %k at %c0 : !flare.tensor<n, d=8, bf16> -> !tile.tile<n=16, d=8, bf16>
    // expected-error @+1 {{a tile is wanted in two layouts, reg [d1, m8], lane [d2, d4, m1, m2, m4] and reg [m1, m8], lane [m2, m4, d1, d2, d4]}}
    %qt = tile.load %q at %c0 : !flare.tensor<m=16, d=8, bf16> -> !tile.tile<m=16, d=8, bf16>
    %x = tile.contract (%kt), (%qt) over d : (!tile.tile<n=16, d=8, bf16>), (!tile.tile<m=16, d=8, bf16>) -> !tile.tile<n=16, m=16, f32>
    %b = tile.cast %x : !tile.tile<n=16, m=16, f32> -> !tile.tile<n=16, m=16, bf16>
    %o = tile.contract (%b), (%qt) over m into %zero : !tile.tile<n=16, d=8, f32> : (!tile.tile<n=16, m=16, bf16>), (!tile.tile<m=16, d=8, bf16>) -> !tile.tile<n=16, d=8, f32>
    tile.store %o, %y at %c0 : !tile.tile<n=16, d=8, f32>, !flare.tensor<n, d=8, f32>
  }
}
