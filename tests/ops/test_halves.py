#!/usr/bin/env python3
"""encode, decode, merge and the two stages of a mixer's backward pass, against the dense formulas in float64."""

import itertools
import os
import unittest

import torch

import flarec_test
from flarec_test import dense_decode, dense_encode, tokens

ops = flarec_test.load()
DEVICE = os.environ.get("FLAREC_TEST_DEVICE", "cpu")
TOLERANCE = {torch.bfloat16: 2e-2, torch.float16: 3e-3, torch.float32: 3e-5, torch.float64: 1e-12}


def inputs(b=2, h=3, m=16, n=33, d=8, dtype=torch.float32, shared=True, seed=0):
    generator = torch.Generator(DEVICE).manual_seed(seed)
    q = torch.randn(*((h, m, d) if shared else (b, h, m, d)), device=DEVICE, generator=generator).to(dtype)
    k, v = (tokens(b, h, n, d, dtype, DEVICE, generator) for _ in range(2))
    z = torch.randn(b, h, m, d, device=DEVICE, generator=generator, dtype=torch.float64 if dtype == torch.float64 else None)
    return q, k, v, z


def leaves(tensors, dtype=None):
    return [t.detach().to(dtype or t.dtype, memory_format=torch.preserve_format).requires_grad_() for t in tensors]


class TestCase(unittest.TestCase):
    def assertClose(self, actual, expected, name="", tolerance=None, dtype=None):
        self.assertEqual(actual.shape, expected.shape, name)
        if not expected.numel():
            return
        tolerance = tolerance or TOLERANCE[dtype or actual.dtype]
        size = max(expected.double().abs().max().item(), 1e-3)
        self.assertLessEqual((actual.double() - expected.double()).abs().max().item(), tolerance * size, name)

    def assertHalf(self, half, dense, tensors, scale=0.7, use=(True, True), seed=5):
        """Values and gradients, with respect to both results or to one."""
        mine, exact = leaves(tensors), leaves(tensors, torch.float64)
        results, expected = half(*mine, scale), dense(*exact, scale)
        for name, a, e in zip(("out", "lse"), results, expected):
            self.assertClose(a, e, name, dtype=tensors[0].dtype)
        generator = torch.Generator(DEVICE).manual_seed(seed)
        grads = [torch.randn(r.shape, device=DEVICE, generator=generator).to(r.dtype) for r in results]
        chosen = [i for i in (0, 1) if use[i]]
        torch.autograd.backward([results[i] for i in chosen], [grads[i] for i in chosen])
        torch.autograd.backward([expected[i] for i in chosen], [grads[i].double() for i in chosen])
        for i, (a, e) in enumerate(zip(mine, exact)):
            grad = torch.zeros_like(a) if a.grad is None else a.grad
            self.assertEqual(grad.dtype, a.dtype)
            self.assertClose(grad, torch.zeros_like(e) if e.grad is None else e.grad, f"grad {i}", dtype=tensors[0].dtype)


