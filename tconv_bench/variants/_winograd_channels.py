"""Winograd over channels: few pixels, so that vectors run over output channels and tiles over blocks of pixels.

::

    block of 2 pixels * t taps = all 2 + t - 1 outputs of a phase:  (x0, x1) * (w0, w1) takes 3 products for 4,
                                                                  (x0, x1) * (w0, w1, w2) takes 4 for 6

An image is cut into blocks of 2 pixels along an axis (or of 1, whose products are the definition's), without overlap and
without a border, and the blocks of some images are the rows of one matrix product per line of products: blocks x input channels
times input channels x output channels. Outputs of neighbouring blocks overlap and are added, a vector of channels at a time,
into an image ``[pixel][channel]``, which is turned round in registers on its way out. The phases of one and two taps use lines
of the longest one's: the pixels are transformed once.

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
    call_sum_taps,
    call_transpose,
    combine_pixels,
    combine_products,
    copy,
    copy_rows,
    difference_to_itself,
)
from tconv_bench.variants._launch import BIAS_AT, PANELS_AT, RECORD_AT, SPOILED_AT, TILE_AT, WEIGHT_AT
from tconv_bench.variants._phase_layout import _cost, _round, _strides, busiest, heights
from tconv_bench.variants._winograd_layout import AXES_AT, LIMIT_BYTES, RECORD, Axis, Layout, Shape, _each

HEIGHTS_AT = AXES_AT + 1
BLOCK_VECTORS = 2  # of output channels
# What a task costs besides its multiply-adds, in cycles (Zen 4): a pixel gathered, a vector of pixels' products, a vector of sums
# made outputs and added, an element stored, a tile's call, a task begun; a byte of weights that come from the third-level cache
# and from memory.
GATHER_CYCLES = 2.0
LINE_CYCLES = 4.0
OUTPUT_CYCLES = 6.0
STORE_CYCLES = 1.0
CALL_CYCLES = 200
TASK_CYCLES = 4000
NEAR_BYTE_CYCLES = 0.1
FAR_BYTE_CYCLES = 0.23
NEAR_BYTES = 24 * 2**20


class _Cut(NamedTuple):
    images: int  # of a task
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
    g = problem.geometry
    axes = ((g.iz, g.kz, g.sz), (g.iy, g.ky, g.sy), (g.ix, g.kx, g.sx))
    sizes = list(product(*((2, 1) if n > 1 and k > s else (1,) for n, k, s in axes)))[:-1]
    found = [own for own in (_layout(problem, g, each, 1) for each in sizes) if own]
    if not found:
        return None
    alone = min(found, key=lambda own: own.cycles)
    return alone if threads == 1 else _layout(problem, g, tuple(axis.size for axis in alone.axes), threads)


def _layout(problem: Problem, g: Geometry, sizes: tuple[int, ...], threads: int) -> Layout | None:
    z = _axis(g.iz, g.kz, g.sz, g.pz, sizes[0])
    y = _axis(g.iy, g.ky, g.sy, g.py, sizes[1])
    x = _axis(g.ix, g.kx, g.sx, g.px, sizes[2])
    axes = (z, y, x)
    lanes = simd.VECTOR_BYTES // problem.itemsize
    c_in, c_out = g.c_in // g.groups, g.c_out // g.groups
    c_padded = _round(c_out, lanes)
    width = min(BLOCK_VECTORS * lanes, c_padded)
    panels = [
        (start, min(width, c_padded - start), min(width, c_out - start)) for start in range(0, c_padded, width)
    ]
    products = prod(sum(lines for _, lines in axis.phases) for axis in axes)
    cut = _cut(problem, axes, products, panels, threads)
    if cut is None:
        return None
    blocks = prod(axis.tiles for axis in axes)
    pack_block = max(1, min(c_in, 2**17 // (problem.itemsize * panels[0][1] * products)))
    shape = Shape(
        g.n, c_in, c_out, g.groups, g.iz, g.iy, g.ix, g.oz, g.oy, g.ox, *_each(axes, "stride"), *_each(axes, "size"),
        *_each(axes, "taps"), *_each(axes, "mixed"), *_each(axes, "lines"), *_each(axes, "first"), *_each(axes, "crop"),
        *_each(axes, "tiles"), *_each(axes, "pitch"), g.n * blocks, products, len(panels), cut.images * blocks, cut.task_panels,
        0, c_in, g.kz, g.ky, g.kx, pack_block, c_padded, 1, simd.native_transpose(problem.dtype).address,
        *_strides((g.n, g.c_in, g.iz, g.iy, g.ix), False), *_strides((g.n, g.c_out, g.oz, g.oy, g.ox), False),
    )  # fmt: skip
    record = np.array([tuple(shape)], RECORD)
    table = np.array(panels, np.int64)
    last = (max(1, g.n) - 1) % cut.images + 1
    tiles = [heights(images * blocks) for images in (cut.images, last)]
    phases = np.array([number for axis in axes for pair in axis.phases for number in pair], np.int64)
    cuts = np.array([len(tiles[0]), *tiles[0], *tiles[1], 0], np.int64)
    addresses = np.zeros(HEIGHTS_AT + 1, np.int64)
    addresses[TILE_AT] = simd.native_sum_taps(problem.dtype).address
    addresses[[RECORD_AT, PANELS_AT, AXES_AT, HEIGHTS_AT]] = [array.ctypes.data for array in (record, table, phases, cuts)]
    return Layout(
        shape, axes, record, table, phases, addresses, cut.tasks if g.n else 0, cut.cycles,
        g.groups * len(panels) * -(-c_in // pack_block), g.groups * products * c_in * c_padded, cuts,
    )  # fmt: skip


def _cut(
    problem: Problem, axes: tuple[Axis, ...], products: int, panels: list[tuple[int, int, int]], threads: int
) -> _Cut | None:
    """The division into tasks that ends first, or None where not even one image fits."""
    lanes, size, c_in = simd.VECTOR_BYTES // problem.itemsize, problem.itemsize, problem.c_in // problem.groups
    blocks, lines = (prod(getattr(axis, name) for axis in axes) for name in ("tiles", "lines"))
    batch, pixels = max(1, problem.batch), prod(problem.in_size)
    weights = size * c_in * products * sum(width for _, width, _ in panels)
    byte = (NEAR_BYTE_CYCLES if weights * problem.groups < NEAR_BYTES else FAR_BYTE_CYCLES) * size
    best: _Cut | None = None
    for images in sorted({-(-batch // parts) for parts in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, batch)}):
        if size * workspace(axes, images, panels[0][1], c_in, problem.out_pixels, lanes) > LIMIT_BYTES:
            break
        pieces = -(-batch // images)
        held = np.full(pieces, images)
        held[-1] = batch - (pieces - 1) * images
        tiles = {count: heights(count * blocks) for count in set(held.tolist())}
        rows = np.array([sum(map(_cost, tiles[count])) for count in held.tolist()])
        calls = np.array([len(tiles[count]) for count in held.tolist()])
        begun = TASK_CYCLES + c_in * (
            held * pixels * GATHER_CYCLES + -(-held * blocks // lanes) * lines * LINE_CYCLES
        )
        per_panel = [
            np.maximum(rows * (width // lanes) * products * c_in + calls * products * CALL_CYCLES, width * products * c_in * byte)
            + held * (width // lanes) * (products * blocks + problem.out_pixels) * OUTPUT_CYCLES
            + held * problem.out_pixels * count * STORE_CYCLES
            for _, width, count in panels
        ]
        for parts in sorted({1, 2, threads, 2 * threads, 4 * threads}):
            task_panels = -(-len(panels) // parts)
            sums = np.add.reduceat(np.array(per_panel), range(0, len(panels), task_panels), axis=0)
            cycles = (sums + begun).reshape(-1)
            total = busiest(np.tile(cycles, problem.groups), threads)
            if best is None or total < best.cycles:
                best = _Cut(images, task_panels, cycles.size * problem.groups, total)
    return best


def workspace(axes: tuple[Axis, ...], images: int, width: int, c_in: int, out_pixels: int, lanes: int) -> int:
    """Elements that a task holds, as ``native_task`` allocates them."""
    z, y, x = axes
    blocks, lines, pixels = (prod(getattr(axis, name) for axis in axes) for name in ("tiles", "lines", "size"))
    padded = _round(images * blocks, lanes)
    sums = max(n for _, n in z.phases) * max(n for _, n in y.phases) * sum(n for _, n in x.phases)
    places = 4 * images * blocks * pixels
    return (
        (pixels + 3 * lines) * padded + lines * (c_in * padded + lanes) + sums * images * blocks * width
        + images * out_pixels * width + places
    )  # fmt: skip


def workspace_of(found: Layout, out_pixels: int, lanes: int) -> int:
    """Elements that a task of a layout holds."""
    s = found.shape
    images = s.task_positions // (s.tz * s.ty * s.tx)
    return workspace(found.axes, images, int(found.panels[0, 1]), s.c_in, out_pixels, lanes)


@kernel
def _list_pixels(s, first_image, images, padded, places):
    """Where each pixel of some images lies in the first channel's memory, and on the lines of blocks; returns how many."""
    found = 0
    for n in range(images):
        for iz in range(s.iz):
            tz, bz = divmod(iz, s.mz)
            for iy in range(s.iy):
                ty, by = divmod(iy, s.my)
                for ix in range(s.ix):
                    tx, bx = divmod(ix, s.mx)
                    places[2 * found] = (first_image + n) * s.x_n + iz * s.x_z + iy * s.x_y + ix * s.x_x
                    block = ((n * s.tz + tz) * s.ty + ty) * s.tx + tx
                    places[2 * found + 1] = ((bz * s.my + by) * s.mx + bx) * padded + block
                    found += 1
    return found


