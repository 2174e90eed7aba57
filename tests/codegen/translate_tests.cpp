//===- translate_tests.cpp - MLIR to LLVM IR
//--------------------------------===//

#include "support.h"

#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/LLVMIR/NVVMDialect.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/MLIRContext.h"
#include "mlir/Parser/Parser.h"

using namespace flarec;

struct Translate : testing::Test {
  Translate() : context(mlir::MLIRContext::Threading::DISABLED) {
    context.loadDialect<mlir::LLVM::LLVMDialect, mlir::NVVM::NVVMDialect>();
  }
  mlir::OwningOpRef<mlir::ModuleOp> parse(llvm::StringRef text) {
    return mlir::parseSourceString<mlir::ModuleOp>(text, &context);
  }
  mlir::MLIRContext context;
  llvm::LLVMContext llvmContext;
};

TEST_F(Translate, KernelBecomesPtx) {
  mlir::OwningOpRef<mlir::ModuleOp> module = parse(R"(
llvm.func @k(%p: !llvm.ptr<1>, %x: f32) attributes {nvvm.kernel, nvvm.maxntid = array<i32: 256>} {
  %tid = nvvm.read.ptx.sreg.tid.x : i32
  %e = llvm.call_intrinsic "llvm.nvvm.ex2.approx.ftz.f"(%x) : (f32) -> f32
  %q = llvm.getelementptr %p[%tid] : (!llvm.ptr<1>, i32) -> !llvm.ptr<1>, f32
  llvm.store %e, %q : f32, !llvm.ptr<1>
  llvm.return
})");
  ASSERT_TRUE(module);
  // Twice: registering the translations again is harmless.
  for (int repeat = 0; repeat < 2; ++repeat) {
    std::unique_ptr<llvm::Module> translated =
        valueOf(translateToLLVMIR(*module, llvmContext));
    ASSERT_TRUE(translated);
    std::string ptx =
        valueOf(emitPtx(*translated, valueOf(findGpuTarget("sm_90a"))));
    EXPECT_CONTAINS(ptx, ".entry k(");
    EXPECT_CONTAINS(ptx, ".maxntid 256");
    EXPECT_CONTAINS(ptx, "ex2.approx.ftz.f32");
  }
}

TEST_F(Translate, OtherDialectIsAnError) {
  context.allowUnregisteredDialects();
  mlir::OwningOpRef<mlir::ModuleOp> module = parse(R"(
llvm.func @k() {
  "other.op"() : () -> ()
  llvm.return
})");
  ASSERT_TRUE(module);
  EXPECT_CONTAINS(errorOf(translateToLLVMIR(*module, llvmContext)), "other.op");
}