class Halves(TestCase):
    def test_encode(self):
        for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
            for shared in (True, False):
                for use in ((True, True), (True, False), (False, True)):
                    with self.subTest(dtype=dtype, shared=shared, use=use):
                        q, k, v, _ = inputs(dtype=dtype, shared=shared)
                        self.assertHalf(ops.encode, dense_encode, (q, k, v), use=use)

    def test_decode(self):
        for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
            for shared in (True, False):
                for use in ((True, True), (True, False), (False, True)):
                    with self.subTest(dtype=dtype, shared=shared, use=use):
                        q, k, _, z = inputs(dtype=dtype, shared=shared)
                        self.assertHalf(ops.decode, dense_decode, (k, q, z), use=use)

    def test_together_they_are_the_mixer(self):
        q, k, v, _ = inputs()
        a, b = leaves((q, k, v)), leaves((q, k, v))
        y = ops.mixer(*a, 0.5)
        z, _ = ops.encode(*b, 0.5)
        halves, _ = ops.decode(b[1], b[0], z, 0.5)
        self.assertClose(halves, y)
        grad = torch.randn_like(y)
        y.backward(grad)
        halves.backward(grad)
        for mine, theirs in zip(b, a):
            self.assertClose(mine.grad, theirs.grad)

    def test_decode_of_other_tokens_than_encode_saw(self):
        q, k, v, _ = inputs(n=50)
        other = inputs(n=21, seed=1)[1]
        mine, exact = leaves((q, k, v, other)), leaves((q, k, v, other), torch.float64)
        y, _ = ops.decode(mine[3], mine[0], ops.encode(*mine[:3])[0])
        e, _ = dense_decode(exact[3], exact[0], dense_encode(*exact[:3])[0])
        self.assertClose(y, e)
        y.sum().backward()
        e.sum().backward()
        for a, b in zip(mine, exact):
            self.assertClose(a.grad, b.grad, tolerance=1e-4)

    def test_kept_z_serves_many_decodes(self):
        q, k, v, _ = inputs(n=64)
        with torch.inference_mode():
            z, _ = ops.encode(q, k, v)
            parts = [ops.decode(part, q, z)[0] for part in k.split(17, 2)]
        self.assertClose(torch.cat(parts, 2), ops.mixer(q, k, v))

    def test_only_the_gradients_asked_for(self):
        q, k, v, z = inputs()
        for half, tensors in ((ops.encode, (q, k, v)), (ops.decode, (k, q, z))):
            expected = leaves(tensors)
            half(*expected)[0].square().sum().backward()
            for wanted in range(1, 8):
                some = [t.detach().requires_grad_(bool(wanted >> i & 1)) for i, t in enumerate(tensors)]
                half(*some)[0].square().sum().backward()
                for i, (a, e) in enumerate(zip(some, expected)):
                    with self.subTest(half=half, wanted=wanted, i=i):
                        if wanted >> i & 1:
                            self.assertClose(a.grad, e.grad)
                        else:
                            self.assertIsNone(a.grad)

    def test_no_tokens_and_no_batch(self):
        for sizes in ({"n": 0}, {"b": 0}):
            for shared in (True, False):
                q, k, v, z = inputs(**sizes, shared=shared)
                q, k, v, z = leaves((q, k, v, z))
                out, lse = ops.encode(q, k, v)
                self.assertTrue((out == 0).all() and torch.isneginf(lse).all())
                y, lse_decode = ops.decode(k, q, z)
                grads = torch.autograd.grad(out.sum() + y.sum() + lse_decode.sum(), (q, k, v, z))
                for g, t in zip(grads, (q, k, v, z)):
                    self.assertEqual(g.shape, t.shape)
                    self.assertTrue((g == 0).all())

    def test_second_derivatives_are_an_error(self):
        q, k, v, z = inputs()
        for half, tensors in ((ops.encode, (q, k, v)), (ops.decode, (k, q, z))):
            some = leaves(tensors)
            (g,) = torch.autograd.grad(half(*some)[0].square().sum(), some[:1], create_graph=True)
            with self.assertRaisesRegex(RuntimeError, "cannot be differentiated twice.*float64"):
                g.sum().backward()


