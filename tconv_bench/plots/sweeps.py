"""Time against one swept number: size, channels, kernel or dimensions, on log axes with 95 % bands."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from textwrap import wrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from tconv_bench import units
from tconv_bench.plots import rows, style
from tconv_bench.plots.rows import Layer, NothingToDrawError
from tconv_bench.plots.style import Look
from tconv_bench.problem import Problem
from tconv_bench.store import Measurement


@dataclass(frozen=True)
class Sweep:
    """What a suite varies, how its axis is called, and what else changes along with it."""

    suite: str
    title: str
    label: str
    value: Callable[[Problem], int]
    fixed: Callable[[Problem], Hashable]
    log: bool = True


SIZES = Sweep(
    "sizes",
    "input size",
    "input size, pixels per axis",
    lambda p: p.in_size[0],
    lambda p: (
        p.ndim,
        p.batch,
        p.c_in,
        p.c_out,
        p.kernel,
        p.stride,
        p.padding,
        p.output_padding,
        p.groups,
        p.dilation,
        p.dtype,
    ),
)
SWEEPS = (
    Sweep(
        "channels",
        "channels",
        "channels",
        lambda p: p.c_in,
        lambda p: (p.batch, p.in_size, p.kernel, p.stride, p.padding, p.output_padding, p.groups, p.dilation, p.dtype),
    ),
    Sweep(
        "kernels",
        "kernel size",
        "kernel size, taps per axis",
        lambda p: p.kernel[0],
        lambda p: (p.batch, p.c_in, p.c_out, p.in_size, p.stride, p.groups, p.dilation, p.dtype),
    ),
    Sweep("dimensions", "dimensions", "spatial dimensions", lambda p: p.ndim, lambda p: p.dtype, log=False),
)


@style.styled
def time_against_size(measurements: list[Measurement]) -> Figure:
    """Median time against input size, and below it the time as a multiple of the fastest method's."""
    groups = rows.panels(rows.timed_layers(measurements, ("sizes",)), SIZES.fixed)
    names = rows.method_names(layer for _, group in groups for layer in group)
    palette = style.looks(names)
    body = 5.6
    key = style.legend_height(names) if len(groups) > 1 else 0.0
    subtitle = (
        f"{style.sentence(groups[0][0] if len(groups) == 1 else '')}Line: median; band: its 95 % interval. "
        "Lower panel: time divided by the time of the fastest method at that size."
    )
    figure = style.sheet(body, "Time against input size", subtitle, key=key)
    if key:
        style.add_legend(figure, palette, body)
    grid = figure.subplots(2, len(groups), sharex="col", squeeze=False, height_ratios=(3, 2))
    for column, (name, group) in enumerate(groups):
        top, bottom = grid[:, column]
        _times(top, group, SIZES, palette)
        _slowdowns(bottom, group, SIZES, palette)
        if key:
            _tokens(top, name)
        top.set_xlabel("")
        top.tick_params(labelbottom=False)
        if not key:
            _end_labels(top, group, SIZES, palette)
    grid[0, 0].set_ylabel("median time")
    grid[1, 0].set_ylabel("time / fastest")
    return figure


