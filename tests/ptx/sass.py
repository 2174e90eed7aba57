#!/usr/bin/env python3
"""Counts what the assembler made of a kernel: instructions of each loop by kind, and the issue slots and cycles that they take per 32 scores.

The price of an instruction is what schedules.md (sections I.2 and II.2) measured on an H100, in cycles of a quarter of a multiprocessor: matrix instructions and ordinary ones
add up, only the exponential unit works beside them.

  sass.py --head-dim 8 --latents 128 --dtype bf16 [--vary 0:exp=bits:8] [--kernel SUBSTRING] [--listing]
"""
import argparse
import collections
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
import artefact


def tool(name, variable):
    """$variable, else what the project's environment has (ptxas of nvidia-cuda-nvcc; nvdisasm of Triton, which comes with PyTorch), else what the system has."""
    if os.environ.get(variable):
        return os.environ[variable]
    for pattern in (f".venv/lib/python3*/site-packages/nvidia/*/bin/{name}", f".venv/lib/python3*/site-packages/triton/backends/nvidia/bin/{name}"):
        found = sorted(HERE.parents[1].glob(pattern))
        if found:
            return str(found[-1])
    return shutil.which(name) or shutil.which(name, path="/usr/local/cuda/bin") or name


def disassemble(ptx, target):
    """SASS as text."""
    with tempfile.TemporaryDirectory() as folder:
        source, binary = os.path.join(folder, "k.ptx"), os.path.join(folder, "k.cubin")
        pathlib.Path(source).write_bytes(ptx)
        subprocess.run([tool("ptxas", "FLAREC_PTXAS"), f"-arch={target}", "-o", binary, source], check=True, capture_output=True)
        return subprocess.run([tool("nvdisasm", "FLAREC_NVDISASM"), "-c", binary], check=True, capture_output=True, text=True).stdout


class Instruction:
    def __init__(self, text):
        self.text = text
        words = re.sub(r"^@!?U?P\w+\s+", "", text).split()
        self.opcode = words[0].rstrip(";")
        self.kind = self.opcode.split(".")[0]


def parse(sass):
    """Kernels: name -> list of instructions and labels (strings)."""
    kernels, current = {}, None
    for line in sass.splitlines():
        line = line.strip()
        if m := re.match(r"\.text\.(\w+):", line):
            current = kernels.setdefault(m[1], [])
        elif current is None:
            continue
        elif m := re.match(r"(\.L_\w+):", line):
            current.append(m[1])
        elif m := re.match(r"/\*[0-9a-f]+\*/\s+(.*?)\s*;", line):
            current.append(Instruction(m[1]))
    return kernels


def loops(code):
    """[(first, last)] of backward branches, outermost first."""
    labels = {x: i for i, x in enumerate(code) if isinstance(x, str)}
    found = []
    for i, x in enumerate(code):
        if isinstance(x, Instruction) and x.kind == "BRA":
            m = re.search(r"`?\(?(\.L_\w+)\)?", x.text)
            if m and labels.get(m[1], i) < i:
                found.append((labels[m[1]], i))
    return sorted(found, key=lambda r: (r[0], -r[1]))


def registers_written(x):
    """Numbers of the vector registers that an instruction writes, all that its form may write."""
    m = re.match(r"(?:@!?U?P\w+\s+)?(\S+)\s+(?:[U!]*P\w+,\s*)*R(\d+)\b", x.text)
    if not m or x.kind in ("ST", "STG", "STS", "STL", "LDGSTS", "BAR", "ISETP", "FSETP", "R2UR", "RED", "ATOMS", "BRA", "PLOP3", "VOTE", "WARPSYNC"):
        return range(0)
    width = 1
    if x.kind == "HGMMA":
        width = int(re.search(r"HGMMA\.64x(\d+)x16", x.opcode)[1]) // 2
    elif x.kind == "HMMA":
        width = 4
    elif x.kind == "LDSM":
        width = int(x.opcode.rsplit(".", 1)[1]) if x.opcode.rsplit(".", 1)[1].isdigit() else 1
    elif ".128" in x.opcode:
        width = 4
    elif ".64" in x.opcode or ".WIDE" in x.opcode or (x.kind == "CS2R" and ".32" not in x.opcode):
        width = 2
    return range(int(m[2]), int(m[2]) + width)


def lost_operands(code):
    """Products of warpgroups whose left operand is none: in a loop it is only written behind the product, so that every turn but the first reads what the one before
    has left there. ptxas (13.0, and the driver's of 580) was seen to do so with an operand that stays the same in all turns, where a kernel has 255 registers."""
    found = []
    for first, last in loops(code):
        written = {}  # register: where first
        for i in range(first, last + 1):
            if isinstance(code[i], Instruction):
                for r in registers_written(code[i]):
                    written.setdefault(r, i)
        for i in range(first, last + 1):
            if isinstance(code[i], Instruction) and code[i].kind == "HGMMA" and (m := re.search(r"HGMMA\S+ R\d+, R(\d+), gdesc", code[i].text)):
                if any(written.get(r, -1) > i for r in range(int(m[1]), int(m[1]) + 4)):
                    found.append(code[i].text)
    return found


