"""The asv suite: checked by asv itself, resumed after an interruption, fed by the registry alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tconv_bench import layers, registry, suite, workers
from tconv_bench.store import notes_path, read_asv

pytest.importorskip("asv")
ROOT = Path(__file__).resolve().parent.parent

REFERENCE = """
from tconv_bench import reference
from tconv_bench.registry import Variant, variant


@variant("{name}", title="the definition", source="here")
class Plain(Variant):
    def prepare(self, problem, weight, bias):
        return problem, weight.copy(), bias

    def run(self, state, x, out):
        out[...] = reference.conv_transpose(state[0], x, *state[1:])
        {spoil}

    def prepared_bytes(self, problem):
        return 0

    def workspace_bytes(self, problem):
        return 0
"""


def test_processes_take_the_comparisons_allocator_and_leave_the_callers_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: dict[str, str] = {}

    class Recorder:
        def __init__(self, *_: Any) -> None: ...

        def go(self) -> None:
            seen.update(os.environ)

    monkeypatch.setattr(suite, "_Run", Recorder)
    monkeypatch.setattr(suite, "results_dir", lambda *_: tmp_path)
    monkeypatch.setenv("MALLOC_TOP_PAD_", "7")
    before = dict(os.environ)
    assert suite.run("quick") == tmp_path
    assert {name: seen[name] for name in workers.ALLOCATOR} == workers.ALLOCATOR
    assert seen["TCONV_BENCH_PROFILE"] == "quick"
    assert dict(os.environ) == before


def environment(checkout: Path, **extra: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(checkout), "ASV_PYTHONPATH": str(checkout), "HOME": str(checkout), **extra}


def command(checkout: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "tconv_bench.cli", *arguments]


def run(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(checkout, *arguments), cwd=checkout, env=environment(checkout), capture_output=True, text=True, timeout=120
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of package and suite with every variant."""
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("tconv_bench", "benchmarks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    shutil.copy(ROOT / "asv.conf.json", tmp_path)
    return tmp_path


@pytest.fixture
def small(checkout: Path) -> Path:
    """A copy whose variants are plain NumPy and whose suite is the layers alone: nothing to compile, seconds to run."""
    for path in (checkout / "tconv_bench" / "variants").glob("[a-z]*.py"):
        path.unlink()
    add_variant(checkout, "plain")
    for path in (checkout / "benchmarks").glob("bench_*.py"):
        if path.name != "bench_layers.py":
            path.unlink()
    header = ",".join(layers.COLUMNS)
    rows = [f"Net,l{i},1,2,{i}x{i},3,2x2,2x2,0x0,0x0,1,1x1,here" for i in (4, 5, 6)]
    (checkout / "few.csv").write_text("\n".join([header, *rows]) + "\n")
    (checkout / "one.csv").write_text("\n".join([header, rows[0]]) + "\n")
    return checkout


def add_variant(checkout: Path, name: str, spoil: str = "") -> None:
    (checkout / "tconv_bench" / "variants" / f"{name}.py").write_text(REFERENCE.format(name=name, spoil=spoil))


def results_file(checkout: Path) -> Path:
    (path,) = (p for p in (checkout / ".asv").glob("quick/*/*/*.json") if p.name != "machine.json")
    return path


def asv(checkout: Path, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "asv", *arguments],
        cwd=checkout,
        env=environment(checkout, **extra),
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("profile", ["quick", "full"])
def test_asv_check(profile: str) -> None:
    done = asv(ROOT, "check", "--python=same", TCONV_BENCH_PROFILE=profile)
    assert "No problems found" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0


def test_unknown_profile_fails_asv_with_the_valid_names() -> None:
    done = asv(ROOT, "check", "--python=same", TCONV_BENCH_PROFILE="fast")
    assert done.returncode != 0
    assert "TCONV_BENCH_PROFILE is 'fast', valid profiles are quick, standard, full" in done.stdout


def test_a_new_variant_file_appears_in_cli_and_benchmarks(checkout: Path) -> None:
    add_variant(checkout, "brand_new")
    listed = run(checkout, "list")
    assert "brand_new" in listed.stdout, listed.stderr
    code = "from benchmarks import bench_layers, common; print(bench_layers.Run.params[-1])"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=checkout, env=environment(checkout), capture_output=True, text=True, timeout=60
    )
    assert found.stdout.strip() == str(sorted([*registry.methods("cpu"), "brand_new"])), found.stderr


