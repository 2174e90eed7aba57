//===- kernels.cpp - the ops on CPU and CUDA tensors ----------------------===//
//
// Allocates results and workspace, finds the kernels for (D, M, dtype, target)
// and launches them where the tensors are.
//
//===----------------------------------------------------------------------===//
#include "ahead.h"
#include "results.h"

#include "flarec/device.h"
#include "flarec/error.h"
#include "flarec/kernels.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/library.h>

#include <limits>
#include <vector>

namespace flarec::ops {
namespace {

/// The tensor itself if the kernels can read it in place (channels next to one
/// another), else a copy in the layout they like best.
at::Tensor readable(const at::Tensor &t) {
  if (t.stride(-1) == 1)
    return t;
  if (t.dim() < 4)
    return t.contiguous();
  return t.transpose(1, 2).contiguous().transpose(1, 2);
}

/// Of [B, H, rows, D], [B, H, rows], or latents shared by the batch [H, M, D].
TensorRef reference(const at::Tensor &t, const void *data, bool shared) {
  int64_t axis = shared ? 0 : 1; // of the heads
  return {const_cast<void *>(data), shared ? 0 : t.stride(0), t.stride(axis),
          t.stride(axis + 1)};
}
TensorRef input(const at::Tensor &t, bool shared = false) {
  return reference(t, t.const_data_ptr(), shared);
}
TensorRef result(const at::Tensor &t, bool shared = false) {
  return reference(t, t.mutable_data_ptr(), shared);
}

const std::string &targetOf(const at::Device &device) {
  static const std::string host = "host";
  if (device.is_cpu())
    return host;
  const DeviceFacts &facts = deviceFacts(device.index());
  TORCH_CHECK(facts.major >= 8, "flarec: ", facts.name, " (", device,
              ") has compute capability ", facts.major, ".", facts.minor,
              "; the kernels need 8.0 or more: use the CPU, or PyTorch's "
              "scaled_dot_product_attention on this device");
  return deviceTarget(device.index());
}

DType dtypeOf(const at::Tensor &t) {
  switch (t.scalar_type()) {
  case at::kFloat:
    return DType::F32;
  case at::kHalf:
    return DType::F16;
  default:
    return DType::BF16;
  }
}

/// PyTorch's own threads. A block is much work: no grain size.
void parallelFor(int64_t count,
                 const std::function<void(int64_t, int64_t)> &body) {
  at::parallel_for(0, count, 1, body);
}

/// One call of a function of a mixer's module.
void launch(const char *name, const std::string &gradients, const Shape &shape,
            const at::Tensor &k, const std::vector<TensorRef> &tensors,
            double scale) {
  at::Device device = k.device();
  MixerDescription description;
  description.headDim = int(shape.headDim.expect_int());
  description.latents = int(shape.latents.expect_int());
  description.dtype = dtypeOf(k);
  description.gradients = gradients;
  description.target = targetOf(device);
  const Function &function = kernelsFor(description)->function(name);

  Sizes sizes;
  sizes.batch = shape.batch.expect_int();
  sizes.heads = shape.heads.expect_int();
  sizes.tokens = shape.tokens.expect_int();
  sizes.latentBatch = shape.sharedLatents ? 1 : sizes.batch;
  // Given back to PyTorch when this returns: its allocator hands it out on the
  // same stream only, after these kernels.
  at::Tensor workspace =
      at::empty({function.workspaceBytes(sizes)}, k.options().dtype(at::kByte));
  float scalar = float(scale);
  std::span<const float> scalars(&scalar, 1);
  if (device.is_cpu()) {
    function.launchHost(sizes, tensors, scalars, workspace.data_ptr(),
                        parallelFor);
    return;
  }
  // Asked at each call: the current stream changes. Through the interface
  // rather than c10_cuda, which a CPU build of PyTorch does not have.
  c10::impl::VirtualGuardImpl devices(device.type());
  CudaStream stream{device.index(),
                    devices.getStreamNativeHandle(devices.getStream(device))};
  function.launch(sizes, tensors, scalars, workspace.data_ptr(), stream);
}

/// Runs `body`; an Error becomes a c10::Error, which PyTorch shows well.
template <typename Body> void translated(const Body &body) {
  try {
    body();
  } catch (const Error &error) {
    TORCH_CHECK(false, "flarec: ", error.what());
  }
}

bool nothingToRead(const Shape &shape) {
  return shape.batch == 0 || shape.heads == 0 || shape.tokens == 0;
}

ForwardResults forward(const at::Tensor &q, const at::Tensor &k,
                       const at::Tensor &v, double scale) {
  Shape shape = checkInputs(q, k, v);
  c10::DeviceGuard guard(k.device());
  ForwardResults results = emptyForward(shape, k);
  auto &[y, z, lseEncode, lseDecode] = results;
  if (nothingToRead(shape)) { // sums over no tokens
    z.zero_();
    lseEncode.fill_(-std::numeric_limits<float>::infinity());
    return results;
  }
  at::Tensor rq = readable(q), rk = readable(k), rv = readable(v);
  translated([&] {
    launch("mixer_forward", gradientsAhead, shape, k,
           {input(rq, shape.sharedLatents), input(rk), input(rv), result(y),
            result(z), result(lseEncode), result(lseDecode)},
           scale);
  });
  return results;
}

BackwardResults backward(const at::Tensor &gradY, const at::Tensor &q,
                         const at::Tensor &k, const at::Tensor &v,
                         const at::Tensor &y, const at::Tensor &z,
                         const at::Tensor &lseEncode,
                         const at::Tensor &lseDecode, double scale,
                         std::array<bool, 3> wanted) {
  Shape shape = checkBackwardInputs(gradY, q, k, v, y, z, lseEncode, lseDecode);
  c10::DeviceGuard guard(k.device());
  BackwardResults results = emptyBackward(shape, q, wanted);
  auto &[gradQ, gradK, gradV] = results;
  if (nothingToRead(shape)) {
    if (wanted[0])
      gradQ.zero_();
    return results;
  }
  std::string gradients;
  for (int i = 0; i < 3; ++i)
    if (wanted[i])
      gradients += "qkv"[i];
  if (gradients.empty())
    return results;

  at::Tensor rg = readable(gradY), rq = readable(q), rk = readable(k),
             rv = readable(v), ry = readable(y), cz = z.contiguous(),
             ce = lseEncode.contiguous(), cd = lseDecode.contiguous();
  std::vector<TensorRef> tensors = {input(rg), input(rq, shape.sharedLatents),
                                    input(rk), input(rv),
                                    input(ry), input(cz),
                                    input(ce), input(cd)};
  if (wanted[0])
    tensors.push_back(result(gradQ, shape.sharedLatents));
  if (wanted[1])
    tensors.push_back(result(gradK));
  if (wanted[2])
    tensors.push_back(result(gradV));
  translated(
      [&] { launch("mixer_backward", gradients, shape, k, tensors, scale); });
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
