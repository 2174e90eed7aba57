// flarec list-stages: the ladder for a target, and the passes between its
// rungs.
#include "flarec-tool.h"

#include "flarec/compiler.h"

#include <fmt/format.h>

#include <map>
#include <memory>
#include <sstream>

using namespace flarec;
using namespace flarec::tool;

namespace {

constexpr const char *examples = R"txt(Examples:
  flarec list-stages --target host
  flarec compile --head-dim 8 --latents 128 --target sm_90a --emit tile
      one stage's text
  flare-opt --pass-pipeline="$(flarec list-stages --target sm_90a --pipeline)" mixer.mlir
      the MLIR part by hand, on a file with flare functions)txt";

const std::map<std::string, const char *> meanings = {
    {"flare", "the mathematics on tensors, gradients derived"},
    {"sweeps", "what shares a pass over the tokens, each with a configuration"},
    {"tile", "one block's program on tiles, with layouts"},
    {"nvvm", "one lane's program, in MLIR's LLVM dialect"},
    {"vectors", "one block's program on vectors, in MLIR's LLVM dialect"},
    {"llvm", "LLVM IR, before LLVM's own passes"},
    {"ptx", "what the driver assembles"},
    {"asm", "x86-64 for AVX-512; the artefact also has AVX2 and baseline"},
};

void listStages(const std::string &name, const std::string &gradients,
                bool asPipeline) {
  std::string target = resolveTarget(name);
  std::string wanted = gradients == "*" ? "q,k,v" : gradients;
  std::unique_ptr<char, decltype(&flarec_free)> text(
      flarec_stages(target.c_str(), wanted.c_str()), flarec_free);
  std::istringstream lines(text ? text.get() : "");
  std::string pipeline;
  for (std::string line; std::getline(lines, line);) {
    std::string stage = line.substr(0, line.find('\t'));
    std::string passes = line.substr(stage.size() + 1);
    if (!passes.empty())
      pipeline += (pipeline.empty() ? "" : ",") + passes;
    if (asPipeline)
      continue;
    auto meaning = meanings.find(stage);
    fmt::print("{:8} {}\n", stage,
               meaning == meanings.end() ? "" : meaning->second);
    if (!passes.empty())
      fmt::print("         {}\n", passes);
  }
  if (asPipeline)
    fmt::print("builtin.module({})\n", pipeline);
}

} // namespace

void tool::addListStages(CLI::App &app) {
  CLI::App *sub = app.add_subcommand(
      "list-stages", "Name the stages for a target, and their passes");
  sub->footer(examples);
  struct Options {
    std::string target = "native", gradients = "*";
    bool pipeline = false;
  };
  auto o = std::make_shared<Options>();
  sub->add_option("--target", o->target,
                  "host, native, sm_80, sm_90a or sm_100a")
      ->check(CLI::Validator(
          [](std::string &name) { return checkTargetName(name); }, "TARGET"))
      ->capture_default_str();
  sub->add_option("--grad", o->gradients,
                  "Names of the inputs to differentiate with respect to; "
                  "empty: none")
      ->type_name("NAMES")
      ->capture_default_str();
  sub->add_flag("--pipeline", o->pipeline,
                "Print the MLIR part as one text for flare-opt");
  sub->callback([o] { listStages(o->target, o->gradients, o->pipeline); });
}
