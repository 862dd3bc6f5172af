"""Max pooling that remembers where each maximum stood, and max unpooling that puts values back there.

::

    values[y, x]  = max over the window  input[y*stride - padding + k];      pixels outside of the input are never the maximum
    indices[y, x] = row * width + column of that maximum in the input plane
    unpooled      = zeros;  unpooled[indices] = values                       in order: of equal indices the last one stays

Cost of pooling: a row of input is taken apart into the phases of the stride once, so that neighbouring windows read
neighbouring pixels; maxima and their places stay in registers over all taps of a window. Unpooling writes zeros just before
values arrive there, while they are in the cache, and checks the indices on the way.

Source: Zeiler & Fergus, "Visualizing and understanding convolutional networks", arXiv:1311.2901, section 2.1; arguments and
values as in ``torch.nn.functional.max_pool2d(..., return_indices=True)`` and ``max_unpool2d``.
"""

from __future__ import annotations

from functools import cache
from math import prod
from typing import Any

import numpy as np
from numba import carray, from_dtype, types
from numpy.typing import ArrayLike, NDArray

from tconv_bench import simd
from tconv_bench.conv import _check_out, checked_array
from tconv_bench.jit import native
from tconv_bench.problem import per_axis
from tconv_bench.simd import as_pointer, clear, copy_grid, halve_rows, max_gathered, max_lines, max_window, put_channels
from tconv_bench.upsample._tasks import (
    ALONE,
    OTHER,
    STATUS,
    TASKS,
    Call,
    as_given,
    called,
    check_addressable,
    make_call,
    memory_of,
    run,
    share,
)

LISTED = 1024  # pixels of a plane whose windows are listed
OUTPUTS = 256  # of several planes, listed together
LINE = 512  # pixels of a line, where it is made of rows of several planes
WIDE = 5  # columns of a window that are a vector of their own, where windows stand far apart
BANDS = 32  # that few large planes are cut into
FILL = 1024  # elements that are zeroed at once: in the first-level cache when values arrive


