// Verifiers of the tile ops: shapes and element types agree, regions take and hand over what their op says. Layouts are compared by
// nobody here: before tile-assign-layouts there are none.
#include "tile/Tile.h"

using namespace mlir;
using namespace flarec::tile;
using flarec::flare::FlareTensorType;

namespace {
constexpr Index indices[] = {Index::n, Index::m, Index::d};

bool isHalf(Type t) { return t.isBF16() || t.isF16(); }
bool sameShape(TileType a, TileType b) { return a.getN() == b.getN() && a.getM() == b.getM() && a.getD() == b.getD(); }
/// Equal but for layouts.
bool agree(Type a, Type b) {
  auto x = dyn_cast<TileType>(a), y = dyn_cast<TileType>(b);
  return x && y ? sameShape(x, y) && x.getElement() == y.getElement() : a == b;
}
bool agree(TypeRange a, TypeRange b) {
  return a.size() == b.size() && llvm::all_of(llvm::zip(a, b), [](auto p) { return agree(std::get<0>(p), std::get<1>(p)); });
}
bool carries(TileType t, Index i) { return t.size(i) != 0; }

LogicalResult needsF32(Operation *op, std::initializer_list<Value> tiles) {
  for (Value v : tiles)
    if (!cast<TileType>(v.getType()).getElement().isF32())
      return op->emitOpError() << "computes in f32, got " << v.getType() << "; tile.cast widens";
  return success();
}
LogicalResult needsSameShape(Operation *op, TileType a, TileType b) {
  if (!sameShape(a, b))
    return op->emitOpError() << "takes and makes tiles of one shape, got " << a << " and " << b;
  return success();
}
/// A tile of a tensor's rows: tokens or latents, with channels (perhaps padded) where the tensor has them.
LogicalResult needsRowsOf(Operation *op, TileType t, FlareTensorType tensor) {
  bool fits = bool(t.getN()) == tensor.getTokens() && bool(t.getM()) == bool(tensor.getLatents()) && bool(t.getD()) == bool(tensor.getChannels()) &&
              t.getD() >= tensor.getChannels() && !tensor.isPair();
  if (!fits)
    return op->emitOpError() << "moves rows of " << tensor << ", which " << t << " cannot hold";
  return success();
}
/// A region's block takes `arguments` and hands over `yields`.
LogicalResult needsRegion(Operation *op, Block &body, TypeRange arguments, TypeRange yields, const char *what) {
  if (!agree(body.getArgumentTypes(), arguments)) {
    auto e = op->emitOpError() << "body takes " << what << ", that is (";
    llvm::interleaveComma(arguments, e);
    e << "), but has (";
    llvm::interleaveComma(body.getArgumentTypes(), e);
    return e << ")";
  }
  auto yield = body.empty() ? YieldOp() : dyn_cast<YieldOp>(body.back());
  if (!yield || !agree(yield.getOperandTypes(), yields)) {
    auto e = op->emitOpError() << "body must end in a tile.yield of (";
    llvm::interleaveComma(yields, e);
    return e << ")";
  }
  return success();
}
} // namespace

//===-- Programs and kernels -------------------------------------------------//

LogicalResult ProgramOp::verify() {
  if (getRegion().getNumArguments() != getTensors().size())
    return emitOpError() << "describes " << getTensors().size() << " arguments but has "
                         << getRegion().getNumArguments();
  for (Attribute a : getTensors()) {
    auto dict = dyn_cast<DictionaryAttr>(a);
    auto role = dict ? dict.getAs<StringAttr>("role") : StringAttr();
    if (!role || !dict.getAs<StringAttr>("name"))
      return emitOpError() << "argument " << a << " needs a name and a role";
    if (!llvm::is_contained({"input", "result", "workspace", "scalar"}, role.getValue()))
      return emitOpError() << "role " << role << " must be \"input\", \"result\", \"workspace\" or \"scalar\"";
  }
  return success();
}

LogicalResult KernelOp::verify() {
  if (getKind() != "sweep" && getKind() != "merge" && getKind() != "park")
    return emitOpError() << "kind \"" << getKind() << "\" must be \"sweep\", \"merge\" or \"park\"";
  if ((getKind() == "merge") == bool(getConfig()))
    return emitOpError() << "a sweep and what is parked for it have a config, a merge none";
  Block &body = getRegion().front();
  if (body.getNumArguments() != 1 || !body.getArgument(0).getType().isIndex())
    return emitOpError() << "body takes the worker's first latent (index)";
  return success();
}

