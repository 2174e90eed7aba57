// RUN: flare-opt %s --flare-share-exponentials | FileCheck %s
// RUN: flare-opt %s --flare-share-exponentials=wide=false | FileCheck %s --check-prefix=NARROW

!nd = !flare.tensor<n, d=8, bf16>
!md = !flare.tensor<m=4, d=8, bf16>
!nm = !flare.tensor<n, m=4, f32>

// Two softmaxes of the same scores: 2^x once, the rest sinks into operands that carry n or m alone.
// CHECK-LABEL: func.func @two(
// CHECK: flare.sweep
// CHECK: %[[X:.*]] = flare.contract {{.*}} over d
// CHECK-NEXT: %[[E:.*]] = flare.exp2 %[[X]] : <n, m=4, f32>
// CHECK-NOT: flare.exp2 {{.*}} : <n, m=4, f32>
// CHECK: flare.contract %[[E]], %{{.*}} over n
// CHECK: flare.contract %[[E]], %{{.*}} over m
// CHECK: flare.yield
// The safe body keeps both.
// CHECK: } safe {
// CHECK-COUNT-2: flare.exp2 {{.*}} : <n, m=4, f32>
// CHECK: flare.yield
func.func @two(%k: !nd, %q: !md, %a: !flare.tensor<n, f32>, %b: !flare.tensor<m=4, f32>)
    -> (!flare.tensor<m=4, d=8, f32>, !flare.tensor<n, d=8, f32>) {
  %r:2 = flare.sweep -> !flare.tensor<m=4, d=8, f32>, !flare.tensor<n, d=8, f32> {
    %x = flare.contract %k, %q over d : !nd, !md
    %xa = flare.sub %x, %a : !nm, !flare.tensor<n, f32>
    %p = flare.exp2 %xa : !nm
    %xb = flare.sub %x, %b : !nm, !flare.tensor<m=4, f32>
    %w = flare.exp2 %xb : !nm
    %z = flare.contract %p, %k over n : !nm, !nd
    %y = flare.contract %w, %q over m : !nm, !md
    flare.yield %z, %y : !flare.tensor<m=4, d=8, f32>, !flare.tensor<n, d=8, f32>
  }
  return %r#0, %r#1 : !flare.tensor<m=4, d=8, f32>, !flare.tensor<n, d=8, f32>
}

// One softmax stays as it is, without a range condition.
// CHECK-LABEL: func.func @one(
// CHECK: flare.sub
// CHECK-NEXT: flare.exp2
// CHECK-NOT: safe
// CHECK: return
func.func @one(%k: !nd, %q: !md, %a: !flare.tensor<n, f32>) -> !flare.tensor<n, d=8, f32> {
  %r = flare.sweep -> !flare.tensor<n, d=8, f32> {
    %x = flare.contract %k, %q over d : !nd, !md
    %xa = flare.sub %x, %a : !nm, !flare.tensor<n, f32>
    %p = flare.exp2 %xa : !nm
    %y = flare.contract %p, %q over m : !nm, !md
    flare.yield %y : !flare.tensor<n, d=8, f32>
  }
  return %r : !flare.tensor<n, d=8, f32>
}

// A factor with channels of its own is not part of the dot product that it multiplies: (Σ_d k·q)·k[n,d].
// CHECK-LABEL: func.func @factor_with_channels(
// CHECK: flare.mul {{.*}} : <n, m=4, f32>, <n, d=8, bf16>
func.func @factor_with_channels(%k: !nd, %q: !md, %a: !flare.tensor<n, f32>, %b: !flare.tensor<m=4, f32>) -> !flare.tensor<n, f32> {
  %r = flare.sweep -> !flare.tensor<n, f32> {
    %x = flare.contract %k, %q over d : !nd, !md
    %xa = flare.sub %x, %a : !nm, !flare.tensor<n, f32>
    %p = flare.exp2 %xa : !nm
    %xb = flare.sub %x, %b : !nm, !flare.tensor<m=4, f32>
    %w = flare.exp2 %xb : !nm
    %pw = flare.add %p, %w : !nm, !nm
    %xk = flare.mul %x, %k : !nm, !nd
    %s = flare.sum %xk over d : !flare.tensor<n, m=4, d=8, f32>
    %y = flare.contract %pw, %s over m : !nm, !nm
    flare.yield %y : !flare.tensor<n, f32>
  }
  return %r : !flare.tensor<n, f32>
}

