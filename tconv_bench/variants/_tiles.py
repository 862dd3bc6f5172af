"""How a problem is cut into tiles on CUDA: its phases and taps, the tile, and the parts of a sum; plain Python, no GPU needed.

The choice is made by ``cost``, a model of what a GPU's processors (SMs) do with the blocks: they issue instructions, one a
cycle and scheduler; a step takes at least the time of a read from memory, which few blocks cannot hide; blocks come in waves,
of which the last may be short; all bytes pass the second-level cache and memory. Its constants are an H100's data sheet's and
those of the kernels' machine code; none was fitted to a measurement.

Source: NVIDIA, CUTLASS, "Efficient GEMM in CUDA" (threadblock, warp and thread tiles; split-K); Osama et al., "Stream-K", PPoPP
2023, section 2 (waves and their quantisation).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from math import ceil, prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tconv_bench.problem import Problem

ROW_FIELDS, PHASE_FIELDS, TAP_FIELDS = 5, 11, 4
MOST_ROWS = 8192  # of phases as rows: beyond, their table is larger than it saves
MOST_SPLITS = 64
LEAST_STEPS = 4  # of a part
MOST_WAVES = 2  # of blocks whose sums are cut

# Of an H100 or H200 (data sheets), but for the latency, which is what others measured there, and the launch.
CLOCK = 1.7e9
BANDWIDTH, CACHE_BANDWIDTH = 3.3e12, 5.5e12
SCHEDULERS, REGISTERS, WARPS, SHARED_BYTES, BLOCKS = 4, 65536, 64, 227 * 1024, 32
LATENCY = 900  # cycles from a step's read to its store
READ = 60  # cycles of a read that hits the first or second cache, half of them hidden
LAUNCH = 3e-6  # seconds
RATES = {"float16": 1, "float32": 1, "float64": 2}  # cycles of a warp's multiply-add: a processor has half as many for float64


class Tile(NamedTuple):
    """Rows and pixels of a block, input channels of a step, sums of a thread, and a warp's threads along pixels and rows."""

    BM: int
    BN: int
    BK: int
    TM: int
    TN: int
    WX: int
    WY: int

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.BM // self.TM * (self.BN // self.TN)

    @property
    def constants(self) -> dict[str, int]:
        """What the kernel reads of the tile."""
        threads, stage = self.threads, self.BK * (self.BM + self.BN)
        pixels, c_step = max(1, self.BN // threads), max(1, threads // self.BN)
        lanes, line = self.WX * self.WY, self.WX * self.TN
        a_loads = -(-self.BK * self.BM // (4 * threads))
        round_ = max(n for n in (1, 2, 4, 8) if self.TM % n == 0 and n * threads * self.TN <= 2 * stage)
        return {
            **self._asdict(),
            "THREADS": threads,
            "LANES": lanes,
            "PIXELS": pixels,
            "C_STEP": c_step,
            "SUMS": self.TM * self.TN,
            "A_LOADS": a_loads,
            "A_VALUES": 4 * a_loads,
            "B_LOADS": self.BK // c_step,
            "B_VALUES": pixels * self.BK // c_step,
            "A_IS_EVEN": int(4 * threads * a_loads == self.BK * self.BM),
            "STAGE": stage,
            "MEMORY": 2 * stage,
            "ROUND": round_,
            "LINE": line,
            "STORED": max(1, line // lanes),
            "PASSES": round_ * self.WY // max(1, lanes // line),
            "A_STRIP": 4 * self.WY,
            "B_STRIP": 4 * self.WX,
        }

    @property
    def bound(self) -> int:
        """Blocks per processor to ask the compiler for; 0 where that made it spill."""
        return self.resident(1) if self.TM * self.TN == 64 and self.constants["PIXELS"] == 1 else 0

    @property
    def unbound(self) -> tuple[str, ...]:
        """Dtypes to ask for no number of blocks in: float16 spilled 148 bytes of 64 x 64 on compute capability 8.0."""
        return ("float16", "float64") if (self.BM, self.BN) == (64, 64) else ("float64",)

    def instructions(self, rate: int) -> int:
        """Issue slots of a warp's step: multiply-adds, reads of shared memory, and what brings the next step in."""
        c = self.constants
        reads = (self.TM + self.TN) // 4 * rate
        return self.BK * (self.TM * self.TN * rate + reads) + 5 * c["PIXELS"] * c["B_LOADS"] + 3 * c["A_LOADS"] + 30

    def resident(self, rate: int) -> int:
        """Blocks that fit on a processor at once."""
        registers = (self.TM * self.TN * rate + (64 if self.constants["PIXELS"] == 1 else 104)) * self.threads
        shared = self.constants["MEMORY"] * 4 * rate + 1024
        return max(1, min(BLOCKS, REGISTERS // registers, WARPS * 32 // self.threads, SHARED_BYTES // shared))


SINGLE = (
    Tile(128, 128, 8, 8, 8, 8, 4),
    Tile(128, 64, 8, 8, 8, 8, 4),
    Tile(64, 128, 8, 8, 8, 8, 4),
    Tile(64, 64, 8, 8, 8, 8, 4),
    Tile(32, 128, 8, 8, 8, 8, 4),
    Tile(128, 32, 8, 8, 4, 8, 4),
    Tile(128, 16, 8, 8, 4, 4, 8),
    Tile(16, 256, 8, 4, 8, 8, 4),
    Tile(4, 128, 8, 4, 4, 32, 1),
)
DOUBLE = (Tile(64, 64, 8, 8, 4, 8, 4), Tile(128, 16, 8, 8, 4, 4, 8), Tile(16, 128, 8, 4, 4, 8, 4))
SIMULATED = (Tile(16, 8, 2, 8, 4, 2, 1), Tile(8, 16, 2, 4, 4, 2, 2))  # few threads, each of which takes the simulator 2 ms


class Phases(NamedTuple):
    """An axis' phases, or all of them as the rows of one."""

    first: int  # output of pixel 0 and row 0, may be negative
    pixels: int
    fold: int  # phases that are rows
    taps: list[tuple[tuple[int, ...], int]]  # per shift of the input: the tap of each row, -1 where it has none


def separate(i: int, k: int, s: int, p: int, d: int, o: int) -> list[Phases]:
    """The phases of one axis: how many outputs each has, and the taps that can reach one of them from inside the input."""
    return [_phases(phase, -(-(o - phase) // s), 1, i, k, s, p, d) for phase in range(min(s, o))]


def folded(i: int, k: int, s: int, p: int, d: int, o: int) -> list[Phases]:
    """The phases of one axis as rows of one: output ``s*j + phase - off``, with the ``off`` that needs the fewest shifts.

    Where the kernel's size is a multiple of the stride, and it is not dilated, every row has a tap for every shift.
    """
    if s == 1:
        return separate(i, k, s, p, d, o)
    found = [_phases(-off, -(-(o + off) // s), s, i, k, s, p, d) for off in range(s)]
    return [min(found, key=lambda phases: (len(phases.taps), phases.pixels))]


def _phases(first: int, pixels: int, fold: int, i: int, k: int, s: int, p: int, d: int) -> Phases:
    taps: dict[int, list[int]] = {}
    for row, tap in product(range(fold), range(k)):
        shift, off = divmod(first + row + p - tap * d, s)
        if off == 0 and -pixels < shift < i:
            taps.setdefault(shift, [-1] * fold)[row] = tap
    return Phases(first, pixels, fold, [(tuple(rows), shift) for shift, rows in sorted(taps.items(), reverse=True)])


@dataclass(frozen=True)
class Cut:
    """A problem's phases, without a tile."""

    problem: Problem
    phases: tuple[tuple[Phases, Phases, Phases], ...]  # along z, y, x; those with the most taps first

    @cached_property
    def fold(self) -> int:
        """Phases that are rows."""
        return prod(axis.fold for axis in self.phases[0])

    @cached_property
    def rows(self) -> int:
        """Rows of a group."""
        return self.problem.c_out // self.problem.groups * self.fold

    @cached_property
    def sizes(self) -> list[tuple[int, int]]:
        """Pixels of all images, and taps, per phase."""
        n = self.problem.batch
        return [(n * prod(a.pixels for a in axes), prod(len(a.taps) for a in axes)) for axes in self.phases]


def cuts(problem: Problem) -> list[Cut]:
    """The ways to see a problem's phases: apart, and some axes' as rows."""
    g = problem.geometry
    axes = list(zip(g[4:7], g[7:10], g[10:13], g[13:16], g[16:19], g[19:22]))
    found = [Cut(problem, _ordered([separate(*sizes) for sizes in axes]))]
    c_out = problem.c_out // problem.groups
    for rows in range(2, -1, -1):  # x alone, then y and x, then all
        strides = prod(g[10 + rows : 13])
        if g[10 + rows] > 1 and c_out * strides <= MOST_ROWS:
            found.append(Cut(problem, _ordered([(folded if axis >= rows else separate)(*s) for axis, s in enumerate(axes)])))
    return found


def _ordered(axes: list[list[Phases]]) -> tuple[Any, ...]:
    """All combinations that have an output; long sums first, so that none of them begins last."""
    combined = [axes for axes in product(*axes) if all(axis.pixels for axis in axes)]
    return tuple(sorted(combined, key=lambda axes: -prod(len(axis.taps) for axis in axes)))


class Layout(NamedTuple):
    """How a problem is cut up.

    ``tables`` holds, per row, its channel, where it lies in the output and its phase along z, y and x; per phase its first tap,
    taps, pixels along z, y and x, first output along z, y and x, and rows' phases along z, y and x; per tap its shift along z,
    y and x, and what they come to in x; and from ``order_at`` on, per tap, its number in the kernel for each of the rows'
    phases, -1 where that has none.
    """

    tile: Tile
    tables: NDArray[np.int32]
    order_at: int
    rows: int
    fold: int
    row_blocks: int
    pixel_blocks: int
    phases: int
    entries: int
    chunks: int
    splits: int
    groups: int
    seconds: float

    @property
    def packed_size(self) -> int:
        """Elements of the packed weights."""
        return self.groups * self.row_blocks * self.entries * self.chunks * self.tile.BK * self.tile.BM

    @property
    def blocks(self) -> int:
        """Blocks of the launch."""
        return self.row_blocks * self.pixel_blocks * self.splits * self.groups * self.phases


def seconds_of(problem: Problem, processors: int, products: float, slots: float, chain: float, moved: float) -> float:
    """Predicted seconds of a kernel without tiles: a launch, and the longest of three.

    Args:
        problem: for its dtype.
        processors: of the GPU.
        products: multiply-adds of all threads.
        slots: instructions that a thread issues for each.
        chain: multiply-adds of a thread, each of which waits for its reads.
        moved: bytes to and from memory.
    """
    lanes = processors * SCHEDULERS * 32
    issued = products * (slots - 1 + RATES[problem.dtype]) / lanes
    return LAUNCH + max(issued / CLOCK, chain * READ / CLOCK, moved / BANDWIDTH * 132 / min(processors, 132))


def cost(cut: Cut, tile: Tile, splits: int, processors: int) -> float:
    """Predicted seconds of a cut, tile and number of parts on so many processors."""
    problem = cut.problem
    rate, size = RATES[problem.dtype], 8 if problem.dtype == "float64" else 4
    row_blocks, chunks = -(-cut.rows // tile.BM), -(-problem.c_in // problem.groups // tile.BK)
    each = tile.instructions(rate)
    last = (6 * tile.TM * tile.TN + 600) / each  # of storing the sums and of finding the pixels, in steps
    per_phase = [(row_blocks * -(-pixels // tile.BN) * splits * problem.groups, taps * chunks) for pixels, taps in cut.sizes]
    blocks = sum(count for count, _ in per_phase)
    steps = sum(count * (taps / splits + last) for count, taps in per_phase)
    longest = max(taps for _, taps in per_phase) / splits + last
    warps = max(1, tile.threads // 32) / SCHEDULERS
    resident = tile.resident(rate)
    waves = blocks / (processors * resident)
    if waves <= 1:
        cycles = longest * max(ceil(blocks / processors) * max(1.0, warps) * each, LATENCY)
    else:
        cycles = min(ceil(waves), waves + 0.5) * steps / blocks * max(resident * warps * each, LATENCY)
    out = prod(problem.out_shape) * (problem.itemsize if splits == 1 else size * (2 * splits + 1))
    packed = problem.groups * row_blocks * sum(taps for _, taps in cut.sizes) * chunks * tile.BK * tile.BM * size
    memory = (out + packed + prod(problem.x_shape) * problem.itemsize) / BANDWIDTH
    cache = (steps * tile.BK * (tile.BM + tile.BN) * size + out) / CACHE_BANDWIDTH
    launches = LAUNCH if splits == 1 else 2 * LAUNCH
    return launches + max(cycles / CLOCK, memory * 132 / min(processors, 132), cache * 132 / processors)


@lru_cache(1024)
def choose(problem: Problem, processors: int, tiles: tuple[Tile, ...] = ()) -> tuple[Cut, Tile, int, float]:
    """The cut, tile and number of parts of the least cost, and that cost.

    Args:
        problem: of at least one image.
        processors: of the GPU.
        tiles: to choose from; by default those of the problem's dtype.
    """
    tiles = tiles or (DOUBLE if problem.dtype == "float64" else SINGLE)
    best: tuple[Cut, Tile, int, float] | None = None
    for cut, tile in product(cuts(problem), tiles):
        chunks = -(-problem.c_in // problem.groups // tile.BK)
        longest = max(taps for _, taps in cut.sizes) * chunks
        blocks = -(-cut.rows // tile.BM) * problem.groups * sum(-(-pixels // tile.BN) for pixels, _ in cut.sizes)
        many = blocks > MOST_WAVES * processors * tile.resident(RATES[problem.dtype])  # parts would only cost memory
        splits = 1
        while splits == 1 or (not many and splits <= MOST_SPLITS and longest // splits >= LEAST_STEPS):
            seconds = cost(cut, tile, splits, processors)
            if best is None or seconds < best[3]:
                best = cut, tile, splits, seconds
            splits *= 2
    assert best is not None
    return best


@lru_cache(256)
def layout(problem: Problem, processors: int, tiles: tuple[Tile, ...] = ()) -> Layout:
    """The tables of a problem, for the cut of the least cost."""
    return tabulate(problem, *choose(problem, processors, tiles))


def tabulate(problem: Problem, cut: Cut, tile: Tile, splits: int, seconds: float) -> Layout:
    """The tables of a cut."""
    g = problem.geometry
    fold = [axis.fold for axis in cut.phases[0]]
    rows = [
        (o, o * g.oz * g.oy * g.ox + (z * g.oy + y) * g.ox + x, z, y, x)
        for o in range(g.c_out // g.groups)
        for z, y, x in product(*map(range, fold))
    ]
    phases: list[tuple[int, ...]] = []
    taps: list[tuple[int, ...]] = []
    order: list[int] = []
    for z, y, x in cut.phases:
        first = len(taps)
        for (kz, tz), (ky, ty), (kx, tx) in product(z.taps, y.taps, x.taps):
            order += [-1 if min(k) < 0 else (k[0] * g.ky + k[1]) * g.kx + k[2] for k in product(kz, ky, kx)]
            taps.append((tz, ty, tx, (tz * g.iy + ty) * g.ix + tx))
        phases.append((first, len(taps) - first, z.pixels, y.pixels, x.pixels, z.first, y.first, x.first, *fold))
    most = max(pixels for pixels, _ in cut.sizes)
    parts = [np.array(part, np.int32).reshape(-1) for part in (rows, phases, taps, order or [-1])]
    return Layout(
        tile, np.concatenate(parts), sum(map(len, parts[:3])), cut.rows, cut.fold, -(-cut.rows // tile.BM),
        max(1, -(-most // tile.BN)), len(phases), len(taps), -(-g.c_in // g.groups // tile.BK), splits, g.groups, seconds,
    )  # fmt: skip
