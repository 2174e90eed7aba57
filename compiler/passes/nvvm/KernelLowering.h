// tile-to-nvvm, shared by its parts: the state of a kernel that is being lowered and what each part offers the others.
//
// A block is heads × workers warps. Warp w works on head w / workers of the block's head group, as worker w % workers; of a row's column_workers
// the worker % column_workers-th.
#pragma once
#include "layout/Layout.h"
#include "passes/Registers.h"
#include "passes/nvvm/Emit.h"
#include "tile/Tile.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include <optional>

namespace flarec::nvvm {

using tile::TileType;
using flare::FlareTensorType;
using flare::Index;

inline TileType tileType(mlir::Value v) { return mlir::cast<TileType>(v.getType()); }

/// Where a tensor lies.
struct Tensor {
  Value pointer, strideB, strideH, strideRow;
  FlareTensorType type;
  int64_t rows() const { return type.getLatents(); }
};

/// Where a staged tensor lies within one stage of the ring.
struct Slot {
  int64_t offset, slotBytes, rowBytes; // bytes of a head's row, between rows
  int64_t size;                        // of all rows
  std::optional<Swizzle> swizzle;      // of a head's rows, where warpgroups read them; else a token's lie side by side
  bool isVector;                       // [heads][tokens] numbers instead of rows
};

/// One copy that a thread makes for each tile of the ring. What does not depend on the tile is computed once.
struct Copy {
  Value tensor;
  Slot slot;
  int64_t chunk;    // bytes
  Value source;     // for the tile that starts at token 0
  Value token;      // of the tile
  Value target;     // bytes from the slot's start
  Value inRange;    // null: always
  int64_t tokensOn; // all of these move on by so many tokens
  /// A loop instead of as many copies one after the other: `times` of them, each `threads / perToken` tokens on from the one before; or, where that is
  /// no whole number, pieces `thread`, `thread + threads`, … of `pieces`, found anew each time.
  int64_t times = 1, pieces = 0;
};
using Copies = SmallVector<Copy>;

struct StageAt {
  Value address; // this worker's head of the staged tile
  Slot slot;
};

struct KernelLowering : Emit {
  tile::ProgramOp program;
  tile::KernelOp kernel;
  tile::ConfigAttr config;
  bool aligned; // rows on 16 bytes: asynchronous copies; otherwise element by element
  bool singleTf32 = false; // one TF32 product where f32's precision takes three
  DenseMap<Value, Tensor> tensors;
  DenseMap<Value, Value> numbers; // and every scalar of the body
  DenseMap<Value, Registers> tiles;
  DenseMap<Value, StageAt> stages;
  /// Of each 16 latents `blockBytes`, in which this operand's are from `offset` on.
  struct Parked {
    tile::StashOp op;
    Value memory; // the head's; null: shared memory
    int64_t offset, registers;
    int64_t lanes; // the first ones, of which all others hold copies
    int64_t blockBytes;
    std::optional<Swizzle> swizzle; // where warpgroups read it: then all blocks, or those of a page, lie so from `offset` on
  };
  DenseMap<Value, Parked> stashes;
  Value tokens, batches, heads, latentBatches, splits;
  std::optional<Tensor> range, mask; // which tokens there are, as given
  Value maskRow;                     // of the range's first token, batch 0
  Value lane, thread, worker, rowWorker, columnWorker, headInBlock, head, headIsReal, firstHead, batch, split, rowGroup;
  Value shared;
  int64_t stashHeadBytes = 0, sharedBytes = 0;
  LogicalResult status = success();
  bool fullTile = false; // is every row of the tile at hand a token?
  bool zeroStays = false; // are products with a constant 0 0, as nobody looks at those with what is no number?

  KernelLowering(OpBuilder builder, Location loc, tile::ProgramOp program, tile::KernelOp kernel, bool aligned)
      : Emit{{builder, loc}}, program(program), kernel(kernel), config(kernel.getConfigAttr()), aligned(aligned) {}

