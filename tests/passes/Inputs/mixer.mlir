func.func @mixer(%q: !flare.tensor<m=32, d=8, bf16> {flare.name = "q"}, %k: !flare.tensor<n, d=8, bf16> {flare.name = "k"},
    %v: !flare.tensor<n, d=8, bf16> {flare.name = "v"}, %scale: f32 {flare.name = "scale"}) -> !flare.tensor<n, d=8, bf16> {
  %z, %lse_encode = flare.encode %q, %k, %v scale %scale : !flare.tensor<m=32, d=8, bf16>, !flare.tensor<n, d=8, bf16>,
      !flare.tensor<n, d=8, bf16> -> !flare.tensor<m=32, d=8, f32>, !flare.tensor<m=32, f32>
  %y, %lse_decode = flare.decode %k, %q, %z scale %scale : !flare.tensor<n, d=8, bf16>, !flare.tensor<m=32, d=8, bf16>,
      !flare.tensor<m=32, d=8, f32> -> !flare.tensor<n, d=8, bf16>, !flare.tensor<n, f32>
  return %y : !flare.tensor<n, d=8, bf16>
}
