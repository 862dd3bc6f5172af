"""The GPU: memory, launches and events, through Numba and PyTorch; thin, for it first runs on a machine rented by the minute.

Everything is on the default stream, Numba's and PyTorch's alike (CUDA's legacy one), so one pair of events times either. A
sample is one call after a kernel has written over all of the L2 cache. That kernel takes long enough for the host to queue the
call meanwhile, so that what is timed is the device's work, not Python's; where it was not, the sample says so.
"""

from __future__ import annotations

import gc
import importlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from math import prod
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tconv_bench import gpu, jit_cuda, machine, peers, registry
from tconv_bench.gpu_check import kernels
from tconv_bench.gpu_check.lab import Entrant, Sample
from tconv_bench.jit_cuda import Kernel
from tconv_bench.peers.cudnn import Cudnn
from tconv_bench.problem import Problem
from tconv_bench.variants._cuda import CudaVariant

FLUSH_SECONDS = 0.0005  # queuing a call of several launches from Python takes a tenth of a millisecond
MOST_PASSES = 64
FMA_BLOCKS = 16  # of 256 threads, per multiprocessor
QUERY = ("driver_version", "clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit", "temperature.gpu", "ecc.mode.current")


class Gpu:
    """The current CUDA device. Arrays are Numba's, of one axis."""

    def __init__(self) -> None:
        self.cuda = jit_cuda.numba_cuda()
        self.peak_of_numba = _watch_allocations(self.cuda)  # first: asking for the device makes its context
        gpu.require()
        self.context = self.cuda.current_context()
        self.device = self.context.device
        self.start, self.end = self.cuda.event(), self.cuda.event()
        self.passes = 0
        self.buffer: Any = None

    # what it is

    def facts(self) -> dict[str, Any]:
        """The machine's facts and the GPU's."""
        name = self.device.name
        found = {
            "gpu": name.decode() if isinstance(name, bytes) else str(name),
            "capability": ".".join(map(str, self.device.compute_capability)),
            "processors": int(self.device.MULTIPROCESSOR_COUNT),
            "l2_bytes": int(self.device.L2_CACHE_SIZE),
            "gpu_bytes": int(self.context.get_memory_info().total),
            **_smi(),
        }
        return {**machine.facts(), **found}

    def versions(self) -> dict[str, str]:
        """Of the package, of Numba's CUDA and of the driver; PyTorch's and cuDNN's where they take part."""
        found = dict(machine.versions())
        with suppress(importlib.metadata.PackageNotFoundError):
            found["numba-cuda"] = importlib.metadata.version("numba-cuda")
        with suppress(Exception):
            found["cuda driver"] = ".".join(map(str, importlib.import_module("numba.cuda.cudadrv.driver").get_version()))
        entry = peers.get("cudnn")
        with suppress(Exception):
            found |= entry.versions() if entry.available() is True else {}
        return found

    def cudnn(self) -> str:
        """Why cuDNN can't take part; "" where it can."""
        answer = peers.get("cudnn").available()
        if answer is not True:
            return str(answer)
        importlib.import_module("torch").cuda.init()  # before it is handed memory that Numba allocated
        return ""

    def rehearsed(self, problem: Problem) -> Problem:
        """What is computed in a problem's place: itself."""
        return problem

    # memory

    def free_bytes(self) -> int:
        """Bytes that may still be allocated."""
        return int(self.context.get_memory_info().free)

    def release(self) -> None:
        """Give back what nobody refers to any more, on both sides."""
        gc.collect()
        self._free()
        torch = _torch()
        if torch is not None:
            torch.cuda.empty_cache()

    def _free(self) -> None:
        """Free now what Numba frees later: cuMemFree would wait for the device in the midst of a sample."""
        self.context.memory_manager.deallocations.clear()

    def synchronize(self) -> None:
        """Wait for the device; raises what went wrong in a kernel."""
        self.cuda.synchronize()

    def empty(self, count: int, dtype: str) -> Any:
        """Device memory."""
        return self.cuda.device_array(max(1, count), dtype)

    def upload(self, array: NDArray[Any]) -> Any:
        """A copy on the device, with one axis."""
        return self.cuda.to_device(np.ascontiguousarray(array).reshape(-1))

    def download(self, array: Any) -> NDArray[Any]:
        """A copy on the host."""
        copy: NDArray[Any] = array.copy_to_host()
        return copy

    # kernels

    def compile(self, wanted: Iterable[Kernel], dtype: str) -> None:
        """Compile kernels that are not yet."""
        for kernel in wanted:
            jit_cuda._compiled(kernel, dtype)

    def kernels_of(self, method: str) -> Sequence[Kernel]:
        """What a method launches."""
        return _variant(method).kernels

    def noise(self, count: int, seed: int, dtype: str) -> Any:
        """``kernels.noise`` on the device."""
        values = self.empty(count, dtype)
        kernels.NOISE.stride_over(dtype, count, 0, seed, values)
        return values

    def poison(self, values: Any, dtype: str) -> None:
        """NaN everywhere."""
        kernels.FILL.stride_over(dtype, values.size, 0, self.upload(np.array([np.nan], dtype)), values)

    def fold(
        self, values: Any, dtype: str, shape: tuple[int, int, int], weights: NDArray[Any], *, squares: bool = False
    ) -> Any:
        """Doubles (a, p): the weighted sum over b of values of ``shape`` (a, b, p), or of their squares."""
        a, b, p = shape
        sums = self.empty(a * p, "float64")
        kernels.FOLD.stride_over(dtype, sums.size, 0, values, self.upload(weights), sums, b, p, int(squares))
        return sums

    # entrants

    def own(self, method: str, problem: Problem, x: Any, weight: Any, bias: Any, out: Any) -> Entrant:
        """A variant with its weights prepared, which writes ``out``."""
        variant = _variant(method)
        shaped = [array.reshape(shape) for array, shape in zip((x, weight), (problem.x_shape, problem.weight_shape))]
        target = out[: prod(problem.out_shape)].reshape(problem.out_shape)
        variant.forget()
        self.synchronize()
        start = perf_counter()
        state = variant.prepare(problem, shaped[1], bias, 0)
        self.synchronize()
        seconds = perf_counter() - start
        return Entrant(
            lambda: variant.run(state, shaped[0], target, 0),
            lambda value: out,
            {"prepare_seconds": seconds, "prepared_bytes": variant.prepared_bytes(problem), "output": "given"},
        )

    def needs(self, method: str, problem: Problem) -> int:
        """Bytes that a variant takes beside input and output."""
        variant = _variant(method)
        return int(variant.prepared_bytes(problem) + variant.workspace_bytes(problem))

    def peer(self, name: str, problem: Problem, x: Any, weight: Any, bias: Any) -> Entrant:
        """PyTorch's call on the same memory; in the other memory order on a copy of it."""
        entry = peers.get(name)
        assert isinstance(entry, Cudnn)
        start = perf_counter()
        x, weight = x.reshape(problem.x_shape), weight.reshape(problem.weight_shape)
        call = entry.queued(problem, x, weight, bias)
        call()  # cuDNN picks its algorithm
        self.synchronize()
        facts = {"prepare_seconds": perf_counter() - start, "output": "fresh", "layout": entry.layout}

        def result(value: Any) -> Any:
            return gpu._view(value.contiguous().reshape(-1), "the result")

        return Entrant(call, result, facts)

    # time and memory of a call

    def time(self, call: Callable[[], Any]) -> tuple[float, Any]:
        """Seconds on the device of what a call queues, and what it returned."""
        self.start.record()
        value = call()
        self.end.record()
        self.end.synchronize()
        return self.start.elapsed_time(self.end) / 1e3, value

    def sample(self, call: Callable[[], Any]) -> Sample:
        """One call with an emptied L2 cache."""
        self._free()
        self._flush()
        with self.cuda.defer_cleanup():
            self.start.record()
            call()
            self.end.record()
            late = self.start.query()  # the flush is over, so the device waited for the host
            self.end.synchronize()
        if late and self.passes < MOST_PASSES:
            self.passes *= 2
        return Sample(self.start.elapsed_time(self.end) / 1e3, bool(late))

    def begin(self) -> None:
        """Before the samples of a group: flushing takes its usual time again."""
        self.passes = 0

    def _flush(self) -> None:
        if self.buffer is None:
            size = max(2**20, min(max(2 * int(self.device.L2_CACHE_SIZE), 2**26), self.free_bytes() // 8))
            self.buffer, self.value = self.empty(size // 16 * 4, "float32"), self.upload(np.ones(1, np.float32))
        if not self.passes:
            self._write_over()
            seconds, _ = self.time(self._write_over)
            self.passes = max(1, round(FLUSH_SECONDS / max(seconds, 1e-6)))
        for _ in range(self.passes):
            self._write_over()

    def _write_over(self) -> None:
        kernels.SET.stride_over("float32", self.buffer.size // 4, 0, self.value, self.buffer, self.buffer.size // 4)

    def peak(self, call: Callable[[], Any], problem: Problem, *, peer: bool) -> tuple[int | None, str]:
        """(bytes that a call allocates at its peak beyond its output, who counted them)."""
        if peer:
            torch = importlib.import_module("torch")
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            value = call()
            torch.cuda.synchronize()
            beyond = torch.cuda.max_memory_allocated() - before - value.numel() * value.element_size()
            return max(0, int(beyond)), "PyTorch's allocator"
        most = self.peak_of_numba(call) if self.peak_of_numba is not None else None
        return most, "" if most is None else "Numba's allocations"

    # its limits

    def fma_peak(self, dtype: str) -> float:
        """Multiply-adds per second in registers, counted as two operations each: FLOP/s."""
        blocks = FMA_BLOCKS * int(self.device.MULTIPROCESSOR_COUNT)
        sums = self.empty(blocks * kernels.FMA.threads, dtype)
        values = self.upload(np.linspace(0.5, 1.0, 10).astype(dtype))
        steps = 50
        for _ in range(8):
            seconds = self._best(partial(kernels.FMA.launch, dtype, blocks, 0, values, steps, sums), 2)
            if seconds > 0.004:
                break
            steps = min(10**6, round(steps * 0.008 / max(seconds, 1e-5)))
        seconds = self._best(partial(kernels.FMA.launch, dtype, blocks, 0, values, steps, sums), 10)
        return 2.0 * kernels.PRODUCTS * steps * int(sums.size) / seconds

    def bandwidth(self, kind: str, working_set: int) -> float:
        """Bytes moved per second by "copy" (read and written) or "fill" within so many bytes."""
        quads = working_set // 16 // (2 if kind == "copy" else 1)
        target = self.empty(4 * quads, "float32")
        if kind == "copy":
            source = self.noise(4 * quads, 1, "float32")
            call = partial(kernels.COPY.stride_over, "float32", quads, 0, source, target, quads)
        else:
            value = self.upload(np.ones(1, np.float32))
            call = partial(kernels.SET.stride_over, "float32", quads, 0, value, target, quads)
        calls = max(1, min(50, round(2e9 / working_set)))
        seconds = self._best(lambda: [call() for _ in range(calls)], 8) / calls
        return working_set / seconds

    def _best(self, call: Callable[[], Any], samples: int) -> float:
        self.time(call)
        return min(self.time(call)[0] for _ in range(samples))


def _variant(method: str) -> CudaVariant:
    variant = registry.get(method, "cuda")
    assert isinstance(variant, CudaVariant)
    return variant


def _torch() -> Any:
    return sys.modules.get("torch")


def _smi() -> dict[str, str]:
    """Driver, clocks in MHz and the like, as nvidia-smi tells them of the first GPU; nothing where it can't."""
    if shutil.which("nvidia-smi") is None:
        return {}
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        values = [text.strip() for text in done.stdout.splitlines()[0].split(",")]
    except (OSError, subprocess.SubprocessError, IndexError):
        return {}
    return {name.replace(".", "_"): text for name, text in zip(QUERY, values)}


def _watch_allocations(cuda: Any) -> Callable[[Callable[[], Any]], int | None] | None:
    """A function that gives the bytes a call allocates at its peak, through a memory manager of ours; None where that fails.

    To be called before anything else is done on the device: a context keeps the manager that it was made with.
    """
    try:
        from numba.cuda.cudadrv.driver import NumbaCUDAMemoryManager

        class Watching(NumbaCUDAMemoryManager):  # type: ignore[misc]
            """Numba's own, which notes how much is in use after every allocation."""

            most = 0

            def memalloc(self, size: int) -> Any:
                memory = super().memalloc(size)
                Watching.most = max(Watching.most, self.in_use())
                return memory

            def in_use(self) -> int:
                return sum(int(memory.size) for memory in list(self.allocations.values()))

        cuda.set_memory_manager(Watching)
    except Exception:
        return None

    def peak(call: Callable[[], Any]) -> int | None:
        manager = cuda.current_context().memory_manager
        if not isinstance(manager, Watching):
            return None
        before = Watching.most = manager.in_use()
        call()
        cuda.synchronize()
        return int(Watching.most - before)

    return peak
