// RUN: flare-opt %S/Inputs/mixer.mlir --flare-differentiate --flare-expand --flare-simplify --flare-plan-sweeps=target=host \
// RUN:   --flare-share-exponentials --flare-configure=target=host --flare-to-tile=target=host --tile-assign-layouts=target=host \
// RUN:   --tile-to-host --canonicalize --cse -o %t
// RUN: FileCheck %s < %t
// RUN: grep -o 'fastmath<[a-z,]*>' %t | sort -u | FileCheck %s --check-prefix=FLAGS --match-full-lines
// What lies where in scratch memory must not depend on addresses in the compiler.
// RUN: flare-opt %S/Inputs/mixer.mlir --flare-differentiate --flare-expand --flare-simplify --flare-plan-sweeps=target=host \
// RUN:   --flare-share-exponentials --flare-configure=target=host --flare-to-tile=target=host --tile-assign-layouts=target=host \
// RUN:   --tile-to-host --canonicalize --cse | cmp - %t

// The backward's joint sweep: exponentials, then their gradients, then sums over tokens are loops of their own over the latents. 16 lanes of each
// pair value go from one to the next through memory, 64 bytes a latent.
// CHECK-LABEL: llvm.func @mixer_backward_sweep_2(
// CHECK:       scf.for %{{.*}} to %c32_i64 step %c8_i64 iter_args
// CHECK-COUNT-8: call @flarec.exp2_of_bounded
// CHECK-COUNT-8: llvm.store %{{.*}}, %{{.*}} {alignment = 64 : i64} : vector<16xf32>
// CHECK:         scf.yield
// Two addends a score are two chains, one after the other: eight latents at once, and nothing to carry.
// CHECK:       scf.for %{{.*}} to %c32_i64 step %c8_i64{{ *}}: i64 {
// CHECK:         llvm.load %{{.*}} {alignment = 64 : i64} : !llvm.ptr -> vector<16xf32>
// CHECK-NOT:     call @
// Sums over tokens broadcast two tokens' scores against two rows of eight channels.
// CHECK:       scf.for %{{.*}} to %c32_i64 step %c8_i64 iter_args
// CHECK:         %[[TWO:.*]] = llvm.load %{{.*}} {alignment = 8 : i64} : !llvm.ptr -> vector<2xf32>
// CHECK-NEXT:    llvm.shufflevector %[[TWO]], %[[TWO]] [0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1]
// CHECK:         scf.yield

// `fast` would fold x - round(x) to 0.
// FLAGS: fastmath<contract>
// FLAGS-NOT: fastmath
