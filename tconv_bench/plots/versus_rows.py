"""Comparison rows sorted for figures, page and README: which groups a figure shows, in which order, and what they add up to.

Who is faster is decided in ``tconv_bench.verdicts`` alone. Rows of another commit (``--against``) are left out. Most figures
show the thread count that most layers were measured at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tconv_bench import layers, units, verdicts
from tconv_bench.plots import rows, style
from tconv_bench.plots.rows import NothingToDrawError
from tconv_bench.plots.style import Look
from tconv_bench.store import Measurement
from tconv_bench.verdicts import Group

BASE = "torch"
WIDTH = 9.0  # inches; shown 1000 px wide, 8 pt of type are 12.3 px high
CONDITIONS = (("one-shot", "hot"), ("planned", "hot"), ("planned", "flushed"))


def compared(measurements: Iterable[Measurement]) -> list[Group]:
    """Every group with at least one time, as this commit and the peers made it; labels are unique.

    They stand in the order of the layers file, whatever run a row came from; layers that are not in it after those that are.
    """
    found = [g for g in verdicts.groups(row for row in measurements if not row.revision) if g.timed]
    found.sort(key=lambda group: layers.place(group.label))
    texts: dict[str, set[str]] = {}
    for group in found:
        texts.setdefault(group.label, set()).add(str(group.problem))
    return [replace(g, label=f"{g.label} {g.problem}") if len(texts[g.label]) > 1 else g for g in found]


def main_threads(found: Iterable[Group]) -> int:
    """The thread count of most layers; of several such, the largest."""
    counts = Counter(threads for _, threads in {(g.label, g.threads) for g in found})
    return max(counts, key=lambda threads: (counts[threads], threads))


def condition(found: Iterable[Group], mode: str, cache: str) -> list[Group]:
    """The groups of a mode and cache state at the main thread count."""
    groups = list(found)
    threads = main_threads(groups) if groups else 1
    return [g for g in groups if (g.mode, g.cache, g.threads) == (mode, cache, threads)]


def on_gpu(found: Iterable[Group]) -> bool:
    """Whether groups were measured on a GPU; a page shows either such or others."""
    return any(row.device == "cuda" for group in found for row in group.rows.values())


def by_batch(found: Iterable[Group]) -> list[tuple[str, list[Group]]]:
    """(heading, groups) of each batch size, small ones first; labels no longer say it."""
    groups = list(found)
    batches = sorted({group.problem.batch for group in groups})
    return [
        (f"N={n}", [replace(g, label=g.label.removesuffix(f" N={n}")) for g in groups if g.problem.batch == n]) for n in batches
    ]


def drawn(measurements: Iterable[Measurement], mode: str, cache: str) -> list[Group]:
    """``condition`` of the rows; raises NothingToDrawError where nothing was timed in it."""
    found = condition(compared(measurements), mode, cache)
    if not found:
        raise NothingToDrawError(f"no timed comparison row, {mode} with {cache} caches")
    return found


def entrants(found: Iterable[Group]) -> list[str]:
    """Every entrant: ``auto``, this project's others by name, then the peers as they were first met."""
    groups = list(found)
    ours = {name for group in groups for name in verdicts.own(group)}
    theirs = dict.fromkeys(name for group in groups for name in verdicts.peers(group))
    return [*sorted(ours, key=lambda name: (name != verdicts.OWN_DEFAULT, name)), *theirs]


def sheet(body: float, title: str, subtitle: str, *, key: float = 0.0, width: float = WIDTH) -> Figure:
    """``style.sheet`` in the comparison's width, with room at the sides for a reader's font that is wider than ours."""
    return style.sheet(body, title, subtitle, key=key, width=width, margin=0.06)


def palette(names: Sequence[str]) -> dict[str, Look]:
    """Colour and marker of each entrant, in the given order."""
    looks = style.looks(names)
    return {name: looks[name] for name in names}


