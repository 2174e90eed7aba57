// flarec compile: a description, or a file of MLIR, to an artefact.
#include "flarec-tool.h"

#include "flarec/artefact.h"
#include "flarec/compiler.h"
#include "flarec/description.h"
#include "flarec/error.h"
#include "flarec/signature.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <mutex>
#include <sstream>
#include <thread>
#include <unistd.h>

using namespace flarec;
using namespace flarec::tool;
namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

namespace {

constexpr const char *examples = R"(Examples:
  flarec compile --head-dim 8 --latents 128 --dtype bf16 --target sm_90a --grad -o mixer.flare
  flarec compile --head-dim 8 --latents 64 --dtype f32 --target host --grad=q,v -o mixer.flare
      gradients of q and v only: what k's would need is not computed
  flarec compile attention.mlir --target sm_80 --grad -o attention.flare
      every function of the file, each with its backward

Looking inside, and putting a stage back after an edit:
  flarec compile --head-dim 8 --latents 128 --target sm_90a --emit ptx > mixer.ptx
  flarec compile --head-dim 8 --latents 128 --target sm_90a --dump-stages stages
  $EDITOR stages/3-tile.mlir
  flarec compile --head-dim 8 --latents 128 --target sm_90a --from-stage stages/3-tile.mlir -o mixer.flare
      with the description, the file serves as that mixer wherever it is loaded

A configuration of one's own; `--emit sweeps` prints the heuristic's, or what a --config makes of them:
  flarec compile --head-dim 8 --latents 128 --target sm_90a --time --report -o mixer.flare --config '#tile.config<rows = m, tile = 64, …>'
  flarec compile --head-dim 8 --latents 128 --target host -o mixer.flare --config '{mixer_forward = [{tile = 128}, {}]}'
      for each sweep its own: fields that differ from the heuristic's)";

struct Options {
  std::string source, dtype, gradients, target = "native", output;
  int headDim = 0, latents = 0;
  std::string emit, dumpStages, fromStage, config;
  bool tf32 = false, time = false, report = false, ragged = false, masked = false;

  bool hasMixer() const {
    return headDim || latents || !dtype.empty() || ragged || masked;
  }
};

/// Says that it still works, from the third second on.
class Progress {
public:
  explicit Progress(std::string what)
      : what(std::move(what)), thread([this] { run(); }) {}
  ~Progress() {
    {
      std::lock_guard lock(mutex);
      done = true;
    }
    wake.notify_one();
    thread.join();
  }

private:
  void run() {
    using namespace std::chrono_literals;
    auto start = std::chrono::steady_clock::now();
    bool terminal = isatty(STDERR_FILENO), shown = false;
    std::unique_lock lock(mutex);
    auto pause = 2000ms;
    while (!wake.wait_for(lock, pause, [this] { return done; })) {
      double seconds = std::chrono::duration<double>(
                           std::chrono::steady_clock::now() - start)
                           .count();
      std::fprintf(stderr, terminal ? "\r%s … %.0f s" : "%s … %.0f s\n",
                   what.c_str(), seconds);
      std::fflush(stderr);
      shown = true;
      pause = terminal ? 500ms : 10000ms;
    }
    if (terminal && shown)
      std::fputs("\r\033[K", stderr);
  }

