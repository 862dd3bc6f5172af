"""The worked numbers of the two texts that the project starts from."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tconv_bench import conv2d, conv_transpose2d, convolution_matrix, methods, output_shape, upsample

all_methods = pytest.mark.parametrize("method", methods())


def dtypes_of(method: str) -> list[type]:
    """Winograd computes with halves and so with floats alone."""
    return [np.float32, np.float64] if method == "winograd" else [np.int64, np.float32, np.float64]


INPUT, KERNEL = np.array([[1, 2], [3, 4]]), np.full((2, 2), 5)
# The first text draws its matrices at random (inputs 4x4 from 1..8, kernel 3x3 and x2 4x1 from 1..4): one such draw.
INPUTS = np.array([[4, 5, 8, 7], [1, 8, 8, 8], [3, 6, 6, 4], [6, 5, 7, 8]])
KERNEL_3X3 = np.array([[1, 4, 1], [1, 4, 3], [3, 3, 1]])
X2 = np.array([[2], [1], [4], [4]])
# The second text prints interpolated values without their fractions.
PRINTED = [[10, 12, 17, 20], [15, 17, 22, 25], [25, 27, 32, 35], [30, 32, 37, 40]]
POOLED = [[1, 2, 4, 1], [3, 4, 2, 3], [1, 4, 1, 2], [2, 3, 4, 3]]


def text_convolve(m: np.ndarray, k: np.ndarray) -> np.ndarray:
    """The first text's ``convolve``."""
    rows, cols = len(m) - len(k) + 1, len(m[0]) - len(k[0]) + 1
    return np.array([[np.sum(m[r : r + len(k), c : c + len(k[0])] * k) for c in range(cols)] for r in range(rows)])


def text_matrix(m: np.ndarray, k: np.ndarray) -> np.ndarray:
    """The first text's ``convolution_matrix``."""
    rows, cols = len(m) - len(k) + 1, len(m[0]) - len(k[0]) + 1
    v = np.zeros((rows * cols, *m.shape), m.dtype)
    for r, c in np.ndindex(rows, cols):
        v[r * cols + c, r : r + len(k), c : c + len(k[0])] = k
    return v.reshape(rows * cols, -1)


def test_sizes_of_the_texts():
    assert (4 - 3 + 2 * 0) // 1 + 1 == 2 == conv2d(INPUTS[None], KERNEL_3X3[None, None]).shape[-1]
    assert (5 - 3 + 2 * 0) // 1 + 1 == 3 == conv2d(np.ones((3, 5, 5)), np.ones((1, 3, 3, 3))).shape[-1]
    assert conv2d(np.ones((3, 5, 5)), np.ones((1, 3, 3, 3))).shape == (1, 3, 3)
    assert output_shape(2, 2, stride=1, padding=0) == 3
    assert output_shape((2, 2), (3, 3)) == (4, 4)


def test_the_convolution_and_its_matrix():
    assert_array_equal(text_convolve(INPUTS, KERNEL_3X3), [[122, 148], [126, 134]])
    assert_array_equal(conv2d(INPUTS[None], KERNEL_3X3[None, None])[0], [[122, 148], [126, 134]])
    matrix = convolution_matrix((4, 4), KERNEL_3X3)
    assert_array_equal(matrix.toarray(), text_matrix(INPUTS, KERNEL_3X3))
    assert matrix.shape == (4, 16)
    assert (matrix @ INPUTS.reshape(-1, 1)).reshape(2, 2).tolist() == [[122, 148], [126, 134]]


@all_methods
def test_the_transposed_matrix_and_every_method(method: str):
    matrix = convolution_matrix((4, 4), KERNEL_3X3)
    up = (matrix.T @ X2).reshape(4, 4)
    assert up.tolist() == [[2, 9, 6, 1], [6, 29, 30, 7], [10, 29, 33, 13], [12, 24, 16, 4]]
    for dtype in dtypes_of(method):
        x, weight = (array.astype(dtype) for array in (X2.reshape(1, 2, 2), KERNEL_3X3[None, None]))
        assert conv_transpose2d(x, weight, method=method)[0].tolist() == up.tolist()
    # "1 value in the output matrix is connected to 9 values": each column of C.T has 9 entries
    assert np.diff(matrix.T.tocsc().indptr).tolist() == [9, 9, 9, 9]


