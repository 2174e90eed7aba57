// flare-to-tile: each function becomes a tile.program, each sweep a kernel, each reduction over tokens a merge.
#include "flare/Flare.h"
#include "passes/Passes.h"
#include "tile/Tile.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/IRMapping.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/SetVector.h"
#include "llvm/ADT/TypeSwitch.h"

namespace flarec {
#define GEN_PASS_DEF_FLARETOTILE
#include "passes/Passes.h.inc"
} // namespace flarec

using namespace mlir;
using namespace flarec;
using flare::FlareTensorType;
using flare::Index;
using tile::TileType;

namespace {

constexpr double noReference = -3.0e38; // below every finite score
constexpr double log2e = 1.4426950408889634;
// f32 log-sum-exps are only as exact as their size allows; with a running reference they stay near the largest score. Not on the host, where exponentials and
// logarithms are exact to the last bit or two: there the limit is that of 16 bits (pooled errors, in SDPA's: within 0.1 of those at 24).
constexpr double wideLimit = 24.0;

FlareTensorType typeOf(Value v) { return dyn_cast<FlareTensorType>(v.getType()); }
bool isTokens(Value v) { return typeOf(v) && typeOf(v).getTokens() && !typeOf(v).isPair(); }
bool isPair(Value v) { return typeOf(v) && typeOf(v).isPair(); }
bool isLatents(Value v) { return typeOf(v) && typeOf(v).getLatents() && !typeOf(v).getTokens(); }
/// Channels as fragments have them: a multiple of 8, the K of the smallest matrix instruction.
/// On the host: a power of two, at least a quarter of a vector.
int64_t padded(int64_t d, bool host) { return host ? std::max<int64_t>(4, llvm::PowerOf2Ceil(d)) : (d + 7) / 8 * 8; }
int64_t blocks(int64_t n) { return (n + tile::blockSize - 1) / tile::blockSize; }

/// How an operand is made from its value: f32, rounded to 16 bits, or one of the two addends of a split.
enum class Form { Wide, Round, High, Low };
/// Where it goes, which decides its layout: into scores (contracted over d), into a contraction of pairs with
/// columns or rows, or elementwise into pairs.
enum class Role { Score, ColumnWeight, RowWeight, Vector };
constexpr int numRoles = 4;
struct Use {
  Role role;
  Form form;
  int key() const { return int(role) * 4 + int(form); }
};

/// The program's arguments, and which of them holds a flare value.
struct Storage {
  DenseMap<Value, Value> tensor;  // flare value → program argument
  DenseMap<Value, Value> numbers; // f32 function argument → program argument
};

//===-- Expressions that need no pairs ---------------------------------------//

/// Evaluates flare expressions on tiles. `leaf` gives the tile of a stored value.
struct Expressions {
  OpBuilder &b;
  Location loc;
  const Storage &storage;
  std::function<Value(Value)> leaf;
  DenseMap<Value, Value> done;
  Type half;                         // 16-bit type of operands, or null
  std::function<bool(Value)> rounds; // is this value such an operand?

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
    return TypeSwitch<Operation *, Value>(v.getDefiningOp())
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
          return reduceChannels(binary<tile::MulOp>(asOperand(op.getA()), asOperand(op.getB())));
        })
        .Case([&](flare::SumOp op) { return reduceChannels(eval(op.getA())); })
        .Default([](Operation *) { return Value(); });
  }
};

//===-- One sweep ------------------------------------------------------------//

/// A reduction of pairs inside a sweep, and the tiles that hold its state.
struct Reduction {
  Operation *op;     // contract, sum or attend
  bool carried;      // over tokens: lives as long as the sweep
  SmallVector<Value> state; // attend: out, sum, reference; else one tile
  SmallVector<unsigned> slots; // position of each state tile in the list of inits
};

struct SweepBuilder {
  OpBuilder &b;
  Location loc;
  flare::SweepOp sweep;
  tile::ConfigAttr config;
  const Storage &storage;
  double limit;
  bool host;
  Value origin; // first latent of the worker (kernel argument)
  Type half;    // 16-bit operand type, or null: f32 operands
  int64_t latents = 0;

  Index rows, cols;
  DenseMap<Value, Value> stages; // token tensor (program argument) → staged tile
  Value n0;
  Value workerRow;

  // Latent operands outside the stream.
  std::unique_ptr<Expressions> prologue[numRoles]; // rows = m: register tiles
  DenseMap<std::pair<Value, int>, Value> operands;
  std::unique_ptr<Expressions> parked[numRoles]; // rows = n: stashed blocks
  Block *stashBody = nullptr;
  OpBuilder stashBuilder, prologueBuilder; // prologueBuilder: just before the stream
  SmallVector<Value> stashYields, stashPlaceholders;

  SweepBuilder(OpBuilder &b, flare::SweepOp sweep, const Storage &storage, double limit, bool host, Value origin)
      : b(b), loc(sweep.getLoc()), sweep(sweep), config(cast<tile::ConfigAttr>(sweep.getConfigAttr())), storage(storage),
        limit(limit), host(host), origin(origin), rows(config.getRows()), cols(tile::columnsOf(rows)), stashBuilder(b.getContext()),
        prologueBuilder(b.getContext()) {}

