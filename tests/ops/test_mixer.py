#!/usr/bin/env python3
"""The ops in eager mode: values, gradients, layouts, edge cases, messages. Accuracy proper is accuracy.py's business."""

import ctypes
import os
import subprocess
import sys
import tempfile
import threading
import unittest

import torch

import flarec_test
from flarec_test import dense, tokens

ops = flarec_test.load()
DEVICE = os.environ.get("FLAREC_TEST_DEVICE", "cpu")


def inputs(b=2, h=3, m=5, n=33, d=8, dtype=torch.float32, shared=True, seed=0, requires_grad=False):
    generator = torch.Generator(DEVICE).manual_seed(seed)
    q = torch.randn(*((h, m, d) if shared else (b, h, m, d)), device=DEVICE, generator=generator).to(dtype)
    k, v = (tokens(b, h, n, d, dtype, DEVICE, generator) for _ in range(2))
    return tuple(t.detach().requires_grad_(requires_grad) for t in (q, k, v))


class TestCase(unittest.TestCase):
    def assertClose(self, actual, expected, name="", tolerance=None):
        if tolerance is None:
            tolerance = {torch.bfloat16: 2e-2, torch.float16: 3e-3}.get(actual.dtype, 2e-5)
        self.assertEqual(actual.shape, expected.shape, name)
        scale = expected.double().abs().max().item() if expected.numel() else 1
        error = (actual.double() - expected.double()).abs().max().item() if expected.numel() else 0
        self.assertLessEqual(error, tolerance * max(scale, 1e-3), name)

    def assertGradients(self, q, k, v, scale=1.0, mix=None, tolerance=None):
        """The op and its gradients against the dense formula in float64."""
        mix = mix or ops.mixer
        mine = [t.detach().clone(memory_format=torch.preserve_format).requires_grad_() for t in (q, k, v)]
        exact = [t.detach().double().requires_grad_() for t in (q, k, v)]
        y, y_exact = mix(*mine, scale), dense(*exact, scale)[0]
        self.assertClose(y, y_exact, "y", tolerance)
        g = torch.randn(y.shape, device=y.device, generator=torch.Generator(y.device).manual_seed(9)).to(y.dtype)
        y.backward(g)
        y_exact.backward(g.double())
        for name, a, e in zip("qkv", mine, exact):
            self.assertClose(a.grad, e.grad, f"grad_{name}", tolerance)
            self.assertEqual(a.grad.dtype, a.dtype)


class Values(TestCase):
    def test_forward_returns_what_the_formulas_say(self):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            q, k, v = inputs(dtype=dtype)
            results = ops.mixer_forward(q, k, v, 0.7)
            expected = dense(q.double(), k.double(), v.double(), 0.7)
            for name, actual, e in zip(("y", "z", "lse_encode", "lse_decode"), results, expected):
                self.assertClose(actual, e, name)
            self.assertEqual([t.dtype for t in results], [dtype] + 3 * [torch.float32])

    def test_mixer_is_the_first_result_of_mixer_forward(self):
        q, k, v = inputs()
        self.assertTrue(torch.equal(ops.mixer(q, k, v, 0.5), ops.mixer_forward(q, k, v, 0.5)[0]))

    def test_scale_defaults_to_one(self):
        q, k, v = inputs()
        self.assertTrue(torch.equal(ops.mixer(q, k, v), ops.mixer(q, k, v, 1.0)))

    def test_y_lies_in_memory_as_the_next_linear_reads_it(self):
        q, k, v = inputs(b=2, h=3, n=33, d=8)
        self.assertEqual(ops.mixer(q, k, v).stride(), (33 * 24, 8, 24, 1))

    def test_bits_do_not_depend_on_the_number_of_threads(self):
        q, k, v = inputs(n=1500, m=40, requires_grad=True)
        results, threads = [], torch.get_num_threads()
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            y = ops.mixer(q, k, v)
            results.append((y, *torch.autograd.grad(y.sum(), (q, k, v))))
        torch.set_num_threads(threads)
        for other in results[1:]:
            for a, b in zip(results[0], other):
                self.assertTrue(torch.equal(a, b))

    def test_a_hundred_runs_give_the_same_bits(self):
        for dtype in (torch.float32, torch.bfloat16):
            q, k, v = inputs(n=300, m=20, dtype=dtype, requires_grad=True)
            g = torch.randn_like(k)

            def run():
                y, *saved = ops.mixer_forward(q, k, v, 0.5)
                return (y, *saved, *torch.autograd.grad(y, (q, k, v), g))

            first = run()
            for _ in range(100):
                for a, b in zip(first, run()):
                    self.assertTrue(torch.equal(a, b))

    def test_many_threads_at_once(self):
        q, k, v = inputs(n=300)
        expected, wrong = ops.mixer(q, k, v), []

        def work():
            for _ in range(20):
                if not torch.equal(ops.mixer(q, k, v), expected):
                    wrong.append(1)

        pool = [threading.Thread(target=work) for _ in range(4)]
        for t in pool:
            t.start()
        for t in pool:
            t.join()
        self.assertFalse(wrong)


