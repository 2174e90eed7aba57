// tile-to-nvvm: one lane's program. This file has the pass, a kernel's prologue and which part lowers what; the parts are in nvvm/.
#include "passes/KeepToRange.h"
#include "passes/Manifest.h"
#include "passes/Passes.h"
#include "passes/Selection.h"
#include "passes/nvvm/KernelLowering.h"
#include "mlir/IR/BuiltinOps.h"
#include "llvm/ADT/TypeSwitch.h"

namespace flarec {
#define GEN_PASS_DEF_TILETONVVM
#include "passes/Passes.h.inc"
} // namespace flarec

using namespace mlir;
using namespace flarec;

namespace flarec::nvvm {

Value KernelLowering::laneCoordinate(const Layout &l, Axis a) {
  Value sum;
  for (size_t i = 0; i < l.lanes.size();) {
    if (l.lanes[i].step == 0 || l.lanes[i].axis != a) {
      ++i;
      continue;
    }
    size_t j = i + 1;
    while (j < l.lanes.size() && l.lanes[j].axis == a && l.lanes[j].step == l.lanes[j - 1].step * 2)
      ++j;
    Value bits = andBits(shr(lane, i), (int64_t(1) << (j - i)) - 1);
    Value part = mul(bits, l.lanes[i].step);
    sum = sum ? add(sum, part) : part;
    i = j;
  }
  return sum ? sum : c32(0);
}

void KernelLowering::identify() {
  thread = intrinsic("llvm.nvvm.read.ptx.sreg.tid.x", i32(), {});
  lane = andBits(thread, 31);
  Value warp = shr(thread, 5);
  Value block = widen(intrinsic("llvm.nvvm.read.ptx.sreg.ctaid.x", i32(), {}));
  if (kernel.getKind() != "sweep") {
    // block = (b·H + h)·(blocks a head) + which latents
    int64_t perHead = blocksPerHead(kernel);
    rowGroup = rem(block, perHead);
    Value bh = div(block, perHead);
    head = rem(bh, heads);
    batch = div(bh, heads);
    headIsReal = arith::ConstantOp::create(b, loc, b.getBoolAttr(true));
    worker = warp;
    return;
  }
  int64_t perBlock = config.getHeads();
  Value groups = div(add(heads, perBlock - 1), perBlock);
  Value headGroup = rem(block, groups);
  Value rest = div(block, groups);
  rowGroup = rem(rest, config.getRowGroups());
  rest = div(rest, config.getRowGroups());
  split = rem(rest, splits);
  batch = div(rest, splits);
  worker = rem(warp, config.getWorkers());
  rowWorker = div(worker, config.getColumnWorkers());
  columnWorker = rem(worker, config.getColumnWorkers());
  headInBlock = div(warp, config.getWorkers());
  firstHead = mul(headGroup, perBlock);
  Value h = add(firstHead, widen(headInBlock));
  headIsReal = lt(h, heads);
  head = min(h, add(heads, -1));
}

void KernelLowering::keepToRange() {
  Value first = lowering::keepToRange(*this, *range);
  if (mask) // what isThere reads where it need not ask: the first row of all
    maskRow = offset(mask->pointer, mul(first, mask->strideRow));
}

Value KernelLowering::isThere(Value n, Value valid) {
  Value row = offset(maskRow, add(mul(batch, mask->strideB), mul(n, mask->strideRow)));
  Value byte = load(b.getI8Type(), select(valid, row, mask->pointer), 1);
  return arith::CmpIOp::create(b, loc, arith::CmpIPredicate::ne, byte, arith::ConstantOp::create(b, loc, b.getI8IntegerAttr(0)));
}

Value KernelLowering::rowAddress(const Tensor &t, Value row) {
  Value offsetElements = add(add(mul(batch, t.strideB), mul(head, t.strideH)), mul(row, t.strideRow));
  return offset(t.pointer, mul(offsetElements, bytesOf(t.type.getElement())));
}

void KernelLowering::lowerBlock(Block &block) {
  for (Operation &op : block.without_terminator()) {
    if (failed(status))
      return;
    lower(&op);
  }
}

void KernelLowering::lower(Operation *op) {
  TypeSwitch<Operation *>(op)
      .Case<tile::LoadOp, tile::ReadOp, tile::StoreOp, tile::CombineOp, tile::MergeOp, tile::MergeSumOp, tile::MaxNormOp, tile::BoundedOp, tile::StreamOp,
            tile::PairsOp, tile::StashOp, tile::ContractOp, tile::SumOp, tile::TotalOp, tile::ReduceOp, tile::SplitOp, tile::MaskOp, tile::WhereOp,
            tile::CastOp, tile::ConstantOp, tile::BroadcastOp, tile::ScaleOp, tile::Exp2Op, tile::ExceedsOp, tile::WithinOp, tile::OverflowsOp, scf::IfOp>([&](auto o) { emit(o); })
      .Case([&](tile::AddOp o) { binary(o, [&](Value x, Value y) { return fadd(x, y); }); })
      // Not fused with a product: x - max would keep what rounding x took away, which from |x| = 2^31 on overflows its exponential.
      .Case([&](tile::SubOp o) { binary(o, [&](Value x, Value y) { return arith::SubFOp::create(b, loc, x, y).getResult(); }); })
      .Case([&](tile::MulOp o) { binary(o, [&](Value x, Value y) { return zeroStays && isZero(x) ? x : fmul(x, y); }); })
      .Case([&](tile::MaxOp o) { binary(o, [&](Value x, Value y) { return maxNaN(x, y); }); })
      .Case([&](tile::NegOp o) { unary(o, [&](Value x) { return fneg(x); }); })
      .Case([&](tile::Log2Op o) { unary(o, [&](Value x) { return log2(x); }); })
      .Case([&](tile::RcpOp o) { unary(o, [&](Value x) { return rcp(x); }); })
      .Case([&](tile::TokensOp o) { numbers[o] = tokens; })
      .Case([&](tile::WorkerRowOp o) { numbers[o] = widen(mul(rowWorker, config.getWorkerRows())); })
      .Case([&](tile::WorkerColumnOp o) { numbers[o] = widen(mul(columnWorker, o.getColumns() / config.getColumnWorkers())); })
      .Case([&](arith::ConstantOp o) {
        if (auto i = dyn_cast<IntegerAttr>(o.getValue()); i && o.getType().isIndex())
          numbers[o] = c64(i.getInt());
        else
          numbers[o] = arith::ConstantOp::create(b, loc, o.getValue());
      })
      .Case([&](arith::AddIOp o) { numbers[o] = add(number(o.getLhs()), number(o.getRhs())); })
      .Case([&](arith::AndIOp o) { numbers[o] = both(number(o.getLhs()), number(o.getRhs())); })
      .Case([&](arith::MaximumFOp o) { numbers[o] = maxNaN(number(o.getLhs()), number(o.getRhs())); })
      .Case([&](arith::CmpFOp o) { numbers[o] = arith::CmpFOp::create(b, loc, o.getPredicate(), number(o.getLhs()), number(o.getRhs())); })
      .Case([&](arith::SelectOp o) { numbers[o] = select(number(o.getCondition()), number(o.getTrueValue()), number(o.getFalseValue())); })
      .Case([&](arith::MulFOp o) { numbers[o] = arith::MulFOp::create(b, loc, number(o.getLhs()), number(o.getRhs())); })
      .Default([&](Operation *o) { status = o->emitOpError("has no lowering to the GPU"); });
}

} // namespace flarec::nvvm

