#include "flarec/autotune/tuner.h"

#include "flarec/autotune/space.h"
#include "flarec/compiler_client.h"
#include "flarec/cuda_driver.h"
#include "flarec/device.h"
#include "flarec/error.h"
#include "flarec/host_code.h"
#include "flarec/version.h"
#include "measure.h"
#include "workers.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <future>
#include <iterator>
#include <set>
#include <thread>
#include <unistd.h>

using namespace flarec;
using namespace flarec::autotune;
namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

const std::vector<Published> &autotune::published() {
  static const std::vector<Published> list = [] {
    std::vector<Published> all;
    // arXiv 2508.12594 and its code: the PDE benchmarks train in f32, the
    // surface with a million points in 16 bits.
    struct Row {
      const char *name;
      int64_t heads;
      int headDim, latents;
      int64_t tokens;
    };
    for (const Row &r : {Row{"Elasticity", 8, 8, 64, 972},
                         {"Darcy", 16, 4, 256, 7225},
                         {"Airfoil", 8, 8, 256, 11271},
                         {"Pipe", 8, 8, 128, 16641},
                         {"DrivAerML-40k", 8, 8, 256, 40000},
                         {"LPBF", 8, 8, 128, 50000}})
      for (DType type : {DType::F32, DType::BF16})
        all.push_back({r.name, r.heads, r.headDim, r.latents, r.tokens, type});
    for (int latents : {128, 512, 1024, 2048})
      for (DType type : {DType::BF16, DType::F16})
        all.push_back({"DrivAerML-1M", 8, 8, latents, 1 << 20, type});
    return all;
  }();
  return list;
}

std::string autotune::compilerName() {
  std::string build = CompilerClient::process().build();
  return std::string(version()) + (build.empty() ? "" : " " + build.substr(0, 12));
}

