"""A whole call of little work as one piece of machine code, which Python calls with the arrays' objects.

It does what ``_launch.pack_and_launch`` or ``_launch.launch`` does, in the caller's thread and without Numba's look at every
argument: the smallest problem takes 1.0 us for 3.1. The GIL stays held meanwhile.
"""

from __future__ import annotations

from functools import cache
from math import prod
from typing import Any

import numpy as np
from numba import carray
from numpy.typing import NDArray

from tconv_bench.jit import kernel, python_function
from tconv_bench.objects import as_integer, elements, form_of, has_form
from tconv_bench.problem import Problem
from tconv_bench.simd import LINE_BYTES, as_pointer, call_task
from tconv_bench.variants._launch import BIAS_AT, SPOILED_AT, WEIGHT_AT

SHORT_CYCLES = 60_000  # of a call that may hold the GIL
PACKED_BYTES = 32 * 1024  # of weights that a call packs, at most
PACK_TASKS, PACK_CODE, TASKS, CODE, PACKED, LENGTH, CHANNELS, REPEAT, ITEM = range(9)  # places before those that tasks know
HEAD = 9
# the same of a plan's table: then come the forms of x and out, whose lengths are given, and what tasks know
PLAN_TASKS, PLAN_CODE, X_BYTES, OUT_BYTES, X_LENGTH, OUT_LENGTH, PLAN_HEAD = range(7)
MOST_WORDS = 64  # up to what tasks know


def table(
    problem: Problem,
    pack: tuple[int, int, int],
    work: tuple[int, int],
    tables: NDArray[np.int64],
    bias_repeat: int,
) -> NDArray[Any]:
    """What ``run`` is given first.

    Args:
        problem: its dtype and channels are those of the bias.
        pack: tasks that pack the weights, their code's address, packed elements; without tasks weights are read where they are.
        work: tasks that compute, their code's address.
        tables: what all of them read, but for the weights' and the bias's addresses.
        bias_repeat: how often each value of the bias stands in what tasks read, one after the other.
    """
    pack_tasks, pack_code, packed = pack
    words = -(-packed * problem.itemsize // 8) if pack_tasks else 0
    head = (pack_tasks, pack_code, *work, words, tables.size, problem.c_out, bias_repeat, problem.itemsize)
    return np.array([*head, *tables], np.int64)


@kernel
def _repeat(source, item, count, repeat, target):
    """``count`` values of 4 or 8 bytes at one address, each repeated, to another."""
    for i in range(count):
        if item == 4:
            carray(as_pointer(target + 4 * repeat * i), repeat, np.int32)[:] = carray(as_pointer(source), count, np.int32)[i]
        else:
            carray(as_pointer(target + 8 * repeat * i), repeat, np.int64)[:] = carray(as_pointer(source), count, np.int64)[i]


def _native_single(_, objects, count):
    """All of ``(table, weight, bias, x, out)``, arrays; 1, or 0, and the output not to be used, where a value is not finite."""
    objects = carray(objects, count)
    head = carray(as_pointer(elements(objects[0])), HEAD, np.int64)
    length, repeated = head[LENGTH], head[CHANNELS] * head[REPEAT] if head[REPEAT] > 1 else 0
    known = carray(as_pointer(elements(objects[0]) + 8 * HEAD), length, np.int64)
    # The tables, a word that says what is not finite, packed weights, repeated bias: memory that lives until the last task.
    own = np.empty(length + 1 + LINE_BYTES // 8 + head[PACKED] + repeated, np.int64)
    for i in range(length):
        own[i] = known[i]
    own[length] = 0
    weight, bias = elements(objects[1]), elements(objects[2])
    packed = weight
    room = (own.ctypes.data + 8 * (length + 1) + LINE_BYTES - 1) // LINE_BYTES * LINE_BYTES
    if head[PACK_TASKS] > 0:
        packed = room
    if repeated > 0:
        _repeat(bias, head[ITEM], head[CHANNELS], head[REPEAT], room + 8 * head[PACKED])
        bias = room + 8 * head[PACKED]
    own[SPOILED_AT], own[WEIGHT_AT], own[BIAS_AT] = own.ctypes.data + 8 * length, packed, bias
    for task in range(head[PACK_TASKS]):
        call_task(head[PACK_CODE], task, own, weight, packed)
    if own[length] == 0:
        for task in range(head[TASKS]):
            call_task(head[CODE], task, own, elements(objects[3]), elements(objects[4]))
    return as_integer(own[length] == 0)


@cache
def run() -> Any:
    """``run()(table, weight, bias, x, out)``: 1, or 0 where a value is not finite."""
    return python_function(_native_single)


def planned_table(
    problem: Problem,
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
    work: tuple[int, int],
    tables: NDArray[np.int64],
) -> NDArray[Any]:
    """What ``run_planned`` is given first: tasks and their code's address, what x and out must be, and what tasks read."""
    dtype = np.dtype(problem.dtype)
    sizes = [prod(shape) * dtype.itemsize for shape in shapes]
    forms = [form_of(dtype, shape) for shape in shapes]
    return np.array([*work, *sizes, len(forms[0]), len(forms[1]), *forms[0], *forms[1], *tables], np.int64)


def _native_planned(_, objects, count):
    """All tasks of ``(table, ndarray, state, x, out)``; 0, and nothing done, where x or out is no plain array as it must be."""
    objects = carray(objects, count)
    known = carray(as_pointer(elements(objects[0])), MOST_WORDS, np.int64)
    kind, x, out = objects[1], objects[3], objects[4]
    out_form = PLAN_HEAD + known[X_LENGTH]
    if not (has_form(x, kind, known[PLAN_HEAD:]) and has_form(out, kind, known[out_form:])):
        return as_integer(0)
    source, target = elements(x), elements(out)
    if source < target + known[OUT_BYTES] and target < source + known[X_BYTES]:
        return as_integer(0)
    tables = known[out_form + known[OUT_LENGTH] :]
    for task in range(known[PLAN_TASKS]):
        call_task(known[PLAN_CODE], task, tables, source, target)
    return as_integer(1)


@cache
def run_planned() -> Any:
    """``run_planned()(table, numpy.ndarray, state, x, out)``: 1, or 0 where the arrays must be looked at more closely first.

    The state is not looked at: it keeps what the table has the addresses of.
    """
    return python_function(_native_planned)
