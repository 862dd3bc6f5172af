"""Runs the asv suite in the current environment: one combination at a time, each saved before the next begins.

asv itself writes its results file when a whole run ends, so that an interruption loses everything. This driver calls asv's
own discovery, fork server, runner and results per parameter combination instead: its files are what ``asv run
--python=same --record-samples`` would have written, and ``asv publish``, ``asv compare`` and ``asv show`` read them.

Where results go, below the checkout:

- ``.asv/results``: standard and full runs of committed sources, the saved history;
- ``.asv/changed/<fingerprint>``: standard and full runs of sources with local changes;
- ``.asv/quick/<fingerprint>``: quick runs. Their samples are few and never meet the history.

The fingerprint names the sources of package and suite, so that results of other sources are never taken for this one's.
"""

from __future__ import annotations

import ast
import datetime
import hashlib
import itertools
import json
import logging
import math
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tconv_bench import jit, layers, machine, store

PROFILES = ("quick", "standard", "full")
_SKIPPED = re.compile(r"asv: skipped: NotImplementedError\((.*)\)")
_ORDER = ("layers", "sizes", "strides_paddings", "channels", "kernels", "dimensions", "startup")


class SuiteError(RuntimeError):
    """The suite cannot be run here; one line that says why."""


class Interrupted(Exception):
    """Ctrl-C or SIGTERM: says what is kept and where."""

    def __init__(self, saved: int, total: int, place: Path | None):
        kept = f"{saved} of {total} measurements are kept in {place}" if total else "nothing was measured yet"
        if place is None:
            super().__init__("interrupted: nothing is kept without --save FILE")
        else:
            super().__init__(f"interrupted: {kept}; run the same command again to go on from there")


@dataclass
class Progress:
    """What the driver tells its caller before each combination."""

    total: int  # 0 while it is not known
    done: int = 0
    current: str = ""
    failed: dict[str, str] = field(default_factory=dict)


def root() -> Path:
    """The checkout that holds asv.conf.json: the package's own, else the working folder; SuiteError where neither does."""
    for folder in (jit.PACKAGE.parent, Path.cwd()):
        if (folder / "asv.conf.json").is_file() and (folder / "benchmarks").is_dir():
            return folder
    raise SuiteError("no asv.conf.json beside the package or here: the suite runs from a checkout of the project")


def fingerprint(layers_file: Path | None = None) -> str:
    """16 hex digits that change when a source of the package or of the suite, or the layers file, does."""
    digest = hashlib.sha256(jit.source_fingerprint().encode())
    folder = root() / "benchmarks"
    for path in sorted([*folder.glob("*.py"), layers_file or folder / "layers.csv"]):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def results_dir(profile: str, layers_file: Path | None = None) -> Path:
    """Where a run of this profile on the present sources keeps its results."""
    base = root() / ".asv"
    if profile == "quick":
        return base / "quick" / fingerprint(layers_file)
    if machine.is_dirty() or not machine.commit() or layers_file is not None:
        return base / "changed" / fingerprint(layers_file)
    return base / "results"


def stored_results(profile: str, layers_file: Path | None = None) -> tuple[Path, bool]:
    """(folder of the profile's results, whether they are of the present sources): the newest of other sources as a resort.

    Raises:
        SuiteError: no result of this profile is stored.
    """
    present = results_dir(profile, layers_file)
    if _has_results(present):
        return present, True
    base = root() / ".asv"
    folders = [*(base / "quick").glob("*")] if profile == "quick" else [base / "results", *(base / "changed").glob("*")]
    others = [p for p in folders if _has_results(p)]
    if not others:
        raise SuiteError(f"no results of the {profile} profile yet: run `tconv-bench run --profile {profile}` first")
    return max(others, key=lambda p: p.stat().st_mtime), False


def _has_results(folder: Path) -> bool:
    return any(path.name != "machine.json" for path in folder.glob("*/*.json"))


def check_profile(name: str) -> None:
    """ValueError for an unknown profile, with the valid ones."""
    if name not in PROFILES:
        raise ValueError(f"profile is {name!r}, valid profiles are {', '.join(PROFILES)}")


