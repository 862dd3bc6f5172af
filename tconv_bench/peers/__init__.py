"""Other engines behind the contract of the variants, to compare with: each optional, and imported only when asked to compute.

A peer is a class with the methods of ``Peer``, in a file of this folder::

    @peer("engine", title="Engine", source="...", color="#332288", marker="P", packages=("engine",))
    class Engine(Peer):
        def supports(self, problem): ...
        def prepare(self, problem, weight, bias): ...
        def bind(self, state, x, out): ...

``get(name).available()`` tells without importing anything whether the engine is installed. To time it::

    engine.set_threads(2)
    call = engine.bind(engine.prepare(problem, weight, bias), x, out)
    with engine.session():
        value = call()
    y = engine.result(value, out)
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import pkgutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from tconv_bench import machine
from tconv_bench.problem import Problem, as_int
from tconv_bench.registry import DEVICES, Variant

Mode = Literal["one-shot", "planned"]
Layout = Literal["channels-first", "channels-last"]
Output = Literal["given", "fresh"]


class Peer(Variant):
    """One engine. ``prepared_bytes`` and ``workspace_bytes`` have no answer: what it keeps and allocates is not known."""

    packages: tuple[str, ...]
    #: In "one-shot" each call gets the weights as the user has them, in "planned" they were prepared before.
    modes: tuple[Mode, ...]
    #: The memory order that it takes and gives.
    layout: Layout
    #: Whether planned calls write into the caller's array or return a new one.
    output: Output
    #: What a user types to get the packages.
    install = "pip install 'tconv-bench[peers]'"
    _threads: int | None = None

    @property
    def threads(self) -> int:
        """How many threads it computes with, those of ``set_threads``; at first every core that this process may use."""
        return self._threads or machine.usable_cores()

    def available(self) -> Literal[True] | str:
        """True, or a sentence that says what to install; nothing is imported to find out (by a CUDA peer: its package)."""
        missing = [name for name in self.packages if importlib.util.find_spec(name) is None]
        if not missing:
            return True
        return f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed: {self.install}"

    def versions(self) -> dict[str, str]:
        """Version of each installed package."""
        return {name: version for name in self.packages if (version := _version(name))}

    def set_threads(self, threads: int) -> None:
        """Compute with so many threads; call it before ``prepare``. Imports the engine: no preparation is to pay for that."""
        self._threads = as_int(threads, "threads", 1)
        for name in self.packages:
            importlib.import_module(name)

    def session(self) -> AbstractContextManager[Any]:
        """What its users enter once around many calls. A call outside is as right, but may enter and leave it by itself."""
        return nullcontext()

    def bind(self, state: Any, x: NDArray[Any], out: NDArray[Any]) -> Callable[[], Any]:
        """The engine's call on ``x`` and nothing else: tensors over both arrays, in the engine's layout, are made here."""
        raise NotImplementedError

    def one_shot(self, problem: Problem, x: NDArray[Any], weight: NDArray[Any], bias: NDArray[Any] | None) -> Callable[[], Any]:
        """The engine's call on input and weights as the user has them; it returns a new output.

        NotImplementedError where the engine takes weights only when it is prepared.
        """
        raise NotImplementedError(f"{self.name} takes weights only when it is prepared; use its planned mode")

    def result(self, value: Any, out: NDArray[Any] | None) -> NDArray[Any]:
        """The ``value`` that a call returned, or the ``out`` that it wrote, as a C-contiguous channels-first array."""
        assert out is not None
        return out

    def run(self, state: Any, x: NDArray[Any], out: NDArray[Any]) -> None:
        """Write every element of ``out``, whatever the engine's calls write."""
        result = self.result(self.bind(state, x, out)(), out)
        if result is not out:
            np.copyto(out, result)


_PEERS: dict[str, Peer] = {}


def peer(
    name: str,
    *,
    title: str,
    source: str,
    color: str,
    marker: str,
    packages: tuple[str, ...],
    device: str = "cpu",
    modes: tuple[Mode, ...] = ("planned",),
    layout: Layout = "channels-first",
    output: Output = "given",
) -> Callable[[type[Peer]], type[Peer]]:
    """Class decorator that registers a peer; a second claim of a name is a ValueError, whatever the device.

    Args:
        name: what users call it.
        title: three or four words for tables and legends.
        source: where its implementation is to be read about.
        color, marker: in every figure; no variant's and no other peer's.
        packages: import names of what must be installed.
        device: "cpu" or "cuda".
        modes, layout, output: see ``Peer``.
    """

    def register(cls: type[Peer]) -> type[Peer]:
        if device not in DEVICES:
            raise ValueError(f"device is {device!r}, valid devices are {', '.join(DEVICES)}")
        if name in _PEERS:
            raise ValueError(f"peer {name!r} is already registered by {type(_PEERS[name]).__name__}")
        entry = cls()
        entry.name, entry.device, entry.title, entry.source = name, device, title, source
        entry.color, entry.marker, entry.packages = color, marker, packages
        entry.modes, entry.layout, entry.output = modes, layout, output
        _PEERS[name] = entry
        return cls

    return register


@cache
def _load() -> None:
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"{__name__}.{module.name}")


def names(device: str = "cpu") -> list[str]:
    """Names of the peers of a device, installed or not, sorted; ValueError for another ``device`` than "cpu" and "cuda".

    >>> "torch" in names()
    True
    """
    if device not in DEVICES:
        raise ValueError(f"device is {device!r}, valid devices are {', '.join(DEVICES)}")
    _load()
    return sorted(name for name, entry in _PEERS.items() if entry.device == device)


def get(name: str) -> Peer:
    """The peer of a name, of any device; ValueError lists the valid names."""
    _load()
    if name not in _PEERS:
        valid = "; ".join(f"on {device} {', '.join(names(device))}" for device in DEVICES)
        raise ValueError(f"peer is {name!r}, valid peers are {valid}")
    return _PEERS[name]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        # A package may come under another name: onnxruntime-gpu brings onnxruntime.
        found = importlib.metadata.packages_distributions().get(package, [])
        return importlib.metadata.version(found[0]) if found else ""


def holding(call: partial[Any], *arrays: NDArray[Any]) -> partial[Any]:
    """``call``, which keeps the arrays alive whose memory the engine was given."""
    call.arrays = arrays  # type: ignore[attr-defined]
    return call


def engine(module: str) -> Any:
    """A module of an engine, imported now; untyped, because type checkers run where no engine is installed."""
    return cast(Any, importlib.import_module(module))
