// RUN: flare-opt %s --flare-differentiate --flare-expand --flare-to-base-2 --flare-simplify --flare-plan-sweeps --flare-share-exponentials=wide=false \
// RUN:   --flare-configure | FileCheck %s
// Who holds many latents, and dq.

// One worker holds 64 latents of 8 channels, for all sweeps; dq lies beside dk and dv.
// CHECK-LABEL: func.func @few_forward
// CHECK: rows = m, tile = {{[0-9]+}}, heads = 8, row_groups = 1, workers = 1, worker_rows = 64,
// CHECK-LABEL: func.func @few_backward
// CHECK: rows = m, tile = {{[0-9]+}}, heads = 8, row_groups = 1, workers = 1, worker_rows = 64,
// CHECK: rows = n, {{.*}}, unroll = 0, {{.*}} park = "shared"{{.*}} -> !flare.tensor<m=64, d=8, f32>, !flare.tensor<n, d=8, bf16>, !flare.tensor<n, d=8, bf16>
func.func @few(%q: !flare.tensor<m=64, d=8, bf16>, %k: !flare.tensor<n, d=8, bf16>, %v: !flare.tensor<n, d=8, bf16>, %scale: f32) -> !flare.tensor<n, d=8, bf16> {
  %z, %lse_encode = flare.encode %q, %k, %v scale %scale : !flare.tensor<m=64, d=8, bf16>, !flare.tensor<n, d=8, bf16>, !flare.tensor<n, d=8, bf16> -> !flare.tensor<m=64, d=8, f32>, !flare.tensor<m=64, f32>
  %y, %lse_decode = flare.decode %k, %q, %z scale %scale : !flare.tensor<n, d=8, bf16>, !flare.tensor<m=64, d=8, bf16>, !flare.tensor<m=64, d=8, f32> -> !flare.tensor<n, d=8, bf16>, !flare.tensor<n, f32>
  return %y : !flare.tensor<n, d=8, bf16>
}

// A warp of 128 registers holds 64 and eight share out 512; without sums to keep (dz) it holds 128. 512 · 8 numbers of dq don't fit beside dk and dv either: four workers share them out.
// CHECK-LABEL: func.func @many_forward
// CHECK: rows = m, {{.*}} row_groups = 1, workers = 8, worker_rows = 64,
// CHECK-LABEL: func.func @many_backward
// CHECK: rows = m, {{.*}} row_groups = 1, workers = 4, worker_rows = 128,
// CHECK: rows = n, tile = 32, heads = 1, {{.*}} workers = 4, worker_rows = 32, {{.*}} unroll = 0, {{.*}} park = "shared", min_blocks = 2, column_workers = 4> -> !flare.tensor<m=512, d=8, f32>, !flare.tensor<n, d=8, bf16>, !flare.tensor<n, d=8, bf16>
func.func @many(%q: !flare.tensor<m=512, d=8, bf16>, %k: !flare.tensor<n, d=8, bf16>, %v: !flare.tensor<n, d=8, bf16>, %scale: f32) -> !flare.tensor<n, d=8, bf16> {
  %z, %lse_encode = flare.encode %q, %k, %v scale %scale : !flare.tensor<m=512, d=8, bf16>, !flare.tensor<n, d=8, bf16>, !flare.tensor<n, d=8, bf16> -> !flare.tensor<m=512, d=8, f32>, !flare.tensor<m=512, f32>
  %y, %lse_decode = flare.decode %k, %q, %z scale %scale : !flare.tensor<n, d=8, bf16>, !flare.tensor<m=512, d=8, bf16>, !flare.tensor<m=512, d=8, f32> -> !flare.tensor<n, d=8, bf16>, !flare.tensor<n, f32>
  return %y : !flare.tensor<n, d=8, bf16>
}

// 4096 are too many for eight workers, so dq has a sweep of its own, with latents for rows. Nor does a multiprocessor hold 4096 as columns: their operands are
// made again for each block of them.
// CHECK-LABEL: func.func @most_backward
// CHECK: rows = m, {{.*}} row_groups = 4, workers = 8, worker_rows = 128,
// CHECK: rows = n, {{.*}} park = "none"
// CHECK: rows = m, {{.*}} row_groups = 16, workers = 4, worker_rows = 64,
func.func @most(%q: !flare.tensor<m=4096, d=8, bf16>, %k: !flare.tensor<n, d=8, bf16>, %v: !flare.tensor<n, d=8, bf16>, %scale: f32) -> !flare.tensor<n, d=8, bf16> {
  %z, %lse_encode = flare.encode %q, %k, %v scale %scale : !flare.tensor<m=4096, d=8, bf16>, !flare.tensor<n, d=8, bf16>, !flare.tensor<n, d=8, bf16> -> !flare.tensor<m=4096, d=8, f32>, !flare.tensor<m=4096, f32>
  %y, %lse_decode = flare.decode %k, %q, %z scale %scale : !flare.tensor<n, d=8, bf16>, !flare.tensor<m=4096, d=8, bf16>, !flare.tensor<m=4096, d=8, f32> -> !flare.tensor<n, d=8, bf16>, !flare.tensor<n, f32>
  return %y : !flare.tensor<n, d=8, bf16>
}

// 128 channels of 16 latents fill a worker's registers; dk and dv of 16 tokens fill them too, so each has a sweep. Groups of four workers multiply together, and what
// dk multiplies by comes in pages.
// CHECK-LABEL: func.func @wide_forward
// CHECK: rows = m, {{.*}} row_groups = 1, workers = 8, worker_rows = 16, {{.*}} matrix = "wgmma"
// CHECK: rows = n, {{.*}} workers = 4, worker_rows = 16, {{.*}} matrix = "wgmma"
// CHECK-LABEL: func.func @wide_backward
// CHECK: rows = m, {{.*}} row_groups = 1, workers = 8, worker_rows = 16, {{.*}} matrix = "wgmma"
// CHECK: rows = n, {{.*}} worker_rows = 16, {{.*}} park = "none", {{.*}} matrix = "wgmma"> -> !flare.tensor<n, d=128, bf16>, !flare.tensor<n, f32> {
// CHECK: rows = n, {{.*}} worker_rows = 16, {{.*}} park = "shared", {{.*}} matrix = "wgmma"> -> !flare.tensor<n, d=128, bf16> {
// CHECK: rows = m, {{.*}} row_groups = 1, workers = 8, worker_rows = 16, {{.*}} matrix = "wgmma"> -> !flare.tensor<m=100, d=128, f32> {
func.func @wide(%q: !flare.tensor<m=100, d=128, bf16>, %k: !flare.tensor<n, d=128, bf16>, %v: !flare.tensor<n, d=128, bf16>, %scale: f32) -> !flare.tensor<n, d=128, bf16> {
  %z, %lse_encode = flare.encode %q, %k, %v scale %scale : !flare.tensor<m=100, d=128, bf16>, !flare.tensor<n, d=128, bf16>, !flare.tensor<n, d=128, bf16> -> !flare.tensor<m=100, d=128, f32>, !flare.tensor<m=100, f32>
  %y, %lse_decode = flare.decode %k, %q, %z scale %scale : !flare.tensor<n, d=128, bf16>, !flare.tensor<m=100, d=128, bf16>, !flare.tensor<m=100, d=128, f32> -> !flare.tensor<n, d=128, bf16>, !flare.tensor<n, f32>
  return %y : !flare.tensor<n, d=128, bf16>
}