  std::string what;
  std::mutex mutex;
  std::condition_variable wake;
  bool done = false;
  std::thread thread; // last: it uses the others
};

std::string readText(const std::string &path, const char *what) {
  std::error_code failure;
  if (fs::is_directory(path, failure))
    throw Error(fmt::format("cannot read {} '{}': it is a directory; give a "
                            "file",
                            what, path));
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  if (file)
    text << file.rdbuf();
  if (!file)
    throw Error(fmt::format("cannot read {} '{}': {}; check the path", what,
                            path, std::strerror(errno)));
  return text.str();
}

/// Before the compilation rather than after it.
void checkOutput(const std::string &path) {
  std::error_code ignored;
  fs::path folder = fs::path(path).parent_path();
  if (folder.empty())
    folder = ".";
  const char *problem = nullptr;
  if (fs::is_directory(path, ignored))
    problem = "it is a directory; give a file's name";
  else if (!fs::exists(folder, ignored))
    problem = "its directory does not exist; make it or choose another";
  else if (!fs::is_directory(folder, ignored))
    problem = "what should be its directory is a file; choose another path";
  else if (access(folder.c_str(), W_OK) != 0)
    problem = "its directory cannot be written; choose another, or change "
              "its permissions";
  if (problem)
    throw Error(
        fmt::format("cannot write the artefact '{}': {}", path, problem));
}

/// What --config says, or the file that it names.
std::string configuration(const Options &o) {
  if (!o.config.starts_with("@"))
    return o.config;
  std::string text = readText(o.config.substr(1), "the configuration");
  size_t end = text.find_last_not_of(" \n\r\t");
  if (end == text.npos)
    throw Error(fmt::format("the configuration '{}' is empty; it must be a "
                            "#tile.config<…>, or one for each sweep",
                            o.config.substr(1)));
  return text.substr(0, end + 1);
}

MixerDescription description(const Options &o, const std::string &target) {
  if (!o.headDim || !o.latents)
    throw UsageError("a mixer is described by --head-dim and --latents (and "
                     "--dtype, bf16 without it); give both, or a file.mlir");
  MixerDescription d{.headDim = o.headDim, .latents = o.latents};
  d.dtype = dtypeFrom(o.dtype.empty() ? "bf16" : o.dtype);
  d.target = target;
  d.configuration = configuration(o);
  d.tf32 = o.tf32;
  d.ragged = o.ragged;
  d.masked = o.masked;
  if (o.gradients == "*")
    d.gradients = "qkv";
  else
    for (char c : o.gradients) // "q,v" and "qv"
      if (c != ',')
        d.gradients += c;
  return d;
}

/// The canonical request, and beside it what does not belong to its key.
std::string makeRequest(const Options &o, const std::string &target) {
  Json json;
  bool late = o.fromStage.ends_with(".ll") || o.fromStage.ends_with(".ptx");
  if (o.hasMixer()) {
    json = Json::parse(request(description(o, target)));
  } else {
    if (o.source.empty() && o.fromStage.empty())
      throw UsageError("there is nothing to compile: give --head-dim and "
                       "--latents, or a file.mlir; `flarec compile --help` has "
                       "examples");
    if (o.source.empty() && late)
      throw UsageError(fmt::format(
          "'{}' is a stage of LLVM's, which does not say how kernels are "
          "launched; give the mixer's description or the file.mlir too",
          o.fromStage));
    std::string path = o.source.empty() ? o.fromStage : o.source;
    json = Json::parse(request(
        readText(path, o.source.empty() ? "the stage" : "the source"), target,
        "", o.tf32));
    json["config"] = configuration(o);
    if (!o.gradients.empty())
      json["gradients"] = o.gradients;
    json["source_name"] = path;
  }
  if (!o.emit.empty())
    json["emit"] = o.emit;
  if (!o.dumpStages.empty())
    json["dump_stages"] = o.dumpStages;
  if (!o.fromStage.empty())
    json["from_stage"] = o.fromStage;
  if (o.time)
    json["time"] = true;
  if (o.report)
    json["report"] = true;
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

void compile(const Options &o) {
  if (!o.source.empty() && o.hasMixer())
    throw UsageError("give either a file or --head-dim, --latents and --dtype, "
                     "not both");
  if (!o.emit.empty() && !o.output.empty())
    throw UsageError("--emit prints a stage and makes no artefact; leave out "
                     "-o, or use --dump-stages");
  if (o.emit.empty() && o.output.empty() && o.dumpStages.empty())
    throw UsageError("where should the artefact go? Give -o FILE, or --emit "
                     "STAGE or --dump-stages DIR to look at stages");
  std::string target = resolveTarget(o.target);
  std::string request = makeRequest(o, target);
  if (!o.output.empty())
    checkOutput(o.output);

  auto start = std::chrono::steady_clock::now();
  char *bytes = nullptr, *message = nullptr;
  size_t size = 0;
  int status;
  {
    Progress progress("compiling for " + target);
    status = flarec_compile(request.c_str(), &bytes, &size, &message);
  }
  std::unique_ptr<char, decltype(&flarec_free)> ownBytes(bytes, flarec_free),
      ownMessage(message, flarec_free);
  if (status != 0)
    throw Error(message ? message : "the compiler does not say why it failed");
  std::string_view result(bytes, size);
  if (!o.emit.empty()) {
    std::fwrite(result.data(), 1, result.size(), stdout);
    if (std::fflush(stdout) != 0)
      throw Error(
          fmt::format("cannot write to stdout: {}", std::strerror(errno)));
    return;
  }
  Artefact artefact = Artefact::parse(result);
  if (o.hasMixer() && !o.fromStage.empty())
    checkServes(artefact.manifest(), description(o, target));
  size_t kernels = 0;
  for (const FunctionSpec &function : artefact.manifest().functions)
    kernels += function.kernels.size();
  std::string what = fmt::format("{} functions, {} kernels, {} bytes for {}",
                                 artefact.manifest().functions.size(), kernels,
                                 grouped(int64_t(result.size())), target);
  if (!o.output.empty())
    artefact.write(o.output);
  double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
          .count();
  fmt::print("{}: {}, in {:.2f} s\n",
             o.output.empty() ? "stages in " + o.dumpStages : o.output, what,
             seconds);
}

} // namespace

void tool::addCompile(CLI::App &app) {
  CLI::App *sub = app.add_subcommand(
      "compile", "Compile a mixer, or functions of the flare dialect");
  sub->footer(examples);
  auto o = std::make_shared<Options>();
  sub->add_option("file", o->source,
                  "MLIR with functions of the flare dialect");
  sub->add_option("--head-dim", o->headDim,
                  "Channels of a head (D): 1 to 128")
      ->check(wholeNumber(1, maxHeadDim));
  sub->add_option("--latents", o->latents, "Latents of a head (M): 1 to 4096")
      ->check(wholeNumber(1, maxLatents));
  sub->add_option("--dtype", o->dtype,
                  "Type of q, k, v and y in memory: bf16 (without it), f16 or f32");
  sub->add_flag("--tf32", o->tf32,
                "f32 on a GPU: products in TF32, as where PyTorch's "
                "allow_tf32 is set");
  sub->add_flag("--ragged", o->ragged,
                "Each batch has a range of the tokens: lengths, or sequences "
                "one after the other");
  sub->add_flag("--masked", o->masked, "A mask says which tokens there are");
  sub->add_option("--target", o->target,
                  "host, sm_80, sm_90a, sm_100a, or native: the first GPU's, "
                  "and the host's where there is none")
      ->check(CLI::Validator(
          [](std::string &name) { return checkTargetName(name); }, "TARGET"))
      ->capture_default_str();
  sub->add_flag("--grad{*}", o->gradients,
                "Derive the backward too; --grad=q,v: for these inputs only")
      ->type_name("[=NAMES]");
  sub->add_option("-o,--output", o->output,
                  "The artefact; replaced in one step when all went well")
      ->type_name("FILE");
  sub->add_option("--config", o->config,
                  "Instead of the heuristic's: a #tile.config<…> for the sweeps "
                  "with the same `rows`, or {mixer_forward = [#tile.config<…>, "
                  "{heads = 4}], …}: one for each sweep, whole or as changes; "
                  "@FILE: what the file holds")
      ->type_name("ATTRIBUTE");
  sub->add_option("--emit", o->emit,
                  "Print one stage and stop; `flarec list-stages` names them")
      ->type_name("STAGE");
  sub->add_option("--dump-stages", o->dumpStages,
                  "Write every stage into this directory")
      ->type_name("DIR");
  sub->add_option("--from-stage", o->fromStage,
                  "A stage's file, as --dump-stages names it and perhaps "
                  "edited, in the place of that stage")
      ->type_name("FILE");
  sub->add_flag("--time", o->time, "Where the time went, on stderr");
  sub->add_flag("--report", o->report,
                "Registers and spills of each kernel, on stderr (needs ptxas: "
                "on PATH or in $FLAREC_PTXAS)");
  sub->callback([o] { compile(*o); });
}
