//===- ptx_tests.cpp - LLVM IR to PTX
//---------------------------------------===//

#include "codegen/Ptxas.h"
#include "support.h"

#include <thread>
#include <vector>

using namespace flarec;

/// exp2 of the scores of one matrix instruction, stored.
static const char kernelText[] = R"(
declare { float, float, float, float } @llvm.nvvm.mma.m16n8k8.row.col.bf16(i32, i32, i32, float, float, float, float)
declare float @llvm.nvvm.ex2.approx.ftz.f(float)
declare i32 @llvm.nvvm.read.ptx.sreg.tid.x()

define ptx_kernel void @scores(ptr addrspace(1) %in, ptr addrspace(1) %out) {
  %tid = call i32 @llvm.nvvm.read.ptx.sreg.tid.x()
  %i = zext i32 %tid to i64
  %pa = getelementptr i32, ptr addrspace(1) %in, i64 %i
  %a = load i32, ptr addrspace(1) %pa
  %s = call { float, float, float, float } @llvm.nvvm.mma.m16n8k8.row.col.bf16(i32 %a, i32 %a, i32 %a, float 0.0, float 0.0, float 0.0, float 0.0)
  %x = extractvalue { float, float, float, float } %s, 1
  %e = call float @llvm.nvvm.ex2.approx.ftz.f(float %x)
  %po = getelementptr float, ptr addrspace(1) %out, i64 %i
  store float %e, ptr addrspace(1) %po
  ret void
}
)";

static std::string ptxOf(llvm::StringRef text, llvm::StringRef chip = "sm_90a",
                         Pipeline pipeline = Pipeline::Reduced) {
  ParsedModule module(text);
  return valueOf(emitPtx(*module, valueOf(findGpuTarget(chip)), pipeline));
}

static std::string ptxErrorOf(llvm::StringRef text) {
  ParsedModule module(text);
  return errorOf(emitPtx(*module, valueOf(findGpuTarget("sm_90a"))));
}

TEST(Ptx, KernelHasMatrixInstructionAndExp2) {
  std::string ptx = ptxOf(kernelText);
  EXPECT_CONTAINS(ptx, ".version 8.1");
  EXPECT_CONTAINS(ptx, ".target sm_90a");
  EXPECT_CONTAINS(ptx, ".visible .entry scores(");
  EXPECT_CONTAINS(ptx, "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32");
  EXPECT_CONTAINS(ptx, "ex2.approx.ftz.f32");
}

TEST(Ptx, EveryTargetEmitsWhatPtxasTakes) {
  bool ptxas = findPtxas().has_value();
  for (const GpuTarget &target : gpuTargets()) {
    SCOPED_TRACE(target.chip);
    std::string ptx = ptxOf(kernelText, target.chip);
    EXPECT_CONTAINS(ptx, ".target " + target.chip + "\n");
    if (!ptxas)
      continue;
    AssemblyReport report = valueOf(assemble(ptx, target.chip));
    ASSERT_EQ(report.kernels.size(), 1u) << report.log;
    EXPECT_EQ(report.kernels[0].name, "scores");
    EXPECT_GT(report.kernels[0].registers, 0u);
    EXPECT_EQ(report.kernels[0].spillStoreBytes, 0u);
    EXPECT_EQ(report.warnings.size(), 0u) << report.log;
    EXPECT_EQ(report.cubin.substr(1, 3), "ELF");
  }
  if (!ptxas)
    GTEST_SKIP() << "no ptxas";
}

TEST(Ptx, ModuleIsLeftAsItWas) {
  ParsedModule module(kernelText);
  GpuTarget target = valueOf(findGpuTarget("sm_80"));
  std::string first = valueOf(emitPtx(*module, target));
  EXPECT_TRUE((*module).getTargetTriple().str().empty());
  EXPECT_EQ(first, valueOf(emitPtx(*module, target)));
}

