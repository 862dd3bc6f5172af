"""Counts of overlaps: against counting one by one, their period, and where the pattern vanishes."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from math import gcd
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tconv_bench import convolution_matrix, output_shape
from tconv_bench.checkerboard import contrast, interior, overlap_count, overlap_period

# in_size, kernel, stride, padding, output_padding, dilation
CASES: list[tuple[Any, ...]] = [
    ((2, 2), 2, 1, 0, 0, 1),
    ((6,), 3, 2, 0, 0, 1),
    ((6,), 4, 2, 1, 0, 1),
    ((5,), 2, 3, 0, 2, 1),
    ((4,), 3, 2, ((3, 0),), 1, 1),
    ((3,), 3, 1, 5, 0, 4),
    ((4,), 2, 4, ((0, 5),), 0, 6),
    ((5, 4), 3, 2, 1, 1, 1),
    ((4, 5), (5, 2), (3, 1), ((1, 0), (0, 2)), 0, 2),
    ((3, 3), (4, 3), (2, 4), 0, (1, 3), (2, 3)),
    ((3, 2, 4), (3, 2, 4), (2, 1, 2), ((1, 0), 0, 1), 0, (1, 2, 1)),
    ((9, 9), 4, 2, 1, 0, 1),
    ((7,), 6, 3, 2, 1, 2),
]
all_cases = pytest.mark.parametrize("case", CASES)


def one_by_one(in_size, kernel, stride, padding, output_padding, dilation) -> np.ndarray:
    """Every input pixel adds one to each output pixel that its kernel touches."""
    ndim = len(in_size)
    k, s, d = (value if isinstance(value, tuple) else (value,) * ndim for value in (kernel, stride, dilation))
    pads = padding if isinstance(padding, tuple) else (padding,) * ndim
    before = [pad[0] if isinstance(pad, tuple) else pad for pad in pads]
    counts = np.zeros(output_shape(in_size, kernel, stride, padding, output_padding, dilation), int)
    for pixel, tap in product(np.ndindex(*in_size), np.ndindex(*k)):
        at = tuple(i * e + t * f - b for i, e, t, f, b in zip(pixel, s, tap, d, before))
        if all(0 <= a < n for a, n in zip(at, counts.shape)):
            counts[at] += 1
    return counts


@all_cases
def test_counts_are_those_of_counting(case):
    counts = overlap_count(*case)
    assert counts.dtype == np.int64
    assert_array_equal(counts, one_by_one(*case))


@all_cases
def test_inside_the_borders_the_period_repeats_and_a_pixel_further_out_something_is_missing(case):
    in_size, kernel, stride, padding, _, dilation = case
    ndim = len(in_size)
    sizes = kernel if isinstance(kernel, tuple) else (kernel,) * ndim
    period, counts = overlap_period(sizes, stride, dilation), overlap_count(*case)
    pads = padding if isinstance(padding, tuple) else (padding,) * ndim
    before = [pad[0] if isinstance(pad, tuple) else pad for pad in pads]
    phases = [(np.arange(n) + b) % s for n, b, s in zip(counts.shape, before, period.shape)]
    full = period[np.ix_(*phases)]
    inside = interior(*case)
    assert_array_equal(counts[inside], full[inside])
    assert (counts <= full).all()
    for axis, part in enumerate(inside):
        for edge in {part.start - 1, part.stop} & set(range(counts.shape[axis])) if part.start < part.stop else ():
            assert (counts.take(edge, axis) < full.take(edge, axis)).any()


def test_the_interior_of_a_large_image_is_all_but_its_borders():
    assert interior((9, 9), 4, 2, 1) == (slice(1, 17), slice(1, 17))
    assert interior(9, 3, 2) == (slice(1, 18),)
    assert interior(2, 9) == (slice(8, 8),)  # nine taps never all meet two pixels
    counts = overlap_count((9, 9), 4, 2, 1)
    assert counts.shape == (18, 18)
    assert_array_equal(counts[1:17, 1:17], 4)
    assert counts[0, 0] == 1


def test_a_matrix_of_ones_counts():
    counts = overlap_count((3, 4), (3, 2), 2, 1)
    matrix = convolution_matrix(counts.shape, np.ones((3, 2), int), 2, 1)
    assert matrix.shape[0] == 12
    assert_array_equal(matrix.T.sum(axis=1).reshape(counts.shape), counts)


def test_the_known_pattern_of_kernel_3_stride_2():
    assert overlap_count((3, 3), 3, 2).tolist() == [
        [1, 1, 2, 1, 2, 1, 1],
        [1, 1, 2, 1, 2, 1, 1],
        [2, 2, 4, 2, 4, 2, 2],
        [1, 1, 2, 1, 2, 1, 1],
        [2, 2, 4, 2, 4, 2, 2],
        [1, 1, 2, 1, 2, 1, 1],
        [1, 1, 2, 1, 2, 1, 1],
    ]
    assert overlap_period((3, 3), 2).tolist() == [[4, 2], [2, 1]]
    assert contrast(overlap_period((3, 3), 2)) == Fraction(3, 5)
    assert contrast(overlap_period(3, 2)) == Fraction(1, 3)
    assert contrast(overlap_period((5, 5), 2)) == Fraction(9 - 4, 9 + 4)


def test_the_pattern_vanishes_exactly_where_the_stride_divides_the_kernel():
    for kernel, stride, dilation in product(range(1, 13), range(1, 7), range(1, 5)):
        even = kernel % stride == 0 and gcd(stride, dilation) == 1
        for sizes in (kernel, (kernel, kernel), (kernel,) * 3):
            assert (contrast(overlap_period(sizes, stride, dilation)) == 0) is even, (kernel, stride, dilation)


def test_contrast_is_one_where_a_pixel_gets_nothing():
    assert contrast(overlap_period(2, 3)) == 1
    assert contrast(overlap_period(4, 2, dilation=2)) == 1
    assert contrast([0, 0]) == 0
    assert contrast(np.array([[3, 1], [2, 2]], np.uint8)) == Fraction(1, 2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: overlap_count(4, 0), ValueError, "kernel is 0, but must be >= 1"),
        (lambda: overlap_count(4, 3, 2, padding=-1), ValueError, "padding is -1, but must be >= 0"),
        (lambda: overlap_count(4, 3, 2, output_padding=2), ValueError, "output_padding is 2, but must be smaller"),
        (lambda: overlap_count((1, 2, 3, 4), 3), ValueError, r"in_size is \(1, 2, 3, 4\), but must hold 1, 2 or 3"),
        (lambda: overlap_count(1, 3, 1, 2), ValueError, "the output would be empty"),
        (lambda: overlap_period(2.5), TypeError, r"kernel is 2.5 \(float\)"),
        (lambda: overlap_period((1, 2, 3, 4)), ValueError, r"kernel is \(1, 2, 3, 4\), but must hold 1, 2 or 3 sizes"),
        (lambda: overlap_period(3, (2, 2)), ValueError, r"stride is \(2, 2\): 2 values"),
        (lambda: interior(4, 3, 0), ValueError, "stride is 0, but must be >= 1"),
        (lambda: contrast([]), ValueError, r"counts has shape \(0,\), but must hold at least one"),
        (lambda: contrast([0.5]), TypeError, "counts has dtype float64, but must hold integers"),
        (lambda: contrast([2, -1]), ValueError, "counts holds -1, but counts must be >= 0"),
    ],
)
def test_bad_input_names_the_value(call, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        call()
