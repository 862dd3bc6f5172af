"""How CUDA kernels are compiled and launched: where they are first used. Nothing of CUDA is imported before.

A kernel is a plain function that stands beside its CPU twin. Its free names get their values here: ``cuda``, Numba's module;
``REAL``, the type that is summed in, ``OUT``, that of what is written, ``I32``; the constants of a tile; and the instructions
of ``tconv_bench.ptx``, as Python in the simulator (``NUMBA_ENABLE_CUDASIM=1``) and as machine code otherwise. So one function
serves every dtype and tile, and a kernel can be compiled for a processor that is not there.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from importlib.metadata import version
from threading import Lock
from types import FunctionType
from typing import Any

import numba
import numpy as np
from numba import types

from tconv_bench.problem import Geometry
from tconv_bench.ptx import Instruction

FLAT_THREADS = 256
FLAT_BLOCKS = 65536  # of a kernel that strides over its elements
SIMULATED_THREADS, SIMULATED_BLOCKS = 3, 2  # 2 ms each: enough to see threads that get in each other's way


class _Later:
    """A name that a kernel's compilation gives its value."""

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        raise RuntimeError(f"{self._name} has a value in compiled kernels alone")


cuda: Any = _Later("cuda")
REAL: Any = _Later("REAL")
OUT: Any = _Later("OUT")
I32: Any = _Later("I32")


def simulated() -> bool:
    """Whether kernels run in Numba's simulator."""
    return bool(numba.config.ENABLE_CUDASIM)


def numba_cuda() -> Any:
    """The module ``numba.cuda``: of the numba-cuda package where that is installed."""
    return importlib.import_module("numba.cuda")


def summed_in(dtype: str) -> str:
    """The dtype that sums of a dtype's products are made in: float16 is summed in float32."""
    return "float32" if dtype == "float16" else dtype


def processors() -> int:
    """Multiprocessors of the current device; those of an H100 where there is none."""
    if simulated() or not numba_cuda().is_available():
        return 132
    return int(numba_cuda().get_current_device().MULTIPROCESSOR_COUNT)


def stream_at(handle: int) -> Any:
    """The stream that another library made; 0, the default one, for 0 and in the simulator, which has no other."""
    return numba_cuda().external_stream(handle) if handle and not simulated() else 0


def wait_for(stream: Any, handle: int) -> None:
    """Let a stream wait for what was put on another library's stream so far."""
    if not simulated():
        event = numba_cuda().event(timing=False)
        event.record(stream_at(handle))
        event.wait(stream)


def device_name() -> str:
    """The current device: its name, compute capability and multiprocessors."""
    if simulated():
        return "Numba's simulator"
    device = numba_cuda().get_current_device()
    name = device.name.decode() if isinstance(device.name, bytes) else str(device.name)
    return f"{name}, compute capability {'.'.join(map(str, device.compute_capability))}, {processors()} multiprocessors"


@cache
def compiler() -> str:
    """What compiles the kernels: versions of numba-cuda and of CUDA."""
    if simulated():
        return f"numba {numba.__version__}"
    major, minor = numba_cuda().runtime.get_version()
    return f"numba-cuda {version('numba-cuda')}, CUDA {major}.{minor}"


