"""What was measured before: the fastest method of a problem on a machine, kept in one JSON file between processes.

``plan(..., method="measure")`` writes it; ``method="auto"`` and "measure" read it before they predict or time anything. The
file is ``wisdom.json`` in the user's cache folder, or the path in ``TCONV_BENCH_WISDOM``; where that is set and empty, nothing
is kept on the disk. A choice holds for the processor, its vectors, the number of threads, this package's sources and Numba.

A file that is no wisdom of this version is ignored with a UserWarning, and replaced when something is next remembered. Where
nothing can be written, wisdom lasts as long as the process. Processes that remember at once wait for each other; none loses
what another wrote.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import warnings
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import RLock
from typing import Any

import numba

from tconv_bench import jit, machine
from tconv_bench.problem import Problem

VERSION = 1
MACHINES = 16  # those written to last are kept: each change of the sources makes another one
VARIABLE = "TCONV_BENCH_WISDOM"
#: Grows with every change that this process makes, so that whoever keeps what it looked up knows when to look again.
changes = 0


@dataclass(frozen=True)
class Choice:
    """The fastest method of a problem, and the seconds per call of every method that was timed."""

    method: str
    seconds: dict[str, float]


_Machines = dict[str, dict[str, Choice]]  # machine -> text of the problem -> choice
_lock = RLock()
_unsaved: dict[Path | None, _Machines] = {}  # what could not be written, by path
_read: dict[Path, tuple[Any, _Machines]] = {}  # by path: the file's stamp when it was read, and what it held


def path() -> Path | None:
    """The file, or None where nothing is to be kept on the disk."""
    chosen = os.environ.get(VARIABLE)
    if chosen is not None:
        return Path(chosen) if chosen else None
    try:
        return jit.user_cache_folder() / "wisdom.json"
    except RuntimeError:  # no home
        return None


def machine_key() -> str:
    """What a choice depends on beside the problem."""
    return (
        f"{machine.facts()['cpu']}, {machine.simd_bits()}-bit vectors, {machine.threads()} threads, "
        f"sources {jit.source_fingerprint()}, numba {numba.__version__}"
    )


def lookup(problem: Problem, key: str | None = None) -> Choice | None:
    """What was remembered of a problem; None if nothing was.

    ``key`` says where: by default on this machine's processor and number of threads, ``machine_key``.
    """
    with _lock:
        where = path()
        own, stored = _unsaved.get(where, {}), _stored(where)
        if not own and not stored:
            return None
        key, text = key or machine_key(), str(problem)
        return own.get(key, {}).get(text) or stored.get(key, {}).get(text)


def remember(problem: Problem, seconds: dict[str, float], key: str | None = None) -> Choice:
    """Keep the seconds per call that were measured of each method; the fastest is what ``lookup`` gives from now on.

    ``key`` as in ``lookup``.

    Raises:
        ValueError: no method, or a time that is not positive and finite.
    """
    global changes
    if not _are_times(seconds):
        raise ValueError(f"seconds is {seconds!r}, but must hold a positive, finite time of at least one method")
    choice = Choice(min(seconds, key=lambda name: seconds[name]), dict(seconds))
    with _lock:
        changes += 1
        where = path()
        own = _unsaved.setdefault(where, {})
        own.setdefault(key or machine_key(), {})[str(problem)] = choice
        if where is not None:
            with suppress(OSError), _alone(where):
                _save(where, _merged(_parse(where)[0], own))
                del _unsaved[where]
    return choice


def forget() -> None:
    """Drop everything that was remembered: in this process, and the file.

    Raises:
        OSError: the file cannot be removed.
    """
    global changes
    with _lock:
        changes += 1
        where = path()
        _unsaved.clear()
        _read.clear()
        if where is not None and where.exists():
            with _alone(where):
                where.unlink(missing_ok=True)


def _stored(where: Path | None) -> _Machines:
    """The file's content, read again where it has changed; empty, with a warning, where it is no wisdom."""
    if where is None:
        return {}
    try:
        stat = where.stat()
    except OSError:
        return {}
    stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
    if where not in _read or _read[where][0] != stamp:
        machines, reason = _parse(where)
        _read[where] = (stamp, machines)
        if reason:
            message = f"{where}: {reason}; it is ignored, and replaced when something is next remembered"
            warnings.warn(message, stacklevel=3)
    return _read[where][1]


def _parse(where: Path) -> tuple[_Machines, str]:
    """The file's content, and why it is none; both empty where there is no file."""
    try:
        data = json.loads(where.read_bytes())
        if data["version"] != VERSION:
            return {}, f"is of version {data['version']!r}, where this package writes version {VERSION}"
        return {str(key): {text: _choice(entry) for text, entry in kept.items()} for key, kept in data["machines"].items()}, ""
    except OSError:
        return {}, ""
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return {}, f"cannot be read ({type(error).__name__}: {error})"


def _choice(entry: Any) -> Choice:
    choice = Choice(**entry)
    if not _are_times(choice.seconds) or choice.method not in choice.seconds:
        raise ValueError(f"an entry holds {entry!r}")
    return choice


def _are_times(seconds: dict[str, float]) -> bool:
    return bool(seconds) and all(0 < s < math.inf for s in seconds.values())


def _merged(stored: _Machines, own: _Machines) -> _Machines:
    """``own`` on top of what is stored; the machines of ``own`` last, and only the last MACHINES of all."""
    others = {key: kept for key, kept in stored.items() if key not in own}
    all_machines = others | {key: stored.get(key, {}) | kept for key, kept in own.items()}
    return dict(list(all_machines.items())[-MACHINES:])


def _alone(where: Path) -> AbstractContextManager[None]:
    """No other process is in here with the same file; OSError where its folder cannot be written."""
    return jit.alone(where.with_name(f"{where.name}.lock"))


def _save(where: Path, machines: _Machines) -> None:
    """Write the whole file beside its place, then put it there at once: no reader sees a part of it."""
    content = {key: {text: asdict(choice) for text, choice in kept.items()} for key, kept in machines.items()}
    handle, name = tempfile.mkstemp(dir=where.parent, prefix=f"{where.name}.")
    try:
        with open(handle, "w", encoding="utf-8") as file:
            json.dump({"version": VERSION, "machines": content}, file, indent=1)
        os.replace(name, where)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
