"""The pattern that an up-sampler draws, as energy at the frequencies of its stride.

A transposed convolution of a constant repeats with the stride s: output pixel o gets the sum of the taps of its phase::

    h[r] = sum of w[k] over the taps with k*dilation - pad_before = r modulo s,        r = 0 .. s-1 along each axis

Its spectrum lies on the frequencies j/s (cycles per pixel, j = 0 .. s-1 along each axis) and is the kernel's own frequency
response there, ``H[j] = sum_k w[k] exp(-2 pi i j k dilation / s)``: H[0] is the level, the rest is the pattern. No pattern:
equal sums in all phases, that is, a response that vanishes at every j/s but 0. By Parseval the pattern's energy over the
level's is the squared coefficient of variation of the sums::

    sum of |H[j]|^2 over j != 0 / |H[0]|^2 = variance of h / mean of h squared = ripple^2

Padding shifts the phases, output padding adds pixels; neither changes a magnitude.

Sources: Harada, Muramatsu & Kiya, "Multidimensional multirate filter without checkerboard effects", EUSIPCO 1998 (zeros at
j/s);
Sugawara, Shiota & Kiya, "Super-resolution using convolutional neural networks without any checkerboard artifacts", ICIP 2018
(equal direct-current gains of the phases, for networks); Odena, Dumoulin & Olah, Distill 2016 (unequal numbers of taps).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import binary_dilation

from tconv_bench.checkerboard.overlap import overlap_period
from tconv_bench.conv import checked_array
from tconv_bench.problem import as_int, padding_pairs, per_axis
from tconv_bench.reference import wide_dtype
from tconv_bench.upsample._tasks import checked_scale


@dataclass(frozen=True, eq=False)
class Pattern:
    """One level per phase of the stride for each of some channels: float64, ``(channels, *stride)``."""

    levels: NDArray[np.float64]

    @property
    def spectrum(self) -> NDArray[np.float64]:
        """Energy at the frequencies j/stride over the energy at 0, all channels together; shape ``stride``, element 0 is 1.

        Exactly 0 beyond that where each channel's levels are equal; infinite where the mean level is 0 in every channel.
        """
        axes = tuple(range(1, self.levels.ndim))
        energy = (np.abs(np.fft.fftn(self._deviations, axes=axes)) ** 2).sum(axis=0)
        found: NDArray[np.float64] = _over(energy, self._level_energy)
        found[(0,) * found.ndim] = 1.0
        return found

    @property
    def ripple(self) -> float:
        """Standard deviation over the phases / mean level, over several channels the root of the ratio of their squares' sums.

        0 where there is no pattern, sqrt(phases - 1) where one phase gets everything, infinite where the mean level is 0.
        """
        phases = self._deviations[0].size
        deviations = self._deviations.reshape(-1, phases)
        spread = phases * ((deviations - deviations.mean(axis=1, keepdims=True)) ** 2).sum()
        return float(np.sqrt(_over(spread, self._level_energy)))

    @property
    def decibels(self) -> float:
        """The pattern's energy over the level's: 20 log10(ripple); -inf where there is no pattern."""
        return decibels(self.ripple**2)

    @property
    def peak_decibels(self) -> float:
        """The strongest single frequency of the stride, energy over the level's; -inf where there is none."""
        others = self.spectrum.ravel()[1:]
        return decibels(float(others.max())) if others.size else -np.inf

    @property
    def _deviations(self) -> NDArray[np.float64]:
        """Levels less those of the first phase, so that equal levels give exact zeros."""
        channels, *stride = self.levels.shape
        return self.levels - self.levels.reshape(channels, -1)[:, 0].reshape(-1, *(1 for _ in stride))

    @property
    def _level_energy(self) -> float:
        return float((self.levels.reshape(len(self.levels), -1).sum(axis=1) ** 2).sum())


def decibels(ratio: float) -> float:
    """10 log10 of a ratio of energies; -inf for 0."""
    with np.errstate(divide="ignore"):
        return float(10 * np.log10(ratio))


