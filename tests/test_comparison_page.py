"""The comparison's page and the README's table: their numbers, their independence of anything outside, their bytes."""

from __future__ import annotations

import os
import re
from dataclasses import replace

import pytest

from tconv_bench import comparison_page, readme, report, store, units, verdicts
from tconv_bench.plots import comparison, versus_rows
from tconv_bench.units import X
from tests.synthetic_comparison import comparison_rows, group, row
from tests.test_report import Page

HEADS = ["Layer", "Entrant", *comparison_page.COLUMNS]

BEGIN, END = "<!-- comparison:begin -->", "<!-- comparison:end -->"


def parsed(folder) -> Page:
    return Page((folder / "index.html").read_text(encoding="utf-8"))


def numbers(text: str) -> dict[str, list[list[str]]]:
    """Heading of each table of numbers -> its lines, with the layer in front, as the page's script unfolds them."""
    tables = {}
    for name, block in re.findall(
        r'<summary>([^<]*) \(\d+ rows\)</summary>\s*<div[^>]*><pre class="numbers">(.*?)</pre>', text, re.S
    ):
        head, *lines = block.split("\n")
        found, label = [head.split("\t")], ""
        for line in lines:
            if line.startswith("\t"):
                found.append([label, *line[1:].split("\t")])
            else:
                label = line
        tables[name] = found
    return tables


@pytest.fixture(scope="module")
def measured():
    return list(comparison_rows())


@pytest.fixture(scope="module")
def folder(tmp_path_factory, measured):
    folder = tmp_path_factory.mktemp("comparison")
    assert comparison_page.write(measured, folder, asv_pages="../asv/index.html") == folder / "index.html"
    return folder


@pytest.fixture(scope="module")
def text(folder):
    return (folder / "index.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(folder):
    return parsed(folder)


def test_the_page_needs_nothing_from_outside(folder, page, text):
    for reference in page.references:
        assert not re.match(r"(https?:)?//|/", reference), reference
        if reference.startswith("#"):
            assert reference[1:] in page.ids
        elif not reference.startswith("data:") and reference != "../asv/index.html":
            assert (folder / reference).is_file()
    assert not re.search(r"@import|url\(|fetch\(|https?://", text)
    for figure in (folder / "figures").iterdir():
        content = figure.read_text(encoding="utf-8")
        assert not re.search(r"@import|<script|https?://(?!www\.w3\.org/2000/svg)", content)


def test_every_figure_is_linked_once_with_a_text_for_those_who_cannot_see_it(folder, page):
    assert [image["src"] for image in page.images] == [f"figures/{entry.name}.svg" for entry in comparison.FIGURES]
    assert {p.name for p in (folder / "figures").iterdir()} == {f"{entry.name}.svg" for entry in comparison.FIGURES}
    for image in page.images:
        assert len(image["alt"]) > 100
        assert int(image["width"]) >= 900


def test_the_folder_is_small(folder):
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) < 1_300_000


def test_every_timed_row_has_its_line(text, measured):
    tables = numbers(text)
    assert list(tables)[:5] == [
        "One-shot, hot caches, 4 threads", "One-shot, flushed caches, 4 threads", "Planned, hot caches, 4 threads",
        "Planned, flushed caches, 4 threads", "Planned, hot caches, 1 thread",
    ]  # fmt: skip
    assert tables["One-shot, hot caches, 4 threads"][0] == HEADS
    assert tables["Planned, hot caches, 4 threads"][0] == [*HEADS, "Prepare"]
    lines = {(name, line[0], line[1].lstrip("*")): line for name, table in tables.items() for line in table[1:]}
    timed = [r for r in measured if r.median is not None and not r.control]
    assert len(lines) == len(timed)
    for r in timed:
        where = f"{r.mode.capitalize()}, {r.cache} caches, {r.threads} thread{'' if r.threads == 1 else 's'}"
        line = lines[where, r.label, r.method]
        assert line[2] == units.seconds(r.median)
        assert line[4] == units.seconds(r.minimum)
        assert line[6:9] == [
            units.significant(r.gflops), versus_rows.percent(r.roofline), units.size(r.workspace_bytes),
        ]  # fmt: skip
        assert line[9:] == ([units.seconds(r.prepare_seconds)] if r.mode == "planned" else [])


def test_lines_say_how_far_behind_and_who_is_best(tmp_path):
    found = group({"auto": 1.0, "direct": 1.001, "torch": 2.5}, "A g1")
    comparison_page.write(found, tmp_path)
    (table,) = numbers((tmp_path / "index.html").read_text(encoding="utf-8")).values()
    assert [(line[0], line[1], line[5]) for line in table[1:]] == [
        ("A g1", "*auto", f"1.00{X}"), ("A g1", "*direct", f"1.00{X}"), ("A g1", "torch", f"2.50{X}"),
    ]  # fmt: skip


