"""What training leaves of a checkerboard: gradients against differences, the optimum's slopes, rows against training."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from tconv_bench.checkerboard import expected_spectrum, image_pattern, study, training
from tconv_bench.checkerboard.optimum import optimum
from tconv_bench.checkerboard.study import Case
from tconv_bench.checkerboard.textures import dead_leaves
from tests.test_cli import call

FORMS = [("transposed", 3, 2), ("transposed", 2, 3), ("nearest", 3, 2), ("bilinear", 2, 3), ("shuffle", 3, 2), ("icnr", 2, 4)]
all_forms = pytest.mark.parametrize("sizes", FORMS)


def sample(shape: training.Form, seed: int = 0) -> training.Weights:
    """Initial weights with biases that are not 0."""
    rng = np.random.default_rng(seed)
    start = training.initial(shape, seed)
    return {name: value + 0.1 * rng.standard_normal(value.shape) for name, value in start.items()}


def test_dead_leaves_are_periodic_discs_like_photographs():
    images = dead_leaves(6, 48, 3)
    assert images.shape == (6, 48, 48)
    assert 0 <= images.min() <= images.max() <= 1
    assert_array_equal(dead_leaves(2, 48, 3), images[:2])
    # a step over the border is as large as one inside, and shifts of an image are as good as it is
    many = dead_leaves(60, 16, 4, leaves=150)
    steps = np.abs(many - np.roll(many, 1, axis=1)).mean(axis=(0, 2))
    assert steps[0] == pytest.approx(steps[1:].mean(), rel=0.25)
    assert (np.diff(images, axis=2) == 0).mean() > 0.5  # flat areas
    with pytest.raises(ValueError, match="side is 7, but must be >= 8"):
        dead_leaves(1, 7, 0)


@all_forms
def test_images_are_enlarged_by_the_stride_and_shift_with_their_input(sizes):
    shape = training.form(*sizes)
    weights, s = sample(shape), shape.stride
    small = dead_leaves(2, 12, 1)
    out = training.enlarged(shape, weights, small)
    assert out.shape == (2, 12 * s, 12 * s)
    assert_allclose(training.enlarged(shape, weights, np.roll(small, (2, 5), (1, 2))), np.roll(out, (2 * s, 5 * s), (1, 2)))


@all_forms
def test_flat_areas_come_out_as_the_closed_form_says(sizes):
    shape = training.form(*sizes)
    weights, s = sample(shape), shape.stride
    flat = np.ones((3, 8, 8)) * np.array(training.GREYS)[:, None, None]
    pattern = training.flat_pattern(shape, weights)
    assert_allclose(image_pattern(training.enlarged(shape, weights, flat), s).levels, pattern.levels, atol=1e-12)
    tied = shape.operator in ("nearest", "bilinear")
    assert (pattern.ripple < 1e-12) is tied
    start = training.flat_pattern(shape, training.initial(shape, 0)).ripple
    assert (start < 1e-12) is (tied or shape.operator == "icnr")


@all_forms
def test_gradients_are_those_of_the_loss(sizes):
    shape = training.form(*sizes)
    weights, s = sample(shape), shape.stride
    target = dead_leaves(2, 12, 4)
    small = training.shrunk(target, s)

    def loss(at: training.Weights) -> float:
        return float(((training.enlarged(shape, at, small) - target) ** 2).mean() / 2)

    value, slopes = training.gradients(shape, weights, small, target)
    assert value == pytest.approx(loss(weights), rel=1e-12)
    rng = np.random.default_rng(9)
    for name, array in weights.items():
        way = rng.standard_normal(array.shape)
        ends = [loss({**weights, name: array + step * way}) for step in (1e-6, -1e-6)]
        assert np.vdot(slopes[name], way) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5, abs=1e-9), name


def test_adam_takes_its_first_step_against_the_gradients_sign():
    shape = training.form("transposed", 2, 2)
    seen = {}
    after = training.train(shape, 0, 1, lambda step, weights: seen.setdefault(step, weights), rate=1e-3)
    for name, start in training.initial(shape, 0).items():
        assert_array_equal(seen[0][name], start)
        assert_allclose(np.abs(after[name] - start), 1e-3, rtol=1e-3)
        assert_array_equal(seen[1][name], after[name])


@pytest.mark.parametrize(
    ("kernel", "stride", "even"), [(1, 2, False), (3, 2, False), (4, 2, False), (2, 3, False), (4, 3, True), (5, 4, False)]
)
def test_at_the_optimum_the_error_has_no_slope(kernel: int, stride: int, even: bool):
    images = training.images(True)
    images = np.concatenate([images[:, ::a, ::b] for a, b in product((1, -1), repeat=2)])
    small, found = training.shrunk(images, stride), optimum(kernel, stride, even)
    before = training.form("transposed", kernel, stride).padding[0][0]
    shifts, phases = np.divmod(np.arange(kernel) - before, stride)
    energy = level = pull = 0.0
    for row, column in np.ndindex(stride, stride):
        taps = list(product(np.flatnonzero(phases == row), np.flatnonzero(phases == column)))
        seen = [np.roll(small, (shifts[y], shifts[x]), (1, 2)) for y, x in taps]
        error = found.bias - images[:, row::stride, column::stride] + sum(found.weight[at] * x for at, x in zip(taps, seen))
        slopes = np.array([(error * x).mean() for x in seen])
        # tied to equal sums, a phase may pull at all of its taps alike, as long as the phases together pull at none
        assert_allclose(slopes, slopes.mean() if even else 0, atol=1e-12)
        pull += slopes.mean() if even else 0
        energy, level = energy + (error**2).mean() / stride**2, level + error.mean()
    assert found.psnr == pytest.approx(-10 * np.log10(energy), abs=1e-9)
    assert (level, pull) == pytest.approx((0, 0), abs=1e-11)
    assert (found.pattern.ripple < 1e-12) is (even or kernel == 4 == 2 * stride)


def test_what_the_optimum_keeps_depends_on_stride_and_kernel_and_costs_nothing_to_forbid():
    for kernel in range(1, 10):
        found = optimum(kernel, 2).pattern.ripple
        if kernel % 2 == 0:
            assert found < 1e-12  # phases that mirror each other
        else:
            assert found > 5e-4
    for kernel, stride in ((3, 3), (6, 3), (4, 4), (8, 4)):  # divisible, and yet a pattern
        assert optimum(kernel, stride).pattern.ripple > 2e-3
    for stride, kernel in product((2, 3, 4), (4, 5, 7)):
        free, tied = optimum(kernel, stride), optimum(kernel, stride, even=True)
        assert tied.pattern.ripple < 1e-12
        assert -1e-9 < free.psnr - tied.psnr < 0.01


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optimum(2, 3, even=True), "kernel is 2, but must be at least the stride"),
        (lambda: optimum(3, 5), "stride is 5, but must divide the images' side, 48"),
        (lambda: training.form("cubic", 3, 2), "operator is 'cubic', valid operators are transposed, nearest"),
        (lambda: training.form("transposed", 0, 2), "kernel is 0, but must be >= 1"),
        (lambda: training.form("transposed", 3, 1), "stride is 1, but must be >= 2"),
        (lambda: study.median_ripple(study.read(), "transposed", 30, 2), "there is no row of transposed, kernel 30, stride 2"),
        (lambda: study.read()[0].arrays(), "stores no weights"),
    ],
)
def test_bad_input_names_the_value(make, message: str):
    with pytest.raises(ValueError, match=message):
        make()


def test_rows_are_of_every_case_once():
    rows = study.read()
    assert sorted(row.case for row in rows) == sorted(study.cases())
    assert study.STORED.stat().st_size < 100_000
    assert {row.case for row in rows if row.weights} == set(study.PICTURED)
    assert {len(row.ripples) for row in rows} == {len(study.WATCHED)}
    assert study.WATCHED[-1] == study.STEPS


def test_stored_weights_have_the_rows_results():
    for row in study.read():
        if row.weights:
            weights = row.arrays()
            assert training.flat_pattern(row.case.form, weights).ripple == pytest.approx(row.ripples[-1], rel=2e-3, abs=1e-12)
            psnr, _, error_ripple = study.tested(row.case, weights)
            assert (psnr, error_ripple) == (pytest.approx(row.psnr, rel=1e-4), pytest.approx(row.error_ripple, rel=1e-3))


def test_rows_start_from_their_seeds():
    for row in study.read():
        start = training.flat_pattern(row.case.form, study.start(row.case)).ripple
        assert row.ripples[0] == pytest.approx(start, rel=1e-4, abs=1e-12)


def test_what_the_documentation_says_of_training():
    rows = study.read()
    for stride, kernel in product(study.STRIDES, study.KERNELS):
        left = study.median_ripple(rows, "transposed", kernel, stride)
        assert left < 0.012 if kernel >= stride else left > 0.09, (kernel, stride)
    for operator, stride in product(("nearest", "bilinear"), study.STRIDES):
        assert max(study.median_ripple(rows, operator, 3, stride, at) for at in range(len(study.WATCHED))) < 1e-12
    for stride in study.STRIDES:
        assert study.median_ripple(rows, "icnr", 3, stride, 0) == 0
        assert 2e-3 < study.median_ripple(rows, "icnr", 3, stride) < 8e-3


def test_the_documentations_table_is_of_the_rows():
    text = (Path(__file__).parents[1] / "docs" / "checkerboards.md").read_text(encoding="utf-8").replace("\N{MINUS SIGN}", "-")
    rows, seen = study.read(), 0
    names = {"conv 3x3, pixel shuffle": "shuffle", "the same, ICNR": "icnr"}
    for line in text.splitlines():
        name, *shown = (cell.strip() for cell in line.strip("|").split("|"))
        operator = names.get(name) or name.split(",")[0].split(" ")[0]
        if operator not in training.OPERATORS or len(shown) != 3:
            continue
        kernel = int(name[-1]) if operator == "transposed" else study.CONVOLUTION
        found = [row for row in rows if row.case[:3] == (operator, kernel, 2)]
        ripple = study.median_ripple(rows, operator, kernel, 2)
        assert shown[0] == ("none" if ripple < 1e-12 else f"{100 * ripple:.2g} %")
        peaks, psnr = sorted(row.peak for row in found), np.median([row.psnr for row in found])
        numbers = [
            float(number) for number in shown[1].replace("dB", "").replace("(", "").replace(")", "").split() if number != "to"
        ]
        assert numbers == pytest.approx([peaks[1], peaks[0], peaks[2]], abs=0.51 if operator == "bilinear" else 0.051)
        assert float(shown[2].replace("dB", "")) == pytest.approx(psnr, abs=0.051)
        seen += 1
    assert seen == 8


def test_random_networks_are_near_the_expectation():
    for kernel, stride in ((3, 2), (4, 2), (4, 3)):
        expected = np.sqrt(expected_spectrum((kernel, kernel), stride).sum() - 1)
        assert study.random_pattern("transposed", kernel, stride, 300).ripple == pytest.approx(expected, rel=0.15)
    assert study.random_pattern("nearest", 3, 2, 20).ripple < 1e-12


def test_training_starts_as_stored():
    case = Case("transposed", 3, 2, 0)
    (row,) = (row for row in study.read() if row.case == case)
    ripples = {}

    def watch(step: int, weights: training.Weights) -> None:
        ripples[step] = training.flat_pattern(case.form, weights).ripple
        if step == 10:
            raise StopIteration

    with pytest.raises(StopIteration):
        training.train(case.form, case.seed, study.STEPS, watch)
    assert ripples[10] == pytest.approx(row.ripples[study.WATCHED.index(10)], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", [Case("transposed", 3, 2, 0), Case("icnr", 3, 2, 0), Case("transposed", 4, 4, 1), Case("nearest", 3, 3, 2)]
)
def test_training_again_gives_the_stored_rows(case: Case):
    (stored,) = (row for row in study.read() if row.case == case)
    row = study.measure(case)
    # another processor's vectors add in another order; 1500 steps carry that on
    assert row.ripples == pytest.approx(stored.ripples, rel=0.02, abs=1e-12)
    assert row.psnr == pytest.approx(stored.psnr, abs=0.01)
    assert row.error_ripple == pytest.approx(stored.error_ripple, rel=0.05)


def test_missing_rows_are_measured_and_added(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    lines = study.STORED.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(line for line in lines[:-1]) + "\n", encoding="utf-8")
    last = json.loads(lines[-1])
    monkeypatch.setattr(study, "measure", lambda case: next(row for row in study.read() if row.case == case))
    (added,) = study.measure_missing(path)
    assert added.case == Case(last["operator"], last["kernel"], last["stride"], last["seed"])
    assert study.read(path) == study.read()
    assert list(study.measure_missing(path)) == []


def test_the_command_shows_a_layers_pattern(monkeypatch, capsys):
    code, text, _ = call(monkeypatch, capsys, "checkerboard", "n1_ci1_i4x4_co1_k3x3_s2x2_p1x1")
    assert code == 0
    assert "2 4 2 4 2 4 2" in text
    assert "3/5 = 0.6" in text
    assert "ripple 0.484 of the level (-6.3 dB), strongest frequency -9.5 dB" in text
    assert "ripple 1.73 of the level (4.8 dB)" in text
    assert "trained weights" in text
    code, text, _ = call(monkeypatch, capsys, "checkerboard", "n1_ci8_i90_co8_k4_s2_p1")
    assert code == 0
    assert "output pixels 1..178" in text
    assert "no ripple" in text
    assert "trained" not in text


def test_the_command_trains_what_is_missing(monkeypatch, capsys, tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    monkeypatch.setattr(study, "cases", lambda seeds: [Case("icnr", 3, 2, 0)])
    monkeypatch.setattr(study, "measure", lambda case: next(row for row in study.read() if row.case == case))
    for _ in range(2):
        code, text, _ = call(monkeypatch, capsys, "checkerboard-train", path, "--seeds", 1)
        assert code == 0
        assert "holds 1 trained networks" in text
    assert call(monkeypatch, capsys, "checkerboard-train", tmp_path)[0] == 2
