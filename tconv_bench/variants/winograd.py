"""Winograd on the phases: fewer products than the definition has, for additions on both sides.

::

    out tile = A' ( sum over c of (G g) * (B' d) ),      '*' element by element, nested over the axes

A phase of the stride is a dense convolution with r = 2 or 3 taps along an axis. Its tile of m outputs needs m + r - 1 products
instead of m*r: F(3, 2) takes 4 for 6, F(2, 3) takes 4 for 6, F(2, 2) takes 3 for 4. With kernel 4 and stride 2 all four phases
read the same transformed window, and the layer needs 16/36 of its products in two dimensions. Phases with one tap less than the
others have lines of their own. Where kernel = stride along an axis, that axis has nothing to save and passes unchanged. Few
pixels have no lanes to fill with tiles, and vectors run over output channels instead (``_winograd_channels``).

Cost: tiles / direct products as above; the input is transformed once per task, the sums once per channel. Rounding: the points
0, 1, -1 and infinity alone, so that an error is that of a float sum of the window's magnitudes (``error_bound``).

Source: Winograd, "Arithmetic Complexity of Computations", 1980; Lavin & Gray, arXiv:1509.09308.
"""

from __future__ import annotations

from functools import cache, lru_cache
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
    RUN_FIELDS,
    as_pointer,
    call_rows,
    call_sum_taps,
    combine_outputs,
    combine_window,
    copy,
    copy_strided,
    deinterleave,
    difference_to_itself,
    move_elements,
    prefetch_to_write,
)
from tconv_bench.variants import _blocks, _costs, _winograd_channels, _winograd_layout
from tconv_bench.variants._blocks import next_row
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
from tconv_bench.variants._winograd_layout import AXES_AT, PACK_AT, RAW_AT, RECORD, SHORT_ROW, TURNED_AT, Layout
from tconv_bench.variants._winograd_weights import native_pack, prepare_panel, tables_of

TALL = simd.TALL
PACK_CYCLES, FAR_CYCLES = 1.2, 2.5  # of a transformed weight, and of one that leaves the near caches
NEAR_BYTES = 8 * 2**20  # transformed weights that the caches hold


@kernel
def _carries(s):
    """Distances on the line from an element of a window to the one that lies in the next tile along z, and along y."""
    return (s.mz + s.rz - 2) // s.mz * s.py * s.px, (s.my + s.ry - 2) // s.my * s.px


@kernel
def _needed(s, length, bz, by):
    """How much of ``length`` windows' read: all of the pixels whose line they read in the next tile along z and y, too."""
    z_carry, y_carry = _carries(s)
    return length - (z_carry if bz > s.rz - 2 else 0) - (y_carry if by > s.ry - 2 else 0)


