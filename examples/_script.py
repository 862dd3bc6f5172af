"""What every example's script has: its arguments, a console and a bar of progress."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console
from rich.progress import track

from tconv_bench.plots import style

PIXELS = 1440  # a figure's width
console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


def arguments(script: str) -> tuple[bool, Path]:
    """Whether a quick look is asked for, and where the figure goes: ``figures/NAME.png`` beside the ``script`` by default."""
    path = Path(script)
    name = path.stem.removeprefix("plot_")
    parser = argparse.ArgumentParser(prog=path.name)
    parser.add_argument("--quick", action="store_true", help="seconds instead of a minute, with poorer results")
    parser.add_argument("figure", nargs="?", type=Path, default=path.parent / "figures" / f"{name}.png", help="a PNG to write")
    given = parser.parse_args()
    return given.quick, given.figure


def steps(count: int, what: str) -> Iterator[int]:
    """``range(count)``, with a bar of progress."""
    return iter(track(range(count), what.ljust(32), console=console))


def save(figure: Figure, path: Path) -> None:
    """A PNG of the 256 colours that suit the figure best."""
    content = BytesIO()
    style.write(figure, content, format="png", dpi=PIXELS / figure.get_figwidth())
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.open(content).convert("RGB").quantize(256, kmeans=1, dither=Image.Dither.NONE).save(path, optimize=True)
    console.print(f"figure: {path}")
