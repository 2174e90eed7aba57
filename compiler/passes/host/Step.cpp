// One step of a loop over columns: a few columns against 16 rows, in registers.
//
// A pair value is one vector for each column of the step. Rows lie across lanes, a column's numbers are loaded from its table and broadcast, which the
// processor does in the operand of a multiply-add. So scores and sums over columns need no shuffle at all; sums over rows (contractRows) broadcast scores instead.
#include "passes/host/KernelLowering.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace flarec;
using namespace flarec::host;

Value KernelLowering::betweenAt(Value v, int64_t c) {
  Value base = sharedScratch(current->between[v]);
  return offset(offset(base, mul(sub(firstColumn, phaseFirst), vectorBytes)), c * vectorBytes);
}

void KernelLowering::step(Body &body, Phase &p, Value first, SmallVector<Registers> &state) {
  DenseMap<Value, Registers> saved = tiles;
  width = p.step;
  firstColumn = first;
  current = &body;
  tableAt.clear();
  numbers[body.block->getArgument(1)] = first;
  if (!isSafe(body.op))
    prefetchAhead(body, p);
  for (unsigned i : p.accumulators)
    if (!state[i].empty())
      tiles[body.accumulator(i)] = state[i];
  for (auto &[v, at] : body.between)
    if (!llvm::is_contained(p.ops, v.getDefiningOp())) {
      bool wanted = llvm::any_of(p.ops, [&, v = v](Operation *o) {
        auto c = dyn_cast<tile::ContractOp>(o);
        return llvm::is_contained(o->getOperands(), v) && !(c && (c.getOver() == rows || body.byRows.contains(o)));
      });
      if (!wanted)
        continue;
      Registers x;
      for (int64_t c = 0; c < width; ++c)
        x.push_back(loadVector(betweenAt(v, c)));
      tiles[v] = x;
    }
  for (Operation *o : p.ops) {
    if (failed(status))
      break;
    lowerPair(o);
    for (Value v : o->getResults())
      if (body.between.count(v))
        for (int64_t c = 0; c < width; ++c)
          storeVector(tiles[v][c], betweenAt(v, c));
  }
  for (unsigned i : p.accumulators)
    if (!state[i].empty())
      state[i] = registers(body.block->getTerminator()->getOperand(i));
  tiles = saved;
}

/// Brings a few rows of the next turn's tokens to the second-level cache: this step's share of this phase's tensors, since each waits in one of 16 line fill buffers until
/// it has come, and what finds none free stalls. Rows of a head lie far apart, so the hardware foresees nothing.
void KernelLowering::prefetchAhead(Body &body, const Phase &p) {
  constexpr int64_t line = 64;
  const int64_t count = config.getTile(), steps = body.rowBlocks * body.columnCount;
  Value done = rowBlock ? add(mul(rowBlock, body.columnCount), firstColumn) : firstColumn;
  Value row = div(mul(done, count), c64(steps));
  for (auto [i, tensor] : llvm::enumerate(ahead)) {
    auto &[r, written] = tensor;
    if (i % p.of != p.number)
      continue;
    Value at = offset(r.base, mul(row, r.stride));
    for (int64_t j = 0, few = (width * count + steps - 1) / steps; j < few; ++j) {
      at = j ? offset(at, r.stride) : at;
      for (int64_t d = 0, bytes = r.channels * bytesOf(r.element); d < bytes; d += line)
        LLVM::Prefetch::create(b, loc, offset(at, d), written, 2, 1);
    }
  }
}

/// The same pointer, as if it came from elsewhere. A multiply-add whose operand is at base + index is split in two by the processor's front end (Intel 64 and IA-32
/// Architectures Optimization Reference Manual, "Micro-fusion"), so there is to be no index.
Value KernelLowering::opaque(Value p) {
  return LLVM::InlineAsmOp::create(b, loc, p.getType(), p, "", "=r,0", false, false, LLVM::tailcallkind::TailCallKind::None,
                                   LLVM::AsmDialectAttr::get(b.getContext(), LLVM::AsmDialect::AD_ATT), ArrayAttr())
      .getResult(0);
}

