#include "flarec/function.h"

#include "flarec/cuda_driver.h"
#include "flarec/error.h"
#include "flarec/host_code.h"
#include "gpu_code.h"

#include <fmt/format.h>

#include <array>
#include <bit>
#include <cstdlib>
#include <new>
#include <optional>

using namespace flarec;

//===----------------------------------------------------------------------===//
// Module
//===----------------------------------------------------------------------===//

/// One of the two, for all symbols of all functions.
struct Module::Code {
  std::optional<HostCode> host;
  std::vector<HostKernel> hostKernels;
  std::optional<GpuCode> gpu;
};

Module::Module(std::shared_ptr<const Artefact> artefact)
    : contents(std::move(artefact)), code(std::make_unique<Code>()) {
  std::vector<GpuSymbol> symbols;
  for (const FunctionSpec &spec : contents->manifest().functions) {
    functions.push_back(Function(*this, spec, symbols.size()));
    for (const KernelSpec &kernel : spec.kernels) {
      if (kernel.variants.empty())
        symbols.push_back({kernel.symbol, kernel.code, kernel.shared});
      for (const VariantSpec &variant : kernel.variants)
        symbols.push_back({variant.symbol,
                           variant.code >= 0 ? variant.code : kernel.code,
                           kernel.shared});
    }
  }
  if (isHost()) {
    code->host.emplace(contents->code(chooseHostCode(contents->manifest())));
    for (const GpuSymbol &symbol : symbols)
      code->hostKernels.push_back(code->host->kernel(symbol.name));
  } else {
    code->gpu.emplace(contents, std::move(symbols));
  }
}

Module::~Module() = default;

std::shared_ptr<Module> Module::load(std::shared_ptr<const Artefact> artefact) {
  return std::shared_ptr<Module>(new Module(std::move(artefact)));
}

const Function &Module::function(std::string_view name) const {
  std::string present;
  for (const Function &function : functions) {
    if (function.spec().name == name)
      return function;
    present += (present.empty() ? "" : ", ") + function.spec().name;
  }
  throw Error(fmt::format("the artefact has no function {}; it has {}", name,
                          present.empty() ? "none" : present));
}

void Module::prepare(int device) const {
  if (code->gpu)
    code->gpu->functions(device);
}

//===----------------------------------------------------------------------===//
// Function
//===----------------------------------------------------------------------===//

/// A call's tensors and parameters, on the stack. The manifest's parser has
/// seen to it that 512 slots suffice.
struct Function::Call {
  static constexpr size_t slotsOfTensor = 4;

  const FunctionSpec &function;
  Sizes sizes;
  size_t slotCount = 0;
  std::array<uint64_t, 512> slots;

  // A constructor, so that the 4 KiB of slots are not zeroed at each launch.
  Call(const FunctionSpec &function, const Sizes &sizes)
      : function(function), sizes(sizes) {}

  void add(uint64_t value) { slots[slotCount++] = value; }

  void add(const TensorRef &tensor) {
    add(reinterpret_cast<uint64_t>(tensor.data));
    add(uint64_t(tensor.strideB));
    add(uint64_t(tensor.strideH));
    add(uint64_t(tensor.strideRow));
  }

  /// Whether address and strides of a tensor are multiples of `alignment`
  /// bytes.
  bool aligned(size_t index, int64_t alignment) const {
    const TensorSpec &spec = function.tensors[index];
    const uint64_t *slot = &slots[slotsOfTensor * index];
    int64_t batches = spec.reduced ? sizes.latentBatch : sizes.batch;
    int64_t rows = spec.index == Index::Tokens ? sizes.tokens : spec.rows;
    int64_t extents[] = {batches, sizes.heads, rows};
    if (slot[0] % uint64_t(alignment) != 0)
      return false;
    for (int axis = 0; axis < 3; ++axis)
      if (extents[axis] > 1 &&
          int64_t(slot[1 + axis]) * byteSize(spec.type) % alignment != 0)
        return false;
    return true;
  }
};

