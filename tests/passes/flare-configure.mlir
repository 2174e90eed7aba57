// RUN: flare-opt %s --flare-configure=target=sm_90a | FileCheck %s
// RUN: flare-opt %s --flare-configure=target=host | FileCheck %s --check-prefix=HOST

!nd = !flare.tensor<n, d=8, bf16>
!md = !flare.tensor<m=16, d=8, bf16>
!zd = !flare.tensor<m=16, d=8, f32>
!nm = !flare.tensor<n, m=16, f32>

// A reduction over tokens has its rows on the latents, a map on the tokens.
// CHECK-LABEL: func.func @reduction
// CHECK: flare.sweep config #tile.config<rows = m,
// HOST-LABEL: func.func @reduction
// HOST: flare.sweep config #tile.config<rows = m,
func.func @reduction(%k: !nd, %q: !md) -> !zd {
  %z:2 = flare.sweep -> !zd, !flare.tensor<m=16, f32> {
    %x = flare.contract %q, %k over d : !md, !nd
    %o, %l = flare.attend %x, %k over n : !nm, !nd -> !zd, !flare.tensor<m=16, f32>
    flare.yield %o, %l : !zd, !flare.tensor<m=16, f32>
  }
  return %z#0 : !zd
}

// CHECK-LABEL: func.func @map
// CHECK: flare.sweep config #tile.config<rows = n,
func.func @map(%k: !nd, %q: !md) -> !flare.tensor<n, d=8, f32> {
  %y = flare.sweep -> !flare.tensor<n, d=8, f32> {
    %x = flare.contract %q, %k over d : !md, !nd
    %o, %l = flare.attend %x, %q over m : !nm, !md -> !flare.tensor<n, d=8, f32>, !flare.tensor<n, f32>
    flare.yield %o : !flare.tensor<n, d=8, f32>
  }
  return %y : !flare.tensor<n, d=8, f32>
}

// Neither: no latents at all.
// CHECK-LABEL: func.func @tokens
// CHECK: flare.sweep config #tile.config<rows = n,
// HOST-LABEL: func.func @tokens
// HOST: flare.sweep config #tile.config<rows = n,
func.func @tokens(%k: !nd) -> !flare.tensor<n, d=8, f32> {
  %y = flare.sweep -> !flare.tensor<n, d=8, f32> {
    %a = flare.neg %k : !nd
    flare.yield %a : !flare.tensor<n, d=8, f32>
  }
  return %y : !flare.tensor<n, d=8, f32>
}
