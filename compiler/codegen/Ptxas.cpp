//===- Ptxas.cpp - What the assembler says of our PTX ---------------------===//

#include "Ptxas.h"
#include "Guard.h"

#include "llvm/ADT/SmallVector.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/FileUtilities.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Program.h"
#include "llvm/Support/raw_ostream.h"
#include <algorithm>
#include <cstdlib>

using namespace llvm;
using flarec::detail::makeError;

namespace flarec {

std::optional<std::string> findPtxas() {
  auto usable = [](const Twine &path) {
    return sys::fs::is_regular_file(path) && sys::fs::can_execute(path);
  };
  if (const char *given = std::getenv("FLAREC_PTXAS"); given && *given) {
    if (usable(given))
      return given;
    // The newest of several versions: the last by name.
    std::vector<std::string> found;
    std::error_code ec;
    for (sys::fs::directory_iterator it(Twine(given) + "/nvidia", ec), end;
         !ec && it != end; it.increment(ec))
      if (std::string path = it->path() + "/bin/ptxas"; usable(path))
        found.push_back(path);
    if (!found.empty())
      return *std::max_element(found.begin(), found.end());
    return std::nullopt; // Asked for one in particular: take no other.
  }
  if (ErrorOr<std::string> path = sys::findProgramByName("ptxas"))
    return *path;
  if (const char *path = "/usr/local/cuda/bin/ptxas"; usable(path))
    return path;
  return std::nullopt;
}

/// The number in front of `unit`, as in "24 bytes spill stores"; 0 without.
static unsigned numberBefore(StringRef line, StringRef unit) {
  size_t at = line.find(unit);
  if (at == StringRef::npos)
    return 0;
  StringRef before = line.take_front(at).rtrim();
  unsigned value = 0;
  before.take_back(before.size() - (before.find_last_not_of("0123456789") + 1))
      .getAsInteger(10, value);
  return value;
}

AssemblyReport parsePtxasLog(StringRef log) {
  AssemblyReport report;
  report.log = log.str();
  KernelReport *kernel = nullptr;
  SmallVector<StringRef, 32> lines;
  log.split(lines, '\n', -1, /*KeepEmpty=*/false);
  for (StringRef line : lines) {
    line = line.trim();
    if (line.contains("Compiling entry function '")) {
      report.kernels.emplace_back();
      kernel = &report.kernels.back();
      kernel->name = line.split('\'').second.split('\'').first.str();
    } else if (line.contains(" bytes stack frame") && kernel) {
      // Device functions that were not inlined have lines of their own.
      kernel->stackFrameBytes += numberBefore(line, " bytes stack frame");
      kernel->spillStoreBytes += numberBefore(line, " bytes spill stores");
      kernel->spillLoadBytes += numberBefore(line, " bytes spill loads");
    } else if (line.contains(": Used ") && kernel) {
      kernel->registers = numberBefore(line, " registers");
      kernel->barriers = numberBefore(line, " barriers");
      kernel->staticSharedBytes = numberBefore(line, " bytes smem");
    }
    if (line.contains("warning") || line.contains("(C75"))
      report.warnings.push_back(line.str());
  }
  return report;
}

namespace {

/// A file for ptxas to read or write, removed with the object.
struct TemporaryFile {
  Error write(StringRef suffix, StringRef contents) {
    int descriptor;
    if (std::error_code ec =
            sys::fs::createTemporaryFile("flarec", suffix, descriptor, path))
      return createFileError("temporary file", ec);
    remover.setFile(path);
    raw_fd_ostream os(descriptor, /*shouldClose=*/true);
    os << contents;
    os.close();
    std::error_code ec = os.error();
    os.clear_error();
    return ec ? createFileError(path, ec) : Error::success();
  }
  Expected<std::string> read() const {
    auto buffer = MemoryBuffer::getFile(path, /*IsText=*/false,
                                        /*RequiresNullTerminator=*/false);
    if (!buffer)
      return createFileError(path, buffer.getError());
    return (*buffer)->getBuffer().str();
  }
  SmallString<128> path;
  FileRemover remover;
};

} // namespace

Expected<AssemblyReport> assemble(StringRef ptx, StringRef chip) {
  std::optional<std::string> ptxas = findPtxas();
  if (!ptxas)
    return makeError("no ptxas: set FLAREC_PTXAS to one");
  TemporaryFile input, output, messages;
  if (Error error = input.write("ptx", ptx))
    return error;
  if (Error error = output.write("cubin", ""))
    return error;
  if (Error error = messages.write("log", ""))
    return error;

  std::string archOption = "-arch=" + chip.str();
  StringRef arguments[] = {*ptxas, "-v",        archOption,
                           "-o",   output.path, input.path};
  std::optional<StringRef> redirects[] = {StringRef(), messages.path.str(),
                                          messages.path.str()};
  std::string failure;
  // It takes 0.01 to 5 s for a kernel of ours; one that hangs is not waited for.
  constexpr unsigned seconds = 300;
  int status = sys::ExecuteAndWait(*ptxas, arguments, std::nullopt, redirects,
                                   seconds, 0, &failure);
  Expected<std::string> log = messages.read();
  if (!log)
    return log.takeError();
  if (status != 0)
    return makeError("ptxas for " + chip + ": " +
                     StringRef(failure + *log).rtrim());
  AssemblyReport report = parsePtxasLog(*log);
  Expected<std::string> cubin = output.read();
  if (!cubin)
    return cubin.takeError();
  report.cubin = std::move(*cubin);
  return report;
}

} // namespace flarec
