#!/usr/bin/env python3
"""The ops under PyTorch's compiler: opcheck, full graphs, dynamic shapes, export."""

import os
import shutil
import unittest

import torch
from torch.library import opcheck

import flarec_test
from flarec_test import tokens

ops = flarec_test.load()
DEVICE = os.environ.get("FLAREC_TEST_DEVICE", "cpu")
# Inductor needs a C++ compiler for the CPU.
BACKENDS = ["aot_eager"] + (["inductor"] if shutil.which("g++") else [])


def inputs(b=2, h=3, m=5, n=33, d=8, dtype=torch.float32, shared=True, requires_grad=False):
    torch.manual_seed(0)
    q = torch.randn(*((h, m, d) if shared else (b, h, m, d)), device=DEVICE).to(dtype)
    k, v = (tokens(b, h, n, d, dtype, DEVICE) for _ in range(2))
    return [t.detach().requires_grad_(requires_grad) for t in (q, k, v)]


class OpCheck(unittest.TestCase):
    def test_mixer(self):
        for requires_grad in (False, True):
            for shared in (False, True):
                opcheck(ops.mixer.default, (*inputs(shared=shared, requires_grad=requires_grad), 0.5))

    def test_mixer_bfloat16(self):
        opcheck(ops.mixer.default, tuple(inputs(dtype=torch.bfloat16, requires_grad=True)))

    def test_mixer_forward(self):
        opcheck(ops.mixer_forward.default, tuple(inputs()))
        # Its z and log-sum-exps have no gradients, so only y may be differentiated.
        tests = ("test_schema", "test_autograd_registration", "test_faketensor")
        opcheck(ops.mixer_forward.default, tuple(inputs(requires_grad=True)), test_utils=tests)

    def test_mixer_backward(self):
        for wanted in ([True, True, True], [False, True, False]):
            q, k, v = inputs()
            saved = ops.mixer_forward(q, k, v, 0.5)
            opcheck(ops.mixer_backward.default, (torch.randn_like(saved[0]), q, k, v, *saved, 0.5, wanted))


class OpCheckHalves(unittest.TestCase):
    def setUp(self):
        if "double" in os.environ.get("FLAREC_COMPILER_LIBRARY", ""):
            self.skipTest("the stand-in compiles mixers only")

    def test_halves(self):
        for dtype in (torch.float32, torch.float64):
            for shared in (True, False):
                q, k, v = inputs(shared=shared, dtype=dtype, requires_grad=True)
                opcheck(ops.encode.default, (q, k, v, 0.5))
                z = ops.encode(q, k, v)[0].detach().requires_grad_()
                opcheck(ops.decode.default, (k, q, z, 0.5))

    def test_merge(self):
        opcheck(ops.merge.default, (torch.randn(3, 2, 3, 5, 8, requires_grad=True), torch.randn(3, 2, 3, 5, requires_grad=True)))

    def test_backward_passes(self):
        for dtype in (torch.float32, torch.float64):
            q, k, v = inputs(dtype=dtype)
            z, le = ops.encode(q, k, v)
            y, ld = ops.decode(k, q, z)
            opcheck(ops.encode_backward.default, (torch.randn_like(z), le, q, k, v, z, le, 0.5, [True, False, True]))
            opcheck(ops.decode_backward.default, (torch.randn_like(y), ld, k, q, z, y, ld, 0.5, [True, True, False]))
            opcheck(ops.mixer_backward_latents.default, (torch.randn_like(y), q, k, y, ld, 0.5))
            opcheck(ops.mixer_backward_joint.default, (torch.randn_like(y), q, k, v, z, torch.randn_like(z), le, ld, ld, 0.5))

    def test_full_graph_of_the_halves_with_autocast(self):
        def layer(q, k, v):
            with torch.autocast(DEVICE, dtype=torch.bfloat16):
                z, _ = ops.encode(q, k, v, 0.5)
                return ops.decode(k, q, z, 0.5)[0]

        for n in (33, 50):
            args = inputs(n=n, requires_grad=True)
            results = []
            for f in (layer, torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")):
                y = f(*args)
                results.append((y, *torch.autograd.grad(y.float().square().sum(), args)))
            for a, b in zip(*results):
                # Eager mode adds up q's two gradients in bfloat16, where autocast's cache cast it once.
                torch.testing.assert_close(a, b, rtol=2e-2, atol=5e-2)


class Layer(torch.nn.Module):
    """The surroundings that the published layer gives the mixer."""

    def __init__(self, channels=24, heads=3, latents=5):
        super().__init__()
        torch.manual_seed(1)
        self.heads = heads
        self.latents = torch.nn.Parameter(torch.randn(channels, latents))
        self.kv = torch.nn.Linear(channels, 2 * channels)
        self.out = torch.nn.Linear(channels, channels)

    def forward(self, x):
        q = self.latents.view(self.heads, self.latents.shape[1], -1)
        k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.kv(x).chunk(2, -1))
        return self.out(ops.mixer(q, k, v, 0.5).transpose(1, 2).flatten(2))


