//===- sources.cpp - what the ops ask the compiler for --------------------===//
#include "sources.h"

#include <string_view>
#include <utility>
#include <vector>

namespace flarec::ops {
namespace {

// In these texts $n stands for rows of tokens, $m for rows of latents as q has
// them, $z for the same in f32, $l and $t for one f32 a latent and a token, $x
// for one f32 a pair, $p for the arguments that say which tokens there are.

constexpr std::string_view encode = R"(
func.func @encode(%q: $m {flare.name = "q"}, %k: $n {flare.name = "k"}, %v: $n {flare.name = "v"}$p,
                  %scale: f32 {flare.name = "scale"}) -> ($z {flare.name = "z"}, $l {flare.name = "lse"}) {
  %z, %lse = flare.encode %q, %k, %v scale %scale : $m, $n, $n -> $z, $l
  return %z, %lse : $z, $l
}
)";

constexpr std::string_view decode = R"(
func.func @decode(%k: $n {flare.name = "k"}, %q: $m {flare.name = "q"}, %z: $z {flare.name = "z"}$p,
                  %scale: f32 {flare.name = "scale"}) -> ($n {flare.name = "y"}, $t {flare.name = "lse"}) {
  %y, %lse = flare.decode %k, %q, %z scale %scale : $n, $m, $z -> $n, $t
  return %y, %lse : $n, $t
}
)";

//   dz[m] = Σ_n R[n,m] gy[n],  R = exp(x - lse_decode);  delta[n] = gy[n]·y[n]
constexpr std::string_view backwardLatents = R"(
func.func @mixer_backward_latents(
    %gy: $n {flare.name = "grad_y"}, %q: $m {flare.name = "q"}, %k: $n {flare.name = "k"},
    %y: $n {flare.name = "y"}, %ld: $t {flare.name = "lse_decode"}, %scale: f32 {flare.name = "scale"})
    -> ($z {flare.name = "dz"}, $t {flare.name = "delta"}) {
  %log2e = arith.constant 1.44269502 : f32
  %sq = flare.scale %q by %scale : $m
  %x = flare.contract %sq, %k over d : $z, $n
  %xd = flare.sub %x, %ld : $x, $t
  %xd2 = flare.scale %xd by %log2e : $x
  %r = flare.exp2 %xd2 : $x
  %dz = flare.contract %r, %gy over n : $x, $n
  %delta = flare.contract %gy, %y over d : $n, $n
  return %dz, %delta : $z, $t
}
)";

//   dx[n,m] = R (gy[n]·z[m] - delta[n]) + P (v[n]·dz[m] - dz[m]·z[m])
//   dq[m] = s Σ_n dx k[n];  dk[n] = s Σ_m dx q[m];  dv[n] = Σ_m P dz[m]
// with R as above and P = exp(x - lse_encode). dq stays in f32: it is one of
// several that are added up.
constexpr std::string_view backwardJoint = R"(
func.func @mixer_backward_joint(
    %gy: $n {flare.name = "grad_y"}, %q: $m {flare.name = "q"}, %k: $n {flare.name = "k"},
    %v: $n {flare.name = "v"}, %z: $z {flare.name = "z"}, %dz: $z {flare.name = "dz"},
    %le: $l {flare.name = "lse_encode"}, %ld: $t {flare.name = "lse_decode"},
    %delta: $t {flare.name = "delta"}, %scale: f32 {flare.name = "scale"})
    -> ($z {flare.name = "grad_q"}, $n {flare.name = "grad_k"}, $n {flare.name = "grad_v"}) {
  %log2e = arith.constant 1.44269502 : f32
  %sq = flare.scale %q by %scale : $m
  %x = flare.contract %sq, %k over d : $z, $n
  %xd = flare.sub %x, %ld : $x, $t
  %xd2 = flare.scale %xd by %log2e : $x
  %r = flare.exp2 %xd2 : $x
  %gz = flare.contract %gy, %z over d : $n, $z
  %dr = flare.sub %gz, %delta : $x, $t
  %dxd = flare.mul %r, %dr : $x, $x
  %xe = flare.sub %x, %le : $x, $l
  %xe2 = flare.scale %xe by %log2e : $x
  %p = flare.exp2 %xe2 : $x
  %dv = flare.contract %p, %dz over m : $x, $z
  %dzz = flare.contract %dz, %z over d : $z, $z
  %dzv = flare.contract %dz, %v over d : $z, $n
  %dp = flare.sub %dzv, %dzz : $x, $l
  %dxe = flare.mul %p, %dp : $x, $x
  %dx = flare.add %dxd, %dxe : $x, $x
  %dq = flare.contract %dx, %k over n : $x, $n
  %sdq = flare.scale %dq by %scale : $z
  %dk = flare.contract %dx, %q over m : $x, $m
  %sdk = flare.scale %dk by %scale : !flare.tensor<n, d=$D, f32>
  %gk = flare.cast %sdk : !flare.tensor<n, d=$D, f32> -> $n
  %gv = flare.cast %dv : !flare.tensor<n, d=$D, f32> -> $n
  return %sdq, %gk, %gv : $z, $n, $n
}
)";

} // namespace

std::string nameOf(Stage stage) {
  switch (stage) {
  case Stage::Encode:
    return "encode";
  case Stage::Decode:
    return "decode";
  case Stage::BackwardLatents:
    return "mixer_backward_latents";
  case Stage::BackwardJoint:
    return "mixer_backward_joint";
  }
  __builtin_unreachable();
}

std::string sourceOf(Stage stage, int64_t headDim, int64_t latents,
                     const std::string &type, bool ragged, bool masked) {
  std::string d = std::to_string(headDim);
  std::string m = "m=" + std::to_string(latents);
  auto tensor = [](const std::string &indices) {
    return "!flare.tensor<" + indices + ">";
  };
  std::string presence;
  if (ragged)
    presence += ", %range: " + tensor("d=2, i32") + " {flare.name = \"range\"}";
  if (masked)
    presence += ", %mask: " + tensor("n, i8") + " {flare.name = \"mask\"}";
  const std::pair<char, std::string> replacements[] = {
      {'n', tensor("n, d=" + d + ", " + type)},
      {'m', tensor(m + ", d=" + d + ", " + type)},
      {'z', tensor(m + ", d=" + d + ", f32")},
      {'l', tensor(m + ", f32")},
      {'t', tensor("n, f32")},
      {'x', tensor("n, " + m + ", f32")},
      {'p', presence},
      {'D', d}};
  std::string_view text = stage == Stage::Encode            ? encode
                          : stage == Stage::Decode          ? decode
                          : stage == Stage::BackwardLatents ? backwardLatents
                                                            : backwardJoint;
  std::string source;
  for (size_t i = 1; i < text.size(); ++i) { // after the first line break
    if (text[i] != '$') {
      source += text[i];
      continue;
    }
    ++i;
    for (const auto &[letter, replacement] : replacements)
      if (letter == text[i])
        source += replacement;
  }
  return source;
}

} // namespace flarec::ops
