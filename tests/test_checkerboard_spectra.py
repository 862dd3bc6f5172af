"""Patterns: phase sums against up-sampled constants, spectra against Fourier transforms, expectations against draws."""

from __future__ import annotations

from itertools import product
from math import gcd, inf, log2, prod
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from tconv_bench import Problem, reference, upsample
from tconv_bench.checkerboard import (
    Pattern,
    Upsampler,
    contrast,
    expected_spectrum,
    icnr,
    image_pattern,
    interior,
    kernel_pattern,
    overlap_period,
    phase_sums,
    resize_kernel,
    shuffle_kernel,
    spectral_peak,
)
from tconv_bench.checkerboard.operators import tent
from tconv_bench.checkerboard.spectra import power_spectrum
from tests.test_checkerboard import CASES, all_cases

RNG = np.random.default_rng
# every kernel to 5, stride to 3, dilation to 3 along one axis, with paddings and output paddings taking turns
LINES = [
    ((12,), k, s, ((p % k, (p + 1) % k),), p % max(s, d), d)
    for p, (k, s, d) in enumerate(product(range(1, 6), range(1, 4), range(1, 4)))
]
PLANES = [((9, 11), (k, 3), (s, 2), ((1, 0), (0, 1)), (0, 1), (d, 1)) for k, s, d in product((1, 2, 4), (1, 2, 3), (1, 2))]


def axes_of(value: Any, ndim: int) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,) * ndim


def up(x: np.ndarray, weight: np.ndarray, stride: Any, padding: Any, output_padding: Any = 0, dilation: Any = 1) -> np.ndarray:
    """The definition's output of ``(N, C_in, *in)``."""
    dtype = "int64" if x.dtype.kind == "i" else "float64"
    n, c_in, *size = x.shape
    p = Problem(n, c_in, tuple(size), weight.shape[1], weight.shape[2:], stride, padding, output_padding, 1, dilation, dtype)
    return reference.conv_transpose(p, x, weight)


@pytest.mark.parametrize("case", [*CASES, *LINES, *PLANES])
def test_a_constant_comes_out_as_the_phase_sums(case):
    in_size, kernel, stride, padding, output_padding, dilation = case
    ndim = len(in_size)
    weight = RNG(3).integers(-9, 10, (2, 3, *axes_of(kernel, ndim)))
    out = up(np.ones((1, 2, *in_size), int), weight, stride, padding, output_padding, dilation)[0]
    sums = phase_sums(weight, stride, padding, dilation)
    assert sums.shape == (2, 3, *axes_of(stride, ndim))
    inside = interior(*case)
    phases = [np.arange(part.start, part.stop) % s for part, s in zip(inside, axes_of(stride, ndim))]
    assert_array_equal(out[(slice(None), *inside)], sums.sum(axis=0)[(slice(None), *np.ix_(*phases))])


@all_cases
def test_sums_of_ones_are_the_overlap_counts_and_both_have_no_pattern_together(case):
    in_size, kernel, stride, padding, _, dilation = case
    sizes = axes_of(kernel, len(in_size))
    period = overlap_period(sizes, stride, dilation)
    ones = np.ones((1, 1, *sizes), int)
    assert_array_equal(phase_sums(ones, stride, 0, dilation)[0, 0], period)
    pattern = kernel_pattern(ones, stride, padding, dilation)
    assert (pattern.ripple == 0) is (contrast(period) == 0)
    assert pattern.ripple == pytest.approx(period.std() / period.mean())
    assert (pattern.decibels == -inf) is (contrast(period) == 0)


