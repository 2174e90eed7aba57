// tile-assign-layouts: which register of which lane holds which element.
#include "layout/Layout.h"
#include "passes/HostLayouts.h"
#include "passes/LayoutAttr.h"
#include "passes/Passes.h"
#include "tile/Tile.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/BuiltinOps.h"
#include "llvm/ADT/TypeSwitch.h"
#include <deque>

namespace flarec {
#define GEN_PASS_DEF_ASSIGNLAYOUTS
#include "passes/Passes.h.inc"
} // namespace flarec

using namespace mlir;
using namespace flarec;
using tile::TileType;
using flare::Index;

namespace {

TileType tileType(Value v) { return dyn_cast<TileType>(v.getType()); }
Axis axis(Index i) { return Axis(int(i)); }
int units(TileType t) { return int(t.getD() / 8); }

/// Layouts travel from the ops that insist on one to all values that must agree with them.
struct Propagation {
  DenseMap<Value, Layout> layouts;
  std::deque<Value> work;
  LogicalResult status = success();
  /// Of contractions that end in token values: are a lane's channels neighbours? Then one store takes them, but nobody may want them as a left operand.
  bool toStore = true;

  Layout restricted(const Layout &l, TileType t) { return l.restrictedTo(t.getN(), t.getM(), t.getD()); }

  void assign(Value v, const Layout &l) {
    if (!tileType(v))
      return;
    auto [it, isNew] = layouts.try_emplace(v, l);
    if (isNew)
      work.push_back(v);
    else if (!(it->second == l) && toStore)
      status = failure(); // once more without
    else if (!(it->second == l)) {
      Operation *op = v.getDefiningOp() ? v.getDefiningOp() : v.getParentBlock()->getParentOp();
      status = op->emitOpError() << "a tile is wanted in two layouts, " << it->second.str() << " and " << l.str();
    }
  }

  /// The values tied to v by an op on which it is operand or result, given v's layout.
  void spread(Value v) {
    Layout l = layouts[v];
    if (Operation *op = v.getDefiningOp())
      across(op, v, l);
    else
      boundary(v.getParentBlock()->getParentOp(), cast<BlockArgument>(v), l);
    for (OpOperand &use : v.getUses())
      fromUse(use, l);
  }

  static bool isElementwise(Operation *op) {
    return isa<tile::AddOp, tile::SubOp, tile::MulOp, tile::MaxOp, tile::NegOp, tile::Exp2Op, tile::Log2Op, tile::RcpOp, tile::CastOp,
               tile::ScaleOp, tile::SplitOp, tile::MaskOp, tile::WhereOp>(op);
  }

  void elementwise(Operation *op, TileType from, const Layout &l) {
    // Values with the same indices share the layout; those with fewer get what remains of it.
    for (ValueRange values : {ValueRange(op->getOperands()), ValueRange(op->getResults())})
      for (Value o : values)
        if (TileType t = tileType(o))
          if (!((t.getN() && !from.getN()) || (t.getM() && !from.getM()) || (t.getD() && !from.getD()))) {
            Layout r = restricted(l, t);
            // A row sum keeps its copies, vectors that meet it do not.
            bool same = bool(t.getN()) == bool(from.getN()) && bool(t.getM()) == bool(from.getM()) && bool(t.getD()) == bool(from.getD());
            if (!same)
              llvm::erase_if(r.registers, [](const Basis &b) { return b.step == 0; });
            if (same && !t.getD() && layouts.count(o))
              continue; // a sum and a plain vector may meet
            assign(o, r);
          }
  }

  void across(Operation *op, Value v, const Layout &l) {
    if (isElementwise(op))
      elementwise(op, tileType(v), l);
    else if (auto reduce = dyn_cast<tile::ReduceOp>(op); reduce && reduce.getOver() == Index::d)
      assign(reduce.getX(), withChannels(l, tileType(reduce.getX())));
    else if (auto pairs = dyn_cast<tile::PairsOp>(op))
      tie(pairs.getInits(), pairs.getResults(), pairs.getRegion(), cast<OpResult>(v).getResultNumber(), 2 + pairs.getIns().size(), l);
    else if (auto stream = dyn_cast<tile::StreamOp>(op))
      tie(stream.getInits(), stream.getResults(), stream.getRegion(), cast<OpResult>(v).getResultNumber(), 1 + stream.getTokens().size(), l);
    else if (auto combine = dyn_cast<tile::CombineOp>(op))
      assign(combine.getParts()[cast<OpResult>(v).getResultNumber()], l);
    else if (auto ifOp = dyn_cast<scf::IfOp>(op))
      tieIf(ifOp, cast<OpResult>(v).getResultNumber(), l);
  }

