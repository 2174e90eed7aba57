#include "passes/Passes.h"
#include "tile/Tile.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/IR/BuiltinOps.h"
namespace flarec {
#define GEN_PASS_DEF_TILETOHOST
#include "passes/Passes.h.inc"
}
namespace {
struct TileToHost : flarec::impl::TileToHostBase<TileToHost> {
  using TileToHostBase::TileToHostBase;
  void runOnOperation() override { signalPassFailure(); }
};
}
