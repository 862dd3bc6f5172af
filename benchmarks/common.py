"""What the suite's files share: profiles, grids of problems, and the three things that are measured on each of them.

A grid's first parameter is a problem's text form, or a template of it that the other parameters fill, so that stored results
describe themselves. The variant is the last parameter: rivals run back to back.

``TCONV_BENCH_PROFILE`` (quick, standard or full; standard by default) chooses how many problems and samples;
``TCONV_BENCH_LAYERS`` names a layers file to take instead of layers.csv.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from tconv_bench import layers, measure, registry, store
from tconv_bench.problem import Problem


@dataclass(frozen=True)
class Profile:
    """How much is measured: sampling of the run time, and the values of each grid."""

    rounds: int  # processes per run time
    repeat: tuple[int, int, float]  # least samples, most samples, seconds
    warmup: float  # seconds
    startup_samples: int
    compilation: bool  # measure the compilation of each variant's kernels, several seconds each
    state_limit: int  # bytes of prepared state above which a combination is left out
    layers: Sequence[str] | None  # labels; None: all
    sizes: Sequence[int]
    channels: Sequence[int]
    kernels: Sequence[int]
    strides: Sequence[int]
    paddings: Sequence[int]


QUICK_LAYERS = (
    "DCGAN g2",
    "DCGAN g5",
    "pix2pix-UNet256 up3",
    "FCN-8s up2",
    "FSRCNN x2",
    "StyleGAN2 up8",
    "VQ-VAE-2 out",
    "CenterNet-DLA dw64",
    "SAM up2",
    "WaveGAN g5",
    "HiFi-GAN-V1 u4",
    "nnU-Net up7",
    "Decoder-s1 3x3",
    "Tiny 8x8",
)

PROFILES = {
    "quick": Profile(
        1, (6, 30, 0.3), 0.02, 1, True, 600_000_000, QUICK_LAYERS, (8, 16, 32, 64, 128), (4, 16, 64, 256),
        (2, 3, 4, 5, 9), (1, 2, 3, 4), (0, 1, 2, 3),
    ),
    "standard": Profile(
        2, (6, 30, 1.0), 0.1, 3, True, 4_000_000_000, None, (8, 16, 32, 64, 128, 256), (1, 3, 8, 16, 32, 64, 128, 256, 512),
        (1, 2, 3, 4, 5, 7, 9, 16), (1, 2, 3, 4), (0, 1, 2, 3),
    ),
    "full": Profile(
        4, (6, 50, 3.0), 0.2, 6, True, sys.maxsize, None, (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256),
        (1, 2, 3, 4, 8, 12, 16, 24, 32, 64, 96, 128, 256, 512), (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 16),
        (1, 2, 3, 4), (0, 1, 2, 3),
    ),
}  # fmt: skip


def chosen_profile() -> str:
    """The profile that ``TCONV_BENCH_PROFILE`` names; ValueError lists the valid names."""
    name = os.environ.get("TCONV_BENCH_PROFILE", "standard")
    if name not in PROFILES:
        raise ValueError(f"TCONV_BENCH_PROFILE is {name!r}, valid profiles are {', '.join(PROFILES)}")
    return name


PROFILE = PROFILES[chosen_profile()]
VARIANTS = registry.methods("cpu")


def layer_grid() -> tuple[list[list[Any]], list[str]]:
    """params and param_names: layers (label and problem in one text) x variants."""
    path = os.environ.get("TCONV_BENCH_LAYERS")
    rows = layers.read(path) if path else layers.read(Path(__file__).with_name("layers.csv"))
    if not path and PROFILE.layers is not None:
        rows = [row for row in rows if row.label in PROFILE.layers]
    return grid([f"{row.label} {row.problem}" for row in rows])


def grid(problems: str | Sequence[str], **axes: Sequence[int]) -> tuple[list[list[Any]], list[str]]:
    """params and param_names: a template, the axes that fill it, and the variants; or a list of problems and the variants."""
    first = [problems] if isinstance(problems, str) else list(problems)
    return [first, *map(list, axes.values()), list(VARIANTS)], ["problem", *axes, "variant"]


def left_out(problem: Problem, variant: registry.Variant) -> str:
    """Why a combination is not measured: the sentence of ``supports``, or the profile's limit; "" where it is."""
    answer = variant.supports(problem)
    if answer is not True:
        return answer
    size = variant.prepared_bytes(problem)
    if size > PROFILE.state_limit:
        return f"left out of the {chosen_profile()} profile: its prepared state would take {size / 1e9:.2g} GB"
    return ""


