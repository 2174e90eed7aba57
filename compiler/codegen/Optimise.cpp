//===- Optimise.cpp - The passes before instruction selection
//---------------===//

#include "Optimise.h"
#include "Guard.h"

#include "llvm/Analysis/CGSCCPassManager.h"
#include "llvm/Analysis/LoopAnalysisManager.h"
#include "llvm/Analysis/TargetLibraryInfo.h"
#include "llvm/IR/LegacyPassManager.h"
#include "llvm/IR/Module.h"
#include "llvm/Passes/PassBuilder.h"
#include "llvm/Support/raw_ostream.h"
#include "llvm/Target/TargetMachine.h"
#include "llvm/Transforms/Scalar/LoopUnrollPass.h"
#include "llvm/Transforms/Scalar/SROA.h"

using namespace llvm;

namespace flarec {

StringRef reducedPipeline() {
  // No loop-idiom (it invents memset and memcpy calls), no reassociate (it
  // undoes balanced reduction trees), no PRE (it lengthens live ranges across
  // hand-placed stages).
  return "always-inline,globaldce,"
         "function(sroa<modify-cfg>,early-cse<memssa>,instcombine<no-verify-fixpoint>,"
         "simplifycfg,loop(loop-rotate<header-duplication>),"
         "loop-mssa(licm<allowspeculation>),"
         "gvn<no-pre;no-load-pre;no-split-backedge-load-pre>,instcombine<no-verify-fixpoint>,"
         "dse,adce,simplifycfg,instcombine<no-verify-fixpoint>),globaldce";
}

namespace detail {

Error optimise(Module &module, TargetMachine &machine, Pipeline pipeline) {
  LoopAnalysisManager loopAnalyses;
  FunctionAnalysisManager functionAnalyses;
  CGSCCAnalysisManager cgsccAnalyses;
  ModuleAnalysisManager moduleAnalyses;
  PassBuilder builder(&machine);

  // There is no C library where the code runs: calls must not be recognised as
  // library functions and none may be made up.
  TargetLibraryInfoImpl noLibrary(module.getTargetTriple());
  noLibrary.disableAllFunctions();
  functionAnalyses.registerPass(
      [&] { return TargetLibraryAnalysis(noLibrary); });

  builder.registerModuleAnalyses(moduleAnalyses);
  builder.registerCGSCCAnalyses(cgsccAnalyses);
  builder.registerFunctionAnalyses(functionAnalyses);
  builder.registerLoopAnalyses(loopAnalyses);
  builder.crossRegisterProxies(loopAnalyses, functionAnalyses, cgsccAnalyses,
                               moduleAnalyses);

  ModulePassManager passes;
  if (pipeline == Pipeline::O2) {
    passes = builder.buildPerModuleDefaultPipeline(OptimizationLevel::O2);
  } else {
    if (Error error = builder.parsePassPipeline(passes, reducedPipeline()))
      return error;
    // Only loops with llvm.loop.unroll metadata. Not in the textual pipeline:
    // this option has no spelling there.
    FunctionPassManager unroll;
    unroll.addPass(LoopUnrollPass(
        LoopUnrollOptions(/*OptLevel=*/2, /*OnlyWhenForced=*/true)));
    unroll.addPass(SROAPass(SROAOptions::ModifyCFG));
    if (Error error = builder.parsePassPipeline(
            unroll, "instcombine<no-verify-fixpoint>,simplifycfg,early-cse<memssa>,adce"))
      return error;
    passes.addPass(createModuleToFunctionPassAdaptor(std::move(unroll)));
  }
  passes.run(module, moduleAnalyses);
  return Error::success();
}

Expected<std::string> emitFile(Module &module, TargetMachine &machine,
                               bool assembly) {
  SmallVector<char, 0> bytes;
  raw_svector_ostream os(bytes);
  legacy::PassManager passes;
  if (machine.addPassesToEmitFile(passes, os, /*DwoOut=*/nullptr,
                                  assembly ? CodeGenFileType::AssemblyFile
                                           : CodeGenFileType::ObjectFile))
    return makeError("the target cannot emit this kind of file");
  passes.run(module);
  return std::string(bytes.begin(), bytes.end());
}

} // namespace detail
} // namespace flarec
