//===- kernels.cpp - a mixer on CPU and CUDA tensors ----------------------===//
#include "ahead.h"
#include "composite.h"
#include "launch.h"
#include "results.h"

#include <ATen/ATen.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

#include <limits>

namespace flarec::ops {
namespace {

Four forward(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v,
             double scale) {
  Shape shape = checkInputs(q, k, v);
  if (composite::serves(k))
    return composite::mixer(q, k, v, scale);
  c10::DeviceGuard guard(k.device());
  Four results = emptyForward(shape, k);
  auto &[y, z, lseEncode, lseDecode] = results;
  if (nothingToRead(shape)) { // sums over no tokens
    z.zero_();
    lseEncode.fill_(-std::numeric_limits<float>::infinity());
    return results;
  }
  at::Tensor rq = readable(q), rk = readable(k), rv = readable(v);
  translated([&] {
    launch(mixerFunction("mixer_forward", shape, k, gradientsAhead), shape,
           latentBatch(shape), k,
           {input(rq, shape.sharedLatents), input(rk), input(rv), result(y),
            result(z), result(lseEncode), result(lseDecode)},
           scale);
  });
  return results;
}

Three backward(const at::Tensor &gradY, const at::Tensor &q,
               const at::Tensor &k, const at::Tensor &v, const at::Tensor &y,
               const at::Tensor &z, const at::Tensor &lseEncode,
               const at::Tensor &lseDecode, double scale,
               std::array<bool, 3> wanted) {
  Shape shape = checkBackwardInputs(gradY, q, k, v, y, z, lseEncode, lseDecode);
  if (composite::serves(k)) {
    auto [dz, delta] =
        composite::backwardLatents(gradY, q, k, y, lseDecode, scale);
    return only(wanted,
                composite::backwardJoint(gradY, q, k, v, z, dz, lseEncode,
                                         lseDecode, delta, scale));
  }
  c10::DeviceGuard guard(k.device());
  Three results = emptyBackward(shape, q, wanted);
  auto &[gradQ, gradK, gradV] = results;
  if (nothingToRead(shape)) {
    if (wanted[0])
      gradQ.zero_();
    return results;
  }
  std::string gradients = chosen("qkv", wanted);
  if (gradients.empty())
    return results;

  at::Tensor rg = readable(gradY), rq = readable(q), rk = readable(k),
             rv = readable(v), ry = readable(y), rz = readable(z);
  std::vector<TensorRef> tensors = {
      input(rg),        input(rq, shape.sharedLatents),
      input(rk),        input(rv),
      input(ry),        input(rz),
      input(lseEncode), input(lseDecode)};
  addResults(tensors, results, shape.sharedLatents ? &gradQ : nullptr);
  translated([&] {
    launch(mixerFunction("mixer_backward", shape, k, gradients), shape,
           latentBatch(shape), k, tensors, scale);
  });
  return results;
}

} // namespace
} // namespace flarec::ops

TORCH_LIBRARY_IMPL(flarec, CPU, m) {
  m.impl("mixer_forward", TORCH_FN(flarec::ops::forward));
  m.impl("mixer_backward", TORCH_FN(flarec::ops::backward));
}

TORCH_LIBRARY_IMPL(flarec, CUDA, m) {
  m.impl("mixer_forward", TORCH_FN(flarec::ops::forward));
  m.impl("mixer_backward", TORCH_FN(flarec::ops::backward));
}
