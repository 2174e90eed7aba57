#!/usr/bin/env python3
"""The simulated GPU itself: what instructions mean, and that it sees what is wrong. Real kernels with one barrier or one wait
taken out must fail."""

import os
import re
import sys
import unittest

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE), os.path.join(os.path.dirname(HERE), "ops")]
import artefact
import simulator
import small_kernel
from simulator import Fault

LIBRARY = os.environ.get("FLAREC_COMPILER_LIBRARY", "build/lib/libflarec_compiler.so")

PARAMETERS = [".param .u64 .ptr .global .align 1 kernel_param_0", ".param .u64 kernel_param_1"]


def run(body, words, threads=64, shared=4096, blocks=1, size=None):
    """The kernel with thread t at word t of an array (%rd3), which it may change; %rd5 is its word of shared memory."""
    memory = simulator.GlobalMemory(1 << 20)
    data = np.asarray(words)
    address = memory.allocate(data.nbytes if size is None else size)
    memory.write(address, data.tobytes())
    kernel = simulator.parse_module(small_kernel.module(body, PARAMETERS))["kernel"]
    simulator.launch(memory, kernel, blocks, threads, shared, [address, 7])
    return np.frombuffer(memory.read(address, data.nbytes), data.dtype)


class Instructions(unittest.TestCase):
    def unary(self, text, values, dtype=np.float32):
        values = np.asarray(values, dtype)
        padded = np.resize(values, 64).astype(dtype)
        out = run(f"ld.global.b32 %r2, [%rd3]; {text} st.global.b32 [%rd3], %r3;", padded)
        return out[: len(values)]

    def test_exponential(self):
        x = np.array([0, 1, -1, 10.5, -126, -130, np.inf, -np.inf, np.nan], np.float32)
        out = self.unary("ex2.approx.ftz.f32 %r3, %r2;", x)
        np.testing.assert_allclose(out, [1, 2, 0.5, 2**10.5, 2.0**-126, 0, np.inf, 0, np.nan], rtol=1e-7)

    def test_max_keeps_nan(self):
        out = self.unary("max.NaN.f32 %r3, %r2, 0f3F800000;", [0, 2, np.nan, -np.inf])
        np.testing.assert_array_equal(out, [1, 2, np.nan, 1])

    def test_packs_two_halves(self):
        out = self.unary("cvt.rn.bf16x2.f32 %r3, 0f40000000, %r2;", [1.0, 1.00390625, 1.01171875, np.nan])
        words = out.view(np.uint32)
        np.testing.assert_array_equal(words >> 16, 0x4000)
        np.testing.assert_array_equal(words & 0xFFFF, [0x3F80, 0x3F80, 0x3F82, 0x7FFF])  # ties to even

    def test_tf32_rounds_ties_away(self):
        bits = np.array([0x3F801000, 0x3F800FFF, 0xBF801000, 0x7F800000], np.uint32)
        out = self.unary("cvt.rna.tf32.f32 %r3, %r2;", bits.view(np.float32)).view(np.uint32)
        np.testing.assert_array_equal(out, [0x3F802000, 0x3F800000, 0xBF802000, 0x7F800000])

    def test_integers(self):
        out = self.unary("mad.lo.s32 %r3, %r2, -3, 5; shl.b32 %r3, %r3, 1; bfe.u32 %r4, %r3, 1, 3; add.s32 %r3, %r3, %r4;", [0, 1, 7], np.int32)
        expected = [(-3 * x + 5) * 2 for x in (0, 1, 7)]
        np.testing.assert_array_equal(out, [e + ((e & 0xFFFFFFFF) >> 1 & 7) for e in expected])
        out = self.unary("bfe.s32 %r3, %r2, 3, 2;", [0, 8, 16, 24, -1], np.int32)
        np.testing.assert_array_equal(out, [0, 1, -2, -1, -1])

    def test_shuffle_and_vote(self):
        body = "shfl.sync.bfly.b32 %r3, %r1, 5, 31, -1; st.global.b32 [%rd3], %r3;"
        np.testing.assert_array_equal(run(body, np.zeros(64, np.int32)), np.arange(64) ^ 5)
        body = "setp.lt.u32 %p1, %r1, 40; vote.sync.all.pred %p2, %p1, -1; selp.b32 %r3, 1, 0, %p2; st.global.b32 [%rd3], %r3;"
        np.testing.assert_array_equal(run(body, np.zeros(64, np.int32)), np.repeat([1, 0], 32))

    def test_loop_with_different_counts(self):
        body = """
	mov.b32 %r3, 0;
	mov.b32 %r4, 0;
$L1:
	setp.ge.u32 %p1, %r4, %r1;
	@%p1 bra $L2;
	add.s32 %r3, %r3, %r4;
	add.s32 %r4, %r4, 1;
	bra.uni $L1;
$L2:
	shfl.sync.bfly.b32 %r5, %r3, 1, 31, -1;
	st.global.b32 [%rd3], %r5;"""
        n = np.arange(64) ^ 1
        np.testing.assert_array_equal(run(body, np.zeros(64, np.int32)), n * (n - 1) // 2)

    def matrix_product(self, depth, kind, a_registers, b_registers, a, b, bits):
        """a [16, depth], b [depth, 8] through one mma; `bits` packs a lane's elements into registers."""
        lane = np.arange(32)
        g, t = lane // 4, lane % 4
        if kind == "tf32":
            ra = [a[g + 8 * (j % 2), t + 4 * (j // 2)].astype(np.float32).view(np.uint32) for j in range(a_registers)]
            rb = [b[t + 4 * j, g].astype(np.float32).view(np.uint32) for j in range(b_registers)]
        else:
            ra = [bits(a[g + 8 * (j % 2), 2 * t + 8 * (j // 2)], a[g + 8 * (j % 2), 2 * t + 1 + 8 * (j // 2)]) for j in range(a_registers)]
            rb = [bits(b[2 * t + 8 * j, g], b[2 * t + 1 + 8 * j, g]) for j in range(b_registers)]
        words = np.zeros((32, 16), np.uint32)
        for j, r in enumerate(ra + rb):
            words[:, j] = r
        loads = "".join(f"ld.global.b32 %r{10 + j}, [%rd7+{4 * j}];" for j in range(a_registers + b_registers))
        ra, rb = (", ".join(f"%r{10 + first + j}" for j in range(n)) for first, n in ((0, a_registers), (a_registers, b_registers)))
        body = f"""
	mul.wide.u32 %rd6, %r1, 64;
	add.s64 %rd7, %rd1, %rd6;
	{loads}
	mov.b32 %r30, 0f3F800000;
	mma.sync.aligned.m16n8k{depth}.row.col.f32.{kind}.{kind}.f32 {{%r20, %r21, %r22, %r23}}, {{{ra}}}, {{{rb}}}, {{%r30, %r30, %r30, %r30}};
	{"".join(f"st.global.b32 [%rd7+{4 * j}], %r{20 + j};" for j in range(4))}"""
        out = run(body, words.reshape(-1), threads=32).reshape(32, 16)[:, :4].view(np.float32)
        product = np.zeros((16, 8))
        for j in range(4):
            product[g + 8 * (j // 2), 2 * t + j % 2] = out[:, j]
        np.testing.assert_array_equal(product, 1 + a @ b)

    def test_matrix_product(self):
        generator = np.random.default_rng(1)
        integers = lambda *shape: generator.integers(-9, 10, shape).astype(np.float64)
        bf16 = lambda low, high: (low.astype(np.float32).view(np.uint32) >> 16) | (high.astype(np.float32).view(np.uint32) & 0xFFFF0000)
        f16 = lambda low, high: low.astype(np.float16).view(np.uint16) | (high.astype(np.float16).view(np.uint16).astype(np.uint32) << 16)
        self.matrix_product(16, "bf16", 4, 2, integers(16, 16), integers(16, 8), bf16)
        self.matrix_product(8, "bf16", 2, 1, integers(16, 8), integers(8, 8), bf16)
        self.matrix_product(16, "f16", 4, 2, integers(16, 16), integers(16, 8), f16)
        self.matrix_product(8, "tf32", 4, 2, integers(16, 8), integers(8, 8), None)
        self.matrix_product(4, "tf32", 2, 1, integers(16, 4), integers(4, 8), None)

    def test_transposes_a_matrix(self):
        # Lane l holds elements 2l and 2l+1 of an 8 x 8 matrix, row after row.
        words = np.arange(32, dtype=np.uint32) * 2 | (np.arange(32, dtype=np.uint32) * 2 + 1) << 16
        out = run("ld.global.b32 %r2, [%rd3]; movmatrix.sync.aligned.m8n8.trans.b16 %r3, %r2; st.global.b32 [%rd3], %r3;", words, threads=32)
        np.testing.assert_array_equal(out.view(np.uint16).reshape(8, 8), np.arange(64).reshape(8, 8).T)
        body = """ld.global.b32 %r2, [%rd3]; st.shared.b32 [%rd5], %r2; bar.sync 0;
	and.b32 %r4, %r1, 7; mul.wide.u32 %rd6, %r4, 16; add.s64 %rd7, %rd4, %rd6;
	ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%r3, %r5}, [%rd7]; st.global.b32 [%rd3], %r5;"""
        out = run(body, words, threads=32)
        np.testing.assert_array_equal(out.view(np.uint16).reshape(8, 8), np.arange(64).reshape(8, 8).T)


class Faults(unittest.TestCase):
    def fails(self, message, body, **options):
        with self.assertRaisesRegex(Fault, message):
            run(body, np.zeros(64, np.int32), **options)

    EXCHANGE = "st.shared.b32 [%rd5], %r1; BARRIER xor.b32 %r2, %r1, 33; mul.wide.u32 %rd6, %r2, 4; add.s64 %rd7, %rd4, %rd6; ld.shared.b32 %r3, [%rd7]; st.global.b32 [%rd3], %r3;"

    def test_race(self):
        out = run(self.EXCHANGE.replace("BARRIER", "bar.sync 0;"), np.zeros(64, np.int32))
        np.testing.assert_array_equal(out, np.arange(64) ^ 33)
        self.fails("read after write", self.EXCHANGE.replace("BARRIER", ""))
        self.fails("write after read", self.EXCHANGE.replace("BARRIER", "bar.sync 0;") + "st.shared.b32 [%rd5], %r1;")
        self.fails("write after write", self.EXCHANGE.replace("BARRIER", "st.shared.b32 [%rd4], %r1;"))

    def test_asynchronous_copy(self):
        copy = "cp.async.ca.shared.global [%rd5], [%rd3], 4, 4; cp.async.commit_group;"
        load = "ld.shared.b32 %r3, [%rd5]; add.s32 %r3, %r3, 1; st.global.b32 [%rd3], %r3;"
        np.testing.assert_array_equal(run(copy + "cp.async.wait_group 0;" + load, np.arange(64, dtype=np.int32)), np.arange(64) + 1)
        self.fails("before an asynchronous copy has arrived", copy + load)
        self.fails("before an asynchronous copy has arrived", copy + "cp.async.wait_group 1;" + load)
        other = "cp.async.wait_group 0; xor.b32 %r2, %r1, 32; mul.wide.u32 %rd6, %r2, 4; add.s64 %rd7, %rd4, %rd6; ld.shared.b32 %r3, [%rd7];"
        self.fails("read after write", copy + other)

    def test_memory(self):
        self.fails("never written", "ld.shared.b32 %r3, [%rd5];")
        self.fails("outside of shared memory", "st.shared.b32 [%rd5+4096], %r1;")
        self.fails("outside of every allocation", "st.global.b32 [%rd3+256], %r1;")
        self.fails("never written", "ld.global.b32 %r3, [%rd3+4];")
        self.fails("misaligned", "st.global.v2.b32 [%rd3], {%r1, %r1};")

    def test_warps(self):
        self.fails("lanes are apart", "setp.lt.u32 %p1, %r1, 3; @%p1 bra $L1; shfl.sync.bfly.b32 %r3, %r1, 1, 31, -1; $L1: mov.b32 %r4, 0;")
        # The second warp ends while the first waits: hardware counts ended threads as arrived, and so does the simulator.
        run("setp.lt.u32 %p1, %r1, 32; @%p1 bra $L1; ret; $L1: bar.sync 0;", np.zeros(64, np.int32))

    def test_unknown_instruction(self):
        self.fails("has no", "tanh.approx.f32 %r3, %r2;")


class Kernels(unittest.TestCase):
    """Kernels as generated are clean; each without one of its barriers or waits is not, in at least one of them."""

    def test_any_finite_scores(self):
        """A maximum must have the bits of the score that it is subtracted from, or the difference overflows 2^x."""
        import torch
        from flarec_test import dense
        from simulated_ops import Ops

        generator = torch.Generator().manual_seed(5)
        tensor = lambda *shape: torch.randn(shape, generator=generator).to(torch.bfloat16)
        q, k, v = tensor(2, 17, 8), tensor(1, 2, 65, 8), tensor(1, 2, 65, 8)
        for scale in (1e4, 1e10, 1e30):
            y, z, *_ = Ops(LIBRARY).mixer_forward(q, k, v, scale)
            y_exact, z_exact, *_ = dense(q.double(), k.double(), v.double(), scale)
            self.assertLess((z.double() - z_exact).abs().max(), 0.02, scale)
            self.assertLess((y.double() - y_exact).abs().max(), 0.02, scale)

    def test_mutations(self):
        import torch
        from simulated_ops import Function

        request = {"mixer": {"head_dim": 8, "latents": 64, "dtype": "bf16", "gradients": "qkv"}, "target": "sm_90a", "config": ""}
        manifest, modules = artefact.compile_ptx(LIBRARY, request)
        generator = torch.Generator().manual_seed(3)
        tensor = lambda *shape: torch.randn(shape, generator=generator).to(torch.bfloat16)
        q, k, v = tensor(1, 2, 64, 8), tensor(1, 2, 1600, 8), tensor(1, 2, 1600, 8)
        # Several tiles a block in the fast loop, and several in the safe one.
        k[:, :, 900] *= 1000
        for function in manifest["functions"]:
            for splitting in function["sweeps"]:
                splitting["blocks"] = 2
        call = lambda modules: Function(manifest, modules, "mixer_forward")(q, k, v, scale=1.0, sizes=(1, 2, 1600, 1))
        call(modules)
        sweep = next(f for f in manifest["functions"] if f["name"] == "mixer_forward")["kernels"][0]["variants"][0]["code"]
        text = modules[sweep].decode()
        places = [m.span() for m in re.finditer(r"(bar\.sync|cp\.async\.wait_group)[^;]*;", text)]
        self.assertGreaterEqual(len(places), 3)
        seen = 0
        for start, end in places:
            changed = list(modules)
            changed[sweep] = (text[:start] + text[end:]).encode()
            try:
                call(changed)
            except Fault:
                seen += 1
        self.assertGreaterEqual(seen, len(places) - 1, f"of {len(places)} barriers and waits")

    def backward(self, batch, heads=2, latents=64, config="", tokens=70, large=False):
        """Of a mixer with shared latents: (results, the function as compiled, exact gradients, a call with other code)."""
        import torch
        from flarec_test import dense
        from simulated_ops import Function

        request = {"mixer": {"head_dim": 8, "latents": latents, "dtype": "bf16", "gradients": "qkv"}, "target": "sm_90a", "config": config}
        manifest, modules = artefact.compile_ptx(LIBRARY, request)
        generator = torch.Generator().manual_seed(7)
        tensor = lambda *shape: torch.randn(shape, generator=generator).to(torch.bfloat16)
        q, k, v, g = tensor(1, heads, latents, 8), *(tensor(batch, heads, tokens, 8) for _ in range(3))
        if large:
            k[:, :, tokens // 2] *= 30
        leaves = [t.double().requires_grad_() for t in (q, k, v)]
        y, z, *lses = dense(*leaves, 1.0)
        exact = torch.autograd.grad(y, leaves, g.double())
        given = dict(grad_y=g, q=q, k=k, v=v, y=y.detach().bfloat16(), z=z.detach().float(), lse_encode=lses[0].detach().float(), lse_decode=lses[1].detach().float())
        function = Function(manifest, modules, "mixer_backward")
        inputs = [given[t["name"]] for t in function.function["tensors"] if t["role"] == "input"]
        call = lambda modules: Function(manifest, modules, "mixer_backward")(*inputs, scale=1.0, sizes=(batch, heads, tokens, 1))
        return function(*inputs, scale=1.0, sizes=(batch, heads, tokens, 1)), function, exact, call

    def test_workers_that_share_out_the_columns(self):
        for sharers, rows in ((2, 16), (4, 32), (4, 16)):
            config = "{mixer_backward = [{}, {heads = 1, workers = 4, worker_rows = %d, tile = %d, column_workers = %d}]}" % (rows, 4 // sharers * rows, sharers)
            grads, function, exact, call = self.backward(1, config=config)
            for mine, right in zip(grads, exact):
                self.assertLess((mine.double() - right).abs().max(), 0.02 * right.abs().max(), config)
        # Without the barrier between writing parts of sums and reading them there is a race.
        sweep = next(k for k in function.function["kernels"] if k["sweep"] == 1 and k["grid"] == "sweep")
        code = sweep["variants"][0]["code"]
        text = function.modules[code].decode()
        barriers = [m.span() for m in re.finditer(r"bar\.sync[^;]*;", text)]
        caught = 0
        for start, end in barriers:
            changed = list(function.modules)
            changed[code] = (text[:start] + text[end:]).encode()
            try:
                call(changed)
            except Fault:
                caught += 1
        # One each before the loops, in and at the end of the fast and of the safe one; all tiles but the last are fast here.
        self.assertGreaterEqual(caught, 3, f"of {len(barriers)}")

    def test_what_only_safe_bodies_read_is_made_again(self):
        """park = fast, in fast tiles, in the last one, which is safe here, and where one token's scores are large."""
        config = '{mixer_backward = [{}, {park = "%s"}]}'
        shared = {}
        for park in ("shared", "fast", "none"):
            grads, function, exact, _ = self.backward(1, config=config % park, latents=40, large=True)
            for mine, right in zip(grads, exact):
                self.assertLess((mine.double() - right).abs().max(), 0.02 * right.abs().max(), park)
            shared[park] = next(k["shared"] for k in function.function["kernels"] if k["sweep"] == 1 and k["grid"] == "sweep")
        self.assertLess(shared["none"], shared["fast"])
        self.assertLess(shared["fast"], shared["shared"])

    def test_gradients_of_shared_latents_are_merged_once(self):
        """Blocks of the merge whose batch has no latents of its own have nothing to add up: work in proportion to the batch, not to its square."""
        loads = {}
        for batch in (2, 8):
            grads, function, exact, _ = self.backward(batch, heads=1, tokens=16)
            self.assertLess((grads[0].double() - exact[0]).abs().max(), 0.02 * exact[0].abs().max())
            loads[batch] = sum(n for symbol, counts in function.counts.items() if "merge" in symbol for opcode, n in counts.items() if opcode.startswith("ld.global"))
        self.assertLess(loads[8], 4.5 * loads[2])


if __name__ == "__main__":
    unittest.main()
