"""Plan once, execute often: the fastest method for a problem is chosen and its weights packed before the first call.

The idea and the words are FFTW's (Frigo & Johnson, "The Design and Implementation of FFTW3", Proceedings of the IEEE 2005): a
plan explains its choice, can be measured instead of predicted, and what was measured is remembered (``tconv_bench.wisdom``).
"""

from __future__ import annotations

import math
import statistics
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tconv_bench import conv, machine, measure, registry, units, wisdom
from tconv_bench.problem import Problem, as_int

MEASURE = "measure"
BUDGET = 0.3  # seconds of samples per method
WITHIN = 4.0  # times the least prediction: what is predicted slower is not timed; the predictions are off by up to 3.4


class Plan:
    """A transposed convolution with its weights packed, made by ``plan``; call it with an input. Its ``repr`` explains it.

    Attributes:
        problem: what it computes, batched, in the dtype that its kernels compute in.
        method: the chosen method's name.
        reason: why that one: "named by the caller", "predicted fastest", "measured fastest" or "remembered".
        threads: threads that it was chosen for.
        predicted: seconds per call of each method that serves the problem, by the cost model.
        measured: seconds per call of each method that was timed, now or earlier; empty where none was.
        refused: the sentence of each method that does not serve the problem.

    Several threads may call one plan at once. It keeps the packed weights alone: changing the arrays that it was made from
    changes nothing.
    """

    def __init__(
        self, call: conv.Call, weights: conv.Weights, reason: str, predicted: dict[str, float], measured: dict[str, float]
    ):
        self.problem, self.method, self.reason = call.problem, call.variant.name, reason
        self.threads = machine.threads()
        self.predicted, self.measured = predicted, measured
        self.refused = {
            name: str(registry.get(name).supports(call.problem)) for name in registry.methods() if name not in predicted
        }
        self._call = call
        state = call.variant.prepare(call.problem, *weights)
        self._run = partial(call.variant.run, state)
        self._short = call.variant.short_run(state, call.x_shape, call.out_shape) if call.is_plain else None

    def __call__(self, x: Any, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """The transposed convolution of ``x`` with the plan's weights.

        Args:
            x: of the shape and dtype that the plan was made for; copied first unless it is C-contiguous, aligned and native (or
                the method takes any memory order).
            out: array of the result's shape and dtype to write into; must not overlap ``x``.

        Returns:
            The result, in x's dtype; ``out`` where it is given.

        Raises:
            ValueError: a shape that does not fit, or an ``out`` that is read-only or overlaps ``x``.
            TypeError: another dtype.
        """
        call = self._call
        if self._short is not None:
            result = np.empty(call.out_shape, call.dtype) if out is None else out
            if self._short(x, result):
                return result
        if call.takes(x) and (out is None or call.can_write(out, x)):
            result = np.empty(call.out_shape, call.dtype) if out is None else out
            if call.batched:
                self._run(x, result)
            else:
                self._run(x[None], result[None])
            return result
        x = conv.checked_array(x, "x", call.dtype, "the plan")
        if x.shape != call.x_shape:
            raise ValueError(f"x has shape {x.shape}, but the plan is for {call.x_shape}")
        return call.compute(self._run, x, out)

    def __repr__(self) -> str:
        """The choice and its reasons, a line each."""
        problem, variant = self.problem, self._call.variant
        lines = {
            "method": f"{self.method} ({self.reason})",
            "arrays": f"{self._call.x_shape} -> {self._call.out_shape}, {self._call.dtype}",
            "layout": variant.describe(problem),
            "threads": str(self.threads),
            "work": f"{units.flops(problem.flops)}, at least {units.size(problem.min_bytes)} moved",
            "memory": f"{units.size(variant.prepared_bytes(problem))} prepared, "
            f"{units.size(variant.workspace_bytes(problem))} workspace",
            "time": self._times(self.method),
        }
        return self._text(lines)

    def _text(self, lines: dict[str, str]) -> str:
        """The lines, and those of the other methods."""
        others = {name: self._times(name) for name in self.predicted if name != self.method} | self.refused
        width = max(map(len, [*lines, *others]))
        text = [f"  {name:<{width}}  {line}" for name, line in lines.items() if line]
        text += ["other methods", *(f"  {name:<{width}}  {line}" for name, line in others.items())]
        return "\n".join([f"Plan {self.problem}", *text])

    def _times(self, name: str) -> str:
        measured = f"measured {units.seconds(self.measured[name])}" if name in self.measured else "not measured"
        predicted = self.predicted[name]
        return f"predicted {units.NONE if math.isinf(predicted) else units.seconds(predicted)}, {measured}"


def plan(
    weight: ArrayLike,
    input_shape: Any,
    *,
    bias: ArrayLike | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    method: str = "auto",
    device: str = "cpu",
) -> Plan:
    """Choose a method for inputs of one shape and pack the weights for it.

    Args:
        weight: ``(C_in, C_out // groups, *kernel)`` with 1, 2 or 3 kernel axes; inputs must have its dtype.
        input_shape: ``(N, C_in, *spatial)`` or unbatched ``(C_in, *spatial)``.
        bias, stride, padding, output_padding, groups, dilation: as in ``conv_transpose2d``.
        method: a name of ``methods(device)``; "auto" for the one remembered or predicted fastest; "measure" to time the ones
            that may be fastest, once per machine, number of threads and problem: later plans remember it.
        device: "cpu"; or "cuda", whose plans keep the weights on the device and take device arrays and NumPy's. "measure" times
            with CUDA's events there, and what it finds is remembered for GPUs of the same name.

    Returns:
        A ``Plan`` to call with inputs; print it to see why it takes the method that it takes.

    Raises:
        ValueError, TypeError: as ``conv_transpose2d``.
        NotImplementedError: the named method does not serve the problem.
        RuntimeError: CUDA is asked for and can't be used; the message says what is missing.

    >>> import numpy as np
    >>> double = plan(np.full((1, 1, 2), 3), (1, 2), stride=2)
    >>> double(np.array([[1, 2]]))
    array([[3, 3, 6, 6]])
    """
    registry.methods(device)  # ValueError lists the valid devices
    sizes = (stride, padding, output_padding, groups, dilation)
    if device == "cuda":
        on_cuda: Plan = import_module("tconv_bench.gpu").plan(weight, _shape(input_shape), bias, sizes, method)
        return on_cuda
    weight, bias = conv.checked_weights(weight, bias)
    if not 3 <= weight.ndim <= 5:
        raise ValueError(
            f"weight has {weight.ndim} axes (shape {weight.shape}), but must be (C_in, C_out // groups, *kernel) with 1, 2 or "
            "3 kernel axes"
        )
    problem, batched = conv.checked_problem(weight.ndim - 2, "input_shape", _shape(input_shape), weight, bias, sizes)
    conv.check_method(problem, method, conv.AUTO, MEASURE)
    predicted = conv.predictions(problem)
    name, reason = _select(problem, method, conv.candidates(predicted))
    known = wisdom.lookup(problem)
    call = conv.Call(problem, registry.get(name), batched, weight.dtype)
    weights = conv.for_kernels(weight), None if bias is None else conv.for_kernels(bias)
    return Plan(call, weights, reason, predicted, known.seconds if known else {})


def _shape(value: Any) -> tuple[int, ...]:
    try:
        sizes = tuple(value)
    except TypeError:
        raise TypeError(
            f"input_shape is {value!r} ({type(value).__name__}), but must be (N, C_in, *spatial) or (C_in, *spatial)"
        ) from None
    return tuple(as_int(size, "input_shape", 0) for size in sizes)


def _select(problem: Problem, method: str, allowed: dict[str, float]) -> tuple[str, str]:
    """The method to take and why; ``allowed`` are the predictions of those that it may be unless it is named."""
    if method not in (conv.AUTO, MEASURE):
        return method, "named by the caller"
    if known := conv.remembered(problem, allowed):
        return known, "remembered"
    if method == MEASURE and problem.batch:
        return wisdom.remember(problem, _measured(problem, allowed)).method, "measured fastest"
    return next(iter(allowed)), "predicted fastest"


def _measured(problem: Problem, allowed: dict[str, float]) -> dict[str, float]:
    """Median seconds per call of each method that may be the fastest, on random data; checking results is the tests' work."""
    data, out = measure.make_data(problem), measure.poisoned(problem)
    limit = WITHIN * min(allowed.values())
    found = {}
    for name, seconds in allowed.items():
        if seconds <= limit or math.isinf(seconds):
            variant = registry.get(name)
            run = partial(variant.run, variant.prepare(problem, data.weight, data.bias), data.x, out)
            found[name] = statistics.median(measure.sample_times(run, budget=BUDGET))
    return found
