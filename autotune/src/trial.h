// A candidate's kernels and where they run. Functions run sweep by sweep, each
// by whatever candidate's kernels, since a sweep's candidate is compiled alone.
#pragma once

#include "flarec/autotune/tables.h"
#include "measure.h"

#include <functional>
#include <span>

namespace flarec::autotune {

/// The kernels of one sweep of one function, loaded.
class Trial {
public:
  /// Of an artefact that holds nothing else (`only` of a request).
  explicit Trial(std::shared_ptr<const Artefact> artefact);

  const Function &function() const;
  /// The same kernels, launched in as many blocks as this configuration has.
  Trial launchedAs(const Configuration &configuration) const;
  /// The same, launched so that for `heads` heads each block has all tokens:
  /// several tiles, though there are few tokens.
  Trial inOneRange(int64_t heads) const;

private:
  Trial
  launchedIn(const std::function<int64_t(const SweepSpec &)> &blocks) const;

  std::shared_ptr<Module> module;
};

/// Tensors of one size, and what sweeps leave for later ones.
class TestBed {
public:
  TestBed(Bench &bench, const Data &data, DType dtype, int64_t heads,
          int64_t tokens);

  /// One after the other, as a function's sweeps are.
  void run(std::span<const Trial> trials);
  /// Seconds of one of `times` runs of a sweep's kernels. `cold`: the caches
  /// hold other things first; then times is 1.
  double time(const Trial &trial, int times, bool cold);
  /// Seconds of all of them one after the other, once.
  double time(std::span<const Trial> trials, bool cold);

  Tensors tensors;

private:
  /// A tensor of the workspace that other sweeps read or write.
  struct Shared {
    size_t offset, bytes; ///< in the workspace
    Buffer &kept;
  };
  std::vector<Shared> sharedBy(const FunctionSpec &function);
  void restore(const Trial &trial);
  void launch(const Trial &trial);
  void save(const Trial &trial);

  Bench &bench;
  float scale;
  Buffer workspace; // of any trial, one at a time
  size_t workspaceBytes = 0;
  std::map<std::pair<std::string, std::string>, Buffer>
      kept; // by function and tensor
};

} // namespace flarec::autotune
