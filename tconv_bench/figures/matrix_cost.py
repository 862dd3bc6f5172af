"""What the convolution matrix costs as images grow: bytes dense and as CSR, and how few of its elements are entries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from tconv_bench import units
from tconv_bench.convolution_matrix import MatrixSize, matrix_size
from tconv_bench.figures import grids
from tconv_bench.plots import style
from tconv_bench.problem import as_int

_SIDES = (4, 8, 16, 32, 64, 128, 256, 512, 1024)


@style.styled
def matrix_bytes(
    sides: Sequence[int] = _SIDES, kernel: int = 3, stride: int = 1, padding: int = 0, dtype: str = "float32"
) -> Figure:
    """Bytes of C for square images, dense and as CSR, beside the image's own; and the part of its elements that are entries.

    ``sides`` are the images' sides in pixels, at least two; ``kernel``, ``stride`` and ``padding`` one integer for both axes,
    ``dtype`` that of the values. ValueError and TypeError as by ``matrix_size``.

    Source: ``matrix_size``, and arXiv:1603.07285, section 4.1.
    """
    lengths = [as_int(side, "sides", 1) for side in sides]
    if len(lengths) < 2:
        raise ValueError(f"sides is {tuple(lengths)}, but must hold at least two image sides")
    sizes = [matrix_size((side, side), kernel, stride, padding, dtype=dtype) for side in lengths]
    itemsize = np.dtype(dtype).itemsize
    body = 3.5
    subtitle = (
        f"Matrix of one {kernel}x{kernel} convolution, stride {stride}, padding {padding}, one channel, {dtype}. A dense "
        "matrix grows with the fourth power of the image's side, its entries with the second."
    )
    figure = style.sheet(body, "Bytes of the convolution matrix", subtitle, margin=0.1)
    left, right = figure.subplots(1, 2, width_ratios=(1.35, 1))
    lines = {
        "dense": ([size.dense_bytes for size in sizes], grids.KERNEL, "s"),
        "CSR": ([size.csr_bytes for size in sizes], grids.INPUT, "o"),
        "image": ([side**2 * itemsize for side in lengths], style.FAINT, "^"),
    }
    for name, (values, color, marker) in lines.items():
        _line(left, lengths, values, name, color, marker)
    _side_axis(left, lengths)
    _byte_axis(left, [value for values, _, _ in lines.values() for value in values])
    _line(right, lengths, [share(size) for size in sizes], "", grids.INPUT, "o")
    _side_axis(right, lengths)
    right.set_yscale("log")
    right.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:g} %"))
    right.yaxis.set_minor_locator(NullLocator())
    right.set_title("entries, as a share of all elements", loc="left")
    left.set_title("bytes", loc="left")
    return figure


def share(size: MatrixSize) -> float:
    """The part of a matrix' elements that are entries."""
    return size.entries / (size.rows * size.columns)


def _line(axes: Axes, x: list[int], y: list[Any], name: str, color: str, marker: str) -> None:
    axes.plot(x, y, color=color, marker=marker, label=name)
    axes.annotate(
        name, (x[-1], y[-1]), xytext=(7, 0), textcoords="offset points", va="center_baseline",
        color=style.readable(color), fontweight="bold",
    )  # fmt: skip


def _side_axis(axes: Axes, lengths: list[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(sorted(set(lengths))))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("side of the image, pixels")
    axes.grid()


def _byte_axis(axes: Axes, values: list[int]) -> None:
    axes.set_yscale("log", base=2)
    low, high = np.floor(np.log2(min(values)) / 10) * 10, np.log2(max(values)) + 1
    axes.yaxis.set_major_locator(FixedLocator([2.0**p for p in np.arange(low, high, 10)]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: units.size_tick(v)))
    axes.yaxis.set_minor_locator(NullLocator())
