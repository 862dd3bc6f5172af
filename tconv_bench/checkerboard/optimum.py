"""The limit of training where it is known exactly: the best transposed convolution of one channel, by least squares.

The mean squared error of ``sum_k w[k] * small[(o + before - k) / s] + bias`` against the images whose block means are ``small``
is a quadratic of the taps. Its matrix holds autocorrelations of ``small`` for taps of one phase, and zeros for taps of two,
which never meet: the phases are problems of their own, tied together by the bias alone. So nothing makes their sums equal but
the images' statistics. The images are taken with their mirror images: phases that mirror each other get mirrored taps.
"""

from __future__ import annotations

from functools import cache
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tconv_bench.checkerboard.spectra import Pattern, kernel_pattern
from tconv_bench.checkerboard.training import GREYS, form, images, shrunk


class Optimum(NamedTuple):
    """A kernel ``(kernel, kernel)``, its bias, what it reaches on the training images in dB, and flat greys' pattern."""

    weight: NDArray[np.float64]
    bias: float
    psnr: float
    pattern: Pattern


def optimum(kernel: int, stride: int, even: bool = False) -> Optimum:
    """The best kernel for enlarging the study's training images; ``even``: the best one that draws no pattern on constants.

    Raises:
        ValueError: a kernel below 1, a stride that does not divide the images' side; ``even`` with a kernel smaller than the
            stride, where some phase has no tap.
    """
    shape = form("transposed", kernel, stride)
    if even and kernel < stride:
        raise ValueError(f"kernel is {kernel}, but must be at least the stride ({stride}) for every phase to have a tap")
    near, across, mean, energy = _statistics(stride)
    before, phases = shape.padding[0][0], stride**2
    shifts, phase = np.divmod(np.arange(kernel) - before, stride)
    y, x = (places.ravel() for places in np.indices((kernel, kernel)))
    side = len(near)
    of_tap = phase[y] * stride + phase[x]
    taps = len(of_tap)
    matrix = np.full((taps + 1, taps + 1), mean)
    matrix[:taps, :taps] = near[(shifts[y][:, None] - shifts[y]) % side, (shifts[x][:, None] - shifts[x]) % side]
    matrix[:taps, :taps] *= of_tap[:, None] == of_tap
    matrix[taps, taps] = phases
    right = np.append(across[phase[y], phase[x], -shifts[y] % side, -shifts[x] % side], phases * mean)
    found = _solved(matrix, right, of_tap if even else None, phases)
    error = (found @ matrix @ found - 2 * right @ found) / phases + energy
    weight, bias = found[:-1].reshape(kernel, kernel), float(found[-1])
    sums = kernel_pattern(weight, stride, shape.padding).levels[0]
    return Optimum(weight, bias, float(-10 * np.log10(error)), Pattern(np.multiply.outer(GREYS, sums) + bias))


def _solved(
    matrix: NDArray[np.float64], right: NDArray[np.float64], of_tap: NDArray[np.int64] | None, phases: int
) -> NDArray[np.float64]:
    """The minimum of the quadratic; given each tap's phase, the minimum where all phases' sums are equal."""
    if of_tap is None:
        return np.asarray(np.linalg.solve(matrix, right))
    sums = np.append(of_tap, -1) == np.arange(phases)[:, None]
    alike = sums[1:] - sums[:1].astype(np.float64)  # every other phase's sum less the first one's: 0
    size, more = len(matrix), len(alike)
    bordered = np.block([[matrix, alike.T], [alike, np.zeros((more, more))]])
    return np.asarray(np.linalg.solve(bordered, np.append(right, np.zeros(more))))[:size]


@cache
def _statistics(stride: int) -> tuple[NDArray[np.float64], NDArray[np.float64], float, float]:
    """Of the images and their mirror images: autocorrelation of the small ones, correlations of each phase of the large ones
    with them ``(stride, stride, *lags)``, their mean, and the large ones' mean square. Lag l: the mean of [i] * small[i + l].
    """
    large = images(True)
    if large.shape[1] % stride:
        raise ValueError(f"stride is {stride}, but must divide the images' side, {large.shape[1]}")
    large = np.concatenate([large[:, ::down, ::right] for down in (1, -1) for right in (1, -1)])
    small = np.fft.rfft2(shrunk(large, stride))
    size = (large.shape[1] // stride,) * 2

    def with_small(other: NDArray[Any]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = np.fft.irfft2((np.conj(other) * small).mean(axis=0), size) / prod(size)
        return found

    across = [
        [with_small(np.fft.rfft2(large[:, row::stride, column::stride])) for column in range(stride)] for row in range(stride)
    ]
    return with_small(small), np.array(across), float(large.mean()), float((large**2).mean())
