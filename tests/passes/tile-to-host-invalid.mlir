// RUN: flare-opt %s --tile-assign-layouts=target=host --tile-to-host -split-input-file -verify-diagnostics

// A block is run by one thread.
tile.program @p [{name = "k", role = "input"}] {
^bb0(%k: !flare.tensor<n, d=4, f32>):
  // expected-error @+1 {{a host configuration has one worker, tiles of 16·k tokens}}
  tile.kernel @workers "sweep" sweep 0 config <rows = m, tile = 64, heads = 8, row_groups = 1, workers = 2, worker_rows = 16, stages = 1,
      unroll = 8, blocks = 64, sums = "add", exp = "poly5", park = "shared", min_blocks = 1> {
  ^bb0(%first: index):
    %true = arith.constant true
    %ok = tile.stream (%k) init (%true) tile 64 : (!flare.tensor<n, d=4, f32>), (i1) -> (i1) {
    ^bb0(%n0: index, %kt: !tile.stage<n=64, d=4, f32>, %so_far: i1):
      tile.yield %so_far : i1
    }
  }
}

// -----

// Steps of three columns do not end with a table of 64.
tile.program @p [{name = "k", role = "input"}] {
^bb0(%k: !flare.tensor<n, d=4, f32>):
  // expected-error @+1 {{unrolls 1, 2, 4, 8 or 16 columns}}
  tile.kernel @unroll "sweep" sweep 0 config <rows = m, tile = 64, heads = 8, row_groups = 1, workers = 1, worker_rows = 16, stages = 1,
      unroll = 3, blocks = 64, sums = "add", exp = "poly5", park = "shared", min_blocks = 1> {
  ^bb0(%first: index):
    %true = arith.constant true
    %ok = tile.stream (%k) init (%true) tile 64 : (!flare.tensor<n, d=4, f32>), (i1) -> (i1) {
    ^bb0(%n0: index, %kt: !tile.stage<n=64, d=4, f32>, %so_far: i1):
      tile.yield %so_far : i1
    }
  }
}

// -----

// Operands are f32 here: nothing is split in two 16-bit addends.
tile.program @p [{name = "q", role = "input"}, {name = "z", role = "result"}] {
^bb0(%q: !flare.tensor<m=16, d=4, f32>, %z: !flare.tensor<m=16, d=4, f32>):
  tile.kernel @split "merge" sweep 0 {
  ^bb0(%first: index):
    %x = tile.load %q at %first : !flare.tensor<m=16, d=4, f32> -> !tile.tile<m=16, d=4, f32>
    // expected-error @+1 {{has no lowering to the host}}
    %hi, %lo = tile.split %x : !tile.tile<m=16, d=4, f32> -> !tile.tile<m=16, d=4, bf16>, !tile.tile<m=16, d=4, bf16>
    tile.store %x, %z at %first : !tile.tile<m=16, d=4, f32>, !flare.tensor<m=16, d=4, f32>
  }
}

// -----

// Rows lie across lanes: outside pairs a reduction is over channels.
tile.program @p [{name = "q", role = "input"}, {name = "z", role = "result"}] {
^bb0(%q: !flare.tensor<m=16, d=4, f32>, %z: !flare.tensor<m=16, d=4, f32>):
  tile.kernel @reduce "merge" sweep 0 {
  ^bb0(%first: index):
    %x = tile.load %q at %first : !flare.tensor<m=16, d=4, f32> -> !tile.tile<m=16, d=4, f32>
    // expected-error @+1 {{reduces over rows outside pairs}}
    %s = tile.reduce "add" %x over m : !tile.tile<m=16, d=4, f32> -> !tile.tile<d=4, f32>
    tile.store %x, %z at %first : !tile.tile<m=16, d=4, f32>, !flare.tensor<m=16, d=4, f32>
  }
}
