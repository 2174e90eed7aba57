#include "workers.h"

#include "flarec/error.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <memory>
#include <optional>
#include <poll.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace flarec;
using namespace flarec::autotune;
using Json = nlohmann::ordered_json;

extern char **environ;

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
      throw Error(
          fmt::format("cannot start compilations: {}", std::strerror(errno)));
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], 0);
    posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
    // A group of its own, so that its end is the end of its assembler too.
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
    posix_spawnattr_setpgroup(&attributes, 0);
    std::string command = "compile-worker";
    char *arguments[] = {const_cast<char *>(program.c_str()), command.data(),
                         nullptr};
    int failure = posix_spawnp(&process, program.c_str(), &actions, &attributes,
                               arguments, environ);
    posix_spawnattr_destroy(&attributes);
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
    kill(-process, SIGKILL);
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
                          const std::function<bool(const Outcome &)> &done,
                          std::stop_token stop) {
  std::vector<std::unique_ptr<Child>> children(
      std::min(jobs.size(), size_t(std::max(1, processes))));
  size_t next = 0, finished = 0;
  bool goOn = true;
  while (goOn && finished < jobs.size() && !stop.stop_requested()) {
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
    // Somebody may ask it to stop at any time.
    double patience = std::min(timeout, stop.stop_possible() ? 0.02 : timeout);
    for (size_t i = 0; i < children.size(); ++i)
      if (children[i] && children[i]->job) {
        waits.push_back({children[i]->socket, POLLIN, 0});
        whose.push_back(i);
        patience =
            std::min(patience, timeout - secondsSince(children[i]->start));
      }
    poll(waits.data(), waits.size(), int(std::max(0.0, patience) * 1000) + 1);
    for (size_t w = 0; w < waits.size() && goOn; ++w) {
      auto &child = children[whose[w]];
      Outcome outcome{.job = *child->job,
                      .failure = {},
                      .seconds = secondsSince(child->start),
                      .assembly = {}};
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

Compilation::Compilation(std::string program, int processes, double timeout,
                         std::vector<Job> jobs)
    : thread([this, program = std::move(program), processes, timeout,
              jobs = std::move(jobs)](std::stop_token stop) {
        std::exception_ptr problem;
        try {
          compileAll(
              program, processes, timeout, jobs,
              [this](const Outcome &outcome) {
                std::lock_guard lock(mutex);
                outcomes.push_back(outcome);
                changed.notify_one();
                return true;
              },
              stop);
        } catch (...) {
          problem = std::current_exception();
        }
        std::lock_guard lock(mutex);
        failure = problem;
        finished = true;
        changed.notify_one();
      }) {}

std::optional<Outcome> Compilation::next(double seconds) {
  std::unique_lock lock(mutex);
  changed.wait_for(lock, std::chrono::duration<double>(std::max(0.0, seconds)),
                   [this] { return !outcomes.empty() || finished; });
  if (!outcomes.empty()) {
    Outcome first = std::move(outcomes.front());
    outcomes.pop_front();
    return first;
  }
  if (failure)
    std::rethrow_exception(failure);
  return std::nullopt;
}
