//===- autograd.cpp - how the ops are differentiated ----------------------===//
#include "ahead.h"
#include "flarec/ops.h"
#include "results.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

namespace flarec::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Whether a call must go through an autograd function. Tangents of forward
/// mode count: the function then raises PyTorch's error for them.
bool differentiates(std::initializer_list<at::Tensor> inputs) {
  for (const at::Tensor &t : inputs)
    if (t.defined() && ((at::GradMode::is_enabled() && t.requires_grad()) ||
                        t._fw_grad(/*level=*/0).defined()))
      return true;
  return false;
}

struct MixerFunction : torch::autograd::Function<MixerFunction> {
  // Only ops are called below, so compiled autograd can trace through.
  static constexpr bool is_traceable = true;

  static variable_list forward(AutogradContext *ctx, const at::Tensor &q,
                               const at::Tensor &k, const at::Tensor &v,
                               double scale) {
    at::AutoDispatchBelowADInplaceOrView below;
    std::string gradients;
    for (auto [name, input] : {std::pair{'q', &q}, {'k', &k}, {'v', &v}})
      if (input->requires_grad())
        gradients += name;
    GradientsAhead ahead(gradients);
    auto [y, z, lseEncode, lseDecode] = mixerForward(q, k, v, scale);
    ctx->save_for_backward({q, k, v, y, z, lseEncode, lseDecode});
    ctx->saved_data["scale"] = scale;
    ctx->set_materialize_grads(false);
    return {y, z, lseEncode, lseDecode};
  }

  static variable_list backward(AutogradContext *ctx,
                                const variable_list &grads) {
    TORCH_CHECK(!grads[1].defined() && !grads[2].defined() &&
                    !grads[3].defined(),
                "flarec: mixer_forward has gradients for y only; detach() z "
                "and the log-sum-exps before a loss reads them");
    if (!grads[0].defined())
      return {{}, {}, {}, {}};
    variable_list saved = ctx->get_saved_variables();
    std::array<bool, 3> wanted = {ctx->needs_input_grad(0),
                                  ctx->needs_input_grad(1),
                                  ctx->needs_input_grad(2)};
    auto [gradQ, gradK, gradV] = mixerBackward(
        grads[0], saved[0], saved[1], saved[2], saved[3], saved[4], saved[5],
        saved[6], ctx->saved_data["scale"].toDouble(), wanted);
    return {gradQ, gradK, gradV, {}};
  }
};

/// The backward pass is an op too; its own derivative is an error, not zero.
/// An autograd function cannot return undefined tensors: this one returns what
/// is wanted.
struct MixerBackwardFunction
    : torch::autograd::Function<MixerBackwardFunction> {
  static constexpr bool is_traceable = true;

  static variable_list forward(AutogradContext *, const at::Tensor &gradY,
                               const at::Tensor &q, const at::Tensor &k,
                               const at::Tensor &v, const at::Tensor &y,
                               const at::Tensor &z, const at::Tensor &lseEncode,
                               const at::Tensor &lseDecode, double scale,
                               std::array<bool, 3> wanted) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [gradQ, gradK, gradV] = mixerBackward(gradY, q, k, v, y, z, lseEncode,
                                               lseDecode, scale, wanted);
    variable_list results;
    for (const at::Tensor &grad : {gradQ, gradK, gradV})
      if (grad.defined())
        results.push_back(grad);
    return results;
  }

  static variable_list backward(AutogradContext *, const variable_list &) {
    TORCH_CHECK(
        false, "flarec: the mixer cannot be differentiated twice; where second "
               "derivatives are needed use scaled_dot_product_attention twice "
               "under torch.nn.attention.sdpa_kernel(SDPBackend.MATH)");
  }
};

ForwardResults forwardAutograd(const at::Tensor &q, const at::Tensor &k,
                               const at::Tensor &v, double scale) {
  if (!differentiates({q, k, v})) {
    at::AutoDispatchBelowADInplaceOrView below;
    return mixerForward(q, k, v, scale);
  }
  variable_list results = MixerFunction::apply(q, k, v, scale);
  return {results[0], results[1], results[2], results[3]};
}

BackwardResults backwardAutograd(const at::Tensor &gradY, const at::Tensor &q,
                                 const at::Tensor &k, const at::Tensor &v,
                                 const at::Tensor &y, const at::Tensor &z,
                                 const at::Tensor &lseEncode,
                                 const at::Tensor &lseDecode, double scale,
                                 std::array<bool, 3> wanted) {
  if (!differentiates({gradY, q, k, v, y, z, lseEncode, lseDecode})) {
    at::AutoDispatchBelowADInplaceOrView below;
    return mixerBackward(gradY, q, k, v, y, z, lseEncode, lseDecode, scale,
                         wanted);
  }
  variable_list results = MixerBackwardFunction::apply(
      gradY, q, k, v, y, z, lseEncode, lseDecode, scale, wanted);
  std::array<at::Tensor, 3> grads;
  auto next = results.begin();
  for (int i = 0; i < 3; ++i)
    if (wanted[i])
      grads[i] = *next++;
  return {grads[0], grads[1], grads[2]};
}

} // namespace
} // namespace flarec::ops

TORCH_LIBRARY_IMPL(flarec, Autograd, m) {
  m.impl("mixer_forward", TORCH_FN(flarec::ops::forwardAutograd));
  m.impl("mixer_backward", TORCH_FN(flarec::ops::backwardAutograd));
}
