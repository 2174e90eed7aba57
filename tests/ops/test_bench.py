"""bench/mixer.py and bench/table.py run, at a few tokens on the processor, and keep what they print. What they measure nobody looks at here."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

import flarec_test

WHAT = {"forward", "forward+backward"}


class Bench(unittest.TestCase):
    def bench(self, name, *arguments):
        """What a script prints, and what it writes as JSON."""
        library = pathlib.Path(flarec_test.library_path())
        if name == "table.py":
            arguments += ("--flarec", str(library.parents[1] / "bin/flarec"))
        with tempfile.TemporaryDirectory(prefix="flarec-bench-") as folder:
            file = os.path.join(folder, "bench.json")
            done = subprocess.run([sys.executable, str(flarec_test.ROOT / "bench" / name), "--device", "cpu", "--rounds", "3", "--library", str(library), "--json", file, *arguments],
                                  capture_output=True, text=True, stdin=subprocess.DEVNULL)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            with open(file) as f:
                return done.stdout, json.load(f)

    def test_mixer(self):
        output, report = self.bench("mixer.py", "--shapes", "2,8,16,256", "2,4,16,33")
        self.assertIn("best SDPA", output)
        self.assertEqual([(row["D"], row["N"], set(row["sides"])) for row in report["rows"]], [(8, 256, {"flarec", "SDPA"}), (4, 33, {"flarec", "SDPA"})])

    def test_seconds(self):
        """Three rounds are made of whoever takes longer than there is time for."""
        _, report = self.bench("mixer.py", "--shapes", "2,8,16,256", "--rounds", "1000000", "--seconds", "1e-9")
        self.assertEqual(set(report["rows"][0]["sides"]["SDPA"]), WHAT | {"least"})

    def test_table(self):
        output, report = self.bench("table.py", "--tokens", "256", "--only", "bf16 8,8,64$")
        self.assertIn("bf16 8,8,64 ", output)
        [row] = report["rows"]
        self.assertEqual({field: set(row[field]) for field in ("best", "faster", "predicted", "of model")}, dict.fromkeys(("best", "faster", "predicted", "of model"), WHAT))
        self.assertLess(row["predicted"]["forward"], row["predicted"]["forward+backward"])
        self.assertNotIn("goal", row)  # which is for another machine and more tokens
        self.assertTrue(report["torch"] and report["date"])

    def test_sweep(self):
        output, report = self.bench("table.py", "--sweep", "--tokens", "256", "--only", "8,8,(16|64)$")
        self.assertEqual([(row["M"], row["N"]) for row in report["rows"]], [(16, 4), (16, 32), (16, 256), (64, 4), (64, 32), (64, 256), (128, 2048)])
        self.assertEqual(set(report["slopes"]), {"in N, H 8, D 8, M 16", "in N, H 8, D 8, M 64", "in M, H 8, D 8, N 256"})
        self.assertIn(" of 14 times are slower than SDPA", output)


if __name__ == "__main__":
    flarec_test.fresh_cache()
    unittest.main()
