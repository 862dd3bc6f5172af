"""The weights' side of ``winograd``: G g of every phase, panel by panel.

A block of input channels is turned round, so that a tap is a row ``[c][channel of the panel]``, and each axis' transform runs
over whole rows. The last axis' is written where the products read it: ``[row phase][line along z, y][phase along x, its
line][C_in // groups][height]``.

Source: Lavin & Gray, arXiv:1509.09308.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import carray, from_dtype, types

from tconv_bench import simd
from tconv_bench.jit import kernel, native
from tconv_bench.simd import (
    as_pointer,
    call_task,
    combine_weights,
    copy,
    copy_rows,
    difference_to_itself,
    transpose_part,
    transpose_whole,
)
from tconv_bench.variants._blocks import LINE_BYTES
from tconv_bench.variants._launch import PANELS_AT, RECORD_AT, SPOILED_AT
from tconv_bench.variants._winograd_layout import AXES_AT, PACK_AT, RAW_AT, RECORD, TURNED_AT


@kernel
def _phase_taps(kernel_size, stride, phase):
    return (kernel_size - phase + stride - 1) // stride


@kernel
def _weigh(over_channels, size, count, source, at, step, target, to, out_step, width):
    """G of a phase's taps along an axis: rows of its products from rows of ``count`` taps, ``step`` apart."""
    if size == 1:
        copy_rows(source, at, step, target, to, out_step, width, count)
    elif over_channels:
        combine_weights(size, count, source, at, step, target, to, out_step, width)
    else:
        combine_weights(size, count, source, at + (count - 1) * step, -step, target, to, out_step, width)


@kernel
def _turn_round(s, weight, turned, group, start, height, channels, first_c, count, taps, first, step):
    """The taps of a block's weights as rows: ``taps[first + tap*step + c*height + channel]``.

    Whole squares are turned, of which rows before the first tap or beyond the last one are left over: a square with masks
    takes 140 to 260 cycles, a whole one 60 to 70.
    """
    lanes = simd.VECTOR_BYTES // weight.itemsize
    kernel_size = s.kz * s.ky * s.kx
    row = s.c_in * kernel_size if turned else kernel_size
    down = -step if turned else step
    size = s.groups * s.c_in * s.c_out * kernel_size
    for c in range(count):
        if turned:
            source, to = ((group * s.c_out + start) * s.c_in + first_c + c) * kernel_size, first + (kernel_size - 1) * step
        else:
            source, to = ((group * s.c_in + first_c + c) * s.c_out + start) * kernel_size, first
        to += c * height
        for j in range(0, channels, lanes):
            rows = min(lanes, channels - j)
            for k in range(0, kernel_size, lanes):
                at, onto = source + j * row + k, to + k * down + j
                if rows == lanes and at + (lanes - 1) * row + lanes <= size:
                    transpose_whole(weight, at, row, taps, onto, down, lanes, lanes)  # constants take half of the cycles
                elif at + (rows - 1) * row + lanes <= size:
                    transpose_whole(weight, at, row, taps, onto, down, rows, lanes)
                else:
                    transpose_part(weight, at, row, taps, onto, down, rows, min(lanes, kernel_size - k))


@kernel
def _along_x(s, phases, taps, at, step, target, to, out_step, width):
    """A row of the kernel's taps along x; a line of ``target`` is ``out_step`` long."""
    for k in range(s.sx):
        _weigh(s.over_channels, s.mx, _phase_taps(s.kx, s.sx, k), taps, at + k * step, s.sx * step, target, to, out_step, width)
        to += phases[2 * (s.sz + s.sy + k) + 1] * out_step


@kernel
def _along_y_and_z(s, phases, rows, planes, x_lines, y_lines, step, target, at, line_step, width):
    """The other axes' transforms of ``rows[z][y][line along x]``; a line of ``target`` is ``line_step`` long."""
    row = x_lines * step
    if s.kz == 1:
        for k in range(s.sy):
            for x in range(x_lines):
                _weigh(
                    s.over_channels, s.my, _phase_taps(s.ky, s.sy, k), rows, k * row + x * step, s.sy * row, target,
                    at + x * line_step, x_lines * line_step, width,
                )  # fmt: skip
            at += phases[2 * (s.sz + k) + 1] * x_lines * line_step
        return
    # without taps along y, rows are planes already
    for i in range(s.kz if s.ky > 1 else 0):
        place = i * y_lines * row
        for k in range(s.sy):
            _weigh(
                s.over_channels, s.my, _phase_taps(s.ky, s.sy, k), rows, (i * s.ky + k) * row, s.sy * row, planes,
                place, row, row,
            )  # fmt: skip
            place += phases[2 * (s.sz + k) + 1] * row
    slabs = planes if s.ky > 1 else rows
    for kz in range(s.sz):
        place = kz * y_lines * row
        for ky in range(s.sy):
            lines = phases[2 * (s.sz + ky) + 1] * x_lines
            for line in range(lines):
                _weigh(
                    s.over_channels, s.mz, _phase_taps(s.kz, s.sz, kz), slabs, place, s.sz * y_lines * row, target,
                    at + line * line_step, lines * line_step, width,
                )  # fmt: skip
                place += step
            at += phases[2 * kz + 1] * lines * line_step