// A product of two exponentials: the pass ends.
// CHECK-LABEL: func.func @product(
// CHECK: flare.sweep
// CHECK: } safe {
func.func @product(%k: !nd, %q: !md, %a: !flare.tensor<n, f32>, %b: !flare.tensor<m=4, f32>) -> !flare.tensor<n, d=8, f32> {
  %r = flare.sweep -> !flare.tensor<n, d=8, f32> {
    %x = flare.contract %k, %q over d : !nd, !md
    %other = flare.neg %x : !nm
    %xa = flare.sub %x, %a : !nm, !flare.tensor<n, f32>
    %p = flare.exp2 %xa : !nm
    %xb = flare.sub %x, %b : !nm, !flare.tensor<m=4, f32>
    %w = flare.exp2 %xb : !nm
    %e = flare.exp2 %other : !nm
    %pe = flare.mul %p, %e : !nm, !nm
    %sum = flare.add %pe, %w : !nm, !nm
    %y = flare.contract %sum, %q over m : !nm, !md
    flare.yield %y : !flare.tensor<n, d=8, f32>
  }
  return %r : !flare.tensor<n, d=8, f32>
}

// With rows on the latents a token's factor stays with the pairs; a latent's goes to its channels.
// CHECK-LABEL: func.func @rows_on_latents(
// CHECK: %[[T:.*]] = flare.contract %arg0, %arg1 over d
// CHECK: %[[E:.*]] = flare.exp2 %[[T]] : <n, m=4, f32>
// CHECK: %[[F:.*]] = flare.mul %{{.*}}, %[[T]] : <n, f32>, <n, m=4, f32>
// CHECK: %[[G:.*]] = flare.mul %{{.*}}, %arg1 : <m=4, f32>, <m=4, d=8, bf16>
// CHECK: %[[U:.*]] = flare.contract %[[G]], %arg0 over d
// CHECK: %[[S:.*]] = flare.add %[[F]], %[[U]]
// CHECK: flare.mul %[[E]], %[[S]]
// CHECK: } safe {
func.func @rows_on_latents(%k: !nd, %q: !md, %a: !flare.tensor<n, f32>, %b: !flare.tensor<m=4, f32>) -> !flare.tensor<m=4, d=8, f32> {
  %r = flare.sweep -> !flare.tensor<m=4, d=8, f32> {
    %x = flare.contract %k, %q over d : !nd, !md
    %xa = flare.sub %x, %a : !nm, !flare.tensor<n, f32>
    %p = flare.exp2 %xa : !nm
    %pt = flare.mul %p, %x : !nm, !nm
    %xb = flare.sub %x, %b : !nm, !flare.tensor<m=4, f32>
    %w = flare.exp2 %xb : !nm
    %wt = flare.mul %w, %x : !nm, !nm
    %s = flare.add %pt, %wt : !nm, !nm
    %z = flare.contract %s, %k over n : !nm, !nd
    flare.yield %z : !flare.tensor<m=4, d=8, f32>
  }
  return %r : !flare.tensor<m=4, d=8, f32>
}

// On a GPU operands times a factor are two addends: with many channels that takes longer than an exponential.
// NARROW-LABEL: func.func @two(
// NARROW: } safe {
// NARROW-LABEL: func.func @many_channels(
// NARROW-NOT: safe
// CHECK-LABEL: func.func @many_channels(
// CHECK: } safe {
!nw = !flare.tensor<n, d=33, bf16>
!mw = !flare.tensor<m=4, d=33, bf16>
func.func @many_channels(%k: !nw, %q: !mw, %a: !flare.tensor<n, f32>, %b: !flare.tensor<m=4, f32>)
    -> (!flare.tensor<m=4, d=33, f32>, !flare.tensor<n, d=33, f32>) {
  %r:2 = flare.sweep -> !flare.tensor<m=4, d=33, f32>, !flare.tensor<n, d=33, f32> {
    %x = flare.contract %k, %q over d : !nw, !mw
    %xa = flare.sub %x, %a : !nm, !flare.tensor<n, f32>
    %p = flare.exp2 %xa : !nm
    %xb = flare.sub %x, %b : !nm, !flare.tensor<m=4, f32>
    %w = flare.exp2 %xb : !nm
    %z = flare.contract %p, %k over n : !nm, !nw
    %y = flare.contract %w, %q over m : !nm, !mw
    flare.yield %z, %y : !flare.tensor<m=4, d=33, f32>, !flare.tensor<n, d=33, f32>
  }
  return %r#0, %r#1 : !flare.tensor<m=4, d=33, f32>, !flare.tensor<n, d=33, f32>
}
