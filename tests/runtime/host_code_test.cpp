#include "flarec/host_code.h"
#include "support.h"

#include <cstdlib>
#include <fcntl.h>
#include <unistd.h>

using namespace flarec;
using namespace flarec::test;
using testing::HasSubstr;

static std::string codeThatWrites(int number) {
  return compileC("#include <stdint.h>\nvoid f(const uint64_t *s, int64_t b, "
                  "void *m) { *(int *)s[0] = " +
                  std::to_string(number) + "; }");
}

static int run(const HostCode &code) {
  int result = 0;
  uint64_t slots[] = {reinterpret_cast<uint64_t>(&result)};
  code.kernel("f")(slots, 0, nullptr);
  return result;
}

// dlopen compares names: with /proc/self/fd/N for both, the second would be the
// first.
TEST(HostCode, DescriptorsUsedAgainAreNotConfused) {
  std::vector<std::unique_ptr<HostCode>> codes;
  for (int i = 0; i < 5; ++i)
    codes.push_back(std::make_unique<HostCode>(codeThatWrites(i)));
  for (int i = 0; i < 5; ++i)
    EXPECT_EQ(run(*codes[size_t(i)]), i);
  codes[1] = std::make_unique<HostCode>(codeThatWrites(10));
  EXPECT_EQ(run(*codes[1]), 10);
  EXPECT_EQ(run(*codes[4]), 4);
}

TEST(HostCode, LeavesNoDescriptorsBehind) {
  int before = dup(0);
  close(before);
  HostCode code(codeThatWrites(1)), other(codeThatWrites(2));
  int after = dup(0);
  close(after);
  EXPECT_EQ(before, after);
}

TEST(HostCode, WhatIsNoCodeIsAnError) {
  EXPECT_THAT(errorOf([] { HostCode("not an elf"); }),
              HasSubstr("cannot load host kernels"));
  HostCode code(codeThatWrites(1));
  EXPECT_THAT(errorOf([&] { code.kernel("g"); }), HasSubstr("no symbol g"));
}

static Manifest withCode(std::vector<Isa> isas) {
  Manifest manifest;
  manifest.target = "host";
  for (Isa isa : isas)
    manifest.code.push_back({.kind = CodeKind::Elf, .isa = isa});
  return manifest;
}

TEST(HostCode, TakesTheBestThatTheProcessorRuns) {
  unsetenv("FLAREC_HOST_ISA");
  Manifest all = withCode({Isa::Avx2, Isa::Avx512, Isa::Baseline});
  EXPECT_EQ(all.code[chooseHostCode(all)].isa, processorIsa());
  EXPECT_EQ(chooseHostCode(withCode({Isa::Baseline})), 0u);
  if (processorIsa() != Isa::Avx512)
    EXPECT_THAT(errorOf([] { chooseHostCode(withCode({Isa::Avx512})); }),
                HasSubstr("host code for avx512, this processor runs up to"));
}

TEST(HostCode, EnvironmentAsksForOne) {
  EXPECT_EQ(inChild([] {
              Manifest all = withCode({Isa::Avx512, Isa::Baseline});
              setenv("FLAREC_HOST_ISA", "baseline", 1);
              if (chooseHostCode(all) != 1)
                return 1;
              setenv("FLAREC_HOST_ISA", "avx2", 1);
              if (errorOf([&] {
                    chooseHostCode(all);
                  }).find("FLAREC_HOST_ISA asks for avx2") == std::string::npos)
                return 2;
              setenv("FLAREC_HOST_ISA", "sse", 1);
              if (errorOf([&] {
                    chooseHostCode(all);
                  }).find("\"sse\"; allowed are baseline, avx2 and avx512") ==
                  std::string::npos)
                return 3;
              return 0;
            }),
            0);
}
