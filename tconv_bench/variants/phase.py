"""Phase decomposition: stride^d small dense convolutions whose outputs interleave, as one implicit GEMM.

::

    out[o, j*stride + r] = bias[o] + sum over the taps k of phase r, and over c, of  x[c, j - shift(k)] * weight[c, o, k],
    tap k belongs to phase r = (k*dilation - pad) mod stride and has shift(k) = (k*dilation - pad) div stride

Cost: the useful products, no inserted zero, no column buffer; products with zeros only at the ends of rows. A task lays its
input out on one line, with the border's zeros between the rows (``_phase_layout``), so that a tap is a constant distance for
any number of dimensions and images. Every tile of outputs keeps its sums in registers over all taps and channels; each output
row is written once, its phases interleaved in registers. Two layouts:

- *over pixels*: vectors along the line of positions, tiles of up to 12 output channels; weights ``[panel][tap][c][height]``.
- *over channels* (few pixels): vectors along the output channels, tiles of pixels of one row; weights
  ``[block][tap][c][channel]``. Rows meet only the taps whose input row exists. Where the stride is a multiple of a vector, the
  phases along x count as channels: a row of phases is contiguous in the weights and in the output.

With one or two output channels a tile takes all phases along x that read the same pixel; with one channel per group
(depthwise) there is nothing to tile, and each tap adds its line to the sums.

Source: Vaidyanathan, "Multirate Systems and Filter Banks", 1993, section 4.3; Shi et al., "Is the deconvolution layer the same
as a convolutional layer?", arXiv:1609.07009; tile after Goto & van de Geijn, ACM TOMS 2008.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange
from numpy.typing import NDArray

from tconv_bench import registry, simd
from tconv_bench.jit import kernel
from tconv_bench.problem import Problem
from tconv_bench.registry import Variant, variant
from tconv_bench.simd import WIDE, copy, interleave, sum_taps
from tconv_bench.variants import _blocks, _phase_layout
from tconv_bench.variants._phase_layout import CHANNELS_BYTES, PART, Shape

TALL = simd.TALL


@kernel
def _shape(s):
    return Shape(
        s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[8], s[9], s[10], s[11], s[12], s[13], s[14], s[15], s[16], s[17],
        s[18], s[19], s[20], s[21], s[22], s[23], s[24], s[25], s[26], s[27], s[28], s[29], s[30], s[31], s[32], s[33],
        s[34], s[35], s[36], s[37], s[38], s[39], s[40], s[41], s[42], s[43], s[44], s[45], s[46], s[47], s[48],
    )  # fmt: skip


@kernel
def _length(positions, span, lanes):
    return (((positions + lanes - 1) // lanes * lanes + span + lanes - 1) // lanes | 1) * lanes


@kernel
def _pack(s, x, x_at, channels, low, length, packed):
    """packed[c, i] = the line's element ``low + i`` of channel c, zero where no input pixel lies."""
    pitch, py, pz, data_x = s.pitch, s.py, s.pz, s.data_x
    if s.flat:
        pitch, py, pz = s.pitch * s.py * s.pz, 1, 1
        data_x = pitch
    else:
        packed[: channels * length] = 0
    row = low // pitch
    slab, y = divmod(row, py)
    n, z = divmod(slab, pz)
    while row * pitch < low + length:
        first, last = max(0, low - row * pitch), min(data_x, low + length - row * pitch)
        if 0 <= n < s.batch and z < s.data_z and y < s.data_y and first < last:
            source = x_at + n * s.x_n + (z + s.first_z) * s.x_z + (y + s.first_y) * s.x_y + (first + s.first_x) * s.x_x
            to = row * pitch + first - low
            if s.x_x == 1:
                for c in range(channels):
                    copy(x, source + c * s.x_c, packed, to + c * length, last - first)
            else:
                for j in range(last - first):
                    for c in range(channels):
                        packed[to + c * length + j] = x[source + j * s.x_x + c * s.x_c]
        row += 1
        y += 1
        if y == py:
            y = 0
            z += 1
            if z == pz:
                z = 0
                n += 1


