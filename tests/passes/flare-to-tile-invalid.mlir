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
  // expected-error @+1 {{cannot be run as configured: exp = "mufu", but on host exponentials are made by a polynomial on vectors; use exp = "poly5"}}
  %y = flare.sweep config #tile.config<rows = n, tile = 16, heads = 4, row_groups = 1, workers = 1, worker_rows = 16, stages = 1,
      unroll = 1, blocks = 64, sums = "add", exp = "mufu", park = "shared", min_blocks = 1> -> !nd {
    %a = flare.neg %k : !nd
    flare.yield %a : !nd
  }
  return %y : !nd
}

// -----

!nd = !flare.tensor<n, d=8, f32>
// expected-error @+1 {{result 1 is an argument or is returned twice; return each value once}}
func.func @argument(%k: !nd) -> (!nd, !nd) {
  %y = flare.sweep config #tile.config<rows = n, tile = 16, heads = 4, row_groups = 1, workers = 1, worker_rows = 16, stages = 1,
      unroll = 1, blocks = 64, sums = "add", exp = "poly5", park = "shared", min_blocks = 1> -> !nd {
    %a = flare.neg %k : !nd
    flare.yield %a : !nd
  }
  return %y, %k : !nd, !nd
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

// -----

// expected-error @+1 {{argument 0 is '!flare.tensor<d=8, f32>'; tensors in memory are of tokens or of latents}}
func.func @channels(%v: !flare.tensor<d=8, f32>) {
  return
}

// -----

// expected-error @+1 {{returns nothing that depends on tokens, so it has no kernels}}
func.func @nothing(%q: !flare.tensor<m=4, f32>) -> !flare.tensor<m=4, f32> {
  %r = flare.neg %q : !flare.tensor<m=4, f32>
  return %r : !flare.tensor<m=4, f32>
}

// -----

// expected-error @+1 {{result 1 depends on no tokens, so no kernel computes it; compute it outside}}
func.func @latents(%k: !flare.tensor<n, f32>, %q: !flare.tensor<m=4, f32>) -> (!flare.tensor<n, f32>, !flare.tensor<m=4, f32>) {
  %y = flare.sweep config #tile.config<rows = n, tile = 16, heads = 4, row_groups = 1, workers = 1, worker_rows = 16, stages = 1,
      unroll = 1, blocks = 64, sums = "add", exp = "poly5", park = "shared", min_blocks = 1> -> !flare.tensor<n, f32> {
    %a = flare.neg %k : !flare.tensor<n, f32>
    flare.yield %a : !flare.tensor<n, f32>
  }
  %r = flare.neg %q : !flare.tensor<m=4, f32>
  return %y, %r : !flare.tensor<n, f32>, !flare.tensor<m=4, f32>
}

// -----

// expected-error @+1 {{result 1 is '!flare.tensor<d=8, f32>', without tokens or latents; a kernel has rows of either}}
func.func @result(%k: !flare.tensor<n, f32>, %q: !flare.tensor<m=4, d=8, f32>) -> (!flare.tensor<n, f32>, !flare.tensor<d=8, f32>) {
  %y = flare.sweep config #tile.config<rows = n, tile = 16, heads = 4, row_groups = 1, workers = 1, worker_rows = 16, stages = 1,
      unroll = 1, blocks = 64, sums = "add", exp = "poly5", park = "shared", min_blocks = 1> -> !flare.tensor<n, f32> {
    %a = flare.neg %k : !flare.tensor<n, f32>
    flare.yield %a : !flare.tensor<n, f32>
  }
  %r = flare.sum %q over m : !flare.tensor<m=4, d=8, f32>
  return %y, %r : !flare.tensor<n, f32>, !flare.tensor<d=8, f32>
}
