"""What was measured, and where it lies: Measurement rows as JSON lines, and asv's result files read into the same rows.

One row holds one method on one problem: the samples of its run time, its preparation, its memory, and the machine,
versions and commit they came from. Files are append-only; a row is one line, written at once.
"""

from __future__ import annotations

import ast
import gzip
import json
import math
import os
import re
import statistics
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime, timezone
from itertools import product
from pathlib import Path
from typing import Any

from tconv_bench import registry
from tconv_bench.problem import Problem

SCHEMA = 1


class StoreError(ValueError):
    """A results file that cannot be read or written; the message names the file, and the line where there is one."""


@dataclass(frozen=True)
class Measurement:
    """One method on one problem, on one machine.

    Times are seconds, sizes bytes. ``median`` is None where nothing was timed, and ``note`` says why (a sentence of
    ``supports``, or "wrong result: ..."). ``low`` and ``high`` bound the median's 95 % confidence interval.
    """

    suite: str  # "layers", "sizes", "channels", "kernels", "strides_paddings", "dimensions", "cli" or "compare"
    label: str  # a layer's name such as "DCGAN g2", or the problem's own text
    problem: str  # Problem's text form
    method: str
    device: str = "cpu"
    median: float | None = None
    low: float | None = None
    high: float | None = None
    minimum: float | None = None
    samples: tuple[float, ...] = ()
    prepare_seconds: float | None = None
    prepared_bytes: int | None = None
    workspace_bytes: int | None = None
    note: str = ""
    threads: int | None = None
    measured_at: str = ""  # ISO 8601, UTC
    machine: dict[str, Any] = field(default_factory=dict)  # name, cpu, arch, cores, ram, os
    versions: dict[str, str] = field(default_factory=dict)
    commit: str = ""
    profile: str = ""  # "quick", "standard", "full" or ""
    # What follows is filled by `tconv-bench compare` alone.
    mode: str = ""  # "one-shot" (each call packs the weights) or "planned" (packed before); never compared with each other
    cache: str = ""  # "hot" (called again at once) or "flushed" (the caches emptied before each call)
    peer: bool = False  # another engine, not one of this project's variants
    layout: str = ""  # "channels-first", or "channels-last" for an entrant that takes and gives that memory order
    control: bool = False  # the second copy of the same code: the A/A control
    revision: str = ""  # the commit that a `--against` entrant was built from
    group: str = ""  # sets that were interleaved with each other share it; only those are compared
    gflops: float | None = None  # Problem.flops / median / 1e9
    roofline: float | None = None  # the roofline's least time / median, see ceilings.least_seconds
    ceilings: dict[str, Any] = field(default_factory=dict)  # what the machine can do, measured in the same run
    workspace_by: str = ""  # "memray" (native allocations too) or "tracemalloc" (NumPy's and Numba's)
    settings: dict[str, Any] = field(default_factory=dict)  # width, budget, calls per sample, allocator, output given or fresh


def utc_now() -> str:
    """The present moment as ``measured_at`` writes it."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def median_interval(samples: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Interval of the median of given ``confidence`` by order statistics; (minimum, maximum) where samples are too few for it.

    The k-th smallest and k-th largest of n samples enclose the median unless fewer than k samples fall on one side of it:
    probability 2 P(Binomial(n, 1/2) < k). No assumption about the distribution (David & Nagaraja, "Order Statistics", 2003,
    section 7.1).

    >>> median_interval([5.0, 1.0, 4.0, 2.0, 3.0, 6.0])
    (1.0, 6.0)
    """
    ordered = sorted(samples)
    n, k, tail = len(ordered), 0, 0.5 ** len(ordered)
    below = tail  # P(B <= k)
    while 2 * below <= 1 - confidence and k < (n - 1) // 2:
        k += 1
        tail *= (n - k + 1) / k
        below += tail
    k = max(k, 1)
    return ordered[k - 1], ordered[n - k]


def timing_fields(samples: Iterable[float]) -> dict[str, Any]:
    """``median``, ``low``, ``high``, ``minimum`` and ``samples`` of a Measurement, from one time in seconds per sample."""
    times = tuple(float(s) for s in samples if s is not None and math.isfinite(s))
    if not times:
        return {}
    low, high = median_interval(times)
    return {"median": statistics.median(times), "low": low, "high": high, "minimum": min(times), "samples": times}


def append(path: Path | str, measurement: Measurement) -> None:
    """Add one measurement's row; see ``append_all``."""
    append_all(path, [measurement])


