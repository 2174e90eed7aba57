//===- Guard.cpp - Backend errors as llvm::Error
//----------------------------===//

#include "Guard.h"

#include "llvm/ADT/SmallVector.h"
#include "llvm/Bitcode/BitcodeReader.h"
#include "llvm/Bitcode/BitcodeWriter.h"
#include "llvm/IR/DiagnosticInfo.h"
#include "llvm/IR/DiagnosticPrinter.h"
#include "llvm/IR/LLVMContext.h"
#include "llvm/IR/Module.h"
#include "llvm/IR/Verifier.h"
#include "llvm/Support/ErrorHandling.h"
#include "llvm/Support/MemoryBufferRef.h"
#include "llvm/Support/PrettyStackTrace.h"
#include "llvm/Support/raw_ostream.h"
#include <csetjmp>

using namespace llvm;

namespace flarec::detail {

namespace {

/// Where a fatal error of this thread returns to.
struct Recovery {
  std::jmp_buf where;
  std::string text;
};

thread_local Recovery *currentRecovery = nullptr;

void onFatalError(void *, const char *reason, bool) {
  if (!currentRecovery) {
    // Outside runGuarded: LLVM exits when this returns.
    errs() << "flarec: LLVM: " << reason << "\n";
    return;
  }
  currentRecovery->text = reason;
  std::longjmp(currentRecovery->where, 1);
}

/// Collects errors and drops warnings and remarks. By returning true it keeps
/// LLVMContext from exiting.
struct ErrorCollector : DiagnosticHandler {
  explicit ErrorCollector(std::string &text) : text(text) {}
  bool handleDiagnostics(const DiagnosticInfo &info) override {
    if (info.getSeverity() == DS_Error) {
      raw_string_ostream os(text);
      if (!text.empty())
        os << "; ";
      DiagnosticPrinterRawOStream printer(os);
      info.print(printer);
    }
    return true;
  }
  std::string &text;
};

/// What must survive a longjmp; on the heap, so that leaking it is easy.
struct State {
  LLVMContext context;
  std::unique_ptr<Module> module;
  std::string diagnosed;
  Recovery recovery;
};

} // namespace

Error makeError(const Twine &text) {
  return createStringError(inconvertibleErrorCode(), text);
}

void installFatalErrorHandler() {
  remove_fatal_error_handler();
  install_fatal_error_handler(onFatalError);
}

Error runGuarded(const Module &module, function_ref<Error(Module &copy)> body) {
  std::string invalid;
  raw_string_ostream invalidOs(invalid);
  if (verifyModule(module, &invalidOs))
    return makeError("invalid LLVM IR: " + StringRef(invalid).rtrim());

  SmallVector<char, 0> bitcode;
  raw_svector_ostream bitcodeOs(bitcode);
  WriteBitcodeToFile(module, bitcodeOs);

  // Read after setjmp returns for the second time, hence a pointer that nobody
  // changes in between.
  State *const state = new State;
  state->context.setDiagnosticHandler(
      std::make_unique<ErrorCollector>(state->diagnosed));
  Expected<std::unique_ptr<Module>> copy = parseBitcodeFile(
      MemoryBufferRef(bitcodeOs.str(), "flarec"), state->context);
  if (!copy) {
    delete state;
    return copy.takeError();
  }
  state->module = std::move(*copy);

  const void *const prettyStack = SavePrettyStackState();
  Recovery *const outer = currentRecovery;
  currentRecovery = &state->recovery;
  if (setjmp(state->recovery.where)) {
    currentRecovery = outer;
    RestorePrettyStackState(prettyStack);
    const std::string &diagnosed = state->diagnosed;
    return makeError(Twine(diagnosed) + (diagnosed.empty() ? "" : "; ") +
                     StringRef(state->recovery.text).rtrim());
    // `state` leaks: dead frames may hold handles to values of its context.
  }
  Error error = body(*state->module);
  currentRecovery = outer;

  if (!state->diagnosed.empty()) {
    consumeError(std::move(error));
    error = makeError(state->diagnosed);
  }
  state->module.reset();
  delete state;
  return error;
}

} // namespace flarec::detail
