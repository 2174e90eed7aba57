//===- checks.cpp - what the ops accept -----------------------------------===//
#include "checks.h"

#include <c10/util/StringUtil.h>

namespace flarec::ops {
namespace {

struct Named {
  const char *name;
  const at::Tensor &tensor;
};

/// "q [8, 32, 8]".
std::string shown(const Named &t) {
  return c10::str(t.name, " ", t.tensor.sym_sizes());
}

void checkAllOnOneDevice(std::initializer_list<Named> tensors) {
  const Named &first = *tensors.begin();
  for (const Named &t : tensors)
    TORCH_CHECK(t.tensor.defined(), "flarec: ", t.name,
                " is undefined (None); give a tensor");
  for (const Named &t : tensors)
    TORCH_CHECK(t.tensor.device() == first.tensor.device(),
                "flarec: ", first.name, " is on ", first.tensor.device(),
                " but ", t.name, " is on ", t.tensor.device(),
                "; move all tensors to one device");
}

void checkDTypes(const Named &k, std::initializer_list<Named> others) {
  at::ScalarType type = k.tensor.scalar_type();
  TORCH_CHECK(type == at::kFloat || type == at::kBFloat16 || type == at::kHalf,
              "flarec: ", k.name, " has dtype ", c10::toString(type),
              "; supported are Float (float32), BFloat16 and Half (float16): "
              "convert with .to(torch.float32), .to(torch.bfloat16) or "
              ".to(torch.float16)");
  for (const Named &t : others)
    TORCH_CHECK(t.tensor.scalar_type() == type, "flarec: ", k.name,
                " has dtype ", c10::toString(type), " but ", t.name, " has ",
                c10::toString(t.tensor.scalar_type()),
                "; all must have the same: convert with ", t.name, ".to(",
                k.name, ".dtype)");
}

void checkShape(const Named &t, c10::SymIntArrayRef expected,
                const char *axes) {
  TORCH_CHECK(t.tensor.sym_sizes() == expected, "flarec: ", t.name,
              " has shape ", t.tensor.sym_sizes(), "; expected ", axes, " = ",
              expected, " as of the other tensors");
}

void checkFloat(const Named &t) {
  TORCH_CHECK(t.tensor.scalar_type() == at::kFloat, "flarec: ", t.name,
              " has dtype ", c10::toString(t.tensor.scalar_type()),
              "; expected Float (float32), as mixer_forward returns it");
}

} // namespace

Shape checkInputs(const at::Tensor &q, const at::Tensor &k,
                  const at::Tensor &v) {
  Named nq{"q", q}, nk{"k", k}, nv{"v", v};
  checkAllOnOneDevice({nq, nk, nv});
  TORCH_CHECK(q.dim() == 3 || q.dim() == 4, "flarec: ", shown(nq), " has rank ",
              q.dim(),
              "; expected [H, M, D] (latents shared by the batch) or "
              "[B, H, M, D]");
  for (const Named &t : {nk, nv})
    TORCH_CHECK(t.tensor.dim() == 4, "flarec: ", shown(t), " has rank ",
                t.tensor.dim(),
                "; expected [B, H, N, D]: for [B, N, H*D] use "
                ".unflatten(-1, (H, D)).transpose(1, 2)");
  checkDTypes(nk, {nq, nv});

  Shape shape;
  shape.sharedLatents = q.dim() == 3;
  int64_t axis = shape.sharedLatents ? 0 : 1; // of the heads in q
  shape.batch = k.sym_size(0);
  shape.heads = k.sym_size(1);
  shape.tokens = k.sym_size(2);
  shape.headDim = k.sym_size(3);
  shape.latents = q.sym_size(axis + 1);
  TORCH_CHECK(k.sym_sizes() == v.sym_sizes(), "flarec: ", shown(nk), " and ",
              shown(nv), " must have the same shape [B, H, N, D]");
  TORCH_CHECK(q.sym_size(axis) == shape.heads, "flarec: ", shown(nq), " has ",
              q.sym_size(axis), " heads but ", shown(nk), " has ", shape.heads,
              "; H must be the same in [H, M, D] and [B, H, N, D]");
  TORCH_CHECK(q.sym_size(axis + 2) == shape.headDim, "flarec: ", shown(nq),
              " has head dim ", q.sym_size(axis + 2), " but ", shown(nk),
              " has ", shape.headDim,
              "; D, the last axis, must be the same in q, k and v");
  TORCH_CHECK(shape.sharedLatents || q.sym_size(0) == shape.batch,
              "flarec: ", shown(nq), " has batch ", q.sym_size(0), " but ",
              shown(nk), " has ", shape.batch,
              "; give q as [H, M, D] to share it, or expand it to the batch");
  const c10::SymInt &d = shape.headDim, &m = shape.latents;
  TORCH_CHECK(d == 4 || d == 8 || d == 16 || d == 32, "flarec: head dim ", d,
              " (the last axis of ", shown(nk),
              ") is not supported; supported are 4, 8, 16 and 32: choose heads "
              "so that channels / heads is one of these");
  TORCH_CHECK(m >= 1 && m <= 512, "flarec: ", m, " latents (of ", shown(nq),
              ") are not supported; supported are 1 to 512");
  return shape;
}

Shape checkBackwardInputs(const at::Tensor &gradY, const at::Tensor &q,
                          const at::Tensor &k, const at::Tensor &v,
                          const at::Tensor &y, const at::Tensor &z,
                          const at::Tensor &lseEncode,
                          const at::Tensor &lseDecode) {
  Shape shape = checkInputs(q, k, v);
  Named ng{"grad_y", gradY}, nk{"k", k}, ny{"y", y}, nz{"z", z},
      ne{"lse_encode", lseEncode}, nd{"lse_decode", lseDecode};
  checkAllOnOneDevice({nk, ng, ny, nz, ne, nd});
  checkDTypes(nk, {ng, ny});
  for (const Named &t : {nz, ne, nd})
    checkFloat(t);
  auto tokens = shape.tokenShape(), latents = shape.latentShape();
  checkShape(ng, tokens, "[B, H, N, D]");
  checkShape(ny, tokens, "[B, H, N, D]");
  checkShape(nz, latents, "[B, H, M, D]");
  checkShape(ne, c10::SymIntArrayRef(latents).slice(0, 3), "[B, H, M]");
  checkShape(nd, c10::SymIntArrayRef(tokens).slice(0, 3), "[B, H, N]");
  return shape;
}

} // namespace flarec::ops
