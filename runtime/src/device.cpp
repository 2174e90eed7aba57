#include "flarec/device.h"

#include "flarec/cuda_driver.h"
#include "flarec/error.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <mutex>

using namespace flarec;

namespace {

struct Entry {
  std::once_flag once;
  DeviceFacts facts;
  std::string target;
};

DeviceFacts ask(int device) {
  const CudaDriver &driver = CudaDriver::get();
  auto attribute = [&](int which) {
    int value = 0;
    driver.check(driver.deviceGetAttribute(&value, which, device),
                 "tell the device's attributes");
    return value;
  };
  char name[128] = {};
  driver.check(driver.deviceGetName(name, sizeof(name) - 1, device),
               "tell the device's name");
  return {name, attribute(cuda::ComputeCapabilityMajor),
          attribute(cuda::ComputeCapabilityMinor),
          attribute(cuda::MultiprocessorCount),
          attribute(cuda::MaxSharedMemoryPerBlockOptin)};
}

const Entry &entry(int device) {
  static std::array<Entry, maxDevices> &entries =
      *new std::array<Entry, maxDevices>;
  checkDevice(device);
  Entry &entry = entries[size_t(device)];
  std::call_once(entry.once, [&] {
    entry.facts = ask(device);
    if (entry.facts.major >= 8)
      entry.target = targetFor(entry.facts);
  });
  return entry;
}

} // namespace

void flarec::checkDevice(int device) {
  int count = std::min(CudaDriver::get().deviceCount(), maxDevices);
  if (device < 0 || device >= count)
    throw Error(fmt::format("there is no CUDA device {}; this process sees {} "
                            "(numbered from 0; CUDA_VISIBLE_DEVICES chooses)",
                            device, count));
}

const DeviceFacts &flarec::deviceFacts(int device) {
  return entry(device).facts;
}

std::string flarec::targetFor(const DeviceFacts &facts) {
  if (facts.major < 8)
    throw Error(fmt::format(
        "{} has compute capability {}.{}; the kernels need 8.0 or more: use "
        "the host (in PyTorch CPU tensors, or scaled_dot_product_attention on "
        "this device)",
        facts.name, facts.major, facts.minor));
  // The 'a' targets run on their own architecture alone, the plain one on every
  // later one too.
  if (facts.major == 9 && facts.minor == 0)
    return "sm_90a";
  if (facts.major == 10 && facts.minor == 0)
    return "sm_100a";
  return "sm_80";
}

const std::string &flarec::deviceTarget(int device) {
  const Entry &known = entry(device);
  if (known.target.empty())
    targetFor(known.facts); // throws
  return known.target;
}

void flarec::checkTarget(const std::string &target, int device) {
  const DeviceFacts &facts = deviceFacts(device);
  int number = 0;
  const char *end = target.data() + target.size();
  auto [suffix, failure] = std::from_chars(
      target.data() + std::min<size_t>(3, target.size()), end, number);
  if (!target.starts_with("sm_") || failure != std::errc())
    throw Error(fmt::format("kernels for target {} do not run on a CUDA "
                            "device; compile for {}",
                            target, deviceTarget(device)));
  int has = 10 * facts.major + facts.minor;
  // "sm_90a": this architecture and no other; "sm_80": this and every later
  // one.
  bool runs = suffix != end ? has == number : has >= number;
  if (!runs)
    throw Error(fmt::format("kernels for {} do not run on {} (sm_{}); compile "
                            "for {}",
                            target, facts.name, has, deviceTarget(device)));
}
