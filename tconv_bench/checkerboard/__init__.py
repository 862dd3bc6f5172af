"""Checkerboards: how many products meet in each output pixel, and the pattern that an up-sampler draws, in numbers.

``overlap_count`` and its contrast are exact and know no weights. ``kernel_pattern`` measures given weights by what they make
of a constant, ``image_pattern`` and ``spectral_peak`` an output, ``expected_spectrum`` random weights before any is drawn.
``resize_kernel`` and ``shuffle_kernel`` write resize-convolution and pixel shuffle as transposed convolutions, so that the same
measure serves all.
"""

from tconv_bench.checkerboard.operators import Upsampler, icnr, resize_kernel, shuffle_kernel
from tconv_bench.checkerboard.overlap import contrast, interior, overlap_count, overlap_period
from tconv_bench.checkerboard.spectra import (
    Pattern,
    expected_spectrum,
    image_pattern,
    kernel_pattern,
    phase_sums,
    spectral_peak,
)

__all__ = [
    "Pattern",
    "Upsampler",
    "contrast",
    "expected_spectrum",
    "icnr",
    "image_pattern",
    "interior",
    "kernel_pattern",
    "overlap_count",
    "overlap_period",
    "phase_sums",
    "resize_kernel",
    "shuffle_kernel",
    "spectral_peak",
]