Function::Function(const Module &module, const FunctionSpec &function,
                   size_t firstSymbol)
    : module(module), function(function) {
  for (const KernelSpec &kernel : function.kernels) {
    firstSymbols.push_back(firstSymbol);
    firstSymbol += std::max<size_t>(1, kernel.variants.size());
  }
}

int64_t Function::workspaceBytes(const Sizes &sizes) const {
  return flarec::workspaceBytes(function, sizes);
}

Function::Call Function::bind(const Sizes &sizes,
                              std::span<const TensorRef> tensors,
                              std::span<const float> scalars,
                              void *workspace) const {
  check(sizes);
  if (tensors.size() != function.argumentCount())
    throw Error(fmt::format("{} takes {} tensors, {} were given", function.name,
                            function.argumentCount(), tensors.size()));
  if (scalars.size() != function.scalars.size())
    throw Error(fmt::format("{} takes {} scalars, {} were given", function.name,
                            function.scalars.size(), scalars.size()));
  // What every processor's widest access and PyTorch's CPU allocator have in
  // common.
  if (reinterpret_cast<uint64_t>(workspace) % 64 != 0)
    throw Error(fmt::format("the workspace of {} is at {}; its address must be "
                            "a multiple of 64",
                            function.name, workspace));

  Call call(function, sizes);
  int64_t used = 0;
  for (size_t i = 0; i < function.tensors.size(); ++i) {
    const TensorSpec &spec = function.tensors[i];
    if (spec.role != Role::Workspace) {
      if (!tensors[i].data && elements(function, spec, sizes) > 0)
        throw Error(
            fmt::format("{} of {} has no data: a null pointer was given",
                        spec.name, function.name));
      call.add(tensors[i]);
      continue;
    }
    int64_t bytes = flarec::workspaceBytes(function, spec, sizes);
    if (bytes && !workspace)
      throw Error(fmt::format("{} needs a workspace of {} bytes; a null "
                              "pointer was given",
                              function.name,
                              flarec::workspaceBytes(function, sizes)));
    // elements() has found that these products fit.
    int64_t rows = spec.index == Index::Tokens ? sizes.tokens : spec.rows;
    int64_t rowStride = std::max<int64_t>(1, spec.columns);
    int64_t headStride = rows * rowStride;
    int64_t parts =
        spec.sweep < 0 ? 1 : splits(function.sweeps[size_t(spec.sweep)], sizes);
    call.add({static_cast<char *>(workspace) + used,
              bytes ? parts * sizes.heads * headStride : 0,
              bytes ? headStride : 0, rowStride});
    used += bytes;
  }
  for (int64_t size :
       {sizes.batch, sizes.heads, sizes.tokens, sizes.latentBatch})
    call.add(uint64_t(size));
  for (const SweepSpec &sweep : function.sweeps)
    call.add(uint64_t(splits(sweep, sizes)));
  for (float scalar : scalars)
    call.add(std::bit_cast<uint32_t>(scalar));
  return call;
}

template <typename Body>
void Function::inRounds(const Sizes &sizes, std::span<const TensorRef> tensors,
                        const Body &body) const {
  check(sizes);
  int64_t most = headsAtOnce(function, sizes);
  if (most == sizes.heads)
    return body(sizes, tensors);
  std::vector<TensorRef> some(tensors.begin(), tensors.end());
  for (int64_t first = 0; first < sizes.heads; first += most) {
    Sizes round = sizes;
    round.heads = std::min(most, sizes.heads - first);
    body(round, std::span<const TensorRef>(some));
    for (size_t i = 0; i < std::min(some.size(), function.tensors.size()); ++i)
      if (some[i].data)
        some[i].data = static_cast<char *>(some[i].data) +
                       most * some[i].strideH *
                           byteSize(function.tensors[i].type);
  }
}

