//===- LldTargets.cpp - Backends that lld asks for and never needs ----------===//
//
// lld initialises every backend that LLVM was configured with, for link-time
// optimisation of bitcode. We link ELF only: these definitions keep the archives
// of eighteen backends (some 60 MB) out of the program.
//
// Debian configures Polly in as well, without shipping its archive.
//
//===----------------------------------------------------------------------===//

#include "llvm/Plugins/PassPlugin.h"

#define UNUSED(name)                                                           \
  void LLVMInitialize##name() {}
#define UNUSED_BACKEND(name)                                                   \
  UNUSED(name##AsmPrinter)                                                     \
  UNUSED(name##Target)                                                         \
  UNUSED(name##TargetInfo)                                                     \
  UNUSED(name##TargetMC)
#define UNUSED_BACKEND_AND_PARSER(name)                                        \
  UNUSED_BACKEND(name)                                                         \
  UNUSED(name##AsmParser)

extern "C" {
UNUSED_BACKEND_AND_PARSER(AArch64)
UNUSED_BACKEND_AND_PARSER(AMDGPU)
UNUSED_BACKEND_AND_PARSER(ARM)
UNUSED_BACKEND_AND_PARSER(AVR)
UNUSED_BACKEND_AND_PARSER(BPF)
UNUSED_BACKEND_AND_PARSER(Hexagon)
UNUSED_BACKEND_AND_PARSER(Lanai)
UNUSED_BACKEND_AND_PARSER(LoongArch)
UNUSED_BACKEND_AND_PARSER(M68k)
UNUSED_BACKEND_AND_PARSER(MSP430)
UNUSED_BACKEND_AND_PARSER(Mips)
UNUSED_BACKEND_AND_PARSER(PowerPC)
UNUSED_BACKEND_AND_PARSER(RISCV)
UNUSED_BACKEND_AND_PARSER(Sparc)
UNUSED_BACKEND_AND_PARSER(SystemZ)
UNUSED_BACKEND_AND_PARSER(VE)
UNUSED_BACKEND_AND_PARSER(WebAssembly)
UNUSED_BACKEND_AND_PARSER(Xtensa)
UNUSED_BACKEND(SPIRV)
UNUSED_BACKEND(XCore)
}

llvm::PassPluginLibraryInfo getPollyPluginInfo() { return {}; }