class Gradients(TestCase):
    def test_shared_latents(self):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            with self.subTest(dtype=dtype):
                self.assertGradients(*inputs(dtype=dtype, n=65))

    def test_latents_of_each_batch(self):
        self.assertGradients(*inputs(shared=False))

    def test_every_head_dim(self):
        for d in (1, 4, 5, 8, 16, 24, 32, 64, 128):
            with self.subTest(d=d):
                self.assertGradients(*inputs(d=d, m=17))

    def test_many_latents(self):
        for m in (512, 600, 1000):
            with self.subTest(m=m):
                self.assertGradients(*inputs(b=1, h=2, m=m, n=65))

    def test_scales(self):
        for scale in (0.25, -1.5, 0.0):
            with self.subTest(scale=scale):
                self.assertGradients(*inputs(), scale)

    def test_expanded_latents_sum_over_the_batch(self):
        q, k, v = inputs(b=3)
        self.assertGradients(q, k, v, mix=lambda q, k, v, s: ops.mixer(q.unsqueeze(0).expand(3, -1, -1, -1), k, v, s))

    def test_only_those_asked_for(self):
        exact = [t.double().requires_grad_() for t in inputs()]
        dense(*exact)[0].sum().backward()
        for wanted in range(1, 8):
            tensors = [t.requires_grad_(bool(wanted >> i & 1)) for i, t in enumerate(inputs())]
            ops.mixer(*tensors).sum().backward()
            for i, t in enumerate(tensors):
                with self.subTest(wanted=wanted, of="qkv"[i]):
                    if wanted >> i & 1:
                        self.assertClose(t.grad, exact[i].grad)
                    else:
                        self.assertIsNone(t.grad)

    def test_autograd_grad_computes_only_what_it_is_asked(self):
        q, k, v = inputs(requires_grad=True)
        (grad_k,) = torch.autograd.grad(ops.mixer(q, k, v).sum(), (k,))
        self.assertClose(grad_k, torch.autograd.grad(dense(q, k, v)[0].sum(), (k,))[0])

    def test_backward_op_leaves_out_what_is_not_wanted(self):
        q, k, v = inputs()
        saved = ops.mixer_forward(q, k, v)
        grads = ops.mixer_backward(torch.ones_like(saved[0]), q, k, v, *saved, 1.0, [False, True, False])
        self.assertEqual([g is None for g in grads], [True, False, True])
        self.assertEqual(ops.mixer_backward(torch.ones_like(saved[0]), q, k, v, *saved, 1.0, [False] * 3), (None,) * 3)

    def test_gradients_of_tokens_are_tokens_major(self):
        q, k, v = inputs(b=2, h=3, n=33, d=8)
        saved = ops.mixer_forward(q, k, v)
        grads = ops.mixer_backward(torch.ones_like(saved[0]), q, k, v, *saved)
        self.assertEqual(grads[0].shape, (3, 5, 8))
        for g in grads[1:]:
            self.assertEqual(g.stride(), (33 * 24, 8, 24, 1))

    def test_gradcheck_by_differences(self):
        """Along one direction, in float32: the op has no float64."""
        q, k, v = inputs(n=9)
        direction = [torch.randn_like(t) for t in (q, k, v)]
        leaves = [t.requires_grad_() for t in (q, k, v)]
        weight = torch.randn_like(ops.mixer(q, k, v).detach())
        grads = torch.autograd.grad((ops.mixer(*leaves) * weight).sum(), leaves)
        slope = sum((g * d).sum() for g, d in zip(grads, direction)).item()
        eps = 1e-2

        def at(sign):
            with torch.no_grad():
                return (ops.mixer(*(t + sign * eps * d for t, d in zip(leaves, direction))) * weight).sum().item()

        self.assertAlmostEqual((at(1) - at(-1)) / (2 * eps), slope, delta=2e-2 * max(1, abs(slope)))

    def test_second_derivatives_are_an_error(self):
        q, k, v = inputs(requires_grad=True)
        (g,) = torch.autograd.grad(ops.mixer(q, k, v).square().sum(), (k,), create_graph=True)
        with self.assertRaisesRegex(RuntimeError, "cannot be differentiated twice.*scaled_dot_product_attention"):
            g.sum().backward()

    def test_gradient_penalty_through_other_ops_still_works(self):
        """create_graph alone is no error: only differentiating our backward is."""
        q, k, v = inputs(requires_grad=True)
        (g,) = torch.autograd.grad(ops.mixer(q, k, v).sum(), (v,), create_graph=True)
        self.assertTrue(g.requires_grad)

    def test_gradients_through_z_are_an_error(self):
        q, k, v = inputs(requires_grad=True)
        y, z, _, _ = ops.mixer_forward(q, k, v)
        with self.assertRaisesRegex(RuntimeError, "gradients for y only; detach"):
            (y.sum() + z.sum()).backward()
        y, z, _, _ = ops.mixer_forward(q, k, v)
        y.sum().backward()

    def test_forward_mode_is_an_error(self):
        q, k, v = inputs()
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(k, torch.ones_like(k))
            with self.assertRaisesRegex(RuntimeError, "jvp is not implemented"):
                ops.mixer(q, dual, v)

    def test_inputs_changed_in_place_are_noticed(self):
        q, k, v = inputs(requires_grad=True)
        y = ops.mixer(q, k, v)
        with torch.no_grad():
            v.zero_()
        with self.assertRaisesRegex(RuntimeError, "modified by an inplace operation"):
            y.sum().backward()

    def test_inference_mode_and_no_grad(self):
        q, k, v = inputs(requires_grad=True)
        expected = ops.mixer(q, k, v)
        with torch.inference_mode():
            y = ops.mixer(q, k, v)
            self.assertTrue(y.is_inference())
        self.assertTrue(torch.equal(y, expected))
        with torch.no_grad():
            self.assertFalse(ops.mixer(q, k, v).requires_grad)

    def test_checkpointing(self):
        q, k, v = inputs(requires_grad=True)
        y = torch.utils.checkpoint.checkpoint(ops.mixer, q, k, v, use_reentrant=False)
        for a, b in zip(torch.autograd.grad(y.sum(), (q, k, v)), torch.autograd.grad(ops.mixer(q, k, v).sum(), (q, k, v))):
            self.assertTrue(torch.equal(a, b))


