// countOps: one walk over a kernel's regions.
#include "passes/Count.h"
#include "passes/Registers.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace flarec;
using flare::Index;
using tile::TileType;

StringRef flarec::nameOf(Work w) {
  static constexpr const char *names[numWorks] = {"exponential", "elementwise", "pack", "special",   "mma16", "mma8",
                                                  "mma_wide",    "wgmma",     "transpose",   "fma",  "shared", "parked", "memory"};
  return names[size_t(w)];
}

namespace {

double elements(Type type) {
  auto t = dyn_cast<TileType>(type);
  return t ? double(std::max<int64_t>(1, t.getN())) * std::max<int64_t>(1, t.getM()) * std::max<int64_t>(1, t.getD()) : 1;
}

double bytes(Type type) {
  auto t = dyn_cast<TileType>(type);
  return t ? elements(t) * t.getElement().getIntOrFloatBitWidth() / 8 : 0;
}

struct Counter {
  Counts counts;
  bool host, mmaSums, groups;
  int64_t workers;

  /// A contraction over `over` of extent K, all addends together, into `out`.
  void contract(Works &w, tile::ContractOp op) {
    double k = 0;
    for (Value a : op.getA())
      k += cast<TileType>(a.getType()).size(op.getOver());
    auto out = op.getOut().getType();
    if (host) {
      w[size_t(Work::Fma)] += elements(out) * k;
      return;
    }
    // The instruction makes 16 rows × 8 columns of the result.
    double products = elements(out) / 128;
    if (cast<TileType>(op.getA().front().getType()).getElement().isF32()) {
      w[size_t(Work::MmaWide)] += products * 3 * k / 8; // three TF32 products make one of f32
      return;
    }
    if (groups) {
      w[size_t(Work::Wgmma)] += products * k / 16;
      return;
    }
    w[size_t(Work::Mma16)] += products * std::floor(k / 16);
    w[size_t(Work::Mma8)] += products * std::fmod(k, 16) / 8;
  }

  /// Pairs [n,m] lie as their rows' contraction wants them; one over the other index takes them turned.
  void turn(Works &w, tile::ContractOp op, Index rows) {
    if (host || op.getOver() == Index::d || (op.getOver() == Index::m) == (rows == Index::n))
      return;
    for (ValueRange side : {op.getA(), op.getB()})
      for (Value v : side)
        if (auto t = cast<TileType>(v.getType()); t.getN() && t.getM())
          w[size_t(Work::Transpose)] += elements(t) / 64;
  }

  void op(Works &w, Operation *o, Index rows) {
    auto add = [&](Work kind, double amount) { w[size_t(kind)] += amount; };
    llvm::TypeSwitch<Operation *>(o)
        .Case([&](tile::ContractOp c) {
          contract(w, c);
          turn(w, c, rows);
        })
        .Case([&](tile::SumOp s) {
          // Row sums by a matrix instruction with ones, or by adds.
          if (!host && mmaSums && !s.getX().getType().getElement().isF32())
            add(Work::Mma16, elements(s.getX().getType()) / 256);
          else
            add(host ? Work::Fma : Work::Elementwise, elements(s.getX().getType()));
        })
        .Case([&](tile::Exp2Op e) { add(Work::Exponential, elements(e.getOut().getType())); })
        .Case<tile::Log2Op, tile::RcpOp>([&](auto e) { add(Work::Special, elements(e.getOut().getType())); })
        .Case<tile::AddOp, tile::SubOp>([&](auto e) {
          // Arithmetic may contract: with a product that nobody else reads it is one instruction.
          bool fused = llvm::any_of(e->getOperands(), [](Value v) {
            return v.hasOneUse() && isa_and_nonnull<tile::MulOp, tile::ScaleOp>(v.getDefiningOp());
          });
          if (!fused)
            add(Work::Elementwise, elements(e->getResult(0).getType()));
        })
        .Case<tile::MulOp, tile::MaxOp, tile::NegOp, tile::ScaleOp, tile::MaskOp>(
            [&](auto e) { add(Work::Elementwise, elements(e->getResult(0).getType())); })
        .Case([&](tile::ReduceOp r) { add(Work::Elementwise, elements(r.getX().getType())); })
        .Case([&](tile::CastOp c) {
          if (!c.getOut().getType().getElement().isF32())
            add(Work::Pack, elements(c.getOut().getType()));
        })
        .Case([&](tile::SplitOp s) {
          add(Work::Pack, 2 * elements(s.getA().getType()));
          add(Work::Elementwise, elements(s.getA().getType()));
        })
        .Case([&](tile::BoundedOp b) {
          auto s = b.getStage().getType();
          add(Work::Elementwise, double(s.getN()) * std::max<int64_t>(1, s.getD()));
        })
        .Case([&](tile::MaxNormOp m) {
          auto t = m.getTensor().getType();
          add(Work::Elementwise, double(t.getLatents()) * std::max<int64_t>(1, t.getChannels()));
        })
        .Case([&](tile::LoadOp l) { add(Work::Memory, bytes(l.getTile().getType())); })
        .Case([&](tile::StoreOp s) {
          auto element = s.getTensor().getType().getElement();
          add(Work::Memory, elements(s.getTile().getType()) * element.getIntOrFloatBitWidth() / 8);
        })
        .Case([&](tile::CombineOp c) {
          // Written once; a worker reads its share of everybody's.
          for (Value v : c.getParts())
            add(Work::Shared, 2 * bytes(v.getType()));
        })
        .Case([&](tile::ReadOp r) { add(Work::Shared, bytes(r.getTile().getType())); });
  }

