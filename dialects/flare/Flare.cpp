// Types, verifiers and inferred types of the `flare` dialect.
#include "flare/Flare.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/DialectImplementation.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace flarec::flare;

#include "flare/FlareDialect.cpp.inc"
#include "flare/FlareEnums.cpp.inc"
#include "flare/FlareInterfaces.cpp.inc"
#define GET_TYPEDEF_CLASSES
#include "flare/FlareTypes.cpp.inc"
#define GET_OP_CLASSES
#include "flare/FlareOps.cpp.inc"

void FlareDialect::initialize() {
  addTypes<
#define GET_TYPEDEF_LIST
#include "flare/FlareTypes.cpp.inc"
      >();
  addOperations<
#define GET_OP_LIST
#include "flare/FlareOps.cpp.inc"
      >();
}

//===-- Types ----------------------------------------------------------------//

// !flare.tensor<n, m=128, d=8, bf16>
Type FlareTensorType::parse(AsmParser &p) {
  bool n = false;
  int64_t m = 0, d = 0;
  if (p.parseLess())
    return {};
  for (StringRef key; succeeded(p.parseOptionalKeyword(&key, {"n", "m", "d"}));) {
    if (key == "n")
      n = true;
    else {
      int64_t &size = key == "m" ? m : d;
      SMLoc at = p.getCurrentLocation();
      if (p.parseEqual() || p.parseInteger(size))
        return {};
      if (size <= 0) { // 0 stands for an index that is absent
        p.emitError(at, "a tensor has at least one latent and one channel, got ") << key << "=" << size;
        return {};
      }
    }
    if (p.parseComma())
      return {};
  }
  Type element;
  SMLoc loc = p.getCurrentLocation();
  if (p.parseType(element) || p.parseGreater())
    return {};
  return getChecked([&] { return p.emitError(loc); }, p.getContext(), n, m, d, element);
}

void FlareTensorType::print(AsmPrinter &p) const {
  p << "<";
  if (getTokens())
    p << "n, ";
  if (getLatents())
    p << "m=" << getLatents() << ", ";
  if (getChannels())
    p << "d=" << getChannels() << ", ";
  p << getElement() << ">";
}

LogicalResult FlareTensorType::verify(function_ref<InFlightDiagnostic()> error, bool tokens,
                                 int64_t latents, int64_t channels, Type element) {
  if (latents < 0 || channels < 0)
    return error() << "a tensor has at least one latent and one channel, got m=" << latents
                   << ", d=" << channels;
  if (element.isInteger()) {
    bool range = element.isInteger(32) && !tokens && !latents && channels == 2;
    bool mask = element.isInteger(8) && tokens && !latents && !channels;
    if (!range && !mask)
      return error() << "integers say which tokens there are: use !flare.tensor<d=2, i32> for a range, !flare.tensor<n, i8> for a mask";
    return success();
  }
  if (!element.isF32() && !element.isBF16() && !element.isF16() && !element.isF64())
    return error() << "element type " << element << " is not one of f16, bf16, f32, f64";
  return success();
}

unsigned FlareTensorType::indices() const {
  return (getTokens() ? N : 0) | (getLatents() ? M : 0) | (getChannels() ? D : 0);
}

FlareTensorType flarec::flare::withIndices(unsigned set, FlareTensorType a, FlareTensorType b) {
  auto pick = [](int64_t x, int64_t y) { return x ? x : y; };
  return FlareTensorType::get(a.getContext(), set & FlareTensorType::N,
                         set & FlareTensorType::M ? pick(a.getLatents(), b.getLatents()) : 0,
                         set & FlareTensorType::D ? pick(a.getChannels(), b.getChannels()) : 0,
                         Float32Type::get(a.getContext()));
}

FlareTensorType flarec::flare::broadcast(FlareTensorType a, FlareTensorType b) {
  auto agree = [](int64_t x, int64_t y) { return !x || !y || x == y; };
  if (!agree(a.getLatents(), b.getLatents()) || !agree(a.getChannels(), b.getChannels()))
    return {};
  return withIndices(a.indices() | b.indices(), a, b);
}

//===-- Inferred types -------------------------------------------------------//

