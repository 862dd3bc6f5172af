"""The bars that docs/performance.md sets, against stored comparison rows: hot caches, the thread count of most layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from tconv_bench import ceilings, units
from tconv_bench.plots import versus_rows as versus
from tconv_bench.plots import versus_scores as scores
from tconv_bench.plots.rows import geometric_mean
from tconv_bench.problem import Problem
from tconv_bench.store import Measurement
from tconv_bench.verdicts import OWN_DEFAULT, Duel, Group

TORCH = ("torch", "torch-channels_last")  # the functional form in PyTorch's two memory orders
DEEP, WIDE = 256, 64  # products per output and output channels from which a layer is bound by its arithmetic
WORKSPACE = 4 * 2**20
TINY = "Tiny 8x8"


def products(problem: Problem) -> float:
    """Products of an output's sum, on average over the phases of the stride."""
    return float(problem.c_in // problem.groups * problem.taps / prod(problem.stride))


def drawn_table(measurements: list[Measurement]) -> str:
    """Markdown: a line per mode of problems drawn at random, then those that lose, slowest against the fastest engine first.

    Raises:
        ValueError: no row in which this project meets another engine, one-shot and planned.
    """
    _, duels, _, shot = _duels(measurements)
    lines = [("one-shot, the faster of PyTorch's two forms", shot), ("planned, the fastest of five engines", duels)]
    body = ["| against | problems | geometric mean | 10th percentile | below 1.0x | least |", "| --- " + "| ---: " * 5 + "|"]
    for name, found in lines:
        ratios = sorted(duel.ratio for duel in found)
        numbers = [geometric_mean(ratios), ratios[len(ratios) // 10], ratios[0]]
        mean, tenth, least = map(units.times, numbers)
        body.append(f"| {name} | {len(ratios)} | {mean} | {tenth} | {sum(ratio < 1 for ratio in ratios)} | {least} |")
    return "\n".join([*body, "", *_losing("planned", duels), "", *_losing("one-shot", shot)])


def _duels(measurements: list[Measurement]) -> tuple[list[Group], list[Duel], list[Group], list[Duel]]:
    """Planned groups and what the default came out at in them, and the same of single calls against PyTorch."""
    found = versus.compared(measurements)
    one_shot, planned = (versus.condition(found, mode, "hot") for mode in ("one-shot", "planned"))
    duels = scores.duels(planned, OWN_DEFAULT)
    shot = scores.duels([versus.restricted(g, [OWN_DEFAULT, *TORCH]) for g in one_shot], OWN_DEFAULT)
    if not duels or not shot:
        raise ValueError("there is no comparison row, one-shot and planned, in which this project meets another engine")
    return planned, duels, one_shot, shot


def table(measurements: list[Measurement]) -> str:
    """Markdown: a line per bar with what was reached, then the layers that lose, slowest against the fastest engine first.

    Raises:
        ValueError: no row in which this project meets another engine, one-shot and planned.
    """
    planned, duels, one_shot, shot = _duels(measurements)
    lines = [
        ("one-shot, `auto` against the faster of PyTorch's two forms", ">= 2.5x, none below 1.0x", _spread(shot)),
        ("planned, `auto` against the fastest of five engines", ">= 2x, none below 1.0x", _spread(duels)),
        (f"layers of {DEEP} products and {WIDE} output channels or more: part of the FMA peak", ">= 80 %", _peak(planned)),
        ("kernel = stride: part of the roofline's bandwidth or arithmetic, whichever binds", ">= 70 %", _roofline(planned)),
        ("workspace per thread, by `memray`, the largest", f"<= {units.size(WORKSPACE)}", _workspace(planned)),
        (f"{TINY}, planned", "<= 5 us", _tiny(planned)),
        (f"{TINY}, one-shot", "<= 12 us", _tiny(one_shot)),
    ]
    body = [
        "| bar | asked | reached |",
        "| --- | --- | --- |",
        *(f"| {name} | {asked} | {got} |" for name, asked, got in lines),
    ]
    return "\n".join([*body, "", *_losing("planned", duels), "", *_losing("one-shot", shot)])


def _spread(duels: Sequence[Duel]) -> str:
    worst = min(duels, key=lambda duel: duel.ratio)
    below = sum(duel.ratio < 1 for duel in duels)
    return (
        f"{units.times(geometric_mean(duel.ratio for duel in duels))} in the geometric mean of {len(duels)} layers; "
        f"{below} below 1.0x, the least {units.times(worst.ratio)} ({worst.group.label})"
    )


def _rows(groups: Sequence[Group], keep: Callable[[Problem], bool]) -> list[tuple[str, Measurement]]:
    return [(g.label, g.timed[OWN_DEFAULT]) for g in groups if OWN_DEFAULT in g.timed and keep(g.problem)]


def _parts(parts: list[tuple[float, str]], bar: float) -> str:
    if not parts:
        return units.NONE
    least, label = min(parts)
    reached = sum(part >= bar for part, _ in parts)
    mean = geometric_mean(part for part, _ in parts)
    return f"{mean:.0%} in the geometric mean, {reached} of {len(parts)} layers reach it; the least {least:.0%} ({label})"


def _peak(groups: Sequence[Group]) -> str:
    deep = _rows(groups, lambda p: products(p) >= DEEP and p.c_out // p.groups >= WIDE)
    return _parts([(row.gflops / row.ceilings["fma_gflops"]["float32"], label) for label, row in deep if row.gflops], 0.8)


def _roofline(groups: Sequence[Group]) -> str:
    alike = _rows(groups, lambda p: p.kernel == p.stride and set(p.dilation) == {1})
    parts = []
    for label, row in alike:
        least = ceilings.least_seconds(Problem.parse(row.problem), row.ceilings)
        if least and row.median:
            parts.append((least / row.median, label))
    return _parts(parts, 0.7)


def _workspace(groups: Sequence[Group]) -> str:
    known = [
        (row.workspace_bytes / max(1, row.threads or 1), label)
        for label, row in _rows(groups, lambda p: True)
        if row.workspace_bytes is not None
    ]
    if not known:
        return units.NONE
    most, label = max(known)
    return f"{units.size(most)} ({label})"


def _tiny(groups: Sequence[Group]) -> str:
    rows = [row for label, row in _rows(groups, lambda p: True) if label == TINY]
    return units.seconds(rows[0].median) if rows and rows[0].median else units.NONE


def _losing(mode: str, duels: Sequence[Duel]) -> list[str]:
    slow = sorted((duel.ratio, duel.group.label) for duel in duels if duel.ratio < 1)
    names = ", ".join(f"{label} {ratio:.2f}" for ratio, label in slow)
    return [f"Below 1.0x {mode}, the engine's time / ours: {names or 'none'}."]
