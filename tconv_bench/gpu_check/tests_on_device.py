"""The CUDA tests on the device, in processes of their own: a kernel that goes astray takes its process alone with it.

There are several, because most of the time goes into compiling kernels, which each does on one core.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from xml.etree import ElementTree

from tconv_bench import jit

ENVIRONMENT = {
    "TCONV_BENCH_ON_DEVICE": "1",  # for tests that otherwise run in the simulator alone
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # whatever else the machine's Python has
}
TESTS = (  # a process each: file, and pytest's choice of what is in it
    ("tests/test_cuda.py", "every_variant and on_this_gpu"),
    ("tests/test_cuda.py", "every_tile and on_this_gpu"),
    ("tests/simulated_cuda.py", ""),
)
SECONDS_TO_END = 8.0  # in which pytest writes down how far it came


@dataclass(frozen=True)
class Outcome:
    """How the tests ended; ``cases`` has (test, reason) of those that failed."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    finished: bool = True
    note: str = ""
    cases: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        counts = f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped in {self.seconds:.0f} s"
        return (self.note or counts) + ("" if self.finished else "; ended before they were through")

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(
            self.passed + other.passed,
            self.failed + other.failed,
            self.skipped + other.skipped,
            max(self.seconds, other.seconds),
            self.finished and other.finished,
            cases=self.cases + other.cases,
        )


class TestRun:
    """pytest, started; ``finish`` waits for it."""

    __test__ = False

    def __init__(self) -> None:
        self.started = monotonic()
        self.parts = [_Part(file, choice) for file, choice in TESTS]

    def finish(self, seconds: float) -> Outcome:
        """How they ended, after at most so many seconds from their start on; what still runs then is ended."""
        end = self.started + seconds
        for part in self.parts:
            part.wait(end)
        return sum((part.outcome(monotonic() - self.started) for part in self.parts), Outcome())

    def end(self) -> None:
        """End the processes that still run."""
        for part in self.parts:
            part.end()


class _Part:
    """One process."""

    def __init__(self, file: str, choice: str) -> None:
        self.file, self.finished = file, True
        self.folder = tempfile.TemporaryDirectory(prefix="tconv-gpu-tests-")
        self.report = Path(self.folder.name) / "report.xml"
        self.said = open(Path(self.folder.name) / "said", "w+", encoding="utf-8")  # noqa: SIM115 - lives as long as the process
        # A warning of the machine's own packages fails nothing here.
        command = [
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "default", "--maxfail=20",
            f"--junitxml={self.report}", "-k", choice, file,
        ]  # fmt: skip
        self.process = subprocess.Popen(
            command,
            cwd=jit.PACKAGE.parent,
            env={**os.environ, **ENVIRONMENT},
            stdout=self.said,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )

    def wait(self, end: float) -> None:
        """Until it ends; from ``end`` on it is asked to, so that it still says what passed, and then made to."""
        try:
            self.process.wait(max(0.1, end - monotonic()))
            return
        except subprocess.TimeoutExpired:
            self.finished = False
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def outcome(self, seconds: float) -> Outcome:
        """What its report says; a process that left none is a failure, unless it was ended."""
        try:
            # The one that was interrupted has no name, and no other sign of it.
            found = [case for case in ElementTree.parse(self.report).iter("testcase") if case.get("name")]
        except (OSError, ElementTree.ParseError):
            if not self.finished:
                return Outcome(seconds=seconds, finished=False)
            self.said.seek(0)
            lines = self.said.read().strip().splitlines()
            text = f"pytest ended with code {self.process.returncode}: {lines[-1] if lines else 'it said nothing'}"
            return Outcome(failed=1, seconds=seconds, cases=((self.file, f"failed: {text}"[:300]),))
        failed = [(case.get("name", ""), text) for case in found if (text := _failure(case))]
        skipped = sum(case.find("skipped") is not None for case in found)
        passed = len(found) - len(failed) - skipped
        return Outcome(passed, len(failed), skipped, seconds, self.finished, cases=tuple(failed))

    def end(self) -> None:
        """End the process if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.said.close()
        self.folder.cleanup()


def _failure(case: ElementTree.Element) -> str:
    for kind in ("failure", "error"):
        found = case.find(kind)
        if found is not None:
            return f"failed: {' '.join((found.get('message') or '').split())}"[:300]
    return ""
