// Who runs the blocks of a host kernel: a function that the caller gives
// (PyTorch's parallel_for, say) or our own pool.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

namespace flarec {

/// Calls body(begin, end) for ranges that cover 0..count, on any threads, and
/// returns when all are done.
using ParallelFor = std::function<void(
    int64_t count,
    const std::function<void(int64_t begin, int64_t end)> &body)>;

/// A small pool. The caller's thread works too. Ranges are handed out as
/// threads become free. The first exception of a body reaches the caller.
/// Called from within a body it runs serially. After a fork the child gets
/// threads of its own.
class ThreadPool {
public:
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool &) = delete;
  ThreadPool &operator=(const ThreadPool &) = delete;

  void parallelFor(int64_t count,
                   const std::function<void(int64_t, int64_t)> &body);

  int threads() const { return threadCount; }

  /// As many threads as this process may use processors.
  static ThreadPool &process();

private:
  struct State;
  State &current();

  int threadCount;
  std::atomic<State *> state{nullptr};
};

/// ThreadPool::process() as a ParallelFor.
ParallelFor defaultParallelFor();

} // namespace flarec
