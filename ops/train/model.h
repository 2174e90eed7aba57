//===- model.h - the FLARE surrogate as published -------------------------===//
//
// arXiv 2508.12594: blocks of pre-norm FLARE attention and a residual MLP,
// between an input and an output projection.
//
//===----------------------------------------------------------------------===//
#pragma once

#include <string>
#include <torch/torch.h>

namespace flarec::train {

/// Who computes encode and decode: flarec's fused mixer, or PyTorch's
/// scaled_dot_product_attention called twice (with the backend that it chooses,
/// or its plain formula).
enum class Attention { flarec, sdpa, sdpaMath };

struct ModelOptions {
  int64_t inputs = 3, outputs = 1;
  int64_t blocks = 2, channels = 64, heads = 8, latents = 32;
  double scale = 1.0;
  Attention attention = Attention::flarec;
};

/// fc1, `layers` hidden linears, fc2; tanh-GELU after all but the last, and an
/// addition around every linear whose two sides are equally wide (around the
/// first and last only if asked for).
class ResidualMLPImpl : public torch::nn::Module {
public:
  ResidualMLPImpl(int64_t in, int64_t hidden, int64_t out, int64_t layers,
                  bool inputResidual, bool outputResidual);
  torch::Tensor forward(torch::Tensor x);

private:
  torch::nn::Linear first{nullptr}, last{nullptr};
  torch::nn::ModuleList hidden;
  bool inputResidual, outputResidual;
};
TORCH_MODULE(ResidualMLP);

/// The attention: keys and values by residual MLPs, latent queries as a
/// parameter `[C, M]` seen as `[H, M, D]`, mixer, output projection.
class FlareLayerImpl : public torch::nn::Module {
public:
  explicit FlareLayerImpl(const ModelOptions &options);
  torch::Tensor forward(const torch::Tensor &x);

private:
  torch::Tensor mix(const torch::Tensor &q, const torch::Tensor &k,
                    const torch::Tensor &v) const;

  ModelOptions options;
  torch::Tensor latents;
  ResidualMLP keys{nullptr}, values{nullptr};
  torch::nn::Linear out{nullptr};
};
TORCH_MODULE(FlareLayer);

class FlareBlockImpl : public torch::nn::Module {
public:
  explicit FlareBlockImpl(const ModelOptions &options);
  torch::Tensor forward(torch::Tensor x);

private:
  torch::nn::LayerNorm attentionNorm{nullptr}, mlpNorm{nullptr};
  FlareLayer attention{nullptr};
  ResidualMLP mlp{nullptr};
};
TORCH_MODULE(FlareBlock);

/// `[B, N, inputs]` to `[B, N, outputs]`.
class FlareModelImpl : public torch::nn::Module {
public:
  explicit FlareModelImpl(const ModelOptions &options);
  torch::Tensor forward(torch::Tensor x);

private:
  ResidualMLP in{nullptr}, out{nullptr};
  torch::nn::LayerNorm outNorm{nullptr};
  torch::nn::ModuleList blocks;
};
TORCH_MODULE(FlareModel);

} // namespace flarec::train