class Layouts(TestCase):
    def check(self, q, k, v, z):
        self.assertHalf(ops.encode, dense_encode, (q, k, v))
        self.assertHalf(ops.decode, dense_decode, (k, q, z))

    def test_heads_major_and_channels_apart(self):
        q, k, v, z = inputs()
        self.check(q, k.contiguous(), v.contiguous(), z)
        self.check(*(t.transpose(-1, -2).contiguous().transpose(-1, -2) for t in (q, k, v, z)))

    def test_k_and_v_slices_of_one_tensor_and_rows_off_alignment(self):
        q, _, _, z = inputs()
        k, v = torch.randn(2, 33, 2, 3, 8, device=DEVICE).permute(2, 0, 3, 1, 4).unbind(0)
        self.check(q, k, v, z)
        wide = torch.randn(2, 33, 3 * 8 + 1, device=DEVICE)[..., 1:].unflatten(-1, (3, 8)).transpose(1, 2)
        self.check(q, wide, wide, z)

    def test_expanded_latents(self):
        q, k, v, z = inputs()
        for expanded in (q.unsqueeze(0).expand(2, -1, -1, -1), q[:1].expand(3, -1, -1), q[0].expand(2, 3, -1, -1)):
            mine, exact = expanded.detach(), expanded.double()
            for half, dense, i in ((ops.encode, dense_encode, 0), (ops.decode, dense_decode, 1)):
                a, e = mine.clone().requires_grad_(), exact.clone().requires_grad_()
                args = lambda t, dtype: (t, k.to(dtype), v.to(dtype)) if i == 0 else (k.to(dtype), t, z.to(dtype))
                self.assertClose(half(*args(mine, torch.float32))[0], dense(*args(exact, torch.float64))[0])
                half(*args(a, torch.float32))[0].square().sum().backward()
                dense(*args(e, torch.float64))[0].square().sum().backward()
                self.assertClose(a.grad, e.grad)

    def test_z_expanded_over_batch_and_heads(self):
        q, k, _, z = inputs()
        z = z[:1, :1].expand(2, 3, -1, -1)
        self.assertClose(ops.decode(k, q, z)[0], dense_decode(k.double(), q.double(), z.double())[0])

    def test_gradients_of_stride_zero_and_of_other_strides(self):
        q, k, v, z = inputs()
        for half, dense, tensors in ((ops.encode, dense_encode, (q, k, v)), (ops.decode, dense_decode, (k, q, z))):
            for loss in (
                lambda out, lse: out.sum() + lse.sum(),
                lambda out, lse: out[..., ::2].square().sum() + lse[:, ::2].sum(),
                lambda out, lse: (out.transpose(1, 2).contiguous() ** 2).sum() + (lse.transpose(1, 2).contiguous() ** 2).sum(),
            ):
                mine, exact = leaves(tensors), leaves(tensors, torch.float64)
                loss(*half(*mine)).backward()
                loss(*dense(*exact)).backward()
                for a, e in zip(mine, exact):
                    self.assertClose(a.grad, e.grad, tolerance=1e-4)

    def test_more_heads_than_a_grid_has_rows(self):
        q, k, v, z = inputs(b=2, h=35000, m=4, n=2, d=4, shared=False)
        self.check(q, k, v, z)


class Merge(TestCase):
    def parts(self, sizes=(5, 0, 17, 1, 10), dtype=torch.float32):
        q, k, v, _ = inputs(n=sum(sizes), dtype=dtype)
        zs, lses = zip(*(ops.encode(q, kp, vp, 0.7) for kp, vp in zip(k.split(sizes, 2), v.split(sizes, 2))))
        return (q, k, v), torch.stack(zs), torch.stack(lses)

    def test_parts_make_the_whole(self):
        for dtype in (torch.float32, torch.bfloat16, torch.float64):
            (q, k, v), zs, lses = self.parts(dtype=dtype)
            for a, e in zip(ops.merge(zs, lses), dense_encode(q.double(), k.double(), v.double(), 0.7)):
                self.assertClose(a, e, dtype=dtype)

    def test_gradients_go_through_parts(self):
        sizes = [5, 0, 17, 1, 10]
        q, k, v, _ = inputs(n=sum(sizes))
        mine, exact = leaves((q, k, v)), leaves((q, k, v), torch.float64)
        parts = [ops.encode(mine[0], kp, vp, 0.7) for kp, vp in zip(mine[1].split(sizes, 2), mine[2].split(sizes, 2))]
        results, expected = ops.merge(*(torch.stack(t) for t in zip(*parts))), dense_encode(*exact, 0.7)
        for z, lse in (results, expected):
            (z.square().sum() + lse.square().sum()).backward()
        for a, e in zip(mine, exact):
            self.assertClose(a.grad, e.grad, tolerance=1e-4)

    def test_nothing_but_empty_parts(self):
        zs = torch.zeros(3, 2, 3, 4, 8, requires_grad=True)
        lses = torch.full((3, 2, 3, 4), float("-inf"), requires_grad=True)
        z, lse = ops.merge(zs, lses)
        self.assertTrue((z == 0).all() and torch.isneginf(lse).all())
        for g in torch.autograd.grad(z.sum() + lse.sum(), (zs, lses)):
            self.assertTrue((g == 0).all())

    def test_far_apart_and_not_finite(self):
        zs = torch.ones(2, 1, 1, 1, 4) * torch.tensor([1.0, 2.0]).view(2, 1, 1, 1, 1)
        for lses, expected in (([-3000.0, -2000.0], 2.0), ([500.0, 400.0], 1.0), ([float("-inf"), -1000.0], 2.0)):
            lses = torch.tensor(lses).view(2, 1, 1, 1).requires_grad_()
            z, lse = ops.merge(zs, lses)
            self.assertTrue((z == expected).all() and lse == lses.max())
            (grad,) = torch.autograd.grad(lse.sum() + z.sum(), lses)
            self.assertTrue(grad.isfinite().all())
        zs[0] = float("nan")  # of a part that counts for nothing
        self.assertTrue((ops.merge(zs, torch.tensor([float("-inf"), 1.0]).view(2, 1, 1, 1))[0] == 2).all())
        nan = torch.tensor([float("nan"), 0.0]).view(2, 1, 1, 1)
        self.assertTrue(all(t.isnan().all() for t in ops.merge(zs, nan)))


