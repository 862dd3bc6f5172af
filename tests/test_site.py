"""asv's pages, made to open offline: nothing is loaded from elsewhere, all data is carried along, and the graphs draw."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import math
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from tconv_bench import site, suite

asv_benchmarks = pytest.importorskip("asv.benchmarks")
asv_machine = pytest.importorskip("asv.machine")
asv_results = pytest.importorskip("asv.results")
asv_runner = pytest.importorskip("asv.runner")
asv_util = pytest.importorskip("asv.util")

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = Path(asv_util.__file__).parent / "www" / "index.html"
RUN, IMPORT = "bench_layers.Run.time_run", "bench_startup.Import.timeraw_import"
PROBLEMS, VARIANTS = ["'A n1_ci2_i4_co3_k2'", "'B n1_ci2_i5_co3_k2'"], ["'col2im'", "'direct'", "'matmul'"]
COMMON = {"type": "time", "unit": "seconds", "version": "1", "code": "url = 'https://example.org/code.js'"}
BENCHMARKS = [
    {**COMMON, "name": RUN, "params": [PROBLEMS, VARIANTS], "param_names": ["problem", "variant"]},
    {**COMMON, "name": IMPORT, "params": [], "param_names": []},
    {**COMMON, "name": "bench_startup.FirstCall.never_run", "params": [], "param_names": []},
]
# npm has them in another form than the one that asv names by hash: flot unminified, stupidtable in a later version.
OTHER_FORM = {
    "jquery.flot.js": "b7b931f273c38b1277b9c6c1f4e05c4ec09885a487bddaf3279e2d7e49a38e12",
    "jquery.flot.time.js": "a582c832adc7138a6b05aaf61f16ebac274701f1be4afea77e739a1c34b9c41a",
    "jquery.flot.selection.js": "e6c85f6c1ebe4b4da29d8ae238c7c5060283f05f7ef054f6b91817d02c092918",
    "jquery.flot.categories.js": "6e81664b28ea795c734906f4aa15614640a75ac7fbd399a7fb9084040698351a",
    "stupidtable.min.js": "4642380f28ebe9ed7cac251793b281ef8620c4386205d92788f9b12f5cceb4e0",
}


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Someone", "-c", "user.email=someone@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def commit(folder: Path, subject: str) -> str:
    git(folder, "commit", "--quiet", "--allow-empty", "-m", subject)
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with two commits and the project's asv.conf.json, taken for the package's own."""
    folder = tmp_path / "a checkout"
    (folder / "benchmarks").mkdir(parents=True)
    shutil.copy(ROOT / "asv.conf.json", folder)
    git(folder, "init", "--quiet")
    commit(folder, "First")
    commit(folder, "Second <b>&</b>")
    monkeypatch.setattr(suite, "root", lambda: folder)
    return folder


def write_results(folder: Path, commits: list[str]) -> Path:
    """What a run of each commit leaves: the later, the slower; one combination is skipped."""
    machine = {"machine": "bench", "os": "Linux", "arch": "x86_64", "cpu": "A #1 CPU, 100%", "num_cpu": "2", "ram": "8"}
    asv_util.write_json(folder / "bench" / "machine.json", machine, asv_machine.Machine.api_version)
    described = {benchmark["name"]: benchmark for benchmark in BENCHMARKS}
    asv_util.write_json(folder / "benchmarks.json", described, asv_benchmarks.Benchmarks.api_version)
    for factor, commit_hash in enumerate(commits, 1):
        results = asv_results.Results({**machine, "python": "3.12"}, {}, commit_hash, 10**12 * factor, "3.12", "here", {})
        for benchmark in BENCHMARKS[:2]:
            count = math.prod(map(len, benchmark["params"]))
            values = [factor * (i + 1) * 1e-3 for i in range(count - 1)] + [math.nan if count > 1 else factor * 0.5]
            samples = [None if math.isnan(value) else [value] * 3 for value in values]
            outcome = asv_runner.BenchmarkResult(values, samples, [1] * count, 0, "", None)
            results.add_result(benchmark, outcome, record_samples=True)
        results.save(folder)
    (folder / "bench" / "1234-here.notes").write_text("{}")
    return folder


