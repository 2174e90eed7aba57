// RUN: flare-opt %s --flare-plan-sweeps | FileCheck %s
// RUN: flare-opt %s --flare-plan-sweeps=joint-limit=31 | FileCheck %s --check-prefix=SPLIT
// RUN: flare-opt %s --flare-plan-sweeps=row-limit=24 | FileCheck %s --check-prefix=ROWS
// RUN: flare-opt %s --flare-plan-sweeps="target=host row-limit=24" | FileCheck %s --check-prefix=HOST

!nd = !flare.tensor<n, d=8, bf16>
!md = !flare.tensor<m=4, d=8, bf16>
!zd = !flare.tensor<m=4, d=8, f32>
!nm = !flare.tensor<n, m=4, f32>

// What reads a reduction over tokens waits for its sweep to end; scores are computed again in the next.
// CHECK-LABEL: func.func @mixer
// CHECK: %[[Z:.*]]:2 = flare.sweep -> !flare.tensor<m=4, d=8, f32>, !flare.tensor<m=4, f32> {
// CHECK-NEXT: %[[X:.*]] = flare.contract {{.*}} over d
// CHECK-NEXT: flare.attend %[[X]], {{.*}} over n
// CHECK-NEXT: flare.yield
// CHECK-NEXT: }
// CHECK-NEXT: %[[Y:.*]] = flare.sweep -> !flare.tensor<n, d=8, f32> {
// CHECK-NEXT: %[[X2:.*]] = flare.contract {{.*}} over d
// CHECK-NEXT: flare.attend %[[X2]], %[[Z]]#0 over m
// CHECK-NEXT: flare.yield
// CHECK-NEXT: }
// CHECK-NEXT: return %[[Y]]
func.func @mixer(%k: !nd, %q: !md, %v: !nd) -> !flare.tensor<n, d=8, f32> {
  %x = flare.contract %k, %q over d : !nd, !md
  %z, %l = flare.attend %x, %v over n : !nm, !nd -> !zd, !flare.tensor<m=4, f32>
  %y, %m = flare.attend %x, %z over m : !nm, !zd -> !flare.tensor<n, d=8, f32>, !flare.tensor<n, f32>
  return %y : !flare.tensor<n, d=8, f32>
}

// Both directions of one gradient share a sweep while the accumulators are few.
// CHECK-LABEL: func.func @both
// CHECK: flare.sweep -> !flare.tensor<m=4, d=8, f32>, !flare.tensor<n, d=8, f32> {
// CHECK-NOT: flare.sweep
// CHECK: return
// SPLIT-LABEL: func.func @both
// SPLIT: flare.sweep -> !flare.tensor<n, d=8, f32> {
// SPLIT: flare.sweep -> !flare.tensor<m=4, d=8, f32> {
func.func @both(%k: !nd, %q: !md) -> (!zd, !flare.tensor<n, d=8, f32>) {
  %x = flare.contract %k, %q over d : !nd, !md
  %dq = flare.contract %x, %k over n : !nm, !nd
  %dk = flare.contract %x, %q over m : !nm, !md
  return %dq, %dk : !zd, !flare.tensor<n, d=8, f32>
}

// What both need of a token alone, as a sum over its channels, the first one stores: the second reads a number.
// SPLIT-LABEL: func.func @dots
// SPLIT: %[[R:.*]]:2 = flare.sweep -> !flare.tensor<n, d=8, f32>, !flare.tensor<n, f32> {
// SPLIT: %[[DOT:.*]] = flare.contract %arg0, %arg2 over d
// SPLIT: flare.yield %{{.*}}, %[[DOT]] :
// SPLIT: flare.sweep -> !flare.tensor<m=4, d=8, f32> {
// SPLIT-NOT: %arg2
// SPLIT: flare.sub %{{.*}}, %[[R]]#1
// SPLIT: return
func.func @dots(%k: !nd, %q: !md, %w: !nd) -> (!zd, !flare.tensor<n, d=8, f32>) {
  %x = flare.contract %k, %q over d : !nd, !md
  %dot = flare.contract %k, %w over d : !nd, !nd
  %s = flare.sub %x, %dot : !nm, !flare.tensor<n, f32>
  %dq = flare.contract %s, %k over n : !nm, !nd
  %dk = flare.contract %s, %q over m : !nm, !md
  return %dq, %dk : !zd, !flare.tensor<n, d=8, f32>
}

// A sum over n, or a contraction with a vector, has its rows on the latents: no map beside it.
// CHECK-LABEL: func.func @sums
// CHECK: flare.sweep -> !flare.tensor<n, d=8, f32> {
// CHECK: flare.sweep -> !flare.tensor<m=4, f32> {
func.func @sums(%k: !nd, %q: !md, %w: !flare.tensor<n, f32>) -> (!flare.tensor<m=4, f32>, !flare.tensor<n, d=8, f32>) {
  %x = flare.contract %k, %q over d : !nd, !md
  %s = flare.contract %x, %w over n : !nm, !flare.tensor<n, f32>
  %dk = flare.contract %x, %q over m : !nm, !md
  return %s, %dk : !flare.tensor<m=4, f32>, !flare.tensor<n, d=8, f32>
}

// Rows that a sweep accumulates for its tokens, 3 of 8 channels here; what is made of the same contraction stays with it.
// CHECK-LABEL: func.func @rows
// CHECK: flare.sweep
// CHECK-NOT: flare.sweep
// ROWS-LABEL: func.func @rows
// ROWS: flare.sweep -> !flare.tensor<n, d=8, f32> {
// ROWS: flare.sweep -> !flare.tensor<n, d=8, f32> {
// ROWS: flare.sweep -> !flare.tensor<n, d=8, f32>, !flare.tensor<n, d=8, f32> {
// ROWS: flare.sweep -> !flare.tensor<m=4, d=8, f32> {
// HOST-LABEL: func.func @rows
// HOST: flare.sweep
// HOST-NOT: flare.sweep
func.func @rows(%k: !nd, %q: !md, %v: !md, %w: !md) -> (!flare.tensor<n, d=8, f32>, !flare.tensor<n, d=8, f32>, !flare.tensor<n, d=8, f32>, !flare.tensor<n, d=8, f32>, !zd) {
  %x = flare.contract %k, %q over d : !nd, !md
  %a = flare.contract %x, %q over m : !nm, !md
  %minus = flare.neg %a : !flare.tensor<n, d=8, f32>
  %b = flare.contract %x, %v over m : !nm, !md
  %c = flare.contract %x, %w over m : !nm, !md
  %dq = flare.contract %x, %k over n : !nm, !nd
  return %a, %b, %c, %minus, %dq : !flare.tensor<n, d=8, f32>, !flare.tensor<n, d=8, f32>, !flare.tensor<n, d=8, f32>, !flare.tensor<n, d=8, f32>, !zd
}
