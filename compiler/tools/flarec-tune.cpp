// flarec tune: the fastest configurations for the machine at hand.
#include "files.h"
#include "flarec-tool.h"

#include "flarec/autotune/space.h"
#include "flarec/autotune/tuner.h"
#include "flarec/cuda_driver.h"
#include "flarec/description.h"
#include "flarec/error.h"

#include <fmt/format.h>

#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <unistd.h>

using namespace flarec;
using namespace flarec::tool;
using namespace flarec::autotune;

namespace {

constexpr const char *examples = R"(Examples:
  flarec tune --head-dim 8 --latents 128 --dtype bf16
      for the first GPU, else the host; H = 8, a million tokens (16384 on the host)
  flarec tune --head-dim 8 --latents 64 --dtype f32 --target host --tokens 16384 --budget 20s
  flarec tune --all --report report.html
      every configuration that FLARE's authors publish results for; what is tuned already is left
      out, so an interrupted run goes on where it was
  flarec tune --list
      what is tuned
  flarec tune --head-dim 8 --latents 128 --budget 90s --dry-run --record tried.json
      everything that was tried, predicted and measured, for a look at the model (bench/first16.py)
  flarec tune --head-dim 8 --latents 128 --target sm_90a --predict
      what the model would try first; needs no GPU

What is found is kept in $FLAREC_TUNE_DIR (or $XDG_DATA_HOME/flarec, or ~/.local/share/flarec), one file a
device, and used by every later call of a mixer of that head dim, latents and dtype. Nothing is ever
tuned by itself.)";

struct Options {
  int headDim = 0, latents = 0;
  int64_t heads = 8, tokens = 0;
  std::string dtype = "bf16", target = "native", budget = "10s", report, record;
  int device = 0, jobs = 0;
  bool all = false, again = false, missing = false, list = false, dry = false, predict = false;
};

/// "10s", "2m", "500ms" or plain seconds.
double secondsOf(const std::string &text) {
  double number = 0;
  auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
  std::string unit(end, text.data() + text.size());
  double factor = unit.empty() || unit == "s" ? 1 : unit == "m" || unit == "min" ? 60 : unit == "ms" ? 1e-3 : 0;
  if (failure != std::errc() || factor == 0 || !(number * factor >= 1) || number * factor > 86400)
    throw UsageError(fmt::format("--budget: '{}' is not supported; give seconds or minutes, from 1s to 1440m", text));
  return number * factor;
}

std::string describe(const Shape &s) {
  return fmt::format("H {}, D {}, M {}, N {}, {}", s.heads, s.headDim, s.latents, grouped(s.tokens), flarec::name(s.dtype));
}

/// One line that is written over, on a terminal; otherwise a line for each step and every few seconds.
class Line {
public:
  void show(const std::string &about, const TuneProgress &p) {
    bool newStep = p.step != step;
    if (terminal) {
      if (!newStep && p.seconds < shown + 0.1 && p.done != p.of)
        return;
      std::fprintf(stderr, "\r\033[K%s: %s %zu of %zu%s, %.0f s left", about.c_str(), p.step.c_str(), p.done, p.of,
                   p.done && p.rate > 0 ? fmt::format(", {:.1f} a second", p.rate).c_str() : "", p.left);
    } else if (newStep || p.seconds > shown + 5) {
      std::fprintf(stderr, "%s: %s, %zu of %zu, %.0f s left\n", about.c_str(), p.step.c_str(), p.done, p.of, p.left);
    } else {
      return;
    }
    std::fflush(stderr);
    step = p.step;
    shown = p.seconds;
  }
  ~Line() {
    if (terminal && !step.empty())
      std::fputs("\r\033[K", stderr);
  }

private:
  bool terminal = isatty(STDERR_FILENO);
  std::string step;
  double shown = 0;
};

/// The fields of b that differ from a's.
std::string changes(const Configuration &a, const Configuration &b) {
  std::string text;
  for (auto &[field, value] : b)
    if (auto it = a.find(field); it == a.end() || it->second != value)
      text += fmt::format("{}{} = {}", text.empty() ? "" : ", ", field, value);
  return text.empty() ? "as the heuristic has it" : text;
}

