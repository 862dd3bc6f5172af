"""A run of ``gpu-check``: what is done in which order within the time there is, and how answers become rows.

The order is that of importance: tests, limits, ``phase`` beside cuDNN on every layer with one image, then with 64, then cuDNN
with TF32, then the basic variants, cheap layers first. Each stage has a share of the time that is left when it begins, each
item of it a limit after which the process that has the device is ended and started anew; what did not fit is taken up again
at the end if there is time, and else stands in the rows with its reason. A basic variant is not begun where what it took on
smaller layers says that it would take too long.
"""

from __future__ import annotations

import sys
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

from tconv_bench import ceilings, jit, layers, machine, peers, registry, store, units, verdicts
from tconv_bench.gpu_check.lab import LOST, Lab
from tconv_bench.gpu_check.standin import Clock, StandIn, Trouble
from tconv_bench.gpu_check.tests_on_device import Outcome, TestRun
from tconv_bench.problem import Problem
from tconv_bench.store import Measurement
from tconv_bench.suite import Progress
from tconv_bench.workers import WorkerError, WorkerProcess

MINUTES = 9.0
PAGE_SECONDS = 45.0  # kept for the page and the table at the end
TEST_SHARE = 0.3  # of the time, at most, for the tests
BATCHES = (1, 64)
MAIN = "phase"
FLOAT32 = ("cudnn", "cudnn-channels_last")
TF32 = ("cudnn-tf32", "cudnn-channels_last-tf32")
TF32_MODE = "TF32"
TESTS = "gpu-tests"  # the suite of rows that say how a test ended
BASIC_SECONDS = 4.0  # that one call of a basic variant may take
NEIGHBOURS = 6  # layers, cheapest first, by the slowest of which the next one is predicted
ITEM_SECONDS = 40.0  # after which an answer is no longer waited for
COMPILE_SECONDS = 240.0  # for all kernels of a method: a dozen, 2 to 6 s each
RESTART_SECONDS = 15.0  # that have to be left for starting that process anew
SAMPLE_SECONDS = (0.03, 0.4)  # least and most per entrant
SKIPPED = "skipped: "
ROWS = Path(".compare/gpu.jsonl")


class GpuCheckError(ValueError):
    """The check cannot be run; one line that says why."""


@dataclass(frozen=True)
class Who:
    """An entrant: a variant or a peer; ``control`` is the second copy of the same code."""

    method: str
    peer: bool = False
    control: bool = False

    @property
    def id(self) -> str:
        """Unique within an item."""
        return self.method + (" (again)" if self.control else "")


@dataclass(frozen=True)
class Item:
    """Some entrants on a layer, measured together."""

    label: str
    problem: Problem
    who: tuple[Who, ...]
    mode: str = "planned"

    @property
    def key(self) -> tuple[str, str, str]:
        """What its group's rows share."""
        return self.label, str(self.problem), self.mode


@dataclass(frozen=True)
class Stage:
    """Items in their order, and the share that they have of the time that is left when their turn comes."""

    name: str
    items: tuple[Item, ...]
    share: float


class Link(Protocol):
    """The process that has the device."""

    def ask(self, op: str, limit: float, **values: Any) -> dict[str, Any]:
        """An answer; WorkerError where the operation failed, the process ended or ``limit`` seconds passed."""

    def alive(self) -> bool: ...
    def end(self) -> None: ...


class Site(Protocol):
    """Where a run happens: its clock, its process, its tests."""

    @property
    def dry(self) -> bool: ...
    def clock(self) -> float: ...
    def link(self) -> Link: ...
    def tests(self) -> TestRun: ...


class _Process:
    """A link to a process of its own."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-W", "ignore", "-m", "tconv_bench.gpu_check.worker", *arguments]
        self.process = WorkerProcess(jit.PACKAGE.parent, machine.usable_cores(), command=command)

    def ask(self, op: str, limit: float, **values: Any) -> dict[str, Any]:
        self.process.timeout = max(0.1, limit)
        try:
            return self.process.ask(op, **values)
        except WorkerError as error:
            if str(error).startswith(LOST):
                self.process.end()
            raise

    def alive(self) -> bool:
        return self.process.alive

    def end(self) -> None:
        self.process.end()


class OnGpu:
    """This machine's GPU."""

    dry = False

    def clock(self) -> float:
        return monotonic()

    def link(self) -> Link:
        """A new process."""
        return _Process()

    def tests(self) -> TestRun:
        """pytest in a process of its own."""
        return TestRun()