@kernel
def _store_pixels(s, row_phase, sums, step, low, high, height, out, out_at):
    """Write a panel's outputs of one row phase at positions ``low ... high - 1``; ``sums[phase, channel, position]``."""
    rz, ry = divmod(row_phase, s.sy)
    row, jx = divmod(low, s.pitch)
    slab, jy = divmod(row, s.py)
    n, jz = divmod(slab, s.pz)
    position = low
    while position < high:
        run = min(s.pitch - jx, high - position)
        oz, oy = jz * s.sz + rz, jy * s.sy + ry
        if jx < s.wx and oz < s.oz and oy < s.oy:
            count = min(s.ox, (jx + min(run, s.wx - jx)) * s.sx) - jx * s.sx
            to = out_at + n * s.out_n + oz * s.out_z + oy * s.out_y + jx * s.sx * s.out_x
            at = position - low
            if s.out_x == 1:
                for m in range(height):
                    interleave(s.sx, sums, at + m * step, height * step, out, to + m * s.out_c, count)
            else:
                for i in range(count):
                    j, phase = divmod(i, s.sx)
                    for m in range(height):
                        out[to + i * s.out_x + m * s.out_c] = sums[at + (phase * height + m) * step + j]
        position += run
        jx = 0
        jy += 1
        if jy == s.py:
            jy = 0
            jz += 1
            if jz == s.pz:
                jz = 0
                n += 1


@kernel
def _tiles(s, height, packed, length, low, high, weight, w_at, channels, jobs, row_phase, taps, table, from_c, bias, bias_at, sums, step):
    """The sums of one panel and row phase at positions ``low ... high - 1`` of the packed line."""
    lanes = simd.VECTOR_BYTES // packed.itemsize
    if s.merged and not from_c:
        for row in range(s.sx * height):
            sums[row * step : (row + 1) * step] = bias[bias_at + row % height]
    at = 0
    while at < high - low:
        left = (high - low - at + lanes - 1) // lanes
        tallest = s.sx * height if s.merged else height
        vectors = WIDE if left >= WIDE and tallest <= 6 else 2 if left >= 2 else 1
        for job in range(s.jobs):
            rows = jobs[row_phase, job, 3] * height
            sum_taps(rows, vectors, weight, w_at, rows, packed, low + at, length, taps,
                     table * s.entries + jobs[row_phase, job, 0], jobs[row_phase, job, 1], channels, from_c or s.merged != 0,
                     bias, bias_at, sums, jobs[row_phase, job, 2] * height * step + at, step)  # fmt: skip
        at += vectors * lanes


@kernel
def _add_scaled(sums, at, count, weight, packed, source):
    for j in range(count):
        sums[at + j] += weight * packed[source + j]


@kernel
def _add_two_scaled(sums, at, count, weight, packed, source, other_weight, other_source):
    for j in range(count):
        sums[at + j] = sums[at + j] + weight * packed[source + j] + other_weight * packed[other_source + j]


@kernel
def _lone_channel(s, packed, width, weight, w_at, jobs, row_phase, taps, bias, sums):
    """The sums of a group's only channel in one row phase: tap after tap along the whole line, which the cache holds."""
    for job in range(s.jobs):
        at = jobs[row_phase, job, 2] * width
        first, count = jobs[row_phase, job, 0], jobs[row_phase, job, 1]
        sums[at : at + width] = bias
        for tap in range(first, first + count - 1, 2):
            _add_two_scaled(sums, at, width, weight[w_at + taps[2 * tap]], packed, taps[2 * tap + 1],
                            weight[w_at + taps[2 * tap + 2]], taps[2 * tap + 3])  # fmt: skip
        if count % 2:
            tap = first + count - 1
            _add_scaled(sums, at, width, weight[w_at + taps[2 * tap]], packed, taps[2 * tap + 1])


