#!/usr/bin/env python3
"""flare-train from outside: a short training, repeatability, messages, exit codes."""

import os
import pathlib
import re
import subprocess
import tempfile
import unittest

import numpy as np
import torch

import flarec_test

PROGRAM = os.environ.get("FLAREC_TRAIN", str(pathlib.Path(__file__).resolve().parents[2] / "build/bin/flare-train"))
flarec_test.fresh_cache()
SMALL = ["--blocks", "1", "--channels", "16", "--heads", "2", "--latents", "4", "--threads", "1"]


def train(*args):
    return subprocess.run([PROGRAM, *args], capture_output=True, text=True)


def write_fields(directory, resolution=8, count=6, order="F", dtype=np.float32, stems=("train", "test")):
    generator = np.random.default_rng(0)
    for stem in stems:
        x = generator.random((count, resolution, resolution)) < 0.5
        y = generator.random((count, resolution, resolution)).astype(dtype)
        np.save(directory / f"{stem}_{resolution}_x.npy", np.asarray(x, order=order))
        np.save(directory / f"{stem}_{resolution}_y.npy", np.asarray(y, order=order))


class Train(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def losses(self, *args):
        path = self.folder / "losses.txt"
        run = train(*args, *SMALL, "--losses", str(path))
        self.assertEqual(run.returncode, 0, run.stderr)
        return [float(line) for line in path.read_text().split()], run.stdout

    def test_synthetic_training_learns_and_ends_with_the_test_error(self):
        losses, output = self.losses("--data", "synthetic", "--epochs", "3", "--attention", "sdpa", "--lr", "3e-3")
        self.assertEqual(len(losses), 3 * 50)
        self.assertLess(np.mean(losses[-20:]), 0.8 * np.mean(losses[:20]))
        match = re.fullmatch(r"test relative L2: (\d\.\d{4})", output.splitlines()[-1])
        self.assertTrue(match, output)
        self.assertLess(float(match[1]), 0.5)
        self.assertRegex(output, r"epoch 2/3  step 100/150  loss \d.*steps/s.*left \d+:\d\d")

    def test_flarec_and_sdpa_agree(self):
        """Not bit for bit, but as two implementations of one formula in float32 do."""
        a, _ = self.losses("--data", "synthetic", "--epochs", "1", "--attention", "flarec")
        b, _ = self.losses("--data", "synthetic", "--epochs", "1", "--attention", "sdpa")
        self.assertNotEqual(a, b)
        np.testing.assert_allclose(a, b, rtol=1e-3)

    def test_dtypes(self):
        """Under autocast flarec and SDPA see the same rounded numbers, and float32 is not far."""
        run = lambda dtype, attention: self.losses("--data", "synthetic", "--epochs", "2", "--lr", "3e-3", "--dtype", dtype, "--attention", attention)
        exact, _ = run("fp32", "flarec")
        for dtype, tolerance in (("bf16", 5e-2), ("fp16", 1e-2)):
            with self.subTest(dtype=dtype):
                mine, output = run(dtype, "flarec")
                theirs, _ = run(dtype, "sdpa")
                self.assertNotEqual(mine, exact)
                np.testing.assert_allclose(mine[:20], exact[:20], rtol=tolerance)
                np.testing.assert_allclose(mine[:20], theirs[:20], rtol=tolerance)
                self.assertLess(np.mean(mine[-20:]), 0.8 * np.mean(mine[:20]))
                self.assertIn(f"attention flarec in {dtype} on cpu", output)
                self.assertEqual("loss scale ends at" in output, dtype == "fp16")

    def test_steps_that_overflow_float16_are_skipped(self):
        """A field ten thousand times as small as the others has relative errors whose gradients, 65536 times as large, float16 does not hold."""
        write_fields(self.folder)
        y = np.load(self.folder / "train_8_y.npy")
        y[0] *= 1e-4
        np.save(self.folder / "train_8_y.npy", y)
        losses, output = self.losses("--data", str(self.folder), "--epochs", "4", "--batch", "1", "--dtype", "fp16")
        self.assertTrue(np.isfinite(losses).all())
        match = re.search(r"(\d+) steps skipped, their gradients overflowed float16; the loss scale ends at (\d+)", output)
        self.assertGreaterEqual(int(match[1]), 4)
        self.assertEqual(int(match[2]) * 2 ** int(match[1]), 65536)

    def test_a_seed_repeats_and_another_differs(self):
        write_fields(self.folder)
        run = lambda seed: self.losses("--data", str(self.folder), "--epochs", "2", "--seed", seed)[0]
        self.assertEqual(run("1"), run("1"))
        self.assertNotEqual(run("1"), run("2"))

    def test_orders_and_types_of_files_do_not_matter(self):
        runs = []
        for order, dtype in (("F", np.float32), ("C", np.float32), ("C", np.float64)):
            write_fields(self.folder, order=order, dtype=np.float32)
            for path in self.folder.glob("*_y.npy"):
                np.save(path, np.load(path).astype(dtype))
            runs.append(self.losses("--data", str(self.folder), "--epochs", "1")[0])
        self.assertEqual(runs[0], runs[1])
        self.assertEqual(runs[0], runs[2])

    def test_last_batch_may_be_short(self):
        write_fields(self.folder, count=5)
        self.assertEqual(len(self.losses("--data", str(self.folder), "--epochs", "1", "--batch", "2")[0]), 3)

    def test_help_has_examples(self):
        run = train("--help")
        self.assertEqual(run.returncode, 0)
        for word in ("Examples:", "--attention", "--dtype", "gradient scaler", "--data synthetic", "--losses", "--epochs"):
            self.assertIn(word, run.stdout)


class Errors(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def check(self, code, pattern, *args):
        run = train(*args, *([] if code == 2 else SMALL))
        self.assertEqual(run.returncode, code, run.stderr)
        self.assertRegex(run.stderr, pattern)
        self.assertNotIn("test relative L2", run.stdout)

    def test_missing_directory(self):
        self.check(1, "'/nowhere' does not exist; give a directory with train_R_x.npy.*--data synthetic", "--data", "/nowhere")

    def test_a_file_for_a_directory(self):
        self.check(1, "is not a directory", "--data", __file__)

    def test_empty_directory(self):
        self.check(1, "no train_R_x.npy", "--data", str(self.folder))

    def test_missing_file(self):
        write_fields(self.folder)
        (self.folder / "test_8_y.npy").unlink()
        self.check(1, "test_8_y.npy': there is no such file", "--data", str(self.folder))

    def test_two_resolutions(self):
        write_fields(self.folder)
        write_fields(self.folder, resolution=4)
        self.check(1, r"2 resolutions \(4, 8\); choose one with --resolution", "--data", str(self.folder))
        run = train("--data", str(self.folder), "--resolution", "4", "--epochs", "1", "--attention", "sdpa", *SMALL)
        self.assertEqual(run.returncode, 0, run.stderr)

    def test_damaged_file(self):
        write_fields(self.folder)
        path = self.folder / "train_8_y.npy"
        path.write_bytes(path.read_bytes()[:-100])
        self.check(1, r"train_8_y.npy': shape \[6, 8, 8\].*needs 384 values of 4 bytes.*copy it again", "--data", str(self.folder))
        path.write_bytes(b"not an array at all")
        self.check(1, "it is not a .npy file", "--data", str(self.folder))

    def test_shapes_that_do_not_match(self):
        write_fields(self.folder)
        np.save(self.folder / "train_8_y.npy", np.zeros((6, 8, 7), np.float32))
        self.check(1, r"shape \[6, 8, 8\] but .* has \[6, 8, 7\]", "--data", str(self.folder))
        np.save(self.folder / "train_8_x.npy", np.zeros((6, 64), np.float32))
        self.check(1, r"shape \[6, 64\]; expected \[samples, rows, columns\]", "--data", str(self.folder))

    def test_values_that_are_not_finite(self):
        write_fields(self.folder)
        np.save(self.folder / "train_8_y.npy", np.full((6, 8, 8), np.nan, np.float32))
        self.check(1, "not finite", "--data", str(self.folder))

    def test_unwritable_losses(self):
        self.check(1, "cannot write '/nowhere/l.txt' .--losses.", "--data", "synthetic", "--losses", "/nowhere/l.txt")

    def test_head_dim_without_kernels(self):
        run = train("--data", "synthetic", "--channels", "258", "--heads", "2")
        self.assertEqual(run.returncode, 1)
        self.assertRegex(run.stderr, "head dim 129 .*supported are 1 to 128")

    def test_bad_arguments(self):
        self.check(2, "--data is required", "--epochs", "1")
        self.check(2, "48 channels cannot be shared out to 7 heads", "--data", "synthetic", "--channels", "48", "--heads", "7")
        self.check(2, "'tpu9' is no device; allowed are cpu, cuda", "--data", "synthetic", "--device", "tpu9")
        self.check(2, "--attention", "--data", "synthetic", "--attention", "flash")
        self.check(2, "--dtype: .*fp64.*fp16.*fp32", "--data", "synthetic", "--dtype", "fp64")
        self.check(2, "--epochs", "--data", "synthetic", "--epochs", "0")
        self.check(2, "--lr", "--data", "synthetic", "--lr", "fast")
        for option, most in (("--heads", 1 << 24), ("--latents", 1 << 24), ("--batch", 1 << 24), ("--threads", 1024)):
            for given in (-1, 10**20):
                self.check(2, f"{option}: Value {given} not in range [01] to {most}", "--data", "synthetic", f"{option}={given}")

    def test_no_cuda(self):
        if torch.cuda.is_available():
            self.skipTest("there is CUDA")
        self.check(1, "--device cuda: .*use --device cpu", "--data", "synthetic", "--device", "cuda")


if __name__ == "__main__":
    unittest.main()