  //-- Lanes and layouts
  /// Σ over lane bits of their step along an axis times `scale`, as i32; runs of doubling steps become one mask and shift.
  Value laneCoordinate(const Layout &l, Axis a);

  //-- Prologue: who am I?
  void identify();
  /// Makes the batch's range of the tokens all there is.
  void keepToRange();
  /// Is token n (i64) there by the mask? Asked only if `valid`; i1.
  Value isThere(Value n, Value valid);
  /// The address of row `row` (i64) of this worker's head.
  Value rowAddress(const Tensor &t, Value row);

  //-- The body
  Value number(Value v) { return numbers.lookup(v); }
  void lowerBlock(Block &block);
  void lower(Operation *op);

  //-- Elementwise
  /// Registers of `v` matched to the registers of a value of type `like`, for all of its blocks.
  Registers matched(Value v, TileType like);
  template <typename Op, typename F> void binary(Op op, F f) {
    TileType t = tileType(op.getOut());
    Registers x = matched(op.getA(), t), y = matched(op.getB(), t), r;
    if (failed(status))
      return;
    for (auto [u, v] : llvm::zip(x, y))
      r.push_back(f(u, v));
    tiles[op.getOut()] = r;
  }
  template <typename Op, typename F> void unary(Op op, F f) {
    Registers r;
    for (Value u : matched(op.getA(), tileType(op.getOut())))
      r.push_back(f(u));
    tiles[op.getOut()] = r;
  }
  void emit(tile::ScaleOp op);
  void emit(tile::BroadcastOp op) { tiles[op.getOut()] = matched(op.getA(), tileType(op.getOut())); }
  void emit(tile::ConstantOp op);
  void emit(tile::CastOp op);
  void emit(tile::SplitOp op);
  void emit(tile::MaskOp op);
  void emit(tile::WhereOp op);

  //-- Exponentials
  void emit(tile::Exp2Op op);
  /// The forms on the FMA pipe, of x = a·factor + shift (factor null: 1; shift a whole number).
  struct Argument {
    Registers a;
    Value factor;
    double shift = 0;
  };
  Argument argumentOf(tile::Exp2Op op);
  Value plus(const Argument &x, size_t i, double c);
  Value poly3(const Argument &x, size_t i);
  Value bits(const Argument &x, size_t i);
  unsigned exponentialPairs = 0; // made so far: which ones go to the FMA pipe
  /// Of tiles whose pairs of registers were made in 16 bits at once: these, null elsewhere.
  DenseMap<Value, Registers> packed;

  //-- Reductions
  void emit(tile::ReduceOp op);
  void emit(tile::ExceedsOp op);
  /// Of this lane.
  Value exceedsHere(tile::ExceedsOp op);
  void emit(tile::WithinOp op);
  void emit(tile::OverflowsOp op);
  /// Of this lane: not 0 if one does.
  Value overflowsHere(tile::OverflowsOp op);
  void emit(tile::SumOp op);
  void emit(tile::TotalOp op);

  //-- Matrix instructions
  Registers structElements(Value s, int n);
  Type f32x4() { return LLVM::LLVMStructType::getLiteral(b.getContext(), SmallVector<Type>(4, f32())); }
  /// acc + A·B; A: 4 registers (K = 16) or 2 (K = 8), B: 2 or 1.
  Registers mma16(Type half, ArrayRef<Value> a, ArrayRef<Value> bs, ArrayRef<Value> acc);
  /// The TF32 part of an f32 and what it leaves; `here`: computed at this place, not before a loop.
  std::pair<Value, Value> splitTf32(Value x, bool here = false);
  DenseMap<Value, std::pair<Value, Value>> tf32;
  /// acc + A·B in f32 as three TF32 products (a·b ≈ ah·bh + ah·bl + al·bh), or one, K = 8: A 4 registers, B 2.
  Registers mmaTf32(ArrayRef<Value> a, ArrayRef<Value> bs, ArrayRef<Value> acc, bool here = false);
  void emit(tile::ContractOp op);
  /// Contraction over channels: the addends' units of 8 channels fill the K of as few instructions as possible.
  void scores(tile::ContractOp op);