@kernel
def _find_runs(s, low, length, runs):
    """Where the rows of a task's input come from and lie on its lines, for channel 0; returns how many there are.

    A run is its first window's source, its first and past its last element that exist, its place and its windows.
    """
    found = 0
    for row in range(low // s.px, (low + length - 1) // s.px + 1):
        slab, ty = divmod(row, s.py)
        n, tz = divmod(slab, s.pz)
        if n >= s.batch:
            break
        first = max(0, low - row * s.px)
        ix = first * s.mx + s.first_x
        for bz in range(s.mz):
            iz = tz * s.mz + bz + s.first_z
            for by in range(s.my):
                iy = ty * s.my + by + s.first_y
                last = min(s.px, low + _needed(s, length, bz, by) - row * s.px)
                if iz < 0 or iz >= s.iz or iy < 0 or iy >= s.iy or ix >= s.ix or first >= last:
                    continue
                runs[found, 0] = n * s.x_n + iz * s.x_z + iy * s.x_y + ix * s.x_x
                runs[found, 1] = -ix
                runs[found, 2] = s.ix - ix
                runs[found, 3] = (bz * s.my + by) * s.mx * length + row * s.px + first - low
                runs[found, 4] = last - first
                found += 1
    return found


@kernel
def _list_moves(s, runs, found, length, sources, places):
    """Where each pixel of the runs comes from, counted from the first run's, and where it goes; returns how many there are."""
    moves = 0
    for i in range(found):
        source, first, last, to, count = runs[i, 0], runs[i, 1], runs[i, 2], runs[i, 3], runs[i, 4]
        for e in range(max(0, first), min(last, count * s.mx)):
            sources[moves] = source - runs[0, 0] + e * s.x_x
            places[moves] = to + e % s.mx * length + e // s.mx
            moves += 1
    return moves


@kernel
def _gather(s, x, at, runs, found, lines, length):
    """One channel's pixels on the lines of a task."""
    for i in range(found):
        source, first, last, to, count = at + runs[i, 0], runs[i, 1], runs[i, 2], runs[i, 3], runs[i, 4]
        if s.x_x == 1:
            deinterleave(s.mx, x, source, first, last, lines, to, length, count)
            continue
        for b in range(s.mx):
            low = max(0, (first - b + s.mx - 1) // s.mx)
            high = min(count, (last - b + s.mx - 1) // s.mx)
            copy_strided(x, source + (low * s.mx + b) * s.x_x, s.mx * s.x_x, lines, to + b * length + low, high - low)


@kernel
def _transform(s, lines, length, padded, rows, planes, target, to, step):
    """B' of one channel: its pixels' lines to rows of products, ``target[to + point*step + tile]``."""
    y_carry, z_carry, lanes = s.px, s.py * s.px, _vector(lines)
    last = 1 if s.mz == 1 and s.my == 1 else 2 if s.mz == 1 else 3
    if last == 1:
        combine_window(s.mx, s.rx, s.mixed_x, lines, 0, length, 1, target, to, step, padded)
        return
    for row in range(s.mz * s.my):
        bz, by = divmod(row, s.my)
        at, count = row * s.mx * length, _needed(s, length, bz, by) - lanes
        if s.mx == 1:
            copy(lines, at, rows, row * length, count)
        else:
            combine_window(s.mx, s.rx, s.mixed_x, lines, at, length, 1, rows, row * s.lx * length, length, count)
    if last == 2:
        for i in range(s.lx):
            combine_window(
                s.my, s.ry, s.mixed_y, rows, i * length, s.lx * length, y_carry, target, to + i * step, s.lx * step, padded
            )
        return
    for bz in range(s.mz):
        for i in range(s.lx):
            at, place = (bz * s.my * s.lx + i) * length, (bz * s.ly * s.lx + i) * length
            count = _needed(s, length, bz, s.my) - lanes
            if s.my == 1:
                copy(rows, at, planes, place, count)
            else:
                combine_window(s.my, s.ry, s.mixed_y, rows, at, s.lx * length, y_carry, planes, place, s.lx * length, count)
    area = s.ly * s.lx
    for i in range(area):
        combine_window(
            s.mz, s.rz, s.mixed_z, planes, i * length, area * length, z_carry, target, to + i * step, area * step, padded
        )


@kernel
def _vector(array):
    return simd.VECTOR_BYTES // array.itemsize


@kernel
def _multiply(
    tile, s, kz, ky, height, weight, w_at, first_c, channels, values, point_step, padded, phases, bias, bias_at, sums
):
    """All products of one panel and row phase over a block of input channels: ``sums[line][channel][tile]``."""
    lanes = _vector(values)
    no_bias = s.groups * s.c_out
    once = np.zeros(2, np.int64)
    ahead = np.empty(40, np.int64)
    ahead[:] = ahead.ctypes.data + 128  # a line of this task's own: two cores that ask to write one take it from each other
    x_phases = 2 * (s.sz + s.sy)
    flags = x_phases + 2 * s.sx
    line, size = 0, weight.itemsize
    # The next line's weights are on their way while this line's pass all tiles; short sums have them in a near cache.
    step = height * size * 2 * lanes // padded + 1 if s.c_in >= 128 else 0
    for z in range(phases[2 * kz], phases[2 * kz] + phases[2 * kz + 1]):
        at_y = 2 * (s.sz + ky)
        for y in range(phases[at_y], phases[at_y] + phases[at_y + 1]):
            for kx in range(s.sx):
                at_x = x_phases + 2 * kx
                for x in range(phases[at_x], phases[at_x] + phases[at_x + 1]):
                    point = (z * s.ly + y) * s.lx + x
                    takes_bias = phases[flags + z] * phases[flags + s.lz + y] * phases[flags + s.lz + s.ly + x]
                    at = 0
                    stream = weight.ctypes.data + (w_at + ((line + 1) * s.c_in + first_c) * height) * size
                    while at < padded:
                        vectors = 2 if padded - at >= 2 * lanes else 1
                        tiles = (padded - at) // (vectors * lanes)
                        call_sum_taps(
                            tile, height, vectors, tiles, lanes, weight, w_at + (line * s.c_in + first_c) * height, height,
                            values, point * point_step + at, padded, once, 0, 1, channels, first_c > 0, bias,
                            bias_at if takes_bias else no_bias, sums, line * height * padded + at, padded, ahead, 0, 0,
                            stream, step,
                        )  # fmt: skip
                        at += tiles * vectors * lanes
                        stream += tiles * channels * step
                    line += 1
    return line


@kernel
def _sum_up(s, z_lines, y_lines, phases, height, channel, padded, sums, rows, planes):
    """A' of one channel: products to outputs, ``[z][y][x and its phase][tile]``; returns whether they lie in ``rows``."""
    x_phases = 2 * (s.sz + s.sy)
    width = s.mx * s.sx * padded
    line = 0
    for i in range(z_lines * y_lines):
        for kx in range(s.sx):
            count = phases[x_phases + 2 * kx + 1]
            at, to = (line * height + channel) * padded, i * width + kx * padded
            if s.mx == 1:
                copy(sums, at, rows, to, padded)
            else:
                combine_outputs(s.mx, count, sums, at, height * padded, rows, to, s.sx * padded, padded)
            line += count
    in_rows = True
    if s.my > 1:
        for i in range(z_lines):
            combine_outputs(s.my, y_lines, rows, i * y_lines * width, width, planes, i * s.my * width, width, width)
        in_rows = False
    if s.mz > 1:
        slab = s.my * width
        if in_rows:
            combine_outputs(s.mz, z_lines, rows, 0, slab, planes, 0, slab, slab)
        else:
            combine_outputs(s.mz, z_lines, planes, 0, slab, rows, 0, slab, slab)
        in_rows = not in_rows
    return in_rows


@kernel
def _list_outputs(s, low, high, runs, starts):
    """The rows of channel 0's output that tiles ``low ... high - 1`` write, as runs of ``simd.call_rows`` from a line of them.

    Row phase by row phase, and of each one by a tile's outputs along z and y; ``starts``: where the runs of each begin, and the
    last ones end.
    """
    width = s.mx * s.sx
    found = 0
    for number in range(s.sz * s.sy * s.mz * s.my):
        rest, ey = divmod(number, s.my)
        rest, ez = divmod(rest, s.mz)
        kz, ky = divmod(rest, s.sy)
        starts[number] = found
        row, tx = divmod(low, s.px)
        slab, ty = divmod(row, s.py)
        n, tz = divmod(slab, s.pz)
        position = low
        while position < high:
            run = min(s.px - tx, high - position)
            oz, oy = (tz * s.mz + ez) * s.sz + kz - s.crop_z, (ty * s.my + ey) * s.sy + ky - s.crop_y
            ox = tx * width - s.crop_x
            skipped = max(0, -ox)
            count = min(run * width, s.ox - ox) - skipped
            if tx < s.tx and ty < s.ty and tz < s.tz and 0 <= oz < s.oz and 0 <= oy < s.oy and count > 0:
                runs[found, 1], runs[found, 3] = (position - low) * width + skipped, count
                runs[found, 2] = n * s.out_n + oz * s.out_z + oy * s.out_y + (ox + skipped) * s.out_x
                found += 1
            position += run
            tx = 0
            ty, tz, n = next_row(s.py, s.pz, ty, tz, n)
        starts[number + 1] = found


@kernel
def _fetch(s, row_phase, runs, starts, height, out, out_at):
    """Have the lines of ``height`` channels' outputs of a row phase fetched, while their sums are computed."""
    step, tile_rows = 64 // out.itemsize, s.mz * s.my
    for run in range(starts[row_phase * tile_rows], starts[(row_phase + 1) * tile_rows]):
        for m in range(height):
            for i in range(0, runs[run, 3], step):
                prefetch_to_write(out, out_at + runs[run, 2] + m * s.out_c + i)


@kernel
def _store(s, row_phase, runs, starts, padded, values, line, out, out_at):
    """Write a channel's outputs of a row phase: every row once, its phases in turn."""
    width, tile_rows = s.mx * s.sx, s.mz * s.my
    flat_runs, whole = runs.reshape(-1), np.zeros(RUN_FIELDS, np.int64)
    whole[3] = width * padded
    for own in range(tile_rows):
        first, last = starts[row_phase * tile_rows + own], starts[row_phase * tile_rows + own + 1]
        if first == last:
            continue
        whole[1] = own * width * padded
        call_rows(s.weaver, width, values, 0, padded, 1, whole, 0, 1, line, 0, 0)
        if s.out_x == 1:
            call_rows(s.writer, 1, line, 0, 0, 1, flat_runs, first, last, out, out_at, 0)
            continue
        for run in range(first, last):
            at, to = runs[run, 1], out_at + runs[run, 2]
            for i in range(runs[run, 3]):
                out[to + i * s.out_x] = line[at + i]


def _native_task(task, tables, x, out):
    """One task; ``tables`` holds the addresses of a layout's arrays and of the transformed weights."""
    x, out = carray(x, 1), carray(out, 1)
    shape = carray(as_pointer(tables[RECORD_AT]), 1, dtype=RECORD)
    s = shape[0]
    tile = tables[TILE_AT]
    weight = carray(as_pointer(tables[WEIGHT_AT]), 1, dtype=out.dtype)
    bias = carray(as_pointer(tables[BIAS_AT]), 1, dtype=out.dtype)
    panels = carray(as_pointer(tables[PANELS_AT]), (s.panels, 3), dtype=np.int64)
    phases = carray(as_pointer(tables[AXES_AT]), 1, dtype=np.int64)
    spoiled = carray(as_pointer(tables[SPOILED_AT]), 1, dtype=np.int64)
    lanes = _vector(out)
    pieces = (s.positions + s.task_positions - 1) // s.task_positions
    panel_parts = (s.panels + s.task_panels - 1) // s.task_panels
    rest, piece = divmod(task, pieces)
    group, panel_part = divmod(rest, panel_parts)
    first_panel = panel_part * s.task_panels
    last_panel = min(s.panels, first_panel + s.task_panels)
    low = piece * s.task_positions
    high = min(s.positions, low + s.task_positions)
    padded = (high - low + lanes - 1) // lanes * lanes
    span = (((s.mz + s.rz - 2) // s.mz * s.py) + (s.my + s.ry - 2) // s.my) * s.px + (s.mx + s.rx - 2) // s.mx
    length = (padded + span + lanes - 1) // lanes * lanes + lanes

    elements = s.mz * s.my * s.mx * length
    runs = np.empty(((length // s.px + 2) * s.mz * s.my, 5), np.int64)
    found = _find_runs(s, low, length, runs)
    one_by_one = s.px * s.mx <= SHORT_ROW and s.x_n * (length // (s.pz * s.py * s.px) + 2) < 2**31
    sources, places = np.empty(elements if one_by_one else 0, np.int32), np.empty(elements if one_by_one else 0, np.int32)
    moves = _list_moves(s, runs, found, length, sources, places) if one_by_one else 0
    lines = np.zeros(elements + lanes, out.dtype)
    rows = np.zeros(s.mz * s.my * s.lx * length, out.dtype)
    planes = np.zeros(s.mz * s.ly * s.lx * length if s.mz > 1 else 0, out.dtype)
    point_step = s.block * padded + lanes
    values = np.empty(s.lz * s.ly * s.lx * point_step, out.dtype)
    largest = 0
    for kz in range(s.sz):
        for ky in range(s.sy):
            largest = max(largest, phases[2 * kz + 1] * phases[2 * (s.sz + ky) + 1])
    x_lines = 0
    for kx in range(s.sx):
        x_lines += phases[2 * (s.sz + s.sy + kx) + 1]
    whole = s.block == s.c_in
    channels = 0
    for panel in range(first_panel, last_panel):
        channels += panels[panel, 1]
    sums = np.empty((largest * x_lines * TALL if whole else s.products * channels) * padded, out.dtype)
    width = s.mx * s.sx * padded
    z_most, y_most = s.mz + s.rz - 1, s.my + s.ry - 1
    row_sums = np.empty(z_most * y_most * width + lanes, out.dtype)
    plane_sums = np.empty(z_most * y_most * width + lanes, out.dtype)
    line = np.empty(width + lanes, out.dtype)
    tile_rows = s.sz * s.sy * s.mz * s.my
    out_runs = np.zeros((tile_rows * ((high - low) // s.px + 2), RUN_FIELDS), np.int64)
    starts = np.empty(tile_rows + 1, np.int64)
    _list_outputs(s, low, high, out_runs, starts)

    for first_c in range(0, s.c_in, s.block):
        block = min(s.block, s.c_in - first_c)
        for c in range(block):
            at = (group * s.c_in + first_c + c) * s.x_c
            if one_by_one:
                move_elements(x, at + runs[0, 0], sources, lines, places, moves)
            else:
                _gather(s, x, at, runs, found, lines, length)
            if difference_to_itself(lines, 0, elements) != 0:
                spoiled[0] = 1
            _transform(s, lines, length, padded, rows, planes, values, c * padded, point_step)
        last = first_c + block == s.c_in
        held = 0
        for panel in range(first_panel, last_panel):
            start, height = panels[panel, 0], panels[panel, 1]
            channel = group * s.c_out + start
            slot = prepare_panel(s, tables, group, panel, weight)
            w_at = (group * s.c_out + panels[slot, 0]) * s.products * s.c_in
            for kz in range(s.sz):
                for ky in range(s.sy):
                    own = sums[held:]
                    row_phase = kz * s.sy + ky
                    if s.far and last:
                        _fetch(s, row_phase, out_runs, starts, height, out, channel * s.out_c)
                    done = _multiply(tile, s, kz, ky, height, weight, w_at, first_c, block, values, point_step, padded, phases,
                                     bias, channel, own)  # fmt: skip
                    w_at += done * s.c_in * height
                    if not whole:
                        held += done * height * padded
                    if not last:
                        continue
                    z_lines, y_lines = phases[2 * kz + 1], phases[2 * (s.sz + ky) + 1]
                    for m in range(height):
                        in_rows = _sum_up(s, z_lines, y_lines, phases, height, m, padded, own, row_sums, plane_sums)
                        _store(s, row_phase, out_runs, starts, padded, row_sums if in_rows else plane_sums, line, out,
                               (channel + m) * s.out_c)  # fmt: skip


@cache
def _native(dtype: str, over_channels: int) -> Any:
    """The task of a layout as machine code."""
    i, p = types.int64, types.CPointer(from_dtype(np.dtype(dtype)))
    return native(types.void(i, types.CPointer(i), p, p), _winograd_channels.native_task if over_channels else _native_task)


class _State(NamedTuple):
    """Transformed weights, and the caller's for an input that is not finite."""

    problem: Problem
    packed: NDArray[Any]
    bias: NDArray[Any]  # and zeros, for the products that take none
    weight: NDArray[Any]
    work: dict[tuple[bool, bool], tuple[Layout, NDArray[np.int64]]]  # by the memory order of x and out


@variant(
    "winograd",
    title="Winograd on the phases",
    source="Winograd 1980; Lavin & Gray 2016",
    color="#7A0403",
    marker="p",
)
class Winograd(Variant):
    """Fewer products: minimal filtering of every phase."""

    serves_strided = True
    reads_turned_weights = True

    def supports(self, problem: Problem) -> Any:
        return _winograd_layout.unsupported(problem) or True

    def prepare(self, problem: Problem, weight: NDArray[Any], bias: NDArray[Any] | None) -> Any:
        found = _layout(problem)
        packed = _blocks.from_a_line(found.weights, problem.dtype)
        spoiled = np.zeros(1, np.int64)
        tables = tables_of(found, problem.dtype)
        tables[SPOILED_AT] = spoiled.ctypes.data
        launch(found.pack_tasks, False, native_pack(problem.dtype).address, tables, weight.reshape(-1), packed)
        if spoiled[0]:
            return registry.get("direct").prepare(problem, weight, bias)
        state = _State(problem, packed, _bias(problem, bias), weight.copy(), {})
        _work(state, False, False)
        return state

    def run(self, state: Any, x: NDArray[Any], out: NDArray[Any]) -> None:
        if not isinstance(state, _State):
            _blocks.run_plain(registry.get("direct"), state, x, out)
            return
        flat_x, x_last = _blocks.dense(x)
        flat_out, out_last = _blocks.dense(out)
        if flat_x is None or flat_out is None:
            result = np.empty(out.shape, out.dtype) if flat_out is None else out
            self.run(state, np.ascontiguousarray(x) if flat_x is None else x, result)
            if result is not out:
                out[...] = result
            return
        found, constant = state.work.get((x_last, out_last)) or _work(state, x_last, out_last)
        spoiled = np.zeros(1, np.int64)
        tables = constant.copy()
        tables[SPOILED_AT] = spoiled.ctypes.data
        launch(found.tasks, False, _native(state.problem.dtype, found.shape.over_channels).address, tables, flat_x, flat_out)
        if spoiled[0]:
            # A transform would carry a NaN or an infinity to every output of its tile.
            direct = registry.get("direct")
            bias = state.bias[: state.problem.c_out]
            _blocks.run_plain(direct, direct.prepare(state.problem, state.weight, bias), x, out)

    def one_shot(
        self, problem: Problem, weight: NDArray[Any], bias: NDArray[Any] | None, x: NDArray[Any], out: NDArray[Any]
    ) -> None:
        if not (x.flags.c_contiguous and out.flags.c_contiguous):
            self.run(self.prepare(problem, weight, bias), x, out)
            return
        found = _layout(problem)
        code, pack = _native(problem.dtype, found.shape.over_channels), native_pack(problem.dtype)
        flat, is_turned = _memory(problem, weight)
        tables, pack_tasks = tables_of(found, problem.dtype), found.pack_tasks
        tables[TURNED_AT] = is_turned
        if _is_alone(found):
            tables[PACK_AT], tables[RAW_AT], pack_tasks = pack.address, flat.ctypes.data, 0
        done = pack_and_launch(
            pack_tasks, pack.address, found.tasks, False, code.address, tables, flat,
            scratch(problem.dtype, found.weights), _bias(problem, bias), x.reshape(-1), out.reshape(-1),
        )  # fmt: skip
        if not done:
            registry.get("direct").one_shot(problem, np.ascontiguousarray(weight), bias, x, out)

    def estimate(self, problem: Problem) -> float:
        found = _layout(problem)
        return 4e-6 + max(found.cycles / 3.3e9, problem.min_bytes / 28e9 if problem.min_bytes > 2**25 else 0.0)

    def preparation_estimate(self, problem: Problem) -> float:
        found = _layout(problem)
        cycles = FAR_CYCLES if found.weights * problem.itemsize > NEAR_BYTES else PACK_CYCLES
        return found.weights * cycles * _costs.busiest(found.pack_tasks) / 3.3e9

    def describe(self, problem: Problem) -> str:
        found = _layout(problem)
        sizes = " x ".join(f"F({axis.size}, {axis.taps})" for axis in found.axes if axis.taps > 1)
        s = found.shape
        if s.over_channels:
            sizes = " x ".join(str(axis.size) for axis in (found.axes[0], *found.axes[4 - problem.ndim :]))
            rows = f"{s.task_positions} of {s.positions} rows of blocks each"
            return f"blocks of {sizes} pixels, {s.products} products, {found.tasks} tasks, {rows}"
        return f"{sizes}, {found.tasks} tasks, {min(s.task_positions, s.positions)} of {s.positions} tiles each"

    def error_bound(
        self, problem: Problem, x: NDArray[Any], weight: NDArray[Any], bias: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """gamma_n * prod over the axes with several taps of |A'| (|G||g| * |B'||d|), summed over c, for any tile of an image.

        On such an axis |A'| adds three products at most, |G||g| is at most sum |g|, |B'||d| twice the window's largest pixel;
        n is c_in / groups and, per axis, three operations on the weights, one on the input and two on the sums. Over channels,
        two operations on the weights and three on the sums, whose overlap is of lone products, stay within that.
        """
        axes = sum(axis.taps > 1 for axis in _layout(problem).axes)
        groups = problem.groups
        terms = problem.c_in // groups + 6 * axes + 2
        unit = float(np.finfo(problem.dtype).eps) / 2
        largest = np.abs(x).reshape(problem.batch, groups, problem.c_in // groups, -1).max(axis=3).astype(np.float64)
        taps = np.abs(weight).reshape(groups, problem.c_in // groups, problem.c_out // groups, -1).sum(axis=3, dtype=np.float64)
        total = 6**axes * np.einsum("ngc,gco->ngo", largest, taps).reshape(problem.batch, problem.c_out)
        if bias is not None:
            total = total + np.abs(bias)
        bound: NDArray[Any] = (2 * terms * unit * total).reshape(problem.batch, problem.c_out, *(1,) * problem.ndim)
        return np.broadcast_to(bound, problem.out_shape)

    def prepared_bytes(self, problem: Problem) -> int:
        weights = _layout(problem).weights + prod(problem.weight_shape)
        return problem.itemsize * (weights + problem.c_out + simd.TALL)

    def workspace_bytes(self, problem: Problem) -> int:
        found = _layout(problem)
        s = found.shape
        lanes = simd.VECTOR_BYTES // problem.itemsize
        if s.over_channels:
            own = _winograd_channels.workspace_of(problem, found)
            return min(_blocks.threads(), found.tasks) * problem.itemsize * own
        channels = max(int(found.panels[i : i + s.task_panels, 1].sum()) for i in range(0, s.panels, s.task_panels))
        task = min(s.task_positions, s.positions)
        own = _winograd_layout.workspace(found.axes, task, channels, s.block, s.c_in, s.products, lanes)
        return min(_blocks.threads(), found.tasks) * problem.itemsize * own


def _layout(problem: Problem) -> Layout:
    threads = _blocks.threads()
    over_channels = _winograd_channels.layout(problem, threads)
    return over_channels if over_channels and _runs_over_channels(problem) else _winograd_layout.layout(problem, threads)


def _memory(problem: Problem, weight: NDArray[Any]) -> tuple[NDArray[Any], bool]:
    """Weights as they lie, and whether they lie as an ordinary convolution's; copied where they lie in neither way."""
    if problem.groups == 1 and not weight.flags.c_contiguous:
        of_convolution = _blocks.turned(weight)
        if of_convolution.flags.c_contiguous:
            return of_convolution.reshape(-1), True
    return np.ascontiguousarray(weight).reshape(-1), False


def _is_alone(found: Layout) -> bool:
    """Whether each panel belongs to one task, which can transform its weights just before their use."""
    s = found.shape
    return found.tasks == s.groups * -(-s.panels // s.task_panels) and s.block == s.c_in


@lru_cache(maxsize=512)
def _runs_over_channels(problem: Problem) -> bool:
    """Which way the vectors run: as one thread does best, so that results do not depend on how many there are."""
    over_channels = _winograd_channels.layout(problem, 1)
    return over_channels is not None and over_channels.cycles < _winograd_layout.layout(problem, 1).cycles


def _bias(problem: Problem, bias: NDArray[Any] | None) -> NDArray[Any]:
    """The bias or zeros, and zeros for the products that take none."""
    padded = np.zeros(problem.c_out + simd.TALL, problem.dtype)
    if bias is not None:
        padded[: problem.c_out] = bias
    return padded


def _work(state: _State, x_last: bool, out_last: bool) -> tuple[Layout, NDArray[np.int64]]:
    """The layout for a memory order, and its tables with the state's weights."""
    found = _winograd_layout.reordered(_layout(state.problem), x_last, out_last)
    tables = found.addresses.copy()
    tables[WEIGHT_AT], tables[BIAS_AT] = state.packed.ctypes.data, state.bias.ctypes.data
    state.work[x_last, out_last] = found, tables
    return found, tables
