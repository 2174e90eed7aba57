#include "files.h"

#include <fmt/format.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

using namespace flarec;

std::optional<std::string> flarec::readFile(const std::filesystem::path &path,
                                            std::string &problem) {
  // O_NONBLOCK: a pipe left under this name must not hang us.
  int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    if (errno != ENOENT)
      problem = std::strerror(errno);
    return std::nullopt;
  }
  std::string bytes;
  struct stat status;
  if (fstat(fd, &status) == 0 && S_ISREG(status.st_mode)) {
    bytes.resize(size_t(status.st_size));
    size_t done = 0;
    while (done < bytes.size()) {
      ssize_t n = read(fd, bytes.data() + done, bytes.size() - done);
      if (n < 0 && errno == EINTR)
        continue;
      if (n < 0)
        problem = std::strerror(errno);
      if (n <= 0)
        break;
      done += size_t(n);
    }
    bytes.resize(done);
  } else {
    problem = "not a regular file";
  }
  close(fd);
  if (!problem.empty())
    return std::nullopt;
  return bytes;
}

std::optional<std::string>
flarec::publishFile(const std::filesystem::path &path, std::string_view bytes) {
  // Process, time and count: unique among the threads of this machine, and
  // O_EXCL guards against those of others.
  static std::atomic<unsigned> count{0};
  auto now = std::chrono::steady_clock::now().time_since_epoch().count();
  std::filesystem::path temporary =
      path.parent_path() / fmt::format(".{}.{}-{:x}-{}.tmp",
                                       path.filename().string(), getpid(),
                                       uint64_t(now), count++);
  int fd =
      open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (fd < 0)
    return std::string(std::strerror(errno));
  int failure = 0;
  while (!bytes.empty() && !failure) {
    ssize_t n = write(fd, bytes.data(), bytes.size());
    if (n >= 0)
      bytes.remove_prefix(size_t(n));
    else if (errno != EINTR)
      failure = errno;
  }
  // Network file systems report a full disk here.
  if (close(fd) != 0 && !failure)
    failure = errno;
  if (!failure && rename(temporary.c_str(), path.c_str()) != 0)
    failure = errno;
  if (!failure)
    return std::nullopt;
  unlink(temporary.c_str());
  return std::string(std::strerror(failure));
}

bool flarec::isTemporary(std::string_view fileName) {
  return fileName.starts_with(".") && fileName.ends_with(".tmp");
}
