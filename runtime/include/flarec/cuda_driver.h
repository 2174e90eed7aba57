// NVIDIA's driver library, found at run time: the same binary runs where there
// is no driver, and nothing of CUDA is needed to build. Types and values are
// those of cuda.h (CUDA 12.0 and later), declared here as far as we use them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace flarec {

/// The driver's names, less the prefix.
namespace cuda {

using Result = int;             // CUresult
using Device = int;             // CUdevice
using DevicePointer = uint64_t; // CUdeviceptr
using Context = struct CUctx_st *;
using Library = struct CUlib_st *;
using Kernel = struct CUkern_st *;
using Function = struct CUfunc_st *;
using Stream = struct CUstream_st *;
using Event = struct CUevent_st *;
using Graph = struct CUgraph_st *;
using GraphExec = struct CUgraphExec_st *;

enum : Result { Success = 0, ErrorNotInitialized = 3 };

/// CUdevice_attribute
enum DeviceAttribute : int {
  MultiprocessorCount = 16,
  ComputeCapabilityMajor = 75,
  ComputeCapabilityMinor = 76,
  MaxSharedMemoryPerBlockOptin = 97,
};

/// CUfunction_attribute
enum FunctionAttribute : int {
  MaxDynamicSharedSizeBytes = 8,
};

/// CUjit_option
enum JitOption : int { ErrorLogBuffer = 5, ErrorLogBufferSizeBytes = 6 };

/// CUstreamCaptureMode
enum CaptureMode : int { CaptureGlobal = 0, CaptureRelaxed = 2 };

} // namespace cuda

/// Every function taken from the driver: name here, symbol there, parameters.
/// All return cuda::Result.
#define FLAREC_CUDA_FUNCTIONS(X)                                               \
  X(init, cuInit, (unsigned flags))                                            \
  X(driverGetVersion, cuDriverGetVersion, (int *version))                      \
  X(getErrorName, cuGetErrorName, (cuda::Result result, const char **text))    \
  X(getErrorString, cuGetErrorString,                                          \
    (cuda::Result result, const char **text))                                  \
  X(deviceGetCount, cuDeviceGetCount, (int *count))                            \
  X(deviceGetName, cuDeviceGetName,                                            \
    (char *name, int size, cuda::Device device))                               \
  X(deviceGetAttribute, cuDeviceGetAttribute,                                  \
    (int *value, int attribute, cuda::Device device))                          \
  X(devicePrimaryCtxRetain, cuDevicePrimaryCtxRetain,                          \
    (cuda::Context * context, cuda::Device device))                            \
  X(ctxGetCurrent, cuCtxGetCurrent, (cuda::Context * context))                 \
  X(ctxPushCurrent, cuCtxPushCurrent_v2, (cuda::Context context))              \
  X(ctxPopCurrent, cuCtxPopCurrent_v2, (cuda::Context * context))              \
  X(ctxSynchronize, cuCtxSynchronize, ())                                      \
  X(libraryLoadData, cuLibraryLoadData,                                        \
    (cuda::Library * library, const void *code, int *jitOptions,               \
     void **jitValues, unsigned jitCount, int *options, void **values,         \
     unsigned count))                                                          \
  X(libraryGetKernel, cuLibraryGetKernel,                                      \
    (cuda::Kernel * kernel, cuda::Library library, const char *name))          \
  X(kernelGetFunction, cuKernelGetFunction,                                    \
    (cuda::Function * function, cuda::Kernel kernel))                          \
  X(kernelSetAttribute, cuKernelSetAttribute,                                  \
    (int attribute, int value, cuda::Kernel kernel, cuda::Device device))      \
  X(launchKernel, cuLaunchKernel,                                              \
    (cuda::Function function, unsigned gridX, unsigned gridY, unsigned gridZ,  \
     unsigned blockX, unsigned blockY, unsigned blockZ, unsigned sharedBytes,  \
     cuda::Stream stream, void **parameters, void **extra))                    \
  X(memAlloc, cuMemAlloc_v2, (cuda::DevicePointer * pointer, size_t bytes))    \
  X(memFree, cuMemFree_v2, (cuda::DevicePointer pointer))                      \
  X(memcpyHtoD, cuMemcpyHtoD_v2,                                               \
    (cuda::DevicePointer to, const void *from, size_t bytes))                  \
  X(memcpyDtoH, cuMemcpyDtoH_v2,                                               \
    (void *to, cuda::DevicePointer from, size_t bytes))                        \
  X(memcpyDtoDAsync, cuMemcpyDtoDAsync_v2,                                     \
    (cuda::DevicePointer to, cuda::DevicePointer from, size_t bytes,           \
     cuda::Stream stream))                                                     \
  X(memsetD8, cuMemsetD8_v2,                                                   \
    (cuda::DevicePointer pointer, unsigned char value, size_t bytes))          \
  X(streamCreate, cuStreamCreate, (cuda::Stream * stream, unsigned flags))     \
  X(streamDestroy, cuStreamDestroy_v2, (cuda::Stream stream))                  \
  X(streamSynchronize, cuStreamSynchronize, (cuda::Stream stream))             \
  X(streamBeginCapture, cuStreamBeginCapture_v2,                               \
    (cuda::Stream stream, int mode))                                           \
  X(streamEndCapture, cuStreamEndCapture,                                      \
    (cuda::Stream stream, cuda::Graph * graph))                                \
  X(threadExchangeStreamCaptureMode, cuThreadExchangeStreamCaptureMode,        \
    (int *mode))                                                               \
  X(graphInstantiate, cuGraphInstantiateWithFlags,                             \
    (cuda::GraphExec * exec, cuda::Graph graph, unsigned long long flags))     \
  X(graphLaunch, cuGraphLaunch, (cuda::GraphExec exec, cuda::Stream stream))   \
  X(graphExecDestroy, cuGraphExecDestroy, (cuda::GraphExec exec))              \
  X(graphDestroy, cuGraphDestroy, (cuda::Graph graph))                         \
  X(eventCreate, cuEventCreate, (cuda::Event * event, unsigned flags))         \
  X(eventDestroy, cuEventDestroy_v2, (cuda::Event event))                      \
  X(eventRecord, cuEventRecord, (cuda::Event event, cuda::Stream stream))      \
  X(eventSynchronize, cuEventSynchronize, (cuda::Event event))                 \
  X(eventElapsedTime, cuEventElapsedTime,                                      \
    (float *milliseconds, cuda::Event from, cuda::Event to))

