// A module's kernels one by one, in parallel: each thread has an LLVMContext of its own.
#include "codegen/Codegen.h"
#include "llvm/Bitcode/BitcodeReader.h"
#include "llvm/Bitcode/BitcodeWriter.h"
#include "llvm/IR/LLVMContext.h"
#include "llvm/IR/Module.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Transforms/Utils/Cloning.h"
#include <atomic>
#include <thread>

using namespace llvm;
using namespace flarec;

namespace {

/// The module with one function's body only, as bitcode.
std::string only(const Module &module, const Function &kernel) {
  ValueToValueMapTy map;
  std::unique_ptr<Module> part = CloneModule(
      module, map, [&](const GlobalValue *v) { return !isa<Function>(v) || v == &kernel; });
  for (Function &f : make_early_inc_range(*part))
    if (f.isDeclaration() && f.use_empty())
      f.eraseFromParent();
  std::string bitcode;
  raw_string_ostream stream(bitcode);
  WriteBitcodeToFile(*part, stream);
  return bitcode;
}

} // namespace

Expected<std::vector<KernelPtx>> flarec::emitPtxByKernel(const Module &module, const GpuTarget &target) {
  initialiseTargets();
  std::vector<KernelPtx> kernels;
  std::vector<std::string> parts;
  for (const Function &f : module)
    if (!f.isDeclaration() && f.getCallingConv() == CallingConv::PTX_Kernel) {
      kernels.push_back({f.getName().str(), ""});
      parts.push_back(only(module, f));
    }
  std::vector<std::string> errors(parts.size());
  std::atomic<size_t> next = 0;
  auto work = [&] {
    for (size_t i; (i = next++) < parts.size();) {
      LLVMContext context;
      auto part = parseBitcodeFile(MemoryBufferRef(parts[i], kernels[i].name), context);
      if (!part) {
        errors[i] = toString(part.takeError());
        continue;
      }
      auto ptx = emitPtx(**part, target);
      if (ptx)
        kernels[i].ptx = std::move(*ptx);
      else
        errors[i] = toString(ptx.takeError());
    }
  };
  std::vector<std::thread> threads;
  size_t processors = std::max(1u, std::thread::hardware_concurrency());
  for (size_t i = 1; i < std::min(parts.size(), processors); ++i)
    threads.emplace_back(work);
  work();
  for (std::thread &t : threads)
    t.join();
  for (const std::string &e : errors)
    if (!e.empty())
      return createStringError(e);
  return kernels;
}
