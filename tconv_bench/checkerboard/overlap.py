"""Why transposed convolution draws checkerboards: how many products meet in each output pixel.

Input pixel ``i`` and tap ``k`` meet output pixel ``i*stride + k*dilation - pad_before``. So along one axis pixel ``o`` gets
as many products as there are taps ``k`` with ``k*dilation = o + pad_before`` modulo the stride, fewer near the borders. With
several axes the counts multiply; they are the row lengths of the matrix C.T. Away from the borders the count repeats with the
stride. It is the same everywhere exactly where the stride divides the kernel and has no factor in common with the dilation;
padding and output padding move the pattern and never remove it.

Everything here is exact integer arithmetic.

Source: Odena, Dumoulin & Olah, "Deconvolution and Checkerboard Artifacts", Distill 2016, doi:10.23915/distill.00003.
"""

from __future__ import annotations

from fractions import Fraction
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tconv_bench.convolution_matrix import row_lengths
from tconv_bench.problem import Problem, per_axis


def overlap_count(
    in_size: Any, kernel: Any, stride: Any = 1, padding: Any = 0, output_padding: Any = 0, dilation: Any = 1
) -> NDArray[np.int64]:
    """Products that are added up in each output pixel of one channel, borders and all.

    Args:
        in_size: pixels per axis, 1 to 3 integers (or one integer for one axis).
        kernel, stride, output_padding, dilation: an integer for all axes, or one per axis.
        padding: an integer, one per axis, or one (before, after) pair per axis.

    Returns:
        Counts of the output's shape.

    Raises:
        ValueError, TypeError: as ``output_shape`` does.

    >>> overlap_count(4, 3, stride=2)
    array([1, 1, 2, 1, 2, 1, 2, 1, 1])
    """
    return row_lengths(_problem(in_size, kernel, stride, padding, output_padding, dilation)).astype(np.int64, copy=False)


def overlap_period(kernel: Any, stride: Any = 1, dilation: Any = 1) -> NDArray[np.int64]:
    """The count far from all borders, one stride of it along each axis: what repeats over a large image.

    Element ``p`` belongs to the output pixels ``o`` with ``(o + pad_before) % stride == p``.

    Args:
        kernel: taps per axis, 1 to 3 integers (or one integer for one axis).
        stride, dilation: an integer for all axes, or one per axis of the kernel.

    Returns:
        Counts of shape ``stride``, one value per axis.

    Raises:
        ValueError, TypeError: as ``output_shape`` does.

    >>> overlap_period((3, 3), 2)
    array([[4, 2],
           [2, 1]])
    >>> overlap_period(4, 2)
    array([2, 2])
    """
    sizes = (kernel,) if np.ndim(kernel) == 0 else tuple(kernel)
    ndim = len(sizes)
    if not 1 <= ndim <= 3:
        raise ValueError(f"kernel is {kernel!r}, but must hold 1, 2 or 3 sizes")
    axes = zip(per_axis(sizes, ndim, "kernel", 1), per_axis(stride, ndim, "stride", 1), per_axis(dilation, ndim, "dilation", 1))
    counts = [np.bincount(np.arange(k) * d % s, minlength=s).astype(np.int64) for k, s, d in axes]
    return reduce(np.multiply.outer, counts)


def interior(
    in_size: Any, kernel: Any, stride: Any = 1, padding: Any = 0, output_padding: Any = 0, dilation: Any = 1
) -> tuple[slice, ...]:
    """Where ``overlap_count`` is ``overlap_period``: the output pixels of which no product is missing at a border.

    Empty slices where the input is too small for that. Arguments as for ``overlap_count``.

    >>> interior(4, 3, stride=2)
    (slice(1, 8, None),)
    """
    p = _problem(in_size, kernel, stride, padding, output_padding, dilation)
    found = []
    for i, k, s, (before, _), d, o in zip(p.in_size, p.kernel, p.stride, p.padding, p.dilation, p.out_size):
        # a tap whose input pixel would be at least -1 + 1/stride, or at most in - 1/stride, meets a pixel that exists
        first, end = d * (k - 1) - s + 1 - before, i * s - before
        start = min(max(0, first), o)
        found.append(slice(start, max(start, min(o, end))))
    return tuple(found)


def contrast(counts: ArrayLike) -> Fraction:
    """(max - min) / (max + min) of counts, exactly: 0 where all are equal, 1 where some pixel gets nothing.

    Of ``overlap_period`` it is the pattern's, of ``overlap_count`` that of pattern and borders together.

    Raises:
        ValueError: no count, or a negative one.
        TypeError: counts that are no integers.

    >>> contrast(overlap_period((3, 3), 2)), contrast(overlap_period((4, 4), 2))
    (Fraction(3, 5), Fraction(0, 1))
    """
    array = np.asarray(counts)
    if array.size == 0:
        raise ValueError(f"counts has shape {array.shape}, but must hold at least one count")
    if array.dtype.kind not in "iu":
        raise TypeError(f"counts has dtype {array.dtype}, but must hold integers")
    least, most = int(array.min()), int(array.max())
    if least < 0:
        raise ValueError(f"counts holds {least}, but counts must be >= 0")
    return Fraction(most - least, most + least) if most else Fraction(0)


def _problem(in_size: Any, kernel: Any, stride: Any, padding: Any, output_padding: Any, dilation: Any) -> Problem:
    sizes = (in_size,) if np.ndim(in_size) == 0 else tuple(in_size)
    return Problem(1, 1, sizes, 1, kernel, stride, padding, output_padding, 1, dilation)
