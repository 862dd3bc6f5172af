"""What a GPU's rows say, in one table: for the terminal, for Markdown. Nothing is measured here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from rich import box
from rich.table import Table

from tconv_bench import ceilings, registry, units, verdicts
from tconv_bench.gpu_check.session import BATCHES, FLOAT32, MAIN, SKIPPED, TESTS, TF32, TF32_MODE
from tconv_bench.plots import versus_rows as versus
from tconv_bench.plots import versus_scores as scores
from tconv_bench.plots.rows import geometric_mean
from tconv_bench.problem import Problem
from tconv_bench.store import Measurement
from tconv_bench.verdicts import Duel, Group

PEAK_ASKED, SPEED_ASKED = 0.6, 1.0
HEADS = ("", "asked", *(f"N={batch}" for batch in BATCHES))


@dataclass(frozen=True)
class Line:
    """One line of the table: what, what was asked of it, and what was reached with each batch."""

    what: str
    asked: str
    reached: tuple[str, ...]


def groups(rows: Iterable[Measurement], mode: str = "planned") -> list[Group]:
    """The newest groups of a mode on a GPU."""
    found = verdicts.groups(row for row in rows if row.device == "cuda")
    return [group for group in found if group.mode == mode]


def duels(found: Sequence[Group], batch: int) -> list[Duel]:
    """``phase`` against the faster of cuDNN's forms without TF32, on every layer where both have a time."""
    chosen = [versus.restricted(g, [MAIN, *FLOAT32]) for g in found if g.problem.batch == batch]
    return scores.duels(chosen, MAIN)


def lines(rows: Sequence[Measurement]) -> list[Line]:
    """All lines of the table."""
    found, tf32 = groups(rows), {(g.label, g.problem): g for g in groups(rows, TF32_MODE)}

    def each(text: Callable[[list[Group], int], str]) -> tuple[str, ...]:
        return tuple(text([g for g in found if g.problem.batch == batch], batch) for batch in BATCHES)

    basic = [name for name in registry.methods("cuda") if name != MAIN]
    return [
        Line("layers on which phase has a time", "all", each(_timed)),
        Line("speed against cuDNN's best form, TF32 off", f">= {SPEED_ASKED:.1f}x", each(_speed)),
        Line("speed against cuDNN's best form, TF32 on", "", each(lambda part, batch: _against_tf32(part, tf32))),
        Line("FMA peak reached where arithmetic binds", f">= {PEAK_ASKED:.0%}", each(lambda part, batch: _peak(part))),
        *(Line(f"{name}: times as long as phase", "", each(partial(_cost, name))) for name in basic),
        Line("entrants without a time", "", each(lambda part, batch: _absent(part))),
    ]


def _timed(part: list[Group], batch: int) -> str:
    return f"{sum(MAIN in group.timed for group in part)} of {len(part)}"


def _speed(part: list[Group], batch: int) -> str:
    total = scores.score(duels(part, batch))
    if total is None:
        return units.NONE
    return f"{units.times(total.mean)}, {total.wins} won, {total.ties} tied, {total.losses} lost"


def _against_tf32(part: list[Group], tf32: dict[tuple[str, Problem], Group]) -> str:
    ratios = []
    for group in part:
        other = tf32.get((group.label, group.problem))
        medians = [row.median for name, row in other.timed.items() if name in TF32 and row.median] if other else []
        ours = group.timed.get(MAIN)
        if medians and ours is not None and ours.median:
            ratios.append(min(medians) / ours.median)
    return f"{units.times(geometric_mean(ratios))} over {len(ratios)}" if ratios else units.NONE


def _peak(part: list[Group]) -> str:
    found = [(share, group.label) for group in part if (share := peak_share(group)) is not None]
    if not found:
        return units.NONE
    least, label = min(found)
    reached = sum(share >= PEAK_ASKED for share, _ in found)
    return f"{geometric_mean(s for s, _ in found):.0%}, {reached} of {len(found)} reach it; least {least:.0%} ({label})"


