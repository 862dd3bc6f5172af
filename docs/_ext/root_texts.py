"""Pages that are texts of the repository's root (ARCHITECTURE.md, ...): read where they lie, with links that lead to pages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

PAGES = {f"project/{name}": f"{name.upper()}.md" for name in ("architecture", "contributing", "changelog")}
_LINK = re.compile(r"\]\((?!https?:|#)([^)\s]+)\)")


def page_of(target: str) -> str:
    """A link of the root's texts, seen from ``docs/project``."""
    path, mark, anchor = target.partition("#")
    pages = {file: page.partition("/")[2] + ".md" for page, file in PAGES.items()}
    if path == "README.md":
        path = "../index.md"
    elif path in pages:
        path = pages[path]
    else:
        path = f"../{path.removeprefix('docs/')}" if path.startswith("docs/") else f"../../{path}"
    return path + mark + anchor


def read(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the root's text in place of the page's."""
    if docname in PAGES:
        text = (Path(app.srcdir).parent / PAGES[docname]).read_text(encoding="utf-8")
        source[0] = _LINK.sub(lambda found: f"]({page_of(found[1])})", text)
        app.env.note_dependency(str(Path(app.srcdir).parent / PAGES[docname]))


def setup(app: Sphinx) -> dict[str, Any]:
    """Listen to what is read."""
    app.connect("source-read", read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
