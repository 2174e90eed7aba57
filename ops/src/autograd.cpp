//===- autograd.cpp - how the ops are differentiated ----------------------===//
#include "ahead.h"
#include "composite.h"
#include "flarec/ops.h"
#include "results.h"

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <functional>

namespace flarec::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Whether a call must go through an autograd function. Tangents of forward
/// mode count: the function then raises PyTorch's error for them.
template <typename... Tensors> bool differentiates(const Tensors &...inputs) {
  auto one = [](const at::Tensor &t) {
    return t.defined() && ((at::GradMode::is_enabled() && t.requires_grad()) ||
                           t._fw_grad(/*level=*/0).defined());
  };
  return (one(inputs) || ...);
}

/// The letters of those inputs that require a gradient.
std::string
required(std::initializer_list<std::pair<char, const at::Tensor *>> inputs) {
  std::string letters;
  for (auto [letter, input] : inputs)
    if (input->requires_grad())
      letters += letter;
  return letters;
}

//===-- Backward passes ------------------------------------------------------//

/// Whatever computes gradients is an op too; its own derivative is an error,
/// not zero. An autograd function cannot return undefined tensors: this one
/// returns what is wanted.
struct OnceFunction : torch::autograd::Function<OnceFunction> {
  // Only ops are called, so compiled autograd can trace through.
  static constexpr bool is_traceable = true;

  template <typename... Tensors>
  static variable_list forward(AutogradContext *,
                               const std::function<variable_list()> &compute,
                               const Tensors &...) {
    at::AutoDispatchBelowADInplaceOrView below;
    variable_list results;
    for (const at::Tensor &result : compute())
      if (result.defined())
        results.push_back(result);
    return results;
  }

  static variable_list backward(AutogradContext *, const variable_list &) {
    TORCH_CHECK(false,
                "flarec: the mixer and its halves cannot be differentiated "
                "twice; where second derivatives are needed use float64, or "
                "scaled_dot_product_attention twice under "
                "torch.nn.attention.sdpa_kernel(SDPBackend.MATH)");
  }
};

/// `compute()`, which uses `inputs`, as a tuple of tensors.
template <typename Compute, typename... Tensors>
auto once(const Compute &compute, const Tensors &...inputs) {
  using Results = decltype(compute());
  constexpr size_t count = std::tuple_size_v<Results>;
  if (!differentiates(inputs...)) {
    at::AutoDispatchBelowADInplaceOrView below;
    return compute();
  }
  std::array<bool, count> present{};
  std::function<variable_list()> listed = [&] {
    return std::apply(
        [&](const auto &...results) {
          present = {results.defined()...};
          return variable_list{results...};
        },
        compute());
  };
  variable_list list = OnceFunction::apply(listed, inputs...);
  std::array<at::Tensor, count> results;
  auto next = list.begin();
  for (size_t i = 0; i < count; ++i)
    if (present[i])
      results[i] = *next++;
  return std::apply([](auto &...r) { return Results{r...}; }, results);
}

Three mixerBackwardAutograd(const at::Tensor &gradY, const at::Tensor &q,
                            const at::Tensor &k, const at::Tensor &v,
                            const at::Tensor &y, const at::Tensor &z,
                            const at::Tensor &lseEncode,
                            const at::Tensor &lseDecode, double scale,
                            std::array<bool, 3> wanted,
                            const MaybeTensor &range, const MaybeTensor &mask) {
  return once(
      [&] {
        return mixerBackward(gradY, q, k, v, y, z, lseEncode, lseDecode, scale,
                             wanted, range, mask);
      },
      gradY, q, k, v, y, z, lseEncode, lseDecode);
}

Three encodeBackwardAutograd(const at::Tensor &gradZ, const at::Tensor &gradLse,
                             const at::Tensor &q, const at::Tensor &k,
                             const at::Tensor &v, const at::Tensor &z,
                             const at::Tensor &lse, double scale,
                             std::array<bool, 3> wanted,
                             const MaybeTensor &range,
                             const MaybeTensor &mask) {
  return once(
      [&] {
        return encodeBackward(gradZ, gradLse, q, k, v, z, lse, scale, wanted,
                              range, mask);
      },
      gradZ, gradLse, q, k, v, z, lse);
}

