// flare-expand: encode and decode as scores and attend.
#include "flare/Flare.h"
#include "passes/Passes.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/BuiltinOps.h"

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

  // x = Σ_d k·(s·q);  out, lse = attend(x, v)
  void expand(Operation *op, Value q, Value k, Value v, Value scale, Index over) {
    OpBuilder b(op);
    Location loc = op->getLoc();
    Value x = ContractOp::create(b, loc, ScaleOp::create(b, loc, q, scale), k, Index::d);
    auto outType = cast<FlareTensorType>(op->getResult(0).getType());
    auto lseType = cast<FlareTensorType>(op->getResult(1).getType());
    auto f32 = [&](FlareTensorType t) { return withIndices(t.indices(), t, t); };
    auto attend = AttendOp::create(b, loc, f32(outType), f32(lseType), x, v, over, false);
    Value out = attend.getOut();
    if (outType != out.getType())
      out = CastOp::create(b, loc, outType, out);
    Value lse = attend.getLse();
    if (lseType != lse.getType())
      lse = CastOp::create(b, loc, lseType, lse);
    op->replaceAllUsesWith(ValueRange{out, lse});
    op->erase();
  }
};
} // namespace
