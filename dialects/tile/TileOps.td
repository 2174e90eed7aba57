// The operations of the `tile` dialect. Every example is run by a test.
#ifndef TILE_OPS_TD
#define TILE_OPS_TD

include "tile/TileDialect.td"
include "mlir/Interfaces/SideEffectInterfaces.td"
include "mlir/Interfaces/InferTypeOpInterface.td"
include "mlir/Interfaces/ControlFlowInterfaces.td"
include "mlir/IR/SymbolInterfaces.td"

class Tile_Op<string mnemonic, list<Trait> traits = []> : Op<Tile_Dialect, mnemonic, traits>;

//===-- Programs and kernels -------------------------------------------------//

def Tile_ProgramOp : Tile_Op<"program", [Symbol, SymbolTable, IsolatedFromAbove, NoTerminator, SingleBlock]> {
  let summary = "the kernels of one function, in order";
  let description = [{
    The region's arguments are the function's tensors (inputs, results, then workspace) and scalars, described one by one in
    `tensors`: `{name, role = "input" | "result" | "workspace" | "scalar", sweep?, reduced?}`. Every kernel
    can name any of them; they become the slots of docs/artefact.md.

    ```mlir
    tile.program @negate [{name = "k", role = "input"}, {name = "y", role = "result"}, {name = "scale", role = "scalar"} ] {
    ^bb0(%k: !flare.tensor<n, d=8, bf16>, %y: !flare.tensor<n, d=8, f32>, %scale: f32):
    }
    ```
  }];
  let arguments = (ins SymbolNameAttr:$sym_name, ArrayAttr:$tensors);
  let regions = (region SizedRegion<1>:$region);
  let assemblyFormat = "$sym_name $tensors attr-dict-with-keyword $region";
  let hasVerifier = 1;
}

def Tile_KernelOp : Tile_Op<"kernel", [Symbol, HasParent<"ProgramOp">, NoTerminator, SingleBlock]> {
  let summary = "one launch";
  let description = [{
    `sweep` kernels run over (split, row group, head group, batch) by their `config`; `merge` kernels finish a
    reduction over tokens, as many latents a worker as their tiles have; `park` kernels make latent operands for the sweep after them (`tile.stash`), 16 latents a worker. The region's argument is the worker's first
    latent (0 where rows are tokens).

    ```mlir
    tile.program @negate [{name = "k", role = "input"}, {name = "y", role = "result"} ] {
    ^bb0(%k: !flare.tensor<n, d=8, bf16>, %y: !flare.tensor<n, d=8, f32>):
      tile.kernel @sweep_0 "sweep" sweep 0 config <rows = n, tile = 16, heads = 1, row_groups = 1, workers = 1, worker_rows = 16,
          stages = 2, unroll = 0, blocks = 132, sums = "mma", exp = "mufu", park = "shared", min_blocks = 1> {
      ^bb0(%first: index):
      }
    }
    ```
  }];
  let arguments = (ins SymbolNameAttr:$sym_name, StrAttr:$kind, I64Attr:$sweep, OptionalAttr<Tile_ConfigAttr>:$config);
  let regions = (region SizedRegion<1>:$region);
  let assemblyFormat = "$sym_name $kind `sweep` $sweep (`config` $config^)? attr-dict-with-keyword $region";
  let hasVerifier = 1;
}

def Tile_StreamOp : Tile_Op<"stream", [AttrSizedOperandSegments, SingleBlock]> {
  let summary = "the loop over this split's tiles of tokens";
  let description = [{
    Runs its body for each tile in order. Body arguments: the tile's first token (index), the staged
    rows of each of `tokens` (`!tile.stage`), and the carried tiles. Rows past the last token are zero, and so are those of
    tokens that are not there where one of `tokens` is a mask (i8).

    ```mlir
    func.func @stream(%k: !flare.tensor<n, d=8, bf16>, %z0: !tile.tile<m=16, d=8, f32>) {
      %z1 = tile.stream (%k) init (%z0) tile 64
          : (!flare.tensor<n, d=8, bf16>), (!tile.tile<m=16, d=8, f32>) -> (!tile.tile<m=16, d=8, f32>) {
      ^bb0(%n0: index, %kt: !tile.stage<n=64, d=8, bf16>, %z: !tile.tile<m=16, d=8, f32>):
        tile.yield %z : !tile.tile<m=16, d=8, f32>
      }
      return
    }
    ```
  }];
  let arguments = (ins Variadic<Flare_TensorType>:$tokens, Variadic<AnyType>:$inits, I64Attr:$tile);
  let results = (outs Variadic<AnyType>:$results);
  let regions = (region SizedRegion<1>:$region);
  let assemblyFormat = [{
    `(` $tokens `)` `init` `(` $inits `)` `tile` $tile `:` custom<Types>(type($tokens)) `,` custom<Types>(type($inits)) `->`
    custom<Types>(type($results)) attr-dict-with-keyword $region
  }];
  let hasVerifier = 1;
}

