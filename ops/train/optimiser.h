//===- optimiser.h - AdamW and clipping, a few launches a step ------------===//
//
// torch::optim::AdamW and clip_grad_norm_ launch a dozen kernels for each
// parameter: for a small model on a GPU, half the time of a step. These are the
// same formulas through PyTorch's fused list operators.
//
//===----------------------------------------------------------------------===//
#pragma once

#include <optional>
#include <torch/torch.h>
#include <vector>

namespace flarec::train {

class AdamW {
public:
  AdamW(std::vector<torch::Tensor> parameters, double weightDecay);

  void zeroGradients();
  /// Scales all gradients so that their common 2-norm is at most `largest`.
  void clipGradients(double largest);
  /// `overflowed`: a tensor that is 1 where the step must change nothing.
  void step(double rate, double beta1,
            const std::optional<torch::Tensor> &overflowed = {});

  std::vector<torch::Tensor> gradients() const;

private:
  static constexpr double beta2 = 0.999, epsilon = 1e-8;

  std::vector<torch::Tensor> parameters, averages, squares, counts;
  double weightDecay;
};

} // namespace flarec::train
