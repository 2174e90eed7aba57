#!/usr/bin/env python3
"""Random configurations of those that the tuner would try, on a GPU: accuracy by tests/ops/accuracy.py, bitwise equal results of ten runs, and for some of them
compute-sanitizer. Each is put before the ops as a tuned table, so the way from a table to a launch is checked too. One line a configuration.

  configurations.py                         twenty, compute-sanitizer for four
  configurations.py --count 1 --seed 13     one again
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
import artefact

# dtype as the ops, accuracy.py and PyTorch name it, D, M.
SHAPES = [(*names, d, m) for names in (("bf16", "bf16", "bfloat16"), ("f32", "fp32", "float32"), ("f16", "fp16", "float16")) for d, m in ((8, 128), (4, 256), (16, 64), (32, 128), (8, 512), (64, 128))]

REPEAT = """
import os, sys, torch
sys.path.insert(0, "tests/ops")
import flarec_test
ops = flarec_test.load()
dtype, d, m, runs, tokens = getattr(torch, sys.argv[1]), *map(int, sys.argv[2:6])
torch.manual_seed(0)
r = lambda *s: torch.randn(*s, device="cuda", dtype=dtype)
for heads, n in ((8, tokens), (3, 17)):
    q, k, v, g = r(heads, m, d), *(r(1, n, heads * d).view(1, n, heads, d).transpose(1, 2) for _ in range(3))
    def run():
        leaves = [t.detach().requires_grad_() for t in (q, k, v)]
        y = ops.mixer(*leaves, 1.0)
        return (y, *torch.autograd.grad(y, leaves, g))
    first = run()
    for _ in range(runs - 1):
        assert all(torch.equal(a, b) for a, b in zip(first, run())), "runs differ"
print("all equal", flush=True)
# Not by way of Python's end: three of sixty such processes, busy machines' all, ended in std::terminate. The thread of PyTorch's autograd engine may still let go of the
# last pass's tensors then, and a thread that wants Python's lock is ended by force. Whatever goes wrong before is still seen.
os._exit(0)
"""


def candidates(flarec, shape):
    """Of each sweep, in the order in which the tuner would try them."""
    with tempfile.TemporaryDirectory() as folder:
        record = pathlib.Path(folder) / "record.json"
        subprocess.run([flarec, "tune", "--predict", "--record", record, "--target", "native", "--dtype", shape[0], "--head-dim", str(shape[3]), "--latents", str(shape[4]), "--tokens", "4099"],
                       check=True, capture_output=True)
        return json.loads(record.read_text())[0]["sweeps"]


def table(device, shape, sweeps, choice):
    functions = {}
    for sweep, chosen in zip(sweeps, choice):
        functions.setdefault(sweep["function"], {"ms": 1.0, "heuristic_ms": 1.0, "sweeps": []})["sweeps"].append({**sweep["heuristic"], **chosen["changes"]})
    return {"format": 1, "device": device, "target": "sm_90a" if "H100" in device or "H200" in device else "sm_80",
            "entries": [{"dtype": shape[0], "head_dim": shape[3], "latents": shape[4], "heads": 8, "layout": "tokens-major", "tokens": [1, 1 << 40], "measured_tokens": 4099,
                         "date": "2000-01-01", "compiler": "", "clock_mhz": 0, "functions": functions}]}


def was_used(cache, wanted):
    """Does a cached artefact have exactly these sweeps? Of a manifest's fields tile, heads, row groups and blocks tell."""
    for path in cache.glob("*/*.flare"):
        manifest, _ = artefact.read_artefact(path.read_bytes())
        for function in manifest["functions"]:
            sweeps = wanted["entries"][0]["functions"].get(function["name"])
            fields = ("tile", "heads", "row_groups", "blocks")
            if sweeps and [[s[f] for f in fields] for s in function["sweeps"]] == [[s[f] for f in fields] for s in sweeps["sweeps"]]:
                return True
    return False


def check(args, number, shape, sweeps, device):
    choose = random.Random(args.seed + number)
    choice = [choose.choice(sweep["candidates"]) for sweep in sweeps]
    name = f"{shape[1]} D={shape[3]} M={shape[4]}, seed {args.seed + number}: " + "; ".join(" ".join(f"{k}={v}" for k, v in c["changes"].items()) or "heuristic" for c in choice)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="flarec-configurations-"))
    try:
        (folder / "tables").mkdir()
        wanted = table(device, shape, sweeps, choice)
        (folder / "tables/device.json").write_text(json.dumps(wanted))
        environment = {**os.environ, "FLAREC_TUNE_DIR": str(folder / "tables"), "FLAREC_TEST_CACHE_DIR": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
        repeat = [sys.executable, "-c", REPEAT, shape[2], str(shape[3]), str(shape[4])]
        steps = {"accuracy": [sys.executable, "tests/ops/accuracy.py", "--device", "cuda", "--only-failures", "--head-dims", str(shape[3]), "--latents", str(shape[4]),
                              "--tokens", "0", "1", "65", "4099", "--dtypes", shape[1], "--scores", "1", "10"],
                 "ten runs": [*repeat, "10", "4099"]}
        if number < args.sanitize and shutil.which("compute-sanitizer"):
            for tool in ("memcheck", "racecheck"):
                steps[tool] = ["compute-sanitizer", "--tool", tool, "--kernel-regex", "kns=mixer", "--error-exitcode", "9", *repeat, "1", "65"]
        bad = []
        for step, command in steps.items():
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
            if done.returncode:
                lines = (done.stdout + done.stderr).strip().splitlines()
                bad.append(f"{step}: " + " | ".join([line for line in lines if line.startswith("FAIL")][:3] or lines[-2:]))
        if not was_used(folder / "cache", wanted):
            bad.append("no kernel was made with it")
        return name, bad
    except subprocess.TimeoutExpired as error:
        return name, [f"{error.cmd[1]} took more than {error.timeout:.0f} s"]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--count", type=int, default=20)
    p.add_argument("--seed", type=int, default=0, help="of the first; those after it count up")
    p.add_argument("--sanitize", type=int, default=4, help="for so many, compute-sanitizer's memcheck and racecheck")
    p.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--flarec", default=str(ROOT / "build/bin/flarec"))
    args = p.parse_args()
    device = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader", "--id=0"], check=True, capture_output=True, text=True).stdout.strip()
    shapes = [SHAPES[(args.seed + i) % len(SHAPES)] for i in range(args.count)]
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        known = dict(zip(set(shapes), pool.map(lambda shape: candidates(args.flarec, shape), set(shapes))))
        failures = 0
        for name, bad in pool.map(lambda i: check(args, i, shapes[i], known[shapes[i]], device), range(args.count)):
            failures += bool(bad)
            print(f"{'FAIL' if bad else 'ok  '} {name}{': ' + '; '.join(bad) if bad else ''}", flush=True)
    print(f"{args.count - failures} of {args.count} random configurations hold")
    return failures != 0


if __name__ == "__main__":
    sys.exit(main())
