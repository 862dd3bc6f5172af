"""The gradients of a transposed convolution: what back-propagation sends to its input, its weights and its bias.

For a number L that depends on ``out = conv_transpose(x, weight, bias)``, and ``grad_out = dL/d out``::

    grad_x[n, c, i]      = sum over o, k of grad_out[n, o, i*stride + k*dilation - pad] * weight[c, o, k]
    grad_weight[c, o, k] = sum over n, i of grad_out[n, o, i*stride + k*dilation - pad] * x[n, c, i]
    grad_bias[o]         = sum over n, q of grad_out[n, o, q]

The first is an ordinary convolution with the stride, the second a correlation of the input with the outputs' gradient over
batch and pixels; both have the forward call's number of products. Terms whose output pixel does not exist are left out.

Source: Dumoulin & Visin, arXiv:1603.07285, section 4; LeCun et al., "Efficient BackProp", 1998.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numpy import ndarray
from numpy.typing import ArrayLike, NDArray

from tconv_bench import backward, conv, reference
from tconv_bench.objects import describe
from tconv_bench.problem import Problem

KNOWN = 1024  # checked arguments that are kept


class Gradients(NamedTuple):
    """What ``conv_transpose_grads`` returns: shapes and dtype of x, weight and bias."""

    grad_x: NDArray[Any]
    grad_weight: NDArray[Any]
    grad_bias: NDArray[Any]


def conv_transpose_grads(
    grad_out: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike,
    *,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Gradients:
    """Gradients of ``conv_transpose1d/2d/3d`` to its input, weight and bias; the weight's axes say which of the three it is.

    Args:
        grad_out: gradient to the output, of the shape that the forward call gives and of x's dtype.
        x: the forward call's input ``(N, C_in, *spatial)`` or unbatched ``(C_in, *spatial)``; float32, float64 or integers.
        weight: ``(C_in, C_out // groups, *kernel)`` with one to three kernel axes, of x's dtype.
        stride, padding, output_padding, groups, dilation: as in the forward call.

    Returns:
        ``(grad_x, grad_weight, grad_bias)`` of the shapes of x, weight and ``(C_out,)``, in x's dtype. Floats depend neither
        on the number of threads nor on the run; integers, computed by the plain definition, are exact modulo their width.

    Raises:
        ValueError: a shape or size that does not fit, grad_out's among them.
        TypeError: a dtype that is not served, or arrays of different dtypes.

    Source: Dumoulin & Visin, arXiv:1603.07285, section 4.

    >>> import numpy as np
    >>> x, weight = np.array([[1.0, 2.0]]), np.array([[[3.0, 4.0, 5.0]]])
    >>> conv_transpose_grads(np.array([[1.0, 0.0, 0.0, 10.0, 0.0]]), x, weight, stride=2)
    Gradients(grad_x=array([[ 3., 40.]]), grad_weight=array([[[ 1., 20.,  0.]]]), grad_bias=array([11.]))
    """
    sizes = (stride, padding, output_padding, groups, dilation)
    key = _key(grad_out, x, weight, sizes)
    ready = None if key is None else _known.get(key)
    if ready is not None:
        return Gradients(*_of_floats(ready, grad_out, x, weight))  # type: ignore[arg-type]
    return _check_and_compute(grad_out, x, weight, sizes, key)


_known: dict[bytes, backward.Ready] = {}


def _key(grad_out: Any, x: Any, weight: Any, sizes: tuple[Any, ...]) -> bytes | None:
    """All that the check of the arguments reads; None unless they are plain arrays and built-in integers."""
    described = describe()(ndarray, int, tuple, None, grad_out, x, weight, *sizes)
    return described if isinstance(described, bytes) else None


def _check_and_compute(
    grad_out: ArrayLike, x: ArrayLike, weight: ArrayLike, sizes: tuple[Any, ...], key: bytes | None
) -> Gradients:
    x = conv.checked_array(x, "x")
    weight, grad_out = conv.checked_array(weight, "weight", x.dtype), conv.checked_array(grad_out, "grad_out", x.dtype)
    if not 3 <= weight.ndim <= 5:
        raise ValueError(
            f"weight has {weight.ndim} axes (shape {weight.shape}), but must be (C_in, C_out // groups, *kernel) with one to "
            "three kernel axes"
        )
    problem, batched = conv.checked_problem(weight.ndim - 2, "x", x.shape, weight, None, sizes)
    expected = problem.out_shape if batched else problem.out_shape[1:]
    if grad_out.shape != expected:
        raise ValueError(f"grad_out has shape {grad_out.shape}, but the forward call's output has {expected}")
    arrays = conv.for_kernels(grad_out), conv.for_kernels(x), conv.for_kernels(weight)
    dtype = x.dtype.newbyteorder("=")
    if not (x.size and dtype.kind == "f"):
        return Gradients(*(a.astype(dtype, copy=False) for a in _by_definition(problem, *arrays)))
    ready = backward.ready(problem)
    if key is not None:
        if len(_known) >= KNOWN:
            _known.clear()
        _known[key] = ready
    return Gradients(*_of_floats(ready, *arrays))


def _of_floats(
    ready: backward.Ready, grad_out: NDArray[Any], x: NDArray[Any], weight: NDArray[Any]
) -> tuple[NDArray[Any], ...]:
    """By the kernels, of the shapes of x and weight; in pieces without borders where zeros met what is not finite."""
    *grads, is_right = backward.compute(ready, grad_out, x, weight)
    return tuple(grads) if is_right else backward.compute_uncut(ready.problem, grad_out, x, weight)


def _by_definition(problem: Problem, grad_out: NDArray[Any], x: NDArray[Any], weight: NDArray[Any]) -> list[NDArray[Any]]:
    shaped = grad_out.reshape(problem.out_shape), x.reshape(problem.x_shape), weight
    grads = reference.conv_transpose_grads(problem, *shaped)
    return [grad.reshape(shape) for grad, shape in zip(grads, (x.shape, weight.shape, (problem.c_out,)))]
