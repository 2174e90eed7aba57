#!/usr/bin/env python3
"""Offsets beyond 2^32 elements on the simulated GPU: tensors whose batches, heads and rows lie gigabytes apart, in memory that is there
where it is touched only (a sparse file), give the bits that compact ones give."""

import math
import os
import sys
import tempfile
import unittest

import numpy as np
import torch

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE)]
import artefact
import simulated_ops
import simulator
from simulated_gpu import memory as simulated_memory

COMPILER = os.environ.get("FLAREC_COMPILER_LIBRARY", os.path.join(HERE, "../../build/lib/libflarec_compiler.so"))
FAR_BATCHES, FAR_HEADS, FAR_TOKENS, FAR_LATENTS = 2**32 + 64, 2**31 + 64, 2**31 + 128, 2**28 + 64  # elements
SPACING = 1 << 16  # bytes between where tensors start


class Sparse(simulator.GlobalMemory):
    """Global memory in a file without blocks for what was never written."""

    def __init__(self, size, folder):
        self.bytes, self.state = (np.memmap(os.path.join(folder, name), np.uint8, "w+", shape=(size,)) for name in ("bytes", "state"))
        self.top = 4096
        self.views, self.states = simulated_memory.views(self.bytes), simulated_memory.views(self.state)


def run(function, inputs, sizes, far, odd=0):
    """Results, flat. With `far` inputs and results are spread out; `odd` elements more between all of them put rows off 16 bytes."""
    with tempfile.TemporaryDirectory() as folder:
        memory = Sparse(6 << 34 if far else 1 << 26, folder)
        inputs, slots, results = iter(inputs), [], []
        for index, tensor in enumerate(function.function["tensors"]):
            kind = simulated_ops.TYPES[tensor["type"]]
            shape = artefact.shape(function.function, tensor, sizes)
            shared = tensor["role"] == "input" and tensor["name"] == "q" and sizes[3] == 1
            given = next(inputs) if tensor["role"] == "input" else torch.zeros([math.prod(shape)], dtype=kind)
            strides = artefact.strides(shape)
            if far and tensor["role"] != "workspace":
                off = odd if tensor["index"] == "n" or tensor["role"] == "input" else 0  # results over latents are aligned
                strides = [FAR_BATCHES + off, FAR_HEADS + off, (FAR_TOKENS if tensor["index"] == "n" else FAR_LATENTS) + off]
                base = (1 << 20) + index * SPACING + off * kind.itemsize
            else:
                memory.top = max(memory.top, 1 << 24) if far else memory.top
                base = memory.allocate(math.prod(shape) * kind.itemsize) - simulated_memory.GLOBAL_BASE
            batches = 1 if shared else shape[-4] if tensor["role"] != "workspace" else 0
            heads, rows, columns = shape[-3:]
            places = [base + (b * strides[0] + h * strides[1] + r * strides[2]) * kind.itemsize
                      for b in range(batches) for h in range(heads) for r in range(rows)]
            lines = given.reshape(len(places), columns) if tensor["role"] == "input" else places
            for place, line in zip(places, lines):
                memory.state[place : place + columns * kind.itemsize] = simulated_memory.ALLOCATED
                if tensor["role"] == "input":
                    memory.write(simulated_memory.GLOBAL_BASE + place, simulated_ops.raw(line))
            if tensor["role"] == "result":
                results.append((tensor["name"], places, columns * kind.itemsize))
            slots += [simulated_memory.GLOBAL_BASE + base, *([0] + strides[1:] if shared else strides)]
        slots += [*sizes, *artefact.splits(function.function, sizes), 0.7]
        for kernel in function.function["kernels"]:
            # The kernel for aligned rows is the first variant, the one for any rows the last.
            chosen = kernel["variants"][-1 if odd else 0] if kernel["variants"] else kernel
            program = function.kernel(chosen.get("code", kernel["code"]), chosen["symbol"])
            simulator.launch(memory, program, artefact.grid(function.function, kernel, sizes), kernel["threads"], kernel["shared"], slots)
        return {name: b"".join(memory.read(simulated_memory.GLOBAL_BASE + p, size) for p in places) for name, places, size in results}


class Offsets(unittest.TestCase):
    def check(self, dtype, d, m, target="sm_90a"):
        batch, heads, n = 2, 2, 3
        sizes = (batch, heads, n, 1)
        ops = simulated_ops.Ops(COMPILER, target)
        forward, backward = ops.functions(d, m, dtype)
        generator = torch.Generator().manual_seed(d)
        normal = lambda *shape: torch.randn(*shape, generator=generator).to(dtype)
        q, (k, v, g) = normal(heads, m, d), (normal(batch, heads, n, d) for _ in range(3))
        near = run(forward, [q, k, v], sizes, far=False)
        as_tensor = lambda name, kind: torch.frombuffer(bytearray(near[name]), dtype=kind)
        saved = dict(grad_y=g, q=q, k=k, v=v, y=as_tensor("y", dtype), **{name: as_tensor(name, torch.float32) for name in ("z", "lse_encode", "lse_decode")})
        given = [saved[t["name"]] for t in backward.function["tensors"] if t["role"] == "input"]
        near_backward = run(backward, given, sizes, far=False)
        for odd in (0, 1):
            with self.subTest(odd=odd):
                self.assertEqual(run(forward, [q, k, v], sizes, far=True, odd=odd), near)
                self.assertEqual(run(backward, given, sizes, far=True, odd=odd), near_backward)

    def test_bf16(self):
        self.check(torch.bfloat16, 8, 5)

    def test_f32(self):
        self.check(torch.float32, 8, 5)

    def test_channels_in_no_power_of_two(self):
        self.check(torch.float16, 24, 17)


if __name__ == "__main__":
    unittest.main()
