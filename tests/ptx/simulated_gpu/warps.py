"""Instructions that the 32 lanes of a warp execute together: they move values between lanes, or multiply matrices whose elements are
spread over them (the fragments of PTX ISA 9.7.14.5). Functions as in arithmetic."""

import re

import numpy as np

from . import WARP, Fault
from .checks import check
from .rounding import bf16_to_f32, cut_to_f32, f16_to_f32

LANE = np.arange(WARP)


def warps(threads, i, at):
    """The active threads as [warp, lane]."""
    active = threads.indices(at)
    if len(active) % WARP:
        raise Fault(f"a warp's lanes are apart: {i.text}")
    lanes = active.reshape(-1, WARP)
    if (lanes[:, 0] % WARP).any() or (lanes[:, -1] - lanes[:, 0] != WARP - 1).any():
        raise Fault(f"a warp's lanes are apart: {i.text}")
    return lanes


def pack(low, high):
    """Two halves [warp, lane] as the registers of threads."""
    return (low.astype(np.uint32) | (high.astype(np.uint32) << 16)).reshape(-1)


def shuffle(threads, i, p, o):
    if p[2] != "bfly":
        raise Fault(f"the simulator has no {i.text}")
    write, read, mask = threads.writer(o[0], "b32"), threads.reader(o[1], "b32"), o[2].value

    def run(at):
        warps(threads, i, at)
        write(at, read(at).reshape(-1, WARP)[:, LANE ^ mask].reshape(-1))

    return run


def vote(threads, i, p, o):
    write, read = threads.writer(o[0], "pred"), threads.reader(o[1], "pred")
    function = {"all": np.all, "any": np.any}[p[2]]

    def run(at):
        warps(threads, i, at)
        write(at, np.repeat(function(read(at).reshape(-1, WARP), axis=1), WARP))

    return run


def load_matrices(threads, i, p, o):
    """Lanes 8 e to 8 e + 7 have the addresses of the rows of matrix e."""
    writes = [threads.writer(e, "b32") for e in o[0].elements()]
    address, transposed = threads.address(o[1]), "trans" in p

    def run(at):
        lanes = warps(threads, i, at)
        rows = address(at).reshape(-1, WARP)
        for e, write in enumerate(writes):
            start, owners = rows[:, 8 * e : 8 * e + 8], lanes[:, 8 * e : 8 * e + 8]
            first = check(threads, i, "shared", start.reshape(-1), 4, 4, owners.reshape(-1), False).reshape(-1, 8)
            matrix = threads.shared.views[4][first[:, :, None] + np.arange(4)].view(np.uint16)  # [warp, row, column]
            if transposed:
                matrix = matrix.transpose(0, 2, 1)
            write(at, pack(matrix[:, LANE // 4, 2 * (LANE % 4)], matrix[:, LANE // 4, 2 * (LANE % 4) + 1]))

    return run


def transpose_matrix(threads, i, p, o):
    write, read = threads.writer(o[0], "b32"), threads.reader(o[1], "b32")

    def run(at):
        warps(threads, i, at)
        matrix = np.ascontiguousarray(read(at)).reshape(-1, 8, 4).view(np.uint16)  # lane = 4 row + column / 2
        write(at, pack(matrix[:, 2 * (LANE % 4), LANE // 4], matrix[:, 2 * (LANE % 4) + 1, LANE // 4]))

    return run


def multiply_matrices(threads, i, p, o):
    """The sum is exact and then cut to f32; hardware cuts addends too."""
    shape = next(s for s in p if re.fullmatch(r"m16n8k\d+", s))
    depth, kind = int(shape[5:].split("k")[1]), p[-3]
    writes = [threads.writer(e, "f32") for e in o[0].value]
    a, b = ([threads.reader(e, "b32") for e in v.value] for v in o[1:3])
    c = [threads.reader(e, "f32") for e in o[3].value]
    g, t = LANE // 4, LANE % 4

    def halves(register):
        convert = bf16_to_f32 if kind == "bf16" else f16_to_f32
        return convert(register & 0xFFFF), convert(register >> 16)

    def tf32(register):
        return (register & np.uint32(0xFFFFE000)).view(np.float32)

    def run(at):
        count = len(warps(threads, i, at))
        left, right = np.zeros((count, 16, depth)), np.zeros((count, depth, 8))
        registers = lambda reads: [r(at).reshape(-1, WARP) for r in reads]
        if kind == "tf32":
            for j, r in enumerate(registers(a)):
                left[:, g + 8 * (j % 2), t + 4 * (j // 2)] = tf32(r)
            for j, r in enumerate(registers(b)):
                right[:, t + 4 * j, g] = tf32(r)
        else:
            for j, r in enumerate(registers(a)):
                for e, x in enumerate(halves(r)):
                    left[:, g + 8 * (j % 2), 2 * t + e + 8 * (j // 2)] = x
            for j, r in enumerate(registers(b)):
                for e, x in enumerate(halves(r)):
                    right[:, 2 * t + e + 8 * j, g] = x
        product = left @ right
        for j, (r, write) in enumerate(zip(registers(c), writes)):
            write(at, cut_to_f32(product[:, g + 8 * (j // 2), 2 * t + j % 2] + r).reshape(-1))

    return run


OPCODES = {"shfl": shuffle, "vote": vote, "ldmatrix": load_matrices, "movmatrix": transpose_matrix, "mma": multiply_matrices}
