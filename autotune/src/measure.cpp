#include "measure.h"

#include "flarec/cuda_driver.h"
#include "flarec/device.h"
#include "flarec/error.h"
#include "flarec/parallel.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <fstream>
#include <new>

using namespace flarec;
using namespace flarec::autotune;

//===----------------------------------------------------------------------===//
// The host
//===----------------------------------------------------------------------===//

namespace {

class HostBench : public Bench {
public:
  void *allocate(size_t bytes) override {
    void *memory = std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    if (!memory)
      throw std::bad_alloc();
    std::memset(memory, 0, bytes);
    return memory;
  }
  void free(void *memory) override { std::free(memory); }
  void write(void *to, const void *from, size_t bytes) override {
    std::memcpy(to, from, bytes);
  }
  void read(void *to, const void *from, size_t bytes) override {
    std::memcpy(to, from, bytes);
  }
  void copy(void *to, const void *from, size_t bytes) override {
    std::memcpy(to, from, bytes);
  }
  void launch(const Function &function, const Sizes &sizes,
              const std::vector<TensorRef> &tensors, float scale,
              void *workspace) override {
    static const ParallelFor threads = defaultParallelFor();
    function.launchHost(sizes, tensors, std::span(&scale, 1), workspace, threads);
  }
  void wait() override {}
  double time(const std::function<void()> &body, int times, bool) override {
    auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < times; ++i)
      body();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  int clock() override {
    std::ifstream info("/proc/cpuinfo");
    for (std::string line; std::getline(info, line);)
      if (line.starts_with("cpu MHz") && line.find(": ") != line.npos)
        return int(std::atof(line.c_str() + line.find(": ") + 2));
    return 0;
  }
  size_t cacheBytes() const override { return 0; }
};

//===----------------------------------------------------------------------===//
// GPUs
//===----------------------------------------------------------------------===//

/// NVIDIA's management library: clocks. It comes with the driver.
class Nvml {
public:
  explicit Nvml(const std::string &busId) {
    library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library)
      return;
    auto find = [&](const char *symbol) { return dlsym(library, symbol); };
    auto init = reinterpret_cast<int (*)()>(find("nvmlInit_v2"));
    auto byBusId = reinterpret_cast<int (*)(const char *, void **)>(find("nvmlDeviceGetHandleByPciBusId_v2"));
    clockInfo = reinterpret_cast<int (*)(void *, int, unsigned *)>(find("nvmlDeviceGetClockInfo"));
    if (!init || !byBusId || !clockInfo || init() != 0 || byBusId(busId.c_str(), &device) != 0)
      device = nullptr;
  }
  int clock() {
    constexpr int sm = 1; // NVML_CLOCK_SM
    unsigned mhz = 0;
    return device && clockInfo(device, sm, &mhz) == 0 ? int(mhz) : 0;
  }

private:
  void *library = nullptr, *device = nullptr;
  int (*clockInfo)(void *, int, unsigned *) = nullptr;
};

