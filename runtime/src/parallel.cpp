#include "flarec/parallel.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <sched.h>
#include <system_error>
#include <thread>
#include <unistd.h>
#include <vector>

using namespace flarec;

namespace {

/// One parallelFor; lives on its caller's stack.
struct Job {
  int64_t count, chunk;
  const std::function<void(int64_t, int64_t)> &body;
  std::atomic<int64_t> next{0};
  int helpers = 0;              // workers inside run(), under the pool's mutex
  std::exception_ptr exception; // the first, under `exceptionMutex`
  std::mutex exceptionMutex;

  Job(int64_t count, int64_t chunk,
      const std::function<void(int64_t, int64_t)> &body)
      : count(count), chunk(chunk), body(body) {}

  void run() {
    while (true) {
      int64_t begin = next.fetch_add(chunk, std::memory_order_relaxed);
      if (begin >= count)
        return;
      try {
        body(begin, std::min(begin + chunk, count));
      } catch (...) {
        std::lock_guard lock(exceptionMutex);
        if (!exception)
          exception = std::current_exception();
        next = count; // the others need not start what is left
      }
    }
  }
};

// A body that calls parallelFor would wait for threads that wait for it.
thread_local bool insideBody = false;

int processors() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0)
    return CPU_COUNT(&set);
  return std::max(1u, std::thread::hardware_concurrency());
}

} // namespace

struct ThreadPool::State {
  pid_t process = getpid();
  std::mutex mutex;
  std::condition_variable work, done;
  std::deque<Job *> jobs;
  bool stop = false;
  bool started = false;
  std::vector<std::thread> workers;

  /// Under the mutex: threads are made at first use, and only by the state that
  /// is in use.
  void start(int count) {
    if (started)
      return;
    started = true;
    try {
      for (int i = 0; i < count; ++i)
        workers.emplace_back([this] { workerLoop(); });
    } catch (const std::system_error &) {
      // The system gives no more threads: those that we have (the caller at
      // least) do the work.
    }
  }

  void workerLoop() {
    insideBody = true;
    std::unique_lock lock(mutex);
    while (true) {
      work.wait(lock, [&] { return stop || !jobs.empty(); });
      if (stop)
        return;
      Job *job = jobs.front();
      ++job->helpers;
      lock.unlock();
      job->run();
      lock.lock();
      retire(job);
      if (--job->helpers == 0)
        done.notify_all();
    }
  }

  /// A job without work left must not be taken up again.
  void retire(Job *job) {
    auto it = std::find(jobs.begin(), jobs.end(), job);
    if (it != jobs.end())
      jobs.erase(it);
  }
};

ThreadPool::ThreadPool(int threads) : threadCount(std::max(1, threads)) {}

ThreadPool::~ThreadPool() {
  State *last = state.load();
  // In a forked child the parent's threads do not exist and its mutex may be
  // held for ever: leave them.
  if (!last || last->process != getpid())
    return;
  {
    std::lock_guard lock(last->mutex);
    last->stop = true;
  }
  last->work.notify_all();
  for (std::thread &worker : last->workers)
    worker.join();
  delete last;
}

ThreadPool::State &ThreadPool::current() {
  State *now = state.load(std::memory_order_acquire);
  while (!now || now->process != getpid()) {
    // Lock-free, since a fork may have caught any lock held. The parent's state
    // is left behind in the child.
    State *fresh = new State;
    if (state.compare_exchange_strong(now, fresh))
      return *fresh;
    delete fresh;
  }
  return *now;
}

void ThreadPool::parallelFor(
    int64_t count, const std::function<void(int64_t, int64_t)> &body) {
  if (count <= 0)
    return;
  if (insideBody || threadCount == 1 || count == 1)
    return body(0, count);

  // Eight chunks a thread: enough to even out, few enough to cost nothing.
  Job job(count, std::max<int64_t>(1, count / (8 * threadCount)), body);
  State &pool = current();
  {
    std::lock_guard lock(pool.mutex);
    pool.start(threadCount - 1);
    pool.jobs.push_back(&job);
  }
  pool.work.notify_all();
  insideBody = true;
  job.run();
  insideBody = false;
  {
    std::unique_lock lock(pool.mutex);
    pool.retire(&job);
    pool.done.wait(lock, [&] { return job.helpers == 0; });
  }
  if (job.exception)
    std::rethrow_exception(job.exception);
}

ThreadPool &ThreadPool::process() {
  // Never destroyed: other static objects may still launch while the process
  // ends.
  static ThreadPool &pool = *new ThreadPool(processors());
  return pool;
}

ParallelFor flarec::defaultParallelFor() {
  return [](int64_t count, const std::function<void(int64_t, int64_t)> &body) {
    ThreadPool::process().parallelFor(count, body);
  };
}
