"""Measurements that no machine ever made: a cost model for five methods, so that figures and page have something to show."""

from __future__ import annotations

import random

from tconv_bench import layers
from tconv_bench.problem import Problem
from tconv_bench.store import Measurement

METHODS = ("col2im", "direct", "matmul", "scatter_add", "zero_insertion")
QUICK = 14


def row(problem: Problem | str, method: str, median: float | None, **changes) -> Measurement:
    """One row; ``spread`` is half its interval, relative to the median."""
    problem = Problem.parse(problem) if isinstance(problem, str) else problem
    spread = changes.pop("spread", 0.02)
    values = {
        "suite": "layers",
        "label": str(problem),
        "prepare_seconds": 1e-4,
        "prepared_bytes": problem.itemsize * problem.c_in * problem.c_out * problem.taps,
        "workspace_bytes": 0,
        "threads": 2,
        "measured_at": "2025-03-01T12:00:00Z",
        "machine": {"name": "bench", "cpu": "Example CPU", "arch": "x86_64", "cores": 2, "ram": "8 GiB", "os": "Linux"},
        "versions": {"python": "3.12.1", "numpy": "2.1.0", "numba": "0.61.0"},
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "profile": "quick",
    }
    if median is not None:
        values |= {"low": median * (1 - spread), "high": median * (1 + spread), "minimum": median * (1 - spread)}
        values["samples"] = tuple(median * (1 + spread * step / 2) for step in (-2, -1, 0, 1, 2))
    else:
        values |= {"prepare_seconds": None, "prepared_bytes": None, "workspace_bytes": None}
    return Measurement(problem=str(problem), method=method, median=median, **(values | changes))


def layer_problems(count: int | None = None) -> list[tuple[str, Problem]]:
    """(label, Problem) of the first ``count`` layers of layers.csv; None for all."""
    return [(layer.label, layer.problem) for layer in layers.read()[:count]]


def modelled(suite: str, label: str, problem: Problem) -> list[Measurement]:
    """All five methods on a problem: costs that grow as the algorithms' do, with noise drawn from the problem's text."""
    noise = random.Random(f"{suite} {problem}")
    stretched = 1
    for stride in problem.stride:
        stretched *= stride
    data = problem.itemsize * problem.batch * problem.c_out * problem.out_pixels
    speed = {"col2im": 60e9, "direct": 35e9, "matmul": 1.5e9, "scatter_add": 20e9, "zero_insertion": 40e9 / stretched}
    start = {"col2im": 3e-5, "direct": 6e-6, "matmul": 2e-5, "scatter_add": 8e-6, "zero_insertion": 9e-6}
    columns = problem.itemsize * problem.batch * problem.c_out * problem.taps * problem.in_pixels
    workspace = {
        "col2im": columns, "direct": 0, "matmul": 0, "scatter_add": data if problem.stride[0] > 1 else 0,
        "zero_insertion": problem.itemsize * problem.c_in * problem.out_pixels,
    }  # fmt: skip
    weights = problem.itemsize * problem.c_in * problem.c_out * problem.taps // problem.groups
    found = []
    for method in METHODS:
        if method == "matmul" and problem.flops > 3e8:
            note = "the convolution matrix would need 12 GiB; use direct instead"
            found.append(row(problem, method, None, suite=suite, label=label, note=note))
            continue
        median = (start[method] + problem.flops / speed[method] + data / 8e9) * noise.uniform(0.7, 1.4)
        found.append(
            row(
                problem, method, median, suite=suite, label=label, spread=noise.uniform(0.005, 0.12),
                workspace_bytes=workspace[method], prepare_seconds=2e-6 + weights / 2e9,
                prepared_bytes=weights * (problem.in_pixels if method == "matmul" else 1),
            )
        )  # fmt: skip
    return found


def layer_rows(count: int | None = QUICK) -> list[Measurement]:
    """Five methods on the first layers of layers.csv."""
    return [found for label, problem in layer_problems(count) for found in modelled("layers", label, problem)]


def sweep_rows() -> list[Measurement]:
    """Every sweep suite: sizes, channels, kernels, dimensions, strides and paddings."""
    cases = [("sizes", Problem(1, 16, (n, n), 16, 4, 2, 1)) for n in (8, 16, 32, 64, 128, 256)]
    cases += [("channels", Problem(1, c, (32, 32), c, 4, 2, 1)) for c in (1, 4, 16, 64, 256)]
    cases += [("kernels", Problem(1, 16, (32, 32), 16, k, 2, (k - 2) // 2)) for k in (2, 4, 6, 8, 12, 16)]
    cases += [("dimensions", Problem(1, 16, size, 16, 4, 2, 1)) for size in ((4096,), (64, 64), (16, 16, 16))]
    cases += [("strides_paddings", Problem(1, 16, (32, 32), 16, 5, s, p)) for s in (1, 2, 3, 4) for p in (0, 1, 2, 3)]
    return [found for suite, problem in cases for found in modelled(suite, str(problem), problem)]
