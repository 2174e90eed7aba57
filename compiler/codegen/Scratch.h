//===- Scratch.h - A nameless file that has a path ------------------*- C++ -*-//

#ifndef FLAREC_CODEGEN_SCRATCH_H
#define FLAREC_CODEGEN_SCRATCH_H

#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"
#include <string>

namespace flarec::detail {

/// A file in memory, reached through /proc/self/fd, or where there is no /proc
/// or a child process must see it, one in the temporary directory. Gone when the
/// object is.
class ScratchFile {
public:
  enum class Kind { Memory, OnDisk };
  static llvm::Expected<ScratchFile> create(llvm::StringRef contents,
                                            Kind kind = Kind::Memory);
  ScratchFile(ScratchFile &&other);
  ScratchFile(const ScratchFile &) = delete;
  ScratchFile &operator=(const ScratchFile &) = delete;
  ~ScratchFile();

  const std::string &path() const { return name; }
  llvm::Expected<std::string> read() const;

private:
  ScratchFile() = default;
  int descriptor = -1;
  bool onDisk = false;
  std::string name;
};

} // namespace flarec::detail

#endif // FLAREC_CODEGEN_SCRATCH_H
