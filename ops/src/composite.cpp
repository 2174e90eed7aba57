//===- composite.cpp - the ops in PyTorch's own operators -----------------===//
#include "composite.h"

#include <ATen/ATen.h>

#include <limits>

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
  return scale * at::matmul(turned(dx), q);
}

at::Tensor rowDots(const at::Tensor &a, const at::Tensor &b) {
  return (a * b).sum(-1);
}

/// What belongs to tokens, as the formulas take it: [B, H, N, D] and [B, H, N],
/// 0 for tokens that are not there, whatever it was.
class Kept {
public:
  Kept(const Shape &shape, const Presence &presence) : shape(shape) {
    if (presence.mask.defined()) {
      there = presence.mask.to(at::kBool);
      if (shape.packed)
        there = there.unsqueeze(0);
    }
    if (presence.range.defined()) {
      at::Tensor n = at::arange(shape.tokens, presence.range.options());
      at::Tensor first = presence.range.slice(1, 0, 1),
                 end = presence.range.slice(1, 1, 2);
      at::Tensor in = (n >= first).logical_and(n < end);
      there = there.defined() ? there.logical_and(in) : in;
    }
    if (there.defined())
      there = there.unsqueeze(1); // all heads
  }

  at::Tensor operator()(const at::Tensor &t) const {
    at::Tensor all = batched(t, shape);
    return there.defined() ? kept(all) : all;
  }

  /// Pairs [B, H, M, N], `fill` where there is no token.
  at::Tensor pairs(const at::Tensor &x, double fill) const {
    return there.defined() ? x.masked_fill(there.logical_not().unsqueeze(2), fill)
                           : x;
  }

  /// z, 0 for a batch without tokens, which does not read it.
  at::Tensor used(const at::Tensor &z) const {
    if (!there.defined())
      return z;
    at::Tensor any = there.any(-1).unsqueeze(-1).unsqueeze(-1); // [B, 1, 1, 1]
    return at::where(any, z, at::zeros({}, z.options()));
  }

  /// A log-sum-exp over tokens. Where none is there it is -inf, and no reference.
  at::Tensor reference(const at::Tensor &lse) const {
    return there.defined() ? lse.masked_fill(lse.isneginf(), 0) : lse;
  }

  /// As the op returns it. Of packed sequences each token's row is in one batch.
  at::Tensor back(at::Tensor t) const {
    if (there.defined())
      t = kept(t);
    if (!shape.packed)
      return t.dim() == 4 ? tokensMajor(t) : t;
    t = t.sum(0);
    return t.dim() == 3 ? t.transpose(0, 1).contiguous() : t;
  }

private:
  at::Tensor kept(const at::Tensor &t) const {
    return at::where(t.dim() == 4 ? there.unsqueeze(3) : there, t,
                     at::zeros({}, t.options()));
  }

  const Shape &shape;
  at::Tensor there; // [B, 1, N]; undefined: all are
};

} // namespace

Two encode(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v,
           double scale, const Shape &shape, const Presence &presence) {
  if (presence.all()) {
    at::Tensor x = scores(q, k, scale);
    return {at::matmul(at::softmax(x, -1), v), at::logsumexp(x, -1)};
  }
  Kept of(shape, presence);
  at::Tensor x = of.pairs(scores(q, of(k), scale),
                          -std::numeric_limits<double>::infinity());
  at::Tensor lse = at::logsumexp(x, -1);
  return {at::matmul((x - of.reference(lse).unsqueeze(-1)).exp(), of(v)), lse};
}

Two decode(const at::Tensor &k, const at::Tensor &q, const at::Tensor &z,
           double scale, const Shape &shape, const Presence &presence) {
  Kept of(shape, presence);
  at::Tensor x = scores(q, of(k), scale);
  return {of.back(at::matmul(turned(at::softmax(x, -2)), of.used(z))),
          of.back(at::logsumexp(x, -2))};
}

Four mixer(const at::Tensor &q, const at::Tensor &k, const at::Tensor &v,
           double scale, const Shape &shape, const Presence &presence) {
  auto [z, lseEncode] = encode(q, k, v, scale, shape, presence);
  auto [y, lseDecode] = decode(k, q, z, scale, shape, presence);
  return {y, z, lseEncode, lseDecode};
}

Three encodeBackward(const at::Tensor &gradZ, const at::Tensor &gradLse,
                     const at::Tensor &q, const at::Tensor &k,
                     const at::Tensor &v, const at::Tensor &z,
                     const at::Tensor &lse, double scale, const Shape &shape,
                     const Presence &presence) {
  Kept of(shape, presence);
  at::Tensor bk = of(k);
  at::Tensor p =
      of.pairs((scores(q, bk, scale) - of.reference(lse).unsqueeze(-1)).exp(), 0);
  at::Tensor shift = (rowDots(gradZ, z) - gradLse).unsqueeze(-1);
  at::Tensor dx = p * (at::matmul(gradZ, turned(of(v))) - shift);
  return {gradientOfQ(dx, q, bk, scale), of.back(gradientOfK(dx, q, scale)),
          of.back(at::matmul(turned(p), gradZ))};
}

Three decodeBackward(const at::Tensor &gradY, const at::Tensor &gradLse,
                     const at::Tensor &k, const at::Tensor &q,
                     const at::Tensor &z, const at::Tensor &y,
                     const at::Tensor &lse, double scale, const Shape &shape,
                     const Presence &presence) {
  Kept of(shape, presence);
  at::Tensor bk = of(k), bg = of(gradY);
  at::Tensor r = (scores(q, bk, scale) - of(lse).unsqueeze(-2)).exp();
  at::Tensor shift = (rowDots(bg, of(y)) - of(gradLse)).unsqueeze(-2);
  at::Tensor dx = r * (at::matmul(of.used(z), turned(bg)) - shift);
  return {of.back(gradientOfK(dx, q, scale)), gradientOfQ(dx, q, bk, scale),
          at::matmul(r, bg)};
}

Three mixerBackward(const at::Tensor &gradY, const at::Tensor &q,
                    const at::Tensor &k, const at::Tensor &v,
                    const at::Tensor &y, const at::Tensor &z,
                    const at::Tensor &lseEncode, const at::Tensor &lseDecode,
                    double scale, const Shape &shape,
                    const Presence &presence) {
  Kept of(shape, presence);
  at::Tensor bg = of(gradY), bk = of(k), bd = of(lseDecode);
  auto [dz, delta] = backwardLatents(bg, q, bk, of(y), bd, scale);
  // What tokens that are not there add to dq is 0: their k is.
  auto [dq, dk, dv] = backwardJoint(bg, q, bk, of(v), z, dz,
                                    of.reference(lseEncode), bd, delta, scale);
  return {dq, of.back(dk), of.back(dv)};
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
  return {gradientOfQ(dx, q, k, scale),
          tokensMajor(gradientOfK(dx, q, scale)),
          tokensMajor(at::matmul(turned(p), dz))};
}

} // namespace flarec::ops::composite
