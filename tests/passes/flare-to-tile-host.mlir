// RUN: flare-opt %S/Inputs/mixer.mlir --flare-differentiate --flare-expand --flare-simplify --flare-plan-sweeps=target=host \
// RUN:   --flare-share-exponentials --flare-configure=target=host --flare-to-tile=target=host | FileCheck %s

// Scores are f32 here. A fast body has log2(e) in q, the safe one takes natural scores apart first.
// CHECK-LABEL: tile.program @mixer_forward
// CHECK:       %[[NATURAL:.*]] = tile.scale %{{.*}} by %{{.*}} : <m=32, d=8, f32>
// CHECK:       %[[BASE2:.*]] = tile.scale %[[NATURAL]] by %{{.*}} : <m=32, d=8, f32>
// CHECK:       tile.stream
// CHECK:       tile.pairs rows m unroll 8 ins(%[[BASE2]],
// CHECK:         %[[X:.*]] = tile.contract({{.*}}) over d
// CHECK-NEXT:    tile.exp2 %[[X]]
// CHECK:       tile.pairs rows m unroll 8 ins(%[[NATURAL]],
// CHECK:         tile.reduce "max"
// CHECK:         tile.scale %{{.*}} : <n=16, m=16, f32>

// One entry of the table for each latent operand and form, whatever it is for: q in both forms, z, 2^-l·dz and its dot product with z; then q itself, and
// what the safe body reads: l, dz, dz·z.
// CHECK-LABEL: tile.program @mixer_backward
// CHECK:       tile.kernel @sweep_2
// CHECK:       %[[TABLE:.*]]:9 = tile.stash 32
// What is subtracted from the products is where their sum starts.
// CHECK:       tile.pairs rows n
// CHECK:         %[[E:.*]] = tile.exp2
// CHECK:         %[[ROWS:.*]] = tile.broadcast %{{.*}} : <n=16, f32> -> <n=16, m=16, f32>
// CHECK-NEXT:    %[[START:.*]] = tile.sub %[[ROWS]], %{{.*}} : <n=16, m=16, f32>, <m=16, f32>
// CHECK-NEXT:    %[[T:.*]] = tile.contract({{.*}}) over d into %[[START]]
// CHECK-NEXT:    tile.mul %[[E]], %[[T]]
// In an exponent it comes afterwards: x must have the bits that it had when l was made.
// CHECK:       tile.pairs rows n
// CHECK:         %[[S:.*]] = tile.contract({{.*}}) over d
// CHECK-NEXT:    tile.sub %[[S]], %{{.*}} : <n=16, m=16, f32>, <n=16, f32>
