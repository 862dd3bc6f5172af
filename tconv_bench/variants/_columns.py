"""Columns of few pixels, strip by strip: a road of its own for ``col2im``.

::

    cols[i, (o, k)] = sum over c of x[c, i] * weight[c, (o, k)]

Where pixels are few, vectors run along (o, k), which are neighbours in the caller's weights: nothing is transposed. A strip of
output channels is computed for all pixels of a task and added up at once, so that its columns stay in the second-level cache.
Weights that are used once are copied by the tiles themselves, a vector at each step, into the panels that the next tiles read;
up to ``DIRECT`` pixels read them where they lie. Those of a plan are panels already. Columns are added up for a vector of
channels at a time: their taps are turned round in registers, and so are the sums at the end.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numba import carray
from numpy.typing import NDArray

from tconv_bench import simd
from tconv_bench.jit import kernel
from tconv_bench.problem import Problem
from tconv_bench.simd import add_transposed, as_pointer, call_sum_columns, call_transpose, copy, copy_rows
from tconv_bench.variants import _blocks, _native
from tconv_bench.variants._launch import BIAS_AT, PANELS_AT, WEIGHT_AT
from tconv_bench.variants._native import SIZES_AT
from tconv_bench.variants._phase_layout import heights

DIRECT = 8  # pixels: copying a weight takes as long as 4 to 8 products with a vector of it
DIRECT_COLUMNS = 2048  # of a strip whose weights are read where they lie: runs of 8 KiB
DIRECT_DEPTH = 16  # input channels at a time there: rows a power of two apart share the sets of a cache
DEPTH = 64  # input channels of a block of weights that are copied
MOST_PIXELS = 256  # of an image
TASK_PIXELS = 64  # of the images that are computed together
NEAR_BYTES = 512 * 1024  # columns, input or sums of a task: half of a 1 MiB second-level cache
BLOCK_BYTES = 2**20  # of the two blocks of weights
# Cycles for the estimate: of a vector's multiply-add, a vector of weights copied, one read from panels and where it lies, at
# least, and a column added up.
# Seconds per thread for a cycle, and of all threads for a byte of weights that are used once.
PRODUCT, COPIED, PACKED, READ, ADDED, CYCLE, BYTE = 1.1, 5, 6, 14, 0.8, 1 / 3.1e9, 1 / 40e9


class Tiling(NamedTuple):
    """How the work is cut, as the tasks read it."""

    images: int  # of a task
    channels: int  # output channels of a strip
    width: int  # columns of a strip in whole pairs of vectors
    strips: int  # of a task
    depth: int  # input channels of a block of weights
    packed: int  # the weights are panels
    direct: int  # the weights are read where they lie
    tile: int  # the address of ``simd.sum_columns``
    turn: int  # the address of ``simd.transpose``
    tiles: int  # over a task's pixels
    last_tiles: int  # over those of the last images, where these are fewer


HEIGHTS_AT = SIZES_AT + len(Tiling._fields)  # of ``tiles``, then of ``last_tiles``


@kernel
def _aligned(array):
    """The first element at a multiple of a vector's bytes: a vector that crosses cache lines takes two loads."""
    return -array.ctypes.data % simd.VECTOR_BYTES // array.itemsize


@kernel
def _add_up(g, cols, at, pitch, rows, places, sums, bias, first, turn, out, out_at, channels):
    """Up to a vector of channels of one image: their columns added where they meet, and written with the bias.

    ``sums`` is ``[output pixel][channel]``, with a row more for what the padding cuts off.
    """
    lanes = simd.VECTOR_BYTES // out.itemsize
    taps, pixels, out_pixels = g.kz * g.ky * g.kx, g.iz * g.iy * g.ix, g.oz * g.oy * g.ox
    start = np.zeros(lanes, out.dtype)
    for i in range(channels):
        start[i] = bias[first + i]
    for pixel in range(out_pixels):
        copy(start, 0, sums, pixel * lanes, lanes)
    for pixel in range(pixels):
        add_transposed(cols, at + pixel * pitch, taps, channels, taps, sums, places, pixel * taps)
    call_transpose(turn, lanes, channels, sums, 0, out, rows, out_at, out_pixels, out_pixels)


