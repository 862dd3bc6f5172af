"""Phase decomposition: stride^d small dense convolutions whose outputs interleave, as one implicit GEMM.

::

    out[o, j*stride + r] = bias[o] + sum over the taps k of phase r, and over c, of  x[c, j - shift(k)] * weight[c, o, k],
    tap k belongs to phase r = (k*dilation - pad) mod stride and has shift(k) = (k*dilation - pad) div stride

Cost: the useful products, no inserted zero, no column buffer; products with the border's zeros only along a row. A task packs
the input rows that it reads, with their border, once; every tile of outputs then keeps its sums in registers over all taps and
channels, and each output row is written once, its phases interleaved. Two layouts:

- *over pixels* (wide rows): vectors along the row. Input ``[row][c][pixel]``, weights in panels of up to 6 output channels
  ``[panel][tap][c][6]``.
- *over channels* (short rows): vectors along the output channels. Input ``[row][pixel][c]``, weights in blocks of up to NV
  vectors ``[block][tap][c][channel]``, which are read once per phase whatever the image's height.

Source: Vaidyanathan, "Multirate Systems and Filter Banks", 1993, section 4.3; Shi et al., "Is the deconvolution layer the same
as a convolutional layer?", arXiv:1609.07009; tile after Goto & van de Geijn, ACM TOMS 2008.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import prange
from numpy.typing import NDArray

from tconv_bench import registry, simd
from tconv_bench.jit import kernel
from tconv_bench.problem import Geometry, Problem
from tconv_bench.registry import Variant, variant
from tconv_bench.simd import NV, add_taps
from tconv_bench.variants import _blocks

MR = simd.MR
PACKED_BYTES = 384 * 1024  # packed input of a task: half of a 1 MiB second-level cache
SUMS_BYTES = 192 * 1024  # sums of a task over channels
WIDE = 3  # vectors of a phase's row from which vectors run along it


class _Tiling(NamedTuple):
    over_pixels: bool
    channels: int  # output channels of a task
    width: int  # phase pixels of a task
    rows: int  # output rows of a task, counted over z and y together
    slots: int  # input rows that a task holds packed
    halo: int  # input pixels of a row beyond the phase's: largest shift - smallest shift


def _lanes(problem: Problem) -> int:
    return simd.VECTOR_BYTES // problem.itemsize


def _shifts(g: Geometry) -> tuple[int, int]:
    """(smallest, largest) shift along x."""
    return -g.px // g.sx, ((g.kx - 1) * g.dx - g.px) // g.sx


def _rows_met(kernel_size: int, stride: int, dilation: int) -> int:
    """The most input rows that an output row meets along one axis."""
    phases: dict[int, int] = {}
    for k in range(kernel_size):
        phases[k * dilation % stride] = phases.get(k * dilation % stride, 0) + 1
    return max(phases.values())


def _tiling(problem: Problem) -> _Tiling:
    g, lanes = problem.geometry, _lanes(problem)
    c_in, c_out = g.c_in // g.groups, g.c_out // g.groups
    low, high = _shifts(g)
    halo, row, all_rows = high - low, -(-g.ox // g.sx), g.oz * g.oy
    met = _rows_met(g.kz, g.sz, g.dz) * _rows_met(g.ky, g.sy, g.dy)
    over_pixels = row >= WIDE * lanes or c_out < lanes
    wanted = 2 * _blocks.threads()
    if over_pixels:
        room = PACKED_BYTES // (problem.itemsize * c_in)
        width = min(row, max(NV * lanes, (room // (met + 1) - halo) // lanes * lanes))
        pieces = -(-row // width)
        width = min(row, -(-(-(-row // pieces)) // lanes) * lanes)
        slots = max(met + 1, min(g.iz * g.iy, room // (width + halo + lanes)))
        rows = max(1, min(all_rows, (slots - met + 1) * g.sy))
        channels = c_out
        tasks = max(1, g.n) * g.groups * -(-row // width)
        rows = max(1, min(rows, tasks * all_rows // wanted)) if tasks < wanted else rows
        if tasks * -(-all_rows // rows) < wanted:
            parts = min(-(-wanted // (tasks * -(-all_rows // rows))), -(-c_out // MR))
            channels = -(-(-(-c_out // MR)) // parts) * MR
        return _Tiling(True, min(c_out, channels), width, rows, min(slots, met + rows), halo)
    channels = _chunk_vectors.py_func(min(c_out, NV * lanes), lanes) * lanes
    per_row = problem.itemsize * channels * g.sx * row
    rows = max(1, min(all_rows, SUMS_BYTES // per_row))
    tasks = max(1, g.n) * g.groups * -(-c_out // channels)
    if tasks < wanted:
        rows = max(1, min(rows, -(-tasks * all_rows // wanted)))
    slots = min(g.iz * g.iy, met * rows)
    return _Tiling(False, channels, row, rows, max(1, slots), halo)


def _tasks(g: Geometry, t: _Tiling) -> int:
    pieces = -(-(-(-g.ox // g.sx)) // t.width)
    return g.n * g.groups * -(-(g.c_out // g.groups) // t.channels) * -(-(g.oz * g.oy) // t.rows) * pieces


@kernel
def _row_taps(g, oz, oy, phase, most_shift, tap_size, pixel_size, slot_of, slot_size, weight_column, taps, at):
    """Write the taps that output row (oz, oy) meets in one phase along x, from entry ``at`` on; returns how many.

    Column ``weight_column`` of the table is where a tap's weights begin, the other where its pixels do.
    """
    count = 0
    for kz in range(g.kz):
        iz, off_phase = divmod(oz + g.pz - kz * g.dz, g.sz)
        if off_phase != 0 or iz < 0 or iz >= g.iz:
            continue
        for ky in range(g.ky):
            iy, off_phase = divmod(oy + g.py - ky * g.dy, g.sy)
            if off_phase != 0 or iy < 0 or iy >= g.iy:
                continue
            slot = slot_of[iz * g.iy + iy]
            for kx in range(g.kx):
                shift, its_phase = divmod(kx * g.dx - g.px, g.sx)
                if its_phase == phase:
                    entry = 2 * (at + count)
                    taps[entry + weight_column] = ((kz * g.ky + ky) * g.kx + kx) * tap_size
                    taps[entry + 1 - weight_column] = slot * slot_size + (most_shift - shift) * pixel_size
                    count += 1
    return count


@kernel
def _pack_missing(g, oz, oy, over_pixels, x, x_at, c_in, first, width, slot_of, used, packed):
    """Pack the input rows that output row (oz, oy) meets and that have no slot yet, from input pixel ``first`` on."""
    plane = g.iz * g.iy * g.ix
    begin, end = max(0, -first), min(width, g.ix - first)
    for kz in range(g.kz):
        iz, off_phase = divmod(oz + g.pz - kz * g.dz, g.sz)
        if off_phase != 0 or iz < 0 or iz >= g.iz:
            continue
        for ky in range(g.ky):
            iy, off_phase = divmod(oy + g.py - ky * g.dy, g.sy)
            if off_phase != 0 or iy < 0 or iy >= g.iy or slot_of[iz * g.iy + iy] >= 0:
                continue
            slot_of[iz * g.iy + iy] = used
            source = x_at + (iz * g.iy + iy) * g.ix + first
            to = used * c_in * width
            used += 1
            if over_pixels:
                for _ in range(c_in):
                    packed[to : to + begin] = 0
                    for j in range(begin, end):
                        packed[to + j] = x[source + j]
                    packed[to + max(begin, end) : to + width] = 0
                    to += width
                    source += plane
            else:
                packed[to : to + begin * c_in] = 0
                packed[to + max(begin, end) * c_in : to + width * c_in] = 0
                for c in range(c_in):
                    for j in range(begin, end):
                        packed[to + j * c_in + c] = x[source + c * plane + j]
    return used


@kernel
def _meets(g, oz, oy):
    """How many input rows output row (oz, oy) meets."""
    count = 0
    for kz in range(g.kz):
        iz, off_phase = divmod(oz + g.pz - kz * g.dz, g.sz)
        if off_phase == 0 and 0 <= iz < g.iz:
            for ky in range(g.ky):
                iy, off_phase = divmod(oy + g.py - ky * g.dy, g.sy)
                if off_phase == 0 and 0 <= iy < g.iy:
                    count += 1
    return count


@kernel
def _interleave(sums, at, phase_step, stride, out, to, first, last):
    """out[to + stride*j + r] = sums[at + r*phase_step + j] for first <= stride*j + r < last; first is a multiple of stride."""
    count = (last - first) // stride
    if stride == 1:
        for j in range(count):
            out[to + first + j] = sums[at + j]
    elif stride == 2:
        for j in range(count):
            out[to + first + 2 * j] = sums[at + j]
            out[to + first + 2 * j + 1] = sums[at + phase_step + j]
    elif stride == 4:
        for j in range(count):
            out[to + first + 4 * j] = sums[at + j]
            out[to + first + 4 * j + 1] = sums[at + phase_step + j]
            out[to + first + 4 * j + 2] = sums[at + 2 * phase_step + j]
            out[to + first + 4 * j + 3] = sums[at + 3 * phase_step + j]
    else:
        for r in range(stride):
            for j in range(count):
                out[to + first + stride * j + r] = sums[at + r * phase_step + j]
    for r in range(last - first - count * stride):
        out[to + first + count * stride + r] = sums[at + r * phase_step + count]


@kernel
def _panel_height(left):
    """Rows of the next tile of ``left`` rows: 6, or what cuts the rest into the fewest tiles of 6, 4, 3, 2 and 1."""
    if left >= 9 or left == 6:
        return 6
    if left >= 7 or left == 4:
        return 4
    return 3 if left >= 5 or left == 3 else left


@kernel
def _chunk_vectors(left, lanes):
    """Vectors of the next tile along ``left`` elements."""
    if left > NV // 2 * lanes:
        return NV
    return NV // 2 if left > lanes else 1


@kernel
def _pixels_task(g, tiling, n, group, co, channels, first_row, rows, first_j, x, weight, bias, out):
    """Output rows ``first_row ...`` of some channels and a piece of the row, vectors along the row."""
    lanes = simd.VECTOR_BYTES // out.itemsize
    c_in, c_out = g.c_in // g.groups, g.c_out // g.groups
    all_taps = g.kz * g.ky * g.kx
    most_shift = ((g.kx - 1) * g.dx - g.px) // g.sx
    pixels = min(tiling.width, (g.ox + g.sx - 1) // g.sx - first_j)
    padded = (pixels + lanes - 1) // lanes * lanes
    width = padded + tiling.halo
    packed = np.empty(tiling.slots * c_in * width, out.dtype)
    sums = np.empty(MR * g.sx * padded, out.dtype)
    taps = np.empty(2 * all_taps, np.int64)
    starts = np.empty(g.sx + 1, np.int64)
    slot_of = np.full(g.iz * g.iy, -1, np.int64)
    x_at = (n * g.c_in + group * c_in) * g.iz * g.iy * g.ix
    w_group = group * c_in * c_out * all_taps
    used = 0
    for row in range(first_row, first_row + rows):
        oz, oy = divmod(row, g.oy)
        if used + _meets(g, oz, oy) > tiling.slots:
            slot_of[:] = -1
            used = 0
        used = _pack_missing(g, oz, oy, True, x, x_at, c_in, first_j - most_shift, width, slot_of, used, packed)
        out_at = ((n * g.c_out + group * c_out) * g.oz * g.oy + row) * g.ox
        first, last = first_j * g.sx, min(g.ox, (first_j + pixels) * g.sx)
        done = 0
        tapped_height = 0
        while done < channels:
            height = _panel_height(channels - done)
            if height != tapped_height:
                tapped_height = height
                starts[0] = 0
                for phase in range(g.sx):
                    starts[phase + 1] = starts[phase] + _row_taps(
                        g, oz, oy, phase, most_shift, c_in * height, 1, slot_of, c_in * width, 0, taps, starts[phase]
                    )
            for m in range(height):
                sums[m * g.sx * padded : (m + 1) * g.sx * padded] = bias[group * c_out + co + done + m]
            w_at = w_group + (co + done) * all_taps * c_in
            for phase in range(g.sx):
                at = 0
                while at < padded:
                    vectors = _chunk_vectors(padded - at, lanes)
                    if vectors * lanes > padded - at:
                        vectors = NV // 2 if NV // 2 * lanes <= padded - at else 1
                    add_taps(height, vectors, weight, w_at, 1, height, packed, at, width, taps, starts[phase],
                             starts[phase + 1] - starts[phase], c_in, sums, phase * padded + at, g.sx * padded)  # fmt: skip
                    at += vectors * lanes
            for m in range(height):
                to = out_at + (co + done + m) * g.oz * g.oy * g.ox
                _interleave(sums, m * g.sx * padded, padded, g.sx, out, to, first, last)
            done += height


@kernel
def _channels_task(g, tiling, n, group, co, channels, first_row, rows, x, weight, bias, out):
    """Output rows ``first_row ...`` of a block of channels, vectors along the channels."""
    lanes = simd.VECTOR_BYTES // out.itemsize
    c_in, c_out = g.c_in // g.groups, g.c_out // g.groups
    all_taps = g.kz * g.ky * g.kx
    most_shift = ((g.kx - 1) * g.dx - g.px) // g.sx
    pixels = (g.ox + g.sx - 1) // g.sx
    width = pixels + tiling.halo
    vectors = _chunk_vectors(channels, lanes)
    block = vectors * lanes
    padded_out = (c_out + tiling.channels - 1) // tiling.channels * tiling.channels
    packed = np.empty(tiling.slots * c_in * width, out.dtype)
    sums = np.empty(rows * g.sx * pixels * block, out.dtype)
    taps = np.empty(2 * all_taps, np.int64)
    slot_of = np.full(g.iz * g.iy, -1, np.int64)
    x_at = (n * g.c_in + group * c_in) * g.iz * g.iy * g.ix
    used = 0
    for row in range(first_row, first_row + rows):
        oz, oy = divmod(row, g.oy)
        used = _pack_missing(g, oz, oy, False, x, x_at, c_in, -most_shift, width, slot_of, used, packed)
    for p in range(rows * g.sx * pixels):
        for c in range(block):
            sums[p * block + c] = bias[group * padded_out + co + c]
    w_at = (group * padded_out + co) * all_taps * c_in
    for row_phase in range(g.sz * g.sy):
        for phase in range(g.sx):
            count_j = (g.ox - phase + g.sx - 1) // g.sx
            for row in range(first_row, first_row + rows):
                oz, oy = divmod(row, g.oy)
                if oz % g.sz * g.sy + oy % g.sy != row_phase:
                    continue
                count = _row_taps(g, oz, oy, phase, most_shift, c_in * block, c_in, slot_of, c_in * width, 1, taps, 0)
                j = 0
                while j < count_j:
                    height = _panel_height(count_j - j)
                    at = (((row - first_row) * g.sx + phase) * pixels + j) * block
                    add_taps(height, vectors, packed, j * c_in, c_in, 1, weight, w_at, block, taps, 0, count, c_in,
                             sums, at, block)  # fmt: skip
                    j += height
    plane = g.oz * g.oy * g.ox
    for c in range(channels):
        to = (n * g.c_out + group * c_out + co + c) * plane + first_row * g.ox
        for row in range(rows):
            for phase in range(g.sx):
                source = (row * g.sx + phase) * pixels * block + c
                for j in range((g.ox - phase + g.sx - 1) // g.sx):
                    out[to + row * g.ox + phase + g.sx * j] = sums[source + j * block]


@kernel
def _task(task, sizes, tiles, x, weight, bias, out):
    g = _blocks.geometry(sizes)
    tiling = _Tiling(tiles[0] != 0, tiles[1], tiles[2], tiles[3], tiles[4], tiles[5])
    c_out = g.c_out // g.groups
    pieces = ((g.ox + g.sx - 1) // g.sx + tiling.width - 1) // tiling.width
    bands = (g.oz * g.oy + tiling.rows - 1) // tiling.rows
    parts = (c_out + tiling.channels - 1) // tiling.channels
    task, piece = divmod(task, pieces)
    task, band = divmod(task, bands)
    task, part = divmod(task, parts)
    n, group = divmod(task, g.groups)
    co, first_row = part * tiling.channels, band * tiling.rows
    channels = min(tiling.channels, c_out - co)
    rows = min(tiling.rows, g.oz * g.oy - first_row)
    if tiling.over_pixels:
        _pixels_task(g, tiling, n, group, co, channels, first_row, rows, piece * tiling.width, x, weight, bias, out)
    else:
        _channels_task(g, tiling, n, group, co, channels, first_row, rows, x, weight, bias, out)


@kernel(parallel=True)
def _phases(tasks, sizes, tiles, x, weight, bias, out):
    for task in prange(tasks):
        _task(np.int64(task), sizes, tiles, x, weight, bias, out)


def _heights(channels: int) -> list[int]:
    """The panels of a task's channels, as the kernel cuts them."""
    heights = []
    while channels:
        heights.append(_panel_height.py_func(channels))
        channels -= heights[-1]
    return heights


