"""The command: what it prints, and one clear line and a code where something is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from tconv_bench import cli, console, registry, store

PROBLEM = "n1_ci4_i3x3_co2_k4x4_s2x2_p1x1"


def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of ``tconv-bench arguments``."""
    monkeypatch.setattr("sys.argv", ["tconv-bench", *map(str, arguments)])
    for module in (cli, console):
        monkeypatch.setattr(module, "out", Console(width=160, highlight=False))
        monkeypatch.setattr(module, "err", Console(width=160, stderr=True, highlight=False, soft_wrap=True))
    with pytest.raises(SystemExit) as stop:
        cli.main()
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out, captured.err


@pytest.fixture
def tconv(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    return lambda *arguments: call(monkeypatch, capsys, *arguments)


@pytest.mark.parametrize("command", ["list", "explain", "info", "run", "report"])
def test_help_shows_an_example(tconv, command: str) -> None:
    code, text, _ = tconv(command, "--help")
    assert code == 0
    assert f"Example: tconv-bench {command}" in text


def test_list_shows_every_variant(tconv) -> None:
    code, text, _ = tconv("list")
    assert code == 0
    for name in registry.methods("cpu"):
        assert name in text
        assert registry.get(name).title in text


def test_explain_shows_the_arithmetic(tconv) -> None:
    code, text, _ = tconv("explain", PROBLEM)
    assert code == 0
    assert "(3-1)·2 - 1-1 + 1·(4-1) + 0 + 1 = 6" in text
    assert "1 x 2 x 6 x 6" in text
    # per axis 2+3+3+2 = 10 of the 12 meetings of 3 pixels and 4 taps stay
    assert f"{2 * 4 * 2 * 10 * 10 / 1000:.2f} kFLOP" in text
    assert f"{4 * (36 + 128 + 72)} B" in text
    assert "1.69 FLOP/B" in text


def test_explain_says_what_is_unsupported(tconv) -> None:
    code, text, _ = tconv("explain", "n1_ci4096_i256x256_co4096_k4x4")
    assert code == 0
    assert "convolution matrix would take" in text


def test_info_names_the_machine(tconv) -> None:
    code, text, _ = tconv("info")
    assert code == 0
    for word in ("cpu", "threads", "numba", "compiled kernels"):
        assert word in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("explain", "n1_ci4"), "problem 'n1_ci4': missing in_size"),
        (("explain", "n1_ci4_i3_co2_k4_s0"), "stride is 0, but must be >= 1"),
        (("run", "--profile", "fast"), "profile is 'fast', valid profiles are quick, standard, full"),
        (("run", PROBLEM, "--method", "none"), "method is 'none', valid methods on cpu are "),
        (("run", "nonsense"), "unknown token 'nonsense'"),
        (("run", "--layers", "none.csv"), "none.csv: cannot be read (No such file or directory)"),
        (("run", PROBLEM, "--layers", "none.csv"), "none.csv: cannot be read (No such file or directory)"),
        (("run", "--method", "direct"), "--method and --save are for single problems"),
        (("report", "none.jsonl"), "none.jsonl: cannot be read (No such file or directory)"),
        (("list", "--device", "tpu"), "device is 'tpu', valid devices are cpu, cuda"),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    tconv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, text, errors = tconv(*arguments)
    assert code == 2
    assert message in errors
    assert len(errors.strip().splitlines()) == 1
    assert errors.startswith("tconv-bench: ")
    assert text == ""


def test_unknown_command_is_code_2(tconv) -> None:
    assert tconv("measure")[0] == 2


def test_folders_that_cannot_be_written_are_named_before_any_work(tconv, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(cli.measure, "measure", lambda *_, **__: pytest.fail("measured"))
    code, _, errors = tconv("report", "--output", tmp_path / "file" / "page")
    assert (code, len(errors.strip().splitlines())) == (2, 1)
    assert "cannot be written" in errors
    code, _, errors = tconv("run", PROBLEM, "--save", tmp_path / "file" / "rows.jsonl")
    assert (code, len(errors.strip().splitlines())) == (2, 1)
    assert "rows.jsonl: cannot be written" in errors


def test_problems_are_measured_saved_and_not_measured_twice(tconv, tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "rows.jsonl"
    arguments = ("run", PROBLEM, "--method", "direct", "--budget", "0.02", "--save", path)
    code, text, _ = tconv(*arguments)
    assert code == 0
    assert "direct" in text
    assert "GFLOP/s" in text
    (row,) = store.read(path)
    assert (row.problem, row.method, row.suite) == (PROBLEM, "direct", "cli")
    monkeypatch.setattr(cli.measure, "measure", lambda *_, **__: pytest.fail("measured again"))
    code, _, _ = tconv(*arguments)
    assert code == 0
    assert store.read(path) == [row]


def test_a_corrupt_rows_file_is_named(tconv, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("{}\n")
    code, _, errors = tconv("run", PROBLEM, "--save", path)
    assert code == 2
    assert "rows.jsonl, line 1: not a measurement" in errors


def test_a_wrong_result_is_code_1(tconv, monkeypatch) -> None:
    monkeypatch.setattr(cli.measure, "wrong", lambda *_: "2 of 3 elements differ")
    code, text, _ = tconv("run", PROBLEM, "--method", "direct")
    assert code == 1
    assert "wrong result: 2 of 3 elements differ" in text


def test_ctrl_c_is_code_130_and_keeps_the_rows(tconv, tmp_path: Path, monkeypatch) -> None:
    measured = cli.measure.measure

    def second_time_interrupted(problem, method, **options):
        if method == "matmul":
            raise KeyboardInterrupt
        return measured(problem, method, **options)

    monkeypatch.setattr(cli.measure, "measure", second_time_interrupted)
    path = tmp_path / "rows.jsonl"
    code, _, errors = tconv("run", PROBLEM, "--method", "direct", "--method", "matmul", "--budget", "0.02", "--save", path)
    assert code == 130
    assert "interrupted: 1 of 2 measurements are kept in" in errors
    assert [row.method for row in store.read(path)] == ["direct"]


def test_report_of_saved_rows(tconv, tmp_path: Path, monkeypatch) -> None:
    rows = tmp_path / "rows.jsonl"
    tconv("run", PROBLEM, "--budget", "0.02", "--save", rows, "--method", "direct", "--method", "col2im")

    def no_results(profile: str, layers_file: Path | None) -> None:
        raise cli.suite.SuiteError("none")

    monkeypatch.setattr(cli.suite, "stored_results", no_results)
    code, text, _ = tconv("report", rows, "--output", tmp_path / "page")
    assert code == 0
    assert "Fastest method" in text
    assert (tmp_path / "page" / "index.html").stat().st_size > 1000
