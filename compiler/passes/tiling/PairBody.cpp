// Pairs as sums of products and vectors, and the reductions that consume them, block by block.
#include "passes/tiling/PairBody.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/Matchers.h"

using namespace flarec;
using namespace flarec::tiling;

PairBody::PairBody(SweepBuilder &s, Region &region, bool safe, OpBuilder &b)
    : s(s), region(region), safe(safe), b(b), body(new Block), inner(b.getContext()) {
  Type idx = b.getIndexType();
  body->addArgument(idx, s.loc); // first row of the block
  body->addArgument(idx, s.loc); // first column
  inner.setInsertionPointToStart(body);
}

Value PairBody::addIn(Value v, TileType slice) {
  Value &known = sliceOf[v];
  if (!known) {
    known = body->insertArgument(2 + numIns++, slice, s.loc);
    ins.push_back(v);
  }
  return known;
}

TileType PairBody::sliced(TileType t) {
  if (t.getN())
    t = tile::resize(t, Index::n, tile::blockSize);
  if (t.getM())
    t = tile::resize(t, Index::m, tile::blockSize);
  return t;
}

Value PairBody::tokenLeaf(Value v) {
  Value t = s.storage.tensor.lookup(v);
  if (!t)
    return {};
  Value stage = s.stages.lookup(t);
  auto type = cast<tile::StageType>(stage.getType());
  if (s.rows == Index::n)
    return tile::ReadOp::create(b, s.loc, s.tileOf(s.rowCount(), 0, type.getD(), type.getElement()), stage, s.workerRow);
  // A slice a role: each has its own layout.
  Value arg = body->insertArgument(2 + numIns++, s.tileOf(tile::blockSize, 0, type.getD(), type.getElement()), s.loc);
  ins.push_back(stage);
  return arg;
}

Value PairBody::slice(Value v, Use use) {
  if (Value known = formed.lookup({v, use.key()}))
    return known;
  Value r;
  if (isLatents(v)) {
    Value operand = s.latentOperand(v, use);
    auto stash = dyn_cast<tile::StashType>(operand.getType());
    r = addIn(operand, stash ? s.tileOf(0, tile::blockSize, stash.getD(), stash.getElement())
                             : sliced(cast<TileType>(operand.getType())));
  } else {
    Expressions &e = *tokens[int(use.role)];
    Value t = e.eval(v);
    if (use.form != Form::Round)
      t = e.widen(t);
    r = s.toForm(e.b, t, use.form);
    if (s.rows == Index::n)
      r = addIn(r, sliced(cast<TileType>(r.getType())));
  }
  return formed[{v, use.key()}] = r;
}

Value PairBody::weight(Value v, Index over, Form form) {
  return slice(v, {over == s.cols ? Role::ColumnWeight : Role::RowWeight, form});
}

void PairBody::collect(Value v, bool negative, Terms &t) {
  if (!isPair(v)) {
    t.vectors.push_back({v, negative});
  } else if (auto add = v.getDefiningOp<flare::AddOp>()) {
    collect(add.getA(), negative, t);
    collect(add.getB(), negative, t);
  } else if (auto sub = v.getDefiningOp<flare::SubOp>()) {
    collect(sub.getA(), negative, t);
    collect(sub.getB(), !negative, t);
  } else if (auto dot = v.getDefiningOp<flare::ContractOp>(); dot && dot.getOver() == Index::d && !negative) {
    t.products.push_back(dot);
  } else {
    t.others.push_back({v, negative});
  }
}

void PairBody::add(Value x, Value y, Products &products) {
  for (auto [f, g] : addendsOf(x, y, s.half)) {
    Value p = slice(x, {Role::Score, f}), q = slice(y, {Role::Score, g});
    bool xIsRow = isTokens(x) == (s.rows == Index::n);
    // One instruction has one element type: f16 and bf16 apart.
    auto &[as, bs] = products[cast<TileType>(p.getType()).getElement()];
    as.push_back(xIsRow ? p : q);
    bs.push_back(xIsRow ? q : p);
  }
}

Value PairBody::contracted(Products &products, Value acc) {
  for (auto &[type, operands] : products)
    acc = tile::ContractOp::create(inner, s.loc, pairType(s.f32()), operands.first, operands.second, acc, Index::d);
  return acc;
}

