"""Kernel = stride without padding: one GEMM whose rows are shuffled into place. A road of its own for ``phase``.

::

    out[o, j*stride + r] = bias[o] + sum over c of  x[c, j] * weight[c, o, r]

Every phase has one tap, so that (o, r) numbers the rows of a matrix that the caller's memory already holds, input channel by
input channel. A tile takes up to 12 of them at 32 pixels and interleaves the phases along x in its registers; it writes runs of
the output's rows. No sum is ever stored and read again, and packing the weights is a copy.

Source: Shi et al., "Is the deconvolution layer the same as a convolutional layer?", arXiv:1609.07009 (sub-pixel convolution).
"""

from __future__ import annotations

from functools import cache, lru_cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numba import carray, from_dtype, types
from numpy.typing import NDArray

from tconv_bench import simd
from tconv_bench.jit import kernel, native
from tconv_bench.problem import Problem
from tconv_bench.simd import WIDE, as_pointer, call_shuffle, call_transpose, copy, copy_rows
from tconv_bench.variants import _launch
from tconv_bench.variants._blocks import next_row
from tconv_bench.variants._launch import BIAS_AT, PANELS_AT, RECORD_AT, TILE_AT, WEIGHT_AT
from tconv_bench.variants._phase_layout import busiest, packed_length

UNITS_AT = _launch.FIRST_FREE
FEWEST_POSITIONS = 64  # fewer fill the tiles badly; vectors over the channels are better there
PACKED_BYTES = 512 * 1024  # packed input of a task: half of a 1 MiB second-level cache
PACK_ROWS = 8  # input channels whose weights are packed together
STORE_CYCLES = 1.5  # of a vector of sums
PACK_CYCLES = 0.3  # of an element packed
COPY_CYCLES = 0.4  # of a weight packed
TASK_CYCLES = 3000
ALONE_CYCLES = 25_000
STAYS_BYTES = 256 * 1024  # weights that the second-level cache keeps beside the input


class Shape(NamedTuple):
    """What the machine code needs, as a ``RECORD`` there."""

    batch: int
    groups: int
    c_in: int  # of a group
    rows: int  # of a group: output channels x taps
    stride: int  # along x
    positions: int  # input pixels of all images
    pixels: int  # of an image
    ix: int
    iy: int
    x_n: int
    x_c: int
    x_x: int
    out_n: int
    z_step: int  # in the output, from an input pixel to the next slab's, row's and its neighbour
    y_step: int
    x_step: int
    panels: int
    task_positions: int
    task_panels: int
    turn: int  # the address of ``simd.transpose``


RECORD = np.dtype([(name, np.int64) for name in Shape._fields])


class Layout(NamedTuple):
    """A problem's plan of work; arrays are read by the machine code."""

    shape: Shape
    record: NDArray[Any]
    tasks: int
    alone: bool
    cycles: float  # of the busiest thread
    panels: NDArray[np.int64]  # (panel, 2): first row, height
    units: NDArray[np.int64]  # where the first pixel of each run of ``stride`` rows goes, over all groups
    addresses: NDArray[np.int64]
    pack_tasks: int
    weights: int


@lru_cache(maxsize=512)
def fits(problem: Problem) -> bool:
    """Whether every output element has one tap, and tiles know the stride along x."""
    g = problem.geometry
    whole = (g.kz, g.ky, g.kx) == (g.sz, g.sy, g.sx) and (g.iz * g.sz, g.iy * g.sy, g.ix * g.sx) == (g.oz, g.oy, g.ox)
    positions = g.n * g.iz * g.iy * g.ix
    return (
        whole
        and (g.pz, g.py, g.px) == (0, 0, 0)
        and all(d == 1 or k == 1 for k, d in ((g.kz, g.dz), (g.ky, g.dy), (g.kx, g.dx)))
        and g.sx in simd.SHUFFLED
        and positions >= FEWEST_POSITIONS
        and g.c_in // g.groups * problem.itemsize * _tile_positions(problem) <= PACKED_BYTES
    )


def _lanes(problem: Problem) -> int:
    return simd.VECTOR_BYTES // problem.itemsize


def _tile_positions(problem: Problem) -> int:
    return WIDE * _lanes(problem)


