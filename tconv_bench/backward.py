"""Both gradients as matrix products that share one copy of the outputs' gradient: what ``conv_transpose_grads`` runs.

With the columns ``cols[(o, k), (n, i)] = grad_out[n, o, i*stride + k*dilation - pad]``, zero where no such pixel exists::

    grad_x[c, (n, i)]      = weight[c, (o, k)] @ cols
    grad_weight[c, (o, k)] = x[c, (n, i)] @ cols.T

Both results are written where they lie. Weights and input that several tasks read are turned round once, as the tiles take
them; others by the task that reads them. A task has some pixels of ``grad_x``, or some rows (o, k) of ``grad_weight``: it
copies a block of the columns at a time, in panels of some vectors that its core's second-level cache holds, and multiplies the
weights or the input of ``simd.TALL`` channels after another with them. No task waits for or reads what another one wrote: on
two cores without a common cache, columns that they shared took up to twice the time. Where rows are few, tasks share the pixels
of ``grad_weight`` too, and their sums are added in order. The cut into tasks depends on the problem alone, so that results
depend neither on the threads nor on the run.

Cost: twice the forward call's products, and ``taps / stride**d`` times ``grad_out`` copied twice.

Source: Chellapilla et al., "High Performance Convolutional Neural Networks for Document Processing", 2006; blocks after Goto &
van de Geijn, "Anatomy of High-Performance Matrix Multiplication", ACM TOMS 2008.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from itertools import product
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numba import carray, prange
from numpy import empty, zeros  # each is looked up in every call
from numpy.typing import NDArray

from tconv_bench import simd
from tconv_bench.jit import kernel, threads
from tconv_bench.problem import Problem
from tconv_bench.simd import (
    PIECE_FIELDS,
    as_pointer,
    call_sum_taps,
    call_task,
    copy_columns,
    copy_rows,
    difference_to_itself,
    take_number,
    total,
    transpose_rows,
)
from tconv_bench.variants import _native
from tconv_bench.variants._blocks import next_row
from tconv_bench.variants._launch import FIRST_FREE, scratch
from tconv_bench.variants._native import SIZES_AT

TALL = simd.TALL
AREA = 2**17  # elements of the columns that a task holds: 512 KiB of float32, half of a second-level cache
DEPTH = 512  # products that a tile adds at once: its rows of weights stay in the first-level cache
DEEP = 512  # products from which on two vectors are wide enough for a panel
MIN_TASKS = 16  # of each gradient, so that threads finish together
MIN_PARTS = 4  # of grad_x: tasks that share pixels each copy the same columns
LEAST = 128  # pixels or rows that a task has at least where there are enough
SHARED = 2**20  # elements that the shares of grad_weight's sums may take
MIN_USES = 2  # tasks that read the same weights, or input, from which on these are turned round once for all
MOST_PACKED = 2**22  # elements of them
SUMMED_TOGETHER = 2**14  # elements of grad_out, at least, that a task adds up for grad_bias
ALONE_CYCLES = 25_000  # a launch on all threads takes 3 us, and longer when they sleep
KNOWN = 256
LINE = 16  # elements of a cache line at least


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
    packs_weight: int  # whether the weights are turned round once, for all tasks
    packs_x: int


ARRAYS_AT = SIZES_AT + len(Cut._fields)
TAPS_AT, TILE_AT, COPY_AT, X_AT, WEIGHT_AT, GRAD_X_AT, GRAD_WEIGHT_AT = range(ARRAYS_AT, ARRAYS_AT + 7)
PACK_AT, PACKS_AT, PACKED_WEIGHT_AT, PACKED_X_AT, CODES_AT = range(GRAD_WEIGHT_AT + 1, GRAD_WEIGHT_AT + 6)
COUNTS_AT = CODES_AT + 3  # of the tasks of each gradient, whose codes stand before
IS_WHOLE_AT = COUNTS_AT + 3  # no tap is cut off at a border
TABLES = IS_WHOLE_AT + 1
TAP_FIELDS = 4  # of a kernel position: shifts along z, y and x, and of the place in an image's channel


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
    lanes = simd.VECTOR_BYTES // problem.itemsize
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
    return Cut(
        pixel_panel, row_panel, x_rows, x_pixels, x_chunks, x_channels, -(-c_in // x_channels), min(w_pixels, w_share), w_rows,
        w_blocks, w_share, -(-pixels // w_share), sums, -(-problem.out_pixels // sums),
        int(x_chunks >= MIN_USES and prod(problem.weight_shape) <= MOST_PACKED),
        int(w_blocks >= MIN_USES and prod(problem.x_shape) <= MOST_PACKED),
    )  # fmt: skip


def workspace_bytes(problem: Problem) -> int:
    """Bytes that a call uses besides its results: per thread a task's columns, and shares of grad_weight's sums."""
    c = cut(problem)
    shares = c.w_shares * prod(problem.weight_shape) if c.w_shares > 1 else 0
    return problem.itemsize * (threads() * _room(c) + sum(_packed(problem, c)) + shares)


def _packed(problem: Problem, c: Cut) -> tuple[int, int]:
    """Elements of the weights and of the input as tiles take them, each channel with a line to spare."""
    rows, pixels = problem.c_out // problem.groups * problem.taps, problem.batch * problem.in_pixels
    return c.packs_weight * problem.c_in * (rows + LINE), c.packs_x * problem.c_in * (pixels + LINE)


def _room(c: Cut) -> int:
    """Elements of a task's columns, and of a panel of them that is turned round."""
    panels = -(-c.x_pixels // c.pixel_panel), -(-c.w_rows // c.row_panel)
    turned = panels[1] * c.row_panel * c.w_pixels + c.row_panel * _up(c.w_pixels, c.pixel_panel)
    return _up(max(panels[0] * c.pixel_panel * c.x_rows, turned), LINE)


@kernel
def _cut(tables):
    s = tables[SIZES_AT:ARRAYS_AT]
    return Cut(s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[8], s[9], s[10], s[11], s[12], s[13], s[14], s[15])


COPY_FIELDS = 8  # of a request to copy columns: the tables' address, then what ``_copy_pieces`` calls by these names
TABLES_AT, ROW_AT, ROWS_AT, GROUP_AT, PIECES_AT, COUNT_AT, ROW_STEP_AT, TO_AT = range(COPY_FIELDS)
EVERYWHERE = 2**62


@kernel
def _most_pieces(g, c, count, lanes):
    """Pieces that so many pixels have at most: one more than whole ones in each row of an image, and in each panel."""
    rows = count // (g.n if g.iz * g.iy * g.ix == 1 else g.ix) + 2
    return count // lanes + rows + count // c.pixel_panel + 2


@kernel
def _list_pieces(g, c, pixel, count, panel_step, lanes, pieces):
    """List the pieces of pixels ``pixel ... pixel + count - 1``, none of which is in two panels; returns how many.

    A piece is neighbouring pixels of an input row, or of images of one pixel, as many as a vector has lanes at most: the place
    that they read in grad_out, their place in the columns, their number, and z, y and x of what they read, all but the taps'
    and channels' share. Pixel j of a panel stands at ``panel_step`` times the panel's number + j.
    """
    plane, is_lone = g.oz * g.oy * g.ox, g.iz * g.iy * g.ix == 1
    rest, ix = divmod(pixel, g.ix)
    rest, iy = divmod(rest, g.iy)
    n, iz = divmod(rest, g.iz)
    number, done = 0, 0
    while done < count:
        panel, of_panel = divmod(done, c.pixel_panel)
        run = min(min(count - done, c.pixel_panel - of_panel), lanes)
        if not is_lone:
            run = min(run, g.ix - ix)
        z, y, x = iz * g.sz, iy * g.sy, ix * g.sx
        pieces[number, 0] = n * g.c_out * plane + (z * g.oy + y) * g.ox + x
        pieces[number, 1] = panel * panel_step + of_panel
        pieces[number, 2], pieces[number, 3], pieces[number, 4], pieces[number, 5] = run, z, y, x
        number += 1
        done += run
        ix += run
        if is_lone:
            ix = 0
            n += run
        elif ix == g.ix:
            ix = 0
            iy, iz, n = next_row(g.iy, g.iz, iy, iz, n)
    return number


@kernel
def _copy_pieces(g, grad_out, taps, first_row, rows, group, pieces, row_step, room, to):
    """Columns of some pieces and rows of a group: ``room[to + place of the piece + row*row_step + j]``."""
    kernel_taps, plane = g.kz * g.ky * g.kx, g.oz * g.oy * g.ox
    is_lone = g.iz * g.iy * g.ix == 1
    sizes = (g.oz, g.oy, EVERYWHERE if is_lone else g.ox)
    o, tap = divmod(first_row, kernel_taps)
    row = 0
    while row < rows:
        at = (group * (g.c_out // g.groups) + o) * plane
        taps_here = min(g.kx - tap % g.kx, rows - row)
        z, y, x, place = taps[tap, 0], taps[tap, 1], taps[tap, 2], taps[tap, 3]
        stride, low, high = g.sx, 0, taps_here
        if is_lone:  # pixels of neighbouring images, all of which have a place or none
            stride, low = g.c_out * plane, min(taps_here, max(0, (g.dx - 1 - x) // g.dx))
            high, x = max(low, min(taps_here, (g.ox - 1 - x) // g.dx + 1)), 0
        for part, first, last in ((0, 0, low), (1, low, high), (2, high, taps_here)):
            if last > first:
                copy_columns(
                    stride, grad_out, at + place + first * g.dx, sizes, (z if part == 1 else -1, y, x), g.dx, last - first,
                    pieces, pieces.shape[0], room, to + (row + first) * row_step, row_step,
                )  # fmt: skip
        row += taps_here
        tap += taps_here
        if tap == kernel_taps:
            tap = 0
            o += 1


def _copy_task(_, request, grad_out, room):
    """Columns as requested; a part of both gradients' tasks."""
    request, grad_out, room = carray(request, COPY_FIELDS), carray(grad_out, 1), carray(room, 1)
    tables = carray(as_pointer(request[TABLES_AT]), TABLES, dtype=np.int64)
    g = _native.geometry(tables)
    taps = carray(as_pointer(tables[TAPS_AT]), (g.kz * g.ky * g.kx, TAP_FIELDS), dtype=np.int64)
    pieces = carray(as_pointer(request[PIECES_AT]), (request[COUNT_AT], PIECE_FIELDS), dtype=np.int64)
    _copy_pieces(
        g, grad_out, taps, request[ROW_AT], request[ROWS_AT], request[GROUP_AT], pieces, request[ROW_STEP_AT], room,
        request[TO_AT],
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
def _tiles(tile, height, columns, near, near_at, zeros, room, at, step, ask, asked, depth, adds, target, to, row_step):
    """target[to + i*row_step + j] = (itself if ``adds``) + near[near_at + k*height + i] @ room[at + k*step + j], whole vectors.

    ``ask``: a tile's offsets, which are none, and from 2 on pairs of lines to ask for, as many as ``asked``.
    """
    lanes = simd.VECTOR_BYTES // room.itemsize
    vectors = (columns + lanes - 1) // lanes
    pairs = vectors // 2
    if pairs > 0:
        call_sum_taps(tile, height, 2, pairs, lanes, near, near_at, height, room, at, step, ask, 0, 1, depth, adds, zeros, 0,
                      target, to, row_step, ask, 1, asked, near.ctypes.data, 0)  # fmt: skip
    if vectors % 2:
        done = pairs * 2 * lanes
        call_sum_taps(tile, height, 1, 1, lanes, near, near_at, height, room, at + done, step, ask, 0, 1, depth, adds, zeros, 0,
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
    tile, height, columns, near, near_at, zeros, room, at, width, ask, asked, depth, adds, target, to, row_step, left, run,
    jump, edge,
):  # fmt: skip
    """``_tiles`` on any number of columns, which jump as those of ``_move`` do."""
    lanes = simd.VECTOR_BYTES // room.itemsize
    if columns % lanes == 0 and (columns <= left or (left % lanes == 0 and run % lanes == 0)):
        done = 0
        while done < columns:
            count = min(left, columns - done)
            _tiles(
                tile,
                height,
                count,
                near,
                near_at,
                zeros,
                room,
                at + done,
                width,
                ask,
                asked,
                depth,
                adds,
                target,
                to + done,
                row_step,
            )
            done += count
            to += jump
            left = run
        return
    if adds:
        _move(edge, width, height, columns, target, to, row_step, left, run, jump, False)
    _tiles(tile, height, columns, near, near_at, zeros, room, at, width, ask, asked, depth, adds, edge, 0, width)
    _move(edge, width, height, columns, target, to, row_step, left, run, jump, True)


@kernel
def _no_lines(c, itemsize):
    """What a tile's offsets are, and from 2 on pairs of lines to ask for: the first of itself, room for a panel's others."""
    ask = np.zeros(4 + TALL * (max(c.pixel_panel, c.row_panel) * itemsize // 64 + 1) * 2, np.int64)
    ask[2] = ask[3] = ask.ctypes.data
    return ask


@kernel
def _turn_pixels(g, x, own, height, pixel, pixels, near, to):
    """near[to + j*height + i] = pixel ``pixel + j`` of channel ``own + i``, counted through all images."""
    image, done = g.iz * g.iy * g.ix, 0
    while done < pixels:
        n, q = divmod(pixel + done, image)
        run = min(pixels - done, image - q)
        transpose_rows(x, (n * g.c_in + own) * image + q, image, height, run, near, to + done * height, height)
        done += run


def _pack_task(task, tables, weight, x):
    """The weights and the input of a tile's channels, turned round as tiles take them."""
    tables, weight, x = carray(tables, TABLES), carray(weight, 1), carray(x, 1)
    g, c = _native.geometry(tables), _cut(tables)
    image, c_in, rows = g.iz * g.iy * g.ix, g.c_in // g.groups, g.c_out // g.groups * g.kz * g.ky * g.kx
    group, tile = divmod(task, (c_in + TALL - 1) // TALL)
    channel, end = tile * TALL, min(c_in, (tile + 1) * TALL)
    while channel < end:
        height, own = _height(end - channel), group * c_in + channel
        if c.packs_weight != 0:
            packed = _native.array_at(tables, PACKED_WEIGHT_AT, weight)
            transpose_rows(weight, own * rows, rows, height, rows, packed, own * (rows + LINE), height)
        if c.packs_x != 0:
            packed = _native.array_at(tables, PACKED_X_AT, x)
            _turn_pixels(g, x, own, height, 0, g.n * image, packed, own * (g.n * image + LINE))
        channel += height


def _input_task(task, tables, grad_out, room):
    """Some pixels of grad_x, of some channels."""
    tables, grad_out, room = carray(tables, TABLES), carray(grad_out, 1), carray(room, 1)
    g, c = _native.geometry(tables), _cut(tables)
    rest, channels = divmod(task, c.x_parts)
    group, chunk = divmod(rest, c.x_chunks)
    weight, grad_x = _native.array_at(tables, WEIGHT_AT, room), _native.array_at(tables, GRAD_X_AT, room)
    kernel_taps = g.kz * g.ky * g.kx
    image, c_in, all_rows = g.iz * g.iy * g.ix, g.c_in // g.groups, g.c_out // g.groups * kernel_taps
    first = chunk * c.x_pixels
    pixels = min(c.x_pixels, g.n * image - first)
    near, zeros = np.empty(TALL * c.x_rows + simd.VECTOR_BYTES, room.dtype), np.zeros(TALL, room.dtype)
    if c.packs_weight != 0:
        near = _native.array_at(tables, PACKED_WEIGHT_AT, room)
    edge = np.empty(TALL * c.pixel_panel, room.dtype)
    request = np.empty(COPY_FIELDS, np.int64)
    request[TABLES_AT] = tables.ctypes.data
    ask = _no_lines(c, room.itemsize)
    lanes = simd.VECTOR_BYTES // room.itemsize
    pieces = np.empty((_most_pieces(g, c, pixels, lanes), PIECE_FIELDS), np.int64)
    for row in range(0, all_rows, c.x_rows):
        rows = min(c.x_rows, all_rows - row)
        request[COUNT_AT] = _list_pieces(g, c, first, pixels, rows * c.pixel_panel, lanes, pieces)
        request[PIECES_AT], request[ROW_STEP_AT], request[TO_AT] = pieces.ctypes.data, c.pixel_panel, 0
        request[ROW_AT], request[ROWS_AT], request[GROUP_AT] = row, rows, group
        call_task(tables[COPY_AT], 0, request, grad_out, room)
        channel, end = channels * c.x_channels, min(c_in, (channels + 1) * c.x_channels)
        while channel < end:
            height = _height(end - channel)
            own = group * c_in + channel
            near_at = own * (all_rows + LINE) + row * height
            if c.packs_weight == 0:
                near_at = 0
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
                    tables[TILE_AT], height, columns, near, near_at, zeros, room, pixel * rows, c.pixel_panel, ask, asked, rows,
                    row > 0, grad_x, to, image, left, image, (g.c_in - 1) * image, edge,
                )  # fmt: skip
            channel += height


def _weight_task(task, tables, grad_out, room):
    """Some rows of grad_weight, of all channels of a group; or a share of their sums."""
    tables, grad_out, room = carray(tables, TABLES), carray(grad_out, 1), carray(room, 1)
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
    if c.packs_x != 0:
        near = _native.array_at(tables, PACKED_X_AT, room)
    edge = np.empty(TALL * c.row_panel, room.dtype)
    request = np.empty(COPY_FIELDS, np.int64)
    request[TABLES_AT] = tables.ctypes.data
    ask = _no_lines(c, room.itemsize)
    parts = (c.w_pixels + c.pixel_panel - 1) // c.pixel_panel
    turned = parts * c.row_panel * c.pixel_panel
    lanes = simd.VECTOR_BYTES // room.itemsize
    pieces = np.empty((_most_pieces(g, c, c.w_pixels, lanes), PIECE_FIELDS), np.int64)
    request[PIECES_AT], request[GROUP_AT], request[ROW_STEP_AT], request[TO_AT] = pieces.ctypes.data, group, c.pixel_panel, 0
    for pixel in range(first, last, c.w_pixels):
        pixels = min(c.w_pixels, last - pixel)
        request[COUNT_AT] = _list_pieces(g, c, pixel, pixels, c.row_panel * c.pixel_panel, lanes, pieces)
        for at in range(0, rows, c.row_panel):
            height = min(c.row_panel, rows - at)
            request[ROW_AT], request[ROWS_AT] = row + at, height
            call_task(tables[COPY_AT], 0, request, grad_out, room)
            for part in range(0, pixels, c.pixel_panel):
                count, to = min(c.pixel_panel, pixels - part), turned + at * pixels + part * c.row_panel
                transpose_rows(room, part * c.row_panel, c.pixel_panel, height, count, room, to, c.row_panel)
        channel = 0
        while channel < c_in:
            height = _height(c_in - channel)
            near_at = (group * c_in + channel) * (g.n * image + LINE) + pixel * height
            if c.packs_x == 0:
                near_at = 0
                _turn_pixels(g, x, group * c_in + channel, height, pixel, pixels, near, 0)
            to = target + channel * all_rows
            for at in range(0, rows, c.row_panel):
                columns = min(c.row_panel, rows - at)
                asked = 1
                if at + c.row_panel < rows:
                    asked = _list_lines(ask, grad_weight, to + at + c.row_panel, all_rows, height, c.row_panel)
                _add_panel(
                    tables[TILE_AT], height, columns, near, near_at, zeros, room, turned + at * pixels, c.row_panel, ask, asked,
                    pixels, pixel > first, grad_weight, to + at, all_rows, columns, columns, 0, edge,
                )  # fmt: skip
            channel += height


def _sum_task(task, tables, grad_out, sums):
    """A share of a channel's pixels of all images."""
    tables, grad_out = carray(tables, TABLES), carray(grad_out, 1)
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


@kernel
def _take_tasks(tables, taken, grad_out, sums, room):
    """Tasks of grad_x, of grad_weight and of grad_bias, the next one that no thread has taken, until there are none."""
    task = take_number(taken, 0)
    while task < tables[COUNTS_AT] + tables[COUNTS_AT + 1] + tables[COUNTS_AT + 2]:
        kind, number = 0, task
        while number >= tables[COUNTS_AT + kind]:
            number -= tables[COUNTS_AT + kind]
            kind += 1
        call_task(tables[CODES_AT + kind], number, tables, grad_out, sums if kind == 2 else room)
        task = take_number(taken, 0)


@kernel
def _add_shares(shares, result, part, parts):
    """A part of the elements of ``result``: the sums of all shares, in order."""
    first, last = part * result.size // parts, (part + 1) * result.size // parts
    own = result[first:last]
    own[:] = shares[first:last]
    for start in range(result.size, shares.size, result.size):
        other = shares[start + first : start + last]
        for i in range(own.size):
            own[i] += other[i]


@kernel
def _is_harmless(factor, result):
    """Whether all of a factor is finite, which is seen in its products' sums too; the smaller one is looked at first."""
    if result.size < factor.size and difference_to_itself(result, 0, result.size) == 0:
        return True
    return difference_to_itself(factor, 0, factor.size) == 0


@kernel(parallel=True)
def _run(constant_tables, threads, grad_out, x, weight, grad_x, shares, grad_weight, sums, grad_bias, room, packed):
    """All gradients; ``shares`` of grad_weight's sums, ``sums`` of grad_bias's; ``room`` for each thread; what is ``packed``.

    False where a border's zeros may have met a factor that is not finite.
    """
    tables = constant_tables.copy()
    tables[X_AT], tables[WEIGHT_AT] = x.ctypes.data, weight.ctypes.data
    tables[GRAD_X_AT], tables[GRAD_WEIGHT_AT] = grad_x.ctypes.data, shares.ctypes.data
    tables[PACKED_X_AT] = packed.ctypes.data + tables[PACKED_X_AT] * packed.itemsize
    tables[PACKED_WEIGHT_AT] = packed.ctypes.data
    if packed.size > 0 and threads == 1:
        for task in range(tables[PACKS_AT]):
            call_task(tables[PACK_AT], task, tables, weight, x)
    elif packed.size > 0:
        for task in prange(tables[PACKS_AT]):
            call_task(tables[PACK_AT], np.int64(task), tables, weight, x)
    taken = np.zeros(1, np.int64)
    if threads == 1:
        _take_tasks(tables, taken, grad_out, sums, room)
    else:
        own = room.size // threads
        for thread in prange(threads):
            _take_tasks(tables, taken, grad_out, sums, room[thread * own :])
    if shares.size > grad_weight.size:
        if threads == 1:
            _add_shares(shares, grad_weight, 0, 1)
        else:
            for thread in prange(threads):
                _add_shares(shares, grad_weight, thread, threads)
    parts = sums.size // grad_bias.size
    for channel in range(grad_bias.size):
        grad_bias[channel] = sums[channel * parts]
        for part in range(1, parts):
            grad_bias[channel] += sums[channel * parts + part]
    return tables[IS_WHOLE_AT] != 0 or (_is_harmless(weight, grad_x) and _is_harmless(x, grad_weight))


class Ready(NamedTuple):
    """All that depends on the problem alone."""

    problem: Problem
    alone: bool  # no work for two threads
    tables: NDArray[np.int64]
    taps: NDArray[np.int64]  # ``tables`` holds its address
    shares: int
    sums: int
    room: int
    packed: int
    dtype: np.dtype[Any]


@lru_cache(KNOWN)
def ready(problem: Problem) -> Ready:
    """What ``compute`` needs for a problem of floats that is not empty."""
    c, g = cut(problem), problem.geometry
    taps = _taps(problem)
    tables = np.zeros(TABLES, np.int64)
    tables[FIRST_FREE:ARRAYS_AT] = *g, *c
    tables[TAPS_AT] = taps.ctypes.data
    tables[TILE_AT] = simd.native_sum_taps(problem.dtype).address
    tables[COPY_AT] = _native.code(_copy_task, problem.dtype).address
    tables[CODES_AT:COUNTS_AT] = [_native.code(task, problem.dtype).address for task in (_input_task, _weight_task, _sum_task)]
    tables[COUNTS_AT:IS_WHOLE_AT] = g.groups * c.x_chunks * c.x_parts, g.groups * c.w_blocks * c.w_shares, g.c_out * c.sums
    tables[PACK_AT] = _native.code(_pack_task, problem.dtype).address
    tables[PACKS_AT] = g.groups * -(-(g.c_in // g.groups) // TALL)
    tables[PACKED_X_AT] = _packed(problem, c)[0]  # elements that come before it
    tables[IS_WHOLE_AT] = problem.meetings == problem.taps * problem.in_pixels
    cycles = 2 * problem.flops // (2 * simd.VECTOR_BYTES // problem.itemsize)
    return Ready(
        problem,
        cycles < ALONE_CYCLES,
        tables,
        taps,
        c.w_shares,
        c.sums,
        _room(c),
        sum(_packed(problem, c)),
        np.dtype(problem.dtype),
    )


def _taps(problem: Problem) -> NDArray[np.int64]:
    """Of each kernel position what TAP_FIELDS says."""
    g = problem.geometry
    taps = []
    for kz, ky, kx in product(range(g.kz), range(g.ky), range(g.kx)):
        z, y, x = kz * g.dz - g.pz, ky * g.dy - g.py, kx * g.dx - g.px
        taps.append((z, y, x, (z * g.oy + y) * g.ox + x))
    return np.array(taps, np.int64)


def compute(
    ready: Ready, grad_out: NDArray[Any], x: NDArray[Any], weight: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], bool]:
    """Gradients of the shapes of x, weight and bias, and whether they are right; arrays C-contiguous, of the problem's dtype.

    They are not where taps are cut off at a border and a value of x or weight that is not finite met zeros there.
    """
    workers, dtype = 1 if ready.alone else threads(), ready.dtype
    grad_x, grad_weight = empty(x.shape, dtype), empty(weight.shape, dtype)
    grad_bias = empty(ready.problem.c_out, dtype)
    flat = grad_weight.reshape(-1)
    shares = flat if ready.shares == 1 else empty(ready.shares * flat.size, dtype)
    sums = zeros(ready.problem.c_out * ready.sums, dtype)
    size = workers * ready.room
    room = scratch(ready.problem.dtype, size + ready.packed)
    is_right = _run(
        ready.tables, workers, grad_out.reshape(-1), x.reshape(-1), weight.reshape(-1), grad_x.reshape(-1), shares, flat, sums,
        grad_bias, room[:size], room[size : size + ready.packed],
    )  # fmt: skip
    return grad_x, grad_weight, grad_bias, is_right


class _Run(NamedTuple):
    """Pixels of an axis that the same taps carry to an output pixel: the first of both, and how many."""

    pixel: int
    pixels: int
    tap: int
    taps: int


def _runs(problem: Problem, axis: int) -> list[_Run]:
    """An axis cut into pixels with the same taps; those that none carries are left out."""
    stride, dilation, before = problem.stride[axis], problem.dilation[axis], problem.padding[axis][0]
    runs: list[_Run] = []
    for pixel in range(problem.in_size[axis]):
        start = pixel * stride - before
        first = max(0, -(start // dilation))
        last = min(problem.kernel[axis] - 1, (problem.out_size[axis] - 1 - start) // dilation)
        if last < first:
            continue
        if runs and (runs[-1].tap, runs[-1].taps) == (first, last - first + 1) and runs[-1].pixel + runs[-1].pixels == pixel:
            runs[-1] = runs[-1]._replace(pixels=runs[-1].pixels + 1)
        else:
            runs.append(_Run(pixel, 1, first, last - first + 1))
    return runs


def compute_uncut(problem: Problem, grad_out: NDArray[Any], x: NDArray[Any], weight: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """What ``compute`` gives, whatever values are not finite: pieces of the input with the taps that none of it lacks."""
    grad_x, grad_weight = np.zeros(problem.x_shape, x.dtype), np.zeros(problem.weight_shape, x.dtype)
    out, source = grad_out.reshape(problem.out_shape), x.reshape(problem.x_shape)
    for runs in product(*(_runs(problem, axis) for axis in range(problem.ndim))):
        piece = replace(
            problem, in_size=tuple(run.pixels for run in runs), kernel=tuple(run.taps for run in runs), padding=0,
            output_padding=0,
        )  # fmt: skip
        starts = [
            run.pixel * s + run.tap * d - before
            for run, s, d, (before, _) in zip(runs, problem.stride, problem.dilation, problem.padding)
        ]
        pixels: Any = (..., *(slice(run.pixel, run.pixel + run.pixels) for run in runs))
        taps: Any = (..., *(slice(run.tap, run.tap + run.taps) for run in runs))
        there: Any = (..., *(slice(start, start + size) for start, size in zip(starts, piece.out_size)))
        arrays = (np.ascontiguousarray(a) for a in (out[there], source[pixels], weight[taps]))
        grad_x[pixels], of_weight, _, _ = compute(ready(piece), *arrays)
        grad_weight[taps] += of_weight
    with np.errstate(invalid="ignore", over="ignore"):
        grad_bias = out.sum(axis=(0, *range(2, out.ndim)), dtype=x.dtype)
    return grad_x.reshape(x.shape), grad_weight, grad_bias