class GpuBench : public Bench {
public:
  explicit GpuBench(int device) : device(device), driver(CudaDriver::get()), nvml(busId(device)) {
    DeviceGuard guard(device);
    driver.check(driver.eventCreate(&from, 0), "create an event");
    driver.check(driver.eventCreate(&to, 0), "create an event");
    // Twice the second-level cache of any card so far, and some.
    flushBytes = size_t(256) << 20;
  }
  ~GpuBench() override {
    DeviceGuard guard(device);
    driver.eventDestroy(from);
    driver.eventDestroy(to);
    if (flush)
      driver.memFree(flush);
  }
  void *allocate(size_t bytes) override {
    DeviceGuard guard(device);
    cuda::DevicePointer pointer = 0;
    driver.check(driver.memAlloc(&pointer, bytes), "give memory for measurements");
    driver.check(driver.memsetD8(pointer, 0, bytes), "clear memory");
    return reinterpret_cast<void *>(pointer);
  }
  void free(void *memory) override {
    DeviceGuard guard(device);
    driver.memFree(reinterpret_cast<cuda::DevicePointer>(memory));
  }
  void write(void *to, const void *from, size_t bytes) override {
    DeviceGuard guard(device);
    driver.check(driver.memcpyHtoD(reinterpret_cast<cuda::DevicePointer>(to), from, bytes), "copy to the device");
  }
  void read(void *to, const void *from, size_t bytes) override {
    DeviceGuard guard(device);
    driver.check(driver.memcpyDtoH(to, reinterpret_cast<cuda::DevicePointer>(from), bytes), "copy from the device");
  }
  void copy(void *to, const void *from, size_t bytes) override {
    DeviceGuard guard(device);
    driver.check(driver.memcpyDtoDAsync(reinterpret_cast<cuda::DevicePointer>(to), reinterpret_cast<cuda::DevicePointer>(from), bytes, nullptr),
                 "copy within the device");
  }
  void launch(const Function &function, const Sizes &sizes,
              const std::vector<TensorRef> &tensors, float scale,
              void *workspace) override {
    function.launch(sizes, tensors, std::span(&scale, 1), workspace, {.device = device, .stream = nullptr});
  }
  void wait() override {
    DeviceGuard guard(device);
    driver.check(driver.ctxSynchronize(), "run the kernels");
  }
  double time(const std::function<void()> &body, int times, bool cold) override {
    DeviceGuard guard(device);
    if (cold) {
      if (!flush)
        driver.check(driver.memAlloc(&flush, flushBytes), "give memory for measurements");
      driver.check(driver.memsetD8(flush, 0, flushBytes), "clear memory");
    }
    driver.check(driver.eventRecord(from, nullptr), "record an event");
    for (int i = 0; i < times; ++i)
      body();
    driver.check(driver.eventRecord(to, nullptr), "record an event");
    driver.check(driver.eventSynchronize(to), "run the kernels");
    float milliseconds = 0;
    driver.check(driver.eventElapsedTime(&milliseconds, from, to), "tell the time");
    return double(milliseconds) / 1000;
  }
  int clock() override { return nvml.clock(); }
  size_t cacheBytes() const override { return size_t(50) << 20; }

private:
  static std::string busId(int device) {
    char text[32] = {};
    const CudaDriver &driver = CudaDriver::get();
    return driver.deviceGetPCIBusId && driver.deviceGetPCIBusId(text, sizeof(text) - 1, device) == cuda::Success ? text : "";
  }

  int device;
  const CudaDriver &driver;
  Nvml nvml;
  cuda::Event from = nullptr, to = nullptr;
  cuda::DevicePointer flush = 0;
  size_t flushBytes = 0;
};

} // namespace

std::unique_ptr<Bench> autotune::benchOf(int cudaDevice) {
  if (cudaDevice < 0)
    return std::make_unique<HostBench>();
  return std::make_unique<GpuBench>(cudaDevice);
}

//===----------------------------------------------------------------------===//
// Tensors
//===----------------------------------------------------------------------===//

Tensors::Tensors(Bench &bench, const Data &data, DType dtype, int64_t heads,
                 int64_t tokens)
    : bench(bench), callSizes{.batch = 1, .heads = heads, .tokens = tokens, .latentBatch = 1},
      latents(data.latents), sourceTokens(data.tokens), sourceHeads(data.heads) {
  int64_t d = data.channels;
  add("q", false, d, dtype, &data.q);
  add("k", true, d, dtype, &data.k);
  add("v", true, d, dtype, &data.v);
  add("grad_y", true, d, dtype, &data.g);
  add("y", true, d, dtype, nullptr);
  add("z", false, d, DType::F32, nullptr);
  add("lse_encode", false, 0, DType::F32, nullptr);
  add("lse_decode", true, 0, DType::F32, nullptr);
  add("grad_q", false, d, dtype, nullptr);
  add("grad_k", true, d, dtype, nullptr);
  add("grad_v", true, d, dtype, nullptr);
}