@pytest.mark.parametrize(("kernel", "stride", "dilation"), list(product(range(1, 8), range(2, 5), (1, 2, 3))))
def test_the_spectrum_is_the_kernels_frequency_response_at_the_strides_frequencies(kernel: int, stride: int, dilation: int):
    weight = RNG(kernel).standard_normal((2, 2, kernel, kernel)) + 0.3
    frequencies = np.arange(stride) / stride
    wave = np.exp(-2j * np.pi * np.outer(frequencies, dilation * np.arange(kernel)))
    response = np.einsum("ocij,yi,xj->ocyx", weight, wave, wave)
    energy = (np.abs(response) ** 2).sum(axis=(0, 1))
    for padding in (0, 1, 4):
        pattern = kernel_pattern(weight, stride, padding, dilation)
        assert_allclose(pattern.spectrum, energy / energy[0, 0], rtol=1e-9, atol=1e-12)
        assert pattern.ripple == pytest.approx(np.sqrt(pattern.spectrum.sum() - 1))
        assert pattern.decibels == pytest.approx(20 * np.log10(pattern.ripple))
        assert pattern.peak_decibels == pytest.approx(10 * np.log10(pattern.spectrum.ravel()[1:].max()))


def test_padding_turns_the_phases_and_output_padding_changes_nothing():
    assert phase_sums([1, 10, 100], 2).tolist() == [101, 10]
    assert phase_sums([1, 10, 100], 2, padding=1).tolist() == [10, 101]
    assert phase_sums([1, 10, 100], 3, padding=((1, 0),)).tolist() == [10, 100, 1]
    assert phase_sums([1, 10], 3).tolist() == [1, 10, 0]
    assert phase_sums([1, 10, 100], 2, dilation=2).tolist() == [111, 0]
    assert phase_sums(np.arange(4).reshape(2, 2), (2, 1)).tolist() == [[1], [5]]


def test_weights_of_equal_sums_have_no_pattern_whatever_the_kernel():
    assert kernel_pattern([1, 2, 1], 2).ripple == 0  # linear interpolation: 3 is no multiple of 2
    assert kernel_pattern([3.0, 0.1, 0.3, 3.2], 2).ripple == pytest.approx(0, abs=1e-15)
    assert kernel_pattern(np.full((1, 1, 3, 3), 0.1), 3).spectrum.tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert kernel_pattern([1, 1, 1, 2], 2).ripple == pytest.approx(1 / 5)  # a multiple, but unequal sums
    assert kernel_pattern([1.0, -1.0], 2).ripple == inf  # no level at all
    assert kernel_pattern([0.0, 0.0], 2).ripple == 0
    assert kernel_pattern(1 + np.zeros(1), 4).ripple == pytest.approx(np.sqrt(3))  # one phase of four gets everything
    assert kernel_pattern([1, 2], 1).peak_decibels == -inf


def test_along_one_axis_only_nearest_resize_convolutions_have_no_pattern():
    # a response that vanishes at every j/s is divisible by 1 + z + ... + z^(s-1), the box of nearest neighbours
    for stride, kernel in product((2, 3, 4), (4, 6, 8)):
        rng = RNG(kernel)
        weight = rng.standard_normal(kernel)
        sums = phase_sums(weight, stride)
        weight[:stride] += sums.mean() - sums
        assert kernel_pattern(weight, stride).ripple == pytest.approx(0, abs=1e-14)
        factor, rest = np.polydiv(weight, np.ones(stride))
        assert_allclose(rest, 0, atol=1e-12)
        assert_allclose(resize_kernel(factor[::-1].reshape(1, 1, -1), stride).weight[0, 0], weight, atol=1e-12)


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "mean"), [((3,), 2, 1, 0.0), ((3, 3), 2, 1, 0.5), ((2, 5), (3, 2), (2, 3), -1.0)]
)
def test_expectations_are_those_of_many_draws(kernel, stride, dilation, mean):
    deviation = 0.7
    expected = expected_spectrum(kernel, stride, dilation, mean, deviation**2)
    taps = mean + deviation * RNG(0).standard_normal((40_000, 1, *kernel, *(1,) * (len(kernel) == 0)))
    drawn = kernel_pattern(taps, stride, 0, dilation)
    assert_allclose(drawn.spectrum, expected, rtol=0.05, atol=0.003)
    assert drawn.ripple == pytest.approx(np.sqrt(expected.sum() - 1), rel=0.03)
    # and the energy of what constants become follows the overlap counts
    counts = overlap_period(kernel, stride, dilation)
    energy = (phase_sums(taps, stride, 0, dilation) ** 2).mean(axis=(0, 1))
    assert_allclose(energy, deviation**2 * counts + (mean * counts) ** 2, rtol=0.05, atol=1e-12)


