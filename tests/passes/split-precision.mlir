// Split precision survives all of LLVM: hi = round(s·q), lo = round(s·q - hi) reach PTX as two conversions and a subtraction.
// RUN: flarec compile %S/Inputs/mixer.mlir --target sm_90a --emit ptx | FileCheck %s

// CHECK-LABEL: .entry mixer_sweep_0(
// CHECK: cvt.rn.bf16x2.f32 [[HI:%r[0-9]+]], [[B:%r?f?[0-9]+]], [[A:%r?f?[0-9]+]];
// CHECK: shl.b32 [[H:%r[0-9]+]], [[HI]], 16;
// CHECK: sub.{{(rn\.)?}}f32 [[LO:%r?f?[0-9]+]], [[A]], [[H]];
// CHECK: cvt.rn.bf16x2.f32 {{.*}}[[LO]];
// CHECK: mma.sync
