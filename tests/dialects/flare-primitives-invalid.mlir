// contract, sum, elementwise ops and cast: indices that do not fit.
// RUN: flare-opt %s -split-input-file -verify-diagnostics

func.func @contract(%a: !flare.tensor<n, d=8, f32>, %b: !flare.tensor<m=4, d=4, f32>) {
  // expected-error @+1 {{cannot contract '!flare.tensor<n, d=8, f32>' with '!flare.tensor<m=4, d=4, f32>' over d: both must carry it and agree in the indices they share}}
  %x = flare.contract %a, %b over d : !flare.tensor<n, d=8, f32>, !flare.tensor<m=4, d=4, f32>
  return
}

// -----

func.func @contract(%a: !flare.tensor<n, d=8, f32>, %b: !flare.tensor<m=4, d=8, f32>) {
  // expected-error @+1 {{over n: both must carry it}}
  %x = flare.contract %a, %b over n : !flare.tensor<n, d=8, f32>, !flare.tensor<m=4, d=8, f32>
  return
}

// -----

func.func @contract(%a: !flare.tensor<n, d=8, f32>) {
  // expected-error @+1 {{expected string or keyword containing one of the following enum values for attribute 'over' [n, m, d]}}
  %x = flare.contract %a, %a over e : !flare.tensor<n, d=8, f32>, !flare.tensor<n, d=8, f32>
  return
}

// -----

func.func @sum(%a: !flare.tensor<n, d=8, f32>) {
  // expected-error @+1 {{cannot sum '!flare.tensor<n, d=8, f32>' over m, which it does not carry}}
  %x = flare.sum %a over m : !flare.tensor<n, d=8, f32>
  return
}

// -----

func.func @add(%a: !flare.tensor<n, d=8, f32>, %b: !flare.tensor<n, d=4, f32>) {
  // expected-error @+1 {{operands '!flare.tensor<n, d=8, f32>' and '!flare.tensor<n, d=4, f32>' disagree in an index they share}}
  %x = flare.add %a, %b : !flare.tensor<n, d=8, f32>, !flare.tensor<n, d=4, f32>
  return
}

// -----

func.func @sub(%a: !flare.tensor<m=3, f32>, %b: !flare.tensor<m=4, f32>) {
  // expected-error @+1 {{operands '!flare.tensor<m=3, f32>' and '!flare.tensor<m=4, f32>' disagree in an index they share}}
  %x = flare.sub %a, %b : !flare.tensor<m=3, f32>, !flare.tensor<m=4, f32>
  return
}

// -----

func.func @mul(%a: !flare.tensor<n, m=3, f32>, %b: !flare.tensor<m=4, f32>) {
  // expected-error @+1 {{disagree in an index they share}}
  %x = flare.mul %a, %b : !flare.tensor<n, m=3, f32>, !flare.tensor<m=4, f32>
  return
}

// -----

// In the generic form a result type may be wrong, which inference notices.
func.func @neg(%a: !flare.tensor<n, d=8, bf16>) {
  // expected-error @+2 {{failed to infer returned types}}
  // expected-error @+1 {{inferred type(s) '!flare.tensor<n, d=8, f32>' are incompatible with return type(s) of operation '!flare.tensor<n, d=8, bf16>'}}
  %x = "flare.neg"(%a) : (!flare.tensor<n, d=8, bf16>) -> !flare.tensor<n, d=8, bf16>
  return
}

// -----

func.func @cast(%a: !flare.tensor<n, d=8, f32>) {
  // expected-error @+1 {{changes the element type only, not '!flare.tensor<n, d=8, f32>' into '!flare.tensor<n, d=4, bf16>'}}
  %x = flare.cast %a : !flare.tensor<n, d=8, f32> -> !flare.tensor<n, d=4, bf16>
  return
}

// -----

func.func @exp2(%a: f32) {
  // expected-error @+1 {{expected '<'}}
  %x = flare.exp2 %a : f32
  return
}

// -----

func.func @scale(%a: !flare.tensor<n, d=8, f32>) {
  // expected-error @+1 {{expected 'by'}}
  %x = flare.scale %a : !flare.tensor<n, d=8, f32>
  return
}
