//===- Scratch.cpp - A nameless file that has a path ------------------------===//

#include "Scratch.h"
#include "Guard.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>

using namespace llvm;

namespace flarec::detail {

static Error systemError(const Twine &what) {
  return makeError(what + ": " + std::strerror(errno));
}

Expected<ScratchFile> ScratchFile::create(StringRef contents, Kind kind) {
  ScratchFile file;
  if (kind == Kind::Memory) {
    file.descriptor = memfd_create("flarec", MFD_CLOEXEC);
    if (file.descriptor >= 0) {
      file.name = "/proc/self/fd/" + std::to_string(file.descriptor);
      if (access(file.name.c_str(), R_OK | W_OK) != 0) {
        close(file.descriptor);
        file.descriptor = -1;
      }
    }
  }
  if (file.descriptor < 0) {
    const char *directory = std::getenv("TMPDIR");
    file.name = std::string(directory && *directory ? directory : "/tmp") +
                "/flarec-XXXXXX";
    file.descriptor = mkostemp(file.name.data(), O_CLOEXEC);
    if (file.descriptor < 0)
      return systemError("cannot make a temporary file " + Twine(file.name));
    file.onDisk = true;
  }
  while (!contents.empty()) {
    ssize_t written = ::write(file.descriptor, contents.data(), contents.size());
    if (written < 0 && errno == EINTR)
      continue;
    if (written <= 0)
      return systemError("cannot write " + Twine(file.name));
    contents = contents.drop_front(written);
  }
  return file;
}

ScratchFile::ScratchFile(ScratchFile &&other)
    : descriptor(std::exchange(other.descriptor, -1)), onDisk(other.onDisk),
      name(std::move(other.name)) {}

ScratchFile::~ScratchFile() {
  if (descriptor < 0)
    return;
  close(descriptor);
  if (onDisk)
    unlink(name.c_str());
}

Expected<std::string> ScratchFile::read() const {
  // By path: a writer may have replaced the file.
  int fd = open(name.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return systemError("cannot read " + Twine(name));
  std::string bytes;
  char buffer[1 << 16];
  ssize_t size;
  while ((size = ::read(fd, buffer, sizeof buffer)) != 0) {
    if (size > 0)
      bytes.append(buffer, size);
    else if (errno != EINTR)
      break;
  }
  int readErrno = errno;
  close(fd);
  errno = readErrno;
  if (size < 0)
    return systemError("cannot read " + Twine(name));
  return bytes;
}

} // namespace flarec::detail
