"""Each layer's bar on a GPU: how many times as fast as cuDNN's best form ``phase`` is, with one image and with 64."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, log2
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from tconv_bench import units, verdicts
from tconv_bench.plots import rows, style
from tconv_bench.plots import versus_rows as versus
from tconv_bench.plots import versus_scores as scores
from tconv_bench.plots.rows import NothingToDrawError
from tconv_bench.store import Measurement
from tconv_bench.verdicts import Duel, Group

OURS = "phase"
FAST_MODE = "TF32"
_ROW = 0.165
_ROOM = 0.9  # right of the longest bar, for its number
_TIE = "#8c959f"
_MOST = 4.0  # powers of two to either side; longer bars are cut and say their number


def panels(measurements: list[Measurement]) -> list[tuple[str, dict[str, Duel], dict[str, float]]]:
    """(heading, the duel of each layer, cuDNN's time with TF32 over ours) of each batch."""
    every = versus.compared(measurements)
    fast = {(group.label, group.problem): group for group in every if group.mode == FAST_MODE}
    found = []
    for heading, groups in versus.by_batch(versus.condition(every, "planned", "flushed")):
        kept = [versus.restricted(g, [OURS, *verdicts.peers(g)]) for g in groups]
        duels = {duel.group.label: duel for duel in scores.duels(kept, OURS)}
        n = groups[0].problem.batch
        others = {g.label: fast.get((g.label + (f" {heading}" if n > 1 else ""), g.problem)) for g in kept}
        found.append((heading, duels, {label: r for label, d in duels.items() if (r := _fast(d, others[label])) is not None}))
    return [panel for panel in found if panel[1]]


def _fast(duel: Duel, group: Group | None) -> float | None:
    medians = [row.median for row in group.timed.values() if row.median] if group else []
    return min(medians) / versus.median(duel.ours) if medians else None


@style.styled
def layer_bars(measurements: list[Measurement]) -> Figure:
    """A bar per layer and batch from 1 to how many times as fast as cuDNN's best form without TF32 we are."""
    found = panels(measurements)
    if not found:
        raise NothingToDrawError("no layer on which both phase and cuDNN have a time")
    labels = list(dict.fromkeys(label for _, duels, _ in found for label in duels))
    body = _ROW * len(labels) + 0.7
    subtitle = (
        "Bar: cuDNN's time / ours, cuDNN in its faster memory order, float32 without TF32; right of 1 phase is faster. "
        "Diamond: the same for cuDNN with TF32, which rounds the factors to 10 bits."
    )
    figure = versus.sheet(body, "phase beside cuDNN, layer by layer", subtitle, key=0.3)
    _keys(figure, body)
    grid = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    ratios = [ratio for _, duels, fast in found for ratio in (*(d.ratio for d in duels.values()), *fast.values())]
    reach = min(_MOST, max(1.0, ceil(max(abs(log2(ratio)) for ratio in ratios) + 0.35)))
    for axes, (heading, duels, fast) in zip(grid, found):
        for y, label in enumerate(labels):
            if label in duels:
                _bar(axes, y, duels[label], reach)
            if label in fast:
                x = min(reach, max(-reach, log2(fast[label])))
                axes.plot(x, y, "D", markersize=3.6, markerfacecolor="white", markeredgecolor=style.INK, markeredgewidth=0.7)
        mean = rows.geometric_mean(duel.ratio for duel in duels.values())
        axes.set_title(f"{heading}: geometric mean {units.times(mean)}", loc="left")
        _frame(axes, labels, reach)
    return figure


def _bar(axes: Axes, y: int, duel: Duel, reach: float) -> None:
    color = {"win": style.OURS, "loss": style.THEIRS}.get(duel.outcome, _TIE)
    axes.barh(y, min(reach, max(-reach, log2(duel.ratio))), height=0.72, color=color)
    text = f"{duel.ratio:.2f}" if duel.ratio < 9.995 else units.significant(duel.ratio)
    axes.text(reach + _ROOM, y, text, fontsize=style.SMALL, ha="right", va="center_baseline", in_layout=False)


def _frame(axes: Axes, labels: Sequence[str], reach: float) -> None:
    axes.set(xlim=(-reach - 0.15, reach + _ROOM), ylim=(len(labels) - 0.4, -0.6))
    ticks = [float(power) for power in range(-int(reach), int(reach) + 1)]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{2.0**v:g}{units.X}" if v >= 0 else f"1/{2.0**-v:g}{units.X}"))
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    axes.axvline(0, color=style.INK, linewidth=0.9)
    for y in versus.network_starts(list(labels)):
        axes.axhline(y - 0.5, color=style.RULE, linewidth=0.6)


def _keys(figure: Figure, body: float) -> None:
    names = (("phase is faster", style.OURS), ("cuDNN is faster", style.THEIRS), ("a tie: chance may explain it", _TIE))
    handles: list[Any] = [Patch(color=color, label=name) for name, color in names]
    mark: dict[str, Any] = {"marker": "D", "ls": "none", "markersize": 4, "markerfacecolor": "white"}
    handles.append(Line2D([], [], label="cuDNN with TF32", markeredgecolor=style.INK, markeredgewidth=0.8, **mark))
    place = (0.004, body / figure.get_figheight())
    figure.legend(handles=handles, loc="lower left", bbox_to_anchor=place, ncols=4, handlelength=1.2, borderaxespad=0.1)


def caption(measurements: list[Measurement]) -> str:
    """How the duels ended with each batch, and the worst loss."""
    parts = []
    for heading, duels, _ in panels(measurements):
        total = scores.score(list(duels.values()))
        worst = min(duels.values(), key=lambda duel: duel.ratio)
        assert total is not None
        parts.append(
            f"{heading} {total.wins} won, {total.ties} tied, {total.losses} lost, the least {units.times(worst.ratio)} "
            f"({worst.group.label})"
        )
    return f"Both sides compute the same float32 sums. Beyond noise: {'; '.join(parts)}."
