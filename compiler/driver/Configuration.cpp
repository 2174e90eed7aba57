// One text for all sweeps with the same rows, or one entry a sweep of each function.
#include "driver/Configuration.h"
#include "flare/Flare.h"
#include "mlir/AsmParser/AsmParser.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/Diagnostics.h"
#include "llvm/ADT/StringExtras.h"

using namespace mlir;
using namespace flarec;

static llvm::Error error(const llvm::Twine &t) { return llvm::createStringError(t.str()); }

static std::string printed(Attribute a) {
  std::string s;
  llvm::raw_string_ostream(s) << a;
  return s;
}

/// Parses, with what the parser says as an error rather than a diagnostic of the module.
static llvm::Expected<Attribute> parse(StringRef text, MLIRContext *context) {
  std::string said;
  ScopedDiagnosticHandler handler(context, [&](Diagnostic &d) {
    said += (said.empty() ? "" : "; ") + d.str();
    return success();
  });
  if (Attribute a = parseAttribute(text, context))
    return a;
  return error(said);
}

Fields flarec::fieldsOf(tile::ConfigAttr config) {
  // struct(params) prints `name = value, …`; commas within quotes or brackets belong to a value.
  std::string text = printed(config);
  StringRef inner = StringRef(text).drop_front(text.find('<') + 1).drop_back();
  Fields fields;
  size_t begin = 0;
  int depth = 0;
  bool quoted = false;
  for (size_t i = 0; i <= inner.size(); ++i) {
    char c = i < inner.size() ? inner[i] : ',';
    if (c == '"')
      quoted = !quoted;
    else if (StringRef("<[({").contains(c))
      ++depth;
    else if (StringRef(">])}").contains(c))
      --depth;
    if (c != ',' || quoted || (depth && i < inner.size()))
      continue;
    auto [name, value] = inner.slice(begin, i).split('=');
    fields.push_back({name.trim().str(), value.trim().str()});
    begin = i + 1;
  }
  // What has its default is not printed.
  for (auto [name, value] : {std::pair("column_workers", llvm::itostr(config.getColumnWorkers())), std::pair("matrix", printed(config.getMatrix()))})
    if (llvm::none_of(fields, [name = StringRef(name)](auto &f) { return f.first == name; }))
      fields.push_back({name, value});
  return fields;
}

llvm::Expected<tile::ConfigAttr> flarec::configurationFrom(Attribute entry, tile::ConfigAttr heuristic) {
  if (auto whole = dyn_cast<tile::ConfigAttr>(entry))
    return whole;
  auto changes = dyn_cast<DictionaryAttr>(entry);
  if (!changes)
    return error("'" + printed(entry) + "' is no configuration of a sweep; give a #tile.config<…>, or a dictionary of fields that differ from the heuristic's");
  Fields fields = fieldsOf(heuristic);
  for (NamedAttribute change : changes) {
    auto field = llvm::find_if(fields, [&](auto &f) { return f.first == change.getName().getValue(); });
    if (field == fields.end()) {
      std::string names;
      for (auto &f : fields)
        names += (names.empty() ? "" : ", ") + f.first;
      return error("a configuration has no field '" + change.getName().getValue() + "'; there are " + names);
    }
    auto text = dyn_cast<StringAttr>(change.getValue());
    auto number = dyn_cast<IntegerAttr>(change.getValue());
    if (text && !StringRef(field->second).starts_with("\""))
      field->second = text.getValue().str(); // an enumerator: rows = "m"
    else if (number)
      field->second = llvm::itostr(number.getInt()); // without its type
    else
      field->second = printed(change.getValue());
  }
  // Whole, but from before there was a choice.
  if (!changes.contains("matrix") && llvm::all_of(fields, [&](auto &f) { return f.first == "matrix" || changes.contains(f.first); }))
    llvm::find_if(fields, [](auto &f) { return f.first == "matrix"; })->second = "\"mma\"";
  std::string text = "#tile.config<";
  for (auto &f : fields)
    text += (&f == fields.begin() ? "" : ", ") + f.first + " = " + f.second;
  auto parsed = parse(text + ">", heuristic.getContext());
  if (!parsed)
    return error("'" + printed(entry) + "' makes no configuration: " + llvm::toString(parsed.takeError()));
  return cast<tile::ConfigAttr>(*parsed);
}

/// {function = [entry, …], …}
static llvm::Error configureEach(ModuleOp module, DictionaryAttr functions) {
  std::string present;
  for (auto f : module.getOps<func::FuncOp>())
    present += (present.empty() ? "" : ", ") + f.getSymName().str();
  for (NamedAttribute function : functions) {
    StringRef name = function.getName().getValue();
    auto f = module.lookupSymbol<func::FuncOp>(name);
    if (!f)
      return error("the configuration is for a function '" + name + "', and there is none; there are " + present);
    SmallVector<flare::SweepOp> sweeps;
    f.walk([&](flare::SweepOp s) { sweeps.push_back(s); });
    auto entries = dyn_cast<ArrayAttr>(function.getValue());
    if (!entries || entries.size() != sweeps.size())
      return error("the configuration of '" + name + "' is " + (entries ? "for " + llvm::Twine(entries.size()) + " sweeps" : llvm::Twine("no list")) +
                   "; the function has " + llvm::Twine(sweeps.size()) + ", give a list of so many, {} for the heuristic's");
    for (auto [i, sweep, entry] : llvm::enumerate(sweeps, entries)) {
      auto config = configurationFrom(entry, cast<tile::ConfigAttr>(sweep.getConfigAttr()));
      if (!config)
        return error("sweep " + llvm::Twine(i) + " of '" + name + "': " + llvm::toString(config.takeError()));
      sweep.setConfigAttr(*config);
    }
  }
  return llvm::Error::success();
}

llvm::Error flarec::configure(ModuleOp module, StringRef text) {
  auto a = parse(text, module.getContext());
  auto config = a ? dyn_cast<tile::ConfigAttr>(*a) : tile::ConfigAttr();
  auto each = a ? dyn_cast<DictionaryAttr>(*a) : DictionaryAttr();
  if (!config && !each) {
    std::string why = a ? "" : llvm::toString(a.takeError());
    return error("cannot read the configuration '" + text + "'" + (why.empty() ? "" : " (" + why + ")") +
                 "; it must be a #tile.config<…>, as --emit sweeps prints it, or one for each sweep: {mixer_forward = [#tile.config<…>, {heads = 4}], …}");
  }
  bool stage = llvm::all_of(module.getOps<func::FuncOp>(), [](func::FuncOp f) {
    return !f.walk([](flare::SweepOp s) { return isa_and_nonnull<tile::ConfigAttr>(s.getConfigAttr()) ? WalkResult::advance() : WalkResult::interrupt(); })
                .wasInterrupted();
  });
  if (each) {
    if (!stage)
      return error("a configuration for each sweep changes the heuristic's, and the sweeps have none: give it with an earlier stage");
    return configureEach(module, each);
  }
  bool fits = false;
  module.walk([&](flare::SweepOp sweep) {
    auto old = dyn_cast_or_null<tile::ConfigAttr>(sweep.getConfigAttr());
    if (old && old.getRows() != config.getRows())
      return;
    sweep.setConfigAttr(config);
    fits = true;
  });
  return fits ? llvm::Error::success()
              : error("the configuration is for sweeps with rows = " + flare::stringifyIndex(config.getRows()) + ", and there is none");
}