def _over(energy: Any, level: float) -> Any:
    """energy / level, 0 where both are 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(energy == 0, 0.0, np.asarray(energy) / level)


def phase_sums(weight: ArrayLike, stride: Any = 1, padding: Any = 0, dilation: Any = 1) -> NDArray[Any]:
    """Sum of each phase's taps: what a transposed convolution makes of a constant 1, away from the borders.

    Args:
        weight: a kernel of 1 or 2 axes, or a layer's ``(C_in, C_out // groups, *kernel)`` with 3 to 5 axes.
        stride, dilation: an integer, or one per kernel axis.
        padding: an integer, one per axis, or one (before, after) pair per axis; it says which phase is whose.

    Returns:
        ``stride``, or ``(C_in, C_out // groups, *stride)``, in float64 or int64. Element r belongs to the output pixels
        ``o`` with ``o % stride == r``. A phase without a tap has 0.

    Raises:
        ValueError: a weight without a tap or of 0 or more than 5 axes, a stride or dilation below 1, a negative padding.
        TypeError: a dtype that is not served, sizes that are no integers.

    >>> phase_sums([1, 2, 3], stride=2)
    array([4, 2])
    """
    taps = checked_array(weight, "weight")
    if not 1 <= taps.ndim <= 5:
        raise ValueError(
            f"weight has {taps.ndim} axes (shape {taps.shape}), but must have 1 or 2 (a kernel) or 3 to 5 (a layer)"
        )
    ndim = taps.ndim if taps.ndim <= 2 else taps.ndim - 2
    if not taps.size:
        raise ValueError(f"weight has shape {taps.shape}, but must hold at least one tap")
    steps, dilations = per_axis(stride, ndim, "stride", 1), per_axis(dilation, ndim, "dilation", 1)
    sums = taps.astype(wide_dtype(taps.dtype))
    for axis, (s, d, (before, _)) in enumerate(zip(steps, dilations, padding_pairs(padding, ndim)), taps.ndim - ndim):
        lines = np.moveaxis(sums, axis, 0)
        found = np.zeros((s, *lines.shape[1:]), sums.dtype)
        np.add.at(found, (np.arange(len(lines)) * d - before) % s, lines)
        sums = np.moveaxis(found, 0, axis)
    return np.ascontiguousarray(sums)


def kernel_pattern(weight: ArrayLike, stride: Any = 1, padding: Any = 0, dilation: Any = 1) -> Pattern:
    """The pattern that a kernel draws on constants, in closed form; of a layer, every pair of channels is a channel of it.

    Arguments and errors as for ``phase_sums``. The ripple of a layer is that of the energies expected where the input
    channels' levels are uncorrelated, of mean 0 and equally strong.

    >>> kernel_pattern([1, 1, 1], stride=2).ripple, kernel_pattern([1, 1, 1, 1], stride=2).ripple
    (0.3333333333333333, 0.0)
    """
    sums = phase_sums(weight, stride, padding, dilation).astype(np.float64)
    ndim = sums.ndim if sums.ndim <= 2 else sums.ndim - 2
    return Pattern(sums.reshape(-1, *sums.shape[-ndim:]))


def image_pattern(images: ArrayLike, stride: Any) -> Pattern:
    """Mean of each phase of images: what ``kernel_pattern`` is, where an image is an up-sampled constant's interior.

    Args:
        images: ``(..., W)``, ``(..., H, W)`` or ``(..., D, H, W)``; every leading index is a channel of the pattern.
        stride: an integer for the last two axes, or 1 to 3 integers, one per last axis. Pixels past the last whole block of
            it are left out.

    Raises:
        ValueError: fewer axes than strides, an axis shorter than its stride, an axis without a pixel.
        TypeError: a dtype that is not served, a stride that is no integer.

    >>> image_pattern([[1.0, 3.0, 1.0, 3.0]], (2,)).ripple
    0.5
    """
    values, steps = _whole_blocks(images, stride)
    blocks = [part for n, s in zip(values.shape[1:], steps) for part in (n // s, s)]
    split = values.reshape(-1, *blocks)
    return Pattern(split.mean(axis=tuple(range(1, split.ndim, 2))))


def _whole_blocks(images: ArrayLike, stride: Any) -> tuple[NDArray[np.float64], tuple[int, ...]]:
    """Images ``(N, *sizes)`` whose sizes are cut to multiples of the stride, and one stride per axis."""
    pixels, steps = checked_array(images, "images"), checked_scale(stride)
    if pixels.ndim < len(steps):
        raise ValueError(f"images has {pixels.ndim} axes (shape {pixels.shape}), but stride {steps} needs {len(steps)}")
    sizes = pixels.shape[-len(steps) :]
    for n, s in zip(sizes, steps):
        if n < s:
            raise ValueError(f"images has shape {pixels.shape}, but an axis of stride {s} must have at least {s} pixels")
    if not pixels.size:
        raise ValueError(f"images has shape {pixels.shape}, but must hold at least one pixel")
    cut = [n - n % s for n, s in zip(sizes, steps)]
    whole: Any = (..., *map(slice, cut))
    return pixels[whole].astype(np.float64).reshape(-1, *cut), steps


def expected_spectrum(
    kernel: Any, stride: Any = 1, dilation: Any = 1, mean: float = 0.0, variance: float = 1.0
) -> NDArray[np.float64]:
    """``Pattern.spectrum`` of independent random taps of one mean and variance: expected energies over the expected level's.

    With N taps and D[j] the response of a kernel of ones, whose phases hold the overlap counts::

        E|H[j]|^2 = variance * N + mean^2 * |D[j]|^2

    Taps of mean 0 are white: every frequency of the stride is as strong as the level, whatever kernel and stride.

    Args:
        kernel: its size, an integer (one axis) or 1 to 3 of them.
        stride, dilation: an integer, or one per axis.
        mean, variance: of a tap; finite, variance >= 0, not both 0.

    Returns:
        float64 of shape ``stride``; element 0 is 1.

    Raises:
        ValueError, TypeError: as ``overlap_period`` does, and for a mean or variance that is not allowed.

    >>> expected_spectrum(3, 2), expected_spectrum(3, 2, mean=1.0, variance=0.0)
    (array([1., 1.]), array([1.        , 0.11111111]))
    """
    if not (np.isfinite(mean) and np.isfinite(variance) and variance >= 0 and (mean or variance)):
        raise ValueError(f"mean is {mean}, variance {variance}, but both must be finite, variance >= 0, and one of them not 0")
    counts = Pattern(overlap_period(kernel, stride, dilation)[None].astype(np.float64))
    taps = float(counts.levels.sum())
    found: NDArray[np.float64] = (variance * taps + mean**2 * taps**2 * counts.spectrum) / (
        variance * taps + (mean * taps) ** 2
    )
    return found


def spectral_peak(images: ArrayLike, stride: Any, reach: Any = None) -> float:
    """The strongest frequency of the stride in images, in dB above the median of the spectrum around it.

    The images' mean is taken off, a Hann window fades their borders, their power spectra are averaged. Around a frequency
    j/stride lie the bins up to ``reach`` away along each axis, but for those within one of any j/stride (0 among them), where
    the window's main lobe lies. White noise alone gives 1.6 dB per image (the median of a periodogram is ln 2 of its mean) and
    the spread of a maximum; compare with what the same images without the up-sampling give.

    Args:
        images: as for ``image_pattern``; leading axes are images whose spectra are averaged.
        stride: as for ``image_pattern``, not 1 everywhere.
        reach: bins, an integer >= 2; None: an eighth of the image, 2 at least.

    Returns:
        dB; 0 where there is nothing, neither peak nor surroundings, inf where there is a peak alone.

    Raises:
        ValueError: as for ``image_pattern``, a stride of 1 along every axis, a reach below 2, images too small to have
            surroundings (8 pixels are enough for stride 2, 12 for 3, 16 for 4).
        TypeError: as for ``image_pattern``.

    Source: the peaks are those of Frank et al., "Leveraging frequency analysis for deep fake image recognition", ICML 2020.
    """
    values, steps = _whole_blocks(images, stride)
    if set(steps) == {1}:
        raise ValueError(f"stride is {steps}, but must be above 1 along an axis")
    power = power_spectrum(values, steps)
    wide = [max(2, n // 8) if reach is None else as_int(reach, "reach", 2) for n in power.shape]
    bins = np.zeros(power.shape, bool)
    bins[np.ix_(*(np.arange(s) * (n // s) for n, s in zip(power.shape, steps)))] = True
    lobes = _around(bins, [1] * power.ndim)
    rounding = (np.finfo(np.float64).eps * float(np.abs(values).max())) ** 2
    peaks = []
    for at in list(np.argwhere(bins))[1:]:
        alone = np.zeros(power.shape, bool)
        alone[tuple(at)] = True
        around = power[_around(alone, wide) & ~lobes]
        if not around.size:
            raise ValueError(f"images has {power.shape} pixels, too few around the frequencies of stride {steps}")
        peaks.append(_above(power[tuple(at)], float(np.median(around)), rounding))
    return max(peaks)


def _above(peak: float, floor: float, rounding: float) -> float:
    """A peak above its floor in dB; what is no more than ``rounding`` is nothing."""
    if floor > rounding:
        return decibels(peak / floor)
    return np.inf if peak > rounding else 0.0


def _around(bins: NDArray[np.bool_], reach: list[int]) -> NDArray[np.bool_]:
    """Bins up to ``reach`` away along every axis, the spectrum being periodic."""
    wide = np.pad(bins, [(r, r) for r in reach], mode="wrap")
    grown = binary_dilation(wide, np.ones([2 * r + 1 for r in reach], bool))
    found: NDArray[np.bool_] = grown[tuple(slice(r, r + n) for r, n in zip(reach, bins.shape))]
    return found


def power_spectrum(images: ArrayLike, stride: Any) -> NDArray[np.float64]:
    """Mean power spectrum of images under a Hann window, their mean taken off; bins as ``numpy.fft`` orders them.

    Arguments as for ``image_pattern``. The sizes are cut to multiples of the stride, so that its frequencies fall on bins. A
    wave of amplitude 1 has power 1/4 in each of its two bins (1 in its one bin at frequency 1/2).
    """
    values, _ = _whole_blocks(images, stride)
    sizes = values.shape[1:]
    axes = tuple(range(1, values.ndim))
    values = values - values.mean(axis=axes, keepdims=True)
    for axis, n in enumerate(sizes, 1):
        window = 1 - np.cos(2 * np.pi * np.arange(n) / n) if n > 1 else np.ones(1)
        values *= window.reshape(-1, *(1,) * (values.ndim - axis - 1))
    power: NDArray[np.float64] = (np.abs(np.fft.fftn(values, axes=axes)) ** 2).mean(axis=0) / prod(sizes) ** 2
    return power
