"""The kernels on CUDA in Numba's simulator, on tiny awkward problems; run by ``test_cuda.py`` in a process of its own,
and on a GPU by ``make gpu-check``.

A simulated thread takes up to 2 ms, so kernels run with few of them (``jit_cuda``) and the tiles are small ones.
"""

from __future__ import annotations

import gc
import os
import re
import sys
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numba import cuda
from numpy.testing import assert_array_equal

import tconv_bench
from tconv_bench import Problem, gpu, jit_cuda, reference, registry, wisdom
from tconv_bench.registry import Variant
from tconv_bench.variants import _implicit_gemm, _tiles
from tests.problems import NAMED, PROBLEMS, integer_data, poisoned

ON_GPU = os.environ.get("TCONV_BENCH_ON_DEVICE") == "1"
assert ON_GPU or os.environ.get("NUMBA_ENABLE_CUDASIM") == "1", "run by test_cuda.py, which sets NUMBA_ENABLE_CUDASIM"
simulator_alone = pytest.mark.skipif(
    ON_GPU, reason="host memory or a host function stands for the device's: the simulator alone"
)

METHODS = registry.methods("cuda")
all_methods = pytest.mark.parametrize("method", METHODS)
LINES = [text for text in NAMED.values() if not text.startswith("n0")]
TINY = [
    "the second text's example", "U-Net-shaped", "kernel < stride", "kernel < stride, 3-D", "kernel > input, strided",
    "odd and rectangular", "output_padding past every stamp", "dilation x stride",
    "dilation and stride share a factor", "groups of one input channel", "crops everything but one pixel, at the start",
    "asymmetric padding", "padding that no stamp crosses", "1 x 1 kernel, strided",
]  # fmt: skip


def typed(texts: list[str], dtypes: tuple[str, ...] = ("float32", "float64")) -> list[Problem]:
    return [Problem.parse(f"{text}_{dtypes[i % len(dtypes)]}") for i, text in enumerate(texts)]


def check(method: str, problem: Problem) -> None:
    x, weight, bias = integer_data(problem)
    entry: Any = registry.get(method, "cuda")
    assert entry.supports(problem) is True
    out = cuda.to_device(poisoned(problem))
    state = entry.prepare(problem, cuda.to_device(weight), cuda.to_device(bias))
    weight[:] = 99
    entry.run(state, cuda.to_device(x), out)
    _, weight, _ = integer_data(problem)
    assert_array_equal(out.copy_to_host(), reference.conv_transpose(problem, x, weight, bias))


@pytest.mark.parametrize("problem", typed([NAMED[name] for name in TINY]), ids=str)
@all_methods
def test_tiny(method: str, problem: Problem):
    check(method, problem)


@pytest.mark.slow
@pytest.mark.parametrize("problem", typed([t for t in LINES if Problem.parse(t).flops < 400_000]), ids=str)
@all_methods
def test_every_named_problem(method: str, problem: Problem):
    check(method, problem)


@pytest.mark.slow
@pytest.mark.parametrize("problem", [p for p in PROBLEMS if p.dtype != "int64" and p.flops < 10_000 and p.batch][::3], ids=str)
@all_methods
def test_drawn_problems(method: str, problem: Problem):
    check(method, problem)


def test_tiles_over_several_blocks_channel_tails_and_steps():
    check("phase", Problem.parse("n2_ci5_i2x3_co17_k3x2_s2x1_p1x0"))


CUTS = [
    "n1_ci3_i3_co5_k3_s3_op1", "n2_ci3_i3_co3_k5_s2_p3_d3", "n1_ci3_i3x2_co2_k3x2_s2x3_p1x0_op1x0",
    "n2_ci5_i2x3_co3_k4x4_s2x2_p1x1", "n1_ci6_i2x2_co6_k4x2_s2x2_p3:1x0_g2", "n1_ci3_i2x2x2_co2_k2x3x2_s2x2x2_p0x1x1",
]  # fmt: skip


