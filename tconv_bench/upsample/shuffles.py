"""Up-sampling that only moves values: nearest neighbour, bed of nails, pixel shuffle.

A row of the output is made of ``scale`` rows whose pixels take turns: of one input row again and again (nearest), of an input
row and zeros (bed of nails), of one row in each of several channels (pixel shuffle). ``simd.interleave`` does that in
registers; nothing is computed, and the machine code knows elements by their size alone.

Cost: input and output are moved once, short rows a second time within the first-level cache.
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
from tconv_bench.simd import as_pointer, clear, copy_grid, copy_rows, gather, gather_pixels, interleave, part_channels, spread
from tconv_bench.upsample._tasks import TASKS, Call, Sizes, apply, checked_scale, make_call, scaled, share, sizes_of

NEAREST, NAILS, SHUFFLE = range(3)
LINE = 4096  # elements of a line
WOVEN = 8  # largest scale whose rows are woven in registers
LISTED = 4096  # places that one table lists
NARROW = 32  # pixels of an output row below which planes are shuffled pixel by pixel
SHORT = 256  # elements of an output row below which a run of rows is made on one line, then cut into rows
CLEARED = 4096  # bytes from which on the C library writes zeros faster: 48 MB in 1.6 instead of 2.3 ms
BYTES_PER_NANOSECOND = 30.0  # written by one core


def nearest(x: ArrayLike, scale: Any, *, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """Nearest-neighbour up-sampling: every pixel becomes a block of copies, ``out[o] = x[o // scale]`` along each axis.

    Args:
        x: ``(..., W)``, ``(..., H, W)`` or ``(..., D, H, W)``; float32, float64 or an integer dtype.
        scale: copies along each axis: an integer for the last two axes, or 1 to 3 integers >= 1, one per last axis.
        out: array of the result's shape and x's dtype to write into; must not overlap x.

    Returns:
        x's shape with the last axes scaled, in x's dtype.

    Raises:
        ValueError: a scale below 1, fewer axes than scales, an axis without a pixel, an ``out`` that does not fit.
        TypeError: a scale that is no integer (2.5 is not served), a dtype that is not served.

    Source: ``torch.nn.functional.interpolate(mode="nearest")``; ONNX ``Resize`` gives the same for whole scales.

    >>> nearest([[1, 2], [3, 4]], 2)
    array([[1, 1, 2, 2],
           [1, 1, 2, 2],
           [3, 3, 4, 4],
           [3, 3, 4, 4]])
    """
    return apply(_plan_nearest, x, out, checked_scale(scale))


def bed_of_nails(x: ArrayLike, scale: Any, *, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """Every pixel in the first corner of its block, zeros elsewhere: ``out[scale * i] = x[i]`` along each axis.

    Arguments, result and errors as in ``nearest``. What a transposed convolution of this stride does before it convolves.

    Source: Zeiler, Krishnan, Taylor & Fergus, "Deconvolutional networks", CVPR 2010 (there with max locations).

    >>> bed_of_nails([[1, 2], [3, 4]], 2)
    array([[1, 0, 2, 0],
           [0, 0, 0, 0],
           [3, 0, 4, 0],
           [0, 0, 0, 0]])
    """
    return apply(_plan_nails, x, out, checked_scale(scale))


def pixel_shuffle(x: ArrayLike, scale: Any, *, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """Channels become pixels: ``out[c, y*sy + ry, x*sx + rx] = x[(c*sy + ry)*sx + rx, y, x]``.

    A convolution with ``C * sy * sx`` channels and this shuffle compute what a transposed convolution of stride (sy, sx)
    does (Shi et al., "Is the deconvolution layer the same as a convolutional layer?", arXiv:1609.07009).

    Args:
        x: ``(..., C * s, W)``, ``(..., C * s, H, W)`` or ``(..., C * s, D, H, W)`` with s the product of the scales;
            float32, float64 or an integer dtype.
        scale: an integer for the last two axes, or 1 to 3 integers >= 1, one per last axis.
        out: array of the result's shape and x's dtype to write into; must not overlap x.

    Returns:
        ``(..., C, ...)`` with the last axes scaled, in x's dtype.

    Raises:
        ValueError: channels that the scales do not divide; else as ``nearest``.
        TypeError: as ``nearest``.

    Source: Shi et al., "Real-time single image and video super-resolution", arXiv:1609.05158; ``torch.nn.PixelShuffle``.

    >>> pixel_shuffle([[[1]], [[2]], [[3]], [[4]]], 2)
    array([[[1, 2],
            [3, 4]]])
    """
    return apply(_plan_shuffle, x, out, checked_scale(scale))


def _plan_nearest(shape: tuple[int, ...], dtype: np.dtype[Any], inner: bool, scale: tuple[int, ...]) -> Call:
    if inner:
        return _inner_call(NEAREST, shape, dtype, scale)
    return _call(NEAREST, scaled(shape, dtype, scale), dtype, _as_one_plane(sizes_of(shape, scale)))


def _plan_nails(shape: tuple[int, ...], dtype: np.dtype[Any], inner: bool, scale: tuple[int, ...]) -> Call:
    if inner:
        return _inner_call(NAILS, shape, dtype, scale)
    return _call(NAILS, scaled(shape, dtype, scale), dtype, _as_one_plane(sizes_of(shape, scale)))


def _plan_shuffle(shape: tuple[int, ...], dtype: np.dtype[Any], inner: bool, scale: tuple[int, ...]) -> Call:
    axis, phases = len(shape) - len(scale) - 1, prod(scale)
    if axis < 0:
        raise ValueError(
            f"x has {len(shape)} axes (shape {shape}), but must have channels before those that scale {scale} enlarges"
        )
    if shape[axis] % phases:
        raise ValueError(
            f"x has shape {shape}: its axis {axis} must hold a multiple of {phases} channels, the product of scale {scale}"
        )
    of_result = (*shape[:axis], shape[axis] // phases, *shape[axis + 1 :])
    if inner:
        return _inner_call(SHUFFLE, of_result, dtype, scale)
    return _call(SHUFFLE, scaled(of_result, dtype, scale), dtype, sizes_of(of_result, scale))


def _as_one_plane(s: Sizes) -> Sizes:
    """Rows of all planes are one plane's, where nothing happens along z: tiny planes then share a line."""
    return s._replace(n=1, z=1, y=s.n * s.z * s.y) if s.sz == 1 else s


def _call(mode: int, shape: tuple[int, ...], dtype: np.dtype[Any], s: Sizes) -> Call:
    rows = s.n * s.z * s.y * (s.sz * s.sy if mode == SHUFFLE else 1)
    nanoseconds = prod(shape) * dtype.itemsize / BYTES_PER_NANOSECOND
    if mode == SHUFFLE and s.x * s.sx < NARROW and prod(s[1:]) <= LISTED:
        places = _plane_places(s)
        sizes = [s.n, len(places)]
        return make_call(shape, dtype, _listed_code(dtype.itemsize), s.n, prod(shape) / 2, sizes, (places,))
    return make_call(shape, dtype, _code(dtype.itemsize), rows, nanoseconds, [mode, *s])


def _plane_places(s: Sizes) -> NDArray[np.int32]:
    """Where each pixel of an output plane stands in its channels, one after the other."""
    channels = np.arange(prod(s[1:]), dtype=np.int32).reshape(s.sz, s.sy, s.sx, s.z, s.y, s.x)
    places: NDArray[np.int32] = channels.transpose(3, 0, 4, 1, 5, 2).ravel()
    return places


def _inner_call(mode: int, shape: tuple[int, ...], dtype: np.dtype[Any], scale: tuple[int, ...]) -> Call:
    """A call on channels that are innermost in memory; shape is the result's before it is enlarged."""
    result, s, ndim = scaled(shape, dtype, scale), sizes_of(shape, scale), len(scale)
    channels = shape[-ndim - 1]
    s = s._replace(n=prod(shape[: -ndim - 1]))
    nanoseconds = prod(result) * dtype.itemsize / BYTES_PER_NANOSECOND
    phases, rows = s.sz * s.sy * s.sx, s.n * s.z * s.y
    places, block = np.arange(s.x * s.sx) // s.sx * channels, 0
    listed = np.empty(0, np.int32)
    if mode == SHUFFLE and (phases not in (2, 4) or channels * dtype.itemsize < simd.VECTOR_BYTES):
        block = max(1, min(s.x, LISTED // (s.sx * channels)))
        pixel, phase, channel = np.indices((block, s.sx, channels))
        listed = ((pixel * channels + channel) * phases + phase).astype(np.int32).ravel()
    sizes = [mode, *s, channels, block]
    return make_call(result, dtype, _inner_code(dtype.itemsize), rows, nanoseconds, sizes, (places, listed), inner=ndim)


@cache
def _inner_code(itemsize: int) -> Any:
    p = types.CPointer(from_dtype(np.dtype(f"u{itemsize}")))
    return native(types.void(types.int64, types.CPointer(types.int64), p, p), _native_inner)


def _native_inner(task, table, x, out):
    """Some rows of the input where channels are innermost, all that becomes of each; the table is ``_inner_call``'s."""
    table = carray(table, 15)
    mode, n, iz, iy, ix, sz, sy, sx, c, block = (
        table[3], table[4], table[5], table[6], table[7], table[8], table[9], table[10], table[11], table[12]
    )  # fmt: skip
    phases = sz * sy * sx
    width, height, row_length = ix * c, n * iz * iy, ix * sx * c
    parts = phases if mode == SHUFFLE else 1
    x, out = carray(x, height * width * parts), carray(out, height * width * phases)
    places = carray(as_pointer(table[13]), ix * sx, dtype=np.int64)
    listed = carray(as_pointer(table[14]), block * sx * c, dtype=np.int32)
    offsets = np.empty(phases if mode == SHUFFLE and block == 0 else 0, np.int64)
    for r in range(len(offsets)):
        row, rx = divmod(r, sx)
        offsets[r] = (row // sy * iy * sy + row % sy) * row_length + rx * c
    first, last = share(task, table[TASKS], height)
    for row in range(first, last):
        plane, y = divmod(row, iy)
        at, to = row * width * parts, (plane * sz * iy + y) * sy * row_length
        if len(offsets) > 0:
            part_channels(phases, x, at, c, ix, out, to, sx * c, offsets)
            continue
        for r in range(sz * sy):
            onto = to + (r // sy * iy * sy + r % sy) * row_length
            if mode == NEAREST:
                gather_pixels(x, at, places, 0, ix * sx, c, out, onto)
            elif mode == NAILS:
                clear(out, onto, row_length)
                if r == 0:
                    copy_rows(x, at, c, out, onto, sx * c, c, ix)
            else:
                for j in range(0, ix, block):
                    gather(x, at + r * sx + j * c * phases, listed, 0, out, onto + j * sx * c, min(block, ix - j) * sx * c)


@cache
def _listed_code(itemsize: int) -> Any:
    p = types.CPointer(from_dtype(np.dtype(f"u{itemsize}")))
    return native(types.void(types.int64, types.CPointer(types.int64), p, p), _native_listed)


def _native_listed(task, table, x, out):
    """Some output planes, each pixel from its place; the table is ``_call``'s."""
    table = carray(table, 6)
    n, size = table[3], table[4]
    x, out = carray(x, n * size), carray(out, n * size)
    places = carray(as_pointer(table[5]), size, dtype=np.int32)
    first, last = share(task, table[TASKS], n)
    for plane in range(first, last):
        gather(x, plane * size, places, 0, out, plane * size, size)


@cache
def _code(itemsize: int) -> Any:
    p = types.CPointer(from_dtype(np.dtype(f"u{itemsize}")))
    return native(types.void(types.int64, types.CPointer(types.int64), p, p), _native_rows)


def _native_rows(task, table, x, out):
    """Some rows of the input; for shuffles, of one output channel's input per row and plane phase. The table is ``_call``'s."""
    table = carray(table, 11)
    mode, n, iz, iy, ix, sz, sy, sx = table[3], table[4], table[5], table[6], table[7], table[8], table[9], table[10]
    ox, plane = ix * sx, iz * iy * ix
    z_phases, y_phases, channels = (sz, sy, sz * sy * sx) if mode == SHUFFLE else (1, 1, 1)
    x, out = carray(x, n * channels * plane), carray(out, n * plane * sz * sy * sx)
    lanes = simd.VECTOR_BYTES // out.itemsize
    length = max(1, min((ix * iy + lanes - 1) // lanes, LINE // (sx * lanes))) * lanes if sx <= WOVEN else CLEARED
    pixels = np.zeros(length * (sx + 1), out.dtype) if mode == NAILS and sx <= WOVEN else np.zeros(length, out.dtype)
    if mode == SHUFFLE and sx <= WOVEN:
        pixels = np.empty(length * sx, out.dtype)
    at_once = max(1, LINE // ox) if ox < SHORT else 1
    line = np.empty(min(at_once, iy) * ox if ox < SHORT else 0, out.dtype)
    step, copied = (plane, sx) if mode == SHUFFLE else (0, 1)
    row, last = share(task, table[TASKS], n * iz * z_phases * y_phases * iy)
    while row < last:
        unit, y = divmod(row, iy)
        rows = min(at_once, iy - y, last - row)
        row += rows
        unit, ry = divmod(unit, y_phases)
        unit, rz = divmod(unit, z_phases)
        m, z = divmod(unit, iz)
        at = (((m * channels + (rz * sy + ry) * sx) * iz + z) * iy + y) * ix
        to = ((((m * iz + z) * sz + rz) * iy + y) * sy + ry) * ox
        made, made_at = (line, 0) if ox < SHORT else (out, to)
        total, done = rows * ix, 0
        if sx > WOVEN:
            done = total
            if mode == NEAREST:
                spread(x, at, sx, made, made_at, total)
            elif mode == NAILS:
                clear(made, made_at, total * sx)
                copy_grid(x, at, 1, 0, made, made_at, sx, 0, total, 1)
            else:
                interleave(sx, x, at, step, made, made_at, total * sx)
        while done < total:
            # interleave reads whole vectors: where they would pass the input's end, and for zeros, it reads a copy
            width = min(total - done, (len(x) - at - (sx - 1) * step - done) // lanes * lanes)
            source, source_at, source_step = x, at + done, step
            if mode == NAILS or width <= 0:
                width = min(length, total - done)
                copy_rows(x, at + done, step, pixels, 0, length, width, copied)
                source, source_at, source_step = pixels, 0, 0 if mode == NEAREST else length
            interleave(sx, source, source_at, source_step, made, made_at + done * sx, width * sx)
            done += width
        if ox < SHORT:
            copy_rows(line, 0, ox, out, to, sy * ox, ox, rows)
        if mode == NEAREST:
            for number in range(1, sz * sy):
                z_copy, y_copy = divmod(number, sy)
                copy_rows(made, made_at, ox, out, to + (z_copy * iy * sy + y_copy) * ox, sy * ox, ox, rows)
        elif mode == NAILS:
            for z_copy in range(sz):
                first = ox if z_copy == 0 else 0
                to_zero, zeros = to + z_copy * iy * sy * ox + first, sy * ox - first
                if zeros * out.itemsize >= CLEARED:
                    for r in range(rows):
                        clear(out, to_zero + r * sy * ox, zeros)
                    continue
                for j in range(0, zeros, length):
                    copy_rows(pixels, len(pixels) - length, 0, out, to_zero + j, sy * ox, min(length, zeros - j), rows)
