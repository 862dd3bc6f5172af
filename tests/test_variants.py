"""Every registered variant on every awkward problem against the definition, and what the contract promises beyond values."""

from __future__ import annotations

from functools import cache
from typing import Any

import numba
import numpy as np
import pytest
import scipy.sparse
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

import tconv_bench
from tconv_bench import Problem, reference, registry
from tests.problems import NAMED, PROBLEMS, integer_data, poisoned

METHODS = registry.methods("cpu")
all_methods = pytest.mark.parametrize("method", METHODS)


@cache
def expected(problem: Problem) -> NDArray[Any]:
    return reference.conv_transpose(problem, *integer_data(problem)).astype(problem.dtype)


def run(method: str, problem: Problem, x: NDArray[Any], weight: NDArray[Any], bias: NDArray[Any] | None) -> NDArray[Any]:
    entry = registry.get(method)
    supported = entry.supports(problem)
    if supported is not True:
        pytest.skip(f"{method}: {supported}")
    out = poisoned(problem)
    entry.run(entry.prepare(problem, weight, bias), x, out)
    return out


def test_there_are_enough_problems():
    assert len(PROBLEMS) >= 500
    assert len(set(PROBLEMS)) == len(PROBLEMS)


def served(method: str) -> list[Problem]:
    return [problem for problem in PROBLEMS if registry.get(method).supports(problem) is True]


def test_only_winograd_leaves_problems_to_others():
    assert [method for method in METHODS if len(served(method)) < len(PROBLEMS)] == ["winograd"]
    assert len(served("winograd")) >= 100


@pytest.mark.parametrize(("method", "problem"), [(m, p) for m in METHODS for p in served(m)], ids=str)
def test_every_variant_on_every_problem(method: str, problem: Problem):
    assert_array_equal(run(method, problem, *integer_data(problem)), expected(problem))


@all_methods
def test_integers_near_2_to_the_55_are_exact(method: str):
    problem = Problem(1, 2, (3,), 1, 2, dtype="int64")
    x = np.array([[[2**55 + 1, -(2**54) - 3, 7], [2**53 + 1, 5, 2**55 - 9]]])
    weight = np.array([[[3, -5]], [[1, 7]]])
    out = run(method, problem, x, weight, None)
    a, b = x[0].tolist()
    stamps = [[3 * p + q, -5 * p + 7 * q] for p, q in zip(a, b)]
    exact = [stamps[0][0], stamps[0][1] + stamps[1][0], stamps[1][1] + stamps[2][0], stamps[2][1]]
    assert out[0, 0].tolist() == exact


def problems() -> st.SearchStrategy[Problem]:
    @st.composite
    def draw_problem(draw: st.DrawFn) -> Problem:
        ndim = draw(st.integers(1, 3))
        largest = {1: 40, 2: 9, 3: 4}[ndim]

        def per_axis(low: int, high: int) -> tuple[int, ...]:
            return tuple(draw(st.integers(low, high)) for _ in range(ndim))

        stride, dilation, groups = per_axis(1, 4), per_axis(1, 3), draw(st.integers(1, 3))
        extra = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation))
        padding = tuple(draw(st.tuples(st.integers(0, 4), st.integers(0, 4))) for _ in range(ndim))
        try:
            return Problem(
                draw(st.integers(0, 3)), groups * draw(st.integers(1, 9)), per_axis(1, largest),
                groups * draw(st.integers(1, 9)), per_axis(1, 5), stride, padding, extra, groups, dilation,
                draw(st.sampled_from(["float32", "float64"])),
            )  # fmt: skip
        except ValueError as error:
            assume("empty" not in str(error))
            raise

    return draw_problem()


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(problem=problems(), seed=st.integers(0, 2**32 - 1))
def test_drawn_problems_stay_within_the_rounding_bound(problem: Problem, seed: int):
    rng = np.random.default_rng(seed)
    x, weight, bias = (
        rng.standard_normal(shape).astype(problem.dtype) for shape in (problem.x_shape, problem.weight_shape, problem.c_out)
    )
    exact = reference.conv_transpose(problem, x, weight, bias)
    for method in METHODS:
        if registry.get(method).supports(problem) is not True:
            continue
        bound = registry.get(method).error_bound(problem, x, weight, bias)
        error = np.abs(run(method, problem, x, weight, bias) - exact)
        assert np.all(error <= bound), f"{method} on {problem}: error {error.max()} above {bound.flat[error.argmax()]}"


