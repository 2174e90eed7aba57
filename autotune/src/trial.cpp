#include "trial.h"

#include "flarec/autotune/space.h"
#include "flarec/error.h"

#include <fmt/format.h>

using namespace flarec;
using namespace flarec::autotune;

Trial::Trial(std::shared_ptr<const Artefact> artefact)
    : module(Module::load(std::move(artefact))) {
  if (module->artefact().manifest().functions.size() != 1)
    throw Error(fmt::format("an artefact with one sweep was asked for; it has "
                            "{} functions",
                            module->artefact().manifest().functions.size()));
}

const Function &Trial::function() const {
  return module->function(module->artefact().manifest().functions.front().name);
}

Trial Trial::launchedAs(const Configuration &configuration) const {
  return launchedIn(
      [&](const SweepSpec &) { return field(configuration, "blocks", 1); });
}

Trial Trial::inOneRange(int64_t heads) const {
  return launchedIn([&](const SweepSpec &sweep) {
    return sweep.rowGroups * ((heads + sweep.heads - 1) / sweep.heads);
  });
}

Trial Trial::launchedIn(
    const std::function<int64_t(const SweepSpec &)> &blocks) const {
  const Artefact &artefact = module->artefact();
  Manifest manifest = artefact.manifest();
  FunctionSpec &function = manifest.functions.front();
  for (const KernelSpec &kernel : function.kernels)
    if (kernel.grid == Grid::Sweep) {
      SweepSpec &sweep = function.sweeps[size_t(kernel.sweep)];
      sweep.blocks = blocks(sweep);
    }
  std::vector<std::string> code;
  for (size_t i = 0; i < manifest.code.size(); ++i)
    code.emplace_back(artefact.code(i));
  return Trial(std::make_shared<Artefact>(std::move(manifest), code));
}

TestBed::TestBed(Bench &bench, const Data &data, DType dtype, int64_t heads,
                 int64_t tokens)
    : tensors(bench, data, dtype, heads, tokens), bench(bench),
      scale(data.scale) {}

std::vector<TestBed::Shared> TestBed::sharedBy(const FunctionSpec &function) {
  Sizes sizes = tensors.sizes();
  sizes.heads = headsAtOnce(function, sizes);
  std::vector<Shared> shared;
  size_t offset = 0;
  for (const TensorSpec &tensor : function.tensors) {
    if (tensor.role != Role::Workspace)
      continue;
    auto bytes = size_t(flarec::workspaceBytes(function, tensor, sizes));
    // Partial results and parked latents are a sweep's own.
    if (tensor.sweep < 0 && !tensor.name.starts_with("park_") && bytes) {
      auto [it, isNew] = kept.try_emplace({function.name, tensor.name});
      if (isNew)
        it->second = Buffer(bench, bytes);
      shared.push_back({offset, bytes, it->second});
    }
    offset += bytes;
  }
  return shared;
}

void TestBed::restore(const Trial &trial) {
  auto bytes = size_t(trial.function().workspaceBytes(tensors.sizes()));
  if (bytes > workspaceBytes) {
    bench.wait(); // for who still uses it
    workspace = Buffer();
    workspace = Buffer(bench, bytes);
    workspaceBytes = bytes;
  }
  for (const Shared &s : sharedBy(trial.function().spec()))
    bench.copy(static_cast<char *>(workspace.get()) + s.offset, s.kept.get(),
               s.bytes);
}

void TestBed::launch(const Trial &trial) {
  const Function &function = trial.function();
  bench.launch(function, tensors.sizes(), tensors.of(function.spec()), scale,
               workspace.get());
}

void TestBed::save(const Trial &trial) {
  for (const Shared &s : sharedBy(trial.function().spec()))
    bench.copy(s.kept.get(), static_cast<char *>(workspace.get()) + s.offset,
               s.bytes);
}

void TestBed::run(std::span<const Trial> trials) {
  for (const Trial &trial : trials) {
    restore(trial);
    launch(trial);
    save(trial);
  }
}

double TestBed::time(const Trial &trial, int times, bool cold) {
  restore(trial);
  const Function &function = trial.function();
  std::vector<TensorRef> refs = tensors.of(function.spec());
  auto body = [&] {
    bench.launch(function, tensors.sizes(), refs, scale, workspace.get());
  };
  return cold ? bench.time(body, 1, true)
              : bench.time(body, times, false) / times;
}

double TestBed::time(std::span<const Trial> trials, bool cold) {
  return bench.time([&] { run(trials); }, 1, cold);
}
