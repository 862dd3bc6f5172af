"""A stand-in for the GPU: the same operations in NumPy on problems made small, with invented times on a clock of its own.

A dry run goes through all that a real one does, checks included. Nothing is measured: every time comes from ``seconds_of``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tconv_bench import machine, reference, registry
from tconv_bench.gpu_check import kernels
from tconv_bench.gpu_check.lab import Entrant, Sample
from tconv_bench.problem import Problem

NAME = "no GPU: a stand-in, its times invented"
LIMITS = {"float32": 20e12, "float64": 10e12}
BANDWIDTH, L2_BYTES, L2_BANDWIDTH = 1e12, 2**25, 3e12
EFFICIENCY = {
    "phase": 0.7, "col2im": 0.3, "zero_insertion": 0.12, "direct": 0.05, "scatter_add": 0.03, "scatter_add_deterministic": 0.02,
    "matmul": 0.01, "cudnn": 0.62, "cudnn-channels_last": 0.66, "cudnn-tf32": 1.6, "cudnn-channels_last-tf32": 2.2,
}  # fmt: skip
START = 4e-6  # seconds of the shortest call


class Clock:
    """Seconds that pass only when told to; at ``interrupt_at`` it presses Ctrl-C, once."""

    def __init__(self, interrupt_at: float | None = None):
        self.now, self.interrupt_at = 0.0, interrupt_at

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        if self.interrupt_at is not None and self.now >= self.interrupt_at:
            self.interrupt_at = None
            raise KeyboardInterrupt


@dataclass(frozen=True)
class Trouble:
    """What goes wrong in a rehearsal. Problems are named by their text."""

    slow: float = 1.0  # every kernel's time is multiplied
    compile_seconds: float = 0.5  # of a kernel
    search_seconds: float = 0.1  # in which cuDNN picks an algorithm
    memory: int = 24 * 2**30
    broken: frozenset[str] = frozenset()  # methods that do not compile
    wrong: frozenset[str] = frozenset()  # methods with a wrong result
    no_cudnn: str = ""  # why it can't take part
    cudnn_fails: bool = False
    hangs: frozenset[tuple[str, str]] = frozenset()  # (method, problem): never ends
    dies: frozenset[tuple[str, str]] = frozenset()  # leaves a device that answers nothing
    full: frozenset[tuple[str, str]] = frozenset()  # out of memory
    data_fails: frozenset[str] = frozenset()


@dataclass
class StandIn:
    """The operations of ``device.Gpu``, with no GPU."""

    clock: Clock = field(default_factory=Clock)
    trouble: Trouble = field(default_factory=Trouble)
    dead: bool = False
    asked: Problem | None = None

    def facts(self) -> dict[str, Any]:
        """Facts that nobody takes for a GPU's."""
        memory = {"l2_bytes": L2_BYTES, "gpu_bytes": self.trouble.memory, "driver_version": "none", "clocks_sm": "0"}
        return {**machine.facts(), "gpu": NAME, "capability": "0.0", "processors": 0, **memory}

    def versions(self) -> dict[str, str]:
        """The package's."""
        return dict(machine.versions())

    def cudnn(self) -> str:
        """What the trouble says."""
        return self.trouble.no_cudnn

    def rehearsed(self, problem: Problem) -> Problem:
        """A problem small enough for the definition, of the same stride, dilation and number of axes."""
        self.asked = problem
        groups = min(problem.groups, 2)
        kernel = tuple(min(k, 3) for k in problem.kernel)
        size = tuple(min(i, 3) for i in problem.in_size)
        small: dict[str, Any] = {"batch": min(problem.batch, 2), "c_in": 2 * groups, "c_out": 3 * groups, "groups": groups}
        extra = tuple(min(e, max(s, d) - 1) for e, s, d in zip(problem.output_padding, problem.stride, problem.dilation))
        return replace(problem, in_size=size, kernel=kernel, padding=0, output_padding=extra, **small)

    def free_bytes(self) -> int:
        """All of the memory: nothing is held."""
        return self.trouble.memory

    def release(self) -> None:
        """Nothing is held."""

    def synchronize(self) -> None:
        """A dead device says so."""
        if self.dead:
            raise RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS")

    def empty(self, count: int, dtype: str) -> Any:
        """An array."""
        return np.empty(count, dtype)

    def download(self, array: Any) -> NDArray[Any]:
        """The array."""
        copy: NDArray[Any] = np.array(array)
        return copy

    def compile(self, wanted: Any, dtype: str) -> None:
        """Time passes for each kernel; a broken method's raises."""
        for kernel in wanted:
            if kernel == "broken":
                raise RuntimeError("NvvmError: a kernel that does not compile")
            self.clock.advance(self.trouble.compile_seconds)

    def kernels_of(self, method: str) -> Sequence[Any]:
        """A kernel or two."""
        return ["broken"] if method in self.trouble.broken else [method, method]

    def noise(self, count: int, seed: int, dtype: str) -> Any:
        """As on the device."""
        return kernels.noise(count, seed, dtype)

    def poison(self, values: Any, dtype: str) -> None:
        """NaN everywhere."""
        values.fill(np.nan)

    def fold(
        self, values: Any, dtype: str, shape: tuple[int, int, int], weights: NDArray[Any], *, squares: bool = False
    ) -> Any:
        """As on the device."""
        wide = values.astype(np.float64).reshape(shape)
        return np.einsum("abp,b->ap", wide**2 if squares else wide, weights).reshape(-1)

    def own(self, method: str, problem: Problem, x: Any, weight: Any, bias: Any, out: Any) -> Entrant:
        """The definition in place of a kernel."""

        def result(value: Any) -> Any:
            out[:] = self._computed(method, problem, x, weight, bias)
            return out

        needed = {"prepare_seconds": 1e-3, "prepared_bytes": weight.nbytes, "output": "given"}
        return Entrant(self._call(method), result, needed)

    def needs(self, method: str, problem: Problem) -> int:
        """What the kernels' own estimate says."""
        variant = registry.get(method, "cuda")
        return int(variant.prepared_bytes(problem) + variant.workspace_bytes(problem))

    def peer(self, name: str, problem: Problem, x: Any, weight: Any, bias: Any) -> Entrant:
        """The definition in place of cuDNN."""
        if self.trouble.cudnn_fails:
            raise RuntimeError("CUDNN_STATUS_NOT_SUPPORTED")
        self.clock.advance(self.trouble.search_seconds * self.trouble.slow)
        layout = "channels-last" if "channels_last" in name else "channels-first"
        facts = {"prepare_seconds": self.trouble.search_seconds, "output": "fresh", "layout": layout}
        return Entrant(self._call(name), lambda value: self._computed(name, problem, x, weight, bias), facts)

    def _computed(self, method: str, problem: Problem, x: Any, weight: Any, bias: Any) -> Any:
        arrays = x.reshape(problem.x_shape), weight.reshape(problem.weight_shape), bias
        found = reference.conv_transpose(problem, *arrays).astype(problem.dtype).reshape(-1)
        if method in self.trouble.wrong:
            found[-1] += 1
        return found

    def _call(self, method: str) -> Callable[[], Any]:
        """A call whose time passes where it is waited for."""
        assert self.asked is not None
        problem, key = self.asked, (method, str(self.asked))

        def call() -> float:
            if key in self.trouble.dies:
                self.dead = True
                self.synchronize()
            if key in self.trouble.full:
                raise MemoryError("CUDA_ERROR_OUT_OF_MEMORY")
            return 1e9 if key in self.trouble.hangs else self.trouble.slow * seconds_of(method, problem)

        return call

    def time(self, call: Callable[[], Any]) -> tuple[float, Any]:
        """The invented time, which passes."""
        seconds = call()
        self.clock.advance(seconds)
        return seconds, seconds

    def sample(self, call: Callable[[], Any]) -> Sample:
        """The invented time with a little luck, and that of flushing."""
        seconds = call() * (1 + 0.01 * random.Random(f"{self.clock.now}").random())
        self.clock.advance(seconds + 5e-4)
        return Sample(seconds, False)

    def begin(self) -> None:
        """Nothing to find out."""

    def peak(self, call: Callable[[], Any], problem: Problem, *, peer: bool) -> tuple[int | None, str]:
        """Some bytes, invented like the times."""
        self.clock.advance(call())
        assert self.asked is not None
        return (1 if peer else 0) * self.asked.min_bytes // 3, "nobody"

    def fma_peak(self, dtype: str) -> float:
        """Invented."""
        self.clock.advance(0.2)
        return LIMITS[dtype] / self.trouble.slow

    def bandwidth(self, kind: str, working_set: int) -> float:
        """Invented."""
        self.clock.advance(0.05)
        return (L2_BANDWIDTH if working_set <= L2_BYTES else BANDWIDTH) / self.trouble.slow


def seconds_of(method: str, problem: Problem) -> float:
    """Seconds that nobody measured: a roofline at the method's efficiency, with some luck for each layer."""
    luck = random.Random(f"{method} {problem}").uniform(0.75, 1.2)
    wide = min(1.0, 0.2 + problem.c_out / problem.groups / 128) * min(1.0, 0.3 + prod(problem.out_shape) / 4e5)
    arithmetic = problem.flops / (LIMITS["float32"] * EFFICIENCY.get(method, 0.05) * wide)
    return START + luck * max(arithmetic, 1.2 * problem.min_bytes / BANDWIDTH)