@kernel
def _pixels_task(s, group, first_panel, last_panel, first_row, last_row, low, x, weight, bias, panels, jobs, taps, packed, sums, out):
    """Positions from ``low`` on of some panels and row phases, vectors along the positions."""
    lanes = simd.VECTOR_BYTES // out.itemsize
    high = min(s.positions, low + s.task_positions)
    padded = (high - low + lanes - 1) // lanes * lanes
    length = _length(padded, s.span, lanes)
    x_at = group * s.c_in * s.x_c
    whole = s.block == s.c_in
    if whole:
        _pack(s, x, x_at, s.c_in, low - s.reach, length, packed)
    if s.c_in == 1 and s.c_out == 1:
        for row_phase in range(first_row, last_row):
            _lone_channel(s, packed, padded, weight, group * s.taps, jobs, row_phase, taps, bias[group], sums)
            _store_pixels(s, row_phase, sums, padded, low, high, 1, out, group * s.out_c)
        return
    part = PART * lanes
    for row_phase in range(first_row, last_row):
        for c in range(0, s.c_in, s.block):
            channels = min(s.block, s.c_in - c)
            if not whole:
                _pack(s, x, x_at + c * s.x_c, channels, low - s.reach, length, packed)
            rows = 0
            for panel in range(first_panel, last_panel):
                start, height, table = panels[panel, 0], panels[panel, 1], panels[panel, 3]
                w_at = (group * s.c_out + start) * s.taps * s.c_in + c * height
                out_at = (group * s.c_out + start) * s.out_c
                for sub in range(0, padded, part):
                    # sums of one part stay in the first-level cache; its stores drain while the next part is computed
                    width = min(part, padded - sub)
                    own = sums if whole else sums[(rows * padded + height * sub) * s.sx :]
                    _tiles(s, height, packed, length, sub, sub + width, weight, w_at, channels, jobs, row_phase, taps, table,
                           c > 0, bias, group * s.c_out + start, own, width)  # fmt: skip
                    if c + channels == s.c_in:
                        _store_pixels(s, row_phase, own, width, low + sub, min(high, low + sub + width), height, out, out_at)
                rows += height