@kernel
def _spread(size, taps, source, target, outer, width, lines):
    """The pixels' side along an axis: ``size`` rows of ``width`` become ``lines``, for each of ``outer``."""
    for i in range(outer):
        if size == 1:
            copy(source, i * width, target, i * width, width)
        else:
            combine_pixels(taps, source, i * size * width, width, target, i * lines * width, width, width)


@kernel
def _read_pixels(s, x, at, places, pixels, padded, values, point_step, spoiled):
    """All products' pixels of all input channels: values[point][c][block]."""
    lines = np.zeros(s.mz * s.my * s.mx * padded, x.dtype)
    points = s.lz * s.ly * s.lx
    along_x = np.empty(points * padded, x.dtype)
    along_y = np.empty(points * padded, x.dtype)
    along_z = np.empty(points * padded, x.dtype)
    for c in range(s.c_in):
        for i in range(pixels):
            lines[places[2 * i + 1]] = x[at + places[2 * i]]
        at += s.x_c
        if difference_to_itself(lines, 0, lines.size) != 0:
            spoiled[0] = 1
        _spread(s.mx, s.rx, lines, along_x, s.mz * s.my, padded, s.lx)
        _spread(s.my, s.ry, along_x, along_y, s.mz, s.lx * padded, s.ly)
        _spread(s.mz, s.rz, along_y, along_z, 1, s.ly * s.lx * padded, s.lz)
        copy_rows(along_z, 0, padded, values, c * padded, point_step, padded, points)


