"""Runs every example of a dialect's ops through flare-opt: its documentation is compiled.

An op needs a summary, a description and, between ```mlir and ```, an example that names it. What flare-opt prints of an example, in the
custom and in the generic form, reads back as the same.
"""
import argparse
import re
import subprocess
import sys

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--tblgen", required=True)
parser.add_argument("--flare-opt", required=True)
parser.add_argument("--include", action="append", default=[])
parser.add_argument("--dialect", required=True)
parser.add_argument("source")
arguments = parser.parse_args()

# Terminators: their example is the one of the op around them.
INSIDE = {"flare.yield": "flare.sweep", "tile.yield": "tile.stream"}

includes = [f"-I{path}" for path in arguments.include]
page = subprocess.run([arguments.tblgen, "-gen-op-doc", f"-dialect={arguments.dialect}", *includes, arguments.source],
                      check=True, capture_output=True, text=True).stdout
sections = dict(re.findall(rf"^### `({arguments.dialect}\.\w+)` [^\n]*\n(.*?)(?=^### `|\Z)", page, re.M | re.S))
if len(sections) < 10:
    sys.exit(f"found only {len(sections)} ops in {arguments.source}")

failures = 0


def check(good, message):
    global failures
    if not good:
        failures += 1
        print("FAILED:", message)


ran = 0
for op, text in sections.items():
    check(re.search(r"^_\S.*_$", text, re.M), f"{op} has no summary")
    examples = re.findall(r"^[ \t]*```mlir\n(.*?)^[ \t]*```", text, re.M | re.S)
    if op in INSIDE:
        examples = re.findall(r"```mlir\n(.*?)```", sections[INSIDE[op]], re.S)
    check(examples, f"{op} has no example")
    check(any(re.search(re.escape(op) + r"\b", e) for e in examples), f"no example of {op} names it")
    for example in examples:
        if op in INSIDE:
            continue
        def flare_opt(text, *form):
            run = subprocess.run([arguments.flare_opt, "-", *form], input=text, capture_output=True, text=True)
            check(run.returncode == 0, f"the example of {op} does not run:\n{text}\n{run.stderr}")
            return run.stdout

        custom = flare_opt(example)
        check(flare_opt(custom) == custom, f"what flare-opt prints of {op} reads back as something else:\n{custom}")
        generic = flare_opt(custom, "--mlir-print-op-generic")
        check(flare_opt(generic) == custom, f"the generic form of {op} reads back as something else:\n{generic}")
        ran += 1
print(f"{ran} examples of {len(sections)} ops ran")
sys.exit(1 if failures else 0)