  /// Everything in a block at one place; the fast branch of a condition, streams and pairs at places of their own.
  void walk(Block &block, Works &w, Index rows, double times = 1) {
    for (Operation &o : block) {
      if (auto s = dyn_cast<tile::StreamOp>(o)) {
        for (Type t : s.getResultTypes())
          counts.held += bytes(t);
        walk(s.getRegion().front(), counts.tile, rows);
      } else if (auto i = dyn_cast<scf::IfOp>(o)) {
        walk(*i.thenBlock(), w, rows, times);
      } else if (auto p = dyn_cast<tile::PairsOp>(o)) {
        pairs(p);
      } else if (auto s = dyn_cast<tile::StashOp>(o)) {
        if (s.getMemory())
          continue; // a kernel of its own computes it, once
        // The workers of a block share it out.
        walk(s.getRegion().front(), w, rows, times * double(s.getLatents()) / tile::blockSize / double(workers));
      } else {
        Works once{};
        op(once, &o, rows);
        for (size_t k = 0; k < numWorks; ++k)
          w[k] += times * once[k];
      }
    }
  }

  void pairs(tile::PairsOp p) {
    Block &body = p.getRegion().front();
    walk(body, counts.pairs, p.getRows());
    int64_t rows = 1, columns = 1;
    Index across = p.getRows() == Index::n ? Index::m : Index::n;
    auto see = [&](int64_t n, int64_t m) {
      rows = std::max(rows, p.getRows() == Index::n ? n : m);
      columns = std::max(columns, across == Index::n ? n : m);
    };
    for (auto [value, argument] : llvm::zip(p.getIns(), body.getArguments().drop_front(2))) {
      if (auto t = dyn_cast<TileType>(value.getType())) {
        see(t.getN(), t.getM());
        counts.held += bytes(t);
      } else {
        if (auto s = dyn_cast<tile::StageType>(value.getType()))
          see(s.getN(), 0);
        else if (auto s = dyn_cast<tile::StashType>(value.getType()))
          see(0, s.getM());
        if (groups && isRightOperand(argument))
          continue;
        auto stash = value.getDefiningOp<tile::StashOp>();
        counts.pairs[size_t(stash && stash.getMemory() ? Work::Parked : Work::Shared)] += bytes(argument.getType());
      }
    }
    for (Value v : p.getInits()) {
      see(cast<TileType>(v.getType()).getN(), cast<TileType>(v.getType()).getM());
      if (!isa<BlockArgument>(v)) // the stream's own are counted there
        counts.held += bytes(v.getType());
    }
    counts.pairsOfTile = blocksOf(rows) * blocksOf(columns);
  }
};
} // namespace

Counts flarec::countOps(tile::KernelOp kernel, bool host) {
  tile::ConfigAttr config = kernel.getConfigAttr();
  Counter counter{{}, host, config.getSums() == "mma", config.hasGroups(), config.getWorkers()};
  counter.walk(kernel.getRegion().front(), counter.counts.block, config.getRows());
  return counter.counts;
}