namespace {

using Clock = std::chrono::steady_clock;

double secondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double median(std::vector<double> values) {
  if (values.empty())
    return 0;
  auto middle = values.begin() + ptrdiff_t(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// A directory of our own, removed with its contents.
class Scratch {
public:
  Scratch() {
    std::string pattern = (fs::temp_directory_path() / "flarec-tune-XXXXXX").string();
    if (!mkdtemp(pattern.data()))
      throw Error(fmt::format("cannot make a directory for candidates in {}; "
                              "set TMPDIR to one that can be written",
                              fs::temp_directory_path().string()));
    path = pattern;
  }
  ~Scratch() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
  fs::path path;
};

/// A candidate's artefact, ready to run: with a candidate for every sweep.
struct Build {
  std::shared_ptr<Module> module;
  std::map<std::string, Buffer> workspaces; // by function
};

/// The errors of the heuristic's kernels, and bounds for everyone's.
struct Check {
  Data data;
  Results truth, yardstick;
  std::unique_ptr<Tensors> tensors;
  std::map<std::string, Difference> heuristic;
  double ratio; // to the yardstick's rms
};

class Tuning {
public:
  Tuning(const TuneOptions &options, bool measures) : options(options) {
    bool host = options.target == "host";
    cudaDevice = host || !CudaDriver::available() ? -1 : options.cudaDevice;
    if (!host && measures) {
      if (!CudaDriver::available())
        throw Error(fmt::format("{} cannot be tuned here: {}", options.target,
                                CudaDriver::whyUnavailable()));
      checkTarget(options.target, cudaDevice);
    }
    description = {.headDim = options.headDim,
                   .latents = options.latents,
                   .dtype = options.dtype,
                   .gradients = "qkv",
                   .target = options.target};
    shape = {.dtype = options.dtype,
             .headDim = options.headDim,
             .latents = options.latents,
             .heads = options.heads,
             .tokens = options.tokens ? options.tokens : host ? 1 << 14 : 1 << 20,
             .layout = Layout::TokensMajor};
    program = options.program.empty() ? "/proc/self/exe" : options.program;
    processes = options.processes ? options.processes
                                  : int(std::max(1u, std::thread::hardware_concurrency()));
    if (host || cudaDevice >= 0)
      result.device = deviceOf(cudaDevice);
    result.machine = machineOf(options.target, cudaDevice);
  }

  TuneResult run() {
    // What needs no compiler meanwhile.
    auto references = std::async(std::launch::async, [this] { prepareReferences(); });
    rank();
    say("reference in fp64", 0, 1, Clock::now());
    bench = benchOf(cudaDevice);
    references.get();
    prepareTensors();
    compileAndCheck();
    measure();
    conclude();
    result.seconds = secondsSince(start);
    return std::move(result);
  }

  TuneResult ranked() {
    rank();
    result.entry.shape = shape;
    result.seconds = secondsSince(start);
    return std::move(result);
  }

private:
  void say(const char *step, size_t done, size_t of, Clock::time_point since) {
    if (!options.progress)
      return;
    double seconds = secondsSince(start), here = secondsSince(since);
    options.progress({step, done, of, here > 0 ? double(done) / here : 0, seconds,
                      std::max(0.0, options.budget - seconds)});
  }

  //===--- Space and model --------------------------------------------------===//

  void rank() {
    auto since = Clock::now();
    say("asking the model", 0, 1, since);
    Examination plain = examine(description);
    size_t count = plain.sweeps.size();
    std::vector<std::vector<Configuration>> proposals(count);
    for (size_t s = 0; s < count; ++s)
      proposals[s] = combinations(options.target, Knob::Structure, plain.sweeps[s],
                                  plain.sweeps[s].heuristic);
    std::vector<std::vector<Candidate>> structures = judge(plain, proposals);
    std::vector<std::set<Choice>> refused = strategiesRefused(plain);
    for (size_t s = 0; s < count; ++s) {
      SweepResult sweep;
      sweep.facts = plain.sweeps[s];
      sweep.combinations = proposals[s].size();
      sweep.feasible = structures[s].size();
      result.sweeps.push_back(std::move(sweep));
      // The details of the best of them.
      proposals[s].clear();
      structures[s].resize(std::min<size_t>(structures[s].size(), 32));
      for (const Candidate &structure : structures[s]) {
        auto details = combinations(options.target, Knob::Detail, plain.sweeps[s],
                                    structure.configuration);
        std::erase_if(details, [&](const Configuration &c) { return usesAny(c, refused[s]); });
        proposals[s].insert(proposals[s].end(), details.begin(), details.end());
      }
    }
    std::vector<std::vector<Candidate>> all = judge(plain, proposals);
    for (size_t s = 0; s < count; ++s) {
      SweepResult &sweep = result.sweeps[s];
      sweep.combinations += proposals[s].size();
      sweep.feasible += all[s].size();
      // The heuristic's is the first: what others must beat.
      const Configuration &first = plain.sweeps[s].heuristic;
      Candidate heuristic{.configuration = first,
                          .predicted = predict(result.machine, plain.sweeps[s],
                                               plain.counts[plain.own[s].counts], first, shape),
                          .fate = {}};
      sweep.candidates.push_back(heuristic);
      for (Candidate &candidate : mixed(std::move(all[s]))) {
        if (sweep.candidates.size() == options.candidates)
          break;
        if (candidate.configuration != first)
          sweep.candidates.push_back(std::move(candidate));
      }
    }
  }

  /// The model hardly tells details of one structure apart, and sibling builds differ by more: the best of each structure comes first,
  /// then the second of each, and so on. What is expected to be far slower comes last.
  std::vector<Candidate> mixed(std::vector<Candidate> ranked) {
    std::map<Configuration, size_t> taken; // of a structure
    std::vector<std::pair<size_t, size_t>> order;
    double limit = ranked.empty() ? 0 : 1.3 * ranked.front().predicted.seconds;
    for (size_t i = 0; i < ranked.size(); ++i) {
      Configuration structure;
      for (const Knob &knob : space(options.target))
        if (knob.kind == Knob::Structure && knob.field != "stages" && knob.field != "park")
          if (auto it = ranked[i].configuration.find(knob.field); it != ranked[i].configuration.end())
            structure.insert(*it);
      size_t turn = taken[structure]++;
      order.push_back({ranked[i].predicted.seconds > limit ? turn + 1000000 : turn, i});
    }
    std::stable_sort(order.begin(), order.end());
    std::vector<Candidate> result;
    for (auto [turn, i] : order)
      result.push_back(std::move(ranked[i]));
    return result;
  }

  using Choice = std::pair<std::string, std::string>; // field and value

  static bool usesAny(const Configuration &c, const std::set<Choice> &choices) {
    return std::any_of(choices.begin(), choices.end(), [&](const Choice &choice) {
      auto it = c.find(choice.first);
      return it != c.end() && it->second == choice.second;
    });
  }

  /// Names (of strategies, say) that a sweep cannot have whatever the numbers are: not to be combined with everything.
  std::vector<std::set<Choice>> strategiesRefused(const Examination &plain) {
    std::vector<std::vector<Configuration>> proposals(plain.sweeps.size());
    std::vector<std::vector<Choice>> choices(plain.sweeps.size());
    for (size_t s = 0; s < plain.sweeps.size(); ++s)
      for (const Knob &knob : space(options.target))
        for (const std::string &value : knob.values(plain.sweeps[s], plain.sweeps[s].heuristic))
          if (knob.kind == Knob::Detail && field({{knob.field, value}}, knob.field.c_str(), -1) < 0) {
            choices[s].push_back({knob.field, value});
            proposals[s].push_back({{knob.field, value}});
          }
    Examination examined = examine(description, plain, proposals);
    std::vector<std::set<Choice>> refused(plain.sweeps.size());
    for (size_t s = 0; s < plain.sweeps.size(); ++s)
      for (size_t i = 0; i < choices[s].size(); ++i)
        if (!examined.verdicts[s][i].why.empty())
          refused[s].insert(choices[s][i]);
    return refused;
  }

  /// Those of the proposals that can be run, as the model ranks them. Examined in as many shares as there are processors.
  std::vector<std::vector<Candidate>>
  judge(const Examination &plain, const std::vector<std::vector<Configuration>> &proposals) {
    size_t most = 0;
    for (const auto &list : proposals)
      most = std::max(most, list.size());
    size_t shares = std::clamp<size_t>(most / 64, 1, size_t(processes));
    std::vector<std::future<std::vector<std::vector<Candidate>>>> running;
    for (size_t share = 0; share < shares; ++share)
      running.push_back(std::async(std::launch::async, [&, share] {
        std::vector<std::vector<Configuration>> some;
        for (const auto &list : proposals)
          some.emplace_back(list.begin() + ptrdiff_t(list.size() * share / shares), list.begin() + ptrdiff_t(list.size() * (share + 1) / shares));
        return feasible(examine(description, plain, some), some);
      }));
    std::vector<std::vector<Candidate>> ranked(proposals.size());
    for (auto &share : running) {
      auto some = share.get();
      for (size_t s = 0; s < some.size(); ++s)
        std::move(some[s].begin(), some[s].end(), std::back_inserter(ranked[s]));
    }
    for (auto &list : ranked)
      std::stable_sort(list.begin(), list.end(), [](const Candidate &a, const Candidate &b) {
        return a.predicted.seconds < b.predicted.seconds;
      });
    return ranked;
  }

  std::vector<std::vector<Candidate>> feasible(const Examination &examined, const std::vector<std::vector<Configuration>> &proposals) const {
    std::vector<std::vector<Candidate>> result(proposals.size());
    for (size_t s = 0; s < proposals.size(); ++s)
      for (size_t i = 0; i < proposals[s].size(); ++i) {
        const Verdict &verdict = examined.verdicts[s][i];
        if (verdict.why.empty())
          result[s].push_back({.configuration = proposals[s][i],
                               .predicted = predict(this->result.machine, examined.sweeps[s], examined.counts[verdict.counts], proposals[s][i], shape),
                               .fate = {}});
      }
    return result;
  }

  //===--- Compilation ------------------------------------------------------===//

  /// Sweeps are independent, so one artefact tries a candidate for each.
  std::string requestFor(const std::vector<size_t> &choice) const {
    std::map<std::string, TunedFunction> functions;
    for (size_t s = 0; s < result.sweeps.size(); ++s)
      functions[result.sweeps[s].facts.function].sweeps.push_back(
          result.sweeps[s].candidates[choice[s]].configuration);
    MixerDescription tuned = description;
    tuned.configuration = configurationText(functions);
    Json json = Json::parse(request(tuned));
    if (options.target == "host")
      json["isa"] = isaName(hostIsa());
    return json.dump();
  }

  Job jobFor(const std::vector<size_t> &choice, const std::string &name) const {
    return {requestFor(choice), (scratch.path / (name + ".flare")).string(),
            options.target == "host" ? "" : options.target};
  }

  std::vector<size_t> rowOf(size_t i) const {
    std::vector<size_t> choice;
    for (const SweepResult &sweep : result.sweeps)
      choice.push_back(std::min(i, sweep.candidates.size() - 1));
    return choice;
  }

  void compileAndCheck() {
    auto since = Clock::now();
    size_t rows = 0;
    for (const SweepResult &sweep : result.sweeps)
      rows = std::max(rows, sweep.candidates.size());
    std::vector<Job> jobs;
    for (size_t i = 0; i < rows; ++i)
      jobs.push_back(jobFor(rowOf(i), std::to_string(i)));
    builds.resize(rows);
    std::vector<Outcome> failed;
    // Half of what is left; measuring takes the other half.
    double until = secondsSince(start) + (options.budget - secondsSince(start)) / 2;
    size_t done = 0;
    compileAll(program, processes, options.compileTimeout, jobs, [&](const Outcome &outcome) {
      ++done;
      if (outcome.failure.empty())
        accept(outcome.job, rowOf(outcome.job), jobs[outcome.job], outcome.assembly, failed);
      else
        failed.push_back(outcome);
      say("compiling", done, rows, since);
      // The heuristic's must be there to be beaten.
      return secondsSince(start) < until || !builds[0].module;
    });
    result.compiled = done;
    if (!builds[0].module)
      throw Error(fmt::format("the heuristic's configuration cannot be measured: {}",
                              failed.empty() ? "it was not compiled" : failed.front().failure));
    // A row fails as one. Which sweep's candidate it was, each beside the heuristic's for the others tells; a few of them.
    size_t patience = 4;
    for (const Outcome &outcome : failed) {
      std::vector<size_t> row = rowOf(outcome.job);
      for (size_t s = 0; s < row.size(); ++s)
        if (row[s] == outcome.job)
          result.sweeps[s].candidates[row[s]].fate = outcome.failure;
      if (patience == 0 || secondsSince(start) > until)
        continue;
      --patience;
      for (size_t s = 0; s < row.size(); ++s)
        if (row[s] == outcome.job)
          retryAlone(s, row[s]);
    }
    for (SweepResult &sweep : result.sweeps)
      for (size_t i = 1; i < sweep.candidates.size(); ++i)
        if (sweep.candidates[i].fate.empty() && !buildOf(sweep, i).module)
          sweep.candidates[i].fate = "no time to compile it";
  }

  void retryAlone(size_t s, size_t candidate) {
    std::vector<size_t> choice(result.sweeps.size(), 0);
    choice[s] = candidate;
    std::string name = fmt::format("{}-{}", s, candidate);
    std::vector<Job> jobs = {jobFor(choice, name)};
    compileAll(program, 1, options.compileTimeout, jobs, [&](const Outcome &outcome) {
      std::string &fate = result.sweeps[s].candidates[candidate].fate;
      fate = outcome.failure;
      if (!fate.empty())
        return true;
      Build build = load(jobs[0].output);
      fate = wrong(build);
      if (fate.empty())
        alone[{s, candidate}] = std::move(build);
      return true;
    });
  }

  /// The artefact in which a sweep's candidate is.
  Build &buildOf(SweepResult &sweep, size_t candidate) {
    size_t s = size_t(&sweep - result.sweeps.data());
    if (auto it = alone.find({s, candidate}); it != alone.end())
      return it->second;
    return builds[candidate];
  }

  Build load(const std::string &path) {
    Build build;
    build.module = Module::load(std::make_shared<Artefact>(Artefact::read(path)));
    fs::remove(path);
    return build;
  }

  void accept(size_t row, const std::vector<size_t> &choice, const Job &job,
              const std::string &assembly, std::vector<Outcome> &failed) {
    try {
      lint(row, choice, assembly);
      Build build = load(job.output);
      if (std::string problem = wrong(build); !problem.empty()) {
        failed.push_back({.job = row, .failure = problem, .assembly = {}});
        return;
      }
      builds[row] = std::move(build);
    } catch (const Error &error) {
      failed.push_back({.job = row, .failure = error.what(), .assembly = {}});
    }
  }

  /// What the assembler says of each sweep's kernel. Spills cost loads and stores in the innermost loop.
  void lint(size_t row, const std::vector<size_t> &choice, const std::string &assembly) {
    if (assembly.empty())
      return;
    for (const Json &part : Json::parse(assembly))
      for (const Json &kernel : part.at("kernels")) {
        std::string name = kernel.value("name", "");
        for (size_t s = 0; s < result.sweeps.size(); ++s) {
          SweepResult &sweep = result.sweeps[s];
          if (!name.starts_with(sweep.facts.function + "_sweep_") || choice[s] != row)
            continue;
          if (sweepOfKernel(sweep.facts.function, name) != sweep.facts.index)
            continue;
          Candidate &candidate = sweep.candidates[row];
          candidate.registers = kernel.value("registers", 0);
          candidate.spills = kernel.value("spills", 0);
          std::string warnings;
          for (const Json &warning : part.value("warnings", Json::array()))
            if (warning.get<std::string>().find("C75") != std::string::npos)
              warnings = warning.get<std::string>();
          int heuristic = sweep.candidates[0].spills;
          if (row && candidate.spills > std::max(64, 2 * heuristic))
            candidate.fate = fmt::format("{} bytes of registers spill", candidate.spills);
          else if (row && !warnings.empty())
            candidate.fate = "the assembler warns: " + warnings;
        }
      }
  }

  /// Kernels are numbered with the merges between them: the sweep of the n-th.
  size_t sweepOfKernel(const std::string &function, const std::string &name) {
    if (builds[0].module) {
      for (const KernelSpec &kernel : builds[0].module->function(function).spec().kernels)
        if (kernel.symbol == name)
          return size_t(kernel.sweep);
    }
    // Before the first artefact is loaded: sweeps of mixers are 0 and, after a merge, 2.
    return size_t(std::atoi(name.c_str() + name.rfind('_') + 1) + 1) / 2;
  }

  //===--- Correctness ------------------------------------------------------===//

  void prepareReferences() {
    int64_t heads = std::min<int64_t>(options.heads, 4);
    int64_t tokens = std::clamp<int64_t>(300000 / (heads * options.latents), 150, 1500) | 1;
    // Once small scores, once some that only the safe bodies can take.
    double big = 40 / std::sqrt(double(options.headDim));
    for (auto [scale, ratio] : {std::pair(1.0, 1.3), std::pair(big, 1.5)}) {
      Check check;
      check.data = randomData(options.dtype, heads, tokens, options.latents,
                              options.headDim, float(scale), 17);
      check.truth = exact(check.data);
      check.yardstick = plain(check.data, options.dtype);
      check.ratio = ratio;
      checks.push_back(std::move(check));
    }
    measured = randomData(options.dtype, std::min<int64_t>(options.heads, 8), std::min<int64_t>(shape.tokens, 8192), options.latents, options.headDim, 1, 3);
  }

  void prepareTensors() {
    for (Check &check : checks)
      check.tensors = std::make_unique<Tensors>(*bench, check.data, options.dtype, check.data.heads, check.data.tokens);
    real = std::make_unique<Tensors>(*bench, measured, options.dtype, options.heads, shape.tokens);
    measured = {};
  }

  void launch(Build &build, const std::string &name, Tensors &tensors, float scale, Buffer &workspace,
              KernelRange kernels = {}) {
    const Function &function = build.module->function(name);
    bench->launch(function, tensors.sizes(), tensors.of(function.spec()), scale, workspace.get(), kernels);
  }

  /// Why a candidate's results cannot be used; empty: they can. The first to come, the heuristic's, is measured itself.
  std::string wrong(Build &build) {
    for (Check &check : checks) {
      check.tensors->forget();
      for (const char *name : {"mixer_forward", "mixer_backward"}) {
        Buffer workspace(*bench, size_t(build.module->function(name).workspaceBytes(check.tensors->sizes())));
        launch(build, name, *check.tensors, check.data.scale, workspace);
        bench->wait();
      }
      bool first = check.heuristic.empty();
      double unit = options.dtype == DType::BF16 ? 0x1p-8 : options.dtype == DType::F16 ? 0x1p-11 : 0x1p-24;
      auto judge = [&](const char *name, const std::vector<double> &truth, const std::vector<double> &plain,
                       const std::vector<double> &size) -> std::string {
        Difference ours = difference(check.tensors->values(name), truth), other = difference(plain, truth);
        if (first)
          check.heuristic[name] = ours;
        Difference heuristic = check.heuristic[name];
        double floor = 2 * unit * rms(size);
        // GPU products of f32 are three of TF32; the yardstick's sums are plain f32.
        double bound = std::max(check.ratio * other.rms + floor, 1.1 * heuristic.rms);
        double most = std::max(2 * other.max + 4 * floor, 1.5 * heuristic.max);
        if (!first && !(ours.rms <= bound && ours.max <= most))
          return fmt::format("its {} is off by {:.2e} (rms; allowed {:.2e}), at most {:.2e} (allowed {:.2e})", name, ours.rms, bound,
                             ours.max, most);
        return "";
      };
      const Results &t = check.truth, &p = check.yardstick;
      for (const std::string &problem :
           {judge("y", t.y, p.y, t.y), judge("z", t.z, p.z, t.z), judge("grad_q", t.gradQ, p.gradQ, t.sizeQ),
            judge("grad_k", t.gradK, p.gradK, t.sizeK), judge("grad_v", t.gradV, p.gradV, t.gradV)})
        if (!problem.empty())
          return problem;
    }
    return "";
  }

  //===--- Measurement ------------------------------------------------------===//

  /// A sweep's kernel with the merges after it.
  static KernelRange kernelsOf(const FunctionSpec &function, size_t sweep) {
    size_t first = function.kernels.size(), last = 0;
    for (size_t k = 0; k < function.kernels.size(); ++k)
      if (function.kernels[k].grid == Grid::Sweep && function.kernels[k].sweep == int(sweep))
        first = k;
    for (last = first + 1; last < function.kernels.size() && function.kernels[last].grid != Grid::Sweep;)
      ++last;
    return {first, last - first};
  }

  Buffer &workspaceOf(Build &build, const std::string &function) {
    auto it = build.workspaces.find(function);
    if (it == build.workspaces.end()) {
      it = build.workspaces
               .emplace(function, Buffer(*bench, size_t(build.module->function(function).workspaceBytes(real->sizes()))))
               .first;
      // Everything once: what later kernels read is there, code and memory are warm.
      launch(build, function, *real, 1, it->second);
      bench->wait();
    }
    return it->second;
  }

  /// Small shapes find the caches cold in training, since other layers run between.
  bool cold() const {
    double bytes = double(shape.tokens * shape.heads * shape.headDim * byteSize(shape.dtype)) * 4;
    return bench->cacheBytes() && bytes < double(bench->cacheBytes());
  }

  double sample(Build &build, const SweepFacts &facts, int times) {
    Buffer &workspace = workspaceOf(build, facts.function);
    const Function &function = build.module->function(facts.function);
    KernelRange kernels = kernelsOf(function.spec(), facts.index);
    std::vector<TensorRef> tensors = real->of(function.spec());
    auto body = [&] { bench->launch(function, real->sizes(), tensors, 1, workspace.get(), kernels); };
    if (cold())
      return bench->time(body, 1, true);
    return bench->time(body, times, false) / times;
  }

  struct Runner {
    size_t sweep, candidate;
    std::vector<double> samples;
    bool alive = true;
  };

  void measure() {
    auto since = Clock::now();
    // Forward results are the backward's inputs.
    launch(builds[0], "mixer_forward", *real, 1, workspaceOf(builds[0], "mixer_forward"));
    bench->wait();
    std::vector<Runner> runners;
    std::vector<int> times;
    for (size_t s = 0; s < result.sweeps.size(); ++s) {
      SweepResult &sweep = result.sweeps[s];
      // As many runs as make two milliseconds, so that a clock's grain is nothing.
      double once = sample(builds[0], sweep.facts, 1);
      times.push_back(int(std::clamp(2e-3 / std::max(once, 1e-7), 1.0, 50.0)));
      for (size_t i = 0; i < sweep.candidates.size(); ++i)
        if (sweep.candidates[i].fate.empty())
          runners.push_back({s, i, {}, true});
    }
    // Artefact by artefact: the first round needs no more than one's workspace at a time.
    std::stable_sort(runners.begin(), runners.end(), [](const Runner &a, const Runner &b) { return a.candidate < b.candidate; });
    constexpr int rounds = 25;
    double until = options.budget - 0.1 * (options.budget - secondsSince(start));
    int round = 0;
    std::vector<double> best;
    for (; round < rounds; ++round) {
      size_t alive = 0;
      for (Runner &r : runners)
        alive += r.alive;
      size_t done = 0;
      // Forwards and backwards, so that a drift of the clock favours no one.
      for (size_t k = 0; k < runners.size(); ++k) {
        Runner &r = runners[round % 2 ? runners.size() - 1 - k : k];
        if (!r.alive)
          continue;
        SweepResult &sweep = result.sweeps[r.sweep];
        Build &build = buildOf(sweep, r.candidate);
        r.samples.push_back(sample(build, sweep.facts, round ? times[r.sweep] : 1));
        if (!round && r.candidate && (k + 1 == runners.size() || runners[k + 1].candidate != r.candidate || &buildOf(result.sweeps[runners[k + 1].sweep], r.candidate) != &build))
          build.workspaces.clear();
        say(fmt::format("measuring, round {}", round + 1).c_str(), ++done, alive, since);
      }
      clocks.push_back(bench->clock());
      // Who is far behind is not worth more rounds.
      double cut = round == 0 ? 1.6 : round < 3 ? 1.25 : round < 6 ? 1.12 : 1.06;
      best.assign(result.sweeps.size(), 1e9);
      for (Runner &r : runners)
        if (!r.samples.empty())
          best[r.sweep] = std::min(best[r.sweep], median(r.samples));
      for (Runner &r : runners)
        if (r.alive && r.candidate && median(r.samples) > cut * best[r.sweep]) {
          r.alive = false;
          result.sweeps[r.sweep].candidates[r.candidate].fate = fmt::format("slower, after {} rounds", round + 1);
        }
      if (secondsSince(start) > until && round >= 2)
        break;
    }
    std::vector<double> noise(result.sweeps.size(), 0.01);
    for (Runner &r : runners) {
      Candidate &candidate = result.sweeps[r.sweep].candidates[r.candidate];
      candidate.measured = median(r.samples);
      std::vector<double> deviations;
      for (double s : r.samples)
        deviations.push_back(std::abs(s / candidate.measured - 1));
      candidate.spread = median(deviations);
      // A median of n samples is known to 1.25·σ/√n, σ to 1.5 deviations; of two medians, twice.
      if (r.alive)
        noise[r.sweep] = std::max(noise[r.sweep], 2 * 1.9 * candidate.spread / std::sqrt(double(r.samples.size())));
    }
    // The first within the noise of the best: reruns agree.
    for (size_t s = 0; s < result.sweeps.size(); ++s) {
      double fastest = 1e9;
      for (Runner &r : runners)
        if (r.sweep == s && r.alive)
          fastest = std::min(fastest, median(r.samples));
      for (Runner &r : runners)
        if (r.sweep == s && r.alive && median(r.samples) <= fastest * (1 + std::min(noise[s], 0.1))) {
          result.sweeps[s].chosen = r.candidate;
          break;
        }
    }
  }

  /// Whole functions, the chosen ones beside the heuristic's.
  void conclude() {
    auto since = Clock::now();
    say("before and after", 0, 1, since);
    std::vector<size_t> choice;
    for (const SweepResult &sweep : result.sweeps)
      choice.push_back(sweep.chosen);
    Build *after = &builds[0], together;
    if (std::any_of(choice.begin(), choice.end(), [](size_t c) { return c != 0; })) {
      std::vector<Job> jobs = {jobFor(choice, "chosen")};
      std::string failure;
      compileAll(program, 1, options.compileTimeout, jobs, [&](const Outcome &outcome) {
        failure = outcome.failure;
        return true;
      });
      if (failure.empty()) {
        together = load(jobs[0].output);
        failure = wrong(together);
      }
      if (!failure.empty())
        throw Error(fmt::format("the chosen configurations cannot be used together: {}", failure));
      after = &together;
    }
    for (const char *name : {"mixer_forward", "mixer_backward"}) {
      std::vector<double> before, now;
      for (int round = 0; round < 7; ++round)
        for (bool tuned : {round % 2 == 0, round % 2 != 0}) {
          Build &build = tuned ? *after : builds[0];
          Buffer &workspace = workspaceOf(build, name);
          (tuned ? now : before).push_back(bench->time([&] { launch(build, name, *real, 1, workspace); }, 1, cold()));
        }
      TunedFunction function;
      function.before = 1e3 * median(before);
      function.milliseconds = 1e3 * median(now);
      bool better = function.milliseconds < function.before &&
                    std::any_of(result.sweeps.begin(), result.sweeps.end(), [&](const SweepResult &sweep) { return sweep.facts.function == name && sweep.chosen; });
      if (!better)
        function.milliseconds = function.before;
      for (SweepResult &sweep : result.sweeps)
        if (sweep.facts.function == name) {
          if (!better)
            sweep.chosen = 0;
          // Where nothing was better a later heuristic may be: its choice is not written down.
          function.sweeps.push_back(sweep.chosen ? sweep.candidates[sweep.chosen].configuration : Configuration());
        }
      result.entry.functions[name] = std::move(function);
    }
    result.entry.shape = shape;
    result.entry.compiler = compilerName();
    char date[16];
    std::time_t now = std::time(nullptr);
    std::strftime(date, sizeof(date), "%Y-%m-%d", std::gmtime(&now));
    result.entry.date = date;
    result.entry.clock = clocks.empty() ? 0 : int(median(std::vector<double>(clocks.begin(), clocks.end())));
    say("before and after", 1, 1, since);
  }

  TuneOptions options;
  int cudaDevice = -1, processes = 1;
  std::string program;
  MixerDescription description;
  Shape shape;
  Clock::time_point start = Clock::now();
  Scratch scratch;
  std::unique_ptr<Bench> bench; // before what lies on it
  std::vector<Check> checks;
  Data measured; // until it is on the device
  std::unique_ptr<Tensors> real;
  std::vector<Build> builds; // of row i: each sweep's candidate i
  std::map<std::pair<size_t, size_t>, Build> alone;
  std::vector<int> clocks;
  TuneResult result;
};

} // namespace

TuneResult autotune::tune(const TuneOptions &options) {
  return Tuning(options, /*measures=*/true).run();
}

TuneResult autotune::propose(const TuneOptions &options) {
  return Tuning(options, /*measures=*/false).ranked();
}
