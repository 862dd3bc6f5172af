"""Winograd over channels: few pixels, so that vectors run over output channels and tiles over blocks of pixels.

::

    block of 2 pixels * t taps = all 2 + t - 1 outputs of a phase:  (x0, x1) * (w0, w1) takes 3 products for 4,
                                                                  (x0, x1) * (w0, w1, w2) takes 4 for 6

An image is cut into blocks of 2 pixels along an axis (or of 1, whose products are the definition's), without overlap and
without a border, and the blocks of some images, or of a band of one, are the rows of one matrix product per line of products:
blocks x input channels times input channels x output channels. Outputs of neighbouring blocks overlap and are added, a vector
of channels at a time, into an image ``[pixel][channel]``, which is turned round in registers on its way out. The phases of one
and two taps use lines of the longest one's: the pixels are transformed once.

The first spatial axis is z here, whatever their number, and bands are cut across it. A band computes once more what the row of
blocks above it adds to its outputs: of two taps, the last line of products alone.

Cost: per pixel of an axis, (2 + t - 1) / 2 products per phase of t taps. Each transformed weight is read once per task, and
asked for while its predecessors are used.

Source: Karatsuba & Ofman 1962; Winograd, "Arithmetic Complexity of Computations", 1980.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from math import prod
from typing import NamedTuple

import numpy as np
from numba import carray

from tconv_bench import simd
from tconv_bench.jit import kernel
from tconv_bench.problem import Geometry, Problem
from tconv_bench.simd import (
    add_rows,
    as_pointer,
    call_sum_taps_below,
    call_transpose,
    combine_neighbours,
    combine_pixel_rows,
    combine_pixels,
    combine_products,
    copy,
    copy_rows,
    copy_strided,
    difference_to_itself,
)
from tconv_bench.variants._launch import BIAS_AT, PANELS_AT, RECORD_AT, SPOILED_AT, TILE_AT, WEIGHT_AT
from tconv_bench.variants._phase_layout import _cost, _round, _strides, busiest, heights
from tconv_bench.variants._winograd_layout import (
    AXES_AT,
    HEIGHTS_AT,
    LIMIT_BYTES,
    RECORD,
    SIZE,
    Axis,
    Layout,
    Shape,
    _each,
    pack_blocks,
)
from tconv_bench.variants._winograd_weights import prepare_panel

MOST = 2 * simd.TALL  # blocks from which on a tile is the tallest
NEAR_SUMS = 160 * 1024  # bytes of sums that become outputs together, in the second-level cache
BLOCK_VECTORS = 2  # of output channels
# What a task costs besides its multiply-adds, in cycles (Zen 4): a pixel gathered, a vector of pixels' products, a vector of
# sums made outputs and added, an element stored, a tile's call, a task begun; a byte of weights that come from the third-level
# cache and from memory.
GATHER_CYCLES = 1.0
LINE_CYCLES = 4.0
OUTPUT_CYCLES = 10.0
STORE_CYCLES = 1.0
BAND_STORE_CYCLES = 2.2  # where bands write an output beyond the caches, which nobody has asked for
CALL_CYCLES = 200
TASK_CYCLES = 4000
NEAR_BYTE_CYCLES = 0.17
FAR_BYTE_CYCLES = 0.23
NEAR_BYTES = 24 * 2**20
FAR_BYTES = 8 * 2**20


class _Cut(NamedTuple):
    rows: int  # of blocks along z of a task: those of some images, or of a band of one
    task_panels: int
    tasks: int
    cycles: float  # of the busiest thread


def _axis(in_size: int, kernel_size: int, stride: int, pad: int, size: int) -> Axis:
    taps = -(-kernel_size // stride)
    blocks = -(-in_size // size)
    phases = tuple((0, -(-(kernel_size - k) // stride) + size - 1) for k in range(stride))
    lines = taps + 1 if size > 1 else 1
    return Axis(size, taps, 0, stride, lines, 0, pad, blocks, blocks, phases)


@lru_cache(maxsize=512)
def layout(problem: Problem, threads: int) -> Layout | None:
    """The plan of work on a number of threads, None where none fits; blocks do not depend on the threads."""
    g = _geometry(problem)
    found = [own for own in (_layout(problem, g, sizes, 1) for sizes in _sizes(g)) if own]
    if not found:
        return None
    alone = min(found, key=lambda own: own.cycles)
    return alone if threads == 1 else _layout(problem, g, tuple(axis.size for axis in alone.axes), threads)


def _sizes(g: Geometry) -> list[tuple[int, ...]]:
    """The blocks to choose from: pixels along z, y and x, of which at least one is 2."""
    axes = ((g.iz, g.kz, g.sz), (g.iy, g.ky, g.sy), (g.ix, g.kx, g.sx))
    return list(product(*((2, 1) if n > 1 and k > s else (1,) for n, k, s in axes)))[:-1]


def _geometry(problem: Problem) -> Geometry:
    """The problem's, with its first spatial axis as z."""
    g = problem.geometry
    if problem.ndim == 3:
        return g
    if problem.ndim == 2:
        return g._replace(iz=g.iy, kz=g.ky, sz=g.sy, pz=g.py, dz=g.dy, oz=g.oy, iy=1, ky=1, sy=1, py=0, dy=1, oy=1)
    return g._replace(iz=g.ix, kz=g.kx, sz=g.sx, pz=g.px, dz=g.dx, oz=g.ox, ix=1, kx=1, sx=1, px=0, dx=1, ox=1)


