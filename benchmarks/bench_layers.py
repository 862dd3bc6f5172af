"""Run time, preparation and memory on the layers of real networks (layers.csv)."""

from __future__ import annotations

from benchmarks import common

_GRID = common.layer_grid()


class Run(common._Run):
    params, param_names = _GRID


class Prepare(common._Prepare):
    params, param_names = _GRID


class Prepared(common._Prepared):
    params, param_names = _GRID


class Workspace(common._Workspace):
    params, param_names = _GRID
