"""The up-sampling operators beside PyTorch's: what is timed, how, and the table made of the rows.

Both sides run in one process on the same values and the same number of threads, each call with a fresh output, taking turns
in random order. Before a sample a side is called until it is as fast as it was, after it its threads are waited for
(``worker.Warmed``, ``worker.wait_until_quiet``); fresh outputs lie in memory that was used before (``workers.ALLOCATOR``). A
result that is not PyTorch's in float64 within rounding has no time: in float32 its coordinates are wrong in the fifth digit.
Rows are Measurements whose ``problem`` is the case's text.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from math import prod
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tconv_bench import machine, store, units, upsample
from tconv_bench.plots.rows import geometric_mean
from tconv_bench.store import Measurement

OURS, TORCH = "tconv_bench", "torch"
SUITE = TABLE = "upsample"
SIZES = (
    "1x1x8x8", "1x64x8x8", "1x512x4x4", "8x64x16x16", "1x64x64x64", "1x3x256x256", "1x32x128x128", "16x3x256x256",
    "1x3x1024x1024",
)  # fmt: skip
MOST_BYTES = 2**26  # of an output
SAMPLE_SECONDS, LEAST_ROUNDS = 0.002, 7
CLOSE = 1e-6  # of the largest value: some ten roundings
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")

Make = Callable[[NDArray[Any], int], Callable[[], Any]]


@dataclass(frozen=True)
class Operator:
    """``ours(x, scale)`` and ``torch(x, scale)`` give what to call; pixel shuffle takes ``scale**2`` times the channels."""

    ours: Make
    torch: Make
    scales: tuple[int, ...] = (2,)
    more_channels: bool = False


@dataclass(frozen=True)
class Case:
    """An operator on a size."""

    operator: str
    size: str
    scale: int

    def __str__(self) -> str:
        return f"{self.operator} {self.size} x{self.scale}"

    def data(self) -> NDArray[np.float32]:
        """Standard normal values of the size; the same in every process."""
        n, c, height, width = map(int, self.size.split("x"))
        channels = c * self.scale**2 if OPERATORS[self.operator].more_channels else c
        return np.random.default_rng(20160323).standard_normal((n, channels, height, width), np.float32)

    def ours(self) -> Callable[[], Any]:
        """What computes the case once."""
        return OPERATORS[self.operator].ours(self.data(), self.scale)

    def torch(self, dtype: str = "float32") -> Callable[[], Any]:
        """What lets PyTorch compute it once."""
        return OPERATORS[self.operator].torch(self.data().astype(dtype), self.scale)


def _interpolated(name: str, aligned: bool | None = None) -> Operator:
    more = {} if aligned is None else {"align_corners": aligned}

    def ours(x: NDArray[Any], scale: int) -> Callable[[], Any]:
        function = getattr(upsample, name)
        return lambda: function(x, scale, **more)

    def torch(x: NDArray[Any], scale: int) -> Callable[[], Any]:
        functional, tensor = _torch(x)
        return lambda: functional.interpolate(tensor, scale_factor=scale, mode=name, **more)

    return Operator(ours, torch, (2, 3, 4, 8))


def _torch(*arrays: NDArray[Any]) -> Any:
    import torch

    return torch.nn.functional, *(torch.from_numpy(array) for array in arrays)


def _torch_nails(x: NDArray[Any], scale: int) -> Callable[[], Any]:
    import torch

    tensor = torch.from_numpy(x)
    shape = (*x.shape[:2], *(scale * i for i in x.shape[2:]))

    def call() -> Any:
        out = torch.zeros(shape, dtype=tensor.dtype)
        out[..., ::scale, ::scale] = tensor
        return out

    return call


def _shuffle(x: NDArray[Any], scale: int) -> Callable[[], Any]:
    return lambda: upsample.pixel_shuffle(x, scale)


def _torch_shuffle(x: NDArray[Any], scale: int) -> Callable[[], Any]:
    functional, tensor = _torch(x)
    return lambda: functional.pixel_shuffle(tensor, scale)


def _torch_pool(x: NDArray[Any], scale: int) -> Callable[[], Any]:
    functional, tensor = _torch(x)
    return lambda: functional.max_pool2d(tensor, scale, return_indices=True)


def _unpool(x: NDArray[Any], scale: int) -> Callable[[], Any]:
    values, indices = upsample.max_pool2d(x, scale)
    return lambda: upsample.max_unpool2d(values, indices, scale)


def _torch_unpool(x: NDArray[Any], scale: int) -> Callable[[], Any]:
    functional, values, indices = _torch(*upsample.max_pool2d(x, scale))
    return lambda: functional.max_unpool2d(values, indices, scale)


OPERATORS = {
    "nearest": _interpolated("nearest"),
    "bilinear": _interpolated("bilinear", False),
    "bilinear-aligned": _interpolated("bilinear", True),
    "bicubic": _interpolated("bicubic", False),
    "bicubic-aligned": _interpolated("bicubic", True),
    "bed_of_nails": Operator(lambda x, scale: lambda: upsample.bed_of_nails(x, scale), _torch_nails),
    "pixel_shuffle": Operator(_shuffle, _torch_shuffle, (2, 3), more_channels=True),
    "max_pool2d": Operator(lambda x, scale: lambda: upsample.max_pool2d(x, scale), _torch_pool),
    "max_unpool2d": Operator(_unpool, _torch_unpool),
}


def cases() -> Iterator[Case]:
    """Every operator, scale and size whose output is not too large."""
    for name, operator in OPERATORS.items():
        for scale in operator.scales:
            for size in SIZES:
                if 4 * prod(map(int, size.split("x"))) * scale**2 <= MOST_BYTES:
                    yield Case(name, size, scale)


def measure(path: Path, threads: int, budget: float) -> None:
    """Append a row per side and case to a file, from a process of its own; cases that it holds are skipped.

    Args:
        path: JSON lines.
        threads: for each side.
        budget: seconds of rounds per case.

    Raises:
        ValueError: PyTorch is not installed.
        ChildProcessError: the process failed; its last line.
    """
    from tconv_bench.workers import ALLOCATOR

    try:
        version("torch")
    except PackageNotFoundError:
        raise ValueError("PyTorch, which the operators are compared with, is not installed; README.md says how") from None
    store.check_writable(path)
    environment = os.environ | ALLOCATOR | {name: str(threads) for name in _THREADS}
    command = [sys.executable, "-m", "tconv_bench.upsample_comparison", str(path), str(budget)]
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise ChildProcessError(
            done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"ended with {done.returncode}"
        )


def _measure_here(path: Path, budget: float) -> None:
    import torch

    torch.set_num_threads(machine.threads())
    known = {row.problem for row in store.read(path)}
    common = Measurement(
        suite=SUITE,
        label="",
        problem="",
        method="",
        threads=machine.threads(),
        machine=machine.facts(),
        versions=machine.versions() | {"torch": version("torch")},
        commit=machine.commit(),
        mode="one-shot",
        cache="hot",
        settings={"budget": budget, "output": "fresh"},
    )
    for case in cases():
        if str(case) not in known:
            store.append_all(path, _compared(case, common, budget))
            print(case, flush=True)


def _compared(case: Case, common: Measurement, budget: float) -> list[Measurement]:
    calls = {OURS: case.ours(), TORCH: case.torch()}
    row = replace(common, label=str(case), problem=str(case), group=f"{store.utc_now()} {case}", measured_at=store.utc_now())
    rows = {name: replace(row, method=name, peer=name == TORCH) for name in calls}
    wrong = difference(calls[OURS](), case.torch("float64")())
    if wrong:
        return [replace(rows[OURS], note=f"wrong result: {wrong}"), rows[TORCH]]
    samples = _rounds(calls, budget)
    return [replace(rows[name], **store.timing_fields(samples[name])) for name in calls]


def difference(ours: Any, theirs: Any) -> str:
    """How our results differ from PyTorch's beyond rounding; "" where they don't."""
    pairs = zip(ours, theirs) if isinstance(ours, tuple) else [(ours, theirs)]
    for own, other in ((own, tensor.numpy()) for own, tensor in pairs):
        if own.shape != other.shape:
            return f"shape is {own.shape} instead of {other.shape}"
        largest = float(np.abs(own - other).max())
        if not largest <= CLOSE * float(np.abs(other).max()):
            return f"differs by {largest:.3g}"
    return ""


def _rounds(calls: dict[str, Callable[[], Any]], budget: float) -> dict[str, list[float]]:
    """Seconds per call of each side, one sample per round."""
    from tconv_bench.measure import calls_per_sample
    from tconv_bench.worker import Warmed, wait_until_quiet

    warm = {name: Warmed(call) for name, call in calls.items()}
    counts = {name: calls_per_sample(call, SAMPLE_SECONDS) for name, call in calls.items()}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    end, rounds = perf_counter() + budget, 0
    while rounds < LEAST_ROUNDS or perf_counter() < end:
        for name in random.sample(list(calls), len(calls)):
            call, count = calls[name], counts[name]
            warm[name]()
            start = perf_counter()
            for _ in range(count):
                call()
            samples[name].append((perf_counter() - start) / count)
            wait_until_quiet()
        rounds += 1
    return samples


def table(rows: list[Measurement]) -> str:
    """Markdown: a line per operator and scale with PyTorch's time / ours and our time per size; below it, where.

    Raises:
        ValueError: no row of ours beside one of PyTorch.
    """
    found = {(row.problem, row.method): row for row in rows if row.suite == SUITE and row.median}
    ratios = {
        case: found[str(case), TORCH].median / found[str(case), OURS].median  # type: ignore[operator]
        for case in cases()
        if {(str(case), OURS), (str(case), TORCH)} <= set(found)
    }
    if not ratios:
        raise ValueError("there is no row of an up-sampling operator of this project beside one of PyTorch")
    sizes = [size for size in SIZES if any(case.size == size for case in ratios)]
    lines = [["operator", "scale", *sizes, "mean"], ["---", "---:"] + ["---:"] * (len(sizes) + 1)]
    for operator, scale in dict.fromkeys((case.operator, case.scale) for case in ratios):
        own = {case.size: ratio for case, ratio in ratios.items() if (case.operator, case.scale) == (operator, scale)}
        cells = [_cell(own[size], found[f"{operator} {size} x{scale}", OURS]) if size in own else units.NONE for size in sizes]
        lines.append([f"`{operator}`", str(scale), *cells, units.times(geometric_mean(own.values()))])
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", *_notes(ratios, list(found.values()))])


def _cell(ratio: float, row: Measurement) -> str:
    return f"{units.times(ratio)} ({units.seconds(row.median)})"


def _notes(ratios: dict[Case, float], rows: list[Measurement]) -> list[str]:
    below = ", ".join(f"{case} {ratio:.2f}" for case, ratio in sorted(ratios.items(), key=lambda item: item[1]) if ratio < 1)
    first = rows[0]
    dates = sorted({row.measured_at[:10] for row in rows})
    facts = [
        first.machine.get("cpu", ""),
        f"{first.threads} threads",
        f"PyTorch {first.versions.get('torch', '')}",
        " to ".join(dict.fromkeys([dates[0], dates[-1]])),
        f"commit {first.commit[:12]}",
    ]
    return [
        "PyTorch's time / ours, above 1 this project is faster; in brackets ours: a whole call with a fresh output, float32,",
        f"hot caches, medians of interleaved samples. The mean is geometric. Below 1: {below or 'none'}.",
        f"{', '.join(fact for fact in facts if fact)}.",
    ]


if __name__ == "__main__":
    _measure_here(Path(sys.argv[1]), float(sys.argv[2]))
