#include "driver/Examine.h"
#include "driver/Configuration.h"
#include "flare/Flare.h"
#include "passes/Count.h"
#include "passes/Feasible.h"
#include "passes/Sizes.h"
#include "passes/tiling/Sweep.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Pass/PassRegistry.h"
#include "llvm/ADT/StringExtras.h"
#include <map>

using namespace mlir;
using namespace flarec;
namespace json = llvm::json;

namespace {
llvm::Error error(const llvm::Twine &t) { return llvm::createStringError(t.str()); }

/// A field's text as JSON: numbers and strings.
json::Value fieldValue(StringRef text) {
  int64_t number;
  if (!text.getAsInteger(10, number))
    return number;
  return text.trim('"').str();
}

json::Object fieldsObject(tile::ConfigAttr config) {
  json::Object o;
  for (auto &[name, value] : fieldsOf(config))
    o[name] = fieldValue(value);
  return o;
}

DictionaryAttr changesFrom(MLIRContext *context, const json::Object &o) {
  SmallVector<NamedAttribute> fields;
  for (auto &[name, value] : o) {
    Attribute a;
    if (auto i = value.getAsInteger())
      a = IntegerAttr::get(IntegerType::get(context, 64), *i);
    else
      a = StringAttr::get(context, value.getAsString().value_or(""));
    fields.push_back({StringAttr::get(context, name.str()), a});
  }
  return DictionaryAttr::get(context, fields);
}

/// Bytes a token and head that are staged, that are written, and a split's partial results of a head.
struct Traffic {
  int64_t read = 0, written = 0;
};

Traffic trafficOf(flare::SweepOp sweep) {
  Traffic t;
  auto size = [](Value v) {
    auto type = cast<flare::FlareTensorType>(v.getType());
    return std::max<int64_t>(1, type.getChannels()) * bytesOf(type.getElement());
  };
  for (Value v : tiling::tokensRead(sweep))
    t.read += size(v);
  for (Value v : sweep.getResults())
    if (tiling::isTokens(v))
      t.written += size(v);
  return t;
}

json::Object worksObject(const Works &w) {
  json::Object o;
  for (size_t i = 0; i < numWorks; ++i)
    if (w[i])
      o[nameOf(Work(i))] = w[i];
  return o;
}

/// Counts of a sweep's kernel, for each set of the fields that its program depends on.
class Counting {
public:
  Counting(ModuleOp module, StringRef target) : module(module), target(target) {}

  /// The number of this configuration's counts in `list`.
  llvm::Expected<int64_t> of(func::FuncOp f, unsigned index, tile::ConfigAttr config) {
    // Neither what blocks share nor how a sum or exponential is made changes which operations there are, but for `sums`.
    std::string key = (f.getSymName() + " " + llvm::Twine(index)).str();
    for (auto &[name, value] : fieldsOf(config))
      if (!llvm::is_contained({"heads", "row_groups", "stages", "blocks", "exp", "min_blocks", "unroll"}, name))
        key += " " + value;
    if (auto found = known.find(key); found != known.end())
      return found->second;
    OwningOpRef<ModuleOp> copy = ModuleOp::create(module.getLoc());
    auto clone = cast<func::FuncOp>(f->clone());
    copy->push_back(clone);
    unsigned next = 0;
    clone.walk([&](flare::SweepOp s) {
      if (next++ == index)
        s.setConfigAttr(config);
    });
    PassManager pm(module.getContext(), ModuleOp::getOperationName());
    if (failed(parsePassPipeline(("flare-to-tile{target=" + target + "},cse").str(), pm)) || failed(pm.run(*copy)))
      return error("sweep " + llvm::Twine(index) + " of '" + f.getSymName() + "' cannot be lowered to be counted");
    json::Object counted;
    copy->walk([&](tile::ProgramOp program) {
      int64_t partial = 0;
      for (auto [attribute, argument] : llvm::zip(program.getTensors(), program.getRegion().getArguments()))
        if (auto sweep = cast<DictionaryAttr>(attribute).getAs<IntegerAttr>("sweep"); sweep && sweep.getInt() == index) {
          auto t = cast<flare::FlareTensorType>(argument.getType());
          partial += t.getLatents() * std::max<int64_t>(1, t.getChannels()) * bytesOf(t.getElement());
        }
      counted["partial"] = partial;
      for (auto kernel : program.getOps<tile::KernelOp>()) {
        if (kernel.getSweep() != index)
          continue;
        if (kernel.getKind() != "sweep") {
          counted["merged"] = true;
          continue;
        }
        Counts c = countOps(kernel, target == "host");
        counted["block"] = worksObject(c.block);
        counted["tile"] = worksObject(c.tile);
        counted["pairs"] = worksObject(c.pairs);
        counted["pairs_of_tile"] = c.pairsOfTile;
        counted["held"] = c.held;
      }
    });
    list.push_back(std::move(counted));
    return known[key] = int64_t(list.size()) - 1;
  }

  json::Array list;

private:
  ModuleOp module;
  StringRef target;
  std::map<std::string, int64_t> known;
};
} // namespace

llvm::Expected<std::string> flarec::examine(ModuleOp module, const json::Object &candidates, StringRef target) {
  json::Array functions;
  Counting counting(module, target);
  for (auto f : module.getOps<func::FuncOp>()) {
    json::Array sweeps;
    const json::Array *of = candidates.getArray(f.getSymName());
    SmallVector<flare::SweepOp> ops;
    f.walk([&](flare::SweepOp s) { ops.push_back(s); });
    for (auto [i, sweep] : llvm::enumerate(ops)) {
      auto heuristic = cast<tile::ConfigAttr>(sweep.getConfigAttr());
      Traffic traffic = trafficOf(sweep);
      json::Object o{{"heuristic", fieldsObject(heuristic)}, {"latents", tiling::latentsOf(sweep)}, {"read", traffic.read}, {"written", traffic.written}};
      json::Array judged;
      json::Array none, *given = &none;
      if (of && i < of->size())
        if (auto *array = const_cast<json::Value &>((*of)[i]).getAsArray())
          given = array;
      // The sweep's own configuration is the first of all.
      for (size_t c = 0; c <= given->size(); ++c) {
        auto *changes = c ? (*given)[c - 1].getAsObject() : nullptr;
        if (c && !changes)
          return error("a candidate must be an object of fields");
        auto config = c ? configurationFrom(changesFrom(module.getContext(), *changes), heuristic) : llvm::Expected<tile::ConfigAttr>(heuristic);
        std::string why;
        if (!config)
          why = llvm::toString(config.takeError());
        else if (failed(feasible(*config, sweep, target, why)) && why.empty())
          why = "it cannot be run";
        json::Object verdict;
        if (!why.empty()) {
          verdict["why"] = why;
        } else {
          auto counts = counting.of(f, unsigned(i), *config);
          if (!counts)
            return counts.takeError();
          verdict["counts"] = *counts;
          if (target != "host")
            verdict["shared"] = sharedBytes(*config, sweep);
        }
        if (c == 0)
          o["own"] = std::move(verdict);
        else
          judged.push_back(std::move(verdict));
      }
      o["candidates"] = std::move(judged);
      sweeps.push_back(std::move(o));
    }
    functions.push_back(json::Object{{"name", f.getSymName().str()}, {"sweeps", std::move(sweeps)}});
  }
  std::string text;
  llvm::raw_string_ostream(text) << json::Value(json::Object{{"functions", std::move(functions)}, {"counts", std::move(counting.list)}});
  return text;
}