static LogicalResult inferBinary(MLIRContext *, std::optional<Location> loc, ValueRange operands,
                                 SmallVectorImpl<Type> &types) {
  auto a = dyn_cast<FlareTensorType>(operands[0].getType());
  auto b = dyn_cast<FlareTensorType>(operands[1].getType());
  FlareTensorType t = a && b ? broadcast(a, b) : FlareTensorType();
  if (!t)
    return emitOptionalError(loc, "operands ", operands[0].getType(), " and ",
                             operands[1].getType(), " disagree in an index they share");
  types.push_back(t);
  return success();
}

static void inferUnary(ValueRange operands, SmallVectorImpl<Type> &types) {
  auto a = cast<FlareTensorType>(operands[0].getType());
  types.push_back(withIndices(a.indices(), a, a));
}

#define INFER(OP) LogicalResult OP::inferReturnTypes(MLIRContext *ctx, std::optional<Location> loc, \
    ValueRange operands, DictionaryAttr attrs, OpaqueProperties properties, RegionRange, SmallVectorImpl<Type> &types)

INFER(AddOp) { return inferBinary(ctx, loc, operands, types); }
INFER(SubOp) { return inferBinary(ctx, loc, operands, types); }
INFER(MulOp) { return inferBinary(ctx, loc, operands, types); }
INFER(NegOp) { inferUnary(operands, types); return success(); }
INFER(Exp2Op) { inferUnary(operands, types); return success(); }
INFER(ScaleOp) { inferUnary(operands, types); return success(); }

INFER(ContractOp) {
  Adaptor adaptor(operands, attrs, properties, {});
  auto a = cast<FlareTensorType>(adaptor.getA().getType()), b = cast<FlareTensorType>(adaptor.getB().getType());
  unsigned over = bit(adaptor.getOver());
  if (!broadcast(a, b) || !(a.indices() & over) || !(b.indices() & over))
    return emitOptionalError(loc, "cannot contract ", a, " with ", b, " over ",
                             stringifyIndex(adaptor.getOver()),
                             ": both must carry it and agree in the indices they share");
  types.push_back(withIndices((a.indices() | b.indices()) & ~over, a, b));
  return success();
}

INFER(SumOp) {
  Adaptor adaptor(operands, attrs, properties, {});
  auto a = cast<FlareTensorType>(adaptor.getA().getType());
  unsigned over = bit(adaptor.getOver());
  if (!(a.indices() & over))
    return emitOptionalError(loc, "cannot sum ", a, " over ", stringifyIndex(adaptor.getOver()),
                             ", which it does not carry");
  types.push_back(withIndices(a.indices() & ~over, a, a));
  return success();
}

//===-- Verifiers ------------------------------------------------------------//

namespace {
constexpr unsigned N = FlareTensorType::N, M = FlareTensorType::M, D = FlareTensorType::D;

LogicalResult expect(Operation *op, StringRef what, Value v, unsigned indices) {
  auto t = cast<FlareTensorType>(v.getType());
  if (t.indices() == indices)
    return success();
  std::string want;
  for (unsigned i = 0; i < 3; ++i)
    if (indices >> i & 1)
      want += (want.empty() ? "" : ", ") + std::string(1, "nmd"[i]);
  return op->emitOpError() << what << " must carry exactly [" << want << "], but is " << t;
}

LogicalResult same(Operation *op, StringRef what, int64_t a, int64_t b) {
  if (a == b)
    return success();
  return op->emitOpError() << what << " differ: " << a << " and " << b;
}
int64_t channels(Value v) { return cast<FlareTensorType>(v.getType()).getChannels(); }
int64_t latents(Value v) { return cast<FlareTensorType>(v.getType()).getLatents(); }
} // namespace

LogicalResult EncodeOp::verify() {
  if (failed(expect(*this, "q", getQ(), M | D)) || failed(expect(*this, "k", getK(), N | D)) ||
      failed(expect(*this, "v", getV(), N | D)) || failed(expect(*this, "z", getZ(), M | D)) ||
      failed(expect(*this, "lse", getLse(), M)) ||
      failed(same(*this, "channels of q and k", channels(getQ()), channels(getK()))) ||
      failed(same(*this, "channels of v and z", channels(getV()), channels(getZ()))) ||
      failed(same(*this, "latents of q and z", latents(getQ()), latents(getZ()))))
    return failure();
  return same(*this, "latents of q and lse", latents(getQ()), latents(getLse()));
}

