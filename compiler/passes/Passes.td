// All passes of flarec, in the order in which the pipeline runs them.
#ifndef FLAREC_PASSES_TD
#define FLAREC_PASSES_TD

include "mlir/Pass/PassBase.td"

//===-- flare: mathematics ---------------------------------------------------//

def Differentiate : Pass<"flare-differentiate", "::mlir::ModuleOp"> {
  let summary = "derive forward-with-saves and backward of every flare function";
  let description = [{
    `@f(tensors…, numbers…) -> results…` becomes `@f_forward`, which also returns what a backward needs (results of
    reductions: z and the log-sum-exps), and
    `@f_backward(gradients of the results…, tensors…, results…, saves…, numbers…)` returning the gradients of the
    wanted tensors. Each op states its own gradient; pair values are computed again, never saved. A wanted tensor that no result
    depends on is an error which names it, and those that have a gradient.
  }];
  let options = [
    Option<"wanted", "wanted", "std::string", "\"*\"",
           "names of the arguments that want a gradient, separated by commas; * for all tensors, empty for no backward">
  ];
  let dependentDialects = ["::flarec::flare::FlareDialect"];
}

def Expand : Pass<"flare-expand", "::mlir::ModuleOp"> {
  let summary = "write encode and decode as scores and attend";
  let description = [{
    x = Σ_d (s·q)·k and `flare.attend` over n or m.
  }];
}

def Simplify : Pass<"flare-simplify", "::mlir::ModuleOp"> {
  let summary = "factor sums of contractions";
  let description = [{
    Σ_i a·w + Σ_i b·w → Σ_i (a+b)·w and s·a + s·b → s·(a+b), so that the two halves' gradients with respect to q and k become one
    contraction each and wait for the same sweep.
  }];
}

