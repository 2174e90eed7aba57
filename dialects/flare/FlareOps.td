// The operations of the `flare` dialect. Every example is run by a test.
#ifndef FLARE_OPS_TD
#define FLARE_OPS_TD

include "flare/FlareDialect.td"
include "flare/FlareInterfaces.td"
include "mlir/Interfaces/SideEffectInterfaces.td"
include "mlir/Interfaces/InferTypeOpInterface.td"
include "mlir/Interfaces/ControlFlowInterfaces.td"

/// Integers say which tokens there are; nothing is computed with them.
def Flare_Tensor : ConfinedType<Flare_TensorType,
    [CPred<"!::llvm::cast<::flarec::flare::FlareTensorType>($_self).getElement().isInteger()">], "a flare tensor of floating-point numbers">;

class Flare_Op<string mnemonic, list<Trait> traits = []>
    : Op<Flare_Dialect, mnemonic, traits> {
  let hasVerifier = 1;
}

/// Mathematics: no effects, and a gradient.
class Flare_MathOp<string mnemonic, list<Trait> traits = []>
    : Flare_Op<mnemonic, !listconcat([Pure,
        DeclareOpInterfaceMethods<Flare_DifferentiableOpInterface>], traits)>;

//===-- The two halves of FLARE ----------------------------------------------//

def Flare_EncodeOp : Flare_MathOp<"encode"> {
  let summary = "latents gather from tokens";
  let description = [{
    Equation (encode) of the paper:

        z[m,d] = Σ_n softmax_n(s·q[m]·k[n]) v[n,d]
        lse[m] = ln Σ_n exp(s·q[m]·k[n])

    Example:

    ```mlir
    func.func @encode(%q: !flare.tensor<m=4, d=8, f32>, %k: !flare.tensor<n, d=8, f32>,
                      %v: !flare.tensor<n, d=8, f32>, %s: f32)
        -> (!flare.tensor<m=4, d=8, f32>, !flare.tensor<m=4, f32>) {
      %z, %lse = flare.encode %q, %k, %v scale %s
          : !flare.tensor<m=4, d=8, f32>, !flare.tensor<n, d=8, f32>, !flare.tensor<n, d=8, f32>
          -> !flare.tensor<m=4, d=8, f32>, !flare.tensor<m=4, f32>
      return %z, %lse : !flare.tensor<m=4, d=8, f32>, !flare.tensor<m=4, f32>
    }
    ```

    Of the tokens that are in the batch's range, and there by the mask:

    ```mlir
    func.func @ragged(%q: !flare.tensor<m=4, d=8, f32>, %k: !flare.tensor<n, d=8, f32>, %v: !flare.tensor<n, d=8, f32>,
                      %range: !flare.tensor<d=2, i32>, %mask: !flare.tensor<n, i8>, %s: f32) -> !flare.tensor<m=4, d=8, f32> {
      %z, %lse = flare.encode %q, %k, %v scale %s
          : !flare.tensor<m=4, d=8, f32>, !flare.tensor<n, d=8, f32>, !flare.tensor<n, d=8, f32>
          -> !flare.tensor<m=4, d=8, f32>, !flare.tensor<m=4, f32>
      return %z : !flare.tensor<m=4, d=8, f32>
    }
    ```
  }];
  let arguments = (ins
    Arg<Flare_Tensor, "latent queries [m,d]">:$q,
    Arg<Flare_Tensor, "keys [n,d]">:$k,
    Arg<Flare_Tensor, "values [n,d]">:$v,
    Arg<F32, "s, any finite number">:$scale);
  let results = (outs
    Res<Flare_Tensor, "latent values [m,d]">:$z,
    Res<Flare_Tensor, "natural log-sum-exp [m]">:$lse);
  let assemblyFormat = [{
    $q `,` $k `,` $v `scale` $scale attr-dict `:`
    type($q) `,` type($k) `,` type($v) `->` type($z) `,` type($lse)
  }];
}

def Flare_DecodeOp : Flare_MathOp<"decode"> {
  let summary = "tokens read from latents";
  let description = [{
    Equation (decode) of the paper:

        y[n,d] = Σ_m softmax_m(s·k[n]·q[m]) z[m,d]
        lse[n] = ln Σ_m exp(s·k[n]·q[m])

    Example:

    ```mlir
    func.func @decode(%k: !flare.tensor<n, d=8, bf16>, %q: !flare.tensor<m=4, d=8, bf16>,
                      %z: !flare.tensor<m=4, d=8, f32>, %s: f32)
        -> (!flare.tensor<n, d=8, bf16>, !flare.tensor<n, f32>) {
      %y, %lse = flare.decode %k, %q, %z scale %s
          : !flare.tensor<n, d=8, bf16>, !flare.tensor<m=4, d=8, bf16>, !flare.tensor<m=4, d=8, f32>
          -> !flare.tensor<n, d=8, bf16>, !flare.tensor<n, f32>
      return %y, %lse : !flare.tensor<n, d=8, bf16>, !flare.tensor<n, f32>
    }
    ```
  }];
  let arguments = (ins
    Arg<Flare_Tensor, "keys [n,d]">:$k,
    Arg<Flare_Tensor, "latent queries [m,d]">:$q,
    Arg<Flare_Tensor, "latent values [m,d]">:$z,
    Arg<F32, "s, any finite number">:$scale);
  let results = (outs
    Res<Flare_Tensor, "outputs [n,d]">:$y,
    Res<Flare_Tensor, "natural log-sum-exp [n]">:$lse);
  let assemblyFormat = [{
    $k `,` $q `,` $z `scale` $scale attr-dict `:`
    type($k) `,` type($q) `,` type($z) `->` type($y) `,` type($lse)
  }];
}