def _layout(problem: Problem, g: Geometry, sizes: tuple[int, ...], threads: int) -> Layout | None:
    z = _axis(g.iz, g.kz, g.sz, g.pz, sizes[0])
    y = _axis(g.iy, g.ky, g.sy, g.py, sizes[1])
    x = _axis(g.ix, g.kx, g.sx, g.px, sizes[2])
    axes = (z, y, x)
    lanes = simd.VECTOR_BYTES // problem.itemsize
    c_in, c_out = g.c_in // g.groups, g.c_out // g.groups
    c_padded = _round(c_out, lanes)
    width = min(BLOCK_VECTORS * lanes, c_padded)
    panels = [(start, min(width, c_padded - start), min(width, c_out - start)) for start in range(0, c_padded, width)]
    products = prod(sum(lines for _, lines in axis.phases) for axis in axes)
    cut = _cut(problem, g, axes, products, panels, threads)
    if cut is None:
        return None
    near_block, pack_block = pack_blocks(problem, c_in, width, products)
    shape = Shape(
        g.n, c_in, c_out, g.groups, g.iz, g.iy, g.ix, g.oz, g.oy, g.ox, *_each(axes, "stride"), *_each(axes, "size"),
        *_each(axes, "taps"), *_each(axes, "mixed"), *_each(axes, "lines"), *_each(axes, "first"), *_each(axes, "crop"),
        *_each(axes, "tiles"), *_each(axes, "pitch"), g.n * z.tiles, products, len(panels), cut.rows, cut.task_panels,
        0, c_in, g.kz, g.ky, g.kx, near_block, pack_block, c_padded, 1, simd.native_transpose(problem.dtype).address, 0, 0,
        *_strides((g.n, g.c_in, g.iz, g.iy, g.ix), False), *_strides((g.n, g.c_out, g.oz, g.oy, g.ox), False),
    )  # fmt: skip
    record = np.array([tuple(shape)], RECORD)
    table = np.array(panels, np.int64)
    phases = np.array([number for axis in axes for pair in axis.phases for number in pair], np.int64)
    tiles = np.array([0, *(heights(left)[0] for left in range(1, MOST + 1))], np.int64)
    addresses = np.zeros(SIZE, np.int64)
    addresses[TILE_AT] = simd.native_sum_taps(problem.dtype).address
    addresses[[RECORD_AT, PANELS_AT, AXES_AT, HEIGHTS_AT]] = [array.ctypes.data for array in (record, table, phases, tiles)]
    return Layout(
        shape, axes, record, table, phases, addresses, cut.tasks if g.n else 0, cut.cycles,
        g.groups * len(panels) * -(-c_in // pack_block), g.groups * products * c_in * c_padded, tiles,
    )  # fmt: skip


def _cut(
    problem: Problem, g: Geometry, axes: tuple[Axis, ...], products: int, panels: list[tuple[int, int, int]], threads: int
) -> _Cut | None:
    """The division into tasks that ends first, or None where not even a band fits."""
    lanes, size, c_in = simd.VECTOR_BYTES // problem.itemsize, problem.itemsize, problem.c_in // problem.groups
    z, y, x = axes
    batch, row, lines = max(1, problem.batch), y.tiles * x.tiles, prod(axis.lines for axis in axes)
    pixels = row * prod(axis.size for axis in axes)
    weights = size * c_in * products * sum(width for _, width, _ in panels)
    byte = (NEAR_BYTE_CYCLES if weights * problem.groups < NEAR_BYTES else FAR_BYTE_CYCLES) * size
    again = _computed_again(z)
    far = size * batch * problem.c_out * problem.out_pixels > FAR_BYTES
    best: _Cut | None = None
    for rows in _rows(z, batch):
        if size * workspace(g, axes, rows, panels[0][1], c_in, lanes) > LIMIT_BYTES:
            break
        held = np.array(_held(z, batch, rows))
        own = held * row
        cost = np.array([sum(map(_cost, heights(int(n)))) for n in own]) + (rows < z.tiles) * row * again
        calls = np.array([len(heights(int(n))) for n in own])
        begun = TASK_CYCLES + c_in * (held * pixels * GATHER_CYCLES + -(-own // lanes) * lines * LINE_CYCLES)
        out = problem.out_pixels * held / z.tiles
        multiplied = cost * products * c_in
        per_panel = [
            np.maximum(multiplied * (width // lanes) + calls * products * CALL_CYCLES, width * products * c_in * byte)
            + (width // lanes) * (products * own + out) * OUTPUT_CYCLES
            + out * count * (BAND_STORE_CYCLES if far and rows < z.tiles else STORE_CYCLES)
            for _, width, count in panels
        ]
        for parts in sorted({1, 2, threads, 2 * threads, 4 * threads}):
            task_panels = -(-len(panels) // parts)
            sums = np.add.reduceat(np.array(per_panel), range(0, len(panels), task_panels), axis=0)
            cycles = (sums + begun).reshape(-1)
            total = busiest(np.tile(cycles, problem.groups), threads)
            if best is None or total < best.cycles:
                best = _Cut(rows, task_panels, cycles.size * problem.groups, total)
    return best


def _rows(z: Axis, batch: int) -> list[int]:
    """Rows of blocks that a task may take, fewest first: bands, where two bands share no more than a row, and whole images."""
    parts = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128)
    bands = {-(-z.tiles // count) for count in (*parts, z.tiles) if 1 < count <= z.tiles and (z.size > 1 or z.taps == 1)}
    images = {-(-batch // count) for count in (1, *parts, batch)}
    return sorted(bands) + [z.tiles * count for count in sorted(images)]


def _held(z: Axis, batch: int, rows: int) -> list[int]:
    """Rows of blocks of each task of a panel."""
    if rows < z.tiles:
        return [min(rows, z.tiles - first) for first in range(0, z.tiles, rows)] * batch
    images = rows // z.tiles
    return [min(images, batch - first) * z.tiles for first in range(0, batch, images)]


def _computed_again(z: Axis) -> float:
    """The part of its products along z that a band computes of the row of blocks above it."""
    again = sum({2: 0, 3: 1, 4: 4}[lines] for _, lines in z.phases) if z.size > 1 else 0
    return again / sum(lines for _, lines in z.phases)


def _out_rows(g: Geometry, z: Axis, rows: int) -> int:
    """The most rows of outputs that a band has, or all."""
    if rows >= z.tiles:
        return g.oz
    step = rows * z.size * z.stride
    last = g.oz - ((z.tiles - 1) // rows * step - z.crop)
    return max(step, last, 1)


def workspace(g: Geometry, axes: tuple[Axis, ...], rows: int, width: int, c_in: int, lanes: int) -> int:
    """Elements that a task of so many rows of blocks holds, as ``native_task`` allocates them."""
    z, y, x = axes
    lines, pixels = (prod(getattr(axis, name) for axis in axes) for name in ("lines", "size"))
    images, halo = max(1, rows // z.tiles), int(rows < z.tiles and z.taps > 1)
    blocks = (rows + halo) * y.tiles * x.tiles
    padded = _round(blocks, lanes)
    sums = max(n for _, n in z.phases) * max(n for _, n in y.phases) * sum(n for _, n in x.phases)
    image = images * _out_rows(g, z, rows) * g.oy * g.ox
    read = (z.lines * pixels // z.size + z.lines * y.lines * x.size + pixels) * (padded + lanes)
    elements: int = read + lines * (c_in * padded + lanes) + (sums * blocks + image) * width
    return elements


def workspace_of(problem: Problem, found: Layout) -> int:
    """Elements that a task of a layout holds."""
    s = found.shape
    lanes: int = simd.VECTOR_BYTES // problem.itemsize
    return workspace(_geometry(problem), found.axes, s.task_positions, int(found.panels[0, 1]), s.c_in, lanes)


@kernel
def _read_line(s, x, at, first_image, images, first_row, rows, padded, values, point_step, spoiled):
    """``_read_pixels`` of one axis, whose pixels are neighbours."""
    line = np.zeros(2 * padded, x.dtype)
    pixels = min(s.iz, (first_row + rows) * s.mz) - first_row * s.mz
    at += first_image * s.x_n + first_row * s.mz * s.x_z
    for c in range(s.c_in):
        for n in range(images):
            if s.x_z == 1:
                copy(x, at + n * s.x_n, line, n * rows * s.mz, pixels)
            else:
                copy_strided(x, at + n * s.x_n, s.x_z, line, n * rows * s.mz, pixels)
        at += s.x_c
        if difference_to_itself(line, 0, line.size) != 0:
            spoiled[0] = 1
        combine_neighbours(s.rz, line, 0, values, c * padded, point_step, padded)


@kernel
def _read_pixels(s, x, at, first_image, images, first_row, rows, padded, values, point_step, spoiled):
    """All products' pixels of all input channels, for some rows of blocks of some images: values[point][c][block].

    Along z from where the pixels lie, row by row; then along y; along x at last, to their places. Rows that blocks reach
    beyond the image are zeros.
    """
    lanes = simd.VECTOR_BYTES // x.itemsize
    pitch, slab = s.mx * s.tx, s.my * s.ty * s.mx * s.tx
    z_step = images * rows * slab + lanes
    y_step = s.mx * padded + lanes
    along_z = np.zeros(s.lz * z_step + s.mx * padded, x.dtype)
    along_y = np.empty((s.lz * s.ly * y_step if s.my > 1 else 0) + lanes, x.dtype)
    lines, line_step = (along_y, y_step) if s.my > 1 else (along_z, z_step)
    whole = slab == s.iy * s.ix and s.x_y == s.ix
    height, width = (1, slab) if whole else (s.iy, s.ix)
    near = np.empty(0 if s.x_x == 1 else s.mz * s.iy * s.ix, x.dtype)
    at += first_image * s.x_n
    for c in range(s.c_in):
        for n in range(images):
            for t in range(rows):
                iz = (first_row + t) * s.mz
                source, x_z, x_y = at + n * s.x_n + iz * s.x_z, s.x_z, s.x_y
                pixels = x
                if s.x_x > 1:
                    pixels, source, x_z, x_y = near, 0, s.iy * s.ix, s.ix
                    for z in range(min(s.mz, s.iz - iz)):
                        for y in range(s.iy):
                            copy_strided(x, at + n * s.x_n + (iz + z) * s.x_z + y * s.x_y, s.x_x, near, z * x_z + y * x_y, s.ix)
                for y in range(height):
                    to = (n * rows + t) * slab + y * pitch
                    if s.mz == 1:
                        copy(pixels, source + y * x_y, along_z, to, width)
                    else:
                        combine_pixel_rows(s.rz, pixels, source + y * x_y, x_z, width, iz + 1 < s.iz, along_z, to, z_step)
        at += s.x_c
        # the first and last of a block's lines are its pixels
        for line in range(0, s.lz, max(1, s.lz - 1)):
            if difference_to_itself(along_z, line * z_step, z_step - lanes) != 0:
                spoiled[0] = 1
        if s.my > 1:
            for line in range(s.lz):
                for row in range(images * rows * s.ty):
                    combine_pixels(
                        s.ry, along_z, line * z_step + 2 * row * pitch, pitch, along_y, line * s.ly * y_step + row * pitch,
                        y_step, pitch,
                    )  # fmt: skip
        for line in range(s.lz * s.ly):
            to = line * s.lx * point_step + c * padded
            if s.mx > 1:
                combine_neighbours(s.rx, lines, line * line_step, values, to, point_step, padded)
            else:
                copy(lines, line * line_step, values, to, padded)


@kernel
def _line_of(size, lines, i, count):
    """The line of pixels that the i-th of a phase's ``count`` products along an axis reads."""
    return 0 if size == 1 else lines - 1 if i == count - 1 else i


@kernel
def _height(heights, left):
    return heights[min(left, MOST)]


@kernel
def _tiles(heights, rows):
    """How many tiles have so many rows."""
    tiles = 0
    while rows > 0:
        rows -= _height(heights, rows)
        tiles += 1
    return tiles


@kernel
def _multiply(
    tile, s, z_lines, y_lines, phases, width, heights, weight, w_at, values, point_step, padded, rows, halo, bias, sums
):  # fmt: skip
    """All products of a panel's row phase: ``sums[line][block][channel]``; returns the lines.

    The first ``halo`` rows add to outputs of another band, but for lines that reach further.
    """
    lanes = simd.VECTOR_BYTES // values.itemsize
    once = np.zeros(2, np.int64)
    ahead = np.empty(40, np.int64)
    ahead[:] = ahead.ctypes.data + 128  # a line of this task's own: two cores that ask to write one take it from each other
    line = 0
    # The next line's weights are on their way while this line's are used: a cache line at each step, so that a lone tile takes
    # one vector after the other.
    tiles = _tiles(heights, rows)
    vectors = 1 if tiles == 1 else width // lanes
    tiles *= width // lanes // vectors
    step = (width * weight.itemsize - 1) // tiles + 1
    for z in range(z_lines):
        skipped = halo if z_lines == 2 or (z_lines == 3 and z < 2) else 0
        for y in range(y_lines):
            row = (_line_of(s.mz, s.lz, z, z_lines) * s.ly + _line_of(s.my, s.ly, y, y_lines)) * s.lx
            for kx in range(s.sx):
                x_lines = phases[2 * (s.sz + s.sy + kx) + 1]
                for x in range(x_lines):
                    at = (row + _line_of(s.mx, s.lx, x, x_lines)) * point_step + skipped
                    w_line = w_at + line * s.c_in * width
                    stream = weight.ctypes.data + (w_line + s.c_in * width) * weight.itemsize
                    to = (line * rows + skipped) * width
                    left = rows - skipped
                    while left > 0:
                        height, below = _height(heights, left), 1
                        while _height(heights, left - below * height) == height:
                            below += 1
                        for v in range(0, width // lanes, vectors):
                            call_sum_taps_below(
                                tile, height, vectors, below, values, at, padded, weight, w_line + v * lanes, width, once, 0, 1,
                                s.c_in, False, bias, s.groups * s.c_out, sums, to + v * lanes, width, ahead, 0, 0, stream, step,
                            )  # fmt: skip
                            stream += s.c_in * step * below
                        left -= below * height
                        at += below * height
                        to += below * height * width
                    line += 1
    return line


@kernel
def _make_outputs(s, z_lines, y_lines, x_lines, phases, sums, at, step, count):
    """Products to outputs of some blocks along x, then y, then z, in their place; ``step``: from a line to the next."""
    if s.mx > 1:
        line = 0
        for _ in range(z_lines * y_lines):
            for kx in range(s.sx):
                products = phases[2 * (s.sz + s.sy + kx) + 1]
                combine_products(products, sums, at + line * step, step, count)
                line += products
    for x in range(x_lines):
        if s.my > 1:
            for z in range(z_lines):
                combine_products(y_lines, sums, at + (z * y_lines * x_lines + x) * step, x_lines * step, count)
        if s.mz > 1:
            for y in range(y_lines):
                combine_products(z_lines, sums, at + (y * x_lines + x) * step, y_lines * x_lines * step, count)


@kernel
def _add_row(s, kz, ky, row, first_row, rows, low, high, z_lines, y_lines, phases, sums, line_step, width, image):
    """Add a row phase's outputs of a row of blocks to ``image[n][pixel][channel]``, whose rows are the output's from ``low``.

    Row after row, so that the order of an output's sum does not depend on what else a task computes.
    """
    step = s.mx * s.sx
    slab, ty = divmod(row, s.ty)
    n, tz = divmod(slab, rows)
    line_at = row * s.tx * width
    for z in range(z_lines):
        oz = ((first_row + tz) * s.mz + z) * s.sz + kz - s.crop_z
        for y in range(y_lines):
            oy = (ty * s.my + y) * s.sy + ky - s.crop_y
            exists = low <= oz < high and 0 <= oy < s.oy
            pixel = ((n * (high - low) + oz - low) * s.oy + oy) * s.ox
            for kx in range(s.sx):
                for x in range(phases[2 * (s.sz + s.sy + kx) + 1]):
                    ox = x * s.sx + kx - s.crop_x
                    first = max(0, (step - 1 - ox) // step)
                    count = min(s.tx, (s.ox - ox + step - 1) // step) - first
                    if exists and count > 0:
                        add_rows(sums, line_at + first * width, width, image, (pixel + ox + first * step) * width, step * width,
                                 width, count)  # fmt: skip
                    line_at += line_step


@kernel
def _store(s, image, at, width, pixels, channels, places, out, to):
    """Write pixels of some channels; ``places``: of the channels in ``out``."""
    if s.out_x == 1:
        call_transpose(s.turn, width, channels, image, at, out, places, to, pixels, pixels)
    else:
        copy_rows(image, at, width, out, to, s.out_x, channels, pixels)


def native_task(task, tables, x, out):
    """One task; ``tables`` holds the addresses of a layout's arrays and of the transformed weights."""
    x, out = carray(x, 1), carray(out, 1)
    shape = carray(as_pointer(tables[RECORD_AT]), 1, dtype=RECORD)
    s = shape[0]
    weight = carray(as_pointer(tables[WEIGHT_AT]), 1, dtype=out.dtype)
    bias = carray(as_pointer(tables[BIAS_AT]), 1, dtype=out.dtype)
    panels = carray(as_pointer(tables[PANELS_AT]), (s.panels, 3), dtype=np.int64)
    phases = carray(as_pointer(tables[AXES_AT]), 1, dtype=np.int64)
    heights = carray(as_pointer(tables[HEIGHTS_AT]), 1, dtype=np.int64)
    spoiled = carray(as_pointer(tables[SPOILED_AT]), 1, dtype=np.int64)
    lanes = simd.VECTOR_BYTES // out.itemsize
    band, task_images = min(s.tz, s.task_positions), max(1, s.task_positions // s.tz)
    bands = (s.tz + band - 1) // band
    rest, piece = divmod(task, bands * ((s.batch + task_images - 1) // task_images))
    group, panel_part = divmod(rest, (s.panels + s.task_panels - 1) // s.task_panels)
    image_part, band_number = divmod(piece, bands)
    first_image, first_row = image_part * task_images, band_number * band
    images = min(task_images, s.batch - first_image)
    last_row = min(s.tz, first_row + band)
    low = max(0, first_row * s.mz * s.sz - s.crop_z) if first_row > 0 else 0
    high = max(low, min(s.oz, last_row * s.mz * s.sz - s.crop_z)) if last_row < s.tz else s.oz
    halo = 1 if first_row > 0 and s.rz > 1 else 0
    rows = last_row - first_row + halo
    blocks = images * rows * s.ty * s.tx
    padded = (blocks + lanes - 1) // lanes * lanes

    point_step = s.c_in * padded + lanes
    values = np.empty(s.lz * s.ly * s.lx * point_step, out.dtype)
    x_at, above = group * s.c_in * s.x_c, first_row - halo
    if s.iy == 1 and s.ix == 1:
        _read_line(s, x, x_at, first_image, images, above, rows, padded, values, point_step, spoiled)
    else:
        _read_pixels(s, x, x_at, first_image, images, above, rows, padded, values, point_step, spoiled)
    largest, x_lines = 0, 0
    for kz in range(s.sz):
        for ky in range(s.sy):
            largest = max(largest, phases[2 * kz + 1] * phases[2 * (s.sz + ky) + 1])
    for kx in range(s.sx):
        x_lines += phases[2 * (s.sz + s.sy + kx) + 1]
    sums = np.empty(largest * x_lines * blocks * panels[0, 1], out.dtype)
    out_pixels = (high - low) * s.oy * s.ox
    image = np.empty(max(1, images * out_pixels) * panels[0, 1], out.dtype)
    out_places = np.empty(panels[0, 1], np.int64)
    for panel in range(panel_part * s.task_panels, min(s.panels, (panel_part + 1) * s.task_panels)):
        start, width, channels = panels[panel, 0], panels[panel, 1], panels[panel, 2]
        channel = group * s.c_out + start
        image[:width] = 0
        copy(bias, channel, image, 0, channels)
        for i in range(1, images * out_pixels):
            copy(image, 0, image, i * width, width)
        slot = prepare_panel(s, tables, group, panel, weight)
        w_at = (group * s.c_padded + panels[slot, 0]) * s.products * s.c_in
        for kz in range(s.sz):
            for ky in range(s.sy):
                z_lines, y_lines = phases[2 * kz + 1], phases[2 * (s.sz + ky) + 1]
                done = _multiply(tables[TILE_AT], s, z_lines, y_lines, phases, width, heights, weight, w_at, values, point_step,
                                 padded, blocks, halo * s.ty * s.tx, bias, sums)  # fmt: skip
                w_at += done * s.c_in * width
                step = blocks * width
                near = max(1, NEAR_SUMS // (done * s.tx * width * out.itemsize))
                for row in range(0, images * rows * s.ty, near):
                    until = min(images * rows * s.ty, row + near)
                    _make_outputs(s, z_lines, y_lines, x_lines, phases, sums, row * s.tx * width, step,
                                  (until - row) * s.tx * width)  # fmt: skip
                    for own in range(row, until):
                        _add_row(s, kz, ky, own, first_row - halo, rows, low, high, z_lines, y_lines, phases, sums, step, width,
                                 image)  # fmt: skip
        for c in range(channels):
            out_places[c] = (channel + c) * s.out_c
        for n in range(images):
            to = (first_image + n) * s.out_n + low * s.out_z + (channel if s.out_x > 1 else 0)
            _store(s, image, n * out_pixels * width, width, out_pixels, channels, out_places, out, to)
