"""``conv_transpose_grads``: the adjoint identity on every awkward problem, values known by hand, and clear errors."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from tconv_bench import Problem, backward, conv_transpose_grads, gradients, layers, reference
from tconv_bench.gradients import Gradients
from tests.problems import NAMED, PROBLEMS, integer_data

X = np.arange(2 * 3 * 4 * 5, dtype=np.float64).reshape(2, 3, 4, 5)
W = np.arange(3 * 2 * 3 * 3, dtype=np.float64).reshape(3, 2, 3, 3) - 20


def integers(problem: Problem, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """grad_out, x and weight: small integers, so that every sum is exact."""
    x, weight, _ = integer_data(problem, seed)
    return np.random.default_rng(seed + 1).integers(-4, 5, problem.out_shape).astype(problem.dtype), x, weight


def grads(problem: Problem, grad_out: NDArray[Any], x: NDArray[Any], weight: NDArray[Any]) -> Gradients:
    return conv_transpose_grads(
        grad_out, x, weight, stride=problem.stride, padding=problem.padding, output_padding=problem.output_padding,
        groups=problem.groups, dilation=problem.dilation,
    )  # fmt: skip


def inner(a: NDArray[Any], b: NDArray[Any]) -> float:
    """<a, b>, exact for small integers in any dtype."""
    return float(np.vdot(a.astype(np.float64), b.astype(np.float64)))


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_every_problem_is_the_definition(problem: Problem):
    data = integers(problem)
    for own, exact in zip(grads(problem, *data), reference.conv_transpose_grads(problem, *data)):
        assert own.dtype == problem.dtype
        assert_array_equal(own, exact)


@pytest.mark.parametrize("problem", [Problem.parse(f"{text}_float64") for text in NAMED.values()], ids=str)
def test_the_definition_is_the_adjoint_of_the_forward_definition(problem: Problem):
    """Forward is linear in x, in weight and in bias: <g, T(x + dx) - T(x)> = <grad_x, dx>, exactly, for any direction dx."""
    grad_out, x, weight = integers(problem)
    dx, dw, db = integer_data(problem, 5)
    grad_x, grad_weight, grad_bias = reference.conv_transpose_grads(problem, grad_out, x, weight)
    before = reference.conv_transpose(problem, x, weight)
    for gradient, direction, after in (
        (grad_x, dx, reference.conv_transpose(problem, x + dx, weight)),
        (grad_weight, dw, reference.conv_transpose(problem, x, weight + dw)),
        (grad_bias, db, reference.conv_transpose(problem, x, weight, db)),
    ):
        assert inner(gradient, direction) == inner(grad_out, after - before)


def test_values_of_pytorch():
    """torch.autograd.grad of conv_transpose2d(x, w, stride=2, padding=1, output_padding=1), PyTorch 2.13."""
    x = np.array([[[[1.0, 2.0], [3.0, 4.0]]]])
    weight = np.array([[[[1.0, -1.0, 2.0], [0.0, 3.0, 1.0], [-2.0, 1.0, 0.5]]]])
    grad_out = np.arange(16.0).reshape(1, 1, 4, 4)
    found = conv_transpose_grads(grad_out, x, weight, stride=2, padding=1, output_padding=1)
    assert_array_equal(found.grad_x, [[[[7.5, 8.5], [57.5, 49.5]]]])
    assert_array_equal(found.grad_weight, [[[[20, 36, 43], [38, 68, 78], [62, 108, 118]]]])
    assert found.grad_bias.tolist() == [120.0]


def test_a_random_direction_in_floats():
    problem = Problem(2, 21, (9, 13), 18, (3, 4), stride=(2, 3), padding=1, output_padding=(1, 0), groups=3, dtype="float64")
    rng = np.random.default_rng(11)
    grad_out, x, dx = (rng.standard_normal(shape) for shape in (problem.out_shape, problem.x_shape, problem.x_shape))
    weight, dw = (rng.standard_normal(problem.weight_shape) for _ in range(2))
    found = grads(problem, grad_out, x, weight)
    both = np.vdot(grad_out, reference.conv_transpose(problem, x + dx, weight + dw))
    both -= np.vdot(grad_out, reference.conv_transpose(problem, x, weight))
    mixed = np.vdot(grad_out, reference.conv_transpose(problem, dx, dw))
    expected = np.vdot(found.grad_x, dx) + np.vdot(found.grad_weight, dw) + mixed
    assert both == pytest.approx(expected, rel=1e-10)


def bound(problem: Problem, terms: int, magnitudes: NDArray[Any]) -> NDArray[Any]:
    """gamma_n * sum |a||b|, twice that in float64, whose reference rounds as well (see ``reference.error_bound``)."""
    unit = float(np.finfo(problem.dtype).eps) / 2 * (2 if problem.dtype == "float64" else 1)
    return terms * unit / (1 - terms * unit) * magnitudes


SEVERAL_TASKS = (
    "n2_ci37_i9x33_co29_k5x5_s2x2_p2x2_op1x1", "n3_ci13_i700_co9_k7_s3_p2", "n1_ci26_i40x41_co10_k4x4_s4x4_g2_float64",
    "n2_ci5_i6x5x20_co4_k3x3x3_s2x2x2_p1x1x1", "n40_ci50_i4x4_co20_k4x4_s2x2_p1x1", "n70_ci130_i1x1_co40_k4x4",
    "n1_ci24_i30x30_co6_k16x16_s8x8", "n1_ci9_i90x100_co3_k9x9_s5x5_p4x4_d1x2",
)  # fmt: skip


@pytest.mark.parametrize("text", SEVERAL_TASKS)
def test_floats_stay_within_the_rounding_bound(text: str):
    """Sizes of several tasks, blocks and shares of both gradients."""
    problem = Problem.parse(text)
    rng = np.random.default_rng(4)
    shapes = problem.out_shape, problem.x_shape, problem.weight_shape
    data = [rng.standard_normal(shape).astype(problem.dtype) for shape in shapes]
    exact = reference.conv_transpose_grads(problem, *data)
    magnitudes = reference.conv_transpose_grads(problem, *map(np.abs, data))
    terms = (
        problem.c_out // problem.groups * problem.taps, problem.batch * problem.in_pixels, problem.batch * problem.out_pixels
    )  # fmt: skip
    for own, sums, count, magnitude in zip(grads(problem, *data), exact, terms, magnitudes):
        assert (np.abs(own - sums) <= bound(problem, count, magnitude)).all()


def test_weights_and_input_are_turned_once_or_by_each_task():
    cuts = [backward.cut(Problem.parse(text)) for text in SEVERAL_TASKS]
    assert {(cut.packs_weight, cut.packs_x) for cut in cuts} == {(0, 1), (1, 0), (1, 1)}


def test_the_workspace_is_small_whatever_the_layer():
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    sizes = {layer.label: backward.workspace_bytes(layer.problem) for layer in layers.read()}
    numba.set_num_threads(before)
    assert max(sizes.values()) <= 40 * 2**20, sizes
    assert sorted(sizes.values())[len(sizes) // 2] <= 4 * 2**20, sizes


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint64"])
def test_integers_wrap_as_their_dtype_does(dtype: str):
    rng = np.random.default_rng(3)
    info = np.iinfo(dtype)
    shapes = (1, 2, 7), (1, 2, 3), (2, 2, 3)
    grad_out, x, weight = (rng.integers(info.min, info.max, shape, dtype, endpoint=True) for shape in shapes)
    found = conv_transpose_grads(grad_out, x, weight, stride=2)
    exact = [np.zeros(shape, object) for shape in ((1, 2, 3), (2, 2, 3), (2,))]
    for c, o, i, k in np.ndindex(2, 2, 3, 3):
        g = int(grad_out[0, o, 2 * i + k])
        exact[0][0, c, i] += g * int(weight[c, o, k])
        exact[1][c, o, k] += g * int(x[0, c, i])
    for o, q in np.ndindex(2, 7):
        exact[2][o] += int(grad_out[0, o, q])
    for own, sums in zip(found, exact):
        assert own.dtype == dtype
        assert own.tolist() == (np.mod(sums - info.min, 2**info.bits) + info.min).tolist()


def test_unbatched_input_gives_unbatched_gradients():
    grad_out = np.arange(2 * 9 * 11.0).reshape(2, 9, 11)
    found = conv_transpose_grads(grad_out, X[0], W, stride=2)
    batched = conv_transpose_grads(grad_out[None], X[:1], W, stride=2)
    assert found.grad_x.shape == X[0].shape
    assert_array_equal(found.grad_x, batched.grad_x[0])
    assert_array_equal(found.grad_weight, batched.grad_weight)
    assert_array_equal(found.grad_bias, batched.grad_bias)


def test_one_and_three_axes():
    one = conv_transpose_grads(np.ones((1, 1, 4)), np.array([[[1.0, 2.0]]]), np.array([[[1.0, 10.0]]]), stride=2)
    assert [a.tolist() for a in one] == [[[[11.0, 11.0]]], [[[3.0, 3.0]]], [4.0]]
    three = conv_transpose_grads(np.ones((1, 2, 2, 2)), np.full((1, 1, 1, 1), 3.0), np.ones((1, 1, 2, 2, 2)))
    assert three.grad_x.tolist() == [[[[8.0]]]]
    assert_array_equal(three.grad_weight, np.full((1, 1, 2, 2, 2), 3.0))


def test_an_empty_batch_gives_zeros_for_the_weights():
    found = conv_transpose_grads(np.zeros((0, 2, 6, 7)), X[:0], W)
    assert found.grad_x.shape == (0, 3, 4, 5)
    assert not found.grad_weight.any()
    assert found.grad_weight.shape == W.shape
    assert found.grad_bias.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("change", ["fortran", "strided", "readonly", "swapped", "list"])
def test_any_memory_gives_the_same_values_and_stays_as_it_was(change: str):
    def changed(a: np.ndarray) -> Any:
        if change == "fortran":
            return np.asfortranarray(a)
        if change == "strided":
            return np.repeat(a, 2, axis=-1)[..., ::2]
        if change == "swapped":
            return a.astype(a.dtype.newbyteorder())
        if change == "list":
            return a.tolist()
        b = a.copy()
        b.flags.writeable = False
        return b

    grad_out = np.arange(2 * 2 * 7 * 9, dtype=np.float64).reshape(2, 2, 7, 9) - 100
    arguments = [changed(a) for a in (grad_out, X, W)]
    before = [np.array(a) for a in arguments]
    found = conv_transpose_grads(*arguments, stride=2, padding=1)
    for own, plain in zip(found, conv_transpose_grads(grad_out, X, W, stride=2, padding=1)):
        assert_array_equal(own, plain)
        assert own.dtype == np.float64
        assert own.dtype.isnative
        assert own.flags.c_contiguous
    for a, b in zip(arguments, before):
        assert_array_equal(a, b)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["grad_out", "x", "weight"])
def test_non_finite_values_reach_the_sums_they_belong_to_and_no_others(where: str, value: float):
    problem = Problem(2, 5, (6, 21), 4, 3, stride=2, padding=(1, 2), output_padding=1)
    data = dict(zip(("grad_out", "x", "weight"), (a.astype(np.float32) for a in integers(problem))))
    for index in ((0, 0, 0, 0), (1, 3, 1, 2)):
        data[where][index] = value
    with np.errstate(invalid="ignore"):
        exact = reference.conv_transpose_grads(problem, *data.values())
    for own, expected in zip(grads(problem, *data.values()), exact):
        assert_array_equal(own, expected.astype(np.float32))


@pytest.mark.parametrize("problem", [p for p in PROBLEMS if p.dtype[0] == "f" and p.batch], ids=str)
def test_non_finite_values_stay_in_their_sums_whatever_the_borders(problem: Problem):
    data = integers(problem)
    for array, value in ((data[1], np.inf), (data[2], np.nan), (data[2], -np.inf)):
        array[tuple(np.random.default_rng(array.size).integers(0, array.shape))] = value
    with np.errstate(invalid="ignore"):
        exact = reference.conv_transpose_grads(problem, *data)
    for own, expected in zip(grads(problem, *data), exact):
        assert_array_equal(own, expected.astype(problem.dtype))


def test_calls_are_known_by_what_the_checks_read_and_by_no_value():
    grad_out = np.random.default_rng(3).standard_normal((2, 2, 7, 9))
    first = conv_transpose_grads(grad_out, X, W, stride=2, padding=1)
    for sizes in ({"padding": 1}, {"padding": (1, 1)}, {"padding": [1, 1]}, {"padding": np.int64(1)}):
        for _ in range(2):
            found = conv_transpose_grads(grad_out, X, W, stride=2, **sizes)
            for own, other in zip(found, first):
                assert_array_equal(own, other)
                assert not np.shares_memory(own, other)
    twice = conv_transpose_grads(grad_out, 2 * X, W, stride=2, padding=1)
    assert_array_equal(twice.grad_x, first.grad_x)
    assert_array_equal(twice.grad_weight, 2 * first.grad_weight)
    for wrong, error in (((2.0, 1), TypeError), ((2, True), TypeError), ((2, 2), ValueError)):
        with pytest.raises(error):
            conv_transpose_grads(grad_out, X, W, stride=wrong[0], padding=wrong[1])
    with pytest.raises(TypeError, match="weight has dtype float64"):
        conv_transpose_grads(grad_out, X.astype(np.float32), W, stride=2, padding=1)


def test_known_calls_are_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gradients, "_known", {})
    monkeypatch.setattr(gradients, "KNOWN", 2)
    for n in range(1, 6):
        conv_transpose_grads(np.ones((n, 1, 2)), np.ones((n, 1, 1)), np.ones((1, 1, 2)))
        assert len(gradients._known) <= 2


def test_the_result_depends_neither_on_threads_nor_on_the_run():
    problem = Problem(2, 37, (9, 33), 29, 5, stride=2, padding=2, output_padding=1)
    rng = np.random.default_rng(7)
    data = [rng.standard_normal(s).astype("float32") for s in (problem.out_shape, problem.x_shape, problem.weight_shape)]
    results = []
    for threads in (numba.config.NUMBA_NUM_THREADS, 1, numba.config.NUMBA_NUM_THREADS):
        numba.set_num_threads(threads)
        results.append(grads(problem, *data))
    for result in results[1:]:
        for own, first in zip(result, results[0]):
            assert_array_equal(own, first)


def call(**changes: Any) -> Any:
    return conv_transpose_grads(**{"grad_out": np.zeros((2, 2, 6, 7)), "x": X, "weight": W} | changes)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"grad_out": np.zeros((2, 2, 6, 8))}, ValueError,
         r"grad_out has shape \(2, 2, 6, 8\), but the forward call's output has \(2, 2, 6, 7\)"),
        ({"grad_out": np.zeros((2, 6, 7))}, ValueError, r"grad_out has shape \(2, 6, 7\), but the forward call's output has"),
        ({"x": X[0, 0]}, ValueError, r"x has 2 axes \(shape \(4, 5\)\), but must be \(N, C_in, H, W\) or \(C_in, H, W\)"),
        ({"weight": W[0, 0]}, ValueError, r"weight has 2 axes \(shape \(3, 3\)\), but must be \(C_in, C_out // groups, \*"),
        ({"weight": W[:2]}, ValueError, r"weight has shape \(2, 2, 3, 3\): its first axis must be x's channel count, 3"),
        ({"groups": 2}, ValueError, "groups is 2, but must divide c_in, which is 3"),
        ({"stride": 0}, ValueError, "stride is 0, but must be >= 1"),
        ({"padding": (1, 2, 3)}, ValueError, r"padding is \(1, 2, 3\): 3 entries"),
        ({"output_padding": 1}, ValueError, "output_padding is 1, but must be smaller than the stride"),
        ({"x": X.astype(np.float32)}, TypeError, "weight has dtype float64, but must have x's dtype, float32"),
        ({"grad_out": np.zeros((2, 2, 6, 7), int)}, TypeError, "grad_out has dtype int64, but must have x's dtype, float64"),
        ({"x": X.astype(complex)}, TypeError, "x has dtype complex128, but must be one of float32"),
    ],
)  # fmt: skip
def test_errors_name_the_value_and_what_is_allowed(changes: dict[str, Any], error: type, message: str):
    with pytest.raises(error, match=message):
        call(**changes)


def test_gradients_of_a_whole_layer_lower_its_loss():
    """Some steps of gradient descent on |T(x) - target|^2 / 2 with the gradients' own step size."""
    rng = np.random.default_rng(2)
    problem = Problem(1, 2, (5, 5), 1, 4, stride=2, padding=1, dtype="float64")
    x, weight, target = rng.standard_normal((1, 2, 5, 5)), np.zeros((2, 1, 4, 4)), rng.standard_normal((1, 1, 10, 10))
    losses = []
    for _ in range(5):
        residual = reference.conv_transpose(problem, x, weight) - target
        losses.append(float((residual**2).sum()) / 2)
        weight = weight - 0.01 * conv_transpose_grads(residual, x, weight, stride=2, padding=1).grad_weight
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.9 * losses[0]