TEST(Ptx, ThreadsMakeTheSameBytes) {
  std::vector<std::string> results(4);
  std::vector<std::thread> threads;
  for (std::string &result : results)
    threads.emplace_back([&result] {
      for (int repeat = 0; repeat < 5; ++repeat)
        result = ptxOf(kernelText);
    });
  for (std::thread &thread : threads)
    thread.join();
  EXPECT_FALSE(results[0].empty());
  for (const std::string &result : results)
    EXPECT_EQ(result, results[0]);
}

//===----------------------------------------------------------------------===//
// The arithmetic is the IR's
//===----------------------------------------------------------------------===//

static const char splitText[] = R"(
define ptx_kernel void @split(ptr addrspace(1) %p, float %x) {
  %hi = fptrunc contract float %x to bfloat
  %back = fpext contract bfloat %hi to float
  %lo = fsub contract float %x, %back
  store float %lo, ptr addrspace(1) %p
  %big = fadd contract float %x, 0x4168000000000000
  %round = fsub contract float %big, 0x4168000000000000
  %q = getelementptr float, ptr addrspace(1) %p, i64 1
  store float %round, ptr addrspace(1) %q
  ret void
}
)";

TEST(Ptx, SplitPrecisionAndMagicNumbersSurvive) {
  for (Pipeline pipeline : {Pipeline::Reduced, Pipeline::O2}) {
    std::string ptx = ptxOf(splitText, "sm_90a", pipeline);
    EXPECT_CONTAINS(ptx, "cvt.rn.bf16.f32");
    // x - hi, x + magic and back again.
    EXPECT_CONTAINS(ptx, "sub.f32");
    EXPECT_CONTAINS(ptx, "0f4B400000");
    EXPECT_CONTAINS(ptx, "0fCB400000");
  }
}

TEST(Ptx, FusesWhereContractSaysSoOnly) {
  const char *text = R"(
define ptx_kernel void @f(ptr addrspace(1) %p, float %a, float %b, float %c) {
  %m = fmul CONTRACT float %a, %b
  %s = fadd CONTRACT float %m, %c
  store float %s, ptr addrspace(1) %p
  ret void
}
)";
  auto with = [&](const std::string &flag) {
    std::string result = text;
    for (size_t at; (at = result.find("CONTRACT")) != std::string::npos;)
      result.replace(at, 8, flag);
    return result;
  };
  EXPECT_CONTAINS(ptxOf(with("contract")), "fma.rn.f32");
  EXPECT_LACKS(ptxOf(with("")), "fma");
}

static std::string loopText(const char *metadata) {
  return std::string(R"(
define ptx_kernel void @loop(ptr addrspace(1) %p) {
entry:
  br label %body
body:
  %i = phi i64 [ 0, %entry ], [ %next, %body ]
  %q = getelementptr float, ptr addrspace(1) %p, i64 %i
  %x = load volatile float, ptr addrspace(1) %q
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, 8
  br i1 %more, label %body, label %exit, !llvm.loop !0
exit:
  ret void
}
!0 = distinct !{!0, !1}
!1 = !{!"llvm.loop.)") +
         metadata + "\"}\n";
}

TEST(Ptx, LoopsUnrollWhenAsked) {
  auto loads = [](const std::string &ptx) {
    return llvm::StringRef(ptx).count("ld.volatile.global");
  };
  EXPECT_EQ(loads(ptxOf(loopText("mustprogress"))), 1u);
  EXPECT_EQ(loads(ptxOf(loopText("unroll.full"))), 8u);
  std::string kept = ptxOf(loopText("unroll.disable"));
  EXPECT_EQ(loads(kept), 1u);
  EXPECT_CONTAINS(kept, ".pragma \"nounroll\"");
}

//===----------------------------------------------------------------------===//
// Errors
//===----------------------------------------------------------------------===//

TEST(PtxErrors, UnknownChipAndOldPtx) {
  EXPECT_CONTAINS(errorOf(findGpuTarget("sm_1")), "sm_90a");
  ParsedModule module(kernelText);
  EXPECT_CONTAINS(errorOf(emitPtx(*module, {"sm_90a", 70})), "PTX version 81");
}

TEST(PtxErrors, NoKernel) {
  EXPECT_CONTAINS(ptxErrorOf("define void @f() { ret void }"), "ptx_kernel");
}

TEST(PtxErrors, InvalidModule) {
  ParsedModule module(kernelText);
  (*module).getFunction("scores")->front().getTerminator()->eraseFromParent();
  EXPECT_CONTAINS(errorOf(emitPtx(*module, valueOf(findGpuTarget("sm_80")))),
                  "invalid LLVM IR");
}

TEST(PtxErrors, CallOfLibdevice) {
  EXPECT_CONTAINS(ptxErrorOf(R"(
declare float @__nv_exp2f(float)
define ptx_kernel void @f(ptr addrspace(1) %p, float %x) {
  %y = call float @__nv_exp2f(float %x)
  store float %y, ptr addrspace(1) %p
  ret void
})"),
                  "called but not defined: __nv_exp2f");
}

static const char log2Text[] = R"(
declare float @llvm.log2.f32(float)
define ptx_kernel void @f(ptr addrspace(1) %p, float %x) {
  %y = call float @llvm.log2.f32(float %x)
  store float %y, ptr addrspace(1) %p
  ret void
})";

