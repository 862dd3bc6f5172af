"""Linear and cubic interpolation along one to three axes.

Output pixel o lies at input coordinate ``u``, between pixels ``i = floor(u)`` and ``i + 1``, with ``t = u - i``::

    u = (o + 1/2) / scale - 1/2                     pixels are areas, samples stand at their centres
    u = o * (in - 1) / (scale*in - 1)               align_corners: the corner samples coincide

    linear   out = (1 - t) x[i] + t x[i+1]
    cubic    out = sum over k = -1 ... 2 of  w(k - t) x[i+k],      a = -3/4
             w(d) = (a+2)|d|^3 - (a+3)d^2 + 1  for |d| <= 1,       a (|d| - 1) (|d| - 2)^2  for 1 < |d| < 2

An index outside of the input means the pixel at the border; several axes are interpolated one after the other. Coordinates
are exact fractions, and where ``t`` is zero the output is the pixel itself: a NaN or an infinity reaches the outputs that give
it a weight other than zero, and no others.

Cost: an output row is a sum of two or four input rows, held in the first-level cache, whose pixels are then weighted and
interleaved in registers; output is written once. With align_corners the weights differ from pixel to pixel, but within a phase
of the scale the pixel to the left of output ``j*scale + r`` is j up to some j, and j - 1 from there on.

Source: Keys, "Cubic convolution interpolation for digital image processing", IEEE TASSP 29, 1981; ONNX ``Resize``
(half_pixel, align_corners, cubic_coeff_a = -0.75); ``torch.nn.functional.interpolate``.
"""

from __future__ import annotations

from functools import cache
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numba import carray, from_dtype, types
from numba.extending import overload
from numpy.typing import ArrayLike, NDArray

from tconv_bench import simd
from tconv_bench.conv import checked_array
from tconv_bench.jit import kernel, native
from tconv_bench.simd import as_pointer, copy_rows, deinterleave, interleave, resample_rows, sum_lines, weigh_pixels, weigh_runs
from tconv_bench.upsample._tasks import TASKS, Call, apply, checked_scale, make_call, scaled, share, sizes_of

LINEAR, CUBIC = 2, 4  # taps along an axis
CUBIC_A = -0.75
LINE = 512  # pixels of a line, where it is made of rows of several planes
WOVEN = 8  # largest scale whose rows are woven in registers
BLOCK = 2048  # output columns at a time
FEW_CHANNELS = 4  # that are taken apart and woven again, where they are innermost
INNER = 8192  # values of a line, where channels are innermost
BYTES_PER_NANOSECOND = 13.0  # written by one core
EXACT_INTEGERS = 2**53  # float64 holds every integer up to here


