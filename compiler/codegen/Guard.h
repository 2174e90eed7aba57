//===- Guard.h - Backend errors as llvm::Error ----------------------*- C++
//-*-//
//
// LLVM's backends report some errors to the context and others through
// report_fatal_error, which ends the process. runGuarded turns both into an
// llvm::Error.
//
//===----------------------------------------------------------------------===//

#ifndef FLAREC_CODEGEN_GUARD_H
#define FLAREC_CODEGEN_GUARD_H

#include "llvm/ADT/STLFunctionalExtras.h"
#include "llvm/ADT/Twine.h"
#include "llvm/IR/DiagnosticHandler.h"
#include "llvm/Support/Error.h"
#include <memory>
#include <string>

namespace llvm {
class LLVMContext;
class Module;
} // namespace llvm

namespace flarec::detail {

/// An error with a text and no further structure.
llvm::Error makeError(const llvm::Twine &text);

/// Installs the process's handler of fatal errors. Once; called by
/// initialiseTargets.
void installFatalErrorHandler();

/// Runs `body` on a private copy of `module` in a context of its own.
///
/// Fails with `body`'s error, or with what was diagnosed as an error, or with
/// the text of a fatal error. A fatal error leaves `body` by longjmp: no
/// destructor between here and LLVM runs, and the copy with its context and
/// everything else `body` had allocated is leaked on purpose. `body` must
/// therefore hold no lock and write its result only as its last act.
///
/// Signals are not touched (CrashRecoveryContext would take over SIGSEGV in a
/// process that may have handlers of its own), so a crash remains a crash.
llvm::Error
runGuarded(const llvm::Module &module,
           llvm::function_ref<llvm::Error(llvm::Module &copy)> body);

} // namespace flarec::detail

#endif // FLAREC_CODEGEN_GUARD_H
