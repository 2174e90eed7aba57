// flarec info: an artefact's manifest for people. docs/artefact.md says what
// each part means.
#include "flarec-tool.h"

#include "flarec/artefact.h"
#include "flarec/sizes.h"

#include <fmt/format.h>

#include <cstdint>
#include <memory>

using namespace flarec;
using namespace flarec::tool;

namespace {

constexpr const char *examples = R"(Examples:
  flarec info mixer.flare
  flarec info mixer.flare --batch 2 --heads 16 --tokens 7225
      splits, blocks and workspace of a call of this size)";

std::string list(const FunctionSpec &function, Role role) {
  std::string text;
  for (const TensorSpec &tensor : function.tensors)
    if (tensor.role == role)
      text += (text.empty() ? "" : ", ") + describe(tensor);
  return text;
}

void printFunction(const FunctionSpec &f, const Sizes &sizes, bool host) {
  fmt::print("\n{}\n", f.name);
  fmt::print("  takes      {}", list(f, Role::Input));
  for (const ScalarSpec &scalar : f.scalars)
    fmt::print(", {}", scalar.name);
  fmt::print("\n  gives      {}\n", list(f, Role::Result));
  for (size_t i = 0; i < f.sweeps.size(); ++i) {
    const SweepSpec &s = f.sweeps[i];
    fmt::print("  sweep {}    tiles of {} tokens, {} heads a block, {} row "
               "group{}, about {} blocks; here {} splits\n",
               i, s.tile, s.heads, s.rowGroups, s.rowGroups == 1 ? "" : "s",
               s.blocks, splits(s, sizes));
  }
  for (const KernelSpec &k : f.kernels) {
    fmt::print("  kernel     {}: {}", k.symbol,
               k.grid == Grid::Sweep
                   ? fmt::format("sweep {}", k.sweep)
                   : fmt::format("{} blocks a head", k.blocksPerHead));
    if (!host)
      fmt::print(", {} threads", k.threads);
    fmt::print(", {} bytes of {}; here {} blocks\n", grouped(k.shared),
               host ? "scratch a block" : "shared memory",
               grouped(gridBlocks(f, k, sizes)));
    for (const VariantSpec &v : k.variants)
      fmt::print("    layout   {}: {}\n", v.symbol,
                 v.alignment > 1
                     ? fmt::format("rows aligned to {} bytes", v.alignment)
                     : "rows of any alignment");
  }
  for (const TensorSpec &tensor : f.tensors)
    if (tensor.role == Role::Workspace)
      fmt::print("  workspace  {}{}: here {} bytes\n", describe(tensor),
                 tensor.sweep < 0
                     ? ""
                     : fmt::format(" for each split of sweep {}", tensor.sweep),
                 grouped(workspaceBytes(f, tensor, sizes)));
}

void info(const std::string &path, const Sizes &sizes) {
  check(sizes);
  Artefact artefact = Artefact::read(path);
  const Manifest &m = artefact.manifest();
  fmt::print("{}\n  made by    {}\n  target     {}\n  key        {}\n", path,
             m.compiler, m.target, m.key);
  for (const CodeSpec &code : m.code) {
    const char *isa = code.isa == Isa::Avx512 ? " for AVX-512"
                      : code.isa == Isa::Avx2 ? " for AVX2"
                                              : " for any x86-64-v2";
    fmt::print("  code       {}, {} bytes\n",
               code.kind == CodeKind::Ptx     ? "PTX"
               : code.kind == CodeKind::Cubin ? "cubin"
                                              : fmt::format("ELF{}", isa),
               grouped(int64_t(code.size)));
  }
  fmt::print("  here       batch {}, heads {}, tokens {}\n", sizes.batch,
             sizes.heads, grouped(sizes.tokens));
  for (const FunctionSpec &function : m.functions)
    printFunction(function, sizes, m.isHost());
}

} // namespace

void tool::addInfo(CLI::App &app) {
  CLI::App *sub = app.add_subcommand("info", "Say what is in an artefact");
  sub->footer(examples);
  struct Options {
    std::string path;
    Sizes sizes{.batch = 1, .heads = 8, .tokens = 16384};
  };
  auto o = std::make_shared<Options>();
  sub->add_option("file", o->path, "An artefact made by `flarec compile`")
      ->required();
  sub->add_option("--batch", o->sizes.batch, "Of a call to describe")
      ->check(wholeNumber(0, INT64_MAX))
      ->capture_default_str();
  sub->add_option("--heads", o->sizes.heads, "Of a call to describe")
      ->check(wholeNumber(0, INT64_MAX))
      ->capture_default_str();
  sub->add_option("--tokens", o->sizes.tokens, "Of a call to describe")
      ->check(wholeNumber(0, INT64_MAX))
      ->capture_default_str();
  sub->callback([o] { info(o->path, o->sizes); });
}