def test_intervals_have_the_medians_unit_and_four_digits():
    found = row("auto", 0.0012345, low=0.00098765, high=0.0023456)
    assert comparison_page.interval(found) == "0.9877\N{EN DASH}2.346 ms"
    assert comparison_page.interval(replace(found, low=None)) == units.NONE


def test_every_loss_is_in_the_table(page, measured):
    start = page.lines.index(
        ["Layer", "Mode, caches", "Threads", "Fastest", "Time", "Best of ours", "Time", "Slower by", "Noise"]
    )
    lines = [line for line in page.lines[start + 1 :] if len(line) == 9 and line[7].endswith(X)]
    expected = []
    for found in verdicts.groups(measured):
        duel = verdicts.duel(found)
        if duel is not None and duel.outcome == "loss":
            label = found.label + str(found.problem)
            expected.append((label, f"{found.mode}, {found.cache}", str(found.threads), duel.peer.method, duel.ours.method))
            line = next(entry for entry in lines if tuple(entry[i] for i in (0, 1, 2, 3, 5)) == expected[-1])
            ours, peer = duel.ours.median, duel.peer.median
            assert (line[4], line[6]) == (units.seconds(peer), units.seconds(ours))
            assert line[7] == units.times(ours / peer)
            assert line[8] == versus_rows.percent(found.floor)
    assert len(lines) == len(expected) > 50
    ratios = [float(line[7].rstrip(X)) for line in lines]
    assert ratios == sorted(ratios, reverse=True)


def test_what_has_no_time_is_listed_once_with_its_reason(page, measured):
    lines = [line for line in page.lines if len(line) == 4]
    for r in measured:
        if r.median is None:
            (line,) = [line for line in lines if line[:2] == [r.label + r.problem, r.method]]
            assert line[2] == r.note
            assert f"{r.mode}, {r.cache}" in line[3].split("; ")
    assert any(line[2].startswith("wrong result: 12 of") for line in lines)


def test_the_headline_gives_means_counts_noise_and_the_machine(tmp_path):
    found = group({"auto": 1.0, "direct": 0.5, "torch": 2.0}, "A g1") + group({"auto": 4.0, "torch": 1.0}, "A g2", floor=0.03)
    found += group({"auto": 1.0, "torch": 1.0}, "A g3", floor=0.02)
    found = [replace(r, commit=r.commit + "+changes") for r in found]
    text = comparison_page.write(found, tmp_path).read_text(encoding="utf-8")
    best, auto = (ratio ** (1 / 3) for ratio in (4 * 0.25 * 1, 2 * 0.25 * 1))
    assert (
        f"Planned, hot caches: the best of ours is {units.times(best)} the speed of the best other engine "
        f"(1 win, 1 tie and 1 loss on 3 layers); auto alone is {units.times(auto)} the speed (1 win, 1 tie and 1 loss)."
    ) in text
    facts = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", text))
    assert facts["Noise"] == "2.0 % median, 3.0 % at most, over 3 A/A controls"
    assert facts["Processor"] == "Example CPU"
    assert facts["Machine"] == "x86_64, 4 cores, 8.00 GiB of memory"
    assert facts["Governor"] == "performance"
    assert facts["Threads"] == "4"
    assert facts["Commit"] == "0123456789ab with local changes"
    assert facts["Versions"] == "python 3.12.1, numpy 2.1.0, numba 0.62.0, torch 2.9.0"
    assert facts["Sampling"].startswith("until the 95 % interval is 5.0 % wide, or 500 ms were spent")
    assert [
        "planned, hot",
        "all",
        "3",
        units.times(best),
        "1 / 1 / 1",
        units.times(auto),
        "1 / 1 / 1",
        "2.0 % (3.0 %)",
    ] in parsed(tmp_path).lines


def test_the_score_has_a_second_line_where_channels_last_matters(tmp_path):
    comparison_page.write(group({"auto": 1.0, "torch": 2.0, "torch-channels_last": 0.5}), tmp_path)
    lines = [line for line in parsed(tmp_path).lines if line[:1] == ["planned, hot"] and len(line) == 8]
    assert [(line[1], line[3], line[4]) for line in lines] == [
        ("all", f"0.500{X}", "0 / 0 / 1"),
        ("channels-first", f"2.00{X}", "1 / 0 / 0"),
    ]


def test_without_a_control_nothing_is_called_faster(tmp_path):
    found = [r for r in group({"auto": 1.0, "torch": 9.0}) if not r.control]
    text = comparison_page.write(found, tmp_path).read_text(encoding="utf-8")
    assert "no A/A control was timed, so nothing counts as faster" in text
    assert "0 wins, 1 tie and 0 losses on 1 layer)" in text
    assert "Nowhere: in none of 1 duels" in text


