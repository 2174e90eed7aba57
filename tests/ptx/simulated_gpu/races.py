"""Who touched which bytes of shared memory since the last barrier. Threads run here in one fixed order, which hides a race from the
results; what a barrier does not separate is found by this account of it."""

import numpy as np

GRAIN = 2  # bytes that are tracked together, a word: the smallest access but for bytes, of which warps have even numbers side by side
SEVERAL = -2  # warps that read a word, in one instruction perhaps


class Races:
    """For each word the last writer and reader (warps), and the epoch (number of barriers before) of each."""

    def __init__(self, words):
        self.writer, self.write_epoch, self.reader, self.read_epoch = (np.full(words, -1, np.int32) for _ in range(4))
        self.pending = np.zeros(words, bool)  # an asynchronous copy is to bring it

    def hazard(self, words, warp, epoch, is_write):
        """What is wrong with an access and where, if anything. warp, epoch: of who accesses; all three of one shape."""
        if self.pending[words].any():
            return "access before an asynchronous copy has arrived", self.pending[words]
        raced = (self.write_epoch[words] == epoch) & (self.writer[words] != warp)
        if raced.any():
            return "write after write" if is_write else "read after write", raced
        if is_write:
            raced = (self.read_epoch[words] == epoch) & (self.reader[words] != warp)
            if raced.any():
                return "write after read", raced
        return None

    def write(self, words, warp, epoch, pending=False):
        """An asynchronous copy writes twice: where it starts, pending, and where its thread has waited for it."""
        self.writer[words], self.write_epoch[words], self.pending[words] = warp, epoch, pending

    def read(self, words, warp, epoch):
        several = (self.read_epoch[words] == epoch) & (self.reader[words] != warp)
        self.reader[words] = np.where(several, SEVERAL, warp)
        lost = (self.reader[words] != warp) & (self.reader[words] != SEVERAL)  # two warps in this very instruction
        self.reader[words[lost]] = SEVERAL
        self.read_epoch[words] = epoch