@kernel
def _row_taps(s, first, count, jz, jy, table, taps, rows, own):
    """The taps of ``first ... first + count - 1`` whose input row exists, into ``own``; returns how many."""
    found = 0
    for tap in range(first, first + count):
        if 0 <= jz - rows[tap, 0] < s.data_z and 0 <= jy - rows[tap, 1] < s.data_y:
            own[2 * found] = taps[2 * (table * s.entries + tap) + 1]
            own[2 * found + 1] = taps[2 * (table * s.entries + tap)]
            found += 1
    return found


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
def _store_channels(s, sums, block, channel, channels, out, to):
    """Write one row of some channels; ``sums[phase, pixel, channel]``."""
    if s.fold > 1:
        to += channel // s.fold * s.out_c + channel % s.fold
        for j in range(s.wx):
            copy(sums, j * block, out, to + j * s.out_x, channels)
    elif s.out_x == 1:
        for c in range(channels):
            at = to + (channel + c) * s.out_c
            for phase in range(s.sx):
                source = phase * s.wx * block + c
                for j in range((s.ox - phase + s.sx - 1) // s.sx):
                    out[at + phase + j * s.sx] = sums[source + j * block]
    else:
        for i in range(s.ox):
            j, phase = divmod(i, s.sx)
            source = (phase * s.wx + j) * block
            for c in range(channels):
                out[to + i * s.out_x + (channel + c) * s.out_c] = sums[source + c]


@kernel
def _channels_task(s, group, first_panel, last_panel, first_row, last_row, low, x, weight, bias, panels, jobs, taps, rows, packed, sums, out):
    """All positions of some images, blocks of channels and row phases, vectors along the channels."""
    lanes = simd.VECTOR_BYTES // out.itemsize
    high = min(s.positions, low + s.task_positions)
    length = _length(high - low, s.span, lanes)
    image = s.pz * s.py * s.pitch
    first_image = low // image
    image_rows = s.wz * s.wy
    all_rows = ((high - low + image - 1) // image) * image_rows
    _pack(s, x, group * s.c_in * s.x_c, s.c_in, low - s.reach, length, packed)
    own = np.empty(2 * s.entries, np.int64)
    group_at = group * (panels[s.panels - 1, 0] + panels[s.panels - 1, 1])
    c_out = s.c_out // s.fold
    for panel in range(first_panel, last_panel):
        start, block, channels, table = panels[panel, 0], panels[panel, 1], panels[panel, 2], panels[panel, 3]
        w_at = (group_at + start) * s.taps * s.c_in
        row_size = s.sx * s.wx * block
        for row_phase in range(first_row, last_row):
            rz, ry = divmod(row_phase, s.sy)
            for c in range(channels):
                sums[c] = bias[group * c_out + (start + c) // s.fold]
            for i in range(1, all_rows * s.sx * s.wx):
                for c in range(channels):
                    sums[i * block + c] = sums[c]
            entries = 1
            for phase in range(s.sx):
                entries = max(entries, jobs[row_phase, phase, 1])
            depth = max(16, CHANNELS_BYTES // (entries * block * out.itemsize))
            for c in range(0, s.c_in, depth):
                for row in range(all_rows):
                    n, rest = divmod(row, image_rows)
                    jz, jy = divmod(rest, s.wy)
                    if jz * s.sz + rz >= s.oz or jy * s.sy + ry >= s.oy:
                        continue
                    line = ((n * s.pz + jz) * s.py + jy) * s.pitch + c * length
                    for phase in range(s.sx):
                        count = _row_taps(s, jobs[row_phase, phase, 0], jobs[row_phase, phase, 1], jz, jy, table, taps, rows, own)
                        j = 0
                        while j < s.wx:
                            height = _tile_height(s.wx - j)
                            sum_taps(height, block // lanes, packed, line + j, length, weight, w_at + c * block, block, own, 0,
                                     count, min(depth, s.c_in - c), True, bias, 0, sums,
                                     row * row_size + (phase * s.wx + j) * block, block)  # fmt: skip
                            j += height
            for row in range(all_rows):
                n, rest = divmod(row, image_rows)
                jz, jy = divmod(rest, s.wy)
                oz, oy = jz * s.sz + rz, jy * s.sy + ry
                if oz < s.oz and oy < s.oy:
                    to = (first_image + n) * s.out_n + group * c_out * s.out_c + oz * s.out_z + oy * s.out_y
                    _store_channels(s, sums[row * row_size :], block, start, channels, out, to)


@kernel
def _task(task, shape, x, weight, bias, panels, jobs, taps, rows, out):
    s = _shape(shape)
    lanes = simd.VECTOR_BYTES // out.itemsize
    pieces = (s.positions + s.task_positions - 1) // s.task_positions
    row_parts = (s.sz * s.sy + s.task_rows - 1) // s.task_rows
    panel_parts = (s.panels + s.task_panels - 1) // s.task_panels
    task, row_part = divmod(task, row_parts)
    task, piece = divmod(task, pieces)
    group_part, panel_part = divmod(task, panel_parts)
    first_panel, first_row = panel_part * s.task_panels, row_part * s.task_rows
    last_panel, last_row = min(s.panels, first_panel + s.task_panels), min(s.sz * s.sy, first_row + s.task_rows)
    low = piece * s.task_positions
    padded = (min(s.positions, s.task_positions) + lanes - 1) // lanes * lanes
    packed = np.empty(s.block * _length(padded, s.span, lanes) + 4 * lanes, out.dtype)
    if s.over_pixels:
        most = TALL * (padded if s.c_in == 1 else PART * lanes)
        if s.block < s.c_in:
            most = 0
            for panel in range(first_panel, last_panel):
                most += panels[panel, 1] * padded
        sums = np.empty(most * s.sx + lanes, out.dtype)
    else:
        images = (padded + s.pz * s.py * s.pitch - 1) // (s.pz * s.py * s.pitch)
        sums = np.empty(images * s.wz * s.wy * s.sx * s.wx * panels[0, 1], out.dtype)
    for group in range(group_part * s.task_groups, min(s.groups, (group_part + 1) * s.task_groups)):
        if s.over_pixels:
            _pixels_task(s, group, first_panel, last_panel, first_row, last_row, low, x, weight, bias,
                         panels, jobs, taps, packed, sums, out)  # fmt: skip
        else:
            _channels_task(s, group, first_panel, last_panel, first_row, last_row, low, x, weight, bias,
                           panels, jobs, taps, rows, packed, sums, out)  # fmt: skip


@kernel(parallel=True)
def _phases(tasks, shape, x, weight, bias, panels, jobs, taps, rows, out):
    for task in prange(tasks):
        _task(np.int64(task), shape, x, weight, bias, panels, jobs, taps, rows, out)


@kernel(parallel=True)
def _pack_weights(tasks, shape, weight, members, panels, packed, finite):
    """(C_in, C_out//g, kernel) -> [g][panel][entry][C_in//g][phase][height], zeros beyond the last channel.

    A task takes 8 input channels of a panel, which the first-level cache holds; ``finite[task]``: whether all of them are.
    """
    for task in prange(tasks):
        s = _shape(shape)
        rest, block = divmod(np.int64(task), (s.c_in + 7) // 8)
        group, panel = divmod(rest, s.panels)
        start, height, channels = panels[panel, 0], panels[panel, 1], panels[panel, 2]
        to = (group * (panels[s.panels - 1, 0] + panels[s.panels - 1, 1]) + start) * s.taps * s.c_in
        in_step, out_step = s.c_out // s.fold * s.kernel, s.kernel
        zero = weight[0] - weight[0]
        spoiled = zero
        for entry in range(s.entries):
            phases = 0
            while phases < members.shape[1] and members[entry, phases] >= 0:
                phases += 1
            for c in range(block * 8, min(s.c_in, block * 8 + 8)):
                source = (group * s.c_in + c) * in_step
                at = to + c * phases * height
                for phase in range(phases):
                    for m in range(channels):
                        if s.fold == 1:
                            value = weight[source + (start + m) * out_step + members[entry, phase]]
                        else:
                            o, r = divmod(start + m, s.fold)
                            value = weight[source + o * out_step + members[entry, phase] + r]
                        spoiled += value * 0
                        packed[at + phase * height + m] = value
                    for m in range(channels, height):
                        packed[at + phase * height + m] = 0
            to += s.c_in * phases * height
        finite[task] = spoiled == 0


@variant(
    "phase",
    title="phases, implicit GEMM",
    source="Vaidyanathan 1993, section 4.3; Shi et al. 2016",
    color="#000000",
    marker="*",
)
class Phase(Variant):
    """Stride^d small dense convolutions as one implicit GEMM."""

    def prepare(self, problem: Problem, weight: NDArray[Any], bias: NDArray[Any] | None) -> Any:
        found = _phase_layout.layout(problem, _blocks.threads())
        packed, finite = self._packed(problem, found, weight)
        if not finite:
            # A border's zero times an infinite weight would reach outputs whose sums it does not belong to.
            return registry.get("direct").prepare(problem, weight, bias), None
        shape = np.array(found.shape, np.int64)
        bias = _blocks.bias_or_zeros(problem, bias)
        return (found.tasks, shape, packed, bias, found.panels, found.jobs, found.taps.reshape(-1), found.rows), problem

    def _packed(self, problem: Problem, found: _phase_layout.Layout, weight: NDArray[Any]) -> tuple[NDArray[Any], bool]:
        s = found.shape
        packed = np.empty(_phase_layout.weights_elements(found), problem.dtype)
        tasks = s.groups * s.panels * -(-s.c_in // 8)
        finite = np.empty(tasks, np.bool_)
        _pack_weights(tasks, np.array(s, np.int64), weight.reshape(-1), found.members, found.panels, packed, finite)
        return packed, bool(finite.all())

    def run(self, state: Any, x: NDArray[Any], out: NDArray[Any]) -> None:
        inner, problem = state
        if problem is None:
            registry.get("direct").run(inner, x, out)
            return
        tasks, shape, weight, bias, panels, jobs, taps, rows = inner
        _phases(tasks, shape, x.reshape(-1), weight, bias, panels, jobs, taps, rows, out.reshape(-1))

    def prepared_bytes(self, problem: Problem) -> int:
        found = _phase_layout.layout(problem, _blocks.threads())
        tables = found.panels.nbytes + found.jobs.nbytes + found.taps.nbytes + found.rows.nbytes + 8 * len(found.shape)
        return tables + problem.itemsize * (problem.c_out + _phase_layout.weights_elements(found))

    def workspace_bytes(self, problem: Problem) -> int:
        found = _phase_layout.layout(problem, _blocks.threads())
        elements = _phase_layout.workspace_elements(found)
        return min(_blocks.threads(), found.tasks) * problem.itemsize * elements
