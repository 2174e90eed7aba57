#!/usr/bin/env python3
"""The description's "precision": "tf32": one product where f32 takes three, and the accuracy of one."""

import os
import sys
import unittest

import torch

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE), os.path.join(os.path.dirname(HERE), "ops")]
import artefact
import simulated_ops
from flarec_test import dense

COMPILER = os.environ.get("FLAREC_COMPILER_LIBRARY", os.path.join(HERE, "../../build/lib/libflarec_compiler.so"))


def request(target="sm_90a", dtype="f32", **precision):
    return {"mixer": {"head_dim": 8, "latents": 17, "dtype": dtype, "gradients": "qkv"}, **precision, "target": target, "config": ""}


def products(code):
    return [blob.count(b"mma.sync.aligned.m16n8k8.row.col.f32.tf32") for blob in code]


class Tf32(unittest.TestCase):
    def test_a_third_of_the_products(self):
        for target in ("sm_80", "sm_90a", "sm_100a"):
            (single, one), (plain, three) = (artefact.compile_ptx(COMPILER, request(target, **p)) for p in ({"precision": "tf32"}, {}))
            self.assertEqual([3 * n for n in products(one)], products(three))
            self.assertTrue(any(products(one)))
            self.assertNotEqual(single["key"], plain["key"])

    def test_accuracy(self):
        torch.manual_seed(0)
        batch, heads, m, n, d = 2, 2, 17, 65, 8
        q, (k, v, g) = torch.randn(heads, m, d), (torch.randn(batch, heads, n, d) for _ in range(3))
        leaves = [t.double().requires_grad_() for t in (q, k, v)]
        exact = dense(*leaves, 0.7)
        exact = [t.detach() for t in exact[:2]] + list(torch.autograd.grad(exact[0], leaves, g.double()))
        for precision, least, most in (({"precision": "tf32"}, 5e-5, 2e-3), ({}, 0, 2e-6)):
            manifest, modules = artefact.compile_ptx(COMPILER, request(**precision))
            forward, backward = (simulated_ops.Function(manifest, modules, name) for name in ("mixer_forward", "mixer_backward"))
            sizes = (batch, heads, n, 1)
            y, z, lse_encode, lse_decode = forward(q.unsqueeze(0), k, v, scale=0.7, sizes=sizes)
            given = dict(grad_y=g, q=q.unsqueeze(0), k=k, v=v, y=y, z=z, lse_encode=lse_encode, lse_decode=lse_decode)
            dq, dk, dv = backward(*[given[t["name"]] for t in backward.function["tensors"] if t["role"] == "input"], scale=0.7, sizes=sizes)
            for name, mine, right in zip(("y", "z", "grad_q", "grad_k", "grad_v"), (y, z, dq[0], dk, dv), exact):
                error = ((mine.double() - right).square().mean() / right.square().mean()).sqrt().item()
                self.assertLessEqual(error, most, (precision, name))
                self.assertGreaterEqual(error, least, (precision, name))

    def test_where_it_does_not_apply(self):
        for given, message in ((request("host", precision="tf32"), 'precision "tf32" for host is not supported; use "tf32" for a GPU, or leave it out'),
                               (request(precision="ieee"), 'precision "ieee" for sm_90a is not supported'),
                               (request(dtype="bf16", precision="tf32"), 'it is for dtype "f32"')):
            with self.assertRaisesRegex(artefact.Refused, message):
                artefact.compile_artefact(COMPILER, given)


if __name__ == "__main__":
    unittest.main()
