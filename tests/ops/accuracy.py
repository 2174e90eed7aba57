#!/usr/bin/env python3
"""The accuracy rule, case by case and pooled over seeds.

Reference: the same rounded inputs in float64, dense. Yardstick: scaled_dot_product_attention twice in the same dtype on
contiguous copies (flash for 16 bit, memory-efficient for float32, math where they refuse or return NaN, as CUDA's flash
does for a scale of 0; negative scales go to the latents' sign, and float32's channels are padded to what it aligns; for float32 on a CPU, which has no memory-efficient one, the larger error of flash and math).

Each case: rms error <= 1.5 x SDPA's + floor and largest error <= 2 x SDPA's + floor, where
floor = 2 u rms(what cancels), u the unit roundoff: for y, z and grad_v the sums of |P v| and |P dy|, for grad_q and grad_k
those of |P dP|. At N = 1 or M = 1 SDPA is exact and a bare ratio would fail correct code.
A case that fails this is judged again together with MORE_SEEDS others like it, rms over all, largest over all, with the
floor of each error in place of their rms: 2 u of what cancels in this element, and 2 u(float32) of that with each P times
the magnitudes that cancel in its score, and with each dP's own magnitudes in its place, since both are float32 in every dtype. A result of 4 cannot be as exact as one of
1; where SDPA is exact (N = 1) nothing but the floor allows for that; and with outliers of 100, or one token that holds most
of a gradient, a handful of P with |x| u errors make the whole error of a case, and which of two correct implementations is
luckier there is chance (--judge-sdpa counts how often SDPA's math fails a single case against SDPA's flash: 9 of 196 on a
CPU). Such checks are counted.
Pooled (at least 1e5 elements a tensor, N >= 1024): rms ratio <= 1.3 at a standard deviation of the scores up to 3, <= 1.5 beyond.
Log-sum-exps: within 1e-2 (bfloat16, float16) or 1e-5 (float32) of the exact ones, times the mean of s sum_d |q_d k_d| under
the weights where that exceeds 1: the scores that cannot be more exact than the sums that cancel in them.
N = 0: z = 0, lse_encode = -inf, gradients 0. A second run must give the same bits.
float16: also gradients of size 1e-7, 8e3 (3e4 at most) and 3e4, compared where SDPA's results are finite (ours must be, too). One infinity or NaN in k, v or
grad_y: not finite wherever SDPA's results are not, and other heads clean.

One line a check; the exit status is 0 if all hold.

  accuracy.py --device cuda                    the whole sweep, as tests/gpu/run.sh runs it
  accuracy.py --device cuda --pooled           pooled over seeds
  accuracy.py --quick                          what a CPU does in a minute or two
  accuracy.py --quick --halves                 the same of encode and decode
  accuracy.py --simulate sm_90a --quick        the GPU code, without a GPU
  accuracy.py --head-dims 8 --latents 64 --tokens 4099 --dtypes bf16 --scores 10
  accuracy.py --random 1000 --seed 0           random cases (random_cases.py) with the seeds 0 to 999
"""

import argparse
import itertools
import math
import os
import sys
import time
import zlib

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention as sdpa

import flarec_test
import random_cases

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
UNIT = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11, torch.float32: 2.0**-24}
MORE_SEEDS = 24  # a third of them in the simulator, which takes seconds for each
LSE_TOLERANCE = {torch.bfloat16: 1e-2, torch.float16: 1e-2, torch.float32: 1e-5}
TENSORS = ("y", "z", "grad_q", "grad_k", "grad_v")


def rms(t):
    return t.double().square().mean().sqrt().item() if t.numel() else 0.0


def largest(t):
    return t.abs().max().item() if t.numel() else 0.0


