#include "support.h"
#include "passes/Passes.h"
#include "tile/Tile.h"
#include "mlir/Parser/Parser.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Pass/PassRegistry.h"
#include "mlir/Transforms/Passes.h"
#include "llvm/Support/raw_ostream.h"
#include <cmath>
#include <limits>

using namespace mlir;

namespace flarec::test {

MLIRContext &context() {
  static MLIRContext *c = [] {
    registerFlarecPasses();
    registerTransformsPasses();
    auto *c = new MLIRContext(MLIRContext::Threading::DISABLED);
    c->loadDialect<flare::FlareDialect, tile::TileDialect, func::FuncDialect, arith::ArithDialect>();
    return c;
  }();
  return *c;
}

Program::Program(const std::string &text) : module(parseSourceString<ModuleOp>(text, &context())) {
  EXPECT_TRUE(module) << text;
}

bool Program::tries(const std::string &passes) {
  PassManager pm(&context(), ModuleOp::getOperationName());
  std::string messages;
  llvm::raw_string_ostream stream(messages);
  if (failed(parsePassPipeline(passes, pm, stream))) {
    ADD_FAILURE() << passes << ": " << messages;
    return false;
  }
  return succeeded(pm.run(*module));
}

bool Program::run(const std::string &passes) {
  bool good = tries(passes);
  EXPECT_TRUE(good) << passes << " failed";
  return good;
}

func::FuncOp Program::function(const std::string &name) { return module->lookupSymbol<func::FuncOp>(name); }

Program Program::clone() { return Program(OwningOpRef<ModuleOp>(module->clone())); }

std::string Program::text() {
  std::string s;
  llvm::raw_string_ostream(s) << *module;
  return s;
}

static std::string argumentName(func::FuncOp f, unsigned i) {
  auto a = f.getArgAttrOfType<StringAttr>(i, "flare.name");
  return a ? a.str() : "arg" + std::to_string(i);
}

static std::string resultName(func::FuncOp f, unsigned i) {
  auto a = f.getResultAttrOfType<StringAttr>(i, "flare.name");
  return a ? a.str() : "result" + std::to_string(i);
}

Named Program::evaluate(const std::string &name, const Named &values, const EvaluatorOptions &options) {
  func::FuncOp f = function(name);
  EXPECT_TRUE(f) << "no function @" << name;
  std::vector<Array> arguments;
  for (unsigned i = 0; i < f.getNumArguments(); ++i) {
    auto it = values.find(argumentName(f, i));
    EXPECT_NE(it, values.end()) << "no value for argument " << argumentName(f, i) << " of @" << name;
    if (it == values.end())
      return {};
    arguments.push_back(it->second);
  }
  auto results = flarec::evaluate(f, arguments, options);
  EXPECT_TRUE(succeeded(results)) << text();
  Named r;
  if (succeeded(results))
    for (unsigned i = 0; i < f.getNumResults(); ++i)
      r[resultName(f, i)] = (*results)[i];
  return r;
}

Array randomLike(const Array &a, std::mt19937 &rng, double deviation) {
  std::normal_distribution<double> normal(0, deviation);
  Array r = a;
  for (double &v : r.data)
    v = normal(rng);
  return r;
}

Named randomArguments(func::FuncOp f, const Sizes &sizes, std::mt19937 &rng, double deviation) {
  Named r;
  for (BlockArgument v : f.getArguments()) {
    Array a = Array::number(0.7);
    if (auto t = dyn_cast<flare::FlareTensorType>(v.getType())) {
      if (t.isRange() || t.isMask()) {
        a.shape = {sizes.batches, 1, t.isRange() ? 2 : sizes.tokens};
        a.data.clear();
        for (int64_t i = 0; i < Array::size(a.shape); ++i)
          a.data.push_back(t.isRange() ? (i % 2 ? sizes.tokens - i / 2 % 2 : sizes.tokens / 2) : i * 7 % 3 != 0);
        r[argumentName(f, v.getArgNumber())] = a;
        continue;
      }
      a.shape = {sizes.sharedLatents && !t.getTokens() ? 1 : sizes.batches, sizes.heads};
      if (t.getTokens())
        a.shape.push_back(sizes.tokens);
      if (t.getLatents())
        a.shape.push_back(t.getLatents());
      if (t.getChannels())
        a.shape.push_back(t.getChannels());
      a.data.resize(Array::size(a.shape));
      a = randomLike(a, rng, deviation);
    }
    r[argumentName(f, v.getArgNumber())] = a;
  }
  return r;
}

double difference(const Array &a, const Array &b) {
  double worst = 0, size = 0;
  if (a.shape != b.shape || a.data.size() != b.data.size())
    return std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < a.data.size(); ++i) {
    if (a.data[i] == b.data[i] || (std::isnan(a.data[i]) && std::isnan(b.data[i])))
      continue;
    if (!std::isfinite(a.data[i]) || !std::isfinite(b.data[i]))
      return std::numeric_limits<double>::infinity();
    worst = std::max(worst, std::abs(a.data[i] - b.data[i]));
    size = std::max(size, std::abs(b.data[i]));
  }
  return worst / (1 + size);
}