/// Those that only newer drivers have; null where missing.
#define FLAREC_CUDA_OPTIONAL_FUNCTIONS(X)                                      \
  X(funcLoad, cuFuncLoad, (cuda::Function function)) /* CUDA 12.4 */           \
  X(deviceGetPCIBusId, cuDeviceGetPCIBusId,                                    \
    (char *id, int size, cuda::Device device))

/// The driver, initialised.
class CudaDriver {
public:
  /// Whether there is a driver with a device.
  static bool available();
  /// Why not, in words; empty when available.
  static const std::string &whyUnavailable();
  /// Throws Error with whyUnavailable().
  static const CudaDriver &get();

  /// Throws Error with the driver's words for a failure; `what` completes "the
  /// CUDA driver failed to ...".
  void check(cuda::Result result, const char *what) const {
    if (result != cuda::Success)
      fail(result, what);
  }
  [[noreturn]] void fail(cuda::Result result, const std::string &what) const;

  /// Devices that this process may use.
  int deviceCount() const { return count; }

#define FLAREC_DECLARE(name, symbol, parameters)                               \
  cuda::Result(*name) parameters = nullptr;
  FLAREC_CUDA_FUNCTIONS(FLAREC_DECLARE)
  FLAREC_CUDA_OPTIONAL_FUNCTIONS(FLAREC_DECLARE)
#undef FLAREC_DECLARE

private:
  CudaDriver();
  static const CudaDriver &instance();

  int count = 0;
  std::string problem;
};

/// Makes the primary context of a device current in this thread, and puts back
/// what was. A thread of an autograd engine may have no context, or another
/// device's. Contexts other than the primary (what PyTorch and the CUDA runtime
/// use) are not supported.
class DeviceGuard {
public:
  explicit DeviceGuard(int device);
  ~DeviceGuard();
  DeviceGuard(const DeviceGuard &) = delete;
  DeviceGuard &operator=(const DeviceGuard &) = delete;

private:
  bool pushed = false;
};

} // namespace flarec
