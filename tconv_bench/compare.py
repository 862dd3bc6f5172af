"""The comparison: this project's variants and other engines on the same problems, interleaved, checked, and controlled.

Per problem and mode, every entrant is made ready in its process, its result is checked here against the float64 reference, and
only then are all of them timed: in rounds, each of which visits every entrant once in random order, until every median's 95 %
interval is narrow enough or the budget is spent. First with hot caches, then with flushed ones. What belongs together is stored
together, so that an interrupted run loses at most the group it was in.

- *one-shot*: the public function, weights as the user has them; each call pays for packing and for its output.
- *planned*: an engine's layer that holds its weights, here a ``plan``, made before (that time stands beside); the output is
  given where an engine can take it.

Every group holds an A/A control: ``auto``, or the first variant asked for, a second time in a second process
(``tconv_bench.verdicts``).
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tarfile
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from tconv_bench import ceilings, jit, machine, measure, peers, registry, store, verdicts
from tconv_bench.problem import Problem
from tconv_bench.store import Measurement
from tconv_bench.suite import Progress
from tconv_bench.workers import Pool, UnsupportedError, WorkerError

AUTO = verdicts.OWN_DEFAULT
SAMPLE_SECONDS = 0.005
MIN_ROUNDS = 7
WEIGHED = " weighed"
LARGE_BYTES = 2**28  # of input, weight and output; a process that held more is ended, for its allocator gives nothing back
ROWS = Path(".compare/rows.jsonl")


class CompareError(ValueError):
    """The comparison cannot be run; one line that says why."""


@dataclass(frozen=True)
class Entrant:
    """A competitor: a variant of this tree or of another commit, or a peer. ``number`` tells copies of one method apart."""

    method: str
    peer: bool = False
    revision: str = ""
    control: bool = False
    number: int = 1

    @property
    def id(self) -> str:
        """Unique within a group."""
        return f"{self.method} {self.revision} {self.control} {self.number}"

    @property
    def name(self) -> str:
        """What tables call it."""
        return self.method + (f" @ {self.revision[:7]}" if self.revision else "") + (" (again)" if self.control else "")

    @property
    def process(self) -> str:
        """The process that serves it; one for peers of the same libraries, one for ours, and the control and copies apart."""
        if self.peer:
            return "+".join(peers.get(self.method).packages)
        return "control" if self.control else f"own {self.number} {self.revision}"

    def modes(self) -> tuple[str, ...]:
        """The classes that it takes part in."""
        return tuple(peers.get(self.method).modes) if self.peer else verdicts.MODES


@dataclass(frozen=True)
class Settings:
    """How a comparison is run; ``budget`` is in seconds per entrant, mode and cache state, flushing and waiting included."""

    modes: tuple[str, ...] = verdicts.MODES
    caches: tuple[str, ...] = verdicts.CACHES
    threads: int = 0  # 0: every usable core
    width: float = 0.05  # of a median's 95 % interval, as a part of it
    budget: float = 1.0
    memory: bool = True
    seed: int | None = None


@dataclass
class Group:
    """One problem and mode while it is measured: who takes part, and why the others do not."""

    label: str
    problem: Problem
    mode: str
    entrants: list[Entrant]
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    memory: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def running(self) -> list[Entrant]:
        """The entrants whose result was right."""
        return [e for e in self.entrants if e.id in self.facts and e.id not in self.notes]


def entrants(methods: Sequence[str] | None = None, engines: Sequence[str] | None = None, against: str = "") -> list[Entrant]:
    """The competitors, the A/A control among them.

    Args:
        methods: variants or "auto"; one named twice takes part twice. None: "auto" and every variant.
        engines: peers; None: those that are installed; an empty list: none.
        against: a commit whose variants compete too.

    Raises:
        ValueError: an unknown name.
        CompareError: a peer that was asked for is not installed.
    """
    methods = [AUTO, *registry.methods("cpu")] if methods is None else list(methods)
    if not methods:
        raise ValueError("no variant to compare; name at least one, or leave the option out for all")
    for name in methods:
        if name != AUTO and name not in registry.methods("cpu"):
            raise ValueError(f"variant is {name!r}, valid variants are {', '.join([AUTO, *registry.methods('cpu')])}")
    if engines is None:
        engines = [name for name in peers.names("cpu") if peers.get(name).available() is True]
    for name in engines:
        answer = peers.get(name).available()
        if answer is not True:
            raise CompareError(f"peer {name} can't take part: {answer}")
    ours = [Entrant(name, number=1 + methods[:i].count(name)) for i, name in enumerate(methods)]
    theirs = [Entrant(name, peer=True) for name in dict.fromkeys(engines)]
    before = [Entrant(name, revision=against) for name in dict.fromkeys(methods)] if against else []
    return [*ours, *before, Entrant(methods[0], control=True), *theirs]


def run(
    problems: Sequence[tuple[str, Problem]],
    competitors: Sequence[Entrant],
    settings: Settings,
    path: Path,
    *,
    trees: dict[str, Path] | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_group: Callable[[list[Measurement]], None] = lambda rows: None,
) -> list[Measurement]:
    """Measure what ``path`` does not hold yet and append it there, group by group; returns the rows of all groups asked for.

    Args:
        problems: (label, problem) pairs.
        competitors: of ``entrants``.
        settings: how long, in which modes and with which caches, on how many threads.
        trees: package tree of each revision among the competitors, from ``checkout``.
        on_progress, on_group: called before each group, and with each group's rows once they are stored.

    Raises:
        StoreError: the file cannot be read or written; before any work.
        CompareError: the machine's limits could not be measured.
    """
    store.check_writable(path)
    settings = replace(settings, threads=settings.threads or machine.usable_cores())
    kept = _complete_groups(store.read(path), competitors, settings)
    todo = [(label, problem, mode) for label, problem in problems for mode in settings.modes]
    progress = Progress(len(todo))
    found: list[Measurement] = []
    with Pool(settings.threads) as pool:
        session = _Session(pool, settings, {"": jit.PACKAGE.parent, **(trees or {})})
        for label, problem, mode in todo:
            progress.current = f"{label}, {mode}"
            on_progress(progress)
            rows = kept.get((label, str(problem), mode))
            if rows is None:
                group = Group(label, problem, mode, [e for e in competitors if mode in e.modes()])
                rows = session.rows_of(group)
                store.append_all(path, rows)
            on_group(rows)
            found += rows
            progress.done += 1
    progress.current = ""
    on_progress(progress)
    return found


def _complete_groups(
    rows: Sequence[Measurement], competitors: Sequence[Entrant], settings: Settings
) -> dict[tuple[str, str, str], list[Measurement]]:
    """Stored rows of the problems and modes that need no measuring: same sources, versions and threads, nobody missing."""
    sources, threads = machine.versions()["sources"], settings.threads
    by_group: dict[str, list[Measurement]] = {}
    for row in rows:
        if row.suite == verdicts.SUITE and row.threads == threads and row.versions.get("sources") == sources:
            by_group.setdefault(row.group, []).append(row)
    found: dict[tuple[str, str, str], dict[str, list[Measurement]]] = {}
    for members in by_group.values():
        first = members[0]
        wanted = {(e.method, e.revision, e.control, e.number) for e in competitors if first.mode in e.modes()}
        have = {(r.method, r.revision, r.control, r.settings.get("copy", 1)) for r in members}
        if wanted == have and all(_same_engine(r) for r in members):
            found.setdefault((first.label, first.problem, first.mode), {})[first.cache] = members
    return {
        key: [r for cache in settings.caches for r in v[cache]] for key, v in found.items() if set(settings.caches) <= set(v)
    }


def _same_engine(row: Measurement) -> bool:
    if not row.peer:
        return True
    installed = peers.get(row.method).versions()
    return all(row.versions.get(name) == version for name, version in installed.items())


class _Session:
    """The processes, the random order and the machine's facts of one run."""

    def __init__(self, pool: Pool, settings: Settings, trees: dict[str, Path]):
        self.pool, self.settings, self.trees = pool, settings, trees
        self.random = random.Random(settings.seed)
        self.ceilings: dict[str, Any] = {}

    def rows_of(self, group: Group) -> list[Measurement]:
        """All rows of a group: one per entrant and cache state."""
        if not self.ceilings:
            self.ceilings = self._ask_own("ceilings")
        with _folder() as folder:
            data = measure.make_data(group.problem)
            for name in ("x", "weight", "bias"):
                np.save(folder / f"{name}.npy", getattr(data, name))
            for entrant in group.entrants:
                self._make(group, entrant, data, folder)
            if self.settings.memory:
                self._weigh(group, folder)
        found = []
        for cache in self.settings.caches:
            name = uuid.uuid4().hex
            found += self._rows(group, cache, name, *self._samples(group, cache))
        self.pool.drop()
        if group.problem.min_bytes > LARGE_BYTES:
            for entrant in group.entrants:
                self.pool.end(entrant.process)
        return found

    def _ask_own(self, op: str) -> dict[str, Any]:
        try:
            return self.pool.of("own 1 ", self.trees[""]).ask(op, threads=self.settings.threads)
        except WorkerError as error:
            raise CompareError(f"the machine's limits could not be measured: {error}") from None

    def _ask(self, entrant: Entrant, op: str, *, apart: str = "", **values: Any) -> dict[str, Any]:
        process = self.pool.of(entrant.process + apart, self.trees[entrant.revision])
        return process.ask(op, id=entrant.id, **values)

    def _request(self, group: Group, entrant: Entrant, folder: Path) -> dict[str, Any]:
        return {
            "method": entrant.method,
            "peer": entrant.peer,
            "mode": group.mode,
            "problem": str(group.problem),
            "folder": str(folder),
            "threads": self.settings.threads,
        }

    def _make(self, group: Group, entrant: Entrant, data: measure.Data, folder: Path) -> None:
        """Make an entrant ready and check its result; a wrong one gets no time."""
        result = folder / "out.npy"
        lost: list[Entrant] = []
        try:
            facts = self._ask(entrant, "make", result=str(result), **self._request(group, entrant, folder))
            reason = measure.wrong(group.problem, data, np.load(result), "" if entrant.peer else entrant.method)
            group.facts[entrant.id] = facts
            if reason:
                group.notes[entrant.id] = f"wrong result: {reason}"
        except UnsupportedError as reason_not:
            group.notes[entrant.id] = str(reason_not)
        except WorkerError as error:
            group.notes[entrant.id] = f"failed: {error}"
            lost = [e for e in group.running if e.process == entrant.process and not self._alive(e)]
        result.unlink(missing_ok=True)
        for other in lost:  # what the ended process had made ready goes with it
            self._make(group, other, data, folder)

    def _alive(self, entrant: Entrant) -> bool:
        return self.pool.is_alive(entrant.process, self.trees[entrant.revision])

    def _weigh(self, group: Group, folder: Path) -> None:
        """Workspace of every entrant, in processes that time nothing."""
        out_bytes = int(np.prod(group.problem.out_shape)) * group.problem.itemsize
        for entrant in group.running:
            if entrant.control:
                continue
            try:
                request = self._request(group, entrant, folder)
                group.memory[entrant.id] = self._ask(entrant, "memory", apart=WEIGHED, out_bytes=out_bytes, **request)
            except (WorkerError, UnsupportedError):
                continue
            finally:
                if group.problem.min_bytes > LARGE_BYTES:
                    self.pool.end(entrant.process + WEIGHED)

    def _samples(self, group: Group, cache: str) -> tuple[dict[str, list[float]], dict[str, int]]:
        """Seconds per call of each entrant, one per round; and the calls of a sample."""
        calls: dict[str, int] = {}
        times: dict[str, list[float]] = {}
        for entrant in group.running:
            with self._failing(group, entrant):
                answer = self._ask(entrant, "calls", seconds=SAMPLE_SECONDS)
                calls[entrant.id] = answer["calls"] if cache == "hot" else 1
                times[entrant.id] = []
        spent = dict.fromkeys(times, 0.0)
        while active := [e for e in group.running if not self._finished(times[e.id], spent[e.id])]:
            if all(_is_narrow(times[e.id], self.settings.width) for e in active):
                break
            self.random.shuffle(active)
            for entrant in active:
                start = perf_counter()
                with self._failing(group, entrant):
                    times[entrant.id].append(self._sample(entrant, cache, calls[entrant.id]))
                spent[entrant.id] += perf_counter() - start
        return times, calls

    def _finished(self, times: list[float], spent: float) -> bool:
        return len(times) >= MIN_ROUNDS and spent >= self.settings.budget

    def _sample(self, entrant: Entrant, cache: str, calls: int) -> float:
        flush = machine.flush_bytes_per_core()
        return float(self._ask(entrant, "sample", calls=calls, flushed=cache == "flushed", flush_bytes=flush)["seconds"])

    @contextmanager
    def _failing(self, group: Group, entrant: Entrant) -> Iterator[None]:
        """A process that ends while it is timed takes its entrant out, not the run."""
        try:
            yield
        except WorkerError as error:
            group.notes[entrant.id] = f"failed while it was timed: {error}"

    def _rows(
        self, group: Group, cache: str, name: str, times: dict[str, list[float]], calls: dict[str, int]
    ) -> list[Measurement]:
        return [self._row(group, e, cache, name, times.get(e.id, []), calls.get(e.id)) for e in group.entrants]

    def _row(self, group: Group, entrant: Entrant, cache: str, name: str, times: list[float], calls: int | None) -> Measurement:
        facts, memory = group.facts.get(entrant.id, {}), group.memory.get(entrant.id, {})
        note = group.notes.get(entrant.id, "")
        versions = machine.versions() | (peers.get(entrant.method).versions() if entrant.peer else {})
        row = Measurement(
            suite=verdicts.SUITE,
            label=group.label,
            problem=str(group.problem),
            method=entrant.method,
            device=peers.get(entrant.method).device if entrant.peer else "cpu",
            note=note,
            threads=self.settings.threads,
            measured_at=store.utc_now(),
            machine=machine.facts(),
            versions=versions,
            commit=machine.commit(),
            mode=group.mode,
            cache=cache,
            peer=entrant.peer,
            layout=facts.get("layout", peers.get(entrant.method).layout if entrant.peer else "channels-first"),
            control=entrant.control,
            revision=entrant.revision,
            group=name,
            ceilings=self.ceilings,
            settings={
                "width": self.settings.width,
                "budget": self.settings.budget,
                "calls": calls,
                "output": facts.get("output", ""),
                "allocator": "memory that was used before (glibc: no mmap, no trim)",
                "copy": entrant.number,
            },
        )
        return row if note else _timed(row, times, facts, memory, group.problem)


