"""Instructions between registers, shared and global memory; those that do not wait (cp.async) too. Functions as in arithmetic."""

import numpy as np

from . import Fault
from .checks import check
from .memory import GLOBAL_BASE, WRITTEN_ALL
from .races import GRAIN
from .threads import SIZES, TYPES, WORDS


def load(threads, i, p, o):
    space, kind = p[1], p[-1]
    if space == "param":
        return load_parameter(threads, i, p, o)
    size, parts = SIZES[kind], o[0].elements()
    writes = [threads.writer(e, kind) for e in parts]
    address = threads.address(o[1])
    memory = threads.memory if space == "global" else threads.shared
    widened = parts[0].kind == "register" and threads.registers[parts[0].name].dtype.itemsize != size
    dtype = WORDS[size] if widened else TYPES[kind]

    def run(at):
        start = check(threads, i, space, address(at), size, len(parts), at, False)
        for e, write in enumerate(writes):
            write(at, memory.views[size][start + e].view(dtype))

    return run


def load_parameter(threads, i, p, o):
    """A slot of the launch: an integer of 64 bits, or the bits of an f32."""
    value, kind = threads.arguments[o[1].name], p[-1]
    if kind not in ("b32", "b64"):
        raise Fault(f"the simulator has no {i.text}")
    bits = np.float32(value).view(np.uint32) if isinstance(value, float) else np.int64(value).view(np.uint64)
    write, bits = threads.writer(o[0], kind), bits.astype(TYPES[kind])
    return lambda at: write(at, bits)


def store(threads, i, p, o):
    space, size, parts = p[1], SIZES[p[-1]], o[1].elements()
    reads = [threads.reader(e, "b" + str(8 * size)) for e in parts]
    address = threads.address(o[0])
    memory = threads.memory if space == "global" else threads.shared

    def run(at):
        start = check(threads, i, space, address(at), size, len(parts), at, True)
        for e, read in enumerate(reads):
            memory.views[size][start + e] = read(at)
            memory.states[size][start + e] = WRITTEN_ALL[size]

    return run


def asynchronous(threads, i, p, o):
    if p[2] == "commit_group":
        return lambda at: commit(threads, at)
    if p[2] in ("wait_group", "wait_all"):
        allowed = 0 if p[2] == "wait_all" else o[0].value
        return lambda at: wait(threads, allowed, at)
    return copy(threads, i, o)


def copy(threads, i, o):
    """The bytes come at once, but nobody may touch them before their thread has waited."""
    size = o[2].value
    to, source = threads.address(o[0]), threads.address(o[1])
    taken = threads.reader(o[3], "u32") if len(o) > 3 else None  # bytes; the others become 0
    memory, shared = threads.memory, threads.shared

    def run(at):
        active, where = threads.indices(at), source(at)
        count = np.full(len(active), size) if taken is None else taken(at).astype(np.int64)
        if ((count != 0) & (count != size)).any():
            raise Fault(f"a part of a copy: {i.text}")
        start = check(threads, i, "shared", to(at), 4, size // 4, at, True, asynchronous=True)
        reads = np.nonzero(count)[0]
        if len(reads):
            check(threads, i, "global", where[reads], 4, size // 4, active[reads], False)
        origin = (where - GLOBAL_BASE) // 4
        for e in range(size // 4):
            shared.views[4][start + e] = np.where(count != 0, memory.views[4][np.where(count != 0, origin + e, 0)], 0)
            shared.states[4][start + e] = WRITTEN_ALL[4]
        threads.copies.append((active, start[:, None] * (4 // GRAIN) + np.arange(size // GRAIN), threads.groups[active]))

    return run


def commit(threads, at):
    threads.groups[slice(None) if at is None else at] += 1


def wait(threads, allowed, at):
    """Until all but the last `allowed` groups of each thread have arrived."""
    waiting = np.zeros(threads.count, bool)
    waiting[slice(None) if at is None else at] = True
    kept = []
    for owner, words, group in threads.copies:
        arrived = waiting[owner] & (group < threads.groups[owner] - allowed)
        owners = owner[arrived]
        warp, epoch = threads.warp[owners], threads.epoch[threads.block[owners]]
        threads.shared.races.write(words[arrived], warp[:, None], epoch[:, None])
        if threads.proxies:  # a fence before the wait does not help
            threads.proxies.write(words[arrived], owners[:, None])
        if not arrived.all():
            kept.append((owner[~arrived], words[~arrived], group[~arrived]))
    threads.copies = kept


OPCODES = {"ld": load, "st": store, "cp": asynchronous}
