#include "flarec/kernels.h"

#include "flarec/cache.h"
#include "flarec/compiler_client.h"

#include <functional>
#include <shared_mutex>

using namespace flarec;

namespace {

struct Hash {
  size_t operator()(const std::string &text) const {
    return std::hash<std::string>()(text);
  }
  size_t operator()(const MixerDescription &d) const {
    size_t hash =
        size_t(d.headDim) << 20 ^ size_t(d.latents) << 4 ^ size_t(d.dtype);
    for (const std::string *text : {&d.gradients, &d.target, &d.configuration})
      hash = hash * 0x9e3779b97f4a7c15 ^ std::hash<std::string>()(*text);
    return hash;
  }
};

/// One module for a key; readers share.
template <typename Key> class Memo {
public:
  template <typename Make>
  std::shared_ptr<Module> get(const Key &key, Make make) {
    {
      std::shared_lock lock(mutex);
      if (auto it = modules.find(key); it != modules.end())
        return it->second;
    }
    std::shared_ptr<Module> module = make();
    std::unique_lock lock(mutex);
    // Two threads may have made one: all use the first.
    return modules.try_emplace(key, std::move(module)).first->second;
  }

private:
  std::shared_mutex mutex;
  std::unordered_map<Key, std::shared_ptr<Module>, Hash> modules;
};

} // namespace

std::shared_ptr<Module> flarec::kernelsFor(const std::string &request) {
  // Never destroyed: kernels may still run while the process ends.
  static Memo<std::string> &memo = *new Memo<std::string>;
  return memo.get(request, [&] {
    return Module::load(Cache::process().get(
        request, [&] { return CompilerClient::process().compile(request); }));
  });
}

std::shared_ptr<Module>
flarec::kernelsFor(const MixerDescription &description) {
  static Memo<MixerDescription> &memo = *new Memo<MixerDescription>;
  return memo.get(description,
                  [&] { return kernelsFor(request(description)); });
}

void flarec::addArtefact(const std::filesystem::path &path) {
  Cache::process().add(std::make_shared<const Artefact>(Artefact::read(path)));
}