def bilinear(x: ArrayLike, scale: Any, align_corners: bool = False, *, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """Linear interpolation: bilinear along the last two axes, linear along one or trilinear along three by scale's length.

    Args:
        x: ``(..., W)``, ``(..., H, W)`` or ``(..., D, H, W)``; float32, float64 or an integer dtype.
        scale: an integer for the last two axes, or 1 to 3 integers >= 1, one per last axis.
        align_corners: whether the corner pixels keep their place and value; else pixels are areas (see the module).
        out: array of the result's shape and x's dtype to write into; must not overlap x.

    Returns:
        x's shape with the last axes scaled, in x's dtype. Integers are interpolated in float64 (those of 8 bits in float32),
        rounded to the nearest, halves upwards, and kept within their dtype.

    Raises:
        ValueError: a scale below 1, fewer axes than scales, an axis without a pixel, an ``out`` that does not fit, an integer
            beyond 2**53, which float64 cannot hold.
        TypeError: a scale that is no integer (2.5 is not served), a dtype that is not served, align_corners not True or False.

    Source: ``torch.nn.functional.interpolate(mode="bilinear")``; ONNX ``Resize`` (mode linear).

    >>> bilinear([[10.0, 20.0], [30.0, 40.0]], 2)
    array([[10. , 12.5, 17.5, 20. ],
           [15. , 17.5, 22.5, 25. ],
           [25. , 27.5, 32.5, 35. ],
           [30. , 32.5, 37.5, 40. ]])
    >>> bilinear([10, 20, 40], (2,), align_corners=True)
    array([10, 14, 18, 24, 32, 40])
    """
    return _interpolate(x, scale, LINEAR, align_corners, out)


def bicubic(x: ArrayLike, scale: Any, align_corners: bool = False, *, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """Cubic interpolation with a = -3/4 along the last two axes, or along one or three by scale's length.

    It overshoots at edges: results may lie beyond the least and the largest pixel. Arguments, result and errors as in
    ``bilinear``.

    Source: Keys 1981; ``torch.nn.functional.interpolate(mode="bicubic")``; ONNX ``Resize`` (mode cubic).

    >>> bicubic([0.0, 0.0, 64.0, 64.0], (2,))
    array([ 0.  , -2.25, -6.75, 14.5 , 49.5 , 70.75, 66.25, 64.  ])
    """
    return _interpolate(x, scale, CUBIC, align_corners, out)


def _interpolate(x: ArrayLike, scale: Any, taps: int, aligned: Any, out: NDArray[Any] | None) -> NDArray[Any]:
    if aligned is not False and aligned is not True:
        raise TypeError(f"align_corners is {aligned!r}, but must be True or False")
    if type(x) is not np.ndarray or (x.dtype.kind in "iu" and x.dtype.itemsize == 8):
        x = checked_array(x, "x")
        _check_exact(x)
    return apply(_plan, x, out, checked_scale(scale), taps, aligned)


def _check_exact(x: NDArray[Any]) -> None:
    """ValueError where an integer would not be the same in float64."""
    if x.dtype.kind in "iu" and x.dtype.itemsize == 8 and x.size:
        for extreme in (int(x.min()), int(x.max())):
            if abs(extreme) > EXACT_INTEGERS:
                raise ValueError(f"x holds {extreme}, but integers are interpolated in float64, so they must be within 2**53")


class Axis(NamedTuple):
    """What interpolation takes along an axis, per output pixel."""

    rows: NDArray[np.int64]  # (first input pixel, number of taps); one tap where the coordinate is a pixel's
    weights: NDArray[np.float64]  # (outputs, taps)
    pixels: NDArray[np.int64]  # the i of the module's formula


def axis(size: int, scale: int, taps: int, aligned: bool) -> Axis:
    """Taps of every output of an axis; pixels outside of ``0 ... size - 1`` mean the border's."""
    o = np.arange(size * scale, dtype=np.int64)
    above, below = (o * (size - 1), max(1, size * scale - 1)) if aligned else (2 * o + 1 - scale, 2 * scale)
    pixels, rest = np.divmod(above, below)
    t = (rest / below)[:, None]
    weights = np.concatenate([1 - t, t], axis=1) if taps == LINEAR else _cubic(np.abs(np.arange(-1, 3) - t))
    exact = rest == 0
    weights[exact] = np.eye(1, taps)
    rows = np.stack([np.where(exact, pixels, pixels - taps // 2 + 1), np.where(exact, 1, taps)], axis=1)
    return Axis(rows, weights, pixels)


def _cubic(d: NDArray[np.float64]) -> NDArray[np.float64]:
    a = CUBIC_A
    return np.where(d <= 1, ((a + 2) * d - (a + 3)) * d * d + 1, a * (d - 1) * (d - 2) ** 2)


def computed(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype that pixels of a dtype are interpolated in: their own, or the float that holds an integer's."""
    return dtype if dtype.kind == "f" else np.dtype(np.float32 if dtype.itemsize == 1 else np.float64)


def _plan(shape: tuple[int, ...], dtype: np.dtype[Any], inner: bool, scale: tuple[int, ...], taps: int, aligned: bool) -> Call:
    s, result, lines = sizes_of(shape, scale), scaled(shape, dtype, scale), computed(dtype)
    nanoseconds = prod(result) * lines.itemsize / BYTES_PER_NANOSECOND
    z, y, x = (axis(size, step, taps, aligned) for size, step in ((s.z, s.sz), (s.y, s.sy), (s.x, s.sx)))
    channels = shape[-len(scale) - 1] if inner else 1
    if channels > FEW_CHANNELS:
        return _plan_inner(shape, dtype, result, nanoseconds, (z, y, x), len(scale), taps)
    lanes = simd.VECTOR_BYTES // lines.itemsize
    planes = channels if inner else max(1, min(s.n, min(LINE, BLOCK // s.sx) // (s.x + taps)))
    width = min(s.x, max(lanes, BLOCK // s.sx))
    spread = s.x + lanes if aligned else 1
    if s.sx > WOVEN:
        exact, switches, x_weights = _in_runs(x, s.x, s.sx, aligned)
    else:
        exact, switches, x_weights = _apart(x, s.x, s.sx, taps, spread) if aligned else _by_phase(x, s.sx)
    places = x.rows[: s.sx, :1] + taps // 2 + np.arange(taps)
    x_taps = np.stack([(len(z.weights) + len(y.weights)) * taps + np.arange(places.size), places.ravel()], axis=1)
    weights = np.concatenate([z.weights.ravel(), y.weights.ravel(), x_weights.ravel()]).astype(lines)
    rows = -(-s.n // planes) * len(z.rows) * len(y.rows)
    sizes = [s.n, s.z, s.y, s.x, len(z.rows), len(y.rows), s.sx, taps, planes, width, spread, int(aligned), len(exact)]
    order = len(scale) if inner else 0
    kept = weights, z.rows, y.rows, x.rows[: s.sx].copy(), x_taps.astype(np.int64), exact, switches
    return make_call(result, dtype, _code(dtype.name), rows, nanoseconds, [*sizes, order], kept, inner=order)


def _plan_inner(
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    result: tuple[int, ...],
    nanoseconds: float,
    axes: tuple[Axis, Axis, Axis],
    ndim: int,
    taps: int,
) -> Call:
    """The same where the channels, one axis before those that are enlarged, are innermost in memory."""
    z, y, x = axes
    n, channels, size = prod(shape[: -ndim - 1]), shape[-ndim - 1], shape[-1]
    first, count = x.rows[:, :1], x.rows[:, 1:]
    x_count = int(count.max())
    places = np.clip(first + np.minimum(np.arange(x_count), count - 1), 0, size - 1)
    exact = np.flatnonzero(count[:, 0] == 1) if x_count > 1 else np.empty(0, np.int64)
    step = max(1, INNER // (channels * max(1, len(x.rows) // size)))
    starts = np.arange(0, len(places), step)
    stops = np.append(starts[1:], len(places))
    blocks = [(a, b, places[a:b].min(), places[a:b].max() + 1) for a, b in zip(starts.tolist(), stops.tolist())]
    ranges = np.array(blocks, np.int64)
    widest = int((ranges[:, 3] - ranges[:, 2]).max()) * channels
    weights = np.concatenate([z.weights.ravel(), y.weights.ravel(), x.weights[:, :x_count].ravel()]).astype(computed(dtype))
    sizes = [n, *_in_sizes(shape, ndim), len(z.rows), len(y.rows), len(x.rows), channels, taps, x_count, len(blocks), widest]
    kept = weights, z.rows, y.rows, (places * channels).astype(np.int64), ranges, np.stack([exact, places[exact, 0]], axis=1)
    rows = n * len(z.rows) * len(y.rows)
    return make_call(result, dtype, _inner_code(dtype.name), rows, nanoseconds, [*sizes, len(exact)], kept, inner=ndim)


def _in_sizes(shape: tuple[int, ...], ndim: int) -> list[int]:
    return [1] * (3 - ndim) + list(shape[-ndim:])


def _by_phase(x: Axis, scale: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """(exact outputs, switches, weights) of a row whose outputs differ by phase alone; an exact one has a phase of one tap."""
    return np.empty((0, 2), np.int64), np.zeros(scale, np.int64), x.weights[:scale]


def _in_runs(x: Axis, size: int, scale: int, aligned: bool) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """(exact outputs, late ones per pixel, weights) of a row that ``simd.weigh_runs`` makes; weights are ``[tap][output]``."""
    late = (x.pixels.reshape(size, scale) < np.arange(size)[:, None]).sum(axis=1, dtype=np.int64)
    found = np.flatnonzero(x.rows[:, 1] == 1)
    return np.stack([found, x.pixels[found]], axis=1), late, (x.weights if aligned else x.weights[:scale]).T


def _apart(
    x: Axis, size: int, scale: int, taps: int, spread: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """(exact outputs, switches, weights) of an aligned row.

    Pixel j of phase r has the coordinate ``j + r/scale - drift``, where the drift grows from 0 to less than 1 along the row:
    the pixel to its left is j below ``switches[r]`` and j - 1 from there on. Weights are ``[phase][tap][j]``, ``spread`` apart;
    exact outputs are listed as (output, pixel), since a weight of zero is no protection from a NaN.
    """
    found = np.flatnonzero(x.rows[:, 1] == 1)
    switches = (x.pixels.reshape(size, scale) == np.arange(size)[:, None]).sum(axis=0, dtype=np.int64)
    weights = np.zeros((scale, taps, spread))
    weights[:, :, :size] = x.weights.reshape(size, scale, taps).transpose(1, 2, 0)
    return np.stack([found, x.pixels[found]], axis=1), switches, weights


@cache
def _code(dtype: str) -> Any:
    p = types.CPointer(from_dtype(np.dtype(dtype)))
    return native(types.void(types.int64, types.CPointer(types.int64), p, p), _native_rows)


def _lines(pixels, count):
    """A new array of what pixels are computed in; see ``computed``."""
    return np.empty(count, computed(pixels.dtype))


@overload(_lines)
def _typed_lines(pixels, count):
    if isinstance(pixels.dtype, types.Float):
        return lambda pixels, count: np.empty(count, pixels.dtype)
    if pixels.dtype.bitwidth == 8:
        return lambda pixels, count: np.empty(count, np.float32)
    return lambda pixels, count: np.empty(count, np.float64)


def _target(out, made, is_out):
    """``out`` where it takes what is computed as it is, and is to; else ``made``."""
    return out if out.dtype == made.dtype and is_out else made


@overload(_target)
def _typed_target(out, made, is_out):
    if out.dtype == made.dtype:
        return lambda out, made, is_out: out if is_out else made
    return lambda out, made, is_out: made


def _native_rows(task, table, x, out):
    """Some output rows of some groups of planes, a block of columns at a time; the table is ``_plan``'s.

    Rows of a group's planes stand beside each other on a line, each between ``pad`` repetitions of its ends. Of few channels
    that are innermost, a pixel's are such a group.
    """
    table = carray(table, 24)
    n, iz, iy, ix, oz, oy, sx = table[3], table[4], table[5], table[6], table[7], table[8], table[9]
    taps, planes, width, spread, aligned, exact_count = table[10], table[11], table[12], table[13], table[14] != 0, table[15]
    is_inner = table[16] != 0
    ox, x_weights = ix * sx, (oz + oy) * taps
    x, out = carray(x, n * iz * iy * ix), carray(out, n * oz * oy * ox)
    lines = _lines(out, 0)
    weights = carray(as_pointer(table[17]), x_weights + sx * taps * max(spread, ix), dtype=lines.dtype)
    z_rows = carray(as_pointer(table[18]), (oz, 2), dtype=np.int64)
    y_rows = carray(as_pointer(table[19]), (oy, 2), dtype=np.int64)
    x_rows = carray(as_pointer(table[20]), (sx, 2), dtype=np.int64)
    x_taps = carray(as_pointer(table[21]), 2 * sx * taps, dtype=np.int64)
    exact = carray(as_pointer(table[22]), (exact_count, 2), dtype=np.int64)
    switches = carray(as_pointer(table[23]), max(sx, ix), dtype=np.int64)
    is_wide = sx > WOVEN
    fused = is_wide or sx == 2 or sx == 4 or (sx == 3 and not aligned)
    zero, pad = lines.dtype.type(0), taps // 2
    lanes, is_float = simd.VECTOR_BYTES // lines.itemsize, out.dtype == lines.dtype
    pitch = width + 2 * pad
    step = (planes * pitch + lanes - 1) // lanes * lanes
    line_step = step + 2 * lanes
    lines = _lines(out, (2 * taps + 1) * line_step + lanes)  # input rows, their sum along y, those of the depths
    lines = lines[(-lines.ctypes.data % simd.VECTOR_BYTES) // lines.itemsize :]
    phases = _lines(out, 0 if fused else sx * step + lanes)
    in_place = is_float and (fused or planes == 1) and not is_inner
    made = _lines(out, 0 if in_place else planes * pitch * sx)
    beside = pitch * sx + simd.VECTOR_BYTES // out.itemsize  # rows of single channels, before they are woven and after
    channels = np.empty(planes * beside if is_inner else 0, out.dtype)
    target = _target(out, made, in_place)
    held = np.empty(taps, np.int64)
    z_taps, y_taps = np.empty(2 * taps, np.int64), np.empty(2 * taps, np.int64)
    first, last = share(task, table[TASKS], (n + planes - 1) // planes * oz * oy)
    for start in range(0, ix, width):
        columns = min(width, ix - start)
        held_of = -1
        for row in range(first, last):
            plane, y = divmod(row, oy)
            if plane != held_of:
                held_of = plane
                held[:] = -1
            m, z = divmod(plane, oz)
            m *= planes
            together = min(planes, n - m)
            used = (together * pitch + lanes - 1) // lanes * lanes
            count, line_at = y_rows[y, 1], 0
            for k in range(count):
                i = min(max(y_rows[y, 0] + k, 0), iy - 1)
                line_at = i % taps * line_step
                y_taps[2 * k], y_taps[2 * k + 1] = (oz + y) * taps + k, line_at
                if held[i % taps] == i:
                    continue
                held[i % taps] = i
                depths = z_rows[z, 1]
                for d in range(depths):
                    slab = min(max(z_rows[z, 0] + d, 0), iz - 1)
                    to = line_at if depths == 1 else (taps + 1 + d) * line_step
                    z_taps[2 * d], z_taps[2 * d + 1] = z * taps + d, to
                    at = ((m * iz + slab) * iy + i) * ix
                    if is_inner:
                        low, high = max(start - pad, 0), min(start + columns + pad, ix)
                        at = (((m // planes * iz + slab) * iy + i) * ix + low) * planes
                        deinterleave(planes, x, at, 0, planes * (high - low), channels, 0, beside, high - low)
                        _fill_line(channels, -low, beside, planes, ix, start - pad, start + columns + pad, lines, to, pitch)
                    else:
                        _fill_line(x, at, iz * iy * ix, together, ix, start - pad, start + columns + pad, lines, to, pitch)
                if depths > 1:
                    sum_lines(lines, weights, 0, z_taps, 0, depths, zero, lines, line_at, used)
            if count > 1:
                line_at = taps * line_step
                sum_lines(lines, weights, 0, y_taps, 0, count, zero, lines, line_at, used)
            to, out_plane = ((m * oz + z) * oy + y) * ox + start * sx, oz * oy * ox
            onto, target_step = (to, out_plane) if in_place else (0, pitch * sx)
            if is_wide:
                pixel_weights = sx if aligned else 0
                for g in range(together):
                    weigh_runs(taps, lines, line_at + g * pitch, weights, x_weights + start * pixel_weights,
                               sx * (ix if aligned else 1), pixel_weights, switches, start, sx, target,
                               onto + g * target_step, columns)  # fmt: skip
            elif fused:
                resample_rows(sx, taps, aligned, lines, line_at, pitch, weights, x_weights + (start if aligned else 0), spread,
                              switches, start, target, onto, target_step, columns * sx, together)  # fmt: skip
            else:
                for r in range(sx):
                    if aligned:
                        own = x_weights + r * taps * spread + start
                        resample_rows(1, taps, True, lines, line_at, pitch, weights, own, spread, switches[r:], start, phases,
                                      r * step, pitch, columns, together)  # fmt: skip
                    else:
                        sum_lines(lines[line_at:], weights, 0, x_taps, r * taps, x_rows[r, 1], zero, phases, r * step, used)
                made_together = columns if planes == 1 else together * pitch - 2 * pad
                interleave(sx, phases, 0, step, target, onto, made_together * sx)
            for number in range(exact_count):
                o, pixel = exact[number, 0] - start * sx, exact[number, 1] - start
                if 0 <= o < columns * sx:
                    for g in range(together):
                        target[onto + g * target_step + o] = lines[line_at + g * pitch + pad + pixel]
            if is_inner:
                copy_rows(made, 0, target_step, channels, 0, beside, columns * sx, planes)
                to = (((m // planes * oz + z) * oy + y) * ox + start * sx) * planes
                interleave(planes, channels, 0, beside, out, to, columns * sx * planes)
            elif not in_place:
                copy_rows(made, 0, target_step, out, to, out_plane, columns * sx, together)


@cache
def _inner_code(dtype: str) -> Any:
    p = types.CPointer(from_dtype(np.dtype(dtype)))
    return native(types.void(types.int64, types.CPointer(types.int64), p, p), _native_inner)


def _native_inner(task, table, x, out):
    """Some output rows of images whose channels are innermost; the table is ``_plan_inner``'s.

    A line is a run of whole pixels summed along z and y, of which every output pixel is then a sum.
    """
    table = carray(table, 22)
    n, iz, iy, ix, oz, oy, ox = table[3], table[4], table[5], table[6], table[7], table[8], table[9]
    channels, taps, x_count, blocks, widest = table[10], table[11], table[12], table[13], table[14]
    x, out = carray(x, n * iz * iy * ix * channels), carray(out, n * oz * oy * ox * channels)
    lines = _lines(out, (taps + 1) * widest)
    x_weights = (oz + oy) * taps
    weights = carray(as_pointer(table[16]), x_weights + ox * x_count, dtype=lines.dtype)
    z_rows = carray(as_pointer(table[17]), (oz, 2), dtype=np.int64)
    y_rows = carray(as_pointer(table[18]), (oy, 2), dtype=np.int64)
    x_places = carray(as_pointer(table[19]), ox * x_count, dtype=np.int64)
    ranges = carray(as_pointer(table[20]), (blocks, 4), dtype=np.int64)
    exact = carray(as_pointer(table[21]), (table[15], 2), dtype=np.int64)
    z_places, y_places = np.empty(taps, np.int64), np.empty(taps, np.int64)
    first, last = share(task, table[TASKS], n * oz * oy)
    for row in range(first, last):
        plane, y = divmod(row, oy)
        m, z = divmod(plane, oz)
        count, depths = y_rows[y, 1], z_rows[z, 1]
        for b in range(blocks):
            start, stop, low, high = ranges[b, 0], ranges[b, 1], ranges[b, 2], ranges[b, 3]
            width = (high - low) * channels
            for k in range(count):
                i = min(max(y_rows[y, 0] + k, 0), iy - 1)
                for d in range(depths):
                    slab = min(max(z_rows[z, 0] + d, 0), iz - 1)
                    z_places[d] = (((m * iz + slab) * iy + i) * ix + low) * channels
                y_places[k] = z_places[0] if depths == 1 else (k + 1) * widest
                if depths > 1:
                    weigh_pixels(depths, x, 0, z_places, 0, weights, z * taps, 1, width, lines, y_places[k])
            if depths > 1:
                weigh_pixels(count, lines, 0, y_places, 0, weights, (oz + y) * taps, 1, width, lines, 0)
            else:
                weigh_pixels(count, x, 0, y_places, 0, weights, (oz + y) * taps, 1, width, lines, 0)
            to = (((m * oz + z) * oy + y) * ox + start) * channels
            weigh_pixels(x_count, lines, -low * channels, x_places, start * x_count, weights, x_weights + start * x_count,
                         stop - start, channels, out, to)  # fmt: skip
            for number in range(len(exact)):
                o, pixel = exact[number, 0], exact[number, 1]
                if start <= o < stop:
                    copy_rows(lines, (pixel - low) * channels, 0, out, to + (o - start) * channels, 0, channels, 1)


@kernel
def _fill_line(x, at, plane, count, length, low, high, line, to, pitch):
    """Pixels ``low ... high - 1`` of a row of each of some planes, beside each other; the ends of the row are repeated."""
    first, last = max(low, 0), min(high, length)
    copy_rows(x, at + first, plane, line, to + first - low, pitch, last - first, count)
    for g in range(count):
        for j in range(low, first):
            line[to + g * pitch + j - low] = line.dtype.type(x[at + g * plane])
        for j in range(last, high):
            line[to + g * pitch + j - low] = line.dtype.type(x[at + g * plane + length - 1])
