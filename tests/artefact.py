"""What docs/artefact.md says, once for all tests in Python: how an artefact is asked for, what its bytes mean, how much a launch takes.

On purpose none of it is taken from runtime/: tests that launch kernels by that page alone notice where page and runtime part.
Python's own library is enough, because the tests of flarec and of the budgets run where there is no numpy.
"""

import ctypes
import functools
import hashlib
import json
import math


class Refused(RuntimeError):
    """The compiler's message where it makes no artefact."""


#  Asking for one: sections 4 and 5 ----------------------------------------------


@functools.cache
def load_compiler(path):
    library = ctypes.CDLL(path)
    library.flarec_version.restype = ctypes.c_char_p
    library.flarec_free.argtypes = [ctypes.c_void_p]
    return library


def compile_artefact(compiler, request):
    """The bytes of an artefact. compiler: path of libflarec_compiler.so; request: a dictionary without its version, keys in order."""
    library = load_compiler(compiler)
    data, size, message = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_void_p()
    text = json.dumps({"version": library.flarec_version().decode(), **request}, separators=(",", ":"))
    failed = library.flarec_compile(text.encode(), ctypes.byref(data), ctypes.byref(size), ctypes.byref(message))
    try:
        if failed:
            raise Refused(ctypes.string_at(message.value).decode())
        return ctypes.string_at(data.value, size.value)
    finally:
        library.flarec_free(data)
        library.flarec_free(message)


def compile_ptx(compiler, request):
    """The manifest and the PTX of each of its blobs, as bytes."""
    manifest, code = read_artefact(compile_artefact(compiler, request))
    assert all(entry["kind"] == "ptx" for entry in manifest["code"])
    return manifest, code


#  What its bytes mean: sections 1 and 2 -------------------------------------------


def read_artefact(data):
    """The manifest and its blobs of code, checksum verified; PTX comes without its terminating zero."""
    assert data[:8] == b"FLAREC\0\1" and hashlib.sha256(data[40:]).digest() == data[8:40]
    first = 48 + int.from_bytes(data[40:48], "little")
    manifest = json.loads(data[48:first])
    blobs = [data[first + entry["offset"] :][: entry["size"]] for entry in manifest["code"]]
    return manifest, [b.rstrip(b"\0") if entry["kind"] == "ptx" else b for entry, b in zip(manifest["code"], blobs)]


#  What a launch takes: sections 2 and 3. sizes: (B, H, N, BQ) ------------------------


def splits(function, sizes):
    """Into how many ranges each sweep cuts the tokens."""
    batch, heads, tokens, _ = sizes
    result = []
    for sweep in function["sweeps"]:
        groups = batch * -(-heads // sweep["heads"]) * sweep["row_groups"]
        tiles = -(-tokens // sweep["tile"])
        result.append(max(1, min(sweep["blocks"] // groups, tiles)) if groups else 1)
    return result


def grid(function, kernel, sizes):
    """The number of blocks; 0: not launched."""
    batch, heads, _, _ = sizes
    if kernel["grid"] == "latents":
        return batch * heads * kernel["blocks_per_head"]
    sweep = function["sweeps"][kernel["sweep"]]
    return splits(function, sizes)[kernel["sweep"]] * -(-heads // sweep["heads"]) * sweep["row_groups"] * batch


def rows(tensor, sizes):
    return sizes[2] if tensor["index"] == "n" else tensor["rows"]  # of the batch alone: 1


def shape(function, tensor, sizes):
    """Of a result [B, H, rows, columns] or a workspace, whose partial results are [B, S, H, rows, columns]; no columns count as 1."""
    batch, heads, _, latent_batch = sizes
    inner = [heads, rows(tensor, sizes), max(1, tensor["columns"])]
    if tensor["role"] == "workspace" and "sweep" in tensor:
        inner.insert(0, splits(function, sizes)[tensor["sweep"]])
    return [latent_batch if tensor.get("reduced") else batch, *inner]


def strides(shape):
    """Those that a kernel is given for a contiguous tensor of this shape: over b, h and rows."""
    return [math.prod(shape[1:]), math.prod(shape[-2:]), shape[-1]]
