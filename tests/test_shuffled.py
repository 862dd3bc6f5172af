"""``phase`` where kernel = stride: tiles over rows and images, every stride that tiles know, and who goes another way."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tconv_bench import Problem, layers, reference
from tconv_bench.variants import _shuffled
from tests.problems import integer_data, poisoned
from tests.test_phase import ORDERS, PHASE, computed, computed_once, right

SIZES = ("i70", "i9x11", "i16x16", "i5x40", "i31x33", "i3x5x9", "i2x6x32")
KERNELS = {1: ("k2_s2", "k3_s3", "k4_s4"), 2: ("k2x2_s2x2", "k3x3_s3x3", "k1x4_s1x4", "k5x2_s5x2"), 3: ("k2x2x2_s2x2x2",)}


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
@pytest.mark.parametrize("size", SIZES)
def test_every_stride_and_every_cut_of_rows_is_right(size: str, dtype: str):
    for kernel in KERNELS[size.count("x") + 1]:
        for channels in ("ci1_%s_co1", "ci3_%s_co5", "ci17_%s_co13", "ci6_%s_co9_%s_g3"):
            names = channels.replace("_%s_g3", "") % size
            problem = Problem.parse(f"n2_{names}_{kernel}{'_g3' if 'g3' in channels else ''}_{dtype}")
            assert _shuffled.fits(problem)
            assert_array_equal(computed(problem), right(problem), err_msg=str(problem))
            assert_array_equal(computed_once(problem), right(problem), err_msg=str(problem))


@pytest.mark.parametrize("order_out", ORDERS)
@pytest.mark.parametrize("order_x", ORDERS)
def test_any_memory_order_is_read_and_written(order_x: str, order_out: str):
    problem = Problem.parse("n2_ci37_i9x13_co19_k2x2_s2x2")
    x, weight, bias = integer_data(problem)
    state = PHASE.prepare(problem, weight, bias)
    weight[:], bias[:] = 0, 0  # the state has its own
    for _ in range(2):
        out = ORDERS[order_out](poisoned(problem))
        PHASE.run(state, ORDERS[order_x](x), out)
        assert_array_equal(out, right(problem))


@pytest.mark.parametrize("order_out", ["channels-first", "channels-last"])
def test_infinite_weights_reach_their_own_outputs_alone(order_out: str):
    problem = Problem.parse("n1_ci5_i8x10_co4_k2x2_s2x2")
    x, weight, _ = integer_data(problem)
    x = np.abs(x) + 1
    weight[2, 1, 0, 1], weight[3, 2, 1, 0] = np.inf, np.nan
    expected = reference.conv_transpose(problem, x, weight).astype("float32")
    assert np.isinf(expected).sum() == np.isnan(expected).sum() == 80
    out = ORDERS[order_out](poisoned(problem))
    PHASE.run(PHASE.prepare(problem, weight, None), x, out)
    assert_array_equal(out, expected)


def test_any_number_of_threads_gives_the_same_sums():
    problem = Problem.parse("n2_ci70_i23x30_co29_k2x2_s2x2")
    rng = np.random.default_rng(4)
    x, weight = (rng.standard_normal(shape).astype("float32") for shape in (problem.x_shape, problem.weight_shape))
    results = []
    for threads in sorted({1, numba.config.NUMBA_NUM_THREADS}):
        numba.set_num_threads(threads)
        results.append(poisoned(problem))
        PHASE.run(PHASE.prepare(problem, weight, None), x, results[-1])
    assert_array_equal(results[-1], results[0])
    difference = np.abs(results[0] - reference.conv_transpose(problem, x, weight))
    assert (difference <= reference.error_bound(problem, x, weight)).all()


@pytest.mark.parametrize(
    "text",
    [
        "n1_ci3_i9x9_co4_k2x2_s2x2_p1x1", "n1_ci3_i9x9_co4_k3x3_s2x2", "n1_ci3_i9x9_co4_k2x2_s2x2_op1x1",
        "n1_ci3_i9x9_co4_k2x2_s2x2_d2x2", "n1_ci3_i7x9_co4_k2x2_s2x2", "n1_ci3_i9x9_co4_k5x5_s5x5", "n0_ci3_i9x9_co4_k2x2_s2x2",
    ],
)  # fmt: skip
def test_padding_overlap_few_pixels_and_other_strides_go_another_way(text: str):
    problem = Problem.parse(text)
    assert not _shuffled.fits(problem)
    assert_array_equal(computed(problem), right(problem))


def test_layers_of_real_networks_take_it_within_the_workspace():
    fitting = [layer for layer in layers.read() if _shuffled.fits(layer.problem)]
    assert {"U-Net up23", "SAM up2", "MaskRCNN mask N=100", "nnU-Net up56", "PointPillars b3"} <= {x.label for x in fitting}
    for layer in fitting:
        for threads in (1, 2, 16):
            found = _shuffled.layout(layer.problem, threads)
            assert layer.problem.itemsize * _shuffled.workspace_elements(layer.problem, found) <= 2 * 2**20, layer.label
            s = found.shape
            assert found.panels[:, 1].sum() == s.rows
            assert found.units.size * s.stride == s.rows * s.groups
            assert found.tasks == s.groups * -(-s.panels // s.task_panels) * -(-s.positions // s.task_positions)
