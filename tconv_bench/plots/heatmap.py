"""Speed-up of every method on every layer, as one table of coloured cells."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tconv_bench import units
from tconv_bench.plots import rows, style
from tconv_bench.plots.rows import Layer
from tconv_bench.store import Measurement

_ROW = 0.225
_MEAN = "geometric mean"


@style.styled
def speedup_heatmap(measurements: list[Measurement], base: str | None = None) -> Figure:
    """Layer x method: the base method's median time, and by what factor every other method is faster."""
    found = rows.timed_layers(measurements)
    base = rows.base_method(found, base)
    columns = [base, *_by_speed(found, base)]
    limit, clipped = _limit(found, base)
    body = _ROW * (len(found) + 1) + 0.5
    key = 0.5 if len(columns) > 1 else 0.0
    figure = style.sheet(body, f"Speed-up over {base}", _subtitle(found, base), key=key)
    axes = figure.add_subplot()
    _frame(axes, found, columns)
    colours = ScalarMappable(Normalize(-limit, limit), matplotlib.colormaps["RdBu"].resampled(style.LEVELS))
    for y, layer in enumerate(found):
        for x, name in enumerate(columns):
            _cell(axes, x, y, layer, name, base, colours)
    _mean_row(axes, found, columns, base, colours)
    if key:
        _colour_bar(figure, colours, body, limit, clipped)
    return figure


def speedups(layer: Layer, base: str) -> dict[str, float]:
    """Base median / method median for every other method that was timed; empty where the base was not."""
    medians = layer.medians
    return {n: medians[base] / m for n, m in medians.items() if n != base} if base in medians else {}


def mean_speedups(found: list[Layer], base: str) -> dict[str, tuple[float, int]]:
    """Geometric mean of each method's speed-ups, and over how many layers."""
    ratios: dict[str, list[float]] = {}
    for layer in found:
        for name, ratio in speedups(layer, base).items():
            ratios.setdefault(name, []).append(ratio)
    return {name: (rows.geometric_mean(values), len(values)) for name, values in ratios.items()}


def _by_speed(found: list[Layer], base: str) -> list[str]:
    means = mean_speedups(found, base)
    others = [name for name in rows.method_names(found) if name != base]
    return sorted(others, key=lambda name: -means.get(name, (0.0, 0))[0])


def _limit(found: list[Layer], base: str) -> tuple[float, bool]:
    """Half the colour scale in powers of two: the 95th percentile, so that one extreme layer does not pale the rest."""
    powers = np.abs([np.log2(r) for layer in found for r in speedups(layer, base).values()])
    if powers.size == 0:
        return 1.0, False
    limit = max(1.0, float(np.ceil(np.percentile(powers, 95))))
    return limit, bool(powers.max() > limit)


def _subtitle(found: list[Layer], base: str) -> str:
    absent = [layer for layer in found if base not in layer.medians]
    text = (
        f"First column: median time of {base}. Others: that time / the method's time, above 1 is faster. "
        "Bold: fastest, and no other 95 % interval overlaps."
    )
    if any(len(layer.medians) < len(found[0].cells) for layer in found):
        text += " Means cover the layers that both methods were timed on."
    return text + (f" Without {base}, a row shows median times." if absent else "")


def _frame(axes: Axes, found: list[Layer], columns: list[str]) -> None:
    axes.set(xlim=(0, len(columns)), ylim=(len(found) + 1.12, 0))
    axes.set_xticks(
        np.arange(len(columns)) + 0.5, [style.heading(c, len(columns)) for c in columns], fontweight="bold", fontsize=9
    )
    centres = [*(np.arange(len(found)) + 0.5), len(found) + 0.62]
    axes.set_yticks(centres, [*(layer.label for layer in found), _MEAN])
    axes.get_yticklabels()[-1].set_fontweight("bold")
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for y in _network_starts(found):
        axes.plot([0, len(columns)], [y, y], color=style.INK, linewidth=0.6, zorder=3, solid_capstyle="butt")


