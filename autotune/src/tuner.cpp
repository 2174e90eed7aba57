#include "flarec/autotune/tuner.h"

#include "flarec/autotune/space.h"
#include "flarec/compiler_client.h"
#include "flarec/cuda_driver.h"
#include "flarec/device.h"
#include "flarec/error.h"
#include "flarec/host_code.h"
#include "flarec/version.h"
#include "judge.h"
#include "race.h"
#include "ranking.h"
#include "workers.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fcntl.h>
#include <filesystem>
#include <future>
#include <set>
#include <sys/file.h>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>

using namespace flarec;
using namespace flarec::autotune;
namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

std::string autotune::compilerName() {
  std::string build = CompilerClient::process().build();
  return std::string(version()) +
         (build.empty() ? "" : " " + build.substr(0, 12));
}

namespace {

using Clock = std::chrono::steady_clock;

double secondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// A directory of our own, removed with its contents. It is locked while we
/// live, so that the next tuner knows what a killed one has left.
class Scratch {
public:
  Scratch() {
    const char *given = std::getenv("TMPDIR");
    fs::path folder = given && *given ? given : "/tmp";
    removeOrphans(folder);
    std::string pattern = (folder / (prefix + std::string("XXXXXX"))).string();
    if (!mkdtemp(pattern.data()))
      throw Error(fmt::format("cannot make a directory for candidates in {}: "
                              "{}; set TMPDIR to one that can be written",
                              folder.string(), std::strerror(errno)));
    path = pattern;
    lock = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (lock >= 0)
      flock(lock, LOCK_EX);
  }
  ~Scratch() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
    if (lock >= 0)
      close(lock);
  }
  fs::path path;

private:
  static constexpr const char *prefix = "flarec-tune-";

  static void removeOrphans(const fs::path &folder) {
    std::error_code failure;
    for (fs::directory_iterator it(folder, failure), end; !failure && it != end;
         it.increment(failure)) {
      if (!it->path().filename().string().starts_with(prefix))
        continue;
      int fd = open(it->path().c_str(),
                    O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
      struct stat about;
      // A minute: one that was made just now may not be locked yet.
      bool orphan = fd >= 0 && !fstat(fd, &about) && about.st_uid == geteuid() &&
                    about.st_mtime + 60 < std::time(nullptr) &&
                    !flock(fd, LOCK_EX | LOCK_NB);
      std::error_code ignored;
      if (orphan)
        fs::remove_all(it->path(), ignored);
      if (fd >= 0)
        close(fd);
    }
  }

  int lock = -1;
};

/// Kernels to compile, and the candidates that they serve.
struct Work {
  size_t sweep;
  std::vector<size_t> candidates;
};

class Tuning {
public:
  Tuning(const TuneOptions &options, bool measures)
      : options(options), host(options.target == "host") {
    auto demand = [](bool good, const char *field, auto value, const char *allowed) {
      if (!good)
        throw Error(fmt::format("{} = {}; it must be {}", field, value, allowed));
    };
    demand(options.heads >= 1 && options.heads <= 4096, "heads", options.heads, "1 to 4096");
    demand(options.tokens >= 0 && options.tokens <= int64_t(1) << 32, "tokens", options.tokens, "up to 2^32; 0: as many as are usual for the target");
    demand(options.budget > 0, "budget", options.budget, "more than 0 seconds");
    demand(options.processes >= 0 && options.processes <= 1024, "processes", options.processes, "up to 1024; 0: one a processor");
    demand(options.candidates >= 1, "candidates", options.candidates, "1 at least");
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
             .tokens = options.tokens ? options.tokens
                       : host         ? 1 << 14
                                      : 1 << 20,
             .layout = Layout::TokensMajor};
    processes = options.processes
                    ? options.processes
                    : int(std::max(1u, std::thread::hardware_concurrency()));
    if (host || cudaDevice >= 0)
      result.device = deviceOf(cudaDevice);
    result.machine = machineOf(options.target, cudaDevice);
  }

