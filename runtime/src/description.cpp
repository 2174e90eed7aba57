#include "flarec/description.h"

#include "flarec/error.h"
#include "flarec/version.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>

using namespace flarec;
using Json = nlohmann::ordered_json;

static void checkTargetName(const std::string &target) {
  for (const char *known : {"host", "sm_80", "sm_90a", "sm_100a"})
    if (target == known)
      return;
  throw Error(fmt::format("there is no target \"{}\"; choose host, sm_80, "
                          "sm_90a or sm_100a",
                          target));
}

/// Keys in the order of the page: the text is what is hashed.
static std::string dump(const Json &json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

/// What requests of both kinds end in.
static Json finish(Json json, const std::string &target,
                   const std::string &configuration, bool tf32) {
  if (tf32) // else the field is not there: keys without it stay what they were
    json["precision"] = "tf32";
  json["target"] = target;
  json["config"] = configuration;
  return json;
}

std::string flarec::request(const MixerDescription &description) {
  const auto &[headDim, latents, dtype, gradients, target, configuration,
               tf32, ragged, masked] = description;
  if (headDim < 1 || headDim > maxHeadDim)
    throw Error(fmt::format("head dim {} is not supported; choose from 1 to {} "
                            "(channels / heads)",
                            headDim, maxHeadDim));
  if (latents < 1 || latents > maxLatents)
    throw Error(fmt::format(
        "{} latents are not supported; choose from 1 to {}", latents,
        maxLatents));
  checkTargetName(target);
  std::string ordered;
  for (char input : {'q', 'k', 'v'})
    if (gradients.find(input) != std::string::npos)
      ordered += input;
  if (ordered.size() != gradients.size())
    throw Error(fmt::format("gradients \"{}\" are not supported; give each of "
                            "q, k and v at most once, such as \"qkv\"",
                            gradients));
  if (tf32 && (dtype != DType::F32 || target == "host"))
    throw Error(fmt::format("TF32 is a precision of f32 on a GPU; leave it out "
                            "for {} on {}",
                            name(dtype), target));
  Json mixer = {{"head_dim", headDim},
                {"latents", latents},
                {"dtype", name(dtype)},
                {"gradients", ordered}};
  if (ragged)
    mixer["ragged"] = true;
  if (masked)
    mixer["masked"] = true;
  return dump(finish({{"version", version()}, {"mixer", mixer}}, target,
                     configuration, tf32));
}

std::string flarec::request(const std::string &source,
                            const std::string &target,
                            const std::string &gradients, bool tf32) {
  checkTargetName(target);
  Json json = {{"version", version()}, {"source", source}};
  if (!gradients.empty())
    json["gradients"] = gradients;
  return dump(finish(std::move(json), target, "", tf32));
}
