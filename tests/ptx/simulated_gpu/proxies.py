"""Shared memory as wgmma reads it: past the way that loads and stores take (PTX ISA's async proxy), and later than in the program. What
ordinary stores and cp.async have written is sure to be seen by it only behind a fence of the two ways."""

import numpy as np

from .races import SEVERAL


class Proxies:
    """For each word who wrote it and whether that thread has put a fence behind it, and which wgmmas in flight read it.

    A fence is asked of the thread that wrote, before the barrier that lets others go on: where the readers' warpgroup has it behind the
    barrier instead PTX ISA's causality order might do, but nobody builds on it."""

    def __init__(self, threads, words, warpgroup):
        self.writer = np.zeros(words, np.int32)  # thread
        self.before = np.zeros(words, np.int32)  # fences of that thread before it wrote
        self.fences = np.zeros(threads.count, np.int32)
        self.epochs = np.zeros((8, threads.count), np.int32)  # barriers before each of a thread's fences
        self.per_block, self.warpgroup = threads.per_block, warpgroup
        self.reading = np.full((threads.per_block // warpgroup, words), -1, np.int32)  # group of each warpgroup's last wgmma to read it
        self.reads = []  # of wgmmas not waited for: (first thread of each warpgroup, words [warpgroup, word], group of each)

    def write(self, words, thread):
        self.writer[words], self.before[words] = thread, self.fences[thread]

    def fence(self, active, epoch):
        if len(active) and self.fences[active].max() >= len(self.epochs):
            self.epochs = np.concatenate([self.epochs, np.zeros_like(self.epochs)])
        self.epochs[self.fences[active], active] = epoch
        self.fences[active] += 1

    def unseen(self, words, epoch):
        """What is wrong with a wgmma that reads the words after `epoch` barriers, and where, if anything."""
        writer, before = self.writer[words], self.before[words]
        unfenced = self.fences[writer] <= before
        if unfenced.any():
            return "shared memory was written without a fence.proxy.async behind it", unfenced
        late = self.epochs[before, writer] >= epoch
        return ("shared memory was written without a fence.proxy.async before the barrier", late) if late.any() else None

    def busy(self, words, block, complete):
        """Which words a wgmma in flight reads. complete: groups that each thread has waited for."""
        leaders = block[None] * self.per_block + np.arange(len(self.reading)).reshape(-1, *[1] * block.ndim) * self.warpgroup
        return (self.reading[:, words] >= complete[leaders]).any(0)

    def start(self, words, leaders, group):
        """A wgmma reads the words [warpgroup, word]."""
        self.reading[(leaders % self.per_block // self.warpgroup)[:, None], words] = group[:, None]
        self.reads.append((leaders, words, group))

    def finish(self, races, waiting, complete, epoch):
        """What has been waited for was read until now, by all four warps. waiting, complete: of each thread; epoch: of each block."""
        kept = []
        for leaders, words, group in self.reads:
            done = waiting[leaders] & (group < complete[leaders])
            if done.any():
                races.read(words[done], SEVERAL, epoch[leaders[done] // self.per_block][:, None])
            if not done.all():
                kept.append((leaders[~done], words[~done], group[~done]))
        self.reads = kept