def Tile_PairsOp : Tile_Op<"pairs", [Pure, AttrSizedOperandSegments, SingleBlock]> {
  let summary = "walk over blocks of scores";
  let description = [{
    For each block of 16 columns in order, for each block of 16 rows: runs the body on the slices of
    `ins` and of the accumulators `inits` that belong to it (an index that a value does
    not carry is not sliced), and puts the yielded slices back. `ins` may be tiles, `!tile.stage` or
    `!tile.stash`; the body sees tiles. The first body arguments are the block's first row and
    first column within the worker's rows and columns (index).

    ```mlir
    func.func @pairs(%q: !tile.tile<m=32, d=8, bf16>, %k: !tile.stage<n=64, d=8, bf16>, %l0: !tile.tile<m=32, f32>) {
      %l1 = tile.pairs rows m unroll 0 ins (%q, %k) init (%l0)
          : (!tile.tile<m=32, d=8, bf16>, !tile.stage<n=64, d=8, bf16>), (!tile.tile<m=32, f32>) -> (!tile.tile<m=32, f32>) {
      ^bb0(%row: index, %column: index, %qb: !tile.tile<m=16, d=8, bf16>, %kb: !tile.tile<n=16, d=8, bf16>, %l: !tile.tile<m=16, f32>):
        %x = tile.contract (%qb), (%kb) over d : (!tile.tile<m=16, d=8, bf16>), (!tile.tile<n=16, d=8, bf16>) -> !tile.tile<n=16, m=16, f32>
        %e = tile.exp2 %x : !tile.tile<n=16, m=16, f32> -> !tile.tile<n=16, m=16, f32>
        %s = tile.sum %e over n into %l : !tile.tile<n=16, m=16, f32>, !tile.tile<m=16, f32>
        tile.yield %s : !tile.tile<m=16, f32>
      }
      return
    }
    ```
  }];
  let arguments = (ins Variadic<AnyType>:$ins, Variadic<Tile_TileType>:$inits, Flare_Index:$rows, I64Attr:$unroll);
  let results = (outs Variadic<Tile_TileType>:$results);
  let regions = (region SizedRegion<1>:$region);
  let assemblyFormat = [{
    `rows` $rows `unroll` $unroll `ins` `(` $ins `)` `init` `(` $inits `)` `:` custom<Types>(type($ins)) `,` custom<Types>(type($inits)) `->`
    custom<Types>(type($results)) attr-dict-with-keyword $region
  }];
  let hasVerifier = 1;
}

def Tile_StashOp : Tile_Op<"stash", [SingleBlock]> {
  let summary = "latent operands, computed once and parked in fast memory, or in global memory";
  let description = [{
    The body computes 16 latents' worth from the latents' first one (its argument); workers share the blocks out. All of
    it is readable after the op. Where `column_workers` share the columns out, the results are each worker's part. `memory`: what does not fit fast memory lies in
    a tensor of the workspace, a row for each 16 latents, which `tile-park` adds. The op stands in two kernels then: the `park` kernel computes, the `sweep` reads. What groups of
    workers multiply by lies there page after page, as they want it in fast memory (`StashPlan` in passes/Registers.h).

    ```mlir
    func.func @stash(%q: !flare.tensor<m=20, d=8, bf16>) {
      %s = tile.stash 32 -> !tile.stash<m=32, d=8, bf16> {
      ^bb0(%first: index):
        %t = tile.load %q at %first : !flare.tensor<m=20, d=8, bf16> -> !tile.tile<m=16, d=8, f32>
        %h = tile.cast %t : !tile.tile<m=16, d=8, f32> -> !tile.tile<m=16, d=8, bf16>
        tile.yield %h : !tile.tile<m=16, d=8, bf16>
      }
      return
    }
    ```
  }];
  let arguments = (ins I64Attr:$latents, UnitAttr:$memory, Optional<Flare_TensorType>:$tensor);
  let results = (outs Variadic<Tile_StashType>:$results);
  let regions = (region SizedRegion<1>:$region);
  let assemblyFormat = "$latents (`memory` $memory^)? ($tensor^ `:` type($tensor))? `->` type($results) attr-dict-with-keyword $region";
  let hasVerifier = 1;
}

