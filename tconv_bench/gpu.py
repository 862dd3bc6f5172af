"""``device="cuda"``: arrays of NumPy, Numba, PyTorch, CuPy and whoever speaks their protocols, in and out of the kernels.

Device arrays are read through ``__cuda_array_interface__`` or, where they have only that, DLPack; nothing is copied but what is
not C-contiguous. The result is made by the caller's own library, on its current stream, and filled there; nothing waits for it,
but where the library's stream can't be known. Where another argument's interface names another stream, ours waits for it. NumPy
arrays are copied to the device and back. Imported on first use: ``import tconv_bench`` knows nothing of CUDA.

Streams are numbered as ``__cuda_array_interface__`` (version 3) and the array API's ``__dlpack__`` number them: 1 the legacy
default stream, 2 the thread's own default stream, and else a ``cudaStream_t``.
"""

from __future__ import annotations

import importlib.util
import math
import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache, partial
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tconv_bench import conv, jit, jit_cuda, registry, units, wisdom
from tconv_bench.plan import MEASURE, WITHIN, Plan
from tconv_bench.problem import ARRAY_DTYPES, CUDA_DTYPES, Problem
from tconv_bench.variants._cuda import CudaVariant

CUDA_MEMORY = (2, 13)  # DLPack's numbers of device and managed memory
LEGACY_STREAM = 1
LEAST_CAPABILITY = (7, 0)  # what the kernels' instructions need; older processors are also those that CUDA 13 dropped
SAMPLES, SAMPLE_SECONDS = 7, 2e-3  # of "measure"


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
    if not found:
        return "device 'cuda' needs an NVIDIA GPU and its driver, and none is found on this machine"
    device = jit_cuda.numba_cuda().get_current_device()
    if tuple(device.compute_capability) < LEAST_CAPABILITY:
        has, least = (".".join(map(str, numbers)) for numbers in (device.compute_capability, LEAST_CAPABILITY))
        return f"device 'cuda' needs a GPU of compute capability {least} or later, and this one has {has}"
    return ""


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
    #: Whether its stream is unknown, so that a result must be complete when it is returned.
    waits: bool = False


def _numba_like(shape: tuple[int, ...], like: Any) -> Any:
    return jit_cuda.numba_cuda().device_array(shape, np.dtype(like.dtype))


def _numba_stream(array: Any) -> int:
    return int(getattr(array.stream, "handle", None) or 0)  # a driver's stream object, which ``external_stream`` refuses


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
    """The stream that an interface of version 3 names; the legacy default one where it names none."""
    return _named_stream(array, "x") or LEGACY_STREAM


def _named_stream(value: Any, name: str) -> int:
    """The stream that an array's last work was put on, as far as its interface says so; 0 where it says nothing."""
    if not hasattr(type(value), "__cuda_array_interface__"):
        return 0
    stream = _interface(value, name).get("stream")
    if stream is None:
        return 0
    if isinstance(stream, bool) or not isinstance(stream, int) or stream <= 0:
        raise ValueError(
            f"{name}'s __cuda_array_interface__ names stream {stream!r}, but allowed are None, 1 (legacy default), 2 (the "
            "thread's default) or a stream's address; 0 is ambiguous"
        )
    return stream


def _refuse(array: Any) -> Any:
    raise ValueError("is not C-contiguous, but must be")


_LIBRARIES = {
    "numba": Library(_numba_like, _refuse, _numba_stream),
    "torch": Library(_torch_like, lambda array: array.contiguous(), _torch_stream),
    "cupy": Library(_cupy_like, lambda array: array.copy(order="C"), _cupy_stream),
}
_STANDARD = Library(_standard_like, _refuse, _stream_of_interface, waits=True)


def _library(array: Any) -> Library:
    if getattr(array, "__cuda_ndarray__", False):
        return _LIBRARIES["numba"]
    return _LIBRARIES.get(type(array).__module__.partition(".")[0], _STANDARD)


