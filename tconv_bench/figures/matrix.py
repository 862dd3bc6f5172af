"""Matrices with their values, and the convolution as one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from tconv_bench import reference
from tconv_bench.conv import checked_array
from tconv_bench.convolution_matrix import convolution_matrix, transposed_problem
from tconv_bench.figures import grids
from tconv_bench.figures.grids import Panel
from tconv_bench.figures.lesson import INPUTS, KERNEL, SMALL_INPUT, lesson
from tconv_bench.plots import style

_ROLES = {"input": grids.INPUT, "kernel": grids.KERNEL, "output": grids.OUTPUT}
_EACH = "\N{CIRCLED DOT OPERATOR}"
_LEADS = {"*": grids.CONVOLVE, "*T": grids.TRANSPOSE, ".*": _EACH, "->": grids.ARROW, "=": "=", "+": "+", "@": "@"}


@style.styled
def matrices(*lines: Mapping[str, ArrayLike], title: str = "", subtitle: str = "") -> Figure:
    """Matrices with their values side by side, a line for each mapping from a name to a matrix.

    A name that holds "input", "kernel" or "output" has that role's colour. A name may begin with an operator and a space
    (``*``, ``*T`` for its transpose, ``.*`` element by element, ``=``, ``+``, ``@``, ``->``), which is drawn in front of its
    matrix. A single axis is drawn as a row. Without lines: the first background text's example, its convolution and the
    transposed one. ``title`` and ``subtitle`` stand above.

    Raises:
        ValueError: an empty line, a matrix without rows and columns.
        TypeError: a dtype that is not served.

    Source: the first background text's ``show_matrix`` and the three that are made of it.

    >>> figure = matrices({"Input": [[1, 2], [3, 4]], "* Kernel": [[5, 5], [5, 5]]})
    >>> [axes.get_title(loc="left") for axes in figure.axes]
    ['Input', 'Kernel']
    """
    if not lines:
        lines = _example()
        title = title or "A convolution and a transposed convolution"
        subtitle = subtitle or (
            "Above, nine input pixels are summed up in one output pixel; below, one input pixel goes to nine output pixels. "
            "The stronger a cell's colour, the larger its value."
        )
    panels = [[_panel(name, matrix) for name, matrix in line.items()] for line in lines]
    if not all(panels):
        raise ValueError("a line is empty, but must hold at least one matrix")
    return grids.draw(panels, title or "Matrices", subtitle or "The stronger a cell's colour, the larger its value.")


def _example() -> tuple[dict[str, ArrayLike], ...]:
    up = lesson(SMALL_INPUT, KERNEL)
    down = _convolved(np.array(INPUTS), np.array(KERNEL))
    return (
        {"Input": INPUTS, "* Kernel": KERNEL, "= Output of the convolution": down},
        {"Input": SMALL_INPUT, "*T Kernel": KERNEL, "= Output of the transposed convolution": up.y},
    )


def _convolved(x: NDArray[Any], kernel: NDArray[Any]) -> NDArray[Any]:
    return reference.conv(x[None, None], kernel[None, None], None, (1, 1), ((0, 0), (0, 0)), (1, 1), 1)[0, 0]  # type: ignore[no-any-return]


def _panel(name: str, matrix: ArrayLike) -> Panel:
    array = checked_array(matrix, f"matrix {name!r}")
    array = array[None] if array.ndim == 1 else array
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"matrix {name!r} has shape {array.shape}, but must have rows and columns")
    head, _, rest = name.partition(" ")
    lead, shown = (_LEADS[head], rest) if head in _LEADS else ("", name)
    role = next((hue for word, hue in _ROLES.items() if word in shown.lower()), grids.NEUTRAL)
    return Panel(shown, grids.shaded(array, role), grids.size_note(array), lead)


@style.styled
def matrix_view(
    x: ArrayLike = INPUTS,
    kernel: ArrayLike = KERNEL,
    up: ArrayLike | None = SMALL_INPUT,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
) -> Figure:
    """The matrix C of a convolution with its values, ``C @ x``, and ``C.T @ up``, the transposed convolution.

    ``x`` is the convolution's input, ``up`` the transposed one's, of the shape of the convolution's output (None: 1, 2, 3,
    ...). Both have one axis or two; sizes as for ``convolution_matrix``.

    Source: the first background text; Dumoulin & Visin, "A guide to convolution arithmetic for deep learning",
    arXiv:1603.07285, section 4.1.
    """
    image, weights = checked_array(x, "x"), checked_array(kernel, "kernel")
    if image.ndim not in (1, 2):
        raise ValueError(f"x has {image.ndim} axes (shape {image.shape}), but a figure shows 1 or 2")
    matrix = convolution_matrix(image.shape, weights, stride, padding, dilation)
    size = transposed_problem(image.shape, weights.shape, stride, padding, dilation, "int64").in_size
    small = np.arange(1, matrix.shape[0] + 1).reshape(size) if up is None else checked_array(up, "up")
    if small.shape != size:
        raise ValueError(f"up has shape {small.shape}, but the convolution's output has {size}")
    columns = image.reshape(-1, 1), small.reshape(-1, 1)
    down, large = matrix @ columns[0], matrix.T @ columns[1]
    entries, transposed = (grids.shaded(m.toarray(), grids.KERNEL) for m in (matrix, matrix.T))
    lines = [
        [
            Panel("C", entries, grids.size_note(matrix)),
            Panel("Input", grids.shaded(np.atleast_2d(image), grids.INPUT), f"as {grids.size_note(columns[0])}", "@"),
            Panel("Output", grids.shaded(np.atleast_2d(down.reshape(size)), grids.OUTPUT), f"as {grids.size_note(down)}", "="),
        ],
        [
            Panel("C transposed", transposed, grids.size_note(matrix.T)),
            Panel("Input", grids.shaded(columns[1], grids.INPUT), grids.size_note(small.reshape(-1, 1)), "@"),
            Panel("Output", grids.shaded(large, grids.OUTPUT), grids.size_note(large), "="),
            Panel(
                "Output, as an image",
                grids.shaded(np.atleast_2d(large.reshape(image.shape)), grids.OUTPUT),
                grids.size_note(image),
                grids.ARROW,
            ),
        ],
    ]
    subtitle = (
        "Row by row, C holds the kernel at the pixels that one output pixel reads. Its transpose goes the other way: column by "
        "column, one input pixel hands the kernel to the output."
    )
    return grids.draw(lines, "The convolution is a matrix, the transposed convolution its transpose", subtitle)


@style.styled
def matrix_strides(
    input_shape: Any = (7, 7),
    kernel: ArrayLike = KERNEL,
    strides: Sequence[Any] = (1, 2, 3),
    *,
    padding: Any = 0,
    dilation: Any = 1,
) -> Figure:
    """The matrices C of one convolution at several strides, below each other; colours are the kernel's values.

    ``strides`` holds at least one, the others and what is raised are as for ``convolution_matrix``.

    Source: as of ``matrix_view``.
    """
    weights = checked_array(kernel, "kernel")
    lines = []
    width = input_shape if np.ndim(input_shape) == 0 else input_shape[-1]
    for stride in strides:
        matrix = convolution_matrix(input_shape, weights, stride, padding, dilation)
        share = matrix.nnz / (matrix.shape[0] * matrix.shape[1])
        note = f"{grids.size_note(matrix)}, {matrix.nnz} entries: {100 * share:.0f} % of the elements"
        lines.append([Panel(f"Stride {stride}", grids.shaded(matrix.toarray(), grids.KERNEL).unnumbered(), note)])
    if not lines:
        raise ValueError("strides is empty, but must hold at least one stride")
    subtitle = (
        "A row per output pixel of the convolution, a column per input pixel, darker lines between the image's rows. From row "
        "to row the kernel moves by the stride; a larger stride keeps fewer rows. White is zero."
    )
    figure = grids.draw(lines, "The matrix at several strides", subtitle)
    for axes, (panel,) in zip(figure.axes, lines):
        axes.vlines(np.arange(0, panel.cells.columns + 1, width), 0, panel.cells.rows, color=style.FAINT, linewidth=0.8)
    return figure
