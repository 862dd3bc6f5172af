"""What ``winograd`` promises beyond the shared problems: fewer products, any memory order, bounded workspace, one result."""

from __future__ import annotations

import re

import numba
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tconv_bench import Problem, layers, plan, reference, registry, simd
from tconv_bench.variants import _blocks, _phase_layout, _winograd_channels, _winograd_layout, winograd
from tests.problems import PROBLEMS, integer_data, poisoned
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


@pytest.fixture
def over_lines(monkeypatch):
    monkeypatch.setattr(winograd, "_runs_over_channels", lambda problem: False)


@pytest.fixture
def over_channels(monkeypatch):
    """Wherever there is a plan for it."""
    _winograd_channels.layout.cache_clear()
    monkeypatch.setattr(winograd, "_runs_over_channels", lambda problem: True)
    yield
    _winograd_channels.layout.cache_clear()


def computed(problem: Problem, x, weight, bias):
    out = poisoned(problem)
    WINOGRAD.run(WINOGRAD.prepare(problem, weight, bias), x, out)
    return out


def in_bands(rows: int):
    """A stand-in for ``_winograd_channels._rows``: bands of so many rows of blocks where there can be any."""
    original = _winograd_channels._rows
    return lambda z, batch: [rows] if z.tiles > rows and (z.size > 1 or z.taps == 1) else original(z, batch)


@pytest.mark.parametrize("text", TEXTS)
def test_input_channels_in_blocks_add_up(text: str, monkeypatch, fresh_layouts, over_lines):
    problem = Problem.parse(text)
    monkeypatch.setattr(_winograd_layout, "PRODUCTS_BYTES", 1)
    monkeypatch.setattr(_phase_layout, "FAR_BYTES", 0)  # every output's lines are asked for ahead
    assert _winograd_layout.layout(problem, numba.get_num_threads()).shape.block == 1
    x, weight, bias = integer_data(problem)
    for method in (WINOGRAD.one_shot, lambda *a: WINOGRAD.run(WINOGRAD.prepare(*a[:3]), *a[3:])):
        out = poisoned(problem)
        method(problem, weight, bias, x, out)
        assert_array_equal(out, right(problem))


@pytest.mark.parametrize("bands", [0, 1, 2])
def test_every_problem_over_channels(bands: int, monkeypatch, over_channels):
    if bands:
        monkeypatch.setattr(_winograd_channels, "_rows", in_bands(bands))
    served = list(map(Problem.parse, TEXTS)) + [p for p in PROBLEMS if p.dtype == "float32"]
    served = [p for p in served if WINOGRAD.supports(p) is True and _winograd_channels.layout(p, 2)]
    assert len(served) >= 40
    for problem in served:
        x, weight, bias = integer_data(problem)
        assert_array_equal(computed(problem, x, weight, bias), right(problem), err_msg=str(problem))
        out = poisoned(problem)
        WINOGRAD.one_shot(problem, weight, bias, x, out)
        assert_array_equal(out, right(problem), err_msg=str(problem))


@pytest.mark.parametrize(
    "text", ["n1_ci64_i13x11_co40_k3x3_s2x2", "n3_ci30_i8x8_co70_k5x5_s2x2_p2x2_op1x1", "n1_ci33_i9x9_co20_k3x3_p1x1"]
)
def test_bands_images_and_threads_do_not_change_a_bit(text: str, monkeypatch, over_channels):
    problem = Problem.parse(text)
    rng = np.random.default_rng(3)
    x, weight = (rng.standard_normal(shape).astype("float32") for shape in (problem.x_shape, problem.weight_shape))
    bias = rng.standard_normal(problem.c_out).astype("float32")
    exact = reference.conv_transpose(problem, x, weight, bias)
    results = []
    for rows in (1, 2, 3, 10**6):
        monkeypatch.setattr(_winograd_channels, "_rows", lambda z, batch, rows=rows: [min(rows, z.tiles)])
        monkeypatch.setattr(_winograd_channels, "_sizes", lambda g: [(2, 1, 2)])
        _winograd_channels.layout.cache_clear()
        for threads in (1, numba.config.NUMBA_NUM_THREADS):
            numba.set_num_threads(threads)
            results.append(computed(problem, x, weight, bias))
        monkeypatch.undo()
        monkeypatch.setattr(winograd, "_runs_over_channels", lambda problem: True)
    for other in results[1:]:
        assert_array_equal(other, results[0])
    assert np.all(np.abs(results[0] - exact) <= WINOGRAD.error_bound(problem, x, weight, bias))


def test_over_channels_errors_are_those_of_a_float_sum(over_channels):
    """Of 256 channels: at most 2e-6 of the largest output."""
    for text in ("k3x3_s2x2", "k5x5_s2x2_p2x2_op1x1", "k4x4_s2x2_p1x1"):
        problem = Problem.parse(f"n1_ci256_i8x8_co64_{text}")
        rng = np.random.default_rng(5)
        x, weight = (rng.standard_normal(shape).astype("float32") for shape in (problem.x_shape, problem.weight_shape))
        exact = reference.conv_transpose(problem, x, weight, None)
        assert np.abs(computed(problem, x, weight, None) - exact).max() < 2e-6 * np.abs(exact).max()


