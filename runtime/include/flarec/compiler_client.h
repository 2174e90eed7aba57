// The compiler, if there is one: libflarec_compiler.so, loaded when first
// needed. A deployment may come without it as long as the cache or an artefact
// file has the kernels.
#pragma once

#include <cstddef>
#include <mutex>
#include <string>

namespace flarec {

/// Safe for many threads. The ABI is docs/artefact.md, section 5.
class CompilerClient {
public:
  static CompilerClient &process();

  /// An artefact's bytes for a request. Throws Error when there is no compiler,
  /// when it is of another version, and with the compiler's words when it
  /// refuses.
  std::string compile(const std::string &request);

  /// Loads the compiler; throws Error when there is none that fits.
  void load();

  /// Which build of the compiler there is: the GNU build id of its file, which
  /// changes with its code. Read from the file, without loading it where its
  /// path is known. Empty when there is no compiler.
  std::string build();

private:
  std::once_flag once;
  std::mutex mutex;
  std::string loadedBuild; // the file may be replaced after it was loaded
  int (*compileFunction)(const char *, char **, size_t *, char **) = nullptr;
  void (*freeFunction)(void *) = nullptr;
};

} // namespace flarec
