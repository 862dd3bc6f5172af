"""Plans: the same values as the reference whatever is asked for and however memory lies; and a choice that explains itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

import tconv_bench
from tconv_bench import Plan, Problem, conv, machine, measure, methods, plan, reference, registry, simd, store, wisdom
from tests.problems import NAMED, integer_data

all_methods = pytest.mark.parametrize("method", methods())
AWKWARD = ["n2_ci6_i9_co4_k5_s2_p1:2_op1_g2_float64", "n1_ci3_i4x5_co4_k3x2_s2x3_p1x0_d1x2_float64", NAMED["3-D"] + "_float64"]
ROWS = Path(__file__).parents[1] / "reports" / "zen4-2core-comparison" / "rows.jsonl.gz"


@pytest.fixture(autouse=True)
def wisdom_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "wisdom.json"
    monkeypatch.setenv("TCONV_BENCH_WISDOM", str(path))
    yield path
    wisdom.forget()


def sizes(problem: Problem) -> dict[str, Any]:
    names = ("stride", "padding", "output_padding", "groups", "dilation")
    return {name: getattr(problem, name) for name in names}


def planned(problem: Problem, **changes: Any) -> tuple[Plan, NDArray[Any], NDArray[Any]]:
    """A plan for integer data of a problem, the input, and the exact result."""
    x, weight, bias = integer_data(problem)
    arguments = {"weight": weight, "input_shape": x.shape, "bias": bias, **sizes(problem)} | changes
    exact = reference.conv_transpose(problem, x, weight, bias).astype(problem.dtype)
    return plan(**arguments), x, exact


@all_methods
@pytest.mark.parametrize("text", AWKWARD)
def test_a_plan_gives_the_exact_result_again_and_again(method: str, text: str):
    problem = Problem.parse(text)
    if (reason := registry.get(method).supports(problem)) is not True:
        pytest.skip(f"{method}: {reason}")
    made, x, exact = planned(problem, method=method)
    assert made.method == method
    assert_array_equal(made(x), exact)
    out = np.full(exact.shape, np.nan)
    assert made(x + 1, out=out) is out
    assert_array_equal(made(x), exact)
    assert not np.array_equal(out, exact)
    unbatched, _, _ = planned(problem, method=method, input_shape=x.shape[1:])
    assert_array_equal(unbatched(x[0]), exact[0])
    assert unbatched(x[0], out[0]).base is not None
    assert_array_equal(out[0], exact[0])


@pytest.mark.parametrize("text", ["n2_ci3_i4x5_co4_k3_s2_p1_float64", "n0_ci3_i4_co2_k3_float64", "n2_ci3_i4_co4_k3_int64"])
@pytest.mark.parametrize("method", ["auto", "measure"])
def test_chosen_methods(text: str, method: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(measure, "sample_times", lambda run, **_: [run() or 1e-3])
    made, x, exact = planned(Problem.parse(text), method=method)
    assert_array_equal(made(x), exact)
    assert made(x).dtype == exact.dtype


def channels_last(x: NDArray[Any]) -> NDArray[Any]:
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)


def read_only(x: NDArray[Any]) -> NDArray[Any]:
    x = x.copy()
    x.flags.writeable = False
    return x


@pytest.mark.parametrize(
    "changed",
    [
        channels_last, read_only, np.asfortranarray, lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
        lambda x: x[::-1].copy()[::-1], lambda x: x.astype(x.dtype.newbyteorder()), lambda x: x.tolist(),
    ],
)  # fmt: skip
def test_any_memory_gives_the_same_values_and_stays_as_it_was(changed: Any):
    made, x, exact = planned(Problem.parse(AWKWARD[1].replace("n1", "n2")))
    given = changed(x)
    result = made(given)
    assert_array_equal(result, exact)
    assert result.dtype == np.float64
    assert result.dtype.isnative
    assert_array_equal(given, x)
    for out in (np.empty(exact.shape[::-1]).T, np.empty((*exact.shape, 2))[..., 0], np.empty(exact.shape, ">f8")):
        assert made(given, out=out) is out
        assert_array_equal(out, exact)


@pytest.mark.parametrize("dtype", ["int8", "uint16"])
def test_narrow_integers_are_exact_modulo_their_width(dtype: str):
    info = np.iinfo(dtype)
    x, weight = np.array([[info.max, 2, 3]], dtype), np.array([[[3, 5]]], dtype)
    made = plan(weight, (1, 3))
    out = np.zeros((1, 4), dtype)
    assert made(x, out) is out
    assert made(x).dtype == dtype
    exact = [3 * info.max, 5 * info.max + 6, 19, 15]
    assert out.tolist() == made(x).tolist() == [[int(np.array(v).astype(dtype)) for v in exact]]


def test_later_changes_of_the_weights_do_not_reach_a_plan():
    for method in methods():
        problem = Problem.parse("n1_ci2_i4x4_co3_k3_float64")
        x, weight, bias = integer_data(problem)
        made = plan(weight, x.shape, bias=bias, method=method)
        before = made(x)
        weight[:], bias[:] = 99, 99
        assert_array_equal(made(x), before)


def test_four_threads_at_once():
    if machine.threading_layer() == "workqueue":
        pytest.skip("Numba's workqueue threading layer allows no concurrent calls")
    made, x, exact = planned(Problem.parse("n2_ci16_i13x17_co20_k3_s2_float64"))
    inputs = [x * factor for factor in range(1, 5)]

    def work(factor: int) -> bool:
        numba.set_num_threads(1 + factor % numba.config.NUMBA_NUM_THREADS)
        with_zero_bias = made(np.zeros_like(x))
        for _ in range(30):
            if not np.array_equal(made(inputs[factor - 1]) - with_zero_bias, factor * (exact - with_zero_bias)):
                return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(1, 5)))


WEIGHT = np.ones((3, 2, 3, 3))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"weight": WEIGHT[0, 0]},
            ValueError,
            r"weight has 2 axes \(shape \(3, 3\)\), but must be \(C_in, C_out // groups, \*ker",
        ),
        ({"weight": [["a"]]}, TypeError, "weight has dtype <U1, but must be one of float32, float64, int8"),
        ({"weight": WEIGHT.astype(np.float16)}, TypeError, "weight has dtype float16, but must be one of"),
        ({"bias": np.zeros(2, int)}, TypeError, "bias has dtype int64, but must have weight's dtype, float64"),
        ({"bias": np.zeros(3)}, ValueError, r"bias has shape \(3,\), but must be \(2,\)"),
        ({"input_shape": 3}, TypeError, r"input_shape is 3 \(int\), but must be \(N, C_in, \*spatial\) or"),
        ({"input_shape": (3, 4)}, ValueError, r"input_shape has 2 axes \(shape \(3, 4\)\), but must be \(N, C_in, H, W\) or"),
        ({"input_shape": (3, 4, 5.0)}, TypeError, r"input_shape is 5.0 \(float\), but must be an integer >= 0"),
        ({"input_shape": (3, 4, True)}, TypeError, "input_shape is True, but must be an integer >= 0"),
        (
            {"input_shape": (2, 4, 5)},
            ValueError,
            r"weight has shape \(3, 2, 3, 3\): its first axis must be x's channel count, 2",
        ),
        ({"input_shape": (3, 0, 5)}, ValueError, "in_size is 0, but must be >= 1"),
        ({"stride": 0}, ValueError, "stride is 0, but must be >= 1"),
        ({"groups": 2}, ValueError, "groups is 2, but must divide c_in, which is 3"),
        ({"padding": 3}, ValueError, r"the output would be empty: its spatial size is \(0, 1\)"),
        ({"method": "fft"}, ValueError, r"method is 'fft', valid methods are auto, measure, (.*, )?direct, .*zero_insertion"),
        ({"device": "tpu"}, ValueError, "device is 'tpu', valid devices are cpu, cuda"),
    ],
)
def test_bad_arguments_name_the_value_and_what_is_allowed(changes: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        plan(**{"weight": WEIGHT, "input_shape": (3, 4, 5)} | changes)


def test_no_other_device():
    with pytest.raises(ValueError, match="device is 'tpu', valid devices are cpu, cuda"):
        plan(WEIGHT, (3, 4, 5), device="tpu")


def test_a_named_method_that_does_not_serve_the_problem():
    weight = np.zeros((512, 256, 2, 2), np.float32)
    with pytest.raises(NotImplementedError, match=r"method 'matmul' can't serve n1_ci512_.*use method='col2im'"):
        plan(weight, (512, 64, 64), stride=2, method="matmul")


@pytest.mark.parametrize(
    ("x", "out", "error", "message"),
    [
        (np.ones((3, 4, 6)), None, ValueError, r"x has shape \(3, 4, 6\), but the plan is for \(3, 4, 5\)"),
        (np.ones((1, 3, 4, 5)), None, ValueError, r"x has shape \(1, 3, 4, 5\), but the plan is for \(3, 4, 5\)"),
        (np.ones((3, 4, 5), "f4"), None, TypeError, "x has dtype float32, but must have the plan's dtype, float64"),
        (np.ones((3, 4, 5), int), None, TypeError, "x has dtype int64, but must have the plan's dtype, float64"),
        (np.ma.masked_array(np.ones((3, 4, 5))), None, TypeError, "x is a masked array"),
        (np.ones((3, 4, 5)), np.ones((2, 6, 6)), ValueError, r"out has shape \(2, 6, 6\), but the result has \(2, 6, 7\)"),
        (np.ones((3, 4, 5)), np.ones((2, 6, 7), "f4"), TypeError, "out has dtype float32, but must have x's dtype, float64"),
        (np.ones((3, 4, 5)), [1.0], TypeError, "out is a list, but must be a NumPy array"),
        (np.ones((3, 4, 5)), read_only(np.ones((2, 6, 7))), ValueError, "out is read-only"),
    ],
)
def test_bad_inputs_of_a_plan(x: Any, out: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        plan(WEIGHT, (3, 4, 5))(x, out)


def test_out_that_overlaps_the_input():
    memory = np.zeros(100)
    with pytest.raises(ValueError, match="out overlaps an input's memory"):
        plan(WEIGHT, (3, 4, 5))(memory[:60].reshape(3, 4, 5), memory[16:].reshape(2, 6, 7))


SMALL = Problem.parse("n1_ci2_i4x4_co3_k3_s2_float64")


def timed(times: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the timer answer with these times; the names of the methods that it timed are added to the list."""
    names: list[str] = []

    def sample_times(run: Any, **_: Any) -> list[float]:
        names.append(run.func.__self__.name)
        return [times[names[-1]]] * 3

    monkeypatch.setattr(measure, "sample_times", sample_times)
    monkeypatch.setattr(registry, "methods", lambda device="cpu": sorted(times))
    for number, name in enumerate(times):
        monkeypatch.setattr(registry.get(name), "estimate", lambda problem, number=number: 1e-6 * (1 + number))
    return names


