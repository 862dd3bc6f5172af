"""Figures: what their cells, lines, bars and colours say, for given measurements."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from tconv_bench import plots, registry, units
from tconv_bench.plots import memory, rows, style, sweeps, winners
from tconv_bench.units import X
from tests.synthetic import METHODS, layer_rows, row, sweep_rows

SMALL = "n1_ci8_i8x8_co8_k4x4_s2x2_p1x1"
OTHER = "n1_ci4_i8x8_co4_k4x4_s2x2_p1x1"
FIGURES = [getattr(plots, name) for name in plots.__all__ if name not in ("NothingToDrawError", "save")]


@pytest.fixture(scope="module")
def measured():
    return layer_rows() + sweep_rows()


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def ticks(axes, which: str) -> list[str]:
    return [label.get_text() for label in getattr(axes, f"get_{which}ticklabels")()]


@pytest.mark.parametrize(
    ("low", "high", "winner"),
    [(1.01, 1.2, "tie"), (1.05, 1.2, "tie"), (1.0501, 1.2, "direct"), (None, None, "tie")],
    ids=["overlap", "touch", "apart", "unknown"],
)
def test_a_winner_needs_an_interval_of_its_own(low, high, winner):
    fast = row(SMALL, "direct", 1.0, low=0.95, high=1.05 if low else None)
    slow = row(SMALL, "col2im", 1.1, low=low, high=high)
    verdict = rows.layers([slow, fast])[0].verdict
    assert verdict.winner == winner
    assert (verdict.fastest, verdict.runner_up, verdict.ratio) == ("direct", "col2im", 1.1)
    assert verdict.tied == (("direct", "col2im") if winner == "tie" else ())


def test_a_third_method_with_a_wide_interval_makes_a_tie():
    found = [row(SMALL, "direct", 1.0), row(SMALL, "col2im", 1.5), row(SMALL, "matmul", 1.6, low=0.5, high=3.0)]
    assert rows.layers(found)[0].verdict.tied == ("direct", "matmul")


def test_the_newest_row_of_a_method_counts():
    old, new = row(SMALL, "direct", 2.0, measured_at="2025-01-01"), row(SMALL, "direct", 1.0, measured_at="2025-01-02")
    assert [r.median for r in rows.latest([new, old])] == [1.0]


def test_labels_are_unique():
    found = [row(SMALL, "direct", 1.0, label="A g1"), row("n64" + SMALL[2:], "direct", 1.0, label="A g1")]
    assert [layer.label for layer in rows.layers(found)] == ["A g1 N=1", "A g1 N=64"]


def test_heatmap_cells_hold_ratios_and_base_times():
    found = [
        row(SMALL, "zero_insertion", 0.012, label="A g1"),
        row(SMALL, "direct", 0.003, label="A g1"),
        row(SMALL, "matmul", None, label="A g1", note="the matrix is too large"),
        row(SMALL, "col2im", None, label="A g1", note="wrong result: 3 elements differ"),
        row(OTHER, "zero_insertion", 0.001, label="A g2"),
        row(OTHER, "direct", 0.004, label="A g2"),
    ]
    figure = plots.speedup_heatmap(found)
    axes = figure.axes[0]
    assert ticks(axes, "x")[:2] == ["zero_insertion", "direct"]
    assert ticks(axes, "y") == ["A g1", "A g2", "geometric mean"]
    cells = {(int(t.get_position()[0]), int(t.get_position()[1])): t for t in axes.texts}
    columns = ticks(axes, "x")
    shown = {(columns[x], y): t.get_text() for (x, y), t in cells.items()}
    assert shown["zero_insertion", 0] == "12.0 ms"
    assert shown["direct", 0] == f"4.00{X}"
    assert shown["direct", 1] == f"0.250{X}"
    assert shown["direct", 2] == f"1.00{X}"
    assert shown["matmul", 0] == "n/a"
    assert shown["col2im", 0] == "wrong"
    assert shown["matmul", 1] == units.NONE
    assert cells[columns.index("direct"), 0].get_fontweight() == "bold"
    assert cells[0, 0].get_fontweight() == "normal"
    assert sum(bool(patch.get_hatch()) for patch in axes.patches) == 2 + 2


def test_heatmap_names_its_base_and_refuses_an_unknown_one(measured):
    assert plots.speedup_heatmap(measured).texts[0].get_text() == "Speed-up over zero_insertion"
    assert plots.speedup_heatmap(measured, "direct").texts[0].get_text() == "Speed-up over direct"
    without = [r for r in measured if r.method != "zero_insertion"]
    assert plots.speedup_heatmap(without).texts[0].get_text() == "Speed-up over scatter_add"
    with pytest.raises(ValueError, match="base is 'nothing', but the methods that were timed are col2im, direct"):
        plots.speedup_heatmap(measured, "nothing")


def test_heatmap_colours_are_centred_at_one_and_its_type_stands_out():
    found = [
        row(SMALL, "zero_insertion", 1.0),
        row(SMALL, "direct", 1.0),
        row(SMALL, "col2im", 1 / 64),
        row(SMALL, "matmul", 64.0),
    ]
    axes = plots.speedup_heatmap(found).axes[0]
    fill = {t.get_text(): p.get_facecolor() for t, p in zip(axes.texts, axes.patches)}
    ink = {t.get_text(): t.get_color() for t in axes.texts}
    assert min(fill[f"1.00{X}"][:3]) > 0.9
    assert fill[f"64.0{X}"][2] > fill[f"64.0{X}"][0]
    assert fill[f"0.0156{X}"][0] > fill[f"0.0156{X}"][2]
    assert ink[f"64.0{X}"] == ink[f"0.0156{X}"] == "white"


@pytest.mark.parametrize("count", [14, 67])
def test_every_layer_has_a_row(count):
    figure = plots.speedup_heatmap(layer_rows(count))
    assert len(ticks(figure.axes[0], "y")) == count + 1
    assert figure.get_figheight() > 0.22 * count


def test_colours_and_markers_are_the_registrys_in_every_figure(measured):
    lines = {line.get_label(): line for line in plots.time_against_size(measured).axes[0].lines}
    strips = plots.winner_map(measured).axes[1].lines
    clouds = plots.time_memory_scatter(measured).axes[0].lines
    for method in METHODS:
        entry = registry.get(method)
        assert (lines[method].get_color(), lines[method].get_marker()) == (entry.color, entry.marker)
        for found in (strips, clouds):
            assert (entry.color, entry.marker) in {(line.get_color(), line.get_marker()) for line in found}
    bars = plots.winner_map(measured).axes[0]
    order = ticks(bars, "y")
    solid = [to_hex(p.get_facecolor()).upper() for p in bars.patches if not p.get_hatch()]
    assert solid == [registry.get(name).color.upper() for name in order]


def test_unknown_methods_get_spare_colours_that_stay():
    looks = style.looks(["torch", "openvino", "onnxruntime", "direct", "direct (cuda)"])
    assert len({look.color for look in looks.values()}) == 5
    assert looks["torch"] == style.looks(["torch"])["torch"]
    assert style.luminance(looks["direct"].ink) < 0.19


def test_lines_go_through_the_medians_and_bands_span_the_intervals(measured):
    axes = plots.time_against_size(measured).axes[0]
    expected = sorted(
        (rows.problem_of(r.problem).in_size[0], r.median) for r in measured if (r.suite, r.method) == ("sizes", "direct")
    )
    line = next(line for line in axes.lines if line.get_label() == "direct")
    assert list(map(tuple, line.get_xydata())) == expected
    band = axes.collections[[line.get_label() for line in axes.lines].index("direct")]
    low = min(r.low for r in measured if (r.suite, r.method) == ("sizes", "direct"))
    assert band.get_paths()[0].vertices[:, 1].min() == pytest.approx(low)
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")


def test_the_fastest_line_of_the_lower_panel_is_one(measured):
    lower = plots.time_against_size(measured).axes[1]
    values = np.concatenate([line.get_ydata() for line in lower.lines])
    assert values.min() == 1
    for size in (8, 256):
        assert min(y for line in lower.lines for x, y in line.get_xydata() if x == size) == 1


def test_end_labels_keep_their_distance():
    places = sweeps.spread([0.2, 0.5, 0.5, 0.51, 0.99, 1.0], 0.06)
    assert min(np.diff(places)) >= 0.06 - 1e-6
    assert 0 <= places[0] <= places[-1] <= 1


def test_stride_padding_cells_hold_useful_gflops(measured):
    figure = plots.stride_padding_maps(measured)
    found = next(r for r in measured if r.suite == "strides_paddings" and r.method == "direct" and "_s2x2_p1x1" in r.problem)
    panel = next(a for a in figure.axes if a.get_title(loc="left") == "direct")
    shown = {t.get_position(): t.get_text() for t in panel.texts}
    speed = rows.problem_of(found.problem).flops / found.median / 1e9
    assert float(shown[1.5, 1.5]) == pytest.approx(speed, rel=0.005)
    assert [a.get_title(loc="left") for a in figure.axes if a.get_title(loc="left")] == [*METHODS, "fastest"]


def test_the_winner_panel_shows_the_winners_colour_and_ties():
    found = [
        row("n1_ci8_i8x8_co8_k4x4", "direct", 1e-5, suite="strides_paddings"),
        row("n1_ci8_i8x8_co8_k4x4", "col2im", 2e-5, suite="strides_paddings"),
        row("n1_ci8_i8x8_co8_k4x4_s2x2", "direct", 1e-5, suite="strides_paddings", spread=0.5),
        row("n1_ci8_i8x8_co8_k4x4_s2x2", "col2im", 1e-5, suite="strides_paddings"),
    ]
    panel = next(a for a in plots.stride_padding_maps(found).axes if a.get_title(loc="left") == "fastest")
    assert [t.get_text() for t in panel.texts] == [f"2.00{X}", "tie"]
    fills = [to_hex(p.get_facecolor()).upper() for p in panel.patches if not p.get_hatch()]
    assert fills == [registry.get("direct").color.upper(), style.GAP.upper()]


def test_workspace_bars_end_at_the_bytes_and_zero_is_an_arrowhead():
    found = [row(SMALL, "direct", 1.0, workspace_bytes=0, prepared_bytes=65536)]
    found += [row(SMALL, "col2im", 1.0, workspace_bytes=2**20, prepared_bytes=None)]
    found += [row(SMALL, "matmul", None, note="the matrix is too large")]
    col2im, direct = plots.workspace_bars(found).axes
    assert [bar.get_x() + bar.get_width() for bar in col2im.patches if bar.get_height() == 0.34] == [2**20]
    bars = [bar for bar in direct.patches if bar.get_height() == 0.34]
    assert [(bar.get_x() + bar.get_width(), bool(bar.get_hatch())) for bar in bars] == [(65536, True)]
    assert [line.get_xdata()[0] for line in direct.lines if line.get_marker() == 4] == [direct.get_xlim()[0]]


def test_zero_memory_has_a_gutter_left_of_every_positive_value():
    found = [row(SMALL, "direct", 1.0, workspace_bytes=0, prepared_bytes=0), row(SMALL, "col2im", 2.0, workspace_bytes=4096)]
    assert memory.memory_points(rows.layers(found), "direct") == [(0.0, 1.0)]
    axes = plots.time_memory_scatter(found).axes[0]
    left = axes.lines[2].get_xdata()[0]
    assert axes.get_xlim()[0] < left < axes.lines[0].get_xdata()[0]
    assert axes.xaxis.get_major_formatter()(left) == "0"


def test_winner_counts():
    found = [row(SMALL, "direct", 1.0), row(SMALL, "col2im", 2.0), row(OTHER, "direct", 1.0), row(OTHER, "col2im", 1.01)]
    wins, ties = winners.win_counts(rows.layers(found))
    assert (dict(wins), dict(ties)) == ({"direct": 1}, {"direct": 1, "col2im": 1})
    assert winners.slowdowns(rows.layers(found), "col2im") == [2.0, 1.01]
    assert texts(plots.winner_map(found))[:2] == ["1 + 1 tied", "0 + 1 tied"]


@pytest.mark.parametrize("draw", FIGURES, ids=lambda draw: draw.__name__)
def test_absent_suites_raise_and_single_points_do_not(draw):
    for nothing in ([], [row(SMALL, "direct", None, note="no"), row(SMALL, "direct", None, suite="sizes", note="no")]):
        with pytest.raises(plots.NothingToDrawError):
            draw(nothing)
    suites = ("layers", "sizes", "channels", "kernels", "dimensions", "strides_paddings")
    figure = draw([row(SMALL, "torch", 1e-3, suite=suite, low=None, high=None) for suite in suites])
    figure.draw_without_rendering()
    assert not any(isinstance(c, PathCollection) for axes in figure.axes for c in axes.collections)


def test_sweeps_that_vary_two_things_are_small_multiples():
    found = [
        row(f"n1_ci8_i{n}x{n}_co8_k{k}x{k}_s2x2", m, n * k * 1e-6, suite="sizes")
        for n in (8, 16)
        for k in (3, 4)
        for m in ("direct", "col2im")
    ]
    figure = plots.time_against_size(found)
    assert [axes.get_title(loc="left") for axes in figure.axes[:2]] == [
        "8 channels, kernel 3x3, stride 2x2",
        "8 channels, kernel 4x4, stride 2x2",
    ]


def test_saved_files_are_wide_small_and_the_same_each_time(tmp_path, measured):
    first = plots.save(plots.speedup_heatmap(measured), tmp_path / "a", "speedup")
    second = plots.save(plots.speedup_heatmap(measured), tmp_path / "b", "speedup")
    for one, two in zip(first, second):
        assert one.read_bytes() == two.read_bytes()
        assert one.stat().st_size < 200_000
    assert [path.name for path in first] == ["speedup.png", "speedup.svg"]
    with Image.open(first[0]) as image:
        assert image.width == 1600
    assert "<dc:date>" not in first[1].read_text()


def test_indexed_pngs_keep_the_methods_colours(tmp_path, measured):
    png, _ = plots.save(plots.winner_map(measured), tmp_path, "winners")
    with Image.open(png) as image:
        pixels = {to_hex(np.array(c) / 255).upper() for _, c in image.convert("RGB").getcolors(1 << 24)}
    assert {registry.get(method).color.upper() for method in ("col2im", "zero_insertion")} <= pixels


def test_type_is_never_smaller_than_eight_points(measured):
    for draw in FIGURES:
        figure = draw(measured)
        assert figure.get_figwidth() == 8
        figure.draw_without_rendering()
        found = [t.get_fontsize() for a in figure.axes for t in (*a.texts, *a.get_xticklabels(), *a.get_yticklabels())]
        assert min(found) >= 8