class Case:
    """Inputs of one case, on the device. `scores`: standard deviation of the scores, or 'outliers'."""

    def __init__(self, args, d, m, n, dtype, scores, scale=1.0, batch=2, heads=2, seed=0, shared=True, gradient=1.0, apart=0):
        self.gradient = gradient
        self.d, self.m, self.n, self.dtype, self.scores, self.scale = d, m, n, dtype, scores, scale
        generator = torch.Generator()  # a CPU's: the same case on every device and in the simulator
        generator.manual_seed(zlib.crc32(repr((d, m, n, scores, seed)).encode()))

        def normal(*shape):
            t = torch.randn(shape, generator=generator)
            if scores == "outliers":  # N(0, 1) and one in a thousand 100 times as large
                t = t * torch.where(torch.rand(shape, generator=generator) < 1e-3, 100.0, 1.0)
            return t.to(args.device)

        def tokens_major(size=1.0):
            t = normal(batch, n, apart + heads * d) * size  # `apart` elements between rows and before the first
            t = t.clamp(-6e4, 6e4) if dtype == torch.float16 else t
            return t.to(dtype)[..., apart:].unflatten(-1, (heads, d)).transpose(1, 2)

        spread = 1.0 if scores == "outliers" else scores / math.sqrt(d) / scale
        self.q = (normal(*((heads, m, d) if shared else (batch, heads, m, d))) * spread).to(dtype)
        self.k, self.v, self.grad = tokens_major(), tokens_major(), tokens_major(gradient)
        self.batch = batch

    def batched_q(self, dtype):
        q = self.q.to(dtype)
        return q.expand(self.batch, *q.shape) if q.dim() == 3 else q

    def __str__(self):
        name = [k for k, v in DTYPES.items() if v == self.dtype][0]
        return f"D={self.d:<2} M={self.m:<3} N={self.n:<5} {name} scores={self.scores!s:<8} scale={self.scale:<5g}" + (
            f" gradient={self.gradient:g}" if self.gradient != 1 else "")


class RandomCase(Case):
    def __init__(self, args, drawn, more):
        self.drawn, self.gradient, self.batch = drawn, 1.0, drawn.batch
        self.d, self.m, self.n, self.dtype, self.scores, self.scale = drawn.d, drawn.m, drawn.n, drawn.dtype, drawn.scores, drawn.scale
        self.q, self.k, self.v, self.grad = drawn.tensors(args.device, more)

    def __str__(self):
        return str(self.drawn)


class Halves:
    """With --halves: the mixer and its backward pass made of encode and decode."""

    def __init__(self, ops):
        self.ops = ops

    def mixer_forward(self, q, k, v, scale):
        z, lse_encode = self.ops.encode(q, k, v, scale)
        y, lse_decode = self.ops.decode(k, q, z, scale)
        return y, z, lse_encode, lse_decode

    def mixer_backward(self, grad, q, k, v, y, z, lse_encode, lse_decode, scale):
        none = torch.zeros_like
        dk, dq, dz = self.ops.decode_backward(grad, none(lse_decode), k, q, z, y, lse_decode, scale)
        eq, ek, dv = self.ops.encode_backward(dz, none(lse_encode), q, k, v, z, lse_encode, scale)
        return dq + eq, dk + ek, dv


def run_ours(ops, case):
    if ops is None:  # --judge-sdpa
        *_, lse, _ = run_reference(case)
        return run_sdpa(case, math_only=True)[0], lse
    y, z, lse_encode, lse_decode = ops.mixer_forward(case.q, case.k, case.v, case.scale)
    grads = ops.mixer_backward(case.grad, case.q, case.k, case.v, y, z, lse_encode, lse_decode, case.scale)
    return dict(zip(TENSORS, (y, z, *grads))), (lse_encode, lse_decode)


