"""What docs/artefact.md says, once for all tests in Python: how an artefact is asked for, what its bytes mean, how much a launch takes.

On purpose none of it is taken from runtime/: tests that launch kernels by that page alone notice where page and runtime part.
Python's own library is enough, because the tests of flarec and of the budgets run where there is no numpy.
"""

import ctypes
import functools
import hashlib
import json
import math
import os
import re


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


def varied(compiler, request, changes, folder):
    """The request, with fields of its sweeps' configurations replaced: changes are "0:exp=bits:8,tile=128" for the first sweep, and so on ("*" for all).
    Puts an edited stage into the folder."""
    stage = compile_artefact(compiler, {**request, "emit": "sweeps"}).decode()
    parts = re.split(r"(#tile\.config<[^>]*>)", stage)
    for change in changes:
        sweep, fields = change.split(":", 1)
        for i in range(1, len(parts), 2):
            if sweep not in ("*", str(i // 2)):
                continue
            for field in fields.split(","):
                name, value = field.split("=")
                old = re.search(rf"\b{name} = (\"?)", parts[i])
                if not old:  # one that need not be written
                    parts[i] = f"{parts[i][:-1]}, {name} = {value if value.isdigit() else json.dumps(value)}>"
                    continue
                parts[i] = re.sub(rf"\b{name} = [^,>]*", f"{name} = {old[1]}{value}{old[1]}", parts[i])
    path = os.path.join(folder, "2-sweeps.mlir")
    with open(path, "w") as f:
        f.write("".join(parts))
    return {**request, "from_stage": path}


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
    partials = [sum(t["rows"] * max(1, t["columns"]) * 4 for t in function["tensors"] if t.get("sweep") == s) for s in range(len(function["sweeps"]))]
    sharers = sum(p > 0 for p in partials)
    result = []
    for sweep, partial in zip(function["sweeps"], partials):
        groups = batch * -(-heads // sweep["heads"]) * sweep["row_groups"]
        tiles = -(-tokens // sweep["tile"])
        most = sweep["blocks"] // groups if groups else 1
        if partial and batch * heads:
            most = min(most, 2**26 // (batch * heads * sharers * partial))
        result.append(max(1, min(most, tiles)))
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
