"""The numbers behind a teaching figure: one small image, one kernel, and what the definition makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tconv_bench import reference
from tconv_bench.conv import checked_array
from tconv_bench.problem import Problem, padding_pairs, per_axis

# One draw of the first background text's random matrices (inputs from 1..8, kernel and the transposed one's input from 1..4).
INPUTS = ((4, 5, 8, 7), (1, 8, 8, 8), (3, 6, 6, 4), (6, 5, 7, 8))
KERNEL = ((1, 4, 1), (1, 4, 3), (3, 3, 1))
SMALL_INPUT = ((2, 1), (4, 4))
# The second text's example of stamps that are added up.
STAMPED, STAMP = ((1, 2), (3, 4)), ((5, 5), (5, 5))
# What it interpolates, and what it pools.
CORNERS, POOLED = ((10, 20), (30, 40)), ((1, 2, 4, 1), (3, 4, 2, 3), (1, 4, 1, 2), (2, 3, 4, 3))


@dataclass(frozen=True, eq=False)
class Lesson:
    """A transposed convolution of one image and one channel, always with two axes: one axis becomes a single row."""

    x: NDArray[Any]
    kernel: NDArray[Any]
    problem: Problem
    ndim: int = 2  # axes that were given

    @cached_property
    def y(self) -> NDArray[Any]:
        """The output, by the definition."""
        out: NDArray[Any] = reference.conv_transpose(self.problem, self.x[None, None], self.kernel[None, None])[0, 0]
        return out

    @property
    def before(self) -> tuple[int, ...]:
        """Output pixels that padding crops before the first one kept, per axis."""
        return tuple(pair[0] for pair in self.problem.padding)

    def axes_text(self, values: Sequence[Any]) -> str:
        """One value per axis that was given, in short."""
        return axes_text(values[-self.ndim :])

    def taps(self, pixel: tuple[int, ...]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """(input pixel, tap) of every product that is added up in an output pixel, input pixels in C order."""
        p = self.problem
        found = []
        for tap in np.ndindex(*p.kernel):
            at = [divmod(o + b - k * d, s) for o, b, k, d, s in zip(pixel, self.before, tap, p.dilation, p.stride)]
            if all(rest == 0 and 0 <= i < n for (i, rest), n in zip(at, p.in_size)):
                found.append((tuple(i for i, _ in at), tap))
        return sorted(found)


def lesson(
    x: ArrayLike, kernel: ArrayLike, stride: Any = 1, padding: Any = 0, output_padding: Any = 0, dilation: Any = 1
) -> Lesson:
    """The lesson of an image ``x`` and a kernel, both with one axis or both with two; sizes as for ``conv_transpose2d``.

    Raises:
        ValueError, TypeError: as ``conv_transpose2d`` does; where either is a float, both are computed in float64.
    """
    image, weights = checked_array(x, "x"), checked_array(kernel, "kernel")
    ndim = image.ndim
    if ndim not in (1, 2):
        raise ValueError(f"x has {ndim} axes (shape {image.shape}), but a figure shows 1 or 2")
    if weights.ndim != ndim:
        raise ValueError(f"kernel has {weights.ndim} axes (shape {weights.shape}), but must have x's {ndim}")
    sizes: list[tuple[Any, ...]] = [
        per_axis(stride, ndim, "stride", 1),
        padding_pairs(padding, ndim),
        per_axis(output_padding, ndim, "output_padding", 0),
        per_axis(dilation, ndim, "dilation", 1),
    ]
    if ndim == 1:
        image, weights = image[None], weights[None]
        sizes = [(first, *rest) for first, rest in zip((1, (0, 0), 0, 1), sizes)]
    dtype = "float64" if "f" in (image.dtype.kind, weights.dtype.kind) else "int64"
    steps, pairs, extra, dilations = sizes
    problem = Problem(1, 1, image.shape, 1, weights.shape, steps, pairs, extra, 1, dilations, dtype)
    return Lesson(image.astype(dtype), weights.astype(dtype), problem, ndim)


def numbered(problem: Problem) -> tuple[NDArray[Any], NDArray[Any]]:
    """An image 1, 2, 3, ... and a kernel 1, 2, 3, ... of a problem's sizes."""
    image = np.arange(1, problem.in_pixels + 1).reshape(problem.in_size)
    return image, np.arange(1, problem.taps + 1).reshape(problem.kernel)


def axes_text(values: Sequence[Any]) -> str:
    """One value per axis in short: ``3``, ``3x2``."""
    return str(values[0]) if len(set(values)) == 1 else "x".join(map(str, values))
