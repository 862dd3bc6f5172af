"""How the documentation is built: ``make docs``. Nothing in it asks the network, when it is built or when it is read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import ziamath

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

import gallery  # noqa: E402

from tconv_bench import __version__ as release  # noqa: E402

project, author, copyright = "tconv_bench", "The tconv_bench founders", "the tconv_bench founders"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
    "drawn",
    "mathml",
    "names",
    "root_texts",
]
exclude_patterns = ["_build", "_ext", "gallery/**.ipynb", "gallery/**.py", "gallery/**.md5"]
nitpicky = True

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say shapes and dtypes, which types can't
napoleon_numpy_docstring = False
napoleon_use_param = False  # "stride, dilation: ..." names several at once
napoleon_use_rtype = False

sphinx_gallery_conf = gallery.settings(HERE)

html_theme = "furo"
html_title = f"tconv_bench {release}"
# The math font of ziamath's wheel: STIX Two Math, SIL Open Font License.
html_static_path = ["_static", str(Path(ziamath.__file__).parent / "fonts" / "STIXTwoMath-Regular.ttf")]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#00568a", "color-brand-content": "#00568a"},
    "dark_css_variables": {"color-brand-primary": "#6cb6ff", "color-brand-content": "#6cb6ff"},
}


def keep_colons(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Napoleon reads "Mode: one of these" as a type in a property's first line; so that is an empty comment."""
    if lines and lines[0].startswith("Alias for field number"):
        lines.clear()  # what a NamedTuple says of a field that has no comment
    if what in ("attribute", "property"):
        lines[:0] = ["..", ""]


def setup(app: Any) -> None:
    """Before napoleon, which listens at 500."""
    app.connect("autodoc-process-docstring", keep_colons, priority=400)
