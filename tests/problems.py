"""Awkward problems: every variant meets every one of them in ``test_variants.py``."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tconv_bench import Problem

NAMED = {
    "the second text's example": "n1_ci1_i2x2_co1_k2x2",
    "DCGAN-shaped": "n2_ci5_i4x4_co7_k4x4_s2x2_p1x1",
    "U-Net-shaped": "n2_ci3_i5x6_co4_k2x2_s2x2",
    "kernel = stride, rows of several tiles": "n2_ci3_i3x70_co5_k2x2_s2x2",
    "kernel = stride, tiles over several rows, groups": "n2_ci4_i9x7_co6_k3x3_s3x3_g2",
    "kernel = stride, 3-D": "n1_ci2_i4x5x6_co2_k1x2x4_s1x2x4",
    "kernel < stride": "n1_ci2_i3x4_co3_k2x1_s3x4",
    "kernel < stride, 1-D": "n2_ci3_i5_co2_k1_s3_op2",
    "kernel < stride, 3-D": "n1_ci2_i2x3x2_co2_k1x2x1_s3x3x2",
    "kernel > input": "n1_ci2_i2x3_co3_k5x7",
    "kernel > input, strided": "n1_ci3_i1x2_co2_k6x5_s2x3_p2x1",
    "one pixel": "n3_ci4_i1x1_co5_k4x4",
    "one pixel in and out": "n2_ci3_i1x1_co2_k3x3_p1x1",
    "odd and rectangular": "n1_ci3_i7x3_co2_k3x5_s2x3_p1x2_op1x0",
    "output_padding everywhere": "n1_ci2_i3x3_co2_k3x3_s3x3_p1x1_op2x2",
    "output_padding below the dilation": "n1_ci2_i4x3_co2_k2x3_s1x2_op2x1_d3x2",
    "output_padding past every stamp": "n1_ci2_i2_co2_k1_s4_op3",
    "dilation x stride": "n1_ci2_i4x5_co3_k3x2_s2x3_p1x2_d2x3",
    "dilation = stride": "n1_ci2_i4x5_co3_k3x3_s2x2_d2x2",
    "dilation > stride": "n2_ci3_i6_co4_k4_s2_p3_d5",
    "dilation and stride share a factor": "n1_ci2_i5_co2_k3_s4_d6_p2_op3",
    "groups": "n2_ci6_i4x3_co9_k3x3_s2x2_p1x1_g3",
    "groups of one input channel": "n1_ci4_i4x4_co8_k3x2_s2x1_g4",
    "depthwise": "n2_ci7_i5x4_co7_k4x4_s2x2_p1x1_g7",
    "depthwise, 1-D": "n1_ci5_i9_co5_k3_s2_g5",
    "depthwise, 3-D": "n1_ci3_i3x2x4_co3_k2x3x2_s2x1x2_g3",
    "one channel": "n1_ci1_i8x8_co1_k3x3_s2x2_p1x1_op1x1",
    "one input channel": "n2_ci1_i5x6_co17_k3x3_s2x2",
    "one output channel": "n1_ci19_i5x6_co1_k9x9_s3x3_p4x4_op2x2",
    "crops everything but one pixel": "n1_ci2_i3x3_co2_k3x3_s2x2_p3:3x2:4",
    "crops everything but one pixel, at the start": "n1_ci2_i4_co3_k3_s2_p0:8",
    "crops everything but one pixel, at the end": "n1_ci2_i4_co3_k3_s2_p8:0",
    "asymmetric padding": "n1_ci2_i4x5_co3_k4x3_s2x2_p2:1x0:2",
    "padding beyond the kernel": "n1_ci2_i7x7_co2_k3x3_s2x2_p4x5",
    "padding that no stamp crosses": "n1_ci1_i3_co1_k2_s5_p1:3",
    "empty batch": "n0_ci3_i4x4_co2_k3x3_s2x2",
    "empty batch, 1-D": "n0_ci1_i4_co1_k3",
    "many channels, few pixels": "n1_ci70_i2x2_co67_k3x3_s2x2_p1x1",
    "many pixels, few channels": "n1_ci2_i3x75_co3_k3x4_s1x2_p1x1",
    "a row longer than a block": "n1_ci2_i2700_co3_k5_s3_p2",
    "a row longer than a block, no stride": "n1_ci3_i7001_co1_k3_p1",
    "planes of 4 KiB": "n1_ci3_i32x32_co8_k3x3_s2x2_p1x1_op1x1",
    "planes of 4 KiB, no stride": "n1_ci3_i16x64_co7_k3x3_p1x1",
    "planes of 4 KiB, asymmetric crop": "n1_ci2_i32x32_co6_k4x5_s2x3_p3:1x4:2",
    "more images than a pass": "n11_ci2_i3x3_co2_k3x3_s2x2",
    "a batch of single pixels": "n9_ci8_i1x1_co6_k2x2_s2x2",
    "huge 1-D kernel": "n1_ci3_i6_co1_k64_s16",
    "3-D": "n1_ci3_i3x4x2_co4_k3x3x3_s2x2x2_p1x1x1_op1x1x1",
    "3-D, rectangular": "n2_ci2_i2x3x5_co3_k2x3x1_s1x2x3_p1x1x0_d1x2x1",
    "3-D, groups and crops": "n1_ci4_i3x3x3_co4_k4x4x4_s2x2x2_p3:1x2:2x1:3_g2",
    "1 x 1 kernel": "n2_ci5_i4x4_co6_k1x1",
    "1 x 1 kernel, strided": "n1_ci5_i4x4_co6_k1x1_s2x3_op1x2",
    "tile tails": "n1_ci13_i9x70_co13_k2x2",
}  # fmt: skip


def _grid_1d() -> list[str]:
    lines = []
    for k, s, d, (before, after), extra in product(
        (1, 2, 3, 5), (1, 2, 3), (1, 2, 3), ((0, 0), (1, 1), (0, 3), (4, 1)), (0, 1)
    ):
        if extra < max(s, d) and (4 - 1) * s - before - after + d * (k - 1) + extra + 1 > 0:
            lines.append(f"n1_ci2_i4_co3_k{k}_s{s}_p{before}:{after}_op{extra}_d{d}")
    return lines


def _grid_2d() -> list[str]:
    cases = product(
        ((4, 4), (2, 3), (3, 1), (3, 3)), ((2, 2), (3, 1), (1, 2)), ("0x0", "1x1", "1:0x0:2"), (1, 2), ("1x1", "2x1")
    )
    return [
        f"n2_ci4_i3x5_co6_k{k[0]}x{k[1]}_s{s[0]}x{s[1]}_p{p}_g{g}_d{d}"
        for k, s, p, g, d in cases
        if not (p != "0x0" and k == (3, 1) and s == (3, 1))
    ]


def _grid_3d() -> list[str]:
    cases = product((1, 2, 3), (1, 2), (0, 1), (1, 2))
    return [f"n1_ci2_i2x3x4_co2_k{k}_s{s}_p{p}_g{g}" for k, s, p, g in cases if k > 1 or p == 0]


_DTYPES = ("float32", "float64", "int64")


def _all() -> list[Problem]:
    named = [Problem.parse(f"{text}_{dtype}") for text in NAMED.values() for dtype in _DTYPES]
    grid = [*_grid_1d(), *_grid_2d(), *_grid_3d()]
    return named + [Problem.parse(f"{text}_{_DTYPES[i % 3]}") for i, text in enumerate(grid)]


PROBLEMS = _all()


def integer_data(problem: Problem, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """x, weight, bias of small integers in the problem's dtype: every sum is exact in every dtype, so equality is too."""
    rng = np.random.default_rng(seed)
    shapes = (problem.x_shape, problem.weight_shape, (problem.c_out,))
    return tuple(rng.integers(-4, 5, shape).astype(problem.dtype) for shape in shapes)


def poisoned(problem: Problem) -> NDArray[Any]:
    """An output full of NaN, or of an unlikely integer: an element that nobody writes is seen."""
    return np.full(problem.out_shape, np.nan if np.dtype(problem.dtype).kind == "f" else 113, problem.dtype)
