"""Every sample of a handful of layers, and what threads give: how steady the numbers behind the medians are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from tconv_bench import units, verdicts
from tconv_bench.plots import rows, style
from tconv_bench.plots import versus_rows as versus
from tconv_bench.plots.rows import NothingToDrawError
from tconv_bench.plots.style import Look
from tconv_bench.store import Measurement
from tconv_bench.verdicts import Group

_PANELS = 6
_REACH = 1.6  # the time axis ends at this multiple of the fastest median


@style.styled
def sample_ecdf(measurements: list[Measurement]) -> Figure:
    """Share of samples at most as long as a time: six layers from the shortest to the longest, the A/A control dotted."""
    chosen = shown(versus.drawn(measurements, "planned", "hot"))
    if not chosen:
        raise NothingToDrawError("no comparison row has samples")
    names = [name for name in versus.entrants(chosen) if any(_shown(group, name) for group in chosen)]
    palette = versus.palette(names)
    columns = min(3, len(chosen))
    lines = -(-len(chosen) // columns)
    body = 2.6 * lines
    subtitle = (
        "Planned, hot caches. A step is one sample; the steeper, the steadier. Dotted: the second copy of auto, the same code "
        f"in another process. Entrants beyond {_REACH:g} times the fastest median are named below."
    )
    key = style.legend_height([*names, "control"])
    figure = versus.sheet(body, "Every sample of six layers" if len(chosen) == 6 else "Every sample", subtitle, key=key)
    dashed = {name for name in names if versus.is_peer(chosen, name)}
    copy = Line2D([], [], label="auto, second copy", **_copy(palette))
    versus.add_legend(figure, palette, dashed, body, copy)
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for axes, group in zip(grid.flat, chosen):
        _panel(axes, group, palette, dashed)
    for axes in list(grid.flat)[len(chosen) :]:
        axes.set_visible(False)
    for line in grid:
        line[0].set_ylabel("share of samples")
    return figure


def shown(found: Sequence[Group]) -> list[Group]:
    """Up to six groups with samples, at even steps from the shortest to the longest by the fastest entrant's median."""
    sampled = [group for group in found if any(row.samples for row in group.timed.values())]
    ordered = sorted(sampled, key=lambda group: min(map(versus.median, group.timed.values())))
    if len(ordered) <= _PANELS:
        return ordered
    return [ordered[round(place)] for place in np.linspace(0, len(ordered) - 1, _PANELS)]


def _end(group: Group) -> float:
    return _REACH * min(map(versus.median, group.timed.values()))


def _shown(group: Group, name: str) -> bool:
    row = group.timed.get(name)
    return row is not None and bool(row.samples) and versus.median(row) <= _end(group)


def _panel(axes: Axes, group: Group, palette: dict[str, Look], dashed: set[str]) -> None:
    start = min(min(row.samples or (versus.median(row),)) for row in group.timed.values())
    end = _end(group)
    for name, look in palette.items():
        if _shown(group, name):
            style_of = versus.line(look, name in dashed)
            _steps(axes, group.timed[name].samples, end, **{**style_of, "marker": "none", "linewidth": 1.7})
    if group.control is not None and group.control.samples:
        _steps(axes, group.control.samples, end, **_copy(palette))
    beyond = [name for name in group.timed if not _shown(group, name)]
    if beyond:
        text = "beyond: " + ", ".join(beyond[:2]) + (f" + {len(beyond) - 2}" if len(beyond) > 2 else "")
        axes.set_xlabel(text, loc="right", fontsize=style.SMALL, color=style.FAINT, labelpad=2)
    axes.set_title(group.label, loc="left")
    axes.set(xlim=(start - 0.03 * (end - start), end), ylim=(0, 1.02))
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: units.time_tick(float(f"{v:.4g}"))))
    axes.yaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.0f} %"))
    axes.grid()


def _copy(palette: dict[str, Look]) -> dict[str, Any]:
    """How the A/A control's line is drawn."""
    color = palette[verdicts.OWN_DEFAULT].stroke if verdicts.OWN_DEFAULT in palette else style.INK
    return {"color": color, "linestyle": (0, (1, 1.2)), "linewidth": 1.7}


def _steps(axes: Axes, samples: Sequence[float], end: float, **how: Any) -> None:
    ordered = sorted(samples)
    share = np.arange(1, len(ordered) + 1) / len(ordered)
    axes.plot([ordered[0], *ordered, max(end, ordered[-1])], [0, *share, 1], drawstyle="steps-post", **how)


