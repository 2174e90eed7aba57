// Types and attributes of the `tile` dialect; the ops' verifiers are in Verifiers.cpp.
#include "tile/Tile.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/DialectImplementation.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace flarec::tile;

/// Types in parentheses, perhaps none.
static ParseResult parseTypes(OpAsmParser &p, SmallVectorImpl<Type> &types) {
  return p.parseCommaSeparatedList(AsmParser::Delimiter::Paren, [&] { return p.parseType(types.emplace_back()); });
}
static void printTypes(OpAsmPrinter &p, Operation *, TypeRange types) {
  p << "(";
  llvm::interleaveComma(types, p);
  p << ")";
}

#include "tile/TileDialect.cpp.inc"
#define GET_ATTRDEF_CLASSES
#include "tile/TileAttrs.cpp.inc"
#define GET_TYPEDEF_CLASSES
#include "tile/TileTypes.cpp.inc"
#define GET_OP_CLASSES
#include "tile/TileOps.cpp.inc"

void TileDialect::initialize() {
  addAttributes<
#define GET_ATTRDEF_LIST
#include "tile/TileAttrs.cpp.inc"
      >();
  addTypes<
#define GET_TYPEDEF_LIST
#include "tile/TileTypes.cpp.inc"
      >();
  addOperations<
#define GET_OP_LIST
#include "tile/TileOps.cpp.inc"
      >();
}

TileType flarec::tile::resize(TileType t, Index i, int64_t size) {
  return TileType::get(t.getContext(), i == Index::n ? size : t.getN(), i == Index::m ? size : t.getM(),
                       i == Index::d ? size : t.getD(), t.getElement(), t.getLayout());
}

//===-- Layouts: a basis vector is index · 4096 + step, 0 for a copy ---------//

static ParseResult parseBases(AsmParser &p, SmallVectorImpl<int32_t> &bases) {
  return p.parseCommaSeparatedList(AsmParser::Delimiter::Square, [&]() -> ParseResult {
    int32_t zero;
    if (OptionalParseResult r = p.parseOptionalInteger(zero); r.has_value()) {
      bases.push_back(0);
      return *r;
    }
    StringRef word;
    int32_t step;
    if (p.parseKeyword(&word) || word.size() < 2 || word.drop_front().getAsInteger(10, step) ||
        StringRef("nmd").find(word[0]) == StringRef::npos)
      return p.emitError(p.getCurrentLocation(), "expected a basis like n4, or 0");
    bases.push_back(int32_t(StringRef("nmd").find(word[0])) * 4096 + step);
    return success();
  });
}

static void printBases(AsmPrinter &p, ArrayRef<int32_t> bases) {
  p << "[";
  llvm::interleaveComma(bases, p, [&](int32_t b) {
    if (b)
      p << "nmd"[b / 4096] << b % 4096;
    else
      p << "0";
  });
  p << "]";
}

Attribute LayoutAttr::parse(AsmParser &p, Type) {
  SmallVector<int32_t> registers, lanes;
  if (p.parseLess() || p.parseKeyword("reg") || parseBases(p, registers) || p.parseComma() ||
      p.parseKeyword("lane") || parseBases(p, lanes) || p.parseGreater())
    return {};
  return get(p.getContext(), registers, lanes);
}

void LayoutAttr::print(AsmPrinter &p) const {
  p << "<reg ";
  printBases(p, getRegisters());
  p << ", lane ";
  printBases(p, getLanes());
  p << ">";
}

//===-- Configurations -------------------------------------------------------//

// No number of a configuration is larger, so that products of a few are exact.
static constexpr int64_t largest = 65536;

