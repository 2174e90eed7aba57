//===- optimiser.cpp - AdamW and clipping, a few launches a step ----------===//
#include "optimiser.h"

namespace flarec::train {

AdamW::AdamW(std::vector<torch::Tensor> given, double weightDecay)
    : parameters(std::move(given)), weightDecay(weightDecay) {
  for (const torch::Tensor &p : parameters) {
    averages.push_back(torch::zeros_like(p));
    squares.push_back(torch::zeros_like(p));
    counts.push_back(torch::zeros({}, p.options().dtype(torch::kFloat32)));
  }
}

std::vector<torch::Tensor> AdamW::gradients() const {
  std::vector<torch::Tensor> result;
  for (const torch::Tensor &p : parameters)
    result.push_back(p.grad());
  return result;
}

void AdamW::zeroGradients() {
  for (torch::Tensor &p : parameters)
    p.mutable_grad().reset();
}

void AdamW::clipGradients(double largest) {
  torch::NoGradGuard noGrad;
  std::vector<torch::Tensor> grads = gradients();
  torch::Tensor norm = torch::stack(at::_foreach_norm(grads)).norm();
  // Like torch.nn.utils.clip_grad_norm_, without asking the device first
  // whether there is anything to do.
  at::_foreach_mul_(grads, (largest / (norm + 1e-6)).clamp_max(1.0));
}

void AdamW::step(double rate, double beta1,
                 const std::optional<torch::Tensor> &overflowed) {
  torch::NoGradGuard noGrad;
  at::_foreach_add_(counts, 1);
  at::_fused_adamw_(parameters, gradients(), averages, squares, {}, counts,
                    rate, beta1, beta2, weightDecay, epsilon,
                    /*amsgrad=*/false, /*maximize=*/false, /*grad_scale=*/{},
                    overflowed);
  if (overflowed)
    at::_foreach_sub_(counts, std::vector(counts.size(), *overflowed));
}

} // namespace flarec::train