def run_reference(case):
    """Exact values; for each tensor the sums of magnitudes that cancel in it; the same with each weight times the
    magnitudes that cancel in its score; the log-sum-exps and what cancels in them."""
    q = case.batched_q(torch.float64)
    k, v, g = case.k.double(), case.v.double(), case.grad.double()
    s = case.scale
    x = s * (q @ k.transpose(-1, -2))  # [B, H, M, N]
    encode, decode = torch.softmax(x, -1), torch.softmax(x, -2)
    lse = torch.logsumexp(x, -1), torch.logsumexp(x, -2)
    z = encode @ v
    y = decode.transpose(-1, -2) @ z
    dz = decode @ g
    d_encode, d_decode = dz @ v.transpose(-1, -2), z @ g.transpose(-1, -2)
    delta_encode = (dz * z).sum(-1).unsqueeze(-1)  # [B, H, M, 1]
    delta_decode = (g * y).sum(-1).unsqueeze(-2)  # [B, H, 1, N]
    ds = encode * (d_encode - delta_encode) + decode * (d_decode - delta_decode)

    def latents(t):
        return t.sum(0) if case.q.dim() == 3 else t

    sizes = d_encode.abs() + delta_encode.abs(), d_decode.abs() + delta_decode.abs()
    # The same before the channels' products cancel.
    inner = (dz.abs() @ v.abs().transpose(-1, -2) + (dz * z).abs().sum(-1).unsqueeze(-1), z.abs() @ g.abs().transpose(-1, -2) + (g * y).abs().sum(-1).unsqueeze(-2))

    def magnitudes(encode, decode, sizes=sizes):
        size = encode * sizes[0] + decode * sizes[1]
        return dict(
            y=decode.transpose(-1, -2) @ z.abs(),
            z=encode @ v.abs(),
            grad_q=latents(abs(s) * (size @ k.abs())),
            grad_k=abs(s) * (size.transpose(-1, -2) @ q.abs()),
            grad_v=encode.transpose(-1, -2) @ (decode @ g.abs()),
        )

    size_x = abs(s) * (q.abs() @ k.abs().transpose(-1, -2))
    lse_cancels = (encode * size_x).sum(-1), (decode * size_x).sum(-2)
    exact = dict(y=y, z=z, grad_q=latents(s * (ds @ k)), grad_k=s * (ds.transpose(-1, -2) @ q), grad_v=encode.transpose(-1, -2) @ dz)
    wide, dots = magnitudes(encode * size_x, decode * size_x), magnitudes(encode, decode, inner)
    for name in ("grad_q", "grad_k"):
        wide[name] = wide[name] + dots[name]
    return exact, magnitudes(encode, decode), wide, lse, lse_cancels


def run_sdpa(case, math_only=False):
    """The yardstick. Returns its results and the name of the backend."""
    first = SDPBackend.FLASH_ATTENTION
    if case.q.is_cuda and case.dtype == torch.float32:
        first = SDPBackend.EFFICIENT_ATTENTION
    sign = -1 if case.scale < 0 else 1
    padding = -case.d % 4 if first == SDPBackend.EFFICIENT_ATTENTION else 0
    error = None
    for backend in (first, SDPBackend.MATH)[math_only:]:
        q, k, v = (t.detach().clone(memory_format=torch.contiguous_format).requires_grad_() for t in (case.q, case.k, case.v))
        tokens = [torch.nn.functional.pad(t, (0, padding)) for t in (k, v)] if padding else [k, v]
        batched = q.unsqueeze(0).expand(case.batch, -1, -1, -1).contiguous() if q.dim() == 3 else q
        batched = torch.nn.functional.pad(sign * batched, (0, padding))
        try:
            with sdpa_kernel(backend):
                z = sdpa(batched, *tokens, scale=abs(case.scale))[..., : case.d]
                y = sdpa(tokens[0], batched, torch.nn.functional.pad(z, (0, padding)), scale=abs(case.scale))[..., : case.d]
                y.backward(case.grad.clone(memory_format=torch.contiguous_format))  # aligned, too
        except RuntimeError as refused:
            error = refused
            continue
        results = dict(y=y.detach(), z=z.detach(), grad_q=q.grad, grad_k=k.grad, grad_v=v.grad)
        if backend == SDPBackend.MATH or all(t.isfinite().all() for t in results.values()):
            return results, backend.name.split("_")[0].lower()
    raise error


