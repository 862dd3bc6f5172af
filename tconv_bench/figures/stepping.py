"""Convolution arithmetic in the manner of Dumoulin & Visin: where the window stands for each output pixel, as stills or frames.

Source: Dumoulin & Visin, arXiv:1603.07285, figures 4.1 to 4.7.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from tconv_bench.figures import grids
from tconv_bench.figures.grids import Panel
from tconv_bench.figures.lesson import STAMP, STAMPED, Lesson, lesson
from tconv_bench.figures.windows import Windows
from tconv_bench.plots import style
from tconv_bench.problem import as_int

_CROWDED = 60  # columns of a frame that leave no room for the kernel beside them
_COLUMN = 0.2  # inches of a cell that decide how many steps stand side by side
FRAME_WIDTH = 6.0
_EXPLAINED = (
    "Each output pixel is what the flipped kernel's window (outlined) finds in the input, stretched by the stride (white) and "
    "padded (grey)."
)


@style.styled
def arithmetic(
    x: ArrayLike = STAMPED,
    kernel: ArrayLike = STAMP,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    dilation: Any = 1,
    *,
    steps: int = 12,
) -> Figure:
    """One panel per output pixel: the window over the stretched, padded input, and the output so far.

    Of more than ``steps`` output pixels only the essential ones are shown: the corners, and in the middle one pixel per phase
    of the stride. ``x`` and ``kernel`` have one axis or two; sizes as for ``conv_transpose2d``.

    Source: Dumoulin & Visin, "A guide to convolution arithmetic for deep learning", arXiv:1603.07285, figures 4.1 to
    4.7.
    """
    given = lesson(x, kernel, stride, padding, output_padding, dilation)
    windows = Windows(given)
    pixels = list(np.ndindex(*given.y.shape))
    shown = pixels if len(pixels) <= as_int(steps, "steps", 1) else essential(given)
    columns = windows.shape[1] + given.y.shape[1]
    pairs = [_step(windows, pixel, f"Step {pixels.index(pixel) + 1}") for pixel in shown]
    side = grids.abreast([panel for pair in pairs for panel in pair], columns, _COLUMN, 0.9)
    side = min(side, given.y.shape[1] if shown is pixels else 4)
    lines = [[panel for pair in pairs[start : start + side] for panel in pair] for start in range(0, len(pairs), side)]
    lines.insert(0, [Panel("Input", grids.shaded(given.x, grids.INPUT)), _kernel(given)])
    subtitle = f"{_sizes(given)} {_EXPLAINED}"
    if shown is not pixels:
        subtitle += f" {len(shown)} of {len(pixels)} steps: the corners, and one pixel per phase of the stride in the middle."
    return grids.draw(lines, "Transposed convolution, step by step", subtitle)


def essential(given: Lesson) -> list[tuple[int, ...]]:
    """The output's corners and, in its middle, one pixel per phase of the stride, in C order."""
    corners = [sorted({0, o - 1}) for o in given.y.shape]
    middle = [range(min(o // 2, max(0, o - s)), min(o // 2 + s, o)) for o, s in zip(given.y.shape, given.problem.stride)]
    return sorted({(row, column) for rows, columns in (corners, middle) for row in rows for column in columns})


def arithmetic_frames(
    x: ArrayLike = STAMPED,
    kernel: ArrayLike = STAMP,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    dilation: Any = 1,
) -> list[Figure]:
    """The steps of ``arithmetic`` as figures of one size, one per output pixel, for ``save_gif``.

    Source: as of ``arithmetic``.
    """
    windows = Windows(lesson(x, kernel, stride, padding, output_padding, dilation))
    return [_frame(windows, pixel, number) for number, pixel in enumerate(np.ndindex(*windows.lesson.y.shape), start=1)]


@style.styled
def _frame(windows: Windows, pixel: tuple[int, ...], number: int) -> Figure:
    given = windows.lesson
    total = windows.sum_text(pixel, FRAME_WIDTH - 2 * grids.MARGIN)
    window, output = _step(windows, pixel, f"Step {number} of {given.y.size}", "Output")
    beside = windows.shape[1] + given.y.shape[1] <= _CROWDED / 2
    lines = [[_kernel(given), window, output]] if beside else [[_kernel(given), window], [output]]
    return grids.draw(lines, "Transposed convolution", _sizes(given), foot=total, width=FRAME_WIDTH)


def _kernel(given: Lesson) -> Panel:
    return Panel("Flipped kernel", grids.shaded(given.kernel[::-1, ::-1], grids.KERNEL))


def _step(windows: Windows, pixel: tuple[int, ...], title: str, output_title: str = "") -> list[Panel]:
    y = windows.lesson.y
    done = np.arange(y.size).reshape(y.shape) <= np.ravel_multi_index(pixel, y.shape)
    output = grids.shaded(y, grids.OUTPUT, top=grids.magnitude(y), kinds=np.where(done, grids.VALUE, grids.BLANK))
    return [
        Panel(title, windows.cells().framed(*windows.boxes(pixel))),
        Panel(output_title, output.framed((pixel[0], pixel[1], 1, 1)), lead=grids.ARROW),
    ]


def _sizes(given: Lesson) -> str:
    """The sizes in words, those at their default left out."""
    p, text = given.problem, given.axes_text
    parts = [f"input {text(p.in_size)}", f"kernel {text(p.kernel)}", f"stride {text(p.stride)}"]
    if any(map(any, p.padding)):
        parts.append("padding " + text([b if b == a else f"{b}:{a}" for b, a in p.padding]))
    if any(p.output_padding):
        parts.append(f"output padding {text(p.output_padding)}")
    if set(p.dilation) != {1}:
        parts.append(f"dilation {text(p.dilation)}")
    return f"{', '.join(parts)}.".capitalize()
