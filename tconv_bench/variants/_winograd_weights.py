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
from tconv_bench.simd import as_pointer, call_task, combine_weights, copy, copy_rows, difference_to_itself, transpose
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
def _turn_round(s, weight, turned, group, start, height, channels, first_c, count, taps, step, places):
    """The taps of a block's weights as rows: ``taps[tap*step + c*height + channel]``."""
    kernel_size = s.kz * s.ky * s.kx
    if turned:
        for j in range(count * kernel_size):
            c, tap = divmod(j, kernel_size)
            places[j] = (kernel_size - 1 - tap) * step + c * height
        source = ((group * s.c_out + start) * s.c_in + first_c) * kernel_size
        transpose(s.c_in * kernel_size, count * kernel_size, weight, source, taps, places, 0, channels, height)
        return
    for c in range(count):
        source = ((group * s.c_in + first_c + c) * s.c_out + start) * kernel_size
        transpose(kernel_size, kernel_size, weight, source, taps, places, c * height, channels, height)


@kernel
def _along_x(s, phases, taps, row, step, target, to, out_step, width):
    """A row of the kernel's taps along x; a line of ``target`` is ``out_step`` long."""
    for k in range(s.sx):
        at = (row * s.kx + k) * step
        _weigh(s.over_channels, s.mx, _phase_taps(s.kx, s.sx, k), taps, at, s.sx * step, target, to, out_step, width)
        to += phases[2 * (s.sz + s.sy + k) + 1] * out_step


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
    taps = np.zeros(kernel_size * step + lanes, packed.dtype)
    rows = np.empty(s.ky * s.kz * row if s.kz * s.ky > 1 else 0, packed.dtype)
    planes = np.empty(s.kz * y_lines * row if s.kz > 1 and s.ky > 1 else 0, packed.dtype)
    places = np.arange(s.near_block * kernel_size if turned else kernel_size) * step
    tail = np.empty(s.products * step if s.near_block * height % lanes or s.c_in % s.near_block else 0, packed.dtype)
    found = False
    for block in range(first_c, last_c, s.near_block):
        count = min(s.near_block, last_c - block)
        width = count * height
        _turn_round(s, weight, turned, group, start, height, channels, block, count, taps, step, places)
        found |= difference_to_itself(taps, 0, kernel_size * step) != 0
        # whole vectors are written: where a block's end is none, not beside what others write
        whole = width % lanes == 0
        target = packed if whole else tail
        line_step = s.c_in * height if whole else step
        at = to + block * height if whole else 0
        if s.kz == 1 and s.ky == 1:
            _along_x(s, phases, taps, 0, step, target, at, line_step, width)
        else:
            for i in range(s.kz * s.ky):
                _along_x(s, phases, taps, i, step, rows, i * row, step, width)
        if s.kz == 1 and s.ky > 1:
            for k in range(s.sy):
                for x in range(x_lines):
                    _weigh(
                        s.over_channels, s.my, _phase_taps(s.ky, s.sy, k), rows, k * row + x * step, s.sy * row, target,
                        at + x * line_step, x_lines * line_step, width,
                    )  # fmt: skip
                at += phases[2 * (s.sz + k) + 1] * x_lines * line_step
        elif s.kz > 1:
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
