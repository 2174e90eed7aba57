// The way from a description to kernels with a stand-in for
// libflarec_compiler.so. Everything here is once per process, so each test runs
// in a child.
#include "flarec/cache.h"
#include "flarec/compiler_client.h"
#include "flarec/kernels.h"
#include "flarec/version.h"
#include "support.h"

#include <cstdlib>
#include <dlfcn.h>

using namespace flarec;
using namespace flarec::test;
using testing::HasSubstr;

namespace {

const MixerDescription description{
    .headDim = 8, .latents = 4, .gradients = "", .target = "host"};

/// A compiler that counts its calls in a file and returns the bytes of another.
std::string fakeCompiler(const std::string &directory,
                         const std::string &compilerVersion,
                         const std::string &more = "",
                         const std::string &link = "-Wl,--build-id=sha1") {
  return compileC(R"(
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define DIRECTORY ")" +
                      directory + R"("
const char *flarec_version(void) { return ")" +
                      compilerVersion + R"("; }
void flarec_free(void *p) { free(p); }
int flarec_compile(const char *request, char **bytes, size_t *size, char **error) {
  FILE *calls = fopen(DIRECTORY "/calls", "a");
  fputs("x", calls);
  fclose(calls);
  FILE *file = fopen(DIRECTORY "/artefact", "rb");
  if (!file) { *error = strdup("latents are out today"); return 1; }
  *bytes = malloc(1 << 20);
  *size = fread(*bytes, 1, 1 << 20, file);
  fclose(file);
  return 0;
}
)" + more,
                  link + " -Wl,-soname,test_compiler.so");
}

class Compiler : public testing::Test {
protected:
  void install(const std::string &compilerVersion) {
    writeBytes(directory.path / "compiler.so",
               fakeCompiler(directory.path.string(), compilerVersion));
    setenv("FLAREC_COMPILER_LIBRARY", (directory.path / "compiler.so").c_str(),
           1);
  }
  void SetUp() override {
    setenv("FLAREC_CACHE_DIR", (directory.path / "cache").c_str(), 1);
  }
  void TearDown() override {
    unsetenv("FLAREC_COMPILER_LIBRARY");
    unsetenv("FLAREC_CACHE_DIR");
  }
  /// What the fake compiler is to return.
  std::string artefactBytes(int latents = description.latents) {
    FunctionSpec function;
    function.name = "mixer_forward";
    auto add = [&](const char *name, Role role, Index index, int64_t columns) {
      function.tensors.push_back(
          {.name = name,
           .role = role,
           .index = index,
           .rows = index == Index::Latents ? latents : -1,
           .columns = columns});
    };
    add("q", Role::Input, Index::Latents, 8);
    add("k", Role::Input, Index::Tokens, 8);
    add("v", Role::Input, Index::Tokens, 8);
    add("y", Role::Result, Index::Tokens, 8);
    add("z", Role::Result, Index::Latents, 8);
    add("lse_encode", Role::Result, Index::Latents, 0);
    add("lse_decode", Role::Result, Index::Tokens, 0);
    function.kernels = {{.symbol = "f", .grid = Grid::Latents}};
    return hostArtefact(function,
                        "#include <stdint.h>\nvoid f(const uint64_t *s, "
                        "int64_t b, void *m) {}",
                        Cache::key(request(description)))
        ->serialise();
  }
  size_t calls() { return readBytes(directory.path / "calls").size(); }
  TemporaryDirectory directory;
};

} // namespace

TEST_F(Compiler, DescriptionToKernelsOnceForAll) {
  install(version());
  writeBytes(directory.path / "artefact", artefactBytes());
  auto body = [] {
    auto first = kernelsFor(description);
    bool same = kernelsFor(description) == first &&
                kernelsFor(request(description)) == first;
    return same && first->function("mixer_forward")
                           .workspaceBytes({1, 1, 1, 1}) == 0
               ? 0
               : 1;
  };
  EXPECT_EQ(inChild(body), 0);
  EXPECT_EQ(calls(), 1u);
  // The next process neither calls nor loads it.
  writeBytes(directory.path / "compiler.so", "gone");
  EXPECT_EQ(inChild(body), 0);
  EXPECT_EQ(calls(), 1u);
}

TEST_F(Compiler, OfAnotherBuildCompilesAgain) {
  install(version());
  writeBytes(directory.path / "artefact", artefactBytes());
  auto body = [] { return kernelsFor(description) ? 0 : 1; };
  EXPECT_EQ(inChild(body), 0);
  std::string first = readBytes(directory.path / "compiler.so");
  writeBytes(directory.path / "compiler.so",
             fakeCompiler(directory.path.string(), version(), "int changed;"));
  EXPECT_EQ(inChild(body), 0);
  EXPECT_EQ(calls(), 2u);
  // Both are kept.
  EXPECT_EQ(inChild(body), 0);
  writeBytes(directory.path / "compiler.so", first);
  EXPECT_EQ(inChild(body), 0);
  EXPECT_EQ(calls(), 2u);
  // A process without one takes what it was given.
  std::filesystem::remove(directory.path / "compiler.so");
  EXPECT_EQ(inChild(body), 0);
  std::string id = filesIn(directory.path / "cache").at(0).filename().string();
  EXPECT_THAT(id, testing::MatchesRegex("[0-9a-f]{40}-(avx512|avx2|baseline)"));
}

