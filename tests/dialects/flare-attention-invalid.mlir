// encode, decode and attend: each operand and result carries what the formulas say.
// RUN: flare-opt %s -split-input-file -verify-diagnostics

!md = !flare.tensor<m=4, d=8, f32>
!nd = !flare.tensor<n, d=8, f32>
!m = !flare.tensor<m=4, f32>
func.func @encode(%q: !nd, %k: !nd, %s: f32) {
  // expected-error @+1 {{q must carry exactly [m, d], but is '!flare.tensor<n, d=8, f32>'}}
  %z, %l = flare.encode %q, %k, %k scale %s : !nd, !nd, !nd -> !md, !m
  return
}

// -----

!md = !flare.tensor<m=4, d=8, f32>
!nd = !flare.tensor<n, d=8, f32>
!m = !flare.tensor<m=4, f32>
func.func @encode(%q: !md, %v: !nd, %s: f32) {
  // expected-error @+1 {{k must carry exactly [n, d], but is '!flare.tensor<m=4, d=8, f32>'}}
  %z, %l = flare.encode %q, %q, %v scale %s : !md, !md, !nd -> !md, !m
  return
}

// -----

!md = !flare.tensor<m=4, d=8, f32>
!nd = !flare.tensor<n, d=8, f32>
!m = !flare.tensor<m=4, f32>
func.func @encode(%q: !md, %k: !nd, %v: !flare.tensor<n, f32>, %s: f32) {
  // expected-error @+1 {{v must carry exactly [n, d], but is '!flare.tensor<n, f32>'}}
  %z, %l = flare.encode %q, %k, %v scale %s : !md, !nd, !flare.tensor<n, f32> -> !md, !m
  return
}

// -----

!md = !flare.tensor<m=4, d=8, f32>
!nd = !flare.tensor<n, d=8, f32>
!m = !flare.tensor<m=4, f32>
func.func @encode(%q: !md, %k: !nd, %s: f32) {
  // expected-error @+1 {{z must carry exactly [m, d], but is '!flare.tensor<n, d=8, f32>'}}
  %z, %l = flare.encode %q, %k, %k scale %s : !md, !nd, !nd -> !nd, !m
  return
}

// -----

!md = !flare.tensor<m=4, d=8, f32>
!nd = !flare.tensor<n, d=8, f32>
func.func @encode(%q: !md, %k: !nd, %s: f32) {
  // expected-error @+1 {{lse must carry exactly [m], but is '!flare.tensor<n, f32>'}}
  %z, %l = flare.encode %q, %k, %k scale %s : !md, !nd, !nd -> !md, !flare.tensor<n, f32>
  return
}

// -----

!md = !flare.tensor<m=4, d=8, f32>
!nd = !flare.tensor<n, d=4, f32>
!m = !flare.tensor<m=4, f32>
func.func @encode(%q: !md, %k: !nd, %s: f32) {
  // expected-error @+1 {{channels of q and k differ: 8 and 4}}
  %z, %l = flare.encode %q, %k, %k scale %s : !md, !nd, !nd -> !md, !m
  return
}

// -----

!md = !flare.tensor<m=4, d=8, f32>
!nd = !flare.tensor<n, d=8, f32>
!m = !flare.tensor<m=4, f32>
func.func @encode(%q: !md, %k: !nd, %s: f32) {
  // expected-error @+1 {{channels of v and z differ: 8 and 16}}
  %z, %l = flare.encode %q, %k, %k scale %s : !md, !nd, !nd -> !flare.tensor<m=4, d=16, f32>, !m
  return
}

// -----

!md = !flare.tensor<m=4, d=8, f32>
!nd = !flare.tensor<n, d=8, f32>
!m = !flare.tensor<m=4, f32>
func.func @encode(%q: !md, %k: !nd, %s: f32) {
  // expected-error @+1 {{latents of q and z differ: 4 and 5}}
  %z, %l = flare.encode %q, %k, %k scale %s : !md, !nd, !nd -> !flare.tensor<m=5, d=8, f32>, !m
  return
}

// -----

!md = !flare.tensor<m=4, d=8, f32>
!nd = !flare.tensor<n, d=8, f32>
func.func @encode(%q: !md, %k: !nd, %s: f32) {
  // expected-error @+1 {{latents of q and lse differ: 4 and 5}}
  %z, %l = flare.encode %q, %k, %k scale %s : !md, !nd, !nd -> !md, !flare.tensor<m=5, f32>
  return
}

