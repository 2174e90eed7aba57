#!/usr/bin/env python3
"""What libflarec_torch.so links and exports: it must load into any build of torch, and leave no mark on the process."""

import re
import subprocess
import unittest

import flarec_test

PATH = flarec_test.library_path()


def tool(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


class Library(unittest.TestCase):
    def test_needs_torch_cpu_and_c10_only(self):
        needed = set(re.findall(r"NEEDED.*\[(.*)\]", tool("readelf", "-d", PATH)))
        base = {"libstdc++.so.6", "libm.so.6", "libgcc_s.so.1", "libc.so.6", "ld-linux-x86-64.so.2"}
        self.assertLessEqual(needed, base | {"libtorch_cpu.so", "libc10.so"})

    def test_has_no_rpath(self):
        self.assertNotRegex(tool("readelf", "-d", PATH), "RPATH|RUNPATH")

    def test_exports_its_api_and_nothing_of_the_runtime(self):
        symbols = re.findall(r" T (.*)", tool("nm", "-DC", "--defined-only", PATH))
        ours = {re.match(r"[\w:]+", s)[0] for s in symbols if s.startswith("flarec::")}
        halves = ("encode", "encodeBackward", "decode", "decodeBackward", "merge")
        mixer = ("mixer", "mixerForward", "mixerBackward", "mixerBackwardLatents", "mixerBackwardJoint")
        self.assertEqual(ours, {f"flarec::{name}" for name in halves + mixer})

    def test_loads_twice(self):
        flarec_test.load()
        flarec_test.load()


if __name__ == "__main__":
    unittest.main()