class Layouts(TestCase):
    """Every layout must give what contiguous copies give."""

    def check(self, q, k, v, grad=None):
        self.assertGradients(q, k, v)
        leaves = [t.detach().requires_grad_() for t in (q, k, v)]
        y = ops.mixer(*leaves)
        if grad is not None:
            grads = torch.autograd.grad(y, leaves, grad)
            copies = [t.detach().contiguous().requires_grad_() for t in (q, k, v)]
            expected = torch.autograd.grad(ops.mixer(*copies), copies, grad.contiguous())
            for a, e in zip(grads, expected):
                self.assertClose(a, e)

    def test_heads_major(self):
        q, k, v = inputs()
        self.check(q, k.contiguous(), v.contiguous())

    def test_k_and_v_slices_of_one_tensor(self):
        q = inputs(b=2, h=3, d=8)[0]
        packed = torch.randn(2, 33, 2, 3, 8, device=DEVICE)
        k, v = packed.permute(2, 0, 3, 1, 4).unbind(0)
        self.check(q, k, v)

    def test_k_and_v_one_tensor(self):
        q, k, _ = inputs()
        leaves = [q.requires_grad_(), k.requires_grad_()]
        grads = torch.autograd.grad(ops.mixer(q, k, k).sum(), leaves)
        for a, e in zip(grads, torch.autograd.grad(dense(q, k, k)[0].sum(), leaves)):
            self.assertClose(a, e)

    def test_rows_off_alignment(self):
        q = inputs(d=8)[0]
        wide = torch.randn(2, 33, 3 * 8 + 1, device=DEVICE)
        k = wide[..., 1:].unflatten(-1, (3, 8)).transpose(1, 2)
        v = torch.randn(2, 33, 3, 9, device=DEVICE)[..., :8].transpose(1, 2)
        self.check(q, k, v)

    def test_channels_not_next_to_one_another(self):
        q, k, v = inputs()
        apart = lambda t: t.transpose(-1, -2).contiguous().transpose(-1, -2)
        self.assertNotEqual(apart(k).stride(-1), 1)
        self.check(apart(q), apart(k), apart(v))

    def test_every_other_token_and_expanded_heads(self):
        q, k, v = inputs(n=66)
        self.check(q[:1].expand(3, -1, -1), k[:, :, ::2], v[:, :, 1::2])
        self.check(q, k[:, :1].expand(-1, 3, -1, -1), v[:1].expand(2, -1, -1, -1))

    def test_gradient_of_a_sum_has_stride_zero(self):
        q, k, v = inputs()
        self.check(q, k, v, torch.ones((), device=DEVICE).expand(2, 3, 33, 8))

    def test_gradient_heads_major(self):
        self.check(*inputs(), torch.randn(2, 3, 33, 8, device=DEVICE))

    @unittest.skipIf("double" in os.environ.get("FLAREC_COMPILER_LIBRARY", ""), "of real kernels: the stand-in's would need 20 GB")
    @unittest.skipUnless(DEVICE == "cpu", "no GPU has memory that is there where it is touched only; tests/ptx/test_offsets.py simulates it")
    def test_offsets_beyond_32_bits(self):
        """Batches, heads and rows gigabytes apart, in a sparse file, give the bits of compact ones."""
        with tempfile.NamedTemporaryFile() as file:
            file.truncate(4 << 33)
            memory, places = torch.from_file(file.name, shared=True, size=1 << 33), iter(range(0, 1 << 20, 4096))

            def far(t):
                strides = (2**32 + 5, 2**31 + 3, 2**27 + 1, 1)
                return memory.as_strided(t.shape, strides[-t.dim() :] if t.dim() == 4 else strides[:3], next(places)).copy_(t)

            q, k, v = inputs(b=2, h=2, n=9, shared=False)
            near = ops.mixer_forward(q, k, v, 0.7)
            away = ops.mixer_forward(far(q), far(k), far(v), 0.7)
            grad = torch.randn_like(near[0])
            near += ops.mixer_backward(grad, q, k, v, *near, 0.7)
            away += ops.mixer_backward(far(grad), far(q), far(k), far(v), *(far(t) for t in away), 0.7)
            for a, b in zip(near, away):
                self.assertTrue(torch.equal(a, b))

    def test_inputs_are_left_alone(self):
        q, k, v = inputs(requires_grad=True)
        before = [t.detach().clone() for t in (q, k, v)]
        ops.mixer(q, k, v).sum().backward()
        for a, b in zip(before, (q, k, v)):
            self.assertTrue(torch.equal(a, b))


