"""A small network that learns to enlarge images, so that one can see what training leaves of a checkerboard.

::

    hidden = max(0, conv3x3(image, first, first_bias))      1 -> CHANNELS, zeros around
    out = up(hidden, kernel) + bias                         CHANNELS -> 1, times the stride

``up`` is a transposed convolution whose kernel is free, or is made of fewer weights by resizing or pixel shuffle, which is a
matrix: ``kernel = form.basis @ weights``. So one forward and one backward pass serve all, both the package's own kernels. The
loss is half the mean squared error against the image whose block means are the input; Adam, its rate falling linearly to 0.
Everything is float64 and follows from the seed.

Sources: Kingma & Ba, "Adam", arXiv:1412.6980; operators as in ``operators``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tconv_bench import reference
from tconv_bench.checkerboard.operators import icnr, resize_kernel, shuffle_kernel
from tconv_bench.checkerboard.spectra import Pattern, phase_sums
from tconv_bench.checkerboard.textures import dead_leaves
from tconv_bench.conv import conv2d, conv_transpose2d
from tconv_bench.gradients import conv_transpose_grads
from tconv_bench.problem import Problem, as_int

OPERATORS = ("transposed", "nearest", "bilinear", "shuffle", "icnr")
CHANNELS = 8
SIDE, TEST_SIDE = 48, 96  # of an image; multiples of every stride
GREYS = (0.25, 0.5, 0.75)  # flat inputs whose pattern is measured
_IMAGES, _TESTS, _BATCH = 64, 8, 4
_RATE, _DECAYS, _TINY = 1e-2, (0.9, 0.999), 1e-8
_LEARNED = ("first", "first_bias", "weights", "bias")

Weights = dict[str, NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class Form:
    """How an operator's kernel is made of what it learns, and the transposed convolution that it is."""

    operator: str
    kernel: int  # of what it learns
    stride: int
    basis: NDArray[np.float64]  # (taps of the transposed convolution, weights), for one pair of channels
    taps: tuple[int, int]
    padding: tuple[tuple[int, int], ...]
    output_padding: int = 0

    def full(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """The transposed convolution's kernel ``(CHANNELS, 1, *taps)``."""
        found: NDArray[np.float64] = (weights @ self.basis.T).reshape(len(weights), 1, *self.taps)
        return found

    def pulled(self, gradient: NDArray[np.float64]) -> NDArray[np.float64]:
        """The gradient to the weights of one to the kernel."""
        found: NDArray[np.float64] = gradient.reshape(len(gradient), -1) @ self.basis
        return found


@cache
def form(operator: str, kernel: int, stride: int) -> Form:
    """The form of an operator of ``OPERATORS``; ``kernel`` is the transposed convolution's, or that beside the resizing."""
    if operator not in OPERATORS:
        raise ValueError(f"operator is {operator!r}, valid operators are {', '.join(OPERATORS)}")
    k, s = as_int(kernel, "kernel", 1), as_int(stride, "stride", 2)
    if operator == "transposed":
        total, before = max(k - s, 0), max((k - s + 1) // 2, 0)
        return Form(operator, k, s, np.eye(k * k), (k, k), ((before, total - before),) * 2, max(s - k, 0))
    if operator in ("nearest", "bilinear"):
        made = resize_kernel(np.eye(k * k).reshape(k * k, 1, k, k), s, operator)
    else:
        one = np.eye(s * s * k * k)
        made = shuffle_kernel(one.reshape(len(one), s * s, k, k).reshape(-1, 1, k, k), s)
    full = made.weight[0]
    return Form(operator, k, s, np.ascontiguousarray(full.reshape(len(full), -1).T), full.shape[1:], made.padding)


def initial(shape: Form, seed: int) -> Weights:
    """Independent normal weights of mean 0 that keep the energy (He et al. 2015 in front of the ReLU), biases 0."""
    rng = np.random.default_rng([seed, *map(ord, "weights")])
    first = rng.standard_normal((CHANNELS, 1, 3, 3)) * np.sqrt(2 / 9)
    products = shape.kernel**2 / (shape.stride**2 if shape.operator == "transposed" else 1)
    scale = np.sqrt(1 / (CHANNELS * products))
    if shape.operator == "icnr":
        drawn = icnr(rng.standard_normal((CHANNELS, 1, shape.kernel, shape.kernel)), shape.stride)
    else:
        drawn = rng.standard_normal((CHANNELS, shape.basis.shape[1]))
    return {
        "first": first,
        "first_bias": np.zeros(CHANNELS),
        "weights": scale * drawn.reshape(CHANNELS, -1),
        "bias": np.zeros(1),
    }


def enlarged(shape: Form, weights: Weights, small: NDArray[np.float64]) -> NDArray[np.float64]:
    """Periodic images ``(N, h, w)``, ``stride`` times as large; by the definition, so that a figure compiles nothing."""
    margin = _margin(shape)
    padded = _wrapped(small, margin)
    ones, same = (1, 1), ((1, 1), (1, 1))
    features = np.maximum(reference.conv(padded, weights["first"], weights["first_bias"], ones, same, ones, 1), 0)
    kernel, s = shape.full(weights["weights"]), shape.stride
    n, channels, *size = features.shape
    problem = Problem(n, channels, tuple(size), 1, shape.taps, s, shape.padding, shape.output_padding, dtype="float64")
    return _inner(reference.conv_transpose(problem, features, kernel, weights["bias"]), margin * s)[:, 0]


def gradients(shape: Form, weights: Weights, small: NDArray[np.float64], target: NDArray[np.float64]) -> tuple[float, Weights]:
    """Half the mean squared error of periodic images ``(N, h, w)`` against their originals, and its gradients."""
    margin = _margin(shape)
    edge = margin * shape.stride
    padded = _wrapped(small, margin)
    features = np.maximum(conv2d(padded, weights["first"], weights["first_bias"], padding=1), 0)
    kernel = shape.full(weights["weights"])
    out = conv_transpose2d(features, kernel, weights["bias"], shape.stride, shape.padding, shape.output_padding)
    error = _inner(out, edge)[:, 0] - target
    sent = np.pad(error[:, None] / error.size, [(0, 0), (0, 0), (edge, edge), (edge, edge)])
    to_features, to_kernel, to_bias = conv_transpose_grads(
        sent, features, kernel, stride=shape.stride, padding=shape.padding, output_padding=shape.output_padding
    )  # fmt: skip
    to_features = np.where(features > 0, to_features, 0)
    # a convolution's gradient to its weights is that of the transposed one which takes its output back to its input
    _, to_first, _ = conv_transpose_grads(padded, to_features, weights["first"], padding=1)
    found = (to_first, to_features.sum(axis=(0, 2, 3)), shape.pulled(to_kernel), to_bias)
    return float((error**2).mean() / 2), dict(zip(_LEARNED, found))


def train(
    shape: Form, seed: int, steps: int, watch: Callable[[int, Weights], None] | None = None, rate: float = _RATE
) -> Weights:
    """Weights after ``steps`` of Adam; ``watch(step, weights)`` sees them before the first step and after each."""
    rng = np.random.default_rng([seed, *map(ord, "batches")])
    weights, originals = initial(shape, seed), images(True)
    moments = {name: (np.zeros_like(value), np.zeros_like(value)) for name, value in weights.items()}
    for step in range(steps):
        if watch:
            watch(step, weights)
        chosen = originals[rng.choice(len(originals), _BATCH, replace=False)]
        target = np.roll(chosen, rng.integers(0, SIDE, 2), axis=(1, 2))
        _, slopes = gradients(shape, weights, shrunk(target, shape.stride), target)
        weights = _adam(weights, slopes, moments, step, rate * (1 - step / steps))
    if watch:
        watch(steps, weights)
    return weights


def _adam(weights: Weights, slopes: Weights, moments: dict[str, Any], step: int, rate: float) -> Weights:
    first, second = _DECAYS
    found = {}
    for name, value in weights.items():
        mean, square = moments[name]
        mean += (1 - first) * (slopes[name] - mean)
        square += (1 - second) * (slopes[name] ** 2 - square)
        unbiased = np.sqrt(square / (1 - second ** (step + 1))) + _TINY
        found[name] = value - rate * mean / (1 - first ** (step + 1)) / unbiased
    return found


@cache
def images(training: bool) -> NDArray[np.float64]:
    """The images to train on, or those to test on; not to be written to."""
    drawn = dead_leaves(_IMAGES, SIDE, 1) if training else dead_leaves(_TESTS, TEST_SIDE, 2)
    drawn.flags.writeable = False
    return drawn


def shrunk(large: NDArray[np.float64], stride: int) -> NDArray[np.float64]:
    """Means of blocks."""
    n, height, width = large.shape
    means: NDArray[np.float64] = large.reshape(n, height // stride, stride, width // stride, stride).mean(axis=(2, 4))
    return means


def flat_pattern(shape: Form, weights: Weights) -> Pattern:
    """What flat areas of ``GREYS`` come out as, a channel for each grey, from the phases' sums alone."""
    grey = np.array(GREYS)[:, None]
    levels = np.maximum(grey * weights["first"].sum(axis=(1, 2, 3)) + weights["first_bias"], 0)
    sums = phase_sums(shape.full(weights["weights"]), shape.stride, shape.padding)[:, 0]
    return Pattern(np.tensordot(levels, sums, 1) + weights["bias"])


def _margin(shape: Form) -> int:
    """Input pixels beyond the borders that an output pixel depends on."""
    return 2 + ceil(max(shape.taps) / shape.stride)


def _wrapped(small: NDArray[np.float64], margin: int) -> NDArray[np.float64]:
    return np.pad(small, [(0, 0), (margin, margin), (margin, margin)], mode="wrap")[:, None]


def _inner(large: NDArray[np.float64], edge: int) -> NDArray[np.float64]:
    found: NDArray[np.float64] = large[..., edge:-edge, edge:-edge]
    return found
