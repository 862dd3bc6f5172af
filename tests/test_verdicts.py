"""What chance can explain is no verdict."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest

from tconv_bench import compare_cli, verdicts
from tconv_bench.store import Measurement

PROBLEM = "n1_ci8_i8x8_co8_k4x4_s2x2_p1x1"


def row(method: str, median: float | None, spread: float = 0.01, **changes) -> Measurement:
    """A timed row whose interval reaches ``spread`` to either side."""
    values = {
        "suite": "compare",
        "label": "a",
        "problem": PROBLEM,
        "mode": "planned",
        "cache": "hot",
        "threads": 2,
        "group": "g",
    }
    if median is not None:
        values |= {"median": median, "low": median * (1 - spread), "high": median * (1 + spread)}
    return Measurement(method=method, **(values | changes))


def group(*rows: Measurement) -> verdicts.Group:
    (found,) = verdicts.groups(rows)
    return found


def control(median: float = 1.0, spread: float = 0.01) -> Measurement:
    return row("auto", median, spread, control=True)


def test_the_floor_is_how_far_the_two_copies_reach_apart():
    found = group(row("auto", 1.0), control(1.13))
    assert found.spread == found.floor == pytest.approx(1.13 * 1.01 / 0.99 - 1)
    assert list(found.rows) == ["auto"]


def test_the_floor_is_never_below_what_a_process_does_by_chance():
    found = group(row("auto", 1.0), row("direct", 0.92), control(1.0))
    assert found.spread == pytest.approx(1.01 / 0.99 - 1)
    assert found.floor == verdicts.LEAST_FLOOR == 0.1
    assert verdicts.verdict(found).winner == ""


def test_the_floor_is_at_least_the_median_spread_of_the_groups_of_its_kind():
    rows = [
        replace(r, group=f"g{i}", label=f"layer {i}")
        for i, other in enumerate((1.0, 1.15, 1.3))
        for r in (row("auto", 1.0, 0.0), control(other, 0.0))
    ]
    rows += [replace(r, group="h", cache="flushed") for r in (row("auto", 1.0, 0.0), control(2.0, 0.0))]
    floors = [g.floor for g in verdicts.groups(rows)]
    assert floors == [pytest.approx(f) for f in (0.15, 0.15, 0.3, 1.0)]


def test_a_winner_is_beyond_the_floor():
    found = group(row("auto", 1.0), row("direct", 0.8), row("torch", 2.0, peer=True), control(1.0))
    verdict = verdicts.verdict(found)
    assert (verdict.winner, verdict.fastest, verdict.tied) == ("direct", "direct", ())
    assert (verdict.median, verdict.runner_up, verdict.ratio) == (0.8, "auto", pytest.approx(1.25))


@pytest.mark.parametrize(
    ("other", "spread", "control_median"),
    [
        (0.8, 0.2, 1.0),  # intervals overlap
        (0.8, 0.001, 1.3),  # intervals apart, but two equal things came out further apart
    ],
)
def test_no_winner_is_named_inside_the_noise(other: float, spread: float, control_median: float):
    found = group(row("auto", 1.0, spread), row("direct", other, spread), control(control_median, spread))
    verdict = verdicts.verdict(found)
    assert (verdict.winner, verdict.tied) == ("", ("direct", "auto"))


def test_an_entrant_that_is_as_fast_in_its_better_mode_does_not_lose():
    two_modes = row("direct", 1.5, 0.01, samples=(1.0,) * 4 + (1.5,) * 20)
    found = group(row("auto", 1.0, samples=(1.0,) * 24), two_modes, control())
    assert verdicts.verdict(found).tied == ("auto", "direct")
    slow = replace(two_modes, samples=(1.2,) * 4 + (1.5,) * 20)
    assert verdicts.verdict(group(row("auto", 1.0), slow, control())).winner == "auto"


def test_without_a_control_nobody_wins():
    found = group(row("auto", 1.0), row("direct", 0.5))
    assert found.floor is None
    assert verdicts.verdict(found).tied == ("direct", "auto")


def test_a_lone_entrant_and_an_empty_group():
    assert verdicts.verdict(group(row("auto", 1.0), control())).runner_up == ""
    assert verdicts.verdict(group(row("auto", None))) is None


def test_channels_last_entrants_can_be_left_out():
    found = group(
        row("auto", 1.0),
        row("torch-channels_last", 0.5, peer=True, layout="channels-last"),
        row("torch", 3.0, peer=True),
        control(),
    )
    assert verdicts.verdict(found).winner == "torch-channels_last"
    assert verdicts.verdict(found, verdicts.channels_first(found)).winner == "auto"


@pytest.mark.parametrize(("peer", "outcome"), [(2.0, "win"), (0.5, "loss"), (1.01, "tie")])
def test_a_duel_is_between_the_best_of_either_side(peer: float, outcome: str):
    found = group(
        row("auto", 1.0), row("matmul", 9.0), row("torch", peer, peer=True), row("openvino", 9.0, peer=True), control(1.0)
    )
    duel = verdicts.duel(found)
    assert (duel.ours.method, duel.peer.method, duel.outcome) == ("auto", "torch", outcome)
    assert duel.ratio == pytest.approx(peer)
    assert verdicts.duel(found, "matmul").ratio == pytest.approx(peer / 9)
    assert verdicts.duel(group(row("auto", 1.0), control())) is None


def test_only_the_newest_group_of_a_problem_counts():
    old = [replace(row("auto", 1.0), measured_at="2026-01-01T00:00:00+00:00")]
    new = [replace(row("auto", 2.0, group="h"), measured_at="2026-01-02T00:00:00+00:00")]
    for rows in (old + new, new + old):
        assert group(*rows).rows["auto"].median == 2.0


def test_sets_that_were_not_interleaved_are_not_compared():
    rows = [row("auto", 1.0), row("direct", 1.0, group="h", mode="one-shot")]
    assert [list(g.rows) for g in verdicts.groups(rows)] == [["auto"], ["direct"]]


@pytest.mark.parametrize(("planned", "expected"), [(0.5, 4.0), (1.0, inf), (2.0, inf)])
def test_break_even(planned: float, expected: float):
    one_shot = row("auto", 1.0, mode="one-shot")
    assert verdicts.break_even(row("auto", planned, prepare_seconds=2.0), one_shot) == expected
    assert verdicts.break_even(row("auto", planned), one_shot) is None


@pytest.mark.parametrize(
    ("there", "here", "verdict"),
    [(1.0, 0.8, "faster"), (1.0, 1.3, "slower"), (1.0, 1.02, "within noise"), (None, 1.0, "not timed")],
)
def test_a_change_against_another_commit(there: float | None, here: float, verdict: str):
    found = group(row("auto", here), row("auto", there, revision="0123456789abcdef"), control(here))
    assert list(found.rows) == ["auto", "auto @ 0123456"]
    assert compare_cli.change(found, "auto") == (there and pytest.approx(there / here), verdict)
