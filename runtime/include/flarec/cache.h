// Artefacts by request, in memory and on disk. The cache can make nothing fail
// and nothing wrong: a reader sees no entry or a complete and verified one, and
// whatever goes wrong with the disk costs a compilation and one line on stderr.
#pragma once

#include "flarec/artefact.h"

#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

namespace flarec {

/// Safe for many threads, and for many processes with one directory.
class Cache {
public:
  /// `directory` is made when first written to; empty: in memory only.
  explicit Cache(std::filesystem::path directory);

  /// The cache of this process, in defaultDirectory().
  static Cache &process();

  /// $FLAREC_CACHE_DIR, else $XDG_CACHE_HOME/flarec, else $HOME/.cache/flarec,
  /// else empty.
  static std::filesystem::path defaultDirectory();

  /// What a request is known by: its SHA-256.
  static std::string key(const std::string &request);

  /// The artefact for a request, from memory, from disk, or from `compile`,
  /// which returns an artefact's bytes. Callers with the same request at the
  /// same time wait for one compilation. What `compile` throws reaches all of
  /// them, and the next call tries again.
  ///
  /// `build` tells the compiler that is there from every other one. An entry is
  /// directory/<build>/<key>.flare: a compiler finds what it has made itself
  /// and nothing else. Where there is no compiler the build is empty, and the
  /// newest entry of any build serves.
  std::shared_ptr<const Artefact> get(
      const std::string &request, const std::function<std::string()> &compile,
      const std::function<std::string()> &build = [] { return ""; });

  /// Whether an artefact was added for a request.
  bool wasAdded(const std::string &request);

  /// Makes an artefact of a file, say, known under its own key.
  void add(std::shared_ptr<const Artefact> artefact);

private:
  using Pointer = std::shared_ptr<const Artefact>;
  struct Pending {
    std::shared_future<Pointer> result;
    int process; // after a fork the child would wait for ever for the parent's
                 // thread
  };

  Pointer fetch(const std::string &key,
                const std::function<std::string()> &compile,
                const std::function<std::string()> &build);
  Pointer readEntry(const std::string &key, const std::string &build);
  void writeEntry(const std::string &key, const std::string &build,
                  const Artefact &artefact);
  void sweepTemporaries(const std::filesystem::path &folder);
  void report(const std::string &about, const std::string &message);
  std::filesystem::path entryPath(const std::string &key,
                                  const std::string &build) const;
  std::vector<std::filesystem::path>
  entriesOfAnyBuild(const std::string &key) const;

  std::filesystem::path directory;
  std::mutex mutex; // never held while reading, writing or compiling
  std::unordered_map<std::string, Pointer> memory;
  std::unordered_map<std::string, Pending> pending;
  std::set<std::string> added; // keys
  std::set<std::string> reported;
  bool swept = false;
};

} // namespace flarec
