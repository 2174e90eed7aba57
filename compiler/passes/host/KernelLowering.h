// One kernel on its way to the host: its state, and what the files of this folder do to it.
//
// A block owns a batch, up to `heads` heads and a split of the tokens, as on a GPU, but is run by one thread. Every few tiles it goes over its
// heads, so that a cache line, which holds several heads of a token, is fetched from memory once. What a head keeps from tile to tile
// (accumulators, latent operands) lies in scratch memory, block after block of 16 rows:
//
//     scratch: [a few rows] [head 0: operands, state, numbers, tables of latents] [head 1: …] … [table of tokens, pairs between phases]
//
// Column operands are read one number at a time, broadcast to all lanes, from a *table*: one row a column, the columns of all operands side by
// side, so that a loop over columns moves a single pointer. With tokens as columns the table is made for each tile: rows are copied, widened and
// padded with zeros there, and what depends on tokens alone is computed once for all latents. With latents as columns it is the stash.
#pragma once
#include "passes/HostLayouts.h"
#include "passes/host/Vectors.h"
#include "llvm/ADT/MapVector.h"
#include <optional>

namespace flarec::host {

/// Columns whose pair values are kept in memory between the phases of a body: 4 KB a value.
constexpr int64_t phaseColumns = 64;

/// Vectors of a block of 16 rows (of partial sums: of 16 columns).
inline int64_t registersOf(TileType t) {
  if (isPartialSums(t))
    return lanes * std::max<int64_t>(1, t.getD() / lanes);
  return std::max<int64_t>(1, t.getD());
}

/// Where a tensor lies.
struct Tensor {
  Value pointer, strideB, strideH, strideRow;
  FlareTensorType type;
};
/// 16 and more rows in memory: element (r, d) at base + r·stride + d·size.
struct Rows {
  Value base, stride; // bytes
  int64_t channels;   // 0: one number a row
  Type element;
  Value there{}, thereStride{}; // the same of the mask's bytes; null: all rows are there
};
/// A tile of several blocks, or one that outlives the tile of tokens.
struct Parked {
  Value base;
  int64_t blockBytes;
};
/// Columns to be broadcast: number d of column c at base + c·rowBytes + offset + 4·d.
struct Columns {
  Value base;
  int64_t rowBytes, offset;
};
/// A staged tensor of tokens.
struct StageAt {
  Rows rows;  // row 0: the tile's first token
  Value left; // tokens from there on
};

struct KernelLowering : Emit {
  tile::ProgramOp program;
  tile::KernelOp kernel;
  tile::ConfigAttr config; // null: a merge
  Index rows = Index::m, cols = Index::n;
  Value batches, heads, tokens, latentBatches, splits;                             // of the whole launch; of tokens those of the batch's range
  std::optional<Tensor> mask;                                                      // which tokens of the range are there
  Value batch, split, rowGroup, head, firstHead, headsHere, mayStore;              // of this block
  Value scratch, headBase;
  bool tileIsFull = false; // no token past the last one
  LogicalResult status = success();

  // Where values are.
  DenseMap<Value, Tensor> tensors;
  DenseMap<Value, Value> numbers;
  DenseMap<Value, Registers> tiles; // the block at hand
  DenseMap<Value, Parked> parked;
  DenseMap<Value, Columns> columns;
  DenseMap<Value, StageAt> stages;
  DenseMap<Value, Parked> destinations; // where a branch must leave a tile

  KernelLowering(OpBuilder builder, Location loc, tile::ProgramOp program, tile::KernelOp kernel)
      : Emit{{builder, loc}}, program(program), kernel(kernel) {
    if (kernel.getConfig()) {
      config = kernel.getConfigAttr();
      rows = config.getRows();
      cols = tile::columnsOf(rows);
    }
  }
  /// The first failure counts; lowering goes on with any value.
  void fail(Operation *op, const Twine &why) {
    if (succeeded(status))
      status = op->emitOpError(why);
  }

