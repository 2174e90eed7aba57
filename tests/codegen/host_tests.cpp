//===- host_tests.cpp - LLVM IR to a shared library
//-------------------------===//

#include "support.h"

#include <csignal>
#include <cstdint>
#include <dlfcn.h>
#include <sys/mman.h>
#include <thread>
#include <unistd.h>
#include <vector>

using namespace flarec;

static const char axpyText[] = R"(
@table = internal unnamed_addr constant [16 x float] [float 1.0, float 2.0, float 3.0, float 4.0, float 5.0, float 6.0, float 7.0, float 8.0, float 9.0, float 10.0, float 11.0, float 12.0, float 13.0, float 14.0, float 15.0, float 16.0]

define void @helper(ptr %p) noinline {
  %x = load <16 x float>, ptr %p, align 4
  %t = load <16 x float>, ptr @table, align 4
  %s = fadd <16 x float> %x, %t
  store <16 x float> %s, ptr %p, align 4
  ret void
}

define void @kernel(ptr %slots, i64 %block, ptr %scratch) {
  %bits = load i64, ptr %slots
  %p = inttoptr i64 %bits to ptr
  %offset = mul i64 %block, 16
  %q = getelementptr float, ptr %p, i64 %offset
  call void @helper(ptr %q)
  ret void
}
)";

/// A shared library loaded from memory, as the runtime does it.
struct LoadedLibrary {
  explicit LoadedLibrary(const std::string &bytes) {
    fd = memfd_create("kernel", MFD_CLOEXEC);
    EXPECT_EQ(write(fd, bytes.data(), bytes.size()), ssize_t(bytes.size()));
    handle = dlopen(("/proc/self/fd/" + std::to_string(fd)).c_str(),
                    RTLD_NOW | RTLD_LOCAL);
    if (!handle)
      ADD_FAILURE() << dlerror();
  }
  ~LoadedLibrary() {
    if (handle)
      dlclose(handle);
    close(fd);
  }
  void *symbol(const char *name) {
    return handle ? dlsym(handle, name) : nullptr;
  }
  int fd;
  void *handle;
};

static bool runsHere(HostIsa isa) {
  switch (isa) {
  case HostIsa::Baseline:
    return __builtin_cpu_supports("sse4.2");
  case HostIsa::Avx2:
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  case HostIsa::Avx512:
    return __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
  }
  return false;
}

static std::string objectOf(llvm::StringRef text,
                            HostIsa isa = HostIsa::Baseline,
                            Pipeline pipeline = Pipeline::Reduced) {
  ParsedModule module(text);
  return valueOf(emitHostObject(*module, isa, pipeline));
}

TEST(Host, LinksLoadsAndRuns) {
  for (Pipeline pipeline : {Pipeline::Reduced, Pipeline::O2})
    for (HostIsa isa : {HostIsa::Baseline, HostIsa::Avx2, HostIsa::Avx512}) {
      std::string library =
          valueOf(linkShared(objectOf(axpyText, isa, pipeline), {"kernel"}));
      if (!runsHere(isa))
        continue;
      LoadedLibrary loaded(library);
      auto kernel =
          reinterpret_cast<void (*)(const uint64_t *, int64_t, void *)>(
              loaded.symbol("kernel"));
      ASSERT_TRUE(kernel);
      EXPECT_FALSE(loaded.symbol("helper")) << "exported";
      float data[32] = {};
      uint64_t slots[] = {reinterpret_cast<uintptr_t>(data)};
      kernel(slots, 1, nullptr);
      EXPECT_EQ(data[15], 0.0f);
      EXPECT_EQ(data[16], 1.0f);
      EXPECT_EQ(data[31], 16.0f);
    }
}

TEST(Host, IsaChoosesTheRegisters) {
  ParsedModule module(axpyText);
  std::string baseline = valueOf(emitHostAssembly(*module, HostIsa::Baseline));
  std::string avx2 = valueOf(emitHostAssembly(*module, HostIsa::Avx2));
  std::string avx512 = valueOf(emitHostAssembly(*module, HostIsa::Avx512));
  EXPECT_CONTAINS(baseline, "%xmm");
  EXPECT_LACKS(baseline, "%ymm");
  EXPECT_CONTAINS(avx2, "%ymm");
  EXPECT_LACKS(avx2, "%zmm");
  EXPECT_CONTAINS(avx512, "%zmm");
}

TEST(Host, AttributesOfTheFunctionDoNotChooseTheProcessor) {
  std::string text = axpyText;
  text.replace(text.find("noinline"), 8,
               "noinline \"target-cpu\"=\"x86-64\" "
               "\"target-features\"=\"+sse2\"");
  ParsedModule module(text);
  EXPECT_CONTAINS(valueOf(emitHostAssembly(*module, HostIsa::Avx512)), "%zmm");
}