// -----

!md = !flare.tensor<m=4, d=8, f32>
!nd = !flare.tensor<n, d=8, f32>
!n = !flare.tensor<n, f32>
func.func @decode(%q: !md, %s: f32) {
  // expected-error @+1 {{k must carry exactly [n, d], but is '!flare.tensor<m=4, d=8, f32>'}}
  %y, %l = flare.decode %q, %q, %q scale %s : !md, !md, !md -> !nd, !n
  return
}

// -----

!md = !flare.tensor<m=4, d=8, f32>
!nd = !flare.tensor<n, d=8, f32>
!n = !flare.tensor<n, f32>
func.func @decode(%q: !md, %k: !nd, %s: f32) {
  // expected-error @+1 {{q must carry exactly [m, d], but is '!flare.tensor<n, d=8, f32>'}}
  %y, %l = flare.decode %k, %k, %q scale %s : !nd, !nd, !md -> !nd, !n
  return
}

// -----

!md = !flare.tensor<m=4, d=8, f32>
!nd = !flare.tensor<n, d=8, f32>
!n = !flare.tensor<n, f32>
func.func @decode(%q: !md, %k: !nd, %s: f32) {
  // expected-error @+1 {{z must carry exactly [m, d], but is '!flare.tensor<n, d=8, f32>'}}
  %y, %l = flare.decode %k, %q, %k scale %s : !nd, !md, !nd -> !nd, !n
  return
}

// -----

!md = !flare.tensor<m=4, d=8, f32>
!nd = !flare.tensor<n, d=8, f32>
!n = !flare.tensor<n, f32>
func.func @decode(%q: !md, %k: !nd, %s: f32) {
  // expected-error @+1 {{y must carry exactly [n, d], but is '!flare.tensor<m=4, d=8, f32>'}}
  %y, %l = flare.decode %k, %q, %q scale %s : !nd, !md, !md -> !md, !n
  return
}

// -----

!md = !flare.tensor<m=4, d=8, f32>
!nd = !flare.tensor<n, d=8, f32>
func.func @decode(%q: !md, %k: !nd, %s: f32) {
  // expected-error @+1 {{lse must carry exactly [n], but is '!flare.tensor<m=4, f32>'}}
  %y, %l = flare.decode %k, %q, %q scale %s : !nd, !md, !md -> !nd, !flare.tensor<m=4, f32>
  return
}

// -----

!md = !flare.tensor<m=4, d=8, f32>
!nd = !flare.tensor<n, d=4, f32>
!n = !flare.tensor<n, f32>
func.func @decode(%q: !md, %k: !nd, %s: f32) {
  // expected-error @+1 {{channels of q and k differ: 8 and 4}}
  %y, %l = flare.decode %k, %q, %q scale %s : !nd, !md, !md -> !nd, !n
  return
}

// -----

!md = !flare.tensor<m=4, d=8, f32>
!nd = !flare.tensor<n, d=8, f32>
!n = !flare.tensor<n, f32>
func.func @decode(%q: !md, %k: !nd, %s: f32) {
  // expected-error @+1 {{channels of z and y differ: 8 and 4}}
  %y, %l = flare.decode %k, %q, %q scale %s : !nd, !md, !md -> !flare.tensor<n, d=4, f32>, !n
  return
}

// -----

!md = !flare.tensor<m=4, d=8, f32>
!nd = !flare.tensor<n, d=8, f32>
!n = !flare.tensor<n, f32>
func.func @decode(%q: !md, %k: !nd, %z: !flare.tensor<m=5, d=8, f32>, %s: f32) {
  // expected-error @+1 {{latents of q and z differ: 4 and 5}}
  %y, %l = flare.decode %k, %q, %z scale %s : !nd, !md, !flare.tensor<m=5, d=8, f32> -> !nd, !n
  return
}

// -----

!md = !flare.tensor<m=4, d=8, f32>
!nd = !flare.tensor<n, d=8, f32>
func.func @attend(%x: !flare.tensor<n, m=4, f32>, %v: !nd) {
  // expected-error @+1 {{contracts over tokens (n) or latents (m), not over channels (d)}}
  %z, %l = flare.attend %x, %v over d : !flare.tensor<n, m=4, f32>, !nd -> !md, !flare.tensor<m=4, f32>
  return
}

