//===- launch.h - from tensors to kernels ---------------------------------===//
//
// How an op on CPU or CUDA tensors finds its kernels and runs them where the
// tensors are.
//
//===----------------------------------------------------------------------===//
#pragma once

#include "results.h"
#include "sources.h"

#include "flarec/error.h"
#include "flarec/function.h"

#include <c10/util/Exception.h>

#include <string>
#include <vector>

namespace flarec::ops {

/// The tensor itself if the kernels can read it in place (channels next to one
/// another), else a copy in the layout they like best.
at::Tensor readable(const at::Tensor &t);

/// Of [B, H, rows, D], [B, H, rows], or latents shared by the batch [H, M, D].
TensorRef input(const at::Tensor &t, bool shared = false);
TensorRef result(const at::Tensor &t, bool shared = false);

/// Those of the results that are there, which are the wanted ones, after the
/// inputs. `shared`: the one of them that is [H, M, D], or none.
void addResults(std::vector<TensorRef> &tensors, const Three &results,
                const Shape &shape, const at::Tensor *shared);

/// "mixer_forward" or "mixer_backward" for tensors like k. `gradients`: of
/// "qkv".
const Function &mixerFunction(const char *name, const Shape &shape,
                              const at::Tensor &k, const std::string &gradients,
                              const Presence &presence = {});

/// Which tokens there are, where not all, in the layout that kernels read.
Presence readable(const Presence &presence, const Shape &shape);

/// Its arguments, after the other inputs of the forward function.
void addPresence(std::vector<TensorRef> &tensors, const Presence &presence);

/// A stage's function, or with `gradients` (letters that name its arguments)
/// the forward or backward made of it.
enum class Pass { Forward, Backward };
const Function &stageFunction(Stage stage, Pass pass, const Shape &shape,
                              const at::Tensor &k,
                              const std::string &gradients = "",
                              const Presence &presence = {});

/// Runs it on the device of k. `latentBatch`: 1 where gradients of latents are
/// to be summed over the batch, else the batch.
void launch(const Function &function, const Shape &shape, int64_t latentBatch,
            const at::Tensor &k, const std::vector<TensorRef> &tensors,
            double scale);

/// Runs `body`; an Error becomes a c10::Error, which PyTorch shows well.
template <typename Body> void translated(const Body &body) {
  try {
    body();
  } catch (const Error &error) {
    TORCH_CHECK(false, "flarec: ", error.what());
  }
}

/// Rows of tokens outside of all ranges are not written: zeros, then, to begin
/// with.
inline void clear(const Presence &presence,
                  std::initializer_list<at::Tensor> results) {
  if (presence.range.defined())
    for (at::Tensor t : results)
      if (t.defined())
        t.zero_();
}

inline bool nothingToRead(const Shape &shape) {
  return shape.batch == 0 || shape.heads == 0 || shape.tokens == 0;
}

/// As launch() wants it, where all gradients of latents are q's.
inline int64_t latentBatch(const Shape &shape) {
  return shape.sharedLatents ? 1 : shape.batch.expect_int();
}

/// Those that are wanted; the others undefined.
inline Three only(const std::array<bool, 3> &wanted, Three all) {
  if (!wanted[0])
    std::get<0>(all).reset();
  if (!wanted[1])
    std::get<1>(all).reset();
  if (!wanted[2])
    std::get<2>(all).reset();
  return all;
}

/// The letters of those that are wanted.
inline std::string chosen(const char *letters,
                          const std::array<bool, 3> &wanted) {
  std::string result;
  for (int i = 0; i < 3; ++i)
    if (wanted[i])
      result += letters[i];
  return result;
}

} // namespace flarec::ops
