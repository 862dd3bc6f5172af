"""The comparison's figures: what their cells, lines, marks and captions say, for given rows."""

from __future__ import annotations

import importlib
import re
from dataclasses import replace
from math import inf
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from tconv_bench import layers, peers, registry, units, verdicts
from tconv_bench.plots import (
    comparison,
    style,
    versus_captions,
    versus_cost,
    versus_rows,
    versus_samples,
    versus_scores,
    versus_speed,
    versus_svg,
    versus_winners,
)
from tconv_bench.store import Measurement
from tconv_bench.units import X
from tests.synthetic_comparison import LIMITS, comparison_rows, group, row

DASH = "\N{EN DASH}"
DRAW = [entry.draw for entry in comparison.FIGURES]
NAMES = [entry.name for entry in comparison.FIGURES]


@pytest.fixture(scope="module")
def measured():
    return list(comparison_rows(6))


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def ticks(axes, which: str) -> list[str]:
    return [label.get_text() for label in getattr(axes, f"get_{which}ticklabels")()]


def three_layers() -> list:
    """Ours wins A, torch-channels_last wins B (without it ours and torch tie), C is a tie of ours and torch."""
    found = []
    for mode in verdicts.MODES:
        for kept in verdicts.CACHES:
            where = {"mode": mode, "cache": kept}
            found += group({"auto": 1.0, "direct": 1.001, "torch": 2.0, "torch-channels_last": 3.0}, "A g1", **where)
            found += group({"auto": 1.0, "direct": 1.5, "torch": 1.001, "torch-channels_last": 0.5}, "B g1", **where)
            found += group({"auto": 1.0, "direct": 1.5, "torch": 1.002, "torch-channels_last": 3.0}, "C g1", **where)
    return found


def test_auto_and_peers_have_looks_of_their_own():
    names = ["auto", "direct", *peers.names("cpu")]
    looks = style.looks(names)
    assert looks["auto"] == style.Look(*style.AUTO)
    assert style.luminance(looks["auto"].color) < 0.05
    for name in peers.names("cpu"):
        assert (looks[name].color, looks[name].marker) == (peers.get(name).color, peers.get(name).marker)
    assert len({look.color for look in looks.values()}) == len(names)
    assert list(versus_rows.palette(["torch", "auto", "direct"])) == ["torch", "auto", "direct"]
    for look in looks.values():
        assert 1.05 / (style.luminance(look.stroke) + 0.05) >= 2.2


