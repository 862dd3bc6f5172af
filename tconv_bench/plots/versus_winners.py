"""Who wins which layer, in every mode, with and without the entrants that keep channels last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextToPath

from tconv_bench import units, verdicts
from tconv_bench.plots import style
from tconv_bench.plots import versus_rows as versus
from tconv_bench.plots import versus_scores as scores
from tconv_bench.plots.rows import NothingToDrawError
from tconv_bench.plots.style import Look
from tconv_bench.store import Measurement
from tconv_bench.verdicts import Group, Verdict

WIDTH = 9.5  # inches; shown 1000 px wide, 8 pt of type are 11.7 px high
_ROW = 0.2
_LABELS = 1.75  # inches left of the columns
_TIE = "#8c959f"


@dataclass(frozen=True)
class Column:
    """One mode and cache state: its groups by layer, and where it stands; ``split`` where channels-last wins somewhere."""

    title: str
    groups: dict[str, Group]
    left: float
    width: float
    split: bool

    @property
    def halves(self) -> list[tuple[str, Callable[[Group], Group], float, float]]:
        """(heading, what of a group it shows, left, width) of its parts."""
        if not self.split:
            return [("all entrants", _everything, self.left, self.width)]
        half = self.width / 2
        return [
            ("all entrants", _everything, self.left, half),
            ("channels-first only", versus.channels_first, self.left + half, half),
        ]


def _everything(group: Group) -> Group:
    return group


@style.styled
def winner_map(measurements: list[Measurement]) -> Figure:
    """Layer x condition: the winner's colour and name; above it how many layers each entrant wins."""
    found = versus.compared(measurements)
    columns = _columns(found)
    if not columns:
        raise NothingToDrawError("no timed comparison row")
    labels = list(dict.fromkeys(label for column in columns for label in column.groups))
    names = _ranked(columns, versus.entrants(group for column in columns for group in column.groups.values()))
    palette = versus.palette(names)
    counts, body = 0.22 * (len(names) + 1) + 0.75, _ROW * len(labels) + 0.3
    figure = versus.sheet(counts + body, "Who is fastest", _subtitle(columns), width=WIDTH)
    top, bottom = figure.subplots(2, 1, height_ratios=(counts, body))
    _counts(top, columns, names, palette)
    _map(bottom, columns, labels, palette)
    return figure


def _subtitle(columns: list[Column]) -> str:
    text = (
        "The colour of the fastest; = joins those that chance cannot tell apart. Hatched cell: a tie between this project and "
        "another engine. Bars: layers won, hatched: tied."
    )
    if any(column.split for column in columns):
        text += " A row is split where the winner changes once channels-last memory is left out."
    return text


def conditions(found: list[Group]) -> list[tuple[str, list[Group]]]:
    """(heading, groups) of each mode and cache state that was measured; on a GPU of each batch."""
    if versus.on_gpu(found):
        return versus.by_batch(versus.condition(found, "planned", "flushed"))
    kinds = ((mode, kept, versus.condition(found, mode, kept)) for mode, kept in versus.CONDITIONS)
    return [(f"{mode} with {kept} caches", groups) for mode, kept, groups in kinds if groups]


def _columns(found: list[Group]) -> list[Column]:
    present = conditions(found)
    columns: list[Column] = []
    gap = 0.12
    width = (WIDTH - _LABELS - gap * (len(present) - 1)) / max(1, len(present))
    for title, groups in present:
        split = any(outcome(group) != outcome(versus.channels_first(group)) for group in groups)
        left = len(columns) * (width + gap)
        columns.append(Column(title.replace(" with", ","), {g.label: g for g in groups}, left, width, split))
    return columns


def outcome(group: Group) -> frozenset[str] | None:
    """Who is fastest, as one or several that tie; nobody where this project ties with a peer; None where nothing was timed."""
    found = verdicts.verdict(group)
    if found is None:
        return None
    sides = by_side(group, found)
    return frozenset(sides[0] if len(sides) == 1 else ())


def win_counts(groups: Iterable[Group]) -> tuple[Counter[str], Counter[str]]:
    """Layers won outright, and layers where an entrant is one of several that tie."""
    wins: Counter[str] = Counter()
    shared: Counter[str] = Counter()
    for found in map(verdicts.verdict, groups):
        if found is not None and found.winner:
            wins[found.winner] += 1
        elif found is not None:
            shared.update(found.tied)
    return wins, shared


def _ranked(columns: list[Column], names: list[str]) -> list[str]:
    counts = [win_counts(column.groups.values()) for column in columns]
    return sorted(names, key=lambda name: (-sum(wins[name] + ties[name] for wins, ties in counts), names.index(name)))


def _counts(axes: Axes, columns: list[Column], names: list[str], palette: dict[str, Look]) -> None:
    for column in columns:
        axes.text(column.left, -1.62, column.title, fontsize=10, fontweight="bold")
        for title, part, left, width in column.halves:
            groups = [part(group) for group in column.groups.values()]
            if column.split:
                axes.text(left, -0.72, title, fontsize=style.SMALL, color=style.FAINT)
            _sides(axes, groups, left, width - 0.1)
            wins, shared = win_counts(groups)
            most = max(1, *(wins[name] + shared[name] for name in names))
            for y, name in enumerate(names, start=1):
                if not any(name in group.rows for group in groups):
                    axes.text(left, y, units.NONE, fontsize=style.SMALL, color=style.FAINT, va="center_baseline")
                    continue
                _bar(axes, left, y, wins[name], shared[name], (width - 0.85) / most, palette[name])
    axes.set_yticks(range(len(names) + 1), ["ours | tie | peers", *names], fontsize=style.SMALL)
    for label, name in zip(axes.get_yticklabels()[1:], names):
        label.set(color=palette[name].ink, fontweight="bold")
    _bare(axes, columns, len(names) + 0.6, -2.1)


