// Facts about a CUDA device, and the target to compile for it.
#pragma once

#include <string>

namespace flarec {

/// Devices are numbered from 0, as PyTorch and CUDA_VISIBLE_DEVICES do.
inline constexpr int maxDevices = 64;

struct DeviceFacts {
  std::string name;
  int major = 0, minor = 0; ///< compute capability
  int multiprocessors = 0;
  int sharedPerBlock = 0; ///< most dynamic shared memory of a block, in bytes
};

/// Throws Error unless there is such a device.
void checkDevice(int device);

/// Asked of the driver once.
const DeviceFacts &deviceFacts(int device);

/// The target to compile for: "sm_90a", "sm_100a", or "sm_80" for every other
/// architecture that runs its PTX, such as sm_86, sm_89 and sm_120. Throws Error
/// for those before sm_80.
const std::string &deviceTarget(int device);
std::string targetFor(const DeviceFacts &facts);

/// Throws Error unless kernels for the target run on the device.
void checkTarget(const std::string &target, int device);

} // namespace flarec
