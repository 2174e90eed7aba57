// RUN: flare-opt %s --flare-plan-sweeps -split-input-file -verify-diagnostics

// expected-error @+1 {{returns a pair value; pair values are never stored}}
func.func @pair(%k: !flare.tensor<n, d=8, f32>, %q: !flare.tensor<m=4, d=8, f32>) -> !flare.tensor<n, m=4, f32> {
  %x = flare.contract %k, %q over d : !flare.tensor<n, d=8, f32>, !flare.tensor<m=4, d=8, f32>
  return %x : !flare.tensor<n, m=4, f32>
}
