"""The ``tconv-bench`` command: a thin layer of Typer and Rich over the package.

Exit codes: 2 for bad usage or input, 1 for a wrong result, 130 for Ctrl-C.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from itertools import groupby, product
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from tconv_bench import (
    checkerboard_cli,
    compare_cli,
    figures_cli,
    gpu_check_cli,
    gradients_cli,
    jit,
    layers,
    machine,
    measure,
    registry,
    store,
    suite,
    units,
    upsample_cli,
)
from tconv_bench.console import EXAMPLE, epilog, err, interruptible, out, say, shown
from tconv_bench.problem import Problem
from tconv_bench.store import Measurement

_FORMULA = "(in-1)·stride - pad_before - pad_after + dilation·(kernel-1) + output_padding + 1"
app = typer.Typer(
    help="Every way to compute a transposed convolution, measured and explained.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
compare_cli.register(app)
figures_cli.register(app)
checkerboard_cli.register(app)
upsample_cli.register(app)
gradients_cli.register(app)
gpu_check_cli.register(app)


def main() -> None:
    """Entry point: bad input ends in one line on stderr, not in a traceback."""
    try:
        app()
    except suite.Interrupted as stop:
        _stop(str(stop), 130)
    except KeyboardInterrupt:
        _stop("interrupted", 130)
    except (ValueError, TypeError, OSError, suite.SuiteError) as error:
        _stop(str(error), 2)


def _stop(message: str, code: int) -> None:
    say(message)
    sys.exit(code)


@app.command("list", epilog=epilog("list"))
def list_variants(device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu") -> None:
    """The registered variants: what --method takes, and where each comes from."""
    table = Table(title=f"Variants on {device}", title_justify="left")
    for column in ("", "method", "algorithm", "source"):
        table.add_column(column, overflow="fold")
    for name in registry.methods(device):
        variant = registry.get(name, device)
        table.add_row(Text("██", style=variant.color), Text(name, style="bold"), variant.title, variant.source)
    out.print(table)


@app.command(epilog=epilog(f"explain {EXAMPLE}"))
def explain(problem: Annotated[str, typer.Argument(help=f"One line such as {EXAMPLE}.")]) -> None:
    """A problem's sizes and arithmetic, and what each variant would need for it; nothing is computed."""
    p = Problem.parse(problem)
    facts = _facts_table(str(p))
    facts.add_row("input", _shape(p.x_shape))
    facts.add_row("weight", _shape(p.weight_shape))
    facts.add_row("output", _shape(p.out_shape))
    facts.add_row("output size", "\n".join([_FORMULA, *dict.fromkeys(_axis_formulas(p))]))
    facts.add_row("arithmetic", f"{units.flops(p.flops)}, each useful product once")
    facts.add_row("least traffic", f"{units.size(p.min_bytes)}: input, weight and output, each moved once")
    facts.add_row("intensity", f"{p.flops / p.min_bytes:.3g} FLOP/B")
    out.print(facts)
    out.print(_needs_table(p))


def _axis_formulas(p: Problem) -> list[str]:
    return [
        f"({i}-1)·{s} - {b}-{a} + {d}·({k}-1) + {extra} + 1 = {o}"
        for i, s, (b, a), d, k, extra, o in zip(
            p.in_size, p.stride, p.padding, p.dilation, p.kernel, p.output_padding, p.out_size
        )
    ]


def _needs_table(p: Problem) -> Table:
    table = Table(title="What each variant needs", title_justify="left")
    table.add_column("method", style="bold")
    table.add_column("prepared", justify="right")
    table.add_column("workspace", justify="right")
    table.add_column("note", overflow="fold")
    for name in registry.methods("cpu"):
        variant = registry.get(name)
        answer = variant.supports(p)
        if answer is True:
            sizes = (variant.prepared_bytes(p), variant.workspace_bytes(p))
            table.add_row(name, *map(units.size, sizes), "")
        else:
            table.add_row(Text(name, style="dim"), "-", "-", answer)
    return table


