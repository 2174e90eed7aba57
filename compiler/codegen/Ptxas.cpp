//===- Ptxas.cpp - What the assembler says of our PTX -----------------------===//

#include "Ptxas.h"
#include "Guard.h"
#include "Scratch.h"

#include "llvm/ADT/SmallVector.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/Program.h"
#include <algorithm>
#include <cstdlib>

using namespace llvm;
using flarec::detail::makeError;
using flarec::detail::ScratchFile;

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

Expected<AssemblyReport> assemble(StringRef ptx, StringRef chip) {
  std::optional<std::string> ptxas = findPtxas();
  if (!ptxas)
    return makeError("no ptxas: set FLAREC_PTXAS to one");
  auto onDisk = [](StringRef contents) {
    return ScratchFile::create(contents, ScratchFile::Kind::OnDisk);
  };
  Expected<ScratchFile> input = onDisk(ptx);
  if (!input)
    return input.takeError();
  Expected<ScratchFile> output = onDisk("");
  if (!output)
    return output.takeError();
  Expected<ScratchFile> messages = onDisk("");
  if (!messages)
    return messages.takeError();

  std::string archOption = "-arch=" + chip.str();
  StringRef arguments[] = {*ptxas, "-v",           archOption,
                           "-o",   output->path(), input->path()};
  std::optional<StringRef> redirects[] = {StringRef(), messages->path(),
                                          messages->path()};
  std::string failure;
  int status = sys::ExecuteAndWait(*ptxas, arguments, std::nullopt, redirects,
                                   0, 0, &failure);
  Expected<std::string> log = messages->read();
  if (!log)
    return log.takeError();
  if (status != 0)
    return makeError("ptxas for " + chip + ": " +
                     StringRef(failure + *log).rtrim());
  AssemblyReport report = parsePtxasLog(*log);
  Expected<std::string> cubin = output->read();
  if (!cubin)
    return cubin.takeError();
  report.cubin = std::move(*cubin);
  return report;
}

} // namespace flarec
