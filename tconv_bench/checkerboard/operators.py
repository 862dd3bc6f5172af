"""Resize-convolution and convolution with pixel shuffle as the transposed convolutions that they are, away from the borders.

Each of them is a transposed convolution whose kernel has a certain form, which decides whether it can draw a checkerboard::

    nearest, then conv        kernel = box of the scale * flipped weight: no pattern on constants, whatever the weight
    linear, then conv         kernel = tent of the scale * flipped weight: none on constants nor on ramps
    conv, then pixel shuffle  any kernel of scale times the convolution's size: phases are channels, nothing ties them together
    ... of ICNR's weights     the phases start equal; training may part them

Sources: Shi et al., "Is the deconvolution layer the same as a convolutional layer?", arXiv:1609.07009; Aitken et al.,
"Checkerboard artifact free sub-pixel convolution", arXiv:1707.02937; Odena, Dumoulin & Olah, Distill 2016.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tconv_bench.conv import checked_array
from tconv_bench.problem import per_axis

MODES = ("nearest", "bilinear")


class Upsampler(NamedTuple):
    """A transposed convolution, ready for ``conv_transpose2d(x, weight, None, stride, padding)`` or ``kernel_pattern``."""

    weight: NDArray[Any]  #: ``(C_in, C_out, *kernel)``
    stride: tuple[int, ...]  #: one per axis
    padding: tuple[tuple[int, int], ...]  #: of an output of stride times the input's size


def resize_kernel(weight: ArrayLike, scale: Any = 2, mode: str = "nearest") -> Upsampler:
    """The transposed convolution that ``upsample.resize_convolve`` is, but for the outermost pixels of "bilinear".

    Args:
        weight: ``(C_out, C_in, *kernel)`` with 1 to 3 kernel axes, float32 or float64 ("nearest": or integers).
        scale: an integer >= 1, or one per kernel axis.
        mode: "nearest" or "bilinear", which is linear along every axis.

    Returns:
        weight ``(C_in, C_out, *(kernel + filter - 1))``; the filter has scale taps (nearest), 2 * scale - scale % 2 (bilinear).

    Raises:
        ValueError: an unknown mode, a weight of other axes, a scale below 1.
        TypeError: a dtype that is not served, a scale that is no integer.

    >>> resize_kernel([[[1.0, 2.0, 3.0]]], 2).weight
    array([[[3., 5., 3., 1.]]])
    """
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}, valid modes are {', '.join(MODES)}")
    taps, steps = _convolution(weight, scale)
    if mode == "bilinear" and taps.dtype.kind != "f":
        raise TypeError(f"weight has dtype {taps.dtype}, but must be float32 or float64 for mode 'bilinear'")
    kernel = np.flip(taps, tuple(range(2, taps.ndim))).swapaxes(0, 1)
    padding = []
    for axis, (k, s) in enumerate(zip(taps.shape[2:], steps), 2):
        first, filter_ = (0, np.ones(s, taps.dtype)) if mode == "nearest" else (-(s // 2), tent(s).astype(taps.dtype))
        kernel = _spread(kernel, filter_, axis)
        before = k - 1 - (k - 1) // 2 - first
        padding.append((before, kernel.shape[axis] - s - before))
    return Upsampler(np.ascontiguousarray(kernel), steps, tuple(padding))


def tent(scale: int) -> NDArray[np.float64]:
    """The taps of linear interpolation by a whole scale, pixel centres half a pixel from the borders.

    >>> tent(2), tent(3)
    (array([0.25, 0.75, 0.75, 0.25]), array([0.33333333, 0.66666667, 1.        , 0.66666667, 0.33333333]))
    """
    count = 2 * scale - scale % 2
    distance: NDArray[np.int64] = np.abs(2 * np.arange(count) - (count - 1))  # from the middle, in half pixels
    return (2 * scale - distance) / (2 * scale)


def shuffle_kernel(weight: ArrayLike, scale: Any = 2) -> Upsampler:
    """The transposed convolution that a "same" convolution followed by ``upsample.pixel_shuffle`` is, borders and all.

    Args:
        weight: ``(C_out * phases, C_in, *kernel)`` with 1 to 3 kernel axes; phases is the product of the scales.
        scale: an integer >= 1, or one per kernel axis.

    Returns:
        weight ``(C_in, C_out, *(kernel * scale))``: each tap is one of the convolution's.

    Raises:
        ValueError: channels that the phases do not divide; else as ``resize_kernel``.
        TypeError: as ``resize_kernel``.

    >>> shuffle_kernel([[[1, 2]], [[3, 4]]], 2).weight
    array([[[2, 4, 1, 3]]])
    """
    taps, steps = _convolution(weight, scale)
    channels, c_in, *kernel = taps.shape
    phases = prod(steps)
    if channels % phases:
        raise ValueError(f"weight has {channels} output channels (shape {taps.shape}), but must have a multiple of {phases}")
    ndim = len(steps)
    flipped = np.flip(taps, tuple(range(2, taps.ndim))).reshape(-1, *steps, c_in, *kernel)
    order = [ndim + 1, 0, *(axis for at in range(ndim) for axis in (ndim + 2 + at, 1 + at))]
    woven = flipped.transpose(order).reshape(c_in, channels // phases, *(k * s for k, s in zip(kernel, steps)))
    padding = tuple((s * (k - 1 - (k - 1) // 2), s * ((k - 1) // 2)) for k, s in zip(kernel, steps))
    return Upsampler(np.ascontiguousarray(woven), steps, padding)


def icnr(weight: ArrayLike, scale: Any = 2) -> NDArray[Any]:
    """Weights of a convolution before a pixel shuffle that start without a pattern: every phase gets the same kernel.

    Args:
        weight: ``(C_out, C_in, *kernel)``, drawn by any rule.
        scale: of the shuffle, an integer >= 1, or one per kernel axis.

    Returns:
        ``(C_out * phases, C_in, *kernel)``: with the shuffle, the convolution and then the nearest neighbour.

    Raises:
        ValueError, TypeError: as ``resize_kernel``.

    Source: Aitken et al., arXiv:1707.02937 ("initialised to convolution NN resize").

    >>> icnr([[[1, 2]]], 2)[:, 0].tolist()
    [[1, 2], [1, 2]]
    """
    taps, steps = _convolution(weight, scale)
    return np.repeat(taps, prod(steps), axis=0)


def _convolution(weight: ArrayLike, scale: Any) -> tuple[NDArray[Any], tuple[int, ...]]:
    taps = checked_array(weight, "weight")
    if not 3 <= taps.ndim <= 5:
        raise ValueError(f"weight has {taps.ndim} axes (shape {taps.shape}), but must have 3 to 5: 1 to 3 of the kernel")
    if not taps.size:
        raise ValueError(f"weight has shape {taps.shape}, but must hold at least one tap")
    return taps, per_axis(scale, taps.ndim - 2, "scale", 1)


def _spread(kernel: NDArray[Any], filter_: NDArray[Any], axis: int) -> NDArray[Any]:
    """The full convolution of a kernel with a filter along an axis."""
    rows = np.moveaxis(kernel, axis, 0)
    wider = np.zeros((len(rows) + len(filter_) - 1, *rows.shape[1:]), kernel.dtype)
    for shift, factor in enumerate(filter_):
        wider[shift : shift + len(rows)] += factor * rows
    return np.moveaxis(wider, 0, axis)
