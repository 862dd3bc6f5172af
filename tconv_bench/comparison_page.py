"""Comparison rows to one page: ``index.html``, its figures beside it, and the rows themselves.

The page opens offline from its folder; figures are linked, so that their bytes exist once. The same rows give the same bytes.
The tables of numbers are stored as text that is readable as it stands, and that the page's script makes sortable.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jinja2

from tconv_bench import report, units, verdicts
from tconv_bench.plots import comparison, style
from tconv_bench.plots import versus_rows as versus
from tconv_bench.plots import versus_scores as scores
from tconv_bench.plots.versus_captions import ends
from tconv_bench.plots.versus_scores import Score
from tconv_bench.store import Measurement
from tconv_bench.verdicts import Group

COLUMNS = ("Median", "95 % interval", "Minimum", "vs fastest", "GFLOP/s", "of roofline", "Workspace")
_MINIMUM = COLUMNS.index("Minimum")  # left out of a GPU's page: 1,400 rows are to stay a small file
TESTS = "gpu-tests"  # the suite of the rows that say how tests on a GPU ended
_ORDER = (*versus.CONDITIONS[:1], ("one-shot", "flushed"), *versus.CONDITIONS[1:])


def write(measurements: list[Measurement], folder: Path, *, title: str | None = None, asv_pages: str | None = None) -> Path:
    """Write ``index.html``, ``figures/*.svg`` and ``rows.jsonl.gz`` into ``folder``; returns the page.

    Rows of other suites are left out, of the page and of the file, but for those of the tests on a GPU; so is a figure whose
    rows are absent.

    Args:
        measurements: rows as ``tconv-bench compare`` stores them.
        folder: made where it is missing.
        title: the page's heading.
        asv_pages: where asv's own pages lie, relative to the folder; linked where given.

    Raises:
        report.ReportFolderError: the folder cannot be written; before any work.
        ValueError: no row of a comparison, or ``asv_pages`` that is no relative path.
    """
    if asv_pages is not None and re.match(r"[a-zA-Z][\w+.-]*:|/", asv_pages):
        raise ValueError(f"asv_pages is {asv_pages!r}, but must be a path relative to the report's folder")
    report.check_folder(folder)
    compared = [row for row in measurements if row.suite == verdicts.SUITE]
    found = versus.compared(compared)
    if not found:
        raise ValueError("there is no timed comparison row to report on")
    report.write_rows([row for row in measurements if row.suite in (verdicts.SUITE, TESTS)], folder)
    entries = comparison.GPU_FIGURES if versus.on_gpu(found) else comparison.FIGURES
    figures = [_figure(entry, compared, folder / "figures") for entry in entries]
    context = _context(compared, found, title or "Transposed convolution, compared", [f for f in figures if f])
    context["facts"] += [("Tests", row.note) for row in measurements if row.suite == TESTS and row.label == "all"][-1:]
    page = folder / "index.html"
    page.write_text(_template().render({**context, "asv_pages": asv_pages}), encoding="utf-8", newline="\n")
    return page


def _figure(entry: comparison.Entry, measurements: list[Measurement], folder: Path) -> dict[str, Any] | None:
    """A figure drawn, saved and described, or None where its rows are absent; an older one of its name then goes."""
    try:
        figure = entry.draw(measurements)
    except comparison.NothingToDrawError:
        (folder / f"{entry.name}.svg").unlink(missing_ok=True)
        return None
    comparison.save(figure, folder, entry.name)
    width, height = (round(100 * float(inches)) for inches in figure.get_size_inches())
    return {
        "name": entry.name,
        "heading": entry.heading,
        "caption": entry.caption(measurements),
        "width": width,
        "height": height,
    }


def _template() -> jinja2.Template:
    loader = jinja2.PackageLoader("tconv_bench", "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    sheet = re.search(r"<style>(.*?)</style>", loader.get_source(environment, "report.html")[0], re.DOTALL)
    assert sheet is not None
    environment.globals["look_of_the_report"] = sheet[1]  # both pages share one style sheet
    return environment.get_template("comparison.html")


def _context(measurements: list[Measurement], found: list[Group], title: str, figures: list[dict[str, Any]]) -> dict[str, Any]:
    names = versus.entrants(found)
    every = [row for group in found for row in (*group.rows.values(), *([group.control] if group.control else []))]
    threads = versus.main_threads(found)
    return {
        "title": title,
        "lead": lead(found),
        "facts": _facts(every, found),
        "gpu": versus.on_gpu(found),
        "control": next((group.control.method for group in found if group.control), verdicts.OWN_DEFAULT),
        "threads": threads,
        "several_threads": len({group.threads for group in found}) > 1,
        "scores": [line for mode, cache in _ORDER for line in _score_lines(versus.condition(found, mode, cache), mode, cache)],
        "standings": [
            (mode, cache, lines)
            for mode, cache in _ORDER
            if (lines := [_standing_cells(s) for s in scores.standings(versus.condition(found, mode, cache))])
        ],
        "losses": [_loss_cells(duel) for duel in scores.losses(found)],
        "duels": len(scores.duels(found)),
        "figures": figures,
        "entrants": [_entrant(name, found) for name in names],
        "looks": versus.palette(names),
        "index": {name: number for number, name in enumerate(names)},
        "tables": _tables(found, threads),
        "absent": _absent(found),
        "layers": _layers(found),
        "samples": _range([len(row.samples) for row in every if row.samples]),
        "calls": _range([row.settings["calls"] for row in every if row.settings.get("calls")]),
        "rows": len(measurements),
    }


def lead(found: Sequence[Group]) -> list[str]:
    """The page's first sentences: one per mode, hot caches where those were measured."""
    sentences = []
    for mode in verdicts.MODES:
        cache = next((cache for cache in verdicts.CACHES if versus.condition(found, mode, cache)), None)
        groups = versus.condition(found, mode, cache) if cache else []
        parts = versus.by_batch(groups) if versus.on_gpu(groups) else [(f"{mode.capitalize()}, {cache} caches", groups)]
        for heading, part in parts:
            sentences += _lead(heading, part)
    return sentences


def _lead(heading: str, groups: Sequence[Group]) -> list[str]:
    """A sentence on some groups; none where the sides never met."""
    best, auto = scores.score(scores.duels(groups)), scores.score(scores.duels(groups, verdicts.OWN_DEFAULT))
    if best is None:
        return []
    text = f"{heading}: the best of ours is {_speed(best)} of the best other engine"
    text += f" ({ends(best)} on {versus.count(best.count, 'layer')})"
    return [text + (f"; auto alone is {_speed(auto)} ({ends(auto)})." if auto is not None else ".")]


def _speed(total: Score) -> str:
    return f"{units.times(total.mean)} the speed"


def _facts(every: list[Measurement], found: list[Group]) -> list[tuple[str, str]]:
    """Where the rows come from, and how far chance reaches in them."""
    spreads = scores.spreads(found)
    noise = (
        f"{versus.percent(_middle(spreads))} median, {versus.percent(spreads[-1])} at most, over {len(spreads)} A/A controls"
        if spreads
        else "no A/A control was timed, so nothing counts as faster"
    )
    versions: dict[str, dict[str, None]] = {}
    for row in every:
        for name, text in row.versions.items():
            versions.setdefault(name, {})[text] = None
    host = {
        "Threads": ", ".join(map(str, sorted({group.threads for group in found}))),
        "Governor": ", ".join(dict.fromkeys(str(row.machine.get("governor") or "not readable") for row in every)),
    }
    device = {
        "GPU": "; ".join(dict.fromkeys(map(_gpu, every))),
        "Limits": "; ".join(dict.fromkeys(text for row in every if (text := _limits(row)))),
    }
    own = {
        **(device if versus.on_gpu(found) else host),
        "Versions": ", ".join(f"{name} {' and '.join(texts)}" for name, texts in versions.items()),
        "Noise": noise,
        "Sampling": "; ".join(dict.fromkeys(text for row in every if (text := _settings(row)))),
    }
    shared = {name: text for name, text in report._facts(every) if name != "Profile"}
    order = ("GPU", "Limits", "Processor", "Machine", "Threads", "Governor", "System", "Measured", "Commit", "Versions", "Rows")
    facts = {**{name: own.get(name, shared.get(name, "")) for name in order}, **own}
    return [(name, text) for name, text in facts.items() if text]


def _gpu(row: Measurement) -> str:
    """A row's GPU: name, memory, driver, and its clocks when the run began."""
    facts = row.machine
    clocks = f"{facts['clocks_sm']} of {facts['clocks_max_sm']} MHz at first" if facts.get("clocks_max_sm") else ""
    parts = [
        facts.get("gpu"),
        f"compute capability {facts['capability']}" if facts.get("capability") else "",
        f"{facts['processors']} multiprocessors" if facts.get("processors") else "",
        units.size(facts["gpu_bytes"]) if facts.get("gpu_bytes") else "",
        f"{units.size(facts['l2_bytes'])} of L2 cache" if facts.get("l2_bytes") else "",
        f"driver {facts['driver_version']}" if facts.get("driver_version") else "",
        clocks,
    ]
    return ", ".join(str(part) for part in parts if part)


def _limits(row: Measurement) -> str:
    """What a row's GPU was measured to do at best."""
    if not row.ceilings:
        return ""
    peaks = ", ".join(f"{dtype} {units.flops(1e9 * speed)}/s" for dtype, speed in row.ceilings["fma_gflops"].items())
    return f"multiply-adds {peaks}; copying in memory {units.significant(max(row.ceilings['copy'])[1] / 1e9)} GB/s"


def _middle(values: list[float]) -> float:
    return (values[(len(values) - 1) // 2] + values[len(values) // 2]) / 2


def _settings(row: Measurement) -> str:
    width, budget, allocator = (row.settings.get(key) for key in ("width", "budget", "allocator"))
    parts = [
        f"until the 95 % interval is {versus.percent(width)} wide" if width else "",
        f"or {units.seconds(budget)} were spent" if budget else "",
        f"allocator {allocator}" if allocator else "",
    ]
    return ", ".join(part for part in parts if part)


def _range(values: Iterable[int]) -> str:
    found = sorted(values)
    return " to ".join(dict.fromkeys([str(found[0]), str(found[-1])])) if found else ""


def _score_lines(groups: list[Group], mode: str, cache: str) -> list[dict[str, str]]:
    """A condition's line of the score table, and a second one without the channels-last entrants where that differs."""
    lines: list[dict[str, str]] = []
    for entrants, part in (("all", groups), ("channels-first", list(map(versus.channels_first, groups)))):
        best, auto = scores.score(scores.duels(part)), scores.score(scores.duels(part, verdicts.OWN_DEFAULT))
        if best is None:
            continue
        spreads = scores.spreads(part)
        cells = {
            "layers": str(best.count),
            **_score_cells("best", best),
            **_score_cells("auto", auto),
            "noise": f"{versus.percent(_middle(spreads))} ({versus.percent(spreads[-1])})" if spreads else units.NONE,
        }
        if not lines or any(lines[0][name] != text for name, text in cells.items()):
            lines.append({"condition": f"{mode}, {cache}", "entrants": entrants, **cells})
    return lines


def _score_cells(name: str, total: Score | None) -> dict[str, str]:
    if total is None:
        return {name: units.NONE, f"{name}_ends": units.NONE}
    return {name: units.times(total.mean), f"{name}_ends": f"{total.wins} / {total.ties} / {total.losses}"}


def _standing_cells(line: scores.Standing) -> dict[str, str]:
    return {"peer": line.peer, **_score_cells("best", line.best), **_score_cells("auto", line.auto)}


def _loss_cells(duel: verdicts.Duel) -> dict[str, Any]:
    group = duel.group
    return {
        "label": _label(group),
        "problem": str(group.problem),
        "condition": f"{group.mode}, {group.cache}",
        "threads": group.threads,
        "ours": verdicts.entrant(duel.ours),
        "ours_time": units.seconds(duel.ours.median),
        "peer": verdicts.entrant(duel.peer),
        "peer_time": units.seconds(duel.peer.median),
        "ratio": units.times(1 / duel.ratio),
        "floor": versus.percent(group.floor or 0.0),
    }


def _label(group: Group) -> str:
    return group.label if group.label != str(group.problem) else ""


def _entrant(name: str, found: list[Group]) -> dict[str, str]:
    entry = style.registered(name)
    rows = [(group.mode, group.rows[name]) for group in found if name in group.rows]
    default = "one of this project's methods, chosen by a rule" if name == verdicts.OWN_DEFAULT else ""
    return {
        "name": name,
        "title": entry.title if entry else default,
        "source": entry.source if entry else "",
        "layout": ", ".join(dict.fromkeys(row.layout for _, row in rows if row.layout)),
        "output": "; ".join(_outputs(rows)),
    }


def _outputs(rows: list[tuple[str, Measurement]]) -> list[str]:
    """What the entrant does with its output in each mode: "given" memory or "fresh"."""
    found = dict.fromkeys((mode, row.settings.get("output")) for mode, row in rows if row.median is not None)
    return [f"{mode}: {output}" for mode, output in found if output]


def _tables(found: list[Group], threads: int) -> list[dict[str, Any]]:
    """Every number: a table per mode and cache state, those of other thread counts at the end."""
    kinds = [(threads, *kind) for kind in _ORDER]
    kinds += sorted({(g.threads, g.mode, g.cache) for g in found} - set(kinds))
    tables = []
    for count, mode, cache in kinds:
        groups = [g for g in found if (g.threads, g.mode, g.cache) == (count, mode, cache)]
        if groups:
            where = "" if versus.on_gpu(groups) else f", {versus.count(count, 'thread')}"
            name = f"{mode if mode.isupper() else mode.capitalize()}, {cache} caches{where}"
            size = sum(len(group.timed) for group in groups)
            tables.append({"name": name, "size": size, "text": table_text(groups, planned=mode == "planned")})
    return tables


def table_text(groups: list[Group], *, planned: bool) -> str:
    """A line of headings; then a line per layer, each followed by a line per entrant: a tab, "*" for the best, its cells."""
    gpu = versus.on_gpu(groups)

    def kept(cells: Sequence[str]) -> list[str]:
        return [cell for place, cell in enumerate(cells) if not (gpu and place == _MINIMUM)]

    def of(row: Measurement, fastest: float) -> list[str]:
        cells = _cells(row, fastest)
        return kept([cells[0], half_interval(row), *cells[2:]]) if gpu else cells

    lines = ["\t".join(("Layer", "Entrant", *kept(COLUMNS), *(("Prepare",) if planned else ())))]
    for group in groups:
        verdict = verdicts.verdict(group)
        assert verdict is not None
        best = {verdict.winner, *verdict.tied}
        lines.append(group.label)
        for name in sorted(group.timed, key=lambda name: versus.median(group.timed[name])):
            cells = of(group.timed[name], verdict.median)
            lines.append("\t".join(("", f"*{name}" if name in best else name, *cells)))
    return "\n".join(lines)


def _cells(row: Measurement, fastest: float) -> list[str]:
    """One line of a table of numbers; the column of preparation only where the weights are prepared."""
    median = versus.median(row)
    return [
        units.seconds(row.median),
        interval(row),
        units.seconds(row.minimum),
        units.times(median / fastest),
        units.significant(row.gflops) if row.gflops is not None else units.NONE,
        versus.percent(row.roofline) if row.roofline is not None else units.NONE,
        units.size(row.workspace_bytes),
        *([units.seconds(row.prepare_seconds)] if row.mode == "planned" else []),
    ]


def interval(row: Measurement) -> str:
    """The 95 % interval in the median's unit, four digits: it is often narrower than three can show."""
    if row.low is None or row.high is None:
        return units.NONE
    unit = units.seconds(row.median).rpartition(" ")[2]
    scale = {"ns": 1e9, "µs": 1e6, "ms": 1e3, "s": 1.0}[unit]
    low, high = (units.significant(value * scale, 4) for value in (row.low, row.high))
    return f"{low}\N{EN DASH}{high} {unit}"


def half_interval(row: Measurement) -> str:
    """How far the 95 % interval reaches from the median on its longer side."""
    low, high = versus.bounds(row)
    reach = max(high - versus.median(row), versus.median(row) - low) / versus.median(row)
    return f"±{versus.percent(reach)}"


def _absent(found: list[Group]) -> list[dict[str, str]]:
    """What has no time, each reason once, with the conditions that it holds for."""
    if versus.on_gpu(found):
        return _absent_on_gpu(found)
    reasons: dict[tuple[str, str, str, str], list[str]] = {}
    for group in found:
        for name, row in group.rows.items():
            if row.median is None:
                key = (_label(group), str(group.problem), name, row.note or "no time recorded")
                reasons.setdefault(key, []).append(f"{group.mode}, {group.cache}")
    fields = ("label", "problem", "name", "note")
    return [{**dict(zip(fields, key)), "where": "; ".join(dict.fromkeys(where))} for key, where in reasons.items()]


def _absent_on_gpu(found: list[Group]) -> list[dict[str, str]]:
    """The same, reasons that differ in their numbers alone told once, by the first of their layers."""
    reasons: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for group in found:
        for name, row in group.rows.items():
            if row.median is None:
                key = name, re.sub(r"[\d.,]+ ?([KMGT]i?B|[mµn]?s)?", "", row.note)
                reasons.setdefault(key, []).append((group.label, row.note or "no time recorded"))
    lines = []
    for (name, _), cases in reasons.items():
        labels = style.listed([label for label, _ in cases])
        lines.append({"label": labels, "problem": "", "name": name, "note": cases[0][1], "where": str(len(cases))})
    return lines


def _layers(found: list[Group]) -> list[dict[str, str]]:
    single = versus.by_batch(found)[0][1] if versus.on_gpu(found) else found
    unique = {group.label: group.problem for group in single}
    return [
        {
            "label": label,
            "problem": str(problem),
            "flops": units.flops(problem.flops),
            "bytes": units.size(problem.min_bytes),
            "intensity": units.significant(problem.flops / problem.min_bytes),
        }
        for label, problem in unique.items()
    ]