  void fromUse(OpOperand &use, const Layout &l) {
    Operation *op = use.getOwner();
    unsigned i = use.getOperandNumber();
    if (isElementwise(op)) {
      elementwise(op, tileType(use.get()), l);
    } else if (auto reduce = dyn_cast<tile::ReduceOp>(op); reduce && reduce.getOver() == Index::d) {
      assign(reduce.getOut(), restricted(l, tileType(reduce.getOut())));
    } else if (auto pairs = dyn_cast<tile::PairsOp>(op)) {
      if (i < pairs.getIns().size())
        assign(pairs.getRegion().getArgument(2 + i), l);
      else
        tie(pairs.getInits(), pairs.getResults(), pairs.getRegion(), i - pairs.getIns().size(), 2 + pairs.getIns().size(), l);
    } else if (auto stream = dyn_cast<tile::StreamOp>(op)) {
      tie(stream.getInits(), stream.getResults(), stream.getRegion(), i - stream.getTokens().size(), 1 + stream.getTokens().size(), l);
    } else if (auto combine = dyn_cast<tile::CombineOp>(op)) {
      assign(combine.getSums()[i], l);
    } else if (isa<tile::YieldOp>(op)) {
      Operation *parent = op->getParentOp();
      if (auto pairs = dyn_cast<tile::PairsOp>(parent))
        tie(pairs.getInits(), pairs.getResults(), pairs.getRegion(), i, 2 + pairs.getIns().size(), l);
      else if (auto stream = dyn_cast<tile::StreamOp>(parent))
        tie(stream.getInits(), stream.getResults(), stream.getRegion(), i, 1 + stream.getTokens().size(), l);
    } else if (isa<scf::YieldOp>(op)) {
      tieIf(cast<scf::IfOp>(op->getParentOp()), i, l);
    }
  }

  void boundary(Operation *parent, BlockArgument a, const Layout &l) {
    if (auto pairs = dyn_cast<tile::PairsOp>(parent)) {
      unsigned ins = pairs.getIns().size();
      if (a.getArgNumber() < 2 + ins) {
        Value in = pairs.getIns()[a.getArgNumber() - 2];
        if (auto stash = in.getDefiningOp<tile::StashOp>())
          in = stash.getRegion().front().getTerminator()->getOperand(cast<OpResult>(in).getResultNumber());
        assign(in, l);
      }
      else
        tie(pairs.getInits(), pairs.getResults(), pairs.getRegion(), a.getArgNumber() - 2 - ins, 2 + ins, l);
    } else if (auto stream = dyn_cast<tile::StreamOp>(parent)) {
      unsigned first = 1 + stream.getTokens().size();
      tie(stream.getInits(), stream.getResults(), stream.getRegion(), a.getArgNumber() - first, first, l);
    }
  }

  void tie(ValueRange inits, ValueRange results, Region &region, unsigned i, unsigned firstArgument, const Layout &l) {
    assign(inits[i], l);
    assign(results[i], l);
    assign(region.getArgument(firstArgument + i), l);
    assign(region.front().getTerminator()->getOperand(i), l);
  }
  void tieIf(scf::IfOp op, unsigned i, const Layout &l) {
    assign(op.getResult(i), l);
    assign(op.thenYield().getOperand(i), l);
    assign(op.elseYield().getOperand(i), l);
  }

  /// The layout of the operand of a reduction over d whose result has layout l.
  Layout withChannels(const Layout &l, TileType t) {
    for (Axis a : {Axis::n, Axis::m}) {
      if (l == fragment::rowVector(a))
        return fragment::row(a, units(t));
      if (l == fragment::columnVector(a))
        return fragment::weight(a, units(t));
    }
    int latents = 1;
    for (const Basis &b : l.lanes)
      latents *= b.step && b.axis == Axis::m ? 2 : 1;
    return latentsOverLanes(latents, int(t.getD()));
  }

  void run() {
    while (!work.empty() && succeeded(status)) {
      Value v = work.front();
      work.pop_front();
      spread(v);
    }
  }
};

struct AssignLayouts : flarec::impl::AssignLayoutsBase<AssignLayouts> {
  using AssignLayoutsBase::AssignLayoutsBase;

  void runOnOperation() override {
    getOperation().walk([&](tile::KernelOp kernel) {
      if (target == "host")
        return assignHostLayouts(kernel);
      Propagation p = layoutsOf(kernel, true);
      if (failed(p.status))
        p = layoutsOf(kernel, false);
      if (failed(p.status))
        return signalPassFailure();
      for (auto &[v, l] : p.layouts)
        const_cast<Value &>(v).setType(tileType(v).withLayout(toAttr(&getContext(), l)));
    });
  }

