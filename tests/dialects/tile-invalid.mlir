// RUN: flare-opt %s -split-input-file -verify-diagnostics

// expected-error @+1 {{expected a basis like n4, or 0}}
func.func private @f(!tile.tile<n=16, f32, #tile.layout<reg [e1], lane []>>)

// -----

// expected-error @+1 {{expected a basis like n4, or 0}}
func.func private @f(!tile.tile<n=16, f32, #tile.layout<reg [n], lane []>>)

// -----

// expected-error @+1 {{expected 'reg'}}
func.func private @f(!tile.tile<n=16, f32, #tile.layout<lane [n1]>>)

// -----

// expected-error @+1 {{describes 1 arguments but has 0}}
tile.program @p [{name = "k", role = "input"}] {
}

// -----

// expected-error @+1 {{needs a name and a role}}
tile.program @p [{name = "k"}] {
^bb0(%k: !flare.tensor<n, d=8, f32>):
}

// -----

// expected-error @+1 {{expects parent op 'tile.program'}}
tile.kernel @k "sweep" sweep 0 {
}

// -----

func.func @pairs(%x: !tile.tile<n=16, d=8, f32>, %z: !tile.tile<m=16, d=8, f32>) {
  // expected-error @+1 {{body takes the first row, the first column, 1 slices and 1 accumulators, but has 3 arguments}}
  %r = tile.pairs rows m unroll 0 ins (%x) init (%z) : (!tile.tile<n=16, d=8, f32>), (!tile.tile<m=16, d=8, f32>) -> (!tile.tile<m=16, d=8, f32>) {
  ^bb0(%i: index, %j: index, %a: !tile.tile<n=16, d=8, f32>):
    tile.yield %z : !tile.tile<m=16, d=8, f32>
  }
  return
}

// -----

func.func @pairs(%x: !tile.tile<n=16, d=8, f32>, %z: !tile.tile<m=16, d=8, f32>) {
  // expected-error @+1 {{rows are tokens (n) or latents (m)}}
  %r = tile.pairs rows d unroll 0 ins (%x) init (%z) : (!tile.tile<n=16, d=8, f32>), (!tile.tile<m=16, d=8, f32>) -> (!tile.tile<m=16, d=8, f32>) {
  ^bb0(%i: index, %j: index, %a: !tile.tile<n=16, d=8, f32>, %b: !tile.tile<m=16, d=8, f32>):
    tile.yield %b : !tile.tile<m=16, d=8, f32>
  }
  return
}

// -----

func.func @pairs(%x: !tile.tile<n=16, d=8, f32>, %z: !tile.tile<m=16, d=8, f32>) {
  // expected-error @+1 {{results must have the types of the accumulators}}
  %r = tile.pairs rows m unroll 0 ins (%x) init (%z) : (!tile.tile<n=16, d=8, f32>), (!tile.tile<m=16, d=8, f32>) -> (!tile.tile<m=16, d=16, f32>) {
  ^bb0(%i: index, %j: index, %a: !tile.tile<n=16, d=8, f32>, %b: !tile.tile<m=16, d=8, f32>):
    tile.yield %b : !tile.tile<m=16, d=8, f32>
  }
  return
}

// -----

func.func @contract(%a: !tile.tile<n=16, d=8, bf16>, %b: !tile.tile<m=16, d=8, bf16>) {
  // expected-error @+1 {{takes as many left as right operands, at least one; got 2 and 1}}
  %x = tile.contract (%a, %a), (%b) over d : (!tile.tile<n=16, d=8, bf16>, !tile.tile<n=16, d=8, bf16>), (!tile.tile<m=16, d=8, bf16>) -> !tile.tile<n=16, m=16, f32>
  return
}

// -----

func.func @contract(%a: !tile.tile<n=16, d=8, bf16>, %b: !tile.tile<m=16, d=8, bf16>, %c: !tile.tile<n=16, f32>) {
  // expected-error @+1 {{accumulates '!tile.tile<n=16, f32>' into '!tile.tile<n=16, m=16, f32>'}}
  %x = tile.contract (%a), (%b) over d into %c : !tile.tile<n=16, f32> : (!tile.tile<n=16, d=8, bf16>), (!tile.tile<m=16, d=8, bf16>) -> !tile.tile<n=16, m=16, f32>
  return
}
