#!/usr/bin/env python3
"""Is one of the model's first 16 candidates within 2 % of the best that the tuner's funnel leaves? Tunes six shapes with much time, all candidates of each sweep,
and prints for each sweep which candidate was the best, and how far behind the best of the first 16 is. Nothing is kept but the record, from which the model can be
corrected without a GPU: --read prints the same of records, and tests/autotune/recorded/ takes them for the tests of the model.

  bench/first16.py --json first16.json                     on the first GPU, about 9 minutes
  bench/first16.py --json first16.json --only "f16|32,128" some of the shapes; others that the file has stay
  bench/first16.py --target host --budget 20s --tokens 16384 --only "8,8,128 bf16"
  bench/first16.py --read first16.json
"""
import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
FIRST = 16
NEAR = 1.02

# H, D, M, dtype: each kind of sweep at its narrowest and widest.
SHAPES = [
    (8, 8, 128, "bf16"),
    (8, 8, 512, "bf16"),
    (16, 4, 256, "bf16"),
    (8, 32, 128, "bf16"),
    (8, 16, 128, "f16"),
    (8, 8, 128, "f32"),
]


def text(h, d, m, dtype):
    return f"{h},{d},{m} {dtype}"


def name_of(record):
    return text(record["heads"], record["head_dim"], record["latents"], record["dtype"])


def judge(sweep):
    """What the first 16 are worth, with the heuristic's beside them, which is the first of all. Who dropped out (it has a fate) was measured too few times to be the
    best of anything, and was at least 6 % behind."""
    candidates = sweep["candidates"]
    best, rank = min((c["ms"], i) for i, c in enumerate(candidates) if "ms" in c and "fate" not in c)
    times = [(max(c["ms"], (1.06 if "fate" in c else 1) * best), i) for i, c in enumerate(candidates) if "ms" in c]
    heuristic = times[0][0]
    first = min((t for t in times if 1 <= t[1] <= FIRST), default=(float("inf"), 0))
    return {"measured": len(times), "best_ms": best, "rank": rank, "first16_ms": first[0], "first16_rank": first[1], "heuristic_ms": heuristic,
            "first16_over_best": min(first[0], heuristic) / best, "heuristic_over_best": heuristic / best}


def show(records):
    print(f"{'H,D,M dtype':16} {'sweep':20} {'measured':>8} {'best, ms':>9} {'its rank':>8} {'first 16':>9} {'rank':>5} {'heuristic':>9}   first 16, heuristic over best")
    failures = 0
    for record in records:
        for sweep in record["sweeps"]:
            j = judge(sweep)
            far = j["first16_over_best"] > NEAR
            failures += far
            print(f"{name_of(record):16} {sweep['function'].split('_')[1] + ' ' + str(sweep['sweep']) + ', rows ' + sweep['heuristic']['rows']:20} {j['measured']:8} {j['best_ms']:9.4f} "
                  f"{j['rank']:8} {j['first16_ms']:9.4f} {j['first16_rank']:5} {j['heuristic_ms']:9.4f}   {j['first16_over_best']:.3f} {j['heuristic_over_best']:.3f}{'  FAR' if far else ''}")
    sweeps = sum(len(record["sweeps"]) for record in records)
    print(f"{sweeps - failures} of {sweeps} sweeps have the best, or one within {NEAR - 1:.0%} of it, among the heuristic's and the model's first {FIRST}")
    return failures


def tune(args, h, d, m, dtype):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "record.json"
        command = [args.flarec, "tune", "--heads", h, "--head-dim", d, "--latents", m, "--dtype", dtype, "--target", args.target, "--budget", args.budget, "--dry-run",
                   "--record", path, *(["--tokens", args.tokens] if args.tokens else [])]
        done = subprocess.run(list(map(str, command)), stderr=subprocess.DEVNULL if sys.stderr.isatty() else None)
        return json.loads(path.read_text()) if done.returncode == 0 else []


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", default="80s", help="time for a shape (80s)")
    parser.add_argument("--only", default="", help='shapes of which "H,D,M dtype" matches this')
    parser.add_argument("--target", default="native")
    parser.add_argument("--tokens", type=int, help="1,048,576 without it, on the host 16,384")
    parser.add_argument("--json", help="where the record goes; written after each shape")
    parser.add_argument("--read", nargs="+", help="print what these records say, and measure nothing")
    parser.add_argument("--flarec", default=os.environ.get("FLAREC", ROOT / "build/bin/flarec"))
    args = parser.parse_args()
    if args.read:
        return show([record for path in args.read for record in json.loads(pathlib.Path(path).read_text())])
    shapes = [shape for shape in SHAPES if re.search(args.only, text(*shape))]
    if not shapes:
        parser.error(f"--only '{args.only}' matches none of {', '.join(text(*shape) for shape in SHAPES)}")
    path = pathlib.Path(args.json) if args.json else None
    records = json.loads(path.read_text()) if path and path.exists() else []
    failed = 0
    for shape in shapes:
        fresh = tune(args, *shape)
        failed += not fresh
        records = [record for record in records if not fresh or name_of(record) != text(*shape)] + fresh
        if path:
            # The lines as they come: a candidate each.
            path.write_text("[\n" + ",\n".join(lines(record) for record in records) + "]\n")
    show(records)
    return failed


def lines(record):
    """As flarec writes it: a candidate a line."""
    def dump(value, without):
        return json.dumps({k: v for k, v in value.items() if k != without}, separators=(",", ":"), ensure_ascii=False)[:-1]
    sweeps = ",\n ".join(dump(sweep, "candidates") + ', "candidates": [\n  ' + ",\n  ".join(json.dumps(c, separators=(",", ":"), ensure_ascii=False) for c in sweep["candidates"]) + "]}"
                         for sweep in record["sweeps"])
    return dump(record, "sweeps") + ', "sweeps": [\n ' + sweeps + "]}"


if __name__ == "__main__":
    sys.exit(main())
