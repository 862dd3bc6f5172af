"""Names in double backticks become links where they are names of the reference: docstrings stay readable as they are."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.nodes import make_refnode

_NOT_IN = (nodes.reference, nodes.title, nodes.literal_block)
_BARE = ("tconv_bench", "tconv_bench.checkerboard", "tconv_bench.figures", "tconv_bench.upsample")


class Names(SphinxPostTransform):
    """``conv_transpose2d`` and ``Problem.flops`` lead to their descriptions; a name that two objects have leads nowhere."""

    default_priority = 20

    def run(self, **kwargs: Any) -> None:
        """Wrap every such literal in a reference."""
        known = self.known()
        for literal in list(self.document.findall(nodes.literal)):
            found = known.get(literal.astext().removesuffix("()"), [])
            if len(found) != 1 or any(isinstance(parent, _NOT_IN) for parent in _parents(literal)):
                continue
            (docname, anchor) = found[0]
            if (docname, anchor) not in _homes(literal, self.env.docname):
                literal.replace_self(make_refnode(self.app.builder, self.env.docname, docname, anchor, literal.deepcopy()))

    def known(self) -> dict[str, list[tuple[str, str]]]:
        """(page, anchor) of objects by full names, with and without the package's; users' ones by the last name too."""
        found: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
        for full, entry in self.env.get_domain("py").objects.items():
            if entry.aliased or entry.objtype in ("module", "attribute"):
                continue
            home, _, name = full.rpartition(".")
            for text in {full, full.removeprefix("tconv_bench."), name if home in _BARE else full}:
                found[text].append((entry.docname, entry.node_id))
        return found


def _parents(node: nodes.Node) -> list[nodes.Node]:
    found = []
    while node.parent is not None:
        node = node.parent
        found.append(node)
    return found


def _homes(node: nodes.Node, docname: str) -> set[tuple[str, str]]:
    """The objects whose description a node stands in."""
    signatures = [parent[0] for parent in _parents(node) if parent.tagname == "desc"]
    return {(docname, anchor) for signature in signatures for anchor in signature.get("ids", [])}


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the transform."""
    app.add_post_transform(Names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
