#include "flarec/autotune/tables.h"

#include "files.h"
#include "flarec/cuda_driver.h"
#include "flarec/device.h"
#include "flarec/error.h"
#include "flarec/host_code.h"
#include "shipped.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <mutex>
#include <set>
#include <sys/file.h>
#include <unistd.h>

using namespace flarec;
using namespace flarec::autotune;
namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

//===----------------------------------------------------------------------===//
// Devices and shapes
//===----------------------------------------------------------------------===//

std::string_view autotune::name(Layout layout) {
  return layout == Layout::TokensMajor ? "tokens-major" : "heads-major";
}

namespace {

Device host() {
  std::ifstream info("/proc/cpuinfo");
  std::string name = "x86-64";
  for (std::string line; std::getline(info, line);)
    if (line.starts_with("model name") && line.find(": ") != line.npos) {
      name = line.substr(line.find(": ") + 2);
      break;
    }
  return {name, "host", isaName(hostIsa())};
}

} // namespace

const Device &autotune::deviceOf(int cudaDevice) {
  static std::mutex mutex;
  static auto &known = *new std::map<int, Device>;
  std::lock_guard lock(mutex);
  auto it = known.find(cudaDevice);
  if (it == known.end())
    it = known
             .emplace(cudaDevice,
                      cudaDevice < 0
                          ? host()
                          : Device{deviceFacts(cudaDevice).name,
                                   deviceTarget(cudaDevice), ""})
             .first;
  return it->second;
}

std::pair<int64_t, int64_t> autotune::tokenRange(int64_t tokens) {
  constexpr std::array<int64_t, 5> first = {0, 4096, 32768, 262144, 2097152};
  size_t i = first.size() - 1;
  while (first[i] > tokens)
    --i;
  return {first[i], i + 1 < first.size() ? first[i + 1] - 1 : INT64_MAX};
}

bool Entry::sameKey(const Entry &other) const {
  const Shape &a = shape, &b = other.shape;
  return a.dtype == b.dtype && a.headDim == b.headDim &&
         a.latents == b.latents && a.heads == b.heads && a.layout == b.layout &&
         tokenRange(a.tokens) == tokenRange(b.tokens);
}

//===----------------------------------------------------------------------===//
// Text
//===----------------------------------------------------------------------===//

