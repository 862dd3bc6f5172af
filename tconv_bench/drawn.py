"""Problems drawn at random: the layers that users bring, which are in no file and which nobody tuned a kernel for."""

from __future__ import annotations

from math import prod

import numpy as np

from tconv_bench.problem import Problem

RANKS = (1, 2, 2, 2, 2, 3)
CHANNELS = (3, 8, 12, 16, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512, 768)
FEW_CHANNELS = (1, 2, 3)  # as often as two of the above, of outputs
BATCHES = (1, 1, 1, 1, 2, 4, 8)
STRIDES = {1: (2, 3, 4, 5, 8, 10), 2: (1, 2, 2, 2, 2, 3, 4), 3: (1, 2, 2)}
STRIDE_1_KERNELS = (3, 3, 4, 5)
SIZES = {
    1: (16, 37, 50, 64, 100, 128, 256, 300, 512, 1000, 2048, 4096, 5000, 10000),
    2: (4, 5, 6, 7, 8, 9, 10, 12, 13, 14, 15, 16, 18, 20, 24, 28, 30, 32, 40, 48, 56, 64, 80, 96, 100, 128, 160),
    3: (4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24),
}
GROUPED = 0.16  # of the problems: half of them depthwise where the channels allow it, half in 4 groups
FLOPS = (2e5, 12e9)
MOST_BYTES = (100e6, 150e6)  # of the input, and of the output


def problems(count: int, seed: int) -> list[Problem]:
    """``count`` different problems; the same ``seed`` draws the same ones, and of fewer the first ones.

    Kernels are s, 2s - 1, 2s or 2s + 1 at stride s, paddings none, half of what a kernel overlaps its neighbour, or one more,
    images any rectangle. Problems of fewer than 0.2 MFLOP or more than 12 GFLOP, or of very large arrays, are drawn again.
    """
    rng = np.random.default_rng(seed)
    found: dict[Problem, None] = {}
    while len(found) < count:
        problem = _drawn(rng)
        if problem is not None:
            found[problem] = None
    return list(found)


def _drawn(rng: np.random.Generator) -> Problem | None:
    rank = int(rng.choice(RANKS))
    c_in, c_out = int(rng.choice(CHANNELS[1:])), int(rng.choice((*FEW_CHANNELS, *CHANNELS, *CHANNELS)))
    stride, size = int(rng.choice(STRIDES[rank])), tuple(int(n) for n in rng.choice(SIZES[rank], rank))
    kernel = int(rng.choice((stride, 2 * stride - 1, 2 * stride, 2 * stride + 1) if stride > 1 else STRIDE_1_KERNELS))
    overlap = max(0, kernel - stride)
    padding = int(rng.choice((0, overlap // 2, (overlap + 1) // 2)))
    output_padding = int(overlap % 2 == 1 and stride > 1 and rng.random() < 0.7)
    kind, groups = rng.random(), 1
    if kind < GROUPED / 2 and c_in == c_out:
        groups = c_in
    elif kind < GROUPED and c_in % 4 == c_out % 4 == 0:
        groups = 4
    batch = int(rng.choice(BATCHES))
    out_size = [(n - 1) * stride - 2 * padding + kernel + output_padding for n in size]
    if min(out_size) < 1 or any(
        4 * batch * channels * prod(sizes) > most
        for channels, sizes, most in ((c_in, size, MOST_BYTES[0]), (c_out, out_size, MOST_BYTES[1]))
    ):
        return None
    problem = Problem(
        batch,
        c_in,
        size,
        c_out,
        (kernel,) * rank,
        (stride,) * rank,
        ((padding, padding),) * rank,
        (output_padding,) * rank,
        groups,
    )
    return problem if FLOPS[0] <= problem.flops <= FLOPS[1] else None
