"""What the variants' estimates are made of: cycles of register tiles, bytes, and a launch, as one thread pays for them.

::

    seconds = launch + busiest(tasks) * (cycles * cycle + bytes * byte + ...)

A tile of ``mr`` rows by ``nv`` vectors takes ``max(mr * nv, 2 * nv, 4)`` cycles per step of k: a vector multiply-add each,
two for a load that crosses a cache line, and four until the next step can use a result. The constants in ``Rates`` are per
thread, so that an estimate follows the number of threads; each variant says how near its own came to the times that they were
fitted to.
"""

from __future__ import annotations

import math
from math import prod
from typing import Any, NamedTuple

from tconv_bench import simd
from tconv_bench.problem import Problem
from tconv_bench.variants import _blocks

LATENCY = 4  # cycles from a multiply-add to one that needs its result
LOAD = 2  # cycles of a vector load that crosses a cache line: what a tile of one row waits for
TILE_CYCLES = 40  # of a tile apart from its steps: the call, the sums loaded and stored
# All weights' bytes, up to which one of them takes so many times as long as from the second-level cache.
WEIGHTS_FROM = ((8 * 2**20, 1.0), (24 * 2**20, 2.3), (math.inf, 6.0))
NEAR_BYTES = 32 * 1024  # weights up to here are read again from the first-level cache


class Rates(NamedTuple):
    """Seconds of a call's launch, of a tile's cycle, and of a byte: weights from the second-level cache, output stored."""

    launch: float
    cycle: float
    weight_byte: float
    out_byte: float


def busiest(tasks: int) -> float:
    """The part of all tasks that the busiest thread gets."""
    return -(-tasks // _blocks.threads()) / max(1, tasks)


def tile_cycles(m: float, n: float, k: int, itemsize: int) -> float:
    """Cycles of ``simd.rank_k`` on m rows by n lanes with a sum of k products."""
    lanes = simd.VECTOR_BYTES // itemsize
    wide, rest = divmod(n, simd.NV * lanes)
    return wide * _column_cycles(int(m), simd.NV, k) + -(-rest // lanes) * _column_cycles(int(m), 1, k)


def _column_cycles(m: int, vectors: int, k: int) -> int:
    tiles = {6: m // 6, 2: m % 6 // 2, 1: m % 2}
    return sum(count * (max(height * vectors, LATENCY, LOAD * vectors) * k + TILE_CYCLES) for height, count in tiles.items())


def of_products(problem: Problem, tiling: Any, pixels: int, calls: float, depth: int, tasks: int, rates: Rates) -> float:
    """Seconds of a variant that adds tap after tap to blocks of sums.

    Args:
        problem: what is computed.
        tiling: has ``over_pixels`` and ``channels``, the output channels of a block.
        pixels: pixels per phase of a block.
        calls: matrix products of (channels, pixels) in all.
        depth: products in each element's sum.
        tasks: pieces that the threads share.
        rates: the variant's constants.
    """
    size = problem.itemsize
    m, n = (tiling.channels, pixels) if tiling.over_pixels else (pixels, tiling.channels)
    c_in = problem.c_in // problem.groups
    far = calls * tiling.channels * depth * size if tiling.channels * c_in * problem.taps * size > NEAR_BYTES else 0
    weights = problem.c_in * problem.c_out // problem.groups * problem.taps * size
    slower = next(factor for room, factor in WEIGHTS_FROM if weights <= room)
    seconds = calls * tile_cycles(m, n, depth, size) * rates.cycle + far * rates.weight_byte * slower
    return rates.launch + busiest(tasks) * (seconds + prod(problem.out_shape) * size * rates.out_byte)
