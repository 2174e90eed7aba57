// Compilations in child processes: all are answered, whatever becomes of a child.
#include "flarec/artefact.h"
#include "flarec/description.h"
#include "flarec/error.h"
#include "workers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <set>
#include <unistd.h>

using namespace flarec;
using namespace flarec::autotune;
using testing::HasSubstr;
namespace fs = std::filesystem;

namespace {

class Workers : public testing::Test {
protected:
  void SetUp() override {
    directory = fs::temp_directory_path() / ("flarec-workers-" + std::to_string(getpid()));
    fs::create_directories(directory);
  }
  void TearDown() override { fs::remove_all(directory); }

  Job job(int number, const std::string &configuration = "", const char *target = "host") {
    MixerDescription d{.headDim = 4, .latents = 16, .dtype = DType::F32, .gradients = "", .target = target, .configuration = configuration};
    return {request(d), (directory / std::to_string(number)).string(), target == std::string("host") ? "" : target};
  }
  /// A program that does not answer as it should.
  std::string script(const std::string &body) {
    std::string path = (directory / "script").string();
    std::ofstream(path) << "#!/bin/sh\n" << body << "\n";
    fs::permissions(path, fs::perms::owner_all);
    return path;
  }
  std::vector<std::string> run(const std::string &program, const std::vector<Job> &jobs, double timeout = 60) {
    std::vector<std::string> failures(jobs.size(), "never answered");
    compileAll(program, 2, timeout, jobs, [&](const Outcome &outcome) {
      EXPECT_EQ(failures[outcome.job], "never answered");
      failures[outcome.job] = outcome.failure;
      return true;
    });
    return failures;
  }

  fs::path directory;
};

TEST_F(Workers, CompileAndSayWhatIsWrong) {
  std::vector<Job> jobs = {job(0), job(1, "{mixer_forward = [{tile = 7}, {}]}"), job(2, "{mixer_forward = [{}, {stages = 2}]}")};
  std::vector<std::string> failures = run(FLAREC, jobs);
  EXPECT_EQ(failures[0], "");
  EXPECT_THAT(failures[1], HasSubstr("tile = 7 must be a positive multiple of 16"));
  EXPECT_EQ(failures[2], "");
  EXPECT_NO_THROW(Artefact::read(jobs[0].output));
  EXPECT_FALSE(fs::exists(jobs[1].output));
}

TEST_F(Workers, MakeOneSweepsKernels) {
  for (const char *target : {"host", "sm_90a"}) {
    std::vector<Job> jobs = {job(0, "", target), job(1, "", target), job(2, "", target)};
    for (size_t i = 0; i < jobs.size(); ++i) {
      auto json = nlohmann::json::parse(jobs[i].request);
      json["only"] = "mixer_forward:" + std::to_string(i);
      jobs[i].request = json.dump();
    }
    std::vector<std::string> failures = run(FLAREC, jobs);
    EXPECT_EQ(failures[0], "");
    EXPECT_EQ(failures[1], "");
    EXPECT_THAT(failures[2], HasSubstr("there is no sweep 'mixer_forward:2'"));
    for (int sweep : {0, 1}) {
      Artefact artefact = Artefact::read(jobs[size_t(sweep)].output);
      ASSERT_EQ(artefact.manifest().functions.size(), 1u);
      const FunctionSpec &function = artefact.manifest().functions.front();
      EXPECT_EQ(function.sweeps.size(), 2u) << "all take as many numbers of splits";
      ASSERT_EQ(function.kernels.size(), sweep ? 1u : 2u) << "encode has a merge";
      EXPECT_EQ(function.kernels[0].grid, Grid::Sweep);
      EXPECT_EQ(function.kernels[0].sweep, sweep);
      for (const KernelSpec &kernel : function.kernels)
        EXPECT_TRUE(kernel.variants.empty()) << "aligned rows alone";
    }
  }
}

TEST_F(Workers, WhatParksASweepsLatentsComesBeforeIt) {
  std::vector<Job> jobs = {job(0, "{mixer_forward = [{}, {park = \"none\"}]}", "sm_90a")};
  auto json = nlohmann::json::parse(jobs[0].request);
  json["only"] = "mixer_forward:1";
  jobs[0].request = json.dump();
  ASSERT_EQ(run(FLAREC, jobs)[0], "");
  Artefact artefact = Artefact::read(jobs[0].output);
  const FunctionSpec &function = artefact.manifest().functions.at(0);
  ASSERT_EQ(function.kernels.size(), 2u);
  EXPECT_THAT(function.kernels[0].symbol, HasSubstr("_park_"));
  EXPECT_EQ(function.kernels[0].grid, Grid::Latents);
  EXPECT_EQ(function.kernels[1].grid, Grid::Sweep);
  // What TestBed takes for a sweep's own.
  EXPECT_TRUE(std::any_of(function.tensors.begin(), function.tensors.end(), [](const TensorSpec &t) { return t.name.starts_with("park_") && t.sweep < 0; }));
}

TEST_F(Workers, GoOnWhileOutcomesAreLookedAt) {
  Compilation compilation(FLAREC, 2, 60, {job(0), job(1), job(2, "{mixer_forward = [{tile = 7}, {}]}")});
  std::set<size_t> seen;
  while (auto outcome = compilation.next(60)) {
    EXPECT_TRUE(seen.insert(outcome->job).second);
    EXPECT_EQ(outcome->failure.empty(), outcome->job != 2);
  }
  EXPECT_EQ(seen, (std::set<size_t>{0, 1, 2}));
}

TEST_F(Workers, EndWithTheirCompilation) {
  auto start = std::chrono::steady_clock::now();
  {
    Compilation compilation(script("sleep 100"), 2, 60, {job(0), job(1), job(2)});
    EXPECT_FALSE(compilation.next(0.2));
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
}

TEST_F(Workers, AFailureToStartReachesWhoWaits) {
  Compilation compilation("/nowhere/flarec", 2, 60, {job(0)});
  EXPECT_THROW(compilation.next(60), Error);
}

TEST_F(Workers, ADeadChildCostsItsJobAlone) {
  // The first child dies of its job, those after it answer.
  std::string program = script("read line; if mkdir " + (directory / "died").string() + " 2>/dev/null; then kill -9 $$; fi; echo '{}'; while read line; do echo '{}'; done");
  std::vector<std::string> failures = run(program, {job(0), job(1), job(2), job(3)});
  EXPECT_EQ(std::count(failures.begin(), failures.end(), ""), 3);
  EXPECT_EQ(std::count(failures.begin(), failures.end(), "the compiler's process ended without an answer"), 1);
}

TEST_F(Workers, AHangingChildIsEnded) {
  auto start = std::chrono::steady_clock::now();
  std::vector<std::string> failures = run(script("sleep 100"), {job(0), job(1), job(2)}, 0.3);
  for (const std::string &failure : failures)
    EXPECT_THAT(failure, HasSubstr("longer than"));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
}

TEST_F(Workers, CanBeStopped) {
  int answered = 0;
  compileAll(script("while read line; do echo '{}'; done"), 1, 60, {job(0), job(1), job(2)}, [&](const Outcome &) { return ++answered < 2; });
  EXPECT_EQ(answered, 2);
}

TEST_F(Workers, AnUnknownProgramIsAnError) { EXPECT_ANY_THROW(run("/nowhere/flarec", {job(0)})); }

} // namespace