// (s·q)·k as s·(q·k): products of 16-bit numbers are exact, while s·q rounded to 16 bits is not nearly enough and in two such addends
// it takes twice the matrix work and, at 2^-17 of its size, still spoils scores in the thousands.
Value PairBody::scaledProduct(Value x, Value y) {
  SmallVector<Value> factors;
  for (Value *v : {&x, &y})
    if (auto scaled = scaledStored(*v, s.half)) {
      *v = scaled->stored;
      factors.push_back(scaled->factor);
    }
  Products products;
  add(x, y, products);
  Value r = contracted(products, {});
  for (Value f : factors)
    r = tile::ScaleOp::create(inner, s.loc, r.getType(), r, tokens[int(Role::Vector)]->scalar(f));
  return r;
}

/// log2(e)·v of natural scores v = Σ_d q·k, with the factor in q, where it costs nothing. On the host in fast bodies only: all of these that a function has use the
/// same q, so weights cancel between sweeps; a safe body takes differences of natural scores, which are exact where they matter.
Value PairBody::inBase2(Value v) {
  auto dot = v.getDefiningOp<flare::ContractOp>();
  if (safe || !s.host || !dot || dot.getOver() != Index::d || isLatents(dot.getA()) == isLatents(dot.getB()))
    return {};
  bool latentsFirst = isLatents(dot.getA());
  Value latents = slice(latentsFirst ? dot.getA() : dot.getB(), {Role::Score, Form::Base2});
  Value token = slice(latentsFirst ? dot.getB() : dot.getA(), {Role::Score, Form::Wide});
  bool tokenIsRow = s.rows == Index::n;
  return tile::ContractOp::create(inner, s.loc, pairType(s.f32()), tokenIsRow ? token : latents, tokenIsRow ? latents : token, Value(), Index::d);
}

Value PairBody::sumOf(Terms &t, bool exponent) {
  Value acc;
  bool lowered = !exponent || !s.headroom;
  auto addVectors = [&] {
    for (auto [v, negative] : t.vectors) {
      Value x = vector(v);
      if (negative && !lowered) { // 2^(x-a-h)
        Value one = tile::ConstantOp::create(inner, s.loc, cast<TileType>(x.getType()), inner.getF32FloatAttr(1));
        x = tile::AddOp::create(inner, s.loc, x.getType(), x, tile::ScaleOp::create(inner, s.loc, x.getType(), one, s.headroom));
        lowered = true;
      }
      if (negative && acc)
        acc = tile::SubOp::create(inner, s.loc, pairType(s.f32()), acc, x);
      else if (negative)
        acc = tile::BroadcastOp::create(inner, s.loc, pairType(s.f32()), tile::NegOp::create(inner, s.loc, x.getType(), x));
      else if (acc)
        acc = tile::AddOp::create(inner, s.loc, pairType(s.f32()), acc, x);
      else
        acc = tile::BroadcastOp::create(inner, s.loc, pairType(s.f32()), x);
    }
  };
  // As the product's initial accumulator vectors are free. In an exponent of f32 they come after: x must have the bits that it had
  // when its log-sum-exp was made, or the two don't cancel.
  bool free = s.half || (s.host && !exponent) || t.products.empty();
  if (free)
    addVectors();
  if (!t.products.empty()) {
    Products products;
    SmallVector<Value> scaled;
    for (flare::ContractOp dot : t.products) {
      Value x = dot.getA(), y = dot.getB();
      if (scaledStored(x, s.half) || scaledStored(y, s.half))
        scaled.push_back(scaledProduct(x, y));
      else
        add(x, y, products);
    }
    acc = contracted(products, acc);
    for (Value x : scaled)
      acc = acc ? Value(tile::AddOp::create(inner, s.loc, x.getType(), x, acc)) : x;
    if (!free)
      addVectors();
  }
  for (auto [v, negative] : t.others) {
    Value x = pair(v);
    if (!acc)
      acc = negative ? Value(tile::NegOp::create(inner, s.loc, x.getType(), x)) : x;
    else if (negative)
      acc = tile::SubOp::create(inner, s.loc, acc.getType(), acc, x);
    else
      acc = tile::AddOp::create(inner, s.loc, acc.getType(), acc, x);
  }
  return acc;
}

