"""Teaching pictures: matrices with their values, stamps, phases, inserted zeros, arithmetic, and what makes checkerboards.

Every function returns a ``matplotlib.figure.Figure`` (the ``*_frames`` a list of them, for ``save_gif``), takes its data and
sizes, and shows the background texts' own example without them. ``FIGURES`` lists what the command draws. Nothing is timed
here, and nothing else in the package imports this: matplotlib is loaded by whoever asks for a figure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from tconv_bench.figures.animation import save_gif
from tconv_bench.figures.enlarging import enlargements, unpooling
from tconv_bench.figures.gathering import gather
from tconv_bench.figures.interleaving import phases
from tconv_bench.figures.lesson import numbered
from tconv_bench.figures.matrix import matrices, matrix_strides, matrix_view
from tconv_bench.figures.matrix_cost import matrix_bytes
from tconv_bench.figures.overlaps import overlap, overlap_map
from tconv_bench.figures.patterns import checkerboard_map, checkerboard_spectra, checkerboard_training
from tconv_bench.figures.stamping import stamp_frames, stamps
from tconv_bench.figures.stepping import arithmetic, arithmetic_frames
from tconv_bench.figures.stretching import zero_insertion
from tconv_bench.plots import style, versus_svg
from tconv_bench.problem import Problem

__all__ = [
    "FIGURES",
    "Entry",
    "arithmetic",
    "arithmetic_frames",
    "checkerboard_map",
    "checkerboard_spectra",
    "checkerboard_training",
    "enlargements",
    "gather",
    "matrices",
    "matrix_bytes",
    "matrix_strides",
    "matrix_view",
    "overlap",
    "overlap_map",
    "phases",
    "save",
    "save_gif",
    "stamp_frames",
    "stamps",
    "unpooling",
    "zero_insertion",
]

FORMATS = ("png", "svg")
_PIXELS_PER_INCH = 200


@dataclass(frozen=True)
class Entry:
    """A picture of the command: its name, what it shows, how it is drawn, and how for a Problem's sizes where it can be."""

    name: str
    shows: str
    draw: Callable[[], Figure | list[Figure]]
    of_problem: Callable[[Problem], Figure | list[Figure]] | None = None

    def save(self, folder: Path, file_format: str, problem: Problem | None = None) -> Path:
        """Draw it, of ``problem``'s sizes if there is one, and write it: stills as ``file_format``, frames as a GIF."""
        if problem is not None and self.of_problem is None:
            raise ValueError(f"{self.name} does not show a problem")
        drawn = self.draw() if problem is None or self.of_problem is None else self.of_problem(problem)
        return save_gif(drawn, folder, self.name) if isinstance(drawn, list) else save(drawn, folder, self.name, file_format)


def save(figure: Figure, folder: Path, name: str, file_format: str = "png") -> Path:
    """Write a still as ``name``.png (200 pixels per inch) or ``name``.svg into a folder; the same figure gives the same bytes.

    ``folder`` is made where it is missing; ``file_format`` is "png" or "svg", another one a ValueError.
    """
    if file_format not in FORMATS:
        raise ValueError(f"format is {file_format!r}, valid formats are {', '.join(FORMATS)}")
    if file_format == "svg":
        return versus_svg.save(figure, folder, name)
    return style.save_png(figure, folder, name, round(_PIXELS_PER_INCH * figure.get_figwidth()))


def _of_lesson(draw: Callable[..., Any], problem: Problem) -> Any:
    return draw(*numbered(problem), problem.stride, problem.padding, problem.output_padding, problem.dilation)


def _of_sizes(draw: Callable[..., Any], p: Problem) -> Any:
    return draw(p.in_size, p.kernel, p.stride, p.padding, p.output_padding, p.dilation)


FIGURES = (
    Entry("matrices", "input, kernel and output of a convolution and a transposed one, with their values", matrices),
    Entry("matrix_view", "the matrix C of the convolution, C @ x and C.T @ x", matrix_view),
    Entry("matrix_strides", "the matrix at strides 1, 2 and 3", matrix_strides),
    Entry("matrix_bytes", "its bytes as images grow, dense and sparse", matrix_bytes),
    Entry("enlargements", "nearest, bilinear, bicubic, bed of nails", enlargements),
    Entry("unpooling", "max pooling, and values put back where the maxima stood", unpooling),
    Entry("stamps", "every input pixel stamps its kernel, the stamps add up", stamps, partial(_of_lesson, stamps)),
    Entry("stamps_animation", "the same as a GIF", stamp_frames, partial(_of_lesson, stamp_frames)),
    Entry(
        "zero_insertion", "stretch, pad, convolve with the flipped kernel", zero_insertion, partial(_of_lesson, zero_insertion)
    ),
    Entry("phases", "a small kernel per phase of the stride, outputs interleaved", phases, partial(_of_lesson, phases)),
    Entry("gather", "the pixels and taps that meet in each output pixel", gather, partial(_of_lesson, gather)),
    Entry("arithmetic", "the window of each output pixel over the padded input", arithmetic, partial(_of_lesson, arithmetic)),
    Entry("arithmetic_animation", "the same as a GIF", arithmetic_frames, partial(_of_lesson, arithmetic_frames)),
    Entry("overlap", "how many products meet in each output pixel", overlap, partial(_of_sizes, overlap)),
    Entry("overlap_map", "kernel by stride: where the checkerboard vanishes", overlap_map),
    Entry("checkerboard_map", "its strength by kernel and stride: counts, random, trained and best kernels", checkerboard_map),
    Entry("checkerboard_spectra", "outputs and spectra of six up-samplers, random and trained", checkerboard_spectra),
    Entry("checkerboard_training", "what training leaves of it, step by step", checkerboard_training),
)