@pytest.mark.parametrize("text", CUTS)
def test_every_way_to_cut_a_problem(text: str):
    problem = Problem.parse(f"{text}_float64")
    x, weight, bias = integer_data(problem)
    expected = reference.conv_transpose(problem, x, weight, bias)
    for number, (cut, splits) in enumerate(product(_tiles.cuts(problem), (1, 3))):
        tile = _tiles.SIMULATED[number % 2]
        found = _tiles.tabulate(problem, cut, tile, splits, 0.0)
        out, to_device = cuda.to_device(poisoned(problem)), cuda.to_device
        bound = to_device(bias)
        state = _implicit_gemm.prepare(problem, to_device(weight), bound, 0, found)
        _implicit_gemm.run(state, to_device(x.reshape(-1)), out.reshape(out.size), 0)
        assert_array_equal(out.copy_to_host(), expected, err_msg=f"{cut}, {tile}, {splits} parts")


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("where", ["x", "weight"])
def test_phases_as_rows_spread_no_infinity(where: str):
    problem = Problem.parse("n1_ci3_i3x2_co1_k3x3_s2x2_p1x1_float64")
    x, weight, bias = integer_data(problem)
    weight[weight == 0] = 1
    (x if where == "x" else weight)[0, 0, 1, 1] = np.inf
    expected = reference.conv_transpose(problem, x, weight, bias)
    assert np.isfinite(expected).any()
    assert np.isinf(expected).any()
    for splits in (1, 2):
        found = _tiles.tabulate(problem, _tiles.cuts(problem)[-1], _tiles.SIMULATED[0], splits, 0.0)
        assert found.fold == 4
        out = cuda.to_device(poisoned(problem))
        state = _implicit_gemm.prepare(problem, cuda.to_device(weight), cuda.to_device(bias), 0, found)
        _implicit_gemm.run(state, cuda.to_device(x.reshape(-1)), out.reshape(out.size), 0)
        assert_array_equal(out.copy_to_host(), expected)


@all_methods
def test_float16_is_summed_in_float32(method: str):
    problem = Problem.parse("n1_ci3_i2_co2_k3_s2_p1_float16")
    check(method, problem)
    x, weight, bias = np.full((1, 3, 2), 2048.0, "f2"), np.ones(problem.weight_shape, "f2"), np.ones(2, "f2")
    x[:, 1], x[:, 2] = 1, -2048  # 2049 is no float16
    result = tconv_bench.conv_transpose1d(x, weight, bias, 2, 1, device="cuda", method=method)
    assert result.dtype == np.float16
    assert result[0, 0, 0] == 2


def test_more_images_than_a_pass_of_the_sparse_product():
    check("matmul", Problem.parse("n6_ci2_i2x1_co1_k2x2_s2x2_float64"))


