// flare-opt: runs any pass on a file, for tests and for the curious.
#include "flare/Flare.h"
#include "passes/Passes.h"
#include "tile/Tile.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Tools/mlir-opt/MlirOptMain.h"
#include "mlir/Transforms/Passes.h"

int main(int argc, char **argv) {
  mlir::DialectRegistry registry;
  registry.insert<flarec::flare::FlareDialect, flarec::tile::TileDialect, mlir::arith::ArithDialect,
                  mlir::func::FuncDialect, mlir::scf::SCFDialect, mlir::LLVM::LLVMDialect>();
  flarec::registerFlarecPasses();
  mlir::registerTransformsPasses();
  return mlir::failed(mlir::MlirOptMain(argc, argv, "flarec's pass driver\n", registry));
}
