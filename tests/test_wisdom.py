"""Wisdom: kept between processes, lost by none of them, and never a reason to fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from tconv_bench import Problem, jit, machine, wisdom

PROBLEM, OTHER = Problem(1, 3, (4, 5), 2, 3), Problem(2, 3, (4,), 2, 3, dtype="float64")
TIMES = {"direct": 2e-3, "col2im": 1e-3}


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "folder" / "wisdom.json"
    monkeypatch.setenv("TCONV_BENCH_WISDOM", str(path))
    wisdom.forget()
    yield path
    monkeypatch.setenv("TCONV_BENCH_WISDOM", "")
    wisdom.forget()


def as_new_process() -> None:
    wisdom._read.clear()
    wisdom._unsaved.clear()


def test_what_was_measured_comes_back(file: Path):
    assert wisdom.lookup(PROBLEM) is None
    assert wisdom.remember(PROBLEM, TIMES) == wisdom.Choice("col2im", TIMES)
    wisdom.remember(OTHER, {"direct": 1.0})
    as_new_process()
    assert wisdom.lookup(PROBLEM) == wisdom.Choice("col2im", TIMES)
    assert wisdom.lookup(OTHER) == wisdom.Choice("direct", {"direct": 1.0})
    content = json.loads(file.read_text())
    assert content["version"] == wisdom.VERSION
    assert content["machines"][wisdom.machine_key()][str(PROBLEM)] == {"method": "col2im", "seconds": TIMES}
    assert [path.name for path in file.parent.iterdir() if path.suffix != ".lock"] == ["wisdom.json"]


def test_a_later_measurement_replaces_an_earlier_one():
    wisdom.remember(PROBLEM, TIMES)
    wisdom.remember(PROBLEM, {"direct": 1e-3, "scatter_add": 2e-3})
    as_new_process()
    assert wisdom.lookup(PROBLEM) == wisdom.Choice("direct", {"direct": 1e-3, "scatter_add": 2e-3})


def test_it_holds_for_one_machine_and_number_of_threads(monkeypatch: pytest.MonkeyPatch):
    wisdom.remember(PROBLEM, TIMES)
    key = wisdom.machine_key()
    for part in (
        machine.facts()["cpu"],
        f"{machine.threads()} threads",
        jit.source_fingerprint(),
        f"{machine.simd_bits()}-bit",
    ):
        assert part in key
    with monkeypatch.context() as patch:
        patch.setattr(machine, "threads", lambda: 77)
        assert wisdom.lookup(PROBLEM) is None
        wisdom.remember(PROBLEM, {"direct": 1.0})
    assert wisdom.lookup(PROBLEM) == wisdom.Choice("col2im", TIMES)


def test_the_machines_written_last_are_kept(file: Path, monkeypatch: pytest.MonkeyPatch):
    for number in [*range(wisdom.MACHINES + 2), 2]:
        monkeypatch.setattr(wisdom, "machine_key", lambda number=number: f"machine {number}")
        wisdom.remember(PROBLEM, TIMES)
    kept = list(json.loads(file.read_text())["machines"])
    assert kept == [f"machine {n}" for n in [*range(3, wisdom.MACHINES + 2), 2]]


def test_forgetting_drops_the_file_and_the_process_memory(file: Path):
    wisdom.remember(PROBLEM, TIMES)
    before = wisdom.changes
    wisdom.forget()
    assert not file.exists()
    assert wisdom.changes > before
    assert wisdom.lookup(PROBLEM) is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "cannot be read"),
        ("[1]", "cannot be read"),
        ('{"version": 99, "machines": {}}', "is of version 99, where this package writes version 1"),
        ('{"version": 1, "machines": {"m": {"p": {"method": "direct", "seconds": {"direct": -1}}}}}', "cannot be read"),
        ('{"version": 1, "machines": {"m": {"p": {"method": "direct", "seconds": {"col2im": 1}}}}}', "cannot be read"),
        ('{"version": 1, "machines": {"m": {"p": {"method": "direct"}}}}', "cannot be read"),
    ],
)
def test_a_file_that_is_no_wisdom_is_named_ignored_and_replaced(file: Path, content: str, reason: str):
    file.parent.mkdir(exist_ok=True)
    file.write_text(content)
    with pytest.warns(UserWarning, match=f"wisdom.json: {reason}") as caught:
        assert wisdom.lookup(PROBLEM) is None
    assert str(file) in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once is enough
        assert wisdom.lookup(PROBLEM) is None
        wisdom.remember(PROBLEM, TIMES)
        as_new_process()
        assert wisdom.lookup(PROBLEM) == wisdom.Choice("col2im", TIMES)


def test_what_cannot_be_written_lasts_as_long_as_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TCONV_BENCH_WISDOM", str(tmp_path / "file" / "wisdom.json"))
    wisdom.remember(PROBLEM, TIMES)
    assert wisdom.lookup(PROBLEM) == wisdom.Choice("col2im", TIMES)
    assert (tmp_path / "file").read_text() == ""
    as_new_process()
    assert wisdom.lookup(PROBLEM) is None


def test_a_write_that_fails_is_made_up_for_by_the_next(file: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        wisdom.remember(PROBLEM, TIMES)
    assert [path.name for path in file.parent.iterdir()] == ["wisdom.json.lock"]
    wisdom.remember(OTHER, TIMES)
    as_new_process()
    assert wisdom.lookup(PROBLEM) == wisdom.lookup(OTHER) == wisdom.Choice("col2im", TIMES)


def test_an_empty_variable_keeps_nothing_on_the_disk(file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TCONV_BENCH_WISDOM", "")
    assert wisdom.path() is None
    wisdom.remember(PROBLEM, TIMES)
    assert wisdom.lookup(PROBLEM) == wisdom.Choice("col2im", TIMES)
    assert not file.exists()
    wisdom.forget()
    assert wisdom.lookup(PROBLEM) is None


def test_the_file_is_in_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("TCONV_BENCH_WISDOM")
    assert wisdom.path() == jit.user_cache_folder() / "wisdom.json"

    def homeless() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(jit, "user_cache_folder", homeless)
    assert wisdom.path() is None


@pytest.mark.parametrize("seconds", [{}, {"direct": 0.0}, {"direct": float("nan")}, {"direct": float("inf")}])
def test_no_times_no_wisdom(seconds: dict[str, float]):
    with pytest.raises(ValueError, match="must hold a positive, finite time"):
        wisdom.remember(PROBLEM, seconds)


WRITER = """
import sys
from tconv_bench import Problem, wisdom
print("ready", flush=True)
sys.stdin.readline()
for i in range(1, 41):
    wisdom.remember(Problem(int(sys.argv[1]), 1, (i,), 1, 1), {"direct": float(i)})
"""


def test_two_processes_that_write_at_once_lose_nothing(file: Path):
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, n], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for n in "12"
    ]
    pipes = [(writer.stdin, writer.stdout) for writer in writers if writer.stdin and writer.stdout]
    assert [output.readline() for _, output in pipes] == ["ready\n"] * 2
    for start, _ in pipes:
        start.write("go\n")
        start.flush()
    for writer in writers:
        writer.communicate(timeout=60)
    assert [writer.returncode for writer in writers] == [0, 0]
    (kept,) = json.loads(file.read_text())["machines"].values()
    assert kept == {
        str(Problem(n, 1, (i,), 1, 1)): {"method": "direct", "seconds": {"direct": float(i)}}
        for n in (1, 2)
        for i in range(1, 41)
    }