def Tile_YieldOp : Tile_Op<"yield", [Pure, Terminator, ReturnLike]> {
  let summary = "ends a region";
  let description = [{
    Hands the region's values over to the op around it.

    ```mlir
    func.func @yield(%k: !flare.tensor<n, d=8, bf16>, %z0: !tile.tile<m=16, f32>) {
      %z1 = tile.stream (%k) init (%z0) tile 16 : (!flare.tensor<n, d=8, bf16>), (!tile.tile<m=16, f32>) -> (!tile.tile<m=16, f32>) {
      ^bb0(%n0: index, %kt: !tile.stage<n=16, d=8, bf16>, %z: !tile.tile<m=16, f32>):
        tile.yield %z : !tile.tile<m=16, f32>
      }
      return
    }
    ```
  }];
  let arguments = (ins Variadic<AnyType>:$results);
  let assemblyFormat = "attr-dict ($results^ `:` type($results))?";
}

//===-- Memory ---------------------------------------------------------------//

def Tile_LoadOp : Tile_Op<"load"> {
  let summary = "rows of a tensor into registers";
  let description = [{
    Rows from `at` of this worker's head; rows and channels outside the tensor are 0. Widened to the tile's element type.

    ```mlir
    func.func @load(%q: !flare.tensor<m=20, d=4, bf16>, %first: index) -> !tile.tile<m=32, d=8, f32> {
      %t = tile.load %q at %first : !flare.tensor<m=20, d=4, bf16> -> !tile.tile<m=32, d=8, f32>
      return %t : !tile.tile<m=32, d=8, f32>
    }
    ```
  }];
  let arguments = (ins Flare_TensorType:$tensor, Index:$at);
  let results = (outs Tile_TileType:$tile);
  let assemblyFormat = "$tensor `at` $at attr-dict `:` type($tensor) `->` type($tile)";
  let hasVerifier = 1;
}

def Tile_ReadOp : Tile_Op<"read", [Pure]> {
  let summary = "this worker's rows of a staged tile into registers";
  let description = [{
    Rows from `at` on of the staged tile.

    ```mlir
    func.func @read(%k: !tile.stage<n=64, d=8, bf16>, %row: index) -> !tile.tile<n=16, d=8, bf16> {
      %t = tile.read %k at %row : !tile.stage<n=64, d=8, bf16> -> !tile.tile<n=16, d=8, bf16>
      return %t : !tile.tile<n=16, d=8, bf16>
    }
    ```
  }];
  let arguments = (ins Tile_StageType:$stage, Index:$at);
  let results = (outs Tile_TileType:$tile);
  let assemblyFormat = "$stage `at` $at attr-dict `:` type($stage) `->` type($tile)";
  let hasVerifier = 1;
}

def Tile_StoreOp : Tile_Op<"store"> {
  let summary = "registers into rows of a tensor";
  let description = [{
    Rounds to the tensor's element type. Rows and channels outside the tensor are not written; where the program has a mask, rows of
    tokens that are not there are 0. `partial` writes this split's copy. With `owners` each block of 16 rows is written by that one of the
    `column_workers` alone (`tile.combine`).

    ```mlir
    func.func @store(%t: !tile.tile<n=16, d=8, f32>, %y: !flare.tensor<n, d=4, bf16>, %z: !tile.tile<m=16, f32>,
        %sums: !flare.tensor<m=20, f32>, %first: index) {
      tile.store %t, %y at %first : !tile.tile<n=16, d=8, f32>, !flare.tensor<n, d=4, bf16>
      tile.store %z, %sums at %first partial : !tile.tile<m=16, f32>, !flare.tensor<m=20, f32>
      return
    }
    ```
  }];
  let arguments = (ins Tile_TileType:$tile, Flare_TensorType:$tensor, Index:$at, UnitAttr:$partial, OptionalAttr<DenseI64ArrayAttr>:$owners);
  let assemblyFormat = "$tile `,` $tensor `at` $at (`partial` $partial^)? (`owners` $owners^)? attr-dict `:` type($tile) `,` type($tensor)";
  let builders = [OpBuilder<(ins "::mlir::Value":$tile, "::mlir::Value":$tensor, "::mlir::Value":$at, "bool":$partial), [{
    build($_builder, $_state, tile, tensor, at, partial, ::mlir::DenseI64ArrayAttr());
  }]>];
  let hasVerifier = 1;
}

