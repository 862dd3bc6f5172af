"""Transposed convolution as an ordinary one: a window of the flipped kernel moves over the stretched and padded input.

Along one axis the stretched input has pixel ``i`` at place ``i*stride``. Output pixel ``o`` is read from the places
``o + pad_before - k*dilation``; the canvas reaches as far as any of these, or any pixel, does.

Source: Dumoulin & Visin, arXiv:1603.07285, section 4.
"""

from __future__ import annotations

from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tconv_bench import units
from tconv_bench.figures import grids
from tconv_bench.figures.grids import Box, Cells
from tconv_bench.figures.lesson import Lesson

INFINITE = float("inf")
_DOT = "\N{MIDDLE DOT}"


class Windows:
    """The stretched and padded input of a lesson, and what each output pixel reads of it."""

    def __init__(self, lesson: Lesson) -> None:
        self.lesson = lesson
        p = lesson.problem
        axes = list(zip(p.in_size, p.stride, p.kernel, p.dilation, lesson.before, p.out_size))
        self.stretched = tuple((i - 1) * s + 1 for i, s, *_ in axes)
        #: Zeros that are added (negative: places that are never read) in front of and behind the stretched input, per axis.
        self.pads = tuple((d * (k - 1) - b, o - 1 + b - (i - 1) * s) for i, s, k, d, b, o in axes)
        self.start = tuple(max(0, before) for before, _ in self.pads)
        self.shape = tuple(n + max(0, before) + max(0, after) for n, (before, after) in zip(self.stretched, self.pads))

    @cached_property
    def kinds(self) -> NDArray[Any]:
        """What each cell of the canvas is: a pixel, a zero between pixels, or a zero around them."""
        between, outside = np.zeros(self.shape, bool), np.zeros(self.shape, bool)
        for axis, (n, first, stretched, s) in enumerate(
            zip(self.shape, self.start, self.stretched, self.lesson.problem.stride)
        ):
            place = np.arange(n) - first
            along = [-1 if a == axis else 1 for a in range(len(self.shape))]
            outside |= ((place < 0) | (place >= stretched)).reshape(along)
            between |= (place % s != 0).reshape(along)
        return np.where(outside, grids.PADDING, np.where(between, grids.INSERTED, grids.VALUE))

    @cached_property
    def values(self) -> NDArray[Any]:
        """The canvas' numbers."""
        canvas = np.zeros(self.shape, self.lesson.x.dtype)
        canvas[self.kinds == grids.VALUE] = self.lesson.x.ravel()
        return canvas

    def cells(self) -> Cells:
        """The canvas: pixels in the input's colour, zeros between them white, zeros around them grey."""
        return grids.shaded(self.values, grids.INPUT, kinds=self.kinds)

    def stretched_cells(self) -> Cells:
        """The canvas without what is around the input."""
        inside = tuple(slice(first, first + n) for first, n in zip(self.start, self.stretched))
        return grids.shaded(self.values[inside], grids.INPUT, kinds=self.kinds[inside])

    def boxes(self, pixel: tuple[int, ...]) -> list[Box]:
        """Outlines of what an output pixel reads: one box, or one per tap where dilation tears the window apart."""
        p = self.lesson.problem
        row, column = (o - before + first for o, (before, _), first in zip(pixel, self.pads, self.start))
        if set(p.dilation) == {1}:
            return [(row, column, *p.kernel)]
        return [(row + a * p.dilation[0], column + b * p.dilation[1], 1, 1) for a, b in np.ndindex(*p.kernel)]

    def sum_text(self, pixel: tuple[int, ...], inches: float = INFINITE) -> str:
        """The products that meet in an output pixel: ``5·1 + 5·2 = 15``, or how many where that is too wide at 10 pt.

        Zeros that were put in are left out.
        """
        x, kernel, result = self.lesson.x, self.lesson.kernel, f" = {grids.number(self.lesson.y[pixel])}"
        terms = [f"{_signed(x[i])}{_DOT}{_signed(kernel[k])}" for i, k in self.lesson.taps(pixel)]
        text = (" + ".join(terms) or "0") + result
        return text if grids.text_inches(text, 10) <= inches else f"{len(terms)} products{result}"

    def example(self) -> tuple[int, ...]:
        """The output pixel near the middle, at most a stride before it, in which the most products meet."""
        near = [range(max(0, o // 2 - s + 1), o // 2 + 1) for o, s in zip(self.lesson.y.shape, self.lesson.problem.stride)]
        return max(product(*near), key=lambda pixel: (len(self.lesson.taps(pixel)), pixel))

    def stretched_text(self) -> str:
        """``3 × 3``."""
        return f" {units.X} ".join(map(str, self.stretched))

    def kernel_text(self) -> str:
        """``3 × 3``, and how far apart the taps are where that is not 1."""
        apart = sorted(set(self.lesson.problem.dilation))
        return grids.size_note(self.lesson.kernel) + (f", taps {' and '.join(map(str, apart))} apart" if apart != [1] else "")

    def pads_text(self) -> str:
        """``1 around``, or what is added in front of and behind each axis."""
        pads = self.pads[-self.lesson.ndim :]
        every = {pad for pair in pads for pad in pair}
        if len(every) == 1:
            return f"{grids.number(every.pop())} around"
        return f" {units.X} ".join(f"{grids.number(before)} before, {grids.number(after)} after" for before, after in pads)


def _signed(value: Any) -> str:
    text = grids.number(value)
    return f"({text})" if value < 0 else text
