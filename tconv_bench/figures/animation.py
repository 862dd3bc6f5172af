"""Figures as the frames of an animated GIF."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from tconv_bench.plots import style

DPI = 100  # 8 pt of type are 11 px high
TOGETHER = 16  # frames that share a palette: some 200 MB while it is made


def save_gif(frames: Sequence[Figure], folder: Path, name: str, seconds: float = 0.8) -> Path:
    """Write ``folder``/``name``.gif: each frame for ``seconds``, the last one twice as long, over and over.

    The folder is made where it is missing; the same frames give the same bytes.

    Raises:
        ValueError: no frame, frames of several sizes, or a time that is not above zero.
    """
    if not frames:
        raise ValueError("there is no frame, but an animation needs at least one")
    if not seconds > 0:
        raise ValueError(f"seconds is {seconds}, but must be > 0")
    images = [_image(frame) for frame in frames]
    sizes = sorted({image.shape[:2] for image in images})
    if len(sizes) > 1:
        raise ValueError(f"frames have the sizes {sizes} (rows, columns), but must have one size")
    first, *rest = (picture for at in range(0, len(images), TOGETHER) for picture in _indexed(images[at : at + TOGETHER]))
    durations = [round(1000 * seconds)] * len(rest) + [round(2000 * seconds)]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.gif"
    first.save(path, save_all=True, append_images=rest, duration=durations, loop=0, optimize=False)
    return path


def _indexed(images: list[NDArray[np.uint8]]) -> list[Image.Image]:
    """Images of one size with one palette, made as if they stood below each other."""
    tall, height = style.indexed(Image.fromarray(np.concatenate(images))), len(images[0])
    return [tall.crop((0, at, tall.width, at + height)) for at in range(0, tall.height, height)]


def _image(figure: Figure) -> NDArray[np.uint8]:
    content = BytesIO()
    style.write(figure, content, format="png", dpi=DPI)
    return np.asarray(Image.open(content).convert("RGB"))