Named backwardArguments(Program &p, const std::string &name, const Named &arguments, std::mt19937 &rng) {
  Named values = arguments;
  for (auto &[n, a] : p.evaluate(name + "_forward", arguments)) {
    values[n] = a;
    values["grad_" + n] = randomLike(a, rng);
  }
  return values;
}

Program checkGradients(Program program, const std::string &name, const Named &arguments, std::mt19937 &rng,
                       const std::string &wanted) {
  Program source = program.clone();
  func::FuncOp f = source.function(name);
  if (!program.run("flare-differentiate{wanted=" + wanted + "}"))
    return program;

  // The forward returns what the function returned, first.
  func::FuncOp forward = program.function(name + "_forward");
  auto original = flarec::evaluate(f, [&] {
    std::vector<Array> v;
    for (unsigned i = 0; i < f.getNumArguments(); ++i)
      v.push_back(arguments.at(argumentName(f, i)));
    return v;
  }());
  if (failed(original)) {
    ADD_FAILURE();
    return program;
  }
  Named values = backwardArguments(program, name, arguments, rng);
  for (size_t i = 0; i < original->size(); ++i)
    EXPECT_EQ(difference(values[resultName(forward, i)], (*original)[i]), 0) << "result " << i << " of @" << name << "_forward";

  Named gradients = program.evaluate(name + "_backward", values);
  // L = Σ over results of ⟨grad_result, result⟩, along a direction in one argument.
  auto loss = [&](const Named &at) {
    std::vector<Array> v;
    for (unsigned i = 0; i < f.getNumArguments(); ++i)
      v.push_back(at.at(argumentName(f, i)));
    auto results = *flarec::evaluate(f, v);
    double sum = 0;
    for (size_t i = 0; i < results.size(); ++i) {
      const Array &g = values["grad_" + resultName(forward, i)];
      for (size_t j = 0; j < g.data.size(); ++j)
        sum += g.data[j] * results[i].data[j];
    }
    return sum;
  };
  unsigned checked = 0;
  for (unsigned i = 0; i < f.getNumArguments(); ++i) {
    std::string argument = argumentName(f, i);
    auto it = gradients.find("grad_" + argument);
    if (it == gradients.end())
      continue;
    ++checked;
    const Array &x = arguments.at(argument);
    Array g = it->second;
    if (g.shape != x.shape && x.shape[0] == 1)
      g = sumOverBatch(g);
    EXPECT_EQ(g.shape, x.shape) << "gradient of " << argument;
    if (g.shape != x.shape)
      continue;
    for (int trial = 0; trial < 3; ++trial) {
      Array direction = randomLike(x, rng);
      double expected = 0, size = 0;
      for (size_t j = 0; j < x.data.size(); ++j) {
        expected += g.data[j] * direction.data[j];
        size += std::abs(g.data[j] * direction.data[j]);
      }
      // Richardson: the error of central differences is h²; two steps make it h⁴.
      auto slope = [&](double h) {
        Named forth = arguments, back = arguments;
        for (size_t j = 0; j < x.data.size(); ++j) {
          forth[argument].data[j] += h * direction.data[j];
          back[argument].data[j] -= h * direction.data[j];
        }
        return (loss(forth) - loss(back)) / (2 * h);
      };
      double found = (4 * slope(5e-4) - slope(1e-3)) / 3;
      EXPECT_NEAR(found, expected, 1e-7 * (1 + size)) << "gradient of " << argument << " in\n" << source.text() << program.text();
    }
  }
  EXPECT_GT(checked, 0u);
  return program;
}

