//===- main.cpp - flare-train: train a surrogate of Darcy flow ------------===//
#include "training.h"

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <cstdio>
#include <dlfcn.h>
#include <fstream>

using namespace flarec::train;

namespace {

constexpr const char *description =
    "Trains a FLARE neural surrogate (arXiv 2508.12594) that maps a "
    "permeability field to the pressure of Darcy flow.";

constexpr const char *examples = R"(Examples:
  flare-train --data synthetic --epochs 5
      no data needed: fields are generated and solved on the spot
  flare-train --data darcy --blocks 2 --channels 64 --heads 8 --latents 32 --batch 8 --epochs 15
      darcy/ holds train_16_x.npy, train_16_y.npy, test_16_x.npy and test_16_y.npy, each [samples, rows, columns]
  flare-train --data darcy --device cuda --attention sdpa --losses sdpa.txt
      on the GPU with PyTorch's own attention, to compare with; one loss a step goes to sdpa.txt
  flare-train --data darcy --device cuda --dtype fp16
      weights in float32, products in float16 where autocast takes it, the loss scaled so that small gradients survive

The last line printed is the mean relative L2 error on the test fields.)";

const std::map<std::string, Attention> attentions = {
    {"flarec", Attention::flarec},
    {"sdpa", Attention::sdpa},
    {"sdpa-math", Attention::sdpaMath}};

const std::map<std::string, torch::ScalarType> dtypes = {
    {"fp32", torch::kFloat},
    {"bf16", torch::kBFloat16},
    {"fp16", torch::kHalf}};

template <typename T>
std::string nameOf(T given, const std::map<std::string, T> &names) {
  for (const auto &[name, value] : names)
    if (value == given)
      return name;
  return "";
}

/// Throws CLI::ValidationError, so that the message comes as for any option.
torch::Device parseDevice(const std::string &text) {
  std::string allowed = "; allowed are cpu, cuda and cuda:0, cuda:1, …";
  torch::Device device(torch::kCPU);
  try {
    device = torch::Device(text);
  } catch (const c10::Error &) {
    throw CLI::ValidationError("--device",
                               "'" + text + "' is no device" + allowed);
  }
  if (!device.is_cpu() && !device.is_cuda())
    throw CLI::ValidationError("--device",
                               "'" + text + "' is not supported" + allowed);
  return device;
}

/// The program links torch_cpu only, so that one build runs everywhere; what a
/// CUDA build of PyTorch has beside it registers itself when loaded.
void requireCuda(torch::Device &device) {
  void *handle = dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL);
  if (!handle)
    throw std::runtime_error(
        fmt::format("--device {}: this PyTorch has no CUDA ({}); use --device "
                    "cpu or a CUDA build",
                    device.str(), dlerror()));
  if (!torch::cuda::is_available())
    throw std::runtime_error(fmt::format(
        "--device {}: PyTorch finds no CUDA device; use --device cpu",
        device.str()));
  if (device.has_index() && device.index() >= torch::cuda::device_count())
    throw std::runtime_error(
        fmt::format("--device {}: there are {} CUDA devices", device.str(),
                    torch::cuda::device_count()));
  if (!device.has_index())
    device = torch::Device(torch::kCUDA, 0);
}

void writeLosses(std::ofstream &file, const std::string &path,
                 const std::vector<float> &losses) {
  for (float loss : losses)
    file << fmt::format("{:.9g}\n", loss);
  file.close();
  if (!file)
    throw std::runtime_error(fmt::format("cannot write '{}'", path));
}

