"""Instructions on registers alone. Each function here takes the threads, an instruction, the parts of its opcode and its operands,
and gives what the instruction does as a function of the active threads."""

import numpy as np

from . import Fault
from .rounding import bf16_to_f32, bits_to_tf32, f16_to_f32, f32_to_bf16, f32_to_f16, flush
from .threads import SIZES, TYPES

COMPARE = {"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal}
BINARY = {
    "add": np.add, "sub": np.subtract, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and, "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}  # fmt: skip
# The special function unit, without the 1-2 ulp that hardware is wrong by.
SPECIAL_UNIT = {
    "ex2": lambda x: flush(np.exp2(flush(x).astype(np.float64)).astype(np.float32)),
    "lg2": lambda x: np.log2(flush(x).astype(np.float64)).astype(np.float32),
    "rcp": lambda x: (1.0 / x.astype(np.float64)).astype(np.float32),
    "sqrt": lambda x: np.sqrt(x.astype(np.float64)).astype(np.float32),
    "rsqrt": lambda x: (1.0 / np.sqrt(x.astype(np.float64))).astype(np.float32),
}
WIDE = {"u16": "u32", "u32": "u64", "s16": "s32", "s32": "s64"}  # of a product


def max_nan(x, y):
    return np.where(np.isnan(x) | np.isnan(y), np.float32(np.nan), np.maximum(x, y))


def nonzero(y):
    """Division by zero is anything on a GPU: it must only not stop the simulator."""
    return np.where(y == 0, y.dtype.type(1), y)


def binary(threads, i, p, o):
    kind = p[-1]
    if kind == "f16x2":
        if i.opcode != "max" or "NaN" not in p:
            raise Fault(f"the simulator has no {i.text}")
        half = lambda v, at: f16_to_f32(((v >> np.uint32(at)) & np.uint32(0xFFFF)).astype(np.uint16))
        larger = lambda x, y, at: f32_to_f16(max_nan(half(x, at), half(y, at))).astype(np.uint32) << np.uint32(at)
        return threads.elementwise(o[0], "b32", o[1:], "b32", lambda x, y: larger(x, y, 0) | larger(x, y, 16))
    if i.opcode == "max" and "NaN" in p:
        function = max_nan
    elif i.opcode in ("min", "max") and kind == "f32":
        function = np.fmin if i.opcode == "min" else np.fmax
    elif "ftz" in p:
        function = lambda x, y: flush(BINARY[i.opcode](x, y))
    else:
        function = BINARY[i.opcode]
    return threads.elementwise(o[0], kind, o[1:], kind, function)


def invert(threads, i, p, o):
    return threads.elementwise(o[0], p[-1], o[1:], p[-1], np.logical_not if p[-1] == "pred" else np.invert)


def negate(threads, i, p, o):
    return threads.elementwise(o[0], p[-1], o[1:], p[-1], np.negative)


def absolute(threads, i, p, o):
    return threads.elementwise(o[0], p[-1], o[1:], p[-1], np.abs)


def multiply(threads, i, p, o):
    kind = p[-1]
    if kind == "f32" or p[1] == "lo":
        return threads.elementwise(o[0], kind, o[1:], kind, np.multiply)
    wide = TYPES[WIDE[kind]]
    product = lambda x, y: x.astype(wide) * y.astype(wide)
    if p[1] == "wide":
        return threads.elementwise(o[0], WIDE[kind], o[1:], kind, product)
    return threads.elementwise(o[0], kind, o[1:], kind, lambda x, y: (product(x, y) >> 8 * SIZES[kind]).astype(TYPES[kind]))


def multiply_add(threads, i, p, o):
    if p[1] != "lo":
        raise Fault(f"the simulator has no {i.text}")
    return threads.elementwise(o[0], p[-1], o[1:], p[-1], lambda x, y, z: x * y + z)


def fused_multiply_add(threads, i, p, o):
    if p[-1] == "bf16x2":
        # Exact in f64 but for sums of very different size, then one rounding (over f32's 24 bits, which f64's 53 make right but once in 2^29).
        def both(x, y, z):
            halves = []
            for half in (0, 16):
                a, b, c = (bf16_to_f32(((v >> half) & 0xFFFF).astype(np.uint16)).astype(np.float64) for v in (x, y, z))
                halves.append(f32_to_bf16((a * b + c).astype(np.float32)).astype(np.uint32) << np.uint32(half))
            return halves[0] | halves[1]

        return threads.elementwise(o[0], "b32", o[1:], "b32", both)
    if p[-1] != "f32":
        raise Fault(f"the simulator has no {i.text}")
    # The product of two f32 is exact in f64; the sum is rounded twice, which differs once in 2^29.
    return threads.elementwise(o[0], "f32", o[1:], "f32", lambda x, y, z: (x.astype(np.float64) * y + z).astype(np.float32))


def permute_bytes(threads, i, p, o):
    def pick(x, y, how):
        both, result = x.astype(np.uint64) | (y.astype(np.uint64) << np.uint64(32)), np.zeros_like(x)
        for byte in range(4):
            nibble = (how >> np.uint32(4 * byte)) & np.uint32(15)
            if (nibble & 8).any():
                raise Fault(f"the simulator has no replicated signs: {i.text}")
            result |= ((both >> (nibble.astype(np.uint64) * np.uint64(8))) & np.uint64(255)).astype(np.uint32) << np.uint32(8 * byte)
        return result

    return threads.elementwise(o[0], "b32", o[1:4], "b32", pick)


def any_logic(threads, i, p, o):
    table = int(str(o[4].value), 0)

    def look_up(x, y, z):
        result = np.zeros_like(x)
        for row in range(8):
            if table >> row & 1:
                result |= (x if row & 4 else ~x) & (y if row & 2 else ~y) & (z if row & 1 else ~z)
        return result

    return threads.elementwise(o[0], "b32", o[1:4], "b32", look_up)


def divide(threads, i, p, o):
    kind = p[-1]
    return threads.elementwise(o[0], kind, o[1:], kind, np.divide if kind == "f32" else lambda x, y: x // nonzero(y))


def remainder(threads, i, p, o):
    return threads.elementwise(o[0], p[-1], o[1:], p[-1], lambda x, y: x % nonzero(y))


def shift(threads, i, p, o):
    kind = p[-1]
    bits, function = 8 * SIZES[kind], np.left_shift if i.opcode == "shl" else np.right_shift
    write, value, amount = threads.writer(o[0], kind), threads.reader(o[1], kind), threads.reader(o[2], "u32")

    def run(at):
        n, x = amount(at), value(at)
        result = function(x, np.minimum(n, bits - 1).astype(x.dtype))
        gone = 0 if i.opcode == "shl" or kind[0] != "s" else result
        write(at, np.where(n >= bits, gone, result))

    return run


def extract_bits(threads, i, p, o):
    """bfe.s32 repeats the field's highest bit."""
    bits = int(p[-1][1:])
    unsigned, signed = np.dtype(f"u{bits // 8}").type, np.dtype(f"i{bits // 8}").type

    def run(x, start, size):
        start, size = np.asarray(start, unsigned), np.asarray(size, unsigned)
        high = np.asarray(x, unsigned) << (unsigned(bits) - start - size)
        down = unsigned(bits) - size
        return (high.view(signed) >> down.view(signed)).view(unsigned) if p[-1].startswith("s") else high >> down

    write, reads = threads.writer(o[0], f"u{bits}"), [threads.reader(o[1], f"u{bits}"), *(threads.reader(e, "u32") for e in o[2:])]
    return lambda at: write(at, run(*(read(at) for read in reads)))


def special_unit(threads, i, p, o):
    return threads.elementwise(o[0], "f32", o[1:], "f32", SPECIAL_UNIT[i.opcode])


def select(threads, i, p, o):
    write, which = threads.writer(o[0], p[-1]), threads.reader(o[3], "pred")
    yes, no = threads.reader(o[1], p[-1]), threads.reader(o[2], p[-1])
    return lambda at: write(at, np.where(which(at), yes(at), no(at)))


def compare(threads, i, p, o):
    unordered = p[1].endswith("u") and p[-1] == "f32"
    function = COMPARE[p[1][:2]]
    write, a, b = threads.writer(o[0], "pred"), threads.reader(o[1], p[-1]), threads.reader(o[2], p[-1])

    def run(at):
        x, y = a(at), b(at)
        result = function(x, y)
        if p[1] == "ne" and p[-1] == "f32":
            result &= ~(np.isnan(x) | np.isnan(y))
        write(at, result | np.isnan(x) | np.isnan(y) if unordered else result)

    return run


def move(threads, i, p, o):
    if "vector" in (o[0].kind, o[1].kind):  # {low, high}
        bits = 4 * SIZES[p[-1]]
        half, both = TYPES[f"b{bits}"], TYPES[f"b{2 * bits}"]
    if o[0].kind == "vector":
        (low, high), source = (threads.writer(e, f"b{bits}") for e in o[0].value), threads.reader(o[1], f"b{2 * bits}")

        def unpack(at):
            x = source(at)
            low(at, x.astype(half))
            high(at, (x >> both(bits)).astype(half))

        return unpack
    if o[1].kind == "vector":
        low, high = (threads.reader(e, f"b{bits}") for e in o[1].value)
        write = threads.writer(o[0], f"b{2 * bits}")
        return lambda at: write(at, low(at).astype(both) | (high(at).astype(both) << both(bits)))
    return threads.elementwise(o[0], p[-1], o[1:], p[-1], lambda x: x)


def convert(threads, i, p, o):
    to, source = p[-2], p[-1]
    if to in ("bf16x2", "f16x2"):
        narrow = f32_to_bf16 if to == "bf16x2" else f32_to_f16
        write, high, low = threads.writer(o[0], "b32"), threads.reader(o[1], "f32"), threads.reader(o[2], "f32")
        return lambda at: write(at, (narrow(high(at)).astype(np.uint32) << 16) | narrow(low(at)))
    if to == "tf32":
        return threads.elementwise(o[0], "b32", o[1:], "b32", bits_to_tf32)
    if to in ("bf16", "f16") and source == "f32":
        return threads.elementwise(o[0], "b16", o[1:], "f32", f32_to_bf16 if to == "bf16" else f32_to_f16)
    if source in ("bf16", "f16") and to == "f32":
        return threads.elementwise(o[0], "f32", o[1:], "b16", bf16_to_f32 if source == "bf16" else f16_to_f32)
    if source == "f32" and to != "f32":
        raise Fault(f"the simulator has no {i.text}")
    return threads.elementwise(o[0], to, o[1:], source, lambda x: x.astype(TYPES[to]))


OPCODES = {
    **dict.fromkeys(BINARY, binary), **dict.fromkeys(SPECIAL_UNIT, special_unit), "shl": shift, "shr": shift, "bfe": extract_bits,
    "not": invert, "neg": negate, "abs": absolute, "mul": multiply, "mad": multiply_add, "fma": fused_multiply_add,
    "div": divide, "rem": remainder, "selp": select, "setp": compare, "mov": move, "cvt": convert,
    "prmt": permute_bytes, "lop3": any_logic,
}  # fmt: skip
