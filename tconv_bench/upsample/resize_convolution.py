"""Resize, then convolve: up-sampling with learnable weights whose kernel meets every output pixel equally often.

A transposed convolution whose kernel is no multiple of its stride adds more products to some output pixels than to others,
which shows as a checkerboard. Here the image is enlarged by a fixed rule first, and an ordinary convolution follows::

    out = conv(resize(x, scale), weight) + bias,        zeros around the resized image so that its size is kept

With the nearest neighbour the two steps are one transposed convolution of stride ``scale``: a pixel becomes a block of copies,
each of which stamps the flipped kernel, so that all together stamp its sum over a block, ``kernel + scale - 1`` wide::

    out = conv_transpose(x, stamp(weight), stride=scale, padding=kernel - 1 - padding) + bias

Cost: with a 3x3 kernel and scale 2, 4 products per output pixel and channel instead of 9, and no resized image. Where it is
interpolated, the 9, and the resized image is written and read.

Source: Odena, Dumoulin & Olah, "Deconvolution and checkerboard artifacts", Distill 2016.
"""

from __future__ import annotations

from functools import cache, lru_cache
from math import prod
from typing import Any

import numpy as np
from numba import carray, from_dtype, types
from numpy.typing import ArrayLike, NDArray

from tconv_bench import registry
from tconv_bench.conv import checked_array, choose, conv1d, conv2d, conv3d
from tconv_bench.jit import native
from tconv_bench.problem import DTYPES, Problem, per_axis
from tconv_bench.simd import copy_grid, stamp_3x3_by_2
from tconv_bench.upsample._tasks import KNOWN, TASKS, Call, called, make_call, run, scaled, share
from tconv_bench.upsample.interpolation import bicubic, bilinear
from tconv_bench.upsample.shuffles import nearest
from tconv_bench.upsample.transposed import conv_transpose
from tconv_bench.variants._blocks import turned

_INTERPOLATIONS = {"bilinear": bilinear, "bicubic": bicubic}
MODES = ("nearest", *_INTERPOLATIONS)
# Below, a stamp in NumPy costs more than it saves: 64 channels of 32x32 took 5.6 ms and take 1.1, 256 to 128 of 16x16 6.1, 8.5.
FEW_PIXELS = 512
MANY_WEIGHTS = 2**20  # from here on what takes longer than turning them round is worth looking for
BLOCK = 8  # input channels whose kernels are turned together: 512 x 512 of 3x3 in 0.8 instead of 25 ms
_CONVOLUTIONS = (conv1d, conv2d, conv3d)


def resize_convolve(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    scale: Any = 2,
    mode: str = "nearest",
    *,
    align_corners: bool = False,
    dilation: Any = 1,
    groups: int = 1,
) -> NDArray[Any]:
    """Resize x, then convolve with stride 1 and the padding that keeps the size ("same").

    Args:
        x: ``(N, C_in, *spatial)`` or ``(C_in, *spatial)`` with 1 to 3 spatial axes; float32, float64 or an integer dtype.
        weight: ``(C_out, C_in // groups, *kernel)``, of x's dtype; as many kernel axes as x has spatial ones.
        bias: ``(C_out,)``, of x's dtype, or None.
        scale: an integer >= 1, or one per spatial axis.
        mode: "nearest", "bilinear" or "bicubic"; linear and cubic along as many axes as there are.
        align_corners: as in ``bilinear``; not for "nearest".
        dilation: pixels between neighbouring taps, an integer or one per axis, >= 1.
        groups: blocks of channels that do not mix.

    Returns:
        ``(N, C_out, ...)``, or without N, the spatial axes scaled, in x's dtype. Of an odd number of padded pixels the one more
        comes after. Integers are rounded once, after the resizing.

    Raises:
        ValueError: an unknown mode, align_corners with "nearest", sizes that do not fit, as in ``bilinear`` and ``conv2d``.
        TypeError: as in ``bilinear`` and ``conv2d``.

    Source: Odena, Dumoulin & Olah, Distill 2016.

    >>> resize_convolve([[[1, 2], [3, 4]]], np.ones((1, 1, 3, 3), int))
    array([[[ 4,  8, 10,  8],
            [10, 18, 21, 16],
            [14, 24, 27, 20],
            [12, 20, 22, 16]]])
    """
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}, valid modes are {', '.join(MODES)}")
    if mode == "nearest" and align_corners:
        raise ValueError("align_corners is True, but mode 'nearest' has no corners to align; use 'bilinear' or 'bicubic'")
    image, weights = checked_array(x, "x"), checked_array(weight, "weight")
    ndim = weights.ndim - 2
    if not 1 <= ndim <= 3:
        raise ValueError(f"weight has {weights.ndim} axes (shape {weights.shape}), but must have 3 to 5: 1 to 3 of the kernel")
    if image.ndim not in (ndim + 1, ndim + 2):
        raise ValueError(
            f"x has {image.ndim} axes (shape {image.shape}), but must be (N, C_in, *spatial) or (C_in, *spatial), with as many "
            f"spatial axes as weight has of the kernel: {ndim}"
        )
    steps, dilations = per_axis(scale, ndim, "scale", 1), per_axis(dilation, ndim, "dilation", 1)
    added = None if bias is None else checked_array(bias, "bias")
    sizes = None if added is None else added.shape
    _check_fit(image.shape, image.dtype, weights.shape, weights.dtype, sizes, None if added is None else added.dtype,
               steps, dilations, groups)  # fmt: skip
    pixels = image.size // image.shape[-ndim - 1]
    if mode == "nearest" and set(dilations) == {1} and (pixels >= FEW_PIXELS or _is_native(steps, weights.shape)):
        return conv_transpose(image, stamp(weights, steps, groups), bias, steps, groups=groups)
    resized = nearest(image, steps) if mode == "nearest" else _INTERPOLATIONS[mode](image, steps, align_corners)
    stamped = (
        turned(weights) if _is_read_in_place(resized.shape, weights, dilations, groups) else stamp(weights, (1,) * ndim, groups)
    )
    return conv_transpose(resized, stamped, bias, 1, dilation=dilations, groups=groups)


