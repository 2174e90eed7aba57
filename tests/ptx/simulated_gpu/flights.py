"""Registers that asynchronous instructions of warpgroups work on while their threads go on. Results are there at once here, which hides
that a thread is too early; this account of who used which register since which fence finds it.

The rules are those of PTX ISA 9.7.15.7 (wgmma.fence, wgmma.wait_group):
  * nobody touches an accumulator, or a register with a part of A, until a wait covers its wgmma; only a wgmma of the same shape may
    go on with the accumulators, and others may read A;
  * between an instruction that touches a register and a wgmma that does there is a wgmma.fence. Reading A before it is read again is
    no hazard, and no fault here.
"""

import numpy as np

from . import Fault

STORES = {"st", "cp"}  # what their first operand names they read
ORDINARY = 0  # as a writer; others are wgmmas, by their shape


def is_product(instruction):
    return instruction.parts[:2] == ["wgmma", "mma_async"]


class Flights:
    """What every thread did with each of the registers that a kernel's wgmmas name; other registers need no account."""

    def __init__(self, kernel, count):
        self.rows = {}  # of the tables below, by register
        for i in filter(is_product, kernel.code):
            for operand in i.operands[:2]:
                if operand.kind == "vector":  # no descriptor
                    for register in operand.registers():
                        self.rows.setdefault(register, len(self.rows))
        table = lambda: np.full((len(self.rows), count), -1, np.int32)
        self.wrote, self.read = table(), table()  # fences before the last time
        self.writer = table()
        self.accumulates, self.multiplies = table(), table()  # group of the last wgmma that has it as accumulator, as A
        self.fences, self.committed, self.complete = (np.zeros(count, np.int32) for _ in range(3))

    def guard(self, threads, i, run):
        """The instruction `run` with an account of its registers, if it has any of these."""
        if i.opcode == "wgmma" or not i.operands:  # a wgmma has its own
            return run
        written = [] if i.opcode in STORES else [r for e in i.operands[0].elements() for r in e.registers() if e.kind == "register"]
        reads = [r for o in i.operands for r in o.registers()]
        for register in written:
            reads.remove(register)
        written, reads = ([self.rows[r] for r in registers if r in self.rows] for registers in (written, reads))
        if not written and not reads:
            return run

        def guarded(at):
            who = slice(None) if at is None else at
            for row in [*reads, *written]:
                flying = np.maximum(self.accumulates[row, who], self.multiplies[row, who]) >= self.complete[who]
                if flying.any():
                    what = "written" if row in written else "read"
                    raise Fault(f"a register of a wgmma in flight is {what}, {threads.name(np.nonzero(flying)[0][0], at)}: {i.text}")
            for row in reads:
                self.read[row, who] = self.fences[who]
            for row in written:
                self.wrote[row, who], self.writer[row, who] = self.fences[who], ORDINARY
            run(at)

        return guarded

    def start(self, threads, i, shape, accumulators, multiplied, at):
        """A wgmma: `accumulators` and `multiplied` are the rows of its registers."""
        active = threads.indices(at)
        fences, complete = self.fences[active], self.complete[active]

        def refuse(what, wrong):
            if wrong.any():
                place = np.argwhere(wrong)[0][-1]
                raise Fault(f"{what}, {threads.name(place, at)}: {i.text}")

        refuse("no wgmma.fence before the first wgmma", fences == 0)
        d, a = np.ix_(accumulators, active), np.ix_(multiplied, active)
        refuse("an accumulator is a part of A of a wgmma in flight", self.multiplies[d] >= complete)
        refuse("an accumulator is one of a wgmma of another shape in flight", (self.accumulates[d] >= complete) & (self.writer[d] != shape))
        refuse("a part of A is an accumulator of a wgmma in flight", self.accumulates[a] >= complete)
        refuse("an accumulator was written since the last wgmma.fence", (self.wrote[d] == fences) & (self.writer[d] != shape))
        refuse("an accumulator was read since the last wgmma.fence", self.read[d] == fences)
        refuse("a part of A was written since the last wgmma.fence", self.wrote[a] == fences)
        self.wrote[d], self.writer[d], self.accumulates[d] = fences, shape, self.committed[active]
        self.read[a], self.multiplies[a] = fences, self.committed[active]
