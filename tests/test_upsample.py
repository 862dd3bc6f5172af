"""``tconv_bench.upsample`` against plain definitions: values, dtypes, memory, NaN, threads, clear errors before any work."""

from __future__ import annotations

import doctest
import importlib
import os
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from numpy.testing import assert_array_equal

import tconv_bench
from tconv_bench import conv1d, conv2d, conv3d, conv_transpose1d, conv_transpose2d
from tconv_bench import upsample as up
from tconv_bench.upsample import _tasks, interpolation, pooling, resize_convolution, shuffles
from tests import upsampling as definition

ROOT = Path(__file__).resolve().parent.parent
MODULES = ("interpolation", "pooling", "resize_convolution", "shuffles", "transposed")
both_alignments = pytest.mark.parametrize("aligned", [False, True])
both_kinds = pytest.mark.parametrize("cubic", [False, True])
OTHER_DTYPES = [
    pytest.param(name, marks=pytest.mark.slow)
    for name in ("uint8", "int8", "int16", "uint16", "int32", "uint32", "uint64", "float64")
]
SHAPES = [
    ((2, 3, 4, 5), (2, 2)), ((3, 1, 1), (2, 3)), ((2, 9, 40), (3, 2)), ((17, 33), (4, 4)), ((1, 1, 2, 300), (1, 5)),
    ((5, 7), (6, 7)), ((40, 4, 4), (2, 2)), ((6, 8, 8), (1, 8)), ((7,), (3,)), ((2, 130), (16,)), ((3, 2, 3, 4), (2, 3, 2)),
    ((2, 2, 5, 1, 9), (1, 2, 4)), ((2, 2, 2, 70), (3, 1, 2)), ((3, 2, 9), (2, 19)), ((3, 5), (1, 1)), ((0, 3, 2, 2), (2, 2)),
    ((1, 2), (40, 33)),
]  # fmt: skip


@pytest.fixture
def many_tasks(monkeypatch: pytest.MonkeyPatch):
    """Every row is a task of its own, run by all threads; no call of before is known."""
    monkeypatch.setattr(_tasks, "ALONE", -1)
    monkeypatch.setattr(pooling, "ALONE", -1)
    monkeypatch.setattr(_tasks, "TASK", 0.001)
    monkeypatch.setattr(_tasks, "_known", {})


def integers(shape: tuple[int, ...], dtype: str = "float32", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0 if dtype.startswith("u") else -90, 90, shape).astype(dtype)