void Tensors::add(const std::string &name, bool tokens, int64_t columns,
                  DType type, const std::vector<float> *values) {
  Tensor tensor;
  tensor.tokens = tokens;
  tensor.rows = tokens ? callSizes.tokens : latents;
  tensor.columns = columns;
  tensor.type = type;
  int64_t width = std::max<int64_t>(1, columns), H = callSizes.heads;
  size_t size = size_t(byteSize(type));
  tensor.bytes = size_t(H * tensor.rows * width) * size;
  tensor.memory = Buffer(bench, tensor.bytes);
  if (values) {
    // One period of the source's rows, written as often as needed.
    int64_t period = tokens ? std::min(sourceTokens, tensor.rows) : tensor.rows;
    std::vector<char> bytes(size_t(period * H * width) * size);
    for (int64_t row = 0; row < period; ++row)
      for (int64_t h = 0; h < H; ++h)
        for (int64_t c = 0; c < width; ++c) {
          int64_t rows = tokens ? sourceTokens : latents;
          float value = (*values)[size_t(((h % sourceHeads) * rows + row) * width + c)];
          uint32_t bits = encode(value, type);
          int64_t at = tokens ? (row * H + h) * width + c : (h * tensor.rows + row) * width + c;
          std::memcpy(&bytes[size_t(at) * size], &bits, size);
        }
    for (size_t done = 0; done < tensor.bytes; done += bytes.size())
      bench.write(static_cast<char *>(tensor.memory.get()) + done, bytes.data(),
                  std::min(bytes.size(), tensor.bytes - done));
  }
  all[name] = std::move(tensor);
}

TensorRef Tensors::reference(const Tensor &tensor) const {
  int64_t width = std::max<int64_t>(1, tensor.columns), H = callSizes.heads;
  // Numbers of a token lie head by head; its channels side by side.
  if (tensor.tokens && tensor.columns)
    return {tensor.memory.get(), 0, width, H * width};
  return {tensor.memory.get(), 0, tensor.rows * width, width};
}

std::vector<TensorRef> Tensors::of(const FunctionSpec &function) {
  std::vector<TensorRef> tensors;
  for (size_t i = 0; i < function.argumentCount(); ++i) {
    auto it = all.find(function.tensors[i].name);
    if (it == all.end())
      throw Error(fmt::format("{} takes a tensor {}, which a mixer does not have",
                              function.name, function.tensors[i].name));
    tensors.push_back(reference(it->second));
  }
  return tensors;
}

std::vector<double> Tensors::values(const std::string &name) {
  const Tensor &tensor = all.at(name);
  std::vector<char> bytes(tensor.bytes);
  bench.read(bytes.data(), tensor.memory.get(), tensor.bytes);
  int64_t width = std::max<int64_t>(1, tensor.columns);
  size_t size = size_t(byteSize(tensor.type));
  TensorRef r = reference(tensor);
  std::vector<double> values;
  values.reserve(size_t(callSizes.heads * tensor.rows * width));
  for (int64_t h = 0; h < callSizes.heads; ++h)
    for (int64_t row = 0; row < tensor.rows; ++row)
      for (int64_t c = 0; c < width; ++c) {
        uint32_t bits = 0;
        std::memcpy(&bits, &bytes[size_t(h * r.strideH + row * r.strideRow + c) * size], size);
        values.push_back(decode(bits, tensor.type));
      }
  return values;
}

void Tensors::forget(const std::vector<std::string> &names) {
  for (const std::string &name : names) {
    Tensor &tensor = all.at(name);
    std::vector<char> bytes(tensor.bytes, char(0xff));
    bench.write(tensor.memory.get(), bytes.data(), bytes.size());
  }
}
