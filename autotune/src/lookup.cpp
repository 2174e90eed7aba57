// Kernels for a call, with the tables' configuration where they have one.
#include "flarec/autotune/tables.h"

#include "flarec/cache.h"
#include "flarec/error.h"
#include "flarec/kernels.h"
#include "flarec/memo.h"

#include <fmt/format.h>

#include <cstdio>

using namespace flarec;
using namespace flarec::autotune;

namespace {

struct Key {
  MixerDescription description;
  int cudaDevice;
  int64_t heads, range;
  Layout layout;

  bool operator==(const Key &) const = default;
};

struct Hash {
  size_t operator()(const Key &key) const {
    const MixerDescription &d = key.description;
    size_t hash = size_t(d.headDim) << 20 ^ size_t(d.latents) << 4 ^
                  size_t(d.dtype) ^ size_t(key.cudaDevice + 1) << 32;
    for (size_t part : {size_t(key.heads), size_t(key.range),
                        size_t(key.layout),
                        std::hash<std::string>()(d.gradients),
                        std::hash<std::string>()(d.target)})
      hash = hash * 0x9e3779b97f4a7c15 ^ part;
    return hash;
  }
};

std::shared_ptr<Module> choose(MixerDescription description, const Call &call) {
  const Device &device = deviceOf(call.cudaDevice);
  // A file that was given for the description as it stands is what its user wants.
  if (device.target != description.target ||
      Cache::process().wasAdded(request(description)))
    return flarec::kernelsFor(description);
  const Entry *entry = Database::process().find(
      device, {.dtype = description.dtype,
               .headDim = description.headDim,
               .latents = description.latents,
               .heads = call.heads,
               .tokens = call.tokens,
               .layout = call.layout});
  MixerDescription tuned = description;
  if (entry)
    tuned.configuration =
        configurationText(entry->functions, description.gradients == "qkv");
  if (tuned.configuration.empty())
    return flarec::kernelsFor(description);
  try {
    return flarec::kernelsFor(tuned);
  } catch (const Error &error) {
    std::string why = error.what();
    auto kernels = flarec::kernelsFor(description);
    std::fprintf(stderr,
                 "flarec: the tuned configuration for head dim %d and %d latents "
                 "is not used: %s\n",
                 description.headDim, description.latents, why.c_str());
    return kernels;
  }
}

} // namespace

std::shared_ptr<Module>
autotune::kernelsFor(const MixerDescription &description, const Call &call) {
  if (!description.configuration.empty())
    return flarec::kernelsFor(description);
  // Never destroyed: kernels may still run while the process ends.
  static auto &memo = *new Memo<Key, Hash>;
  return memo.get({description, call.cudaDevice, call.heads,
                   tokenRange(call.tokens).first, call.layout},
                  [&] { return choose(description, call); });
}
