// tile-to-nvvm: several blocks of columns on their way through the body of tile.pairs at once, op by op, where they have to come to an instruction or to a vote together.
#include "passes/nvvm/KernelLowering.h"

using namespace mlir;

namespace flarec::nvvm {

namespace {
/// The branch that raises references where one is exceeded.
scf::IfOp raiseOf(Operation &o) {
  auto exceeds = dyn_cast<tile::ExceedsOp>(o);
  auto branch = exceeds && exceeds->getNextNode() ? dyn_cast<scf::IfOp>(exceeds->getNextNode()) : scf::IfOp();
  return branch && branch.getCondition() == exceeds.getAny() && exceeds.getAny().hasOneUse() ? branch : scf::IfOp();
}

/// An accumulator and what adds to it, if all that is done with the two is that the sum is handed over.
bool isAddedTo(Value acc, Value sum) { return acc.hasOneUse() && sum.hasOneUse() && isa<tile::YieldOp>(*sum.user_begin()); }

bool adds(Operation *o) {
  if (auto contract = dyn_cast<tile::ContractOp>(o))
    return contract.getOver() != Index::d && isAddedTo(contract.getAcc(), contract.getOut());
  auto sum = dyn_cast<tile::SumOp>(o);
  return sum && isAddedTo(sum.getAcc(), sum.getOut());
}

/// May columns go through the body together, op by op? Then accumulators are added to, or raised before that, and nothing else is done with them.
bool goTogether(tile::PairsOp op) {
  Block &body = op.getRegion().front();
  DenseSet<Operation *> raises;
  for (Operation &o : body)
    if (scf::IfOp branch = raiseOf(o)) {
      raises.insert(&o);
      raises.insert(branch);
      for (Operation *u : cast<tile::ExceedsOp>(o).getX().getUsers())
        if (auto reduce = dyn_cast<tile::ReduceOp>(u); branch->isProperAncestor(u) && (!reduce || reduce.getKind() != "max" || reduce.getOver() == op.getRows()))
          return false;
      for (auto [result, otherwise] : llvm::zip(branch.getResults(), branch.elseYield().getOperands())) {
        auto arg = dyn_cast<BlockArgument>(otherwise);
        if (!arg || arg.getOwner() != &body || !llvm::all_of(result.getUsers(), [&](Operation *u) { return u->getBlock() == &body && (!isa<tile::ContractOp, tile::SumOp>(u) || adds(u)); }))
          return false;
      }
    } else if (o.getNumRegions() && !raises.contains(&o)) {
      return false;
    }
  for (BlockArgument arg : body.getArguments().drop_front(2 + op.getIns().size()))
    for (Operation *u : arg.getUsers())
      if (!raises.contains(body.findAncestorOpInBlock(*u)) && !adds(u))
        return false;
  return true;
}
} // namespace

// Column by column, unless they have to come to a matrix instruction together, or ask together whether a reference is exceeded: one vote for all of them, and longer
// runs of independent instructions.
void KernelLowering::several(tile::PairsOp op, Value first, int64_t count, int64_t rowBlocks, SmallVector<Registers> &state) {
  APInt known;
  auto further = [&](Value x, int64_t c) { return matchPattern(x, m_ConstantInt(&known)) ? c32(known.getSExtValue() + c) : add(x, c); };
  bool raises = llvm::any_of(op.getRegion().front(), [](Operation &o) { return bool(raiseOf(o)); });
  bool masks = !fullTile && op.getRows() == Index::m && !op.getRegion().front().getOps<tile::MaskOp>().empty();
  bool half = llvm::any_of(op.getIns().getTypes(), [](Type t) {
    auto stage = dyn_cast<tile::StageType>(t);
    auto tile = dyn_cast<TileType>(t);
    return (stage && isHalf(stage.getElement())) || (tile && isHalf(tile.getElement()));
  });
  bool broad = half && llvm::any_of(op.getInits(), [](Value v) { return tileType(v).getD() >= 32; });
  // Of more columns registers hold no more; one alone is worth it for masks of tokens.
  int64_t most = hasGroups() ? count : broad && rowBlocks <= 2 ? 2 : 1;
  if ((hasGroups() || masks || (raises && (most > 1 || op.getRows() == Index::m))) && goTogether(op)) {
    for (int64_t c = 0; c < count && succeeded(status); c += most)
      together(op, further(first, c), std::min(most, count - c), rowBlocks, state);
    return;
  }
  for (int64_t c = 0; c < count && succeeded(status); ++c)
    if (hasGroups())
      together(op, further(first, c), 1, rowBlocks, state);
    else
      column(op, further(first, c), rowBlocks, state);
}

void KernelLowering::together(tile::PairsOp op, Value first, int64_t count, int64_t rowBlocks, SmallVector<Registers> &state) {
  Block &body = op.getRegion().front();
  SmallVector<Column> columns;
  for (int64_t c = 0; c < count; ++c) {
    Value col = c ? add(first, c) : first;
    numbers[body.getArgument(1)] = fold(widen(mul(col, tile::blockSize)));
    columns.push_back({col, tiles, numbers, {}});
  }
  // A column's parts are read where they are needed first.
  DenseSet<Value> bound;
  auto bindUsed = [&](Operation &o) {
    o.walk([&](Operation *inner) {
      for (Value v : inner->getOperands())
        if (auto arg = dyn_cast<BlockArgument>(v); arg && arg.getOwner() == &body && bound.insert(v).second)
          for (Column &c : columns)
            within(c, [&] { bindColumn(op, arg, c.number); });
    });
  };
  for (int64_t r = 0; r < rowBlocks && succeeded(status); ++r) {
    for (Column &c : columns)
      within(c, [&] { bindRow(op, r, state); });
    SmallVector<tile::ContractOp> last; // nobody waits for these, and everything that comes later would
    for (Operation &o : body.without_terminator()) {
      bindUsed(o);
      auto contract = dyn_cast<tile::ContractOp>(o);
      auto mask = dyn_cast<tile::MaskOp>(o);
      if (contract && hasGroups() && adds(&o)) {
        last.push_back(contract);
      } else if (contract && hasGroups()) {
        groupContract(contract, columns);
      } else if (mask && mask.getOver() == Index::n && op.getRows() == Index::m) {
        maskLast(mask, columns);
      } else if (scf::IfOp branch = raiseOf(o)) {
        raise(cast<tile::ExceedsOp>(o), branch, columns);
      } else if (!isa<scf::IfOp>(o) || !o.getPrevNode() || !raiseOf(*o.getPrevNode())) {
        for (auto [index, c] : llvm::enumerate(columns)) {
          if (index && adds(&o)) { // to what the column before has added to
            Value acc = contract ? contract.getAcc() : cast<tile::SumOp>(o).getAcc();
            c.tiles[acc] = columns[index - 1].tiles[o.getResult(0)];
          }
          within(c, [&] { lower(&o); });
        }
      }
      if (failed(status))
        return;
    }
    for (tile::ContractOp contract : last)
      groupContract(contract, columns);
    if (failed(status))
      return;
    within(columns.back(), [&] { takeRow(op, r, state); });
  }
}

void KernelLowering::within(Column &c, function_ref<void()> work) {
  auto exchange = [&] {
    std::swap(tiles, c.tiles);
    std::swap(numbers, c.numbers);
    std::swap(packed, c.packed);
  };
  exchange();
  work();
  exchange();
}

// All tiles but the last are full. Asked once for all columns, masks cost nothing there.
void KernelLowering::maskLast(tile::MaskOp op, MutableArrayRef<Column> columns) {
  Registers full;
  for (Column &c : columns)
    full.append(c.tiles[op.getX()]);
  Value end = add(columns.back().numbers[op.getFirst()], tile::blockSize);
  auto masked = [&] {
    Registers all;
    for (Column &c : columns)
      within(c, [&] {
        emit(op);
        all.append(tiles[op.getOut()]);
      });
    return all;
  };
  ValueRange chosen = choose(lt(columns.back().numbers[op.getLimit()], end), ValueRange(full).getTypes(), masked, [&] { return full; });
  unsigned next = 0;
  for (Column &c : columns)
    within(c, [&] { unflatten(op.getOut(), chosen, next); });
}

void KernelLowering::raise(tile::ExceedsOp exceeds, scf::IfOp branch, MutableArrayRef<Column> columns) {
  Column &front = columns.front(); // nobody's reference is raised yet: all have the same
  Value any;
  for (Column &c : columns)
    within(c, [&] {
      Value here = exceedsHere(exceeds);
      any = any ? Value(arith::OrIOp::create(b, loc, any, here)) : here;
    });
  Registers unraised;
  for (Value v : branch.elseYield().getOperands())
    unraised.append(front.tiles[v]);
  auto raised = [&] {
    auto before = front.tiles;
    // Element by element the largest of all columns: the branch asks for the largest of each row alone.
    for (Column &c : columns.drop_front())
      for (auto [x, y] : llvm::zip(front.tiles[exceeds.getX()], c.tiles[exceeds.getX()]))
        x = maxNaN(x, y);
    Registers all;
    within(front, [&] {
      zeroStays = true;
      lowerBlock(*branch.thenBlock());
      zeroStays = false;
      for (Value v : branch.thenYield().getOperands())
        if (succeeded(status))
          flatten(v, all);
    });
    front.tiles = std::move(before);
    return all;
  };
  ValueRange chosen = choose(anyLane(any), ValueRange(unraised).getTypes(), raised, [&] { return unraised; });
  if (failed(status))
    return;
  for (Column &c : columns)
    within(c, [&] {
      unsigned next = 0;
      for (Value v : branch.getResults())
        unflatten(v, chosen, next);
    });
}

} // namespace flarec::nvvm
