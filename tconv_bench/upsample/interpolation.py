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
from numpy.typing import ArrayLike, NDArray

from tconv_bench import simd
from tconv_bench.conv import _check_out
from tconv_bench.jit import kernel, native
from tconv_bench.simd import as_pointer, copy_rows, interleave, resample_rows, sum_lines
from tconv_bench.upsample._tasks import TASKS, Call, apply, checked_scale, make_call, memory_of, scaled, share, sizes_of

LINEAR, CUBIC = 2, 4  # taps along an axis
CUBIC_A = -0.75
LINE = 512  # pixels of a line, where it is made of rows of several planes
BLOCK = 2048  # output columns at a time
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
        x's shape with the last axes scaled, in x's dtype. Integers are interpolated in float64, rounded to the nearest, halves
        upwards, and kept within their dtype.

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


def _interpolate(x: ArrayLike, scale: Any, taps: int, aligned: bool, out: NDArray[Any] | None) -> NDArray[Any]:
    if aligned is not False and aligned is not True:
        raise TypeError(f"align_corners is {aligned!r}, but must be True or False")
    steps = checked_scale(scale)
    if type(x) is np.ndarray and x.dtype.kind == "f":
        return apply(_plan, x, out, steps, taps, aligned)
    array = memory_of(x, "x")
    if array.dtype.kind == "f":
        return apply(_plan, array, out, steps, taps, aligned)
    _check_out(out, scaled(array.shape, array.dtype, steps), array.dtype, (array,))
    result = _rounded(apply(_plan, _as_floats(array), None, steps, taps, aligned), array.dtype)
    if out is None:
        return result
    out[...] = result
    return out


def _as_floats(x: NDArray[Any]) -> NDArray[np.float64]:
    if x.dtype.itemsize == 8 and x.size:
        for extreme in (int(x.min()), int(x.max())):
            if abs(extreme) > EXACT_INTEGERS:
                raise ValueError(f"x holds {extreme}, but integers are interpolated in float64, so they must be within 2**53")
    return x.astype(np.float64)


def _rounded(values: NDArray[np.float64], dtype: np.dtype[Any]) -> NDArray[Any]:
    below = np.floor(values)
    below += values - below >= 0.5
    info = np.iinfo(dtype)
    return np.clip(below, float(info.min), float(info.max), out=below).astype(dtype)


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


