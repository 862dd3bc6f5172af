"""The documentation: links lead somewhere, what is typed in it is true, every name and method has its place, and it builds."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import tconv_bench
from tconv_bench import methods
from tconv_bench.cli import app

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
TEXTS = [*ROOT.glob("*.md"), *(p for p in DOCS.rglob("*.md") if not {"_build", "gallery"} & set(p.relative_to(DOCS).parts))]
LINK = re.compile(r"\]\(([^()\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
all_texts = pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))


def anchors(path: Path) -> set[str]:
    """Anchors of a text's headings, as GitHub and MyST make them."""
    headings = HEADING.findall(path.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@all_texts
def test_links_lead_to_files_and_headings(path: Path):
    for target in LINK.findall(re.sub(r"```.*?```|`[^`]*`", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        if found.parent == DOCS / "gallery":
            found = ROOT / "examples" / ("GALLERY_HEADER.rst" if found.stem == "index" else f"{found.stem}.py")
        assert found.exists(), f"{path.name} links to {target}"
        assert not anchor or anchor in anchors(found), f"{path.name} links to {target}"


@all_texts
def test_what_is_typed_is_true(path: Path):
    """``>>>`` lines of a page, run from top to bottom."""
    unfenced = re.sub(r"^```.*$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    found = doctest.DocTestParser().get_doctest(unfenced, {}, path.name, str(path), 0)
    said: list[str] = []
    doctest.DocTestRunner(verbose=False).run(found, out=said.append)
    assert "".join(said) == ""


def referenced(folder: str) -> str:
    return "".join(path.read_text(encoding="utf-8") for path in sorted((DOCS / folder).glob("*.md")))


@pytest.mark.parametrize("name", tconv_bench.__all__)
def test_every_public_name_is_in_the_reference(name: str):
    text = referenced("reference")
    assert re.search(rf"auto(function|class|module):: (tconv_bench\.)?{name}\b", text)


def test_every_method_has_a_page_and_every_command_a_line():
    assert set(methods()) <= {path.stem for path in (DOCS / "mathematics").glob("*.md")}
    text = (DOCS / "guide" / "command-line.md").read_text(encoding="utf-8")
    commands = [command.name or command.callback.__name__.replace("_", "-") for command in app.registered_commands]
    assert commands
    assert [name for name in commands if f"tconv-bench {name}" not in text] == []


class Page(HTMLParser):
    """What a page loads, links to, and shows as mathematics."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.formulas = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given["id"]} if "id" in given else set()
        self.formulas += tag == "math"
        if tag in ("script", "img", "source", "iframe") and "src" in given:
            self.loads.append(given["src"])
        if tag == "link" and given.get("rel") in ("stylesheet", "icon", "preload"):
            self.loads.append(given["href"])
        if tag == "a" and "href" in given:
            self.links.append(given["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("sphinx", reason="the docs extra is not installed")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-n", "-W", "--keep-going", "-q", "-d", str(folder / "trees"), str(DOCS)]
    done = subprocess.run([*command, str(folder / "html")], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return folder / "html"


def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html") if "_downloads" not in path.parts}


@pytest.mark.slow
def test_the_site_is_whole_and_needs_no_network(site: Path):
    found = pages(site)
    texts = {path.relative_to(DOCS).with_suffix(".html") for path in TEXTS if DOCS in path.parents}
    examples = {Path("gallery") / f"{path.stem}.html" for path in (ROOT / "examples").glob("plot_*.py")}
    assert texts | examples <= {path.relative_to(site) for path in found}
    for path, page in found.items():
        for target in page.loads:
            assert not urlsplit(target).netloc, f"{path.name} loads {target}"
            assert target.startswith("data:") or (path.parent / unquote(urlsplit(target).path)).exists(), (
                f"{path.name}: {target}"
            )
        for target in page.links:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            other = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert other.exists(), f"{path.name} links to {target}"
            if parts.fragment and other in found:
                assert unquote(parts.fragment) in found[other].ids, f"{path.name} links to {target}"
    for sheet in site.rglob("*.css"):
        for target in re.findall(r"url\(\s*['\"]?([^'\")]+)", sheet.read_text(encoding="utf-8")):
            local = target.startswith("data:") or (sheet.parent / urlsplit(target).path).exists()
            assert local, f"{sheet.name} loads {target}"
        assert "@import" not in sheet.read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_mathematics_is_drawn_by_the_browser(site: Path):
    for path, page in pages(site).items():
        text = path.read_text(encoding="utf-8")
        assert "$$" not in text
        if path.parent.name == "mathematics" and path.stem != "index":
            assert page.formulas >= 5, path.name
            assert any("/_images/" in target for target in page.loads), path.name
            assert 'class="drawn' in text or "drawn" in text
        assert "\\frac" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)


@pytest.mark.slow
def test_every_public_object_is_documented(site: Path):
    text = "".join(path.read_text(encoding="utf-8") for path in (site / "reference").glob("*.html"))
    for name in tconv_bench.__all__:
        assert f'id="tconv_bench.{name}"' in text or f'id="module-tconv_bench.{name}"' in text
    assert "Alias for field" not in text
    upsample = import_module("tconv_bench.upsample")
    assert [name for name in upsample.__all__ if f'id="tconv_bench.upsample.{name}"' not in text] == []