@app.command(epilog=epilog("info"))
def info() -> None:
    """The machine, versions, threads and folders that a measurement here would carry."""
    facts = machine.facts()
    table = _facts_table("This machine")
    table.add_row("cpu", f"{facts['cpu']} ({facts['arch']}), {facts['cores']} usable cores")
    table.add_row("vectors", f"{machine.simd_bits()} bits")
    table.add_row("memory", units.size(facts["ram"]) if facts["ram"] else "unknown")
    table.add_row("system", facts["os"])
    table.add_row("governor", facts["governor"] or "not readable")
    table.add_row("threads", f"{machine.threads()} ({machine.threading_layer()})")
    table.add_row("versions", ", ".join(f"{name} {version}" for name, version in machine.versions().items()))
    table.add_row("commit", machine.commit() or "not a checkout")
    table.add_row("compiled kernels", jit.cache_folder() or "nowhere: no folder can be written")
    out.print(table)


@app.command(epilog=epilog(f"run --profile quick[/bold], or [bold]tconv-bench run {EXAMPLE} --method direct"))
def run(
    problems: Annotated[
        list[str] | None, typer.Argument(help=f"Problems such as {EXAMPLE}; none: the asv suite.", metavar="[PROBLEM]...")
    ] = None,
    profile: Annotated[str, typer.Option(help="The suite's size: quick, standard or full.")] = "quick",
    layers_file: Annotated[
        Path | None, typer.Option("--layers", help="A layers CSV for the suite, or to measure here.")
    ] = None,
    method: Annotated[list[str] | None, typer.Option(help="Only this method; may be given more than once.")] = None,
    save: Annotated[
        Path | None, typer.Option(help="Append the rows to this JSON-lines file; what it holds is skipped.")
    ] = None,
    budget: Annotated[float, typer.Option(help="Seconds of sampling per method and problem.", min=0.01)] = 2.0,
) -> None:
    """Measure: the asv suite of a profile, or the given problems in this process.

    An interrupted run keeps what it measured; the same command goes on from there.
    """
    suite.check_profile(profile)
    for name in method or ():
        registry.get(name)
    if not problems:
        if method or save:
            raise ValueError(
                "--method and --save are for single problems; the suite measures every method and stores its results"
            )
        _run_suite(profile, layers_file)
        return
    named = [(str(Problem.parse(text)),) * 2 for text in problems]
    if layers_file is not None:
        named += [(layer.label, str(layer.problem)) for layer in layers.read(layers_file)]
    _run_problems(named, method or registry.methods("cpu"), save, budget)


def _run_suite(profile: str, layers_file: Path | None) -> None:
    with ExitStack() as stack:
        last = suite.Progress(0)
        show: Callable[[suite.Progress], None] | None = None

        def on_progress(progress: suite.Progress) -> None:
            nonlocal last, show
            show = show or stack.enter_context(shown())
            last = progress
            show(progress)

        folder = suite.run(profile, layers_file=layers_file, on_progress=on_progress)
    for name, reason in last.failed.items():
        say(f"{name}: {reason}")
    out.print(f"{last.done} measurements of the {profile} profile in {folder}", markup=False, soft_wrap=True)
    if last.failed:
        raise typer.Exit(1)


def _run_problems(named: list[tuple[str, str]], methods: list[str], save: Path | None, budget: float) -> None:
    kept = _kept(save) if save else {}
    rows: list[Measurement] = []
    total = len(named) * len(methods)
    with interruptible(save) as show:
        for (label, text), name in product(named, methods):
            show(suite.Progress(total, len(rows), f"{label}, {name}"))
            rows.append(kept.get((text, name)) or _measured(label, text, name, save, budget))
        show(suite.Progress(total, len(rows)))
    for label, same in groupby(rows, key=lambda row: row.label):
        out.print(_results_table(label, list(same)))
    if any(row.note.startswith("wrong") for row in rows):
        raise typer.Exit(1)


def _measured(label: str, text: str, name: str, save: Path | None, budget: float) -> Measurement:
    row = measure.measure(Problem.parse(text), name, label=label, budget=budget)
    if save:
        store.append(save, row)
    return row


