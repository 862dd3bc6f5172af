"""The tiled product on CUDA that phase, zero insertion and col2im sit on: an implicit GEMM for each phase of the stride.

::

    out[o, stride*j + phase] = bias[o] + sum over the taps t of the phase, and over c, of  weight[t, c, o] * x[c, j + shift[t]]

Every phase is a matrix product of its own: channels o times pixels (n, j), summed over (t, c). One launch computes all: a block
takes one tile of one phase of one group, and its sum runs over that phase's taps alone. Weights are packed as ``[group][tap,
phase after phase][c][o]``, c and o filled up with zeros to whole tiles, so that they are read 128 bits at a time and without a
bound; x is read where it lies, with a bound per tap. A step multiplies BK input channels of one tap from shared memory, in
which the next step's are put down meanwhile; a thread keeps TM x TN sums in registers. Divisions are made once per block and
once per stored pixel, none per step.

A pixel beyond the border counts as 0 and is multiplied all the same, which is wrong for a weight that is NaN or infinite. So
packing notes such a weight, the tiles then do nothing, and ``direct``'s kernel computes the outputs instead.

Source: NVIDIA, CUTLASS, "Implicit GEMM Convolution" (strided data gradient: phases in the grid, each visiting its own taps);
tiles after Volkov & Demmel, "Benchmarking GPUs to Tune Dense Linear Algebra", SC 2008.
"""

from __future__ import annotations

from itertools import product
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tconv_bench import jit_cuda
from tconv_bench.jit_cuda import REAL, Kernel, cuda
from tconv_bench.problem import Problem
from tconv_bench.ptx import divide, fma, load4, shared, store4
from tconv_bench.variants import _cuda
from tconv_bench.variants.direct import GATHER

PHASE_FIELDS, TAP_FIELDS = 8, 4
BM = BN = BK = TM = TN = THREADS = SUMS = A_LOADS = A_VALUES = B_LOADS = A_SIZE = MEMORY = (
    0  # of a tile; given where it is compiled
)


