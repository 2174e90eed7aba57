// FLARE's attention from raw pointers, without torch: describe (or load a
// file), allocate, launch, look at the result.
//
//   example_launch --head-dim 8 --latents 64
//       compiles for this processor
//   example_launch --head-dim 8 --latents 64 --dtype bf16 --device 0
//       compiles for GPU 0
//   example_launch mixer.flare
//       needs no compiler
#include "flarec/cuda_driver.h"
#include "flarec/device.h"
#include "flarec/error.h"
#include "flarec/kernels.h"

#include <CLI/CLI.hpp>

#include <bit>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <optional>
#include <random>

using namespace flarec;

namespace {

/// Memory where the kernels run, with copies to and from the host. 64 bytes of
/// slack let the host's start at a multiple of 64.
class Buffer {
public:
  Buffer(std::optional<int> device, int64_t bytes)
      : device(device), size(size_t(bytes)) {
    if (!device) {
      storage.resize(size + 64);
      pointer = storage.data() + (64 - uint64_t(storage.data()) % 64) % 64;
    } else if (size) {
      DeviceGuard guard(*device);
      cuda::DevicePointer address;
      const CudaDriver &driver = CudaDriver::get();
      driver.check(driver.memAlloc(&address, size), "allocate memory");
      pointer = reinterpret_cast<char *>(address);
    }
  }
  ~Buffer() {
    if (!device || !size)
      return;
    DeviceGuard guard(*device);
    CudaDriver::get().memFree(uint64_t(pointer));
  }
  Buffer(Buffer &&other) noexcept
      : device(other.device), size(std::exchange(other.size, 0)),
        pointer(other.pointer), storage(std::move(other.storage)) {}

  void *data() const { return pointer; }

  void write(const void *from) {
    if (!device)
      std::memcpy(pointer, from, size);
    else if (size)
      copy([&](const CudaDriver &driver) {
        return driver.memcpyHtoD(uint64_t(pointer), from, size);
      });
  }
  void read(void *to) const {
    if (!device)
      std::memcpy(to, pointer, size);
    else if (size)
      copy([&](const CudaDriver &driver) {
        return driver.memcpyDtoH(to, uint64_t(pointer), size);
      });
  }

private:
  template <typename Fn> void copy(Fn fn) const {
    DeviceGuard guard(*device);
    CudaDriver::get().check(fn(CudaDriver::get()), "copy memory");
  }

  std::optional<int> device;
  size_t size;
  char *pointer = nullptr;
  std::vector<char> storage;
};

/// To the storage type and back; bf16 is the upper half of an f32, rounded to
/// the nearest even.
std::vector<char> encode(const std::vector<float> &values, DType type) {
  std::vector<char> bytes(values.size() * size_t(byteSize(type)));
  if (type == DType::F32)
    std::memcpy(bytes.data(), values.data(), bytes.size());
  for (size_t i = 0; type != DType::F32 && i < values.size(); ++i) {
    uint32_t bits = std::bit_cast<uint32_t>(values[i]);
    uint16_t half = uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    std::memcpy(bytes.data() + 2 * i, &half, 2);
  }
  return bytes;
}

std::vector<float> decode(const std::vector<char> &bytes, DType type) {
  std::vector<float> values(bytes.size() / size_t(byteSize(type)));
  for (size_t i = 0; i < values.size(); ++i) {
    uint32_t bits = 0;
    if (type == DType::F32)
      std::memcpy(&bits, bytes.data() + 4 * i, 4);
    else
      std::memcpy(reinterpret_cast<char *>(&bits) + 2, bytes.data() + 2 * i, 2);
    values[i] = std::bit_cast<float>(bits);
  }
  return values;
}

/// A tensor in memory: tokens-major [B,N,H,C], latents [H,M,C] shared by the
/// batch for q, else [B,H,M,C].
struct Tensor {
  Tensor(std::optional<int> device, const TensorSpec &spec, const Sizes &sizes)
      : spec(spec), channels(std::max<int64_t>(1, spec.columns)),
        rows(spec.index == Index::Tokens ? sizes.tokens : spec.rows),
        batches(spec.name == "q" ? 1 : sizes.batch),
        count(batches * sizes.heads * rows * channels),
        buffer(device, count * byteSize(spec.type)) {
    if (spec.index == Index::Tokens)
      ref = {buffer.data(), rows * sizes.heads * channels, channels,
             sizes.heads * channels};
    else
      ref = {buffer.data(), batches > 1 ? sizes.heads * rows * channels : 0,
             rows * channels, channels};
  }

