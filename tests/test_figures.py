"""Teaching figures: the numbers in their cells, what is outlined, how many steps there are, and that type can be read."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from tconv_bench import Problem, convolution_matrix, figures, reference
from tconv_bench.checkerboard import contrast, interior, kernel_pattern, overlap_count, overlap_period, spectral_peak, study
from tconv_bench.checkerboard.optimum import optimum
from tconv_bench.figures import animation, grids, interleaving, lesson, overlaps, stepping, windows
from tconv_bench.plots import style
from tconv_bench.units import X
from tests.test_cli import call
from tests.test_texts import INPUT, INPUTS, KERNEL, KERNEL_3X3, POOLED, PRINTED, X2, text_matrix

MINUS = "\N{MINUS SIGN}"
UP = [[2, 9, 6, 1], [6, 29, 30, 7], [10, 29, 33, 13], [12, 24, 16, 4]]
STILLS = [entry for entry in figures.FIGURES if not entry.name.endswith("animation")]
MOVING = [entry for entry in figures.FIGURES if entry.name.endswith("animation")]
PROBLEMS = [
    "n1_ci1_i3x3_co1_k3x3_s2x2_p1x1",
    "n1_ci1_i2x3_co1_k4x3_s3x2_p1:0x2:1_op1x1",
    "n1_ci1_i3x2_co1_k2x3_s2x1_d3x2_op2x0",
    "n1_ci1_i4x4_co1_k2x2_s1x1_p2x1",
    "n1_ci1_i3x3_co1_k1x2_s3x3",
    "n1_ci1_i5_co1_k4_s2_p1",
]
all_problems = pytest.mark.parametrize("text", PROBLEMS)


def panels(figure: Figure, title: str = "") -> list[Axes]:
    return [axes for axes in figure.axes if title in axes.get_title(loc="left")]


def panel(figure: Figure, title: str) -> Axes:
    (found,) = (axes for axes in figure.axes if axes.get_title(loc="left") == title)
    return found


def shape(axes: Axes) -> tuple[int, int]:
    return int(axes.get_ylim()[0]), int(axes.get_xlim()[1])


def cells(axes: Axes) -> list[list[Any]]:
    """The numbers of a panel; "" where a cell has none."""
    rows, columns = shape(axes)
    found: list[list[Any]] = [[""] * columns for _ in range(rows)]
    for text in axes.texts:
        x, y = text.get_position()
        shown = text.get_text().replace(MINUS, "-")
        found[int(y)][int(x)] = shown if shown == "?" else float(shown)
    return found


def outlines(axes: Axes) -> list[tuple[float, ...]]:
    """(row, column, rows, columns) of each outlined box."""
    boxes = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    return [(box.get_y(), box.get_x(), box.get_height(), box.get_width()) for box in boxes]


def fills(axes: Axes) -> np.ndarray:
    return np.asarray(axes.collections[0].get_array()).reshape(*shape(axes), 3)


def given(text: str, seed: int = 5) -> tuple[Any, ...]:
    """Small integers of a problem's sizes, with the arguments of a figure."""
    p, rng = Problem.parse(text), np.random.default_rng(seed)
    x, kernel = rng.integers(-5, 6, p.in_size), rng.integers(-5, 6, p.kernel)
    return x, kernel, p.stride, p.padding, p.output_padding, p.dilation


def exact(text: str, seed: int = 5) -> np.ndarray:
    p = Problem.parse(text)
    x, kernel, *_ = given(text, seed)
    out = reference.conv_transpose(Problem.parse(f"{text}_int64"), x[None, None], kernel[None, None])[0, 0]
    return out.reshape(1, -1) if p.ndim == 1 else out


@pytest.mark.parametrize("entry", STILLS, ids=lambda entry: entry.name)
def test_type_is_at_least_8_pt_and_no_text_touches_another_or_the_edge(entry: figures.Entry):
    assert_readable(entry.draw())


def assert_readable(figure: Figure) -> None:
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    shown = [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]
    assert figure.get_figwidth() == style.WIDTH
    assert min(text.get_fontsize() for text in shown) >= style.SMALL
    boxes = np.array([text.get_window_extent(renderer).extents for text in shown])
    assert boxes[:, :2].min() >= 0
    assert (boxes[:, 2:] <= [figure.bbox.width, figure.bbox.height]).all()
    low, high = np.maximum(boxes[:, None, :2], boxes[None, :, :2]), np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    overlap = np.triu((low + 0.5 < high).all(axis=-1), 1)
    assert [(shown[a].get_text(), shown[b].get_text()) for a, b in np.argwhere(overlap)] == []


AWKWARD = {
    "three digits": ([[231, 198, 179], [147, 106, 250]], [[2, 4, 2], [2, 3, 3], [4, 2, 1]], 2, 1),
    "negative": ([[-166, -189, 101]], [[5, -4, -1, 5], [-7, -4, -7, -1]], (1, 3), ((1, 0), (2, 1))),
    "one axis": ([884, 512, 430, 156, 510], [3, 5, 6, -2], 2, 1),
    "fractions": ([[-0.072, -0.945], [-0.0983, 0.0955]], [[0.0356, -0.506], [0.891, 0.321]], 2),
    "many phases": ([[8, 6]], [[6, 3, 5, 8, 3], [4, 7, 3, 5, 7]], (2, 5)),
}


