"""This project's calls beside PyTorch's: in one process, on the same values and threads, checked, then timed in turns.

Each call makes fresh results, in memory that was used before (``workers.ALLOCATOR``). Round by round every side gives one
sample, in random order: before it the side is called until it is as fast as it was, after it its threads are waited for
(``worker.Warmed``, ``worker.wait_until_quiet``). A side of this project whose result is wrong has no time, and nor has any
other of that case.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Any

from tconv_bench import machine, store
from tconv_bench.store import Measurement

OURS, TORCH = "tconv_bench", "torch"
SAMPLE_SECONDS, LEAST_ROUNDS = 0.002, 7
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")

Call = Callable[[], Any]
Calls = dict[str, Call]  # by the side's name, OURS among them


@dataclass(frozen=True)
class Entry:
    """What is compared: ``calls()`` makes every side ready, ``wrong(calls)`` says what is wrong with ours, "" if nothing is."""

    label: str
    problem: str
    calls: Callable[[], Calls]
    wrong: Callable[[Calls], str]


def measure(module: str, path: Path, threads: int, budget: float) -> None:
    """Append a row per side and entry to a file, from a process that runs ``module``; entries that it holds are skipped.

    Args:
        module: calls ``measure_here`` with its entries, run with the path and the budget as arguments.
        path: JSON lines.
        threads: for each side.
        budget: seconds of rounds per entry.

    Raises:
        ValueError: PyTorch is not installed.
        ChildProcessError: the process failed; its last line.
    """
    from tconv_bench.workers import ALLOCATOR

    try:
        version("torch")
    except PackageNotFoundError:
        raise ValueError("PyTorch, which is to be compared with, is not installed; README.md says how") from None
    store.check_writable(path)
    environment = os.environ | ALLOCATOR | {name: str(threads) for name in _THREADS}
    command = [sys.executable, "-m", module, str(path), str(budget)]
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise ChildProcessError(
            done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"ended with {done.returncode}"
        )


def measure_here(suite: str, entries: Iterable[Entry], path: Path, budget: float) -> None:
    """What ``measure`` lets a process of its own do."""
    import torch

    torch.set_num_threads(machine.threads())
    known = {row.label for row in store.read(path)}
    common = Measurement(
        suite=suite,
        label="",
        problem="",
        method="",
        threads=machine.threads(),
        machine=machine.facts(),
        versions=machine.versions() | {"torch": version("torch")},
        commit=machine.commit(),
        mode="one-shot",
        cache="hot",
        settings={"budget": budget, "output": "fresh"},
    )
    for entry in entries:
        if entry.label not in known:
            store.append_all(path, _compared(entry, common, budget))
            print(entry.label, flush=True)


def _compared(entry: Entry, common: Measurement, budget: float) -> list[Measurement]:
    calls, now = entry.calls(), store.utc_now()
    row = replace(common, label=entry.label, problem=entry.problem, group=f"{now} {entry.label}", measured_at=now)
    rows = {name: replace(row, method=name, peer=name != OURS) for name in calls}
    wrong = entry.wrong(calls)
    if wrong:
        return [replace(rows[OURS], note=f"wrong result: {wrong}"), *(rows[name] for name in calls if name != OURS)]
    samples = rounds(calls, budget)
    return [replace(rows[name], **store.timing_fields(samples[name])) for name in calls]


def rounds(calls: Calls, budget: float) -> dict[str, list[float]]:
    """Seconds per call of each side, one sample per round."""
    from tconv_bench.measure import calls_per_sample
    from tconv_bench.worker import Warmed, wait_until_quiet

    warm = {name: Warmed(call) for name, call in calls.items()}
    counts = {name: calls_per_sample(call, SAMPLE_SECONDS) for name, call in calls.items()}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    end, done = perf_counter() + budget, 0
    while done < LEAST_ROUNDS or perf_counter() < end:
        for name in random.sample(list(calls), len(calls)):
            call, count = calls[name], counts[name]
            warm[name]()
            start = perf_counter()
            for _ in range(count):
                call()
            samples[name].append((perf_counter() - start) / count)
            wait_until_quiet()
        done += 1
    return samples


def where(rows: list[Measurement]) -> str:
    """One line: processor, threads, PyTorch's version, days and commits of the rows."""
    first = rows[0]
    dates = sorted({row.measured_at[:10] for row in rows})
    commits = ", ".join(dict.fromkeys(row.commit[:12] for row in rows if row.commit))
    facts = [
        first.machine.get("cpu", ""),
        f"{first.threads} threads",
        f"PyTorch {first.versions.get('torch', '')}",
        " to ".join(dict.fromkeys([dates[0], dates[-1]])),
        f"commit {commits}" if commits else "",
    ]
    return f"{', '.join(fact for fact in facts if fact)}."
