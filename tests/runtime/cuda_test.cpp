// The GPU's side, with PTX written by hand. Without a driver: that the messages
// are clear.
#include "flarec/cuda_driver.h"
#include "flarec/device.h"
#include "flarec/function.h"
#include "support.h"

#include <thread>

using namespace flarec;
using namespace flarec::test;
using testing::HasSubstr;

TEST(CudaWithoutDriver, SaysSo) {
  if (CudaDriver::available())
    GTEST_SKIP() << "there is a driver";
  EXPECT_THAT(CudaDriver::whyUnavailable(), HasSubstr("NVIDIA driver"));
  EXPECT_EQ(errorOf([] { CudaDriver::get(); }), CudaDriver::whyUnavailable());
  EXPECT_EQ(errorOf([] { DeviceGuard guard(0); }),
            CudaDriver::whyUnavailable());
  auto module = Module::load(std::make_shared<Artefact>(sampleArtefact()));
  EXPECT_EQ(errorOf([&] { module->prepare(0); }), CudaDriver::whyUnavailable());
}

TEST(CudaWithoutDriver, TargetsOfArchitectures) {
  auto target = [](int major, int minor) {
    return targetFor({.name = "a card", .major = major, .minor = minor});
  };
  EXPECT_EQ(target(8, 0), "sm_80");
  EXPECT_EQ(target(9, 0), "sm_90a");
  EXPECT_EQ(target(10, 0), "sm_100a");
  // What has no target of its own: `a` targets run on one architecture alone.
  for (auto [major, minor] :
       {std::pair(8, 6), {8, 7}, {8, 9}, {9, 1}, {10, 3}, {12, 0}, {12, 1}})
    EXPECT_EQ(target(major, minor), "sm_80") << major << "." << minor;
  EXPECT_THAT(errorOf([&] { target(7, 5); }),
              HasSubstr("a card has compute capability 7.5; the kernels need "
                        "8.0 or more: use the host"));
}

namespace {

// y[n] = s * x[n], tokens dealt round over the grid's threads. `big` goes the
// way over 64 KiB of dynamic shared memory.
std::string ptx(const std::string &target) {
  std::string parameters;
  for (int i = 0; i < 13; ++i)
    parameters += ".param .b64 p" + std::to_string(i) + ", ";
  std::string text =
      ".version 8.1\n.target " + target +
      "\n.address_size 64\n.extern .shared .align 16 .b8 memory[];\n";
  for (bool big : {false, true}) {
    text += ".visible .entry " + std::string(big ? "big" : "small") + "(" +
            parameters + ".param .f32 p13) {\n" + R"(
  .reg .b64 %a<9>; .reg .b32 %i<6>; .reg .f32 %f<3>; .reg .pred %p;
  ld.param.u64 %a0, [p0]; ld.param.u64 %a1, [p4]; ld.param.u64 %a2, [p10]; ld.param.f32 %f0, [p13];
  mov.u32 %i0, %ctaid.x; mov.u32 %i1, %ntid.x; mov.u32 %i2, %tid.x; mov.u32 %i3, %nctaid.x;
  mad.lo.u32 %i4, %i0, %i1, %i2; cvt.u64.u32 %a3, %i4;
  mul.lo.u32 %i5, %i1, %i3; cvt.u64.u32 %a4, %i5;
loop:
  setp.ge.u64 %p, %a3, %a2; @%p bra done;
  shl.b64 %a5, %a3, 2; add.u64 %a6, %a0, %a5; add.u64 %a7, %a1, %a5;
  ld.global.f32 %f1, [%a6]; mul.f32 %f1, %f1, %f0;
)" +
            std::string(
                big ? "mov.u32 %i4, memory; mad.lo.u32 %i4, %i2, 4, %i4; "
                      "add.u32 %i4, %i4, 65024;\n"
                      "st.shared.f32 [%i4], %f1; ld.shared.f32 %f1, [%i4];\n"
                    : "") +
            R"(
  st.global.f32 [%a7], %f1; add.u64 %a3, %a3, %a4; bra loop;
done: ret;
}
)";
  }
  return text + '\0';
}

