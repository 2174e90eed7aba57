#include "flarec/cache.h"

#include "files.h"
#include "flarec/error.h"
#include "flarec/sha256.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <unistd.h>
#include <utility>

using namespace flarec;
namespace fs = std::filesystem;

Cache::Cache(fs::path directory) : directory(std::move(directory)) {
  // A later change of the working directory must not move the cache.
  std::error_code ignored;
  if (!this->directory.empty())
    this->directory = fs::absolute(this->directory, ignored);
}

Cache &Cache::process() {
  // Never destroyed: other static objects may still use it while the process
  // ends.
  static Cache &cache = *new Cache(defaultDirectory());
  return cache;
}

fs::path Cache::defaultDirectory() {
  auto variable = [](const char *name) {
    const char *value = std::getenv(name);
    return fs::path(value ? value : "");
  };
  if (fs::path given = variable("FLAREC_CACHE_DIR"); !given.empty())
    return given;
  // The XDG specification: a relative path is to be ignored.
  if (fs::path xdg = variable("XDG_CACHE_HOME"); xdg.is_absolute())
    return xdg / "flarec";
  if (fs::path home = variable("HOME"); home.is_absolute())
    return home / ".cache" / "flarec";
  return {};
}

std::string Cache::key(const std::string &request) {
  return sha256Hex(request);
}

fs::path Cache::entryPath(const std::string &key,
                          const std::string &build) const {
  return directory / build / (key + ".flare");
}

std::vector<fs::path> Cache::entriesOfAnyBuild(const std::string &key) const {
  std::vector<std::pair<fs::file_time_type, fs::path>> found;
  auto look = [&](const fs::path &path) {
    std::error_code failure;
    auto time = fs::last_write_time(path, failure);
    if (!failure)
      found.emplace_back(time, path);
  };
  look(entryPath(key, ""));
  std::error_code failure;
  for (fs::directory_iterator it(directory, failure), end;
       !failure && it != end; it.increment(failure))
    look(entryPath(key, it->path().filename().string()));
  std::sort(found.rbegin(), found.rend());
  std::vector<fs::path> paths;
  paths.reserve(found.size());
  for (auto &[time, path] : found)
    paths.push_back(std::move(path));
  return paths;
}

std::shared_ptr<const Artefact>
Cache::get(const std::string &request,
           const std::function<std::string()> &compile,
           const std::function<std::string()> &build) {
  std::string key = Cache::key(request);
  std::promise<Pointer> promise;
  {
    std::unique_lock lock(mutex);
    if (auto it = memory.find(key); it != memory.end())
      return it->second;
    if (auto it = pending.find(key);
        it != pending.end() && it->second.process == getpid()) {
      std::shared_future<Pointer> result = it->second.result;
      lock.unlock();
      return result.get();
    }
    pending[key] = {promise.get_future().share(), getpid()};
  }
  try {
    Pointer artefact = fetch(key, compile, build);
    std::lock_guard lock(mutex);
    memory[key] = artefact;
    pending.erase(key);
    promise.set_value(artefact);
    return artefact;
  } catch (...) {
    std::lock_guard lock(mutex);
    pending.erase(key);
    promise.set_exception(std::current_exception());
    throw;
  }
}

Cache::Pointer Cache::fetch(const std::string &key,
                            const std::function<std::string()> &compile,
                            const std::function<std::string()> &build) {
  if (Pointer entry = readEntry(key, build()))
    return entry;
  auto artefact = std::make_shared<const Artefact>(Artefact::parse(compile()));
  if (artefact->manifest().key != key)
    throw Error(fmt::format("the compiler returned an artefact for the request "
                            "{} instead of {}; runtime and compiler do not "
                            "belong together",
                            artefact->manifest().key, key));
  // Asked again: the compiler's file may have been replaced before it was
  // loaded.
  writeEntry(key, build(), *artefact);
  return artefact;
}

bool Cache::wasAdded(const std::string &request) {
  std::string key = Cache::key(request);
  std::lock_guard lock(mutex);
  return added.count(key) != 0;
}

void Cache::add(std::shared_ptr<const Artefact> artefact) {
  std::lock_guard lock(mutex);
  added.insert(artefact->manifest().key);
  memory[artefact->manifest().key] = std::move(artefact);
}

Cache::Pointer Cache::readEntry(const std::string &key,
                                const std::string &build) {
  if (directory.empty())
    return nullptr;
  for (const fs::path &path : build.empty()
                                  ? entriesOfAnyBuild(key)
                                  : std::vector{entryPath(key, build)}) {
    std::string problem;
    std::optional<std::string> bytes = readFile(path, problem);
    if (bytes) {
      try {
        auto entry = std::make_shared<const Artefact>(Artefact::parse(*bytes));
        if (entry->manifest().key == key)
          return entry;
        problem = "it belongs to another request";
      } catch (const Error &error) {
        problem = error.what();
      }
    }
    if (!problem.empty())
      report(path.string(),
             fmt::format("the cache entry {} is not used{}: {}", path.string(),
                         build.empty() ? "" : " and will be replaced",
                         problem));
  }
  return nullptr;
}

void Cache::writeEntry(const std::string &key, const std::string &build,
                       const Artefact &artefact) {
  if (directory.empty())
    return;
  fs::path path = entryPath(key, build);
  std::error_code failure;
  fs::create_directories(path.parent_path(), failure);
  std::optional<std::string> problem;
  if (failure) {
    problem = failure.message();
  } else {
    sweepTemporaries(path.parent_path());
    problem = publishFile(path, artefact.serialise());
  }
  if (problem)
    report("write", fmt::format("compiled kernels cannot be kept in {}: {}; "
                                "set FLAREC_CACHE_DIR to a directory that can "
                                "be written, or they are compiled again in "
                                "each process",
                                directory.string(), *problem));
}

void Cache::sweepTemporaries(const fs::path &folder) {
  {
    std::lock_guard lock(mutex);
    if (std::exchange(swept, true))
      return;
  }
  // What a killed writer left behind. After an hour nobody is still writing it.
  auto stale = fs::file_time_type::clock::now() - std::chrono::hours(1);
  std::error_code failure;
  for (fs::directory_iterator it(folder, failure), end; !failure && it != end;
       it.increment(failure)) {
    std::error_code ignored;
    if (isTemporary(it->path().filename().string()) &&
        it->last_write_time(ignored) < stale && !ignored)
      fs::remove(it->path(), ignored);
  }
}

void Cache::report(const std::string &about, const std::string &message) {
  {
    std::lock_guard lock(mutex);
    if (!reported.insert(about).second)
      return;
  }
  std::fprintf(stderr, "flarec: %s\n", message.c_str());
}