  Propagation layoutsOf(tile::KernelOp kernel, bool toStore) {
    Propagation p;
    p.toStore = toStore;
    if (kernel.getKind() == "merge") {
      merge(kernel, p);
      p.run();
      return p;
    }
    gpuSweep(kernel, p);
    p.run();
    // What no contraction asked for follows its rows.
    Axis r = axis(kernel.getConfigAttr().getRows());
    kernel.walk([&](Operation *op) {
      for (Value v : op->getResults())
        if (TileType t = tileType(v); t && succeeded(p.status) && !p.layouts.count(v)) {
          p.assign(v, t.getD() ? fragment::row(r, units(t)) : fragment::rowVector(r));
          p.run();
        }
    });
    return p;
  }

  void merge(tile::KernelOp kernel, Propagation &p) {
    kernel.walk([&](Operation *op) {
      for (Value v : op->getResults())
        if (TileType t = tileType(v))
          p.assign(v, latentsOverLanes(int(t.getM()), int(t.getD())));
    });
  }

  void gpuSweep(tile::KernelOp kernel, Propagation &p) {
    auto config = kernel.getConfigAttr();
    Index rows = config.getRows(), cols = tile::columnsOf(rows);
    Axis r = axis(rows), c = axis(cols);
    bool mmaSums = config.getSums() == "mma";
    kernel.walk([&](Operation *op) {
      TypeSwitch<Operation *>(op)
          .Case([&](tile::ContractOp op) {
            if (op.getOver() == Index::d) {
              p.assign(op.getOut(), fragment::pair(r, c));
              if (op.getAcc())
                p.assign(op.getAcc(), fragment::pair(r, c));
              for (Value a : op.getA())
                p.assign(a, fragment::row(r, units(tileType(a))));
              for (Value b : op.getB())
                p.assign(b, fragment::column(c, units(tileType(b))));
              return;
            }
            // Over columns: the pair's fragment is the left operand as it stands; over rows: transposed.
            Axis kept = op.getOver() == cols ? r : c;
            p.assign(op.getA().front(), fragment::pair(r, c));
            int count = units(tileType(op.getOut()));
            bool toStore = p.toStore && kept == Axis::n && rows == Index::n && llvm::isPowerOf2_32(count);
            Layout out = toStore ? fragment::rowToStore(kept, count) : fragment::row(kept, count);
            Axis over = axis(op.getOver());
            Layout right = config.hasGroups() ? (toStore ? fragment::columnToStore(over, count) : fragment::column(over, count))
                                              : toStore ? fragment::weightToStore(over, count) : fragment::weight(over, count);
            p.assign(op.getB().front(), right);
            p.assign(op.getOut(), out);
            p.assign(op.getAcc(), out);
          })
          .Case([&](tile::SumOp op) {
            p.assign(op.getX(), fragment::pair(r, c));
            p.assign(op.getAcc(), mmaSums ? fragment::rowSum(r) : fragment::rowVector(r));
            p.assign(op.getOut(), mmaSums ? fragment::rowSum(r) : fragment::rowVector(r));
          })
          .Case([&](tile::TotalOp op) {
            p.assign(op.getX(), mmaSums ? fragment::rowSum(r) : fragment::rowVector(r));
            p.assign(op.getOut(), fragment::rowVector(r));
          })
          .Case([&](tile::ReduceOp op) {
            if (op.getOver() == Index::d)
              return;
            p.assign(op.getX(), fragment::pair(r, c));
            p.assign(op.getOut(), fragment::rowVector(r));
          })
          .Case([&](tile::ExceedsOp op) {
            p.assign(op.getX(), fragment::pair(r, c));
            p.assign(op.getLimit(), fragment::rowVector(r));
          })
          .Case([&](tile::OverflowsOp op) { p.assign(op.getW(), fragment::pair(r, c)); })
          .Case([&](tile::BroadcastOp op) {
            p.assign(op.getOut(), fragment::pair(r, c));
            bool isRow = rows == Index::n ? tileType(op.getA()).getN() != 0 : tileType(op.getA()).getM() != 0;
            p.assign(op.getA(), isRow ? fragment::rowVector(r) : fragment::columnVector(c));
          })
          .Default([&](Operation *op) {
            // Vectors that meet pairs elementwise.
            if (!Propagation::isElementwise(op) || op->getNumResults() != 1)
              return;
            TileType t = tileType(op->getResult(0));
            if (!t || !t.getN() || !t.getM())
              return;
            p.assign(op->getResult(0), fragment::pair(r, c));
            for (Value o : op->getOperands())
              if (TileType x = tileType(o); x && !(x.getN() && x.getM())) {
                bool isRow = rows == Index::n ? x.getN() != 0 : x.getM() != 0;
                p.assign(o, isRow ? fragment::rowVector(r) : fragment::columnVector(c));
              }
          });
    });
  }
};
} // namespace