  TuneResult run() {
    // What needs no compiler meanwhile.
    auto references = std::async(std::launch::async, [this] {
      judge.emplace(options.dtype, options.heads, options.latents,
                    options.headDim);
      return randomData(options.dtype, std::min<int64_t>(options.heads, 8),
                        std::min<int64_t>(shape.tokens, 8192), options.latents,
                        options.headDim, 1, 3);
    });
    propose();
    std::optional<Compilation> compilation(
        std::in_place,
        options.program.empty() ? "/proc/self/exe" : options.program, processes,
        options.compileTimeout, jobs());
    bench = benchOf(cudaDevice);
    say("reference in fp64", 0, 1, Clock::now());
    bed.emplace(*bench, references.get(), options.dtype, options.heads,
                shape.tokens);
    race.emplace(*bench, *bed, result.sweeps, cold());
    compileAndCheck(*compilation);
    compilation.reset(); // nobody else at work while rounds are timed
    measure();
    conclude();
    result.seconds = secondsSince(start);
    return std::move(result);
  }

  TuneResult ranked() {
    propose();
    result.entry.shape = shape;
    result.seconds = secondsSince(start);
    return std::move(result);
  }

private:
  void say(const std::string &step, size_t done, size_t of,
           Clock::time_point since) {
    if (!options.progress)
      return;
    double seconds = secondsSince(start), here = secondsSince(since);
    options.progress({step, done, of, here > 0 ? double(done) / here : 0,
                      seconds, std::max(0.0, options.budget - seconds)});
  }

  void propose() {
    say("asking the model", 0, 1, Clock::now());
    result.sweeps = rank({.description = description,
                          .shape = shape,
                          .machine = result.machine,
                          .candidates = options.candidates,
                          .threads = processes});
  }

  //===--- Compilation
  //------------------------------------------------------===//

  /// One sweep's kernels, the others being the heuristic's.
  std::string requestFor(size_t s, const Configuration &configuration) const {
    std::map<std::string, TunedFunction> functions;
    const SweepFacts &facts = result.sweeps[s].facts;
    for (const SweepResult &sweep : result.sweeps)
      if (sweep.facts.function == facts.function)
        functions[facts.function].sweeps.push_back(
            sweep.facts.index == facts.index ? configuration : Configuration());
    MixerDescription tuned = description;
    tuned.configuration = configurationText(functions);
    Json json = Json::parse(request(tuned));
    json["only"] = fmt::format("{}:{}", facts.function, facts.index);
    if (host)
      json["isa"] = isaName(hostIsa());
    return json.dump();
  }

  /// Each kernel once, the sweeps' most promising ones first.
  std::vector<Job> jobs() {
    std::vector<Job> all;
    std::vector<std::map<Configuration, size_t>> known(result.sweeps.size());
    size_t most = 0;
    for (const SweepResult &sweep : result.sweeps)
      most = std::max(most, sweep.candidates.size());
    for (size_t i = 0; i < most; ++i)
      for (size_t s = 0; s < result.sweeps.size(); ++s) {
        if (i >= result.sweeps[s].candidates.size())
          continue;
        const Configuration &c = result.sweeps[s].candidates[i].configuration;
        auto [it, isNew] =
            known[s].try_emplace(kernelsOf(options.target, c), works.size());
        if (isNew) {
          works.push_back({s, {}});
          all.push_back({requestFor(s, c),
                         (scratch.path / std::to_string(all.size())).string(),
                         host ? "" : options.target});
        }
        works[it->second].candidates.push_back(i);
      }
    return all;
  }

