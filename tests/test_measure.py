"""A wrong result gets no time, whatever kind of wrong it is; a right one gets all that a row holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import numpy as np
import pytest

from tconv_bench import measure, reference, registry
from tconv_bench.problem import Problem

SMALL = Problem(2, 4, (5, 6), 6, (3, 3), (2, 2), (1, 1), groups=2)
LARGE = Problem(3, 32, (24, 24), 64, (3, 3), (2, 2), (1, 1), groups=2)


def right(problem: Problem) -> tuple[measure.Data, np.ndarray[Any, Any]]:
    data = measure.make_data(problem)
    return data, reference.conv_transpose(problem, data.x, data.weight, data.bias).astype(problem.dtype)


@pytest.mark.parametrize("problem", [SMALL, LARGE], ids=["elementwise", "folded"])
def test_the_right_result_passes(problem: Problem) -> None:
    data, out = right(problem)
    for _ in range(5):  # the folded check draws its signs anew
        assert measure.wrong(problem, data, out) == ""


def test_the_large_problem_is_folded() -> None:
    assert SMALL.flops < measure.ELEMENTWISE_FLOPS < LARGE.flops


def unwritten(out: np.ndarray[Any, Any]) -> None:
    out[-1, -1, -1, -1] = np.nan


def one_element(out: np.ndarray[Any, Any]) -> None:
    out[1, 3, 2, 1] += 1


def swapped_channels(out: np.ndarray[Any, Any]) -> None:
    out[:, :2] = out[:, 1::-1].copy()


def swapped_images(out: np.ndarray[Any, Any]) -> None:
    out[:2] = out[1::-1].copy()


def shifted(out: np.ndarray[Any, Any]) -> None:
    out[...] = np.roll(out, 1, axis=3)


def infinite(out: np.ndarray[Any, Any]) -> None:
    out[0, 0, 0, 0] = np.inf


@pytest.mark.parametrize("problem", [SMALL, LARGE], ids=["elementwise", "folded"])
@pytest.mark.parametrize("spoil", [unwritten, one_element, swapped_channels, swapped_images, shifted, infinite])
def test_what_is_wrong_is_seen(problem: Problem, spoil: Callable[[np.ndarray[Any, Any]], None]) -> None:
    data, out = right(problem)
    spoil(out)
    assert measure.wrong(problem, data, out)


def test_shape_dtype_and_type_are_checked() -> None:
    data, out = right(SMALL)
    assert measure.wrong(SMALL, data, out[:, :1]).startswith("shape is (2, 1, 9, 11), expected (2, 6, 9, 11)")
    assert measure.wrong(SMALL, data, out.astype(np.float64)) == "dtype is float64, expected float32"
    assert measure.wrong(SMALL, data, None).startswith("shape is None")


def test_integers_are_exact() -> None:
    problem = Problem(1, 3, (4,), 2, 3, dtype="int64")
    data, out = right(problem)
    assert measure.wrong(problem, data, out) == ""
    out[0, 0, 0] += 1
    assert measure.wrong(problem, data, out).startswith("1 of 12 elements differ")


def test_data_starts_a_cache_line_and_repeats() -> None:
    first, again = measure.make_data(SMALL), measure.make_data(SMALL)
    for array in (first.x, first.weight, first.bias, measure.poisoned(SMALL)):
        assert array.ctypes.data % 64 == 0
        assert array.flags.c_contiguous
    assert (first.x == again.x).all()
    assert (first.weight == again.weight).all()
    assert np.isnan(measure.poisoned(SMALL)).all()


def test_measure_fills_the_row() -> None:
    row = measure.measure(SMALL, "direct", budget=0.05)
    assert (row.suite, row.label, row.problem, row.note) == ("cli", str(SMALL), str(SMALL), "")
    assert row.median is not None
    assert row.low is not None
    assert row.high is not None
    assert 0 < row.low <= row.median <= row.high
    assert row.minimum == min(row.samples)
    assert row.prepared_bytes == registry.get("direct").prepared_bytes(SMALL)
    assert row.prepare_seconds is not None
    assert row.prepare_seconds > 0
    assert row.threads
    assert {"cpu", "arch", "cores", "ram", "os", "name"} <= set(row.machine)
    assert {"python", "numpy", "numba", "sources"} <= set(row.versions)


@pytest.fixture
def spoiled() -> Iterator[str]:
    """A method whose outputs are right but for one element; it may never be timed."""
    calls = count()

    @registry.variant("spoiled", title="wrong on purpose", source="here")
    class Spoiled(registry.Variant):
        def prepare(self, problem: Problem, weight: Any, bias: Any) -> Any:
            return problem, weight, bias

        def run(self, state: Any, x: Any, out: Any) -> None:
            assert next(calls) < 2, "called again after its wrong result"
            out[...] = reference.conv_transpose(state[0], x, *state[1:])
            out.flat[-1] += 1

    yield "spoiled"
    del registry._VARIANTS["spoiled", "cpu"]


def test_a_wrong_variant_gets_no_time(spoiled: str) -> None:
    row = measure.measure(SMALL, spoiled)
    assert (row.median, row.samples, row.prepare_seconds) == (None, (), None)
    assert row.note.startswith("wrong result: 1 of 1188 elements differ, the worst at (1, 5, 8, 10)")


def test_an_unsupported_problem_gets_the_sentence() -> None:
    problem = Problem(1, 4096, (256, 256), 4096, 4)
    row = measure.measure(problem, "matmul")
    assert row.median is None
    assert row.note == registry.get("matmul").supports(problem)


def test_an_unknown_method_is_an_error() -> None:
    with pytest.raises(ValueError, match="method is 'none', valid methods"):
        measure.measure(SMALL, "none")


def test_sampling_stops_at_the_width_or_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(measure, "perf_counter", lambda: now[0])

    def constant() -> None:
        now[0] += 0.01

    assert measure.sample_times(constant, width=0.05, budget=10) == pytest.approx([0.01] * measure.MIN_SAMPLES)
    steps = count(1)

    def drifting() -> None:
        now[0] += 0.01 * next(steps)

    samples = measure.sample_times(drifting, width=0.05, budget=1.0)
    assert sum(samples[:-1]) < 1.0 <= sum(samples)


def test_short_calls_share_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(measure, "perf_counter", lambda: now[0])

    def short() -> None:
        now[0] += 1e-5

    assert measure.calls_per_sample(short, 0.002) == 200
    assert measure.sample_times(short, budget=1) == pytest.approx([1e-5] * measure.MIN_SAMPLES)


def test_traced_peak_sees_numpy_and_forgets_what_stays() -> None:
    kept: list[Any] = []

    def run() -> None:
        if not kept:
            kept.append(np.empty(10_000_000, np.uint8))
        np.empty(1_000_000, np.uint8).fill(1)

    assert measure.traced_peak(run) == pytest.approx(1_000_000, abs=20_000)


@pytest.mark.parametrize("method", ["direct", "col2im", "zero_insertion"])
def test_traced_workspace_agrees_with_the_variants_own_count(method: str) -> None:
    problem = Problem(1, 64, (32, 32), 32, (4, 4), (2, 2), (1, 1))
    case = measure.make_case(problem, method)
    traced, counted = measure.traced_peak(case.run), case.variant.workspace_bytes(problem)
    # the threads' buffers are not all alive at one moment; Python's own objects take a few KiB
    assert counted / (2 * len_threads()) - 8192 <= traced <= counted * 1.2 + 32768


def len_threads() -> int:
    import numba

    return int(numba.get_num_threads())
