"""The functions that users call: transposed and ordinary convolution in PyTorch's argument order, on NumPy arrays.

Arrays on a CUDA device, and calls with ``device="cuda"``, are handed to ``tconv_bench.gpu``.

Validation comes first and touches no pixel; then the chosen variant prepares and runs. Inputs are never modified. Integers
give integers of the same dtype, exact modulo its width, as NumPy's arithmetic is.

Arguments that were checked are known again by their shapes, dtypes and sizes, never by their values, so that the next call with
them goes straight to the variant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable
from functools import cached_property, lru_cache
from importlib import import_module
from math import prod
from typing import Any

import numpy as np
from numpy import empty, ndarray  # each is looked up in every call
from numpy.typing import ArrayLike, NDArray

from tconv_bench import forward, jit, registry, wisdom
from tconv_bench.objects import describe
from tconv_bench.problem import (
    ARRAY_DTYPES,
    DTYPES,
    Geometry,
    Problem,
    as_int,
    check_not_empty,
    kernel_dtype,
    padding_pairs,
    per_axis,
)
from tconv_bench.registry import Variant
from tconv_bench.variants import _native

AUTO = "auto"
_DEVICE_ARRAYS = ("__cuda_ndarray__", "__cuda_array_interface__", "__dlpack_device__")
KNOWN = 1024  # checked arguments that are kept, and as many choices
Weights = tuple[NDArray[Any], NDArray[Any] | None]


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
    out: Any = None,
    device: str | None = None,
) -> NDArray[Any]:
    """Transposed convolution over one spatial axis; see ``conv_transpose2d``.

    x ``(N, C_in, W)`` or ``(C_in, W)``, weight ``(C_in, C_out // groups, K)``; a (before, after) padding is ``((1, 2),)``.
    """
    return _conv_transpose(1, x, weight, bias, stride, padding, output_padding, groups, dilation, method, out, device)


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
    out: Any = None,
    device: str | None = None,
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
        method: a name of ``methods(device)``, or "auto" for the one that is expected to be fastest.
        out: array of the result's shape and x's dtype to write into; must not overlap the inputs.
        device: "cpu" or "cuda"; by default where x is. Arrays on a CUDA device (``__cuda_array_interface__`` or DLPack) are
            computed there, on their library's current stream and without a copy, and give an array of their kind; NumPy arrays
            are copied to the device and back.

    Returns:
        ``(N, C_out, H_out, W_out)``, or without N for unbatched input, in x's dtype; ``out`` where it is given. The size is
        ``(in - 1)*stride - pad_before - pad_after + dilation*(kernel - 1) + output_padding + 1`` per axis.

    Raises:
        ValueError: a shape, channel count, group count, stride, padding or size that does not fit.
        TypeError: a dtype that is not served, or x and weight of different dtypes.
        NotImplementedError: the named method does not serve this problem; the message names an alternative.
        RuntimeError: CUDA is asked for and can't be used; the message says what is missing.

    Source: Dumoulin & Visin, arXiv:1603.07285, section 4; arguments as in ``torch.nn.functional.conv_transpose2d``.

    >>> import numpy as np
    >>> conv_transpose2d(np.array([[[1, 2], [3, 4]]]), np.full((1, 1, 2, 2), 5))
    array([[[ 5, 15, 10],
            [20, 50, 30],
            [15, 35, 20]]])
    """
    return _conv_transpose(2, x, weight, bias, stride, padding, output_padding, groups, dilation, method, out, device)


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
    out: Any = None,
    device: str | None = None,
) -> NDArray[Any]:
    """Transposed convolution over three spatial axes; see ``conv_transpose2d``.

    x ``(N, C_in, D, H, W)`` or ``(C_in, D, H, W)``, weight ``(C_in, C_out // groups, KD, KH, KW)``.
    """
    return _conv_transpose(3, x, weight, bias, stride, padding, output_padding, groups, dilation, method, out, device)


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


def choose(problem: Problem, planned: bool = True) -> str:
    """The method that "auto" takes: the one remembered as measured fastest, else the one predicted fastest.

    None is taken that ``spreads_nonfinite_weights``. For a call that is not ``planned`` the weights' preparation counts.
    """
    return _choose(problem, planned, jit.threads(), wisdom.changes)


@lru_cache(KNOWN)
def _choose(problem: Problem, planned: bool, threads: int, changes: int) -> str:
    allowed = candidates(predictions(problem, planned), planned)
    return remembered(problem, allowed, planned) or next(iter(allowed))