def _is_read_in_place(shape: tuple[int, ...], weights: NDArray[Any], dilations: tuple[int, ...], groups: int) -> bool:
    """Whether the convolution that keeps an image's size is computed by a method that reads many weights as they lie."""
    if groups > 1 or weights.size < MANY_WEIGHTS or not weights.flags.c_contiguous or weights.dtype.name not in DTYPES:
        return False
    c_out, c_in, *kernel = weights.shape
    ndim = len(kernel)
    crop = [d * (k - 1) for d, k in zip(dilations, kernel)]
    problem = Problem(
        shape[0] if len(shape) == ndim + 2 else 1, c_in, shape[-ndim:], c_out, kernel, 1,
        [(total - total // 2, total // 2) for total in crop], 0, 1, dilations, weights.dtype.name,
    )  # fmt: skip
    return registry.get(choose(problem, planned=False)).reads_turned_weights


@lru_cache(KNOWN, typed=True)
def _check_fit(
    image: tuple[int, ...],
    dtype: np.dtype[Any],
    weight: tuple[int, ...],
    weight_dtype: np.dtype[Any],
    bias: tuple[int, ...] | None,
    bias_dtype: np.dtype[Any] | None,
    steps: tuple[int, ...],
    dilations: tuple[int, ...],
    groups: int,
) -> None:
    """Let the convolution refuse, on an empty batch, shapes and dtypes that do not fit, before anything is resized."""
    ndim = len(steps)
    missing = [d * (k - 1) for d, k in zip(dilations, weight[2:])]
    padding = [(total // 2, total - total // 2) for total in missing]
    empty = np.empty((0, *scaled(image, dtype, steps)[-ndim - 1 :]), dtype)
    weights = np.broadcast_to(np.zeros((), weight_dtype), weight)
    zeros = None if bias is None else np.zeros(bias, bias_dtype)
    _CONVOLUTIONS[ndim - 1](empty, weights, zeros, 1, padding, dilations, groups)


def stamp(weight: NDArray[Any], scale: tuple[int, ...], groups: int = 1) -> NDArray[Any]:
    """The flipped kernel summed over blocks: what a pixel adds to the convolution of its nearest-neighbour enlargement.

    Args:
        weight: ``(C_out, C_in // groups, *kernel)``, as an ordinary convolution takes it.
        scale: one per kernel axis.
        groups: blocks of channels that do not mix.

    Returns:
        ``(C_in, C_out // groups, *(kernel + scale - 1))``, as a transposed convolution takes it, in weight's dtype.

    >>> stamp(np.array([[[1, 2, 3]]]), (2,))
    array([[[3, 5, 3, 1]]])
    """
    if _is_native(scale, weight.shape):
        return _turned(weight, scale, groups)
    c_out, c_in, *kernel = weight.shape
    flipped = np.flip(weight, tuple(range(2, weight.ndim)))
    by_group = flipped.reshape(groups, c_out // groups, c_in, *kernel).swapaxes(1, 2).reshape(-1, c_out // groups, *kernel)
    # channels innermost, so that sums over kernel axes run over long rows: 1.5 instead of 5.7 ms for 256 x 128 channels
    total = np.ascontiguousarray(np.moveaxis(by_group, (0, 1), (-2, -1)))
    for axis, step in enumerate(scale):
        rows = np.moveaxis(total, axis, 0)
        wider = np.zeros((len(rows) + step - 1, *rows.shape[1:]), total.dtype)
        for shift in range(step):
            wider[shift : shift + len(rows)] += rows
        total = np.moveaxis(wider, 0, axis)
    return np.ascontiguousarray(np.moveaxis(total, (-2, -1), (0, 1)))


def _is_native(scale: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether a stamp of a weight's shape is made in machine code: 512 x 512 of 3x3 by 2 in 0.6 instead of 28 ms."""
    return set(scale) == {1} or (scale == (2, 2) and shape[2:] == (3, 3))


def _turned(weight: NDArray[Any], scale: tuple[int, ...], groups: int) -> NDArray[Any]:
    """``stamp`` in machine code; see ``_is_native``."""
    call, array = called(_plan_turned, weight, scale, groups)
    result: NDArray[Any] = np.empty(call.shape, call.dtype)
    if not call.is_empty:
        run(call, array, result)
    return result


def _plan_turned(shape: tuple[int, ...], dtype: np.dtype[Any], inner: bool, scale: tuple[int, ...], groups: int) -> Call:
    c_out, c_in, *kernel = shape
    result = (groups * c_in, c_out // groups, *(k + s - 1 for k, s in zip(kernel, scale)))
    sizes = [groups, c_out // groups, c_in, prod(kernel), prod(result[2:])]
    code = _code if set(scale) == {1} else _stamp_code
    return make_call(result, dtype, code(dtype.name), groups * -(-c_in // BLOCK), float(prod(shape)), sizes)


@cache
def _code(dtype: str) -> Any:
    p = types.CPointer(from_dtype(np.dtype(f"u{np.dtype(dtype).itemsize}")))
    return native(types.void(types.int64, types.CPointer(types.int64), p, p), _native_turned)


@cache
def _stamp_code(dtype: str) -> Any:
    p = types.CPointer(from_dtype(np.dtype(dtype)))
    return native(types.void(types.int64, types.CPointer(types.int64), p, p), _native_stamped)


def _native_turned(task, table, weight, out):
    """The kernels of some blocks of input channels; the table is ``_plan_turned``'s."""
    table = carray(table, 8)
    groups, c_out, c_in, size = table[3], table[4], table[5], table[6]
    weight, out = carray(weight, groups * c_out * c_in * size), carray(out, groups * c_in * c_out * size)
    blocks = (c_in + BLOCK - 1) // BLOCK
    first, last = share(task, table[TASKS], groups * blocks)
    for unit in range(first, last):
        group, block = divmod(unit, blocks)
        for o in range(c_out):
            for c in range(block * BLOCK, min(block * BLOCK + BLOCK, c_in)):
                at, to = ((group * c_out + o) * c_in + c) * size, ((group * c_in + c) * c_out + o) * size
                copy_grid(weight, at, 0, 1, out, to + size - 1, 0, -1, 1, size)


def _native_stamped(task, table, weight, out):
    """The same, each 3x3 kernel summed over blocks of 2x2."""
    table = carray(table, 8)
    groups, c_out, c_in, size, stamped = table[3], table[4], table[5], table[6], table[7]
    weight, out = carray(weight, groups * c_out * c_in * size), carray(out, groups * c_in * c_out * stamped)
    blocks = (c_in + BLOCK - 1) // BLOCK
    first, last = share(task, table[TASKS], groups * blocks)
    for unit in range(first, last):
        group, block = divmod(unit, blocks)
        c = block * BLOCK
        for o in range(c_out):
            at, to = ((group * c_out + o) * c_in + c) * size, ((group * c_in + c) * c_out + o) * stamped
            stamp_3x3_by_2(weight, at, out, to, c_out * stamped, min(BLOCK, c_in - c))