def _heights(rows: int, stride: int) -> list[int]:
    known = sorted(simd.SHUFFLED[stride], reverse=True)
    found = [known[0]] * (rows // known[0])
    left = rows % known[0]
    for height in known[1:]:
        while left >= height:
            found.append(height)
            left -= height
    return found


@lru_cache(maxsize=512)
def layout(problem: Problem, threads: int) -> Layout:
    """The plan of work on a number of threads, for channels-first memory."""
    alone = _layout(problem, 1)
    return alone if threads == 1 or alone.cycles < ALONE_CYCLES else _layout(problem, threads)


def _layout(problem: Problem, threads: int) -> Layout:
    g, lanes = problem.geometry, _lanes(problem)
    c_in, taps = g.c_in // g.groups, problem.taps
    rows, pixels = g.c_out // g.groups * taps, g.iz * g.iy * g.ix
    positions, tile = g.n * pixels, 2 * lanes
    heights = _heights(rows, g.sx)
    starts = np.cumsum([0, *heights])[:-1]
    room = max(tile, PACKED_BYTES // (problem.itemsize * c_in) // tile * tile)
    best: tuple[float, int, int, int] | None = None
    fewest = -(-positions // min(room, 16 * tile))
    for wanted in {fewest, fewest + 1, *(-(-fewest // (m * threads)) * m * threads for m in (1, 2, 4))}:
        task = -(-(-(-positions // wanted)) // tile) * tile
        pieces = -(-positions // task)
        sizes = np.full(pieces, task)
        sizes[-1] = positions - (pieces - 1) * task
        for panel_parts in {1, 2, threads, 2 * threads}:
            task_panels = -(-len(heights) // panel_parts)
            tall = np.add.reduceat(heights, range(0, len(heights), task_panels))
            sums = tall[:, None] * 2 * -(-sizes // tile)
            work = sums * (c_in / 2 + STORE_CYCLES) + c_in * sizes * PACK_CYCLES + TASK_CYCLES
            cycles = busiest(np.tile(work.reshape(-1), g.groups), threads)
            if best is None or cycles < best[0]:
                best = cycles, task, task_panels, len(tall) * pieces * g.groups
    assert best is not None
    cycles, task, task_panels, tasks = best
    out_x, out_y, out_z = 1, g.ox, g.ox * g.oy
    out_c = out_z * g.oz
    shape = Shape(
        g.n, g.groups, c_in, rows, g.sx, positions, pixels, g.ix, g.iy, g.c_in * pixels, pixels, 1, g.c_out * out_c,
        g.sz * out_z, g.sy * out_y, g.sx * out_x, len(heights), task, task_panels, simd.native_transpose(problem.dtype).address,
    )  # fmt: skip
    units = np.array([
        o * out_c + z * out_z + y * out_y for o, z, y in product(range(g.c_out), range(g.kz), range(g.ky))
    ], np.int64)  # fmt: skip
    panels = np.array([*zip(starts, heights)], np.int64)
    found = Layout(
        shape, np.array([tuple(shape)], RECORD), tasks, threads == 1, cycles, panels, units,
        np.zeros(UNITS_AT + 1, np.int64), g.groups * -(-c_in // PACK_ROWS), g.c_in * rows,
    )  # fmt: skip
    found.addresses[TILE_AT] = simd.native_shuffle(problem.dtype, g.sx).address
    found.addresses[[RECORD_AT, PANELS_AT, UNITS_AT]] = [a.ctypes.data for a in (found.record, panels, units)]
    return found


def with_channels_last(found: Layout, problem: Problem) -> Layout:
    """The same work on an input whose channels are neighbours."""
    g = problem.geometry
    shape = found.shape._replace(x_c=1, x_x=g.c_in)
    record, addresses = np.array([tuple(shape)], RECORD), found.addresses.copy()
    addresses[RECORD_AT] = record.ctypes.data
    return found._replace(shape=shape, record=record, addresses=addresses)


_length = kernel(packed_length)


@kernel
def _pack(s, x, x_at, low, count, length, packed):
    """packed[c, i] = pixel ``low + i`` of channel c."""
    at = 0
    lines = np.arange(s.c_in if s.x_x > 1 else 0) * length
    while at < count:
        n, pixel = divmod(low + at, s.pixels)
        run = min(s.pixels - pixel, count - at)
        source = x_at + n * s.x_n + pixel * s.x_x
        if s.x_x == 1:
            for c in range(s.c_in):
                copy(x, source + c * s.x_c, packed, c * length + at, run)
        else:
            call_transpose(s.turn, s.x_x, s.c_in, x, source, packed, lines, at, run, run)
        at += run


@kernel
def _segments(s, low, high, width, segments, starts):
    """Triples (place in the output of element 0, first, last element) of the runs of each tile of ``width`` positions."""
    found = 0
    row, jx = divmod(low, s.ix)
    slab, jy = divmod(row, s.iy)
    slabs = s.pixels // (s.ix * s.iy)
    n, jz = divmod(slab, slabs)
    tile = 0
    for first in range(low, high, width):
        starts[tile] = found
        tile += 1
        at = 0
        while at < min(width, high - first):
            run = min(s.ix - jx, min(width, high - first) - at)
            segments[found] = n * s.out_n + jz * s.z_step + jy * s.y_step + (jx - at) * s.x_step
            segments[found + 1] = at * s.stride
            segments[found + 2] = (at + run) * s.stride
            found += 3
            at += run
            jx += run
            if jx == s.ix:
                jx = 0
                jy, jz, n = next_row(s.iy, slabs, jy, jz, n)
    starts[tile] = found
    return tile


def _native_task(task, tables, x, out):
    """Positions of some panels of rows."""
    x, out = carray(x, 1), carray(out, 1)
    shape = carray(as_pointer(tables[RECORD_AT]), 1, dtype=RECORD)
    s = shape[0]
    weight = carray(as_pointer(tables[WEIGHT_AT]), 1, dtype=out.dtype)
    bias = carray(as_pointer(tables[BIAS_AT]), 1, dtype=out.dtype)
    panels = carray(as_pointer(tables[PANELS_AT]), (s.panels, 2), dtype=np.int64)
    units = carray(as_pointer(tables[UNITS_AT]), 1, dtype=np.int64)
    lanes = simd.VECTOR_BYTES // out.itemsize
    pieces = (s.positions + s.task_positions - 1) // s.task_positions
    panel_parts = (s.panels + s.task_panels - 1) // s.task_panels
    task, piece = divmod(task, pieces)
    group, panel_part = divmod(task, panel_parts)
    low = piece * s.task_positions
    high = min(s.positions, low + s.task_positions)
    first_panel, last_panel = panel_part * s.task_panels, min(s.panels, (panel_part + 1) * s.task_panels)
    room = s.task_positions + WIDE * lanes
    length = _length(room, 0, lanes)
    packed = np.empty(s.c_in * length, out.dtype)
    x_at = group * s.c_in * s.x_c
    _pack(s, x, x_at, low, high - low, length, packed)
    most = 3 * (room // lanes + room // s.ix + 4)
    segments, wide_segments = np.empty(most, np.int64), np.empty(most, np.int64)
    starts, wide_starts = np.empty(room // lanes + 2, np.int64), np.empty(room // lanes + 2, np.int64)
    tiles = _segments(s, low, high, 2 * lanes, segments, starts)
    wide_tiles = tiles
    if WIDE > 2 and panels[s.panels - 1, 1] <= 6:
        wide_tiles = _segments(s, low, high, WIDE * lanes, wide_segments, wide_starts)
    lines = np.empty(simd.TALL * WIDE, np.int64)
    line = 64 // out.itemsize
    size = out.itemsize
    # Meanwhile the next task's input is asked for, a channel at each tile; where weights are many, the next panel's.
    few = s.c_in * s.rows * size <= STAYS_BYTES
    next_low = min(low + s.task_positions, s.positions - 1)
    n, pixel = divmod(next_low, s.pixels)
    next_at = x_at + n * s.x_n + pixel * s.x_x
    next_step = (min(s.task_positions, s.pixels - pixel) * size - 1) // s.c_in + 1
    next_c = s.c_in if s.x_x > 1 or low + s.task_positions >= s.positions else 0
    for panel in range(first_panel, last_panel):
        start, height = panels[panel, 0], panels[panel, 1]
        row = group * s.rows + start
        wide = WIDE > 2 and height <= 6
        vectors = WIDE if wide else 2
        unit_at, count = row // s.stride, 0
        for unit in range(height // s.stride):
            for i in range(0, vectors * lanes * s.stride, line):
                lines[count] = units[unit_at + unit] + i
                count += 1
        own_tiles = wide_tiles if wide else tiles
        stream, step = weight.ctypes.data + (row + height) * s.c_in * size, (height * size - 1) // own_tiles + 1
        jump = step * s.c_in
        if few:
            stream, step, jump = lines.ctypes.data, 0, 0
            if next_c < s.c_in:
                stream, step, jump = x.ctypes.data + (next_at + next_c * s.x_c) * size, next_step, s.x_c * size
            next_c += own_tiles
        call_shuffle(
            tables[TILE_AT], height, own_tiles, weight, row * s.c_in, height, packed, 0, length, vectors * lanes, s.c_in, bias,
            row, out, units, unit_at, wide_segments if wide else segments, wide_starts if wide else starts, lines, count,
            stream, step, jump,
        )  # fmt: skip


def _native_pack(task, tables, weight, packed):
    """(C_in, C_out//g, kernel) -> [g][panel][C_in//g][height], some input channels of a group."""
    weight, packed = carray(weight, 1), carray(packed, 1)
    shape = carray(as_pointer(tables[RECORD_AT]), 1, dtype=RECORD)
    s = shape[0]
    panels = carray(as_pointer(tables[PANELS_AT]), (s.panels, 2), dtype=np.int64)
    group, block = divmod(task, (s.c_in + PACK_ROWS - 1) // PACK_ROWS)
    first = block * PACK_ROWS
    count = min(PACK_ROWS, s.c_in - first)
    for panel in range(s.panels):
        start, height = panels[panel, 0], panels[panel, 1]
        to = (group * s.rows + start) * s.c_in + first * height
        source = (group * s.c_in + first) * s.rows + start
        copy_rows(weight, source, s.rows, packed, to, height, height, count)


@cache
def codes(dtype: str) -> tuple[Any, Any]:
    """``_native_task`` and ``_native_pack`` of a dtype as machine code."""
    i, p = types.int64, types.CPointer(from_dtype(np.dtype(dtype)))
    signature = types.void(i, types.CPointer(i), p, p)
    return native(signature, _native_task), native(signature, _native_pack)


def row_bias(problem: Problem, bias: NDArray[Any] | None) -> NDArray[Any]:
    """The bias of every row: of its output channel."""
    if bias is None:
        return np.zeros(problem.c_out * problem.taps, problem.dtype)
    return np.repeat(bias, problem.taps)


def unpacked(
    problem: Problem, found: Layout, weight: NDArray[Any], row_bias: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Weights and bias as the user gave them, from packed ones."""
    s = found.shape
    matrix = np.empty((s.groups, s.c_in, s.rows), problem.dtype)
    for group in range(s.groups):
        for start, height in found.panels:
            at = (group * s.rows + start) * s.c_in
            matrix[group, :, start : start + height] = weight[at : at + s.c_in * height].reshape(s.c_in, height)
    return matrix.reshape(problem.weight_shape), row_bias[:: problem.taps].copy()


def workspace_elements(problem: Problem, found: Layout) -> int:
    """Elements that a task holds: its packed input."""
    lanes = _lanes(problem)
    return found.shape.c_in * packed_length(found.shape.task_positions + WIDE * lanes, 0, lanes)


def preparation_cycles(found: Layout) -> float:
    """Cycles that packing the weights takes, and the caller's thread waits for."""
    return found.weights * COPY_CYCLES


def describe(problem: Problem, found: Layout) -> str:
    """The road, its tile and its tasks, for a plan's report."""
    s = found.shape
    tallest = int(found.panels[0, 1])
    vectors = simd.SHUFFLED[s.stride][tallest]
    where = "in the caller's thread" if found.alone else f"{found.tasks} tasks"
    return (
        f"one GEMM, tiles of {tallest} (channel, tap) x {vectors} vectors of pixels interleaved in registers, {where}, "
        f"{min(s.task_positions, s.positions)} of {s.positions} pixels each"
    )
