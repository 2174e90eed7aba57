#include "gpu_code.h"

#include "flarec/device.h"
#include "flarec/error.h"

#include <fmt/format.h>

#include <functional>
#include <system_error>
#include <thread>

using namespace flarec;

namespace {

constexpr size_t logSize = 8192;

/// Loading allocates, which a stream capture in this thread forbids unless it
/// is told that this is meant.
class AllowDuringCapture {
public:
  explicit AllowDuringCapture(const CudaDriver &driver) : driver(driver) {
    driver.threadExchangeStreamCaptureMode(&mode);
  }
  ~AllowDuringCapture() { driver.threadExchangeStreamCaptureMode(&mode); }

private:
  const CudaDriver &driver;
  int mode = cuda::CaptureRelaxed;
};

} // namespace

GpuCode::GpuCode(std::shared_ptr<const Artefact> artefact,
                 std::vector<GpuSymbol> symbols)
    : artefact(std::move(artefact)), symbols(std::move(symbols)),
      devices(maxDevices) {}

const std::vector<cuda::Function> &GpuCode::functions(int device) {
  checkDevice(device);
  std::atomic<const std::vector<cuda::Function> *> &slot =
      devices[size_t(device)];
  if (const auto *loaded = slot.load(std::memory_order_acquire))
    return *loaded;
  std::lock_guard lock(mutex);
  if (!slot.load()) {
    const CudaDriver &driver = CudaDriver::get();
    checkTarget(artefact->manifest().target, device);
    DeviceGuard guard(device);
    AllowDuringCapture allow(driver);
    loadLibraries(driver, device);
    loaded.push_back(
        std::make_unique<std::vector<cuda::Function>>(load(driver, device)));
    slot = loaded.back().get();
  }
  return *slot.load();
}

/// Runs body(0) … body(count - 1) on as many threads as there are processors;
/// passes the first exception on.
static void inParallel(size_t count, const std::function<void(size_t)> &body) {
  std::atomic<size_t> next = 0;
  std::mutex mutex;
  std::exception_ptr failure;
  auto work = [&] {
    for (size_t i; (i = next++) < count;)
      try {
        body(i);
      } catch (...) {
        std::lock_guard lock(mutex);
        if (!failure)
          failure = std::current_exception();
      }
  };
  size_t processors = std::max(1u, std::thread::hardware_concurrency());
  std::vector<std::thread> threads;
  try {
    for (size_t i = 1; i < std::min(count, processors); ++i)
      threads.emplace_back(work);
  } catch (const std::system_error &) {
    // The system gives no more threads: those that we have do the work.
  }
  work();
  for (std::thread &thread : threads)
    thread.join();
  if (failure)
    std::rethrow_exception(failure);
}

// The driver assembles PTX when a library is loaded, about 0.1 s a kernel: one
// blob a kernel, all at the same time.
void GpuCode::loadLibraries(const CudaDriver &driver, int device) {
  if (!libraries.empty())
    return;
  std::vector<Library> fresh(artefact->manifest().code.size());
  inParallel(fresh.size(), [&](size_t i) {
    DeviceGuard guard(device);
    AllowDuringCapture allow(driver);
    Library &library = fresh[i];
    library.log = new char[logSize]();
    int options[] = {cuda::ErrorLogBuffer, cuda::ErrorLogBufferSizeBytes};
    void *values[] = {library.log, reinterpret_cast<void *>(logSize - 1)};
    cuda::Result result =
        driver.libraryLoadData(&library.handle, artefact->code(i).data(),
                               options, values, 2, nullptr, nullptr, 0);
    if (result != cuda::Success)
      driver.fail(result, fmt::format("load the kernels for {}{}{}",
                                      artefact->manifest().target,
                                      library.log[0] ? "; it says: " : "",
                                      library.log));
    // Loading is lazy by default: asking for the function does the work.
    for (const GpuSymbol &symbol : symbols) {
      cuda::Kernel kernel;
      cuda::Function function;
      if (size_t(symbol.code) == i &&
          driver.libraryGetKernel(&kernel, library.handle,
                                  symbol.name.c_str()) == cuda::Success)
        driver.kernelGetFunction(&function, kernel); // load() checks
    }
  });
  libraries = std::move(fresh);
}

std::vector<cuda::Function> GpuCode::load(const CudaDriver &driver,
                                          int device) {
  std::vector<cuda::Function> functions;
  for (const GpuSymbol &symbol : symbols) {
    const Library &library = libraries[size_t(symbol.code)];
    auto check = [&](cuda::Result result, std::string_view what) {
      if (result != cuda::Success)
        driver.fail(result,
                    fmt::format("{} {}{}{}", what, symbol.name,
                                library.log[0] ? "; the assembler says: " : "",
                                library.log));
    };
    cuda::Kernel kernel;
    check(driver.libraryGetKernel(&kernel, library.handle, symbol.name.c_str()),
          "find the kernel");
    int most = deviceFacts(device).sharedPerBlock;
    if (symbol.shared > most)
      throw Error(fmt::format(
          "the kernel {} takes {} bytes of shared memory, a block on {} has at "
          "most {}; compile it with a configuration that takes less",
          symbol.name, symbol.shared, deviceFacts(device).name, most));
    if (symbol.shared > 0)
      check(driver.kernelSetAttribute(cuda::MaxDynamicSharedSizeBytes,
                                      int(symbol.shared), kernel, device),
            fmt::format("give {} bytes of shared memory to", symbol.shared));
    // Loading is lazy by default; a launch under capture cannot wait for it.
    cuda::Function function;
    check(driver.kernelGetFunction(&function, kernel), "load the kernel");
    if (driver.funcLoad)
      check(driver.funcLoad(function), "load the kernel");
    functions.push_back(function);
  }
  return functions;
}
