"""Rows survive interruption; broken files are named; asv's files become rows."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tconv_bench import store
from tconv_bench.store import Measurement

ROW = Measurement(
    suite="cli",
    label="n1_ci1_i4_co1_k2",
    problem="n1_ci1_i4_co1_k2",
    method="direct",
    samples=(1.0, 2.0),
    median=1.5,
    machine={"cores": 2},
)


def test_rows_read_back_as_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rows.jsonl"
    other = Measurement("layers", "a b", "n1_ci1_i4_co1_k2", "matmul", note="wrong result: 1 of 4")
    store.append(path, ROW)
    store.append(path, other)
    assert store.read(path) == [ROW, other]
    assert all(json.loads(line)["schema"] == store.SCHEMA for line in path.read_text().splitlines())


def test_unfinished_last_line_is_dropped_and_then_repaired(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    store.append(path, ROW)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: len(whole) // 2])
    with pytest.warns(UserWarning, match=r"rows.jsonl, line 2: dropped"):
        assert store.read(path) == [ROW]
    store.append(path, ROW)
    assert path.read_bytes() == whole * 2


def test_complete_last_line_without_its_newline_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    store.append(path, ROW)
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert store.read(path) == [ROW]
    store.append(path, ROW)
    assert store.read(path) == [ROW, ROW]


def test_a_file_of_one_torn_line_is_repaired(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"schema": 1, "suite"' + b" " * 200_000)
    store.append(path, ROW)
    assert store.read(path) == [ROW]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", "line 1: not JSON"),
        ("[]", "line 1: not a measurement of schema 1"),
        ('{"schema": 99}', "line 1: not a measurement of schema 1"),
        ('{"schema": 1, "suite": "cli", "label": "", "problem": "", "method": "", "speed": 1}', "missing fields speed"),
        ('{"schema": 1, "suite": "cli", "label": "", "problem": ""}', "missing fields method"),
    ],
)
def test_broken_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(store.StoreError, match=message):
        store.read(path)


def test_missing_and_unwritable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(store.StoreError, match=r"none.jsonl: cannot be read"):
        store.read(tmp_path / "none.jsonl")
    (tmp_path / "file").write_text("")
    with pytest.raises(store.StoreError, match=r"rows.jsonl: cannot be written"):
        store.append(tmp_path / "file" / "rows.jsonl", ROW)


@pytest.mark.parametrize(("n", "k"), [(1, 1), (5, 1), (8, 1), (9, 2), (12, 3), (20, 6), (25, 8), (100, 40)])
def test_median_interval_ranks(n: int, k: int) -> None:
    """k-th smallest and largest, as in the tables of the sign test's interval."""
    assert store.median_interval([float(i) for i in range(n, 0, -1)]) == (k, n + 1 - k)


def test_timing_fields() -> None:
    fields = store.timing_fields([3.0, 1.0, 2.0, math.inf])
    assert fields == {"median": 2.0, "low": 1.0, "high": 3.0, "minimum": 1.0, "samples": (3.0, 1.0, 2.0)}
    assert store.timing_fields([]) == {}


def asv_results(tmp_path: Path, results: dict[str, list[object]]) -> Path:
    folder = tmp_path / "results"
    (folder / "here").mkdir(parents=True)
    (folder / "here" / "machine.json").write_text("{}")
    content = {
        "commit_hash": "a" * 40,
        "params": {"machine": "here", "cpu": "chip", "num_cpu": "2", "ram": "1", "arch": "x", "os": "o"},
        "python": "3.11",
        "requirements": {"numba": ""},
        "result_columns": [
            "result",
            "params",
            "version",
            "started_at",
            "duration",
            "stats_ci_99_a",
            "stats_ci_99_b",
            "samples",
        ],
        "results": results,
    }
    (folder / "here" / "aaaaaaaa-env.json").write_text(json.dumps(content))
    return folder


VARIANTS = ["'direct'", "'matmul'", "'zero_insertion'"]


