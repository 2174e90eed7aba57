"""flarec's ops on the simulated GPU: the artefact's manifest is obeyed as the runtime obeys it (docs/artefact.md), the kernels'
PTX runs in simulator.py. For machines without a GPU."""

import math
import os
import sys

import torch

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE)]
import artefact
import simulator

TYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32, "i32": torch.int32, "i8": torch.uint8}
NAMES = {torch.bfloat16: "bf16", torch.float16: "f16", torch.float32: "f32"}


def raw(tensor):
    """The bytes of a contiguous tensor."""
    return tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


class Function:
    """One function of an artefact, on a simulated GPU."""

    def __init__(self, manifest, modules, name):
        self.function = next(f for f in manifest["functions"] if f["name"] == name)
        self.modules, self.code = modules, [None] * len(modules)
        self.counts = {}  # threads per opcode of each kernel, of the last call

    def kernel(self, blob, symbol):
        if self.code[blob] is None:
            self.code[blob] = simulator.parse_module(self.modules[blob].decode())
        return self.code[blob][symbol]

    def __call__(self, *inputs, scale, sizes):
        """Inputs are tensors [B, H, rows, C], any strides with last stride 1. sizes: (B, H, N, BQ). Returns the results."""
        memory = simulator.GlobalMemory()
        slots, results, addresses = [], [], []
        inputs = iter(inputs)
        ragged = any(t["index"] == "b" for t in self.function["tensors"])
        for tensor in self.function["tensors"]:
            if tensor["role"] == "input":
                given = next(inputs)
                if tensor["columns"] == 0:
                    given = given.unsqueeze(-1)
                # A copy with the same strides and the same address modulo 256.
                item = given.element_size()
                extent = 1 + sum((n - 1) * s for n, s in zip(given.shape, given.stride())) if given.numel() else 0
                shift = given.data_ptr() % 256
                address = memory.allocate(shift + extent * item) + shift
                flat = given.as_strided((extent,), (1,), given.storage_offset())
                memory.write(address, raw(flat))
                strides = list(given.stride()[:3])
                if given.shape[0] == 1:  # latents that the batch shares
                    strides[0] = 0
            else:
                shape = artefact.shape(self.function, tensor, sizes)
                size = math.prod(shape) * TYPES[tensor["type"]].itemsize
                address, strides = memory.allocate(size), artefact.strides(shape)
                if tensor["role"] == "result":
                    if ragged:  # tokens outside of all ranges are not written
                        memory.write(address, bytes(size))
                    results.append((address, size, shape, tensor))
            addresses.append((address, strides, tensor))
            slots += [address, *strides]
        slots += [*sizes, *artefact.splits(self.function, sizes), *[float(scale) for _ in self.function["scalars"]]]

        self.counts = {}
        for kernel in self.function["kernels"]:
            chosen = kernel
            for variant in kernel["variants"]:
                if all(self.aligned(addresses[t], variant["alignment"], sizes) for t in variant["tensors"]):
                    chosen = variant
                    break
            program = self.kernel(chosen.get("code", kernel["code"]), chosen["symbol"])
            if blocks := artefact.grid(self.function, kernel, sizes):
                self.counts[chosen["symbol"]] = simulator.launch(memory, program, blocks, kernel["threads"], kernel["shared"], slots)

        outputs = []
        for address, size, shape, tensor in results:
            data = torch.frombuffer(bytearray(memory.read(address, size)), dtype=TYPES[tensor["type"]]) if size else torch.empty(0, dtype=TYPES[tensor["type"]])
            outputs.append(data.view(shape if tensor["columns"] else shape[:3]))
        return outputs

    @staticmethod
    def aligned(entry, alignment, sizes):
        if not alignment:
            return True
        address, strides, tensor = entry
        extents, item = (*sizes[:2], artefact.rows(tensor, sizes)), TYPES[tensor["type"]].itemsize
        return address % alignment == 0 and all(s * item % alignment == 0 for n, s in zip(extents, strides) if n > 1)


