"""Stride x padding: the speed of each method in every cell, and who wins it."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from tconv_bench import units
from tconv_bench.plots import rows, style
from tconv_bench.plots.rows import Layer
from tconv_bench.plots.style import Look
from tconv_bench.problem import Problem
from tconv_bench.store import Measurement

_COLUMNS = 3


@style.styled
def stride_padding_maps(measurements: list[Measurement]) -> Figure:
    """Useful GFLOP/s over stride and padding, one panel per method on one colour scale; last panel: the fastest method."""
    found = rows.timed_layers(measurements, ("strides_paddings",))
    groups = rows.panels(found, _fixed)
    names = rows.method_names(found)
    palette = style.looks(names)
    lines = -(-(len(names) + 1) // _COLUMNS)
    height = 0.9 + 0.42 * max(len(_axis(group, _stride)) for _, group in groups)
    body = height * lines * len(groups)
    subtitle = (
        f"{style.sentence(groups[0][0] if len(groups) == 1 else '')}"
        "Useful GFLOP/s: products that padding crops away don't count; more is better. "
        "Last panel: the fastest method and its lead over the next."
    )
    figure = style.sheet(body, "Stride and padding", subtitle, key=0.46)
    colours = _colours(found)
    _colour_bar(figure, colours, body)
    grid = figure.subplots(lines * len(groups), _COLUMNS, squeeze=False)
    for index, (tokens, group) in enumerate(groups):
        panels = list(grid[index * lines : (index + 1) * lines].flat)
        tokens = tokens if len(groups) > 1 else ""
        for axes, name in zip(panels, names):
            _speed_panel(axes, group, name, colours)
            axes.set_title(f"{name} {tokens}".strip(), loc="left", color=palette[name].ink)
        _winner_panel(panels[len(names)], group, palette)
        panels[len(names)].set_title(f"fastest {tokens}".strip(), loc="left")
        for axes in panels[len(names) + 1 :]:
            axes.set_visible(False)
        for place, axes in enumerate(panels[: len(names) + 1]):
            axes.set_ylabel("stride" if place % _COLUMNS == 0 else "", labelpad=2)
            axes.set_xlabel("padding" if place + _COLUMNS > len(names) else "", labelpad=2)
    return figure


def _stride(problem: Problem) -> int:
    return problem.stride[0]  # type: ignore[no-any-return]


def _padding(problem: Problem) -> int:
    return problem.padding[0][0]  # type: ignore[no-any-return]


def _fixed(p: Problem) -> Hashable:
    return (p.batch, p.c_in, p.c_out, p.in_size, p.kernel, p.groups, p.dilation, p.dtype)


def _axis(group: list[Layer], value: Any) -> list[int]:
    return sorted({value(layer.problem) for layer in group})


def _colours(found: list[Layer]) -> ScalarMappable:
    speeds = [g for layer in found for row in layer.cells.values() if (g := rows.gflops(row))] or [1.0]
    top, bottom = max(speeds), min(speeds)
    norm = LogNorm(bottom, max(top, bottom * 1.01)) if top > 20 * bottom else Normalize(0, top)
    return ScalarMappable(norm, matplotlib.colormaps["cividis"].resampled(style.LEVELS))


def _frame(axes: Axes, group: list[Layer]) -> dict[tuple[int, int], Layer]:
    strides, paddings = _axis(group, _stride), _axis(group, _padding)
    axes.set(xlim=(0, len(paddings)), ylim=(len(strides), 0))
    axes.set_xticks(np.arange(len(paddings)) + 0.5, map(str, paddings))
    axes.set_yticks(np.arange(len(strides)) + 0.5, map(str, strides))
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.add_patch(Rectangle((0, 0), len(paddings), len(strides), facecolor=style.GAP, edgecolor="#c3c9d0", hatch="////", lw=0))
    return {(paddings.index(_padding(layer.problem)), strides.index(_stride(layer.problem))): layer for layer in group}


def _box(axes: Axes, x: float, y: float, fill: Any) -> None:
    axes.add_patch(Rectangle((x, y), 1, 1, facecolor=fill, edgecolor="white", linewidth=1))


def _speed_panel(axes: Axes, group: list[Layer], name: str, colours: ScalarMappable) -> None:
    for (x, y), layer in _frame(axes, group).items():
        row = layer.cells.get(name)
        speed = rows.gflops(row) if row else None
        if speed is None:
            axes.text(x + 0.5, y + 0.5, "n/a", ha="center", va="center", fontsize=style.SMALL, color=style.FAINT)
            continue
        fill = colours.to_rgba(np.array(speed))
        _box(axes, x, y, fill)
        ink = style.text_on(fill[:3])
        axes.text(x + 0.5, y + 0.5, units.significant(speed), ha="center", va="center", fontsize=8.5, color=ink)


def _winner_panel(axes: Axes, group: list[Layer], palette: dict[str, Look]) -> None:
    for (x, y), layer in _frame(axes, group).items():
        verdict = layer.verdict
        if verdict is None:
            continue
        if verdict.winner == "tie":
            _box(axes, x, y, style.GAP)
            for step, name in enumerate(verdict.tied[:4]):
                axes.plot(x + 0.5 + 0.2 * (step - (len(verdict.tied[:4]) - 1) / 2), y + 0.32, **_dot(palette[name]))
            axes.text(x + 0.5, y + 0.72, "tie", ha="center", va="center", fontsize=style.SMALL, color=style.FAINT)
            continue
        look = palette[verdict.winner]
        _box(axes, x, y, look.color)
        ink = style.text_on(look.color)
        axes.plot(x + 0.5, y + 0.32, **_dot(Look(ink, look.marker)))
        axes.text(x + 0.5, y + 0.72, units.times(verdict.ratio), ha="center", va="center", fontsize=style.SMALL, color=ink)


def _dot(look: Look) -> dict[str, Any]:
    return {"marker": look.marker, "color": look.color, "markersize": 4.5, "linestyle": "none"}


def _ticks(low: float | None, high: float | None) -> list[float]:
    if not low or not high:
        return [float(t) for t in MaxNLocator(6).tick_values(0, high or 1) if t <= (high or 1)]
    return [s * 10.0**p for p in range(-6, 8) for s in (1, 2, 5) if low <= s * 10.0**p <= high]


def _colour_bar(figure: Figure, colours: ScalarMappable, body: float) -> None:
    total = figure.get_figheight()
    axes = figure.add_axes((0.3, (body + 0.27) / total, 0.4, 0.11 / total))
    bar = figure.colorbar(colours, cax=axes, orientation="horizontal", ticks=_ticks(*colours.get_clim()))
    bar.ax.minorticks_off()
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.ax.tick_params(length=2, pad=1)
    bar.ax.xaxis.set_major_formatter(lambda v, _: f"{v:g}")
    axes.text(-0.03, 0.5, "GFLOP/s", transform=axes.transAxes, ha="right", va="center", fontsize=style.SMALL, color=style.FAINT)
