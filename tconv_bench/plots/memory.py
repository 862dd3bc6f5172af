"""What speed costs in memory: bytes per layer and method, and time against bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from tconv_bench import units
from tconv_bench.plots import rows, style
from tconv_bench.plots.rows import Layer, NothingToDrawError
from tconv_bench.plots.style import Look
from tconv_bench.store import Measurement

_ROW = 0.235
_LEAST = 1024.0


@style.styled
def workspace_bars(measurements: list[Measurement]) -> Figure:
    """Workspace and prepared bytes of every layer, one panel per method on one log axis."""
    found = [layer for layer in rows.timed_layers(measurements) if any(map(_known, layer.cells.values()))]
    if not found:
        raise NothingToDrawError("no row has workspace_bytes or prepared_bytes")
    names = [name for name in rows.method_names(found) if any(name in la.cells and _known(la.cells[name]) for la in found)]
    palette = style.looks(rows.method_names(found))
    body = _ROW * len(found) + 0.75
    subtitle = (
        "Log scale. Solid: workspace while running; hatched: bytes that preparation keeps; arrowhead: less than 1 KiB, "
        "or nothing; black line: input, weight and output together, which every method needs."
    )
    figure = style.sheet(body, "Memory of each method", subtitle)
    grid = figure.subplots(1, len(names), sharex=True, sharey=True, squeeze=False)[0]
    low, high = _LEAST, _most_bytes(found)
    for axes, name in zip(grid, names):
        _bars(axes, found, name, palette[name], low)
        axes.set_title(style.heading(name, len(names)), loc="left", color=palette[name].ink)
    _byte_axis(grid[0], low, high, len(names))
    grid[0].set_yticks(range(len(found)), [layer.label for layer in found])
    grid[0].set_ylim(len(found) - 0.4, -0.6)
    if len(found) > 24:
        for axes in grid:
            axes.tick_params(labeltop=True)
    return figure


def _known(row: Measurement) -> bool:
    return row.median is not None and rows.extra_bytes(row) is not None


def _most_bytes(found: list[Layer]) -> float:
    values = [b for la in found for r in la.cells.values() if _known(r) for b in (r.workspace_bytes, r.prepared_bytes) if b]
    values += [layer.problem.min_bytes for layer in found]
    return float(2.0 ** np.ceil(np.log2(max(16 * _LEAST, *values)) + 0.3))


def _bars(axes: Axes, found: list[Layer], name: str, look: Look, low: float) -> None:
    for y, layer in enumerate(found):
        row = layer.cells.get(name)
        if y % 2 == 0:
            axes.axhspan(y - 0.5, y + 0.5, color="#f6f8fa", linewidth=0, zorder=0)
        if row is None or not _known(row):
            axes.text(low * 1.3, y, "n/a" if row else units.NONE, va="center", fontsize=style.SMALL, color=style.FAINT)
            continue
        _bar(axes, y - 0.19, row.workspace_bytes, look, low, hatched=False)
        _bar(axes, y + 0.19, row.prepared_bytes, look, low, hatched=True)
        if layer.problem.min_bytes > low:
            axes.plot([layer.problem.min_bytes] * 2, [y - 0.44, y + 0.44], color=style.INK, linewidth=1, solid_capstyle="butt")


def _bar(axes: Axes, y: float, value: int | None, look: Look, low: float, *, hatched: bool) -> None:
    """A bar from the axis' left edge; an arrowhead for what is left of it, zero included; nothing for unknown."""
    if value is None:
        return
    if value < low:
        axes.plot(low, y, marker=4, markersize=4, color=look.color, clip_on=False, zorder=4)
        return
    fill: dict[str, Any] = {"fc": "white", "hatch": "//////", "ec": look.color} if hatched else {"color": look.color}
    axes.barh(y, value - low, left=low, height=0.34, linewidth=0.6 if hatched else 0, **fill)


