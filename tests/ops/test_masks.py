#!/usr/bin/env python3
"""Masks, lengths and packed sequences, against the dense formulas on the tokens that are there, one batch after the other in float64.

  test_masks.py                      the ops on $FLAREC_TEST_DEVICE (cpu)
  test_masks.py --simulate sm_90a    the GPU's kernels in tests/ptx/simulator.py: values and gradients alone
"""

import os
import sys
import unittest

import torch

import flarec_test
from flarec_test import dense, dense_decode, tokens

DEVICE = os.environ.get("FLAREC_TEST_DEVICE", "cpu")
SIMULATE = sys.argv[sys.argv.index("--simulate") + 1] if "--simulate" in sys.argv else ""
BAD = float("nan")
RESULTS = ("y", "z", "lse_encode", "lse_decode", "grad_q", "grad_k", "grad_v")


def simulated_ops():
    sys.path.insert(0, str(flarec_test.ROOT / "tests/ptx"))
    import simulated_ops

    return simulated_ops.Ops(os.environ.get("FLAREC_COMPILER_LIBRARY", str(flarec_test.ROOT / "build/lib/libflarec_compiler.so")), SIMULATE)


ops = simulated_ops() if SIMULATE else flarec_test.load()


def reference(q, k, v, g, there, scale):
    """All of RESULTS in float64, [B, H, N, …], for k, v and the gradient g of y as [B, H, N, D] and there [B, N]."""
    batch = k.shape[0]
    leaves = [t.detach().double().requires_grad_() for t in (q, k, v)]
    zeros = lambda like, *shape: torch.zeros(*shape, dtype=torch.float64, device=like.device)
    m, d = q.shape[-2:]
    ys, zs, encodes, decodes = [], [], [], []
    for b in range(batch):
        at = there[b].nonzero()[:, 0]
        qb = leaves[0] if q.dim() == 3 else leaves[0][b]
        if len(at):
            y, z, encode, decode = dense(qb, leaves[1][b][:, at], leaves[2][b][:, at], scale)
        else:
            y, z = zeros(q, k.shape[1], 0, d), zeros(q, k.shape[1], m, d)
            encode, decode = zeros(q, k.shape[1], m) - torch.inf, zeros(q, k.shape[1], 0)
        ys.append(zeros(q, *k.shape[1:]).index_copy(1, at, y))
        decodes.append(zeros(q, *k.shape[1:3]).index_copy(1, at, decode))
        zs.append(z)
        encodes.append(encode)
    y = torch.stack(ys)
    grads = torch.autograd.grad(y, leaves, torch.where(there[:, None, :, None], g.double(), 0), allow_unused=True, materialize_grads=True)
    return dict(zip(RESULTS, (y, torch.stack(zs), torch.stack(encodes), torch.stack(decodes), *grads)))