@pytest.fixture(params=["two commits", "one commit"])
def pages(request: pytest.FixtureRequest, checkout: Path) -> Path:
    """The folder of a site."""
    commits = [git(checkout, "rev-parse", name) for name in ("HEAD~1", "HEAD")]
    stored = write_results(checkout / ".asv" / "results", commits if request.param == "two commits" else commits[1:])
    page = site.publish(stored, checkout / ".asv" / "html")
    assert page == checkout / ".asv" / "html" / "index.html"
    return page.parent


class Loaded(html.parser.HTMLParser):
    """Addresses that a page loads."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = {"script": "src", "link": "href", "img": "src"}
        self.addresses += [value or "" for name, value in attrs if name == names.get(tag)]
        assert tag not in ("iframe", "object", "embed", "base")


def test_all_that_the_pages_load_lies_beside_them(pages: Path) -> None:
    found = sorted(page.name for page in pages.glob("*.html"))
    assert found == ["commits.html", "error.html", "index.html"]
    loaded = Loaded(pages / "index.html").addresses
    assert len(loaded) >= 20
    for address in [*loaded, *Loaded(pages / "error.html").addresses, *Loaded(pages / "commits.html").addresses]:
        assert (pages / address).is_file(), address
    for style in pages.rglob("*.css"):
        for address in re.findall(r"url\(([^)]*)\)|@import", style.read_text(encoding="utf-8")):
            assert address.startswith("../fonts/glyphicons-"), "no page of asv shows a glyphicon, so that no browser loads this"
    assert not any(
        "glyphicon" in path.read_text(encoding="utf-8") for path in pages.glob("*.*") if path.suffix in (".js", ".html")
    )
    for script in pages.rglob("*.js"):
        if script.name != "offline.js":
            assert not re.search(r"""["'`](https?:)?//\w""", script.read_text(encoding="utf-8")), script
    assert (pages / "vendor" / "README.md").is_file()


def test_the_script_carries_every_json_file(pages: Path) -> None:
    (line,) = re.findall(r"^const files = (.*);$", (pages / "offline.js").read_text(encoding="utf-8"), re.M)
    carried = json.loads(line)
    assert carried.pop("swallow.ico") == ""
    written = {path.relative_to(pages).as_posix(): path.read_text(encoding="utf-8") for path in pages.rglob("*.json")}
    assert carried == written
    assert {"index.json", "info.json", "regressions.json", f"graphs/summary/{RUN}.json"} <= set(written)
    for text in written.values():
        json.loads(text, parse_constant=pytest.fail)  # a browser takes neither NaN nor Infinity


def test_commits_have_a_page_with_their_subjects(pages: Path, checkout: Path) -> None:
    text = (pages / "commits.html").read_text(encoding="utf-8")
    assert f'id="{git(checkout, "rev-parse", "HEAD")[:8]}"' in text
    assert "Second &lt;b&gt;&amp;&lt;/b&gt;" in text
    assert json.loads((pages / "index.json").read_text())["show_commit_url"] == "commits.html#"


def test_publishing_again_replaces_the_site_and_leaves_nothing_else(pages: Path, checkout: Path) -> None:
    (pages / "stale").write_text("")
    again = site.publish(checkout / ".asv" / "results", pages)
    assert again.is_file()
    assert not (pages / "stale").exists()
    assert sorted(path.name for path in pages.parent.iterdir()) == ["html", "results"]
    assert (checkout / "asv.conf.json").read_bytes() == (ROOT / "asv.conf.json").read_bytes()


def test_vendored_files_are_the_ones_that_asv_names() -> None:
    text = TEMPLATE.read_text(encoding="utf-8")
    wanted = dict(re.findall(r'(?:src|href)="(https:[^"]+)" integrity="([^"]+)"', text))
    assert set(wanted) == set(site.VENDORED)
    assert {path.name for path in site.VENDOR.iterdir()} == {*site.VENDORED.values(), "README.md"}
    for address, name in site.VENDORED.items():
        data = (site.VENDOR / name).read_bytes()
        if name in OTHER_FORM:
            assert hashlib.sha256(data).hexdigest() == OTHER_FORM[name]
        else:
            kind, _, digest = wanted[address].partition("-")
            assert base64.b64encode(hashlib.new(kind, data).digest()).decode() == digest, name
    assert sum(path.stat().st_size for path in site.VENDOR.iterdir()) < 600_000