@dataclass(frozen=True)
class Kernel:
    """A kernel and what it is compiled with.

    Attributes:
        function: its Python source.
        arguments: its parameters' types in words: "T[]" an array of the element type, "R[]" of the type of sums, "O[]" of
            what is written, "i32[]" of 32-bit integers, "f64[]" of doubles, "i64" an integer, "geometry" a ``Geometry``.
        threads: of a block, at most.
        constants: names and values that the function reads and that are known when it is compiled.
        named: how many of them tell it from its function's other kernels.
        wide: whether it writes sums as they are, where the elements are narrower.
        resident: blocks that are to fit on a processor at once; 0 where the compiler may take all registers.
        unbound: dtypes for which it may all the same.
    """

    function: Callable[..., None]
    arguments: str
    threads: int = FLAT_THREADS
    constants: tuple[tuple[str, int], ...] = ()
    named: int = 0
    wide: bool = False
    resident: int = 0
    unbound: tuple[str, ...] = ("float64",)

    @property
    def name(self) -> str:
        """For tables: the function's name and its constants."""
        sizes = "x".join(str(value) for _, value in self.constants[: self.named])
        return self.function.__name__.strip("_") + (f" {sizes}" if sizes else "") + (" wide" if self.wide else "")

    def launch(self, dtype: str, blocks: int, stream: Any, *args: Any) -> None:
        """Run ``blocks`` blocks of ``threads`` on a stream (0: the default one)."""
        _on_grid(_compiled(self, dtype), blocks, self.threads, stream)(*args)

    def stride_over(self, dtype: str, elements: int, stream: Any, *args: Any) -> None:
        """Run a kernel whose threads stride over so many elements."""
        blocks = -(-elements // self.threads)
        if simulated():
            blocks, threads = min(blocks, SIMULATED_BLOCKS), SIMULATED_THREADS
        else:
            blocks, threads = min(blocks, FLAT_BLOCKS), self.threads
        _on_grid(_compiled(self, dtype), blocks, threads, stream)(*args)

    def types(self, dtype: str) -> tuple[Any, ...]:
        """The Numba types of the arguments."""
        element, real = (numba.from_dtype(np.dtype(name)) for name in (dtype, summed_in(dtype)))
        known = {
            "T[]": types.Array(element, 1, "C"),
            "R[]": types.Array(real, 1, "C"),
            "O[]": types.Array(real if self.wide else element, 1, "C"),
            "i32[]": types.Array(types.int32, 1, "C"),
            "f64[]": types.Array(types.float64, 1, "C"),
            "i64": types.int64,
            "geometry": types.NamedUniTuple(types.int32, len(Geometry._fields), Geometry),
        }
        return tuple(known[word] for word in self.arguments.split())

    def launch_bounds(self, dtype: str) -> tuple[int, int] | None:
        """Threads of a block and blocks per processor, for the compiler; None where it is free.

        Only where asked for: with bounds of its own ptxas spilled 20 bytes of gather.
        """
        return (self.threads, self.resident) if self.resident and dtype not in self.unbound else None

    def bound(self, dtype: str) -> FunctionType:
        """The function with the values of its free names."""
        element, real = (numba.from_dtype(np.dtype(name)) for name in (dtype, summed_in(dtype)))
        values = {
            "cuda": numba_cuda(),
            "REAL": real,
            "OUT": real if self.wide else element,
            "I32": types.int32,
            **dict(self.constants),
        }
        own = self.function.__globals__
        names = {"__name__": self.function.__module__, "__builtins__": own["__builtins__"]}
        for name in _names(self.function.__code__):
            if name in values:
                names[name] = values[name]
            elif name in own:
                value = own[name]
                if isinstance(value, Instruction):
                    value = value.definition if simulated() else value.compiled
                names[name] = value
        return FunctionType(self.function.__code__, names, self.function.__name__)


def _names(code: Any) -> set[str]:
    nested = (part for part in code.co_consts if hasattr(part, "co_names"))
    return set(code.co_names).union(*map(_names, nested))


def _on_grid(compiled: Any, blocks: int, threads: int, stream: Any) -> Any:
    """A compiled kernel with its launch configuration: small problems have few blocks, which Numba would warn users about."""
    if simulated():
        return compiled[blocks, threads, stream]
    settings = importlib.import_module("numba.cuda.dispatcher").config
    with _QUIET:
        before, settings.CUDA_LOW_OCCUPANCY_WARNINGS = settings.CUDA_LOW_OCCUPANCY_WARNINGS, 0
        try:
            return compiled[blocks, threads, stream]
        finally:
            settings.CUDA_LOW_OCCUPANCY_WARNINGS = before


_QUIET = Lock()


def _compiled(kernel: Kernel, dtype: str) -> Any:
    # What is written differs where sums are wider than the elements alone.
    return _compiled_once(kernel if dtype == "float16" else replace(kernel, wide=False), dtype)


@cache
def _compiled_once(kernel: Kernel, dtype: str) -> Any:
    jit = numba_cuda().jit
    if simulated():
        return jit(kernel.bound(dtype))
    compiled = jit(types.void(*kernel.types(dtype)), launch_bounds=kernel.launch_bounds(dtype))(kernel.bound(dtype))
    for definition in compiled.overloads.values():
        definition.bind()  # linked and loaded now: Numba would do it, seconds long, in the first launch
    return compiled


def compilations() -> int:
    """Kernels that this process has compiled so far."""
    return _compiled_once.cache_info().misses


@dataclass(frozen=True)
class Resources:
    """What a thread of a kernel takes on a processor, and what its block shares, as ptxas counts them."""

    registers: int
    stack_bytes: int
    spilled_bytes: int
    shared_bytes: int


def resources(kernel: Kernel, dtype: str, capability: tuple[int, int]) -> Resources:
    """Compile and link a kernel for a processor, as it is when it is launched there; neither a GPU nor a driver is needed.

    Raises:
        ImportError: numba-cuda or a part of the CUDA toolkit is not installed.
    """
    log = _linked(kernel, dtype, capability)[1]
    found = [
        re.search(pattern, log)
        for pattern in (r"Used (\d+) registers", r"(\d+) bytes stack", r"(\d+) bytes spill stores", r"(\d+) bytes smem")
    ]
    if any(match is None for match in found[:3]):
        raise RuntimeError(f"the linker's log of {kernel.name} does not say what it takes: {log}")
    return Resources(*(int(match[1]) if match else 0 for match in found))


def machine_code(kernel: Kernel, dtype: str, capability: tuple[int, int]) -> bytes:
    """A kernel's code for a processor, linked as it is when it is launched there; for a disassembler."""
    return _linked(kernel, dtype, capability)[0]


@lru_cache(64)
def _linked(kernel: Kernel, dtype: str, capability: tuple[int, int]) -> tuple[bytes, str]:
    """A kernel's code, and the linker's log."""
    from cuda.core import Linker, LinkerOptions, ObjectCode

    major, minor = capability
    options = LinkerOptions(arch=f"sm_{major}{minor}", link_time_optimization=True, verbose=True)
    linker = Linker(ObjectCode.from_ltoir(_code(kernel, dtype, capability, "ltoir")), options=options)
    code = linker.link("cubin").code
    return code, linker.get_info_log()


def ptx(kernel: Kernel, dtype: str, capability: tuple[int, int]) -> str:
    """A kernel's PTX for a processor."""
    return str(_code(kernel, dtype, capability, "ptx"))


def _code(kernel: Kernel, dtype: str, capability: tuple[int, int], output: str) -> Any:
    code, _ = numba_cuda().compile(
        kernel.bound(dtype),
        types.void(*kernel.types(dtype)),
        device=False,
        abi="numba",
        cc=capability,
        output=output,
        launch_bounds=kernel.launch_bounds(dtype),
    )
    return code


def sizes(geometry: Geometry) -> Geometry:
    """A Geometry as kernels take it: of 32-bit integers."""
    return Geometry(*map(np.int32, geometry))
