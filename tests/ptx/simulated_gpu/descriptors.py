"""Matrices in shared memory as wgmma finds them: a descriptor says where the parts of one are.

A part, a chunk, is 16 bytes: 8 values next to each other along K (K-major) or along M or N (MN-major, transposed), for one row of the
other dimension. Which of the two offsets a descriptor has leads where is easy to mix up, the more as it changes with the swizzle. This is
what PTX ISA 9.0, 9.7.15.5.1.2.1.1-2 ("Leading Dimension Byte Offset", "Stride Dimension Byte Offset") says, and the same as NVIDIA's
CUTLASS has in the comment before make_gmma_desc (include/cute/atom/mma_traits_sm90_gmma.hpp, read at 082a375c), for bytes:

    K-major, no swizzle     row r, chunk c along K:   r % 8 * 16 + r / 8 * stride + c * leading
    K-major, swizzle W      row r, chunk c along K:   r % 8 * 16 W + r / 8 * stride + c * 16        W = 2, 4, 8 chunks: 32, 64, 128 bytes
    MN-major, no swizzle    k, chunk c along MN:      k % 8 * 16 + k / 8 * leading + c * stride
    MN-major, swizzle W     k, chunk c along MN:      k % 8 * 16 W + k / 8 * stride + c % W * 16 + c / W * leading

A swizzle then exchanges chunks: bits 4, 5, ... of an address (1, 2 or 3 of them) are xored with those from bit 7 on.
"""

import numpy as np

from . import Fault

DEPTH = 16  # values along K of one instruction
WIDTHS = {0: 1, 1: 8, 2: 4, 3: 2}  # chunks that a swizzle exchanges, by bits 62 and 63
RESERVED = sum(1 << bit for bit in (14, 15, 30, 31, 46, 47, 48, *range(52, 62)))


def chunks(descriptors, extent, transposed, text):
    """Addresses of the chunks of matrices, one a descriptor: [matrix, row, chunk along K] or, transposed, [matrix, k, chunk along MN].

    extent: values along M or N."""
    if (descriptors & np.uint64(RESERVED)).any():
        raise Fault(f"a matrix descriptor with bits that mean nothing, {int(descriptors[0]):#x}: {text}")
    field = lambda first, size: ((descriptors >> np.uint64(first)) & np.uint64(2**size - 1)).astype(np.int64)
    if field(49, 3).any():
        raise Fault(f"the simulator has no base offsets in matrix descriptors: {text}")
    swizzle = field(62, 2)
    if (swizzle != swizzle[0]).any():
        raise Fault(f"the simulator has no different swizzles in one instruction: {text}")
    width = WIDTHS[int(swizzle[0])]
    start, leading, stride = (16 * field(first, 14)[:, None, None] for first in (0, 16, 32))
    if transposed:
        k, chunk = np.arange(DEPTH)[:, None], np.arange(extent // 8)
        within = k % 8 * 16 * width + chunk % width * 16
        offset = within + (k // 8 * leading + chunk * stride if width == 1 else k // 8 * stride + chunk // width * leading)
    else:
        row, chunk = np.arange(extent)[:, None], np.arange(DEPTH // 8)
        offset = row % 8 * 16 * width + row // 8 * stride + chunk * (leading if width == 1 else 16)
    address = start + offset
    return address ^ ((address >> 3) & (16 * (width - 1)))