  int64_t rowCount() { return config.getWorkerRows(); }
  Type f32() { return b.getF32Type(); }
  TileType tileOf(int64_t n, int64_t m, int64_t d, Type e) { return TileType::get(b.getContext(), n, m, d, e, {}); }
  TileType rowTile(int64_t d) { return rows == Index::n ? tileOf(rowCount(), 0, d, f32()) : tileOf(0, rowCount(), d, f32()); }
  Value splat(TileType t, double v) { return tile::ConstantOp::create(b, loc, t, b.getF32FloatAttr(v)); }
  Value index(int64_t i) { return arith::ConstantIndexOp::create(b, loc, i); }

  //-- Analysis

  static Index overOf(Operation *op) {
    return TypeSwitch<Operation *, Index>(op)
        .Case<flare::ContractOp, flare::SumOp, flare::AttendOp>([](auto o) { return o.getOver(); })
        .Default([](auto) { return Index::d; });
  }
  static bool reduces(Operation *op) {
    return isa<flare::ContractOp, flare::SumOp, flare::AttendOp>(op) && overOf(op) != Index::d &&
           llvm::any_of(op->getOperands(), [](Value v) { return isPair(v); });
  }

  /// Token tensors read by a region, in order of first use.
  llvm::SetVector<Value> tokensRead() {
    llvm::SetVector<Value> r;
    for (Region &region : sweep->getRegions())
      region.walk([&](Operation *op) {
        for (Value v : op->getOperands())
          if (isTokens(v) && storage.tensor.count(v))
            r.insert(storage.tensor.lookup(v));
      });
    return r;
  }

  /// The norm bound of all scores that a fast body exponentiates: pairs of (latent operand, token operand).
  FailureOr<SmallVector<std::pair<Value, Value>>> guarded(Region &fast) {
    SmallVector<std::pair<Value, Value>> r;
    bool ok = true;
    fast.walk([&](Operation *op) {
      Value x;
      if (auto attend = dyn_cast<flare::AttendOp>(op))
        x = attend.getX();
      else if (auto e = dyn_cast<flare::Exp2Op>(op); e && isPair(e)) {
        x = e.getA();
        if (auto scale = x.getDefiningOp<flare::ScaleOp>())
          x = scale.getA();
        if (!x.getDefiningOp<flare::ContractOp>())
          x = {};
      }
      if (!x)
        return;
      auto dot = x.getDefiningOp<flare::ContractOp>();
      if (!dot || dot.getOver() != Index::d) {
        ok = false;
        return;
      }
      Value lat = isLatents(dot.getA()) ? dot.getA() : dot.getB(), tok = isLatents(dot.getA()) ? dot.getB() : dot.getA();
      if (!storage.tensor.count(tok))
        ok = false;
      Value base = lat;
      if (auto s = base.getDefiningOp<flare::ScaleOp>())
        base = s.getA();
      if (!storage.tensor.count(base))
        ok = false;
      if (!llvm::is_contained(r, std::pair(lat, tok)))
        r.push_back({lat, tok});
    });
    if (!ok)
      return failure();
    return r;
  }

  //-- Latent operands

  /// Is v a latent value that enters a contraction of pairs rounded to 16 bits?
  bool isRounded(Value v) {
    if (!half || !isLatents(v) || formsOf(v).size() != 1)
      return false;
    return llvm::any_of(v.getUsers(), [&](Operation *u) {
      auto dot = dyn_cast<flare::ContractOp>(u);
      return dot && (isPair(dot.getOut()) || isPair(dot.getA()) || isPair(dot.getB()));
    });
  }

  /// 16-bit values scaled by an f32 number would lose in rounding what storing them kept: two addends.
  SmallVector<Form> formsOf(Value v) {
    if (!half)
      return {Form::Wide};
    Operation *op = v.getDefiningOp();
    auto stored16 = [&](Value x) { return storage.tensor.count(x) && !typeOf(x).getElement().isF32(); };
    if (op && isa<flare::ScaleOp, flare::MulOp>(op) &&
        llvm::any_of(op->getOperands(), [&](Value x) { return typeOf(x) && stored16(x); }))
      return {Form::High, Form::Low};
    return {Form::Round};
  }

  Expressions expressions(OpBuilder &at, std::function<Value(Value)> leaf) {
    return {at, loc, storage, std::move(leaf), {}, half, [this](Value v) { return isRounded(v); }};
  }

  Value latentLeaf(OpBuilder &at, Value v, Value first, int64_t count) {
    Value t = storage.tensor.lookup(v);
    if (!t)
      return {};
    int64_t d = typeOf(v).getChannels();
    return tile::LoadOp::create(at, loc, tileOf(0, count, d ? padded(d, host) : 0, f32()), t, first);
  }

  Value toForm(OpBuilder &at, Value t, Form form) {
    auto type = cast<TileType>(t.getType());
    if (form == Form::Wide)
      return t;
    auto narrow = type.withElement(half);
    if (form == Form::Round)
      return type.getElement() == half ? t : Value(tile::CastOp::create(at, loc, narrow, t));
    auto split = tile::SplitOp::create(at, loc, narrow, narrow, t);
    return form == Form::High ? split.getHi() : split.getLo();
  }