def Tile_CombineOp : Tile_Op<"combine"> {
  let summary = "add up what workers with the same rows have of their own columns";
  let description = [{
    Each of the `column_workers` of a row has sums over its part of the columns. They are added in the order of these workers, through
    fast memory. `owners` names, for each block of 16 rows of the first operand, then of the second, and so on, the one that gets the sum; what the
    others get is undefined. Owners get equally much. All workers of a block come here together.

    ```mlir
    func.func @combine(%dk: !tile.tile<n=32, d=8, f32>, %dv: !tile.tile<n=32, d=8, f32>) {
      %k, %v = tile.combine %dk, %dv owners [0, 0, 1, 1] : !tile.tile<n=32, d=8, f32>, !tile.tile<n=32, d=8, f32>
          -> !tile.tile<n=32, d=8, f32>, !tile.tile<n=32, d=8, f32>
      return
    }
    ```
  }];
  let arguments = (ins Variadic<Tile_TileType>:$parts, DenseI64ArrayAttr:$owners);
  let results = (outs Variadic<Tile_TileType>:$sums);
  let assemblyFormat = "$parts `owners` $owners attr-dict `:` type($parts) `->` type($sums)";
  let hasVerifier = 1;
}

def Tile_MergeOp : Tile_Op<"merge"> {
  let summary = "finish an attention over the tokens from its splits";
  let description = [{
    Partials (o, L, r) of each split stand for o·2^r and L·2^r. In fixed order:

        r* = max_s r_s;  L = Σ_s L_s·2^(r_s - r*);  out = Σ_s o_s·2^(r_s - r*) / L;  lse = log2 L + r*

    `natural`: powers and logarithm of e. With no tokens at all (L = 0): out = 0, lse = -inf.

    ```mlir
    func.func @merge(%o: !flare.tensor<m=20, d=8, f32>, %l: !flare.tensor<m=20, f32>, %r: !flare.tensor<m=20, f32>, %first: index) {
      %z, %lse = tile.merge %o, %l, %r at %first natural
          : !flare.tensor<m=20, d=8, f32>, !flare.tensor<m=20, f32>, !flare.tensor<m=20, f32> -> !tile.tile<m=32, d=8, f32>, !tile.tile<m=32, f32>
      return
    }
    ```
  }];
  let arguments = (ins Flare_TensorType:$out, Flare_TensorType:$sum, Flare_TensorType:$reference, Index:$at, UnitAttr:$natural);
  let results = (outs Tile_TileType:$result, Tile_TileType:$lse);
  let assemblyFormat = "$out `,` $sum `,` $reference `at` $at (`natural` $natural^)? attr-dict `:` type($out) `,` type($sum) `,` type($reference) `->` type($result) `,` type($lse)";
  let hasVerifier = 1;
}

def Tile_MergeSumOp : Tile_Op<"merge_sum"> {
  let summary = "add up the partial sums of all splits in fixed order";
  let description = [{
    `reduced` adds up the batches that share the latents too.

    ```mlir
    func.func @merge_sum(%p: !flare.tensor<m=32, d=8, f32>, %first: index) -> !tile.tile<m=32, d=8, f32> {
      %s = tile.merge_sum %p at %first reduced : !flare.tensor<m=32, d=8, f32> -> !tile.tile<m=32, d=8, f32>
      return %s : !tile.tile<m=32, d=8, f32>
    }
    ```
  }];
  let arguments = (ins Flare_TensorType:$partial, Index:$at, UnitAttr:$reduced);
  let results = (outs Tile_TileType:$result);
  let assemblyFormat = "$partial `at` $at (`reduced` $reduced^)? attr-dict `:` type($partial) `->` type($result)";
  let hasVerifier = 1;
}

//===-- Ranges ---------------------------------------------------------------//

def Tile_MaxNormOp : Tile_Op<"max_norm"> {
  let summary = "largest Euclidean norm of a latent of this worker's head";
  let description = [{
    max_m ‖q[m]‖₂ over all latents; NaN if any is NaN.

    ```mlir
    func.func @max_norm(%q: !flare.tensor<m=20, d=8, bf16>) -> f32 {
      %r = tile.max_norm %q : !flare.tensor<m=20, d=8, bf16>
      return %r : f32
    }
    ```
  }];
  let arguments = (ins Flare_TensorType:$tensor);
  let results = (outs F32:$norm);
  let assemblyFormat = "$tensor attr-dict `:` type($tensor)";
  let hasVerifier = 1;
}

