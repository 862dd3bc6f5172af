"""How many times as fast as PyTorch's autograd the gradients are, over the products that a layer needs."""

from __future__ import annotations

from math import log10

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from tconv_bench import gradients_comparison, units
from tconv_bench.plots import style
from tconv_bench.plots.rows import NothingToDrawError
from tconv_bench.problem import Problem
from tconv_bench.store import Measurement

BODY = 3.4  # inches high
TICKS = (0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10)
FASTEST, SLOWEST = 2.0, 0.95  # layers beyond are named, where their names do not meet
WIDTH, HEIGHT = 1.8, 0.04  # decades that a name takes at most
COLOR = "#0072B2"


@style.styled
def gradients_speed(measurements: list[Measurement]) -> Figure:
    """A point per layer: the time of PyTorch's faster memory order / ours over a forward pass' operations, both on log axes."""
    try:
        ratios = gradients_comparison.speed_ups(measurements)
    except ValueError as error:
        raise NothingToDrawError(str(error)) from None
    problems = {row.label: Problem.parse(row.problem) for row in measurements if row.label in ratios}
    figure = style.sheet(
        BODY,
        "Gradients: how many times as fast as PyTorch's autograd",
        "Time of PyTorch's faster memory order / ours of a whole backward call; a point per layer. Below the line, in the "
        "shaded part, PyTorch is faster.",
    )
    axis = figure.subplots()
    low, high = min(0.7, *ratios.values()) / 1.1, max(ratios.values()) * 1.2
    axis.axhspan(low, 1, color=style.GAP, linewidth=0)
    axis.axhline(1, color=style.FAINT, linewidth=0.9)
    operations = {label: problems[label].flops for label in ratios}
    axis.plot(
        [operations[label] for label in ratios], list(ratios.values()), "o", color=COLOR, markeredgecolor="white",
        markeredgewidth=0.5,
    )  # fmt: skip
    least, most = min(operations.values()), max(operations.values())
    for label in _named(ratios, operations):
        at_right = operations[label] ** 2 < least * most  # where there is room
        axis.annotate(
            label, (operations[label], ratios[label]), (6 if at_right else -6, 0), textcoords="offset points", fontsize=8,
            ha="left" if at_right else "right", va="center",
        )  # fmt: skip
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_ylim(low, high)
    axis.grid(axis="y")
    axis.yaxis.set_major_locator(FixedLocator([tick for tick in TICKS if low <= tick <= high]))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}{units.X}"))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlabel("multiplications and additions of a forward pass")
    axis.set_ylabel("PyTorch's time / ours")
    return figure


def _named(ratios: dict[str, float], operations: dict[str, int]) -> list[str]:
    """The layers farthest from 1 whose names do not meet."""
    named: list[str] = []
    for label in sorted(ratios, key=lambda label: -abs(log10(ratios[label]))):
        beyond = not SLOWEST < ratios[label] < FASTEST
        if beyond and not any(
            abs(log10(operations[label] / operations[other])) < WIDTH and abs(log10(ratios[label] / ratios[other])) < HEIGHT
            for other in named
        ):
            named.append(label)
    return named
