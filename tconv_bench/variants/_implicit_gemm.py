"""The tiled product on CUDA that phase, zero insertion and col2im sit on: an implicit GEMM for each phase of the stride.

::

    out[o, stride*j + phase] = bias[o] + sum over the taps t of the phase, and over c, of  weight[t, c, o] * x[c, j + shift[t]]

Every phase is a matrix product of its own: channels o times pixels (n, j), summed over (t, c). One launch computes all: a block
takes one tile of one phase of one group, and its sum runs over that phase's taps alone. Or an axis' phases are one whose rows
are (o, phase): x is then read once for all of them, and few channels fill a tile; where they don't read the same inputs (the
kernel's size is no multiple of the stride), some weights are zeros. ``_tiles.py`` decides that, the tile, and whether a sum is
cut into parts, whose outputs a second launch adds up in their order.

Weights are packed tile after tile and step after step, ``[group][row block][tap][c block][BK][BM]``, rows and c filled up with
zeros, so that a step's panel is read 128 bits at a time, from one address on and without a bound; x is read where it lies, with
one comparison per element. A step multiplies BK input channels of one tap from shared memory, while the next step's are on
their way into registers; a thread keeps TM x TN sums in registers. Divisions are made once per block and pixel, none per step.
Sums go back through shared memory, so that neighbouring lanes write neighbouring pixels.

float16 arrays are multiplied and summed in float32 and rounded once, when they are stored.

A pixel beyond the border counts as 0 and is multiplied all the same, and so is a weight that is not there; which is wrong where
the other factor is NaN or infinite. Then the sum is not finite either, and such sums are computed again, tap by tap.

Source: NVIDIA, CUTLASS, "Implicit GEMM Convolution" (strided data gradient: phases in the grid, each visiting its own taps) and
"Efficient GEMM in CUDA" (tiles of blocks, warps and threads); Volkov & Demmel, "Benchmarking GPUs to Tune Dense Linear
Algebra", SC 2008. Phases as rows: Shi et al. 2016, section 3.2.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np

from tconv_bench import jit_cuda
from tconv_bench.jit_cuda import I32, OUT, REAL, Kernel, cuda
from tconv_bench.problem import Problem
from tconv_bench.ptx import afresh, divide, fma, load4, products, read_if, shared, store4
from tconv_bench.variants import _cuda, _tiles
from tconv_bench.variants._tiles import PHASE_FIELDS, ROW_FIELDS, TAP_FIELDS, Layout, Tile

# Of a tile; given where it is compiled.
BM = BN = BK = TM = TN = WX = WY = THREADS = LANES = PIXELS = C_STEP = A_LOADS = B_LOADS = A_IS_EVEN = STAGE = MEMORY = 0
SUMS = A_VALUES = B_VALUES = ROUND = LINE = STORED = PASSES = A_STRIP = B_STRIP = 0
OUTSIDE = -(2**30)
NOTHING, BORDER, INNER = 0, 1, 2  # of a pixel: how much of it lies in the output


def _multiply(g, tables, x, weight, bias, out, rows, row_blocks, pixel_blocks, phases, entries, chunks, splits, fold):
    """One tile of one phase of one group, over one part of the phase's steps.

    Args:
        g: sizes of the problem.
        tables: ``Layout.tables``.
        x, bias, out: of the problem, with one axis; ``out`` holds an output after the other where there are several parts.
        weight: packed.
        rows: of a group.
        row_blocks, pixel_blocks: tiles over a group's rows, and over the pixels of the largest phase.
        phases: how many, each with its own taps.
        entries: taps of all phases.
        chunks: steps per tap.
        splits: parts that a phase's steps are cut into.
        fold: phases that are rows.
    """
    memory = shared(MEMORY, REAL)  # two stages, each a panel of weights (BK, BM) and one of inputs (BK, BN)
    sums = cuda.local.array(SUMS, REAL)
    next_a = cuda.local.array(A_VALUES, REAL)
    next_b = cuda.local.array(B_VALUES, REAL)
    z, y, fx = cuda.local.array(PIXELS, I32), cuda.local.array(PIXELS, I32), cuda.local.array(PIXELS, I32)
    pixel_at, x_at, left_c = cuda.local.array(PIXELS, I32), cuda.local.array(PIXELS, I32), cuda.local.array(PIXELS, I32)
    oz, oy, ox = cuda.local.array(STORED, I32), cuda.local.array(STORED, I32), cuda.local.array(STORED, I32)
    out_at, kind = cuda.local.array(STORED, I32), cuda.local.array(STORED, I32)
    thread = np.int64(cuda.threadIdx.x)
    rest, row_block = divide(cuda.blockIdx.x, row_blocks)
    rest, pixel_block = divide(rest, pixel_blocks)
    rest, split = divide(rest, splits)
    group, phase = divide(rest, phases)
    of_phase = rows * ROW_FIELDS + phase * PHASE_FIELDS
    jz, jy, jx = tables[np.uint64(of_phase + 2)], tables[np.uint64(of_phase + 3)], tables[np.uint64(of_phase + 4)]
    in_phase = jz * jy * jx
    pixels = g.n * in_phase
    if pixel_block * BN >= pixels:
        return
    c_in = divide(g.c_in, g.groups)[0]
    plane = g.iz * g.iy * g.ix
    first_entry = np.int64(tables[np.uint64(of_phase)])
    all_steps = tables[np.uint64(of_phase + 1)] * chunks
    first_step = divide(all_steps * split, splits)[0]
    last_step = divide(all_steps * (split + 1), splits)[0]
    entry, skipped = divide(first_step, chunks)
    taps_at = rows * ROW_FIELDS + phases * PHASE_FIELDS
    tap_at = taps_at + (first_entry + entry) * TAP_FIELDS
    weight_at = ((group * row_blocks + row_block) * entries + first_entry) * chunks * (BK * BM)

    # The pixels whose inputs this thread fetches.
    first_c = thread // BN
    for q in range(PIXELS):
        pixel = pixel_block * BN + thread % BN + q * THREADS
        n, j = divide(min(pixel, pixels - 1), in_phase)
        z[q], j = divide(j, jy * jx)
        y[q], fx[q] = divide(j, jx)
        pixel_at[q] = (n * g.c_in + group * c_in + first_c) * plane + (z[q] * g.iy + y[q]) * g.ix + fx[q]
        if pixel >= pixels:
            z[q] = OUTSIDE
        x_at[q], left_c[q] = 0, 0

    for i in range(SUMS):
        sums[i] = REAL(0)
    lane, warp = thread % LANES, thread // LANES
    warp_row, warp_column = warp // (BN // (WX * TN)) * (WY * TM), warp % (BN // (WX * TN)) * (WX * TN)
    row, column = warp_row + lane // WX * 4, warp_column + lane % WX * 4
    packed_at = weight_at + first_step * (BK * BM) + thread * 4
    # 32 bits: counters of 64 take two instructions each.
    steps, left, skipped, stage = np.int32(last_step - first_step), np.int32(0), np.int32(skipped), np.int32(0)
    is_first = True
    while steps >= 0:
        if steps > 0:
            if left == 0:
                for q in range(PIXELS):
                    iz, iy, ix = (
                        z[q] + tables[np.uint64(tap_at)],
                        y[q] + tables[np.uint64(tap_at + 1)],
                        fx[q] + tables[np.uint64(tap_at + 2)],
                    )
                    x_at[q] = pixel_at[q] + tables[np.uint64(tap_at + 3)] + skipped * (BK * plane)
                    left_c[q] = 0
                    if 0 <= iz < g.iz and 0 <= iy < g.iy and 0 <= ix < g.ix:
                        left_c[q] = c_in - first_c - skipped * BK
                tap_at += TAP_FIELDS
                left = np.int32(chunks - skipped)
                skipped = np.int32(0)
            left = np.int32(left - 1)
            for q in range(PIXELS):
                for i in range(B_LOADS):
                    at = np.uint64(x_at[q] + i * (C_STEP * plane))
                    next_b[q * B_LOADS + i] = REAL(read_if(x, at, left_c[q] > i * C_STEP))
                x_at[q] += BK * plane
                left_c[q] -= BK
            for i in range(A_LOADS):
                if A_IS_EVEN or thread + i * THREADS < BK * BM // 4:
                    v0, v1, v2, v3 = load4(weight, np.uint64(packed_at + 4 * i * THREADS))
                    next_a[4 * i], next_a[4 * i + 1], next_a[4 * i + 2], next_a[4 * i + 3] = v0, v1, v2, v3
            packed_at += BK * BM
        if not is_first:
            products(
                memory, np.uint64(STAGE - stage + row), np.uint64(STAGE - stage + BK * BM + column), sums,
                BK, BM, BN, A_STRIP, B_STRIP, TM, TN,
            )  # fmt: skip
        if steps > 0:
            for i in range(A_LOADS):
                if A_IS_EVEN or thread + i * THREADS < BK * BM // 4:
                    values = next_a[4 * i], next_a[4 * i + 1], next_a[4 * i + 2], next_a[4 * i + 3]
                    store4(memory, np.uint64(stage + 4 * thread + 4 * i * THREADS), values)
            for q in range(PIXELS):
                for i in range(B_LOADS):
                    to = stage + BK * BM + (first_c + i * C_STEP) * BN + thread % BN + q * THREADS
                    memory[np.uint64(to)] = next_b[q * B_LOADS + i]
            cuda.syncthreads()
        stage, steps, is_first = np.int32(STAGE - stage), np.int32(steps - 1), False

    # What this lane writes: the same pixels of many rows. Their places are computed afresh, to leave registers to the sums.
    thread = afresh(np.int64(cuda.threadIdx.x))
    rest, row_block = divide(afresh(np.int64(cuda.blockIdx.x)), row_blocks)
    rest, pixel_block = divide(rest, pixel_blocks)
    rest, split = divide(rest, splits)
    group, phase = divide(rest, phases)
    of_phase = rows * ROW_FIELDS + phase * PHASE_FIELDS
    jy, jx = tables[np.uint64(of_phase + 3)], tables[np.uint64(of_phase + 4)]
    in_phase = tables[np.uint64(of_phase + 2)] * jy * jx
    pixels = g.n * in_phase
    c_out = divide(g.c_out, g.groups)[0]
    out_plane = g.oz * g.oy * g.ox
    out_base = split * (g.n * g.c_out * out_plane) + group * c_out * out_plane
    lane, warp = thread % LANES, thread // LANES
    warp_row, warp_column = warp // (BN // (WX * TN)) * (WY * TM), warp % (BN // (WX * TN)) * (WX * TN)
    row = warp_row + lane // WX * 4
    for q in range(STORED):
        pixel = pixel_block * BN + warp_column + lane % LINE + q * LANES
        n, j = divide(min(pixel, pixels - 1), in_phase)
        jz_of, j = divide(j, jy * jx)
        jy_of, jx_of = divide(j, jx)
        oz[q] = jz_of * g.sz + tables[np.uint64(of_phase + 5)]
        oy[q] = jy_of * g.sy + tables[np.uint64(of_phase + 6)]
        ox[q] = jx_of * g.sx + tables[np.uint64(of_phase + 7)]
        out_at[q] = n * g.c_out * out_plane + (oz[q] * g.oy + oy[q]) * g.ox + ox[q]
        is_inner = 0 <= oz[q] <= g.oz - tables[np.uint64(of_phase + 8)] and 0 <= oy[q] <= g.oy - tables[np.uint64(of_phase + 9)]
        is_inner = is_inner and 0 <= ox[q] <= g.ox - tables[np.uint64(of_phase + 10)]
        kind[q] = BORDER
        if pixel >= pixels:
            kind[q] = NOTHING
        elif is_inner:
            kind[q] = INNER
    is_finite = True
    region = warp * (ROUND * WY * LINE)
    for first in range(0, TM, ROUND):
        cuda.syncthreads()
        for i in range(ROUND):
            r = row_block * BM + row + (first + i) // 4 * A_STRIP + (first + i) % 4
            add = REAL(0)
            if split == 0 and r < rows:
                add = REAL(bias[np.uint64(group * c_out + tables[np.uint64(r * ROW_FIELDS)])])
            for strip in range(TN // 4):
                to = region + (i * WY + lane // WX) * LINE + strip * B_STRIP + lane % WX * 4
                s = (first + i) * TN + 4 * strip
                store4(memory, np.uint64(to), (sums[s] + add, sums[s + 1] + add, sums[s + 2] + add, sums[s + 3] + add))
        cuda.syncthreads()
        for p in range(PASSES):
            part = p * (ROUND * WY // PASSES) + lane // LINE
            i = first + part // WY
            r = row_block * BM + warp_row + i // 4 * A_STRIP + i % 4 + part % WY * 4
            if r < rows:
                of_row = r * ROW_FIELDS
                row_at = out_base + tables[np.uint64(of_row + 1)]
                for q in range(STORED):
                    is_written = kind[q] == INNER
                    if kind[q] == BORDER:
                        is_written = 0 <= oz[q] + tables[np.uint64(of_row + 2)] < g.oz
                        is_written = is_written and 0 <= oy[q] + tables[np.uint64(of_row + 3)] < g.oy
                        is_written = is_written and 0 <= ox[q] + tables[np.uint64(of_row + 4)] < g.ox
                    if is_written:
                        value = memory[np.uint64(region + part * LINE + lane % LINE + q * LANES)]
                        out[np.uint64(row_at + out_at[q])] = OUT(value)
                        is_finite = is_finite and value - value == REAL(0)
    if is_finite:
        return

    # A zero that stands for a pixel outside, or for a tap that a row has not, may have met a value that is not finite.
    # Places afresh again: kept from above, they made 128 x 128 spill 8 bytes in float16 on compute capability 8.0.
    thread = afresh(np.int64(cuda.threadIdx.x))
    rest, row_block = divide(afresh(np.int64(cuda.blockIdx.x)), row_blocks)
    rest, pixel_block = divide(rest, pixel_blocks)
    rest, split = divide(rest, splits)
    group, phase = divide(rest, phases)
    of_phase = rows * ROW_FIELDS + phase * PHASE_FIELDS
    taps_at = rows * ROW_FIELDS + phases * PHASE_FIELDS
    order_at = taps_at + entries * TAP_FIELDS
    jy, jx = tables[of_phase + 3], tables[of_phase + 4]
    in_phase = tables[of_phase + 2] * jy * jx
    all_steps = tables[of_phase + 1] * chunks
    weight_at = ((group * row_blocks + row_block) * entries + tables[of_phase]) * chunks * (BK * BM)
    lane, warp = thread % LANES, thread // LANES
    for m in range(TM // ROUND * PASSES * STORED):
        part = m // STORED % PASSES * (ROUND * WY // PASSES) + lane // LINE
        i = m // STORED // PASSES * ROUND + part // WY
        block_row = warp // (BN // (WX * TN)) * (WY * TM) + i // 4 * A_STRIP + i % 4 + part % WY * 4
        r = row_block * BM + block_row
        pixel = pixel_block * BN + warp % (BN // (WX * TN)) * (WX * TN) + lane % LINE + m % STORED * LANES
        if r < rows and pixel < g.n * in_phase:
            n, j = divide(pixel, in_phase)
            jz_of, j = divide(j, jy * jx)
            jy_of, jx_of = divide(j, jx)
            to_z = jz_of * g.sz + tables[of_phase + 5] + tables[r * ROW_FIELDS + 2]
            to_y = jy_of * g.sy + tables[of_phase + 6] + tables[r * ROW_FIELDS + 3]
            to_x = jx_of * g.sx + tables[of_phase + 7] + tables[r * ROW_FIELDS + 4]
            channel = group * divide(g.c_out, g.groups)[0] + tables[r * ROW_FIELDS]
            if 0 <= to_z < g.oz and 0 <= to_y < g.oy and 0 <= to_x < g.ox:
                total = REAL(0)
                if split == 0:
                    total = REAL(bias[channel])
                for step in range(divide(all_steps * split, splits)[0], divide(all_steps * (split + 1), splits)[0]):
                    t, chunk = divide(step, chunks)
                    t += tables[of_phase]
                    of_tap = taps_at + t * TAP_FIELDS
                    iz, iy, ix = jz_of + tables[of_tap], jy_of + tables[of_tap + 1], jx_of + tables[of_tap + 2]
                    has_tap = tables[order_at + t * fold + divide(r, fold)[1]] >= 0
                    if has_tap and 0 <= iz < g.iz and 0 <= iy < g.iy and 0 <= ix < g.ix:
                        for k in range(min(BK, divide(g.c_in, g.groups)[0] - chunk * BK)):
                            c = n * g.c_in + group * divide(g.c_in, g.groups)[0] + chunk * BK + k
                            value = REAL(x[np.uint64(((c * g.iz + iz) * g.iy + iy) * g.ix + ix)])
                            total = fma(value, weight[np.uint64(weight_at + step * (BK * BM) + k * BM + block_row)], total)
                to = split * g.n * g.c_out * g.oz * g.oy * g.ox
                to += (((n * g.c_out + channel) * g.oz + to_z) * g.oy + to_y) * g.ox + to_x
                out[np.uint64(to)] = OUT(total)


def _pack(g, tables, weight, packed, order_at, rows, fold, row_blocks, entries, chunks, bk, bm):
    """Weights (C_in, C_out//g, taps) as [group][row block][tap][c block][BK][BM]."""
    c_in, c_out = divide(g.c_in, g.groups)[0], divide(g.c_out, g.groups)[0]
    taps = g.kz * g.ky * g.kx
    at, threads = cuda.grid(1), cuda.gridsize(1)
    while at < g.groups * row_blocks * entries * chunks * bk * bm:
        rest, m = divide(at, bm)
        rest, k = divide(rest, bk)
        rest, chunk = divide(rest, chunks)
        rest, entry = divide(rest, entries)
        group, row_block = divide(rest, row_blocks)
        r, c = row_block * bm + m, chunk * bk + k
        value = REAL(0)
        if c < c_in and r < rows:
            o, phase = divide(r, fold)
            tap = np.int64(tables[np.uint64(order_at + entry * fold + phase)])
            if tap >= 0:
                value = REAL(weight[np.uint64(((group * c_in + c) * c_out + o) * taps + tap)])
        packed[np.uint64(at)] = value
        at += threads


def _add_parts(parts, out, size, count):
    """Sum so many outputs that stand after each other, in their order."""
    at, threads = cuda.grid(1), cuda.gridsize(1)
    while at < size:
        total = parts[np.uint64(at)]
        for part in range(1, count):
            total += parts[np.uint64(at + part * size)]
        out[np.uint64(at)] = OUT(total)
        at += threads


PACK = Kernel(_pack, "geometry i32[] T[] R[] i64 i64 i64 i64 i64 i64 i64 i64")
ADD_PARTS, ADD_PARTS_WIDE = (Kernel(_add_parts, "R[] O[] i64 i64", wide=wide) for wide in (False, True))


@lru_cache(64)
def kernel(tile: Tile, wide: bool = False) -> Kernel:
    """The kernel of a tile; ``wide`` for one that writes sums of float16 products in float32."""
    arguments = "geometry i32[] T[] R[] T[] O[] i64 i64 i64 i64 i64 i64 i64 i64"
    constants = tuple(tile.constants.items())
    return Kernel(_multiply, arguments, tile.threads, constants, len(tile), wide, tile.bound, tile.unbound)


#: All that a problem may launch, of either width of elements; the wide ones where sums of float16 are cut into parts.
ALL = (
    *map(kernel, dict.fromkeys((*_tiles.SINGLE, *_tiles.DOUBLE))),
    *(kernel(tile, wide=True) for tile in _tiles.SINGLE),
    PACK,
    ADD_PARTS,
)


def layout(problem: Problem) -> Layout:
    """How a problem is cut up on the present device."""
    return _tiles.layout(problem, jit_cuda.processors(), _tiles.SIMULATED if jit_cuda.simulated() else ())


class State(NamedTuple):
    """Packed weights and tables on the device."""

    problem: Problem
    layout: Layout
    tables: Any
    packed: Any
    bias: Any


def prepare(problem: Problem, weight: Any, bias: Any, stream: Any, cut: Layout | None = None) -> State:
    """Tables and packed weights of a problem.

    Args:
        problem: what is computed.
        weight: device array of ``problem.weight_shape``'s elements.
        bias: device array that is kept.
        stream: orders what is launched.
        cut: how to cut the problem up; by default the way that is predicted fastest.
    """
    cut = cut or layout(problem)
    packed = _cuda.empty(cut.packed_size, _cuda.real(problem.dtype), stream)
    tables = _cuda.on_device(cut.tables, stream)
    sizes = jit_cuda.sizes(problem.geometry)
    PACK.stride_over(
        problem.dtype, cut.packed_size, stream, sizes, tables, _cuda.flat(weight), packed, cut.order_at, cut.rows,
        cut.fold, cut.row_blocks, cut.entries, cut.chunks, cut.tile.BK, cut.tile.BM,
    )  # fmt: skip
    return State(problem, cut, tables, packed, bias)


def run(state: State, x: Any, out: Any, stream: Any, wide: bool = False) -> None:
    """Compute ``out``, both with one axis; of float32 where ``wide``, whatever the problem's dtype."""
    problem, cut = state.problem, state.layout
    size = prod(problem.out_shape)
    target = out if cut.splits == 1 else _cuda.empty(cut.splits * size, _cuda.real(problem.dtype), stream)
    kernel(cut.tile, wide or cut.splits > 1).launch(
        problem.dtype, cut.blocks, stream, jit_cuda.sizes(problem.geometry), state.tables, x, state.packed, state.bias, target,
        cut.rows, cut.row_blocks, cut.pixel_blocks, cut.phases, cut.entries, cut.chunks, cut.splits, cut.fold,
    )  # fmt: skip
    if cut.splits > 1:
        (ADD_PARTS_WIDE if wide else ADD_PARTS).stride_over(problem.dtype, size, stream, target, out, size, cut.splits)


def prepared_bytes(problem: Problem) -> int:
    """Bytes that ``prepare`` keeps of weights and bias."""
    return _cuda.real_bytes(problem) * layout(problem).packed_size + problem.itemsize * problem.c_out


def workspace_bytes(problem: Problem) -> int:
    """Bytes that ``run`` takes for the parts of the sum."""
    splits = layout(problem).splits
    return _cuda.real_bytes(problem) * splits * prod(problem.out_shape) if splits > 1 else 0


def estimate(problem: Problem) -> float:
    """Predicted seconds of ``run`` on the present device."""
    return layout(problem).seconds


def describe(problem: Problem) -> str:
    """How a problem is cut up, in a short sentence."""
    cut = layout(problem)
    text = f"{cut.blocks} blocks of {cut.tile.BM} rows x {cut.tile.BN} pixels"
    text += f" of {cut.phases} phases" if cut.fold == 1 else f", {cut.fold} phases as rows of {cut.phases}"
    return text + (f", sums in {cut.splits} parts" if cut.splits > 1 else "")
