// tile-to-nvvm: one lane's program.
//
// A block is heads × workers warps. Warp w works on head w / workers of the block's head group, as worker w % workers. The tokens
// of a tile lie in a ring of stages in shared memory, row after row with all of the block's heads side by side; 16 bytes between rows
// (32 for f32) keep the eight rows of a fragment in different banks.
#include "layout/Layout.h"
#include "passes/Manifest.h"
#include "passes/Passes.h"
#include "passes/Registers.h"
#include "tile/Tile.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/BuiltinOps.h"
#include "llvm/ADT/TypeSwitch.h"

namespace flarec {
#define GEN_PASS_DEF_TILETONVVM
#include "passes/Passes.h.inc"
} // namespace flarec

using namespace mlir;
using namespace flarec;
using flare::FlareTensorType;
using flare::Index;
using tile::TileType;

namespace {

TileType tileType(Value v) { return cast<TileType>(v.getType()); }
int64_t bytesOf(Type t) { return t.getIntOrFloatBitWidth() / 8; }
bool isHalf(Type t) { return t.getIntOrFloatBitWidth() == 16; }

/// Scalars and intrinsics under short names.
struct Emit {
  OpBuilder b;
  Location loc;

  Type f32() { return b.getF32Type(); }
  Type i32() { return b.getI32Type(); }
  Type i64() { return b.getI64Type(); }
  Type pair16(Type half) { return VectorType::get(2, half); }
  Type pointer(unsigned space) { return LLVM::LLVMPointerType::get(b.getContext(), space); }

  Value c32(int64_t v) { return arith::ConstantOp::create(b, loc, b.getI32IntegerAttr(v)); }
  Value c64(int64_t v) { return arith::ConstantOp::create(b, loc, b.getI64IntegerAttr(v)); }
  Value cf(double v) { return arith::ConstantOp::create(b, loc, b.getF32FloatAttr(v)); }
  Value constantLike(Value like, int64_t v) { return like.getType().isInteger(64) ? c64(v) : c32(v); }

  Value add(Value x, Value y) { return arith::AddIOp::create(b, loc, x, y); }
  Value sub(Value x, Value y) { return arith::SubIOp::create(b, loc, x, y); }
  Value mul(Value x, Value y) { return arith::MulIOp::create(b, loc, x, y); }
  Value mul(Value x, int64_t y) { return y == 1 ? x : mul(x, constantLike(x, y)); }
  Value add(Value x, int64_t y) { return y == 0 ? x : add(x, constantLike(x, y)); }
  Value div(Value x, Value y) { return arith::DivUIOp::create(b, loc, x, y); }
  Value rem(Value x, Value y) { return arith::RemUIOp::create(b, loc, x, y); }
  Value div(Value x, int64_t y) { return div(x, constantLike(x, y)); }
  Value rem(Value x, int64_t y) { return rem(x, constantLike(x, y)); }
  Value andBits(Value x, int64_t y) { return arith::AndIOp::create(b, loc, x, constantLike(x, y)); }
  Value orBits(Value x, Value y) { return arith::OrIOp::create(b, loc, x, y); }
  Value xorBits(Value x, Value y) { return arith::XOrIOp::create(b, loc, x, y); }
  Value shr(Value x, int64_t y) { return y ? arith::ShRUIOp::create(b, loc, x, constantLike(x, y)) : x; }
  Value shl(Value x, int64_t y) { return y ? arith::ShLIOp::create(b, loc, x, constantLike(x, y)) : x; }
  Value widen(Value x) { return arith::ExtUIOp::create(b, loc, i64(), x); }
  Value narrow(Value x) { return arith::TruncIOp::create(b, loc, i32(), x); }
  Value lt(Value x, Value y) { return arith::CmpIOp::create(b, loc, arith::CmpIPredicate::slt, x, y); }
  Value both(Value x, Value y) { return arith::AndIOp::create(b, loc, x, y); }
  Value min(Value x, Value y) { return arith::MinSIOp::create(b, loc, x, y); }
  Value max(Value x, Value y) { return arith::MaxSIOp::create(b, loc, x, y); }
  Value select(Value c, Value x, Value y) { return arith::SelectOp::create(b, loc, c, x, y); }
  Value bitcast(Type t, Value x) { return LLVM::BitcastOp::create(b, loc, t, x); }

  // `contract` alone: a multiply and an add may fuse, nothing else may change (design.md trap 15).
  arith::FastMathFlagsAttr contract() { return arith::FastMathFlagsAttr::get(b.getContext(), arith::FastMathFlags::contract); }
  Value fadd(Value x, Value y) { return arith::AddFOp::create(b, loc, x, y, contract()); }
  Value fsub(Value x, Value y) { return arith::SubFOp::create(b, loc, x, y, contract()); }
  Value fmul(Value x, Value y) { return arith::MulFOp::create(b, loc, x, y, contract()); }
  Value fneg(Value x) { return arith::NegFOp::create(b, loc, x); }

  Value intrinsic(StringRef name, Type result, ValueRange args) {
    return LLVM::CallIntrinsicOp::create(b, loc, result, b.getStringAttr(name), args).getResult(0);
  }
  void intrinsic(StringRef name, ValueRange args) {
    LLVM::CallIntrinsicOp::create(b, loc, b.getStringAttr(name), args);
  }
  Value assembly(Type result, StringRef text, StringRef constraints, ValueRange args) {
    return LLVM::InlineAsmOp::create(b, loc, result, args, text, constraints, false, false, LLVM::tailcallkind::TailCallKind::None,
                                     LLVM::AsmDialectAttr::get(b.getContext(), LLVM::AsmDialect::AD_ATT), ArrayAttr())
        .getResult(0);
  }
  Value exp2(Value x) { return intrinsic("llvm.nvvm.ex2.approx.ftz.f32", f32(), x); }
  Value log2(Value x) { return intrinsic("llvm.nvvm.lg2.approx.ftz.f", f32(), x); }
  Value rcp(Value x) { return intrinsic("llvm.nvvm.rcp.approx.ftz.f", f32(), x); }
  Value sqrt(Value x) { return intrinsic("llvm.nvvm.sqrt.approx.ftz.f", f32(), x); }
  Value maxNaN(Value x, Value y) { return intrinsic("llvm.nvvm.fmax.nan.f", f32(), {x, y}); }
  Value shuffleXor(Value x, int64_t mask) {
    return intrinsic("llvm.nvvm.shfl.sync.bfly.f32", f32(), {c32(-1), x, c32(mask), c32(31)});
  }
  Value allLanes(Value c) { return intrinsic("llvm.nvvm.vote.all.sync", b.getI1Type(), {c32(-1), c}); }
  void barrier() { intrinsic("llvm.nvvm.barrier.cta.sync.aligned.all", c32(0)); }

  // Two f32 in one register as bf16 or f16, the first in the lower half.
  Value pack(Type half, Value low, Value high) {
    StringRef name = half.isBF16() ? "llvm.nvvm.ff2bf16x2.rn" : "llvm.nvvm.ff2f16x2.rn";
    return bitcast(i32(), intrinsic(name, pair16(half), {high, low}));
  }
  std::pair<Value, Value> unpack(Type half, Value x) {
    if (half.isBF16())
      return {bitcast(f32(), shl(x, 16)), bitcast(f32(), andBits(x, 0xffff0000))};
    Value v = bitcast(pair16(half), x);
    auto at = [&](int i) -> Value {
      return arith::ExtFOp::create(b, loc, f32(), Value(LLVM::ExtractElementOp::create(b, loc, v, c32(i))));
    };
    return {at(0), at(1)};
  }

  Value offset(Value base, Value bytes) {
    return LLVM::GEPOp::create(b, loc, base.getType(), b.getI8Type(), base, ValueRange{bytes});
  }
  Value offset(Value base, int64_t bytes) {
    return bytes ? Value(LLVM::GEPOp::create(b, loc, base.getType(), b.getI8Type(), base, ArrayRef<LLVM::GEPArg>{int32_t(bytes)})) : base;
  }
  Value load(Type t, Value p, int64_t align) { return LLVM::LoadOp::create(b, loc, t, p, align); }
  void store(Value v, Value p, int64_t align) { LLVM::StoreOp::create(b, loc, v, p, align); }
  Value element(Value aggregate, int64_t i) { return LLVM::ExtractValueOp::create(b, loc, aggregate, i); }

