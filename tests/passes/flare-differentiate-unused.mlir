// With the gradients of all tensors wanted (*), an argument that no result depends on is named: a zero would cost a pass over the
// tokens to write, and nobody who looks at the results would know that it means nothing.
// RUN: flare-opt %s --flare-differentiate -split-input-file -verify-diagnostics

// expected-error @+1 {{no result depends on arguments 'b', 'c', so there is no gradient for them; ask for gradients of a only}}
func.func @unused(%a: !flare.tensor<n, f32> {flare.name = "a"}, %b: !flare.tensor<n, f32> {flare.name = "b"},
    %c: !flare.tensor<m=4, f32> {flare.name = "c"}) -> !flare.tensor<n, f32> {
  %x = flare.neg %b : !flare.tensor<n, f32>
  %r = flare.neg %a : !flare.tensor<n, f32>
  return %r : !flare.tensor<n, f32>
}

// -----

// The log-sum-exp alone does not depend on the values.
// expected-error @+1 {{no result depends on argument 'v', so there is no gradient for it; ask for gradients of q,k only}}
func.func @lse(%q: !flare.tensor<m=4, d=8, f32> {flare.name = "q"}, %k: !flare.tensor<n, d=8, f32> {flare.name = "k"},
    %v: !flare.tensor<n, d=8, f32> {flare.name = "v"}, %s: f32) -> !flare.tensor<m=4, f32> {
  %z, %l = flare.encode %q, %k, %v scale %s : !flare.tensor<m=4, d=8, f32>, !flare.tensor<n, d=8, f32>, !flare.tensor<n, d=8, f32>
      -> !flare.tensor<m=4, d=8, f32>, !flare.tensor<m=4, f32>
  return %l : !flare.tensor<m=4, f32>
}