def Tile_BoundedOp : Tile_Op<"bounded"> {
  let summary = "are all scores of a staged tile small?";
  let description = [{
    True if the tile is full (no row past the last token; with `partial` it need not be) and factor·‖k[n]‖₂ ≤ limit for each of its rows that the worker uses (Cauchy–Schwarz:
    then |x| ≤ limit). Of numbers a[n] without channels: factor·|a[n]|. Written so that NaN answers no. The same for all lanes of a worker.

    ```mlir
    func.func @bounded(%k: !tile.stage<n=64, d=8, bf16>, %n0: index, %factor: f32) -> i1 {
      %ok = tile.bounded %k at %n0 factor %factor limit 60.0 : !tile.stage<n=64, d=8, bf16>
      return %ok : i1
    }
    ```
  }];
  let arguments = (ins Tile_StageType:$stage, Index:$n0, F32:$factor, F32Attr:$limit, UnitAttr:$partial);
  let results = (outs I1:$ok);
  let assemblyFormat = "$stage `at` $n0 `factor` $factor `limit` $limit (`partial` $partial^)? attr-dict `:` type($stage)";
  let hasVerifier = 1;
}

//===-- Arithmetic -----------------------------------------------------------//

def Tile_ContractOp : Tile_Op<"contract", [Pure, AttrSizedOperandSegments]> {
  let summary = "acc + Σ over addends of Σ_i a·b";
  let description = [{
    One or more addends that share the matrix instruction's K extent, contracted over index i into an f32 tile.

    ```mlir
    func.func @contract(%hi: !tile.tile<m=16, d=8, bf16>, %lo: !tile.tile<m=16, d=8, bf16>, %k: !tile.tile<n=16, d=8, bf16>,
        %v: !tile.tile<n=16, d=8, bf16>, %z0: !tile.tile<m=16, d=8, f32>) -> !tile.tile<m=16, d=8, f32> {
      %x = tile.contract (%hi, %lo), (%k, %k) over d
          : (!tile.tile<m=16, d=8, bf16>, !tile.tile<m=16, d=8, bf16>), (!tile.tile<n=16, d=8, bf16>, !tile.tile<n=16, d=8, bf16>)
          -> !tile.tile<n=16, m=16, f32>
      %p = tile.cast %x : !tile.tile<n=16, m=16, f32> -> !tile.tile<n=16, m=16, bf16>
      %z1 = tile.contract (%p), (%v) over n into %z0 : !tile.tile<m=16, d=8, f32>
          : (!tile.tile<n=16, m=16, bf16>), (!tile.tile<n=16, d=8, bf16>) -> !tile.tile<m=16, d=8, f32>
      return %z1 : !tile.tile<m=16, d=8, f32>
    }
    ```
  }];
  let arguments = (ins Variadic<Tile_TileType>:$a, Variadic<Tile_TileType>:$b, Optional<Tile_TileType>:$acc, Flare_Index:$over);
  let results = (outs Tile_TileType:$out);
  let assemblyFormat = [{
    `(` $a `)` `,` `(` $b `)` `over` $over (`into` $acc^ `:` type($acc))? attr-dict `:` `(` type($a) `)` `,` `(` type($b) `)` `->` type($out)
  }];
  let hasVerifier = 1;
}

def Tile_SumOp : Tile_Op<"sum", [Pure, AllTypesMatch<["acc", "out"]>]> {
  let summary = "acc + row sums of a block";
  let description = [{
    acc[r] + Σ_c x[r,c]. Lanes may hold parts of it; `tile.total` makes them agree.

    ```mlir
    func.func @sum(%x: !tile.tile<n=16, m=16, bf16>, %l: !tile.tile<m=16, f32>) -> !tile.tile<m=16, f32> {
      %s = tile.sum %x over n into %l : !tile.tile<n=16, m=16, bf16>, !tile.tile<m=16, f32>
      return %s : !tile.tile<m=16, f32>
    }
    ```
  }];
  let arguments = (ins Tile_TileType:$x, Tile_TileType:$acc, Flare_Index:$over);
  let results = (outs Tile_TileType:$out);
  let assemblyFormat = "$x `over` $over `into` $acc attr-dict `:` type($x) `,` type($acc)";
  let hasVerifier = 1;
}