Three decodeBackwardAutograd(const at::Tensor &gradY, const at::Tensor &gradLse,
                             const at::Tensor &k, const at::Tensor &q,
                             const at::Tensor &z, const at::Tensor &y,
                             const at::Tensor &lse, double scale,
                             std::array<bool, 3> wanted,
                             const MaybeTensor &range,
                             const MaybeTensor &mask) {
  return once(
      [&] {
        return decodeBackward(gradY, gradLse, k, q, z, y, lse, scale, wanted,
                              range, mask);
      },
      gradY, gradLse, k, q, z, y, lse);
}

Two backwardLatentsAutograd(const at::Tensor &gradY, const at::Tensor &q,
                            const at::Tensor &k, const at::Tensor &y,
                            const at::Tensor &lseDecode, double scale) {
  return once(
      [&] { return mixerBackwardLatents(gradY, q, k, y, lseDecode, scale); },
      gradY, q, k, y, lseDecode);
}

Three backwardJointAutograd(const at::Tensor &gradY, const at::Tensor &q,
                            const at::Tensor &k, const at::Tensor &v,
                            const at::Tensor &z, const at::Tensor &dz,
                            const at::Tensor &lseEncode,
                            const at::Tensor &lseDecode,
                            const at::Tensor &delta, double scale) {
  return once(
      [&] {
        return mixerBackwardJoint(gradY, q, k, v, z, dz, lseEncode, lseDecode,
                                  delta, scale);
      },
      gradY, q, k, v, z, dz, lseEncode, lseDecode, delta);
}

//===-- Forward passes -------------------------------------------------------//

MaybeTensor maybe(const at::Tensor &t) {
  return t.defined() ? MaybeTensor(t) : MaybeTensor();
}

struct MixerFunction : torch::autograd::Function<MixerFunction> {
  static constexpr bool is_traceable = true;

  static variable_list forward(AutogradContext *ctx, const at::Tensor &q,
                               const at::Tensor &k, const at::Tensor &v,
                               double scale, const MaybeTensor &range,
                               const MaybeTensor &mask) {
    at::AutoDispatchBelowADInplaceOrView below;
    GradientsAhead ahead(required({{'q', &q}, {'k', &k}, {'v', &v}}));
    auto [y, z, lseEncode, lseDecode] =
        mixerForward(q, k, v, scale, range, mask);
    ctx->save_for_backward({q, k, v, y, z, lseEncode, lseDecode,
                            range.value_or(at::Tensor()),
                            mask.value_or(at::Tensor())});
    ctx->saved_data["scale"] = scale;
    ctx->set_materialize_grads(false);
    return {y, z, lseEncode, lseDecode};
  }

  static variable_list backward(AutogradContext *ctx,
                                const variable_list &grads) {
    TORCH_CHECK(!grads[1].defined() && !grads[2].defined() &&
                    !grads[3].defined(),
                "flarec: mixer_forward has gradients for y only; detach() z "
                "and the log-sum-exps before a loss reads them, or call encode "
                "and decode, which have them");
    if (!grads[0].defined())
      return {{}, {}, {}, {}, {}, {}};
    variable_list saved = ctx->get_saved_variables();
    std::array<bool, 3> wanted = {ctx->needs_input_grad(0),
                                  ctx->needs_input_grad(1),
                                  ctx->needs_input_grad(2)};
    auto [gradQ, gradK, gradV] = mixerBackward(
        grads[0], saved[0], saved[1], saved[2], saved[3], saved[4], saved[5],
        saved[6], ctx->saved_data["scale"].toDouble(), wanted, maybe(saved[7]),
        maybe(saved[8]));
    return {gradQ, gradK, gradV, {}, {}, {}};
  }
};

/// encode and decode look alike: three tensors and a scale in, rows and their
/// log-sum-exps out.
template <typename Half>
struct HalfFunction : torch::autograd::Function<HalfFunction<Half>> {
  static constexpr bool is_traceable = true;

  static variable_list forward(AutogradContext *ctx, const at::Tensor &a,
                               const at::Tensor &b, const at::Tensor &c,
                               double scale, const MaybeTensor &range,
                               const MaybeTensor &mask) {
    at::AutoDispatchBelowADInplaceOrView below;
    GradientsAhead ahead(required({{Half::letters[0], &a},
                                   {Half::letters[1], &b},
                                   {Half::letters[2], &c}}));
    auto [out, lse] = Half::forward(a, b, c, scale, range, mask);
    ctx->save_for_backward({a, b, c, out, lse, range.value_or(at::Tensor()),
                            mask.value_or(at::Tensor())});
    ctx->saved_data["scale"] = scale;
    ctx->set_materialize_grads(false);
    return {out, lse};
  }

