// RUN: flare-opt %s --flare-differentiate=wanted=v | FileCheck %s
// RUN: flare-opt %s --flare-differentiate=wanted= | FileCheck %s --check-prefix=NONE

!q = !flare.tensor<m=16, d=8, bf16>
!k = !flare.tensor<n, d=8, bf16>

// The forward also returns what the backward needs; names say which is which.
// CHECK-LABEL: func.func @encode_forward
// CHECK-SAME: {flare.name = "z"}, !flare.tensor<m=16, f32> {flare.name = "lse_encode"})
// CHECK: %[[Z:.*]], %[[LSE:.*]] = flare.encode
// CHECK: return %[[Z]], %[[LSE]]

// Gradients of results, tensors, results, saves, numbers. Only grad_v is computed: dv[n] = Σ_m P·dz[m], P from the saved lse.
// CHECK-LABEL: func.func @encode_backward
// CHECK-SAME: %[[DZ:[a-z0-9]+]]: {{[^%]*}}"grad_z"}
// CHECK-SAME: {flare.name = "q"}
// CHECK-SAME: {flare.name = "k"}
// CHECK-SAME: {flare.name = "v"}
// CHECK-SAME: {flare.name = "z"}
// CHECK-SAME: %[[L:[a-z0-9]+]]: {{[^%]*}}"lse_encode"}
// CHECK-SAME: f32 {flare.name = "scale"}) -> (!flare.tensor<n, d=8, bf16> {flare.name = "grad_v"})
// CHECK-NOT: flare.encode
// CHECK: flare.contract {{.*}} over d
// CHECK: %[[P:.*]] = flare.exp2
// CHECK-NEXT: %[[DV:.*]] = flare.contract %[[P]], %[[DZ]] over m
// CHECK-NEXT: %[[R:.*]] = flare.cast %[[DV]]
// CHECK-NEXT: return %[[R]]

// NONE: func.func @encode_forward
// NONE-NOT: func.func
func.func @encode(%q: !q {flare.name = "q"}, %k: !k {flare.name = "k"}, %v: !k {flare.name = "v"}, %s: f32 {flare.name = "scale"})
    -> !flare.tensor<m=16, d=8, f32> {
  %z, %l = flare.encode %q, %k, %v scale %s : !q, !k, !k -> !flare.tensor<m=16, d=8, f32>, !flare.tensor<m=16, f32>
  return %z : !flare.tensor<m=16, d=8, f32>
}
