#include "flarec/host_code.h"

#include "flarec/error.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <fcntl.h>
#include <mutex>
#include <optional>
#include <sys/mman.h>
#include <unistd.h>

using namespace flarec;

namespace {

/// A file in memory with these bytes.
int memoryFile(std::string_view bytes) {
  // Since Linux 6.3 an executable file has to be asked for (MFD_EXEC,
  // linux/memfd.h); older kernels refuse the flag.
  constexpr unsigned mfdExec = 0x10;
  int fd = memfd_create("flarec", MFD_CLOEXEC | mfdExec);
  if (fd < 0 && errno == EINVAL)
    fd = memfd_create("flarec", MFD_CLOEXEC);
  if (fd < 0)
    throw Error(fmt::format("cannot load host kernels: memfd_create: {}",
                            std::strerror(errno)));
  while (!bytes.empty()) {
    ssize_t n = write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0) {
      int failure = errno;
      close(fd);
      throw Error(fmt::format("cannot load host kernels: no memory for {} "
                              "bytes: {}",
                              bytes.size(), std::strerror(failure)));
    }
    bytes.remove_prefix(size_t(n));
  }
  return fd;
}

} // namespace

const char *flarec::isaName(Isa isa) {
  switch (isa) {
  case Isa::Baseline:
    return "baseline";
  case Isa::Avx2:
    return "avx2";
  case Isa::Avx512:
    return "avx512";
  }
  return "";
}

/// What $FLAREC_HOST_ISA asks for.
static std::optional<Isa> askedIsa() {
  const char *asked = std::getenv("FLAREC_HOST_ISA");
  if (!asked || !*asked)
    return std::nullopt;
  for (Isa isa : {Isa::Baseline, Isa::Avx2, Isa::Avx512})
    if (std::string_view(asked) == isaName(isa))
      return isa;
  throw Error(fmt::format("FLAREC_HOST_ISA is \"{}\"; allowed are baseline, "
                          "avx2 and avx512; unset it for the best",
                          asked));
}

Isa flarec::hostIsa() { return askedIsa().value_or(processorIsa()); }

Isa flarec::processorIsa() {
  __builtin_cpu_init(); // these ask the operating system's part (XCR0) too
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd"))
    return Isa::Avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return Isa::Avx2;
  return Isa::Baseline;
}

size_t flarec::chooseHostCode(const Manifest &manifest) {
  std::optional<Isa> asked = askedIsa();
  Isa most = processorIsa();
  size_t best = manifest.code.size();
  std::string present;
  for (size_t i = 0; i < manifest.code.size(); ++i) {
    Isa isa = manifest.code[i].isa;
    present += fmt::format("{}{}", present.empty() ? "" : ", ", isaName(isa));
    if (isa > most || (asked && *asked != isa))
      continue;
    if (best == manifest.code.size() || isa > manifest.code[best].isa)
      best = i;
  }
  if (best == manifest.code.size())
    throw Error(fmt::format(
        "the artefact has host code for {}, this processor runs up to {}{}; "
        "compile it for this processor",
        present.empty() ? "nothing" : present, isaName(most),
        asked ? fmt::format(" and FLAREC_HOST_ISA asks for {}", isaName(*asked))
              : ""));
  return best;
}

HostCode::HostCode(std::string_view elf) {
  // dlopen takes a library that it has under the same *name* for the same one,
  // and a descriptor's number is soon used again: then it would hand out the
  // kernels of another artefact. So take a descriptor whose name is free.
  static std::mutex mutex;
  std::lock_guard lock(mutex);
  std::vector<int> descriptors = {memoryFile(elf)};
  std::string path;
  while (descriptors.back() >= 0) {
    path = fmt::format("/proc/self/fd/{}", descriptors.back());
    void *taken = dlopen(path.c_str(), RTLD_LAZY | RTLD_NOLOAD);
    if (!taken)
      break;
    dlclose(taken);
    descriptors.push_back(fcntl(descriptors.back(), F_DUPFD_CLOEXEC, 0));
  }
  std::string problem = "too many open files";
  if (descriptors.back() >= 0) {
    dlerror();
    handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!handle)
      problem = dlerror();
  }
  for (int descriptor : descriptors)
    if (descriptor >= 0)
      close(descriptor);
  if (!handle)
    throw Error(fmt::format("cannot load host kernels: {}", problem));
}

HostCode::~HostCode() { dlclose(handle); }

HostKernel HostCode::kernel(const std::string &symbol) const {
  void *address = dlsym(handle, symbol.c_str());
  if (!address)
    throw Error(fmt::format("the artefact's host code has no symbol {}; the "
                            "artefact is wrong, compile it again",
                            symbol));
  return reinterpret_cast<HostKernel>(address);
}
