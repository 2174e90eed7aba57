"""A GPU in numpy: executes the PTX that flarec generates, so that machines without a GPU check its results.

One array element is one thread. The threads of all blocks that stand at the same instruction execute it together, and those that
stand at the lowest instruction go first, which brings threads of a structured program together again where their paths meet.

What it is strict about, beyond results:
  * every byte read was written before, lies in an allocation, and is aligned to the size of the access;
  * shared memory has no races between warps: for each word the last writer and reader, and the barriers since;
  * bytes that an asynchronous copy is to bring are not touched before its thread has waited for it;
  * instructions for a whole warp find all of its lanes there.
What it is not: a model of time. Approximations of the special function unit are rounded results here (their 1-2 ulp are missing), and
a tensor core's sum is exact and then cut to f32, where hardware cuts addends too.

The semantics are those of NVIDIA's PTX ISA (9.0), sections 9.7.1-9.7.15; fragments: 9.7.15.5.
"""

import re
from collections import Counter

import numpy as np

GLOBAL_BASE = 1 << 40  # the first global address: small integers are not addresses
FREE, ALLOCATED, WRITTEN = 0, 1, 2
WARP = 32
GRAIN = 2  # bytes of shared memory that are tracked together: the smallest access
WHOLE_WARP = {"shfl", "vote", "ldmatrix", "movmatrix", "mma"}
STEPS = 20_000_000  # more is a loop without end


class Fault(Exception):
    """What a GPU would get wrong or refuse."""


# ---- memory ----


