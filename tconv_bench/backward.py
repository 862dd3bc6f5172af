"""Both gradients as matrix products that share one copy of the outputs' gradient: what ``conv_transpose_grads`` runs.

With the columns ``cols[(o, k), (n, i)] = grad_out[n, o, i*stride + k*dilation - pad]``, zero where no such pixel exists::

    grad_x[c, (n, i)]      = weight[c, (o, k)] @ cols
    grad_weight[c, (o, k)] = x[c, (n, i)] @ cols.T

``weight``, ``x`` and both results are read and written where they lie. A step copies the columns of some pixels and rows (o, k)
once in each order, in panels of some vectors; then each task multiplies the weights and the input of up to ``simd.TALL``
channels with them. Every element's products are added in the order of (o, k), or of (n, i), through all steps: results depend
neither on the cut nor on the threads. Cost: twice the forward call's products, and ``taps / stride**d`` times ``grad_out``
written twice.

Source: Chellapilla et al., "High Performance Convolutional Neural Networks for Document Processing", 2006; blocks after Goto &
van de Geijn, "Anatomy of High-Performance Matrix Multiplication", ACM TOMS 2008.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numba import carray, prange
from numpy.typing import NDArray

from tconv_bench import simd
from tconv_bench.jit import kernel, threads
from tconv_bench.problem import Problem
from tconv_bench.simd import (
    as_pointer,
    call_sum_taps,
    call_task,
    clear,
    copy,
    copy_rows,
    copy_strided,
    deinterleave,
    deinterleave_4,
    prefetch_to_read,
    take_number,
    total,
    transpose_rows,
)
from tconv_bench.variants import _native
from tconv_bench.variants._launch import scratch
from tconv_bench.variants._native import SIZES_AT

TALL = simd.TALL
AREA = 2**18  # elements of the columns that a step holds, in each order: 1 MiB of float32
LEAST_PIXELS, MOST_PIXELS = 512, 4096  # of a step
DEPTH = 512  # products that a tile adds at once: its rows of weights stay in the first-level cache
DEEP = 512  # products from which on two vectors are wide enough for a panel
MIN_TASKS = 16  # of a step, so that threads finish together
PACKED_TOGETHER = 4  # panels of pixels that a task copies
SUMMED_TOGETHER = 2**14  # elements of grad_out, at least, that a task adds up for grad_bias
ALONE_CYCLES = 25_000  # a launch on all threads takes 3 us, and longer when they sleep
KNOWN = 256


class Cut(NamedTuple):
    """How the products are cut into steps and tasks. A panel of pixels or of rows is a whole number of vectors wide."""

    pixel_panel: int  # pixels of a panel
    row_panel: int  # rows (o, k) of a panel
    panels: int  # panels of pixels of a step
    rows: int  # rows of a step
    row_panels: int  # panels of rows of a step
    groups: int  # groups of a step
    blocks: int  # steps of the same pixels
    row_blocks: int  # of them, those of the same groups
    chunks: int  # steps of the same rows
    channel_panels: int
    parts: int  # tasks that share a step's pixels for the same channels, and its rows
    row_parts: int
    sums: int  # tasks that add up the same channel's bias
    summed: int  # elements of an image's channel that one of them adds
    least_shift: int  # of the pixels that taps read of an output row's phase, and how much further the last one reads
    reach: int
    line: int  # room for a phase of a panel's part of an output row


ARRAYS_AT = SIZES_AT + len(Cut._fields)
TAPS_AT, TILE_AT, X_AT, WEIGHT_AT, GRAD_X_AT, GRAD_WEIGHT_AT = range(ARRAYS_AT, ARRAYS_AT + 6)
TAP_FIELDS = 6  # of a kernel position: shifts along z, y and x, the first and past the last input pixel, place in a line
WOVEN = 4  # the largest stride whose phases are taken apart in registers


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _panel(length: int, depth: int, lanes: int) -> int:
    """Width of a panel: products of small depth stand side by side, so that one call computes several tiles."""
    vectors = 2 if depth >= DEEP else 4 if depth >= DEEP // 2 else 8
    return min(vectors, -(-length // lanes)) * lanes


def cut(problem: Problem) -> Cut:
    """Steps whose columns fit the second-level cache, and enough tasks in each."""
    lanes = simd.VECTOR_BYTES // problem.itemsize
    pixels, rows = problem.batch * problem.in_pixels, problem.c_out // problem.groups * problem.taps
    pixel_panel = _panel(pixels, rows, lanes)
    row_panel = _panel(rows, pixels, lanes)
    whole, most = _up(rows, row_panel), MOST_PIXELS if problem.groups == 1 else LEAST_PIXELS
    held = min(_up(pixels, pixel_panel), max(LEAST_PIXELS, min(most, AREA // whole)) // pixel_panel * pixel_panel)
    step_rows = rows if whole * held <= AREA else AREA // held // row_panel * row_panel
    row_blocks = -(-rows // step_rows)
    row_panels = -(-step_rows // row_panel)
    groups = 1 if row_blocks > 1 else max(1, min(problem.groups, AREA // (held * row_panels * row_panel)))
    channel_panels = -(-(problem.c_in // problem.groups) // TALL)
    panels = held // pixel_panel
    wanted = -(-MIN_TASKS // (groups * channel_panels))
    sums = max(1, min(-(-MIN_TASKS // problem.c_out), problem.out_pixels // SUMMED_TOGETHER))
    g = problem.geometry
    least, last = -g.px // g.sx, ((g.kx - 1) * g.dx - g.px) // g.sx
    return Cut(
        pixel_panel, row_panel, panels, step_rows, row_panels, groups, -(-problem.groups // groups) * row_blocks, row_blocks,
        -(-pixels // held), channel_panels, min(wanted, panels), min(wanted, row_panels), sums, -(-problem.out_pixels // sums),
        least, last - least, pixel_panel + last - least,
    )  # fmt: skip


def workspace_bytes(problem: Problem) -> int:
    """Bytes that a call allocates besides its results, at its peak; it keeps them for the next one."""
    return problem.itemsize * _room(cut(problem))


def _room(c: Cut) -> int:
    """Elements of the columns in both orders."""
    return 2 * c.groups * c.panels * c.pixel_panel * c.row_panels * c.row_panel


@kernel
def _cut(tables):
    s = tables[SIZES_AT:ARRAYS_AT]
    return Cut(s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[8], s[9], s[10], s[11], s[12], s[13], s[14], s[15], s[16])


@kernel
def _take_apart(stride, source, at, first, last, line, step, count):
    """line[r*step + j] = source[at + stride*j + r], 0 outside ``first ... last - 1``; the stride is at most WOVEN."""
    if stride == 4:
        deinterleave_4(source, at, first, last, line, 0, step, count)
    else:
        deinterleave(stride, source, at, first, last, line, 0, step, count)


@kernel
def _copy_tap(g, tap, source, at, ix, count, room, to):
    """One kernel position's pixels ``ix ... ix + count - 1`` of a row of ``source``, zero where there is none."""
    first, last = min(max(ix, tap[3]), ix + count), min(tap[4], ix + count)
    if last <= first:
        first = last = ix + count
    clear(room, to, first - ix)
    copy_strided(source, at + first * g.sx + tap[2], g.sx, room, to + first - ix, last - first)
    clear(room, to + last - ix, ix + count - last)


