"""One look for every figure: size, type, a colour and marker per method, and files that are the same bytes each time."""

from __future__ import annotations

import importlib
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import wraps
from io import BytesIO, StringIO
from pathlib import Path
from textwrap import wrap
from typing import Any, Literal, ParamSpec, cast

import matplotlib
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from tconv_bench import registry

# 8 in at 200 dpi are 1600 px; shown 830 px wide, 8 pt of type is 11.5 px high.
WIDTH = 8.0
PIXELS = 1600
LEVELS = 64  # of a colour map, so that an indexed PNG has colours left for type
SMALL = 8.0
INK = "#1f2328"
FAINT = "#656d76"
RULE = "#d0d7de"
GAP = "#eceff2"
OURS, THEIRS = "#004488", "#BB5566"  # this project and other engines, where a figure tells only those two apart
AUTO = ("#16213e", "*")  # "auto" is a choice among variants, none of them
_SPARE = (("#882255", "P"), ("#44AA99", "X"), ("#999933", "h"), ("#332288", "<"), ("#AA4499", ">"), ("#117733", "p"))
_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.labelsize": 9,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.7,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.grid": False,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "hatch.linewidth": 0.6,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "tconv_bench",
    "svg.fonttype": "path",
    "path.simplify": True,
}
_P = ParamSpec("_P")


@dataclass(frozen=True)
class Look:
    """A method's colour and marker, the same in every figure."""

    color: str
    marker: str

    @property
    def ink(self) -> str:
        """The colour, darkened until type in it has a contrast of 4.5 on white."""
        return readable(self.color)

    @property
    def stroke(self) -> str:
        """The colour, darkened until a thin line in it has a contrast of 2.2 on white; most have that as they are."""
        return readable(self.color, 2.2)


@contextmanager
def _project_style() -> Iterator[None]:
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        cast("dict[str, Any]", matplotlib.rcParams).update(_STYLE)
        yield


def styled(draw: Callable[_P, Figure]) -> Callable[_P, Figure]:
    """Draw a figure under the project's style, whatever the user's matplotlibrc says."""

    @wraps(draw)
    def inner(*args: _P.args, **kwargs: _P.kwargs) -> Figure:
        with _project_style():
            return draw(*args, **kwargs)

    return inner


def looks(names: Iterable[str]) -> dict[str, Look]:
    """Colour and marker per series: the registry's, the peers', else spare ones picked by name and free among ``names``.

    Twins of one algorithm have its colour, but the second of them in one figure a spare one.
    """
    found: dict[str, Look] = {}
    unknown = []
    for name in sorted(set(names)):
        entry = registered(name)
        if entry is not None and entry.color not in {look.color for look in found.values()}:
            found[name] = Look(entry.color, entry.marker)
        elif name == "auto":
            found[name] = Look(*AUTO)
        else:
            unknown.append(name)
    for name in unknown:
        start = zlib.crc32(name.encode())
        order = [_SPARE[(start + step) % len(_SPARE)] for step in range(len(_SPARE))]
        used = {look.color for look in found.values()}
        found[name] = Look(*next((pair for pair in order if pair[0] not in used), order[0]))
    return found


def registered(name: str) -> Any:
    """The variant or peer of a series, which knows its title, source, colour and marker; None where there is none."""
    method, _, device = name.removesuffix(")").partition(" (")
    for where in [device] if device else registry.DEVICES:
        with suppress(ValueError):
            return registry.get(method, where)
    try:
        peers = importlib.import_module("tconv_bench.peers")
    except ImportError:
        return None
    return peers.get(method) if any(method in peers.names(where) for where in registry.DEVICES) else None


def heading(name: str, columns: int) -> str:
    """A method's name above one of ``columns`` columns, in two lines where they are narrow."""
    return name.replace(" (", "\n(").replace("_", "_\n", 1 if columns > 6 and " (" not in name else 0)


def sentence(text: str) -> str:
    """``text`` as a sentence before another one; nothing stays nothing."""
    return f"{text[:1].upper()}{text[1:]}. " if text else ""


