// tile-to-host: one thread's program, on vectors of 16 f32. A kernel becomes a function of the parameters' slots, the block's number and scratch memory
// (docs/artefact.md); passes/host says how.
#include "passes/Manifest.h"
#include "passes/Passes.h"
#include "passes/Selection.h"
#include "passes/host/KernelLowering.h"

namespace flarec {
#define GEN_PASS_DEF_TILETOHOST
#include "passes/Passes.h.inc"
} // namespace flarec

using namespace mlir;
using namespace flarec;
using namespace flarec::host;

namespace {

struct TileToHost : flarec::impl::TileToHostBase<TileToHost> {
  using TileToHostBase::TileToHostBase;

  void runOnOperation() override {
    ModuleOp module = getOperation();
    Selection selection(only);
    if (failed(selection.check(module)))
      return signalPassFailure();
    OpBuilder b(module.getBody(), module.getBody()->end());
    Manifest manifest(b);
    SmallVector<tile::ProgramOp> programs(module.getOps<tile::ProgramOp>());
    if (!programs.empty())
      defineFunctions(b, module.getLoc());
    for (tile::ProgramOp program : programs) {
      if (!selection.has(program)) {
        program.erase();
        continue;
      }
      manifest.beginFunction(program);
      for (auto kernel : program.getOps<tile::KernelOp>()) {
        if (!selection.has(kernel)) {
          if (kernel.getKind() == "sweep")
            manifest.addSweep(kernel);
          continue;
        }
        bool inMemory = false;
        kernel.walk([&](tile::StashOp stash) { inMemory |= stash.getMemory(); });
        if (inMemory || kernel.getKind() == "park") {
          kernel.emitOpError("parks latents in memory, which the host does not: there they lie in the cache; use park = \"shared\"");
          return signalPassFailure();
        }
        std::string name = (program.getSymName() + "_" + kernel.getSymName()).str();
        int64_t scratch = 0;
        if (failed(lower(b, program, kernel, name, scratch)))
          return signalPassFailure();
        manifest.addKernel(program, kernel, name, 1, scratch, "", blocksPerHead(kernel));
      }
      manifest.endFunction();
      program.erase();
    }
    module->setAttr("flarec.manifest", manifest.attribute());
  }

  LogicalResult lower(OpBuilder &b, tile::ProgramOp program, tile::KernelOp kernel, StringRef name, int64_t &scratch) {
    Location loc = kernel.getLoc();
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToEnd(getOperation().getBody());
    auto pointer = LLVM::LLVMPointerType::get(b.getContext());
    auto func = LLVM::LLVMFuncOp::create(
        b, loc, name, LLVM::LLVMFunctionType::get(LLVM::LLVMVoidType::get(b.getContext()), {pointer, b.getI64Type(), pointer}));
    Block *entry = func.addEntryBlock(b);
    KernelLowering l(OpBuilder::atBlockEnd(entry), loc, program, kernel);
    // One 8-byte slot a parameter, as docs/artefact.md lays down.
    Value slots = entry->getArgument(0);
    int64_t next = 0;
    auto slot = [&](Type t) { return l.load(t, l.offset(slots, 8 * next++), t.isF32() ? 4 : 8); };
    Block &args = program.getRegion().front();
    int64_t sweeps = 0;
    for (auto k : program.getOps<tile::KernelOp>())
      sweeps = std::max<int64_t>(sweeps, k.getSweep() + 1);
    for (BlockArgument a : args.getArguments())
      if (auto t = dyn_cast<FlareTensorType>(a.getType())) {
        Value p = slot(pointer), sb = slot(l.i64()), sh = slot(l.i64()), sr = slot(l.i64());
        l.tensors[a] = {p, sb, sh, sr, t};
      }
    l.batches = slot(l.i64());
    l.heads = slot(l.i64());
    l.tokens = slot(l.i64());
    l.latentBatches = slot(l.i64());
    for (int64_t s = 0; s < sweeps; ++s)
      if (Value v = slot(l.i64()); s == int64_t(kernel.getSweep()))
        l.splits = v;
    for (BlockArgument a : args.getArguments())
      if (!isa<FlareTensorType>(a.getType()))
        l.numbers[a] = slot(l.f32());
    l.scratch = entry->getArgument(2);
    l.identify(entry->getArgument(1));
    for (BlockArgument a : args.getArguments())
      if (auto t = dyn_cast<FlareTensorType>(a.getType()); t && l.config && t.isRange())
        l.keepToRange(l.tensors[a]);
    for (BlockArgument a : args.getArguments()) // as its range has it
      if (auto t = dyn_cast<FlareTensorType>(a.getType()); t && t.isMask())
        l.mask = l.tensors[a];
    l.withoutDenormals([&] { l.config ? l.sweepKernel() : l.mergeKernel(); });
    if (failed(l.status))
      return failure();
    LLVM::ReturnOp::create(l.b, loc, ValueRange{});
    scratch = l.config ? l.edgeBytes + l.headBytes * l.config.getHeads() + l.sharedBytes : l.edgeUsed ? l.edgeBytes : 0;
    return success();
  }
};
} // namespace
