// RUN: flare-opt %s -split-input-file -verify-diagnostics

// expected-error @+1 {{a tensor has at least one latent and one channel, got m=-1}}
func.func private @f(!flare.tensor<m=-1, d=8, f32>)

// -----

// expected-error @+1 {{a tensor has at least one latent and one channel, got d=-8}}
func.func private @f(!flare.tensor<m=4, d=-8, f32>)

// -----

// expected-error @+1 {{a tensor has at least one latent and one channel, got m=0}}
func.func private @f(!flare.tensor<m=0, d=8, f32>)

// -----

// expected-error @+1 {{element type 'index' is not one of f16, bf16, f32, f64}}
func.func private @f(!flare.tensor<n, d=8, index>)

// -----

// expected-error @+1 {{integers say which tokens there are: use !flare.tensor<d=2, i32> for a range, !flare.tensor<n, i8> for a mask}}
func.func private @f(!flare.tensor<n, d=8, i32>)

// -----

// expected-error @+1 {{integers say which tokens there are}}
func.func private @f(!flare.tensor<n, i32>)

// -----

// expected-error @+1 {{integers say which tokens there are}}
func.func private @f(!flare.tensor<n, i1>)

// -----

func.func @f(%mask: !flare.tensor<n, i8>) {
  // expected-error @+1 {{operand #0 must be a flare tensor of floating-point numbers, but got '!flare.tensor<n, i8>'}}
  %r = flare.neg %mask : !flare.tensor<n, i8>
  return
}

// -----

// expected-error @+1 {{expected '<'}}
func.func private @f(!flare.tensor)

// -----

// expected-error @+1 {{expected '='}}
func.func private @f(!flare.tensor<m 4, f32>)

// -----

// expected-error @+1 {{expected ','}}
func.func private @f(!flare.tensor<n f32>)

// -----

// An index that does not exist.
// expected-error @+1 {{expected}}
func.func private @f(!flare.tensor<n, e=8, f32>)