int run(const std::string &data, int64_t resolution,
        const std::string &lossPath, TrainingOptions options) {
  if (options.device.is_cuda())
    requireCuda(options.device);
  std::ofstream lossFile;
  if (!lossPath.empty()) { // before the training, not after it
    lossFile.open(lossPath);
    if (!lossFile)
      throw std::runtime_error(fmt::format(
          "cannot write '{}' (--losses); give a file in a directory that "
          "exists",
          lossPath));
  }
  DataSet set =
      data == "synthetic" ? syntheticDataSet() : readDataSet(data, resolution);
  const ModelOptions &model = options.model;
  fmt::print("{}\n", set.summary);
  fmt::print("{} blocks, C = {}, H = {}, D = {}, M = {}, attention {} in {} on "
             "{}\n",
             model.blocks, model.channels, model.heads,
             model.channels / model.heads, model.latents,
             nameOf(model.attention, attentions), nameOf(options.dtype, dtypes),
             options.device.str());
  std::fflush(stdout);
  TrainingResult result = trainModel(set, options);
  if (!lossPath.empty())
    writeLosses(lossFile, lossPath, result.losses);
  fmt::print("test relative L2: {:.4f}\n", result.testError);
  return 0;
}

} // namespace

int main(int argc, char **argv) {
  CLI::App app{description, "flare-train"};
  app.footer(examples);
  app.option_defaults()->always_capture_default();
  // CLI11's PositiveNumber names the largest double, in 309 digits.
  const CLI::Range positive(1, 1 << 24), notNegative(0, 1 << 24);

  TrainingOptions options;
  std::string data, device = "cpu", losses;
  Attention &attention = options.model.attention;
  int64_t resolution = 0;
  int threads = 0;
  app.add_option("--data", data,
                 "Directory with train_R_{x,y}.npy and test_R_{x,y}.npy, or "
                 "'synthetic'")
      ->required();
  app.add_option("--resolution", resolution,
                 "The R of the file names; 0: the only one there")
      ->check(notNegative);
  app.add_option("--device", device, "cpu, cuda or cuda:1");
  app.add_option("--attention", attention,
                 "Who computes the attention: flarec (fused kernels), sdpa "
                 "(PyTorch's, called twice) or sdpa-math (the same without "
                 "fused kernels)")
      ->transform(CLI::CheckedTransformer(attentions))
      ->default_str("flarec");
  app.add_option("--dtype", options.dtype,
                 "fp32, or the dtype of autocast: bf16, or fp16 (with a "
                 "gradient scaler); weights stay in fp32")
      ->transform(CLI::CheckedTransformer(dtypes))
      ->default_str("fp32");
  app.add_option("--blocks", options.model.blocks, "FLARE blocks")
      ->check(positive);
  app.add_option("--channels", options.model.channels,
                 "Channels C, a multiple of the heads")
      ->check(positive);
  app.add_option("--heads", options.model.heads, "Heads H; head dim D = C / H")
      ->check(positive);
  app.add_option("--latents", options.model.latents, "Latents M of each head")
      ->check(positive);
  app.add_option("--batch", options.batch, "Samples a step")
      ->check(positive);
  app.add_option("--epochs", options.epochs, "Passes over the training fields")
      ->check(positive);
  app.add_option("--steps", options.steps,
                 "Stop after so many steps of the schedule; 0: all epochs")
      ->check(notNegative);
  app.add_option("--seed", options.seed,
                 "Seed of the weights and of the order of samples");
  app.add_option("--lr", options.peakRate, "Highest learning rate")
      ->check(CLI::Range(1e-6, 10.0));
  app.add_option("--threads", threads,
                 "CPU threads; 0: as many as PyTorch takes")
      ->check(CLI::Range(0, 1024));
  app.add_option("--losses", losses, "Write the loss of each step here");

  try {
    app.parse(argc, argv);
    options.device = parseDevice(device);
    if (options.model.channels % options.model.heads != 0)
      throw CLI::ValidationError(
          "--channels",
          fmt::format("{} channels cannot be shared out to {} "
                      "heads; give a multiple of the heads",
                      options.model.channels, options.model.heads));
  } catch (const CLI::ParseError &error) {
    return app.exit(error) == 0 ? 0 : 2;
  }

  try {
    if (threads > 0)
      torch::set_num_threads(threads);
    return run(data, resolution, losses, options);
  } catch (const c10::Error &error) {
    fmt::print(stderr, "flare-train: {}\n", error.what_without_backtrace());
  } catch (const std::exception &error) {
    fmt::print(stderr, "flare-train: {}\n", error.what());
  }
  return 1;
}
