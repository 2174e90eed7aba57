//===- checks.cpp - what the ops accept -----------------------------------===//
#include "checks.h"

#include "flarec/description.h"

#include <c10/util/StringUtil.h>

namespace flarec::ops {
namespace {

struct Named {
  const char *name;
  const at::Tensor &tensor;
};
using List = std::initializer_list<Named>;

/// "q [8, 32, 8]".
std::string shown(const Named &t) {
  return c10::str(t.name, " ", t.tensor.sym_sizes());
}

void checkAllOnOneDevice(List tensors) {
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

void checkDTypes(const Named &k, List others) {
  at::ScalarType type = k.tensor.scalar_type();
  for (const Named &t : others)
    TORCH_CHECK(t.tensor.scalar_type() == type, "flarec: ", k.name,
                " has dtype ", c10::toString(type), " but ", t.name, " has ",
                c10::toString(t.tensor.scalar_type()),
                "; all must have the same: convert with ", t.name, ".to(",
                k.name, ".dtype), or call it under torch.autocast");
  TORCH_CHECK(type == at::kFloat || type == at::kBFloat16 ||
                  type == at::kHalf || type == at::kDouble,
              "flarec: ", k.name, " has dtype ", c10::toString(type),
              "; supported are Float (float32), BFloat16, Half (float16) and, "
              "slowly, Double (float64): convert with .to(torch.float32), "
              ".to(torch.bfloat16) or .to(torch.float16)");
}

void checkShape(const Named &t, c10::SymIntArrayRef expected,
                const char *axes) {
  TORCH_CHECK(t.tensor.sym_sizes() == expected, "flarec: ", t.name,
              " has shape ", t.tensor.sym_sizes(), "; expected ", axes, " = ",
              expected, " as of the other tensors");
}

void checkWide(const Named &t, const at::Tensor &k) {
  at::ScalarType type = wideType(k);
  TORCH_CHECK(t.tensor.scalar_type() == type, "flarec: ", t.name, " has dtype ",
              c10::toString(t.tensor.scalar_type()), "; expected ",
              type == at::kFloat ? "Float (float32)" : "Double (float64)",
              ", as the ops return it: convert with ", t.name, ".to(torch.",
              type == at::kFloat ? "float32)" : "float64)");
}

void checkTokens(const Shape &s, List tensors) {
  for (const Named &t : tensors)
    checkShape(t, s.tokenShape(), "[B, H, N, D]");
}
void checkLatents(const Shape &s, const at::Tensor &k, List tensors) {
  for (const Named &t : tensors) {
    checkWide(t, k);
    checkShape(t, s.latentShape(), "[B, H, M, D]");
  }
}
/// One number a token.
void checkTokenNumbers(const Shape &s, const at::Tensor &k, List tensors) {
  auto shape = s.tokenShape();
  for (const Named &t : tensors) {
    checkWide(t, k);
    checkShape(t, c10::SymIntArrayRef(shape).slice(0, 3), "[B, H, N]");
  }
}
/// One number a latent.
void checkLatentNumbers(const Shape &s, const at::Tensor &k, List tensors) {
  auto shape = s.latentShape();
  for (const Named &t : tensors) {
    checkWide(t, k);
    checkShape(t, c10::SymIntArrayRef(shape).slice(0, 3), "[B, H, M]");
  }
}

/// Of q and k, whose dtypes have been looked at, and other rows of tokens.
Shape shapeOf(const Named &q, const Named &k, List others) {
  TORCH_CHECK(q.tensor.dim() == 3 || q.tensor.dim() == 4, "flarec: ", shown(q),
              " has rank ", q.tensor.dim(),
              "; expected [H, M, D] (latents shared by the batch) or "
              "[B, H, M, D]");
  auto checkRank = [](const Named &t) {
    TORCH_CHECK(t.tensor.dim() == 4, "flarec: ", shown(t), " has rank ",
                t.tensor.dim(),
                "; expected [B, H, N, D]: for [B, N, H*D] use "
                ".unflatten(-1, (H, D)).transpose(1, 2)");
  };
  checkRank(k);
  for (const Named &t : others)
    checkRank(t);

  Shape shape;
  shape.sharedLatents = q.tensor.dim() == 3;
  int64_t axis = shape.sharedLatents ? 0 : 1; // of the heads in q
  shape.batch = k.tensor.sym_size(0);
  shape.heads = k.tensor.sym_size(1);
  shape.tokens = k.tensor.sym_size(2);
  shape.headDim = k.tensor.sym_size(3);
  shape.latents = q.tensor.sym_size(axis + 1);
  for (const Named &t : others)
    TORCH_CHECK(k.tensor.sym_sizes() == t.tensor.sym_sizes(),
                "flarec: ", shown(k), " and ", shown(t),
                " must have the same shape [B, H, N, D]");
  TORCH_CHECK(q.tensor.sym_size(axis) == shape.heads, "flarec: ", shown(q),
              " has ", q.tensor.sym_size(axis), " heads but ", shown(k),
              " has ", shape.heads,
              "; H must be the same in [H, M, D] and [B, H, N, D]");
  TORCH_CHECK(
      q.tensor.sym_size(axis + 2) == shape.headDim, "flarec: ", shown(q),
      " has head dim ", q.tensor.sym_size(axis + 2), " but ", shown(k), " has ",
      shape.headDim, "; D, the last axis, must be the same in q, k and v");
  TORCH_CHECK(shape.sharedLatents || q.tensor.sym_size(0) == shape.batch,
              "flarec: ", shown(q), " has batch ", q.tensor.sym_size(0),
              " but ", shown(k), " has ", shape.batch,
              "; give q as [H, M, D] to share it, or expand it to the batch");
  const c10::SymInt &d = shape.headDim, &m = shape.latents;
  TORCH_CHECK(d >= 1 && d <= maxHeadDim, "flarec: head dim ", d,
              " (the last axis of ", shown(k),
              ") is not supported; supported are 1 to ", maxHeadDim,
              ": choose heads so that channels / heads is one of these");
  TORCH_CHECK(m >= 1 && m <= maxLatents, "flarec: ", m, " latents (of ",
              shown(q), ") are not supported; supported are 1 to ", maxLatents);
  return shape;
}

} // namespace

Shape checkInputs(const at::Tensor &q, const at::Tensor &k,
                  const at::Tensor &v) {
  Named nq{"q", q}, nk{"k", k}, nv{"v", v};
  checkAllOnOneDevice({nq, nk, nv});
  checkDTypes(nk, {nq, nv});
  return shapeOf(nq, nk, {nv});
}

Shape checkDecodeInputs(const at::Tensor &k, const at::Tensor &q,
                        const at::Tensor &z) {
  Named nk{"k", k}, nq{"q", q}, nz{"z", z};
  checkAllOnOneDevice({nk, nq, nz});
  checkDTypes(nk, {nq});
  Shape shape = shapeOf(nq, nk, {});
  checkLatents(shape, k, {nz});
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
  checkTokens(shape, {ng, ny});
  checkLatents(shape, k, {nz});
  checkLatentNumbers(shape, k, {ne});
  checkTokenNumbers(shape, k, {nd});
  return shape;
}

Shape checkEncodeBackward(const at::Tensor &gradZ, const at::Tensor &gradLse,
                          const at::Tensor &q, const at::Tensor &k,
                          const at::Tensor &v, const at::Tensor &z,
                          const at::Tensor &lse) {
  Shape shape = checkInputs(q, k, v);
  Named nk{"k", k}, gz{"grad_z", gradZ}, gl{"grad_lse", gradLse}, nz{"z", z},
      nl{"lse", lse};
  checkAllOnOneDevice({nk, gz, gl, nz, nl});
  checkLatents(shape, k, {gz, nz});
  checkLatentNumbers(shape, k, {gl, nl});
  return shape;
}

Shape checkDecodeBackward(const at::Tensor &gradY, const at::Tensor &gradLse,
                          const at::Tensor &k, const at::Tensor &q,
                          const at::Tensor &z, const at::Tensor &y,
                          const at::Tensor &lse) {
  Shape shape = checkDecodeInputs(k, q, z);
  Named nk{"k", k}, gy{"grad_y", gradY}, gl{"grad_lse", gradLse}, ny{"y", y},
      nl{"lse", lse};
  checkAllOnOneDevice({nk, gy, gl, ny, nl});
  checkDTypes(nk, {gy, ny});
  checkTokens(shape, {gy, ny});
  checkTokenNumbers(shape, k, {gl, nl});
  return shape;
}

Shape checkBackwardLatents(const at::Tensor &gradY, const at::Tensor &q,
                           const at::Tensor &k, const at::Tensor &y,
                           const at::Tensor &lseDecode) {
  Named ng{"grad_y", gradY}, nq{"q", q}, nk{"k", k}, ny{"y", y},
      nd{"lse_decode", lseDecode};
  checkAllOnOneDevice({nk, ng, nq, ny, nd});
  checkDTypes(nk, {ng, nq, ny});
  Shape shape = shapeOf(nq, nk, {});
  checkTokens(shape, {ng, ny});
  checkTokenNumbers(shape, k, {nd});
  return shape;
}

Shape checkBackwardJoint(const at::Tensor &gradY, const at::Tensor &q,
                         const at::Tensor &k, const at::Tensor &v,
                         const at::Tensor &z, const at::Tensor &dz,
                         const at::Tensor &lseEncode,
                         const at::Tensor &lseDecode, const at::Tensor &delta) {
  Shape shape = checkInputs(q, k, v);
  Named nk{"k", k}, ng{"grad_y", gradY}, nz{"z", z}, ndz{"dz", dz},
      ne{"lse_encode", lseEncode}, nd{"lse_decode", lseDecode},
      nt{"delta", delta};
  checkAllOnOneDevice({nk, ng, nz, ndz, ne, nd, nt});
  checkDTypes(nk, {ng});
  checkTokens(shape, {ng});
  checkLatents(shape, k, {nz, ndz});
  checkLatentNumbers(shape, k, {ne});
  checkTokenNumbers(shape, k, {nd, nt});
  return shape;
}

void checkParts(const at::Tensor &zParts, const at::Tensor &lseParts) {
  Named nz{"z_parts", zParts}, nl{"lse_parts", lseParts};
  checkAllOnOneDevice({nz, nl});
  for (const Named &t : {nz, nl})
    TORCH_CHECK(t.tensor.scalar_type() == at::kFloat ||
                    t.tensor.scalar_type() == at::kDouble,
                "flarec: ", t.name, " has dtype ",
                c10::toString(t.tensor.scalar_type()),
                "; expected Float (float32) or Double (float64), as encode "
                "returns it: convert with .to(torch.float32)");
  TORCH_CHECK(zParts.dim() == 5, "flarec: ", shown(nz), " has rank ",
              zParts.dim(),
              "; expected [S, B, H, M, D]: torch.stack the z of S encodes");
  TORCH_CHECK(lseParts.sym_sizes() == zParts.sym_sizes().slice(0, 4),
              "flarec: ", shown(nl), " does not go with ", shown(nz),
              "; expected [S, B, H, M] and [S, B, H, M, D]");
  TORCH_CHECK(zParts.sym_size(0) > 0, "flarec: ", shown(nz),
              " has no parts; give one at least");
}

} // namespace flarec::ops