def test_without_the_module_of_peers_spare_colours_do(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    looks = style.looks(["torch", "openvino", "direct", "auto"])
    assert len({look.color for look in looks.values()}) == 4
    assert looks["direct"].color == registry.get("direct").color


def test_rows_of_another_commit_and_of_other_suites_are_left_out():
    found = group({"auto": 1.0, "torch": 2.0})
    extra = [replace(found[0], revision="0123456789", median=0.1), replace(found[0], suite="layers")]
    assert [list(g.rows) for g in versus_rows.compared(found + extra)] == [["auto", "torch"]]
    assert versus_rows.compared(extra) == []


def test_groups_stand_in_the_order_of_the_layers_file_and_unknown_ones_after(measured: list[Measurement]):
    in_file = [layer.label for layer in layers.read()]
    labels = list(dict.fromkeys(row.label for row in measured))
    assert labels == in_file[: len(labels)]
    strangers = [replace(r, label=f"A {r.label}", group=f"A {r.group}") for r in measured if r.label == labels[0]]
    batches = [replace(r, label=f"{r.label} N=7", group=f"7 {r.group}") for r in measured if r.label == labels[1]]
    backwards = [*strangers, *sorted(measured, key=lambda r: -labels.index(r.label)), *batches]
    found = list(dict.fromkeys(group.label for group in versus_rows.compared(backwards)))
    assert found == [*labels[:2], f"{labels[1]} N=7", *labels[2:], f"A {labels[0]}"]
    shown = versus_rows.condition(versus_rows.compared(backwards), "one-shot", "hot")
    assert [group.label for group in shown] == found


def test_the_thread_count_of_most_layers_is_shown():
    found = group({"auto": 1.0}, "A", threads=1) + group({"auto": 1.0}, "A", threads=8) + group({"auto": 1.0}, "B", threads=8)
    every = versus_rows.compared(found)
    assert versus_rows.main_threads(every) == 8
    assert [g.label for g in versus_rows.condition(every, "planned", "hot")] == ["A", "B"]
    assert versus_rows.main_threads(versus_rows.compared(found[:4])) == 8


def test_one_label_on_two_problems_is_told_apart():
    found = group({"auto": 1.0}, "A") + group({"auto": 1.0}, "A", problem="n64_ci8_i8x8_co8_k4x4", measured_at="2025-11-21")
    assert [g.label for g in versus_rows.compared(found)] == ["A n1_ci8_i8x8_co8_k4x4_s2x2_p1x1", "A n64_ci8_i8x8_co8_k4x4"]


def test_ratios_carry_both_intervals():
    found = versus_rows.ratio(row("torch", 2.0, low=1.9, high=2.1), row("auto", 1.0, low=0.9, high=1.2))
    assert (found.value, found.low, found.high) == (2.0, 1.9 / 1.2, 2.1 / 0.9)
    bare = versus_rows.ratio(row("torch", 2.0, low=None, high=None), row("auto", 1.0, low=None, high=None))
    assert (bare.low, bare.high) == (2.0, 2.0)


def test_scores_sum_up_duels():
    found = versus_rows.condition(versus_rows.compared(three_layers()), "planned", "hot")
    best = versus_scores.score(versus_scores.duels(found))
    assert (best.wins, best.ties, best.losses, best.count) == (1, 1, 1, 3)
    assert best.mean == pytest.approx((2.0 * 0.5 * 1.002) ** (1 / 3))
    narrow = versus_scores.score(versus_scores.duels(map(versus_rows.channels_first, found)))
    assert (narrow.wins, narrow.ties, narrow.losses) == (1, 2, 0)
    lines = {line.peer: line for line in versus_scores.standings(found)}
    assert list(lines) == ["", "torch", "torch-channels_last"]
    assert lines["torch"].auto.mean == pytest.approx((2.0 * 1.001 * 1.002) ** (1 / 3))
    assert lines["torch-channels_last"].best.losses == 1
    assert versus_scores.score([]) is None


def test_losses_are_sorted_and_none_is_missing():
    found = versus_rows.compared(comparison_rows())
    lost = versus_scores.losses(found)
    expected = [g for g in found if (d := verdicts.duel(g)) is not None and d.outcome == "loss"]
    assert len(lost) == len(expected) > 50
    assert {(d.group.label, d.group.mode, d.group.cache, d.group.threads) for d in lost} == {
        (g.label, g.mode, g.cache, g.threads) for g in expected
    }
    assert [d.ratio for d in lost] == sorted(d.ratio for d in lost)


def test_winner_map_names_winners_ties_and_what_changes_without_channels_last():
    figure = comparison.winner_map(three_layers())
    counts, cells = figure.axes
    assert ticks(cells, "y") == ["A g1", "B g1", "C g1"]
    shown = {(round(text.get_position()[1]), text.get_text()) for text in cells.texts}
    assert shown == {
        (0, "auto = direct"), (1, "torch-channels_last"), (1, "tie: auto = torch"), (2, "tie: auto = torch"),
    }  # fmt: skip
    assert len(cells.texts) == 3 * (1 + 2 + 1)
    hatched = [patch for patch in cells.patches if patch.get_hatch()]
    assert len(hatched) == 3 * 2
    fills = {to_hex(patch.get_facecolor()).upper() for patch in cells.patches if patch.get_facecolor()[3] == 1}
    assert fills == {style.AUTO[0].upper(), style.GAP.upper(), peers.get("torch-channels_last").color.upper()}
    heads = texts(counts)
    assert [t for t in heads if "caches" in t] == ["one-shot, hot caches", "planned, hot caches", "planned, flushed caches"]
    assert heads.count("channels-first only") == 3
    assert heads.count("0 + 2 tied") == 3 * 1 + 3 * 1  # auto with all entrants, torch among the channels-first ones
    assert ticks(counts, "y")[0] == "ours | tie | peers"


def test_winner_map_without_channels_last_has_one_column_per_condition():
    found = [r for r in three_layers() if r.method != "torch-channels_last" and r.cache == "hot"]
    counts, cells = comparison.winner_map(found).axes
    assert "channels-first only" not in texts(counts)
    assert len(cells.texts) == 2 * 3


def test_win_counts():
    found = versus_rows.condition(versus_rows.compared(three_layers()), "planned", "hot")
    wins, shared = versus_winners.win_counts(found)
    assert (dict(wins), dict(shared)) == ({"torch-channels_last": 1}, {"auto": 2, "direct": 1, "torch": 1})


@pytest.mark.parametrize(
    ("sides", "inches", "text"),
    [
        ([["auto", "direct"]], 3.0, "auto = direct"),
        ([["auto", "direct", "col2im"]], 1.2, "auto = direct + 1"),
        ([["auto", "direct"], ["torch"]], 3.0, "tie: auto = torch = direct"),
        ([["auto", "direct"], ["torch"]], 1.0, "auto = torch + 1"),
        ([["auto"], ["torch-channels_last"]], 0.5, "tie"),
        ([["torch-channels_last"]], 0.5, "torch-channels_last"),
    ],
)
def test_cells_name_as_many_as_fit(sides, inches, text):
    assert versus_winners.cell_text(sides, inches) == text


def cell(axes, column: str, line: int) -> list:
    place = ticks(axes, "x").index(column)
    x = axes.get_xticks()[place]
    return [t for t in axes.texts if abs(t.get_position()[0] - x) < 1e-6 and line <= t.get_position()[1] < line + 1]


def test_heatmap_cells_hold_ratios_and_their_intervals():
    found = group({"torch": 1.84, "auto": 1.0, "matmul": None, "openvino": 4.0}, "A g1", spread=0.02)
    found += group({"torch": 2.0, "auto": 8.0, "openvino": 1.0, "matmul": 500.0}, "A g2", spread=0.02)
    found += group({"torch": None, "auto": 0.003, "openvino": 0.004}, "A g3")
    found = [
        replace(r, note="wrong result: 3 elements differ") if r.method == "matmul" and r.median is None else r for r in found
    ]
    figure = comparison.speedup_heatmap(found, "planned", "hot")
    assert figure.texts[0].get_text() == "Speed-up over torch: planned, hot caches"
    axes = figure.axes[0]
    assert ticks(axes, "x") == ["torch", "auto", "matmul", "openvino"]
    assert ticks(axes, "y") == ["A g1", "A g2", "A g3", "geometric mean"]
    content = {(name, y): [t.get_text() for t in cell(axes, name, y)] for name in ticks(axes, "x") for y in range(3)}
    assert content["torch", 0] == ["1.84 s"]
    assert content["auto", 0] == ["1.84", f"{1.84 * 0.98 / 1.02:.2f}{DASH}{1.84 * 1.02 / 0.98:.2f}"]
    assert content["openvino", 0] == ["0.46", f"0.44{DASH}0.48"]
    assert content["auto", 1][0] == "0.25"
    assert content["matmul", 0] == ["wrong"]
    assert content["matmul", 1] == ["0.004", f"0.004{DASH}0.004"]
    assert content["torch", 2] == ["n/a"]
    assert content["auto", 2] == ["3.00 ms"]
    assert content["matmul", 2] == [units.NONE]
    bold = {(name, y) for (name, y) in content for t in cell(axes, name, y) if t.get_fontweight() == "bold"}
    assert bold == {("auto", 0), ("openvino", 1), ("auto", 2)}
    means = [t.get_text() for t in axes.texts if t.get_position()[1] > 3.2]
    assert means[:3] == [f"1.00{X}", "2 of 3", f"{(1.84 * 0.25) ** 0.5:.2f}{X}"]


def test_heatmap_groups_its_columns_and_marks_all_that_tie_best():
    figure = comparison.speedup_heatmap(three_layers(), "planned", "hot")
    axes = figure.axes[0]
    assert [name.replace("\n", "") for name in ticks(axes, "x")] == ["torch", "auto", "direct", "torch-channels_last"]
    bold = [t.get_text() for t in axes.texts if t.get_fontweight() == "bold" and t.get_position()[1] < 1]
    assert [text for text in bold if DASH not in text] == ["2.00", "2.00"]


def test_heatmap_without_torch_shows_times_alone():
    axes = comparison.speedup_heatmap(group({"auto": 1.0, "direct": 2.0})).axes[0]
    assert texts(axes) == ["1.00 s", "2.00 s", "n/a", "n/a"]


def test_roofline_has_a_pair_of_marks_per_layer_below_the_limits():
    found = group({"auto": 2e-6, "direct": 1e-6, "torch": 4e-6, "openvino": 8e-6}, "A", problem="n1_ci8_i8x8_co8_k4x4")
    axes = comparison.roofline(found).axes[0]
    problem = versus_rows.compared(found)[0].problem
    x = problem.flops / problem.min_bytes
    marks = {line.get_marker(): line.get_xydata().tolist() for line in axes.lines if line.get_linestyle() == "None"}
    assert marks == {"o": [[x, problem.flops / 1e-6 / 1e9]], "D": [[x, problem.flops / 4e-6 / 1e9]]}
    peak, memory, cached = (line.get_xydata() for line in axes.lines if line.get_linewidth() == 1.4)
    assert set(peak[:, 1]) == {230.1}
    np.testing.assert_allclose(memory[:, 1] / memory[:, 0], 13.1)
    np.testing.assert_allclose(cached[:, 1] / cached[:, 0], 95)
    assert texts(axes) == [
        "multiply-adds, float32: 230 GFLOP/s", "copying in memory: 13.1 GB/s", "copying within 128 KiB: 95.0 GB/s",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("ceilings", "lines"),
    [({}, 0), ({"fma_gflops": {"float32": 230.0}}, 1), ({"copy": LIMITS["copy"]}, 2), ({"copy": [[2**29, 13e9]]}, 1)],
    ids=["none", "peak", "bandwidths", "memory"],
)
def test_roofline_draws_the_limits_that_there_are(ceilings, lines):
    found = group({"auto": 2e-6, "torch": 4e-6}, ceilings=ceilings)
    figure = comparison.roofline(found)
    figure.draw_without_rendering()
    assert sum(line.get_linewidth() == 1.4 for line in figure.axes[0].lines) == lines
    assert ("were not measured" in figure.texts[1].get_text().replace("\n", " ")) == (not ceilings)
    axes = figure.axes[0]
    for text in axes.texts:
        assert axes.get_window_extent().contains(*text.get_window_extent().min), text.get_text()


def test_performance_profile_counts_an_absent_time_as_never():
    found = group({"auto": 1.0, "torch": 1.5, "openvino": None}, "A") + group({"auto": 2.0, "torch": 1.0, "openvino": 4.0}, "B")
    groups = versus_rows.compared(found)
    assert versus_speed.slowdowns(groups, "auto") == [1.0, 2.0]
    assert versus_speed.slowdowns(groups, "openvino") == [4.0]
    assert [versus_speed.within([4.0], tau, 2) for tau in (1, 3.9, 4, 100)] == [0, 0, 0.5, 0.5]
    axes = comparison.performance_profile(found).axes
    assert [a.get_title(loc="left") for a in axes] == ["planned, hot caches, 2 layers"]
    auto, torch, openvino = axes[0].lines
    assert auto.get_xydata()[-1].tolist() == [axes[0].get_xlim()[1], 1.0]
    assert auto.get_xydata()[0].tolist() == [1.0, 0.5]
    assert openvino.get_ydata().max() == 0.5
    assert not auto.is_dashed()
    assert torch.is_dashed()


def test_profile_panels_are_the_modes():
    axes = comparison.performance_profile(three_layers()).axes
    assert [a.get_title(loc="left") for a in axes] == ["one-shot, hot caches, 3 layers", "planned, hot caches, 3 layers"]


def test_sample_curves_hold_every_sample_and_the_control():
    found = group({"auto": 1.0, "torch": 1.2, "matmul": 9.0})
    axes = comparison.sample_ecdf(found).axes[0]
    auto, torch, control = axes.lines
    assert auto.get_xdata()[1:-1].tolist() == sorted(found[0].samples)
    assert auto.get_ydata().tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1, 1])
    assert torch.is_dashed()
    assert control.is_dashed()
    assert control.get_color() == auto.get_color()
    assert axes.get_xlabel() == "beyond: matmul"
    assert axes.get_xlim()[1] == pytest.approx(1.6)