class Ops:
    """The ops of torch.ops.flarec that the accuracy tests call."""

    def __init__(self, library, target="sm_90a", config="", gradients="qkv"):
        self.library, self.target, self.config, self.gradients = library, target, config, gradients
        self.artefacts = {}

    def functions(self, head_dim, latents, dtype, **presence):
        key = (head_dim, latents, dtype, *presence)
        if key not in self.artefacts:
            mixer = {"head_dim": head_dim, "latents": latents, "dtype": NAMES[dtype], "gradients": self.gradients, **presence}
            request = {"mixer": mixer, "target": self.target, "config": self.config}
            manifest, modules = artefact.compile_ptx(self.library, request)
            self.artefacts[key] = tuple(Function(manifest, modules, name) for name in ("mixer_forward", "mixer_backward"))
        return self.artefacts[key]

    def prepare(self, q, k):
        latents = q.unsqueeze(0) if q.dim() == 3 else q
        return latents, (k.shape[0], k.shape[1], k.shape[2], latents.shape[0] if q.dim() == 4 else 1)

    def mixer_forward(self, q, k, v, scale):
        latents, sizes = self.prepare(q, k)
        forward, _ = self.functions(q.shape[-1], q.shape[-2], k.dtype)
        return forward(latents, k, v, scale=scale, sizes=sizes)

    def mixer_backward(self, grad_y, q, k, v, y, z, lse_encode, lse_decode, scale):
        latents, sizes = self.prepare(q, k)
        _, backward = self.functions(q.shape[-1], q.shape[-2], k.dtype)
        given = dict(grad_y=grad_y, q=latents, k=k, v=v, y=y, z=z, lse_encode=lse_encode, lse_decode=lse_decode)
        grads = backward(*[given[t["name"]] for t in backward.function["tensors"] if t["role"] == "input"], scale=scale, sizes=sizes)
        return tuple(g[0] if q.dim() == 3 and i == 0 else g for i, g in enumerate(grads))

    def present_mixer(self, q, k, v, grad_y, scale, mask=None, lengths=None, cu_seqlens=None):
        """A mixer of the tokens that are there, as ops.h has them: y, z, lse_encode, lse_decode, grad_q, grad_k, grad_v."""
        packed = cu_seqlens is not None
        batch = len(cu_seqlens) - 1 if packed else k.shape[0]
        presence, given = {}, {}
        if packed or lengths is not None:
            presence["ragged"] = True
            first, end = (cu_seqlens[:-1], cu_seqlens[1:]) if packed else (torch.zeros_like(lengths), lengths)
            given["range"] = torch.stack([first, end], 1)[:, None, None]
        if mask is not None:
            presence["masked"] = True
            given["mask"] = (mask.expand(batch, -1) if packed else mask).to(torch.uint8)[:, None].expand(-1, q.shape[-3], -1)  # the same for all heads

        def rows(t):  # of all sequences for each, as the batch stride 0 says
            return (t.transpose(0, 1) if t.dim() == 3 else t).unsqueeze(0).expand(batch, *(-1,) * t.dim()) if packed else t

        given |= dict(q=q.unsqueeze(0) if q.dim() == 3 else q, k=rows(k), v=rows(v), grad_y=rows(grad_y))
        sizes = (*given["k"].shape[:3], 1 if q.dim() == 3 else batch)
        forward, backward = self.functions(q.shape[-1], q.shape[-2], k.dtype, **presence)

        def call(function):
            inputs = [given[t["name"]] for t in function.function["tensors"] if t["role"] == "input"]
            results = function(*inputs, scale=scale, sizes=sizes)
            names = [t["name"] for t in function.function["tensors"] if t["role"] == "result"]
            for name, t in zip(names, results):
                if packed and name in ("y", "lse_decode", "grad_k", "grad_v"):  # each row was written in one batch
                    t = t.sum(0)
                    t = t.transpose(0, 1) if t.dim() == 3 else t
                    given[name] = rows(t)
                else:
                    given[name] = t
                yield t[0] if name == "grad_q" and q.dim() == 3 else t

        return (*call(forward), *call(backward))