Value PairBody::pair(Value v) {
  if (Value known = pairs.lookup(v))
    return known;
  Type t = pairType(s.f32());
  Value r = TypeSwitch<Operation *, Value>(v.getDefiningOp())
      .Case<flare::AddOp, flare::SubOp, flare::ContractOp>([&](auto) {
        Terms terms;
        collect(v, false, terms);
        return sumOf(terms, llvm::any_of(v.getUsers(), [](Operation *u) { return isa<flare::Exp2Op, flare::ScaleOp, flare::AttendOp>(u); }));
      })
      .Case([&](flare::MulOp op) {
        auto operand = [&](Value x) { return isPair(x) ? pair(x) : vector(x); };
        Value x = operand(op.getA()), y = operand(op.getB());
        return tile::MulOp::create(inner, s.loc, t, x, y);
      })
      .Case([&](flare::NegOp op) { return tile::NegOp::create(inner, s.loc, t, pair(op.getA())); })
      .Case([&](flare::Exp2Op op) {
        auto natural = op.getA().getDefiningOp<flare::ScaleOp>();
        FloatAttr c;
        if (natural && matchPattern(natural.getFactor(), m_Constant(&c)) && std::abs(c.getValueAsDouble() - log2e) < 1e-6)
          if (Value x = inBase2(natural.getA()))
            return Value(tile::Exp2Op::create(inner, s.loc, t, x));
        // What pads the columns has x = 0. Unless what is subtracted is a padding too (0), 2^(0-a) may overflow.
        Value x = pair(op.getA());
        Value inside = op.getA();
        if (auto scale = inside.getDefiningOp<flare::ScaleOp>())
          inside = scale.getA();
        if (auto sub = inside.getDefiningOp<flare::SubOp>(); sub && !isPair(sub.getB()) && !isBounded()) {
          FlareTensorType a = typeOf(sub.getB());
          if (s.cols == Index::n ? !a.getTokens() : !a.getLatents())
            x = maskColumns(x, s.cols);
          // Rows past the last token matter where rows are summed.
          if (safe && s.rows == Index::n && !a.getTokens() && sumsRows())
            x = maskRows(x);
        }
        return Value(tile::Exp2Op::create(inner, s.loc, t, x, isBounded()));
      })
      .Case([&](flare::ScaleOp op) {
        return tile::ScaleOp::create(inner, s.loc, t, pair(op.getA()), tokens[int(Role::Vector)]->scalar(op.getFactor()));
      })
      .Default([](Operation *) { return Value(); });
  return pairs[v] = r;
}

Value PairBody::rounded(Value p) {
  return s.half && cast<TileType>(p.getType()).getElement() != s.half ? Value(tile::CastOp::create(inner, s.loc, pairType(s.half), p)) : p;
}

std::pair<Value, Value> PairBody::split(Value p) {
  auto &known = splits[p];
  if (!known.first) {
    auto op = tile::SplitOp::create(inner, s.loc, pairType(splitType(s.half)), pairType(splitType(s.half)), p);
    known = {op.getHi(), op.getLo()};
  }
  return known;
}

Value PairBody::sum(Value p, Value acc, Index over) {
  auto add = [&](Value x) { acc = tile::SumOp::create(inner, s.loc, acc.getType(), x, acc, over); };
  bool wide = cast<TileType>(p.getType()).getElement() == s.f32();
  if (s.config.getSums() != "mma") {
    add(wide ? p : Value(tile::CastOp::create(inner, s.loc, pairType(s.f32()), p)));
  } else if (wide && s.half.isF16()) {
    auto [hi, lo] = split(p);
    add(lo);
    add(hi);
  } else {
    add(wide ? rounded(p) : p);
  }
  return acc;
}

Value PairBody::contract(Operation *op, Value p, Value w, Value acc) {
  Index over = overOf(op);
  for (auto [f, g] : addendsOf(op, s.half)) {
    Value x = f == Form::High ? split(p).first : f == Form::Low ? split(p).second : f == Form::Round ? rounded(p) : p;
    acc = tile::ContractOp::create(inner, s.loc, acc.getType(), x, weight(w, over, g), acc, over);
  }
  return acc;
}

bool PairBody::sumsRows() {
  return llvm::any_of(region.front(), [&](Operation &op) { return reduces(&op) && overOf(&op) == s.rows; });
}

