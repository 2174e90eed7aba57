// The `flare` dialect: FLARE attention as mathematics on whole tensors.
#ifndef FLARE_DIALECT_TD
#define FLARE_DIALECT_TD

include "mlir/IR/OpBase.td"
include "mlir/IR/AttrTypeBase.td"
include "mlir/IR/EnumAttr.td"

def Flare_Dialect : Dialect {
  let name = "flare";
  let cppNamespace = "::flarec::flare";
  let summary = "FLARE attention (arXiv 2508.12594) as mathematics on tensors";
  let description = [{
    Batch b and head h aside, a value is typed by the indices that it carries:
    tokens `n` (how many is known at run time), latents `m` and channels `d`
    (both known here). All of FLARE, forward and backward, is contractions over
    one index and elementwise functions:

        x[n,m] = Σ_d k[n,d]·q[m,d]        scores
        z[m,d] = Σ_n softmax_n(x) v[n,d]   encode
        y[n,d] = Σ_m softmax_m(x) z[m,d]   decode

    A value that carries both n and m (a *pair* value) never lives in memory:
    whoever needs it computes it again. A contraction over n is complete only
    after all tokens have been seen, so it ends a *sweep* for its readers.

    Arithmetic is exact here; where values are rounded is said by `flare.cast`
    and by the element types of a function's arguments and results.
    `flare.exp2` has base 2, because the hardware's exponential has; scores and log-sum-exps
    are natural until `flare-to-base-2` sinks the factor log2(e) into 16-bit latents.

    *Which tokens there are.* n runs over all N tokens of a batch, unless a function has an argument of integers,
    one of either kind at most:

        !flare.tensor<d=2, i32>   the batch's tokens are [first, end) of the N rows
        !flare.tensor<n, i8>      token n is there where this is not 0

    n then runs over the tokens that are there, in every op of the function and of its gradient. What the rows of the others
    hold does not matter, be it NaN; in what the function returns they are 0. Sequences of different lengths, one after the other in
    memory, are a batch each with a range each and tensors of tokens whose batch stride is 0.
  }];
  let useDefaultTypePrinterParser = 1;
  let dependentDialects = ["::mlir::arith::ArithDialect"];
}

//===-- Types ----------------------------------------------------------------//

def Flare_TensorType : TypeDef<Flare_Dialect, "FlareTensor"> {
  let mnemonic = "tensor";
  let summary = "a tensor over (b, h and) some of the indices n, m, d";
  let description = [{
    `!flare.tensor<n, d=8, bf16>` is `[B, H, N, 8]`, one row per token;
    `!flare.tensor<m=128, d=8, f32>` is `[B, H, 128, 8]`, one per latent;
    `!flare.tensor<n, f32>` is `[B, H, N]`; `!flare.tensor<n, m=128, f32>` is a
    pair value, which is never stored. Strides are run-time values, and a
    batch stride of 0 shares latents among the batch. `!flare.tensor<d=2, i32>` and `!flare.tensor<n, i8>`, the same for all heads,
    say which tokens there are.
  }];
  let parameters = (ins "bool":$tokens, "int64_t":$latents,
                        "int64_t":$channels, "::mlir::Type":$element);
  let hasCustomAssemblyFormat = 1;
  let genVerifyDecl = 1;
  let extraClassDeclaration = [{
    bool isPair() const { return getTokens() && getLatents(); }
    /// Do its numbers say which tokens there are, by a range [first, end) a batch or one by one?
    bool isRange() const { return getElement().isInteger(32); }
    bool isMask() const { return getElement().isInteger(8); }
    /// The indices, as a set (bit 0: n, bit 1: m, bit 2: d).
    unsigned indices() const;
    static constexpr unsigned N = 1, M = 2, D = 4;
  }];
}

def Flare_Index : I32EnumAttr<"Index", "an index of a value", [
    I32EnumAttrCase<"n", 0>, I32EnumAttrCase<"m", 1>, I32EnumAttrCase<"d", 2>]> {
  let cppNamespace = "::flarec::flare";
}

#endif // FLARE_DIALECT_TD