class GlobalMemory:
    """A flat space of bytes with gaps between allocations."""

    def __init__(self, size=1 << 26):
        self.bytes = np.zeros(size, np.uint8)
        self.state = np.zeros(size, np.uint8)
        self.top = 4096
        self.views = views(self.bytes)
        self.states = views(self.state)

    def allocate(self, size, align=256):
        start = -(-self.top // align) * align
        self.top = start + size + 512
        if self.top > len(self.bytes):
            raise MemoryError(f"the simulated GPU has {len(self.bytes)} bytes")
        self.state[start : start + size] = ALLOCATED
        return GLOBAL_BASE + start

    def write(self, address, data):
        """Bytes from the host."""
        start = address - GLOBAL_BASE
        self.bytes[start : start + len(data)] = np.frombuffer(data, np.uint8)
        self.state[start : start + len(data)] = WRITTEN

    def read(self, address, size):
        start = address - GLOBAL_BASE
        if not (self.state[start : start + size] == WRITTEN).all():
            count = int((self.state[start : start + size] != WRITTEN).sum())
            raise Fault(f"{count} of {size} bytes of a result were never written")
        return self.bytes[start : start + size].tobytes()


def views(array):
    return {1: array, 2: array.view(np.uint16), 4: array.view(np.uint32), 8: array.view(np.uint64)}


# All bytes of an access in state `WRITTEN`, or `ALLOCATED`.
WRITTEN_ALL = {1: 0x02, 2: 0x0202, 4: 0x02020202, 8: 0x0202020202020202}
WORD = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


class Shared:
    """Shared memory of every block, one after the other, with who touched each `GRAIN` of bytes last."""

    def __init__(self, blocks, size):
        self.size = -(-size // 16) * 16
        self.bytes = np.zeros(max(16, blocks * self.size), np.uint8)
        self.state = np.zeros_like(self.bytes)
        self.views, self.states = views(self.bytes), views(self.state)
        words = len(self.bytes) // GRAIN
        self.writer = np.full(words, -1, np.int32)
        self.write_epoch = np.full(words, -1, np.int32)
        self.reader = np.full(words, -1, np.int32)  # -2: several warps
        self.read_epoch = np.full(words, -1, np.int32)
        self.pending = np.zeros(words, bool)


# ---- programs ----


class Operand:
    __slots__ = ("kind", "name", "index", "value")

    def __init__(self, kind, name=None, index=None, value=None):
        self.kind, self.name, self.index, self.value = kind, name, index, value


class Instruction:
    __slots__ = ("text", "opcode", "parts", "operands", "predicate", "negated", "target")


class Kernel:
    """One .entry, parsed."""

    def __init__(self, name, parameters, body):
        self.name, self.parameters = name, parameters
        self.code, labels, self.registers = [], {}, {}
        for declaration in re.finditer(r"\.reg\s+\.(\w+)\s+%(\w+)<(\d+)>", body):
            self.registers[declaration[2]] = (declaration[1], int(declaration[3]))
        for statement in statements(body):
            if statement.endswith(":"):
                labels[statement[:-1]] = len(self.code)
            elif not statement.startswith("."):
                self.code.append(parse_instruction(statement))
        for instruction in self.code:
            instruction.target = labels[instruction.operands[0].name] if instruction.opcode == "bra" else None


def statements(body):
    """Statements without their semicolons, and labels with their colons."""
    for text in body.split(";"):
        text = re.sub(r"\s+", " ", text).strip()
        while match := re.match(r"(\$?[\w$]+):\s*", text):
            yield match[1] + ":"
            text = text[match.end() :]
        if text:
            yield text


def parse_module(text):
    """The kernels of a PTX module by name."""
    text = re.sub(r"//[^\n]*", "", text)
    kernels = {}
    for match in re.finditer(r"\.visible\s+\.entry\s+([\w$]+)\s*\((.*?)\)[^{]*\{(.*?)\n\}", text, re.S):
        parameters = re.findall(r"\.param\s+\.(\w+)\s+(?:\.ptr\s+)?(?:\.global\s+)?(?:\.align\s+\d+\s+)?([\w$]+)", match[2])
        kernels[match[1]] = Kernel(match[1], parameters, match[3])
    return kernels


def parse_instruction(text):
    i = Instruction()
    i.text = text
    i.predicate, i.negated = None, False
    if match := re.match(r"@(!?)%p(\d+)\s+", text):
        i.predicate, i.negated = int(match[2]), bool(match[1])
        text = text[match.end() :]
    opcode, _, rest = text.partition(" ")
    i.parts = opcode.split(".")
    i.opcode = i.parts[0]
    i.operands = [parse_operand(o.strip()) for o in re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s][^,]*", rest)]
    return i


def parse_operand(text):
    if text[0] == "{":
        return Operand("vector", value=[parse_operand(o.strip()) for o in text[1:-1].split(",")])
    if text[0] == "[":
        match = re.fullmatch(r"\[\s*([%\w$]+)\s*(?:\+\s*(-?\d+))?\s*\]", text)
        base = parse_operand(match[1])
        return Operand("address", value=base, index=int(match[2] or 0), name=match[1])
    if text == "_":
        return Operand("sink")
    if match := re.fullmatch(r"%(rd|rs|r|p|f|fd)(\d+)", text):
        return Operand("register", name=match[1], index=int(match[2]))
    if match := re.fullmatch(r"%((?:n?tid|n?ctaid)\.[xyz])", text):
        return Operand("special", name=match[1])
    if match := re.fullmatch(r"0f([0-9A-Fa-f]{8})", text):
        return Operand("bits", value=int(match[1], 16))
    if match := re.fullmatch(r"-?(?:0x[0-9a-fA-F]+|\d+)", text):
        return Operand("integer", value=int(text, 0))
    return Operand("symbol", name=text)


# ---- execution ----

TYPES = {
    "b16": np.uint16, "u16": np.uint16, "s16": np.int16, "b32": np.uint32, "u32": np.uint32, "s32": np.int32, "f32": np.float32,
    "b64": np.uint64, "u64": np.uint64, "s64": np.int64, "f64": np.float64, "pred": np.bool_,
}  # fmt: skip
SIZES = {"b16": 2, "u16": 2, "s16": 2, "b32": 4, "u32": 4, "s32": 4, "f32": 4, "b64": 8, "u64": 8, "s64": 8, "f64": 8}


def bf16_to_f32(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def f32_to_bf16(x):
    """Round to nearest even; every NaN is 0x7fff."""
    u = x.view(np.uint32)
    rounded = ((u + np.uint32(0x7FFF) + ((u >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7FFF), rounded)


def f16_to_f32(bits):
    return bits.astype(np.uint16).view(np.float16).astype(np.float32)


def f32_to_f16(x):
    return np.where(np.isnan(x), np.uint16(0x7FFF), x.astype(np.float16).view(np.uint16))


def flush(x):
    """Denormals to zero, with their sign."""
    return np.where(np.abs(x) < np.float32(1.17549435e-38), np.copysign(np.float32(0), x), x)


def cut_to_f32(x):
    """A float64 cut towards zero."""
    y = x.astype(np.float32)
    over = np.abs(y.astype(np.float64)) > np.abs(x)
    return np.where(over & np.isfinite(x), np.nextafter(y, np.float32(0)), y)


def max_nan(x, y):
    return np.where(np.isnan(x) | np.isnan(y), np.float32(np.nan), np.maximum(x, y))


COMPARE = {"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal}
BINARY = {
    "add": np.add, "sub": np.subtract, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and, "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}  # fmt: skip
UNARY_F32 = {
    "ex2": lambda x: flush(np.exp2(flush(x).astype(np.float64)).astype(np.float32)),
    "lg2": lambda x: np.log2(flush(x).astype(np.float64)).astype(np.float32),
    "rcp": lambda x: (1.0 / x.astype(np.float64)).astype(np.float32),
    "sqrt": lambda x: np.sqrt(x.astype(np.float64)).astype(np.float32),
    "rsqrt": lambda x: (1.0 / np.sqrt(x.astype(np.float64))).astype(np.float32),
}


class Launch:
    """A grid of blocks that runs one kernel to its end."""

    def __init__(self, memory, kernel, blocks, threads, shared, arguments, first_block=0):
        if threads % WARP:
            raise Fault(f"{threads} threads are no whole number of warps")
        if len(arguments) != len(kernel.parameters):
            raise Fault(f"{kernel.name} takes {len(kernel.parameters)} parameters, not {len(arguments)}")
        self.memory, self.kernel = memory, kernel
        self.blocks, self.threads = blocks, threads
        self.count = n = blocks * threads
        thread = np.arange(n)
        self.block = (thread // threads).astype(np.int64)
        self.warp = (thread // WARP).astype(np.int32)
        self.special = {
            "tid.x": (thread % threads).astype(np.uint32),
            "ctaid.x": (self.block + first_block).astype(np.uint32),
            "ntid.x": np.full(n, threads, np.uint32),
        }
        self.shared = Shared(blocks, shared)
        self.shared_base = self.block * self.shared.size
        self.epoch = np.zeros(blocks, np.int32)
        self.arguments = dict(zip((name for _, name in kernel.parameters), arguments))
        self.files = {name: np.zeros((size, n), TYPES[kind]) for name, (kind, size) in kernel.registers.items()}
        self.groups = np.zeros(n, np.int32)  # of asynchronous copies, committed
        self.copies = []  # (threads, words of shared memory [thread, word], group of each)
        self.executed = np.zeros(len(kernel.code), np.int64)  # threads that executed each instruction
        self.runners = [self.compile(i) for i in kernel.code]

    # -- operands --

    def reader(self, operand, kind):
        """A function of the active threads (an index array, or None for all) that gives the operand's values."""
        dtype = TYPES[kind]
        if operand.kind == "register":
            row = self.files[operand.name][operand.index]
            if row.dtype != dtype:
                if row.dtype.itemsize != np.dtype(dtype).itemsize:
                    raise Fault(f"register %{operand.name}{operand.index} read as {kind}")
                row = row.view(dtype)
            return lambda at: row if at is None else row[at]
        if operand.kind == "special":
            row = self.special[operand.name]
            return lambda at: row if at is None else row[at]
        if operand.kind == "bits":
            value = np.array([operand.value], np.uint32).view(dtype)[0]
        elif operand.kind == "integer":
            value = np.array([operand.value & (2 ** (8 * np.dtype(dtype).itemsize) - 1)], np.uint64).astype(WORD[np.dtype(dtype).itemsize]) \
                if kind != "pred" else np.array([operand.value != 0])  # fmt: skip
            value = value.view(dtype)[0]
        elif operand.kind == "symbol":  # dynamic shared memory starts at 0
            value = dtype(0)
        else:
            raise Fault(f"operand of kind {operand.kind}")
        return lambda at: np.full(self.count if at is None else len(at), value, dtype)

    def writer(self, operand, kind):
        if operand.kind == "sink":
            return lambda at, values: None
        row = self.files[operand.name][operand.index]
        dtype = TYPES[kind]
        if row.dtype.itemsize != np.dtype(dtype).itemsize:
            # A narrow value in a wide register: ld.global.b16 %r.
            wide = row

            def write_wide(at, values):
                wide[slice(None) if at is None else at] = values

            return write_wide
        row = row.view(dtype) if row.dtype != dtype else row

        def write(at, values):
            row[slice(None) if at is None else at] = values

        return write

    def elements(self, operand):
        return operand.value if operand.kind == "vector" else [operand]

    # -- compilation of an instruction to a function of the active threads --

    def compile(self, i):
        method = getattr(self, "op_" + i.opcode, None)
        if method is None:
            raise Fault(f"the simulator has no {'.'.join(i.parts)}: {i.text}")
        run = method(i, i.parts, i.operands)
        if i.predicate is None or i.opcode == "bra":
            return run
        row, wanted = self.files["p"][i.predicate], not i.negated

        def predicated(at):
            active = row if at is None else row[at]
            chosen = np.nonzero(active == wanted)[0]
            if len(chosen):
                run(chosen if at is None else at[chosen])

        return predicated

    def simple(self, destination, kind, sources, source_kind, function):
        write, reads = self.writer(destination, kind), [self.reader(s, source_kind) for s in sources]
        return lambda at: write(at, function(*[r(at) for r in reads]))

    def binary(self, i, p, o):
        kind = p[-1]
        if i.opcode == "max" and "NaN" in p:
            return self.simple(o[0], kind, o[1:], kind, max_nan)
        if i.opcode in ("min", "max") and kind == "f32":
            return self.simple(o[0], kind, o[1:], kind, np.fmin if i.opcode == "min" else np.fmax)
        finish = flush if "ftz" in p else (lambda x: x)
        function = BINARY[i.opcode]
        return self.simple(o[0], kind, o[1:], kind, lambda x, y: finish(function(x, y)))

    op_add = op_sub = op_min = op_max = op_and = op_or = op_xor = binary

    def op_not(self, i, p, o):
        return self.simple(o[0], p[-1], o[1:], p[-1], np.logical_not if p[-1] == "pred" else np.invert)

    def op_neg(self, i, p, o):
        return self.simple(o[0], p[-1], o[1:], p[-1], np.negative)

    def op_abs(self, i, p, o):
        return self.simple(o[0], p[-1], o[1:], p[-1], np.abs)

    def op_mul(self, i, p, o):
        kind = p[-1]
        if kind == "f32":
            return self.simple(o[0], kind, o[1:], kind, np.multiply)
        if p[1] == "lo":
            return self.simple(o[0], kind, o[1:], kind, np.multiply)
        wide = {"u16": ("u32", np.uint32), "u32": ("u64", np.uint64), "s16": ("s32", np.int32), "s32": ("s64", np.int64)}[kind]
        if p[1] == "wide":
            return self.simple(o[0], wide[0], o[1:], kind, lambda x, y: x.astype(wide[1]) * y.astype(wide[1]))
        return self.simple(o[0], kind, o[1:], kind, lambda x, y: ((x.astype(wide[1]) * y.astype(wide[1])) >> 8 * SIZES[kind]).astype(TYPES[kind]))

    def op_mad(self, i, p, o):
        if p[1] != "lo":
            raise Fault(f"the simulator has no {i.text}")
        return self.simple(o[0], p[-1], o[1:], p[-1], lambda x, y, z: x * y + z)

    def op_fma(self, i, p, o):
        # The product of two f32 is exact in f64; the sum is rounded twice, which differs once in 2^29.
        return self.simple(o[0], "f32", o[1:], "f32", lambda x, y, z: (x.astype(np.float64) * y + z).astype(np.float32))

    def op_div(self, i, p, o):
        kind = p[-1]
        if kind == "f32":
            return self.simple(o[0], kind, o[1:], kind, np.divide)
        return self.simple(o[0], kind, o[1:], kind, lambda x, y: x // np.where(y == 0, TYPES[kind](1), y))

    def op_rem(self, i, p, o):
        return self.simple(o[0], p[-1], o[1:], p[-1], lambda x, y: x % np.where(y == 0, TYPES[p[-1]](1), y))

    def shift(self, i, p, o):
        kind = p[-1]
        bits, function = 8 * SIZES[kind], np.left_shift if i.opcode == "shl" else np.right_shift
        write, value, amount = self.writer(o[0], kind), self.reader(o[1], kind), self.reader(o[2], "u32")

        def run(at):
            n, x = amount(at), value(at)
            result = function(x, np.minimum(n, bits - 1).astype(x.dtype))
            gone = 0 if i.opcode == "shl" or kind[0] != "s" else result
            write(at, np.where(n >= bits, gone, result))

        return run

    op_shl = op_shr = shift

    def op_bfe(self, i, p, o):
        return self.simple(o[0], "u32", o[1:], "u32", lambda x, start, size: (x >> start) & ((np.uint32(1) << size) - np.uint32(1)))

    def special_unit(self, i, p, o):
        return self.simple(o[0], "f32", o[1:], "f32", UNARY_F32[i.opcode])

    op_ex2 = op_lg2 = op_rcp = op_sqrt = op_rsqrt = special_unit

    def op_selp(self, i, p, o):
        write, yes, no, which = self.writer(o[0], p[-1]), self.reader(o[1], p[-1]), self.reader(o[2], p[-1]), self.reader(o[3], "pred")
        return lambda at: write(at, np.where(which(at), yes(at), no(at)))

    def op_setp(self, i, p, o):
        unordered = p[1].endswith("u") and p[-1] == "f32"
        compare = COMPARE[p[1][:2]]
        write, a, b = self.writer(o[0], "pred"), self.reader(o[1], p[-1]), self.reader(o[2], p[-1])

        def run(at):
            x, y = a(at), b(at)
            result = compare(x, y)
            if p[1] == "ne" and p[-1] == "f32":
                result &= ~(np.isnan(x) | np.isnan(y))
            write(at, result | np.isnan(x) | np.isnan(y) if unordered else result)

        return run

    def op_mov(self, i, p, o):
        kind = p[-1]
        if o[0].kind == "vector":  # {low, high}, 32 bits
            parts, source = [self.writer(e, "b16") for e in o[0].value], self.reader(o[1], "b32")

            def unpack(at):
                x = source(at)
                parts[0](at, (x & 0xFFFF).astype(np.uint16))
                parts[1](at, (x >> 16).astype(np.uint16))

            return unpack
        if o[1].kind == "vector":
            low, high = (self.reader(e, "b16") for e in o[1].value)
            write = self.writer(o[0], "b32")
            return lambda at: write(at, low(at).astype(np.uint32) | (high(at).astype(np.uint32) << 16))
        return self.simple(o[0], kind, o[1:], kind, lambda x: x)

    def op_cvt(self, i, p, o):
        to, source = p[-2], p[-1]
        if to in ("bf16x2", "f16x2"):
            narrow = f32_to_bf16 if to == "bf16x2" else f32_to_f16
            write, high, low = self.writer(o[0], "b32"), self.reader(o[1], "f32"), self.reader(o[2], "f32")
            return lambda at: write(at, (narrow(high(at)).astype(np.uint32) << 16) | narrow(low(at)))
        if to == "tf32":  # to nearest, ties away from zero
            half, mask = np.uint32(0x1000), np.uint32(0xFFFFE000)
            special = lambda u: (u & 0x7F800000) == 0x7F800000
            return self.simple(o[0], "b32", o[1:], "b32", lambda u: np.where(special(u), u, (u + half) & mask))
        if to in ("bf16", "f16") and source == "f32":
            return self.simple(o[0], "b16", o[1:], "f32", f32_to_bf16 if to == "bf16" else f32_to_f16)
        if source in ("bf16", "f16") and to == "f32":
            return self.simple(o[0], "f32", o[1:], "b16", bf16_to_f32 if source == "bf16" else f16_to_f32)
        if "f32" in (to, source) and to != "f32":
            raise Fault(f"the simulator has no {i.text}")
        return self.simple(o[0], to, o[1:], source, lambda x: x.astype(TYPES[to]))

    # -- memory --

    def op_ld(self, i, p, o):
        space, kind = p[1], p[-1]
        if space == "param":
            value = self.arguments[o[1].name]
            write = self.writer(o[0], kind)
            if kind not in ("b32", "b64"):
                raise Fault(f"the simulator has no {i.text}")
            bits = np.float32(value).view(np.uint32) if isinstance(value, float) else np.int64(value).view(np.uint64)
            bits = bits.astype(TYPES[kind])
            return lambda at: write(at, bits)
        size = SIZES[kind]
        parts = self.elements(o[0])
        writes = [self.writer(e, kind) for e in parts]
        address = self.address(o[1])
        memory = self.memory if space == "global" else self.shared
        widened = parts[0].kind == "register" and self.files[parts[0].name].dtype.itemsize != size
        word = WORD[size]

        def run(at):
            where = address(at)
            start = self.check(i, space, where, size, len(parts), at, False)
            for e, write in enumerate(writes):
                values = memory.views[size][start + e]
                write(at, values if widened else values.view(TYPES[kind]) if TYPES[kind] != word else values)

        return run

    def op_st(self, i, p, o):
        space, kind = p[1], p[-1]
        size, parts = SIZES[kind], self.elements(o[1])
        reads = [self.reader(e, "b" + str(8 * size)) for e in parts]
        address = self.address(o[0])
        memory = self.memory if space == "global" else self.shared

        def run(at):
            start = self.check(i, space, address(at), size, len(parts), at, True)
            for e, read in enumerate(reads):
                memory.views[size][start + e] = read(at)
                memory.states[size][start + e] = WRITTEN_ALL[size]

        return run

    def address(self, operand):
        base, offset = self.reader(operand.value, "s64"), operand.index
        return lambda at: base(at) + offset

    def check(self, i, space, where, size, parts, at, is_write, asynchronous=False):
        """The index of the access's first element in the view of that size; faults where the access is wrong."""
        total = size * parts
        if (where % total).any():
            raise Fault(f"misaligned {'store' if is_write else 'load'}: {self.describe(i, where, where % total != 0, at)}")
        if space == "global":
            start = where - GLOBAL_BASE
            memory = self.memory
            wrong = (start < 0) | (start + total > len(memory.bytes))
        else:
            memory = self.shared
            wrong = (where < 0) | (where + total > memory.size)
            start = where + (self.shared_base if at is None else self.shared_base[at])
        if wrong.any():
            raise Fault(f"outside of {space} memory: {self.describe(i, where, wrong, at)}")
        index = start // size
        for e in range(parts):
            state = memory.states[size][index + e]
            if not is_write and (state != WRITTEN_ALL[size]).any():
                raise Fault(f"{space} memory read that was never written: {self.describe(i, where, state != WRITTEN_ALL[size], at)}")
            if is_write and space == "global" and ((state & 3) == FREE).any():
                raise Fault(f"outside of every allocation: {self.describe(i, where, (state & 3) == FREE, at)}")
        if space == "shared":
            words = start // GRAIN if total <= GRAIN else (start // GRAIN)[:, None] + np.arange(total // GRAIN)
            self.race_check(i, words, at, is_write, asynchronous)
        return index

    def race_check(self, i, words, at, is_write, asynchronous):
        s = self.shared
        warp = self.warp if at is None else self.warp[at]
        epoch = self.epoch[self.block if at is None else self.block[at]]
        if words.ndim == 2:
            warp, epoch = np.broadcast_to(warp[:, None], words.shape), np.broadcast_to(epoch[:, None], words.shape)

        def fault(hazard, wrong):
            place = np.argwhere(wrong)[0][0]
            thread = place if at is None else at[place]
            raise Fault(f"{hazard} in shared memory, thread {thread % self.threads} of block {thread // self.threads}: {i.text}")

        if s.pending[words].any():
            fault("access before an asynchronous copy has arrived", s.pending[words])
        raced = (s.write_epoch[words] == epoch) & (s.writer[words] != warp)
        if raced.any():
            fault("write after write" if is_write else "read after write", raced)
        if is_write:
            raced = (s.read_epoch[words] == epoch) & (s.reader[words] != warp)
            if raced.any():
                fault("write after read", raced)
            if asynchronous:
                s.pending[words] = True
            s.writer[words], s.write_epoch[words] = warp, epoch
        else:
            several = (s.read_epoch[words] == epoch) & (s.reader[words] != warp)
            s.reader[words] = np.where(several, -2, warp)
            lost = (s.reader[words] != warp) & (s.reader[words] != -2)  # two warps in this very instruction
            s.reader[words[lost]] = -2
            s.read_epoch[words] = epoch

    def describe(self, i, where, wrong, at):
        place = np.nonzero(wrong)[0][0]
        thread = place if at is None else at[place]
        return (
            f"{int(wrong.sum())} of {len(where)} threads, first: thread {thread % self.threads} of block {thread // self.threads}, "
            f"address {int(where[place]):#x}: {i.text}"
        )

    def op_cp(self, i, p, o):
        if p[2] == "commit_group":
            def commit(at):
                self.groups[slice(None) if at is None else at] += 1
            return commit  # fmt: skip
        if p[2] in ("wait_group", "wait_all"):
            return self.wait(0 if p[2] == "wait_all" else o[0].value)
        size = o[2].value
        to, source = self.address(o[0]), self.address(o[1])
        taken = self.reader(o[3], "u32") if len(o) > 3 else None

        def copy(at):
            threads = np.arange(self.count) if at is None else at
            where = source(at)
            count = np.full(len(threads), size) if taken is None else taken(at).astype(np.int64)
            if ((count != 0) & (count != size)).any():
                raise Fault(f"a part of a copy: {i.text}")
            start = self.check(i, "shared", to(at), 4, size // 4, at, True, asynchronous=True)
            reads = np.nonzero(count)[0]
            if len(reads):
                self.check(i, "global", where[reads], 4, size // 4, reads if at is None else at[reads], False)
            origin = np.where(count != 0, (where - GLOBAL_BASE) // 4, 0)
            for e in range(size // 4):
                self.shared.views[4][start + e] = np.where(count != 0, self.memory.views[4][np.where(count != 0, origin + e, 0)], 0)
                self.shared.states[4][start + e] = WRITTEN_ALL[4]
            self.copies.append((threads, start[:, None] * (4 // GRAIN) + np.arange(size // GRAIN), self.groups[threads]))

        return copy

    def wait(self, allowed):
        def run(at):
            waiting = np.zeros(self.count, bool)
            waiting[slice(None) if at is None else at] = True
            kept = []
            for threads, words, group in self.copies:
                arrived = waiting[threads] & (group < self.groups[threads] - allowed)
                done = words[arrived]
                s = self.shared
                s.pending[done] = False
                owners = threads[arrived]
                s.writer[done] = self.warp[owners][:, None]
                s.write_epoch[done] = self.epoch[self.block[owners]][:, None]
                if not arrived.all():
                    kept.append((threads[~arrived], words[~arrived], group[~arrived]))
            self.copies = kept

        return run

    # -- warps --

    def warps(self, i, at):
        """The active threads as [warp, lane]."""
        threads = np.arange(self.count) if at is None else at
        if len(threads) % WARP:
            raise Fault(f"a warp's lanes are apart: {i.text}")
        lanes = threads.reshape(-1, WARP)
        if (lanes[:, 0] % WARP).any() or (lanes[:, -1] - lanes[:, 0] != WARP - 1).any():
            raise Fault(f"a warp's lanes are apart: {i.text}")
        return lanes

    def op_shfl(self, i, p, o):
        if p[2] != "bfly":
            raise Fault(f"the simulator has no {i.text}")
        write, read, mask = self.writer(o[0], "b32"), self.reader(o[1], "b32"), o[2].value

        def run(at):
            self.warps(i, at)
            write(at, read(at).reshape(-1, WARP)[:, np.arange(WARP) ^ mask].reshape(-1))

        return run

    def op_vote(self, i, p, o):
        write, read = self.writer(o[0], "pred"), self.reader(o[1], "pred")
        function = {"all": np.all, "any": np.any}[p[2]]

        def run(at):
            self.warps(i, at)
            write(at, np.repeat(function(read(at).reshape(-1, WARP), axis=1), WARP))

        return run

    def op_ldmatrix(self, i, p, o):
        writes = [self.writer(e, "b32") for e in self.elements(o[0])]
        address, transposed = self.address(o[1]), "trans" in p
        lane = np.arange(WARP)

        def run(at):
            lanes = self.warps(i, at)
            rows = address(at).reshape(-1, WARP)
            for e, write in enumerate(writes):
                start = rows[:, 8 * e : 8 * e + 8]
                owners = lanes[:, 8 * e : 8 * e + 8].reshape(-1)
                first = self.check(i, "shared", start.reshape(-1), 4, 4, owners, False).reshape(-1, 8)
                matrix = self.shared.views[4][first[:, :, None] + np.arange(4)].view(np.uint16)  # [warp, row, column]
                pairs = [matrix[:, 2 * (lane % 4) + j, lane // 4] if transposed else matrix[:, lane // 4, 2 * (lane % 4) + j] for j in (0, 1)]
                write(at, (pairs[0].astype(np.uint32) | (pairs[1].astype(np.uint32) << 16)).reshape(-1))

        return run

    def op_movmatrix(self, i, p, o):
        write, read = self.writer(o[0], "b32"), self.reader(o[1], "b32")
        lane = np.arange(WARP)

        def run(at):
            self.warps(i, at)
            matrix = np.ascontiguousarray(read(at)).reshape(-1, 8, 4).view(np.uint16)  # lane = 4 row + column / 2
            low, high = matrix[:, 2 * (lane % 4), lane // 4], matrix[:, 2 * (lane % 4) + 1, lane // 4]
            write(at, (low.astype(np.uint32) | (high.astype(np.uint32) << 16)).reshape(-1))

        return run

    def op_mma(self, i, p, o):
        shape = next(s for s in p if re.fullmatch(r"m16n8k\d+", s))
        depth, kind = int(shape[5:].split("k")[1]), p[-3]
        writes = [self.writer(e, "f32") for e in o[0].value]
        a, b = ([self.reader(e, "b32") for e in v.value] for v in o[1:3])
        c = [self.reader(e, "f32") for e in o[3].value]
        lane = np.arange(WARP)
        g, t = lane // 4, lane % 4

        def halves(register):
            convert = bf16_to_f32 if kind == "bf16" else f16_to_f32
            return convert(register & 0xFFFF), convert(register >> 16)

        def run(at):
            count = len(self.warps(i, at))
            left, right = np.zeros((count, 16, depth)), np.zeros((count, depth, 8))
            registers = lambda reads: [r(at).reshape(-1, WARP) for r in reads]
            if kind == "tf32":
                values = lambda r: (r & np.uint32(0xFFFFE000)).view(np.float32)
                for j, r in enumerate(registers(a)):
                    left[:, g + 8 * (j % 2), t + 4 * (j // 2)] = values(r)
                for j, r in enumerate(registers(b)):
                    right[:, t + 4 * j, g] = values(r)
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

    # -- control: handled by the loop below --

    def op_bra(self, i, p, o):
        return None

    op_bar = op_barrier = op_ret = op_bra

    def run(self):
        """Executes; returns threads per opcode."""
        code, end = self.kernel.code, len(self.kernel.code)
        steps = 0
        counter = np.zeros(self.count, np.int64)
        waiting = np.zeros(self.count, bool)
        parked = np.zeros(self.count, bool)  # at an instruction for a whole warp, until its other lanes come
        alive = np.ones(self.count, bool)
        with np.errstate(all="ignore"):
            while alive.any():
                ready = alive & ~waiting & ~parked
                if not ready.any():
                    reason = "a warp's lanes are apart for good" if parked.any() else "some threads of a block wait at a barrier that others never reach"
                    raise Fault(f"{self.kernel.name}: {reason}")
                pc = int(counter[ready].min())
                here = alive & ~waiting & (counter == pc)
                parked[here] = False
                group = np.nonzero(here)[0]
                others = counter[ready & (counter != pc)]
                stops = set(counter[parked].tolist())
                meet = int(others.min()) if len(others) else end
                at = None if len(group) == self.count else group
                while True:
                    i = code[pc]
                    if at is not None and i.opcode in WHOLE_WARP:
                        lanes = np.bincount(group // WARP, minlength=self.count // WARP)[group // WARP]
                        if (lanes != WARP).any():
                            counter[group] = pc
                            parked[group[lanes != WARP]] = True
                            group = group[lanes == WARP]
                            if not len(group):
                                break
                            at = group
                    steps += 1
                    if steps > STEPS:
                        raise Fault(f"{self.kernel.name} does not end: {STEPS} instructions")
                    self.executed[pc] += len(group)
                    if i.opcode == "bra":
                        if i.predicate is None:
                            pc = i.target
                        else:
                            row = self.files["p"][i.predicate]
                            taken = (row[group] if at is not None else row) != i.negated
                            if taken.all():
                                pc = i.target
                            elif not taken.any():
                                pc += 1
                            else:
                                counter[group] = np.where(taken, i.target, pc + 1)
                                break
                    elif i.opcode in ("bar", "barrier"):
                        if i.parts[1] == "warp":
                            pc += 1
                        else:
                            counter[group] = pc + 1
                            waiting[group] = True
                            self.release(waiting, alive)
                            break
                    elif i.opcode == "ret":
                        alive[group] = False
                        self.release(waiting, alive)
                        break
                    else:
                        try:
                            self.runners[pc](at)
                        except Fault as fault:
                            raise Fault(f"{self.kernel.name}, instruction {pc}: {fault}") from None
                        pc += 1
                    # Others stand on the way or at a lower place: let those at the lowest place go first.
                    if pc >= meet or pc in stops:
                        counter[group] = pc
                        break
        counts = Counter()
        for i, n in zip(code, self.executed):
            counts[".".join(i.parts)] += int(n)
        return counts

    def release(self, waiting, alive):
        """Blocks all of whose threads wait, or have ended, pass their barrier."""
        here = (waiting | ~alive).reshape(self.blocks, self.threads).all(1)
        passing = here & waiting.reshape(self.blocks, self.threads).any(1)
        self.epoch[passing] += 1
        waiting.reshape(self.blocks, self.threads)[passing] = False


def launch(memory, kernel, blocks, threads, shared, arguments, together=4096):
    """Runs a grid, at most `together` threads at a time (blocks do not speak to each other). Returns threads per opcode."""
    counts = Counter()
    step = max(1, together // threads)
    for first in range(0, blocks, step):
        counts += Launch(memory, kernel, min(step, blocks - first), threads, shared, arguments, first).run()
    return counts
