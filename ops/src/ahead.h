//===- ahead.h - which gradients a forward pass will be asked for ---------===//
//
// An artefact with a backward function has the forward function too. Where
// autograd knows that a backward pass will follow, forward takes its kernels
// from that artefact, and a training run compiles once instead of twice. Only a
// matter of time: the kernels are the same in both.
//
//===----------------------------------------------------------------------===//
#pragma once

#include <string>
#include <utility>

namespace flarec::ops {

/// Of "qkv", for the call under way in this thread.
inline thread_local std::string gradientsAhead;

class GradientsAhead {
public:
  explicit GradientsAhead(std::string gradients)
      : previous(std::exchange(gradientsAhead, std::move(gradients))) {}
  ~GradientsAhead() { gradientsAhead = std::move(previous); }
  GradientsAhead(const GradientsAhead &) = delete;
  GradientsAhead &operator=(const GradientsAhead &) = delete;

private:
  std::string previous;
};

} // namespace flarec::ops