namespace {
using namespace flarec::nvvm;

struct TileToNVVM : flarec::impl::TileToNVVMBase<TileToNVVM> {
  using TileToNVVMBase::TileToNVVMBase;

  void runOnOperation() override {
    ModuleOp module = getOperation();
    if (!precision.empty() && precision != "tf32") {
      module.emitError() << "unknown precision '" << precision << "'; leave it out for f32's own, or use tf32";
      return signalPassFailure();
    }
    Selection selection(only);
    if (failed(selection.check(module)))
      return signalPassFailure();
    OpBuilder b(module.getBody(), module.getBody()->end());
    Manifest manifest(b);
    SmallVector<tile::ProgramOp> programs(module.getOps<tile::ProgramOp>());
    if (!programs.empty()) {
      // Dynamic shared memory.
      LLVM::GlobalOp::create(b, module.getLoc(), LLVM::LLVMArrayType::get(b.getI8Type(), 0), false, LLVM::Linkage::External, "flarec_shared",
                             Attribute(), Swizzle::alignment, 3);
    }
    for (tile::ProgramOp program : programs) {
      if (!selection.has(program)) {
        program.erase();
        continue;
      }
      if (failed(checkParked(program)))
        return signalPassFailure();
      manifest.beginFunction(program);
      for (auto kernel : program.getOps<tile::KernelOp>()) {
        bool isSweep = kernel.getKind() == "sweep", hasAny = isSweep && selection.isAll();
        if (!selection.has(kernel)) {
          if (isSweep)
            manifest.addSweep(kernel);
          continue;
        }
        std::string name = (program.getSymName() + "_" + kernel.getSymName()).str();
        int64_t shared = 0;
        auto fast = lower(b, program, kernel, name, true, shared);
        if (failed(fast))
          return signalPassFailure();
        if (hasAny && failed(lower(b, program, kernel, name + "_any", false, shared)))
          return signalPassFailure();
        manifest.addKernel(program, kernel, name, threadsOf(kernel), shared, hasAny ? name + "_any" : "", blocksPerHead(kernel));
      }
      manifest.endFunction();
      program.erase();
    }
    module->setAttr("flarec.manifest", manifest.attribute());
  }