def check_empty(case, ours, lse):
    bad = [name for name in TENSORS if name in ours and largest(ours[name].float()) != 0]
    if not torch.isneginf(lse[0]).all():
        bad.append("lse_encode")
    return bad


def check_lse(case, lse, exact, cancels):
    bad = []
    for name, ours, right, size in zip(("lse_encode", "lse_decode"), lse, exact, cancels):
        error = ((ours.double() - right).abs() / size.clamp(min=1)).max().item()
        if not error <= LSE_TOLERANCE[case.dtype]:
            bad.append(f"{name} off by {error:.2g}")
    return bad


class Errors:
    """Of one tensor, over the seeds seen so far."""

    def __init__(self, unit):
        self.unit, self.count, self.cancels = unit, 0, 0.0
        self.ours, self.above, self.sdpa = ([0.0, 0.0] for _ in range(3))  # sums of squares and largest ones

    def add(self, ours, sdpas, cancels, cancels_x):
        """`sdpas`: errors of one or two backends, whose larger one counts."""
        self.count += ours.numel()
        self.cancels += cancels.square().sum().item()
        above = (ours.abs() - 2 * self.unit * cancels - 2 * UNIT[torch.float32] * cancels_x).clamp(min=0)
        for seen, errors in ((self.ours, [ours]), (self.above, [above]), (self.sdpa, sdpas)):
            seen[0] += max(error.square().sum().item() for error in errors)
            seen[1] = max(seen[1], *map(largest, errors))

    def judge(self, name, yardstick, own_floor=False):
        """(Messages of what does not hold, text of the ratio.)"""
        root = lambda sum: math.sqrt(sum / max(self.count, 1))
        floor = 0.0 if own_floor else 2 * self.unit * root(self.cancels)
        mine = self.above if own_floor else self.ours
        bad = []
        for kind, factor, error, sdpas in (("rms", 1.5, root(mine[0]), root(self.sdpa[0])), ("largest", 2, mine[1], self.sdpa[1])):
            if not error <= factor * yardstick * sdpas + floor:
                above = " above its own floor" if own_floor else ""
                bad.append(f"{name} {kind} error {error:.3g}{above} > {factor} x {yardstick * sdpas:.3g} + {floor:.2g}")
        ratio = math.sqrt(self.ours[0] / self.sdpa[0]) if self.sdpa[0] else math.inf
        return bad, f"{name} {ratio:.2f}"


def measure(ops, case, errors):
    """Adds the case's errors; returns messages of what needs no yardstick, and the yardstick's name."""
    ours, lse = run_ours(ops, case)
    again, lse_again = (ours, lse) if simulated(ops) else run_ours(ops, case)
    bad = [f"{name} differs between runs" for name in TENSORS if not same_bits(ours[name], again[name])]
    bad += [f"lse {i} differs between runs" for i in (0, 1) if not same_bits(lse[i], lse_again[i])]
    if case.n == 0:
        return bad + check_empty(case, ours, lse), "empty"
    exact, cancels, cancels_x, exact_lse, lse_cancels = run_reference(case)
    theirs, backend = run_sdpa(case)
    others = [theirs]
    if case.dtype == torch.float32 and not case.q.is_cuda:
        others.append(run_sdpa(case, math_only=True)[0])
    bad += check_lse(case, lse, exact_lse, lse_cancels)
    for name in TENSORS:
        # Where float16 cannot hold SDPA's result there is nothing to compare with; where it can we must.
        held = theirs[name].isfinite()
        if not ours[name][held].isfinite().all():
            bad.append(f"{name} is not finite where SDPA's is")
        mine, *sdpas = ((t[name].double() - exact[name])[held] for t in (ours, *others))
        errors[name].add(mine, sdpas, cancels[name][held], cancels_x[name][held])
    return bad, backend