def _multiply(spoiled, g, phases, taps, x, weight, bias, out, o_blocks, pixel_blocks, chunks):
    """One tile of one phase of one group; nothing where a weight is not finite.

    Args:
        spoiled: (1,): 1 where a weight is not finite.
        g: sizes of the problem.
        phases: per phase: first tap, taps, pixels along z, y and x, and the phase along z, y and x.
        taps: per tap: shift along z, y and x, and what they come to in x.
        x, bias, out: of the problem, with one axis.
        weight: packed.
        o_blocks, pixel_blocks: tiles over a group's output channels, and over the pixels of the largest phase.
        chunks: steps per tap.
    """
    memory = shared(MEMORY, REAL)  # two A tiles of (BK, BM), then two B tiles of (BK, BN)
    sums = cuda.local.array(SUMS, REAL)
    a = cuda.local.array(TM, REAL)
    b = cuda.local.array(TN, REAL)
    next_b = cuda.local.array(B_LOADS, REAL)
    next_a = cuda.local.array(A_VALUES, REAL)
    thread = np.int64(cuda.threadIdx.x)
    rest, o_block = divide(cuda.blockIdx.x, o_blocks)
    rest, pixel_block = divide(rest, pixel_blocks)
    phase, group = divide(rest, g.groups)
    phase *= PHASE_FIELDS
    jz, jy, jx = phases[phase + 2], phases[phase + 3], phases[phase + 4]
    in_phase = jz * jy * jx
    pixels = g.n * in_phase
    if pixel_block * BN >= pixels or spoiled[0] != 0:
        return
    c_in, c_out = divide(g.c_in, g.groups)[0], divide(g.c_out, g.groups)[0]
    plane = g.iz * g.iy * g.ix
    width = o_blocks * BM

    # The pixel whose inputs this thread fetches.
    fetched = pixel_block * BN + thread % BN
    n, j = divide(min(fetched, pixels - 1), in_phase)
    z, y = divide(j, jy * jx)
    y, fx = divide(y, jx)
    first_c = thread // BN
    pixel_at = (n * g.c_in + group * c_in + first_c) * plane + (z * g.iy + y) * g.ix + fx
    tap = np.int64(phases[phase])
    packed_at = (group * g.kz * g.ky * g.kx + tap) * chunks * BK * width + o_block * BM
    packed_at += thread // (BM // 4) * width + thread % (BM // 4) * 4
    c = c_in
    x_at = pixel_at
    is_inside = False

    for i in range(SUMS):
        sums[i] = REAL(0)
    row, column = thread // (BN // TN) * 4, thread % (BN // TN) * 4
    steps = phases[phase + 1] * chunks
    left = 0
    for step in range(steps + 1):
        if step < steps:
            if left == 0:
                entry = tap * TAP_FIELDS
                iz, iy, ix = z + taps[entry], y + taps[entry + 1], fx + taps[entry + 2]
                is_inside = fetched < pixels and iz >= 0 and iz < g.iz and iy >= 0 and iy < g.iy and ix >= 0 and ix < g.ix
                x_at = pixel_at + taps[entry + 3]
                c = first_c
                tap += 1
                left = chunks
            left -= 1
            for i in range(B_LOADS):
                next_b[i] = REAL(0)
                if is_inside and c < c_in:
                    next_b[i] = x[np.uint64(x_at)]
                x_at += THREADS // BN * plane
                c += THREADS // BN
            for i in range(A_LOADS):
                if thread + i * THREADS < BK * BM // 4:
                    v0, v1, v2, v3 = load4(weight, np.uint64(packed_at + i * (4 * THREADS // BM) * width))
                    next_a[4 * i], next_a[4 * i + 1], next_a[4 * i + 2], next_a[4 * i + 3] = v0, v1, v2, v3
            packed_at += BK * width
        if step > 0:
            a_at = (step - 1) % 2 * (BK * BM) + row
            b_at = A_SIZE + (step - 1) % 2 * (BK * BN) + column
            for _ in range(BK):
                for i in range(TM // 4):
                    v0, v1, v2, v3 = load4(memory, np.uint64(a_at + i * (4 * BM // TM)))
                    a[4 * i], a[4 * i + 1], a[4 * i + 2], a[4 * i + 3] = v0, v1, v2, v3
                for i in range(TN // 4):
                    v0, v1, v2, v3 = load4(memory, np.uint64(b_at + i * (4 * BN // TN)))
                    b[4 * i], b[4 * i + 1], b[4 * i + 2], b[4 * i + 3] = v0, v1, v2, v3
                for i in range(TM):
                    for k in range(TN):
                        sums[i * TN + k] = fma(a[i], b[k], sums[i * TN + k])
                a_at += BM
                b_at += BN
        if step < steps:
            a_at = step % 2 * (BK * BM) + thread * 4
            b_at = A_SIZE + step % 2 * (BK * BN) + thread
            for i in range(A_LOADS):
                if thread + i * THREADS < BK * BM // 4:
                    values = next_a[4 * i], next_a[4 * i + 1], next_a[4 * i + 2], next_a[4 * i + 3]
                    store4(memory, np.uint64(a_at + 4 * i * THREADS), values)
            for i in range(B_LOADS):
                memory[np.uint64(b_at + i * THREADS)] = next_b[i]
            cuda.syncthreads()

    out_plane = g.oz * g.oy * g.ox
    o = o_block * BM + row
    for k in range(TN):
        pixel = pixel_block * BN + column + k // 4 * (4 * BN // TN) + k % 4
        if pixel < pixels:
            n, j = divide(pixel, in_phase)
            z, y = divide(j, jy * jx)
            y, fx = divide(y, jx)
            oz, oy, ox = z * g.sz + phases[phase + 5], y * g.sy + phases[phase + 6], fx * g.sx + phases[phase + 7]
            at = (n * g.c_out + group * c_out) * out_plane + (oz * g.oy + oy) * g.ox + ox
            for i in range(TM):
                channel = o + i // 4 * (4 * BM // TM) + i % 4
                if channel < c_out:
                    out[np.uint64(at + channel * out_plane)] = sums[i * TN + k] + bias[group * c_out + channel]


def _pack(g, order, weight, packed, spoiled, c_pad, o_pad):
    """Weights (C_in, C_out//g, taps) as [group][tap][c][o] with zeros beyond the channels; notes one that is not finite."""
    c_in, c_out = divide(g.c_in, g.groups)[0], divide(g.c_out, g.groups)[0]
    taps = g.kz * g.ky * g.kx
    at, threads = cuda.grid(1), cuda.gridsize(1)
    while at < g.groups * taps * c_pad * o_pad:
        rest, o = divide(at, o_pad)
        rest, c = divide(rest, c_pad)
        group, tap = divide(rest, taps)
        value = REAL(0)
        if c < c_in and o < c_out:
            value = weight[np.uint64(((group * c_in + c) * c_out + o) * taps + order[tap])]
            if value - value != REAL(0):
                spoiled[0] = 1
        packed[np.uint64(at)] = value
        at += threads


PACK = Kernel(_pack, "geometry i32[] T[] T[] i32[] i64 i64")


class Tile(NamedTuple):
    """Output channels and pixels of a block, input channels of a step, and what each thread multiplies of them."""

    BM: int
    BN: int
    BK: int
    TM: int
    TN: int

    @property
    def kernel(self) -> Kernel:
        """The kernel of this tile."""
        threads = self.BM // self.TM * (self.BN // self.TN)
        loads = -(-self.BK * self.BM // (4 * threads))
        constants = {
            **self._asdict(),
            "THREADS": threads,
            "SUMS": self.TM * self.TN,
            "A_LOADS": loads,
            "A_VALUES": 4 * loads,
            "B_LOADS": self.BK * self.BN // threads,
            "A_SIZE": 2 * self.BK * self.BM,
            "MEMORY": 2 * self.BK * (self.BM + self.BN),
        }
        arguments = "i32[] geometry i32[] i32[] T[] T[] T[] T[] i64 i64 i64"
        return Kernel(_multiply, arguments, threads, tuple(constants.items()), named=len(self))


LARGE, SMALL, FLAT = Tile(128, 128, 8, 8, 8), Tile(64, 64, 8, 4, 4), Tile(16, 256, 8, 4, 4)
DOUBLE = Tile(64, 64, 8, 4, 4)
SIMULATED = Tile(16, 8, 2, 4, 4)  # 8 threads, each of which takes the simulator 2 ms
KERNELS = tuple(tile.kernel for tile in (LARGE, SMALL, FLAT))
BLOCKS = 264  # two for each processor of an H100: fewer tiles than this are made smaller


class Layout(NamedTuple):
    """How a problem is cut up; the tables are those of ``_multiply``."""

    tile: Tile
    phases: NDArray[np.int32]
    taps: NDArray[np.int32]
    order: NDArray[np.int32]  # tap numbers in packed order
    o_blocks: int
    pixel_blocks: int
    chunks: int

    @property
    def packed(self) -> tuple[int, int]:
        """Input and output channels of a group in the packed weights."""
        return self.chunks * self.tile.BK, self.o_blocks * self.tile.BM

    def blocks(self, groups: int) -> int:
        """Blocks of the launch."""
        return self.o_blocks * self.pixel_blocks * groups * len(self.phases)


def layout(problem: Problem, tile: Tile | None = None) -> Layout:
    """The tables of a problem, for a tile or the one that suits it."""
    g = problem.geometry
    axes = [_axis(*sizes) for sizes in zip(g[4:7], g[7:10], g[10:13], g[13:16], g[16:19], g[19:22])]
    phases: list[tuple[int, ...]] = []
    taps: list[tuple[int, ...]] = []
    order: list[int] = []
    for z, y, x in product(*axes):
        size = z.pixels, y.pixels, x.pixels
        if not all(size):
            continue
        first = len(order)
        for (kz, tz), (ky, ty), (kx, tx) in product(z.taps, y.taps, x.taps):
            order.append((kz * g.ky + ky) * g.kx + kx)
            taps.append((tz, ty, tx, (tz * g.iy + ty) * g.ix + tx))
        phases.append((first, len(order) - first, *size, z.phase, y.phase, x.phase))
    unused = sorted(set(range(problem.taps)) - set(order))  # of phases without an output
    most = g.n * max(prod(phase[2:5]) for phase in phases)
    c_out = g.c_out // g.groups
    chosen = tile or _tile(problem, most, len(phases))
    return Layout(
        chosen,
        np.array(phases, np.int32),
        np.array(taps or [(0,) * TAP_FIELDS], np.int32),
        np.array(order + unused, np.int32),
        -(-c_out // chosen.BM),
        max(1, -(-most // chosen.BN)),
        -(-g.c_in // g.groups // chosen.BK),
    )


class _Phase(NamedTuple):
    phase: int
    pixels: int
    taps: list[tuple[int, int]]  # tap, shift


def _axis(i: int, k: int, s: int, p: int, d: int, o: int) -> list[_Phase]:
    """The phases of one axis: how many outputs each has, and the taps that can reach one of them from inside the input."""
    phases = []
    for phase in range(min(s, o)):
        pixels = -(-(o - phase) // s)
        shifts = [divmod(phase + p - tap * d, s) for tap in range(k)]
        taps = [(tap, shift) for tap, (shift, off) in enumerate(shifts) if off == 0 and -pixels < shift < i]
        phases.append(_Phase(phase, pixels, taps))
    return phases


def _tile(problem: Problem, pixels: int, phases: int) -> Tile:
    """The largest tile of which there are enough to fill a GPU, and not much larger than the channels."""
    if jit_cuda.simulated():
        return SIMULATED
    c_out = problem.c_out // problem.groups
    if problem.dtype == "float64":
        return DOUBLE if c_out > FLAT.BM else FLAT
    if c_out <= FLAT.BM:
        return FLAT
    large = -(-c_out // LARGE.BM) * -(-pixels // LARGE.BN) * phases * problem.groups
    return LARGE if c_out > SMALL.BM and large >= BLOCKS else SMALL


class State(NamedTuple):
    """Packed weights and tables on the device, and what ``direct`` needs where a weight is not finite (else None)."""

    problem: Problem
    layout: Layout
    phases: Any
    taps: Any
    packed: Any
    bias: Any
    spoiled: Any
    gathered: tuple[Any, Any] | None  # its table, and the weights as they came


def prepare(problem: Problem, weight: Any, bias: Any, stream: Any, exact: bool) -> State:
    """Tables and packed weights of a problem.

    Args:
        problem: what is computed.
        weight: device array of ``problem.weight_shape``'s elements.
        bias: device array that is kept.
        stream: orders what is launched.
        exact: whether a weight that is not finite is to reach no output but its own; the weights are then kept as they came.
    """
    cut = layout(problem)
    c_pad, o_pad = cut.packed
    packed = _cuda.empty(problem.groups * problem.taps * c_pad * o_pad, problem.dtype, stream)
    spoiled = _cuda.on_device(np.zeros(1, np.int32), stream)
    phases, taps, order = (_cuda.on_device(table.reshape(-1), stream) for table in (cut.phases, cut.taps, cut.order))
    sizes = jit_cuda.sizes(problem.geometry)
    PACK.stride_over(problem.dtype, packed.size, stream, sizes, order, _cuda.flat(weight), packed, spoiled, c_pad, o_pad)
    gathered = (_cuda.on_device(_cuda.phase_taps(problem), stream), _cuda.copied(weight, stream)) if exact else None
    return State(problem, cut, phases, taps, packed, bias, spoiled if exact else None, gathered)


def run(state: State, x: Any, out: Any, stream: Any) -> None:
    """Compute ``out``, both with one axis."""
    problem, cut = state.problem, state.layout
    sizes = jit_cuda.sizes(problem.geometry)
    spoiled = state.spoiled
    if spoiled is None:
        spoiled = _cuda.on_device(np.zeros(1, np.int32), stream)
    cut.tile.kernel.launch(
        problem.dtype, cut.blocks(problem.groups), stream, spoiled, sizes, state.phases, state.taps, x, state.packed,
        state.bias, out, cut.o_blocks, cut.pixel_blocks, cut.chunks,
    )  # fmt: skip
    if state.gathered is not None:
        table, weight = state.gathered
        GATHER.stride_over(problem.dtype, prod(problem.out_shape), stream, spoiled, sizes, table, x, weight, state.bias, out)


def prepared_bytes(problem: Problem, exact: bool) -> int:
    """Bytes that ``prepare`` keeps of weights and bias."""
    cut = layout(problem)
    kept = problem.groups * problem.taps * prod(cut.packed) + problem.c_out
    return problem.itemsize * (kept + (prod(problem.weight_shape) if exact else 0))