def test_expectations_without_mean_are_white_and_without_variance_those_of_ones():
    for kernel, stride, dilation in product((1, 3, (4, 4)), (2, 3), (1, 2)):
        assert_allclose(expected_spectrum(kernel, stride, dilation), 1)
        sizes = axes_of(kernel, 1)
        ones = kernel_pattern(np.ones((1, 1, *sizes)), stride, 0, dilation)
        assert_allclose(expected_spectrum(kernel, stride, dilation, mean=-2.0, variance=0.0), ones.spectrum)
    even = expected_spectrum((4, 4), 2, mean=1.0, variance=0.25)
    assert_allclose(even.ravel()[1:], 0.25 * 16 / (0.25 * 16 + 16**2))


@pytest.mark.parametrize(
    ("shape", "scale"), [((2, 3, 4), 2), ((2, 3, 3, 2), (3, 2)), ((1, 2, 1, 2, 3), (2, 1, 2)), ((3, 1, 5, 4), 4)]
)
def test_resizing_and_convolving_is_this_transposed_convolution(shape: tuple[int, ...], scale: Any):
    weight = RNG(1).standard_normal(shape)
    ndim = len(shape) - 2
    x = RNG(2).standard_normal((2, shape[1], *(7, 9, 6)[:ndim]))
    nearest, linear = resize_kernel(weight, scale), resize_kernel(weight, scale, "bilinear")
    padding = [((k - 1) // 2, k - 1 - (k - 1) // 2) for k in shape[2:]]

    def convolve(resized: np.ndarray) -> np.ndarray:
        return reference.conv(resized, weight, None, (1,) * ndim, padding, (1,) * ndim, 1)

    assert_allclose(up(x, *nearest), convolve(upsample.nearest(x, nearest.stride)), atol=1e-12)
    inner = (..., *(slice(2 * s, -2 * s) for s in linear.stride))
    found, expected = up(x, *linear)[inner], convolve(upsample.bilinear(x, linear.stride))[inner]
    assert found.size
    assert_allclose(found, expected, atol=1e-12)
    for operator in (nearest, linear):
        assert kernel_pattern(*operator).ripple < 1e-14


@pytest.mark.parametrize(("kernel", "scale"), [((3,), (2,)), ((2, 3), (3, 2)), ((4, 1), (2, 2)), ((2, 1, 3), (1, 2, 2))])
def test_convolving_and_shuffling_is_this_transposed_convolution(kernel: tuple[int, ...], scale: tuple[int, ...]):
    phases = prod(scale)
    weight = RNG(1).integers(-9, 10, (2 * phases, 3, *kernel))
    x = RNG(2).integers(-9, 10, (2, 3, *(4, 5, 3)[: len(kernel)]))
    padding = [((k - 1) // 2, k - 1 - (k - 1) // 2) for k in kernel]
    channels = reference.conv(x, weight, None, (1,) * len(kernel), padding, (1,) * len(kernel), 1)
    assert_array_equal(up(x, *shuffle_kernel(weight, scale)), upsample.pixel_shuffle(channels, scale))
    # the phases are the channels' sums, in the shuffle's order
    sums = kernel_pattern(*shuffle_kernel(weight, scale)).levels.reshape(3, 2, *scale)
    assert_array_equal(sums, weight.sum(axis=tuple(range(2, weight.ndim))).T.reshape(sums.shape))


def test_icnr_starts_as_convolution_and_nearest_neighbour():
    weight = RNG(1).standard_normal((2, 3, 3, 3))
    x = RNG(2).standard_normal((1, 3, 5, 4))
    start = icnr(weight, (2, 3))
    assert start.shape == (12, 3, 3, 3)
    pads = [(1, 1), (1, 1)]
    expected = upsample.nearest(reference.conv(x, weight, None, (1, 1), pads, (1, 1), 1), (2, 3))
    assert_allclose(up(x, *shuffle_kernel(start, (2, 3))), expected, atol=1e-12)
    assert kernel_pattern(*shuffle_kernel(start, (2, 3))).ripple == 0
    assert kernel_pattern(*shuffle_kernel(RNG(1).standard_normal((12, 3, 3, 3)), (2, 3))).ripple > 0.5


def test_a_tent_interpolates_lines_and_leaves_no_pattern():
    for scale in range(1, 7):
        taps = tent(scale)
        assert_allclose(phase_sums(taps, scale), 1)
        line = up(np.arange(9.0)[None, None], taps[None, None], scale, 0)[0, 0, 2 * scale : -2 * scale]
        assert_allclose(np.diff(line), 1 / scale)


def test_an_up_sampled_constants_interior_has_the_kernels_pattern():
    for kernel, stride in product((2, 3, 5), (2, 3)):
        weight = RNG(kernel).standard_normal((1, 2, kernel, kernel)) + 0.5
        out = up(np.full((1, 1, 9, 9), 0.25), weight, stride, 0)[0][(..., *interior((9, 9), kernel, stride))]
        whole = kernel_pattern(weight, stride)
        found = image_pattern(out, stride)
        assert found.levels.shape == (2, stride, stride)
        assert_allclose(found.spectrum, whole.spectrum, rtol=1e-9)
        assert found.ripple == pytest.approx(whole.ripple)


def test_the_pattern_of_images_is_of_each_phases_mean():
    image = np.arange(35).reshape(5, 7)
    expected = [[[image[r:4:2, c:6:3].mean() for c in range(3)] for r in range(2)]]
    assert_allclose(image_pattern(image, (2, 3)).levels, expected)
    assert image_pattern(np.ones((2, 6)), (3,)).ripple == 0


def test_the_power_of_a_wave_stands_in_its_bins():
    n = np.arange(24)
    power = power_spectrum(3 * np.cos(2 * np.pi * n / 3) + 7, (3,))
    assert power[8] == pytest.approx(power[16]) == pytest.approx(9 / 4)
    assert_allclose(power[[0, 4, 12]], 0, atol=1e-25)
    assert power_spectrum(np.cos(np.pi * np.arange(26)), (3,))[12] == pytest.approx(1)
    assert power_spectrum(np.ones((2, 3, 9, 10)), (3, 4)).shape == (9, 8)


def test_the_peak_stands_above_its_surroundings():
    noise = RNG(5).standard_normal((20, 96, 96))
    rows, columns = np.indices((96, 96))
    for stride, wave in (
        (2, (-1.0) ** (rows + columns)),
        (3, np.cos(2 * np.pi * rows / 3)),
        ((1, 4), np.cos(np.pi * columns / 2)),
    ):
        quiet = spectral_peak(noise, stride)
        assert -1 < quiet < 5
        # white noise of variance 1 has power 1.5^2 / 96^2 in a bin, 1.5 being a Hann window's noise bandwidth
        amplitude = 0.3
        in_bin = amplitude**2 * (1 if stride == 2 else 1 / 4)
        expected = 10 * np.log10((in_bin + 1.5**2 / 96**2) / (1.5**2 / 96**2))
        assert spectral_peak(noise + amplitude * wave, stride) == pytest.approx(expected, abs=1)
        assert spectral_peak(noise[0] + amplitude * wave, stride, reach=20) == pytest.approx(expected, abs=5)


def test_peaks_of_nothing_and_of_a_pattern_alone():
    assert spectral_peak(np.ones((16, 16)), 2) == 0
    assert spectral_peak(np.tile([1.0, 3.0], 32), (2,)) == inf
    assert spectral_peak(np.tile([0.1, 0.3, 0.7], 32), (3,)) == inf
    assert spectral_peak(np.full((3, 30, 30), 0.1), 3) == 0
    assert [spectral_peak(np.ones((4 * s, 4 * s)), s) for s in (2, 3, 4)] == [0, 0, 0]


def test_one_white_image_is_a_little_above_its_median():
    single = [spectral_peak(RNG(seed).standard_normal(4096), (2,)) for seed in range(150)]
    # the bin at 1/2 of a real image is a squared normal (mean 1), its surroundings exponential (median ln 2)
    assert np.mean(10 ** (np.array(single) / 10)) == pytest.approx(log2(np.e), rel=0.3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: phase_sums(3.0), ValueError, "weight has 0 axes"),
        (lambda: phase_sums(np.ones((0, 2))), ValueError, r"weight has shape \(0, 2\), but must hold at least one tap"),
        (lambda: phase_sums([1, 2], 0), ValueError, "stride is 0, but must be >= 1"),
        (lambda: phase_sums([1, 2], (2, 2)), ValueError, r"stride is \(2, 2\): 2 values"),
        (lambda: phase_sums([1, 2], 2, -1), ValueError, "padding is -1, but must be >= 0"),
        (lambda: phase_sums(["a"], 2), TypeError, "weight has dtype <U1"),
        (lambda: kernel_pattern([1, 2], 2.5), TypeError, "stride is 2.5"),
        (lambda: image_pattern(np.ones(4), 2), ValueError, r"images has 1 axes \(shape \(4,\)\), but stride \(2, 2\) needs 2"),
        (lambda: image_pattern(np.ones((4, 1)), 2), ValueError, "an axis of stride 2 must have at least 2 pixels"),
        (lambda: image_pattern(np.ones((0, 4, 4)), 2), ValueError, "must hold at least one pixel"),
        (lambda: expected_spectrum(3, 2, variance=-1.0), ValueError, "variance -1.0, but both must be finite, variance >= 0"),
        (lambda: expected_spectrum(3, 2, mean=0.0, variance=0.0), ValueError, "one of them not 0"),
        (lambda: expected_spectrum(0, 2), ValueError, "kernel is 0, but must be >= 1"),
        (lambda: spectral_peak(np.ones((16, 16)), 1), ValueError, r"stride is \(1, 1\), but must be above 1 along an axis"),
        (lambda: spectral_peak(np.ones((6, 6)), 2), ValueError, r"images has \(6, 6\) pixels, too few around the freq"),
        (lambda: spectral_peak(np.ones((16, 16)), 2, reach=1), ValueError, "reach is 1, but must be >= 2"),
        (lambda: spectral_peak(np.ones(8), (4,), reach=2), ValueError, "too few around the frequencies of stride"),
        (lambda: resize_kernel(np.ones((1, 1, 3)), 2, "cubic"), ValueError, "mode is 'cubic', valid modes are nearest"),
        (lambda: resize_kernel(np.ones((1, 3)), 2), ValueError, r"weight has 2 axes \(shape \(1, 3\)\), but must have 3 to 5"),
        (lambda: resize_kernel(np.ones((1, 1, 3)), 0), ValueError, "scale is 0, but must be >= 1"),
        (lambda: resize_kernel(np.ones((1, 1, 3), int), 2, "bilinear"), TypeError, "must be float32 or float64 for mode"),
        (lambda: shuffle_kernel(np.ones((3, 1, 3, 3)), 2), ValueError, "weight has 3 output channels .* a multiple of 4"),
        (lambda: icnr(np.ones((3, 1, 0))), ValueError, "must hold at least one tap"),
    ],
)  # fmt: skip
def test_bad_input_names_the_value(call, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        call()


def test_nothing_is_left_where_the_stride_shares_no_factor_with_the_dilation():
    for kernel, stride, dilation in product((2, 4, 6), (2, 3, 4), (1, 2, 3)):
        none = kernel % stride == 0 and gcd(stride, dilation) == 1
        assert (kernel_pattern(np.ones(kernel), stride, 0, dilation).ripple == 0) is none


def test_values_are_float64_and_inputs_stay():
    weight = np.ones((1, 1, 3), np.float32)
    weight.flags.writeable = False
    assert phase_sums(weight, 2).dtype == np.float64
    assert isinstance(kernel_pattern(weight, 2), Pattern)
    assert isinstance(resize_kernel(weight), Upsampler)
    assert resize_kernel(weight).weight.dtype == np.float32
    assert resize_kernel(weight.astype(np.int32), 3).weight.tolist() == [[[1, 2, 3, 2, 1]]]