std::shared_ptr<const Artefact> gpuArtefact(const std::string &target,
                                            const std::string &code,
                                            const std::string &symbol = "small",
                                            int64_t shared = 0) {
  Manifest manifest;
  manifest.target = target;
  manifest.code = {{.kind = CodeKind::Ptx}};
  FunctionSpec function;
  function.name = "scale";
  function.tensors = {{.name = "x"}, {.name = "y", .role = Role::Result}};
  function.scalars = {{"s"}};
  function.sweeps = {{.tile = 128, .heads = 1, .rowGroups = 1, .blocks = 64}};
  function.kernels = {{.symbol = symbol,
                       .grid = Grid::Sweep,
                       .threads = 128,
                       .shared = shared}};
  manifest.functions = {function};
  return std::make_shared<const Artefact>(
      Artefact::parse(Artefact(manifest, {code}).serialise()));
}

class Cuda : public testing::Test {
protected:
  void SetUp() override {
    if (!CudaDriver::available())
      GTEST_SKIP() << CudaDriver::whyUnavailable();
    driver = &CudaDriver::get();
  }

  /// Two arrays of `count` floats on the device.
  struct Arrays {
    Arrays(int device, int64_t count) : device(device), count(count) {
      DeviceGuard guard(device);
      const CudaDriver &driver = CudaDriver::get();
      driver.check(driver.memAlloc(&x, size_t(4 * count)), "allocate");
      driver.check(driver.memAlloc(&y, size_t(4 * count)), "allocate");
      std::vector<float> values(static_cast<size_t>(count));
      for (size_t i = 0; i < values.size(); ++i)
        values[i] = float(i % 1000);
      driver.check(driver.memcpyHtoD(x, values.data(), size_t(4 * count)),
                   "copy");
      driver.check(driver.memsetD8(y, 0, size_t(4 * count)), "clear");
    }
    ~Arrays() {
      DeviceGuard guard(device);
      CudaDriver::get().memFree(x);
      CudaDriver::get().memFree(y);
    }
    std::vector<TensorRef> tensors() const {
      return {{reinterpret_cast<void *>(x), 0, 0, 1},
              {reinterpret_cast<void *>(y), 0, 0, 1}};
    }
    bool holdScaled(float s) const {
      DeviceGuard guard(device);
      const CudaDriver &driver = CudaDriver::get();
      std::vector<float> values(static_cast<size_t>(count));
      driver.check(driver.ctxSynchronize(), "run");
      driver.check(driver.memcpyDtoH(values.data(), y, size_t(4 * count)),
                   "copy");
      for (size_t i = 0; i < values.size(); ++i)
        if (values[i] != s * float(i % 1000))
          return false;
      return true;
    }
    int device;
    int64_t count;
    cuda::DevicePointer x = 0, y = 0;
  };

  bool launches(const Module &module, int device, float s,
                int64_t count = 100000) {
    Arrays arrays(device, count);
    module.function("scale").launch({1, 1, count, 1}, arrays.tensors(),
                                    std::array{s}, nullptr, {.device = device});
    return arrays.holdScaled(s);
  }

  const CudaDriver *driver = nullptr;
};

} // namespace

TEST_F(Cuda, DeviceFacts) {
  const DeviceFacts &facts = deviceFacts(0);
  EXPECT_FALSE(facts.name.empty());
  EXPECT_GT(facts.multiprocessors, 0);
  EXPECT_GT(facts.sharedPerBlock, 48 << 10);
  EXPECT_THAT(deviceTarget(0), testing::AnyOf("sm_80", "sm_90a", "sm_100a"));
  EXPECT_THAT(errorOf([] { deviceFacts(63); }), HasSubstr("no CUDA device 63"));
  EXPECT_THAT(errorOf([] { deviceFacts(-1); }), HasSubstr("no CUDA device -1"));
}

TEST_F(Cuda, LaunchesOnEveryDevice) {
  auto module = Module::load(gpuArtefact("sm_80", ptx("sm_80")));
  for (int device = driver->deviceCount(); device-- > 0;)
    for (int64_t count : {1, 127, 100000})
      EXPECT_TRUE(launches(*module, device, 2.5f, count)) << device;
}

TEST_F(Cuda, OwnTarget) {
  std::string target = deviceTarget(0) == "sm_100a" ? "sm_80" : deviceTarget(0);
  EXPECT_TRUE(launches(*Module::load(gpuArtefact(target, ptx(target))), 0, 3));
}

TEST_F(Cuda, ThreadWithoutContextGetsNoneLeftBehind) {
  auto module = Module::load(gpuArtefact("sm_80", ptx("sm_80")));
  std::thread([&] {
    cuda::Context context = nullptr;
    EXPECT_TRUE(launches(*module, 0, 2));
    driver->ctxGetCurrent(&context);
    EXPECT_EQ(context, nullptr);
    EXPECT_THROW(DeviceGuard(1000), Error);
  }).join();
}

