"""The convolution matrix, transposed: ``out = C.T @ x``.

C is the matrix of the ordinary convolution whose gradient the layer computes, over all channels: (c_in * in_pixels) x
(c_out * out_pixels), one entry per useful product. ``C.T`` is kept as a CSR array, so that each thread owns output rows: no
race, no atomics, and the same sums on any number of threads. Up to 8 images share one pass over the entries.

Cost: the useful products at one multiply-add per entry, and 8 bytes (float32 value and 32-bit column) read for each, which
is what bounds it: the matrix of a U-Net layer has 10^8 entries and more. Building it is reported apart (``prepare``), its
bytes as ``prepared_bytes``. The pattern depends on the problem alone and is cached per problem; the values are filled anew
for each weight.

On CUDA the matrix is filled and kept on the device; the lanes of a warp share a row's entries, and add up in shared memory, in
one order. Four images share one pass.

Source: Dumoulin & Visin, arXiv:1603.07285, section 4.1; the first background text's ``C.T @ x2``.
"""

from __future__ import annotations

import math
from functools import cache
from math import prod
from typing import Any, Literal

import numpy as np
from numba import carray
from numpy.typing import NDArray

from tconv_bench import jit_cuda
from tconv_bench.convolution_matrix import entries, forget_patterns, index_dtype, row_pointers, transposed_matrix
from tconv_bench.jit_cuda import OUT, REAL, Kernel, cuda
from tconv_bench.problem import Problem
from tconv_bench.ptx import divide, fma, shared
from tconv_bench.registry import Variant, variant
from tconv_bench.simd import as_pointer
from tconv_bench.variants import _blocks, _cuda, _native, _tiles
from tconv_bench.variants._launch import BIAS_AT
from tconv_bench.variants._native import SIZES_AT

LIMIT_BYTES = 2 * 2**30
# Seconds per thread for the estimate: of a launch, a byte of the matrix, a byte of output. Fitted to the 71 rows of
# reports/zen4-2core (two threads): times are off by a factor of 1.36 (geometric spread).
LAUNCH, MATRIX_BYTE, OUT_BYTE = 4.0e-6, 1.7e-10, 2.9e-9
IMAGES = 8  # images of one pass over the entries: their sums stay in registers
ROWS = 64  # of a task


