"""Runs every example of FlareOps.td through flare-opt: the documentation of the dialect is compiled.

An op needs a summary, a description and, between ```mlir and ```, an example that names it.
"""
import argparse
import re
import subprocess
import sys

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--tblgen", required=True)
parser.add_argument("--flare-opt", required=True)
parser.add_argument("--include", action="append", default=[])
parser.add_argument("source")
arguments = parser.parse_args()

# Terminators: their example is the one of the op around them.
INSIDE = {"flare.yield": "flare.sweep"}

includes = [f"-I{path}" for path in arguments.include]
page = subprocess.run([arguments.tblgen, "-gen-op-doc", "-dialect=flare", *includes, arguments.source],
                      check=True, capture_output=True, text=True).stdout
sections = dict(re.findall(r"^### `(flare\.\w+)` [^\n]*\n(.*?)(?=^### `|\Z)", page, re.M | re.S))
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
        for form in ([], ["--mlir-print-op-generic"]):
            run = subprocess.run([arguments.flare_opt, "-", *form], input=example, capture_output=True, text=True)
            check(run.returncode == 0, f"the example of {op} does not run:\n{example}\n{run.stderr}")
            again = subprocess.run([arguments.flare_opt, "-"], input=run.stdout, capture_output=True, text=True)
            check(again.returncode == 0, f"what flare-opt prints of {op} does not read back:\n{run.stdout}\n{again.stderr}")
        ran += 1
print(f"{ran} examples of {len(sections)} ops ran")
sys.exit(1 if failures else 0)
