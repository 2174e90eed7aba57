#!/usr/bin/env python3
"""Random configurations of random small mixers: each is refused with a reason, or compiles and is obeyed; on the host its results are right.

Host artefacts are run here, by docs/artefact.md alone: slots, grids, splits, workspace. Every buffer has NaNs before and after it: what
is read from there spoils a result, what is written there is seen. The reference is fp64, the tolerance a loose one (tests/ops/accuracy.py
is the strict judge of numerics). GPU code is compiled to PTX, and assembled with --ptxas.

  fuzz_configurations.py --compiler build/lib/libflarec_compiler.so                    a few seconds
  fuzz_configurations.py --compiler … --seconds 600 --ptxas .venv/…/bin/ptxas          by hand
  fuzz_configurations.py --compiler … --seed 123 --cases 1                             one case again

Every case has a seed of its own, printed where it fails.
"""
import argparse
import array
import collections
import ctypes
import math
import os
import random
import re
import signal
import struct
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import artefact

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--compiler", required=True, help="libflarec_compiler.so")
parser.add_argument("--seed", type=int, default=None, help="of the first case; those after it count up")
parser.add_argument("--cases", type=int, default=10**9)
parser.add_argument("--seconds", type=float, default=6)
parser.add_argument("--case-seconds", type=int, default=100, help="a case that takes longer is wrong")
parser.add_argument("--ptxas", help="assemble every fifth GPU artefact with it")
parser.add_argument("--targets", default="host,sm_90a")
parser.add_argument("--verbose", action="store_true")
OPTIONS = parser.parse_args()

artefact.load_compiler(OPTIONS.compiler)  # once, not in every case's process
REASONS = re.compile(r"cannot be run as configured: \w.*(use|would do|make two|at most|in no other way yet)|must be |a block has 1024 at most|too large", re.S)


class Wrong(Exception):
    pass


#  Drawing --------------------------------------------------------------------

