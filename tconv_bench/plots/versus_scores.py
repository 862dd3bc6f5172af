"""Duels summed up: how this project stands against the best peer, against each peer, and where it loses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tconv_bench import verdicts
from tconv_bench.plots import rows
from tconv_bench.plots import versus_rows as versus
from tconv_bench.verdicts import Duel, Group


@dataclass(frozen=True)
class Score:
    """Duels summed up: the geometric mean of their ratios, and how they ended."""

    mean: float
    wins: int
    ties: int
    losses: int

    @property
    def count(self) -> int:
        """How many duels there were."""
        return self.wins + self.ties + self.losses


def duels(found: Iterable[Group], ours: str | None = None, peer: str | None = None) -> list[Duel]:
    """Our entrant (default: the fastest of ours) against a peer (default: the fastest peer), where both have a time."""
    chosen = (g if peer is None else versus.restricted(g, [*verdicts.own(g), peer]) for g in found)
    return [duel for group in chosen if (duel := verdicts.duel(group, ours)) is not None]


def score(fought: Sequence[Duel]) -> Score | None:
    """The sum of some duels; None of none."""
    if not fought:
        return None
    ends = Counter(duel.outcome for duel in fought)
    return Score(rows.geometric_mean(duel.ratio for duel in fought), ends["win"], ends["tie"], ends["loss"])


def losses(found: Iterable[Group]) -> list[Duel]:
    """Every group that the best of ours loses to the best peer beyond noise, the worst first."""
    return sorted((duel for duel in duels(found) if duel.outcome == "loss"), key=lambda duel: duel.ratio)


def spreads(found: Iterable[Group]) -> list[float]:
    """The spreads of the A/A controls, ascending."""
    return sorted(s for group in found if (s := group.spread) is not None)


@dataclass(frozen=True)
class Standing:
    """``auto`` and the best of ours against one peer, or against the best of them (``peer`` is then "")."""

    peer: str
    auto: Score | None
    best: Score | None


def standings(found: Sequence[Group]) -> list[Standing]:
    """Against the best peer first, then against each one that has a time."""
    timed = dict.fromkeys(name for group in found for name in verdicts.peers(group) if name in group.timed)
    lines = [
        Standing(peer, score(duels(found, verdicts.OWN_DEFAULT, peer or None)), score(duels(found, None, peer or None)))
        for peer in ("", *timed)
    ]
    return [line for line in lines if line.best is not None]
