// RUN: flare-opt %S/Inputs/mixer.mlir --flare-differentiate --flare-expand --flare-to-base-2 --flare-simplify --flare-plan-sweeps \
// RUN:   --flare-share-exponentials --flare-configure --flare-to-tile --tile-assign-layouts -o %t
// RUN: flare-opt %t --tile-to-nvvm=only=mixer_backward:0 | FileCheck %s
// RUN: not flare-opt %t --tile-to-nvvm=only=mixer_backward:7 2>&1 | FileCheck %s --check-prefix=NONE
// RUN: flare-opt %S/Inputs/mixer.mlir --flare-differentiate --flare-expand --flare-plan-sweeps=target=host --flare-configure=target=host \
// RUN:   --flare-to-tile=target=host --tile-assign-layouts=target=host -o %t.host
// RUN: flare-opt %t.host --tile-to-host=only=mixer_forward:1 | FileCheck %s --check-prefix=HOST

// One sweep and its merge, for aligned rows, as they stand among the others: both sweeps are listed, for their numbers of splits.
// CHECK: flarec.manifest = "{{.*}}\22name\22:\22mixer_backward\22{{.*}}\22sweeps\22:[{{[{][^}]*[}],[{][^}]*[}]}}]
// CHECK-NOT: ptx_kernelcc
// CHECK: llvm.func ptx_kernelcc @mixer_backward_sweep_0(
// CHECK: llvm.func ptx_kernelcc @mixer_backward_merge_1(
// CHECK-NOT: ptx_kernelcc

// NONE: there is no sweep 'mixer_backward:7'; name one as function:number, the first of a function is 0

// HOST-NOT: llvm.func @mixer_backward
// HOST-NOT: llvm.func @mixer_forward_sweep_0
// HOST: llvm.func @mixer_forward_sweep_2(
// HOST-NOT: llvm.func @mixer_backward