def peak_share(group: Group) -> float | None:
    """Part of the measured FMA peak that ``phase`` reaches; None where it has no time, or memory binds by the roofline."""
    row = group.timed.get(MAIN)
    if row is None or not row.gflops or not row.ceilings:
        return None
    peak = row.ceilings["fma_gflops"][group.problem.dtype]
    memory = ceilings.bandwidth_at(row.ceilings["copy"], max(size for size, _ in row.ceilings["copy"]))
    binds = group.problem.flops / (peak * 1e9) >= group.problem.min_bytes / memory
    return float(row.gflops / peak) if binds else None


def _cost(name: str, part: list[Group], batch: int) -> str:
    met = [(g.timed[name].median, g.timed[MAIN].median) for g in part if name in g.timed and MAIN in g.timed]
    ratios = [slow / fast for slow, fast in met if slow and fast]
    return f"{units.times(geometric_mean(ratios))} over {len(ratios)} of {len(part)}" if ratios else units.NONE


def _absent(part: list[Group]) -> str:
    kinds = Counter(_kind(row.note) for group in part for row in group.rows.values() if row.median is None)
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()) or "none"


def _kind(note: str) -> str:
    if note.startswith(SKIPPED):
        return "skipped"
    return next((word for word in ("failed", "wrong") if note.startswith(word)), "not served")


def losing(rows: Sequence[Measurement]) -> list[str]:
    """A sentence per batch: the layers on which cuDNN's best form without TF32 is faster, beyond noise or not."""
    found = groups(rows)
    sentences = []
    for batch in BATCHES:
        slow = sorted((duel.ratio, duel.group.label) for duel in duels(found, batch) if duel.ratio < 1)
        names = ", ".join(f"{label} {ratio:.2f}" for ratio, label in slow)
        sentences.append(f"Below {SPEED_ASKED:.1f}x at N={batch}, cuDNN's time / ours: {names or 'none'}.")
    return sentences


def origin(rows: Sequence[Measurement]) -> str:
    """GPU, driver, clocks, engines, date and commit, in a line."""
    row = next((row for row in reversed(rows) if row.device == "cuda"), None)
    if row is None:
        return ""
    facts, versions = row.machine, row.versions
    parts = [
        str(facts.get("gpu", "")),
        f"driver {facts['driver_version']}" if facts.get("driver_version") else "",
        f"{facts['clocks_sm']} of {facts['clocks_max_sm']} MHz when opened" if facts.get("clocks_max_sm") else "",
        *(f"{name} {versions[name]}" for name in ("cuda", "cudnn", "torch", "numba-cuda") if name in versions),
        row.measured_at[:10],
        f"commit {row.commit[:12]}" if row.commit else "",
    ]
    return ", ".join(part for part in parts if part)


def tested(rows: Sequence[Measurement]) -> str:
    """How the tests on the device ended, by the newest run that has them."""
    return next((row.note for row in reversed(rows) if row.suite == TESTS and row.label == "all"), "not run")


def table(rows: Sequence[Measurement], title: str) -> Table:
    """For the terminal."""
    found = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for head in HEADS:
        found.add_column(head, overflow="fold")
    for line in lines(rows):
        found.add_row(line.what, line.asked, *line.reached)
    found.caption = "\n".join([f"Tests on the device: {tested(rows)}.", *losing(rows), origin(rows)])
    found.caption_justify = "left"
    return found


def markdown(rows: Sequence[Measurement]) -> str:
    """For the documentation.

    Raises:
        ValueError: no row of a GPU.
    """
    if not groups(rows):
        raise ValueError("there is no row that a GPU made")
    body = [f"| {' | '.join(cells)} |" for cells in (HEADS, ["---"] * len(HEADS))]
    body += [f"| {' | '.join((line.what, line.asked, *line.reached))} |" for line in lines(rows)]
    return "\n".join([*body, "", f"Tests on the device: {tested(rows)}.", *losing(rows), f"{origin(rows)}."])
