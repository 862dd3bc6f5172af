"""What stored comparison rows say: which sets belong together, how far chance reaches, who is faster. Nothing is timed here.

Sets that share ``Measurement.group`` were interleaved in random order; only those are compared. Every group holds an A/A
control, the same code in a second process. Its spread::

    max(high of both) / min(low of both) - 1,      low and high: the 95 % interval of the median

is how far apart two equal things came out. The group's noise floor is that, or the median spread of the run's groups, or
LEAST_FLOOR, whichever is largest. One entrant is faster than another where their intervals do not overlap, the ratio of their
medians is beyond the floor, and the slower one's fastest tenth of samples is still slower than the other's median (threads that
wake late give two modes, and a process' luck decides how often it meets the slower one); everything else is a tie.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import inf

from tconv_bench.problem import Problem
from tconv_bench.store import Measurement

SUITE = "compare"
# Where a process' memory lies is chance that lasts as long as the process, and that samples do not show: in 120 groups of
# equal competitors, one pair was 9 % apart with narrow intervals and a quiet control.
LEAST_FLOOR = 0.1
MODES = ("one-shot", "planned")
CACHES = ("hot", "flushed")
OWN_DEFAULT = "auto"


@dataclass(frozen=True)
class Group:
    """One problem in one mode, cache state and thread count: every entrant's row, and the A/A control's."""

    label: str
    problem: Problem
    mode: str
    cache: str
    threads: int
    rows: dict[str, Measurement]  # by entrant, without the control
    control: Measurement | None  # the second copy
    floor: float | None = None  # see the module

    @property
    def timed(self) -> dict[str, Measurement]:
        """The rows that have a time."""
        return {name: row for name, row in self.rows.items() if row.median is not None}

    @property
    def spread(self) -> float | None:
        """The A/A control's spread; None where either copy has no time."""
        first = self.rows.get(self.control.method) if self.control else None
        if self.control is None or first is None or first.median is None or self.control.median is None:
            return None
        return spread(first, self.control)


@dataclass(frozen=True)
class Verdict:
    """Who is fastest among some entrants of a group; ``winner`` is "" for a tie, of which ``tied`` lists the members."""

    winner: str
    fastest: str
    median: float
    tied: tuple[str, ...]
    runner_up: str  # "" where there is one entrant only
    ratio: float | None  # the runner-up's median / the fastest's


def entrant(row: Measurement) -> str:
    """What a row's competitor is called: its method, which copy where one was named twice, which commit with ``--against``."""
    copy = row.settings.get("copy", 1)
    return row.method + (f" #{copy}" if copy > 1 else "") + (f" @ {row.revision[:7]}" if row.revision else "")


def spread(a: Measurement, b: Measurement) -> float:
    """How far the intervals of two sets, ``a`` and ``b``, reach apart, as a part of the lower end."""
    return max(_bound(a.high, a), _bound(b.high, b)) / min(_bound(a.low, a), _bound(b.low, b)) - 1


def _bound(value: float | None, row: Measurement) -> float:
    assert row.median is not None
    return row.median if value is None else value


def groups(measurements: Iterable[Measurement]) -> list[Group]:
    """The newest group of measurements of each (label, problem, mode, cache, threads), in the order of their first."""
    members: dict[str, list[Measurement]] = {}
    for row in measurements:
        if row.suite == SUITE and row.group:
            members.setdefault(row.group, []).append(row)
    newest: dict[tuple[object, ...], list[Measurement]] = {}
    for found in members.values():
        row = found[0]
        key = (row.label, row.problem, row.mode, row.cache, row.threads, row.device)
        if key not in newest or found[0].measured_at >= newest[key][0].measured_at:
            newest[key] = found
    return _with_floors([_group(found) for found in newest.values()])


def _group(found: list[Measurement]) -> Group:
    first = found[0]
    return Group(
        first.label,
        Problem.parse(first.problem),
        first.mode,
        first.cache,
        first.threads or 1,
        {entrant(row): row for row in found if not row.control},
        next((row for row in reversed(found) if row.control), None),  # the newest, as of every entrant
    )


