"""Ahead of time, as a user does it: install the runtime, build a program against it, compile kernels, run them without a compiler.

FLAREC names the program, BUILD and SOURCE are the directories of the build and of the project."""

import os
import pathlib
import subprocess
import tempfile
import unittest

FLAREC, BUILD, SOURCE = (os.environ[name] for name in ("FLAREC", "BUILD", "SOURCE"))


class Package(unittest.TestCase):
    def run_command(self, *words, env=None):
        done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=env, timeout=300)
        self.assertEqual(done.returncode, 0, f"{' '.join(words)}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
        return done.stdout

    def test_deployment(self):
        with tempfile.TemporaryDirectory(prefix="flarec-package-") as folder:
            folder = pathlib.Path(folder)
            self.run_command("cmake", "--install", BUILD, "--component", "runtime", "--prefix", str(folder / "flarec"))
            self.run_command("cmake", "-S", SOURCE + "/examples/aot", "-B", str(folder / "build"), "-G", "Ninja",
                             "-DCMAKE_BUILD_TYPE=Release", f"-DCMAKE_PREFIX_PATH={folder / 'flarec'}")
            self.run_command("cmake", "--build", str(folder / "build"))
            program = str(folder / "build/example_aot")
            for library in ("LLVM", "torch", "flarec", "fmt"):
                self.assertNotIn(library, self.run_command("ldd", program))
            artefact = str(folder / "mixer.flare")
            self.run_command(FLAREC, "compile", "--head-dim", "8", "--latents", "64", "--dtype", "f32", "--target", "host", "-o", artefact)
            # No cache to find kernels in and no compiler to make them.
            out = self.run_command(program, artefact, env={"FLAREC_COMPILER_LIBRARY": "/none", "FLAREC_CACHE_DIR": "/none"})
            self.assertIn("64 latents", out)
            self.assertIn("y of the first token: ", out)


if __name__ == "__main__":
    unittest.main()
