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
             double scale, const MaybeTensor &range, const MaybeTensor &mask) {
  Presence presence(range, mask);
  Shape shape = checkInputs(q, k, v, presence);
  checkRange(presence, shape);
  if (composite::serves(k))
    return composite::mixer(q, k, v, scale, shape, presence);
  c10::DeviceGuard guard(k.device());
  Four results = emptyForward(shape, k);
  auto &[y, z, lseEncode, lseDecode] = results;
  clear(presence, {y, lseDecode});
  if (nothingToRead(shape)) { // sums over no tokens
    z.zero_();
    lseEncode.fill_(-std::numeric_limits<float>::infinity());
    return results;
  }
  at::Tensor rq = readable(q), rk = batched(readable(k), shape),
             rv = batched(readable(v), shape);
  Presence rp = readable(presence, shape);
  std::vector<TensorRef> tensors = {input(rq, shape.sharedLatents), input(rk),
                                    input(rv)};
  addPresence(tensors, rp);
  for (const at::Tensor &t :
       {batched(y, shape), z, lseEncode, batched(lseDecode, shape)})
    tensors.push_back(result(t));
  translated([&] {
    launch(mixerFunction("mixer_forward", shape, k, gradientsAhead, presence),
           shape, latentBatch(shape), k, tensors, scale);
  });
  return results;
}

Three backward(const at::Tensor &gradY, const at::Tensor &q,
               const at::Tensor &k, const at::Tensor &v, const at::Tensor &y,
               const at::Tensor &z, const at::Tensor &lseEncode,
               const at::Tensor &lseDecode, double scale,
               std::array<bool, 3> wanted, const MaybeTensor &range,
               const MaybeTensor &mask) {
  Presence presence(range, mask);
  Shape shape = checkBackwardInputs(gradY, q, k, v, y, z, lseEncode, lseDecode,
                                    presence);
  checkRange(presence, shape);
  if (composite::serves(k))
    return only(wanted, composite::mixerBackward(gradY, q, k, v, y, z, lseEncode,
                                                 lseDecode, scale, shape,
                                                 presence));
  c10::DeviceGuard guard(k.device());
  Three results = emptyBackward(shape, q, wanted);
  auto &[gradQ, gradK, gradV] = results;
  clear(presence, {gradK, gradV});
  if (nothingToRead(shape)) {
    if (wanted[0])
      gradQ.zero_();
    return results;
  }
  std::string gradients = chosen("qkv", wanted);
  if (gradients.empty())
    return results;

  auto rows = [&](const at::Tensor &t) { return batched(readable(t), shape); };
  at::Tensor rg = rows(gradY), rq = readable(q), rk = rows(k), rv = rows(v),
             ry = rows(y), rz = readable(z), rd = batched(lseDecode, shape);
  Presence rp = readable(presence, shape);
  std::vector<TensorRef> tensors = {input(rg), input(rq, shape.sharedLatents),
                                    input(rk), input(rv)};
  addPresence(tensors, rp);
  for (const at::Tensor &t : {ry, rz, lseEncode, rd})
    tensors.push_back(input(t));
  addResults(tensors, results, shape, shape.sharedLatents ? &gradQ : nullptr);
  translated([&] {
    launch(mixerFunction("mixer_backward", shape, k, gradients, presence), shape,
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
