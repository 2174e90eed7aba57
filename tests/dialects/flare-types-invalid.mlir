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

// expected-error @+1 {{element type 'i32' is not one of f16, bf16, f32, f64}}
func.func private @f(!flare.tensor<n, d=8, i32>)

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
