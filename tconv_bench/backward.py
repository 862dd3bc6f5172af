"""Both gradients as matrix products that share one copy of the outputs' gradient: what ``conv_transpose_grads`` runs.

With the columns ``cols[(o, k), (n, i)] = grad_out[n, o, i*stride + k*dilation - pad]``, zero where no such pixel exists::

    grad_x[c, (n, i)]      = weight[c, (o, k)] @ cols
    grad_weight[c, (o, k)] = x[c, (n, i)] @ cols.T

``weight``, ``x`` and both results are read and written where they lie. A task has some pixels of ``grad_x``, or some rows (o,
k) of ``grad_weight``: it copies a block of the columns at a time, in panels of some vectors that its core's second-level
cache holds, and multiplies the weights or the input of ``simd.TALL`` channels after another with them. No task waits for or
reads what another one wrote: on two cores without a common cache, columns that they shared took up to twice the time. Where
rows are few, tasks share the pixels of ``grad_weight`` too, and their sums are added in order. The cut into tasks depends on
the problem alone, so that results depend neither on the threads nor on the run.

Cost: twice the forward call's products, and ``taps / stride**d`` times ``grad_out`` copied twice.

Source: Chellapilla et al., "High Performance Convolutional Neural Networks for Document Processing", 2006; blocks after Goto &
van de Geijn, "Anatomy of High-Performance Matrix Multiplication", ACM TOMS 2008.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from math import prod
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
    take_number,
    total,
    transpose_rows,
)
from tconv_bench.variants import _native
from tconv_bench.variants._launch import FIRST_FREE, scratch
from tconv_bench.variants._native import SIZES_AT

TALL = simd.TALL
AREA = 2**17  # elements of the columns that a task holds: 512 KiB of float32, half of a second-level cache
DEPTH = 512  # products that a tile adds at once: its rows of weights stay in the first-level cache
DEEP = 512  # products from which on two vectors are wide enough for a panel
TOGETHER = 32  # rows that are copied for all pixels of a task before the next ones: planes apart by a power of two collide
MIN_TASKS = 16  # of each gradient, so that threads finish together
MIN_PARTS = 4  # of grad_x: tasks that share pixels each copy the same columns
LEAST = 128  # pixels or rows that a task has at least where there are enough
SHARED = 2**20  # elements that the shares of grad_weight's sums may take
SUMMED_TOGETHER = 2**14  # elements of grad_out, at least, that a task adds up for grad_bias
ALONE_CYCLES = 25_000  # a launch on all threads takes 3 us, and longer when they sleep
KNOWN = 256


class Cut(NamedTuple):
    """How the products are cut into tasks. A panel of pixels or of rows is a whole number of vectors wide."""

    pixel_panel: int  # pixels of a panel
    row_panel: int  # rows (o, k) of a panel
    x_rows: int  # rows that a task of grad_x holds at a time
    x_pixels: int  # its pixels
    x_chunks: int  # tasks of the same channels
    x_channels: int  # its channels
    x_parts: int  # tasks of the same pixels
    w_pixels: int  # pixels that a task of grad_weight holds at a time
    w_rows: int  # its rows
    w_blocks: int  # tasks of the same pixels
    w_share: int  # its pixels
    w_shares: int  # tasks of the same rows, whose sums are added
    sums: int  # tasks that add up the same channel's bias
    summed: int  # elements of an image's channel that one of them adds
    least_shift: int  # of the pixels that taps read of an output row's phase, and how much further the last one reads
    reach: int
    line: int  # room for a phase of a panel's part of an output row


ARRAYS_AT = SIZES_AT + len(Cut._fields)
TAPS_AT, TILE_AT, COPY_AT, X_AT, WEIGHT_AT, GRAD_X_AT, GRAD_WEIGHT_AT = range(ARRAYS_AT, ARRAYS_AT + 7)
TAP_FIELDS = 6  # of a kernel position: shifts along z, y and x, the first and past the last input pixel, place in a line
WOVEN = 4  # the largest stride whose phases are taken apart in registers


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _panel(length: int, depth: int, lanes: int) -> int:
    """Width of a panel: products of small depth stand side by side, so that one call computes several tiles."""
    vectors = 2 if depth >= DEEP else 4 if depth >= DEEP // 2 else 8
    return min(vectors, -(-length // lanes)) * lanes


def _share(length: int, held: int, tasks: int, panel: int) -> int:
    """Pixels or rows of a task: what fits with ``held`` of the others, fewer where there would be few tasks."""
    most = max(panel, AREA // held // panel * panel)
    return min(most, _up(max(min(LEAST, length), -(-length // tasks)), panel))


def cut(problem: Problem) -> Cut:
    """Tasks whose columns fit the second-level cache, and enough of them."""
    g, lanes = problem.geometry, simd.VECTOR_BYTES // problem.itemsize
    c_in, wanted = problem.c_in // problem.groups, -(-MIN_TASKS // problem.groups)
    pixels, rows = problem.batch * problem.in_pixels, problem.c_out // problem.groups * problem.taps
    pixel_panel, row_panel = _panel(pixels, rows, lanes), _panel(rows, pixels, lanes)
    x_rows, w_pixels = min(rows, DEPTH), min(pixels, DEPTH)
    x_pixels, w_rows = _share(pixels, x_rows, wanted, pixel_panel), _share(rows, w_pixels, wanted, row_panel)
    x_chunks, w_blocks = -(-pixels // x_pixels), -(-rows // w_rows)
    x_channels = _up(-(-c_in // max(1, min(MIN_PARTS // (problem.groups * x_chunks), c_in // (4 * TALL)))), TALL)
    most = min(pixels // LEAST, SHARED // (c_in * rows * problem.groups))
    w_share = _up(-(-pixels // max(1, min(-(-wanted // w_blocks), most))), DEPTH if pixels > DEPTH * wanted else 1)
    sums = max(1, min(-(-MIN_TASKS // problem.c_out), problem.out_pixels // SUMMED_TOGETHER))
    least, last = -g.px // g.sx, ((g.kx - 1) * g.dx - g.px) // g.sx
    return Cut(
        pixel_panel, row_panel, x_rows, x_pixels, x_chunks, x_channels, -(-c_in // x_channels), min(w_pixels, w_share), w_rows,
        w_blocks, w_share, -(-pixels // w_share), sums, -(-problem.out_pixels // sums), least, last - least,
        pixel_panel + last - least,
    )  # fmt: skip


def workspace_bytes(problem: Problem) -> int:
    """Bytes that a call uses besides its results: per thread a task's columns, and shares of grad_weight's sums."""
    c = cut(problem)
    shares = c.w_shares * prod(problem.weight_shape) if c.w_shares > 1 else 0
    return problem.itemsize * (threads() * _room(c) + shares)


def _room(c: Cut) -> int:
    """Elements of a task's columns, and of a panel of them that is turned round."""
    panels = -(-c.x_pixels // c.pixel_panel), -(-c.w_rows // c.row_panel)
    turned = panels[1] * c.row_panel * c.w_pixels + c.row_panel * c.pixel_panel
    return max(panels[0] * c.pixel_panel * c.x_rows, turned)


@kernel
def _cut(tables):
    s = tables[SIZES_AT:ARRAYS_AT]
    return Cut(s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[8], s[9], s[10], s[11], s[12], s[13], s[14], s[15], s[16])


COPY_FIELDS = 7  # of a request to copy columns: the tables' address, then what ``_copy_pixels`` calls by these names
TABLES_AT, ROW_AT, ROWS_AT, GROUP_AT, PIXEL_AT, COUNT_AT, TO_AT = range(COPY_FIELDS)


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
def _copy_lone_pixels(g, c, grad_out, taps, first_row, rows, group, pixel, count, room, to):
    """``_copy_pixels`` of images of one pixel: a row reads the same place of every image."""
    kernel_taps, plane = g.kz * g.ky * g.kx, g.oz * g.oy * g.ox
    for row in range(rows):
        o, tap = divmod(first_row + row, kernel_taps)
        oz, oy, ox = taps[tap, 0], taps[tap, 1], taps[tap, 2]
        if 0 <= oz < g.oz and 0 <= oy < g.oy and 0 <= ox < g.ox:
            at = (pixel * g.c_out + group * (g.c_out // g.groups) + o) * plane + (oz * g.oy + oy) * g.ox + ox
            copy_strided(grad_out, at, g.c_out * plane, room, to + row * c.pixel_panel, count)
        else:
            clear(room, to + row * c.pixel_panel, count)


@kernel
def _copy_pixels(g, c, grad_out, taps, first_row, rows, group, pixel, count, line, room, to):
    """Columns ``pixel ... pixel + count - 1`` of some rows of a group; ``room[to + row*pixel_panel + j]``."""
    kernel_taps = g.kz * g.ky * g.kx
    c_out, plane = g.c_out // g.groups, g.oz * g.oy * g.ox
    if g.iz * g.iy * g.ix == 1:
        _copy_lone_pixels(g, c, grad_out, taps, first_row, rows, group, pixel, count, room, to)
        return
    rest, ix = divmod(pixel, g.ix)
    rest, iy = divmod(rest, g.iy)
    n, iz = divmod(rest, g.iz)
    first_o, first_tap = divmod(first_row, kernel_taps)
    first_kx = first_tap % g.kx
    done = 0
    while done < count:
        run = min(g.ix - ix, count - done)
        tap = first_tap
        at = (n * g.c_out + group * c_out + first_o) * plane
        start = (ix + c.least_shift) * g.sx
        row, kx = 0, first_kx
        while row < rows:
            same = min(g.kx - kx, rows - row)
            target = to + row * c.pixel_panel + done
            oz, oy = iz * g.sz + taps[tap, 0], iy * g.sy + taps[tap, 1]
            source = at + (oz * g.oy + oy) * g.ox
            if oz < 0 or oz >= g.oz or oy < 0 or oy >= g.oy:
                for i in range(same):
                    clear(room, target + i * c.pixel_panel, run)
            elif g.sx <= WOVEN:
                deinterleave(g.sx, grad_out, source + start, -start, g.ox - start, line, 0, c.line, run + c.reach)
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
        ix = 0
        iy += 1
        if iy == g.iy:
            iy = 0
            iz += 1
            if iz == g.iz:
                iz = 0
                n += 1


def _copy_task(_, request, grad_out, room):
    """Columns of some rows and a panel of pixels, as requested; a part of both gradients' tasks."""
    request, grad_out, room = carray(request, COPY_FIELDS), carray(grad_out, 1), carray(room, 1)
    tables = carray(as_pointer(request[TABLES_AT]), GRAD_WEIGHT_AT + 1, dtype=np.int64)
    g, c = _native.geometry(tables), _cut(tables)
    taps = carray(as_pointer(tables[TAPS_AT]), (g.kz * g.ky * g.kx, TAP_FIELDS), dtype=np.int64)
    line = np.empty(g.sx * c.line if g.sx <= WOVEN else 0, room.dtype)
    _copy_pixels(
        g, c, grad_out, taps, request[ROW_AT], request[ROWS_AT], request[GROUP_AT], request[PIXEL_AT], request[COUNT_AT], line,
        room, request[TO_AT],
    )  # fmt: skip


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
                      target, to, row_step, ask, 1, asked, near.ctypes.data, 0)  # fmt: skip
    if vectors % 2:
        done = pairs * 2 * lanes
        call_sum_taps(tile, height, 1, 1, lanes, near, 0, height, room, at + done, step, ask, 0, 1, depth, adds, zeros, 0,
                      target, to + done, row_step, ask, 1, asked, near.ctypes.data, 0)  # fmt: skip


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


@kernel
def _no_lines(c, itemsize):
    """What a tile's offsets are, and from 2 on pairs of lines to ask for: the first of itself, room for a panel's others."""
    ask = np.zeros(4 + TALL * (max(c.pixel_panel, c.row_panel) * itemsize // 64 + 1) * 2, np.int64)
    ask[2] = ask[3] = ask.ctypes.data
    return ask


def _input_task(task, tables, grad_out, room):
    """Some pixels of grad_x, of some channels."""
    tables, grad_out, room = carray(tables, GRAD_WEIGHT_AT + 1), carray(grad_out, 1), carray(room, 1)
    g, c = _native.geometry(tables), _cut(tables)
    rest, channels = divmod(task, c.x_parts)
    group, chunk = divmod(rest, c.x_chunks)
    weight, grad_x = _native.array_at(tables, WEIGHT_AT, room), _native.array_at(tables, GRAD_X_AT, room)
    kernel_taps = g.kz * g.ky * g.kx
    image, c_in, all_rows = g.iz * g.iy * g.ix, g.c_in // g.groups, g.c_out // g.groups * kernel_taps
    first = chunk * c.x_pixels
    pixels = min(c.x_pixels, g.n * image - first)
    near, zeros = np.empty(TALL * c.x_rows + simd.VECTOR_BYTES, room.dtype), np.zeros(TALL, room.dtype)
    edge = np.empty(TALL * c.pixel_panel, room.dtype)
    request = np.empty(COPY_FIELDS, np.int64)
    request[TABLES_AT] = tables.ctypes.data
    ask = _no_lines(c, room.itemsize)
    for row in range(0, all_rows, c.x_rows):
        rows = min(c.x_rows, all_rows - row)
        for part in range(0, rows, TOGETHER):
            for pixel in range(0, pixels, c.pixel_panel):
                request[ROW_AT], request[ROWS_AT], request[GROUP_AT] = row + part, min(TOGETHER, rows - part), group
                request[PIXEL_AT], request[COUNT_AT] = first + pixel, min(c.pixel_panel, pixels - pixel)
                request[TO_AT] = pixel * rows + part * c.pixel_panel
                call_task(tables[COPY_AT], 0, request, grad_out, room)
        channel, end = channels * c.x_channels, min(c_in, (channels + 1) * c.x_channels)
        while channel < end:
            height = _height(end - channel)
            own = group * c_in + channel
            transpose_rows(weight, own * all_rows + row, all_rows, height, rows, near, 0, height)
            n, q = divmod(first, image)
            for pixel in range(0, pixels, c.pixel_panel):
                to = (n * g.c_in + own) * image + q
                columns = min(c.pixel_panel, pixels - pixel)
                left = image - q
                q += c.pixel_panel
                while q >= image:
                    q -= image
                    n += 1
                asked = 1
                if pixel + c.pixel_panel < pixels:
                    asked = _list_lines(ask, grad_x, (n * g.c_in + own) * image + q, image, height, c.pixel_panel)
                _add_panel(
                    tables[TILE_AT], height, columns, near, zeros, room, pixel * rows, c.pixel_panel, ask, asked, rows, row > 0,
                    grad_x, to, image, left, image, (g.c_in - 1) * image, edge,
                )  # fmt: skip
            channel += height


def _weight_task(task, tables, grad_out, room):
    """Some rows of grad_weight, of all channels of a group; or a share of their sums."""
    tables, grad_out, room = carray(tables, GRAD_WEIGHT_AT + 1), carray(grad_out, 1), carray(room, 1)
    g, c = _native.geometry(tables), _cut(tables)
    rest, share = divmod(task, c.w_shares)
    group, block = divmod(rest, c.w_blocks)
    x, grad_weight = _native.array_at(tables, X_AT, room), _native.array_at(tables, GRAD_WEIGHT_AT, room)
    kernel_taps = g.kz * g.ky * g.kx
    image, c_in, all_rows = g.iz * g.iy * g.ix, g.c_in // g.groups, g.c_out // g.groups * kernel_taps
    row = block * c.w_rows
    rows = min(c.w_rows, all_rows - row)
    first, last = share * c.w_share, min(g.n * image, (share + 1) * c.w_share)
    target = (share * g.c_in + group * c_in) * all_rows + row
    near, zeros = np.empty(TALL * c.w_pixels + simd.VECTOR_BYTES, room.dtype), np.zeros(TALL, room.dtype)
    edge = np.empty(TALL * c.row_panel, room.dtype)
    request = np.empty(COPY_FIELDS, np.int64)
    request[TABLES_AT] = tables.ctypes.data
    ask = _no_lines(c, room.itemsize)
    turned = c.row_panel * c.pixel_panel
    for pixel in range(first, last, c.w_pixels):
        pixels = min(c.w_pixels, last - pixel)
        for at in range(0, rows, c.row_panel):
            height = min(c.row_panel, rows - at)
            for part in range(0, pixels, c.pixel_panel):
                count = min(c.pixel_panel, pixels - part)
                request[ROW_AT], request[ROWS_AT], request[GROUP_AT] = row + at, height, group
                request[PIXEL_AT], request[COUNT_AT], request[TO_AT] = pixel + part, count, 0
                call_task(tables[COPY_AT], 0, request, grad_out, room)
                to = turned + at * pixels + part * c.row_panel
                transpose_rows(room, 0, c.pixel_panel, height, count, room, to, c.row_panel)
        channel = 0
        while channel < c_in:
            height = _height(c_in - channel)
            done = 0
            while done < pixels:
                n, q = divmod(pixel + done, image)
                run = min(pixels - done, image - q)
                source = (n * g.c_in + group * c_in + channel) * image + q
                transpose_rows(x, source, image, height, run, near, done * height, height)
                done += run
            to = target + channel * all_rows
            for at in range(0, rows, c.row_panel):
                columns = min(c.row_panel, rows - at)
                asked = 1
                if at + c.row_panel < rows:
                    asked = _list_lines(ask, grad_weight, to + at + c.row_panel, all_rows, height, c.row_panel)
                _add_panel(
                    tables[TILE_AT], height, columns, near, zeros, room, turned + at * pixels, c.row_panel, ask, asked, pixels,
                    pixel > first, grad_weight, to + at, all_rows, columns, columns, 0, edge,
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
def _run_tasks(codes, counts, threads, constant_tables, grad_out, x, weight, grad_x, grad_weight, sums, room):
    """``codes`` and ``counts`` of the tasks of grad_x, of grad_weight and of grad_bias; ``room`` for each thread.

    Threads take the next task when they are done with one.
    """
    tables = constant_tables.copy()
    tables[X_AT], tables[WEIGHT_AT] = x.ctypes.data, weight.ctypes.data
    tables[GRAD_X_AT], tables[GRAD_WEIGHT_AT] = grad_x.ctypes.data, grad_weight.ctypes.data
    taken = np.zeros(1, np.int64)
    share = room.size // threads  # of a buffer that may be larger than asked for
    for thread in prange(threads):
        own = room[thread * share :]
        task = take_number(taken, 0)
        while task < counts[0] + counts[1] + counts[2]:
            if task < counts[0]:
                call_task(codes[0], task, tables, grad_out, own)
            elif task < counts[0] + counts[1]:
                call_task(codes[1], task - counts[0], tables, grad_out, own)
            else:
                call_task(codes[2], task - counts[0] - counts[1], tables, grad_out, sums)
            task = take_number(taken, 0)


class _Ready(NamedTuple):
    """All that depends on the problem alone."""

    codes: NDArray[np.int64]
    counts: NDArray[np.int64]
    alone: bool  # no work for two threads
    tables: NDArray[np.int64]
    taps: NDArray[np.int64]  # ``tables`` holds its address
    cut: Cut
    room: int


@lru_cache(KNOWN)
def _ready(problem: Problem) -> _Ready:
    c, g = cut(problem), problem.geometry
    tasks = g.groups * c.x_chunks * c.x_parts, g.groups * c.w_blocks * c.w_shares, g.c_out * c.sums
    codes = [_native.code(task, problem.dtype).address for task in (_input_task, _weight_task, _sum_task)]
    taps = _taps(problem, c)
    tables = np.zeros(GRAD_WEIGHT_AT + 1, np.int64)
    tables[FIRST_FREE:ARRAYS_AT] = *g, *c
    tables[TAPS_AT] = taps.ctypes.data
    tables[TILE_AT] = simd.native_sum_taps(problem.dtype).address
    tables[COPY_AT] = _native.code(_copy_task, problem.dtype).address
    cycles = 2 * problem.flops // (2 * simd.VECTOR_BYTES // problem.itemsize)
    return _Ready(np.array(codes), np.array(tasks), cycles < ALONE_CYCLES, tables, taps, c, _room(c))


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
    ready, dtype = _ready(problem), x.dtype
    shares, workers = ready.cut.w_shares, 1 if ready.alone else threads()
    grad_x = np.empty(problem.x_shape, dtype)
    grad_weight = np.empty((shares, *problem.weight_shape), dtype)
    sums = np.zeros((problem.c_out, ready.cut.sums), dtype)
    _run_tasks(
        ready.codes, ready.counts, workers, ready.tables, grad_out.reshape(-1), x.reshape(-1), weight.reshape(-1),
        grad_x.reshape(-1), grad_weight.reshape(-1), sums.reshape(-1), scratch(problem.dtype, workers * ready.room),
    )  # fmt: skip
    whole = grad_weight[0] if shares == 1 else grad_weight.sum(axis=0)
    return grad_x, whole, sums[:, 0] if ready.cut.sums == 1 else sums.sum(axis=1)
