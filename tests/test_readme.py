"""What the README promises is there: its example, its files, its commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tconv_bench import bars, methods, readme
from tconv_bench.cli import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_first_example_runs():
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    names: dict = {}
    exec(code, names)
    assert names["y"].shape == names["z"].shape == (1, 256, 8, 8)
    assert abs(names["y"] - names["z"]).max() < 1e-3


@pytest.mark.parametrize(
    "name", ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "CHANGELOG.md", "docs/performance.md", "docs/upsampling.md"]
)
def test_links_lead_somewhere(name: str):
    document = ROOT / name
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("https://") or (document.parent / target).exists(), target


def test_the_methods_of_the_table_exist():
    named = set(re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE))
    assert named <= set(methods())
    assert len(named) >= 5


def test_the_commands_exist():
    shown = set(re.findall(r"^tconv-bench ([\w-]+)", README, re.MULTILINE))
    others = {"compare", "compare-report", "compare-upsample", "readme", "site", "figures", "gpu-check"}
    assert shown == {"list", "explain", "run", "report", "info", *others}
    for command in shown:
        done = CliRunner().invoke(app, [command, "--help"])
        assert done.exit_code == 0
        assert "Example:" in done.output


@pytest.mark.parametrize(
    ("document", "name", "make"),
    [
        ("README.md", readme.COMPARISON, readme.table),
        ("docs/performance.md", readme.BARS, bars.table),
        ("docs/performance.md", readme.DRAWN, bars.drawn_table),
    ],
)
def test_tables_are_what_the_committed_rows_say(document: str, name: str, make, tmp_path: Path):
    copy = tmp_path / "document.md"
    copy.write_text((ROOT / document).read_text(encoding="utf-8"), encoding="utf-8")
    report = "zen4-2core-drawn" if name == readme.DRAWN else "zen4-2core-comparison"
    assert readme.refresh(copy, ROOT / "reports" / report / "rows.jsonl.gz", name, make) is False
