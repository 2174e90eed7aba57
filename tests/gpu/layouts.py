#!/usr/bin/env python3
"""Layouts, repeatability, streams and non-finite values on a GPU, against a dense float64 reference. One line a check.

  layouts.py            everything
  layouts.py --small    small shapes only, for compute-sanitizer
"""
import argparse
import pathlib
import sys

import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "ops"))
import flarec_test

failures = 0
LIMITS = {torch.bfloat16: 2e-2, torch.float16: 3e-3, torch.float32: 1e-5}  # of relative rms errors


def report(name, ok, detail=""):
    global failures
    failures += not ok
    print(f"{'ok  ' if ok else 'FAIL'} {name} {detail}", flush=True)


def gradients(f, q, k, v, g):
    leaves = [t.detach().requires_grad_() for t in (q, k, v)]
    y = f(*leaves)
    return (y, *torch.autograd.grad(y, leaves, g))


def check(name, ops, q, k, v, g, dtype):
    ours = gradients(lambda q, k, v: ops.mixer(q, k, v, 1.0), q, k, v, g)
    exact = gradients(lambda q, k, v: flarec_test.dense(q, k, v)[0], q.double(), k.double(), v.double(), g.double())
    worst = 0.0
    for a, b in zip(ours, exact):
        scale = b.square().mean().sqrt().item() + 1e-3
        worst = max(worst, (a.double() - b).square().mean().sqrt().item() / scale)
    report(name, worst <= LIMITS[dtype], f"relative rms error {worst:.1e}")


def ragged(name, ops, q, k, v, g, dtype):
    """Lengths, the same as a mask, and the same tokens packed, against each batch's own tokens."""
    b, n = k.shape[0], k.shape[2]
    lengths = torch.tensor([n * (1 + i) // (b + 1) for i in range(b)], dtype=torch.int32, device=k.device)
    there = torch.arange(n, device=k.device) < lengths[:, None]
    take = lambda t: torch.cat([x[:, :l].transpose(0, 1) for x, l in zip(t, lengths.tolist())])  # [total, H, D]
    cu = torch.cat([torch.zeros_like(lengths[:1]), lengths.cumsum(0, dtype=torch.int32)])
    padded = gradients(lambda *x: ops.mixer(*x, 1.0, lengths=lengths), q, k, v, g)
    packed = gradients(lambda *x: ops.mixer(*x, 1.0, cu_seqlens=cu), q, take(k), take(v), take(g))
    masked = gradients(lambda *x: ops.mixer(*x, 1.0, mask=there), q, k, v, g)
    exact = [gradients(lambda q, k, v: flarec_test.dense(q, k, v)[0], q.double(), *(t[i : i + 1, :, :l].double() for t in (k, v, g))) for i, l in enumerate(lengths.tolist())]
    worst = 0.0
    for i, (a, m, p) in enumerate(zip(padded, masked, packed)):
        e = sum(x[1] for x in exact) if i == 1 else torch.cat([x[i][0].transpose(0, 1) for x in exact])
        for t in ((a, m, p) if i == 1 else (take(a), take(m), p)):
            scale = e.square().mean().sqrt().item() + 1e-3
            worst = max(worst, (t.double() - e).square().mean().sqrt().item() / scale)
    absent = all((t.transpose(1, 2)[~there] == 0).all().item() for results in (padded, masked) for i, t in enumerate(results) if i != 1)
    report(name, worst <= LIMITS[dtype] and absent, f"relative rms error {worst:.1e}{'' if absent else ', rows of absent tokens are not 0'}")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--small", action="store_true")
    args = p.parse_args()
    ops = flarec_test.load()
    torch.manual_seed(0)
    dev = "cuda"
    n = 65 if args.small else 1111
    dtypes = (torch.bfloat16, torch.float16, torch.float32)
    for dtype in dtypes:
        name = str(dtype).removeprefix("torch.")
        for d, m, h, b in ((8, 17, 3, 2), (4, 64, 5, 1), (32, 40, 2, 1), (8, 512, 2, 1), (64, 100, 2, 1)) if args.small else ((8, 128, 8, 2), (8, 17, 3, 3), (8, 512, 3, 1), (4, 64, 16, 1), (16, 64, 5, 2), (32, 100, 4, 1), (64, 100, 3, 2), (128, 64, 2, 1)):
            r = lambda *s: torch.randn(*s, device=dev, dtype=dtype)
            q = r(h, m, d)
            shape = f"{name} B={b} H={h} D={d} M={m} N={n}"
            tokens_major = lambda: r(b, n, h * d).view(b, n, h, d).transpose(1, 2)
            check(f"{shape} tokens-major", ops, q, tokens_major(), tokens_major(), tokens_major(), dtype)
            check(f"{shape} heads-major", ops, q, r(b, h, n, d), r(b, h, n, d), r(b, h, n, d), dtype)
            kv = r(b, n, 2 * h * d)
            check(f"{shape} packed k and v", ops, q, kv[..., : h * d].view(b, n, h, d).transpose(1, 2), kv[..., h * d :].view(b, n, h, d).transpose(1, 2),
                  tokens_major(), dtype)
            odd = r(b, n, h * d + 1)[..., 1:].unflatten(-1, (h, d)).transpose(1, 2)
            check(f"{shape} rows off 16 bytes", ops, q, odd, odd, tokens_major(), dtype)
            ragged(f"{shape} lengths, mask, packed", ops, q, tokens_major(), tokens_major(), tokens_major(), dtype)
            check(f"{shape} batched q, expanded gradient", ops, r(b, h, m, d), tokens_major(), tokens_major(), r(1, 1, 1, 1).expand(b, h, n, d), dtype)
    if not args.small:
        for dtype in dtypes:
            r = lambda *s: torch.randn(*s, device=dev, dtype=dtype)
            q, k, v, g = r(8, 128, 8), r(1, 8, 100003, 8), r(1, 8, 100003, 8), r(1, 8, 100003, 8)
            first = gradients(lambda q, k, v: ops.mixer(q, k, v, 1.0), q, k, v, g)
            same = all(all(torch.equal(x, y) for x, y in zip(first, gradients(lambda q, k, v: ops.mixer(q, k, v, 1.0), q, k, v, g))) for _ in range(100))
            report(f"{dtype} 100 runs are bitwise equal", same)
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                other = ops.mixer(q, k, v, 1.0)
            torch.cuda.synchronize()
            report(f"{dtype} on another stream", torch.equal(other, first[0]))
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                captured = ops.mixer(q, k, v, 1.0)
            captured.zero_()
            graph.replay()
            torch.cuda.synchronize()
            report(f"{dtype} captured in a CUDA graph", torch.equal(captured, first[0]))
            # NaN in one token of one head: as in SDPA, everywhere in that head, nowhere else.
            for bad in (float("nan"), float("inf")):
                poisoned = k.clone()
                poisoned[0, 3, 777, 2] = bad
                y = ops.mixer(q, poisoned, v, 1.0)
                clean = [h for h in range(8) if h != 3]
                report(f"{dtype} {bad} in one head stays there", torch.equal(y[:, clean], first[0][:, clean]) and not y[0, 3].isfinite().all().item())
            big = ops.mixer(q * 100, k * 100, v, 1.0)
            report(f"{dtype} huge finite scores stay finite", big.isfinite().all().item())
    print(f"{failures} layout checks failed" if failures else "all layout checks hold")
    return failures != 0


if __name__ == "__main__":
    sys.exit(main())