class Compile(unittest.TestCase):
    def setUp(self):
        torch._dynamo.reset()

    def test_full_graph_with_dynamic_tokens(self):
        for backend in BACKENDS:
            with self.subTest(backend=backend):
                torch._dynamo.reset()
                layer = Layer().to(DEVICE)
                counter = torch._dynamo.testing.CompileCounterWithBackend(backend)
                compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=counter)
                for n in (17, 33, 64):
                    x = torch.randn(2, n, 24, device=DEVICE, requires_grad=True)
                    results = []
                    for module in (layer, compiled):
                        layer.zero_grad()
                        x.grad = None
                        module(x).square().sum().backward()
                        results.append([x.grad] + [p.grad.clone() for p in layer.parameters()])
                    for a, b in zip(*results):
                        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
                self.assertEqual(counter.frame_count, 1, "a new N compiled again")

    def test_graph_holds_the_ops_themselves(self):
        graphs = []

        def look(module, example):
            graphs.append(module)
            return module.forward

        from torch._dynamo.backends.common import aot_autograd

        layer = Layer().to(DEVICE)
        x = torch.randn(2, 33, 24, device=DEVICE, requires_grad=True)
        torch.compile(layer, fullgraph=True, backend=aot_autograd(fw_compiler=look, bw_compiler=look))(x).sum().backward()
        targets = [str(n.target) for g in graphs for n in g.graph.nodes]
        self.assertEqual(sum("flarec.mixer_forward" in t for t in targets), 1)
        self.assertEqual(sum("flarec.mixer_backward" in t for t in targets), 1)

    def test_only_some_gradients(self):
        for backend in BACKENDS:
            torch._dynamo.reset()
            q, k, v = inputs()
            v.requires_grad_()
            y = torch.compile(ops.mixer, fullgraph=True, backend=backend)(q, k, v)
            (grad,) = torch.autograd.grad(y.sum(), (v,))
            torch.testing.assert_close(grad, torch.autograd.grad(ops.mixer(q, k, v).sum(), (v,))[0])

    def test_compiled_inference(self):
        layer = Layer().to(DEVICE)
        x = torch.randn(2, 33, 24, device=DEVICE)
        with torch.inference_mode():
            compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")(x)
        torch.testing.assert_close(compiled, layer(x).detach())

    def test_compiled_autograd(self):
        layer = Layer().to(DEVICE)
        x = torch.randn(2, 33, 24, device=DEVICE, requires_grad=True)
        layer(x).sum().backward()
        expected, x.grad = x.grad, None
        with torch._dynamo.compiled_autograd._enable(torch.compile(backend="aot_eager", fullgraph=True)):
            layer(x).sum().backward()
        torch.testing.assert_close(x.grad, expected)

    def test_export_with_dynamic_tokens(self):
        layer = Layer().to(DEVICE)
        x = torch.randn(2, 33, 24, device=DEVICE)
        tokens = torch.export.Dim("tokens", min=2, max=1 << 20)
        program = torch.export.export(layer, (x,), dynamic_shapes={"x": {1: tokens}})
        longer = torch.randn(2, 70, 24, device=DEVICE)
        torch.testing.assert_close(program.module()(longer), layer(longer))

    def test_messages_reach_the_user_through_tracing(self):
        q, k, v = inputs(d=129)
        with self.assertRaisesRegex(Exception, "head dim 129 .*supported are 1 to 128"):
            torch.compile(ops.mixer, fullgraph=True, backend="aot_eager")(q, k, v)


if __name__ == "__main__":
    unittest.main()