// -----

!md = !flare.tensor<m=4, d=8, f32>
!nd = !flare.tensor<n, d=8, f32>
func.func @attend(%v: !nd) {
  // expected-error @+1 {{x must carry exactly [n, m], but is '!flare.tensor<n, d=8, f32>'}}
  %z, %l = flare.attend %v, %v over n : !nd, !nd -> !md, !flare.tensor<m=4, f32>
  return
}

// -----

!md = !flare.tensor<m=4, d=8, f32>
func.func @attend(%x: !flare.tensor<n, m=4, f32>, %v: !md) {
  // expected-error @+1 {{v must carry exactly [n, d], but is '!flare.tensor<m=4, d=8, f32>'}}
  %z, %l = flare.attend %x, %v over n : !flare.tensor<n, m=4, f32>, !md -> !md, !flare.tensor<m=4, f32>
  return
}

// -----

!nd = !flare.tensor<n, d=8, f32>
func.func @attend(%x: !flare.tensor<n, m=4, f32>, %v: !nd) {
  // expected-error @+1 {{out must carry exactly [m, d], but is '!flare.tensor<n, d=8, f32>'}}
  %z, %l = flare.attend %x, %v over n : !flare.tensor<n, m=4, f32>, !nd -> !nd, !flare.tensor<m=4, f32>
  return
}

// -----

!md = !flare.tensor<m=4, d=8, f32>
!nd = !flare.tensor<n, d=8, f32>
func.func @attend(%x: !flare.tensor<n, m=4, f32>, %v: !md) {
  // expected-error @+1 {{lse must carry exactly [n], but is '!flare.tensor<m=4, f32>'}}
  %z, %l = flare.attend %x, %v over m : !flare.tensor<n, m=4, f32>, !md -> !nd, !flare.tensor<m=4, f32>
  return
}

// -----

!nd = !flare.tensor<n, d=8, f32>
func.func @attend(%x: !flare.tensor<n, m=4, f32>, %v: !flare.tensor<m=5, d=8, f32>) {
  // expected-error @+1 {{latents of x and v differ: 4 and 5}}
  %z, %l = flare.attend %x, %v over m : !flare.tensor<n, m=4, f32>, !flare.tensor<m=5, d=8, f32> -> !nd, !flare.tensor<n, f32>
  return
}

// -----

!nd = !flare.tensor<n, d=8, f32>
func.func @attend(%x: !flare.tensor<n, m=4, f32>, %v: !nd) {
  // expected-error @+1 {{channels of v and out differ: 8 and 4}}
  %z, %l = flare.attend %x, %v over n : !flare.tensor<n, m=4, f32>, !nd -> !flare.tensor<m=4, d=4, f32>, !flare.tensor<m=4, f32>
  return
}

// -----

// The result has as many latents as the scores.
!nd = !flare.tensor<n, d=8, f32>
func.func @attend(%x: !flare.tensor<n, m=4, f32>, %v: !nd) {
  // expected-error @+1 {{latents of x and out differ: 4 and 5}}
  %z, %l = flare.attend %x, %v over n : !flare.tensor<n, m=4, f32>, !nd -> !flare.tensor<m=5, d=8, f32>, !flare.tensor<m=4, f32>
  return
}

// -----

!md = !flare.tensor<m=4, d=8, f32>
!nd = !flare.tensor<n, d=8, f32>
func.func @attend(%x: !flare.tensor<n, m=4, f32>, %v: !nd) {
  // expected-error @+1 {{latents of x and lse differ: 4 and 5}}
  %z, %l = flare.attend %x, %v over n : !flare.tensor<n, m=4, f32>, !nd -> !md, !flare.tensor<m=5, f32>
  return
}

// -----

// The scale is a number of 32 bits.
!md = !flare.tensor<m=4, d=8, f32>
!nd = !flare.tensor<n, d=8, f32>
!m = !flare.tensor<m=4, f32>
// expected-note @+1 {{prior use here}}
func.func @encode(%q: !md, %k: !nd, %s: f64) {
  // expected-error @+1 {{expects different type than prior uses: 'f32' vs 'f64'}}
  %z, %l = flare.encode %q, %k, %k scale %s : !md, !nd, !nd -> !md, !m
  return
}
