// The sizes of a call and what follows from them: splits and workspace. The
// rules are docs/artefact.md, section 2.
#pragma once

#include "flarec/manifest.h"

namespace flarec {

struct Sizes {
  int64_t batch = 0, heads = 0, tokens = 0;
  int64_t latentBatch =
      1; ///< 1: the latents are shared by the batch; else = batch
};

/// The number of ranges of tokens in a sweep. Depends on the artefact and the
/// shape alone.
int64_t splits(const SweepSpec &sweep, const Sizes &sizes);

/// Partial results of all splits of all sweeps of a function take no more than
/// this, unless those of one head and a single split do.
constexpr int64_t mostPartialBytes = 64 << 20;

/// Heads that are launched together, so that partial results keep to their
/// bound: all of them, mostly.
int64_t headsAtOnce(const FunctionSpec &function, const Sizes &sizes);

/// Blocks of a kernel's grid; 0: nothing to launch.
int64_t gridBlocks(const FunctionSpec &function, const KernelSpec &kernel,
                   const Sizes &sizes);

/// Elements of a tensor of the function, all splits of a partial result
/// included.
int64_t elements(const FunctionSpec &function, const TensorSpec &tensor,
                 const Sizes &sizes);

/// Bytes of a workspace tensor, rounded up to what it takes of the workspace.
int64_t workspaceBytes(const FunctionSpec &function, const TensorSpec &tensor,
                       const Sizes &sizes);

/// Bytes of a function's workspace: that of headsAtOnce() heads.
int64_t workspaceBytes(const FunctionSpec &function, const Sizes &sizes);

/// Throws Error unless the sizes make sense.
void check(const Sizes &sizes);

} // namespace flarec