class _Combination:
    """One parameter combination; asv calls ``setup`` before each sample, the work is done before the first."""

    params: Sequence[Sequence[Any]] = ()
    param_names: Sequence[str] = ()
    _values: tuple[Any, ...] = ()

    def setup(self, *values: Any) -> None:
        if values != self._values:
            _, text, method = store.describe(values, self.param_names[1:-1])
            problem, variant = Problem.parse(text), registry.get(method)
            reason = left_out(problem, variant)
            if reason:
                raise NotImplementedError(reason)
            self.make_ready(problem, variant)
            self._values = values

    def make_ready(self, problem: Problem, variant: registry.Variant) -> None:
        raise NotImplementedError


class _Timed:
    """Seconds per call. A sample has as many calls as ``setup`` counts."""

    # asv_runner times single calls wherever a setup exists: a sample repeats short calls itself, on a clock that runs
    # slower by the same factor.
    number = 1
    rounds = PROFILE.rounds
    repeat = PROFILE.repeat
    warmup_time = PROFILE.warmup
    calls = 1

    def timer(self) -> float:
        return perf_counter() / self.calls


class _Whole(_Timed):
    """Whole calls with fresh results: one parameter, the text of what ``made_ready`` turns into a call."""

    _text = ""

    def setup(self, text: str) -> None:
        if text != self._text:
            self.call = self.made_ready(text)
            self.calls = measure.calls_per_sample(self.call)
            self._text = text

    def made_ready(self, text: str) -> Callable[[], Any]:
        raise NotImplementedError

    def time_call(self, text: str) -> None:
        call = self.call
        for _ in range(self.calls):
            call()


class _Run(_Timed, _Combination):
    """Of a result that was checked; kernels compiled and weights prepared before."""

    def make_ready(self, problem: Problem, variant: registry.Variant) -> None:
        case = measure.make_case(problem, variant.name)
        case.run()
        reason = measure.wrong(problem, case.data, case.out, variant.name)
        if reason:
            raise AssertionError(f"wrong result: {reason}")
        self.run, self.calls = case.run, measure.calls_per_sample(case.run)

    def time_run(self, *values: Any) -> None:
        run = self.run
        for _ in range(self.calls):
            run()


class _Prepare(_Combination):
    """Seconds of a first preparation (packed weights, the matrix), kernels compiled before."""

    number = 1
    repeat = 1
    warmup_time = 0
    min_run_count = 1
    rounds = PROFILE.rounds

    def make_ready(self, problem: Problem, variant: registry.Variant) -> None:
        self.problem, self.variant = problem, variant
        measure.compile_for(problem, variant)
        self.data = measure.make_data(problem)
        variant.forget()

    def time_prepare(self, *values: Any) -> None:
        self.state = self.variant.prepare(self.problem, self.data.weight, self.data.bias)


class _Prepared(_Combination):
    """Bytes that a prepared state keeps, by the variant's own count, which the tests weigh against its arrays."""

    unit = "bytes"

    def make_ready(self, problem: Problem, variant: registry.Variant) -> None:
        self.bytes = variant.prepared_bytes(problem)

    def track_prepared_bytes(self, *values: Any) -> int:
        return self.bytes


class _Workspace(_Combination):
    """Bytes that a call allocates at its peak beyond input, state and output (traced, never while timing)."""

    unit = "bytes"

    def make_ready(self, problem: Problem, variant: registry.Variant) -> None:
        self.run = measure.make_case(problem, variant.name).run

    def track_workspace_bytes(self, *values: Any) -> int:
        return measure.traced_peak(self.run)


def _warm_fork_server() -> None:
    """Load every variant's kernels before asv's fork server forks, where threads survive that: with TBB only."""
    if sys.argv[1:2] == ["run_server"] and measure.threads_survive_fork():
        twin = measure.small_twin(Problem(1, 1, (4, 4), 1, 3))
        for name in VARIANTS:
            measure.compile_for(twin, registry.get(name))


_warm_fork_server()
