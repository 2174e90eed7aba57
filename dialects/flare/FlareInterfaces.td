// What a pass may ask of any `flare` op.
#ifndef FLARE_INTERFACES_TD
#define FLARE_INTERFACES_TD

include "mlir/IR/OpBase.td"

def Flare_DifferentiableOpInterface : OpInterface<"DifferentiableOpInterface"> {
  let cppNamespace = "::flarec::flare";
  let description = [{
    An op that states its own gradient as more `flare` ops. The differentiation
    pass only walks, adds up and casts.
  }];
  let methods = [
    InterfaceMethod<[{
        Given the gradients with respect to the results (null where nothing flows in)
        and which operands want one, builds the operands' gradients (null where
        not wanted). They may refer to the op's operands and results.
      }],
      "::llvm::SmallVector<::mlir::Value>", "buildGradient",
      (ins "::mlir::OpBuilder &":$builder, "::mlir::ValueRange":$resultGradients,
           "::llvm::ArrayRef<bool>":$wanted)>
  ];
}

#endif // FLARE_INTERFACES_TD