LONG = ("gather", "arithmetic")  # a step per output pixel: drawn for two cases
AWKWARDLY = [
    (name, case)
    for name in ("stamps", "zero_insertion", "phases", *LONG)
    for case in (("one axis", "fractions") if name in LONG else AWKWARD)
]


@pytest.mark.parametrize(("name", "case"), AWKWARDLY)
def test_awkward_numbers_have_room(name: str, case: str):
    arguments = AWKWARD[case]
    figure = getattr(figures, name)(*arguments)
    assert_readable(figure)
    assert not any("left out" in text.get_text() for text in figure.texts)
    output = figure.axes[-1] if name == "arithmetic" else panels(figure, "Output")[-1]
    numbers = np.array(cells(output)).ravel()
    y = lesson.lesson(*arguments).y.ravel()
    shown = [float(grids.number(value).replace(MINUS, "-")) for value in y]
    if name != "stamps":  # its last panel has what padding crops away, too
        assert numbers.tolist() == shown


def test_a_matrix_too_wide_for_its_numbers_takes_none_from_the_others():
    x, kernel = np.arange(200, 236).reshape(6, 6), np.array([[-108, 52, 5], [20, 25, -121], [127, 97, 126]])
    figure = figures.matrix_view(x, kernel, stride=2, up=None, padding=1)
    assert_readable(figure)
    wide, image, _, transposed, *_, large = figure.axes
    assert not wide.texts
    assert cells(image) == x.tolist()
    matrix = convolution_matrix((6, 6), kernel, 2, 1)
    assert cells(transposed) == matrix.T.toarray().tolist()
    assert cells(large) == (matrix.T @ np.arange(1, 10)).reshape(6, 6).tolist()
    assert any("left out where they do not fit" in text.get_text().replace("\n", " ") for text in figure.texts)


@pytest.mark.parametrize("draw", [figures.stamp_frames, figures.arithmetic_frames], ids=lambda d: d.__name__)
def test_frames_have_one_size_whatever_their_numbers(draw: Any):
    frames = draw([[1, -2000], [3, 44444]], [[1, -1, 321]], 2, 0, 1)
    assert len({tuple(frame.get_size_inches()) for frame in frames}) == 1
    places = [[axes.get_position().bounds for axes in frame.axes] for frame in frames]
    assert places.count(places[0]) == len(frames)


def test_the_ways_to_enlarge_show_the_second_texts_numbers():
    figure = figures.enlargements()
    assert cells(panel(figure, "Input")) == [[10, 20], [30, 40]]
    assert cells(panel(figure, "Nearest")) == np.kron([[10, 20], [30, 40]], np.ones((2, 2))).tolist()
    bilinear = np.array(cells(panel(figure, "Bilinear")))
    assert bilinear.tolist() == [[10, 12.5, 17.5, 20], [15, 17.5, 22.5, 25], [25, 27.5, 32.5, 35], [30, 32.5, 37.5, 40]]
    assert np.floor(bilinear).tolist() == PRINTED
    assert cells(panel(figure, "Bed of nails")) == [[10, 0, 20, 0], [0] * 4, [30, 0, 40, 0], [0] * 4]
    assert cells(panel(figure, "Bilinear, corners aligned"))[0] == [10, 13.3, 16.7, 20]
    assert cells(panel(figure, "Bicubic"))[0][0] < 10
    stretched = figures.enlargements([[1, -2, 3]], (1, 3))
    assert_readable(stretched)
    assert cells(panel(stretched, "Nearest")) == [[1, 1, 1, -2, -2, -2, 3, 3, 3]]
    with pytest.raises(ValueError, match=r"x has 3 axes \(shape \(1, 1, 1\)\), but a figure shows 1 or 2"):
        figures.enlargements([[[1]]])


def test_unpooling_shows_the_second_texts_numbers():
    figure = figures.unpooling()
    assert cells(panel(figure, "Input")) == POOLED
    assert outlines(panel(figure, "Input")) == [(1, 1, 1, 1), (0, 2, 1, 1), (2, 1, 1, 1), (3, 2, 1, 1)]
    assert cells(panel(figure, "Where they stood")) == [["", "", 4, ""], ["", 4, "", ""], ["", 4, "", ""], ["", "", 4, ""]]
    assert cells(panel(figure, "Maxima")) == [[4, 4], [4, 4]]
    assert cells(panel(figure, "Values")) == [[1, 2], [3, 4]]
    assert cells(panel(figure, "Unpooled")) == [[0, 0, 2, 0], [0, 1, 0, 0], [0, 3, 0, 0], [0, 0, 4, 0]]
    other = figures.unpooling(np.arange(15).reshape(3, 5), None, 3, 2, 1)
    assert_readable(other)
    assert cells(panel(other, "Values")) == cells(panel(other, "Maxima")) == [[6, 8, 9], [11, 13, 14]]
    assert np.sum(cells(panel(other, "Unpooled"))) == 6 + 8 + 9 + 11 + 13 + 14
    with pytest.raises(ValueError, match=r"values has shape \(1, 1\), but the maxima have \(2, 3\)"):
        figures.unpooling(np.arange(15).reshape(3, 5), [[1]], 3, 2, 1)