@style.styled
def thread_scaling(measurements: list[Measurement]) -> Figure:
    """Speed-up of every entrant over its own single thread."""
    found = scaled(versus.compared(measurements))
    counts = sorted({threads for layer in found for threads in layer if threads > 1})
    if not counts:
        raise NothingToDrawError("no layer was compared with 1 thread and with more")
    every = [group for layer in found for group in layer.values()]
    names = [name for name in versus.entrants(every) if any(speedup(layer, name, n) for layer in found for n in counts)]
    palette = versus.palette(names)
    title = "What threads give"
    if len(counts) == 1:
        return _strip(found, names, palette, counts[0], title)
    panels: list[tuple[str, list[dict[int, Group]]]] = [(layer[1].label, [layer]) for layer in found[: _PANELS - 1]]
    if len(found) > 1:
        panels.insert(0, (f"geometric mean of {len(found)} layers", found))
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    body = 2.7 * lines
    subtitle = (
        "Planned, hot caches. One thread's time / the time with more, each entrant against itself; dotted: n times with n."
    )
    figure = versus.sheet(body, title, subtitle, key=style.legend_height(names))
    dashed = {name for name in names if versus.is_peer(every, name)}
    versus.add_legend(figure, palette, dashed, body)
    grid = figure.subplots(lines, columns, squeeze=False, sharey=True, sharex=True)
    for axes, (label, layers) in zip(grid.flat, panels):
        _scaling_panel(axes, layers, palette, dashed, [1, *counts])
        axes.set_title(label, loc="left")
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    for line in grid:
        line[0].set_ylabel("speed-up")
    for axes in list(grid.flat)[: len(panels)][-columns:]:
        axes.set_xlabel("threads")
        axes.tick_params(labelbottom=True)
    return figure


def scaled(found: Sequence[Group]) -> list[dict[int, Group]]:
    """Layers, planned and with hot caches, that have a group with one thread and one with more: by thread count."""
    layers: dict[str, dict[int, Group]] = {}
    for group in found:
        if (group.mode, group.cache) == ("planned", "hot"):
            layers.setdefault(group.label, {})[group.threads] = group
    return [layer for layer in layers.values() if 1 in layer and len(layer) > 1]


def speedup(layer: dict[int, Group], name: str, threads: int) -> float | None:
    """An entrant's time with one thread over its time with ``threads``; None where either is absent."""
    one, more = (layer[n].timed.get(name) if n in layer else None for n in (1, threads))
    return versus.median(one) / versus.median(more) if one is not None and more is not None else None


def _scaling_panel(
    axes: Axes, layers: list[dict[int, Group]], palette: dict[str, Look], dashed: set[str], counts: list[int]
) -> None:
    axes.plot(counts, counts, color=style.INK, linestyle=(0, (1, 1.5)), linewidth=1.4, zorder=1)
    for name, look in palette.items():
        points = [(n, [s for layer in layers if (s := speedup(layer, name, n)) is not None]) for n in counts]
        x = [n for n, values in points if values]
        y = [rows.geometric_mean(values) for _, values in points if values]
        if len(x) > 1:
            axes.plot(x, y, **versus.line(look, name in dashed))
    axes.set(xscale="log", yscale="log", xlim=(0.93, counts[-1] * 1.08), ylim=(0.8, counts[-1] * 1.12))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator(counts))
        axis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}{units.X}"))
    axes.grid()


def _strip(found: list[dict[int, Group]], names: list[str], palette: dict[str, Look], threads: int, title: str) -> Figure:
    """With a single count beyond one: a mark per layer and entrant, a line at the geometric mean."""
    body = 0.33 * len(names) + 0.8
    subtitle = (
        f"{len(found)} layers, planned, hot caches. Time with one thread / time with {threads}, each entrant against itself. "
        f"Mark: a layer; line and number: geometric mean; dotted: {threads} times as fast."
    )
    figure = versus.sheet(body, title, subtitle)
    axes = figure.add_subplot()
    for y, name in enumerate(names):
        values = [s for layer in found if (s := speedup(layer, name, threads)) is not None]
        mean, look = rows.geometric_mean(values), palette[name]
        axes.plot(values, [y] * len(values), look.marker, color=look.stroke, markersize=6, alpha=0.55, markeredgewidth=0)
        axes.plot([mean, mean], [y - 0.33, y + 0.33], color=style.INK, linewidth=1.6, solid_capstyle="butt")
        place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
        axes.annotate(units.times(mean), (1, y), (6, 0), va="center", fontsize=style.SMALL, annotation_clip=False, **place)
    axes.axvline(threads, color=style.INK, linestyle=(0, (1, 1.5)), linewidth=1.4)
    versus.name_rows(axes, names, palette)
    axes.set_xlim(left=min(0.9, axes.get_xlim()[0]), right=max(axes.get_xlim()[1], threads * 1.05))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}{units.X}"))
    axes.grid(axis="x")
    axes.set_xlabel(f"speed-up with {threads} threads")
    return figure
