#!/usr/bin/env python3
"""What libflarec_torch.so links and exports: it must load into any build of torch, and leave no mark on the process."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
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


# Without a compiler: the library alone in a folder, as it lies where only kernels were deployed.
MIX = """
import sys, torch
torch.ops.load_library(sys.argv[1])
q, k = torch.ones(1, 4, 8), torch.ones(1, 1, 5, 8)
print(torch.ops.flarec.mixer(q, k, k, 1.0).sum().item())
"""


class Deployment(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="flarec-deployed-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        shutil.copy(PATH, self.folder)

    def mix(self, library, cache, compiler=True):
        environment = {**os.environ, "FLAREC_CACHE_DIR": str(cache)}
        if not compiler:
            del environment["FLAREC_COMPILER_LIBRARY"]
        return subprocess.run([sys.executable, "-c", MIX, library], capture_output=True, text=True, env=environment, timeout=120)

    def test_a_copy_of_a_cache_serves_without_a_compiler(self):
        alone = str(self.folder / pathlib.Path(PATH).name)
        made = self.mix(PATH, self.folder / "cache")
        self.assertEqual(made.returncode, 0, made.stderr)
        (entry,) = (self.folder / "cache").rglob("*.flare")
        self.assertRegex(str(entry.relative_to(self.folder / "cache")), "^[0-9a-f]{40}-(avx512|avx2|baseline)/[0-9a-f]{64}\\.flare$")
        shutil.copytree(self.folder / "cache", self.folder / "copy")
        used = self.mix(alone, self.folder / "copy", compiler=False)
        self.assertEqual((used.returncode, used.stdout), (0, made.stdout), used.stderr)

    def test_without_either_the_message_names_what_python_can_do(self):
        alone = str(self.folder / pathlib.Path(PATH).name)
        failed = self.mix(alone, self.folder / "none", compiler=False)
        self.assertNotEqual(failed.returncode, 0)
        for says in ("there is no compiler", str(self.folder), "FLAREC_COMPILER_LIBRARY", "FLAREC_CACHE_DIR to a copy"):
            self.assertIn(says, failed.stderr)


if __name__ == "__main__":
    unittest.main()
