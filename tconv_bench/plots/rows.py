"""Measurements sorted into layers and sweeps, and the rule by which a method wins."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from math import exp, log

from tconv_bench.problem import Problem
from tconv_bench.store import Measurement

_WORDS = {"n": "batch", "i": "input", "k": "kernel", "s": "stride", "p": "padding", "g": "groups", "d": "dilation"}
LAYER_SUITES = ("layers", "cli")
BASE = "zero_insertion"


class NothingToDrawError(ValueError):
    """The rows that a figure needs are absent; a report leaves the figure out."""


@lru_cache(maxsize=4096)
def problem_of(text: str) -> Problem:
    """The Problem of a row's text, parsed once."""
    return Problem.parse(text)


def series(row: Measurement) -> str:
    """What a row's line, bar or column is called: its method, and its device unless that is the CPU."""
    return row.method if row.device == "cpu" else f"{row.method} ({row.device})"


def latest(measurements: Iterable[Measurement]) -> list[Measurement]:
    """One row per suite, label, problem and method: the newest by ``measured_at``, at the place of the first."""
    rows: dict[Hashable, Measurement] = {}
    for row in measurements:
        key = (row.suite, row.label, row.problem, series(row))
        if key not in rows or row.measured_at >= rows[key].measured_at:
            rows[key] = row
    return list(rows.values())


def gflops(row: Measurement) -> float | None:
    """Useful floating-point operations per nanosecond: ``Problem.flops / median``; None where nothing was timed."""
    return None if row.median is None else problem_of(row.problem).flops / row.median / 1e9


def extra_bytes(row: Measurement) -> int | None:
    """Workspace and prepared bytes together; None where neither is known."""
    known = [b for b in (row.workspace_bytes, row.prepared_bytes) if b is not None]
    return sum(known) if known else None


@dataclass(frozen=True)
class Verdict:
    """Who is fastest on one problem; ``winner`` is "tie" where a 95 % interval overlaps the fastest method's."""

    winner: str
    fastest: str
    median: float
    tied: tuple[str, ...]
    runner_up: str | None
    ratio: float | None


@dataclass(frozen=True)
class Layer:
    """One problem and every method's row on it."""

    label: str
    problem: Problem
    cells: dict[str, Measurement]

    @property
    def medians(self) -> dict[str, float]:
        """Median seconds of the methods that were timed."""
        return {name: row.median for name, row in self.cells.items() if row.median is not None}

    @property
    def verdict(self) -> Verdict | None:
        """The winner, or None where nothing was timed."""
        return _verdict([row for row in self.cells.values() if row.median is not None])


def _verdict(rows: list[Measurement]) -> Verdict | None:
    if not rows:
        return None
    best, *rest = sorted(rows, key=_median)
    # A missing bound says nothing about the spread, so it can't rule a tie out.
    tied = tuple(series(r) for r in rest if best.high is None or r.low is None or r.low <= best.high)
    second = rest[0] if rest else None
    return Verdict(
        winner="tie" if tied else series(best),
        fastest=series(best),
        median=_median(best),
        tied=(series(best), *tied) if tied else (),
        runner_up=series(second) if second else None,
        ratio=_median(second) / _median(best) if second else None,
    )


def _median(row: Measurement) -> float:
    assert row.median is not None
    return row.median


def layers(measurements: Iterable[Measurement], suites: tuple[str, ...] = LAYER_SUITES) -> list[Layer]:
    """The suites' problems in input order, each with its rows; labels are unique ("DCGAN g2 N=1", "DCGAN g2 N=64")."""
    found: dict[tuple[str, str], dict[str, Measurement]] = {}
    for row in latest(measurements):
        if row.suite in suites:
            found.setdefault((row.label, row.problem), {})[series(row)] = row
    labels = _unique(list(found))
    return [Layer(label, problem_of(key[1]), cells) for label, (key, cells) in zip(labels, found.items())]


def _unique(keys: list[tuple[str, str]]) -> list[str]:
    repeated = {label for label, count in Counter(label for label, _ in keys).items() if count > 1}
    by_batch = [f"{label} N={problem_of(text).batch}" if label in repeated else label for label, text in keys]
    clash = {label for label, count in Counter(by_batch).items() if count > 1}
    return [f"{label} {text}" if name in clash else name for name, (label, text) in zip(by_batch, keys)]


def timed_layers(measurements: Iterable[Measurement], suites: tuple[str, ...] = LAYER_SUITES) -> list[Layer]:
    """``layers`` where at least one method was timed; raises NothingToDrawError if there is none."""
    found = [layer for layer in layers(measurements, suites) if layer.medians]
    if not found:
        raise NothingToDrawError(f"no timed row in suite {' or '.join(suites)}")
    return found


def method_names(found: Iterable[Layer]) -> list[str]:
    """Every series of the layers, in alphabetical order: the order of legends and panels."""
    return sorted({name for layer in found for name in layer.cells})


def geometric_mean(values: Iterable[float]) -> float:
    """exp of the mean logarithm; values must be positive."""
    logs = [log(value) for value in values]
    return exp(sum(logs) / len(logs))


def base_method(found: list[Layer], base: str | None = None) -> str:
    """The method that others are compared with: ``base``, else zero insertion, else the slowest one timed most often."""
    counts = Counter(name for layer in found for name in layer.medians)
    if base is not None:
        if base not in counts:
            raise ValueError(f"base is {base!r}, but the methods that were timed are {', '.join(sorted(counts))}")
        return base
    if 2 * counts[BASE] >= len(found):
        return BASE
    most = [name for name in counts if counts[name] == max(counts.values())]
    return max(most, key=lambda name: geometric_mean(layer.medians[name] for layer in found if name in layer.medians))


def panels(found: list[Layer], fixed: Callable[[Problem], Hashable]) -> list[tuple[str, list[Layer]]]:
    """Layers grouped by what a sweep keeps ``fixed``, each group with words for what all its problems share."""
    groups: dict[Hashable, list[Layer]] = {}
    for layer in found:
        groups.setdefault(fixed(layer.problem), []).append(layer)
    return [(shared([layer.problem for layer in group]), group) for group in groups.values()]


def shared(problems: list[Problem]) -> str:
    """What is the same in all problems, in words; sizes that are 1 (stride, groups, ...) or 0 are left out.

    >>> shared([Problem(1, 8, (n, n), 8, 4, 2, 1) for n in (8, 16)])
    '8 channels, kernel 4x4, stride 2x2, padding 1x1'
    """
    tokens = set.intersection(*(set(str(problem).split("_")) for problem in problems))
    ci, co = (next((t[2:] for t in tokens if re.fullmatch(rf"{key}\d+", t)), "") for key in ("ci", "co"))
    parts = [f"{ci} channels" if ci == co else f"{ci} to {co} channels"] if ci and co else []
    for key, word in _WORDS.items():
        parts += [f"{word} {t[len(key) :]}" for t in tokens if re.fullmatch(rf"{key}\d[\dx:]*", t) and t != "n1"]
    return ", ".join(parts + [t for t in tokens if t in ("float64", "int32", "int64")])
