#include "flarec/kernels.h"

#include "flarec/cache.h"
#include "flarec/compiler_client.h"
#include "flarec/host_code.h"
#include "flarec/memo.h"
#include "flarec/signature.h"

#include <nlohmann/json.hpp>

#include <functional>

using namespace flarec;

namespace {

struct Hash {
  size_t operator()(const std::string &text) const {
    return std::hash<std::string>()(text);
  }
  size_t operator()(const MixerDescription &d) const {
    size_t hash =
        size_t(d.headDim) << 20 ^ size_t(d.latents) << 5 ^
        size_t(d.dtype) << 1 ^ size_t(d.tf32) ^ size_t(d.ragged) << 28 ^
        size_t(d.masked) << 29;
    for (const std::string *text : {&d.gradients, &d.target, &d.configuration})
      hash = hash * 0x9e3779b97f4a7c15 ^ std::hash<std::string>()(*text);
    return hash;
  }
};

/// For the host, what is compiled at first use is for this processor alone: each
/// instruction set is a compilation of its own. Empty for a GPU.
std::string isaOf(const std::string &request) {
  auto json = nlohmann::json::parse(request, nullptr, false);
  bool host = json.is_object() && json.value("target", "") == "host";
  return host ? isaName(hostIsa()) : "";
}

std::string withIsa(const std::string &request, const std::string &isa) {
  if (isa.empty())
    return request;
  auto json = nlohmann::ordered_json::parse(request);
  json["isa"] = isa;
  return json.dump();
}

} // namespace

std::shared_ptr<Module> flarec::kernelsFor(const std::string &request) {
  // Never destroyed: kernels may still run while the process ends.
  static auto &memo = *new Memo<std::string, Hash>;
  return memo.get(request, [&] {
    CompilerClient &compiler = CompilerClient::process();
    std::string isa = isaOf(request);
    return Module::load(Cache::process().get(
        request, [&] { return compiler.compile(withIsa(request, isa)); },
        [&] {
          std::string build = compiler.build();
          return build.empty() || isa.empty() ? build : build + "-" + isa;
        }));
  });
}

std::shared_ptr<Module>
flarec::kernelsFor(const MixerDescription &description) {
  static auto &memo = *new Memo<MixerDescription, Hash>;
  return memo.get(description, [&] {
    auto module = kernelsFor(request(description));
    checkServes(module->artefact().manifest(), description);
    return module;
  });
}

void flarec::addArtefact(const std::filesystem::path &path) {
  Cache::process().add(std::make_shared<const Artefact>(Artefact::read(path)));
}
