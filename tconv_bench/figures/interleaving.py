"""Phase decomposition: stride^d small convolutions, one per phase of the output, whose results interleave."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from tconv_bench.figures import grids
from tconv_bench.figures.grids import Cells, Panel
from tconv_bench.figures.lesson import KERNEL, SMALL_INPUT, Lesson, lesson
from tconv_bench.plots import style

# Paul Tol's light scheme, made for black type in coloured cells; in this order neighbouring phases differ in lightness too.
TINTS = ("#77AADD", "#EEDD88", "#FFAABB", "#44BB99", "#EE8866", "#99DDFF", "#BBCC33", "#DDDDDD", "#AAAA00")
_COLUMN = 0.24  # inches of a cell that decide how many phases stand side by side


@style.styled
def phases(
    x: ArrayLike = SMALL_INPUT,
    kernel: ArrayLike = KERNEL,
    stride: Any = 2,
    padding: Any = 0,
    output_padding: Any = 0,
    dilation: Any = 1,
) -> Figure:
    """The kernel's taps by phase, each phase's small kernel, and the output pixels that it makes, in a colour per phase.

    ``x`` and ``kernel`` have one axis or two; sizes as for ``conv_transpose2d``.

    Source: Vaidyanathan, "Multirate systems and filter banks", 1993, section 4.3.
    """
    given = lesson(x, kernel, stride, padding, output_padding, dilation)
    steps = given.problem.stride
    of_taps, of_pixels = phase_of_taps(given), phase_of_pixels(given)
    lines: list[list[Panel]] = [
        [
            Panel("Input", grids.shaded(given.x, grids.INPUT), grids.size_note(given.x)),
            Panel("Kernel", grids.tinted(given.kernel, _tints(of_taps)), grids.size_note(given.kernel), grids.TRANSPOSE),
            Panel("Output", grids.tinted(given.y, _tints(of_pixels)), grids.size_note(given.y), "="),
        ]
    ]
    pairs = [_pair(given, number, of_taps, of_pixels) for number in range(steps[0] * steps[1])]
    columns = max(sum(panel.cells.columns for panel in pair) for pair in pairs)
    side = min(steps[1], grids.abreast([panel for pair in pairs for panel in pair], columns, _COLUMN, 1.1, width=7.6))
    for start in range(0, len(pairs), side):
        lines.append([panel for pair in pairs[start : start + side] for panel in pair])
    subtitle = (
        f"Output pixels a stride apart use the same taps, and no others. So {len(pairs)} small kernels, one per colour, make "
        "the output without a single inserted zero; their pixels interleave."
        + (f" Colours come again after {len(TINTS)}." if len(pairs) > len(TINTS) else "")
    )
    return grids.draw(lines, "Transposed convolution by phases", subtitle, largest=0.34)


def phase_of_taps(given: Lesson) -> NDArray[np.intp]:
    """The number of each tap's phase, in C order of the phases."""
    p = given.problem
    return _numbers([np.arange(k) * d % s for k, d, s in zip(p.kernel, p.dilation, p.stride)], p.stride)


def phase_of_pixels(given: Lesson) -> NDArray[np.intp]:
    """The number of each output pixel's phase."""
    p = given.problem
    return _numbers([(np.arange(o) + b) % s for o, b, s in zip(p.out_size, given.before, p.stride)], p.stride)


def small_kernel(given: Lesson, number: int) -> NDArray[Any]:
    """The taps of one phase as a kernel; empty where no tap meets it."""
    found = phase_of_taps(given) == number
    return given.kernel[np.ix_(found.any(axis=1), found.any(axis=0))]


def _numbers(along: list[NDArray[np.intp]], stride: tuple[int, ...]) -> NDArray[np.intp]:
    rows, columns = along
    return rows[:, None] * stride[1] + columns


def _tints(numbers: NDArray[np.intp]) -> NDArray[np.float64]:
    return np.array([to_rgb(tint) for tint in TINTS])[numbers % len(TINTS)]


def _pair(given: Lesson, number: int, of_taps: NDArray[np.intp], of_pixels: NDArray[np.intp]) -> list[Panel]:
    small, mine = small_kernel(given, number), of_pixels == number
    row, column = divmod(number, given.problem.stride[1])
    taps = "1 tap" if small.size == 1 else f"{grids.size_note(small)} taps" if small.size else "no tap"
    fills = np.where(mine[..., None], _tints(of_pixels), 1.0)
    made = grids.tinted(given.y, fills)
    made.texts[~mine] = ""
    return [
        Panel(f"Phase {row}, {column}", _kernel_cells(small, number), taps),
        Panel("", made, f"{np.count_nonzero(mine)} pixels", grids.ARROW),
    ]


def _kernel_cells(small: NDArray[Any], number: int) -> Cells:
    if small.size == 0:
        return grids.shaded([[0]], grids.KERNEL, kinds=np.array([[grids.OUTSIDE]]))
    return grids.tinted(small, _tints(np.full(small.shape, number)))
