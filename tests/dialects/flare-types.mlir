// Every type reads back as it was written.
// RUN: flare-opt %s | flare-opt | FileCheck %s

// CHECK-LABEL: func.func private @types
// CHECK-SAME: !flare.tensor<n, d=8, bf16>
// CHECK-SAME: !flare.tensor<m=128, d=8, f32>
// CHECK-SAME: !flare.tensor<m=1, f16>
// CHECK-SAME: !flare.tensor<n, f64>
// CHECK-SAME: !flare.tensor<n, m=17, f32>
// CHECK-SAME: !flare.tensor<d=4, f32>
// CHECK-SAME: !flare.tensor<f32>
// CHECK-SAME: !flare.tensor<d=2, i32>
// CHECK-SAME: !flare.tensor<n, i8>
func.func private @types(!flare.tensor<n, d=8, bf16>, !flare.tensor<m=128, d=8, f32>, !flare.tensor<m=1, f16>,
  !flare.tensor<n, f64>, !flare.tensor<n, m=17, f32>, !flare.tensor<d=4, f32>, !flare.tensor<f32>, !flare.tensor<d=2, i32>,
  !flare.tensor<n, i8>)