def run(
    profile: str = "quick",
    *,
    layers_file: Path | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Path:
    """Measure what the profile asks for and is not measured yet; returns the results folder.

    asv's processes take the comparison's allocator (``workers.ALLOCATOR``): a fresh output is memory that was used before.

    Args:
        profile: "quick", "standard" or "full".
        layers_file: a layers CSV to take instead of the suite's own.
        on_progress: called before each combination and once at the end.

    Raises:
        ValueError: no such profile.
        LayersError, StoreError: the layers file or an earlier results file is broken, before any work.
        SuiteError: no checkout, no asv, or the suite cannot be imported.
        Interrupted: Ctrl-C or SIGTERM.
    """
    check_profile(profile)
    if layers_file is not None:
        layers_file = layers_file.resolve()
    layers.read(layers_file or root() / "benchmarks" / "layers.csv")
    folder = results_dir(profile, layers_file)
    if folder.is_dir():
        store.read_asv(folder)
    _check_writable(folder)
    from tconv_bench.workers import ALLOCATOR  # imports Numba, as the commands that measure nothing need not

    environment = ALLOCATOR | {"TCONV_BENCH_PROFILE": profile, "ASV_PYTHONPATH": str(root())}
    if layers_file is not None:
        environment["TCONV_BENCH_LAYERS"] = str(layers_file)
    with _environment(environment), _interruptible():
        _Run(profile, folder, on_progress).go()
    return folder


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise SuiteError(f"{folder}: results cannot be written there ({error.strerror})") from None


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    if "TCONV_BENCH_LAYERS" not in values:
        os.environ.pop("TCONV_BENCH_LAYERS", None)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does: the fork server is stopped and nothing is lost."""

    def interrupt(signum: int, frame: Any) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Run:
    """One run of the suite: asv's objects, and the file that they end in."""

    def __init__(self, profile: str, folder: Path, on_progress: Callable[[Progress], None]):
        try:
            import asv.benchmarks
            import asv.config
            import asv.environment
            import asv.machine
            import asv.results
            import asv.runner
        except ImportError as error:
            raise SuiteError(f"asv is not installed ({error}): pip install 'tconv-bench[bench]'") from None
        self.asv: Any = asv
        self.profile, self.folder, self.on_progress = profile, folder, on_progress
        self.conf = asv.config.Config.load(str(root() / "asv.conf.json"))
        self.conf.results_dir, self.conf.branches = str(folder), []
        self.conf.benchmark_dir = str(root() / "benchmarks")
        self.environment = asv.environment.ExistingEnvironment(self.conf, sys.executable, {}, {})

    def go(self) -> None:
        self.on_progress(Progress(0, current="discovering the benchmarks"))
        self.benchmarks = self._discover()
        for benchmark in self.benchmarks.values():
            benchmark.setdefault("timeout", self.conf.default_benchmark_timeout)
        self.machine = self._machine()
        self.results = self._results()
        self.reasons = self._earlier_reasons()
        todo = [(b, i) for b in self._ordered() for i in self._open(b)]
        total = sum(self._count(b) for b in self.benchmarks.values())
        progress = Progress(total, total - len(todo))
        if todo:
            self._measure(todo, progress)
        progress.current = ""
        self.on_progress(progress)

    def _discover(self) -> Any:
        with collected_log() as messages:
            try:
                return self.asv.benchmarks.Benchmarks.discover(self.conf, None, [self.environment], [None])
            except self.asv.util.UserError as error:
                if str(error) == "Interrupted.":
                    raise Interrupted(0, 0, self.folder) from None
                raise SuiteError(f"the suite cannot be imported: {_cause(messages, str(error))}") from None

    def _machine(self) -> Any:
        """asv's machine, by its file in the home folder where there is one; never asks and never writes there."""
        name = self.asv.machine.Machine.get_unique_machine_name()
        chosen = self.asv.machine.Machine()
        try:
            chosen.__dict__.update(self.asv.machine.MachineCollection.load(name))
        except self.asv.util.UserError:
            chosen.__dict__.update(self.asv.machine.Machine.get_defaults())
        return chosen

    def _results(self) -> Any:
        commit = machine.commit().partition("+")[0] or self.folder.name.ljust(40, "0")
        params = {**self.machine.__dict__, "python": self.environment.python}
        env = self.environment
        results = self.asv.results.Results(
            params, env.requirements, commit, machine.commit_time(), env.python, env.name, env.env_vars
        )
        results.load_data(str(self.folder))
        self.file = self.folder / self.asv.results.get_filename(self.machine.machine, commit, env.name)
        return results

    def _ordered(self) -> list[dict[str, Any]]:
        def place(benchmark: dict[str, Any]) -> tuple[int, bool, str]:
            suite = benchmark["name"].partition(".")[0].removeprefix("bench_")
            position = _ORDER.index(suite) if suite in _ORDER else len(_ORDER)
            return position, not benchmark["name"].endswith(".time_run"), benchmark["name"]

        return sorted(self.benchmarks.values(), key=place)

    @staticmethod
    def _count(benchmark: dict[str, Any]) -> int:
        return math.prod(map(len, benchmark["params"]))

    def _open(self, benchmark: dict[str, Any]) -> list[int]:
        """Indices of the combinations to measure: those that have no result and were not skipped with a reason."""
        name, count = benchmark["name"], self._count(benchmark)
        if name not in self.results.get_result_keys(self.benchmarks):
            return list(range(count))
        values = self.results.get_result_value(name, benchmark["params"])
        reasons = self.reasons.get(name, {})
        keys = map(store.combination_key, itertools.product(*benchmark["params"]))
        return [i for i, (v, key) in enumerate(zip(values, keys)) if v is None or (math.isnan(v) and key not in reasons)]

    def _measure(self, todo: list[tuple[dict[str, Any], int]], progress: Progress) -> None:
        self.machine.save(str(self.folder))
        self.benchmarks.save()
        progress.current = "loading the kernels (compiling them on a first run)"
        self.on_progress(progress)
        launch = "forkserver" if hasattr(os, "fork") else "spawn"
        spawner = self.asv.runner.get_spawner(self.environment, self.conf.benchmark_dir, launch)
        try:
            ready, output = spawner.preimport()
            if not ready:
                raise SuiteError(f"the suite cannot be imported: {output.strip().splitlines()[-1]}")
            for benchmark, index in todo:
                progress.current = combination_name(benchmark, index)
                self.on_progress(progress)
                self._one(spawner, benchmark, index, progress)
                progress.done += 1
                self._save()
        except KeyboardInterrupt:
            spawner.interrupt()
            raise Interrupted(progress.done, progress.total, self.folder) from None
        except self.asv.util.UserError as error:
            if str(error) != "Interrupted.":
                raise SuiteError(str(error)) from None
            raise Interrupted(progress.done, progress.total, self.folder) from None
        finally:
            spawner.close()

    def _one(self, spawner: Any, benchmark: dict[str, Any], index: int, progress: Progress) -> None:
        """Measure one combination into the results; where there is no value, note why."""
        reasons = self.reasons.setdefault(benchmark["name"], {})
        key = store.combination_key(_params(benchmark, index))
        reasons.pop(key, None)
        for number in range(int(benchmark.get("rounds", 1))):
            started = datetime.datetime.now(datetime.timezone.utc)
            outcome = self.asv.runner.run_benchmark(benchmark, spawner, profile=False, selected_idx=[index])
            self.results.add_result(
                benchmark,
                outcome,
                started_at=started,
                record_samples=True,
                append_samples=number > 0,
                selected_idx=[index],
            )
            skipped = _SKIPPED.search(outcome.stderr)
            if outcome.errcode != 0:
                reasons[key] = progress.failed[progress.current] = _cause(outcome.stderr.splitlines(), "failed without a word")
            elif skipped:
                reasons[key] = str(ast.literal_eval(skipped[1]))
            if key in reasons or outcome.samples[index] is None:
                return

    def _save(self) -> None:
        """Write asv's file and the notes beside it, each whole or not at all."""
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=".saving-") as folder:
            self.results.save(folder)
            os.replace(Path(folder) / self.file.relative_to(self.folder), self.file)
            notes = Path(folder) / "notes"
            notes.write_text(json.dumps(self._notes(), allow_nan=False))
            os.replace(notes, store.notes_path(self.file))

    def _notes(self) -> dict[str, Any]:
        return {
            "machine": machine.facts(),
            "versions": machine.versions(),
            "commit": machine.commit(),
            "profile": self.profile,
            "threads": machine.threads(),
            "reasons": self.reasons,
        }

    def _earlier_reasons(self) -> dict[str, dict[str, str]]:
        """Reasons of an earlier run; what another profile left out is open again."""
        path = store.notes_path(self.file)
        notes: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"profile": "", "reasons": {}}
        same = notes["profile"] == self.profile
        return {
            name: {key: reason for key, reason in reasons.items() if same or not reason.startswith("left out")}
            for name, reasons in notes["reasons"].items()
        }


