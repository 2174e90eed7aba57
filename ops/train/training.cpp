//===- training.cpp - the training loop -----------------------------------===//
#include "training.h"

#include "mixed_precision.h"
#include "optimiser.h"
#include "schedule.h"

#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <stdexcept>
#include <unistd.h>

namespace flarec::train {
namespace {

using Clock = std::chrono::steady_clock;

double secondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::string minutes(double seconds) {
  auto whole = static_cast<int64_t>(std::lround(seconds));
  return fmt::format("{}:{:02}", whole / 60, whole % 60);
}

/// One line an epoch; on a terminal also a line that is rewritten within it.
class Progress {
public:
  Progress(int64_t epochs, int64_t totalSteps, int64_t batch)
      : epochs(epochs), totalSteps(totalSteps), batch(batch) {}

  /// Reading a loss makes the host wait for the device: worth it twice a
  /// second and only where somebody looks.
  bool due() const { return terminal && secondsSince(lastLine) > 0.5; }

  void show(int64_t epoch, int64_t step, double loss, double rate,
            bool endOfEpoch) {
    double elapsed = secondsSince(start);
    double perSecond = elapsed > 0 ? double(step) / elapsed : 0;
    fmt::print("{}epoch {}/{}  step {}/{}  loss {:.4f}  lr {:.2e}  {:.1f} "
               "steps/s  {:.0f} samples/s  left {}{}",
               terminal ? "\r\x1b[K" : "", epoch, epochs, step, totalSteps,
               loss, rate, perSecond, perSecond * double(batch),
               minutes(double(totalSteps - step) / std::max(perSecond, 1e-9)),
               endOfEpoch ? "\n" : "");
    std::fflush(stdout);
    lastLine = Clock::now();
  }

  double elapsed() const { return secondsSince(start); }

private:
  int64_t epochs, totalSteps, batch;
  bool terminal = isatty(fileno(stdout));
  Clock::time_point start = Clock::now(), lastLine = start;
};

/// In the targets' own units and float32, whatever dtype the model computes in.
torch::Tensor predict(FlareModel &model, const DataSet &data,
                      const torch::Tensor &inputs, torch::ScalarType dtype) {
  torch::Tensor normalised;
  {
    Autocast autocast(inputs.device(), dtype);
    normalised = model(inputs);
  }
  return normalised.to(torch::kFloat) * data.targetDeviation + data.targetMean;
}

double testError(FlareModel &model, const DataSet &data, const Samples &test,
                 int64_t batch, torch::ScalarType dtype) {
  torch::NoGradGuard noGrad;
  model->eval();
  double sum = 0;
  for (int64_t at = 0; at < test.count(); at += batch) {
    int64_t end = std::min(at + batch, test.count());
    torch::Tensor prediction =
        predict(model, data, test.inputs.slice(0, at, end), dtype);
    sum += relativeL2(prediction, test.targets.slice(0, at, end))
               .sum()
               .item<double>();
  }
  model->train();
  return sum / double(test.count());
}

void checkFinite(const torch::Tensor &losses, int64_t firstStep,
                 torch::ScalarType dtype) {
  const float *values = losses.data_ptr<float>();
  if (dtype == torch::kHalf) { // such steps are skipped
    if (!torch::isfinite(losses).any().item<bool>())
      throw std::runtime_error(fmt::format(
          "no loss is finite in steps {} to {}; the model leaves the range of "
          "float16: use --dtype bf16, lower --lr or check the data",
          firstStep + 1, firstStep + losses.numel()));
    return;
  }
  for (int64_t i = 0; i < losses.numel(); ++i)
    if (!std::isfinite(values[i]))
      throw std::runtime_error(
          fmt::format("the loss is {} at step {}; lower --lr or check the data",
                      values[i], firstStep + i + 1));
}

} // namespace

TrainingResult trainModel(const DataSet &data, const TrainingOptions &options) {
  if (options.model.attention == Attention::sdpaMath) {
    at::globalContext().setSDPUseFlash(false);
    at::globalContext().setSDPUseMemEfficient(false);
    at::globalContext().setSDPUseCuDNN(false);
  }
  torch::manual_seed(options.seed);
  FlareModel model(options.model);
  model->to(options.device);
  Samples train{data.train.inputs.to(options.device),
                data.train.targets.to(options.device)};
  Samples test{data.test.inputs.to(options.device),
               data.test.targets.to(options.device)};

  AdamW optimiser(model->parameters(), options.weightDecay);
  std::optional<GradScaler> scaler;
  if (options.dtype == torch::kHalf)
    scaler.emplace(options.device);
  int64_t stepsPerEpoch = (train.count() + options.batch - 1) / options.batch;
  OneCycle cycle;
  cycle.peakRate = options.peakRate;
  cycle.totalSteps = stepsPerEpoch * options.epochs;

  int64_t steps = options.steps ? std::min(options.steps, cycle.totalSteps)
                                : cycle.totalSteps;

  TrainingResult result;
  Progress progress(options.epochs, steps, options.batch);
  int64_t step = 0;
  for (int64_t epoch = 1; step < steps; ++epoch) {
    int64_t count = std::min(stepsPerEpoch, steps - step);
    torch::Tensor epochLosses = torch::empty(
        {count}, torch::dtype(torch::kFloat32).device(options.device));
    torch::Tensor order =
        torch::randperm(train.count(), torch::kInt64).to(options.device);
    for (int64_t i = 0; i < count; ++i, ++step) {
      torch::Tensor pick =
          order.slice(0, i * options.batch,
                      std::min((i + 1) * options.batch, train.count()));
      optimiser.zeroGradients();
      torch::Tensor prediction =
          predict(model, data, train.inputs.index_select(0, pick),
                  options.dtype);
      torch::Tensor loss =
          relativeL2(prediction, train.targets.index_select(0, pick)).mean();
      (scaler ? scaler->scaled(loss) : loss).backward();
      std::optional<torch::Tensor> overflowed;
      if (scaler) {
        scaler->unscale(optimiser.gradients());
        overflowed = scaler->overflowed();
      }
      optimiser.clipGradients(options.clip);
      optimiser.step(cycle.rate(step), cycle.momentum(step), overflowed);
      if (scaler)
        scaler->update();
      epochLosses[i].copy_(loss.detach());
      if (progress.due())
        progress.show(epoch, step + 1, loss.item<double>(), cycle.rate(step),
                      false);
    }
    torch::Tensor losses = epochLosses.cpu();
    checkFinite(losses, step - count, options.dtype);
    progress.show(epoch, step,
                  losses.index({torch::isfinite(losses)}).mean().item<double>(),
                  cycle.rate(step - 1), true);
    result.losses.insert(result.losses.end(), losses.data_ptr<float>(),
                         losses.data_ptr<float>() + count);
  }
  fmt::print("trained {} steps in {:.1f} s\n", step, progress.elapsed());
  if (scaler)
    fmt::print("{} steps skipped, their gradients overflowed float16; the loss "
               "scale ends at {:g}\n",
               scaler->skippedSteps(), scaler->currentScale());
  result.testError =
      testError(model, data, test, options.batch, options.dtype);
  return result;
}

} // namespace flarec::train
