"""The device's side of ``gpu-check`` in Numba's simulator; run by ``test_gpu_check.py`` in a process of its own."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from numba import cuda
from numpy.testing import assert_array_equal

from tconv_bench import jit_cuda
from tconv_bench.gpu_check import device, kernels, lab

assert os.environ.get("NUMBA_ENABLE_CUDASIM") == "1", "run by test_gpu_check.py, which sets NUMBA_ENABLE_CUDASIM"


class Simulated(device.Gpu):
    """The simulator has events without time, no L2 cache and no account of its memory."""

    def __init__(self) -> None:
        super().__init__()
        self.device = type("Device", (), {"MULTIPROCESSOR_COUNT": 1, "L2_CACHE_SIZE": 16, "name": b"simulated"})
        self.buffer, self.value = self.empty(8, "float32"), self.upload(np.ones(1, np.float32))

    def free_bytes(self) -> int:
        return 2**40

    def _free(self) -> None:
        pass


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> Simulated:
    monkeypatch.setattr(cuda.simulator.api.Event, "elapsed_time", lambda start, end: 2.0, raising=False)
    monkeypatch.setattr(cuda.simulator.api.Event, "query", lambda event: True, raising=False)
    monkeypatch.setattr(lab, "LEAST_SAMPLES", 2)
    monkeypatch.setattr(lab, "MOST_SAMPLES", 2)
    return Simulated()


def test_noise_is_the_same_on_the_host(simulated: Simulated):
    values = simulated.download(simulated.noise(50, 7, "float32"))
    assert_array_equal(values, kernels.noise(50, 7, "float32"))
    assert len(set(values.tolist())) == 50
    assert -1 <= values.min() < -0.5 < 0.5 < values.max() < 1


@pytest.mark.parametrize("squares", [False, True])
def test_folds_are_weighted_sums(simulated: Simulated, squares: bool):
    values, weights = np.arange(24, dtype=np.float32) - 9, np.array([2.0, -1.0, 0.5])
    sums = simulated.download(simulated.fold(simulated.upload(values), "float32", (2, 3, 4), weights, squares=squares))
    shaped = values.astype(float).reshape(2, 3, 4)
    assert_array_equal(sums.reshape(2, 4), np.einsum("abp,b->ap", shaped**2 if squares else shaped, weights))


def test_copies_and_fills_reach_every_element(simulated: Simulated):
    source, target = simulated.upload(np.arange(28, dtype=np.float32)), simulated.upload(np.zeros(28, np.float32))
    kernels.COPY.stride_over("float32", 7, 0, source, target, 7)
    assert_array_equal(simulated.download(target), np.arange(28))
    kernels.SET.stride_over("float32", 7, 0, simulated.upload(np.array([5], np.float32)), target, 7)
    assert_array_equal(simulated.download(target), np.full(28, 5))


def test_chains_multiply_and_add_as_often_as_they_say(simulated: Simulated):
    sums = simulated.upload(np.zeros(2, np.float32))
    values = simulated.upload(np.array([1, 1, *range(8)], np.float32))
    jit_cuda._compiled(kernels.FMA, "float32")[1, 2](values, 3, sums)
    assert_array_equal(simulated.download(sums), np.full(2, sum(range(8)) + 3 * kernels.PRODUCTS))


def test_a_problem_is_made_checked_and_timed(simulated: Simulated):
    here = lab.Lab(simulated)
    assert here.answer("data", problem="n2_ci4_i2x2_co6_k3x2_s2x1_g2") == {}
    for method in ("direct", "scatter_add"):
        made = here.answer("make", name=method, method=method, peer=False)
        assert made["first_seconds"] == 0.002
        assert made["prepared_bytes"] > 0
    assert here.answer("samples", names=["direct", "scatter_add"], seconds=9.0) == {
        "samples": {"direct": [0.002] * 2, "scatter_add": [0.002] * 2},
        "late": {"direct": 2, "scatter_add": 2},
    }
    assert here.answer("drop") == {}
    assert here.answer("samples", names=["direct"], seconds=1.0) == {
        "error": "ValueError: no problem's data is held",
        "dead": False,
    }


def test_a_call_that_compiled_is_made_once_more_for_its_time(simulated: Simulated, monkeypatch: pytest.MonkeyPatch):
    times = iter([5000.0, 2.0, 3000.0, 9.0])
    monkeypatch.setattr(cuda.simulator.api.Event, "elapsed_time", lambda start, end: next(times), raising=False)
    jit_cuda._compiled_once.cache_clear()
    here = lab.Lab(simulated)
    here.answer("data", problem="n1_ci1_i2_co1_k2")
    assert here.answer("make", name="first", method="direct", peer=False)["first_seconds"] == 0.002
    assert here.answer("make", name="second", method="direct", peer=False)["first_seconds"] == 3.0


@pytest.mark.parametrize("spoil", [lambda out: out.__setitem__(3, 7.0), lambda out: out.__setitem__(3, np.nan)])
def test_a_wrong_element_is_found(simulated: Simulated, spoil: Any, monkeypatch: pytest.MonkeyPatch):
    own = simulated.own

    def spoiled(*args: Any) -> lab.Entrant:
        entrant, out = own(*args), args[-1]
        call = entrant.call

        def run() -> None:
            call()
            spoil(out)

        entrant.call = run
        return entrant

    monkeypatch.setattr(simulated, "own", spoiled)
    here = lab.Lab(simulated)
    here.answer("data", problem="n2_ci2_i2x2_co3_k2x2_s2x2")
    answer = here.answer("make", name="direct", method="direct", peer=False)
    assert list(answer) == ["wrong"]
    assert "1 of 16" in answer["wrong"]
