"""Transposed convolution from the output's side: which pixels and which taps meet in an output pixel.

Along one axis output pixel ``o`` collects the taps ``k`` for which ``o + pad_before - k*dilation`` is a multiple of the stride
and the input has that pixel: each a pair of one pixel and one tap.

Source: Dumoulin & Visin, arXiv:1603.07285, section 4.6, read from the output's side.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from tconv_bench.figures import grids
from tconv_bench.figures.grids import Panel
from tconv_bench.figures.lesson import KERNEL, SMALL_INPUT, Lesson, lesson
from tconv_bench.figures.stepping import essential
from tconv_bench.figures.windows import Windows
from tconv_bench.plots import style
from tconv_bench.problem import as_int

_COLUMN = 0.27  # inches of a cell that decide how many steps stand side by side


@style.styled
def gather(
    x: ArrayLike = SMALL_INPUT,
    kernel: ArrayLike = KERNEL,
    stride: Any = 2,
    padding: Any = 0,
    output_padding: Any = 0,
    dilation: Any = 1,
    *,
    steps: int = 12,
) -> Figure:
    """Input, kernel and output for each output pixel; outlined are the pixels and taps that meet in it.

    Of more than ``steps`` output pixels only the essential ones are shown: the corners, and in the middle one pixel per phase
    of the stride. ``x`` and ``kernel`` have one axis or two; sizes, and what is raised, as for ``conv_transpose2d``.

    Source: Dumoulin & Visin, "A guide to convolution arithmetic for deep learning", arXiv:1603.07285, section 4.6,
    read from the output's side.
    """
    given = lesson(x, kernel, stride, padding, output_padding, dilation)
    pixels = list(np.ndindex(*given.y.shape))
    shown = pixels if len(pixels) <= as_int(steps, "steps", 1) else essential(given)
    columns = given.x.shape[1] + given.kernel.shape[1] + given.y.shape[1]
    steps_shown = [_step(given, pixel) for pixel in shown]
    side = grids.abreast([panel for step in steps_shown for panel in step], columns, _COLUMN, 1.2)
    lines = [
        [panel for step in steps_shown[start : start + side] for panel in step] for start in range(0, len(steps_shown), side)
    ]
    subtitle = "Each output pixel is the sum of the products that meet in it. Outlined: the input pixels and the taps that do."
    if shown is not pixels:
        subtitle += f" {len(shown)} of {len(pixels)} pixels: the corners, and one per phase of the stride in the middle."
    return grids.draw(lines, "Transposed convolution: gather", subtitle, largest=0.34)


def _step(given: Lesson, pixel: tuple[int, ...]) -> list[Panel]:
    pairs = given.taps(pixel)
    done = np.arange(given.y.size).reshape(given.y.shape) <= np.ravel_multi_index(pixel, given.y.shape)
    output = grids.shaded(given.y, grids.OUTPUT, kinds=np.where(done, grids.VALUE, grids.BLANK), top=grids.magnitude(given.y))
    read = grids.shaded(given.x, grids.INPUT).framed(*((i[0], i[1], 1, 1) for i, _ in pairs))
    taps = grids.shaded(given.kernel, grids.KERNEL).framed(*((k[0], k[1], 1, 1) for _, k in pairs))
    place = pixel[1] if given.ndim == 1 else f"{pixel[0]}, {pixel[1]}"
    room = max(1.4, _COLUMN * given.y.shape[1])
    return [
        Panel("Input", read),
        Panel("Kernel", taps),
        Panel(f"Output {place}", output.framed((pixel[0], pixel[1], 1, 1)), Windows(given).sum_text(pixel, room), grids.ARROW),
    ]