def test_definitions_and_formulas_stand_on_the_page(text):
    plain = re.sub(r"<[^>]+>|\s+", " ", text).replace("&middot;", "*").replace("&minus;", "-")
    plain = re.sub(r"\s+", " ", plain)
    for formula in (
        "GFLOP/s = 2 * batch * c_in * (c_out / groups) * meetings / median / 10 9",
        "roofline's least time = max(flops / FMA peak, min_bytes / copy bandwidth of that working set)",
        "max(high of both) / min(low of both) - 1",
    ):
        assert formula in plain
    for word in ("One-shot", "Planned", "Hot", "Flushed", "What is timed"):
        assert re.search(rf"<li><b>{word}</b>", text) or f"<b>{word}</b>" in text
    assert "Channels-last entrants take and give channels-last memory" in text


def test_entrants_are_described(page):
    lines = {line[0]: line for line in page.lines if len(line) == 5}
    assert lines["torch-channels_last"][2] == "channels-last"
    assert lines["auto"][2:4] == ["channels-first", "one-shot: fresh; planned: given"]
    assert lines["openvino"][3] == "planned: fresh"


def test_asv_pages_are_linked_where_they_are_given(text, tmp_path):
    assert text.count('href="../asv/index.html"') == 2
    assert "asv" not in comparison_page.write(group({"auto": 1.0, "torch": 2.0}), tmp_path).read_text(encoding="utf-8")
    for outside in ("https://asv.example/x", "/srv/asv", "//host/asv"):
        with pytest.raises(ValueError, match="relative to the report's folder"):
            comparison_page.write(group({"auto": 1.0}), tmp_path, asv_pages=outside)


def test_text_from_rows_is_escaped(tmp_path):
    found = [replace(r, label="<script>x</script>") for r in group({"auto": 1.0, "torch": 0.5, "matmul": None})]
    found = [replace(r, note="a < b & c") if r.median is None else r for r in found]
    text = comparison_page.write(found, tmp_path, title="R & D").read_text(encoding="utf-8")
    assert "<script>x" not in text
    assert "a &lt; b &amp; c" in text
    assert "<h1>R &amp; D</h1>" in text


def test_the_same_rows_give_the_same_bytes_and_a_figure_without_rows_goes(tmp_path):
    found = list(comparison_rows(2))
    for name in ("a", "b"):
        comparison_page.write(found, tmp_path / name)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert len(files) == 2 + 9
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file
    comparison_page.write(group({"auto": 1.0, "torch": 2.0}, mode="one-shot"), tmp_path / "a")
    assert sorted(p.stem for p in (tmp_path / "a" / "figures").iterdir()) == ["profile", "speedup_one_shot", "winners"]
    assert [image["src"] for image in parsed(tmp_path / "a").images] == [
        "figures/winners.svg", "figures/profile.svg", "figures/speedup_one_shot.svg",
    ]  # fmt: skip


def test_the_rows_lie_beside_the_page_and_other_commits_only_there(folder, measured, tmp_path):
    assert store.read(folder / "rows.jsonl.gz") == measured
    found = group({"auto": 1.0, "torch": 2.0})
    against = replace(found[0], revision="fedcba9876543210", median=0.123)
    other = replace(found[0], suite="layers")
    text = comparison_page.write([*found, against, other], tmp_path).read_text(encoding="utf-8")
    assert store.read(tmp_path / "rows.jsonl.gz") == [*found, against]
    assert "fedcba9" not in text
    assert "123 ms" not in text


