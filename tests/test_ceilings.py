"""The machine's limits: counted as they say, and found again where a row needs them."""

from __future__ import annotations

import numpy as np
import pytest

from tconv_bench import ceilings, machine, simd
from tconv_bench.problem import Problem

MEASURED = {
    "fma_gflops": {"float32": 100.0, "float64": 50.0},
    "copy": [[1000, 5e9], [10_000, 80e9], [1_000_000, 20e9]],
    "fill": [[1000, 4e9], [10_000, 40e9], [1_000_000, 10e9]],
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_chains_do_the_steps_they_are_paid_for(dtype: str):
    totals = np.zeros(3, dtype)
    ceilings._chains(3, np.array([0.5, 1.0], dtype), 4, totals)
    # a chain that starts at v stands at v/16 + 1.875 after four times v/2 + 1
    expected = sum(v / 16 + 1.875 for v in range(simd.CHAINS))
    assert totals.tolist() == [expected] * 3


def test_copy_and_fill_write_every_byte():
    source, target = np.arange(1000, dtype=np.float32), np.zeros(1000, np.float32)
    ceilings._copy(2, source, target)
    assert (target == source).all()
    ceilings._fill(4, np.float32(7), target)
    assert (target == 7).all()


def test_a_measurement_has_every_figure():
    found = ceilings.measure(working_sets=(2**16, 2**14))
    assert set(found) == set(MEASURED)
    for kind in ("copy", "fill"):
        assert [size for size, _ in found[kind]] == [2**14, 2**16]
        assert all(1e6 < speed < 1e14 for _, speed in found[kind])
    assert 0.1 < found["fma_gflops"]["float64"] < found["fma_gflops"]["float32"] < 1e6


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="kind is 'move', valid kinds are copy, fill"):
        ceilings.bandwidths("move")


@pytest.mark.parametrize(("working_set", "speed"), [(1, 80e9), (1000, 80e9), (10_000, 80e9), (10_001, 20e9), (10**9, 20e9)])
def test_a_small_set_is_bound_by_the_fastest_cache_that_holds_it(working_set: int, speed: float):
    assert ceilings.bandwidth_at(MEASURED["copy"], working_set) == speed


def test_the_roofline_is_the_larger_of_both_limits():
    dense = Problem(1, 256, (8, 8), 256, (3, 3))
    assert ceilings.least_seconds(dense, MEASURED) == dense.flops / 100e9
    thin = Problem(1, 1, (200, 200), 1, (1, 1))
    assert ceilings.least_seconds(thin, MEASURED) == thin.min_bytes / 20e9
    small = Problem(1, 1, (10, 10), 1, (1, 1))
    assert ceilings.least_seconds(small, MEASURED) == small.min_bytes / 80e9
    assert ceilings.least_seconds(small, MEASURED, "flushed") == small.min_bytes / 20e9
    assert ceilings.least_seconds(Problem(1, 1, (4,), 1, 1, dtype="int64"), MEASURED) is None


def test_what_a_core_must_write_to_empty_its_caches(tmp_path, monkeypatch):
    for index, (kind, size, cores) in enumerate(
        [("Instruction", "32K", "0"), ("Unified", "1M", "0"), ("Unified", "32M", "0-3,8")]
    ):
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        for name, text in (("type", kind), ("size", size), ("shared_cpu_list", cores)):
            (folder / name).write_text(text + "\n")
    monkeypatch.setattr(machine, "_CACHES", tmp_path)
    monkeypatch.setattr(machine, "usable_cores", lambda: 4)
    assert machine.flush_bytes_per_core.__wrapped__() == 2 * (1 + 8) * 1024**2
    monkeypatch.setattr(machine, "_CACHES", tmp_path / "none")
    assert machine.flush_bytes_per_core.__wrapped__() == 64 * 1024**2