def _strips_task(task, tables, x, out):
    """Some strips of a group for some images."""
    tables, x, out = carray(tables, HEIGHTS_AT + 1), carray(x, 1), carray(out, 1)
    weight, bias = _native.array_at(tables, WEIGHT_AT, x), _native.array_at(tables, BIAS_AT, x)
    g, s = _native.geometry(tables), tables[SIZES_AT:HEIGHTS_AT]
    images, channels, width, strips, depth = s[0], s[1], s[2], s[3], s[4]
    packed, direct, tile, turn = s[5] != 0, s[6] != 0, s[7], s[8]
    lanes, size = simd.VECTOR_BYTES // x.itemsize, x.itemsize
    c_in, c_out = g.c_in // g.groups, g.c_out // g.groups
    taps, pixels, out_pixels = g.kz * g.ky * g.kx, g.iz * g.iy * g.ix, g.oz * g.oy * g.ox
    places = carray(as_pointer(tables[PANELS_AT]), pixels * taps, dtype=np.int64)
    row_length, lines = c_out * taps, width // lanes
    all_strips = (c_out + channels - 1) // channels
    strip_parts = (all_strips + strips - 1) // strips
    image_parts = (g.n + images - 1) // images
    task, image_part = divmod(task, image_parts)
    group, strip_part = divmod(task, strip_parts)
    first_image = image_part * images
    count = min(images, g.n - first_image)
    m = count * pixels
    tiles = s[9] if count == images else s[10]
    of_heights = carray(as_pointer(tables.ctypes.data), HEIGHTS_AT + s[9] + s[10], dtype=np.int64)
    heights_at = HEIGHTS_AT if count == images else HEIGHTS_AT + s[9]
    pitch = (lines | 1) * lanes

    # x as [channel][pixel]
    a, a_at = x, (first_image * g.c_in + group * c_in) * pixels
    if count > 1:
        a, a_at = np.empty(c_in * m, x.dtype), 0
        for c in range(c_in):
            for n in range(count):
                source = ((first_image + n) * g.c_in + group * c_in + c) * pixels
                for p in range(pixels):
                    a[c * m + n * pixels + p] = x[source + p]

    copies = not (packed or direct)
    # a vector more: rows of taps are read by whole vectors
    cols = np.empty(m * pitch + 2 * lanes, x.dtype)
    cols_at = _aligned(cols)
    cols[cols_at + m * pitch :] = 0
    block = np.empty((2 * depth * width if copies else 0) + 3 * lanes, x.dtype)
    block_at = _aligned(block)
    idle = block_at + (2 * depth * width if copies else 0) + lanes  # what is copied where nothing is to be copied
    block[idle - lanes :] = 0
    nowhere = block.ctypes.data + idle * size
    sums = np.empty((out_pixels + 2) * lanes, x.dtype)
    sums_at = _aligned(sums)
    sums[sums_at + out_pixels * lanes :] = 0
    rows = np.arange(lanes) * out_pixels

    first_strip, last_strip = strip_part * strips, min(all_strips, (strip_part + 1) * strips)
    k_blocks = (c_in + depth - 1) // depth
    blocks = (last_strip - first_strip) * k_blocks
    w_base = weight.ctypes.data
    for number in range(-1, blocks):
        # The block -1 has no products: the first one's weights are copied.
        strip, k_block = divmod(max(0, number), k_blocks)
        strip += first_strip
        k = k_block * depth
        d = min(depth, c_in - k)
        start = min(strip * channels * taps, row_length - width)
        own = block_at + number % 2 * depth * width
        next_strip, next_k = divmod(number + 1, k_blocks)
        next_strip, next_k = next_strip + first_strip, next_k * depth
        next_d = min(depth, c_in - next_k) if copies and number + 1 < blocks else 0
        next_at = (group * c_in + next_k) * row_length + min(next_strip * channels * taps, row_length - width)
        next_to = block_at + (number + 1) % 2 * depth * width
        row, line = 0, 0
        for pair in range(lines // 2 if number >= 0 else 0):
            j = pair * 2 * lanes
            p = 0
            for i in range(tiles):
                height = of_heights[heights_at + i]
                stream, step, copied = nowhere, 0, 0
                if packed:
                    b_at, b_k, b_v = ((group * all_strips + strip) * width + j) * c_in, lanes, c_in * lanes
                    step = 2 * lanes * size // tiles
                    stream = w_base + (b_at + 2 * lanes * c_in) * size + i * c_in * step
                elif direct:
                    b_at, b_k, b_v = (group * c_in + k) * row_length + start + j, row_length, lanes
                else:
                    b_at, b_k, b_v = own + j * d, lanes, d * lanes
                    copied = max(0, min(d, (next_d - row) * lines - line))
                b = weight if packed or direct else block
                done = 0
                while done < d:
                    source, from_, from_step, onto, onto_step, steps = block, idle, 0, idle, 0, d - done
                    from_turn, onto_turn, stream_turn, left = 0, 0, step, d + 1
                    if copied > 0:
                        source, from_, from_step = weight, next_at + row * row_length + line * lanes, lanes
                        onto, onto_step, steps = next_to + (line * next_d + row) * lanes, next_d * lanes, copied
                        # to the next row's first vector, and its place
                        from_turn, onto_turn = row_length - (lines - 1) * lanes, lanes - (lines - 1) * next_d * lanes
                        stream, step, stream_turn = w_base + (from_ + row_length) * size, lanes * size, from_turn * size
                        left = lines - line
                        passed, line = divmod(line + copied, lines)
                        row += passed
                        copied = 0
                    call_sum_columns(
                        tile, height, a, a_at + (k + done) * m + p, m, b, b_at + done * b_k, b_k, b_v, steps,
                        k > 0 or done > 0, cols, cols_at + p * pitch + j, pitch, source, from_, from_step, from_turn, block,
                        onto, onto_step, onto_turn, left, lines, stream, step, stream_turn,
                    )  # fmt: skip
                    done += steps
                    if copies:
                        stream, step = nowhere, 0
                p += height
        while row < next_d:
            copy_rows(weight, next_at + row * row_length + line * lanes, lanes, block, next_to + (line * next_d + row) * lanes,
                      next_d * lanes, lanes, lines - line)  # fmt: skip
            row, line = row + 1, 0
        if number >= 0 and k + d == c_in:
            last = min(c_out, (strip + 1) * channels)
            for n in range(count):
                for o in range(strip * channels, last, lanes):
                    channel = group * c_out + o
                    _add_up(
                        g, cols, cols_at + n * pixels * pitch + o * taps - start, pitch, rows, places, sums[sums_at:], bias,
                        channel, turn, out, ((first_image + n) * g.c_out + channel) * out_pixels, min(lanes, last - o),
                    )  # fmt: skip


@lru_cache(maxsize=512)
def tiling(problem: Problem, threads: int, once: bool) -> Tiling | None:
    """The cut of a problem whose weights are used ``once`` or more often; None where this road does not fit it."""
    g, lanes = problem.geometry, simd.VECTOR_BYTES // problem.itemsize
    pixels, c_in, c_out, taps = problem.in_pixels, g.c_in // g.groups, g.c_out // g.groups, problem.taps
    if not (0 < pixels <= MOST_PIXELS and g.n > 0 and problem.out_pixels * simd.VECTOR_BYTES <= NEAR_BYTES // 2):
        return None
    images = max(1, min(g.n, TASK_PIXELS // pixels))
    m = images * pixels
    tiles, last_tiles = len(heights(m)), len(heights(g.n % images * pixels))
    direct = once and m <= DIRECT
    # of a vector of channels each: as many as it takes that the tiles of a block copy the next one
    parts = -(-c_out // lanes)
    fewest = max(1, DIRECT_COLUMNS // (lanes * taps) if direct else -(-2 * DEPTH // (tiles * taps)))
    fewest = min(fewest, parts)
    others = g.groups * -(-g.n // images)
    shared = -(-threads // others)  # threads that share a group's strips

    def width_of(together: int) -> int:
        return -(-min(c_out, together * lanes) * taps // (2 * lanes)) * 2 * lanes

    def preference(together: int) -> tuple[int, int]:
        slowest = -(-(-(-parts // together)) // shared) * together
        return max(0, fewest - together), slowest

    def fit(together: int) -> bool:
        held = m * max(width_of(together), c_in if images > 1 else 0) * problem.itemsize
        block = 2 * min(c_in, DEPTH) * width_of(together) * problem.itemsize if once and not direct else 0
        return width_of(together) <= c_out * taps and held <= NEAR_BYTES and block <= BLOCK_BYTES

    together = min(filter(fit, range(1, min(parts, 2 * fewest) + 1)), key=preference, default=0)
    if together == 0:
        return None
    channels, width = min(c_out, together * lanes), width_of(together)
    all_strips = -(-c_out // channels)
    depth = c_in if not once else min(c_in, DIRECT_DEPTH if direct else DEPTH)
    return Tiling(
        images, channels, width, -(-all_strips // shared), depth, int(not once), int(direct),
        simd.native_sum_columns(problem.dtype).address, simd.native_transpose(problem.dtype).address, tiles, last_tiles,
    )  # fmt: skip


@lru_cache(maxsize=512)
def fits(problem: Problem) -> bool:
    """Whether pixels are few enough, and columns many."""
    return all(tiling(problem, _blocks.threads(), once) for once in (True, False))


def _strips_and_tasks(problem: Problem, t: Tiling) -> tuple[int, int]:
    """Strips of a group, and tasks of all."""
    strips = -(-(problem.c_out // problem.groups) // t.channels)
    return strips, problem.groups * -(-strips // t.strips) * -(-problem.batch // t.images)


def seconds(problem: Problem, once: bool) -> float:
    """Predicted time of a call on weights that are used ``once`` or packed."""
    t, g = tiling(problem, _blocks.threads(), once), problem.geometry
    assert t is not None
    c_in, pixels, lanes = g.c_in // g.groups, t.images * problem.in_pixels, simd.VECTOR_BYTES // problem.itemsize
    product = PRODUCT * pixels + (0 if t.packed or t.direct else COPIED)
    least = READ if t.direct else PACKED
    strip = c_in * t.width / lanes * max(product, least) + pixels * t.width * ADDED
    _, tasks = _strips_and_tasks(problem, t)
    busiest = -(-tasks // _blocks.threads()) * t.strips * strip * CYCLE
    return 4e-6 + max(busiest, prod(problem.weight_shape) * problem.itemsize * BYTE if once else 0.0)


def workspace_elements(problem: Problem) -> int:
    """Elements that a task holds: columns, two blocks of weights, sums, and the input where it takes several images."""
    t, lanes = tiling(problem, _blocks.threads(), True), simd.VECTOR_BYTES // problem.itemsize
    assert t is not None
    pixels = t.images * problem.in_pixels
    columns = pixels * (t.width // lanes | 1) * lanes
    block = 0 if t.direct else 2 * t.depth * t.width
    own = problem.c_in // problem.groups * pixels if t.images > 1 else 0
    return columns + block + own + (problem.out_pixels + 8) * lanes


def packed_elements(problem: Problem) -> int:
    """Elements of the packed weights; strips may overlap."""
    t = tiling(problem, _blocks.threads(), False)
    assert t is not None
    return problem.c_in * t.width * _strips_and_tasks(problem, t)[0]


def prepared_bytes(problem: Problem) -> int:
    """Packed weights and the place of each tap of each input pixel."""
    return problem.itemsize * packed_elements(problem) + np.dtype(np.int64).itemsize * problem.in_pixels * problem.taps


def describe(problem: Problem) -> str:
    """How the work is cut, for people."""
    t = tiling(problem, _blocks.threads(), False)
    assert t is not None
    return f"strips of {t.channels} output channels, {t.images} of {problem.batch} images at once"


def _places(problem: Problem) -> NDArray[np.int64]:
    """Where each tap of each input pixel goes in the sums of a vector of channels: past the last pixel where it is cut off."""
    g = problem.geometry
    inside, place = np.ones((1, 1), bool), np.zeros((1, 1), np.int64)
    for size, kernel_size, stride, pad, dilation, out in (
        (g.iz, g.kz, g.sz, g.pz, g.dz, g.oz), (g.iy, g.ky, g.sy, g.py, g.dy, g.oy), (g.ix, g.kx, g.sx, g.px, g.dx, g.ox),
    ):  # fmt: skip
        at = np.arange(size)[:, None] * stride + np.arange(kernel_size) * dilation - pad
        met = (at >= 0) & (at < out)
        inside = (inside[:, None, :, None] & met[None, :, None, :]).reshape(len(place) * size, -1)
        place = (place[:, None, :, None] * out + at[None, :, None, :]).reshape(len(place) * size, -1)
    return np.where(inside, place, problem.out_pixels).reshape(-1) * (simd.VECTOR_BYTES // problem.itemsize)


@lru_cache(maxsize=512)
def _tables(problem: Problem, threads: int, once: bool) -> tuple[int, NDArray[np.int64], NDArray[np.int64]]:
    """The number of tasks, their tables without the addresses of weights and bias, and the places that these point to."""
    t, g = tiling(problem, threads, once), problem.geometry
    assert t is not None
    found = [*heights(t.images * problem.in_pixels), *heights(g.n % t.images * problem.in_pixels)]
    places = _places(problem)
    tables = np.array([*(0,) * (SIZES_AT - len(g)), *g, *t, *found], np.int64)
    tables[PANELS_AT] = places.ctypes.data
    return _strips_and_tasks(problem, t)[1], tables, places


def work(problem: Problem, once: bool, weight: NDArray[Any], bias: NDArray[Any]) -> _native.Work:
    """Tasks on weights as the caller has them, where they are used ``once``, else on those of ``pack``."""
    tasks, tables, places = _tables(problem, _blocks.threads(), once)
    tables = tables.copy()
    tables[WEIGHT_AT], tables[BIAS_AT] = weight.ctypes.data, bias.ctypes.data
    return _native.Work(tasks, _native.code(_strips_task, problem.dtype).address, tables, weight, bias, places)


def pack(problem: Problem, weight: NDArray[Any]) -> NDArray[Any]:
    """(C_in, C_out//g, *kernel) -> [g][strip][vector of columns][C_in//g][lanes]; strips may overlap."""
    t = tiling(problem, _blocks.threads(), False)
    assert t is not None
    g, lanes = problem.geometry, simd.VECTOR_BYTES // problem.itemsize
    c_in, c_out = g.c_in // g.groups, g.c_out // g.groups
    matrix = weight.reshape(g.groups, c_in, c_out * problem.taps)
    starts = np.minimum(np.arange(0, c_out, t.channels) * problem.taps, c_out * problem.taps - t.width)
    shape = (g.groups, len(starts), t.width // lanes, c_in, lanes)
    packed = _blocks.from_a_line(prod(shape), problem.dtype).reshape(shape)
    for strip, start in enumerate(starts):
        columns = matrix[:, :, start : start + t.width].reshape(g.groups, c_in, -1, lanes)
        packed[:, strip] = columns.transpose(0, 2, 1, 3)
    return packed.reshape(-1)
