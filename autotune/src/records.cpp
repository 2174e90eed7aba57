// What was tried, as JSON: so that the model can be corrected, and tested,
// without a device.
#include "flarec/autotune/space.h"
#include "flarec/autotune/tuner.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <string>

using namespace flarec;
using namespace flarec::autotune;
using Json = nlohmann::ordered_json;

namespace {

/// Six digits say it all, and make files that can be kept.
double rounded(double value) { return std::stod(fmt::format("{:.6g}", value)); }

Json toJson(const Configuration &configuration) {
  Json json = Json::object();
  for (auto &[name, value] : configuration)
    if (int64_t number = field(configuration, name.c_str(), -1); number >= 0)
      json[name] = number;
    else
      json[name] = value;
  return json;
}

/// Fields that the heuristic has otherwise.
Configuration changes(const Configuration &heuristic,
                      const Configuration &configuration) {
  Configuration changed;
  for (auto &[name, value] : configuration)
    if (auto it = heuristic.find(name);
        it == heuristic.end() || it->second != value)
      changed[name] = value;
  return changed;
}

Json toJson(const SweepResult &sweep) {
  const Configuration &heuristic = sweep.facts.heuristic;
  Json candidates = Json::array();
  for (const Candidate &c : sweep.candidates) {
    Json one = {{"changes", toJson(changes(heuristic, c.configuration))},
                {"predicted_ms", rounded(1e3 * c.predicted.seconds)}};
    if (c.predicted.registers > 0)
      one["predicted_registers"] = rounded(c.predicted.registers);
    if (c.measured > 0) {
      one["ms"] = rounded(1e3 * c.measured);
      one["spread"] = rounded(c.spread);
    }
    if (c.registers) {
      one["registers"] = c.registers;
      one["spills"] = c.spills;
    }
    if (!c.fate.empty())
      one["fate"] = c.fate;
    candidates.push_back(std::move(one));
  }
  return {{"function", sweep.facts.function},
          {"sweep", sweep.facts.index},
          {"heuristic", toJson(heuristic)},
          {"combinations", sweep.combinations},
          {"feasible", sweep.feasible},
          {"compiled", sweep.compiled},
          {"chosen", sweep.chosen},
          {"candidates", std::move(candidates)}};
}

} // namespace

std::string autotune::records(const std::vector<TuneResult> &results) {
  Json all = Json::array();
  for (const TuneResult &r : results) {
    const Shape &shape = r.entry.shape;
    Json functions = Json::object(), sweeps = Json::array();
    for (auto &[name, function] : r.entry.functions)
      functions[name] = {{"heuristic_ms", rounded(function.before)},
                         {"ms", rounded(function.milliseconds)}};
    for (const SweepResult &sweep : r.sweeps)
      sweeps.push_back(toJson(sweep));
    all.push_back({{"device", r.device.name},
                   {"target", r.machine.target},
                   {"isa", r.device.isa},
                   {"compiler", r.entry.compiler},
                   {"date", r.entry.date},
                   {"clock_mhz", r.entry.clock},
                   {"seconds", rounded(r.seconds)},
                   {"dtype", flarec::name(shape.dtype)},
                   {"head_dim", shape.headDim},
                   {"latents", shape.latents},
                   {"heads", shape.heads},
                   {"tokens", shape.tokens},
                   {"functions", std::move(functions)},
                   {"sweeps", std::move(sweeps)}});
  }
  // A candidate a line: such files are looked at, and compared.
  std::string text = "[";
  for (Json &result : all) {
    Json sweeps = std::move(result["sweeps"]);
    result.erase("sweeps");
    std::string head = result.dump();
    head.pop_back();
    text += (text.size() > 1 ? ",\n" : "\n") + head + ", \"sweeps\": [";
    for (size_t s = 0; s < sweeps.size(); ++s) {
      Json candidates = std::move(sweeps[s]["candidates"]);
      sweeps[s].erase("candidates");
      std::string sweep = sweeps[s].dump();
      sweep.pop_back();
      text += (s ? ",\n " : "\n ") + sweep + ", \"candidates\": [";
      for (size_t i = 0; i < candidates.size(); ++i)
        text += (i ? ",\n  " : "\n  ") + candidates[i].dump();
      text += "]}";
    }
    text += "]}";
  }
  return text + "]\n";
}
