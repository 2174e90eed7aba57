// The `tile` dialect: types, attributes, ops.
#pragma once

#include "flare/Flare.h"
#include "mlir/IR/SymbolTable.h"
#include "mlir/Dialect/SCF/IR/SCF.h"

namespace flarec::tile {
/// The field `exp` of a configuration: how exponentials are made, and of fast bodies how many of 16 neighbouring pairs of columns.
struct Exponentials {
  enum Kind { Mufu, Poly3, Bits, Poly5 } kind;
  unsigned share;
};
mlir::FailureOr<Exponentials> parseExponentials(llvm::StringRef text);
} // namespace flarec::tile

#include "tile/TileDialect.h.inc"
#define GET_ATTRDEF_CLASSES
#include "tile/TileAttrs.h.inc"
#define GET_TYPEDEF_CLASSES
#include "tile/TileTypes.h.inc"
#define GET_OP_CLASSES
#include "tile/TileOps.h.inc"

namespace flarec::tile {
using flarec::flare::Index;

/// The index that is not the row index (of n and m).
inline Index columnsOf(Index rows) { return rows == Index::n ? Index::m : Index::n; }

/// `type` with the size of index `i` replaced.
TileType resize(TileType type, Index i, int64_t size);

/// Scores come in blocks of this many rows and columns: the matrix instruction's M, and its K in 16-bit types.
constexpr int64_t blockSize = 16;
/// Workers whose matrix instructions are one (`matrix = "wgmma"`): a warpgroup.
constexpr int64_t groupWorkers = 4;
} // namespace flarec::tile