def test_six_layers_are_spread_over_the_run():
    groups = versus_rows.condition(versus_rows.compared(comparison_rows()), "planned", "hot")
    shown = versus_samples.shown(groups)
    fastest = [min(r.median for r in g.timed.values()) for g in shown]
    every = sorted(min(r.median for r in g.timed.values()) for g in groups)
    assert len(shown) == 6
    assert (fastest[0], fastest[-1]) == (every[0], every[-1])
    assert fastest == sorted(fastest)
    with pytest.raises(comparison.NothingToDrawError):
        comparison.sample_ecdf([replace(r, samples=()) for r in group({"auto": 1.0})])


def test_workspace_marks_stand_at_the_bytes_and_zero_in_a_gutter():
    found = [row("auto", 1.0, label="A", workspace_bytes=0), row("torch", 1.0, label="A", workspace_bytes=2**20)]
    found += [row("auto", 1.0, label="B", workspace_bytes=0), row("torch", 1.0, label="B", workspace_bytes=2**22)]
    found += [row("openvino", 1.0, label="B", workspace_bytes=None), row("matmul", None, label="B", note="no")]
    axes = comparison.workspace(found).axes[0]
    assert ticks(axes, "y") == ["auto", "torch"]
    marks = [line.get_xdata().tolist() for line in axes.lines if line.get_linestyle() == "None"]
    assert marks[1] == [2**20, 2**22]
    assert len(set(marks[0])) == 1
    assert axes.get_xlim()[0] < marks[0][0] < 64
    assert axes.xaxis.get_major_formatter()(marks[0][0]) == "0"
    assert texts(axes) == ["0 B, at most 0 B", "2.50 MiB, at most 4.00 MiB"]
    assert "On the median layer auto needs least (0 B) and torch most (2.50 MiB)" in versus_captions.workspace(found)


