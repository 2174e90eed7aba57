// tile-to-nvvm: contractions as matrix instructions. 16-bit operands go to mma.m16n8k16 and m16n8k8; f32 operands to three products
// of TF32 parts, or to one where TF32 is precise enough. A tile's fragments (compiler/layout) are the instructions' own, so no data moves between them.
#include "passes/nvvm/KernelLowering.h"

using namespace mlir;

namespace flarec::nvvm {

Registers KernelLowering::structElements(Value s, int n) {
  Registers r;
  for (int i = 0; i < n; ++i)
    r.push_back(element(s, i));
  return r;
}

Registers KernelLowering::mma16(Type half, ArrayRef<Value> a, ArrayRef<Value> bs, ArrayRef<Value> acc) {
  SmallVector<Value> args;
  std::string name = a.size() == 4 ? "llvm.nvvm.mma.m16n8k16.row.col." : "llvm.nvvm.mma.m16n8k8.row.col.";
  if (half.isBF16()) {
    name += "bf16";
    llvm::append_range(args, a);
    llvm::append_range(args, bs);
  } else {
    name += "f32.f32";
    for (Value v : a)
      args.push_back(bitcast(pair16(half), v));
    for (Value v : bs)
      args.push_back(bitcast(pair16(half), v));
  }
  llvm::append_range(args, acc);
  return structElements(intrinsic(name, f32x4(), args), 4);
}

// cvt.rna.tf32 is four instructions, three of them at half rate. Here it is an addition to the bits and a mask, and not even that for what is left: a matrix instruction
// ignores an operand's last 13 bits, and of the 12 bits that are left after rounding it drops one. A NaN whose bits the addition turns to 0 comes back by the rest.
std::pair<Value, Value> KernelLowering::splitTf32(Value x, bool here) {
  auto &known = tf32[x];
  if (!known.first) {
    Value high = add(bitcast(i32(), x), 0x1000);
    if (singleTf32)
      return known = {high, {}};
    if (here) // as far as LLVM knows it does something, so that it stays in its loop
      high = assembly(i32(), "and.b32 $0, $1, -8192;", "=r,r", high, /*effects=*/true);
    else
      high = andBits(high, -8192);
    known = {high, bitcast(i32(), Value(arith::SubFOp::create(b, loc, x, bitcast(f32(), high))))};
  }
  return known;
}

Registers KernelLowering::mmaTf32(ArrayRef<Value> a, ArrayRef<Value> bs, ArrayRef<Value> acc, bool here) {
  SmallVector<Value> ah, al, bh, bl;
  for (Value v : a) {
    auto [h, l] = splitTf32(v, here);
    ah.push_back(h);
    al.push_back(l);
  }
  for (Value v : bs) {
    auto [h, l] = splitTf32(v);
    bh.push_back(h);
    bl.push_back(l);
  }
  Registers r(acc.begin(), acc.end());
  // Small terms first, and whichever side is the tokens' in the same order: so encode and decode compute the same bits.
  bool tokensFirst = config.getRows() == Index::n;
  auto first = tokensFirst ? std::pair(&al, &bh) : std::pair(&ah, &bl), second = tokensFirst ? std::pair(&ah, &bl) : std::pair(&al, &bh);
  SmallVector<std::pair<SmallVector<Value> *, SmallVector<Value> *>> products;
  if (!singleTf32)
    products = {first, second};
  products.push_back({&ah, &bh});
  for (auto [x, y] : products) {
    SmallVector<Value> args(*x);
    llvm::append_range(args, *y);
    llvm::append_range(args, r);
    r = structElements(intrinsic("llvm.nvvm.mma.m16n8k8.row.col.tf32", f32x4(), args), 4);
  }
  return r;
}

void KernelLowering::emit(tile::ContractOp op) {
  TileType out = tileType(op.getOut());
  if (hasGroups()) {
    status = op.emitOpError("is within a branch, and groups of workers multiply together; use matrix = \"mma\"");
    return;
  }
  if (op.getOver() == Index::d)
    return scores(op);
  if (layoutOf(tileType(op.getB().front())).lanes[0].axis == Axis::d) {
    status = op.emitOpError("has a right operand laid out for groups of workers, which this configuration does not have; change matrix before layouts are assigned");
    return;
  }
  Index rows = config.getRows();
  bool transposed = op.getOver() == rows;
  TileType pairType = tileType(op.getA().front());
  Registers p = tiles[op.getA().front()];
  const Registers w = tiles[op.getB().front()];
  Registers acc = tiles[op.getAcc()];
  int units = int(out.getD() / 8);
  if (isHalf(pairType.getElement())) {
    if (transposed) {
      // The 8 × 8 blocks transposed one by one, the off-diagonal two swapped.
      Registers t;
      for (int i : {0, 2, 1, 3})
        t.push_back(assembly(i32(), "movmatrix.sync.aligned.m8n8.trans.b16 $0, $1;", "=r,r", p[i]));
      p = t;
    }
    for (int u = 0; u < units; ++u) {
      if (isZero(w[2 * u]) && isZero(w[2 * u + 1]))
        continue;
      Registers r = mma16(pairType.getElement(), p, {w[2 * u], w[2 * u + 1]}, ArrayRef(acc).slice(4 * u, 4));
      std::copy(r.begin(), r.end(), acc.begin() + 4 * u);
    }
  } else {
    if (transposed) {
      status = op.emitOpError("cannot contract f32 pairs over rows: there is no transposition of 32-bit fragments");
      return;
    }
    // The tensor cores cut off what does not fit an accumulator instead of rounding it, which adds up over a long
    // contraction. So a block's sum starts at zero and is added by an ordinary, rounding addition.
    for (int u = 0; u < units; ++u) {
      if (llvm::all_of(ArrayRef(w).slice(4 * u, 4), isZero))
        continue;
      Registers sum(4, cf(0));
      for (int half = 0; half < 2; ++half) { // columns 0-7 and 8-15
        auto at = [&](int c1, int r8) { return p[c1 + 2 * r8 + 4 * half]; };
        sum = mmaTf32({at(0, 0), at(0, 1), at(1, 0), at(1, 1)}, {w[2 * half + 4 * u], w[1 + 2 * half + 4 * u]}, sum);
      }
      for (int i = 0; i < 4; ++i)
        acc[4 * u + i] = fadd(acc[4 * u + i], sum[i]);
    }
  }
  tiles[op.getOut()] = acc;
}

void KernelLowering::scores(tile::ContractOp op) {
  Type element = tileType(op.getA().front()).getElement();
  int units = int(tileType(op.getA().front()).getD() / 8);
  Value zero = cf(0);
  Registers result(8, zero); // columns 0-7 and 8-15, four each
  if (op.getAcc())
    result = tiles[op.getAcc()];
  if (!isHalf(element)) {
    // Unit by unit, so that of few operands both TF32 parts are there at a time. Rows of many channels are split again for each block: their parts, kept
    // for all blocks, would take twice the registers.
    for (auto [av, bv] : llvm::zip(op.getA(), op.getB())) {
      const Registers a = tiles[av], w = tiles[bv];
      for (int u = 0; u < units; ++u)
        for (int half = 0; half < 2; ++half) {
          if (isZero(w[2 * u + 2 * units * half]) || isZero(a[4 * u]))
            continue;
          auto at = [&](int d1, int r8) { return a[d1 + 2 * r8 + 4 * u]; };
          SmallVector<Value> left{at(0, 0), at(0, 1), at(1, 0), at(1, 1)}, right{w[2 * u + 2 * units * half], w[1 + 2 * u + 2 * units * half]};
          MutableArrayRef<Value> acc = MutableArrayRef(result).slice(4 * half, 4);
          bool here = units > 4;
          if (u == 0) {
            llvm::copy(mmaTf32(left, right, acc, here), acc.begin());
          } else { // rounding additions between units, as for weights
            Registers sum = mmaTf32(left, right, Registers(4, zero), here);
            for (int i = 0; i < 4; ++i)
              acc[i] = fadd(acc[i], sum[i]);
          }
        }
    }
    tiles[op.getOut()] = result;
    return;
  }
  for (int half = 0; half < 2; ++half) { // columns 0-7 and 8-15
    Registers acc(result.begin() + 4 * half, result.begin() + 4 * half + 4);
    SmallVector<std::pair<SmallVector<Value>, Value>> slots; // 16 bit: a unit's A registers and B register
    for (auto [av, bv] : llvm::zip(op.getA(), op.getB())) {
      const Registers a = tiles[av], w = tiles[bv];
      for (int u = 0; u < units; ++u) {
        if (!isZero(w[u + units * half]) && !isZero(a[2 * u]))
          slots.push_back({{a[2 * u], a[2 * u + 1]}, w[u + units * half]});
      }
    }
    for (size_t i = 0; i < slots.size(); i += 2) {
      if (i + 1 < slots.size()) {
        auto &x = slots[i], &y = slots[i + 1];
        acc = mma16(element, {x.first[0], x.first[1], y.first[0], y.first[1]}, {x.second, y.second}, acc);
      } else {
        acc = mma16(element, slots[i].first, {slots[i].second}, acc);
      }
    }
    std::copy(acc.begin(), acc.end(), result.begin() + 4 * half);
  }
  tiles[op.getOut()] = result;
}

} // namespace flarec::nvvm
