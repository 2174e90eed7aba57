// Split precision survives all of LLVM: what rounding r·g to 16 bits takes away, r·g - hi, reaches PTX as a subtraction that is rounded
// to 16 bits itself (fast-math flags would fold it to 0).
// RUN: flarec compile --head-dim 8 --latents 16 --dtype bf16 --grad --target sm_90a --emit ptx | FileCheck %s

// CHECK-LABEL: .entry mixer_backward_sweep_2(
// CHECK: and.b32 {{%r[0-9]+}}, [[HI:%r[0-9]+]], -65536;
// CHECK: sub.rn.f32 [[LO:%r[0-9]+]], {{%r[0-9]+}}, {{%r[0-9]+}};
// CHECK: cvt.rn.bf16x2.f32 {{.*}}[[LO]]
// CHECK: mma.sync