def listed(names: list[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def luminance(color: Any) -> float:
    """WCAG relative luminance, 0 (black) to 1 (white)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def text_on(color: Any) -> str:
    """Ink or white, whichever stands out more on ``color``."""
    light = luminance(color)
    return "white" if 1.05 / (light + 0.05) > (light + 0.05) / (luminance(INK) + 0.05) else INK


def readable(color: str, contrast: float = 4.5) -> str:
    """``color``, darkened until it has a contrast of 4.5 (or as given) on white."""
    rgb = to_rgb(color)
    while 1.05 / (luminance(rgb) + 0.05) < contrast:
        rgb = (rgb[0] * 0.95, rgb[1] * 0.95, rgb[2] * 0.95)
    return matplotlib.colors.to_hex(rgb)


def sheet(
    body: float,
    title: str,
    subtitle: str,
    *,
    key: float = 0.0,
    width: float = WIDTH,
    margin: float = 0.0,
    make: Callable[..., Figure] = Figure,
) -> Figure:
    """A figure ``body`` inches high below a heading, with ``key`` inches between for a legend or a colour bar.

    ``margin`` inches stay free at either side, for type that another font may draw wider; ``make`` may be ``pyplot.figure``,
    for figures that pyplot shows.
    """
    lines = wrap(subtitle, round(14 * width))
    head = 0.42 + 0.17 * len(lines) + key
    figure = make(figsize=(width, body + head), layout="constrained")
    total = body + head
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(rect=(margin / width, 0.0, 1 - 2 * margin / width, body / total))  # type: ignore[call-arg]
    left = 0.096 / width
    figure.text(left, 1 - 0.1 / total, title, fontsize=12, fontweight="bold", va="top")
    figure.text(left, 1 - 0.34 / total, "\n".join(lines), fontsize=9, color=FAINT, va="top", linespacing=1.3)
    return figure


def add_legend(figure: Figure, palette: dict[str, Look], body: float, *, line: bool = True, columns: int = 6) -> None:
    """Keys, ``columns`` to a row, in the gap that ``sheet`` left above the body."""
    dash: Literal["-", "none"] = "-" if line else "none"
    handles = [Line2D([], [], color=k.color, marker=k.marker, linestyle=dash, label=name) for name, k in palette.items()]
    figure.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0.004, body / figure.get_figheight()),
        ncols=min(columns, len(handles)),
        columnspacing=1.6,
        handlelength=1.8 if line else 1.0,
        borderaxespad=0.1,
    )


def legend_height(names: Iterable[Any], columns: int = 6) -> float:
    """Inches that ``add_legend`` needs."""
    return 0.1 + 0.2 * -(-len(list(names)) // columns)


def save(figure: Figure, folder: Path, name: str) -> tuple[Path, Path]:
    """Write ``name``.png (1600 px wide) and ``name``.svg (type as paths); the same figure gives the same bytes."""
    return save_png(figure, folder, name), save_svg(figure, folder, name)


def save_png(figure: Figure, folder: Path, name: str, pixels: int = PIXELS) -> Path:
    """Write ``name``.png, ``pixels`` wide; the same figure gives the same bytes."""
    content = BytesIO()
    write(figure, content, format="png", dpi=pixels / figure.get_figwidth())
    path = _at(folder, name, "png")
    indexed(Image.open(content).convert("RGB")).save(path, optimize=True)
    return path


def save_svg(figure: Figure, folder: Path, name: str) -> Path:
    """Write ``name``.svg, type as paths; the same figure gives the same bytes."""
    content = StringIO()
    write(figure, content, format="svg", metadata={"Date": None, "Creator": None})
    path = _at(folder, name, "svg")
    path.write_text(lean(content.getvalue()), encoding="utf-8", newline="\n")
    return path


def _at(folder: Path, name: str, suffix: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.{suffix}"


def write(figure: Figure, target: Any, *, fonttype: str = "path", **how: Any) -> None:
    """The figure into a file object, laid out once whatever it is written as; in SVG type is paths, or text for "none"."""
    with _project_style(), matplotlib.rc_context({"svg.fonttype": fonttype}):
        engine = figure.get_layout_engine()
        if engine is not None:
            engine.execute(figure)
        figure.set_layout_engine(None)  # with one, even "none", the figure would be drawn twice
        figure.savefig(target, **how)


def indexed(image: Image.Image) -> Image.Image:
    """The image with 256 colours, a third of the bytes: the most frequent ones stay exact, the rest (edges of type) go to
    the nearest of them. Pillow's own quantisers shift the methods' colours."""
    red, green, blue = np.moveaxis(np.asarray(image).astype(np.int32), -1, 0)
    pixels = red << 16 | green << 8 | blue
    count = np.bincount(pixels.ravel(), minlength=1 << 24)
    packed = np.flatnonzero(count)
    counts = count[packed]
    colours = np.stack([packed >> 16, packed >> 8 & 255, packed & 255], axis=-1)
    # Type has hundreds of greys, of which few are missed; a colour that goes missing is seen.
    weight = counts * (1 + (colours.max(axis=1) - colours.min(axis=1)) / 8)
    palette = colours[np.argsort(-weight, kind="stable")[:256]]
    nearest = np.array([np.argmin(((palette - colour) ** 2).sum(axis=1)) for colour in colours], dtype=np.uint8)
    place = np.zeros(1 << 24, np.uint8)
    place[packed] = nearest
    indexed = Image.fromarray(place[pixels])
    indexed.putpalette(palette.astype(np.uint8).tobytes())
    return indexed


def lean(svg: str) -> str:
    """An SVG without comments and indentation, coordinates to a hundredth of a point: a third of the bytes, the same picture.

    >>> lean('<g>\\n <!-- text -->\\n <path d="M 12.345678 0.0839844"/></g>')
    '<g><path d="M 12.35 0.084"/></g>'
    """
    svg = re.sub(r"\s*<!--.*?-->\s*|(?<=>)\s+(?=<)", "", svg, flags=re.S)
    svg = re.sub(r"-?\d+\.\d{3,}", _rounded, svg).replace("DejaVuSans-Bold-", "b").replace("DejaVuSans-", "g")
    return re.sub(r'(<use xlink:href="#[bg]\w+") transform="translate\((\S+) 0\)"', r'\1 x="\2"', svg.replace(" \n", " "))


def _rounded(match: re.Match[str]) -> str:
    value = float(match[0])
    return f"{value:.2f}".rstrip("0").rstrip(".") if abs(value) >= 1 else f"{value:.4f}".rstrip("0").rstrip(".")
