"""Run time in one, two and three dimensions: the same channels, input pixels, stride and padding."""

from __future__ import annotations

from benchmarks import common

_GRID = common.grid(
    [
        "n1_ci32_i4096_co32_k4_s2_p1",
        "n1_ci32_i64x64_co32_k4x4_s2x2_p1x1",
        "n1_ci32_i16x16x16_co32_k4x4x4_s2x2x2_p1x1x1",
    ]
)


class Run(common._Run):
    params, param_names = _GRID
