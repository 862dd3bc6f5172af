"""GEMM, then overlap-add: every stamp is computed into a column buffer first, then the columns are added up.

::

    cols[(o, k), i] = sum over c of weight[c, (o, k)] * x[c, i]                  one matrix product
    out[o, i*stride + k*dilation - pad] += cols[(o, k), i]                       col2im

Cost: ``2 * n * c_in * c_out / groups * taps * in_pixels`` operations in the best shape for a GEMM, plus writing and reading
``c_out * taps * in_pixels`` columns per image, which is what hurts where the kernel is large or the channels few. Columns of
several images are one product, so that a batch of small images fills the vectors. What Caffe, PyTorch's native path and ONNX
Runtime do. Where pixels are few, vectors run along (o, k) instead and the columns are added up strip by strip (``_columns``).

On CUDA the product is ``_implicit_gemm``'s, and each output is one thread's, which adds the columns of its phase's taps.

Source: Chellapilla et al., "High Performance Convolutional Neural Networks for Document Processing", 2006, transposed;
packing after Goto & van de Geijn, "Anatomy of High-Performance Matrix Multiplication", ACM TOMS 2008.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any, Literal, NamedTuple

import numpy as np
from numba import carray
from numpy.typing import NDArray

from tconv_bench import jit_cuda, simd, units
from tconv_bench.jit import kernel
from tconv_bench.jit_cuda import OUT, REAL, Kernel, cuda
from tconv_bench.problem import Problem
from tconv_bench.ptx import divide
from tconv_bench.registry import Variant, variant
from tconv_bench.simd import rank_k
from tconv_bench.variants import _blocks, _columns, _costs, _cuda, _implicit_gemm, _native, _tiles
from tconv_bench.variants._launch import BIAS_AT, WEIGHT_AT
from tconv_bench.variants._native import SIZES_AT, Work

CHUNK_BYTES = 64 * 2**20  # columns held at once; those of one image where they alone are more
MR = simd.MR
# Seconds per thread for the estimate: of both launches, a tile's cycle, a column byte written and read, a byte packed, a byte
# of output, and a slice of a row added. Fitted as direct's: times are off by a factor of 1.33 (geometric spread).
LAUNCH, CYCLE, COLUMN_BYTE, PACKED_BYTE, OUT_BYTE, SLICE = 9.5e-6, 3.8e-10, 2.6e-10, 1.4e-10, 4.9e-10, 2.2e-8


class _Tiling(NamedTuple):
    images: int  # images whose columns are held at once
    columns: int  # columns of a GEMM task, packed together
    panels: int  # panels of MR weight rows of a GEMM task


def _tiling(problem: Problem) -> _Tiling:
    g, size = problem.geometry, problem.itemsize
    rows = g.c_out // g.groups * problem.taps
    image = size * g.c_out * problem.taps * problem.in_pixels
    images = max(1, min(g.n, CHUNK_BYTES // image))
    columns = min(images * problem.in_pixels, simd.NV * simd.VECTOR_BYTES // size)
    panels = -(-rows // MR)
    column_tasks = g.groups * -(-images * problem.in_pixels // columns)
    # Splitting the rows packs the columns again: only while tasks are few and a part keeps at least 16 panels.
    parts = max(1, min(-(-64 // column_tasks), panels // 16))
    return _Tiling(images, columns, -(-panels // parts))


def _gemm_task(task, tables, x, cols):
    tables, x, cols = carray(tables, SIZES_AT + 4), carray(x, 1), carray(cols, 1)
    weight = _native.array_at(tables, WEIGHT_AT, x)
    g, s = _native.geometry(tables), tables[SIZES_AT:]
    images, tiling = s[0], _Tiling(s[1], s[2], s[3])
    c_in = g.c_in // g.groups
    rows = g.c_out // g.groups * g.kz * g.ky * g.kx
    pixels = g.iz * g.iy * g.ix
    all_columns = images * pixels
    panels = (rows + MR - 1) // MR
    task, part = divmod(task, (panels + tiling.panels - 1) // tiling.panels)
    group, block = divmod(task, (all_columns + tiling.columns - 1) // tiling.columns)

    first = block * tiling.columns
    count = min(tiling.columns, all_columns - first)
    packed = np.empty(c_in * count, x.dtype)
    done = 0
    while done < count:
        n, pixel = divmod(first + done, pixels)
        run = min(count - done, pixels - pixel)
        source = (n * g.c_in + group * c_in) * pixels + pixel
        for c in range(c_in):
            for j in range(run):
                packed[c * count + done + j] = x[source + c * pixels + j]
        done += run
    for panel in range(part * tiling.panels, min(panels, (part + 1) * tiling.panels)):
        row = panel * MR
        height = min(MR, rows - row)
        rank_k(height, count, c_in, weight, (group * rows + row) * c_in, 1, height, packed, 0, count,
               cols, (group * rows + row) * all_columns + first, all_columns, False)  # fmt: skip


@kernel
def _add_slice(to, to_at, source, source_at, count):
    for j in range(count):
        to[to_at + j] += source[source_at + j]


def _overlap_row(task, tables, cols, out):
    """One output row of one channel: its columns are added phase by phase, then interleaved."""
    tables, cols, out = carray(tables, SIZES_AT + 1), carray(cols, 1), carray(out, 1)
    bias = _native.array_at(tables, BIAS_AT, cols)
    g, images = _native.geometry(tables), tables[SIZES_AT]
    rest, oy = divmod(task, g.oy)
    rest, oz = divmod(rest, g.oz)
    n, co = divmod(rest, g.c_out)
    width = (g.ox + g.sx - 1) // g.sx
    row = np.empty(g.sx * width, out.dtype)
    row[:] = bias[co]
    pixels = g.iz * g.iy * g.ix
    for kz in range(g.kz):
        iz, off_phase = divmod(oz + g.pz - kz * g.dz, g.sz)
        if off_phase != 0 or iz < 0 or iz >= g.iz:
            continue
        for ky in range(g.ky):
            iy, off_phase = divmod(oy + g.py - ky * g.dy, g.sy)
            if off_phase != 0 or iy < 0 or iy >= g.iy:
                continue
            at = n * pixels + (iz * g.iy + iy) * g.ix
            for kx in range(g.kx):
                shift, phase = divmod(kx * g.dx - g.px, g.sx)
                first = max(0, -shift)
                count = min(g.ix, (g.ox - phase + g.sx - 1) // g.sx - shift) - first
                column = (((co * g.kz + kz) * g.ky + ky) * g.kx + kx) * images * pixels + at + first
                _add_slice(row, phase * width + first + shift, cols, column, count)
    _blocks.store_row(row, 0, True, 1, g.sx * width, width, g.sx, out, task * g.ox, 0, 0, g.ox)


def _pack_panels(problem: Problem, weight: NDArray[Any]) -> NDArray[Any]:
    """(C_in, C_out//g, *kernel) -> per group and panel of MR rows (o, k): ``[C_in//g][MR]``, the last panel narrower."""
    g = problem.groups
    rows = problem.c_out // g * problem.taps
    matrix = weight.reshape(g, problem.c_in // g, rows)
    whole = rows // MR * MR
    panels = matrix[:, :, :whole].reshape(g, problem.c_in // g, whole // MR, MR).transpose(0, 2, 1, 3)
    parts = [panels.reshape(g, -1), matrix[:, :, whole:].reshape(g, -1)]
    return np.concatenate(parts, axis=1).reshape(-1)


def _works(problem: Problem, t: _Tiling, images: int, weight: NDArray[Any], bias: NDArray[Any]) -> tuple[Work, Work]:
    """The matrix product of so many images, and the adding up of its columns."""
    g = problem.geometry
    panels = -(-(g.c_out // g.groups * problem.taps) // MR)
    tasks = g.groups * -(-images * problem.in_pixels // t.columns) * -(-panels // t.panels)
    gemm = _native.work(_gemm_task, tasks, g, (images, *t), problem.dtype, weight)
    return gemm, _native.work(_overlap_row, images * g.c_out * g.oz * g.oy, g, (images,), problem.dtype, bias=bias)


@variant(
    "col2im",
    title="GEMM + col2im",
    source="Chellapilla et al. 2006, transposed",
    color="#CC79A7",
    marker="D",
)
class Col2im(Variant):
    """One matrix product into columns, then overlap-add."""

    serves_strided = True

    def prepare(self, problem: Problem, weight: NDArray[Any], bias: NDArray[Any] | None) -> Any:
        if _columns.fits(problem):
            return _columns.work(problem, False, _columns.pack(problem, weight), _blocks.bias_or_zeros(problem, bias))
        t = _tiling(problem)
        arrays = _pack_panels(problem, weight), _blocks.bias_or_zeros(problem, bias)
        return problem, t, *_works(problem, t, t.images, *arrays)

    def run(self, state: Any, x: NDArray[Any], out: NDArray[Any]) -> None:
        if not (x.flags.c_contiguous and out.flags.c_contiguous):
            _blocks.run_plain(self, state, x, out)
            return
        if isinstance(state, Work):
            _native.run(state, x, out)
            return
        problem, t, gemm, add = state
        cols = np.empty(problem.c_out * problem.taps * t.images * problem.in_pixels, x.dtype)
        for first in range(0, problem.batch, t.images):
            part = x[first : first + t.images]
            if len(part) < t.images:
                gemm, add = _works(problem, t, len(part), gemm.weight, add.bias)
            _native.run(gemm, part, cols)
            _native.run(add, cols, out[first : first + t.images])

    def one_shot(
        self, problem: Problem, weight: NDArray[Any], bias: NDArray[Any] | None, x: NDArray[Any], out: NDArray[Any]
    ) -> None:
        if _columns.fits(problem):
            if bias is None:
                bias = np.zeros(problem.c_out, problem.dtype)
            self.run(_columns.work(problem, True, weight.reshape(-1), bias), x, out)
        else:
            super().one_shot(problem, weight, bias, x, out)

    def preparation_estimate(self, problem: Problem) -> float:
        if _columns.fits(problem):
            return _columns.seconds(problem, True) - _columns.seconds(problem, False)
        return super().preparation_estimate(problem)

    def estimate(self, problem: Problem) -> float:
        if _columns.fits(problem):
            return _columns.seconds(problem, False)
        g, t, size = problem.geometry, _tiling(problem), problem.itemsize
        rows, c_in = g.c_out // g.groups * problem.taps, g.c_in // g.groups
        parts = -(-(-(-rows // MR)) // t.panels)
        tasks = g.groups * parts * -(-t.images * problem.in_pixels // t.columns)
        chunks = -(-g.n // t.images)
        gemm = _costs.tile_cycles(min(MR * t.panels, rows), t.columns, c_in, size) * CYCLE
        gemm += c_in * t.columns * size * PACKED_BYTE
        columns = g.n * g.c_out * problem.taps * problem.in_pixels * size * COLUMN_BYTE
        slices = g.n * g.c_out * problem.meetings / g.ix * SLICE
        out = prod(problem.out_shape) * size * OUT_BYTE
        return chunks * (LAUNCH + _costs.busiest(tasks) * tasks * gemm) + (columns + slices + out) / _blocks.threads()

    def describe(self, problem: Problem) -> str:
        if _columns.fits(problem):
            return _columns.describe(problem)
        t = _tiling(problem)
        held = units.size(problem.c_out * problem.taps * t.images * problem.in_pixels * problem.itemsize)
        return f"columns of {t.images} of {problem.batch} images held at once ({held}); GEMM tasks of {t.columns} columns"

    def prepared_bytes(self, problem: Problem) -> int:
        if _columns.fits(problem):
            return _columns.prepared_bytes(problem) + problem.itemsize * problem.c_out
        return _blocks.packed_bytes(problem)

    def workspace_bytes(self, problem: Problem) -> int:
        if _columns.fits(problem):
            return _blocks.threads() * problem.itemsize * _columns.workspace_elements(problem)
        g, t = problem.geometry, _tiling(problem)
        columns = g.c_out * problem.taps * t.images * problem.in_pixels
        packed = g.c_in // g.groups * t.columns
        row = g.sx * -(-g.ox // g.sx)
        return problem.itemsize * (columns + _blocks.threads() * max(packed, row))


def _overlap_add(g, phases, cols, bias, out):
    """CUDA: one thread per output, which adds the columns that meet there."""
    plane, taps = g.iz * g.iy * g.ix, g.kz * g.ky * g.kx
    at, threads = cuda.grid(1), cuda.gridsize(1)
    while at < g.n * g.c_out * g.oz * g.oy * g.ox:
        rest, ox = divide(at, g.ox)
        rest, oy = divide(rest, g.oy)
        channel, oz = divide(rest, g.oz)
        jz, phase_z = divide(oz, g.sz)
        jy, phase_y = divide(oy, g.sy)
        jx, phase_x = divide(ox, g.sx)
        of_z, of_y, of_x = 6 + 2 * phase_z, 6 + 2 * (g.sz + phase_y), 6 + 2 * (g.sz + g.sy + phase_x)
        total = REAL(bias[divide(channel, g.c_out)[1]])
        kz, iz = np.int64(phases[of_z]), jz + phases[of_z + 1]
        while kz < g.kz:
            ky, iy = np.int64(phases[of_y]), jy + phases[of_y + 1]
            while ky < g.ky and 0 <= iz < g.iz:
                kx, ix = np.int64(phases[of_x]), jx + phases[of_x + 1]
                while kx < g.kx and 0 <= iy < g.iy:
                    if 0 <= ix < g.ix:
                        column = channel * taps + (kz * g.ky + ky) * g.kx + kx
                        total += cols[np.uint64(column * plane + (iz * g.iy + iy) * g.ix + ix)]
                    kx, ix = kx + phases[4], ix - phases[5]
                ky, iy = ky + phases[2], iy - phases[3]
            kz, iz = kz + phases[0], iz - phases[1]
        out[np.uint64(at)] = OUT(total)
        at += threads


OVERLAP_ADD = Kernel(_overlap_add, "geometry i32[] R[] T[] T[]")


def _product(problem: Problem) -> Problem:
    """The product of one chunk of images as a 1x1 convolution with c_out * taps channels: its output is the columns."""
    image = _cuda.real_bytes(problem) * problem.c_out * problem.taps * problem.in_pixels
    images = max(1, min(problem.batch, _cuda.CHUNK_BYTES // image))
    return Problem(
        images, problem.c_in, problem.in_size, problem.c_out * problem.taps, 1, groups=problem.groups, dtype=problem.dtype
    )


@variant("col2im", device="cuda")
class Col2imCuda(_cuda.CudaVariant):
    """The tiled product into columns, then overlap-add by the output's side."""

    kernels = (*_implicit_gemm.ALL, _implicit_gemm.ADD_PARTS_WIDE, OVERLAP_ADD)

    def supports(self, problem: Problem) -> Literal[True] | str:
        answer = super().supports(problem)
        return super().supports(_product(problem)) if answer is True else answer

    def prepare(self, problem: Problem, weight: Any, bias: Any, stream: Any = 0) -> Any:
        gemm = _product(problem)
        zeros = _cuda.bias_or_zeros(gemm, None, stream)
        phases = _cuda.on_device(_cuda.phase_taps(problem), stream)
        product = _implicit_gemm.prepare(gemm, weight, zeros, stream)
        return problem, product, phases, _cuda.bias_or_zeros(problem, bias, stream)

    def estimate(self, problem: Problem) -> float:
        gemm = _product(problem)
        columns = prod(gemm.out_shape) * _cuda.real_bytes(problem)
        added = problem.batch * problem.c_out * problem.meetings
        each = _tiles.seconds_of(problem, jit_cuda.processors(), added, 9, problem.taps, 2 * columns)
        return -(-problem.batch // gemm.batch) * (_implicit_gemm.estimate(gemm) + each) if problem.batch else _tiles.LAUNCH

    def run(self, state: Any, x: Any, out: Any, stream: Any = 0) -> None:
        problem, product, phases, bias = state
        gemm = product.problem
        cols = _cuda.empty(prod(gemm.out_shape), _cuda.real(problem.dtype), stream)
        for images, part, target in _cuda.chunks(problem, x, out, gemm.batch):
            _implicit_gemm.run(product._replace(problem=replace(gemm, batch=images)), part, cols, stream, wide=True)
            g = jit_cuda.sizes(replace(problem, batch=images).geometry)
            OVERLAP_ADD.stride_over(problem.dtype, target.size, stream, g, phases, cols, bias, target)

    def prepared_bytes(self, problem: Problem) -> int:
        return _implicit_gemm.prepared_bytes(_product(problem)) + problem.itemsize * problem.c_out

    def workspace_bytes(self, problem: Problem) -> int:
        product = _product(problem)
        return _cuda.real_bytes(problem) * prod(product.out_shape) + _implicit_gemm.workspace_bytes(product)
