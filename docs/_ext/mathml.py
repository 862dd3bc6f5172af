"""Formulas as MathML, which browsers draw themselves: no script, and nothing from the network."""

from __future__ import annotations

import re
from typing import Any, Literal

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

_PUNCTUATION = re.compile(r"[.,:;)]+")
# A bracket grows with all that is in its row: each matrix gets a row of its own.
_MATRIX = re.compile(r"<mo>&#x0005B;</mo><mtable>.*?</mtable><mo>&#x0005D;</mo>")


def mathml(latex: str, display: Literal["inline", "block"]) -> str:
    """A formula as a ``<math>`` element.

    >>> mathml("x", "inline")
    '<math xmlns="http://www.w3.org/1998/Math/MathML" display="inline"><mrow><mi>x</mi></mrow></math>'
    """
    return _MATRIX.sub(lambda found: f"<mrow>{found[0]}</mrow>", convert(latex, display=display))


class Joined(SphinxPostTransform):
    """Punctuation after a formula becomes part of it, since browsers break lines between the two."""

    default_priority = 30

    def run(self, **kwargs: Any) -> None:
        """Take it from the text behind and keep it as the formula's ``tail``."""
        for formula in list(self.document.findall(nodes.math)):
            behind = formula.next_node(descend=False, siblings=True)
            if isinstance(behind, nodes.Text) and (found := _PUNCTUATION.match(behind)):
                formula["tail"] = found[0]
                behind.parent.replace(behind, nodes.Text(behind[found.end() :]))


def visit_inline(writer: Any, node: nodes.math) -> None:
    """``$...$``."""
    formula = mathml(node.astext(), "inline")
    writer.body.append(f'<span class="joined">{formula}{node["tail"]}</span>' if "tail" in node else formula)
    raise nodes.SkipNode


def visit_block(writer: Any, node: nodes.math_block) -> None:
    """``$$...$$``; wide ones scroll in their own box."""
    writer.body.append(f'<div class="formula">{mathml(node.astext(), "block")}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the renderer ``mathml``."""
    app.add_post_transform(Joined)
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