// A diagnosed error first, then report_fatal_error("Cannot select").
TEST(PtxErrors, IntrinsicWithoutInstruction) {
  EXPECT_CONTAINS(ptxErrorOf(log2Text), "flog2");
}

TEST(PtxErrors, IntrinsicThatTheChipLacks) {
  ParsedModule module(R"(
declare void @llvm.nvvm.wgmma.fence.sync.aligned()
define ptx_kernel void @f() {
  call void @llvm.nvvm.wgmma.fence.sync.aligned()
  ret void
})");
  EXPECT_CONTAINS(errorOf(emitPtx(*module, valueOf(findGpuTarget("sm_80")))),
                  "Cannot select");
}

TEST(PtxErrors, AsmWithAnImpossibleConstraint) {
  EXPECT_CONTAINS(ptxErrorOf(R"(
define ptx_kernel void @f(ptr addrspace(1) %p) {
  %y = call i32 asm "mov.u32 $0, 1;", "={nosuchregister}"()
  store i32 %y, ptr addrspace(1) %p
  ret void
})"),
                  "constraint");
}

// NVPTX drops the initialiser, makes the thread-local global, crashes on the
// aggregate and prints nonsense for the result.
TEST(PtxErrors, WhatTheBackendWouldMistranslate) {
  auto with = [](const char *global, const char *body) {
    return ptxErrorOf(std::string(global) +
                      "\ndefine ptx_kernel void @f() {\n" + body +
                      "\n  ret void\n}");
  };
  EXPECT_CONTAINS(with("@s = internal addrspace(3) global i32 1",
                       "  store volatile i32 0, ptr addrspace(3) @s"),
                  "shared memory");
  EXPECT_CONTAINS(with("@t = internal thread_local global i32 1", ""),
                  "thread-local");
  EXPECT_CONTAINS(with("",
                       "  call void asm sideeffect \"x $0;\", \"r\"([4 x i32] "
                       "zeroinitializer)"),
                  "aggregate operand");
  EXPECT_CONTAINS(ptxErrorOf("define ptx_kernel i32 @f() { ret i32 1 }"),
                  "returns a value");
}

TEST(PtxErrors, AsmWithAWrongOperandNumber) {
  EXPECT_CONTAINS(ptxErrorOf(R"(
define ptx_kernel void @f(i32 %x) {
  call void asm sideeffect "mov.b32 $5, $0;", "r"(i32 %x)
  ret void
})"),
                  "operand number");
}

// LLVM passes the text of PTX asm through: only ptxas can tell.
TEST(PtxErrors, MalformedAsmIsFoundByPtxas) {
  std::string ptx = ptxOf(R"(
define ptx_kernel void @f(i32 %x) {
  call void asm sideeffect "nonsense $0;", "r"(i32 %x)
  ret void
})");
  if (!findPtxas())
    GTEST_SKIP() << "no ptxas";
  EXPECT_CONTAINS(errorOf(assemble(ptx, "sm_90a")), "nonsense");
}

