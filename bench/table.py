#!/usr/bin/env python3
"""What the mixer is measured by, in one table: SDPA's best backend and flarec in one run, what the tuner's model predicts for the heuristic's configurations, what is
required, and the goal. Times in ms, forward and forward plus backward, B = 1, as bench/mixer.py takes them.

  bench/table.py                       1,048,576 tokens
  bench/table.py --sweep               bf16, H = 8: is it ever slower than SDPA, at any D, M and N? How does time grow with N and M? And 8,388,608 tokens
  bench/table.py --only "bf16 8,8,"    rows of which "dtype H,D,M" matches this
  bench/table.py --device cpu --tokens 4096 --only "bf16 8,8,64$"

All kernels are compiled first, on all processors. Backends of SDPA that are far behind at few tokens are left out at many, where they would take most of the time.
"""
import argparse
import concurrent.futures
import json
import math
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time
import warnings

import torch

import mixer
from clock import Clock

ROOT = pathlib.Path(__file__).resolve().parents[1]
WHAT = ("forward", "forward+backward")

# dtype, H, D, M; required, goal: forward, forward plus backward on an H100, 1,048,576 tokens. Where None is required: what the model predicts, 1.3 times, and less than SDPA.
ROWS = [
    ("bf16", 8, 8, 64, (0.31, 0.88), (0.27, 0.75)),
    ("bf16", 8, 8, 128, (0.50, 1.45), (0.44, 1.25)),
    ("bf16", 8, 8, 512, (2.05, 5.5), (1.65, 4.7)),
    ("bf16", 16, 4, 256, (2.0, 5.5), (1.5, 4.6)),
    ("bf16", 8, 16, 128, (0.65, 2.2), (0.55, 1.7)),
    ("bf16", 8, 8, 2048, None, (6.8, 19)),
    ("bf16", 8, 16, 512, None, (1.9, 5.8)),
    ("bf16", 8, 32, 128, None, (0.85, 2.7)),
    ("bf16", 8, 32, 256, None, (1.2, 3.9)),
    ("bf16", 4, 64, 128, None, (0.85, 2.6)),
    ("bf16", 8, 128, 128, None, (3.4, 10)),
    ("fp16", 8, 8, 128, (0.75, 1.9), (0.50, 1.4)),
    ("fp16", 8, 16, 128, (0.85, 2.5), (0.60, 1.8)),
    ("fp32", 8, 8, 128, (2.5, 8), (1.5, 5)),
    ("fp32", 8, 8, 512, (8, 24), (5, 15)),
]
SWEEP = [("bf16", 8, d, m) for d in (4, 8, 16, 32) for m in (16, 64, 256, 1024, 2048)] + [("bf16", 8, d, m) for d in (64, 128) for m in (16, 64, 256)]


def text(dtype, h, d, m):
    return f"{dtype} {h},{d},{m}"


def compile_kernels(args, dtype, h, d, m):
    """Those that measuring a shape will look up: of a forward alone, and of one that a backward follows."""
    q, k, v = (torch.zeros(1, h, rows, d, device=args.device, dtype=mixer.DTYPES[dtype], requires_grad=True) for rows in (m, 16, 16))
    try:
        with torch.no_grad():
            torch.ops.flarec.mixer(q[0], k, v, 1.0)
        torch.ops.flarec.mixer(q[0], k, v, 1.0)
    except RuntimeError:
        pass  # measuring it will say why


def predict(args, dtype, h, d, m):
    """What the tuner's model expects of the heuristic's configurations, in ms; {} where there is no program to ask."""
    target = "native" if args.device == "cuda" else "host"
    command = [args.flarec, "tune", "--predict", "--target", target, "--dtype", dtype, "--heads", h, "--head-dim", d, "--latents", m, "--tokens", args.tokens]
    try:
        output = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return {}
    sweeps = re.findall(r"mixer_(forward|backward), sweep .*\n +([\d.]+) ms .* as the heuristic has it", output)
    sums = {half: sum(float(ms) for name, ms in sweeps if name == half) for half in ("forward", "backward")}
    return {"forward": sums["forward"], "forward+backward": sums["forward"] + sums["backward"]} if all(sums.values()) else {}


def contenders(row):
    """SDPA's backends that are, or could be with more tokens, the best; all, where none ran, so that each says why."""
    return [name for name, times in row["sides"].items() if name != "flarec" and any(times[what] <= 1.5 * mixer.best(row, what)[1] for what in WHAT)] or list(mixer.BACKENDS)


