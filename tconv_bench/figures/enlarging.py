"""The ways to enlarge an image that learn nothing, with their values; and pooling, whose maxima find back to their places.

Source: the second background text's examples; the numbers are those of ``tconv_bench.upsample``, interpolated in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from tconv_bench import upsample
from tconv_bench.conv import checked_array
from tconv_bench.figures import grids
from tconv_bench.figures.grids import Panel
from tconv_bench.figures.lesson import CORNERS, POOLED, STAMPED
from tconv_bench.plots import style


@style.styled
def enlargements(x: ArrayLike = CORNERS, scale: Any = 2) -> Figure:
    """An image enlarged by nearest neighbour, linear and cubic interpolation and a bed of nails.

    ``x`` has one axis or two; ``scale`` and what is raised are as for ``nearest``.

    Source: the second background text, "Upsample techniques".
    """
    image = _drawable(x, "x")
    pixels = image.astype(np.float64)
    along: Any = (scale,) if image.ndim == 1 and np.ndim(scale) == 0 else scale
    nearest, bed = upsample.nearest(image, along), upsample.bed_of_nails(image, along)
    lines = [
        [_panel("Input", image, grids.INPUT), _panel("Nearest", nearest), _panel("Bed of nails", bed)],
        [
            _panel("Bilinear", upsample.bilinear(pixels, along)),
            _panel("Bilinear, corners aligned", upsample.bilinear(pixels, along, align_corners=True)),
            _panel("Bicubic", upsample.bicubic(pixels, along)),
        ],
    ]
    subtitle = (
        "A block of copies; the pixel in its block's first corner and zeros; weighted means of the two, or four, nearest "
        "pixels along each axis. Bicubic overshoots: what it makes may lie beyond the pixels that it comes from."
    )
    return grids.draw(lines, "Enlarging without anything to learn", subtitle)


@style.styled
def unpooling(
    x: ArrayLike = POOLED, values: ArrayLike | None = STAMPED, kernel: Any = 2, stride: Any = None, padding: Any = 0
) -> Figure:
    """Max pooling with the places of its maxima, and max unpooling, which puts other values there.

    ``x`` has two axes, ``values`` the maxima's shape (None: the maxima themselves); ``kernel``, ``stride``, ``padding``, and
    what is raised, as for ``max_pool2d``.

    Source: the second background text, "Max-unpooling".
    """
    image = _drawable(x, "x")
    maxima, places = upsample.max_pool2d(image, kernel, stride, padding)
    put = maxima if values is None else checked_array(values, "values")
    if put.shape != maxima.shape:
        raise ValueError(f"values has shape {put.shape}, but the maxima have {maxima.shape}")
    up = upsample.max_unpool2d(put, places, kernel, stride, padding, output_size=image.shape)
    kinds = np.full(image.size, grids.BLANK)
    kinds[places.ravel()] = grids.VALUE
    found = [(*divmod(int(place), image.shape[1]), 1, 1) for place in places.ravel()]
    note = grids.size_note(image)
    stood = grids.shaded(image, grids.INPUT, kinds=kinds.reshape(image.shape), top=grids.magnitude(image))
    lines = [
        [
            Panel("Input", grids.shaded(image, grids.INPUT).framed(*found), note),
            Panel("Where they stood", stood, note, grids.ARROW),
            _panel("Maxima", maxima, arrow=True),
        ],
        [_panel("Values", put, grids.INPUT), _panel("Unpooled", up, arrow=True)],
    ]
    subtitle = (
        "Above, the largest value of each window is kept, and where it stood. Below, values go back to those places; "
        "everything else is zero."
    )
    return grids.draw(lines, "Max pooling and max unpooling", subtitle)


def _drawable(x: ArrayLike, name: str) -> NDArray[Any]:
    image = checked_array(x, name)
    if image.ndim not in (1, 2):
        raise ValueError(f"{name} has {image.ndim} axes (shape {image.shape}), but a figure shows 1 or 2")
    return image


def _panel(title: str, values: NDArray[Any], hue: str = grids.OUTPUT, *, arrow: bool = False) -> Panel:
    return Panel(title, grids.shaded(np.atleast_2d(values), hue), grids.size_note(values), grids.ARROW if arrow else "")