def _timed(
    row: Measurement, times: list[float], facts: dict[str, Any], memory: dict[str, Any], problem: Problem
) -> Measurement:
    values = store.timing_fields(float(f"{t:.6g}") for t in times)
    median = values["median"]
    least = ceilings.least_seconds(problem, row.ceilings, row.cache)
    return replace(
        row,
        **values,
        prepare_seconds=facts.get("prepare_seconds"),
        prepared_bytes=facts.get("prepared_bytes"),
        workspace_bytes=memory.get("workspace_bytes"),
        workspace_by=memory.get("by", ""),
        gflops=problem.flops / median / 1e9,
        roofline=least / median if least else None,
    )


def _is_narrow(times: list[float], width: float) -> bool:
    return len(times) >= MIN_ROUNDS and measure.is_narrow(times, width)


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder for arrays that processes exchange, in memory where the system has such a place."""
    shared = Path("/dev/shm")
    place = str(shared) if shared.is_dir() and os.access(shared, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="tconv-bench-", dir=place) as folder:
        yield Path(folder)


def checkout(revision: str, folder: Path) -> tuple[str, Path]:
    """(commit, folder of its package tree) of a revision of this checkout, taken out once below ``folder``.

    Raises:
        CompareError: not a checkout, or no such commit.
    """
    root = jit.PACKAGE.parent
    if shutil.which("git") is None or not (root / ".git").exists():
        raise CompareError("--against needs a git checkout of the project, and this is none")
    found = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}"],
        capture_output=True,
        text=True,
        check=False,
    )
    commit = found.stdout.strip()
    if found.returncode != 0:
        raise CompareError(f"--against is {revision!r}, but this checkout has no such commit")
    tree = folder / commit
    if not tree.is_dir():
        archive = subprocess.run(
            ["git", "-C", str(root), "archive", "--format=tar", commit, "tconv_bench"], capture_output=True, check=False
        )
        if archive.returncode != 0:
            raise CompareError(f"--against is {revision!r}, but that commit has no package tconv_bench")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as half, tarfile.open(fileobj=BytesIO(archive.stdout)) as tar:
            tar.extractall(half, filter="data") if hasattr(tarfile, "data_filter") else tar.extractall(half)
            os.rename(half, tree)
            os.mkdir(half)  # what the context manager removes
    return commit, tree