def test_one_output_reads_nine_inputs_and_one_input_reaches_nine_outputs():
    """ "9 values in the input matrix is used to produce 1 value", at the same place; and the way back."""
    assert np.sum(INPUTS[0:3, 0:3] * KERNEL_3X3) == conv2d(INPUTS[None], KERNEL_3X3[None, None])[0, 0, 0] == 122
    for row, column in np.ndindex(2, 2):
        window = np.zeros((4, 4), int)
        window[row : row + 3, column : column + 3] = 1
        alone = np.zeros((1, 2, 2), int)
        alone[0, row, column] = 1
        reached = conv_transpose2d(alone, KERNEL_3X3[None, None])[0]
        assert_array_equal(reached != 0, window == 1)
        outside = conv2d((INPUTS * (1 - window))[None], KERNEL_3X3[None, None])[0, row, column]
        assert outside == 0
    # the text's x2 as a column, and its product as a column
    assert (convolution_matrix((4, 4), KERNEL_3X3).T @ X2).shape == (16, 1)


def test_the_second_texts_ways_to_enlarge():
    assert upsample.nearest(INPUT, 2).tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
    assert upsample.nearest(INPUT, 2).size == 4 * INPUT.size  # its K = 4: so many copies of each
    corners = np.array([[10, 20], [30, 40]])
    assert np.floor(upsample.bilinear(corners.astype(float), 2)).tolist() == PRINTED
    assert upsample.bed_of_nails(INPUT, 2).tolist() == [[1, 0, 2, 0], [0] * 4, [3, 0, 4, 0], [0] * 4]


def test_the_second_texts_pooling_and_unpooling():
    values, places = upsample.max_pool2d(np.array(POOLED), 2)
    assert values.tolist() == [[4, 4], [4, 4]]
    assert [divmod(place, 4) for place in places.ravel().tolist()] == [(1, 1), (0, 2), (2, 1), (3, 2)]
    assert upsample.max_unpool2d(INPUT, places, 2).tolist() == [[0, 0, 2, 0], [0, 1, 0, 0], [0, 3, 0, 0], [0, 0, 4, 0]]


def test_its_depth_wise_sizes():
    """Every filter matches the input in depth; the result has depth 1."""
    assert conv2d(np.ones((3, 5, 5)), np.ones((1, 3, 3, 3)))[0].tolist() == [[27.0] * 3] * 3
    with pytest.raises(ValueError, match="its second axis must be C_in"):
        conv2d(np.ones((3, 5, 5)), np.ones((1, 2, 3, 3)))


def test_the_first_texts_closing_note_zeros_between_and_a_direct_convolution():
    stretched = np.zeros((1, 7, 7), int)
    stretched[0, 2:5:2, 2:5:2] = X2.reshape(2, 2)
    flipped = KERNEL_3X3[::-1, ::-1]
    by_hand = conv2d(stretched, flipped[None, None])
    assert by_hand.tolist() == conv_transpose2d(X2.reshape(1, 2, 2), KERNEL_3X3[None, None], stride=2).tolist()


@all_methods
def test_the_second_texts_sum_of_stamps(method: str):
    stamps = np.zeros((4, 3, 3), int)
    for i, (r, c) in enumerate(np.ndindex(2, 2)):
        stamps[i, r : r + 2, c : c + 2] = INPUT[r, c] * KERNEL
    assert stamps[0].tolist() == [[5, 5, 0], [5, 5, 0], [0, 0, 0]]
    assert stamps[1].tolist() == [[0, 10, 10], [0, 10, 10], [0, 0, 0]]
    assert stamps[2].tolist() == [[0, 0, 0], [15, 15, 0], [15, 15, 0]]
    assert stamps[3].tolist() == [[0, 0, 0], [0, 20, 20], [0, 20, 20]]
    for dtype in dtypes_of(method):
        for r, c in np.ndindex(2, 2):
            alone = np.zeros((1, 2, 2), dtype)
            alone[0, r, c] = INPUT[r, c]
            out = conv_transpose2d(alone, KERNEL[None, None].astype(dtype), method=method)
            assert_array_equal(out[0], stamps[2 * r + c])
        out = conv_transpose2d(INPUT[None].astype(dtype), KERNEL[None, None].astype(dtype), method=method)
        assert out[0].tolist() == stamps.sum(axis=0).tolist() == [[5, 15, 10], [20, 50, 30], [15, 35, 20]]
