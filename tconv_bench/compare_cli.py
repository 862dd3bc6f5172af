"""``tconv-bench compare``: what takes part, what came out, and the exit status that says it.

Exit codes: 1 for a wrong result, 3 for a variant that is slower than at ``--against``; 2 and 130 as everywhere.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from tconv_bench import drawn, layers, units, verdicts
from tconv_bench.console import EXAMPLE, epilog, interruptible, out, say
from tconv_bench.problem import Problem
from tconv_bench.store import Measurement
from tconv_bench.verdicts import Group

WRONG, SLOWER = 1, 3
COMMITTED = Path("reports/zen4-2core-comparison/rows.jsonl.gz")
COMMITTED_DRAWN = Path("reports/zen4-2core-drawn/rows.jsonl.gz")


def compare(
    problems: Annotated[
        list[str] | None,
        typer.Argument(help=f"Problems such as {EXAMPLE}, or labels of layers such as 'DCGAN g2'.", metavar="[PROBLEM]..."),
    ] = None,
    layers_file: Annotated[
        Path | None, typer.Option("--layers", help="A layers CSV; without it and PROBLEM, the project's own.")
    ] = None,
    random: Annotated[int, typer.Option(help="So many problems drawn at random, of no network.", min=0)] = 0,
    seed: Annotated[int, typer.Option(help="What they are drawn from: the same seed draws the same ones.", min=0)] = 0,
    engines: Annotated[
        str, typer.Option("--peers", help="Engines, joined by commas; installed: all of those; none.")
    ] = "installed",
    variants: Annotated[str, typer.Option(help="Variants, joined by commas; all: auto and every variant.")] = "all",
    mode: Annotated[str, typer.Option(help="one-shot, planned or both.")] = "both",
    cache: Annotated[str, typer.Option(help="hot, flushed or both.")] = "both",
    threads: Annotated[int, typer.Option(help="Threads of every entrant; 0: all usable cores.", min=0)] = 0,
    width: Annotated[
        float, typer.Option(help="Width of a median's 95 % interval, as a part of it, that ends the sampling.", min=0.001)
    ] = 0.05,
    budget: Annotated[float, typer.Option(help="Seconds per entrant and set that end it in any case.", min=0.01)] = 1.0,
    against: Annotated[str, typer.Option(help="A commit whose variants compete with this tree's; no peers then.")] = "",
    save: Annotated[
        Path | None, typer.Option(help="The JSON-lines file to append to; what it holds is not measured again.")
    ] = None,
    memory: Annotated[bool, typer.Option(help="Weigh the workspace too, in processes that time nothing.")] = True,
) -> None:
    """Measure variants and other engines side by side: checked, interleaved, with an A/A control.

    An interrupted run keeps every finished group, and the same command goes on from there. `compare-report` draws the rows.
    """
    from tconv_bench import compare as comparison
    from tconv_bench import machine

    named = _problems(problems or [], layers_file, drawn.problems(random, seed))
    settings = comparison.Settings(
        _choice(mode, "mode", verdicts.MODES), _choice(cache, "cache", verdicts.CACHES), threads, width, budget, memory
    )
    if threads > machine.usable_cores():
        raise ValueError(f"threads is {threads}, but this process may use {machine.usable_cores()} cores")
    methods = None if variants == "all" else _names(variants)
    chosen = _engines(engines, bool(against))
    trees: dict[str, Path] = {}
    if against:
        commit, tree = comparison.checkout(against, comparison.ROWS.parent / "trees")
        trees[commit] = tree
        competitors = comparison.entrants(methods, chosen, commit)
    else:
        competitors = comparison.entrants(methods, chosen)
    path = save or (comparison.ROWS.with_name("against.jsonl") if against else comparison.ROWS)
    rows = _measured(comparison, named, competitors, settings, path, trees)
    found = verdicts.groups(rows)
    if against:
        out.print(_against_table(found))
    else:
        for line in summary(found):
            out.print(line, markup=False)
    out.print(f"rows: {path}", markup=False, soft_wrap=True)
    wrong = [row for row in rows if row.note.startswith("wrong")]
    for row in wrong:
        say(f"{row.label}, {row.mode}, {row.method}: {row.note}")
    if wrong:
        raise typer.Exit(WRONG)
    if against and any(change(g, n)[1] == "slower" for g in found for n in _old_and_new(g)):
        raise typer.Exit(SLOWER)


def compare_report(
    files: Annotated[list[Path], typer.Argument(help="Rows of `compare`, JSON lines, plain or .gz.", metavar="FILE...")],
    output: Annotated[Path, typer.Option(help="The folder of the page, its figures and its data.")] = Path(
        "reports/comparison"
    ),
    asv_pages: Annotated[str, typer.Option("--asv", help="Link to asv's published pages, relative to the page.")] = "",
) -> None:
    """Draw a comparison from its stored rows: winners, speed-ups, roofline, profiles, memory, losses. Nothing is measured."""
    from tconv_bench import comparison_page, report, store

    report.check_folder(output)
    rows = [row for path in files for row in store.read(path)]
    for line in summary(verdicts.groups(rows)):
        out.print(line, markup=False)
    out.print(f"report: {comparison_page.write(rows, output, asv_pages=asv_pages or None)}", markup=False, soft_wrap=True)


def refresh_readme(
    rows: Annotated[Path, typer.Argument(help="The rows that the tables are made from.")] = COMMITTED,
    path: Annotated[Path, typer.Option("--readme", help="The file with the comparison's table.")] = Path("README.md"),
    performance: Annotated[Path, typer.Option(help="The file with the table of bars.")] = Path("docs/performance.md"),
    random: Annotated[Path, typer.Option(help="The rows of problems drawn at random, for the table below the bars.")] = (
        COMMITTED_DRAWN
    ),
    gpu: Annotated[Path, typer.Option(help="The file with a GPU's table, from the rows of its report.")] = Path("docs/gpu.md"),
    reports: Annotated[Path, typer.Option(help="The folder of reports, where a GPU's is looked for.")] = Path("reports"),
) -> None:
    """Make the tables of README and documentation anew from committed rows; each stands between two markers."""
    from tconv_bench import bars, readme
    from tconv_bench.gpu_check import summary

    found = readme.gpu_rows(reports)
    for document, changed in (
        (path, readme.refresh(path, rows)),
        (performance, readme.refresh(performance, rows, readme.BARS, bars.table)),
        *([(performance, readme.refresh(performance, random, readme.DRAWN, bars.drawn_table))] if random.is_file() else []),
        *([(gpu, readme.refresh(gpu, found, readme.GPU, summary.markdown))] if found else []),
    ):
        out.print(f"{document}: {'refreshed' if changed else 'is up to date'}", markup=False)


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("compare", epilog=epilog("compare 'DCGAN g2'[/bold], or [bold]tconv-bench compare --against HEAD~1"))(compare)
    app.command("compare-report", epilog=epilog("compare-report .compare/rows.jsonl --output reports/mine"))(compare_report)
    app.command("readme", epilog=epilog("readme"))(refresh_readme)


def _problems(texts: list[str], layers_file: Path | None, random: list[Problem]) -> list[tuple[str, Problem]]:
    if not texts and layers_file is None and not random:
        return [(layer.label, layer.problem) for layer in layers.read()]
    known = {layer.label: layer.problem for layer in layers.read()} if layers.DEFAULT.is_file() else {}
    named = [(text, known[text]) if text in known else _parsed(text) for text in texts]
    named += [(layer.label, layer.problem) for layer in layers.read(layers_file)] if layers_file else []
    return named + [(str(problem), problem) for problem in random]


def _parsed(text: str) -> tuple[str, Problem]:
    problem = Problem.parse(text)
    return str(problem), problem


def _choice(value: str, name: str, valid: tuple[str, ...]) -> tuple[str, ...]:
    if value == "both":
        return valid
    if value not in valid:
        raise ValueError(f"{name} is {value!r}, valid are {', '.join(valid)}, both")
    return (value,)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _engines(text: str, against: bool) -> list[str] | None:
    if text == "none" or (against and text == "installed"):
        return []
    return None if text == "installed" else _names(text)


def _measured(
    comparison: Any, named: list[tuple[str, Problem]], competitors: Any, settings: Any, path: Path, trees: dict[str, Path]
) -> list[Measurement]:
    def show_group(rows: list[Measurement]) -> None:
        for group in verdicts.groups(rows):
            out.print(group_table(group))

    with interruptible(path) as show:
        rows: list[Measurement] = comparison.run(
            named, competitors, settings, path, trees=trees, on_progress=show, on_group=show_group
        )
    return rows


def group_table(group: Group) -> Table:
    """One group's rows, fastest first, and who wins."""
    table = Table(title=_title(group), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("entrant", no_wrap=True)
    for column in ("median", "95 % interval", "samples", "GFLOP/s", "of roofline", "prepare", "workspace"):
        table.add_column(column, justify="right")
    timed = sorted(group.timed.items(), key=lambda item: item[1].median or 0.0)
    for name, row in timed:
        table.add_row(Text(name, style="bold" if not row.peer else ""), *_cells(row))
    notes = [f"{name}: {row.note}" for name, row in group.rows.items() if row.median is None]
    table.caption = "\n".join([_verdict_line(group), *notes])
    table.caption_justify = "left"
    return table


def _title(group: Group) -> str:
    problem = str(group.problem)
    head = group.label if group.label == problem else f"{group.label}  {problem}"
    return f"{head}, {group.mode}, {group.cache}, {group.threads} threads"


def _cells(row: Measurement) -> list[str]:
    return [
        units.seconds(row.median),
        f"{units.seconds(row.low)} - {units.seconds(row.high)}",
        str(len(row.samples)),
        units.significant(row.gflops or 0.0),
        f"{row.roofline:.0%}" if row.roofline is not None else units.NONE,
        units.seconds(row.prepare_seconds),
        units.size(row.workspace_bytes),
    ]


def _verdict_line(group: Group) -> str:
    floor = f"noise floor (A/A) {group.floor:.1%}" if group.floor is not None else "no A/A control"
    every = verdicts.verdict(group)
    if every is None:
        return "nothing was timed"
    text = _who(every)
    first = verdicts.verdict(group, verdicts.channels_first(group))
    if first is not None and first.fastest != every.fastest:
        text += f"; channels-first alone: {_who(first)}"
    return f"{text}; {floor}"


def _who(verdict: verdicts.Verdict) -> str:
    if not verdict.runner_up:
        return f"only {verdict.fastest} was timed"
    if verdict.winner:
        return f"fastest: {verdict.winner}, {units.times(verdict.ratio)} ahead of {verdict.runner_up}"
    return f"no winner: {', '.join(verdict.tied)} are within noise"


def summary(found: list[Group]) -> list[str]:
    """A line per mode and cache state: this project against the best peer of each problem, and the noise floor."""
    lines = []
    for kind in dict.fromkeys((g.mode, g.cache) for g in found):
        groups = [g for g in found if (g.mode, g.cache) == kind]
        duels = [d for d in map(verdicts.duel, groups) if d is not None]
        text = f"{kind[0]}, {kind[1]}: "
        if duels:
            mean = statistics.geometric_mean(d.ratio for d in duels)
            counts = [sum(d.outcome == outcome for d in duels) for outcome in ("win", "tie", "loss")]
            text += f"our fastest is {units.times(mean)} as fast as the best peer (geometric mean of {len(duels)}); "
            text += "{} wins, {} ties, {} losses; ".format(*counts)
        floor = verdicts.noise_floor(groups)
        lines.append(text + (f"noise floor {floor:.1%}" if floor is not None else "no A/A control was timed"))
    return lines


def _old_and_new(group: Group) -> dict[str, tuple[str, str]]:
    """Method -> (name of the other commit's entrant, name of this tree's)."""
    old = {row.method: name for name, row in group.rows.items() if row.revision}
    return {m: (old[m], n) for n, row in group.rows.items() if not row.revision and (m := row.method) in old}


def change(group: Group, method: str) -> tuple[float | None, str]:
    """(old median / new median, "faster", "slower", "within noise" or "not timed") of a method against the other commit's."""
    old, new = (group.rows[name] for name in _old_and_new(group)[method])
    if old.median is None or new.median is None:
        return None, "not timed"
    verdict = "within noise"
    if verdicts.faster(new, old, group.floor):
        verdict = "faster"
    elif verdicts.faster(old, new, group.floor):
        verdict = "slower"
    return old.median / new.median, verdict


def _against_table(found: list[Group]) -> Table:
    table = Table(title="This tree against the other commit", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("problem", "mode", "cache", "method"):
        table.add_column(column, overflow="fold")
    for column in ("there", "here", "speed-up", "noise floor"):
        table.add_column(column, justify="right")
    table.add_column("verdict")
    colours = {"faster": "green", "slower": "bold red"}
    for group in found:
        for method, (old, new) in _old_and_new(group).items():
            ratio, verdict = change(group, method)
            table.add_row(
                group.label,
                group.mode,
                group.cache,
                method,
                *(units.seconds(group.rows[name].median) for name in (old, new)),
                units.times(ratio),
                f"{group.floor:.1%}" if group.floor is not None else units.NONE,
                Text(verdict, style=colours.get(verdict, "")),
            )
    return table