def measure(args, dtype, h, d, m, n, backends, rounds):
    """A row of bench/mixer.py, with SDPA's best times, by how much flarec is faster, and the clock."""
    options = argparse.Namespace(**{**vars(args), "rounds": rounds})
    if args.device == "cuda":
        torch.cuda.empty_cache()
        with Clock(period=0.2) as clock:
            row = mixer.measure(options, h, d, m, n, mixer.DTYPES[dtype], backends)
        row["ghz"] = clock.ghz() if clock.samples else None
    else:
        row = mixer.measure(options, h, d, m, n, mixer.DTYPES[dtype])
    row["best"] = {what: dict(zip(("side", "ms"), mixer.best(row, what))) for what in WHAT if mixer.best(row, what)[0]}
    ours = row["sides"].get("flarec", {})
    row["faster"] = {what: row["best"][what]["ms"] / ours[what] for what in WHAT if what in row["best"] and ours}
    return row


def pair(numbers, form, unit=""):
    """Of a forward and of both; numbers: by what, or none."""
    return " ".join(f"{numbers[what]:{form}}{unit}" if what in numbers else " " * (int(form.split(".")[0]) - 1 + len(unit)) + "-" for what in WHAT)


def measured(row):
    """The columns that both tables have."""
    names = dict.fromkeys(row["best"][what]["side"] for what in row["best"])
    return (f"{pair({what: row['best'][what]['ms'] for what in row['best']}, '8.3f')} {'/'.join(names):12.12} {pair(row['sides'].get('flarec', {}), '8.3f')} "
            f"{pair(row['faster'], '6.2f', 'x')}")


def failures(row):
    """Of flarec always; of SDPA where none of its backends ran."""
    return [f"    {name}: {why[:200]}" for name, why in row["failed"].items() if name == "flarec" or not row["best"]]


def compile_all(args, mixers, predictions):
    """On all processors, since compiling takes most of the time otherwise; returns predictions by mixer, where wanted."""
    start = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        compiled = [pool.submit(compile_kernels, args, *key) for key in mixers]
        predicted = {key: pool.submit(predict, args, *key) for key in mixers if predictions}
        for future in compiled:
            future.result()
    print(f"{len(mixers)} mixers compiled in {time.monotonic() - start:.0f} s", flush=True)
    return {key: future.result() for key, future in predicted.items()}


def table(args, keep):
    rows = [row for row in ROWS if re.search(args.only, text(*row[:4]))]
    predicted = compile_all(args, [row[:4] for row in rows], predictions=True)
    judged = args.device == "cuda" and args.tokens == 1 << 20
    print(f"{'':18}{'SDPA':>17} {'':12} {'flarec':>17} {'faster':>15}   {'model':>17} {'of model':>11}   {'required':>13} {'goal':>13}")
    for dtype, h, d, m, required, goal in rows:
        few = measure(args, dtype, h, d, m, min(args.tokens, 1 << 14), mixer.BACKENDS, rounds=3)
        row = measure(args, dtype, h, d, m, args.tokens, contenders(few), args.rounds)
        ours, model = row["sides"].get("flarec", {}), predicted[dtype, h, d, m]
        row |= {"predicted": model, "of model": {what: ours[what] / model[what] for what in WHAT if ours and model}}
        line = f"{text(dtype, h, d, m):18}{measured(row)}   {pair(model, '8.3f')} {pair(row['of model'], '5.2f')}"
        if judged:
            row["goal"] = dict(zip(WHAT, goal))
            if required:
                row["required"] = dict(zip(WHAT, required))
            elif model and len(row["best"]) == 2:
                row["required"] = {what: min(1.3 * model[what], row["best"][what]["ms"]) for what in WHAT}
            row["reached"] = {what: "missed" if ours[what] > row["required"][what] else "goal" if ours[what] <= row["goal"][what] else "required"
                              for what in WHAT if ours and "required" in row}
            line += f"   {pair(row.get('required', {}), '6.2f')} {pair(row['goal'], '6.2f')}   {' '.join(row['reached'].values())}"
        print("\n".join([line, *failures(row)]), flush=True)
        keep(row)


def slope(points):
    """Of times over sizes, both logarithmic: by least squares, and of the last two."""
    x, y = [[math.log(value) for value in values] for values in zip(*points)]
    return {"all": statistics.linear_regression(x, y).slope, "last": (y[-1] - y[-2]) / (x[-1] - x[-2])}


