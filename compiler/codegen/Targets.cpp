//===- Targets.cpp - PTX and x86-64 code from LLVM IR
//-----------------------===//

#include "Codegen.h"
#include "Guard.h"
#include "Optimise.h"

#include "llvm/IR/Constants.h"
#include "llvm/IR/Function.h"
#include "llvm/IR/GlobalVariable.h"
#include "llvm/IR/InstIterator.h"
#include "llvm/IR/InstrTypes.h"
#include "llvm/IR/Module.h"
#include "llvm/MC/TargetRegistry.h"
#include "llvm/Support/TargetSelect.h"
#include "llvm/Target/TargetMachine.h"
#include "llvm/TargetParser/Triple.h"
#include <mutex>

using namespace llvm;

namespace flarec {

void initialiseTargets() {
  static std::once_flag once;
  std::call_once(once, [] {
    LLVMInitializeNVPTXTargetInfo();
    LLVMInitializeNVPTXTarget();
    LLVMInitializeNVPTXTargetMC();
    LLVMInitializeNVPTXAsmPrinter();
    LLVMInitializeX86TargetInfo();
    LLVMInitializeX86Target();
    LLVMInitializeX86TargetMC();
    LLVMInitializeX86AsmPrinter();
    LLVMInitializeX86AsmParser();
    detail::installFatalErrorHandler();
  });
}

namespace {

struct MachineOptions {
  const char *triple;
  std::string cpu, features;
  Triple::ArchType arch;
  std::optional<Reloc::Model> relocation;
};

/// The target machine, with the module's triple and data layout set to it.
/// Attributes that would choose another processor for a function are dropped.
Expected<std::unique_ptr<TargetMachine>>
prepare(Module &module, const MachineOptions &options) {
  const Triple &given = module.getTargetTriple();
  if (!given.str().empty() && given.getArch() != options.arch)
    return detail::makeError("the module is for " + given.str() +
                             ", code was asked for " + options.triple);
  Triple triple(options.triple);
  std::string reason;
  const Target *target = TargetRegistry::lookupTarget(triple, reason);
  if (!target)
    return detail::makeError(reason);

  // Standard: only llvm.fmuladd and operations that both carry `contract` fuse.
  TargetOptions targetOptions;
  targetOptions.AllowFPOpFusion = FPOpFusion::Standard;
  std::unique_ptr<TargetMachine> machine(target->createTargetMachine(
      triple, options.cpu, options.features, targetOptions, options.relocation,
      std::nullopt, CodeGenOptLevel::Aggressive));
  if (!machine)
    return detail::makeError(Twine("no machine for ") + options.triple + ", " +
                             options.cpu);
  DataLayout layout = machine->createDataLayout();
  if (!module.getDataLayout().isDefault() && module.getDataLayout() != layout)
    return detail::makeError("the module's data layout is " +
                             module.getDataLayoutStr() + ", the target's " +
                             layout.getStringRepresentation());
  module.setTargetTriple(triple);
  module.setDataLayout(layout);
  for (Function &function : module)
    for (const char *attribute : {"target-cpu", "target-features", "tune-cpu"})
      function.removeFnAttr(attribute);
  return machine;
}

/// The names of the functions that are called and nowhere defined.
std::string undefinedFunctions(const Module &module,
                               function_ref<bool(StringRef)> allowed) {
  std::string names;
  for (const Function &function : module)
    if (function.isDeclaration() && !function.isIntrinsic() &&
        !function.use_empty() && !allowed(function.getName()))
      names += (names.empty() ? "" : ", ") + function.getName().str();
  return names;
}

} // namespace

//===----------------------------------------------------------------------===//
// GPU
//===----------------------------------------------------------------------===//

/// What NVPTX translates into something else, or crashes on, without a word.
static Error checkForPtx(const Module &module) {
  bool anyKernel = false;
  for (const Function &function : module) {
    if (!function.isDeclaration() &&
        function.getCallingConv() == CallingConv::PTX_Kernel) {
      anyKernel = true;
      if (!function.getReturnType()->isVoidTy())
        return detail::makeError("kernel " + function.getName() +
                                 " returns a value");
    }
    for (const Instruction &instruction : instructions(function)) {
      const auto *call = dyn_cast<CallBase>(&instruction);
      if (!call || !call->isInlineAsm())
        continue;
      for (const Value *operand : call->args())
        if (operand->getType()->isAggregateType())
          return detail::makeError("aggregate operand of inline asm in " +
                                   function.getName());
    }
  }
  if (!anyKernel)
    return detail::makeError(
        "the module defines no function of calling convention ptx_kernel");
  constexpr unsigned sharedSpace = 3;
  for (const GlobalVariable &global : module.globals()) {
    if (global.isThreadLocal())
      return detail::makeError("thread-local " + global.getName());
    if (global.getAddressSpace() == sharedSpace && global.hasInitializer() &&
        !isa<UndefValue>(global.getInitializer()))
      return detail::makeError("shared memory cannot be initialised: " +
                               global.getName());
    if (global.getName() == "llvm.global_ctors" ||
        global.getName() == "llvm.global_dtors")
      return detail::makeError("nobody would run " + global.getName());
  }
  return Error::success();
}

ArrayRef<GpuTarget> gpuTargets() {
  // 7.8 (CUDA 11.8) has all that the sm_8x kernels use and the first that knows
  // sm_89 and sm_90; 8.1 for red.global.add.v4.f32 on sm_90a; from Blackwell
  // on, the first version that knows the chip.
  static const GpuTarget table[] = {
      {"sm_80", 78},  {"sm_86", 78},   {"sm_87", 78},  {"sm_89", 78},
      {"sm_90", 78},  {"sm_90a", 81},  {"sm_100", 86}, {"sm_100a", 86},
      {"sm_103", 88}, {"sm_103a", 88}, {"sm_110", 90}, {"sm_110a", 90},
      {"sm_120", 87}, {"sm_120a", 87}, {"sm_121", 88}, {"sm_121a", 88},
  };
  return table;
}

Expected<GpuTarget> findGpuTarget(StringRef chip) {
  std::string known;
  for (const GpuTarget &target : gpuTargets()) {
    if (target.chip == chip)
      return target;
    known += (known.empty() ? "" : ", ") + target.chip;
  }
  return detail::makeError("no such GPU target: '" + chip + "'; there are " +
                           known);
}

Expected<std::string> emitPtx(const Module &module, const GpuTarget &target,
                              Pipeline pipeline) {
  initialiseTargets();
  if (Expected<GpuTarget> known = findGpuTarget(target.chip); !known)
    return known.takeError();
  else if (target.ptxVersion < known->ptxVersion)
    return detail::makeError(Twine(target.chip) + " needs PTX version " +
                             Twine(known->ptxVersion) + " or later, not " +
                             Twine(target.ptxVersion));

  std::string ptx;
  auto body = [&](Module &copy) -> Error {
    Expected<std::unique_ptr<TargetMachine>> machine =
        prepare(copy, {"nvptx64-nvidia-cuda", target.chip,
                       "+ptx" + std::to_string(target.ptxVersion),
                       Triple::nvptx64, std::nullopt});
    if (!machine)
      return machine.takeError();
    if (Error error = checkForPtx(copy))
      return error;
    for (Function &function : copy)
      if (!function.isDeclaration() &&
          function.getCallingConv() != CallingConv::PTX_Kernel)
        function.setLinkage(GlobalValue::InternalLinkage);
    if (Error error = detail::optimise(copy, **machine, pipeline))
      return error;
    // What the driver itself provides.
    auto provided = [](StringRef name) {
      return name == "vprintf" || name == "__assertfail" || name == "malloc" ||
             name == "free";
    };
    std::string undefined = undefinedFunctions(copy, provided);
    if (!undefined.empty())
      return detail::makeError("called but not defined: " + undefined);
    Expected<std::string> text =
        detail::emitFile(copy, **machine, /*assembly=*/true);
    if (!text)
      return text.takeError();
    // Assembly that LLVM does not look into (a stage of another target).
    if (target.chip != "sm_90a" && StringRef(*text).contains("wgmma."))
      return detail::makeError("the code has matrix instructions of warpgroups, "
                               "which only sm_90a has: was it made for that?");
    ptx = std::move(*text);
    return Error::success();
  };
  if (Error error = detail::runGuarded(module, body))
    return detail::makeError(Twine(target.chip) + ": " +
                             toString(std::move(error)));
  return ptx;
}

//===----------------------------------------------------------------------===//
// Host
//===----------------------------------------------------------------------===//

static Expected<std::string> emitHost(const Module &module, HostIsa isa,
                                      Pipeline pipeline, bool assembly) {
  initialiseTargets();
  const char *cpu = isa == HostIsa::Avx512 ? "x86-64-v4"
                    : isa == HostIsa::Avx2 ? "x86-64-v3"
                                           : "x86-64-v2";
  std::string result;
  auto body = [&](Module &copy) -> Error {
    Expected<std::unique_ptr<TargetMachine>> machine =
        // Every processor with AVX-512 has PREFETCHW, which x86-64-v4 lacks.
        prepare(copy, {"x86_64-unknown-linux-gnu", cpu,
                       isa == HostIsa::Avx512 ? "+prfchw" : "",
                       Triple::x86_64, Reloc::PIC_});
    if (!machine)
      return machine.takeError();
    // A function's form for one instruction set takes its place or goes.
    for (Function &function : make_early_inc_range(copy)) {
      if (!function.getName().ends_with(".avx512"))
        continue;
      Function *general = copy.getFunction(function.getName().drop_back(7));
      if (general && isa == HostIsa::Avx512)
        general->replaceAllUsesWith(&function);
      else
        function.eraseFromParent();
    }
    // Nothing is preempted: no detour through the GOT to what is defined here.
    for (GlobalValue &value : copy.global_values())
      if (!value.isDeclaration())
        value.setDSOLocal(true);
    for (Function &function : copy) {
      // The default of x86-64-v4 is 256.
      if (isa == HostIsa::Avx512)
        function.addFnAttr("prefer-vector-width", "512");
      // Callers align the stack to 16 bytes, so that spilled vectors of 64 would
      // mostly lie across two lines.
      if (!function.isDeclaration())
        function.addFnAttr(
            Attribute::getWithStackAlignment(copy.getContext(), Align(64)));
      // Nothing unwinds through a kernel, so no .eh_frame.
      if (!function.isDeclaration()) {
        function.addFnAttr(Attribute::NoUnwind);
        function.removeFnAttr(Attribute::UWTable);
      }
    }
    if (Error error = detail::optimise(copy, **machine, pipeline))
      return error;
    Expected<std::string> bytes = detail::emitFile(copy, **machine, assembly);
    if (!bytes)
      return bytes.takeError();
    result = std::move(*bytes);
    return Error::success();
  };
  if (Error error = detail::runGuarded(module, body))
    return detail::makeError(Twine(cpu) + ": " + toString(std::move(error)));
  return result;
}

Expected<std::string> emitHostObject(const Module &module, HostIsa isa,
                                     Pipeline pipeline) {
  return emitHost(module, isa, pipeline, /*assembly=*/false);
}

Expected<std::string> emitHostAssembly(const Module &module, HostIsa isa,
                                       Pipeline pipeline) {
  return emitHost(module, isa, pipeline, /*assembly=*/true);
}

} // namespace flarec