LogicalResult StreamOp::verify() {
  int64_t tile = getTile();
  if (tile < 1 || tile % blockSize)
    return emitOpError() << "tile " << tile << " must be a positive multiple of " << blockSize;
  Block &body = getRegion().front();
  SmallVector<Type> types{IndexType::get(getContext())};
  for (auto [i, v] : llvm::enumerate(getTokens())) {
    auto t = cast<FlareTensorType>(v.getType());
    if (!t.getTokens() || t.isPair())
      return emitOpError() << "streams tokens, not " << t;
    // How channels are padded is the target's affair.
    auto stage = 1 + i < body.getNumArguments() ? dyn_cast<StageType>(body.getArgument(1 + i).getType()) : StageType();
    bool fits = stage && stage.getD() >= t.getChannels() && bool(stage.getD()) == bool(t.getChannels());
    types.push_back(StageType::get(getContext(), tile, fits ? stage.getD() : t.getChannels(), t.getElement()));
  }
  llvm::append_range(types, getInits().getTypes());
  if (!agree(getResultTypes(), getInits().getTypes()))
    return emitOpError("results must have the types of what is carried");
  return needsRegion(*this, body, types, getInits().getTypes(), "the tile's first token, the staged rows and what is carried");
}

LogicalResult PairsOp::verify() {
  Block &body = getRegion().front();
  if (body.getNumArguments() != 2 + getIns().size() + getInits().size())
    return emitOpError() << "body takes the first row, the first column, " << getIns().size() << " slices and "
                         << getInits().size() << " accumulators, but has " << body.getNumArguments() << " arguments";
  if (getRows() == Index::d)
    return emitOpError("rows are tokens (n) or latents (m)");
  if (int64_t unroll = getUnroll(); unroll < 0)
    return emitOpError() << "unroll " << unroll << " must be 0 (all) or a number of column blocks";
  if (getResultTypes() != getInits().getTypes())
    return emitOpError("results must have the types of the accumulators");
  SmallVector<Type> types(2, IndexType::get(getContext()));
  auto slice = [&](int64_t n, int64_t m, int64_t d, Type e) {
    types.push_back(TileType::get(getContext(), n ? blockSize : 0, m ? blockSize : 0, d, e, {}));
  };
  for (Type t : getOperandTypes())
    if (auto x = dyn_cast<TileType>(t))
      slice(x.getN(), x.getM(), x.getD(), x.getElement());
    else if (auto x = dyn_cast<StageType>(t))
      slice(1, 0, x.getD(), x.getElement());
    else if (auto x = dyn_cast<StashType>(t))
      slice(0, 1, x.getD(), x.getElement());
    else
      return emitOpError() << "slices tiles, stages and stashes, not " << t;
  return needsRegion(*this, body, types, ArrayRef(types).drop_front(2 + getIns().size()), "the first row, the first column and blocks of 16");
}

LogicalResult StashOp::verify() {
  int64_t latents = getLatents();
  if (latents < 1 || latents % blockSize)
    return emitOpError() << latents << " latents must be a positive multiple of " << blockSize;
  if (getTensor()) {
    auto t = cast<FlareTensorType>(getTensor().getType());
    if (!getMemory() || t.getLatents() != latents / blockSize || !t.getElement().isF32())
      return emitOpError() << "keeps " << latents << " latents in " << t << "; a stash in memory has a row of f32 for each " << blockSize;
  }
  SmallVector<Type> yields;
  for (Value v : getResults()) {
    auto t = cast<StashType>(v.getType());
    if (t.getM() < blockSize || t.getM() % blockSize || latents % t.getM())
      return emitOpError() << "parks " << latents << " latents, of which " << t << " is no whole share";
    yields.push_back(TileType::get(getContext(), 0, blockSize, t.getD(), t.getElement(), {}));
  }
  return needsRegion(*this, getRegion().front(), IndexType::get(getContext()), yields, "the first of 16 latents");
}

//===-- Memory ---------------------------------------------------------------//

LogicalResult LoadOp::verify() { return needsRowsOf(*this, getTile().getType(), getTensor().getType()); }

LogicalResult ReadOp::verify() {
  TileType t = getTile().getType();
  StageType s = getStage().getType();
  if (!t.getN() || t.getM() || t.getN() > s.getN() || t.getD() != s.getD() || t.getElement() != s.getElement())
    return emitOpError() << "cannot read " << t << " from " << s;
  return success();
}

LogicalResult StoreOp::verify() {
  if (getPartial() && getTensor().getType().getTokens())
    return emitOpError() << "partial results are of latents, not " << getTensor().getType();
  if (getOwners() && (getPartial() || int64_t(getOwners()->size()) * blockSize != getTile().getType().getN()))
    return emitOpError() << "owners are of each block of 16 tokens, which a store of " << getTile().getType() << " has not " << getOwners()->size() << " of";
  return needsRowsOf(*this, getTile().getType(), getTensor().getType());
}

