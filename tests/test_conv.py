"""The public functions: PyTorch's meaning, the dtypes, out=, and clear errors before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
import scipy.sparse
from numpy.testing import assert_array_equal

import tconv_bench
from tconv_bench import (
    Problem,
    conv,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
    convolution_matrix,
    jit,
    methods,
    reference,
)
from tconv_bench.convolution_matrix import entries, forget_patterns, transposed_matrix

X = np.arange(2 * 3 * 4 * 5, dtype=np.float64).reshape(2, 3, 4, 5)
W = np.arange(3 * 2 * 3 * 3, dtype=np.float64).reshape(3, 2, 3, 3) - 20


def test_methods_are_the_files_of_the_folder():
    files = Path(tconv_bench.__file__).parent.joinpath("variants").glob("[!_]*.py")
    assert methods() == sorted(path.stem for path in files)
    assert {"col2im", "direct", "matmul", "scatter_add", "zero_insertion"} <= set(methods())
    assert {"col2im", "direct", "matmul", "phase", "scatter_add", "zero_insertion"} <= set(methods("cuda"))
    with pytest.raises(ValueError, match="device is 'tpu', valid devices are cpu, cuda"):
        methods("tpu")


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
def test_integers_give_their_own_dtype_exact_modulo_its_width(dtype: str):
    rng = np.random.default_rng(3)
    info = np.iinfo(dtype)
    x, weight = (rng.integers(info.min, info.max, shape, dtype, endpoint=True) for shape in ((2, 3, 4), (3, 2, 3)))
    out = conv_transpose1d(x, weight, stride=2)
    assert out.dtype == dtype
    exact = np.zeros((2, 2, 9), object)
    for n, c, o, i, k in np.ndindex(2, 3, 2, 4, 3):
        exact[n, o, 2 * i + k] += int(x[n, c, i]) * int(weight[c, o, k])
    assert out.tolist() == (np.mod(exact - info.min, 2**info.bits) + info.min).tolist()


@pytest.mark.parametrize("change", ["fortran", "strided", "readonly", "unaligned", "swapped", "list"])
def test_any_memory_gives_the_same_values_and_stays_as_it_was(change: str):
    def changed(a: np.ndarray) -> Any:
        if change == "fortran":
            return np.asfortranarray(a)
        if change == "strided":
            return np.repeat(a, 2, axis=-1)[..., ::2]
        if change == "unaligned":
            buffer = np.empty(a.nbytes + 1, np.uint8)[1:]
            view = buffer.view(a.dtype).reshape(a.shape)
            view[...] = a
            return view
        if change == "swapped":
            return a.astype(a.dtype.newbyteorder())
        if change == "list":
            return a.tolist()
        b = a.copy()
        b.flags.writeable = False
        return b

    x, weight, bias = changed(X), changed(W), changed(np.array([1.0, -2.0]))
    before = np.array(x)
    out = conv_transpose2d(x, weight, bias, stride=2, padding=1)
    assert_array_equal(out, conv_transpose2d(X, W, np.array([1.0, -2.0]), stride=2, padding=1))
    assert out.dtype == np.float64
    assert out.dtype.isnative
    assert_array_equal(x, before)


@pytest.mark.parametrize("make", [np.empty, lambda s: np.empty(s[::-1]).T, lambda s: np.empty((*s[:-1], 2 * s[-1]))[..., ::2]])
def test_out_is_written_and_returned(make: Any):
    out = make((2, 2, 9, 11))
    out[...] = np.nan
    assert conv_transpose2d(X, W, stride=2, out=out) is out
    assert_array_equal(out, conv_transpose2d(X, W, stride=2))


def test_out_of_a_narrow_integer():
    out = np.full((1, 3), 77, np.int16)
    assert conv_transpose1d(np.array([[1, 2]], np.int16), np.array([[[3, 4]]], np.int16), out=out) is out
    assert out.tolist() == [[3, 10, 8]]


def test_auto_serves_every_layer_that_matmul_cannot():
    x, weight = np.ones((1, 512, 32, 32), np.float32), np.ones((512, 256, 2, 2), np.float32)
    out = conv_transpose2d(x, weight, stride=2)
    assert out.shape == (1, 256, 64, 64)
    assert_array_equal(out, np.float32(512))


def test_padding_pairs_mean_before_and_after():
    full = conv_transpose2d(X, W, stride=2)
    assert_array_equal(conv_transpose2d(X, W, stride=2, padding=((1, 0), (2, 3))), full[:, :, 1:, 2:-3])
    assert_array_equal(conv_transpose2d(X, W, stride=2, padding=(1, (2, 3))), full[:, :, 1:-1, 2:-3])


def test_empty_batch_gives_an_empty_result():
    for _ in range(2):
        assert conv_transpose2d(X[:0], W).shape == (0, 2, 6, 7)


def call(**changes: Any) -> Any:
    return conv_transpose2d(**{"x": X, "weight": W} | changes)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x": X[0, 0]}, ValueError, r"x has 2 axes \(shape \(4, 5\)\), but must be \(N, C_in, H, W\) or \(C_in, H, W\)"),
        (
            {"weight": W[0]},
            ValueError,
            r"weight has 3 axes \(shape \(2, 3, 3\)\), but must be \(C_in, C_out // groups, KH, KW\)",
        ),
        ({"weight": W[:2]}, ValueError, r"weight has shape \(2, 2, 3, 3\): its first axis must be x's channel count, 3"),
        ({"bias": np.zeros(3)}, ValueError, r"bias has shape \(3,\), but must be \(2,\)"),
        ({"groups": 2}, ValueError, "groups is 2, but must divide c_in, which is 3"),
        ({"groups": 0}, ValueError, "groups is 0, but must be >= 1"),
        ({"stride": 0}, ValueError, "stride is 0, but must be >= 1"),
        ({"stride": (1, -2)}, ValueError, "stride is -2, but must be >= 1"),
        ({"stride": 1.5}, TypeError, r"stride is 1.5 \(float\), but must be an integer >= 1"),
        ({"stride": True}, TypeError, "stride is True, but must be an integer >= 1"),
        ({"stride": (1, 2, 3)}, ValueError, r"stride is \(1, 2, 3\): 3 values, but allowed are one integer or 2, one per axis"),
        ({"padding": -1}, ValueError, "padding is -1, but must be >= 0"),
        ({"padding": "same"}, TypeError, r"padding is 'same' \(str\), but must be an integer >= 0"),
        ({"padding": ((1, 2, 3), 0)}, ValueError, "an entry has 3 values, but allowed are one integer or a sequence of 2"),
        ({"dilation": 0}, ValueError, "dilation is 0, but must be >= 1"),
        (
            {"output_padding": 1},
            ValueError,
            r"output_padding is 1, but must be smaller than the stride \(1\) or the dilation \(1\)",
        ),
        ({"padding": 3}, ValueError, r"the output would be empty: its spatial size is \(0, 1\)"),
        ({"x": X.astype(object)}, TypeError, "x has dtype object, but must be one of float32, float64, int8"),
        ({"x": X.astype(complex)}, TypeError, "x has dtype complex128, but must be one of"),
        ({"x": X.astype(np.float16)}, TypeError, "x has dtype float16, but must be one of"),
        ({"x": X > 3}, TypeError, "x has dtype bool, but must be one of"),
        ({"x": [[1.0], [2.0, 3.0]]}, TypeError, "x can't be read as an array"),
        ({"x": np.ma.masked_equal(X, 3)}, TypeError, "x is a masked array, whose mask would be ignored"),
        ({"weight": W.astype(np.float32)}, TypeError, "weight has dtype float32, but must have x's dtype, float64"),
        ({"bias": np.zeros(2, int)}, TypeError, "bias has dtype int64, but must have x's dtype, float64"),
        ({"method": "fft"}, ValueError, r"method is 'fft', valid methods are auto, (.*, )?direct, .*zero_insertion"),
        ({"out": np.empty((2, 2, 6, 6))}, ValueError, r"out has shape \(2, 2, 6, 6\), but the result has \(2, 2, 6, 7\)"),
        ({"out": np.empty((2, 2, 6, 7), "f4")}, TypeError, "out has dtype float32, but must have x's dtype, float64"),
        ({"out": [1.0]}, TypeError, "out is a list, but must be a NumPy array"),
        ({"x": np.empty((2, 0, 4, 5)), "weight": np.empty((0, 2, 3, 3))}, ValueError, "c_in is 0, but must be >= 1"),
        ({"x": np.empty((2, 3, 0, 5))}, ValueError, "in_size is 0, but must be >= 1"),
        ({"stride": 2**62}, ValueError, r"the output would have shape .* more bytes than this machine can address"),
    ],
)
def test_bad_input_names_the_value_and_what_is_allowed(changes: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        call(**changes)


def test_a_refused_call_writes_nothing():
    out = np.full((2, 2, 6, 7), 5.0)
    for changes in ({"method": "fft"}, {"bias": np.zeros(3)}, {"stride": 0}):
        with pytest.raises(ValueError, match=r"method|bias|stride"):
            call(out=out, **changes)
    assert_array_equal(out, 5.0)


def test_out_that_overlaps_or_is_read_only():
    memory = np.zeros(200)
    x = memory[:120].reshape(2, 3, 4, 5)
    with pytest.raises(ValueError, match="out overlaps an input's memory"):
        conv_transpose2d(x, W, out=memory[32:].reshape(2, 2, 6, 7))
    frozen = np.empty((2, 2, 6, 7))
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="out is read-only"):
        call(out=frozen)


def test_arguments_that_are_known_are_not_checked_again(monkeypatch: pytest.MonkeyPatch):
    arguments = {"stride": 2, "padding": ((1, 0), (1, 1)), "output_padding": (1, 0)}
    first = call(**arguments)
    monkeypatch.setattr(conv, "checked_problem", lambda *_: pytest.fail("checked again"))
    assert_array_equal(call(**arguments), first)
    out = np.full(first.shape, np.nan)
    assert call(**arguments, out=out) is out
    assert_array_equal(out, first)


@pytest.mark.parametrize("method", ["auto", *methods()])
def test_weights_that_change_in_place_change_the_result(method: str):
    weight, bias, exact = W.copy(), np.array([1.0, 2.0]), []
    for factor in (1, 2, -3):
        weight[...], bias[:] = factor * W, factor
        exact.append(reference.conv_transpose(Problem(2, 3, (4, 5), 2, 3, dtype="float64"), X, weight, bias))
        assert_array_equal(conv_transpose2d(X, weight, bias, method=method), exact[-1])
    assert not np.array_equal(exact[0], exact[1])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"stride": True}, TypeError, "stride is True, but must be an integer >= 1"),
        ({"stride": 1.0}, TypeError, r"stride is 1.0 \(float\), but must be an integer >= 1"),
        ({"stride": (1, True)}, TypeError, "stride is True, but must be an integer >= 1"),
        ({"dilation": (1.0, 1)}, TypeError, r"dilation is 1.0 \(float\)"),
        ({"stride": np.array([1, 1]).view(float)}, TypeError, r"stride is .*5e-324.* but must be an integer >= 1"),
        ({"padding": ((True, 1), (1, 1))}, TypeError, "padding is True, but must be an integer >= 0"),
        ({"padding": False}, TypeError, "padding is False, but must be an integer >= 0"),
        ({"groups": True}, TypeError, "groups is True, but must be an integer >= 1"),
        ({"bias": np.zeros(3)}, ValueError, r"bias has shape \(3,\), but must be \(2,\)"),
        ({"bias": np.zeros(2, "f4")}, TypeError, "bias has dtype float32, but must have x's dtype, float64"),
        ({"weight": W.astype("f4")}, TypeError, "weight has dtype float32, but must have x's dtype, float64"),
        ({"out": np.empty((2, 2, 6, 6))}, ValueError, r"out has shape \(2, 2, 6, 6\), but the result has \(2, 2, 6, 7\)"),
        ({"out": np.empty((2, 2, 6, 7), "f4")}, TypeError, "out has dtype float32, but must have x's dtype, float64"),
    ],
)
def test_what_equals_known_arguments_is_refused_all_the_same(changes: dict[str, Any], error: type[Exception], message: str):
    others = ({"stride": np.array([1, 1])}, {"padding": ((1, 1), (1, 1))}, {"bias": np.zeros(2)})
    for known in ({}, {"stride": (1, 1)}, {"dilation": (1, 1)}, *others):
        call(**known)
    with pytest.raises(error, match=message):
        call(**changes)


def test_known_arguments_are_checked_anew_on_other_threads(monkeypatch: pytest.MonkeyPatch):
    checked, check = [], conv.checked_problem
    monkeypatch.setattr(conv, "_known", {})
    monkeypatch.setattr(conv, "checked_problem", lambda *a: checked.append(jit.threads()) or check(*a))
    for threads in (1, 2, 1, 2):
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
        call()
    assert checked == [1, 2][: numba.config.NUMBA_NUM_THREADS]


def test_other_memory_with_known_arguments():
    exact = call(stride=2)
    swapped = {"x": X.astype(">f8"), "weight": W.astype(">f8")}
    for name in ("x", "weight"):
        for _ in range(2):
            assert_array_equal(call(stride=2, **{name: swapped[name]}), exact)
            assert_array_equal(call(stride=2, **{name: np.asfortranarray({"x": X, "weight": W}[name])}), exact)
    memory = np.zeros(2 * 2 * 9 * 11 + 60)
    x = memory[:60].reshape(1, 3, 4, 5)
    for _ in range(2):
        assert conv_transpose2d(x, W, stride=2, out=memory[60:258].reshape(1, 2, 9, 11)) is not None
        with pytest.raises(ValueError, match="out overlaps an input's memory"):
            conv_transpose2d(x, W, stride=2, out=memory[59:257].reshape(1, 2, 9, 11))


def test_only_so_many_arguments_are_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(conv, "KNOWN", 3)
    for size in range(1, 9):
        assert conv_transpose1d(np.ones((1, 1, size)), np.ones((1, 1, 2))).sum() == 2 * size
        assert 1 <= len(conv._known) <= 3


def test_a_pair_of_one_axis_is_nested():
    x, weight = np.ones((1, 1, 4)), np.ones((1, 1, 3))
    with pytest.raises(ValueError, match=r"padding is \(1, 1\): 2 entries"):
        conv_transpose1d(x, weight, padding=(1, 1))
    assert conv_transpose1d(x, weight, padding=((0, 1),)).shape == (1, 1, 5)


@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    ("stride", "padding", "dilation"), [(1, 0, 1), (1, 2, 1), (2, 1, 1), (3, 0, 2), (2, ((2, 1),), 2), (1, ((0, 3),), 3)]
)
def test_ordinary_convolution(ndim: int, groups: int, stride: int, padding: Any, dilation: int):
    rng = np.random.default_rng(ndim)
    size = {1: (41,), 2: (9, 12), 3: (7, 8, 6)}[ndim]
    x = rng.integers(-4, 5, (2, 6, *size)).astype(float)
    weight = rng.integers(-4, 5, (8, 6 // groups, *(3, 2, 2)[:ndim])).astype(float)
    bias = np.arange(8.0)
    pairs = padding * ndim if isinstance(padding, tuple) else ((padding, padding),) * ndim
    function = getattr(tconv_bench, f"conv{ndim}d")
    exact = reference.conv(x, weight, bias, (stride,) * ndim, pairs, (dilation,) * ndim, groups)
    assert_array_equal(function(x, weight, bias, stride, pairs, dilation, groups), exact)
    assert_array_equal(function(x[0], weight, bias, stride, pairs, dilation, groups), exact[0])


def test_ordinary_convolution_copies_rows_of_4_KiB_planes():
    rng = np.random.default_rng(0)
    x, weight = rng.integers(-4, 5, (1, 3, 32, 16)).astype(float), rng.integers(-4, 5, (7, 3, 3, 3)).astype(float)
    exact = reference.conv(x, weight, None, (1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    assert_array_equal(tconv_bench.conv2d(x, weight, padding=1), exact)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": W}, r"weight has shape \(3, 2, 3, 3\) and groups is 1: its second axis must be C_in // groups"),
        ({"weight": np.ones((2, 1, 3, 3)), "groups": 3}, "groups is 3, but must divide C_out, which is 2"),
        ({"weight": np.ones((2, 3, 5, 3))}, r"the output would be empty: its spatial size is \(0, 3\)"),
        ({"weight": np.ones((2, 3, 0, 3))}, r"weight's kernel is \(0, 3\), but every size must be >= 1"),
        ({"weight": np.ones((2, 3, 2, 3)), "stride": 0}, "stride is 0, but must be >= 1"),
    ],
)
def test_bad_input_of_ordinary_convolution(changes: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        tconv_bench.conv2d(**{"x": X} | changes)


@pytest.mark.parametrize(
    ("shape", "kernel", "stride", "padding", "dilation"),
    [
        ((4, 4), (3, 3), 1, 0, 1), ((7, 6), (3, 2), 2, 1, 1), ((9,), (3,), 3, ((1, 2),), 2),
        ((3, 4, 5), (2, 2, 2), (1, 2, 3), 0, 1), ((8, 8), (3, 3), 3, 0, 1), ((5, 7), (1, 4), (4, 1), ((0, 0), (3, 0)), (1, 2)),
    ],
)  # fmt: skip
def test_convolution_matrix_convolves_and_its_transpose_transposes(
    shape: tuple[int, ...], kernel: tuple[int, ...], stride: Any, padding: Any, dilation: Any
):
    rng = np.random.default_rng(1)
    weight, x = rng.integers(-4, 5, kernel), rng.integers(-4, 5, shape)
    matrix = convolution_matrix(shape, weight, stride, padding, dilation)
    ndim = len(shape)
    y = getattr(tconv_bench, f"conv{ndim}d")(x[None], weight[None, None], None, stride, padding, dilation)[0]
    assert isinstance(matrix, scipy.sparse.csr_array)
    assert matrix.shape == (y.size, x.size)
    assert matrix.dtype == weight.dtype
    assert_array_equal((matrix @ x.ravel()).reshape(y.shape), y)
    image = (matrix.T @ y.ravel()).reshape(shape)
    transposed = getattr(tconv_bench, f"conv_transpose{ndim}d")
    direct = transposed(y[None], weight[None, None], None, stride, padding, dilation=dilation)[0]
    inside = tuple(slice(0, size) for size in direct.shape)
    assert_array_equal(image[inside], direct)


def test_the_pattern_is_cached_per_problem_and_the_values_are_not():
    problem = Problem(1, 2, (5, 4), 3, 3, stride=2, dtype="float64")
    forget_patterns()
    ones, twos = (transposed_matrix(problem, np.full(problem.weight_shape, value)) for value in (1.0, 2.0))
    assert np.shares_memory(ones.indices, twos.indices)
    assert set(ones.data) == {1.0}
    assert set(twos.data) == {2.0}
    assert ones.nnz == entries(problem)
    forget_patterns()
    again = transposed_matrix(problem, np.full(problem.weight_shape, 1.0))
    assert not np.shares_memory(ones.indices, again.indices)
    assert_array_equal(ones.toarray(), again.toarray())


def test_convolution_matrix_keeps_zero_weights_as_entries():
    assert convolution_matrix((4, 4), np.zeros((3, 3))).nnz == 4 * 9
    assert convolution_matrix(4, np.array([1, 0], np.int16)).dtype == np.int16


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (((4, 4), np.ones(3)), ValueError, r"input_shape is \(4, 4\): 2 values"),
        (((2,), np.ones(3)), ValueError, r"output would be empty: input_shape is \(2,\)"),
        (((4,), np.ones(3, complex)), TypeError, "kernel has dtype complex128"),
        (((4,), np.float64(3)), ValueError, "kernel has 0 axes"),
        (((4,), np.ones(3), 0), ValueError, "stride is 0"),
    ],
)
def test_bad_input_of_convolution_matrix(arguments: tuple[Any, ...], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        convolution_matrix(*arguments)


def test_volumes():
    problem = Problem(1, 1, (2, 2, 2), 1, 2, stride=2, dtype="int64")
    x, weight = np.arange(8).reshape(1, 1, 2, 2, 2), np.arange(1, 9).reshape(1, 1, 2, 2, 2)
    out = conv_transpose3d(x, weight, stride=2)
    assert_array_equal(out, reference.conv_transpose(problem, x, weight))
    assert out[0, 0, 3, 3].tolist() == [6 * 7, 6 * 8, 7 * 7, 7 * 8]