@unittest.skipUnless("double" in os.environ.get("FLAREC_COMPILER_LIBRARY", ""), "only the stand-in counts")
class Compilations(TestCase):
    def count(self):
        return ctypes.CDLL(os.environ["FLAREC_COMPILER_LIBRARY"]).flarec_double_calls()

    def test_training_compiles_once_and_new_shapes_never(self):
        before = self.count()
        for b, h, n in ((2, 3, 33), (1, 4, 50), (3, 1, 1)):
            q, k, v = inputs(b=b, h=h, n=n, m=29, requires_grad=True)
            ops.mixer(q, k, v, 0.5).sum().backward()
            ops.mixer(q, k.contiguous(), v.contiguous()).sum().backward()
        self.assertEqual(self.count() - before, 1)
        with torch.no_grad():
            ops.mixer(q, k, v)
        self.assertEqual(self.count() - before, 2)

    def test_no_tokens_need_no_kernels(self):
        before = self.count()
        ops.mixer(*inputs(n=0, m=31))
        self.assertEqual(self.count(), before)


class Edges(TestCase):
    def test_no_tokens(self):
        for shared in (True, False):
            q, k, v = inputs(n=0, shared=shared, requires_grad=True)
            y, z, lse_encode, lse_decode = ops.mixer_forward(q, k, v)
            self.assertEqual((y.shape, lse_decode.shape), ((2, 3, 0, 8), (2, 3, 0)))
            self.assertTrue((z == 0).all() and torch.isneginf(lse_encode).all())
            grads = torch.autograd.grad(y.sum(), (q, k, v))
            self.assertEqual([g.shape for g in grads], [q.shape, k.shape, v.shape])
            self.assertTrue((grads[0] == 0).all())

    def test_no_batch(self):
        for shared in (True, False):
            q, k, v = inputs(b=0, shared=shared, requires_grad=True)
            y = ops.mixer(q, k, v)
            self.assertEqual(y.shape, (0, 3, 33, 8))
            grads = torch.autograd.grad(y.sum(), (q, k, v))
            self.assertEqual(grads[0].shape, q.shape)
            self.assertTrue((grads[0] == 0).all())

    def test_one_token_and_one_latent(self):
        q, k, v = inputs(n=1)
        self.assertClose(ops.mixer(q, k, v), v)
        self.assertGradients(*inputs(n=2, m=1))

    def test_one_token_has_no_gradient_in_q_and_k(self):
        """Exact zeros by cancellation: compared with the size of what cancels."""
        q, k, v = inputs(n=1, requires_grad=True)
        grads = torch.autograd.grad(ops.mixer(q, k, v).sum(), (q, k, v))
        for g in grads[:2]:
            self.assertLess(g.abs().max(), 1e-4)

    def test_batch_of_one_and_many_heads(self):
        self.assertGradients(*inputs(b=1, h=16))
        self.assertGradients(*inputs(b=5, h=1, shared=False))

    def test_large_scores(self):
        q, k, v = inputs()
        # Scores of some hundreds: their own rounding is what errors are made of.
        self.assertGradients(30 * q, 3 * k, v, tolerance=1e-3)

    def test_tf32_is_of_gpus(self):
        q, k, v = inputs()
        expected = ops.mixer(q, k, v)
        torch.backends.cuda.matmul.allow_tf32 = True
        try:
            result = ops.mixer(q, k, v)
        finally:
            torch.backends.cuda.matmul.allow_tf32 = False
        if DEVICE == "cpu":
            self.assertTrue(torch.equal(result, expected))
        else:
            self.assertFalse(torch.equal(result, expected))
            self.assertClose(result, expected, tolerance=5e-3)

    def test_more_heads_than_a_grid_has_rows(self):
        self.assertGradients(*inputs(b=2, h=33000, m=2, n=3, d=4))

    def test_nan_stays_in_its_head(self):
        q, k, v = inputs()
        k = k.clone()
        k[0, 1, 7, 3] = float("nan")
        y = ops.mixer(q, k, v)
        self.assertTrue(torch.isnan(y[0, 1]).all())
        clean = [(b, h) for b in range(2) for h in range(3) if (b, h) != (0, 1)]
        for b, h in clean:
            self.assertTrue(torch.isfinite(y[b, h]).all())

    def test_meta_tensors(self):
        q, k, v = (t.to("meta") for t in inputs())
        real, meta = ops.mixer_forward(*inputs()), ops.mixer_forward(q, k, v)
        for r, m in zip(real, meta):
            self.assertEqual((r.shape, r.stride(), r.dtype), (m.shape, m.stride(), m.dtype))
            self.assertTrue(m.is_meta)