/// A table's row of the step's first column.
Value KernelLowering::tableRow(Value base, int64_t rowBytes) {
  Value &at = tableAt[base];
  if (!at)
    at = opaque(offset(base, mul(firstColumn, rowBytes)));
  return at;
}

/// Number d of column c of the step, in all lanes.
Value KernelLowering::column(Value v, int64_t c, int64_t d) {
  if (auto k = v.getDefiningOp<tile::ConstantOp>())
    return all(k.getValue().convertToDouble());
  if (auto it = columns.find(v); it != columns.end()) {
    const Columns &t = it->second;
    return splat(load(f32(), offset(tableRow(t.base, t.rowBytes), c * t.rowBytes + t.offset + 4 * d), 4));
  }
  Operation *op = v.getDefiningOp();
  if (auto reduce = dyn_cast_or_null<tile::ReduceOp>(op)) {
    Value sum;
    for (int64_t i = 0; i < tileType(reduce.getX()).getD(); ++i) {
      Value x = column(reduce.getX(), c, i);
      sum = !sum ? x : reduce.getKind() == "max" ? maxNaN(sum, x) : fadd(sum, x);
    }
    return sum;
  }
  Value r = op ? apply(op, [&](Value o) { return column(o, c, tileType(o).getD() ? d : 0); }) : Value();
  if (!r) {
    fail(op ? op : kernel, "column operand has no lowering");
    return all(0);
  }
  return r;
}

Registers KernelLowering::masked(tile::MaskOp op, const Registers &x, Value fill) {
  Value left = sub(number(op.getLimit()), number(op.getFirst()));
  Value rowValid = op.getOver() == rows ? below(left) : Value();
  Registers r;
  for (auto [c, v] : llvm::enumerate(x))
    r.push_back(select(rowValid ? rowValid : splat(lt(c64(c), left)), v, fill));
  return r;
}

void KernelLowering::lowerPair(Operation *op) {
  if (isElementwise(op)) {
    TileType t = tileType(op->getResult(0));
    if (!hasColumns(t))
      return lower(op);
    Registers r;
    if (auto power = dyn_cast<tile::Exp2Op>(op)) {
      // What a mask has made -inf is not bounded: 0 afterwards instead.
      bool bounded = isFast(current->op);
      auto mask = power.getA().getDefiningOp<tile::MaskOp>();
      for (Value x : registers(bounded && mask ? mask.getX() : power.getA()))
        r.push_back(exp2OfScore(x, bounded));
      if (bounded && mask)
        r = masked(mask, r, all(0));
      tiles[op->getResult(0)] = r;
      return;
    }
    for (int64_t c = 0; c < width; ++c)
      r.push_back(apply(op, [&](Value o) {
        TileType x = tileType(o);
        if (hasRows(x) && hasColumns(x))
          return registers(o)[c];
        return hasRows(x) ? registers(o)[0] : column(o, c, 0);
      }));
    tiles[op->getResult(0)] = r;
    return;
  }
  TypeSwitch<Operation *>(op)
      .Case([&](tile::ContractOp o) {
        if (o.getOver() == Index::d)
          scores(o);
        else if (o.getOver() == cols)
          current->byRows.contains(o) ? contractColumnsByRows(o) : contractColumns(o);
        else
          contractRows(o);
      })
      .Case([&](tile::SumOp o) {
        Registers x = registers(o.getX());
        if (o.getOver() != cols)
          return fail(o, "sums over rows");
        for (size_t n = x.size(); n > 1; n /= 2)
          for (size_t i = 0; i < n / 2; ++i)
            x[i] = fadd(x[i], x[i + n / 2]);
        tiles[o.getOut()] = {fadd(registers(o.getAcc())[0], x[0])};
      })
      .Case([&](tile::ReduceOp o) {
        if (o.getOver() != cols)
          return lower(o);
        Registers x = registers(o.getX());
        Value r;
        for (Value v : x)
          r = !r ? v : o.getKind() == "max" ? maxNaN(r, v) : fadd(r, v);
        tiles[o.getOut()] = {r};
      })
      .Case([&](tile::MaskOp o) { tiles[o.getOut()] = masked(o, registers(o.getX()), all(o.getFill().convertToDouble())); })
      .Default([&](Operation *o) { lower(o); });
}