  template <typename F> void onlyIf(Value condition, F body) {
    auto op = scf::IfOp::create(b, loc, condition, false);
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(op.thenBlock());
    body();
  }
};

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
  bool isVector;                       // [heads][tokens] numbers instead of rows
};

struct StageAt {
  Value address; // this worker's head of the staged tile
  Slot slot;
};

struct KernelLowering : Emit {
  tile::ProgramOp program;
  tile::KernelOp kernel;
  tile::ConfigAttr config;
  bool aligned; // rows on 16 bytes: asynchronous copies; otherwise element by element
  DenseMap<Value, Tensor> tensors;
  DenseMap<Value, Value> numbers; // and every scalar of the body
  DenseMap<Value, Registers> tiles;
  DenseMap<Value, StageAt> stages;
  struct Parked {
    int64_t offset, registers;
    tile::StashOp op;
    unsigned result;
  };
  DenseMap<Value, Parked> stashes;
  Value tokens, batches, heads, latentBatches, splits;
  Value lane, thread, worker, headInBlock, head, headIsReal, firstHead, batch, split, rowGroup;
  Value shared;
  int64_t stashHeadBytes = 0, sharedBytes = 0;
  LogicalResult status = success();

  KernelLowering(OpBuilder builder, Location loc, tile::ProgramOp program, tile::KernelOp kernel, bool aligned)
      : Emit{builder, loc}, program(program), kernel(kernel), config(kernel.getConfigAttr()), aligned(aligned) {}

  //-- Lanes and layouts

  /// Σ over lane bits of their step along an axis times `scale`, as i32; runs of doubling steps become one mask and shift.
  Value laneCoordinate(const Layout &l, Axis a) {
    Value sum;
    for (size_t i = 0; i < l.lanes.size();) {
      if (l.lanes[i].step == 0 || l.lanes[i].axis != a) {
        ++i;
        continue;
      }
      size_t j = i + 1;
      while (j < l.lanes.size() && l.lanes[j].axis == a && l.lanes[j].step == l.lanes[j - 1].step * 2)
        ++j;
      Value bits = andBits(shr(lane, i), (int64_t(1) << (j - i)) - 1);
      Value part = mul(bits, l.lanes[i].step);
      sum = sum ? add(sum, part) : part;
      i = j;
    }
    return sum ? sum : c32(0);
  }

  //-- Prologue: who am I?

  void identify() {
    thread = intrinsic("llvm.nvvm.read.ptx.sreg.tid.x", i32(), {});
    lane = andBits(thread, 31);
    Value warp = shr(thread, 5);
    Value block = widen(intrinsic("llvm.nvvm.read.ptx.sreg.ctaid.x", i32(), {}));
    if (kernel.getKind() == "merge") {
      // block = (b·H + h)·(blocks a head) + which latents
      int64_t perHead = mergeBlocks();
      rowGroup = rem(block, perHead);
      Value bh = div(block, perHead);
      head = rem(bh, heads);
      batch = div(bh, heads);
      headIsReal = arith::ConstantOp::create(b, loc, b.getBoolAttr(true));
      worker = warp;
      return;
    }
    int64_t perBlock = config.getHeads();
    Value groups = div(add(heads, perBlock - 1), perBlock);
    Value headGroup = rem(block, groups);
    Value rest = div(block, groups);
    rowGroup = rem(rest, config.getRowGroups());
    rest = div(rest, config.getRowGroups());
    split = rem(rest, splits);
    batch = div(rest, splits);
    worker = rem(warp, config.getWorkers());
    headInBlock = div(warp, config.getWorkers());
    firstHead = mul(headGroup, perBlock);
    Value h = add(firstHead, widen(headInBlock));
    headIsReal = lt(h, heads);
    head = min(h, add(heads, -1));
  }

  int64_t mergeBlocks() {
    int64_t latents = 1;
    kernel.walk([&](tile::StoreOp s) { latents = s.getTensor().getType().getLatents(); });
    return (latents + 31) / 32;
  }

  /// The address of row `row` (i64) of this worker's head.
  Value rowAddress(const Tensor &t, Value row) {
    Value offsetElements = add(add(mul(batchOf(t), t.strideB), mul(head, t.strideH)), mul(row, t.strideRow));
    return offset(t.pointer, mul(offsetElements, bytesOf(t.type.getElement())));
  }
  Value batchOf(const Tensor &) { return batch; }

  //-- The body

  Value number(Value v) { return numbers.lookup(v); }

  void lowerBlock(Block &block) {
    for (Operation &op : block.without_terminator()) {
      if (failed(status))
        return;
      lower(&op);
    }
  }

  void lower(Operation *op) {
    TypeSwitch<Operation *>(op)
        .Case<tile::LoadOp, tile::ReadOp, tile::StoreOp, tile::MergeOp, tile::MergeSumOp, tile::MaxNormOp, tile::BoundedOp, tile::StreamOp,
              tile::PairsOp, tile::StashOp, tile::ContractOp, tile::SumOp, tile::TotalOp, tile::ReduceOp, tile::SplitOp, tile::MaskOp,
              tile::CastOp, tile::ConstantOp, tile::BroadcastOp, tile::ScaleOp, scf::IfOp>([&](auto o) { emit(o); })
        .Case([&](tile::AddOp o) { binary(o, [&](Value x, Value y) { return fadd(x, y); }); })
        .Case([&](tile::SubOp o) { binary(o, [&](Value x, Value y) { return fsub(x, y); }); })
        .Case([&](tile::MulOp o) { binary(o, [&](Value x, Value y) { return fmul(x, y); }); })
        .Case([&](tile::MaxOp o) { binary(o, [&](Value x, Value y) { return maxNaN(x, y); }); })
        .Case([&](tile::NegOp o) { unary(o, [&](Value x) { return fneg(x); }); })
        .Case([&](tile::Exp2Op o) { unary(o, [&](Value x) { return exp2(x); }); })
        .Case([&](tile::Log2Op o) { unary(o, [&](Value x) { return log2(x); }); })
        .Case([&](tile::RcpOp o) { unary(o, [&](Value x) { return rcp(x); }); })
        .Case([&](tile::TokensOp o) { numbers[o] = tokens; })
        .Case([&](tile::WorkerRowOp o) { numbers[o] = widen(mul(worker, config.getWorkerRows())); })
        .Case([&](arith::ConstantOp o) {
          if (auto i = dyn_cast<IntegerAttr>(o.getValue()); i && o.getType().isIndex())
            numbers[o] = c64(i.getInt());
          else
            numbers[o] = arith::ConstantOp::create(b, loc, o.getValue());
        })
        .Case([&](arith::AddIOp o) { numbers[o] = add(number(o.getLhs()), number(o.getRhs())); })
        .Case([&](arith::AndIOp o) { numbers[o] = both(number(o.getLhs()), number(o.getRhs())); })
        .Case([&](arith::MulFOp o) { numbers[o] = arith::MulFOp::create(b, loc, number(o.getLhs()), number(o.getRhs())); })
        .Default([&](Operation *o) { status = o->emitOpError("has no lowering to the GPU"); });
  }

  //-- Elementwise

  /// Registers of `v` matched to the registers of a value of type `like`, for all of its blocks.
  Registers matched(Value v, TileType like) {
    TileType t = tileType(v);
    const Registers &from = tiles[v];
    if (t.getLayout() == like.getLayout() && from.size() && blocksOf(t) == blocksOf(like))
      return from;
    Layout l = layoutOf(t), target = layoutOf(like);
    int64_t count = target.registerCount(), own = l.registerCount();
    Registers r;
    for (int64_t block = 0; block < blocksOf(like); ++block)
      for (int64_t i = 0; i < count; ++i) {
        int m = l.matching(target, int(i));
        int64_t fromBlock = blocksOf(t) == 1 ? 0 : block;
        if (m < 0 || fromBlock * own + m >= int64_t(from.size())) {
          status = emitError(loc) << "cannot broadcast " << t << " to " << like;
          return {};
        }
        r.push_back(from[fromBlock * own + m]);
      }
    return r;
  }

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

  void emit(tile::ScaleOp op) {
    Value f = number(op.getFactor());
    unary(op, [&](Value x) { return fmul(x, f); });
  }
  void emit(tile::BroadcastOp op) { tiles[op.getOut()] = matched(op.getA(), tileType(op.getOut())); }

