// RUN: flare-opt %s -allow-unregistered-dialect --flare-differentiate=wanted=k -split-input-file -verify-diagnostics

// expected-error @+1 {{a gradient is wanted for 'k', but the arguments are q, arg1}}
func.func @unknown(%q: !flare.tensor<n, f32> {flare.name = "q"}, %a: f32) -> !flare.tensor<n, f32> {
  return %q : !flare.tensor<n, f32>
}

// -----

// expected-error @+1 {{no result depends on argument 'k', so there is no gradient for it; ask for the forward alone}}
func.func @unused(%k: !flare.tensor<n, f32> {flare.name = "k"}, %v: !flare.tensor<n, f32>) -> !flare.tensor<n, f32> {
  %r = flare.neg %v : !flare.tensor<n, f32>
  return %r : !flare.tensor<n, f32>
}

// -----

// expected-error @+1 {{a flare function is one block of straight-line ops}}
func.func @blocks(%k: !flare.tensor<n, f32> {flare.name = "k"}) -> !flare.tensor<n, f32> {
  cf.br ^next
^next:
  return %k : !flare.tensor<n, f32>
}

// -----

func.func @sweep(%k: !flare.tensor<n, f32> {flare.name = "k"}) -> !flare.tensor<n, f32> {
  // expected-error @+1 {{has no gradient: it does not implement DifferentiableOpInterface}}
  %r = "test.opaque"(%k) : (!flare.tensor<n, f32>) -> !flare.tensor<n, f32>
  return %r : !flare.tensor<n, f32>
}

// -----

// expected-error @+1 {{a flare function has one range and one mask of its tokens at most; @masks has two of '!flare.tensor<n, i8>'}}
func.func @masks(%k: !flare.tensor<n, f32> {flare.name = "k"}, %a: !flare.tensor<n, i8>, %b: !flare.tensor<n, i8>) -> !flare.tensor<n, f32> {
  %r = flare.neg %k : !flare.tensor<n, f32>
  return %r : !flare.tensor<n, f32>
}