//===-- Contractions -------------------------------------------------------//

static bool isPair(Value v) {
  TileType t = tileType(v);
  return t && t.getN() && t.getM();
}

/// A pair value that is a sum of vectors.
static bool sumsVectors(Value v) {
  Operation *op = v.getDefiningOp();
  return op && isPair(v) && (isa<tile::BroadcastOp>(op) || (isa<tile::AddOp, tile::SubOp>(op) && sumsVectors(op->getOperand(0)) && !isPair(op->getOperand(1))));
}

/// Such a sum that only products of pairs are added to. It is made where these start.
bool KernelLowering::startsChains(Operation *op) {
  return op->getNumResults() == 1 && sumsVectors(op->getResult(0)) && llvm::all_of(op->getUsers(), [&](Operation *u) {
           auto dot = dyn_cast<tile::ContractOp>(u);
           return dot ? dot.getOver() == Index::d && dot.getAcc() == op->getResult(0) : startsChains(u);
         });
}

/// The vectors of such a sum, and whether each is subtracted.
void KernelLowering::startsOf(Value v, bool negative, SmallVectorImpl<std::pair<Value, bool>> &starts) {
  Operation *op = v.getDefiningOp();
  if (auto o = dyn_cast_or_null<tile::BroadcastOp>(op))
    return startsOf(o.getA(), negative, starts);
  if (!isPair(v)) {
    starts.push_back({v, negative});
    return;
  }
  startsOf(op->getOperand(0), negative, starts);
  startsOf(op->getOperand(1), isa<tile::SubOp>(op) ? !negative : negative, starts);
}

/// How many chains of multiply-adds a column's product is. Rounding errors grow with the length of one: of 16 and 32 channels two have 0.83 and 0.78 of its error.
int64_t KernelLowering::chainsOf(tile::ContractOp op) {
  int64_t addends = op.getA().size(), channels = tileType(op.getA().front()).getD();
  return channels < 16 ? addends : channels < 64 ? std::max<int64_t>(2, addends) : std::max<int64_t>(4, addends);
}

/// acc + Σ_d row·column: chains for each column, the first of which start from one of acc's vectors each.
void KernelLowering::scores(tile::ContractOp op) {
  SmallVector<Registers> chains(chainsOf(op), Registers(width));
  if (Value acc = op.getAcc(); acc && acc.getDefiningOp() && startsChains(acc.getDefiningOp())) {
    SmallVector<std::pair<Value, bool>> starts;
    startsOf(acc, false, starts);
    for (auto [i, start] : llvm::enumerate(starts)) {
      auto [v, negative] = start;
      for (int64_t c = 0; c < width; ++c) {
        Value x = hasRows(tileType(v)) ? registers(v)[0] : column(v, c, 0), &to = chains[i % chains.size()][c];
        if (!to)
          to = negative ? fneg(x) : x;
        else
          to = negative ? fsub(to, x) : fadd(to, x);
      }
    }
  } else if (acc) {
    chains[0] = registers(acc);
  }
  for (auto [i, av, bv] : llvm::enumerate(op.getA(), op.getB())) {
    Value row = av, col = bv;
    if (!hasRows(tileType(row)))
      std::swap(row, col);
    Registers r = registers(row);
    int64_t share = chains.size() / op.getA().size();
    for (int64_t d = 0; d < int64_t(r.size()); ++d)
      for (int64_t c = 0; c < width; ++c) {
        Value &chain = chains[i * share + d % share][c];
        chain = fma(column(col, c, d), r[d], chain);
      }
  }
  Registers sum = chains[0];
  for (const Registers &more : ArrayRef(chains).drop_front())
    for (int64_t c = 0; c < width; ++c)
      sum[c] = fadd(sum[c], more[c]);
  tiles[op.getOut()] = sum;
}

