"""Tiles, lines and task cuts of ``winograd``: everything that depends on the problem alone, computed once per problem.

Along an axis with stride s, padding p and r = ceil(kernel / s) taps per phase, phase k0 = 0 ... s - 1 adds to output pixel
``s*j + k0 - p`` the taps ``k0 + s*i`` at input pixels ``j - i``, so that a tile of ``size`` neighbouring j reads the same
window of ``size + r - 1`` pixels for every phase. Phases with a tap less read the window's last elements. Tiles of all rows,
slabs and images are numbered on one line. The input lies on ``size`` lines per axis, pixel ``size*t + b`` as element t of
line b, so that any element of all windows is a vector at a constant distance.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from math import gcd, prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tconv_bench import simd
from tconv_bench.problem import Geometry, Problem
from tconv_bench.variants import _launch
from tconv_bench.variants._launch import PANELS_AT, RECORD_AT, TILE_AT
from tconv_bench.variants._phase_layout import _cost, _round, _strides, busiest, distance, heights

PRODUCTS_BYTES = 13 * 2**18  # transformed input of a task's input channels, read once per panel
LIMIT_BYTES = 15 * 2**18  # everything that a task holds
# What a task costs besides its multiply-adds, in cycles (Zen 4): an element gathered, a vector transformed or summed up, an
# element stored, a tile's call, a task begun.
PACK_CYCLES = 2.0
LINE_CYCLES = 5.0
STORE_CYCLES = 0.5
SINGLE_STORE_CYCLES = 2.5  # where a row's turns are more than ``simd.interleave`` has in registers
CALL_CYCLES = 200
TASK_CYCLES = 4000
BYTE_CYCLES = 0.08  # of weights, transformed input and sums that come from beyond the second-level cache
SHORT_ROW = 48  # pixels of rows that are gathered one by one: a vector's masks take as long as 40
SIZES = {1: (1,), 2: (3, 2), 3: (2,)}  # outputs of a tile and phase, by taps
AXES_AT, HEIGHTS_AT, TURNED_AT, PACK_AT, RAW_AT, WEIGH_AT, SQUARES_AT, SIZE = range(_launch.FIRST_FREE, _launch.FIRST_FREE + 8)
NEAR_BYTES = 16 * 1024  # of weights that are transformed together, in half of the first-level cache
TASK_BYTES = 2**17  # of transformed weights of a task


class Axis(NamedTuple):
    """One spatial axis."""

    size: int  # outputs of a tile and phase
    taps: int  # of the phases with most of them
    mixed: int  # some phases have a tap less
    stride: int
    lines: int  # rows of products of a tile, over both kinds of phases
    first: int  # input pixel of the first window's first element
    crop: int  # outputs of the first tile before the first one that is wanted
    tiles: int
    pitch: int  # tiles from a row to the next on the line
    phases: tuple[tuple[int, int], ...]  # (first line, lines) of each phase


class Shape(NamedTuple):
    """What the kernels need, as a ``RECORD`` there."""

    batch: int
    c_in: int  # of a group
    c_out: int  # of a group
    groups: int
    iz: int
    iy: int
    ix: int
    oz: int
    oy: int
    ox: int
    sz: int
    sy: int
    sx: int
    mz: int  # outputs of a tile and phase
    my: int
    mx: int
    rz: int  # taps
    ry: int
    rx: int
    mixed_z: int
    mixed_y: int
    mixed_x: int
    lz: int  # lines
    ly: int
    lx: int
    first_z: int
    first_y: int
    first_x: int
    crop_z: int
    crop_y: int
    crop_x: int
    tz: int
    ty: int
    tx: int
    pz: int
    py: int
    px: int
    positions: int
    products: int  # of a tile, over all phases
    panels: int
    task_positions: int
    task_panels: int
    far: int  # the output is larger than the second-level cache
    block: int  # input channels transformed at once
    kz: int  # taps of the kernel
    ky: int
    kx: int
    near_block: int  # input channels of a panel whose weights are transformed together
    pack_block: int  # those of a task
    c_padded: int  # channels of a group's panels
    over_channels: int  # vectors run over output channels: ``_winograd_channels``
    turn: int  # the address of ``simd.transpose``
    weaver: int  # the address of the code that interleaves a row's outputs, and of the one that copies rows
    writer: int
    x_n: int
    x_c: int
    x_z: int
    x_y: int
    x_x: int
    out_n: int
    out_c: int
    out_z: int
    out_y: int
    out_x: int


RECORD = np.dtype([(name, np.int64) for name in Shape._fields])


class Layout(NamedTuple):
    """A problem's plan of work; arrays are read by the kernels."""

    shape: Shape
    axes: tuple[Axis, Axis, Axis]
    record: NDArray[Any]
    panels: NDArray[np.int64]  # (panel, 3): first channel, rows of its weights, channels
    phases: NDArray[
        np.int64
    ]  # (first line, lines) of each phase of z, then y, then x; then 1 for each line that takes the bias
    addresses: NDArray[np.int64]
    tasks: int
    cycles: float  # of the busiest thread
    pack_tasks: int
    weights: int  # elements of the transformed weights
    tiles: NDArray[np.int64] | None = None  # over channels: the height of the next tile of so many blocks


