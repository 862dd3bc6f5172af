"""The ``gpu-check`` command: thin; ``make gpu-check`` calls it."""

from __future__ import annotations

import os
import re
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from tconv_bench import layers, units
from tconv_bench.console import epilog, interruptible, out, say

FAILED = 1


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("gpu-check", epilog=epilog("gpu-check --dry-run"))(gpu_check)


def gpu_check(
    minutes: Annotated[float, typer.Option(help="Minutes after which it has ended, whatever the GPU.", min=1.5)] = 9.0,
    rows: Annotated[
        Path | None, typer.Option(help="The JSON-lines file to append to; what it holds of this GPU is not measured again.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="The report's folder; by default reports/GPU'S-NAME-comparison.")] = None,
    layers_file: Annotated[Path | None, typer.Option("--layers", help="A layers CSV; without it, the project's own.")] = None,
    cudnn: Annotated[bool, typer.Option(help="Compare with cuDNN, through PyTorch.")] = True,
    tests: Annotated[bool, typer.Option(help="Run the CUDA tests on the device first.")] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Rehearse without a GPU: invented times, and no row or page is kept.")
    ] = False,
) -> None:
    """On a machine with an NVIDIA GPU: tests, limits, and every layer beside cuDNN, checked, in nine minutes.

    An interrupted run keeps its rows, and the same command goes on from there. Status 1 for a failed test or a wrong result.
    """
    from tconv_bench import comparison_page, report
    from tconv_bench.gpu_check import preflight, session, summary

    begun = os.environ.pop(preflight.STARTED, "")
    before = time.time()
    sentence = "" if begun else preflight.missing(dry=dry_run, cudnn=cudnn)
    if sentence:
        raise ValueError(sentence)
    spent = 0.0 if dry_run else time.time() - float(begun or before)
    named = session.cases(layers.read(layers_file or layers.DEFAULT))
    with tempfile.TemporaryDirectory(prefix="tconv-gpu-dry-run-") as scratch:
        site: session.Site = session.DryRun() if dry_run else session.OnGpu()
        path = Path(scratch) / "rows.jsonl" if dry_run else rows or session.ROWS
        if output is not None and not dry_run:
            report.check_folder(output)
        run = session.Session(site, path, minutes=minutes, spent=spent, cudnn=cudnn, tests=tests)
        with interruptible(None if dry_run else path) as show:
            result = run.run(named, show)
        folder = Path(scratch) / "page" if dry_run else output or Path("reports") / f"{folder_name(run.facts)}-comparison"
        try:
            page = comparison_page.write(result.rows, folder, title=title(run.facts, dry_run))
        except Exception as error:  # the rows are kept and the table is still to be printed
            say(f"no page: {type(error).__name__}: {error}")
        else:
            size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            kept = "drawn and deleted again" if dry_run else str(page)
            out.print(f"report: {kept} ({units.size(size)} with figures and rows)", markup=False, soft_wrap=True)
        if not dry_run:
            out.print(f"rows: {path}", markup=False, soft_wrap=True)
        seconds = f"{result.seconds:.0f} invented seconds" if dry_run else f"{result.seconds:.0f} s and the page"
        head = "DRY RUN: nothing was measured, every number below is invented" if dry_run else "gpu-check"
        wrong = [row for row in result.rows if row.note.startswith("wrong")]
        for row in wrong:
            say(f"{row.label}, {row.method}: {row.note}")
        out.print(summary.table(result.rows, f"{head} ({seconds})"))
    if wrong or (result.tests is not None and result.tests.failed):
        raise typer.Exit(FAILED)


def folder_name(facts: dict[str, object]) -> str:
    """A GPU's name as a folder's: "NVIDIA H200" becomes "nvidia-h200"."""
    machine = facts.get("machine")
    name = str(machine.get("gpu", "")) if isinstance(machine, dict) else ""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "gpu"


def title(facts: dict[str, object], dry_run: bool) -> str:
    """The page's heading."""
    machine = facts.get("machine")
    name = str(machine.get("gpu", "")) if isinstance(machine, dict) else ""
    text = f"Transposed convolution on {name}, beside cuDNN"
    return f"DRY RUN, nothing was measured: {text}" if dry_run else text