def test_an_address_that_is_not_shipped_is_named_and_the_site_stays(pages: Path, checkout: Path, monkeypatch) -> None:
    before = (pages / "index.html").read_text(encoding="utf-8")
    address = "https://code.jquery.com/jquery-3.3.1.min.js"
    monkeypatch.setattr(site, "VENDORED", {key: name for key, name in site.VENDORED.items() if key != address})
    with pytest.raises(site.SiteError, match=rf"not shipped in .*: {re.escape(address)}$"):
        site.publish(checkout / ".asv" / "results", pages)
    assert (pages / "index.html").read_text(encoding="utf-8") == before
    assert sorted(path.name for path in pages.parent.iterdir()) == ["html", "results"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("index.html", '<script\n src="https://cdn.example/new.js"></script>'),
        ("index.html", "<SCRIPT SRC='//cdn.example/new.js'></SCRIPT>"),
        ("index.html", "<img src=//cdn.example/new.js>"),
        ("index.html", "<script>load('HTTP://cdn.example/new.js')</script>"),
        ("new.js", 'import "https://cdn.example/new.js"'),
        ("new.js", "fetch(`//cdn.example/new.js`)"),
        ("new.css", "@import '//cdn.example/new.js';"),
        ("deep/new.css", "a { background: url( https://cdn.example/new.js) }"),
    ],
)
def test_remote_references_are_found(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / name).write_text(text)
    assert [found.lower().removeprefix("https:").removeprefix("http:") for found in site.remote_references(tmp_path)] == [
        "//cdn.example/new.js"
    ]


def test_links_to_follow_are_no_references(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text('<a class="x" href="https://example.org">there</a> <!-- see http://example.org -->')
    (tmp_path / "new.js").write_text('"use strict"; // see https://example.org\n"// text"; s.match(/.*\\/\\/example.org/)')
    assert site.remote_references(tmp_path) == []


def test_without_results_the_error_names_the_command(checkout: Path) -> None:
    for attempt in (site.choose, partial(site.publish, checkout / ".asv" / "results", checkout / "out")):
        with pytest.raises(site.SiteError, match=r"no results in .*run `tconv-bench run --profile quick`"):
            attempt()
    assert not (checkout / "out").exists()


def test_the_saved_history_is_chosen_else_the_newest_of_the_others(checkout: Path) -> None:
    commits = [git(checkout, "rev-parse", "HEAD")]
    for place in ("changed/1", "quick/2"):
        folder = write_results(checkout / ".asv" / place, commits)
        chosen, note = site.choose()
        assert chosen == folder
        assert note.startswith("no saved history in")
    assert "quick results" in note
    saved = write_results(checkout / ".asv" / "results", commits)
    assert site.choose() == (saved, "")


def test_a_folder_with_other_files_is_not_replaced(checkout: Path) -> None:
    stored = write_results(checkout / ".asv" / "results", [git(checkout, "rev-parse", "HEAD")])
    for output in (checkout, checkout / ".asv", checkout / "asv.conf.json"):
        with pytest.raises(site.SiteError, match="holds something else than an earlier site"):
            site.publish(stored, output)
    assert (checkout / "asv.conf.json").is_file()


def test_commits_of_another_branch_are_left_out_and_said(checkout: Path) -> None:
    first = git(checkout, "rev-parse", "HEAD~1")
    git(checkout, "checkout", "--quiet", "-b", "aside", first)
    other = commit(checkout, "Aside")
    git(checkout, "checkout", "--quiet", "-")
    said: list[str] = []
    site.publish(write_results(checkout / "both", [first, other]), checkout / "out", say=said.append)
    assert len(said) == 1
    assert other[:8] in said[0]
    alone = write_results(checkout / "alone", [other, "0123456789abcdef" + 24 * "0"])
    with pytest.raises(site.SiteError, match=r"no result in .*alone is of a commit in the history of HEAD"):
        site.publish(alone, checkout / "out")


def test_without_a_git_history_the_error_says_so(checkout: Path) -> None:
    stored = write_results(checkout / ".asv" / "results", [git(checkout, "rev-parse", "HEAD")])
    shutil.rmtree(checkout / ".git")
    with pytest.raises(site.SiteError, match="has no git history"):
        site.publish(stored, checkout / "out")


def test_broken_descriptions_of_benchmarks_end_in_one_error(checkout: Path) -> None:
    stored = write_results(checkout / ".asv" / "results", [git(checkout, "rev-parse", "HEAD")])
    (stored / "benchmarks.json").unlink()
    with pytest.raises(site.SiteError, match=r"asv cannot publish .*benchmarks\.json"):
        site.publish(stored, checkout / "out")


Browse = Callable[..., tuple[str, str]]


@pytest.fixture
def browse(tmp_path: Path) -> Browse:
    """Opens an address in Chromium with one more option: (what it printed, its console's messages)."""
    found = [path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))]
    if not found:
        pytest.skip("no chromium, chromium-browser or google-chrome on PATH")
    options = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr",
        "--virtual-time-budget=8000", "--window-size=1400,1000", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ]  # fmt: skip

    def open_page(address: str, option: str = "--dump-dom") -> tuple[str, str]:
        command = [found[0], *options, option, address]
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", errors="replace", timeout=60)
        return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)

    probe = tmp_path / "probe.html"
    probe.write_text("<p>readable</p>")
    if "readable" not in open_page(probe.as_uri())[0]:
        pytest.skip(f"{found[0]} opens no page from the folder of temporary files")
    return open_page