  /// What the body of tile.pairs sees of one block of columns.
  struct Column {
    Value number; // i32
    DenseMap<Value, Registers> tiles;
    DenseMap<Value, Value> numbers;
    DenseMap<Value, Registers> packed;
  };

  //-- Matrix instructions of warpgroups
  bool hasGroups() { return kernel.getKind() == "sweep" && config.hasGroups(); }
  /// Where a right operand lies.
  struct RightOperand {
    Value address;
    Swizzle swizzle;
    Value first; // the block of columns (i32) that starts there; null: the first of all
  };
  DenseMap<Value, RightOperand> rightOperands; // by the body's argument
  /// Of a staged tile: does it end up as the right operand of a group's contraction?
  bool isSwizzled(Value v);
  /// Bytes from the start of an atom to chunk `chunk` of row `row` (i32).
  Value swizzled(const Swizzle &swizzle, Value row, Value chunk);
  /// A block of 16 rows, as fragment::column holds it.
  void storeSwizzled(ArrayRef<Value> x, Value p, const Swizzle &swizzle, Value block);
  /// 16 steps of K: four registers of the left operand, the right one, and bytes from there on.
  struct GroupFactor {
    SmallVector<Value> left;
    Value right; // a descriptor's lower half
    int64_t offset;
    Swizzle swizzle;
  };
  /// acc (or nothing) + Σ left·right, of 64 rows and `columns`; K of the right operand along its rows, or along channels.
  Registers groupProduct(Type half, int64_t columns, ArrayRef<GroupFactor> factors, const Registers &acc, bool alongRows);
  void groupContract(tile::ContractOp op, MutableArrayRef<Column> columns);
  /// Is c true in all lanes of those that branch together: the warp, or its group?
  Value allOfGroup(Value c);

  //-- Global memory
  void emit(tile::LoadOp op);
  /// Element loads by layout; rows and channels outside are 0.
  /// `words`: where 16-bit channels came two at once, these; empty otherwise.
  template <typename F> Registers loadRows(const Tensor &t, TileType type, Value at, F address, Registers *words = nullptr) {
    Layout l = layoutOf(type);
    Axis a = type.getM() ? Axis::m : Axis::n;
    int64_t d = t.type.getChannels(), count = l.registerCount();
    Value laneRow = widen(laneCoordinate(l, a)), laneChannel = laneCoordinate(l, Axis::d);
    Value limit = a == Axis::m ? c64(t.rows()) : tokens;
    Registers r;
    Type e = t.type.getElement();
    // Of rows known to be aligned neighbouring channels come together.
    bool pairs = aligned && kernel.getKind() == "sweep" && isHalf(e) && d % 2 == 0 && !l.registers.empty() && l.registers[0] == Basis{Axis::d, 1};
    DenseMap<int64_t, std::pair<Value, Value>> rows; // row offset → address, valid
    for (int64_t block = 0; block < blocksOf(type); ++block)
      for (int64_t i = 0; i < count; ++i) {
        Coordinates c = l.element(int(i), 0);
        int64_t rowOffset = block * tile::blockSize + c[a];
        auto &row = rows[rowOffset];
        if (!row.first) {
          Value index = add(add(at, laneRow), rowOffset);
          row = {address(min(index, add(limit, -1))), lt(index, limit)};
        }
        Value valid = row.second, p = row.first;
        if (d && c[Axis::d] >= roundUp(d, 8)) {
          r.push_back(cf(0));
          if (words && i % 2 == 0)
            words->push_back(c32(0));
          continue;
        }
        if (d) {
          Value channel = add(laneChannel, c[Axis::d]);
          if (type.getD() > d) {
            valid = both(valid, lt(channel, c32(d)));
            channel = min(channel, c32(d - (pairs ? 2 : 1)));
          }
          p = offset(p, widen(mul(channel, bytesOf(e))));
        }
        if (pairs) {
          Value both = select(valid, load(i32(), p, 4), c32(0));
          auto [low, high] = unpack(e, both);
          r.append({low, high});
          if (words)
            words->push_back(both);
          ++i;
          continue;
        }
        r.push_back(select(valid, loadElement(t.type.getElement(), p), cf(0)));
      }
    return r;
  }
  Value loadElement(Type e, Value p);
  void emit(tile::StoreOp op);
  void storeElement(Type e, Value v, Value p);
  void emit(tile::CombineOp op);
  void emit(tile::MaxNormOp op);

