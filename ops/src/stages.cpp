//===- stages.cpp - the parts of a mixer on CPU and CUDA tensors ----------===//
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

Two encode(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v,
           double scale, const MaybeTensor &range, const MaybeTensor &mask) {
  Presence presence(range, mask);
  Shape shape = checkInputs(q, k, v, presence);
  checkRange(presence, shape);
  if (composite::serves(k))
    return composite::encode(q, k, v, scale, shape, presence);
  c10::DeviceGuard guard(k.device());
  Two results = emptyEncode(shape, k);
  auto &[z, lse] = results;
  if (nothingToRead(shape)) {
    z.zero_();
    lse.fill_(-std::numeric_limits<float>::infinity());
    return results;
  }
  at::Tensor rq = readable(q), rk = batched(readable(k), shape),
             rv = batched(readable(v), shape);
  Presence rp = readable(presence, shape);
  std::vector<TensorRef> tensors = {input(rq, shape.sharedLatents), input(rk),
                                    input(rv)};
  addPresence(tensors, rp);
  tensors.push_back(result(z));
  tensors.push_back(result(lse));
  translated([&] {
    launch(stageFunction(Stage::Encode, Pass::Forward, shape, k, gradientsAhead,
                         presence),
           shape, latentBatch(shape), k, tensors, scale);
  });
  return results;
}

Three encodeBackward(const at::Tensor &gradZ, const at::Tensor &gradLse,
                     const at::Tensor &q, const at::Tensor &k,
                     const at::Tensor &v, const at::Tensor &z,
                     const at::Tensor &lse, double scale,
                     std::array<bool, 3> wanted, const MaybeTensor &range,
                     const MaybeTensor &mask) {
  Presence presence(range, mask);
  Shape shape =
      checkEncodeBackward(gradZ, gradLse, q, k, v, z, lse, presence);
  checkRange(presence, shape);
  if (composite::serves(k))
    return only(wanted,
                composite::encodeBackward(gradZ, gradLse, q, k, v, z, lse,
                                          scale, shape, presence));
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

  at::Tensor rg = readable(gradZ), rq = readable(q),
             rk = batched(readable(k), shape), rv = batched(readable(v), shape),
             rz = readable(z);
  Presence rp = readable(presence, shape);
  std::vector<TensorRef> tensors = {input(rg), input(gradLse),
                                    input(rq, shape.sharedLatents), input(rk),
                                    input(rv)};
  addPresence(tensors, rp);
  tensors.push_back(input(rz));
  tensors.push_back(input(lse));
  addResults(tensors, results, shape, shape.sharedLatents ? &gradQ : nullptr);
  translated([&] {
    launch(stageFunction(Stage::Encode, Pass::Backward, shape, k, gradients,
                         presence),
           shape, latentBatch(shape), k, tensors, scale);
  });
  return results;
}

Two decode(const at::Tensor &k, const at::Tensor &q, const at::Tensor &z,
           double scale, const MaybeTensor &range, const MaybeTensor &mask) {
  Presence presence(range, mask);
  Shape shape = checkDecodeInputs(k, q, z, presence);
  checkRange(presence, shape);
  if (composite::serves(k))
    return composite::decode(k, q, z, scale, shape, presence);
  c10::DeviceGuard guard(k.device());
  Two results = emptyDecode(shape, k);
  auto &[y, lse] = results;
  clear(presence, {y, lse});
  if (nothingToRead(shape))
    return results;
  at::Tensor rk = batched(readable(k), shape), rq = readable(q),
             rz = readable(z);
  Presence rp = readable(presence, shape);
  std::vector<TensorRef> tensors = {input(rk), input(rq, shape.sharedLatents),
                                    input(rz)};
  addPresence(tensors, rp);
  tensors.push_back(result(batched(y, shape)));
  tensors.push_back(result(batched(lse, shape)));
  translated([&] {
    launch(stageFunction(Stage::Decode, Pass::Forward, shape, k, gradientsAhead,
                         presence),
           shape, latentBatch(shape), k, tensors, scale);
  });
  return results;
}

