"""What ``winograd`` promises beyond the shared problems: fewer products, any memory order, bounded workspace, one result."""

from __future__ import annotations

import re

import numba
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tconv_bench import Problem, layers, plan, reference, registry
from tconv_bench.variants import _winograd_layout
from tests.problems import integer_data, poisoned
from tests.test_phase import ORDERS, right

WINOGRAD = registry.get("winograd")
TEXTS = [
    "n2_ci5_i9x7_co13_k4x4_s2x2_p1x1", "n1_ci40_i11x17_co7_k5x5_s2x2_p2x2_op1x1", "n1_ci6_i6x7x8_co4_k3x3x3_s2x2x2_p1x1x1",
    "n3_ci8_i6x7_co4_k4x2_s2x2_g2", "n1_ci9_i33_co15_k16_s8_p4", "n2_ci3_i20x21_co14_k3x3_p1x1",
]  # fmt: skip


@pytest.fixture
def fresh_layouts():
    """Layouts that a test changed are not left to others."""
    _winograd_layout.layout.cache_clear()
    yield
    _winograd_layout.layout.cache_clear()


@pytest.mark.parametrize("text", TEXTS)
def test_input_channels_in_blocks_add_up(text: str, monkeypatch, fresh_layouts):
    problem = Problem.parse(text)
    monkeypatch.setattr(_winograd_layout, "PRODUCTS_BYTES", 1)
    monkeypatch.setattr(_winograd_layout, "FAR_BYTES", 0)  # every output's lines are asked for ahead
    assert _winograd_layout.layout(problem, numba.get_num_threads()).shape.block == 1
    x, weight, bias = integer_data(problem)
    for method in (WINOGRAD.one_shot, lambda *a: WINOGRAD.run(WINOGRAD.prepare(*a[:3]), *a[3:])):
        out = poisoned(problem)
        method(problem, weight, bias, x, out)
        assert_array_equal(out, right(problem))


@pytest.mark.parametrize("order_out", ORDERS)
@pytest.mark.parametrize("order_x", ORDERS)
def test_any_memory_order_is_read_and_written(order_x: str, order_out: str):
    for problem in map(Problem.parse, TEXTS):
        x, weight, bias = integer_data(problem)
        out = ORDERS[order_out](poisoned(problem))
        WINOGRAD.run(WINOGRAD.prepare(problem, weight, bias), ORDERS[order_x](x), out)
        assert_array_equal(out, right(problem), err_msg=str(problem))


def test_an_infinite_pixel_reaches_its_own_sums_alone():
    problem = Problem.parse("n1_ci3_i9x10_co4_k4x4_s2x2_p1x1")
    x, weight, bias = integer_data(problem)
    weight[weight == 0] = 1
    x[0, 1, 4, 5] = np.inf
    with np.errstate(invalid="ignore"):
        exact = reference.conv_transpose(problem, x, weight, bias).astype("float32")
    for out in (poisoned(problem), np.moveaxis(np.empty((1, 18, 20, 4), "float32"), -1, 1)):
        WINOGRAD.run(WINOGRAD.prepare(problem, weight, bias), x, out)
        assert_array_equal(out, exact)
    out = poisoned(problem)
    WINOGRAD.one_shot(problem, weight, bias, x, out)
    assert_array_equal(out, exact)


@pytest.mark.parametrize(
    ("text", "sizes", "products", "direct"),
    [
        ("n1_ci512_i32x32_co128_k4x4_s2x2_p1x1", "F(3, 2) x F(3, 2)", 64, 16 * 9),
        ("n1_ci256_i64x64_co128_k3x3_s2x2_p1x1_op1x1", "F(3, 2) x F(3, 2)", 49, 9 * 9),
        ("n1_ci256_i32x32_co256_k3x3_p1x1", "F(2, 3) x F(2, 3)", 16, 9 * 4),
        ("n1_ci256_i2264_co128_k16_s8_p4", "F(3, 2)", 32, 16 * 3),
        ("n1_ci64_i40x50_co64_k4x2_s2x2", "F(3, 2)", 16, 8 * 3),
    ],
)
def test_a_tile_takes_fewer_products(text: str, sizes: str, products: int, direct: int):
    problem = Problem.parse(text)
    found = _winograd_layout.layout(problem, 1)
    assert WINOGRAD.describe(problem).startswith(sizes + ", ")
    assert found.shape.products == products < direct
    assert found.weights == products * problem.c_in * problem.c_out


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("n1_ci2_i4x4_co2_k2x2_s2x2", "needs two or three taps per phase along an axis, one elsewhere, not kernel (2, 2)"),
        ("n1_ci2_i4x4_co2_k9x9_s2x2", "needs two or three taps per phase"),
        ("n1_ci2_i4x4_co2_k3x1_s2x2", "needs two or three taps per phase"),
        ("n1_ci2_i4x4_co2_k3x3_d2x2", "needs dilation 1, not (2, 2)"),
        ("n1_ci2_i4x4_co2_k3x3_int64", "computes with halves and has no int64"),
    ],
)
def test_what_it_does_not_serve_is_said_with_an_alternative(text: str, reason: str):
    problem = Problem.parse(text)
    weight = np.ones(problem.weight_shape, problem.dtype)
    with pytest.raises(NotImplementedError, match=re.escape(reason) + ".*use method='phase'"):
        plan(weight, problem.x_shape, stride=problem.stride, dilation=problem.dilation, method="winograd")


def test_any_number_of_threads_plans_the_same_tiles_within_the_workspace():
    served = [layer.problem for layer in layers.read() if WINOGRAD.supports(layer.problem) is True]
    assert len(served) > 30
    for problem in served:
        found = [_winograd_layout.layout(problem, threads) for threads in (1, 2, 16)]
        assert len({tuple(axis.size for axis in each.axes) for each in found}) == 1
        for each in found:
            s = each.shape
            channels = max(each.panels[i : i + s.task_panels, 1].sum() for i in range(0, s.panels, s.task_panels))
            task = min(s.task_positions, s.positions)
            own = _winograd_layout.workspace(each.axes, task, channels, s.block, s.c_in, s.products, 16)
            assert 4 * own <= 4 * 2**20, problem
