// RUN: flare-opt %s --flare-expand --flare-to-base-2 --cse | FileCheck %s

// log2(e) joins the scale that goes to the latents.
// CHECK-LABEL: func.func @bf16
// CHECK: %[[C:.*]] = arith.constant 1.44269502 : f32
// CHECK: %[[S:.*]] = arith.mulf %{{.*}}, %[[C]] : f32
// CHECK: %[[Q:.*]] = flare.scale %{{.*}} by %[[S]]
// CHECK: %[[X:.*]] = flare.contract %[[Q]]
// CHECK: flare.attend %[[X]], %{{.*}} over n base2
func.func @bf16(%q: !flare.tensor<m=16, d=8, bf16>, %k: !flare.tensor<n, d=8, bf16>, %s: f32) -> !flare.tensor<m=16, d=8, f32> {
  %z, %l = flare.encode %q, %k, %k scale %s : !flare.tensor<m=16, d=8, bf16>, !flare.tensor<n, d=8, bf16>, !flare.tensor<n, d=8, bf16>
      -> !flare.tensor<m=16, d=8, f32>, !flare.tensor<m=16, f32>
  return %z : !flare.tensor<m=16, d=8, f32>
}

// Latents in f32 keep natural scores.
// CHECK-LABEL: func.func @f32
// CHECK-NOT: arith.constant
// CHECK: flare.attend
// CHECK-NOT: base2
// CHECK: return
func.func @f32(%q: !flare.tensor<m=16, d=8, f32>, %k: !flare.tensor<n, d=8, f32>, %s: f32) -> !flare.tensor<m=16, d=8, f32> {
  %z, %l = flare.encode %q, %k, %k scale %s : !flare.tensor<m=16, d=8, f32>, !flare.tensor<n, d=8, f32>, !flare.tensor<n, d=8, f32>
      -> !flare.tensor<m=16, d=8, f32>, !flare.tensor<m=16, f32>
  return %z : !flare.tensor<m=16, d=8, f32>
}