def test_measuring_happens_once(monkeypatch: pytest.MonkeyPatch):
    names = timed({"direct": 3e-3, "scatter_add": 1e-3, "col2im": 2e-3}, monkeypatch)
    assert planned(SMALL)[0].reason == "predicted fastest"
    assert planned(SMALL)[0].method == "direct"
    first, x, exact = planned(SMALL, method="measure")
    assert names == ["direct", "scatter_add", "col2im"]
    assert (first.method, first.reason) == ("scatter_add", "measured fastest")
    assert_array_equal(first(x), exact)

    def raising(*_: Any, **__: Any) -> list[float]:
        raise AssertionError("timed a second time")

    monkeypatch.setattr(measure, "sample_times", raising)
    for method in ("measure", "auto"):
        again, x, exact = planned(SMALL, method=method)
        assert (again.method, again.reason) == ("scatter_add", "remembered")
        assert again.measured == {"direct": 3e-3, "scatter_add": 1e-3, "col2im": 2e-3}
        assert_array_equal(again(x), exact)
    assert conv.choose(SMALL) == "scatter_add"
    named, _, _ = planned(SMALL, method="col2im")
    assert (named.method, named.reason, named.measured["col2im"]) == ("col2im", "named by the caller", 2e-3)


def test_what_is_predicted_far_slower_is_not_timed(monkeypatch: pytest.MonkeyPatch):
    names = timed({"direct": 1e-3, "scatter_add": 2e-3, "col2im": 3e-3}, monkeypatch)
    monkeypatch.setattr(registry.get("col2im"), "estimate", lambda problem: 1e-3)
    assert planned(SMALL, method="measure")[0].measured == {"direct": 1e-3, "scatter_add": 2e-3}
    assert names == ["direct", "scatter_add"]


