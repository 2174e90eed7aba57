#!/usr/bin/env python3
"""Products of warpgroups on the simulated GPU: what they compute, from every layout of their matrices, and that each thing left out
that makes them right is seen."""

import os
import sys
import unittest

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import simulator
import small_kernel
from simulator import Fault

# Accumulators, and the thread's 16 bytes of the array in %rd7.
OWN = """
	.reg .b32 	%f<300>;
	mul.wide.u32 	%rd6, %r1, 16;
	add.s64 	%rd7, %rd1, %rd6;
"""


def parse(body):
    return simulator.parse_module(small_kernel.module(OWN + body, [".param .u64 .ptr .global .align 16 kernel_param_0"], alignment=1024))["kernel"]


SHARED = 32768  # bytes of the image of shared memory, which comes first in the kernel's array; then a lane's parts of A; then results
OTHER = 16384  # where a second matrix begins
PROXY, BARRIER = "fence.proxy.async.shared::cta;\n", "bar.sync 0;\n"
FENCE, COMMIT, WAIT = "wgmma.fence.sync.aligned;\n", "wgmma.commit_group.sync.aligned;\n", "wgmma.wait_group.sync.aligned 0;\n"
SWIZZLES = {0: 1, 1: 8, 2: 4, 3: 2}  # 16-byte chunks that are exchanged, by the descriptor's number


def canonical(shape, stride, coordinate):
    """An offset as CUTLASS writes layouts, ((8,m),(T,2)):((1T,SBO),(1,LBO)) for example; the first of each pair is the faster one."""
    offset = 0
    for sizes, steps, x in zip(shape, stride, coordinate):
        for size, step in zip(sizes, steps):
            offset += x % size * step
            x //= size
    return offset