def predictions(problem: Problem, planned: bool = True) -> dict[str, float]:
    """Predicted seconds of every method that serves a problem, on the present number of threads; fastest first."""
    entries = [entry for entry in map(registry.get, registry.methods()) if entry.supports(problem) is True]
    seconds = {entry.name: entry.estimate(problem) + _preparation(entry, problem, planned) for entry in entries}
    return dict(sorted(seconds.items(), key=lambda item: item[1]))


def candidates(predicted: dict[str, float], planned: bool = True) -> dict[str, float]:
    """Those of the predictions that "auto" may take; see ``choose``."""
    return {
        name: seconds
        for name, seconds in predicted.items()
        if not registry.get(name).spreads_nonfinite_weights and (planned or math.isfinite(seconds))
    }


def remembered(problem: Problem, allowed: Container[str], planned: bool = True) -> str:
    """The allowed method that was measured fastest; "" where none was."""
    known = wisdom.lookup(problem)
    timed = {name: seconds for name, seconds in known.seconds.items() if name in allowed} if known else {}
    return min(timed, key=lambda name: timed[name] + _preparation(registry.get(name), problem, planned), default="")


def _preparation(variant: Variant, problem: Problem, planned: bool) -> float:
    return 0.0 if planned else variant.preparation_estimate(problem)


class Call:
    """What checked arguments ask for: a problem, the variant that computes it, and the user's shapes and dtype."""

    def __init__(self, problem: Problem, variant: Variant, batched: bool, dtype: np.dtype[Any]):
        self.problem, self.variant, self.batched = problem, variant, batched
        self.dtype = dtype.newbyteorder("=")  # of x and the result
        self.x_shape, self.out_shape = (s if batched else s[1:] for s in (problem.x_shape, problem.out_shape))
        #: Kernels take the user's dtype as it is, and there is something to compute.
        self.is_plain = self.dtype.name in DTYPES and prod(self.out_shape) > 0

    @cached_property
    def once(self) -> Callable[..., None]:
        """The variant's ``single_call``."""
        return self.variant.single_call(self.problem)

    def compute(
        self,
        run: Callable[[NDArray[Any], NDArray[Any]], None],
        x: NDArray[Any],
        out: Any,
        *weights: NDArray[Any] | None,
    ) -> NDArray[Any]:
        """The result of ``run(x, out)``, which takes both batched and as kernels do; written into ``out`` where that is given.

        ``weights`` are arrays that ``out`` must not overlap either. TypeError or ValueError where it cannot be written into.
        """
        strided = self.variant.serves_strided
        x = for_kernels(x, strided)
        _check_out(out, self.out_shape, self.dtype, (x, *weights))
        result = out if out is not None and _takes(out, x.dtype, strided) else self._fresh(x, strided)
        if result.size:
            run(x if self.batched else x[None], result if self.batched else result[None])
        if out is None:
            return result.astype(self.dtype, copy=False)
        if result is not out:
            out[...] = result.astype(self.dtype, copy=False)
        written: NDArray[Any] = out
        return written

    def takes(self, x: Any) -> bool:
        """Whether the variant may read ``x`` as it is."""
        return self.is_plain and is_plain(x) and x.shape == self.x_shape and x.dtype == self.dtype

    def can_write(self, out: Any, *inputs: NDArray[Any] | None) -> bool:
        """Whether the variant may write into ``out`` as it is while it reads the inputs; asked of plain calls only."""
        return (
            is_plain(out)
            and out.shape == self.out_shape
            and out.dtype == self.dtype
            and not any(array is not None and np.may_share_memory(out, array) for array in inputs)
        )

    def _fresh(self, x: NDArray[Any], strided: bool) -> NDArray[Any]:
        """A new output; its channels are innermost where x's are and the variant serves that."""
        axis, shape = int(self.batched), self.out_shape
        if not (strided and _has_channels_last(x, axis)):
            return np.empty(shape, x.dtype)
        return np.moveaxis(np.empty((*shape[:axis], *shape[axis + 1 :], shape[axis]), x.dtype), -1, axis)


_known: dict[tuple[Any, ...], Call] = {}


def _key(ndim: int, x: Any, weight: Any, bias: Any, sizes: tuple[Any, ...], method: Any) -> tuple[Any, ...] | None:
    """All that the check of the arguments reads; None unless they are plain arrays and built-in integers."""
    described = describe()(ndarray, int, tuple, None, x, weight, bias, ndim, *sizes)
    return (described, method, jit.threads(), wisdom.changes) if described and type(method) is str else None


def is_plain(array: Any) -> bool:
    """Whether kernels take the array's memory as it is; its dtype and byte order are another matter."""
    return type(array) is np.ndarray and array.flags.carray is True