def _interface(value: Any, name: str) -> dict[str, Any]:
    """``__cuda_array_interface__``, made from DLPack where there is none; TypeError for what can't be read."""
    if getattr(value, "requires_grad", False):
        raise TypeError(f"{name} requires grad, but gradients are not recorded here; pass {name}.detach()")
    try:
        if hasattr(type(value), "__cuda_array_interface__"):
            return dict(value.__cuda_array_interface__)
        from cuda.core.utils import StridedMemoryView

        # Whoever speaks DLPack alone lets the stream that is named wait for its own work; such arrays are computed on that one.
        on_cuda = int(value.__dlpack_device__()[0]) in CUDA_MEMORY
        view = StridedMemoryView.from_dlpack(value, stream_ptr=LEGACY_STREAM if on_cuda else -1)
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
        array: Any = conv.checked_array(value, name, allowed=(*CUDA_DTYPES, *ARRAY_DTYPES))
    else:
        array = _view(value, name)
    if array.dtype.newbyteorder("=").name not in CUDA_DTYPES:
        raise TypeError(f"{name} has dtype {array.dtype}, but on CUDA must be one of {', '.join(CUDA_DTYPES)}")
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
    def of(cls, x: Any, *others: Any, planned: int | None = None) -> Place:
        """That of ``x``, or the ``planned`` device; ValueError where another array, or x itself, is on another device."""
        device = _device_of(x) if is_device_array(x) else planned
        device = _current_device() if device is None else device
        if planned not in (None, device):
            raise ValueError(f"x is on device {device}, but the plan is on device {planned}")
        for name, other in zip(("weight", "bias", "out"), others):
            if is_device_array(other) and _device_of(other) != device:
                raise ValueError(f"{name} is on device {_device_of(other)}, but x is on device {device}")
        if not is_device_array(x):
            return cls(None, device, 0)
        library = _library(x)
        with jit_cuda.numba_cuda().gpus[device]:
            handle = library.stream(x)
            stream = jit_cuda.stream_at(handle)
            for name, other in zip(("weight", "bias", "out"), others):
                if is_device_array(other) and (named := _named_stream(other, name)) not in (0, handle or LEGACY_STREAM):
                    jit_cuda.wait_for(stream, named)
        return cls(library, device, stream)

    def active(self) -> AbstractContextManager[Any]:
        """The device's context."""
        context: AbstractContextManager[Any] = jit_cuda.numba_cuda().gpus[self.device]
        return context

    def upload(self, array: Any) -> Any:
        """The array on the device; None stays None."""
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
            variant.one_shot(problem, place.upload(weight), place.upload(bias), x, out, place.stream)

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
                if library.waits:
                    jit_cuda.numba_cuda().synchronize()
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
        if _is_read_only(out):
            raise ValueError("out is read-only, but must be writable")
        if target.dtype != np.dtype(self.problem.dtype):
            raise TypeError(f"out has dtype {target.dtype}, but must have x's dtype, {self.problem.dtype}")
        if target.shape != self.out_shape:
            raise ValueError(f"out has shape {target.shape}, but the result has {self.out_shape}")
        if not target.is_c_contiguous():
            raise ValueError(f"out is not C-contiguous, but must be: its strides are {target.strides}")
        if _overlap(target, x):
            raise ValueError("out overlaps an input's memory, but must be memory of its own")
        return target


def _is_read_only(value: Any) -> bool:
    return not getattr(value, "__cuda_ndarray__", False) and bool(_interface(value, "out")["data"][1])


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


def predictions(problem: Problem) -> dict[str, float]:
    """Predicted seconds of every method that serves a problem on the current device; fastest first."""
    entries = [_variant(name) for name in registry.methods("cuda")]
    seconds = {entry.name: entry.estimate(problem) for entry in entries if entry.supports(problem) is True}
    return dict(sorted(seconds.items(), key=lambda item: item[1]))


def candidates(predicted: dict[str, float]) -> dict[str, float]:
    """Those of the predictions that "auto" may take: none that spreads NaN, or gives other sums in another run."""
    refused = {name for name in predicted if _variant(name).spreads_nonfinite_weights or _variant(name).depends_on_run}
    return {name: seconds for name, seconds in predicted.items() if name not in refused}


def choose(problem: Problem) -> str:
    """The method that "auto" takes: the one remembered as measured fastest on this GPU, else the one predicted fastest."""
    allowed = candidates(predictions(problem))
    return remembered(problem, allowed) or next(iter(allowed))


def remembered(problem: Problem, allowed: dict[str, float]) -> str:
    """The allowed method that was measured fastest on a GPU like the current one; "" where none was."""
    known = wisdom.lookup(problem, gpu_key())
    timed = {name: seconds for name, seconds in known.seconds.items() if name in allowed} if known else {}
    return min(timed, key=lambda name: timed[name], default="")


def gpu_key() -> str:
    """What a choice on CUDA depends on beside the problem."""
    return f"{jit_cuda.device_name()}, sources {jit.source_fingerprint()}, {jit_cuda.compiler()}"