//===-- What they are made of ------------------------------------------------//

def Flare_AttendOp : Flare_MathOp<"attend"> {
  let summary = "normalised exponentials, contracted";
  let description = [{
    With i the index contracted over (n or m) and j the other one:

        l[j]     = ln Σ_i exp(x[i,j])
        out[j,d] = Σ_i exp(x[i,j] - l[j]) v[i,d]

    With `base2`, powers and logarithm of 2 instead. One exponential a score. It counts as one reduction over i: nothing but
    scale-invariant ratios of sums are needed, so any common reference may be
    subtracted from x on the way (the running maximum, or none where x is small).

    Example:

    ```mlir
    func.func @attend(%x: !flare.tensor<n, m=4, f32>, %v: !flare.tensor<n, d=8, f32>)
        -> (!flare.tensor<m=4, d=8, f32>, !flare.tensor<m=4, f32>) {
      %z, %l = flare.attend %x, %v over n : !flare.tensor<n, m=4, f32>, !flare.tensor<n, d=8, f32>
          -> !flare.tensor<m=4, d=8, f32>, !flare.tensor<m=4, f32>
      return %z, %l : !flare.tensor<m=4, d=8, f32>, !flare.tensor<m=4, f32>
    }
    ```
  }];
  let arguments = (ins Arg<Flare_Tensor, "scores">:$x,
                       Arg<Flare_Tensor, "values">:$v, Flare_Index:$over, UnitAttr:$base2);
  let results = (outs Flare_Tensor:$out, Flare_Tensor:$lse);
  let assemblyFormat = [{
    $x `,` $v `over` $over (`base2` $base2^)? attr-dict `:` type($x) `,` type($v) `->` type($out) `,` type($lse)
  }];
}

def Flare_ContractOp : Flare_MathOp<"contract", [
    DeclareOpInterfaceMethods<InferTypeOpInterface>]> {
  let summary = "sum of products over one index";
  let description = [{
    `out = Σ_i a·b` for one index i that both carry; the result carries all
    other indices of both, in f32.

    Example:

    ```mlir
    func.func @scores(%k: !flare.tensor<n, d=8, f32>, %q: !flare.tensor<m=4, d=8, f32>)
        -> !flare.tensor<n, m=4, f32> {
      %x = flare.contract %k, %q over d : !flare.tensor<n, d=8, f32>, !flare.tensor<m=4, d=8, f32>
      return %x : !flare.tensor<n, m=4, f32>
    }
    ```
  }];
  let arguments = (ins Flare_Tensor:$a, Flare_Tensor:$b, Flare_Index:$over);
  let results = (outs Flare_Tensor:$out);
  let assemblyFormat = "$a `,` $b `over` $over attr-dict `:` type($a) `,` type($b)";
}

def Flare_SumOp : Flare_MathOp<"sum", [DeclareOpInterfaceMethods<InferTypeOpInterface>]> {
  let summary = "sum over one index";
  let description = [{
    `out = Σ_i a`, in f32.

    Example:

    ```mlir
    func.func @sum(%a: !flare.tensor<n, d=8, f32>) -> !flare.tensor<n, f32> {
      %s = flare.sum %a over d : !flare.tensor<n, d=8, f32>
      return %s : !flare.tensor<n, f32>
    }
    ```
  }];
  let arguments = (ins Flare_Tensor:$a, Flare_Index:$over);
  let results = (outs Flare_Tensor:$out);
  let assemblyFormat = "$a `over` $over attr-dict `:` type($a)";
}

class Flare_BinaryOp<string mnemonic, string formula> : Flare_MathOp<mnemonic, [
    DeclareOpInterfaceMethods<InferTypeOpInterface>]> {
  let summary = formula # ", elementwise";
  let description = "`out = " # formula # [{` in f32. Operands broadcast by index: the result carries the
    indices of both.

    Example:

    ```mlir
    func.func @binary(%a: !flare.tensor<n, d=8, bf16>, %b: !flare.tensor<n, f32>) -> !flare.tensor<n, d=8, f32> {
      %c = flare.}] # mnemonic # [{ %a, %b : !flare.tensor<n, d=8, bf16>, !flare.tensor<n, f32>
      return %c : !flare.tensor<n, d=8, f32>
    }
    ```
  }];
  let arguments = (ins Flare_Tensor:$a, Flare_Tensor:$b);
  let results = (outs Flare_Tensor:$out);
  let assemblyFormat = "$a `,` $b attr-dict `:` type($a) `,` type($b)";
}