// Made in parallel, and yet the best first, each as it is when made alone.
TEST(Host, LibrariesForAllInstructionSets) {
  ParsedModule module(axpyText);
  for (int repeat = 0; repeat < 10; ++repeat) {
    std::vector<flarec::HostLibrary> libraries = valueOf(emitHostLibraries(*module, {"kernel"}));
    ASSERT_EQ(libraries.size(), 3u);
    EXPECT_EQ(libraries[0].name, "avx512");
    EXPECT_EQ(libraries[1].name, "avx2");
    EXPECT_EQ(libraries[2].name, "baseline");
    for (const flarec::HostLibrary &l : libraries)
      EXPECT_EQ(l.bytes, valueOf(linkShared(objectOf(axpyText, l.isa), {"kernel"}))) << l.name.str();
  }
  EXPECT_CONTAINS(errorOf(emitHostLibraries(*module, {"kernel", "nobody"})), "nobody");
}

TEST(Host, ManyThreadsMakeTheSameBytes) {
  std::vector<std::string> results(4);
  std::vector<std::thread> threads;
  for (std::string &result : results)
    threads.emplace_back([&result] {
      for (int repeat = 0; repeat < 20; ++repeat)
        result =
            valueOf(linkShared(objectOf(axpyText, HostIsa::Avx2), {"kernel"}));
    });
  for (std::thread &thread : threads)
    thread.join();
  EXPECT_FALSE(results[0].empty());
  for (const std::string &result : results)
    EXPECT_EQ(result, results[0]);
}

TEST(Host, SplitPrecisionSurvives) {
  ParsedModule module(R"(
define float @lo(float %x) {
  %i = bitcast float %x to i32
  %h = and i32 %i, -65536
  %hi = bitcast i32 %h to float
  %big = fadd contract float %x, 0x4168000000000000
  %round = fsub contract float %big, 0x4168000000000000
  %lo = fsub contract float %x, %hi
  %s = fsub contract float %lo, %round
  ret float %s
})");
  for (Pipeline pipeline : {Pipeline::Reduced, Pipeline::O2}) {
    std::string text =
        valueOf(emitHostAssembly(*module, HostIsa::Avx2, pipeline));
    EXPECT_EQ(llvm::StringRef(text).count("vsubss") +
                  llvm::StringRef(text).count("vaddss"),
              4u)
        << text;
  }
}

//===----------------------------------------------------------------------===//
// The linker
//===----------------------------------------------------------------------===//

// Addresses in data, the GOT, data, zeroed data and a symbol table of many.
TEST(HostLink, RelocatesDataAndFindsEverySymbol) {
  std::string text = R"(
@functions = internal constant [2 x ptr] [ptr @f0, ptr @f1]
@self = internal global ptr @self
@counter = internal global i32 40
@space = internal global [100000 x i32] zeroinitializer

define i32 @call(i64 %i) {
  %p = getelementptr ptr, ptr @functions, i64 %i
  %f = load volatile ptr, ptr %p
  %r = call i32 %f()
  ret i32 %r
}
define i32 @count() {
  %old = load i32, ptr @counter
  %new = add i32 %old, 1
  store i32 %new, ptr @counter
  ret i32 %new
}
define i32 @last(i32 %x) {
  %p = getelementptr i32, ptr @space, i64 99999
  %old = load i32, ptr %p
  store i32 %x, ptr %p
  ret i32 %old
}
define i1 @aware() {
  %p = load volatile ptr, ptr @self
  %same = icmp eq ptr %p, @self
  ret i1 %same
}
define ptr @throughGot() {
  %p = call ptr asm "movq count@GOTPCREL(%rip), $0", "=r"()
  ret ptr %p
}
define i32 @choose(i32 %x) {
  switch i32 %x, label %other [ i32 0, label %a i32 1, label %b i32 2, label %c i32 3, label %d i32 4, label %e ]
a:
  call void asm sideeffect "nop", ""()
  ret i32 11
b:
  call void asm sideeffect "nop", ""()
  ret i32 7
c:
  call void asm sideeffect "nop", ""()
  ret i32 5
d:
  call void asm sideeffect "nop", ""()
  ret i32 23
e:
  call void asm sideeffect "nop", ""()
  ret i32 1
other:
  ret i32 -1
}
)";
  std::vector<std::string> exports = {"call",  "count",      "last",
                                      "aware", "throughGot", "choose"};
  for (int i = 0; i < 300; ++i) {
    std::string number = std::to_string(i);
    text.append("define i32 @f").append(number).append("() { ret i32 ");
    text.append(number).append(" }\n");
    exports.push_back(std::string("f").append(number));
  }
  std::string library = valueOf(linkShared(objectOf(text), exports));
  LoadedLibrary loaded(library);
  auto function = [&](const std::string &name) {
    return reinterpret_cast<int (*)(int64_t)>(loaded.symbol(name.c_str()));
  };
  for (const std::string &name : exports)
    ASSERT_TRUE(function(name)) << name;
  for (int i = 0; i < 300; ++i)
    EXPECT_EQ(function(std::string("f").append(std::to_string(i)))(0), i);
  EXPECT_FALSE(function("f300"));
  EXPECT_FALSE(function("counter"));
  EXPECT_EQ(function("call")(0), 0);
  EXPECT_EQ(function("call")(1), 1);
  EXPECT_EQ(function("count")(0), 41);
  EXPECT_EQ(function("count")(0), 42);
  EXPECT_EQ(function("last")(5), 0);
  EXPECT_EQ(function("last")(6), 5);
  EXPECT_EQ(function("aware")(0) & 1, 1);
  EXPECT_EQ(function("choose")(3), 23);
  EXPECT_EQ(function("choose")(4), 1);
  EXPECT_EQ(reinterpret_cast<void *(*)()>(loaded.symbol("throughGot"))(),
            loaded.symbol("count"));
}

