//===- checks.cpp - what the ops accept -----------------------------------===//
#include "checks.h"

#include "flarec/description.h"

#include <c10/util/StringUtil.h>

#include <algorithm>
#include <limits>
#include <vector>

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

/// k's own first: nothing should be converted to a dtype that is not supported.
void checkDTypes(const Named &k, List others) {
  at::ScalarType type = k.tensor.scalar_type();
  TORCH_CHECK(type == at::kFloat || type == at::kBFloat16 ||
                  type == at::kHalf || type == at::kDouble,
              "flarec: ", k.name, " has dtype ", c10::toString(type),
              "; supported are Float (float32), BFloat16, Half (float16) and, "
              "slowly, Double (float64): convert with .to(torch.float32), "
              ".to(torch.bfloat16) or .to(torch.float16)");
  for (const Named &t : others)
    TORCH_CHECK(t.tensor.scalar_type() == type, "flarec: ", k.name,
                " has dtype ", c10::toString(type), " but ", t.name, " has ",
                c10::toString(t.tensor.scalar_type()),
                "; all must have the same: convert with ", t.name, ".to(",
                k.name, ".dtype), or call it under torch.autocast");
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
  std::array<c10::SymInt, 3> packed = {s.tokens, s.heads, s.headDim};
  for (const Named &t : tensors)
    if (s.packed)
      checkShape(t, packed, "[total, H, D]");
    else
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
    if (s.packed)
      checkShape(t, c10::SymIntArrayRef(shape).slice(1, 2), "[H, total]");
    else
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

void checkRankOfLatents(const Named &q) {
  TORCH_CHECK(q.tensor.dim() == 3 || q.tensor.dim() == 4, "flarec: ", shown(q),
              " has rank ", q.tensor.dim(),
              "; expected [H, M, D] (latents shared by the batch) or "
              "[B, H, M, D]");
}

/// Of q and k, whose dtypes have been looked at, and other rows of tokens.
Shape shapeOf(const Named &q, const Named &k, List others) {
  checkRankOfLatents(q);
  auto checkRank = [](const Named &t) {
    TORCH_CHECK(t.tensor.dim() == 4, "flarec: ", shown(t), " has rank ",
                t.tensor.dim(),
                "; expected [B, H, N, D]: for [B, N, H*D] use "
                ".unflatten(-1, (H, D)).transpose(1, 2), and for packed "
                "sequences [total, H, D] give cu_seqlens (or a range)");
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

void checkPresence(const Presence &presence, const Shape &s) {
  if (presence.range.defined()) {
    Named range{"range", presence.range};
    TORCH_CHECK(range.tensor.scalar_type() == at::kInt,
                "flarec: range has dtype ",
                c10::toString(range.tensor.scalar_type()),
                "; expected Int (int32): convert with .to(torch.int32)");
    std::array<c10::SymInt, 2> expected = {s.batch, 2};
    checkShape(range, expected, "[B, 2]");
    TORCH_CHECK(s.tokens <= std::numeric_limits<int>::max(), "flarec: ",
                s.tokens, " tokens are more than a range, which is int32, can "
                          "tell; use smaller batches, or a mask");
  }
  if (presence.mask.defined()) {
    Named mask{"mask", presence.mask};
    at::ScalarType type = mask.tensor.scalar_type();
    TORCH_CHECK(type == at::kBool || type == at::kByte,
                "flarec: mask has dtype ", c10::toString(type),
                "; expected Bool, true for the tokens that are there (or Byte, "
                "uint8): convert with .to(torch.bool)");
    std::array<c10::SymInt, 2> expected = {s.batch, s.tokens};
    c10::SymIntArrayRef all(expected);
    if (s.packed)
      checkShape(mask, all.slice(1), "[total]");
    else
      checkShape(mask, all, "[B, N]");
  }
}

at::Tensor batchedRows(const at::Tensor &t, const c10::SymInt &batch) {
  Shape packed;
  packed.packed = true;
  packed.batch = batch;
  return batched(t, packed);
}

/// As shapeOf, where perhaps not all tokens are there. `v`: null in a decode.
Shape shapeOfPresent(const Named &q, const Named &k, const Named *v,
                     const Presence &presence) {
  if (presence.range.defined())
    checkAllOnOneDevice({k, {"range", presence.range}});
  if (presence.mask.defined())
    checkAllOnOneDevice({k, {"mask", presence.mask}});
  Shape shape;
  if (presence.range.defined() && k.tensor.dim() == 3) {
    TORCH_CHECK(!v || v->tensor.sym_sizes() == k.tensor.sym_sizes(), "flarec: ",
                shown(k), " and ", v ? shown(*v) : "",
                " must have the same shape [total, H, D]");
    TORCH_CHECK(presence.range.dim() == 2, "flarec: ",
                shown({"range", presence.range}), " has rank ",
                presence.range.dim(), "; expected [B, 2]");
    checkRankOfLatents(q);
    c10::SymInt heads = q.tensor.sym_size(-3), d = q.tensor.sym_size(-1);
    TORCH_CHECK(k.tensor.sym_size(1) == heads && k.tensor.sym_size(2) == d,
                "flarec: ", shown(k), " does not go with ", shown(q),
                "; expected packed tokens [total, H, D] of ", heads,
                " heads and head dim ", d);
    at::Tensor rows = batchedRows(k.tensor, presence.range.sym_size(0));
    shape = shapeOf(q, {"k", rows}, {});
    shape.packed = true;
  } else if (v) {
    shape = shapeOf(q, k, {*v});
  } else {
    shape = shapeOf(q, k, {});
  }
  checkPresence(presence, shape);
  return shape;
}

} // namespace

at::Tensor batched(const at::Tensor &t, const Shape &shape) {
  if (!shape.packed)
    return t;
  at::Tensor one = (t.dim() == 3 ? t.transpose(0, 1) : t).unsqueeze(0);
  std::vector<c10::SymInt> sizes(one.sym_sizes().begin(),
                                 one.sym_sizes().end());
  sizes[0] = shape.batch;
  return one.expand_symint(sizes);
}

/// Numbers that int32 does not hold stay out of range.
static at::Tensor toInt32(const at::Tensor &t) {
  if (t.scalar_type() != at::kLong)
    return t.to(at::kInt);
  return t.clamp(-1, std::numeric_limits<int>::max()).to(at::kInt);
}

MaybeTensor rangeOf(const at::Tensor &k, const MaybeTensor &lengths,
                    const MaybeTensor &cuSeqlens) {
  auto given = [](const MaybeTensor &t) { return t && t->defined(); };
  auto integers = [&](const Named &t, const char *shape) {
    checkAllOnOneDevice({{"k", k}, t});
    TORCH_CHECK(c10::isIntegralType(t.tensor.scalar_type(), false),
                "flarec: ", t.name, " has dtype ",
                c10::toString(t.tensor.scalar_type()),
                "; expected integers, best int32: convert with "
                ".to(torch.int32)");
    TORCH_CHECK(t.tensor.dim() == 1, "flarec: ", shown(t), " has rank ",
                t.tensor.dim(), "; expected ", shape);
  };
  TORCH_CHECK(!given(lengths) || !given(cuSeqlens),
              "flarec: lengths and cu_seqlens were given; lengths are of padded "
              "sequences [B, H, N, D], cu_seqlens of packed ones "
              "[total, H, D]: give one of them");
  if (given(lengths)) {
    Named t{"lengths", *lengths};
    integers(t, "[B]");
    TORCH_CHECK(k.dim() == 4, "flarec: lengths were given, but ",
                shown({"k", k}), " has rank ", k.dim(),
                "; they are of padded sequences [B, H, N, D]: for [total, H, "
                "D] give cu_seqlens");
    TORCH_CHECK(t.tensor.sym_size(0) == k.sym_size(0), "flarec: ", shown(t),
                " has another batch than ", shown({"k", k}),
                "; give one length for each");
    at::Tensor end = toInt32(t.tensor);
    return at::stack({at::zeros_like(end), end}, 1);
  }
  if (given(cuSeqlens)) {
    Named t{"cu_seqlens", *cuSeqlens};
    integers(t, "[B + 1]: where each sequence begins, and where the last ends");
    TORCH_CHECK(t.tensor.sym_size(0) >= 1, "flarec: ", shown(t),
                " is empty; expected [B + 1]: where each sequence begins, and "
                "where the last ends");
    TORCH_CHECK(k.dim() == 3, "flarec: cu_seqlens were given, but ",
                shown({"k", k}), " has rank ", k.dim(),
                "; they are of packed sequences [total, H, D]: for [B, H, N, "
                "D] give lengths");
    at::Tensor ends = toInt32(t.tensor);
    return at::stack({ends.slice(0, 0, -1), ends.slice(0, 1)}, 1);
  }
  return std::nullopt;
}

void checkRange(const Presence &presence, const Shape &shape) {
  const at::Tensor &given = presence.range;
  // Those of torch.compile and torch.func have no values.
  if (!given.defined() || !given.is_cpu() || !given.has_storage() ||
      given.key_set().has(c10::DispatchKey::Python) || !given.const_data_ptr())
    return;
  at::Tensor range = given.contiguous();
  const int *values = range.const_data_ptr<int>();
  int64_t tokens = shape.tokens.expect_int(), batch = range.size(0);
  std::vector<int64_t> order;
  for (int64_t b = 0; b < batch; ++b) {
    int first = values[2 * b], end = values[2 * b + 1];
    TORCH_CHECK(0 <= first && first <= end && end <= tokens,
                "flarec: the tokens of batch ", b, " would be [", first, ", ",
                end, ") of ", tokens,
                "; lengths must be 0 to N, and cu_seqlens must not decrease "
                "and be 0 to the number of tokens");
    if (first < end)
      order.push_back(b);
  }
  if (!shape.packed)
    return;
  // Each row's gradient is written by one sequence.
  auto start = [&](int64_t b) { return values[2 * b]; };
  std::sort(order.begin(), order.end(),
            [&](int64_t a, int64_t b) { return start(a) < start(b); });
  for (size_t i = 1; i < order.size(); ++i) {
    int64_t a = order[i - 1], b = order[i];
    TORCH_CHECK(
        values[2 * a + 1] <= start(b), "flarec: the packed tokens of batches ",
        a, " and ", b, " would be [", start(a), ", ", values[2 * a + 1],
        ") and [", start(b), ", ", values[2 * b + 1],
        "); a row belongs to one batch at most: copy what several need");
  }
}

Shape checkInputs(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v,
                  const Presence &presence) {
  Named nq{"q", q}, nk{"k", k}, nv{"v", v};
  checkAllOnOneDevice({nq, nk, nv});
  checkDTypes(nk, {nq, nv});
  return shapeOfPresent(nq, nk, &nv, presence);
}

Shape checkDecodeInputs(const at::Tensor &k, const at::Tensor &q,
                        const at::Tensor &z, const Presence &presence) {
  Named nk{"k", k}, nq{"q", q}, nz{"z", z};
  checkAllOnOneDevice({nk, nq, nz});
  checkDTypes(nk, {nq});
  Shape shape = shapeOfPresent(nq, nk, nullptr, presence);
  checkLatents(shape, k, {nz});
  return shape;
}

Shape checkBackwardInputs(const at::Tensor &gradY, const at::Tensor &q,
                          const at::Tensor &k, const at::Tensor &v,
                          const at::Tensor &y, const at::Tensor &z,
                          const at::Tensor &lseEncode,
                          const at::Tensor &lseDecode,
                          const Presence &presence) {
  Shape shape = checkInputs(q, k, v, presence);
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
                          const at::Tensor &lse, const Presence &presence) {
  Shape shape = checkInputs(q, k, v, presence);
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
                          const at::Tensor &lse, const Presence &presence) {
  Shape shape = checkDecodeInputs(k, q, z, presence);
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