def _network_starts(found: list[Layer]) -> list[int]:
    """Rows where a label's first word changes; none where that would be most of them."""
    networks = [layer.label.split(" ")[0] for layer in found]
    starts = [y for y in range(1, len(found)) if networks[y] != networks[y - 1]]
    return starts if 2 * len(starts) <= len(found) else []


def _cell(axes: Axes, x: int, y: int, layer: Layer, name: str, base: str, colours: ScalarMappable) -> None:
    row = layer.cells.get(name)
    ratio = speedups(layer, base).get(name)
    verdict = layer.verdict
    weight = "bold" if verdict and verdict.winner == name else "normal"
    if row is None:
        _box(axes, x, y, "white", units.NONE, style.FAINT)
    elif row.median is None:
        text = "wrong" if row.note.startswith("wrong") else "n/a"
        _box(axes, x, y, style.GAP, text, style.FAINT, hatch="////")
    elif ratio is None:
        _box(axes, x, y, style.GAP, units.seconds(row.median), style.INK, weight=weight)
    else:
        _ratio_box(axes, x, y, ratio, colours, weight)


def _ratio_box(axes: Axes, x: float, y: float, ratio: float, colours: ScalarMappable, weight: str, tail: str = "") -> None:
    fill = colours.to_rgba(np.array(np.log2(ratio)))
    _box(axes, x, y, fill, units.times(ratio) + tail, style.text_on(fill[:3]), weight=weight)


def _box(axes: Axes, x: float, y: float, fill: Any, text: str, ink: str, *, weight: str = "normal", hatch: str = "") -> None:
    edge = "#c3c9d0" if hatch else "white"
    axes.add_patch(
        Rectangle((x, y), 1, 1, facecolor=fill, edgecolor=edge, linewidth=0 if hatch else 0.8, hatch=hatch, clip_on=False)
    )
    backing = {"facecolor": style.GAP, "edgecolor": "none", "pad": 0.8} if hatch else None
    axes.text(
        x + 0.5, y + 0.5, text, color=ink, fontsize=8.5, fontweight=weight, ha="center", va="center_baseline", bbox=backing
    )


def _mean_row(axes: Axes, found: list[Layer], columns: list[str], base: str, colours: ScalarMappable) -> None:
    y = len(found) + 0.12
    _box(axes, 0, y, style.GAP, units.times(1), style.INK, weight="bold")
    means = mean_speedups(found, base)
    for x, name in enumerate(columns[1:], start=1):
        if name not in means:
            _box(axes, x, y, style.GAP, "n/a", style.FAINT, hatch="////")
            continue
        mean, count = means[name]
        _ratio_box(
            axes, x, y, mean, colours, "bold", f" ({count}/{len(found)})" if count < len(found) and len(columns) <= 6 else ""
        )


def _colour_bar(figure: Figure, colours: ScalarMappable, body: float, limit: float, clipped: bool) -> None:
    total = figure.get_figheight()
    axes = figure.add_axes((0.3, (body + 0.27) / total, 0.4, 0.11 / total))
    step = max(1, int(np.ceil(limit / 3)))
    ticks = [p for p in range(-int(limit), int(limit) + 1) if p % step == 0]
    bar = figure.colorbar(colours, cax=axes, orientation="horizontal", extend="both" if clipped else "neither", ticks=ticks)
    bar.ax.set_xticklabels([f"{2.0**p:g}{units.X}" if p >= 0 else f"1/{2**-p}{units.X}" for p in ticks])
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar.ax.tick_params(length=2, pad=1)
    for x, side, text in ((-0.07, "right", "slower"), (1.07, "left", "faster")):
        axes.text(x, 0.5, text, transform=axes.transAxes, ha=side, va="center", fontsize=style.SMALL, color=style.FAINT)
