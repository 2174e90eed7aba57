"""Random inputs of a mixer for accuracy.py: any sizes, dtype, scale, spread of scores and layout that the ops take, drawn from a seed.

Compiling takes longer than running, so CASES_A_KERNEL consecutive seeds share head dim, latents and dtype.
"""

import dataclasses
import math
import random
import zlib

import torch

CASES_A_KERNEL = 4


@dataclasses.dataclass(frozen=True)
class Limits:
    latents: int = 1024
    many_latents: int = 4096  # which one kernel in thirty has
    tokens: int = 5000
    scores: int = 1 << 24  # B H M N: the reference keeps a dozen float64 of each
    channels_apart: bool = True


#: On a GPU; on a CPU; in the simulator, which does not copy rows whose channels are not next to one another.
GPU = Limits()
HOST = Limits(many_latents=1500, tokens=3000, scores=1 << 20)
SIMULATOR = Limits(latents=80, many_latents=200, tokens=150, scores=1 << 14, channels_apart=False)


def log_uniform(draw, low, high):
    return min(int(math.exp(draw.uniform(math.log(low), math.log(high + 1)))), high)


class Drawn:
    """What a seed says: sizes and names of layouts, no tensors yet."""

    def __init__(self, seed, limits, dtypes):
        self.seed = seed
        kernel = random.Random(f"kernel {seed // CASES_A_KERNEL}")
        self.d = kernel.choice((4, 8, 16, 32)) if kernel.random() < 0.6 else kernel.randint(1, 128)
        kind = kernel.random()
        if kind < 1 / 30:
            self.m = kernel.randint(limits.latents + 1, limits.many_latents)
        elif kind < 0.2:
            self.m = kernel.choice([m for m in (1, 2, 16, 17, 64, 128, 512) if m <= limits.latents])
        else:
            self.m = log_uniform(kernel, 1, limits.latents)
        self.dtype = kernel.choice(dtypes)

        draw = random.Random(f"case {seed}")
        self.batch, self.heads = draw.randint(1, 3), draw.randint(1, 5)
        kind = draw.random()
        n = 0 if kind < 0.04 else 1 if kind < 0.1 else log_uniform(draw, 2, limits.tokens) | (draw.random() < 0.5)
        self.n = min(n, max(limits.scores // (self.batch * self.heads * self.m), 1))
        self.scores = "outliers" if draw.random() < 0.12 else round(math.exp(draw.uniform(math.log(0.3), math.log(10))), 2)
        self.scale = draw.choice((1.0, 1.0, self.d**-0.5, self.d**-0.5, -0.7, -(self.d**-0.5), round(draw.uniform(-3, 3), 3) or 1.0, 0.0))
        apart = ["channels apart"] if limits.channels_apart else []
        rows = ["tokens-major", "tokens-major", "heads-major", "odd addresses", "padded rows", "every other token"] + apart
        self.q = draw.choice(("shared", "shared", "shared, odd addresses", "shared, one head expanded", "batched", "batched, odd addresses",
                              "expanded over the batch", "one head expanded, batched", "expanded over both"))  # fmt: skip
        together = draw.random()
        if together < 0.35:
            self.k = self.v = draw.choice(("one tensor", "packed slices", "interleaved slices"))
        else:
            self.k, self.v = (draw.choice(rows + ["one head expanded", "expanded over the batch"]) for _ in "kv")
        self.grad = draw.choice(rows + ["one number expanded"] * len(apart) + ["one token expanded", "one head expanded"])

    def __str__(self):
        name = str(self.dtype).removeprefix("torch.")
        kv = f"k and v {self.k}" if self.k == self.v else f"k {self.k}; v {self.v}"
        return (f"seed {self.seed}: B={self.batch} H={self.heads} D={self.d} M={self.m} N={self.n} {name} scores={self.scores} "
                f"scale={self.scale:.4g} | q {self.q}; {kv}; gradient {self.grad} |")  # fmt: skip

    def tensors(self, device, more=0):
        """q, k, v and the gradient of y. `more`: another draw of the numbers alone."""
        generator = torch.Generator()  # a CPU's: the same numbers on every device and in the simulator
        generator.manual_seed(zlib.crc32(repr((self.seed, more)).encode()))

        def normal(*shape, size=1.0):
            t = torch.randn(shape, generator=generator)
            if self.scores == "outliers":  # N(0, 1) and one in a thousand 100 times as large
                t = t * torch.where(torch.rand(shape, generator=generator) < 1e-3, 100.0, 1.0)
            t = t * size
            if self.dtype == torch.float16:
                t = t.clamp(-6e4, 6e4)
            return t.to(self.dtype).to(device)

        spread = (1.0 if self.scores == "outliers" else self.scores) / math.sqrt(self.d) / (abs(self.scale) or 1.0)
        q = self.latents(lambda *shape: normal(*shape, size=spread))
        if self.k == "one tensor":
            k = v = self.rows("tokens-major", normal)
        elif self.k == self.v == "packed slices":
            k, v = (t.unflatten(-1, (self.heads, self.d)).transpose(1, 2) for t in normal(self.batch, self.n, 2 * self.heads * self.d).chunk(2, -1))
        elif self.k == self.v == "interleaved slices":
            k, v = normal(self.batch, self.n, self.heads, 2, self.d).transpose(1, 2).unbind(3)
        else:
            k, v = (self.rows(layout, normal) for layout in (self.k, self.v))
        return q, k, v, self.rows(self.grad, normal)

    def latents(self, normal):
        b, h, m, d = self.batch, self.heads, self.m, self.d
        match self.q:
            case "shared":
                return normal(h, m, d)
            case "shared, odd addresses":
                return normal(h, m, d + 1)[..., 1:]
            case "shared, one head expanded":
                return normal(1, m, d).expand(h, m, d)
            case "batched":
                return normal(b, h, m, d)
            case "batched, odd addresses":
                return normal(b, h, m, d + 1)[..., 1:]
            case "expanded over the batch":
                return normal(h, m, d).expand(b, h, m, d)
            case "one head expanded, batched":
                return normal(b, 1, m, d).expand(b, h, m, d)
            case "expanded over both":
                return normal(m, d).expand(b, h, m, d)
        raise ValueError(self.q)

    def rows(self, layout, normal):
        """[B, H, N, D]."""
        b, h, n, d = self.batch, self.heads, self.n, self.d
        match layout:
            case "tokens-major":
                return normal(b, n, h * d).unflatten(-1, (h, d)).transpose(1, 2)
            case "heads-major":
                return normal(b, h, n, d)
            case "odd addresses":
                return normal(b, n, 1 + h * d)[..., 1:].unflatten(-1, (h, d)).transpose(1, 2)
            case "padded rows":
                return normal(b, n, h, d + 3)[..., :d].transpose(1, 2)
            case "every other token":
                return normal(b, 2 * n, h * d)[:, ::2].unflatten(-1, (h, d)).transpose(1, 2)
            case "channels apart":
                return normal(b, h, d, n).transpose(2, 3)
            case "one head expanded":
                return normal(b, 1, n, d).expand(b, h, n, d)
            case "expanded over the batch":
                return normal(h, n, d).expand(b, h, n, d)
            case "one token expanded":
                return normal(b, h, 1, d).expand(b, h, n, d)
            case "one number expanded":
                return normal(1).expand(b, h, n, d)
        raise ValueError(layout)