def unsupported(problem: Problem) -> str:
    """Why there is nothing to save or no transform for it; "" where there is."""
    g = problem.geometry
    taps = [-(-k // s) for k, s in ((g.kz, g.sz), (g.ky, g.sy), (g.kx, g.sx))]
    if problem.dtype not in ("float32", "float64"):
        return f"winograd computes with halves and has no {problem.dtype}; use method='phase'"
    if any(k > 1 and d > 1 for k, d in zip(problem.kernel, problem.dilation)):
        return f"winograd needs dilation 1, not {problem.dilation}; use method='phase'"
    if any(k < s for k, s in zip(problem.kernel, problem.stride)) or not 1 < max(taps) <= 3:
        return (
            f"winograd needs two or three taps per phase along an axis, one elsewhere, not kernel {problem.kernel} at stride "
            f"{problem.stride}; use method='phase'"
        )
    return ""


def _axis(size: int, in_size: int, kernel: int, stride: int, pad: int, out: int) -> Axis:
    taps = -(-kernel // stride)
    full = kernel - (taps - 1) * stride  # phases with as many taps
    rows = size + taps - 1 if taps > 1 else 1
    less = size + taps - 2
    skipped, crop = divmod(pad, stride)
    first = skipped - (taps - 1)
    tiles = -(-((out - 1 + pad) // stride - skipped + 1) // size)
    # what a row's last windows read beyond its end are the zeros at the next one's beginning
    reach = max(0, rows - size - max(0, -first)) if taps > 1 else 0
    used = min(in_size, first + size * (tiles - 1) + rows) - first
    pitch = max(tiles, -(-(used + reach) // size))
    phases = tuple((0, rows) if k < full else (rows, less) for k in range(stride))
    return Axis(
        size, taps, int(full < stride), stride, rows + (less if full < stride else 0), first, crop, tiles, pitch, phases
    )


@lru_cache(maxsize=512)
def layout(problem: Problem, threads: int) -> Layout:
    """The plan of work on a number of threads; tiles' sizes do not depend on the threads, so that results do not either."""
    g = problem.geometry
    sizes = product(*(SIZES[-(-k // s)] for k, s in ((g.kz, g.sz), (g.ky, g.sy), (g.kx, g.sx))))
    alone = min((_layout(problem, g, own, 1) for own in sizes), key=lambda found: found.cycles)
    return alone if threads == 1 else _layout(problem, g, tuple(axis.size for axis in alone.axes), threads)


def window(axis: Axis) -> int:
    """Elements of a tile's window."""
    return axis.size + axis.taps - 1


def _layout(problem: Problem, g: Geometry, sizes: tuple[int, ...], threads: int) -> Layout:
    z = _axis(sizes[0], g.iz, g.kz, g.sz, g.pz, g.oz)
    y = _axis(sizes[1], g.iy, g.ky, g.sy, g.py, g.oy)
    x = _axis(sizes[2], g.ix, g.kx, g.sx, g.px, g.ox)
    axes = (z, y, x)
    c_in, c_out = g.c_in // g.groups, g.c_out // g.groups
    positions = (((max(1, g.n) - 1) * z.pitch + z.tiles - 1) * y.pitch + y.tiles - 1) * x.pitch + x.tiles
    products = prod(sum(lines for _, lines in axis.phases) for axis in axes)
    panels, start = [], 0
    for height in heights(c_out):
        panels.append((start, height, height))
        start += height
    cut = _cut(problem, axes, positions, products, panels, threads)
    near_block, pack_block = pack_blocks(problem, c_in, panels[0][1], products)
    far = int(distance(problem) > 0)
    weaver, writer = (simd.native_rows(problem.dtype, stride).address for stride in (x.size * x.stride, 1))
    shape = Shape(
        g.n, c_in, c_out, g.groups, g.iz, g.iy, g.ix, g.oz, g.oy, g.ox, *_each(axes, "stride"), *_each(axes, "size"),
        *_each(axes, "taps"), *_each(axes, "mixed"), *_each(axes, "lines"), *_each(axes, "first"), *_each(axes, "crop"),
        *_each(axes, "tiles"), *_each(axes, "pitch"), positions, products, len(panels), cut[0], cut[1], far, cut[2],
        g.kz, g.ky, g.kx, near_block, pack_block, c_out, 0, 0, weaver, writer,
        *_strides((g.n, g.c_in, g.iz, g.iy, g.ix), False), *_strides((g.n, g.c_out, g.oz, g.oy, g.ox), False),
    )  # fmt: skip
    record = np.array([tuple(shape)], RECORD)
    table = np.array(panels, np.int64)
    flat = [number for axis in axes for pair in axis.phases for number in pair]
    phases = np.array(flat + [flag for axis in axes for flag in _takes_bias(axis)], np.int64)
    addresses = np.zeros(SIZE, np.int64)
    addresses[TILE_AT] = simd.native_sum_taps(problem.dtype).address
    addresses[[RECORD_AT, PANELS_AT, AXES_AT]] = [array.ctypes.data for array in (record, table, phases)]
    pack_tasks = g.groups * len(panels) * -(-c_in // pack_block)
    return Layout(
        shape, axes, record, table, phases, addresses, cut[3] if g.n else 0, cut[4], pack_tasks, products * c_in * g.c_out
    )


def pack_blocks(problem: Problem, c_in: int, height: int, products: int) -> tuple[int, int]:
    """Input channels of a panel whose weights are transformed together, and those of a task; both fill whole vectors."""
    lanes = simd.VECTOR_BYTES // problem.itemsize
    unit = lanes // gcd(lanes, height)
    fit = max(1, NEAR_BYTES // (problem.itemsize * _round(problem.taps, lanes) * height * unit)) * unit
    near = min(fit, _round(c_in, unit))
    return near, max(1, TASK_BYTES // (problem.itemsize * products * height * near)) * near


def reordered(found: Layout, x_last: bool, out_last: bool) -> Layout:
    """The same work on channels-last memory of the input, of the output, or of both."""
    if not (x_last or out_last):
        return found
    s = found.shape
    x = _strides((s.batch, s.groups * s.c_in, s.iz, s.iy, s.ix), x_last)
    out = _strides((s.batch, s.groups * s.c_out, s.oz, s.oy, s.ox), out_last)
    shape = s._replace(
        far=s.far * (not out_last), x_n=x[0], x_c=x[1], x_z=x[2], x_y=x[3], x_x=x[4], out_n=out[0], out_c=out[1], out_z=out[2],
        out_y=out[3], out_x=out[4],
    )  # fmt: skip
    record = np.array([tuple(shape)], RECORD)
    addresses = found.addresses.copy()
    addresses[RECORD_AT] = record.ctypes.data
    return found._replace(shape=shape, record=record, addresses=addresses)


def _each(axes: tuple[Axis, Axis, Axis], name: str) -> tuple[int, int, int]:
    z, y, x = (getattr(axis, name) for axis in axes)
    return z, y, x


def _takes_bias(axis: Axis) -> list[int]:
    """1 for the lines at which a bias must be added so that every output of the tile has it once."""
    flags = [0] * axis.lines
    for (first, lines), taps in zip(dict.fromkeys(axis.phases), (axis.taps, axis.taps - 1)):
        for line in range(lines) if taps == 1 else (1,):
            flags[first + line] = 1
    return flags


def _cut(
    problem: Problem, axes: tuple[Axis, ...], positions: int, products: int, panels: list[tuple[int, int, int]], threads: int
) -> tuple[int, int, int, int, float]:
    """(positions, panels and input channels at once of a task, tasks, cycles of the busiest thread)."""
    lanes, size = simd.VECTOR_BYTES // problem.itemsize, problem.itemsize
    c_in = problem.c_in // problem.groups
    lines = prod(axis.lines for axis in axes)
    elements = prod(axis.size for axis in axes)  # a tile's outputs of a phase, and its input pixels
    phases = prod(axis.stride for axis in axes)
    span = span_of(axes)
    store = STORE_CYCLES if axes[2].size * axes[2].stride in simd.INTERLEAVED else SINGLE_STORE_CYCLES
    best: tuple[int, int, int, int, float] | None = None
    for task_panels in sorted({-(-len(panels) // parts) for parts in (1, 2, threads, 2 * threads, 4 * threads)}):
        starts = range(0, len(panels), task_panels)
        tile = np.add.reduceat([_cost(height) for _, height, _ in panels], starts)
        stored = np.add.reduceat([height for _, height, _ in panels], starts)
        tiles = np.add.reduceat([1] * len(panels), starts)
        for wanted in (32, 48, 64, 96, 128):
            task = min(_round(wanted, lanes), _round(positions, lanes))
            block = max(1, min(c_in, PRODUCTS_BYTES // (size * lines * task)))
            if size * workspace(axes, task, int(stored.max()), block, c_in, products, lanes) > LIMIT_BYTES and best:
                continue
            pieces = -(-positions // task)
            held = np.full(pieces, task)
            held[-1] = positions - (pieces - 1) * task
            vectors = -(-held // lanes)
            passes = -(-c_in // block)
            far = (
                np.multiply.outer(stored, np.full(pieces, products * c_in))  # weights, once per task
                + lines * c_in * held * 2
                + np.multiply.outer(stored, held) * products * 2 * (passes - 1)
            )
            cycles = (
                np.multiply.outer(tile, vectors) * products * c_in
                + np.multiply.outer(tiles, (vectors + 1) // 2) * products * CALL_CYCLES * passes
                + c_in * ((held + span) * elements * PACK_CYCLES + vectors * lines * LINE_CYCLES)
                + np.multiply.outer(stored, vectors) * products * LINE_CYCLES
                + np.multiply.outer(stored, held) * elements * phases * store
                + far * size * BYTE_CYCLES
                + TASK_CYCLES
            )
            total = busiest(np.tile(cycles.reshape(-1), problem.groups), threads)
            if best is None or total < best[4]:
                best = task, task_panels, block, cycles.size * problem.groups, total
    assert best is not None
    return best


def largest_row_products(axes: tuple[Axis, ...]) -> int:
    """Products of a tile in the row phase that has most of them."""
    z, y, x = axes
    return max(n for _, n in z.phases) * max(n for _, n in y.phases) * sum(n for _, n in x.phases)


def span_of(axes: tuple[Axis, ...]) -> int:
    """Distance on the line from a window's first element to its last."""
    z, y, x = ((window(axis) - 1) // axis.size for axis in axes)
    return (z * axes[1].pitch + y) * axes[2].pitch + x


def workspace(axes: tuple[Axis, ...], task: int, channels: int, block: int, c_in: int, products: int, lanes: int) -> int:
    """Elements that a task holds, as ``winograd._native_task`` allocates them; ``channels`` are held at once."""
    z, y, x = axes
    padded = -(-task // lanes) * lanes
    length = -(-(padded + span_of(axes)) // lanes) * lanes + lanes
    windows = z.size * y.size * length * (x.size + x.lines + (y.lines * x.lines if z.size > 1 else 0))
    runs = (length // x.pitch + 2) + (task // x.pitch + 2) * z.stride * y.stride
    windows += 10 * runs * z.size * y.size  # runs of five integers, of the input and of the output
    if x.pitch * x.size <= SHORT_ROW:
        windows += 2 * z.size * y.size * x.size * length  # where each pixel comes from and goes
    transformed = z.lines * y.lines * x.lines * (block * padded + lanes)
    held = (products if block < c_in else largest_row_products(axes)) * padded * channels
    outputs = (2 * window(z) * window(y) + 1) * (x.size * x.stride * padded + lanes)
    return windows + transformed + held + outputs
