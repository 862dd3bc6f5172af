"""The functions that users call: transposed and ordinary convolution in PyTorch's argument order, on NumPy arrays.

Validation comes first and touches no pixel; then the chosen variant prepares and runs. Inputs are never modified. Integers
give integers of the same dtype, exact modulo its width, as NumPy's arithmetic is.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tconv_bench import forward, registry
from tconv_bench.problem import (
    ARRAY_DTYPES,
    Geometry,
    Problem,
    as_int,
    check_not_empty,
    kernel_dtype,
    padding_pairs,
    per_axis,
)


def conv_transpose1d(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    method: str = "auto",
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Transposed convolution over one spatial axis; see ``conv_transpose2d``.

    x ``(N, C_in, W)`` or ``(C_in, W)``, weight ``(C_in, C_out // groups, K)``; a (before, after) padding is ``((1, 2),)``.
    """
    return _conv_transpose(1, x, weight, bias, stride, padding, output_padding, groups, dilation, method, out)


def conv_transpose2d(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    method: str = "auto",
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Transposed convolution over two spatial axes: up-sampling with learnable weights.

    Args:
        x: input ``(N, C_in, H, W)`` or unbatched ``(C_in, H, W)``; float32, float64 or an integer dtype.
        weight: ``(C_in, C_out // groups, KH, KW)``, of x's dtype.
        bias: ``(C_out,)``, of x's dtype, or None.
        stride: output pixels per input pixel; an integer, or one per axis, >= 1.
        padding: output pixels cropped at the borders: an integer, one per axis, or one (before, after) pair per axis, >= 0.
        output_padding: rows and columns added at the end of each axis; below the stride or the dilation.
        groups: blocks of channels that do not mix; divides C_in and C_out.
        dilation: output pixels between neighbouring taps, >= 1.
        method: a name of ``methods()``, or "auto" for the one that is expected to be fastest.
        out: array of the result's shape and x's dtype to write into; must not overlap the inputs.

    Returns:
        ``(N, C_out, H_out, W_out)``, or without N for unbatched input, in x's dtype; ``out`` where it is given. The size is
        ``(in - 1)*stride - pad_before - pad_after + dilation*(kernel - 1) + output_padding + 1`` per axis.

    Raises:
        ValueError: a shape, channel count, group count, stride, padding or size that does not fit.
        TypeError: a dtype that is not served, or x and weight of different dtypes.
        NotImplementedError: the named method does not serve this problem; the message names an alternative.

    Source: Dumoulin & Visin, arXiv:1603.07285, section 4; arguments as in ``torch.nn.functional.conv_transpose2d``.

    >>> import numpy as np
    >>> conv_transpose2d(np.array([[[1, 2], [3, 4]]]), np.full((1, 1, 2, 2), 5))
    array([[[ 5, 15, 10],
            [20, 50, 30],
            [15, 35, 20]]])
    """
    return _conv_transpose(2, x, weight, bias, stride, padding, output_padding, groups, dilation, method, out)


def conv_transpose3d(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    *,
    method: str = "auto",
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Transposed convolution over three spatial axes; see ``conv_transpose2d``.

    x ``(N, C_in, D, H, W)`` or ``(C_in, D, H, W)``, weight ``(C_in, C_out // groups, KD, KH, KW)``.
    """
    return _conv_transpose(3, x, weight, bias, stride, padding, output_padding, groups, dilation, method, out)


def conv1d(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> NDArray[Any]:
    """Ordinary convolution over one spatial axis; see ``conv2d``. x ``(N, C_in, W)``, weight ``(C_out, C_in // groups, K)``."""
    return _conv(1, x, weight, bias, stride, padding, dilation, groups)


def conv2d(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> NDArray[Any]:
    """Ordinary convolution (the field's: a cross-correlation) over two spatial axes; ``conv_transpose2d`` is its transpose.

    Args:
        x: input ``(N, C_in, H, W)`` or unbatched ``(C_in, H, W)``; float32, float64 or an integer dtype.
        weight: ``(C_out, C_in // groups, KH, KW)``, of x's dtype.
        bias: ``(C_out,)``, of x's dtype, or None.
        stride: input pixels per output pixel; an integer, or one per axis, >= 1.
        padding: zeros around the input: an integer, one per axis, or one (before, after) pair per axis, >= 0.
        dilation: input pixels between neighbouring taps, >= 1.
        groups: blocks of channels that do not mix; divides C_in and C_out.

    Returns:
        ``(N, C_out, H_out, W_out)``, or without N, in x's dtype; per axis
        ``(in + pad_before + pad_after - dilation*(kernel - 1) - 1) // stride + 1``.

    Raises:
        ValueError, TypeError: as ``conv_transpose2d``.

    Source: Dumoulin & Visin, arXiv:1603.07285, section 2; arguments as in ``torch.nn.functional.conv2d``.

    >>> import numpy as np
    >>> conv2d(np.arange(16).reshape(1, 4, 4), np.ones((1, 1, 3, 3), int))
    array([[[45, 54],
            [81, 90]]])
    """
    return _conv(2, x, weight, bias, stride, padding, dilation, groups)


def conv3d(
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> NDArray[Any]:
    """Ordinary convolution over three spatial axes; see ``conv2d``.

    x ``(N, C_in, D, H, W)``, weight ``(C_out, C_in // groups, KD, KH, KW)``.
    """
    return _conv(3, x, weight, bias, stride, padding, dilation, groups)


def choose(problem: Problem) -> str:
    """The method that "auto" takes, always one that serves the problem.

    Over the 67 layers of benchmarks/layers.csv (float32, two Zen 4 cores, interleaved medians) this rule is within 3 % of the
    best of direct, scatter_add and col2im in the geometric mean, 1.47x on the worst layer; scatter_add alone within 8 % and
    3.2x: a deep sum over few pixels is where the packed panels of the GEMM repay the columns.
    """
    overlap = problem.in_pixels * problem.taps > problem.out_pixels
    deep = problem.c_in // problem.groups >= 1024 and problem.batch * problem.in_pixels >= 16
    return "col2im" if deep and overlap else "scatter_add"


def _conv_transpose(
    ndim: int,
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: int,
    dilation: Any,
    method: str,
    out: NDArray[Any] | None,
) -> NDArray[Any]:
    x, weight, bias, dtype = _arrays(x, weight, bias)
    batched = _check_ranks(ndim, x, weight, f"(C_in, C_out // groups, {_axes('K', ndim)})")
    if not batched:
        x = x[None]
    groups = as_int(groups, "groups", 1)
    if weight.shape[0] != x.shape[1]:
        raise ValueError(f"weight has shape {weight.shape}: its first axis must be x's channel count, {x.shape[1]}")
    problem = Problem(
        x.shape[0], x.shape[1], x.shape[2:], weight.shape[1] * groups, weight.shape[2:], stride, padding, output_padding,
        groups, dilation, x.dtype.name,
    )  # fmt: skip
    _check_bias(bias, problem.c_out)
    names = registry.methods()
    if method != "auto" and method not in names:
        raise ValueError(f"method is {method!r}, valid methods are auto, {', '.join(names)}")
    entry = registry.get(choose(problem) if method == "auto" else method)
    supported = entry.supports(problem)
    if supported is not True:
        raise NotImplementedError(f"method {method!r} can't serve {problem}: {supported}")
    shape = problem.out_shape if batched else problem.out_shape[1:]
    _check_out(out, shape, dtype, (x, weight, bias))
    result = out if out is not None and _is_plain(out, x.dtype) else np.empty(shape, x.dtype)
    if result.size:
        entry.run(entry.prepare(problem, weight, bias), x, result.reshape(problem.out_shape))
    if out is None:
        return result.astype(dtype, copy=False)
    if result is not out:
        out[...] = result.astype(dtype, copy=False)
    return out


def _conv(
    ndim: int,
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
) -> NDArray[Any]:
    x, weight, bias, dtype = _arrays(x, weight, bias)
    batched = _check_ranks(ndim, x, weight, f"(C_out, C_in // groups, {_axes('K', ndim)})")
    if not batched:
        x = x[None]
    groups = as_int(groups, "groups", 1)
    c_out, c_in, kernel = weight.shape[0], x.shape[1], weight.shape[2:]
    if weight.shape[1] * groups != c_in:
        raise ValueError(
            f"weight has shape {weight.shape} and groups is {groups}: its second axis must be C_in // groups, "
            f"but x has {c_in} channels"
        )
    if c_out % groups:
        raise ValueError(f"groups is {groups}, but must divide C_out, which is {c_out}")
    _check_bias(bias, c_out)
    for name, sizes in (("x's spatial size", x.shape[2:]), ("weight's kernel", kernel), ("C_in and C_out", (c_in, c_out))):
        if min(sizes) < 1:
            raise ValueError(f"{name} is {sizes}, but every size must be >= 1")
    steps, dilations = per_axis(stride, ndim, "stride", 1), per_axis(dilation, ndim, "dilation", 1)
    pairs = padding_pairs(padding, ndim)
    size = tuple((i + sum(p) - d * (k - 1) - 1) // s + 1 for i, p, d, k, s in zip(x.shape[2:], pairs, dilations, kernel, steps))
    check_not_empty(size)
    ones, zeros = (1,) * (3 - ndim), (0,) * (3 - ndim)
    g = Geometry(
        x.shape[0], c_in, c_out, groups, *ones, *x.shape[2:], *ones, *kernel, *ones, *steps,
        *zeros, *(before for before, _ in pairs), *ones, *dilations, *ones, *size,
    )  # fmt: skip
    packed = weight.reshape(groups, c_out // groups, c_in // groups, prod(kernel)).transpose(0, 3, 2, 1)
    out = np.empty((x.shape[0], c_out, *size), x.dtype)
    if out.size:
        zero_bias = np.zeros(c_out, x.dtype) if bias is None else bias
        forward.convolve(g, x, np.ascontiguousarray(packed), zero_bias, out)
    return (out if batched else out[0]).astype(dtype, copy=False)


def _axes(letter: str, ndim: int) -> str:
    return ", ".join(f"{letter}{axis}" for axis in "DHW"[3 - ndim :])


def _checked(value: ArrayLike, name: str) -> NDArray[Any]:
    """``value`` as an array of a dtype that is served."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, whose mask would be ignored; pass {name}.filled(value)")
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise TypeError(f"{name} can't be read as an array: {error}") from None
    if array.dtype.name not in ARRAY_DTYPES:
        raise TypeError(f"{name} has dtype {array.dtype}, but must be one of {', '.join(ARRAY_DTYPES)}")
    return array


def _for_kernels(array: NDArray[Any]) -> NDArray[Any]:
    """The array as kernels take it: contiguous, aligned, native, writable in type (and never written to)."""
    array = np.require(array, kernel_dtype(array.dtype), ["C", "A"])
    return array if array.flags.writeable else _writable_view(array)


class _View:
    def __init__(self, interface: dict[str, Any], owner: NDArray[Any]) -> None:
        self.__array_interface__ = interface
        self.owner = owner


def _writable_view(array: NDArray[Any]) -> NDArray[Any]:
    """The same memory without the read-only flag, which would make Numba compile every kernel a second time."""
    interface = dict(array.__array_interface__)
    interface["data"] = (interface["data"][0], False)
    return np.asarray(_View(interface, array))


def _arrays(
    x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None, np.dtype[Any]]:
    """The inputs for kernels, and the dtype of the result."""
    x, weight = _checked(x, "x"), _checked(weight, "weight")
    bias = None if bias is None else _checked(bias, "bias")
    dtype = x.dtype.newbyteorder("=")
    for name, array in (("weight", weight), ("bias", bias)):
        if array is not None and array.dtype.newbyteorder("=") != dtype:
            raise TypeError(f"{name} has dtype {array.dtype}, but must have x's dtype, {x.dtype}")
    return _for_kernels(x), _for_kernels(weight), None if bias is None else _for_kernels(bias), dtype


def _check_ranks(ndim: int, x: NDArray[Any], weight: NDArray[Any], weight_axes: str) -> bool:
    """Whether x is batched; ValueError for a wrong number of axes."""
    if x.ndim not in (ndim + 1, ndim + 2):
        axes = _axes("", ndim)
        raise ValueError(f"x has {x.ndim} axes (shape {x.shape}), but must be (N, C_in, {axes}) or (C_in, {axes})")
    if weight.ndim != ndim + 2:
        raise ValueError(f"weight has {weight.ndim} axes (shape {weight.shape}), but must be {weight_axes}")
    return x.ndim == ndim + 2


def _check_bias(bias: NDArray[Any] | None, c_out: int) -> None:
    if bias is not None and bias.shape != (c_out,):
        raise ValueError(f"bias has shape {bias.shape}, but must be ({c_out},): one value per output channel")


def _check_out(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], inputs: tuple[NDArray[Any] | None, ...]) -> None:
    if out is None:
        return
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out is a {type(out).__name__}, but must be a NumPy array of shape {shape}")
    if out.dtype.newbyteorder("=") != dtype:
        raise TypeError(f"out has dtype {out.dtype}, but must have x's dtype, {dtype}")
    if out.shape != shape:
        raise ValueError(f"out has shape {out.shape}, but the result has {shape}")
    if not out.flags.writeable:
        raise ValueError("out is read-only, but must be writable")
    if any(array is not None and np.may_share_memory(out, array) for array in inputs):
        raise ValueError("out overlaps an input's memory, but must be memory of its own")


def _is_plain(array: NDArray[Any], dtype: np.dtype[Any]) -> bool:
    return bool(array.flags.c_contiguous and array.flags.aligned and array.dtype == dtype)