TEST(PtxErrors, FatalErrorsLeaveTheProcessUsable) {
  std::string before = ptxOf(kernelText);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([] {
      for (int repeat = 0; repeat < 10; ++repeat)
        EXPECT_CONTAINS(ptxErrorOf(log2Text), "flog2");
    });
  for (std::thread &thread : threads)
    thread.join();
  EXPECT_EQ(ptxOf(kernelText), before);
}

//===----------------------------------------------------------------------===//
// ptxas's report
//===----------------------------------------------------------------------===//

TEST(PtxasReport, ReadsTheLog) {
  AssemblyReport report = parsePtxasLog(
      "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async "
      "instructions are serialized due to x in function 'k'\n"
      "ptxas warning : Something else\n"
      "ptxas info    : 0 bytes gmem\n"
      "ptxas info    : Compiling entry function 'k' for 'sm_90a'\n"
      "ptxas info    : Function properties for k\n"
      "    40 bytes stack frame, 24 bytes spill stores, 28 bytes spill loads\n"
      "ptxas info    : Used 255 registers, used 3 barriers, 40 bytes "
      "cumulative "
      "stack size, 1024 bytes smem, 352 bytes cmem[0]\n"
      "ptxas info    : Compiling entry function 'l' for 'sm_90a'\n"
      "ptxas info    : Function properties for l\n"
      "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
      "ptxas info    : Used 8 registers, used 0 barriers\n");
  ASSERT_EQ(report.kernels.size(), 2u);
  EXPECT_EQ(report.kernels[0].name, "k");
  EXPECT_EQ(report.kernels[0].registers, 255u);
  EXPECT_EQ(report.kernels[0].stackFrameBytes, 40u);
  EXPECT_EQ(report.kernels[0].spillStoreBytes, 24u);
  EXPECT_EQ(report.kernels[0].spillLoadBytes, 28u);
  EXPECT_EQ(report.kernels[0].barriers, 3u);
  EXPECT_EQ(report.kernels[0].staticSharedBytes, 1024u);
  EXPECT_EQ(report.kernels[1].name, "l");
  EXPECT_EQ(report.kernels[1].registers, 8u);
  EXPECT_EQ(report.kernels[1].staticSharedBytes, 0u);
  ASSERT_EQ(report.warnings.size(), 2u);
  EXPECT_CONTAINS(report.warnings[0], "C7510");
}

TEST(PtxasReport, CountsStaticSharedMemoryAndBarriers) {
  if (!findPtxas())
    GTEST_SKIP() << "no ptxas";
  AssemblyReport report = valueOf(assemble(ptxOf(R"(
@tile = internal addrspace(3) global [64 x float] poison
declare void @llvm.nvvm.barrier.cta.sync.aligned.all(i32)
declare i32 @llvm.nvvm.read.ptx.sreg.tid.x()
define ptx_kernel void @k(ptr addrspace(1) %p) {
  %t = call i32 @llvm.nvvm.read.ptx.sreg.tid.x()
  %q = getelementptr float, ptr addrspace(3) @tile, i32 %t
  store float 1.0, ptr addrspace(3) %q
  call void @llvm.nvvm.barrier.cta.sync.aligned.all(i32 0)
  %r = sub i32 63, %t
  %s = getelementptr float, ptr addrspace(3) @tile, i32 %r
  %x = load float, ptr addrspace(3) %s
  store float %x, ptr addrspace(1) %p
  ret void
})"),
                                           "sm_90a"));
  ASSERT_EQ(report.kernels.size(), 1u) << report.log;
  EXPECT_EQ(report.kernels[0].staticSharedBytes, 256u) << report.log;
  EXPECT_EQ(report.kernels[0].barriers, 1u) << report.log;
}
