"""Matrices as rows of panels: the cells of a figure have one size in inches, every number at least 8 pt.

Lines are cut where their numbers would have no room side by side. A panel that is too wide for its numbers even on a line of
its own goes without them, in smaller cells.

A cell's colour is its role's hue, stronger for larger magnitudes; zero is white, what is negative has a hue of its own and a
printed sign. Roles have names and places too, so that nothing is lost on paper without colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextToPath
from numpy.typing import ArrayLike, NDArray

from tconv_bench import units
from tconv_bench.plots import style

# Okabe & Ito's blue, vermillion and bluish green; the neutral one is for what has no role.
INPUT, KERNEL, OUTPUT, NEUTRAL = "#0072B2", "#D55E00", "#009E73", "#57606a"
# Kinds of cells: a number, nothing yet, a zero between pixels, a zero around them, a number cropped away, nothing out there.
VALUE, BLANK, INSERTED, PADDING, CROPPED, OUTSIDE = range(6)
CONVOLVE, ARROW = "\N{ASTERISK OPERATOR}", "\N{RIGHTWARDS ARROW}"  # operators between panels
TRANSPOSE = CONVOLVE + "\N{MODIFIER LETTER CAPITAL T}"
MARGIN = 0.1
LARGEST, LEAST = 0.42, 0.055  # inches of a cell
WIDEST = 0.8  # inches of a cell that long numbers make larger
FILL, HIGH = 0.82, 0.62  # of a cell's width and height, what a number may take
HIGHEST, TALLEST = 120, 40  # inches of a figure, and of one whose lines are cut
LEAD, GAP, LINE = 0.3, 0.28, 0.18  # inches of an operator, between panels, and between lines
TITLE, NOTE, FOOT = 0.21, 0.15, 0.3
_NEGATIVE = "#CC79A7"  # Okabe & Ito's reddish purple
_MINUS = "\N{MINUS SIGN}"

Box = tuple[float, float, float, float]  # row, column, rows, columns


@dataclass(frozen=True, eq=False)
class Cells:
    """What a panel's cells look like: fills (rows, columns, RGB), texts, which of these are faint, and outlined boxes."""

    fills: NDArray[np.float64]
    texts: NDArray[Any]
    faint: NDArray[np.bool_]
    frames: tuple[Box, ...] = ()
    signed: bool = False  # whether a fill says "negative"
    widest: str = ""  # the widest text, hidden ones among them, so that the steps of a sequence have one size

    @property
    def rows(self) -> int:
        """Rows of cells."""
        return len(self.fills)

    @property
    def columns(self) -> int:
        """Columns of cells."""
        return len(self.fills[0])

    def unnumbered(self) -> Cells:
        """The same cells without a text."""
        return replace(self, texts=np.full(self.texts.shape, "", object), widest="")

    def framed(self, *frames: Box) -> Cells:
        """The same cells with boxes (row, column, rows, columns) around some."""
        return replace(self, frames=self.frames + frames)


@dataclass(frozen=True, eq=False)
class Panel:
    """One matrix with its name; ``note`` stands below the name, ``lead`` (an operator) in front of the cells."""

    title: str
    cells: Cells
    note: str = ""
    lead: str = ""


Line = Sequence[Panel | None]  # None leaves a panel's place free
Lines = Sequence[Line]


def number(value: Any) -> str:
    """A cell's text: whole numbers as they are, others with three significant digits, a true minus sign.

    >>> [number(v) for v in (255, -3, 2.0, -0.12345, 1234.5, 2.5e-7, float("nan"))]
    ['255', '−3', '2', '−0.123', '1230', '2.5e−7', 'nan']
    """
    if not np.isfinite(value):
        text = str(value).replace("inf", "\N{INFINITY}")
    elif value == int(value) and abs(value) < 1e7:
        text = str(int(value))
    elif 1e-3 <= abs(value) < 1e5:
        text = units.significant(float(value))
        text = text.rstrip("0").rstrip(".") if "." in text else text
    else:
        head, _, power = f"{float(value):.1e}".partition("e")
        text = f"{head}e{int(power)}"
    return text.replace("-", _MINUS)


