#include "flarec/cache.h"
#include "support.h"

#include <atomic>
#include <csignal>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

using namespace flarec;
using namespace flarec::test;
using testing::HasSubstr;
namespace fs = std::filesystem;

namespace {

const std::string requestText = "{\"a\":1}";

std::string good() {
  return sampleArtefact(Cache::key(requestText)).serialise();
}

std::string never() {
  ADD_FAILURE() << "a hit must not invoke the compiler";
  return good();
}

fs::path entryIn(const fs::path &directory) {
  return directory / (Cache::key(requestText) + ".flare");
}

void limitFiles(rlim_t bytes) {
  rlimit limit{bytes, bytes};
  setrlimit(RLIMIT_FSIZE, &limit);
}

} // namespace

TEST(Cache, CompilesOnceThenHits) {
  TemporaryDirectory directory;
  Cache cache(directory.path / "made" / "when needed");
  int compiled = 0;
  auto compile = [&] { return ++compiled, good(); };
  auto first = cache.get(requestText, compile);
  EXPECT_EQ(cache.get(requestText, compile), first);
  EXPECT_EQ(compiled, 1);
  // Another process's view: from disk.
  Cache other(directory.path / "made" / "when needed");
  EXPECT_EQ(other.get(requestText, never)->serialise(), first->serialise());
  EXPECT_EQ(filesIn(directory.path / "made" / "when needed").size(), 1u);
}

TEST(Cache, WithoutDirectoryInMemoryOnly) {
  Cache cache("");
  auto first = cache.get(requestText, good);
  EXPECT_EQ(cache.get(requestText, never), first);
}

// Two builds of the compiler make different code for one request.
TEST(Cache, ACompilerFindsWhatItsOwnBuildHasMade) {
  TemporaryDirectory directory;
  auto build = [](const char *name) { return [name] { return name; }; };
  int compiled = 0;
  auto compile = [&] { return ++compiled, good(); };
  for (const char *name : {"aa", "bb", "aa", "bb"})
    Cache(directory.path).get(requestText, compile, build(name));
  EXPECT_EQ(compiled, 2);
  fs::path file = entryIn("").filename();
  EXPECT_TRUE(fs::exists(directory.path / "aa" / file));
  EXPECT_TRUE(fs::exists(directory.path / "bb" / file));
}

TEST(Cache, WithoutACompilerTheNewestEntryOfAnyBuildServes) {
  TemporaryDirectory directory;
  fs::path file = entryIn("").filename();
  auto put = [&](const char *build, const char *maker, int age) {
    Manifest manifest = Artefact::parse(good()).manifest();
    manifest.compiler = maker;
    fs::create_directories(directory.path / build);
    fs::path path = directory.path / build / file;
    writeBytes(
        path,
        Artefact(manifest, {std::string("ptx\0", 4), "cubin"}).serialise());
    fs::last_write_time(path, fs::file_time_type::clock::now() -
                                  std::chrono::minutes(age));
    return path;
  };
  put("aa", "oldest", 30);
  fs::path newest = put("bb", "newest", 10);
  put("cc", "old", 20);
  auto maker = [&] {
    return Cache(directory.path).get(requestText, never)->manifest().compiler;
  };
  EXPECT_EQ(maker(), "newest");
  writeBytes(newest, "damaged");
  testing::internal::CaptureStderr();
  EXPECT_EQ(maker(), "old");
  EXPECT_THAT(testing::internal::GetCapturedStderr(),
              HasSubstr(newest.string() + " is not used: this is not"));
}

// The compiler's file may be replaced between look-up and compilation.
TEST(Cache, AnEntryBelongsToTheBuildThatMadeIt) {
  TemporaryDirectory directory;
  std::string build = "aa";
  Cache(directory.path)
      .get(
          requestText, [&] { return build = "bb", good(); },
          [&] { return build; });
  EXPECT_FALSE(fs::exists(directory.path / "aa"));
  EXPECT_TRUE(fs::exists(directory.path / "bb"));
}

TEST(Cache, AddedArtefactIsFoundByItsKey) {
  Cache cache("");
  cache.add(std::make_shared<const Artefact>(
      sampleArtefact(Cache::key(requestText))));
  cache.get(requestText, never);
}

TEST(Cache, OneCompilationForManyThreads) {
  TemporaryDirectory directory;
  Cache cache(directory.path);
  std::atomic<int> compiled{0};
  std::vector<std::shared_ptr<const Artefact>> results(8);
  std::vector<std::thread> threads;
  for (auto &result : results)
    threads.emplace_back([&] {
      result = cache.get(requestText, [&] {
        ++compiled;
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
        return good();
      });
    });
  for (std::thread &thread : threads)
    thread.join();
  EXPECT_EQ(compiled, 1);
  for (auto &result : results)
    EXPECT_EQ(result, results[0]);
}