@pytest.mark.parametrize("method", ["col2im", "zero_insertion"])
def test_chunks_of_a_batch(method: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tconv_bench.variants._cuda.CHUNK_BYTES", 300)
    check(method, Problem.parse("n3_ci2_i2x2_co2_k2x2_s2x2"))


@pytest.mark.parametrize("where", ["x", "weight"])
@all_methods
def test_nan_reaches_exactly_the_sums_it_belongs_to(method: str, where: str):
    entry: Any = registry.get(method, "cuda")
    if where == "weight" and entry.spreads_nonfinite_weights:
        pytest.skip(f"{method} says in its docstring that it spreads them")
    problem = Problem(1, 2, (2, 2), 2, (3, 2), stride=(2, 1), padding=(1, 0), dtype="float64")
    x, weight, bias = integer_data(problem)
    weight[weight == 0] = 1
    (x if where == "x" else weight)[0, 1, 0, 1] = np.nan
    expected = reference.conv_transpose(problem, x, weight, bias)
    assert np.isnan(expected).any()
    assert not np.isnan(expected).all()
    result = tconv_bench.conv_transpose2d(
        x, weight, bias, problem.stride, problem.padding, problem.output_padding, device="cuda", method=method
    )
    assert_array_equal(result, expected)


def test_deterministic_stamps_do_not_depend_on_the_run():
    problem = Problem(1, 5, (7,), 2, 5, 2)
    rng = np.random.default_rng(1)
    x, weight = (rng.standard_normal(shape).astype("float32") for shape in (problem.x_shape, problem.weight_shape))
    results = [
        tconv_bench.conv_transpose1d(x, weight, stride=2, device="cuda", method="scatter_add_deterministic") for _ in range(2)
    ]
    assert_array_equal(*results)


X = np.arange(12, dtype=np.float64).reshape(2, 2, 3) - 5
W = np.arange(12, dtype=np.float64).reshape(2, 2, 3) - 4
EXPECTED = tconv_bench.conv_transpose1d(X, W, stride=2)


class Speaker:
    """An array that speaks ``__cuda_array_interface__`` over memory that the simulator takes for a device's."""

    def __init__(self, array: np.ndarray, device: int = 0, stream: Any = 7):
        self.array, self.device, self.dtype, self.stream = array, device, array.dtype, stream

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {**self.array.__array_interface__, "stream": self.stream}

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.device

    def __array_namespace__(self) -> type:
        return Speakers


class Speakers:
    """The namespace of such arrays."""

    made: list[Speaker] = []  # noqa: RUF012

    @staticmethod
    def empty(shape: tuple[int, ...], dtype: Any, device: int) -> Speaker:
        Speakers.made.append(Speaker(np.full(shape, np.nan, dtype), device))
        return Speakers.made[-1]


def test_numpy_is_copied_there_and_back():
    result = tconv_bench.conv_transpose1d(X, W, stride=2, device="cuda")
    assert type(result) is np.ndarray
    assert_array_equal(result, EXPECTED)
    out = np.full(EXPECTED.shape, np.nan)
    assert tconv_bench.conv_transpose1d(X[:, ::-1], W[::-1], stride=2, device="cuda", out=out) is out
    assert_array_equal(out, EXPECTED)
    assert_array_equal(tconv_bench.conv_transpose1d(X[0], W, stride=2, device="cuda"), EXPECTED[0])
    assert tconv_bench.conv_transpose1d(X[:0], W, stride=2, device="cuda").shape == (0, *EXPECTED.shape[1:])


def test_numba_arrays_give_numba_arrays():
    result = tconv_bench.conv_transpose1d(cuda.to_device(X), cuda.to_device(W), stride=2)
    assert isinstance(result, type(cuda.to_device(X)))
    assert_array_equal(result.copy_to_host(), EXPECTED)


@simulator_alone
def test_arrays_of_others_come_back_as_theirs_on_their_stream_without_a_copy(monkeypatch: pytest.MonkeyPatch):
    streams = []
    monkeypatch.setattr(jit_cuda, "stream_at", lambda handle: streams.append(handle) or 0)
    monkeypatch.setattr(cuda, "to_device", lambda *_, **__: pytest.fail("copied"))
    monkeypatch.setattr("tconv_bench.variants._cuda.on_device", lambda array, stream: gpu._view(Speaker(array), "table"))
    result: Any = tconv_bench.conv_transpose1d(Speaker(X), Speaker(W), stride=2, method="direct")  # type: ignore[arg-type]
    assert result is Speakers.made[-1]
    assert streams == [7]
    assert_array_equal(result.array, EXPECTED)
    out = Speaker(np.full(EXPECTED.shape, np.nan))
    assert tconv_bench.conv_transpose1d(Speaker(X), Speaker(W), stride=2, out=out, method="direct") is out  # type: ignore[arg-type, comparison-overlap]
    assert_array_equal(out.array, EXPECTED)


def test_plan_keeps_weights_on_the_device():
    weight = W.copy()
    plan = tconv_bench.plan(weight, X.shape, stride=2, device="cuda", method="phase")
    weight[:] = 0
    assert_array_equal(plan(X), EXPECTED)
    assert_array_equal(plan(cuda.to_device(X)).copy_to_host(), EXPECTED)
    assert re.search(r"method +phase \(named by the caller\)\n +device +CUDA device 0, ", repr(plan))
    assert jit_cuda.device_name() in repr(plan)
    with pytest.raises(ValueError, match=r"x has shape \(1, 2, 3\), but the plan is for \(2, 2, 3\)"):
        plan(X[:1])
    if not ON_GPU:
        with pytest.raises(ValueError, match="x is on device 1, but the plan is on device 0"):
            plan(Speaker(X, 1))


@simulator_alone
def test_bad_input_says_what_is_wrong():
    transposed = tconv_bench.conv_transpose1d
    with pytest.raises(ValueError, match="weight is on device 1, but x is on device 0"):
        transposed(Speaker(X), Speaker(W, 1))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="x has dtype complex128, but on CUDA must be one of float16, float32, float64"):
        transposed(Speaker(X.astype(complex)), Speaker(W))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="weight has dtype float32, but must have x's dtype, float64"):
        transposed(Speaker(X), Speaker(W.astype("float32")))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="x is not C-contiguous, but must be: its strides are"):
        transposed(Speaker(X[:, :, ::-1]), Speaker(W))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="out has shape"):
        transposed(Speaker(X), Speaker(W), out=Speaker(X))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="device is 'cpu', but x is on a CUDA device"):
        transposed(Speaker(X), W, device="cpu")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="weight or bias is on a CUDA device, but x is not"):
        transposed(X, Speaker(W))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="device is 'tpu', valid devices are cpu, cuda"):
        transposed(X, W, device="tpu")
    with pytest.raises(ValueError, match="method is 'winograd', valid methods are auto, col2im, direct"):
        transposed(X, W, device="cuda", method="winograd")
    with pytest.raises(ValueError, match="first axis must be x's channel count, 2"):
        transposed(X, W[:1], device="cuda")


