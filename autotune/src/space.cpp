#include "flarec/autotune/space.h"

#include "flarec/error.h"

#include <fmt/format.h>

#include <set>
#include <thread>

using namespace flarec;
using namespace flarec::autotune;

int64_t autotune::field(const Configuration &configuration, const char *name,
                        int64_t otherwise) {
  auto it = configuration.find(name);
  if (it == configuration.end() || it->second.empty() ||
      it->second.find_first_not_of("0123456789") != std::string::npos ||
      it->second.size() > 17)
    return otherwise;
  return std::stoll(it->second);
}

namespace {

using Facts = const SweepFacts &;
using Chosen = const Configuration &;

Values numbers(std::initializer_list<int64_t> list) {
  Values values;
  for (int64_t number : list)
    values.push_back(std::to_string(number));
  return values;
}

bool latentRows(Chosen c) { return c.at("rows") == "m"; }

int64_t ceilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// Of rows = m: the fewest rows, in sixteens, that cover the latents.
int64_t rowsOf(Facts f, Chosen c) {
  int64_t sharers =
      std::max<int64_t>(1, field(c, "row_groups", 1) * field(c, "workers", 1));
  return ceilDiv(ceilDiv(f.latents, sharers), 16) * 16;
}

int64_t threads() {
  return std::max<int64_t>(1, std::thread::hardware_concurrency());
}

// Each line one field: what is tried of it. Values that a sweep cannot have are
// refused by the compiler and cost next to nothing here.
const std::vector<Knob> gpu = {
    {"heads", Knob::Structure,
     [](Facts, Chosen) { return numbers({1, 2, 4, 8, 16}); }},
    {"row_groups", Knob::Structure,
     [](Facts, Chosen c) {
       return latentRows(c) ? numbers({1, 2, 4, 8, 16}) : numbers({1});
     }},
    {"workers", Knob::Structure,
     [](Facts, Chosen) { return numbers({1, 2, 3, 4, 6, 8, 12, 16}); }},
    {"worker_rows", Knob::Structure,
     [](Facts f, Chosen c) {
       return latentRows(c) ? numbers({rowsOf(f, c)}) : numbers({16, 32});
     }},
    {"column_workers", Knob::Structure,
     [](Facts, Chosen c) {
       Values values = numbers({1});
       for (int64_t sharers : {2, 4, 8})
         if (!latentRows(c) && field(c, "workers") % sharers == 0)
           values.push_back(std::to_string(sharers));
       return values;
     }},
    // Of 16-bit rows of 64 bytes and more.
    {"matrix", Knob::Structure,
     [](Facts f, Chosen c) {
       bool groups = f.read >= 64 && f.heuristic.at("sums") == "mma" && field(c, "workers") % 4 == 0;
       return groups ? Values{"mma", "wgmma"} : Values{"mma"};
     }},
    {"tile", Knob::Structure,
     [](Facts, Chosen c) {
       return latentRows(c)
                  ? numbers({32, 64, 128})
                  : numbers({field(c, "workers") /
                             std::max<int64_t>(1, field(c, "column_workers", 1)) *
                             field(c, "worker_rows")});
     }},
    {"min_blocks", Knob::Structure,
     [](Facts, Chosen) { return numbers({1, 2, 3, 4}); }},
    {"stages", Knob::Structure, [](Facts, Chosen) { return numbers({2, 3, 4}); }},
    {"park", Knob::Structure,
     [](Facts, Chosen c) {
       return latentRows(c) ? Values{"shared"} : Values{"shared", "fast", "none"};
     }},
    // Where the model sees no difference the first is tried first: what the
    // heuristic has knows most; four blocks of columns at once keep the pipes
    // busy; more take longer to compile.
    {"unroll", Knob::Detail,
     [](Facts f, Chosen c) {
       int64_t columns = ceilDiv(latentRows(c) ? field(c, "tile") : f.latents, 16);
       Values values = numbers({field(f.heuristic, "unroll")});
       for (int64_t once : {4, 2, 8, 1, 0})
         if (once < columns && once != field(f.heuristic, "unroll"))
           values.push_back(std::to_string(once));
       return values;
     }},
    {"sums", Knob::Detail, [](Facts, Chosen) { return Values{"mma", "add"}; }},
    {"exp", Knob::Detail,
     [](Facts, Chosen) {
       return Values{"mufu",   "poly3:3", "poly3:4", "poly3:5", "poly3:6",
                     "bits:5", "bits:6",  "bits:7",  "bits:8",  "bits:9"};
     }},
    // Whole rounds of the multiprocessors, of which the heuristic knows the number.
    {"blocks", Knob::Launch,
     [](Facts f, Chosen c) {
       int64_t processors = std::max<int64_t>(
           1, field(f.heuristic, "blocks") / std::max<int64_t>(1, field(f.heuristic, "min_blocks", 1)));
       int64_t once = processors * field(c, "min_blocks", 1);
       return numbers({once, 2 * once, 3 * once, 4 * once});
     }},
};

const std::vector<Knob> host = {
    {"heads", Knob::Structure,
     [](Facts, Chosen) { return numbers({1, 2, 4, 8, 16}); }},
    {"row_groups", Knob::Structure,
     [](Facts, Chosen c) {
       return latentRows(c) ? numbers({1, 2, 4}) : numbers({1});
     }},
    {"worker_rows", Knob::Structure,
     [](Facts f, Chosen c) {
       return latentRows(c) ? numbers({rowsOf(f, c)}) : numbers({16});
     }},
    {"tile", Knob::Structure,
     [](Facts, Chosen c) {
       return latentRows(c) ? numbers({16, 32, 64, 128, 256}) : numbers({16});
     }},
    {"stages", Knob::Structure,
     [](Facts, Chosen c) {
       return latentRows(c) ? numbers({1, 2}) : numbers({1, 2, 4, 8, 16});
     }},
    {"unroll", Knob::Structure,
     [](Facts, Chosen) { return numbers({1, 2, 4, 8, 16}); }},
    {"exp", Knob::Detail, [](Facts, Chosen) { return Values{"poly5"}; }},
    {"blocks", Knob::Launch,
     [](Facts, Chosen) {
       return numbers({threads(), 2 * threads(), 4 * threads(), 16 * threads(), 64,
                       128});
     }},
};

} // namespace

const std::vector<Knob> &autotune::space(const std::string &target) {
  return target == "host" ? host : gpu;
}

std::vector<Configuration> autotune::combinations(const std::string &target,
                                                  Knob::Kind kind,
                                                  const SweepFacts &facts,
                                                  const Configuration &base) {
  std::vector<Configuration> all = {base};
  std::set<Configuration> seen = {base};
  std::vector<Configuration> partial = {base};
  for (const Knob &knob : space(target)) {
    // A compiler that does not have the field yet, or any more.
    if (knob.kind != kind || !base.count(knob.field))
      continue;
    std::vector<Configuration> next;
    for (const Configuration &chosen : partial)
      for (const std::string &value : knob.values(facts, chosen)) {
        next.push_back(chosen);
        next.back()[knob.field] = value;
      }
    partial = std::move(next);
  }
  for (Configuration &configuration : partial)
    if (seen.insert(configuration).second)
      all.push_back(std::move(configuration));
  return all;
}

Configuration autotune::kernelsOf(const std::string &target,
                                  Configuration configuration) {
  for (const Knob &knob : space(target))
    if (knob.kind == Knob::Launch)
      configuration.erase(knob.field);
  return configuration;
}
