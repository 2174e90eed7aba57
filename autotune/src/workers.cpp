#include "workers.h"

#include "flarec/artefact.h"
#include "flarec/autotune/tuner.h"
#include "flarec/compiler.h"
#include "flarec/error.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <iostream>
#include <memory>
#include <optional>
#include <poll.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace flarec;
using namespace flarec::autotune;
using Json = nlohmann::ordered_json;

extern char **environ;

//===----------------------------------------------------------------------===//
// The parent
//===----------------------------------------------------------------------===//

namespace {

using Clock = std::chrono::steady_clock;

double secondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// A child, talked to in lines.
class Child {
public:
  explicit Child(const std::string &program) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
      throw Error(fmt::format("cannot start compilations: {}",
                              std::strerror(errno)));
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], 0);
    posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
    std::string command = "compile-worker";
    char *arguments[] = {const_cast<char *>(program.c_str()), command.data(),
                         nullptr};
    int failure = posix_spawnp(&process, program.c_str(), &actions, nullptr,
                               arguments, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    socket = ends[0];
    if (failure != 0) {
      close(socket);
      throw Error(fmt::format("cannot start {} for compilations: {}", program,
                              std::strerror(failure)));
    }
  }
  Child(const Child &) = delete;
  Child &operator=(const Child &) = delete;
  ~Child() {
    close(socket);
    kill(process, SIGKILL);
    waitpid(process, nullptr, 0);
  }

  bool send(const std::string &line) {
    std::string_view rest = line;
    while (!rest.empty()) {
      ssize_t n = ::send(socket, rest.data(), rest.size(), MSG_NOSIGNAL);
      if (n < 0 && errno == EINTR)
        continue;
      if (n <= 0)
        return false;
      rest.remove_prefix(size_t(n));
    }
    return true;
  }

  /// What has arrived; false: the child has ended.
  bool receive(std::string &line, bool &complete) {
    char buffer[65536];
    ssize_t n = recv(socket, buffer, sizeof(buffer), 0);
    if (n < 0 && errno == EINTR)
      return true;
    if (n <= 0)
      return false;
    received.append(buffer, size_t(n));
    if (size_t end = received.find('\n'); end != received.npos) {
      line = received.substr(0, end);
      received.erase(0, end + 1);
      complete = true;
    }
    return true;
  }

  int socket = -1;
  std::optional<size_t> job;
  Clock::time_point start;

private:
  pid_t process = 0;
  std::string received;
};

} // namespace

void autotune::compileAll(const std::string &program, int processes,
                          double timeout, const std::vector<Job> &jobs,
                          const std::function<bool(const Outcome &)> &done) {
  std::vector<std::unique_ptr<Child>> children(
      std::min(jobs.size(), size_t(std::max(1, processes))));
  size_t next = 0, finished = 0;
  bool goOn = true;
  while (goOn && finished < jobs.size()) {
    // Work for everyone; who died is replaced.
    for (auto &child : children) {
      if (next == jobs.size() || (child && child->job))
        continue;
      if (!child)
        child = std::make_unique<Child>(program);
      const Job &job = jobs[next];
      Json line = {{"request", job.request},
                   {"output", job.output},
                   {"target", job.target}};
      child->job = next++;
      child->start = Clock::now();
      child->send(line.dump() + "\n"); // a failure is seen as its end
    }
    std::vector<pollfd> waits;
    std::vector<size_t> whose;
    double patience = timeout;
    for (size_t i = 0; i < children.size(); ++i)
      if (children[i] && children[i]->job) {
        waits.push_back({children[i]->socket, POLLIN, 0});
        whose.push_back(i);
        patience = std::min(patience, timeout - secondsSince(children[i]->start));
      }
    poll(waits.data(), waits.size(), int(std::max(0.0, patience) * 1000) + 1);
    for (size_t w = 0; w < waits.size() && goOn; ++w) {
      auto &child = children[whose[w]];
      Outcome outcome{.job = *child->job, .failure = {},
                      .seconds = secondsSince(child->start), .assembly = {}};
      bool complete = false;
      if (waits[w].revents) {
        std::string line;
        if (!child->receive(line, complete)) {
          outcome.failure = "the compiler's process ended without an answer";
        } else if (complete) {
          Json answer = Json::parse(line, nullptr, false);
          outcome.failure = answer.is_object() ? answer.value("failure", "")
                                               : "it answered " + line;
          if (answer.is_object() && answer.contains("assembly"))
            outcome.assembly = answer["assembly"].dump();
        }
      } else if (outcome.seconds >= timeout) {
        outcome.failure = fmt::format("it took longer than {:.0f} s", timeout);
      }
      if (!complete && outcome.failure.empty())
        continue;
      if (complete)
        child->job.reset();
      else
        child.reset();
      ++finished;
      goOn = done(outcome);
    }
  }
}

//===----------------------------------------------------------------------===//
// The child
//===----------------------------------------------------------------------===//

namespace {

using Owned = std::unique_ptr<char, decltype(&flarec_free)>;

/// Only the variant for aligned rows, which is what is measured, and machine
/// code where there is a ptxas: the driver would assemble in the measuring process.
Artefact lean(const Artefact &artefact, const std::string &target, Json &assembly) {
  Manifest manifest = artefact.manifest();
  manifest.code.clear();
  std::vector<std::string> blobs;
  auto keep = [&](int code) {
    std::string blob(artefact.code(size_t(code)));
    CodeKind kind = artefact.manifest().code[size_t(code)].kind;
    if (kind == CodeKind::Ptx) {
      char *report = nullptr, *cubin = nullptr, *message = nullptr;
      size_t size = 0;
      int status = flarec_assemble(blob.c_str(), target.c_str(), &report, &cubin, &size, &message);
      Owned ownReport(report, flarec_free), ownCubin(cubin, flarec_free), ownMessage(message, flarec_free);
      if (status == 1)
        throw Error(std::string("ptxas refuses it: ") + (message ? message : ""));
      if (status == 0) {
        blob.assign(cubin, size);
        kind = CodeKind::Cubin;
        assembly.push_back(Json::parse(report));
      }
    }
    manifest.code.push_back({.kind = kind});
    blobs.push_back(std::move(blob));
    return int(blobs.size()) - 1;
  };
  for (FunctionSpec &function : manifest.functions)
    for (KernelSpec &kernel : function.kernels) {
      int code = kernel.code;
      if (!kernel.variants.empty()) {
        kernel.variants.resize(1);
        VariantSpec &first = kernel.variants.front();
        code = first.code >= 0 ? first.code : code;
        kernel.code = first.code = keep(code);
      } else {
        kernel.code = keep(code);
      }
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
      throw Error(message ? message : "the compiler does not say why it failed");
    Artefact artefact = Artefact::parse({bytes, size});
    Json assembly = Json::array();
    if (!target.empty())
      artefact = lean(artefact, target, assembly);
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
  int answers = dup(1);
  dup2(2, 1); // what libraries print is no answer
  for (std::string line; std::getline(std::cin, line);) {
    Json job = Json::parse(line, nullptr, false);
    std::string answer =
        (job.is_object() ? work(job) : Json{{"failure", "no job"}})
            .dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
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
