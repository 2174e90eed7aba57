// Machine code for the host: an ELF shared object in memory.
#pragma once

#include "flarec/artefact.h"

#include <memory>

namespace flarec {

/// What a host kernel is: docs/artefact.md, section 3.
using HostKernel = void (*)(const uint64_t *slots, int64_t block,
                            void *scratch);

/// The best instruction set that this processor and its operating system run.
Isa processorIsa();

/// The instruction set to use: what $FLAREC_HOST_ISA (baseline, avx2, avx512)
/// asks for, for tests, else processorIsa().
Isa hostIsa();

/// As the manifest and the request write it.
const char *isaName(Isa isa);

/// The artefact's blob for this processor: the best one, or the one that
/// $FLAREC_HOST_ISA asks for.
size_t chooseHostCode(const Manifest &manifest);

/// A shared object loaded from bytes, never from a file that another could
/// change. Unloaded with the object.
class HostCode {
public:
  explicit HostCode(std::string_view elf);
  ~HostCode();
  HostCode(const HostCode &) = delete;
  HostCode &operator=(const HostCode &) = delete;

  HostKernel kernel(const std::string &symbol) const;

private:
  void *handle = nullptr;
};

} // namespace flarec
