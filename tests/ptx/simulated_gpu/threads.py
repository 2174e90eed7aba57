"""The registers of all threads, one array element a thread, and operands as functions of the active threads.

The active threads are an array of indices, `at`, or None for all of them, which needs no copy of what they read."""

import numpy as np

from . import WARP, WARPGROUP, Fault
from .flights import Flights
from .memory import SharedMemory
from .proxies import Proxies

TYPES = {
    "b8": np.uint8, "u8": np.uint8, "b16": np.uint16, "u16": np.uint16, "s16": np.int16, "b32": np.uint32, "u32": np.uint32, "s32": np.int32, "f32": np.float32,
    "b64": np.uint64, "u64": np.uint64, "s64": np.int64, "f64": np.float64, "pred": np.bool_,
}  # fmt: skip
SIZES = {kind: np.dtype(dtype).itemsize for kind, dtype in TYPES.items()}
WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}  # of that many bytes


class Threads:
    """Those of some blocks of one kernel, with all that their instructions may see."""

    def __init__(self, memory, kernel, blocks, per_block, shared, arguments, first_block):
        if per_block % WARP:
            raise Fault(f"{per_block} threads are no whole number of warps")
        if len(arguments) != len(kernel.parameters):
            raise Fault(f"{kernel.name} takes {len(kernel.parameters)} parameters, not {len(arguments)}")
        self.blocks, self.per_block = blocks, per_block
        self.count = blocks * per_block
        thread = np.arange(self.count)
        self.block = (thread // per_block).astype(np.int64)
        self.warp = (thread // WARP).astype(np.int32)
        self.warpgroup = self.block * -(-per_block // WARPGROUP) + thread % per_block // WARPGROUP
        self.special = {
            "tid.x": (thread % per_block).astype(np.uint32),
            "ctaid.x": (self.block + first_block).astype(np.uint32),
            "ntid.x": np.full(self.count, per_block, np.uint32),
        }
        self.arguments = dict(zip(kernel.parameters, arguments))
        self.registers = {name: np.zeros((size, self.count), TYPES[kind]) for name, (kind, size) in kernel.registers.items()}
        self.memory, self.shared = memory, SharedMemory(blocks, shared)
        self.epoch = np.zeros(blocks, np.int32)  # barriers that a block has passed
        self.groups = np.zeros(self.count, np.int32)  # of asynchronous copies, committed
        self.copies = []  # (threads, words of shared memory [thread, word], group of each)
        # Of kernels with asynchronous products; others need not pay for it.
        products = any(i.opcode == "wgmma" for i in kernel.code)
        self.flights = Flights(kernel, self.count) if products else None
        self.proxies = Proxies(self, len(self.shared.races.writer), WARPGROUP) if products else None

    def of(self, row, at):
        """The elements of the active threads."""
        return row if at is None else row[at]

    def row(self, operand):
        """A register of all threads."""
        return self.registers[operand.name][operand.index]

    def indices(self, at):
        return np.arange(self.count) if at is None else at

    def name(self, place, at):
        """The active thread at that place, for a message."""
        thread = place if at is None else at[place]
        return f"thread {thread % self.per_block} of block {thread // self.per_block}"

    def reader(self, operand, kind):
        """A function of the active threads that gives the operand's values."""
        dtype, size = TYPES[kind], SIZES[kind]
        if operand.kind == "register":
            row = self.row(operand)
            if size == 1 and row.dtype.itemsize == 2:  # st.b8 %rs: the lower half
                row = row.view(np.uint8)[::2]
            elif row.dtype != dtype:
                if row.dtype.itemsize != size:
                    raise Fault(f"register %{operand.name}{operand.index} read as {kind}")
                row = row.view(dtype)
            return lambda at: row if at is None else row[at]
        if operand.kind == "special":
            row = self.special[operand.name]
            return lambda at: row if at is None else row[at]
        if operand.kind == "bits":
            value = np.array([operand.value], np.uint32).view(dtype)[0]
        elif operand.kind == "integer" and kind == "pred":
            value = np.bool_(operand.value != 0)
        elif operand.kind == "integer":
            value = np.array([operand.value & (2 ** (8 * size) - 1)], WORDS[size]).view(dtype)[0]
        elif operand.kind == "symbol":  # dynamic shared memory starts at 0
            value = dtype(0)
        else:
            raise Fault(f"operand of kind {operand.kind}")
        return lambda at: np.full(self.count if at is None else len(at), value, dtype)

    def writer(self, operand, kind):
        """A function of the active threads and their values that puts these into the operand."""
        if operand.kind == "sink":
            return lambda at, values: None
        row, dtype = self.row(operand), TYPES[kind]
        # A narrow value goes into a wide register as it is, with zeros above: ld.global.b16 %r.
        if row.dtype != dtype and row.dtype.itemsize == SIZES[kind]:
            row = row.view(dtype)

        def write(at, values):
            row[slice(None) if at is None else at] = values

        return write

    def address(self, operand):
        base, offset = self.reader(operand.value, "s64"), operand.index
        return lambda at: base(at) + offset

    def elementwise(self, destination, kind, sources, source_kind, function):
        """What an instruction does that computes each thread's result from that thread's operands."""
        write, reads = self.writer(destination, kind), [self.reader(s, source_kind) for s in sources]
        return lambda at: write(at, function(*[r(at) for r in reads]))
