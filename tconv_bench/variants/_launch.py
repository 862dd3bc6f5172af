"""How machine code made by ``jit.native`` is run on all threads: one small parallel kernel for every variant and task.

A task is ``void(int64 task, int64* tables, T* source, T* target)``; ``tables`` holds addresses of what it reads, at the
places that are named here and further ones of the variant's own.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numba import prange
from numpy.typing import NDArray

from tconv_bench.jit import kernel
from tconv_bench.simd import call_task
from tconv_bench.variants._blocks import from_a_line

RECORD_AT, TILE_AT, WEIGHT_AT, BIAS_AT, PANELS_AT, SPOILED_AT = range(6)
FIRST_FREE = 6
KEPT_BYTES = 64 * 2**20


@kernel(parallel=True)
def launch(tasks, alone, code, tables, source, target):
    """All tasks of a piece of machine code; ``alone``: in this thread, where waking the others would take longer."""
    if alone:
        for task in range(tasks):
            call_task(code, task, tables, source, target)
    else:
        for task in prange(tasks):
            call_task(code, np.int64(task), tables, source, target)


@kernel(parallel=True)
def pack_and_launch(pack_tasks, pack_code, tasks, alone, code, constant_tables, weight, packed, bias, x, out):
    """Pack the weights, then all tasks; False, and the output not to be used, where a task noted at ``SPOILED_AT`` that a value
    is not finite."""
    tables = constant_tables.copy()
    spoiled = np.zeros(1, np.int64)
    tables[SPOILED_AT] = spoiled.ctypes.data
    tables[WEIGHT_AT] = packed.ctypes.data
    tables[BIAS_AT] = bias.ctypes.data
    if alone:
        for task in range(pack_tasks):
            call_task(pack_code, task, tables, weight, packed)
    elif pack_tasks > 0:
        for task in prange(pack_tasks):
            call_task(pack_code, np.int64(task), tables, weight, packed)
    if spoiled[0] != 0:
        return False
    if alone:
        for task in range(tasks):
            call_task(code, task, tables, x, out)
    else:
        for task in prange(tasks):
            call_task(code, np.int64(task), tables, x, out)
    return spoiled[0] == 0


_kept = threading.local()


def scratch(dtype: str, size: int) -> NDArray[Any]:
    """Memory for weights that are used once, from a cache line on: this thread's, kept where it is not too much to keep.

    Fresh memory costs page faults: 33 MB of weights took 28 ms instead of 12 to pack and use.
    """
    if size * np.dtype(dtype).itemsize > KEPT_BYTES:
        return from_a_line(size, dtype)
    buffers = _kept.__dict__
    buffer = buffers.get(dtype)
    if buffer is None or buffer.size < size:
        buffer = buffers[dtype] = from_a_line(size, dtype)
    return buffer
