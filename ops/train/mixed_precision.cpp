//===- mixed_precision.cpp - autocast and gradient scaling ----------------===//
#include "mixed_precision.h"

#include <ATen/autocast_mode.h>

namespace flarec::train {

namespace autocast = at::autocast;

Autocast::Autocast(torch::Device given, torch::ScalarType type)
    : device(given.type()), active(type != torch::kFloat) {
  if (!active)
    return;
  enabledBefore = autocast::is_autocast_enabled(device);
  typeBefore = autocast::get_autocast_dtype(device);
  cacheBefore = autocast::is_autocast_cache_enabled();
  autocast::set_autocast_enabled(device, true);
  autocast::set_autocast_dtype(device, type);
  autocast::increment_nesting();
  autocast::set_autocast_cache_enabled(true);
}

Autocast::~Autocast() {
  if (!active)
    return;
  // The cache holds copies of weights, which the next step changes.
  if (autocast::decrement_nesting() == 0)
    autocast::clear_cache();
  autocast::set_autocast_enabled(device, enabledBefore);
  autocast::set_autocast_dtype(device, typeBefore);
  autocast::set_autocast_cache_enabled(cacheBefore);
}

GradScaler::GradScaler(torch::Device device) {
  auto on = torch::TensorOptions().device(device);
  scale = torch::full({}, initialScale, on.dtype(torch::kFloat));
  overflow = torch::zeros({}, on.dtype(torch::kFloat));
  goodSteps = torch::zeros({}, on.dtype(torch::kInt));
  skipped = torch::zeros({}, on.dtype(torch::kLong));
}

void GradScaler::unscale(const std::vector<torch::Tensor> &gradients) {
  torch::NoGradGuard noGrad;
  overflow.zero_();
  // The reciprocal in double, as PyTorch's own takes it.
  at::_amp_foreach_non_finite_check_and_unscale_(
      gradients, overflow,
      scale.to(torch::kDouble).reciprocal().to(torch::kFloat));
}

void GradScaler::update() {
  torch::NoGradGuard noGrad;
  skipped.add_(overflow.to(torch::kLong));
  at::_amp_update_scale_(scale, goodSteps, overflow, growth, backoff,
                         growthInterval);
}

} // namespace flarec::train
