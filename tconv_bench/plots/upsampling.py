"""How many times as fast as PyTorch the up-sampling operators are, over the size of what they are given."""

from __future__ import annotations

from math import prod

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from tconv_bench import units, upsample_comparison
from tconv_bench.plots import style
from tconv_bench.plots.rows import NothingToDrawError
from tconv_bench.plots.style import Look
from tconv_bench.store import Measurement
from tconv_bench.upsample_comparison import Case

COLUMNS = 4
PANEL = 1.45  # inches high
KINDS = {
    "float32": Look("#0072B2", "o"),
    "float32, channels innermost": Look("#D55E00", "^"),
    "bytes": Look("#009E73", "s"),
    "bytes, channels innermost": Look("#CC79A7", "D"),
}
TICKS = (0.5, 1, 2, 5, 10, 20, 50)


@style.styled
def upsampling_speed(measurements: list[Measurement]) -> Figure:
    """A panel per operator: PyTorch's time / ours of each case over the values that its input has, both on log axes."""
    try:
        ratios = upsample_comparison.speed_ups(measurements)
    except ValueError as error:
        raise NothingToDrawError(str(error)) from None
    panels: dict[str, dict[Case, float]] = {}
    for case, ratio in ratios.items():
        panels.setdefault(_panel_and_kind(case.operator)[0], {})[case] = ratio
    rows = -(-len(panels) // COLUMNS)
    body = PANEL * rows + 0.4
    used = [kind for kind in KINDS if any(_panel_and_kind(case.operator)[1] == kind for case in ratios)]
    figure = style.sheet(
        body,
        "Up-sampling: how many times as fast as PyTorch",
        "PyTorch's time / ours of a whole call, over the values of the input; a point per size and scale. Below the line, in "
        "the shaded part, PyTorch is faster. Channels innermost: what both sides are given and give lies in memory so.",
        key=style.legend_height(used, 4),
    )
    style.add_legend(figure, {kind: KINDS[kind] for kind in used}, body, line=False, columns=4)
    axes = figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False)
    low, high = min(0.5, *ratios.values()), max(ratios.values())
    for number, axis in enumerate(axes.flat):
        if number >= len(panels):
            axis.set_axis_off()
            continue
        name, points = list(panels.items())[number]
        _draw(axis, name, points, low / 1.2, high * 1.3)
        axis.tick_params(labelbottom=number + COLUMNS >= len(panels))
    figure.supxlabel("values of the input", fontsize=9)
    figure.supylabel("PyTorch's time / ours", fontsize=9)
    return figure


def _panel_and_kind(operator: str) -> tuple[str, str]:
    """The panel that an operator's points stand in, and what they are drawn as."""
    name, is_inner = operator.removesuffix("-innermost"), operator.endswith("-innermost")
    base, is_bytes = name.removesuffix("-bytes"), name.endswith("-bytes")
    return base, ("bytes" if is_bytes else "float32") + (", channels innermost" if is_inner else "")


def _draw(axis: Axes, name: str, points: dict[Case, float], low: float, high: float) -> None:
    axis.set_title(name.replace("-", ", ", 1), loc="left")
    axis.axhspan(low, 1, color=style.GAP, linewidth=0)
    axis.axhline(1, color=style.FAINT, linewidth=0.9)
    for kind, look in KINDS.items():
        own = [(_values(case), ratio) for case, ratio in points.items() if _panel_and_kind(case.operator)[1] == kind]
        if own:
            x, y = zip(*own)
            axis.plot(
                x, y, look.marker, color=look.color, markersize=4, markeredgecolor="white", markeredgewidth=0.5, label=kind
            )
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_ylim(low, high)
    axis.grid(axis="y")
    axis.yaxis.set_major_locator(FixedLocator([tick for tick in TICKS if low <= tick <= high]))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}{units.X}"))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_locator(LogLocator(numticks=4))
    axis.xaxis.set_minor_locator(NullLocator())


def _values(case: Case) -> int:
    return prod(int(number) for number in case.size.split("x"))
