"""Run time over strides and paddings: 32 channels, 32 x 32 pixels, kernel 4."""

from __future__ import annotations

from benchmarks import common

_GRID = common.grid(
    "n1_ci32_i32x32_co32_k4x4_s{stride}x{stride}_p{padding}x{padding}",
    stride=common.PROFILE.strides,
    padding=common.PROFILE.paddings,
)


class Run(common._Run):
    params, param_names = _GRID
