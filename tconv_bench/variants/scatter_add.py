"""Scatter-add: each input pixel stamps its kernel on the output, overlapping stamps add up.

::

    for every input pixel i, channel c and tap k:   out[o, i*stride + k*dilation - pad] += x[c, i] * weight[c, o, k]

Cost: exactly the useful products (``Problem.flops``); every stamp reads and writes its outputs, so the outputs under a task,
a band of output rows for a block of output channels, stay in a buffer until all stamps are down. Stamps of one input row
with one tap do not overlap: they are one small matrix product over the input channels. Each band receives its stamps in the
order of the input rows and taps, whoever computes it, so the sums are the same from run to run and for any thread count,
with no atomics and no race.

On CUDA a thread puts down one pixel of one stamp, summed over the input channels. ``scatter_add`` adds it atomically, so that
all stamps are one launch and floats depend on the order in which they come down, which is not the same in every run;
``scatter_add_deterministic`` launches tap after tap, whose stamps do not overlap, and needs no atomics.

Source: the stamp-and-add picture of the second background text; Zeiler et al., "Deconvolutional Networks", CVPR 2010.
"""

from __future__ import annotations

from math import prod
from typing import Any, Literal, NamedTuple

import numpy as np
from numba import carray
from numpy.typing import NDArray

from tconv_bench import jit_cuda
from tconv_bench.jit import kernel
from tconv_bench.jit_cuda import REAL, Kernel, cuda
from tconv_bench.problem import Geometry, Problem
from tconv_bench.ptx import add_atomically, divide, fma
from tconv_bench.registry import Variant, variant
from tconv_bench.simd import rank_k
from tconv_bench.variants import _blocks, _costs, _cuda, _implicit_gemm, _native, _tiles
from tconv_bench.variants._launch import BIAS_AT, WEIGHT_AT
from tconv_bench.variants._native import SIZES_AT

_SOURCE = "Zeiler et al. 2010; the stamp-and-add picture"
BAND_BYTES = 256 * 1024  # a band's sums in the second-level cache, beside the weights they take
# Fitted to the planned hot rows of reports/zen4-2core-comparison and the rows of reports/zen4-2core (105 problems, 2 threads),
# together with direct's and col2im's so that the ranking counts: off by a factor of 1.36 (geometric spread).
RATES = _costs.Rates(launch=3.7e-6, cycle=4.0e-10, weight_byte=1.5e-11, out_byte=4.7e-10)


class _Tiling(NamedTuple):
    over_pixels: bool
    channels: int  # output channels of a task
    phase_pixels: int  # pixels per phase of a task
    rows: int  # output rows of a task, counted over z and y together
    packs_row: bool