def normals(shape: tuple[int, ...], dtype: str = "float32", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def poisoned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    return np.full(shape, np.nan if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max, dtype)


def moved(x: np.ndarray, scale: tuple[int, ...]) -> None:
    """Nearest, nails and shuffle of x are what their definitions say, written into a poisoned array."""
    phases = int(np.prod(scale))
    channels = np.ascontiguousarray(np.broadcast_to(x, (phases, *x.shape))) * np.arange(phases).reshape(-1, *(1,) * x.ndim)
    channels = np.moveaxis(channels.astype(x.dtype), 0, x.ndim - len(scale))
    for function, exact, source in (
        (up.nearest, definition.nearest, x),
        (up.bed_of_nails, definition.bed_of_nails, x),
        (up.pixel_shuffle, definition.pixel_shuffle, channels),
    ):
        right = exact(np.array(source), scale)
        out = poisoned(right.shape, x.dtype)
        assert function(source, scale, out=out) is out
        assert_array_equal(out, right, err_msg=f"{function.__name__} {x.shape} {scale}")
        assert_array_equal(function(source, scale), right)


@pytest.mark.parametrize(("shape", "scale"), SHAPES)
def test_values_are_moved(shape: tuple[int, ...], scale: tuple[int, ...]):
    moved(integers(shape), scale)


@pytest.mark.parametrize(("shape", "scale"), SHAPES)
def test_values_are_moved_row_by_row_on_all_threads(shape: tuple[int, ...], scale: tuple[int, ...], many_tasks: None):
    moved(integers(shape), scale)


def test_values_are_moved_in_long_rows_and_large_zeros():
    moved(integers((2, 3, 1500)), (2, 3))
    moved(integers((1, 2, 5000)), (2,))


@pytest.mark.parametrize("dtype", ["int64", *OTHER_DTYPES])
def test_values_of_any_dtype_are_moved(dtype: str):
    for shape, scale in SHAPES[:6]:
        moved(integers(shape, dtype), scale)


def close(x: np.ndarray, scale: tuple[int, ...], cubic: bool, aligned: bool) -> np.ndarray:
    """The interpolation of x, within its derived bound of the definition."""
    function = up.bicubic if cubic else up.bilinear
    right = definition.interpolate(x, scale, cubic, aligned)
    out = poisoned(right.shape, x.dtype)
    assert function(x, scale, aligned, out=out) is out
    excess = np.abs(out - right) - definition.interpolation_bound(x, scale, cubic, aligned)
    assert out.dtype == x.dtype
    assert excess.max(initial=-1) <= 0, (x.shape, scale, excess.max())
    return out


@both_alignments
@both_kinds
@pytest.mark.parametrize(("shape", "scale"), SHAPES)
def test_interpolation(shape: tuple[int, ...], scale: tuple[int, ...], cubic: bool, aligned: bool):
    close(normals(shape), scale, cubic, aligned)


@both_alignments
@both_kinds
@pytest.mark.parametrize(("shape", "scale"), [*SHAPES[:5], SHAPES[10]])
def test_interpolation_in_double_precision(shape: tuple[int, ...], scale: tuple[int, ...], cubic: bool, aligned: bool):
    close(normals(shape, "float64"), scale, cubic, aligned)


@both_alignments
@both_kinds
def test_interpolation_is_the_same_however_it_is_cut(cubic: bool, aligned: bool, monkeypatch: pytest.MonkeyPatch):
    for shape, scale in [((9, 4, 5), (2, 2)), ((5, 3, 70), (1, 4)), ((2, 2, 70), (3, 5)), ((3, 2, 2, 40), (2, 2, 3))]:
        x, results = normals(shape), []
        for changes in ({}, {"LINE": 1}, {"LINE": 40}, {"BLOCK": 32}, {"ALONE": -1, "TASK": 0.001}):
            with monkeypatch.context() as patch:
                patch.setattr(_tasks, "_known", {})
                for name, value in changes.items():
                    patch.setattr(interpolation if name in ("LINE", "BLOCK") else _tasks, name, value)
                results.append(close(x, scale, cubic, aligned))
        for result in results[1:]:
            assert_array_equal(result, results[0])


@both_alignments
@both_kinds
def test_the_left_pixel_of_an_aligned_phase_switches_once(cubic: bool, aligned: bool):
    """What the kernel relies on: within a phase the pixel to the left is j, and from some j on j - 1."""
    for size in (1, 2, 3, 7, 50, 257):
        for scale in (1, 2, 3, 5, 8):
            found = interpolation.axis(size, scale, 4 if cubic else 2, aligned)
            late = np.arange(size)[:, None] - found.pixels.reshape(size, scale)
            assert set(late.ravel()) <= {0, 1}
            assert (np.diff(late, axis=0) >= 0).all()
            assert aligned or (np.diff(late, axis=0) == 0).all()


@both_alignments
@both_kinds
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_reaches_the_outputs_that_weigh_it(value: float, cubic: bool, aligned: bool):
    function = up.bicubic if cubic else up.bilinear
    for shape, scale in [((4, 5), (2, 3)), ((3, 20), (3, 2)), ((2, 7), (1, 5)), ((1, 3), (2, 4))]:
        matrices = [definition.interpolation_matrix(i, s, cubic, aligned) for i, s in zip(shape, scale)]
        for y, x in np.ndindex(shape):
            image = np.ones((3, *shape), np.float32)
            image[1, y, x] = value
            out = function(image, scale, aligned)
            weighed = np.multiply.outer(matrices[0][:, y], matrices[1][:, x]) != 0
            assert_array_equal(np.isfinite(out[1]), ~weighed)
            assert np.isfinite(out[::2]).all()


def test_a_constant_stays_one_and_corners_stay_in_place():
    x = normals((4, 6, 7), "float64")
    for function in (up.bilinear, up.bicubic):
        assert_array_equal(function(np.full((5, 6), 3.0), 4), 3.0)
        corners = function(x, (3, 2), align_corners=True)[:, ::17, ::13]
        assert_array_equal(corners, x[:, ::5, ::6])
        assert_array_equal(function(x, 1), x)
        # an odd scale has the pixel itself in the middle
        assert_array_equal(function(x, 3)[:, 1::3, 1::3], x)


@pytest.mark.parametrize("dtype", ["uint8", pytest.param("int16", marks=pytest.mark.slow), "int64"])
@both_alignments
@both_kinds
def test_integers_are_rounded_and_kept_within_their_dtype(dtype: str, cubic: bool, aligned: bool):
    info = np.iinfo(dtype)
    top = min(info.max, 2**53)
    x = np.random.default_rng(2).choice(np.array([max(info.min, -(2**53)), 0, 1, 7, top - 1, top], dtype), (3, 6, 5))
    x = x if dtype != "int64" else x // 2**20
    function = up.bicubic if cubic else up.bilinear
    out = poisoned((3, 12, 15), dtype)
    assert function(x, (2, 3), aligned, out=out) is out
    exact = definition.interpolate(x, (2, 3), cubic, aligned)
    slack = definition.interpolation_bound(x.astype(np.float64), (2, 3), cubic, aligned)
    low, high = (np.clip(np.floor(exact + 0.5 + side * slack), info.min, info.max) for side in (-1, 1))
    assert (low <= out).all()
    assert (out <= high).all()
    assert_array_equal(function(x, (2, 3), aligned), out)


def test_halves_are_rounded_upwards():
    assert up.bilinear(np.array([[10, 20], [30, 40]], np.uint8), 2).tolist() == [
        [10, 13, 18, 20], [15, 18, 23, 25], [25, 28, 33, 35], [30, 33, 38, 40],
    ]  # fmt: skip
    assert up.bilinear([-2, -4], (2,)).tolist() == [-2, -2, -3, -4]
    assert up.bicubic(np.array([0, 0, 255, 255], np.uint8), (2,)).tolist() == [0, 0, 0, 58, 197, 255, 255, 255]
    large = [2**53 - 1, 2**53 - 1]
    assert up.bilinear(large, (3,)).tolist() == large * 3


@pytest.mark.parametrize("change", ["fortran", "strided", "readonly", "unaligned", "swapped", "list", "reversed"])
def test_any_memory_gives_the_same_values_and_stays_as_it_was(change: str):
    def changed(a: np.ndarray) -> Any:
        if change == "fortran":
            return np.asfortranarray(a)
        if change == "strided":
            return np.repeat(a, 2, axis=-1)[..., ::2]
        if change == "reversed":
            return np.ascontiguousarray(a[..., ::-1])[..., ::-1]
        if change == "unaligned":
            view = np.empty(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
            view[...] = a
            return view
        if change == "swapped":
            return a.astype(a.dtype.newbyteorder())
        if change == "list":
            return a.tolist()
        b = a.copy()
        b.flags.writeable = False
        return b

    x = normals((2, 4, 6, 5), "float64")
    values, indices = up.max_pool2d(x.astype(np.float32), 2)
    for call in (
        lambda a: up.nearest(a, 2), lambda a: up.bed_of_nails(a, (2, 3)), lambda a: up.pixel_shuffle(a, 2),
        lambda a: up.bilinear(a, 2), lambda a: up.bicubic(a, 2, True),
    ):  # fmt: skip
        given = changed(x)
        out = call(given)
        assert_array_equal(out, call(x))
        assert out.dtype == np.float64
        assert out.dtype.isnative
        assert_array_equal(np.array(given), x)
    if change != "list":
        pooled = up.max_pool2d(changed(x.astype(np.float32)), 2)
        assert_array_equal(pooled[0], values)
        assert_array_equal(pooled[1], indices)
        right = definition.max_unpool(values, indices, (6, 5))
        assert_array_equal(up.max_unpool2d(changed(values), changed(indices), 2, output_size=(6, 5)), right)


def innermost(x: np.ndarray, axes: int) -> np.ndarray:
    """The same values with the axis before the last ``axes`` innermost in memory."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, -axes - 1, -1)), -1, -axes - 1)


INNERMOST = [
    ((2, 3, 4, 5), (2, 2)), ((17, 5, 4), (3, 2)), ((2, 70, 3, 3), (1, 4)), ((5, 9), (3,)), ((1, 2, 1, 300), (2, 5)),
    ((2, 20, 2, 3, 4), (2, 3, 2)), ((0, 3, 2, 2), (2, 2)), ((4, 6, 5), (1, 1)), ((2, 37, 3, 2), (2, 2)), ((20, 5), (2,)),
]  # fmt: skip


@pytest.mark.parametrize("tasks", ["one", "many"])
@pytest.mark.parametrize(("shape", "scale"), INNERMOST)
def test_channels_that_are_innermost_stay_so(
    shape: tuple[int, ...], scale: tuple[int, ...], tasks: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
):
    if tasks == "many":
        request.getfixturevalue("many_tasks")
        monkeypatch.setattr(interpolation, "INNER", 1)
    axes = len(scale)
    moved(innermost(integers(shape), axes), scale)
    for cubic in (False, True):
        for aligned in (False, True):
            x = innermost(normals(shape), axes)
            close(x, scale, cubic, aligned)
            function = up.bicubic if cubic else up.bilinear
            result = function(x, scale, aligned)
            assert_array_equal(result, function(np.ascontiguousarray(x), scale, aligned))
            assert np.moveaxis(result, -axes - 1, -1).flags.c_contiguous
            out = innermost(np.full(result.shape, np.nan, np.float32), axes)
            assert function(x, scale, aligned, out=out) is out
            assert_array_equal(out, result)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, None, 0), (3, 2, 1), ((2, 3), (3, 1), (1, 1)), (5, 3, 2)])
def test_max_pool_of_channels_that_are_innermost(kernel: Any, stride: Any, padding: Any):
    rng = np.random.default_rng(4)
    for shape in [(3, 7, 9), (2, 20, 6, 8)]:
        x = rng.integers(-3, 4, shape).astype(np.float32)
        for values in (x, np.where(rng.random(shape) < 0.2, np.float32(np.nan), x), np.full(shape, -np.inf, np.float32)):
            pooled(innermost(values, 2), kernel, stride, padding)
            assert np.moveaxis(up.max_pool2d(innermost(values, 2), kernel, stride, padding)[1], -3, -1).flags.c_contiguous


@pytest.mark.parametrize("tasks", ["one", "many"])
def test_max_unpool_of_channels_that_are_innermost(tasks: str, request: pytest.FixtureRequest):
    if tasks == "many":
        request.getfixturevalue("many_tasks")
    for shape in [(3, 6, 8), (2, 20, 6, 10), (1, 700, 4, 4)]:
        x = innermost(np.abs(normals(shape)) + 1, 2)
        values, indices = up.max_pool2d(x, 2)
        result = up.max_unpool2d(values, indices, 2)
        assert_array_equal(result, definition.max_unpool(values, indices, shape[-2:]))
        assert np.moveaxis(result, -3, -1).flags.c_contiguous
        assert_array_equal(up.max_unpool2d(values, np.ascontiguousarray(indices, np.uint16), 2), result)
        assert_array_equal(up.max_unpool2d(np.ascontiguousarray(values), indices, 2), result)
        out = np.full(shape, np.nan, np.float32)
        assert up.max_unpool2d(values, indices, 2, out=out) is out
        assert_array_equal(out, result)
    anywhere = np.random.default_rng(8).integers(0, 24, (2, 5, 2, 3))
    values = innermost(normals(anywhere.shape), 2)
    right = definition.max_unpool(values, anywhere, (4, 6))
    assert_array_equal(up.max_unpool2d(values, innermost(anywhere, 2), 2), right)
    with pytest.raises(ValueError, match=r"indices holds 24, but must be within 0 \.\.\. 23: the output's planes are 4 x 6"):
        up.max_unpool2d(values, np.full(anywhere.shape, 24), 2)


@both_alignments
@both_kinds
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_reaches_the_same_outputs_where_channels_are_innermost(value: float, cubic: bool, aligned: bool):
    function = up.bicubic if cubic else up.bilinear
    for scale in ((2, 3), (3, 1), (1, 2)):
        for y, column in np.ndindex(3, 5):
            image = np.ones((3, 3, 5), np.float32)
            image[1, y, column] = value
            out = function(innermost(image, 2), scale, aligned)
            assert_array_equal(np.isfinite(out), np.isfinite(function(image, scale, aligned)))


@pytest.mark.parametrize("dtype", ["uint8", *(pytest.param(name, marks=pytest.mark.slow) for name in ("int8", "uint32"))])
@pytest.mark.parametrize("channels", [3, pytest.param(6, marks=pytest.mark.slow)])
def test_integers_are_the_same_where_channels_are_innermost(dtype: str, channels: int):
    x = integers((channels, 4, 5), dtype, 6)
    for function in (up.bilinear, up.bicubic):
        for aligned in (False, True):
            right = function(x, (2, 3), aligned)
            assert_array_equal(function(innermost(x, 2), (2, 3), aligned), right)
            assert right.dtype == dtype


def test_bytes_are_rounded_as_their_exact_interpolation_is():
    """Halves are upwards, and of what is below one, at most the last 2**-12."""
    x = np.random.default_rng(9).integers(0, 256, (2, 9, 11)).astype(np.uint8)
    for function, cubic, scale in ((up.bilinear, False, (2, 4)), (up.bilinear, False, (3, 6)), (up.bicubic, True, (2, 2))):
        exact = definition.interpolate(x, scale, cubic, False)
        low, high = (np.clip(np.floor(exact + half), 0, 255) for half in (0.5 + 1e-9, 0.5 + 2.0**-11))
        result = function(x, scale)
        assert ((low <= result) & (result <= high)).all()
        assert cubic or (low == high).all()


def test_out_that_overlaps_what_would_be_copied_is_refused():
    buffer = np.zeros((8, 8), np.float32)
    for call in (
        lambda: up.nearest(buffer[::2, ::2], 2, out=buffer),
        lambda: up.bilinear(buffer[::2, ::2], 2, out=buffer),
        lambda: up.max_unpool2d(buffer[::2, ::2], np.zeros((4, 4), int), 2, out=buffer),
    ):
        with pytest.raises(ValueError, match="out overlaps an input's memory"):
            call()


def test_large_scales_take_no_more_memory_than_their_result():
    tracemalloc.start()
    for function in (up.nearest, up.bed_of_nails):
        out = function(np.ones((1, 3), np.float32), (1, 100_000))
        assert out.sum() == (300_000 if function is up.nearest else 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * out.nbytes


def test_tables_of_long_rows_are_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_tasks, "_known", {})
    monkeypatch.setattr(_tasks, "KEPT_BYTES", 100_000)
    for size in range(500, 520):
        up.bilinear(np.ones(size, np.float32), (2,), align_corners=True)
        assert sum(call.kept_bytes for call in _tasks._known.values()) <= 100_000


@pytest.mark.parametrize("make", [np.empty, lambda s: np.empty(s[::-1]).T, lambda s: np.empty((*s[:-1], 2 * s[-1]))[..., ::2]])
def test_out_is_written_and_returned(make: Any):
    x = normals((3, 4, 4, 6), "float64")
    values, indices = x[..., ::2, ::2].copy(), np.arange(6).reshape(2, 3) + np.zeros((3, 4, 1, 1), int)
    for call, shape in (
        (lambda out: up.nearest(x, 2, out=out), (3, 4, 8, 12)),
        (lambda out: up.pixel_shuffle(x, 2, out=out), (3, 1, 8, 12)),
        (lambda out: up.bilinear(x, 2, out=out), (3, 4, 8, 12)),
        (lambda out: up.max_unpool2d(values, indices, 2, out=out), (3, 4, 4, 6)),
    ):
        out = make(shape)
        out[...] = np.nan
        assert call(out) is out
        assert_array_equal(out, call(None))


POOLS: list[tuple[Any, Any, Any]] = [
    (2, None, 0), (3, 2, 1), (3, 1, 1), (2, 1, 0), ((2, 3), (1, 2), (1, 1)), (3, 3, 0), (5, 2, 2), (2, 2, 1),
    ((4, 1), (3, 5), (2, 0)), (1, 1, 0), (1, 2, 0), (5, 3, 1), (2, 3, 0), ((3, 6), (2, 3), (1, 3)),
]  # fmt: skip


def pooled(x: np.ndarray, kernel: Any, stride: Any, padding: Any) -> None:
    sizes = [(v, v) if isinstance(v, int) else v for v in (kernel, kernel if stride is None else stride, padding)]
    values, indices = up.max_pool2d(x, kernel, stride, padding)
    right = definition.max_pool(x, *sizes)
    assert values.dtype == x.dtype
    assert indices.dtype == np.int64
    assert_array_equal(values, right[0], err_msg=f"{x.shape} {kernel} {stride} {padding}")
    assert_array_equal(indices, right[1], err_msg=f"{x.shape} {kernel} {stride} {padding}")


@pytest.mark.parametrize("listed", [0, pooling.LISTED])
@pytest.mark.parametrize(("kernel", "stride", "padding"), POOLS)
def test_max_pool(kernel: Any, stride: Any, padding: Any, listed: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pooling, "LISTED", listed)
    monkeypatch.setattr(_tasks, "_known", {})
    rng = np.random.default_rng(4)
    for shape in [(7, 9), (3, 16, 12), (2, 20, 5, 6), (1, 6, 90)]:
        x = rng.integers(-3, 4, shape).astype(np.float32)
        pooled(x, kernel, stride, padding)
        pooled(np.where(rng.random(shape) < 0.2, np.float32(np.nan), x), kernel, stride, padding)
        pooled(np.where(rng.random(shape) < 0.9, np.float32(-np.inf), x), kernel, stride, padding)


def test_a_window_of_more_pixels_than_are_counted_is_refused():
    with pytest.raises(ValueError, match=r"kernel is \(32768, 3\) on rows of 65536, but a window must span fewer than 2\*\*31"):
        pooling._plan_pool((2**16, 2**16), X.dtype, False, (2**15, 3), (1, 1), (0, 0))


def test_max_pool_row_by_row_on_all_threads(many_tasks: None):
    for sizes in POOLS[:5]:
        pooled(integers((5, 8, 9)), *sizes)


@pytest.mark.parametrize(
    "dtype", ["int64", *(pytest.param(d, marks=pytest.mark.slow) for d in ("uint8", "int32", "uint64", "float64"))]
)
def test_max_pool_of_any_dtype(dtype: str, monkeypatch: pytest.MonkeyPatch):
    x = integers((2, 7, 9), dtype)
    if np.dtype(dtype).kind in "iu":
        x.flat[::5], x.flat[::7] = np.iinfo(dtype).max, np.iinfo(dtype).min
    for listed in (pooling.LISTED, 0):
        monkeypatch.setattr(pooling, "LISTED", listed)
        monkeypatch.setattr(_tasks, "_known", {})
        for sizes in POOLS[:6]:
            pooled(x, *sizes)
            pooled(innermost(x, 2), *sizes)
    pooled(np.full((1, 6, 6), 0 if np.dtype(dtype).kind == "f" else np.iinfo(dtype).min, dtype), 3, 2, 1)


def unpooled(x: np.ndarray, indices: np.ndarray, size: tuple[int, int], *arguments: Any) -> None:
    assert_array_equal(up.max_unpool2d(x, indices, *arguments), definition.max_unpool(x, indices, size))


def test_max_unpool_puts_back_what_max_pool_took():
    for shape in [(2, 3, 6, 8), (40, 4, 4), (16, 90), (2, 7, 10)]:
        x = np.abs(normals(shape)) + 1
        values, indices = up.max_pool2d(x, 2)
        out = up.max_unpool2d(values, indices, 2, output_size=shape[-2:])
        assert_array_equal(out[out != 0], x[out != 0])
        assert (out != 0).sum() == values.size
        unpooled(values, indices, shape[-2:], 2, None, 0, shape[-2:])


@pytest.mark.parametrize("tasks", ["one", "many"])
def test_max_unpool_of_any_indices(tasks: str, request: pytest.FixtureRequest):
    if tasks == "many":
        request.getfixturevalue("many_tasks")
    rng = np.random.default_rng(8)
    for shape in [(3, 4, 5), (40, 2, 3), (20, 30), (2, 24, 25)]:
        x = normals(shape)
        size = tuple(2 * i for i in shape[-2:])
        unpooled(x, rng.integers(0, size[0] * size[1], shape), size, 2)
        unpooled(x, np.full(shape, size[0] * size[1] - 1), size, 2)
        ordered = np.arange(shape[-2] * shape[-1]).reshape(shape[-2:]) * 3  # each band of rows keeps to a part of the output
        unpooled(x, np.broadcast_to(ordered, shape), size, 2)
        values, indices = up.max_pool2d(normals(size if len(shape) == 2 else (shape[0], *size)), 2)
        unpooled(values, indices, size, 2)


def test_of_equal_indices_the_last_stays():
    x, indices = np.arange(1.0, 7.0).reshape(2, 3), np.array([[7, 7, 2], [7, 2, 0]], np.uint8)
    assert up.max_unpool2d(x, indices, (2, 1)).tolist() == [[6, 0, 5], [0, 0, 0], [0, 4, 0], [0, 0, 0]]


@pytest.mark.parametrize("dtype", ["int64", "uint8", "uint64", "int32"])
@pytest.mark.parametrize("tasks", ["one", "many"])
def test_an_index_outside_of_the_plane_writes_nothing(dtype: str, tasks: str, request: pytest.FixtureRequest):
    if tasks == "many":
        request.getfixturevalue("many_tasks")
    x, out = np.ones((2, 3, 3), np.float32), np.full((2, 6, 6), 5, np.float32)
    for value in (36, 200) if dtype.startswith("u") else (36, 200, -1):
        indices = np.zeros((2, 3, 3), dtype)
        indices[1, 2, 1] = value
        with pytest.raises(ValueError, match=f"indices holds {value}, but must be within 0 ... 35: the output's planes are"):
            up.max_unpool2d(x, indices, 2, out=out)
    if dtype == "uint64":
        indices[0, 0, 0] = 2**64 - 1
        with pytest.raises(ValueError, match=f"indices holds {2**64 - 1}"):
            up.max_unpool2d(x, indices, 2)
    assert_array_equal(out, 5)


@pytest.mark.parametrize("dtype", ["int64", *(pytest.param(d, marks=pytest.mark.slow) for d in ("uint8", "int16", "float64"))])
def test_max_unpool_of_any_dtype(dtype: str):
    x = integers((3, 4, 5), dtype)
    unpooled(x, np.random.default_rng(1).permuted(np.tile(np.arange(80), (3, 1)), axis=1)[:, :20].reshape(3, 4, 5), (8, 10), 2)


def test_output_size_chooses_among_those_that_pool_to_the_same():
    x, indices = np.ones((1, 2, 2)), np.array([[[0, 1], [2, 3]]])
    for height, width in [(4, 4), (5, 4), (5, 5), (3, 5)]:
        assert up.max_unpool2d(x, indices, 2, output_size=(height, width)).shape == (1, height, width)
    assert up.max_unpool2d(x, indices, 3, 2, 1).shape == (1, 3, 3)
    for size, axis, value in [((6, 4), "height", 6), ((4, 2), "width", 2)]:
        with pytest.raises(ValueError, match=f"the output's {axis} is {value}, but must be >= 1 and within 1 of 4"):
            up.max_unpool2d(x, indices, 2, output_size=size)


@pytest.mark.parametrize(
    ("convolve", "shape", "kernel", "scale", "arguments"),
    [
        (conv2d, (2, 3, 5, 6), (4, 3, 3, 3), 2, {}),
        (conv2d, (3, 4, 4), (2, 3, 4, 2), (2, 3), {"bias": True}),
        (conv2d, (1, 4, 5, 5), (6, 2, 3, 3), 2, {"groups": 2, "dilation": 2}),
        (conv2d, (2, 4, 1, 5), (6, 2, 2, 3), (4, 1), {"groups": 2, "bias": True}),
        (conv1d, (2, 3, 9), (4, 3, 5), 3, {}),
        (conv3d, (1, 2, 3, 2, 4), (3, 2, 3, 1, 2), (1, 2, 2), {}),
    ],
)
@pytest.mark.parametrize("few", [0, 10**6])
def test_resize_convolve(
    convolve: Any, shape: Any, kernel: Any, scale: Any, arguments: dict[str, Any], few: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(resize_convolution, "FEW_PIXELS", few)
    monkeypatch.setattr(resize_convolution, "MANY_WEIGHTS", few)
    x, weight = integers(shape), integers(kernel, seed=1) // 20
    options = {name: value for name, value in arguments.items() if name != "bias"}
    bias = np.arange(kernel[0], dtype=np.float32) if "bias" in arguments else None
    ndim = len(kernel) - 2
    scales = (scale,) * ndim if isinstance(scale, int) else scale
    d = options.get("dilation", 1)
    pairs = [(d * (k - 1) // 2, d * (k - 1) - d * (k - 1) // 2) for k in kernel[2:]]
    out = up.resize_convolve(x, weight, bias, scale, **options)
    assert out.shape[-ndim:] == tuple(i * s for i, s in zip(shape[-ndim:], scales))
    near(out, convolve(definition.nearest(x, scales), weight, bias, padding=pairs, **options))
    for mode, function in (("bilinear", up.bilinear), ("bicubic", up.bicubic)):
        for aligned in (False, True):
            right = convolve(function(x, scales, aligned), weight, bias, padding=pairs, **options)
            near(up.resize_convolve(x, weight, bias, scale, mode, align_corners=aligned, **options), right)


@pytest.mark.parametrize("dtype", ["float32", "int64", pytest.param("uint8", marks=pytest.mark.slow)])
def test_stamps_in_registers_are_those_in_numpy(dtype: str, monkeypatch: pytest.MonkeyPatch):
    weights = [integers(shape, dtype, 3) for shape in ((4, 3, 3, 3), (6, 11, 3, 3), (2, 1, 3, 3))]
    stamps = [resize_convolution.stamp(weight, (2, 2), groups) for weight in weights for groups in (1, 2)]
    monkeypatch.setattr(resize_convolution, "_is_native", lambda *_: False)
    right = [resize_convolution.stamp(weight, (2, 2), groups) for weight in weights for groups in (1, 2)]
    for own, other in zip(stamps, right):
        assert_array_equal(own, other)


def near(out: np.ndarray, right: np.ndarray) -> None:
    """Equal but for rounding: the sums are another algorithm's, Winograd's among them."""
    assert out.shape == right.shape
    assert out.dtype == right.dtype
    assert np.abs(out - right).max() <= 2e-5 * np.abs(right).max()


def test_resize_convolve_of_integers_is_exact():
    x, weight = integers((2, 3, 5, 6), "int64"), integers((4, 3, 3, 3), "int64", 1)
    right = conv2d(definition.nearest(x, (2, 2)), weight, padding=1)
    assert_array_equal(up.resize_convolve(x, weight), right)
    assert_array_equal(up.conv_transpose(x, resize_convolution.stamp(weight, (2, 2))), right)


def test_a_window_as_large_as_the_plane():
    rng = np.random.default_rng(3)
    for shape in [(3, 7, 7), (2, 30, 21)]:
        x = rng.integers(-3, 4, shape).astype(np.float32)
        for values in (x, np.where(rng.random(shape) < 0.2, np.float32(np.nan), x), np.full(shape, -np.inf, np.float32)):
            pooled(values, shape[-2:], None, 0)


@pytest.mark.parametrize(
    ("kernel", "scale", "sizes"),
    [((4, 4), 2, (2, 1, 0)), ((3, 3), 2, (2, 1, 1)), ((2, 2), 2, (2, 0, 0)), ((5, 5), 2, (2, 2, 1)), ((2, 2), 3, (3, 0, 1))],
)
def test_conv_transpose_is_the_usual_layer(kernel: tuple[int, int], scale: int, sizes: tuple[int, int, int]):
    stride, padding, extra = sizes
    x, weight, bias = integers((2, 3, 5, 4)), integers((3, 4, *kernel), seed=1) // 20, np.arange(4, dtype=np.float32)
    right = conv_transpose2d(x, weight, bias, stride, padding, extra)
    assert_array_equal(up.conv_transpose(x, weight, bias, scale), right)
    out = poisoned(right.shape, "float32")
    assert up.conv_transpose(x, weight, bias, scale, out=out) is out
    assert_array_equal(out, right)


def test_conv_transpose_of_other_axes_groups_and_dilations():
    x, weight = integers((2, 4, 9)), integers((4, 3, 3), seed=1) // 20
    assert_array_equal(
        up.conv_transpose(x, weight, scale=2, groups=2, dilation=2),
        conv_transpose1d(x, weight, None, 2, ((2, 1),), 0, 2, 2),
    )
    x, weight = integers((1, 2, 3, 2, 4)), integers((2, 3, 1, 2, 3), seed=1) // 20
    assert up.conv_transpose(x, weight, scale=(1, 2, 3)).shape == (1, 3, 3, 4, 12)
    with pytest.raises(ValueError, match="its first axis must be x's channel count"):
        up.conv_transpose(X, np.ones((3, 1, 2, 2), np.float32))
    with pytest.raises(ValueError, match=r"weight has 2 axes \(shape \(5, 6\)\), but must have 3 to 5"):
        up.conv_transpose(X, X[0])


X = np.ones((4, 5, 6), np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: up.nearest(X, 0), ValueError, "scale is 0, but must be >= 1"),
        (lambda: up.nearest(X, (2, -1)), ValueError, "scale is -1, but must be >= 1"),
        (lambda: up.nearest(X, 2.5), TypeError, r"scale is 2.5 \(float\), but must be an integer >= 1"),
        (lambda: up.nearest(X, 2.0), TypeError, r"scale is 2.0 \(float\), but must be an integer >= 1"),
        (lambda: up.nearest(X, True), TypeError, "scale is True, but must be an integer >= 1"),
        (lambda: up.nearest(X, ()), ValueError, r"scale is \(\): 0 values, but allowed are one integer or 1 to 3"),
        (lambda: up.nearest(X, (1, 1, 1, 1)), ValueError, "4 values, but allowed are one integer or 1 to 3"),
        (lambda: up.nearest(X[0, 0], 2), ValueError, r"x has 1 axes \(shape \(6,\)\), but scale \(2, 2\) up-samples"),
        (lambda: up.bilinear(X[:, :0], 2), ValueError, r"x has shape \(4, 0, 6\), but each of the last 2 axes"),
        (lambda: up.bilinear(X, 2, 1), TypeError, "align_corners is 1, but must be True or False"),
        (lambda: up.bilinear([2**53 + 1, 0], (2,)), ValueError, "x holds 9007199254740993, but integers"),
        (lambda: up.bicubic(X > 0, 2), TypeError, "x has dtype bool, but must be one of float32"),
        (lambda: up.nearest(X.astype(complex), 2), TypeError, "x has dtype complex128"),
        (lambda: up.nearest(X.astype(np.float16), 2), TypeError, "x has dtype float16"),
        (lambda: up.nearest([[1], [2, 3]], 2), TypeError, "x can't be read as an array"),
        (lambda: up.nearest(X, 2**62), ValueError, "more bytes than this machine can address"),
        (lambda: up.nearest(X, 2, out=np.empty((4, 10, 11), "f4")), ValueError, r"out has shape \(4, 10, 11\)"),
        (lambda: up.nearest(X, 2, out=np.empty((4, 10, 12))), TypeError, "out has dtype float64, but must have x's dtype"),
        (lambda: up.bilinear([[1, 2]], 2, out=[[1]]), TypeError, "out is a list"),
        (lambda: up.nearest(X, 1, out=X), ValueError, "out overlaps an input's memory"),
        (lambda: up.pixel_shuffle(X, 3), ValueError, "its axis 0 must hold a multiple of 9 channels"),
        (lambda: up.pixel_shuffle(X[0], 2), ValueError, "must have channels before those that scale"),
        (lambda: up.max_pool2d(X, 0), ValueError, "kernel is 0, but must be >= 1"),
        (lambda: up.max_pool2d(X, 2, 0), ValueError, "stride is 0, but must be >= 1"),
        (lambda: up.max_pool2d(X, 2, 2, -1), ValueError, "padding is -1, but must be >= 0"),
        (lambda: up.max_pool2d(X, 3, 1, 2), ValueError, "padding is 2, but must be at most half the kernel, which is 3"),
        (lambda: up.max_pool2d(X, (2, 2, 2)), ValueError, r"kernel is \(2, 2, 2\): 3 values"),
        (lambda: up.max_pool2d(X, 6), ValueError, r"kernel is \(6, 6\), but must fit into the input, which is \(5, 6\)"),
        (lambda: up.max_pool2d(X[0, 0], 2), ValueError, r"x has 1 axes \(shape \(6,\)\), but must be \(..., H, W\)"),
        (lambda: up.max_pool2d(X[..., :0], 2), ValueError, r"x has shape \(4, 5, 0\), but each of the last 2 axes"),
        (lambda: up.max_unpool2d(X, np.zeros((4, 5, 5), int), 2), ValueError, r"indices has shape \(4, 5, 5\)"),
        (lambda: up.max_unpool2d(X, X, 2), TypeError, "indices has dtype float32, but must be integers"),
        (lambda: up.max_unpool2d(X, np.zeros(X.shape, int), 1, 1, 3), ValueError, "the output's height is -1"),
        (lambda: up.resize_convolve(X, X[None], mode="area"), ValueError, "mode is 'area', valid modes are nearest, bilinear"),
        (lambda: up.resize_convolve(X, X[:1, None], align_corners=True), ValueError, "'nearest' has no corners to align"),
        (lambda: up.resize_convolve(X, X[0]), ValueError, r"weight has 2 axes \(shape \(5, 6\)\), but must have 3 to 5"),
        (lambda: up.resize_convolve(X[0], X[None]), ValueError, "with as many spatial axes as weight has of the kernel: 2"),
        (lambda: up.resize_convolve(X, X[None, :3]), ValueError, "its second axis must be C_in // groups"),
        (lambda: up.resize_convolve(X, X[None].astype("f8")), TypeError, "weight has dtype float64, but must have x's dtype"),
    ],
)  # fmt: skip
def test_bad_input_names_the_value_and_what_is_allowed(call: Any, error: type[Exception], message: str):
    for _ in range(2):
        with pytest.raises(error, match=message):
            call()


def test_what_equals_known_arguments_is_refused_all_the_same():
    for known, other in [(2, 2.0), (1, True), ((2, 2), (2.0, 2)), ((1, 1), (True, 1))]:
        up.nearest(X, known)
        with pytest.raises(TypeError, match="but must be an integer >= 1"):
            up.nearest(X, other)
    up.max_pool2d(X, 1)
    with pytest.raises(TypeError, match="kernel is True"):
        up.max_pool2d(X, True)


def test_what_does_not_fit_is_refused_before_anything_is_resized(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(resize_convolution, "nearest", lambda *_: pytest.fail("resized"))
    with pytest.raises(ValueError, match="its second axis must be C_in // groups"):
        up.resize_convolve(X, X[None, :3])


def test_only_so_many_calls_are_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_tasks, "KNOWN", 3)
    monkeypatch.setattr(_tasks, "_known", {})
    for size in range(1, 9):
        assert up.nearest(np.ones((size, size), np.float32), 2).sum() == 4 * size * size
        assert 1 <= len(_tasks._known) <= 3


def test_results_do_not_depend_on_the_threads(many_tasks: None):
    x = normals((3, 2, 9, 11))
    calls = (
        lambda: up.nearest(x, 2), lambda: up.bilinear(x, 3), lambda: up.bicubic(x, 2, True),
        lambda: up.max_pool2d(x, 3, 2, 1)[1], lambda: up.bed_of_nails(x, 2),
    )  # fmt: skip
    results = []
    for threads in (1, numba.config.NUMBA_NUM_THREADS):
        numba.set_num_threads(threads)
        results.append([call() for call in calls])
    for one, many in zip(*results):
        assert_array_equal(one, many)


def test_threads_that_call_at_once_do_not_disturb_each_other(many_tasks: None):
    x = [normals((3, 9 + i, 11)) for i in range(4)]
    right = [up.bilinear(a, 2) for a in x]
    wrong: list[int] = []

    def work(i: int) -> None:
        wrong.extend(i for _ in range(30) if not np.array_equal(up.bilinear(x[i], 2), right[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str):
    module = importlib.import_module(f"tconv_bench.upsample.{name}")
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0


def test_upsample_is_imported_on_first_use():
    code = """
import sys, tconv_bench
assert "tconv_bench.upsample" not in sys.modules
assert tconv_bench.upsample.nearest is sys.modules["tconv_bench.upsample"].nearest
try:
    tconv_bench.downsample
except AttributeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout == "module 'tconv_bench' has no attribute 'downsample'\n", done.stderr
    assert "upsample" in tconv_bench.__all__


@pytest.mark.slow
@pytest.mark.parametrize("cpu", ["haswell", "generic"])
def test_narrower_vectors(cpu: str):
    environment = os.environ | {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": ""}
    chosen = "moved or interpolation or max_pool or max_unpool or finite or innermost or bytes or window"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen, __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-3000:]


def test_machine_code_is_shared_by_element_size():
    assert shuffles._code(4) is shuffles._code(4)
    for dtype in ("float32", "int32", "uint32"):
        x = integers((2, 3), dtype)
        call, _ = _tasks.called(shuffles._plan_nearest, x, (2, 2))
        assert call.table[_tasks.HEAD + _tasks.CODE] == shuffles._code(4).address
