"""Phase decomposition: stride^d small dense convolutions whose outputs interleave, as one implicit GEMM.

::

    out[o, j*stride + r] = bias[o] + sum over the taps k of phase r, and over c, of  x[c, j - shift(k)] * weight[c, o, k],
    tap k belongs to phase r = (k*dilation - pad) mod stride and has shift(k) = (k*dilation - pad) div stride

Cost: the useful products, no inserted zero, no column buffer; products with zeros only at the ends of rows. A task lays its
input out on one line, with the border's zeros between the rows (``_phase_layout``), so that a tap is a constant distance for
any number of dimensions and images. Every tile of outputs keeps its sums in registers over all taps and channels; each output
row is written once, its phases interleaved in registers. Three layouts:

- *over pixels*: vectors along the line of positions, tiles of up to 12 output channels; weights ``[panel][tap][c][height]``.
- *over channels* (few pixels): vectors along the output channels, tiles of pixels of one row; weights
  ``[block][tap][c][channel]``. Rows meet only the taps whose input row exists. Where the stride is a multiple of a vector, the
  phases along x count as channels: a row of phases is contiguous in the weights and in the output.

- *over rows of taps* (few output channels): vectors along the line, and (tap along x, output channel) numbers the rows of a
  tile, for each tap along the other axes; weights ``[panel][tap][c][tap along x][channel]``. A chunk of the line is laid out
  once and meets all taps; their rows are added up at their distances, into the sums of all positions of a task.

With one or two output channels a tile over pixels takes all phases along x that read the same pixel; with one channel per group
(depthwise) there is nothing to tile: a vector of each phase is summed up over its taps and interleaved with the others'.

Source: Vaidyanathan, "Multirate Systems and Filter Banks", 1993, section 4.3; Shi et al., "Is the deconvolution layer the same
as a convolutional layer?", arXiv:1609.07009; tile after Goto & van de Geijn, ACM TOMS 2008.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numba import carray, from_dtype, types
from numpy.typing import NDArray

from tconv_bench import registry, simd
from tconv_bench.jit import kernel, native
from tconv_bench.problem import Problem
from tconv_bench.registry import Variant, variant
from tconv_bench.simd import (
    LINE_BYTES,
    RUN_FIELDS,
    WIDE,
    add_lines,
    as_pointer,
    call_rows,
    call_sum_taps,
    call_sum_taps_apart,
    call_transpose,
    clear,
    copy,
    copy_rows,
    copy_strided,
    difference_to_itself,
    finish_streams,
    prefetch_to_read,
    stream,
    sum_lines,
    weave_lines,
)
from tconv_bench.variants import _blocks, _cuda, _implicit_gemm, _phase_layout, _shuffled, _single
from tconv_bench.variants._blocks import kernel_from_a_line, next_row
from tconv_bench.variants._launch import (
    BIAS_AT,
    PANELS_AT,
    RECORD_AT,
    SPOILED_AT,
    TILE_AT,
    WEIGHT_AT,
    launch,
    pack_and_launch,
    scratch,
)
from tconv_bench.variants._phase_layout import (
    HEIGHTS_AT,
    JOBS_AT,
    MEMBERS_AT,
    MOST_ROWS,
    PART,
    RECORD,
    ROWS_AT,
    TAPS_AT,
    Layout,
    packed_length,
)

TALL = simd.TALL
MOST_WOVEN = max(simd.WOVEN)  # and every smaller stride
NARROW = 16  # positions of a row: shorter ones are copied many in a call, between zeros that are written before
NEAR = 8192  # bytes from the weights that a tile reads to those it asks for
AHEAD = 1024  # pairs of cache lines that the tiles of one part ask for, at most


_length = kernel(packed_length)


@kernel
def _list_inputs(s, low, length, runs):
    """Where the first channel's pixels lie and go on a task's line: (source, place, pixels, rows). Returns how many runs."""
    found = 0
    row = low // s.pitch
    slab, y = divmod(row, s.py)
    n, z = divmod(slab, s.pz)
    while row * s.pitch < low + length:
        first, last = max(0, low - row * s.pitch), min(s.data_x, low + length - row * s.pitch)
        if 0 <= n < s.batch and z < s.data_z and y < s.data_y and first < last:
            whole = first == 0 and last == s.data_x
            if whole and y > 0 and found > 0 and runs[found - 1, 2] == last:
                runs[found - 1, 3] += 1
            else:
                runs[found, 0] = n * s.x_n + (z + s.first_z) * s.x_z + (y + s.first_y) * s.x_y + (first + s.first_x) * s.x_x
                runs[found, 1], runs[found, 2], runs[found, 3] = row * s.pitch + first - low, last - first, 1
                found += 1
        row += 1
        y, z, n = next_row(s.py, s.pz, y, z, n)
    return found


@kernel
def _pack(s, x, x_at, channels, low, length, packed):
    """packed[c, i] = the line's element ``low + i`` of channel c, zero where no input pixel lies."""
    pitch, py, pz, data_x = s.pitch, s.py, s.pz, s.data_x
    if s.flat:
        pitch, py, pz = s.pitch * s.py * s.pz, 1, 1
        data_x = pitch
    if s.x_x == 1 and not s.flat and pitch <= NARROW:
        runs = np.empty((length // pitch + 2, 4), np.int64)
        found = _list_inputs(s, low, length, runs)
        for c in range(channels):
            clear(packed, c * length, length)
            for i in range(found):
                source, to = x_at + c * s.x_c + runs[i, 0], c * length + runs[i, 1]
                copy_rows(x, source, s.x_y, packed, to, pitch, runs[i, 2], runs[i, 3])
        return
    filled = 0
    row = low // pitch
    slab, y = divmod(row, py)
    n, z = divmod(slab, pz)
    lines = np.arange(channels if s.x_x > 1 else 0) * length
    while row * pitch < low + length:
        first, last = max(0, low - row * pitch), min(data_x, low + length - row * pitch)
        if 0 <= n < s.batch and z < s.data_z and y < s.data_y and first < last:
            source = x_at + n * s.x_n + (z + s.first_z) * s.x_z + (y + s.first_y) * s.x_y + (first + s.first_x) * s.x_x
            to = row * pitch + first - low
            if filled < to:
                for c in range(channels):
                    clear(packed, c * length + filled, to - filled)
            filled = to + last - first
            if s.x_x == 1:
                for c in range(channels):
                    copy(x, source + c * s.x_c, packed, to + c * length, last - first)
            else:
                call_transpose(s.turn, s.x_x, channels, x, source, packed, lines, to, last - first, last - first)
        row += 1
        y, z, n = next_row(py, pz, y, z, n)
    if filled < length:
        for c in range(channels):
            clear(packed, c * length + filled, length - filled)


@kernel
def _list_outputs(s, low, high, first_row, last_row, runs, found):
    """The rows of the first channel's output that positions ``low ... high - 1`` write, as runs of ``simd.call_rows``.

    Position by position, and of each one row phases ``first_row ... last_row - 1``, from run ``found`` on. Returns the next.
    """
    row, jx = divmod(low, s.pitch)
    slab, jy = divmod(row, s.py)
    n, jz = divmod(slab, s.pz)
    position = low
    while position < high:
        run = min(s.pitch - jx, high - position)
        first = max(0, jx * s.sx - s.crop)
        count = min(s.ox, (jx + min(run, s.wx - jx)) * s.sx - s.crop) - first
        for row_phase in range(first_row, last_row):
            rz, ry = divmod(row_phase, s.sy)
            oz, oy = jz * s.sz + rz, jy * s.sy + ry
            if count > 0 and oz < s.oz and oy < s.oy:
                runs[found, 0], runs[found, 1], runs[found, 3] = row_phase, position - low, count
                runs[found, 2] = n * s.out_n + oz * s.out_z + oy * s.out_y + first * s.out_x
                runs[found, 4] = first + s.crop - jx * s.sx
                found += 1
        position += run
        jx = 0
        jy, jz, n = next_row(s.py, s.pz, jy, jz, n)
    return found


@kernel
def _list_parts(s, low, high, part, first_row, last_row):
    """``_list_outputs`` of each part of ``part`` positions and row phase, and where each one's begin, and the last ones end."""
    phases, parts = last_row - first_row, (high - low + part - 1) // part
    runs = np.empty((phases * ((high - low) // s.pitch + 3 * parts), RUN_FIELDS), np.int64)
    starts = np.zeros(parts * phases + 1, np.int64)
    found = 0
    for number in range(parts * phases):
        sub, row_phase = divmod(number, phases)
        begin = low + sub * part
        row_phase += first_row
        found = _list_outputs(s, begin, min(high, begin + part), row_phase, row_phase + 1, runs, found)
        starts[number + 1] = found
    return runs, starts


@kernel
def _store_pixels(s, runs, first_run, last_run, sums, step, height, out, out_at):
    """Write runs of a panel's outputs; ``sums[phase, channel, position]``, ``step`` from a channel to the next."""
    flat_runs = runs.reshape(-1)
    if s.out_x == 1 and s.crop == 0 and s.far != 2:
        call_rows(s.writer, s.sx, sums, step, height * step, height, flat_runs, first_run, last_run, out, out_at, s.out_c)
        return
    longest = 0
    for run in range(first_run, last_run):
        longest = max(longest, runs[run, 3] + runs[run, 4])
    line = LINE_BYTES // out.itemsize
    apart = (longest + line - 1) // line * line
    woven = kernel_from_a_line(height * apart if s.out_x == 1 else 0, out.dtype)
    places, own = np.empty(longest if s.out_c == 1 else 0, np.int64), np.zeros(RUN_FIELDS, np.int64)
    for run in range(first_run, last_run):
        at, to, count, skipped = runs[run, 1], out_at + runs[run, 2], runs[run, 3], runs[run, 4]
        if s.out_x == 1:
            own[1], own[3] = at, skipped + count
            call_rows(s.writer, s.sx, sums, step, height * step, height, own, 0, 1, woven, 0, apart)
            for m in range(height):
                if s.far == 2:
                    stream(woven, m * apart + skipped, out, to + m * s.out_c, count)
                else:
                    copy(woven, m * apart + skipped, out, to + m * s.out_c, count)
        elif s.out_c == 1 and not skipped:
            for phase in range(s.sx):
                length = (count - phase + s.sx - 1) // s.sx
                for j in range(length):
                    places[j] = to + (j * s.sx + phase) * s.out_x
                call_transpose(s.turn, step, length, sums, at + phase * height * step, out, places, 0, height, height)
        else:
            for i in range(count):
                j, phase = divmod(skipped + i, s.sx)
                for m in range(height):
                    out[to + i * s.out_x + m * s.out_c] = sums[at + (phase * height + m) * step + j]


@kernel
def _list_lines(s, runs, first_run, last_run, height, out, out_at, ahead):
    """The cache lines of runs of a panel's outputs, as those that tiles ask for to write them. Returns how many."""
    room, listed = ahead.size // 2 - 1, 0
    base = out.ctypes.data + out_at * out.itemsize
    for _ in range(height):
        for run in range(first_run, last_run):
            line = (base + runs[run, 2] * out.itemsize) & -LINE_BYTES
            end = base + (runs[run, 2] + runs[run, 3]) * out.itemsize
            while line < end and listed < room:
                ahead[2 * listed] = line
                listed += 1
                line += LINE_BYTES
        base += s.out_c * out.itemsize
    return listed


@kernel
def _next_input(s, x_at, low, high):
    """Where the input of positions ``low ... high - 1`` begins in the first channel's memory, and its length in one image."""
    image = s.pz * s.py * s.pitch
    low = max(0, low)
    n = low // image
    if n >= s.batch:
        return x_at, 0
    ends = np.empty(2, np.int64)
    for i in range(2):
        q = low - n * image if i == 0 else min(high - 1 - n * image, image - 1)
        row, jx = divmod(q, s.pitch)
        jz, jy = divmod(row, s.py)
        jz, jy, jx = min(jz, s.data_z - 1), min(jy, s.data_y - 1), min(jx, s.data_x - 1)
        ends[i] = (jz + s.first_z) * s.x_z + (jy + s.first_y) * s.x_y + (jx + s.first_x) * s.x_x
    return x_at + n * s.x_n + ends[0], max(0, ends[1] - ends[0] + 1)


@kernel
def _tiles(
    tile, s, height, packed, length, low, high, weight, w_at, first_c, channels, jobs, row_phase, taps, table, bias, bias_at,
    sums, step, ahead, listed, stream, stream_step,
):  # fmt: skip
    """Sums of one panel and row phase at positions ``low ... high - 1`` of the packed line, over a block of input channels.

    ``first_c`` is the block's first; all but the one at 0 add to the sums. ``listed`` pairs of lines are asked for on the way,
    and those from ``stream`` on, ``stream_step`` bytes at each step. Returns the steps.
    """
    lanes = simd.VECTOR_BYTES // packed.itemsize
    if s.merged and first_c == 0:
        for row in range(s.sx * height):
            sums[row * step : (row + 1) * step] = bias[bias_at + row % height]
    at, asked = 0, 0
    while at < high - low:
        left = (high - low - at + lanes - 1) // lanes
        tallest = s.sx * height if s.merged else height
        vectors = WIDE if left >= WIDE and tallest <= 6 else 2 if left >= 2 else 1
        tiles = left // vectors
        for job in range(s.jobs):
            rows = jobs[row_phase, job, 3] * height
            call_sum_taps(
                tile, rows, vectors, tiles, lanes, weight, w_at + first_c * rows, rows, packed, low + at, length, taps,
                table * s.entries + jobs[row_phase, job, 0], jobs[row_phase, job, 1], channels, first_c > 0 or s.merged != 0,
                bias, bias_at, sums, jobs[row_phase, job, 2] * height * step + at, step, ahead, min(asked, listed), listed,
                stream + asked * stream_step, stream_step,
            )  # fmt: skip
            asked += tiles * jobs[row_phase, job, 1] * channels
        at += tiles * vectors * lanes
    return asked


@kernel
def _pixels_task(
    tile, s, group, first_panel, last_panel, first_row, last_row, low, x, weight, bias, panels, jobs, taps, runs, starts,
    packed, sums, out,
):  # fmt: skip
    """Positions from ``low`` on of some panels and row phases, vectors along the positions."""
    lanes = simd.VECTOR_BYTES // out.itemsize
    high = min(s.positions, low + s.task_positions)
    padded = (high - low + lanes - 1) // lanes * lanes
    length = _length(padded, s.span, lanes)
    x_at = group * s.c_in * s.x_c
    whole = s.block == s.c_in
    if whole:
        _pack(s, x, x_at, s.c_in, low - s.reach, length, packed)
    part = PART * lanes
    ahead = np.empty(2 * AHEAD, np.int64)
    ahead[:] = ahead.ctypes.data + 128  # a line of this task's own: two cores that ask to write one take it from each other
    if whole:
        # A part's sums stay in the first-level cache, its stores drain while the next part is computed, and the row phases
        # write neighbouring rows, which may share a cache line, one after the other.
        # What the next task packs, and the lines of a large output, are on their way meanwhile: a share at each step.
        next_at, next_length = _next_input(
            s, x_at, high - s.reach, min(s.positions, high + s.task_positions) - s.reach + s.span
        )
        line = 64 // x.itemsize
        lines = (next_length + line - 1) // line
        wanted = s.c_in * lines if s.x_x == 1 and s.far and last_row == s.sz * s.sy else 0
        share = wanted // ((last_panel - first_panel) * ((padded + part - 1) // part) * (last_row - first_row)) + 1
        fetched, c, place = 0, 0, 0
        x_base = x.ctypes.data
        for panel in range(first_panel, last_panel):
            start, height, table = panels[panel, 0], panels[panel, 1], panels[panel, 3]
            channel = group * s.c_out + start
            # Weights that are read once are asked for shortly before; others while their predecessors are read again and again.
            columns = (padded + 2 * lanes - 1) // (2 * lanes)
            size = height * s.taps * s.c_in * out.itemsize
            stream = weight.ctypes.data + channel * s.taps * s.c_in * out.itemsize + (size if columns > 1 else NEAR)
            stream_step = (height * out.itemsize + columns - 1) // columns
            for sub in range(0, padded, part):
                width = min(part, padded - sub)
                for row_phase in range(first_row, last_row):
                    number = sub // part * (last_row - first_row) + row_phase - first_row
                    first_run, last_run = starts[number], starts[number + 1]
                    listed = 0
                    if s.far:
                        if s.far == 1 and s.out_x == 1:
                            listed = _list_lines(s, runs, first_run, last_run, height, out, channel * s.out_c, ahead)
                        more = min(share, wanted - fetched, AHEAD - 1)
                        for i in range(more):
                            ahead[2 * i + 1] = x_base + (next_at + c * s.x_c + place * line) * x.itemsize
                            place += 1
                            if place == lines:
                                place = 0
                                c += 1
                        for i in range(more, listed):
                            ahead[2 * i + 1] = ahead[2 * AHEAD - 1]
                        for i in range(listed, more):
                            ahead[2 * i] = ahead[2 * AHEAD - 1]
                        fetched += max(0, more)
                        listed = max(listed, more)
                        ahead[2 * listed], ahead[2 * listed + 1] = ahead[2 * AHEAD - 1], ahead[2 * AHEAD - 1]
                    steps = _tiles(tile, s, height, packed, length, sub, sub + width, weight, channel * s.taps * s.c_in, 0,
                                   s.c_in, jobs, row_phase, taps, table, bias, channel, sums, width, ahead, listed, stream,
                                   stream_step)  # fmt: skip
                    stream += steps * stream_step
                    _store_pixels(s, runs, first_run, last_run, sums, width, height, out, channel * s.out_c)
        return
    for row_phase in range(first_row, last_row):
        for c in range(0, s.c_in, s.block):
            channels = min(s.block, s.c_in - c)
            _pack(s, x, x_at + c * s.x_c, channels, low - s.reach, length, packed)
            rows = 0
            for panel in range(first_panel, last_panel):
                start, height, table = panels[panel, 0], panels[panel, 1], panels[panel, 3]
                channel = group * s.c_out + start
                own = sums[rows * padded * s.sx :]
                _tiles(tile, s, height, packed, length, 0, padded, weight, channel * s.taps * s.c_in, c, channels, jobs,
                       row_phase, taps, table, bias, channel, own, padded, ahead, 0, ahead[0], 0)  # fmt: skip
                if c + channels == s.c_in:
                    first_run, last_run = starts[row_phase - first_row], starts[row_phase - first_row + 1]
                    _store_pixels(s, runs, first_run, last_run, own, padded, height, out, channel * s.out_c)
                rows += height


@kernel
def _product(
    tile, heights, rows, weight, a_at, packed, b_at, length, depth, vectors, zeros, origin, ahead, lines, at, step, wanted,
    channel_step, line
):  # fmt: skip
    """lines[at + m*step + j] = sum over c of weight[a_at + c*rows + m] * packed[b_at + c*length + j], for whole vectors of j.

    Meanwhile a tile asks for a cache line of each channel, ``channel_step`` bytes apart, from address ``wanted`` on: its
    ``line``-th, then the next ones. Returns the line for the next product.
    """
    lanes = simd.VECTOR_BYTES // packed.itemsize
    m, part = 0, 0
    while m < rows:
        height = heights[part]
        done = 0
        while done < vectors:
            left = vectors - done
            wide = WIDE if left >= WIDE and height <= 6 else 2 if left >= 2 else 1
            tiles = left // wide
            width = wide * simd.VECTOR_BYTES
            stream, stream_step = ahead[0], 0
            if line * 64 < width:
                stream, stream_step = wanted + b_at * packed.itemsize + done * simd.VECTOR_BYTES + line * 64, channel_step
            call_sum_taps_apart(
                tile, height, wide, tiles, lanes, weight, a_at + m, rows, packed, b_at + done * lanes, length, origin, 0, 1,
                depth, False, zeros, 0, lines, at + m * step + done * lanes, step, ahead, 0, 0, stream, stream_step,
                width if stream_step else 0,
            )  # fmt: skip
            done += tiles * wide
        m += height
        part += 1
        line += 1
    return line


@kernel
def _rows_task(
    tile, s, group, first_panel, last_panel, low, x, weight, bias, panels, jobs, distances, phases, heights, runs, starts,
    packed, lines, kept, sums, out,
):  # fmt: skip
    """Positions from ``low`` on of some panels: rows of taps, chunk by chunk of the input, added up at their distances.

    An output's rows of taps come in the order of their input rows, whatever the chunks and tasks.
    """
    lanes = simd.VECTOR_BYTES // out.itemsize
    high = min(s.positions, low + s.task_positions)
    padded = (high - low + lanes - 1) // lanes * lanes
    sum_step, length, step = _length(padded, 0, lanes), _length(s.chunk, 0, lanes), _length(s.chunk, s.carry, lanes)
    x_at, row_phases = group * s.c_in * s.x_c, s.sz * s.sy
    zeros, origin, places = np.zeros(TALL, out.dtype), np.zeros(2, np.int64), np.empty(s.members, np.int64)
    ahead = np.empty(40, np.int64)
    ahead[:] = ahead.ctypes.data + 128  # a line of this task's own: two cores that ask to write one take it from each other
    at = 0
    for panel in range(first_panel, last_panel):
        start, height = panels[panel, 0], panels[panel, 1]
        for _ in range(row_phases * s.sx):
            for m in range(height):
                sums[at : at + sum_step] = bias[group * s.c_out + start + m]
                at += sum_step
    q = low - s.reach
    while q < low + padded - s.reach + s.span:
        _pack(s, x, x_at, s.c_in, q, length, packed)
        next_at, next_length = _next_input(s, x_at, q + s.chunk, q + 2 * s.chunk)
        wanted = x.ctypes.data + next_at * x.itemsize
        channel_step, line = (s.x_c * x.itemsize, 0) if s.x_x == 1 and next_length > 0 else (0, 1024)
        sums_at, kept_at = 0, 0
        for panel in range(first_panel, last_panel):
            start, height, table = panels[panel, 0], panels[panel, 1], panels[panel, 3]
            rows = s.members * height
            for i in range(s.members):
                places[i] = i * height * step - distances[i]
            base = (group * s.c_out + start) * s.taps * s.c_in
            for row_phase in range(row_phases):
                for job in range(s.jobs):
                    if jobs[row_phase, job, 1] == 0:
                        continue
                    entry, distance = jobs[row_phase, job, 0], jobs[row_phase, job, 2]
                    own_kept = kept_at + entry * rows * s.carry
                    # positions of the chunk that outputs from low to low + padded - 1 read, from a whole vector to another
                    first, last = low - distance - s.near - q, low + padded - distance - q
                    begin = max(0, first // lanes * lanes)
                    end = min(s.chunk, (last + lanes - 1) // lanes * lanes)
                    if begin >= end:
                        continue
                    line = _product(
                        tile, heights[table], rows, weight, base + entry * rows * s.c_in, packed, begin, length,
                        s.c_in, (end - begin) // lanes, zeros, origin, ahead, lines, s.carry, step, wanted, channel_step, line,
                    )  # fmt: skip
                    if first < 0:
                        for m in range(rows):
                            copy(kept, own_kept + m * s.carry, lines, m * step, s.carry)
                    if last > s.chunk:
                        for m in range(rows):
                            copy(lines, m * step + end - begin, kept, own_kept + m * s.carry, s.carry)
                    done = max(0, (q + distance - low) // lanes * lanes)
                    ready = min(padded, (q + end + distance - low) // lanes * lanes)
                    if done >= ready:
                        continue
                    source = s.carry + low - distance - q - begin + done
                    for phase in range(s.sx):
                        if phases[phase, 1] == 0:
                            continue
                        to = sums_at + (row_phase * s.sx + phase) * height * sum_step + done
                        for m in range(height):
                            add_lines(lines, source + m * step, places, phases[phase, 0], phases[phase, 1], sums,
                                      to + m * sum_step, ready - done)  # fmt: skip
            sums_at += row_phases * s.sx * height * sum_step
            kept_at += s.entries * rows * s.carry
        q += s.chunk
    at = 0
    for panel in range(first_panel, last_panel):
        start, height = panels[panel, 0], panels[panel, 1]
        to = (group * s.c_out + start) * s.out_c
        for row_phase in range(row_phases):
            _store_pixels(s, runs, starts[row_phase], starts[row_phase + 1], sums[at:], sum_step, height, out, to)
            at += s.sx * height * sum_step
    if s.far == 2:
        finish_streams()


@kernel
def _row_taps(s, first, count, jz, jy, table, step, taps, rows, own):
    """The taps of ``first ... first + count - 1`` whose input row exists, into ``own``; returns how many.

    ``step``: from a tap's weights to the next one's.
    """
    found = 0
    for tap in range(first, first + count):
        if 0 <= jz - rows[tap, 0] < s.data_z and 0 <= jy - rows[tap, 1] < s.data_y:
            own[2 * found] = taps[2 * (table * s.entries + tap) + 1]
            own[2 * found + 1] = tap * step
            found += 1
    return found


@kernel
def _places(s, members, step, places):
    """Where a tap's weights of channel 0 go: ``step`` after those of the tap's predecessor in the sums, -1 for taps of none."""
    places[:] = -1
    for entry in range(s.entries):
        places[members[entry, 0]] = entry * step


@kernel
def _read_weights(s, weight, at, first_c, count, channels, block, members, places, step, near):
    """Weights of some input channels from where the caller has them to ``near[entry][c][channel]``; NaN if one is not finite.

    ``at``: the first channel's in input channel 0 of the group.
    """
    c_step = s.c_out // s.fold * s.kernel
    total = near[0] - near[0]
    _places(s, members, step, places)
    for c in range(count):
        source = at + (first_c + c) * c_step
        if s.fold > 1:
            for entry in range(s.entries):
                total += difference_to_itself(weight, source + members[entry, 0], channels)
                copy(weight, source + members[entry, 0], near, entry * step + c * block, channels)
        else:
            total += difference_to_itself(weight, source, channels * s.kernel)
            call_transpose(s.turn, s.kernel, s.kernel, weight, source, near, places, c * block, channels, block)
    return total


@kernel
def _tile_height(left):
    """Pixels of the next tile of ``left``: the tallest that leaves no lone pixel behind."""
    if left == 12 or left > 13:
        return TALL
    if left == 8 or left == 11 or left == 10:
        return min(8, TALL)
    if left == 6 or left >= 8:
        return 6
    return 4 if left == 4 or left >= 6 else 3 if left >= 3 else left


@kernel
def _store_channels(s, sums, at, block, channel, channels, places, out, to):
    """Write one row of some channels; ``sums[pixel, channel]`` from ``at`` on, ``places``: of the channels in ``out``."""
    if s.fold > 1 and s.out_r == 1:
        to += channel // s.fold * s.out_c + channel % s.fold
        for j in range(s.wx):
            copy(sums, at + j * block, out, to + j * s.out_x, channels)
    elif s.out_x == 1:
        call_transpose(s.turn, block, channels, sums, at, out, places, to, s.ox, s.ox)
    elif s.out_c == 1 and s.fold == 1:
        for i in range(s.ox):
            copy(sums, at + i * block, out, to + channel + i * s.out_x, channels)
    else:
        for i in range(s.ox):
            for c in range(channels):
                o, r = divmod(channel + c, s.fold)
                out[to + i * s.out_x + r * s.out_r + o * s.out_c] = sums[at + i * block + c]


@kernel
def _fetch_weights(weight, at, run, step, first, count):
    """Ask for lines ``first ... first + count - 1`` of weights that lie in runs of ``run`` elements, ``step`` apart."""
    line = 64 // weight.itemsize
    lines = (run + line - 1) // line
    row, place = divmod(first, lines)
    for _ in range(count):
        prefetch_to_read(weight, at + row * step + place * line)
        place += 1
        if place == lines:
            place = 0
            row += 1


@kernel
def _upcoming(s, jobs, row_phase, phase, first_row, last_row, at, depth, following, block):
    """Where the packed weights begin that are read after those of a phase, and how many they are.

    ``at``: where this block of ``depth`` input channels begins; ``following``: input channels of the next.
    """
    row_phase, phase = divmod(row_phase * s.sx + phase + 1, s.sx)
    if row_phase == last_row:
        row_phase, at, depth = first_row, at + s.entries * depth * block, following
    return at + jobs[row_phase, phase, 0] * depth * block, jobs[row_phase, phase, 1] * depth * block


@kernel
def _channels_task(
    tile, s, group, first_panel, last_panel, first_row, last_row, low, x, weight, bias, panels, jobs, taps, rows, members,
    spoiled, packed, near, sums, out,
):  # fmt: skip
    """All positions of some images, blocks of channels and row phases, vectors along the channels.

    All rows pass a block of input channels' weights before the next block's come. Weights that are used once (``s.raw``) are
    read from where the caller has them.
    """
    lanes = simd.VECTOR_BYTES // out.itemsize
    high = min(s.positions, low + s.task_positions)
    length = _length((high - low + lanes - 1) // lanes * lanes, s.span, lanes)
    image = s.pz * s.py * s.pitch
    first_image = low // image
    image_rows = s.wz * s.wy
    all_rows = ((high - low + image - 1) // image) * image_rows
    _pack(s, x, group * s.c_in * s.x_c, s.c_in, low - s.reach, length, packed)
    own = np.empty(2 * s.entries, np.int64)
    ahead = np.empty(40, np.int64)
    ahead[:] = ahead.ctypes.data + 128  # a line of this task's own: two cores that ask to write one take it from each other
    group_at = group * (panels[s.panels - 1, 0] + panels[s.panels - 1, 1])
    c_out = s.c_out // s.fold
    places, out_places = np.empty(s.kernel, np.int64), np.empty(panels[0, 1], np.int64)
    for panel in range(first_panel, last_panel):
        start, block, channels, table = panels[panel, 0], panels[panel, 1], panels[panel, 2], panels[panel, 3]
        row_size = s.sx * s.wx * block
        out_places[:] = -1
        for c in range(channels):
            out_places[c] = (start + c) * s.out_c
            sums[c] = bias[group * c_out + (start + c) // s.fold]
        for i in range(1, (last_row - first_row) * all_rows * s.sx * s.wx):
            copy(sums, 0, sums, i * block, channels)
        base = (group_at + start) * s.taps * s.c_in
        source = (group * s.c_in * c_out + start // s.fold) * s.kernel + start % s.fold
        for c in range(0, s.c_in, s.depth):
            depth = min(s.depth, s.c_in - c)
            following = min(s.depth, s.c_in - c - depth)
            upcoming = following if following > 0 else min(s.depth, s.c_in)
            # where the next block's weights lie, a run for each input channel; packed ones come by themselves
            step, run = c_out * s.kernel, channels // s.fold * s.kernel
            next_at = source + (c + depth) * step
            lines = following * ((run * out.itemsize + 63) // 64) if s.raw else 0
            asked, share = 0, lines // max(1, (last_row - first_row) * all_rows * s.sx) + 1
            w_at, tap_step = base + c * s.entries * block, depth * block
            if s.raw:
                # not a power of two, at which the taps' lines would share cache sets
                w_at, tap_step = 0, depth * block + lanes
                if _read_weights(s, weight, source, c, depth, channels, block, members, places, tap_step, near) != 0:
                    spoiled[0] = 1
            # packed weights lie in the order of their use: while all rows pass those of a phase, the next one's are asked for
            for row_phase in range(first_row, last_row):
                rz, ry = divmod(row_phase, s.sy)
                for phase in range(s.sx):
                    first, taps_of_phase = jobs[row_phase, phase, 0], jobs[row_phase, phase, 1]
                    stream, stream_step = ahead[0], 0
                    if not s.raw:
                        at, size = _upcoming(s, jobs, row_phase, phase, first_row, last_row, w_at, depth, upcoming, block)
                        stream = weight.ctypes.data + at * out.itemsize
                        stream_step = (size * out.itemsize - 1) // (depth * max(1, taps_of_phase * all_rows)) + 1
                    for row in range(all_rows):
                        n, rest = divmod(row, image_rows)
                        jz, jy = divmod(rest, s.wy)
                        if jz * s.sz + rz >= s.oz or jy * s.sy + ry >= s.oy:
                            continue
                        line = ((n * s.pz + jz) * s.py + jy) * s.pitch + c * length
                        count = _row_taps(s, first, taps_of_phase, jz, jy, table, tap_step, taps, rows, own)
                        if asked < lines:
                            _fetch_weights(weight, next_at, run, step, asked, min(share, lines - asked))
                            asked += share
                        j = 0
                        while j < s.wx:
                            height = _tile_height(s.wx - j)
                            to = ((row_phase - first_row) * all_rows + row) * row_size + (j * s.sx + phase) * block
                            call_sum_taps(
                                tile, height, block // lanes, 1, lanes, packed, line + j, length, near if s.raw else weight,
                                w_at, block, own, 0, count, depth, True, bias, 0, sums, to, s.sx * block, ahead, 0, 0, stream,
                                stream_step,
                            )  # fmt: skip
                            j += height
                            if j >= s.wx:
                                stream += count * depth * stream_step
        for row_phase in range(first_row, last_row):
            rz, ry = divmod(row_phase, s.sy)
            for row in range(all_rows):
                n, rest = divmod(row, image_rows)
                jz, jy = divmod(rest, s.wy)
                oz, oy = jz * s.sz + rz, jy * s.sy + ry
                if oz < s.oz and oy < s.oy:
                    to = (first_image + n) * s.out_n + group * c_out * s.out_c + oz * s.out_z + oy * s.out_y
                    at = ((row_phase - first_row) * all_rows + row) * row_size
                    _store_channels(s, sums, at, block, start, channels, out_places, out, to)


@kernel
def _part_of_work(s, task):
    """A task's groups, panels and row phases, each from its first to before its last, and its first position."""
    pieces = (s.positions + s.task_positions - 1) // s.task_positions
    row_parts = (s.sz * s.sy + s.task_rows - 1) // s.task_rows
    panel_parts = (s.panels + s.task_panels - 1) // s.task_panels
    task, row_part = divmod(task, row_parts)
    task, piece = divmod(task, pieces)
    group_part, panel_part = divmod(task, panel_parts)
    group, panel, row = group_part * s.task_groups, panel_part * s.task_panels, row_part * s.task_rows
    return (
        group, min(s.groups, group + s.task_groups), panel, min(s.panels, panel + s.task_panels), row,
        min(s.sz * s.sy, row + s.task_rows), piece * s.task_positions,
    )  # fmt: skip


def _native_pixels(task, tables, x, out):
    """One task over pixels; ``tables`` holds the addresses of a layout's arrays and of the prepared weights."""
    x, out = carray(x, 1), carray(out, 1)
    shape = carray(as_pointer(tables[RECORD_AT]), 1, dtype=RECORD)
    s = shape[0]
    weight = carray(as_pointer(tables[WEIGHT_AT]), 1, dtype=out.dtype)
    bias = carray(as_pointer(tables[BIAS_AT]), 1, dtype=out.dtype)
    panels = carray(as_pointer(tables[PANELS_AT]), (s.panels, 4), dtype=np.int64)
    jobs = carray(as_pointer(tables[JOBS_AT]), (s.sz * s.sy, s.jobs, 4), dtype=np.int64)
    taps = carray(as_pointer(tables[TAPS_AT]), 1, dtype=np.int64)
    lanes = simd.VECTOR_BYTES // out.itemsize
    first_group, last_group, first_panel, last_panel, first_row, last_row, low = _part_of_work(s, task)
    padded = (min(s.positions, s.task_positions) + lanes - 1) // lanes * lanes
    packed = np.empty(s.block * _length(padded, s.span, lanes) + 4 * lanes, out.dtype)
    most = TALL * PART * lanes
    if s.block < s.c_in:
        most = 0
        for panel in range(first_panel, last_panel):
            most += panels[panel, 1] * padded
    sums = np.empty(most * s.sx + lanes, out.dtype)
    high = min(s.positions, low + s.task_positions)
    runs, starts = _list_parts(s, low, high, PART * lanes if s.block == s.c_in else high - low, first_row, last_row)
    for group in range(first_group, last_group):
        _pixels_task(tables[TILE_AT], s, group, first_panel, last_panel, first_row, last_row, low, x, weight, bias, panels,
                     jobs, taps, runs, starts, packed, sums, out)  # fmt: skip
    if s.far == 2:
        finish_streams()


def _native_lines(task, tables, x, out):
    """One task of depthwise work, as ``_native_pixels``: the taps' lines added up, and the phases interleaved, in registers.

    Of strides that ``weave_lines`` does not know, and where channels are neighbours in the output, sums are stored between.
    """
    x, out = carray(x, 1), carray(out, 1)
    shape = carray(as_pointer(tables[RECORD_AT]), 1, dtype=RECORD)
    s = shape[0]
    weight = carray(as_pointer(tables[WEIGHT_AT]), 1, dtype=out.dtype)
    bias = carray(as_pointer(tables[BIAS_AT]), 1, dtype=out.dtype)
    jobs = carray(as_pointer(tables[JOBS_AT]), (s.sz * s.sy, s.jobs, 4), dtype=np.int64)
    job_list = carray(as_pointer(tables[JOBS_AT]), 1, dtype=np.int64)
    taps = carray(as_pointer(tables[TAPS_AT]), 1, dtype=np.int64)
    lanes = simd.VECTOR_BYTES // out.itemsize
    first_group, last_group, _, _, first_row, last_row, low = _part_of_work(s, task)
    high = min(s.positions, low + s.task_positions)
    length = _length((high - low + lanes - 1) // lanes * lanes, s.span, lanes)
    packed = np.zeros(length + 4 * lanes, out.dtype)
    inputs = np.empty((length // s.pitch + 2, 4), np.int64)
    found = _list_inputs(s, low - s.reach, length, inputs)
    woven = s.out_x == 1 and s.sx <= MOST_WOVEN
    outputs = np.empty((((high - low) // s.pitch + 2) * (last_row - first_row) if woven else 0, RUN_FIELDS), np.int64)
    rows = _list_outputs(s, low, high, first_row, last_row, outputs, 0) if woven else 0
    part = PART * lanes
    runs, starts = _list_parts(s, low, low if woven else high, part, first_row, last_row)
    sums = np.empty(0 if woven else part * s.sx + lanes, out.dtype)
    for group in range(first_group, last_group):
        for i in range(found):
            source, to, width = inputs[i, 0] + group * s.x_c, inputs[i, 1], inputs[i, 2]
            if s.x_x == 1:
                copy_rows(x, source, s.x_y, packed, to, s.pitch, width, inputs[i, 3])
            else:
                for row in range(inputs[i, 3]):
                    copy_strided(x, source + row * s.x_y, s.x_x, packed, to + row * s.pitch, width)
        own, to = group * s.taps, group * s.out_c
        if woven:
            weave_lines(s.sx, packed, weight, own, taps, job_list, 4 * s.jobs, bias[group], out, to, outputs, rows)
            continue
        for sub in range(0, high - low, part):
            width = min(part, (high - low - sub + lanes - 1) // lanes * lanes)
            for row_phase in range(first_row, last_row):
                for job in range(s.jobs):
                    sum_lines(packed[sub:], weight, own, taps, jobs[row_phase, job, 0], jobs[row_phase, job, 1], bias[group],
                              sums, job * width, width)  # fmt: skip
                number = sub // part * (last_row - first_row) + row_phase - first_row
                _store_pixels(s, runs, starts[number], starts[number + 1], sums, width, 1, out, to)
    if s.far == 2:
        finish_streams()


def _native_rows(task, tables, x, out):
    """One task over rows of taps, as ``_native_pixels``."""
    x, out = carray(x, 1), carray(out, 1)
    shape = carray(as_pointer(tables[RECORD_AT]), 1, dtype=RECORD)
    s = shape[0]
    weight = carray(as_pointer(tables[WEIGHT_AT]), 1, dtype=out.dtype)
    bias = carray(as_pointer(tables[BIAS_AT]), 1, dtype=out.dtype)
    panels = carray(as_pointer(tables[PANELS_AT]), (s.panels, 4), dtype=np.int64)
    jobs = carray(as_pointer(tables[JOBS_AT]), (s.sz * s.sy, s.jobs, 4), dtype=np.int64)
    distances = carray(as_pointer(tables[TAPS_AT]), s.members, dtype=np.int64)
    phases = carray(as_pointer(tables[ROWS_AT]), (s.sx, 2), dtype=np.int64)
    heights = carray(as_pointer(tables[HEIGHTS_AT]), (s.panels, MOST_ROWS), dtype=np.int64)
    lanes = simd.VECTOR_BYTES // out.itemsize
    first_group, last_group, first_panel, last_panel, _, _, low = _part_of_work(s, task)
    channels = 0
    for panel in range(first_panel, last_panel):
        channels += panels[panel, 1]
    padded = (min(s.positions, s.task_positions) + lanes - 1) // lanes * lanes
    packed = kernel_from_a_line(s.c_in * _length(s.chunk, 0, lanes), out.dtype)
    lines = kernel_from_a_line(s.members * panels[0, 1] * _length(s.chunk, s.carry, lanes), out.dtype)
    kept = np.empty(s.entries * s.members * channels * s.carry, out.dtype)
    sums = kernel_from_a_line(s.sz * s.sy * s.sx * channels * _length(padded, 0, lanes) + lanes, out.dtype)
    high = min(s.positions, low + s.task_positions)
    runs, starts = _list_parts(s, low, high, high - low, 0, s.sz * s.sy)
    for group in range(first_group, last_group):
        _rows_task(tables[TILE_AT], s, group, first_panel, last_panel, low, x, weight, bias, panels, jobs, distances, phases,
                   heights, runs, starts, packed, lines, kept, sums, out)  # fmt: skip


def _native_channels(task, tables, x, out):
    """One task over channels, as ``_native_pixels``: apart, since a problem needs one of them and compilation takes seconds."""
    x, out = carray(x, 1), carray(out, 1)
    shape = carray(as_pointer(tables[RECORD_AT]), 1, dtype=RECORD)
    s = shape[0]
    weight = carray(as_pointer(tables[WEIGHT_AT]), 1, dtype=out.dtype)
    bias = carray(as_pointer(tables[BIAS_AT]), 1, dtype=out.dtype)
    panels = carray(as_pointer(tables[PANELS_AT]), (s.panels, 4), dtype=np.int64)
    jobs = carray(as_pointer(tables[JOBS_AT]), (s.sz * s.sy, s.jobs, 4), dtype=np.int64)
    taps = carray(as_pointer(tables[TAPS_AT]), 1, dtype=np.int64)
    rows = carray(as_pointer(tables[ROWS_AT]), (s.entries, 2), dtype=np.int64)
    members = carray(as_pointer(tables[MEMBERS_AT]), (s.entries, s.members), dtype=np.int64)
    spoiled = carray(as_pointer(tables[SPOILED_AT]), 1, dtype=np.int64)
    lanes = simd.VECTOR_BYTES // out.itemsize
    first_group, last_group, first_panel, last_panel, first_row, last_row, low = _part_of_work(s, task)
    padded = (min(s.positions, s.task_positions) + lanes - 1) // lanes * lanes
    packed = np.empty(s.block * _length(padded, s.span, lanes) + 4 * lanes, out.dtype)
    images = (padded + s.pz * s.py * s.pitch - 1) // (s.pz * s.py * s.pitch)
    sums = np.empty((last_row - first_row) * images * s.wz * s.wy * s.sx * s.wx * panels[0, 1], out.dtype)
    near = np.zeros(s.entries * (s.depth * panels[0, 1] + lanes) if s.raw else 0, out.dtype)
    for group in range(first_group, last_group):
        _channels_task(tables[TILE_AT], s, group, first_panel, last_panel, first_row, last_row, low, x, weight, bias, panels,
                       jobs, taps, rows, members, spoiled, packed, near, sums, out)  # fmt: skip


def _native_pack(task, tables, weight, packed):
    """(C_in, C_out//g, kernel) -> [g][panel][entry][C_in//g][phase][height], zeros beyond the last channel.

    Over channels in blocks of ``depth`` input channels: [g][panel][c block][entry][c][height], as they are read. A task
    takes as many input channels of a panel as the first-level cache holds, and notes whether all of them are finite.
    """
    weight, packed = carray(weight, 1), carray(packed, 1)
    shape = carray(as_pointer(tables[RECORD_AT]), 1, dtype=RECORD)
    s = shape[0]
    panels = carray(as_pointer(tables[PANELS_AT]), (s.panels, 4), dtype=np.int64)
    members = carray(as_pointer(tables[MEMBERS_AT]), (s.entries, s.members), dtype=np.int64)
    spoiled = carray(as_pointer(tables[SPOILED_AT]), 1, dtype=np.int64)
    rest, block = divmod(task, (s.c_in + s.pack_block - 1) // s.pack_block)
    group, panel = divmod(rest, s.panels)
    start, height, channels = panels[panel, 0], panels[panel, 1], panels[panel, 2]
    to = (group * (panels[s.panels - 1, 0] + panels[s.panels - 1, 1]) + start) * s.taps * s.c_in
    in_step, out_step = s.c_out // s.fold * s.kernel, s.kernel
    found = False
    first_c, last_c = block * s.pack_block, min(s.c_in, (block + 1) * s.pack_block)
    for c in range(first_c, last_c):
        source = (group * s.c_in + c) * in_step + start // s.fold * out_step
        found |= difference_to_itself(weight, source, (channels + s.fold - 1) // s.fold * out_step) != 0
    places = np.empty(s.kernel, np.int64)
    for c in range(first_c, last_c):
        source = (group * s.c_in + c) * in_step + start // s.fold * out_step + start % s.fold
        first = c // s.depth * s.depth
        depth = min(s.depth, s.c_in - first)
        entry_at = to + first * s.taps * height + (c - first) * height
        if s.fold == 1 and s.members == 1:
            if c in (first_c, first):
                _places(s, members, depth * height, places)
            call_transpose(s.turn, s.kernel, s.kernel, weight, source, packed, places, entry_at, channels, height)
            continue
        for entry in range(s.entries):
            phases = 1
            while phases < s.members and members[entry, phases] >= 0:
                phases += 1
            at = entry_at + (c - first) * (phases - 1) * height
            for phase in range(phases):
                if s.fold == 1:
                    copy_strided(weight, source + members[entry, phase], out_step, packed, at + phase * height, channels)
                else:
                    # a block of channels lies within one channel's folded phases
                    copy(weight, source + members[entry, phase], packed, at, channels)
                    packed[at + channels : at + height] = 0
            entry_at += depth * phases * height
    if found:
        spoiled[0] = 1


def _native(dtype: str, found: Layout) -> tuple[Any, Any]:
    """The task of a layout and ``_native_pack`` of a dtype as machine code."""
    s = found.shape
    over_pixels = _native_lines if s.c_in == s.c_out == 1 else _native_pixels
    return _native_codes(dtype, _native_rows if s.chunk else over_pixels if s.over_pixels else _native_channels)


@cache
def _native_codes(dtype: str, task: Callable[..., None]) -> tuple[Any, Any]:
    i, p = types.int64, types.CPointer(from_dtype(np.dtype(dtype)))
    signature = types.void(i, types.CPointer(i), p, p)
    return native(signature, task), native(signature, _native_pack)


class _Work(NamedTuple):
    """What a launch needs for one memory order; ``tables`` holds the addresses of the arrays behind it."""

    found: Any  # a layout
    code: int  # an address
    tables: NDArray[np.int64]
    weight: NDArray[Any]
    bias: NDArray[Any]


class _State(NamedTuple):
    """Prepared weights, and the work by the memory order of x and out: whether their channels are neighbours."""

    problem: Problem
    weight: NDArray[Any]
    bias: NDArray[Any]
    work: dict[tuple[bool, bool], _Work]


@variant(
    "phase",
    title="phases, implicit GEMM",
    source="Vaidyanathan 1993, section 4.3; Shi et al. 2016",
    color="#E6007E",
    marker="*",
)
class Phase(Variant):
    """Stride^d small dense convolutions as one implicit GEMM."""

    serves_strided = True

    def prepare(self, problem: Problem, weight: NDArray[Any], bias: NDArray[Any] | None) -> Any:
        if _shuffled.fits(problem):
            return _state(problem, _pack_rows(problem, weight, bias))
        work, finite = _pack_phases(problem, weight, bias)
        if not finite:
            # A border's zero times an infinite weight would reach outputs whose sums it does not belong to.
            return registry.get("direct").prepare(problem, weight, bias)
        return _state(problem, work)

    def run(self, state: Any, x: NDArray[Any], out: NDArray[Any]) -> None:
        if not isinstance(state, _State):
            _blocks.run_plain(registry.get("direct"), state, x, out)
            return
        flat_x, x_last = _blocks.dense(x)
        flat_out, out_last = _blocks.dense(out)
        if flat_x is None:
            flat_x = np.ascontiguousarray(x).reshape(-1)
        if flat_out is None:
            fresh = np.empty(out.shape, out.dtype)
            self.run(state, x, fresh)
            out[...] = fresh
            return
        work = state.work.get((x_last, out_last)) or _reordered(state, x_last, out_last)
        launch(work.found.tasks, work.found.alone, work.code, work.tables, flat_x, flat_out)

    def one_shot(
        self, problem: Problem, weight: NDArray[Any], bias: NDArray[Any] | None, x: NDArray[Any], out: NDArray[Any]
    ) -> None:
        if not (x.flags.c_contiguous and out.flags.c_contiguous):
            self.run(self.prepare(problem, weight, bias), x, out)
            return
        self.single_call(problem)(weight, bias, x, out)

    def single_call(self, problem: Problem) -> Callable[..., None]:
        found, pack_tasks, tables, pack, code, preparation, repeat = _used_once(problem)
        no_bias = np.zeros(problem.c_out, problem.dtype)

        def call(weight: NDArray[Any], bias: NDArray[Any] | None, x: NDArray[Any], out: NDArray[Any]) -> None:
            flat = weight.reshape(-1)
            packed = scratch(problem.dtype, found.weights) if pack_tasks else flat
            known = no_bias if bias is None else bias
            done = pack_and_launch(
                pack_tasks, pack, found.tasks, found.alone, code, tables, flat, packed,
                known if repeat == 1 else np.repeat(known, repeat), x.reshape(-1), out.reshape(-1),
            )  # fmt: skip
            if not done:
                registry.get("direct").one_shot(problem, weight, bias, x, out)

        kept = found.weights * problem.itemsize if pack_tasks else 0
        if not found.alone or found.cycles + preparation > _single.SHORT_CYCLES or kept > _single.PACKED_BYTES:
            return call
        table = _single.table(problem, (pack_tasks, pack, found.weights), (found.tasks, code), tables, repeat)
        run = _single.run()

        def short(weight: NDArray[Any], bias: NDArray[Any] | None, x: NDArray[Any], out: NDArray[Any]) -> None:
            if run(table, weight, no_bias if bias is None else bias, x, out) == 0:
                call(weight, bias, x, out)

        return short

    def short_run(
        self, state: Any, x_shape: tuple[int, ...], out_shape: tuple[int, ...]
    ) -> Callable[[Any, NDArray[Any]], int] | None:
        work = state.work[False, False] if isinstance(state, _State) else None
        if work is None or not work.found.alone or work.found.cycles > _single.SHORT_CYCLES:
            return None
        table = _single.planned_table(state.problem, (x_shape, out_shape), (work.found.tasks, work.code), work.tables)
        return partial(_single.run_planned(), table, np.ndarray, work)

    def estimate(self, problem: Problem) -> float:
        # Of 67 layers, planned and hot on two Zen 4 cores: 1.11 times this in the geometric mean, with a spread of 1.27.
        # Beyond the caches, bytes come at the pace of a copy.
        found = _road(problem)
        launch = 1e-6 if found.alone else 4e-6
        if problem.in_pixels == 1:
            launch += 13 * prod(problem.out_shape) / _blocks.threads() / 3.1e9  # stored pixel by pixel
        bytes_take = problem.min_bytes / 28e9 if problem.min_bytes > 2**25 else 0.0
        return launch + max(float(found.cycles) / 3.1e9, bytes_take)

    def preparation_estimate(self, problem: Problem) -> float:
        if _shuffled.fits(problem):
            return float(_shuffled.preparation_cycles(_road(problem)) / 3.1e9)
        found = _phase_layout.one_shot_layout(problem, _blocks.threads())
        shared = 1 if found.alone else _blocks.threads()
        more = found.cycles - _layout(problem).cycles
        bytes_take = prod(problem.weight_shape) * problem.itemsize / 22e9  # all of them, though some may meet no pixel
        return max((more + _phase_layout.preparation_cycles(found) / shared) / 3.1e9, bytes_take)

    def describe(self, problem: Problem) -> str:
        if _shuffled.fits(problem):
            return _shuffled.describe(problem, _road(problem))
        found = _layout(problem)
        s = found.shape
        if s.over_pixels:
            tallest = int(found.panels[:, 1].max())
            tile = f"tiles of {tallest} channels x {2 if tallest > 6 else WIDE} vectors of positions"
            if s.c_in == s.c_out == 1:
                tile = "a line per tap"
            if s.chunk:
                tile = f"{s.members} taps x {tallest} channels as the rows of products, added up at their distances"
        else:
            across = "phases" if s.fold > 1 else "channels"
            tile = f"tiles of pixels x {found.panels[0, 1] // found.lanes} vectors of {across}"
        where = "in the caller's thread" if found.alone else f"{found.tasks} tasks"
        return f"{tile}, {where}, {min(s.task_positions, s.positions)} of {s.positions} positions each"

    def prepared_bytes(self, problem: Problem) -> int:
        if _shuffled.fits(problem):
            return problem.itemsize * (problem.c_out * problem.taps + int(_road(problem).weights))
        return problem.itemsize * (problem.c_out + _layout(problem).weights)

    def workspace_bytes(self, problem: Problem) -> int:
        found = _road(problem)
        at_once = 1 if found.alone else min(_blocks.threads(), found.tasks)
        if _shuffled.fits(problem):
            return int(at_once * problem.itemsize * _shuffled.workspace_elements(problem, found))
        return int(at_once * problem.itemsize * _phase_layout.workspace_elements(found))


def _layout(problem: Problem) -> Layout:
    return _phase_layout.layout(problem, _blocks.threads())


def _road(problem: Problem) -> Any:
    """The layout of the road that a problem takes."""
    return _shuffled.layout(problem, _blocks.threads()) if _shuffled.fits(problem) else _layout(problem)


class _Once(NamedTuple):
    """Work with weights that are used once."""

    found: Any  # a layout
    pack_tasks: int  # none where the weights are read where they are
    tables: NDArray[np.int64]
    pack: int  # addresses
    code: int
    preparation: float  # cycles
    bias_repeat: int


def _used_once(problem: Problem) -> _Once:
    found: Any
    if _shuffled.fits(problem):
        found, codes = _road(problem), _shuffled.codes(problem.dtype)
        pack_tasks, tables, repeat = found.pack_tasks, found.addresses, problem.taps
        preparation = _shuffled.preparation_cycles(found)
    else:
        found = _phase_layout.one_shot_layout(problem, _blocks.threads())
        codes = _native(problem.dtype, found)
        pack_tasks, tables, repeat = 0 if found.reads_raw else found.pack_tasks, found.once, 1
        preparation = _phase_layout.preparation_cycles(found)
    code, pack = (part.address for part in codes)
    return _Once(found, pack_tasks, tables, pack, code, preparation, repeat)


def _pack_rows(problem: Problem, weight: NDArray[Any], bias: NDArray[Any] | None) -> _Work:
    """Kernel = stride: the rows of one matrix."""
    found = _road(problem)
    code, pack = _shuffled.codes(problem.dtype)
    packed = np.empty(found.weights, problem.dtype)
    launch(found.pack_tasks, found.alone, pack.address, found.addresses, weight.reshape(-1), packed)
    return _with_weights(found, code.address, packed, _shuffled.row_bias(problem, bias))


def _pack_phases(problem: Problem, weight: NDArray[Any], bias: NDArray[Any] | None) -> tuple[_Work, bool]:
    """The phases' weights, and whether all of them are finite."""
    found = _layout(problem)
    code, pack = _native(problem.dtype, found)
    packed = np.empty(found.weights, problem.dtype)
    spoiled = np.zeros(1, np.int64)
    tables = found.addresses.copy()
    tables[SPOILED_AT] = spoiled.ctypes.data
    launch(found.pack_tasks, found.alone, pack.address, tables, weight.reshape(-1), packed)
    return _with_weights(found, code.address, packed, _blocks.bias_or_zeros(problem, bias)), not spoiled[0]


def _state(problem: Problem, work: _Work) -> _State:
    return _State(problem, work.weight, work.bias, {(False, False): work})


def _with_weights(found: Any, code: int, weight: NDArray[Any], bias: NDArray[Any]) -> _Work:
    tables = found.addresses.copy()
    tables[WEIGHT_AT], tables[BIAS_AT] = weight.ctypes.data, bias.ctypes.data
    return _Work(found, code, tables, weight, bias)


def _reordered(state: _State, x_last: bool, out_last: bool) -> _Work:
    """The work for a memory order that the state has not met yet."""
    problem, work = state.problem, state.work[False, False]
    if _shuffled.fits(problem) and out_last:
        # Neighbours in the output are channels: the rows of each tap are packed, and stored, apart.
        # There is no border, so that weights may be infinite.
        work, _ = _pack_phases(problem, *_shuffled.unpacked(problem, work.found, work.weight, work.bias))
        found: Any = _phase_layout.reordered(work.found, problem, x_last, out_last)
    elif _shuffled.fits(problem):
        found = _shuffled.with_channels_last(work.found, problem)
    else:
        found = _phase_layout.reordered(work.found, problem, x_last, out_last)
    state.work[x_last, out_last] = _with_weights(found, work.code, work.weight, work.bias)
    return state.work[x_last, out_last]


@variant("phase", device="cuda")
class PhaseCuda(_cuda.CudaVariant):
    """One implicit GEMM per phase, all in one launch."""

    kernels = _implicit_gemm.ALL

    def prepare(self, problem: Problem, weight: Any, bias: Any, stream: Any = 0) -> Any:
        return _implicit_gemm.prepare(problem, weight, _cuda.bias_or_zeros(problem, bias, stream), stream)

    def run(self, state: Any, x: Any, out: Any, stream: Any = 0) -> None:
        _implicit_gemm.run(state, _cuda.flat(x), _cuda.flat(out), stream)

    def estimate(self, problem: Problem) -> float:
        return _implicit_gemm.estimate(problem)

    def describe(self, problem: Problem) -> str:
        return _implicit_gemm.describe(problem)

    def prepared_bytes(self, problem: Problem) -> int:
        return _implicit_gemm.prepared_bytes(problem)

    def workspace_bytes(self, problem: Problem) -> int:
        return _implicit_gemm.workspace_bytes(problem)
