"""Run time against the number of channels, in and out: 16 x 16 pixels, kernel 4, stride 2."""

from __future__ import annotations

from benchmarks import common

_GRID = common.grid("n1_ci{channels}_i16x16_co{channels}_k4x4_s2x2_p1x1", channels=common.PROFILE.channels)


class Run(common._Run):
    params, param_names = _GRID