@pytest.fixture
def served(pages: Path) -> Iterator[str]:
    """The pages' address on a web server."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(pages))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def columns(image: Path, color: str) -> np.ndarray:
    """The x coordinates of a screenshot's pixels that have exactly this colour."""
    wanted = np.array([int(color[i : i + 2], 16) for i in (0, 2, 4)])
    return np.nonzero((np.asarray(Image.open(image).convert("RGB")) == wanted).all(axis=-1))[1]


@pytest.mark.parametrize("pages", ["two commits"], indirect=True)
def test_the_pages_draw_from_the_disk_and_from_a_server(pages: Path, served: str, browse: Browse, tmp_path: Path) -> None:
    page = (pages / "index.html").as_uri()
    grid, console = browse(page)
    assert console == ""
    for name in (RUN, IMPORT):
        assert name.partition(".")[2] in grid
        assert re.search(rf'id="summarygrid-{re.escape(name)}"[^>]*>\s*<canvas class="flot-base"', grid), name
    rows, console = browse(page + "#/summarylist")
    assert console == ""
    assert rows.count("<tr><td>") == 7  # a row for each combination and for the one benchmark without parameters
    assert "10.000ms" in rows
    regressions, console = browse(served + "#/regressions")
    assert console == ""
    assert regressions.count("<td>2.00x</td>") == 6
    bars = f"#{RUN}?x-axis=variant&show-legend=false&p-problem=" + "&p-problem=".join(map(quote, PROBLEMS))
    graph, console = browse(served + bars)
    assert console == ""
    assert re.search(r'id="main-graph"[^>]*>\s*<canvas class="flot-base"', graph)
    assert all(f">{variant[1:-1]}</div>" in graph for variant in VARIANTS)  # the labels of the drawn axis
    shot = tmp_path / "shot.png"
    _, console = browse(page + bars, f"--screenshot={shot}")
    assert console == ""
    first, second = columns(shot, "247AAD"), columns(shot, "E24A33")
    assert min(first.size, second.size) > 300
    assert first.min() < second.min() - 20  # the bars of the two problems stand side by side


@pytest.mark.parametrize("pages", ["one commit"], indirect=True)
def test_a_single_commit_is_a_dot(pages: Path, browse: Browse, tmp_path: Path) -> None:
    shot = tmp_path / "shot.png"
    _, console = browse((pages / "index.html").as_uri(), f"--screenshot={shot}")
    assert console == ""
    assert columns(shot, "247AAD").size > 20
