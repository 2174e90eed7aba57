// tile-to-nvvm: contractions by the matrix instructions of warpgroups, wgmma (PTX ISA 9.7.15), where a configuration has `matrix = "wgmma"`.
//
// Four neighbouring workers multiply together: 64 rows, 16 of each, by as many columns as are handled at once. A worker's part of the left operand and of
// the result are the fragments of mma.m16n8k16, so all else is as with these. The right operand lies in shared memory, its rows' channels in atoms with exchanged
// chunks (Swizzle in passes/Sizes.h), which the hardware reads as the columns of scores (K along channels) and as what weights are contracted with (K along rows)
// equally well. Without exchanges, 16 bytes of each row in a plane of their own, each copy of a token's row took three times the wavefronts.
//
// A product is one piece of assembly that starts with a fence and ends with a wait: no register is ever seen while the hardware works on it. What hides its
// time are the other groups of the multiprocessor.
#include "passes/nvvm/KernelLowering.h"

using namespace mlir;

namespace flarec::nvvm {

bool KernelLowering::isSwizzled(Value v) {
  return hasGroups() && llvm::any_of(v.getUses(), [&](OpOperand &use) {
    auto pairs = dyn_cast<tile::PairsOp>(use.getOwner());
    return pairs && use.getOperandNumber() < pairs.getIns().size() && isRightOperand(pairs.getRegion().getArgument(2 + use.getOperandNumber()));
  });
}

Value KernelLowering::swizzled(const Swizzle &swizzle, Value row, Value chunk) {
  return add(mul(row, swizzle.rowBytes()), mul(xorBits(chunk, andBits(shr(row, swizzle.shift()), swizzle.width - 1)), 16));
}

// Register i of lane l of fragment::column holds channels 8u + 2(l % 4) and the next of row l / 4 (+ 8): words of 8 rows at once.
void KernelLowering::storeSwizzled(ArrayRef<Value> x, Value p, const Swizzle &swizzle, Value block) {
  Value row = shr(lane, 2);
  Value mine = offset(p, widen(add(mul(block, tile::blockSize * swizzle.rowBytes()), mul(andBits(lane, 3), 4))));
  for (auto [i, v] : llvm::enumerate(x)) {
    int64_t u = int64_t(i) % swizzle.chunks, half = int64_t(i) / swizzle.chunks;
    Value at = offset(mine, widen(swizzled(swizzle, row, c32(u % swizzle.width))));
    store(v, offset(at, u / swizzle.width * swizzle.atomBytes() + half * 8 * swizzle.rowBytes()), 4);
  }
}

// Right operands are described by 64 bits (PTX ISA 9.7.15.5.1, "Matrix descriptor"): the start and two offsets without their last four bits, and how chunks are exchanged.
// The stride is from 8 rows to the next 8. With K along rows the leading offset is from atom to atom; with K along channels it has no meaning, and a step of K starts further
// on in an atom, or in the next one.
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
    int64_t exchange = f.swizzle.width == 8 ? 1 : f.swizzle.width == 4 ? 2 : 3;
    int64_t high = (8 * f.swizzle.rowBytes() >> 4) | exchange << 30;
    body += "add.s32 low, " + number(f.right) + ", " + std::to_string(f.offset >> 4) + ";\nmov.b64 right, {low, " + std::to_string(int32_t(high)) + "};\n";
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
  return structElements(assembly(result, text, constraints, operands, /*effects=*/true), int(count));
}

void KernelLowering::groupContract(tile::ContractOp op, MutableArrayRef<Column> columns) {
  bool scores = op.getOver() == Index::d;
  Type element = tileType(op.getA().front()).getElement();
  Column &front = columns.front();
  SmallVector<GroupFactor> factors;
  for (auto [left, right] : llvm::zip(op.getA(), op.getB())) {
    auto found = rightOperands.find(right);
    if (found == rightOperands.end()) {
      status = op.emitOpError("multiplies in groups of workers by an operand that is neither a stage nor a stash; use matrix = \"mma\"");
      return;
    }
    const Swizzle &sw = found->second.swizzle;
    // What feasible asks of sweeps, once more of what may have been edited since.
    Axis rows = Axis(int(tile::columnsOf(config.getRows())));
    Layout l = layoutOf(tileType(right));
    int units = int(tileType(right).getD() / 8);
    if (!isHalf(element) || sw.chunks % 2 || sw.chunks > 32 || columns.size() * tile::blockSize > 256 || !(l == fragment::column(rows, units) || l == fragment::columnToStore(rows, units))) {
      status = op.emitOpError() << "does not fit the instructions of groups, which take 16-bit operands of a multiple of 16 channels, laid out for them (tile-assign-layouts), and 256 "
                                   "columns at once; use matrix = \"mma\" in the configuration, before layouts are assigned";
      return;
    }
    int64_t leading = scores ? 1 : sw.atomBytes() >> 4;
    Value start = narrow(LLVM::PtrToIntOp::create(b, loc, i64(), found->second.address));
    Value d = orBits(shr(andBits(start, 0x3ffff), 4), c32(leading << 16));
    Value block = found->second.first ? sub(front.number, found->second.first) : front.number;
    d = add(d, mul(block, tile::blockSize * sw.rowBytes() >> 4));
    if (scores) // all columns at once, 16 channels a step
      for (int64_t u = 0; u < sw.chunks; u += 2)
        factors.push_back({SmallVector<Value>(ArrayRef(front.tiles[left]).slice(2 * u, 4)), d, u / sw.width * sw.atomBytes() + u % sw.width * 16, sw});
    else // all channels at once, 16 columns a step
      for (auto [i, c] : llvm::enumerate(columns))
        factors.push_back({SmallVector<Value>(c.tiles[left]), d, int64_t(i) * tile::blockSize * sw.rowBytes(), sw});
  }
  Registers acc;
  if (scores) {
    if (op.getAcc())
      for (Column &c : columns)
        acc.append(c.tiles[op.getAcc()]);
    Registers all = groupProduct(element, tile::blockSize * columns.size(), factors, acc, false);
    for (auto [i, c] : llvm::enumerate(columns))
      c.tiles[op.getOut()] = Registers(ArrayRef(all).slice(8 * i, 8));
    return;
  }
  // The columns' accumulators are one. Channels that pad it are not multiplied.
  int64_t channels = factors.front().swizzle.chunks * 8;
  acc = front.tiles[op.getAcc()];
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