Three decodeBackward(const at::Tensor &gradY, const at::Tensor &gradLse,
                     const at::Tensor &k, const at::Tensor &q,
                     const at::Tensor &z, const at::Tensor &y,
                     const at::Tensor &lse, double scale,
                     std::array<bool, 3> wanted, const MaybeTensor &range,
                     const MaybeTensor &mask) {
  Presence presence(range, mask);
  Shape shape =
      checkDecodeBackward(gradY, gradLse, k, q, z, y, lse, presence);
  checkRange(presence, shape);
  if (composite::serves(k))
    return only(wanted,
                composite::decodeBackward(gradY, gradLse, k, q, z, y, lse,
                                          scale, shape, presence));
  c10::DeviceGuard guard(k.device());
  Three results = emptyDecodeBackward(shape, q, wanted);
  auto &[gradK, gradQ, gradZ] = results;
  clear(presence, {gradK});
  if (nothingToRead(shape)) {
    if (wanted[1])
      gradQ.zero_();
    if (wanted[2])
      gradZ.zero_();
    return results;
  }
  std::string gradients = chosen("kqz", wanted);
  if (gradients.empty())
    return results;

  // Kernels sum all gradients of latents over the batch or none, but z has one
  // for each batch even where q is shared. There q's is summed afterwards.
  int64_t batch = shape.batch.expect_int();
  bool apart = shape.sharedLatents && wanted[2] && batch > 1;
  at::Tensor eachGradQ = gradQ;
  if (apart && wanted[1])
    eachGradQ = at::empty_symint(shape.latentShape(), q.options());

  auto rows = [&](const at::Tensor &t) { return batched(readable(t), shape); };
  at::Tensor rg = rows(gradY), rk = rows(k), rq = readable(q), rz = readable(z),
             ry = rows(y);
  Presence rp = readable(presence, shape);
  std::vector<TensorRef> tensors = {input(rg), input(batched(gradLse, shape)),
                                    input(rk), input(rq, shape.sharedLatents),
                                    input(rz)};
  addPresence(tensors, rp);
  tensors.push_back(input(ry));
  tensors.push_back(input(batched(lse, shape)));
  if (wanted[0])
    tensors.push_back(result(batched(gradK, shape)));
  if (wanted[1])
    tensors.push_back(result(eachGradQ, shape.sharedLatents && !apart));
  if (wanted[2])
    tensors.push_back(result(gradZ));
  translated([&] {
    launch(stageFunction(Stage::Decode, Pass::Backward, shape, k, gradients,
                         presence),
           shape, apart ? batch : latentBatch(shape), k, tensors, scale);
  });
  if (apart && wanted[1])
    at::sum_out(gradQ, eachGradQ, {0});
  return results;
}

Two backwardLatents(const at::Tensor &gradY, const at::Tensor &q,
                    const at::Tensor &k, const at::Tensor &y,
                    const at::Tensor &lseDecode, double scale) {
  Shape shape = checkBackwardLatents(gradY, q, k, y, lseDecode);
  if (composite::serves(k))
    return composite::backwardLatents(gradY, q, k, y, lseDecode, scale);
  c10::DeviceGuard guard(k.device());
  Two results = emptyBackwardLatents(shape, k);
  auto &[dz, delta] = results;
  if (nothingToRead(shape)) {
    dz.zero_();
    return results;
  }
  at::Tensor rg = readable(gradY), rq = readable(q), rk = readable(k),
             ry = readable(y);
  translated([&] {
    launch(stageFunction(Stage::BackwardLatents, Pass::Forward, shape, k),
           shape, latentBatch(shape), k,
           {input(rg), input(rq, shape.sharedLatents), input(rk), input(ry),
            input(lseDecode), result(dz), result(delta)},
           scale);
  });
  return results;
}

Three backwardJoint(const at::Tensor &gradY, const at::Tensor &q,
                    const at::Tensor &k, const at::Tensor &v,
                    const at::Tensor &z, const at::Tensor &dz,
                    const at::Tensor &lseEncode, const at::Tensor &lseDecode,
                    const at::Tensor &delta, double scale) {
  Shape shape =
      checkBackwardJoint(gradY, q, k, v, z, dz, lseEncode, lseDecode, delta);
  if (composite::serves(k))
    return composite::backwardJoint(gradY, q, k, v, z, dz, lseEncode, lseDecode,
                                    delta, scale);
  c10::DeviceGuard guard(k.device());
  Three results = emptyBackwardJoint(shape, q);
  auto &[gradQ, gradK, gradV] = results;
  if (nothingToRead(shape)) {
    gradQ.zero_();
    return results;
  }
  at::Tensor rg = readable(gradY), rq = readable(q), rk = readable(k),
             rv = readable(v), rz = readable(z), rdz = readable(dz);
  translated([&] {
    launch(stageFunction(Stage::BackwardJoint, Pass::Forward, shape, k), shape,
           latentBatch(shape), k,
           {input(rg), input(rq, shape.sharedLatents), input(rk), input(rv),
            input(rz), input(rdz), input(lseEncode), input(lseDecode),
            input(delta), result(gradQ, shape.sharedLatents), result(gradK),
            result(gradV)},
           scale);
  });
  return results;
}

void implement(torch::Library &m) {
  m.impl("encode", TORCH_FN(encode));
  m.impl("encode_backward", TORCH_FN(encodeBackward));
  m.impl("decode", TORCH_FN(decode));
  m.impl("decode_backward", TORCH_FN(decodeBackward));
  m.impl("mixer_backward_latents", TORCH_FN(backwardLatents));
  m.impl("mixer_backward_joint", TORCH_FN(backwardJoint));
}

} // namespace
} // namespace flarec::ops

TORCH_LIBRARY_IMPL(flarec, CPU, m) { flarec::ops::implement(m); }
TORCH_LIBRARY_IMPL(flarec, CUDA, m) { flarec::ops::implement(m); }
