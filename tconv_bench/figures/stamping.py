"""Transposed convolution as the second background text explains it: every input pixel stamps its kernel, the stamps add up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from tconv_bench import units
from tconv_bench.figures import grids
from tconv_bench.figures.grids import Box, Cells, Panel
from tconv_bench.figures.lesson import STAMP, STAMPED, Lesson, lesson
from tconv_bench.plots import style
from tconv_bench.problem import as_int

FRAME_WIDTH = 6.0  # inches
_COLUMN = 0.26  # inches of a cell that decide how many steps stand side by side


@style.styled
def stamps(
    x: ArrayLike = STAMPED,
    kernel: ArrayLike = STAMP,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    dilation: Any = 1,
    *,
    steps: int = 6,
) -> Figure:
    """Each input pixel alone, its stamp, and the sum so far; of more than ``steps`` pixels the first ones and the last.

    ``x`` and ``kernel`` have one axis or two; sizes as for ``conv_transpose2d``. Cells that padding crops away are grey.

    Source: the second background text, "Upsample via transpose convolution".
    """
    drawn = Stamping(lesson(x, kernel, stride, padding, output_padding, dilation))
    count = as_int(steps, "steps", 2)
    pixels = list(np.ndindex(*drawn.lesson.problem.in_size))
    shown = [*pixels[: count - 1], pixels[-1]] if len(pixels) > count else pixels
    lines = _lines(drawn, [drawn.step(pixel) for pixel in shown])
    subtitle = (
        "Every input pixel is multiplied with the whole kernel. Its stamp (outlined) moves by the stride; where stamps "
        "overlap, they add up."
    )
    if len(shown) < len(pixels):
        subtitle += f" Steps 1 to {count - 1} and the last of {len(pixels)}."
    if drawn.crops:
        subtitle += " Grey cells are cropped away by padding."
    return grids.draw(lines, "Transposed convolution: stamp and add", subtitle)


def _lines(drawn: Stamping, steps: list[tuple[Panel, Panel, Panel]]) -> list[list[Panel | None]]:
    """The steps beside input, kernel and output where all fit in one band, else in bands below input and kernel."""
    columns = min(5, grids.abreast([panel for step in steps for panel in step], drawn.shape[1], _COLUMN, 0.6))
    if len(steps) < columns:
        return [[part, *row] for part, row in zip(drawn.parts(), zip(*steps))]
    lines: list[list[Panel | None]] = [[*drawn.parts()[:2], *[None] * max(0, columns - 2)]]
    if columns == 1:
        lines += [[*step] for step in steps]
        return lines
    for start in range(0, len(steps), columns):
        band = steps[start : start + columns]
        for first, *rest in zip(*band):
            lines.append([replace(first, lead=""), *rest, *[None] * (columns - len(band))])
    return lines


def stamp_frames(
    x: ArrayLike = STAMPED,
    kernel: ArrayLike = STAMP,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    dilation: Any = 1,
) -> list[Figure]:
    """The steps of ``stamps`` as figures of one size, one per input pixel, for ``save_gif``.

    Source: as of ``stamps``.
    """
    drawn = Stamping(lesson(x, kernel, stride, padding, output_padding, dilation))
    return [_frame(drawn, pixel) for pixel in np.ndindex(*drawn.lesson.x.shape)]


@style.styled
def _frame(drawn: Stamping, pixel: tuple[int, ...]) -> Figure:
    first, kernel, _ = drawn.parts()
    so_far = drawn.so_far(pixel).framed(*drawn.boxes(pixel))
    line = [
        Panel(first.title, first.cells.framed((pixel[0], pixel[1], 1, 1)), first.note),
        Panel(kernel.title, kernel.cells, kernel.note, grids.TRANSPOSE),
        Panel("Output", so_far, grids.size_note(drawn.lesson.y), grids.ARROW),
    ]
    foot = f"+ {grids.number(drawn.lesson.x[pixel])} {units.X} kernel"
    subtitle = "Every input pixel adds its multiple of the kernel to the output."
    return grids.draw([line], "Transposed convolution: stamp and add", subtitle, foot=foot, width=FRAME_WIDTH)


class Stamping:
    """The stamps of a lesson on one canvas: the output, and around it what padding crops away."""

    def __init__(self, lesson: Lesson) -> None:
        self.lesson = lesson
        p = lesson.problem
        reach = [(i - 1) * s + d * (k - 1) + 1 for i, s, d, k in zip(p.in_size, p.stride, p.dilation, p.kernel)]
        self.shape = tuple(max(r, b + o) for r, b, o in zip(reach, lesson.before, p.out_size))
        self.output = tuple(slice(b, b + o) for b, o in zip(lesson.before, p.out_size))
        inside = np.zeros(self.shape, bool)
        inside[self.output] = True
        self.inside = inside
        stamps = np.array([self.stamp(pixel) for pixel in np.ndindex(*lesson.x.shape)])
        self.sums = np.cumsum(stamps, axis=0).reshape(*lesson.x.shape, *self.shape)
        values = np.concatenate([stamps, self.sums.reshape(stamps.shape)])
        self.top = grids.magnitude(values[:, inside])
        #: The widest number of any step, so that all steps have one size.
        self.widest = grids.widest(values)

    @property
    def crops(self) -> bool:
        """Whether padding crops anything away."""
        return not self.inside.all()

    def stamp(self, pixel: tuple[int, ...]) -> NDArray[Any]:
        """One pixel times the kernel, on the canvas."""
        canvas = np.zeros(self.shape, self.lesson.kernel.dtype)
        canvas[self._where(pixel)] = self.lesson.x[pixel] * self.lesson.kernel
        return canvas

    def touched(self, pixel: tuple[int, ...]) -> NDArray[np.bool_]:
        """The cells of one pixel's stamp."""
        mask = np.zeros(self.shape, bool)
        mask[self._where(pixel)] = True
        return mask

    def parts(self) -> tuple[Panel, Panel, Panel]:
        """Input, kernel, and the output that is still to be found."""
        unknown = grids.shaded(np.zeros(self.shape, int), grids.OUTPUT, kinds=self._kinds(np.zeros(self.shape, bool)))
        unknown.texts[self.inside] = "?"
        unknown.faint[...] = True
        x, kernel = self.lesson.x, self.lesson.kernel
        return (
            Panel("Input", grids.shaded(x, grids.INPUT), grids.size_note(x)),
            Panel("Kernel", grids.shaded(kernel, grids.KERNEL), grids.size_note(kernel)),
            Panel("Output", unknown, grids.size_note(self.lesson.y)),
        )

    def step(self, pixel: tuple[int, ...]) -> tuple[Panel, Panel, Panel]:
        """The pixel alone, its stamp, and the sum of all stamps up to it."""
        x, last = self.lesson.x, pixel == tuple(n - 1 for n in self.lesson.x.shape)
        at = int(np.ravel_multi_index(pixel, x.shape))
        alone = np.full(x.shape, grids.BLANK)
        alone[pixel] = grids.VALUE
        touched = self.touched(pixel)
        name = f"{grids.number(x[pixel])} {units.X} kernel"
        return (
            Panel(f"Pixel {at + 1}", grids.shaded(x, grids.INPUT, top=grids.magnitude(x), kinds=alone)),
            Panel(name, self.canvas(self.stamp(pixel), touched).framed(*self.boxes(pixel)), lead="+" if at else ""),
            Panel("= Output" if last else f"After pixel {at + 1}", self.so_far(pixel)),
        )

    def so_far(self, pixel: tuple[int, ...]) -> Cells:
        """The sum of all stamps up to a pixel's."""
        done = list(np.ndindex(*self.lesson.x.shape))[: int(np.ravel_multi_index(pixel, self.lesson.x.shape)) + 1]
        return self.canvas(self.sums[pixel], np.any([self.touched(each) for each in done], axis=0))

    def canvas(self, values: NDArray[Any], touched: NDArray[np.bool_]) -> Cells:
        """Cells of the canvas: numbers where a stamp was, grey outside of the output."""
        return replace(grids.shaded(values, grids.OUTPUT, top=self.top, kinds=self._kinds(touched)), widest=self.widest)

    def boxes(self, pixel: tuple[int, ...]) -> list[Box]:
        """Outlines of a stamp: one box, or one per tap where dilation tears it apart."""
        p = self.lesson.problem
        row, column = (i * s for i, s in zip(pixel, p.stride))
        if set(p.dilation) == {1}:
            return [(row, column, *p.kernel)]
        return [(row + a * p.dilation[0], column + b * p.dilation[1], 1, 1) for a, b in np.ndindex(*p.kernel)]

    def _where(self, pixel: tuple[int, ...]) -> tuple[slice, ...]:
        p = self.lesson.problem
        return tuple(slice(i * s, i * s + d * (k - 1) + 1, d) for i, s, d, k in zip(pixel, p.stride, p.dilation, p.kernel))

    def _kinds(self, touched: NDArray[np.bool_]) -> NDArray[Any]:
        kinds = np.where(touched, grids.VALUE, grids.BLANK)
        return np.where(self.inside, kinds, np.where(touched, grids.CROPPED, grids.OUTSIDE))
