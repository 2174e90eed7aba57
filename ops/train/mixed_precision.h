//===- mixed_precision.h - autocast and gradient scaling ------------------===//
//
// What torch.autocast and torch.amp.GradScaler are in Python; LibTorch has the
// operators below them only.
//
//===----------------------------------------------------------------------===//
#pragma once

#include <torch/torch.h>
#include <vector>

namespace flarec::train {

/// `with torch.autocast(device.type, type):` as long as it lives; float32 is no
/// autocast.
class Autocast {
public:
  Autocast(torch::Device device, torch::ScalarType type);
  ~Autocast();
  Autocast(const Autocast &) = delete;
  Autocast &operator=(const Autocast &) = delete;

private:
  torch::DeviceType device;
  bool active, enabledBefore = false, cacheBefore = false;
  torch::ScalarType typeBefore = torch::kFloat;
};

/// Float16 holds nothing below 6e-8: the loss is multiplied by a scale before
/// the backward pass, its gradients are divided by it afterwards, and a step
/// whose gradients overflowed is left out. The scale halves at each of these
/// and doubles after 2000 steps without one. All on the device: the host never
/// waits for it.
class GradScaler {
public:
  explicit GradScaler(torch::Device device);

  torch::Tensor scaled(const torch::Tensor &loss) const { return loss * scale; }
  /// Divides the gradients and notes whether one of them is not finite.
  void unscale(const std::vector<torch::Tensor> &gradients);
  /// 1 if the step of the gradients last unscaled must be skipped, else 0.
  const torch::Tensor &overflowed() const { return overflow; }
  /// After each step.
  void update();

  double currentScale() const { return scale.item<double>(); }
  int64_t skippedSteps() const { return skipped.item<int64_t>(); }

private:
  static constexpr double initialScale = 65536, growth = 2, backoff = 0.5;
  static constexpr int64_t growthInterval = 2000;

  torch::Tensor scale, overflow, goodSteps, skipped;
};

} // namespace flarec::train
