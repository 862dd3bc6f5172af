"""The convolution as a matrix: ``C @ x`` convolves, ``C.T @ y`` is the transposed convolution.

Row r of C holds the kernel at the input pixels that output pixel r of the convolution reads; all pixels are numbered in C
order. Every tap that lies inside the input is an entry, also where its weight is zero, so that the pattern depends on the
shapes alone and a NaN reaches exactly the sums it belongs to.

Source: Dumoulin & Visin, arXiv:1603.07285, section 4.1.
"""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from numba import carray
from numpy.typing import ArrayLike, NDArray

from tconv_bench.conv import checked_array
from tconv_bench.problem import Geometry, Problem, kernel_dtype, padding_pairs, per_axis
from tconv_bench.simd import as_pointer
from tconv_bench.variants import _native
from tconv_bench.variants._native import SIZES_AT


def _fill_row(r, tables, weight, data):
    """Values of one row of the matrix; its columns too where the tables say so, as 32 or 64-bit integers."""
    tables, weight, data = carray(tables, SIZES_AT + 4), carray(weight, 1), carray(data, 1)
    g, s = _native.geometry(tables), tables[SIZES_AT:]
    fills_indices, wide = s[2] != 0, s[3] != 0
    indptr, wide_indptr = carray(as_pointer(s[0]), 1, dtype=np.int32), carray(as_pointer(s[0]), 1, dtype=np.int64)
    indices, wide_indices = carray(as_pointer(s[1]), 1, dtype=np.int32), carray(as_pointer(s[1]), 1, dtype=np.int64)
    c_in, c_out = g.c_in // g.groups, g.c_out // g.groups
    taps = g.kz * g.ky * g.kx
    rest, ox = divmod(r, g.ox)
    rest, oy = divmod(rest, g.oy)
    co, oz = divmod(rest, g.oz)
    group, o = divmod(co, c_out)
    at = wide_indptr[r] if wide else np.int64(indptr[r])
    for c in range(group * c_in, (group + 1) * c_in):
        # taps downwards: input pixels, and with them the column indices, upwards
        for kz in range(g.kz - 1, -1, -1):
            iz, between = divmod(oz + g.pz - kz * g.dz, g.sz)
            if between != 0 or iz < 0 or iz >= g.iz:
                continue
            for ky in range(g.ky - 1, -1, -1):
                iy, between = divmod(oy + g.py - ky * g.dy, g.sy)
                if between != 0 or iy < 0 or iy >= g.iy:
                    continue
                for kx in range(g.kx - 1, -1, -1):
                    ix, between = divmod(ox + g.px - kx * g.dx, g.sx)
                    if between != 0 or ix < 0 or ix >= g.ix:
                        continue
                    column = ((c * g.iz + iz) * g.iy + iy) * g.ix + ix
                    if fills_indices and wide:
                        wide_indices[at] = column
                    elif fills_indices:
                        indices[at] = column
                    data[at] = weight[(c * c_out + o) * taps + (kz * g.ky + ky) * g.kx + kx]
                    at += 1