def max_pool2d(x: ArrayLike, kernel: Any, stride: Any = None, padding: Any = 0) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The maximum of each window over the last two axes, and where it stood.

    Args:
        x: ``(..., H, W)``; float32, float64 or an integer dtype.
        kernel: the window's size, an integer or one per axis, >= 1.
        stride: pixels from window to window, an integer or one per axis, >= 1; None: the kernel.
        padding: pixels that windows may begin outside of the input, an integer or one per axis, at most half the kernel.

    Returns:
        (values, indices) of shape ``(..., (H + 2*padding - kernel) // stride + 1, ...)``: values in x's dtype, indices int64
        into a flattened input plane. Of equal maxima the first in row order is named. A NaN is its window's maximum, the last
        one where there are several.

    Raises:
        ValueError: fewer than two axes, an axis without a pixel, sizes out of range, a window larger than the padded input.
        TypeError: a size that is no integer, a dtype that is not served.

    Source: ``torch.nn.functional.max_pool2d(..., return_indices=True)``.

    >>> values, indices = max_pool2d([[1, 2, 4, 1], [3, 4, 2, 3], [1, 4, 1, 2], [2, 3, 4, 3]], 2)
    >>> values.tolist(), indices.tolist()
    ([[4, 4], [4, 4]], [[5, 2], [9, 14]])
    """
    window = _pair(kernel, "kernel", 1)
    steps = window if stride is None else _pair(stride, "stride", 1)
    call, array = called(_plan_pool, x, window, steps, _pair(padding, "padding", 0), inner=2)
    values, indices = np.empty(call.shape, call.dtype), np.empty(call.shape, np.int64)
    if not call.is_empty:
        run(call, array, values, indices)
    return (values, indices) if call.back is None else (values.transpose(call.back), indices.transpose(call.back))


def max_unpool2d(
    x: ArrayLike,
    indices: ArrayLike,
    kernel: Any,
    stride: Any = None,
    padding: Any = 0,
    output_size: Any = None,
    *,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Zeros, with the values of ``x`` where ``indices`` say: what ``max_pool2d`` took, put back in its place.

    Args:
        x: pooled values ``(..., H, W)``; float32, float64 or an integer dtype.
        indices: integers of x's shape, into a flattened output plane; where several are equal, the last in row order stays.
        kernel, stride, padding: as given to ``max_pool2d``; they only determine the output's size.
        output_size: (height, width) of the output where several input sizes pool to x's; each within one stride of the default
            ``(in - 1)*stride - 2*padding + kernel``.
        out: array of the result's shape and x's dtype to write into; must not overlap x.

    Returns:
        ``(..., height, width)`` in x's dtype.

    Raises:
        ValueError: an index outside of the output plane, shapes that differ, sizes out of range; nothing is written then.
        TypeError: indices or sizes that are no integers, a dtype that is not served.

    Source: ``torch.nn.functional.max_unpool2d``.

    >>> max_unpool2d([[1, 2], [3, 4]], [[5, 2], [9, 14]], 2)
    array([[0, 0, 2, 0],
           [0, 1, 0, 0],
           [0, 3, 0, 0],
           [0, 0, 4, 0]])
    """
    window = _pair(kernel, "kernel", 1)
    steps = window if stride is None else _pair(stride, "stride", 1)
    pads, size = _pair(padding, "padding", 0), None if output_size is None else _pair(output_size, "output_size", 1)
    given = indices if type(indices) is np.ndarray else checked_array(indices, "indices")
    call, array = called(_plan_unpool, x, window, steps, pads, size, True, inner=2)
    if given.shape != array.shape:
        raise ValueError(f"indices has shape {given.shape}, but must have x's, {array.shape}")
    places = _as_places(given if call.order is None else given.transpose(call.order))
    shape = call.shape if call.back is None else tuple(call.shape[axis] for axis in call.back)
    _check_out(out, shape, call.dtype, (array, places, as_given(x), as_given(indices)))
    result = np.empty(call.shape, call.dtype)
    if not call.is_empty and not run(call, array, result, places):
        call, array = called(_plan_unpool, array, window, steps, pads, size, False, inner=2)
        if not run(call, array, result, places):
            raise _stray(given, shape)
    if call.back is not None:
        result = result.transpose(call.back)
    if out is None:
        return result
    out[...] = result
    return out


def _pair(value: Any, name: str, least: int) -> tuple[int, ...]:
    return (value, value) if type(value) is int and value >= least else per_axis(value, 2, name, least)


def _as_places(indices: NDArray[Any]) -> NDArray[np.int64]:
    if indices.dtype == np.int64 and indices.flags.carray:
        return indices
    places = memory_of(indices, "indices")
    if places.dtype.kind == "f":
        raise TypeError(f"indices has dtype {places.dtype}, but must be integers")
    return np.ascontiguousarray(places, np.int64)


def _stray(indices: NDArray[Any], shape: tuple[int, ...]) -> ValueError:
    height, width = shape[-2:]
    inside = (indices >= 0) & (indices < height * width)
    return ValueError(
        f"indices holds {indices[~inside][0]}, but must be within 0 ... {height * width - 1}: "
        f"the output's planes are {height} x {width}"
    )


def _check_planes(shape: tuple[int, ...]) -> None:
    if len(shape) < 2:
        raise ValueError(f"x has {len(shape)} axes (shape {shape}), but must be (..., H, W)")
    if min(shape[-2:]) < 1:
        raise ValueError(f"x has shape {shape}, but each of the last 2 axes must have a pixel")


def _plan_pool(
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    inner: bool,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> Call:
    _check_planes(shape)
    for k, p in zip(kernel, padding):
        if p > k // 2:
            raise ValueError(f"padding is {p}, but must be at most half the kernel, which is {k}")
    size = tuple((i + 2 * p - k) // s + 1 for i, p, k, s in zip(shape[-2:], padding, kernel, stride))
    if min(size) < 1:
        raise ValueError(f"kernel is {kernel}, but must fit into the input, which is {shape[-2:]} with padding {padding}")
    n, result = prod(shape[:-2]), (*shape[:-2], *size)
    least = np.array([-np.inf if dtype.kind == "f" else np.iinfo(dtype).min], dtype)
    if kernel[0] * shape[-1] >= 2**31 and (inner or kernel[1] < WIDE or stride[1] <= 2):
        raise ValueError(f"kernel is {kernel} on rows of {shape[-1]}, but a window must span fewer than 2**31 pixels")
    if inner:
        sizes, nanoseconds = [prod(shape[:-3]), *shape[-2:], *size, *kernel, *stride, *padding, shape[-3]], 2.0 * prod(shape)
        return make_call(result, dtype, _inner_code(dtype.name), prod(shape[:-3]) * size[0], nanoseconds, sizes, inner=2)
    if kernel[1] >= WIDE and stride[1] > 2:
        sizes = [n, *shape[-2:], *size, *kernel, *stride, *padding]
        nanoseconds = prod(result) * (20 + kernel[0] * (1 + kernel[1] / 8))
        return make_call(result, dtype, _windows_code(dtype.name), n * size[0], nanoseconds, sizes, (least,))
    if prod(shape[-2:]) <= LISTED:
        planes = max(1, min(n, OUTPUTS // prod(size)))
        places = _places(shape[-2:], size, kernel, stride, padding, planes)
        nanoseconds = prod(result) * (1 + 0.4 * prod(kernel))
        sizes = [n, prod(shape[-2:]), prod(size), prod(kernel), planes]
        return make_call(result, dtype, _listed_code(dtype.name), -(-n // planes), nanoseconds, sizes, (places,))
    edge, pitch = _edge(size[1], kernel[1], stride[1], padding[1])
    planes = max(1, min(n, LINE // pitch))
    nanoseconds = prod(shape) + 2.0 * prod(result)
    sizes = [n, *shape[-2:], *size, *kernel, *stride, *padding, planes, edge, pitch]
    return make_call(result, dtype, _pool_code(dtype.name), -(-n // planes) * size[0], nanoseconds, sizes, (least,))


def _edge(size: int, kernel: int, stride: int, padding: int) -> tuple[int, int]:
    """(outputs whose window may begin outside, length of a phase) of a row: a phase starts with so many pixels of padding."""
    edge = -(-padding // stride)
    return edge, size + (kernel - 1 - padding) // stride + edge


def _places(
    shape: tuple[int, ...],
    size: tuple[int, ...],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    planes: int,
) -> NDArray[np.int32]:
    """(taps + 1, outputs of some planes): where each tap reads, and at the end where the plane begins.

    A tap outside of the plane reads the window's nearest pixel inside, which neither changes the largest value nor its place.
    """
    along = [
        np.clip(np.arange(o)[:, None] * s - p + np.arange(k), 0, i - 1)
        for i, o, k, s, p in zip(shape, size, kernel, stride, padding)
    ]
    windows = along[0].T[:, None, :, None] * shape[1] + along[1].T[None, :, None, :]
    first = np.arange(planes) * prod(shape)
    taps = windows.reshape(prod(kernel), 1, prod(size)) + first[:, None]
    rows = [taps.reshape(prod(kernel), -1), np.repeat(first, prod(size))[None]]
    return np.ascontiguousarray(np.concatenate(rows), np.int32)  # concatenate may leave axes in another order


@cache
def _listed_code(dtype: str) -> Any:
    p = types.CPointer(from_dtype(np.dtype(dtype)))
    return native(types.void(types.int64, types.CPointer(types.int64), p, p), _native_listed)


def _native_listed(task, table, x, values):
    """All outputs of some groups of small planes; the table is ``_plan_pool``'s."""
    table = carray(table, 9)
    n, pixels, outputs, taps, planes = table[3], table[4], table[5], table[6], table[7]
    x, values = carray(x, n * pixels), carray(values, n * outputs)
    indices = carray(as_pointer(table[OTHER]), n * outputs, dtype=np.int64)
    places = carray(as_pointer(table[8]), (taps + 1) * planes * outputs, dtype=np.int32)
    first, last = share(task, table[TASKS], (n + planes - 1) // planes)
    for plane in range(first * planes, min(last * planes, n), planes):
        count = min(planes, n - plane) * outputs
        max_gathered(x, plane * pixels, places, planes * outputs, taps, values, indices, plane * outputs, count)


@cache
def _pool_code(dtype: str) -> Any:
    p = types.CPointer(from_dtype(np.dtype(dtype)))
    return native(types.void(types.int64, types.CPointer(types.int64), p, p), _native_pool)


def _native_pool(task, table, x, values):
    """Some pooled rows of some groups of planes; the table is ``_plan_pool``'s.

    Pixels of a row that stand ``sx`` apart are beside each other on a line, between values that are never the maximum; the rows
    of a group's planes follow each other.
    """
    table = carray(table, 18)
    n, iy, ix, oy, ox, ky, kx = table[3], table[4], table[5], table[6], table[7], table[8], table[9]
    sy, sx, py, px, planes, edge, pitch = table[10], table[11], table[12], table[13], table[14], table[15], table[16]
    x, values = carray(x, n * iy * ix), carray(values, n * oy * ox)
    indices = carray(as_pointer(table[OTHER]), n * oy * ox, dtype=np.int64)
    least = carray(as_pointer(table[17]), 1, dtype=x.dtype)[0]
    length = planes * pitch + simd.VECTOR_BYTES // 8
    lines = np.empty(ky * sx * length, x.dtype)
    lines[:] = least
    places = np.empty(length, np.int64)
    for j in range(length):
        places[j] = j % pitch * sx
    made, made_indices = np.empty(planes * pitch, x.dtype), np.empty(planes * pitch, np.int64)
    taps, held = np.empty(2 * ky * kx, np.int64), np.empty(ky, np.int64)
    held_of = -1
    first, last = share(task, table[TASKS], (n + planes - 1) // planes * oy)
    for row in range(first, last):
        group, y = divmod(row, oy)
        if group != held_of:
            held_of = group
            held[:] = -1
        m, top = group * planes, y * sy - py
        together = min(planes, n - m)
        count = 0
        for i in range(max(top, 0), min(top + ky, iy)):
            slot = i % ky
            if held[slot] != i:
                held[slot] = i
                if sx == 2:
                    halve_rows(x, (m * iy + i) * ix, iy * ix, lines, slot * 2 * length + edge, pitch, length,
                               min(ix, 2 * (pitch - edge)), together)  # fmt: skip
                else:
                    for r in range(sx):
                        found = min((ix - r + sx - 1) // sx, pitch - edge)
                        copy_grid(x, (m * iy + i) * ix + r, iy * ix, sx, lines, (slot * sx + r) * length + edge, pitch, 1,
                                  together, found)  # fmt: skip
            for k in range(kx):
                shift, r = divmod(k - px + edge * sx, sx)
                taps[2 * count], taps[2 * count + 1] = (i - top) * ix + k, (slot * sx + r) * length + shift
                count += 1
        base, to = top * ix - px, (m * oy + y) * ox
        if planes == 1:
            max_lines(lines, 0, taps, count, base, places, values, to, indices, to, ox)
        else:
            max_lines(lines, 0, taps, count, base, places, made, 0, made_indices, 0, (together - 1) * pitch + ox)
            if ox < together:
                copy_grid(made, 0, 1, pitch, values, to, 1, oy * ox, ox, together)
                copy_grid(made_indices, 0, 1, pitch, indices, to, 1, oy * ox, ox, together)
            else:
                copy_grid(made, 0, pitch, 1, values, to, oy * ox, 1, together, ox)
                copy_grid(made_indices, 0, pitch, 1, indices, to, oy * ox, 1, together, ox)
        for j in range(min(edge, ox)):
            # where nothing exceeds the least value, its place is the first pixel inside, not one beyond the edge
            inside = max(top, 0) * ix + max(j * sx - px, 0)
            for g in range(together):
                at = to + g * oy * ox + j
                indices[at] = max(indices[at], inside)


@cache
def _windows_code(dtype: str) -> Any:
    p = types.CPointer(from_dtype(np.dtype(dtype)))
    return native(types.void(types.int64, types.CPointer(types.int64), p, p), _native_windows)


def _native_windows(task, table, x, values):
    """Some pooled rows, one window after the other; the table is ``_plan_pool``'s."""
    table = carray(table, 15)
    n, iy, ix, oy, ox, ky, kx = table[3], table[4], table[5], table[6], table[7], table[8], table[9]
    sy, sx, py, px = table[10], table[11], table[12], table[13]
    x, values = carray(x, n * iy * ix), carray(values, n * oy * ox)
    indices = carray(as_pointer(table[OTHER]), n * oy * ox, dtype=np.int64)
    least = carray(as_pointer(table[14]), 1, dtype=x.dtype)[0]
    lane_values, lane_numbers = np.empty(simd.VECTOR_BYTES // 8, x.dtype), np.empty(simd.VECTOR_BYTES // 8, np.int64)
    first, last = share(task, table[TASKS], n * oy)
    for row in range(first, last):
        m, y = divmod(row, oy)
        top, bottom = max(y * sy - py, 0), min(y * sy - py + ky, iy)
        for j in range(ox):
            left, right = max(j * sx - px, 0), min(j * sx - px + kx, ix)
            at = top * ix + left
            value, number = max_window(x, m * iy * ix + at, ix, bottom - top, right - left, least, lane_values, lane_numbers)
            values[row * ox + j], indices[row * ox + j] = value, at + number


@cache
def _inner_code(dtype: str) -> Any:
    p = types.CPointer(from_dtype(np.dtype(dtype)))
    return native(types.void(types.int64, types.CPointer(types.int64), p, p), _native_inner)


def _native_inner(task, table, x, values):
    """Some pooled rows of images whose channels are innermost; the table is ``_plan_pool``'s."""
    table = carray(table, 15)
    n, iy, ix, oy, ox, ky, kx = table[3], table[4], table[5], table[6], table[7], table[8], table[9]
    sy, sx, py, px, channels = table[10], table[11], table[12], table[13], table[14]
    x, values = carray(x, n * iy * ix * channels), carray(values, n * oy * ox * channels)
    indices = carray(as_pointer(table[OTHER]), n * oy * ox * channels, dtype=np.int64)
    taps, places = np.empty(2 * ky * kx, np.int64), np.zeros(channels, np.int64)
    height, width = 0, 0
    first, last = share(task, table[TASKS], n * oy)
    for row in range(first, last):
        m, y = divmod(row, oy)
        top, bottom = max(y * sy - py, 0), min(y * sy - py + ky, iy)
        for j in range(ox):
            left, right = max(j * sx - px, 0), min(j * sx - px + kx, ix)
            if height != bottom - top or width != right - left:
                height, width, count = bottom - top, right - left, 0
                for i in range(height):
                    for k in range(width):
                        taps[count], taps[count + 1] = i * ix + k, (i * ix + k) * channels
                        count += 2
            at, to = ((m * iy + top) * ix + left) * channels, (row * ox + j) * channels
            max_lines(x, at, taps, height * width, top * ix + left, places, values, to, indices, to, channels)


def _plan_unpool(
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    inner: bool,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    output_size: tuple[int, int] | None,
    in_bands: bool,
) -> Call:
    """``in_bands``: whether planes may be cut into bands of rows, for which indices must lie where their windows begin."""
    _check_planes(shape)
    default = tuple((i - 1) * s - 2 * p + k for i, s, p, k in zip(shape[-2:], stride, padding, kernel))
    size = default if output_size is None else output_size
    for name, chosen, usual, step in zip(("height", "width"), size, default, stride):
        if chosen < 1 or abs(chosen - usual) >= step:
            raise ValueError(f"the output's {name} is {chosen}, but must be >= 1 and within {step - 1} of {usual}, the default")
    n, result = prod(shape[:-2]), (*shape[:-2], *size)
    check_addressable(result, dtype)
    nanoseconds = 2 * prod(shape) + prod(result) * dtype.itemsize / 20
    images = prod(shape[:-3]) if inner else n
    bands = max(1, min(shape[-2], BANDS // max(1, images))) if in_bands and nanoseconds > ALONE else 1
    if inner:
        sizes = [images, *shape[-2:], *size, stride[0], padding[0], bands, shape[-3]]
        return make_call(result, dtype, _inner_unpool_code(dtype.itemsize), images * bands, nanoseconds, sizes, inner=2)
    planes = max(1, min(n, LINE // prod(shape[-2:]))) if bands == 1 else 1
    sizes = [n, *shape[-2:], *size, stride[0], padding[0], bands, planes]
    return make_call(result, dtype, _unpool_code(dtype.itemsize), -(-n // planes) * bands, nanoseconds, sizes)


@cache
def _unpool_code(itemsize: int) -> Any:
    p = types.CPointer(from_dtype(np.dtype(f"u{itemsize}")))
    return native(types.void(types.int64, types.CPointer(types.int64), p, p), _native_unpool)


def _native_unpool(task, table, x, out):
    """Zeros in bands of some planes, and values at their indices; the table is ``_plan_unpool``'s.

    A band of the output reaches from where the windows of a band of pooled rows begin to where the next band's do. One that an
    index would leave fails the call. Small planes are taken ``planes`` at a time.
    """
    table = carray(table, 12)
    n, iy, ix, oy, ox, sy, py, bands = table[3], table[4], table[5], table[6], table[7], table[8], table[9], table[10]
    planes, pixels, size = table[11], iy * ix, oy * ox
    x, out = carray(x, n * pixels), carray(out, n * size)
    indices = carray(as_pointer(table[OTHER]), n * pixels, dtype=np.int64)
    first_unit, last_unit = share(task, table[TASKS], (n + planes - 1) // planes * bands)
    for unit in range(first_unit, last_unit):
        plane, band = divmod(unit, bands)
        plane *= planes
        together = min(planes, n - plane)
        top, bottom = share(band, bands, iy)
        low = 0 if band == 0 else min(max(top * sy - py, 0), oy) * ox
        high = size if band == bands - 1 else min(max(bottom * sy - py, 0), oy) * ox
        own, filled = out[plane * size : (plane + together) * size], low
        if together > 1:
            clear(own, 0, together * size)
            filled = high
        for start in range(plane * pixels + top * ix, (plane + together - 1) * pixels + bottom * ix, LINE):
            count = min(LINE, (plane + together - 1) * pixels + bottom * ix - start)
            places, values = indices[start : start + count], x[start : start + count]
            least, largest = places[0], places[0]
            for j in range(count):
                least, largest = min(least, places[j]), max(largest, places[j])
            if least < low or largest >= high:
                table[STATUS] = 1
                return
            while filled <= largest:
                clear(own, filled, min(FILL, high - filled))
                filled = min(high, filled + FILL)
            if together == 1:
                for j in range(count):
                    own[places[j]] = values[j]
            else:
                for g in range(together):
                    for j in range(g * pixels, (g + 1) * pixels):
                        own[g * size + places[j]] = values[j]
        clear(own, filled, high - filled)


@cache
def _inner_unpool_code(itemsize: int) -> Any:
    p = types.CPointer(from_dtype(np.dtype(f"u{itemsize}")))
    return native(types.void(types.int64, types.CPointer(types.int64), p, p), _native_inner_unpool)


def _native_inner_unpool(task, table, x, out):
    """The same for images whose channels are innermost, in bands of all their channels; the table is ``_plan_unpool``'s."""
    table = carray(table, 12)
    n, iy, ix, oy, ox, sy, py, bands = table[3], table[4], table[5], table[6], table[7], table[8], table[9], table[10]
    channels, pixels, size = table[11], iy * ix, oy * ox
    x, out = carray(x, n * pixels * channels), carray(out, n * size * channels)
    indices = carray(as_pointer(table[OTHER]), n * pixels * channels, dtype=np.int64)
    together, cleared = max(1, LINE // channels), max(1, FILL // channels)
    first_unit, last_unit = share(task, table[TASKS], n * bands)
    for unit in range(first_unit, last_unit):
        image, band = divmod(unit, bands)
        top, bottom = share(band, bands, iy)
        low = 0 if band == 0 else min(max(top * sy - py, 0), oy) * ox
        high = size if band == bands - 1 else min(max(bottom * sy - py, 0), oy) * ox
        own, filled = out[image * size * channels : (image + 1) * size * channels], low
        for start in range(top * ix, bottom * ix, together):
            count = min(together, bottom * ix - start) * channels
            at = (image * pixels + start) * channels
            places = indices[at : at + count]
            least, largest = places[0], places[0]
            for j in range(count):
                least, largest = min(least, places[j]), max(largest, places[j])
            if least < low or largest >= high:
                table[STATUS] = 1
                return
            while filled <= largest:
                until = min(high, filled + cleared)
                clear(own, filled * channels, (until - filled) * channels)
                filled = until
            put_channels(x, indices, at, channels, count // channels, out, image * size * channels)
        clear(own, filled * channels, (high - filled) * channels)
