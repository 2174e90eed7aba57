// tile-to-nvvm: latents from global memory, results and partial results to it.
#include "passes/nvvm/KernelLowering.h"
#include <map>

using namespace mlir;

namespace flarec::nvvm {

void KernelLowering::emit(tile::LoadOp op) {
  const Tensor &t = tensors[op.getTensor()];
  TileType type = tileType(op.getTile());
  Value at = number(op.getAt());
  Registers words;
  tiles[op.getTile()] = loadRows(t, type, at, [&](Value row) { return rowAddress(t, row); }, &words);
  packed.erase(op.getTile());
  // What is cast back to the tensor's type was these bits.
  if (words.size() * 2 == tiles[op.getTile()].size() && llvm::all_of(op.getTile().getUsers(), [&](Operation *u) {
        return isa<tile::CastOp>(u) && tileType(u->getResult(0)).getElement() == t.type.getElement();
      }))
    packed[op.getTile()] = words;
}

Value KernelLowering::loadElement(Type e, Value p) {
  if (e.isF32())
    return load(f32(), p, 4);
  Value bits = load(b.getI16Type(), p, 2);
  if (e.isBF16())
    return bitcast(f32(), shl(arith::ExtUIOp::create(b, loc, i32(), bits), 16));
  return arith::ExtFOp::create(b, loc, f32(), bitcast(e, bits));
}

void KernelLowering::emit(tile::StoreOp op) {
  Tensor t = tensors[op.getTensor()];
  TileType type = tileType(op.getTile());
  Layout l = layoutOf(type);
  Axis a = type.getM() ? Axis::m : Axis::n;
  int64_t d = t.type.getChannels(), count = l.registerCount();
  Type e = t.type.getElement();
  Value base = t.pointer;
  Value limit = a == Axis::m ? c64(t.rows()) : tokens;
  Value first = number(op.getAt()), tileFirst = c64(0); // rows: `first` and what depends on the tile
  if (auto sum = op.getAt().getDefiningOp<arith::AddIOp>()) {
    tileFirst = number(sum.getLhs());
    first = number(sum.getRhs());
  }
  if (op.getPartial()) {
    // This split's copy [b][split][h]; workers with tokens for rows have copies of their own.
    Value splitStride = mul(heads, t.rows() * std::max<int64_t>(1, d));
    base = offset(base, mul(mul(split, splitStride), bytesOf(e)));
    if (config.getRows() == Index::n) {
      int64_t copyRows = t.rows() / config.getWorkers(); // or parts of a copy
      first = add(first, widen(mul(worker, copyRows)));
    }
  }
  Value laneRow = widen(laneCoordinate(l, a)), laneChannel = laneCoordinate(l, Axis::d);
  Value mine = headIsReal;
  int64_t copies = 0, copyBits = 0; // lanes that hold what another one holds
  for (size_t i = 0; i < l.lanes.size(); ++i)
    if (l.lanes[i].step == 0) {
      copies |= int64_t(1) << i;
      ++copyBits;
    }
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
  // Everything that is the same for all tiles first: it leaves their loop.
  Tensor target = t;
  target.pointer = base;
  Value here = offset(rowAddress(target, add(first, laneRow)), widen(mul(laneChannel, bytesOf(e))));
  here = offset(here, mul(mul(tileFirst, t.strideRow), bytesOf(e)));
  auto addressOf = [&](Value row) { return offset(here, mul(mul(row, t.strideRow), bytesOf(e))); };
  auto isOwner = [&](Value valid, int64_t row) {
    if (!op.getOwners())
      return valid;
    return both(valid, arith::CmpIOp::create(b, loc, arith::CmpIPredicate::eq, columnWorker, c32((*op.getOwners())[row / tile::blockSize])));
  };
  auto isValid = [&](Value row) -> Value {
    if (fullTile && a == Axis::n)
      return mine;
    return both(mine, lt(add(add(add(first, laneRow), tileFirst), row), limit));
  };
  // Copies of numbers share out the rows instead of leaving all to one lane.
  int64_t lanes = int64_t(1) << copyBits;
  bool oneOwner = !op.getOwners() || llvm::all_equal(*op.getOwners());
  if (!d && copies == lanes - 1 && lanes > 1 && rows.size() % lanes == 0 && kernel.getKind() != "merge" && oneOwner) {
    SmallVector<std::pair<int64_t, Value>> all;
    for (auto &[rowOffset, values] : rows)
      all.push_back({rowOffset, values[0].second});
    for (size_t i = 0; i < all.size(); i += lanes) {
      Value v, row;
      for (int64_t j = lanes - 1; j >= 0; --j) {
        Value here = c64(all[i + j].first), is = arith::CmpIOp::create(b, loc, arith::CmpIPredicate::eq, andBits(lane, copies), c32(j));
        v = v ? select(is, all[i + j].second, v) : all[i + j].second;
        row = row ? select(is, here, row) : here;
      }
      Value valid = isOwner(isValid(row), 0);
      onlyIf(valid, [&] {
        if (mask && t.type.getTokens())
          v = select(isThere(add(add(add(first, laneRow), tileFirst), row), valid), v, cf(0));
        storeElement(e, v, addressOf(row));
      });
    }
    return;
  }
  if (copies)
    mine = both(mine, arith::CmpIOp::create(b, loc, arith::CmpIPredicate::eq, andBits(lane, copies), c32(0)));
  if (kernel.getKind() == "merge") // only one warp holds the result
    mine = both(mine, arith::CmpIOp::create(b, loc, arith::CmpIPredicate::eq, worker, c32(0)));
  // Bytes of one store: what a row's address is known to be a multiple of. Latents' results have even strides (docs/artefact.md).
  int64_t widest = op.getPartial() ? std::gcd<int64_t>(16, d * 4) : a == Axis::m ? 2 * bytesOf(e) : aligned ? rowAlignment(t.type) : bytesOf(e);
  for (auto &[rowOffset, values] : rows) {
    auto &list = values;
    llvm::sort(list, llvm::less_first());
    auto storeRow = [&, rowOffset = rowOffset](Value valid) {
      if (mask && t.type.getTokens()) {
        Value there = isThere(add(add(add(first, laneRow), tileFirst), rowOffset), valid);
        for (auto &value : list)
          value.second = select(there, value.second, cf(0));
      }
      Value p = addressOf(c64(rowOffset));
      if (!d) {
        storeElement(e, list[0].second, p);
        return;
      }
      for (size_t i = 0, n; i < list.size(); i += n) {
        n = 1; // neighbouring channels in one store
        while (2 * n * bytesOf(e) <= widest && i + 2 * n <= list.size() && list[i].first % (2 * n) == 0 && d % (2 * n) == 0 &&
               list[i + 2 * n - 1].first == list[i].first + int64_t(2 * n) - 1)
          n *= 2;
        auto write = [&, i, n] {
          Value q = offset(p, list[i].first * bytesOf(e));
          if (n == 1)
            return storeElement(e, list[i].second, q);
          Registers words;
          for (size_t j = i; j < i + n; j += isHalf(e) ? 2 : 1)
            words.push_back(isHalf(e) ? pack(e, list[j].second, list[j + 1].second) : list[j].second);
          storeVector(words, q);
        };
        if (type.getD() > d)
          onlyIf(lt(add(laneChannel, list[i].first), c32(d)), write);
        else
          write();
      }
    };
    Value valid = isOwner(isValid(c64(rowOffset)), rowOffset);
    onlyIf(valid, [&] { storeRow(valid); });
  }
}

void KernelLowering::storeElement(Type e, Value v, Value p) {
  if (e.isF32()) {
    store(v, p, 4);
    return;
  }
  Value packed = pack(e, v, cf(0));
  store(arith::TruncIOp::create(b, loc, b.getI16Type(), packed), p, 2);
}

// In shared memory [worker][block of rows][registers, four a lane at once]. The barrier at the end of a tile lies between these reads and the next writes.
void KernelLowering::emit(tile::CombineOp op) {
  int64_t count = registersOf(tileType(op.getParts().front())), bytes = count * 128; // of a block of rows
  int64_t blocks = op.getOwners().size(), sharers = config.getColumnWorkers();
  Value area = offset(offset(shared, combineOffset), widen(mul(sub(worker, columnWorker), blocks * bytes)));
  area = offset(area, widen(mul(headInBlock, blocks * bytes * config.getWorkers())));
  Value mine = offset(area, widen(mul(columnWorker, blocks * bytes)));
  int64_t next = 0;
  for (Value part : op.getParts())
    for (int64_t block = 0; block < blocksOf(tileType(part)); ++block, ++next)
      storeRegisters(ArrayRef(tiles[part]).slice(block * count, count), offset(mine, next * bytes));
  barrier();
  // The j-th block of each owner, which is another one for each.
  int64_t owners = 1 + *llvm::max_element(op.getOwners()), share = blocks / owners;
  SmallVector<SmallVector<int64_t>> owned(owners);
  for (auto [block, owner] : llvm::enumerate(op.getOwners()))
    owned[owner].push_back(block);
  SmallVector<Registers> sums(share);
  for (int64_t j = 0; j < share; ++j) {
    Value block = c32(owned[0][j]);
    for (int64_t o = 1; o < owners; ++o)
      block = select(arith::CmpIOp::create(b, loc, arith::CmpIPredicate::eq, columnWorker, c32(o)), c32(owned[o][j]), block);
    Value from = offset(area, widen(mul(block, bytes)));
    for (int64_t c = 0; c < sharers; ++c) {
      Registers part = loadRegisters(f32(), count, offset(from, c * blocks * bytes));
      for (int64_t i = 0; i < count; ++i)
        c == 0 ? sums[j].push_back(part[i]) : void(sums[j][i] = fadd(sums[j][i], part[i]));
    }
  }
  next = 0;
  SmallVector<int64_t> taken(owners, 0);
  for (auto [part, sum] : llvm::zip(op.getParts(), op.getSums())) {
    Registers all;
    for (int64_t block = 0; block < blocksOf(tileType(part)); ++block)
      all.append(sums[taken[op.getOwners()[next++]]++]);
    tiles[sum] = all;
  }
}

void KernelLowering::emit(tile::MaxNormOp op) {
  const Tensor &t = tensors[op.getTensor()];
  int64_t d = t.type.getChannels(), rows = t.rows();
  // A head's workers share the rows out, and tell each other through shared memory, where nothing lies yet.
  int64_t workers = kernel.getKind() == "sweep" ? config.getWorkers() : mergeWorkers(kernel);
  if (rows <= 32 || stashHeadBytes)
    workers = 1;
  // Of a row of more than 8 channels 8 lanes have a part each, so that neighbours read neighbours.
  int64_t lanes = d > 8 ? 8 : 1;
  auto loop = scf::ForOp::create(b, loc, workers == 1 ? c32(0) : mul(worker, 32), c32((rows + 31) / 32 * 32), c32(32 * workers), ValueRange{cf(0)});
  {
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(loop.getBody());
    Value worst = loop.getRegionIterArg(0), part = andBits(lane, lanes - 1);
    for (int64_t set = 0; set < lanes; ++set) {
      Value row = add(loop.getInductionVar(), add(shr(lane, llvm::Log2_64(lanes)), set * 32 / lanes));
      Value p = rowAddress(t, widen(min(row, c32(rows - 1)))), sum = cf(0);
      for (int64_t i = 0; i < d; i += lanes) {
        Value channel = add(part, i), valid = i + lanes > d ? lt(channel, c32(d)) : Value();
        Value x = loadElement(t.type.getElement(), offset(p, widen(mul(valid ? min(channel, c32(d - 1)) : channel, bytesOf(t.type.getElement())))));
        sum = fadd(fmul(x, valid ? select(valid, x, cf(0)) : x), sum);
      }
      for (int64_t bit = 1; bit < lanes; bit *= 2)
        sum = fadd(sum, shuffleXor(sum, bit));
      worst = maxNaN(worst, sum);
    }
    scf::YieldOp::create(b, loc, worst);
  }
  Value r = loop.getResult(0);
  for (int i = 0; i < 5; ++i)
    r = maxNaN(r, shuffleXor(r, int64_t(1) << i));
  if (workers > 1) {
    Value warp = shr(thread, 5), first = sub(warp, worker);
    sharedBytes = std::max<int64_t>(sharedBytes, threadsOf(kernel) / 32 * 4);
    store(r, offset(shared, widen(mul(warp, 4))), 4);
    barrier();
    r = cf(0);
    for (int64_t w = 0; w < workers; ++w)
      r = maxNaN(r, load(f32(), offset(offset(shared, widen(mul(first, 4))), 4 * w), 4));
    barrier();
  }
  numbers[op.getNorm()] = sqrt(r);
}

} // namespace flarec::nvvm