def combination_name(benchmark: dict[str, Any], index: int) -> str:
    """What is measured, for people: "layers: DCGAN g2, direct, time_run"."""
    suite, _, rest = benchmark["name"].partition(".")
    values = [ast.literal_eval(text) for text in _params(benchmark, index)]
    what = ", ".join([*(str(v) for v in values), rest.rpartition(".")[2]])
    if len(values) > 1:
        label, _, method = store.describe(values, benchmark["param_names"][1:-1])
        what = f"{label}, {method}, {rest.rpartition('.')[2]}"
    return f"{suite.removeprefix('bench_')}: {what}"


def _params(benchmark: dict[str, Any], index: int) -> tuple[str, ...]:
    return next(itertools.islice(itertools.product(*benchmark["params"]), index, None))


def _cause(lines: list[str], otherwise: str) -> str:
    """The last line that names an exception, without its type where that is a failed check."""
    found = [line.strip() for text in lines for line in text.splitlines() if re.match(r"\s*[\w.]*(Error|Exception)\b.*:", line)]
    return found[-1].removeprefix("AssertionError: ") if found else (lines[-1].strip() if lines else otherwise)


@contextmanager
def collected_log() -> Iterator[list[str]]:
    """What asv reports goes to a list, not to the terminal."""
    messages: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    handler = Collector(logging.WARNING)
    logging.getLogger().addHandler(handler)
    try:
        yield messages
    finally:
        logging.getLogger().removeHandler(handler)