@kernel
def _line_of(size, lines, i, count):
    """The line of pixels that the i-th of a phase's ``count`` products along an axis reads."""
    return 0 if size == 1 else lines - 1 if i == count - 1 else i


@kernel
def _multiply(tile, s, z_lines, y_lines, phases, width, heights, first, last, weight, w_at, values, point_step, padded, rows,
              bias, sums):  # fmt: skip
    """All products of a panel's row phase: ``sums[line][block][channel]``; returns the lines."""
    lanes = simd.VECTOR_BYTES // values.itemsize
    once = np.zeros(2, np.int64)
    ahead = np.empty(40, np.int64)
    ahead[:] = ahead.ctypes.data + 128  # a line of this task's own: two cores that ask to write one take it from each other
    line = 0
    # the next line's weights are on their way while this line's are used
    step = (width * weight.itemsize - 1) // (last - first) + 1
    for z in range(z_lines):
        for y in range(y_lines):
            row = (_line_of(s.mz, s.lz, z, z_lines) * s.ly + _line_of(s.my, s.ly, y, y_lines)) * s.lx
            for kx in range(s.sx):
                x_lines = phases[2 * (s.sz + s.sy + kx) + 1]
                for x in range(x_lines):
                    at = (row + _line_of(s.mx, s.lx, x, x_lines)) * point_step
                    w_line = w_at + line * s.c_in * width
                    stream = weight.ctypes.data + (w_line + s.c_in * width) * weight.itemsize
                    to = line * rows * width
                    for i in range(first, last):
                        height = heights[i]
                        call_sum_taps(
                            tile, height, width // lanes, 1, lanes, values, at, padded, weight, w_line, width, once, 0, 1,
                            s.c_in, False, bias, s.groups * s.c_out, sums, to, width, ahead, 0, 0, stream, step,
                        )  # fmt: skip
                        at += height
                        to += height * width
                        stream += s.c_in * step
                    line += 1
    return line


@kernel
def _make_outputs(s, z_lines, y_lines, phases, sums, row):
    """Products to outputs of a block along x, then y, then z, in their place; ``row``: elements of a line."""
    x_lines = 0
    for kx in range(s.sx):
        x_lines += phases[2 * (s.sz + s.sy + kx) + 1]
    if s.mx > 1:
        at = 0
        for _ in range(z_lines * y_lines):
            for kx in range(s.sx):
                count = phases[2 * (s.sz + s.sy + kx) + 1]
                combine_products(count, sums, at, row, row)
                at += count * row
    row *= x_lines
    if s.my > 1:
        for z in range(z_lines):
            combine_products(y_lines, sums, z * y_lines * row, row, row)
    if s.mz > 1:
        combine_products(z_lines, sums, 0, y_lines * row, y_lines * row)