@pytest.mark.parametrize("way", [False, True])
@pytest.mark.parametrize("alone", [False, True])
def test_weights_of_a_convolution_are_read_as_they_lie(alone: bool, way: bool, monkeypatch):
    """Transformed before all tasks, or panel by panel within them; the same bits as from their copy."""
    monkeypatch.setattr(winograd, "_runs_over_channels", lambda problem: way)
    monkeypatch.setattr(winograd, "_is_alone", lambda found, is_alone=winograd._is_alone: alone and is_alone(found))
    used = set()
    for text in (*TEXTS, "n1_ci70_i6x5_co50_k3x3_s2x2", "n1_ci21_i4x4_co37_k3x3_p1x1_float64", "n1_ci50_i20_co3_k3_p1"):
        problem = Problem.parse(text)
        x, weight, bias = integer_data(problem)
        used.add(winograd._is_alone(winograd._layout(problem)))
        expected, out = right(problem), poisoned(problem)
        WINOGRAD.one_shot(problem, weight, bias, x, out)
        assert_array_equal(out, expected, err_msg=text)
        lying = _blocks.turned(np.ascontiguousarray(_blocks.turned(weight)))
        assert problem.groups > 1 or not lying.flags.c_contiguous
        with monkeypatch.context() as patch:
            patch.setattr(np, "ascontiguousarray", None if problem.groups == 1 else np.ascontiguousarray)  # no copy
            WINOGRAD.one_shot(problem, lying, bias, x, out)
        assert_array_equal(out, expected, err_msg=text)
    assert alone in used


def test_weights_of_a_convolution_that_are_not_finite(monkeypatch):
    """An infinity meets the outputs whose sums it belongs to, and no other."""
    problem = Problem.parse("n1_ci5_i9x7_co13_k3x3_p1x1")
    x, weight, bias = integer_data(problem)
    weight[2, 12, 2, 2] = np.inf
    lying = _blocks.turned(np.ascontiguousarray(_blocks.turned(weight)))
    results = poisoned(problem), poisoned(problem)
    for array, out in zip((weight, lying), results):
        WINOGRAD.one_shot(problem, array, bias, x, out)
    assert_array_equal(*results)
    assert np.all(np.isfinite(results[0][:, :12]))
    assert not np.all(np.isfinite(results[0]))
    assert np.isfinite(results[0][0, 12, 0, 0])


@pytest.mark.parametrize("way", [False, True])
@pytest.mark.parametrize("order_out", ORDERS)
@pytest.mark.parametrize("order_x", ORDERS)
def test_any_memory_order_is_read_and_written(order_x: str, order_out: str, way: bool, monkeypatch):
    monkeypatch.setattr(winograd, "_runs_over_channels", lambda problem: way)
    for problem in map(Problem.parse, TEXTS):
        x, weight, bias = integer_data(problem)
        out = ORDERS[order_out](poisoned(problem))
        WINOGRAD.run(WINOGRAD.prepare(problem, weight, bias), ORDERS[order_x](x), out)
        assert_array_equal(out, right(problem), err_msg=str(problem))


@pytest.mark.parametrize("way", [False, True])
def test_an_infinite_pixel_reaches_its_own_sums_alone(way: bool, monkeypatch):
    monkeypatch.setattr(winograd, "_runs_over_channels", lambda problem: way)
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
def test_a_tile_takes_fewer_products(text: str, sizes: str, products: int, direct: int, over_lines):
    problem = Problem.parse(text)
    found = _winograd_layout.layout(problem, 1)
    assert WINOGRAD.describe(problem).startswith(sizes + ", ")
    assert found.shape.products == products < direct
    assert found.weights == products * problem.c_in * problem.c_out


@pytest.mark.parametrize(
    ("text", "sizes", "products", "direct"),
    [
        ("n1_ci512_i8x8_co512_k3x3_s2x2", "2 x 2", 25, 9 * 4),
        ("n1_ci512_i8x8_co256_k5x5_s2x2_p2x2_op1x1", "2 x 2", 49, 25 * 4),
        ("n64_ci512_i4x4_co256_k4x4_s2x2_p1x1", "2 x 2", 36, 16 * 4),
        ("n1_ci64_i16x16x16_co32_k3x3x3_s2x2x2_p1x1x1_op1x1x1", "2 x 2 x 2", 125, 27 * 8),
    ],
)
def test_few_pixels_run_over_channels_with_fewer_products(text: str, sizes: str, products: int, direct: int):
    problem = Problem.parse(text)
    assert WINOGRAD.describe(problem).startswith(f"blocks of {sizes} pixels, {products} products, ")
    assert products < direct
    found = _winograd_channels.layout(problem, 1)
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
            own = _winograd_layout.workspace(each.axes, task, channels, s.block, s.c_in, s.products, simd.VECTOR_BYTES // 4)
            assert 4 * own <= 4 * 2**20, problem


def test_over_channels_any_number_of_threads_cuts_the_same_blocks_within_the_workspace():
    served = [layer.problem for layer in layers.read() if WINOGRAD.supports(layer.problem) is True]
    found = [[_winograd_channels.layout(problem, threads) for threads in (1, 2, 16)] for problem in served]
    assert sum(each[0] is not None for each in found) > 25
    for problem, each in zip(served, found):
        assert len({own and tuple(axis.size for axis in own.axes) for own in each}) == 1
        for own in filter(None, each):
            assert 4 * _winograd_channels.workspace_of(problem, own) <= 4 * 2**20, problem
