"""``device="cuda"``: arrays of NumPy, Numba, PyTorch, CuPy and whoever speaks their protocols, in and out of the kernels.

Device arrays are read through ``__cuda_array_interface__`` or, where they have only that, DLPack; nothing is copied but what is
not C-contiguous. The result is made by the caller's own library, on its current stream, and filled there; nothing waits for it.
NumPy arrays are copied to the device and back. Imported on first use: ``import tconv_bench`` knows nothing of CUDA.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tconv_bench import conv, jit_cuda, registry, units
from tconv_bench.plan import Plan
from tconv_bench.problem import Problem
from tconv_bench.variants._cuda import DTYPES, CudaVariant

CUDA_MEMORY = (2, 13)  # DLPack's numbers of device and managed memory
FEW_PRODUCTS = 64  # of a pixel and tap, below which a tile would multiply mostly zeros


@cache
def missing() -> str:
    """What ``device="cuda"`` lacks here, in one sentence; "" where it can be used."""
    if jit_cuda.simulated():
        return ""
    if importlib.util.find_spec("numba_cuda") is None:
        return (
            "device 'cuda' needs the numba-cuda package, which is not installed: pip install 'tconv-bench[cuda13]', "
            "or 'tconv-bench[cuda12]' where the driver is one of CUDA 12"
        )
    try:
        found = jit_cuda.numba_cuda().is_available()
    except Exception as error:
        return f"device 'cuda' can't be used: numba-cuda does not load ({error})"
    return "" if found else "device 'cuda' needs an NVIDIA GPU and its driver, and none is found on this machine"


def require() -> None:
    """RuntimeError where CUDA can't be used, with the sentence of ``missing``."""
    sentence = missing()
    if sentence:
        raise RuntimeError(sentence)


def is_device_array(value: Any) -> bool:
    """Whether a value's memory is on a CUDA device, as far as it says so; nothing is imported."""
    if getattr(value, "__cuda_ndarray__", False):
        return True
    kind = type(value)
    if hasattr(kind, "__dlpack_device__") and not isinstance(value, np.ndarray):
        return int(value.__dlpack_device__()[0]) in CUDA_MEMORY
    return hasattr(kind, "__cuda_array_interface__")


class Library(NamedTuple):
    """How a library makes arrays like a given one."""

    empty: Callable[[tuple[int, ...], Any], Any]
    contiguous: Callable[[Any], Any]
    stream: Callable[[Any], int]


def _numba_like(shape: tuple[int, ...], like: Any) -> Any:
    return jit_cuda.numba_cuda().device_array(shape, np.dtype(like.dtype))


def _torch_like(shape: tuple[int, ...], like: Any) -> Any:
    return like.new_empty(shape)


def _torch_stream(array: Any) -> int:
    torch = importlib.import_module("torch")
    return int(torch.cuda.current_stream(array.device).cuda_stream)


def _cupy_like(shape: tuple[int, ...], like: Any) -> Any:
    return importlib.import_module("cupy").empty(shape, like.dtype)


def _cupy_stream(array: Any) -> int:
    return int(importlib.import_module("cupy").cuda.get_current_stream().ptr)


def _standard_like(shape: tuple[int, ...], like: Any) -> Any:
    """By the Python array API, where the array has its namespace; else a Numba array."""
    namespace = getattr(like, "__array_namespace__", None)
    return namespace().empty(shape, dtype=like.dtype, device=like.device) if namespace else _numba_like(shape, _view(like, "x"))


def _stream_of_interface(array: Any) -> int:
    return int(_interface(array, "x").get("stream") or 0)


def _refuse(array: Any) -> Any:
    raise ValueError("is not C-contiguous, but must be")


_LIBRARIES = {
    "numba": Library(_numba_like, _refuse, lambda array: getattr(array.stream, "handle", 0) or 0),
    "torch": Library(_torch_like, lambda array: array.contiguous(), _torch_stream),
    "cupy": Library(_cupy_like, lambda array: array.copy(order="C"), _cupy_stream),
}
_STANDARD = Library(_standard_like, _refuse, _stream_of_interface)


def _library(array: Any) -> Library:
    if getattr(array, "__cuda_ndarray__", False):
        return _LIBRARIES["numba"]
    return _LIBRARIES.get(type(array).__module__.partition(".")[0], _STANDARD)