namespace {

bool isNumber(const std::string &text) {
  return !text.empty() && text.size() < 18 && text != "-" &&
         text.find_first_not_of("0123456789", text[0] == '-' ? 1 : 0) ==
             text.npos;
}

DType dtypeFrom(const std::string &text) {
  for (DType type : {DType::F32, DType::BF16, DType::F16})
    if (text == flarec::name(type))
      return type;
  throw Error(fmt::format("dtype \"{}\" is none of f32, bf16, f16", text));
}

Json toJson(const Configuration &configuration) {
  Json json = Json::object();
  for (auto &[field, value] : configuration)
    if (isNumber(value))
      json[field] = std::stoll(value);
    else
      json[field] = value;
  return json;
}

Configuration configurationFrom(const Json &json) {
  if (!json.is_object())
    throw Error("a configuration is no object");
  Configuration configuration;
  for (auto &[field, value] : json.items()) {
    std::string text =
        value.is_string() ? value.get<std::string>() : value.dump();
    // It becomes part of MLIR's text.
    bool plain = !field.empty() && text.find_first_of("\"\\\n") == text.npos;
    for (char c : field)
      plain = plain && (std::isalnum(static_cast<unsigned char>(c)) || c == '_');
    constexpr int64_t most = INT32_MAX;
    bool inRange = !isNumber(text) || std::abs(std::stoll(text)) <= most;
    if (!plain || !inRange || !(value.is_string() || value.is_number_integer()))
      throw Error(fmt::format("field \"{}\" is {}", field, value.dump()));
    configuration[field] = text;
  }
  return configuration;
}

Json toJson(const Entry &entry) {
  Json functions = Json::object();
  for (auto &[name, function] : entry.functions) {
    Json sweeps = Json::array();
    for (const Configuration &configuration : function.sweeps)
      sweeps.push_back(toJson(configuration));
    functions[name] = {{"ms", function.milliseconds},
                       {"heuristic_ms", function.before},
                       {"sweeps", sweeps}};
  }
  auto [from, to] = tokenRange(entry.shape.tokens);
  Json range = {from, nullptr};
  if (to != INT64_MAX)
    range[1] = to;
  return {{"dtype", flarec::name(entry.shape.dtype)},
          {"head_dim", entry.shape.headDim},
          {"latents", entry.shape.latents},
          {"heads", entry.shape.heads},
          {"layout", autotune::name(entry.shape.layout)},
          {"tokens", range},
          {"measured_tokens", entry.shape.tokens},
          {"date", entry.date},
          {"compiler", entry.compiler},
          {"clock_mhz", entry.clock},
          {"functions", functions}};
}

/// A whole number, or an error that says which ones there may be.
int64_t whole(const Json &json, const char *field, int64_t least, int64_t most) {
  const Json &value = json.at(field);
  if (!value.is_number_integer() || value.get<double>() < double(least) ||
      value.get<double>() > double(most))
    throw Error(fmt::format("{} is {}; it must be a whole number from {} to {}",
                            field, value.dump(), least, most));
  return value.get<int64_t>();
}

Entry entryFrom(const Json &json) {
  Entry entry;
  std::string layout = json.at("layout").get<std::string>();
  if (layout != name(Layout::HeadsMajor) && layout != name(Layout::TokensMajor))
    throw Error(fmt::format("layout is \"{}\"; it must be {} or {}", layout,
                            name(Layout::TokensMajor),
                            name(Layout::HeadsMajor)));
  entry.shape = {
      .dtype = dtypeFrom(json.at("dtype").get<std::string>()),
      .headDim = int(whole(json, "head_dim", 1, 128)),
      .latents = int(whole(json, "latents", 1, 4096)),
      .heads = whole(json, "heads", 1, 1 << 20),
      .tokens = whole(json, "measured_tokens", 1, int64_t(1) << 40),
      .layout = layout == name(Layout::HeadsMajor) ? Layout::HeadsMajor
                                                   : Layout::TokensMajor,
  };
  entry.date = json.value("date", "");
  entry.compiler = json.value("compiler", "");
  entry.clock = json.value("clock_mhz", 0);
  const Json &functions = json.at("functions");
  if (!functions.is_object())
    throw Error("functions is no object");
  for (auto &[name, function] : functions.items()) {
    if (name.empty() || name.find_first_of("\"\\ ,={}[]\n") != name.npos)
      throw Error(fmt::format("a function is called \"{}\"", name));
    TunedFunction tuned;
    tuned.milliseconds = function.at("ms").get<double>();
    tuned.before = function.at("heuristic_ms").get<double>();
    if (!(tuned.milliseconds >= 0 && tuned.before >= 0))
      throw Error(fmt::format("{} takes {} ms, and {} with the heuristic's", name,
                              tuned.milliseconds, tuned.before));
    for (const Json &sweep : function.at("sweeps"))
      tuned.sweeps.push_back(configurationFrom(sweep));
    entry.functions[name] = std::move(tuned);
  }
  return entry;
}

} // namespace

Table Table::parse(const std::string &text) {
  try {
    Json json = Json::parse(text);
    if (const Json &its = json.at("format"); its != format)
      throw Error(fmt::format("it has format {}, this version reads {}",
                              its.dump(), format));
    Table table;
    table.device = {json.at("device").get<std::string>(),
                    json.at("target").get<std::string>(),
                    json.value("isa", "")};
    const Json &entries = json.at("entries");
    if (!entries.is_array())
      throw Error("entries is no list");
    for (size_t i = 0; i < entries.size(); ++i)
      try {
        table.entries.push_back(entryFrom(entries[i]));
      } catch (const std::exception &error) {
        throw Error(fmt::format("entry {}: {}", i + 1, error.what()));
      }
    return table;
  } catch (const nlohmann::json::exception &failure) {
    throw Error(fmt::format("it is no table of configurations: {}",
                            failure.what()));
  }
}

std::string Table::json() const {
  Json json = {{"format", format},
               {"device", device.name},
               {"target", device.target}};
  if (!device.isa.empty())
    json["isa"] = device.isa;
  json["entries"] = Json::array();
  for (const Entry &entry : entries)
    json["entries"].push_back(toJson(entry));
  return json.dump(1) + "\n";
}

void Table::put(Entry entry) {
  for (Entry &old : entries)
    if (old.sameKey(entry)) {
      old = std::move(entry);
      return;
    }
  entries.push_back(std::move(entry));
}

std::string Table::fileName() const {
  std::string name;
  for (char c : device.name + (device.isa.empty() ? "" : " " + device.isa))
    if (std::isalnum(static_cast<unsigned char>(c)))
      name += char(std::tolower(static_cast<unsigned char>(c)));
    else if (!name.empty() && name.back() != '-')
      name += '-';
  while (!name.empty() && name.back() == '-')
    name.pop_back();
  return name + ".json";
}

