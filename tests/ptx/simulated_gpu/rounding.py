"""Number formats that numpy does not have, and how hardware rounds to them: results are compared with references bit by bit, and
one rounding the wrong way would be taken for the kernels' error."""

import numpy as np


def bf16_to_f32(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def f32_to_bf16(x):
    """Round to nearest even; every NaN is 0x7fff."""
    u = x.view(np.uint32)
    rounded = ((u + np.uint32(0x7FFF) + ((u >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7FFF), rounded)


def f16_to_f32(bits):
    return bits.astype(np.uint16).view(np.float16).astype(np.float32)


def f32_to_f16(x):
    return np.where(np.isnan(x), np.uint16(0x7FFF), x.astype(np.float16).view(np.uint16))


def bits_to_tf32(u):
    """The bits of f32 rounded to nearest, ties away from zero; infinities and NaNs stay."""
    return np.where((u & 0x7F800000) == 0x7F800000, u, (u + np.uint32(0x1000)) & np.uint32(0xFFFFE000))


def flush(x):
    """Denormals to zero, with their sign."""
    return np.where(np.abs(x) < np.float32(1.17549435e-38), np.copysign(np.float32(0), x), x)


def cut_to_f32(x):
    """A float64 cut towards zero."""
    y = x.astype(np.float32)
    over = np.abs(y.astype(np.float64)) > np.abs(x)
    return np.where(over & np.isfinite(x), np.nextafter(y, np.float32(0)), y)
