"""The overlap count behind checkerboards: as a map of one layer, and its contrast over kernel and stride."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from tconv_bench import units
from tconv_bench.checkerboard import contrast, interior, overlap_count, overlap_period
from tconv_bench.figures import grids
from tconv_bench.figures.grids import Panel
from tconv_bench.figures.lesson import axes_text
from tconv_bench.plots import style
from tconv_bench.problem import as_int, per_axis

_MAP = "Blues"
_NARROW = 0.45  # inches of a cell that leave no room for three digits at 9 pt


@style.styled
def overlap(
    in_size: Any = (5, 5),
    kernel: Any = 3,
    stride: Any = 2,
    padding: Any = 0,
    output_padding: Any = 0,
    dilation: Any = 1,
) -> Figure:
    """How many products meet in each output pixel, and beside it the next larger kernel that the stride divides.

    ``in_size`` has one axis or two; sizes as for ``overlap_count``. Outlined: the pixels of which no product is missing at a
    border. The contrast is the repeating pattern's, (max - min) / (max + min).

    Source: Odena, Dumoulin & Olah, "Deconvolution and checkerboard artifacts", Distill 2016.
    """
    sizes = (in_size,) if np.ndim(in_size) == 0 else tuple(in_size)
    ndim = len(sizes)
    if ndim not in (1, 2):
        raise ValueError(f"in_size is {in_size!r}, but a figure shows 1 or 2 axes")
    kernels, strides = per_axis(kernel, ndim, "kernel", 1), per_axis(stride, ndim, "stride", 1)
    even = tuple(-(-k // s) * s for k, s in zip(kernels, strides))
    shown = [kernels] if even == kernels else [kernels, even]
    panels = [_counts(sizes, k, strides, padding, output_padding, dilation) for k in shown]
    subtitle = (
        "Products that are added up in each output pixel, whatever the weights. Outlined: away from the borders, where the "
        "count repeats with the stride; it is the same everywhere if the stride divides the kernel."
    )
    return grids.draw([panels], f"How many products meet in a pixel: stride {axes_text(strides)}", subtitle)


def _counts(
    sizes: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...], padding: Any, output_padding: Any, dilation: Any
) -> Panel:
    arguments = (sizes, kernel, stride, padding, output_padding, dilation)
    counts, inside = overlap_count(*arguments), interior(*arguments)
    if counts.ndim == 1:
        counts, inside = counts[None], (slice(0, 1), *inside)
    cells = grids.shaded(counts, grids.INPUT)
    (top, bottom), (left, right) = ((part.start, part.stop) for part in inside)
    if bottom > top and right > left:
        cells = cells.framed((top, left, bottom - top, right - left))
    found = contrast(overlap_period(kernel, stride, dilation))
    return Panel(f"Kernel {axes_text(kernel)}", cells, f"{grids.size_note(counts)}, contrast {_ratio(found)}")


def _ratio(value: Fraction) -> str:
    return f"{value} = {units.significant(float(value), 2)}" if value.denominator > 1 else str(value)


@style.styled
def overlap_map(kernels: int = 12, strides: int = 6, dilation: int = 1, ndim: int = 2) -> Figure:
    """Contrast of the overlap count for square kernels 1 .. ``kernels`` and strides 1 .. ``strides`` in ``ndim`` dimensions.

    ``dilation`` is the distance of the taps. ValueError for more than 24 kernels or strides, or 3 dimensions.

    Source: as of ``overlap``.
    """
    wide, high = as_int(kernels, "kernels", 1), as_int(strides, "strides", 1)
    for name, value, most in (("kernels", wide, 24), ("strides", high, 24), ("ndim", as_int(ndim, "ndim", 1), 3)):
        if value > most:
            raise ValueError(f"{name} is {value}, but must be <= {most}")
    contrasts = overlap_contrasts(wide, high, dilation, ndim)
    cell = min(0.58, (style.WIDTH - 0.8) / wide)
    body = cell * high + 0.6
    figure = style.sheet(body, "Where the checkerboard vanishes", _map_caption(ndim, dilation))
    figure.set_layout_engine("none")
    total = figure.get_figheight()
    axes = figure.add_axes((0.55 / style.WIDTH, 0.5 / total, cell * wide / style.WIDTH, cell * high / total))
    _draw_map(axes, contrasts, cell)
    return figure


def overlap_contrasts(kernels: int, strides: int, dilation: int = 1, ndim: int = 2) -> list[list[Fraction]]:
    """Contrast of the repeating count; row s - 1 holds stride s, column k - 1 kernel k."""
    return [[contrast(overlap_period((k,) * ndim, s, dilation)) for k in range(1, kernels + 1)] for s in range(1, strides + 1)]


def _map_caption(ndim: int, dilation: int) -> str:
    apart = f", taps {dilation} apart" if dilation > 1 else ""
    return (
        "Contrast (max - min) / (max + min) of the number of products per output pixel, away from the borders, in "
        f"{ndim}-D{apart}. Outlined: none, since the stride divides the kernel. Hatched: some pixels get no product at all."
    )


def _draw_map(axes: Axes, contrasts: list[list[Fraction]], cell: float) -> None:
    high, wide = len(contrasts), len(contrasts[0])
    colours = matplotlib.colormaps[_MAP]
    fills = np.array([[colours(0.75 * float(value))[:3] if value else to_rgb("white") for value in row] for row in contrasts])
    axes.pcolormesh(np.arange(wide + 1) + 0.5, np.arange(high + 1) + 0.5, fills, edgecolors="white", linewidth=0.8)
    for (row, column), fill in zip(np.ndindex(high, wide), fills.reshape(-1, 3)):
        _draw_contrast(axes, column + 1, row + 1, contrasts[row][column], fill, cell)
    axes.set(xlim=(0.5, wide + 0.5), ylim=(high + 0.5, 0.5), xlabel="kernel", ylabel="stride")
    axes.set_xticks(range(1, wide + 1))
    axes.set_yticks(range(1, high + 1))
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _draw_contrast(axes: Axes, x: int, y: int, value: Fraction, fill: NDArray[np.float64], cell: float) -> None:
    backing = None
    if value == 1:
        box = Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=style.GAP, edgecolor="#c3c9d0", linewidth=0, hatch="////")
        axes.add_patch(box)
        backing = {"facecolor": style.GAP, "edgecolor": "none", "pad": 0.8}
    elif value == 0:
        axes.add_patch(Rectangle((x - 0.44, y - 0.44), 0.88, 0.88, fill=False, edgecolor=style.INK, linewidth=1.2))
    text = units.significant(float(value), 2) if value.denominator > 1 else str(value)
    size = 9.0 if cell > _NARROW else style.SMALL
    if value.denominator > 1 and cell <= _NARROW:
        text = f"{float(value):.2f}".removeprefix("0")
    ink = style.INK if backing else style.text_on(fill)
    weight = "normal" if value else "bold"
    axes.text(x, y, text, color=ink, fontsize=size, fontweight=weight, ha="center", va="center_baseline", bbox=backing)
