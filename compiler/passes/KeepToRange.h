// A batch's range of the tokens, in a kernel's prologue: the same for every target.
#pragma once
#include "passes/Sizes.h"
#include "mlir/Dialect/Arith/IR/Arith.h"

namespace flarec::lowering {

/// Makes the batch's range all the tokens there are, for a kernel that is being lowered. Whatever it says, nothing outside of the N rows is read or written.
/// Returns the first token.
template <typename Kernel, typename Tensor> mlir::Value keepToRange(Kernel &k, const Tensor &range) {
  mlir::Value p = k.offset(range.pointer, k.mul(k.mul(k.batch, range.strideB), 4));
  auto bound = [&](int64_t i, mlir::Value least) {
    mlir::Value given = mlir::arith::ExtSIOp::create(k.b, k.loc, k.i64(), k.load(k.b.getI32Type(), k.offset(p, 4 * i), 4));
    return k.max(k.min(given, k.tokens), least);
  };
  mlir::Value first = bound(0, k.c64(0)), end = bound(1, first);
  for (mlir::Value a : k.program.getRegion().getArguments())
    if (auto it = k.tensors.find(a); it != k.tensors.end() && it->second.type.getTokens()) {
      auto &t = it->second;
      t.pointer = k.offset(t.pointer, k.mul(k.mul(first, t.strideRow), bytesOf(t.type.getElement())));
    }
  k.tokens = k.sub(end, first);
  return first;
}

} // namespace flarec::lowering