def Tile_TotalOp : Tile_Op<"total", [Pure]> {
  let summary = "complete the row sums of `tile.sum`";
  let description = [{
    The identity in mathematics; adds up what lanes hold apart.

    ```mlir
    func.func @total(%x: !tile.tile<m=32, f32>) -> !tile.tile<m=32, f32> {
      %s = tile.total %x : !tile.tile<m=32, f32> -> !tile.tile<m=32, f32>
      return %s : !tile.tile<m=32, f32>
    }
    ```
  }];
  let arguments = (ins Tile_TileType:$x);
  let results = (outs Tile_TileType:$out);
  let assemblyFormat = "$x attr-dict `:` type($x) `->` type($out)";
  let hasVerifier = 1;
}

def Tile_ReduceOp : Tile_Op<"reduce", [Pure]> {
  let summary = "sum or maximum over one index";
  let description = [{
    `kind` is `add` or `max` (a NaN wins).

    ```mlir
    func.func @reduce(%x: !tile.tile<n=16, m=16, f32>) -> !tile.tile<m=16, f32> {
      %r = tile.reduce "max" %x over n : !tile.tile<n=16, m=16, f32> -> !tile.tile<m=16, f32>
      return %r : !tile.tile<m=16, f32>
    }
    ```
  }];
  let arguments = (ins Tile_TileType:$x, Flare_Index:$over, StrAttr:$kind);
  let results = (outs Tile_TileType:$out);
  let assemblyFormat = "$kind $x `over` $over attr-dict `:` type($x) `->` type($out)";
  let hasVerifier = 1;
}

def Tile_ExceedsOp : Tile_Op<"exceeds", [Pure]> {
  let summary = "is a pair larger than its row allows?";
  let description = [{
    True if some x[n,m] > limit[row] + `by`, or is NaN. One answer for all lanes of a worker, and no exchange of numbers between them: cheaper than a maximum.

    ```mlir
    func.func @exceeds(%x: !tile.tile<n=16, m=16, f32>, %limit: !tile.tile<m=16, f32>) -> i1 {
      %any = tile.exceeds %x, %limit by 8.0 : !tile.tile<n=16, m=16, f32>, !tile.tile<m=16, f32>
      return %any : i1
    }
    ```
  }];
  let arguments = (ins Tile_TileType:$x, Tile_TileType:$limit, F32Attr:$by);
  let results = (outs I1:$any);
  let assemblyFormat = "$x `,` $limit `by` $by attr-dict `:` type($x) `,` type($limit)";
  let hasVerifier = 1;
}

def Tile_WithinOp : Tile_Op<"within", [Pure]> {
  let summary = "are all numbers of a tile in a range?";
  let description = [{
    True if low ≤ x ≤ high everywhere, which NaN is not. One answer for all lanes of a worker.

    ```mlir
    func.func @within(%x: !tile.tile<n=32, f32>) -> i1 {
      %all = tile.within %x from 0.5 to 8.0 : !tile.tile<n=32, f32>
      return %all : i1
    }
    ```
  }];
  let arguments = (ins Tile_TileType:$x, F32Attr:$low, F32Attr:$high);
  let results = (outs I1:$all);
  let assemblyFormat = "$x `from` $low `to` $high attr-dict `:` type($x)";
  let hasVerifier = 1;
}

def Tile_OverflowsOp : Tile_Op<"overflows", [Pure]> {
  let summary = "has a rounded pair become infinite?";
  let description = [{
    True if some w[n,m] ≥ 0 in f16 is infinite (or NaN). One answer for all lanes of a worker. After the fact, and for two pairs at once: cheaper than
    `tile.exceeds` before it.

    ```mlir
    func.func @overflows(%w: !tile.tile<n=16, m=16, f16>) -> i1 {
      %any = tile.overflows %w : !tile.tile<n=16, m=16, f16>
      return %any : i1
    }
    ```
  }];
  let arguments = (ins Tile_TileType:$w);
  let results = (outs I1:$any);
  let assemblyFormat = "$w attr-dict `:` type($w)";
  let hasVerifier = 1;
}

class Tile_BinaryOp<string mnemonic, string formula> : Tile_Op<mnemonic, [Pure]> {
  let summary = formula # ", elementwise, broadcast by index";
  let description = "`out = " # formula # [{` in f32. The result carries the indices of both.