def _conv_transpose(
    ndim: int,
    x: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: Any,
    dilation: Any,
    method: str,
    out: Any,
    device: str | None,
) -> NDArray[Any]:
    sizes = (stride, padding, output_padding, groups, dilation)
    if device is not None and _is_cuda(device, x):
        return _on_cuda(ndim, x, weight, bias, sizes, method, out, to_device=True)
    key = _key(ndim, x, weight, bias, sizes, method)
    call = None if key is None else _known.get(key)
    if call is not None and (out is None or call.can_write(out, x, weight, bias)):
        result: NDArray[Any] = empty(call.out_shape, call.dtype) if out is None else out
        if call.batched:
            call.once(weight, bias, x, result)
        else:
            call.once(weight, bias, x[None], result[None])
        return result
    if key is None and device is None and any(map(_may_be_on_cuda, (x, weight, bias))):
        return _on_cuda(ndim, x, weight, bias, sizes, method, out, to_device=False)
    return _check_and_compute(ndim, x, weight, bias, sizes, method, out, key)


def _is_cuda(device: Any, x: Any) -> bool:
    """Whether a named device is "cuda"; ValueError where it is neither that nor "cpu", or x lies elsewhere."""
    if device not in registry.DEVICES:
        raise ValueError(f"device is {device!r}, valid devices are {', '.join(registry.DEVICES)}")
    if device == "cpu" and _may_be_on_cuda(x):
        raise ValueError("device is 'cpu', but x is on a CUDA device; copy it to the CPU first, or leave device out")
    return bool(device == "cuda")


def _may_be_on_cuda(value: Any) -> bool:
    """Whether an array that is not NumPy's says that it is on a CUDA device; nothing of CUDA is imported to ask others."""
    kind = type(value)
    if kind is np.ndarray or not any(hasattr(kind, name) for name in _DEVICE_ARRAYS):
        return False
    return bool(import_module("tconv_bench.gpu").is_device_array(value))


def _on_cuda(*args: Any, to_device: bool) -> NDArray[Any]:
    """The result of ``tconv_bench.gpu``, an array of x's kind."""
    result: NDArray[Any] = import_module("tconv_bench.gpu").conv_transpose(*args, to_device=to_device)
    return result


def _check_and_compute(
    ndim: int,
    x: ArrayLike,
    weight: ArrayLike,
    bias: ArrayLike | None,
    sizes: tuple[Any, ...],
    method: str,
    out: NDArray[Any] | None,
    key: tuple[Any, ...] | None,
) -> NDArray[Any]:
    x = checked_array(x, "x")
    weight, bias = checked_weights(weight, bias, x.dtype)
    problem, batched = checked_problem(ndim, "x", x.shape, weight, bias, sizes)
    check_method(problem, method, AUTO)
    variant = registry.get(choose(problem, planned=False) if method == AUTO else method)
    call = Call(problem, variant, batched, x.dtype)
    w, b = for_kernels(weight, variant.reads_turned_weights), None if bias is None else for_kernels(bias)
    result = call.compute(lambda x, out: variant.one_shot(problem, w, b, x, out), x, out, w, b)
    if key is not None and call.is_plain:
        if len(_known) >= KNOWN:
            _known.clear()
        _known[key] = call
    return result


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
    x = checked_array(x, "x")
    weight, bias = checked_weights(weight, bias, x.dtype)
    dtype = x.dtype.newbyteorder("=")
    batched = _check_ranks(ndim, "x", x.shape, weight, f"(C_out, C_in // groups, {_axes('K', ndim)})")
    x = for_kernels(x if batched else x[None])
    weight, bias = for_kernels(weight), None if bias is None else for_kernels(bias)
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
        _native.run(forward.work(g, np.ascontiguousarray(packed), zero_bias), x, out)
    return (out if batched else out[0]).astype(dtype, copy=False)


def _axes(letter: str, ndim: int) -> str:
    return ", ".join(f"{letter}{axis}" for axis in "DHW"[3 - ndim :])