std::string autotune::configurationText(const Configuration &configuration) {
  std::string text;
  for (auto &[field, value] : configuration)
    text += fmt::format("{}{} = {}", text.empty() ? "" : ", ", field,
                        isNumber(value) ? value : "\"" + value + "\"");
  return "{" + text + "}";
}

std::string autotune::configurationText(
    const std::map<std::string, TunedFunction> &functions, bool withBackward) {
  std::string text;
  for (auto &[name, function] : functions) {
    // Functions that are the heuristic's are left out: the same kernels then
    // have the same key.
    bool tuned = std::any_of(function.sweeps.begin(), function.sweeps.end(),
                             [](const Configuration &c) { return !c.empty(); });
    if (!tuned || (!withBackward && name != "mixer_forward"))
      continue;
    std::string sweeps;
    for (const Configuration &configuration : function.sweeps)
      sweeps += (sweeps.empty() ? "" : ", ") + configurationText(configuration);
    text += fmt::format("{}{} = [{}]", text.empty() ? "" : ", ", name, sweeps);
  }
  return text.empty() ? "" : "{" + text + "}";
}

//===----------------------------------------------------------------------===//
// The database
//===----------------------------------------------------------------------===//

namespace {

/// Reports once in a process.
void report(const std::string &about, const std::string &message) {
  static std::mutex mutex;
  static auto &reported = *new std::set<std::string>;
  std::lock_guard lock(mutex);
  if (reported.insert(about).second)
    std::fprintf(stderr, "flarec: %s\n", message.c_str());
}

int64_t number(const Configuration &configuration, const char *field,
               int64_t otherwise) {
  auto it = configuration.find(field);
  return it != configuration.end() && isNumber(it->second)
             ? std::max<int64_t>(1, std::stoll(it->second))
             : otherwise;
}

/// Work of all blocks, idle parts included, over what is asked for: heads of
/// the last group that are not there, and blocks of the last round of splits
/// (docs/artefact.md, section 2, has the rule for S).
double waste(const Configuration &c, const Shape &shape) {
  auto ceilDiv = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
  int64_t heads = number(c, "heads", 1), tile = number(c, "tile", 64);
  int64_t headGroups = ceilDiv(shape.heads, heads);
  int64_t units = std::max<int64_t>(1, ceilDiv(shape.tokens, tile));
  int64_t groups = headGroups * number(c, "row_groups", 1);
  int64_t splits =
      std::clamp<int64_t>(number(c, "blocks", 1) / groups, 1, units);
  double idleHeads = double(headGroups * heads) / double(shape.heads);
  double lastRound = double(ceilDiv(units, splits) * splits * tile) /
                     double(std::max<int64_t>(1, shape.tokens));
  return idleHeads * lastRound;
}

} // namespace

double autotune::expectedLoss(const Entry &entry, const Shape &shape) {
  double all = 0, wasted = 0;
  for (auto &[name, function] : entry.functions)
    for (const Configuration &configuration : function.sweeps) {
      double share =
          function.milliseconds / double(function.sweeps.size()) + 1e-9;
      all += share;
      wasted += share * waste(configuration, shape) /
                waste(configuration, entry.shape);
    }
  // What a configuration balances (prologue against splits, say) changes slowly
  // with the work: a tenth for each factor of two beyond the entry's range.
  auto [from, to] = tokenRange(entry.shape.tokens);
  double work = double(std::max<int64_t>(1, shape.tokens));
  double nearest = std::clamp(work, double(std::max<int64_t>(1, from)),
                              double(to));
  double loss = all > 0 ? std::max(0.0, wasted / all - 1) : 0;
  loss += 0.1 * std::abs(std::log2(work / nearest));
  if (entry.shape.layout != shape.layout)
    loss += 0.05;
  return loss;
}

