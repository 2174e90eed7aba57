"""What the tests of the ops share: the library, and the dense formulas that results are compared with."""

import atexit
import os
import pathlib
import shutil
import tempfile

import torch

ROOT = pathlib.Path(__file__).resolve().parents[2]


def library_path():
    """$FLAREC_TORCH_LIBRARY, else what a build in build/ has left."""
    path = os.environ.get("FLAREC_TORCH_LIBRARY", ROOT / "build/lib/libflarec_torch.so")
    if not pathlib.Path(path).exists():
        raise SystemExit(f"{path} does not exist; build it (scripts/build flarec_torch flarec_compiler) or set FLAREC_TORCH_LIBRARY")
    return str(path)


def fresh_cache():
    """An empty cache for this process and its children: a test must not run what an older compiler has left. $FLAREC_TEST_CACHE_DIR: who gives it looks into it."""
    if directory := os.environ.get("FLAREC_TEST_CACHE_DIR"):
        os.environ["FLAREC_CACHE_DIR"] = directory
        return
    directory = tempfile.mkdtemp(prefix="flarec-test-")
    os.environ["FLAREC_CACHE_DIR"] = directory
    atexit.register(shutil.rmtree, directory, ignore_errors=True)


def load():
    fresh_cache()
    torch.ops.load_library(library_path())
    return torch.ops.flarec


def dense_encode(q, k, v, scale=1.0):
    """z and lse_encode as the formulas say, in the dtype of the inputs. Differentiable, like the two below."""
    x = scale * (q @ k.transpose(-1, -2))  # [B, H, M, N]
    return torch.softmax(x, -1) @ v, torch.logsumexp(x, -1)


def dense_decode(k, q, z, scale=1.0):
    """y and lse_decode."""
    x = scale * (k @ q.transpose(-1, -2))  # [B, H, N, M]
    return torch.softmax(x, -1) @ z, torch.logsumexp(x, -1)


def dense(q, k, v, scale=1.0):
    """y, z, lse_encode, lse_decode of a mixer."""
    z, lse_encode = dense_encode(q, k, v, scale)
    y, lse_decode = dense_decode(k, q, z, scale)
    return y, z, lse_encode, lse_decode


def tokens(b, h, n, d, dtype=torch.float32, device="cpu", generator=None):
    """[B, H, N, D] as FLARE makes it: a view of [B, N, H * D]."""
    flat = torch.randn(b, n, h * d, device=device, generator=generator)
    return flat.to(dtype).unflatten(-1, (h, d)).transpose(1, 2)