def test_asv_results_are_joined(tmp_path: Path) -> None:
    params = [["'DCGAN g2 n1_ci2_i4_co3_k2'"], VARIANTS]
    folder = asv_results(
        tmp_path,
        {
            "bench_layers.Run.time_run": [
                [2.0, None, math.nan], params, "v", 1_700_000_000_000, 1.0,
                [-math.inf] * 3, [math.inf] * 3, [[1.0, 2.0, 3.0]] + [None] * 2,
            ],
            "bench_layers.Prepare.time_prepare": [[0.25, 0.5, math.nan], params],
            "bench_layers.Prepared.track_prepared_bytes": [[24.0, 48.0, math.nan], params],
            "bench_layers.Workspace.track_workspace_bytes": [[8, 16, math.nan], params],
            "bench_startup.Import.timeraw_import": [[1.0], []],
        },
    )  # fmt: skip
    direct, matmul = store.read_asv(folder)
    assert (direct.suite, direct.label, direct.problem) == ("layers", "DCGAN g2", "n1_ci2_i4_co3_k2")
    assert (direct.median, direct.low, direct.high, direct.minimum) == (2.0, 1.0, 3.0, 1.0)
    assert (direct.prepare_seconds, direct.prepared_bytes, direct.workspace_bytes) == (0.25, 24, 8)
    assert direct.measured_at == "2023-11-14T22:13:20+00:00"
    assert direct.machine["cores"] == 2
    assert (matmul.median, matmul.note, matmul.prepared_bytes) == (None, "failed: asv stored no result", 48)


def test_asv_bounds_without_samples_are_finite_or_absent(tmp_path: Path) -> None:
    params = [["'n1_ci2_i{size}_co3_k2'"], ["8", "16"], ["'direct'"]]
    row = [[2.0, 3.0], params, "v", None, None, [-math.inf, 2.5], [math.inf, 3.5]]
    first, second = store.read_asv(asv_results(tmp_path, {"bench_sizes.Run.time_run": row}))
    assert (first.label, first.problem) == ("n1_ci2_i8_co3_k2",) * 2
    assert (first.median, first.low, first.high) == (2.0, None, None)
    assert (second.problem, second.low, second.high) == ("n1_ci2_i16_co3_k2", 2.5, 3.5)


def test_asv_skips_and_failures_carry_their_reason(tmp_path: Path) -> None:
    params = [["'n1_ci2_i4_co3_k2'", "'n1_ci4096_i256x256_co4096_k4x4'"], ["'direct'", "'matmul'"]]
    row = [[None, 1.0, 1.0, math.nan], params]
    folder = asv_results(tmp_path, {"bench_layers.Run.time_run": row})
    notes = {"reasons": {"bench_layers.Run.time_run": {"'n1_ci2_i4_co3_k2', 'direct'": "wrong result: 3 of 15"}}}
    store.notes_path(folder / "here" / "aaaaaaaa-env.json").write_text(json.dumps(notes))
    rows = {(r.problem, r.method): r for r in store.read_asv(folder)}
    assert rows["n1_ci2_i4_co3_k2", "direct"].note == "wrong result: 3 of 15"
    assert rows["n1_ci2_i4_co3_k2", "direct"].median is None
    assert "convolution matrix would take" in rows["n1_ci4096_i256x256_co4096_k4x4", "matmul"].note


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"results": {"bench_a.B.time_run": [[1], [["x"]]]}}'])
def test_corrupt_asv_file_is_named(tmp_path: Path, content: str) -> None:
    path = asv_results(tmp_path, {}) / "here" / "aaaaaaaa-env.json"
    path.write_text(content)
    with pytest.raises(store.StoreError, match=r"aaaaaaaa-env.json: not"):
        store.read_asv(path.parent.parent)


def test_missing_results_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(store.StoreError, match="none: no such results folder"):
        store.read_asv(tmp_path / "none")