    ```mlir
    func.func @binary(%a: !tile.tile<n=16, m=16, f32>, %b: !tile.tile<m=16, f32>) -> !tile.tile<n=16, m=16, f32> {
      %c = tile.}] # mnemonic # [{ %a, %b : !tile.tile<n=16, m=16, f32>, !tile.tile<m=16, f32> -> !tile.tile<n=16, m=16, f32>
      return %c : !tile.tile<n=16, m=16, f32>
    }
    ```
  }];
  let hasVerifier = 1;
  let arguments = (ins Tile_TileType:$a, Tile_TileType:$b);
  let results = (outs Tile_TileType:$out);
  let assemblyFormat = "$a `,` $b attr-dict `:` type($a) `,` type($b) `->` type($out)";
}
def Tile_AddOp : Tile_BinaryOp<"add", "a + b">;
def Tile_SubOp : Tile_BinaryOp<"sub", "a - b">;
def Tile_MulOp : Tile_BinaryOp<"mul", "a · b">;
def Tile_MaxOp : Tile_BinaryOp<"max", "max(a, b), a NaN wins">;

class Tile_UnaryOp<string mnemonic, string formula, string from = "!tile.tile<n=16, m=16, f32>",
                   string to = "!tile.tile<n=16, m=16, f32>"> : Tile_Op<mnemonic, [Pure]> {
  let summary = formula # ", elementwise";
  let description = "`out = " # formula # [{`.

    ```mlir
    func.func @unary(%a: }] # from # ") -> " # to # [{ {
      %b = tile.}] # mnemonic # " %a : " # from # " -> " # to # [{
      return %b : }] # to # [{
    }
    ```
  }];
  let hasVerifier = 1;
  let arguments = (ins Tile_TileType:$a);
  let results = (outs Tile_TileType:$out);
  let assemblyFormat = "$a attr-dict `:` type($a) `->` type($out)";
}
def Tile_NegOp : Tile_UnaryOp<"neg", "-a">;
def Tile_Exp2Op : Tile_Op<"exp2", [Pure]> {
  let summary = "2^a, elementwise";
  let description = [{
    `out = 2^a`. `bounded` promises |a| ≤ 126: then forms that wrap round outside of that are as good, and the field `exp` of the configuration
    says for how many.

    ```mlir
    func.func @exp2(%a: !tile.tile<n=16, m=16, f32>) -> !tile.tile<n=16, m=16, f32> {
      %b = tile.exp2 bounded %a : !tile.tile<n=16, m=16, f32> -> !tile.tile<n=16, m=16, f32>
      return %b : !tile.tile<n=16, m=16, f32>
    }
    ```
  }];
  let hasVerifier = 1;
  let arguments = (ins Tile_TileType:$a, UnitAttr:$bounded);
  let results = (outs Tile_TileType:$out);
  let assemblyFormat = "(`bounded` $bounded^)? $a attr-dict `:` type($a) `->` type($out)";
}
def Tile_Log2Op : Tile_UnaryOp<"log2", "log2 a">;
def Tile_RcpOp : Tile_UnaryOp<"rcp", "1/a">;
def Tile_BroadcastOp : Tile_UnaryOp<"broadcast", "a, repeated along the indices it lacks", "!tile.tile<m=16, f32>">;
def Tile_CastOp : Tile_UnaryOp<"cast", "a in another element type, to nearest even", "!tile.tile<m=16, d=8, f32>", "!tile.tile<m=16, d=8, bf16>">;

def Tile_ScaleOp : Tile_Op<"scale", [Pure]> {
  let summary = "s · a";
  let description = [{
    Product with a number.

    ```mlir
    func.func @scale(%a: !tile.tile<m=16, d=8, f32>, %s: f32) -> !tile.tile<m=16, d=8, f32> {
      %b = tile.scale %a by %s : !tile.tile<m=16, d=8, f32> -> !tile.tile<m=16, d=8, f32>
      return %b : !tile.tile<m=16, d=8, f32>
    }
    ```
  }];
  let arguments = (ins Tile_TileType:$a, F32:$factor);
  let results = (outs Tile_TileType:$out);
  let assemblyFormat = "$a `by` $factor attr-dict `:` type($a) `->` type($out)";
  let hasVerifier = 1;
}

