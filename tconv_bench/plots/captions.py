"""Two or three sentences per figure, computed from the rows that it shows: how to read it, and what it says."""

from __future__ import annotations

import numpy as np

from tconv_bench import units
from tconv_bench.plots import rows, style
from tconv_bench.plots.heatmap import mean_speedups
from tconv_bench.plots.memory import memory_points
from tconv_bench.plots.rows import Layer
from tconv_bench.plots.winners import slowdowns, win_counts
from tconv_bench.store import Measurement

_SWEEPS = {"channels": "Channels", "kernels": "Kernel sizes", "dimensions": "Dimensions"}


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def score(found: list[Layer], noun: str = "layer") -> str:
    """Who wins how often, as "col2im is fastest on 9 of 14 layers, direct on 2; 3 layers are ties."."""
    wins, _ = win_counts(found)
    ties = len(found) - sum(wins.values())
    parts = [f"{name} on {count}" for name, count in wins.most_common()]
    text = ""
    if parts:
        parts[0] = parts[0].replace(" on ", " is fastest on ", 1) + f" of {_count(len(found), noun)}"
        text = ", ".join(parts)
    tied = f"{_count(ties, noun)} {'is a tie' if ties == 1 else 'are ties'}" if ties else ""
    return "; ".join(part for part in (text, tied) if part) + "."


def winners(measurements: list[Measurement]) -> str:
    """Who wins how often, and who is never far behind."""
    found = rows.timed_layers(measurements)
    medians = {name: float(np.median(slowdowns(found, name))) for name in rows.method_names(found) if _any(found, name)}
    steady = min(medians, key=lambda name: medians[name])
    return (
        f"{score(found)} A method wins a layer only where its 95 % interval lies below every other method's. "
        f"On the median layer, {steady} comes closest to the fastest, at {units.times(medians[steady])} its time."
    )


def _any(found: list[Layer], name: str) -> bool:
    return any(name in layer.medians for layer in found)


def speedup(measurements: list[Measurement]) -> str:
    """How to read the speed-up heat map, and who leads it."""
    found = rows.timed_layers(measurements)
    base = rows.base_method(found)
    text = (
        f"The first column is the median time of {base}; every other cell says how many times faster (blue) or slower (red) "
        f"a method is on that layer. Bold marks the winner of a row."
    )
    absent = sum(row.median is None for layer in found for row in layer.cells.values())
    if absent:
        text += f" {_count(absent, 'hatched cell')} could not be measured; the page's end says why."
    means = mean_speedups(found, base)
    if not means:
        return text
    best = max(means, key=lambda name: means[name][0])
    mean, count = means[best]
    return f"{text} By geometric mean over {_count(count, 'layer')}, {best} is ahead with {units.times(mean)}."


def sizes(measurements: list[Measurement]) -> str:
    """How to read time against size, and who is fastest at both ends."""
    found = rows.timed_layers(measurements, ("sizes",))
    ordered = sorted(found, key=lambda layer: layer.problem.in_size)
    ends = [f"{_who(layer)} at {layer.problem.in_size[0]} pixels" for layer in (ordered[0], ordered[-1])]
    return (
        "Both axes are logarithmic, so a straight line is a power law and equal slopes mean equal growth. The lower panel "
        f"divides every time by the fastest one at that size. Fastest: {style.listed(ends if len(found) > 1 else ends[:1])}."
    )


def _who(layer: Layer) -> str:
    verdict = layer.verdict
    assert verdict is not None
    return verdict.winner if verdict.winner != "tie" else f"a tie of {style.listed(list(verdict.tied))}"


def sweeps(measurements: list[Measurement]) -> str:
    """Who wins how often along each sweep."""
    names = [suite for suite in ("channels", "kernels", "dimensions") if _timed(measurements, suite)]
    scores = [f"{_SWEEPS[suite]}: {score(_timed(measurements, suite), 'problem')}" for suite in names]
    return f"One number changes along each axis, the rest stays as the panel's heading says. {' '.join(scores)}"


def _timed(measurements: list[Measurement], suite: str) -> list[Layer]:
    return [layer for layer in rows.layers(measurements, (suite,)) if layer.medians]


def strides_paddings(measurements: list[Measurement]) -> str:
    """Who wins how many cells, and who suffers most from a larger stride."""
    found = rows.timed_layers(measurements, ("strides_paddings",))
    strides = sorted({layer.problem.stride[0] for layer in found})
    text = "Each cell is one pair of stride and padding; brighter is faster, on one scale for all methods. "
    text += score(found, "cell")
    speeds = {
        name: [_mean_speed(found, name, stride) for stride in (strides[0], strides[-1])] for name in rows.method_names(found)
    }
    change = {name: last / first for name, (first, last) in speeds.items() if first and last}
    if len(strides) == 1 or not change:
        return text
    worst = min(change, key=lambda name: change[name])
    first, last = (units.significant(speed or 0.0) for speed in speeds[worst])
    return f"{text} From stride {strides[0]} to {strides[-1]}, {worst} changes for the worst: {first} to {last} GFLOP/s."


def _mean_speed(found: list[Layer], name: str, stride: int) -> float | None:
    cells = [layer.cells[name] for layer in found if layer.problem.stride[0] == stride and name in layer.cells]
    speeds = [speed for row in cells if (speed := rows.gflops(row))]
    return rows.geometric_mean(speeds) if speeds else None


def workspace(measurements: list[Measurement]) -> str:
    """Who adds most and least memory."""
    found = rows.timed_layers(measurements)
    most = {
        name: float(
            np.median([b for la in found if name in la.medians and (b := rows.extra_bytes(la.cells[name])) is not None])
        )
        for name in rows.method_names(found)
        if memory_points(found, name)
    }
    low, high = min(most, key=lambda n: most[n]), max(most, key=lambda n: most[n])
    return (
        "Bars start at 1 KiB; on a log scale their ends compare, not their lengths. The black line marks what every method "
        f"must hold anyway. On the median layer, {low} adds least ({units.size(most[low])}) and {high} most "
        f"({units.size(most[high])})."
    )


def time_memory(measurements: list[Measurement]) -> str:
    """Which methods no other beats in both time and memory."""
    found = rows.timed_layers(measurements)
    middle = {
        name: tuple(np.median(np.array(points), axis=0))
        for name in rows.method_names(found)
        if (points := memory_points(found, name))
    }
    best = [n for n, p in middle.items() if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in middle.values())]
    return (
        "Methods towards the lower left are both fast and lean; 1 on the vertical axis is the fastest method of each layer. "
        f"By their medians, no other method beats {style.listed(best)} in time and memory at once."
    )