void print(const TuneResult &r) {
  fmt::print("{}{}: {}{}\n", r.device.name, r.device.isa.empty() ? "" : " (" + r.device.isa + ")", describe(r.entry.shape),
             r.entry.clock ? fmt::format(", at {} MHz", r.entry.clock) : "");
  fmt::print("  {:<28}{:>12}{:>12}{:>8}\n", "ms", "heuristic", "tuned", "");
  for (auto &[name, function] : r.entry.functions) {
    fmt::print("  {:<28}{:>12.4f}{:>12.4f}{:>7.2f}x\n", name, function.before, function.milliseconds,
               function.milliseconds > 0 ? function.before / function.milliseconds : 1);
    for (const SweepResult &sweep : r.sweeps) {
      if (sweep.facts.function != name)
        continue;
      const Candidate &before = sweep.candidates[0], &after = sweep.candidates[sweep.chosen];
      fmt::print("    {:<26}{:>12.4f}{:>12.4f}{:>7.2f}x  {}\n", fmt::format("sweep {}, rows {}", sweep.facts.index, after.configuration.at("rows")),
                 1e3 * before.measured, 1e3 * after.measured, after.measured > 0 ? before.measured / after.measured : 1,
                 changes(before.configuration, after.configuration));
    }
  }
  size_t combinations = 0, feasible = 0, measured = 0;
  for (const SweepResult &sweep : r.sweeps) {
    combinations += sweep.combinations;
    feasible += sweep.feasible;
    for (const Candidate &c : sweep.candidates)
      measured += c.measured > 0;
  }
  fmt::print("  {} combinations, {} can be run, {} measured, in {:.1f} s\n", grouped(int64_t(combinations)), grouped(int64_t(feasible)), grouped(int64_t(measured)), r.seconds);
}

void list() {
  const Database &database = Database::process();
  if (database.tables().empty())
    fmt::print("nothing is tuned yet; see flarec tune --help\n");
  for (const Table &table : database.tables()) {
    fmt::print("{}{}, {}\n", table.device.name, table.device.isa.empty() ? "" : " (" + table.device.isa + ")", table.device.target);
    for (const Entry &entry : table.entries) {
      std::string times;
      for (auto &[name, f] : entry.functions)
        times += fmt::format(", {} {:.3f} → {:.3f} ms", name, f.before, f.milliseconds);
      fmt::print("  {}, {}{}\n", describe(entry.shape), entry.date, times);
    }
  }
}

/// The model's favourites.
void print(const SweepResult &sweep) {
  fmt::print("  {}, sweep {}, rows {}: {} combinations, {} can be run\n", sweep.facts.function, sweep.facts.index, sweep.facts.heuristic.at("rows"),
             grouped(int64_t(sweep.combinations)), grouped(int64_t(sweep.feasible)));
  for (size_t i = 0; i < std::min<size_t>(9, sweep.candidates.size()); ++i) {
    const Candidate &c = sweep.candidates[i];
    std::string parts;
    for (auto &[name, seconds] : c.predicted.parts)
      parts += fmt::format("{}{} {:.4f}", parts.empty() ? "" : ", ", name, 1e3 * seconds);
    fmt::print("    {:>9.4f} ms ({})  {}\n", 1e3 * c.predicted.seconds, parts, changes(sweep.facts.heuristic, c.configuration));
  }
}

/// Is this tuned by this compiler, in the user's own table?
bool isTuned(const Device &device, const Shape &shape) {
  Database own(Database::defaultDirectory(), /*withShipped=*/false);
  Entry wanted;
  wanted.shape = shape;
  for (const Table &table : own.tables())
    if (table.device == device)
      for (const Entry &entry : table.entries)
        if (entry.sameKey(wanted) && entry.compiler == autotune::compilerName())
          return true;
  return false;
}

