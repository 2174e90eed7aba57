// Loaded kernels and how to call them, from raw pointers.
//
//   auto module =
//   Module::load(std::make_shared<Artefact>(Artefact::read("mixer.flare")));
//   const Function &forward = module->function("mixer_forward");
//   Sizes sizes{.batch = 1, .heads = 8, .tokens = n, .latentBatch = 1};
//   void *workspace = allocate(forward.workspaceBytes(sizes));
//   forward.launch(sizes, tensors, scalars, workspace, {.device = 0, .stream =
//   stream});
#pragma once

#include "flarec/artefact.h"
#include "flarec/parallel.h"
#include "flarec/sizes.h"

#include <cstdint>
#include <memory>
#include <span>

namespace flarec {

/// A tensor as the caller has it: the strides are in elements and the channels
/// are contiguous. Strides over an axis that the tensor does not have or that
/// has extent 1 are ignored, except that latents shared by the batch have
/// strideB = 0.
struct TensorRef {
  void *data = nullptr;
  int64_t strideB = 0, strideH = 0, strideRow = 0;
};

/// Where to launch: a device by its number, and a CUstream of its primary
/// context (null: the default stream).
struct CudaStream {
  int device = 0;
  void *stream = nullptr;
};

class Module;

/// One function of an artefact. Const and safe to call from many threads; lives
/// as long as its Module.
class Function {
public:
  /// Names, types and order of tensors and scalars.
  const FunctionSpec &spec() const { return function; }

  int64_t workspaceBytes(const Sizes &sizes) const;

  /// Queues the kernels on the stream. `tensors`: inputs, then results. The
  /// workspace, at a multiple of 64, must stay until they ran.
  void launch(const Sizes &sizes, std::span<const TensorRef> tensors,
              std::span<const float> scalars, void *workspace,
              const CudaStream &stream) const;

  /// Runs the kernels of a host artefact, and returns when they are done.
  void launchHost(const Sizes &sizes, std::span<const TensorRef> tensors,
                  std::span<const float> scalars, void *workspace,
                  const ParallelFor &parallelFor) const;

private:
  friend class Module;
  struct Call;
  Function(const Module &module, const FunctionSpec &function,
           size_t firstSymbol);
  Call bind(const Sizes &sizes, std::span<const TensorRef> tensors,
            std::span<const float> scalars, void *workspace) const;
  /// Calls body(sizes, tensors) for so many heads at a time as the workspace has
  /// room for (headsAtOnce).
  template <typename Body>
  void inRounds(const Sizes &sizes, std::span<const TensorRef> tensors,
                const Body &body) const;
  size_t chooseSymbol(const KernelSpec &kernel, size_t index,
                      const Call &call) const;

  const Module &module;
  const FunctionSpec &function;
  std::vector<size_t> firstSymbols; // of each kernel, in the module's list
};

/// An artefact ready to run. Host code is loaded at once, GPU code on each
/// device at its first use.
class Module {
public:
  static std::shared_ptr<Module> load(std::shared_ptr<const Artefact> artefact);
  ~Module();

  const Artefact &artefact() const { return *contents; }
  bool isHost() const { return contents->manifest().isHost(); }

  /// Throws Error when there is none of this name.
  const Function &function(std::string_view name) const;

  /// Loads everything on a CUDA device, so that no later launch there waits for
  /// it. Does nothing for host code.
  void prepare(int device) const;

private:
  friend class Function;
  explicit Module(std::shared_ptr<const Artefact> artefact);

  struct Code;
  std::shared_ptr<const Artefact> contents;
  std::vector<Function> functions;
  std::unique_ptr<Code> code;
};

} // namespace flarec
