"""Figures as small SVG files whose type stays type: a table of 700 coloured cells takes a fifth of the bytes of its PNG.

matplotlib repeats the whole style at each element, wraps each in a group with an id, and writes a box as four lines. Here
equal styles become one class, names become short, groups without a purpose go, and coordinates are cut to a tenth of a point
(of markers: a hundredth).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from xml.etree import ElementTree

from matplotlib.figure import Figure

from tconv_bench.plots import style

_SVG = "http://www.w3.org/2000/svg"
_LINK = "http://www.w3.org/1999/xlink"
_FONTS = "'DejaVu Sans', Verdana, sans-serif"  # Verdana's letters are as wide, where DejaVu is missing
_NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?|-?\d+")
_BOX = re.compile(r"^M(\S+) (\S+) (\S+) (\S+) (\S+) (\S+) (\S+) (\S+)z$")
_HREF = f"{{{_LINK}}}href"
_REFERENCE = re.compile(r"url\(#([\w-]+)\)")
_LOCAL = re.compile(r"^#([\w-]+)$")


def save(figure: Figure, folder: Path, name: str) -> Path:
    """Write ``name``.svg; the same figure gives the same bytes."""
    content = StringIO()
    style.write(figure, content, fonttype="none", format="svg", metadata={"Date": None, "Creator": None})
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.svg"
    path.write_text(compact(content.getvalue()), encoding="utf-8", newline="\n")
    return path


def compact(svg: str) -> str:
    """The same picture in fewer bytes."""
    ElementTree.register_namespace("", _SVG)
    root = ElementTree.fromstring(svg)
    for metadata in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(metadata)
    names: dict[str, str] = {}
    for node in root.iter():
        for name in [*_REFERENCE.findall(" ".join(node.attrib.values())), *_LOCAL.findall(node.get(_HREF, ""))]:
            names.setdefault(name, f"i{_letters(len(names))}")
    classes: dict[str, str] = {}
    _lean(root, names, classes, digits=1)
    rules = "".join(f".{name}{{{text}}}" for text, name in classes.items())
    sheet = ElementTree.Element(f"{{{_SVG}}}style")
    sheet.text = f"*{{stroke-linejoin:round;stroke-linecap:butt}}text{{font-family:{_FONTS}}}{rules}"
    root.insert(0, sheet)
    return ElementTree.tostring(root, encoding="unicode").replace(" />", "/>")


def _lean(node: ElementTree.Element, names: dict[str, str], classes: dict[str, str], digits: int) -> None:
    for child in list(node):
        _lean(child, names, classes, digits=2 if child.tag.endswith("}defs") else digits)
    _attributes(node, names, classes, digits)
    if not node.tag.endswith(("}text", "}tspan")):
        node.text = None
    kept: list[ElementTree.Element] = []
    for child in node:
        child.tail = None
        bare = child.tag.endswith("}g") and not child.attrib
        empty = child.tag.endswith(("}g", "}defs")) and not len(child)
        kept += list(child) if bare else [] if empty or child.tag.endswith("}style") else [child]
    node[:] = kept
    shared = {child.get("class") for child in node}
    if node.tag.endswith("}g") and len(node) > 1 and len(shared) == 1 and "class" not in node.attrib and None not in shared:
        node.set("class", str(shared.pop()))
        for child in node:
            del child.attrib["class"]


def _attributes(node: ElementTree.Element, names: dict[str, str], classes: dict[str, str], digits: int) -> None:
    if node.get("id") not in names:
        node.attrib.pop("id", None)
    else:
        node.set("id", names[node.attrib["id"]])
    for name, value in list(node.attrib.items()):
        node.set(name, _REFERENCE.sub(lambda found: f"url(#{names[found[1]]})", value))
    if _HREF in node.attrib:
        node.set("href", _LOCAL.sub(lambda found: f"#{names[found[1]]}", node.attrib.pop(_HREF)))
    if "style" in node.attrib:
        text = re.sub(r"\s*([:;])\s*", r"\1", node.attrib.pop("style")).replace("font-family:'DejaVu Sans';", "")
        node.set("class", classes.setdefault(text, _letters(len(classes))))
    if re.match(r"rotate\(-?0 ", node.get("transform", "")):
        del node.attrib["transform"]
    fine = 3 if node.tag.endswith("}image") else digits  # an image's scale is multiplied by its pixels
    for name in ("x", "y", "transform", "width", "height"):
        if name in node.attrib:
            node.set(name, _NUMBER.sub(_rounder(fine), node.attrib[name]))
    if "d" in node.attrib:
        node.set("d", _path(node.attrib["d"], digits))


def _letters(number: int) -> str:
    """a, b, ..., z, aa, ab, ..."""
    return (_letters(number // 26 - 1) if number >= 26 else "") + chr(97 + number % 26)


def _rounder(digits: int) -> Callable[[re.Match[str]], str]:
    def rounded(match: re.Match[str]) -> str:
        text = f"{float(match[0]):.{digits}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
        return "0" if text == "-0" else text

    return rounded


def _path(d: str, digits: int) -> str:
    """A path's text: lines after the first need no letter, and a box is two lengths.

    >>> _path("M 1.04 2 L 3 2 L 3 5 L 1.04 5 z", 1), _path("M 0 0.123 L 4 5 Q 1 2 3 4", 2)
    ('M1 2h2v3h-2z', 'M0 0.12L4 5Q1 2 3 4')
    """
    text = " ".join(_NUMBER.sub(_rounder(digits), d).split())
    text = re.sub(r" ?([A-Za-z]) ?", r"\1", text)
    box = _BOX.match(re.sub(r"(?<=\d)L", " ", text))
    if box:
        x, y, right, top, far, bottom, left, last = map(float, box.groups())
        if (y, right, bottom, left) == (top, far, last, x):
            cut = _rounder(digits)
            sizes = [_NUMBER.sub(cut, f"{value:.6f}") for value in (x, y, right - x, bottom - y, x - right)]
            return f"M{sizes[0]} {sizes[1]}h{sizes[2]}v{sizes[3]}h{sizes[4]}z"
    return text