def _interface(value: Any, name: str) -> dict[str, Any]:
    """``__cuda_array_interface__``, made from DLPack where there is none; TypeError for what can't be read."""
    try:
        if hasattr(type(value), "__cuda_array_interface__"):
            return dict(value.__cuda_array_interface__)
        from cuda.core.utils import StridedMemoryView

        view = StridedMemoryView.from_dlpack(value, stream_ptr=-1)
        itemsize = view.dtype.itemsize
        return {
            "shape": tuple(view.shape),
            "typestr": view.dtype.str,
            "data": (view.ptr, bool(view.readonly)),
            "strides": None if view.strides is None else tuple(step * itemsize for step in view.strides),
            "version": 3,
            "owner": view,
        }
    except Exception as error:
        raise TypeError(f"{name} can't be read as a CUDA array: {error}") from None


def _view(value: Any, name: str) -> Any:
    """A Numba device array over a device array's memory."""
    if getattr(value, "__cuda_ndarray__", False):
        return value
    interface = _interface(value, name)
    if not jit_cuda.simulated():
        return jit_cuda.numba_cuda().from_cuda_array_interface(interface, owner=value, sync=False)
    from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray

    held = type("Memory", (), {"__array_interface__": interface, "owner": value})
    return FakeCUDAArray(np.asarray(held()))


def _device_of(value: Any) -> int:
    """The ordinal of the device that an array is on."""
    if hasattr(value, "__dlpack_device__"):
        return int(value.__dlpack_device__()[1])
    if jit_cuda.simulated() or not prod(value.shape):
        return _current_device()
    from cuda.bindings import driver

    attribute = driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    error, ordinal = driver.cuPointerGetAttribute(attribute, _interface(value, "x")["data"][0])
    if error != driver.CUresult.CUDA_SUCCESS:
        raise TypeError(f"the memory at {_interface(value, 'x')['data'][0]:#x} is on no CUDA device ({error.name})")
    return int(ordinal)


def _current_device() -> int:
    return 0 if jit_cuda.simulated() else int(jit_cuda.numba_cuda().current_context().device.id)


def _checked(value: Any, name: str, dtype: Any = None) -> Any:
    """A NumPy or Numba device array of a dtype that is served, C-contiguous on a device."""
    if not is_device_array(value):
        array: Any = conv.checked_array(value, name)
    else:
        array = _view(value, name)
    if array.dtype.newbyteorder("=").name not in DTYPES:
        raise TypeError(f"{name} has dtype {array.dtype}, but on CUDA must be one of {', '.join(DTYPES)}")
    if dtype is not None and array.dtype.newbyteorder("=") != dtype:
        raise TypeError(f"{name} has dtype {array.dtype}, but must have x's dtype, {dtype}")
    if is_device_array(value) and not array.is_c_contiguous():
        try:
            array = _view(_library(value).contiguous(value), name)
        except ValueError as error:
            raise ValueError(f"{name} {error}: its strides are {array.strides}") from None
    return array


class Place(NamedTuple):
    """Where a call computes: the caller's device and stream; ``library`` is None for NumPy arrays."""

    library: Library | None
    device: int
    stream: Any

    @classmethod
    def of(cls, x: Any, *others: Any) -> Place:
        """That of ``x``; ValueError where another array is on another device."""
        device = _device_of(x) if is_device_array(x) else _current_device()
        for name, other in zip(("weight", "bias", "out"), others):
            if is_device_array(other) and _device_of(other) != device:
                raise ValueError(f"{name} is on device {_device_of(other)}, but x is on device {device}")
        if not is_device_array(x):
            return cls(None, device, 0)
        library = _library(x)
        return cls(library, device, jit_cuda.stream_at(library.stream(x)))

    def active(self) -> AbstractContextManager[Any]:
        """The device's context."""
        context: AbstractContextManager[Any] = jit_cuda.numba_cuda().gpus[self.device]
        return context

    def upload(self, array: Any) -> Any:
        """The array on the device."""
        if not isinstance(array, np.ndarray):
            return array
        native = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
        return jit_cuda.numba_cuda().to_device(native, stream=self.stream)