def _byte_axis(axes: Axes, low: float, high: float, panels: int) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xlim(low, high)
    steps = np.arange(np.ceil(np.log2(low)), np.log2(high) + 0.01)
    every = next(e for e in (2, 5, 10, 20, 40) if len(steps) / e <= max(5, 16 / panels))
    ticks = [2.0**p for p in steps if p % every == 0]
    for shared in axes.figure.axes:
        shared.xaxis.set_major_locator(FixedLocator(ticks))
        shared.xaxis.set_minor_locator(NullLocator())
        shared.xaxis.set_major_formatter(FuncFormatter(lambda v, _: units.size_tick(v)))
        shared.tick_params(axis="y", length=0)
        shared.tick_params(axis="x", rotation=90 if panels > 3 else 0)
        shared.grid(axis="x")


@style.styled
def time_memory_scatter(measurements: list[Measurement]) -> Figure:
    """Time relative to the layer's fastest method against bytes relative to the layer's own data; large marks: medians."""
    found = rows.timed_layers(measurements)
    points = {name: memory_points(found, name) for name in rows.method_names(found)}
    points = {name: pairs for name, pairs in points.items() if pairs}
    if not points:
        raise NothingToDrawError("no timed row has workspace_bytes or prepared_bytes")
    palette = style.looks(rows.method_names(found))
    body = 4.6
    subtitle = (
        "Small mark: one layer; large mark: the method's median. Lower is faster, further left is leaner. "
        "Memory: (workspace + prepared bytes) / (input + weight + output)."
    )
    figure = style.sheet(body, "Time against memory", subtitle, key=style.legend_height(points))
    style.add_legend(figure, {name: palette[name] for name in points}, body, line=False)
    axes = figure.add_subplot()
    gutter = _gutter(points)
    for name, pairs in points.items():
        _cloud(axes, pairs, palette[name], gutter)
    _scatter_axes(axes, points, gutter)
    return figure


def memory_points(found: list[Layer], name: str) -> list[tuple[float, float]]:
    """(extra bytes / min_bytes, time / fastest time) of each layer where the method was timed and its bytes are known."""
    pairs = []
    for layer in found:
        row = layer.cells.get(name)
        if row is None or row.median is None or not _known(row):
            continue
        pairs.append(((rows.extra_bytes(row) or 0) / max(1, layer.problem.min_bytes), row.median / min(layer.medians.values())))
    return pairs


def _gutter(points: dict[str, list[tuple[float, float]]]) -> float:
    """Where zero stands on the log axis: a factor of five left of the least positive value."""
    positive = [x for pairs in points.values() for x, _ in pairs if x > 0]
    return float(10 ** np.floor(np.log10(min(positive, default=1.0))) / 5)


def _cloud(axes: Axes, pairs: list[tuple[float, float]], look: Look, gutter: float) -> None:
    x = [max(x, gutter) for x, _ in pairs]
    y = [y for _, y in pairs]
    axes.plot(x, y, look.marker, color=look.color, markersize=4.5, alpha=0.55, markeredgewidth=0)
    axes.plot(
        np.median(x),
        np.median(y),
        look.marker,
        color=look.color,
        markersize=12,
        markeredgecolor="white",
        markeredgewidth=1.5,
        zorder=5,
    )


def _scatter_axes(axes: Axes, points: dict[str, list[tuple[float, float]]], gutter: float) -> None:
    x = [x for pairs in points.values() for x, _ in pairs]
    y = [y for pairs in points.values() for _, y in pairs]
    zero = min(x) <= 0
    axes.set(xscale="log", yscale="log")
    axes.set_xlim(gutter / 1.6 if zero else min(x) / 1.5, max([*x, gutter * 10]) * 1.6)
    axes.set_ylim(0.85, max(2.0, max(y) * 1.3))
    powers = range(int(np.floor(np.log10(gutter))) + 1, 12)
    ticks = [10.0**p for p in powers]
    axes.xaxis.set_major_locator(FixedLocator([gutter, *ticks] if zero else ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: "0" if v <= gutter * 1.01 else f"{v:g}{units.X}"))
    axes.xaxis.set_minor_locator(NullLocator())
    scale = (1, 2, 5) if max(y) < 100 else (1,)
    axes.yaxis.set_major_locator(FixedLocator([s * 10.0**p for p in range(6) for s in scale]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}{units.X}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid()
    if zero:
        axes.axvline(gutter * 2.2, color=style.FAINT, linewidth=0.8, linestyle=(0, (2, 3)))
    axes.set_xlabel("extra memory, as a multiple of the layer's own data")
    axes.set_ylabel("time, as a multiple of the layer's fastest")
