"""The comparison of up-sampling operators: checked before it is timed, stored as rows, shown as a table of these alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tconv_bench import beside_torch, readme, store, upsample_comparison
from tconv_bench.plots import upsampling
from tconv_bench.plots.rows import NothingToDrawError
from tconv_bench.store import Measurement
from tconv_bench.units import NONE, X
from tconv_bench.upsample_comparison import Case, cases, difference, table

ROOT = Path(__file__).resolve().parent.parent
ROWS = ROOT / "reports" / "zen4-2core-upsample" / "rows.jsonl.gz"


class Tensor:
    """What PyTorch gives, as far as the comparison looks."""

    def __init__(self, values: np.ndarray):
        self.values = values

    def numpy(self) -> np.ndarray:
        return self.values


def rows(case: str, ours: float, torch: float | None) -> list[Measurement]:
    facts = {"threads": 2, "machine": {"cpu": "Abacus"}, "commit": "ab12" * 10, "measured_at": "2026-11-21T12:00:00+00:00"}
    times = {upsample_comparison.OURS: ours, upsample_comparison.TORCH: torch}
    return [
        Measurement("upsample", case, case, name, median=seconds, versions={"torch": "2.9"}, **facts)
        for name, seconds in times.items()
    ]


def test_every_case_has_a_text_of_its_own_and_computes():
    found = list(cases())
    assert len({str(case) for case in found}) == len(found)
    assert {case.operator for case in found} == set(upsample_comparison.OPERATORS)
    for operator in upsample_comparison.OPERATORS:
        size = {3: "1x2x4", 4: "1x2x4x4", 5: "1x2x4x4x4"}[upsample_comparison.OPERATORS[operator].sizes[0].count("x") + 1]
        result = Case(operator, size, 2).ours()()
        first = result[0] if isinstance(result, tuple) else result
        pixels = 2 if operator.startswith("max_pool2d") else 4 if operator.startswith("max_unpool2d") else 8
        assert first.shape == (1, 2, *[pixels] * (first.ndim - 2))


def test_results_that_differ_have_no_time():
    right = np.array([[1.0, 2.0]], np.float32)
    assert difference(right, Tensor(right.astype(np.float64) + 1e-6)) == ""
    assert difference((right, right), (Tensor(right), Tensor(right))) == ""
    assert difference(right, Tensor(right + 1)) == "differs by 1"
    assert difference((right, right), (Tensor(right), Tensor(right + 1))) == "differs by 1"
    assert difference(right, Tensor(np.array([[1.0, np.nan]], np.float32))) == "differs by nan"
    assert difference(np.array([7, 255], np.uint8), Tensor(np.array([7.5, 300.0]))) == ""
    assert difference(np.array([7, 255], np.uint8), Tensor(np.array([8.0, 300.0]))) == "differs by 1"
    assert difference(right, Tensor(right.T)) == "shape is (1, 2) instead of (2, 1)"


def test_the_table_says_what_the_rows_say():
    measured = [
        *rows("nearest 1x1x8x8 x2", 2e-6, 3e-6), *rows("nearest 1x3x256x256 x2", 1e-4, 8e-5),
        *rows("max_pool2d 1x1x8x8 x2", 3e-6, 9e-6),
        *rows("bicubic 1x1x8x8 x2", 1e-6, None),
    ]  # fmt: skip
    assert table(measured).splitlines() == [
        "| operator | scale | 1x1x8x8 | 1x3x256x256 | mean |",
        "| --- | ---: | ---: | ---: | ---: |",
        f"| `nearest` | 2 | 1.50{X} (2.00 µs) | 0.800{X} (100 µs) | 1.10{X} |",
        f"| `max_pool2d` | 2 | 3.00{X} (3.00 µs) | {NONE} | 3.00{X} |",
        "",
        "PyTorch's time / ours, above 1 this project is faster; in brackets ours: a whole call with a fresh output, float32 or",
        "bytes, hot caches, medians of interleaved samples; innermost: both sides take and give images whose channels are",
        "innermost in memory. The mean is geometric. Below 1: nearest 1x3x256x256 x2 0.80.",
        "Abacus, 2 threads, PyTorch 2.9, 2026-11-21, commit ab12ab12ab12.",
    ]
    with pytest.raises(ValueError, match="no row of an up-sampling operator of this project beside one of PyTorch"):
        table(measured[-2:])


def test_the_committed_table_is_what_the_committed_rows_say(tmp_path: Path):
    copy = tmp_path / "upsampling.md"
    copy.write_bytes((ROOT / "docs" / "upsampling.md").read_bytes())
    assert readme.refresh(copy, ROWS, upsample_comparison.TABLE, table) is False
    measured = store.read(ROWS)
    assert len(measured) == 2 * len(list(cases()))
    assert not any(row.note for row in measured)


def test_the_figure_has_a_panel_per_operator_and_a_point_per_case():
    measured = [
        *rows("nearest 1x1x8x8 x2", 2e-6, 3e-6), *rows("nearest-innermost 1x3x256x256 x2", 1e-4, 8e-5),
        *rows("max_pool2d 1x1x8x8 x2", 3e-6, 9e-6),
    ]  # fmt: skip
    figure = upsampling.upsampling_speed(measured)
    nearest, pool = (axis for axis in figure.axes if axis.axison)
    assert [axis.get_title("left") for axis in (nearest, pool)] == ["nearest", "max_pool2d"]
    points = {line.get_label(): (line.get_xdata()[0], line.get_ydata()[0]) for line in nearest.lines[1:]}
    assert points == {
        "float32": (64, pytest.approx(1.5)), "float32, channels innermost": (196608, pytest.approx(0.8)),
    }  # fmt: skip
    with pytest.raises(NothingToDrawError):
        upsampling.upsampling_speed([])


def test_both_sides_are_measured_in_a_process_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("torch", reason="PyTorch is not installed", exc_type=ImportError)
    path = tmp_path / "rows.jsonl"
    store.append_all(path, [row for case in list(cases())[1:] for row in rows(str(case), 1.0, 1.0)])
    upsample_comparison.measure(path, 1, 0.01)
    new = store.read(path)[-2:]
    assert [row.method for row in new] == ["tconv_bench", "torch"]
    assert {row.problem for row in new} == {"nearest 1x1x8x8 x2"}
    assert all(row.median > 0 and len(row.samples) >= beside_torch.LEAST_ROUNDS and row.threads == 1 for row in new)
    assert not any(row.note for row in new)