# Cycles of a quarter of a multiprocessor; 1 where none is given.
CYCLES = {"LOP3": 2, "PRMT": 2, "F2FP": 2, "FMNMX": 2, "LEA": 2, "SHF": 2, "SEL": 2, "IMNMX": 2, "MUFU": 1, "MOVM": 1}


def price(x):
    if x.kind == "HGMMA":  # 64 x N x 16 by four warps, each in its quarter
        return int(re.search(r"HGMMA\.64x(\d+)x16", x.opcode)[1]) / 2
    if x.kind == "HMMA":
        return 4 if ".1688." in x.opcode and "TF32" not in x.opcode else 6
    return CYCLES.get(x.kind, 1)


# Which part of a multiprocessor an instruction is for; what is not here moves numbers, branches or waits.
KINDS = {
    "tensor": "HMMA HGMMA",
    "mufu": "MUFU",
    "fma": "FFMA FADD FMUL HFMA2 HADD2 HMUL2 IMAD",
    "alu": "LOP3 PRMT F2FP FMNMX HMNMX2 LEA SHF SEL FSEL IMNMX ISETP FSETP IADD3 VIADD PLOP3",
    "memory": "LDS STS LDSM LDG STG LDGSTS LDL STL SHFL MOVM",
}
PARTS = {kind: part for part, kinds in KINDS.items() for kind in kinds.split()}


def multiplies(instructions):
    return any(PARTS.get(x.kind) == "tensor" for x in instructions)


def summary(instructions):
    count = collections.Counter(x.kind for x in instructions)
    exps = sum(x.opcode.startswith("MUFU.EX2") for x in instructions)
    return count, exps, sum(map(price, instructions)), 8 * count["MUFU"]


def by_part(instructions):
    """How many instructions there are for each part of a multiprocessor."""
    count = collections.Counter(PARTS.get(x.kind, "other") for x in instructions)
    return {part: count[part] for part in [*KINDS, "other"]}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--compiler", default=str(HERE.parents[1] / "build/lib/libflarec_compiler.so"))
    p.add_argument("--head-dim", type=int, default=8)
    p.add_argument("--latents", type=int, default=128)
    p.add_argument("--dtype", default="bf16")
    p.add_argument("--target", default="sm_90a")
    p.add_argument("--config", default="")
    p.add_argument("--vary", nargs="*", default=[], help="fields of single sweeps: 0:exp=bits:8,tile=128")
    p.add_argument("--kernel", default="")
    p.add_argument("--listing", action="store_true")
    args = p.parse_args()
    request = {"mixer": {"head_dim": args.head_dim, "latents": args.latents, "dtype": args.dtype, "gradients": "qkv"}, "target": args.target, "config": args.config}
    with tempfile.TemporaryDirectory() as folder:
        manifest, blobs = artefact.compile_ptx(args.compiler, artefact.varied(args.compiler, request, args.vary, folder) if args.vary else request)
    sweeps = {k["symbol"]: (f["sweeps"][k["sweep"]], k["threads"]) for f in manifest["functions"] for k in f["kernels"] if k["grid"] == "sweep"}
    for blob in blobs:
        symbols = re.findall(rb"\.entry (\w+)\(", blob)
        if not any(args.kernel in s.decode() for s in symbols):
            continue
        for name, code in parse(disassemble(blob, args.target)).items():
            if name not in sweeps or args.kernel not in name:
                continue
            sweep, threads = sweeps[name]
            scores = sweep["tile"] * sweep["heads"] * args.latents / sweep["row_groups"] / threads  # a lane's, of a tile
            print(f"{name}: {sum(isinstance(x, Instruction) for x in code)} instructions, {scores:g} scores a lane and tile, {sweep}, {threads} threads")
            for first, last in loops(code):
                body = [x for x in code[first : last + 1] if isinstance(x, Instruction)]
                count, exps, cycles, mufu = summary(body)
                if not multiplies(body):
                    continue
                print(f"   loop of {len(body)}: {exps} exponentials, {len(body) / scores:.2f} slots and {cycles / scores:.2f} cycles a score of a whole tile: " + ", ".join(f"{k} {n}" for k, n in count.most_common(24)))
            if args.listing:
                for x in code:
                    print(x if isinstance(x, str) else "    " + x.text)


if __name__ == "__main__":
    sys.exit(main())