static std::string tensor(const std::string &indices, const std::string &type) { return "!flare.tensor<" + indices + ", " + type + ">"; }

std::string mixer(int latents, int channels, const std::string &type) {
  std::string d = "d=" + std::to_string(channels), m = "m=" + std::to_string(latents);
  std::string q = tensor(m + ", " + d, type), n = tensor("n, " + d, type), z = tensor(m + ", " + d, "f32");
  std::string lm = tensor(m, "f32"), ln = tensor("n", "f32");
  return "func.func @mixer(%q: " + q + " {flare.name = \"q\"}, %k: " + n + " {flare.name = \"k\"}, %v: " + n +
         " {flare.name = \"v\"}, %s: f32 {flare.name = \"scale\"}) -> " + n +
         " {\n  %z, %le = flare.encode %q, %k, %v scale %s : " + q + ", " + n + ", " + n + " -> " + z + ", " + lm +
         "\n  %y, %ld = flare.decode %k, %q, %z scale %s : " + n + ", " + q + ", " + z + " -> " + n + ", " + ln +
         "\n  return %y : " + n + "\n}\n";
}

std::string mixerOfPresent(int latents, int channels, const std::string &type, bool range, bool mask) {
  std::string text = mixer(latents, channels, type), at = ", %s: f32";
  std::string arguments = std::string(range ? ", %range: !flare.tensor<d=2, i32> {flare.name = \"range\"}" : "") +
                          (mask ? ", %mask: !flare.tensor<n, i8> {flare.name = \"mask\"}" : "");
  return text.insert(text.find(at), arguments);
}

std::string encodeAlone(int latents, int channels, const std::string &type) {
  std::string d = "d=" + std::to_string(channels), m = "m=" + std::to_string(latents);
  std::string q = tensor(m + ", " + d, type), n = tensor("n, " + d, type), z = tensor(m + ", " + d, "f32");
  return "func.func @encode(%q: " + q + " {flare.name = \"q\"}, %k: " + n + " {flare.name = \"k\"}, %v: " + n +
         " {flare.name = \"v\"}, %s: f32 {flare.name = \"scale\"}) -> " + z +
         " {\n  %z, %l = flare.encode %q, %k, %v scale %s : " + q + ", " + n + ", " + n + " -> " + z + ", " + tensor(m, "f32") +
         "\n  return %z : " + z + "\n}\n";
}

std::string decodeAlone(int latents, int channels, const std::string &type) {
  std::string d = "d=" + std::to_string(channels), m = "m=" + std::to_string(latents);
  std::string q = tensor(m + ", " + d, type), n = tensor("n, " + d, type), z = tensor(m + ", " + d, type);
  return "func.func @decode(%k: " + n + " {flare.name = \"k\"}, %q: " + q + " {flare.name = \"q\"}, %z: " + z +
         " {flare.name = \"z\"}, %s: f32 {flare.name = \"scale\"}) -> " + n +
         " {\n  %y, %l = flare.decode %k, %q, %z scale %s : " + n + ", " + q + ", " + z + " -> " + n + ", " + tensor("n", "f32") +
         "\n  return %y : " + n + "\n}\n";
}

} // namespace flarec::test