  /// On a GPU candidates are looked at while the next ones compile, and what
  /// then is left of the time is for rounds. On the host compilers would be in
  /// the way, and rounds take half of it.
  void compileAndCheck(Compilation &compilation) {
    auto since = Clock::now();
    double left = options.budget - secondsSince(start);
    double until = options.budget - (host ? left / 2 : std::max(1.0, left / 4));
    std::vector<std::optional<Trial>> heuristic(result.sweeps.size());
    size_t missing = heuristic.size(), done = 0;
    std::vector<Outcome> early; // before all of the heuristic's
    while (done < works.size() && (missing || secondsSince(start) < until)) {
      std::optional<Outcome> outcome = compilation.next(
          missing ? options.compileTimeout : until - secondsSince(start));
      if (!outcome)
        continue;
      say("compiling", ++done, works.size(), since);
      const Work &work = works[outcome->job];
      ++result.sweeps[work.sweep].compiled;
      if (!missing) {
        accept(*outcome);
      } else if (work.candidates.front()) {
        early.push_back(std::move(*outcome));
      } else {
        if (outcome->failure.empty())
          lint(*outcome);
        if (!outcome->failure.empty())
          throw Error(fmt::format(
              "the heuristic's configuration cannot be measured: {}",
              outcome->failure));
        heuristic[work.sweep].emplace(load(outcome->job));
        if (--missing == 0) {
          begin(heuristic);
          for (Outcome &waiting : early)
            accept(waiting);
        }
      }
    }
    for (SweepResult &sweep : result.sweeps)
      for (size_t i = 1; i < sweep.candidates.size(); ++i)
        if (sweep.candidates[i].fate.empty() &&
            !entered.count(&sweep.candidates[i]))
          sweep.candidates[i].fate = "no time to compile it";
  }

  Trial load(size_t job) {
    std::string path = (scratch.path / std::to_string(job)).string();
    Trial trial(std::make_shared<Artefact>(Artefact::read(path)));
    fs::remove(path);
    return trial;
  }

  /// With the heuristic's kernels of all sweeps.
  void begin(std::vector<std::optional<Trial>> &heuristic) {
    std::vector<Trial> trials;
    for (auto &trial : heuristic)
      trials.push_back(std::move(*trial));
    judge->start(*bench, trials);
    bed->run(trials); // what each sweep reads of others is there from here on
    for (size_t s = 0; s < trials.size(); ++s)
      enter(s, 0, trials[s]);
    // Launched otherwise.
    for (size_t s = 0; s < trials.size(); ++s)
      enterAll(works[s], trials[s]);
  }

  void accept(Outcome &outcome) {
    const Work &work = works[outcome.job];
    try {
      if (outcome.failure.empty())
        lint(outcome);
      if (outcome.failure.empty()) {
        Trial trial = load(outcome.job);
        outcome.failure = judge->wrong({{work.sweep, trial}});
        if (outcome.failure.empty())
          enterAll(work, trial);
      }
    } catch (const Error &error) {
      outcome.failure = error.what();
    }
    if (!outcome.failure.empty())
      for (size_t candidate : work.candidates)
        result.sweeps[work.sweep].candidates[candidate].fate = outcome.failure;
  }

  void enterAll(const Work &work, const Trial &trial) {
    SweepResult &sweep = result.sweeps[work.sweep];
    for (size_t candidate : work.candidates)
      if (candidate)
        enter(work.sweep, candidate,
              trial.launchedAs(sweep.candidates[candidate].configuration));
  }

  void enter(size_t sweep, size_t candidate, Trial trial) {
    entered.insert(&result.sweeps[sweep].candidates[candidate]);
    race->enter(sweep, candidate, std::move(trial));
    if (!host)
      race->glance();
  }

  /// What the assembler says of a sweep's kernel. Spills cost loads and stores
  /// in the innermost loop.
  void lint(Outcome &outcome) {
    if (outcome.assembly.empty())
      return;
    const Work &work = works[outcome.job];
    SweepResult &sweep = result.sweeps[work.sweep];
    bool heuristic = work.candidates.front() == 0;
    for (const Json &part : Json::parse(outcome.assembly))
      for (const Json &kernel : part.at("kernels")) {
        if (kernel.value("name", "").find("_sweep_") == std::string::npos)
          continue; // merges and the like are everyone's
        int spills = kernel.value("spills", 0);
        for (size_t candidate : work.candidates) {
          sweep.candidates[candidate].registers = kernel.value("registers", 0);
          sweep.candidates[candidate].spills = spills;
        }
        if (heuristic)
          continue;
        for (const Json &warning : part.value("warnings", Json::array()))
          if (std::string text = warning.get<std::string>();
              text.find("C75") != std::string::npos)
            outcome.failure = "the assembler warns: " + text;
        if (spills > std::max(64, 2 * sweep.candidates[0].spills))
          outcome.failure = fmt::format("{} bytes of registers spill", spills);
      }
  }

