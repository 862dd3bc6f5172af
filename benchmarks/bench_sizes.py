"""Run time, preparation and memory against the input's size: 32 channels, kernel 4, stride 2."""

from __future__ import annotations

from benchmarks import common

_GRID = common.grid("n1_ci32_i{size}x{size}_co32_k4x4_s2x2_p1x1", size=common.PROFILE.sizes)


class Run(common._Run):
    params, param_names = _GRID


class Prepare(common._Prepare):
    params, param_names = _GRID


class Prepared(common._Prepared):
    params, param_names = _GRID


class Workspace(common._Workspace):
    params, param_names = _GRID