LogicalResult DecodeOp::verify() {
  if (failed(expect(*this, "k", getK(), N | D)) || failed(expect(*this, "q", getQ(), M | D)) ||
      failed(expect(*this, "z", getZ(), M | D)) || failed(expect(*this, "y", getY(), N | D)) ||
      failed(expect(*this, "lse", getLse(), N)) ||
      failed(same(*this, "channels of q and k", channels(getQ()), channels(getK()))) ||
      failed(same(*this, "channels of z and y", channels(getZ()), channels(getY()))))
    return failure();
  return same(*this, "latents of q and z", latents(getQ()), latents(getZ()));
}

LogicalResult AttendOp::verify() {
  Index over = getOver();
  if (over == Index::d)
    return emitOpError("contracts over tokens (n) or latents (m), not over channels (d)");
  unsigned i = bit(over), j = i == N ? M : N;
  if (failed(expect(*this, "x", getX(), N | M)) || failed(expect(*this, "v", getV(), i | D)) ||
      failed(expect(*this, "out", getOut(), j | D)) || failed(expect(*this, "lse", getLse(), j)))
    return failure();
  if (i == M && latents(getX()) != latents(getV()))
    return same(*this, "latents of x and v", latents(getX()), latents(getV()));
  if (i == N && (failed(same(*this, "latents of x and out", latents(getX()), latents(getOut()))) ||
                 failed(same(*this, "latents of x and lse", latents(getX()), latents(getLse())))))
    return failure();
  return same(*this, "channels of v and out", channels(getV()), channels(getOut()));
}

LogicalResult CastOp::verify() {
  auto a = getA().getType(), b = getOut().getType();
  if (FlareTensorType::get(getContext(), a.getTokens(), a.getLatents(), a.getChannels(), b.getElement()) != b)
    return emitOpError() << "changes the element type only, not " << a << " into " << b;
  return success();
}

// Inferred types have been checked already.
LogicalResult ContractOp::verify() { return success(); }
LogicalResult SumOp::verify() { return success(); }
LogicalResult AddOp::verify() { return success(); }
LogicalResult SubOp::verify() { return success(); }
LogicalResult MulOp::verify() { return success(); }
LogicalResult NegOp::verify() { return success(); }
LogicalResult Exp2Op::verify() { return success(); }
LogicalResult ScaleOp::verify() { return success(); }

LogicalResult SweepOp::verify() {
  if (getSafe().size() > 1)
    return emitOpError("has at most two regions, a fast and a safe one");
  for (Region &r : getOperation()->getRegions()) {
    auto yield = dyn_cast<YieldOp>(r.front().getTerminator());
    if (!yield || yield.getOperandTypes() != getResultTypes())
      return emitOpError("results must be what each of its regions yields");
    for (Type t : yield.getOperandTypes())
      if (cast<FlareTensorType>(t).isPair())
        return emitOpError() << "cannot yield " << t << ": pair values are never stored";
  }
  return success();
}

// flare.sweep (config …)? -> types { … } (safe { … })?
ParseResult SweepOp::parse(OpAsmParser &p, OperationState &state) {
  if (succeeded(p.parseOptionalKeyword("config"))) {
    Attribute config;
    if (p.parseAttribute(config))
      return failure();
    state.addAttribute("config", config);
  }
  if (succeeded(p.parseOptionalArrow()) && p.parseTypeList(state.types))
    return failure();
  if (p.parseRegion(*state.addRegion(), {}))
    return failure();
  if (succeeded(p.parseOptionalKeyword("safe")) && p.parseRegion(*state.addRegion(), {}))
    return failure();
  return p.parseOptionalAttrDict(state.attributes);
}

void SweepOp::print(OpAsmPrinter &p) {
  if (getConfigAttr())
    p << " config " << getConfigAttr();
  if (getNumResults())
    p << " -> " << getResultTypes();
  p << " ";
  p.printRegion(getFast(), false);
  for (Region &r : getSafe()) {
    p << " safe ";
    p.printRegion(r, false);
  }
  p.printOptionalAttrDict((*this)->getAttrs(), {"config"});
}
