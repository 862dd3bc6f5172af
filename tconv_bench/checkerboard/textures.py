"""Images to train on that need no download: dead leaves, discs that cover one another.

Like photographs they have flat areas, edges at all scales and a power spectrum near 1 / frequency^2. They are periodic, so that
they have no borders, and any shift of one is another.

Source: Lee, Mumford & Huang, "Occlusion models for natural images", International Journal of Computer Vision 41, 2001.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tconv_bench.problem import as_int

LEAST, MOST = 2.0, 0.35  # radii: pixels, and of the image's side


def dead_leaves(count: Any, side: Any, seed: int, leaves: int = 400) -> NDArray[np.float64]:
    """Periodic images ``(count, side, side)`` of discs in greys from 0 to 1, radii with a density of 1 / radius^3.

    Raises:
        ValueError: a count below 0, a side below 8, no leaf.
        TypeError: sizes that are no integers.
    """
    number, length = as_int(count, "count", 0), as_int(side, "side", 8)
    rng = np.random.default_rng(seed)
    images = np.empty((number, length, length))
    for image in images:
        image[:] = rng.random()
        most, least = LEAST**-2, (MOST * length) ** -2  # of 1 / radius^2, which is uniform
        for share in rng.random(as_int(leaves, "leaves", 1)):
            radius = (least + (most - least) * share) ** -0.5
            y, x = (_distance(length, centre) for centre in rng.random(2) * length)
            image[np.add.outer(y**2, x**2) < radius**2] = rng.random()
    return images


def _distance(side: int, centre: float) -> NDArray[Any]:
    """From each pixel to a place along a periodic axis."""
    places = np.arange(side, dtype=np.float64)
    return np.mod(places - centre + side / 2, side) - side / 2