@kernel
def _copy_pixels(g, c, grad_out, taps, first_row, rows, group, pixel, count, line, room, to):
    """Columns ``pixel ... pixel + count - 1`` of some rows of a group; ``room[to + row*pixel_panel + j]``."""
    kernel_taps = g.kz * g.ky * g.kx
    c_out, plane = g.c_out // g.groups, g.oz * g.oy * g.ox
    done = 0
    while done < count:
        rest, ix = divmod(pixel + done, g.ix)
        rest, iy = divmod(rest, g.iy)
        n, iz = divmod(rest, g.iz)
        run = min(g.ix - ix, count - done)
        o, tap = divmod(first_row, kernel_taps)
        at = (n * g.c_out + group * c_out + o) * plane
        start = (ix + c.least_shift) * g.sx
        row, kx = 0, tap % g.kx
        while row < rows:
            same = min(g.kx - kx, rows - row)
            target = to + row * c.pixel_panel + done
            oz, oy = iz * g.sz + taps[tap, 0], iy * g.sy + taps[tap, 1]
            source = at + (oz * g.oy + oy) * g.ox
            if oz < 0 or oz >= g.oz or oy < 0 or oy >= g.oy:
                for i in range(same):
                    clear(room, target + i * c.pixel_panel, run)
            elif g.sx <= WOVEN:
                for j in range(0, run * g.sx, 64 // room.itemsize):
                    prefetch_to_read(grad_out, source + start + run * g.sx + j)
                _take_apart(g.sx, grad_out, source + start, -start, g.ox - start, line, c.line, run + c.reach)
                for i in range(same):
                    copy(line, taps[tap + i, 5], room, target + i * c.pixel_panel, run)
            else:
                for i in range(same):
                    _copy_tap(g, taps[tap + i], grad_out, source, ix, run, room, target + i * c.pixel_panel)
            row += same
            kx = 0
            tap += same
            if tap == kernel_taps:
                tap = 0
                at += plane
        done += run


def _copy_task(task, tables, grad_out, room):
    """A panel of rows of some panels of pixels, in both orders."""
    tables = carray(tables, GRAD_WEIGHT_AT + 1)
    g, c = _native.geometry(tables), _cut(tables)
    parts = (c.panels + PACKED_TOGETHER - 1) // PACKED_TOGETHER
    rest, part = divmod(task, parts)
    rest, row_panel = divmod(rest, c.row_panels)
    step, own_group = divmod(rest, c.groups)
    chunk, block = divmod(step, c.blocks)
    group_block, row_block = divmod(block, c.row_blocks)
    group = group_block * c.groups + own_group
    kernel_taps = g.kz * g.ky * g.kx
    all_rows = g.c_out // g.groups * kernel_taps
    first_row = row_block * c.rows + row_panel * c.row_panel
    rows = min(c.row_panel, min(all_rows, (row_block + 1) * c.rows) - first_row)
    if group >= g.groups or rows <= 0:
        return
    pixels = g.n * g.iz * g.iy * g.ix
    grad_out, room = carray(grad_out, 1), carray(room, 1)
    taps = carray(as_pointer(tables[TAPS_AT]), (kernel_taps, TAP_FIELDS), dtype=np.int64)
    line = np.empty(g.sx * c.line if g.sx <= WOVEN else 0, room.dtype)
    padded, held = c.row_panels * c.row_panel, c.panels * c.pixel_panel
    turned = c.groups * padded * held
    for panel in range(part * PACKED_TOGETHER, min(c.panels, (part + 1) * PACKED_TOGETHER)):
        pixel = chunk * held + panel * c.pixel_panel
        if pixel >= pixels:
            return
        to = ((own_group * c.panels + panel) * padded + row_panel * c.row_panel) * c.pixel_panel
        _copy_pixels(g, c, grad_out, taps, first_row, rows, group, pixel, min(c.pixel_panel, pixels - pixel), line, room, to)
        onto = turned + ((own_group * c.row_panels + row_panel) * held + panel * c.pixel_panel) * c.row_panel
        transpose_rows(room, to, c.pixel_panel, rows, c.pixel_panel, room, onto, c.row_panel)


@kernel
def _height(left):
    """Channels of the next tile of ``left``: tiles of one channel are dear."""
    if left >= TALL:
        return TALL
    if left == 8 or left == 11:
        return min(8, TALL)
    if left == 6 or left >= 9:
        return 6
    return 4 if left == 4 or left == 7 else 3 if left == 3 or left == 5 else min(2, left)


@kernel
def _tiles(tile, height, columns, near, zeros, room, at, step, ask, asked, depth, adds, target, to, row_step):
    """target[to + i*row_step + j] = (itself if ``adds``) + near[k, i] @ room[at + k*step + j] for whole vectors of columns.

    ``ask``: a tile's offsets, which are none, and from 2 on pairs of lines to ask for, as many as ``asked``.
    """
    lanes = simd.VECTOR_BYTES // room.itemsize
    vectors = (columns + lanes - 1) // lanes
    pairs = vectors // 2
    if pairs > 0:
        call_sum_taps(tile, height, 2, pairs, lanes, near, 0, height, room, at, step, ask, 0, 1, depth, adds, zeros, 0,
                      target, to, row_step, ask, 1, asked)  # fmt: skip
    if vectors % 2:
        done = pairs * 2 * lanes
        call_sum_taps(tile, height, 1, 1, lanes, near, 0, height, room, at + done, step, ask, 0, 1, depth, adds, zeros, 0,
                      target, to + done, row_step, ask, 1, asked)  # fmt: skip


@kernel
def _list_lines(ask, target, to, row_step, height, columns):
    """List the cache lines of the sums that come next; returns how many pairs there are to ask for."""
    line = 64 // target.itemsize
    pair = 1
    for i in range(height):
        address = target.ctypes.data + (to + i * row_step) * target.itemsize
        for _ in range(0, columns, line):
            ask[2 * pair] = ask[2 * pair + 1] = address
            address += 64
            pair += 1
    return pair - 1


@kernel
def _move(edge, width, height, columns, array, at, row_step, left, run, jump, stores):
    """Columns between the rows of ``edge`` and those of an array: ``left`` until it jumps, then ``run`` until the next jump."""
    done = 0
    while done < columns:
        count = min(left, columns - done)
        if stores:
            copy_rows(edge, done, width, array, at, row_step, count, height)
        else:
            copy_rows(array, at, row_step, edge, done, width, count, height)
        at += count + jump
        done += count
        left = run


@kernel
def _add_panel(
    tile, height, columns, near, zeros, room, at, width, ask, asked, depth, adds, target, to, row_step, left, run, jump, edge
):  # fmt: skip
    """``_tiles`` on any number of columns, which jump as those of ``_move`` do."""
    lanes = simd.VECTOR_BYTES // room.itemsize
    if columns % lanes == 0 and (columns <= left or (left % lanes == 0 and run % lanes == 0)):
        done = 0
        while done < columns:
            count = min(left, columns - done)
            _tiles(
                tile, height, count, near, zeros, room, at + done, width, ask, asked, depth, adds, target, to + done, row_step
            )
            done += count
            to += jump
            left = run
        return
    if adds:
        _move(edge, width, height, columns, target, to, row_step, left, run, jump, False)
    _tiles(tile, height, columns, near, zeros, room, at, width, ask, asked, depth, adds, edge, 0, width)
    _move(edge, width, height, columns, target, to, row_step, left, run, jump, True)


def _multiply_task(task, tables, grad_out, room):
    """Up to TALL channels of one gradient: a share of a step's panels of pixels, or of its panels of rows."""
    tables, room = carray(tables, GRAD_WEIGHT_AT + 1), carray(room, 1)
    g, c = _native.geometry(tables), _cut(tables)
    rest, channel_panel = divmod(task, c.channel_panels)
    rest, own_group = divmod(rest, c.groups)
    step, part = divmod(rest, c.parts + c.row_parts)
    row_part = part - c.parts  # the first tasks of a step are shares of its pixels, the others of its rows
    chunk, block = divmod(step, c.blocks)
    group_block, row_block = divmod(block, c.row_blocks)
    group = group_block * c.groups + own_group
    if group >= g.groups:
        return
    x, weight = _native.array_at(tables, X_AT, room), _native.array_at(tables, WEIGHT_AT, room)
    grad_x, grad_weight = _native.array_at(tables, GRAD_X_AT, room), _native.array_at(tables, GRAD_WEIGHT_AT, room)
    tile = tables[TILE_AT]
    image, c_in = g.iz * g.iy * g.ix, g.c_in // g.groups
    all_rows = g.c_out // g.groups * g.kz * g.ky * g.kx
    padded, held = c.row_panels * c.row_panel, c.panels * c.pixel_panel
    first_row, first_pixel = row_block * c.rows, chunk * held
    rows, pixels = min(c.rows, all_rows - first_row), min(held, g.n * image - first_pixel)
    share, row_share = (c.panels + c.parts - 1) // c.parts, (c.row_panels + c.row_parts - 1) // c.row_parts
    first_panel, last_panel = part * share, min((part + 1) * share, (pixels + c.pixel_panel - 1) // c.pixel_panel)
    first_row_panel = max(0, row_part * row_share)
    last_row_panel = min((row_part + 1) * row_share, (rows + c.row_panel - 1) // c.row_panel)
    if row_part >= 0:
        last_panel = first_panel
    near = np.empty(TALL * DEPTH, room.dtype)
    edge = np.empty(TALL * max(c.pixel_panel, c.row_panel), room.dtype)
    zeros = np.zeros(TALL, room.dtype)
    ask = np.zeros(4 + TALL * (max(c.pixel_panel, c.row_panel) * room.itemsize // 64 + 1) * 2, np.int64)
    ask[2] = ask[3] = ask.ctypes.data
    channel = channel_panel * TALL
    end = min(c_in, channel + TALL)
    while channel < end:
        height = _height(end - channel)
        own = group * c_in + channel
        for k in range(0, rows if first_panel < last_panel else 0, DEPTH):
            depth = min(DEPTH, rows - k)
            transpose_rows(weight, own * all_rows + first_row + k, all_rows, height, depth, near, 0, height)
            for panel in range(first_panel, last_panel):
                pixel = panel * c.pixel_panel
                at = ((own_group * c.panels + panel) * padded + k) * c.pixel_panel
                n, q = divmod(first_pixel + pixel, image)
                asked = 1
                if panel + 1 < last_panel:
                    after_n, after_q = divmod(first_pixel + pixel + c.pixel_panel, image)
                    asked = _list_lines(ask, grad_x, (after_n * g.c_in + own) * image + after_q, image, height, c.pixel_panel)
                _add_panel(
                    tile, height, min(c.pixel_panel, pixels - pixel), near, zeros, room, at, c.pixel_panel, ask, asked, depth,
                    row_block > 0 or k > 0, grad_x, (n * g.c_in + own) * image + q, image, image - q, image,
                    (g.c_in - 1) * image, edge,
                )  # fmt: skip
        for k in range(0, pixels if first_row_panel < last_row_panel else 0, DEPTH):
            depth = min(DEPTH, pixels - k)
            done = 0
            while done < depth:
                n, q = divmod(first_pixel + k + done, image)
                run = min(depth - done, image - q)
                transpose_rows(x, (n * g.c_in + own) * image + q, image, height, run, near, done * height, height)
                done += run
            for panel in range(first_row_panel, last_row_panel):
                columns = min(c.row_panel, rows - panel * c.row_panel)
                at = c.groups * padded * held + ((own_group * c.row_panels + panel) * held + k) * c.row_panel
                to = own * all_rows + first_row + panel * c.row_panel
                asked = 1
                if panel + 1 < last_row_panel:
                    asked = _list_lines(ask, grad_weight, to + c.row_panel, all_rows, height, c.row_panel)
                _add_panel(
                    tile, height, columns, near, zeros, room, at, c.row_panel, ask, asked, depth, chunk > 0 or k > 0,
                    grad_weight, to, all_rows, columns, columns, 0, edge,
                )  # fmt: skip
        channel += height


def _sum_task(task, tables, grad_out, sums):
    """A share of a channel's pixels of all images."""
    tables, grad_out = carray(tables, GRAD_WEIGHT_AT + 1), carray(grad_out, 1)
    sums = carray(sums, task + 1)
    g, c = _native.geometry(tables), _cut(tables)
    channel, part = divmod(task, c.sums)
    plane = g.oz * g.oy * g.ox
    first = part * c.summed
    count = min(c.summed, plane - first)
    held = sums[task] - sums[task]
    for n in range(g.n):
        held += total(grad_out, (n * g.c_out + channel) * plane + first, count)
    sums[task] = held


@kernel(parallel=True)
def _run_steps(codes, counts, threads, constant_tables, grad_out, x, weight, grad_x, grad_weight, sums, room):
    """``codes`` and ``counts``: of adding up the bias, of copying, of multiplying; ``counts[3]`` steps of the latter two.

    Threads take the next task when they are done with one: tasks of few channels are shorter.
    """
    tables = constant_tables.copy()
    tables[X_AT], tables[WEIGHT_AT] = x.ctypes.data, weight.ctypes.data
    tables[GRAD_X_AT], tables[GRAD_WEIGHT_AT] = grad_x.ctypes.data, grad_weight.ctypes.data
    taken = np.zeros(2 * counts[3] + 1, np.int64)
    for launch in range(2 * counts[3] + 1):
        kind, step = (0, 0) if launch == 0 else (1 + (launch - 1) % 2, (launch - 1) // 2)
        target = sums if kind == 0 else room
        if threads == 1:
            for task in range(counts[kind]):
                call_task(codes[kind], step * counts[kind] + task, tables, grad_out, target)
        else:
            for _ in prange(threads):
                task = take_number(taken, launch)
                while task < counts[kind]:
                    call_task(codes[kind], step * counts[kind] + task, tables, grad_out, target)
                    task = take_number(taken, launch)


class _Ready(NamedTuple):
    """All that depends on the problem alone."""

    codes: NDArray[np.int64]
    counts: NDArray[np.int64]
    alone: bool  # no work for two threads
    tables: NDArray[np.int64]
    taps: NDArray[np.int64]  # ``tables`` holds its address
    sums: int
    room: int


@lru_cache(KNOWN)
def _ready(problem: Problem) -> _Ready:
    c, g = cut(problem), problem.geometry
    tasks = (
        problem.c_out * c.sums,
        c.groups * c.row_panels * -(-c.panels // PACKED_TOGETHER),
        (c.parts + c.row_parts) * c.groups * c.channel_panels,
    )
    codes = [_native.code(task, problem.dtype).address for task in (_sum_task, _copy_task, _multiply_task)]
    taps = _taps(problem, c)
    tables = np.zeros(GRAD_WEIGHT_AT + 1, np.int64)
    tables[_native.FIRST_FREE : ARRAYS_AT] = *g, *c
    tables[TAPS_AT] = taps.ctypes.data
    tables[TILE_AT] = simd.native_sum_taps(problem.dtype).address
    cycles = 2 * problem.flops // (2 * simd.VECTOR_BYTES // problem.itemsize)
    return _Ready(
        np.array(codes), np.array((*tasks, c.chunks * c.blocks)), cycles < ALONE_CYCLES, tables, taps, c.sums, _room(c)
    )


def _taps(problem: Problem, c: Cut) -> NDArray[np.int64]:
    """Of each kernel position what TAP_FIELDS says."""
    g = problem.geometry
    taps = []
    for kz, ky, kx in product(range(g.kz), range(g.ky), range(g.kx)):
        shift = kx * g.dx - g.px
        pixel, phase = divmod(shift, g.sx)
        reads = max(0, -pixel), (g.ox - 1 - shift) // g.sx + 1
        taps.append((kz * g.dz - g.pz, ky * g.dy - g.py, shift, *reads, phase * c.line + pixel - c.least_shift))
    return np.array(taps, np.int64)


def compute(
    problem: Problem, grad_out: NDArray[Any], x: NDArray[Any], weight: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Gradients to x, weight and bias; arrays C-contiguous, of the problem's dtype and not empty.

    Where taps are cut off at a border, a value that is not finite also meets zeros there: see ``conv_transpose_grads``.
    """
    ready = _ready(problem)
    grad_x, grad_weight = np.empty(problem.x_shape, x.dtype), np.empty(problem.weight_shape, x.dtype)
    sums = np.zeros((problem.c_out, ready.sums), x.dtype)
    workers = 1 if ready.alone else threads()
    _run_steps(
        ready.codes, ready.counts, workers, ready.tables, grad_out.reshape(-1), x.reshape(-1), weight.reshape(-1),
        grad_x.reshape(-1), grad_weight.reshape(-1), sums.reshape(-1), scratch(problem.dtype, ready.room),
    )  # fmt: skip
    return grad_x, grad_weight, sums[:, 0] if ready.sums == 1 else sums.sum(axis=1)
