//===- Translate.cpp - MLIR's LLVM dialect to LLVM IR
//-----------------------===//
//
// The only file of the folder that knows MLIR.
//
//===----------------------------------------------------------------------===//

#include "Codegen.h"
#include "Guard.h"

#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/Diagnostics.h"
#include "mlir/IR/DialectRegistry.h"
#include "mlir/Target/LLVMIR/Dialect/Builtin/BuiltinToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Dialect/LLVMIR/LLVMToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Dialect/NVVM/NVVMToLLVMIRTranslation.h"
#include "mlir/Target/LLVMIR/Export.h"
#include "llvm/IR/LLVMContext.h"
#include "llvm/IR/Module.h"
#include "llvm/Support/raw_ostream.h"

using namespace flarec;

llvm::Expected<std::unique_ptr<llvm::Module>>
flarec::translateToLLVMIR(mlir::ModuleOp module, llvm::LLVMContext &context) {
  initialiseTargets();
  mlir::MLIRContext *mlirContext = module.getContext();
  mlir::DialectRegistry registry;
  mlir::registerBuiltinDialectTranslation(registry);
  mlir::registerLLVMDialectTranslation(registry);
  mlir::registerNVVMDialectTranslation(registry);
  mlirContext->appendDialectRegistry(registry);

  std::string diagnosed;
  mlir::ScopedDiagnosticHandler handler(
      mlirContext, [&](mlir::Diagnostic &diagnostic) {
        if (diagnostic.getSeverity() == mlir::DiagnosticSeverity::Error) {
          llvm::raw_string_ostream os(diagnosed);
          if (!diagnosed.empty())
            os << "; ";
          os << diagnostic.getLocation() << ": " << diagnostic;
        }
        return mlir::success();
      });
  std::unique_ptr<llvm::Module> result = mlir::translateModuleToLLVMIR(
      module, context, module.getName().value_or("flarec"));
  if (!result || !diagnosed.empty())
    return detail::makeError(
        "translation to LLVM IR failed: " +
        (diagnosed.empty() ? "no reason given" : diagnosed));
  return result;
}