@all_methods
def test_the_result_depends_neither_on_threads_nor_on_the_run(method: str):
    problem = Problem(2, 37, (9, 33), 29, 5, stride=2, padding=2, output_padding=1)
    rng = np.random.default_rng(7)
    x, weight = (rng.standard_normal(shape).astype("float32") for shape in (problem.x_shape, problem.weight_shape))
    results = []
    for threads in (numba.config.NUMBA_NUM_THREADS, 1, numba.config.NUMBA_NUM_THREADS):
        numba.set_num_threads(threads)
        results.append(run(method, problem, x, weight, None))
    for other in results[1:]:
        assert_array_equal(other, results[0])


@all_methods
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["x", "weight"])
def test_nan_and_infinity_reach_exactly_the_sums_they_belong_to(method: str, value: float, where: str):
    if where == "weight" and registry.get(method).spreads_nonfinite_weights:
        pytest.skip(f"{method} says in its docstring that it spreads them")
    problem = Problem(2, 3, (5, 20), 4, (3, 4), stride=(2, 3), padding=1, output_padding=(1, 2), dtype="float64")
    x, weight, bias = integer_data(problem)
    array = x if where == "x" else weight
    array[1, 2, 1, 3] = value
    weight[weight == 0] = 1
    with np.errstate(invalid="ignore"):
        exact = reference.conv_transpose(problem, x, weight, bias)
    assert np.isfinite(exact).any()
    assert not np.isfinite(exact).all()
    assert_array_equal(np.isfinite(run(method, problem, x, weight, bias)), np.isfinite(exact))


@all_methods
@pytest.mark.parametrize("text", [NAMED["depthwise"], NAMED["3-D"], NAMED["kernel < stride, 1-D"]])
def test_public_function_takes_every_method(method: str, text: str):
    problem = Problem.parse(text + "_float64")
    if registry.get(method).supports(problem) is not True:
        pytest.skip(f"{method} does not serve {problem}")
    x, weight, bias = integer_data(problem)
    function = getattr(tconv_bench, f"conv_transpose{problem.ndim}d")
    rest = (bias, problem.stride, problem.padding, problem.output_padding, problem.groups, problem.dilation)
    assert_array_equal(function(x, weight, *rest, method=method), expected(problem))
    assert_array_equal(function(x[0], weight, *rest, method=method), expected(problem)[0])


@all_methods
def test_state_keeps_no_reference_to_the_callers_arrays(method: str):
    problem = Problem(1, 1, (3, 3), 1, 3, dtype="float64")
    x, weight, bias = integer_data(problem)
    entry = registry.get(method)
    state, before = entry.prepare(problem, weight, bias), reference.conv_transpose(problem, x, weight, bias)
    weight[:], bias[:] = 99, 99
    out = poisoned(problem)
    entry.run(state, x, out)
    assert_array_equal(out, before)


def held_bytes(part: Any) -> int:
    """Bytes of the arrays within a prepared state."""
    if isinstance(part, np.ndarray):
        return part.nbytes
    if scipy.sparse.issparse(part):
        return held_bytes((part.data, part.indices, part.indptr))
    return sum(map(held_bytes, part)) if isinstance(part, tuple) else 0


@all_methods
@pytest.mark.parametrize("text", ["n2_ci6_i9x8_co10_k3x4_s2x2_p1x1", "n1_ci4_i30_co6_k7_s3_g2_float64", "n1_ci3_i3x4x5_co4_k2"])
def test_prepared_bytes_are_those_of_the_arrays_kept(method: str, text: str):
    problem = Problem.parse(text)
    _, weight, bias = integer_data(problem)
    entry = registry.get(method)
    sizes = 3 * 40 * 8  # at most the tables of two tasks and a Geometry ride along
    held = held_bytes(entry.prepare(problem, weight, bias))
    assert entry.prepared_bytes(problem) <= held <= entry.prepared_bytes(problem) + sizes


def test_matmul_names_an_alternative_where_the_matrix_is_too_large():
    problem = Problem.parse("n1_ci512_i64x64_co256_k3x3_s2x2")
    sentence = registry.get("matmul").supports(problem)
    assert "limit of 2 GiB" in sentence
    assert "method='col2im'" in sentence
    with pytest.raises(NotImplementedError, match="use method='col2im'"):
        tconv_bench.conv_transpose2d(
            np.zeros(problem.x_shape, "float32"), np.zeros(problem.weight_shape, "float32"), stride=2, method="matmul"
        )


def test_a_second_claim_of_a_name_is_an_error():
    with pytest.raises(ValueError, match="variant 'direct' on cpu is already registered by Direct"):
        registry.variant("direct", title="again", source="nobody")(registry.Variant)