def append_all(path: Path | str, measurements: Sequence[Measurement]) -> None:
    """Add the rows of measurements to the file ``path``, on the disk when this returns.

    An unfinished last line of an interrupted run is cut off first.

    Raises:
        StoreError: the file cannot be written.
    """
    lines = [json.dumps({"schema": SCHEMA, **asdict(row)}, allow_nan=False) + "\n" for row in measurements]
    with _opened(path) as file:
        _cut_torn_line(file)
        file.write("".join(lines).encode())
        file.flush()
        os.fsync(file.fileno())


def check_writable(path: Path | str) -> None:
    """StoreError unless rows can be appended to the file; it is made where it is missing."""
    with _opened(path):
        pass


@contextmanager
def _opened(path: Path | str) -> Iterator[Any]:
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab+") as file:
            yield file
    except OSError as error:
        raise StoreError(f"{path}: cannot be written ({error.strerror})") from None


def _cut_torn_line(file: Any) -> None:
    size = file.seek(0, os.SEEK_END)
    position, tail = size, b""
    while position > 0 and b"\n" not in tail:
        step = min(position, 65536)
        position -= step
        file.seek(position)
        tail = file.read(step) + tail
    torn = len(tail) - (tail.rfind(b"\n") + 1)
    if torn and _is_json(tail[-torn:]):
        file.write(b"\n")
    elif torn:
        file.truncate(size - torn)


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def read(path: Path | str) -> list[Measurement]:
    """All rows of the file ``path``, oldest first; one whose name ends in .gz is unpacked.

    An unfinished last line (an interrupted write) is dropped with a UserWarning.

    Raises:
        StoreError: a file that cannot be opened, a line that is no row, or a row of another schema; names file and line.
    """
    try:
        content = Path(path).read_bytes()
        content = gzip.decompress(content) if Path(path).suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise StoreError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    rows = []
    lines = content.split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if number == len(lines) and not _is_json(line):
            warnings.warn(f"{path}, line {number}: dropped, an interrupted write left it unfinished", stacklevel=2)
            continue
        rows.append(_row(line, f"{path}, line {number}"))
    return rows


def _row(line: bytes, where: str) -> Measurement:
    try:
        values = json.loads(line)
    except ValueError as error:
        raise StoreError(f"{where}: not JSON ({error})") from None
    if not isinstance(values, dict) or values.pop("schema", None) != SCHEMA:
        raise StoreError(f"{where}: not a measurement of schema {SCHEMA}")
    known = {f.name for f in fields(Measurement)}
    required = {"suite", "label", "problem", "method"}
    if not required <= set(values) <= known:
        odd = sorted((set(values) - known) | (required - set(values)))
        raise StoreError(f"{where}: unknown or missing fields {', '.join(odd)}")
    values["samples"] = tuple(values.get("samples", ()))
    return Measurement(**values)


_BENCHMARK = re.compile(r"^bench_(\w+)\.\w+\.(time_run|time_prepare|track_prepared_bytes|track_workspace_bytes)$")
_FIELD = {
    "time_prepare": "prepare_seconds",
    "track_prepared_bytes": "prepared_bytes",
    "track_workspace_bytes": "workspace_bytes",
}


def read_asv(results_dir: Path | str) -> list[Measurement]:
    """asv's stored results as rows: run time, preparation and memory of one method on one problem joined into one.

    Reads each ``<machine>/<commit>-<environment>.json`` below ``results_dir``, and the notes that ``tconv-bench run`` leaves
    beside it. A combination that asv skipped becomes a row whose note is the sentence of ``supports``; one that failed has
    the reason where it is known; one that was never run has no row.

    Raises:
        StoreError: a folder that does not exist, or a file that is not asv's; names it.
    """
    folder = Path(results_dir)
    if not folder.is_dir():
        raise StoreError(f"{folder}: no such results folder")
    rows: list[Measurement] = []
    for path in sorted(folder.glob("*/*.json")):
        if path.name != "machine.json":
            rows += _asv_file(path)
    return rows


def notes_path(result_file: Path) -> Path:
    """Where ``tconv-bench run`` keeps what asv's result file has no place for: versions, threads, profile, failures."""
    return result_file.with_suffix(".notes")


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise StoreError(f"{path}: not JSON ({error}); delete it to measure again") from None
    if not isinstance(content, dict):
        raise StoreError(f"{path}: not a results file of asv")
    return content


