"""Gather: each output pixel collects the taps of its own phase, and nothing else.

::

    out[o, q] = bias[o] + sum over k with (q + pad - k*dilation) % stride == 0, and over c, of
                x[c, (q + pad - k*dilation) // stride] * weight[c, o, k]

Cost: exactly the useful products (``Problem.flops``), each output row written once, no buffer but one block of partial sums
per thread. Each task owns a piece of one output row for a block of output channels and adds tap after tap, a small matrix
product over the input channels whose contiguous axis runs along the row (or along the channels where rows are short).

Source: Dumoulin & Visin, arXiv:1603.07285, section 4.6 read from the output's side; the phase of an output pixel is the
polyphase component of Vaidyanathan, "Multirate Systems and Filter Banks", 1993, section 4.3.

On CUDA each output is one thread's; neighbouring threads write neighbouring pixels and read the same weights per phase.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import numpy as np
from numba import carray
from numpy.typing import NDArray

from tconv_bench import jit_cuda
from tconv_bench.jit_cuda import OUT, REAL, Kernel, cuda
from tconv_bench.problem import Geometry, Problem
from tconv_bench.ptx import divide, fma
from tconv_bench.registry import Variant, variant
from tconv_bench.simd import rank_k
from tconv_bench.variants import _blocks, _costs, _cuda, _native, _tiles
from tconv_bench.variants._launch import BIAS_AT, WEIGHT_AT
from tconv_bench.variants._native import SIZES_AT

# Fitted to the planned hot rows of reports/zen4-2core-comparison and the rows of reports/zen4-2core (105 problems, 2 threads),
# together with scatter_add's and col2im's so that the ranking counts: off by a factor of 1.42 (geometric spread).
RATES = _costs.Rates(launch=3.0e-6, cycle=4.2e-10, weight_byte=1.7e-11, out_byte=4.8e-10)


class _Tiling(NamedTuple):
    over_pixels: bool
    channels: int  # output channels of a task
    phase_pixels: int  # pixels per phase of a task
    packs_row: bool


def _tiling(problem: Problem) -> _Tiling:
    g, size = problem.geometry, problem.itemsize
    c_out = g.c_out // g.groups
    row = -(-g.ox // g.sx)
    over_pixels = _blocks.vectors_over_pixels(min(row, g.ix), c_out, size)
    channels = min(c_out, 24 if over_pixels else 256 // size)
    other_tasks = g.n * g.groups * -(-c_out // channels) * g.oz * g.oy
    width = _blocks.cut_row(row, _blocks.BLOCK_BYTES // (size * channels * g.sx), other_tasks)
    packs = _blocks.packs_row(over_pixels, channels, g.c_in // g.groups, g.kx, size * problem.in_pixels)
    return _Tiling(over_pixels, channels, width, packs)


def _tasks(g: Geometry, t: _Tiling) -> int:
    pieces = -(-(-(-g.ox // g.sx)) // t.phase_pixels)
    return g.n * g.groups * -(-(g.c_out // g.groups) // t.channels) * g.oz * g.oy * pieces


def _row_task(task, tables, x, out):
    tables, x, out = carray(tables, SIZES_AT + 4), carray(x, 1), carray(out, 1)
    weight, bias = _native.array_at(tables, WEIGHT_AT, x), _native.array_at(tables, BIAS_AT, x)
    g, s = _native.geometry(tables), tables[SIZES_AT:]
    tiling = _Tiling(s[0] != 0, s[1], s[2], s[3] != 0)
    c_in, c_out = g.c_in // g.groups, g.c_out // g.groups
    channel_blocks = (c_out + tiling.channels - 1) // tiling.channels
    width = tiling.phase_pixels
    pieces = ((g.ox + g.sx - 1) // g.sx + width - 1) // width
    task, piece = divmod(task, pieces)
    task, oy = divmod(task, g.oy)
    task, oz = divmod(task, g.oz)
    task, channel_block = divmod(task, channel_blocks)
    n, group = divmod(task, g.groups)

    co = channel_block * tiling.channels
    channels = min(tiling.channels, c_out - co)
    first_j = piece * width
    pixels = g.sx * width
    in_plane = g.iz * g.iy * g.ix
    x_at = (n * g.c_in + group * c_in) * in_plane
    block = np.empty(channels * pixels, out.dtype)
    _blocks.fill_block(block, tiling.over_pixels, channels, pixels, group * c_out + co, bias)
    low, high = _blocks.input_reach(first_j, width, g.ix, g.kx, g.sx, g.px, g.dx)
    row = np.empty(c_in * (high - low) if tiling.packs_row else 0, out.dtype)
    for kz in range(g.kz):
        iz, off_phase = divmod(oz + g.pz - kz * g.dz, g.sz)
        if off_phase != 0 or iz < 0 or iz >= g.iz:
            continue
        for ky in range(g.ky):
            iy, off_phase = divmod(oy + g.py - ky * g.dy, g.sy)
            if off_phase != 0 or iy < 0 or iy >= g.iy:
                continue
            row_at = x_at + (iz * g.iy + iy) * g.ix
            if tiling.packs_row:
                _blocks.pack_row(x, row_at + low, in_plane, c_in, high - low, row)
            for kx in range(g.kx):
                # input pixel i reaches element i + shift of the tap's phase
                shift, phase = divmod(kx * g.dx - g.px, g.sx)
                phase_end = min(first_j + width, (g.ox - phase + g.sx - 1) // g.sx)
                first_i = max(0, first_j - shift)
                count = min(g.ix, phase_end - shift) - first_i
                if count <= 0:
                    continue
                j = phase * width + first_i + shift - first_j
                tap_at = ((group * g.kz + kz) * g.ky + ky) * g.kx + kx
                w_at = tap_at * c_in * c_out + co
                if tiling.packs_row:
                    rank_k(channels, count, c_in, weight, w_at, 1, c_out, row, first_i - low, high - low,
                           block, j, pixels, True)  # fmt: skip
                elif tiling.over_pixels:
                    rank_k(channels, count, c_in, weight, w_at, 1, c_out, x, row_at + first_i, in_plane, block, j, pixels, True)
                else:
                    rank_k(count, channels, c_in, x, row_at + first_i, 1, in_plane, weight, w_at, c_out,
                           block, j * channels, channels, True)  # fmt: skip
    out_at = (((n * g.c_out + group * c_out + co) * g.oz + oz) * g.oy + oy) * g.ox
    first = first_j * g.sx
    last = min(g.ox, first + pixels)
    _blocks.store_row(block, 0, tiling.over_pixels, channels, pixels, width, g.sx, out, out_at, g.oz * g.oy * g.ox, first, last)


@variant(
    "direct",
    title="gather (direct)",
    source="Dumoulin & Visin 2016, section 4.6, from the output's side",
    color="#0072B2",
    marker="o",
)
class Direct(Variant):
    """Each output pixel collects its taps."""

    def prepare(self, problem: Problem, weight: NDArray[Any], bias: NDArray[Any] | None) -> Any:
        g, t = problem.geometry, _tiling(problem)
        arrays = _blocks.pack_weight(problem, weight), _blocks.bias_or_zeros(problem, bias)
        return _native.work(_row_task, _tasks(g, t), g, t, problem.dtype, *arrays)

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
        block = f"{t.channels} output channels, {t.phase_pixels} pixels per phase"
        return f"{_tasks(problem.geometry, t)} tasks of {block}; vectors along {along}"

    def prepared_bytes(self, problem: Problem) -> int:
        return _blocks.packed_bytes(problem)

    def workspace_bytes(self, problem: Problem) -> int:
        g, t = problem.geometry, _tiling(problem)
        row = g.c_in // g.groups * min(g.ix, t.phase_pixels + g.kx * g.dx // g.sx + 1) if t.packs_row else 0
        return min(_blocks.threads(), _tasks(g, t)) * problem.itemsize * (t.channels * t.phase_pixels * g.sx + row)


def _gather(g, phases, x, weight, bias, out):
    """CUDA: one thread per output, which visits the taps of its phase."""
    c_out, c_in = divide(g.c_out, g.groups)[0], divide(g.c_in, g.groups)[0]
    plane, taps = g.iz * g.iy * g.ix, g.kz * g.ky * g.kx
    at, threads = cuda.grid(1), cuda.gridsize(1)
    while at < g.n * g.c_out * g.oz * g.oy * g.ox:
        rest, ox = divide(at, g.ox)
        rest, oy = divide(rest, g.oy)
        rest, oz = divide(rest, g.oz)
        n, co = divide(rest, g.c_out)
        group, o = divide(co, c_out)
        jz, phase_z = divide(oz, g.sz)
        jy, phase_y = divide(oy, g.sy)
        jx, phase_x = divide(ox, g.sx)
        of_z, of_y, of_x = 6 + 2 * phase_z, 6 + 2 * (g.sz + phase_y), 6 + 2 * (g.sz + g.sy + phase_x)
        total = REAL(bias[co])
        kz, iz = np.int64(phases[of_z]), jz + phases[of_z + 1]
        while kz < g.kz:
            ky, iy = np.int64(phases[of_y]), jy + phases[of_y + 1]
            while ky < g.ky and 0 <= iz < g.iz:
                kx, ix = np.int64(phases[of_x]), jx + phases[of_x + 1]
                while kx < g.kx and 0 <= iy < g.iy:
                    if 0 <= ix < g.ix:
                        x_at = (n * g.c_in + group * c_in) * plane + (iz * g.iy + iy) * g.ix + ix
                        w_at = (group * c_in * c_out + o) * taps + (kz * g.ky + ky) * g.kx + kx
                        for _ in range(c_in):
                            total = fma(REAL(x[np.uint64(x_at)]), REAL(weight[np.uint64(w_at)]), total)
                            x_at += plane
                            w_at += c_out * taps
                    kx, ix = kx + phases[4], ix - phases[5]
                ky, iy = ky + phases[2], iy - phases[3]
            kz, iz = kz + phases[0], iz - phases[1]
        out[np.uint64(at)] = OUT(total)
        at += threads


GATHER = Kernel(_gather, "geometry i32[] T[] T[] T[] T[]")


@variant("direct", device="cuda")
class DirectCuda(_cuda.CudaVariant):
    """One thread per output."""

    kernels = (GATHER,)

    def prepare(self, problem: Problem, weight: Any, bias: Any, stream: Any = 0) -> Any:
        return self._state(problem, _cuda.copied(weight, stream), _cuda.bias_or_zeros(problem, bias, stream), stream)

    def one_shot(self, problem: Problem, weight: Any, bias: Any, x: Any, out: Any, stream: Any = 0) -> None:
        own_bias = _cuda.bias_or_zeros(problem, None, stream) if bias is None else bias
        self.run(self._state(problem, _cuda.flat(weight), own_bias, stream), x, out, stream)

    def _state(self, problem: Problem, weight: Any, bias: Any, stream: Any) -> Any:
        phases = _cuda.on_device(_cuda.phase_taps(problem), stream)
        return problem, phases, weight, bias

    def estimate(self, problem: Problem) -> float:
        products, depth = _cuda.products(problem), _cuda.depth(problem)
        return _tiles.seconds_of(problem, jit_cuda.processors(), products, 9, depth, problem.min_bytes)

    def run(self, state: Any, x: Any, out: Any, stream: Any = 0) -> None:
        problem, phases, weight, bias = state
        arrays = _cuda.flat(x), weight, bias, _cuda.flat(out)
        outputs = prod(problem.out_shape)
        GATHER.stride_over(problem.dtype, outputs, stream, jit_cuda.sizes(problem.geometry), phases, *arrays)

    def prepared_bytes(self, problem: Problem) -> int:
        return _blocks.packed_bytes(problem) + 4 * _cuda.phase_taps(problem).size

    def workspace_bytes(self, problem: Problem) -> int:
        return 0