/// acc + Σ_c p[c]·column[c]; the step's sum first, unless accumulators stay in registers: where a step ends in a rescaling, the next waits no longer than for an addition.
void KernelLowering::contractColumns(tile::ContractOp op) {
  Registers p = registers(op.getA().front()), acc = registers(op.getAcc());
  const int64_t chains = std::min<int64_t>(4, acc.size()); // at once: registers are scarce here
  for (int64_t first = 0; first < int64_t(acc.size()); first += chains) {
    Registers sum(chains);
    if (current->inRegisters)
      sum.assign(acc.begin() + first, acc.begin() + first + chains);
    for (int64_t c = 0; c < width; ++c)
      for (int64_t d = 0; d < chains; ++d)
        sum[d] = fma(column(op.getB().front(), c, first + d), p[c], sum[d]);
    for (int64_t d = 0; d < chains; ++d)
      acc[first + d] = current->inRegisters ? sum[d] : fadd(acc[first + d], sum[d]);
  }
  tiles[op.getOut()] = acc;
}

/// The same for 16 channels, with channels across lanes: a row's pair value, broadcast from memory, times the column's channels. So sums are rows as memory has them.
void KernelLowering::contractColumnsByRows(tile::ContractOp op) {
  Value p = op.getA().front();
  const Columns &t = columns[op.getB().front()];
  Registers acc = registers(op.getAcc());
  for (int64_t c = 0; c < width; ++c) {
    Value by = load(vec(), offset(tableRow(t.base, t.rowBytes), c * t.rowBytes + t.offset), 4);
    for (int64_t r = 0; r < lanes; ++r)
      acc[r] = fma(splat(load(f32(), offset(betweenAt(p, c), 4 * r), 4)), by, acc[r]);
  }
  tiles[op.getOut()] = acc;
}

/// Rows w[r][d] regrouped for a contraction over rows: vector j holds w[P·j + i][d] in lane P·d + i, with P = 16/d rows in a vector
/// (d ≤ 16), or 16 channels of row j in each of d/16 vectors.
Registers KernelLowering::groupRows(const Registers &w) {
  Registers r;
  for (size_t u = 0; u < w.size(); u += lanes) {
    Registers some = Registers(ArrayRef<Value>(w).slice(u, std::min<size_t>(lanes, w.size())));
    auto it = rowForm.find(some[0]);
    r.append(it != rowForm.end() && it->second.size() == lanes ? it->second : transposeGroups(some));
  }
  return r;
}

/// state[c] += Σ_r p[r,c] w[r]: P rows' scores broadcast to all channels against P rows of w.
void KernelLowering::contractRows(tile::ContractOp op) {
  Value p = op.getA().front();
  const Registers &w = current->groups[op.getOut()];
  int64_t d = tileType(op.getOut()).getD(), vectors = std::max<int64_t>(1, d / lanes), group = std::max<int64_t>(1, lanes / d);
  auto state = parked.lookup(op.getAcc());
  if (!state.base || !current->between.count(p))
    return fail(op, "contracts over rows into what is not in memory");
  Value base = offset(state.base, mul(firstColumn, vectors * vectorBytes));
  Registers acc;
  for (int64_t i = 0; i < width * vectors; ++i)
    acc.push_back(loadVector(offset(base, i * vectorBytes)));
  SmallVector<int32_t> repeat;
  for (int64_t i = 0; i < lanes; ++i)
    repeat.push_back(i % group);
  for (int64_t j = 0; j < lanes / group; ++j)
    for (int64_t c = 0; c < width; ++c) {
      Value at = offset(betweenAt(p, c), j * group * 4);
      Value few = group == 1 ? splat(load(f32(), at, 4)) : Value();
      if (!few) {
        few = load(vec(group), at, 4 * group);
        few = shuffle(few, few, repeat);
      }
      for (int64_t u = 0; u < vectors; ++u)
        acc[c * vectors + u] = fma(few, w[u * lanes + j], acc[c * vectors + u]);
    }
  for (auto [i, v] : llvm::enumerate(acc))
    storeVector(v, offset(base, i * vectorBytes));
}
