// What f16's five bits of exponent ask for: weights that stay within them, two addends of bf16 for what has a range of its own.
// RUN: flarec compile --head-dim 8 --latents 16 --dtype f16 --grad --target sm_90a --emit tile | FileCheck %s

// Encode, fast: |x| <= 14.9 and a reference of -1, so that weights are 2^-13.9 ... 2^15.9.
// CHECK-LABEL: tile.program @mixer_forward
// CHECK: tile.bounded {{.*}} limit 1.490000e+01
// CHECK: tile.pairs rows m
// CHECK: %[[X:.*]] = tile.contract({{.*}}) over d : {{.*}}f16
// CHECK-NEXT: %[[S:.*]] = tile.scale %[[X]]
// CHECK-NEXT: %[[ONE:.*]] = tile.constant 1.000000e+00
// CHECK-NEXT: %[[T:.*]] = tile.add %[[S]], %[[ONE]]
// CHECK-NEXT: %[[E:.*]] = tile.exp2 bounded %[[T]]
// CHECK-NEXT: %[[H:.*]] = tile.cast %[[E]] {{.*}} -> <n=16, m=16, f16
// CHECK: tile.contract(%[[H]])
// CHECK-NEXT: tile.sum %[[H]]
// CHECK: tile.constant -1.000000e+00
// Safe: the reference is the maximum less 7, raised where a score exceeds it by 15.5.
// CHECK: } else {
// CHECK: tile.exceeds {{.*}} by 1.550000e+01
// CHECK: %[[MAX:.*]] = tile.reduce "max"
// CHECK-NEXT: %[[ROOM:.*]] = tile.constant -7.000000e+00
// CHECK-NEXT: %[[TOP:.*]] = tile.add %[[MAX]], %[[ROOM]]
// CHECK-NEXT: tile.max {{.*}}%[[TOP]]

// Backward: weights times gradients, and gradients of scores, are three products of bf16; one exponential serves up to 80 as in bf16.
// CHECK-LABEL: tile.program @mixer_backward
// Here an exponential on the FMA pipe wants |x - lse| bounded: both of them.
// CHECK: tile.bounded {{.*}}d=8, f16>
// CHECK: tile.bounded {{.*}} limit 7.000000e+01 : <n=64, f32>
// CHECK: %[[HI:.*]], %[[LO:.*]] = tile.split {{.*}} -> <n=16, m=16, bf16
// CHECK: tile.contract(%[[HI]])
// CHECK: tile.contract(%[[LO]])
// CHECK: tile.contract(%[[HI]])
// CHECK: tile.bounded {{.*}} limit 8.000000e+01
// CHECK: tile.contract({{.*}}) over d : {{.*}}f16
// CHECK: tile.contract({{.*}}) over d into {{.*}}bf16
// CHECK: tile.split {{.*}} -> <n=16, m=16, bf16