void tune(const Options &o) {
  if (o.list)
    return list();
  if (o.all == (o.headDim || o.latents))
    throw UsageError("give --head-dim and --latents of one mixer, or --all for the published ones");
  if (!o.all && (!o.headDim || !o.latents))
    throw UsageError("a mixer is described by --head-dim and --latents; give both, or --all");
  TuneOptions base{.target = resolveTarget(o.target), .cudaDevice = o.device, .budget = secondsOf(o.budget), .processes = o.jobs};
  std::vector<Published> shapes;
  if (o.all) {
    shapes = published();
  } else {
    int64_t tokens = o.tokens ? o.tokens : base.target == "host" ? 1 << 14 : 1 << 20;
    shapes.push_back({"", o.heads, o.headDim, o.latents, tokens, dtypeFrom(o.dtype)});
  }
  std::vector<TuneResult> results;
  auto cannotWrite = [](const std::string &what, const std::string &path, const std::string &why) {
    throw Error(fmt::format("cannot write the {} '{}': {}; give the name of a file that can be written", what, path, why));
  };
  // Whole or not at all, unless it is a pipe or the like.
  auto write = [&](const std::string &what, const std::string &path, const std::string &text) {
    if (std::error_code ignored; !std::filesystem::exists(path, ignored) || std::filesystem::is_regular_file(path, ignored)) {
      if (auto problem = publishFile(path, text))
        cannotWrite(what, path, *problem);
      return;
    }
    std::ofstream file(path, std::ios::binary);
    file << text;
    file.close();
    if (!file)
      cannotWrite(what, path, std::strerror(errno));
  };
  auto writeAll = [&] {
    if (!o.record.empty())
      write("record", o.record, autotune::records(results));
    if (!o.report.empty())
      write("report", o.report, autotune::report(results));
  };
  // What cannot be written is said before the work, not after it; what is there stays until then.
  for (auto &[what, path] : {std::pair<std::string, std::string>{"record", o.record}, {"report", o.report}})
    if (!path.empty()) {
      std::error_code ignored;
      bool isNew = !std::filesystem::exists(path, ignored);
      std::ofstream file(path, std::ios::app);
      if (!file)
        cannotWrite(what, path, std::strerror(errno));
      file.close();
      if (isNew)
        std::filesystem::remove(path, ignored);
    }
  if (!o.dry && !o.predict)
    prepare(Database::defaultDirectory());
  // Where it is not here, tune() says so.
  Device device;
  if (base.target == "host" || CudaDriver::available())
    device = deviceOf(base.target == "host" ? -1 : o.device);
  size_t failures = 0;
  for (size_t i = 0; i < shapes.size(); ++i) {
    const Published &p = shapes[i];
    Shape shape{.dtype = p.dtype, .headDim = p.headDim, .latents = p.latents, .heads = p.heads, .tokens = p.tokens};
    std::string about = describe(shape);
    if (o.all)
      about = fmt::format("{}/{} {}: {}", i + 1, shapes.size(), p.name, about);
    if ((o.missing || (o.all && !o.again)) && !o.predict && isTuned(device, shape)) {
      fmt::print("{}: tuned already\n", about);
      continue;
    }
    TuneOptions options = base;
    options.headDim = p.headDim;
    options.latents = p.latents;
    options.dtype = p.dtype;
    options.heads = p.heads;
    options.tokens = p.tokens;
    if (o.predict) {
      fmt::print("{}, {}\n", base.target, about);
      results.push_back(propose(options));
      for (const SweepResult &sweep : results.back().sweeps)
        print(sweep);
      continue;
    }
    auto line = std::make_unique<Line>();
    options.progress = [&](const TuneProgress &progress) { line->show(about, progress); };
    try {
      results.push_back(autotune::tune(options));
    } catch (const Error &error) {
      line.reset();
      if (!o.all)
        throw;
      std::fprintf(stderr, "flarec: %s: %s\n", about.c_str(), error.what());
      ++failures;
      continue;
    }
    line.reset();
    // At once: a run that is killed loses one shape.
    if (!o.dry)
      record(Database::defaultDirectory(), results.back().device, results.back().entry);
    print(results.back());
    std::fflush(stdout);
    if (o.all) // at once, as above
      writeAll();
  }
  writeAll();
  if (!o.report.empty())
    fmt::print("{}: {} shapes\n", o.report, results.size());
  if (failures)
    throw Error(fmt::format("{} of {} shapes could not be tuned; see above", failures, shapes.size()));
}

} // namespace

void tool::addTune(CLI::App &app) {
  CLI::App *sub = app.add_subcommand("tune", "Find the fastest configurations on this machine");
  sub->footer(examples);
  auto o = std::make_shared<Options>();
  sub->add_option("--head-dim", o->headDim, "Channels of a head (D): 1 to 128")->check(wholeNumber(1, maxHeadDim));
  sub->add_option("--latents", o->latents, "Latents of a head (M): 1 to 4096")->check(wholeNumber(1, maxLatents));
  sub->add_option("--dtype", o->dtype, "bf16, f16 or f32")->capture_default_str();
  sub->add_option("--heads", o->heads, "Heads (H)")->check(wholeNumber(1, 4096))->capture_default_str();
  sub->add_option("--tokens", o->tokens, "Tokens (N) at which to measure; what is found serves numbers near it. 1,048,576 without it, on the host 16,384")
      ->check(wholeNumber(1, int64_t(1) << 32));
  sub->add_option("--target", o->target, "host, sm_80, sm_90a, sm_100a, or native: the first GPU's, and the host's where there is none")
      ->check(CLI::Validator([](std::string &name) { return checkTargetName(name); }, "TARGET"))
      ->capture_default_str();
  sub->add_option("--device", o->device, "The GPU's number")->check(wholeNumber(0, 63))->capture_default_str();
  sub->add_option("--budget", o->budget, "Time for one shape: 10s, 2m; a few seconds go into asking the model and checking results, however little it is")->capture_default_str();
  sub->add_option("--jobs", o->jobs, "Processes that compile; one a processor without it")->check(wholeNumber(1, 1024));
  sub->add_flag("--all", o->all, "Every published configuration of FLARE, but for those that are tuned already");
  sub->add_flag("--again", o->again, "With --all: those too");
  sub->add_flag("--missing", o->missing, "Nothing for a mixer that this compiler has been tuned for already, as with --all");
  sub->add_flag("--dry-run", o->dry, "Measure and print, and keep nothing");
  sub->add_flag("--predict", o->predict, "Print what the model likes best, and measure nothing");
  sub->add_flag("--list", o->list, "Print what is tuned");
  sub->add_option("--report", o->report, "A page with plots of what this run has tuned: predicted against measured, roofline, what each knob is worth")->type_name("FILE.html");
  sub->add_option("--record", o->record, "All candidates of this run with what was predicted and measured, as JSON")->type_name("FILE.json");
  sub->callback([o] { tune(*o); });

  // The tuner's child processes.
  CLI::App *worker = app.add_subcommand("compile-worker", "Compilations for flarec tune");
  worker->group("");
  worker->callback([] { std::exit(autotune::compileWorker()); });
}
