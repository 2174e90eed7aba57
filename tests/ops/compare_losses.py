#!/usr/bin/env python3
"""Do the first losses of flarec and SDPA agree as closely as two of SDPA's backends do?

Trains the same model with `--attention flarec`, `sdpa` and `sdpa-math` from the same seeds and compares the losses step by
step, in float32 and under autocast (float16: with the gradient scaler). Rounding errors grow from step to step, in all three alike,
so the yardstick is the difference of the two SDPAs: the root mean square of flarec's relative difference from sdpa must be at most
twice that of sdpa-math's, in the geometric mean over the seeds.

  compare_losses.py --device cuda --data ../shared/data/darcy
"""

import argparse
import concurrent.futures
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

import flarec_test

PROGRAM = os.environ.get("FLAREC_TRAIN", str(flarec_test.ROOT / "build/bin/flare-train"))


def losses(args, dtype, attention, seed):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "losses.txt"
        command = [PROGRAM, "--data", args.data, "--device", args.device, "--dtype", dtype, "--attention", attention, "--seed", str(seed)]
        command += ["--steps", str(args.steps), "--losses", str(path), "--threads", str(args.threads)]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            sys.exit(run.stderr)
        return np.loadtxt(path)


def agree(args, dtype):
    ours, theirs = [], []
    all_three = lambda seed: [losses(args, dtype, attention, seed) for attention in ("sdpa", "flarec", "sdpa-math")]
    pool = concurrent.futures.ThreadPoolExecutor(args.jobs)
    runs = [pool.submit(all_three, seed) for seed in range(args.seeds)]
    for seed in range(args.seeds):
        sdpa, flarec, other = runs[seed].result()
        ours.append(flarec / sdpa - 1)
        theirs.append(other / sdpa - 1)
        print(f"{dtype} seed {seed}: largest relative difference from sdpa in {args.steps} losses: "
              f"flarec {np.abs(ours[-1]).max():.1e}, sdpa-math {np.abs(theirs[-1]).max():.1e}", flush=True)
    rms = lambda x: float(np.sqrt(np.mean(np.square(x))))
    # Training amplifies a rounding difference by a factor that varies by orders of magnitude from seed to seed (1e-7 to 1e-3 in float32), so
    # one seed would decide a mean over all: compare seed by seed, and average the ratios' logarithms.
    ratio = float(np.exp(np.mean([np.log(rms(a) / rms(b)) for a, b in zip(ours, theirs)])))
    print(f"{dtype}: root mean square: flarec {rms(ours):.1e}, sdpa-math {rms(theirs):.1e}; "
          f"geometric mean of the seeds' ratios {ratio:.2f} (at most 2)", flush=True)
    return ratio <= 2


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", default="synthetic")
    p.add_argument("--device", default="cpu")
    p.add_argument("--dtypes", nargs="+", choices=("fp32", "bf16", "fp16"), default=["fp32", "bf16", "fp16"])
    p.add_argument("--seeds", type=int, default=5)
    p.add_argument("--steps", type=int, default=50)
    p.add_argument("--threads", type=int, default=0)
    p.add_argument("--jobs", type=int, default=1, help="seeds that are trained at the same time")
    args = p.parse_args()
    flarec_test.fresh_cache()
    return 0 if all([agree(args, dtype) for dtype in args.dtypes]) else 1


if __name__ == "__main__":
    sys.exit(main())
