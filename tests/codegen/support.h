//===- support.h - What the codegen tests share
//-----------------------------===//

#ifndef FLAREC_TESTS_CODEGEN_SUPPORT_H
#define FLAREC_TESTS_CODEGEN_SUPPORT_H

#include "codegen/Codegen.h"

#include "llvm/AsmParser/Parser.h"
#include "llvm/IR/LLVMContext.h"
#include "llvm/IR/Module.h"
#include "llvm/Support/SourceMgr.h"
#include <gtest/gtest.h>

/// A module parsed from text, with its context.
struct ParsedModule {
  explicit ParsedModule(llvm::StringRef text) {
    llvm::SMDiagnostic diagnostic;
    module = llvm::parseAssemblyString(text, diagnostic, context);
    if (!module)
      ADD_FAILURE() << diagnostic.getMessage().str() << ", line "
                    << diagnostic.getLineNo();
  }
  llvm::Module &operator*() { return *module; }

  llvm::LLVMContext context;
  std::unique_ptr<llvm::Module> module;
};

/// The value; a failed test and an empty value where there is an error.
template <typename T> T valueOf(llvm::Expected<T> expected) {
  if (expected)
    return std::move(*expected);
  ADD_FAILURE() << llvm::toString(expected.takeError());
  return T();
}

/// The error's text; a failed test where there is none.
template <typename T> std::string errorOf(llvm::Expected<T> expected) {
  if (!expected)
    return llvm::toString(expected.takeError());
  ADD_FAILURE() << "no error";
  return "";
}

inline bool contains(llvm::StringRef text, llvm::StringRef part) {
  return text.contains(part);
}

#define EXPECT_CONTAINS(text, part)                                            \
  EXPECT_TRUE(contains(text, part)) << "no " << (part) << " in\n" << (text)
#define EXPECT_LACKS(text, part)                                               \
  EXPECT_FALSE(contains(text, part)) << (part) << " in\n" << (text)

#endif // FLAREC_TESTS_CODEGEN_SUPPORT_H
