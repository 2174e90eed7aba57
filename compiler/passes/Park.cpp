// tile-park: latent operands that fast memory has no room for are made once a head, by a kernel of their own, and lie in the workspace.
#include "passes/Passes.h"
#include "passes/Registers.h"
#include "mlir/IR/BuiltinOps.h"
#include "llvm/ADT/SetVector.h"

namespace flarec {
#define GEN_PASS_DEF_PARK
#include "passes/Passes.h.inc"
} // namespace flarec

using namespace mlir;
using namespace flarec;
using flare::FlareTensorType;

namespace {

/// The ops of `block` that what is inside `op` needs, in their order.
SmallVector<Operation *> neededBy(Operation *op, Block &block) {
  llvm::SetVector<Operation *> needed;
  auto need = [&](Value v) {
    if (Operation *from = v.getDefiningOp(); from && from->getBlock() == &block)
      needed.insert(from);
  };
  op->walk([&](Operation *inner) { llvm::for_each(inner->getOperands(), need); });
  for (size_t i = 0; i < needed.size(); ++i)
    llvm::for_each(needed[i]->getOperands(), need);
  SmallVector<Operation *> ordered(needed.begin(), needed.end());
  llvm::sort(ordered, [](Operation *a, Operation *b) { return a->isBeforeInBlock(b); });
  return ordered;
}

/// A tensor of the workspace, after all others and before the numbers.
Value addWorkspace(tile::ProgramOp program, FlareTensorType type, const Twine &name) {
  OpBuilder b(program.getContext());
  Block &block = program.getRegion().front();
  SmallVector<Attribute> descriptions(program.getTensors().begin(), program.getTensors().end());
  unsigned at = 0;
  while (at < block.getNumArguments() && isa<FlareTensorType>(block.getArgument(at).getType()))
    ++at;
  descriptions.insert(descriptions.begin() + at,
                      b.getDictionaryAttr({b.getNamedAttr("name", b.getStringAttr(name)), b.getNamedAttr("role", b.getStringAttr("workspace"))}));
  program.setTensorsAttr(b.getArrayAttr(descriptions));
  return block.insertArgument(at, type, program.getLoc());
}

LogicalResult park(tile::ProgramOp program, tile::KernelOp sweep, tile::StashOp stash) {
  OpBuilder b(sweep);
  for (Value v : stash.getRegion().front().getTerminator()->getOperands())
    if (!cast<tile::TileType>(v.getType()).getLayout())
      return stash.emitOpError("has tiles without a layout; run tile-assign-layouts first");
  StashPlan plan(stash, sweep.getConfigAttr());
  auto type = FlareTensorType::get(b.getContext(), false, plan.blocks, plan.rowBytes() / 4, b.getF32Type());
  std::string name = ("park_" + sweep.getSymName().split('_').second).str();
  stash.getTensorMutable().assign(addWorkspace(program, type, name));
  auto kernel = tile::KernelOp::create(b, stash.getLoc(), name, "park", sweep.getSweep(), sweep.getConfigAttr());
  Block *body = &kernel.getRegion().emplaceBlock();
  IRMapping map;
  map.map(sweep.getRegion().getArgument(0), body->addArgument(b.getIndexType(), stash.getLoc()));
  b.setInsertionPointToEnd(body);
  for (Operation *op : neededBy(stash, sweep.getRegion().front()))
    b.clone(*op, map);
  b.clone(*stash, map);
  return success();
}

struct Park : flarec::impl::ParkBase<Park> {
  using ParkBase::ParkBase;
  void runOnOperation() override {
    for (auto program : getOperation().getOps<tile::ProgramOp>())
      for (auto kernel : llvm::make_early_inc_range(program.getOps<tile::KernelOp>()))
        if (kernel.getKind() == "sweep")
          for (auto stash : kernel.getOps<tile::StashOp>())
            if (stash.getMemory() && !stash.getTensor() && failed(park(program, kernel, stash)))
              return signalPassFailure();
  }
};
} // namespace