  bool hasRows(TileType t) { return t.size(rows) != 0; }
  bool hasColumns(TileType t) { return t.size(cols) != 0; }
  static bool isElementwise(Operation *op) {
    return isa<tile::AddOp, tile::SubOp, tile::MulOp, tile::MaxOp, tile::NegOp, tile::Exp2Op, tile::Log2Op, tile::RcpOp, tile::BroadcastOp,
               tile::ScaleOp, tile::CastOp, tile::WhereOp>(op);
  }
  /// Whether an op is in a branch for bounded scores, and whether in one for others.
  static bool isFast(Operation *op) {
    auto branch = op->getParentOfType<scf::IfOp>();
    return branch && branch.thenBlock()->findAncestorOpInBlock(*op);
  }
  static bool isSafe(Operation *op) {
    auto branch = op->getParentOfType<scf::IfOp>();
    return branch && !branch.thenBlock()->findAncestorOpInBlock(*op);
  }

  //===-- Rows.cpp: 16 rows, and ops on them -------------------------------//

  static constexpr int64_t edgeBytes = lanes * 128 * 4; // 16 rows of at most 128 channels
  bool edgeUsed = false;
  Value blockRow; // first row of the block within a tile of several (null: 0)

  void identify(Value block);
  void keepToRange(const Tensor &range);
  Rows rowsOf(const Tensor &t, Value first);
  Rows from(Rows r, Value row);
  Value isThere(const Rows &r, Value row);
  Registers ofPresent(const Rows &r, Value left, Registers x);
  Value piece(const Rows &r, Value row, int64_t first);
  Registers loadRowsAt(const Rows &r, ArrayRef<Value> row, int64_t width);
  Registers loadRows(Rows r, Value left, int64_t width);
  void storeRows(const Rows &r, Value left, Registers x);
  void storeAllRows(const Rows &r, const Registers &x);
  void storeSums(const Rows &r, Value left, const Registers &x, int64_t d);
  void copyRow(const Rows &r, Value from, Value to);
  Value edge();
  Value below(Value count);
  Value rowAt(Value at) { return blockRow ? add(number(at), blockRow) : number(at); }
  Value leftOf(FlareTensorType t, Value at);

  Value number(Value v);
  Registers registers(Value v, Value block = {});
  void park(const Registers &x, const Parked &p, Value block = {});

  Value call(StringRef name, ValueRange x) { return LLVM::CallOp::create(b, loc, TypeRange{vec()}, name, x).getResult(); }
  Value exp2(Value x) { return call("flarec.exp2", x); }
  Value log2(Value x) { return call("flarec.log2", x); }
  Value ln(Value x) { return call("flarec.ln", x); }
  /// Of a score: to 9e-8 of its size. Bounded ones need no care for large exponents.
  Value exp2OfScore(Value x, bool bounded) { return call(bounded ? "flarec.exp2_of_bounded" : "flarec.exp2_of_score", x); }
  Value exactPower(Value x, Value factor, bool negative);
  Value apply(Operation *op, function_ref<Value(Value)> get);
  void lowerBlock(Block &block);
  void lower(Operation *op);
  void lowerElementwise(Operation *op);

  void emit(tile::LoadOp op);
  void emit(tile::ReadOp op);
  void emit(tile::StoreOp op);
  void emit(tile::ReduceOp op);
  void emit(tile::MaxNormOp op);
  void emit(tile::BoundedOp op);
  Value largest(Value v);
  Value squares(const Registers &x);

  void mergeKernel();
  void emit(tile::MergeOp op);
  void emit(tile::MergeSumOp op);
  Rows partialRows(Value tensor, Value s, Value batchIndex, Value first);

  //===-- Sweep.cpp: the loops around a tile, and what outlives one --------//

  struct Home {
    Value v;
    int64_t at; // in the head's scratch memory
  };
  struct Table {
    int64_t at = 0, rowBytes = 0;
  };
  tile::StreamOp stream;
  SmallVector<Operation *> before, after; // the stream
  SmallVector<Home> operandHomes, stateHomes, numberHomes, flagHomes; // stateHomes, flagHomes: v is the body's argument
  tile::StashOp stash;
  Table tables[2]; // of latents. What only safe bodies read has a table of its own, so that it takes no room in the cache
  SmallVector<std::pair<int, int64_t>> stashSlots; // table, offset
  int64_t headBytes = 0, sharedBytes = 0;          // scratch: [edge] [heads] [shared by heads]