class Messages(TestCase):
    """Each says what was given, what is allowed and what to do."""

    def check(self, pattern, *args):
        with self.assertRaisesRegex(RuntimeError, pattern):
            ops.mixer(*args)

    def test_rank(self):
        q, k, v = inputs()
        self.check(r"q \[5, 8\] has rank 2; expected \[H, M, D\].*\[B, H, M, D\]", q[0], k, v)
        self.check(r"k \[3, 33, 8\] has rank 3; expected \[B, H, N, D\].*unflatten", q, k[0], v)
        self.check(r"v \[3, 33, 8\] has rank 3", q, k, v[0])

    def test_shape(self):
        q, k, v = inputs()
        self.check(r"k \[2, 3, 33, 8\] and v \[2, 3, 32, 8\] must have the same shape", q, k, v[:, :, 1:])
        self.check(r"q \[2, 5, 8\] has 2 heads but k \[2, 3, 33, 8\] has 3", q[:2], k, v)
        self.check(r"q \[3, 5, 4\] has head dim 4 but k \[2, 3, 33, 8\] has 8", q[..., :4], k, v)
        self.check(r"q \[4, 3, 5, 8\] has batch 4 but k \[2, 3, 33, 8\] has 2; give q as \[H, M, D\]", q.expand(4, 3, 5, 8), k, v)

    def test_head_dim(self):
        for d in (129, 256):
            self.check(rf"head dim {d} .*supported are 1 to 128: choose heads", *inputs(d=d))

    def test_latents(self):
        self.check("4097 latents .*supported are 1 to 4096", *inputs(m=4097))
        self.check("0 latents .*supported are 1 to 4096", *inputs(m=0))

    def test_dtype(self):
        for dtype, name in ((torch.int32, "Int"), (torch.complex64, "ComplexFloat")):
            tensors = [t.to(dtype) for t in inputs()]
            self.check(rf"k has dtype {name}; supported are Float \(float32\), BFloat16, Half \(float16\) and, slowly, Double \(float64\): convert with", *tensors)
        q, k, v = inputs()
        self.check(r"k has dtype Float but v has BFloat16; all must have the same: convert with v.to\(k.dtype\)", q, k, v.bfloat16())
        self.check("k has dtype BFloat16 but q has Float", q, k.bfloat16(), v.bfloat16())

    def test_device(self):
        q, k, v = inputs()
        self.check(f"q is on {DEVICE}.* but v is on meta; move all tensors to one device", q, k, v.to("meta"))

    def test_backward(self):
        q, k, v = inputs()
        y, z, le, ld = ops.mixer_forward(q, k, v)
        g = torch.ones_like(y)

        def check(pattern, *args):
            with self.assertRaisesRegex(RuntimeError, pattern):
                ops.mixer_backward(*args)

        check(r"grad_y has shape \[2, 3, 32, 8\]; expected \[B, H, N, D\] = \[2, 3, 33, 8\]", g[:, :, 1:], q, k, v, y, z, le, ld)
        check(r"z has shape \[2, 3, 4, 8\]; expected \[B, H, M, D\]", g, q, k, v, y, z[:, :, 1:], le, ld)
        check(r"lse_encode has shape \[2, 3, 33\]; expected \[B, H, M\] = \[2, 3, 5\]", g, q, k, v, y, z, ld, ld)
        check(r"lse_decode has shape \[2, 3, 5\]; expected \[B, H, N\]", g, q, k, v, y, z, le, le)
        check("z has dtype BFloat16; expected Float", g, q, k, v, y, z.bfloat16(), le, ld)
        check("k has dtype Float but grad_y has BFloat16", g.bfloat16(), q, k, v, y, z, le, ld)

    def test_no_compiler(self):
        """What a machine without compiler and cache says."""
        code = "import flarec_test, torch; ops = flarec_test.load(); ops.mixer(torch.ones(1, 3, 4), torch.ones(1, 1, 2, 4), torch.ones(1, 1, 2, 4))"
        environment = dict(os.environ, FLAREC_COMPILER_LIBRARY="/nowhere.so", FLAREC_CACHE_DIR="/tmp/flarec-none", PYTHONPATH=os.path.dirname(__file__))
        run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        self.assertNotEqual(run.returncode, 0)
        self.assertRegex(run.stderr, "RuntimeError: flarec: .*compiler")