def test_a_run_stores_rows_and_a_wrong_variant_has_no_time(small: Path) -> None:
    add_variant(small, "spoiled", "out.flat[-1] += 1")
    done = run(small, "run", "--profile", "quick", "--layers", "few.csv")
    assert done.returncode == 1, done.stderr
    assert "layers: Net l4, spoiled, time_run: wrong result: 1 of 192 elements differ" in " ".join(done.stderr.split())
    rows = read_asv(results_file(small).parent.parent)
    assert sorted({(r.label, r.method) for r in rows}) == [(f"Net l{i}", m) for i in (4, 5, 6) for m in ("plain", "spoiled")]
    for row in rows:
        assert row.profile == "quick"
        assert "numba" in row.versions
        if row.method == "plain":
            assert row.median is not None
            assert len(row.samples) >= 6
            assert row.prepare_seconds is not None
            assert row.workspace_bytes is not None
        else:
            assert row.median is None
            assert row.note.startswith("wrong result: 1 of")


def stored(path: Path) -> dict[str, Any]:
    return {name: row[0] for name, row in json.loads(path.read_text())["results"].items()}


def test_an_interrupted_run_keeps_its_results_and_goes_on(small: Path) -> None:
    arguments = ("run", "--profile", "quick", "--layers", "few.csv")
    process = subprocess.Popen(
        command(small, *arguments), cwd=small, env=environment(small), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not list(small.glob(".asv/quick/*/*/*.notes")) and time.monotonic() < deadline:
        time.sleep(0.01)
    for wait in (0.7, 0.7, 30):  # an interrupt inside of a destructor is lost, and a person presses the keys again
        process.send_signal(signal.SIGINT)
        try:
            _, errors = process.communicate(timeout=wait)
            break
        except subprocess.TimeoutExpired:
            continue
    assert process.returncode == 130, errors
    assert "of 12 measurements are kept in" in " ".join(errors.split())
    before = stored(results_file(small))
    kept = [value for value in before["bench_layers.Run.time_run"] if value == value]
    assert kept
    assert len(kept) < 3 or len(before) < 4

    again = run(small, *arguments)
    assert again.returncode == 0, again.stderr
    after = stored(results_file(small))
    assert after["bench_layers.Run.time_run"][: len(kept)] == kept
    assert all(value == value for values in after.values() for value in values)
    assert len(after) == 4

    third = run(small, *arguments)
    assert third.returncode == 0
    assert stored(results_file(small)) == after


def test_changed_sources_do_not_take_over_results(small: Path) -> None:
    arguments = ("run", "--profile", "quick", "--layers", "one.csv")
    assert run(small, *arguments).returncode == 0
    add_variant(small, "plain", "pass")
    assert run(small, *arguments).returncode == 0
    assert len(list(small.glob(".asv/quick/*"))) == 2


def test_a_corrupt_result_file_stops_a_run_before_any_work(small: Path) -> None:
    arguments = ("run", "--profile", "quick", "--layers", "one.csv")
    assert run(small, *arguments).returncode == 0
    path = results_file(small)
    path.write_text(path.read_text()[:100])
    done = run(small, *arguments)
    assert done.returncode == 2
    assert f"{path.name}: not JSON" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert notes_path(path).exists()


def test_a_results_folder_that_cannot_be_written_is_named(small: Path) -> None:
    (small / ".asv").write_text("")
    done = run(small, "run", "--layers", "one.csv")
    assert done.returncode == 2
    assert "results cannot be written there (Not a directory)" in done.stderr
