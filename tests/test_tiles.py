"""How CUDA's tiles are chosen, as plain arithmetic: no GPU, no compiler."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import prod

import pytest

from tconv_bench import Problem, layers
from tconv_bench.variants import _tiles
from tests.problems import PROBLEMS

H100, FEW = 132, 20
AWKWARD = [p for p in PROBLEMS if p.dtype == "float32" and p.batch and p.out_pixels < 5000][::2]
LARGE = Problem.parse("n64_ci512_i32x32_co512_k4x4_s2x2_p1x1")


@pytest.mark.parametrize("tile", [*_tiles.SINGLE, *_tiles.DOUBLE, *_tiles.SIMULATED], ids=str)
def test_a_tile_fits_together(tile: _tiles.Tile):
    c = tile.constants
    assert tile.BM % (tile.WY * tile.TM) == 0 == tile.BN % (tile.WX * tile.TN)
    assert c["THREADS"] == tile.BM // tile.TM * (tile.BN // tile.TN)
    assert c["THREADS"] % c["LANES"] == 0
    assert c["PIXELS"] * c["B_LOADS"] * c["THREADS"] == tile.BK * tile.BN
    assert 4 * c["A_LOADS"] * c["THREADS"] >= tile.BK * tile.BM
    assert tile.TM % c["ROUND"] == 0
    assert c["ROUND"] * c["THREADS"] * tile.TN <= c["MEMORY"]
    assert c["PASSES"] * max(1, c["LANES"] // c["LINE"]) == c["ROUND"] * tile.WY
    if tile not in _tiles.SIMULATED:
        assert c["LANES"] == 32
        assert c["MEMORY"] * (8 if tile in _tiles.DOUBLE else 4) <= 48 * 1024
        assert tile.resident(1) * tile.threads <= 2048


@pytest.mark.parametrize("problem", AWKWARD, ids=str)
def test_every_tap_of_every_output_is_in_one_row_of_one_phase(problem: Problem):
    g = problem.geometry
    for cut in _tiles.cuts(problem):
        met = 0
        for axes in cut.phases:
            reach = []
            for axis, i, s, p, d, o in zip(axes, g[4:7], g[10:13], g[13:16], g[16:19], g[19:22]):
                found = 0
                for j, row, (taps, shift) in product(range(axis.pixels), range(axis.fold), axis.taps):
                    out, source = axis.first + s * j + row, j + shift
                    if taps[row] >= 0 and 0 <= out < o and 0 <= source < i:
                        assert source * s + taps[row] * d - p == out
                        found += 1
                reach.append(found)
            met += prod(reach)
        assert met == problem.meetings
        outputs = [sum(a.first + s * j + r in range(o) for j in range(a.pixels) for r in range(a.fold))
                   for axes in cut.phases for a, s, o in zip(axes, g[10:13], g[19:22])]  # fmt: skip
        assert sum(prod(outputs[at : at + 3]) for at in range(0, len(outputs), 3)) == problem.out_pixels


def test_a_kernel_of_a_multiple_of_the_stride_has_a_tap_in_every_row():
    cut = _tiles.cuts(Problem.parse("n1_ci1_i4x4_co1_k4x4_s2x2_p1x1"))[-1]
    assert (cut.fold, len(cut.phases), cut.sizes) == (4, 1, [(25, 4)])
    assert all(min(rows) >= 0 for axis in cut.phases[0] for rows, _ in axis.taps)
    assert _tiles.cuts(Problem.parse("n1_ci1_i4x4_co1_k3x3"))[1:] == []


def test_large_layers_take_large_tiles_and_one_part():
    _, tile, splits, seconds = _tiles.choose(LARGE, H100)
    assert tile.BM * tile.BN >= 128 * 64
    assert splits == 1
    peak = 2 * 32 * _tiles.SCHEDULERS * H100 * _tiles.CLOCK
    assert 0.6 * peak < LARGE.flops / seconds < peak


def test_few_pixels_are_cut_into_parts_until_the_processors_are_busy():
    problem = replace(LARGE, batch=1, in_size=(4, 4))
    for processors in (FEW, H100):
        cut, tile, splits, seconds = _tiles.choose(problem, processors)
        found = _tiles.tabulate(problem, cut, tile, splits, seconds)
        assert splits > 1
        assert found.blocks >= processors
        assert seconds < _tiles.cost(cut, tile, 1, processors)
    assert _tiles.choose(problem, FEW)[2] <= _tiles.choose(problem, H100)[2]


def test_few_channels_take_phases_as_rows():
    cut, tile, _, _ = _tiles.choose(Problem.parse("n64_ci64_i32x32_co3_k4x4_s2x2_p1x1"), H100)
    assert (cut.fold, tile.BM) == (4, 16)
    cut, tile, _, _ = _tiles.choose(Problem.parse("n1_ci56_i180x320_co1_k9x9_s2x2_p4x4_op1x1"), H100)
    assert (cut.fold, tile.BM) == (4, 4)


def test_more_processors_are_faster():
    for layer in [layer for layer in layers.read() if layer.label.startswith(("DCGAN-5x5", "StyleGAN2", "HiFi-GAN-V1"))]:
        few, many = (_tiles.choose(layer.problem, processors)[3] for processors in (FEW, H100))
        assert many < few, layer.label


def test_waves():
    cut = _tiles.cuts(LARGE)[0]
    tile = _tiles.SINGLE[0]
    one, two = (_tiles.cost(cut, tile, 1, processors) for processors in (2 * H100, H100))
    assert 1.8 < two / one < 2.2
    assert _tiles.choose(replace(LARGE, dtype="float64"), H100)[1] in _tiles.DOUBLE
