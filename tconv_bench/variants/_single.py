"""A whole call of little work as one piece of machine code, which Python calls with the arrays' objects.

It does what ``_launch.pack_and_launch`` does, in the caller's thread and without Numba's look at every argument: the smallest
problem takes 1.0 us for 3.1. The GIL stays held meanwhile.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import carray
from numpy.typing import NDArray

from tconv_bench.jit import python_function
from tconv_bench.objects import as_integer, elements
from tconv_bench.simd import as_pointer, call_task
from tconv_bench.variants._launch import BIAS_AT, SPOILED_AT, WEIGHT_AT

SHORT_CYCLES = 60_000  # of a call that may hold the GIL
PACKED_WORDS = 4096  # 64 bits each, that a call takes for its packed weights, at most
LINE = 64
PACK_TASKS, PACK_CODE, TASKS, CODE, PACKED, LENGTH = range(6)  # places before those that tasks know
HEAD = 6


def table(pack_tasks: int, pack_code: int, tasks: int, code: int, packed_bytes: int, tables: NDArray[np.int64]) -> NDArray[Any]:
    """What ``run`` is given first; without ``pack_tasks`` the weights are read where they are."""
    head = [pack_tasks, pack_code, tasks, code, -(-packed_bytes // 8) if pack_tasks else 0, tables.size]
    return np.array([*head, *tables], np.int64)


def _native_single(_, objects, count):
    """All of ``(table, weight, bias, x, out)``, arrays; 1, or 0, and the output not to be used, where a value is not finite."""
    objects = carray(objects, count)
    head = carray(as_pointer(elements(objects[0])), HEAD, np.int64)
    length = head[LENGTH]
    known = carray(as_pointer(elements(objects[0]) + 8 * HEAD), length, np.int64)
    # The tables, a word that says what is not finite, the packed weights: one piece of memory, which lives until the last task.
    own = np.empty(length + 1 + LINE // 8 + head[PACKED], np.int64)
    for i in range(length):
        own[i] = known[i]
    own[length] = 0
    weight, packed = elements(objects[1]), elements(objects[1])
    if head[PACK_TASKS] > 0:
        packed = (own.ctypes.data + 8 * (length + 1) + LINE - 1) // LINE * LINE
    own[SPOILED_AT], own[WEIGHT_AT], own[BIAS_AT] = own.ctypes.data + 8 * length, packed, elements(objects[2])
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