class Case:
    """k, v and g are [B, H, N, D], or packed [total, H, D]. The rows of tokens that are not there are NaN."""

    def __init__(self, b=3, h=2, m=19, n=70, d=8, dtype=torch.float32, shared=True, seed=0, mask=None, lengths=None, cu_seqlens=None, scale=0.7, deviation=1.0):
        generator = torch.Generator().manual_seed(seed)
        self.packed = cu_seqlens is not None
        if self.packed:
            b, n = len(cu_seqlens) - 1, cu_seqlens[-1]
        place = torch.arange(n).expand(b, n)
        if lengths is not None:
            there = place < torch.tensor(lengths)[:, None]
        elif self.packed:
            cu = torch.tensor(cu_seqlens)
            there = (place >= cu[:-1, None]) & (place < cu[1:, None])
        else:
            there = torch.ones(b, n, dtype=torch.bool)
        if mask == "random":
            mask = torch.rand(n if self.packed else (b, n), generator=generator) < 0.6
        if mask is not None:
            there = there & mask
        self.q = (deviation * torch.randn(*((h, m, d) if shared else (b, h, m, d)), generator=generator)).to(dtype).to(DEVICE)
        self.k, self.v, self.g = (tokens(1 if self.packed else b, h, n, d, dtype, generator=generator) for _ in range(3))
        present = there.any(0, keepdim=True) if self.packed else there
        for t in (self.k, self.v, self.g):
            t.masked_fill_(~present[:, None, :, None], BAD)
        self.k, self.v, self.g = ((t[0].transpose(0, 1) if self.packed else t).to(DEVICE) for t in (self.k, self.v, self.g))
        self.there, self.scale = there.to(DEVICE), scale
        integers = lambda x: None if x is None else torch.tensor(x, dtype=torch.int32, device=DEVICE)
        self.tokens = {"mask": None if mask is None else mask.to(DEVICE), "lengths": integers(lengths), "cu_seqlens": integers(cu_seqlens)}
        self.tokens = {name: t for name, t in self.tokens.items() if t is not None}

    def batched(self, t):
        """As the reference has it."""
        if not self.packed:
            return t
        return (t.transpose(0, 1) if t.dim() == 3 else t).expand(len(self.there), *((t.shape[1], t.shape[0]) if t.dim() == 3 else t.shape), *t.shape[2:])

    def expected(self):
        r = reference(self.q, self.batched(self.k), self.batched(self.v), self.batched(self.g), self.there, self.scale)
        if self.packed:
            for name in ("y", "lse_decode", "grad_k", "grad_v"):
                r[name] = r[name].sum(0)
                r[name] = r[name].transpose(0, 1) if r[name].dim() == 3 else r[name]
        return r

    def actual(self, ops):
        if SIMULATE:
            return dict(zip(RESULTS, ops.present_mixer(self.q, self.k, self.v, self.g, self.scale, **self.tokens)))
        leaves = [t.detach().clone(memory_format=torch.preserve_format).requires_grad_() for t in (self.q, self.k, self.v)]
        y = ops.mixer(*leaves, self.scale, **self.tokens)
        grads = torch.autograd.grad(y, leaves, self.g)
        range_ = range_of(self.k, self.tokens)
        forward = ops.mixer_forward(self.q, self.k, self.v, self.scale, range=range_, mask=self.tokens.get("mask"))
        assert torch.equal(y, forward[0])
        return dict(zip(RESULTS, (*forward, *grads)))


def range_of(k, tokens):
    if "lengths" in tokens:
        return torch.stack([torch.zeros_like(tokens["lengths"]), tokens["lengths"]], 1)
    if "cu_seqlens" in tokens:
        return torch.stack([tokens["cu_seqlens"][:-1], tokens["cu_seqlens"][1:]], 1)
    return None


class TestCase(unittest.TestCase):
    def assertHolds(self, case):
        actual, expected = case.actual(ops), case.expected()
        tolerance = {torch.bfloat16: 2e-2, torch.float16: 4e-3}.get(case.k.dtype, 2e-5)
        for name in RESULTS:
            a, e = actual[name].double(), expected[name]
            self.assertEqual(a.shape, e.shape, name)
            finite = e.isfinite()
            self.assertTrue(torch.equal(a[~finite], e[~finite]), f"{name}: {a[~finite]}")  # -inf
            self.assertFalse(a.isnan().any().item(), f"{name} has NaNs")
            size = e[finite].abs().max().item() if finite.any() else 1.0
            error = (a - e)[finite].abs().max().item() if finite.any() else 0.0
            self.assertLessEqual(error, tolerance * max(size, 1e-3), name)
        if not case.packed:
            for name in ("y", "grad_k", "grad_v"):
                absent = actual[name].transpose(1, 2)[~case.there]
                self.assertTrue((absent == 0).all().item(), f"{name} of tokens that are not there")


DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Values(TestCase):
    def test_lengths(self):
        for dtype in DTYPES:
            for shared in (True, False):
                with self.subTest(dtype=dtype, shared=shared):
                    self.assertHolds(Case(dtype=dtype, shared=shared, b=4, n=130, lengths=[0, 1, 77, 130]))

    def test_all_lengths_at_the_edges_of_tiles(self):
        self.assertHolds(Case(b=9, n=65, h=1, lengths=[0, 1, 15, 16, 17, 48, 63, 64, 65]))

    def test_mask(self):
        for dtype in DTYPES:
            for shared in (True, False):
                with self.subTest(dtype=dtype, shared=shared):
                    self.assertHolds(Case(dtype=dtype, shared=shared, n=130, mask="random"))

    def test_mask_of_no_tokens(self):
        for dtype in DTYPES:
            mask = torch.rand(3, 100, generator=torch.Generator().manual_seed(5)) < 0.5
            mask[1] = False
            with self.subTest(dtype=dtype):
                self.assertHolds(Case(dtype=dtype, n=100, mask=mask))

    def test_mask_and_lengths(self):
        self.assertHolds(Case(n=90, lengths=[90, 33, 2], mask="random"))

    def test_packed(self):
        for dtype in DTYPES:
            for shared in (True, False):
                with self.subTest(dtype=dtype, shared=shared):
                    self.assertHolds(Case(dtype=dtype, shared=shared, cu_seqlens=[0, 0, 70, 71, 71, 200, 200]))

    def test_packed_and_mask(self):
        self.assertHolds(Case(cu_seqlens=[0, 40, 40, 130], mask="random", dtype=torch.bfloat16))
        self.assertHolds(Case(cu_seqlens=[0, 40, 40, 130], mask="random"))

    def test_large_scores(self):
        for dtype in DTYPES:
            for tokens in ({"lengths": [200, 100, 0]}, {"mask": "random"}):
                with self.subTest(dtype=dtype, **tokens):
                    self.assertHolds(Case(dtype=dtype, n=200, deviation=30, **tokens))

    def test_head_dims_and_latents(self):
        for d, m in ((4, 5), (16, 64), (32, 17), (64, 33)):
            with self.subTest(d=d, m=m):
                self.assertHolds(Case(d=d, m=m, n=50, dtype=torch.bfloat16, lengths=[50, 0, 21]))
                self.assertHolds(Case(d=d, m=m, n=50, dtype=torch.bfloat16, mask="random"))


