//===- Ptxas.h - What the assembler says of our PTX -----------------*- C++
//-*-//
//
// The product never needs ptxas: the driver assembles PTX. Where a toolkit is
// installed its report is a free performance lint, for tests and for
// `flarec compile --report`.
//
//===----------------------------------------------------------------------===//

#ifndef FLAREC_CODEGEN_PTXAS_H
#define FLAREC_CODEGEN_PTXAS_H

#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"
#include <optional>
#include <string>
#include <vector>

namespace flarec {

struct KernelReport {
  std::string name;
  unsigned registers = 0;
  unsigned spillStoreBytes = 0, spillLoadBytes = 0;
  unsigned stackFrameBytes = 0;
  unsigned staticSharedBytes = 0;
  unsigned barriers = 0;
};

struct AssemblyReport {
  std::vector<KernelReport> kernels;
  /// Warnings, and every advice of the C75xx family (setmaxnreg ignored, wgmma
  /// serialised, ...) whatever its severity.
  std::vector<std::string> warnings;
  std::string cubin;
  /// What ptxas printed.
  std::string log;
};

/// $FLAREC_PTXAS if set (a program, or a directory with
/// nvidia/<version>/bin/ptxas below it such as a site-packages), else PATH,
/// else /usr/local/cuda/bin.
std::optional<std::string> findPtxas();

/// Reads the output of `ptxas -v`.
AssemblyReport parsePtxasLog(llvm::StringRef log);

/// Assembles PTX for a chip. Rejected PTX is an error with ptxas's messages.
llvm::Expected<AssemblyReport> assemble(llvm::StringRef ptx,
                                        llvm::StringRef chip);

} // namespace flarec

#endif // FLAREC_CODEGEN_PTXAS_H
