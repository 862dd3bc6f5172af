"""Check, warm, time, weigh: how one method on one problem becomes a Measurement. A wrong result gets no time.

The check covers every output element at a small part of the kernel's own cost. Small problems are compared element by
element with the float64 reference. Larger ones are folded first: a transposed convolution is linear in its input and in
its weight, so for random ``s`` over images and ``r`` over the output channels of a group::

    sum over n, o of s[n] r[o] out[n, o]  =  conv_transpose(sum over n of s[n] x[n],  sum over o of r[o] weight[:, o])

The right side is a problem of one image and one output channel per group. A wrong element changes the left side by its
error times s[n] r[o] (Freivalds, "Probabilistic machines can use less running time", IFIP 1977). Rounding errors e[n, o] that
``reference.error_bound`` allows change it, s and r having random signs and size at most one, by less than
6 sqrt(sum e^2) but for a chance of 1e-7 (Hoeffding 1963), and by the triangle inequality that root is at most the
bound of the problem whose input and weight are the root sums of squares over n and o.
"""

from __future__ import annotations

import gc
import importlib
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tconv_bench import machine, reference, registry
from tconv_bench.problem import Problem
from tconv_bench.store import Measurement, median_interval, timing_fields, utc_now

ELEMENTWISE_FLOPS = 4_000_000  # a few 10 ms of reference; above that the folded comparison is cheaper
SAMPLE_SECONDS = 0.002  # a sample of a short kernel repeats it until the clock's own 50 ns do not count
LINE_BYTES = 64
MIN_SAMPLES = 6  # the fewest whose range is a 95 % interval of the median


@dataclass(frozen=True)
class Data:
    """Input, weight and bias of a problem; the same values in every process."""

    x: NDArray[Any]
    weight: NDArray[Any]
    bias: NDArray[Any]


