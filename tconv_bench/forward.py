"""The ordinary convolution, blocked as the variants are: what ``conv1d/2d/3d`` run and zero insertion ends with.

::

    out[o, q] = bias[o] + sum over c, k of x[c, q*stride + k*dilation - pad] * weight[o, c, k]

(the field's "convolution" is a cross-correlation; Dumoulin & Visin, arXiv:1603.07285, relation 6). Each task owns a piece of
one output row for a block of output channels and adds tap after tap, a small matrix product over the input channels. The
sizes come as a ``Geometry`` whose ``i`` axes are this convolution's input and whose ``o`` axes are its output.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import carray
from numpy.typing import NDArray

from tconv_bench.problem import Geometry
from tconv_bench.simd import rank_k
from tconv_bench.variants import _blocks, _native
from tconv_bench.variants._launch import BIAS_AT, WEIGHT_AT
from tconv_bench.variants._native import SIZES_AT


class Tiling(NamedTuple):
    """How the output is cut into tasks."""

    over_pixels: bool
    channels: int  # output channels of a task
    pixels: int  # output pixels of a task
    packs_row: bool


def tiling(g: Geometry, itemsize: int) -> Tiling:
    """Blocks that stay in the first-level cache, vectors along the axis that fills them better."""
    c_out = g.c_out // g.groups
    over_pixels = _blocks.vectors_over_pixels(g.ox, c_out, itemsize)
    channels = min(c_out, 24 if over_pixels else 256 // itemsize)
    other_tasks = g.n * g.groups * -(-c_out // channels) * g.oz * g.oy
    width = _blocks.cut_row(g.ox, _blocks.BLOCK_BYTES // (itemsize * channels), other_tasks)
    plane_bytes = itemsize * g.iz * g.iy * g.ix
    packs = _blocks.packs_row(over_pixels, channels, g.c_in // g.groups, g.kx, plane_bytes) or (over_pixels and g.sx != 1)
    return Tiling(over_pixels, channels, width, packs)


def workspace_bytes(g: Geometry, itemsize: int) -> int:
    """Bytes that the ``work`` allocates at its peak: per thread one block, and a row of input where it is copied."""
    t = tiling(g, itemsize)
    row = g.c_in // g.groups * (t.pixels + (g.kx - 1) * g.dx if g.sx == 1 else t.pixels) if t.packs_row else 0
    return min(_blocks.threads(), _tasks(g, t)) * itemsize * (t.channels * t.pixels + row)


def _tasks(g: Geometry, t: Tiling) -> int:
    return g.n * g.groups * -(-(g.c_out // g.groups) // t.channels) * g.oz * g.oy * -(-g.ox // t.pixels)


def _row_task(task, tables, x, out):
    tables, x, out = carray(tables, SIZES_AT + 4), carray(x, 1), carray(out, 1)
    weight, bias = _native.array_at(tables, WEIGHT_AT, x), _native.array_at(tables, BIAS_AT, x)
    g, s = _native.geometry(tables), tables[SIZES_AT:]
    tiles = Tiling(s[0] != 0, s[1], s[2], s[3] != 0)
    c_in, c_out = g.c_in // g.groups, g.c_out // g.groups
    channel_blocks = (c_out + tiles.channels - 1) // tiles.channels
    pieces = (g.ox + tiles.pixels - 1) // tiles.pixels
    task, piece = divmod(task, pieces)
    task, oy = divmod(task, g.oy)
    task, oz = divmod(task, g.oz)
    task, channel_block = divmod(task, channel_blocks)
    n, group = divmod(task, g.groups)

    co = channel_block * tiles.channels
    channels = min(tiles.channels, c_out - co)
    first = piece * tiles.pixels
    last = min(g.ox, first + tiles.pixels)
    width = last - first
    plane = g.iz * g.iy * g.ix
    x_at = (n * g.c_in + group * c_in) * plane
    block = np.empty(channels * width, out.dtype)
    low = max(0, first - g.px)
    high = max(low, min(g.ix, last - g.px + (g.kx - 1) * g.dx))
    row_size = high - low if g.sx == 1 else width
    row = np.empty(c_in * row_size if tiles.packs_row else 0, out.dtype)
    _blocks.fill_block(block, tiles.over_pixels, channels, width, group * c_out + co, bias)
    # One channel gives each tap a product of depth 1; where no tap is cut off, a row of taps is one product instead.
    whole_row = c_in == 1 and tiles.over_pixels and g.sx == 1 and first >= g.px and last - 1 - g.px + (g.kx - 1) * g.dx < g.ix
    for kz in range(g.kz):
        iz = oz * g.sz + kz * g.dz - g.pz
        if iz < 0 or iz >= g.iz:
            continue
        for ky in range(g.ky):
            iy = oy * g.sy + ky * g.dy - g.py
            if iy < 0 or iy >= g.iy:
                continue
            row_at = x_at + (iz * g.iy + iy) * g.ix
            taps_at = ((group * g.kz + kz) * g.ky + ky) * g.kx * c_in * c_out + co
            if whole_row:
                rank_k(channels, width, g.kx, weight, taps_at, 1, c_out, x, row_at + first - g.px, g.dx,
                       block, np.int64(0), width, True)  # fmt: skip  # a literal would compile the tile once more
                continue
            if tiles.packs_row and g.sx == 1:
                _blocks.pack_row(x, row_at + low, plane, c_in, row_size, row)
            for kx in range(g.kx):
                shift = kx * g.dx - g.px
                start = max(first, -(shift // g.sx))
                count = min(last, (g.ix - 1 - shift) // g.sx + 1) - start
                if count <= 0:
                    continue
                w_at = taps_at + kx * c_in * c_out
                from_x = row_at + start * g.sx + shift
                if not tiles.over_pixels:
                    rank_k(count, channels, c_in, x, from_x, g.sx, plane, weight, w_at, c_out,
                           block, (start - first) * channels, channels, True)  # fmt: skip
                elif tiles.packs_row:
                    at = start + shift - low
                    if g.sx != 1:
                        at = 0
                        for c in range(c_in):
                            for j in range(count):
                                row[c * row_size + j] = x[from_x + c * plane + j * g.sx]
                    rank_k(channels, count, c_in, weight, w_at, 1, c_out, row, at, row_size,
                           block, start - first, width, True)  # fmt: skip
                else:
                    rank_k(channels, count, c_in, weight, w_at, 1, c_out, x, from_x, plane, block, start - first, width, True)
    out_at = (((n * g.c_out + group * c_out + co) * g.oz + oz) * g.oy + oy) * g.ox
    _blocks.store_row(block, 0, tiles.over_pixels, channels, width, width, 1, out, out_at, g.oz * g.oy * g.ox, first, last)


def work(g: Geometry, packed_weight: NDArray[Any], bias: NDArray[Any]) -> _native.Work:
    """What ``_native.run`` takes to write every element of an output (n, c_out, *o) from an input (n, c_in, *i).

    The weight is ``(groups, taps, c_in // groups, c_out // groups)``.
    """
    t = tiling(g, packed_weight.itemsize)
    return _native.work(_row_task, _tasks(g, t), g, t, packed_weight.dtype.name, packed_weight, bias)