def conv_transpose(
    ndim: int, x: Any, weight: Any, bias: Any, sizes: tuple[Any, ...], method: str, out: Any, to_device: bool
) -> Any:
    """The public functions on CUDA.

    Args:
        ndim: spatial axes.
        x, weight, bias: device arrays, or NumPy's, which are copied.
        sizes: stride, padding, output_padding, groups, dilation.
        method: a name of ``methods("cuda")``, or "auto".
        out: None, or an array of x's kind.
        to_device: whether NumPy's x may be copied to the device: ``device="cuda"`` was asked for.

    Raises:
        RuntimeError: CUDA can't be used here.
        MemoryError: the device has no memory left.
        TypeError, ValueError, NotImplementedError: as on the CPU.
    """
    if not to_device and not is_device_array(x):
        raise TypeError("weight or bias is on a CUDA device, but x is not: move it there, or pass device='cuda'")
    require()
    place = Place.of(x, weight, bias, out)
    given = x
    with place.active():
        x = _checked(x, "x")
        dtype = x.dtype.newbyteorder("=")
        weight = _checked(weight, "weight", dtype)
        bias = None if bias is None else _checked(bias, "bias", dtype)
        problem, batched = conv.checked_problem(ndim, "x", x.shape, weight, bias, sizes)
        conv.check_method(problem, method, conv.AUTO, device="cuda")
        variant = _variant(choose(problem) if method == conv.AUTO else method)
        call = _Call(problem, variant, batched, place)

        def run(x: Any, out: Any) -> None:
            variant.one_shot(problem, place.upload(weight), None if bias is None else place.upload(bias), x, out, place.stream)

        return call.compute(run, x, given, out)


class _Call:
    """One problem and variant at one place."""

    def __init__(self, problem: Problem, variant: CudaVariant, batched: bool, place: Place):
        self.problem, self.variant, self.place = problem, variant, place
        self.x_shape, self.out_shape = (s if batched else s[1:] for s in (problem.x_shape, problem.out_shape))

    def compute(self, run: Callable[[Any, Any], None], x: Any, given: Any, out: Any) -> Any:
        """``run(x, out)`` on the device; the result is of ``given``'s kind, in ``out`` where that is given."""
        library = self.place.library
        target = self._checked_out(out, x, library is None)
        try:
            if library is None:
                return self._by_way_of_device(run, x, out)
            if target is None:
                out = library.empty(self.out_shape, given)
                target = _view(out, "out")
            if prod(self.out_shape):
                run(x, target)
            return out
        except Exception as error:
            explained = _explained(error, self.variant, self.problem)
            if explained is None:
                raise
        # Raised here, it holds on to none of the arrays that the failed attempt had.
        del target, out
        raise explained

    def _by_way_of_device(self, run: Callable[[Any, Any], None], x: Any, out: Any) -> Any:
        result: NDArray[Any] = np.empty(self.out_shape, self.problem.dtype) if out is None else out
        if not result.size:
            return result
        stream = self.place.stream
        on_device = jit_cuda.numba_cuda().device_array(self.out_shape, self.problem.dtype, stream=stream)
        run(self.place.upload(x), on_device)
        result[...] = on_device.copy_to_host(stream=stream)
        return result

    def _checked_out(self, out: Any, x: Any, is_host: bool) -> Any:
        """A device array over ``out``; None for NumPy's, and for none."""
        if out is None:
            return None
        if is_host:
            conv._check_out(out, self.out_shape, np.dtype(self.problem.dtype), (x,))
            return None
        if not is_device_array(out):
            raise TypeError(f"out is a {type(out).__name__}, but must be an array on x's CUDA device")
        target = _view(out, "out")
        if target.dtype != np.dtype(self.problem.dtype):
            raise TypeError(f"out has dtype {target.dtype}, but must have x's dtype, {self.problem.dtype}")
        if target.shape != self.out_shape:
            raise ValueError(f"out has shape {target.shape}, but the result has {self.out_shape}")
        if not target.is_c_contiguous():
            raise ValueError(f"out is not C-contiguous, but must be: its strides are {target.strides}")
        if _overlap(target, x):
            raise ValueError("out overlaps an input's memory, but must be memory of its own")
        return target


def _overlap(first: Any, second: Any) -> bool:
    if jit_cuda.simulated():
        return bool(np.may_share_memory(first._ary, second._ary))
    (a, b), (a_bytes, b_bytes) = (
        [array.__cuda_array_interface__["data"][0] for array in (first, second)],
        [array.size * array.dtype.itemsize for array in (first, second)],
    )
    return bool(a < b + b_bytes and b < a + a_bytes)


def _explained(error: Exception, variant: CudaVariant, problem: Problem) -> Exception | None:
    """What to raise in place of an error of the driver or an allocator; None for one that is none of theirs."""
    text = f"{type(error).__name__} {error}".upper().replace("_", " ")
    if isinstance(error, MemoryError) or "OUT OF MEMORY" in text or "OUTOFMEMORY" in text:
        taken = units.size(variant.prepared_bytes(problem) + variant.workspace_bytes(problem))
        return MemoryError(
            f"the GPU has no memory left for method {variant.name!r} on {problem}: it takes {taken} beside x and the result; "
            "use another method, or fewer images at once"
        )
    if "OUT OF RESOURCES" in text or "TOO MUCH SHARED" in text:
        return RuntimeError(
            f"method {variant.name!r} on {problem} takes more registers or shared memory than a block of this GPU has"
        )
    return None