def simulated(ops):
    return hasattr(ops, "target")


def check_case(ops, make, yardstick=1.0):
    """(Messages of what does not hold, text of the ratios.) `make`: the case of a seed, counted from 0."""
    case = make(0)
    errors = {name: Errors(UNIT[case.dtype]) for name in TENSORS}
    bad, backend = measure(ops, case, errors)
    if bad or backend == "empty":
        return bad, backend
    judged = [errors[name].judge(name, yardstick) for name in TENSORS]
    seeds = ""
    if any(messages for messages, _ in judged):
        more = MORE_SEEDS // 3 if simulated(ops) else MORE_SEEDS
        for seed in range(1, 1 + more):
            bad += measure(ops, make(seed), errors)[0]
        judged = [errors[name].judge(name, yardstick, own_floor=True) for name in TENSORS]
        seeds = f", {1 + more} seeds"
    bad += sum((messages for messages, _ in judged), [])
    return bad, f"rms/{backend}: " + " ".join(text for _, text in judged) + seeds


def check_nonfinite(ops, case, value):
    """One infinity or NaN, in one token of one head: what SDPA makes non-finite we do, and other heads stay clean."""
    bad = []
    for name in ("k", "v", "grad"):
        clean = getattr(case, name)
        spoilt = clean.clone()
        spoilt[0, 1, case.n // 2, min(1, case.d - 1)] = value
        setattr(case, name, spoilt)
        ours, _ = run_ours(ops, case)
        theirs, _ = run_sdpa(case)
        setattr(case, name, clean)
        for tensor in TENSORS:
            missing = (~theirs[tensor].isfinite() & ours[tensor].isfinite()).sum().item()
            heads = ours[tensor].isfinite().flatten(-2).all(-1)
            touched = heads[..., 1] if heads.dim() == 1 else heads[0, 1]
            if missing:
                bad.append(f"{value} in {name}: {tensor} is finite at {missing} places where SDPA's is not")
            if (~heads).sum() != (~touched).sum():
                bad.append(f"{value} in {name}: {tensor} is not finite in another head")
    return bad, ""


def same_bits(a, b):
    kind = torch.int32 if a.dtype == torch.float32 else torch.int16
    return torch.equal(a.contiguous().view(kind), b.contiguous().view(kind))


def check_pooled(ops, args, d, dtype, scores):
    """rms ratios over enough seeds for 1e5 elements of the smallest tensor (z and grad_q, [B, H, M, D])."""
    batch, heads, m, n = 4, 4, 64, 1024
    seeds = math.ceil(1e5 / (batch * heads * m * d))
    ours_square, theirs_square = dict.fromkeys(TENSORS, 0.0), dict.fromkeys(TENSORS, 0.0)
    for seed in range(seeds):
        case = Case(args, d, m, n, dtype, scores, batch=batch, heads=heads, seed=seed + 1, shared=False)
        ours, _ = run_ours(ops, case)
        exact, *_ = run_reference(case)
        theirs, backend = run_sdpa(case)
        for name in TENSORS:
            ours_square[name] += rms(ours[name].double() - exact[name]) ** 2
            theirs_square[name] += rms(theirs[name].double() - exact[name]) ** 2
    limit = 1.3 if scores != "outliers" and scores <= 3 else 1.5
    ratios = {name: math.sqrt(ours_square[name] / theirs_square[name]) for name in TENSORS}
    bad = [f"{name} pooled rms ratio {r:.3f} > {limit}" for name, r in ratios.items() if not r <= limit]
    return bad, f"{seeds} seeds, rms/{backend}: " + " ".join(f"{name} {r:.2f}" for name, r in ratios.items()), case


def check_random(ops, args, report):
    limits = random_cases.SIMULATOR if args.simulate else random_cases.GPU if args.device.startswith("cuda") else random_cases.HOST
    dtypes = [DTYPES[name] for name in args.dtypes]
    for seed in range(args.seed, args.seed + args.random):
        drawn = random_cases.Drawn(seed, limits, dtypes)
        name = next(name for name, dtype in DTYPES.items() if dtype == drawn.dtype)
        bad, detail = check_case(ops, lambda more: RandomCase(args, drawn, more), args.yardstick[name])
        report.add(str(drawn), bad, detail)
        if bad:
            print(f"     again: accuracy.py {' '.join(args.itself)} --random 1 --seed {seed}", flush=True)


class Report:
    def __init__(self, verbose):
        self.verbose, self.start = verbose, time.time()
        self.checks = self.failures = self.wider = 0

    def add(self, title, bad, detail):
        self.checks += 1
        self.failures += bool(bad)
        self.wider += not bad and detail.endswith(" seeds")
        if bad or self.verbose:
            print(f"{'FAIL' if bad else 'ok  '} {title} {'; '.join(bad) + ' | ' if bad else ''}{detail}", flush=True)

    def close(self):
        wider = f" ({self.wider} of them over several seeds)" if self.wider else ""
        print(f"{self.checks - self.failures} of {self.checks} accuracy checks hold{wider} in {time.time() - self.start:.0f} s")
        return 1 if self.failures or not self.checks else 0


def score_kind(text):
    return text if text == "outliers" else float(text)


def parse():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--device", default="cpu")
    p.add_argument("--simulate", metavar="TARGET", help="run the GPU code for this target (sm_90a, say) in tests/ptx/simulator.py; SDPA on the CPU")
    p.add_argument("--compiler", default=os.environ.get("FLAREC_COMPILER_LIBRARY", "build/lib/libflarec_compiler.so"), help="with --simulate: the compiler's library")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--config", default="", help="with --simulate: a configuration attribute")
    p.add_argument("--head-dims", type=int, nargs="+", default=[4, 8, 16, 32])
    p.add_argument("--latents", type=int, nargs="+", default=[1, 16, 17, 64, 128, 512])
    p.add_argument("--tokens", type=int, nargs="+", default=[0, 1, 63, 64, 65, 4099])
    p.add_argument("--dtypes", nargs="+", choices=sorted(DTYPES), default=sorted(DTYPES))
    p.add_argument("--scores", type=score_kind, nargs="+", default=[1.0, 10.0, "outliers"], help="standard deviations, or outliers")
    p.add_argument("--scales", type=float, nargs="+", default=[1.0], help="the op's scale argument; scores keep their deviation")
    p.add_argument("--pooled", action="store_true", help="pooled over seeds instead of case by case")
    p.add_argument("--random", type=int, metavar="COUNT", default=0, help="so many random cases instead, of the seeds from --seed on")
    p.add_argument("--quick", action="store_true", help="a part of the sweep that still has every value of every parameter, and some pooled checks")
    p.add_argument("--smoke", action="store_true", help="a handful of small cases")
    p.add_argument("--judge-sdpa", action="store_true", help="put SDPA's math in flarec's place: how sharp is the rule? (not N = 0)")
    p.add_argument("--halves", action="store_true", help="encode and decode in the mixer's place")
    p.add_argument("--only-failures", action="store_true", help="print failed checks only")
    args = p.parse_args()
    if args.simulate and args.quick:
        args.tokens, args.scores = [0, 1, 65, 333], [1.0, "outliers"]
    # On a GPU SDPA's float32 is three products of TF32 on tensor cores, on a CPU it is float32, about half as wrong.
    args.itself = [f"--simulate {args.simulate}"] if args.simulate else [f"--device {args.device}"]
    args.itself += ["--dtypes", *args.dtypes]
    args.yardstick = {"bf16": 1.0, "fp16": 1.0, "fp32": 2.0 if args.simulate else 1.0}
    return args


def cases(args):
    product = list(itertools.product(args.head_dims, args.latents, args.tokens, args.dtypes, args.scores, args.scales))
    if args.smoke:
        return [c for c in product if c[1] in (1, 17) and c[2] in (0, 1, 65)]
    if args.quick:  # D is paired with M: each needs a compilation, and that is most of the time
        position = {d: i for i, d in enumerate(args.head_dims)}
        return [c for c in product if args.latents.index(c[1]) % len(position) == position[c[0]]]
    return product


def main():
    args = parse()
    if args.simulate:
        sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "ptx"))
        import simulated_ops

        ops = simulated_ops.Ops(args.compiler, args.simulate, args.config)
    else:
        ops = None if args.judge_sdpa else flarec_test.load()
        if args.halves:
            ops = Halves(ops)
    torch.backends.cuda.matmul.allow_tf32 = False
    report = Report(verbose=not args.only_failures)
    if args.random:
        check_random(ops, args, report)
        return report.close()
    if not args.pooled:
        def check(note, yardstick, *values, scale=None, **options):
            def make(seed):
                case = Case(args, *values, seed=args.seed + 1000 * seed, **options)
                case.scale = case.scale if scale is None else scale
                return case

            report.add(str(make(0)) + note, *check_case(ops, make, yardstick))

        for d, m, n, dtype, scores, scale in cases(args):
            check("", args.yardstick[dtype], d, m, n, DTYPES[dtype], scores, scale)
        # So many tokens that each block has several tiles: code that only goes wrong from the second one on was seen.
        if args.device == "cuda":
            for d, dtype in itertools.product(args.head_dims, args.dtypes):
                for m in (128, 64, 256):
                    check(" long", args.yardstick[dtype], d, m, 70001, DTYPES[dtype], 1.0, batch=1, heads=1)
        d = args.head_dims[-1]
        # Scales other than 1, where a forgotten one shows, and latents of each batch's own.
        for dtype, scale, shared in itertools.product(args.dtypes, (d**-0.5, -0.7, 0.0), (True, False)):
            check(" shared q" if shared else " batched q", args.yardstick[dtype], d, 17, 65, DTYPES[dtype], 1.0, scale=scale, shared=shared)
        # Rows at odd addresses, heads that no block's number of them divides.
        for dtype, heads, n in itertools.product(args.dtypes, (1, 3), (65, 200)):
            check(f" H={heads}, unaligned", args.yardstick[dtype], d, 33, n, DTYPES[dtype], 1.0, heads=heads, apart=1)
        # Gradients without and under a GradScaler; weights that leave float16's range; values that are no numbers.
        if "fp16" in args.dtypes:
            d = args.head_dims[min(1, len(args.head_dims) - 1)]
            # Apart, the halves give q a gradient each in float16, either of which may overflow though the sum does not.
            sizes = (1e-7, 100.0) if args.halves else (1e-7, 8e3, 3e4)
            for size, scores, n in itertools.product(sizes, (1.0, 10.0), (65, 333)):  # deviations: 8e3 is 3e4 at most
                check("", 1.0, d, 17, n, torch.float16, scores, gradient=size)
        for dtype, d, value in itertools.product(args.dtypes, sorted({*args.head_dims[1:2], args.head_dims[-1]}), (math.inf, math.nan)):
            case = Case(args, d, 17, 65, DTYPES[dtype], 1.0, seed=args.seed)
            report.add(f"{case} one {value}", *check_nonfinite(ops, case, value))
    if args.pooled or (args.quick and not args.simulate):
        head_dims = args.head_dims if args.pooled else args.head_dims[1:2]
        for d, dtype, scores in itertools.product(head_dims, args.dtypes, (0.3, 1.0, 3.0, 7.0, 10.0) if args.pooled else (1.0, 7.0)):
            bad, detail, case = check_pooled(ops, args, d, DTYPES[dtype], scores)
            report.add(str(case), bad, detail)
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
