// Manifest to and from JSON. Everything that a launch relies on is checked
// here, once, so that no launch checks it again.
#include "flarec/manifest.h"

#include "flarec/artefact.h"
#include "flarec/error.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <limits>

using namespace flarec;
using Json = nlohmann::ordered_json;

namespace {

template <typename T> using Names = std::vector<std::pair<const char *, T>>;

const Names<DType> types = {
    {"f32", DType::F32}, {"bf16", DType::BF16}, {"f16", DType::F16},
    {"i32", DType::I32}, {"i8", DType::I8}};
const Names<CodeKind> codeKinds = {
    {"ptx", CodeKind::Ptx}, {"cubin", CodeKind::Cubin}, {"elf", CodeKind::Elf}};
const Names<Isa> isas = {
    {"baseline", Isa::Baseline}, {"avx2", Isa::Avx2}, {"avx512", Isa::Avx512}};
const Names<Role> roles = {{"input", Role::Input},
                           {"result", Role::Result},
                           {"workspace", Role::Workspace}};
const Names<Index> indices = {
    {"n", Index::Tokens}, {"m", Index::Latents}, {"b", Index::Batch}};
const Names<Grid> grids = {{"sweep", Grid::Sweep}, {"latents", Grid::Latents}};

template <typename T> const char *nameOf(const Names<T> &names, T value) {
  for (auto &[name, candidate] : names)
    if (candidate == value)
      return name;
  return "";
}

constexpr int64_t any = std::numeric_limits<int64_t>::max();

/// A JSON value with its path, so that a message says where the fault is.
class Node {
public:
  Node(const Json &json, std::string path)
      : json(json), path(std::move(path)) {}

  [[noreturn]] void fail(std::string_view what) const {
    throw Error(fmt::format("the artefact is damaged: its manifest is wrong at "
                            "{}: {}; copy or compile it again",
                            path.empty() ? "its root" : path, what));
  }

  bool has(const char *name) const {
    return json.is_object() && json.contains(name);
  }

  Node operator[](const char *name) const {
    if (!json.is_object())
      fail("an object is expected");
    if (!has(name))
      fail(fmt::format("\"{}\" is missing", name));
    return Node(json[name], path.empty() ? name : path + "." + name);
  }

  std::string string() const {
    if (!json.is_string())
      fail("a string is expected");
    return json.get<std::string>();
  }

  std::string symbol() const {
    std::string text = string();
    if (text.empty())
      fail("a name is expected");
    return text;
  }

  bool boolean() const {
    if (!json.is_boolean())
      fail("true or false is expected");
    return json.get<bool>();
  }

  int64_t integer(int64_t least, int64_t most) const {
    bool fits =
        json.is_number_integer() &&
        !(json.is_number_unsigned() && json.get<uint64_t>() > uint64_t(any));
    if (!fits || json.get<int64_t>() < least || json.get<int64_t>() > most)
      fail(most == any
               ? fmt::format("an integer of at least {} is expected", least)
               : fmt::format("an integer from {} to {} is expected", least,
                             most));
    return json.get<int64_t>();
  }

  template <typename T> T oneOf(const Names<T> &names) const {
    std::string given = string(), allowed;
    for (auto &[name, value] : names) {
      if (given == name)
        return value;
      allowed += allowed.empty() ? name : fmt::format(", {}", name);
    }
    fail(fmt::format("\"{}\" is none of {}", given, allowed));
  }