  /// What a sweep reads in memory a park kernel before it fills, which does nothing else.
  LogicalResult checkParked(tile::ProgramOp program) {
    DenseSet<Value> filled;
    int64_t sweeps = 0;
    for (auto kernel : program.getOps<tile::KernelOp>())
      if (kernel.getKind() == "sweep")
        ++sweeps;
    for (auto kernel : program.getOps<tile::KernelOp>()) {
      bool isPark = kernel.getKind() == "park";
      if (isPark && kernel.getSweep() >= sweeps)
        return kernel.emitOpError() << "parks for sweep " << kernel.getSweep() << "; there are " << sweeps;
      for (Operation &op : kernel.getRegion().front()) {
        auto stash = dyn_cast<tile::StashOp>(op);
        if (isPark && stash && stash.getMemory())
          filled.insert(stash.getTensor());
        else if (isPark && !isa<tile::MaxNormOp>(op) && op.getDialect()->getNamespace() != "arith")
          return op.emitOpError("is in a park kernel, which fills a tile.stash in memory and does nothing else");
        else if (stash && stash.getTensor() && !filled.contains(stash.getTensor()))
          return stash.emitOpError("is read in memory, and no park kernel before this one fills it; run tile-park, or leave its kernel where it was");
      }
    }
    return success();
  }

