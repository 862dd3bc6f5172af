"""Tasks as machine code: a variant's work compiled once per dtype, and called by its address on all threads.

Numba compiles a part again at every level of what contains it, and a parallel kernel has two levels more than what it runs.
All of ``direct`` compiled in 3.9 s as a parallel kernel, in 2.2 s as a task for the launcher that all variants share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import carray, from_dtype, types
from numpy.typing import NDArray

from tconv_bench.jit import kernel, native
from tconv_bench.problem import Geometry
from tconv_bench.simd import as_pointer
from tconv_bench.variants._launch import BIAS_AT, FIRST_FREE, WEIGHT_AT, launch

SIZES_AT = FIRST_FREE + len(Geometry._fields)  # what a task adds to the Geometry


class Work(NamedTuple):
    """Tasks that are ready to run; ``tables`` holds the addresses of the arrays beside it."""

    tasks: int
    code: int  # an address
    tables: NDArray[np.int64]
    weight: NDArray[Any] | None
    bias: NDArray[Any] | None
    more: NDArray[Any] | None = None  # what else the tables point to


def work(
    task: Callable[..., None],
    tasks: int,
    geometry: Geometry,
    sizes: Iterable[int],
    dtype: str,
    weight: NDArray[Any] | None = None,
    bias: NDArray[Any] | None = None,
) -> Work:
    """So many tasks, which find a Geometry and, from SIZES_AT on, the sizes in their tables."""
    tables = np.array([*(0,) * FIRST_FREE, *geometry, *sizes], np.int64)
    for place, array in ((WEIGHT_AT, weight), (BIAS_AT, bias)):
        if array is not None:
            tables[place] = array.ctypes.data
    return Work(tasks, code(task, dtype).address, tables, weight, bias)


def run(work: Work, source: NDArray[Any], target: NDArray[Any]) -> None:
    """Run all tasks on all threads; both arrays C-contiguous."""
    launch(work.tasks, False, work.code, work.tables, source.reshape(-1), target.reshape(-1))


@cache
def code(task: Callable[..., None], dtype: str) -> Any:
    """A task's machine code for a dtype."""
    values = types.CPointer(from_dtype(np.dtype(dtype)))
    return native(types.void(types.int64, types.CPointer(types.int64), values, values), task)


@kernel
def geometry(tables):
    """The Geometry of a task."""
    s = tables[FIRST_FREE:SIZES_AT]
    return Geometry(
        s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[8], s[9], s[10], s[11], s[12], s[13], s[14], s[15], s[16], s[17],
        s[18], s[19], s[20], s[21],
    )  # fmt: skip


@kernel
def array_at(tables, place, like):
    """The array whose address stands at a place of the tables, of the dtype of another."""
    return carray(as_pointer(tables[place]), 1, dtype=like.dtype)
