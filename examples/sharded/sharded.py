#!/usr/bin/env python3
"""A mixer whose tokens are spread over processes, on gloo and the CPU: sharded.py [--processes 2]

Forward, each process encodes its own tokens; z and the log-sum-exps of all, a few kilobytes, are gathered and merged; each
decodes for its own tokens. Backward, dz is added up between the two stages, and the gradient of the latents after them.
Tokens never travel. Checked against the mixer in one process.
"""

import argparse
import os
import pathlib
import socket

import torch
import torch.distributed as dist

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIBRARY = os.environ.get("FLAREC_TORCH_LIBRARY", ROOT / "build/lib/libflarec_torch.so")


class ShardedMixer(torch.autograd.Function):
    """q is the same in all processes, k and v are this process's tokens. So is y; q's gradient is that of all tokens."""

    @staticmethod
    def forward(ctx, q, k, v, scale):
        ops = torch.ops.flarec
        part, lse_part = ops.encode(q, k, v, scale)
        parts, lses = ([torch.empty_like(t) for _ in range(dist.get_world_size())] for t in (part, lse_part))
        dist.all_gather(parts, part)
        dist.all_gather(lses, lse_part)
        z, lse_encode = ops.merge(torch.stack(parts), torch.stack(lses))
        y, lse_decode = ops.decode(k, q, z, scale)
        ctx.save_for_backward(q, k, v, y, z, lse_encode, lse_decode)
        ctx.scale = scale
        return y

    @staticmethod
    def backward(ctx, grad_y):
        ops = torch.ops.flarec
        q, k, v, y, z, lse_encode, lse_decode = ctx.saved_tensors
        dz, delta = ops.mixer_backward_latents(grad_y, q, k, y, lse_decode, ctx.scale)
        dist.all_reduce(dz)
        dq, dk, dv = ops.mixer_backward_joint(grad_y, q, k, v, z, dz, lse_encode, lse_decode, delta, ctx.scale)
        # With DistributedDataParallel, which adds up the gradients of parameters itself, leave this out.
        dist.all_reduce(dq)
        return dq.to(q.dtype), dk, dv, None


def work(rank, processes, port):
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=processes)
    torch.ops.load_library(str(LIBRARY))
    torch.manual_seed(0)  # the same everywhere; a real program would load its own tokens only
    batch, heads, latents, tokens, channels, scale = 1, 4, 32, 1001, 8, 0.7
    q = torch.randn(heads, latents, channels)
    k, v, grad_y = (torch.randn(batch, tokens, heads, channels).transpose(1, 2) for _ in range(3))
    whole = [t.detach().requires_grad_() for t in (q, k, v)]
    y_whole = torch.ops.flarec.mixer(*whole, scale)
    y_whole.backward(grad_y)

    mine = slice(rank * tokens // processes, (rank + 1) * tokens // processes)
    shard = [q.detach().requires_grad_()] + [t[:, :, mine].detach().requires_grad_() for t in (k, v)]
    y = ShardedMixer.apply(*shard, scale)
    y.backward(grad_y[:, :, mine])

    pairs = {"y": (y, y_whole[:, :, mine]), "dq": (shard[0].grad, whole[0].grad)}
    pairs |= {name: (t.grad, w.grad[:, :, mine]) for name, t, w in zip(("dk", "dv"), shard[1:], whole[1:])}
    for name, (a, b) in pairs.items():
        error = ((a - b).abs().max() / b.abs().max()).item()
        print(f"process {rank}, {y.shape[2]} tokens: {name} differs from one process by {error:.1e}", flush=True)
        if not error < 1e-5:
            raise SystemExit(f"{name} is wrong")
    dist.destroy_process_group()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    processes = parser.parse_args().processes
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(work, (processes, port), processes)


if __name__ == "__main__":
    main()
