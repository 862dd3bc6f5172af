"""Max pooling that remembers where each maximum stood, and max unpooling that puts values back there.

::

    values[y, x]  = max over the window  input[y*stride - pad + k]          outside of the input: never the maximum
    indices[y, x] = row * width + column of that maximum in the input plane
    unpooled      = zeros;  unpooled[indices] = values                      in row order: of equal indices the last one stays

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
from tconv_bench.jit import native
from tconv_bench.problem import per_axis
from tconv_bench.simd import as_pointer, copy_grid, copy_rows, halve_rows, max_lines
from tconv_bench.upsample import _tasks
from tconv_bench.upsample._tasks import OTHER, STATUS, TASKS, Call, cut, share

BANDS = 32  # that few large planes are cut into
LINE = 512  # pixels of a line, where it is made of rows of several planes


def _native_pool(task, table, x, values):
    """Some pooled rows of some groups of planes; the table is ``_plan_pool``'s.

    Pixels of a row that stand ``sx`` apart are beside each other on a line, between values that are never the maximum; the rows
    of a group's planes follow each other.
    """
    table = carray(table, 16)
    n, iy, ix, oy, ox, ky, kx = table[3], table[4], table[5], table[6], table[7], table[8], table[9]
    sy, sx, py, px, planes = table[10], table[11], table[12], table[13], table[14]
    x, values = carray(x, n * iy * ix), carray(values, n * oy * ox)
    indices = carray(as_pointer(table[OTHER]), n * oy * ox, dtype=np.int64)
    least = carray(as_pointer(table[15]), 1, dtype=x.dtype)[0]
    edge = (px + sx - 1) // sx  # columns whose window may begin outside, and pixels of a line before the row's first
    pitch = ox + (kx - 1 - px) // sx + edge
    length = planes * pitch + simd.VECTOR_BYTES // 8
    lines = np.empty(ky * sx * length, x.dtype)
    lines[:] = least
    places = np.empty(length, np.int64)
    for j in range(length):
        places[j] = j % pitch * sx
    made, made_indices = np.empty(planes * pitch, x.dtype), np.empty(planes * pitch, np.int64)
    taps = np.empty(2 * ky * kx, np.int64)
    held = np.empty(ky, np.int64)
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
                for r in range(sx if sx != 2 else 0):
                    # pixel q*sx + r of the row stands at edge + q
                    found = min((ix - r + sx - 1) // sx, pitch - edge)
                    copy_grid(x, (m * iy + i) * ix + r, iy * ix, sx, lines, (slot * sx + r) * length + edge, pitch, 1, together,
                              found)  # fmt: skip
            for k in range(kx):
                shift, r = divmod(k - px + edge * sx, sx)
                taps[2 * count], taps[2 * count + 1] = (i - top) * ix + k, (slot * sx + r) * length + shift
                count += 1
        base, to = top * ix - px, (m * oy + y) * ox
        if planes == 1:
            max_lines(lines, taps, count, least, base, places, values, to, indices, to, ox)
        else:
            max_lines(lines, taps, count, least, base, places, made, 0, made_indices, 0, (together - 1) * pitch + ox)
            if ox < together:
                copy_grid(made, 0, 1, pitch, values, to, 1, oy * ox, ox, together)
                copy_grid(made_indices, 0, 1, pitch, indices, to, 1, oy * ox, ox, together)
            else:
                copy_grid(made, 0, pitch, 1, values, to, oy * ox, 1, together, ox)
                copy_grid(made_indices, 0, pitch, 1, indices, to, oy * ox, 1, together, ox)
        for j in range(edge):
            # where nothing exceeds the least value, the first pixel inside holds it, not one beyond the edge
            nearest = max(top, 0) * ix + max(j * sx - px, 0)
            for g in range(together):
                at = to + g * oy * ox + j
                indices[at] = max(indices[at], nearest)


@cache
def _pool_code(dtype: str) -> Any:
    p = types.CPointer(from_dtype(np.dtype(dtype)))
    return native(types.void(types.int64, types.CPointer(types.int64), p, p), _native_pool)


def _plan_pool(shape: tuple[int, ...], dtype: np.dtype[Any], kernel: Any, stride: Any, padding: Any) -> Call:
    size = shape[-2:]
    pooled = tuple((i + 2 * p - k) // s + 1 for i, p, k, s in zip(size, padding, kernel, stride))
    result, n = (*shape[:-2], *pooled), prod(shape[:-2])
    least = np.array([-np.inf if dtype.kind == "f" else np.iinfo(dtype).min], dtype)
    pitch = pooled[1] + kernel[1] // stride[1] + 1
    planes = max(1, min(n, LINE // pitch))
    tasks, alone = cut(prod(shape) + 2 * prod(result), -(-n // planes) * pooled[0])
    table = [0, 0, tasks, n, *size, *pooled, *kernel, *stride, *padding, planes, least.ctypes.data]
    return Call(result, dtype, tasks, alone, _pool_code(dtype.name).address, np.array(table, np.int64), (least,))


def max_pool2d(x: ArrayLike, kernel: Any, stride: Any = None, padding: Any = 0) -> tuple[NDArray[Any], NDArray[np.int64]]:
    window = _pair(kernel, "kernel", 1)
    steps = window if stride is None else _pair(stride, "stride", 1)
    call, array = _tasks.called(_plan_pool, x, window, steps, _pair(padding, "padding", 0))
    values, indices = np.empty(call.shape, call.dtype), np.empty(call.shape, np.int64)
    if values.size:
        _tasks.run(call, array, values, indices)
    return values, indices


def _pair(value: Any, name: str, least: int) -> tuple[int, ...]:
    return (value, value) if type(value) is int and value >= least else per_axis(value, 2, name, least)


def _native_unpool(task, table, x, out):
    """Zeros in bands of some planes, and values at their indices; the table is ``_plan_unpool``'s.

    A band of the output is where the windows of a band of pooled rows begin. It is filled just before values arrive there, so
    that it is still in the cache. A band whose indices leave it complains and is left as it is.
    """
    table = carray(table, 12)
    n, iy, ix, oy, ox, sy, py, bands = (
        table[3], table[4], table[5], table[6], table[7], table[8], table[9], table[10]
    )
    x, out = carray(x, n * iy * ix), carray(out, n * oy * ox)
    indices = carray(as_pointer(table[OTHER]), n * iy * ix, dtype=np.int64)
    zeros = np.zeros(LINE, x.dtype)
    first_unit, last_unit = share(task, table[TASKS], n * bands)
    for unit in range(first_unit, last_unit):
        plane, band = divmod(unit, bands)
        top, bottom = share(band, bands, iy)
        low = 0 if band == 0 else min(max(top * sy - py, 0), oy) * ox
        high = oy * ox if band == bands - 1 else min(max(bottom * sy - py, 0), oy) * ox
        own = out[plane * oy * ox : (plane + 1) * oy * ox]
        filled = low
        for start in range((plane * iy + top) * ix, (plane * iy + bottom) * ix, LINE):
            count = min(LINE, (plane * iy + bottom) * ix - start)
            places, values = indices[start : start + count], x[start : start + count]
            least, largest = places[0], places[0]
            for j in range(count):
                least, largest = min(least, places[j]), max(largest, places[j])
            if least < low or largest >= high:
                table[STATUS] = 1
                break
            while filled <= largest:
                copy_rows(zeros, 0, 0, own, filled, 0, min(LINE, high - filled), 1)
                filled += LINE
            for j in range(count):
                own[places[j]] = values[j]
        while filled < high:
            copy_rows(zeros, 0, 0, own, filled, 0, min(LINE, high - filled), 1)
            filled += LINE


@cache
def _unpool_code(itemsize: int) -> Any:
    i, p = types.int64, types.CPointer(from_dtype(np.dtype(f"u{itemsize}")))
    return native(types.void(i, types.CPointer(i), p, p), _native_unpool)


def _plan_unpool(
    shape: tuple[int, ...], dtype: np.dtype[Any], size: tuple[int, int], stride: int, padding: int, cut_planes: bool
) -> Call:
    n, cost = prod(shape[:-2]), 2 * prod(shape) + prod(shape[:-2]) * prod(size) * dtype.itemsize / 20
    bands = max(1, min(shape[-2], BANDS // max(1, n))) if cut_planes and cost > _tasks.ALONE else 1
    tasks, alone = cut(cost, n * bands)
    table = [0, 0, tasks, n, *shape[-2:], *size, stride, padding, bands, 0]
    return Call((*shape[:-2], *size), dtype, tasks, alone, _unpool_code(dtype.itemsize).address, np.array(table, np.int64))


def max_unpool2d(
    x: ArrayLike,
    indices: ArrayLike,
    kernel: Any,
    stride: Any = None,
    padding: Any = 0,
    output_size: Any = None,
) -> NDArray[Any]:
    window = _pair(kernel, "kernel", 1)
    steps = window if stride is None else _pair(stride, "stride", 1)
    pads = _pair(padding, "padding", 0)
    shape = np.shape(x)
    size = tuple((i - 1) * s - 2 * p + k for i, s, p, k in zip(shape[-2:], steps, pads, window))
    call, array = _tasks.called(_plan_unpool, x, size, steps[0], pads[0], True)
    places = indices if type(indices) is np.ndarray and indices.dtype == np.int64 and indices.flags.carray else np.require(indices, np.int64, ["C", "A"])
    result = np.empty(call.shape, call.dtype)
    if result.size and not _tasks.run(call, array, result, places):
        call, array = _tasks.called(_plan_unpool, array, size, steps[0], pads[0], False)
        if not _tasks.run(call, array, result, places):
            raise ValueError("bad")
    return result
