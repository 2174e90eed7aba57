#include "flarec/compiler_client.h"

#include "build_id.h"
#include "flarec/error.h"
#include "flarec/version.h"

#include <fmt/format.h>

#include <cstdlib>
#include <dlfcn.h>
#include <filesystem>
#include <link.h>

using namespace flarec;
namespace fs = std::filesystem;

namespace {

constexpr const char *fileName = "libflarec_compiler.so";

/// Where the program or library with this code lies.
fs::path ownDirectory() {
  Dl_info info;
  if (!dladdr(reinterpret_cast<void *>(&ownDirectory), &info) ||
      !info.dli_fname)
    return {};
  std::error_code ignored;
  fs::path own = fs::weakly_canonical(info.dli_fname, ignored);
  // For a program dladdr gives what it was called by, which may be found
  // through PATH only.
  if (!fs::exists(own, ignored))
    own = fs::read_symlink("/proc/self/exe", ignored);
  return own.parent_path();
}

// Local: the compiler's LLVM must not meet another one in this process.
constexpr int flags = RTLD_NOW | RTLD_LOCAL;

const char *givenName() {
  const char *given = std::getenv("FLAREC_COMPILER_LIBRARY");
  return given && *given ? given : nullptr;
}

/// What to give dlopen: a path, or a name for which the loader looks.
std::string compilerName() {
  if (const char *given = givenName())
    return given;
  fs::path own = ownDirectory();
  std::error_code ignored;
  for (const fs::path &path : {own / fileName, own / "../lib" / fileName})
    if (!own.empty() && fs::exists(path, ignored))
      return path.string();
  return fileName;
}

bool isPath(const std::string &name) {
  return name.find('/') != std::string::npos;
}

void *openCompiler(const std::string &name) {
  if (void *library = dlopen(name.c_str(), flags))
    return library;
  if (givenName())
    throw Error(fmt::format("FLAREC_COMPILER_LIBRARY does not name a compiler: "
                            "{}; set it to the path of {}, or unset it",
                            dlerror(), fileName));
  if (isPath(name))
    throw Error(fmt::format("the compiler cannot be loaded: {}", dlerror()));
  fs::path own = ownDirectory();
  throw Error(fmt::format(
      "these kernels are not in the cache and there is no compiler to make "
      "them: {} is not in {}, nor where the loader looks; install it there, or "
      "set FLAREC_COMPILER_LIBRARY to its path, or FLAREC_CACHE_DIR to a copy "
      "of the cache of a machine that has made them (a C++ program may also "
      "give addArtefact() a file of `flarec compile`)",
      fileName, own.empty() ? "." : own.string()));
}

/// The file of a loaded library.
std::string pathOf(void *library) {
  link_map *map = nullptr;
  return dlinfo(library, RTLD_DI_LINKMAP, static_cast<void *>(&map)) == 0
             ? map->l_name
             : "";
}

template <typename T> T find(void *library, const char *symbol) {
  void *address = dlsym(library, symbol);
  if (!address)
    throw Error(fmt::format("the compiler library has no {}; it is of another "
                            "version or not flarec's",
                            symbol));
  return reinterpret_cast<T>(address);
}

} // namespace

CompilerClient &CompilerClient::process() {
  static CompilerClient &client = *new CompilerClient;
  return client;
}

void CompilerClient::load() {
  // An exception leaves the flag unset: the next call tries again, a user may
  // have set the variable by then.
  std::call_once(once, [&] {
    // Never closed: LLVM keeps threads and static objects.
    void *library = openCompiler(compilerName());
    auto versionFunction = find<const char *(*)()>(library, "flarec_version");
    std::string_view itsVersion = versionFunction();
    if (itsVersion != version())
      throw Error(fmt::format("the compiler is version {}, the runtime {}; "
                              "install both from one build",
                              itsVersion, version()));
    std::string itsBuild = buildId(pathOf(library));
    if (itsBuild.empty())
      throw Error(fmt::format("the compiler {} has no build id, so its kernels "
                              "cannot be told from those of another build; "
                              "link it with -Wl,--build-id=sha1",
                              pathOf(library)));
    freeFunction = find<decltype(freeFunction)>(library, "flarec_free");
    compileFunction =
        find<decltype(compileFunction)>(library, "flarec_compile");
    std::lock_guard lock(mutex);
    loadedBuild = itsBuild;
  });
}

std::string CompilerClient::build() {
  {
    std::lock_guard lock(mutex);
    if (!loadedBuild.empty())
      return loadedBuild;
  }
  std::string name = compilerName();
  if (isPath(name))
    return buildId(name);
  // Only the loader knows where it is.
  void *library = dlopen(name.c_str(), flags);
  return library ? buildId(pathOf(library)) : "";
}

std::string CompilerClient::compile(const std::string &request) {
  load();
  char *bytes = nullptr, *error = nullptr;
  size_t size = 0;
  int status = compileFunction(request.c_str(), &bytes, &size, &error);
  std::string result = bytes ? std::string(bytes, size) : std::string();
  std::string message = error ? error : "it does not say why";
  freeFunction(bytes);
  freeFunction(error);
  if (status != 0)
    throw Error("the compiler made no kernels: " + message);
  return result;
}
