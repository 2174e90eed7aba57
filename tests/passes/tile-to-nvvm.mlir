// RUN: flare-opt %S/Inputs/mixer.mlir --flare-differentiate --flare-expand --flare-to-base-2 --flare-simplify --flare-plan-sweeps \
// RUN:   --flare-share-exponentials --flare-configure --flare-to-tile --tile-assign-layouts --tile-to-nvvm -o %t
// RUN: FileCheck %s < %t
// RUN: grep -o 'fastmath<[a-z,]*>' %t | sort -u | FileCheck %s --check-prefix=FLAGS --match-full-lines

// The manifest describes what the runtime launches; each kernel comes in a form for rows of any alignment too.
// CHECK: module attributes {flarec.manifest = "{{.*}}mixer_forward{{.*}}mixer_backward
// CHECK: llvm.func ptx_kernelcc @mixer_forward_sweep_0(
// Exponentials are one instruction each, products are the matrix unit's.
// CHECK: llvm.nvvm.ex2.approx.ftz
// CHECK: llvm.nvvm.mma.m16n8k16.row.col.bf16
// CHECK: llvm.func ptx_kernelcc @mixer_forward_sweep_0_any(
// CHECK: llvm.func ptx_kernelcc @mixer_backward_sweep_0(

// `fast` would fold x - round(x) to 0, and with it split precision; contraction alone is safe.
// FLAGS: fastmath<contract>
// FLAGS-NOT: fastmath