def scaling_rows(counts) -> list:
    found = []
    for label, factor in (("A", 1.0), ("B", 4.0)):
        for n in counts:
            found += group({"auto": factor / n, "torch": factor / n**0.5}, label, threads=n)
    return found


def test_thread_scaling_compares_each_entrant_with_itself():
    figure = comparison.thread_scaling(scaling_rows((1, 2, 4)))
    assert [a.get_title(loc="left") for a in figure.axes] == ["geometric mean of 2 layers", "A", "B"]
    ideal, auto, torch = figure.axes[0].lines
    assert ideal.get_ydata().tolist() == [1, 2, 4]
    assert auto.get_xydata().tolist() == [[1, 1], [2, 2], [4, 4]]
    np.testing.assert_allclose(torch.get_ydata(), [1, 2**0.5, 2])
    caption = versus_captions.threads(scaling_rows((1, 2, 4)))
    assert f"With 4 threads, by geometric mean over 2 layers, auto gains most (4.00{X}) and torch least (2.00{X})" in caption


def test_two_thread_counts_are_a_strip():
    axes = comparison.thread_scaling(scaling_rows((1, 2))).axes[0]
    assert ticks(axes, "y") == ["auto", "torch"]
    assert texts(axes) == [f"2.00{X}", f"1.41{X}"]
    assert axes.lines[0].get_xdata().tolist() == [2.0, 2.0]


