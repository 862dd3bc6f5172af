"""Sizes, tap tables and task cuts of ``phase``: everything that depends on the problem alone, computed once per problem.

Positions. Within one phase the outputs of all images, slabs and rows are numbered on one line: output element (n, jz, jy, jx)
of any phase is position ``((n*pz + jz)*py + jy)*pitch + jx``. The input lies on the same line with enough zeros between rows
(shared by a row's end and the next one's beginning), so that each tap reads at a constant distance from the position that it
adds to, in one, two or three dimensions and across images.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tconv_bench import simd
from tconv_bench.problem import Geometry, Problem
from tconv_bench.variants import _launch
from tconv_bench.variants._launch import PANELS_AT, RECORD_AT, TILE_AT

PACKED_BYTES = 512 * 1024  # packed input of a task, read once per panel of weights: half of a 1 MiB second-level cache
LIMIT_BYTES = 3 * 2**20  # packed input of a task, whatever the layer
CHANNELS_BYTES = 128 * 1024  # weights that all rows of a task over channels pass before the next input channels' come
FAR_BYTES = 2**20  # the lines of a larger output are fetched while its sums are computed
BEYOND_BYTES = 2**25  # a larger output is written past the caches, none of which would keep it
FETCHING_STEPS = 64  # of an output's sum, on average; fewer do not hide that lines are asked for
PART = 12  # vectors of positions whose sums are stored together
# What a task costs besides its multiply-adds, in cycles (measured on Zen 4): an element stored over channels and over
# pixels, an element packed, a task begun.
STORE_CYCLES = (2.0, 0.25)
PACK_CYCLES = (0.3, 0.7)  # of an input that a second-level cache may hold, and of a larger one
TASK_CYCLES = 3000
RAW_CYCLES = 0.8  # of a weight that is turned round on its way from the caller's memory to the multiply-adds
REPACK_CYCLES = 3.5  # of a weight that is written and read again
ROWS_BYTES = 32 * 1024  # rows of taps that are added up before the next ones are computed
SUMS_BYTES = 512 * 1024  # of a task over rows of taps
ROWS_CYCLES = (4.0, 3.0)  # of a vector of a tap's row, stored and read again, and of one of the sums that it is added to
CALL_CYCLES = 200  # of a run of tiles side by side
MOST_ROWS, GOOD_ROWS = 64, 24  # rows of taps that are computed together: of one output channel, and of several, at most
MOST_CHANNELS = 64  # output channels up to which rows of taps are weighed
FEW_WEIGHTS = 2**16
ALONE_CYCLES = 25_000  # a launch on all threads takes 3 us, and longer when they sleep
#: cycles of a tile of this height per vector and step of the sum, over those of the tallest (Zen 4, pixels from L2)
_TILE_COST = {12: 1.0, 8: 1.01, 6: 1.0, 4: 1.02, 3: 1.05, 2: 1.35, 1: 2.6}


JOBS_AT, TAPS_AT, ROWS_AT, MEMBERS_AT, HEIGHTS_AT = range(_launch.FIRST_FREE, _launch.FIRST_FREE + 5)
OVER_CHANNELS, OVER_PIXELS, OVER_ROWS = range(3)  # which way the vectors run: the last over pixels too, for rows of taps


class Axis(NamedTuple):
    """One spatial axis: ``taps`` lists (kernel index, phase, shift); element j of a phase reads input j - shift + first."""

    taps: tuple[tuple[int, int, int], ...]
    stride: int
    width: int  # elements of a phase, the largest
    pitch: int  # from a row to the next on the line
    first: int  # the first input pixel that any tap reads
    data: int  # input pixels that any tap reads


def _axis(in_size: int, kernel: int, stride: int, pad: int, dilation: int, out: int) -> Axis:
    if in_size == 1:
        stride = out  # around a lone pixel each tap is a phase of its own: no tap reads a zero
    width = -(-out // stride)
    taps = []
    for k in range(kernel):
        shift, phase = divmod(k * dilation - pad, stride)
        count = (out - phase + stride - 1) // stride
        if max(0, shift) < min(count, shift + in_size):
            taps.append((k, phase, shift))
    shifts = [shift for _, _, shift in taps] or [0]
    first = max(0, -max(shifts))
    last = max(first, min(in_size, width - min(shifts)))
    taps = [(k, phase, shift + first) for k, phase, shift in taps]
    low, high = min(shifts) + first, max(shifts) + first
    return Axis(tuple(taps), stride, width, max(width, width - low, last - first + high), first, last - first)


class Shape(NamedTuple):
    """What the kernels need, as a ``RECORD`` there, which they compile with sooner than with a tuple of 50."""

    batch: int
    c_in: int  # of a group
    c_out: int  # of a group; ``fold`` times as many where phases along x count as channels
    groups: int
    over_pixels: int  # vectors along positions, else along output channels
    fold: int  # phases along x that count as channels: output pixel j*fold + r of channel o is pixel j of channel o*fold + r
    flat: int  # the line is the image's own memory: no zeros between rows
    merged: int  # tiles of several phases along x
    crop: int  # outputs before the first one that is wanted of a row: phases are counted from where taps meet them together
    far: int  # 1: an output larger than the second-level cache is fetched; 2: a larger one than any is not to stay in one
    positions: int
    span: int  # from the smallest distance of a tap to the largest
    reach: int  # the largest distance of a tap
    pitch: int
    py: int
    pz: int
    wx: int
    wy: int
    wz: int
    first_x: int
    first_y: int
    first_z: int
    data_x: int
    data_y: int
    data_z: int
    sx: int
    sy: int
    sz: int
    ox: int
    oy: int
    oz: int
    kernel: int  # taps of the kernel
    taps: int  # steps of all sums, in input channels: taps that meet a pixel
    entries: int  # rows of a tap table: as many, or fewer where phases are merged
    jobs: int  # tiles of a row phase
    panels: int
    task_positions: int
    task_panels: int
    task_rows: int  # row phases of a task
    task_groups: int
    block: int  # input channels packed at once
    x_n: int
    x_c: int
    x_z: int
    x_y: int
    x_x: int
    out_n: int
    out_c: int
    out_z: int
    out_y: int
    out_x: int
    out_r: int  # between the phases that count as channels
    members: int  # phases that share an entry, at most
    pack_block: int  # input channels of a panel whose weights are packed together
    depth: int  # input channels whose weights all rows of a task over channels pass before the next ones' come
    raw: int  # the weights are as the caller has them
    turn: int  # the address of ``simd.transpose``
    writer: int  # the address of the code that writes rows of the stride along x
    chunk: int  # positions whose rows of taps are computed together; 0 on the other roads
    carry: int  # of them, what the next chunk's sums read again
    near: int  # from the smallest distance of a tap along x to the largest


RECORD = np.dtype([(name, np.int64) for name in Shape._fields])


class Layout(NamedTuple):
    """A problem's plan of work; arrays are read by the kernels."""

    shape: Shape
    record: NDArray[Any]  # the shape as an array of one record
    lanes: int
    tasks: int
    alone: bool  # in the caller's thread: the others would come too late
    cycles: float  # of the busiest thread
    panels: NDArray[np.int64]  # (panel, 4): first channel, height of its tile or channels of its block, channels, tap table
    jobs: NDArray[np.int64]  # (row phase, job, 4): first entry, entries, first phase along x, phases
    taps: NDArray[
        np.int64
    ]  # (table, entry, 2): where its weights and its pixels begin; of rows of taps, their distance along x
    rows: NDArray[np.int64]  # (entry, 2): shift along z and y; of rows of taps (phase along x, 2): its first row, rows
    members: NDArray[np.int64]  # (entry, phases): places in the kernel, -1 beyond the last
    addresses: NDArray[np.int64]  # of the arrays above, at the places that ``*_AT`` names; the weights' are filled in later
    pack_tasks: int
    weights: int  # elements of the packed weights
    reads_raw: bool  # weights that are used once are read from where the caller has them
    once: NDArray[np.int64]  # the addresses for weights that are used once
    record_once: NDArray[Any]
    row_heights: NDArray[np.int64]  # (table, tile): heights of the tiles that a panel's rows of taps are cut into, then zeros


