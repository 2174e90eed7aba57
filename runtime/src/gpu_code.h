// An artefact's GPU code in the driver.
#pragma once

#include "flarec/artefact.h"
#include "flarec/cuda_driver.h"

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

namespace flarec {

/// A kernel's symbol and what it needs.
struct GpuSymbol {
  std::string name;
  int code;
  int64_t shared;
};

/// Context-free libraries, and for each device the functions that are launched.
/// They stay for the life of the process: a captured graph may run a kernel
/// after everything else has forgotten it.
class GpuCode {
public:
  GpuCode(std::shared_ptr<const Artefact> artefact,
          std::vector<GpuSymbol> symbols);

  /// The functions in the order of the symbols. The first call for a device
  /// loads everything, so that no later launch does; it may come while a stream
  /// is being captured.
  const std::vector<cuda::Function> &functions(int device);

private:
  void loadLibraries(const CudaDriver &driver, int device);
  std::vector<cuda::Function> load(const CudaDriver &driver, int device);

  struct Library {
    cuda::Library handle = nullptr;
    // The assembler's words. The driver may write here whenever it loads the
    // library into a context, so the buffer stays as long as the library: for
    // good.
    char *log = nullptr;
  };

  std::shared_ptr<const Artefact> artefact;
  std::vector<GpuSymbol> symbols;
  std::mutex mutex;
  std::vector<Library> libraries;
  std::vector<std::unique_ptr<std::vector<cuda::Function>>> loaded;
  std::vector<std::atomic<const std::vector<cuda::Function> *>> devices;
};

} // namespace flarec