@simulator_alone
def test_streams_are_those_that_interfaces_name(monkeypatch: pytest.MonkeyPatch):
    used: list[int] = []
    waited: list[int] = []
    monkeypatch.setattr(jit_cuda, "stream_at", lambda handle: used.append(handle) or 0)
    monkeypatch.setattr(jit_cuda, "wait_for", lambda stream, handle: waited.append(handle))

    def call(of_x: Any, of_weight: Any) -> None:
        used.clear(), waited.clear()
        x, weight = Speaker(X, stream=of_x), Speaker(W, stream=of_weight)
        result: Any = tconv_bench.conv_transpose1d(x, weight, stride=2, method="direct")  # type: ignore[arg-type]
        assert_array_equal(result.array, EXPECTED)

    for of_x, of_weight, stream, others in (
        (None, None, 1, []), (1, 1, 1, []), (2, 2, 2, []), (7, 7, 7, []), (7, None, 7, []), (7, 9, 7, [9]), (None, 2, 1, [2]),
    ):  # fmt: skip
        call(of_x, of_weight)
        assert (used, waited) == ([stream], others)
    for bad in (0, -1, True, "7"):
        with pytest.raises(ValueError, match=r"x's __cuda_array_interface__ names stream .*, but allowed are None, 1"):
            call(bad, None)
        with pytest.raises(ValueError, match="weight's __cuda_array_interface__ names stream"):
            call(7, bad)