LogicalResult CombineOp::verify() {
  if (!agree(getParts().getTypes(), getSums().getTypes()))
    return emitOpError("makes sums of the types of their parts");
  int64_t blocks = 0;
  if (getParts().empty())
    return emitOpError("combines nothing");
  for (Value v : getParts()) {
    auto t = cast<TileType>(v.getType()), first = cast<TileType>(getParts().front().getType());
    if (!t.getN() || t.getM() || !t.getD())
      return emitOpError() << "combines rows of tokens with channels, not " << t;
    if (t.getD() != first.getD())
      return emitOpError() << "combines rows of equally many channels, not " << first << " and " << t;
    if (failed(needsF32(*this, {v})))
      return failure();
    blocks += t.getN() / blockSize;
  }
  if (int64_t(getOwners().size()) != blocks)
    return emitOpError() << "names " << getOwners().size() << " owners of " << blocks << " blocks of 16 rows";
  SmallVector<int64_t> shares;
  for (int64_t owner : getOwners()) {
    if (owner < 0 || owner > 32)
      return emitOpError() << "owner " << owner << " is none of the column_workers, which are 32 at most";
    shares.resize(std::max<size_t>(shares.size(), owner + 1));
    ++shares[owner];
  }
  if (!llvm::all_equal(shares))
    return emitOpError("owners get equally many blocks of rows, from owner 0 on");
  auto kernel = (*this)->getParentOfType<KernelOp>();
  if (kernel && kernel.getConfig() && int64_t(shares.size()) > kernel.getConfigAttr().getColumnWorkers())
    return emitOpError() << "has " << shares.size() << " owners among " << kernel.getConfigAttr().getColumnWorkers() << " column_workers";
  return success();
}

LogicalResult MergeOp::verify() {
  FlareTensorType out = getOut().getType(), sum = getSum().getType(), reference = getReference().getType();
  if (sum != reference || sum.getChannels() || sum.getTokens() || sum.getLatents() != out.getLatents() || !sum.getElement().isF32())
    return emitOpError() << "sum and reference are f32 numbers, one for each latent of " << out << ", got " << sum << " and " << reference;
  if (failed(needsRowsOf(*this, getResult().getType(), out)) || failed(needsRowsOf(*this, getLse().getType(), sum)))
    return failure();
  return needsF32(*this, {getResult(), getLse()});
}

LogicalResult MergeSumOp::verify() {
  if (failed(needsRowsOf(*this, getResult().getType(), getPartial().getType())))
    return failure();
  return needsF32(*this, {getResult()});
}

LogicalResult MaxNormOp::verify() {
  auto t = getTensor().getType();
  if (t.getTokens() || !t.getLatents() || !t.getChannels())
    return emitOpError() << "takes latents with channels, not " << t;
  return success();
}

LogicalResult BoundedOp::verify() {
  StageType t = getStage().getType();
  if (!t.getD() && !t.getElement().isF32())
    return emitOpError() << "takes staged rows with channels, or numbers in f32, not " << t;
  return success();
}

//===-- Arithmetic -----------------------------------------------------------//

LogicalResult ContractOp::verify() {
  if (getA().size() != getB().size() || getA().empty())
    return emitOpError() << "takes as many left as right operands, at least one; got " << getA().size() << " and "
                         << getB().size();
  if (getAcc() && getAcc().getType() != getOut().getType())
    return emitOpError() << "accumulates " << getAcc().getType() << " into " << getOut().getType();
  TileType out = getOut().getType();
  for (auto [x, y] : llvm::zip(getA(), getB())) {
    auto a = cast<TileType>(x.getType()), b = cast<TileType>(y.getType());
    for (Index i : indices) {
      bool same = !carries(a, i) || !carries(b, i) || a.size(i) == b.size(i);
      int64_t kept = i == getOver() ? 0 : std::max(a.size(i), b.size(i));
      if (!same || out.size(i) != kept || (i == getOver() && !(carries(a, i) && carries(b, i))))
        return emitOpError() << a << " and " << b << " contracted over " << flarec::flare::stringifyIndex(getOver()) << " do not make " << out;
    }
    if (a.getElement() != b.getElement())
      return emitOpError() << "operands have one element type, got " << a << " and " << b;
  }
  return needsF32(*this, {getOut()});
}

LogicalResult SumOp::verify() {
  TileType x = getX().getType();
  if (!carries(x, getOver()) || !sameShape(resize(x, getOver(), 0), getOut().getType()))
    return emitOpError() << x << " summed over " << flarec::flare::stringifyIndex(getOver()) << " does not make " << getOut().getType();
  return needsF32(*this, {getOut()});
}

LogicalResult TotalOp::verify() {
  if (failed(needsSameShape(*this, getX().getType(), getOut().getType())))
    return failure();
  return needsF32(*this, {getX(), getOut()});
}

