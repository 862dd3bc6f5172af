"""``gpu-check`` without a GPU: what is done in which order, what goes wrong, what the rows, the page and the table say."""

from __future__ import annotations

import ast
import gzip
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tconv_bench import (
    Problem,
    comparison_page,
    gpu,
    jit_cuda,
    layers,
    measure,
    peers,
    readme,
    reference,
    registry,
    report,
    store,
    units,
)
from tconv_bench.cli import app
from tconv_bench.gpu_check import device, kernels, preflight, session, standin, summary, tests_on_device
from tconv_bench.gpu_check.session import BATCHES, FLOAT32, MAIN, PAGE_SECONDS, SKIPPED, TF32, DryRun, Session
from tconv_bench.gpu_check.standin import Trouble
from tconv_bench.plots import comparison
from tconv_bench.store import Measurement
from tconv_bench.units import X
from tconv_bench.workers import WorkerError
from tests.test_cuda import loops, needs_compiler

ROOT = Path(__file__).parent.parent
LABELS = ("DCGAN g2", "StyleGAN2 up128", "CenterNet-DLA dw32", "ISTFT n1024", "nnU-Net up7")
FEW = [(label, problem) for label, problem in session.cases(layers.read()) if label.partition(" N=")[0] in LABELS]
ALL = session.cases(layers.read())
# a quarter of the layers, and two that tests name: all of them take half a minute
_NAMES = list(dict.fromkeys(label.partition(" N=")[0] for label, _ in ALL))
SOME = [case for case in ALL if case[0].partition(" N=")[0] in {*_NAMES[::4], "nnU-Net up56", "DCGAN g2"}]
BASIC = [name for name in registry.methods("cuda") if name != MAIN]
Outcome = tuple[Session, session.Result, list[Measurement]]


def rehearse(
    path: Path, problems: Sequence[tuple[str, Problem]] = FEW, trouble: Trouble | None = None, **options: Any
) -> Outcome:
    """A dry run; its rows as they are stored."""
    site = DryRun(trouble, options.pop("interrupt_at", None), options.pop("test_seconds", 60.0))
    run = Session(site, path, **options)
    result = run.run(problems)
    return run, result, compared(path)


def compared(path: Path) -> list[Measurement]:
    return [row for row in store.read(path) if row.suite == "compare"]


def problem_of(label: str) -> str:
    return str(dict(FEW)[label])


def of(rows: Sequence[Measurement], method: str, label: str | None = None) -> list[Measurement]:
    return [row for row in rows if row.method == method and not row.control and label in (None, row.label)]


def expected(problems: Sequence[tuple[str, Problem]]) -> Counter[tuple[str, str, bool]]:
    """(label, entrant, whether the control) of every row that a whole run leaves."""
    wanted = []
    for label, problem in problems:
        wanted += [(label, name, False) for name in registry.methods("cuda")] + [(label, MAIN, True)]
        wanted += [(label, name, False) for name in FLOAT32 + TF32 if peers.get(name).supports(problem) is True]
    return Counter(wanted)


def test_every_layer_comes_with_one_image_and_with_64():
    assert Counter(problem.batch for _, problem in ALL) == {1: 62, 64: 62}
    assert len({label for label, _ in ALL}) == len({problem for _, problem in ALL}) == 124
    found = dict(ALL)
    assert found["MaskRCNN mask"] == Problem.parse("n1_ci256_i14x14_co256_k2x2_s2x2")
    assert found["MaskRCNN mask N=64"].batch == found["DCGAN g1 N=64"].batch == 64


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return rehearse(tmp_path_factory.mktemp("gpu") / "rows.jsonl", SOME)


@pytest.mark.slow
def test_all_layers_end_in_time(tmp_path: Path):
    _, result, rows = rehearse(tmp_path / "rows.jsonl", ALL)
    assert result.finished
    assert result.seconds <= 9 * 60 - PAGE_SECONDS
    assert Counter((row.label, row.method, row.control) for row in rows) == expected(ALL)


