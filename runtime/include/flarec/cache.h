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

  /// The name of a request's entry: its SHA-256.
  static std::string key(const std::string &request);

  /// The artefact for a request, from memory, from disk, or from `compile`,
  /// which returns an artefact's bytes. Callers with the same request at the
  /// same time wait for one compilation. What `compile` throws reaches all of
  /// them, and the next call tries again.
  std::shared_ptr<const Artefact>
  get(const std::string &request, const std::function<std::string()> &compile);

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
                const std::function<std::string()> &compile);
  Pointer readEntry(const std::string &key);
  void writeEntry(const std::string &key, const Artefact &artefact);
  void sweepTemporaries();
  void report(const std::string &about, const std::string &message);
  std::filesystem::path entryPath(const std::string &key) const;

  std::filesystem::path directory;
  std::mutex mutex; // never held while reading, writing or compiling
  std::unordered_map<std::string, Pointer> memory;
  std::unordered_map<std::string, Pending> pending;
  std::set<std::string> reported;
  bool swept = false;
};

} // namespace flarec
