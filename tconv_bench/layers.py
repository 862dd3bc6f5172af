"""The layers of real networks: rows of a CSV file, each a labelled Problem."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tconv_bench.problem import Problem

COLUMNS = (
    "network", "layer", "n", "c_in", "input", "c_out", "kernel", "stride", "padding", "output_padding", "groups", "dilation",
    "source",
)  # fmt: skip
DEFAULT = Path(__file__).resolve().parent.parent / "benchmarks" / "layers.csv"


class LayersError(ValueError):
    """A layers file that cannot be used; one line that names the file, the line in it and the value."""


@dataclass(frozen=True)
class Layer:
    """A layer of a published network: its label is unique in its file, ``source`` says where the sizes come from."""

    label: str
    problem: Problem
    source: str


def read(path: Path | str = DEFAULT) -> list[Layer]:
    """The layers of a CSV file whose header is ``COLUMNS``, in the file's order.

    Sizes are written as ``4x4``, one number per axis; the label is "network layer", with " N=64" where the batch is not 1.

    Raises:
        LayersError: a file that is missing or no text, a missing column, a value that makes no Problem, a label twice.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise LayersError(f"{path}, line 1: missing column {', '.join(missing)}; expected {','.join(COLUMNS)}")
            layers = [_layer(row, f"{path}, line {reader.line_num}") for row in reader]
    except OSError as error:
        raise LayersError(f"{path}: cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise LayersError(f"{path}: not a CSV file in UTF-8 ({error})") from None
    if not layers:
        raise LayersError(f"{path}: holds no layer")
    _check_unique(layers, path)
    return layers


@cache
def _places() -> dict[str, int]:
    try:
        return {layer.label: place for place, layer in enumerate(read())}
    except LayersError:  # an installed package may be without the file
        return {}


def place(label: str) -> int:
    """Where a label, or its layer with another batch, stands among the project's own layers; behind them all if nowhere."""
    places = _places()
    return places.get(label, places.get(re.sub(r" N=\d+$", "", label), len(places)))


def _layer(row: dict[str, Any], where: str) -> Layer:
    absent = [name for name in COLUMNS if row.get(name) in (None, "")]
    if absent:
        raise LayersError(f"{where}: no value for {', '.join(absent)}")
    size = _sizes(row, "input", where)
    names = ("kernel", "stride", "padding", "output_padding", "dilation")
    per_axis: dict[str, Any] = {name: _sizes(row, name, where) for name in names}
    n, c_in, c_out, groups = (_integer(row[name], name, where) for name in ("n", "c_in", "c_out", "groups"))
    try:
        problem = Problem(n, c_in, size, c_out, groups=groups, **per_axis)
    except (ValueError, TypeError) as error:
        raise LayersError(f"{where}: {error}") from None
    label = f"{row['network']} {row['layer']}" + (f" N={n}" if n != 1 else "")
    return Layer(label, problem, row["source"])


def _sizes(row: dict[str, Any], name: str, where: str) -> tuple[int, ...]:
    return tuple(_integer(part, name, where, row[name]) for part in row[name].split("x"))


def _integer(text: str, name: str, where: str, whole: str = "") -> int:
    try:
        return int(text)
    except ValueError:
        form = "whole numbers joined by x, one per axis" if whole else "a whole number"
        raise LayersError(f"{where}: {name} is {whole or text!r}, but must be {form}") from None


def _check_unique(layers: list[Layer], path: Path | str) -> None:
    seen = set()
    for layer in layers:
        if layer.label in seen:
            raise LayersError(f"{path}: the label {layer.label!r} stands there twice")
        seen.add(layer.label)
