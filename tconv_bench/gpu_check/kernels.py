"""CUDA kernels around a measurement: noise to compute on, sums to check by, and the GPU's own limits.

They are compiled as the variants' are (``tconv_bench.jit_cuda``); grids stride over their elements.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tconv_bench.jit_cuda import REAL, Kernel, cuda
from tconv_bench.ptx import fma, load4, store4

CHAINS = STEPS = 0  # of ``_chains``; given where it is compiled
_MASK = 0xFFFFFFFF
_SHIFT, _FACTOR = 16, 0x45D9F3B  # below 2^27: the product with 32 bits stays in 63


def _noise(seed, values):
    """Element i is a hash of i and the seed, from -1 to 1 in steps of 2^-23: the same everywhere, whatever the grid."""
    at, threads = cuda.grid(1), cuda.gridsize(1)
    while at < values.size:
        h = (at + seed) & _MASK
        h = ((h ^ (h >> _SHIFT)) * _FACTOR) & _MASK
        h = ((h ^ (h >> _SHIFT)) * _FACTOR) & _MASK
        h = h ^ (h >> _SHIFT)
        values[at] = REAL((h >> 8) - 8388608) * REAL(1.1920928955078125e-07)
        at += threads


def _fill(value, values):
    """Every element the one of ``value``."""
    at, threads = cuda.grid(1), cuda.gridsize(1)
    while at < values.size:
        values[at] = value[0]
        at += threads


def _fold(values, weights, sums, middle, inner, squares):
    """``sums[a, p] = sum over b < middle of weights[b] * values[a, b, p]``, or of the values' squares."""
    at, threads = cuda.grid(1), cuda.gridsize(1)
    while at < sums.size:
        place = at // inner * middle * inner + at % inner
        total = 0.0
        for b in range(middle):
            value = np.float64(values[place])
            if squares != 0:
                value *= value
            total += weights[b] * value
            place += inner
        sums[at] = total
        at += threads


def _chains(values, steps, sums):
    """``steps`` times STEPS multiply-adds in each of CHAINS chains per thread, none of which waits for another."""
    at = cuda.grid(1)
    chains = cuda.local.array(CHAINS, REAL)
    factor, addend = values[0], values[1]
    for i in range(CHAINS):
        chains[i] = values[2 + i]
    step = 0
    while step < steps:
        for _ in range(STEPS):
            for i in range(CHAINS):
                chains[i] = fma(chains[i], factor, addend)
        step += 1
    total = REAL(0)
    for i in range(CHAINS):
        total += chains[i]
    sums[at] = total


def _copy(source, target, quads):
    """The first ``quads`` times four elements."""
    at, threads = cuda.grid(1), cuda.gridsize(1)
    while at < quads:
        store4(target, np.uint64(4 * at), load4(source, np.uint64(4 * at)))
        at += threads


def _set(value, target, quads):
    """The same written, with nothing read."""
    at, threads = cuda.grid(1), cuda.gridsize(1)
    v = value[0]
    while at < quads:
        store4(target, np.uint64(4 * at), (v, v, v, v))
        at += threads


CHAIN_SIZES = (
    ("CHAINS", 8),
    ("STEPS", 32),
)  # unrolled: 256 multiply-adds in 260 instructions, with range() in 340
PRODUCTS = 8 * 32  # of a thread and step
NOISE = Kernel(_noise, "i64 T[]")
FILL = Kernel(_fill, "T[] T[]")
FOLD = Kernel(_fold, "T[] f64[] f64[] i64 i64 i64")
FMA = Kernel(_chains, "T[] i64 T[]", constants=CHAIN_SIZES)
COPY = Kernel(_copy, "T[] T[] i64")
SET = Kernel(_set, "T[] T[] i64")
KERNELS = (NOISE, FILL, FOLD, FMA, COPY, SET)


def noise(count: int, seed: int, dtype: str) -> NDArray[Any]:
    """What ``_noise`` writes, computed here."""
    h = (np.arange(count, dtype=np.int64) + seed) & _MASK
    for _ in range(2):
        h = ((h ^ (h >> _SHIFT)) * _FACTOR) & _MASK
    h ^= h >> _SHIFT
    values: NDArray[Any] = ((h >> 8) - 8388608) * 2.0**-23
    return values.astype(dtype)