@unittest.skipIf(SIMULATE, "of the ops, not of kernels")
class Ops(TestCase):
    def test_what_is_there_has_the_bits_of_a_call_without_the_rest(self):
        case = Case(b=2, n=96, lengths=[96, 64])
        y = ops.mixer(case.q, case.k, case.v, **case.tokens)
        self.assertTrue(torch.equal(y[0], ops.mixer(case.q, case.k[:1], case.v[:1])[0]))
        everywhere = torch.ones(2, 96, dtype=torch.bool, device=DEVICE)
        full = Case(b=2, n=96)
        self.assertTrue(torch.equal(ops.mixer(full.q, full.k, full.v, mask=everywhere), ops.mixer(full.q, full.k, full.v)))

    def test_repeatable(self):
        case = Case(b=2, n=300, lengths=[299, 17], mask="random", dtype=torch.bfloat16)
        first = case.actual(ops)
        for _ in range(3):
            for name, t in case.actual(ops).items():
                self.assertTrue(torch.equal(t, first[name]), name)

    def test_integers_of_any_kind(self):
        case = Case(lengths=[70, 3, 0])
        y = ops.mixer(case.q, case.k, case.v, lengths=case.tokens["lengths"])
        for dtype in (torch.int64, torch.int16, torch.uint8):
            self.assertTrue(torch.equal(y, ops.mixer(case.q, case.k, case.v, lengths=case.tokens["lengths"].to(dtype))))
        mask = case.there
        expected = ops.mixer(case.q, case.k, case.v, mask=mask)
        self.assertTrue(torch.equal(expected, ops.mixer(case.q, case.k, case.v, mask=mask.to(torch.uint8) * 7)))

    def test_any_strides(self):
        case = Case(b=3, n=40, mask="random")
        mask = case.tokens["mask"]
        expected = ops.mixer(case.q, case.k, case.v, mask=mask)
        self.assertTrue(torch.equal(expected, ops.mixer(case.q, case.k, case.v, mask=mask.t().contiguous().t())))
        shared = mask[:1].expand(3, -1)
        k, v = case.k.nan_to_num(), case.v.nan_to_num()
        self.assertTrue(torch.equal(ops.mixer(case.q, k, v, mask=shared), ops.mixer(case.q, k, v, mask=shared.contiguous())))

    def test_no_tokens_at_all(self):
        q = torch.randn(2, 5, 8, device=DEVICE, requires_grad=True)
        k = torch.randn(0, 2, 8, device=DEVICE, requires_grad=True)
        cu = torch.zeros(4, dtype=torch.int32, device=DEVICE)
        y = ops.mixer(q, k, k, cu_seqlens=cu)
        self.assertEqual(y.shape, (0, 2, 8))
        gq, gk = torch.autograd.grad(y.sum(), (q, k))
        self.assertTrue((gq == 0).all() and gk.shape == k.shape)
        _, z, lse, _ = ops.mixer_forward(q, k, k, range=torch.zeros(3, 2, dtype=torch.int32, device=DEVICE))
        self.assertEqual(z.shape, (3, 2, 5, 8))
        self.assertTrue((z == 0).all() and (lse == -torch.inf).all())
        nobody = ops.mixer(q, k, k, cu_seqlens=cu[:1])
        self.assertEqual(nobody.shape, (0, 2, 8))

    def test_only_some_gradients(self):
        case = Case(lengths=[70, 0, 31], mask="random")
        expected = case.expected()
        for wanted in ("q", "k", "v", "kv"):
            leaves = {n: t.detach().clone(memory_format=torch.preserve_format).requires_grad_(n in wanted) for n, t in zip("qkv", (case.q, case.k, case.v))}
            y = ops.mixer(*leaves.values(), case.scale, **case.tokens)
            for name, grad in zip(wanted, torch.autograd.grad(y, [leaves[n] for n in wanted], case.g)):
                torch.testing.assert_close(grad.double(), expected[f"grad_{name}"], rtol=1e-4, atol=1e-4)

    def test_float64_is_differentiable(self):
        for tokens in ({"lengths": [7, 0, 3]}, {"mask": "random"}, {"cu_seqlens": [0, 4, 4, 9]}, {"cu_seqlens": [0, 4, 4, 9], "mask": "random"}):
            with self.subTest(**tokens):
                case = Case(n=7, m=3, d=4, dtype=torch.float64, **tokens)
                self.assertHolds(case)
                k, v = case.k.nan_to_num(), case.v.nan_to_num()
                leaves = [t.detach().clone().requires_grad_() for t in (case.q, k, v)]
                torch.autograd.gradcheck(lambda *x: ops.mixer(*x, 0.7, **case.tokens), leaves)
                torch.autograd.gradgradcheck(lambda *x: ops.mixer(*x, 0.7, **case.tokens), leaves)
                # The backward op, which float64 does not go through under autograd.
                r = range_of(case.k, case.tokens)
                forward = ops.mixer_forward(case.q, case.k, case.v, 0.7, range=r, mask=case.tokens.get("mask"))
                grads = ops.mixer_backward(case.g, case.q, case.k, case.v, *forward, 0.7, range=r, mask=case.tokens.get("mask"))
                for name, grad in zip(RESULTS[4:], grads):
                    torch.testing.assert_close(grad, case.expected()[name])

    def test_halves(self):
        """encode and decode with a range and a mask make the mixer, gradients through both log-sum-exps included."""
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            for tokens in ({"lengths": [70, 0, 31]}, {"mask": "random"}, {"cu_seqlens": [0, 24, 24, 49], "mask": "random"}):
                with self.subTest(dtype=dtype, **tokens):
                    case = Case(dtype=dtype, shared=False, **tokens)
                    presence = {"range": range_of(case.k, case.tokens), "mask": case.tokens.get("mask")}
                    clean = [t.nan_to_num() for t in (case.k, case.v, case.g)]
                    there = case.there[:, None, :, None]

                    def mine(q, k, v):
                        z, le = ops.encode(q, k, v, 0.7, **presence)
                        y, ld = ops.decode(k, q, z, 0.7, **presence)
                        return y, z, le, ld

                    def exact(q, k, v):
                        k, v = (torch.where(there, case.batched(t), 0) for t in (k, v))
                        x = 0.7 * (q @ k.transpose(-1, -2))
                        xe = x.masked_fill(~case.there[:, None, None], -1e30)
                        some = case.there.any(1)[:, None, None]
                        z, le = torch.softmax(xe, -1) @ v * some[..., None], torch.logsumexp(xe, -1).masked_fill(~some, -torch.inf)
                        y, ld = dense_decode(k, q, z, 0.7)
                        y, ld = torch.where(there, y, 0), torch.where(case.there[:, None], ld, 0)
                        return (y.sum(0).transpose(0, 1), z, le, ld.sum(0)) if case.packed else (y, z, le, ld)

                    results = []
                    for f, leaves in ((mine, (case.q, case.k, case.v)), (exact, (case.q.double(), clean[0].double(), clean[1].double()))):
                        leaves = [t.detach().clone(memory_format=torch.preserve_format).requires_grad_() for t in leaves]
                        y, z, le, ld = f(*leaves)
                        weights = lambda t: torch.sin(torch.arange(t.numel(), device=DEVICE)).view(t.shape).to(t.dtype)
                        loss = (y * clean[2].to(y.dtype)).double().sum() + (le.masked_fill(le.isinf(), 0) * weights(le)).sum() + (ld * weights(ld)).sum()
                        results.append((y, z, le, ld, *torch.autograd.grad(loss, leaves)))
                    tolerance = {torch.bfloat16: 3e-2, torch.float32: 2e-5}.get(dtype, 1e-10)
                    for name, a, e in zip(RESULTS, *results):
                        size = e[e.isfinite()].square().mean().sqrt().item()
                        torch.testing.assert_close(a.double(), e, rtol=0, atol=tolerance * max(5 * size, 1e-2), msg=lambda m: f"{name}: {m}")

    def test_encode_sees_fewer_tokens_than_decode(self):
        case = Case(b=2, n=40, mask="random")
        k, v = case.k.nan_to_num(), case.v.nan_to_num()
        z, _ = ops.encode(case.q, k, v, mask=case.tokens["mask"])
        y, _ = ops.decode(k, case.q, z)
        exact = reference(case.q, k, v, v, case.there, 1.0)["z"]
        torch.testing.assert_close(y.double(), dense_decode(k.double(), case.q.double(), exact)[0], rtol=1e-4, atol=1e-5)

    def test_autocast(self):
        case = Case(cu_seqlens=[0, 30, 64])
        with torch.autocast(DEVICE, torch.bfloat16):
            y = ops.mixer(case.q, case.k.bfloat16(), case.v, **case.tokens)
        self.assertEqual(y.dtype, torch.bfloat16)
        self.assertTrue(torch.equal(y, ops.mixer(*(t.bfloat16() for t in (case.q, case.k, case.v)), **case.tokens)))

    def test_meta_tensors_have_the_results_shapes(self):
        for tokens in ({"lengths": [70, 3, 0]}, {"cu_seqlens": [0, 4, 4, 9]}):
            case = Case(**tokens)
            r = range_of(case.k, case.tokens)
            real = ops.mixer_forward(case.q, case.k, case.v, range=r)
            fake = ops.mixer_forward(*(t.to("meta") for t in (case.q, case.k, case.v)), range=r.to("meta"))
            for a, b in zip(real, fake):
                self.assertEqual((a.shape, a.stride(), a.dtype), (b.shape, b.stride(), b.dtype))

    def test_compiled(self):
        for tokens in ({"lengths": [70, 3, 0]}, {"mask": "random"}, {"cu_seqlens": [0, 24, 24, 49]}):
            with self.subTest(**tokens):
                case = Case(**tokens)

                def loss(q, k, v, g, tokens):
                    return (ops.mixer(q, k, v, 0.7, **tokens) * g).sum()

                results = []
                for f in (loss, torch.compile(loss, fullgraph=True, dynamic=True)):
                    leaves = [t.detach().clone(memory_format=torch.preserve_format).requires_grad_() for t in (case.q, case.k, case.v)]
                    value = f(*leaves, case.g.nan_to_num(), case.tokens)
                    results.append((value, *torch.autograd.grad(value, leaves)))
                for a, b in zip(*results):
                    torch.testing.assert_close(a, b)

    def test_opcheck(self):
        case = Case(n=20, m=3)
        q, k, v = case.q, case.k, case.v  # without gradients: those of z and the log-sum-exps are refused
        mask = torch.ones(3, 20, dtype=torch.bool, device=DEVICE)
        r = torch.tensor([[0, 20], [3, 3], [1, 19]], dtype=torch.int32, device=DEVICE)
        torch.library.opcheck(ops.mixer_forward.default, (q, k, v, 0.5), {"range": r, "mask": mask})

    def test_float64_without_values(self):
        """The composite implementation runs where torch.compile and torch.func have no numbers in lengths."""
        case = Case(n=7, m=3, d=4, dtype=torch.float64, lengths=[7, 0, 3])
        q, k, v = (t.nan_to_num().requires_grad_() for t in (case.q, case.k, case.v))
        loss = lambda q, k, v: ops.mixer(q, k, v, 0.7, **case.tokens).square().sum()
        expected = torch.autograd.grad(loss(q, k, v), (q, k, v))
        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        for grads in (torch.autograd.grad(compiled(q, k, v), (q, k, v)), torch.func.grad(loss, (0, 1, 2))(q.detach(), k.detach(), v.detach())):
            for a, b in zip(grads, expected):
                torch.testing.assert_close(a, b)
        torch.library.opcheck(ops.mixer.default, (q, k, v, 0.7), dict(case.tokens))

    def test_what_a_batch_without_tokens_has_in_z_is_not_read(self):
        for dtype in (torch.float32, torch.float64):
            case = Case(n=7, m=3, d=4, b=2, dtype=dtype, shared=False, lengths=[7, 0])
            z = torch.randn(2, 2, 3, 4, dtype=dtype, device=DEVICE)
            z[1] = BAD
            leaves = [t.nan_to_num().requires_grad_() for t in (case.k, case.q)] + [z.requires_grad_()]
            y, lse = ops.decode(leaves[0], leaves[1], leaves[2], 0.7, range=range_of(case.k, case.tokens))
            for t in (y, lse, *torch.autograd.grad(y.sum() + lse.sum(), leaves)):
                self.assertTrue(t.isfinite().all())


