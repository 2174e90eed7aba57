// RUN: flare-opt %s --flare-expand | FileCheck %s

!q = !flare.tensor<m=16, d=8, bf16>
!k = !flare.tensor<n, d=8, bf16>

// The scale goes to the latents, of which there are few; scores stay natural.
// CHECK-LABEL: func.func @encode
// CHECK-SAME: %[[Q:[a-z0-9]+]]: {{[^%]*}} %[[K:[a-z0-9]+]]: {{[^%]*}} %[[V:[a-z0-9]+]]: {{[^%]*}} %[[S:[a-z0-9]+]]: f32
// CHECK-NEXT: %[[SQ:.*]] = flare.scale %[[Q]] by %[[S]]
// CHECK-NEXT: %[[X:.*]] = flare.contract %[[SQ]], %[[K]] over d
// CHECK-NEXT: %[[Z:.*]], %[[L:.*]] = flare.attend %[[X]], %[[V]] over n :
// CHECK-NEXT: return %[[Z]], %[[L]]
func.func @encode(%q: !q, %k: !k, %v: !k, %s: f32) -> (!flare.tensor<m=16, d=8, f32>, !flare.tensor<m=16, f32>) {
  %z, %l = flare.encode %q, %k, %v scale %s : !q, !k, !k -> !flare.tensor<m=16, d=8, f32>, !flare.tensor<m=16, f32>
  return %z, %l : !flare.tensor<m=16, d=8, f32>, !flare.tensor<m=16, f32>
}

// A result in 16 bits is rounded by a cast of its own.
// CHECK-LABEL: func.func @decode
// CHECK: %[[Y:.*]], %{{.*}} = flare.attend %{{.*}}, %{{.*}} over m : {{.*}} -> <n, d=8, f32>, <n, f32>
// CHECK-NEXT: %[[R:.*]] = flare.cast %[[Y]] : <n, d=8, f32> -> <n, d=8, bf16>
// CHECK-NEXT: return %[[R]]
func.func @decode(%k: !k, %q: !q, %z: !q, %s: f32) -> !k {
  %y, %l = flare.decode %k, %q, %z scale %s : !k, !q, !q -> !k, !flare.tensor<n, f32>
  return %y : !k
}