def _asv_file(path: Path) -> list[Measurement]:
    content = _load(path)
    notes = _load(notes_path(path)) if notes_path(path).exists() else {}
    try:
        common = _origin(content, notes)
        rows: dict[tuple[str, str, str], Measurement] = {}
        for name, values in content["results"].items():
            match = _BENCHMARK.match(name)
            if match:
                columns = dict(zip(content["result_columns"], values))
                _join(rows, common, match[1], match[2], columns, notes.get("reasons", {}).get(name, {}))
    except (KeyError, TypeError, ValueError, AttributeError, SyntaxError, IndexError) as error:
        raise StoreError(f"{path}: not a results file of asv ({type(error).__name__}: {error})") from None
    return list(rows.values())


def _origin(content: dict[str, Any], notes: dict[str, Any]) -> dict[str, Any]:
    params = content["params"]
    machine = {
        "name": params.get("machine", ""),
        "cpu": params.get("cpu", ""),
        "arch": params.get("arch", ""),
        "cores": int(params["num_cpu"]) if str(params.get("num_cpu", "")).isdigit() else None,
        "ram": params.get("ram", ""),
        "os": params.get("os", ""),
    }
    versions = {"python": str(content["python"]), **{str(k): str(v) for k, v in content["requirements"].items() if v}}
    return {
        "machine": notes.get("machine", machine),
        "versions": notes.get("versions", versions),
        "commit": notes.get("commit", content["commit_hash"]),
        "profile": notes.get("profile", ""),
        "threads": notes.get("threads"),
    }


def _join(
    rows: dict[tuple[str, str, str], Measurement],
    common: dict[str, Any],
    suite: str,
    kind: str,
    columns: dict[str, Any],
    reasons: dict[str, str],
) -> None:
    for index, values in enumerate(product(*columns["params"])):
        label, problem, method = describe([ast.literal_eval(v) for v in values], _names(columns["params"]))
        result = _at(columns, "result", index)
        note = reasons.get(combination_key(values), "")
        if result is None:
            note = note or "failed: asv stored no result"
        elif math.isnan(result) and not note:
            note = _unsupported(problem, method)
            if not note:
                continue
        key = (suite, label, method)
        row = rows.get(key) or Measurement(suite=suite, label=label, problem=problem, method=method, **common)
        rows[key] = replace(row, **_values(kind, columns, index, result, note or row.note))


def combination_key(params: Iterable[str]) -> str:
    """One parameter combination as asv writes it, the key of its reason in the notes."""
    return ", ".join(params)


def _names(params: Sequence[Sequence[str]]) -> list[str]:
    """asv's result files do not hold parameter names; the template names them in order."""
    template = str(ast.literal_eval(params[0][0]))
    return re.findall(r"\{(\w+)\}", template)


def describe(values: Sequence[Any], names: Sequence[str]) -> tuple[str, str, str]:
    """(label, problem, method) of one parameter combination of the suite.

    The first value is a template such as ``"n1_ci64_i{size}x{size}_co64_k4"`` or ``"DCGAN g2 n1_ci512_..."``, the last the
    method, those between fill the template. The label is what stands before the problem, else the problem itself.
    """
    text = str(values[0]).format(**dict(zip(dict.fromkeys(names), values[1:-1])))
    label, _, problem = text.rpartition(" ")
    problem = str(Problem.parse(problem))
    return label or problem, problem, str(values[-1])


def _unsupported(problem: str, method: str) -> str:
    if method not in registry.methods("cpu"):
        return "skipped: this method is no longer registered"
    answer = registry.get(method).supports(Problem.parse(problem))
    return "" if answer is True else answer


def _at(columns: dict[str, Any], name: str, index: int) -> Any:
    values = columns.get(name)
    return None if values is None else values[index]


def _values(kind: str, columns: dict[str, Any], index: int, result: float | None, note: str) -> dict[str, Any]:
    if result is None or math.isnan(result):
        return {"note": note}
    if kind == "time_run":
        times = timing_fields(_at(columns, "samples", index) or ()) or _without_samples(columns, index, result)
        return {**times, "measured_at": _utc(columns.get("started_at")), "note": note}
    value = result if kind == "time_prepare" else round(result)
    return {_FIELD[kind]: value, "note": note}


def _without_samples(columns: dict[str, Any], index: int, result: float) -> dict[str, Any]:
    bounds = (_at(columns, f"stats_ci_99_{end}", index) for end in "ab")
    low, high = (b if b is not None and math.isfinite(b) else None for b in bounds)
    return {"median": result, "low": low, "high": high}


def _utc(milliseconds: float | None) -> str:
    if milliseconds is None:
        return ""
    return datetime.fromtimestamp(milliseconds / 1000, timezone.utc).isoformat(timespec="seconds")
