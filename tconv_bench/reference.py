"""The definition, in plain NumPy: what every variant is measured against. Never optimised.

::

    out[n, g*Cg_out + o, i*stride + k*dilation - pad] += x[n, g*Cg_in + c, i] * weight[g*Cg_in + c, o, k]

    grad_x[n, g*Cg_in + c, i] += grad_out[n, g*Cg_out + o, i*stride + k*dilation - pad] * weight[g*Cg_in + c, o, k]
    grad_weight[g*Cg_in + c, o, k] += grad_out[n, g*Cg_out + o, i*stride + k*dilation - pad] * x[n, g*Cg_in + c, i]
    grad_bias[o] += grad_out[n, o, q]

Floats are summed in float64, integers in int64, so that integer results are exact modulo their width.
"""

from __future__ import annotations

from itertools import product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tconv_bench.problem import Problem


def wide_dtype(dtype: Any) -> np.dtype[Any]:
    """The dtype that the reference sums in: float64 or int64."""
    return np.dtype(np.float64 if np.dtype(dtype).kind == "f" else np.int64)


def conv_transpose(problem: Problem, x: NDArray[Any], weight: NDArray[Any], bias: NDArray[Any] | None = None) -> NDArray[Any]:
    """Transposed convolution of ``x`` with ``weight`` and ``bias`` in the wide dtype; shapes are those of the ``problem``."""
    wide = wide_dtype(problem.dtype)
    x, weight = x.astype(wide), weight.astype(wide)
    groups = problem.groups
    x = x.reshape(problem.batch, groups, problem.c_in // groups, *problem.in_size)
    weight = weight.reshape(groups, problem.c_in // groups, problem.c_out // groups, *problem.kernel)
    reach = [(i - 1) * s + d * (k - 1) + 1 for i, s, d, k in zip(*_sizes(problem))]
    # +2*max padding: room for every stamp and for output_padding before cropping to the output
    before = [pair[0] for pair in problem.padding]
    full = [max(r, b + o) for r, b, o in zip(reach, before, problem.out_size)]
    out = np.zeros((problem.batch, groups, problem.c_out // groups, *full), wide)
    for tap in product(*map(range, problem.kernel)):
        stamp = np.einsum("ngc...,gco->ngo...", x, weight[_last_axes(*tap)])
        where = tuple(
            slice(k * d, k * d + (i - 1) * s + 1, s)
            for k, d, i, s in zip(tap, problem.dilation, problem.in_size, problem.stride)
        )
        out[_last_axes(*where)] += stamp
    crop = tuple(slice(b, b + o) for b, o in zip(before, problem.out_size))
    out = np.reshape(out[_last_axes(*crop)], problem.out_shape)
    return out if bias is None else out + bias.astype(wide).reshape(-1, *(1,) * problem.ndim)


def conv_transpose_grads(
    problem: Problem, grad_out: NDArray[Any], x: NDArray[Any], weight: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Gradients of ``sum(grad_out * conv_transpose(x, weight, bias))`` to x, weight and bias, in the wide dtype."""
    wide = wide_dtype(problem.dtype)
    groups = problem.groups
    grad_out, x, weight = grad_out.astype(wide), x.astype(wide), weight.astype(wide)
    grad_bias = grad_out.sum(axis=(0, *range(2, grad_out.ndim)))
    grad_out = grad_out.reshape(problem.batch, groups, problem.c_out // groups, *problem.out_size)
    x = x.reshape(problem.batch, groups, problem.c_in // groups, *problem.in_size)
    weight = weight.reshape(groups, problem.c_in // groups, problem.c_out // groups, *problem.kernel)
    grad_x, grad_weight = np.zeros_like(x), np.zeros_like(weight)
    for tap in product(*map(range, problem.kernel)):
        pixels, outputs = zip(*(_meeting(problem, axis, k) for axis, k in enumerate(tap)))
        here, there, at = _last_axes(*pixels), _last_axes(*outputs), _last_axes(*tap)
        grad_x[here] += np.einsum("ngo...,gco->ngc...", grad_out[there], weight[at])
        grad_weight[at] = np.einsum("ngcp,ngop->gco", _as_rows(x[here]), _as_rows(grad_out[there]))
    return grad_x.reshape(problem.x_shape), grad_weight.reshape(problem.weight_shape), grad_bias


def _as_rows(array: NDArray[Any]) -> NDArray[Any]:
    """All pixels on one axis."""
    return array.reshape(*array.shape[:3], prod(array.shape[3:]))


def _meeting(problem: Problem, axis: int, k: int) -> tuple[slice, slice]:
    """The input pixels of an axis that tap k carries to an output pixel, and those output pixels."""
    stride, shift = problem.stride[axis], k * problem.dilation[axis] - problem.padding[axis][0]
    first = max(0, -(shift // stride))
    count = max(0, min(problem.in_size[axis], (problem.out_size[axis] - 1 - shift) // stride + 1) - first)
    start = first * stride + shift
    return slice(first, first + count), slice(start, start + count * stride, stride)


def conv(
    x: NDArray[Any], weight: NDArray[Any], bias: NDArray[Any] | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> NDArray[Any]:
    """Ordinary convolution (cross-correlation) of x ``(N, C_in, *in)`` with weight ``(C_out, C_in // groups, *kernel)``.

    ``bias`` is ``(C_out,)`` or None, ``stride`` and ``dilation`` one integer per axis, ``padding`` one (before, after) pair.
    """
    wide = wide_dtype(x.dtype)
    ndim = x.ndim - 2
    x = np.pad(x.astype(wide), [(0, 0), (0, 0), *padding])
    c_out, kernel = weight.shape[0], weight.shape[2:]
    x = x.reshape(x.shape[0], groups, -1, *x.shape[2:])
    w = weight.astype(wide).reshape(groups, c_out // groups, -1, *kernel)
    size = [(i - d * (k - 1) - 1) // s + 1 for i, d, k, s in zip(x.shape[3:], dilation, kernel, stride)]
    out = np.zeros((x.shape[0], groups, c_out // groups, *size), wide)
    for tap in product(*map(range, kernel)):
        where = tuple(slice(k * d, k * d + (o - 1) * s + 1, s) for k, d, o, s in zip(tap, dilation, size, stride))
        out += np.einsum("ngc...,goc->ngo...", x[_last_axes(*where)], w[_last_axes(*tap)])
    out = out.reshape(x.shape[0], c_out, *size)
    return out if bias is None else out + bias.astype(wide).reshape(-1, *(1,) * ndim)


def error_bound(problem: Problem, x: NDArray[Any], weight: NDArray[Any], bias: NDArray[Any] | None = None) -> NDArray[Any]:
    """Largest difference that a float sum in any order may show against this reference, per output element.

    ``gamma_n * sum |x||w|`` with n products and additions (Higham, "Accuracy and Stability of Numerical Algorithms", 2002,
    section 3.1), n = c_in / groups * taps + 1; zero for integers. Arguments as for ``conv_transpose`` of this module.
    """
    if np.dtype(problem.dtype).kind != "f":
        return np.zeros(problem.out_shape)
    terms = problem.c_in // problem.groups * problem.taps + 2
    unit = float(np.finfo(problem.dtype).eps) / 2
    magnitude = conv_transpose(problem, np.abs(x), np.abs(weight), None if bias is None else np.abs(bias))
    # float64 is compared with a float64 reference that rounds as well: twice the bound
    factor = 2 if problem.dtype == "float64" else 1
    return factor * terms * unit / (1 - terms * unit) * magnitude


def _last_axes(*index: Any) -> Any:
    return (..., *index)


def _sizes(problem: Problem) -> tuple[tuple[int, ...], ...]:
    return problem.in_size, problem.stride, problem.dilation, problem.kernel
