"""Measurements to one page: ``index.html`` with its figures inside, the figures beside it, and the rows themselves.

The page is one file that opens offline; the same measurements give the same bytes.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from tconv_bench import plots, registry, units
from tconv_bench.plots import captions, rows, style
from tconv_bench.plots.rows import Layer
from tconv_bench.store import SCHEMA, Measurement

_SUITES = {
    "layers": "Layers of real networks",
    "cli": "Single problems",
    "sizes": "Input sizes",
    "channels": "Channels",
    "kernels": "Kernel sizes",
    "strides_paddings": "Strides and paddings",
    "dimensions": "Dimensions",
}


class ReportFolderError(OSError):
    """The folder of a report cannot be written; one line that names it."""


@dataclass(frozen=True)
class WinnerRow:
    """Who is fastest on one problem. ``winner`` is "tie" where 95 % intervals overlap; ``tied`` then names the methods.

    ``runner_up`` is second by median, ``ratio`` its median over the fastest; both are None where one method alone was timed.
    ``gflops`` are the fastest method's.
    """

    label: str
    problem: str
    winner: str
    median_s: float
    runner_up: str | None
    ratio: float | None
    gflops: float
    tied: tuple[str, ...] = ()


def winner_rows(measurements: list[Measurement]) -> list[WinnerRow]:
    """One row per layer where something was timed, in input order; of every suite where no layer is present."""
    found = rows.layers(measurements) or rows.layers(measurements, tuple(_SUITES))
    return [_winner_row(layer) for layer in found if layer.medians]


def _winner_row(layer: Layer) -> WinnerRow:
    verdict = layer.verdict
    assert verdict is not None
    speed = layer.problem.flops / verdict.median / 1e9
    return WinnerRow(
        layer.label, str(layer.problem), verdict.winner, verdict.median, verdict.runner_up, verdict.ratio, speed, verdict.tied
    )


def write_report(measurements: list[Measurement], folder: Path, *, title: str | None = None) -> Path:
    """Write ``index.html``, ``figures/*.png`` and ``*.svg``, and ``rows.jsonl.gz`` into ``folder``; returns the page.

    A figure whose suite was not measured is left out.

    Raises:
        ReportFolderError: the folder cannot be written; before any work.
        ValueError: no measurement at all.
    """
    check_folder(folder)
    if not measurements:
        raise ValueError("there is no measurement to report on")
    write_rows(measurements, folder)
    figures = [_figure(entry, measurements, folder / "figures") for entry in _FIGURES]
    page = folder / "index.html"
    context = _context(measurements, title or "Transposed convolution, measured", [f for f in figures if f])
    page.write_text(_template().render(context), encoding="utf-8", newline="\n")
    return page


def write_rows(measurements: list[Measurement], folder: Path) -> Path:
    """Write all rows, samples included, as ``rows.jsonl.gz`` in the store's own format; returns the file."""
    check_folder(folder)
    lines = [json.dumps({"schema": SCHEMA, **asdict(row)}, allow_nan=False) + "\n" for row in measurements]
    path = folder / "rows.jsonl.gz"
    path.write_bytes(gzip.compress("".join(lines).encode(), 9, mtime=0))
    return path


def check_folder(folder: Path) -> None:
    """ReportFolderError unless files can be written into ``folder``, which is made where it is missing."""
    try:
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        for place in (folder, folder / "figures"):
            with tempfile.TemporaryFile(dir=place):
                pass
        for name in ("index.html", "rows.jsonl.gz"):
            if (folder / name).exists() and not os.access(folder / name, os.W_OK):
                raise PermissionError(13, f"{name} is write-protected")
    except OSError as error:
        reason = error.strerror or str(error)
        raise ReportFolderError(f"the report's folder {folder} cannot be written ({reason}); choose another one") from None


@dataclass(frozen=True)
class _Entry:
    name: str
    heading: str
    draw: Callable[[list[Measurement]], Figure]
    caption: Callable[[list[Measurement]], str]


def _figure(entry: _Entry, measurements: list[Measurement], folder: Path) -> dict[str, str] | None:
    """A figure drawn, saved and described, or None where its rows are absent; an older one of its name then goes."""
    try:
        figure = entry.draw(measurements)
    except plots.NothingToDrawError:
        for suffix in ("png", "svg"):
            (folder / f"{entry.name}.{suffix}").unlink(missing_ok=True)
        return None
    _, svg = plots.save(figure, folder, entry.name)
    data = base64.b64encode(svg.read_bytes()).decode()
    caption = entry.caption(measurements)
    return {"name": entry.name, "heading": entry.heading, "caption": caption, "source": f"data:image/svg+xml;base64,{data}"}


_FIGURES = (
    _Entry("winners", "Which method wins", plots.winner_map, captions.winners),
    _Entry("speedup", "Speed-up by layer", plots.speedup_heatmap, captions.speedup),
    _Entry("time_against_size", "Time against input size", plots.time_against_size, captions.sizes),
    _Entry("sweeps", "Channels, kernel and dimensions", plots.time_sweeps, captions.sweeps),
    _Entry("strides_paddings", "Stride and padding", plots.stride_padding_maps, captions.strides_paddings),
    _Entry("workspace", "Memory by layer", plots.workspace_bars, captions.workspace),
    _Entry("time_memory", "Time against memory", plots.time_memory_scatter, captions.time_memory),
)


def _template() -> jinja2.Template:
    loader = jinja2.PackageLoader("tconv_bench", "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    return environment.get_template("report.html")


def _context(measurements: list[Measurement], title: str, figures: list[dict[str, str]]) -> dict[str, Any]:
    recent = rows.latest(measurements)
    names = sorted({rows.series(row) for row in recent})
    looks = style.looks(names)
    layers = rows.layers(measurements)
    timed = [layer for layer in layers if layer.medians]
    samples = [len(row.samples) for row in recent if row.samples]
    return {
        "title": title,
        "summary": captions.score(timed) if timed else "",
        "facts": _facts(recent),
        "winners": [_winner_cells(row) for row in winner_rows(measurements)],
        "methods": [_method(name, looks[name]) for name in names],
        "looks": looks,
        "figures": figures,
        "tables": [
            (_SUITES.get(s, s), t) for s in dict.fromkeys([*_SUITES, *(r.suite for r in recent)]) if (t := _table(recent, s))
        ],
        "absent": [_absent_cells(row) for row in recent if row.median is None],
        "samples": f"{min(samples)} to {max(samples)}" if samples else "an unrecorded number of",
        "rows": len(measurements),
    }


def _facts(recent: list[Measurement]) -> list[tuple[str, str]]:
    """The headline's table: where the rows come from; several values of one fact are all listed."""

    def each(text: Callable[[Measurement], Any]) -> str:
        return ", ".join(dict.fromkeys(str(value) for row in recent if (value := text(row)) not in (None, "", {})))

    dates = sorted({row.measured_at[:10] for row in recent if row.measured_at})
    timed = sum(row.median is not None for row in recent)
    facts = [
        ("Processor", each(lambda row: row.machine.get("cpu"))),
        ("Machine", each(_machine)),
        ("Threads", each(lambda row: row.threads)),
        ("System", each(lambda row: row.machine.get("os"))),
        ("Measured", " to ".join(dict.fromkeys([dates[0], dates[-1]])) if dates else ""),
        ("Profile", each(lambda row: row.profile)),
        ("Commit", each(lambda row: _short(row.commit))),
        ("Versions", each(lambda row: ", ".join(f"{name} {text}" for name, text in row.versions.items()))),
        ("Rows", f"{timed} timed of {len(recent)}"),
    ]
    return [(name, text) for name, text in facts if text]


def _short(commit: str) -> str:
    head, plus, rest = commit.partition("+")
    return head[:12] + (" with local changes" if plus and rest else "")


def _machine(row: Measurement) -> str:
    facts = row.machine
    cores, ram = facts.get("cores"), facts.get("ram")
    parts = [facts.get("arch"), f"{cores} cores" if cores else None, f"{_ram(ram)} of memory" if ram else None]
    return ", ".join(part for part in parts if part)


def _ram(value: Any) -> str:
    return units.size(float(value)) if str(value).replace(".", "").isdigit() else str(value)


def _winner_cells(row: WinnerRow) -> dict[str, Any]:
    return {
        **asdict(row),
        "median": units.seconds(row.median_s),
        "lead": units.times(row.ratio),
        "speed": units.significant(row.gflops),
    }


def _method(name: str, look: style.Look) -> dict[str, str]:
    method, _, device = name.removesuffix(")").partition(" (")
    try:
        entry = registry.get(method, device or "cpu")
    except ValueError:
        return {"name": name, "title": "", "source": "", "color": look.color}
    return {"name": name, "title": entry.title, "source": entry.source, "color": look.color}


def _table(recent: list[Measurement], suite: str) -> list[dict[str, Any]]:
    return [_cells(layer, row) for layer in rows.layers(recent, (suite,)) for row in layer.cells.values()]


def _cells(layer: Layer, row: Measurement) -> dict[str, Any]:
    """One line of a table: pairs of what is shown and what is sorted by."""
    speed = rows.gflops(row)
    best = min(layer.medians.values(), default=None)
    ratio = row.median / best if row.median is not None and best else None
    verdict = layer.verdict
    interval = f"{units.seconds(row.low)} to {units.seconds(row.high)}" if row.low is not None else units.NONE
    columns = [
        (units.seconds(row.median), row.median),
        (interval, _width(row)),
        (units.times(ratio), ratio),
        (units.significant(speed) if speed is not None else units.NONE, speed),
        (units.seconds(row.prepare_seconds), row.prepare_seconds),
        (units.size(row.workspace_bytes), row.workspace_bytes),
        (units.size(row.prepared_bytes), row.prepared_bytes),
    ]
    return {
        "label": layer.label if layer.label != row.problem else "",
        "problem": row.problem,
        "method": rows.series(row),
        "best": verdict is not None and verdict.winner == rows.series(row),
        "columns": [(text, f"{value:.6g}" if value is not None else "") for text, value in columns],
        "note": row.note if row.median is None else "",
    }


def _width(row: Measurement) -> float | None:
    """The interval's width as a part of the median: what its column is sorted by."""
    if row.median is None or row.low is None or row.high is None:
        return None
    return (row.high - row.low) / row.median


def _absent_cells(row: Measurement) -> dict[str, str]:
    return {"label": row.label, "problem": row.problem, "method": rows.series(row), "note": row.note or "no time recorded"}
