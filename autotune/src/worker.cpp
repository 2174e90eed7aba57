// The child process of a tuner: compiles what it is sent, job after job.
#include "flarec/artefact.h"
#include "flarec/autotune/tuner.h"
#include "flarec/compiler.h"
#include "flarec/error.h"
#include "flarec/sha256.h"

#include <nlohmann/json.hpp>

#include <cerrno>
#include <csignal>
#include <iostream>
#include <map>
#include <memory>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

using namespace flarec;
using namespace flarec::autotune;
using Json = nlohmann::ordered_json;

namespace {

using Owned = std::unique_ptr<char, decltype(&flarec_free)>;

/// Machine code of one blob.
struct Assembled {
  std::string code;
  Json report;
};

/// Throws Error where ptxas refuses the text; null where there is no ptxas, and
/// the driver assembles.
const Assembled *assemble(const std::string &ptx, const std::string &target) {
  // Candidates of a sweep mostly share the kernels beside it: merges.
  static std::map<std::string, Assembled> known;
  std::string key = target + sha256Hex(ptx);
  if (auto it = known.find(key); it != known.end())
    return &it->second;
  char *report = nullptr, *cubin = nullptr, *message = nullptr;
  size_t size = 0;
  int status = flarec_assemble(ptx.c_str(), target.c_str(), &report, &cubin,
                               &size, &message);
  Owned ownReport(report, flarec_free), ownCubin(cubin, flarec_free),
      ownMessage(message, flarec_free);
  if (status == 1)
    throw Error(std::string("ptxas refuses it: ") + (message ? message : ""));
  if (status != 0)
    return nullptr;
  return &(known[key] = {std::string(cubin, size), Json::parse(report)});
}

/// The same with machine code, where there is a ptxas: here all processors are
/// at it, the driver would assemble in the process that measures.
Artefact assembled(const Artefact &artefact, const std::string &target,
                   Json &reports) {
  Manifest manifest = artefact.manifest();
  std::vector<std::string> blobs;
  for (CodeSpec &code : manifest.code) {
    std::string &blob = blobs.emplace_back(artefact.code(blobs.size()));
    const Assembled *machine = assemble(blob, target);
    if (!machine)
      continue;
    code.kind = CodeKind::Cubin;
    blob = machine->code;
    reports.push_back(machine->report);
  }
  return Artefact(std::move(manifest), blobs);
}

Json work(const Json &job) {
  try {
    std::string request = job.at("request"), target = job.at("target");
    char *bytes = nullptr, *message = nullptr;
    size_t size = 0;
    int status = flarec_compile(request.c_str(), &bytes, &size, &message);
    Owned ownBytes(bytes, flarec_free), ownMessage(message, flarec_free);
    if (status != 0)
      throw Error(message ? message
                          : "the compiler does not say why it failed");
    Artefact artefact = Artefact::parse({bytes, size});
    Json assembly = Json::array();
    if (!target.empty())
      artefact = assembled(artefact, target, assembly);
    artefact.write(job.at("output").get<std::string>());
    Json answer = Json::object();
    if (!assembly.empty())
      answer["assembly"] = std::move(assembly);
    return answer;
  } catch (const std::exception &error) {
    return {{"failure", error.what()}};
  }
}

} // namespace

int autotune::compileWorker() {
  // A parent that was killed can't close the socket's other ends elsewhere.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  // The parent measures meanwhile.
  setpriority(PRIO_PROCESS, 0, 5);
  int answers = dup(1);
  dup2(2, 1); // what libraries print is no answer
  for (std::string line; std::getline(std::cin, line);) {
    Json job = Json::parse(line, nullptr, false);
    std::string answer =
        (job.is_object() ? work(job) : Json{{"failure", "no job"}})
            .dump(-1, ' ', false, Json::error_handler_t::replace) +
        "\n";
    std::string_view rest = answer;
    while (!rest.empty()) {
      ssize_t n = write(answers, rest.data(), rest.size());
      if (n < 0 && errno == EINTR)
        continue;
      if (n <= 0)
        return 1;
      rest.remove_prefix(size_t(n));
    }
  }
  return 0;
}