class Matrix:
    """Values [M or N, 16] in the image of shared memory. Offsets in bytes."""

    def __init__(self, values, start=0, transposed=False, swizzle=0, leading=None, stride=None):
        self.values, self.start, self.transposed = values, start, transposed
        self.extent, width, many = len(values), SWIZZLES[swizzle], 1 << 20
        # The offsets, where a test does not choose: parts of one K close together.
        atom = 128 * width
        leading = leading or (atom * (2 if transposed and width > 1 else max(1, self.extent // 8)))
        stride = stride or atom
        T, SBO, LBO = 8, stride // 2, leading // 2  # in elements
        if transposed and width == 1:
            self.layout = ((T, 1, many), (8, many)), ((1, T, SBO), (T, LBO))
        elif transposed:
            self.layout = ((T, width, many), (8, many)), ((1, T, LBO), (width * T, SBO))
        elif width == 1:
            self.layout = ((8, many), (T, 2)), ((T, SBO), (1, LBO))
        else:
            self.layout = ((8, many), (T, 2)), ((width * T, SBO), (1, T))
        self.width = width
        self.descriptor = start >> 4 | leading >> 4 << 16 | stride >> 4 << 32 | swizzle << 62

    def put(self, image, bits):
        for (row, k), value in np.ndenumerate(self.values):
            address = self.start + 2 * canonical(*self.layout, (row, k))
            address ^= (address >> 7 & (self.width - 1)) << 4
            image[address // 2] = bits(value)


def bf16(x):
    return np.float32(x).view(np.uint32) >> 16


def f16(x):
    return np.float16(x).view(np.uint16)


def integers(*shape, seed=1):
    return np.random.default_rng(seed).integers(-9, 10, shape).astype(np.float64)


def copy(threads, bytes=SHARED):
    """Global to shared memory, word by word."""
    step = 4 * threads
    return "".join(f"ld.global.b32 %r30, [%rd3+{e}]; st.shared.b32 [%rd5+{e}], %r30;\n" for e in range(0, bytes, step))


def load(threads, first=2):
    return f"ld.global.v4.b32 {{%r{first}, %r{first + 1}, %r{first + 2}, %r{first + 3}}}, [%rd7+{SHARED}];\n"


def store(threads, columns):
    lines = f"mul.wide.u32 %rd8, %r1, {2 * columns}; add.s64 %rd9, %rd1, %rd8;\n"
    return lines + "".join(f"st.global.b32 [%rd9+{SHARED + 16 * threads + 4 * j}], %f{j};\n" for j in range(columns // 2))


def product(columns, a, b, scale="0", kind="bf16", first=0, rest="1, 1, 0"):
    """As inline assembly leaves it. a: registers' text, or a descriptor; scale: a register or an immediate."""
    d = ", ".join(f"%f{first + j}" for j in range(columns // 2))
    text = f"mov.b64 %rd10, {b:#x};\n"
    if isinstance(a, int):
        text, a = text + f"mov.b64 %rd11, {a:#x};\n", "%rd11"
    return f"""{text}	// begin inline asm
	{{
.reg .pred p;
setp.ne.b32 p, {scale}, 0;
wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.{kind}.{kind} {{{d}}}, {a}, %rd10, p, {rest};
}}

	// end inline asm
"""


REGISTERS = "{%r2, %r3, %r4, %r5}"
LANE = np.arange(32)


def fragments(a, bits):
    """[thread, register] of A [64, 16]."""
    words = np.zeros((128, 4), np.uint32)
    for t, j in np.ndindex(128, 4):
        row, column = t // 32 * 16 + t % 32 // 4 + 8 * (j % 2), 2 * (t % 4) + 8 * (j // 2)
        words[t, j] = int(bits(a[row, column])) | int(bits(a[row, column + 1])) << 16
    return words


def run(body, matrices=(), a=None, columns=8, threads=128, bits=bf16, image=None):
    """The results [warpgroup, 64, columns] of a kernel. a: A [64, 16] in registers, the same for all warpgroups."""
    if image is None:
        image = np.zeros(SHARED // 2, np.uint16)
    for m in matrices:
        m.put(image, bits)
    words = fragments(np.zeros((64, 16)) if a is None else a, bits)
    words = np.tile(words, (-(-threads // 128), 1))[:threads]
    # Parts of A where %rd7, 16 bytes a thread, finds them, results behind.
    data = np.concatenate([image.view(np.uint32), words.reshape(-1), np.zeros(threads * columns // 2, np.uint32)])
    memory = simulator.GlobalMemory(1 << 20)
    address = memory.allocate(data.nbytes)
    memory.write(address, data.tobytes())
    kernel = parse(body)
    simulator.launch(memory, kernel, 1, threads, SHARED, [address])
    out = np.frombuffer(memory.read(address, data.nbytes), np.float32)[-(threads * columns // 2) :].reshape(threads, -1)
    result = np.full((-(-threads // 128), 64, columns), np.nan)
    for t, j in np.ndindex(*out.shape):
        warpgroup, warp, lane = t // 128, t % 128 // 32, t % 32
        result[warpgroup, 16 * warp + lane // 4 + 8 * (j // 2 % 2), j // 4 * 8 + 2 * (lane % 4) + j % 2] = out[t, j]
    return result


class Products(unittest.TestCase):
    def check(self, columns, b, a=None, kind="bf16", rest="1, 1, 0", threads=128, left=None):
        """A [64, 16] in registers, or `left` in memory; times b."""
        bits = bf16 if kind == "bf16" else f16
        place = REGISTERS if left is None else left.descriptor
        body = copy(threads) + load(threads) + PROXY + BARRIER + FENCE + product(columns, place, b.descriptor, kind=kind, rest=rest) + COMMIT + WAIT
        matrices = [b] if left is None else [b, left]
        out = run(body + store(threads, columns), matrices, a, columns, threads, bits)
        for result in out:
            np.testing.assert_array_equal(result, (a if left is None else left.values) @ b.values.T)

    def test_all_widths(self):
        for columns in range(8, 257, 8):
            self.check(columns, Matrix(integers(columns, 16)), integers(64, 16, seed=2))

    def test_half_precision(self):
        self.check(24, Matrix(integers(24, 16)), integers(64, 16, seed=2), kind="f16")

    def test_two_warpgroups(self):
        self.check(32, Matrix(integers(32, 16)), integers(64, 16, seed=2), threads=256)

    def test_layouts_of_b(self):
        """Offsets that differ show which of them leads where."""
        a = integers(64, 16, seed=2)
        for columns in (8, 64, 72, 128):
            values = integers(columns, 16)
            for leading, stride in ((128, 256), (4096, 128), (144, 512)):
                self.check(columns, Matrix(values, leading=leading, stride=stride), a)
            for leading, stride in ((128, 256), (4096, 128), (128 * 33, 272)):
                self.check(columns, Matrix(values, transposed=True, leading=leading, stride=stride), a, rest="1, 1, 1")

    def test_swizzles(self):
        a = integers(64, 16, seed=2)
        for swizzle, width in SWIZZLES.items():
            for start in (0, 32) if width > 2 else (0,):  # 32: the next 16 of K in one atom
                self.check(64, Matrix(integers(64, 16), start=start, swizzle=swizzle), a)
            self.check(64, Matrix(integers(64, 16), transposed=True, swizzle=swizzle), a, rest="1, 1, 1")
            # Those along K close together, and those along N.
            for offsets in ((256 * width, 128 * width), (128 * width, 2048)):
                leading, stride = offsets if width > 1 else reversed(offsets)
                self.check(128, Matrix(integers(128, 16), transposed=True, swizzle=swizzle, leading=leading, stride=stride), a, rest="1, 1, 1")

    def test_both_in_memory(self):
        for transpose_a in (False, True):
            for transpose_b in (False, True):
                b = Matrix(integers(40, 16), transposed=transpose_b)
                left = Matrix(integers(64, 16, seed=2), OTHER, transposed=transpose_a, leading=2048, stride=256)
                self.check(40, b, left=left, rest=f"1, 1, {int(transpose_a)}, {int(transpose_b)}")

    def test_accumulates_and_negates(self):
        a, b = integers(64, 16, seed=2), Matrix(integers(16, 16))
        one = lambda scale, rest: product(16, REGISTERS, b.descriptor, scale, rest=rest)
        # The first one ignores what is in the accumulators, infinities too; more follow in order without a wait.
        start = copy(128) + load(128) + PROXY + BARRIER + "mov.b32 %r10, 1;\n" + "".join(f"mov.b32 %f{j}, 0f7F800000;\n" for j in range(8)) + FENCE
        out = run(start + one("0", "1, 1, 0") + one("%r10", "1, 1, 0") + one("1", "-1, -1, 0") + one("1", "-1, 1, 0") + one("1", "1, 1, 0") + COMMIT + WAIT + store(128, 16), [b], a, 16)
        np.testing.assert_array_equal(out[0], 3 * a @ b.values.T)
        out = run(start.replace("7F800000", "40000000") + one("1", "1, -1, 0") + COMMIT + WAIT + store(128, 16), [b], a, 16)
        np.testing.assert_array_equal(out[0], 2 - a @ b.values.T)
        # An immediate for the predicate.
        immediate = start + one("0", "1, 1, 0").replace("p, 1", "0, 1") + COMMIT + WAIT + store(128, 16)
        np.testing.assert_array_equal(run(immediate, [b], a, 16)[0], a @ b.values.T)

    def test_sums_are_cut(self):
        a, values = np.zeros((64, 16)), np.zeros((8, 16))
        a[:, :2], values[:, :2] = [1, 1.5 * 2**-24], 1
        b = Matrix(values)
        body = copy(128) + load(128) + PROXY + BARRIER + FENCE + product(8, REGISTERS, b.descriptor) + COMMIT + WAIT + store(128, 8)
        np.testing.assert_array_equal(run(body, [b], a, 8)[0], 1)

    def test_pipeline(self):
        """Two groups in flight, of different accumulators; the first one's are there while the second's are not."""
        a, b = integers(64, 16, seed=2), Matrix(integers(16, 16))
        c = Matrix(integers(16, 16, seed=3), OTHER)
        one = WAIT.replace("0", "1")
        body = copy(128) + load(128) + PROXY + BARRIER + FENCE + product(16, REGISTERS, b.descriptor) + COMMIT
        body += product(16, REGISTERS, c.descriptor, first=20) + COMMIT + one + store(128, 16)
        np.testing.assert_array_equal(run(body, [b, c], a, 16)[0], a @ b.values.T)
        with self.assertRaisesRegex(Fault, "in flight is read"):
            run(body.replace(one, one.replace("1", "2")), [b, c], a, 16)
        with self.assertRaisesRegex(Fault, "in flight is read"):
            run(body + "mov.b32 %r20, %f20;", [b, c], a, 16)


class Faults(unittest.TestCase):
    A, B = integers(64, 16, seed=2), Matrix(integers(16, 16))
    START = copy(128) + load(128) + PROXY + BARRIER
    ONE = product(16, REGISTERS, B.descriptor)
    END = COMMIT + WAIT + store(128, 16)

    def fails(self, message, body, **options):
        with self.assertRaisesRegex(Fault, message):
            run(body, [self.B], self.A, 16, **options)

    def passes(self, body, **options):
        out = run(body, [self.B], self.A, 16, **options)
        np.testing.assert_array_equal(out[0], self.A @ self.B.values.T)

    def test_right(self):
        self.passes(self.START + FENCE + self.ONE + self.END)

    def test_registers_in_flight(self):
        start = self.START + FENCE + self.ONE
        for touch, what in (("mov.b32 %r20, %f3;", "read"), ("mov.b32 %f3, 0;", "written"), ("mov.b32 %r3, 0;", "written"), ("add.s32 %r20, %r5, 1;", "read"), ("st.global.b32 [%rd3], %f0;", "read")):
            self.fails(f"a register of a wgmma in flight is {what}, thread 0", start + touch + self.END)
            self.fails(f"in flight is {what}", start + COMMIT + touch + WAIT)
            self.fails(f"in flight is {what}", start + COMMIT + WAIT.replace("0", "1") + touch)
            self.fails(f"in flight is {what}", start + WAIT + touch)  # of no group yet
        self.passes(start + "mov.b32 %f100, 0; mov.b32 %r20, 0;" + self.END)
        # Threads for which the predicate is false do not touch.
        self.passes(start + "setp.gt.u32 %p1, %r1, 500; @%p1 mov.b32 %f3, 0;" + self.END)
        self.fails("is written, thread 5 ", start + "setp.eq.u32 %p1, %r1, 5; @%p1 mov.b32 %f3, 0;" + self.END)

    def test_products_in_flight(self):
        second = lambda a, columns=16, first=100: product(columns, a, self.B.descriptor, first=first)
        start = self.START + FENCE + self.ONE
        self.passes(start + second(REGISTERS) + self.END)  # A may be read by many
        self.fails("part of A is an accumulator of a wgmma in flight", start + second("{%f0, %f1, %f2, %f3}") + self.END)
        self.fails("accumulator is one of a wgmma of another shape in flight", start + FENCE + second(REGISTERS, 8, 0) + self.END)
        use = second("{%f100, %f101, %f102, %f103}", first=200) + second(REGISTERS, first=100)
        self.fails("accumulator is a part of A of a wgmma in flight", self.START + FENCE + use + self.END)

    def test_fence_of_registers(self):
        self.fails("no wgmma.fence before the first", self.START + self.ONE + self.END)
        self.fails("accumulator was written since the last wgmma.fence", self.START + FENCE + "mov.b32 %f7, 0;" + self.ONE + self.END)
        self.fails("accumulator was read since the last wgmma.fence", self.START + FENCE + "mov.b32 %r20, %f7;" + self.ONE + self.END)
        self.fails("part of A was written since the last wgmma.fence", self.START + FENCE + "mov.b32 %r3, %r3;" + self.ONE + self.END)
        self.passes(self.START + FENCE + "mov.b32 %r20, %r3;" + self.ONE + self.END)
        self.passes(self.START + FENCE + self.ONE + COMMIT + WAIT + self.ONE + self.END)
        self.fails("read since the last wgmma.fence", self.START + FENCE + self.ONE + COMMIT + WAIT + "mov.b32 %r20, %f7;" + self.ONE + self.END)
        self.passes(self.START + FENCE + self.ONE + COMMIT + WAIT + "mov.b32 %r20, %f7;" + FENCE + self.ONE + self.END)
        other = product(8, REGISTERS, self.B.descriptor)
        self.fails("written since the last wgmma.fence", self.START + FENCE + other + COMMIT + WAIT + self.ONE + self.END)

    def test_fence_of_shared_memory(self):
        end = FENCE + self.ONE + self.END
        self.fails("without a fence.proxy.async behind it by thread 0 ", copy(128) + load(128) + BARRIER + end)
        self.fails("without a fence.proxy.async behind it", PROXY + copy(128) + load(128) + BARRIER + end)
        self.fails("without a fence.proxy.async before the barrier", copy(128) + load(128) + BARRIER + PROXY + end)
        self.fails("read after write", copy(128) + load(128) + PROXY + end)
        # What one warp wrote the three others read as well.
        self.fails("read after write", copy(128, 1024) + load(128) + PROXY + BARRIER + "setp.eq.u32 %p1, %r1, 0; @%p1 st.shared.b32 [%rd5], %r1;" + PROXY + end)
        self.passes(copy(128) + load(128) + PROXY.replace(".shared::cta", "") + BARRIER + end)
        # Only some of the writers have a fence: thread 77 has none.
        self.fails("behind it by thread 77 ", copy(128) + load(128) + "setp.ne.u32 %p1, %r1, 77; @%p1 " + PROXY + BARRIER + end)
        # The first fence after a write counts, not the last.
        self.passes(self.START + PROXY * 20 + BARRIER + PROXY + end)

    def test_asynchronous_copies(self):
        bring = "".join(f"cp.async.ca.shared.global [%rd5+{e}], [%rd3+{e}], 4, 4;\n" for e in range(0, SHARED, 512)) + "cp.async.commit_group;\n"
        arrived, end = "cp.async.wait_group 0;\n", FENCE + self.ONE + self.END
        self.passes(bring + load(128) + arrived + PROXY + BARRIER + end)
        self.fails("without a fence.proxy.async behind it", bring + load(128) + PROXY + arrived + BARRIER + end)
        self.fails("before an asynchronous copy has arrived", bring + load(128) + PROXY + BARRIER + end)
        again = bring.replace("cp", "@%p1 cp", 1)
        self.fails("write to shared memory that a wgmma in flight reads", self.START + "setp.eq.u32 %p1, %r1, 0;" + FENCE + self.ONE + COMMIT + BARRIER + again + WAIT)

    def test_shared_memory_in_flight(self):
        start, write = self.START + FENCE + self.ONE + COMMIT, "st.shared.b32 [%rd5], %r1;\n"
        self.fails("write to shared memory that a wgmma in flight reads", start + write + WAIT)
        self.fails("write to shared memory that a wgmma in flight reads", start + BARRIER + write + WAIT)
        self.fails("write after read", start + BARRIER + WAIT + write)  # the barrier must come behind the wait
        self.passes(start + WAIT + BARRIER + write + store(128, 16))
        self.passes(start + f"st.shared.b32 [%rd5+{OTHER}], %r1;\n" + WAIT + store(128, 16))
        # Two warpgroups read; only the first one waits before the barrier.
        both = copy(256) + load(256) + PROXY + BARRIER + FENCE + self.ONE + COMMIT
        half = "setp.ge.u32 %p1, %r1, 128; @%p1 bra $L1;" + WAIT + "$L1:" + BARRIER + write + WAIT + store(256, 16)
        self.fails("write to shared memory that a wgmma in flight reads", both + half, threads=256)
        self.passes(both + WAIT + BARRIER + write + store(256, 16), threads=256)

    def test_unwritten_and_outside(self):
        at = lambda start: product(16, REGISTERS, self.B.descriptor + (start >> 4))
        self.fails("never written", copy(128, 512) + load(128) + PROXY + BARRIER + FENCE + at(16) + self.END)
        self.fails("outside of shared memory", self.START + FENCE + at(SHARED) + self.END)

    def test_warps_together(self):
        all_but_one = "setp.lt.u32 %p1, %r1, 32; @%p1 bra $L1;" + self.ONE + "$L1:" + COMMIT + WAIT
        self.fails("warpgroup's warps are apart for good", self.START + FENCE + all_but_one)
        self.fails("warpgroup's warps are apart", self.START + FENCE + "setp.lt.u32 %p1, %r1, 32; @%p1 wgmma.commit_group.sync.aligned;")
        self.fails("warpgroup's warps are apart", "wgmma.fence.sync.aligned;" + self.ONE, threads=192)
        # Half a warpgroup at the end of a block goes another way.
        aside = "setp.ge.u32 %p1, %r1, 128; @%p1 bra $L1;" + FENCE + self.ONE + COMMIT + WAIT + "$L1:"
        self.passes(copy(192, 512) + load(192) + PROXY + BARRIER + aside + store(192, 16), threads=192)
        # Warps that come one after the other are waited for, and one that is a loop's turn behind.
        loop = "mov.b32 %r20, 0; shr.u32 %r21, %r1, 5; $L1: setp.ge.u32 %p1, %r20, %r21; @%p1 bra $L2; add.s32 %r20, %r20, 1; bra.uni $L1; $L2:"
        self.passes(self.START + loop + FENCE + self.ONE + self.END)

    def test_descriptors(self):
        bad = lambda bits: self.START + FENCE + product(16, REGISTERS, self.B.descriptor | bits) + self.END
        self.fails("bits that mean nothing", bad(1 << 14))
        self.fails("bits that mean nothing", bad(1 << 46))
        self.fails("no base offsets", bad(1 << 49))
        differs = self.ONE.replace("mov.b64 %rd10,", "cvt.u64.u32 %rd12, %r1; add.s64 %rd10, %rd12,")
        self.fails("different matrix descriptors", self.START + FENCE + differs + self.END)
        swizzled = self.ONE.replace("mov.b64 %rd10,", "setp.lt.u32 %p1, %r1, 128; mov.b64 %rd10,").replace("{", f"@%p1 mov.b64 %rd10, {self.B.descriptor | 1 << 62:#x}; {{", 1)
        self.fails("different swizzles", copy(256) + load(256) + PROXY + BARRIER + FENCE + swizzled, threads=256)
        self.fails("different scale-d", self.START + FENCE + self.ONE.replace("p, 0", "p, %r1") + self.END)

    def test_operands(self):
        start = self.START + FENCE
        self.fails("wrong registers", start + self.ONE.replace("n16", "n24"))
        self.fails("one register twice", start + self.ONE.replace("%f1,", "%f2,"))
        self.fails("wrong immediates", start + self.ONE.replace("1, 1, 0", "1, 2, 0"))
        self.fails("has no wgmma", "wgmma.barrier.sync.aligned;")
        self.fails("has no fence", "fence.proxy.tensormap;")
        self.fails("has no wgmma", start + self.ONE.replace("f32.bf16", "f16.bf16"))
        self.fails("has no wgmma", start + self.ONE.replace("1, 1, 0", "1, 1, 0, 0"))


class Votes(unittest.TestCase):
    """Barriers of a part of a block, whose threads learn whether something is true for all of them."""

    def votes(self, condition, size=128, threads=256):
        """Of each warpgroup of a block of two."""
        memory = simulator.GlobalMemory(1 << 20)
        address = memory.allocate(4 * threads)
        body = f"""
	.reg .pred %p<9>;
	shr.u32 %r2, %r1, 7;
	add.s32 %r3, %r2, 1;
	{condition}
	bar.red.and.pred %p2, %r3, {size}, %p1;
	selp.b32 %r4, 1, 2, %p2;
	mul.wide.u32 %rd8, %r1, 4;
	add.s64 %rd9, %rd1, %rd8;
	st.global.b32 [%rd9], %r4;
	ret;
"""
        text = small_kernel.module(OWN.replace(".reg .b32 	%f<300>;", "") + body, [".param .u64 .ptr .global .align 16 kernel_param_0"])
        simulator.launch(memory, simulator.parse_module(text)["kernel"], 1, threads, 256, [address])
        return np.frombuffer(memory.read(address, 4 * threads), np.int32).reshape(-1, 128)

    def test_each_group_has_its_own(self):
        for condition, expected in (("setp.ge.u32 %p1, %r1, 0;", (1, 1)), ("setp.ne.u32 %p1, %r1, 200;", (1, 2)), ("setp.gt.u32 %p1, %r1, 127;", (2, 1))):
            for group, answer in zip(self.votes(condition), expected):
                self.assertTrue((group == answer).all(), condition)

    def test_threads_that_never_come(self):
        with self.assertRaisesRegex(Fault, "that others never reach"):
            self.votes("setp.ge.u32 %p1, %r1, 0;", size=160)

    def test_more_threads_than_it_is_for(self):
        with self.assertRaisesRegex(Fault, "more threads come to a barrier"):
            self.votes("setp.ge.u32 %p1, %r1, 0;", size=96)


class Blocks(unittest.TestCase):
    """Names in braces, as inline assembly has them."""

    def out(self, body):
        memory = simulator.GlobalMemory(1 << 20)
        address = memory.allocate(128)
        memory.write(address, bytes(128))
        simulator.launch(memory, parse(body), 1, 32, 256, [address])
        return np.frombuffer(memory.read(address, 128), np.int32)

    def test_names(self):
        # The inner p and t<2> are others than the outer ones, and so is the second block's t0 than the first's.
        body = """
	{ .reg .pred p, q; .reg .b32 t<2>; setp.lt.u32 p, %r1, 8; mov.b32 t0, 5; mov.b32 t1, 0;
	  { .reg .pred p; .reg .b32 t0; setp.lt.u32 p, %r1, 16; mov.b32 t0, 7; @p add.s32 t1, t1, t0; }
	  @!p add.s32 t1, t1, t0; mov.b32 %r2, t1; }
{
.reg .b32 t0;
mov.b32 t0, 100;
add.s32 %r2, %r2, t0;
}
	st.global.b32 [%rd3], %r2;"""
        lane = np.arange(32)
        np.testing.assert_array_equal(self.out(body), 100 + 7 * (lane < 16) + 5 * (lane >= 8))

    def test_labels(self):
        loop = "{ .reg .pred p; LOOP: add.s32 %r2, %r2, 1; setp.lt.u32 p, %r2, LIMIT; @p bra LOOP; @p bra DONE; add.s32 %r2, %r2, 1; DONE: }"
        out = self.out("mov.b32 %r2, 0;" + loop.replace("LIMIT", "%r1") + loop.replace("LIMIT", "40") + "st.global.b32 [%rd3], %r2;")
        np.testing.assert_array_equal(out, 41)

    def test_two_halves_of_64_bits(self):
        out = self.out("mov.b64 %rd10, {%r1, 7}; add.s64 %rd10, %rd10, -1; mov.b64 {%r2, %r3}, %rd10; add.s32 %r2, %r2, %r3; st.global.b32 [%rd3], %r2;")
        np.testing.assert_array_equal(out, np.arange(32) + 6 - (np.arange(32) == 0))


if __name__ == "__main__":
    unittest.main()
