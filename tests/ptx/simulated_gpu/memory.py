"""The bytes of global and of shared memory, and beside each byte whether it was ever allocated and written: a kernel that reads what
nobody wrote gives right results by luck."""

import numpy as np

from . import Fault
from .races import GRAIN, Races

GLOBAL_BASE = 1 << 40  # the first global address: small integers are not addresses
FREE, ALLOCATED, WRITTEN = 0, 1, 2  # of a byte
# The states of all bytes of an access, seen as one number.
WRITTEN_ALL = {1: 0x02, 2: 0x0202, 4: 0x02020202, 8: 0x0202020202020202}


def views(array):
    return {1: array, 2: array.view(np.uint16), 4: array.view(np.uint32), 8: array.view(np.uint64)}


class GlobalMemory:
    """A flat space of bytes with gaps between allocations."""

    def __init__(self, size=1 << 26):
        self.bytes = np.zeros(size, np.uint8)
        self.state = np.zeros(size, np.uint8)
        self.top = 4096
        self.views, self.states = views(self.bytes), views(self.state)

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
        """Bytes to the host."""
        start = address - GLOBAL_BASE
        if not (self.state[start : start + size] == WRITTEN).all():
            count = int((self.state[start : start + size] != WRITTEN).sum())
            raise Fault(f"{count} of {size} bytes of a result were never written")
        return self.bytes[start : start + size].tobytes()


class SharedMemory:
    """Shared memory of every block, one after the other."""

    def __init__(self, blocks, size):
        self.size = -(-size // 16) * 16  # of a block
        self.bytes = np.zeros(max(16, blocks * self.size), np.uint8)
        self.state = np.zeros_like(self.bytes)
        self.views, self.states = views(self.bytes), views(self.state)
        self.races = Races(len(self.bytes) // GRAIN)