def ToBase2 : Pass<"flare-to-base-2", "::mlir::ModuleOp"> {
  let summary = "sink log2(e) into the latents' side of scores, for 16-bit tokens";
  let description = [{
    exp(x - l) = 2^(x' - log2(e)·l) with x' = Σ_d (log2(e)·s·q)·k: no multiplication a score. CHANGES NUMERICS: x' and log2(e)·l are rounded
    apart, which f32 tokens would notice (where a weight is nearly 1, x - l cancels exactly); they keep the difference before the factor.
  }];
}

def PlanSweeps : Pass<"flare-plan-sweeps", "::mlir::ModuleOp"> {
  let summary = "group what can share one pass over the tokens";
  let description = [{
    From dependences alone: a reduction over tokens is complete only when its sweep ends, so a value's sweep is the number of
    reductions on the longest path to it. Every sweep gets a copy of the pair values it needs. A sweep that contracts over m and
    over n keeps the latter's [m,d] accumulators beside it in registers, where workers with the same rows may share them out; where that is more than
    `joint-limit` elements (of up to 32 channels, and latents in as many equal shares, four times that, of f16 twice: then fast memory is full of
    latents' operands), or the tensors are f32 on a GPU (no transposition of 32-bit fragments), the contractions over n get a sweep of their own. Contractions over m in one sweep
    whose channels add up to `row-limit` or more get one each. On the host all of them lie in
    the cache and never do. Attentions over n, and sums of numbers over n, always do: their rows are latents. What two sweeps of one stage need of a token
    alone, as a sum over its channels, the first one stores.
  }];
  let options = [Option<"jointLimit", "joint-limit", "int64_t", "2048", "largest m·d for one worker to accumulate beside a contraction over m">,
                 Option<"rowLimit", "row-limit", "int64_t", "192", "channels, of all contractions over m in a sweep, that are too many to accumulate for a token; of f16 and f32, whose operands take twice the registers, two thirds of it">,
                 Option<"target", "target", "std::string", "\"sm_90a\"", "host, sm_80, sm_90a or sm_100a">];
}

def ShareExponentials : Pass<"flare-share-exponentials", "::mlir::ModuleOp"> {
  let summary = "one exponential for both softmaxes, where the scores are bounded";
  let description = [{
    2^(x-a_n) and 2^(x-b_m) become 2^x·2^-a_n and 2^x·2^-b_m. Factors that depend on n or m alone then sink into an operand of the
    contraction they multiply. CHANGES NUMERICS: right only while |x| is bounded, so the sweep keeps the
    original as its second, safe region. The factors' exponents have errors of their own (u·|x|), which f32 tokens on a GPU would notice:
    `wide` says whether sweeps over f32 tokens share too. Without it operands times a factor have two addends of 16 bits, so that their products of more
    than `channels` take longer than the exponential that is saved, and registers that are not there.
  }];
  let options = [Option<"wide", "wide", "bool", "true", "also in sweeps over f32 tokens">,
                 Option<"channels", "channels", "int64_t", "32", "without `wide`: in sweeps over rows of this many channels at most">];
}

def Configure : Pass<"flare-configure", "::mlir::ModuleOp"> {
  let summary = "heuristic configuration of each sweep that has none";
  let description = [{
    Writes the `config` attribute that the lowering obeys. The tuner and a person are its other authors. Every configuration, whoever
    wrote it, is checked for its sweep and target (Feasible.h); one that cannot be run is an error that says what was given, what is allowed and what to do.
  }];
  let options = [Option<"target", "target", "std::string", "\"sm_90a\"", "host, sm_80, sm_90a or sm_100a">];
  let dependentDialects = ["::flarec::tile::TileDialect"];
}

//===-- tile: one block's program --------------------------------------------//

def FlareToTile : Pass<"flare-to-tile", "::mlir::ModuleOp"> {
  let summary = "each function becomes a tile.program, each sweep a kernel, each reduction a merge";
  let description = [{
    Pair values become 16 × 16 blocks inside `tile.pairs`; token values are read from staged rows; latent operands are held in
    registers (rows = m) or stashed (rows = n). `flare.attend` is written twice: without a reference where the staged
    tile's scores are bounded, with a running maximum otherwise. With `sums = mma` the summands of row sums are rounded to 16 bits, with `add` they
    are f32. Where tokens are f16 only products of stored numbers and an attention's weights are made in it, the latter within tighter
    bounds; the rest is two addends of bf16 (architecture.md, section 7). On the host fast bodies of natural scores have log2(e) in q: ITS PRODUCT WITH Q IS
    ROUNDED, alike in all sweeps. A configuration that cannot be run on the target is an error (Feasible.h), as in flare-configure.
  }];
  let options = [Option<"limit", "limit", "double", "60.0", "bound on |x| (base 2) for the fast bodies">,
                 Option<"target", "target", "std::string", "\"sm_90a\"", "host (all operands f32), sm_80, sm_90a or sm_100a">];
  let dependentDialects = ["::flarec::tile::TileDialect", "::mlir::scf::SCFDialect", "::mlir::arith::ArithDialect"];
}

def AssignLayouts : Pass<"tile-assign-layouts", "::mlir::ModuleOp"> {
  let summary = "decide which register of which lane holds which element";
  let description = [{
    Contractions say which layouts they can take (matrix-instruction fragments on a GPU, vectors on the host); demands travel backwards
    through elementwise ops to loads and reads. A tile that is wanted in two layouts is an error which shows both: flare-to-tile makes an
    operand once for each use, and so does a person.
  }];
  let options = [Option<"target", "target", "std::string", "\"sm_90a\"", "host, sm_80, sm_90a or sm_100a">];
}

def Park : Pass<"tile-park", "::mlir::ModuleOp"> {
  let summary = "make the latent operands that fast memory has no room for once, in a kernel of their own";
  let description = [{
    Where `park` is not `shared` a sweep has a `tile.stash` in memory. It gets a tensor of the workspace, and the sweep a `park` kernel before it, which computes that stash
    for all of its blocks. Runs after `tile-assign-layouts`, since operands are kept as lanes hold them.
  }];
}

def TileToNVVM : Pass<"tile-to-nvvm", "::mlir::ModuleOp"> {
  let summary = "one lane's program in the LLVM dialect with NVVM intrinsics";
  let description = [{
    Obeys layouts and configuration. Each tile becomes a list of registers; `tile.stream` a ring of asynchronous
    copies with one barrier a tile; `tile.pairs` straight-line code. Every kernel is emitted once for each layout
    class (`_any`: rows of any alignment) and described in the module's `flarec.manifest`.
  }];
  let options = [Option<"target", "target", "std::string", "\"sm_90a\"", "sm_80, sm_90a or sm_100a">,
                 Option<"precision", "precision", "std::string", "\"\"", "of products of f32: empty for f32's own, from three TF32 products; tf32 for a single one">,
                 Option<"only", "only", "std::string", "\"\"", "function:sweep: the kernels of that sweep alone, for aligned rows; empty for all">];
  let dependentDialects = ["::mlir::LLVM::LLVMDialect", "::mlir::scf::SCFDialect", "::mlir::arith::ArithDialect"];
}

def TileToHost : Pass<"tile-to-host", "::mlir::ModuleOp"> {
  let summary = "one thread's program in the LLVM dialect, on vectors of 16 f32";
  let description = [{
    One IR for all instruction sets: LLVM cuts vector<16xf32> into what a machine has. Rows lie across lanes, columns in registers and channels
    too; `tile.stream` goes over the block's heads for every few tiles, so that each cache line is fetched once, and prefetches a head's next turn;
    `tile.pairs` is a loop over row blocks around a loop over columns. What must outlive a tile lies in scratch memory. NUMBERS BELOW 2^-126 COUNT AS 0, as
    on a GPU, and EXPONENTIALS OF SCORES ARE EXACT TO 9E-8, polynomials of degree 5.
  }];
  let options = [Option<"only", "only", "std::string", "\"\"", "function:sweep: the kernels of that sweep alone; empty for all">];
  let dependentDialects = ["::mlir::LLVM::LLVMDialect", "::mlir::scf::SCFDialect", "::mlir::arith::ArithDialect"];
}

#endif // FLAREC_PASSES_TD