def _plan(shape: tuple[int, ...], dtype: np.dtype[Any], scale: tuple[int, ...], taps: int, aligned: bool) -> Call:
    s, result = sizes_of(shape, scale), scaled(shape, dtype, scale)
    z, y, x = (axis(size, step, taps, aligned) for size, step in ((s.z, s.sz), (s.y, s.sy), (s.x, s.sx)))
    lanes = simd.VECTOR_BYTES // dtype.itemsize
    planes = max(1, min(s.n, min(LINE, BLOCK // s.sx) // (s.x + taps)))
    width = min(s.x, max(lanes, BLOCK // s.sx))
    spread = s.x + lanes if aligned else 1
    exact, switches, x_weights = _apart(x, s.x, s.sx, taps, spread) if aligned else _by_phase(x, s.sx)
    places = x.rows[: s.sx, :1] + taps // 2 + np.arange(taps)
    x_taps = np.stack([(len(z.weights) + len(y.weights)) * taps + np.arange(places.size), places.ravel()], axis=1)
    weights = np.concatenate([z.weights.ravel(), y.weights.ravel(), x_weights.ravel()]).astype(dtype)
    rows = -(-s.n // planes) * len(z.rows) * len(y.rows)
    sizes = [s.n, s.z, s.y, s.x, len(z.rows), len(y.rows), s.sx, taps, planes, width, spread, int(aligned), len(exact)]
    kept = weights, z.rows, y.rows, x.rows, x_taps.astype(np.int64), exact, switches
    return make_call(result, dtype, _code(dtype.name), rows, prod(result) * dtype.itemsize / BYTES_PER_NANOSECOND, sizes, kept)


def _by_phase(x: Axis, scale: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """(exact outputs, switches, weights) of a row whose outputs differ by phase alone; an exact one has a phase of one tap."""
    return np.empty((0, 2), np.int64), np.zeros(scale, np.int64), x.weights[:scale]


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


def _native_rows(task, table, x, out):
    """Some output rows of some groups of planes, a block of columns at a time; the table is ``_plan``'s.

    Rows of a group's planes stand beside each other on a line, each between ``pad`` repetitions of its ends.
    """
    table = carray(table, 23)
    n, iz, iy, ix, oz, oy, sx = table[3], table[4], table[5], table[6], table[7], table[8], table[9]
    taps, planes, width, spread, aligned, exact_count = table[10], table[11], table[12], table[13], table[14] != 0, table[15]
    ox, x_weights = ix * sx, (oz + oy) * taps
    x, out = carray(x, n * iz * iy * ix), carray(out, n * oz * oy * ox)
    weights = carray(as_pointer(table[16]), x_weights + sx * taps * spread, dtype=out.dtype)
    z_rows = carray(as_pointer(table[17]), (oz, 2), dtype=np.int64)
    y_rows = carray(as_pointer(table[18]), (oy, 2), dtype=np.int64)
    x_rows = carray(as_pointer(table[19]), (ox, 2), dtype=np.int64)
    x_taps = carray(as_pointer(table[20]), 2 * sx * taps, dtype=np.int64)
    exact = carray(as_pointer(table[21]), (exact_count, 2), dtype=np.int64)
    switches = carray(as_pointer(table[22]), sx, dtype=np.int64)
    fused = sx == 2 or sx == 4 or (sx == 3 and not aligned)
    zero, pad = out.dtype.type(0), taps // 2
    lanes = simd.VECTOR_BYTES // out.itemsize
    pitch = width + 2 * pad
    step = (planes * pitch + lanes - 1) // lanes * lanes
    line_step = step + 2 * lanes
    lines = np.empty((2 * taps + 1) * line_step + lanes, out.dtype)  # input rows, their sum along y, those of the depths
    lines = lines[(-lines.ctypes.data % simd.VECTOR_BYTES) // lines.itemsize :]
    phases = np.empty(0 if fused else sx * step + lanes, out.dtype)
    made = np.empty(0 if fused or planes == 1 else planes * pitch * sx, out.dtype)
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
                    _fill_line(x, at, iz * iy * ix, together, ix, start - pad, start + columns + pad, lines, to, pitch)
                if depths > 1:
                    sum_lines(lines, weights, 0, z_taps, 0, depths, zero, lines, line_at, used)
            if count > 1:
                line_at = taps * line_step
                sum_lines(lines, weights, 0, y_taps, 0, count, zero, lines, line_at, used)
            to, out_plane = ((m * oz + z) * oy + y) * ox + start * sx, oz * oy * ox
            if fused:
                resample_rows(sx, taps, aligned, lines, line_at, pitch, weights, x_weights + (start if aligned else 0), spread,
                              switches, start, out, to, out_plane, columns * sx, together)  # fmt: skip
            else:
                for r in range(sx):
                    if aligned:
                        own = x_weights + r * taps * spread + start
                        resample_rows(1, taps, True, lines, line_at, pitch, weights, own, spread, switches[r:], start, phases,
                                      r * step, pitch, columns, together)  # fmt: skip
                    else:
                        sum_lines(lines[line_at:], weights, 0, x_taps, r * taps, x_rows[r, 1], zero, phases, r * step, used)
                if planes == 1:
                    interleave(sx, phases, 0, step, out, to, columns * sx)
                else:
                    interleave(sx, phases, 0, step, made, 0, (together * pitch - 2 * pad) * sx)
                    copy_rows(made, 0, pitch * sx, out, to, out_plane, columns * sx, together)
            for number in range(exact_count):
                o, pixel = exact[number, 0] - start * sx, exact[number, 1] - start
                if 0 <= o < columns * sx:
                    for g in range(together):
                        out[to + g * out_plane + o] = lines[line_at + g * pitch + pad + pixel]


@kernel
def _fill_line(x, at, plane, count, length, low, high, line, to, pitch):
    """Pixels ``low ... high - 1`` of a row of each of some planes, beside each other; the ends of the row are repeated."""
    first, last = max(low, 0), min(high, length)
    copy_rows(x, at + first, plane, line, to + first - low, pitch, last - first, count)
    for g in range(count):
        for j in range(low, first):
            line[to + g * pitch + j - low] = x[at + g * plane]
        for j in range(last, high):
            line[to + g * pitch + j - low] = x[at + g * plane + length - 1]
