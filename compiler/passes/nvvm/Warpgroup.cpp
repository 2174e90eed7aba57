// tile-to-nvvm: contractions by the matrix instructions of warpgroups, wgmma (PTX ISA 9.7.15), where a configuration has `matrix = "wgmma"`.
//
// Four neighbouring workers multiply together: 64 rows, 16 of each, by as many columns as are handled at once. A worker's part of the left operand and of
// the result are the fragments of mma.m16n8k16, so all else is as with these. The right operand lies in shared memory in *planes*, one for each 8 channels:
// 16 bytes of each row, row after row. Of planes the hardware reads rows as the columns of scores (contracted over channels) and as what weights are
// contracted with (over rows) equally well.
//
// A product is one piece of assembly that starts with a fence and ends with a wait: no register is ever seen while the hardware works on it. What hides its
// time are the other groups of the multiprocessor.
#include "passes/nvvm/KernelLowering.h"

using namespace mlir;

namespace flarec::nvvm {

bool KernelLowering::isRightOperand(Value v) {
  return llvm::any_of(v.getUses(), [](OpOperand &use) {
    auto contract = dyn_cast<tile::ContractOp>(use.getOwner());
    return contract && llvm::is_contained(contract.getB(), use.get());
  });
}

/// Of a stash's result or a staged tile: does it end up as the right operand of a group's contraction?
bool KernelLowering::liesInPlanes(Value v) {
  return hasGroups() && llvm::any_of(v.getUses(), [&](OpOperand &use) {
    auto pairs = dyn_cast<tile::PairsOp>(use.getOwner());
    return pairs && use.getOperandNumber() < pairs.getIns().size() && isRightOperand(pairs.getRegion().getArgument(2 + use.getOperandNumber()));
  });
}

// Register i of lane l of fragment::column is channels 8u + 2(l % 4) and the next of row l / 4 (+ 8): 8 rows of 16 bytes at once.
void KernelLowering::storePlanes(ArrayRef<Value> x, Value p, int64_t planeBytes) {
  int64_t units = int64_t(x.size()) / 2;
  Value mine = offset(p, widen(mul(lane, 4)));
  for (auto [i, v] : llvm::enumerate(x))
    store(v, offset(mine, int64_t(i) % units * planeBytes + int64_t(i) / units * 128), 4);
}

// Matrix descriptors (PTX ISA 9.7.15.5.1): addresses and offsets without their last four bits, no swizzle. The part of 8 rows of a plane is 128 bytes in a row. With K
// along channels the leading offset is from plane to plane and the stride from 8 rows to the next 8; with K along rows it is the other way round.
Value KernelLowering::descriptor(const Planes &planes, bool alongRows) {
  int64_t leading = alongRows ? 128 : planes.planeBytes;
  return orBits(shr(andBits(narrow(LLVM::PtrToIntOp::create(b, loc, i64(), planes.address)), 0x3ffff), 4), c32((leading >> 4) << 16));
}

Registers KernelLowering::groupProduct(Type half, int64_t columns, ArrayRef<GroupFactor> factors, const Registers &acc, bool alongRows) {
  // Operands: results, left registers, descriptors, and accumulators that are the results' registers.
  int64_t count = columns / 2, next = count;
  SmallVector<Value> operands;
  DenseMap<Value, int64_t> known;
  auto number = [&](Value v) {
    auto [it, isNew] = known.try_emplace(v, next);
    if (isNew) {
      operands.push_back(v);
      ++next;
    }
    return "$" + std::to_string(it->second);
  };
  auto list = [](auto &&each, int64_t n) {
    std::string s = "{";
    for (int64_t i = 0; i < n; ++i)
      s += (i ? ", " : "") + each(i);
    return s + "}";
  };
  std::string type = half.isBF16() ? "bf16" : "f16", constraints, body;
  std::string results = list([](int64_t i) { return "$" + std::to_string(i); }, count);
  for (auto [i, f] : llvm::enumerate(factors)) {
    std::string left = list([&](int64_t j) { return number(f.left[j]); }, 4);
    // The upper half is a number known here.
    body += "add.s32 low, " + number(f.right) + ", " + std::to_string(f.offset >> 4) + ";\nmov.b64 right, {low, " + std::to_string(f.stride >> 4) + "};\n";
    body += "wgmma.mma_async.sync.aligned.m64n" + std::to_string(columns) + "k16.f32." + type + "." + type + " " + results + ", " + left + ", right, " +
            (i == 0 && acc.empty() ? "nothing" : "all") + ", 1, 1, " + (alongRows ? "1" : "0") + ";\n";
  }
  std::string text = "{\n.reg .b64 right;\n.reg .b32 low;\n.reg .pred all, nothing;\nsetp.eq.b32 all, 0, 0;\nsetp.ne.b32 nothing, 0, 0;\nwgmma.fence.sync.aligned;\n" + body +
                     "wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;\n}";
  for (int64_t i = 0; i < count; ++i)
    constraints += "=f,";
  for (size_t i = 0; i < operands.size(); ++i)
    constraints += "r,";
  for (auto [i, v] : llvm::enumerate(acc)) {
    operands.push_back(v);
    constraints += std::to_string(i) + ",";
  }
  constraints += "~{memory}";
  Type result = LLVM::LLVMStructType::getLiteral(b.getContext(), SmallVector<Type>(count, f32()));
  Value all = LLVM::InlineAsmOp::create(b, loc, result, operands, text, constraints, /*has_side_effects=*/true, false, LLVM::tailcallkind::TailCallKind::None,
                                        LLVM::AsmDialectAttr::get(b.getContext(), LLVM::AsmDialect::AD_ATT), ArrayAttr())
                  .getResult(0);
  return structElements(all, int(count));
}

void KernelLowering::groupContract(tile::ContractOp op, MutableArrayRef<Column> columns) {
  bool scores = op.getOver() == Index::d;
  SmallVector<GroupFactor> factors;
  auto rightOf = [&](Value v) -> std::optional<Planes> {
    auto found = planes.find(v);
    if (found == planes.end()) {
      status = op.emitOpError("multiplies in groups of workers by an operand that is neither a stage nor a stash; use matrix = \"mma\"");
      return std::nullopt;
    }
    return found->second;
  };
  if (scores) {
    // All columns at once, 16 channels a step.
    Type element = tileType(op.getA().front()).getElement();
    Value first = mul(columns.front().number, tile::blockSize); // in 16 bytes
    for (auto [left, right] : llvm::zip(op.getA(), op.getB())) {
      auto p = rightOf(right);
      if (!p)
        return;
      const Registers &a = columns.front().tiles[left];
      Value d = add(descriptor(*p, false), first);
      for (int64_t u = 0; u + 1 < p->units; u += 2)
        factors.push_back({SmallVector<Value>(ArrayRef(a).slice(2 * u, 4)), d, u * p->planeBytes, 128});
    }
    Registers acc;
    if (op.getAcc())
      for (Column &c : columns)
        acc.append(c.tiles[op.getAcc()]);
    Registers all = groupProduct(element, tile::blockSize * columns.size(), factors, acc, false);
    for (auto [i, c] : llvm::enumerate(columns))
      c.tiles[op.getOut()] = Registers(ArrayRef(all).slice(8 * i, 8));
    return;
  }
  // The columns' weights one after the other, 16 rows of the right operand a step, to all channels at once. The columns' accumulators are one.
  Type element = tileType(op.getA().front()).getElement();
  auto p = rightOf(op.getB().front());
  if (!p)
    return;
  Value d = add(descriptor(*p, true), mul(columns.front().number, tile::blockSize));
  for (auto [i, c] : llvm::enumerate(columns))
    factors.push_back({SmallVector<Value>(c.tiles[op.getA().front()]), d, int64_t(i) * tile::blockSize * 16, p->planeBytes});
  Registers acc = columns.front().tiles[op.getAcc()];
  int64_t channels = p->units * 8;
  Registers sum = groupProduct(element, channels, factors, Registers(acc.begin(), acc.begin() + channels / 2), true);
  std::copy(sum.begin(), sum.end(), acc.begin());
  for (Column &c : columns)
    c.tiles[op.getOut()] = acc;
}

Value KernelLowering::allOfGroup(Value c) {
  if (!hasGroups())
    return allLanes(c);
  // Barriers 1 to 8; 0 is the block's.
  return intrinsic("llvm.nvvm.barrier.cta.red.and.aligned.count", b.getI1Type(), {add(shr(thread, 7), 1), c32(32 * tile::groupWorkers), c});
}

} // namespace flarec::nvvm