def test_one_thread_count_is_nothing_to_draw():
    with pytest.raises(comparison.NothingToDrawError, match="1 thread and with more"):
        comparison.thread_scaling(scaling_rows((2,)))


def test_preparing_is_weighed_against_the_fastest_one_shot_call_of_the_same_side():
    found = group({"auto": 5.0, "direct": 4.0, "torch": 3.0, "torch-channels_last": 2.5}, mode="one-shot")
    planned = group({"auto": 2.0, "direct": 4.5, "torch": 3.0, "openvino": 0.5})
    every = versus_rows.compared(found + [replace(r, prepare_seconds=8.0) for r in planned])
    assert versus_cost.paid_after(every, "auto") == [(8.0, 4.0)]
    assert versus_cost.paid_after(every, "direct") == [(8.0, inf)]
    assert versus_cost.paid_after(every, "torch") == [(8.0, inf)]
    assert versus_cost.paid_after(every, "openvino") == [(8.0, 4.0)]
    figure = comparison.break_even(found + [replace(r, prepare_seconds=8.0) for r in planned])
    left, right = figure.axes
    assert ticks(left, "y") == ["auto", "direct", "torch", "openvino"]
    assert texts(right) == ["4", "never on 1 of 1", "never on 1 of 1", "4"]
    never = right.get_xticks()[-1]
    assert right.xaxis.get_major_formatter()(never) == "never"
    places = [line.get_xdata()[0] for line in right.lines if line.get_linestyle() == "None"]
    assert places == [4.0, never, never, 4.0]


