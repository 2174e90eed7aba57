#!/usr/bin/env python3
"""Ops take the configuration of a table where one fits, and work without it where it does not."""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

import flarec_test

# In a process of its own: tables are read once. Prints what was compiled: the number of kernels' blocks tells configurations apart.
CALL = """
import hashlib, json, pathlib, sys, torch
torch.ops.load_library(sys.argv[1])
torch.manual_seed(0)
for n in map(int, sys.argv[3].split(",")):
    q = torch.randn(2, 16, 8, requires_grad=sys.argv[2] == "grad")
    k = torch.randn(1, n, 16).view(1, n, 2, 8).transpose(1, 2)
    y = torch.ops.flarec.mixer(q, k, k, 1.0)
    x = q @ k.transpose(-1, -2)
    z = torch.softmax(x, -1) @ k
    assert torch.allclose(y, torch.softmax(x.transpose(-1, -2), -1) @ z, atol=1e-5)
    if q.requires_grad:
        y.sum().backward()
"""


def processor():
    for line in open("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.split(": ", 1)[1].strip()
    return "x86-64"


def isa():
    flags = next(line for line in open("/proc/cpuinfo") if line.startswith("flags")).split()
    if {"avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512cd"} <= set(flags):
        return "avx512"
    return "avx2" if {"avx2", "fma"} <= set(flags) else "baseline"


class Tuned(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="flarec-tuned-")
        self.addCleanup(folder.cleanup)
        self.tables, self.cache = pathlib.Path(folder.name) / "tables", pathlib.Path(folder.name) / "cache"
        self.tables.mkdir()

    def write(self, sweeps, functions=("mixer_forward", "mixer_backward"), **changes):
        entry = {"dtype": "f32", "head_dim": 8, "latents": 16, "heads": 2, "layout": "tokens-major", "tokens": [0, 4095], "measured_tokens": 1000,
                 "date": "2026-11-27", "compiler": "test", "clock_mhz": 0,
                 "functions": {name: {"ms": 1.0, "heuristic_ms": 2.0, "sweeps": sweeps} for name in functions}}
        table = {"format": 1, "device": processor(), "target": "host", "isa": isa(), "entries": [entry], **changes}
        (self.tables / "table.json").write_text(json.dumps(table))

    def call(self, tokens="300", grad=False):
        done = subprocess.run([sys.executable, "-c", CALL, flarec_test.library_path(), "grad" if grad else "none", tokens], capture_output=True, text=True,
                              env={**os.environ, "FLAREC_TUNE_DIR": str(self.tables), "FLAREC_CACHE_DIR": str(self.cache)})
        self.assertEqual(done.returncode, 0, done.stderr)
        manifests = []
        for path in self.cache.rglob("*.flare"):
            data = path.read_bytes()
            manifests.append(json.loads(data[48:48 + int.from_bytes(data[40:48], "little")]))
        return manifests, done.stderr

    def blocks(self, manifests):
        return sorted({sweep["blocks"] for m in manifests for f in m["functions"] for sweep in f["sweeps"]})

    def test_the_tables_configuration_is_compiled(self):
        self.write([{"blocks": 7}, {"blocks": 7}])
        manifests, said = self.call()
        self.assertEqual((len(manifests), self.blocks(manifests), said), (1, [7], ""))

    def test_the_backward_too(self):
        self.write([{"blocks": 7}, {"blocks": 7}])
        manifests, _ = self.call(grad=True)
        self.assertIn("mixer_backward", [f["name"] for m in manifests for f in m["functions"]])
        # Of gradients for some inputs the backward has other sweeps: there the forward's alone are the table's.
        tuned = [f for m in manifests for f in m["functions"] if f["name"] == "mixer_forward"]
        self.assertEqual({s["blocks"] for f in tuned for s in f["sweeps"]}, {7})

    def test_a_number_of_tokens_in_the_range_compiles_nothing(self):
        self.write([{"blocks": 7}, {"blocks": 7}])
        manifests, _ = self.call("1,300,2000,4095,4096")
        self.assertEqual(len(manifests), 1)

    def test_without_a_table_it_is_the_heuristics(self):
        manifests, said = self.call()
        self.assertEqual((len(manifests), said), (1, ""))
        self.assertNotIn(7, self.blocks(manifests))

    def test_another_devices_table_is_not_taken(self):
        self.write([{"blocks": 7}, {"blocks": 7}], target="sm_90a", device="A Card", isa="")
        self.assertNotIn(7, self.blocks(self.call()[0]))

    def test_a_damaged_table_is_reported_and_ignored(self):
        (self.tables / "table.json").write_text("{")
        manifests, said = self.call("300,301")
        self.assertEqual(len(manifests), 1)
        self.assertEqual(len(re.findall(r"table\.json are not used: it is no table", said)), 1)

    def test_a_configuration_that_cannot_be_run_is_reported_and_not_used(self):
        for sweeps, why in (([{"tile": 7}, {}], "multiple of 16"), ([{"colour": 3}, {}], "no field 'colour'"), ([{"blocks": 7}], "for 1 sweeps")):
            self.write(sweeps)
            manifests, said = self.call("300,301")
            self.assertEqual(said.count("is not used"), 1, said)
            self.assertIn(why, said)
            self.assertEqual(len(manifests), 1)


unittest.main()