  /// An operand of latents in a given form: a register tile of the worker's rows, or a stash entry.
  Value latentOperand(Value v, Use use) {
    Value &slot = operands[{v, use.key()}];
    if (slot)
      return slot;
    if (rows == Index::m) {
      Expressions &e = *prologue[int(use.role)];
      return slot = toForm(e.b, e.eval(v), use.form);
    }
    Value t = toForm(stashBuilder, parked[int(use.role)]->eval(v), use.form);
    auto type = cast<TileType>(t.getType());
    // The stash op is made when all its results are known; until then a placeholder stands for each.
    auto stashType = tile::StashType::get(b.getContext(), blocks(latents) * tile::blockSize, type.getD(), type.getElement());
    Value placeholder = UnrealizedConversionCastOp::create(prologueBuilder, loc, TypeRange{stashType}, ValueRange{}).getResult(0);
    stashYields.push_back(t);
    stashPlaceholders.push_back(placeholder);
    return operands[{v, use.key()}] = placeholder;
  }

  void finishStash() {
    if (stashYields.empty()) {
      delete stashBody;
      return;
    }
    tile::YieldOp::create(stashBuilder, loc, stashYields);
    auto stash = tile::StashOp::create(prologueBuilder, loc, ValueRange(stashPlaceholders).getTypes(), blocks(latents) * tile::blockSize);
    stash.getRegion().push_back(stashBody);
    for (auto [p, r] : llvm::zip(stashPlaceholders, stash.getResults())) {
      p.replaceAllUsesWith(r);
      p.getDefiningOp()->erase();
    }
  }

  //-- One version of the body

  struct Version {
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
    SmallVector<Reduction> reductions;
    DenseMap<Operation *, unsigned> reductionOf;

    Version(SweepBuilder &s, Region &region, bool safe, OpBuilder &b)
        : s(s), region(region), safe(safe), b(b), body(new Block), inner(b.getContext()) {
      Type idx = b.getIndexType();
      body->addArgument(idx, s.loc); // first row of the block
      body->addArgument(idx, s.loc); // first column
      inner.setInsertionPointToStart(body);
    }

    Value addIn(Value v, TileType slice) {
      Value &known = sliceOf[v];
      if (!known) {
        known = body->insertArgument(2 + numIns++, slice, s.loc);
        ins.push_back(v);
      }
      return known;
    }

    static TileType sliced(TileType t) {
      if (t.getN())
        t = tile::resize(t, Index::n, tile::blockSize);
      if (t.getM())
        t = tile::resize(t, Index::m, tile::blockSize);
      return t;
    }

