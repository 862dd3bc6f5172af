"""The comparison as users run it: wrong results, crashes, interruptions, another commit; on a package tree of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tconv_bench import compare, jit, machine, measure, store, workers
from tconv_bench.cli import main
from tconv_bench.problem import Problem

TINY = "n1_ci2_i4x4_co3_k3x3_s2x2"
SPOILED = '''
"""Variants that a comparison must survive."""

import os

import numpy as np

from tconv_bench.registry import get, variant
from tconv_bench.variants.direct import Direct


@variant("off_by_one", title="wrong", source="none")
class Wrong(Direct):
    def run(self, state, x, out):
        super().run(state, x, out)
        out.reshape(-1)[-1] += 1


@variant("crashing", title="ends its process", source="none")
class Crashing(Direct):
    def run(self, state, x, out):
        if x.shape[1] == 2 and x.shape[2] == 4:
            os._exit(7)
        super().run(state, x, out)


@variant("raising", title="raises", source="none")
class Raising(Direct):
    def prepare(self, problem, weight, bias):
        if problem.in_size == (4, 4):
            raise RuntimeError("no room left")
        return super().prepare(problem, weight, bias)
'''


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def replace_in(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, (path, old)
    path.write_text(text.replace(old, new))


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A checkout with one commit, whose package has three more variants and measures the machine's limits on two sizes only."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(jit.PACKAGE, folder / "tconv_bench", ignore=shutil.ignore_patterns("__pycache__", "plots", "vendor"))
    shutil.copytree(jit.PACKAGE / "plots", folder / "tconv_bench" / "plots", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "tconv_bench" / "variants" / "spoiled.py").write_text(SPOILED)
    replace_in(folder / "tconv_bench" / "ceilings.py", "for power in range(17, 30))", "for power in (17, 20))")
    (folder / ".gitignore").write_text("__pycache__/\n")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "first")
    return folder


def command(*arguments: str) -> list[str]:
    fast = ["--peers", "none", "--budget", "0.05", "--cache", "hot", "--mode", "planned"]
    return [sys.executable, "-c", "from tconv_bench.cli import main; main()", "compare", *arguments, *fast]


def run(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(tree)}
    return subprocess.run(
        command(*arguments), cwd=tree, env=environment, capture_output=True, text=True, check=False, timeout=240
    )


def test_a_wrong_variant_gets_no_time_and_turns_the_exit_status(tree: Path, tmp_path: Path):
    done = run(tree, TINY, "--variants", "direct,off_by_one,crashing,raising", "--save", str(tmp_path / "rows.jsonl"))
    assert done.returncode == 1, done.stderr
    rows = {(row.method, row.control): row for row in store.read(tmp_path / "rows.jsonl")}
    assert set(rows) == {("direct", False), ("direct", True), ("off_by_one", False), ("crashing", False), ("raising", False)}
    wrong = rows["off_by_one", False]
    assert wrong.note.startswith("wrong result: 1 of 243 elements differ, the worst at (0, 2, 8, 8)")
    assert rows["crashing", False].note == "failed: the process ended with code 7"
    assert rows["raising", False].note == "failed: RuntimeError: no room left"
    for row in rows.values():
        if row.note:
            assert (row.median, row.samples, row.gflops, row.prepare_seconds) == (None, (), None, None)
    assert "off_by_one: wrong result" in done.stderr
    right = rows["direct", False]
    assert right.median > 0
    assert len(right.samples) >= compare.MIN_ROUNDS
    problem = Problem.parse(TINY)
    assert right.gflops == pytest.approx(problem.flops / right.median / 1e9)
    assert 0 < right.roofline < 1
    assert (right.mode, right.cache, right.peer, right.layout) == ("planned", "hot", False, "channels-first")
    assert right.ceilings["fma_gflops"]["float32"] > 0
    assert right.threads == len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else right.threads
    assert right.workspace_by in ("memray", "tracemalloc")
    assert right.commit.endswith("+changes") or len(right.commit) == 40
    assert {row.group for row in rows.values()} == {right.group}


def test_a_killed_run_goes_on_where_it_was(tree: Path, tmp_path: Path):
    problems = [f"n1_ci2_i{size}_co3_k3" for size in (8, 9, 10)]
    path = tmp_path / "rows.jsonl"
    arguments = [*problems, "--variants", "direct", "--no-memory", "--save", str(path)]
    environment = os.environ | {"PYTHONPATH": str(tree)}
    first = subprocess.Popen(
        command(*arguments), cwd=tree, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    end = time.monotonic() + 120
    while time.monotonic() < end and (not path.exists() or path.read_bytes().count(b"\n") < 2):
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    kept = path.read_bytes()
    assert kept.count(b"\n") >= 2
    done = run(tree, *arguments)
    assert done.returncode == 0, done.stderr
    assert path.read_bytes().startswith(kept[: kept.rfind(b"\n") + 1])
    rows = store.read(path)
    assert [row.label for row in rows] == [p for p in problems for _ in range(2)]
    run(tree, *arguments)
    assert store.read(path) == rows


def test_only_a_whole_group_of_these_sources_and_threads_counts_as_measured():
    settings = compare.Settings(modes=("planned",), caches=("hot", "flushed"), threads=2)
    competitors = compare.entrants(["direct", "col2im"], [])
    sources = machine.versions()["sources"]

    def rows(cache: str, **changes) -> list[store.Measurement]:
        values = {"suite": "compare", "label": "a", "problem": TINY, "mode": "planned", "cache": cache, "group": cache}
        values |= {"threads": 2, "versions": {"sources": sources}, "median": 1.0} | changes
        return [store.Measurement(method=e.method, control=e.control, **values) for e in competitors]

    def kept(found: list[store.Measurement]) -> int:
        groups = compare._complete_groups(found, competitors, settings)
        return len(groups.get(("a", TINY, "planned"), []))

    assert kept(rows("hot") + rows("flushed")) == 6
    assert kept(rows("hot")) == 0
    assert kept(rows("hot") + rows("flushed")[:-1]) == 0
    assert kept(rows("hot") + rows("flushed", threads=1)) == 0
    assert kept(rows("hot") + rows("flushed", versions={"sources": "others"})) == 0
    assert kept(rows("hot")[:1] + rows("hot", group="again") + rows("flushed")) == 6


def test_a_slower_tree_is_found_against_its_commit(tree: Path, tmp_path: Path):
    source = tree / "tconv_bench" / "variants" / "direct.py"
    before = source.read_text()
    try:
        replace_in(source, "        _native.run(state", "        __import__('time').sleep(0.01)\n        _native.run(state")
        arguments = ("--variants", "direct", "--against", "HEAD", "--no-memory")
        done = run(tree, TINY, *arguments, "--save", str(tmp_path / "rows.jsonl"))
    finally:
        source.write_text(before)
    assert done.returncode == 3, done.stderr
    assert "slower" in done.stdout
    rows = store.read(tmp_path / "rows.jsonl")
    assert sorted((bool(row.revision), row.control) for row in rows) == [(False, False), (False, True), (True, False)]
    slow = next(row for row in rows if not row.revision)
    fast = next(row for row in rows if row.revision)
    assert slow.median > 0.01 > fast.median


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["n1_ci2"], "missing in_size"),
        ([TINY, "--variants", "dirct"], "variant is 'dirct', valid variants are auto, col2im"),
        ([TINY, "--variants", ","], "no variant to compare"),
        ([TINY, "--peers", "tensorflow"], "'tensorflow'"),
        ([TINY, "--mode", "twice"], "mode is 'twice', valid are one-shot, planned, both"),
        ([TINY, "--cache", "warm"], "cache is 'warm', valid are hot, flushed, both"),
        ([TINY, "--threads", "4096"], "threads is 4096, but this process may use"),
        ([TINY, "--against", "no-such-commit"], "--against is 'no-such-commit', but"),
        ([TINY, "--save", "/proc/rows.jsonl"], "/proc/rows.jsonl: cannot be written"),
    ],
)
def test_bad_input_is_one_line_before_any_work(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tconv-bench", "compare", *arguments])
    monkeypatch.setattr(workers, "WorkerProcess", None)
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("tconv-bench: ")
    assert "Traceback" not in error


def test_entrants_name_their_copies():
    found = compare.entrants(["direct", "direct"], [])
    assert [(e.method, e.number, e.control) for e in found] == [("direct", 1, False), ("direct", 2, False), ("direct", 1, True)]
    assert len({e.id for e in found}) == len({e.process for e in found}) == 3


def test_a_worker_says_what_is_wrong_and_lives_on(tmp_path: Path):
    process = workers.WorkerProcess(jit.PACKAGE.parent, 1)
    try:
        with pytest.raises(workers.WorkerError, match="KeyError"):
            process.ask("sample", id="nobody")
        with pytest.raises(workers.WorkerError, match="AttributeError"):
            process.ask("no_such_request")
        problem = Problem.parse(TINY)
        data = measure.make_data(problem)
        for name in ("x", "weight", "bias"):
            np.save(tmp_path / f"{name}.npy", getattr(data, name))
        request = {"id": "a", "method": "direct", "peer": False, "mode": "one-shot", "threads": 1}
        request |= {"problem": TINY, "folder": str(tmp_path), "result": str(tmp_path / "out.npy")}
        assert process.ask("make", **request) == {"output": "fresh"}
        assert measure.wrong(problem, data, np.load(tmp_path / "out.npy")) == ""
        for flushed in (False, True):
            answer = process.ask("sample", id="a", calls=1, flushed=flushed, flush_bytes=2**20)
            assert 0 < answer["seconds"] < 1
        assert process.ask("drop") == {}
    finally:
        process.end()
    assert not process.alive
    with pytest.raises(workers.WorkerError, match="the process ended with code"):
        process.ask("drop")
