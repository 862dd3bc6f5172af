"""The convolution matrix, transposed: ``out = C.T @ x``.

C is the matrix of the ordinary convolution whose gradient the layer computes, over all channels: (c_in * in_pixels) x
(c_out * out_pixels), one entry per useful product. ``C.T`` is kept as a CSR array, so that each thread owns output rows: no
race, no atomics, and the same sums on any number of threads. Up to 8 images share one pass over the entries.

Cost: the useful products at one multiply-add per entry, and 8 bytes (float32 value and 32-bit column) read for each, which
is what bounds it: the matrix of a U-Net layer has 10^8 entries and more. Building it is reported apart (``prepare``), its
bytes as ``prepared_bytes``. The pattern depends on the problem alone and is cached per problem; the values are filled anew
for each weight.

Source: Dumoulin & Visin, arXiv:1603.07285, section 4.1; the first background text's ``C.T @ x2``.
"""

from __future__ import annotations

import math
from math import prod
from typing import Any, Literal

import numpy as np
from numba import carray
from numpy.typing import NDArray

from tconv_bench.convolution_matrix import entries, forget_patterns, index_dtype, transposed_matrix
from tconv_bench.problem import Problem
from tconv_bench.registry import Variant, variant
from tconv_bench.simd import as_pointer
from tconv_bench.variants import _blocks, _native
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
        size = _matrix_bytes(problem)
        if size <= LIMIT_BYTES:
            return True
        return (
            f"the convolution matrix would take {size / 2**30:.3g} GiB ({entries(problem):,} entries), more than the limit of "
            f"{LIMIT_BYTES / 2**30:g} GiB; use method='col2im', which needs no matrix"
        )

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