  LogicalResult lower(OpBuilder &b, tile::ProgramOp program, tile::KernelOp kernel, StringRef name, bool aligned, int64_t &shared) {
    Location loc = kernel.getLoc();
    if (auto config = kernel.getConfigAttr(); config && config.getExponentials().kind == tile::Exponentials::Poly5)
      return kernel.emitOpError() << "has exp = " << config.getExp() << ", which no GPU kernel has: is it a stage of another target?";
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToEnd(getOperation().getBody());
    // One 8-byte slot a parameter, as docs/artefact.md lays down.
    SmallVector<Type> types;
    auto pointer = LLVM::LLVMPointerType::get(b.getContext(), 1);
    Block &args = program.getRegion().front();
    int64_t sweeps = 0;
    for (auto k : program.getOps<tile::KernelOp>())
      sweeps = std::max<int64_t>(sweeps, k.getSweep() + 1);
    for (BlockArgument a : args.getArguments())
      if (isa<FlareTensorType>(a.getType())) {
        types.push_back(pointer);
        types.append(3, b.getI64Type());
      }
    types.append(4 + sweeps, b.getI64Type());
    for (BlockArgument a : args.getArguments())
      if (!isa<FlareTensorType>(a.getType()))
        types.push_back(b.getF32Type());
    auto func = LLVM::LLVMFuncOp::create(b, loc, name, LLVM::LLVMFunctionType::get(LLVM::LLVMVoidType::get(b.getContext()), types),
                                         LLVM::Linkage::External, false, LLVM::CConv::PTX_Kernel);
    bool isSweep = kernel.getKind() == "sweep";
    int64_t threads = threadsOf(kernel);
    int64_t minBlocks = isSweep ? kernel.getConfigAttr().getMinBlocks() : 1;
    // Copies element by element take registers. On an H100 a few bytes of spills cost less than half of the blocks.
    if (!aligned && target != "sm_90a")
      minBlocks = 1;
    func.setPassthroughAttr(b.getArrayAttr({b.getStrArrayAttr({"nvvm.maxntid", std::to_string(threads)}),
                                            b.getStrArrayAttr({"nvvm.minctasm", std::to_string(minBlocks)})}));
    Block *entry = func.addEntryBlock(b);
    KernelLowering l(OpBuilder::atBlockEnd(entry), loc, program, kernel, aligned);
    unsigned next = 0;
    for (BlockArgument a : args.getArguments())
      if (auto t = dyn_cast<FlareTensorType>(a.getType())) {
        l.tensors[a] = {entry->getArgument(next), entry->getArgument(next + 1), entry->getArgument(next + 2), entry->getArgument(next + 3), t};
        next += 4;
      }
    l.batches = entry->getArgument(next);
    l.heads = entry->getArgument(next + 1);
    l.tokens = entry->getArgument(next + 2);
    l.latentBatches = entry->getArgument(next + 3);
    l.splits = entry->getArgument(next + 4 + kernel.getSweep());
    next += 4 + sweeps;
    for (BlockArgument a : args.getArguments())
      if (!isa<FlareTensorType>(a.getType()))
        l.numbers[a] = entry->getArgument(next++);
    l.shared = LLVM::AddressOfOp::create(l.b, loc, LLVM::LLVMPointerType::get(b.getContext(), 3), "flarec_shared");
    l.identify();
    for (auto &[a, t] : l.tensors)
      if (t.type.isMask()) {
        l.mask = t;
        l.maskRow = t.pointer;
      } else if (t.type.isRange()) {
        l.range = t;
      }
    if (l.range && isSweep)
      l.keepToRange();
    Value first = kernel.getKind() == "merge" ? l.mul(l.rowGroup, mergeRows(kernel))
                  : isSweep && kernel.getConfigAttr().getRows() == Index::m
                      ? l.mul(l.add(l.mul(l.rowGroup, kernel.getConfigAttr().getWorkers()), l.widen(l.worker)), kernel.getConfigAttr().getWorkerRows())
                      : l.c64(0);
    l.numbers[kernel.getRegion().getArgument(0)] = first;
    l.singleTf32 = precision == "tf32";
    l.lowerBlock(kernel.getRegion().front());
    if (failed(l.status))
      return failure();
    LLVM::ReturnOp::create(l.b, loc, ValueRange{});
    shared = std::max(shared, l.sharedBytes);
    if (shared > 227 * 1024)
      return kernel.emitOpError() << "@" << name << " needs " << shared << " bytes of shared memory, a block has 232448 at most; use fewer heads, stages or a "
                                  << "smaller tile, or park = none";
    return success();
  }
};
} // namespace
