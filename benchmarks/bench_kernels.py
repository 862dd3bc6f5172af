"""Run time against the kernel's size: 32 channels, 32 x 32 pixels, stride 2, no padding."""

from __future__ import annotations

from benchmarks import common

_GRID = common.grid("n1_ci32_i32x32_co32_k{kernel}x{kernel}_s2x2", kernel=common.PROFILE.kernels)


class Run(common._Run):
    params, param_names = _GRID
