"""``tconv-bench checkerboard`` and ``checkerboard-train``: a layer's pattern in numbers, and what training leaves of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich import box
from rich.table import Table

from tconv_bench.console import EXAMPLE, epilog, out
from tconv_bench.problem import Problem

_LARGEST = 18  # pixels along an axis of a map that is printed


def checkerboard(
    problem: Annotated[str, typer.Argument(help=f"One line such as {EXAMPLE}; channels, batch and dtype play no role.")],
) -> None:
    """How many products meet in each output pixel, and the pattern that equal, random and trained weights draw."""
    from tconv_bench.checkerboard import contrast, interior, overlap_count, overlap_period

    p = Problem.parse(problem)
    sizes = (p.in_size, p.kernel, p.stride, p.padding, p.output_padding, p.dilation)
    period = overlap_period(p.kernel, p.stride, p.dilation)
    found = contrast(period)
    table = Table(title=f"Checkerboard of {p}", title_justify="left", show_header=False, box=box.SIMPLE_HEAD)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    counts = overlap_count(*sizes)
    if counts.ndim <= 2 and max(counts.shape) <= _LARGEST:
        table.add_row("products per pixel", _grid(counts))
    inside = " x ".join(f"{part.start}..{part.stop - 1}" if part.stop > part.start else "nowhere" for part in interior(*sizes))
    table.add_row("no border", f"output pixels {inside}")
    table.add_row("there it repeats", _grid(period) if period.ndim <= 2 else str(period.tolist()))
    table.add_row("contrast", f"{found} = {float(found):.3g}" if found.denominator > 1 else str(found))
    for name, text in _patterns(p):
        table.add_row(name, text)
    out.print(table)


def _patterns(p: Problem) -> list[tuple[str, str]]:
    from tconv_bench.checkerboard import expected_spectrum, kernel_pattern, study

    equal = kernel_pattern(np.ones((1, 1, *p.kernel)), p.stride, p.padding, p.dilation)
    strongest = f", strongest frequency {equal.peak_decibels:.1f} dB" if equal.ripple else ""
    random = float(expected_spectrum(p.kernel, p.stride, p.dilation).sum() - 1)
    found = [
        ("equal weights", f"{_ripple(equal.ripple)}{strongest}"),
        ("random weights", f"{_ripple(random**0.5)}, expected for weights of mean 0, whatever kernel and dilation"),
    ]
    known = {row.case[:3] for row in study.read()}
    size = ("transposed", p.kernel[0], p.stride[0])
    if p.ndim == 2 and set(p.dilation) == {1} and len(set(p.kernel)) == len(set(p.stride)) == 1 and size in known:
        trained = study.median_ripple(study.read(), *size)
        found.append(("trained weights", f"{_ripple(trained)}, median of {study.SEEDS} small networks (checkerboard-train)"))
    return found


def _ripple(value: float) -> str:
    from tconv_bench.checkerboard.spectra import decibels

    return f"ripple {value:.3g} of the level ({decibels(value**2):.1f} dB)" if value else "no ripple"


def _grid(values: NDArray[np.int64]) -> str:
    lines = np.atleast_2d(values).tolist()
    wide = len(str(np.max(values)))
    return "\n".join(" ".join(f"{value:{wide}}" for value in line) for line in lines)


def checkerboard_train(
    rows: Annotated[Path, typer.Argument(help="JSON lines to add to; what is in it is not trained again.")] = Path(
        ".compare/checkerboards.jsonl"
    ),
    seeds: Annotated[int, typer.Option(help="Networks per operator, kernel and stride.", min=1)] = 3,
) -> None:
    """Train small networks that enlarge images, for every operator, kernel and stride: the rows of the figures.

    The package's own rows (tconv_bench/checkerboard/trained.jsonl) were made so; 117 networks take about 8 minutes on 2 cores.
    """
    from tconv_bench.checkerboard import study
    from tconv_bench.store import check_writable

    check_writable(rows)
    for row in study.measure_missing(rows, seeds):
        case = f"{row.operator} kernel {row.kernel} stride {row.stride} seed {row.seed}"
        out.print(f"{case}: ripple {row.ripples[0]:.3g} -> {row.ripples[-1]:.3g}, {row.psnr} dB", markup=False)
    out.print(f"{rows} holds {len(study.read(rows))} trained networks", markup=False, soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("checkerboard", epilog=epilog("checkerboard n1_ci1_i4x4_co1_k3x3_s2x2_p1x1"))(checkerboard)
    app.command("checkerboard-train", epilog=epilog("checkerboard-train mine.jsonl --seeds 1"))(checkerboard_train)