def test_measuring_times_what_runs():
    made, x, exact = planned(SMALL, method="measure")
    assert made.reason == "measured fastest"
    assert made.method == min(made.measured, key=lambda name: made.measured[name])
    assert all(0 < seconds < 1 for seconds in made.measured.values())
    assert_array_equal(made(x), exact)


def test_auto_takes_neither_what_spreads_infinities_nor_in_a_single_call_what_prepares_slowly(monkeypatch: pytest.MonkeyPatch):
    timed({"zero_insertion": 1.0, "matmul": 2.0, "direct": 3.0}, monkeypatch)
    for _ in range(2):
        assert conv.choose(SMALL) == "matmul"
        assert conv.choose(SMALL, planned=False) == "direct"
        wisdom.remember(SMALL, {"zero_insertion": 1.0, "matmul": 2.0, "direct": 3.0})


def test_a_single_call_takes_what_was_remembered_since_the_last(monkeypatch: pytest.MonkeyPatch):
    x, weight, _ = integer_data(SMALL)
    names: list[str] = []
    one_shot = registry.Variant.one_shot
    for name in methods():

        def spy(*arguments: Any, name: str = name) -> None:
            names.append(name)
            one_shot(registry.get(name), *arguments)

        monkeypatch.setattr(registry.get(name), "one_shot", spy)
    for name in ("col2im", "scatter_add"):
        wisdom.remember(SMALL, {"direct": 2.0, name: 1.0})
        for _ in range(2):
            tconv_bench.conv_transpose2d(x, weight, stride=2)
    assert names == ["col2im", "col2im", "scatter_add", "scatter_add"]


