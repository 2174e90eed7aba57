//===- merge.cpp - one encode from several --------------------------------===//
#include "checks.h"
#include "flarec/ops.h"

#include <ATen/ATen.h>
#include <torch/library.h>

#include <limits>

namespace flarec::ops {
namespace {

/// Composed of PyTorch's operators, which know their gradients. Infinities are
/// kept out of what is differentiated: -inf - -inf would be NaN, also times 0.
std::tuple<at::Tensor, at::Tensor> mergeParts(const at::Tensor &zParts,
                                              const at::Tensor &lseParts) {
  checkParts(zParts, lseParts);
  constexpr double infinity = std::numeric_limits<double>::infinity();
  at::Tensor empty = lseParts == -infinity;
  at::Tensor largest = lseParts.detach().amax(0);
  at::Tensor reference = largest.masked_fill(largest == -infinity, 0);
  at::Tensor weights = (at::where(empty, reference, lseParts) - reference)
                           .exp()
                           .masked_fill(empty, 0);
  at::Tensor none = empty.all(0);
  at::Tensor sum = weights.sum(0).masked_fill(none, 1);
  at::Tensor parts = zParts.masked_fill(empty.unsqueeze(-1), 0);
  at::Tensor z = ((weights / sum).unsqueeze(-1) * parts).sum(0);
  return {z, (reference + sum.log()).masked_fill(none, -infinity)};
}

} // namespace
} // namespace flarec::ops

TORCH_LIBRARY_IMPL(flarec, CompositeImplicitAutograd, m) {
  m.impl("merge", TORCH_FN(flarec::ops::mergeParts));
}
