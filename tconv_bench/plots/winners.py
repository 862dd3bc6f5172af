"""Who wins how many layers, and how far behind every method is where it does not."""

from __future__ import annotations

from collections import Counter

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from tconv_bench import units
from tconv_bench.plots import rows, style
from tconv_bench.plots.rows import Layer
from tconv_bench.plots.style import Look
from tconv_bench.store import Measurement


@style.styled
def winner_map(measurements: list[Measurement]) -> Figure:
    """Left: layers that each method wins or shares; right: its time on every layer relative to the fastest method's."""
    found = rows.timed_layers(measurements)
    wins, ties = win_counts(found)
    slow = {name: slowdowns(found, name) for name in rows.method_names(found)}
    names = sorted((n for n in slow if slow[n]), key=lambda n: (-wins[n], -ties[n], np.median(slow[n])))
    palette = style.looks(slow)
    body = 0.36 * len(names) + 0.75
    subtitle = f"{len(found)} layers. A win needs a 95 % interval below every other method's; otherwise those that overlap tie."
    figure = style.sheet(body, "Which method wins", subtitle)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(2, 3))
    for y, name in enumerate(names):
        _bar(left, y, wins[name], ties[name], palette[name])
        _strip(right, y, slow[name], palette[name])
    _frame(left, right, names, palette)
    widest = max(1, *(wins[n] + ties[n] for n in names))
    left.set_xlim(0, widest * 1.45)
    left.set_xticks([t for t in MaxNLocator(4, integer=True).tick_values(0, widest) if 0 <= t <= widest])
    return figure


def win_counts(found: list[Layer]) -> tuple[Counter[str], Counter[str]]:
    """Layers won outright, and layers where a method is one of several that tie."""
    wins: Counter[str] = Counter()
    ties: Counter[str] = Counter()
    for verdict in (layer.verdict for layer in found):
        if verdict is None:
            continue
        if verdict.winner == "tie":
            ties.update(verdict.tied)
        else:
            wins[verdict.winner] += 1
    return wins, ties


def slowdowns(found: list[Layer], name: str) -> list[float]:
    """The method's time over the fastest method's, for every layer where it was timed."""
    return [layer.medians[name] / min(layer.medians.values()) for layer in found if name in layer.medians]


def _bar(axes: Axes, y: int, wins: int, ties: int, look: Look) -> None:
    axes.barh(y, wins, color=look.color, height=0.62)
    axes.barh(y, ties, left=wins, facecolor="white", edgecolor=look.color, hatch="//////", height=0.62, linewidth=0.8)
    text = f"{wins}" + (f" + {ties} tied" if ties else "")
    axes.annotate(text, (wins + ties, y), (4, 0), textcoords="offset points", va="center", fontsize=9)


def _strip(axes: Axes, y: int, ratios: list[float], look: Look) -> None:
    axes.plot(ratios, [y] * len(ratios), look.marker, color=look.color, markersize=5, alpha=0.45, markeredgewidth=0)
    middle = float(np.median(ratios))
    axes.plot([middle, middle], [y - 0.33, y + 0.33], color=style.INK, linewidth=1.6, solid_capstyle="butt")
    axes.annotate(
        units.times(middle),
        (1, y),
        (4, 0),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        va="center",
        fontsize=style.SMALL,
    )


def _frame(left: Axes, right: Axes, names: list[str], palette: dict[str, Look]) -> None:
    left.set_yticks(range(len(names)), names)
    for label, name in zip(left.get_yticklabels(), names):
        label.set(color=palette[name].ink, fontweight="bold", fontsize=9)
    left.set_ylim(len(names) - 0.45, -0.55)
    left.set_title("layers won, hatched: tied", loc="left")
    right.set_title("time / fastest; mark: a layer, line: median", loc="left")
    right.set_xscale("log")
    top = right.get_xlim()[1]
    right.set_xlim(0.9, max(2.0, top))
    scale = (1, 2, 5) if top < 200 else (1,)
    right.xaxis.set_major_locator(FixedLocator([s * 10.0**p for p in range(8) for s in scale]))
    right.xaxis.set_minor_locator(NullLocator())
    right.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}{units.X}"))
    for axes in (left, right):
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
