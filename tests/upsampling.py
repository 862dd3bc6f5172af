"""The up-sampling operators by their definitions, in plain NumPy and float64, for tests of ``tconv_bench.upsample``."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from itertools import product
from math import floor
from typing import Any

import numpy as np


def nearest(x: np.ndarray, scale: tuple[int, ...]) -> np.ndarray:
    for axis, step in zip(range(x.ndim - len(scale), x.ndim), scale):
        x = np.repeat(x, step, axis)
    return x


def bed_of_nails(x: np.ndarray, scale: tuple[int, ...]) -> np.ndarray:
    first = x.ndim - len(scale)
    out = np.zeros((*x.shape[:first], *(i * s for i, s in zip(x.shape[first:], scale))), x.dtype)
    out[(..., *(slice(None, None, step) for step in scale))] = x
    return out


def pixel_shuffle(x: np.ndarray, scale: tuple[int, ...]) -> np.ndarray:
    ndim = len(scale)
    *lead, channels = x.shape[: x.ndim - ndim]
    size, channels = x.shape[x.ndim - ndim :], channels // int(np.prod(scale))
    parts = x.reshape(-1, channels, *scale, *size)
    order = [0, 1, *(axis for i in range(ndim) for axis in (2 + ndim + i, 2 + i))]
    return parts.transpose(order).reshape(*lead, channels, *(i * s for i, s in zip(size, scale)))


@cache
def interpolation_matrix(size: int, scale: int, cubic: bool, aligned: bool) -> np.ndarray:
    """(scale*size, size): what each input pixel of a row weighs in each output pixel; exact fractions rounded once."""
    out = size * scale
    weights = np.zeros((out, size))
    for o in range(out):
        u = Fraction(o * (size - 1), max(1, out - 1)) if aligned else Fraction(2 * o + 1, 2 * scale) - Fraction(1, 2)
        i = floor(u)
        taps: dict[int, Fraction] = {}
        for k in range(i - 1, i + 3) if cubic else (i, i + 1):
            pixel = min(max(k, 0), size - 1)
            taps[pixel] = taps.get(pixel, Fraction(0)) + _weight(abs(u - k), cubic)
        for pixel, weight in taps.items():
            weights[o, pixel] = float(weight)
    return weights


def _weight(d: Fraction, cubic: bool) -> Fraction:
    if not cubic:
        return max(1 - d, Fraction(0))
    a = Fraction(-3, 4)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else Fraction(0)


def interpolate(x: np.ndarray, scale: tuple[int, ...], cubic: bool, aligned: bool, magnitude: bool = False) -> np.ndarray:
    """The interpolated x in float64, or what the absolute values of all its products add up to."""
    x = np.abs(x.astype(np.float64)) if magnitude else x.astype(np.float64)
    for axis, step in zip(range(x.ndim - len(scale), x.ndim), scale):
        matrix = interpolation_matrix(x.shape[axis], step, cubic, aligned)
        x = np.moveaxis(np.tensordot(x, np.abs(matrix) if magnitude else matrix, (axis, 1)), -1, axis)
    return x


def interpolation_bound(x: np.ndarray, scale: tuple[int, ...], cubic: bool, aligned: bool) -> np.ndarray:
    """Largest error of interpolation in x's dtype against ``interpolate``, per element.

    Per axis: weights computed in float64 (each wrong by less than 32 of its units, since none of their terms exceeds 4) and
    rounded to the dtype, products, and additions: gamma_(taps + 1) of the magnitude (Higham 2002, section 3.1). A definition
    in float64 rounds as well: for float64 both count.
    """
    terms = len(scale) * ((4 if cubic else 2) + 1)
    unit = float(np.finfo(x.dtype).eps) / 2
    gamma = terms * unit / (1 - terms * unit) * (2 if x.dtype == np.float64 else 1)
    magnitude = interpolate(x, scale, cubic, aligned, magnitude=True)
    touched = float(np.abs(x).max(initial=0)) * 2.0 ** len(scale)
    return gamma * magnitude + 32 * len(scale) * 2.0**-53 * touched


def max_pool(
    x: np.ndarray, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    planes = x.reshape(-1, *x.shape[-2:])
    height, width = x.shape[-2:]
    size = tuple((i + 2 * p - k) // s + 1 for i, k, s, p in zip(x.shape[-2:], kernel, stride, padding))
    values, indices = np.empty((len(planes), *size), x.dtype), np.empty((len(planes), *size), np.int64)
    for n, oy, ox in np.ndindex(values.shape):
        best: Any = None
        for ky, kx in product(range(kernel[0]), range(kernel[1])):
            y, column = oy * stride[0] - padding[0] + ky, ox * stride[1] - padding[1] + kx
            if not (0 <= y < height and 0 <= column < width):
                continue
            value = planes[n, y, column]
            if best is None or value > best[0] or np.isnan(value):
                best = value, y * width + column
        values[n, oy, ox], indices[n, oy, ox] = best
    return values.reshape(*x.shape[:-2], *size), indices.reshape(*x.shape[:-2], *size)


def max_unpool(x: np.ndarray, indices: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    out = np.zeros((int(np.prod(x.shape[:-2])), size[0] * size[1]), x.dtype)
    for plane, values, places in zip(out, x.reshape(len(out), -1), indices.reshape(len(out), -1)):
        for value, place in zip(values, places):
            plane[place] = value
    return out.reshape(*x.shape[:-2], *size)
