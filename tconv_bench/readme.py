"""Tables in the documentation that are made from stored comparison rows, never by hand: the README's and the bars'."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tconv_bench import report, store, units, verdicts
from tconv_bench.plots import versus_rows as versus
from tconv_bench.plots import versus_scores as scores
from tconv_bench.plots.versus_scores import Score, Standing
from tconv_bench.store import Measurement
from tconv_bench.verdicts import Group

COMPARISON, BARS, DRAWN, GPU = (
    "comparison",
    "bars",
    "drawn",
    "gpu",
)  # a table stands between <!-- NAME:begin --> and <!-- NAME:end -->


NO_GPU = "No rows of a GPU are committed: none of these kernels has run on one yet."


def gpu_rows(reports: Path) -> Path | None:
    """The rows of a GPU's report among the ``reports``, those of the last folder by name; None where there are none."""
    for path in sorted(reports.glob("*-comparison/rows.jsonl.gz"), reverse=True):
        rows = store.read(path)
        if any(row.device == "cuda" and not row.profile.startswith("dry run") for row in rows):
            return path
    return None


def table(measurements: list[Measurement]) -> str:
    """Markdown: one line per engine with geometric means over the layers per mode and how the duels ended; below it, where.

    Hot caches, at the thread count of most layers; flushed where nothing was measured hot.

    Raises:
        ValueError: no row in which this project meets another engine.
    """
    found = versus.compared(measurements)
    modes = [(mode, groups) for mode in verdicts.MODES if (groups := _of_mode(found, mode))]
    lines = {mode: {line.peer: line for line in scores.standings(groups)} for mode, groups in modes}
    peers = list(dict.fromkeys(peer for standings in lines.values() for peer in standings))
    if not peers:
        raise ValueError("there is no comparison row in which this project meets another engine")
    shown = [mode for mode in lines if lines[mode]]
    heads = ["engine", *(f"{mode}: {ours}" for mode in shown for ours in ("`auto`", "best of ours"))]
    rows = [[peer or "the best of them", *_cells(peer, [lines[mode] for mode in shown])] for peer in peers]
    body = [_line(heads), _line(["---"] + ["---:"] * (len(heads) - 1)), *map(_line, rows)]
    return "\n".join([*body, "", *_notes([group for mode, groups in modes if mode in shown for group in groups])])


def _of_mode(found: Sequence[Group], mode: str) -> list[Group]:
    return next((groups for cache in verdicts.CACHES if (groups := versus.condition(found, mode, cache))), [])


def _cells(peer: str, modes: list[dict[str, Standing]]) -> list[str]:
    return [
        text
        for standings in modes
        for text in ((_cell(standings[peer].auto), _cell(standings[peer].best)) if peer in standings else (units.NONE,) * 2)
    ]


def _cell(total: Score | None) -> str:
    return f"{units.times(total.mean)} ({total.wins}/{total.ties}/{total.losses})" if total else units.NONE


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _notes(groups: list[Group]) -> list[str]:
    """What the numbers are, and where they come from."""
    every = [row for group in groups for row in group.rows.values()]
    layers = len({group.label for group in groups})
    caches = " and ".join(dict.fromkeys(group.cache for group in groups))
    spreads = scores.spreads(groups)
    noise = f" Noise floor: {versus.percent(verdicts.noise_floor(groups) or 0.0)} (median A/A spread)." if spreads else ""
    dates = sorted({row.measured_at[:10] for row in every if row.measured_at})
    facts = [
        *dict.fromkeys(cpu for row in every if (cpu := row.machine.get("cpu"))),
        versus.count(groups[0].threads, "thread"),
        " to ".join(dict.fromkeys([dates[0], dates[-1]])) if dates else "",
        *dict.fromkeys(f"commit {report._short(row.commit)}" for row in every if row.commit),
    ]
    scope = f"{versus.count(layers, 'layer')}, {caches} caches"
    return [
        f"The engine's time / ours over {scope}: geometric mean, above 1 this project is faster. In",
        "brackets won/tied/lost layers; a win needs 95 % intervals apart and a lead beyond the noise floor. `auto` is what a",
        f"user gets, best of ours the fastest method per layer after the fact.{noise}",
        f"{', '.join(fact for fact in facts if fact)}.",
    ]


def refresh(
    document: Path | str,
    rows_path: Path | str,
    name: str = COMPARISON,
    make: Callable[[list[Measurement]], str] = table,
) -> bool:
    """Put a table of the stored rows between a document's two markers of that name; returns whether the file changed.

    The file is replaced at once or not at all, and keeps its line ends and permissions.

    Raises:
        ValueError: the markers are missing, doubled or in the wrong order, or the rows have nothing to compare.
        StoreError: the rows cannot be read.
        OSError: the document cannot be read or written.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    path = Path(document)
    content = path.read_bytes().decode("utf-8")
    for marker in (begin, end):
        if content.count(marker) != 1:
            raise ValueError(
                f"{path}: the marker {marker} stands there {content.count(marker)} times, but must stand there once"
            )
    head, _, rest = content.partition(begin)
    old, found, tail = rest.partition(end)
    if not found:
        raise ValueError(f"{path}: {end} stands before {begin}")
    newline = "\r\n" if "\r\n" in content else "\n"
    new = newline + make(store.read(rows_path)).replace("\n", newline) + newline
    if new == old:
        return False
    _replace(path, f"{head}{begin}{new}{end}{tail}".encode())
    return True


def _replace(path: Path, content: bytes) -> None:
    target = path.resolve()  # a link stays one
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, stat.S_IMODE(target.stat().st_mode))
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