@kernel
def _from_a_line(room):
    """The array from the first cache line that starts in it: a vector that crosses lines takes twice as long to write."""
    return room[-room.ctypes.data % LINE_BYTES // room.itemsize :]


@kernel
def transform_weights(s, panels, phases, spoiled, weight, turned, group, panel, first_c, last_c, packed, to):
    """G g of a panel's input channels ``first_c ... last_c - 1``; ``to``: of the panel's first element in ``packed``.

    ``turned``: the weights are those of a convolution, (C_out, C_in // groups, *kernel), and their kernels are to be flipped.
    """
    lanes = simd.VECTOR_BYTES // packed.itemsize
    start, height, channels = panels[panel, 0], panels[panel, 1], panels[panel, 2]
    kernel_size = s.kz * s.ky * s.kx
    step = (s.near_block * height + lanes - 1) // lanes * lanes + lanes
    x_lines, y_lines = 0, 0
    for k in range(s.sx):
        x_lines += phases[2 * (s.sz + s.sy + k) + 1]
    for k in range(s.sy):
        y_lines += phases[2 * (s.sz + k) + 1]
    row = x_lines * step
    spare = (kernel_size + lanes - 1) // lanes * lanes - kernel_size
    taps = _from_a_line(np.zeros((kernel_size + 2 * spare + 1) * step, packed.dtype))
    first = spare * step
    rows = _from_a_line(np.empty(s.ky * s.kz * row + lanes, packed.dtype))
    planes = _from_a_line(np.empty(s.kz * y_lines * row + lanes if s.kz > 1 and s.ky > 1 else lanes, packed.dtype))
    tail = np.empty(s.products * step if s.near_block * height % lanes or s.c_in % s.near_block else 0, packed.dtype)
    found = False
    for block in range(first_c, last_c, s.near_block):
        count = min(s.near_block, last_c - block)
        width = count * height
        _turn_round(s, weight, turned, group, start, height, channels, block, count, taps, first, step)
        found |= difference_to_itself(taps, first, kernel_size * step) != 0
        # whole vectors are written: where a block's end is none, not beside what others write
        whole = width % lanes == 0
        target = packed if whole else tail
        line_step = s.c_in * height if whole else step
        at = to + block * height if whole else 0
        if s.kz == 1 and s.ky == 1:
            _along_x(s, phases, taps, first, step, target, at, line_step, width)
        else:
            for i in range(s.kz * s.ky):
                _along_x(s, phases, taps, first + i * s.kx * step, step, rows, i * row, step, width)
            _along_y_and_z(s, phases, rows, planes, x_lines, y_lines, step, target, at, line_step, width)
        if not whole:
            for line in range(s.products):
                copy(tail, line * step, packed, to + line * s.c_in * height + block * height, width)
    if found:
        spoiled[0] = 1


@kernel
def _slot(s, tables, panel):
    """The panel at whose place a panel's weights are."""
    return panel if tables[PACK_AT] == 0 else panel // s.task_panels * s.task_panels


@kernel
def prepare_panel(s, tables, group, panel, weight):
    """Transform a panel's weights before their use, where ``PACK_AT`` asks for it; returns the panel at whose place they are.

    All panels of a task take the first one's place, which stays in the caches.
    """
    if tables[PACK_AT] != 0:
        table = carray(tables, 1)
        raw = carray(as_pointer(tables[RAW_AT]), 1, dtype=weight.dtype)
        blocks = (s.c_in + s.pack_block - 1) // s.pack_block
        first = (group * s.panels + panel) * blocks
        for task in range(first, first + blocks):
            call_task(tables[PACK_AT], task, table, raw, weight)
    return _slot(s, tables, panel)


def _native_pack(task, tables, weight, packed):
    """The weights of some input channels of a panel; a task notes whether all of them are finite."""
    weight, packed = carray(weight, 1), carray(packed, 1)
    shape = carray(as_pointer(tables[RECORD_AT]), 1, dtype=RECORD)
    s = shape[0]
    panels = carray(as_pointer(tables[PANELS_AT]), (s.panels, 3), dtype=np.int64)
    phases = carray(as_pointer(tables[AXES_AT]), 1, dtype=np.int64)
    spoiled = carray(as_pointer(tables[SPOILED_AT]), 1, dtype=np.int64)
    rest, block = divmod(task, (s.c_in + s.pack_block - 1) // s.pack_block)
    group, panel = divmod(rest, s.panels)
    first_c, last_c = block * s.pack_block, min(s.c_in, (block + 1) * s.pack_block)
    to = (group * s.c_padded + panels[_slot(s, tables, panel), 0]) * s.products * s.c_in
    transform_weights(
        s, panels, phases, spoiled, weight, tables[TURNED_AT], group, panel, first_c, last_c, packed, to
    )  # fmt: skip


@cache
def native_pack(dtype: str) -> Any:
    """``_native_pack`` of a dtype as machine code."""
    i, p = types.int64, types.CPointer(from_dtype(np.dtype(dtype)))
    return native(types.void(i, types.CPointer(i), p, p), _native_pack)
