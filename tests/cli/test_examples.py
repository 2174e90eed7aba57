"""The program examples/launch from outside: that it runs, and what it answers to mistakes.

EXAMPLE_LAUNCH names it. It finds the compiler beside itself."""

import os
import subprocess
import tempfile
import unittest


class Launch(unittest.TestCase):
    def launch(self, *arguments):
        with tempfile.TemporaryDirectory(prefix="flarec-example-") as cache:
            return subprocess.run([os.environ["EXAMPLE_LAUNCH"], *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL,
                                  env={**os.environ, "FLAREC_CACHE_DIR": cache}, timeout=300)

    def test_runs(self):
        for tokens in ("300", "0"):
            done = self.launch("--tokens", tokens, "--heads", "2", "--repeats", "1")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertRegex(done.stdout, r"relative error against fp64: \d\.\d+e-(0[6-9]|\d\d)|fp64: 0.00e\+00")

    def test_mistakes(self):
        for option, given, allowed in (("--tokens", "-1", "0 to"), ("--tokens", "many", "0 to"), ("--tokens", str(10**20), "0 to"),
                                       ("--tokens", str(2**40), "0 to"), ("--batch", "-3", "0 to"), ("--heads", "1e9", "0 to"),
                                       ("--latents", "0", "1 to 4096"), ("--head-dim", "-8", "1 to 128"),
                                       ("--head-dim", "129", "1 to 128"), ("--latents", "4097", "1 to 4096"), ("--device", "-2", "0 to"), ("--repeats", "0", "1 to")):  # fmt: skip
            with self.subTest(option, given=given):
                done = self.launch(f"{option}={given}")
                self.assertEqual((done.returncode, done.stdout), (2, ""))
                for says in (option, f"Value {given} not in range", allowed):
                    self.assertIn(says, done.stderr)

    def test_what_fails_later(self):
        for arguments, says in ((["none.flare"], "no such file"),
                                (["--heads", "1024", "--batch", "4096", "--tokens", str(2**30)], "give a smaller --batch, --heads or --tokens")):  # fmt: skip
            with self.subTest(arguments):
                done = self.launch(*arguments)
                self.assertEqual(done.returncode, 1, done.stderr)
                self.assertTrue(done.stderr.startswith("example_launch: "), done.stderr)
                self.assertIn(says, done.stderr)


if __name__ == "__main__":
    unittest.main()