@simulator_alone
def test_what_a_device_array_may_not_be():
    transposed: Any = tconv_bench.conv_transpose1d
    locked = np.full(EXPECTED.shape, np.nan)
    locked.flags.writeable = False
    read_only = X.copy()
    read_only.flags.writeable = False
    assert_array_equal(transposed(Speaker(read_only), Speaker(W), stride=2).array, EXPECTED)
    with pytest.raises(ValueError, match="out is read-only, but must be writable"):
        transposed(Speaker(X), Speaker(W), stride=2, out=Speaker(locked))
    with pytest.raises(ValueError, match="out is not C-contiguous, but must be: its strides are"):
        transposed(Speaker(X), Speaker(W), stride=2, out=Speaker(np.full((*EXPECTED.shape, 2), np.nan)[..., 0]))
    with pytest.raises(ValueError, match="out is on device 1, but x is on device 0"):
        transposed(Speaker(X), Speaker(W), stride=2, out=Speaker(np.full(EXPECTED.shape, np.nan), 1))
    with pytest.raises(TypeError, match="out is a ndarray, but must be an array on x's CUDA device"):
        transposed(Speaker(X), Speaker(W), stride=2, out=np.full(EXPECTED.shape, np.nan))
    with pytest.raises(TypeError, match=r"x requires grad, but gradients are not recorded here; pass x.detach\(\)"):
        transposed(Recording(X), Speaker(W), stride=2)
    for strided in (X.repeat(2, axis=-1)[..., ::2], X[..., ::-1], X.transpose(0, 2, 1).copy().transpose(0, 2, 1)):
        with pytest.raises(ValueError, match="x is not C-contiguous, but must be: its strides are"):
            transposed(Speaker(strided), Speaker(W), stride=2)
    assert_array_equal(transposed(Speaker(X), W, stride=2).array, EXPECTED)  # a weight of NumPy's is copied


class Recording(Speaker):
    """A tensor whose operations are recorded, which its library refuses to hand out."""

    requires_grad = True


class FakeTensor(Speaker):
    """A tensor as PyTorch's are, on memory that the simulator takes for a device's."""

    def new_empty(self, shape: tuple[int, ...]) -> FakeTensor:
        return FakeTensor(np.full(shape, np.nan, self.array.dtype))

    def contiguous(self) -> FakeTensor:
        return FakeTensor(np.ascontiguousarray(self.array))


@simulator_alone
@pytest.mark.parametrize("library", ["torch", "cupy"])
def test_libraries_make_their_own_arrays_on_their_own_stream(library: str, monkeypatch: pytest.MonkeyPatch):
    class Array(FakeTensor):
        def copy(self, order: str) -> Array:
            assert order == "C"
            return Array(np.ascontiguousarray(self.array))

        def new_empty(self, shape: tuple[int, ...]) -> Array:
            return Array(np.full(shape, np.nan, self.array.dtype))

    Array.__module__ = f"{library}.inside"
    stream = SimpleNamespace(cuda_stream=11, ptr=11)
    fake = SimpleNamespace(
        cuda=SimpleNamespace(current_stream=lambda device: stream, get_current_stream=lambda: stream),
        empty=lambda shape, dtype: Array(np.full(shape, np.nan, dtype)),
    )
    Array.device = "cuda:0"  # type: ignore[assignment]
    monkeypatch.setattr(
        Array, "__init__", lambda self, array: setattr(self, "array", array) or setattr(self, "dtype", array.dtype)
    )
    monkeypatch.setattr(Array, "__dlpack_device__", lambda self: (2, 0))
    monkeypatch.setattr(Array, "stream", 11, raising=False)
    monkeypatch.setitem(sys.modules, library, fake)
    used: list[int] = []
    monkeypatch.setattr(jit_cuda, "stream_at", lambda handle: used.append(handle) or 0)
    made = tconv_bench.plan(Array(W), X.shape, stride=2, device="cuda", method="direct")  # type: ignore[arg-type]
    for x in (Array(X), Array(np.asfortranarray(X))):
        for result in (made(x), tconv_bench.conv_transpose1d(x, Array(W), stride=2, method="direct")):  # type: ignore[arg-type]
            assert type(result) is Array
            assert_array_equal(result.array, EXPECTED)
    assert set(used) == {11}


