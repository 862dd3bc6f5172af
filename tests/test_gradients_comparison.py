"""The comparison of gradients: checked before it is timed, stored as rows, shown as a table of these alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tconv_bench import gradients_comparison, layers, store
from tconv_bench.gradients import Gradients
from tconv_bench.gradients_comparison import LAST, OURS, TORCH, difference, table
from tconv_bench.plots import gradients
from tconv_bench.plots.rows import NothingToDrawError
from tconv_bench.problem import Problem
from tconv_bench.store import Measurement
from tconv_bench.units import NONE, X

ROOT = Path(__file__).resolve().parent.parent
ROWS = ROOT / "reports" / "zen4-2core-gradients" / "rows.jsonl.gz"


class Tensor:
    """What PyTorch gives, as far as the comparison looks."""

    def __init__(self, values: np.ndarray):
        self.values = values

    def numpy(self) -> np.ndarray:
        return self.values


def rows(label: str, problem: str, **times: float | None) -> list[Measurement]:
    facts = {"threads": 2, "machine": {"cpu": "Abacus"}, "commit": "ab12" * 10, "measured_at": "2026-11-21T12:00:00+00:00"}
    names = {"ours": OURS, "torch": TORCH, "last": LAST}
    return [
        Measurement("gradients", label, problem, names[name], median=seconds, versions={"torch": "2.9"}, **facts)
        for name, seconds in times.items()
    ]


def test_a_wrong_gradient_is_named():
    right = Gradients(*(np.array([1.0, 2.0], np.float32) for _ in range(3)))
    theirs = [Tensor(a) for a in right]
    assert difference(right, theirs) == ""
    assert difference(right._replace(grad_weight=right.grad_weight + 1), theirs) == "grad_weight differs by 1"
    assert difference(right._replace(grad_x=np.full(2, np.nan)), theirs) == "grad_x differs by nan"
    assert difference(right._replace(grad_bias=np.zeros(3)), theirs) == "grad_bias has shape (3,) instead of (2,)"


def test_the_table_says_what_the_rows_say(monkeypatch: pytest.MonkeyPatch):
    measured = [
        *rows("A", "n1_ci2_i4_co3_k3", ours=1e-3, torch=4e-3, last=2e-3),
        *rows("B", "n1_ci2_i8_co3_k3", ours=2e-3, torch=1e-3),
        *rows("C", "n1_ci2_i9_co3_k3", ours=None, torch=1e-3),
    ]
    all_layers = [layers.Layer(label, Problem(1, 2, (4,), 3, 3), "a book") for label in "ABC"]
    monkeypatch.setattr(layers, "read", lambda: all_layers)
    assert table(measured).splitlines() == [
        "| layer | problem | ours | PyTorch | channels_last | ratio |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
        f"| A | `n1_ci2_i4_co3_k3` | 1.00 ms | 4.00 ms | 2.00 ms | 2.00{X} |",
        f"| B | `n1_ci2_i8_co3_k3` | 2.00 ms | 1.00 ms | {NONE} | 0.500{X} |",
        "",
        "2 layers, float32, hot caches, fresh results, medians of interleaved samples. The ratio is the time of",
        f"PyTorch's faster memory order / ours: above 1 this project is faster. Its geometric mean is 1.00{X}, over",
        f"PyTorch on contiguous tensors alone 1.41{X}. Faster on 1 of 2.",
        "Below 1: B 0.50.",
        "Not measured: C.",
        "Abacus, 2 threads, PyTorch 2.9, 2026-11-21, commit ab12ab12ab12.",
    ]
    with pytest.raises(ValueError, match="no row of this project's gradients beside one of PyTorch's"):
        table(measured[-2:])


def test_the_figure_has_a_point_per_layer():
    measured = [
        *rows("A", "n1_ci2_i4_co3_k3", ours=1e-3, torch=4e-3, last=2e-3),
        *rows("B", "n1_ci2_i8_co3_k3", ours=2e-3, torch=1e-3),
    ]
    (axis,) = gradients.gradients_speed(measured).axes
    points = axis.lines[-1]
    assert list(points.get_xdata()) == [Problem.parse(f"n1_ci2_i{size}_co3_k3").flops for size in (4, 8)]
    assert list(points.get_ydata()) == [2.0, 0.5]
    assert sorted(text.get_text() for text in axis.texts) == ["A", "B"]
    with pytest.raises(NothingToDrawError):
        gradients.gradients_speed([])


def test_the_committed_table_is_made_of_the_committed_rows():
    text = (ROOT / "docs" / "gradients.md").read_text(encoding="utf-8")
    assert f"<!-- gradients:begin -->\n{table(store.read(ROWS))}\n<!-- gradients:end -->" in text


@pytest.mark.slow  # what measures is the module that the up-sampling comparison's test runs
def test_both_sides_are_measured_in_a_process_of_their_own(tmp_path: Path):
    pytest.importorskip("torch", reason="PyTorch is not installed", exc_type=ImportError)
    path = tmp_path / "rows.jsonl"
    others = [layer.label for layer in layers.read() if layer.label != "Tiny 8x8"]
    store.append_all(path, [row for label in others for row in rows(label, "n1_ci2_i4_co3_k3", ours=1.0, torch=1.0)])
    gradients_comparison.measure(path, 1, 0.01)
    new = store.read(path)[-3:]
    assert [row.method for row in new] == [OURS, TORCH, LAST]
    assert {row.label for row in new} == {"Tiny 8x8"}
    assert all(row.median > 0 and row.threads == 1 and not row.note for row in new)