def test_a_plan_explains_itself(monkeypatch: pytest.MonkeyPatch):
    timed({"direct": 1e-3, "matmul": 2e-3}, monkeypatch)
    monkeypatch.setattr(registry.get("direct"), "describe", lambda problem: "three tasks")
    monkeypatch.setattr(registry.get("direct"), "workspace_bytes", lambda problem: 2048)
    monkeypatch.setattr(registry.get("matmul"), "supports", lambda problem: "no matrix is that large; use method='direct'")
    wisdom.remember(SMALL, {"direct": 5e-6})
    made, _, _ = planned(SMALL, input_shape=(2, 4, 4))
    assert repr(made).splitlines() == [
        "Plan n1_ci2_i4x4_co3_k3x3_s2x2_float64",
        "  method   direct (remembered)",
        "  arrays   (2, 4, 4) -> (3, 9, 9), float64",
        "  layout   three tasks",
        f"  threads  {machine.threads()}",
        "  work     1.73 kFLOP, at least 2.57 KiB moved",
        "  memory   456 B prepared, 2.00 KiB workspace",
        "  time     predicted 1.00 µs, measured 5.00 µs",
        "other methods",
        "  matmul   no matrix is that large; use method='direct'",
    ]


def test_every_method_has_a_line():
    made, _, _ = planned(SMALL, method="zero_insertion")
    lines = repr(made).splitlines()
    assert "zero_insertion (named by the caller)" in lines[1]
    others = [line.split() for line in lines[lines.index("other methods") + 1 :]]
    assert sorted(words[0] for words in others) == sorted(set(methods()) - {"zero_insertion"})
    assert all(words[1] == "predicted" and words[-2:] == ["not", "measured"] for words in others)
    assert len({line.index(line.split()[1]) for line in lines[1:] if line.startswith("  ")}) == 1


@all_methods
def test_estimates_are_times_and_grow_with_the_work(method: str):
    entry = registry.get(method)
    named = map(Problem.parse, [*NAMED.values(), "n1_ci512_i8x8_co256_k4x4_s2x2_p1x1"])
    for problem in (problem for problem in named if entry.supports(problem) is True):
        assert 0 < entry.estimate(problem) < 1 or problem.batch == 0
    small, large = (entry.estimate(Problem.parse(f"n{n}_ci32_i32x32_co32_k4x4_s2x2")) for n in (1, 16))
    assert small < large < 64 * small