@unittest.skipUnless(torch.cuda.is_available(), "no CUDA device")
class Cuda(TestCase):
    def tensors(self, device="cuda"):
        return [t.to(device) for t in inputs()]

    def test_agrees_with_the_host(self):
        for a, b in zip(ops.mixer_forward(*self.tensors("cpu")), ops.mixer_forward(*self.tensors())):
            self.assertClose(b.cpu(), a, tolerance=1e-4)

    def test_current_stream(self):
        q, k, v = self.tensors()
        expected = ops.mixer(q, k, v)
        torch.cuda.synchronize()
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(50_000_000)
            late = k + 0  # ready only after the sleep
            y = ops.mixer(q, late, v)
        stream.synchronize()
        self.assertTrue(torch.equal(y, expected))

    def test_graph_capture(self):
        q, k, v = self.tensors()
        expected = ops.mixer(q, k, v)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = ops.mixer(q, k, v)
        k.zero_()
        graph.replay()
        zero = y.clone()
        k.copy_(inputs()[1])
        graph.replay()
        self.assertTrue(torch.equal(y, expected))
        self.assertFalse(torch.equal(zero, expected))

    @unittest.skipUnless(torch.cuda.device_count() > 1, "one CUDA device")
    def test_second_device_while_the_first_is_current(self):
        tensors = [t.requires_grad_() for t in self.tensors("cuda:1")]
        y = ops.mixer(*tensors)
        y.sum().backward()
        self.assertEqual(y.device.index, 1)
        self.assertEqual(torch.cuda.current_device(), 0)
        self.assertClose(y.cpu(), ops.mixer(*self.tensors("cuda:0")).cpu())

    def test_tensors_on_two_devices(self):
        q, k, v = self.tensors()
        with self.assertRaisesRegex(RuntimeError, "q is on cpu but k is on cuda:0"):
            ops.mixer(q.cpu(), k, v)


if __name__ == "__main__":
    unittest.main()