def test_measured_methods_are_remembered_for_this_gpu_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TCONV_BENCH_WISDOM", str(tmp_path / "wisdom.json"))
    seconds = {"phase": 3.0, "col2im": 2.0, "matmul": 1.0}
    asked: list[str] = []

    def timed(run: Any, stream: Any) -> float:
        name = type(run.func.__self__).__name__.removesuffix("Cuda").lower()
        asked.append(name)
        return seconds.get(name, 4.0)

    monkeypatch.setattr(gpu, "_seconds", timed)
    monkeypatch.setattr(gpu, "WITHIN", 1e9)
    sizes = {"stride": 2, "device": "cuda"}
    predicted = tconv_bench.plan(W, X.shape, **sizes)
    assert (predicted.reason, predicted.measured) == ("predicted fastest", {})
    assert predicted.method == next(iter(gpu.candidates(predicted.predicted)))
    assert re.search(r"time +predicted .*, not measured\nother methods\n", repr(predicted))
    found = tconv_bench.plan(W, X.shape, method="measure", **sizes)
    assert (found.method, found.reason) == ("matmul", "measured fastest")
    assert set(found.measured) == set(gpu.candidates(found.predicted))
    assert not {"zero_insertion", "scatter_add"} & set(found.measured)
    count = len(asked)
    again = tconv_bench.plan(W, X.shape, **sizes)
    assert (again.method, again.reason, len(asked)) == ("matmul", "remembered", count)
    assert "measured 1.00 s" in repr(again)
    assert_array_equal(again(X), EXPECTED)
    assert_array_equal(tconv_bench.conv_transpose1d(X, W, stride=2, device="cuda"), EXPECTED)
    assert tconv_bench.plan(W, X.shape, stride=2).reason != "remembered"  # the CPU's wisdom is another
    monkeypatch.setattr(jit_cuda, "device_name", lambda: "another GPU")
    assert tconv_bench.plan(W, X.shape, **sizes).reason == "predicted fastest"


def test_a_method_without_memory_is_not_measured(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TCONV_BENCH_WISDOM", "")

    def timed(run: Any, stream: Any) -> float:
        if "Phase" in type(run.func.__self__).__name__:
            raise RuntimeError("CUDA_ERROR_OUT_OF_MEMORY")
        return 1.0

    monkeypatch.setattr(gpu, "_seconds", timed)
    monkeypatch.setattr(gpu, "WITHIN", 1e9)
    made = tconv_bench.plan(W[:, :1], X.shape, stride=2, device="cuda", method="measure")
    assert "phase" not in made.measured
    assert made.measured
    wisdom.forget()


def test_a_plan_without_memory_says_so_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch):
    kind = type(cuda.to_device(X))

    def fail(*args: Any) -> None:
        raise RuntimeError("CUDA_ERROR_OUT_OF_MEMORY")

    gc.collect()
    before = sum(isinstance(thing, kind) for thing in gc.get_objects())
    monkeypatch.setattr(jit_cuda.Kernel, "stride_over", fail)
    with pytest.raises(MemoryError, match="the GPU has no memory left for method 'phase' on n2_ci2_i3"):
        tconv_bench.plan(W, X.shape, stride=2, device="cuda", method="phase")
    monkeypatch.undo()
    gc.collect()
    assert sum(isinstance(thing, kind) for thing in gc.get_objects()) == before
    assert_array_equal(tconv_bench.plan(W, X.shape, stride=2, device="cuda", method="phase")(X), EXPECTED)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (RuntimeError("ptxas error: uses too much shared data (0x10000 bytes, 0xc000 max)"), RuntimeError, "more registers or"),
        (RuntimeError("CUDA_ERROR_OUT_OF_MEMORY"), MemoryError, "the GPU has no memory left for method 'direct' on n2_ci2_i3"),
        (RuntimeError("CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"), RuntimeError, "more registers or shared memory than a block"),
    ],
)
def test_after_a_failure_the_next_call_works(
    error: Exception, kind: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
):
    launch = jit_cuda.Kernel.stride_over
    entry: Variant = registry.get("direct", "cuda")

    def fail(*args: Any) -> None:
        raise error

    monkeypatch.setattr(jit_cuda.Kernel, "stride_over", fail)
    with pytest.raises(kind, match=message) as raised:
        tconv_bench.conv_transpose1d(X, W, stride=2, device="cuda", method=entry.name)
    assert raised.value.__context__ is None
    monkeypatch.setattr(jit_cuda.Kernel, "stride_over", launch)
    assert_array_equal(tconv_bench.conv_transpose1d(X, W, stride=2, device="cuda", method=entry.name), EXPECTED)