class Double(TestCase):
    """float64 has no kernels but the same meaning."""

    def small(self, shared=True):
        return inputs(b=2, h=2, m=3, n=5, d=4, dtype=torch.float64, shared=shared)

    def test_gradcheck(self):
        for shared in (True, False):
            q, k, v, z = (t.requires_grad_() for t in self.small(shared))
            check = torch.autograd.gradcheck
            self.assertTrue(check(lambda *t: ops.mixer(*t, 0.7), (q, k, v)))
            self.assertTrue(check(lambda *t: ops.mixer_forward(*t, 0.7), (q, k, v)))
            self.assertTrue(check(lambda *t: ops.encode(*t, 0.7), (q, k, v)))
            self.assertTrue(check(lambda *t: ops.decode(*t, 0.7), (k, q, z)))
            zs, lses = torch.randn(3, 2, 2, 3, 4, dtype=torch.float64), torch.randn(3, 2, 2, 3, dtype=torch.float64)
            self.assertTrue(check(ops.merge, (zs.requires_grad_(), lses.requires_grad_())))

    def test_gradgradcheck(self):
        q, k, v, z = (t.requires_grad_() for t in self.small())
        self.assertTrue(torch.autograd.gradgradcheck(lambda *t: ops.mixer(*t, 0.7), (q, k, v)))
        self.assertTrue(torch.autograd.gradgradcheck(lambda *t: ops.decode(*t, 0.7), (k, q, z)))

    def test_backward_ops(self):
        for shared in (True, False):
            q, k, v, _ = self.small(shared)
            exact = leaves((q, k, v))
            y = ops.mixer(*exact, 0.7)
            grad = torch.randn_like(y)
            y.backward(grad)
            mine = ops.mixer_backward(grad, q, k, v, *ops.mixer_forward(q, k, v, 0.7), 0.7)
            z, lse = ops.encode(q, k, v, 0.7)
            y, lse_decode = ops.decode(k, q, z, 0.7)
            zeros = torch.zeros_like
            dk, dq, dz = ops.decode_backward(grad, zeros(lse_decode), k, q, z, y, lse_decode, 0.7)
            eq, ek, dv = ops.encode_backward(dz, zeros(lse), q, k, v, z, lse, 0.7)
            for a, b, e in zip(mine, (dq + eq, dk + ek, dv), exact):
                self.assertClose(a, e.grad)
                self.assertClose(b, e.grad)


class Sharded(TestCase):
    """A mixer whose tokens are in 7 places, with one reduction forward and one for the latents backward (and q's gradient)."""

    def test_seven_uneven_chunks(self):
        sizes = [100, 1, 0, 257, 64, 33, 90]
        for dtype in (torch.float32, torch.bfloat16, torch.float64):
            for shared in (True, False):
                with self.subTest(dtype=dtype, shared=shared):
                    self.check(sizes, dtype, shared)

    def check(self, sizes, dtype, shared, scale=0.7):
        q, k, v, _ = inputs(n=sum(sizes), dtype=dtype, shared=shared)
        grad = tokens(*k.shape, dtype, DEVICE, torch.Generator(DEVICE).manual_seed(3))
        whole = leaves((q, k, v))
        y_whole = ops.mixer(*whole, scale)
        y_whole.backward(grad)
        exact = leaves((q, k, v), torch.float64)
        y_exact = flarec_test.dense(*exact, scale)[0]
        y_exact.backward(grad.double())

        ks, vs, grads = (t.split(sizes, 2) for t in (k, v, grad))
        z, lse = ops.merge(*(torch.stack(t) for t in zip(*(ops.encode(q, a, b, scale) for a, b in zip(ks, vs)))))
        ys, lses = zip(*(ops.decode(a, q, z, scale) for a in ks))
        dzs, deltas = zip(*(ops.mixer_backward_latents(g, q, a, y, l, scale) for g, a, y, l in zip(grads, ks, ys, lses)))
        dz = torch.stack(dzs).sum(0)
        _, z_whole, lse_whole, lse_decode_whole = ops.mixer_forward(q, k, v, scale)
        self.assertClose(z, z_whole, "z", dtype=dtype)
        self.assertClose(lse, lse_whole, "lse_encode", dtype=dtype)
        self.assertClose(torch.cat(lses, 2), lse_decode_whole, "lse_decode", dtype=dtype)
        parts = [ops.mixer_backward_joint(g, q, a, b, z, dz, lse, l, t, scale) for g, a, b, l, t in zip(grads, ks, vs, lses, deltas)]
        dq, dk, dv = torch.stack([p[0] for p in parts]).sum(0), torch.cat([p[1] for p in parts], 2), torch.cat([p[2] for p in parts], 2)
        self.assertEqual((dz.dtype, dq.dtype, dk.dtype), (z.dtype, z.dtype, dtype))
        # As far from the exact values as the whole is, but for rounding.
        for name, mine, all_at_once, e in (
            ("y", torch.cat(ys, 2), y_whole, y_exact),
            ("dq", dq, whole[0].grad, exact[0].grad),
            ("dk", dk, whole[1].grad, exact[1].grad),
            ("dv", dv, whole[2].grad, exact[2].grad),
        ):
            rms = lambda t: (t.double() - e).square().mean().sqrt().item()
            unit = torch.finfo(dtype).eps * e.square().mean().sqrt().item()
            if dtype != torch.float64:  # whose exact values are its own
                self.assertLessEqual(rms(mine), 1.3 * rms(all_at_once) + unit, name)
            self.assertClose(mine, all_at_once, name, dtype=dtype)