LogicalResult ReduceOp::verify() {
  if (getKind() != "add" && getKind() != "max")
    return emitOpError() << "kind \"" << getKind() << "\" must be \"add\" or \"max\"";
  TileType x = getX().getType();
  if (!carries(x, getOver()) || !sameShape(resize(x, getOver(), 0), getOut().getType()))
    return emitOpError() << x << " reduced over " << flarec::flare::stringifyIndex(getOver()) << " does not make " << getOut().getType();
  return needsF32(*this, {getX(), getOut()});
}

LogicalResult ExceedsOp::verify() {
  TileType x = getX().getType(), limit = getLimit().getType();
  if (!carries(x, Index::n) || !carries(x, Index::m) || carries(limit, Index::d) || carries(limit, Index::n) == carries(limit, Index::m) ||
      (carries(limit, Index::n) ? limit.getN() != x.getN() : limit.getM() != x.getM()))
    return emitOpError() << "compares pairs with one number a row, got " << x << " and " << limit;
  return needsF32(*this, {getX(), getLimit()});
}

LogicalResult WithinOp::verify() { return needsF32(*this, {getX()}); }

LogicalResult OverflowsOp::verify() {
  TileType w = getW().getType();
  if (!carries(w, Index::n) || !carries(w, Index::m) || !w.getElement().isF16())
    return emitOpError() << "looks at pairs in f16, got " << w;
  return success();
}

static LogicalResult verifyBinary(Operation *op, TileType a, TileType b, TileType out) {
  for (Index i : indices)
    if ((carries(a, i) && carries(b, i) && a.size(i) != b.size(i)) || out.size(i) != std::max(a.size(i), b.size(i)))
      return op->emitOpError() << a << " and " << b << " do not broadcast to " << out;
  for (Value v : op->getOperands())
    if (failed(needsF32(op, {v})))
      return failure();
  return needsF32(op, {op->getResult(0)});
}
LogicalResult AddOp::verify() { return verifyBinary(*this, getA().getType(), getB().getType(), getOut().getType()); }
LogicalResult SubOp::verify() { return verifyBinary(*this, getA().getType(), getB().getType(), getOut().getType()); }
LogicalResult MulOp::verify() { return verifyBinary(*this, getA().getType(), getB().getType(), getOut().getType()); }
LogicalResult MaxOp::verify() { return verifyBinary(*this, getA().getType(), getB().getType(), getOut().getType()); }

static LogicalResult verifyUnary(Operation *op, TileType a, TileType out) {
  if (failed(needsSameShape(op, a, out)))
    return failure();
  return needsF32(op, {op->getOperand(0), op->getResult(0)});
}
LogicalResult NegOp::verify() { return verifyUnary(*this, getA().getType(), getOut().getType()); }
LogicalResult Exp2Op::verify() { return verifyUnary(*this, getA().getType(), getOut().getType()); }
LogicalResult Log2Op::verify() { return verifyUnary(*this, getA().getType(), getOut().getType()); }
LogicalResult RcpOp::verify() { return verifyUnary(*this, getA().getType(), getOut().getType()); }
LogicalResult ScaleOp::verify() { return verifyUnary(*this, getA().getType(), getOut().getType()); }

LogicalResult BroadcastOp::verify() {
  TileType a = getA().getType(), out = getOut().getType();
  return verifyBinary(*this, a, out, out);
}

LogicalResult CastOp::verify() { return needsSameShape(*this, getA().getType(), getOut().getType()); }

LogicalResult SplitOp::verify() {
  TileType hi = getHi().getType(), lo = getLo().getType();
  if (!agree(hi, lo) || !isHalf(hi.getElement()))
    return emitOpError() << "makes two tiles of one 16-bit type, got " << hi << " and " << lo;
  if (failed(needsSameShape(*this, getA().getType(), hi)))
    return failure();
  return needsF32(*this, {getA()});
}

LogicalResult ConstantOp::verify() { return needsF32(*this, {getOut()}); }

LogicalResult MaskOp::verify() {
  TileType x = getX().getType();
  if (!carries(x, getOver()))
    return emitOpError() << x << " does not carry " << flarec::flare::stringifyIndex(getOver());
  if (failed(needsSameShape(*this, x, getOut().getType())))
    return failure();
  if (isHalf(x.getElement()) && x.getElement() == getOut().getType().getElement() && getFill().isPosZero())
    return success();
  return needsF32(*this, {getX(), getOut()});
}

LogicalResult WhereOp::verify() {
  TileType mask = getMask().getType(), x = getX().getType();
  if (!mask.getElement().isInteger(8) || !mask.getN() || mask.getM() || mask.getD())
    return emitOpError() << "the mask must be of tokens and i8, got " << mask;
  if (x.getN() != mask.getN())
    return emitOpError() << x << " has not the tokens of the mask " << mask;
  if (failed(needsSameShape(*this, x, getOut().getType())))
    return failure();
  return needsF32(*this, {getX(), getOut()});
}
