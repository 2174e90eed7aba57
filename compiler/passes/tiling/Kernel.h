// One sweep becomes one kernel: latent operands before the stream of tokens, one or two versions of the work on a tile in it, partial
// results and maps stored.
#pragma once
#include "passes/tiling/Expressions.h"

namespace flarec::tiling {

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
  bool bounded = false; // do guards bound the fast version's exponentials?
  Value mask; // of the tokens, or null
  Value headroom, headroomFactor; // of exponents, and 2 to its power; null: none

  Index rows, cols;
  DenseMap<Value, Value> stages; // token tensor (program argument) → staged tile
  Value n0;
  Value workerRow;

  // Latent operands outside the stream.
  std::unique_ptr<Expressions> prologue[numRoles]; // rows = m: register tiles
  DenseMap<std::pair<Value, int>, Value> operands;
  /// rows = n: what makes 16 latents' operands.
  struct Stash {
    Block *body = nullptr;
    OpBuilder builder;
    std::unique_ptr<Expressions> parked[numRoles];
    SmallVector<Value> yields, placeholders;
    explicit Stash(MLIRContext *context) : builder(context) {}
  };
  Stash stash, memory;         // in fast memory, and in global memory
  bool inMemory = false;       // which of them operands go to that are new now
  OpBuilder prologueBuilder;   // just before the stream

  SweepBuilder(OpBuilder &b, flare::SweepOp sweep, const Storage &storage, double limit, bool host, Value origin)
      : b(b), loc(sweep.getLoc()), sweep(sweep), config(cast<tile::ConfigAttr>(sweep.getConfigAttr())), storage(storage),
        limit(limit), host(host), origin(origin), rows(config.getRows()), cols(tile::columnsOf(rows)), stash(b.getContext()),
        memory(b.getContext()), prologueBuilder(b.getContext()) {}

  int64_t rowCount() { return config.getWorkerRows(); }
  /// Of latents as columns: a worker's, in whole blocks.
  int64_t columnCount() { return blocksOf(latents) * tile::blockSize / config.getColumnWorkers(); }
  Type f32() { return b.getF32Type(); }
  TileType tileOf(int64_t n, int64_t m, int64_t d, Type e) { return TileType::get(b.getContext(), n, m, d, e, {}); }
  Value splat(TileType t, double v) { return tile::ConstantOp::create(b, loc, t, b.getF32FloatAttr(v)); }

  //-- Latent operands

  Expressions expressions(OpBuilder &at, std::function<Value(Value)> leaf);

  Value latentLeaf(OpBuilder &at, Value v, Value first, int64_t count);

  Value toForm(OpBuilder &at, Value t, Form form);

  /// An operand of latents in a given form: a register tile of the worker's rows, or a stash entry.
  Value latentOperand(Value v, Use use);

  void beginStash(Stash &s);
  void finishStash(Stash &s);

  /// Initial state of a reduction, and its types.
  SmallVector<TileType> stateTypes(Operation *op);
  SmallVector<Value> initialState(Operation *op);

  /// What the workers with the same rows have reduced over their own columns, added up: for each of `ops`, contractions over columns, the sum in place of this
  /// worker's part. Returns which of these workers gets a block of rows, as many for each op as rows have blocks.
  SmallVector<SmallVector<int64_t>> combine(Region &region, ArrayRef<Operation *> ops, MutableArrayRef<Value> parts);

  /// Pairs and their reductions; the state after them.
  struct Version {
    std::unique_ptr<struct PairBody> body;
    Operation *begin = nullptr; // what is made without pairs goes before it
    SmallVector<Operation *> ops; // reductions, carried ones first
    unsigned numCarried = 0;
    SmallVector<SmallVector<Value>> state; // of each
    Version() = default;
    Version(Version &&) = default;
    Version &operator=(Version &&) = default;
    ~Version();
  };
  /// `estimates`: references of fast attentions, tiles of one number a row; null: the constant one.
  Version emitPairs(Region &region, bool safe, ValueRange carried, const DenseMap<Operation *, Value> *estimates);
  void makeHeadroom();
  Value withoutHeadroom(Value t);
  /// Finishes maps and stores them; returns the carried state.
  SmallVector<Value> finish(Region &region, Version &version);
  SmallVector<Value> emitEstimated(Region &region, const Guards &guards, ValueRange factors);

  /// Emits one version of the work on a staged tile; returns the carried state after it. Maps are stored.
  SmallVector<Value> emitVersion(Region &region, bool safe, ValueRange carried);

  /// Builds the whole kernel; `partials` holds the workspace tensors of each carried reduction's state.
  LogicalResult build(ArrayRef<Value> partials);
};

} // namespace flarec::tiling
