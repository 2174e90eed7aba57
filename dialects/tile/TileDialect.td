// The `tile` dialect: the program of one thread block, on tiles.
#ifndef TILE_DIALECT_TD
#define TILE_DIALECT_TD

include "mlir/IR/OpBase.td"
include "mlir/IR/AttrTypeBase.td"
include "mlir/IR/EnumAttr.td"
include "flare/FlareDialect.td"

def Tile_Dialect : Dialect {
  let name = "tile";
  let cppNamespace = "::flarec::tile";
  let summary = "one block's pass over the tokens, on tiles";
  let description = [{
    A *block* owns a batch, a few neighbouring heads and a range of the tokens (its *split*).
    It consists of *workers* (warps on a GPU, a single thread on the host); a
    worker has one head, and what is written here is the program of one worker. The workers of
    a block share the tokens that are staged in fast memory and the latent operands parked there
    (`tile.stash`), nothing else.

    Tiles are typed by the same indices as `flare` tensors, now with sizes, and live in
    registers. The program is the same for every target until a pass gives each tile a *layout*:
    which register of which lane holds which element. `tile.pairs` is the heart: it walks over
    16 × 16 blocks of scores, *rows* (whose accumulators stay in registers) by *columns* (which
    stream from fast memory). In an encode rows are latents and columns tokens, in a decode the
    other way round; everything else is equal.
  }];
  let useDefaultTypePrinterParser = 1;
  let useDefaultAttributePrinterParser = 1;
  let dependentDialects = ["::flarec::flare::FlareDialect", "::mlir::arith::ArithDialect",
                           "::mlir::scf::SCFDialect"];
}

//===-- Attributes -----------------------------------------------------------//

def Tile_LayoutAttr : AttrDef<Tile_Dialect, "Layout"> {
  let mnemonic = "layout";
  let summary = "which register of which lane holds which element";
  let description = [{
    A linear map over bits. `#tile.layout<reg [n1, m8], lane [n2, n4, m1, m2, m4]>`: bit 0 of the register
    number adds 1 to n, bit 1 adds 8 to m; bit 0 of the lane adds 2 to n, and so on; `0` is a
    copy of the same element. See compiler/layout/Layout.h.
  }];
  let parameters = (ins ArrayRefParameter<"int32_t">:$registers, ArrayRefParameter<"int32_t">:$lanes);
  let hasCustomAssemblyFormat = 1;
}