def test_stamps_that_cancel_have_their_colours():
    axes = panel(figures.stamps([[5, 7]], [[1, 0, -1]], stride=2), f"7 {X} kernel")
    assert_array_equal(np.isfinite(fills(axes)) & (fills(axes) >= 0) & (fills(axes) <= 1), True)
    assert fills(axes)[0, 2].min() < 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (255, "255"), (-128, "-128"), (0, "0"), (7.0, "7"), (-0.25, "-0.25"), (1 / 3, "0.333"), (123.456, "123"),
        (1e-7, "1.0e-7"), (-2.5e9, "-2.5e9"), (9999999, "9999999"), (float("nan"), "nan"), (float("-inf"), "-\N{INFINITY}"),
        (np.float32(0.1), "0.1"), (np.int64(-3), "-3"), (99999.5, "100000"),
    ],
)  # fmt: skip
def test_numbers_are_short_and_have_a_true_minus(value: Any, text: str):
    assert grids.number(value) == text.replace("-", MINUS)


def test_matrices_show_the_first_texts_example():
    figure = figures.matrices()
    assert [axes.get_title(loc="left") for axes in figure.axes[:2]] == ["Input", "Kernel"]
    assert cells(figure.axes[0]) == INPUTS.tolist()
    assert cells(figure.axes[1]) == cells(figure.axes[4]) == KERNEL_3X3.tolist()
    assert cells(panel(figure, "Output of the convolution")) == [[122, 148], [126, 134]]
    assert cells(figure.axes[3]) == X2.reshape(2, 2).tolist()
    assert cells(panel(figure, "Output of the transposed convolution")) == UP


def test_matrices_of_ones_own():
    figure = figures.matrices({"My input": [[1.5, -2], [0, 4]], "* Kernel": [1, 2, 3]}, {"= what": [[100]]}, title="Mine")
    first, kernel, what = figure.axes
    assert cells(first) == [[1.5, -2], [0, 4]]
    assert (shape(kernel), shape(what)) == ((1, 3), (1, 1))
    assert {grids.CONVOLVE, "="} <= {text.get_text() for text in figure.texts}
    assert any("Pink is negative" in text.get_text() for text in figure.texts)
    # a cell is white at zero, full at the largest magnitude, and its role's hue above zero
    tones = fills(first)
    assert_allclose(tones[1, 0], 1)
    assert_allclose(tones[1, 1], 1 - 0.75 * (1 - np.array(to_rgb(grids.INPUT))))
    assert np.argmin(fills(kernel)[0, 2]) == np.argmin(to_rgb(grids.KERNEL))
    assert tones[0, 1, 1] < tones[0, 1, 0]  # negative: pink, less green than red


def test_numbers_that_do_not_fit_are_left_out_and_that_is_said():
    figure = figures.matrices({"Input": np.arange(40).reshape(1, 40) + 100}, {"Output": [[5]]})
    wide, small = figure.axes
    assert not wide.texts
    assert cells(small) == [[5]]
    assert any("Numbers are left out where they do not fit." in text.get_text() for text in figure.texts)
    figure = figures.matrices({"Input": np.arange(40).reshape(1, 40) + 100})
    assert any("Numbers are left out: they do not fit." in text.get_text() for text in figure.texts)
    with pytest.raises(ValueError, match="200 columns of cells side by side are too many for a figure"):
        figures.matrices({"Input": np.zeros((2, 200))})


def test_the_matrix_and_its_transpose_hold_the_texts_numbers():
    figure = figures.matrix_view()
    expected = text_matrix(INPUTS, KERNEL_3X3)
    assert cells(panel(figure, "C")) == expected.tolist()
    assert cells(panel(figure, "C transposed")) == expected.T.tolist()
    assert cells(figure.axes[2]) == [[122, 148], [126, 134]]
    assert cells(panel(figure, "Output, as an image")) == UP
    assert cells(figure.axes[5]) == np.reshape(UP, (16, 1)).tolist()


def test_the_matrix_of_ones_own_sizes():
    x, kernel = np.arange(6), np.array([1, -2, 3])
    figure = figures.matrix_view(x, kernel, None, stride=2, padding=((1, 0),))
    assert cells(panel(figure, "C")) == convolution_matrix(6, kernel, 2, ((1, 0),)).toarray().tolist()
    assert cells(panel(figure, "Output, as an image")) == [[-2, 3 + 2, -4, 6 + 3, -6, 9]]
    with pytest.raises(ValueError, match=r"up has shape \(2, 2\), but the convolution's output has \(3,\)"):
        figures.matrix_view(x, kernel, np.ones((2, 2), int), stride=2, padding=((1, 0),))


def test_strides_colour_the_entries_and_nothing_else():
    figure = figures.matrix_strides((5, 6), KERNEL_3X3, (1, 2, (2, 3)), padding=1)
    for axes, stride in zip(figure.axes, (1, 2, (2, 3))):
        matrix = convolution_matrix((5, 6), KERNEL_3X3, stride, 1).toarray()
        assert axes.get_title(loc="left") == f"Stride {stride}"
        assert_array_equal((fills(axes) < 1).any(axis=-1), matrix != 0)
        assert not axes.texts
    assert not any("left out" in text.get_text() for text in figure.texts)