def _variant(name: str) -> CudaVariant:
    variant: CudaVariant = registry.get(name, "cuda")  # type: ignore[assignment]
    return variant


def choose(problem: Problem) -> str:
    """The method that "auto" takes on CUDA: tiles, but where a group has so few channels that they would be mostly empty.

    The bound was not measured: no GPU was at hand.
    """
    products = (problem.c_in // problem.groups) * (problem.c_out // problem.groups)
    name = "direct" if products < FEW_PRODUCTS else "phase"
    return name if registry.get(name, "cuda").supports(problem) is True else "direct"


class CudaPlan(Plan):
    """A plan on CUDA: packed weights stay on the device; call it with arrays of any kind that ``conv_transpose2d`` takes."""

    def __init__(self, call: _Call, weight: Any, bias: Any, reason: str, batched: bool):
        self.problem, self.method, self.reason = call.problem, call.variant.name, reason
        self.threads, self.predicted, self.measured = 0, {}, {}
        answers = {name: registry.get(name, "cuda").supports(call.problem) for name in registry.methods("cuda")}
        self.refused = {name: str(answer) for name, answer in answers.items() if answer is not True}
        self._cuda_call, self._batched, place = call, batched, call.place
        with place.active():
            self._state = call.variant.prepare(call.problem, weight, bias, place.stream)
            jit_cuda.numba_cuda().synchronize()  # calls may come on other streams

    def __call__(self, x: Any, out: Any = None) -> Any:
        """The transposed convolution of ``x`` with the plan's weights, on x's stream; see ``conv_transpose2d``.

        Raises:
            ValueError: a shape that does not fit, or an array on another device than the plan's.
            TypeError: another dtype.
        """
        made = self._cuda_call
        place = Place.of(x, None, None, out)
        if place.device != made.place.device:
            raise ValueError(f"x is on device {place.device}, but the plan is on device {made.place.device}")
        with place.active():
            array = _checked(x, "x", np.dtype(self.problem.dtype))
            if tuple(array.shape) != made.x_shape:
                raise ValueError(f"x has shape {tuple(array.shape)}, but the plan is for {made.x_shape}")
            call = _Call(self.problem, made.variant, self._batched, place)
            return call.compute(lambda x, out: made.variant.run(self._state, x, out, place.stream), array, x, out)

    def __repr__(self) -> str:
        """The choice and its reasons, a line each."""
        problem, call = self.problem, self._cuda_call
        prepared, workspace = call.variant.prepared_bytes(problem), call.variant.workspace_bytes(problem)
        lines = {
            "method": f"{self.method} on CUDA device {call.place.device} ({self.reason})",
            "arrays": f"{call.x_shape} -> {call.out_shape}, {problem.dtype}",
            "layout": call.variant.describe(problem),
            "work": f"{units.flops(problem.flops)}, at least {units.size(problem.min_bytes)} moved",
            "memory": f"{units.size(prepared)} prepared, {units.size(workspace)} workspace",
        } | self.refused
        width = max(map(len, lines))
        return "\n".join([f"Plan {problem}", *(f"  {name:<{width}}  {line}" for name, line in lines.items() if line)])


def plan(weight: Any, input_shape: tuple[int, ...], bias: ArrayLike | None, sizes: tuple[Any, ...], method: str) -> CudaPlan:
    """``tconv_bench.plan`` on CUDA; weight and bias on a device or NumPy's."""
    require()
    place = Place.of(weight, None, bias)
    with place.active():
        weight = _checked(weight, "weight")
        bias = None if bias is None else _checked(bias, "bias", weight.dtype.newbyteorder("="))
        if not 3 <= weight.ndim <= 5:
            raise ValueError(
                f"weight has {weight.ndim} axes (shape {weight.shape}), but must be (C_in, C_out // groups, *kernel) with 1, 2 "
                "or 3 kernel axes"
            )
        problem, batched = conv.checked_problem(weight.ndim - 2, "input_shape", input_shape, weight, bias, sizes)
        conv.check_method(problem, method, conv.AUTO, device="cuda")
        auto = method == conv.AUTO
        variant = _variant(choose(problem) if auto else method)
        call = _Call(problem, variant, batched, place)
        reason = "by the number of channels" if auto else "named by the caller"
        return CudaPlan(call, place.upload(weight), None if bias is None else place.upload(bias), reason, batched)
