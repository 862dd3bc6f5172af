"""The matrix view: every entry against the text's construction, its products against the functions, its size against arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import tconv_bench
from tconv_bench import convolution_matrix
from tconv_bench.convolution_matrix import matrix_size

# input_shape, kernel, stride, padding, dilation
CASES: list[tuple[Any, ...]] = [
    ((5,), (3,), 1, 0, 1),
    ((9,), (3,), 3, ((1, 2),), 2),
    ((7,), (1,), 4, 0, 1),
    ((4,), (2,), 2, ((3, 0),), 3),
    ((2,), (5,), 1, 4, 1),
    ((4, 4), (3, 3), 1, 0, 1),
    ((4, 4), (3, 3), 2, 1, 1),
    ((7, 6), (3, 2), 2, 1, 1),
    ((6, 7), (3, 3), (2, 3), ((0, 2), (1, 0)), 1),
    ((5, 7), (1, 4), (4, 1), ((0, 0), (3, 0)), (1, 2)),
    ((8, 8), (3, 3), 3, 0, 2),
    ((3, 4, 5), (2, 2, 2), (1, 2, 3), 0, 1),
    ((4, 3, 4), (3, 2, 1), 2, ((1, 0), (0, 1), (2, 2)), (1, 2, 1)),
]
all_cases = pytest.mark.parametrize(("shape", "size", "stride", "padding", "dilation"), CASES)


def sizes(ndim: int, stride: Any, padding: Any, dilation: Any) -> tuple[Any, Any, Any]:
    """Stride, (before, after) and dilation of each axis."""
    every = [value if isinstance(value, tuple) else (value,) * ndim for value in (stride, padding, dilation)]
    return every[0], [pair if isinstance(pair, tuple) else (pair, pair) for pair in every[1]], every[2]


def by_hand(shape: tuple[int, ...], kernel: np.ndarray, stride: Any, padding: Any, dilation: Any) -> np.ndarray:
    """The text's ``convolution_matrix``, a row per output pixel, for any rank, stride, padding and dilation."""
    steps, pairs, dilations = sizes(kernel.ndim, stride, padding, dilation)
    padded = [n + before + after for n, (before, after) in zip(shape, pairs)]
    out = [(n - d * (k - 1) - 1) // s + 1 for n, d, k, s in zip(padded, dilations, kernel.shape, steps)]
    v = np.zeros((*out, *padded), kernel.dtype)
    for o in np.ndindex(*out):
        v[o][tuple(slice(i * s, i * s + d * k, d) for i, s, d, k in zip(o, steps, dilations, kernel.shape))] = kernel
    inside = tuple(slice(before, before + n) for n, (before, _) in zip(shape, pairs))
    return v[(..., *inside)].reshape(np.prod(out), -1)


@all_cases
def test_every_entry_is_where_the_text_puts_it(shape, size, stride, padding, dilation):
    weight = np.arange(1, np.prod(size) + 1).reshape(size)
    matrix = convolution_matrix(shape, weight, stride, padding, dilation)
    assert_array_equal(matrix.toarray(), by_hand(shape, weight, stride, padding, dilation))
    assert matrix.nnz == np.count_nonzero(matrix.toarray())


@all_cases
@pytest.mark.parametrize("dtype", ["int64", "int16"])
def test_both_products_are_the_functions(shape, size, stride, padding, dilation, dtype):
    rng = np.random.default_rng(4)
    ndim = len(shape)
    x, weight = rng.integers(-9, 10, shape).astype(dtype), rng.integers(-9, 10, size).astype(dtype)
    matrix = convolution_matrix(shape, weight, stride, padding, dilation)
    y = getattr(tconv_bench, f"conv{ndim}d")(x[None], weight[None, None], None, stride, padding, dilation)[0]
    assert (matrix.dtype, matrix.shape) == (weight.dtype, (y.size, x.size))
    assert_array_equal((matrix @ x.ravel()).reshape(y.shape), y)
    up = rng.integers(-9, 10, y.shape).astype(dtype)
    steps, pairs, dilations = sizes(ndim, stride, padding, dilation)
    # what a stride leaves over at the end of an axis comes back as output padding
    extra = tuple((n + sum(p) - d * (k - 1) - 1) % s for n, p, d, k, s in zip(shape, pairs, dilations, size, steps))
    transposed = getattr(tconv_bench, f"conv_transpose{ndim}d")
    image = transposed(up[None], weight[None, None], None, stride, padding, extra, 1, dilation)[0]
    assert_array_equal((matrix.T @ up.ravel()).reshape(shape), image)


def test_columns_of_vectors_as_in_the_text():
    x, kernel = np.arange(1, 17).reshape(16, 1), np.arange(1, 10).reshape(3, 3)
    matrix = convolution_matrix((4, 4), kernel)
    assert (matrix @ x).tolist() == [[348], [393], [528], [573]]
    assert (matrix.T @ np.array([[1], [0], [0], [0]])).reshape(4, 4).tolist() == [
        [1, 2, 3, 0],
        [4, 5, 6, 0],
        [7, 8, 9, 0],
        [0, 0, 0, 0],
    ]


@all_cases
@pytest.mark.parametrize(("dtype", "as_wide"), [("float32", "int32"), ("float64", "int64")])  # integers compile nothing new
def test_sizes_are_the_arrays_bytes(shape, size, stride, padding, dilation, dtype, as_wide):
    matrix = convolution_matrix(shape, np.ones(size, as_wide), stride, padding, dilation)
    found = matrix_size(shape, size, stride, padding, dilation, dtype)
    assert (found.rows, found.columns, found.entries) == (*matrix.shape, matrix.nnz)
    assert found.dense_bytes == matrix.toarray().nbytes
    assert found.csr_bytes == matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes


def test_sizes_of_a_matrix_that_no_machine_holds():
    found = matrix_size((4096, 4096), 3)
    assert found.rows == 4094**2
    assert found.entries == 9 * 4094**2
    assert found.dense_bytes == 4 * 4094**2 * 4096**2
    assert matrix_size(2**30, 3).csr_bytes == 3 * (2**30 - 2) * 12 + (2**30 - 1) * 8  # 64-bit indices from 2^31 entries


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (((4,), np.ma.masked_equal([1, 2], 1)), TypeError, "kernel is a masked array"),
        (((4,), [[1], [1, 2]]), TypeError, "kernel can't be read as an array"),
        (((4,), np.ones(0)), ValueError, "kernel is 0, but must be >= 1"),
        (((4,), np.ones((1,) * 4)), ValueError, "kernel has 4 axes, but must have 1, 2 or 3"),
        (((4.0,), np.ones(2)), TypeError, r"input_shape is 4.0 \(float\)"),
        (((0,), np.ones(2)), ValueError, "input_shape is 0, but must be >= 1"),
        (((4,), np.ones(2), 1, -1), ValueError, "padding is -1, but must be >= 0"),
        (((4,), np.ones(2), 1, 0, 0), ValueError, "dilation is 0, but must be >= 1"),
        (
            ((4, 4), np.ones((3, 3)), 1, 0, 2),
            ValueError,
            r"output would be empty: input_shape is \(4, 4\), .*dilation \(2, 2\)",
        ),
    ],
)
def test_bad_input_names_the_value(arguments: tuple[Any, ...], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        convolution_matrix(*arguments)


def test_bad_sizes_name_the_value():
    with pytest.raises(ValueError, match=r"kernel is \(3, 3\): 2 values, but allowed are one integer or 1"):
        matrix_size((4,), (3, 3))
    with pytest.raises(TypeError, match="dtype is int8, but must be one of float32, float64, int64"):
        matrix_size((4,), 3, dtype="int8")