def entries(problem: Problem) -> int:
    """Entries of the matrix of one image: every useful product has one."""
    return problem.c_in * (problem.c_out // problem.groups) * problem.meetings


def index_dtype(problem: Problem) -> np.dtype[Any]:
    """32-bit indices where they can count the entries, as scipy.sparse chooses."""
    return np.dtype(np.int32 if entries(problem) < 2**31 else np.int64)


PATTERN_BYTES = 256 * 2**20
_patterns: OrderedDict[Geometry, tuple[NDArray[Any], NDArray[Any]]] = OrderedDict()
_patterns_lock = Lock()


def forget_patterns() -> None:
    """Drop every cached pattern."""
    with _patterns_lock:
        _patterns.clear()


def _remember(key: Geometry, pattern: tuple[NDArray[Any], NDArray[Any]]) -> None:
    """Keep a pattern; the least recently used go while all together are over PATTERN_BYTES."""
    with _patterns_lock:
        _patterns[key] = pattern
        while sum(indptr.nbytes + indices.nbytes for indptr, indices in _patterns.values()) > PATTERN_BYTES:
            _patterns.popitem(last=False)


def row_lengths(problem: Problem) -> NDArray[Any]:
    """Entries of the transposed matrix' rows, one output channel's, of shape ``out_size``: a product of one count per axis."""
    lengths = np.array(problem.c_in // problem.groups)
    axes = zip(problem.out_size, problem.in_size, problem.kernel, problem.stride, problem.padding, problem.dilation)
    for o, i, k, s, (before, _), d in axes:
        pixel, between = np.divmod(np.arange(o)[:, None] + before - d * np.arange(k), s)
        meeting = (between == 0) & (pixel >= 0) & (pixel < i)
        lengths = np.multiply.outer(lengths, meeting.sum(axis=1))
    return lengths


def row_pointers(problem: Problem) -> NDArray[Any]:
    """Where each row of the transposed matrix starts."""
    indptr = np.zeros(problem.c_out * problem.out_pixels + 1, np.int64)
    np.cumsum(np.tile(row_lengths(problem).ravel(), problem.c_out), out=indptr[1:])
    return indptr.astype(index_dtype(problem), copy=False)


def _values_beside(indices: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """An uninitialised array for the values, at a distance from the columns that are read with them.

    Two arrays of 64 MiB, mapped one page apart, are read side by side at half the speed (2^24 entries: 18.7 ms; from 32 KiB
    further on 9.7 ms; arrays of 100 MiB don't mind): distances near a multiple of 16 MiB are widened by 64 KiB.
    """
    near, far, shift = 32 * 2**10, 16 * 2**20, 64 * 2**10 // dtype.itemsize

    def collides(values: NDArray[Any]) -> bool:
        return bool((values.ctypes.data - indices.ctypes.data + near) % far < 2 * near)

    values = np.empty(len(indices), dtype)
    if not collides(values):
        return values
    del values
    room = np.empty(len(indices) + shift, dtype)
    return room[shift:] if collides(room) else room[: len(indices)]


def transposed_matrix(problem: Problem, weight: NDArray[Any]) -> scipy.sparse.csr_array:
    """``C.T`` of a whole layer as CSR: (c_out * out_pixels, c_in * in_pixels), columns sorted within each row.

    The pattern (row pointers and columns) of the problems seen last is cached and shared; the values are the caller's own.
    """
    key = problem.geometry._replace(n=1)
    with _patterns_lock:
        pattern = _patterns.get(key)
        if pattern is not None:
            _patterns.move_to_end(key)
    indptr = row_pointers(problem) if pattern is None else pattern[0]
    indices = np.empty(indptr[-1], indptr.dtype) if pattern is None else pattern[1]
    data = _values_beside(indices, weight.dtype)
    sizes = (indptr.ctypes.data, indices.ctypes.data, pattern is None, indices.itemsize == 8)
    _native.run(_native.work(_fill_row, len(indptr) - 1, problem.geometry, sizes, weight.dtype.name), weight, data)
    if pattern is None:
        _remember(key, (indptr, indices))
    shape = (problem.c_out * problem.out_pixels, problem.c_in * problem.in_pixels)
    matrix = scipy.sparse.csr_array((data, indices, indptr), shape=shape)
    matrix.has_sorted_indices = matrix.has_canonical_format = True
    return matrix


def convolution_matrix(
    input_shape: Any, kernel: ArrayLike, stride: Any = 1, padding: Any = 0, dilation: Any = 1
) -> scipy.sparse.csr_array:
    """The matrix C of an ordinary convolution of one channel, as a scipy.sparse CSR array.

    Args:
        input_shape: the convolution's spatial input size, 1 to 3 integers (or one integer for one axis).
        kernel: its weights, of as many axes, a dtype among float32, float64 and the integers.
        stride, dilation: an integer, or one per axis.
        padding: zeros around the input: an integer, one per axis, or one (before, after) pair per axis.

    Returns:
        C of shape (output pixels, input pixels) in the kernel's dtype: ``C @ x.ravel()`` is the convolution of ``x``,
        ``C.T @ y.ravel()`` the transposed convolution of ``y``.

    Raises:
        ValueError, TypeError: as ``conv_transpose2d`` does.

    Source: Dumoulin & Visin, arXiv:1603.07285, section 4.1.

    >>> convolution_matrix((3,), [1, 2]).toarray()
    array([[1, 2, 0],
           [0, 1, 2]])
    """
    weights = checked_array(kernel, "kernel")
    problem = transposed_problem(input_shape, weights.shape, stride, padding, dilation, kernel_dtype(weights.dtype))
    values = np.ascontiguousarray(weights, dtype=problem.dtype).reshape(problem.weight_shape)
    return transposed_matrix(problem, values).T.tocsr().astype(weights.dtype.newbyteorder("="), copy=False)


def transposed_problem(
    input_shape: Any, kernel: tuple[int, ...], stride: Any, padding: Any, dilation: Any, dtype: str
) -> Problem:
    """The transposed convolution of one channel whose matrix is C.T, for an ordinary convolution's sizes."""
    ndim = len(kernel)
    if not 1 <= ndim <= 3:
        raise ValueError(f"kernel has {ndim} axes, but must have 1, 2 or 3")
    shape = per_axis((input_shape,) if np.ndim(input_shape) == 0 else input_shape, ndim, "input_shape", 1)
    pairs, steps = padding_pairs(padding, ndim), per_axis(stride, ndim, "stride", 1)
    dilations = per_axis(dilation, ndim, "dilation", 1)
    spans = [i + sum(p) - d * (k - 1) - 1 for i, p, d, k in zip(shape, pairs, dilations, kernel)]
    if min(spans) < 0:
        raise ValueError(
            f"the convolution's output would be empty: input_shape is {shape}, padding {pairs}, dilation {dilations}, "
            f"but the kernel's size is {kernel}"
        )
    size = tuple(span // s + 1 for span, s in zip(spans, steps))
    # Input pixels past the last stamp are the transposed convolution's output padding, always fewer than the stride.
    extra = tuple(span % s for span, s in zip(spans, steps))
    return Problem(1, 1, size, 1, kernel, steps, pairs, extra, 1, dilations, dtype)


class MatrixSize(NamedTuple):
    """What the matrix C of an ordinary convolution holds, without building it."""

    rows: int
    columns: int
    entries: int
    dense_bytes: int
    csr_bytes: int


def matrix_size(
    input_shape: Any, kernel: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, dtype: str = "float32"
) -> MatrixSize:
    """Rows, columns, entries and bytes of ``convolution_matrix``, dense and as CSR, for a kernel of the sizes ``kernel``.

    A dense matrix keeps every element; CSR a value and a column index per entry and a pointer per row, and one more.
    ``kernel`` is an integer, or one per axis; the rest, and what is raised, is as for ``convolution_matrix``.

    >>> matrix_size((4, 4), 3)
    MatrixSize(rows=4, columns=16, entries=36, dense_bytes=256, csr_bytes=308)
    """
    shape = (input_shape,) if np.ndim(input_shape) == 0 else tuple(input_shape)
    problem = transposed_problem(shape, per_axis(kernel, len(shape), "kernel", 1), stride, padding, dilation, dtype)
    rows, columns, held = problem.in_pixels, problem.out_pixels, entries(problem)
    index = index_dtype(problem).itemsize
    csr = held * (problem.itemsize + index) + (rows + 1) * index
    return MatrixSize(rows, columns, held, rows * columns * problem.itemsize, csr)
