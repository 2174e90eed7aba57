"""What every access to memory is held to: aligned, inside, allocated where written, written where read, and without races."""

import numpy as np

from . import Fault
from .memory import FREE, GLOBAL_BASE, WRITTEN_ALL
from .races import GRAIN


def check(threads, i, space, where, size, parts, at, is_write, asynchronous=False):
    """The index of the access's first element in the view of that size; faults where the access is wrong.

    where: addresses of the active threads `at`, which access `parts` elements of `size` bytes in instruction i."""
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
        check_races(threads, i, words, at, is_write, asynchronous)
    return index


def check_races(threads, i, words, at, is_write, asynchronous):
    races = threads.shared.races
    warp, epoch = threads.of(threads.warp, at), threads.epoch[threads.of(threads.block, at)]
    if words.ndim == 2:
        warp, epoch = np.broadcast_to(warp[:, None], words.shape), np.broadcast_to(epoch[:, None], words.shape)
    if found := races.hazard(words, warp, epoch, is_write):
        hazard, wrong = found
        raise Fault(f"{hazard} in shared memory, {threads.name(np.argwhere(wrong)[0][0], at)}: {i.text}")
    if is_write:
        races.write(words, warp, epoch, pending=asynchronous)
    else:
        races.read(words, warp, epoch)