def line(look: Look, dashed: bool) -> dict[str, Any]:
    """How an entrant's line is drawn; peers' are dashed."""
    size = 8.0 if look.marker == "*" else 5.5
    edge = {"markeredgecolor": "white", "markeredgewidth": 0.5}
    return {
        "color": look.stroke,
        "marker": look.marker,
        "markersize": size,
        "linestyle": (0, (4, 1.4)) if dashed else "-",
        **edge,
    }


def add_legend(figure: Figure, looks: dict[str, Look], dashed: Collection[str], body: float, *more: Line2D) -> None:
    """Keys in the gap that ``style.sheet`` left above the body, those of peers dashed."""
    handles = [*(Line2D([], [], label=name, **line(look, name in dashed)) for name, look in looks.items()), *more]
    place = (0.004, body / figure.get_figheight())
    columns = min(6, len(handles))
    figure.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=place,
        ncols=columns,
        columnspacing=1.4,
        handlelength=2.2,
        borderaxespad=0.1,
    )


def name_rows(axes: Axes, names: Sequence[str], looks: dict[str, Look]) -> None:
    """The entrants' names, in their colours, beside rows 0, 1, 2, ... from above."""
    axes.set_yticks(range(len(names)), names, fontsize=9, fontweight="bold")
    for label, name in zip(axes.get_yticklabels(), names):
        label.set_color(looks[name].ink)
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)


def is_peer(found: Iterable[Group], name: str) -> bool:
    """Whether an entrant is another engine."""
    return any(group.rows[name].peer for group in found if name in group.rows)


def restricted(group: Group, names: Iterable[str]) -> Group:
    """The group with some of its entrants only."""
    kept = set(names)
    return replace(group, rows={name: row for name, row in group.rows.items() if name in kept})


def channels_first(group: Group) -> Group:
    """The group without the entrants that take and give channels-last memory."""
    return restricted(group, verdicts.channels_first(group))


def median(row: Measurement) -> float:
    """The median of a row that has a time."""
    assert row.median is not None
    return row.median


def bounds(row: Measurement) -> tuple[float, float]:
    """The 95 % interval of a row that has a time; the median where a bound is unknown."""
    middle = median(row)
    return (middle if row.low is None else row.low, middle if row.high is None else row.high)


@dataclass(frozen=True)
class Ratio:
    """A base's time over an entrant's, above 1 where the entrant is faster, and how far their 95 % intervals let it reach."""

    value: float
    low: float
    high: float


def ratio(base: Measurement, row: Measurement) -> Ratio:
    """How many times faster ``row`` is than ``base``."""
    (base_low, base_high), (low, high) = bounds(base), bounds(row)
    return Ratio(median(base) / median(row), base_low / high, base_high / low)


def mean_ratio(found: Iterable[Group], base: str, name: str) -> tuple[float, int] | None:
    """Geometric mean of an entrant's speed-ups over ``base`` and over how many groups; None where they never met."""
    met = [g.timed for g in found if base in g.timed and name in g.timed]
    if not met:
        return None
    return rows.geometric_mean(median(timed[base]) / median(timed[name]) for timed in met), len(met)


def network_starts(labels: Sequence[str]) -> list[int]:
    """Places where a label's first word changes; none where that would be most of them."""
    networks = [label.split(" ")[0] for label in labels]
    starts = [y for y in range(1, len(labels)) if networks[y] != networks[y - 1]]
    return starts if 2 * len(starts) <= len(labels) else []


def count(number: int, noun: str, plural: str = "s") -> str:
    """A number of things.

    >>> count(1, "loss", "es"), count(0, "layer")
    ('1 loss', '0 layers')
    """
    return f"{number} {noun if number == 1 else noun + plural}"


def percent(share: float) -> str:
    """A share in per cent, two digits.

    >>> percent(0.4567), percent(0.0123)
    ('46 %', '1.2 %')
    """
    return f"{units.significant(100 * share, 2)} %"