def test_a_folder_that_cannot_be_written_and_no_rows_are_clear_errors(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(report.ReportFolderError, match="cannot be written"):
        comparison_page.write(group({"auto": 1.0}), blocked / "out")
    for nothing in ([], [row("auto", 1.0, suite="layers")], [row("auto", None, note="no")]):
        with pytest.raises(ValueError, match="no timed comparison row"):
            comparison_page.write(nothing, tmp_path / "out")
    assert not (tmp_path / "out" / "rows.jsonl.gz").exists()


def test_the_readmes_table():
    found = group({"auto": 1.0, "direct": 0.8, "torch": 2.0, "torch-channels_last": 4.0}, "A", mode="one-shot")
    found += group({"auto": 1.0, "torch": 2.0, "openvino": 0.5}, "A", floor=0.02)
    found += group({"auto": 1.0, "torch": 0.5, "openvino": None}, "B", floor=0.02)
    found += group({"auto": 1.0, "torch": 9.0}, "A", mode="planned", cache="flushed")
    assert readme.table(found).splitlines() == [
        "| engine | one-shot: `auto` | one-shot: best of ours | planned: `auto` | planned: best of ours |",
        "| --- | ---: | ---: | ---: | ---: |",
        f"| the best of them | 2.00{X} (1/0/0) | 2.50{X} (1/0/0) | 0.500{X} (0/0/2) | 0.500{X} (0/0/2) |",
        f"| torch | 2.00{X} (1/0/0) | 2.50{X} (1/0/0) | 1.00{X} (1/0/1) | 1.00{X} (1/0/1) |",
        f"| torch-channels_last | 4.00{X} (1/0/0) | 5.00{X} (1/0/0) | \N{EN DASH} | \N{EN DASH} |",
        f"| openvino | \N{EN DASH} | \N{EN DASH} | 0.500{X} (0/0/1) | 0.500{X} (0/0/1) |",
        "",
        "The engine's time / ours over 2 layers, hot caches: geometric mean, above 1 this project is faster. In",
        "brackets won/tied/lost layers; a win needs 95 % intervals apart and a lead beyond the noise floor. `auto` is what a",
        "user gets, best of ours the fastest method per layer after the fact. Noise floor: 2.0 % (median A/A spread).",
        "Example CPU, 4 threads, 2025-11-20, commit 0123456789ab.",
    ]


def test_the_readmes_table_is_short_and_agrees_with_the_page(measured, text):
    lines = readme.table(measured).splitlines()
    assert len(lines) < 20
    assert max(map(len, lines)) <= 128
    groups = versus_rows.condition(versus_rows.compared(measured), "planned", "hot")
    duels = [d for g in groups if (d := verdicts.duel(g, "auto")) is not None]
    ends = [sum(d.outcome == outcome for d in duels) for outcome in ("win", "tie", "loss")]
    mean = 1.0
    for d in duels:
        mean *= d.ratio ** (1 / len(duels))
    assert f"{units.times(mean)} ({'/'.join(map(str, ends))})" in lines[2]
    assert f"auto alone is {units.times(mean)} the speed ({ends[0]} wins, {ends[1]} ties and {ends[2]} losses)" in text


def test_a_table_needs_two_sides():
    with pytest.raises(ValueError, match="meets another engine"):
        readme.table(group({"auto": 1.0, "direct": 2.0}))


@pytest.fixture
def rows_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    store.append_all(path, group({"auto": 1.0, "torch": 2.0}))
    return path


def test_refresh_replaces_what_stands_between_the_markers_and_nothing_else(tmp_path, rows_file):
    path = tmp_path / "README.md"
    path.write_text(f"# T\n\n{BEGIN}\nold\n{END}\n\nrest \u2713\n", encoding="utf-8")
    os.chmod(path, 0o640)
    assert readme.refresh(path, rows_file) is True
    expected = f"# T\n\n{BEGIN}\n{readme.table(store.read(rows_file))}\n{END}\n\nrest \u2713\n"
    assert path.read_bytes() == expected.encode()
    assert path.stat().st_mode & 0o777 == 0o640
    before = path.stat().st_mtime_ns
    assert readme.refresh(path, rows_file) is False
    assert path.stat().st_mtime_ns == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["README.md", "rows.jsonl"]


def test_refresh_keeps_line_ends_and_reads_packed_rows(tmp_path, rows_file):
    path = tmp_path / "README.md"
    path.write_bytes(f"a\r\n{BEGIN}\r\n{END}\r\nb\r\n".encode())
    packed = report.write_rows(store.read(rows_file), tmp_path / "report")
    assert readme.refresh(path, packed) is True
    content = path.read_bytes()
    assert content.count(b"\n") == content.count(b"\r\n") == 4 + len(readme.table(store.read(rows_file)).splitlines())
    assert readme.refresh(path, rows_file) is False


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("nothing", "comparison:begin --> stands there 0 times"),
        (f"{BEGIN}", "comparison:end --> stands there 0 times"),
        (f"{BEGIN}{END}{BEGIN}", "comparison:begin --> stands there 2 times"),
        (f"{BEGIN}{END}{END}", "comparison:end --> stands there 2 times"),
        (f"{END}{BEGIN}", "stands before"),
    ],
    ids=["none", "no end", "two beginnings", "two ends", "reversed"],
)
def test_markers_at_fault_are_an_error_and_leave_the_file(tmp_path, rows_file, content, message):
    path = tmp_path / "README.md"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        readme.refresh(path, rows_file)
    assert str(caught.value).startswith(f"{path}: ")
    assert path.read_text() == content


def test_an_interrupted_refresh_leaves_the_file_and_nothing_beside_it(tmp_path, rows_file, monkeypatch):
    path = tmp_path / "README.md"
    path.write_text(f"{BEGIN}{END}")

    def fail(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        readme.refresh(path, rows_file)
    assert path.read_text() == f"{BEGIN}{END}"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["README.md", "rows.jsonl"]