  int64_t stashRows() { return roundUp(stash.getLatents(), lanes); }
  int64_t blocksIn(TileType t) { return std::max(blocksOf(t.getN()), blocksOf(t.getM())); }
  int64_t blockBytes(TileType t) { return registersOf(t) * vectorBytes; }
  int64_t allocate(int64_t bytes);
  Value sharedScratch(int64_t at) { return offset(scratch, edgeBytes + headBytes * config.getHeads() + at); }
  void plan();
  void planStash();
  void sweepKernel();
  void enterHead(Value h);
  void operandsAtHome();
  void loadNumbers();
  Value asByte(Value flag);
  Value asFlag(Value byte);
  void prologue();
  void blocksOfOps(ArrayRef<Operation *> ops, const DenseMap<Value, SmallVector<Parked>> &homes);
  void fillStash();
  Registers tileBody(Value n0, const Registers &flags);
  SmallVector<std::pair<Rows, bool>> ahead; // rows of tokens that this head works on in its next turn, and whether it writes them
  void lookAhead(Value n0);
  void settle(Value v, const Parked &target);
  void emit(scf::IfOp op);

  //===-- Pairs.cpp: blocks of scores --------------------------------------//

  /// What a pairs op's body is made of.
  struct Body {
    tile::PairsOp op;
    Block *block;
    unsigned numIns;
    int64_t rowBlocks = 1, columnCount = 0;
    bool inRegisters = false; // do accumulators stay in registers from step to step?
    DenseSet<Value> columnOnly, rowOnly; // computed from columns, from rows alone; never from accumulators
    DenseSet<Operation *> byRows;        // contractions over columns whose accumulators are rows, not channels: contractColumnsByRows
    DenseMap<Value, Registers> groups;   // right operands of contractions over rows, see contractRows
    llvm::MapVector<Value, int64_t> between; // pairs that pass from one phase to another: offset in scratch

    Value in(unsigned i) { return block->getArgument(2 + i); }
    Value accumulator(unsigned i) { return block->getArgument(2 + numIns + i); }
    bool isAccumulator(Value v) {
      auto a = dyn_cast<BlockArgument>(v);
      return a && a.getOwner() == block && a.getArgNumber() >= 2 + numIns;
    }
  };
  struct Phase {
    SmallVector<Operation *> ops;
    SmallVector<unsigned> accumulators;
    int64_t step; // columns at once
    unsigned number = 0, of = 1; // among the phases
  };

  void emit(tile::PairsOp op);
  Body bodyOf(tile::PairsOp op);
  void buildTable(Body &body, int64_t &sharedAt);
  void stageRows(const StageAt &s, int64_t width, Value base, int64_t rowBytes, Value real, int64_t count);
  int64_t stepOf(Body &body, bool recurrent);
  SmallVector<Phase> phasesOf(Body &body);
  SmallVector<Phase> cutIntoPhases(Body &body, ArrayRef<Operation *> ops, int64_t step);
  SmallVector<Registers> runRows(Body &body, SmallVector<Phase> &phases, Value block);
  void runPhases(Body &body, SmallVector<Phase> &phases, SmallVector<Registers> &state);

  //===-- Step.cpp: a few columns against 16 rows --------------------------//

  Body *current = nullptr;
  int64_t width = 0;              // columns of the step
  Value rowBlock;                 // the block of rows (null: the only one)
  Value firstColumn;              // i64
  Value phaseFirst;               // first column of the columns whose pairs lie in scratch
  DenseMap<Value, Value> tableAt; // table → address of its row of the first column

  void step(Body &body, Phase &p, Value first, SmallVector<Registers> &state);
  int64_t chainsOf(tile::ContractOp op);
  void prefetchAhead(Body &body, const Phase &p);
  Value tableRow(Value base, int64_t rowBytes);
  Value column(Value v, int64_t c, int64_t d);
  Value opaque(Value p);
  Value betweenAt(Value v, int64_t c);
  void lowerPair(Operation *op);
  Registers masked(tile::MaskOp op, const Registers &x, Value fill);
  bool startsChains(Operation *op);
  void startsOf(Value v, bool negative, SmallVectorImpl<std::pair<Value, bool>> &starts);
  void scores(tile::ContractOp op);
  void contractColumns(tile::ContractOp op);
  void contractColumnsByRows(tile::ContractOp op);
  void contractRows(tile::ContractOp op);
  Registers groupRows(const Registers &w);
};

} // namespace flarec::host
