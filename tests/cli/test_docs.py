"""The IR that docs/architecture.md shows is what the tools print now.

FLAREC names the program. Values' numbers may differ; `…` stands for anything; comments are the page's own."""

import os
import pathlib
import re
import subprocess
import tempfile
import unittest

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs/architecture.md"
STAGES = {"4.2": ["1-flare.mlir"], "4.3": ["2-sweeps.mlir"], "4.4": ["3-tile.mlir"], "4.5": ["4-nvvm.mlir"], "4.6": ["6-ptx.ptx"]}


def pattern(line):
    """A regular expression for a line of the page; None where it says nothing."""
    line = re.sub(r"\s*//.*", "", line).replace("{ … }", "{").strip()
    if not re.search(r"\w", line):
        return None
    line = re.escape(re.sub(r"\s+", " ", line)).replace("…", ".*")
    line = re.sub(r"%r?\d+", r"%r?\\d+", line)
    return line.replace(r"\ ", r"\s+")


class Architecture(unittest.TestCase):
    def test_shows_what_is_printed(self):
        page = PAGE.read_text()
        (command,) = re.findall(r"^    flarec (compile .*) --dump-stages stages$", page, re.M)
        with tempfile.TemporaryDirectory(prefix="flarec-docs-") as folder:
            subprocess.run([os.environ["FLAREC"], *command.split(), "--dump-stages", folder], check=True, stdout=subprocess.DEVNULL, timeout=300)
            for section, files in STAGES.items():
                text = page.split(f"\n### {section} ")[1].split("\n### ")[0]
                printed = "".join(pathlib.Path(folder, name).read_text() for name in files)
                lines = [line for block in re.findall(r"```\w*\n(.*?)```", text, re.S) for line in block.splitlines() if pattern(line)]
                self.assertGreater(len(lines), 1, section)
                for line in lines:
                    with self.subTest(section=section, line=line.strip()):
                        self.assertTrue(re.search(pattern(line), printed), "no such line is printed")


if __name__ == "__main__":
    unittest.main()
