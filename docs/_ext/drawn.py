"""``drawn``: a directive whose body is Python that ends in a figure; the page shows the code and the figure.

::

    ```{drawn}
    :alt: Four stamps that overlap
    figures.stamps([[1, 2], [3, 4]], [[5, 5], [5, 5]])
    ```

``figures``, ``Problem`` and ``np`` are there. A figure is drawn again only where its code or the package's figures changed.
"""

from __future__ import annotations

import ast
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from tconv_bench import Problem, checkerboard, figures

FOLDER = "_build/drawn"


class Drawn(SphinxDirective):
    """Code, and below it the figure that its last line is."""

    has_content = True
    option_spec = {"alt": directives.unchanged_required, "hidden": directives.flag}  # noqa: RUF012

    def run(self) -> list[nodes.Node]:
        """Draw the figure unless its file is there."""
        code = "\n".join(self.content)
        path = Path(self.env.srcdir) / FOLDER / f"{sha256((code + _sources()).encode()).hexdigest()[:16]}.svg"
        if not path.exists():
            figures.save(evaluate(code), path.parent, path.stem, "svg")
        shown = nodes.literal_block(code, code, language="python")
        image = nodes.image(uri=f"/{FOLDER}/{path.name}", alt=self.options["alt"], classes=["drawn"])
        sheet = nodes.container("", image, classes=["sheet"])
        return [sheet] if "hidden" in self.options else [shown, sheet]


def evaluate(code: str) -> Any:
    """The value of the last line, run after the ones before it."""
    *before, last = ast.parse(code).body
    if not isinstance(last, ast.Expr):
        raise ValueError(f"the last line of {code!r} is no expression, but must be a figure")
    names: dict[str, Any] = {"figures": figures, "Problem": Problem, "checkerboard": checkerboard, "np": np}
    exec(compile(ast.Module(before, []), "<drawn>", "exec"), names)
    return eval(compile(ast.Expression(last.value), "<drawn>", "eval"), names)


@cache
def _sources() -> str:
    """What the figures are drawn by."""
    package = Path(figures.__file__).parent.parent
    return "".join(path.read_text() for folder in ("figures", "plots") for path in sorted((package / folder).glob("*.py")))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("drawn", Drawn)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
