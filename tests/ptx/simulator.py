"""A GPU in numpy: executes the PTX that flarec generates, so that machines without a GPU check its results.

One array element is one thread. The threads of all blocks that stand at the same instruction execute it together, and those that
stand at the lowest instruction go first, which brings threads of a structured program together again where their paths meet.

What it is strict about, beyond results:
  * every byte read was written before, lies in an allocation, and is aligned to the size of the access;
  * shared memory has no races between warps: for each word the last writer and reader, and the barriers since;
  * bytes that an asynchronous copy is to bring are not touched before its thread has waited for it;
  * instructions for a whole warp find all of its lanes there, those for a warpgroup its four warps;
  * registers and shared memory that asynchronous products (wgmma) work on are not touched before these were waited for, and what they
    read was made visible to them by fences.
What it is not: a model of time. Approximations of the special function unit are rounded results here (their 1-2 ulp are missing), and
a tensor core's sum is exact and then cut to f32, where hardware cuts addends too.

Here are the launch and the order in which threads go; simulated_gpu/ has what they execute.

The semantics are those of NVIDIA's PTX ISA (9.0), sections 9.7.1-9.7.15; fragments: 9.7.14.5, of a warpgroup's matrices 9.7.15.5.
"""

from collections import Counter

import numpy as np

from simulated_gpu import WARP, WARPGROUP, Fault, arithmetic, transfers, warpgroups, warps
from simulated_gpu.memory import GlobalMemory
from simulated_gpu.parsing import parse_module
from simulated_gpu.threads import Threads

__all__ = ["Fault", "GlobalMemory", "launch", "parse_module"]

OPCODES = {**arithmetic.OPCODES, **transfers.OPCODES, **warps.OPCODES, **warpgroups.OPCODES}
TEAMS = {**dict.fromkeys(warps.OPCODES, "warp"), "wgmma": "warpgroup"}  # whose threads must all be at the instruction
TEAM_SIZES = {"warp": WARP, "warpgroup": WARPGROUP}
CONTROL = {"bra", "bar", "barrier", "ret"}  # what they do is in Launch.run
STEPS = 20_000_000  # more is a loop without end


def launch(memory, kernel, blocks, threads, shared, arguments, together=4096):
    """Runs a grid, at most `together` threads at a time (blocks do not speak to each other). Returns threads per opcode."""
    counts = Counter()
    step = max(1, together // threads)
    for first in range(0, blocks, step):
        counts += Launch(kernel, Threads(memory, kernel, min(step, blocks - first), threads, shared, arguments, first)).run()
    return counts


class Launch:
    """Threads that run one kernel to its end."""

    def __init__(self, kernel, threads):
        self.kernel, self.threads = kernel, threads
        self.runners = [self.runner(i) for i in kernel.code]

    def runner(self, i):
        """The instruction as a function of the active threads."""
        if i.opcode in CONTROL:
            return None
        if i.opcode not in OPCODES:
            raise Fault(f"the simulator has no {'.'.join(i.parts)}: {i.text}")
        run = OPCODES[i.opcode](self.threads, i, i.parts, i.operands)
        if self.threads.flights:
            run = self.threads.flights.guard(self.threads, i, run)
        if i.predicate is None:
            return run
        row, wanted = self.threads.row(i.predicate), not i.negated

        def predicated(at):
            chosen = np.nonzero(self.threads.of(row, at) == wanted)[0]
            if len(chosen):
                run(chosen if at is None else at[chosen])

        return predicated

    def run(self):
        """Executes; returns threads per opcode."""
        code, end, count = self.kernel.code, len(self.kernel.code), self.threads.count
        executed = np.zeros(end, np.int64)  # threads that executed each instruction
        steps = 0
        counter = np.zeros(count, np.int64)
        waiting = np.zeros(count, bool)  # at a barrier
        self.named, self.votes = np.full(count, -1), np.zeros(count, bool)  # of those at one for a part of the block: which, and what they say
        parked = np.zeros(count, bool)  # at an instruction for a whole warp or warpgroup, until its other threads come
        alive = np.ones(count, bool)
        with np.errstate(all="ignore"):
            while alive.any():
                ready = alive & ~waiting & ~parked
                if not ready.any():
                    reason = "some threads of a block wait at a barrier that others never reach"
                    if parked.any():
                        several = all(TEAMS[code[pc].opcode] == "warpgroup" for pc in counter[parked])
                        reason = "a warpgroup's warps are apart for good" if several else "a warp's lanes are apart for good"
                    raise Fault(f"{self.kernel.name}: {reason}")
                pc = int(counter[ready].min())
                here = alive & ~waiting & (counter == pc)
                parked[here] = False
                group = np.nonzero(here)[0]
                others = counter[ready & (counter != pc)]
                stops = set(counter[parked].tolist())
                meet = int(others.min()) if len(others) else end
                at = None if len(group) == count else group
                while True:
                    i = code[pc]
                    if at is not None and i.opcode in TEAMS:
                        team, size = getattr(self.threads, TEAMS[i.opcode])[group], TEAM_SIZES[TEAMS[i.opcode]]
                        present = np.bincount(team)[team]
                        if (present != size).any():
                            counter[group] = pc
                            parked[group[present != size]] = True
                            group = group[present == size]
                            if not len(group):
                                break
                            at = group
                    steps += 1
                    if steps > STEPS:
                        raise Fault(f"{self.kernel.name} does not end: {STEPS} instructions")
                    executed[pc] += len(group)
                    if i.opcode == "bra":
                        if i.predicate is None:
                            pc = i.target
                        else:
                            taken = self.threads.of(self.threads.row(i.predicate), at) != i.negated
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
                            if "red" in i.parts:
                                self.reduce(i, group, at, waiting)
                            else:
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
        for i, n in zip(code, executed):
            counts[".".join(i.parts)] += int(n)
        return counts

    def reduce(self, i, group, at, waiting):
        """Threads come to a barrier for so many of their block, barrier.red.and.pred d, a, b, c; once all are there each gets whether c was true for all. Nothing is
        handed over through memory there, so no epoch ends."""
        threads = self.threads
        if [p for p in i.parts[1:] if p not in ("cta", "aligned")] != ["red", "and", "pred"]:
            raise Fault(f"the simulator has no {i.text}")
        result, number, size, says = i.operands
        broad = lambda read: np.broadcast_to(read, len(group))
        self.named[group] = broad(threads.reader(number, "b32")(at))
        self.votes[group] = broad(threads.reader(says, "pred")(at))
        counts = broad(threads.reader(size, "b32")(at))
        if (self.named[group] == 0).any() or (self.named[group] > 15).any():
            raise Fault(f"barriers of parts of a block are 1 to 15: {i.text}")
        write = threads.writer(result, "pred")
        for block in np.unique(threads.block[group]):
            for name in np.unique(self.named[group]):
                there = np.nonzero((threads.block == block) & (self.named == name) & waiting)[0]
                if len(there) == counts[0]:
                    write(there, np.full(len(there), self.votes[there].all()))
                    self.named[there], waiting[there] = -1, False
                elif len(there) > counts[0]:
                    raise Fault(f"more threads come to a barrier than it is for: {i.text}")

    def release(self, waiting, alive):
        """Blocks all of whose threads wait, or have ended, pass their barrier."""
        waiting, alive, named = (t.reshape(self.threads.blocks, self.threads.per_block) for t in (waiting, alive, self.named))
        passing = ((waiting & (named < 0)) | ~alive).all(1) & waiting.any(1)
        self.threads.epoch[passing] += 1
        waiting[passing] = False