TEST(Cache, FailureReachesAllWhoWaitAndTheNextCallTriesAgain) {
  TemporaryDirectory directory;
  Cache cache(directory.path);
  std::atomic<int> compiled{0}, failed{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      try {
        cache.get(requestText, [&]() -> std::string {
          ++compiled;
          std::this_thread::sleep_for(std::chrono::milliseconds(200));
          throw Error("no");
        });
      } catch (const Error &) {
        ++failed;
      }
    });
  for (std::thread &thread : threads)
    thread.join();
  EXPECT_EQ(failed, 4);
  EXPECT_LT(compiled, 4);
  EXPECT_TRUE(cache.get(requestText, good));
}

TEST(Cache, ForkWhileAnotherThreadCompiles) {
  TemporaryDirectory directory;
  Cache cache(directory.path);
  std::atomic<bool> compiling{false}, finish{false};
  std::thread compiler([&] {
    cache.get(requestText, [&] {
      compiling = true;
      while (!finish)
        std::this_thread::yield();
      return good();
    });
  });
  while (!compiling)
    std::this_thread::yield();
  EXPECT_EQ(inChild([&] {
              alarm(20); // the parent's thread does not exist here: waiting for
                         // it would be for ever
              return cache.get(requestText, good) ? 0 : 1;
            }),
            0);
  finish = true;
  compiler.join();
}

TEST(Cache, EightProcessesRace) {
  TemporaryDirectory directory;
  int gate[2];
  ASSERT_EQ(pipe(gate), 0);
  std::vector<pid_t> children;
  for (int i = 0; i < 8; ++i) {
    pid_t child = fork();
    if (child == 0) {
      char byte;
      close(gate[1]);
      (void)!read(gate[0], &byte,
                  1); // all start when the parent closes its end
      bool right = true;
      for (int round = 0; round < 50; ++round) {
        std::string request = "request " + std::to_string(round);
        Cache cache(directory.path);
        auto compile = [&] {
          return sampleArtefact(Cache::key(request)).serialise();
        };
        right = right && cache.get(request, compile)->manifest().key ==
                             Cache::key(request);
      }
      _exit(right ? 0 : 1);
    }
    children.push_back(child);
  }
  testing::internal::CaptureStderr();
  close(gate[0]);
  close(gate[1]);
  for (pid_t child : children) {
    int status;
    waitpid(child, &status, 0);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  }
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  EXPECT_EQ(filesIn(directory.path).size(), 50u);
  for (const fs::path &file : filesIn(directory.path))
    EXPECT_NO_THROW(Artefact::read(file)) << file;
}

TEST(Cache, WriterKilledBeforeCommit) {
  TemporaryDirectory directory;
  // The file size limit kills the child with SIGXFSZ in the middle of its
  // temporary.
  EXPECT_EQ(inChild([&] {
              limitFiles(100);
              Cache(directory.path).get(requestText, good);
              return 0;
            }),
            -SIGXFSZ);
  ASSERT_EQ(filesIn(directory.path).size(), 1u);
  fs::path temporary = filesIn(directory.path)[0];
  EXPECT_FALSE(fs::exists(entryIn(directory.path)));

  // Readers see nothing; a young temporary may belong to someone.
  Cache(directory.path).get(requestText, good);
  EXPECT_TRUE(fs::exists(temporary));
  Cache(directory.path).get(requestText, never);

  // After an hour it belongs to nobody.
  fs::last_write_time(temporary, fs::file_time_type::clock::now() -
                                     std::chrono::minutes(61));
  fs::remove(entryIn(directory.path));
  Cache(directory.path).get(requestText, good);
  EXPECT_FALSE(fs::exists(temporary));
  EXPECT_TRUE(fs::exists(entryIn(directory.path)));
}

TEST(Cache, FullDiskIsReportedOnceAndFailsNothing) {
  TemporaryDirectory directory;
  testing::internal::CaptureStderr();
  EXPECT_EQ(inChild([&] {
              signal(SIGXFSZ, SIG_IGN); // write() then fails instead
              limitFiles(1000); // less than an artefact, more than the message
              Cache cache(directory.path);
              for (int i = 0; i < 3; ++i) {
                std::string request = "request " + std::to_string(i);
                cache.get(request, [&] {
                  return sampleArtefact(Cache::key(request)).serialise();
                });
              }
              return 0;
            }),
            0);
  std::string said = testing::internal::GetCapturedStderr();
  EXPECT_THAT(said, HasSubstr("cannot be kept in " + directory.path.string()));
  EXPECT_THAT(said, HasSubstr("FLAREC_CACHE_DIR"));
  EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 1);
  EXPECT_TRUE(filesIn(directory.path).empty());
}