Value PairBody::maskRows(Value x) {
  Value first = arith::AddIOp::create(inner, s.loc, arith::AddIOp::create(inner, s.loc, body->getArgument(0), s.n0), s.workerRow);
  return tile::MaskOp::create(inner, s.loc, x.getType(), x, s.rows, first, Value(tile::TokensOp::create(inner, s.loc)),
                              APFloat::getInf(APFloat::IEEEsingle(), true));
}

Value PairBody::maskColumns(Value x, Index over, double fill) {
  if (over != s.cols)
    return x;
  Value first = body->getArgument(1), count;
  if (over == Index::n) {
    if (!safe)
      return x; // full tiles only
    first = arith::AddIOp::create(inner, s.loc, first, s.n0);
    count = tile::TokensOp::create(inner, s.loc);
  } else {
    if (s.latents % tile::blockSize == 0)
      return x;
    if (s.config.getColumnWorkers() > 1)
      first = arith::AddIOp::create(inner, s.loc, first, tile::WorkerColumnOp::create(inner, s.loc, blocksOf(s.latents) * tile::blockSize));
    count = arith::ConstantIndexOp::create(inner, s.loc, s.latents);
  }
  return tile::MaskOp::create(inner, s.loc, x.getType(), x, over, first, count, APFloat(float(fill)));
}

Value PairBody::ofPresent(Value x, double fill) {
  if (!s.mask)
    return x;
  Value &known = present[x];
  if (known)
    return known;
  Value mask = tokens[int(Role::Vector)]->eval(s.mask);
  if (s.rows == Index::n)
    mask = addIn(mask, sliced(cast<TileType>(mask.getType())));
  return known = tile::WhereOp::create(inner, s.loc, x.getType(), mask, x, APFloat(float(fill)));
}

Value PairBody::summand(Value p) {
  bool overTokens = llvm::any_of(p.getUsers(), [](Operation *u) { return reduces(u) && overOf(u) == Index::n; });
  return overTokens ? ofPresent(pair(p), 0) : pair(p);
}

