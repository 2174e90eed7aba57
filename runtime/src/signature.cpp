#include "flarec/signature.h"

#include "flarec/error.h"

#include <fmt/format.h>

#include <algorithm>

using namespace flarec;

namespace {

/// The tensors of a mixer that callers give, in the manifest's order.
class Tensors {
public:
  explicit Tensors(const MixerDescription &description)
      : description(description) {}

  Tensors &tokens(const char *name, Role role) {
    return add({.name = name,
                .role = role,
                .columns = description.headDim,
                .type = description.dtype});
  }
  Tensors &latents(const char *name, Role role, DType type, int64_t columns,
                   bool reduced = false) {
    return add({.name = name,
                .role = role,
                .index = Index::Latents,
                .rows = description.latents,
                .columns = columns,
                .type = type,
                .reduced = reduced});
  }
  /// Which tokens there are, where not all.
  Tensors &presence() {
    if (description.ragged)
      add({.name = "range",
           .role = Role::Input,
           .index = Index::Batch,
           .rows = 1,
           .columns = 2,
           .type = DType::I32});
    if (description.masked)
      add({.name = "mask", .role = Role::Input, .type = DType::I8});
    return *this;
  }
  Tensors &add(TensorSpec tensor) {
    all.push_back(std::move(tensor));
    return *this;
  }

  std::vector<TensorSpec> all;

private:
  const MixerDescription &description;
};

std::vector<TensorSpec> forward(const MixerDescription &d) {
  return Tensors(d)
      .latents("q", Role::Input, d.dtype, d.headDim)
      .tokens("k", Role::Input)
      .tokens("v", Role::Input)
      .presence()
      .tokens("y", Role::Result)
      .latents("z", Role::Result, DType::F32, d.headDim)
      .latents("lse_encode", Role::Result, DType::F32, 0)
      .add({.name = "lse_decode", .role = Role::Result})
      .all;
}

std::vector<TensorSpec> backward(const MixerDescription &d) {
  Tensors tensors(d);
  tensors.tokens("grad_y", Role::Input)
      .latents("q", Role::Input, d.dtype, d.headDim)
      .tokens("k", Role::Input)
      .tokens("v", Role::Input)
      .presence()
      .tokens("y", Role::Input)
      .latents("z", Role::Input, DType::F32, d.headDim)
      .latents("lse_encode", Role::Input, DType::F32, 0)
      .add({.name = "lse_decode", .role = Role::Input});
  auto wanted = [&](char input) {
    return d.gradients.find(input) != std::string::npos;
  };
  if (wanted('q'))
    tensors.latents("grad_q", Role::Result, d.dtype, d.headDim,
                    /*reduced=*/true);
  if (wanted('k'))
    tensors.tokens("grad_k", Role::Result);
  if (wanted('v'))
    tensors.tokens("grad_v", Role::Result);
  return tensors.all;
}

[[noreturn]] void refuse(const Manifest &manifest, const std::string &why) {
  throw Error(fmt::format(
      "the artefact with the key {} does not serve the mixer that this key "
      "stands for: {}; compile it again, with --from-stage only from a stage "
      "of "
      "the same description",
      manifest.key, why));
}

void checkFunction(const Manifest &manifest, const std::string &name,
                   const std::vector<TensorSpec> &wanted) {
  auto function = std::find_if(
      manifest.functions.begin(), manifest.functions.end(),
      [&](const FunctionSpec &function) { return function.name == name; });
  if (function == manifest.functions.end())
    refuse(manifest, fmt::format("it has no function {}", name));
  if (function->argumentCount() != wanted.size())
    refuse(manifest, fmt::format("its {} has {} tensors, not {}", name,
                                 function->argumentCount(), wanted.size()));
  for (size_t i = 0; i < wanted.size(); ++i) {
    const TensorSpec &tensor = function->tensors[i];
    std::string has = describe(tensor), wants = describe(wanted[i]);
    if (has != wants || tensor.role != wanted[i].role)
      refuse(manifest,
             fmt::format("{} {} of {} is {}, not {}",
                         tensor.role == Role::Input ? "input" : "result", i,
                         name, has, wants));
  }
}

} // namespace

void flarec::checkServes(const Manifest &manifest,
                         const MixerDescription &description) {
  if (manifest.target != description.target)
    refuse(manifest, fmt::format("it is for {}, not {}", manifest.target,
                                 description.target));
  checkFunction(manifest, "mixer_forward", forward(description));
  if (!description.gradients.empty())
    checkFunction(manifest, "mixer_backward", backward(description));
}