def _sides(axes: Axes, groups: list[Group], left: float, width: float) -> None:
    """One stacked bar: the best of ours against the best peer."""
    total = scores.score(scores.duels(groups))
    if total is None:
        return
    for count, color, hatch in ((total.wins, style.OURS, ""), (total.ties, "white", "////"), (total.losses, style.THEIRS, "")):
        length = width * count / total.count
        axes.add_patch(Rectangle((left, -0.4), length, 0.8, facecolor=color, edgecolor=_TIE, linewidth=0, hatch=hatch))
        if length > 0.075 * len(str(count)):
            ink = style.INK if hatch else "white"
            backing = {"facecolor": "white", "edgecolor": "none", "pad": 0.8} if hatch else None
            axes.text(
                left + length / 2, 0, str(count), color=ink, fontsize=style.SMALL, fontweight="bold", ha="center",
                va="center_baseline", bbox=backing,
            )  # fmt: skip
        left += length


def _bar(axes: Axes, left: float, y: int, wins: int, shared: int, scale: float, look: Look) -> None:
    axes.barh(y, wins * scale, left=left, height=0.66, color=look.color)
    if shared:
        hatched: dict[str, Any] = {"facecolor": "white", "edgecolor": look.color, "hatch": "//////", "linewidth": 0.7}
        axes.barh(y, shared * scale, left=left + wins * scale, height=0.66, **hatched)
    text = f"{wins}" + (f" + {shared} tied" if shared else "")
    axes.text(left + (wins + shared) * scale + 0.05, y, text, fontsize=style.SMALL, va="center_baseline")


def _map(axes: Axes, columns: list[Column], labels: list[str], palette: dict[str, Look]) -> None:
    for column in columns:
        for y, label in enumerate(labels):
            group = column.groups.get(label)
            if group is None:
                continue
            parts = column.halves
            if column.split and outcome(group) == outcome(versus.channels_first(group)):
                parts = [("", _everything, column.left, column.width)]
            for _, part, left, width in parts:
                _cell(axes, left, y, width, part(group), palette)
    axes.set_yticks(range(len(labels)), labels)
    for y in versus.network_starts(labels):
        axes.axhline(y - 0.5, color=style.INK, linewidth=0.6, zorder=3)
    _bare(axes, columns, len(labels) - 0.5, -0.6)


def _cell(axes: Axes, left: float, y: int, width: float, group: Group, palette: dict[str, Look]) -> None:
    found = verdicts.verdict(group)
    if found is None:
        return
    sides = by_side(group, found)
    undecided = len(sides) > 1
    color = style.GAP if undecided else palette[sides[0][0]].color
    if undecided:
        axes.add_patch(Rectangle((left, y - 0.5), width, 1, facecolor=color, edgecolor=_TIE, linewidth=0, hatch="////"))
    face = "none" if undecided else color
    axes.add_patch(Rectangle((left, y - 0.5), width, 1, facecolor=face, edgecolor="white", linewidth=0.9, clip_on=False))
    backing = {"facecolor": color, "edgecolor": "none", "pad": 0.8} if undecided else None
    axes.text(
        left + width / 2, y, cell_text(sides, width - 0.08), color=style.text_on(color), fontsize=style.SMALL, ha="center",
        va="center_baseline", bbox=backing,
    )  # fmt: skip


def by_side(group: Group, found: Verdict) -> list[list[str]]:
    """The winner, or those that tie: this project's and the peers' apart, ``auto`` first, then the fastest."""
    names = sorted(found.tied or (found.winner,), key=lambda name: name != verdicts.OWN_DEFAULT)
    sides = ([name for name in names if group.rows[name].peer is peer] for peer in (False, True))
    return [side for side in sides if side]


def cell_text(sides: list[list[str]], inches: float) -> str:
    """As many of those that tie as fit, one of each side first: "auto = direct", "tie: auto = torch + 2"."""
    heads, rest = [side[0] for side in sides], [name for side in sides for name in side[1:]]
    names = heads + rest
    tries = []
    for shown in range(len(names), len(heads) - 1, -1):
        text = " = ".join(names[:shown]) + (f" + {len(names) - shown}" if shown < len(names) else "")
        tries += [f"tie: {text}", text] if len(heads) > 1 else [text]
    tries += ["tie"] if len(heads) > 1 else [heads[0]]
    return next((text for text in tries if _inches(text) <= inches), tries[-1])


@cache
def _inches(text: str) -> float:
    width, _, _ = TextToPath().get_text_width_height_descent(text, FontProperties(size=style.SMALL), False)
    return float(width) / 72


def _bare(axes: Axes, columns: list[Column], bottom: float, top: float) -> None:
    axes.set(xlim=(0, columns[-1].left + columns[-1].width), ylim=(bottom, top), xticks=[])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
