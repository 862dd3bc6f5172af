"""What the blocked variants share: packed weights, the choice of vector axis, and the way from a block to the output.

A block holds the outputs of one task while its sums grow. Its vectors run over pixels ("rows": ``[channel][phase][pixel]``)
or over channels ("columns": ``[phase][pixel][channel]``). Output pixel ``stride*j + phase`` of an axis is element ``j`` of
its phase, so within a phase neighbouring outputs read neighbouring inputs and every vector is contiguous.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tconv_bench import simd
from tconv_bench.jit import kernel
from tconv_bench.jit import threads as threads
from tconv_bench.problem import Problem
from tconv_bench.registry import Variant

BLOCK_BYTES = 24 * 1024  # half of a 48 KiB L1, and all but the weights' share of a 32 KiB one
MIN_TASKS = 64  # rows are cut finer than the cache asks for while there are fewer tasks than this


def pack_weight(problem: Problem, weight: NDArray[Any]) -> NDArray[Any]:
    """(C_in, C_out//g, *kernel) -> (g, taps, C_in//g, C_out//g): a tap's matrix is contiguous, output channels innermost."""
    g = problem.groups
    split = weight.reshape(g, problem.c_in // g, problem.c_out // g, problem.taps)
    return np.array(split.transpose(0, 3, 1, 2), order="C")


def packed_bytes(problem: Problem) -> int:
    """Bytes of packed weights, in any order, and of the bias."""
    return problem.itemsize * (prod(problem.weight_shape) + problem.c_out)


def bias_or_zeros(problem: Problem, bias: NDArray[Any] | None) -> NDArray[Any]:
    """A copy of the bias, or zeros."""
    return np.zeros(problem.c_out, problem.dtype) if bias is None else bias.copy()


def lane_share(length: int, itemsize: int) -> float:
    """Part of the vector lanes that ``length`` contiguous elements fill."""
    lanes = simd.VECTOR_BYTES // itemsize
    return length / (-(-length // lanes) * lanes)


def vectors_over_pixels(pixels: int, channels: int, itemsize: int) -> bool:
    """Whether a row of ``pixels`` fills the vectors at least as well as ``channels`` do."""
    return lane_share(pixels, itemsize) >= lane_share(channels, itemsize)


def packs_row(over_pixels: bool, channels: int, c_in: int, taps: int, plane_bytes: int) -> bool:
    """Whether a task copies its input row together before it multiplies; ``taps`` counts those along the row.

    Planes of a multiple of 4 KiB put a pixel's value of every channel into one set of the first-level cache: 256 channels of
    32x32 ran at 63 GFLOP/s in place and at 139 copied. The copy pays where the row is read often enough, once per tap and
    tile of channels: measured 1.1 to 2 times faster above the bound below, 0.3 to 0.85 times as fast under it. Other planes
    lose by it (44 to 31 GFLOP/s at 131x131).
    """
    tiles = channels // 6 + channels % 6 // 2 + channels % 2
    return over_pixels and c_in > 1 and plane_bytes % 4096 == 0 and (taps >= 4 or taps * tiles >= 9)


def cut_row(row: int, most: int, other_tasks: int) -> int:
    """Pixels of one piece of a row: at most ``most``; 128 or more where only the lack of tasks asks for a cut."""
    wanted = -(-MIN_TASKS // max(1, other_tasks))
    pieces = max(-(-row // max(1, most)), min(wanted, row // 128), 1)
    return -(-row // pieces)


@kernel
def pack_row(x, at, plane, c_in, count, row):
    """row[c, j] = x[at + c*plane + j] for j < count."""
    for c in range(c_in):
        for j in range(count):
            row[c * count + j] = x[at + c * plane + j]


@kernel
def input_reach(first_j, width, axis_in, taps, stride, pad, dilation):
    """(first, past the last) input pixel that elements ``first_j ... first_j + width - 1`` of any phase can meet."""
    least, most = -pad // stride, ((taps - 1) * dilation - pad) // stride
    low = min(max(0, first_j - most), axis_in)
    return low, max(low, min(axis_in, first_j + width - least))


@kernel
def fill_block(block, over_pixels, channels, pixels, first_channel, bias):
    """Start every sum of a block at its channel's bias; ``pixels`` counts phases times pixels per phase."""
    if over_pixels:
        for c in range(channels):
            block[c * pixels : (c + 1) * pixels] = bias[first_channel + c]
    else:
        for p in range(pixels):
            for c in range(channels):
                block[p * channels + c] = bias[first_channel + c]


@kernel
def store_row(block, at, over_pixels, channels, pixels, phase_pixels, stride, out, out_at, out_channel, first, last):
    """Interleave a block's phases into ``out[first:last]`` of each channel's row: pixel ``stride*j + phase`` is ``[phase][j]``.

    ``first`` is a multiple of the stride; ``at`` is the row's place in the block, ``out_at`` the first channel's row in
    ``out``, ``out_channel`` the distance between channels there.
    """
    for c in range(channels):
        to = out_at + c * out_channel
        for phase in range(stride):
            count = (last - first - phase + stride - 1) // stride
            if over_pixels:
                source = at + c * pixels + phase * phase_pixels
                for j in range(count):
                    out[to + first + phase + stride * j] = block[source + j]
            else:
                source = at + phase * phase_pixels * channels + c
                for j in range(count):
                    out[to + first + phase + stride * j] = block[source + j * channels]


@kernel
def next_row(rows, slabs, y, z, n):
    """The row after row y of slab z of image n, where a slab has ``rows`` and an image ``slabs``: its y, z and n."""
    y += 1
    if y == rows:
        y = 0
        z += 1
        if z == slabs:
            z = 0
            n += 1
    return y, z, n


def from_a_line(size: int, dtype: str | np.dtype[Any]) -> NDArray[Any]:
    """So many elements of memory that begins with a cache line: vectors that straddle lines are dear."""
    room = np.empty(size + simd.LINE_BYTES, dtype)
    return room[-room.ctypes.data % simd.LINE_BYTES // room.itemsize :][:size]


kernel_from_a_line = kernel(from_a_line)


def turned(weight: NDArray[Any]) -> NDArray[Any]:
    """A view of an ordinary convolution's weights as the transposed convolution's of stride 1, or the other way round.

    Of one group: (C_out, C_in, *kernel) and (C_in, C_out, *kernel flipped).
    """
    return np.flip(weight.swapaxes(0, 1), tuple(range(2, weight.ndim)))


def dense(array: NDArray[Any]) -> tuple[NDArray[Any] | None, bool]:
    """The memory of a dense array as one axis, and whether channels are innermost; None where it has gaps."""
    if array.flags.c_contiguous:
        return array.reshape(-1), False
    last = np.moveaxis(array, 1, -1)
    return (last.reshape(-1), True) if last.flags.c_contiguous else (None, False)


def run_plain(entry: Variant, state: Any, x: NDArray[Any], out: NDArray[Any]) -> None:
    """``entry.run`` for a variant that takes C-contiguous arrays alone."""
    result = out if out.flags.c_contiguous else np.empty(out.shape, out.dtype)
    entry.run(state, np.ascontiguousarray(x), result)
    if result is not out:
        out[...] = result
