// Values of tokens or of latents alone, computed on tiles: everything of a sweep or a merge that needs no pairs.
#pragma once
#include "passes/tiling/Sweep.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/IRMapping.h"
#include "llvm/ADT/TypeSwitch.h"

namespace flarec::tiling {

/// The program's arguments, and which of them holds a flare value.
struct Storage {
  Storage() {}
  DenseMap<Value, Value> tensor;  // flare value → program argument
  DenseMap<Value, Value> numbers; // f32 function argument → program argument
  mutable LogicalResult status = success(); // failed: an expression has no form on tiles, and that was said
};

/// Evaluates flare expressions on tiles. `leaf` gives the tile of a stored value.
struct Expressions {
  OpBuilder &b;
  Location loc;
  const Storage &storage;
  std::function<Value(Value)> leaf;
  DenseMap<Value, Value> done;
  Type half;                         // 16-bit type of operands, or null
  std::function<bool(Value)> rounds; // is this value such an operand?

  Expressions(OpBuilder &b, Location loc, const Storage &storage, std::function<Value(Value)> leaf = {}, Type half = {},
              std::function<bool(Value)> rounds = {})
      : b(b), loc(loc), storage(storage), leaf(std::move(leaf)), half(half), rounds(std::move(rounds)) {}

  Type f32() { return b.getF32Type(); }
  TileType like(TileType a, TileType c) {
    auto pick = [](int64_t x, int64_t y) { return x ? x : y; };
    return TileType::get(b.getContext(), pick(a.getN(), c.getN()), pick(a.getM(), c.getM()), pick(a.getD(), c.getD()), f32(), {});
  }
  static TileType tileType(Value v) { return cast<TileType>(v.getType()); }
  TileType wide(Value v) { return tileType(v).withElement(f32()); }
  Value number(double x) { return arith::ConstantOp::create(b, loc, b.getF32FloatAttr(x)); }

  Value widen(Value t) {
    return tileType(t).getElement() == f32() ? t : Value(tile::CastOp::create(b, loc, wide(t), t));
  }
  template <typename Op> Value binary(Value x, Value y) {
    x = widen(x), y = widen(y);
    return Op::create(b, loc, like(tileType(x), tileType(y)), x, y);
  }
  Value reduceChannels(Value x) {
    TileType t = wide(x);
    return tile::ReduceOp::create(b, loc, tile::resize(t, Index::d, 0), widen(x), Index::d, "add");
  }

  /// A number: computed in the kernel from the function's arguments.
  Value scalar(Value v) {
    if (Value known = storage.numbers.lookup(v))
      return known;
    if (Value known = done.lookup(v))
      return known;
    IRMapping map;
    for (Value o : v.getDefiningOp()->getOperands())
      map.map(o, scalar(o));
    return done[v] = b.clone(*v.getDefiningOp(), map)->getResult(0);
  }

  /// A row that pairs are contracted with in 16 bits is rounded here too: the difference of the two products then keeps
  /// cancelling where it should (Σ_d dz·(v - z) is 0 for v = z).
  Value asOperand(Value v) {
    Value t = eval(v);
    if (!rounds || !rounds(v) || tileType(t).getElement() != f32())
      return t;
    return tile::CastOp::create(b, loc, tileType(t).withElement(half), t);
  }

  Value eval(Value v) {
    if (Value known = done.lookup(v))
      return known;
    return done[v] = compute(v);
  }

  Value compute(Value v) {
    if (Value t = leaf(v))
      return t;
    Operation *op = v.getDefiningOp();
    if (!op || (isa<flare::ContractOp, flare::SumOp>(op) && overOf(op) != Index::d))
      return unknown(v);
    return TypeSwitch<Operation *, Value>(op)
        .Case([&](flare::AddOp op) { return binary<tile::AddOp>(eval(op.getA()), eval(op.getB())); })
        .Case([&](flare::SubOp op) { return binary<tile::SubOp>(eval(op.getA()), eval(op.getB())); })
        .Case([&](flare::MulOp op) { return binary<tile::MulOp>(eval(op.getA()), eval(op.getB())); })
        .Case([&](flare::NegOp op) { Value a = widen(eval(op.getA())); return tile::NegOp::create(b, loc, a.getType(), a); })
        .Case([&](flare::Exp2Op op) { Value a = widen(eval(op.getA())); return tile::Exp2Op::create(b, loc, a.getType(), a); })
        .Case([&](flare::ScaleOp op) {
          Value a = widen(eval(op.getA()));
          return tile::ScaleOp::create(b, loc, a.getType(), a, scalar(op.getFactor()));
        })
        .Case([&](flare::CastOp op) {
          Value a = widen(eval(op.getA()));
          Type element = cast<FlareTensorType>(op.getOut().getType()).getElement();
          return element == f32() ? a : tile::CastOp::create(b, loc, tileType(a).withElement(element), a);
        })
        .Case([&](flare::ContractOp op) { // over d: a dot product of rows
          return sumOfChannels(op, binary<tile::MulOp>(asOperand(op.getA()), asOperand(op.getB())));
        })
        .Case([&](flare::SumOp op) { return sumOfChannels(op, eval(op.getA())); })
        .Default([&](Operation *) { return unknown(v); });
  }

  Value sumOfChannels(Operation *op, Value x) {
    int64_t width = tileType(x).getD();
    if (addsUpPadding(op, width) && succeeded(storage.status))
      storage.status = op->emitError() << "no kernel computes " << op->getResult(0).getType() << " this way: it adds up what is not 0 in the channels that pad "
                                       << typeOf(op->getOperand(0)).getChannels() << " to " << width << "; use as many channels";
    return reduceChannels(x);
  }

  /// What no tile op makes: an error, and some tile to go on with.
  Value unknown(Value v) {
    Operation *op = v.getDefiningOp() ? v.getDefiningOp() : v.getParentBlock()->getParentOp();
    if (succeeded(storage.status))
      storage.status = op->emitError() << "no kernel computes " << v.getType() << " this way: values of tokens or of latents alone are made elementwise, and by contractions "
                                          "and sums over d";
    return tile::ConstantOp::create(b, loc, TileType::get(b.getContext(), 0, tile::blockSize, 8, f32(), {}), b.getF32FloatAttr(0));
  }
};

} // namespace flarec::tiling
