"""Instructions that the four warps of a warpgroup execute together, on Hopper (PTX ISA 9.7.15): products whose B, and perhaps A, is in
shared memory, and what tells when they are done. Functions as in arithmetic.

A product is computed where it is issued; flights and proxies keep account of what nobody may touch until it is waited for."""

import re

import numpy as np

from . import WARP, WARPGROUP, Fault
from .checks import check
from .descriptors import DEPTH, chunks
from .flights import is_product
from .races import GRAIN
from .rounding import bf16_to_f32, cut_to_f32, f16_to_f32

ROWS = 64
CONVERT = {"bf16": bf16_to_f32, "f16": f16_to_f32}
# Of a thread in its warpgroup: its place in the fragments of a warp's 16 rows, which are those of mma.m16n8k16.
THREAD = np.arange(WARPGROUP)
ROW, COLUMN = THREAD // WARP * 16 + THREAD % WARP // 4, 2 * (THREAD % 4)


def warpgroups(threads, i, at):
    """The active threads as [warpgroup, thread]."""
    active = threads.indices(at)
    if len(active) % WARPGROUP == 0:
        members = active.reshape(-1, WARPGROUP)
        if (threads.warpgroup[members] == threads.warpgroup[members[:, :1]]).all():
            return members
    raise Fault(f"a warpgroup's warps are apart: {i.text}")


def wgmma(threads, i, p, o):
    if is_product(i):
        return multiply(threads, i, p, o)
    flights, proxies = threads.flights, threads.proxies
    if p[2:] != ["sync", "aligned"] or p[1] not in ("fence", "commit_group", "wait_group"):
        raise Fault(f"the simulator has no {i.text}")

    def fence(active):
        flights.fences[active] += 1

    def commit_group(active):
        flights.committed[active] += 1

    def wait_group(active):
        flights.complete[active] = np.maximum(flights.complete[active], flights.committed[active] - o[0].value)
        waiting = np.zeros(threads.count, bool)
        waiting[active] = True
        proxies.finish(threads.shared.races, waiting, flights.complete, threads.epoch)

    run = {"fence": fence, "commit_group": commit_group, "wait_group": wait_group}[p[1]]
    return lambda at: run(warpgroups(threads, i, at).reshape(-1))


def fence(threads, i, p, o):
    if p[1:] not in (["proxy", "async"], ["proxy", "async", "shared::cta"]):
        raise Fault(f"the simulator has no {i.text}")
    if threads.proxies is None:  # nobody reads that way
        return lambda at: None
    return lambda at: threads.proxies.fence(threads.indices(at), threads.epoch[threads.of(threads.block, at)])


def multiply(threads, i, p, o):
    """The sum is exact and then cut to f32; hardware cuts addends too."""
    shape = re.fullmatch(r"wgmma\.mma_async\.sync\.aligned\.m64n(\d+)k16\.f32\.(bf16\.bf16|f16\.f16)", ".".join(p))
    from_registers = o[1].kind == "vector"
    if not shape or len(o) != (7 if from_registers else 8):
        raise Fault(f"the simulator has no {i.text}")
    columns, convert = int(shape[1]), CONVERT[p[-1]]
    signs, transposed = [e.value for e in o[4:6]], [bool(e.value) for e in o[6:]]
    accumulators = o[0].value if o[0].kind == "vector" else []
    registers = [r for e in o[:2] for r in e.registers() if e.kind == "vector"]
    if columns % 8 or not 8 <= columns <= 256 or len(accumulators) != columns // 2 or from_registers and len(o[1].value) != 4:
        raise Fault(f"a wgmma with wrong registers: {i.text}")
    # Parts of A may be in one register, if they are equal; ptxas copies it.
    if len({*registers[: columns // 2]}) != columns // 2 or {*registers[: columns // 2]} & {*registers[columns // 2 :]}:
        raise Fault(f"a wgmma with one register twice: {i.text}")
    if any(s not in (1, -1) for s in signs) or any(e.value not in (0, 1) for e in o[6:]):
        raise Fault(f"a wgmma with wrong immediates: {i.text}")
    rows = [threads.flights.rows[r] for r in registers]
    rows = rows[: columns // 2], rows[columns // 2 :]
    sources, writes = [threads.reader(e, "f32") for e in accumulators], [threads.writer(e, "f32") for e in accumulators]
    fragments = [threads.reader(e, "b32") for e in o[1].value] if from_registers else []
    adds = threads.reader(o[3], "pred")
    of_group = lambda values: values.reshape(-1, WARPGROUP)

    def one(values, what):
        """The value that all threads of each warpgroup must have."""
        values = of_group(values)
        if (values != values[:, :1]).any():
            raise Fault(f"a warpgroup's threads have different {what}: {i.text}")
        return values[:, 0]

    def fetch(descriptor, extent, transpose, at, leaders):
        """The matrix [warpgroup, row or column, k], and the words that it is in."""
        address = chunks(one(descriptor(at), "matrix descriptors"), extent, transpose, i.text)
        count, outer, inner = address.shape
        owners = np.repeat(leaders, outer * inner)
        first = check(threads, i, "shared", address.reshape(-1), 4, 4, owners, False, whole_warpgroup=True)
        words = first[:, None] * (4 // GRAIN) + np.arange(16 // GRAIN)
        if found := threads.proxies.unseen(words, threads.epoch[threads.block[owners]][:, None]):
            what, wrong = found
            writer = threads.name(threads.proxies.writer[words][wrong][0], None)
            raise Fault(f"{what} by {writer}, address {int(address.reshape(-1)[np.argwhere(wrong)[0][0]]):#x}: {i.text}")
        threads.proxies.start(words.reshape(count, -1), leaders, threads.flights.committed[leaders])
        values = convert(threads.shared.views[4][first[:, None] + np.arange(4)].view(np.uint16)).reshape(count, outer, inner * 8)
        return values.transpose(0, 2, 1) if transpose else values

    def run(at):
        leaders = warpgroups(threads, i, at)[:, 0]
        threads.flights.start(threads, i, columns, *rows, at)
        if from_registers:
            left = np.zeros((len(leaders), ROWS, DEPTH), np.float32)
            for j, read in enumerate(fragments):
                register = of_group(read(at))
                for e, half in enumerate((register & 0xFFFF, register >> 16)):
                    left[:, ROW + 8 * (j % 2), COLUMN + 8 * (j // 2) + e] = convert(half)
        else:
            left = fetch(descriptors[0], ROWS, transposed[0], at, leaders)
        right = fetch(descriptors[-1], columns, transposed[-1], at, leaders)
        product = (signs[0] * left.astype(np.float64)) @ (signs[1] * right.astype(np.float64)).transpose(0, 2, 1)
        added = one(adds(at), "scale-d")[:, None]
        for j, (read, write) in enumerate(zip(sources, writes)):
            part = product[:, ROW + 8 * (j // 2 % 2), COLUMN + j // 4 * 8 + j % 2]
            write(at, cut_to_f32(part + np.where(added, of_group(read(at)), 0)).reshape(-1))

    descriptors = [threads.reader(e, "b64") for e in o[1:3] if e.kind != "vector"]
    return run


OPCODES = {"wgmma": wgmma, "fence": fence}