// What holds for any sweep on any target; what depends on them is asked by `feasible` (compiler/passes/Feasible.h).
LogicalResult ConfigAttr::verify(function_ref<InFlightDiagnostic()> error, Index rows, int64_t tile, int64_t heads,
                                 int64_t rowGroups, int64_t workers, int64_t workerRows, int64_t stages, int64_t unroll,
                                 int64_t blocks, StringAttr sums, StringAttr exp, StringAttr park, int64_t minBlocks, int64_t columnWorkers,
                                 StringAttr matrix) {
  if (rows == Index::d)
    return error() << "rows are tokens (n) or latents (m), not channels (d)";
  for (auto [name, value, unit] : {std::tuple("tile", tile, blockSize), std::tuple("worker_rows", workerRows, blockSize),
                                   std::tuple("heads", heads, int64_t(1)), std::tuple("row_groups", rowGroups, int64_t(1)),
                                   std::tuple("workers", workers, int64_t(1)), std::tuple("stages", stages, int64_t(1)),
                                   std::tuple("blocks", blocks, int64_t(1)), std::tuple("min_blocks", minBlocks, int64_t(1)),
                                   std::tuple("column_workers", columnWorkers, int64_t(1))})
    if (value < unit || value % unit || value > largest)
      return error() << name << " = " << value << " must be a positive multiple of " << unit << ", " << largest << " at most";
  if (unroll < 0 || unroll > largest)
    return error() << "unroll = " << unroll << " must be 0 (all) or a number of column blocks, " << largest << " at most";
  if (32 * heads * workers > 1024)
    return error() << "heads = " << heads << " of " << workers << " workers are " << 32 * heads * workers
                   << " threads; a block has 1024 at most";
  if (workers % columnWorkers)
    return error() << "column_workers = " << columnWorkers << " must divide workers = " << workers << ": each of these has rows and columns";
  if (rows == Index::m && columnWorkers != 1)
    return error() << "column_workers = " << columnWorkers << " must be 1 where rows = m: splits share out the tokens";
  int64_t rowWorkers = workers / columnWorkers;
  if (rows == Index::n && tile != rowWorkers * workerRows) {
    InFlightDiagnostic e = error() << "tile = " << tile << " must be workers " << (columnWorkers > 1 ? "/ column_workers " : "") << "· worker_rows = ";
    return e << rowWorkers << " · " << workerRows << " = " << rowWorkers * workerRows << " where rows = n: each worker has its tokens of a tile";
  }
  if (rows == Index::n && rowGroups != 1)
    return error() << "row_groups = " << rowGroups << " must be 1 where rows = n: it is latents that blocks can share out";
  if (sums.getValue() != "mma" && sums.getValue() != "add")
    return error() << "sums = " << sums << " must be \"mma\" or \"add\"";
  if (park.getValue() != "shared" && park.getValue() != "fast" && park.getValue() != "none")
    return error() << "park = " << park << " must be \"shared\", \"fast\" or \"none\"";
  if (rows == Index::m && park.getValue() != "shared")
    return error() << "park = " << park << " must be \"shared\" where rows = m: latent operands are in registers, nothing is parked";
  if (matrix.getValue() != "mma" && matrix.getValue() != "wgmma")
    return error() << "matrix = " << matrix << " must be \"mma\" or \"wgmma\"";
  if (matrix.getValue() == "wgmma" && (workers % groupWorkers || columnWorkers != 1))
    return error() << "matrix = \"wgmma\" takes workers in groups of " << groupWorkers << " that all have rows of their own: workers = " << workers << ", column_workers = "
                   << columnWorkers << " must be a multiple of " << groupWorkers << ", and 1";
  if (failed(parseExponentials(exp.getValue())))
    return error() << "exp = " << exp << " must be \"mufu\", \"poly5\", or \"poly3:k\" or \"bits:k\" with k from 0 to 16";
  return success();
}

FailureOr<Exponentials> flarec::tile::parseExponentials(StringRef text) {
  if (text == "mufu")
    return Exponentials{Exponentials::Mufu, 0};
  if (text == "poly5")
    return Exponentials{Exponentials::Poly5, 16};
  for (auto [name, kind] : {std::pair("poly3:", Exponentials::Poly3), std::pair("bits:", Exponentials::Bits)}) {
    StringRef rest = text;
    unsigned share;
    if (rest.consume_front(name) && !rest.getAsInteger(10, share) && share <= 16)
      return Exponentials{kind, share};
  }
  return failure();
}

//===-- Types ----------------------------------------------------------------//

static ParseResult parseSizes(AsmParser &p, int64_t (&sizes)[3]) {
  if (p.parseLess())
    return failure();
  for (StringRef key; succeeded(p.parseOptionalKeyword(&key, {"n", "m", "d"}));)
    if (p.parseEqual() || p.parseInteger(sizes[StringRef("nmd").find(key)]) || p.parseComma())
      return failure();
  return success();
}

static void printSizes(AsmPrinter &p, int64_t n, int64_t m, int64_t d, Type element) {
  p << "<";
  if (n)
    p << "n=" << n << ", ";
  if (m)
    p << "m=" << m << ", ";
  if (d)
    p << "d=" << d << ", ";
  p << element;
}

Type TileType::parse(AsmParser &p) {
  int64_t s[3] = {};
  Type element;
  LayoutAttr layout;
  if (parseSizes(p, s) || p.parseType(element) ||
      (succeeded(p.parseOptionalComma()) && p.parseAttribute(layout)) || p.parseGreater())
    return {};
  return get(p.getContext(), s[0], s[1], s[2], element, layout);
}

void TileType::print(AsmPrinter &p) const {
  printSizes(p, getN(), getM(), getD(), getElement());
  if (getLayout())
    p << ", " << getLayout();
  p << ">";
}

Type StageType::parse(AsmParser &p) {
  int64_t s[3] = {};
  Type element;
  if (parseSizes(p, s) || p.parseType(element) || p.parseGreater())
    return {};
  return get(p.getContext(), s[0], s[2], element);
}
void StageType::print(AsmPrinter &p) const {
  printSizes(p, getN(), 0, getD(), getElement());
  p << ">";
}

Type StashType::parse(AsmParser &p) {
  int64_t s[3] = {};
  Type element;
  if (parseSizes(p, s) || p.parseType(element) || p.parseGreater())
    return {};
  return get(p.getContext(), s[1], s[2], element);
}
void StashType::print(AsmPrinter &p) const {
  printSizes(p, 0, getM(), getD(), getElement());
  p << ">";
}