class _Rehearsal:
    """A link to a stand-in in this process; an answer that takes longer than it may never comes."""

    def __init__(self, clock: Clock, trouble: Trouble):
        self.clock, self.running = clock, True
        self.lab = Lab(StandIn(clock, trouble), clock)

    def ask(self, op: str, limit: float, **values: Any) -> dict[str, Any]:
        end = self.clock.now + limit
        answer = self.lab.answer(op, **values)
        if self.clock.now > end:
            self.clock.now, self.running = end, False
            raise WorkerError(f"no answer within {limit:.0f} s")
        if "error" in answer:
            self.running = not str(answer["error"]).startswith(LOST)
            raise WorkerError(answer["error"])
        return answer

    def alive(self) -> bool:
        return self.running

    def end(self) -> None:
        self.running = False


class DryRun:
    """No GPU: a stand-in with invented times, and tests that are not run."""

    dry = True

    def __init__(self, trouble: Trouble | None = None, interrupt_at: float | None = None, test_seconds: float = 60.0):
        self.passing, self.trouble = Clock(interrupt_at), trouble or Trouble()
        self.test_seconds = test_seconds

    def clock(self) -> float:
        return self.passing.now

    def link(self) -> Link:
        """A new stand-in; starting a process takes a while."""
        self.passing.advance(5.0)
        return _Rehearsal(self.passing, self.trouble)

    def tests(self) -> TestRun:
        """Nothing is run; the time passes."""
        return _NoTests(self)


class _NoTests(TestRun):
    def __init__(self, site: DryRun):
        self.site, self.started = site, site.clock()

    def finish(self, seconds: float) -> Outcome:
        left = max(0.0, self.started + self.site.test_seconds - self.site.clock())
        self.site.passing.advance(min(left, seconds))
        return Outcome(seconds=min(left, seconds), finished=left <= seconds, note="a dry run: no test was run")

    def end(self) -> None:
        pass


def cases(found: Iterable[layers.Layer]) -> list[tuple[str, Problem]]:
    """(label, problem) of every distinct layer with one image, then with 64, whatever batch the file gives it."""
    single: dict[Problem, str] = {}
    for layer in found:
        label = layer.label.removesuffix(f" N={layer.problem.batch}")
        single.setdefault(replace(layer.problem, batch=1), label)
    named = [(label, problem) for problem, label in single.items()]
    return [
        (label if batch == 1 else f"{label} N={batch}", replace(problem, batch=batch))
        for batch in BATCHES
        for label, problem in named
    ]


def stages(problems: Sequence[tuple[str, Problem]], *, cudnn: bool = True) -> list[Stage]:
    """All that is to be done, in order."""
    ours = (Who(MAIN), Who(MAIN, control=True))
    basic = [name for name in registry.methods("cuda") if name != MAIN]

    def of(batch: int) -> list[tuple[str, Problem]]:
        return [(label, problem) for label, problem in problems if problem.batch == batch]

    def peers_of(problem: Problem, names: Iterable[str]) -> tuple[Who, ...]:
        return tuple(Who(name, peer=True) for name in names if cudnn and peers.get(name).supports(problem) is True)

    def main(batch: int) -> tuple[Item, ...]:
        return tuple(Item(label, problem, (*ours, *peers_of(problem, FLOAT32))) for label, problem in of(batch))

    def tf32(batch: int) -> tuple[Item, ...]:
        items = (Item(label, problem, peers_of(problem, TF32), TF32_MODE) for label, problem in of(batch))
        return tuple(item for item in items if item.who)

    def basics(batch: int) -> tuple[Item, ...]:
        cheap_first = sorted(of(batch), key=lambda pair: pair[1].flops)
        return tuple(Item(label, problem, tuple(map(Who, basic))) for label, problem in cheap_first)

    found = []
    for name, make, share in (
        ("phase beside cuDNN", main, 0.5),
        ("cuDNN with TF32", tf32, 0.3),
        ("basic variants", basics, 0.6),
    ):
        found += [Stage(f"{name}, N={batch}", make(batch), share) for batch in BATCHES]
    return [stage for stage in found if stage.items]


@dataclass
class Result:
    """What a run found: the rows of this run and those that were there already, the tests' outcome, the seconds it took."""

    rows: list[Measurement] = field(default_factory=list)
    tests: Outcome | None = None
    seconds: float = 0.0
    finished: bool = False