def test_a_whole_run_ends_in_time_and_leaves_a_row_for_everyone(whole: Outcome):
    _, result, rows = whole
    assert result.finished
    assert result.seconds <= 9 * 60 - PAGE_SECONDS
    assert Counter((row.label, row.method, row.control) for row in rows) == expected(SOME)
    assert all((row.median is None) == bool(row.note) for row in rows)
    assert {row.label for row in of(rows, MAIN) if row.median is None} == {"nnU-Net up56 N=64"}
    assert "elements" in of(rows, MAIN, "nnU-Net up56 N=64")[0].note


def test_what_matters_most_comes_first(whole: Outcome):
    _, _, rows = whole
    kinds = [
        ("phase" if row.method == MAIN or row.method in FLOAT32 else "tf32" if row.method in TF32 else "basic",
         Problem.parse(row.problem).batch)
        for row in rows
    ]  # fmt: skip
    order = [(kind, batch) for kind in ("phase", "tf32", "basic") for batch in BATCHES]
    assert list(dict.fromkeys(kinds)) == order
    basics = [Problem.parse(row.problem).flops for row in of(rows, "direct")]
    half = len(SOME) // 2
    assert basics[:half] == sorted(basics[:half])
    assert basics[half:] == sorted(basics[half:])


def test_rows_say_where_they_come_from(whole: Outcome):
    _, _, rows = whole
    row = of(rows, MAIN, "DCGAN g2 N=64")[0]
    assert row.machine["gpu"] == standin.NAME
    assert {"l2_bytes", "driver_version", "clocks_sm", "cpu"} <= set(row.machine)
    assert row.versions["sources"]
    assert row.profile == "dry run: nothing was measured"
    assert (row.device, row.mode, row.cache, row.peer, row.layout) == ("cuda", "planned", "flushed", False, "channels-first")
    assert row.ceilings["fma_gflops"] == {"float32": 20000.0, "float64": 10000.0}
    assert row.ceilings["copy"][-1] == [2**30, 1e12]
    assert len(row.samples) >= 7
    assert row.settings == {"calls": 1, "late": 0, "output": "given"}
    problem = Problem.parse(row.problem)
    assert row.gflops == pytest.approx(problem.flops / row.median / 1e9, rel=1e-3)
    assert row.roofline == pytest.approx(max(problem.flops / 2e13, problem.min_bytes / 1e12) / row.median, rel=1e-3)
    peer = of(rows, "cudnn-channels_last", "DCGAN g2")[0]
    assert (peer.peer, peer.layout, peer.settings["output"]) == (True, "channels-last", "fresh")
    assert peer.workspace_bytes == problem_bytes(peer) // 3
    assert {row.mode for row in rows if row.method in TF32} == {"TF32"}
    assert len({row.group for row in rows if row.label == "DCGAN g2"}) == 2


def problem_bytes(row: Measurement) -> int:
    return Problem.parse(row.problem).min_bytes


# the least slow one rehearses every sample of all rows, which takes 16 s
@pytest.mark.parametrize("slow", [pytest.param(30.0, marks=pytest.mark.slow), 3000.0, 1e6])
def test_a_slow_gpu_ends_in_time_and_says_what_it_left_out(tmp_path: Path, slow: float):
    _, result, rows = rehearse(tmp_path / "rows.jsonl", trouble=Trouble(slow=slow, compile_seconds=3.0), test_seconds=1e4)
    assert result.seconds <= 9 * 60 - PAGE_SECONDS + 1
    assert {(row.label, row.method, row.control) for row in rows} == set(expected(FEW))
    assert all(row.note for row in rows if row.median is None)
    assert not result.tests.finished
    skipped = {row.method for row in rows if row.note.startswith(SKIPPED)}
    assert slow < 1000 or "direct" in skipped
    if slow == 30.0:
        assert all(row.median for row in of(rows, MAIN))
    assert all(len(row.samples) >= 1 for row in rows if row.median)


def test_a_long_search_of_cudnn_does_not_take_the_other_layers_time(tmp_path: Path):
    _, result, rows = rehearse(tmp_path / "rows.jsonl", trouble=Trouble(search_seconds=35.0))
    assert result.seconds <= 9 * 60 - PAGE_SECONDS + 1
    assert {(row.label, row.method, row.control) for row in rows} == set(expected(FEW))
    assert any(row.note.startswith(SKIPPED) for row in rows)
    assert of(rows, MAIN, "DCGAN g2")[0].median