  void emit(tile::ConstantOp op) {
    TileType t = tileType(op.getOut());
    Value v = cf(op.getValue().convertToDouble());
    tiles[op.getOut()] = Registers(blocksOf(t) * layoutOf(t).registerCount(), v);
  }

  void emit(tile::CastOp op) {
    Type from = tileType(op.getA()).getElement(), to = tileType(op.getOut()).getElement();
    const Registers x = tiles[op.getA()];
    Registers r;
    if (from == to) {
      r = x;
    } else if (isHalf(to)) {
      for (size_t i = 0; i + 1 < x.size(); i += 2)
        r.push_back(pack(to, x[i], x[i + 1]));
    } else {
      for (Value v : x) {
        auto [low, high] = unpack(from, v);
        r.push_back(low);
        r.push_back(high);
      }
    }
    tiles[op.getOut()] = r;
  }

  void emit(tile::SplitOp op) {
    Type half = tileType(op.getHi()).getElement();
    const Registers x = tiles[op.getA()];
    Registers hi, lo;
    for (size_t i = 0; i + 1 < x.size(); i += 2) {
      Value h = pack(half, x[i], x[i + 1]);
      auto [h0, h1] = unpack(half, h);
      hi.push_back(h);
      // No `contract` here: what rounding took away must survive exactly.
      lo.push_back(pack(half, arith::SubFOp::create(b, loc, x[i], h0), arith::SubFOp::create(b, loc, x[i + 1], h1)));
    }
    tiles[op.getHi()] = hi;
    tiles[op.getLo()] = lo;
  }

  void emit(tile::MaskOp op) {
    TileType t = tileType(op.getX());
    Layout l = layoutOf(t);
    Axis a = Axis(int(op.getOver()));
    const Registers x = tiles[op.getX()];
    // Known at compile time: a block that ends before the limit needs no mask.
    auto limitConst = op.getLimit().getDefiningOp<arith::ConstantIndexOp>();
    APInt first;
    if (limitConst && matchPattern(number(op.getFirst()), m_ConstantInt(&first)) &&
        first.getSExtValue() + tile::blockSize <= limitConst.value()) {
      tiles[op.getOut()] = x;
      return;
    }
    Value fill = cf(op.getFill().convertToDouble());
    Value left = sub(number(op.getLimit()), number(op.getFirst())); // valid are those below
    left = narrow(max(min(left, c64(tile::blockSize)), c64(0)));
    left = sub(left, laneCoordinate(l, a));
    Registers r;
    for (auto [i, v] : llvm::enumerate(x))
      r.push_back(select(lt(c32(l.element(int(i), 0)[a]), left), v, fill));
    tiles[op.getOut()] = r;
  }

  //-- Reductions

  void emit(tile::ReduceOp op) {
    TileType from = tileType(op.getX()), to = tileType(op.getOut());
    Layout l = layoutOf(from), target = layoutOf(to);
    Axis a = Axis(int(op.getOver()));
    bool isMax = op.getKind() == "max";
    auto combine = [&](Value x, Value y) { return !x ? y : isMax ? maxNaN(x, y) : fadd(x, y); };
    const Registers x = tiles[op.getX()];
    Registers r(blocksOf(to) * target.registerCount());
    int64_t count = l.registerCount();
    for (int64_t block = 0; block < blocksOf(from); ++block)
      for (int64_t i = 0; i < count; ++i) {
        int m = target.matching(l, int(i));
        if (m < 0) {
          status = op.emitOpError("result layout does not fit");
          return;
        }
        Value &slot = r[block * target.registerCount() + m];
        slot = combine(slot, x[block * count + i]);
      }
    for (size_t bit = 0; bit < l.lanes.size(); ++bit)
      if (l.lanes[bit].step && l.lanes[bit].axis == a)
        for (Value &v : r)
          v = combine(v, shuffleXor(v, int64_t(1) << bit));
    tiles[op.getOut()] = r;
  }

  void emit(tile::SumOp op) {
    TileType t = tileType(op.getX());
    Registers acc = tiles[op.getAcc()];
    const Registers x = tiles[op.getX()];
    if (isHalf(t.getElement())) {
      // A product with ones: the sum of the weights as rounded, on the tensor cores.
      Value ones = c32(t.getElement().isBF16() ? 0x3f803f80 : 0x3c003c00);
      tiles[op.getOut()] = mma16(t.getElement(), x, {ones, ones}, acc);
      return;
    }
    Layout l = layoutOf(t), target = layoutOf(tileType(op.getOut()));
    for (int i = 0; i < l.registerCount(); ++i) {
      int m = target.matching(l, i);
      acc[m] = fadd(acc[m], x[i]);
    }
    tiles[op.getOut()] = acc;
  }

  void emit(tile::TotalOp op) {
    TileType from = tileType(op.getX()), to = tileType(op.getOut());
    Registers r = tiles[op.getX()];
    if (from.getLayout() != to.getLayout()) {
      r = matched(op.getX(), to); // even and odd columns hold the same
    } else {
      Layout pairs = fragment::pair(Axis(int(config.getRows())), Axis(int(tile::columnsOf(config.getRows()))));
      for (size_t bit = 0; bit < pairs.lanes.size(); ++bit)
        if (pairs.lanes[bit].axis == Axis(int(tile::columnsOf(config.getRows()))))
          for (Value &v : r)
            v = fadd(v, shuffleXor(v, int64_t(1) << bit));
    }
    tiles[op.getOut()] = r;
  }

  //-- Matrix instructions

  Registers structElements(Value s, int n) {
    Registers r;
    for (int i = 0; i < n; ++i)
      r.push_back(element(s, i));
    return r;
  }
  Type f32x4() { return LLVM::LLVMStructType::getLiteral(b.getContext(), SmallVector<Type>(4, f32())); }

  /// acc + A·B; A: 4 registers (K = 16) or 2 (K = 8), B: 2 or 1.
  Registers mma16(Type half, ArrayRef<Value> a, ArrayRef<Value> bs, ArrayRef<Value> acc) {
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

  /// The TF32 part of an f32 and what it leaves.
  std::pair<Value, Value> splitTf32(Value x) {
    auto &known = tf32[x];
    if (!known.first) {
      known.first = intrinsic("llvm.nvvm.f2tf32.rna", i32(), x);
      // The hardware would cut the rest's last bits off; rounding them halves the error and takes its bias away.
      known.second = intrinsic("llvm.nvvm.f2tf32.rna", i32(), Value(arith::SubFOp::create(b, loc, x, bitcast(f32(), known.first))));
    }
    return known;
  }
  DenseMap<Value, std::pair<Value, Value>> tf32;

  /// acc + A·B in f32 as three TF32 products (a·b ≈ ah·bh + ah·bl + al·bh), K = 8: A 4 registers, B 2.
  Registers mmaTf32x3(ArrayRef<Value> a, ArrayRef<Value> bs, ArrayRef<Value> acc) {
    SmallVector<Value> ah, al, bh, bl;
    for (Value v : a) {
      auto [h, l] = splitTf32(v);
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
    for (auto [x, y] : {first, second, std::pair(&ah, &bh)}) {
      SmallVector<Value> args(*x);
      llvm::append_range(args, *y);
      llvm::append_range(args, r);
      r = structElements(intrinsic("llvm.nvvm.mma.m16n8k8.row.col.tf32", f32x4(), args), 4);
    }
    return r;
  }

  void emit(tile::ContractOp op) {
    TileType out = tileType(op.getOut());
    if (op.getOver() == Index::d)
      return scores(op);
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
        Registers sum(4, cf(0));
        for (int half = 0; half < 2; ++half) { // columns 0-7 and 8-15
          auto at = [&](int c1, int r8) { return p[c1 + 2 * r8 + 4 * half]; };
          sum = mmaTf32x3({at(0, 0), at(0, 1), at(1, 0), at(1, 1)}, {w[2 * half + 4 * u], w[1 + 2 * half + 4 * u]}, sum);
        }
        for (int i = 0; i < 4; ++i)
          acc[4 * u + i] = fadd(acc[4 * u + i], sum[i]);
      }
    }
    tiles[op.getOut()] = acc;
  }

