"""What tells a call's arguments apart, against Python's own look at them; whole calls of little work as machine code."""

from __future__ import annotations

import itertools
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tconv_bench import conv_transpose2d, plan, reference, registry
from tconv_bench.objects import describe
from tconv_bench.problem import Problem
from tconv_bench.variants import _single


def described(*arguments: Any) -> Any:
    return describe()(np.ndarray, int, tuple, None, *arguments)


def read_only() -> Any:
    array = np.zeros((2, 3))
    array.flags.writeable = False
    return array


A = np.zeros((2, 3))
ARRAYS = [
    None, A, np.zeros((3, 2)), np.zeros((2, 3, 1)), np.zeros(6), np.zeros(()), np.zeros((0, 3)), A.astype(np.float32),
    A.astype(np.int64), A.astype(np.uint8), np.zeros(254), np.zeros(255), np.zeros(256), np.zeros(511, np.int8),
]  # fmt: skip
SIZES = [
    0, 1, 2, 3, 4, -1, 254, 255, 256, 2**31, 2**62, -(2**63), 2**63 - 1, (), (1,), (1, 1), (0, 1), (1, 0), (4, 1), (1, 255),
    (1, 2, 3), ((1,),), ((1, 1),), ((1, 1), 1), (1, (1, 1)), ((0, 1), (1, 0)), ((1, 2, 3), (4, 5, 6), (7, 8, 9)), ((),),
    ((), ()), (0, 0, 0),
]  # fmt: skip


def seen(array: Any) -> Any:
    return None if array is None else (array.shape, array.dtype.str)


def test_arguments_are_described_alike_where_they_are_alike_and_differently_elsewhere():
    calls = [(*arrays, 2, 3) for arrays in itertools.product(ARRAYS, ARRAYS[:4], ARRAYS[:3])]
    calls += [(A, A, None, *sizes) for sizes in itertools.product(SIZES, SIZES)]
    calls += [(A, None, A, 2), (A, A, None), (A, A, A, *SIZES[-6:])]
    by_bytes: dict[bytes, Any] = {}
    for call in calls:
        expected = (*map(seen, call[:3]), *call[3:])
        found = described(*call)
        assert type(found) is bytes
        assert by_bytes.setdefault(found, expected) == expected
    assert len(by_bytes) == len({repr((*map(seen, call[:3]), *call[3:])) for call in calls})
    again = described(np.ones((2, 3)), np.full((2, 3), 7.0), None, 5, ((1, 2), (3, 4)))
    assert again == described(A, A, None, 5, ((1, 2), (3, 4)))
    assert again == described(A.astype(np.dtype(np.float64, metadata={"unit": "m"})), A, None, 5, ((1, 2), (3, 4)))


@pytest.mark.parametrize(
    "size",
    [
        True, False, 1.0, None, "1", [1, 1], 2**63, -(2**63) - 1, 10**30, np.int64(1), np.ones(2, int), (1, True), (1.0, 1),
        (1, None), ((1, 2), (1, False)), ((1, 2), [3, 4]), (1, 2, 3, 4), ((1, 2, 3, 4),), (((1,),),), (2**70,), ((1, 2**70),),
    ],
)  # fmt: skip
def test_only_built_in_integers_and_short_tuples_of_them_are_described(size: Any):
    assert described(A, A, A, 1, size) == 0
    assert described(A, A, A, size, 1) == 0


@pytest.mark.parametrize(
    "array",
    [
        [[0.0]], 1.0, A.T, np.zeros((2, 6))[:, ::2], A[::-1], A.astype(">f8"), read_only(), A.view(np.matrix), np.ma.zeros(3),
        "x", np.frombuffer(bytearray(17), np.uint8)[1:].view(np.float64), np.zeros((1,) * 9),
    ],
)  # fmt: skip
def test_only_plain_arrays_are_described(array: Any):
    for place in range(3):
        arrays = [A, A, A]
        arrays[place] = array
        assert described(*arrays, 1) == 0


def test_a_description_neither_keeps_nor_loses_a_reference():
    sizes = ((1, 1), (1000, 2000))
    before = [sys.getrefcount(value) for value in (A, sizes, sizes[1], sizes[1][0])]
    texts = [described(A, A, A, *sizes) for _ in range(50)]
    assert [sys.getrefcount(value) for value in (A, sizes, sizes[1], sizes[1][0])] == before
    assert len({id(text) for text in texts}) == 50
    assert {sys.getrefcount(text) for text in texts} == {sys.getrefcount(object()) + 2}  # the list's and the loop's


SHORT = [
    Problem(1, 1, (8, 8), 1, 3, stride=2, padding=1, output_padding=1),
    Problem(2, 3, (5, 4), 4, (3, 2), stride=(2, 1), padding=1, dilation=(1, 2), dtype="float64"),
    Problem(1, 4, (3, 3), 6, 3, groups=2, padding=1),
    Problem(1, 16, (1, 1), 32, 4, stride=2, padding=1),
    Problem(1, 6, (4, 4), 6, 3, stride=2, groups=6, dtype="float64"),
    Problem(1, 3, (8, 8), 5, 2, stride=2),
    Problem(2, 2, (20,), 4, 4, stride=4, groups=2, dtype="float64"),
]


