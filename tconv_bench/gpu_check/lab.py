"""What happens in the process that has the device: a problem's data, entrants made ready and checked, samples, limits.

A request is an operation with its values, an answer a dict that JSON can hold. The check is that of ``tconv_bench.measure``,
its sums over images and output channels made on the device: a result of 16 GB is never copied to the host.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from time import perf_counter
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tconv_bench import jit_cuda, measure, reference, units
from tconv_bench.gpu_check import kernels
from tconv_bench.problem import Problem

WIDTH = 0.03  # of a median's 95 % interval, as a part of it, that ends the sampling
LEAST_SAMPLES, MOST_SAMPLES = 7, 20
REPEATED = 2.0  # seconds below which a first call is made once more, for its time
SPARE_BYTES = 2**28  # kept free for what others allocate
COPY_SETS = tuple(2**power for power in range(20, 31))
DTYPE = "float32"
LOST = "the device was lost"  # how the error begins after which its process has to be started anew
# What rounding explains beyond a float sum's: cuDNN may take Winograd's or Fourier's way, and TF32 has 10 bits of mantissa.
TOLERANCES = {"float32": 2.0**-15, "tf32": 2.0**-9}


class Sample(NamedTuple):
    """Seconds of a call on the device, and whether the device had to wait for the host."""

    seconds: float
    late: bool


@dataclass
class Entrant:
    """``call`` queues one computation and returns a value of which ``result`` makes device memory in the problem's order."""

    call: Callable[[], Any]
    result: Callable[[Any], Any]
    facts: dict[str, Any]


class Device(Protocol):
    """What a lab asks of a GPU; see ``device.Gpu``."""

    def facts(self) -> dict[str, Any]: ...
    def versions(self) -> dict[str, str]: ...
    def cudnn(self) -> str: ...
    def rehearsed(self, problem: Problem) -> Problem: ...
    def free_bytes(self) -> int: ...
    def release(self) -> None: ...
    def synchronize(self) -> None: ...
    def empty(self, count: int, dtype: str) -> Any: ...
    def download(self, array: Any) -> NDArray[Any]: ...
    def compile(self, wanted: Any, dtype: str) -> None: ...
    def kernels_of(self, method: str) -> Any: ...
    def noise(self, count: int, seed: int, dtype: str) -> Any: ...
    def poison(self, values: Any, dtype: str) -> None: ...
    def fold(
        self, values: Any, dtype: str, shape: tuple[int, int, int], weights: NDArray[Any], *, squares: bool = False
    ) -> Any: ...
    def own(self, method: str, problem: Problem, x: Any, weight: Any, bias: Any, out: Any) -> Entrant: ...
    def needs(self, method: str, problem: Problem) -> int: ...
    def peer(self, name: str, problem: Problem, x: Any, weight: Any, bias: Any) -> Entrant: ...
    def time(self, call: Callable[[], Any]) -> tuple[float, Any]: ...
    def sample(self, call: Callable[[], Any]) -> Sample: ...
    def begin(self) -> None: ...
    def peak(self, call: Callable[[], Any], problem: Problem, *, peer: bool) -> tuple[int | None, str]: ...
    def fma_peak(self, dtype: str) -> float: ...
    def bandwidth(self, kind: str, working_set: int) -> float: ...


@dataclass
class _Held:
    """A problem's data on the device, what its results are checked by, and the entrants that are ready."""

    asked: Problem
    problem: Problem
    x: Any
    weight: Any
    bias: Any
    out: Any = None
    folds: measure.Folds | None = None
    signs: tuple[NDArray[Any], NDArray[Any]] | None = None
    entrants: dict[str, Entrant] = field(default_factory=dict)