  //===--- Measurement
  //------------------------------------------------------===//

  /// Small shapes find the caches cold in training, since other layers run
  /// between.
  bool cold() const {
    double bytes = double(shape.tokens * shape.heads * shape.headDim *
                          byteSize(shape.dtype)) *
                   4;
    return bench->cacheBytes() && bytes < double(bench->cacheBytes());
  }

  void measure() {
    auto since = Clock::now();
    double until = options.budget - 0.05 * options.budget;
    race->run([&] { return secondsSince(start) > until; },
              [&](int round, size_t done, size_t of) {
                say(fmt::format("measuring, round {}", round), done, of, since);
              });
    race->decide();
  }

  /// Whole functions, the chosen ones beside the heuristic's.
  void conclude() {
    auto since = Clock::now();
    say("before and after", 0, 1, since);
    std::map<size_t, Trial> chosen;
    for (size_t s = 0; s < result.sweeps.size(); ++s)
      if (size_t c = result.sweeps[s].chosen)
        chosen.emplace(s, race->trial(s, c));
    if (std::string problem = chosen.empty() ? "" : judge->wrong(chosen);
        !problem.empty())
      throw Error(fmt::format(
          "the chosen configurations cannot be used together: {}", problem));
    for (const char *name : {"mixer_forward", "mixer_backward"})
      result.entry.functions[name] = compare(name);
    result.entry.shape = shape;
    result.entry.compiler = compilerName();
    char date[16];
    std::time_t now = std::time(nullptr);
    std::strftime(date, sizeof(date), "%Y-%m-%d", std::gmtime(&now));
    result.entry.date = date;
    result.entry.clock = int(median(
        std::vector<double>(race->clocks().begin(), race->clocks().end())));
    say("before and after", 1, 1, since);
  }

  TunedFunction compare(const std::string &name) {
    std::vector<Trial> before, after;
    bool differs = false;
    for (size_t s = 0; s < result.sweeps.size(); ++s)
      if (result.sweeps[s].facts.function == name) {
        before.push_back(race->trial(s, 0));
        after.push_back(race->trial(s, result.sweeps[s].chosen));
        differs |= result.sweeps[s].chosen != 0;
      }
    std::vector<double> seconds[2];
    for (int round = 0; round < 7; ++round)
      for (bool tuned : {round % 2 == 0, round % 2 != 0})
        seconds[tuned].push_back(bed->time(tuned ? after : before, cold()));
    TunedFunction function;
    function.before = 1e3 * median(seconds[0]);
    function.milliseconds = 1e3 * median(seconds[1]);
    bool better = differs && function.milliseconds < function.before;
    if (!better)
      function.milliseconds = function.before;
    for (SweepResult &sweep : result.sweeps)
      if (sweep.facts.function == name) {
        if (!better)
          sweep.chosen = 0;
        // Where nothing was better a later heuristic may be: its choice is not
        // written down.
        function.sweeps.push_back(
            sweep.chosen ? sweep.candidates[sweep.chosen].configuration
                         : Configuration());
      }
    return function;
  }

  TuneOptions options;
  bool host;
  int cudaDevice = -1, processes = 1;
  MixerDescription description;
  Shape shape;
  Clock::time_point start = Clock::now();
  Scratch scratch;
  TuneResult result;
  std::vector<Work> works; // by job
  std::set<const Candidate *> entered;
  std::unique_ptr<Bench> bench; // before what lies on it
  std::optional<Judge> judge;
  std::optional<TestBed> bed;
  std::optional<Race> race;
};

} // namespace

TuneResult autotune::tune(const TuneOptions &options) {
  return Tuning(options, /*measures=*/true).run();
}

TuneResult autotune::propose(const TuneOptions &options) {
  return Tuning(options, /*measures=*/false).ranked();
}