def _tiling(problem: Problem) -> _Tiling:
    g, size = problem.geometry, problem.itemsize
    c_out = g.c_out // g.groups
    row = -(-g.ox // g.sx)
    over_pixels = _blocks.vectors_over_pixels(min(row, g.ix), c_out, size)
    channels = min(c_out, 24 if over_pixels else 256 // size)
    blocks = max(1, g.n * g.groups * -(-c_out // channels))
    width = _blocks.cut_row(row, BAND_BYTES // (size * channels * g.sx), blocks * g.oz * g.oy)
    rows = min(g.oz * g.oy, BAND_BYTES // (size * channels * g.sx * width))
    rows = max(1, min(rows, g.oz * g.oy * blocks * -(-row // width) // _blocks.MIN_TASKS))
    packs = _blocks.packs_row(over_pixels, channels, g.c_in // g.groups, g.kx, size * problem.in_pixels)
    return _Tiling(over_pixels, channels, width, rows, packs)


def _tasks(g: Geometry, t: _Tiling) -> int:
    pieces = -(-(-(-g.ox // g.sx)) // t.phase_pixels)
    return g.n * g.groups * -(-(g.c_out // g.groups) // t.channels) * -(-(g.oz * g.oy) // t.rows) * pieces


@kernel
def _stamp_row(g, tiling, band, row_at, x, x_at, x_plane, weight, w_at, channels, first_j):
    """Stamp one input row with one row of taps into the band's row at ``row_at``; pixel 0 stands at ``x_at``."""
    c_in, c_out = g.c_in // g.groups, g.c_out // g.groups
    width = tiling.phase_pixels
    pixels = g.sx * width
    for kx in range(g.kx):
        # input pixel i stamps element i + shift of the tap's phase
        shift, phase = divmod(kx * g.dx - g.px, g.sx)
        phase_end = min(first_j + width, (g.ox - phase + g.sx - 1) // g.sx)
        first_i = max(0, first_j - shift)
        count = min(g.ix, phase_end - shift) - first_i
        if count <= 0:
            continue
        j = phase * width + first_i + shift - first_j
        tap_at = w_at + kx * c_in * c_out
        if tiling.over_pixels:
            rank_k(channels, count, c_in, weight, tap_at, 1, c_out, x, x_at + first_i, x_plane,
                   band, row_at + j, pixels, True)  # fmt: skip
        else:
            rank_k(count, channels, c_in, x, x_at + first_i, 1, x_plane, weight, tap_at, c_out,
                   band, row_at + j * channels, channels, True)  # fmt: skip


def _band_task(task, tables, x, out):
    tables, x, out = carray(tables, SIZES_AT + 5), carray(x, 1), carray(out, 1)
    weight, bias = _native.array_at(tables, WEIGHT_AT, x), _native.array_at(tables, BIAS_AT, x)
    g, s = _native.geometry(tables), tables[SIZES_AT:]
    tiling = _Tiling(s[0] != 0, s[1], s[2], s[3], s[4] != 0)
    c_in, c_out = g.c_in // g.groups, g.c_out // g.groups
    width = tiling.phase_pixels
    pieces = ((g.ox + g.sx - 1) // g.sx + width - 1) // width
    bands = (g.oz * g.oy + tiling.rows - 1) // tiling.rows
    task, piece = divmod(task, pieces)
    task, band_index = divmod(task, bands)
    task, channel_block = divmod(task, (c_out + tiling.channels - 1) // tiling.channels)
    n, group = divmod(task, g.groups)

    co = channel_block * tiling.channels
    channels = min(tiling.channels, c_out - co)
    first_row = band_index * tiling.rows
    rows = min(tiling.rows, g.oz * g.oy - first_row)
    first_j = piece * width
    pixels = g.sx * width
    row_size = channels * pixels
    band = np.empty(rows * row_size, out.dtype)
    for row in range(rows):
        part = band[row * row_size : (row + 1) * row_size]
        _blocks.fill_block(part, tiling.over_pixels, channels, pixels, group * c_out + co, bias)
    in_plane = g.iz * g.iy * g.ix
    x_at = (n * g.c_in + group * c_in) * in_plane
    low, high = _blocks.input_reach(first_j, width, g.ix, g.kx, g.sx, g.px, g.dx)
    packed = np.empty(c_in * (high - low) if tiling.packs_row else 0, out.dtype)
    for i in range(g.iz * g.iy):
        iz, iy = divmod(i, g.iy)
        is_packed = False
        for tap_row in range(g.kz * g.ky):
            kz, ky = divmod(tap_row, g.ky)
            oz = iz * g.sz + kz * g.dz - g.pz
            oy = iy * g.sy + ky * g.dy - g.py
            row = oz * g.oy + oy - first_row
            if oz < 0 or oz >= g.oz or oy < 0 or oy >= g.oy or row < 0 or row >= rows:
                continue
            w_at = (group * g.kz * g.ky + tap_row) * g.kx * c_in * c_out + co
            if not tiling.packs_row:
                _stamp_row(g, tiling, band, row * row_size, x, x_at + i * g.ix, in_plane, weight, w_at, channels, first_j)
                continue
            if not is_packed:
                _blocks.pack_row(x, x_at + i * g.ix + low, in_plane, c_in, high - low, packed)
                is_packed = True
            _stamp_row(g, tiling, band, row * row_size, packed, -low, high - low, weight, w_at, channels, first_j)
    out_plane = g.oz * g.oy * g.ox
    out_at = (n * g.c_out + group * c_out + co) * out_plane + first_row * g.ox
    first = first_j * g.sx
    last = min(g.ox, first + pixels)
    for row in range(rows):
        _blocks.store_row(band, row * row_size, tiling.over_pixels, channels, pixels, width, g.sx,
                          out, out_at + row * g.ox, out_plane, first, last)  # fmt: skip


@variant(
    "scatter_add",
    title="scatter-add (stamps)",
    source=_SOURCE,
    color="#009E73",
    marker="^",
)
class ScatterAdd(Variant):
    """Each input pixel stamps its kernel."""

    def prepare(self, problem: Problem, weight: NDArray[Any], bias: NDArray[Any] | None) -> Any:
        g, t = problem.geometry, _tiling(problem)
        arrays = _blocks.pack_weight(problem, weight), _blocks.bias_or_zeros(problem, bias)
        return _native.work(_band_task, _tasks(g, t), g, t, problem.dtype, *arrays)

    def run(self, state: Any, x: NDArray[Any], out: NDArray[Any]) -> None:
        _native.run(state, x, out)

    def estimate(self, problem: Problem) -> float:
        g, t = problem.geometry, _tiling(problem)
        width = min(t.phase_pixels, g.ix)
        calls = g.n * g.c_out * problem.meetings / (t.channels * width)
        return _costs.of_products(problem, t, width, calls, g.c_in // g.groups, _tasks(g, t), RATES)

    def describe(self, problem: Problem) -> str:
        t = _tiling(problem)
        along = "the row" if t.over_pixels else "the channels"
        block = f"{t.channels} output channels, {t.rows} rows, {t.phase_pixels} pixels per phase"
        return f"{_tasks(problem.geometry, t)} tasks of {block}; vectors along {along}"

    def prepared_bytes(self, problem: Problem) -> int:
        return _blocks.packed_bytes(problem)

    def workspace_bytes(self, problem: Problem) -> int:
        g, t = problem.geometry, _tiling(problem)
        row = g.c_in // g.groups * min(g.ix, t.phase_pixels + g.kx * g.dx // g.sx + 1) if t.packs_row else 0
        return min(_blocks.threads(), _tasks(g, t)) * problem.itemsize * (t.channels * t.phase_pixels * g.sx * t.rows + row)


ATOMIC_BYTES = 32  # that an atomic addition costs of a cache's bandwidth: a sector
ATOMIC = 0  # given where the kernel is compiled


def _stamp(g, first_tap, taps, x, weight, out):
    """CUDA: add so many taps' stamps to ``out``, a thread per image, output channel, tap and input pixel."""
    c_out, c_in = divide(g.c_out, g.groups)[0], divide(g.c_in, g.groups)[0]
    plane, all_taps = g.iz * g.iy * g.ix, g.kz * g.ky * g.kx
    at, threads = cuda.grid(1), cuda.gridsize(1)
    while at < g.n * g.c_out * taps * plane:
        rest, pixel = divide(at, plane)
        rest, tap = divide(rest, taps)
        n, co = divide(rest, g.c_out)
        group, o = divide(co, c_out)
        tap += first_tap
        rest, kx = divide(tap, g.kx)
        kz, ky = divide(rest, g.ky)
        rest, ix = divide(pixel, g.ix)
        iz, iy = divide(rest, g.iy)
        oz, oy, ox = iz * g.sz + kz * g.dz - g.pz, iy * g.sy + ky * g.dy - g.py, ix * g.sx + kx * g.dx - g.px
        if 0 <= oz < g.oz and 0 <= oy < g.oy and 0 <= ox < g.ox:
            x_at = (n * g.c_in + group * c_in) * plane + pixel
            w_at = (group * c_in * c_out + o) * all_taps + tap
            total = REAL(0)
            for _ in range(c_in):
                total = fma(REAL(x[np.uint64(x_at)]), REAL(weight[np.uint64(w_at)]), total)
                x_at += plane
                w_at += c_out * all_taps
            to = ((n * g.c_out + co) * g.oz + oz) * g.oy * g.ox + oy * g.ox + ox
            if ATOMIC:
                add_atomically(out, np.uint64(to), total)
            else:
                out[np.uint64(to)] += total
        at += threads


def _fill(plane, channels, bias, out, size):
    """CUDA: every pixel at its channel's bias."""
    at, threads = cuda.grid(1), cuda.gridsize(1)
    while at < size:
        out[np.uint64(at)] = REAL(bias[divide(divide(at, plane)[0], channels)[1]])
        at += threads


FILL = Kernel(_fill, "i64 i64 T[] R[] i64")
STAMP, STAMP_ATOMICALLY = (
    Kernel(_stamp, "geometry i64 i64 T[] T[] R[]", constants=(("ATOMIC", atomic),), named=1) for atomic in (0, 1)
)


@variant("scatter_add", device="cuda")
class ScatterAddCuda(_cuda.CudaVariant):
    """All stamps at once, added atomically."""

    depends_on_run = True
    kernels = (FILL, STAMP_ATOMICALLY, _implicit_gemm.ADD_PARTS)

    def prepare(self, problem: Problem, weight: Any, bias: Any, stream: Any = 0) -> Any:
        return problem, _cuda.copied(weight, stream), _cuda.bias_or_zeros(problem, bias, stream)

    def run(self, state: Any, x: Any, out: Any, stream: Any = 0) -> None:
        problem, weight, bias = state
        x, out = _cuda.flat(x), _cuda.flat(out)
        sums = out if problem.dtype != "float16" else _cuda.empty(out.size, _cuda.real(problem.dtype), stream)
        FILL.stride_over(problem.dtype, out.size, stream, problem.out_pixels, problem.c_out, bias, sums, out.size)
        self._put_down(problem, x, weight, sums, stream)
        if sums is not out:
            _implicit_gemm.ADD_PARTS.stride_over(problem.dtype, out.size, stream, sums, out, out.size, 1)

    def estimate(self, problem: Problem) -> float:
        stamps = problem.batch * problem.c_out * problem.meetings
        return self._seconds(problem, 2 * ATOMIC_BYTES * stamps + problem.min_bytes)

    def _seconds(self, problem: Problem, moved: float) -> float:
        products, depth = _cuda.products(problem), problem.c_in // problem.groups
        return _tiles.LAUNCH + _tiles.seconds_of(problem, jit_cuda.processors(), products, 9, depth, moved)

    def _put_down(self, problem: Problem, x: Any, weight: Any, out: Any, stream: Any) -> None:
        # A launch counts its stamps with 32 bits.
        per_tap = problem.batch * problem.c_out * problem.in_pixels
        taps = min(problem.taps, _cuda.MOST_ELEMENTS // per_tap)
        for first in range(0, problem.taps, taps):
            count = min(taps, problem.taps - first)
            sizes = jit_cuda.sizes(problem.geometry)
            STAMP_ATOMICALLY.stride_over(problem.dtype, count * per_tap, stream, sizes, first, count, x, weight, out)

    def supports(self, problem: Problem) -> Literal[True] | str:
        answer = super().supports(problem)
        stamps = problem.batch * problem.c_out * problem.in_pixels
        if answer is True and stamps > _cuda.MOST_ELEMENTS:
            return f"a tap would have {stamps:,} stamps, more than {_cuda.MOST_ELEMENTS:,}; use method='direct'"
        return answer

    def prepared_bytes(self, problem: Problem) -> int:
        return problem.itemsize * (prod(problem.weight_shape) + problem.c_out)

    def workspace_bytes(self, problem: Problem) -> int:
        return 0 if problem.dtype != "float16" else _cuda.real_bytes(problem) * prod(problem.out_shape)


@variant(
    "scatter_add_deterministic",
    device="cuda",
    title="scatter-add, tap after tap",
    source=_SOURCE,
    color="#6A3D9A",
    marker="^",
)
class ScatterAddDeterministicCuda(ScatterAddCuda):
    """The stamps of one tap at a time."""

    depends_on_run = False
    kernels = (FILL, STAMP, _implicit_gemm.ADD_PARTS)

    def estimate(self, problem: Problem) -> float:
        stamps = problem.batch * problem.c_out * problem.meetings
        moved = 2 * _cuda.real_bytes(problem) * stamps + problem.min_bytes
        return problem.taps * _tiles.LAUNCH + self._seconds(problem, moved)

    def _put_down(self, problem: Problem, x: Any, weight: Any, out: Any, stream: Any) -> None:
        per_tap = problem.batch * problem.c_out * problem.in_pixels
        for tap in range(problem.taps):
            STAMP.stride_over(problem.dtype, per_tap, stream, jit_cuda.sizes(problem.geometry), tap, 1, x, weight, out)