def _with_floors(found: list[Group]) -> list[Group]:
    medians = {kind: noise_floor(g for g in found if (g.mode, g.cache, g.threads) == kind) for kind in set(map(_kind, found))}
    floors = [None if g.spread is None else max(g.spread, medians[_kind(g)] or 0.0, LEAST_FLOOR) for g in found]
    return [Group(g.label, g.problem, g.mode, g.cache, g.threads, g.rows, g.control, floor) for g, floor in zip(found, floors)]


def _kind(group: Group) -> tuple[str, str, int]:
    return group.mode, group.cache, group.threads


def noise_floor(found: Iterable[Group]) -> float | None:
    """The median spread of the A/A controls of the groups that were ``found``; None where none was timed."""
    spreads = [g.spread for g in found if g.spread is not None]
    return statistics.median(spreads) if spreads else None


def faster(a: Measurement, b: Measurement, floor: float | None) -> bool:
    """Whether ``a`` is faster than ``b`` beyond chance and the noise ``floor``, by the module's three conditions."""
    assert a.median is not None
    assert b.median is not None
    apart = _bound(b.low, b) > _bound(a.high, a)
    lowest = sorted(b.samples)[len(b.samples) // 10] if b.samples else b.median
    return apart and lowest > a.median and b.median / a.median > 1 + (inf if floor is None else floor)


def verdict(group: Group, names: Sequence[str] | None = None) -> Verdict | None:
    """The fastest of a group's entrants that have a time, of ``names`` alone where they are given; None where none has."""
    timed = {name: row for name, row in group.timed.items() if names is None or name in names}
    if not timed:
        return None
    order = sorted(timed, key=_by_median(timed))
    best, rest = order[0], order[1:]
    tied = [name for name in rest if not faster(timed[best], timed[name], group.floor)]
    median = _by_median(timed)(best)
    return Verdict(
        winner="" if tied else best,
        fastest=best,
        median=median,
        tied=(best, *tied) if tied else (),
        runner_up=rest[0] if rest else "",
        ratio=_by_median(timed)(rest[0]) / median if rest else None,
    )


def _by_median(timed: dict[str, Measurement]) -> Callable[[str], float]:
    def key(name: str) -> float:
        median = timed[name].median
        assert median is not None
        return median

    return key


def own(group: Group) -> list[str]:
    """This project's entrants of a group."""
    return [name for name, row in group.rows.items() if not row.peer]


def peers(group: Group) -> list[str]:
    """The other engines of a group."""
    return [name for name, row in group.rows.items() if row.peer]


def channels_first(group: Group) -> list[str]:
    """The entrants of a group that take and give channels-first memory, as NumPy and ONNX have it."""
    return [name for name, row in group.rows.items() if row.layout != "channels-last"]


@dataclass(frozen=True)
class Duel:
    """This project against the best peer on one group: ``ratio`` is the peer's median over ours."""

    group: Group
    ours: Measurement
    peer: Measurement
    ratio: float
    outcome: str  # "win", "loss" or "tie"


def duel(group: Group, ours: str | None = None) -> Duel | None:
    """Of a group, ``ours`` (default: the fastest of ours) against the fastest peer; None where either side has no time."""
    timed = group.timed
    mine = [name for name in own(group) if name in timed and (ours is None or name == ours)]
    theirs = [name for name in peers(group) if name in timed]
    if not mine or not theirs:
        return None
    a, b = (timed[min(names, key=_by_median(timed))] for names in (mine, theirs))
    assert a.median is not None
    assert b.median is not None
    outcome = "win" if faster(a, b, group.floor) else "loss" if faster(b, a, group.floor) else "tie"
    return Duel(group, a, b, b.median / a.median, outcome)


def break_even(planned: Measurement, one_shot: Measurement) -> float | None:
    """Calls after which preparing once has paid: preparation / (``one_shot`` - ``planned`` time); inf where it never does."""
    if planned.median is None or one_shot.median is None or planned.prepare_seconds is None:
        return None
    gain = one_shot.median - planned.median
    return planned.prepare_seconds / gain if gain > 0 else inf
