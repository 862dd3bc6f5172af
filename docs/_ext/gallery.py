"""The gallery's settings, the order of its examples, and how it finds figures that pyplot does not know."""

from __future__ import annotations

import shutil
from hashlib import sha256
from pathlib import Path
from textwrap import indent
from typing import Any

from matplotlib.figure import Figure
from sphinx_gallery.scrapers import figure_rst, matplotlib_scraper

FIRST = ("plot_one_pixel_one_stamp.py", "plot_the_two_texts.py", "plot_choose_a_method.py")


def settings(docs: Path) -> dict[str, Any]:
    """Every ``examples/plot_*.py`` is run and shown; one that fails fails the build.

    Pages are kept while neither their script nor the package changes.
    """
    sources = sorted((docs.parent / "tconv_bench").rglob("*.py"))
    mark, now = docs / "gallery" / "package", sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    if not mark.exists() or mark.read_text() != now:
        shutil.rmtree(docs / "gallery", ignore_errors=True)
        mark.parent.mkdir()
        mark.write_text(now)
    return {
        "examples_dirs": str(docs.parent / "examples"),
        "gallery_dirs": "gallery",
        "ignore_pattern": r"(^|/)_",
        "image_scrapers": ("gallery.pyplot_figures", "gallery.shown_figures"),
        "within_subsection_order": "gallery.Order",
        "abort_on_example_error": True,
        "write_computation_times": False,
        "show_signature": False,
        "download_all_examples": False,
        "remove_config_comments": True,
        "reset_argv": "gallery.arguments",
    }


def arguments(gallery_conf: dict[str, Any], script_vars: dict[str, Any]) -> list[str]:
    """What a script is called with: where its figure goes, as seen from ``examples``; and its ``__file__``, as in Python."""
    script = script_vars["src_file"]
    script_vars["example_globals"]["__file__"] = script
    return [f"../docs/_build/examples/{Path(script).stem}.png"]


class Order:
    """The first ones to read, then the others by name."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __call__(self, name: str) -> tuple[int, str]:
        """What a file is sorted by."""
        return FIRST.index(name) if name in FIRST else len(FIRST), name


def shown_figures(block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Images of the figures that a block of an example assigned to a name; what pyplot made is its own scraper's."""
    names = block_vars["example_globals"]
    seen = names.setdefault("_figures_shown", [])
    paths = []
    for value in list(names.values()):
        if isinstance(value, Figure) and not hasattr(value, "number") and not any(value is figure for figure in seen):
            seen.append(value)
            paths.append(next(block_vars["image_path_iterator"]))
            value.savefig(paths[-1], dpi=150)
    return sheet(figure_rst(paths, gallery_conf["src_dir"]))


def pyplot_figures(block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Images of the figures that pyplot knows."""
    return sheet(matplotlib_scraper(block, block_vars, gallery_conf))


def sheet(images: str) -> str:
    """Images in the box in which they scroll on a phone."""
    return f".. container:: sheet\n\n{indent(images, '    ')}\n" if images.strip() else images
