"""What every access to memory is held to: aligned, inside, allocated where written, written where read, and without races."""

import numpy as np

from . import Fault
from .memory import FREE, GLOBAL_BASE, WRITTEN_ALL
from .races import GRAIN, SEVERAL


def check(threads, i, space, where, size, parts, at, is_write, asynchronous=False, whole_warpgroup=False):
    """The index of the access's first element in the view of that size; faults where the access is wrong.

    where: addresses of the active threads `at`, which access `parts` elements of `size` bytes in instruction i; of each for all
    warps of its warpgroup, perhaps."""
    total = size * parts

    def fault(what, wrong):
        place = np.nonzero(wrong)[0][0]
        who = f"{int(wrong.sum())} of {len(where)} threads, first: {threads.name(place, at)}"
        return Fault(f"{what}: {who}, address {int(where[place]):#x}: {i.text}")

    if (where % total).any():
        raise fault(f"misaligned {'store' if is_write else 'load'}", where % total != 0)
    if space == "global":
        memory = threads.memory
        start = where - GLOBAL_BASE
        outside = (start < 0) | (start + total > len(memory.bytes))
    else:
        memory = threads.shared
        start = where + threads.of(threads.block, at) * memory.size
        outside = (where < 0) | (where + total > memory.size)
    if outside.any():
        raise fault(f"outside of {space} memory", outside)
    index = start // size
    for e in range(parts):
        state = memory.states[size][index + e]
        if not is_write and (state != WRITTEN_ALL[size]).any():
            raise fault(f"{space} memory read that was never written", state != WRITTEN_ALL[size])
        if is_write and space == "global" and ((state & 3) == FREE).any():
            raise fault("outside of every allocation", (state & 3) == FREE)
    if space == "shared":
        words = start // GRAIN if total <= GRAIN else (start // GRAIN)[:, None] + np.arange(total // GRAIN)
        check_races(threads, i, words, at, is_write, asynchronous, whole_warpgroup)
    return index


def check_races(threads, i, words, at, is_write, asynchronous, whole_warpgroup):
    races = threads.shared.races
    thread, warp, block = threads.indices(at), threads.of(threads.warp, at), threads.of(threads.block, at)
    if words.ndim == 2:
        thread, warp, block = (np.broadcast_to(t[:, None], words.shape) for t in (thread, warp, block))
    if whole_warpgroup:
        warp = SEVERAL
    epoch = threads.epoch[block]
    if is_write and threads.proxies and (busy := threads.proxies.busy(words, block, threads.flights.complete)).any():
        raise Fault(f"write to shared memory that a wgmma in flight reads, {threads.name(np.argwhere(busy)[0][0], at)}: {i.text}")
    if found := races.hazard(words, warp, epoch, is_write):
        hazard, wrong = found
        raise Fault(f"{hazard} in shared memory, {threads.name(np.argwhere(wrong)[0][0], at)}: {i.text}")
    if is_write:
        races.write(words, warp, epoch, pending=asynchronous)
        if threads.proxies:
            threads.proxies.write(words, thread)
    else:
        races.read(words, warp, epoch)
