"""The register of variants: each file of ``variants/`` claims one name; tests, benchmarks, CLI and legends read it here.

A variant is a class with the methods of ``Variant`` below it::

    @variant("direct", title="gather", source="...", color="#0072B2", marker="o")
    class Direct(Variant):
        def prepare(self, problem, weight, bias): ...
        def run(self, state, x, out): ...
        def estimate(self, problem): ...
        def prepared_bytes(self, problem): ...
        def workspace_bytes(self, problem): ...

Its twin on CUDA stands beside it, claims the same name with ``device="cuda"`` and takes device arrays and a stream
(``tconv_bench.variants._cuda.CudaVariant``).
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Callable
from functools import cache, partial
from typing import Any, Literal, no_type_check

from numpy.typing import NDArray

from tconv_bench import reference
from tconv_bench.problem import DTYPES, Problem

DEVICES = ("cpu", "cuda")
_SPARE_COLORS = ("#882255", "#44AA99", "#DDCC77", "#AA4499", "#117733", "#88CCEE")


class Variant:
    """One algorithm behind the contract that tests, benchmarks and ``conv_transpose*d`` rely on."""

    name: str
    device: str
    title: str
    source: str
    color: str
    marker: str
    #: True where a NaN or infinity in the weights reaches outputs whose sums it does not belong to.
    spreads_nonfinite_weights = False
    #: True where ``run`` and ``one_shot`` take x and out in any memory order, strided (the shapes stay channels-first); callers
    #: then copy neither, and give a fresh output the order of x: channels-last where that has its channels innermost.
    serves_strided = False
    #: True where ``one_shot`` reads the weights of an ordinary convolution as they lie, given as a view (``_blocks.turned``).
    reads_turned_weights = False

    def supports(self, problem: Problem) -> Literal[True] | str:
        """True where it serves the problem, or a sentence that says why not and names an alternative."""
        return True if problem.dtype in DTYPES else f"{problem.dtype} is served on CUDA alone; use float32, or device='cuda'"

    def prepare(self, problem: Problem, weight: NDArray[Any], bias: NDArray[Any] | None) -> Any:
        """Everything that depends on problem, weight and bias alone; both arrays C-contiguous, copied where kept."""
        raise NotImplementedError

    def forget(self) -> None:
        """Drop what earlier ``prepare`` calls cached, so that the next one pays in full."""

    def run(self, state: Any, x: NDArray[Any], out: NDArray[Any]) -> None:
        """Write every element of ``out`` (``problem.out_shape``) from ``x`` (``problem.x_shape``).

        Both are C-contiguous, unless the variant ``serves_strided``. Several threads may run one state at once.
        """
        raise NotImplementedError

    @no_type_check  # a peer's method of this name binds its arguments first, and so has others
    def one_shot(
        self, problem: Problem, weight: NDArray[Any], bias: NDArray[Any] | None, x: NDArray[Any], out: NDArray[Any]
    ) -> None:
        """``prepare`` and ``run`` for weights that are used once; a variant may do with less than its whole preparation.

        The weights are C-contiguous, unless the variant ``reads_turned_weights``.
        """
        self.run(self.prepare(problem, weight, bias), x, out)

    def single_call(self, problem: Problem) -> Callable[..., None]:
        """``one_shot`` of a problem on the present number of threads, called with (weight, bias, x, out) again and again.

        All of them are C-contiguous.
        """
        return partial(self.one_shot, problem)

    def short_run(
        self, state: Any, x_shape: tuple[int, ...], out_shape: tuple[int, ...]
    ) -> Callable[[Any, NDArray[Any]], int] | None:
        """``run`` of little work, with a look at its arguments of its own; None where there is none.

        It returns 0, and has done nothing, unless both are plain arrays of these shapes, which may lack the batch, and of the
        problem's dtype, and lie apart.
        """
        return None

    def estimate(self, problem: Problem) -> float:
        """Predicted seconds of ``run`` on prepared weights and the present number of threads, of a problem that it supports.

        Read to rank the methods and to explain a plan, never as a measurement. Infinite, the default, is never ranked first.
        """
        return math.inf

    def preparation_estimate(self, problem: Problem) -> float:
        """Predicted seconds that ``one_shot`` takes longer than ``run``; infinite where "auto" is to take it for plans alone.

        By default what NumPy takes to order the weights anew: 1.5 to 6 ns each (Zen 4).
        """
        return 3e-9 * math.prod(problem.weight_shape)

    def describe(self, problem: Problem) -> str:
        """How ``run`` cuts the problem up, in a short sentence for people; "" where there is nothing to say."""
        return ""

    def error_bound(
        self, problem: Problem, x: NDArray[Any], weight: NDArray[Any], bias: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """Largest difference to the reference that rounding explains, for each output or broadcast to them.

        ``problem``, ``x``, ``weight`` and ``bias`` are what ``run`` and ``prepare`` were given.
        """
        return reference.error_bound(problem, x, weight, bias)

    def prepared_bytes(self, problem: Problem) -> int:
        """Bytes that ``prepare`` keeps: packed weights or the matrix."""
        raise NotImplementedError

    def workspace_bytes(self, problem: Problem) -> int:
        """Bytes that ``run`` allocates at its peak beyond input, prepared state and output."""
        raise NotImplementedError


_VARIANTS: dict[tuple[str, str], Variant] = {}


def variant(
    name: str,
    *,
    device: str = "cpu",
    title: str | None = None,
    source: str | None = None,
    supports: Callable[[Problem], Literal[True] | str] | None = None,
    color: str | None = None,
    marker: str | None = None,
) -> Callable[[type[Variant]], type[Variant]]:
    """Class decorator that registers a variant; a second claim of a name on a device is a ValueError.

    What a twin on another device does not say for itself is that of the variant of its name on the CPU, registered before it.

    Args:
        name: what users pass as ``method``.
        device: "cpu" or "cuda".
        title: three or four words for tables and legends.
        source: the paper or formula it follows; both must be given for a name that the CPU does not have.
        supports: problem -> True or a sentence; default: the class's own method.
        color, marker: in every figure; a colour that no other variant has is chosen by default.
    """

    def register(cls: type[Variant]) -> type[Variant]:
        if device not in DEVICES:
            raise ValueError(f"device is {device!r}, valid devices are {', '.join(DEVICES)}")
        if (name, device) in _VARIANTS:
            raise ValueError(f"variant {name!r} on {device} is already registered by {type(_VARIANTS[name, device]).__name__}")
        twin: Any = _VARIANTS.get((name, "cpu"))
        if twin is None and (title is None or source is None):
            raise ValueError(f"variant {name!r} on {device} has no title or source, and no twin on the CPU that has them")
        used = {entry.color for entry in _VARIANTS.values()}
        spare = next((c for c in _SPARE_COLORS if c not in used), "#555555")
        entry = cls()
        entry.name, entry.device = name, device
        entry.title, entry.source = title or twin.title, source or twin.source
        entry.color, entry.marker = color or (twin.color if twin else spare), marker or (twin.marker if twin else "o")
        if supports is not None:
            entry.supports = supports  # type: ignore[method-assign, assignment]
        _VARIANTS[name, device] = entry
        return cls

    return register


@cache
def _load() -> None:
    package = importlib.import_module("tconv_bench.variants")
    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"tconv_bench.variants.{module.name}")


def methods(device: str = "cpu") -> list[str]:
    """Names of the registered variants of a device ("cpu" or "cuda"), sorted; each is valid as ``method``.

    Raises:
        ValueError: another device.

    >>> "direct" in methods()
    True
    """
    if device not in DEVICES:
        raise ValueError(f"device is {device!r}, valid devices are {', '.join(DEVICES)}")
    _load()
    return sorted(name for name, where in _VARIANTS if where == device)


def get(name: str, device: str = "cpu") -> Variant:
    """The variant of a ``name`` on a ``device``; ValueError lists the valid names."""
    names = methods(device)
    if name not in names:
        raise ValueError(f"method is {name!r}, valid methods on {device} are {', '.join(names)}")
    return _VARIANTS[name, device]
