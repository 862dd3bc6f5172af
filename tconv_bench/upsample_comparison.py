"""The up-sampling operators beside PyTorch's: what is timed, how, and the table made of the rows.

Both sides take turns as ``beside_torch`` says. A result that is not PyTorch's in float64 within rounding has no time: in
float32 its coordinates are wrong in the fifth digit. Rows are Measurements whose ``problem`` is the case's text.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tconv_bench import beside_torch, units, upsample
from tconv_bench.beside_torch import OURS, TORCH, Calls, Entry
from tconv_bench.plots.rows import geometric_mean
from tconv_bench.store import Measurement

SUITE = TABLE = "upsample"
SIZES: tuple[str, ...] = (
    "1x1x8x8", "1x64x8x8", "1x512x4x4", "8x64x16x16", "1x64x64x64", "1x3x256x256", "1x32x128x128", "16x3x256x256",
    "1x3x1024x1024",
)  # fmt: skip
LINES = ("1x1x64", "1x64x100", "1x512x16", "8x64x1000", "1x80x20000", "1x1x100000")
VOLUMES = ("1x1x4x4x4", "1x64x4x4x4", "1x320x4x5x4", "1x32x16x16x16", "1x1x64x64x64", "2x16x32x32x32")
LAYERS = ("1x3x64x64", "1x64x8x8", "1x64x32x32", "4x32x32x32", "1x256x16x16", "1x512x8x8")
MOST_BYTES = 2**26  # of an output
CLOSE = 1e-6  # of the largest value: some ten roundings
CLOSE_SUMS = 2e-5  # the same of a convolution's sums
ROUNDED = 0.501  # a byte from what it is rounded from

Make = Callable[[NDArray[Any], int], Callable[[], Any]]


@dataclass(frozen=True)
class Operator:
    """``ours(x, scale)`` and ``torch(x, scale)`` give what to call; pixel shuffle takes ``scale**2`` times the channels.

    With ``innermost`` channels both sides take and give images whose channels are innermost in memory.
    """

    ours: Make
    torch: Make
    scales: tuple[int, ...] = (2,)
    more_channels: bool = False
    sizes: tuple[str, ...] = SIZES
    dtype: str = "float32"
    innermost: bool = False
    close: float = CLOSE


@dataclass(frozen=True)
class Case:
    """An operator on a size."""

    operator: str
    size: str
    scale: int

    def __str__(self) -> str:
        return f"{self.operator} {self.size} x{self.scale}"

    def data(self) -> NDArray[Any]:
        """Values of the size, standard normal or bytes; the same in every process."""
        operator = OPERATORS[self.operator]
        n, c, *pixels = map(int, self.size.split("x"))
        shape = (n, c * self.scale**2 if operator.more_channels else c, *pixels)
        rng = np.random.default_rng(20160323)
        if operator.dtype == "uint8":
            x: NDArray[Any] = rng.integers(0, 256, shape, np.uint8)
        else:
            x = rng.standard_normal(shape, np.float32)
        return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1) if operator.innermost else x

    def ours(self) -> Callable[[], Any]:
        """What computes the case once."""
        return OPERATORS[self.operator].ours(self.data(), self.scale)

    def torch(self, dtype: str = "float32") -> Callable[[], Any]:
        """What lets PyTorch compute it once."""
        x = self.data()
        return OPERATORS[self.operator].torch(x if dtype == "float32" else x.astype(dtype), self.scale)


def _interpolated(name: str, aligned: bool | None = None, mode: str = "", **more: Any) -> Operator:
    given = {} if aligned is None else {"align_corners": aligned}

    def ours(x: NDArray[Any], scale: int) -> Callable[[], Any]:
        function, scales = getattr(upsample, name), (scale,) * (x.ndim - 2)
        return lambda: function(x, scales, **given)

    def torch(x: NDArray[Any], scale: int) -> Callable[[], Any]:
        functional, tensor = _torch(x)
        return lambda: functional.interpolate(tensor, scale_factor=scale, mode=mode or name, **given)

    return Operator(ours, torch, **more)


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


def _pooling(kernel: int, stride: int, padding: int, **more: Any) -> Operator:
    def torch(x: NDArray[Any], scale: int) -> Callable[[], Any]:
        functional, tensor = _torch(x)
        return lambda: functional.max_pool2d(tensor, kernel, stride, padding, return_indices=True)

    return Operator(lambda x, scale: lambda: upsample.max_pool2d(x, kernel, stride, padding), torch, **more)


def _convolved(mode: str) -> Operator:
    """Resize, then convolve 3x3 from as many channels to as many."""

    def weight(x: NDArray[Any]) -> NDArray[Any]:
        return np.random.default_rng(1).standard_normal((x.shape[1], x.shape[1], 3, 3)).astype(x.dtype)

    def ours(x: NDArray[Any], scale: int) -> Callable[[], Any]:
        own = weight(x)
        return lambda: upsample.resize_convolve(x, own, None, scale, mode)

    def torch(x: NDArray[Any], scale: int) -> Callable[[], Any]:
        functional, tensor, own = _torch(x, weight(x).astype(np.float32).astype(x.dtype))
        given = {} if mode == "nearest" else {"align_corners": False}
        return lambda: functional.conv2d(functional.interpolate(tensor, scale_factor=scale, mode=mode, **given), own, padding=1)

    return Operator(ours, torch, sizes=LAYERS, close=CLOSE_SUMS)


def _unpool(x: NDArray[Any], scale: int) -> Callable[[], Any]:
    values, indices = upsample.max_pool2d(x, scale)
    return lambda: upsample.max_unpool2d(values, indices, scale)


def _torch_unpool(x: NDArray[Any], scale: int) -> Callable[[], Any]:
    functional, values, indices = _torch(*upsample.max_pool2d(x, scale))
    return lambda: functional.max_unpool2d(values, indices, scale)


_SCALES: dict[str, Any] = {"scales": (2, 3, 4, 8)}
_BYTES: dict[str, Any] = {"dtype": "uint8"}
_INNER: dict[str, Any] = {"innermost": True}
OPERATORS = {
    "nearest": _interpolated("nearest", **_SCALES),
    "bilinear": _interpolated("bilinear", False, **_SCALES),
    "bilinear-aligned": _interpolated("bilinear", True, **_SCALES),
    "bicubic": _interpolated("bicubic", False, **_SCALES),
    "bicubic-aligned": _interpolated("bicubic", True, **_SCALES),
    "bed_of_nails": Operator(lambda x, scale: lambda: upsample.bed_of_nails(x, scale), _torch_nails),
    "pixel_shuffle": Operator(_shuffle, _torch_shuffle, (2, 3), more_channels=True),
    "max_pool2d": _pooling(2, 2, 0),
    "max_pool2d-3x3": _pooling(3, 2, 1),
    "max_unpool2d": Operator(_unpool, _torch_unpool),
    "nearest-bytes": _interpolated("nearest", **_BYTES),
    "bilinear-bytes": _interpolated("bilinear", False, **_BYTES),
    "bicubic-bytes": _interpolated("bicubic", False, **_BYTES),
    "nearest-innermost": _interpolated("nearest", **_INNER),
    "bilinear-innermost": _interpolated("bilinear", False, **_INNER),
    "bilinear-aligned-innermost": _interpolated("bilinear", True, **_INNER),
    "bicubic-innermost": _interpolated("bicubic", False, **_INNER),
    "pixel_shuffle-innermost": Operator(_shuffle, _torch_shuffle, more_channels=True, **_INNER),
    "max_pool2d-innermost": _pooling(2, 2, 0, **_INNER),
    "max_pool2d-3x3-innermost": _pooling(3, 2, 1, **_INNER),
    "max_unpool2d-innermost": Operator(_unpool, _torch_unpool, **_INNER),
    "bilinear-bytes-innermost": _interpolated("bilinear", False, **_BYTES, **_INNER),
    "nearest-1d": _interpolated("nearest", sizes=LINES),
    "linear": _interpolated("bilinear", False, "linear", sizes=LINES),
    "nearest-3d": _interpolated("nearest", sizes=VOLUMES),
    "trilinear": _interpolated("bilinear", False, "trilinear", sizes=VOLUMES),
    "trilinear-innermost": _interpolated("bilinear", False, "trilinear", sizes=VOLUMES, **_INNER),
    "resize_convolve-nearest": _convolved("nearest"),
    "resize_convolve-bilinear": _convolved("bilinear"),
}


def cases() -> Iterator[Case]:
    """Every operator, scale and size whose output is not too large."""
    for name, operator in OPERATORS.items():
        for scale in operator.scales:
            for size in operator.sizes:
                sizes = [int(number) for number in size.split("x")]
                if 4 * prod(sizes) * scale ** (len(sizes) - 2) <= MOST_BYTES:
                    yield Case(name, size, scale)


def entries() -> Iterator[Entry]:
    """Every case."""
    for case in cases():
        yield Entry(str(case), str(case), partial(_calls, case), partial(_wrong, case))


def _calls(case: Case) -> Calls:
    return {OURS: case.ours(), TORCH: case.torch()}


def _wrong(case: Case, calls: Calls) -> str:
    return difference(calls[OURS](), case.torch("float64")(), OPERATORS[case.operator].close)


def measure(path: Path, threads: int, budget: float) -> None:
    """``beside_torch.measure`` of the cases."""
    beside_torch.measure(__name__, path, threads, budget)


def difference(ours: Any, theirs: Any, close: float = CLOSE) -> str:
    """How our results differ from PyTorch's beyond rounding; "" where they don't."""
    pairs = zip(ours, theirs) if isinstance(ours, tuple) else [(ours, theirs)]
    for own, other in ((own, tensor.numpy()) for own, tensor in pairs):
        if own.shape != other.shape:
            return f"shape is {own.shape} instead of {other.shape}"
        is_rounded = own.dtype == np.uint8
        right = np.clip(other, 0, 255) if is_rounded else other
        largest = float(np.abs(own - right).max())
        if not largest <= (ROUNDED if is_rounded else close * float(np.abs(right).max())):
            return f"differs by {largest:.3g}"
    return ""


def speed_ups(rows: list[Measurement]) -> dict[Case, float]:
    """PyTorch's time / ours per case that has both.

    Raises:
        ValueError: no row of ours beside one of PyTorch.
    """
    found = {(row.problem, row.method): row.median for row in rows if row.suite == SUITE and row.median}
    keys = {case: ((str(case), OURS), (str(case), TORCH)) for case in cases()}
    ratios = {case: found[theirs] / found[ours] for case, (ours, theirs) in keys.items() if {ours, theirs} <= set(found)}
    if not ratios:
        raise ValueError("there is no row of an up-sampling operator of this project beside one of PyTorch")
    return ratios


def table(rows: list[Measurement]) -> str:
    """Markdown: tables of images, lines, volumes and layers, a line per operator and scale with PyTorch's time / ours and our
    time per size; below them, where.

    Raises:
        ValueError: no row of ours beside one of PyTorch.
    """
    found = {(row.problem, row.method): row for row in rows if row.suite == SUITE and row.median}
    ratios = speed_ups(rows)
    parts = []
    for group in (SIZES, LINES, VOLUMES, LAYERS):
        sizes = [size for size in group if any(case.size == size and _sizes(case) == group for case in ratios)]
        lines = [["operator", "scale", *sizes, "mean"], ["---", "---:"] + ["---:"] * (len(sizes) + 1)]
        for operator, scale in dict.fromkeys((case.operator, case.scale) for case in ratios if _sizes(case) == group):
            own = {case.size: ratio for case, ratio in ratios.items() if (case.operator, case.scale) == (operator, scale)}
            cells = [
                _cell(own[size], found[f"{operator} {size} x{scale}", OURS]) if size in own else units.NONE for size in sizes
            ]
            lines.append([f"`{operator}`", str(scale), *cells, units.times(geometric_mean(own.values()))])
        if sizes:
            parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join([*parts, "\n".join(_notes(ratios, list(found.values())))])


def _sizes(case: Case) -> tuple[str, ...]:
    return OPERATORS[case.operator].sizes


def _cell(ratio: float, row: Measurement) -> str:
    return f"{units.times(ratio)} ({units.seconds(row.median)})"


def _notes(ratios: dict[Case, float], rows: list[Measurement]) -> list[str]:
    below = ", ".join(f"{case} {ratio:.2f}" for case, ratio in sorted(ratios.items(), key=lambda item: item[1]) if ratio < 1)
    return [
        "PyTorch's time / ours, above 1 this project is faster; in brackets ours: a whole call with a fresh output, float32 or",
        "bytes, hot caches, medians of interleaved samples; innermost: both sides take and give images whose channels are",
        f"innermost in memory. The mean is geometric. Below 1: {below or 'none'}.",
        beside_torch.where(rows),
    ]


if __name__ == "__main__":
    beside_torch.measure_here(SUITE, entries(), Path(sys.argv[1]), float(sys.argv[2]))
