// RUN: flare-opt %s --flare-simplify | FileCheck %s

!nm = !flare.tensor<n, m=4, f32>
!nd = !flare.tensor<n, d=8, f32>
!md = !flare.tensor<m=4, d=8, f32>

// Σ_n a·k + Σ_n b·k → Σ_n (a+b)·k
// CHECK-LABEL: func.func @contractions(
// CHECK-SAME: %[[A:[a-z0-9]+]]: {{[^%]*}} %[[B:[a-z0-9]+]]: {{[^%]*}} %[[K:[a-z0-9]+]]:
// CHECK-NEXT: %[[AB:.*]] = flare.add %[[A]], %[[B]]
// CHECK-NEXT: %[[R:.*]] = flare.contract %[[AB]], %[[K]] over n
// CHECK-NEXT: return %[[R]]
func.func @contractions(%a: !nm, %b: !nm, %k: !nd) -> !md {
  %x = flare.contract %a, %k over n : !nm, !nd
  %y = flare.contract %k, %b over n : !nd, !nm
  %r = flare.add %x, %y : !md, !md
  return %r : !md
}

// Over different indices there is nothing to factor.
// CHECK-LABEL: func.func @other_index(
// CHECK-COUNT-2: flare.contract
// CHECK-NEXT: flare.add
func.func @other_index(%a: !flare.tensor<n, f32>, %b: !flare.tensor<d=8, f32>, %k: !nd) -> !nd {
  %x = flare.contract %a, %k over n : !flare.tensor<n, f32>, !nd
  %y = flare.contract %k, %b over d : !nd, !flare.tensor<d=8, f32>
  %r = flare.add %x, %y : !flare.tensor<d=8, f32>, !flare.tensor<n, f32>
  return %r : !nd
}

// s·a + s·b → s·(a+b)
// CHECK-LABEL: func.func @scales(
// CHECK-NEXT: %[[AB:.*]] = flare.add
// CHECK-NEXT: %[[R:.*]] = flare.scale %[[AB]] by
// CHECK-NEXT: return %[[R]]
func.func @scales(%a: !md, %b: !md, %s: f32) -> !md {
  %x = flare.scale %a by %s : !md
  %y = flare.scale %b by %s : !md
  %r = flare.add %x, %y : !md, !md
  return %r : !md
}

// CHECK-LABEL: func.func @other_factor(
// CHECK-COUNT-2: flare.scale
// CHECK-NEXT: flare.add
func.func @other_factor(%a: !md, %b: !md, %s: f32, %t: f32) -> !md {
  %x = flare.scale %a by %s : !md
  %y = flare.scale %b by %t : !md
  %r = flare.add %x, %y : !md, !md
  return %r : !md
}
