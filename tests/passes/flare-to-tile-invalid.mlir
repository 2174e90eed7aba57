// RUN: flare-opt %s -split-input-file -verify-diagnostics --flare-to-tile=target=host

!nd = !flare.tensor<n, d=8, f32>
func.func @unconfigured(%k: !nd) -> !nd {
  // expected-error @+1 {{has no #tile.config; run flare-configure first}}
  %y = flare.sweep -> !nd {
    %a = flare.neg %k : !nd
    flare.yield %a : !nd
  }
  return %y : !nd
}

// -----

// The same check as flare-configure's: a configuration may come from elsewhere.
!nd = !flare.tensor<n, d=8, f32>
func.func @infeasible(%k: !nd) -> !nd {
  // expected-error @+1 {{cannot be run as configured: exp = "mufu", but on host exponentials are made as exp = "poly5" says}}
  %y = flare.sweep config #tile.config<rows = n, tile = 16, heads = 4, row_groups = 1, workers = 1, worker_rows = 16, stages = 1,
      unroll = 1, blocks = 64, sums = "add", exp = "mufu", park = "shared", min_blocks = 1> -> !nd {
    %a = flare.neg %k : !nd
    flare.yield %a : !nd
  }
  return %y : !nd
}

// -----

!nd = !flare.tensor<n, d=8, f32>
// expected-error @+1 {{result 0 is an argument or is returned twice; return each value once}}
func.func @argument(%k: !nd) -> !nd {
  return %k : !nd
}

// -----

!nd = !flare.tensor<n, d=8, f32>
!md = !flare.tensor<m=4, d=8, f32>
func.func @latents(%k: !nd, %q: !md) -> !md {
  // expected-error @+1 {{yields a latent value that is no reduction over tokens}}
  %y = flare.sweep config #tile.config<rows = m, tile = 16, heads = 4, row_groups = 1, workers = 1, worker_rows = 16, stages = 1,
      unroll = 1, blocks = 64, sums = "add", exp = "poly5", park = "shared", min_blocks = 1> -> !md {
    %x = flare.contract %k, %q over d : !nd, !md
    %z = flare.contract %x, %k over n : !flare.tensor<n, m=4, f32>, !nd
    %a = flare.neg %z : !md
    flare.yield %a : !md
  }
  return %y : !md
}