def shaded(values: ArrayLike, hue: str, *, top: float | None = None, kinds: NDArray[Any] | None = None) -> Cells:
    """Cells of numbers; ``top`` is the magnitude of the full hue (the largest one if None), ``kinds`` says which are none."""
    array = np.asarray(values)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"a matrix has shape {array.shape}, but must have rows and columns")
    kind = np.zeros(array.shape, int) if kinds is None else kinds
    finite = np.where(np.isfinite(array) & (kind == VALUE), array, 0).astype(float)
    top = magnitude(finite) if top is None else top
    strength = 0.75 * np.abs(finite) / top if top else np.zeros(array.shape)
    full = np.where((finite < 0)[..., None], to_rgb(_NEGATIVE), to_rgb(hue))
    fills = 1 - strength[..., None] * (1 - full)
    fills[np.isin(kind, (PADDING, CROPPED, OUTSIDE))] = to_rgb(style.GAP)
    texts = _texts(array)
    widest = _widest(texts)
    texts[np.isin(kind, (INSERTED, PADDING))] = "0"
    texts[np.isin(kind, (BLANK, OUTSIDE))] = ""
    return Cells(fills, texts, (texts == "0") | (kind == CROPPED), (), bool((finite < 0).any()), widest)


def magnitude(values: NDArray[Any]) -> float:
    """The largest magnitude among the finite values; 0 without any."""
    return float(np.abs(values[np.isfinite(values)]).max(initial=0))


def tinted(values: ArrayLike, tints: NDArray[np.float64]) -> Cells:
    """Cells of numbers on given colours (rows, columns, RGB)."""
    texts = _texts(np.asarray(values))
    return Cells(tints, texts, np.zeros(texts.shape, bool), widest=_widest(texts))


def _texts(array: NDArray[Any]) -> NDArray[Any]:
    return np.array([[number(value) for value in row] for row in array], object)


def widest(values: NDArray[Any]) -> str:
    """The widest of the numbers' texts."""
    return _widest(np.array([number(value) for value in np.unique(values)], object))


def _widest(texts: NDArray[Any]) -> str:
    return str(max(texts.ravel(), key=lambda text: text_inches(text, 10)))


def size_note(array: Any) -> str:
    """``4 × 16``."""
    return f" {units.X} ".join(map(str, np.shape(array)))


@cache
def text_inches(text: str, size: float, bold: bool = False) -> float:
    """How wide a text is drawn."""
    font = FontProperties(family="DejaVu Sans", size=size, weight="bold" if bold else "normal")
    width, _, _ = TextToPath().get_text_width_height_descent(text, font, False)
    return float(width) / 72


def draw(
    lines: Lines, title: str, subtitle: str, *, foot: str = "", width: float = style.WIDTH, largest: float = LARGEST
) -> Figure:
    """A figure of lines of panels, and a line of text below them. Numbers that do not fit at 8 pt are left out, which is said.

    Raises:
        ValueError: more columns than can be told apart, or a figure higher than ``HIGHEST`` inches.
    """
    lines, cell = _laid_out(lines, width, largest)
    panels = [panel for line in lines for panel in line if panel]
    sides = [_side(line, cell, width) for line in lines]
    sizes = [_type_size(panel, side) for line, side in zip(lines, sides) for panel in line if panel]
    if any(panel.cells.signed for panel in panels):
        subtitle += " Pink is negative."
    if min(sizes) < style.SMALL:
        subtitle += " Numbers are left out" + (" where" if max(sizes) >= style.SMALL else ":") + " they do not fit."
    size = min((size for size in sizes if size >= style.SMALL), default=style.SMALL)
    heights = [_line_height(line, side) for line, side in zip(lines, sides)]
    body = sum(heights) + LINE * (len(lines) - 1) + 2 * MARGIN + (FOOT if foot else 0)
    if body > HIGHEST:
        raise ValueError(
            f"the figure would be {body:.0f} inches high, but must be at most {HIGHEST}; use a smaller input, kernel or stride"
        )
    figure = style.sheet(body, title, subtitle, width=width)
    figure.set_layout_engine("none")
    top = body - MARGIN
    for line, places, height, side in zip(lines, _places(lines, cell, width), heights, sides):
        _draw_line(figure, line, places, side, size, top)
        top -= height + LINE
    _say(figure, MARGIN, MARGIN, foot, fontsize=10)
    return figure


