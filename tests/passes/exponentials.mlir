// Which exponentials of a fast body go to the FMA pipe is a field of the configuration; safe bodies leave all to the exponential unit.
// RUN: sed s/EXP/mufu/ %s | flare-opt --flare-to-tile --tile-assign-layouts --tile-to-nvvm | FileCheck %s --check-prefix=MUFU
// RUN: sed s/EXP/poly3:8/ %s | flare-opt --flare-to-tile --tile-assign-layouts --tile-to-nvvm | FileCheck %s --check-prefix=POLY
// RUN: sed s/EXP/bits:8/ %s | flare-opt --flare-to-tile --tile-assign-layouts --tile-to-nvvm | FileCheck %s --check-prefix=BITS

!q = !flare.tensor<m=16, d=8, bf16>
!k = !flare.tensor<n, d=8, bf16>
!z = !flare.tensor<m=16, d=8, f32>

// MUFU-LABEL: @encode_sweep_0(
// MUFU-NOT: llvm.fma
// MUFU-NOT: prmt
// MUFU: llvm.return

// Of the four pairs of a block of scores two: 1.5·2^23 less the reference of 28, the polynomial, and an addition to the exponent. The others as they are.
// POLY-LABEL: @encode_sweep_0(
// POLY: llvm.nvvm.ex2.approx.ftz.f32
// POLY: llvm.nvvm.ex2.approx.ftz.f32
// POLY: %[[MAGIC:.*]] = arith.constant 0x4B3FFFE4 : f32
// POLY: llvm.call_intrinsic "llvm.fma.f32"({{.*}}, %[[MAGIC]])
// POLY: arith.subf
// POLY-COUNT-4: llvm.call_intrinsic "llvm.fma.f32"
// POLY: arith.shli
// POLY: arith.addi

// Both of a pair at once: the low halves of x + 1.5·2^16 + 127, and a quadratic in bf16.
// BITS-LABEL: @encode_sweep_0(
// BITS: %[[LIFT:.*]] = arith.constant 9.840300e+04 : f32
// BITS: llvm.call_intrinsic "llvm.fma.f32"({{.*}}, %[[LIFT]])
// BITS: llvm.call_intrinsic "llvm.nvvm.prmt"
// BITS: lop3.b32
// BITS-COUNT-3: llvm.call_intrinsic "llvm.nvvm.fma.rn.bf16x2"
func.func @encode(%q: !q {flare.name = "q"}, %k: !k {flare.name = "k"}, %s: f32 {flare.name = "scale"}) -> !z {
  %c = flare.scale %q by %s : !q
  %r:2 = flare.sweep config #tile.config<rows = m, tile = 16, heads = 8, row_groups = 1, workers = 1, worker_rows = 16, stages = 3,
      unroll = 0, blocks = 264, sums = "mma", exp = "EXP", park = "shared", min_blocks = 2> -> !z, !flare.tensor<m=16, f32> {
    %x = flare.contract %c, %k over d : !z, !k
    %z, %l = flare.attend %x, %k over n base2 : !flare.tensor<n, m=16, f32>, !k -> !z, !flare.tensor<m=16, f32>
    flare.yield %z, %l : !z, !flare.tensor<m=16, f32>
  }
  return %r#0 : !z
}
