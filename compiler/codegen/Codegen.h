//===- Codegen.h - From an LLVM module to PTX or a host library -----------===//
//
// The part of the compiler after MLIR. A module in the LLVM and NVVM dialects
// is translated to LLVM IR; LLVM IR becomes PTX, or an x86-64 object and then a
// shared library, all in this process and in memory.
//
// Nothing here throws or exits. Every emit function works on a private copy of
// the module in a context of its own, so that one module serves several chips,
// the result does not depend on what else lives in the caller's context, and
// whatever a failing backend leaves behind is not the caller's.
//
// All functions may be called from several threads at a time.
//
//===----------------------------------------------------------------------===//

#ifndef FLAREC_CODEGEN_CODEGEN_H
#define FLAREC_CODEGEN_CODEGEN_H

#include "llvm/ADT/ArrayRef.h"
#include "llvm/ADT/StringRef.h"
#include "llvm/Support/Error.h"
#include <memory>
#include <string>
#include <vector>

namespace llvm {
class LLVMContext;
class Module;
} // namespace llvm

namespace mlir {
class ModuleOp;
} // namespace mlir

namespace flarec {

/// Registers the NVPTX and X86 backends and the handler of LLVM's fatal errors,
/// once. The other functions call it.
void initialiseTargets();

/// Translates a module in the builtin, LLVM and NVVM dialects. The error's text
/// is what MLIR diagnosed.
llvm::Expected<std::unique_ptr<llvm::Module>>
translateToLLVMIR(mlir::ModuleOp module, llvm::LLVMContext &context);

//===----------------------------------------------------------------------===//
// Optimisation
//===----------------------------------------------------------------------===//

enum class Pipeline {
  /// Cleans up and leaves the schedule alone: scalar simplification and
  /// hoisting,
  /// no vectorisation, loops unrolled only where their metadata asks for it.
  Reduced,
  /// LLVM's -O2.
  O2
};

/// The passes of Pipeline::Reduced as `opt -passes=` takes them. It runs as
/// printed, followed by the unrolling of loops that ask for it.
llvm::StringRef reducedPipeline();

//===----------------------------------------------------------------------===//
// GPU
//===----------------------------------------------------------------------===//

struct GpuTarget {
  std::string chip;   // sm_80, sm_90a, sm_100a, ...
  int ptxVersion = 0; // 81 is PTX 8.1
};

/// The chips that PTX can be made for, each with the lowest PTX version that
/// has what our kernels use: older drivers accept older PTX.
llvm::ArrayRef<GpuTarget> gpuTargets();

/// The entry of gpuTargets() for a chip, or an error that lists the chips.
llvm::Expected<GpuTarget> findGpuTarget(llvm::StringRef chip);

/// PTX of a module whose kernels have the calling convention ptx_kernel. Other
/// functions become internal. Calls of functions that nobody defines
/// (libdevice, libm) are errors.
llvm::Expected<std::string> emitPtx(const llvm::Module &module,
                                    const GpuTarget &target,
                                    Pipeline pipeline = Pipeline::Reduced);

/// A kernel and a PTX module that holds it alone.
struct KernelPtx {
  std::string name, ptx;
  double milliseconds;
};

/// Each kernel as a PTX module of its own, generated in parallel: drivers assemble such modules in parallel too. The text does
/// not depend on the number of threads.
llvm::Expected<std::vector<KernelPtx>> emitPtxByKernel(const llvm::Module &module, const GpuTarget &target);

//===----------------------------------------------------------------------===//
// Host
//===----------------------------------------------------------------------===//

enum class HostIsa {
  Baseline, // x86-64-v2
  Avx2,     // x86-64-v3
  Avx512    // x86-64-v4, vectors of 512 bits
};

/// Position-independent relocatable ELF for x86-64 Linux. The instruction set
/// is `isa` for every function, whatever attributes the functions carry.
llvm::Expected<std::string>
emitHostObject(const llvm::Module &module, HostIsa isa,
               Pipeline pipeline = Pipeline::Reduced);

/// The same as text, for people and tests.
llvm::Expected<std::string>
emitHostAssembly(const llvm::Module &module, HostIsa isa,
                 Pipeline pipeline = Pipeline::Reduced);

/// Links one relocatable object to a shared library that depends on nothing,
/// not even libc, and exports `exportedSymbols` only. An undefined symbol is an
/// error, and so is an exported one that the object does not define.
llvm::Expected<std::string>
linkShared(llvm::StringRef object, llvm::ArrayRef<std::string> exportedSymbols);

/// A shared library for one instruction set, and the time it took on its thread.
struct HostLibrary {
  HostIsa isa;
  llvm::StringRef name; // as the manifest has it
  std::string bytes;
  double milliseconds = 0;
};

/// A module as a library for each instruction set, or for `isa` alone, the best one first, generated in parallel. The bytes do not depend on the number of threads.
llvm::Expected<std::vector<HostLibrary>>
emitHostLibraries(const llvm::Module &module, llvm::ArrayRef<std::string> exportedSymbols, llvm::StringRef isa = "");

} // namespace flarec

#endif // FLAREC_CODEGEN_CODEGEN_H
