"""How the operators of this package are checked, cut into tasks and launched.

An operator's *plan* turns a shape, a dtype and checked arguments into a ``Call``: the result's shape and dtype, machine code,
and the table that the code reads. Calls are kept by what they were made from, so that the next one with the same shapes goes
straight to the machine code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numba import carray, prange
from numpy import empty, ndarray  # each is looked up in every call
from numpy.typing import ArrayLike, NDArray

from tconv_bench.conv import _check_out, checked_array
from tconv_bench.jit import kernel, python_function
from tconv_bench.objects import as_integer, elements
from tconv_bench.problem import as_int, per_axis
from tconv_bench.simd import as_pointer, call_task

KNOWN = 1024  # calls that are kept
KEPT_BYTES = 2**26  # of their tables
ALONE = 40_000  # nanoseconds of work that is done before another thread is awake: with two threads 17 us took 26
TASK = 10_000  # nanoseconds of work that is worth a task
OTHER, STATUS, TASKS = range(3)  # places in every table: address of a third array, not 0 where a task failed, number of tasks
CODE, LENGTH = -1, -2  # places before it: the machine code's address, the table's length
HEAD = 2


@dataclass(frozen=True, slots=True)
class Call:
    """One operator on one shape: machine code ``void(int64 task, int64* table, T* x, T* out)`` and what it needs."""

    shape: tuple[int, ...]  # of the result as it lies in memory
    dtype: np.dtype[Any]
    table: NDArray[np.int64]  # after ``HEAD`` places
    is_short: bool  # done in the caller's thread
    kept: tuple[NDArray[Any], ...]  # what addresses in the table point to
    kept_bytes: int
    is_empty: bool  # nothing to compute
    order: tuple[int, ...] | None  # of the result's axes where they lie in memory in another one: channels innermost
    back: tuple[int, ...] | None  # and the way back


Plan = Callable[..., Call]
_known: dict[tuple[Any, ...], Call] = {}


def _native_address(_, objects, count):
    return as_integer(elements(carray(objects, count)[0]))


def _native_run(_, objects, count):
    """All tasks of ``(table, x, out, other)``, arrays; 1, or 0 where one failed."""
    objects = carray(objects, count)
    table = carray(as_pointer(elements(objects[0])), HEAD, np.int64)
    code, length = table[HEAD + CODE], table[HEAD + LENGTH]
    own = carray(as_pointer(elements(objects[0]) + 8 * HEAD), length, np.int64).copy()
    own[OTHER] = elements(objects[3])
    for task in range(own[TASKS]):
        call_task(code, task, own, elements(objects[1]), elements(objects[2]))
    return as_integer(own[STATUS] == 0)


_address, _run = python_function(_native_address), python_function(_native_run)


@kernel(parallel=True)
def _launch(table, x, out, other):
    own = table[HEAD:].copy()
    own[OTHER] = other
    code = table[HEAD + CODE]
    for task in prange(own[TASKS]):
        call_task(code, np.int64(task), own, x, out)
    return own[STATUS] == 0


@kernel
def share(task, tasks, rows):
    """(first, last + 1) of the rows that are a task's."""
    return task * rows // tasks, (task + 1) * rows // tasks


def make_call(
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    code: Any,
    rows: int,
    nanoseconds: float,
    sizes: list[int],
    kept: tuple[NDArray[Any], ...] = (),
    inner: int = 0,
) -> Call:
    """A Call whose table holds ``sizes`` and then the addresses of ``kept``.

    ``rows`` can be cut into tasks; all of them take ``nanoseconds`` on one core. ``inner``, where it is not 0, is the number of
    axes at the end before which the channels stand, which are innermost in memory.
    """
    tasks = max(1, min(rows, int(nanoseconds / TASK)))
    table = [0, 0, tasks, *sizes, *(array.ctypes.data for array in kept)]
    table = [len(table), code.address, *table]
    kept_bytes = sum(array.nbytes for array in kept)
    order, back = channels_innermost(len(shape), inner) if inner else (None, None)
    memory = shape if order is None else tuple(shape[axis] for axis in order)
    is_short = nanoseconds <= ALONE
    return Call(memory, dtype, np.array(table, np.int64), is_short, kept, kept_bytes, prod(shape) == 0, order, back)


