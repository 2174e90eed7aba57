// Which tokens there are is said to the backward too, and has no gradient.
// RUN: flare-opt %s --flare-differentiate | FileCheck %s

// CHECK-LABEL: func.func @f_forward
// CHECK-SAME: %[[RANGE:.*]]: !flare.tensor<d=2, i32> {flare.name = "range"}, %{{.*}}: !flare.tensor<n, i8> {flare.name = "mask"}
// CHECK-LABEL: func.func @f_backward
// CHECK-SAME: !flare.tensor<d=2, i32> {flare.name = "range"}, %{{.*}}: !flare.tensor<n, i8> {flare.name = "mask"}
// CHECK-SAME: -> (!flare.tensor<n, d=8, f32> {flare.name = "grad_k"})
func.func @f(%k: !flare.tensor<n, d=8, f32> {flare.name = "k"}, %range: !flare.tensor<d=2, i32> {flare.name = "range"},
             %mask: !flare.tensor<n, i8> {flare.name = "mask"}) -> !flare.tensor<n, d=8, f32> {
  %r = flare.exp2 %k : !flare.tensor<n, d=8, f32>
  return %r : !flare.tensor<n, d=8, f32>
}
