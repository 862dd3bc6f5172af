"""Docstrings of what the reference shows: every parameter is named, errors are said, and what computes has a source.

A docstring may send its reader to another one, as in "sizes as for ``conv_transpose2d``"; what that one says counts.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

REFERENCE = Path(__file__).parent.parent / "docs" / "reference"
#: Pages for those who compute, which say what is raised.
USERS = ("checkerboard", "convolution", "figures", "gradients", "plan", "problem", "upsample")
#: Those of them whose functions come from a paper or another library.
SOURCED = ("convolution", "figures", "gradients", "upsample")
SIZES = {"counts", "device", "in_size", "input_shape", "kernel", "kernels", "scale", "stride", "strides", "weight", "x"}
GIVEN = {"self", "cls", "args", "kwargs"}
DIRECTIVE = re.compile(r"^\.\. auto(\w+):: ([\w.]+).*\n((?:   :.*\n)*)", re.MULTILINE)


def resolved(kind: str, name: str) -> Any:
    """What a directive names: a module, or what a module holds."""
    if kind == "module":
        return import_module(name)
    home, _, key = name.rpartition(".")
    return getattr(import_module(home or "tconv_bench"), key)


def documented(home: Any, options: str) -> list[Any]:
    """What ``automodule`` shows of a module: the members that are listed, those of ``__all__``, or its own."""
    listed = re.search(r":members: (.+)", options)
    excluded = re.search(r":exclude-members: (.+)", options)
    own = [key for key, value in vars(home).items() if getattr(value, "__module__", "") == home.__name__]
    keys = listed[1].split(", ") if listed else getattr(home, "__all__", own)
    return [getattr(home, key) for key in keys if not key.startswith("_") and key not in (excluded[1] if excluded else "")]


def shown(page: str) -> dict[str, Any]:
    """Functions, classes and methods of a page of the reference, by their full names."""
    found: dict[str, Any] = {}
    for kind, name, options in DIRECTIVE.findall((REFERENCE / f"{page}.md").read_text(encoding="utf-8")):
        value = resolved(kind, name)
        for entry in documented(value, options) if kind == "module" else [value]:
            if not (inspect.isfunction(entry) or inspect.isclass(entry)):
                continue
            found[full := f"{entry.__module__}.{entry.__qualname__}"] = entry
            for part, method in vars(entry).items() if inspect.isclass(entry) else ():
                function = getattr(method, "__func__", method)
                if inspect.isfunction(function) and (not part.startswith("_") or part == "__call__"):
                    found[f"{full}.{part}"] = function
    return found


PAGES = {path.stem: shown(path.stem) for path in REFERENCE.glob("*.md")}
ALL = {name: value for page in PAGES.values() for name, value in page.items()}
FUNCTIONS = {name: value for name, value in ALL.items() if inspect.isfunction(value)}
each = pytest.mark.parametrize("name", ALL)
each_function = pytest.mark.parametrize("name", FUNCTIONS)


def told(value: Any, seen: frozenset[str] = frozenset()) -> str:
    """A docstring, and those of the functions that it names."""
    text = inspect.getdoc(value) or ""
    for word in re.findall(r"``([A-Za-z_0-9.]+)(?:\(\))?``", text):
        for other, function in ALL.items():
            if word not in seen and (other.endswith(f".{word}")) and function is not value:
                text += "\n" + told(function, seen | {word})
    return text


def raised(function: Callable[..., Any]) -> set[str]:
    """Errors that a function's own lines raise on purpose."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    calls = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)]
    return {name for call in calls if (name := ast.unparse(call.func)).endswith("Error")}


@each
def test_there_is_one_and_its_first_paragraph_is_whole(name: str):
    first, *_ = (inspect.getdoc(ALL[name]) or "").split("\n\n")
    assert first.rstrip().endswith((".", "::", ":")), f"{name}: {first!r}"


@each_function
def test_every_parameter_is_named(name: str):
    function = FUNCTIONS[name]
    parameters = set(inspect.signature(function).parameters) - GIVEN
    text = told(function)
    owner = ALL.get(name.rpartition(".")[0])
    text += told(owner) if owner else ""
    assert {parameter for parameter in parameters if not re.search(rf"\b{parameter}\b", text)} == set()


@each_function
def test_what_is_raised_is_said(name: str):
    text = told(FUNCTIONS[name])
    assert {error for error in raised(FUNCTIONS[name]) if error not in text} == set()


@pytest.mark.parametrize("name", [name for page in SOURCED for name in PAGES[page] if name in FUNCTIONS])
def test_arrays_have_shapes(name: str):
    if {"x", "weight", "grad_out", "indices"} & set(inspect.signature(FUNCTIONS[name]).parameters):
        assert re.search(r"``\(.+,.*\)``", told(FUNCTIONS[name]))


@pytest.mark.parametrize("name", [name for page in USERS for name in PAGES[page] if name in FUNCTIONS])
def test_what_takes_sizes_says_what_it_raises(name: str):
    if SIZES & set(inspect.signature(FUNCTIONS[name]).parameters):
        assert re.search(r"Raises|ValueError|TypeError", told(FUNCTIONS[name]))


@pytest.mark.parametrize(
    "name", [n for page in SOURCED for n in PAGES[page] if n in FUNCTIONS and n.rpartition(".")[2] not in ("save", "save_gif")]
)
def test_what_computes_names_its_source(name: str):
    home = inspect.getmodule(FUNCTIONS[name])
    assert "Source:" in told(FUNCTIONS[name]) + (inspect.getdoc(home) or "")
