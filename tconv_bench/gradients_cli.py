"""The ``compare-gradients`` command: the gradients beside PyTorch's autograd, measured, stored and shown as a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tconv_bench import machine
from tconv_bench.console import epilog, out


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("compare-gradients", epilog=epilog("compare-gradients --document docs/gradients.md"))(compare_gradients)


def compare_gradients(
    rows: Annotated[
        Path,
        typer.Argument(help="JSON lines to add to; layers in it are not measured again, and nothing where it ends in .gz."),
    ] = Path(".compare/gradients.jsonl"),
    threads: Annotated[int, typer.Option(help="Threads of each side; 0: all usable cores.", min=0)] = 0,
    budget: Annotated[float, typer.Option(help="Seconds of samples per layer.", min=0.01)] = 1.0,
    figures: Annotated[Path | None, typer.Option(help="A folder to draw speedup.svg into.")] = None,
    document: Annotated[Path | None, typer.Option(help="A file to put the table into, between its two markers.")] = None,
) -> None:
    """Time the gradients beside PyTorch's autograd, checked against each other, and print the table of all stored rows."""
    from tconv_bench import gradients_comparison, readme, store

    if rows.suffix != ".gz":
        gradients_comparison.measure(rows, threads or machine.usable_cores(), budget)
    if figures is not None:
        from tconv_bench.plots import gradients, versus_svg

        out.print(str(versus_svg.save(gradients.gradients_speed(store.read(rows)), figures, "speedup")), markup=False)
    if document is not None:
        changed = readme.refresh(document, rows, gradients_comparison.TABLE, gradients_comparison.table)
        out.print(f"{document}: {'refreshed' if changed else 'is up to date'}", markup=False)
    out.print(gradients_comparison.table(store.read(rows)), markup=False, soft_wrap=True)