@cache
def channels_innermost(ndim: int, inner: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The order of axes in which the one before the last ``inner`` comes last, and the order that takes it back."""
    lead = tuple(range(ndim - inner - 1))
    return (*lead, *range(ndim - inner, ndim), ndim - inner - 1), (*lead, ndim - 1, *range(ndim - inner - 1, ndim - 1))


def run(call: Call, x: NDArray[Any], out: NDArray[Any], other: NDArray[Any] | None = None) -> bool:
    """Write ``out`` (and ``other``) from ``x``, none of them empty; False where a task failed."""
    third = x if other is None else other
    if call.is_short:
        return _run(call.table, x, out, third) == 1
    done: bool = _launch(call.table, _address(x), _address(out), _address(third))
    return done


def called(plan: Plan, x: ArrayLike, *arguments: Any, inner: int = 0) -> tuple[Call, NDArray[Any]]:
    """``plan(x.shape, x.dtype, are channels innermost, *arguments)``, remembered, and ``x`` in memory that it reads.

    The arguments are checked before: what equals known ones is taken for them. ``inner`` is as in ``make_call``: where it is
    not 0, the plan serves channels that are innermost in memory.
    """
    if type(x) is ndarray and x.flags.aligned:
        call = _known.get((plan, x.shape, x.strides, x.dtype, arguments))
        if call is not None:
            return call, x
    array, is_inner = checked_array(x, "x"), False
    if inner and array.ndim > inner and not array.flags.c_contiguous:
        order, back = channels_innermost(array.ndim, inner)
        is_inner = array.transpose(order).flags.c_contiguous
    array = memory_of(array.transpose(order), "x").transpose(back) if is_inner else memory_of(array, "x")
    key = plan, array.shape, array.strides, array.dtype, arguments
    call = _known.get(key)
    if call is None:
        call = plan(array.shape, array.dtype, is_inner, *arguments)
        if len(_known) >= KNOWN or sum(known.kept_bytes for known in list(_known.values())) + call.kept_bytes > KEPT_BYTES:
            _known.clear()
        _known[key] = call
    return call, array


def apply(plan: Plan, x: ArrayLike, out: NDArray[Any] | None, scale: tuple[int, ...], *arguments: Any) -> NDArray[Any]:
    """What a plan's call makes of ``x``, written into ``out`` where that is given."""
    call, array = called(plan, x, scale, *arguments, inner=len(scale))
    order, back = call.order, call.back
    if out is None:
        made: NDArray[Any] = empty(call.shape, call.dtype)
        if not call.is_empty:
            run(call, array, made)
        return made if back is None else made.transpose(back)
    shape = call.shape if back is None else tuple(call.shape[axis] for axis in back)
    _check_out(out, shape, call.dtype, (array, as_given(x)))
    memory = out if order is None else out.transpose(order)
    made = memory if memory.flags.carray and out.dtype == call.dtype else empty(call.shape, call.dtype)
    if not call.is_empty:
        run(call, array, made)
    if made is not memory:
        memory[...] = made
    return out


def as_given(value: ArrayLike) -> NDArray[Any] | None:
    """The caller's own array, whose memory a result must not overlap; None where there is none."""
    return value if isinstance(value, ndarray) else None


def memory_of(value: ArrayLike, name: str) -> NDArray[Any]:
    """A value as machine code takes it: an array of a dtype that is served, contiguous, aligned, native; never written to."""
    array = checked_array(value, name)
    return np.require(array, array.dtype.newbyteorder("="), ["C", "A"])


def checked_scale(scale: Any) -> tuple[int, ...]:
    """One integer >= 1 per up-sampled axis, those being the last ones; a lone integer stands for the last two."""
    if type(scale) is int and scale >= 1:
        return scale, scale
    if type(scale) is tuple and len(scale) <= 3 and set(map(type, scale)) == {int} and min(scale) >= 1:
        return scale  # NumPy's look at it takes 2 us
    if np.ndim(scale) == 0:
        return (as_int(scale, "scale", 1),) * 2
    if not 1 <= len(scale) <= 3:
        raise ValueError(f"scale is {scale!r}: {len(scale)} values, but allowed are one integer or 1 to 3, one per last axis")
    return per_axis(scale, len(scale), "scale", 1)


class Sizes(NamedTuple):
    """Sizes of an up-sampling: always three axes (z, y, x), missing ones of size and scale 1 in front."""

    n: int  # all leading axes together
    z: int
    y: int
    x: int
    sz: int
    sy: int
    sx: int


def sizes_of(shape: tuple[int, ...], scale: tuple[int, ...]) -> Sizes:
    """The Sizes of an input's shape; ValueError where it lacks an axis, or a pixel along one."""
    ndim = len(scale)
    if len(shape) < ndim:
        raise ValueError(f"x has {len(shape)} axes (shape {shape}), but scale {scale} up-samples the last {ndim}")
    last = shape[len(shape) - ndim :]
    if min(last) < 1:
        raise ValueError(f"x has shape {shape}, but each of the last {ndim} axes, which are up-sampled, must have a pixel")
    ones = (1,) * (3 - ndim)
    return Sizes(prod(shape[: len(shape) - ndim]), *ones, *last, *ones, *scale)


def scaled(shape: tuple[int, ...], dtype: np.dtype[Any], scale: tuple[int, ...]) -> tuple[int, ...]:
    """The shape with its last axes scaled; ValueError where no machine could address the result."""
    first = len(shape) - len(scale)
    result = (*shape[:first], *(i * s for i, s in zip(shape[first:], scale)))
    check_addressable(result, dtype)
    return result


def check_addressable(shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """ValueError for a result of more bytes than an address has room for."""
    if prod(shape) * dtype.itemsize > np.iinfo(np.intp).max:
        raise ValueError(f"the result would have shape {shape}: more bytes than this machine can address")
