"""Checkerboards in numbers: outputs and spectra of six up-samplers, maps over kernel and stride, and what training leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray

from tconv_bench.checkerboard import kernel_pattern, spectral_peak, study
from tconv_bench.checkerboard.optimum import optimum
from tconv_bench.checkerboard.spectra import decibels, power_spectrum
from tconv_bench.checkerboard.study import Row
from tconv_bench.checkerboard.training import flat_pattern, images
from tconv_bench.figures import grids
from tconv_bench.plots import style

NONE = -200.0  # dB: what is below is rounding
_MAP = "Blues"
_LEAST, _MOST = -70.0, 12.0  # dB of the maps' lightest and darkest blue
_DRAWS = 100  # random networks of a cell
_LEVELS = 24  # of grey
_CROP = 36  # pixels of an output that are shown
_RANGE = (-75.0, -15.0)  # dB of a spectrum's bins, relative to the image's variance
_NAMES = {
    "transposed": "transposed",
    "nearest": "nearest + conv",
    "bilinear": "bilinear + conv",
    "shuffle": "conv + shuffle",
    "icnr": "shuffle, ICNR",
}
_COLOURS = (grids.KERNEL, grids.INPUT, grids.OUTPUT, "#56B4E9", "#CC79A7", "#E69F00")
_MINUS = "\N{MINUS SIGN}"


def in_decibels(value: float, digits: int = 0) -> str:
    """A pattern's strength in a cell: a true minus sign, "none" where only rounding is left.

    >>> in_decibels(-39.4), in_decibels(4.77, 1), in_decibels(-0.2), in_decibels(-310.0)
    ('−39', '4.8', '0', 'none')
    """
    return "none" if value < NONE else f"{round(value, digits) + 0.0:.{digits}f}".replace("-", _MINUS)


@style.styled
def checkerboard_spectra(rows: Sequence[Row] | None = None) -> Figure:
    """Outputs of six up-samplers of scale 2 and their spectra, with random and with trained weights; stored rows if None.

    Source: ``spectral_peak`` of stored rows; Frank et al., ICML 2020.
    """
    pictured = _pictured(study.read() if rows is None else rows)
    wide, gap, left, top = 1.19, 0.09, 0.27, 0.24
    band = 2 * wide + 0.5
    body = top + 2 * band + 0.1
    original = spectral_peak(images(False), 2)
    subtitle = (
        "One network, six ways to double its image: a corner of an output, and the power spectrum of eight (frequency 0 in "
        "the middle, 1/2 at the borders, dark is strong). Circles: the frequencies of the stride. Below, in dB: the ripple "
        "that flat grey comes out with, and the strongest circle above its surroundings "
        f"({in_decibels(original, 1)} in the originals)."
    )
    figure = style.sheet(body, "The checkerboard and its spectrum", subtitle)
    figure.set_layout_engine("none")
    total = figure.get_figheight()

    def panel(column: int, from_top: float) -> Axes:
        bottom = body - from_top - wide
        axes = figure.add_axes(((left + column * (wide + gap)) / style.WIDTH, bottom / total, wide / style.WIDTH, wide / total))
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(visible=True, color=style.RULE)
        return axes

    for column, row in enumerate(pictured):
        for band_at, (state, weights) in enumerate((("random", study.start(row.case)), ("trained", row.arrays()))):
            start = top + band_at * band
            out = study.outputs(row.case, weights)
            picture, spectrum = panel(column, start), panel(column, start + wide + 0.06)
            _draw_crop(picture, out[0])
            _draw_spectrum(spectrum, out)
            ripple = flat_pattern(row.case.form, weights).decibels
            rippled = f"ripple {in_decibels(ripple)}" if ripple > NONE else "no ripple"
            says = f"{rippled}, peak {in_decibels(spectral_peak(out, 2))}"
            spectrum.text(0.5, -0.04, says, transform=spectrum.transAxes, fontsize=style.SMALL, ha="center", va="top")
            if not band_at:
                picture.set_title(_title(row), fontsize=style.SMALL, pad=4)
            if not column:
                picture.set_ylabel(f"{state} weights", fontweight="bold", labelpad=5)
    return figure


def _pictured(rows: Sequence[Row]) -> list[Row]:
    found = {row.case: row for row in rows if row.weights}
    missing = [case for case in study.PICTURED if case not in found]
    if missing:
        raise ValueError(f"there is no row with weights of {missing[0]}; `tconv-bench checkerboard-train` makes them")
    return [found[case] for case in study.PICTURED]


def _title(row: Row) -> str:
    return f"{row.operator} {row.kernel}x{row.kernel}" if row.operator == "transposed" else _NAMES[row.operator]


def _greys(name: str) -> Colormap:
    """Few levels, so that the file stays small."""
    return matplotlib.colormaps[name].resampled(_LEVELS)


def _draw_crop(axes: Axes, image: NDArray[np.float64]) -> None:
    crop = image[:_CROP, :_CROP]
    low, high = np.percentile(crop, (1, 99))
    axes.imshow(crop, cmap=_greys("gray"), vmin=low, vmax=high, interpolation="none")


def _draw_spectrum(axes: Axes, images: NDArray[np.float64]) -> None:
    variance = images.var(axis=(1, 2)).mean()
    shown = 10 * np.log10(np.fft.fftshift(power_spectrum(images / np.sqrt(variance), 2)) + 1e-30)
    side = len(shown)
    axes.imshow(shown, cmap=_greys("Greys"), vmin=_RANGE[0], vmax=_RANGE[1], interpolation="none")
    for x, y in ((0, 0), (0, side / 2), (side / 2, 0)):
        axes.plot(x, y, "o", markersize=9, markerfacecolor="none", color=grids.KERNEL, markeredgewidth=1.2, clip_on=False)


@style.styled
def checkerboard_map(rows: Sequence[Row] | None = None) -> Figure:
    """The pattern on flat areas over kernel and stride: of counts, random, trained and best kernels; stored rows if None.

    Source: ``kernel_pattern`` of stored rows; Odena, Dumoulin & Olah, Distill 2016.
    """
    known = study.read() if rows is None else rows
    panels: list[tuple[str, Callable[[int, int], float]]] = [
        ("Overlap count: all taps equal", lambda k, s: kernel_pattern(np.ones((k, k)), s).decibels),
        (f"Random weights: {_DRAWS} networks together", lambda k, s: study.random_pattern("transposed", k, s, _DRAWS).decibels),
        (f"After {study.STEPS} steps of training", partial(_median, known)),
        ("Best kernel, without a network", lambda k, s: optimum(k, s).pattern.decibels),
    ]
    subtitle = (
        "The pattern that flat grey comes out with, in dB: standard deviation over the stride's phases against the level (0: "
        f"as strong as the image, {_MINUS}40: 1 % of it). Outlined: none. Left of the bar the kernel is smaller than the "
        "stride, and some pixels get no product."
    )
    cell, left, head, foot = 0.375, 0.5, 0.3, 0.4
    wide, high = cell * len(study.KERNELS), cell * len(study.STRIDES)
    step_x, step_y = style.WIDTH / 2 - 0.02, head + high + foot
    body = 2 * step_y + 0.05
    figure = style.sheet(body, "Checkerboards over kernel and stride", subtitle)
    figure.set_layout_engine("none")
    total = figure.get_figheight()
    for at, (title, value) in enumerate(panels):
        row, column = divmod(at, 2)
        place = (left + column * step_x, body - row * step_y - head - high)
        axes = figure.add_axes((place[0] / style.WIDTH, place[1] / total, wide / style.WIDTH, high / total))
        axes.set_title(title, loc="left")
        _draw_map(axes, np.array([[value(k, s) for k in study.KERNELS] for s in study.STRIDES]))
    return figure


def _median(rows: Sequence[Row], kernel: int, stride: int) -> float:
    return decibels(study.median_ripple(rows, "transposed", kernel, stride) ** 2)


def _draw_map(axes: Axes, values: NDArray[np.float64]) -> None:
    high, wide = values.shape
    colours = matplotlib.colormaps[_MAP]
    shades = 0.8 * np.clip((values - _LEAST) / (_MOST - _LEAST), 0, 1)
    fills = np.array(
        [[to_rgb("white") if v < NONE else colours(shade)[:3] for v, shade in zip(*line)] for line in zip(values, shades)]
    )
    axes.pcolormesh(np.arange(wide + 1) + 0.5, np.arange(high + 1) + 0.5, fills, edgecolors="white", linewidth=0.8)
    for row, column in np.ndindex(high, wide):
        none = values[row, column] < NONE
        if none:
            axes.add_patch(Rectangle((column + 0.56, row + 0.56), 0.88, 0.88, fill=False, edgecolor=style.INK, linewidth=1.0))
        axes.text(
            column + 1, row + 1, in_decibels(values[row, column]), fontsize=style.SMALL, ha="center", va="center_baseline",
            color=style.text_on(fills[row, column]), fontweight="bold" if none else "normal",
        )  # fmt: skip
        stride = study.STRIDES[row]
        axes.plot((stride - 0.5,) * 2, (row + 0.5, row + 1.5), color=style.INK, linewidth=1.6, solid_capstyle="butt")
    axes.set(xlim=(0.5, wide + 0.5), ylim=(high + 0.5, 0.5), xlabel="kernel", ylabel="stride")
    axes.set_xticks(range(1, wide + 1))
    axes.set_yticks(range(1, high + 1), labels=list(map(str, study.STRIDES)))
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


@style.styled
def checkerboard_training(rows: Sequence[Row] | None = None) -> Figure:
    """The pattern on flat areas while networks learn to double an image, per up-sampler; stored rows if None.

    Source: as of ``checkerboard_map``.
    """
    known = study.read() if rows is None else rows
    subtitle = (
        f"Ripple of flat grey, median of {study.SEEDS} networks. A kernel that the stride does not divide ends where one ends "
        "that it divides. ICNR starts with none and learns it. Resizing before the convolution has none at any step."
    )
    body = 3.3
    figure = style.sheet(body, "What training leaves of the checkerboard, stride 2", subtitle, margin=0.1)
    axes = figure.subplots()
    lines = [("transposed", 1), ("transposed", 2), ("transposed", 3), ("transposed", 4)]
    lines += [(operator, study.CONVOLUTION) for operator in ("shuffle", "icnr")]
    steps = np.array(study.WATCHED)
    for (operator, kernel), color, marker in zip(lines, _COLOURS, "osD^vP"):
        ripples = [study.median_ripple(known, operator, kernel, 2, at) for at in range(len(steps))]
        values = np.array([decibels(ripple**2) for ripple in ripples])
        shown = values > NONE
        name = f"{operator} {kernel}x{kernel}" if operator == "transposed" else _NAMES[operator]
        axes.plot(steps[shown], values[shown], color=color, marker=marker, label=name)
    axes.set_xscale("symlog", linthresh=10, linscale=0.6)
    axes.set_xlim(-0.8, study.STEPS * 1.08)
    axes.xaxis.set_major_locator(FixedLocator(study.WATCHED))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(FixedLocator(list(np.arange(10 * np.ceil(low / 10), high, 10))))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: in_decibels(value)))
    axes.set(xlabel="steps of training", ylabel="ripple, dB")
    axes.grid()
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