def test_what_one_entrant_fails_at_is_its_own_row(tmp_path: Path):
    g2, up7 = problem_of("DCGAN g2"), problem_of("nnU-Net up7")
    trouble = Trouble(
        broken=frozenset({"col2im"}),
        wrong=frozenset({"scatter_add"}),
        full=frozenset({(MAIN, up7)}),
        hangs=frozenset({("direct", g2)}),
        dies=frozenset({("zero_insertion", g2), ("cudnn", up7)}),
    )
    _, result, rows = rehearse(tmp_path / "rows.jsonl", trouble=trouble)
    assert result.seconds <= 9 * 60 - PAGE_SECONDS
    assert {row.note for row in of(rows, "col2im")} == {
        "failed: its kernels do not compile: RuntimeError: NvvmError: a kernel that does not compile"
    }
    assert all(row.note.startswith("wrong result: ") and row.median is None for row in of(rows, "scatter_add"))
    assert of(rows, MAIN, "nnU-Net up7")[0].note == "failed: MemoryError: CUDA_ERROR_OUT_OF_MEMORY"
    assert of(rows, "direct", "DCGAN g2")[0].note == "failed: no answer within 40 s"
    for method, label in (("zero_insertion", "DCGAN g2"), ("cudnn", "nnU-Net up7")):
        assert of(rows, method, label)[0].note == "failed: the device was lost: RuntimeError: CUDA_ERROR_ILLEGAL_ADDRESS"
    lost = {("direct", g2), ("zero_insertion", g2), (MAIN, up7), ("cudnn", up7)}
    others = [row for row in rows if row.method not in ("col2im", "scatter_add") and (row.method, row.problem) not in lost]
    assert {row.method for row in others if not row.median} <= {"matmul"}  # which says what its matrix would take
    assert of(rows, "scatter_add_deterministic", "DCGAN g2")[0].median
    assert of(rows, "cudnn-channels_last", "nnU-Net up7")[0].median


@pytest.mark.parametrize(
    ("trouble", "note"),
    [
        (Trouble(cudnn_fails=True), "failed: RuntimeError: CUDNN_STATUS_NOT_SUPPORTED"),
        (Trouble(no_cudnn="torch finds no CUDA device"), "skipped: torch finds no CUDA device"),
    ],
)
def test_without_cudnn_the_variants_are_measured(tmp_path: Path, trouble: Trouble, note: str):
    _, result, rows = rehearse(tmp_path / "rows.jsonl", trouble=trouble)
    assert {row.note for row in rows if row.peer} == {note}
    assert all(row.median for row in of(rows, MAIN))
    assert summary.markdown(result.rows).count("|") > 40


def test_what_does_not_fit_the_memory_is_said(tmp_path: Path):
    _, _, rows = rehearse(tmp_path / "rows.jsonl", trouble=Trouble(memory=2**30))
    assert of(rows, MAIN, "StyleGAN2 up128 N=64")[0].note.startswith("failed: MemoryError: its arrays take 3.0")
    assert of(rows, MAIN, "DCGAN g2 N=64")[0].median