  static variable_list backward(AutogradContext *ctx,
                                const variable_list &grads) {
    if (!grads[0].defined() && !grads[1].defined())
      return {{}, {}, {}, {}, {}, {}};
    variable_list saved = ctx->get_saved_variables();
    // Zeros without memory, where nothing flows in.
    auto given = [&](int i) {
      const at::Tensor &like = saved[3 + i];
      return grads[i].defined() ? grads[i]
                                : at::zeros({}, like.options())
                                      .expand_symint(like.sym_sizes());
    };
    std::array<bool, 3> wanted = {ctx->needs_input_grad(0),
                                  ctx->needs_input_grad(1),
                                  ctx->needs_input_grad(2)};
    auto [gradA, gradB, gradC] = Half::backward(
        given(0), given(1), saved[0], saved[1], saved[2], saved[3], saved[4],
        ctx->saved_data["scale"].toDouble(), wanted, maybe(saved[5]),
        maybe(saved[6]));
    return {gradA, gradB, gradC, {}, {}, {}};
  }
};

struct Encode {
  static constexpr const char *letters = "qkv";
  static constexpr auto forward = flarec::encode;
  static constexpr auto backward = flarec::encodeBackward;
};
struct Decode {
  static constexpr const char *letters = "kqz";
  static constexpr auto forward = flarec::decode;
  static constexpr auto backward = flarec::decodeBackward;
};

Four mixerAutograd(const at::Tensor &q, const at::Tensor &k,
                   const at::Tensor &v, double scale, const MaybeTensor &range,
                   const MaybeTensor &mask) {
  if (!differentiates(q, k, v)) {
    at::AutoDispatchBelowADInplaceOrView below;
    return mixerForward(q, k, v, scale, range, mask);
  }
  Presence presence(range, mask);
  Shape shape = checkInputs(q, k, v, presence);
  if (composite::serves(k)) {
    checkRange(presence, shape);
    return composite::mixer(q, k, v, scale, shape, presence);
  }
  variable_list results = MixerFunction::apply(q, k, v, scale, range, mask);
  return {results[0], results[1], results[2], results[3]};
}

Two encodeAutograd(const at::Tensor &q, const at::Tensor &k,
                   const at::Tensor &v, double scale,
                   const MaybeTensor &range, const MaybeTensor &mask) {
  if (!differentiates(q, k, v)) {
    at::AutoDispatchBelowADInplaceOrView below;
    return flarec::encode(q, k, v, scale, range, mask);
  }
  Presence presence(range, mask);
  Shape shape = checkInputs(q, k, v, presence);
  if (composite::serves(k)) {
    checkRange(presence, shape);
    return composite::encode(q, k, v, scale, shape, presence);
  }
  variable_list results =
      HalfFunction<Encode>::apply(q, k, v, scale, range, mask);
  return {results[0], results[1]};
}

Two decodeAutograd(const at::Tensor &k, const at::Tensor &q,
                   const at::Tensor &z, double scale,
                   const MaybeTensor &range, const MaybeTensor &mask) {
  if (!differentiates(k, q, z)) {
    at::AutoDispatchBelowADInplaceOrView below;
    return flarec::decode(k, q, z, scale, range, mask);
  }
  Presence presence(range, mask);
  Shape shape = checkDecodeInputs(k, q, z, presence);
  if (composite::serves(k)) {
    checkRange(presence, shape);
    return composite::decode(k, q, z, scale, shape, presence);
  }
  variable_list results =
      HalfFunction<Decode>::apply(k, q, z, scale, range, mask);
  return {results[0], results[1]};
}

} // namespace
} // namespace flarec::ops

TORCH_LIBRARY_IMPL(flarec, Autograd, m) {
  using namespace flarec::ops;
  m.impl("mixer_forward", TORCH_FN(mixerAutograd));
  m.impl("mixer_backward", TORCH_FN(mixerBackwardAutograd));
  m.impl("encode", TORCH_FN(encodeAutograd));
  m.impl("encode_backward", TORCH_FN(encodeBackwardAutograd));
  m.impl("decode", TORCH_FN(decodeAutograd));
  m.impl("decode_backward", TORCH_FN(decodeBackwardAutograd));
  m.impl("mixer_backward_latents", TORCH_FN(backwardLatentsAutograd));
  m.impl("mixer_backward_joint", TORCH_FN(backwardJointAutograd));
}
