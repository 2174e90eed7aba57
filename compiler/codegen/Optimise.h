//===- Optimise.h - The passes before instruction selection ---------*- C++
//-*-//

#ifndef FLAREC_CODEGEN_OPTIMISE_H
#define FLAREC_CODEGEN_OPTIMISE_H

#include "Codegen.h"

namespace llvm {
class TargetMachine;
} // namespace llvm

namespace flarec::detail {

/// Runs `pipeline` over `module` in place.
llvm::Error optimise(llvm::Module &module, llvm::TargetMachine &machine,
                     Pipeline pipeline);

/// Instruction selection and printing.
llvm::Expected<std::string>
emitFile(llvm::Module &module, llvm::TargetMachine &machine, bool assembly);

} // namespace flarec::detail

#endif // FLAREC_CODEGEN_OPTIMISE_H
