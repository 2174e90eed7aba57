"""Compiles the mixers listed in budgets.json for each GPU target, assembles them with ptxas, and compares registers, spills and
shared memory with the budgets. Any performance warning of ptxas (C75xx) is a failure.

    budgets.py --compiler build/lib/libflarec_compiler.so            compare
    budgets.py --compiler … --update                                 write what is used today into budgets.json

A budget may be tightened by hand; `known` says why a kernel may spill for now.
"""
import argparse
import concurrent.futures
import glob
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.dirname(HERE))
import artefact


def find_ptxas():
    candidates = [os.environ.get("FLAREC_PTXAS"), shutil.which("ptxas"), "/usr/local/cuda/bin/ptxas"]
    candidates += sorted(glob.glob(os.path.join(ROOT, ".venv/lib/python3*/site-packages/nvidia/cu13/bin/ptxas")))
    candidates += sorted(glob.glob(os.path.join(ROOT, ".venv/lib/python3*/site-packages/nvidia/cuda_nvcc/bin/ptxas")))
    for path in candidates:
        if path and os.access(path, os.X_OK):
            return path
    return None


def measure(case, library, ptxas):
    """For each kernel the most that any of its variants uses, and the performance warnings."""
    mixer = {key: case[key] for key in ("head_dim", "latents", "dtype")}
    manifest, texts = artefact.compile_ptx(library, {"mixer": {**mixer, "gradients": "qkv"}, "target": case["target"], "config": ""})
    log = ""
    with tempfile.TemporaryDirectory() as folder:
        for ptx in texts:
            path = os.path.join(folder, "kernel.ptx")
            with open(path, "wb") as f:
                f.write(ptx)
            run = subprocess.run([ptxas, "-v", f"-arch={case['target']}", "-o", os.path.join(folder, "kernel.cubin"), path],
                                 capture_output=True, text=True)
            log += run.stdout + run.stderr
            if run.returncode:
                raise RuntimeError(log)
    used = {}
    for symbol, spills, registers in re.findall(
            r"Compiling entry function '(\w+)'.*?(\d+) bytes spill stores.*?Used (\d+) registers", log, re.S):
        used[symbol] = {"registers": int(registers), "spill": int(spills)}
    kernels = {}
    for function in manifest["functions"]:
        for kernel in function["kernels"]:
            symbols = [v["symbol"] for v in kernel["variants"]] or [kernel["symbol"]]
            kernels[kernel["symbol"]] = {
                "registers": max(used[s]["registers"] for s in symbols),
                "spill": max(used[s]["spill"] for s in symbols),
                "shared": kernel["shared"],
            }
    return kernels, sorted(set(re.findall(r"[^\n]*C75\d\d[^\n]*", log)))


def name(case):
    return f"{case['target']} {case['dtype']} D={case['head_dim']} M={case['latents']}"


def attempt(arguments):
    case, library, ptxas = arguments
    try:
        return case, *measure(case, library, ptxas), ""
    except RuntimeError as error:
        return case, {}, [], str(error)


def write(path, comment, cases):
    """One kernel a line, so that a change reads well in a diff."""
    lines = ["{", f'  "comment": {json.dumps(comment)},', '  "cases": [']
    for i, case in enumerate(cases):
        head = {k: case[k] for k in ("target", "dtype", "head_dim", "latents")}
        lines.append("    " + json.dumps(head)[:-1] + ', "kernels": {')
        kernels = list(case["kernels"].items())
        for j, (symbol, budget) in enumerate(kernels):
            lines.append(f"      {json.dumps(symbol)}: {json.dumps(budget)}" + ("," if j + 1 < len(kernels) else ""))
        lines.append("    }}" + ("," if i + 1 < len(cases) else ""))
    lines += ["  ]", "}", ""]
    with open(path, "w") as f:
        f.write("\n".join(lines))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compiler", required=True, help="libflarec_compiler.so")
    parser.add_argument("--budgets", default=os.path.join(HERE, "budgets.json"))
    parser.add_argument("--update", action="store_true", help="write what is used today as the budgets")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    ptxas = find_ptxas()
    if not ptxas:
        print("no ptxas: set FLAREC_PTXAS, or let scripts/setup install nvidia-cuda-nvcc")
        return 77
    with open(options.budgets) as f:
        budgets = json.load(f)

    failures = 0
    tighter = []
    with concurrent.futures.ProcessPoolExecutor(options.jobs) as pool:
        results = list(pool.map(attempt, [(c, os.path.abspath(options.compiler), ptxas) for c in budgets["cases"]]))
    for index, (case, kernels, warnings, error) in enumerate(results):
        problems = [error] if error else []
        problems += [f"ptxas warns: {w}" for w in warnings]
        if options.update:
            old = budgets["cases"][index].get("kernels", {})
            # Registers are handed out in eights.
            new = {s: {**u, "registers": -(-u["registers"] // 8) * 8} for s, u in kernels.items()}
            for symbol, budget in new.items():
                if budget["spill"]:
                    budget["known"] = old.get(symbol, {}).get("known", "spills today; the aim is 0")
            if new:
                budgets["cases"][index]["kernels"] = new
        elif not error:
            expected = case.get("kernels", {})
            if set(expected) != set(kernels):
                problems.append(f"kernels are {sorted(kernels)}, budgets are for {sorted(expected)}; --update writes new ones")
            for symbol in sorted(set(expected) & set(kernels)):
                for what in ("registers", "spill", "shared"):
                    limit, got = expected[symbol][what], kernels[symbol][what]
                    if got > limit:
                        problems.append(f"{symbol} takes {got} {what}, its budget is {limit}")
                    elif got < limit and (what != "registers" or limit - got >= 8):
                        tighter.append(f"{name(case)}: {symbol} takes {got} {what}, not {limit}")
        for p in problems:
            print(f"FAILED {name(case)}: {p}")
        failures += len(problems)
    if options.update:
        write(options.budgets, budgets["comment"], budgets["cases"])
    spilling = [f"{name(c)}: {s} spills {k['spill']} bytes" for c, ks, _, _ in results for s, k in ks.items() if k["spill"]]
    print(f"{len(results)} mixers, {sum(len(r[1]) for r in results)} kernels, {len(spilling)} of them spill, {failures} failures")
    for line in spilling:
        print("  known:", line)
    if tighter:
        print("These budgets could be tightened:", *tighter, sep="\n  ")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