@pytest.mark.parametrize("problem", SHORT, ids=str)
@pytest.mark.parametrize("with_bias", [True, False])
def test_a_short_call_is_machine_code_and_exact(problem: Problem, with_bias: bool, monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(3)
    called = []
    run = _single.run()
    monkeypatch.setattr(_single, "run", lambda: lambda *arrays: called.append(run(*arrays)) or called[-1])
    call = registry.get("phase").single_call(problem)
    for _ in range(3):
        x, weight = (rng.integers(-4, 5, s).astype(problem.dtype) for s in (problem.x_shape, problem.weight_shape))
        bias = rng.integers(-4, 5, problem.c_out).astype(problem.dtype) if with_bias else None
        out = np.full(problem.out_shape, np.nan, problem.dtype)
        call(weight, bias, x, out)
        assert_array_equal(out, reference.conv_transpose(problem, x, weight, bias))
    assert called == [1, 1, 1]


@pytest.mark.parametrize("problem", SHORT, ids=str)
@pytest.mark.parametrize("batched", [True, False])
def test_a_plan_of_little_work_is_machine_code_and_exact(problem: Problem, batched: bool, monkeypatch: pytest.MonkeyPatch):
    if not batched and problem.batch > 1:
        problem = replace(problem, batch=1)
    rng = np.random.default_rng(5)
    x, weight = (rng.integers(-4, 5, s).astype(problem.dtype) for s in (problem.x_shape, problem.weight_shape))
    bias = rng.integers(-4, 5, problem.c_out).astype(problem.dtype)
    exact = reference.conv_transpose(problem, x, weight, bias)
    x, exact = (x, exact) if batched else (x[0], exact[0])
    sizes = {name: getattr(problem, name) for name in ("stride", "padding", "output_padding", "groups", "dilation")}
    made = plan(weight, x.shape, bias=bias, method="phase", **sizes)
    monkeypatch.setattr(made, "_run", lambda x, out: pytest.fail("did not take the machine code of short plans"))
    for _ in range(3):
        assert_array_equal(made(x), exact)
        out = np.full(exact.shape, np.nan, problem.dtype)
        assert made(x, out) is out
        assert_array_equal(out, exact)


def test_the_machine_code_of_a_plan_leaves_what_it_does_not_know_alone():
    problem = SHORT[0]
    phase = registry.get("phase")
    x, weight = np.ones(problem.x_shape, "f4"), np.ones(problem.weight_shape, "f4")
    run = phase.short_run(phase.prepare(problem, weight, None), problem.x_shape, problem.out_shape)
    assert run is not None
    out = np.full(problem.out_shape, -1, "f4")
    memory = np.ones(x.size + out.size, "f4")
    beside = memory[x.size :].reshape(out.shape)
    read_only = x.copy()
    read_only.flags.writeable = False
    inputs = (None, 1, x.tolist(), x[0], x.reshape(1, 1, 4, 16), x.astype("f8"), x.astype(">f4"), x[..., ::-1], read_only)
    for given, target in (
        *((given, out) for given in inputs), (x, None), (x, out[..., :8]), (x, out.astype("f8")), (x, out[0]),
        (memory[1 : 1 + x.size].reshape(x.shape), beside),
    ):  # fmt: skip
        assert run(given, target) == 0
    assert (out == -1).all()
    assert (memory == 1).all()
    assert run(memory[: x.size].reshape(x.shape), beside) == 1
    assert_array_equal(beside, reference.conv_transpose(problem, x, weight, None))


def test_an_infinite_weight_in_a_short_call_reaches_its_own_outputs_alone():
    problem = SHORT[0]
    x, weight = np.ones(problem.x_shape, "f4"), np.ones(problem.weight_shape, "f4")
    weight[0, 0, 0, 0] = np.inf
    exact = reference.conv_transpose(problem, x, weight, None)
    assert np.isinf(exact).any()
    assert np.isfinite(exact).any()
    for _ in range(3):
        assert_array_equal(conv_transpose2d(x, weight, None, 2, 1, 1, method="phase"), exact)


def test_short_calls_from_many_threads_at_once():
    problem = SHORT[0]
    rng = np.random.default_rng(4)
    data = [
        [rng.integers(-4, 5, s).astype("f4") for s in (problem.x_shape, problem.weight_shape, (problem.c_out,))]
        for _ in range(8)
    ]
    exact = [reference.conv_transpose(problem, *arrays) for arrays in data]

    def calls(i: int) -> bool:
        return all(np.array_equal(conv_transpose2d(*data[i], 2, 1, 1), exact[i]) for _ in range(200))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(calls, range(8)))


def test_what_takes_long_does_not_hold_the_gil(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_single, "run", lambda: pytest.fail("asked for the machine code of short calls"))
    for problem in (
        Problem(1, 64, (64, 64), 64, 3),
        Problem(1, 512, (1, 1), 512, 4),
        Problem(1, 64, (64, 64), 64, 2, stride=2),
    ):
        phase = registry.get("phase")
        phase.single_call(problem)
        state = phase.prepare(problem, np.ones(problem.weight_shape, "f4"), None)
        assert phase.short_run(state, problem.x_shape, problem.out_shape) is None