def test_the_prediction_is_near_the_best_of_the_committed_measurements():
    if simd.VECTOR_BYTES != 64 or numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("the estimates are compared with two threads and 64-byte vectors")
    numba.set_num_threads(2)
    times: dict[str, dict[str, float]] = {}
    for row in store.read(ROWS):
        if (
            (row.mode, row.cache, row.threads, row.control) == ("planned", "hot", 2, False)
            and row.method in registry.methods()
            and row.median
        ):
            times.setdefault(row.problem, {})[row.method] = row.median
    assert len(times) >= 60
    losses, errors = [], []
    for text, measured in times.items():
        predicted = {name: registry.get(name).estimate(Problem.parse(text)) for name in measured}
        chosen = min(predicted, key=lambda name: predicted[name])
        losses.append(math.log(measured[chosen] / min(measured.values())))
        errors += [math.log(predicted[name] / measured[name]) for name in measured]
    assert np.exp(np.mean(losses)) < 1.06
    assert np.exp(np.std(errors)) < 1.6


class Strided(registry.Variant):
    """Takes any memory order, and notes which it got."""

    serves_strided = True

    def prepare(self, problem: Problem, weight: NDArray[Any], bias: NDArray[Any] | None) -> Any:
        return problem, weight.copy(), bias

    def run(self, state: Any, x: NDArray[Any], out: NDArray[Any]) -> None:
        assert x.shape == state[0].x_shape
        assert out.shape == state[0].out_shape
        self.seen = x, out
        out[...] = reference.conv_transpose(state[0], x, state[1], state[2])


@pytest.fixture
def strided(monkeypatch: pytest.MonkeyPatch) -> Strided:
    entry = Strided()
    entry.name, entry.device = "strided", "cpu"
    monkeypatch.setitem(registry._VARIANTS, ("strided", "cpu"), entry)
    return entry


@pytest.mark.parametrize(
    "text", ["n2_ci3_i4x5_co4_k3_s2_float64", "n2_ci3_i4_co4_k3_float64", "n1_ci2_i2x3x4_co3_k2_s2_float64"]
)
@pytest.mark.parametrize("batched", [True, False])
def test_channels_last_stays_channels_last_where_that_is_served(strided: Strided, text: str, batched: bool):
    problem = Problem.parse(text)
    x, weight, _ = integer_data(problem)
    exact = reference.conv_transpose(problem, x, weight)
    exact = exact if batched else exact[0]
    given = channels_last(x) if batched else channels_last(x)[0]
    function = getattr(tconv_bench, f"conv_transpose{problem.ndim}d")
    made = plan(weight, given.shape, **sizes(problem), method="strided")
    axis = int(batched)
    for call in (lambda x, out=None: function(x, weight, **sizes(problem), method="strided", out=out), made):
        result = call(given)
        assert np.shares_memory(strided.seen[0], given)
        assert_array_equal(result, exact)
        assert np.moveaxis(result, axis, -1).flags.c_contiguous
        assert not result.flags.c_contiguous
        assert call(np.ascontiguousarray(given)).flags.c_contiguous
        out = np.full((*exact.shape, 2), np.nan)[..., 0]
        assert call(given[..., ::-1], out=out) is out
        assert np.shares_memory(strided.seen[1], out)
        assert np.shares_memory(strided.seen[0], given)
        assert_array_equal(call(given[..., ::-1]), out)


def test_one_channel_is_no_channels_last(strided: Strided):
    weight = np.ones((1, 2, 3, 3))
    assert tconv_bench.conv_transpose2d(channels_last(np.ones((2, 1, 4, 5))), weight, method="strided").flags.c_contiguous
    swapped = np.ones((2, 3, 4, 5), ">f8")
    result = tconv_bench.conv_transpose2d(channels_last(swapped), np.ones((3, 2, 3, 3)), method="strided")
    assert result.dtype.isnative
    assert strided.seen[0].dtype.isnative