TEST(Cache, ReadOnlyDirectoryIsUsedForReadingOnly) {
  TemporaryDirectory directory;
  fs::path shared = directory.path / "shared";
  Cache(shared).get(requestText, good);
  fs::permissions(directory.path, fs::perms(0755));
  fs::permissions(shared, fs::perms(0555));
  testing::internal::CaptureStderr();
  EXPECT_EQ(inChild([&] {
              if (getuid() == 0 &&
                  setuid(65534) != 0) // root may write anywhere
                return 2;
              Cache cache(shared);
              bool hit = true;
              cache.get(requestText, [&] { return hit = false, good(); });
              cache.get("other", [&] {
                return sampleArtefact(Cache::key("other")).serialise();
              });
              return hit ? 0 : 1;
            }),
            0);
  EXPECT_THAT(testing::internal::GetCapturedStderr(),
              HasSubstr("Permission denied"));
  EXPECT_EQ(filesIn(shared).size(), 1u);
}

TEST(Cache, DirectoryThatCannotBe) {
  TemporaryDirectory directory;
  writeBytes(directory.path / "file", "");
  testing::internal::CaptureStderr();
  Cache cache(directory.path / "file" / "cache");
  EXPECT_TRUE(cache.get(requestText, good));
  EXPECT_THAT(testing::internal::GetCapturedStderr(),
              HasSubstr("Not a directory"));
}

// What may lie under an entry's name; each is ignored, reported once and
// replaced.
TEST(Cache, DamagedAndForeignEntries) {
  std::string damaged = good();
  damaged[damaged.size() / 2] ^= 4;
  std::string newer = good();
  newer[7] = 9;
  const std::pair<std::string, std::string> cases[] = {
      {"", "not a flarec artefact"},
      {"#!/bin/sh\n", "not a flarec artefact"},
      {damaged, "checksum"},
      {good().substr(0, 200), "checksum"},
      {newer, "format version 9"},
      {sampleArtefact(Cache::key("another")).serialise(),
       "belongs to another request"},
  };
  for (auto &[bytes, says] : cases) {
    TemporaryDirectory directory;
    writeBytes(entryIn(directory.path), bytes);
    testing::internal::CaptureStderr();
    Cache cache(directory.path);
    EXPECT_EQ(cache.get(requestText, good)->serialise(), good());
    cache.get(requestText, never);
    std::string said = testing::internal::GetCapturedStderr();
    EXPECT_THAT(said, HasSubstr(says));
    EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 1) << said;
    EXPECT_EQ(readBytes(entryIn(directory.path)), good());
  }
}

TEST(Cache, EntryThatIsNoFile) {
  TemporaryDirectory directory;
  testing::internal::CaptureStderr();
  fs::create_directory(entryIn(directory.path));
  EXPECT_TRUE(Cache(directory.path).get(requestText, good));
  fs::remove(entryIn(directory.path));
  ASSERT_EQ(mkfifo(entryIn(directory.path).c_str(), 0600), 0);
  alarm(20); // opening a pipe must not wait for a writer
  EXPECT_TRUE(Cache(directory.path).get(requestText, good));
  alarm(0);
  EXPECT_THAT(testing::internal::GetCapturedStderr(),
              HasSubstr("not a regular file"));
  Cache(directory.path).get(requestText, never); // the pipe was replaced
}

TEST(Cache, WrongCompilerIsAnErrorAndLeavesNoEntry) {
  TemporaryDirectory directory;
  Cache cache(directory.path);
  EXPECT_THAT(errorOf([&] {
                cache.get(requestText,
                          [] { return sampleArtefact("other").serialise(); });
              }),
              HasSubstr("do not belong together"));
  EXPECT_THROW(cache.get(requestText, [] { return std::string("junk"); }),
               Error);
  EXPECT_TRUE(filesIn(directory.path).empty());
}

TEST(Cache, DefaultDirectory) {
  EXPECT_EQ(inChild([] {
              setenv("HOME", "/h", 1);
              unsetenv("XDG_CACHE_HOME");
              unsetenv("FLAREC_CACHE_DIR");
              bool right = Cache::defaultDirectory() == "/h/.cache/flarec";
              setenv("XDG_CACHE_HOME", "relative", 1); // to be ignored
              right = right && Cache::defaultDirectory() == "/h/.cache/flarec";
              setenv("XDG_CACHE_HOME", "/x", 1);
              right = right && Cache::defaultDirectory() == "/x/flarec";
              setenv("FLAREC_CACHE_DIR", "/f", 1);
              right = right && Cache::defaultDirectory() == "/f";
              setenv("FLAREC_CACHE_DIR", "", 1);
              unsetenv("XDG_CACHE_HOME");
              unsetenv("HOME");
              right = right && Cache::defaultDirectory().empty();
              return right ? 0 : 1;
            }),
            0);
}