  void randomise(std::mt19937 &engine) {
    std::normal_distribution<float> normal;
    std::vector<float> random(static_cast<size_t>(count));
    for (float &value : random)
      value = normal(engine);
    std::vector<char> bytes = encode(random, spec.type);
    buffer.write(bytes.data());
    values = decode(bytes, spec.type); // as the kernels see them
  }

  void fetch() {
    std::vector<char> bytes(size_t(count * byteSize(spec.type)));
    buffer.read(bytes.data());
    values = decode(bytes, spec.type);
  }

  const float *row(int64_t b, int64_t h, int64_t r) const {
    return &values[size_t(b * ref.strideB + h * ref.strideH +
                          r * ref.strideRow)];
  }

  TensorSpec spec;
  int64_t channels, rows, batches, count;
  Buffer buffer;
  TensorRef ref;
  std::vector<float> values;
};

/// Softmax of scale * a·b over the rows of b, as a weighted mean of the rows of
/// `of`.
std::vector<double> attend(const float *a, const std::vector<const float *> &b,
                           const std::vector<std::vector<double>> &of,
                           int64_t channels, double scale) {
  std::vector<double> weights(b.size()), mean(static_cast<size_t>(channels));
  double most = -INFINITY, sum = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    for (int64_t d = 0; d < channels; ++d)
      weights[i] += scale * double(a[d]) * double(b[i][d]);
    most = std::max(most, weights[i]);
  }
  for (double &weight : weights)
    sum += weight = std::exp(weight - most);
  for (size_t i = 0; i < b.size(); ++i)
    for (size_t d = 0; d < mean.size(); ++d)
      mean[d] += weights[i] / sum * of[i][d];
  return mean;
}

/// ||y - reference|| / ||reference||, the reference by the definition in double
/// precision.
double relativeError(const Tensor &q, const Tensor &k, const Tensor &v,
                     const Tensor &y, const Sizes &sizes, double scale) {
  double difference = 0, total = 0;
  int64_t channels = q.channels;
  for (int64_t b = 0; b < sizes.batch; ++b)
    for (int64_t h = 0; h < sizes.heads; ++h) {
      std::vector<const float *> keys, queries;
      std::vector<std::vector<double>> values, z;
      for (int64_t n = 0; n < sizes.tokens; ++n) {
        keys.push_back(k.row(b, h, n));
        values.emplace_back(v.row(b, h, n), v.row(b, h, n) + channels);
      }
      for (int64_t m = 0; m < q.rows; ++m) {
        queries.push_back(q.row(0, h, m));
        z.push_back(attend(queries.back(), keys, values, channels, scale));
      }
      for (int64_t n = 0; n < sizes.tokens; ++n) {
        auto expected = attend(keys[size_t(n)], queries, z, channels, scale);
        for (int64_t d = 0; d < channels; ++d) {
          double e = expected[size_t(d)];
          difference += std::pow(double(y.row(b, h, n)[d]) - e, 2);
          total += e * e;
        }
      }
    }
  return std::sqrt(difference / std::max(total, 1e-300));
}

const Tensor *find(const std::vector<Tensor> &tensors, std::string_view name) {
  for (const Tensor &tensor : tensors)
    if (tensor.spec.name == name)
      return &tensor;
  return nullptr;
}

} // namespace

