"""``col2im`` on few pixels: every cut of the strips, weights used once and packed, memory orders, and who goes another way."""

from __future__ import annotations

import gc
import weakref

import numba
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tconv_bench import Problem, layers, reference, registry, simd
from tconv_bench.variants import _columns
from tests.problems import integer_data, poisoned
from tests.test_phase import ORDERS, right

COL2IM = registry.get("col2im")
PROBLEMS = (
    "n1_ci20_i1x1_co64_k4x4",  # a lone pixel: weights read in place
    "n5_ci70_i1x1_co40_k4x4_s1x1_p1x1",
    "n70_ci20_i1x1_co64_k4x4_d2x1",  # more images than a task takes
    "n2_ci40_i2x3_co96_k3x3_s2x2_p1x1_op1x0",  # 12 pixels, one tile: it can't copy all of the next block
    "n1_ci200_i3x3_co64_k4x4_s2x2_p1x1",
    "n1_ci130_i4x4_co128_k4x4_s2x2_p1x1",  # rows of more vectors than a block has channels
    "n3_ci150_i4x4_co48_k5x5_s2x2_p2x2_op1x1",
    "n1_ci90_i16x16_co32_k4x4_s2x2_p1x1",  # rows of fewer
    "n2_ci33_i2x3x4_co40_k3x2x3_s2x1x3_d1x2x1",
    "n2_ci66_i5_co33_k16_s8_p4",  # the last strip has one channel, and begins early
    "n1_ci12_i7_co64_k3_s5_op4",  # outputs that no tap meets
    "n2_ci48_i3x4_co64_k3x3_s2x2_p1x1_g2",
    "n1_ci65_i9_co32_k8_s3_p8",  # padding that cuts whole taps off
)


def compute(problem: Problem, once: bool, weight: np.ndarray, bias: np.ndarray | None, x: np.ndarray, out: np.ndarray) -> None:
    if once:
        COL2IM.one_shot(problem, weight, bias, x, out)
        return
    own = weight.copy(), None if bias is None else bias.copy()
    state = COL2IM.prepare(problem, *own)
    for array in own:
        if array is not None:
            array[:] = 0  # the state has its own
    COL2IM.run(state, x, out)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
@pytest.mark.parametrize("text", PROBLEMS)
def test_every_cut_is_right(text: str, dtype: str):
    problem = Problem.parse(f"{text}_{dtype}")
    assert _columns.fits(problem)
    x, weight, bias = integer_data(problem)
    for once in (True, False):
        out = poisoned(problem)
        compute(problem, once, weight, bias, x, out)
        assert_array_equal(out, right(problem))


def test_a_plan_keeps_what_its_tables_point_to():
    problem = Problem.parse("n1_ci40_i4x4_co64_k4x4_s2x2_p1x1")
    x, weight, bias = integer_data(problem)
    state = COL2IM.prepare(problem, weight, bias)
    places = weakref.ref(_columns._tables(problem, numba.get_num_threads(), False)[2])
    _columns._tables.cache_clear()  # as 512 other problems would
    gc.collect()
    assert places() is not None
    out = poisoned(problem)
    COL2IM.run(state, x, out)
    assert_array_equal(out, right(problem))


def test_the_problems_take_every_road():
    ways = [_columns.tiling(Problem.parse(text), 2, True) for text in PROBLEMS]
    assert {way.direct for way in ways} == {0, 1}
    assert {way.images > 1 for way in ways} == {way.strips > 1 for way in ways} == {True, False}
    lone = _columns.DIRECT < simd.TALL  # of narrow vectors, what one tile holds is read in place
    assert min(way.tiles for way in ways if not way.direct) == (1 if lone else 2)
    assert any(way.last_tiles and way.last_tiles != way.tiles for way in ways)


@pytest.mark.parametrize("order_out", ORDERS)
@pytest.mark.parametrize("order_x", ORDERS)
def test_any_memory_order_is_read_and_written(order_x: str, order_out: str):
    problem = Problem.parse("n2_ci40_i4x4_co64_k4x4_s2x2_p1x1")
    x, weight, bias = integer_data(problem)
    for once in (True, False):
        out = ORDERS[order_out](poisoned(problem))
        compute(problem, once, weight, bias, ORDERS[order_x](x), out)
        assert_array_equal(out, right(problem))


def test_infinite_weights_reach_their_own_outputs_alone():
    problem = Problem.parse("n2_ci40_i4x4_co65_k4x4_s2x2_p1x1")
    x, weight, _ = integer_data(problem)
    x = np.abs(x) + 1
    weight[2, 1, 0, 1], weight[3, 64, 1, 0] = np.inf, np.nan
    expected = reference.conv_transpose(problem, x, weight).astype("float32")
    assert np.isinf(expected).any()
    assert np.isnan(expected).any()
    for once in (True, False):
        out = poisoned(problem)
        compute(problem, once, weight, None, x, out)
        assert_array_equal(out, expected)


def test_any_number_of_threads_gives_the_same_sums():
    problem = Problem.parse("n3_ci150_i4x4_co80_k4x4_s2x2_p1x1")
    rng = np.random.default_rng(4)
    x, weight = (rng.standard_normal(shape).astype("float32") for shape in (problem.x_shape, problem.weight_shape))
    results = []
    for threads in sorted({1, numba.config.NUMBA_NUM_THREADS}):
        numba.set_num_threads(threads)
        for once in (True, False):
            results.append(poisoned(problem))
            compute(problem, once, weight, None, x, results[-1])
    for result in results[1:]:
        assert_array_equal(result, results[0])
    difference = np.abs(results[0] - reference.conv_transpose(problem, x, weight))
    assert (difference <= reference.error_bound(problem, x, weight)).all()


def test_no_thread_takes_more_than_4_mib_on_a_layer():
    found = [layer.problem for layer in layers.read() if _columns.fits(layer.problem)]
    assert len(found) >= 12
    for problem in found:
        assert problem.itemsize * _columns.workspace_elements(problem) <= 4 * 2**20


@pytest.mark.parametrize(
    "text",
    [
        "n1_ci8_i17x17_co64_k4x4_s2x2",  # too many pixels
        "n1_ci8_i4x4_co1_k3x3_s2x2",  # too few columns
        "n1_ci8_i4x4_co64_k4x4_s64x64",  # too many sums
        "n0_ci8_i4x4_co64_k4x4",
        "n64_ci20000_i1x1_co64_k4x4",  # too many inputs at once
    ],
)
def test_who_goes_another_way(text: str):
    assert not _columns.fits(Problem.parse(text))