  //-- Merges: workers take every workers-th split, then add up in order through shared memory
  Tensor partialAt(Value tensor, Value s, Value batchIndex);
  /// Rows of a partial, `row` and on, of `rows` that start at its row `first` (null: 0); split and batch already in the pointer.
  Registers loadPartial(const Tensor &t, TileType type, Value row, int64_t rows, Value first = {});
  /// The workers' registers of this lane, through shared memory, combined in their order.
  Registers combined(const Registers &mine, llvm::function_ref<Registers(const Registers &, const Registers &)> combine);
  void emit(tile::MergeOp op);
  void emit(tile::MergeSumOp op);
  int64_t copiesOf(Value tensor);

  //-- The stash: latent operands in shared memory (or global memory), in the order in which lanes hold them
  int64_t registersOf(TileType t);
  void emit(tile::StashOp op);
  Value stashBase() { return offset(shared, widen(mul(headInBlock, stashHeadBytes))); }
  /// Registers of the first `lanes` lanes at `p`, up to four of a lane side by side: [chunk][lane][registers of the chunk]. Lanes beyond them copy those.
  void storeRegisters(ArrayRef<Value> x, Value p, int64_t lanes = 32);
  Registers loadRegisters(Type e, int64_t registers, Value p, int64_t lanes = 32);
  /// Where a lane has `n` registers from the `first` on.
  Value chunkAt(Value p, int64_t first, int64_t n, int64_t lanes) {
    return offset(offset(p, first * lanes * 4), widen(mul(lanes == 32 ? lane : andBits(lane, lanes - 1), n * 4)));
  }
  static int64_t chunkOf(int64_t left) { return left >= 4 ? 4 : left >= 2 ? 2 : 1; }
  void storeVector(ArrayRef<Value> x, Value p);
  Registers loadVector(Type e, int64_t n, Value p);
  /// One block of 16 latents of a stash, `block` an i32.
  Registers fetch(Value stash, Value block, TileType type);
  Value stashPointer;
  /// The column block `column` (i32) of this worker, among all.
  Value columnBlock(Parked p, Value column);

  //-- Pages: what groups multiply by and shared memory has no room for
  struct Pages {
    int64_t blocks, bytes, count; // of 16 latents in a page; of a page; pages of a head
    Value memory;                 // where the head's lie
    Value slot;                   // of the ring, where the tile's first page is (i32)
    Value address, first;         // of the page at hand: where it is, and its first block of columns (i32)
    int64_t met;                  // tile.pairs that read them, in the body at hand
  };
  std::optional<Pages> pages;
  void sendForPage(Value page, Value slot);
  /// Before the first tile.
  void beginPages();
  /// At each tile's start, after so many of this block's.
  void pagesOfTile(Value tilesBefore);
  void takePage(Value page);