def Flare_AddOp : Flare_BinaryOp<"add", "a + b">;
def Flare_SubOp : Flare_BinaryOp<"sub", "a - b">;
def Flare_MulOp : Flare_BinaryOp<"mul", "a · b">;

class Flare_UnaryOp<string mnemonic, string formula> : Flare_MathOp<mnemonic, [
    DeclareOpInterfaceMethods<InferTypeOpInterface>]> {
  let summary = formula # ", elementwise";
  let description = "`out = " # formula # [{` in f32.

    Example:

    ```mlir
    func.func @unary(%a: !flare.tensor<n, f32>) -> !flare.tensor<n, f32> {
      %b = flare.}] # mnemonic # [{ %a : !flare.tensor<n, f32>
      return %b : !flare.tensor<n, f32>
    }
    ```
  }];
  let arguments = (ins Flare_Tensor:$a);
  let results = (outs Flare_Tensor:$out);
  let assemblyFormat = "$a attr-dict `:` type($a)";
}

def Flare_NegOp : Flare_UnaryOp<"neg", "-a">;
def Flare_Exp2Op : Flare_UnaryOp<"exp2", "2^a">;

def Flare_ScaleOp : Flare_MathOp<"scale", [DeclareOpInterfaceMethods<InferTypeOpInterface>]> {
  let summary = "product with a run-time number";
  let description = [{
    `out = s · a`, in f32. No gradient flows to s.

    Example:

    ```mlir
    func.func @scale(%a: !flare.tensor<m=4, d=8, bf16>, %s: f32) -> !flare.tensor<m=4, d=8, f32> {
      %b = flare.scale %a by %s : !flare.tensor<m=4, d=8, bf16>
      return %b : !flare.tensor<m=4, d=8, f32>
    }
    ```
  }];
  let arguments = (ins Flare_Tensor:$a, F32:$factor);
  let results = (outs Flare_Tensor:$out);
  let assemblyFormat = "$a `by` $factor attr-dict `:` type($a)";
}

def Flare_CastOp : Flare_MathOp<"cast"> {
  let summary = "round to another element type";
  let description = [{
    Rounds to nearest even, or widens. The gradient passes through unrounded.

    Example:

    ```mlir
    func.func @cast(%a: !flare.tensor<n, d=8, f32>) -> !flare.tensor<n, d=8, bf16> {
      %b = flare.cast %a : !flare.tensor<n, d=8, f32> -> !flare.tensor<n, d=8, bf16>
      return %b : !flare.tensor<n, d=8, bf16>
    }
    ```
  }];
  let arguments = (ins Flare_Tensor:$a);
  let results = (outs Flare_Tensor:$out);
  let assemblyFormat = "$a attr-dict `:` type($a) `->` type($out)";
}

//===-- Sweeps ---------------------------------------------------------------//

def Flare_SweepOp : Flare_Op<"sweep", [RecursiveMemoryEffects, SingleBlock,
    NoRegionArguments]> {
  let summary = "one pass over the tokens";
  let description = [{
    What is computed while the tokens stream by once. Token values from outside
    are read from memory, token values yielded are written (*maps*), and yielded
    latent values are *reductions over tokens*, complete when the sweep ends. Pair
    values stay inside.

    A second region, where there is one, computes the same results by a form that
    is right for any finite scores; the first then holds only where the
    scores are bounded (|x| ≤ 60), which is decided tile by tile.

    Example:

    ```mlir
    func.func @sweep(%q: !flare.tensor<m=4, d=8, f32>, %k: !flare.tensor<n, d=8, f32>)
        -> !flare.tensor<m=4, f32> {
      %z = flare.sweep -> !flare.tensor<m=4, f32> {
        %x = flare.contract %k, %q over d : !flare.tensor<n, d=8, f32>, !flare.tensor<m=4, d=8, f32>
        %s = flare.sum %x over n : !flare.tensor<n, m=4, f32>
        flare.yield %s : !flare.tensor<m=4, f32>
      }
      return %z : !flare.tensor<m=4, f32>
    }
    ```
  }];
  let arguments = (ins OptionalAttr<AnyAttr>:$config);
  let results = (outs Variadic<Flare_Tensor>:$results);
  let regions = (region SizedRegion<1>:$fast, VariadicRegion<SizedRegion<1>>:$safe);
  let hasCustomAssemblyFormat = 1;
  let extraClassDeclaration = [{
    bool hasSafeBody() { return !getSafe().empty(); }
  }];
}

def Flare_YieldOp : Op<Flare_Dialect, "yield", [Pure, Terminator, ReturnLike,
    HasParent<"SweepOp">]> {
  let summary = "results of a sweep";
  let description = "Ends the body of a `flare.sweep`.";
  let arguments = (ins Variadic<Flare_Tensor>:$results);
  let assemblyFormat = "attr-dict ($results^ `:` type($results))?";
}

#endif // FLARE_OPS_TD
