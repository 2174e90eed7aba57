//===- composite.cpp - the ops in PyTorch's own operators -----------------===//
#include "composite.h"

#include <ATen/ATen.h>

namespace flarec::ops::composite {
namespace {

at::Tensor turned(const at::Tensor &t) { return t.transpose(-1, -2); }

/// In the layout of what the kernels return.
at::Tensor tokensMajor(const at::Tensor &t) {
  return t.transpose(1, 2).contiguous().transpose(1, 2);
}

/// x[m, n].
at::Tensor scores(const at::Tensor &q, const at::Tensor &k, double scale) {
  return scale * at::matmul(q, turned(k));
}

/// s Σ_n dx k, summed over the batch where q is shared by it.
at::Tensor gradientOfQ(const at::Tensor &dx, const at::Tensor &q,
                       const at::Tensor &k, double scale) {
  at::Tensor grad = scale * at::matmul(dx, k);
  return q.dim() == 3 ? grad.sum(0) : grad;
}
at::Tensor gradientOfK(const at::Tensor &dx, const at::Tensor &q,
                       double scale) {
  return tokensMajor(scale * at::matmul(turned(dx), q));
}

at::Tensor rowDots(const at::Tensor &a, const at::Tensor &b) {
  return (a * b).sum(-1);
}

} // namespace

Two encode(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v,
           double scale) {
  at::Tensor x = scores(q, k, scale);
  return {at::matmul(at::softmax(x, -1), v), at::logsumexp(x, -1)};
}

Two decode(const at::Tensor &k, const at::Tensor &q, const at::Tensor &z,
           double scale) {
  at::Tensor x = scores(q, k, scale);
  return {tokensMajor(at::matmul(turned(at::softmax(x, -2)), z)),
          at::logsumexp(x, -2)};
}

Four mixer(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v,
           double scale) {
  auto [z, lseEncode] = encode(q, k, v, scale);
  auto [y, lseDecode] = decode(k, q, z, scale);
  return {y, z, lseEncode, lseDecode};
}

Three encodeBackward(const at::Tensor &gradZ, const at::Tensor &gradLse,
                     const at::Tensor &q, const at::Tensor &k,
                     const at::Tensor &v, const at::Tensor &z,
                     const at::Tensor &lse, double scale) {
  at::Tensor p = (scores(q, k, scale) - lse.unsqueeze(-1)).exp();
  at::Tensor shift = (rowDots(gradZ, z) - gradLse).unsqueeze(-1);
  at::Tensor dx = p * (at::matmul(gradZ, turned(v)) - shift);
  return {gradientOfQ(dx, q, k, scale), gradientOfK(dx, q, scale),
          tokensMajor(at::matmul(turned(p), gradZ))};
}

Three decodeBackward(const at::Tensor &gradY, const at::Tensor &gradLse,
                     const at::Tensor &k, const at::Tensor &q,
                     const at::Tensor &z, const at::Tensor &y,
                     const at::Tensor &lse, double scale) {
  at::Tensor r = (scores(q, k, scale) - lse.unsqueeze(-2)).exp();
  at::Tensor shift = (rowDots(gradY, y) - gradLse).unsqueeze(-2);
  at::Tensor dx = r * (at::matmul(z, turned(gradY)) - shift);
  return {gradientOfK(dx, q, scale), gradientOfQ(dx, q, k, scale),
          at::matmul(r, gradY)};
}

Two backwardLatents(const at::Tensor &gradY, const at::Tensor &q,
                    const at::Tensor &k, const at::Tensor &y,
                    const at::Tensor &lseDecode, double scale) {
  at::Tensor r = (scores(q, k, scale) - lseDecode.unsqueeze(-2)).exp();
  return {at::matmul(r, gradY), rowDots(gradY, y)};
}

Three backwardJoint(const at::Tensor &gradY, const at::Tensor &q,
                    const at::Tensor &k, const at::Tensor &v,
                    const at::Tensor &z, const at::Tensor &dz,
                    const at::Tensor &lseEncode, const at::Tensor &lseDecode,
                    const at::Tensor &delta, double scale) {
  at::Tensor x = scores(q, k, scale);
  at::Tensor r = (x - lseDecode.unsqueeze(-2)).exp();
  at::Tensor p = (x - lseEncode.unsqueeze(-1)).exp();
  at::Tensor dx =
      r * (at::matmul(z, turned(gradY)) - delta.unsqueeze(-2)) +
      p * (at::matmul(dz, turned(v)) - rowDots(dz, z).unsqueeze(-1));
  return {gradientOfQ(dx, q, k, scale), gradientOfK(dx, q, scale),
          tokensMajor(at::matmul(turned(p), dz))};
}

} // namespace flarec::ops::composite