def Tile_SplitOp : Tile_Op<"split", [Pure]> {
  let summary = "an f32 tile as the sum of two 16-bit ones";
  let description = [{
    hi = round(a), lo = round(a - hi): 16 bits of fraction, where 8 would spoil a product.

    ```mlir
    func.func @split(%a: !tile.tile<m=16, d=8, f32>) {
      %hi, %lo = tile.split %a : !tile.tile<m=16, d=8, f32> -> !tile.tile<m=16, d=8, bf16>, !tile.tile<m=16, d=8, bf16>
      return
    }
    ```
  }];
  let arguments = (ins Tile_TileType:$a);
  let results = (outs Tile_TileType:$hi, Tile_TileType:$lo);
  let assemblyFormat = "$a attr-dict `:` type($a) `->` type($hi) `,` type($lo)";
  let hasVerifier = 1;
}

def Tile_ConstantOp : Tile_Op<"constant", [Pure]> {
  let summary = "a tile of one value";
  let description = [{
    Every element is `value`.

    ```mlir
    func.func @constant() -> !tile.tile<m=16, f32> {
      %r = tile.constant 0.0 : !tile.tile<m=16, f32>
      return %r : !tile.tile<m=16, f32>
    }
    ```
  }];
  let arguments = (ins F32Attr:$value);
  let results = (outs Tile_TileType:$out);
  let assemblyFormat = "$value attr-dict `:` type($out)";
  let hasVerifier = 1;
}

def Tile_MaskOp : Tile_Op<"mask", [Pure]> {
  let summary = "x where first + i < limit, else `fill`";
  let description = [{
    i runs over the index `over` of the tile. Rounded pairs are masked with 0 alone.

    ```mlir
    func.func @mask(%x: !tile.tile<n=16, m=16, f32>, %first: index, %count: index) -> !tile.tile<n=16, m=16, f32> {
      %y = tile.mask %x over n first %first limit %count fill 0xFF800000 : !tile.tile<n=16, m=16, f32> -> !tile.tile<n=16, m=16, f32>
      return %y : !tile.tile<n=16, m=16, f32>
    }
    ```
  }];
  let arguments = (ins Tile_TileType:$x, Flare_Index:$over, Index:$first, Index:$limit, F32Attr:$fill);
  let results = (outs Tile_TileType:$out);
  let assemblyFormat = "$x `over` $over `first` $first `limit` $limit `fill` $fill attr-dict `:` type($x) `->` type($out)";
  let hasVerifier = 1;
}

def Tile_WhereOp : Tile_Op<"where", [Pure]> {
  let summary = "x where a token is there, else `fill`";
  let description = [{
    By the mask, which carries n alone: not 0 where the token is there.

    ```mlir
    func.func @where(%mask: !tile.tile<n=16, i8>, %x: !tile.tile<n=16, m=16, f32>) -> !tile.tile<n=16, m=16, f32> {
      %y = tile.where %mask, %x else 0.0 : !tile.tile<n=16, i8>, !tile.tile<n=16, m=16, f32> -> !tile.tile<n=16, m=16, f32>
      return %y : !tile.tile<n=16, m=16, f32>
    }
    ```
  }];
  let arguments = (ins Tile_TileType:$mask, Tile_TileType:$x, F32Attr:$fill);
  let results = (outs Tile_TileType:$out);
  let assemblyFormat = "$mask `,` $x `else` $fill attr-dict `:` type($mask) `,` type($x) `->` type($out)";
  let hasVerifier = 1;
}

def Tile_TokensOp : Tile_Op<"tokens", [Pure]> {
  let summary = "the number of tokens";
  let description = [{
    N, or as many as the batch's range has.

    ```mlir
    func.func @tokens() -> index {
      %n = tile.tokens
      return %n : index
    }
    ```
  }];
  let results = (outs Index:$count);
  let assemblyFormat = "attr-dict";
}

def Tile_WorkerRowOp : Tile_Op<"worker_row", [Pure]> {
  let summary = "first row of this worker within a tile (rows = n)";
  let description = [{
    (worker / column_workers) · worker_rows.

    ```mlir
    func.func @worker_row() -> index {
      %r = tile.worker_row
      return %r : index
    }
    ```
  }];
  let results = (outs Index:$row);
  let assemblyFormat = "attr-dict";
}

def Tile_WorkerColumnOp : Tile_Op<"worker_column", [Pure]> {
  let summary = "first column of this worker (rows = n: its first latent)";
  let description = [{
    (worker mod column_workers) · latents / column_workers, the latents rounded up to whole blocks of 16.

    ```mlir
    func.func @worker_column() -> index {
      %c = tile.worker_column 512
      return %c : index
    }
    ```
  }];
  let arguments = (ins I64Attr:$columns);
  let results = (outs Index:$column);
  let assemblyFormat = "$columns attr-dict";
}

#endif // TILE_OPS_TD