def sweep(args, keep):
    mixers = [key for key in SWEEP if re.search(args.only, text(*key))]
    sizes, long = [args.tokens >> 6, args.tokens >> 3, args.tokens], ("bf16", 8, 8, 128)
    compile_all(args, [*mixers, long], predictions=False)
    rows = []

    def add(key, n, backends):
        row = measure(args, *key, n, backends, args.rounds)
        slower = [what for what in WHAT if row["faster"].get(what, 1) < 1]
        print("\n".join([f"{text(*key):16} N {n:<8} {measured(row)}" + (f"   SLOWER: {', '.join(slower)}" if slower else ""), *failures(row)]), flush=True)
        keep(row)
        rows.append(row)
        return row

    print(f"{'':27}{'SDPA':>17} {'':12} {'flarec':>17} {'faster':>15}")
    for key in mixers:
        backends = mixer.BACKENDS
        for n in sizes:
            backends = contenders(add(key, n, backends))
    families = {}
    for row in rows:
        for what in WHAT:
            if "flarec" in row["sides"]:
                time_of = row["sides"]["flarec"][what]
                families.setdefault((f"in N, H 8, D {row['D']}, M {row['M']}", what), []).append((row["N"], time_of))
                if row["N"] == args.tokens:
                    families.setdefault((f"in M, H 8, D {row['D']}, N {row['N']}", what), []).append((row["M"], time_of))
    slopes = {}
    for (family, what), points in families.items():
        if len(points) > 1:
            slopes.setdefault(family, {})[what] = slope(points)
    print("slopes of flarec's time, log over log: of all, and of the last two")
    for family in sorted(slopes, key=lambda f: f[:4]):  # stable: all in M, then all in N
        print(f"   {family:32}" + "   ".join(f"{what} {s['all']:5.2f} {s['last']:5.2f}" for what, s in slopes[family].items()))
    keep(slopes=slopes)
    few = measure(args, *long, sizes[0], mixer.BACKENDS, rounds=3)
    add(long, 8 * args.tokens, contenders(few))
    faster = [row["faster"][what] for row in rows for what in row["faster"]]
    print(f"{sum(x < 1 for x in faster)} of {len(faster)} times are slower than SDPA" + (f"; the least advantage is {min(faster):.2f}x" if faster else ""))


def about(args):
    """On what it is measured, and what."""
    def says(*command):
        try:
            return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return None
    revision = ROOT / "build/revision"  # where a build was brought without its repository
    facts = {"device": f"CPU, {args.threads} threads", "driver": None, "clocks": None}
    if args.device == "cuda":
        facts = {"device": torch.cuda.get_device_name(), "driver": says("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
                 "clocks": says("nvidia-smi", "--query-gpu=clocks.max.sm,clocks.max.mem,power.limit", "--format=csv,noheader")}
    return facts | {"torch": torch.__version__, "date": time.strftime("%Y-%m-%d"),
                    "revision": revision.read_text().strip() if revision.exists() else says("git", "describe", "--always", "--dirty")}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--library", default=str(ROOT / "build/lib/libflarec_torch.so"))
    p.add_argument("--flarec", default=str(ROOT / "build/bin/flarec"), help="the program, for predictions")
    p.add_argument("--sweep", action="store_true")
    p.add_argument("--only", default="", help="rows of which \"dtype H,D,M\" matches this regular expression")
    p.add_argument("--tokens", type=int, default=1 << 20, help="with --sweep: the most but for the last row, which has 8 times as many; the others 64 and 8 times fewer")
    p.add_argument("--rounds", type=int, default=15)
    p.add_argument("--seconds", type=float, default=0.4, help="after three rounds, no more of a side that has taken so long")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--json")
    args = p.parse_args()
    args.calls = False
    warnings.filterwarnings("ignore")  # SDPA's, of each backend that it cannot use and why
    torch.ops.load_library(args.library)
    if args.device == "cpu":
        torch.set_num_threads(args.threads)
    start = time.monotonic()
    report = about(args) | {"rows": []}
    print(", ".join(f"{name} {value}" for name, value in report.items() if value and name != "rows"), flush=True)

    def keep(row=None, **more):
        """What there is so far, should the machine be taken away."""
        report.update(more)
        if row:
            report["rows"].append(row)
        if args.json:
            pathlib.Path(args.json).write_text(json.dumps(report, indent=1))

    (sweep if args.sweep else table)(args, keep)
    print(f"{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