// What is summed over tokens is 0 for one that is not there. Its rows are staged as zeros, so that no other factor is NaN.
void PairBody::step(Operation *op, SmallVector<Value> &state) {
  Location loc = s.loc;
  bool overTokens = overOf(op) == Index::n;
  if (auto attend = dyn_cast<flare::AttendOp>(op)) {
    Index over = attend.getOver();
    // Padding has scores of 0. Their exponentials are masked where the form of these does not take an infinity.
    Value base2 = attend.getBase2() ? Value() : inBase2(attend.getX());
    Value x = base2 ? base2 : pair(attend.getX());
    // In f16, whose weights must be near 1 to be there at all, references are raised after a weight has become infinite.
    bool afterwards = safe && hasWeightsF16(op, s.half);
    if (!isBounded() && !afterwards)
      x = maskColumns(x, over);
    Value out = state[0], total = state[1];
    double unit = attend.getBase2() ? 1 : log2e; // of scores, in those of base 2
    auto constant = [&](Type t, double v) -> Value { return tile::ConstantOp::create(inner, loc, cast<TileType>(t), inner.getF32FloatAttr(v)); };
    if (safe) {
      if (overTokens)
        x = ofPresent(x, -std::numeric_limits<double>::infinity());
      auto [lazy, above] = safeReference(op, s.half);
      auto raise = [&]() -> SmallVector<Value> {
        Value max = tile::ReduceOp::create(inner, loc, state[2].getType(), x, over, "max");
        if (above)
          max = tile::AddOp::create(inner, loc, max.getType(), max, constant(max.getType(), above / unit));
        Value reference = tile::MaxOp::create(inner, loc, state[2].getType(), state[2], max);
        Value old = tile::SubOp::create(inner, loc, reference.getType(), state[2], reference);
        if (!attend.getBase2())
          old = tile::ScaleOp::create(inner, loc, old.getType(), old, log2eConstant());
        Value shrink = tile::Exp2Op::create(inner, loc, reference.getType(), old);
        return {tile::MulOp::create(inner, loc, out.getType(), out, shrink), tile::MulOp::create(inner, loc, total.getType(), total, shrink), reference};
      };
      if (afterwards) {
        // Fused with the product that x is. Not so after a raise: x - max would keep what rounding x took away, which from |x| = 2^28 on overflows for ever.
        auto weights = [&](Value reference, bool fused) {
          Value negative = fused ? Value(tile::NegOp::create(inner, loc, reference.getType(), reference)) : Value();
          Value e = fused ? Value(tile::AddOp::create(inner, loc, x.getType(), x, negative)) : Value(tile::SubOp::create(inner, loc, x.getType(), x, reference));
          if (!attend.getBase2())
            e = tile::ScaleOp::create(inner, loc, e.getType(), e, log2eConstant());
          return maskColumns(rounded(tile::Exp2Op::create(inner, loc, e.getType(), e)), over, 0);
        };
        Value mostly = weights(state[2], true);
        Value overflows = tile::OverflowsOp::create(inner, loc, inner.getI1Type(), mostly);
        auto branch = scf::IfOp::create(inner, loc, TypeRange{mostly.getType(), out.getType(), total.getType(), state[2].getType()}, overflows, true);
        {
          OpBuilder::InsertionGuard guard(inner);
          inner.setInsertionPointToEnd(branch.thenBlock());
          x = maskColumns(x, over); // a padding's score of 0 is no reference
          auto raised = raise();
          raised.insert(raised.begin(), weights(raised[2], false));
          scf::YieldOp::create(inner, loc, raised);
          inner.setInsertionPointToEnd(branch.elseBlock());
          scf::YieldOp::create(inner, loc, ValueRange{mostly, out, total, state[2]});
        }
        state[0] = contract(op, branch.getResult(0), attend.getV(), branch.getResult(1));
        state[1] = sum(branch.getResult(0), branch.getResult(2), over);
        state[2] = branch.getResult(3);
        return;
      }
      SmallVector<Value> now;
      if (s.host || !lazy) {
        now = raise();
      } else {
        Value exceeds = tile::ExceedsOp::create(inner, loc, inner.getI1Type(), x, state[2], inner.getF32FloatAttr(0));
        auto branch = scf::IfOp::create(inner, loc, TypeRange{out.getType(), total.getType(), state[2].getType()}, exceeds, true);
        OpBuilder::InsertionGuard guard(inner);
        inner.setInsertionPointToEnd(branch.thenBlock());
        scf::YieldOp::create(inner, loc, raise());
        inner.setInsertionPointToEnd(branch.elseBlock());
        scf::YieldOp::create(inner, loc, ValueRange{out, total, state[2]});
        now.assign(branch.result_begin(), branch.result_end());
      }
      Value reference = now[2];
      out = now[0];
      total = now[1];
      x = tile::SubOp::create(inner, loc, x.getType(), x, reference);
      state[2] = reference;
    }
    if (!attend.getBase2() && !base2)
      x = tile::ScaleOp::create(inner, loc, x.getType(), x, log2eConstant());
    if (Value reference = estimated(op)) {
      Value r = addIn(reference, sliced(cast<TileType>(reference.getType())));
      x = tile::AddOp::create(inner, loc, x.getType(), x, tile::NegOp::create(inner, loc, r.getType(), r));
    } else if (double reference = fastAttention(op, s.half, s.limit).reference; !safe && reference)
      x = tile::AddOp::create(inner, loc, x.getType(), x, constant(x.getType(), -reference));
    // The sum is that of the weights as rounded, so that they add up to one.
    Value e = tile::Exp2Op::create(inner, loc, x.getType(), x, isBounded());
    if (isBounded())
      e = maskColumns(e, over, 0);
    if (!safe && overTokens)
      e = ofPresent(e, 0);
    if (!splitsPairs(op, s.half))
      e = rounded(e);
    state[0] = contract(op, e, attend.getV(), out);
    state[1] = sum(e, total, over);
  } else if (addsUp(op)) {
    Value p; // with a vector: the sum of their product
    for (Value v : op->getOperands()) {
      Value x = isPair(v) ? pair(v) : vector(v);
      p = p ? Value(tile::MulOp::create(inner, loc, pairType(s.f32()), p, x)) : x;
    }
    state[0] = sum(overTokens ? ofPresent(p, 0) : p, state[0], overOf(op));
  } else {
    auto dot = cast<flare::ContractOp>(op);
    Value p = isPair(dot.getA()) ? dot.getA() : dot.getB(), w = isPair(dot.getA()) ? dot.getB() : dot.getA();
    state[0] = contract(op, summand(p), w, state[0]);
  }
}
