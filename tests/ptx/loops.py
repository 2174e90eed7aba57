"""Keeps count of the inner loops: compiles the mixers of loops.json, assembles their sweeps, disassembles that, and compares the instructions of each fast body's
innermost loop, per 32 scores (one score of every lane), with what the file says. So a change of code generation shows what it costs without a GPU. Beside that it
looks for products of warpgroups whose operand ptxas has lost.

    loops.py --compiler build/lib/libflarec_compiler.so            compare
    loops.py --compiler … --update                                 write today's counts into loops.json
"""
import argparse
import concurrent.futures
import json
import os
import re
import shutil
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE)]
import artefact
import sass
from budgets import name, write

TOLERANCE = 0.03  # upward; ptxas schedules a little differently for every change


def configurations(library, request):
    """Of all sweeps, in the order of the manifest's."""
    stage = artefact.compile_artefact(library, {**request, "emit": "sweeps"}).decode()
    return [dict(re.findall(r'(\w+) = "?([\w:]+)', text)) for text in re.findall(r"#tile\.config<([^>]*)>", stage)]


def scores_of(config, latents):
    """A lane's scores: of one step of the innermost loop, and of a tile of tokens."""
    columns = int(config["tile"]) if config["rows"] == "m" else -(-latents // 16) * 16 // int(config.get("column_workers", 1))
    of_step = 16 * int(config["unroll"]) or columns
    return int(config["worker_rows"]) * of_step / 32, int(config["worker_rows"]) * columns / 32


def exponentials(body):
    return sum(x.opcode.startswith("MUFU.EX2") for x in body)


def loops(code):
    """Those that make scores, as (instructions, first, last)."""
    found = []
    for first, last in sass.loops(code):
        body = [x for x in code[first : last + 1] if isinstance(x, sass.Instruction)]
        if exponentials(body) and sass.multiplies(body):
            found.append((body, first, last))
    return found


def count(code, config, latents):
    """What a kernel's fast body takes per 32 scores."""
    found = loops(code)
    inside = lambda a, b: a is not b and b[1] <= a[1] and a[2] <= b[2]
    innermost = [a for a in found if not any(inside(b, a) for b in found)]
    if not innermost:
        raise RuntimeError("there is no loop with products and exponentials in it")
    # A safe body has exponentials that a fast one does not: it makes all of them on the MUFU, and more of them.
    fast = min(innermost, key=lambda loop: exponentials(loop[0]))
    step, tile = scores_of(config, latents)
    strategy, _, sixteenths = config["exp"].partition(":")
    share = 1 - int(sixteenths or 0) / 16
    if not 1 <= exponentials(fast[0]) / (share * step) <= 2.5:
        raise RuntimeError(f"a step of the inner loop should have {step:g} scores a lane, {share * step:g} or {2 * share * step:g} of them by MUFU; there are {exponentials(fast[0])}")
    result = {"all": len(fast[0]) / step, **{part: n / step for part, n in sass.by_part(fast[0]).items()}}
    # With what is around the inner loop, once a tile; where the tile is one step nothing is.
    around = min((len(a[0]) for a in found if inside(fast, a)), default=len(fast[0])) - len(fast[0]) if step < tile else 0
    result["tile"] = result["all"] + around / tile
    return {what: round(n, 2) for what, n in result.items()}


def measure(case, library):
    """The counts of each sweep's kernel (for aligned tensors, where there are variants), by its symbol."""
    request = {"mixer": {**{key: case[key] for key in ("head_dim", "latents", "dtype")}, "gradients": "qkv"}, "target": case["target"], "config": ""}
    manifest, blobs = artefact.compile_ptx(library, request)
    remaining = iter(configurations(library, request))
    kernels = {}
    for function in manifest["functions"]:
        configs = [next(remaining) for _ in function["sweeps"]]
        for kernel in function["kernels"]:
            if kernel["grid"] == "sweep":
                for symbol, blob in {(v["symbol"], v.get("code", kernel["code"])) for v in [kernel, *kernel["variants"]]}:
                    code = sass.parse(sass.disassemble(blobs[blob], case["target"]))[symbol]
                    if lost := sass.lost_operands(code):
                        raise RuntimeError(f"{symbol} multiplies by registers that hold something else from the second turn of a loop on: {lost[0]}")
                    if symbol == kernel["symbol"]:
                        kernels[symbol] = count(code, configs[kernel["sweep"]], case["latents"])
    return kernels


def attempt(arguments):
    case, library = arguments
    try:
        return measure(case, library), ""
    except RuntimeError as error:
        return {}, str(error)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compiler", required=True, help="libflarec_compiler.so")
    parser.add_argument("--budgets", default=os.path.join(HERE, "loops.json"))
    parser.add_argument("--update", action="store_true", help="write today's counts as the budgets")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    for tool, variable in (("ptxas", "FLAREC_PTXAS"), ("nvdisasm", "FLAREC_NVDISASM")):
        if not shutil.which(sass.tool(tool, variable)):
            print(f"no {tool}: set {variable}, or let scripts/setup install what is in scripts/requirements.txt")
            return 77
    with open(options.budgets) as f:
        budgets = json.load(f)
    with concurrent.futures.ProcessPoolExecutor(options.jobs) as pool:
        results = list(pool.map(attempt, [(c, os.path.abspath(options.compiler)) for c in budgets["cases"]]))
    problems, lower = [], []
    for case, (kernels, error) in zip(budgets["cases"], results):
        if error:
            problems.append(f"{name(case)}: {error}")
        elif options.update:
            case["kernels"] = kernels
        elif set(case["kernels"]) != set(kernels):
            problems.append(f"{name(case)}: the sweeps are {sorted(kernels)}, budgets are for {sorted(case['kernels'])}; --update writes new ones")
        else:
            for symbol, counts in kernels.items():
                budget = case["kernels"][symbol]
                for what, n in counts.items():
                    # A part of it may be a few instructions, which another part gains: its slack is one of the whole, too.
                    slack = TOLERANCE * budget[what] if what in ("all", "tile") else max(TOLERANCE * budget[what], 0.01 * budget["all"])
                    line = f"{name(case)}: {symbol} has {n:g} instructions per 32 scores ({what}), its budget is {budget[what]:g}"
                    if n > budget[what] + slack:
                        problems.append(line)
                    elif n < budget[what] - slack and what in ("all", "tile"):
                        lower.append(line)
    for p in problems:
        print("FAILED", p)
    if options.update:
        write(options.budgets, budgets["comment"], budgets["cases"])
    print(f"{len(results)} mixers, {sum(len(kernels) for kernels, _ in results)} inner loops, {len(problems)} failures")
    if lower:
        print("These budgets can be lowered (--update):", *lower, sep="\n  ")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