  /// Contraction over channels: the addends' units of 8 channels fill the K of as few instructions as possible.
  void scores(tile::ContractOp op) {
    Type element = tileType(op.getA().front()).getElement();
    int units = int(tileType(op.getA().front()).getD() / 8);
    Registers result(8);
    Value zero = cf(0);
    for (int half = 0; half < 2; ++half) { // columns 0-7 and 8-15
      Registers acc(4, zero);
      if (op.getAcc())
        for (int i = 0; i < 4; ++i)
          acc[i] = tiles[op.getAcc()][4 * half + i];
      SmallVector<std::pair<SmallVector<Value>, Value>> slots; // 16 bit: a unit's A registers and B register
      for (auto [av, bv] : llvm::zip(op.getA(), op.getB())) {
        const Registers a = tiles[av], w = tiles[bv];
        for (int u = 0; u < units; ++u) {
          if (isHalf(element)) {
            slots.push_back({{a[2 * u], a[2 * u + 1]}, w[u + units * half]});
          } else {
            auto at = [&](int d1, int r8) { return a[d1 + 2 * r8 + 4 * u]; };
            SmallVector<Value> left{at(0, 0), at(0, 1), at(1, 0), at(1, 1)}, right{w[2 * u + 2 * units * half], w[1 + 2 * u + 2 * units * half]};
            if (u == 0) {
              acc = mmaTf32x3(left, right, acc);
            } else { // rounding additions between units, as for weights
              Registers sum = mmaTf32x3(left, right, Registers(4, zero));
              for (int i = 0; i < 4; ++i)
                acc[i] = fadd(acc[i], sum[i]);
            }
          }
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

  //-- Global memory

  void emit(tile::LoadOp op) {
    const Tensor &t = tensors[op.getTensor()];
    TileType type = tileType(op.getTile());
    Value at = number(op.getAt());
    tiles[op.getTile()] = loadRows(t, type, at, [&](Value row) { return rowAddress(t, row); });
  }

  /// Element loads by layout; rows and channels outside are 0.
  template <typename F> Registers loadRows(const Tensor &t, TileType type, Value at, F address) {
    Layout l = layoutOf(type);
    Axis a = type.getM() ? Axis::m : Axis::n;
    int64_t d = t.type.getChannels(), count = l.registerCount();
    Value laneRow = widen(laneCoordinate(l, a)), laneChannel = laneCoordinate(l, Axis::d);
    Value limit = a == Axis::m ? c64(t.rows()) : tokens;
    Registers r;
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
        if (d) {
          Value channel = add(laneChannel, c[Axis::d]);
          if (type.getD() > d) {
            valid = both(valid, lt(channel, c32(d)));
            channel = min(channel, c32(d - 1));
          }
          p = offset(p, widen(mul(channel, bytesOf(t.type.getElement()))));
        }
        r.push_back(select(valid, loadElement(t.type.getElement(), p), cf(0)));
      }
    return r;
  }

  Value loadElement(Type e, Value p) {
    if (e.isF32())
      return load(f32(), p, 4);
    Value bits = load(b.getI16Type(), p, 2);
    if (e.isBF16())
      return bitcast(f32(), shl(arith::ExtUIOp::create(b, loc, i32(), bits), 16));
    return arith::ExtFOp::create(b, loc, f32(), bitcast(e, bits));
  }

  void emit(tile::StoreOp op) {
    Tensor t = tensors[op.getTensor()];
    TileType type = tileType(op.getTile());
    Layout l = layoutOf(type);
    Axis a = type.getM() ? Axis::m : Axis::n;
    int64_t d = t.type.getChannels(), count = l.registerCount();
    Type e = t.type.getElement();
    Value at = number(op.getAt());
    Value base = t.pointer;
    Value limit = a == Axis::m ? c64(t.rows()) : tokens;
    Value first = at;
    if (op.getPartial()) {
      // This split's copy [b][split][h]; workers with tokens for rows have copies of their own.
      Value splitStride = mul(heads, t.rows() * std::max<int64_t>(1, d));
      base = offset(base, mul(mul(split, splitStride), bytesOf(e)));
      if (config.getRows() == Index::n) {
        int64_t copyRows = t.rows() / config.getWorkers();
        first = add(at, widen(mul(worker, copyRows)));
      }
    }
    Tensor target = t;
    target.pointer = base;
    Value laneRow = widen(laneCoordinate(l, a)), laneChannel = laneCoordinate(l, Axis::d);
    Value mine = headIsReal;
    int64_t copies = 0; // lanes that hold what another one holds
    for (size_t i = 0; i < l.lanes.size(); ++i)
      if (l.lanes[i].step == 0)
        copies |= int64_t(1) << i;
    if (copies)
      mine = both(mine, arith::CmpIOp::create(b, loc, arith::CmpIPredicate::eq, andBits(lane, copies), c32(0)));
    if (kernel.getKind() == "merge") // only one warp holds the result
      mine = both(mine, arith::CmpIOp::create(b, loc, arith::CmpIPredicate::eq, worker, c32(0)));
    const Registers x = tiles[op.getTile()];
    // Group registers by row.
    std::map<int64_t, SmallVector<std::pair<int64_t, Value>>> rows;
    for (int64_t block = 0; block < blocksOf(type); ++block)
      for (int64_t i = 0; i < count; ++i) {
        Coordinates c = l.element(int(i), 0);
        auto &row = rows[block * tile::blockSize + c[a]];
        if (llvm::none_of(row, [&](auto &p) { return p.first == c[Axis::d]; }))
          row.push_back({c[Axis::d], x[block * count + i]});
      }
    for (auto &[rowOffset, values] : rows) {
      Value index = add(add(first, laneRow), rowOffset);
      Value valid = both(mine, lt(index, limit));
      auto &list = values;
      onlyIf(valid, [&] {
        Value p = rowAddress(target, index);
        if (!d) {
          storeElement(e, list[0].second, p);
          return;
        }
        for (size_t i = 0; i < list.size();) {
          // Two neighbouring channels in one store where the alignment is known.
          bool two = i + 1 < list.size() && list[i + 1].first == list[i].first + 1 && list[i].first % 2 == 0 && (aligned || op.getPartial());
          Value channel = add(laneChannel, list[i].first);
          auto write = [&, i] {
            Value q = offset(p, widen(mul(channel, bytesOf(e))));
            if (!two) {
              storeElement(e, list[i].second, q);
            } else if (e.isF32()) {
              Value v = LLVM::UndefOp::create(b, loc, VectorType::get(2, f32()));
              v = LLVM::InsertElementOp::create(b, loc, v, list[i].second, c32(0));
              v = LLVM::InsertElementOp::create(b, loc, v, list[i + 1].second, c32(1));
              store(v, q, 8);
            } else {
              store(pack(e, list[i].second, list[i + 1].second), q, 4);
            }
          };
          if (type.getD() > d)
            onlyIf(lt(channel, c32(d)), write);
          else
            write();
          i += two ? 2 : 1;
        }
      });
    }
  }

  void storeElement(Type e, Value v, Value p) {
    if (e.isF32()) {
      store(v, p, 4);
      return;
    }
    Value packed = pack(e, v, cf(0));
    store(arith::TruncIOp::create(b, loc, b.getI16Type(), packed), p, 2);
  }

  void emit(tile::MaxNormOp op) {
    const Tensor &t = tensors[op.getTensor()];
    int64_t d = t.type.getChannels(), rows = t.rows();
    auto loop = scf::ForOp::create(b, loc, c32(0), c32((rows + 31) / 32 * 32), c32(32), ValueRange{cf(0)});
    {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(loop.getBody());
      Value row = widen(min(add(loop.getInductionVar(), lane), c32(rows - 1)));
      Value p = rowAddress(t, row), sum = cf(0);
      for (int64_t i = 0; i < d; ++i) {
        Value x = loadElement(t.type.getElement(), offset(p, i * bytesOf(t.type.getElement())));
        sum = fadd(fmul(x, x), sum);
      }
      scf::YieldOp::create(b, loc, maxNaN(loop.getRegionIterArg(0), sum));
    }
    Value r = loop.getResult(0);
    for (int i = 0; i < 5; ++i)
      r = maxNaN(r, shuffleXor(r, int64_t(1) << i));
    numbers[op.getNorm()] = sqrt(r);
  }

  //-- Merges: workers take every workers-th split, then add up in order through shared memory

  static constexpr int64_t mergeWorkers = 8;
  static constexpr double log2e = 1.4426950408889634;

  Tensor partialAt(Value tensor, Value s, Value batchIndex) {
    Tensor t = tensors[tensor];
    Value stride = mul(heads, t.rows() * std::max<int64_t>(1, t.type.getChannels()));
    Value elements = add(mul(s, stride), mul(batchIndex, t.strideB));
    t.pointer = offset(t.pointer, mul(elements, 4));
    return t;
  }
  /// The rows of a partial, batch already in the pointer.
  Registers loadPartial(Value tensor, TileType type, Value s, Value batchIndex, Value row) {
    Tensor t = partialAt(tensor, s, batchIndex);
    return loadRows(t, type, row, [&](Value r) {
      return offset(t.pointer, mul(add(mul(head, t.strideH), mul(r, t.strideRow)), 4));
    });
  }

  /// Registers of all workers, exchanged through shared memory: element [worker][register] of this lane.
  SmallVector<Registers> exchange(const Registers &mine) {
    int64_t n = mine.size();
    sharedBytes = std::max(sharedBytes, mergeWorkers * n * 128);
    barrier();
    Value base = offset(shared, widen(mul(add(mul(worker, n * 32), lane), 4)));
    for (int64_t i = 0; i < n; ++i)
      store(mine[i], offset(base, i * 128), 4);
    barrier();
    SmallVector<Registers> all(mergeWorkers);
    Value read = offset(shared, widen(mul(lane, 4)));
    for (int64_t w = 0; w < mergeWorkers; ++w)
      for (int64_t i = 0; i < n; ++i)
        all[w].push_back(load(f32(), offset(read, (w * n + i) * 128), 4));
    return all;
  }

  Value mergeRow(Value at) { return at; }

  void emit(tile::MergeOp op) {
    TileType outType = tileType(op.getResult()), sumType = tileType(op.getLse());
    Value at = number(op.getAt());
    int64_t n = layoutOf(outType).registerCount();
    Registers init(n + 1, cf(0));
    init.push_back(cf(-3.0e38));
    auto loop = scf::ForOp::create(b, loc, widen(worker), splits, c64(mergeWorkers), init);
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
      Registers x = loadPartial(op.getOut(), outType, s, batch, at);
      x.append(loadPartial(op.getSum(), sumType, s, batch, at));
      x.append(loadPartial(op.getReference(), sumType, s, batch, at));
      scf::YieldOp::create(b, loc, merge(Registers(loop.getRegionIterArgs()), x));
    }
    auto all = exchange(Registers(loop.getResults()));
    Registers r = all[0];
    for (int64_t w = 1; w < mergeWorkers; ++w)
      r = merge(r, all[w]);
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

  void emit(tile::MergeSumOp op) {
    TileType type = tileType(op.getResult());
    Value at = number(op.getAt());
    int64_t n = layoutOf(type).registerCount();
    Tensor t = tensors[op.getPartial()];
    int64_t latents = 0;
    kernel.walk([&](tile::StoreOp s) { latents = std::max(latents, s.getTensor().getType().getLatents()); });
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
    auto loop = scf::ForOp::create(b, loc, widen(worker), total, c64(mergeWorkers), Registers(n, cf(0)));
    {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(loop.getBody());
      Value i = loop.getInductionVar();
      Value copy = rem(i, copies), rest = div(i, copies);
      Value s = rem(rest, splits), bb = add(firstBatch, div(rest, splits));
      Tensor p = partialAt(op.getPartial(), s, bb);
      // Rows beyond the last latent of this copy are never used: guard by the copy's own rows.
      Tensor limited = p;
      limited.type = FlareTensorType::get(b.getContext(), false, copyRows, p.type.getChannels(), p.type.getElement());
      Registers x = loadRows(limited, type, at, [&](Value r) {
        Value row = add(r, mul(copy, copyRows));
        return offset(p.pointer, mul(add(mul(head, p.strideH), mul(row, p.strideRow)), 4));
      });
      Registers next;
      for (int64_t j = 0; j < n; ++j)
        next.push_back(fadd(loop.getRegionIterArg(j), x[j]));
      scf::YieldOp::create(b, loc, next);
    }
    auto all = exchange(Registers(loop.getResults()));
    Registers r = all[0];
    for (int64_t w = 1; w < mergeWorkers; ++w)
      for (int64_t j = 0; j < n; ++j)
        r[j] = fadd(r[j], all[w][j]);
    tiles[op.getResult()] = r;
    (void)latents;
  }

  int64_t copiesOf(Value tensor) {
    auto dict = cast<DictionaryAttr>(program.getTensors()[cast<BlockArgument>(tensor).getArgNumber()]);
    auto a = dict.getAs<IntegerAttr>("copies");
    return a ? a.getInt() : 1;
  }

  //-- The stash: latent operands in shared memory, in the order in which lanes hold them

  int64_t registersOf(TileType t) {
    int64_t n = layoutOf(t).registerCount();
    return isHalf(t.getElement()) ? n / 2 : n;
  }

  void emit(tile::StashOp op) {
    auto yield = cast<tile::YieldOp>(op.getRegion().front().getTerminator());
    int64_t count = blocksOf(op.getLatents());
    for (auto [i, r] : llvm::enumerate(op.getResults())) {
      int64_t regs = registersOf(tileType(yield.getResults()[i]));
      stashes[r] = {stashHeadBytes, regs, op, unsigned(i)};
      if (config.getPark() == "shared")
        stashHeadBytes += (count * regs * 128 + 15) / 16 * 16;
    }
    if (config.getPark() != "shared")
      return;
    Value headBase = stashBase();
    auto loop = scf::ForOp::create(b, loc, worker, c32(count), c32(config.getWorkers()));
    {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(loop.getBody());
      Value block = loop.getInductionVar();
      numbers[op.getRegion().getArgument(0)] = widen(mul(block, tile::blockSize));
      lowerBlock(op.getRegion().front());
      if (failed(status))
        return;
      for (auto [i, r] : llvm::enumerate(op.getResults())) {
        Parked p = stashes[r];
        Value at = offset(offset(headBase, p.offset), widen(mul(block, p.registers * 128)));
        const Registers &x = tiles[yield.getResults()[i]];
        forChunks(p.registers, [&](int64_t first, int64_t n, int64_t bytes) {
          Value q = offset(offset(at, bytes), widen(mul(lane, n * 4)));
          storeVector(ArrayRef(x).slice(first, n), q);
        });
      }
    }
    barrier();
  }

  Value stashBase() { return offset(shared, widen(mul(headInBlock, stashHeadBytes))); }

  /// Up to four registers a lane at once: [chunk][lane][registers of the chunk].
  template <typename F> void forChunks(int64_t registers, F f) {
    for (int64_t first = 0, bytes = 0; first < registers;) {
      int64_t n = registers - first >= 4 ? 4 : registers - first >= 2 ? 2 : 1;
      f(first, n, bytes);
      first += n;
      bytes += n * 128;
    }
  }
  void storeVector(ArrayRef<Value> x, Value p) {
    if (x.size() == 1)
      return store(x[0], p, 4);
    Value v = LLVM::UndefOp::create(b, loc, VectorType::get(x.size(), x[0].getType()));
    for (auto [i, e] : llvm::enumerate(x))
      v = LLVM::InsertElementOp::create(b, loc, v, e, c32(i));
    store(v, p, 4 * x.size());
  }
  Registers loadVector(Type e, int64_t n, Value p) {
    if (n == 1)
      return {load(e, p, 4)};
    Value v = load(VectorType::get(n, e), p, 4 * n);
    Registers r;
    for (int64_t i = 0; i < n; ++i)
      r.push_back(LLVM::ExtractElementOp::create(b, loc, v, c32(i)));
    return r;
  }

  /// One block of 16 latents of a stash, `block` an i32.
  Registers fetch(Value stash, Value block, TileType type) {
    Parked p = stashes[stash];
    if (config.getPark() != "shared") {
      // Nothing parked: compute this block again.
      numbers[p.op.getRegion().getArgument(0)] = widen(mul(block, tile::blockSize));
      lowerBlock(p.op.getRegion().front());
      return tiles[p.op.getRegion().front().getTerminator()->getOperand(p.result)];
    }
    Value at = offset(offset(stashPointer, p.offset), widen(mul(block, p.registers * 128)));
    Type e = isHalf(type.getElement()) ? i32() : f32();
    Registers r;
    forChunks(p.registers, [&](int64_t, int64_t n, int64_t bytes) {
      Value q = offset(offset(at, bytes), widen(mul(lane, n * 4)));
      r.append(loadVector(e, n, q));
    });
    return r;
  }
  Value stashPointer;

  //-- The ring of staged tokens

  SmallVector<Slot> slots;
  int64_t stageBytes = 0, ringOffset = 0;

  int64_t chunkBytes(FlareTensorType t) { return std::min<int64_t>(16, t.getChannels() * bytesOf(t.getElement())); }

  void planRing(tile::StreamOp op) {
    for (Value v : op.getTokens()) {
      auto t = cast<FlareTensorType>(v.getType());
      Slot s;
      s.isVector = t.getChannels() == 0;
      int64_t size = bytesOf(t.getElement());
      if (s.isVector) {
        s.slotBytes = config.getTile() * size;
        s.rowBytes = size;
        s.size = s.slotBytes * config.getHeads();
      } else {
        s.slotBytes = (t.getChannels() + 7) / 8 * 8 * size;
        s.rowBytes = s.slotBytes * config.getHeads() + (size == 2 ? 16 : 32);
        s.size = s.rowBytes * config.getTile();
      }
      s.offset = stageBytes;
      stageBytes += (s.size + 15) / 16 * 16;
      slots.push_back(s);
    }
    ringOffset = (stashHeadBytes * config.getHeads() + 127) / 128 * 128;
    sharedBytes = ringOffset + stageBytes * config.getStages();
  }

  /// Starts the copies of a tile (first token n, i64) into a stage.
  void issue(tile::StreamOp op, Value n, Value stageBase) {
    int64_t threads = config.getThreads();
    for (auto [v, s] : llvm::zip(op.getTokens(), slots)) {
      const Tensor &t = tensors[v];
      int64_t size = bytesOf(t.type.getElement());
      int64_t chunk = s.isVector ? size : aligned ? chunkBytes(t.type) : size;
      int64_t pieces = s.isVector ? 1 : t.type.getChannels() * size / chunk;
      int64_t perToken = pieces * config.getHeads();
      int64_t total = perToken * config.getTile();
      for (int64_t first = 0; first < total; first += threads) {
        Value i = add(thread, first);
        auto copy = [&] {
          Value token, h, piece;
          if (s.isVector) { // neighbouring threads take neighbouring tokens
            token = rem(i, config.getTile());
            h = div(i, config.getTile());
            piece = c32(0);
          } else {
            piece = rem(i, pieces);
            Value rest = div(i, pieces);
            h = rem(rest, config.getHeads());
            token = div(rest, config.getHeads());
          }
          Value globalHead = add(firstHead, widen(h));
          Value row = add(n, widen(token));
          Value valid = both(lt(row, tokens), lt(globalHead, heads));
          // Outside: any readable address, zero bytes of it.
          Value elements = add(add(mul(batch, t.strideB), mul(globalHead, t.strideH)), mul(row, t.strideRow));
          Value source = offset(t.pointer, select(valid, add(mul(elements, size), widen(mul(piece, chunk))), c64(0)));
          Value target;
          if (s.isVector)
            target = offset(stageBase, widen(add(mul(h, s.slotBytes), mul(token, size))));
          else
            target = offset(stageBase, widen(add(add(mul(token, s.rowBytes), mul(h, s.slotBytes)), mul(piece, chunk))));
          target = offset(target, s.offset);
          if (chunk >= 4 && (aligned || s.isVector)) {
            Value bytes = select(valid, c32(chunk), c32(0));
            std::string kind = chunk == 16 ? "cg" : "ca";
            intrinsic("llvm.nvvm.cp.async." + kind + ".shared.global." + std::to_string(chunk) + ".s", {target, source, bytes});
          } else {
            Type e = b.getIntegerType(size * 8);
            Value zero = arith::ConstantOp::create(b, loc, b.getIntegerAttr(e, 0));
            auto guarded = scf::IfOp::create(b, loc, TypeRange{e}, valid, true);
            {
              OpBuilder::InsertionGuard guard(b);
              b.setInsertionPointToStart(guarded.thenBlock());
              scf::YieldOp::create(b, loc, load(e, source, size));
              b.setInsertionPointToStart(guarded.elseBlock());
              scf::YieldOp::create(b, loc, zero);
            }
            store(guarded.getResult(0), target, size);
          }
        };
        if (first + threads > total)
          onlyIf(lt(i, c32(total)), copy);
        else
          copy();
      }
    }
    intrinsic("llvm.nvvm.cp.async.commit.group", {});
  }

  /// Channels that pad a row to 8 are zero for ever.
  void clearPadding(tile::StreamOp op) {
    bool any = false;
    for (Value v : op.getTokens())
      any |= cast<FlareTensorType>(v.getType()).getChannels() % 8 != 0;
    if (!any)
      return;
    Value base = offset(shared, ringOffset);
    int64_t words = stageBytes * config.getStages() / 4;
    auto loop = scf::ForOp::create(b, loc, thread, c32(words), c32(config.getThreads()));
    {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(loop.getBody());
      store(c32(0), offset(base, widen(mul(loop.getInductionVar(), 4))), 4);
    }
    barrier();
  }

  void emit(tile::StreamOp op) {
    planRing(op);
    if (stashHeadBytes)
      stashPointer = stashBase();
    clearPadding(op);
    int64_t T = config.getTile(), stagesCount = config.getStages();
    // This split's tiles: [U·s/S, U·(s+1)/S)
    Value tilesCount = div(add(tokens, T - 1), T);
    Value first = div(mul(tilesCount, split), splits), last = div(mul(tilesCount, add(split, 1)), splits);
    Value ring = offset(shared, ringOffset);
    auto stageAddress = [&](Value stage) { return offset(ring, widen(mul(stage, stageBytes))); };
    for (int64_t i = 0; i + 1 < stagesCount; ++i)
      issue(op, mul(add(first, i), T), stageAddress(c32(i)));
    Registers inits;
    for (Value v : op.getInits())
      flatten(v, inits);
    inits.push_back(c32(0)); // stage to work on
    auto loop = scf::ForOp::create(b, loc, first, last, c64(1), inits);
    {
      OpBuilder::InsertionGuard guard(b);
      b.setInsertionPointToStart(loop.getBody());
      Value stage = loop.getRegionIterArgs().back();
      intrinsic("llvm.nvvm.cp.async.wait.group", c32(stagesCount - 2));
      barrier();
      // Everyone is done with the stage before this one: fill it again.
      Value refill = add(stage, stagesCount - 1);
      refill = select(lt(refill, c32(stagesCount)), refill, add(refill, -stagesCount));
      issue(op, mul(add(loop.getInductionVar(), stagesCount - 1), T), stageAddress(refill));

      Block &body = op.getRegion().front();
      numbers[body.getArgument(0)] = mul(loop.getInductionVar(), T);
      Value here = stageAddress(stage);
      for (auto [i, s] : llvm::enumerate(slots))
        stages[body.getArgument(1 + i)] = {offset(offset(here, s.offset), widen(mul(headInBlock, s.slotBytes))), s};
      unsigned next = 0;
      for (unsigned i = 1 + slots.size(); i < body.getNumArguments(); ++i)
        unflatten(body.getArgument(i), loop.getRegionIterArgs(), next);
      lowerBlock(body);
      if (failed(status))
        return;
      Registers yields;
      for (Value v : body.getTerminator()->getOperands())
        flatten(v, yields);
      Value following = add(stage, 1);
      yields.push_back(select(lt(following, c32(stagesCount)), following, c32(0)));
      scf::YieldOp::create(b, loc, yields);
    }
    intrinsic("llvm.nvvm.cp.async.wait.group", c32(0));
    unsigned next = 0;
    for (Value r : op.getResults())
      unflatten(r, loop.getResults(), next);
  }

  void flatten(Value v, Registers &out) {
    if (isa<TileType>(v.getType()))
      out.append(tiles[v]);
    else
      out.push_back(number(v));
  }
  void unflatten(Value v, ValueRange from, unsigned &next) {
    auto t = dyn_cast<TileType>(v.getType());
    if (!t) {
      numbers[v] = from[next++];
      return;
    }
    int64_t n = blocksOf(t) * registersOf(t);
    tiles[v] = Registers(from.slice(next, n));
    next += n;
  }

  void emit(scf::IfOp op) {
    Registers types;
    SmallVector<Type> results;
    for (Value r : op.getResults()) {
      auto t = dyn_cast<TileType>(r.getType());
      int64_t n = t ? blocksOf(t) * registersOf(t) : 1;
      results.append(n, t ? f32() : r.getType());
    }
    auto copy = scf::IfOp::create(b, loc, results, number(op.getCondition()), true);
    for (bool otherwise : {false, true}) {
      OpBuilder::InsertionGuard guard(b);
      Block *block = otherwise ? copy.elseBlock() : copy.thenBlock();
      block->clear();
      b.setInsertionPointToStart(block);
      Block *from = otherwise ? op.elseBlock() : op.thenBlock();
      tf32.clear(); // values of one branch are unknown in the other
      Registers yields;
      if (from) {
        lowerBlock(*from);
        if (failed(status))
          return;
        for (Value v : from->getTerminator()->getOperands())
          flatten(v, yields);
      }
      scf::YieldOp::create(b, loc, yields);
    }
    tf32.clear();
    unsigned next = 0;
    for (Value r : op.getResults())
      unflatten(r, copy.getResults(), next);
  }

  void emit(tile::BoundedOp op) {
    StageAt s = stages[op.getStage()];
    int64_t T = config.getTile(), d = op.getStage().getType().getD();
    Type e = op.getStage().getType().getElement();
    // max over this lane's rows of ‖k‖²
    Value worst = cf(0);
    for (int64_t first = 0; first < T; first += 32) {
      Value row = add(lane, first);
      if (first + 32 > T)
        row = min(row, c32(T - 1));
      Value p = offset(s.address, widen(mul(row, s.slot.rowBytes))), sum = cf(0);
      for (int64_t c = 0; c < d; c += 16 / bytesOf(e)) {
        Registers x = loadVector(isHalf(e) ? i32() : f32(), 4, offset(p, c * bytesOf(e)));
        for (Value v : x) {
          if (!isHalf(e)) {
            sum = fadd(fmul(v, v), sum);
            continue;
          }
          auto [low, high] = unpack(e, v);
          sum = fadd(fmul(low, low), sum);
          sum = fadd(fmul(high, high), sum);
        }
      }
      worst = maxNaN(worst, sum);
    }
    Value factor = number(op.getFactor());
    double limit = op.getLimit().convertToDouble();
    Value square = fmul(fmul(factor, factor), worst);
    // An ordered comparison: NaN answers no. 0·inf is NaN too.
    Value small = arith::CmpFOp::create(b, loc, arith::CmpFPredicate::OLE, square, cf(limit * limit));
    Value full = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::sle, add(number(op.getN0()), T), tokens);
    numbers[op.getOk()] = allLanes(both(small, full));
  }

  //-- Reading staged rows

  void emit(tile::ReadOp op) {
    TileType t = tileType(op.getTile());
    Registers r;
    for (int64_t block = 0; block < blocksOf(t); ++block)
      r.append(readStage(stages[op.getStage()], op.getStage().getType(), t, add(narrow(number(op.getAt())), block * tile::blockSize)));
    tiles[op.getTile()] = r;
  }

  /// One block of 16 rows, first row `row` (i32).
  Registers readStage(const StageAt &s, tile::StageType stage, TileType type, Value row) {
    Layout l = layoutOf(type);
    Type e = stage.getElement();
    int64_t size = bytesOf(e), count = l.registerCount();
    Registers r;
    if (s.slot.isVector) {
      Value base = offset(s.address, widen(mul(add(row, laneCoordinate(l, Axis::n)), size)));
      for (int64_t i = 0; i < count; ++i)
        r.push_back(load(f32(), offset(base, l.element(int(i), 0)[Axis::n] * size), 4));
      return r;
    }
    bool channelsFirst = l.registers[0] == Basis{Axis::d, 1};
    if (!isHalf(e) || channelsFirst) {
      Value base = offset(s.address, widen(add(mul(add(row, laneCoordinate(l, Axis::n)), s.slot.rowBytes), mul(laneCoordinate(l, Axis::d), size))));
      auto at = [&](int64_t i) {
        Coordinates c = l.element(int(i), 0);
        return offset(base, c[Axis::n] * s.slot.rowBytes + c[Axis::d] * size);
      };
      if (isHalf(e))
        for (int64_t i = 0; i < count; i += 2)
          r.push_back(load(i32(), at(i), 4));
      else if (channelsFirst)
        for (int64_t i = 0; i < count; i += 2)
          r.append(loadVector(f32(), 2, at(i)));
      else
        for (int64_t i = 0; i < count; ++i)
          r.push_back(load(f32(), at(i), 4));
      return r;
    }
    // 16-bit rows whose neighbours along n share a register: a transposing ldmatrix, 16 tokens × 8 channels at a time. Lane i gives the address of row i.
    Value base = offset(s.address, widen(mul(add(row, andBits(lane, 15)), s.slot.rowBytes)));
    Type two = LLVM::LLVMStructType::getLiteral(b.getContext(), {i32(), i32()});
    for (int64_t d = 0; d < stage.getD(); d += 8)
      r.append(structElements(intrinsic("llvm.nvvm.ldmatrix.sync.aligned.m8n8.x2.trans.b16.p3", two, offset(base, d * size)), 2));
    return r;
  }

  //-- Blocks of scores

  void emit(tile::PairsOp op) {
    Index rows = op.getRows(), cols = tile::columnsOf(rows);
    int64_t rowBlocks = 1, colBlocks = 1;
    auto measure = [&](Type t) {
      if (auto x = dyn_cast<TileType>(t)) {
        rowBlocks = std::max(rowBlocks, blocksOf(x.size(rows)));
        colBlocks = std::max(colBlocks, blocksOf(x.size(cols)));
      } else if (auto x = dyn_cast<tile::StageType>(t)) {
        colBlocks = std::max(colBlocks, blocksOf(x.getN()));
      } else if (auto x = dyn_cast<tile::StashType>(t)) {
        colBlocks = std::max(colBlocks, blocksOf(x.getM()));
      }
    };
    bool columnState = false;
    for (Type t : op.getIns().getTypes())
      measure(t);
    for (Value v : op.getInits()) {
      measure(v.getType());
      columnState |= tileType(v).size(cols) != 0;
    }
    SmallVector<Registers> state;
    for (Value v : op.getInits())
      state.push_back(tiles[v]);
    int64_t unroll = op.getUnroll() == 0 || columnState ? colBlocks : std::min<int64_t>(op.getUnroll(), colBlocks);
    int64_t looped = colBlocks / unroll * unroll;
    int64_t rowSize = rows == Index::n ? 1 : 0;
    (void)rowSize;
    if (looped > unroll) {
      Registers flat;
      for (auto &s : state)
        flat.append(s);
      auto loop = scf::ForOp::create(b, loc, c32(0), c32(looped), c32(unroll), flat);
      loop->setAttr("flarec.no_unroll", b.getUnitAttr());
      {
        OpBuilder::InsertionGuard guard(b);
        b.setInsertionPointToStart(loop.getBody());
        tf32.clear();
        unsigned next = 0;
        for (auto &s : state) {
          size_t n = s.size();
          s = Registers(ValueRange(loop.getRegionIterArgs()).slice(next, n));
          next += n;
        }
        for (int64_t u = 0; u < unroll; ++u)
          column(op, add(loop.getInductionVar(), u), rowBlocks, state);
        if (failed(status))
          return;
        Registers yields;
        for (auto &s : state)
          yields.append(s);
        scf::YieldOp::create(b, loc, yields);
      }
      tf32.clear();
      unsigned next = 0;
      for (auto &s : state) {
        size_t n = s.size();
        s = Registers(ValueRange(loop.getResults()).slice(next, n));
        next += n;
      }
    } else {
      looped = 0;
    }
    for (int64_t c = looped; c < colBlocks && succeeded(status); ++c)
      column(op, c32(c), rowBlocks, state);
    for (auto [r, s] : llvm::zip(op.getResults(), state))
      tiles[r] = s;
  }

  /// One block of columns against all row blocks.
  void column(tile::PairsOp op, Value col, int64_t rowBlocks, SmallVector<Registers> &state) {
    Index cols = tile::columnsOf(op.getRows());
    Block &body = op.getRegion().front();
    unsigned ins = op.getIns().size();
    numbers[body.getArgument(1)] = fold(widen(mul(col, tile::blockSize)));
    for (auto [i, v] : llvm::enumerate(op.getIns())) {
      BlockArgument arg = body.getArgument(2 + i);
      TileType type = cast<TileType>(arg.getType());
      if (isa<tile::StashType>(v.getType()))
        tiles[arg] = fetch(v, col, type);
      else if (auto stage = dyn_cast<tile::StageType>(v.getType()))
        tiles[arg] = readStage(stages[v], stage, type, mul(col, tile::blockSize));
    }
    for (int64_t r = 0; r < rowBlocks && succeeded(status); ++r) {
      numbers[body.getArgument(0)] = c64(r * tile::blockSize);
      for (auto [i, v] : llvm::enumerate(op.getIns()))
        if (isa<TileType>(v.getType())) {
          BlockArgument arg = body.getArgument(2 + i);
          int64_t n = registersOf(cast<TileType>(arg.getType()));
          tiles[arg] = Registers(ArrayRef(tiles[v]).slice(r * n, n));
        }
      // Accumulators along columns: which block is known, such loops are unrolled.
      APInt which;
      auto blockOf = [&](TileType t) -> int64_t {
        if (!t.size(cols))
          return r;
        return matchPattern(col, m_ConstantInt(&which)) ? which.getSExtValue() : 0;
      };
      for (unsigned i = 0; i < state.size(); ++i) {
        BlockArgument arg = body.getArgument(2 + ins + i);
        int64_t n = registersOf(cast<TileType>(arg.getType()));
        tiles[arg] = Registers(ArrayRef(state[i]).slice(blockOf(tileType(op.getInits()[i])) * n, n));
      }
      lowerBlock(body);
      if (failed(status))
        return;
      for (auto [i, v] : llvm::enumerate(body.getTerminator()->getOperands())) {
        const Registers &x = tiles[v];
        std::copy(x.begin(), x.end(), state[i].begin() + blockOf(tileType(op.getInits()[i])) * int64_t(x.size()));
      }
    }
  }

  /// Constants stay constants, so that masks can see them.
  Value fold(Value v) {
    APInt c;
    if (auto ext = v.getDefiningOp<arith::ExtUIOp>())
      if (auto m = ext.getIn().getDefiningOp<arith::MulIOp>()) {
        APInt x, y;
        if (matchPattern(m.getLhs(), m_ConstantInt(&x)) && matchPattern(m.getRhs(), m_ConstantInt(&y)))
          return c64(x.getSExtValue() * y.getSExtValue());
      }
    return v;
  }
};

struct TileToNVVM : flarec::impl::TileToNVVMBase<TileToNVVM> {
  using TileToNVVMBase::TileToNVVMBase;

  void runOnOperation() override {
    ModuleOp module = getOperation();
    OpBuilder b(module.getBody(), module.getBody()->end());
    Manifest manifest(b);
    SmallVector<tile::ProgramOp> programs(module.getOps<tile::ProgramOp>());
    if (!programs.empty()) {
      // Dynamic shared memory.
      LLVM::GlobalOp::create(b, module.getLoc(), LLVM::LLVMArrayType::get(b.getI8Type(), 0), false, LLVM::Linkage::External, "flarec_shared",
                             Attribute(), 16, 3);
    }
    for (tile::ProgramOp program : programs) {
      manifest.beginFunction(program);
      for (auto kernel : program.getOps<tile::KernelOp>()) {
        bool isSweep = kernel.getKind() == "sweep";
        std::string name = (program.getSymName() + "_" + kernel.getSymName()).str();
        int64_t shared = 0;
        auto fast = lower(b, program, kernel, name, true, shared);
        if (failed(fast))
          return signalPassFailure();
        if (isSweep && failed(lower(b, program, kernel, name + "_any", false, shared)))
          return signalPassFailure();
        manifest.addKernel(program, kernel, name, isSweep ? kernel.getConfigAttr().getThreads() : 32 * KernelLowering::mergeWorkers, shared,
                           isSweep ? name + "_any" : "");
      }
      manifest.endFunction();
      program.erase();
    }
    module->setAttr("flarec.manifest", manifest.attribute());
  }

  LogicalResult lower(OpBuilder &b, tile::ProgramOp program, tile::KernelOp kernel, StringRef name, bool aligned, int64_t &shared) {
    Location loc = kernel.getLoc();
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToEnd(getOperation().getBody());
    // One 8-byte slot a parameter, as docs/artefact.md lays down.
    SmallVector<Type> types;
    auto pointer = LLVM::LLVMPointerType::get(b.getContext(), 1);
    Block &args = program.getRegion().front();
    int64_t sweeps = 0;
    for (auto k : program.getOps<tile::KernelOp>())
      sweeps = std::max<int64_t>(sweeps, k.getSweep() + 1);
    for (BlockArgument a : args.getArguments())
      if (isa<FlareTensorType>(a.getType())) {
        types.push_back(pointer);
        types.append(3, b.getI64Type());
      }
    types.append(4 + sweeps, b.getI64Type());
    for (BlockArgument a : args.getArguments())
      if (!isa<FlareTensorType>(a.getType()))
        types.push_back(b.getF32Type());
    auto func = LLVM::LLVMFuncOp::create(b, loc, name, LLVM::LLVMFunctionType::get(LLVM::LLVMVoidType::get(b.getContext()), types),
                                         LLVM::Linkage::External, false, LLVM::CConv::PTX_Kernel);
    int64_t threads = kernel.getConfigAttr() ? kernel.getConfigAttr().getThreads() : 32 * KernelLowering::mergeWorkers;
    int64_t minBlocks = kernel.getConfigAttr() ? kernel.getConfigAttr().getMinBlocks() : 1;
    func.setPassthroughAttr(b.getArrayAttr({b.getStrArrayAttr({"nvvm.maxntid", std::to_string(threads)}),
                                            b.getStrArrayAttr({"nvvm.minctasm", std::to_string(minBlocks)})}));
    Block *entry = func.addEntryBlock(b);
    KernelLowering l(OpBuilder::atBlockEnd(entry), loc, program, kernel, aligned);
    unsigned next = 0;
    for (BlockArgument a : args.getArguments())
      if (auto t = dyn_cast<FlareTensorType>(a.getType())) {
        l.tensors[a] = {entry->getArgument(next), entry->getArgument(next + 1), entry->getArgument(next + 2), entry->getArgument(next + 3), t};
        next += 4;
      }
    l.batches = entry->getArgument(next);
    l.heads = entry->getArgument(next + 1);
    l.tokens = entry->getArgument(next + 2);
    l.latentBatches = entry->getArgument(next + 3);
    l.splits = entry->getArgument(next + 4 + kernel.getSweep());
    next += 4 + sweeps;
    for (BlockArgument a : args.getArguments())
      if (!isa<FlareTensorType>(a.getType()))
        l.numbers[a] = entry->getArgument(next++);
    l.shared = LLVM::AddressOfOp::create(l.b, loc, LLVM::LLVMPointerType::get(b.getContext(), 3), "flarec_shared");
    l.identify();
    Value first = kernel.getKind() == "merge" ? l.mul(l.rowGroup, 32)
                  : kernel.getConfigAttr().getRows() == Index::m
                      ? l.mul(l.add(l.mul(l.rowGroup, kernel.getConfigAttr().getWorkers()), l.widen(l.worker)), kernel.getConfigAttr().getWorkerRows())
                      : l.c64(0);
    l.numbers[kernel.getRegion().getArgument(0)] = first;
    l.lowerBlock(kernel.getRegion().front());
    if (failed(l.status))
      return failure();
    LLVM::ReturnOp::create(l.b, loc, ValueRange{});
    shared = std::max(shared, l.sharedBytes);
    if (shared > 227 * 1024)
      return kernel.emitOpError() << "@" << name << " needs " << shared << " bytes of shared memory, a block has 232448 at most; use fewer heads, stages or a "
                                  << "smaller tile, or park = none";
    return success();
  }
};
} // namespace
