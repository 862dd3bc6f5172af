"""``tconv-bench figures``: the teaching pictures as files."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from tconv_bench.console import epilog, out
from tconv_bench.problem import Problem

_SIZES = "n1_ci1_i3x3_co1_k3x3_s2x2_p1x1"


def figures(
    names: Annotated[list[str] | None, typer.Argument(help="Which; none: all of them.", metavar="[NAME]...")] = None,
    output: Annotated[Path, typer.Option(help="The folder to write to.")] = Path("figures"),
    file_format: Annotated[str, typer.Option("--format", help="png or svg; animations are always gif.")] = "png",
    problem: Annotated[
        str, typer.Option(help=f"Draw these sizes, such as {_SIZES}, with one image and channel; none: the texts' examples.")
    ] = "",
    only_list: Annotated[bool, typer.Option("--list", help="Say what there is and write nothing.")] = False,
) -> None:
    """Draw how transposed convolution works: matrices, stamps, phases, zero insertion, arithmetic, checkerboards."""
    from tconv_bench.figures import FIGURES, FORMATS

    known = {entry.name: entry for entry in FIGURES}
    for name in names or ():
        if name not in known:
            raise ValueError(f"figure is {name!r}, valid figures are {', '.join(known)}")
    if file_format not in FORMATS:
        raise ValueError(f"format is {file_format!r}, valid formats are {', '.join(FORMATS)}")
    sizes = Problem.parse(problem) if problem else None
    able = [name for name, entry in known.items() if sizes is None or entry.of_problem]
    for name in names or ():
        if name not in able:
            raise ValueError(f"{name} does not show a problem; --problem is for {', '.join(able)}")
    chosen = [known[name] for name in dict.fromkeys(names or able)]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("figure", "what it shows") if only_list else ("figure", "what it shows", "file"):
        table.add_column(column, overflow="fold")
    if not only_list:
        _check_folder(output)
    for entry in chosen:
        table.add_row(entry.name, entry.shows, *([] if only_list else [str(entry.save(output, file_format, sizes))]))
    out.print(table)


def _check_folder(folder: Path) -> None:
    """OSError unless files can be written into ``folder``, which is made where it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"the folder {folder} cannot be written ({error.strerror or error}); choose another one") from None


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("figures", epilog=epilog("figures stamps phases --output figures --format svg"))(figures)