size_t Function::chooseSymbol(const KernelSpec &kernel, size_t index,
                              const Call &call) const {
  if (kernel.variants.empty())
    return firstSymbols[index];
  for (size_t i = 0; i < kernel.variants.size(); ++i) {
    const VariantSpec &variant = kernel.variants[i];
    bool holds = true;
    if (variant.alignment > 1)
      for (int tensor : variant.tensors)
        holds = holds && call.aligned(size_t(tensor), variant.alignment);
    if (holds)
      return firstSymbols[index] + i;
  }
  std::string wanted;
  for (int tensor : kernel.variants.back().tensors)
    wanted += " " + function.tensors[size_t(tensor)].name;
  throw Error(fmt::format(
      "{} has no kernel for tensors laid out like these; addresses and strides "
      "of{} must be multiples of {} bytes: make them contiguous",
      function.name, wanted, kernel.variants.back().alignment));
}

void Function::launch(const Sizes &sizes, std::span<const TensorRef> tensors,
                      std::span<const float> scalars, void *workspace,
                      const CudaStream &stream) const {
  if (!module.code->gpu)
    throw Error(fmt::format("{} was compiled for the host; launch it there, or "
                            "compile it for the device",
                            function.name));
  inRounds(sizes, tensors, [&](const Sizes &sizes, auto tensors) {
    Call call = bind(sizes, tensors, scalars, workspace);
    const std::vector<cuda::Function> &functions =
        module.code->gpu->functions(stream.device);
    std::array<void *, 512> parameters;
    for (size_t i = 0; i < call.slotCount; ++i)
      parameters[i] = &call.slots[i];

    const CudaDriver &driver = CudaDriver::get();
    DeviceGuard guard(stream.device);
    for (size_t i = 0; i < function.kernels.size(); ++i) {
      const KernelSpec &kernel = function.kernels[i];
      int64_t blocks = gridBlocks(function, kernel, sizes);
      if (blocks == 0)
        continue;
      if (blocks > INT32_MAX)
        throw Error(
            fmt::format("{} would need {} blocks for batch {} and heads "
                        "{}; a grid has at most {}: use smaller batches",
                        kernel.symbol, blocks, sizes.batch, sizes.heads,
                        INT32_MAX));
      cuda::Result result = driver.launchKernel(
          functions[chooseSymbol(kernel, i, call)], unsigned(blocks), 1, 1,
          unsigned(kernel.threads), 1, 1, unsigned(kernel.shared),
          static_cast<cuda::Stream>(stream.stream), parameters.data(), nullptr);
      if (result != cuda::Success)
        driver.fail(result, fmt::format("launch {}", kernel.symbol));
    }
  });
}

namespace {

/// Scratch memory of a thread, kept from launch to launch.
class Scratch {
public:
  ~Scratch() { std::free(memory); }

  void *get(int64_t bytes) {
    if (bytes > size) {
      std::free(memory);
      size = (bytes + 63) / 64 * 64;
      memory = std::aligned_alloc(64, size_t(size));
      if (!memory) {
        size = 0;
        throw std::bad_alloc();
      }
    }
    return memory;
  }

private:
  void *memory = nullptr;
  int64_t size = 0;
};

thread_local Scratch scratch;

} // namespace

void Function::launchHost(const Sizes &sizes,
                          std::span<const TensorRef> tensors,
                          std::span<const float> scalars, void *workspace,
                          const ParallelFor &parallelFor) const {
  if (!module.code->host)
    throw Error(fmt::format("{} was compiled for {}, not for the host; launch "
                            "it on a device, or compile it for the host",
                            function.name,
                            module.artefact().manifest().target));
  inRounds(sizes, tensors, [&](const Sizes &sizes, auto tensors) {
    Call call = bind(sizes, tensors, scalars, workspace);
    for (size_t i = 0; i < function.kernels.size(); ++i) {
      const KernelSpec &kernel = function.kernels[i];
      int64_t blocks = gridBlocks(function, kernel, sizes);
      if (blocks == 0)
        continue;
      HostKernel run = module.code->hostKernels[chooseSymbol(kernel, i, call)];
      parallelFor(blocks, [&](int64_t begin, int64_t end) {
        void *memory = scratch.get(kernel.shared);
        for (int64_t block = begin; block < end; ++block)
          run(call.slots.data(), block, memory);
      });
    }
  });
}
