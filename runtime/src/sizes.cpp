#include "flarec/sizes.h"

#include "flarec/error.h"

#include <fmt/format.h>

#include <algorithm>

using namespace flarec;

namespace {

int64_t ceilDiv(int64_t a, int64_t b) { return a / b + (a % b != 0); }

int64_t product(const Sizes &sizes, std::initializer_list<int64_t> factors) {
  int64_t result = 1;
  bool overflow = false;
  for (int64_t factor : factors)
    overflow |= __builtin_mul_overflow(result, factor, &result);
  // A zero makes the product zero whatever the others are.
  if (std::find(factors.begin(), factors.end(), 0) != factors.end())
    return 0;
  if (overflow)
    throw Error(fmt::format("batch {}, heads {}, tokens {} are too many: the "
                            "sizes in bytes do not fit in 64 bits",
                            sizes.batch, sizes.heads, sizes.tokens));
  return result;
}

} // namespace

int64_t flarec::splits(const SweepSpec &sweep, const Sizes &sizes) {
  int64_t units = ceilDiv(sizes.tokens, sweep.tile);
  int64_t groups = product(
      sizes, {sizes.batch, ceilDiv(sizes.heads, sweep.heads), sweep.rowGroups});
  if (groups == 0)
    return 1;
  int64_t most = sweep.blocks / groups;
  if (int64_t each = product(
          sizes, {sizes.batch, sizes.heads, sweep.partialBytes}))
    most = std::min(most, mostPartialBytes / each);
  return std::clamp<int64_t>(most, 1, std::max<int64_t>(1, units));
}

int64_t flarec::headsAtOnce(const FunctionSpec &function, const Sizes &sizes) {
  int64_t heads = sizes.heads, together = 1; // in a block
  for (const SweepSpec &sweep : function.sweeps) {
    if (int64_t each = product(sizes, {sizes.batch, sweep.partialBytes}))
      heads = std::min(heads, mostPartialBytes / each);
    together = std::max(together, sweep.heads);
  }
  if (heads < sizes.heads && heads > together)
    heads -= heads % together;
  return std::min(std::max<int64_t>(1, heads), sizes.heads);
}

int64_t flarec::gridBlocks(const FunctionSpec &function,
                           const KernelSpec &kernel, const Sizes &sizes) {
  if (kernel.grid == Grid::Latents)
    return product(sizes, {sizes.batch, sizes.heads, kernel.blocksPerHead});
  const SweepSpec &sweep = function.sweeps[size_t(kernel.sweep)];
  return product(sizes,
                 {splits(sweep, sizes), ceilDiv(sizes.heads, sweep.heads),
                  sweep.rowGroups, sizes.batch});
}

int64_t flarec::elements(const FunctionSpec &function, const TensorSpec &tensor,
                         const Sizes &sizes) {
  if (tensor.index == Index::Batch)
    return product(sizes, {sizes.batch, tensor.columns});
  int64_t batches = tensor.reduced ? sizes.latentBatch : sizes.batch;
  int64_t parts = tensor.sweep < 0
                      ? 1
                      : splits(function.sweeps[size_t(tensor.sweep)], sizes);
  int64_t rows = tensor.index == Index::Tokens ? sizes.tokens : tensor.rows;
  return product(sizes, {batches, parts, sizes.heads, rows,
                         std::max<int64_t>(1, tensor.columns)});
}

int64_t flarec::workspaceBytes(const FunctionSpec &function,
                               const TensorSpec &tensor, const Sizes &sizes) {
  int64_t bytes = product(
      sizes, {elements(function, tensor, sizes), byteSize(tensor.type)});
  return product(sizes, {ceilDiv(bytes, 256), 256});
}

int64_t flarec::workspaceBytes(const FunctionSpec &function,
                               const Sizes &sizes) {
  check(sizes);
  Sizes round = sizes;
  round.heads = headsAtOnce(function, sizes);
  int64_t total = 0;
  for (const TensorSpec &tensor : function.tensors)
    if (tensor.role == Role::Workspace &&
        __builtin_add_overflow(total, workspaceBytes(function, tensor, round),
                               &total))
      throw Error(fmt::format("the workspace of {} is too large for batch {}, "
                              "heads {}, tokens {}",
                              function.name, sizes.batch, sizes.heads,
                              sizes.tokens));
  return total;
}

void flarec::check(const Sizes &sizes) {
  if (sizes.batch < 0 || sizes.heads < 0 || sizes.tokens < 0)
    throw Error(fmt::format("sizes cannot be negative: batch {}, heads {}, "
                            "tokens {} were given",
                            sizes.batch, sizes.heads, sizes.tokens));
  if (sizes.latentBatch != 1 && sizes.latentBatch != sizes.batch)
    throw Error(fmt::format("latents of {} batches were given for a batch of "
                            "{}; allowed are 1 (shared) and {}",
                            sizes.latentBatch, sizes.batch, sizes.batch));
}