TEST_F(Compiler, WhereTheLoaderLooksItsBuildIsKnownToo) {
  install(version());
  EXPECT_EQ(inChild([&] {
              std::string byPath = CompilerClient::process().build();
              // The loader knows what is loaded by its soname.
              if (!dlopen((directory.path / "compiler.so").c_str(), RTLD_NOW))
                return 1;
              setenv("FLAREC_COMPILER_LIBRARY", "test_compiler.so", 1);
              return !byPath.empty() &&
                             CompilerClient::process().build() == byPath
                         ? 0
                         : 2;
            }),
            0);
}

TEST_F(Compiler, WithoutBuildIdIsRefused) {
  writeBytes(directory.path / "compiler.so",
             fakeCompiler(directory.path.string(), version(), "",
                          "-Wl,--build-id=none"));
  setenv("FLAREC_COMPILER_LIBRARY", (directory.path / "compiler.so").c_str(),
         1);
  EXPECT_EQ(inChild([] {
              return errorOf([] {
                       kernelsFor(description);
                     }).find("has no build id") != std::string::npos
                         ? 0
                         : 1;
            }),
            0);
}

TEST_F(Compiler, ItsWordsReachTheUser) {
  install(version());
  EXPECT_EQ(inChild([] {
              return errorOf([] {
                       kernelsFor(description);
                     }) == "the compiler made no kernels: latents are out today"
                         ? 0
                         : 1;
            }),
            0);
}

TEST_F(Compiler, OfAnotherVersionIsRefused) {
  install("9.9.9+1");
  EXPECT_EQ(inChild([] {
              std::string said =
                  errorOf([] { CompilerClient::process().load(); });
              return said.find("the compiler is version 9.9.9+1, the runtime " +
                               std::string(version())) != std::string::npos
                         ? 0
                         : 1;
            }),
            0);
}

TEST_F(Compiler, NotACompiler) {
  writeBytes(directory.path / "other.so", compileC("int nothing;"));
  setenv("FLAREC_COMPILER_LIBRARY", (directory.path / "other.so").c_str(), 1);
  EXPECT_EQ(inChild([] {
              return errorOf([] {
                       CompilerClient::process().load();
                     }).find("has no flarec_version") != std::string::npos
                         ? 0
                         : 1;
            }),
            0);
  setenv("FLAREC_COMPILER_LIBRARY", "/nowhere.so", 1);
  EXPECT_EQ(
      inChild([] {
        return errorOf([] {
                 CompilerClient::process().load();
               }).find("FLAREC_COMPILER_LIBRARY does not name a compiler") !=
                       std::string::npos
                   ? 0
                   : 1;
      }),
      0);
}

TEST_F(Compiler, WithoutOneAnArtefactFileIsEnough) {
  setenv("FLAREC_COMPILER_LIBRARY", "/nowhere.so", 1);
  writeBytes(directory.path / "mixer.flare", artefactBytes());
  EXPECT_EQ(inChild([&] {
              if (errorOf([] { kernelsFor(description); }) == "(no error)")
                return 1;
              addArtefact(directory.path / "mixer.flare");
              return kernelsFor(description) ? 0 : 2;
            }),
            0);
}

// `flarec compile --from-stage` gives the key of the description to anything.
TEST_F(Compiler, AnArtefactThatDoesNotServeItsKeyIsRefused) {
  setenv("FLAREC_COMPILER_LIBRARY", "/nowhere.so", 1);
  writeBytes(directory.path / "mixer.flare", artefactBytes(/*latents=*/16));
  EXPECT_EQ(inChild([&] {
              addArtefact(directory.path / "mixer.flare");
              std::string said = errorOf([] { kernelsFor(description); });
              EXPECT_THAT(said,
                          HasSubstr("q<m=16, d=8, f32>, not q<m=4, d=8, f32>"));
              EXPECT_THAT(said, HasSubstr("--from-stage"));
              return testing::Test::HasFailure();
            }),
            0);
}

TEST_F(Compiler, WrongDescriptionNeedsNoCompiler) {
  MixerDescription wrong = description;
  wrong.headDim = 129;
  EXPECT_THAT(errorOf([&] { kernelsFor(wrong); }), HasSubstr("head dim 129"));
}
