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
from numpy.typing import NDArray

from tconv_bench import simd
from tconv_bench.jit import kernel, native
from tconv_bench.simd import as_pointer, call_squares, call_task, call_weights, copy, difference_to_itself
from tconv_bench.variants._blocks import kernel_from_a_line
from tconv_bench.variants._launch import PANELS_AT, RECORD_AT, SPOILED_AT
from tconv_bench.variants._winograd_layout import AXES_AT, PACK_AT, RAW_AT, RECORD, SQUARES_AT, TURNED_AT, WEIGH_AT, Layout


@kernel
def _phase_taps(kernel_size, stride, phase):
    return (kernel_size - phase + stride - 1) // stride


@kernel
def _weigh(code, over_channels, size, count, source, at, step, target, to, out_step, width):
    """G of a phase's taps along an axis: rows of its products from rows of ``count`` taps, ``step`` apart."""
    if size > 1 and not over_channels:  # the last tap first
        at, step = at + (count - 1) * step, -step
    call_weights(code, size, count, source, at, step, target, to, out_step, width)


@kernel
def _turn_round(s, code, weight, turned, group, start, height, channels, first_c, count, taps, first, step):
    """The taps of a block's weights as rows: ``taps[first + tap*step + c*height + channel]``.

    Of whole squares; rows before the first tap or beyond the last one are left over.
    """
    kernel_size = s.kz * s.ky * s.kx
    size = s.groups * s.c_in * s.c_out * kernel_size
    for c in range(first_c, first_c + count):
        to = first + (c - first_c) * height
        if turned:
            at, row = ((group * s.c_out + start) * s.c_in + c) * kernel_size, s.c_in * kernel_size
            call_squares(code, weight, at, row, channels, kernel_size, size, taps, to + (kernel_size - 1) * step, -step)
        else:
            at = ((group * s.c_in + c) * s.c_out + start) * kernel_size
            call_squares(code, weight, at, kernel_size, channels, kernel_size, size, taps, to, step)


@kernel
def _along_x(s, code, phases, taps, at, step, target, to, out_step, width):
    """A row of the kernel's taps along x; a line of ``target`` is ``out_step`` long."""
    for k in range(s.sx):
        count = _phase_taps(s.kx, s.sx, k)
        _weigh(code, s.over_channels, s.mx, count, taps, at + k * step, s.sx * step, target, to, out_step, width)
        to += phases[2 * (s.sz + s.sy + k) + 1] * out_step


@kernel
def _along_y_and_z(s, code, phases, rows, planes, x_lines, y_lines, step, target, at, line_step, width):
    """The other axes' transforms of ``rows[z][y][line along x]``; a line of ``target`` is ``line_step`` long."""
    row = x_lines * step
    if s.kz == 1:
        for k in range(s.sy):
            for x in range(x_lines):
                _weigh(
                    code, s.over_channels, s.my, _phase_taps(s.ky, s.sy, k), rows, k * row + x * step, s.sy * row, target,
                    at + x * line_step, x_lines * line_step, width,
                )  # fmt: skip
            at += phases[2 * (s.sz + k) + 1] * x_lines * line_step
        return
    # without taps along y, rows are planes already
    for i in range(s.kz if s.ky > 1 else 0):
        place = i * y_lines * row
        for k in range(s.sy):
            _weigh(
                code, s.over_channels, s.my, _phase_taps(s.ky, s.sy, k), rows, (i * s.ky + k) * row, s.sy * row, planes,
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
                    code, s.over_channels, s.mz, _phase_taps(s.kz, s.sz, kz), slabs, place, s.sz * y_lines * row, target,
                    at + line * line_step, lines * line_step, width,
                )  # fmt: skip
                place += step
            at += phases[2 * kz + 1] * lines * line_step


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
    """G g of some input channels of a panel; a task notes whether all of their weights are finite.

    Where ``TURNED_AT`` says so, the weights are those of a convolution, (C_out, C_in // groups, *kernel), and flipped.
    """
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
    taps = kernel_from_a_line((kernel_size + 2 * spare) * step, packed.dtype)
    taps[:] = 0
    first = spare * step
    rows = kernel_from_a_line(s.ky * s.kz * row, packed.dtype)
    planes = kernel_from_a_line(s.kz * y_lines * row if s.kz > 1 and s.ky > 1 else 0, packed.dtype)
    tail = np.empty(s.products * step if s.near_block * height % lanes or s.c_in % s.near_block else 0, packed.dtype)
    weigh, squares, turned = tables[WEIGH_AT], tables[SQUARES_AT], tables[TURNED_AT]
    found = False
    for c in range(first_c, last_c, s.near_block):
        count = min(s.near_block, last_c - c)
        width = count * height
        _turn_round(s, squares, weight, turned, group, start, height, channels, c, count, taps, first, step)
        found |= difference_to_itself(taps, first, kernel_size * step) != 0
        # whole vectors are written: where a block's end is none, not beside what others write
        whole = width % lanes == 0
        target = packed if whole else tail
        line_step = s.c_in * height if whole else step
        at = to + c * height if whole else 0
        if s.kz == 1 and s.ky == 1:
            _along_x(s, weigh, phases, taps, first, step, target, at, line_step, width)
        else:
            for i in range(s.kz * s.ky):
                _along_x(s, weigh, phases, taps, first + i * s.kx * step, step, rows, i * row, step, width)
            _along_y_and_z(s, weigh, phases, rows, planes, x_lines, y_lines, step, target, at, line_step, width)
        if not whole:
            for line in range(s.products):
                copy(tail, line * step, packed, to + line * s.c_in * height + c * height, width)
    if found:
        spoiled[0] = 1


def tables_of(found: Layout, dtype: str) -> NDArray[np.int64]:
    """A copy of a layout's tables, with what the weights' transform calls."""
    tables: NDArray[np.int64] = found.addresses.copy()
    tables[WEIGH_AT], tables[SQUARES_AT] = simd.native_weights(dtype).address, simd.native_squares(dtype).address
    return tables


@cache
def native_pack(dtype: str) -> Any:
    """``_native_pack`` of a dtype as machine code."""
    i, p = types.int64, types.CPointer(from_dtype(np.dtype(dtype)))
    return native(types.void(i, types.CPointer(i), p, p), _native_pack)