  template <typename Fn> auto list(Fn element) const {
    if (!json.is_array())
      fail("a list is expected");
    std::vector<decltype(element(*this))> elements;
    for (size_t i = 0; i < json.size(); ++i)
      elements.push_back(
          element(Node(json[i], fmt::format("{}[{}]", path, i))));
    return elements;
  }

private:
  const Json &json;
  std::string path;
};

CodeSpec parseCode(const Node &node) {
  CodeSpec code;
  code.kind = node["kind"].oneOf(codeKinds);
  if (code.kind == CodeKind::Elf)
    code.isa = node["isa"].oneOf(isas);
  code.offset = uint64_t(node["offset"].integer(0, any));
  code.size = uint64_t(node["size"].integer(1, any));
  return code;
}

TensorSpec parseTensor(const Node &node) {
  TensorSpec tensor;
  tensor.name = node["name"].symbol();
  tensor.role = node["role"].oneOf(roles);
  tensor.index = node["index"].oneOf(indices);
  tensor.rows = tensor.index == Index::Tokens ? node["rows"].integer(-1, -1)
                                              : node["rows"].integer(1, any);
  tensor.columns = node["columns"].integer(0, any);
  tensor.type = node["type"].oneOf(types);
  bool integers = tensor.type == DType::I32 || tensor.type == DType::I8;
  if ((integers || tensor.index == Index::Batch) && tensor.role != Role::Input)
    node.fail("integers and what belongs to the batch alone are inputs");
  if (node.has("sweep")) {
    if (tensor.role != Role::Workspace)
      node.fail("only workspace tensors have a sweep");
    tensor.sweep = int(node["sweep"].integer(0, 255));
  }
  if (node.has("reduced"))
    tensor.reduced = node["reduced"].boolean();
  if (tensor.reduced &&
      (tensor.role != Role::Result || tensor.index != Index::Latents))
    node.fail("only results over latents can be reduced");
  return tensor;
}

SweepSpec parseSweep(const Node &node) {
  return {node["tile"].integer(1, any), node["heads"].integer(1, any),
          node["row_groups"].integer(1, any), node["blocks"].integer(1, any)};
}

/// What partial results each sweep has.
void countPartials(FunctionSpec &function) {
  for (const TensorSpec &tensor : function.tensors)
    if (tensor.role == Role::Workspace && tensor.sweep >= 0)
      function.sweeps[size_t(tensor.sweep)].partialBytes +=
          tensor.rows * std::max<int64_t>(1, tensor.columns) *
          byteSize(tensor.type);
  int64_t sharers = std::count_if(
      function.sweeps.begin(), function.sweeps.end(),
      [](const SweepSpec &sweep) { return sweep.partialBytes > 0; });
  for (SweepSpec &sweep : function.sweeps)
    sweep.partialBytes *= sharers;
}

VariantSpec parseVariant(const Node &node, size_t tensors, size_t blobs) {
  VariantSpec variant;
  variant.symbol = node["symbol"].symbol();
  variant.alignment = node["alignment"].integer(0, 1 << 20);
  variant.tensors = node["tensors"].list([&](const Node &index) {
    return int(index.integer(0, int64_t(tensors) - 1));
  });
  if (node.has("code"))
    variant.code = int(node["code"].integer(0, int64_t(blobs) - 1));
  return variant;
}

KernelSpec parseKernel(const Node &node, const FunctionSpec &function,
                       const Manifest &manifest) {
  KernelSpec kernel;
  kernel.symbol = node["symbol"].symbol();
  kernel.grid = node["grid"].oneOf(grids);
  if (kernel.grid == Grid::Sweep)
    kernel.sweep =
        int(node["sweep"].integer(0, int64_t(function.sweeps.size()) - 1));
  else
    kernel.blocksPerHead = node["blocks_per_head"].integer(1, any);
  // 1024 is what every GPU so far allows in a block.
  kernel.threads =
      int(node["threads"].integer(1, manifest.isHost() ? 1 << 20 : 1024));
  kernel.shared = node["shared"].integer(0, 1 << 30);
  kernel.code = int(node["code"].integer(0, int64_t(manifest.code.size()) - 1));
  kernel.variants = node["variants"].list([&](const Node &variant) {
    return parseVariant(variant, function.tensors.size(),
                        manifest.code.size());
  });
  return kernel;
}

FunctionSpec parseFunction(const Node &node, const Manifest &manifest) {
  FunctionSpec function;
  function.name = node["name"].symbol();
  function.tensors = node["tensors"].list(parseTensor);
  function.scalars = node["scalars"].list([](const Node &scalar) {
    if (scalar["type"].string() != "f32")
      scalar.fail("scalars are f32");
    return ScalarSpec{scalar["name"].symbol()};
  });
  function.sweeps = node["sweeps"].list(parseSweep);
  for (size_t i = 0; i < function.tensors.size(); ++i) {
    const TensorSpec &tensor = function.tensors[i];
    if (i && tensor.role < function.tensors[i - 1].role)
      node["tensors"].fail("inputs come first, then results, then workspace");
    if (tensor.sweep >= int(function.sweeps.size()))
      node["tensors"].fail(fmt::format("{} belongs to sweep {} of {}",
                                       tensor.name, tensor.sweep,
                                       function.sweeps.size()));
  }
  countPartials(function);
  // 512 slots of 8 bytes are the 4 KiB of kernel parameters that every driver
  // takes.
  if (4 * function.tensors.size() + 4 + function.sweeps.size() +
          function.scalars.size() >
      512)
    node.fail("the kernels' parameters take more than 512 slots");
  function.kernels = node["kernels"].list([&](const Node &kernel) {
    return parseKernel(kernel, function, manifest);
  });
  return function;
}

} // namespace