def draw_config(rng, rows, host, m):
    """Mostly feasible fields; now and then one that is not."""
    blocks = -(-m // 16)
    c = collections.OrderedDict()
    c["rows"] = rows
    c["tile"] = 16 * rng.choice([1, 1, 2, 3, 4, 4, 6, 8])
    c["heads"] = rng.choice([1, 2, 3, 4, 5, 8])
    c["row_groups"] = rng.choice([1, 1, 1, 2, 3]) if rows == "m" else 1
    c["workers"] = 1 if host else rng.choice([1, 1, 2, 3, 4])
    c["worker_rows"] = 16 * rng.choice([1, 2, 3])
    if rows == "m" and rng.random() < 0.85:
        c["worker_rows"] = 16 * max(1, -(-blocks // (c["row_groups"] * c["workers"])))
    elif rows == "n" and host:
        c["tile"] = c["worker_rows"] = 16
    elif rows == "n":
        sharers = rng.choice([s for s in (1, 1, 2, 3, 4) if c["workers"] % s == 0])
        c["tile"] = c["workers"] // sharers * c["worker_rows"]
    c["stages"] = rng.choice([1, 2, 4, 7]) if host else rng.choice([2, 3, 4, 5])
    c["unroll"] = rng.choice([1, 2, 4, 8, 16]) if host else rng.choice([0, 0, 1, 2])
    c["blocks"] = rng.choice([1, 2, 7, 64, 264])
    c["sums"] = "add" if host else rng.choice(["mma", "mma", "add"])
    c["exp"] = "poly5" if host else "mufu"
    c["park"] = "shared" if host or rows == "m" else rng.choice(["shared", "shared", "none"])
    c["min_blocks"] = 1 if host else rng.choice([1, 2, 3])
    if rows == "n" and not host and sharers > 1:
        c["column_workers"] = sharers
    if not host and rng.random() < 0.2:
        c["matrix"] = "wgmma"
        if rng.random() < 0.8 and rows == "n":
            c["workers"], c["tile"] = 4, 4 * c["worker_rows"]
            c.pop("column_workers", None)
        elif rng.random() < 0.8:
            c["workers"], c["row_groups"] = 4, 1
            c["worker_rows"] = 16 * max(1, -(-blocks // 4))
    if rng.random() < 0.25:
        field = rng.choice(list(c))
        wild = {"rows": ["n", "m", "d"], "sums": ["mma", "add", "tree"], "exp": ["mufu", "poly5", "poly3:3", ""], "park": ["none", "shared"], "matrix": ["mma", "wgmma", "wmma"]}
        c[field] = rng.choice(wild.get(field, [0, -1, 1, 3, 7, 24, 40, 64, 1000, 65536, 2**31, 2**62, 2**63 - 1]))
    text = "#tile.config<" + ", ".join(f"{k} = " + (f'"{v}"' if k in ("sums", "exp", "park", "matrix") else str(v)) for k, v in c.items()) + ">"
    return c, text


def draw(seed):
    rng = random.Random(seed)
    case = argparse.Namespace(rng=rng, seed=seed)
    case.target = rng.choice(OPTIONS.targets.split(","))
    host = case.target == "host"
    case.d = rng.choice([4, 8, 8, 16, 32, 48])
    case.m = rng.choice([1, 3, 15, 16, 17, 20, 31, 32, 33, 40, 48] + ([] if host else [64, 100, 128, 200, 512]))
    case.dtype = rng.choice(["bf16", "f16", "f32"])
    case.gradients = rng.choice(["", "", "qkv", "q", "kv", "qv"])
    case.fields, case.config = draw_config(rng, rng.choice("mn"), host, case.m)
    case.presence = {f: True for f in ("ragged", "masked") if not host and rng.random() < 0.2}  # tests/ops/test_masks.py runs them
    return case


#  Compiling --------------------------------------------------------------------

def compile_case(case):
    mixer = {"head_dim": case.d, "latents": case.m, "dtype": case.dtype, "gradients": case.gradients, **case.presence}
    try:
        return artefact.read_artefact(artefact.compile_artefact(OPTIONS.compiler, {"mixer": mixer, "target": case.target, "config": case.config}))
    except artefact.Refused as refusal:
        message = str(refusal)
        if not REASONS.search(message) or len(message) > 2000:
            raise Wrong(f"refused without a reason: {message[:3000]}")
        return None, message


def check_obeyed(case, manifest, blobs):
    c = case.fields
    seen = False
    for function in manifest["functions"]:
        for kernel in function["kernels"]:
            if kernel["grid"] != "sweep":
                continue
            sweep = function["sweeps"][kernel["sweep"]]
            if any(sweep[f] != c[f] for f in ("tile", "heads", "row_groups", "blocks")):
                continue  # of the other orientation
            if case.target == "host":
                seen = True
                continue
            ptx = blobs[kernel["code"]].decode()
            if kernel["threads"] != 32 * c["heads"] * c["workers"] or f".minnctapersm {c['min_blocks']}" not in ptx:
                continue
            seen = True
            if kernel["shared"] > 232448:
                raise Wrong(f"{kernel['symbol']} takes {kernel['shared']} bytes of shared memory")
    if not seen:
        raise Wrong("accepted, and no kernel is as the configuration says")


def assemble(case, blobs):
    with tempfile.TemporaryDirectory() as folder:
        for i, blob in enumerate(blobs):
            path = os.path.join(folder, f"{i}.ptx")
            with open(path, "wb") as f:
                f.write(blob)
            done = subprocess.run([OPTIONS.ptxas, "-arch", case.target, path, "-o", path + ".cubin"], capture_output=True, text=True)
            if done.returncode:
                raise Wrong(f"ptxas: {done.stderr[:2000]}")


#  Running on the host ------------------------------------------------------------

MARGIN = 4096
SIZE = {"f32": 4, "bf16": 2, "f16": 2}


def to_bf16(x):
    bits = struct.unpack("<I", struct.pack("<f", x))[0]
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16


class Buffer:
    """Memory at a multiple of 64 between two margins of NaNs."""

    def __init__(self, count, dtype, values=None):
        self.count, self.dtype, self.size = count, dtype, count * SIZE[dtype]
        self.raw = ctypes.create_string_buffer(b"\xff" * (self.size + 2 * MARGIN + 64), self.size + 2 * MARGIN + 64)
        start = ctypes.addressof(self.raw) + MARGIN
        self.address = start + -start % 64
        self.offset = self.address - ctypes.addressof(self.raw)
        if values is not None:
            if dtype == "f32":
                data = array.array("f", values).tobytes()
            elif dtype == "f16":
                data = struct.pack(f"<{count}e", *values)
            else:
                data = array.array("H", [to_bf16(x) for x in values]).tobytes()
            ctypes.memmove(self.address, data, self.size)

    def values(self):
        data = ctypes.string_at(self.address, self.size)
        if self.dtype == "f32":
            return array.array("f", data).tolist()
        if self.dtype == "f16":
            return list(struct.unpack(f"<{self.count}e", data))
        return [struct.unpack("<f", struct.pack("<I", x << 16))[0] for x in array.array("H", data)]

    def check_margins(self, what):
        raw = self.raw.raw
        if set(raw[:self.offset]) != {255} or set(raw[self.offset + self.size:-1]) - {255}:
            raise Wrong(f"something was written beside {what}")


def host_library(manifest, blobs, folder):
    flags = set()
    with open("/proc/cpuinfo", encoding="ascii") as f:
        for line in f:
            if line.startswith("flags"):
                flags = set(line.split())
                break
    have = {"avx512": {"avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512cd"} <= flags, "avx2": {"avx2", "fma"} <= flags, "baseline": True}
    for code, blob in zip(manifest["code"], blobs):
        if have[code["isa"]]:
            path = os.path.join(folder, "kernels.so")
            with open(path, "wb") as f:
                f.write(blob)
            return ctypes.CDLL(path)


def launch(library, function, sizes, tensors, scale):
    """tensors: name -> (Buffer, strides over b, h, rows)."""
    slots, workspace = [], []
    for t in function["tensors"]:
        if t["role"] == "workspace":
            shape = artefact.shape(function, t, sizes)
            buffer = Buffer(math.prod(shape), t["type"])
            workspace.append((t["name"], buffer))
            slots += [buffer.address, *artefact.strides(shape)]
        else:
            buffer, b, h, row = tensors[t["name"]]
            slots += [buffer.address, b, h, row]
    slots += [*sizes, *artefact.splits(function, sizes), struct.unpack("<I", struct.pack("<f", scale))[0]]
    packed = (ctypes.c_uint64 * len(slots))(*slots)
    for kernel in function["kernels"]:
        f = getattr(library, kernel["symbol"])
        f.argtypes, f.restype = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p], None
        scratch = Buffer(max(16, -(-kernel["shared"] // 4)), "f32")
        for block in range(artefact.grid(function, kernel, sizes)):
            f(packed, block, scratch.address)
        scratch.check_margins(f"the scratch memory of {kernel['symbol']}")
    for name, buffer in workspace:
        buffer.check_margins(name)


def dot(a, b):
    return math.fsum(x * y for x, y in zip(a, b))


def run_on_host(case, manifest, blobs):
    rng, d, m = case.rng, case.d, case.m
    B, H = rng.choice([1, 1, 2]), rng.choice([1, 2, 3, 5])
    N = rng.choice([0, 1, 5, 16, 17, 33, 64, 70])
    while B * H * N * m * d > 120000:
        N, H = N // 2, max(1, H - 1)
    shared, scale, spread = rng.random() < 0.5, rng.choice([1.0, 0.25]), rng.choice([0.3, 1.0, 1.0, 12.0])
    BQ = 1 if shared else B

    def normal(count, deviation=1.0):
        return [rng.gauss(0, deviation) for _ in range(count)]

    tokens = (N * H * d, d, H * d)  # [B, N, H, d]
    k, v, g = (Buffer(B * N * H * d, case.dtype, normal(B * N * H * d)) for _ in range(3))
    q = Buffer(BQ * H * m * d, case.dtype, normal(BQ * H * m * d, spread / math.sqrt(d)))
    latents = (0 if shared else H * m * d, m * d, d)

    def empty(function, t):
        shape = artefact.shape(function, t, (B, H, N, BQ))
        buffer, (batch, *inner) = Buffer(math.prod(shape), t["type"]), artefact.strides(shape)
        if t["index"] == "n" and t["columns"]:
            return buffer, *tokens
        return buffer, (0 if t.get("reduced") and shared else batch), *inner

    tensors = {"q": (q, *latents), "k": (k, *tokens), "v": (v, *tokens), "grad_y": (g, *tokens)}
    with tempfile.TemporaryDirectory() as folder:
        library = host_library(manifest, blobs, folder)
        for function in manifest["functions"]:
            for t in function["tensors"]:
                if t["role"] == "result":
                    tensors[t["name"]] = empty(function, t)
            launch(library, function, (B, H, N, BQ), tensors, scale)
    for name, (buffer, *_) in tensors.items():
        buffer.check_margins(name)

    # The same in fp64, head by head.
    data = {name: t[0].values() for name, t in tensors.items()}

    def rows_of(name, b, h, count, width):
        _, sb, sh, sr = tensors[name]
        return [data[name][b * sb + h * sh + i * sr:][:width] for i in range(count)]

    sums = collections.defaultdict(float)  # of shared latents' gradients

    def compare(name, got, want, size, largest):
        tolerance = {"bf16": 3e-2, "f16": 4e-3, "f32": 3e-4}[case.dtype] * (1 + largest / 8)
        for i, (a, w) in enumerate(zip(got, want)):
            if not abs(a - w) <= tolerance * (1e-6 + size):
                raise Wrong(f"{name}[{i}] is {a}, should be {w} (B={B}, H={H}, N={N}, scale={scale}, spread={spread}, shared={shared})")

    for h in range(H):
        totals = None
        for b in range(B):
            Q, K, V, G = rows_of("q", b, h, m, d), rows_of("k", b, h, N, d), rows_of("v", b, h, N, d), rows_of("grad_y", b, h, N, d)
            x = [[scale * dot(K[n], Q[i]) for i in range(m)] for n in range(N)]
            largest = max((abs(e) for r in x for e in r), default=0)
            columns = [[x[n][i] for n in range(N)] for i in range(m)]
            lse = [max(c, default=-math.inf) + (math.log(math.fsum(math.exp(e - max(c)) for e in c)) if c else 0) for c in columns]
            encode = [[math.exp(e - lse[i]) for e in c] for i, c in enumerate(columns)]  # [m][n]
            z = [[dot(encode[i], [V[n][j] for n in range(N)]) for j in range(d)] for i in range(m)]
            decode = []
            for r in x:
                top = max(r)
                e = [math.exp(a - top) for a in r]
                total = math.fsum(e)
                decode.append([a / total for a in e])
            y = [[dot(decode[n], [z[i][j] for i in range(m)]) for j in range(d)] for n in range(N)]
            flat = lambda t: [e for r in t for e in r]
            size = lambda *ts: max((abs(e) for t in ts for r in t for e in r), default=0)
            compare("z", flat(rows_of("z", b, h, m, d)), flat(z), size(V), largest)
            compare("y", flat(rows_of("y", b, h, N, d)), flat(y), size(V), largest)
            if N:
                compare("lse_encode", flat(rows_of("lse_encode", b, h, m, 1)), lse, 1 + largest, 0)
            if not case.gradients:
                continue
            dz = [[math.fsum(decode[n][i] * G[n][j] for n in range(N)) for j in range(d)] for i in range(m)]
            delta_m = [dot(dz[i], z[i]) for i in range(m)]
            delta_n = [dot(G[n], y[n]) for n in range(N)]
            ds = [[encode[i][n] * (dot(dz[i], V[n]) - delta_m[i]) + decode[n][i] * (dot(z[i], G[n]) - delta_n[n]) for i in range(m)] for n in range(N)]
            sizes = [[encode[i][n] * (abs(dot(dz[i], V[n])) + abs(delta_m[i])) + decode[n][i] * (abs(dot(z[i], G[n])) + abs(delta_n[n])) for i in range(m)]
                     for n in range(N)]
            if "k" in case.gradients:
                want = [[scale * math.fsum(ds[n][i] * Q[i][j] for i in range(m)) for j in range(d)] for n in range(N)]
                bound = max((math.fsum(r) for r in sizes), default=0) * size(Q) * scale
                compare("grad_k", flat(rows_of("grad_k", b, h, N, d)), flat(want), bound, largest)
            if "v" in case.gradients:
                want = [[math.fsum(encode[i][n] * dz[i][j] for i in range(m)) for j in range(d)] for n in range(N)]
                bound = max((math.fsum(encode[i][n] for i in range(m)) for n in range(N)), default=0) * size(dz)
                compare("grad_v", flat(rows_of("grad_v", b, h, N, d)), flat(want), bound, largest)
            if "q" in case.gradients:
                want = [[scale * math.fsum(ds[n][i] * K[n][j] for n in range(N)) for j in range(d)] for i in range(m)]
                bound = max((math.fsum(sizes[n][i] for n in range(N)) for i in range(m)), default=0) * size(K) * scale
                if shared:
                    want = flat(want) if totals is None else [a + w for a, w in zip(totals[0], flat(want))]
                    totals = want, max(bound, totals[1] if totals else 0), max(largest, totals[2] if totals else 0)
                else:
                    compare("grad_q", flat(rows_of("grad_q", b, h, m, d)), flat(want), bound, largest)
        if totals:
            compare("grad_q", [e for r in rows_of("grad_q", 0, h, m, d) for e in r], *totals)


#  One case in a process of its own, so that a crash is seen --------------------------

def run(seed, number):
    case = draw(seed)
    what = f"--head-dim {case.d} --latents {case.m} --dtype {case.dtype} --target {case.target} --grad={','.join(case.gradients)} --config '{case.config}'"
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        signal.alarm(OPTIONS.case_seconds)
        try:
            manifest, more = compile_case(case)
            outcome = "refused " + more.splitlines()[-1] if manifest is None else "right"
            if manifest:
                check_obeyed(case, manifest, more)
                if case.target == "host":
                    run_on_host(case, manifest, more)
                elif OPTIONS.ptxas and number % 5 == 0:
                    assemble(case, more)
        except Wrong as e:
            outcome = f"wrong {e}"
        except BaseException as e:  # noqa: the parent must hear of it
            import traceback
            outcome = f"wrong {traceback.format_exc()}"
        os.write(writer, outcome.encode()[:60000])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as f:
        outcome = f.read().decode()
    _, status = os.waitpid(child, 0)
    if status:
        outcome = f"wrong the compiler or a kernel died or took too long: status {status}"
    verdict = outcome.split(" ", 1)[0]
    if OPTIONS.verbose or verdict == "wrong":
        print(f"seed {seed}: {what}\n  {outcome}", flush=True)
    return case.target, verdict


def main():
    first = OPTIONS.seed if OPTIONS.seed is not None else random.SystemRandom().randrange(10**9)
    counts = collections.Counter()
    start = time.monotonic()
    seed = first
    while seed - first < OPTIONS.cases and time.monotonic() - start < OPTIONS.seconds:
        counts[run(seed, seed - first)] += 1
        seed += 1
    print(f"seeds {first} to {seed - 1}: " + ", ".join(f"{target} {verdict} {n}" for (target, verdict), n in sorted(counts.items())))
    sys.exit(any(verdict == "wrong" for _, verdict in counts))


main()