TEST(HostLink, LeavesSignalsAlone) {
  struct sigaction before, after;
  sigaction(SIGSEGV, nullptr, &before);
  valueOf(linkShared(objectOf(axpyText), {"kernel"}));
  sigaction(SIGSEGV, nullptr, &after);
  EXPECT_EQ(after.sa_handler, before.sa_handler);
}

// Nothing to compare with: it must come back. Of use under a sanitizer.
TEST(HostLink, DamagedObjectsDoNotCrash) {
  const std::string object = objectOf(axpyText);
  for (size_t size = 0; size < object.size(); size += 3)
    EXPECT_NE(errorOf(linkShared(object.substr(0, size), {"kernel"})), "");
  uint32_t random = 1;
  for (int round = 0; round < 3000; ++round) {
    std::string damaged = object;
    for (int i = 0; i < 4; ++i) {
      random = random * 1664525 + 1013904223;
      damaged[(random >> 8) % damaged.size()] = char(random >> 3);
    }
    llvm::consumeError(linkShared(damaged, {"kernel"}).takeError());
  }
}

//===----------------------------------------------------------------------===//
// Errors
//===----------------------------------------------------------------------===//

TEST(HostErrors, UndefinedSymbol) {
  std::string error = errorOf(linkShared(objectOf(R"(
declare float @expf(float)
define float @f(float %x) {
  %y = call float @expf(float %x)
  ret float %y
})"),
                                         {"f"}));
  EXPECT_CONTAINS(error, "undefined symbol: expf");
}

TEST(HostErrors, EveryUndefinedSymbolIsNamed) {
  std::string text, body;
  for (int i = 0; i < 40; ++i) {
    std::string number = std::to_string(i);
    text.append("declare void @nobody").append(number).append("()\n");
    body.append("  call void @nobody").append(number).append("()\n");
  }
  std::string error = errorOf(linkShared(
      objectOf(text + "define void @f() {\n" + body + "  ret void\n}"), {"f"}));
  EXPECT_CONTAINS(error, "nobody39");
}

TEST(HostErrors, ExportedSymbolThatIsNotThere) {
  EXPECT_CONTAINS(errorOf(linkShared(objectOf(axpyText), {"kernel", "nobody"})),
                  "nobody");
}

TEST(HostErrors, NotAnObject) {
  std::string object = objectOf(axpyText);
  EXPECT_CONTAINS(errorOf(linkShared("", {"f"})), "cannot link");
  EXPECT_CONTAINS(errorOf(linkShared("garbage", {"f"})), "cannot link");
  EXPECT_CONTAINS(errorOf(linkShared(object.substr(0, 100), {"f"})),
                  "cannot link");
  // A library is not an object.
  EXPECT_CONTAINS(
      errorOf(linkShared(valueOf(linkShared(object, {"kernel"})), {"kernel"})),
      "cannot link");
}

TEST(HostErrors, MalformedAsm) {
  ParsedModule module(R"(
define void @f() {
  call void asm sideeffect "nonsense %eax", ""()
  ret void
})");
  EXPECT_CONTAINS(errorOf(emitHostObject(*module, HostIsa::Baseline)),
                  "nonsense");
}

TEST(HostErrors, ModuleForAnotherMachine) {
  ParsedModule module("target triple = \"nvptx64-nvidia-cuda\"\n define void "
                      "@f() { ret void }");
  EXPECT_CONTAINS(errorOf(emitHostObject(*module, HostIsa::Baseline)),
                  "nvptx64");
}