Database::Database(const fs::path &directory, bool withShipped) {
  std::vector<fs::path> files;
  std::error_code failure;
  if (!directory.empty()) {
    for (fs::directory_iterator it(directory, failure), end;
         !failure && it != end; it.increment(failure))
      if (it->path().extension() == ".json" &&
          !isTemporary(it->path().filename().string()))
        files.push_back(it->path());
    if (failure && failure != std::errc::no_such_file_or_directory)
      report(directory.string(),
             fmt::format("tuned configurations in {} are not used: {}; check "
                         "FLAREC_TUNE_DIR",
                         directory.string(), failure.message()));
  }
  std::sort(files.begin(), files.end());
  for (const fs::path &file : files) {
    std::string problem;
    std::optional<std::string> text = readFile(file, problem);
    try {
      if (text)
        all.push_back(Table::parse(*text));
    } catch (const Error &error) {
      problem = error.what();
    }
    if (!problem.empty())
      report(file.string(),
             fmt::format("tuned configurations in {} are not used: {}; remove "
                         "the file, or tune again (flarec tune --help)",
                         file.string(), problem));
  }
  if (!withShipped)
    return;
  for (const ShippedTable &shipped : shippedTables())
    try {
      all.push_back(Table::parse(std::string(shipped.json)));
    } catch (const Error &error) {
      report(std::string(shipped.file),
             fmt::format("the table {} that flarec was built with is not used: "
                         "{}",
                         shipped.file, error.what()));
    }
}

fs::path Database::defaultDirectory() {
  auto variable = [](const char *name) {
    const char *value = std::getenv(name);
    return fs::path(value ? value : "");
  };
  if (fs::path given = variable("FLAREC_TUNE_DIR"); !given.empty())
    return given;
  if (fs::path xdg = variable("XDG_DATA_HOME"); xdg.is_absolute())
    return xdg / "flarec";
  if (fs::path home = variable("HOME"); home.is_absolute())
    return home / ".local" / "share" / "flarec";
  return {};
}

const Database &Database::process() {
  static const Database &database = *new Database(defaultDirectory());
  return database;
}

const Entry *Database::find(const Device &device, const Shape &shape) const {
  // A device that nobody has tuned is served by its kin: the same target, and
  // on the host the same instruction set.
  bool own = std::any_of(all.begin(), all.end(), [&](const Table &table) {
    return table.device == device;
  });
  const Entry *best = nullptr;
  double least = 0;
  for (const Table &table : all) {
    if (own ? table.device != device
            : table.device.target != device.target ||
                  table.device.isa != device.isa)
      continue;
    for (const Entry &entry : table.entries) {
      if (entry.shape.dtype != shape.dtype ||
          entry.shape.headDim != shape.headDim ||
          entry.shape.latents != shape.latents)
        continue;
      double loss = expectedLoss(entry, shape);
      if (!best || loss < least) {
        best = &entry;
        least = loss;
      }
    }
  }
  return best;
}

[[noreturn]] static void cannotKeep(const fs::path &directory, const std::string &why) {
  throw Error(fmt::format("the tuned configurations cannot be kept in {}: "
                          "{}; set FLAREC_TUNE_DIR to a directory that can "
                          "be written",
                          directory.string(), why));
}

void autotune::prepare(const fs::path &directory) {
  if (directory.empty())
    cannotKeep(directory, "there is no such place without HOME");
  std::error_code failure;
  fs::create_directories(directory, failure);
  if (failure)
    cannotKeep(directory, failure.message());
  if (access(directory.c_str(), W_OK))
    cannotKeep(directory, std::strerror(errno));
}

namespace {

/// Held until the end of the scope, however that is left.
class DirectoryLock {
public:
  explicit DirectoryLock(const fs::path &directory)
      : file(open((directory / ".lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC,
                  0666)) {
    if (file < 0)
      cannotKeep(directory, std::strerror(errno));
    flock(file, LOCK_EX);
  }
  ~DirectoryLock() { close(file); }
  DirectoryLock(const DirectoryLock &) = delete;
  DirectoryLock &operator=(const DirectoryLock &) = delete;

private:
  int file;
};

} // namespace

void autotune::record(const fs::path &directory, const Device &device,
                      Entry entry) {
  prepare(directory);
  Table table;
  table.device = device;
  fs::path path = directory / table.fileName();
  // Two tuners at once: neither may lose what the other has found.
  DirectoryLock lock(directory);
  std::string problem;
  std::optional<std::string> text = readFile(path, problem);
  try {
    if (text)
      table = Table::parse(*text);
  } catch (const Error &error) {
    // Tuning again is how a damaged file is mended; it may be another version's.
    fs::path kept = path;
    kept += ".replaced";
    std::error_code failure;
    fs::rename(path, kept, failure);
    if (failure)
      cannotKeep(directory, failure.message());
    report("mend " + path.string(),
           fmt::format("{} is replaced, and kept as {}: {}", path.string(),
                       kept.filename().string(), error.what()));
  }
  if (!text && !problem.empty())
    cannotKeep(directory, fmt::format("{}: {}", path.string(), problem));
  table.device = device;
  table.put(std::move(entry));
  if (auto refused = publishFile(path, table.json()))
    cannotKeep(directory, *refused);
}
