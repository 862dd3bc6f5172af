"""Zero insertion: stretch the input by the stride, then convolve with the flipped kernel.

::

    stretched[c, i*stride + dilation*(K - 1) - pad] = x[c, i], 0 elsewhere, of size out + dilation*(K - 1)
    out[o, q] = bias[o] + sum over c, k of stretched[c, q + k*dilation] * weight[c, o, K - 1 - k]

Cost: ``2 * n * c_in * c_out / groups * taps * out_pixels`` operations, about stride^d times the useful ones, since most
products meet an inserted zero; and the stretched images in memory. The way the first background text of this project ends,
and what JAX's and TVM's CPU paths do. A NaN or infinity in the weights meets inserted zeros too and so spreads to outputs
whose sums it does not belong to.

On CUDA the convolution is ``_implicit_gemm``'s, without a stride.

Source: Dumoulin & Visin, arXiv:1603.07285, section 4.6 ("a convolution over the input with zeros inserted").
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any, Literal

import numpy as np
from numba import carray
from numpy.typing import NDArray

from tconv_bench import forward, jit_cuda
from tconv_bench.jit_cuda import OUT, Kernel, cuda
from tconv_bench.problem import Geometry, Problem
from tconv_bench.ptx import divide
from tconv_bench.registry import Variant, variant
from tconv_bench.variants import _blocks, _costs, _cuda, _implicit_gemm, _native, _tiles
from tconv_bench.variants._native import SIZES_AT, Work

# Fitted to the 105 rows of reports/zen4-2core (two threads): times are off by a factor of 1.28 (geometric spread).
RATES = _costs.Rates(launch=1.45e-5, cycle=3.0e-10, weight_byte=2.6e-11, out_byte=4.0e-11)
STRETCHED_BYTE = 5.2e-10  # seconds per thread to write and read a byte of stretched images
CHUNK_BYTES = 64 * 2**20  # stretched images held at once; one image where that alone is larger


def _stretched_geometry(problem: Problem) -> Geometry:
    """The plain convolution that follows: its input is the stretched and padded image."""
    g = problem.geometry
    size = {
        "iz": g.oz + (g.kz - 1) * g.dz,
        "iy": g.oy + (g.ky - 1) * g.dy,
        "ix": g.ox + (g.kx - 1) * g.dx,
    }
    return g._replace(**size, sz=1, sy=1, sx=1, pz=0, py=0, px=0)


def _images_per_chunk(problem: Problem, plain: Geometry) -> int:
    image = problem.itemsize * plain.c_in * plain.iz * plain.iy * plain.ix
    return max(1, min(problem.batch, CHUNK_BYTES // image))


def _stretch_row(row, tables, x, stretched):
    tables, x = carray(tables, SIZES_AT + 3), carray(x, 1)
    g, s = _native.geometry(tables), tables[SIZES_AT:]
    slabs, rows, pixels = s[0], s[1], s[2]
    to = row * pixels
    stretched = carray(stretched, to + pixels)
    stretched[to:] = 0
    row, y = divmod(row, rows)
    plane, z = divmod(row, slabs)
    iz, between_z = divmod(z - g.dz * (g.kz - 1) + g.pz, g.sz)
    iy, between_y = divmod(y - g.dy * (g.ky - 1) + g.py, g.sy)
    if between_z != 0 or between_y != 0 or iz < 0 or iz >= g.iz or iy < 0 or iy >= g.iy:
        return
    shift = g.dx * (g.kx - 1) - g.px
    first = max(0, -(shift // g.sx))
    last = min(g.ix, (pixels - 1 - shift) // g.sx + 1)
    source = ((plane * g.iz + iz) * g.iy + iy) * g.ix
    for i in range(first, last):
        stretched[to + shift + i * g.sx] = x[source + i]


def _works(problem: Problem, plain: Geometry, images: int, weight: NDArray[Any], bias: NDArray[Any]) -> tuple[Work, Work]:
    """To stretch so many images, and to convolve them."""
    size = plain.iz, plain.iy, plain.ix
    stretch = _native.work(_stretch_row, images * plain.c_in * plain.iz * plain.iy, problem.geometry, size, problem.dtype)
    return stretch, forward.work(plain._replace(n=images), weight, bias)


@variant(
    "zero_insertion",
    title="zero insertion + convolution",
    source="Dumoulin & Visin 2016, section 4.6",
    color="#E69F00",
    marker="s",
)
class ZeroInsertion(Variant):
    """Stretched input, then a direct convolution with the flipped kernel."""

    spreads_nonfinite_weights = True

    def prepare(self, problem: Problem, weight: NDArray[Any], bias: NDArray[Any] | None) -> Any:
        flipped = np.ascontiguousarray(_blocks.pack_weight(problem, weight)[:, ::-1])
        plain = _stretched_geometry(problem)
        images = _images_per_chunk(problem, plain)
        return problem, plain, images, *_works(problem, plain, images, flipped, _blocks.bias_or_zeros(problem, bias))

    def run(self, state: Any, x: NDArray[Any], out: NDArray[Any]) -> None:
        problem, plain, images, stretch, convolve = state
        stretched = np.empty((images, plain.c_in, plain.iz, plain.iy, plain.ix), x.dtype)
        for first in range(0, problem.batch, images):
            part = x[first : first + images]
            if len(part) < images:
                stretch, convolve = _works(problem, plain, len(part), convolve.weight, convolve.bias)
            _native.run(stretch, part, stretched)
            _native.run(convolve, stretched, out[first : first + images])

    def estimate(self, problem: Problem) -> float:
        plain, size = _stretched_geometry(problem), problem.itemsize
        t = forward.tiling(plain, size)
        pieces = -(-plain.ox // t.pixels)
        tasks = plain.n * plain.groups * -(-(plain.c_out // plain.groups) // t.channels) * plain.oz * plain.oy * pieces
        calls, depth = tasks * problem.taps, plain.c_in // plain.groups
        if depth == 1 and t.over_pixels:  # a row of taps is one product
            calls, depth = calls // plain.kx, plain.kx
        stretched = size * plain.n * plain.c_in * plain.iz * plain.iy * plain.ix * STRETCHED_BYTE / _blocks.threads()
        return stretched + _costs.of_products(problem, t, -(-plain.ox // pieces), calls, depth, tasks, RATES)

    def prepared_bytes(self, problem: Problem) -> int:
        return _blocks.packed_bytes(problem)

    def workspace_bytes(self, problem: Problem) -> int:
        plain = _stretched_geometry(problem)
        image = problem.itemsize * plain.c_in * plain.iz * plain.iy * plain.ix
        return _images_per_chunk(problem, plain) * image + forward.workspace_bytes(plain, problem.itemsize)


def _stretch(g, sz, sy, sx, x, stretched):
    """CUDA: x with its pixels ``stride`` apart, in planes of (sz, sy, sx), and zeros between."""
    at, threads = cuda.grid(1), cuda.gridsize(1)
    while at < g.n * g.c_in * sz * sy * sx:
        rest, px = divide(at, sx)
        rest, py = divide(rest, sy)
        plane, pz = divide(rest, sz)
        iz, off_z = divide(pz, g.sz)
        iy, off_y = divide(py, g.sy)
        ix, off_x = divide(px, g.sx)
        value = OUT(0)
        if off_z + off_y + off_x == 0 and iz < g.iz and iy < g.iy and ix < g.ix:
            value = x[np.uint64(((plane * g.iz + iz) * g.iy + iy) * g.ix + ix)]
        stretched[np.uint64(at)] = value
        at += threads


STRETCH = Kernel(_stretch, "geometry i64 i64 i64 T[] T[]")


def _stretched_problem(problem: Problem) -> Problem:
    """The transposed convolution without a stride that follows, for the images of one chunk; output_padding is zeros of x."""
    size = [(i - 1) * s + 1 + extra for i, s, extra in zip(problem.in_size, problem.stride, problem.output_padding)]
    image = problem.itemsize * problem.c_in * prod(size)
    images = max(1, min(problem.batch, _cuda.CHUNK_BYTES // image))
    return replace(problem, batch=images, in_size=tuple(size), stride=1, output_padding=0)


@variant("zero_insertion", device="cuda")
class ZeroInsertionCuda(_cuda.CudaVariant):
    """Stretched input, then the tiled product without a stride."""

    spreads_nonfinite_weights = True
    kernels = (STRETCH, *_implicit_gemm.ALL)

    def supports(self, problem: Problem) -> Literal[True] | str:
        answer = super().supports(problem)
        return super().supports(_stretched_problem(problem)) if answer is True else answer

    def prepare(self, problem: Problem, weight: Any, bias: Any, stream: Any = 0) -> Any:
        own_bias = _cuda.bias_or_zeros(problem, bias, stream)
        return problem, _implicit_gemm.prepare(_stretched_problem(problem), weight, own_bias, stream)

    def estimate(self, problem: Problem) -> float:
        plain = _stretched_problem(problem)
        moved = 2 * prod(plain.x_shape) * problem.itemsize
        each = _tiles.seconds_of(problem, jit_cuda.processors(), prod(plain.x_shape), 30, 1, moved)
        return -(-problem.batch // plain.batch) * (_implicit_gemm.estimate(plain) + each)

    def run(self, state: Any, x: Any, out: Any, stream: Any = 0) -> None:
        problem, convolve = state
        plain = convolve.problem
        stretched = _cuda.empty(prod(plain.x_shape), problem.dtype, stream)
        for images, part, target in _cuda.chunks(problem, x, out, plain.batch):
            g = jit_cuda.sizes(replace(problem, batch=images).geometry)
            pixels = prod(plain.x_shape[1:]) * images
            STRETCH.stride_over(problem.dtype, pixels, stream, g, *plain.geometry[4:7], part, stretched)
            _implicit_gemm.run(convolve._replace(problem=replace(plain, batch=images)), stretched, target, stream)

    def prepared_bytes(self, problem: Problem) -> int:
        return _implicit_gemm.prepared_bytes(_stretched_problem(problem))

    def workspace_bytes(self, problem: Problem) -> int:
        return problem.itemsize * prod(_stretched_problem(problem).x_shape)