def _cell(lines: Lines, width: float, largest: float) -> float:
    """The largest side of a cell with which every line fits."""
    for cell in np.arange(largest, LEAST, -0.005):
        if _fits(_places(lines, cell, width), width) and min(_side(line, cell, width) for line in lines) > LEAST:
            return float(cell)
    columns = max(sum(panel.cells.columns for panel in line if panel) for line in lines)
    raise ValueError(f"{columns} columns of cells side by side are too many for a figure; use a smaller input or kernel")


def legible(*panels: Panel | None) -> float:
    """Inches of a cell in which all numbers of the panels have room at 8 pt; 0 where they have none."""
    widest = max((text_inches(panel.cells.widest, style.SMALL) for panel in panels if panel), default=0.0)
    return 1.01 * max(widest / FILL, style.SMALL / (72 * HIGH)) if widest else 0.0


def abreast(panels: Sequence[Panel], columns: int, column: float, rest: float, *, width: float = style.WIDTH) -> int:
    """How many steps of ``columns`` cells and ``rest`` inches stand side by side, one at least.

    A cell has ``column`` inches, or more where the numbers of ``panels`` need more and so get the room.
    """
    needed = legible(*panels)
    wide = max(column, needed) if needed * columns + rest <= width else column
    return max(1, int(width / (wide * columns + rest)))


class _Part(list["Panel | None"]):
    """Panels of a line that was cut."""


def _laid_out(lines: Lines, width: float, largest: float) -> tuple[Lines, float]:
    """The lines, cut where numbers would have no room side by side, and a cell's side.

    Numbers that would make the figure higher than ``TALLEST`` are not counted. Lines with a free place stay as they are.
    """
    panels = [panel for line in lines for panel in line if panel]
    for cell in sorted({legible(panel) for panel in panels if not _is_too_wide(panel, width)}, reverse=True):
        if _fits(_places(lines, cell, width), width):
            break
        cut = [part for line in lines for part in ([line] if None in line else _parts(line, cell, width))]
        if sum(_line_height(line, _side(line, cell, width)) + LINE for line in cut) <= TALLEST:
            return cut, _cell(cut, width, cell)
    roomy = min(WIDEST, 0.9 / FILL * max(text_inches(panel.cells.widest, 10) for panel in panels))
    return lines, _cell(lines, width, max(largest, roomy))


def _parts(line: Line, cell: float, width: float) -> list[_Part]:
    """A line in as few parts as fit."""
    parts = [_Part(line[:1])]
    for panel in line[1:]:
        longer = _Part([*parts[-1], panel])
        if _fits(_places([longer], cell, width), width):
            parts[-1] = longer
        else:
            parts.append(_Part([panel]))
    return parts


def _fits(places: list[list[tuple[float, float]]], width: float) -> bool:
    return max(sum(map(sum, line)) for line in places) <= width - 2 * MARGIN + GAP


def _is_too_wide(panel: Panel, width: float) -> bool:
    """Whether a panel's numbers have no room at 8 pt even if it stands alone."""
    return legible(panel) * panel.cells.columns + _lead(panel) > width - 2 * MARGIN


def _side(line: Line, cell: float, width: float) -> float:
    """Inches of a line's cells: fewer than ``cell`` where its only panel is too wide for its numbers, or for the others'."""
    (panel, *more) = line
    if more or panel is None or not (isinstance(line, _Part) or _is_too_wide(panel, width)):
        return cell
    return min(cell, (width - 2 * MARGIN - LEAD) / panel.cells.columns)


