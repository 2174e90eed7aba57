#!/usr/bin/env python3
"""Large results on the host lie where earlier ones were, and never where one still is."""

import os
import resource
import threading
import unittest

import flarec_test
import torch

flarec_test.load()

# y has 4 MiB.
HEADS, HEAD_DIM, LATENTS, TOKENS = 8, 8, 16, 16384


def inputs(tokens=TOKENS, dtype=torch.float32):
    q = torch.randn(HEADS, LATENTS, HEAD_DIM, dtype=dtype)
    k, v = (torch.randn(1, HEADS, tokens, HEAD_DIM, dtype=dtype) for _ in range(2))
    return q, k, v


def mixer(q, k, v):
    return torch.ops.flarec.mixer(q, k, v, 1.0)


def mapped():
    """Bytes of this process's addresses."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGESIZE")


class HostMemory(unittest.TestCase):
    def test_the_next_result_lies_where_the_last_one_was(self):
        arguments = inputs()
        y = mixer(*arguments)
        first, expected = y.data_ptr(), y.clone()
        del y
        again = mixer(*arguments)
        self.assertEqual(again.data_ptr(), first)
        self.assertTrue(torch.equal(again, expected))

    def test_results_that_are_there_keep_their_memory(self):
        arguments = [inputs() for _ in range(5)]
        results = [mixer(*a) for a in arguments]
        expected = [y.clone() for y in results]
        view = results[0][:, :2]
        results[0] = results[2] = None
        others = [mixer(*arguments[4]) for _ in range(4)]
        for i in (1, 3, 4):
            self.assertTrue(torch.equal(results[i], expected[i]))
        self.assertTrue(torch.equal(view, expected[0][:, :2]), "a view keeps it too")
        ends = sorted((t.data_ptr(), t.data_ptr() + t.untyped_storage().nbytes()) for t in others + [results[1], results[3], results[4], view])
        for (_, end), (begin, _) in zip(ends, ends[1:]):
            self.assertLessEqual(end, begin)

    def test_passes_have_no_page_faults(self):
        arguments = [t.requires_grad_() for t in inputs()]
        gradient = torch.randn(1, HEADS, TOKENS, HEAD_DIM)

        def step():
            torch.autograd.grad(mixer(*arguments), arguments, gradient)

        for _ in range(3):
            step()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(10):
            step()
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        # Anew from the system y, grad_k and grad_v are 3072 pages a step.
        self.assertLess(faults, 10 * 300)

    def test_no_more_is_kept_than_was_once_in_use(self):
        for tokens in (TOKENS, 2 * TOKENS):
            mixer(*inputs(tokens))
        before = mapped()
        # Each is freed before the next: of 4 to 8 MiB, none fitting the last.
        for i in range(8, 17):
            mixer(*inputs(TOKENS * i // 8 + i))
        self.assertLess(mapped() - before, 48 << 20)

    def test_nothing_is_kept_where_addresses_are_limited(self):
        arguments = inputs()
        limits = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (mapped() + (4 << 30), limits[1]))
        try:
            y = mixer(*arguments)
            before, size = mapped(), y.untyped_storage().nbytes()
            self.assertGreaterEqual(size, 1 << 20)
            del y
            self.assertLessEqual(mapped(), before - size)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limits)

    def test_no_memory_is_a_clear_error(self):
        q, k, v = (t.requires_grad_(False) for t in inputs())
        k, v = (t.expand(64, -1, -1, -1) for t in (k, v))  # a result of 256 MiB
        mixer(*inputs())
        limits = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (mapped() + (64 << 20), limits[1]))
        try:
            with self.assertRaisesRegex(RuntimeError, "flarec: no memory for a result of 268435456 bytes"):
                mixer(q, k, v)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limits)
        self.assertEqual(mixer(q, k, v).shape[0], 64)

    def test_copies_on_write(self):
        y = mixer(*inputs())
        copy = torch._lazy_clone(y)
        expected = y.clone()
        copy.zero_()
        self.assertTrue(torch.equal(y, expected))

    def test_any_thread_may_free_and_compute(self):
        arguments = inputs()
        expected = mixer(*arguments).clone()
        wrong = []

        def work():
            for _ in range(5):
                if not torch.equal(mixer(*arguments), expected):
                    wrong.append(threading.current_thread().name)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(wrong, [])

    def test_after_fork(self):
        arguments = inputs()
        y = mixer(*arguments)
        expected = y.clone()
        child = os.fork()
        if child == 0:
            # OpenMP's threads are not in the child: one is enough.
            torch.set_num_threads(1)
            del y
            os._exit(0 if torch.equal(mixer(*arguments), expected) else 1)
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 0)
        self.assertTrue(torch.equal(y, expected))

    def test_grows_and_shrinks_like_any_tensor(self):
        y = mixer(*inputs())
        copy = y.clone()
        y.share_memory_()
        self.assertTrue(torch.equal(y, copy))
        flat = torch.ops.flarec.mixer_forward(*inputs(), 1.0)[0].transpose(1, 2)
        flat.resize_(1, TOKENS, HEADS, 2 * HEAD_DIM)
        self.assertEqual(flat.numel(), 2 * copy.numel())


if __name__ == "__main__":
    unittest.main()
