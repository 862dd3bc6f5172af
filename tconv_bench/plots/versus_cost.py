"""What speed costs: memory that a call needs, and preparation that has to pay."""

from __future__ import annotations

from collections.abc import Sequence
from math import isinf

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from tconv_bench import units, verdicts
from tconv_bench.plots import style
from tconv_bench.plots import versus_rows as versus
from tconv_bench.plots.rows import NothingToDrawError
from tconv_bench.plots.style import Look
from tconv_bench.store import Measurement
from tconv_bench.verdicts import Group

_LEAST = 64.0  # bytes: what is less stands in the gutter with zero


@style.styled
def workspace(measurements: list[Measurement], cache: str = "hot") -> Figure:
    """Bytes that a planned call needs beyond input, packed weights and output: a mark per layer, one line per entrant."""
    found = versus.drawn(measurements, "planned", cache)
    sizes = {name: values for name in versus.entrants(found) if (values := workspaces(found, name))}
    if not sizes:
        raise NothingToDrawError("no comparison row has workspace_bytes")
    names = sorted(sizes, key=lambda name: (float(np.median(sizes[name])), sum(sizes[name])))
    palette = versus.palette(names)
    body = 0.36 * len(names) + 0.75
    subtitle = (
        "Planned calls: peak of what one call allocates beyond input, packed weights and output. Mark: a layer; black line and "
        f"first number: the median; left of the dotted line: less than {units.size(_LEAST)}."
    )
    figure = versus.sheet(body, "Memory that a call needs", subtitle)
    axes = figure.add_subplot()
    gutter = _LEAST / 2.5
    for y, name in enumerate(names):
        _strip(axes, y, sizes[name], palette[name], gutter)
    _byte_axis(axes, gutter, max(max(values) for values in sizes.values()))
    axes.axvline(_LEAST / 1.2, color=style.FAINT, linewidth=0.8, linestyle=(0, (2, 3)))
    versus.name_rows(axes, names, palette)
    return figure


def workspaces(found: Sequence[Group], name: str) -> list[int]:
    """An entrant's known workspaces, one per layer on which it has a time."""
    sizes = (group.timed[name].workspace_bytes for group in found if name in group.timed)
    return [size for size in sizes if size is not None]


def _strip(axes: Axes, y: int, sizes: list[int], look: Look, gutter: float) -> None:
    x = [size if size >= _LEAST else gutter for size in sizes]
    axes.plot(x, [y] * len(x), look.marker, color=look.stroke, markersize=6, alpha=0.4, markeredgewidth=0)
    middle = float(np.median(sizes))
    place = middle if middle >= _LEAST else gutter
    axes.plot([place, place], [y - 0.33, y + 0.33], color=style.INK, linewidth=1.8, solid_capstyle="butt", zorder=4)
    axes.annotate(
        f"{units.size(middle)}, at most {units.size(max(sizes))}", (1, y), (6, 0), xycoords=("axes fraction", "data"),
        textcoords="offset points", va="center", fontsize=style.SMALL, annotation_clip=False,
    )  # fmt: skip


def _byte_axis(axes: Axes, gutter: float, most: float) -> None:
    top = max(float(most), 1024.0 * 16)
    axes.set_xscale("log", base=2)
    axes.set_xlim(gutter / 1.7, top * 2)
    ticks = [2.0**power for power in range(6, 60, 4) if 2.0**power <= top * 2]
    axes.xaxis.set_major_locator(FixedLocator([gutter, *ticks[1:]]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: "0" if v < _LEAST else units.size_tick(v)))
    axes.grid(axis="x")


@style.styled
def break_even(measurements: list[Measurement]) -> Figure:
    """Seconds of preparation, and the calls after which it has paid over the fastest one-shot call of the same side."""
    every = versus.compared(measurements)
    found = versus.condition(every, "planned", "hot")
    points = {name: pairs for name in versus.entrants(found) if (pairs := paid_after(every, name))}
    if not points:
        raise NothingToDrawError("no entrant was compared both one-shot and planned")
    names = list(points)
    palette = versus.palette(names)
    body = 0.36 * len(names) + 0.75
    subtitle = (
        "Mark: a layer, hot caches; black line and number: the median. Calls = preparation / (one-shot time - planned time), "
        "against the fastest one-shot call of the same side: this project's above the line, torch's below. "
        "Grey band: never, the planned call is no faster."
    )
    figure = versus.sheet(body, "When preparing pays", subtitle)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(2, 3))
    never = _never([calls for pairs in points.values() for _, calls in pairs])
    for y, name in enumerate(names):
        _costs(left, right, y, points[name], palette[name], never)
    _axes_of_cost(left, right, never)
    theirs = [y for y, name in enumerate(names) if versus.is_peer(found, name)]
    if 0 < len(theirs) < len(names):
        for axes in (left, right):
            axes.axhline(theirs[0] - 0.5, color=style.INK, linewidth=0.7)
    versus.name_rows(left, names, palette)
    right.tick_params(axis="y", length=0)
    return figure