def _kept(path: Path) -> dict[tuple[str, str], Measurement]:
    """Rows of the file that the present sources made; the file must be writable."""
    store.check_writable(path)
    rows = store.read(path) if path.exists() else []
    here = jit.source_fingerprint()
    return {(row.problem, row.method): row for row in rows if row.versions.get("sources") == here and row.median is not None}


def _results_table(label: str, rows: list[Measurement]) -> Table:
    table = Table(title=label, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("method", no_wrap=True)
    for column in ("median", "95 % interval", "GFLOP/s", "prepare", "prepared", "workspace"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(_method(row.method), *_result_cells(row))
    table.caption = "\n".join(f"{row.method}: {row.note}" for row in rows if row.note) or None
    table.caption_justify = "left"
    return table


def _result_cells(row: Measurement) -> list[str]:
    if row.median is None:
        return ["wrong" if row.note.startswith("wrong") else "n/a", "", "", "", "", ""]
    speed = Problem.parse(row.problem).flops / row.median / 1e9
    return [
        units.seconds(row.median),
        f"{units.seconds(row.low)} - {units.seconds(row.high)}",
        f"{speed:.3g}",
        units.seconds(row.prepare_seconds),
        units.size(row.prepared_bytes),
        units.size(row.workspace_bytes),
    ]


@app.command(epilog=epilog("report --profile quick --output reports/here"))
def report(
    files: Annotated[
        list[Path] | None, typer.Argument(help="JSON-lines files of `run --save` to add.", metavar="[FILE]...")
    ] = None,
    profile: Annotated[str, typer.Option(help="Whose stored results: quick, standard or full.")] = "quick",
    layers_file: Annotated[Path | None, typer.Option("--layers", help="The layers CSV that the suite was run with.")] = None,
    output: Annotated[Path, typer.Option(help="The folder of the page, its figures and its data.")] = Path("reports/latest"),
) -> None:
    """Draw the stored results: one page with its figures, and the table of winners. Nothing is measured."""
    from tconv_bench import report as page

    suite.check_profile(profile)
    page.check_folder(output)
    rows = [row for path in files or () for row in store.read(path)]
    try:
        folder, present = suite.stored_results(profile, layers_file)
    except suite.SuiteError:
        if not rows:
            raise
    else:
        rows = store.read_asv(folder) + rows
        if not present:
            say("these results are of other sources than the present ones; `tconv-bench run` measures anew")
    with err.status("drawing the report"):
        written = page.write_report(rows, output)
    out.print(_winners_table(page.winner_rows(rows)))
    out.print(f"report: {written}", markup=False)


@app.command(epilog=epilog("site"))
def site(
    output: Annotated[Path, typer.Option(help="The folder of the pages; an earlier site is replaced.")] = Path(".asv/html"),
) -> None:
    """Publish the suite's stored results as asv's pages, which open offline. Nothing is measured."""
    from tconv_bench import site as pages

    folder, note = pages.choose()
    if note:
        say(note)
    out.print(f"site: {pages.publish(folder, output, say=say)}", markup=False, soft_wrap=True)


def _winners_table(winners: list[Any]) -> Table:
    table = Table(title="Fastest method, layer by layer", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("layer", overflow="fold")
    table.add_column("fastest", no_wrap=True)
    table.add_column("median", justify="right", no_wrap=True)
    table.add_column("GFLOP/s", justify="right")
    table.add_column("next", no_wrap=True)
    table.add_column("slower by", no_wrap=True)
    for row in winners:
        tie = f", tie of {len(row.tied)}" if row.winner == "tie" else ""
        ratio = f"{row.ratio:.2f}x{tie}" if row.ratio is not None else "the only one timed"
        fastest = _method(row.tied[0] if tie else row.winner)
        table.add_row(row.label, fastest, units.seconds(row.median_s), f"{row.gflops:.3g}", row.runner_up or "", ratio)
    table.caption = "A tie: the methods' 95 % intervals overlap."
    table.caption_justify = "left"
    return table


def _method(name: str) -> Text:
    known = name in registry.methods("cpu")
    return Text(name, style=f"bold {registry.get(name).color}" if known else "bold")


def _facts_table(title: str) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(style="bold", overflow="fold")
    table.add_column(overflow="fold")
    return table


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


if __name__ == "__main__":
    main()
