// RUN: flare-opt %s -split-input-file -verify-diagnostics

func.func @pair(%k: !flare.tensor<n, d=8, f32>, %q: !flare.tensor<m=4, d=8, f32>) {
  // expected-error @+1 {{cannot yield '!flare.tensor<n, m=4, f32>': pair values are never stored}}
  %x = flare.sweep -> !flare.tensor<n, m=4, f32> {
    %s = flare.contract %k, %q over d : !flare.tensor<n, d=8, f32>, !flare.tensor<m=4, d=8, f32>
    flare.yield %s : !flare.tensor<n, m=4, f32>
  }
  return
}

// -----

func.func @types(%k: !flare.tensor<n, d=8, f32>) {
  // expected-error @+1 {{results must be what each of its regions yields}}
  %x = flare.sweep -> !flare.tensor<n, d=4, f32> {
    flare.yield %k : !flare.tensor<n, d=8, f32>
  }
  return
}

// -----

func.func @safe_types(%k: !flare.tensor<n, d=8, f32>, %l: !flare.tensor<n, f32>) {
  // expected-error @+1 {{results must be what each of its regions yields}}
  %x = flare.sweep -> !flare.tensor<n, d=8, f32> {
    flare.yield %k : !flare.tensor<n, d=8, f32>
  } safe {
    flare.yield %l : !flare.tensor<n, f32>
  }
  return
}

// -----

func.func @three(%k: !flare.tensor<n, d=8, f32>) {
  // expected-error @+1 {{has at most two regions, a fast and a safe one}}
  %x = "flare.sweep"() ({
    "flare.yield"(%k) : (!flare.tensor<n, d=8, f32>) -> ()
  }, {
    "flare.yield"(%k) : (!flare.tensor<n, d=8, f32>) -> ()
  }, {
    "flare.yield"(%k) : (!flare.tensor<n, d=8, f32>) -> ()
  }) : () -> !flare.tensor<n, d=8, f32>
  return
}

// -----

func.func @outside(%k: !flare.tensor<n, d=8, f32>) {
  // expected-error @+1 {{expects parent op 'flare.sweep'}}
  flare.yield %k : !flare.tensor<n, d=8, f32>
}

// -----

func.func @no_yield() {
  // expected-error @+1 {{results must be what each of its regions yields}}
  flare.sweep {
    func.return
  }
  return
}
