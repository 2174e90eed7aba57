//===- launch.cpp - from tensors to kernels -------------------------------===//
#include "launch.h"
#include "precision.h"

#include "flarec/autotune/tables.h"
#include "flarec/device.h"
#include "flarec/kernels.h"
#include "flarec/memo.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <atomic>

namespace flarec::ops {
namespace {

TensorRef reference(const at::Tensor &t, const void *data, bool shared) {
  int64_t axis = shared ? 0 : 1; // of the heads
  return {const_cast<void *>(data), shared ? 0 : t.stride(0), t.stride(axis),
          t.stride(axis + 1)};
}

const std::string &targetOf(const at::Device &device) {
  static const std::string host = "host";
  return device.is_cpu() ? host : deviceTarget(device.index());
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

bool usesTf32(const at::Tensor &k) {
  return !k.is_cpu() && k.scalar_type() == at::kFloat && allowsTf32();
}

/// PyTorch's own threads. They take blocks as they become free, not a share
/// each: on a machine that others use too, one is slower than another, and all
/// would wait for it (13 % of two threads' time was seen to go that way).
void parallelFor(int64_t count,
                 const std::function<void(int64_t, int64_t)> &body) {
  int64_t threads = at::get_num_threads();
  int64_t chunk = std::max<int64_t>(1, count / (16 * threads));
  std::atomic<int64_t> next = 0;
  at::parallel_for(0, std::min(count, threads), 1, [&](int64_t, int64_t) {
    for (int64_t begin; (begin = next.fetch_add(chunk)) < count;)
      body(begin, std::min(begin + chunk, count));
  });
}

/// Under a short key: a request's own text would have to be written and hashed
/// at each call.
std::shared_ptr<Module> stageModule(Stage stage, int64_t headDim,
                                    int64_t latents, DType dtype,
                                    const std::string &gradients,
                                    const std::string &target, bool tf32,
                                    bool ragged, bool masked) {
  static auto &memo = *new Memo<std::string>; // as long as the process
  std::string key = target;
  for (int64_t part : {int64_t(stage), headDim, latents, int64_t(dtype),
                       int64_t(tf32), int64_t(ragged), int64_t(masked)})
    key += std::to_string(part) += ' ';
  key += gradients;
  return memo.get(key, [&] {
    std::string names;
    for (char letter : gradients)
      (names += names.empty() ? "" : ",") += letter;
    std::string text =
        sourceOf(stage, headDim, latents, std::string(name(dtype)), ragged,
                 masked);
    return kernelsFor(request(text, target, names, tf32));
  });
}

} // namespace

at::Tensor readable(const at::Tensor &t) {
  if (t.stride(-1) == 1)
    return t;
  if (t.dim() < 4)
    return t.contiguous();
  return t.transpose(1, 2).contiguous().transpose(1, 2);
}

TensorRef input(const at::Tensor &t, bool shared) {
  return reference(t, t.const_data_ptr(), shared);
}

TensorRef result(const at::Tensor &t, bool shared) {
  return reference(t, t.mutable_data_ptr(), shared);
}

void addResults(std::vector<TensorRef> &tensors, const Three &results,
                const Shape &shape, const at::Tensor *shared) {
  auto &[gradQ, gradK, gradV] = results;
  if (gradQ.defined())
    tensors.push_back(result(gradQ, &gradQ == shared));
  for (const at::Tensor *t : {&gradK, &gradV})
    if (t->defined())
      tensors.push_back(result(batched(*t, shape)));
}

Presence readable(const Presence &presence, const Shape &shape) {
  Presence r = presence;
  if (r.range.defined() && r.range.stride(1) != 1)
    r.range = r.range.contiguous();
  if (r.mask.defined() && shape.packed)
    r.mask = r.mask.unsqueeze(0).expand({shape.batch.expect_int(), -1});
  return r;
}

void addPresence(std::vector<TensorRef> &tensors, const Presence &presence) {
  auto add = [&](const at::Tensor &t) {
    if (t.defined())
      tensors.push_back({const_cast<void *>(t.const_data_ptr()), t.stride(0),
                         0, t.stride(1)});
  };
  add(presence.range);
  add(presence.mask);
}

const Function &mixerFunction(const char *name, const Shape &shape,
                              const at::Tensor &k, const std::string &gradients,
                              const Presence &presence) {
  MixerDescription description;
  description.headDim = int(shape.headDim.expect_int());
  description.latents = int(shape.latents.expect_int());
  description.dtype = dtypeOf(k);
  description.gradients = gradients;
  description.target = targetOf(k.device());
  description.tf32 = usesTf32(k);
  description.ragged = presence.range.defined();
  description.masked = presence.mask.defined();
  // Of the sizes a table of tuned configurations may depend on.
  bool tokensMajor = k.stride(1) <= k.stride(2);
  autotune::Call call{.cudaDevice = k.is_cuda() ? k.get_device() : -1,
                      .heads = shape.heads.expect_int(),
                      .tokens = shape.batch.expect_int() *
                                shape.tokens.expect_int(),
                      .layout = tokensMajor ? autotune::Layout::TokensMajor
                                            : autotune::Layout::HeadsMajor};
  return autotune::kernelsFor(description, call)->function(name);
}

const Function &stageFunction(Stage stage, Pass pass, const Shape &shape,
                              const at::Tensor &k, const std::string &gradients,
                              const Presence &presence) {
  std::string name = nameOf(stage);
  if (!gradients.empty())
    name += pass == Pass::Forward ? "_forward" : "_backward";
  return stageModule(stage, shape.headDim.expect_int(),
                     shape.latents.expect_int(), dtypeOf(k), gradients,
                     targetOf(k.device()), usesTf32(k),
                     presence.range.defined(), presence.mask.defined())
      ->function(name);
}

void launch(const Function &function, const Shape &shape, int64_t latentBatch,
            const at::Tensor &k, const std::vector<TensorRef> &tensors,
            double scale) {
  at::Device device = k.device();
  Sizes sizes;
  sizes.batch = shape.batch.expect_int();
  sizes.heads = shape.heads.expect_int();
  sizes.tokens = shape.tokens.expect_int();
  sizes.latentBatch = latentBatch;
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

} // namespace flarec::ops
