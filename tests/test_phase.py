"""What ``phase`` promises beyond the shared problems: both layouts everywhere, any memory order, bounded workspace, bitwise
results whatever the threads, and its parts in ``simd``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from tconv_bench import Problem, conv_transpose2d, layers, reference, registry, simd
from tconv_bench.variants import _phase_layout
from tests.problems import PROBLEMS, integer_data, poisoned
from tests.test_variants import problems

PHASE = registry.get("phase")


def right(problem: Problem) -> NDArray[Any]:
    return reference.conv_transpose(problem, *integer_data(problem)).astype(problem.dtype)


def computed(problem: Problem) -> NDArray[Any]:
    x, weight, bias = integer_data(problem)
    out = poisoned(problem)
    PHASE.run(PHASE.prepare(problem, weight, bias), x, out)
    return out


def computed_once(problem: Problem) -> NDArray[Any]:
    x, weight, bias = integer_data(problem)
    out = poisoned(problem)
    PHASE.one_shot(problem, weight, bias, x, out)
    return out


@pytest.fixture
def fresh_layouts():
    """Layouts that a test changed are not left to others."""
    caches = (_phase_layout.layout, _phase_layout.one_shot_layout)
    for found in caches:
        found.cache_clear()
    yield
    for found in caches:
        found.cache_clear()


@pytest.mark.parametrize(("over_pixels", "past_the_caches"), [(True, False), (True, True), (False, False)])
def test_each_layout_is_right_on_every_problem_that_it_can_hold(
    over_pixels: bool, past_the_caches: bool, monkeypatch, fresh_layouts
):
    cut, met = _phase_layout._cut, set()

    def preferred(work: Any, threads: int, way: bool) -> Any:
        found = cut(work, threads, way)
        return found._replace(cycles=found.cycles * 1e-9) if found and way == over_pixels else found

    monkeypatch.setattr(_phase_layout, "_cut", preferred)
    monkeypatch.setattr(_phase_layout, "FAR_BYTES", 0)  # every output's lines are asked for ahead
    if past_the_caches:
        monkeypatch.setattr(_phase_layout, "BEYOND_BYTES", 0)
    for problem in PROBLEMS[::5]:
        assert_array_equal(computed(problem), right(problem), err_msg=str(problem))
        assert_array_equal(computed_once(problem), right(problem), err_msg=str(problem))
        found = _phase_layout.one_shot_layout(problem, numba.get_num_threads())
        met.add((bool(found.shape.over_pixels), found.reads_raw))
    assert (over_pixels, not over_pixels) in met


@pytest.mark.parametrize(
    "text", ["n1_ci40_i16_co70_k25_s4_p11_op1", "n1_ci70_i3x3_co40_k3x3_s2x2_p1x1", "n1_ci3_i4_co9_k96_s32"]
)
def test_weights_used_once_are_read_where_they_lie(text: str, monkeypatch, fresh_layouts):
    problem = Problem.parse(text)
    monkeypatch.setattr(_phase_layout, "FEW_WEIGHTS", 0)
    monkeypatch.setattr(_phase_layout, "CHANNELS_BYTES", 1)  # several blocks of input channels
    numba.set_num_threads(1)  # more of them may share a panel's weights
    found = _phase_layout.one_shot_layout(problem, 1)
    assert found.reads_raw
    assert found.shape.raw == 0  # a plan's weights are packed
    assert found.record_once["raw"][0] == 1
    assert_array_equal(computed_once(problem), right(problem))
    x, weight, bias = integer_data(problem)
    weight[1, 2, ..., 0] = np.nan
    out = poisoned(problem)
    PHASE.one_shot(problem, weight, bias, x, out)
    assert_array_equal(out, reference.conv_transpose(problem, x, weight, bias).astype("float32"))


@pytest.mark.parametrize(
    "text",
    [
        "n2_ci40_i9x11_co30_k3x4_s2x2_p1x1", "n1_ci33_i50_co1_k9_s3_p2", "n1_ci20_i4x5x6_co13_k3x2x3_s2x1x2",
        "n2_ci18_i7x5_co14_k2x2_s2x2_g2",
    ],
)  # fmt: skip
def test_input_channels_in_blocks_add_up(text: str, monkeypatch, fresh_layouts):
    problem = Problem.parse(text)
    monkeypatch.setattr(_phase_layout, "LIMIT_BYTES", 16 * simd.VECTOR_BYTES)  # a line is as many vectors, however wide
    monkeypatch.setattr(_phase_layout, "PACKED_BYTES", 1)  # no room over channels
    shape = _phase_layout.layout(problem, numba.get_num_threads()).shape
    assert shape.block < shape.c_in
    assert_array_equal(computed(problem), right(problem))


@pytest.mark.parametrize("text", ["n2_ci3_i5x7_co4_k64x64_s32x32", "n1_ci5_i9_co2_k128_s32", "n1_ci4_i6_co2_k96_s32_p32:32"])
def test_phases_that_fill_vectors_count_as_channels(text: str):
    problem = Problem.parse(text)
    if simd.VECTOR_BYTES <= 64:
        assert _phase_layout.layout(problem, 1).shape.fold == 32
    assert_array_equal(computed(problem), right(problem))


def channels_last(array: NDArray[Any]) -> NDArray[Any]:
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 1, -1)), -1, 1)


def with_gaps(array: NDArray[Any]) -> NDArray[Any]:
    return np.repeat(array, 2, axis=-1)[..., ::2]


ORDERS = {"channels-first": np.ascontiguousarray, "channels-last": channels_last, "with gaps": with_gaps}


@pytest.mark.parametrize("order_out", ORDERS)
@pytest.mark.parametrize("order_x", ORDERS)
def test_any_memory_order_is_read_and_written(order_x: str, order_out: str):
    for problem in [
        *PROBLEMS[::11],
        Problem.parse("n2_ci3_i5x7_co4_k64x64_s32x32"),
        Problem.parse("n2_ci40_i17x19_co50_k4x4_s2x2_p1x1"),
    ]:
        x, weight, bias = integer_data(problem)
        out = ORDERS[order_out](poisoned(problem))
        PHASE.run(PHASE.prepare(problem, weight, bias), ORDERS[order_x](x), out)
        assert_array_equal(out, right(problem), err_msg=str(problem))


def test_a_channels_last_view_gives_a_channels_last_result():
    problem = Problem.parse("n2_ci8_i5x6_co7_k4x4_s2x2_p1x1")
    x, weight, bias = integer_data(problem)
    out = conv_transpose2d(channels_last(x), weight, bias, stride=2, padding=1, method="phase")
    assert np.moveaxis(out, 1, -1).flags.c_contiguous
    assert_array_equal(out, right(problem))


def test_one_shot_is_the_planned_result_and_serves_nonfinite_weights():
    for problem in PROBLEMS[::5]:
        x, weight, bias = integer_data(problem)
        out = poisoned(problem)
        PHASE.one_shot(problem, weight, bias, x, out)
        assert_array_equal(out, right(problem), err_msg=str(problem))
    problem = Problem.parse("n1_ci3_i4x5_co2_k3x3_s2x2_p1x1")
    x, weight, bias = integer_data(problem)
    weight[1, 0, 2, 2] = np.inf
    out = poisoned(problem)
    PHASE.one_shot(problem, weight, bias, x, out)
    with np.errstate(invalid="ignore"):
        assert_array_equal(out, reference.conv_transpose(problem, x, weight, bias).astype("float32"))


@pytest.mark.parametrize(
    "text", ["n3_ci37_i9x33_co29_k5x5_s2x2_p2x2", "n1_ci300_i4x4_co70_k4x4_s2x2_p1x1", "n1_ci64_i900_co1_k9_s4"]
)
def test_any_number_of_threads_plans_the_same_sums(text: str):
    problem = Problem.parse(text)
    rng = np.random.default_rng(3)
    x, weight = (rng.standard_normal(shape).astype("float32") for shape in (problem.x_shape, problem.weight_shape))
    results = []
    for threads in {1, numba.config.NUMBA_NUM_THREADS}:
        numba.set_num_threads(threads)
        out = poisoned(problem)
        PHASE.run(PHASE.prepare(problem, weight, None), x, out)
        results.append(out)
    for other in results[1:]:
        assert_array_equal(other, results[0])
    ways = {
        (s.over_pixels, s.fold, s.merged, s.block, s.chunk)
        for s in (_phase_layout.layout(problem, n).shape for n in (1, 2, 3, 8, 64))
    }
    assert len(ways) == 1


@pytest.mark.parametrize(
    "text",
    [
        "n1_ci3_i9_co2_k256_s64",
        "n1_ci70_i3x3_co67_k3x3_s2x2_p1x1",
        "n1_ci5_i20x20_co7_k4x4_s2x2_p1x1",
        "n1_ci5_i20x20_co7_k2x2_s2x2",
    ],
)
def test_nothing_beyond_the_weights_is_looked_at(text: str, monkeypatch):
    problem = Problem.parse(text)
    x, weight, bias = integer_data(problem)
    beyond = np.full(weight.size + 4096, np.nan, problem.dtype)
    beyond[: weight.size] = weight.reshape(-1)
    for name in ("prepare", "one_shot"):
        monkeypatch.setattr(registry.get("direct"), name, None)  # who takes over where a weight is not finite
    out = poisoned(problem)
    PHASE.one_shot(problem, beyond[: weight.size].reshape(weight.shape), bias, x, out)
    assert_array_equal(out, right(problem))
    out = poisoned(problem)
    PHASE.run(PHASE.prepare(problem, beyond[: weight.size].reshape(weight.shape), bias), x, out)
    assert_array_equal(out, right(problem))


def test_workspace_is_bounded_whatever_the_layer():
    for threads in (1, 2, 16):
        for layer in layers.read():
            found = _phase_layout.layout(layer.problem, threads)
            assert layer.problem.itemsize * _phase_layout.workspace_elements(found) <= 4 * 2**20, (layer.label, threads)


def test_every_task_is_someones_and_every_tap_is_counted_once():
    for problem in PROBLEMS:
        found = _phase_layout.layout(problem, 2)
        s = found.shape
        assert found.jobs[:, :, 1].sum() == s.entries
        assert (found.members >= 0).sum() == s.taps <= problem.taps
        assert found.panels[:, 2].sum() == s.c_out


def test_tile_heights_add_up():
    for channels in range(1, 200):
        cut = _phase_layout.heights(channels)
        assert sum(cut) == channels
        assert set(cut) <= set(simd.HEIGHTS)


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(problem=problems(), seed=st.integers(0, 2**32 - 1))
def test_ten_thousand_problems_stay_within_the_rounding_bound(problem: Problem, seed: int):
    rng = np.random.default_rng(seed)
    x, weight, bias = (
        rng.standard_normal(shape).astype(problem.dtype) for shape in (problem.x_shape, problem.weight_shape, problem.c_out)
    )
    out = poisoned(problem)
    PHASE.run(PHASE.prepare(problem, weight, bias), x, out)
    error = np.abs(out - reference.conv_transpose(problem, x, weight, bias))
    assert np.all(error <= reference.error_bound(problem, x, weight, bias))


@pytest.mark.parametrize(
    ("text", "crop"),
    [
        ("n2_ci5_i9x17_co1_k9x9_s3x3_p4x4_op2x2", 1),
        ("n1_ci7_i11x70_co2_k9x9_s3x3_p4x4", 1),
        ("n2_ci3_i5x6x9_co2_k3x3x6_s2x2x3_p1x1x2", 2),
        ("n1_ci3_i5x300_co1_k6x6_s3x3_p0x5:1", 2),
        ("n3_ci4_i40_co1_k25_s4_p11_op1", 0),
    ],
)
def test_one_or_two_channels_count_phases_from_where_all_of_them_read_a_pixel(text: str, crop: int):
    problem = Problem.parse(text)
    assert _phase_layout.layout(problem, 2).shape.crop == crop
    x, weight, bias = integer_data(problem)
    for order in ORDERS.values():
        out = order(poisoned(problem))
        PHASE.run(PHASE.prepare(problem, weight, bias), x, out)
        assert_array_equal(out, right(problem))


@pytest.fixture
def rows_of_taps(monkeypatch, fresh_layouts):
    """Every problem that rows of taps can hold takes that road, in tasks as small as they may be."""
    cut = _phase_layout._row_cut

    def preferred(work: Any, threads: int) -> Any:
        found = cut(work, threads)
        return found and found._replace(cycles=found.cycles * 1e-9)

    monkeypatch.setattr(_phase_layout, "_row_cut", preferred)
    monkeypatch.setattr(_phase_layout, "SUMS_BYTES", 1)


def test_rows_of_taps_are_right_on_every_problem_that_they_can_hold(rows_of_taps):
    met = 0
    for problem in PROBLEMS[::3]:
        if _phase_layout.layout(problem, 2).shape.chunk:
            met += 1
            assert_array_equal(computed(problem), right(problem), err_msg=str(problem))
            assert_array_equal(computed_once(problem), right(problem), err_msg=str(problem))
    assert met > 10


@pytest.mark.parametrize(
    "text",
    [
        "n1_ci9_i1700_co1_k25_s4_p11_op1", "n3_ci37_i9x33_co3_k5x5_s2x2_p2x2", "n1_ci20_i70x50_co2_k9x9_s3x3_p4x4",
        "n2_ci8_i5x6x9_co2_k3x3x6_s2x2x3_p1x1x2", "n1_ci16_i300_co40_k4_s2_p1", "n2_ci32_i12x25_co8_k3x5_s2x3_p1x2_g4_d2x1",
        "n1_ci5_i12x40_co4_k3x7_s4x9_p0x2", "n2_ci12_i30x40_co3_k4x4_s2x2_p1x1_float64",
    ],
)  # fmt: skip
def test_rows_of_taps_of_several_chunks_tasks_and_orders(text: str, monkeypatch, rows_of_taps):
    problem = Problem.parse(text)
    monkeypatch.setattr(_phase_layout, "ROWS_BYTES", 16 * 1024)
    monkeypatch.setattr(_phase_layout, "FAR_BYTES", 0)
    monkeypatch.setattr(_phase_layout, "BEYOND_BYTES", 0)  # rows that go past the caches
    taken = problem.stride[-1] in simd.INTERLEAVED
    assert (_phase_layout.layout(problem, 2).shape.chunk > 0) == taken
    for order in ORDERS.values():
        x, weight, bias = integer_data(problem)
        out = order(poisoned(problem))
        PHASE.run(PHASE.prepare(problem, weight, bias), order(x), out)
        assert_array_equal(out, right(problem))


@pytest.mark.parametrize("text", ["n2_ci33_i40x41_co3_k5x5_s2x2_p2x2", "n1_ci64_i3000_co1_k25_s4_p11"])
def test_sums_of_rows_of_taps_depend_neither_on_threads_nor_on_tasks(text: str, monkeypatch, rows_of_taps):
    problem = Problem.parse(text)
    rng = np.random.default_rng(5)
    x, weight = (rng.standard_normal(shape).astype("float32") for shape in (problem.x_shape, problem.weight_shape))
    results, tasks = [], set()
    for sums_bytes, rows_bytes in ((1, 2**14), (2**18, 2**15), (2**20, 2**16)):
        monkeypatch.setattr(_phase_layout, "SUMS_BYTES", sums_bytes)
        monkeypatch.setattr(_phase_layout, "ROWS_BYTES", rows_bytes)
        _phase_layout.layout.cache_clear()
        shape = _phase_layout.layout(problem, numba.get_num_threads()).shape
        tasks.add((shape.task_positions, shape.chunk))
        out = poisoned(problem)
        PHASE.run(PHASE.prepare(problem, weight, None), x, out)
        results.append(out)
    assert len(tasks) == 3
    assert_array_equal(results[1], results[0])
    assert_array_equal(results[2], results[0])


def test_only_outputs_that_no_cache_keeps_go_past_them():
    sizes = {512: 0, 1024: 1, 4096: 2}  # squares of 1, 4 and 64 MiB
    assert {n: _phase_layout.distance(Problem(1, 1, (n, n), 1, 1)) for n in sizes} == sizes


DEPTHWISE = [
    Problem(2, 3, (5, 40), 3, (3, 3), padding=1, groups=3),
    Problem(1, 5, (7, 33), 5, (4, 4), stride=2, padding=1, groups=5),
    Problem(2, 2, (4, 70), 2, (5, 3), stride=(2, 3), padding=(2, 0), output_padding=(1, 2), groups=2),
    Problem(1, 4, (9, 9), 4, (8, 8), stride=4, padding=2, groups=4),
    Problem(1, 2, (6, 5), 2, (9, 7), stride=(3, 5), groups=2),  # a stride that is not woven
    Problem(1, 3, (300,), 3, 4, stride=2, padding=1, groups=3),
    Problem(1, 2, (3, 4, 17), 2, (3, 2, 4), stride=(2, 1, 2), padding=(1, 0, 1), dilation=(1, 2, 1), groups=2),
]


@pytest.mark.parametrize("problem", DEPTHWISE, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_depthwise_is_right_in_any_memory_order_and_any_cut(problem: Problem, dtype: str, monkeypatch, fresh_layouts):
    problem = replace(problem, dtype=dtype)
    x, weight, bias = integer_data(problem)
    exact = right(problem)
    last = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    for packed in (_phase_layout.PACKED_BYTES, 1):  # tasks of whole images, and of a few positions
        monkeypatch.setattr(_phase_layout, "PACKED_BYTES", packed)
        _phase_layout.layout.cache_clear()
        state = PHASE.prepare(problem, weight, bias)
        for pixels in (x, last):
            out_last = np.moveaxis(np.empty((problem.batch, *exact.shape[2:], problem.c_out), dtype), -1, 1)
            for out in (poisoned(problem), out_last):
                PHASE.run(state, pixels, out)
                assert_array_equal(out, exact)


def test_few_output_channels_take_rows_of_taps_and_many_do_not():
    if simd.VECTOR_BYTES == 64:
        taken = {layer.label for layer in layers.read() if _phase_layout.layout(layer.problem, 2).shape.chunk}
        assert {"pix2pix-UNet256 up8", "FSRCNN x2", "FSRCNN x3", "FSRCNN x4", "VQ-VAE-2 out"} <= taken
        assert not taken & {"FCN-8s up2", "HiFi-GAN-V1 u4", "3D-UNet k3s2", "U-Net up92", "ISTFT n1024"}


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_lines_are_added_up_at_their_places(dtype: str):
    lanes = simd.VECTOR_BYTES // np.dtype(dtype).itemsize
    rng = np.random.default_rng(1)
    lines = rng.integers(-99, 99, 40 * lanes).astype(dtype)
    places = np.array([7, 3 * lanes + 1, 0, 11 * lanes + 5])
    for count in (0, 1, 4, 7):
        for first, number in ((0, 4), (1, 1), (2, 2)):
            sums = rng.integers(-99, 99, 12 * lanes).astype(dtype)
            expected = sums.copy()
            for place in places[first : first + number]:
                expected[3 : 3 + count * lanes] += lines[5 + place : 5 + place + count * lanes]
            _add_lines(lines, 5, places, first, number, sums, 3, count * lanes)
            assert_array_equal(sums, expected)


@numba.njit
def _add_lines(lines, at, places, first, number, sums, to, count):
    simd.add_lines(lines, at, places, first, number, sums, to, count)
