#include "flarec/autotune/sweeps.h"

#include "flarec/compiler.h"
#include "flarec/error.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <memory>

using namespace flarec;
using namespace flarec::autotune;
using Json = nlohmann::ordered_json;

namespace {

Json toJson(const Configuration &configuration) {
  Json json = Json::object();
  for (auto &[field, value] : configuration)
    if (value.find_first_not_of("0123456789") == value.npos && !value.empty() &&
        value.size() < 18)
      json[field] = std::stoll(value);
    else
      json[field] = value;
  return json;
}

Works worksFrom(const Json &json) { return json.get<Works>(); }

Verdict verdictFrom(const Json &json) {
  return {json.value("why", ""), json.value("counts", size_t(0)),
          json.value("shared", int64_t(0))};
}

} // namespace

Examination autotune::examine(const MixerDescription &description) {
  return examine(description, {}, {});
}

Examination autotune::examine(
    const MixerDescription &description, const Examination &plain,
    const std::vector<std::vector<Configuration>> &candidates) {
  Json json = Json::parse(request(description));
  json["examine"] = Json::object();
  if (!candidates.empty()) {
    // By function, which the first examination has named.
    if (plain.sweeps.size() != candidates.size())
      throw Error(fmt::format("candidates for {} sweeps were given; there are "
                              "{}",
                              candidates.size(), plain.sweeps.size()));
    for (size_t i = 0; i < candidates.size(); ++i) {
      Json list = Json::array();
      for (const Configuration &candidate : candidates[i])
        list.push_back(toJson(candidate));
      json["examine"][plain.sweeps[i].function].push_back(list);
    }
  }
  char *bytes = nullptr, *message = nullptr;
  size_t size = 0;
  int status = flarec_compile(json.dump().c_str(), &bytes, &size, &message);
  std::unique_ptr<char, decltype(&flarec_free)> ownBytes(bytes, flarec_free),
      ownMessage(message, flarec_free);
  if (status != 0)
    throw Error(message ? message : "the compiler does not say why it failed");
  Json answer = Json::parse(std::string_view(bytes, size));
  Examination result;
  for (const Json &function : answer.at("functions")) {
    size_t index = 0;
    for (const Json &sweep : function.at("sweeps")) {
      SweepFacts facts{.function = function.at("name").get<std::string>(),
                       .index = index++,
                       .heuristic = {},
                       .latents = sweep.at("latents").get<int64_t>(),
                       .read = sweep.at("read").get<double>(),
                       .written = sweep.at("written").get<double>()};
      for (auto &[field, value] : sweep.at("heuristic").items())
        facts.heuristic[field] =
            value.is_string() ? value.get<std::string>() : value.dump();
      result.sweeps.push_back(std::move(facts));
      result.own.push_back(verdictFrom(sweep.at("own")));
      std::vector<Verdict> verdicts;
      for (const Json &candidate : sweep.at("candidates"))
        verdicts.push_back(verdictFrom(candidate));
      result.verdicts.push_back(std::move(verdicts));
    }
  }
  for (const Json &c : answer.at("counts"))
    result.counts.push_back({.block = worksFrom(c.at("block")),
                             .tile = worksFrom(c.at("tile")),
                             .pairs = worksFrom(c.at("pairs")),
                             .pairsOfTile = c.at("pairs_of_tile").get<double>(),
                             .held = c.at("held").get<double>(),
                             .partial = c.at("partial").get<double>(),
                             .merged = c.value("merged", false)});
  for (SweepFacts &facts : result.sweeps) {
    facts.partialSweeps = 0;
    for (size_t i = 0; i < result.sweeps.size(); ++i)
      if (result.sweeps[i].function == facts.function && result.own[i].why.empty())
        facts.partialSweeps += result.counts[result.own[i].counts].partial > 0;
  }
  return result;
}