class Session:
    """One run; rows are appended to ``path`` as soon as an item is done."""

    def __init__(
        self, site: Site, path: Path, *, minutes: float = MINUTES, spent: float = 0.0, cudnn: bool = True, tests: bool = True
    ):
        self.site, self.path, self.cudnn, self.with_tests = site, path, cudnn, tests
        self.started = site.clock() - spent
        self.total = 60 * minutes
        self.link: Link | None = None
        self.facts: dict[str, Any] = {}
        self.ceilings: dict[str, Any] = {}
        self.groups: dict[tuple[str, str, str], str] = {}
        self.done: dict[tuple[str, str, str], set[str]] = {}
        self.broken: dict[str, str] = {}
        self.compiled: set[str] = set()
        self.rates: dict[str, deque[float]] = {}
        self.firsts: dict[tuple[str, Problem], float] = {}
        self.commit = machine.commit()
        self.run_id, self.made = uuid.uuid4().hex[:8], 0
        self.result = Result()

    # time

    @property
    def left(self) -> float:
        """Seconds until the page has to be drawn."""
        return self.started + self.total - PAGE_SECONDS - self.site.clock()

    # the run

    def run(self, problems: Sequence[tuple[str, Problem]], on_progress: Callable[[Progress], None] = lambda p: None) -> Result:
        """Do what there is time for.

        Raises:
            StoreError: the rows cannot be read or written; before any work.
            GpuCheckError: the device can't be opened, or its limits not measured.
        """
        store.check_writable(self.path)
        stored = store.read(self.path)
        plan = stages(problems, cudnn=self.cudnn)
        progress = Progress(sum(len(stage.items) for stage in plan), current="tests, and the device")
        on_progress(progress)
        tests = self.site.tests() if self.with_tests else None
        try:
            self._open()
            self._take_up(stored)
            if tests is not None:
                self._compile_meanwhile()
                self._note_tests(tests.finish(max(1.0, min(self.left, TEST_SHARE * self.total))))
            progress.current = "the device's limits"
            on_progress(progress)
            self._measure_ceilings()
            self._work(plan, progress, on_progress)
            self.result.finished = True
        finally:
            if tests is not None:
                tests.end()
            if self.link is not None:
                self.link.end()
            self.result.seconds = self.site.clock() - self.started
        progress.current = ""
        on_progress(progress)
        return self.result

    def _open(self) -> None:
        self.link = self.site.link()
        try:
            self.facts = self.link.ask("open", min(90.0, self.left))
            self.link.ask("compile", min(120.0, self.left), method="")
        except WorkerError as error:
            raise GpuCheckError(f"the GPU can't be used: {error}") from None
        if self.facts["cudnn"] and self.cudnn:
            self.cudnn = False
            self.no_cudnn = self.facts["cudnn"]

    no_cudnn = ""

    def _compile_meanwhile(self) -> None:
        """While the tests have the device, the processor compiles what will be measured."""
        for method in dict.fromkeys([MAIN, *registry.methods("cuda")]):
            if self.left > (1 - TEST_SHARE) * self.total - PAGE_SECONDS:
                self._compile(method)

    def _take_up(self, stored: Sequence[Measurement]) -> None:
        """Rows that an earlier run on this GPU left, with these sources and engines, need no measuring."""
        here, name = self.facts["versions"], self.facts["machine"]["gpu"]
        same = [
            row for row in stored if row.machine.get("gpu") == name and row.versions == here and row.suite == verdicts.SUITE
        ]
        for row in same:
            key = row.label, row.problem, row.mode
            self.groups[key] = row.group
            if not row.note.startswith(SKIPPED):
                self.done.setdefault(key, set()).add(Who(row.method, row.peer, row.control).id)
        self.result.rows += same

    def _note_tests(self, outcome: Outcome) -> None:
        self.result.tests = outcome
        for label, note in outcome.cases:
            self._keep([self._row(Item(label, Problem(1, 1, (1,), 1, 1), ()), Who(""), suite=TESTS, note=note, group="")])
        self._keep([self._row(Item("all", Problem(1, 1, (1,), 1, 1), ()), Who(""), suite=TESTS, note=str(outcome), group="")])

    def _measure_ceilings(self) -> None:
        assert self.link is not None
        try:
            self.ceilings = self.link.ask("ceilings", min(60.0, self.left))
        except WorkerError as error:
            raise GpuCheckError(f"the GPU's limits can't be measured: {error}") from None

    def _work(self, plan: Sequence[Stage], progress: Progress, on_progress: Callable[[Progress], None]) -> None:
        waiting: list[tuple[Stage, Item, str]] = []
        for number, stage in enumerate(plan):
            share = stage.share if number < len(plan) - 1 else 1.0
            end = self.site.clock() + share * max(0.0, self.left)
            for index, item in enumerate(stage.items):
                here = end - self.site.clock()
                progress.current = f"{stage.name}: {item.label}"
                on_progress(progress)
                if here <= 0:
                    waiting.append((stage, item, f"{stage.name}: the time for it was used up"))
                    continue
                self._item(item, here / (len(stage.items) - index))
                progress.done += 1
        for stage, item, why in waiting:
            progress.current = f"{stage.name}: {item.label}"
            on_progress(progress)
            if self.left > 0:
                self._item(item, self.left / len(waiting))
            else:
                self._skip(item, why)
            progress.done += 1

    def _skip(self, item: Item, why: str) -> None:
        self._keep([self._row(item, who, note=SKIPPED + why) for who in self._open_in(item)])

    def _open_in(self, item: Item) -> list[Who]:
        done = self.done.get(item.key, set())
        return [who for who in item.who if who.id not in done]

    # an item

    def _item(self, item: Item, allowance: float) -> None:
        """Make an item's entrants ready, time them, and keep their rows, with the reason where there is no time."""
        who = self._open_in(item)
        if who and any(w.method == MAIN for w in who):
            who = list(item.who)  # what is compared was measured together
        if not who:
            return
        notes: dict[str, str] = {}
        answers: dict[str, dict[str, Any]] = {}
        for w in who:
            reason = self._refused(item, w)
            if reason:
                notes[w.id] = reason
        samples = self._measured(item, who, allowance, notes, answers)
        self._keep([self._row(item, w, notes.get(w.id, ""), answers.get(w.id, {}), samples.get(w.id, [])) for w in who])

    def _refused(self, item: Item, who: Who) -> str:
        """Why an entrant is not begun."""
        if who.peer:
            return f"{SKIPPED}{self.no_cudnn}" if self.no_cudnn else ""
        answer = registry.get(who.method, "cuda").supports(item.problem)
        if answer is not True:
            return str(answer)
        if who.method not in self.compiled and who.method not in self.broken:
            self._compile(who.method)
        if who.method in self.broken:
            return self.broken[who.method]
        predicted = 0.0 if who.method == MAIN else self._predicted(who.method, item.problem)
        if predicted > BASIC_SECONDS:
            return f"{SKIPPED}a call may take {units.seconds(predicted)}, by what smaller ones took"
        return ""

    def _predicted(self, method: str, problem: Problem) -> float:
        """Seconds of a basic variant's call: at most those of its images one by one, else by the layers before it."""
        single = self.firsts.get((method, replace(problem, batch=1)))
        if single is not None:
            return single * problem.batch
        return max(self.rates.get(method, ()), default=0.0) * work(method, problem)

    def _compile(self, method: str) -> None:
        try:
            self._ask("compile", min(COMPILE_SECONDS, self.left), method=method)
            self.compiled.add(method)
        except WorkerError as error:
            self.broken[method] = f"failed: its kernels do not compile: {error}"

    def _measured(
        self, item: Item, who: Sequence[Who], allowance: float, notes: dict[str, str], answers: dict[str, dict[str, Any]]
    ) -> dict[str, list[float]]:
        """Samples of those that can be timed; a process that ended is started anew, without the entrant that it ended with."""
        for _ in range(len(who) + 1):
            running = [w for w in who if w.id not in notes]
            if not running:
                return {}
            try:
                self._ask("data", self._limit(), problem=str(item.problem))
            except WorkerError as error:
                notes |= {w.id: self._failed(error) for w in running}
                return {}
            if not self._made(item, running, notes, answers):
                continue
            ready = [w for w in running if w.id not in notes]
            if not ready:
                return {}
            least, most = SAMPLE_SECONDS
            seconds = min(most, max(least, 0.4 * allowance / len(ready)))
            longest = max(answers[w.id]["first_seconds"] for w in ready)
            try:
                limit = min(max(0.0, self.left), len(ready) * (seconds + 3 * longest) + ITEM_SECONDS / 2)
                found: dict[str, Any] = self._ask("samples", limit, names=[w.id for w in ready], seconds=seconds)
            except WorkerError as error:
                notes |= {w.id: self._failed(error) for w in ready}
                return {}
            for w in ready:
                answers[w.id]["late"] = found["late"][w.id]
            self._ask_quietly("drop")
            samples: dict[str, list[float]] = found["samples"]
            return samples
        return {}

    def _made(self, item: Item, running: Sequence[Who], notes: dict[str, str], answers: dict[str, dict[str, Any]]) -> bool:
        """Make entrants ready; False where the process ended meanwhile, and with it all that was."""
        for w in running:
            tolerance = "tf32" if w.method in TF32 else "float32" if w.peer else ""
            try:
                answer = self._ask("make", self._limit(), name=w.id, method=w.method, peer=w.peer, tolerance=tolerance)
            except WorkerError as error:
                notes[w.id] = self._failed(error)
                assert self.link is not None
                if not self.link.alive():
                    return False
                continue
            if "wrong" in answer:
                notes[w.id] = f"wrong result: {answer['wrong']}"
                continue
            answers[w.id] = answer
            if w.method != MAIN and not w.peer:
                self.firsts[w.method, item.problem] = answer["first_seconds"]
                rates = self.rates.setdefault(w.method, deque(maxlen=NEIGHBOURS))
                rates.append(answer["first_seconds"] / work(w.method, item.problem))
        return True

    def _failed(self, error: WorkerError) -> str:
        text = str(error)
        if self.left < RESTART_SECONDS and text.startswith("no answer"):
            return f"{SKIPPED}the time was up while it ran"
        return f"failed: {text}"

    def _limit(self) -> float:
        return max(0.0, min(ITEM_SECONDS, self.left))

    def _ask(self, op: str, limit: float, **values: Any) -> dict[str, Any]:
        assert self.link is not None
        if not self.link.alive():
            self._restart()
        return self.link.ask(op, limit, **values)

    def _ask_quietly(self, op: str) -> None:
        """Ask for what may fail without harm: a process that does not answer is started anew when it is next asked."""
        try:
            self._ask(op, self._limit())
        except WorkerError:
            assert self.link is not None
            self.link.end()

    def _restart(self) -> None:
        assert self.link is not None
        self.link.end()
        if self.left < RESTART_SECONDS:
            raise WorkerError("no answer: too little time was left to start its process anew")
        self.link = self.site.link()
        self.link.ask("open", min(90.0, max(0.1, self.left)))

    # rows

    def _new_group(self) -> str:
        self.made += 1
        return f"{self.run_id}-{self.made}"

    def _keep(self, rows: list[Measurement]) -> None:
        store.append_all(self.path, rows)
        self.result.rows += rows

    def _row(
        self,
        item: Item,
        who: Who,
        note: str = "",
        answer: dict[str, Any] | None = None,
        samples: Sequence[float] = (),
        *,
        suite: str = verdicts.SUITE,
        group: str | None = None,
    ) -> Measurement:
        answer = answer or {}
        times = store.timing_fields(short(s) for s in samples)
        median = times.get("median")
        least = ceilings.least_seconds(item.problem, self.ceilings, "flushed") if self.ceilings else None
        if group is None:
            group = self.groups.get(item.key) or self.groups.setdefault(item.key, self._new_group())
        if median is None and not note:
            note = "failed: no time was recorded"
        return Measurement(
            suite=suite,
            label=item.label,
            problem=str(item.problem),
            method=who.method,
            device="cuda",
            note=note,
            measured_at=store.utc_now(),
            machine=self.facts.get("machine", {}),
            versions=self.facts.get("versions", {}),
            commit=self.commit,
            profile="dry run: nothing was measured" if self.site.dry else "",
            mode=item.mode,
            cache="flushed",
            peer=who.peer,
            layout=answer.get("layout", "channels-first"),
            control=who.control,
            group=group,
            gflops=short(item.problem.flops / median / 1e9) if median else None,
            roofline=short(least / median) if median and least else None,
            ceilings=self.ceilings,
            prepare_seconds=short(answer["prepare_seconds"]) if "prepare_seconds" in answer else None,
            prepared_bytes=answer.get("prepared_bytes"),
            workspace_bytes=answer.get("workspace_bytes"),
            workspace_by=answer.get("workspace_by", ""),
            settings={"calls": 1, "late": answer.get("late", 0), "output": answer.get("output", "")} if times else {},
            **times,
        )


def short(value: float) -> float:
    """Four digits: more than a GPU's times agree in, and fewer bytes in a committed file."""
    return float(f"{value:.4g}")


def work(method: str, problem: Problem) -> float:
    """What a basic variant's time grows with: useful operations, times the inserted zeros where it multiplies them too."""
    stretch = 1
    if method == "zero_insertion":
        for stride in problem.stride:
            stretch *= stride
    return float(stretch * problem.flops + problem.min_bytes)