def _cost(height: int) -> float:
    return height * _TILE_COST[height]


@lru_cache(maxsize=256)
def heights(channels: int) -> tuple[int, ...]:
    """The cheapest cut of ``channels`` rows into tile heights, tallest first."""
    whole, rest = divmod(channels, simd.TALL)
    if whole and rest:
        whole, rest = whole - 1, rest + simd.TALL  # 12 + 4 may be better off as 8 + 8
    best: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    for left in range(1, rest + 1):
        best.append(min((_cost(h) + best[left - h][0] + 0.01, (h, *best[left - h][1])) for h in simd.HEIGHTS if h <= left))
    return (simd.TALL,) * whole + tuple(sorted(best[rest][1], reverse=True))


def _strides(shape: tuple[int, ...], channels_last: bool) -> tuple[int, int, int, int, int]:
    """Elements between neighbours along n, c, z, y, x of a dense (n, c, z, y, x) array."""
    _, c, z, y, x = shape
    if channels_last:
        return (c * z * y * x, 1, y * x * c, x * c, c)
    return (c * z * y * x, z * y * x, y * x, x, 1)


def _round(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def packed_length(positions: int, span: int, lanes: int) -> int:
    """Elements of one channel's packed line: an odd number of vectors, so that channels do not share cache sets."""
    return (-(-(positions + span) // lanes) | 1) * lanes


class _Job(NamedTuple):
    row_phase: int
    first_phase: int  # -1: rows of taps, of all phases along x
    entries: tuple[tuple[tuple[int, ...], int, int, int], ...]  # places in the kernel, shifts along z, y, x


class _Work(NamedTuple):
    """A problem as the cuts see it."""

    batch: int
    c_in: int
    c_out: int
    groups: int
    size: int
    lanes: int
    x: Axis
    y: Axis
    z: Axis
    positions: int
    span: int
    jobs: tuple[_Job, ...]
    fold: int
    offsets: list[int]  # from a tap's input to its outputs on the line; of rows of taps, the smallest along x
    reach: int
    near: int


class _Cut(NamedTuple):
    over_pixels: bool
    panels: list[tuple[int, int, int]]
    positions: int
    task_panels: int
    rows: int
    groups: int
    block: int
    tasks: int
    cycles: float
    chunk: int = 0


def distance(problem: Problem) -> int:
    """How far the output lies: 0 where the second-level cache may hold it, 1 where others may, 2 in memory."""
    out_bytes = problem.itemsize * problem.batch * problem.c_out * problem.out_pixels
    return int(out_bytes > FAR_BYTES) + int(out_bytes > BEYOND_BYTES)


@lru_cache(maxsize=512)
def layout(problem: Problem, threads: int) -> Layout:
    """The plan of work on a number of threads, for channels-first memory.

    Which way the vectors run and the order of a sum's products do not depend on the threads, so that results do not either.
    """
    alone = _layout(problem, 1, _fold(problem.geometry, simd.VECTOR_BYTES // problem.itemsize))
    if threads == 1 or alone.cycles < ALONE_CYCLES:
        return alone
    s = alone.shape
    return _layout(problem, threads, s.fold, OVER_ROWS if s.chunk else s.over_pixels)


@lru_cache(maxsize=512)
def one_shot_layout(problem: Problem, threads: int) -> Layout:
    """The plan for weights that are used once: over channels also where reading them in place outweighs slower tiles."""
    found = layout(problem, threads)
    if not found.shape.over_pixels or found.shape.merged or found.shape.chunk or found.weights < FEW_WEIGHTS:
        return found
    alone = layout(problem, 1)
    other = _layout(problem, 1, 1, OVER_CHANNELS)
    if not other.reads_raw or other.cycles + preparation_cycles(other) > alone.cycles + preparation_cycles(alone):
        return found
    return other if threads == 1 else _layout(problem, threads, 1, OVER_CHANNELS)


def preparation_cycles(found: Layout) -> float:
    """Cycles of one thread that a call with weights that are used once spends on them."""
    return found.weights * (RAW_CYCLES if found.reads_raw else REPACK_CYCLES)


def reordered(found: Layout, problem: Problem, x_last: bool, out_last: bool) -> Layout:
    """The same work on channels-last memory of the input, of the output, or of both."""
    if not (x_last or out_last):
        return found
    g, s = problem.geometry, found.shape
    shape = s._replace(flat=s.flat * (not x_last), far=s.far * (not out_last))
    x = _strides((g.n, g.c_in, g.iz, g.iy, g.ix), x_last)
    out = _strides((g.n, g.c_out, g.oz, g.oy, g.ox), out_last)
    shape = shape._replace(
        x_n=x[0], x_c=x[1], x_z=x[2], x_y=x[3], x_x=x[4], out_n=out[0], out_c=out[1], out_z=out[2], out_y=out[3],
        out_x=out[4] * s.fold, out_r=out[4],
    )  # fmt: skip
    record = np.array([tuple(shape)], RECORD)
    addresses = found.addresses.copy()
    addresses[RECORD_AT] = record.ctypes.data
    return found._replace(shape=shape, record=record, addresses=addresses)


def _fold(g: Geometry, lanes: int) -> int:
    """The stride along x where its phases fill whole vectors and every tap has one of each; else 1."""
    block = 2 * lanes
    fits = g.sx % block == 0 and g.dx == 1 and not (g.kx % g.sx or g.px % g.sx or g.ox % g.sx)
    return g.sx if fits and g.ix > 1 else 1


def _layout(problem: Problem, threads: int, fold: int, way: int | None = None) -> Layout:
    g, lanes = problem.geometry, simd.VECTOR_BYTES // problem.itemsize
    z = _axis(g.iz, g.kz, g.sz, g.pz, g.dz, g.oz)
    y = _axis(g.iy, g.ky, g.sy, g.py, g.dy, g.oy)
    x = uncropped = _axis(g.ix, g.kx // fold, g.sx // fold, g.px // fold, g.dx, g.ox // fold)
    c_in, c_out = g.c_in // g.groups, g.c_out // g.groups * fold
    merged = fold == 1 and c_out <= 2 and c_in > 1 and _can_merge(x, c_out)
    crop = g.px % g.sx if merged and x.stride == g.sx else 0
    if crop:
        aligned = _axis(g.ix, g.kx, g.sx, g.px - crop, g.dx, g.ox + crop)
        if _can_merge(aligned, c_out) and _merged_cost(aligned, c_out) < _merged_cost(x, c_out):
            x = aligned
        else:
            crop = 0
    work = _work(g, c_in, c_out, lanes, x, y, z, _jobs(g, x, y, z, fold, merged), fold)
    ways = (OVER_CHANNELS,) if fold > 1 else (OVER_PIXELS,) if merged else (OVER_PIXELS, OVER_CHANNELS)
    possible = [(work, _cut(work, threads, own == OVER_PIXELS)) for own in ways if way in (None, own)]
    if way in (None, OVER_ROWS) and _has_rows(uncropped, c_in, c_out, fold):
        rows_of_taps = _work(g, c_in, c_out, lanes, uncropped, y, z, _row_jobs(g, uncropped, y, z), fold)
        possible.append((rows_of_taps, _row_cut(rows_of_taps, threads)))
    cuts = [(own, candidate) for own, candidate in possible if candidate]
    if not cuts:
        return _layout(problem, threads, 1)
    work, cut = min(cuts, key=lambda candidate: candidate[1].cycles)
    if cut.chunk:
        x, merged, crop = uncropped, False, 0
    jobs, positions, span, offsets, reach = work.jobs, work.positions, work.span, work.offsets, work.reach
    found = [entry for job in jobs for entry in job.entries]
    per_row = max(1, max(sum(job.row_phase == r for job in jobs) for r in range(z.stride * y.stride)))
    flat = span == 0 and (x.pitch, y.pitch, z.pitch) == (x.data, y.data, z.data) == (g.ix, g.iy, g.iz)
    phases = x.stride * y.stride * z.stride
    far = distance(problem)
    if far == 1 and sum(len(places) for places, *_ in found) * c_in < FETCHING_STEPS * phases:
        far = 0
    out_n, out_c, out_z, out_y, out_x = _strides((g.n, g.c_out, g.oz, g.oy, g.ox), False)
    members = _members(found)
    pack_block = max(1, min(16, 16384 // (problem.itemsize * cut.panels[0][1] * problem.taps // fold)))
    # of one phase's taps; of all taps where they are read from the caller's memory
    depth, raw_depth = (
        c_in if cut.over_pixels else max(16, CHANNELS_BYTES // (problem.itemsize * max(1, entries) * cut.panels[0][1]))
        for entries in (max(len(job.entries) for job in jobs), len(found))
    )
    shape = Shape(
        g.n, c_in, c_out, g.groups, int(cut.over_pixels), fold, int(flat), int(merged), crop, far, positions, span, reach,
        x.pitch, y.pitch, z.pitch, x.width, y.width, z.width, x.first, y.first, z.first, x.data, y.data, z.data, x.stride,
        y.stride, z.stride, g.ox // fold, g.oy, g.oz, problem.taps, sum(len(places) for places, *_ in found), len(found),
        per_row, len(cut.panels), cut.positions, cut.task_panels, cut.rows, cut.groups, cut.block,
        *_strides((g.n, g.c_in, g.iz, g.iy, g.ix), False), out_n, out_c, out_z, out_y, out_x * fold, 1,
        members.shape[1], pack_block, depth, 0, simd.native_transpose(problem.dtype).address,
        simd.native_rows(problem.dtype, x.stride).address, cut.chunk, _carry(work), work.near,
    )  # fmt: skip
    sizes = sorted({height for _, height, _ in cut.panels})
    record = np.array([tuple(shape)], RECORD)
    panels = _table([(start, height, count, sizes.index(height)) for start, height, count in cut.panels], 4)
    job_table = _job_table(jobs, z.stride * y.stride, per_row)
    if cut.chunk:
        for jobs_of_row in job_table:
            jobs_of_row[:, 2] = [offsets[job[0]] if job[1] else 0 for job in jobs_of_row]
        taps, rows = _row_tables(x)
    else:
        taps = _tap_tables(found, offsets, sizes, c_in, reach)
        rows = _table([entry[1:3] for entry in found], 2)
    row_heights = _height_table([members.shape[1] * height for height in sizes] if cut.chunk else [])
    addresses = np.zeros(HEIGHTS_AT + 1, np.int64)
    addresses[TILE_AT] = simd.native_sum_taps(problem.dtype).address
    addresses[[RECORD_AT, PANELS_AT, JOBS_AT, TAPS_AT, ROWS_AT, MEMBERS_AT, HEIGHTS_AT]] = [
        array.ctypes.data for array in (record, panels, job_table, taps, rows, members, row_heights)
    ]
    # elsewhere the same weights would be read by several tasks
    reads_raw = not cut.over_pixels and cut.positions >= positions and cut.rows == z.stride * y.stride
    record_once = np.array([tuple(shape._replace(raw=int(reads_raw), depth=raw_depth))], RECORD)
    once = addresses.copy()
    once[RECORD_AT] = record_once.ctypes.data
    return Layout(
        shape, record, lanes, cut.tasks if g.n else 0, threads == 1, cut.cycles, panels, job_table, taps, rows, members,
        addresses, g.groups * len(cut.panels) * -(-c_in // pack_block), g.groups * shape.taps * c_in * int(panels[:, 1].sum()),
        reads_raw, once, record_once, row_heights,
    )  # fmt: skip


def _work(
    g: Geometry, c_in: int, c_out: int, lanes: int, x: Axis, y: Axis, z: Axis, jobs: tuple[_Job, ...], fold: int
) -> _Work:
    offsets = [
        (shift_z * y.pitch + shift_y) * x.pitch + shift_x for job in jobs for _, shift_z, shift_y, shift_x in job.entries
    ]
    shifts = [shift for _, _, shift in x.taps] or [0]
    rows_of_taps = any(job.first_phase < 0 for job in jobs)
    near = max(shifts) - min(shifts) if rows_of_taps else 0
    reach = max(offsets, default=0) + near
    positions = (((max(1, g.n) - 1) * z.pitch + z.width - 1) * y.pitch + y.width - 1) * x.pitch + x.width
    return _Work(
        g.n, c_in, c_out, g.groups, simd.VECTOR_BYTES // lanes, lanes, x, y, z, positions, reach - min(offsets, default=reach),
        jobs, fold, offsets, reach, near,
    )  # fmt: skip


def _table(values: Any, *tail: int) -> NDArray[np.int64]:
    return np.array(values, np.int64).reshape(-1, *tail)


def _job_table(jobs: tuple[_Job, ...], row_phases: int, per_row: int) -> NDArray[np.int64]:
    table = np.zeros((row_phases, per_row, 4), np.int64)
    filled = [0] * row_phases
    entry = 0
    for job in jobs:
        phases = len(job.entries[0][0]) if job.entries else 1
        table[job.row_phase, filled[job.row_phase]] = entry, len(job.entries), job.first_phase, phases
        filled[job.row_phase] += 1
        entry += len(job.entries)
    return table


def _tap_tables(
    found: list[tuple[tuple[int, ...], int, int, int]], offsets: list[int], sizes: list[int], c_in: int, reach: int
) -> NDArray[np.int64]:
    before = np.cumsum([0] + [len(places) for places, *_ in found])[: len(found)]
    tables = np.zeros((len(sizes), len(found), 2), np.int64)
    for table, height in zip(tables, sizes):
        table[:, 0] = before * c_in * height
        table[:, 1] = reach - np.array(offsets, np.int64)
    return tables


def _members(found: list[tuple[tuple[int, ...], int, int, int]]) -> NDArray[np.int64]:
    members = np.full((len(found), max((len(places) for places, *_ in found), default=1)), -1, np.int64)
    for row, (places, *_) in zip(members, found):
        row[: len(places)] = places
    return members


def _by_shift(x: Axis) -> dict[int, list[tuple[int, int]]]:
    """shift -> its (phase, kernel index), by phase."""
    found: dict[int, list[tuple[int, int]]] = {}
    for k, phase, shift in x.taps:
        found.setdefault(shift, []).append((phase, k))
    return {shift: sorted(own) for shift, own in found.items()}


def _can_merge(x: Axis, c_out: int) -> bool:
    """Whether the phases that read one pixel are neighbours, and few enough for a tile."""
    for own in _by_shift(x).values():
        phases = [phase for phase, _ in own]
        if phases != list(range(phases[0], phases[0] + len(phases))) or len(phases) * c_out not in simd.HEIGHTS:
            return False
    return True


def _merged_cost(x: Axis, c_out: int) -> float:
    """Cycles of a step of all tiles of phases that read one pixel."""
    return sum(_cost(len(own) * c_out) for own in _by_shift(x).values())


def _jobs(g: Geometry, x: Axis, y: Axis, z: Axis, fold: int, merged: bool) -> tuple[_Job, ...]:
    """What a row phase computes: each phase along x with its taps, or each run of phases with the taps that they share."""
    runs: dict[tuple[int, int], list[tuple[tuple[int, ...], int]]] = {}
    if merged:
        for shift, own in sorted(_by_shift(x).items()):
            runs.setdefault((own[0][0], len(own)), []).append((tuple(k for _, k in own), shift))
    else:
        runs = {(phase, 1): [((k,), shift) for k, own, shift in x.taps if own == phase] for phase in range(x.stride)}

    def taps_of(axis: Axis, phase: int) -> list[tuple[int, int]]:
        return [(k, shift) for k, own, shift in axis.taps if own == phase]

    jobs = []
    for rz, ry in product(range(z.stride), range(y.stride)):
        rows = list(product(taps_of(z, rz), taps_of(y, ry)))
        for (first_phase, _), columns in runs.items():
            entries = [
                (tuple((kz * g.ky + ky) * g.kx + kx * fold for kx in places), shift_z, shift_y, shift)
                for (kz, shift_z), (ky, shift_y) in rows
                for places, shift in columns
            ]
            jobs.append(_Job(rz * y.stride + ry, first_phase, tuple(entries)))
    return tuple(jobs)


def _phase_costs(w: _Work) -> NDArray[np.float64]:
    """Multiply-adds per output vector of a row of unit height, for each row phase, in input channels."""
    costs = np.zeros(w.z.stride * w.y.stride)
    for job in w.jobs:
        for places, *_ in job.entries:
            rows = len(places)
            # a tile of a merged job is as tall as the phases and channels that share it
            costs[job.row_phase] += _cost(rows * w.c_out) / w.c_out if rows > 1 else 1.0
    return costs


def _pixel_panels(w: _Work) -> tuple[list[tuple[int, int, int]], list[float]]:
    panels, start = [], 0
    for height in heights(w.c_out):
        panels.append((start, height, height))
        start += height
    merged = any(len(places) > 1 for job in w.jobs for places, *_ in job.entries)
    return panels, [float(height) if merged else _cost(height) for _, height, _ in panels]


def _channel_panels(w: _Work) -> list[tuple[int, int, int]]:
    vectors = 2 if w.x.width >= 8 or w.fold > 1 else simd.WIDE
    while vectors > 1 and vectors // 2 * w.lanes >= w.c_out:
        vectors //= 2
    block = vectors * w.lanes
    return [(start, block, min(block, w.c_out - start)) for start in range(0, w.c_out, block)]


def _cut(w: _Work, threads: int, over_pixels: bool) -> _Cut | None:
    """Panels and the division into tasks that ends first on ``threads``; None where the layout can't hold the problem."""
    phase_costs = _phase_costs(w)
    image = w.z.pitch * w.y.pitch * w.x.pitch
    if over_pixels:
        panels, costs = _pixel_panels(w)
        step = 2 * w.lanes
        room = PACKED_BYTES // (w.size * w.c_in) - w.span
        few = room if w.c_in == w.c_out == 1 else 16 * step
        most = max(step, min(_round(w.positions, step), room // step * step, few))
        block = max(1, min(w.c_in, LIMIT_BYTES // (w.size * packed_length(most, w.span, w.lanes))))
    else:
        panels = _channel_panels(w)
        # multiply-adds per tap and input channel of an image's rows that meet an input row
        met = sum(map(_cost, heights(w.x.width))) * _met_share(w.z) * _met_share(w.y) * w.z.width * w.y.width
        costs = [1.05 * met * panels[0][1] / w.lanes] * len(panels)
        step = image
        limit = PACKED_BYTES * (4 if w.fold > 1 else 3) // 2
        images = limit // (
            w.size * max(w.c_in * packed_length(image, 0, w.lanes), w.x.stride * image * panels[0][1] * len(phase_costs))
        )
        if w.size * w.c_in * packed_length(image, w.span, w.lanes) > limit:
            return None
        most, block = image * max(1, min(images, w.batch)), w.c_in
    store = 0.3 if w.fold > 1 else STORE_CYCLES[over_pixels]
    fewest = -(-w.positions // most)
    best: _Cut | None = None
    for wanted in {fewest, fewest + 1, *(_round(fewest, m * threads) for m in (1, 2, 4))}:
        task = _round(-(-w.positions // wanted), step)
        pieces = -(-w.positions // task)
        sizes = np.full(pieces, task)
        sizes[-1] = w.positions - (pieces - 1) * task
        units = -(-sizes // (w.lanes if over_pixels else image))
        for panel_parts in {1, 2, threads, 2 * threads, 4 * threads}:
            task_panels = -(-len(panels) // panel_parts)
            panel_costs = np.add.reduceat(costs, range(0, len(panels), task_panels))
            stored = np.add.reduceat([count for *_, count in panels], range(0, len(panels), task_panels))
            for row_parts in {1, 2, min(len(phase_costs), threads), len(phase_costs)}:
                task_rows = -(-len(phase_costs) // row_parts)
                parts = range(0, len(phase_costs), task_rows)
                row_costs = np.add.reduceat(phase_costs, parts)
                phases = np.add.reduceat(np.full(len(phase_costs), w.x.stride), parts)
                work = (
                    panel_costs[:, None, None] * units[:, None] * row_costs * w.c_in
                    + stored[:, None, None] * sizes[:, None] * phases * store * (1 if task_rows == len(phase_costs) else 2)
                    + w.c_in * (sizes[:, None] + w.span) * _pack_cycles(w) + TASK_CYCLES
                )  # fmt: skip
                task_groups = max(1, min(w.groups, w.groups * work.size // (4 * threads)))
                cycles = busiest(np.tile(work.reshape(-1), -(-w.groups // task_groups)) * task_groups, threads)
                if best is None or cycles < best.cycles:
                    tasks = work.size * -(-w.groups // task_groups)
                    best = _Cut(over_pixels, panels, task, task_panels, task_rows, task_groups, block, tasks, cycles)
    return best


def _has_rows(x: Axis, c_in: int, c_out: int, fold: int) -> bool:
    """Whether the taps along x may number the rows of a tile: several of them, few output channels, much to sum."""
    return fold == 1 and len(x.taps) > 1 and x.stride in simd.INTERLEAVED and c_out <= MOST_CHANNELS and c_in >= 4


def _row_order(x: Axis) -> list[tuple[int, int, int]]:
    """(phase, shift, place in the kernel) of the taps along x, phase by phase."""
    return sorted((phase, shift, k) for k, phase, shift in x.taps)


def _row_jobs(g: Geometry, x: Axis, y: Axis, z: Axis) -> tuple[_Job, ...]:
    """A job for each tap along z and y: all taps along x. An output meets them in the order of its input rows."""
    order = _row_order(x)
    nearest = min(shift for _, shift, _ in order)
    jobs = []
    for rz, ry in product(range(z.stride), range(y.stride)):
        own = product(*([(shift, k) for k, phase, shift in axis.taps if phase == r] for axis, r in ((z, rz), (y, ry))))
        for (shift_z, kz), (shift_y, ky) in sorted(own, reverse=True):
            places = tuple((kz * g.ky + ky) * g.kx + k for _, _, k in order)
            jobs.append(_Job(rz * y.stride + ry, -1, ((places, shift_z, shift_y, nearest),)))
    return tuple(jobs)


def _row_tables(x: Axis) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The distance of each row from the nearest one, and each phase's first row and how many it has."""
    order = _row_order(x)
    nearest = min(shift for _, shift, _ in order)
    phases = [phase for phase, _, _ in order]
    distances = _table([shift - nearest for _, shift, _ in order])
    return distances, _table([(np.searchsorted(phases, r), phases.count(r)) for r in range(x.stride)], 2)


def _height_table(rows: list[int]) -> NDArray[np.int64]:
    cuts = [heights(count) for count in rows]
    return _table([(*cut, *[0] * (MOST_ROWS - len(cut))) for cut in cuts], MOST_ROWS)


def _row_cost(rows: int) -> float:
    return sum(map(_cost, heights(rows)))


@lru_cache(maxsize=256)
def _row_panels(taps: int, channels: int) -> tuple[tuple[int, int, int], ...]:
    """The cheapest number of channels whose rows of taps are computed together, and the panels that it makes."""

    def cost(height: int) -> float:
        whole, rest = divmod(channels, height)
        return whole * _row_cost(height * taps) + _row_cost(rest * taps)

    height = min(range(1, max(1, min(channels, GOOD_ROWS // taps)) + 1), key=cost)
    return tuple((at, min(height, channels - at), min(height, channels - at)) for at in range(0, channels, height))


def _carry(w: _Work) -> int:
    """Positions of a chunk that sums of the next one's read: whole vectors of them."""
    return _round(w.near + w.lanes - 1, w.lanes)


def _row_cut(w: _Work, threads: int) -> _Cut | None:
    """``_cut`` for rows of taps. Each chunk of input is packed once; a task keeps its sums."""
    taps, phases, entries = len(w.x.taps), w.z.stride * w.y.stride * w.x.stride, len(w.jobs)
    if taps > MOST_ROWS or not entries:
        return None
    panels = list(_row_panels(taps, w.c_out))
    step = 2 * w.lanes
    rows = taps * panels[0][1]
    wide = simd.WIDE * w.lanes
    chunk = min(ROWS_BYTES // (w.size * rows), PACKED_BYTES // (w.size * w.c_in)) // wide * wide
    if chunk < 2 * wide:
        return None
    of_row, of_sum = ROWS_CYCLES
    costs = [
        entries
        * (
            _row_cost(taps * height) * w.c_in
            + of_row * taps * height
            + of_sum * w.x.stride * height
            + CALL_CYCLES * len(heights(taps * height)) * w.lanes / chunk
        )
        for _, height, _ in panels
    ]
    best: _Cut | None = None
    for panel_parts in {1, 2, threads, 2 * threads, len(panels)}:
        task_panels = -(-len(panels) // panel_parts)
        firsts = range(0, len(panels), task_panels)
        panel_costs = np.add.reduceat(costs, firsts)
        stored = np.add.reduceat([count for *_, count in panels], firsts)
        most = max(step, SUMS_BYTES // (w.size * phases * int(stored.max())) // step * step)
        fewest = -(-w.positions // most)
        for wanted in {fewest, fewest + 1, *(_round(fewest, m * threads) for m in (1, 2, 4))}:
            task = _round(-(-w.positions // wanted), step)
            pieces = -(-w.positions // task)
            sizes = np.full(pieces, task)
            sizes[-1] = w.positions - (pieces - 1) * task
            units = -(-(sizes + w.near) // w.lanes) + 0.5
            work = (
                panel_costs[:, None] * units + stored[:, None] * sizes * phases * STORE_CYCLES[True]
                + w.c_in * (sizes + w.span) * _pack_cycles(w) + TASK_CYCLES
            )  # fmt: skip
            task_groups = max(1, min(w.groups, w.groups * work.size // (4 * threads)))
            cycles = busiest(np.tile(work.reshape(-1), -(-w.groups // task_groups)) * task_groups, threads)
            if best is None or cycles < best.cycles:
                tasks = work.size * -(-w.groups // task_groups)
                row_phases = w.z.stride * w.y.stride
                best = _Cut(True, panels, task, task_panels, row_phases, task_groups, w.c_in, tasks, cycles, chunk)
    return best


def busiest(tasks: NDArray[np.float64], threads: int) -> float:
    """Cycles of the thread with most work: Numba gives each one run of tasks, the first ones one more."""
    whole, more = divmod(len(tasks), threads)
    starts = [i * whole + min(i, more) for i in range(min(threads, len(tasks)))]
    return float(np.add.reduceat(tasks, starts).max())


def _pack_cycles(w: _Work) -> float:
    pixels = w.batch * w.z.data * w.y.data * w.x.data
    return PACK_CYCLES[w.size * w.groups * w.c_in * pixels > FAR_BYTES]


def _met_share(axis: Axis) -> float:
    """The part of an axis' (element, tap) pairs whose input pixel exists."""
    pairs = sum(max(0, min(axis.width, shift + axis.data) - max(0, shift)) for _, _, shift in axis.taps)
    return pairs / max(1, len(axis.taps) * axis.width)


def workspace_elements(found: Layout) -> int:
    """Elements that a task holds, as ``phase`` allocates them: packed input and sums."""
    s, lanes = found.shape, found.lanes
    padded = _round(min(s.positions, s.task_positions), lanes)

    def runs(part: int) -> int:
        """Elements of the lists of rows that its parts write, 64-bit numbers."""
        rows = s.task_rows * (padded // s.pitch + 3 * -(-padded // part))
        return rows * simd.RUN_FIELDS * 8 * lanes // simd.VECTOR_BYTES

    packed = s.block * packed_length(padded, s.span, lanes) + 4 * lanes
    if not s.over_pixels:
        images = -(-padded // (s.pz * s.py * s.pitch))
        block = int(found.panels[0, 1])
        near = s.entries * (int(found.record_once["depth"][0]) * block + lanes) if found.reads_raw else 0
        return packed + s.task_rows * images * s.wz * s.wy * s.wx * s.sx * block + near
    if s.chunk:
        members = s.members
        most = max(int(found.panels[i : i + s.task_panels, 1].sum()) for i in range(0, s.panels, s.task_panels))
        return (
            s.c_in * packed_length(s.chunk, 0, lanes)
            + members * int(found.panels[0, 1]) * packed_length(s.chunk, s.carry, lanes)
            + s.entries * members * most * s.carry + s.sz * s.sy * s.sx * most * packed_length(padded, 0, lanes)
            + runs(padded)
        )  # fmt: skip
    if s.c_in == s.c_out == 1:
        rows = packed_length(padded, s.span, lanes) // s.pitch + 2
        return packed + s.sx * PART * lanes + lanes + 8 * rows * (1 + s.task_rows)  # and two lists of rows
    if s.block == s.c_in:
        return packed + s.sx * simd.TALL * PART * lanes + lanes + runs(PART * lanes)
    rows = max(int(found.panels[i : i + s.task_panels, 1].sum()) for i in range(0, s.panels, s.task_panels))
    return packed + s.sx * rows * padded + lanes + runs(padded)