class Lab:
    """The operations; ``clock`` is what their time is read from."""

    def __init__(self, device: Device, clock: Callable[[], float] = perf_counter):
        self.device, self.clock = device, clock
        self.held: _Held | None = None
        self.random = random.Random(1)

    def answer(self, op: str, **values: Any) -> dict[str, Any]:
        """Do ``op``; what it raises becomes "error", with "dead" where the device no longer answers.

        Raises:
            ValueError: no such operation.
        """
        if op not in OPERATIONS:
            raise ValueError(f"operation is {op!r}, valid are {', '.join(OPERATIONS)}")
        try:
            done: dict[str, Any] = getattr(self, op)(**values)
            return done
        except Exception as error:
            text = _line(error)
        # Outside of the handler, which would keep the failed attempt's arrays alive.
        alive = self._alive()
        return {"error": text if alive else f"{LOST}: {text}", "dead": not alive}

    def _alive(self) -> bool:
        try:
            self.device.synchronize()
            self.device.release()
        except Exception:
            return False
        return True

    def open(self) -> dict[str, Any]:
        """The device's facts and versions, and why cuDNN can't take part."""
        device = self.device
        return {"machine": device.facts(), "versions": device.versions(), "cudnn": device.cudnn(), "free": device.free_bytes()}

    def compile(self, method: str) -> dict[str, Any]:
        """Compile a method's kernels, or those around a measurement for "", without which nothing can be measured.

        A kernel that does not compile is none that every layer needs; all of a method's are an error.
        """
        if not method:
            self.device.compile(kernels.KERNELS, DTYPE)
            self.device.compile([kernels.FOLD, kernels.FMA], "float64")
            return {"failed": []}
        failed = []
        wanted = list(self.device.kernels_of(method))
        for kernel in wanted:
            try:
                self.device.compile([kernel], DTYPE)
            except Exception as error:
                failed.append(_line(error))
        return {"error": failed[0]} if len(failed) == len(wanted) else {"failed": failed}

    def ceilings(self) -> dict[str, Any]:
        """The device's limits, as ``tconv_bench.ceilings`` writes them."""
        sets = [size for size in COPY_SETS if size <= self.device.free_bytes() // 4] or [COPY_SETS[0]]
        peaks = {dtype: self.device.fma_peak(dtype) / 1e9 for dtype in ("float32", "float64")}
        found = {kind: [[size, self.device.bandwidth(kind, size)] for size in sets] for kind in ("copy", "fill")}
        self.device.release()
        return {"fma_gflops": peaks, **found}

    def data(self, problem: str) -> dict[str, Any]:
        """Forget what was held, and make a problem's input, weight and bias."""
        self.drop()
        asked = Problem.parse(problem)
        self._check_room(asked.itemsize * sum(map(prod, (asked.x_shape, asked.weight_shape, asked.out_shape))), "its arrays")
        p = self.device.rehearsed(asked)
        sizes = prod(p.x_shape), prod(p.weight_shape), p.c_out
        x, weight, bias = (self.device.noise(size, seed, p.dtype) for seed, size in enumerate(sizes, start=1))
        self.held = _Held(asked, p, x, weight, bias)
        self.device.synchronize()
        return {}

    def _check_room(self, needed: int, what: str) -> None:
        free = self.device.free_bytes()
        if needed + SPARE_BYTES > free:
            raise MemoryError(f"{what} take {units.size(needed)}, and {units.size(max(0, free - SPARE_BYTES))} are free")

    def make(self, name: str, method: str, peer: bool, tolerance: str = "") -> dict[str, Any]:
        """Make an entrant ready on the held problem, check its result, and weigh it; "wrong" says what is wrong with it.

        Args:
            name: what ``samples`` calls it.
            method: a variant, or a peer.
            peer: which of them.
            tolerance: a name of TOLERANCES; "" for what a float sum's rounding explains.
        """
        held = self._held()
        problem = held.problem
        if peer:
            entrant = self.device.peer(method, problem, held.x, held.weight, held.bias)
        else:
            out_bytes = problem.itemsize * prod(held.asked.out_shape) if held.out is None else 0
            self._check_room(self.device.needs(method, held.asked) + out_bytes, f"{method}'s memory")
            if held.out is None:
                held.out = self.device.empty(prod(problem.out_shape), problem.dtype)
            self.device.poison(held.out, problem.dtype)
            entrant = self.device.own(method, problem, held.x, held.weight, held.bias, held.out)
        compiled = jit_cuda.compilations()
        seconds, value = self.device.time(entrant.call)
        reason = self._wrong(held, entrant.result(value), TOLERANCES.get(tolerance, 0.0))
        del value
        if reason:
            return {"wrong": reason}
        if seconds < REPEATED or jit_cuda.compilations() > compiled:  # compiling a kernel, or loading cuDNN's, takes time too
            seconds = min(seconds, self.device.time(entrant.call)[0])
        peak, counted_by = self.device.peak(entrant.call, problem, peer=peer)
        held.entrants[name] = entrant
        return {**entrant.facts, "first_seconds": seconds, "workspace_bytes": peak, "workspace_by": counted_by}

    def _held(self) -> _Held:
        if self.held is None:
            raise ValueError("no problem's data is held")
        return self.held

    def _wrong(self, held: _Held, result: Any, tolerance: float) -> str:
        """Why a result is not the problem's transposed convolution; "" if it is."""
        problem = held.problem
        folds, (s, r) = self._folds(held)
        per_group, pixels = len(r), prod(problem.out_size)
        images = self.device.fold(result, problem.dtype, (problem.batch * problem.groups, per_group, pixels), r)
        sums = self.device.fold(images, "float64", (1, problem.batch, problem.groups * pixels), s)
        got = self.device.download(sums).reshape(problem.groups, *problem.out_size)
        unfinished = int((~np.isfinite(got)).sum())
        if unfinished:
            return f"{unfinished} of {got.size} sums over images and channels are not finite, or hold what was never written"

        def bound(p: Problem, x: NDArray[Any], weight: NDArray[Any], bias: NDArray[Any]) -> NDArray[Any]:
            allowed = reference.error_bound(p, x, weight, bias)
            explained = (problem.c_in // problem.groups * problem.taps + 2) * float(np.finfo(problem.dtype).eps) / 2
            return allowed * max(1.0, tolerance / explained)

        return measure.folded_explanation(problem, folds, got)(bound)

    def _folds(self, held: _Held) -> tuple[measure.Folds, tuple[NDArray[Any], NDArray[Any]]]:
        """``measure.Folds`` of the held data, made on the device once."""
        problem = held.problem
        if held.folds is None or held.signs is None:
            groups, per_group = problem.groups, problem.c_out // problem.groups
            s, r = (measure.signs(np.random.default_rng(), count) for count in (problem.batch, per_group))
            plane, taps = prod(problem.x_shape[1:]), problem.taps
            one, each = np.ones(problem.batch), np.ones(per_group)

            def fold(values: Any, shape: tuple[int, int, int], by: NDArray[Any], squares: bool = False) -> NDArray[Any]:
                return self.device.download(self.device.fold(values, problem.dtype, shape, by, squares=squares))

            x_shape, w_shape = (1, problem.c_in, *problem.in_size), (problem.c_in, 1, *problem.kernel)
            bias = self.device.download(held.bias).astype(np.float64).reshape(groups, per_group)
            held.folds = measure.Folds(
                measure.Data(
                    fold(held.x, (1, problem.batch, plane), s).reshape(x_shape),
                    fold(held.weight, (problem.c_in, per_group, taps), r).reshape(w_shape),
                    s.sum() * (bias @ r),
                ),
                measure.Data(
                    np.sqrt(fold(held.x, (1, problem.batch, plane), one, True)).reshape(x_shape),
                    np.sqrt(fold(held.weight, (problem.c_in, per_group, taps), each, True)).reshape(w_shape),
                    np.sqrt(problem.batch * np.square(bias).sum(axis=1)),
                ),
            )
            held.signs = s, r
        return held.folds, held.signs

    def samples(self, names: list[str], seconds: float) -> dict[str, Any]:
        """Flushed samples of entrants that are ready, in rounds of random order, for about so many seconds of each."""
        held = self._held()
        found: dict[str, list[float]] = {name: [] for name in names}
        late = dict.fromkeys(names, 0)
        spent = dict.fromkeys(names, 0.0)
        self.device.begin()
        collecting = gc.isenabled()
        gc.disable()
        try:
            while active := [name for name in names if not _finished(found[name], spent[name], seconds)]:
                self.random.shuffle(active)
                for name in active:
                    start = self.clock()
                    sample = self.device.sample(held.entrants[name].call)
                    found[name].append(sample.seconds)
                    late[name] += sample.late
                    spent[name] += self.clock() - start
        finally:
            if collecting:
                gc.enable()
        return {"samples": found, "late": late}

    def drop(self) -> dict[str, Any]:
        """Forget the held problem."""
        self.held = None
        self.device.release()
        return {}


OPERATIONS = ("open", "compile", "ceilings", "data", "make", "samples", "drop")


def _finished(samples: list[float], spent: float, seconds: float) -> bool:
    """Whether an entrant has samples enough; the first is always made, and what takes long gets no more than that."""
    if not samples:
        return False
    if spent >= seconds or len(samples) >= MOST_SAMPLES:
        return True
    return len(samples) >= LEAST_SAMPLES and measure.is_narrow(samples, WIDTH)


def _line(error: Exception) -> str:
    """An error as one short line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return f"{type(error).__name__}: {text}"[:300]
