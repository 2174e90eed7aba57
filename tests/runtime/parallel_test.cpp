#include "flarec/parallel.h"
#include "support.h"

#include <atomic>
#include <thread>

using namespace flarec;
using namespace flarec::test;

static bool coversOnce(ThreadPool &pool, int64_t count) {
  std::vector<std::atomic<int>> hits(static_cast<size_t>(count));
  pool.parallelFor(count, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      ++hits[size_t(i)];
  });
  for (auto &hit : hits)
    if (hit != 1)
      return false;
  return true;
}

TEST(ThreadPool, EveryIndexOnce) {
  ThreadPool pool(4);
  for (int64_t count : {0, 1, 2, 3, 31, 32, 33, 1000, 100000})
    EXPECT_TRUE(coversOnce(pool, count)) << count;
}

TEST(ThreadPool, ManyCallersAtOnce) {
  ThreadPool pool(3);
  std::atomic<int> failures{0};
  std::vector<std::thread> callers;
  for (int t = 0; t < 6; ++t)
    callers.emplace_back([&] {
      for (int i = 0; i < 200; ++i)
        failures += !coversOnce(pool, 1 + i);
    });
  for (std::thread &caller : callers)
    caller.join();
  EXPECT_EQ(failures, 0);
}

TEST(ThreadPool, ExceptionReachesTheCallerAndThePoolGoesOn) {
  ThreadPool pool(4);
  for (int64_t bad : {0, 57, 999})
    EXPECT_THROW(pool.parallelFor(1000,
                                  [&](int64_t begin, int64_t end) {
                                    if (begin <= bad && bad < end)
                                      throw std::runtime_error("bad");
                                  }),
                 std::runtime_error);
  EXPECT_TRUE(coversOnce(pool, 1000));
}

TEST(ThreadPool, NestedCallsAreSerial) {
  ThreadPool pool(4);
  std::atomic<int> sum{0};
  pool.parallelFor(16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      pool.parallelFor(10, [&](int64_t b, int64_t e) { sum += int(e - b); });
  });
  EXPECT_EQ(sum, 160);
}

TEST(ThreadPool, ForkedChildHasThreadsOfItsOwn) {
  ThreadPool pool(4);
  ASSERT_TRUE(coversOnce(pool, 1000));
  EXPECT_EQ(inChild([&] {
              alarm(20);
              return coversOnce(pool, 1000) && coversOnce(pool, 10) ? 0 : 1;
            }),
            0);
  // And the child's child, and the pool's destructor in a child.
  EXPECT_EQ(inChild([] {
              alarm(20);
              ThreadPool own(2);
              bool good = coversOnce(own, 100);
              return inChild(
                  [&] { return good && coversOnce(own, 100) ? 0 : 1; });
            }),
            0);
  EXPECT_TRUE(coversOnce(pool, 1000));
}

TEST(ThreadPool, ForkWhileWorking) {
  ThreadPool pool(4);
  std::atomic<bool> stop{false};
  std::thread busy([&] {
    while (!stop)
      coversOnce(pool, 500);
  });
  for (int i = 0; i < 20; ++i)
    EXPECT_EQ(inChild([&] {
                alarm(20);
                return coversOnce(pool, 100) ? 0 : 1;
              }),
              0);
  stop = true;
  busy.join();
}