TEST_F(Cuda, ManyThreadsLoadAndLaunch) {
  auto module = Module::load(gpuArtefact("sm_80", ptx("sm_80")));
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 10; ++i)
        EXPECT_TRUE(launches(*module, 0, float(t + i), 5000));
    });
  for (std::thread &thread : threads)
    thread.join();
}

TEST_F(Cuda, SharedMemoryBeyond48KiB) {
  EXPECT_TRUE(launches(
      *Module::load(gpuArtefact("sm_80", ptx("sm_80"), "big", 65536)), 0, 2));
  auto much = Module::load(gpuArtefact("sm_80", ptx("sm_80"), "big", 1 << 20));
  EXPECT_THAT(errorOf([&] { much->prepare(0); }),
              testing::AllOf(HasSubstr("takes 1048576 bytes of shared memory"),
                             HasSubstr("at most")));
}

class CudaCapture : public Cuda, public testing::WithParamInterface<bool> {};

// GetParam: whether prepare() was called before. It need not be.
TEST_P(CudaCapture, Launches) {
  auto module = Module::load(gpuArtefact("sm_80", ptx("sm_80")));
  Arrays arrays(0, 100000);
  if (GetParam())
    module->prepare(0);
  DeviceGuard guard(0);
  cuda::Stream stream;
  cuda::Graph graph;
  cuda::GraphExec exec;
  driver->check(driver->streamCreate(&stream, 1), "make a stream");
  driver->check(driver->streamBeginCapture(stream, cuda::CaptureGlobal),
                "capture");
  module->function("scale").launch({1, 1, 100000, 1}, arrays.tensors(),
                                   std::array{4.0f}, nullptr, {0, stream});
  driver->check(driver->streamEndCapture(stream, &graph), "end the capture");
  driver->check(driver->graphInstantiate(&exec, graph, 0), "make a graph");
  EXPECT_FALSE(arrays.holdScaled(4)); // captured, not run
  module.reset();                     // the graph must not need it
  driver->check(driver->graphLaunch(exec, stream), "launch the graph");
  EXPECT_TRUE(arrays.holdScaled(4));
  driver->graphExecDestroy(exec);
  driver->graphDestroy(graph);
  driver->streamDestroy(stream);
}
INSTANTIATE_TEST_SUITE_P(Prepared, CudaCapture, testing::Bool());

TEST_F(Cuda, WrongTargetIsNamed) {
  std::string wrong = deviceTarget(0) == "sm_90a" ? "sm_100a" : "sm_90a";
  auto module = Module::load(gpuArtefact(wrong, ptx(wrong)));
  EXPECT_THAT(errorOf([&] { module->prepare(0); }),
              testing::AllOf(HasSubstr("kernels for " + wrong +
                                       " do not run on " + deviceFacts(0).name),
                             HasSubstr("compile for " + deviceTarget(0))));
}

TEST_F(Cuda, AssemblersWordsReachTheUser) {
  auto module = Module::load(gpuArtefact(
      "sm_80", std::string(".version 8.1\n.target sm_80\nnonsense\n\0", 39)));
  EXPECT_THAT(errorOf([&] { module->prepare(0); }),
              testing::AllOf(HasSubstr("the CUDA driver failed to"),
                             HasSubstr("line 3")));
  auto absent = Module::load(gpuArtefact("sm_80", ptx("sm_80"), "absent"));
  EXPECT_THAT(errorOf([&] { absent->prepare(0); }), HasSubstr("absent"));
}

TEST_F(Cuda, LaunchCost) {
  auto module = Module::load(gpuArtefact("sm_80", ptx("sm_80")));
  Arrays arrays(0, 1);
  const Function &function = module->function("scale");
  auto tensors = arrays.tensors();
  auto once = [&] {
    function.launch({1, 1, 1, 1}, tensors, std::array{1.0f}, nullptr, {});
  };
  once();
  auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < 500; ++i)
    once();
  double us = std::chrono::duration<double, std::micro>(
                  std::chrono::steady_clock::now() - begin)
                  .count() /
              500;
  RecordProperty("microseconds", std::to_string(us));
  std::printf("a launch takes %.2f us\n", us);
  EXPECT_TRUE(arrays.holdScaled(1));
}
