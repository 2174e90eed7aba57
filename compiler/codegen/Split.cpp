// Code in parallel, a GPU's kernel by kernel and a processor's by instruction set: each thread has an LLVMContext of its own. Results have places of
// their own, so they do not depend on who was first.
#include "codegen/Codegen.h"
#include "llvm/Bitcode/BitcodeReader.h"
#include "llvm/Bitcode/BitcodeWriter.h"
#include "llvm/IR/LLVMContext.h"
#include "llvm/IR/Module.h"
#include "llvm/Support/MemoryBuffer.h"
#include <atomic>
#include <chrono>
#include <pthread.h>
#include <thread>

using namespace llvm;
using namespace flarec;

namespace {

std::string bitcodeOf(const Module &module) {
  std::string bitcode;
  raw_string_ostream stream(bitcode);
  WriteBitcodeToFile(module, stream);
  return bitcode;
}

/// The module of `bitcode` with one function's body only; no other's is read.
Expected<std::unique_ptr<Module>> only(StringRef bitcode, StringRef kernel, LLVMContext &context) {
  auto part = getLazyBitcodeModule(MemoryBufferRef(bitcode, kernel), context);
  if (!part)
    return part.takeError();
  for (Function &f : **part)
    if (f.isMaterializable() && f.getName() != kernel)
      f.deleteBody();
  if (Error e = (*part)->materializeAll())
    return std::move(e);
  for (Function &f : make_early_inc_range(**part))
    if (f.isDeclaration() && f.use_empty())
      f.eraseFromParent();
  return part;
}

double millisecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

/// work(i) for i in [0, count), on as many threads as there are processors, this one among them. The first error of the lowest number.
Error inParallel(size_t count, function_ref<Error(size_t)> work) {
  std::vector<std::string> errors(count);
  std::atomic<size_t> next = 0;
  auto take = [&] {
    for (size_t i; (i = next++) < count;)
      if (Error e = work(i))
        errors[i] = toString(std::move(e));
  };
  // Not std::thread, which throws where the system gives no more threads: then those that we have do the work.
  auto run = [](void *work) -> void * {
    (*static_cast<decltype(take) *>(work))();
    return nullptr;
  };
  std::vector<pthread_t> threads;
  size_t processors = std::max(1u, std::thread::hardware_concurrency());
  for (pthread_t thread; threads.size() + 1 < std::min(count, processors) && !pthread_create(&thread, nullptr, run, &take);)
    threads.push_back(thread);
  take();
  for (pthread_t thread : threads)
    pthread_join(thread, nullptr);
  for (const std::string &e : errors)
    if (!e.empty())
      return createStringError(e);
  return Error::success();
}

} // namespace

Expected<std::vector<KernelPtx>> flarec::emitPtxByKernel(const Module &module, const GpuTarget &target) {
  initialiseTargets();
  std::vector<KernelPtx> kernels;
  for (const Function &f : module)
    if (!f.isDeclaration() && f.getCallingConv() == CallingConv::PTX_Kernel)
      kernels.push_back({f.getName().str(), "", 0});
  std::string bitcode = bitcodeOf(module);
  auto emit = [&](size_t i) -> Error {
    auto start = std::chrono::steady_clock::now();
    LLVMContext context;
    auto part = only(bitcode, kernels[i].name, context);
    if (!part)
      return part.takeError();
    if (Error e = emitPtx(**part, target).moveInto(kernels[i].ptx))
      return e;
    kernels[i].milliseconds = millisecondsSince(start);
    return Error::success();
  };
  if (Error e = inParallel(kernels.size(), emit))
    return std::move(e);
  return kernels;
}

Expected<std::vector<HostLibrary>> flarec::emitHostLibraries(const Module &module, ArrayRef<std::string> exportedSymbols, StringRef isa) {
  initialiseTargets();
  std::vector<HostLibrary> libraries = {{HostIsa::Avx512, "avx512"}, {HostIsa::Avx2, "avx2"}, {HostIsa::Baseline, "baseline"}};
  if (!isa.empty())
    llvm::erase_if(libraries, [&](const HostLibrary &l) { return l.name != isa; });
  std::string bitcode = bitcodeOf(module);
  auto emit = [&](size_t i) -> Error {
    HostLibrary &library = libraries[libraries.size() - 1 - i]; // fewer and narrower registers take longer: first things first
    auto start = std::chrono::steady_clock::now();
    LLVMContext context;
    auto copy = parseBitcodeFile(MemoryBufferRef(bitcode, library.name), context);
    if (!copy)
      return copy.takeError();
    auto object = emitHostObject(**copy, library.isa);
    if (!object)
      return object.takeError();
    if (Error e = linkShared(*object, exportedSymbols).moveInto(library.bytes))
      return e;
    library.milliseconds = millisecondsSince(start);
    return Error::success();
  };
  if (Error e = inParallel(libraries.size(), emit))
    return std::move(e);
  return libraries;
}
