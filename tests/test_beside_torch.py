"""What every comparison with PyTorch shares: nothing is timed that is wrong or missing."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from tconv_bench import beside_torch, store
from tconv_bench.beside_torch import OURS, TORCH, Entry
from tconv_bench.store import Measurement


def test_without_pytorch_nothing_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(beside_torch, "version", missing)
    with pytest.raises(ValueError, match="PyTorch, which is to be compared with, is not installed"):
        beside_torch.measure("tconv_bench.gradients_comparison", tmp_path / "rows.jsonl", 1, 0.01)
    assert not list(tmp_path.iterdir())


def test_a_process_that_fails_says_why(tmp_path: Path):
    pytest.importorskip("torch", reason="PyTorch is not installed", exc_type=ImportError)
    with pytest.raises(ChildProcessError, match=r"No module named tconv_bench\.nothing"):
        beside_torch.measure("tconv_bench.nothing", tmp_path / "rows.jsonl", 1, 0.01)


def test_a_wrong_result_has_no_time_and_a_known_one_is_left_alone(tmp_path: Path):
    pytest.importorskip("torch", reason="PyTorch is not installed", exc_type=ImportError)
    path, called = tmp_path / "rows.jsonl", []
    store.append_all(path, [Measurement("suite", "known", "p", OURS, median=1.0)])
    calls = {OURS: lambda: called.append(OURS), TORCH: lambda: called.append(TORCH)}
    entries = [Entry(label, "p", lambda: calls, lambda _: "too blue") for label in ("known", "new")]
    beside_torch.measure_here("suite", entries, path, 0.01)
    assert [(row.label, row.method, row.median, row.note) for row in store.read(path)[1:]] == [
        ("new", OURS, None, "wrong result: too blue"),
        ("new", TORCH, None, ""),
    ]
    assert called == []


def test_every_side_has_a_sample_per_round():
    samples = beside_torch.rounds({OURS: lambda: sum(range(10**4)), TORCH: lambda: sum(range(10**5))}, 0.0)
    assert {name: len(found) for name, found in samples.items()} == dict.fromkeys((OURS, TORCH), beside_torch.LEAST_ROUNDS)
    assert max(samples[OURS]) > 0


def test_one_line_tells_where():
    facts = {"threads": 2, "machine": {"cpu": "Abacus"}, "versions": {"torch": "2.9"}}
    days = [("2026-11-22T01", "ab12" * 10), ("2026-11-21T12", ""), ("2026-11-22T02", "cd34" * 10)]
    rows = [Measurement("s", "a", "p", OURS, measured_at=day, commit=commit, **facts) for day, commit in days]
    expected = "Abacus, 2 threads, PyTorch 2.9, 2026-11-21 to 2026-11-22, commit ab12ab12ab12, cd34cd34cd34."
    assert beside_torch.where(rows) == expected
    assert beside_torch.where(rows[1:2]) == "Abacus, 2 threads, PyTorch 2.9, 2026-11-21."