std::string_view flarec::name(DType type) { return nameOf(types, type); }

std::string flarec::describe(const TensorSpec &tensor) {
  std::string rows = tensor.index == Index::Tokens  ? "n"
                     : tensor.index == Index::Batch ? "b"
                                                    : fmt::format("m={}", tensor.rows);
  std::string columns =
      tensor.columns ? fmt::format(", d={}", tensor.columns) : "";
  return fmt::format("{}<{}{}, {}>{}", tensor.name, rows, columns,
                     name(tensor.type),
                     tensor.reduced ? " (summed over the batch)" : "");
}

size_t FunctionSpec::argumentCount() const {
  size_t count = 0;
  for (const TensorSpec &tensor : tensors)
    count += tensor.role != Role::Workspace;
  return count;
}

Manifest Manifest::parse(std::string_view text) {
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded())
    throw Error("the artefact is damaged: its manifest is not JSON; copy or "
                "compile it again");
  Node root(json, "");
  root["format"].integer(Artefact::format, Artefact::format);

  Manifest manifest;
  manifest.compiler = root["compiler"].string();
  manifest.key = root["key"].string();
  manifest.target = root["target"].symbol();
  manifest.code = root["code"].list(parseCode);
  for (const CodeSpec &code : manifest.code)
    if ((code.kind == CodeKind::Elf) != manifest.isHost())
      root["code"].fail(
          "target host has elf blobs and other targets have none");
  manifest.functions = root["functions"].list(
      [&](const Node &node) { return parseFunction(node, manifest); });
  if (manifest.functions.empty())
    root["functions"].fail("there is none");
  return manifest;
}

std::string Manifest::json() const {
  Json root = {{"format", Artefact::format},
               {"compiler", compiler},
               {"key", key},
               {"target", target},
               {"code", Json::array()},
               {"functions", Json::array()}};
  for (const CodeSpec &code : this->code) {
    Json &node = root["code"].emplace_back();
    node["kind"] = nameOf(codeKinds, code.kind);
    if (code.kind == CodeKind::Elf)
      node["isa"] = nameOf(isas, code.isa);
    node["offset"] = code.offset;
    node["size"] = code.size;
  }
  for (const FunctionSpec &function : functions) {
    Json tensors = Json::array(), scalars = Json::array();
    Json sweeps = Json::array(), kernels = Json::array();
    for (const TensorSpec &tensor : function.tensors) {
      Json &node =
          tensors.emplace_back(Json{{"name", tensor.name},
                                    {"role", nameOf(roles, tensor.role)},
                                    {"index", nameOf(indices, tensor.index)},
                                    {"rows", tensor.rows},
                                    {"columns", tensor.columns},
                                    {"type", nameOf(types, tensor.type)}});
      if (tensor.sweep >= 0)
        node["sweep"] = tensor.sweep;
      if (tensor.reduced)
        node["reduced"] = true;
    }
    for (const ScalarSpec &scalar : function.scalars)
      scalars.push_back({{"name", scalar.name}, {"type", "f32"}});
    for (const SweepSpec &sweep : function.sweeps)
      sweeps.push_back({{"tile", sweep.tile},
                        {"heads", sweep.heads},
                        {"row_groups", sweep.rowGroups},
                        {"blocks", sweep.blocks}});
    for (const KernelSpec &kernel : function.kernels) {
      Json &node = kernels.emplace_back(Json{
          {"symbol", kernel.symbol}, {"grid", nameOf(grids, kernel.grid)}});
      if (kernel.grid == Grid::Sweep)
        node["sweep"] = kernel.sweep;
      else
        node["blocks_per_head"] = kernel.blocksPerHead;
      node["threads"] = kernel.threads;
      node["shared"] = kernel.shared;
      node["code"] = kernel.code;
      node["variants"] = Json::array();
      for (const VariantSpec &variant : kernel.variants) {
        Json &form = node["variants"].emplace_back(
            Json{{"symbol", variant.symbol},
                 {"alignment", variant.alignment},
                 {"tensors", variant.tensors}});
        if (variant.code >= 0)
          form["code"] = variant.code;
      }
    }
    root["functions"].push_back({{"name", function.name},
                                 {"tensors", std::move(tensors)},
                                 {"scalars", std::move(scalars)},
                                 {"sweeps", std::move(sweeps)},
                                 {"kernels", std::move(kernels)}});
  }
  // Names come from files: text that is not UTF-8 must not throw here.
  return root.dump(-1, ' ', false, Json::error_handler_t::replace);
}
