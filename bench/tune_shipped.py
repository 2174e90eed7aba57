#!/usr/bin/env python3
"""Fills the table of tuned configurations that is shipped for the GPU at hand: what FLARE's authors publish (`flarec tune --all`) and the rows of bench/table.py, at
a million tokens and at 16,384. The result is one file, named after the device, for autotune/tables/, where the next build finds it.

  bench/tune_shipped.py DIRECTORY                      a table in DIRECTORY; what it has from this compiler is left out, so that a killed run goes on
  bench/tune_shipped.py DIRECTORY --from autotune/tables --time 470s     begins with those tables, and with no shape that could not be finished in this time
"""
import argparse
import ast
import os
import pathlib
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
DTYPES = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}


def rows():
    """Those of bench/table.py, without what it imports: dtype, H, D, M."""
    for node in ast.parse((ROOT / "bench/table.py").read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "ROWS":
            return [(DTYPES[row[0]], *row[1:4]) for row in ast.literal_eval(node.value)]
    raise SystemExit("bench/table.py has no ROWS")


def seconds(text):
    return float(text.removesuffix("s"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--from", dest="source", type=pathlib.Path, help="a directory with tables to begin with")
    parser.add_argument("--budget", default="9s", help="time for a shape (9s)")
    parser.add_argument("--time", default="480s", type=seconds, help="time for all (480s)")
    parser.add_argument("--target", default="native")
    parser.add_argument("--flarec", default=os.environ.get("FLAREC", ROOT / "build/bin/flarec"))
    args = parser.parse_args()
    start = time.monotonic()
    args.directory.mkdir(parents=True, exist_ok=True)
    for table in args.source.glob("*.json") if args.source else []:
        if not (args.directory / table.name).exists():
            shutil.copy(table, args.directory)
    environment = {**os.environ, "FLAREC_TUNE_DIR": str(args.directory)}

    def tune(*arguments):
        """False: it failed, or there was no time for it."""
        left = args.time - (time.monotonic() - start)
        if left < seconds(args.budget) + 3:
            return False
        command = [args.flarec, "tune", *arguments, "--missing", "--budget", args.budget, "--target", args.target]
        try:
            return subprocess.run(list(map(str, command)), env=environment, stderr=subprocess.DEVNULL, timeout=left).returncode == 0
        except subprocess.TimeoutExpired:
            return False

    # What issue 5 measures first, then what is published, then few tokens.
    missing = [row for row in rows() if not tune_row(tune, row, 1 << 20)]
    if not tune("--all"):
        missing.append("--all")
    missing += [(*row, 1 << 14) for row in rows() if not tune_row(tune, row, 1 << 14)]
    for table in sorted(args.directory.glob("*.json")):
        print(table)
    print(f"{len(missing)} not tuned{': ' if missing else ''}{', '.join(map(str, missing))}; {time.monotonic() - start:.0f} s")
    return 1 if missing else 0


def tune_row(tune, row, tokens):
    dtype, heads, head_dim, latents = row
    return tune("--dtype", dtype, "--heads", heads, "--head-dim", head_dim, "--latents", latents, "--tokens", tokens)


if __name__ == "__main__":
    sys.exit(main())