class Autocast(TestCase):
    def test_mixed_dtypes_as_flare_hands_them_over(self):
        q, k, v, z = inputs()
        half = torch.bfloat16
        with torch.autocast(DEVICE, dtype=half):
            for args in ((q, k.to(half), v.to(half)), (q, k, v.to(half)), (q, k, v)):
                expected = ops.mixer(*(t.to(half) for t in (q, k, v)))
                self.assertEqual(ops.mixer(*args).dtype, half)
                self.assertTrue(torch.equal(ops.mixer(*args), expected))
                self.assertTrue(torch.equal(ops.mixer_forward(*args)[0], expected))
                self.assertEqual([t.dtype for t in ops.encode(*args)], 2 * [torch.float32])
            y, lse = ops.decode(k, q, z.to(half))
            self.assertEqual((y.dtype, lse.dtype), (half, torch.float32))
            self.assertTrue(torch.equal(y, ops.decode(k.to(half), q.to(half), z.to(half).float())[0]))

    def test_stages_of_the_backward_pass(self):
        q, k, v, z = inputs()
        half = torch.bfloat16
        y, z, le, ld = ops.mixer_forward(*(t.to(half) for t in (q, k, v)))
        g = torch.randn_like(y)
        expected = ops.mixer_backward_latents(g, q.to(half), k.to(half), y, ld)
        with torch.autocast(DEVICE, dtype=half):
            dz, delta = ops.mixer_backward_latents(g.float(), q, k, y, ld)
            grads = ops.mixer_backward_joint(g.float(), q, k, v, z, dz, le, ld, delta)
        self.assertTrue(torch.equal(dz, expected[0]) and torch.equal(delta, expected[1]))
        for a, b in zip(grads, ops.mixer_backward_joint(g, q.to(half), k.to(half), v.to(half), z, dz, le, ld, delta)):
            self.assertTrue(torch.equal(a, b))

    def test_gradients_come_in_the_dtypes_of_the_inputs(self):
        q, k, v, z = inputs()
        q, k, z = leaves((q, k, z))
        v = v.bfloat16().requires_grad_()
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            y = ops.mixer(q, k, v)
            w = ops.decode(k, q, z)[0]
        (y.float().square().sum() + w.float().square().sum()).backward()
        self.assertEqual([t.grad.dtype for t in (q, k, v, z)], [torch.float32, torch.float32, torch.bfloat16, torch.float32])
        exact = leaves((q, k, v, z), torch.float64)
        e = flarec_test.dense(*exact[:3])[0].square().sum() + dense_decode(exact[1], exact[0], exact[3])[0].square().sum()
        e.backward()
        for a, b in zip((q, k, v, z), exact):
            self.assertClose(a.grad, b.grad, tolerance=5e-2)

    def test_float16(self):
        q, k, v, _ = inputs()
        with torch.autocast(DEVICE, dtype=torch.float16):
            y = ops.mixer(q, k, v)
        self.assertEqual(y.dtype, torch.float16)
        self.assertClose(y, flarec_test.dense(q.double(), k.double(), v.double())[0], tolerance=5e-3)

    def test_float64_is_left_alone(self):
        q, k, v, _ = inputs(dtype=torch.float64)
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            self.assertEqual(ops.mixer(q, k, v).dtype, torch.float64)