def Tile_ConfigAttr : AttrDef<Tile_Dialect, "Config"> {
  let mnemonic = "config";
  let summary = "how a sweep is to be run";
  let description = [{
    Written by a heuristic, the tuner or a person; lowering obeys it and never chooses. What holds for any sweep on any target is
    verified here; `feasible` (compiler/passes/Feasible.h) knows the rest, and flare-configure and flare-to-tile ask it. What
    they accept is obeyed, field by field.

    | field | meaning | GPU | host |
    |---|---|---|---|
    | rows | `m` or `n`: whose accumulators stay in a worker's registers | n where token values are made or pairs contracted over m, m where pairs are attended or summed over n | as the GPU |
    | tile | tokens that a block stages at once; workers / column_workers · worker_rows where rows = n | a multiple of 16 | the same; 16 where rows = n |
    | heads | heads of a block | 32 · heads · workers threads, 1024 at most | the same bound |
    | row_groups | blocks that share the rows of a head (rows = m: groups of latents) | as few as cover the latents; 1 where rows = n | as the GPU |
    | workers | workers that share a head's rows within a block | as few as cover the latents | 1 |
    | worker_rows | rows of a worker (rows = m: latents; rows = n: tokens of a tile) | a multiple of 16, as small as covers the latents | the same; 16 where rows = n |
    | stages | depth of the ring of staged tiles; host: tiles that a head takes before the next one's turn | 2 to 16 | any |
    | unroll | column blocks handled at once (0: all); host: columns, of which safe bodies and long phases take fewer | a divisor of their number; 0 where accumulators [m,d] lie beside rows = n; 64 blocks of straight-line code | a power of two, times channels at most 128, 16 at most |
    | blocks | blocks to aim for over all splits | any | any |
    | sums | `mma` or `add`: how row sums are made | `mma`: of pairs rounded to 16 bits, not for f32 tokens | `add` |
    | exp | `mufu`: the exponential unit; `poly3:k`, `bits:k`: of fast bodies, k of 16 pairs of columns on the FMA pipe instead; `poly5`: all by a polynomial | `mufu`; `poly3:k` with 16-bit tokens; `bits:k` with bf16 | `poly5` |
    | park | latent operands that are parked in fast memory: `shared`: all; `fast`: those of fast bodies; `none`: none. The others lie in global memory, where a kernel of their own puts them; what groups multiply by comes from there to fast memory in *pages*, each for all of the block | `fast`, `none` only where rows = n | `shared` |
    | min_blocks | resident blocks an SM to compile for (sets the register limit) | as threads and shared memory leave room for | 1 |
    | matrix | which matrix instructions multiply: `mma`: a warp's own; `wgmma`: those of four neighbouring workers, a *group*, which read their right operands from fast memory, once for all four (sm_90a) | `wgmma` where rows are not summed: workers a multiple of 4, 16-bit tokens, channels a multiple of 16, latents parked in fast memory (`shared`) or, of one head and bf16, in pages (`none`), 16 blocks of columns at once at most | `mma` |
    | column_workers | of the workers, how many have the same rows and share out their columns (rows = n: the latents) | a divisor of workers and of the blocks of 16 latents; 1 but where only contractions reduce | 1 |

    Relative errors of an exponential (rms, largest) before it is rounded to 16 bits: `mufu` 2^-22; `poly3` 5e-5, 8e-5; `bits`, which makes it in bf16 at once, 2.8e-3, 8.5e-3 where
    rounding alone is 1.7e-3, 3.9e-3.

    No number is larger than 65536.
  }];
  let parameters = (ins "::flarec::flare::Index":$rows, "int64_t":$tile, "int64_t":$heads,
    "int64_t":$row_groups, "int64_t":$workers, "int64_t":$worker_rows, "int64_t":$stages,
    "int64_t":$unroll, "int64_t":$blocks, "::mlir::StringAttr":$sums, "::mlir::StringAttr":$exp, "::mlir::StringAttr":$park,
    "int64_t":$min_blocks, DefaultValuedParameter<"int64_t", "1">:$column_workers,
    DefaultValuedParameter<"::mlir::StringAttr", "::mlir::StringAttr::get($_ctxt, \"mma\")">:$matrix);
  let assemblyFormat = "`<` struct(params) `>`";
  let genVerifyDecl = 1;
  let extraClassDeclaration = [{
    int64_t getThreads() const { return 32 * getHeads() * getWorkers(); }
    /// Do groups of four workers multiply together?
    bool hasGroups() const { return getMatrix().getValue() == "wgmma"; }
    /// Workers with rows of their own.
    int64_t getRowWorkers() const { return getWorkers() / getColumnWorkers(); }
    Exponentials getExponentials() const { return *parseExponentials(getExp().getValue()); }
  }];
}

//===-- Types ----------------------------------------------------------------//

class Tile_Type<string name, string typeMnemonic> : TypeDef<Tile_Dialect, name> {
  let mnemonic = typeMnemonic;
  let hasCustomAssemblyFormat = 1;
}

def Tile_TileType : Tile_Type<"Tile", "tile"> {
  let summary = "a tile in a worker's registers";
  let description = [{
    `!tile.tile<n=16, m=16, f32>`; an index that is absent has size 0. Once laid out,
    `!tile.tile<n=16, m=16, f32, #tile.layout<…>>`.
  }];
  let parameters = (ins "int64_t":$n, "int64_t":$m, "int64_t":$d, "::mlir::Type":$element,
                        OptionalParameter<"LayoutAttr">:$layout);
  let extraClassDeclaration = [{
    int64_t size(::flarec::flare::Index i) const {
      return i == ::flarec::flare::Index::n ? getN() : i == ::flarec::flare::Index::m ? getM() : getD();
    }
    TileType withLayout(LayoutAttr l) const { return get(getContext(), getN(), getM(), getD(), getElement(), l); }
    TileType withElement(::mlir::Type e) const { return get(getContext(), getN(), getM(), getD(), e, getLayout()); }
  }];
}

def Tile_StageType : Tile_Type<"Stage", "stage"> {
  let summary = "rows of tokens staged in fast memory";
  let description = "`!tile.stage<n=64, d=8, bf16>`: this worker's head of a tile of tokens, as it lies in memory.";
  let parameters = (ins "int64_t":$n, "int64_t":$d, "::mlir::Type":$element);
}

def Tile_StashType : Tile_Type<"Stash", "stash"> {
  let summary = "a latent operand parked in fast memory, or in the workspace";
  let description = [{
    `!tile.stash<m=128, d=8, bf16>`: this worker's latents, kept in the order in which lanes hold them, so that reading a block back
    is one vector load a lane.
  }];
  let parameters = (ins "int64_t":$m, "int64_t":$d, "::mlir::Type":$element);
}

#endif // TILE_DIALECT_TD
