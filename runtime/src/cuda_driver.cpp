#include "flarec/cuda_driver.h"

#include "flarec/device.h"
#include "flarec/error.h"

#include <fmt/format.h>

#include <array>
#include <atomic>
#include <dlfcn.h>

using namespace flarec;

CudaDriver::CudaDriver() {
  void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    problem = fmt::format("no NVIDIA driver was found ({}); install one, or "
                          "use the host target",
                          dlerror());
    return;
  }
  std::string missing;
#define FLAREC_FIND(name, symbol, parameters)                                  \
  name = reinterpret_cast<decltype(name)>(dlsym(library, #symbol));
#define FLAREC_REQUIRE(name, symbol, parameters)                               \
  FLAREC_FIND(name, symbol, parameters)                                        \
  if (!name && missing.empty())                                                \
    missing = #symbol;
  FLAREC_CUDA_FUNCTIONS(FLAREC_REQUIRE)
  FLAREC_CUDA_OPTIONAL_FUNCTIONS(FLAREC_FIND)
#undef FLAREC_REQUIRE
#undef FLAREC_FIND
  if (!missing.empty()) {
    problem = fmt::format("the NVIDIA driver is too old: it has no {}; update "
                          "it to CUDA 12.0 (version 525) or later",
                          missing);
    return;
  }
  cuda::Result result = init(0);
  if (result == cuda::Success)
    result = deviceGetCount(&count);
  if (result != cuda::Success) {
    const char *text = nullptr;
    getErrorString(result, &text);
    problem = fmt::format(
        "the NVIDIA driver does not start: {} (error {}){}",
        text ? text : "unknown", result,
        result == cuda::ErrorNotInitialized
            ? "; a process that used CUDA cannot use it after fork(): use "
              "spawn, or do not touch CUDA before"
            : "; see nvidia-smi");
    return;
  }
  if (count == 0)
    problem = "there is an NVIDIA driver but no device; see nvidia-smi and "
              "CUDA_VISIBLE_DEVICES";
}

const CudaDriver &CudaDriver::instance() {
  // Never destroyed: other static objects may still launch while the process
  // ends.
  static const CudaDriver &driver = *new CudaDriver;
  return driver;
}

bool CudaDriver::available() { return instance().problem.empty(); }

const std::string &CudaDriver::whyUnavailable() { return instance().problem; }

const CudaDriver &CudaDriver::get() {
  const CudaDriver &driver = instance();
  if (!driver.problem.empty())
    throw Error(driver.problem);
  return driver;
}

void CudaDriver::fail(cuda::Result result, const std::string &what) const {
  const char *name = nullptr, *text = nullptr;
  getErrorName(result, &name);
  getErrorString(result, &text);
  throw Error(fmt::format("the CUDA driver failed to {}: {} ({}, error {})",
                          what, text ? text : "unknown error",
                          name ? name : "?", result));
}

static cuda::Context primaryContext(const CudaDriver &driver, int device) {
  static std::array<std::atomic<cuda::Context>, maxDevices> contexts;
  checkDevice(device);
  cuda::Context context = contexts[size_t(device)].load();
  if (!context) {
    // Retained for good; when two threads do it at once the driver counts two,
    // which is as well.
    driver.check(driver.devicePrimaryCtxRetain(&context, device),
                 "open the device");
    contexts[size_t(device)] = context;
  }
  return context;
}

DeviceGuard::DeviceGuard(int device) {
  const CudaDriver &driver = CudaDriver::get();
  cuda::Context primary = primaryContext(driver, device), current = nullptr;
  driver.check(driver.ctxGetCurrent(&current), "tell the current context");
  if (current == primary)
    return;
  driver.check(driver.ctxPushCurrent(primary), "make the device current");
  pushed = true;
}

DeviceGuard::~DeviceGuard() {
  cuda::Context ignored;
  if (pushed)
    CudaDriver::get().ctxPopCurrent(&ignored);
}