def aligned(shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """An uninitialised array that starts a cache line.

    NumPy's own arrays start at any multiple of 16 bytes, by chance from process to process; vectors of 64 bytes that
    straddle cache lines made the same kernel 1.9 times slower (scatter_add on DCGAN g5: 0.30 and 0.58 ms).
    """
    size = int(np.dtype(dtype).itemsize * np.prod(shape, dtype=np.int64))
    raw = np.empty(size + LINE_BYTES, np.uint8)
    start = -raw.ctypes.data % LINE_BYTES
    array: NDArray[Any] = raw[start : start + size].view(dtype).reshape(shape)
    return array


def make_data(problem: Problem) -> Data:
    """Input, weight and bias of a problem, each array at the start of a cache line.

    Standard normal floats, or integers from -4 to 4 (0 to 4 where unsigned).
    """
    rng = np.random.default_rng(20160323)

    def draw(shape: tuple[int, ...]) -> NDArray[Any]:
        dtype: np.dtype[Any] = np.dtype(problem.dtype)
        values: NDArray[Any] = rng.integers(0 if dtype.kind == "u" else -4, 5, shape)
        if dtype.kind == "f":
            values = rng.standard_normal(shape, np.float32)
        array = aligned(shape, problem.dtype)
        array[...] = values
        return array

    return Data(draw(problem.x_shape), draw(problem.weight_shape), draw((problem.c_out,)))


def poisoned(problem: Problem) -> NDArray[Any]:
    """An output array of NaN (integers: their largest value), so that an element that is never written shows."""
    dtype: np.dtype[Any] = np.dtype(problem.dtype)
    out = aligned(problem.out_shape, problem.dtype)
    out.fill(np.nan if dtype.kind == "f" else np.iinfo(dtype).max)
    return out


def wrong(problem: Problem, data: Data, out: Any, method: str = "") -> str:
    """Why ``out`` is not the problem's transposed convolution of ``data``; "" if it is, by the module's check.

    What a float sum's rounding does not explain may be explained by that of ``method`` (its ``error_bound``; "auto": of any).
    """
    if not isinstance(out, np.ndarray) or out.shape != problem.out_shape:
        return f"shape is {getattr(out, 'shape', None)}, expected {problem.out_shape}"
    if out.dtype != np.dtype(problem.dtype):
        return f"dtype is {out.dtype}, expected {problem.dtype}"
    if out.dtype.kind == "f" and not np.isfinite(out).all():
        return f"{int((~np.isfinite(out)).sum())} of {out.size} elements are not finite or were never written"
    if out.dtype.kind != "f":
        expected = reference.conv_transpose(problem, data.x, data.weight, data.bias)
        return _worst(out, expected.astype(out.dtype), np.zeros(()))
    difference = _folded_difference if problem.flops > ELEMENTWISE_FLOPS else _difference
    explain = difference(problem, data, out)
    reason = explain(reference.error_bound)
    names = [method] if method in registry.methods() else registry.methods() if method else []
    for entry in map(registry.get, names):
        if reason and entry.supports(problem) is True:
            reason = explain(entry.error_bound)
    return reason


Bound = Callable[..., NDArray[Any]]


def _difference(problem: Problem, data: Data, out: NDArray[Any]) -> Callable[[Bound], str]:
    expected = reference.conv_transpose(problem, data.x, data.weight, data.bias)
    return lambda bound: _worst(out, expected, bound(problem, data.x, data.weight, data.bias))


def _worst(out: NDArray[Any], expected: NDArray[Any], allowed: NDArray[Any]) -> str:
    excess = np.abs(out.astype(np.float64) - expected.astype(np.float64)) - allowed
    bad = int((excess > 0).sum())
    if not bad:
        return ""
    where = tuple(int(i) for i in np.unravel_index(int(excess.argmax()), excess.shape))
    return f"{bad} of {out.size} elements differ, the worst at {where}: {out[where]:.6g} instead of {expected[where]:.6g}"


@dataclass(frozen=True)
class Folds:
    """A problem's data summed over its images and over the output channels of a group, as the module says.

    ``sums`` has weights of random signs, ``roots`` are root sums of squares; both are data of a problem of one image and one
    output channel per group.
    """

    sums: Data
    roots: Data


def _folded_difference(problem: Problem, data: Data, out: NDArray[Any]) -> Callable[[Bound], str]:
    groups, per_group = problem.groups, problem.c_out // problem.groups
    rng = np.random.default_rng()
    s, r = signs(rng, problem.batch), signs(rng, per_group)
    # einsum throughout, never BLAS: its threads spin on for 0.1 s after a call, and a kernel timed then took twice as long
    # (direct on FCN-8s up2: 338 us, 174 us a moment later).
    sums = Data(
        np.einsum("n,n...->...", s, data.x)[None],
        np.einsum("co...,o->c...", data.weight, r)[:, None],
        s.sum() * np.einsum("go,o->g", data.bias.reshape(groups, per_group), r),
    )
    roots = Data(
        np.sqrt(np.einsum("n...,n...->...", data.x, data.x, dtype=np.float64))[None],
        np.sqrt(np.einsum("co...,co...->c...", data.weight, data.weight, dtype=np.float64))[:, None],
        np.sqrt(problem.batch * np.square(data.bias, dtype=np.float64).reshape(groups, per_group).sum(axis=1)),
    )
    got = sum(s_n * np.einsum("go...,o->g...", image, r) for s_n, image in zip(s, _by_group(out, groups)))
    return folded_explanation(problem, Folds(sums, roots), got)


def folded_explanation(problem: Problem, folds: Folds, got: NDArray[Any]) -> Callable[[Bound], str]:
    """Why the output's sums ``got`` (groups, *out_size) are not those of the data, for a bound on rounding; "" if they are."""
    folded = replace(problem, batch=1, c_out=problem.groups, dtype="float64")
    expected = reference.conv_transpose(folded, folds.sums.x, folds.sums.weight, folds.sums.bias)[0]
    difference = np.abs(got - expected)

    def explain(bound: Bound) -> str:
        allowed = 6 * bound(replace(folded, dtype=problem.dtype), folds.roots.x, folds.roots.weight, folds.roots.bias)[0]
        bad = int((difference > allowed).sum())
        if not bad:
            return ""
        where = tuple(int(i) for i in np.unravel_index(int((difference - allowed).argmax()), difference.shape))
        return (
            f"{bad} of {difference.size} output positions differ, summed over images and channels, the worst at group "
            f"{where[0]}, pixel {where[1:]}: by {difference[where]:.3g} where rounding explains {allowed[where]:.3g}"
        )

    return explain


def signs(rng: np.random.Generator, count: int) -> NDArray[Any]:
    """``count`` weights of a sum that shows a wrong term: sizes from 1/2 to 1 in random order, with random signs."""
    # no two alike: images or channels that are swapped show
    values: NDArray[Any] = rng.permutation(np.linspace(0.5, 1.0, count)) * rng.choice((-1.0, 1.0), count)
    return values


def _by_group(out: NDArray[Any], groups: int) -> NDArray[Any]:
    images: NDArray[Any] = out.reshape(out.shape[0], groups, out.shape[1] // groups, *out.shape[2:])
    return images


@dataclass(frozen=True)
class Case:
    """A method made ready on a problem: ``run()`` computes into ``out`` once."""

    problem: Problem
    variant: registry.Variant
    data: Data
    state: Any
    out: NDArray[Any]
    prepare_seconds: float

    def run(self) -> None:
        """One call of the kernel."""
        self.variant.run(self.state, self.data.x, self.out)


def small_twin(problem: Problem) -> Problem:
    """A tiny problem of the same rank and dtype: what compiles or loads a variant's kernels."""
    ones = (1,) * problem.ndim
    return Problem(1, 2, tuple(3 * i for i in ones), 2, (2,) * problem.ndim, (2,) * problem.ndim, dtype=problem.dtype)


def compile_for(problem: Problem, variant: registry.Variant) -> None:
    """Compile (or load from the disk) a variant's kernels, by running them on a tiny problem of the same kind."""
    twin = small_twin(problem)
    data = make_data(twin)
    if variant.supports(twin) is True:
        variant.run(variant.prepare(twin, data.weight, data.bias), data.x, poisoned(twin))


def make_case(problem: Problem, method: str) -> Case:
    """A method prepared on a problem, its kernels compiled, its output poisoned.

    Raises:
        NotImplementedError: the method does not support the problem; with its sentence.
        ValueError: no such method.
    """
    variant = registry.get(method)
    answer = variant.supports(problem)
    if answer is not True:
        raise NotImplementedError(answer)
    compile_for(problem, variant)
    data = make_data(problem)
    variant.forget()
    start = perf_counter()
    state = variant.prepare(problem, data.weight, data.bias)
    seconds = perf_counter() - start
    return Case(problem, variant, data, state, poisoned(problem), seconds)


def calls_per_sample(run: Callable[[], object], sample_seconds: float = SAMPLE_SECONDS) -> int:
    """How many calls a sample holds so that it lasts ``sample_seconds``; 1 for anything longer."""
    run()
    calls = 1
    while True:
        start = perf_counter()
        for _ in range(calls):
            run()
        seconds = perf_counter() - start
        if seconds >= sample_seconds / 2:
            return max(1, round(calls * sample_seconds / seconds))
        calls *= 2


def sample_times(
    run: Callable[[], object], *, width: float = 0.05, budget: float = 2.0, sample_seconds: float = SAMPLE_SECONDS
) -> list[float]:
    """Seconds per call, one per sample, until the median's 95 % interval is narrow enough or the time is spent.

    Args:
        run: what to time; called a few times before.
        width: the interval's full width as a part of the median at which sampling stops.
        budget: seconds after which it stops in any case, with at least one sample.
        sample_seconds: the least time of a sample; shorter calls are repeated and averaged.
    """
    calls = calls_per_sample(run, sample_seconds)
    samples: list[float] = []
    collecting = gc.isenabled()
    gc.disable()
    try:
        end = perf_counter() + budget
        while True:
            start = perf_counter()
            for _ in range(calls):
                run()
            now = perf_counter()
            samples.append((now - start) / calls)
            if now >= end or (len(samples) >= MIN_SAMPLES and is_narrow(samples, width)):
                return samples
    finally:
        if collecting:
            gc.enable()


def is_narrow(samples: list[float], width: float) -> bool:
    """Whether the 95 % interval of the median is at most ``width`` times the median."""
    low, high = median_interval(samples)
    return high - low <= width * sorted(samples)[len(samples) // 2]


def traced_peak(run: Callable[[], object]) -> int:
    """Bytes that one call of ``run`` allocates at its peak beyond what was there before, as tracemalloc sees them.

    NumPy's and Numba's arrays are seen; what native libraries allocate is not. Tracing slows a call: never time under it.
    """
    gc.collect()
    tracemalloc.start()
    try:
        run()  # what stays after a first call (Python's own caches) is no workspace
        peaks = []
        for _ in range(3):  # threads do not hold their buffers at the same moment in every call
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            run()
            peaks.append(tracemalloc.get_traced_memory()[1] - before)
        return max(0, *peaks)
    finally:
        tracemalloc.stop()


def measure(
    problem: Problem, method: str, *, suite: str = "cli", label: str | None = None, width: float = 0.05, budget: float = 2.0
) -> Measurement:
    """Check one method on one problem, then time it, then weigh it.

    An unsupported problem or a wrong result gives a row without times whose note says so.

    Args:
        problem, method: what to measure.
        suite, label: where the row belongs; the label defaults to the problem's text.
        width, budget: see ``sample_times``; the budget is in seconds.

    Raises:
        ValueError: no such method.
    """
    row = Measurement(
        suite=suite,
        label=label or str(problem),
        problem=str(problem),
        method=method,
        threads=machine.threads(),
        measured_at=utc_now(),
        machine=machine.facts(),
        versions=machine.versions(),
        commit=machine.commit(),
    )
    try:
        case = make_case(problem, method)
    except NotImplementedError as reason:
        return replace(row, note=str(reason))
    case.run()
    reason_wrong = wrong(problem, case.data, case.out, method)
    if reason_wrong:
        return replace(row, note=f"wrong result: {reason_wrong}")
    samples = sample_times(case.run, width=width, budget=budget)
    return replace(
        row,
        prepare_seconds=case.prepare_seconds,
        prepared_bytes=case.variant.prepared_bytes(problem),
        workspace_bytes=traced_peak(case.run),
        **timing_fields(samples),
    )


def threads_survive_fork() -> bool:
    """Whether a process that ran parallel kernels may fork: TBB's threads come back in the child, GNU OpenMP's abort it."""
    from numba import config

    try:
        importlib.import_module("numba.np.ufunc.tbbpool")
    except ImportError:
        return False
    return getattr(config, "THREADING_LAYER", "") in ("default", "tbb", "safe", "forksafe")
