"""What the machine can do at best: multiply-adds per second, and bytes per second copied and filled.

- FMA peak: independent chains of vector multiply-adds in registers on every thread, per dtype.
- Copy and fill: contiguous arrays, a part per thread; a copy counts the bytes read and the bytes written. Over working sets
  from the second-level cache to memory, because a layer whose data stay in a cache is not bound by the memory's bandwidth.

The roofline (Williams, Waterman, Patterson, "Roofline: an insightful visual performance model", CACM 2009) of a problem is::

    least seconds = max(flops / FMA peak, min_bytes / copy bandwidth of a working set of min_bytes)

with the useful ``flops`` of ``Problem`` and each byte of input, weight and output moved once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import numpy as np
from numba import prange
from numpy.typing import NDArray

from tconv_bench import machine, simd
from tconv_bench.jit import kernel
from tconv_bench.problem import Problem

STEPS = 200_000
SAMPLES = 15
WARM_SECONDS = 0.03  # two virtual cores that had slept for 10 ms ran at half of their speed for 10 to 12 ms
PEAK_WARM_SECONDS = 0.5  # a process' first kernel ran on one of two cores for longer: 117 GFLOP/s for 232
WORKING_SETS = tuple(2**power for power in range(17, 30))  # 128 KiB to 512 MiB
_SAMPLE_SECONDS = 0.004


@kernel(parallel=True)
def _chains(parts, factors, steps, totals):
    for part in prange(parts):
        totals[part] = simd.multiply_add_chains(factors, steps)


@kernel(parallel=True)
def _copy(parts, source, target):
    size = source.size // parts
    for part in prange(parts):
        start = np.int64(part) * size
        target[start : start + size] = source[start : start + size]


@kernel(parallel=True)
def _fill(parts, value, target):
    size = target.size // parts
    for part in prange(parts):
        start = np.int64(part) * size
        target[start : start + size] = value


def fma_peak(dtype: str) -> float:
    """Multiply-adds of a dtype per second on the threads in use, counted as two operations each: FLOP/s."""
    parts = 4 * machine.threads()  # more parts than threads, so that a thread that starts late does not set the time
    factors, totals = np.array([0.5, 1.0], dtype), np.zeros(parts, dtype)
    seconds = _best_seconds(lambda: _chains(parts, factors, STEPS, totals), PEAK_WARM_SECONDS)
    lanes = simd.VECTOR_BYTES // factors.itemsize
    return 2.0 * lanes * simd.CHAINS * STEPS * parts / seconds


def bandwidths(kind: str, working_sets: Sequence[int] = WORKING_SETS) -> list[tuple[int, float]]:
    """(bytes of the working set, bytes moved per second) of "copy" or "fill", smallest first."""
    if kind not in ("copy", "fill"):
        raise ValueError(f"kind is {kind!r}, valid kinds are copy, fill")
    found = []
    buffer = _touched(max(working_sets) // 4)
    for size in sorted(working_sets):
        count = size // 4
        run = _copier(buffer[:count]) if kind == "copy" else _filler(buffer[:count])
        found.append((size, size / _best_seconds(run)))
    return found


def _copier(buffer: NDArray[Any]) -> Callable[[], None]:
    half = buffer.size // 2
    source, target, parts = buffer[:half], buffer[half : 2 * half], machine.threads()
    return lambda: _copy(parts, source, target)


def _filler(buffer: NDArray[Any]) -> Callable[[], None]:
    parts, value = machine.threads(), np.float32(1)
    return lambda: _fill(parts, value, buffer)


def _touched(count: int) -> NDArray[np.float32]:
    array: NDArray[np.float32] = np.empty(count, np.float32)
    array.fill(1)
    return array


def _best_seconds(run: Callable[[], object], warm: float = WARM_SECONDS) -> float:
    """Seconds of a call: the best of several samples, since a ceiling is what can be reached."""
    run()
    end = perf_counter() + warm
    while perf_counter() < end:
        start = perf_counter()
        run()
    calls = max(1, round(_SAMPLE_SECONDS / max(perf_counter() - start, 1e-9)))
    samples = []
    for _ in range(SAMPLES):
        start = perf_counter()
        for _ in range(calls):
            run()
        samples.append((perf_counter() - start) / calls)
    return min(samples)


def measure(working_sets: Sequence[int] = WORKING_SETS) -> dict[str, Any]:
    """All ceilings as rows keep them: ``fma_gflops`` per dtype, ``copy`` and ``fill`` as [bytes, bytes per second] pairs.

    Peaks are measured before and after the bandwidths: once, a neighbour on the machine kept a core for all samples of one.
    """
    first = _peaks()
    copied, filled = ([list(pair) for pair in bandwidths(kind, working_sets)] for kind in ("copy", "fill"))
    best = {dtype: max(peak, first[dtype]) for dtype, peak in _peaks().items()}
    return {"fma_gflops": best, "copy": copied, "fill": filled}


def _peaks() -> dict[str, float]:
    return {dtype: fma_peak(dtype) / 1e9 for dtype in ("float32", "float64")}


def bandwidth_at(pairs: Sequence[Sequence[float]], working_set: float) -> float:
    """The best bytes per second of any measured working set of at least ``working_set`` bytes; beyond the last, the last.

    A small set fits wherever a larger one does: what starting the threads costs there is no limit of the machine.
    """
    at_least = [speed for size, speed in pairs if size >= working_set]
    return float(max(at_least, default=pairs[-1][1]))


def least_seconds(problem: Problem, ceilings: dict[str, Any], cache: str = "hot") -> float | None:
    """The roofline's least time of a problem; None for a dtype without a peak. With ``cache`` "flushed", memory's bandwidth."""
    peak = ceilings.get("fma_gflops", {}).get(problem.dtype)
    if not peak or not ceilings.get("copy"):
        return None
    working_set = problem.min_bytes if cache == "hot" else max(size for size, _ in ceilings["copy"])
    return max(problem.flops / (float(peak) * 1e9), problem.min_bytes / bandwidth_at(ceilings["copy"], working_set))
