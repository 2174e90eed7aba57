#!/usr/bin/env python3
"""The time of each kernel of a mixer, on a GPU, for one or several configurations side by side.

What an artefact's manifest says is launched through cupy, without the ops: so a configuration, or a stage edited by hand, is timed as it is. For each kernel
the median of CUDA events over interleaved rounds, in ms, and in cycles per 32 scores of one quarter of a multiprocessor at the clock that the card held meanwhile;
k and v are views of [B, N, H*D].

  bench/kernels.py --shapes 8,8,128,1048576
  bench/kernels.py --shapes 8,8,128,1048576 --vary "" "0:exp=bits:8 1:exp=bits:9" "2:exp=poly3:5"
"""
import argparse
import concurrent.futures
import json
import math
import pathlib
import re
import statistics
import sys
import tempfile

import cupy
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
import artefact
from clock import Clock


def values(tensor, count):
    """Bytes of random numbers N(0, 1); log-sum-exps are what N(0, 1) tokens have on average."""
    x = cupy.random.standard_normal(min(count, 1 << 24), dtype=cupy.float32)
    if tensor["name"].startswith("lse"):
        x = x * 0.1 + (14.0 if tensor["index"] == "m" else 6.0)
    if tensor["type"] == "bf16":
        bits = (x.view(cupy.uint32) >> 16).astype(cupy.uint16)
    else:
        bits = x.astype(cupy.float16) if tensor["type"] == "f16" else x
    return cupy.resize(bits, (count,)) if count > bits.size else bits


class Program:
    """One artefact's functions, ready to launch."""

    def __init__(self, compiler, mixer, target, config, scale):
        request = {"mixer": mixer, "target": target, "config": ""}
        with tempfile.TemporaryDirectory() as folder:
            self.manifest, blobs = artefact.compile_ptx(compiler, artefact.varied(compiler, request, config.split(), folder) if config else request)
        self.folder = tempfile.TemporaryDirectory()  # as long as the modules, which are loaded when they are first used
        self.modules = list(concurrent.futures.ThreadPoolExecutor(16).map(lambda b: cupy.RawModule(path=self.file(*b)), enumerate(blobs)))
        self.config, self.scale = config, scale

    def file(self, number, blob):
        path = pathlib.Path(self.folder.name) / f"{number}.ptx"
        path.write_bytes(blob)
        return str(path)

    def bind(self, sizes, memory):
        """Kernels with their arguments: [(function, symbol, launch)]."""
        batch, heads, tokens, _ = sizes
        launches = []
        for function in self.manifest["functions"]:
            slots = []
            for t in function["tensors"]:
                shape = artefact.shape(function, t, sizes)
                strides = artefact.strides(shape)
                if t["index"] == "n" and t["columns"] and t["role"] != "workspace":
                    strides = [tokens * heads * t["columns"], t["columns"], heads * t["columns"]]
                if t["role"] == "input" and t["index"] == "m" and t["name"] == "q":
                    strides[0] = 0
                count = math.prod(shape)
                name = t["name"] if t["role"] != "workspace" else function["name"] + t["name"]
                if name not in memory or memory[name].size < count:
                    memory[name] = values(t, count)
                slots += [np.uint64(memory[name].data.ptr), *map(np.uint64, strides)]
            slots += [*map(np.uint64, sizes), *map(np.uint64, artefact.splits(function, sizes))]
            slots += [np.float32(self.scale) for _ in function["scalars"]]
            for kernel in function["kernels"]:
                chosen = kernel["variants"][0] if kernel["variants"] else kernel
                f = self.modules[chosen.get("code", kernel["code"])].get_function(chosen["symbol"])
                if kernel["shared"] > 48 * 1024:
                    f.max_dynamic_shared_size_bytes = kernel["shared"]
                blocks = artefact.grid(function, kernel, sizes)
                launches.append((function["name"], kernel, f, lambda f=f, b=blocks, k=kernel, s=tuple(slots): f((b,), (k["threads"],), s, shared_mem=k["shared"])))
        return launches


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--compiler", default=str(ROOT / "build/lib/libflarec_compiler.so"))
    p.add_argument("--target", default="sm_90a")
    p.add_argument("--shapes", nargs="+", default=["8,8,128,1048576"], help="H,D,M,N")
    p.add_argument("--dtype", default="bf16", choices=["bf16", "f16", "f32"])
    p.add_argument("--vary", nargs="+", default=[""], help="changes to the heuristic's configurations, side by side: sweep:field=value,…")
    p.add_argument("--scale", type=float, default=1, help="of scores: 1 takes 32 channels and more to safe bodies")
    p.add_argument("--rounds", type=int, default=9)
    p.add_argument("--only", default="", help="kernels whose symbol matches this")
    p.add_argument("--json")
    args = p.parse_args()
    sms = cupy.cuda.runtime.getDeviceProperties(0)["multiProcessorCount"]
    rows = []
    for text in args.shapes:
        h, d, m, n = map(int, text.split(","))
        sizes, memory = (1, h, n, 1), {}
        mixer = {"head_dim": d, "latents": m, "dtype": args.dtype, "gradients": "qkv"}

        def build(config):
            try:
                return Program(args.compiler, mixer, args.target, config, args.scale)
            except artefact.Refused as e:
                print(f"refused: {config}: {str(e)[:300]}", flush=True)

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            programs = [x for x in pool.map(build, args.vary) if x]
        bound = [(x, [b for b in x.bind(sizes, memory) if re.search(args.only, b[1]["symbol"])]) for x in programs]
        times, flush = {}, cupy.empty(1 << 26, dtype=cupy.float32)
        with Clock() as clock:
            for _ in range(args.rounds + 1):
                for x, launches in bound:
                    for name, kernel, f, launch in launches:
                        a, b = cupy.cuda.Event(), cupy.cuda.Event()
                        flush.fill(0)  # out of the caches, and time for the host to queue what follows
                        a.record()
                        launch()
                        b.record()
                        b.synchronize()
                        times.setdefault((x.config, kernel["symbol"]), []).append(cupy.cuda.get_elapsed_time(a, b))
        ghz = clock.ghz()
        for x, launches in bound:
            print(f"H{h} D{d} M{m} N{n} {args.dtype} {ghz:.2f} GHz  {x.config}", flush=True)
            total = {}
            for name, kernel, f, _ in launches:
                ms = statistics.median(times[x.config, kernel["symbol"]][1:])
                total[name] = total.get(name, 0) + ms
                cycles = ms * 1e6 * ghz * sms * 4 * 32 / (h * m * n)
                print(f"   {kernel['symbol']:<28} {ms:8.4f} ms {cycles:7.2f} cycles  {f.num_regs} registers, {f.local_size_bytes} local, {kernel['shared']} shared, {kernel['threads']} threads", flush=True)
                rows.append({"shape": text, "dtype": args.dtype, "config": x.config, "kernel": kernel["symbol"], "ms": ms, "cycles": cycles, "ghz": ghz})
            print("   " + ", ".join(f"{k} {v:.4f}" for k, v in total.items()) + f", both {sum(total.values()):.4f} ms", flush=True)
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    sys.exit(main())
