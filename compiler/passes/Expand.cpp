// flare-expand: encode and decode as scores and attend, in base 2.
#include "flare/Flare.h"
#include "passes/Passes.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/BuiltinOps.h"
#include <cmath>

namespace flarec {
#define GEN_PASS_DEF_EXPAND
#include "passes/Passes.h.inc"
} // namespace flarec

using namespace mlir;
using namespace flarec::flare;

namespace {
struct Expand : flarec::impl::ExpandBase<Expand> {
  void runOnOperation() override {
    getOperation().walk([&](EncodeOp op) {
      expand(op, op.getQ(), op.getK(), op.getV(), op.getScale(), Index::n);
    });
    getOperation().walk([&](DecodeOp op) {
      expand(op, op.getQ(), op.getK(), op.getZ(), op.getScale(), Index::m);
    });
  }

  // x = Σ_d k·(s·log2(e)·q);  out, l = attend(x, v);  lse = ln(2)·l
  void expand(Operation *op, Value q, Value k, Value v, Value scale, Index over) {
    OpBuilder b(op);
    Location loc = op->getLoc();
    auto number = [&](double x) { return arith::ConstantOp::create(b, loc, b.getF32FloatAttr(x)); };
    Value c = arith::MulFOp::create(b, loc, scale, number(1.4426950408889634));
    Value x = ContractOp::create(b, loc, ScaleOp::create(b, loc, q, c), k, Index::d);
    auto outType = cast<FlareTensorType>(op->getResult(0).getType());
    auto lseType = cast<FlareTensorType>(op->getResult(1).getType());
    auto f32 = [&](FlareTensorType t) { return withIndices(t.indices(), t, t); };
    auto attend = AttendOp::create(b, loc, f32(outType), f32(lseType), x, v, over);
    Value out = attend.getOut();
    if (outType != out.getType())
      out = CastOp::create(b, loc, outType, out);
    Value lse = ScaleOp::create(b, loc, attend.getLse(), number(std::log(2.0)));
    if (lseType != lse.getType())
      lse = CastOp::create(b, loc, lseType, lse);
    op->replaceAllUsesWith(ValueRange{out, lse});
    op->erase();
  }
};
} // namespace