@unittest.skipIf(SIMULATE, "of the ops, not of kernels")
class Messages(unittest.TestCase):
    def refuses(self, pattern, *args, **tokens):
        with self.assertRaisesRegex(RuntimeError, pattern):
            ops.mixer(*args, **tokens)

    def test_they_say_what_to_do(self):
        q = torch.randn(2, 5, 8, device=DEVICE)
        k = torch.randn(3, 2, 10, 8, device=DEVICE)
        flat = torch.randn(10, 2, 8, device=DEVICE)
        i = lambda *x: torch.tensor(x, dtype=torch.int32, device=DEVICE)
        self.refuses("cu_seqlens were given.*for .B, H, N, D. give lengths", q, k, k, cu_seqlens=i(0, 10))
        self.refuses("lengths were given.*for .total, H, D. give cu_seqlens", q, flat, flat, lengths=i(1))
        self.refuses("give one of them", q, k, k, cu_seqlens=i(0, 10), lengths=i(1, 1, 1))
        self.refuses("lengths .2. has another batch than k", q, k, k, lengths=i(1, 2))
        self.refuses("lengths has dtype Float; expected integers", q, k, k, lengths=i(1, 2, 3).float())
        self.refuses("lengths .3, 1. has rank 2; expected .B.", q, k, k, lengths=i(1, 2, 3)[:, None])
        self.refuses("cu_seqlens .0. is empty", q, flat, flat, cu_seqlens=i())
        self.refuses("mask has dtype Float; expected Bool", q, k, k, mask=torch.ones(3, 10, device=DEVICE))
        self.refuses("mask has shape .3, 9.; expected .B, N. = .3, 10.", q, k, k, mask=torch.ones(3, 9, dtype=torch.bool, device=DEVICE))
        self.refuses("mask has shape .1, 10.; expected .total. = .10.", q, flat, flat, cu_seqlens=i(0, 10), mask=torch.ones(1, 10, dtype=torch.bool, device=DEVICE))
        self.refuses("same shape .total, H, D.", q, flat, flat[:9], cu_seqlens=i(0, 9))
        self.refuses("rank 3; expected .B, H, N, D.*for packed sequences .total, H, D. give cu_seqlens", q, flat, flat)
        self.refuses(r"k \[10, 3, 8\] does not go with q \[2, 5, 8\]; expected packed tokens .total, H, D. of 2 heads and head dim 8",
                     q, torch.randn(10, 3, 8, device=DEVICE), torch.randn(10, 3, 8, device=DEVICE), cu_seqlens=i(0, 10))  # fmt: skip

    @unittest.skipIf(DEVICE != "cpu", "a GPU's values are not looked at")
    def test_values_on_the_cpu_are_looked_at(self):
        q, k, flat = torch.randn(2, 5, 8), torch.randn(3, 2, 10, 8), torch.randn(10, 2, 8)
        i = lambda *x: torch.tensor(x, dtype=torch.int32)
        self.refuses(r"tokens of batch 1 would be \[0, 11\) of 10.*lengths must be 0 to N", q, k, k, lengths=i(3, 11, 2))
        self.refuses(r"tokens of batch 1 would be \[0, -1\)", q, k, k, lengths=i(3, -1, 2))
        self.refuses(r"tokens of batch 1 would be \[7, 5\) of 10.*must not decrease", q, flat, flat, cu_seqlens=i(0, 7, 5, 10))
        self.refuses("of 10; lengths must be 0 to N", q, k, k, lengths=torch.tensor([3, 2**32 + 5, 2]))
        self.refuses("of 10; lengths must be 0 to N", q, flat, flat, cu_seqlens=torch.tensor([0, 2**32 + 7, 10]))
        with self.assertRaisesRegex(RuntimeError, r"packed tokens of batches 2 and 0 would be \[0, 6\) and \[5, 9\); a row belongs to one batch at most"):
            ops.encode(q, flat, flat, range=torch.tensor([[5, 9], [7, 7], [0, 6]], dtype=torch.int32))

    @unittest.skipIf(DEVICE == "cpu", "on the CPU they are errors")
    def test_what_makes_no_sense_is_taken_as_the_nearest_that_does(self):
        q, k = torch.randn(2, 5, 8, device=DEVICE), torch.randn(3, 2, 10, 8, device=DEVICE)
        i = lambda *x: torch.tensor(x, dtype=torch.int32, device=DEVICE)
        self.assertTrue(torch.equal(ops.mixer(q, k, k, lengths=i(3, 11, -1)), ops.mixer(q, k, k, lengths=i(3, 10, 0))))


if __name__ == "__main__":
    unittest.main(argv=[a for i, a in enumerate(sys.argv) if a != "--simulate" and (i == 0 or sys.argv[i - 1] != "--simulate")])