@kernel
def _add_outputs(s, kz, ky, images, z_lines, y_lines, phases, sums, width, image):
    """Add a row phase's outputs of all blocks to ``image[n][pixel][channel]``."""
    line, step = 0, s.mx * s.sx
    for z in range(z_lines):
        for y in range(y_lines):
            for kx in range(s.sx):
                for x in range(phases[2 * (s.sz + s.sy + kx) + 1]):
                    ox = x * s.sx + kx - s.crop_x
                    first = max(0, (step - 1 - ox) // step)
                    count = min(s.tx, (s.ox - ox + step - 1) // step) - first
                    for row in range(images * s.tz * s.ty):
                        slab, ty = divmod(row, s.ty)
                        n, tz = divmod(slab, s.tz)
                        oz = (tz * s.mz + z) * s.sz + kz - s.crop_z
                        oy = (ty * s.my + y) * s.sy + ky - s.crop_y
                        if 0 <= oz < s.oz and 0 <= oy < s.oy and count > 0:
                            at = (line * images * s.tz * s.ty + row) * s.tx + first
                            to = ((n * s.oz + oz) * s.oy + oy) * s.ox + ox + first * step
                            add_rows(sums, at * width, width, image, to * width, step * width, width, count)
                    line += 1


@kernel
def _store(s, image, at, width, channels, places, out, to):
    """Write an image of some channels; ``places``: of the channels in ``out``."""
    pixels = s.oz * s.oy * s.ox
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
    blocks = s.tz * s.ty * s.tx
    task_images = s.task_positions // blocks
    pieces = (s.batch + task_images - 1) // task_images
    rest, piece = divmod(task, pieces)
    group, panel_part = divmod(rest, (s.panels + s.task_panels - 1) // s.task_panels)
    first_image = piece * task_images
    images = min(task_images, s.batch - first_image)
    # the last task's tiles stand behind the others'
    first = 1 if images == task_images else 1 + heights[0]
    last, rows = first, 0
    while rows < images * blocks:
        rows += heights[last]
        last += 1
    padded = (rows + lanes - 1) // lanes * lanes

    point_step = s.c_in * padded + lanes
    places = np.empty(2 * images * s.iz * s.iy * s.ix, np.int64)
    pixels = _list_pixels(s, first_image, images, padded, places)
    values = np.empty(s.lz * s.ly * s.lx * point_step, out.dtype)
    _read_pixels(s, x, group * s.c_in * s.x_c, places, pixels, padded, values, point_step, spoiled)
    largest, x_lines = 0, 0
    for kz in range(s.sz):
        for ky in range(s.sy):
            largest = max(largest, phases[2 * kz + 1] * phases[2 * (s.sz + ky) + 1])
    for kx in range(s.sx):
        x_lines += phases[2 * (s.sz + s.sy + kx) + 1]
    sums = np.empty(largest * x_lines * rows * panels[0, 1], out.dtype)
    out_pixels = s.oz * s.oy * s.ox
    image = np.empty(images * out_pixels * panels[0, 1], out.dtype)
    out_places = np.empty(panels[0, 1], np.int64)
    for panel in range(panel_part * s.task_panels, min(s.panels, (panel_part + 1) * s.task_panels)):
        start, width, channels = panels[panel, 0], panels[panel, 1], panels[panel, 2]
        channel = group * s.c_out + start
        image[:width] = 0
        copy(bias, channel, image, 0, channels)
        for i in range(1, images * out_pixels):
            copy(image, 0, image, i * width, width)
        w_at = (group * s.c_padded + start) * s.products * s.c_in
        for kz in range(s.sz):
            for ky in range(s.sy):
                z_lines, y_lines = phases[2 * kz + 1], phases[2 * (s.sz + ky) + 1]
                done = _multiply(tables[TILE_AT], s, z_lines, y_lines, phases, width, heights, first, last, weight, w_at, values,
                                 point_step, padded, rows, bias, sums)  # fmt: skip
                w_at += done * s.c_in * width
                _make_outputs(s, z_lines, y_lines, phases, sums, rows * width)
                _add_outputs(s, kz, ky, images, z_lines, y_lines, phases, sums, width, image)
        for c in range(channels):
            out_places[c] = (channel + c) * s.out_c
        for n in range(images):
            to = (first_image + n) * s.out_n + (channel if s.out_x > 1 else 0)
            _store(s, image, n * out_pixels * width, width, channels, out_places, out, to)