  //-- The ring of staged tokens
  SmallVector<Slot> slots;
  int64_t stageBytes = 0, ringOffset = 0, combineOffset = 0;
  /// Of a worker's parts of sums over columns.
  int64_t combineBytes(tile::StreamOp op);
  /// Rows are copied in the largest power of two of bytes that divides them, 16 at most.
  int64_t chunkBytes(FlareTensorType t) { return rowAlignment(t); }
  void planRing(tile::StreamOp op);
  Copies planCopies(tile::StreamOp op);
  /// Source, token and target of piece i of a tile.
  void locate(Copy &c, Value i);
  int64_t piecesPerToken(const Copy &c);
  /// Where the next tile to be copied lies, carried from tile to tile: how many tokens are left from its first one on (i32, any number below 0 where there
  /// are none), and for each tensor of the stream the bytes from token 0.
  struct Cursor {
    Value left;
    Registers bytes;
    Value first; // token (i64), for masks
  };
  Cursor cursorAt(tile::StreamOp op, Value tile);
  Cursor advance(tile::StreamOp op, const Cursor &cursor);
  /// Starts the copies of a tile into a stage.
  void issue(tile::StreamOp op, const Copies &copies, const Cursor &cursor, Value stageBase);
  /// Channels that pad a row to 8 are zero for ever.
  void clearPadding(tile::StreamOp op);
  void emit(tile::StreamOp op);
  void flatten(Value v, Registers &out);
  void unflatten(Value v, ValueRange from, unsigned &next);
  void emit(scf::IfOp op);
  void emit(tile::BoundedOp op);

  //-- Reading staged rows
  void emit(tile::ReadOp op);
  /// One block of 16 rows, first row `row` (i32).
  Registers readStage(const StageAt &s, tile::StageType stage, TileType type, Value row);
  /// The same of 16-bit channels, `present` of which are there.
  Registers readMatrices(const StageAt &s, const Layout &l, Value row, int64_t present);

  //-- Blocks of scores
  void emit(tile::PairsOp op);
  bool addsUp(tile::PairsOp op);
  Registers flattened(ArrayRef<Registers> state);
  void unflatten(ValueRange from, SmallVector<Registers> &state);
  /// A loop that carries the state.
  void columnLoop(Value first, Value last, int64_t step, SmallVector<Registers> &state, llvm::function_ref<void(Value)> body);
  /// All columns, page by page.
  void paged(tile::PairsOp op, int64_t unroll, int64_t rowBlocks, SmallVector<Registers> &state);
  /// Blocks of columns `from` to `looped`, `unroll` in line, in chunks with sums of their own.
  void columns(tile::PairsOp op, int64_t from, int64_t chunk, int64_t looped, int64_t unroll, int64_t rowBlocks, SmallVector<Registers> &state);
  /// The column's part of what streams by, and the row's parts of what stays.
  void bindColumn(tile::PairsOp op, BlockArgument arg, Value col);
  void bindRow(tile::PairsOp op, int64_t row, const SmallVector<Registers> &state, int64_t column = 0);
  void takeRow(tile::PairsOp op, int64_t row, SmallVector<Registers> &state, int64_t column = 0);
  /// `count` blocks of columns against all row blocks.
  void several(tile::PairsOp op, Value first, int64_t count, int64_t rowBlocks, SmallVector<Registers> &state);
  /// The same, op by op.
  void together(tile::PairsOp op, Value first, int64_t count, int64_t rowBlocks, SmallVector<Registers> &state);
  /// `work` with what the column sees.
  void within(Column &c, llvm::function_ref<void()> work);
  /// Columns past the last token are masked in tiles that have any.
  void maskLast(tile::MaskOp op, MutableArrayRef<Column> columns);
  /// Where references are raised for the columns of a block of rows together: a branch, and what says that one is exceeded.
  void raise(tile::ExceedsOp exceeds, scf::IfOp branch, MutableArrayRef<Column> columns);
  /// One block of columns against all row blocks.
  void column(tile::PairsOp op, Value col, int64_t rowBlocks, SmallVector<Registers> &state);
  /// The same, all row blocks up to their `tile.overflows` first. Failure: there is none.
  LogicalResult rowsTogether(tile::PairsOp op, int64_t rowBlocks, llvm::function_ref<void(int64_t)> bind, llvm::function_ref<void(int64_t)> take);
  /// Constants stay constants, so that masks can see them.
  Value fold(Value v);
};

} // namespace flarec::nvvm