static void run(const std::string &file, MixerDescription description,
                int device, Sizes sizes, float scale, int repeats) {
  using Clock = std::chrono::steady_clock;
  auto milliseconds = [](Clock::time_point since) {
    return std::chrono::duration<double, std::milli>(Clock::now() - since)
        .count();
  };

  // 1. Kernels: of a file, or of a description.
  auto start = Clock::now();
  std::shared_ptr<Module> module;
  if (!file.empty()) {
    module = Module::load(std::make_shared<Artefact>(Artefact::read(file)));
  } else {
    description.target = device < 0 ? "host" : deviceTarget(device);
    module = kernelsFor(description);
  }
  std::optional<int> where;
  if (!module->isHost())
    where = std::max(0, device);
  if (where)
    module->prepare(*where);
  const Function &function = module->function("mixer_forward");
  std::printf("kernels for %s, ready after %.1f ms\n",
              module->artefact().manifest().target.c_str(),
              milliseconds(start));

  // 2. Tensors, as the artefact lists them: q, k and v, then the results.
  std::mt19937 engine(0);
  std::vector<Tensor> tensors;
  std::vector<TensorRef> refs;
  for (const TensorSpec &spec : function.spec().tensors) {
    if (spec.role == Role::Workspace)
      continue;
    Tensor &tensor = tensors.emplace_back(where, spec, sizes);
    if (spec.role == Role::Input)
      tensor.randomise(engine);
    refs.push_back(tensor.ref);
  }

  // 3. Launch. The workspace is ours to give.
  Buffer workspace(where, function.workspaceBytes(sizes));
  ParallelFor parallelFor = defaultParallelFor();
  std::vector<float> scalars(function.spec().scalars.size(), scale);
  double best = INFINITY;
  for (int i = 0; i < repeats; ++i) {
    auto begin = Clock::now();
    if (where) {
      function.launch(sizes, refs, scalars, workspace.data(),
                      {.device = *where});
      DeviceGuard guard(*where);
      CudaDriver::get().check(CudaDriver::get().ctxSynchronize(), "run");
    } else {
      function.launchHost(sizes, refs, scalars, workspace.data(), parallelFor);
    }
    best = std::min(best, milliseconds(begin));
  }
  std::printf("batch %ld, heads %ld, tokens %ld: %.3f ms (best of %d)\n",
              long(sizes.batch), long(sizes.heads), long(sizes.tokens), best,
              repeats);

  // 4. Compare with the definition.
  for (Tensor &tensor : tensors)
    if (tensor.spec.role == Role::Result)
      tensor.fetch();
  const Tensor *q = find(tensors, "q"), *k = find(tensors, "k"),
               *v = find(tensors, "v"), *y = find(tensors, "y");
  if (q && k && v && y)
    std::printf("relative error against fp64: %.2e\n",
                relativeError(*q, *k, *v, *y, sizes, double(scale)));
}

int main(int argc, char **argv) {
  CLI::App app("Launches FLARE's attention on random data, from raw pointers");
  std::string file, dtype = "f32";
  MixerDescription description{.headDim = 8, .latents = 64};
  Sizes sizes{.batch = 1, .heads = 8, .tokens = 4096};
  float scale = 1;
  int device = -1, repeats = 5;
  app.add_option("file", file, "an artefact made by `flarec compile`");
  app.add_option("--head-dim", description.headDim, "1 to 128")
      ->check(CLI::Range(1, maxHeadDim));
  app.add_option("--latents", description.latents, "1 to 4096")
      ->check(CLI::Range(1, maxLatents));
  app.add_option("--dtype", dtype, "f32 or bf16")
      ->check(CLI::IsMember({"f32", "bf16"}));
  app.add_option("--device", device, "a CUDA device; without it the host")
      ->check(CLI::Range(0, 1023));
  // Far beyond any memory, and the product still fits in 64 bits.
  app.add_option("--batch", sizes.batch, "batch size")
      ->check(CLI::Range(0, 1 << 12));
  app.add_option("--heads", sizes.heads, "heads")
      ->check(CLI::Range(0, 1 << 10));
  app.add_option("--tokens", sizes.tokens, "tokens")
      ->check(CLI::Range(0, 1 << 30));
  app.add_option("--scale", scale, "of the scores");
  app.add_option("--repeats", repeats, "launches to time")
      ->check(CLI::Range(1, 1000000));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError &error) {
    return app.exit(error) ? 2 : 0;
  }
  description.dtype = dtype == "bf16" ? DType::BF16 : DType::F32;
  try {
    run(file, description, device, sizes, scale, repeats);
  } catch (const std::bad_alloc &) {
    std::fprintf(stderr, "example_launch: tensors of this size do not fit in "
                         "memory; give a smaller --batch, --heads or "
                         "--tokens\n");
    return 1;
  } catch (const std::exception &error) {
    std::fprintf(stderr, "example_launch: %s\n", error.what());
    return 1;
  }
}