def _select(problem: Problem, method: str, allowed: dict[str, float], stream: Any) -> tuple[str, str]:
    """The method to take and why."""
    if method not in (conv.AUTO, MEASURE):
        return method, "named by the caller"
    if known := remembered(problem, allowed):
        return known, "remembered"
    if method == MEASURE and problem.batch:
        times = _measured(problem, allowed, stream)
        if times:
            return wisdom.remember(problem, times, gpu_key()).method, "measured fastest"
    return next(iter(allowed)), "predicted fastest"


def _measured(problem: Problem, allowed: dict[str, float], stream: Any) -> dict[str, float]:
    """Seconds per call of each method that may be the fastest, on random data; one that the GPU has no memory for has none."""
    rng = np.random.default_rng(0)
    shapes = problem.x_shape, problem.weight_shape, (problem.c_out,)
    x, weight, bias = (
        jit_cuda.numba_cuda().to_device(rng.standard_normal(shape, "float32").astype(problem.dtype), stream=stream)
        for shape in shapes
    )
    out = jit_cuda.numba_cuda().device_array(problem.out_shape, problem.dtype, stream=stream)
    limit = WITHIN * min(allowed.values())
    found = {}
    for name, seconds in allowed.items():
        if seconds > limit and not math.isinf(seconds):
            continue
        try:
            variant = _variant(name)
            run = partial(variant.run, variant.prepare(problem, weight, bias, stream), x, out, stream)
            found[name] = _seconds(run, stream)
        except Exception as error:
            if not isinstance(_explained(error, variant, problem), MemoryError):
                raise
    return found


def _seconds(run: Callable[[], None], stream: Any) -> float:
    """Median seconds per call between two events of a stream, after a warm-up; several calls where one is short."""
    cuda = jit_cuda.numba_cuda()
    start, end = cuda.event(), cuda.event()

    def sample(calls: int) -> float:
        start.record(stream)
        for _ in range(calls):
            run()
        end.record(stream)
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3 / calls

    run()  # compiled and loaded
    calls = max(1, int(SAMPLE_SECONDS / max(sample(2), 1e-7)))
    return statistics.median(sample(calls) for _ in range(SAMPLES))


class CudaPlan(Plan):
    """A plan on CUDA: packed weights stay on the device; call it with arrays of any kind that ``conv_transpose2d`` takes."""

    def __init__(
        self,
        call: _Call,
        weight: Any,
        bias: Any,
        reason: str,
        batched: bool,
        predicted: dict[str, float],
        measured: dict[str, float],
    ):
        self.problem, self.method, self.reason = call.problem, call.variant.name, reason
        self.threads, self.predicted, self.measured = 0, predicted, measured
        answers = {name: registry.get(name, "cuda").supports(call.problem) for name in registry.methods("cuda")}
        self.refused = {name: str(answer) for name, answer in answers.items() if answer is not True}
        self._cuda_call, self._batched, place = call, batched, call.place
        try:
            self._state = call.variant.prepare(call.problem, place.upload(weight), place.upload(bias), place.stream)
            jit_cuda.numba_cuda().synchronize()  # calls may come on other streams
            return
        except Exception as error:
            explained = _explained(error, call.variant, call.problem)
            if explained is None:
                raise
        raise explained

    def __call__(self, x: Any, out: Any = None) -> Any:
        """The transposed convolution of ``x`` with the plan's weights, on x's stream; see ``conv_transpose2d``.

        Raises:
            ValueError: a shape that does not fit, or an array on another device than the plan's.
            TypeError: another dtype.
        """
        made = self._cuda_call
        place = Place.of(x, None, None, out, planned=made.place.device)
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
            "method": f"{self.method} ({self.reason})",
            "device": f"CUDA device {call.place.device}, {jit_cuda.device_name()}",
            "arrays": f"{call.x_shape} -> {call.out_shape}, {problem.dtype}",
            "layout": call.variant.describe(problem),
            "work": f"{units.flops(problem.flops)}, at least {units.size(problem.min_bytes)} moved",
            "memory": f"{units.size(prepared)} prepared, {units.size(workspace)} workspace",
            "time": self._times(self.method),
        }
        return self._text(lines)


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
        conv.check_method(problem, method, conv.AUTO, MEASURE, device="cuda")
        predicted = predictions(problem)
        name, reason = _select(problem, method, candidates(predicted), place.stream)
        known = wisdom.lookup(problem, gpu_key())
        call = _Call(problem, _variant(name), batched, place)
        return CudaPlan(call, weight, bias, reason, batched, predicted, known.seconds if known else {})