def _type_size(panel: Panel, cell: float) -> float:
    """Points of the largest type in which a panel's numbers fit into its cells."""
    widest = text_inches(panel.cells.widest, 10)
    return min(11.0, 10 * FILL * cell / widest, 72 * HIGH * cell) if widest else 11.0


def _places(lines: Lines, cell: float, width: float) -> list[list[tuple[float, float]]]:
    """(space for an operator, width with the gap after it) of each panel; whole lines of as many panels stand in columns."""
    names = [-at if isinstance(line, _Part) else len(line) for at, line in enumerate(lines)]
    found = {}
    for name in set(names):
        same = [(line, _side(line, cell, width)) for line, own in zip(lines, names) if own == name]
        columns = zip(*([(panel, side) for panel in line] for line, side in same))
        found[name] = [(max(_lead(p) for p, _ in c), max(_panel_width(p, side) for p, side in c) + GAP) for c in columns]
    return [found[name] for name in names]


def _lead(panel: Panel | None) -> float:
    return LEAD if panel and panel.lead else 0.0


def _panel_width(panel: Panel | None, cell: float) -> float:
    if panel is None:
        return 0.0
    return max(cell * panel.cells.columns, text_inches(panel.title, 9, True), text_inches(panel.note, style.SMALL))


def _heading(line: Line) -> float:
    return TITLE + (NOTE if any(panel and panel.note for panel in line) else 0)


def _line_height(line: Line, cell: float) -> float:
    return _heading(line) + cell * max(panel.cells.rows for panel in line if panel)


def _draw_line(figure: Figure, line: Line, places: list[tuple[float, float]], cell: float, size: float, top: float) -> None:
    left, heading = MARGIN, _heading(line)
    middle = top - heading - cell * min(panel.cells.rows for panel in line if panel) / 2
    for panel, (lead, width) in zip(line, places):
        left += lead
        if panel is not None:
            _draw_panel(figure, panel, left, top - heading, cell, size)
            figure.axes[-1].set_title(panel.title, loc="left", pad=72 * (heading - TITLE) + 5)
            between = LEAD + (GAP if left > MARGIN + lead else 0)
            _say(figure, left - between / 2, middle, panel.lead, fontsize=13, ha="center", va="center")
        left += width


def _draw_panel(figure: Figure, panel: Panel, left: float, top: float, cell: float, size: float) -> None:
    wide, high = figure.get_size_inches()
    width, height = cell * panel.cells.columns, cell * panel.cells.rows
    axes = figure.add_axes((left / wide, (top - height) / high, width / wide, height / high))
    draw_cells(axes, panel.cells, size if _type_size(panel, cell) >= size else None)
    _say(figure, left, top + 0.055, panel.note, fontsize=style.SMALL, color=style.FAINT)


def _say(figure: Figure, left: float, bottom: float, text: str, **how: Any) -> None:
    """A text, if there is one, at a place in inches."""
    if not text:
        return
    wide, high = figure.get_size_inches()
    figure.text(left / wide, bottom / high, text, **how)


def draw_cells(axes: Axes, cells: Cells, size: float | None) -> None:
    """Cells on axes that are theirs: one unit per cell, the first row on top."""
    rows, columns = cells.rows, cells.columns
    axes.pcolormesh(
        np.arange(columns + 1), np.arange(rows + 1), cells.fills, edgecolors=style.RULE, linewidth=0.6, clip_on=False
    )
    axes.set(xlim=(0, columns), ylim=(rows, 0), xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)
    if size is not None:
        _write(axes, cells, size)
    for row, column, high, wide in cells.frames:
        axes.add_patch(
            Rectangle((column, row), wide, high, fill=False, edgecolor=style.INK, linewidth=1.6, clip_on=False, zorder=4)
        )


def _write(axes: Axes, cells: Cells, size: float) -> None:
    for row, column in np.ndindex(cells.rows, cells.columns):
        text = cells.texts[row, column]
        if text:
            ink = style.FAINT if cells.faint[row, column] else style.text_on(cells.fills[row, column])
            axes.text(column + 0.5, row + 0.5, text, color=ink, fontsize=size, ha="center", va="center_baseline")
