// The body of `tile.pairs`: what is done with one block of 16 rows by 16 columns of pairs, in a fast or a safe version.
#pragma once
#include "passes/tiling/Kernel.h"
#include "llvm/ADT/MapVector.h"

namespace flarec::tiling {

struct PairBody {
  SweepBuilder &s;
  Region &region;
  bool safe;
  OpBuilder &b;          // in the stream's body, before the pairs op
  Block *body;           // the pairs op's body
  OpBuilder inner;       // in it
  SmallVector<Value> ins, inits;
  unsigned numIns = 0;
  DenseMap<Value, Value> sliceOf;          // in (outside) → body argument
  std::unique_ptr<Expressions> tokens[numRoles]; // rows = n: the worker's rows; rows = m: slices inside the body
  DenseMap<std::pair<Value, int>, Value> formed;
  DenseMap<Value, Value> pairs;
  DenseMap<Value, std::pair<Value, Value>> splits;
  const DenseMap<Operation *, Value> *estimates = nullptr;
  DenseMap<Value, Value> present; // pairs → the same, of tokens that are there

  PairBody(SweepBuilder &s, Region &region, bool safe, OpBuilder &b);

  /// The reference of a fast attention, where it is estimated for each row.
  Value estimated(Operation *op) { return estimates ? estimates->lookup(op) : Value(); }

  Value addIn(Value v, TileType slice);

  static TileType sliced(TileType t);

  Value tokenLeaf(Value v);

  /// The current block's slice of a value of tokens or of latents, for a use.
  Value slice(Value v, Use use);
  Value vector(Value v) { return slice(v, {Role::Vector, Form::Wide}); }
  Value weight(Value v, Index over, Form form);

  /// Are exponentials of pairs within ±126? In the fast one of two versions, as its guards have asked. Only a GPU has forms that this allows.
  bool isBounded() const { return !safe && (s.bounded || estimates) && !s.host; }

  TileType pairType(Type e) { return s.tileOf(tile::blockSize, tile::blockSize, 0, e); }

  //- Pairs as sums of contractions and vectors

  struct Terms {
    SmallVector<flare::ContractOp> products;
    SmallVector<std::pair<Value, bool>> vectors; // negative?
    SmallVector<std::pair<Value, bool>> others;  // other pairs
  };
  void collect(Value v, bool negative, Terms &t);

  /// Operands of contractions over d by their element type.
  using Products = llvm::MapVector<Type, std::pair<SmallVector<Value>, SmallVector<Value>>>;
  void add(Value x, Value y, Products &products);
  Value contracted(Products &products, Value acc);

  Value sumOf(Terms &t, bool exponent);
  Value inBase2(Value v);
  Value scaledProduct(Value x, Value y);

  Value pair(Value v);

  Value log2eConstant() { return arith::ConstantOp::create(inner, s.loc, inner.getF32FloatAttr(log2e)); }

  Value rounded(Value p);
  /// f32 pairs as two addends.
  std::pair<Value, Value> split(Value p);

  //- Reductions

  /// acc + Σ p, with pairs as `sums` wants them: 16 bits for the matrix instruction, f32 for additions.
  Value sum(Value p, Value acc, Index over);
  /// acc + Σ p·w of the reduction `op`.
  Value contract(Operation *op, Value p, Value w, Value acc);

  /// Does the region contract pairs over its rows?
  bool sumsRows();

  Value maskRows(Value x);

  Value maskColumns(Value x, Index over, double fill = -INFINITY);

  /// x where the token is there, else `fill`; x itself where all tokens are.
  Value ofPresent(Value x, double fill);
  /// A pair value for the contractions that reduce it: one for all of them, so that it is rounded once.
  Value summand(Value p);

  /// Emits the reduction's step in the body; `state` are the body's arguments, replaced by what is yielded.
  void step(Operation *op, SmallVector<Value> &state);
};

} // namespace flarec::tiling
