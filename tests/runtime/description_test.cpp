#include "flarec/description.h"
#include "flarec/version.h"
#include "support.h"

using namespace flarec;
using namespace flarec::test;
using testing::HasSubstr;

static const MixerDescription valid{.headDim = 8,
                                    .latents = 128,
                                    .dtype = DType::BF16,
                                    .gradients = "qkv",
                                    .target = "sm_90a"};

// The cache's key is the SHA-256 of this text: a change of it orphans every
// cache and every deployed artefact.
TEST(Description, RequestIsCanonical) {
  std::string begin = "{\"version\":\"" + std::string(version()) + "\",";
  EXPECT_EQ(
      request(valid),
      begin +
          R"("mixer":{"head_dim":8,"latents":128,"dtype":"bf16","gradients":"qkv"},"target":"sm_90a","config":""})");
  MixerDescription shuffled = valid;
  shuffled.gradients = "vqk";
  EXPECT_EQ(request(shuffled), request(valid));
  MixerDescription present = valid;
  present.ragged = present.masked = true;
  EXPECT_EQ(
      request(present),
      begin +
          R"("mixer":{"head_dim":8,"latents":128,"dtype":"bf16","gradients":"qkv","ragged":true,"masked":true},"target":"sm_90a","config":""})");
  EXPECT_EQ(request("func \"x\"\n", "host"),
            begin + R"("source":"func \"x\"\n","target":"host","config":""})");
  EXPECT_EQ(request("func \"x\"\n", "host", "q,k"),
            begin + R"("source":"func \"x\"\n","gradients":"q,k","target":"host","config":""})");
}

TEST(Description, PrecisionIsInTheRequestWhereItIsTf32) {
  std::string begin = "{\"version\":\"" + std::string(version()) + "\",";
  MixerDescription tf32 = valid;
  tf32.dtype = DType::F32;
  std::string plain = request(tf32);
  EXPECT_THAT(plain, testing::Not(HasSubstr("precision")));
  tf32.tf32 = true;
  EXPECT_EQ(
      request(tf32),
      begin +
          R"("mixer":{"head_dim":8,"latents":128,"dtype":"f32","gradients":"qkv"},"precision":"tf32","target":"sm_90a","config":""})");
  EXPECT_EQ(
      request("f", "sm_80", "q", true),
      begin +
          R"("source":"f","gradients":"q","precision":"tf32","target":"sm_80","config":""})");
  tf32.target = "host";
  EXPECT_THAT(errorOf([&] { request(tf32); }),
              HasSubstr("precision of f32 on a GPU; leave it out for f32 on "
                        "host"));
  tf32.target = "sm_80";
  tf32.dtype = DType::F16;
  EXPECT_THAT(errorOf([&] { request(tf32); }), HasSubstr("f16 on sm_80"));
}

TEST(Description, VersionIsProjectAndFormat) {
  EXPECT_THAT(version(), testing::MatchesRegex("[0-9]+\\.[0-9]+\\.[0-9]+\\+1"));
}

TEST(Description, WhatIsNotSupportedIsNamed) {
  auto errorWith = [](auto change) {
    MixerDescription description = valid;
    change(description);
    return errorOf([&] { request(description); });
  };
  EXPECT_THAT(errorWith([](auto &d) { d.headDim = 129; }),
              HasSubstr("head dim 129 is not supported; choose from 1 to 128"));
  EXPECT_THAT(errorWith([](auto &d) { d.latents = 0; }),
              HasSubstr("0 latents are not supported; choose from 1 to 4096"));
  EXPECT_THAT(errorWith([](auto &d) { d.latents = 4097; }),
              HasSubstr("4097 latents"));
  EXPECT_THAT(errorWith([](auto &d) { d.gradients = "qx"; }),
              HasSubstr("gradients \"qx\""));
  EXPECT_THAT(errorWith([](auto &d) { d.gradients = "qq"; }),
              HasSubstr("gradients \"qq\""));
  EXPECT_THAT(
      errorWith([](auto &d) { d.target = "sm_70"; }),
      HasSubstr("no target \"sm_70\"; choose host, sm_80, sm_90a or sm_100a"));
  EXPECT_THAT(errorOf([] { request("x", "tpu"); }),
              HasSubstr("no target \"tpu\""));
}
