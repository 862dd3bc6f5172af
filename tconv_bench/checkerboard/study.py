"""What training leaves of the pattern, per operator, kernel, stride and seed: measured once, stored as one line of JSON each.

``tconv-bench checkerboard-train`` measures what the stored rows lack; the figures and docs/checkerboards.md are made of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tconv_bench.checkerboard.spectra import Pattern, image_pattern, spectral_peak
from tconv_bench.checkerboard.training import (
    OPERATORS,
    Form,
    Weights,
    enlarged,
    flat_pattern,
    form,
    images,
    initial,
    shrunk,
    train,
)

STORED = Path(__file__).with_name("trained.jsonl")
STEPS, SEEDS = 1500, 3
WATCHED = (0, 10, 30, 100, 300, 700, 1500)
KERNELS, STRIDES = range(1, 10), (2, 3, 4)
CONVOLUTION = 3  # the kernel beside resizing and shuffling
_DIGITS = 7  # of a stored weight


class Case(NamedTuple):
    """One training."""

    operator: str
    kernel: int
    stride: int
    seed: int

    @property
    def form(self) -> Form:
        """How its kernel is made."""
        return form(self.operator, self.kernel, self.stride)


# shown with their outputs and spectra, so their weights are stored too
PICTURED = tuple(
    Case(operator, kernel, 2, 0)
    for operator, kernel in (("transposed", 3), ("transposed", 4), *((name, CONVOLUTION) for name in OPERATORS[1:]))
)


@dataclass(frozen=True)
class Row:
    """One training's results on the test images; ``weights`` of the pictured cases alone."""

    operator: str
    kernel: int
    stride: int
    seed: int
    ripples: tuple[float, ...]  # Pattern.ripple of flat areas after the steps WATCHED
    psnr: float  # dB, for a range of 1
    peak: float  # spectral_peak of the enlarged images, dB
    error_ripple: float  # standard deviation over the phases / mean of the squared error
    weights: dict[str, Any] | None = None

    @property
    def case(self) -> Case:
        """What was trained."""
        return Case(self.operator, self.kernel, self.stride, self.seed)

    def arrays(self) -> Weights:
        """The trained weights.

        Raises:
            ValueError: a row that stores none.
        """
        if self.weights is None:
            raise ValueError(f"the row of {self.case} stores no weights")
        return {name: np.asarray(value, np.float64) for name, value in self.weights.items()}


def cases(seeds: int = SEEDS) -> list[Case]:
    """Every training of the study: transposed convolutions of all kernels and strides, the others with a 3x3 convolution."""
    sizes = [("transposed", k, s) for s in STRIDES for k in KERNELS]
    sizes += [(operator, CONVOLUTION, s) for operator in OPERATORS[1:] for s in STRIDES]
    return [Case(*size, seed) for seed in range(seeds) for size in sizes]


def measure(case: Case, steps: int = STEPS) -> Row:
    """Train one case and test it."""
    ripples: list[float] = []

    def watch(step: int, weights: Weights) -> None:
        if step in WATCHED:
            ripples.append(_short(flat_pattern(case.form, weights).ripple))

    weights = train(case.form, case.seed, steps, watch)
    kept = {name: _rounded(value, _DIGITS) for name, value in weights.items()} if case in PICTURED else None
    psnr, peak, error_ripple = map(_short, tested(case, weights))
    return Row(*case, tuple(ripples), psnr, peak, error_ripple, kept)


def tested(case: Case, weights: Weights) -> tuple[float, float, float]:
    """Row's psnr, peak and error_ripple of given weights."""
    out = outputs(case, weights)
    error = (out - images(False)) ** 2
    psnr = float(-10 * np.log10(error.mean()))
    return psnr, spectral_peak(out, case.stride), image_pattern(error.mean(axis=0), case.stride).ripple


def outputs(case: Case, weights: Weights) -> NDArray[np.float64]:
    """The test images, shrunk and enlarged again."""
    return enlarged(case.form, weights, shrunk(images(False), case.stride))


def start(case: Case) -> Weights:
    """The weights that a case starts from."""
    return initial(case.form, case.seed)


def random_pattern(operator: str, kernel: int, stride: int, count: int) -> Pattern:
    """Flat areas' pattern of ``count`` networks before training, all together: near that of ``expected_spectrum``."""
    shape = form(operator, kernel, stride)
    return Pattern(np.concatenate([flat_pattern(shape, initial(shape, seed)).levels for seed in range(count)]))


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def _rounded(values: Any, digits: int) -> Any:
    return [_rounded(value, digits) for value in values] if np.ndim(values) else float(f"{values:.{digits}g}")


def read(path: Path = STORED) -> list[Row]:
    """Stored rows, those in the package if no other file is named; none where there is no file."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        values = json.loads(line)
        rows.append(Row(**{**values, "ripples": tuple(values["ripples"])}))
    return rows


def measure_missing(path: Path, seeds: int = SEEDS) -> Iterator[Row]:
    """Measure every case that the file has no row of, and add each row to it at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    known = {row.case for row in read(path)}
    for case in cases(seeds):
        if case not in known:
            row = measure(case)
            with path.open("a", encoding="utf-8", newline="\n") as file:
                values = {name: value for name, value in asdict(row).items() if value is not None}
                file.write(json.dumps(values, separators=(",", ":")) + "\n")
            yield row


def median_ripple(rows: Sequence[Row], operator: str, kernel: int, stride: int, watched: int = -1) -> float:
    """Over the seeds, after ``WATCHED[watched]`` steps.

    Raises:
        ValueError: no row of these.
    """
    found = [row.ripples[watched] for row in rows if row.case[:3] == (operator, kernel, stride)]
    if not found:
        raise ValueError(
            f"there is no row of {operator}, kernel {kernel}, stride {stride}; `tconv-bench checkerboard-train` makes them"
        )
    return float(np.median(found))