    Value tokenLeaf(Value v) {
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

    /// The current block's slice of a value of tokens or of latents, for a use.
    Value slice(Value v, Use use) {
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
    Value vector(Value v) { return slice(v, {Role::Vector, Form::Wide}); }
    Value weight(Value v, Index over) {
      return slice(v, {over == s.cols ? Role::ColumnWeight : Role::RowWeight, s.half ? Form::Round : Form::Wide});
    }

    TileType pairType(Type e) { return s.tileOf(tile::blockSize, tile::blockSize, 0, e); }

    //- Pairs as sums of contractions and vectors

    struct Terms {
      SmallVector<flare::ContractOp> products;
      SmallVector<std::pair<Value, bool>> vectors; // negative?
      SmallVector<std::pair<Value, bool>> others;  // other pairs
    };
    void collect(Value v, bool negative, Terms &t) {
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

    Value sumOf(Terms &t) {
      Value acc;
      auto addVectors = [&] {
        for (auto [v, negative] : t.vectors) {
          Value x = vector(v);
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
      // As the product's initial accumulator vectors are free. In f32 they come after: x must have the bits that it had when
      // its log-sum-exp was made, or the two don't cancel.
      if (s.half || t.products.empty())
        addVectors();
      if (!t.products.empty()) {
        SmallVector<Value> as, bs;
        for (flare::ContractOp dot : t.products) {
          Value x = dot.getA(), y = dot.getB();
          auto fx = s.formsOf(x), fy = s.formsOf(y);
          for (Form f : fx)
            for (Form g : fy) {
              if (f == Form::Low && g == Form::Low)
                continue; // below the last bit kept
              Value p = slice(x, {Role::Score, f}), q = slice(y, {Role::Score, g});
              bool xIsRow = isTokens(x) == (s.rows == Index::n);
              as.push_back(xIsRow ? p : q);
              bs.push_back(xIsRow ? q : p);
            }
        }
        acc = tile::ContractOp::create(inner, s.loc, pairType(s.f32()), as, bs, acc, Index::d);
        if (!s.half)
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

    Value pair(Value v) {
      if (Value known = pairs.lookup(v))
        return known;
      Type t = pairType(s.f32());
      Value r = TypeSwitch<Operation *, Value>(v.getDefiningOp())
          .Case<flare::AddOp, flare::SubOp, flare::ContractOp>([&](auto) {
            Terms terms;
            collect(v, false, terms);
            return sumOf(terms);
          })
          .Case([&](flare::MulOp op) {
            auto operand = [&](Value x) { return isPair(x) ? pair(x) : vector(x); };
            Value x = operand(op.getA()), y = operand(op.getB());
            return tile::MulOp::create(inner, s.loc, t, x, y);
          })
          .Case([&](flare::NegOp op) { return tile::NegOp::create(inner, s.loc, t, pair(op.getA())); })
          .Case([&](flare::Exp2Op op) {
            // What pads the columns has x = 0. Unless what is subtracted is a padding too (0), 2^(0-a) may overflow.
            Value x = pair(op.getA());
            Value inside = op.getA();
            if (auto scale = inside.getDefiningOp<flare::ScaleOp>())
              inside = scale.getA();
            if (auto sub = inside.getDefiningOp<flare::SubOp>(); sub && !isPair(sub.getB())) {
              FlareTensorType a = typeOf(sub.getB());
              if (s.cols == Index::n ? !a.getTokens() : !a.getLatents())
                x = maskColumns(x, s.cols);
              // Rows past the last token matter where rows are summed.
              if (safe && s.rows == Index::n && !a.getTokens() && sumsRows())
                x = maskRows(x);
            }
            return tile::Exp2Op::create(inner, s.loc, t, x);
          })
          .Case([&](flare::ScaleOp op) {
            return tile::ScaleOp::create(inner, s.loc, t, pair(op.getA()), tokens[int(Role::Vector)]->scalar(op.getFactor()));
          })
          .Default([](Operation *) { return Value(); });
      return pairs[v] = r;
    }

    Value log2eConstant() { return arith::ConstantOp::create(inner, s.loc, inner.getF32FloatAttr(log2e)); }

    Value rounded(Value p) {
      return s.half ? Value(tile::CastOp::create(inner, s.loc, pairType(s.half), p)) : p;
    }

    //- Reductions

    /// Does the region contract pairs over its rows?
    bool sumsRows() {
      return llvm::any_of(region.front(), [&](Operation &op) { return reduces(&op) && overOf(&op) == s.rows; });
    }

    Value maskRows(Value x) {
      Value first = arith::AddIOp::create(inner, s.loc, arith::AddIOp::create(inner, s.loc, body->getArgument(0), s.n0), s.workerRow);
      return tile::MaskOp::create(inner, s.loc, x.getType(), x, s.rows, first, Value(tile::TokensOp::create(inner, s.loc)),
                                  APFloat::getInf(APFloat::IEEEsingle(), true));
    }

    Value maskColumns(Value x, Index over) {
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
        count = arith::ConstantIndexOp::create(inner, s.loc, s.latents);
      }
      return tile::MaskOp::create(inner, s.loc, x.getType(), x, over, first, count,
                                  APFloat::getInf(APFloat::IEEEsingle(), true));
    }

    /// Emits the reduction's step in the body; `state` are the body's arguments, replaced by what is yielded.
    void step(Operation *op, SmallVector<Value> &state) {
      Location loc = s.loc;
      if (auto attend = dyn_cast<flare::AttendOp>(op)) {
        Index over = attend.getOver();
        Value x = maskColumns(pair(attend.getX()), over);
        Value out = state[0], sum = state[1];
        if (safe) {
          Value max = tile::ReduceOp::create(inner, loc, state[2].getType(), x, over, "max");
          Value reference = tile::MaxOp::create(inner, loc, state[2].getType(), state[2], max);
          Value old = tile::SubOp::create(inner, loc, reference.getType(), state[2], reference);
          if (!attend.getBase2())
            old = tile::ScaleOp::create(inner, loc, old.getType(), old, log2eConstant());
          Value shrink = tile::Exp2Op::create(inner, loc, reference.getType(), old);
          out = tile::MulOp::create(inner, loc, out.getType(), out, shrink);
          sum = tile::MulOp::create(inner, loc, sum.getType(), sum, shrink);
          x = tile::SubOp::create(inner, loc, x.getType(), x, reference);
          state[2] = reference;
        }
        if (!attend.getBase2())
          x = tile::ScaleOp::create(inner, loc, x.getType(), x, log2eConstant());
        // The sum is that of the weights as rounded, so that they add up to one.
        Value e = rounded(tile::Exp2Op::create(inner, loc, x.getType(), x));
        state[0] = tile::ContractOp::create(inner, loc, out.getType(), e, weight(attend.getV(), over), out, over);
        state[1] = tile::SumOp::create(inner, loc, e, sum, over);
      } else if (auto dot = dyn_cast<flare::ContractOp>(op)) {
        Value p = isPair(dot.getA()) ? dot.getA() : dot.getB(), w = isPair(dot.getA()) ? dot.getB() : dot.getA();
        Value rp = rounded(pair(p));
        state[0] = tile::ContractOp::create(inner, loc, state[0].getType(), rp, weight(w, dot.getOver()), state[0],
                                            dot.getOver());
      } else {
        auto sum = cast<flare::SumOp>(op);
        state[0] = tile::SumOp::create(inner, loc, pair(sum.getA()), state[0], sum.getOver());
      }
    }
  };

  /// Initial state of a reduction, and its types.
  SmallVector<TileType> stateTypes(Operation *op) {
    Index over = overOf(op);
    Index kept = over == Index::n ? Index::m : Index::n;
    int64_t count = kept == rows ? rowCount() : blocks(latents) * tile::blockSize;
    int64_t d = 0;
    if (auto t = typeOf(op->getResult(0)); t.getChannels())
      d = padded(t.getChannels(), host);
    auto make = [&](int64_t channels) {
      return kept == Index::n ? tileOf(count, 0, channels, f32()) : tileOf(0, count, channels, f32());
    };
    if (isa<flare::AttendOp>(op))
      return {make(d), make(0), make(0)};
    return {make(d)};
  }
  SmallVector<Value> initialState(Operation *op) {
    SmallVector<Value> r;
    for (auto [i, t] : llvm::enumerate(stateTypes(op)))
      r.push_back(splat(t, i == 2 ? noReference : 0.0));
    return r;
  }

  /// Reductions over tokens in the order in which they are yielded.
  SmallVector<Operation *> carriedReductions(Region &region) {
    SmallVector<Operation *> r;
    for (Value v : region.front().getTerminator()->getOperands())
      if (Operation *op = v.getDefiningOp(); op && reduces(op) && overOf(op) == Index::n && !llvm::is_contained(r, op))
        r.push_back(op);
    return r;
  }

  /// Emits one version of the work on a staged tile; returns the carried state after it. Maps are stored.
  SmallVector<Value> emitVersion(Region &region, bool safe, ValueRange carried) {
    Version v(*this, region, safe, b);
    for (auto &e : v.tokens)
      e = std::make_unique<Expressions>(expressions(rows == Index::n ? b : v.inner, [&](Value x) { return v.tokenLeaf(x); }));

    // All reductions of pairs that the yields need.
    SmallVector<Operation *> ops = carriedReductions(region);
    unsigned numCarried = ops.size();
    for (Operation &op : region.front())
      if (reduces(&op) && !llvm::is_contained(ops, &op))
        ops.push_back(&op);
    SmallVector<SmallVector<Value>> state; // outside
    unsigned next = 0;
    for (auto [i, op] : llvm::enumerate(ops)) {
      if (i < numCarried) {
        unsigned n = stateTypes(op).size();
        state.push_back(SmallVector<Value>(carried.slice(next, n)));
        next += n;
      } else {
        state.push_back(initialState(op));
      }
    }
    // Accumulators enter the body sliced; without a running maximum the reference stays outside.
    SmallVector<SmallVector<Value>> inside;
    for (auto [i, op] : llvm::enumerate(ops)) {
      SmallVector<Value> args;
      for (auto [j, t] : llvm::enumerate(state[i]))
        if (safe || j < 2) {
          v.inits.push_back(t);
          args.push_back(v.body->addArgument(Version::sliced(cast<TileType>(t.getType())), loc));
        }
      inside.push_back(args);
    }
    SmallVector<Value> yields;
    for (auto [i, op] : llvm::enumerate(ops)) {
      v.step(op, inside[i]);
      llvm::append_range(yields, inside[i]);
    }
    tile::YieldOp::create(v.inner, loc, yields);
    auto pairsOp = tile::PairsOp::create(b, loc, ValueRange(v.inits).getTypes(), v.ins, v.inits, rows, config.getUnroll());
    pairsOp.getRegion().push_back(v.body);

    // New state; a fast body has reference 0.
    next = 0;
    for (auto [i, op] : llvm::enumerate(ops))
      for (auto [j, t] : llvm::enumerate(state[i]))
        t = safe || j < 2 ? pairsOp.getResult(next++) : splat(cast<TileType>(t.getType()), 0.0);

    // Maps: finish the token values and store them.
    DenseMap<Value, Value> finished;
    for (auto [i, op] : llvm::enumerate(ops)) {
      if (i < numCarried)
        continue;
      if (isa<flare::AttendOp>(op)) {
        Value sum = tile::TotalOp::create(b, loc, state[i][1].getType(), state[i][1]);
        Value r = tile::RcpOp::create(b, loc, sum.getType(), sum);
        finished[op->getResult(0)] = tile::MulOp::create(b, loc, state[i][0].getType(), state[i][0], r);
        Value l = tile::Log2Op::create(b, loc, sum.getType(), sum);
        if (!cast<flare::AttendOp>(op).getBase2())
          l = tile::ScaleOp::create(b, loc, l.getType(), l, arith::ConstantOp::create(b, loc, b.getF32FloatAttr(1 / log2e)));
        finished[op->getResult(1)] = tile::AddOp::create(b, loc, l.getType(), l, state[i][2]);
      } else if (isa<flare::SumOp>(op)) {
        finished[op->getResult(0)] = tile::TotalOp::create(b, loc, state[i][0].getType(), state[i][0]);
      } else {
        finished[op->getResult(0)] = state[i][0];
      }
    }
    Expressions post{b, loc, storage, [&](Value x) -> Value {
      if (Value f = finished.lookup(x))
        return f;
      return v.tokenLeaf(x);
    }, {}, {}, {}};
    Value at;
    for (auto [i, y] : llvm::enumerate(region.front().getTerminator()->getOperands())) {
      if (!isTokens(y))
        continue;
      Value t = storage.tensor.lookup(sweep.getResult(i));
      if (!at)
        at = arith::AddIOp::create(b, loc, n0, workerRow);
      // Rounding happens in the store.
      Value source = y;
      if (auto cast = y.getDefiningOp<flare::CastOp>())
        source = cast.getA();
      tile::StoreOp::create(b, loc, post.eval(source), t, at, false);
    }
    SmallVector<Value> out;
    for (unsigned i = 0; i < numCarried; ++i)
      llvm::append_range(out, state[i]);
    return out;
  }

  /// Builds the whole kernel; `partials` holds the workspace tensors of each carried reduction's state.
  LogicalResult build(ArrayRef<Value> partials) {
    sweep.walk([&](Operation *op) {
      for (Value v : op->getOperands())
        if (typeOf(v) && typeOf(v).getLatents())
          latents = typeOf(v).getLatents();
    });
    llvm::SetVector<Value> tokens = tokensRead();
    for (Value t : tokens)
      if (Type e = typeOf(t).getElement(); !e.isF32() && !host)
        half = e;
    if (tokens.empty())
      return sweep.emitOpError("reads no tokens");

    Region &fast = sweep.getFast();
    bool attends = false;
    fast.walk([&](flare::AttendOp) { attends = true; });
    bool versioned = attends || sweep.hasSafeBody();
    bool natural = false; // are the scores natural ones? the limit is on those of base 2
    fast.walk([&](Operation *op) {
      if (auto a = dyn_cast<flare::AttendOp>(op))
        natural |= !a.getBase2();
      if (auto e = dyn_cast<flare::Exp2Op>(op); e && isPair(e))
        natural |= bool(e.getA().getDefiningOp<flare::ScaleOp>());
    });
    Region &safe = sweep.hasSafeBody() ? sweep.getSafe().front() : fast;

    for (auto &e : prologue)
      e = std::make_unique<Expressions>(expressions(prologueBuilder, [this](Value v) {
        return latentLeaf(prologueBuilder, v, origin, rowCount());
      }));
    Expressions numbers{b, loc, storage, {}, {}, {}, {}};
    SmallVector<std::pair<Value, Value>> guards;
    SmallVector<Value> factors; // of each guard
    if (versioned) {
      auto g = guarded(fast);
      if (succeeded(g)) {
        guards = *g;
        // |x| ≤ |s|·max‖q‖·‖k‖ (Cauchy–Schwarz)
        for (auto [lat, tok] : guards) {
          Value base = lat, scale;
          if (auto sc = lat.getDefiningOp<flare::ScaleOp>()) {
            base = sc.getA();
            scale = numbers.scalar(sc.getFactor());
          }
          Value norm = tile::MaxNormOp::create(b, loc, b.getF32Type(), storage.tensor.lookup(base));
          Value factor = scale ? Value(arith::MulFOp::create(b, loc, norm, scale)) : norm;
          if (natural)
            factor = arith::MulFOp::create(b, loc, factor, arith::ConstantOp::create(b, loc, b.getF32FloatAttr(log2e)));
          factors.push_back(factor);
        }
      }
    }
    if (rows == Index::n) {
      stashBody = new Block;
      Value first = stashBody->addArgument(b.getIndexType(), loc);
      stashBuilder.setInsertionPointToStart(stashBody);
      for (auto &e : parked)
        e = std::make_unique<Expressions>(expressions(stashBuilder, [this, first](Value v) {
          return latentLeaf(stashBuilder, v, first, tile::blockSize);
        }));
      workerRow = tile::WorkerRowOp::create(b, loc);
    }

    SmallVector<Value> inits;
    for (Operation *op : carriedReductions(fast))
      llvm::append_range(inits, initialState(op));
    unsigned numState = inits.size();
    if (versioned)
      inits.push_back(arith::ConstantOp::create(b, loc, b.getBoolAttr(!guards.empty())));
    auto stream = tile::StreamOp::create(b, loc, ValueRange(inits).getTypes(), tokens.getArrayRef(), inits, config.getTile());
    prologueBuilder.setInsertionPoint(stream);
    Block *block = &stream.getRegion().emplaceBlock();
    n0 = block->addArgument(b.getIndexType(), loc);
    for (Value t : tokens) {
      int64_t d = typeOf(t).getChannels();
      stages[t] = block->addArgument(tile::StageType::get(b.getContext(), config.getTile(), d ? padded(d, host) : 0, typeOf(t).getElement()), loc);
    }
    SmallVector<Value> carried;
    for (Value i : inits)
      carried.push_back(block->addArgument(i.getType(), loc));
    {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToEnd(block);
      SmallVector<Value> yields;
      if (!versioned) {
        // One body for all tiles, the last one included.
        yields = emitVersion(fast, true, carried);
      } else if (guards.empty()) {
        yields = emitVersion(safe, true, ArrayRef(carried).drop_back());
        yields.push_back(carried.back());
      } else {
        Value ok = carried.back();
        for (auto [guard, factor] : llvm::zip(guards, factors)) {
          Value stage = stages.lookup(storage.tensor.lookup(guard.second));
          Value small = tile::BoundedOp::create(b, loc, b.getI1Type(), stage, n0, factor, b.getF32FloatAttr(half || host ? limit : std::min(limit, wideLimit)));
          ok = arith::AndIOp::create(b, loc, ok, small);
        }
        auto ifOp = scf::IfOp::create(b, loc, ValueRange(inits).drop_back().getTypes(), ok, true);
        for (bool isSafe : {false, true}) {
          OpBuilder::InsertionGuard guard(b);
          Block *branch = isSafe ? ifOp.elseBlock() : ifOp.thenBlock();
          branch->clear(); // an implicit terminator, where there are no results
          b.setInsertionPointToEnd(branch);
          auto r = emitVersion(isSafe ? safe : fast, isSafe, ArrayRef(carried).drop_back());
          scf::YieldOp::create(b, loc, r);
        }
        llvm::append_range(yields, ifOp.getResults());
        // A reduction with a running reference cannot go back to tiles without one; maps can.
        yields.push_back(attends && numState ? ok : carried.back());
      }
      tile::YieldOp::create(b, loc, yields);
    }
    // Partial results of this split.
    unsigned next = 0;
    for (Operation *op : carriedReductions(fast))
      for (unsigned j = 0, e = stateTypes(op).size(); j < e; ++j, ++next) {
        Value t = stream.getResult(next);
        if ((isa<flare::AttendOp>(op) && j == 1) || isa<flare::SumOp>(op))
          t = tile::TotalOp::create(b, loc, t.getType(), t);
        tile::StoreOp::create(b, loc, t, partials[next], origin, true);
      }
    finishStash();
    return success();
  }
};

//===-- One function ---------------------------------------------------------//

struct ProgramBuilder {
  func::FuncOp func;
  double limit;
  bool host;
  Storage storage;
  tile::ProgramOp program;
  Block *block = nullptr;
  SmallVector<Attribute> descriptions;
  unsigned kernels = 0;

  Value addArgument(OpBuilder &b, Type t, StringRef name, StringRef role, SmallVector<NamedAttribute> extra = {}) {
    extra.push_back(b.getNamedAttr("name", b.getStringAttr(name)));
    extra.push_back(b.getNamedAttr("role", b.getStringAttr(role)));
    descriptions.push_back(b.getDictionaryAttr(extra));
    return block->addArgument(t, func.getLoc());
  }

  LogicalResult run() {
    OpBuilder b(func);
    Location loc = func.getLoc();
    Block &body = func.getBody().front();
    auto ret = cast<func::ReturnOp>(body.getTerminator());
    program = tile::ProgramOp::create(b, loc, func.getName(), b.getArrayAttr({}));
    block = &program.getRegion().emplaceBlock();

    SmallVector<flare::SweepOp> sweeps(body.getOps<flare::SweepOp>());
    auto name = [&](unsigned i, bool result) {
      auto a = result ? func.getResultAttrOfType<StringAttr>(i, "flare.name") : func.getArgAttrOfType<StringAttr>(i, "flare.name");
      return a ? a.str() : (result ? "result" : "arg") + std::to_string(i);
    };
    for (auto [i, a] : llvm::enumerate(func.getArguments()))
      if (typeOf(a))
        storage.tensor[a] = addArgument(b, a.getType(), name(i, false), "input");
    // Results: a latent result may also be read by later sweeps.
    SmallVector<Value> resultTensors;
    for (auto [i, v] : llvm::enumerate(ret.getOperands())) {
      if (storage.tensor.count(v) || !v.getDefiningOp())
        return func.emitError() << "result " << i << " is an argument or is returned twice; return each value once";
      SmallVector<NamedAttribute> extra;
      if (isLatents(v) && name(i, true).rfind("grad_", 0) == 0)
        extra.push_back(b.getNamedAttr("reduced", b.getUnitAttr()));
      resultTensors.push_back(storage.tensor[v] = addArgument(b, v.getType(), name(i, true), "result", extra));
    }
    // Workspace: partials of each sweep, and latent values that later sweeps read.
    SmallVector<SmallVector<Value>> partials(sweeps.size());
    for (auto [s, sweep] : llvm::enumerate(sweeps)) {
      if (!sweep.getConfigAttr() || !isa<tile::ConfigAttr>(sweep.getConfigAttr()))
        return sweep.emitOpError("has no #tile.config; run flare-configure first");
      auto config = cast<tile::ConfigAttr>(sweep.getConfigAttr());
      int64_t copies = config.getRows() == Index::n ? config.getWorkers() : 1;
      auto yields = sweep.getFast().front().getTerminator()->getOperands();
      DenseSet<Operation *> seen;
      for (auto [i, y] : llvm::enumerate(yields)) {
        Operation *op = y.getDefiningOp();
        if (isTokens(y)) {
          if (!storage.tensor.count(sweep.getResult(i)))
            storage.tensor[sweep.getResult(i)] = addArgument(b, y.getType(), "tokens_" + std::to_string(s) + "_" + std::to_string(i), "workspace");
          continue;
        }
        if (!op || !SweepBuilder::reduces(op))
          return sweep.emitOpError("yields a latent value that is no reduction over tokens");
        if (!storage.tensor.count(sweep.getResult(i)) && isReadLater(sweep.getResult(i)))
          storage.tensor[sweep.getResult(i)] = addArgument(b, y.getType(), "latents_" + std::to_string(s) + "_" + std::to_string(i), "workspace");
        if (!seen.insert(op).second)
          continue;
        auto t = typeOf(op->getResult(0));
        int64_t rows = config.getRows() == Index::m ? t.getLatents() : blocks(t.getLatents()) * tile::blockSize * copies;
        auto add = [&](int64_t channels, StringRef what) {
          auto type = FlareTensorType::get(b.getContext(), false, rows, channels, b.getF32Type());
          partials[s].push_back(addArgument(b, type, what.str() + "_" + std::to_string(s) + "_" + std::to_string(i), "workspace",
              {b.getNamedAttr("sweep", b.getI64IntegerAttr(s)), b.getNamedAttr("copies", b.getI64IntegerAttr(copies))}));
        };
        add(t.getChannels(), "partial");
        if (isa<flare::AttendOp>(op)) {
          add(0, "partial_sum");
          add(0, "partial_reference");
        }
      }
    }
    for (auto [i, a] : llvm::enumerate(func.getArguments()))
      if (!typeOf(a))
        storage.numbers[a] = addArgument(b, a.getType(), name(i, false), "scalar");
    program.setTensorsAttr(b.getArrayAttr(descriptions));

    for (auto [s, sweep] : llvm::enumerate(sweeps)) {
      auto [kernel, kb, origin] = addKernel(b, "sweep", s, cast<tile::ConfigAttr>(sweep.getConfigAttr()));
      OpBuilder builder = kb;
      if (failed(SweepBuilder(builder, sweep, storage, limit, host, origin).build(partials[s])))
        return failure();
      if (failed(buildMerge(b, s, sweep, partials[s], ret)))
        return failure();
    }
    func.erase();
    return success();
  }

  bool isReadLater(Value v) {
    SmallVector<Value> work{v};
    DenseSet<Value> seen;
    while (!work.empty()) {
      Value x = work.pop_back_val();
      for (Operation *u : x.getUsers()) {
        if (u->getParentOfType<flare::SweepOp>())
          return true;
        for (Value r : u->getResults())
          if (seen.insert(r).second)
            work.push_back(r);
      }
    }
    return false;
  }

  std::tuple<tile::KernelOp, OpBuilder, Value> addKernel(OpBuilder &b, StringRef kind, int64_t sweep, tile::ConfigAttr config) {
    OpBuilder kb = OpBuilder::atBlockEnd(block);
    auto kernel = tile::KernelOp::create(kb, func.getLoc(), (kind + "_" + Twine(kernels++)).str(), kind, sweep, config);
    Block *body = &kernel.getRegion().emplaceBlock();
    Value origin = body->addArgument(b.getIndexType(), func.getLoc());
    return {kernel, OpBuilder::atBlockEnd(body), origin};
  }

  /// Finishes sweep s: merges partials, computes latent results that have become complete.
  LogicalResult buildMerge(OpBuilder &b, int64_t s, flare::SweepOp sweep, ArrayRef<Value> partials, func::ReturnOp ret) {
    if (partials.empty())
      return success();
    auto [kernel, kb, origin] = addKernel(b, "merge", s, {});
    Location loc = func.getLoc();
    Value at = origin;
    OpBuilder &k = kb;
    DenseMap<Value, Value> merged;
    auto tileOf = [&](FlareTensorType t) {
      return TileType::get(k.getContext(), 0, 32, t.getChannels() ? padded(t.getChannels(), host) : 0, k.getF32Type(), {});
    };
    unsigned next = 0;
    DenseMap<Operation *, SmallVector<Value>> byOp;
    auto yields = sweep.getFast().front().getTerminator()->getOperands();
    for (auto [i, y] : llvm::enumerate(yields)) {
      if (isTokens(y))
        continue;
      Operation *op = y.getDefiningOp();
      auto &values = byOp[op];
      if (values.empty()) {
        auto t = typeOf(op->getResult(0));
        if (isa<flare::AttendOp>(op)) {
          auto merge = tile::MergeOp::create(k, loc, tileOf(t), tileOf(typeOf(op->getResult(1))), partials[next], partials[next + 1],
                                             partials[next + 2], at, !cast<flare::AttendOp>(op).getBase2());
          values = {merge.getResult(), merge.getLse()};
          next += 3;
        } else {
          values = {tile::MergeSumOp::create(k, loc, tileOf(t), partials[next], at, isReduced(sweep.getResult(i)))};
          next += 1;
        }
      }
      merged[sweep.getResult(i)] = values[cast<OpResult>(y).getResultNumber()];
    }
    Expressions eval{k, loc, storage, [&](Value v) -> Value {
      if (Value m = merged.lookup(v))
        return m;
      // Arguments and what earlier merges stored; other results are being computed here.
      if (Value t = storage.tensor.lookup(v); t && (isa<BlockArgument>(v) || v.getDefiningOp<flare::SweepOp>()))
        return tile::LoadOp::create(k, loc, tileOf(typeOf(v)), t, at);
      return {};
    }, {}, {}, {}};
    llvm::SetVector<Value> stores;
    for (Value r : sweep.getResults())
      if (isLatents(r) && storage.tensor.count(r))
        stores.insert(r);
    for (Value r : ret.getOperands())
      if (isLatents(r) && lastSweep(r) == sweep.getOperation())
        stores.insert(r);
    for (Value v : stores) {
      Value source = v;
      if (auto cast = v.getDefiningOp<flare::CastOp>())
        source = cast.getA();
      tile::StoreOp::create(k, loc, eval.eval(source), storage.tensor.lookup(v), at, false);
    }
    return success();
  }

  /// Does v end in a result that is the gradient of shared latents?
  bool isReduced(Value v) {
    auto ret = func.getBody().front().getTerminator();
    for (auto [i, r] : llvm::enumerate(ret->getOperands())) {
      auto a = func.getResultAttrOfType<StringAttr>(i, "flare.name");
      if (!isLatents(r) || !a || !a.getValue().starts_with("grad_"))
        continue;
      SmallVector<Value> work{r};
      while (!work.empty()) {
        Value x = work.pop_back_val();
        if (x == v)
          return true;
        if (Operation *op = x.getDefiningOp(); op && !isa<flare::SweepOp>(op))
          work.append(op->operand_begin(), op->operand_end());
      }
    }
    return false;
  }

  /// The last sweep that a latent value depends on.
  Operation *lastSweep(Value v) {
    Operation *last = nullptr;
    SmallVector<Value> work{v};
    while (!work.empty()) {
      Operation *op = work.pop_back_val().getDefiningOp();
      if (!op)
        continue;
      if (isa<flare::SweepOp>(op)) {
        if (!last || last->isBeforeInBlock(op))
          last = op;
        continue;
      }
      work.append(op->operand_begin(), op->operand_end());
    }
    return last;
  }
};

struct FlareToTile : flarec::impl::FlareToTileBase<FlareToTile> {
  using FlareToTileBase::FlareToTileBase;
  void runOnOperation() override {
    for (func::FuncOp f : llvm::make_early_inc_range(getOperation().getOps<func::FuncOp>())) {
      ProgramBuilder p{f, limit, target == "host"};
      if (failed(p.run()))
        return signalPassFailure();
    }
  }
};
} // namespace
