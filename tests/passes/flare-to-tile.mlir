// RUN: flare-opt %s --flare-to-tile | FileCheck %s

!q = !flare.tensor<m=16, d=8, bf16>
!k = !flare.tensor<n, d=8, bf16>
!z = !flare.tensor<m=16, d=8, f32>

// Inputs, results, partial results of the sweep, numbers: each described.
// CHECK-LABEL: tile.program @encode
// CHECK-SAME: name = "q", role = "input"
// CHECK-SAME: name = "result0", role = "result"
// CHECK-SAME: role = "workspace", sweep = 0

// CHECK: tile.kernel @[[SWEEP:.*]] "sweep" sweep 0 config <rows = m, tile = 64,
// Latents as they are stored: the scale comes after the product, which is exact that way.
// CHECK: %[[Q:.*]] = tile.cast %{{.*}} : <m=16, d=8, f32> -> <m=16, d=8, bf16>
// CHECK: tile.stream(%{{.*}}) init({{.*}}) tile 64
// The range condition, decided for the tile before its exponentials; NaN answers no.
// CHECK: %[[OK:.*]] = tile.bounded %{{.*}} limit 8.800000e+01
// CHECK: %[[ALL:.*]] = arith.andi %{{.*}}, %[[OK]] : i1
// CHECK: scf.if %[[ALL]]
// The fast body: no maximum, no mask.
// CHECK: tile.pairs rows m
// CHECK-NOT: tile.mask
// CHECK-NOT: tile.max
// CHECK: tile.contract({{.*}}) over d
// CHECK-NEXT: tile.scale
// A constant reference: what lies below it has as many exponents as what lies above.
// CHECK-NEXT: tile.constant -2.800000e+01
// CHECK-NEXT: tile.add
// CHECK-NEXT: tile.exp2 bounded
// CHECK: tile.contract({{.*}}) over n into
// CHECK: tile.yield
// The safe body: tokens past the last masked, and a reference that is raised where a score exceeds it.
// CHECK: } else {
// CHECK: %[[X:.*]] = tile.mask {{.*}} over n {{.*}} fill 0xFF800000
// CHECK-NEXT: %[[ANY:.*]] = tile.exceeds %[[X]], %[[REFERENCE:.*]] by 0.0
// CHECK-NEXT: %[[NOW:.*]]:3 = scf.if %[[ANY]]
// CHECK-NEXT: tile.reduce "max" %[[X]]
// CHECK: tile.max %[[REFERENCE]]
// CHECK: } else {
// CHECK: tile.sub %[[X]], %[[NOW]]#2
// CHECK-NEXT: tile.exp2 %
// CHECK: tile.store {{.*}} partial

// Partial results of the splits are merged in fixed order.
// CHECK: tile.kernel @{{.*}} "merge" sweep 0
// CHECK: tile.merge
// CHECK: tile.store
func.func @encode(%q: !q {flare.name = "q"}, %k: !k {flare.name = "k"}, %s: f32 {flare.name = "scale"}) -> !z {
  %c = flare.scale %q by %s : !q
  %r:2 = flare.sweep config #tile.config<rows = m, tile = 64, heads = 8, row_groups = 1, workers = 1, worker_rows = 16, stages = 3,
      unroll = 0, blocks = 264, sums = "mma", exp = "mufu", park = "shared", min_blocks = 2> -> !z, !flare.tensor<m=16, f32> {
    %x = flare.contract %c, %k over d : !z, !k
    %z, %l = flare.attend %x, %k over n base2 : !flare.tensor<n, m=16, f32>, !k -> !z, !flare.tensor<m=16, f32>
    flare.yield %z, %l : !z, !flare.tensor<m=16, f32>
  }
  return %r#0 : !z
}
