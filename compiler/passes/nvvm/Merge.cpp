// tile-to-nvvm: the splits' partial results become one. A block's workers take every workers-th split each, then the workers' results
// are combined in their order through shared memory: the same bits every time.
#include "passes/nvvm/KernelLowering.h"

using namespace mlir;

namespace flarec::nvvm {

Tensor KernelLowering::partialAt(Value tensor, Value s, Value batchIndex) {
  Tensor t = tensors[tensor];
  Value stride = mul(heads, t.rows() * std::max<int64_t>(1, t.type.getChannels()));
  Value elements = add(mul(s, stride), mul(batchIndex, t.strideB));
  t.pointer = offset(t.pointer, mul(elements, 4));
  return t;
}

Registers KernelLowering::loadPartial(const Tensor &t, TileType type, Value row, int64_t rows, Value first) {
  auto address = [&](Value r) { return offset(t.pointer, mul(add(mul(head, t.strideH), mul(first ? add(r, first) : r, t.strideRow)), 4)); };
  int64_t d = t.type.getChannels();
  if (d == 0 || d % 4) {
    Tensor limited = t;
    limited.type = FlareTensorType::get(b.getContext(), false, rows, d, t.type.getElement());
    return loadRows(limited, type, row, address);
  }
  // Four channels, 16 bytes, at once; a latent's other lanes read those beside them.
  Layout l = layoutOf(type);
  Value index = add(row, widen(laneCoordinate(l, Axis::m))), p = address(min(index, c64(rows - 1))), valid = lt(index, c64(rows)), zero = cf(0);
  Value mine = laneCoordinate(l, Axis::d);
  bool padded = type.getD() > d;
  Registers r;
  for (int64_t i = 0; i < l.registerCount(); i += 4) {
    Value channel = add(mine, l.element(int(i), 0)[Axis::d]), there = padded ? both(valid, lt(channel, c32(d))) : valid;
    for (Value x : loadVector(f32(), 4, offset(p, widen(mul(padded ? min(channel, c32(d - 4)) : channel, 4)))))
      r.push_back(select(there, x, zero));
  }
  return r;
}

Registers KernelLowering::combined(const Registers &mine, function_ref<Registers(const Registers &, const Registers &)> combine) {
  int64_t n = mine.size();
  sharedBytes = std::max(sharedBytes, mergeWorkers(kernel) * n * 128);
  barrier();
  Value base = offset(shared, widen(mul(add(mul(worker, n * 32), lane), 4)));
  for (int64_t i = 0; i < n; ++i)
    store(mine[i], offset(base, i * 128), 4);
  barrier();
  auto of = [&](Value w) {
    Value from = offset(shared, widen(mul(add(mul(w, n * 32), lane), 4)));
    Registers r;
    for (int64_t i = 0; i < n; ++i)
      r.push_back(load(f32(), offset(from, i * 128), 4));
    return r;
  };
  auto loop = scf::ForOp::create(b, loc, c32(1), c32(mergeWorkers(kernel)), c32(1), of(c32(0)));
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(loop.getBody());
  scf::YieldOp::create(b, loc, combine(Registers(loop.getRegionIterArgs()), of(loop.getInductionVar())));
  return Registers(loop.getResults());
}

void KernelLowering::emit(tile::MergeOp op) {
  TileType outType = tileType(op.getResult()), sumType = tileType(op.getLse());
  Value at = number(op.getAt());
  int64_t n = layoutOf(outType).registerCount();
  Registers init(n + 1, cf(0));
  init.push_back(cf(-3.0e38));
  auto loop = scf::ForOp::create(b, loc, widen(worker), splits, c64(mergeWorkers(kernel)), init);
  auto merge = [&](const Registers &acc, const Registers &x) {
    // (o, L, r) ⊕ (o', L', r'): the larger reference wins.
    Value r = maxNaN(acc[n + 1], x[n + 1]);
    auto power = [&](Value old) {
      Value down = fsub(old, r);
      return exp2(op.getNatural() ? fmul(down, cf(log2e)) : down);
    };
    Value f = power(acc[n + 1]), g = power(x[n + 1]);
    Registers out;
    for (int64_t i = 0; i <= n; ++i)
      out.push_back(fadd(fmul(acc[i], f), fmul(x[i], g)));
    out.push_back(r);
    return out;
  };
  {
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(loop.getBody());
    Value s = loop.getInductionVar();
    Registers x;
    for (auto [partial, type] : {std::pair(op.getOut(), outType), std::pair(op.getSum(), sumType), std::pair(op.getReference(), sumType)}) {
      Tensor t = partialAt(partial, s, batch);
      x.append(loadPartial(t, type, at, t.rows()));
    }
    scf::YieldOp::create(b, loc, merge(Registers(loop.getRegionIterArgs()), x));
  }
  Registers r = combined(Registers(loop.getResults()), merge);
  Value sum = r[n], zero = cf(0);
  // No tokens: out = 0 and log2 0 = -inf. A NaN sum is not zero.
  Value none = arith::CmpFOp::create(b, loc, arith::CmpFPredicate::OEQ, sum, zero);
  Value inverse = arith::DivFOp::create(b, loc, cf(1), sum);
  Registers out;
  for (int64_t i = 0; i < n; ++i)
    out.push_back(select(none, zero, fmul(r[i], inverse)));
  tiles[op.getResult()] = out;
  Value logarithm = log2(sum);
  if (op.getNatural())
    logarithm = fmul(logarithm, cf(1 / log2e));
  tiles[op.getLse()] = {arith::AddFOp::create(b, loc, logarithm, r[n + 1])};
}

void KernelLowering::emit(tile::MergeSumOp op) {
  TileType type = tileType(op.getResult());
  Value at = number(op.getAt());
  int64_t n = layoutOf(type).registerCount();
  Tensor t = tensors[op.getPartial()];
  int64_t copies = copiesOf(op.getPartial());
  int64_t copyRows = t.rows() / copies;
  // Shared latents: the batches of one latent batch follow each other.
  Value each = c64(1), firstBatch = batch;
  Value real = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::slt, batch, latentBatches);
  if (op.getReduced()) {
    each = div(batches, latentBatches);
    firstBatch = mul(min(batch, add(latentBatches, -1)), each);
    headIsReal = both(headIsReal, real);
  }
  Value total = mul(mul(splits, copies), each);
  if (op.getReduced()) // blocks of other batches have nothing to do
    total = select(real, total, c64(0));
  auto loop = scf::ForOp::create(b, loc, widen(worker), total, c64(mergeWorkers(kernel)), Registers(n, cf(0)));
  {
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(loop.getBody());
    Value i = loop.getInductionVar();
    Value copy = rem(i, copies), rest = div(i, copies);
    Value s = rem(rest, splits), bb = add(firstBatch, div(rest, splits));
    // Rows beyond the last latent of this copy are never used: guard by the copy's own rows.
    Registers x = loadPartial(partialAt(op.getPartial(), s, bb), type, at, copyRows, mul(copy, copyRows));
    Registers next;
    for (int64_t j = 0; j < n; ++j)
      next.push_back(fadd(loop.getRegionIterArg(j), x[j]));
    scf::YieldOp::create(b, loc, next);
  }
  tiles[op.getResult()] = combined(Registers(loop.getResults()), [&](const Registers &sum, const Registers &x) {
    Registers r;
    for (auto [u, v] : llvm::zip(sum, x))
      r.push_back(fadd(u, v));
    return r;
  });
}

int64_t KernelLowering::copiesOf(Value tensor) {
  auto dict = cast<DictionaryAttr>(program.getTensors()[cast<BlockArgument>(tensor).getArgNumber()]);
  auto a = dict.getAs<IntegerAttr>("copies");
  return a ? a.getInt() : 1;
}

} // namespace flarec::nvvm
