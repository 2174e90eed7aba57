#!/usr/bin/env python3
"""The mixer against PyTorch's scaled_dot_product_attention called twice, both sides in one run.

Times are medians of CUDA events (or of the wall clock on the CPU) over interleaved rounds, in milliseconds, forward and forward plus backward, k and v as
views of [B, N, H*D]. On a GPU they are of its own work: calls are queued while it is busy with something else. --calls times single calls, the host's time included.

  bench/mixer.py --device cuda                 the shapes of docs and README
  bench/mixer.py --device cpu --threads 2      with the least of all rounds beside the medians
  bench/mixer.py --shapes 8,8,128,1048576 --dtype bf16
"""
import argparse
import json
import math
import os
import statistics
import sys
import time

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention as sdpa

BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "mem-eff.": SDPBackend.EFFICIENT_ATTENTION, "cuDNN": SDPBackend.CUDNN_ATTENTION}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def twice(q, k, v):
    z = sdpa(q, k, v, scale=1.0)
    return sdpa(k, q, z, scale=1.0)


class Side:
    """One implementation, ready to be timed."""

    def __init__(self, name, mixer, context=None):
        self.name, self.mixer, self.context = name, mixer, context
        self.forward, self.both, self.failed = [], [], None

    def enough(self, rounds, seconds):
        """Three rounds at least: of a backend that takes a second a median of many would be minutes."""
        return self.failed or len(self.both) >= rounds or (len(self.both) >= 3 and sum(self.forward) + sum(self.both) > 1e3 * seconds)

    def run(self, q, k, v, g, backward):
        if self.context is not None:
            with sdpa_kernel([self.context]):
                y = self.mixer(q, k, v)
                return torch.autograd.grad(y, (q, k, v), g) if backward else y
        y = self.mixer(q, k, v)
        return torch.autograd.grad(y, (q, k, v), g) if backward else y


def timed(device, f, calls=False):
    if device == "cuda":
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        if not calls:
            torch.cuda._sleep(2_000_000)  # the host queues everything meanwhile: what is timed is the device's work, on both sides
        a.record()
        f()
        b.record()
        torch.cuda.synchronize()
        return a.elapsed_time(b)
    t = time.perf_counter()
    f()
    return (time.perf_counter() - t) * 1e3


def measure(args, h, d, m, n, dtype, backends=tuple(BACKENDS)):
    """One shape: medians of each side, and why a side has none. On a GPU, of these backends of SDPA."""
    dev, b = args.device, 1
    torch.manual_seed(0)
    def tokens():
        return torch.randn(b, n, h * d, device=dev, dtype=dtype).view(b, n, h, d).transpose(1, 2)
    q = torch.randn(h, m, d, device=dev, dtype=dtype, requires_grad=True)
    k, v, g = tokens().requires_grad_(), tokens().requires_grad_(), tokens()
    qb = q.detach()[None].requires_grad_()
    sides = [Side("flarec", lambda q, k, v: torch.ops.flarec.mixer(q, k, v, 1.0))]
    if dev == "cuda":
        sides += [Side(name, twice, BACKENDS[name]) for name in backends]
    else:
        sides.append(Side("SDPA", twice))
    for s in sides:
        queries = q if s.name == "flarec" else qb
        try:
            with torch.no_grad():
                s.run(queries, k, v, g, False)
            s.run(queries, k, v, g, True)
        except RuntimeError as e:
            s.failed = str(e).split("\n")[0]
    while not all(s.enough(args.rounds, args.seconds) for s in sides):
        for s in sides:
            if s.enough(args.rounds, args.seconds):
                continue
            queries = q if s.name == "flarec" else qb
            with torch.no_grad():
                s.forward.append(timed(dev, lambda: s.run(queries, k, v, g, False), args.calls))
            s.both.append(timed(dev, lambda: s.run(queries, k, v, g, True), args.calls))
    return {"H": h, "D": d, "M": m, "N": n, "dtype": str(dtype).removeprefix("torch."),
            "sides": {s.name: {"forward": statistics.median(s.forward), "forward+backward": statistics.median(s.both), "least": [min(s.forward), min(s.both)]}
                      for s in sides if not s.failed},
            "failed": {s.name: s.failed for s in sides if s.failed}}


def best(row, what):
    """SDPA's fastest backend and its time; (None, NaN) where none ran."""
    return min(((name, times[what]) for name, times in row["sides"].items() if name != "flarec"), key=lambda x: x[1], default=(None, math.nan))


def show(row, device):
    ours = row["sides"].get("flarec")
    line = f"H{row['H']:<3} D{row['D']:<3} M{row['M']:<5} N{row['N']:<8} {row['dtype']:<9}"
    if ours:
        line += f" flarec {ours['forward']:8.3f} / {ours['forward+backward']:8.3f}"
    for what in ("forward", "forward+backward"):
        name, ms = best(row, what)
        if name and ours:
            line += f" | {what}: best SDPA {ms:8.3f} ({name}), {ms / ours[what]:5.2f}x"
    print(line, flush=True)
    if device == "cpu" and len(row["sides"]) == 2:  # a shared machine's medians are its neighbours' too
        (a, b), (x, y) = (row["sides"][name]["least"] for name in ("flarec", "SDPA"))
        print(f"    least: flarec {a:.3f} / {b:.3f}, SDPA {x:.3f} / {y:.3f}: {x / a:.2f}x, {y / b:.2f}x", flush=True)
    for name, why in row["failed"].items():
        print(f"    {name}: {why[:200]}", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--library", default=os.path.join(os.path.dirname(__file__), "../build/lib/libflarec_torch.so"))
    p.add_argument("--shapes", nargs="*", help="H,D,M,N")
    p.add_argument("--dtype", choices=list(DTYPES), default=None)
    p.add_argument("--rounds", type=int, default=15)
    p.add_argument("--seconds", type=float, default=math.inf, help="after three rounds, no more of a side that has taken so long")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--calls", action="store_true", help="on a GPU, time single calls")
    p.add_argument("--json")
    args = p.parse_args()
    torch.ops.load_library(args.library)
    if args.device == "cpu":
        torch.set_num_threads(args.threads)
    shapes = [tuple(map(int, s.split(","))) for s in args.shapes or []]
    if not shapes:
        shapes = [(8, 8, 128, 1 << 20), (8, 8, 64, 1 << 20), (8, 8, 512, 1 << 20), (16, 4, 256, 1 << 20), (8, 16, 128, 1 << 20), (8, 32, 128, 1 << 20),
                  (8, 8, 128, 16384)] if args.device == "cuda" else [(8, 8, 64, 16384), (8, 16, 64, 16384)]
    dtype = DTYPES[args.dtype or ("bf16" if args.device == "cuda" else "fp32")]
    what = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {args.threads} threads"
    print(f"{what}, torch {torch.__version__}; forward / forward plus backward, ms, medians of {args.rounds}", flush=True)
    rows = []
    for shape in shapes:
        rows.append(measure(args, *shape, dtype))
        show(rows[-1], args.device)
    if args.json:
        with open(args.json, "w") as f:
            json.dump({"device": what, "torch": torch.__version__, "date": time.strftime("%Y-%m-%d"), "rows": rows}, f, indent=1)


if __name__ == "__main__":
    sys.exit(main())
