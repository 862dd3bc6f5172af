"""The gradients beside PyTorch's autograd: what is timed, how, and the table made of the rows.

Each layer's backward pass alone: ``torch.autograd.grad`` to input, weight and bias of a kept forward pass, on contiguous
tensors and (2-D and 3-D) on tensors whose channels are innermost, against ``conv_transpose_grads`` on contiguous arrays, in
turns, as ``beside_torch`` says. A result that is not PyTorch's within rounding has no time.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tconv_bench import beside_torch, layers, units
from tconv_bench.beside_torch import OURS, TORCH, Call, Calls, Entry
from tconv_bench.gradients import Gradients, conv_transpose_grads
from tconv_bench.plots.rows import geometric_mean
from tconv_bench.problem import Problem
from tconv_bench.store import Measurement

LAST = "torch-channels_last"
SUITE = TABLE = "gradients"
CLOSE = 1e-4  # of the largest value: both sides add up to 4 million products in float32


def data(problem: Problem) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Standard normal grad_out, x and weight; the same in every process."""
    rng = np.random.default_rng(20160323)
    shapes = problem.out_shape, problem.x_shape, problem.weight_shape
    return tuple(rng.standard_normal(shape, np.float32) for shape in shapes)  # type: ignore[return-value]


def ours(problem: Problem) -> Call:
    """What computes a layer's gradients once."""
    arrays = data(problem)
    sizes = {
        "stride": problem.stride, "padding": problem.padding, "output_padding": problem.output_padding,
        "groups": problem.groups, "dilation": problem.dilation,
    }  # fmt: skip
    return lambda: conv_transpose_grads(*arrays, **sizes)


def torchs(problem: Problem, channels_last: bool = False) -> Call:
    """What lets PyTorch compute them once, from a forward pass that is done already."""
    import torch

    grad_out, x, weight = map(torch.from_numpy, data(problem))
    if channels_last:
        order = torch.channels_last if problem.ndim == 2 else torch.channels_last_3d
        grad_out, x, weight = (tensor.contiguous(memory_format=order) for tensor in (grad_out, x, weight))
    leaves = [tensor.requires_grad_() for tensor in (x, weight, torch.zeros(problem.c_out))]
    function = getattr(torch.nn.functional, f"conv_transpose{problem.ndim}d")
    before = [pair[0] for pair in problem.padding]
    out = function(*leaves, problem.stride, before, problem.output_padding, problem.groups, problem.dilation)
    return lambda: torch.autograd.grad(out, leaves, grad_out, retain_graph=True)


def calls(problem: Problem) -> Calls:
    """Who is timed on a layer."""
    last = {LAST: torchs(problem, channels_last=True)} if problem.ndim > 1 else {}
    return {OURS: ours(problem), TORCH: torchs(problem), **last}


def entries() -> Iterator[Entry]:
    """Every layer of layers.csv."""
    for layer in layers.read():
        yield Entry(layer.label, str(layer.problem), partial(calls, layer.problem), _wrong)


def _wrong(found: Calls) -> str:
    return difference(found[OURS](), found[TORCH]())


def measure(path: Path, threads: int, budget: float) -> None:
    """``beside_torch.measure`` of the layers."""
    beside_torch.measure(__name__, path, threads, budget)


def difference(own: Gradients, theirs: Any) -> str:
    """How our gradients differ from PyTorch's beyond rounding; "" where they don't."""
    for name, mine, other in zip(Gradients._fields, own, (tensor.numpy() for tensor in theirs)):
        if mine.shape != other.shape:
            return f"{name} has shape {mine.shape} instead of {other.shape}"
        largest = float(np.abs(mine - other).max())
        if not largest <= CLOSE * float(np.abs(other).max()):
            return f"{name} differs by {largest:.3g}"
    return ""


def speed_ups(rows: list[Measurement]) -> dict[str, float]:
    """The time of PyTorch's faster memory order / ours per layer that has both.

    Raises:
        ValueError: no row of ours beside one of PyTorch.
    """
    found = {(row.label, row.method): row.median for row in rows if row.suite == SUITE and row.median}
    labels = [label for label, method in found if method == OURS and (label, TORCH) in found]
    if not labels:
        raise ValueError("there is no row of this project's gradients beside one of PyTorch's")
    return {
        label: min(found[label, method] for method in (TORCH, LAST) if (label, method) in found) / found[label, OURS]
        for label in labels
    }


def table(rows: list[Measurement]) -> str:
    """Markdown: a line per layer with our time, PyTorch's and their ratio, then the means; below it, where.

    Raises:
        ValueError: no row of ours beside one of PyTorch.
    """
    found = {(row.label, row.method): row for row in rows if row.suite == SUITE and row.median}
    ratios = speed_ups(rows)
    lines = [["layer", "problem", "ours", "PyTorch", "channels_last", "ratio"], ["---", "---"] + ["---:"] * 4]
    for label, ratio in ratios.items():
        own, *others = (found.get((label, method)) for method in (OURS, TORCH, LAST))
        cells = [units.seconds(row.median) if row else units.NONE for row in (own, *others)]
        lines.append([label, f"`{own.problem}`", *cells, units.times(ratio)])  # type: ignore[union-attr]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", *_notes(ratios, found)])


def _notes(ratios: dict[str, float], found: dict[tuple[str, str], Measurement]) -> list[str]:
    plain = [found[label, TORCH].median / found[label, OURS].median for label in ratios]  # type: ignore[operator]
    below = [f"{label} {ratio:.2f}" for label, ratio in sorted(ratios.items(), key=lambda item: item[1]) if ratio < 1]
    missing = [layer.label for layer in layers.read() if layer.label not in ratios]
    return [
        f"{len(ratios)} layers, float32, hot caches, fresh results, medians of interleaved samples. The ratio is the time of",
        "PyTorch's faster memory order / ours: above 1 this project is faster. Its geometric mean is "
        f"{units.times(geometric_mean(ratios.values()))}, over",
        f"PyTorch on contiguous tensors alone {units.times(geometric_mean(plain))}. Faster on {len(ratios) - len(below)} of "
        f"{len(ratios)}.",
        f"Below 1: {', '.join(below) or 'none'}.",
        *([f"Not measured: {', '.join(missing)}."] if missing else []),
        beside_torch.where(list(found.values())),
    ]


if __name__ == "__main__":
    beside_torch.measure_here(SUITE, entries(), Path(sys.argv[1]), float(sys.argv[2]))
