#include "flarec/signature.h"
#include "support.h"

using namespace flarec;
using namespace flarec::test;
using testing::HasSubstr;

namespace {

const MixerDescription wanted{.headDim = 8,
                              .latents = 128,
                              .dtype = DType::BF16,
                              .gradients = "vq",
                              .target = "sm_90a"};

TensorSpec tokens(const char *name, Role role) {
  return {.name = name, .role = role, .columns = 8, .type = DType::BF16};
}

TensorSpec latents(const char *name, Role role, DType type,
                   int64_t columns = 8) {
  return {.name = name,
          .role = role,
          .index = Index::Latents,
          .rows = 128,
          .columns = columns,
          .type = type};
}

/// What the compiler makes, as far as a caller sees it.
Manifest manifest() {
  constexpr Role in = Role::Input, out = Role::Result;
  FunctionSpec forward, backward;
  forward.name = "mixer_forward";
  forward.tensors = {latents("q", in, DType::BF16),
                     tokens("k", in),
                     tokens("v", in),
                     tokens("y", out),
                     latents("z", out, DType::F32),
                     latents("lse_encode", out, DType::F32, 0),
                     {.name = "lse_decode", .role = out}};
  backward.name = "mixer_backward";
  backward.tensors = {tokens("grad_y", in),
                      latents("q", in, DType::BF16),
                      tokens("k", in),
                      tokens("v", in),
                      tokens("y", in),
                      latents("z", in, DType::F32),
                      latents("lse_encode", in, DType::F32, 0),
                      {.name = "lse_decode", .role = in},
                      latents("grad_q", out, DType::BF16),
                      tokens("grad_v", out),
                      {.name = "partial", .role = Role::Workspace}};
  backward.tensors[8].reduced = true;
  Manifest manifest;
  manifest.key = "abc";
  manifest.target = "sm_90a";
  manifest.functions = {forward, backward};
  return manifest;
}

std::string errorAfter(const std::function<void(Manifest &)> &change) {
  Manifest changed = manifest();
  change(changed);
  return errorOf([&] { checkServes(changed, wanted); });
}

} // namespace

TEST(Signature, WhatFitsIsTaken) {
  EXPECT_EQ(errorAfter([](Manifest &) {}), "(no error)");
}

TEST(Signature, WhichTokensThereAreIsSaidAfterV) {
  MixerDescription present = wanted;
  present.ragged = present.masked = true;
  Manifest given = manifest();
  TensorSpec range{.name = "range",
                   .index = Index::Batch,
                   .rows = 1,
                   .columns = 2,
                   .type = DType::I32};
  for (auto [function, v] : {std::pair(0, 2), std::pair(1, 3)}) {
    auto &tensors = given.functions[size_t(function)].tensors;
    tensors.insert(tensors.begin() + v + 1,
                   {range, {.name = "mask", .type = DType::I8}});
  }
  EXPECT_EQ(errorOf([&] { checkServes(given, present); }), "(no error)");
  EXPECT_THAT(errorOf([&] { checkServes(given, wanted); }),
              HasSubstr("mixer_forward has 9 tensors, not 7"));
  EXPECT_THAT(errorOf([&] { checkServes(manifest(), present); }),
              HasSubstr("mixer_forward has 7 tensors, not 9"));
  given.functions[0].tensors[3].type = DType::F32;
  EXPECT_THAT(errorOf([&] { checkServes(given, present); }),
              HasSubstr("range<b, d=2, f32>, not range<b, d=2, i32>"));
}

TEST(Signature, WhatDoesNotFitIsNamed) {
  EXPECT_THAT(errorAfter([](Manifest &m) { m.target = "sm_80"; }),
              HasSubstr("for sm_80, not sm_90a"));
  EXPECT_THAT(errorAfter([](Manifest &m) { m.functions.pop_back(); }),
              HasSubstr("no function mixer_backward"));
  EXPECT_THAT(errorAfter([](Manifest &m) { m.functions[0].name = "f"; }),
              HasSubstr("no function mixer_forward"));
  EXPECT_THAT(
      errorAfter([](Manifest &m) { m.functions[0].tensors[0].rows = 64; }),
      HasSubstr("input 0 of mixer_forward is q<m=64, d=8, bf16>, not q<m=128, "
                "d=8, bf16>"));
  EXPECT_THAT(
      errorAfter([](Manifest &m) { m.functions[0].tensors[1].columns = 16; }),
      HasSubstr("k<n, d=16, bf16>, not k<n, d=8, bf16>"));
  EXPECT_THAT(errorAfter([](Manifest &m) {
                m.functions[0].tensors[3].type = DType::F16;
              }),
              HasSubstr("result 3 of mixer_forward is y<n, d=8, f16>"));
  EXPECT_THAT(errorAfter([](Manifest &m) {
                std::swap(m.functions[0].tensors[1], m.functions[0].tensors[2]);
              }),
              HasSubstr("is v<n, d=8, bf16>, not k<n, d=8, bf16>"));
  EXPECT_THAT(
      errorAfter(
          [](Manifest &m) { m.functions[1].tensors[8].reduced = false; }),
      HasSubstr("not grad_q<m=128, d=8, bf16> (summed over the batch)"));
  EXPECT_THAT(errorAfter([](Manifest &m) {
                auto &tensors = m.functions[1].tensors;
                tensors.erase(tensors.begin() + 9);
              }),
              HasSubstr("its mixer_backward has 9 tensors, not 10"));
}