def paid_after(every: Sequence[Group], name: str) -> list[tuple[float, float]]:
    """(seconds of preparation, calls until it has paid) of each layer where the entrant was planned; inf for never."""
    one_shot = {group.label: group for group in versus.condition(every, "one-shot", "hot")}
    pairs = []
    for group in versus.condition(every, "planned", "hot"):
        row, other = group.timed.get(name), one_shot.get(group.label)
        fastest = _fastest(other, row.peer) if row is not None and other is not None else None
        calls = verdicts.break_even(row, fastest) if row is not None and fastest is not None else None
        if row is not None and row.prepare_seconds is not None and calls is not None:
            pairs.append((row.prepare_seconds, calls))
    return pairs


def _fastest(group: Group, peer: bool) -> Measurement | None:
    """The fastest one-shot row of the same side."""
    found = verdicts.verdict(group, verdicts.peers(group) if peer else verdicts.own(group))
    return group.timed[found.fastest] if found else None


def typical(pairs: Sequence[tuple[float, float]]) -> float:
    """The median number of calls; of an even number the upper middle, so that "never" has no mean with anything."""
    return sorted(calls for _, calls in pairs)[len(pairs) // 2]


def calls_text(calls: float) -> str:
    """A number of calls: whole, at least 1; "never" for infinity.

    >>> calls_text(0.2), calls_text(12.3), calls_text(123456.0), calls_text(float("inf"))
    ('1', '13', '123,000', 'never')
    """
    if isinf(calls):
        return "never"
    whole = int(np.ceil(max(calls, 1.0)))
    return f"{whole if whole < 1000 else float(f'{whole:.3g}'):,.0f}"


def _never(calls: Sequence[float]) -> float:
    """Where "never" stands: a factor of ten above the most calls."""
    most = max((value for value in calls if not isinf(value)), default=10.0)
    return float(10 ** (np.ceil(np.log10(max(most, 10.0))) + 1))


def _costs(left: Axes, right: Axes, y: int, pairs: list[tuple[float, float]], look: Look, never: float) -> None:
    seconds = [value for value, _ in pairs]
    calls = [never if isinf(value) else max(value, 1.0) for _, value in pairs]
    middle, unpaid = typical(pairs), sum(isinf(value) for _, value in pairs)
    for axes, values, place in (
        (left, seconds, float(np.median(seconds))),
        (right, calls, never if isinf(middle) else max(middle, 1.0)),
    ):
        axes.plot(
            values, [y] * len(values), look.marker, color=look.stroke, markersize=6, alpha=0.4, markeredgewidth=0, zorder=3
        )
        axes.plot([place, place], [y - 0.33, y + 0.33], color=style.INK, linewidth=1.8, solid_capstyle="butt", zorder=4)
    never_on = f"never on {unpaid} of {len(pairs)}" if unpaid else ""
    text = never_on if isinf(middle) else "; ".join(filter(None, (calls_text(middle), never_on)))
    right.annotate(
        text, (1, y), (6, 0), xycoords=("axes fraction", "data"), textcoords="offset points", va="center",
        fontsize=style.SMALL, annotation_clip=False,
    )  # fmt: skip


def _axes_of_cost(left: Axes, right: Axes, never: float) -> None:
    left.set(xscale="log", title="preparation")
    low, high = (float(value) for value in left.xaxis.get_data_interval())
    left.set_xlim(low / 2, high * 2)
    decades = [10.0**power for power in range(-9, 6) if low / 2 <= 10.0**power <= high * 2]
    left.xaxis.set_major_locator(FixedLocator(decades[:: max(1, -(-len(decades) // 5))]))
    left.xaxis.set_major_formatter(FuncFormatter(lambda v, _: units.time_tick(float(f"{v:.3g}"))))
    right.set(xscale="log", title="calls until it has paid", xlim=(0.6, never * 4))
    counts = [10.0**power for power in range(int(np.log10(never)) - 1)]
    right.xaxis.set_major_locator(FixedLocator([*counts[:: max(1, -(-len(counts) // 4))], never]))
    right.xaxis.set_major_formatter(FuncFormatter(lambda v, _: "never" if v >= never * 0.99 else f"{v:,.0f}"))
    right.axvspan(never / 4, never * 4, color=style.GAP, linewidth=0, zorder=0)
    for axes in (left, right):
        axes.set_title(axes.get_title(), loc="left")
        axes.set_title("")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(axis="x")
