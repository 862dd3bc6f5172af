"""How fast this project's best and the best peer are against the machine's limits, and how often each entrant comes close."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from tconv_bench import units, verdicts
from tconv_bench.plots import style
from tconv_bench.plots import versus_rows as versus
from tconv_bench.plots.rows import NothingToDrawError
from tconv_bench.plots.style import Look
from tconv_bench.store import Measurement
from tconv_bench.verdicts import Group


@style.styled
def roofline(measurements: list[Measurement], cache: str = "hot") -> Figure:
    """GFLOP/s against flops per byte: this project's best and the best peer on each layer, below the machine's limits."""
    found = versus.drawn(measurements, "planned", cache)
    points = [(group, ours, peer) for group in found for ours, peer in [best(group)]]
    limits = ceilings(found)
    body = 5.4
    own_limit = "; one layer's own limit lies between the two slopes." if cache == "hot" else "."
    subtitle = f"One pair of marks per layer, planned, {cache} caches; the line between has the colour of the faster. "
    subtitle += (
        f"Black: the machine's limits, measured in the same run{own_limit} "
        "Winograd multiplies less often than the useful products count, and rises above the line."
        if limits
        else "The machine's limits were not measured."
    )
    figure = versus.sheet(body, "Speed against the machine's limits", subtitle, key=0.3)
    axes = figure.add_subplot()
    for group, ours, peer in points:
        _pair(axes, intensity(group), ours, peer)
    _roofs(axes, points, limits)
    _axes_of_roofline(axes)
    _keys(figure, body)
    return figure


def best(group: Group) -> tuple[float | None, float | None]:
    """GFLOP/s of this project's fastest entrant and of the fastest peer; None for a side without a time."""
    sides = (verdicts.verdict(group, names) for names in (verdicts.own(group), verdicts.peers(group)))
    ours, peer = (group.problem.flops / side.median / 1e9 if side else None for side in sides)
    return ours, peer


def intensity(group: Group) -> float:
    """Useful operations per byte of input, weight and output."""
    return float(group.problem.flops / group.problem.min_bytes)


def ceilings(found: Sequence[Group]) -> dict[str, Any]:
    """The limits that the rows carry: those of the first row that has any."""
    rows = (row for group in found for row in group.rows.values())
    return next((row.ceilings for row in rows if row.ceilings), {})


def _pair(axes: Axes, x: float, ours: float | None, peer: float | None) -> None:
    if ours and peer:
        color = style.OURS if ours > peer else style.THEIRS
        axes.plot([x, x], [ours, peer], color=color, linewidth=1.1, alpha=0.55, solid_capstyle="butt", zorder=2)
    if peer:
        axes.plot(x, peer, zorder=3, **_mark(style.THEIRS))
    if ours:
        axes.plot(x, ours, zorder=4, **_mark(style.OURS))


def _mark(color: str) -> dict[str, Any]:
    if color == style.OURS:
        return {
            "marker": "o",
            "color": color,
            "markersize": 5.5,
            "markeredgecolor": "white",
            "markeredgewidth": 0.5,
            "ls": "none",
        }
    return {
        "marker": "D",
        "markersize": 4.6,
        "markerfacecolor": "white",
        "markeredgecolor": color,
        "markeredgewidth": 1.3,
        "ls": "none",
    }


def _roofs(axes: Axes, points: list[tuple[Group, float | None, float | None]], limits: dict[str, Any]) -> None:
    x = [intensity(group) for group, _, _ in points]
    speeds = [speed for _, *both in points for speed in both if speed]
    dtypes = {group.problem.dtype for group, _, _ in points}
    peaks = {dtype: value for dtype, value in limits.get("fma_gflops", {}).items() if dtype in dtypes and value}
    slopes = _slopes(limits.get("copy") or [])
    ceiling, bottom = max(peaks.values(), default=1.4 * max(speeds)), min(speeds) / 1.6
    bends = [ceiling / speed for _, speed in slopes]
    low = min([min(x) / 1.6, *(bend / 10 for bend in bends)])  # a decade of each slope, for its label
    high = max([max(x) * 1.6, *(2 * bend for bend in bends)])
    for dtype, peak in peaks.items():
        axes.plot([low, high], [peak, peak], color=style.INK, linewidth=1.4, zorder=1)
        name = f"multiply-adds, {dtype}: {units.significant(peak)} GFLOP/s"
        axes.annotate(name, (low, peak), (4, 4), textcoords="offset points", fontsize=9)
    for (name, speed), side in zip(slopes, ("top", "bottom")):
        axes.plot([low, ceiling / speed], [low * speed, ceiling], color=style.INK, linewidth=1.4, zorder=1)
        at = max(low, bottom / speed) * (1.35 if side == "top" else 1.1)
        y = at * speed * (1.06 if side == "bottom" else 0.95)
        angle = float(np.degrees(np.arctan2(y, at)))  # of slope 1 in log-log, as data coordinates see it there
        how: dict[str, Any] = {"rotation_mode": "anchor", "transform_rotates_text": True, "in_layout": False}
        axes.text(at, y, name, fontsize=9, rotation=angle, va=side, **how)
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(bottom, 1.7 * max(ceiling, *speeds)))