def _rows_of_one(task, tables, x, out):
    tables, x, out = carray(tables, SIZES_AT + 5), carray(x, 1), carray(out, 1)
    s, bias = tables[SIZES_AT:], _native.array_at(tables, BIAS_AT, x)
    indptr, indices = carray(as_pointer(s[2]), 1, dtype=np.int32), carray(as_pointer(s[3]), 1, dtype=np.int32)
    data = carray(as_pointer(s[4]), 1, dtype=x.dtype)
    for r in range(task * ROWS, min(s[0], (task + 1) * ROWS)):
        # Four chains hide the multiply-add's latency; vector gathers of x ran at half the speed of scalar loads.
        s0, s1, s2, s3 = bias[r // s[1]], x.dtype.type(0), x.dtype.type(0), x.dtype.type(0)
        at, end = np.int64(indptr[r]), np.int64(indptr[r + 1])
        while at + 4 <= end:
            s0 += data[at] * x[indices[at]]
            s1 += data[at + 1] * x[indices[at + 1]]
            s2 += data[at + 2] * x[indices[at + 2]]
            s3 += data[at + 3] * x[indices[at + 3]]
            at += 4
        while at < end:
            s0 += data[at] * x[indices[at]]
            at += 1
        out[r] = (s0 + s1) + (s2 + s3)


def _rows_of_eight(task, tables, x, out):
    """Rows times the eight images that stand side by side in x (columns, 8)."""
    tables, x, out = carray(tables, SIZES_AT + 5), carray(x, 1), carray(out, 1)
    s, bias = tables[SIZES_AT:], _native.array_at(tables, BIAS_AT, x)
    indptr, indices = carray(as_pointer(s[2]), 1, dtype=np.int32), carray(as_pointer(s[3]), 1, dtype=np.int32)
    data = carray(as_pointer(s[4]), 1, dtype=x.dtype)
    for r in range(task * ROWS, min(s[0], (task + 1) * ROWS)):
        s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = bias[r // s[1]]
        for at in range(np.int64(indptr[r]), np.int64(indptr[r + 1])):
            value, column = data[at], np.int64(indices[at]) * IMAGES
            s0 += value * x[column]
            s1 += value * x[column + 1]
            s2 += value * x[column + 2]
            s3 += value * x[column + 3]
            s4 += value * x[column + 4]
            s5 += value * x[column + 5]
            s6 += value * x[column + 6]
            s7 += value * x[column + 7]
        to = r * IMAGES
        out[to], out[to + 1], out[to + 2], out[to + 3] = s0, s1, s2, s3
        out[to + 4], out[to + 5], out[to + 6], out[to + 7] = s4, s5, s6, s7


def _matrix_bytes(problem: Problem) -> int:
    index = index_dtype(problem).itemsize
    return entries(problem) * (problem.itemsize + index) + (problem.c_out * problem.out_pixels + 1) * index


def _has_room(problem: Problem) -> Literal[True] | str:
    size = _matrix_bytes(problem)
    if size <= LIMIT_BYTES:
        return True
    return (
        f"the convolution matrix would take {size / 2**30:.3g} GiB ({entries(problem):,} entries), more than the limit of "
        f"{LIMIT_BYTES / 2**30:g} GiB; use method='col2im', which needs no matrix"
    )


def _side_by_side(problem: Problem) -> bool:
    """Whether images are taken eight at a time; two and more already gain by one pass over the entries."""
    return problem.batch > 1


@variant(
    "matmul",
    title="sparse matrix C.T @ x",
    source="Dumoulin & Visin 2016, section 4.1",
    color="#D55E00",
    marker="v",
)
class Matmul(Variant):
    """The transposed convolution matrix times the input."""

    def supports(self, problem: Problem) -> Literal[True] | str:
        answer = super().supports(problem)
        return _has_room(problem) if answer is True else answer

    def prepare(self, problem: Problem, weight: NDArray[Any], bias: NDArray[Any] | None) -> Any:
        matrix, bias = transposed_matrix(problem, weight), _blocks.bias_or_zeros(problem, bias)
        rows = matrix.shape[0]
        # within LIMIT_BYTES there are fewer than 2^31 entries: their indices have 32 bits
        addresses = (array.ctypes.data for array in (matrix.indptr, matrix.indices, matrix.data))
        task = _rows_of_eight if _side_by_side(problem) else _rows_of_one
        sizes = rows, problem.out_pixels, *addresses
        return problem, matrix, _native.work(task, -(-rows // ROWS), problem.geometry, sizes, problem.dtype, bias=bias)

    def forget(self) -> None:
        forget_patterns()

    def run(self, state: Any, x: NDArray[Any], out: NDArray[Any]) -> None:
        problem, matrix, work = state
        rows, columns = matrix.shape
        if not _side_by_side(problem):
            for n in range(problem.batch):
                _native.run(work, x[n], out[n])
            return
        images = np.zeros((columns, IMAGES), x.dtype)
        results = np.empty((rows, IMAGES), x.dtype)
        for first in range(0, problem.batch, IMAGES):
            part = x[first : first + IMAGES].reshape(-1, columns)
            images[:, : len(part)] = part.T
            _native.run(work, images, results)
            out[first : first + IMAGES].reshape(len(part), rows)[...] = results[:, : len(part)].T

    def preparation_estimate(self, problem: Problem) -> float:
        return math.inf

    def estimate(self, problem: Problem) -> float:
        passes = -(-problem.batch // IMAGES)
        out = prod(problem.out_shape) * problem.itemsize * OUT_BYTE
        return LAUNCH + (passes * _matrix_bytes(problem) * MATRIX_BYTE + out) / _blocks.threads()

    def describe(self, problem: Problem) -> str:
        return f"{entries(problem)} entries, read once for {IMAGES if _side_by_side(problem) else 1} images"

    def prepared_bytes(self, problem: Problem) -> int:
        return _matrix_bytes(problem) + problem.itemsize * problem.c_out

    def workspace_bytes(self, problem: Problem) -> int:
        if not _side_by_side(problem):
            return 0
        pixels = problem.c_in * problem.in_pixels + problem.c_out * problem.out_pixels
        return problem.itemsize * IMAGES * pixels


LANES, WARPS, PARTIALS = 32, 8, 1024  # of a block; given anew where a kernel is compiled for the simulator
CUDA_IMAGES = 4


def _fill_csr(g, phases, indptr, weight, indices, data, rows):
    """CUDA: columns and values of the transposed matrix, a thread per row; within a channel in the order of the taps."""
    c_out, c_in = divide(g.c_out, g.groups)[0], divide(g.c_in, g.groups)[0]
    plane, taps = g.iz * g.iy * g.ix, g.kz * g.ky * g.kx
    r, threads = cuda.grid(1), cuda.gridsize(1)
    while r < rows:
        rest, ox = divide(r, g.ox)
        rest, oy = divide(rest, g.oy)
        co, oz = divide(rest, g.oz)
        group, o = divide(co, c_out)
        jz, phase_z = divide(oz, g.sz)
        jy, phase_y = divide(oy, g.sy)
        jx, phase_x = divide(ox, g.sx)
        of_z, of_y, of_x = 6 + 2 * phase_z, 6 + 2 * (g.sz + phase_y), 6 + 2 * (g.sz + g.sy + phase_x)
        at = np.int64(indptr[r])
        for c in range(group * c_in, (group + 1) * c_in):
            kz, iz = np.int64(phases[of_z]), jz + phases[of_z + 1]
            while kz < g.kz:
                ky, iy = np.int64(phases[of_y]), jy + phases[of_y + 1]
                while ky < g.ky and 0 <= iz < g.iz:
                    kx, ix = np.int64(phases[of_x]), jx + phases[of_x + 1]
                    while kx < g.kx and 0 <= iy < g.iy:
                        if 0 <= ix < g.ix:
                            indices[np.uint64(at)] = c * plane + (iz * g.iy + iy) * g.ix + ix
                            data[np.uint64(at)] = weight[np.uint64((c * c_out + o) * taps + (kz * g.ky + ky) * g.kx + kx)]
                            at += 1
                        kx, ix = kx + phases[4], ix - phases[5]
                    ky, iy = ky + phases[2], iy - phases[3]
                kz, iz = kz + phases[0], iz - phases[1]
        r += threads


def _spmm(indptr, indices, data, bias, x, out, rows, columns, row_pixels, images):
    """CUDA: CSR rows times up to four images (images, columns), LANES threads per row, WARPS rows per block at a time."""
    partial = shared(PARTIALS, REAL)  # [warp][image][lane]
    warp, lane = divide(cuda.threadIdx.x, LANES)
    step = cuda.gridDim.x * WARPS
    for first in range(cuda.blockIdx.x * WARPS, rows, step):
        r = first + warp
        s0 = s1 = s2 = s3 = REAL(0)
        if r < rows:
            at, end = np.int64(indptr[r]) + lane, np.int64(indptr[r + 1])
            while at < end:
                value, column = REAL(data[np.uint64(at)]), np.uint64(indices[np.uint64(at)])
                s0 = fma(value, REAL(x[column]), s0)
                if images > 1:
                    s1 = fma(value, REAL(x[column + np.uint64(columns)]), s1)
                if images > 2:
                    s2 = fma(value, REAL(x[column + np.uint64(2 * columns)]), s2)
                if images > 3:
                    s3 = fma(value, REAL(x[column + np.uint64(3 * columns)]), s3)
                at += LANES
        to = warp * 4 * LANES + lane
        partial[to], partial[to + LANES], partial[to + 2 * LANES], partial[to + 3 * LANES] = s0, s1, s2, s3
        cuda.syncthreads()
        if r < rows:
            for image in range(lane, images, LANES):
                total = REAL(bias[divide(r, row_pixels)[0]])
                for i in range(LANES):
                    total += partial[(warp * 4 + image) * LANES + i]
                out[image * rows + r] = OUT(total)
        cuda.syncthreads()


FILL_CSR = Kernel(_fill_csr, "geometry i32[] i32[] T[] i32[] T[] i64")
SPMM = Kernel(
    _spmm, "i32[] i32[] T[] T[] T[] T[] i64 i64 i64 i64", LANES * WARPS,
    (("LANES", LANES), ("WARPS", WARPS), ("PARTIALS", PARTIALS)),
)  # fmt: skip
SIMULATED_SPMM = Kernel(_spmm, SPMM.arguments, 4, (("LANES", 2), ("WARPS", 2), ("PARTIALS", 16)))
SPMM_BLOCKS = 132 * 8  # eight for each processor of an H100: each then takes rows a grid apart


@cache
def _pointers(problem: Problem) -> NDArray[np.int32]:
    return row_pointers(problem).astype(np.int32)


@variant("matmul", device="cuda")
class MatmulCuda(_cuda.CudaVariant):
    """The matrix in CSR on the device, times the images."""

    kernels = (FILL_CSR, SPMM)

    def supports(self, problem: Problem) -> Literal[True] | str:
        answer = super().supports(problem)
        return _has_room(problem) if answer is True else answer

    def forget(self) -> None:
        _pointers.cache_clear()

    def prepare(self, problem: Problem, weight: Any, bias: Any, stream: Any = 0) -> Any:
        indptr = _cuda.on_device(_pointers(problem), stream)
        indices = _cuda.empty(entries(problem), "int32", stream)
        data = _cuda.empty(entries(problem), problem.dtype, stream)
        phases = _cuda.on_device(_cuda.phase_taps(problem), stream)
        rows, sizes = problem.c_out * problem.out_pixels, jit_cuda.sizes(problem.geometry)
        FILL_CSR.stride_over(problem.dtype, rows, stream, sizes, phases, indptr, _cuda.flat(weight), indices, data, rows)
        return problem, indptr, indices, data, _cuda.bias_or_zeros(problem, bias, stream)

    def estimate(self, problem: Problem) -> float:
        passes = -(-problem.batch // CUDA_IMAGES)
        products = passes * min(problem.batch, CUDA_IMAGES) * entries(problem)
        moved = passes * _matrix_bytes(problem) + problem.min_bytes
        chain = -(-_cuda.depth(problem) // LANES)
        once = _tiles.seconds_of(problem, jit_cuda.processors(), products, 6, chain, moved)
        return once + (passes - 1) * _tiles.LAUNCH

    def run(self, state: Any, x: Any, out: Any, stream: Any = 0) -> None:
        problem, indptr, indices, data, bias = state
        rows, columns = problem.c_out * problem.out_pixels, problem.c_in * problem.in_pixels
        spmm, blocks = (SIMULATED_SPMM, 1) if jit_cuda.simulated() else (SPMM, SPMM_BLOCKS)
        blocks = min(blocks, -(-rows // WARPS))
        for images, part, target in _cuda.chunks(problem, x, out, CUDA_IMAGES):
            sizes = rows, columns, problem.out_pixels, images
            spmm.launch(problem.dtype, blocks, stream, indptr, indices, data, bias, part, target, *sizes)

    def prepared_bytes(self, problem: Problem) -> int:
        return _matrix_bytes(problem) + problem.itemsize * problem.c_out

    def workspace_bytes(self, problem: Problem) -> int:
        return 0
