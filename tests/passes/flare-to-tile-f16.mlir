// What f16's five bits of exponent ask for: references that keep weights within them, and room for the sum of two gradients.
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
// Safe: the reference is the maximum less 7, raised where a weight has become infinite.
// CHECK: } else {
// CHECK: %[[W:.*]] = tile.mask {{.*}} fill 0.000000e+00 : <n=16, m=16, f16
// CHECK-NEXT: tile.overflows %[[W]]
// CHECK-NEXT: scf.if
// CHECK: %[[MAX:.*]] = tile.reduce "max"
// CHECK-NEXT: %[[ROOM:.*]] = tile.constant -7.000000e+00
// CHECK-NEXT: %[[TOP:.*]] = tile.add %[[MAX]], %[[ROOM]]
// CHECK-NEXT: tile.max {{.*}}%[[TOP]]

// Decode: references from the tokens' norms, not tried where they are too large, and judged by the sums afterwards. Three eighths, of M = 16 and D = 8; less 4.
// CHECK: tile.reduce "add" {{.*}} over d
// CHECK: tile.log2
// CHECK: %[[NORM:.*]] = tile.exp2
// CHECK: tile.constant -4.000000e+00
// CHECK: %[[TRY:.*]] = tile.within {{.*}} from -4.000000e+00
// CHECK: %[[TRIED:.*]]:4 = scf.if %[[TRY]]
// CHECK: tile.exp2 bounded
// CHECK: %[[GOOD:.*]] = tile.within {{.*}} from 3.906250e-03 to 1.2{{.*}}+30
// CHECK-NEXT: scf.yield %[[GOOD]]
// CHECK: } else {
// CHECK-NEXT: scf.yield %false
// CHECK: scf.if %[[TRIED]]#0
// CHECK-NEXT: scf.yield %[[TRIED]]#1
// CHECK-NEXT: } else {
// CHECK: tile.overflows

// Backward: one product of f16 for each of SDPA's.
// CHECK-LABEL: tile.program @mixer_backward
// CHECK-NOT: tile.split
// Here an exponential on the FMA pipe wants |x - lse| bounded: both of them.
// CHECK: tile.bounded {{.*}}d=8, f16>
// CHECK: tile.bounded {{.*}} limit 7.000000e+01 : <n=64, f32>
// CHECK: tile.cast {{.*}} -> <n=16, m=16, f16
// The joint sweep: room for the sum of both softmaxes' gradients where some latent's is large, in the exponents, and taken back in what is stored.
// CHECK: tile.max_norm
// CHECK: tile.max_norm
// CHECK: %[[LARGE:.*]] = arith.cmpf ogt, {{.*}}
// CHECK: %[[H:.*]] = arith.select %[[LARGE]]
// CHECK: %[[TWO:.*]] = arith.select %[[LARGE]]
// CHECK: tile.scale {{.*}} by %[[H]]
// CHECK-COUNT-2: tile.exp2
// CHECK: tile.scale {{.*}} by %[[TWO]]
// CHECK: tile.store
// CHECK: tile.scale {{.*}} by %[[TWO]]
// CHECK: tile.store {{.*}} partial
