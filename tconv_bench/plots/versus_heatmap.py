"""Speed-up over torch of every entrant on every layer, each with its 95 % interval, as one table of coloured cells."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tconv_bench import units, verdicts
from tconv_bench.plots import style
from tconv_bench.plots import versus_rows as versus
from tconv_bench.store import Measurement
from tconv_bench.verdicts import Group

WIDTH = 9.5  # inches; shown 1000 px wide, 8 pt of type are 11.7 px high
_ROW = 0.3
_LEVELS = 16  # colours of the scale: few, for a small file
_GAP = 0.12  # between this project's columns and the peers'


@style.styled
def speedup_heatmap(measurements: list[Measurement], mode: str = "planned", cache: str = "hot") -> Figure:
    """Layer x entrant: torch's median time, and by what factor every other entrant is faster."""
    found = versus.drawn(measurements, mode, cache)
    columns = ordered(found)
    places = _places(found, columns)
    limit, clipped = _limit(found, columns)
    body = _ROW * (len(found) + 1) + 0.75
    subtitle = (
        f"Grey: median time. Coloured: {versus.BASE}'s time / the entrant's, above 1 is faster; below it how far the two 95 % "
        "intervals let that ratio reach. Bold: the fastest, and whom chance cannot tell from it."
    )
    figure = versus.sheet(body, f"Speed-up over {versus.BASE}: {mode}, {cache} caches", subtitle, key=0.5, width=WIDTH)
    axes = figure.add_subplot()
    colours = ScalarMappable(Normalize(-limit, limit), matplotlib.colormaps["RdBu"].resampled(_LEVELS))
    for y, group in enumerate(found):
        verdict = verdicts.verdict(group)
        best = (verdict.winner, *verdict.tied) if verdict else ()
        for name, x in zip(columns, places):
            _cell(axes, x, y, group, name, colours, "bold" if name in best else "normal")
    _mean_row(axes, found, columns, places, colours)
    _frame(axes, found, columns, places)
    _colour_bar(figure, colours, body, limit, clipped)
    return figure


def ordered(found: Sequence[Group]) -> list[str]:
    """torch, this project's entrants and the other peers, ``auto`` first and each side by its geometric mean."""

    def place(name: str) -> tuple[bool, bool, bool, float]:
        mean = versus.mean_ratio(found, versus.BASE, name)
        return (name != versus.BASE, versus.is_peer(found, name), name != verdicts.OWN_DEFAULT, -mean[0] if mean else 0.0)

    return sorted(versus.entrants(found), key=place)


def _places(found: Sequence[Group], columns: list[str]) -> list[float]:
    """Where each column starts: a gap where this project's entrants begin and where they end."""
    places, x = [0.0], 0.0
    for before, name in pairwise(columns):
        x += 1 + (_GAP if versus.is_peer(found, before) != versus.is_peer(found, name) else 0)
        places.append(x)
    return places


def _limit(found: Sequence[Group], columns: list[str]) -> tuple[float, bool]:
    """Half the colour scale in powers of two: the 90th percentile, so that few extreme cells do not pale the rest."""
    timed = [g.timed for g in found if versus.BASE in g.timed]
    ratios = [versus.ratio(rows[versus.BASE], rows[name]).value for rows in timed for name in columns if name in rows]
    powers = np.abs(np.log2(ratios))
    if not powers.size or not powers.max():
        return 1.0, False
    limit = max(1.0, float(np.ceil(np.percentile(powers, 90))))
    return limit, bool(powers.max() > limit)


def _frame(axes: Axes, found: Sequence[Group], columns: list[str], places: list[float]) -> None:
    axes.set(xlim=(0, places[-1] + 1), ylim=(len(found) + 1.25, 0))
    headings = [name.replace("_", "_\n", 1).replace("-", "-\n", 1) for name in columns]
    axes.xaxis.tick_top()
    axes.set_xticks([x + 0.5 for x in places], headings, fontsize=style.SMALL, linespacing=1.25)
    palette = versus.palette(columns)
    for label, name in zip(axes.get_xticklabels(), columns):
        label.set_color(palette[name].ink)
    centres = [*(np.arange(len(found)) + 0.5), len(found) + 0.7]
    axes.set_yticks(centres, [*(group.label for group in found), "geometric mean"])
    axes.get_yticklabels()[-1].set_fontweight("bold")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for y in versus.network_starts([group.label for group in found]):
        axes.plot([0, places[-1] + 1], [y, y], color=style.INK, linewidth=0.6, zorder=3, solid_capstyle="butt")


def number(value: float) -> str:
    """A ratio in few letters.

    >>> number(0.0042), number(0.418), number(1.839), number(21.62), number(217.4)
    ('0.004', '0.42', '1.84', '21.6', '217')
    """
    digits = 3 if value < 0.01 else 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f}"


def _cell(axes: Axes, x: float, y: int, group: Group, name: str, colours: ScalarMappable, weight: str) -> None:
    row, base = group.rows.get(name), group.timed.get(versus.BASE)
    if row is None:
        _box(axes, x, y, "white", units.NONE, style.FAINT)
    elif row.median is None:
        _box(axes, x, y, "white", "wrong" if row.note.startswith("wrong") else "n/a", style.FAINT)
    elif base is None or name == versus.BASE:
        _box(axes, x, y, style.GAP, units.seconds(row.median), style.INK, weight=weight)
    else:
        found = versus.ratio(base, row)
        fill = colours.to_rgba(np.array(np.log2(found.value)))
        reach = f"{number(found.low)}\N{EN DASH}{number(found.high)}"
        _box(axes, x, y, fill, number(found.value), style.text_on(fill[:3]), weight=weight, below=reach)


def _box(axes: Axes, x: float, y: float, fill: Any, text: str, ink: str, *, weight: str = "normal", below: str = "") -> None:
    # Outside of the layout, which would measure 1500 texts to find that they lie inside their axes.
    box = Rectangle((x, y), 1, 1, facecolor=fill, edgecolor="white", linewidth=0.8, clip_on=False, in_layout=False)
    axes.add_patch(box)
    how: dict[str, Any] = {"color": ink, "ha": "center", "va": "center_baseline", "fontweight": weight, "in_layout": False}
    axes.text(x + 0.5, y + (0.29 if below else 0.5), text, fontsize=9, **how)
    if below:
        axes.text(x + 0.5, y + 0.73, below, fontsize=style.SMALL, **how)


def _mean_row(axes: Axes, found: Sequence[Group], columns: list[str], places: list[float], colours: ScalarMappable) -> None:
    y = len(found) + 0.2
    for name, x in zip(columns, places):
        mean = versus.mean_ratio(found, versus.BASE, name)
        if mean is None:
            _box(axes, x, y, style.GAP, "n/a", style.FAINT)
            continue
        fill = style.GAP if name == versus.BASE else colours.to_rgba(np.array(np.log2(mean[0])))
        ink = style.INK if name == versus.BASE else style.text_on(fill[:3])
        of = f"{mean[1]} of {len(found)}" if mean[1] < len(found) else ""
        _box(axes, x, y, fill, f"{number(mean[0])}{units.X}", ink, weight="bold", below=of)


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
