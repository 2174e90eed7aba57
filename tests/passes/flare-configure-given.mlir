// A configuration that somebody wrote stays, or is refused with the reason: tests/compiler/feasible_test.cpp has all rules.
// RUN: flare-opt %s -split-input-file -verify-diagnostics --flare-configure=target=sm_90a | FileCheck %s

!nd = !flare.tensor<n, d=8, bf16>

// CHECK-LABEL: func.func @given
// CHECK: flare.sweep config #tile.config<rows = n, tile = 128, heads = 4,
func.func @given(%k: !nd) -> !flare.tensor<n, d=8, f32> {
  %y = flare.sweep config #tile.config<rows = n, tile = 128, heads = 4, row_groups = 1, workers = 1, worker_rows = 128, stages = 2,
      unroll = 0, blocks = 132, sums = "add", exp = "mufu", park = "shared", min_blocks = 1> -> !flare.tensor<n, d=8, f32> {
    %a = flare.neg %k : !nd
    flare.yield %a : !flare.tensor<n, d=8, f32>
  }
  return %y : !flare.tensor<n, d=8, f32>
}

// -----

!nd = !flare.tensor<n, d=8, bf16>
func.func @infeasible(%k: !nd) -> !flare.tensor<n, d=8, f32> {
  // expected-error @+1 {{cannot be run as configured: stages = 1, but a GPU's ring of staged tiles has one to work on and at least one to fill; use 2 to 16}}
  %y = flare.sweep config #tile.config<rows = n, tile = 128, heads = 4, row_groups = 1, workers = 1, worker_rows = 128, stages = 1,
      unroll = 0, blocks = 132, sums = "add", exp = "mufu", park = "shared", min_blocks = 1> -> !flare.tensor<n, d=8, f32> {
    %a = flare.neg %k : !nd
    flare.yield %a : !flare.tensor<n, d=8, f32>
  }
  return %y : !flare.tensor<n, d=8, f32>
}

// -----

!nd = !flare.tensor<n, d=8, bf16>
func.func @foreign(%k: !nd) -> !flare.tensor<n, d=8, f32> {
  // expected-error @+1 {{has a configuration "fast" that is no #tile.config}}
  %y = flare.sweep config "fast" -> !flare.tensor<n, d=8, f32> {
    %a = flare.neg %k : !nd
    flare.yield %a : !flare.tensor<n, d=8, f32>
  }
  return %y : !flare.tensor<n, d=8, f32>
}