@style.styled
def time_sweeps(measurements: list[Measurement]) -> Figure:
    """Median time against channels, kernel size and dimensions: one panel per suite that is present."""
    drawn: list[tuple[Sweep, str, list[Layer]]] = []
    for sweep in SWEEPS:
        group = [layer for layer in rows.layers(measurements, (sweep.suite,)) if layer.medians]
        drawn += [(sweep, name, part) for name, part in (rows.panels(group, sweep.fixed) if group else [])]
    if not drawn:
        raise NothingToDrawError("no timed row in suite channels, kernels or dimensions")
    names = rows.method_names(layer for _, _, group in drawn for layer in group)
    palette = style.looks(names)
    columns = min(3, len(drawn))
    lines = -(-len(drawn) // columns)
    body = 3.1 * lines
    figure = style.sheet(
        body,
        f"Time against {style.listed(list(dict.fromkeys(s.title for s, _, _ in drawn)))}",
        "Line: median time; band: its 95 % interval. Every panel has its own scales.",
        key=style.legend_height(names),
    )
    style.add_legend(figure, palette, body)
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes, (sweep, name, group) in zip(grid.flat, drawn):
        _times(axes, group, sweep, palette)
        _tokens(axes, name)
    for axes in list(grid.flat)[len(drawn) :]:
        axes.set_visible(False)
    for line in grid:
        line[0].set_ylabel("median time")
    return figure


def curve(group: list[Layer], sweep: Sweep, name: str) -> list[tuple[int, Measurement]]:
    """A method's timed rows along a sweep, sorted; where a value occurs twice, the smaller problem is kept."""
    points: dict[int, Measurement] = {}
    for layer in sorted(group, key=lambda layer: -layer.problem.flops):
        row = layer.cells.get(name)
        if row is not None and row.median is not None:
            points[sweep.value(layer.problem)] = row
    return sorted(points.items())


def _tokens(axes: Axes, text: str) -> None:
    axes.set_title("\n".join(wrap(text, 36)), loc="left", fontsize=style.SMALL, fontweight="normal", color=style.FAINT)


def _times(axes: Axes, group: list[Layer], sweep: Sweep, palette: dict[str, Look]) -> None:
    for name, look in palette.items():
        points = curve(group, sweep, name)
        if not points:
            continue
        x = [value for value, _ in points]
        median = [row.median or 0.0 for _, row in points]
        low = [row.low or row.median or 0.0 for _, row in points]
        high = [row.high or row.median or 0.0 for _, row in points]
        axes.fill_between(x, low, high, color=look.color, alpha=0.22, linewidth=0)
        axes.plot(x, median, color=look.color, marker=look.marker, label=name, markeredgecolor="white", markeredgewidth=0.6)
    _log_axis(axes, units.time_tick)
    _x_axis(axes, group, sweep)


def _slowdowns(axes: Axes, group: list[Layer], sweep: Sweep, palette: dict[str, Look]) -> None:
    best: dict[int, float] = {}
    for name in palette:
        for value, row in curve(group, sweep, name):
            best[value] = min(best.get(value, np.inf), row.median or np.inf)
    for name, look in palette.items():
        points = curve(group, sweep, name)
        ratios = [(row.median or 0.0) / best[value] for value, row in points]
        x = [value for value, _ in points]
        axes.plot(x, ratios, color=look.color, marker=look.marker, markeredgecolor="white", markeredgewidth=0.6)
    _log_axis(axes, lambda v: f"{v:g}{units.X}", dense=150)
    axes.set_ylim(bottom=0.9)
    _x_axis(axes, group, sweep)


def _x_axis(axes: Axes, group: list[Layer], sweep: Sweep) -> None:
    values = sorted({sweep.value(layer.problem) for layer in group})
    if sweep.log:
        axes.set_xscale("log", base=2)
        axes.set_xlim(values[0] / 1.15, values[-1] * 1.15)
    else:
        axes.set_xlim(values[0] - 0.3, values[-1] + 0.3)
    axes.xaxis.set_major_locator(FixedLocator(_thinned(values, sweep.log)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}" if sweep.log else f"{v:g}-D"))
    axes.set_xlabel(sweep.label)


def _thinned(values: list[int], log: bool) -> list[int]:
    """Tick positions whose labels keep apart in a panel of a third of the page: a digit takes 3 % of its axis."""
    place = np.log2(values) if log else np.asarray(values, dtype=float)
    span = max(float(place[-1] - place[0]), 1e-9)

    def crowded(a: int, b: int) -> bool:
        digits = (len(str(values[a])) + len(str(values[b]))) / 2
        return bool((place[b] - place[a]) / span < 0.03 * digits + 0.03)

    kept = [0]
    for index in range(1, len(values)):
        if not crowded(kept[-1], index):
            kept.append(index)
    if kept[-1] != len(values) - 1:
        kept = [*(k for k in kept if k == 0 or not crowded(k, len(values) - 1)), len(values) - 1]
    return [values[k] for k in kept]


def _log_axis(axes: Axes, label: Callable[[float], str], dense: float = 30) -> None:
    """Log y axis; ticks at 1, 2 and 5 where the data span less than ``dense``, else at powers of ten."""
    axes.set_yscale("log")
    low, high = axes.yaxis.get_data_interval()
    axes.yaxis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0) if 0 < high < dense * low else (1.0,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: label(float(f"{v:.3g}"))))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="y")


def _end_labels(axes: Axes, group: list[Layer], sweep: Sweep, palette: dict[str, Look]) -> None:
    """Names beside the lines' last points, pushed apart, each with a leader to its point."""
    ends = [(name, curve(group, sweep, name)) for name in palette]
    low, high = np.log(axes.get_ylim())
    labels = sorted(
        ((np.log(points[-1][1].median or 1.0) - low) / (high - low), name, points[-1][0]) for name, points in ends if points
    )
    axes.set_ylim(axes.get_ylim())
    for place, (wanted, name, x) in zip(spread([wanted for wanted, _, _ in labels], 0.062), labels):
        median = float(np.exp(low + wanted * (high - low)))
        axes.annotate(
            name,
            (x, median),
            (1.03, place),
            textcoords="axes fraction",
            color=palette[name].ink,
            va="center",
            fontsize=9,
            fontweight="bold",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": palette[name].color, "linewidth": 0.7, "shrinkA": 1, "shrinkB": 4},
        )


def spread(places: list[float], gap: float) -> list[float]:
    """Ascending places moved as little as a few sweeps allow, so that neighbours are ``gap`` apart, within 0 to 1.

    >>> spread([0.5, 0.5], 0.1)
    [0.45, 0.55]
    """
    if len(places) > 1:
        gap = min(gap, 1 / (len(places) - 1))
    clusters = [[place] for place in places]
    merged = True
    while merged:
        merged = False
        for i in range(len(clusters) - 1):
            if _positions(clusters[i + 1], gap)[0] - _positions(clusters[i], gap)[-1] < gap - 1e-9:
                clusters[i : i + 2] = [clusters[i] + clusters[i + 1]]
                merged = True
                break
    return [round(place, 6) for cluster in clusters for place in _positions(cluster, gap)]


def _positions(cluster: list[float], gap: float) -> list[float]:
    length = gap * (len(cluster) - 1)
    start = min(max(sum(cluster) / len(cluster) - length / 2, 0.0), 1.0 - length)
    return [start + gap * index for index in range(len(cluster))]