def _pack_panels(problem: Problem, t: _Tiling, weight: NDArray[Any]) -> NDArray[Any]:
    """(C_in, C_out//g, *kernel) -> [g][panel][tap][C_in//g][height of the panel]."""
    g = problem.groups
    c_in, c_out = problem.c_in // g, problem.c_out // g
    by_tap = weight.reshape(g, c_in, c_out, problem.taps).transpose(0, 3, 1, 2)
    packed = np.empty((g, c_out * problem.taps * c_in), weight.dtype)
    for co in range(0, c_out, t.channels):
        start = co
        heights = _heights(min(t.channels, c_out - co))
        whole = sum(h for h in heights if h == MR)
        if whole:
            target = packed[:, start * problem.taps * c_in : (start + whole) * problem.taps * c_in]
            shape = (g, whole // MR, problem.taps, c_in, MR)
            panels = by_tap[..., start : start + whole].reshape(g, problem.taps, c_in, whole // MR, MR)
            target.reshape(shape)[...] = panels.transpose(0, 3, 1, 2, 4)
            start += whole
        for height in heights:
            if height != MR:
                target = packed[:, start * problem.taps * c_in : (start + height) * problem.taps * c_in]
                target.reshape(g, problem.taps, c_in, height)[...] = by_tap[..., start : start + height]
                start += height
    return packed.reshape(-1)


def _padded_out(problem: Problem, t: _Tiling) -> int:
    """Output channels of a group, filled up to whole blocks."""
    return -(-(problem.c_out // problem.groups) // t.channels) * t.channels


def _pack_blocks(problem: Problem, t: _Tiling, weight: NDArray[Any]) -> NDArray[Any]:
    """(C_in, C_out//g, *kernel) -> [g][block][tap][C_in//g][vectors of the block], zeros beyond the last channel."""
    g, lanes = problem.groups, _lanes(problem)
    c_in, c_out = problem.c_in // g, problem.c_out // g
    by_tap = weight.reshape(g, c_in, c_out, problem.taps).transpose(0, 3, 1, 2)
    packed = np.zeros((g, _padded_out(problem, t) * problem.taps * c_in), weight.dtype)
    for co in range(0, c_out, t.channels):
        count = min(t.channels, c_out - co)
        block = _chunk_vectors.py_func(count, lanes) * lanes
        target = packed[:, co * problem.taps * c_in :][:, : problem.taps * c_in * block]
        target.reshape(g, problem.taps, c_in, block)[..., :count] = by_tap[..., co : co + count]
    return packed.reshape(-1)


@variant(
    "phase",
    title="phases, implicit GEMM",
    source="Vaidyanathan 1993, section 4.3; Shi et al. 2016",
    color="#56B4E9",
    marker="P",
)
class Phase(Variant):
    """Stride^d small dense convolutions as one implicit GEMM."""

    def prepare(self, problem: Problem, weight: NDArray[Any], bias: NDArray[Any] | None) -> Any:
        if not np.isfinite(weight).all():
            # A border's zero times an infinite weight would reach outputs whose sums it does not belong to.
            return registry.get("direct").prepare(problem, weight, bias), None
        g, t = problem.geometry, _tiling(problem)
        if t.over_pixels:
            packed, padded_bias = _pack_panels(problem, t, weight), _blocks.bias_or_zeros(problem, bias)
        else:
            packed = _pack_blocks(problem, t, weight)
            padded_bias = np.zeros((g.groups, _padded_out(problem, t)), problem.dtype)
            if bias is not None:
                padded_bias[:, : g.c_out // g.groups] = bias.reshape(g.groups, -1)
            padded_bias = padded_bias.reshape(-1)
        return (_tasks(g, t), _blocks.as_sizes(g), _blocks.as_sizes(t), packed, padded_bias), problem

    def run(self, state: Any, x: NDArray[Any], out: NDArray[Any]) -> None:
        inner, problem = state
        if problem is None:
            registry.get("direct").run(inner, x, out)
            return
        tasks, sizes, tiles, weight, bias = inner
        _phases(tasks, sizes, tiles, x.reshape(-1), weight, bias, out.reshape(-1))

    def prepared_bytes(self, problem: Problem) -> int:
        t = _tiling(problem)
        if t.over_pixels:
            return _blocks.packed_bytes(problem)
        padded = problem.groups * _padded_out(problem, t)
        return problem.itemsize * padded * (problem.taps * (problem.c_in // problem.groups) + 1)

    def workspace_bytes(self, problem: Problem) -> int:
        g, t, lanes = problem.geometry, _tiling(problem), _lanes(problem)
        c_in = g.c_in // g.groups
        if t.over_pixels:
            padded = -(-t.width // lanes) * lanes
            elements = t.slots * c_in * (padded + t.halo) + MR * g.sx * padded
        else:
            elements = t.slots * c_in * (t.width + t.halo) + t.rows * g.sx * t.width * t.channels
        tables = 8 * (2 * problem.taps + g.sx + 1 + g.iz * g.iy)
        return min(_blocks.threads(), _tasks(g, t)) * (problem.itemsize * elements + tables)