def test_an_interrupted_run_keeps_its_rows_and_goes_on_from_there(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    slow_search = Trouble(search_seconds=2.0)
    with pytest.raises(KeyboardInterrupt):
        rehearse(path, trouble=slow_search, interrupt_at=100.0)
    kept = compared(path)
    assert 0 < len(kept) < sum(expected(FEW).values())
    _, result, rows = rehearse(path, trouble=slow_search)
    assert rows[: len(kept)] == kept
    assert Counter((row.label, row.method, row.control) for row in rows) == expected(FEW)
    assert [row for row in result.rows if row.suite == "compare"] == rows
    again = rehearse(path)[2]
    assert len(again) == len(rows)


def test_skipped_rows_are_tried_again_and_the_page_takes_the_newer(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    first = rehearse(path, trouble=Trouble(search_seconds=3.0), minutes=2.6)[2]
    missed = {(row.label, row.method) for row in first if row.note.startswith(SKIPPED)}
    assert missed
    _, result, _ = rehearse(path)
    newest = {group.label: group for group in summary.groups(result.rows)}
    assert all(name in newest[label].timed for label, name in missed if name in FLOAT32 or name == MAIN)
    assert all({MAIN, "col2im"} <= set(group.timed) and group.spread is not None for group in newest.values())


def test_a_device_that_does_not_open_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(self: Any) -> None:
        raise RuntimeError("no device")

    monkeypatch.setattr(standin.StandIn, "facts", fail)
    with pytest.raises(session.GpuCheckError, match="the GPU can't be used: RuntimeError: no device"):
        rehearse(tmp_path / "rows.jsonl")


@pytest.fixture(scope="module")
def page(whole: Outcome, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    comparison_page.write(whole[1].rows, folder, title="DRY RUN, nothing was measured: Transposed convolution")
    return folder


def test_the_page_is_small_whole_and_says_what_it_is(page: Path, whole: Outcome):
    text = (page / "index.html").read_text(encoding="utf-8")
    assert sum(file.stat().st_size for file in page.rglob("*") if file.is_file()) < 400_000
    assert {file.stem for file in (page / "figures").iterdir()} == {entry.name for entry in comparison.GPU_FIGURES}
    assert re.search(r"<h1>DRY RUN, nothing was measured", text)
    assert f"<dt>GPU</dt><dd>{standin.NAME}" in text
    assert "<dt>Limits</dt><dd>multiply-adds float32 20.0 TFLOP/s, float64 10.0 TFLOP/s; copying in memory 1000 GB/s" in text
    assert "<dt>Tests</dt><dd>a dry run: no test was run</dd>" in text
    for words in ("N=1: the best of ours", "N=64: the best of ours", "TF32, flushed caches (", "Planned, flushed caches ("):
        assert words in text
    assert "the convolution matrix would take" in text
    assert "each group holds <code>phase</code> twice" in text
    assert not re.search(r"threads?\b|one-shot", re.sub(r"(?s)<(style|script).*?</\1>", "", text), re.IGNORECASE)
    assert not re.search(r"@import|url\(|fetch\(|https?://", text)
    stored = gzip.decompress((page / "rows.jsonl.gz").read_bytes()).decode().splitlines()
    assert len(stored) == len(whole[1].rows)
    assert all('"profile": "dry run: nothing was measured"' in line for line in stored)


def duel_rows(label: str, problem: str, times: dict[str, float], mode: str = "planned") -> list[Measurement]:
    parsed = Problem.parse(problem)
    pairs = [[2**20, 4e12], [2**30, 1e12]]
    found = []
    for name, seconds in times.items():
        times_of = store.timing_fields([seconds * (1 + step / 1000) for step in range(-3, 4)])
        found.append(
            Measurement(
                "compare", label, problem, name.partition(" ")[0], "cuda", mode=mode, cache="flushed", group=f"{label} {mode}",
                peer=name.startswith("cudnn"), control="again" in name, gflops=parsed.flops / seconds / 1e9,
                ceilings={"fma_gflops": {"float32": 10000.0}, "copy": pairs, "fill": pairs}, machine={"gpu": "G"},
                measured_at="2026-01-02T00:00:00+00:00", **times_of,
            )
        )  # fmt: skip
    return found


def test_the_table_says_which_bars_are_met_and_which_layers_lose():
    big = "n1_ci256_i64x64_co256_k4x4_s2x2_p1x1"
    tenth = Problem.parse(big).flops / 1e13  # seconds at the peak
    both = {
        MAIN: 2 * tenth,
        f"{MAIN} again": 2 * tenth,
        "cudnn": 4 * tenth,
        "cudnn-channels_last": 3 * tenth,
        "direct": 9 * tenth,
    }
    small = "n1_ci8_i4x4_co8_k4x4_s2x2_p1x1"
    rows = [
        *duel_rows("A", big, both),
        *duel_rows("A", big, {"cudnn-tf32": tenth, "cudnn-channels_last-tf32": tenth / 2}, "TF32"),
        *duel_rows("B", small, {MAIN: 4e-6, f"{MAIN} again": 4e-6, "cudnn": 2e-6}),
    ]
    rows.append(replace(rows[0], method="col2im", control=False, median=None, samples=(), note="failed: out of memory"))
    lines = {line.what: line.reached for line in summary.lines(rows)}
    assert lines["layers on which phase has a time"] == ("2 of 2", "0 of 0")
    assert lines["speed against cuDNN's best form, TF32 off"][0] == f"0.866{X}, 1 won, 0 tied, 1 lost"  # sqrt(1.5 * 0.5)
    assert lines["speed against cuDNN's best form, TF32 on"] == (f"0.250{X} over 1", units.NONE)
    assert lines["FMA peak reached where arithmetic binds"][0] == "50%, 0 of 1 reach it; least 50% (A)"
    assert lines["direct: times as long as phase"][0] == f"4.50{X} over 1 of 2"
    assert lines["entrants without a time"][0] == "1 failed"
    assert summary.losing(rows)[0] == "Below 1.0x at N=1, cuDNN's time / ours: B 0.50."
    assert summary.losing(rows)[1] == "Below 1.0x at N=64, cuDNN's time / ours: none."
    assert summary.markdown(rows).splitlines()[0] == "|  | asked | N=1 | N=64 |"
    with pytest.raises(ValueError, match="there is no row that a GPU made"):
        summary.markdown([])


def test_the_committed_page_of_gpus_is_what_the_rows_say():
    """The table of docs/gpu.md, made from the committed rows of a GPU, or saying that there are none."""
    text = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    committed = readme.gpu_rows(ROOT / "reports")
    body = text.partition("<!-- gpu:begin -->\n")[2].partition("\n<!-- gpu:end -->")[0]
    assert body == (summary.markdown(store.read(committed)) if committed else readme.NO_GPU)


def test_readme_finds_the_rows_of_a_gpu(tmp_path: Path, whole: Outcome):
    assert readme.gpu_rows(tmp_path) is None
    folder = tmp_path / "g-comparison"
    report.write_rows(whole[1].rows, folder)
    assert readme.gpu_rows(tmp_path) is None, "a dry run's"
    report.write_rows([replace(row, profile="") for row in whole[1].rows], folder)
    assert readme.gpu_rows(tmp_path) == folder / "rows.jsonl.gz"
    document = tmp_path / "gpu.md"
    document.write_text(f"a\n<!-- gpu:begin -->\n{readme.NO_GPU}\n<!-- gpu:end -->\nb\n", encoding="utf-8")
    assert readme.refresh(document, folder / "rows.jsonl.gz", readme.GPU, summary.markdown)
    half = len(SOME) // 2
    line = f"| layers on which phase has a time | all | {half} of {half} | {half - 1} of {half} |"
    assert line in document.read_text(encoding="utf-8")


def test_a_dry_run_keeps_nothing_and_prints_its_table_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    csv = tmp_path / "layers.csv"
    lines = layers.DEFAULT.read_text(encoding="utf-8").splitlines()
    csv.write_text("\n".join([lines[0], lines[2], lines[15]]), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(preflight, "missing", lambda **_: "")
    before = sorted(tmp_path.rglob("*"))
    done = CliRunner().invoke(app, ["gpu-check", "--dry-run", "--layers", str(csv)])
    assert done.exit_code == 0, done.output
    assert sorted(tmp_path.rglob("*")) == before
    head = "DRY RUN: nothing was measured, every number below is invented"
    assert head in done.stdout
    said, table = done.stdout.split(head)
    assert "drawn and deleted again" in said
    assert table.rstrip().splitlines()[-1].startswith(standin.NAME)
    assert "2 of 2" in table


def test_a_wrong_result_is_status_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    csv = tmp_path / "layers.csv"
    csv.write_text("\n".join(layers.DEFAULT.read_text(encoding="utf-8").splitlines()[:2]), encoding="utf-8")
    monkeypatch.setattr(preflight, "missing", lambda **_: "")
    monkeypatch.setattr(session, "Trouble", lambda: Trouble(wrong=frozenset({"direct"})))
    done = CliRunner().invoke(app, ["gpu-check", "--dry-run", "--layers", str(csv)])
    assert done.exit_code == 1
    assert "DCGAN g1, direct: wrong result: " in " ".join(done.output.split())


@pytest.mark.parametrize(
    ("errors", "sentence"),
    [
        ({"import numba": "ImportError: Numba needs NumPy 2.4 or less. Got NumPy 2.5."}, r"does not load with NumPy .*<2\.5'"),
        (
            {preflight.ADDED: "AttributeError: module 'numpy' has no attribute 'row_stack'"},
            "can't compile a kernel|can't compile with",
        ),
        ({preflight.ADDED: "CudaSupportError: CUDA driver library cannot be found."}, "needs an NVIDIA GPU and its driver"),
        ({preflight.SEEN: "AssertionError: torch.cuda.is_available() is False"}, "without it: GPU_CHECK=--no-cudnn"),
        ({}, "^$"),
    ],
)
def test_what_is_missing_is_said_in_one_sentence(errors: dict[str, str], sentence: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(preflight, "_installed", lambda module: True)
    said = preflight.missing(run=lambda program: errors.get(program, ""))
    assert re.search(sentence, said)
    assert "\n" not in said


def test_numpy_2_5_is_named_where_it_breaks_the_compiler(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(preflight, "_installed", lambda module: True)
    monkeypatch.setattr(preflight, "_version", lambda name: {"numpy": "2.5.2", "numba-cuda": "0.30.4"}.get(name, ""))
    error = "AttributeError: module 'numpy' has no attribute 'row_stack'"
    assert preflight.missing(run=lambda program: error if program == preflight.ADDED else "") == (
        f"numba-cuda 0.30.4 can't compile with NumPy 2.5.2 ({error}): pip install 'numpy<2.5'"
    )
    monkeypatch.setattr(preflight, "_installed", lambda module: module not in ("torch", "numba_cuda"))
    assert "lacks numba_cuda, torch: pip install 'numba-cuda[cu13]>=0.30.4,<0.31' torch" in preflight.missing()
    assert preflight.missing(dry=True, run=lambda program: "") == ""


def test_a_toolkit_that_no_variable_names_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "nvvm").mkdir()
    monkeypatch.setattr(preflight, "_installed", lambda module: True)
    monkeypatch.setattr("shutil.which", lambda name: str(tmp_path / "bin" / "nvcc"))
    monkeypatch.setenv("CUDA_PATH", "")
    monkeypatch.setenv("CUDA_HOME", "")
    error = "NvvmSupportError: libNVVM cannot be found"

    def run(program: str) -> str:
        return error if program == preflight.ADDED and os.environ.get("CUDA_HOME") != needed else ""

    needed = "elsewhere"
    assert error in preflight.missing(run=run)
    assert not os.environ.get("CUDA_HOME")
    needed = str(tmp_path)
    assert preflight.missing(run=run) == ""
    assert os.environ["CUDA_HOME"] == needed


def test_the_last_exception_is_found_in_what_a_process_said():
    said = "Traceback\n  File x\na.b.SupportError: Error at init:\n\nNo library.\nInstall it.\n:\n"
    assert preflight.last_words(said) == "a.b.SupportError: Error at init: No library. Install it."


def test_preflight_runs_alone_and_ends_with_status_2():
    done = subprocess.run(
        [sys.executable, "-S", "-E", str(ROOT / "tconv_bench" / "gpu_check" / "preflight.py"), "--dry-run"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert re.fullmatch(r"gpu-check: \S+ lacks numpy, numba, .*\n", done.stderr)


def test_the_process_that_has_the_device_answers_and_ends():
    link = session._Process("--stand-in")
    try:
        assert link.ask("open", 60)["machine"]["gpu"] == standin.NAME
        assert link.ask("data", 60, problem=problem_of("DCGAN g2")) == {}
        assert link.ask("make", 60, name="a", method="direct", peer=False)["workspace_bytes"] == 0
        with pytest.raises(WorkerError, match="ValueError: problem 'nonsense'"):
            link.ask("data", 60, problem="nonsense")
        assert link.alive()
        with pytest.raises(WorkerError, match="ValueError: operation is 'fly', valid are open, compile"):
            link.ask("fly", 60)
        link.process.process.kill()
        with pytest.raises(WorkerError, match="the process ended with code -9"):
            link.ask("open", 60)
        assert not link.alive()
    finally:
        link.end()


def test_tests_on_a_device_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "test_on_this_gpu.py"
    file.write_text(
        "import os, pytest\n"
        "def test_a(): assert os.environ['TCONV_BENCH_ON_DEVICE'] == '1'\n"
        "def test_b(): assert 1 == 2\n"
        "@pytest.mark.skip\ndef test_c(): pass\n",
        encoding="utf-8",
    )
    crashing = tmp_path / "test_that_crashes.py"
    crashing.write_text("import os\ndef test_d(): os._exit(7)\n", encoding="utf-8")
    monkeypatch.setattr(tests_on_device, "TESTS", ((str(file), ""), (str(crashing), "")))
    run = tests_on_device.TestRun()
    try:
        outcome = run.finish(60)
    finally:
        run.end()
    assert (outcome.passed, outcome.failed, outcome.skipped, outcome.finished) == (1, 2, 1, True)
    assert outcome.cases[1] == (str(crashing), "failed: pytest ended with code 7: it said nothing")
    outcome = replace(outcome, cases=outcome.cases[:1])
    assert [name for name, _ in outcome.cases] == ["test_b"]
    assert outcome.cases[0][1].startswith("failed: assert 1 == 2")


def test_tests_that_take_too_long_still_say_what_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file, begun = tmp_path / "test_slow.py", tmp_path / "begun"
    file.write_text(
        f"import pathlib, time\ndef test_a(): pathlib.Path({str(begun)!r}).touch()\ndef test_b(): time.sleep(99)\n",
        encoding="utf-8",
    )
    monkeypatch.setattr(tests_on_device, "TESTS", ((str(file), ""),))
    run = tests_on_device.TestRun()
    try:
        while not begun.exists():
            assert run.parts[0].process.poll() is None
            time.sleep(0.05)
        outcome = run.finish(time.monotonic() - run.started + 0.5)
    finally:
        run.end()
    assert (outcome.passed, outcome.failed, outcome.finished) == (1, 0, False)
    assert str(outcome).endswith("; ended before they were through")


def test_what_runs_on_a_gpu_needs_nothing_of_the_simulator():
    """A host's address that a kernel reads ends the context, and with it every test that follows."""
    tree = ast.parse((ROOT / "tests" / "simulated_cuda.py").read_text(encoding="utf-8"))
    found = [item for item in tree.body if isinstance(item, ast.FunctionDef) and item.name.startswith("test_")]
    assert len(found) > 15
    for test in found:
        if any(isinstance(mark, ast.Name) and mark.id == "simulator_alone" for mark in test.decorator_list):
            continue
        guarded = [item for item in ast.walk(test) if isinstance(item, ast.If) and ast.unparse(item.test) == "not ON_GPU"]
        aside = {id(inner) for item in guarded for inner in ast.walk(item)}
        names = {item.id for item in ast.walk(test) if isinstance(item, ast.Name) and id(item) not in aside}
        assert not names & {"Speaker", "Speakers", "FakeTensor", "Recording"}, test.name
        texts = [item.value for item in ast.walk(test) if isinstance(item, ast.Constant) and isinstance(item.value, str)]
        assert not any("simulator" in text for text in texts), test.name


@needs_compiler
def test_memory_is_watched_before_the_device_is_asked_for(monkeypatch: pytest.MonkeyPatch):
    from numba.cuda.cudadrv import driver

    monkeypatch.setattr(driver, "_memory_manager", None)

    def required() -> None:
        raise RuntimeError(driver._memory_manager)

    monkeypatch.setattr(gpu, "require", required)
    with pytest.raises(RuntimeError, match="Watching"):
        device.Gpu()


@needs_compiler
def test_the_peak_of_numbas_memory_is_what_a_call_holds_at_once(monkeypatch: pytest.MonkeyPatch):
    from numba import cuda
    from numba.cuda.cudadrv import driver

    class Context:
        memory_manager: Any = None

    monkeypatch.setattr(driver, "_memory_manager", None)
    monkeypatch.setattr(driver, "_logger", driver.make_logger(), raising=False)  # made where the driver is initialised
    context, addresses = Context(), iter(range(4096, 2**20, 4096))
    monkeypatch.setitem(vars(driver.driver), "cuMemAlloc", lambda size: driver.binding.CUdeviceptr(next(addresses)))
    monkeypatch.setitem(vars(driver.driver), "cuMemFree", lambda pointer: None)
    fake = SimpleNamespace(
        current_context=lambda: context, synchronize=lambda: None, set_memory_manager=cuda.set_memory_manager
    )
    peak = device._watch_allocations(fake)
    assert peak is not None
    context.memory_manager = driver._memory_manager(context=context)
    context.memory_manager.deallocations.memory_capacity = 2**40
    kept = context.memory_manager.memalloc(1000)

    def call() -> None:
        first, second = (context.memory_manager.memalloc(size) for size in (100, 20))
        del first
        third = context.memory_manager.memalloc(7)
        del second, third

    assert peak(call) == 120
    assert context.memory_manager.in_use() == 1000
    del kept
    context.memory_manager = driver.NumbaCUDAMemoryManager(context=context)
    assert peak(lambda: None) is None


def test_the_devices_code_is_right_in_the_simulator():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/simulated_gpu_check.py"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


@needs_compiler
@pytest.mark.parametrize("kernel", kernels.KERNELS, ids=lambda kernel: kernel.name)
def test_the_kernels_around_a_measurement_compile(kernel: jit_cuda.Kernel):
    used = jit_cuda.resources(kernel, "float32", (9, 0))
    assert (used.spilled_bytes, used.stack_bytes) == (0, 0)
    assert used.registers <= 40


@needs_compiler
def test_the_peak_is_measured_by_multiply_adds_and_little_else():
    inner = max(loops(jit_cuda.ptx(kernels.FMA, "float32", (9, 0))), key=len)
    instructions = [line for line in inner if line.strip() and not line.rstrip().endswith(":")]
    products = sum("fma.rn.f32" in line for line in instructions)
    assert products == kernels.PRODUCTS
    assert products >= 0.95 * len(instructions)
    assert "v4" in jit_cuda.ptx(kernels.COPY, "float32", (9, 0))


def test_cudnns_call_is_queued_on_the_callers_memory(monkeypatch: pytest.MonkeyPatch):
    """What surrounds cuDNN, with the CPU in the device's place: no copy, no waiting, the precision of each call."""
    torch = pytest.importorskip("torch")
    from tconv_bench.peers.cudnn import Cudnn

    if not hasattr(torch.backends.cudnn, "conv"):
        pytest.skip("this PyTorch has one switch for TF32, not one per kind of call")
    before = torch.backends.cudnn.benchmark, torch.backends.cudnn.conv.fp32_precision
    monkeypatch.setattr(Cudnn, "_active", None)
    monkeypatch.setattr("torch.cuda.synchronize", lambda: pytest.fail("waited"))
    problem = Problem.parse("n2_ci4_i3x4_co6_k3x3_s2x2_p1x1_g2")
    data = measure.make_data(problem)
    try:
        for name in FLOAT32 + TF32:
            entry = peers.get(name)
            assert isinstance(entry, Cudnn)
            monkeypatch.setattr(entry, "device", "cpu")
            call = entry.queued(problem, data.x, data.weight, data.bias)
            data.x[0, 0, 0, 0] += 1  # seen by who reads the same memory
            value = call().contiguous().numpy()
            assert torch.backends.cudnn.conv.fp32_precision == entry.precision
            seen = data.x.copy()
            seen[0, 0, 0, 0] -= entry.layout == "channels-last"
            wanted = reference.conv_transpose(problem, seen, data.weight, data.bias)
            np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-4)
    finally:
        torch.backends.cudnn.benchmark, torch.backends.cudnn.conv.fp32_precision = before
