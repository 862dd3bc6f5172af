"""The page: its numbers, its independence of anything outside of it, and its bytes."""

from __future__ import annotations

import base64
import gzip
import json
import re
from html.parser import HTMLParser

import pytest

from tconv_bench import report, store, units
from tconv_bench.plots import captions
from tests.synthetic import layer_rows, row, sweep_rows

SMALL = "n1_ci8_i8x8_co8_k4x4_s2x2_p1x1"
OTHER = "n1_ci4_i8x8_co4_k4x4_s2x2_p1x1"


class Page(HTMLParser):
    """References, images, and the cells of every table row."""

    def __init__(self, text: str):
        super().__init__()
        self.references: list[str] = []
        self.images: list[dict] = []
        self.lines: list[list[str]] = []
        self.ids: list[str] = []
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.references += [attributes[name] for name in ("src", "href", "srcset", "data", "action") if name in attributes]
        self.ids += [attributes["id"]] if "id" in attributes else []
        if tag == "img":
            self.images.append(attributes)
        if tag == "tr":
            self.lines.append([])
        if tag in ("td", "th"):
            self.lines[-1].append("")
            self.inside = True

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.lines[-1][-1] += data


@pytest.fixture(scope="module")
def measured():
    return layer_rows() + sweep_rows()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, measured):
    folder = tmp_path_factory.mktemp("report")
    assert report.write_report(measured, folder) == folder / "index.html"
    return folder


@pytest.fixture(scope="module")
def page(folder):
    return Page((folder / "index.html").read_text(encoding="utf-8"))


def test_the_page_needs_nothing_from_outside(folder, page):
    for reference in page.references:
        assert not re.match(r"(https?:)?//|/", reference), reference
        if reference.startswith("#"):
            assert reference[1:] in page.ids
        elif not reference.startswith("data:"):
            assert (folder / reference).is_file()
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"@import|url\(|fetch\(", text)


def test_every_figure_is_inside_with_a_text_for_those_who_cannot_see_it(folder, page):
    assert len(page.images) == 7
    assert len(list((folder / "figures").iterdir())) == 14
    for image in page.images:
        kind, _, data = image["src"].partition(";base64,")
        assert kind == "data:image/svg+xml"
        assert base64.b64decode(data).startswith(b"<?xml")
        assert len(image["alt"]) > 100


def test_every_measurement_has_its_line(page, measured):
    lines = {(*line[:4], *line[6:]) for line in page.lines if len(line) == 9}
    for found in measured:
        problem = found.problem if found.label == found.problem else found.label + found.problem
        if found.median is None:
            assert [problem, found.method, found.note] in page.lines
            continue
        interval = f"{units.seconds(found.low)} to {units.seconds(found.high)}"
        memory = (units.size(found.workspace_bytes), units.size(found.prepared_bytes))
        prepare = units.seconds(found.prepare_seconds)
        assert (problem, found.method, units.seconds(found.median), interval, prepare, *memory) in lines


def test_gflops_are_the_problems_flops_over_the_median():
    found = row(SMALL, "direct", 1e-6)
    first = report.winner_rows([found])[0]
    assert first.gflops == pytest.approx(2 * 8 * 8 * 30 * 30 / 1e-6 / 1e9)
    assert (first.winner, first.runner_up, first.ratio, first.tied) == ("direct", None, None, ())


def test_winner_rows_name_ties():
    found = [row(SMALL, "direct", 1.0, label="A"), row(SMALL, "col2im", 1.5, label="A"), row(SMALL, "matmul", None, label="A")]
    found += [
        row(OTHER, "direct", 1.02, label="B"),
        row(OTHER, "col2im", 1.0, label="B"),
        row(OTHER, "direct", 9.0, suite="sizes"),
    ]
    first, second = report.winner_rows(found)
    assert (first.label, first.problem, first.winner, first.median_s) == ("A", SMALL, "direct", 1.0)
    assert (first.runner_up, first.ratio) == ("col2im", 1.5)
    assert (second.winner, second.tied, second.ratio) == ("tie", ("col2im", "direct"), 1.02)
    assert [r.winner for r in report.winner_rows(found[-1:])] == ["direct"]


def test_captions_say_what_the_rows_say():
    found = [row(SMALL, "direct", 1.0), row(SMALL, "zero_insertion", 4.0)]
    assert captions.winners(found).startswith("direct is fastest on 1 of 1 layer.")
    assert f"direct is ahead with 4.00{units.X}" in captions.speedup(found)
    tied = [row(SMALL, "direct", 1.0), row(SMALL, "col2im", 1.01)]
    assert captions.winners(tied).startswith("1 layer is a tie.")


def test_the_headline_says_what_was_measured_where(folder):
    text = (folder / "index.html").read_text(encoding="utf-8")
    for fact in ("Example CPU", "x86_64, 2 cores, 8 GiB of memory", "quick", "2025-03-01", "0123456789ab", "numba 0.61.0"):
        assert f"<dd>{fact}" in text or f", {fact}</dd>" in text


def test_text_from_rows_is_escaped(tmp_path):
    found = [row(SMALL, "direct", 1.0, label="<script>x</script>"), row(OTHER, "direct", None, note="a < b & c")]
    text = report.write_report(found, tmp_path, title="R & D").read_text(encoding="utf-8")
    assert "<script>x" not in text
    assert "&lt;script&gt;x" in text
    assert "a &lt; b &amp; c" in text
    assert "<h1>R &amp; D</h1>" in text


def test_absent_suites_leave_their_figures_out(tmp_path):
    report.write_report([row(SMALL, "direct", 1.0), row(SMALL, "col2im", 2.0)], tmp_path)
    assert sorted(p.name for p in (tmp_path / "figures").glob("*.svg")) == [
        "speedup.svg", "time_memory.svg", "winners.svg", "workspace.svg",
    ]  # fmt: skip
    report.write_report([row(SMALL, "direct", 1.0, suite="sizes")], tmp_path)
    assert [p.name for p in (tmp_path / "figures").glob("*.svg")] == ["time_against_size.svg"]


def test_a_page_without_a_single_time(tmp_path):
    page = report.write_report([row(SMALL, "direct", None, note="not supported; use col2im")], tmp_path).read_text(
        encoding="utf-8"
    )
    assert "Nothing was timed." in page
    assert "not supported; use col2im" in page


@pytest.mark.slow  # the comparison's page has the same test
def test_the_same_rows_give_the_same_bytes(tmp_path):
    found = layer_rows(4)
    for name in ("a", "b"):
        report.write_report(found, tmp_path / name)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert len(files) == 2 + 8
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_the_rows_lie_beside_the_page_in_the_stores_format(folder, measured, tmp_path):
    content = gzip.decompress((folder / "rows.jsonl.gz").read_bytes())
    (tmp_path / "rows.jsonl").write_bytes(content)
    assert store.read(tmp_path / "rows.jsonl") == measured
    assert json.loads(content.splitlines()[0])["schema"] == store.SCHEMA


def test_the_report_is_small(folder):
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) < 2_500_000


@pytest.mark.parametrize("write", [report.write_report, report.write_rows], ids=["report", "rows"])
def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path, write):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OSError, match=re.escape(f"the report's folder {blocked / 'out'} cannot be written")) as caught:
        write([row(SMALL, "direct", 1.0)], blocked / "out")
    assert isinstance(caught.value, report.ReportFolderError)
    assert "\n" not in str(caught.value)


def test_no_rows_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="no measurement"):
        report.write_report([], tmp_path)
