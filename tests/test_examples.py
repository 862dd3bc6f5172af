"""The examples: their layers' gradients, their parts, and what a quick run of each of them gives; the full runs are slow."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from tconv_bench import conv2d, conv_transpose2d, upsample

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import _training

    return _training


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Runs an example with a figure of its own and returns its names."""
    monkeypatch.syspath_prepend(str(EXAMPLES))

    def inner(name: str, *options: str) -> dict[str, Any]:
        script, figure = EXAMPLES / f"plot_{name}.py", tmp_path / f"{name}.png"
        monkeypatch.setattr(sys, "argv", [str(script), *options, str(figure)])
        before = plt.get_backend()
        plt.switch_backend("agg")
        try:
            names = runpy.run_path(str(script), run_name="__main__")
            assert len(plt.get_fignums()) == 1  # what sphinx-gallery shows
        finally:
            plt.close("all")
            plt.switch_backend(before)
        with Image.open(figure) as image:
            assert image.width == 1440
        assert figure.stat().st_size < 200e3
        return names

    return inner


def whole(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Small integers as float32: their sums are exact, in the kernels that the examples compile as well."""
    return rng.integers(-9, 10, shape).astype(np.float32)


def inner(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.vdot(one.astype(float), other.astype(float)))


SHAPES = [((7, 8), (3, 3), 1, 0), ((8, 11), (4, 4), 2, 1), ((9, 7), (3, 2), 3, 1)]


@pytest.mark.parametrize(("size", "kernel", "stride", "padding"), SHAPES)
def test_an_ordinary_convolution_is_differentiated_by_its_transpose(training, size, kernel, stride, padding):
    rng = np.random.default_rng(3)
    x, other_x = whole(rng, (2, 2, 3, *size))
    weight, other_weight = whole(rng, (2, 4, 3, *kernel))
    bias = whole(rng, (4,))
    layer = training.Conv(weight, bias, stride, padding)
    y = layer(x)
    grad = whole(rng, y.shape)
    grad_x = layer.backward(grad)
    of_weight, of_bias = layer.gradients
    assert (y == conv2d(x, weight, bias, stride, padding)).all()
    assert grad_x.shape == x.shape
    # y is linear in each of them, so that the identity holds in any direction
    assert inner(grad, conv2d(other_x, weight, None, stride, padding)) == inner(grad_x, other_x)
    assert inner(grad, conv2d(x, other_weight, None, stride, padding)) == inner(of_weight, other_weight)
    assert (grad.sum(axis=(0, 2, 3)) == of_bias).all()


def test_a_transposed_convolution_is_differentiated(training):
    rng = np.random.default_rng(4)
    x, other_x = whole(rng, (2, 2, 3, 4, 5))
    weight, other_weight = whole(rng, (2, 3, 2, 4, 4))
    sizes = {"stride": 2, "padding": 1}
    layer = training.ConvTranspose(weight, np.zeros(2, np.float32), **sizes)
    grad = whole(rng, layer(x).shape)
    grad_x = layer.backward(grad)
    of_weight, of_bias = layer.gradients
    assert inner(grad, conv_transpose2d(other_x, weight, None, **sizes)) == inner(grad_x, other_x)
    assert inner(grad, conv_transpose2d(x, other_weight, None, **sizes)) == inner(of_weight, other_weight)
    assert (grad.sum(axis=(0, 2, 3)) == of_bias).all()


@pytest.mark.parametrize("stride", [2, 4, 6])
def test_the_bilinear_kernel_interpolates(training, stride):
    x = np.random.default_rng(5).random((6, 7), np.float32)
    edge = stride // 2 + stride  # of the kernel, and of the copied border
    y = conv_transpose2d(np.pad(x, 1, mode="edge")[None], training.bilinear(stride)[None, None], stride=stride, padding=edge)
    np.testing.assert_allclose(y[0], upsample.bilinear(x, stride), rtol=0, atol=1e-6)


def test_adam_steps_by_its_rate_and_finds_the_least_square(training):
    layer = training.ConvTranspose(np.ones((1, 1, 1, 1), np.float32), np.zeros(1, np.float32))
    adam = training.Adam([layer], 0.05, 200)
    x = np.random.default_rng(6).standard_normal((1, 1, 16, 16), dtype=np.float32)
    for step in range(200):
        error = layer(x) - (3 * x - 2)
        layer.backward(2 / error.size * error)
        adam.update()
        if step == 0:  # of the rate's first twentieth, against the sign of the gradients
            assert layer.parameters[0].item() == pytest.approx(1 + 0.05 / 20, abs=1e-5)
            assert layer.parameters[1].item() == pytest.approx(-0.05 / 20, abs=1e-5)
    assert layer.parameters[0].item() == pytest.approx(3, abs=0.01)
    assert layer.parameters[1].item() == pytest.approx(-2, abs=0.01)


@pytest.mark.slow  # the documentation runs it too
def test_learned_upsampling(run):
    names = run("learned_upsampling", "--quick")
    results, curves = names["results"], names["curves"]
    for (scale, what), losses in names["losses"].items():
        assert np.mean(losses[-5:]) < np.mean(losses[:5]), what
        if "random" not in what:  # the bilinear start is bilinear interpolation, borders included
            assert curves[scale, what][0] == pytest.approx(results[scale, "bilinear"][0], abs=1e-3)
            assert results[scale, what][0] > results[scale, "bilinear"][0] + 0.1
    assert results[4, "16x16 kernel, least squares"][0] > results[4, "bicubic"][0] + 0.1
    assert results[4, "8x8 kernel, least squares"][0] < results[4, "bicubic"][0]
    trained = names["models"][4, "16x16 kernel, from bilinear"].up.parameters[0]
    assert not np.array_equal(trained, names["before"][4, "16x16 kernel, from bilinear"])


@pytest.mark.slow
def test_a_learned_kernel_beats_bicubic(run):
    results = run("learned_upsampling")["results"]
    for scale, kernel_gain, network_gain in ((2, 0.2, 0.5), (4, 0.15, 0.4)):
        small, large = (f"{times * scale}x{times * scale} kernel" for times in (2, 4))
        bicubic = results[scale, "bicubic"]
        for start in ("random", "bilinear"):
            ratio, similarity = results[scale, f"{large}, from {start}"]
            assert ratio > bicubic[0] + kernel_gain
            assert similarity > bicubic[1]
            assert ratio == pytest.approx(results[scale, f"{large}, least squares"][0], abs=0.1)
            assert results[scale, "bilinear"][0] < results[scale, f"{small}, from {start}"][0] < bicubic[0]
        assert results[scale, "network"][0] > bicubic[0] + network_gain


def test_dcgan_generator(run):
    names = run("dcgan_generator", "--quick")
    assert names["images"].shape == names["smooth_images"].shape == (2, 3, 64, 64)
    assert [y.shape[2:] for y in names["activations"]] == [(1, 1), (4, 4), (8, 8), (16, 16), (32, 32), (64, 64)]
    assert names["folded_error"] < 1e-4
    assert names["planned_error"] < 1e-4
    assert 0.3 < np.abs(names["images"]).max() <= 1
    assert names["roughness"](names["images"]) > 0.8
    assert names["roughness"](names["smooth_images"]) < 0.1
    for column in ("one_shot", "planned", "activation", "produced", "packed"):
        assert len(names[column]) == 5
        assert min(names[column]) > 0
    assert names["produced"][-1] == 2 * 3 * 64 * 64 * 4


@pytest.mark.slow
def test_dcgan_generator_in_full(run):
    names = run("dcgan_generator")
    assert [y.shape[1:] for y in names["activations"][1::4]] == [(1024, 4, 4), (3, 64, 64)]
    assert names["folded_error"] < 1e-3
    assert names["planned_error"] < 1e-3


def test_segmentation(run):
    names = run("segmentation", "--quick")
    assert np.mean(names["losses"][-5:]) < 0.6 * np.mean(names["losses"][:5])
    assert set(np.unique(names["test_labels"])) == set(range(5))
    for layer, before in zip(names["model"].up, names["kernels_before"]):
        assert not np.array_equal(layer.parameters[0], before)

    labels = np.array([[[0, 0, 1, 1]]])
    right, overlaps = names["agreement"](np.array([[[0, 1, 1, 1]]]), labels)
    assert right == 0.75
    np.testing.assert_allclose(overlaps, [1 / 2, 2 / 3, 0, 0, 0])

    rng = np.random.default_rng(7)
    scores, direction = rng.standard_normal((2, 1, 5, 1, 4))
    _, grad = names["cross_entropy"](scores, labels)
    ends = [names["cross_entropy"](scores + step * direction, labels)[0] for step in (-1e-4, 1e-4)]
    assert (ends[1] - ends[0]) / 2e-4 == pytest.approx((grad * direction).sum(), rel=1e-4)


@pytest.mark.slow
def test_segmentation_reaches_its_accuracy(run):
    names = run("segmentation")
    assert names["accuracy"] > 0.95
    assert names["overlaps"].mean() > 0.77
    assert names["overlaps"].min() > 0.6
    for layer, before in zip(names["model"].up, names["kernels_before"]):
        assert abs(names["likeness"](before)) < 0.06
        assert names["likeness"](layer.parameters[0]) > 0.08
