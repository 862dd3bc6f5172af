"""Zero insertion, step by step: stretch, pad, convolve with the flipped kernel."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from tconv_bench.figures import grids
from tconv_bench.figures.grids import Panel
from tconv_bench.figures.lesson import KERNEL, SMALL_INPUT, lesson
from tconv_bench.figures.windows import Windows
from tconv_bench.plots import style

_COLUMNS = 22  # cells that have room for two-digit numbers in one line


@style.styled
def zero_insertion(
    x: ArrayLike = SMALL_INPUT,
    kernel: ArrayLike = KERNEL,
    stride: Any = 2,
    padding: Any = 0,
    output_padding: Any = 0,
    dilation: Any = 1,
) -> Figure:
    """Input, stretched input, padded input, flipped kernel and output; outlined is what one output pixel reads.

    ``x`` and ``kernel`` have one axis or two; sizes as for ``conv_transpose2d``.

    Source: Dumoulin & Visin, "A guide to convolution arithmetic for deep learning", arXiv:1603.07285, section 4.
    """
    given = lesson(x, kernel, stride, padding, output_padding, dilation)
    windows = Windows(given)
    pixel = windows.example()
    flipped = given.kernel[::-1, ::-1]
    padded = [
        Panel("Input", grids.shaded(given.x, grids.INPUT), grids.size_note(given.x)),
        Panel("Stretched", windows.stretched_cells(), windows.stretched_text(), grids.ARROW),
        Panel("Padded", windows.cells().framed(*windows.boxes(pixel)), windows.pads_text(), grids.ARROW),
    ]
    convolved = [
        Panel("Flipped kernel", grids.shaded(flipped, grids.KERNEL), windows.kernel_text(), grids.CONVOLVE),
        Panel("Output", grids.shaded(given.y, grids.OUTPUT).framed((pixel[0], pixel[1], 1, 1)), grids.size_note(given.y), "="),
    ]
    columns = sum(panel.cells.columns for panel in padded + convolved)
    zeros = 1 - given.x.size / windows.values.size
    subtitle = (
        "Zeros between the pixels (white) and around them (grey), then an ordinary convolution with the flipped kernel. "
        f"Outlined: {windows.sum_text(pixel, style.WIDTH)}. {100 * zeros:.0f} % of the padded input was put in."
    )
    lines = [padded + convolved] if columns <= _COLUMNS else [padded, convolved]
    return grids.draw(lines, "Transposed convolution by zero insertion", subtitle, largest=0.34)