def _slopes(copy: list[list[float]]) -> list[tuple[str, float]]:
    """(label, GB/s) of memory, and of the working set that is copied fastest, where it lies in a cache."""
    if not copy:
        return []
    memory, cache = max(copy), max(copy, key=lambda pair: pair[1])
    found = [(f"copying in memory: {units.significant(memory[1] / 1e9)} GB/s", memory[1] / 1e9)]
    if cache[1] > 1.2 * memory[1]:
        found.append((f"copying within {units.size_tick(cache[0])}: {units.significant(cache[1] / 1e9)} GB/s", cache[1] / 1e9))
    return found


def _axes_of_roofline(axes: Axes) -> None:
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    ticks = [s * 10.0**p for p in range(-4, 6) for s in (1, 2, 5)]
    for axis in (axes.xaxis, axes.yaxis):
        low, high = axis.get_view_interval()
        axis.set_major_locator(FixedLocator([t for t in ticks if low <= t <= high]))
        axis.set_minor_locator(NullLocator())
    axes.grid(which="major")
    axes.set_xlabel("useful FLOP per byte of input, weight and output")
    axes.set_ylabel("useful GFLOP/s")


def _keys(figure: Figure, body: float) -> None:
    sides = (("best of this project", style.OURS), ("best peer", style.THEIRS))
    handles = [Line2D([], [], label=name, **_mark(color)) for name, color in sides]
    place = (0.004, body / figure.get_figheight())
    figure.legend(handles=handles, loc="lower left", bbox_to_anchor=place, ncols=2, handlelength=1.0, borderaxespad=0.1)


@style.styled
def performance_profile(measurements: list[Measurement]) -> Figure:
    """Share of layers on which an entrant takes at most tau times as long as the fastest; one panel per mode."""
    every = versus.compared(measurements)
    panels = [(mode, found) for mode in verdicts.MODES if (found := versus.condition(every, mode, "hot"))]
    if not panels:
        raise NothingToDrawError("no timed comparison row with hot caches")
    names = versus.entrants(group for _, found in panels for group in found)
    palette = versus.palette(names)
    body = 4.3
    subtitle = (
        "Height at 1: share of layers on which nobody is faster. At 2: share on which the entrant needs at most twice the "
        "fastest one's time. An entrant that could not be measured never counts. Dashed: other engines."
    )
    key = style.legend_height(names)
    figure = versus.sheet(body, "How often, and how far from the fastest", subtitle, key=key)
    dashed = {name for name in names if any(versus.is_peer(found, name) for _, found in panels)}
    versus.add_legend(figure, palette, dashed, body)
    profiles = {mode: {name: slowdowns(found, name) for name in versus.entrants(found)} for mode, found in panels}
    top = _top(profiles)
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (mode, found) in zip(grid, panels):
        for name, ratios in profiles[mode].items():
            _curve(axes, ratios, len(found), top, palette[name], name in dashed)
        axes.set_title(f"{mode}, hot caches, {versus.count(len(found), 'layer')}", loc="left")
        _axes_of_profile(axes, top)
    grid[0].set_ylabel("share of layers")
    return figure


def slowdowns(found: Sequence[Group], name: str) -> list[float]:
    """An entrant's time over the fastest one's, ascending, where it has a time."""
    timed = [group.timed for group in found]
    fastest = [min(map(versus.median, rows.values())) for rows in timed]
    return sorted(versus.median(rows[name]) / best for rows, best in zip(timed, fastest) if name in rows)


def within(ratios: Sequence[float], tau: float, layers: int) -> float:
    """Share of ``layers`` on which an entrant stays within ``tau``: the profile at one place."""
    return sum(value <= tau for value in ratios) / layers


def _top(profiles: dict[str, dict[str, list[float]]]) -> float:
    """Where the axis ends: beyond twice the typical entrant's median slowdown, a power of two from 4 to 32."""
    middles = [float(np.median(ratios)) for found in profiles.values() for ratios in found.values() if ratios]
    return float(min(32, max(4, 2 ** np.ceil(np.log2(2 * np.percentile(middles, 80))))))


def _curve(axes: Axes, ratios: list[float], layers: int, top: float, look: Look, dashed: bool) -> None:
    inside = [value for value in ratios if value <= top]
    x = [1.0, *inside, top]
    y = [within(ratios, 1.0, layers), *(within(ratios, value, layers) for value in inside), within(ratios, top, layers)]
    every = max(1, len(x) // 7)
    line = versus.line(look, dashed)
    axes.plot(x, y, drawstyle="steps-post", markevery=(0, every), clip_on=False, linewidth=1.7, **line)


def _axes_of_profile(axes: Axes, top: float) -> None:
    axes.set(xscale="log", xlim=(1, top), ylim=(0, 1))
    between = (1.2, 1.5) if top <= 16 else ()
    axes.xaxis.set_major_locator(FixedLocator([t for t in (1, *between, 2, 3, 4, 6, 8, 12, 16, 24, 32) if t <= top]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}{units.X}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.0f} %"))
    axes.yaxis.set_major_locator(FixedLocator([0, 0.2, 0.4, 0.6, 0.8, 1.0]))
    axes.set_xlabel("time, as a multiple of the fastest one's")
    axes.grid()
