"""Stored asv results to pages that open offline, from the disk as well as from any static web server.

The pages are those of ``asv publish``. Their scripts, which asv takes from public servers, are copied from ``vendor/asv``; the
published JSON, which a page opened from the disk may not read, is carried by a script as well and served to asv's code from
there; the links behind commits lead to a page of their own.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tconv_bench import suite

VENDOR = Path(__file__).parent / "vendor" / "asv"
_CDNJS = "https://cdnjs.cloudflare.com/ajax/libs"
_JSDELIVR = "https://cdn.jsdelivr.net/npm"
VENDORED = {
    "https://code.jquery.com/jquery-3.3.1.min.js": "jquery.min.js",
    f"{_CDNJS}/flot/0.8.3/jquery.flot.min.js": "jquery.flot.js",
    f"{_CDNJS}/flot/0.8.3/jquery.flot.time.min.js": "jquery.flot.time.js",
    f"{_CDNJS}/flot/0.8.3/jquery.flot.selection.min.js": "jquery.flot.selection.js",
    f"{_CDNJS}/flot/0.8.3/jquery.flot.categories.min.js": "jquery.flot.categories.js",
    f"{_JSDELIVR}/flot-orderbars@1.0.0/js/jquery.flot.orderBars.js": "jquery.flot.orderBars.js",
    f"{_CDNJS}/stupidtable/1.0.1/stupidtable.min.js": "stupidtable.min.js",
    f"{_CDNJS}/blueimp-md5/2.19.0/js/md5.min.js": "md5.min.js",
    f"{_JSDELIVR}/bootstrap@3.1.1/dist/js/bootstrap.min.js": "bootstrap.min.js",
    f"{_JSDELIVR}/bootstrap@3.1.1/dist/css/bootstrap.min.css": "bootstrap.min.css",
}
_TAG = re.compile(r'<(?P<name>script|link)\b[^>]*?\b(?P<attribute>src|href)="(?P<address>(?:https?:)?//[^"]*)"[^>]*>', re.I)
_ANCHOR = re.compile(r"<a\b[^>]*>", re.I)
_REMOTE = re.compile(r"""(?:["'`=]|\burl\(\s*)((?:https?:)?//[\w\[][^"'`)\s>]*)""", re.I)
_HEAD_END = "</head>"

# done() waits until the document and asv's scripts are ready. A line through one point is invisible: it becomes a dot.
# flot-orderbars reckons with the x values, which are names here, and loses all bars but the middle one: they are placed anew.
_OFFLINE = """\
"use strict";
(function ($) {
const files = FILES;
$.ajaxTransport("+*", function (options) {
  const path = options.url.split("?")[0];
  const text = files[path] ?? files[decodeURIComponent(path)];
  const answer = text === undefined ? [404, "Not Found"] : [200, "OK", { text }];
  return { send: (headers, done) => $(() => done(...answer)), abort: () => {} };
});
function prepare(plot, series, data) {
  series.bars.order = null;
  if (data.length === 1 && !series.bars.show && !series.points.show) {
    series.points.show = true;
    series.yaxis.options.autoscaleMargin = 1;
  }
}
function placeBars(plot, series, { points, pointsize }) {
  const all = plot.getData();
  const shift = (all.indexOf(series) - (all.length - 1) / 2) * series.bars.barWidth;
  for (let i = 0; series.bars.show && i < points.length; i += pointsize) {
    points[i] = points[i] === null ? null : points[i] + shift;
  }
}
$.plot.plugins.push({
  init: (plot) => {
    plot.hooks.processRawData.push(prepare);
    plot.hooks.processDatapoints.push(placeBars);
  },
});
})(jQuery);
"""

_COMMITS = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>commits</title>
<style>
body {{ font: 14px sans-serif; margin: 2em; }}
table {{ border-collapse: collapse; }}
td {{ padding: 4px 12px; }}
tr:target {{ background: #fbeeb8; }}
</style>
</head>
<body>
<p><a href="index.html">Benchmarks</a></p>
<table>
{rows}
</table>
</body>
</html>
"""


class SiteError(suite.SuiteError):
    """The pages cannot be made; one line that says why."""


def choose() -> tuple[Path, str]:
    """(folder of stored results, a note): the saved history, with no note, else the newest other results.

    Raises:
        SiteError: no result is stored.
    """
    base = suite.root() / ".asv"
    if _newest(base / "results"):
        return base / "results", ""
    folder = max([*base.glob("changed/*"), *base.glob("quick/*")], key=_newest, default=base)
    if not _newest(folder):
        raise SiteError(_no_results(base))
    kind = "quick results" if folder.parent.name == "quick" else "results of changed sources"
    return folder, f"no saved history in {base / 'results'}: these are {kind} from {folder}"


def _newest(folder: Path) -> float:
    """When the newest result below the folder was written; 0.0 where there is none."""
    files = (path for path in folder.glob("*/*.json") if path.name != "machine.json")
    return max((path.stat().st_mtime for path in files), default=0.0)


def _no_results(folder: Path) -> str:
    return f"no results in {folder}: run `tconv-bench run --profile quick` (or standard, or full) first"


def publish(results_dir: Path, output: Path, *, say: Callable[[str], None] = lambda note: None) -> Path:
    """Write the pages of the results into ``output``, in place of an earlier site there; returns ``index.html``.

    Args:
        results_dir: a folder as ``tconv-bench run`` or ``asv run`` leaves it.
        output: a new or empty folder, or an earlier site.
        say: called with each warning of asv, such as results of commits outside of the branch.

    Raises:
        SiteError: no results, no asv, no git history, an output folder with other files in it, or an asv whose page asks for
            something remote that is not shipped here. An earlier site then stays as it is.
    """
    if not _newest(results_dir):
        raise SiteError(_no_results(results_dir))
    earlier = (output / "asv.js").is_file() and (output / "index.json").is_file()
    if output.exists() and not earlier and not (output.is_dir() and not any(output.iterdir())):
        raise SiteError(f"{output} holds something else than an earlier site; choose another folder")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".site-") as temporary:
        folder = Path(temporary) / "html"
        _run_asv(results_dir, folder, say)
        _make_local(folder)
        if output.exists():
            shutil.rmtree(output)
        folder.rename(output)
    return output / "index.html"


def _run_asv(results_dir: Path, folder: Path, say: Callable[[str], None]) -> None:
    try:
        import asv.commands.publish
        import asv.config
        import asv.plugin_manager  # registers the kinds of pages and repositories
        import asv.util
    except ImportError as error:
        raise SiteError(f"asv is not installed ({error}): pip install 'tconv-bench[bench]'") from None
    root = suite.root()
    if not (root / ".git").exists():
        raise SiteError(f"{root} has no git history: asv draws results along the commits of a clone of the project")
    conf: Any = asv.config.Config.load(str(root / "asv.conf.json"))
    conf.repo, conf.results_dir, conf.html_dir = str(root), str(results_dir.resolve()), str(folder.resolve())
    if conf.show_commit_url == "#":
        conf.show_commit_url = "commits.html#"
    with suite.collected_log() as messages:
        try:
            asv.commands.publish.Publish.run(conf, pull=False)
        except (asv.util.UserError, asv.util.ProcessError, OSError) as error:
            raise SiteError(f"asv cannot publish {results_dir}: {error}") from None
    for message in dict.fromkeys(messages):
        say(f"asv: {message}")
    if not (folder / "graphs").is_dir():
        branches = ", ".join(map(str, conf.branches))
        raise SiteError(f"no result in {results_dir} is of a commit in the history of {branches}: check out its branch")
    _write_commits(folder, root)


def _write_commits(folder: Path, root: Path) -> None:
    """The page behind the links of commits: their hashes, dates and subjects, newest first."""
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    command = ["git", "-C", str(root), "log", "--no-walk", "--no-show-signature", "--format=%H%x09%cs%x09%s"]
    command += index["revision_to_hash"].values()
    log = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", errors="replace", check=True)
    commits = [html.escape(line).split("\t", 2) for line in log.stdout.strip("\n").split("\n")]
    size = index["hash_length"]
    rows = [f'<tr id="{full[:size]}"><td><code>{full[:size]}</code><td>{date}<td>{subject}' for full, date, subject in commits]
    (folder / "commits.html").write_text(_COMMITS.format(rows="\n".join(rows)), encoding="utf-8")


def _make_local(folder: Path) -> None:
    """Take every script and style from the folder itself, and carry its JSON files in ``offline.js``."""
    files = {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in folder.rglob("*.json")}
    files["swallow.ico"] = ""  # asv asks for it to tell missing data from a missing server
    shutil.copytree(VENDOR, folder / "vendor")
    for page in folder.glob("*.html"):
        text = _TAG.sub(_local_tag, page.read_text(encoding="utf-8"))
        if page.name == "index.html":
            text = text.replace(_HEAD_END, f'<script src="offline.js"></script>\n{_HEAD_END}')
        page.write_text(text, encoding="utf-8")
    remote = remote_references(folder)
    if remote:
        raise SiteError(f"asv's pages ask for what is not shipped in {VENDOR}: {', '.join(remote)}")
    (folder / "offline.js").write_text(_OFFLINE.replace("FILES", json.dumps(files, sort_keys=True)), encoding="utf-8")


def _local_tag(match: re.Match[str]) -> str:
    """The tag with its file from the package; one of an unknown address as it is."""
    name = VENDORED.get(match["address"])
    if name is None:
        return match[0]
    return f'<script src="vendor/{name}">' if match["name"] == "script" else f'<link rel="stylesheet" href="vendor/{name}">'


def remote_references(folder: Path) -> list[str]:
    """Addresses of other servers that pages, scripts or styles of a site would load, sorted; links to follow do not count."""
    found = set()
    for path in folder.rglob("*"):
        if path.suffix in (".html", ".js", ".css"):
            text = path.read_text(encoding="utf-8")
            found.update(_REMOTE.findall(_ANCHOR.sub("", text) if path.suffix == ".html" else text))
    return sorted(found)