def test_the_typical_number_of_calls_has_no_mean_with_never():
    assert versus_cost.typical([(1.0, 3.0), (1.0, inf)]) == inf
    assert versus_cost.typical([(1.0, 3.0), (1.0, 5.0), (1.0, inf)]) == 5.0


def test_captions_say_what_the_rows_say():
    found = three_layers()
    text = versus_captions.winners(found)
    assert (
        "one-shot with hot caches 1 win, 1 tie and 1 loss (against channels-first engines 1 win, 2 ties and 0 losses)" in text
    )
    mean = (2.0 * 1.0 * 1.002 * 1.001 / 1.0) ** (1 / 3)
    assert f"of this project auto with {units.times(mean)} over 3 layers" in versus_captions.speedup(found, "planned", "hot")
    assert "one-shot auto, on 67 % of the layers (of the other side torch, on 33 %)" in versus_captions.profile(found)


@pytest.mark.parametrize("draw", DRAW, ids=NAMES)
def test_absent_rows_raise_and_lone_entrants_do_not(draw):
    absent = [row("auto", None, note="no"), row("auto", 1.0, suite="layers"), row("auto", 1.0, revision="0123456")]
    for nothing in ([], absent):
        with pytest.raises(comparison.NothingToDrawError):
            draw(nothing)
    lone = [row("auto", 1.0 / n, threads=n, mode=mode) for n in (1, 2) for mode in verdicts.MODES]
    draw(lone).draw_without_rendering()


@pytest.mark.parametrize("entry", comparison.FIGURES, ids=NAMES)
def test_figures_are_legible_and_their_captions_short(entry, measured):
    figure = entry.draw(measured)
    figure.draw_without_rendering()
    assert figure.get_figwidth() <= 9.5  # inches: shown 1000 px wide, 8 points are 11.7 px
    assert min(t.get_fontsize() for t in _all_texts(figure) if t.get_text()) >= 8
    assert 2 <= len(re.findall(r"[.:](?: |$)", entry.caption(measured))) <= 6


def _all_texts(figure: Figure) -> list:
    found = [t for a in figure.axes for t in (*a.texts, *a.get_xticklabels(), *a.get_yticklabels())]
    return found + list(figure.texts) + [t for legend in figure.legends for t in legend.get_texts()]


def test_texts_of_the_winner_map_stay_in_their_cells(measured):
    figure = comparison.winner_map(measured)
    figure.draw_without_rendering()
    axes = figure.axes[1]
    boxes = [patch.get_window_extent() for patch in axes.patches if not patch.get_hatch()]
    for text in axes.texts:
        extent = text.get_window_extent()
        assert any(b.x0 - 1 <= extent.x0 and extent.x1 <= b.x1 + 1 and b.y0 < extent.y0 < b.y1 for b in boxes), text.get_text()


def test_saved_figures_are_small_valid_and_the_same_each_time(tmp_path, measured):
    figure = comparison.speedup_heatmap(measured)
    first, second = (comparison.save(comparison.speedup_heatmap(measured), tmp_path / name, "x") for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    text = first.read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    words = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert set(texts(figure.axes[0])) <= set(words)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    names = {node.get("id") for node in root.iter() if node.get("id")}
    assert set(re.findall(r"(?:url\(|href=\")#(\w+)", text)) <= names
    assert len(text) < 20_000


def test_compact_svgs_lose_no_path():
    use = '<use xlink:href="#m1" x="{}" y="{}" style="fill: red"/>'
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"><metadata>x</metadata>'
        '<defs><path id="m1" d="M 0 2.123 \nL 1 1 \n" style="stroke: #000"/><style>*{}</style></defs>'
        f'<g id="line">{use.format(12.345, 0.04)}{use.format(1, 2)}</g><g id="empty"/>'
        '<text style="fill: red" transform="rotate(-0 1 2)">a &lt; b</text></svg>'
    )
    text = versus_svg.compact(svg)
    assert "metadata" not in text
    assert '<path id="ia" d="M0 2.12L1 1"' in text
    assert '<g class="b"><use x="12.3" y="0" href="#ia"/><use x="1" y="2" href="#ia"/></g>' in text
    assert '<text class="b">a &lt; b</text>' in text
    assert ".b{fill:red}" in text