def test_bytes_are_those_of_the_arrays():
    sides = (4, 6, 9)
    bytes_, shares = figures.matrix_bytes(sides, kernel=3, stride=2, padding=1, dtype="float64").axes
    lines = {line.get_label(): line.get_ydata() for line in bytes_.lines}
    for place, side in enumerate(sides):
        matrix = convolution_matrix((side, side), np.ones((3, 3), np.int64), 2, 1)
        assert lines["dense"][place] == matrix.toarray().nbytes
        assert lines["CSR"][place] == matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes
        assert lines["image"][place] == 8 * side**2
        assert shares.lines[0].get_ydata()[place] == pytest.approx(np.mean(matrix.toarray() != 0))
    assert (bytes_.get_yscale(), shares.get_yscale()) == ("log", "log")


def test_stamps_show_the_second_texts_sum():
    figure = figures.stamps()
    stamps = np.zeros((4, 3, 3), int)
    for at, (row, column) in enumerate(np.ndindex(2, 2)):
        stamps[at, row : row + 2, column : column + 2] = INPUT[row, column] * KERNEL
    for at, stamp in enumerate(stamps):
        axes = panel(figure, f"{at + 1} {X} kernel")
        assert cells(axes) == [[value or "" for value in row] for row in stamp.tolist()]
        assert outlines(axes) == [(at // 2, at % 2, 2, 2)]
        alone = [["", ""], ["", ""]]
        alone[at // 2][at % 2] = at + 1
        assert cells(panel(figure, f"Pixel {at + 1}")) == alone
        after = panel(figure, f"After pixel {at + 1}" if at < 3 else "= Output")
        assert cells(after) == [[value or "" for value in row] for row in stamps[: at + 1].sum(axis=0).tolist()]
    assert cells(panel(figure, "Output")) == [["?"] * 3] * 3


@all_problems
def test_the_last_stamp_completes_the_output(text: str):
    figure = figures.stamps(*given(text), steps=3)
    y = exact(text)
    last = panel(figure, "= Output")
    before = [pair[0] for pair in Problem.parse(text).padding]
    rows, columns = before if len(before) == 2 else (0, before[0])
    inside = np.array(cells(last), object)[rows : rows + y.shape[0], columns : columns + y.shape[1]]
    # a pixel that no stamp reaches stays empty
    assert_array_equal(np.where(inside == "", 0, inside).astype(float), y)
    count = int(np.prod(Problem.parse(text).in_size))
    assert len(panels(figure, "Pixel ")) == min(count, 3)
    assert panels(figure, f"Pixel {count}")


def test_cropped_cells_are_grey():
    axes = panel(figures.stamps(padding=1), "= Output")
    assert cells(axes) == [[5, 15, 10], [20, 50, 30], [15, 35, 20]]
    grey = (fills(axes) == to_rgb(style.GAP)).all(axis=-1)
    assert grey.tolist() == [[True, True, True], [True, False, True], [True, True, True]]


@all_problems
def test_every_window_finds_its_output_pixel(text: str):
    seen = windows.Windows(lesson.lesson(*given(text)))
    y, flipped = exact(text), seen.lesson.kernel[::-1, ::-1]
    assert_array_equal(seen.lesson.y, y)
    padded = np.pad(seen.values, 40)  # windows reach past the canvas nowhere, but slices would not tell
    for pixel in np.ndindex(*y.shape):
        boxes = seen.boxes(pixel)
        if len(boxes) == 1:
            row, column, high, wide = boxes[0]
            boxes = [(row + a, column + b, 1, 1) for a, b in np.ndindex(high, wide)]
        assert all(0 <= row < seen.shape[0] and 0 <= column < seen.shape[1] for row, column, _, _ in boxes)
        found = np.array([padded[row + 40, column + 40] for row, column, _, _ in boxes]).reshape(flipped.shape)
        assert (found * flipped).sum() == y[pixel]
        assert seen.sum_text(pixel).endswith(f"= {grids.number(y[pixel])}")
        products = seen.sum_text(pixel).split(" = ")[0].split(" + ")
        assert (len(products) if products != ["0"] else 0) == overlap_count(*_sizes(text)).reshape(y.shape)[pixel]


def _sizes(text: str) -> tuple[Any, ...]:
    p = Problem.parse(text)
    return p.in_size, p.kernel, p.stride, p.padding, p.output_padding, p.dilation


def test_zero_insertion_shows_every_stage():
    figure = figures.zero_insertion()
    stretched = [[2, 0, 1], [0, 0, 0], [4, 0, 4]]
    padded = np.pad(stretched, 2)
    assert cells(panel(figure, "Stretched")) == stretched
    assert cells(panel(figure, "Padded")) == padded.tolist()
    assert cells(panel(figure, "Flipped kernel")) == KERNEL_3X3[::-1, ::-1].tolist()
    output = [[np.sum(padded[r : r + 3, c : c + 3] * KERNEL_3X3[::-1, ::-1]) for c in range(5)] for r in range(5)]
    assert cells(panel(figure, "Output")) == output
    assert outlines(panel(figure, "Padded")) == [(2, 2, 3, 3)]
    assert outlines(panel(figure, "Output")) == [(2, 2, 1, 1)]
    white = (fills(panel(figure, "Padded"))[2:5, 2:5] == 1).all(axis=-1)
    assert white.tolist() == [[False, True, False], [True, True, True], [False, True, False]]
    caption = " ".join(text.get_text().replace("\n", " ") for text in figure.texts)
    assert "2·1 + 1·3 + 4·1 + 4·1 = 13" in caption
    assert "92 %" in caption  # 45 of 49


def test_zero_insertion_pads_what_padding_and_output_padding_leave():
    figure = figures.zero_insertion(INPUT, KERNEL_3X3, 2, ((1, 2), (3, 0)), (1, 0))
    assert any(f"1 before, 1 after {X} {MINUS}1 before, 2 after" in text.get_text() for text in figure.texts)
    assert shape(panel(figure, "Padded")) == (5, 5)
    assert shape(panel(figure, "Output")) == (3, 2)


def test_phases_split_the_texts_kernel():
    figure = figures.phases()
    small = {name: cells(panel(figure, f"Phase {name}")) for name in ("0, 0", "0, 1", "1, 0", "1, 1")}
    assert small == {"0, 0": [[1, 1], [3, 1]], "0, 1": [[4], [3]], "1, 0": [[1, 3]], "1, 1": [[4]]}
    parts = np.array([cells(axes) for axes in panels(figure) if not axes.get_title(loc="left")], object)
    assert parts.shape == (4, 5, 5)
    output = np.array(cells(panel(figure, "Output")))
    assert_array_equal((parts != "").sum(axis=0), 1)
    assert_array_equal(np.where(parts == "", 0, parts).sum(axis=0).astype(float), output)
    # each part is the full convolution of the input with its small kernel
    x = X2.reshape(2, 2)
    for (row, column), kernel in zip(np.ndindex(2, 2), small.values()):
        dense = np.zeros((3 - row, 3 - column))
        for a, b in np.ndindex(*np.shape(kernel)):
            dense[a : a + 2, b : b + 2] += x * kernel[a][b]
        assert_array_equal(output[row::2, column::2], dense)


@all_problems
def test_phases_colour_taps_and_the_pixels_that_they_reach(text: str):
    known = lesson.lesson(*given(text))
    of_taps, of_pixels = interleaving.phase_of_taps(known), interleaving.phase_of_pixels(known)
    for pixel in np.ndindex(*known.y.shape):
        assert {of_taps[tap] for _, tap in known.taps(pixel)} <= {of_pixels[pixel]}
    sizes = [interleaving.small_kernel(known, number).size for number in range(int(np.prod(known.problem.stride)))]
    assert sum(sizes) == known.kernel.size
    figure = figures.phases(*given(text))
    assert len(panels(figure, "Phase")) == len(sizes)
    tones = {tuple(fills(panel(figure, "Kernel"))[tap]) for tap in np.ndindex(*known.kernel.shape)}
    assert len(tones) == np.count_nonzero(sizes)


def test_arithmetic_has_a_step_per_output_pixel():
    figure = figures.arithmetic()
    steps, outputs = panels(figure, "Step"), [axes for axes in figure.axes if not axes.get_title(loc="left")]
    assert [axes.get_title(loc="left") for axes in steps] == [f"Step {number}" for number in range(1, 10)]
    y = [5, 15, 10, 20, 50, 30, 15, 35, 20]
    for at, (step, output) in enumerate(zip(steps, outputs)):
        assert cells(step) == np.pad(INPUT, 1).tolist()
        assert outlines(step) == [(at // 3, at % 3, 2, 2)]
        assert [value for row in cells(output) for value in row] == y[: at + 1] + [""] * (8 - at)
        assert outlines(output) == [(at // 3, at % 3, 1, 1)]


def test_arithmetic_of_many_pixels_shows_the_essential_ones():
    text = "n1_ci1_i5x5_co1_k3x3_s2x2_p1x1"
    figure = figures.arithmetic(*given(text))
    # 9x9 pixels: four corners, and the four phases at row and column 4 and 5
    assert [axes.get_title(loc="left") for axes in panels(figure, "Step")] == [
        f"Step {9 * row + column + 1}" for row, column in [(0, 0), (0, 8), (4, 4), (4, 5), (5, 4), (5, 5), (8, 0), (8, 8)]
    ]
    assert any("8 of 81 steps" in text.get_text().replace("\n", " ") for text in figure.texts)
    assert len(panels(figures.arithmetic(*given("n1_ci1_i9_co1_k2_s2"), steps=18), "Step")) == 18


@all_problems
def test_essential_steps_hold_every_phase(text: str):
    known = lesson.lesson(*given(text))
    shown = stepping.essential(known)
    of_pixels = interleaving.phase_of_pixels(known)
    assert {of_pixels[pixel] for pixel in shown} == set(of_pixels.ravel())


@all_problems
def test_gather_outlines_the_pixels_and_taps_that_meet(text: str):
    x, kernel, *sizes = given(text)
    known, y = lesson.lesson(x, kernel, *sizes), exact(text)
    shown = list(np.ndindex(*known.y.shape)) if y.size <= 12 else stepping.essential(known)
    figure = figures.gather(x, kernel, *sizes)
    inputs, taps, outputs = panels(figure, "Input"), panels(figure, "Kernel"), panels(figure, "Output")
    assert len(inputs) == len(taps) == len(outputs) == len(shown)
    for number, pixel in enumerate(shown):
        pairs = known.taps(pixel)
        assert outlines(inputs[number]) == [(*i, 1, 1) for i, _ in pairs]
        assert outlines(taps[number]) == [(*k, 1, 1) for _, k in pairs]
        assert outlines(outputs[number]) == [(*pixel, 1, 1)]
        assert sum(known.x[i] * known.kernel[k] for i, k in pairs) == known.y[pixel]
        assert cells(outputs[number])[pixel[0]][pixel[1]] == y[pixel]
        done = np.ravel_multi_index(pixel, y.shape) + 1
        assert sum(value != "" for row in cells(outputs[number]) for value in row) == done


def test_gather_shows_the_essential_pixels_of_many():
    figure = figures.gather([[1, 2], [3, 4]], np.ones((3, 3), int), 2, steps=3)
    titles = [axes.get_title(loc="left")[7:] for axes in panels(figure, "Output")]
    assert titles == ["0, 0", "0, 4", "2, 2", "2, 3", "3, 2", "3, 3", "4, 0", "4, 4"]
    assert any("8 of 25 pixels" in text.get_text().replace("\n", " ") for text in figure.texts)


@pytest.mark.parametrize("entry", MOVING, ids=lambda entry: entry.name)
def test_animations_have_a_frame_per_step_and_decode(entry: figures.Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(animation, "TOGETHER", 3)
    problem = Problem.parse("n1_ci1_i1x2_co1_k2x2_s2x2_p0:1x0")
    frames = entry.of_problem(problem)
    expected = 4 if entry.name.startswith("arithmetic") else 2
    assert len(frames) == expected
    path = figures.save_gif(frames, tmp_path, "moves", seconds=0.5)
    with Image.open(path) as gif:
        assert (gif.n_frames, gif.info["loop"]) == (expected, 0)
        pictures, durations = [], []
        for number in range(expected):
            gif.seek(number)
            pictures.append(np.asarray(gif.convert("RGB")))
            durations.append(gif.info["duration"])
    assert durations == [500] * (expected - 1) + [1000]
    assert {picture.shape for picture in pictures} == {pictures[0].shape}
    for a, b in pairwise(pictures):
        assert (a != b).any()
    for picture, frame in zip(pictures, frames):
        drawn = animation._image(frame).astype(int)
        assert np.mean(picture == drawn) > 0.98  # what differs are edges of type
        assert np.abs(picture - drawn).max() < 64
    # the colours of the cells are those that were drawn
    blue = np.round(255 * (1 - 0.75 * (1 - np.array(to_rgb(grids.INPUT))))).astype(int)
    assert (np.abs(pictures[0].astype(int) - blue).max(axis=-1) <= 1).sum() > 100


def test_captions_name_the_sizes_that_were_given():
    caption = figures.arithmetic([1, 2], [1, 2, 3], 2, ((1, 0),), 1).texts[1].get_text()
    assert caption.startswith("Input 2, kernel 3, stride 2, padding 1:0, output padding 1. Each output pixel")
    caption = figures.arithmetic(INPUT, [[1, 2]], (2, 1), dilation=2).texts[1].get_text()
    assert caption.startswith("Input 2, kernel 1x2, stride 2x1, dilation 2. Each output pixel")


def test_frames_are_the_steps_of_the_stills():
    frames = figures.arithmetic_frames()
    assert len(frames) == 9
    for number, frame in enumerate(frames, start=1):
        assert frame.get_size_inches().tolist() == frames[0].get_size_inches().tolist()
        (step,) = panels(frame, f"Step {number} of 9")
        assert outlines(step) == [((number - 1) // 3, (number - 1) % 3, 2, 2)]
    assert cells(panel(frames[-1], "Output")) == [[5, 15, 10], [20, 50, 30], [15, 35, 20]]
    assert [text.get_text() for text in frames[4].texts][-1] == "1·5 + 2·5 + 3·5 + 4·5 = 50"
    stamped = figures.stamp_frames()
    assert len(stamped) == 4
    assert cells(panel(stamped[1], "Output")) == [[5, 15, 10], [5, 15, 10], ["", "", ""]]
    assert outlines(panel(stamped[3], "Input")) == [(1, 1, 1, 1)]


def test_the_same_frames_give_the_same_bytes(tmp_path: Path):
    one, other = (figures.save_gif(figures.stamp_frames([1, 2], [3]), tmp_path, name) for name in ("one", "other"))
    assert one.read_bytes() == other.read_bytes()


def test_bad_frames():
    frames = figures.stamp_frames([1, 2], [3])
    with pytest.raises(ValueError, match="there is no frame"):
        figures.save_gif([], Path("."), "none")
    with pytest.raises(ValueError, match="seconds is 0, but must be > 0"):
        figures.save_gif(frames, Path("."), "none", seconds=0)
    with pytest.raises(ValueError, match=r"frames have the sizes \[.*\] \(rows, columns\), but must have one size"):
        figures.save_gif([frames[0], figures.overlap(3)], Path("."), "none")


@pytest.mark.parametrize(
    "arguments", [((5, 5), 3, 2), ((4, 3), (3, 2), (2, 1), ((1, 0), 0)), (6, 5, 3, 1, 2), ((3, 3), 3, 2, 1, 1, 2)]
)
def test_overlap_cells_are_the_counts(arguments: tuple[Any, ...]):
    figure = figures.overlap(*arguments)
    in_size, kernel, stride, *rest = arguments
    counts, inside = np.atleast_2d(overlap_count(*arguments)), interior(*arguments)
    first, *others = figure.axes
    assert cells(first) == counts.tolist()
    box = [part for axis in inside for part in (axis.start, axis.stop - axis.start)]
    if min(box[1::2]) > 0:
        row, rows, column, columns = box if len(box) == 4 else [0, 1, *box]
        assert outlines(first) == [(row, column, rows, columns)]
    for axes in others:  # the next kernel that the stride divides
        even = -(-np.array(kernel) // np.array(stride)) * np.array(stride)
        counts = overlap_count(in_size, even.tolist(), stride, *rest)
        assert cells(axes) == np.atleast_2d(counts).tolist()
    assert len(others) == 1


def test_an_even_kernel_stands_alone():
    figure = figures.overlap((4, 4), 4, 2, 1)
    assert len(figure.axes) == 1
    assert any("contrast 0" in text.get_text() for text in figure.texts)


def test_the_map_says_where_the_pattern_vanishes():
    figure = figures.overlap_map(8, 5, dilation=2, ndim=1)
    (axes,) = figure.axes
    shown = {text.get_position(): text.get_text() for text in axes.texts}
    framed = {(round(column + 0.44), round(row + 0.44)) for row, column, size, _ in outlines(axes) if size < 1}
    hatched = {(round(p.get_x() + 0.5), round(p.get_y() + 0.5)) for p in axes.patches if p.get_hatch()}
    assert len(shown) == 40
    for (kernel, stride), text in shown.items():
        value = contrast(overlap_period(kernel, stride, 2))
        assert float(text) == pytest.approx(float(value), abs=0.005)
        assert ((kernel, stride) in framed) is (value == 0)
        assert ((kernel, stride) in hatched) is (value == 1)
    assert (2, 2) not in framed  # the dilation shares a factor with the stride
    assert (3, 3) in framed
    assert overlaps.overlap_contrasts(3, 2)[1][2] == contrast([[4, 2], [2, 1]])


def test_the_checkerboard_map_has_the_measures_and_outlines_what_is_none():
    figure = figures.checkerboard_map()
    rows = study.read()
    for axes, measure in zip(
        figure.axes,
        (
            lambda k, s: kernel_pattern(np.ones((k, k)), s).ripple,
            lambda k, s: np.sqrt(s * s - 1),  # expected of random weights
            lambda k, s: study.median_ripple(rows, "transposed", k, s),
            lambda k, s: optimum(k, s).pattern.ripple,
        ),
        strict=True,
    ):
        shown = {text.get_position(): text.get_text().replace(MINUS, "-") for text in axes.texts}
        framed = {(round(column + 0.44), round(row + 0.44)) for row, column, *_ in outlines(axes)}
        assert len(shown) == 27
        slack = 1.6 if "Random" in axes.get_title(loc="left") else 0.51
        for (kernel, row), text in shown.items():
            ripple = float(measure(kernel, study.STRIDES[row - 1]))
            assert ((kernel, row) in framed) is (text == "none") is (ripple < 1e-10)
            assert text == "none" or float(text) == pytest.approx(20 * np.log10(ripple), abs=slack)
    of_counts = {text.get_position() for text in figure.axes[0].texts if text.get_text() == "none"}
    assert of_counts == {(k, s - 1) for s in study.STRIDES for k in study.KERNELS if k % s == 0}


def test_spectra_show_outputs_and_name_their_numbers():
    figure = figures.checkerboard_spectra()
    assert len(figure.axes) == 24
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles[:3] == ["transposed 3x3", "transposed 4x4", "nearest + conv"]
    said = [text.get_text().replace(MINUS, "-") for axes in figure.axes for text in axes.texts]
    assert [text.startswith("no ripple") for text in said] == [False] * 4 + [True] * 4 + [False] * 2 + [True, False]
    out = study.outputs(study.PICTURED[0], study.read()[2].arrays())
    assert study.read()[2].case == study.PICTURED[0]
    assert_allclose(figure.axes[2].images[0].get_array(), out[0, :36, :36])
    assert f"peak {spectral_peak(out, 2):.0f}" in said[1]


def test_training_lines_are_the_rows_medians(tmp_path: Path):
    figure = figures.checkerboard_training()
    (axes,) = figure.axes
    lines = {line.get_label(): line.get_xydata() for line in axes.lines}
    expected = [
        [step, 20 * np.log10(study.median_ripple(study.read(), "transposed", 3, 2, at))]
        for at, step in enumerate(study.WATCHED)
    ]
    assert_allclose(lines["transposed 3x3"], expected)
    assert lines["shuffle, ICNR"][0, 0] == study.WATCHED[1]  # no pattern before the first step
    with pytest.raises(ValueError, match="there is no row of transposed, kernel 1, stride 2; `tconv-bench checkerboard-train`"):
        figures.checkerboard_training([])
    with pytest.raises(ValueError, match="there is no row with weights of"):
        figures.checkerboard_spectra([])


def test_images_stay_in_compact_svg(tmp_path: Path):
    figure = style.styled(Figure)(figsize=(1, 1))
    figure.add_axes((0, 0, 1, 1)).imshow(np.eye(7), interpolation="none")
    root = ElementTree.parse(figures.save(figure, tmp_path, "image", "svg")).getroot()
    (image,) = root.iter("{http://www.w3.org/2000/svg}image")
    assert image.get("href").startswith("data:image/png;base64,")
    assert image.get("transform").startswith("matrix(10.286 ")  # 72 points of 7 pixels


@pytest.mark.parametrize(
    ("draw", "error", "message"),
    [
        (lambda: figures.stamps(np.ones((1, 2, 2))), ValueError, r"x has 3 axes .*, but a figure shows 1 or 2"),
        (lambda: figures.stamps(INPUT, [1, 2]), ValueError, r"kernel has 1 axes \(shape \(2,\)\), but must have x's 2"),
        (lambda: figures.stamps(stride=0), ValueError, "stride is 0, but must be >= 1"),
        (lambda: figures.stamps(steps=1), ValueError, "steps is 1, but must be >= 2"),
        (lambda: figures.phases(stride=16), ValueError, "the figure would be .* inches high, but must be at most 120"),
        (lambda: figures.phases(["a"]), TypeError, "x has dtype <U1"),
        (lambda: figures.arithmetic(padding=2), ValueError, "the output would be empty"),
        (lambda: figures.zero_insertion(output_padding=3), ValueError, "output_padding is 3, but must be smaller"),
        (lambda: figures.matrices({}), ValueError, "a line is empty, but must hold at least one matrix"),
        (lambda: figures.matrices({"a": np.ones((2, 2, 2))}), ValueError, r"matrix 'a' has shape \(2, 2, 2\), but"),
        (lambda: figures.matrix_view(np.ones((2, 2, 2))), ValueError, r"x has 3 axes"),
        (lambda: figures.matrix_strides(strides=()), ValueError, "strides is empty"),
        (lambda: figures.matrix_bytes((4,)), ValueError, r"sides is \(4,\), but must hold at least two"),
        (lambda: figures.overlap((2, 2, 2)), ValueError, r"in_size is \(2, 2, 2\), but a figure shows 1 or 2 axes"),
        (lambda: figures.overlap_map(25), ValueError, "kernels is 25, but must be <= 24"),
        (lambda: figures.overlap_map(ndim=4), ValueError, "ndim is 4, but must be <= 3"),
        (lambda: figures.save(figures.overlap(3), Path("."), "x", "jpg"), ValueError, "format is 'jpg', valid"),
        (lambda: figures.FIGURES[0].save(Path("."), "png", Problem.parse(PROBLEMS[0])), ValueError, "matrices does not show a"),
    ],
)  # fmt: skip
def test_bad_input_names_the_value(draw: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        draw()


def test_nan_and_infinity_are_drawn_and_colour_nothing():
    axes = panel(figures.stamps([[np.nan, 2.0]], [[1.0, np.inf]]), "= Output")
    shown = [text.get_text() for text in axes.texts]
    assert shown == ["nan", "nan", "\N{INFINITY}"]
    assert_allclose(fills(axes), 1)


def test_floats_are_drawn_as_floats():
    axes = panel(figures.stamps([[0.5, -1]], np.array([[0.25, 2]], np.float32)), "= Output")
    assert cells(axes) == [[0.125, 0.75, -2]]


def test_the_package_and_its_command_load_no_matplotlib_and_figures_no_pyplot():
    code = (
        "import sys, tconv_bench, tconv_bench.cli, tconv_bench.checkerboard; assert 'matplotlib' not in sys.modules\n"
        "from tconv_bench import figures; figures.overlap(3); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_command_lists_and_writes(monkeypatch, capsys, tmp_path: Path):
    code, text, _ = call(monkeypatch, capsys, "figures", "--list")
    assert code == 0
    assert all(entry.name in text for entry in figures.FIGURES)
    code, text, _ = call(monkeypatch, capsys, "figures", "overlap", "stamps_animation", "--output", tmp_path, "--format", "svg")
    assert code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["overlap.svg", "stamps_animation.gif"]
    root = ElementTree.parse(tmp_path / "overlap.svg").getroot()
    digits = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text") if node.text in ("1", "2", "4")]
    assert len(digits) == 11 * 11 + 12 * 12
    assert call(monkeypatch, capsys, "figures", "zero_insertion", "--output", tmp_path)[0] == 0
    with Image.open(tmp_path / "zero_insertion.png") as image:
        assert image.width == 1600


def test_the_command_draws_a_problem(monkeypatch, capsys, tmp_path: Path):
    drawn = []
    monkeypatch.setattr(figures.Entry, "save", lambda entry, *how: drawn.append((entry.name, *how)) or tmp_path)
    assert call(monkeypatch, capsys, "figures", "--problem", PROBLEMS[0], "--output", tmp_path)[0] == 0
    problem = Problem.parse(PROBLEMS[0])
    assert drawn == [(entry.name, tmp_path, "png", problem) for entry in figures.FIGURES if entry.of_problem]
    axes = figures.FIGURES[6].of_problem(problem).axes
    assert cells(axes[0]) == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing",), "figure is 'nothing', valid figures are matrices, matrix_view, "),
        (("--format", "jpg"), "format is 'jpg', valid formats are png, svg"),
        (("matrices", "--problem", PROBLEMS[0]), "matrices does not show a problem; --problem is for stamps, "),
        (("--problem", "n1_ci4"), "problem 'n1_ci4': missing in_size"),
        (("--output", __file__), "test_figures.py cannot be written (File exists); choose another one"),
    ],
)
def test_the_command_refuses_in_one_line(monkeypatch, capsys, arguments: tuple[str, ...], message: str):
    code, text, errors = call(monkeypatch, capsys, "figures", *arguments)
    assert (code, text, len(errors.strip().splitlines())) == (2, "", 1)
    assert message in errors