class Messages(TestCase):
    def check(self, pattern, op, *args):
        with self.assertRaisesRegex(RuntimeError, pattern):
            op(*args)

    def test_mixed_dtypes(self):
        q, k, v, z = inputs()
        self.check(r"k has dtype BFloat16 but q has Float; all must have the same: convert with q.to\(k.dtype\), or call it under torch.autocast", ops.encode, q, k.bfloat16(), v.bfloat16())
        self.check("k has dtype Float but q has Double", ops.decode, k, q.double(), z)
        self.check(r"z has dtype BFloat16; expected Float \(float32\), as the ops return it: convert with z.to\(torch.float32\)", ops.decode, k, q, z.bfloat16())

    def test_each_tensor_of_each_op_is_looked_at(self):
        q, k, v, z = inputs()
        y, per_token = ops.decode(k, q, z)
        per_latent = z[..., 0]
        calls = {
            "mixer": (q, k, v),
            "mixer_forward": (q, k, v),
            "mixer_backward": (y, q, k, v, y, z, per_latent, per_token),
            "encode": (q, k, v),
            "encode_backward": (z, per_latent, q, k, v, z, per_latent),
            "decode": (k, q, z),
            "decode_backward": (y, per_token, k, q, z, y, per_token),
            "merge": (torch.stack([z, z]), torch.stack([per_latent, per_latent])),
            "mixer_backward_latents": (y, q, k, y, per_token),
            "mixer_backward_joint": (y, q, k, v, z, z, per_latent, per_token, per_token),
        }
        changes = (
            (lambda t: t.to("meta"), "is on .*; move all tensors to one device"),
            (lambda t: t.int(), r"has (dtype )?Int.*convert with .*\.to\("),
            (lambda t: t[None, None], r"expected \["),
            (lambda t: t[..., 1:], r"must (have|be) the same|expected \["),
        )
        for name, given in calls.items():
            getattr(ops, name)(*given)
            for i, (change, says) in itertools.product(range(len(given)), changes):
                if (name, i) == ("merge", 0) and says is changes[-1][1]:
                    continue  # any number of channels will do
                with self.subTest(op=name, argument=i, says=says):
                    self.check(f"flarec: .*{says}", getattr(ops, name), *given[:i], change(given[i]), *given[i + 1 :])

    def test_shapes(self):
        q, k, v, z = inputs()
        self.check(r"z has shape \[2, 3, 15, 8\]; expected \[B, H, M, D\] = \[2, 3, 16, 8\]", ops.decode, k, q, z[:, :, 1:])
        self.check(r"k \[2, 3, 33, 8\] and v \[2, 3, 32, 8\] must have the same shape", ops.encode, q, k, v[:, :, 1:])
        self.check(r"z_parts \[2, 3, 16, 8\] has rank 4; expected \[S, B, H, M, D\]: torch.stack", ops.merge, z, z)
        self.check(r"lse_parts \[1, 2, 3, 16\] does not go with z_parts \[2, 2, 3, 16, 8\]", ops.merge, torch.stack([z, z]), z[None, ..., 0])
        self.check("has no parts; give one", ops.merge, z[None][:0], z[None, ..., 0][:0])
        self.check("z_parts has dtype BFloat16; expected Float", ops.merge, z[None].bfloat16(), z[None, ..., 0])
        y, lse = ops.decode(k, q, z)
        self.check(r"lse_decode has shape \[2, 3, 32\]; expected \[B, H, N\] = \[2, 3, 33\]", ops.mixer_backward_latents, y, q, k, y, lse[..., 1:])
        self.check("grad_y has BFloat16", ops.mixer_backward_latents, y.bfloat16(), q, k, y, lse)
        self.check("dz has dtype BFloat16; expected Float", ops.mixer_backward_joint, y, q, k, v, z, z.bfloat16(), z[..., 0], lse, lse)


if __name__ == "__main__":
    unittest.main()