def checked_array(
    value: ArrayLike,
    name: str,
    dtype: np.dtype[Any] | None = None,
    owner: str = "x",
    allowed: tuple[str, ...] = ARRAY_DTYPES,
) -> NDArray[Any]:
    """``value`` as an array of an allowed dtype; of ``owner``'s dtype, in any byte order, where that is given."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, whose mask would be ignored; pass {name}.filled(value)")
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise TypeError(f"{name} can't be read as an array: {error}") from None
    if array.dtype.name not in allowed:
        raise TypeError(f"{name} has dtype {array.dtype}, but must be one of {', '.join(allowed)}")
    if dtype is not None and array.dtype.newbyteorder("=") != dtype.newbyteorder("="):
        raise TypeError(f"{name} has dtype {array.dtype}, but must have {owner}'s dtype, {dtype}")
    return array


def checked_weights(weight: ArrayLike, bias: ArrayLike | None, dtype: np.dtype[Any] | None = None) -> Weights:
    """Weight and bias as arrays of one dtype: x's, ``dtype``, or the weight's own."""
    weight = checked_array(weight, "weight", dtype)
    expected, owner = (weight.dtype, "weight") if dtype is None else (dtype, "x")
    return weight, None if bias is None else checked_array(bias, "bias", expected, owner)


def for_kernels(array: NDArray[Any], strided: bool = False) -> NDArray[Any]:
    """The array as kernels take it: aligned, native, writable in type (and never written to); contiguous unless ``strided``."""
    array = np.require(array, kernel_dtype(array.dtype), ["A"] if strided else ["C", "A"])
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


def checked_problem(
    ndim: int,
    name: str,
    x_shape: tuple[int, ...],
    weight: NDArray[Any],
    bias: NDArray[Any] | None,
    sizes: tuple[Any, ...],
) -> tuple[Problem, bool]:
    """The Problem that the arguments describe, and whether x has a batch axis; ValueError or TypeError where they don't fit.

    Args:
        ndim: spatial axes.
        name: what the caller calls x or its shape.
        x_shape: ``(N, C_in, *spatial)`` or ``(C_in, *spatial)``.
        weight, bias: of the dtype to compute in, or a narrower integer's.
        sizes: stride, padding, output_padding, groups, dilation.
    """
    stride, padding, output_padding, groups, dilation = sizes
    batched = _check_ranks(ndim, name, x_shape, weight, f"(C_in, C_out // groups, {_axes('K', ndim)})")
    batch, c_in, *in_size = x_shape if batched else (1, *x_shape)
    groups = as_int(groups, "groups", 1)
    if weight.shape[0] != c_in:
        raise ValueError(f"weight has shape {weight.shape}: its first axis must be x's channel count, {c_in}")
    problem = Problem(
        batch, c_in, tuple(in_size), weight.shape[1] * groups, weight.shape[2:], stride, padding, output_padding, groups,
        dilation, kernel_dtype(weight.dtype),
    )  # fmt: skip
    _check_bias(bias, problem.c_out)
    return problem, batched


def check_method(problem: Problem, method: Any, *choices: str, device: str = "cpu") -> None:
    """Refuse a method that is neither one of the ``choices`` nor a name, or a named one that does not serve the problem.

    Raises:
        ValueError: no such method.
        NotImplementedError: it does not serve the problem; the message names an alternative.
    """
    names = registry.methods(device)
    if method in choices:
        return
    if method not in names:
        raise ValueError(f"method is {method!r}, valid methods are {', '.join((*choices, *names))}")
    supported = registry.get(method, device).supports(problem)
    if supported is not True:
        raise NotImplementedError(f"method {method!r} can't serve {problem}: {supported}")


def _check_ranks(ndim: int, name: str, x_shape: tuple[int, ...], weight: NDArray[Any], weight_axes: str) -> bool:
    """Whether x is batched; ValueError for a wrong number of axes."""
    if len(x_shape) not in (ndim + 1, ndim + 2):
        axes = _axes("", ndim)
        raise ValueError(f"{name} has {len(x_shape)} axes (shape {x_shape}), but must be (N, C_in, {axes}) or (C_in, {axes})")
    if weight.ndim != ndim + 2:
        raise ValueError(f"weight has {weight.ndim} axes (shape {weight.shape}), but must be {weight_axes}")
    return len(x_shape) == ndim + 2


def _check_bias(bias: NDArray[Any] | None, c_out: int) -> None:
    if bias is not None and bias.shape != (c_out,):
        raise ValueError(f"bias has shape {bias.shape}, but must be ({c_out},): one value per output channel")


def _check_out(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], inputs: Iterable[NDArray[Any] | None]) -> None:
    """ValueError or TypeError unless a result of this shape and dtype can be written into ``out``; None can be anything."""
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


def _takes(out: NDArray[Any], dtype: np.dtype[Any], strided: bool) -> bool:
    """Whether kernels that compute in a dtype can write into ``out`` themselves."""
    return bool((strided or out.flags.c_contiguous) and out.flags.aligned and out.dtype == dtype)


def _has_channels_last(x: NDArray[Any], axis: int) -> bool:
    """Whether channels, along ``axis``, are innermost in memory and pixels are not beside each other."""
    pixels = [abs(step) for step, size in zip(x.strides[axis + 1 :], x.shape[axis + 1 :]) if size > 1]
    return x.strides[axis] == x.itemsize and x.shape[axis] > 1 and bool(pixels) and min(pixels) > x.itemsize
