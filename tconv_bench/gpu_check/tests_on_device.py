"""The CUDA tests on the device, in a process of their own: a kernel that goes astray takes that process alone with it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from xml.etree import ElementTree

from tconv_bench import jit

ON_DEVICE = "TCONV_BENCH_ON_DEVICE"  # set for tests that otherwise run in the simulator alone
QUIET = {"NUMBA_CUDA_LOW_OCCUPANCY_WARNINGS": "0"}  # tiny problems have few blocks, and a warning fails a test
TESTS = ("tests/test_cuda.py", "tests/simulated_cuda.py")


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


class TestRun:
    """pytest, started; ``finish`` waits for it."""

    __test__ = False

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="tconv-gpu-tests-")
        self.report = Path(self.folder.name) / "report.xml"
        self.said = open(Path(self.folder.name) / "said", "w+", encoding="utf-8")  # noqa: SIM115 - lives as long as the process
        self.started = monotonic()
        command = [
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--maxfail=20", f"--junitxml={self.report}", "-k",
            "on_this_gpu or simulated_cuda", *TESTS,
        ]  # fmt: skip
        self.process = subprocess.Popen(
            command,
            cwd=jit.PACKAGE.parent,
            env={**os.environ, ON_DEVICE: "1", **QUIET},
            stdout=self.said,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )

    def finish(self, seconds: float) -> Outcome:
        """How they ended, after at most so many seconds from their start on; what still runs then is ended."""
        try:
            self.process.wait(max(0.1, self.started + seconds - monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return Outcome(seconds=monotonic() - self.started, finished=False, note=f"not through after {seconds:.0f} s")
        return self._read(monotonic() - self.started)

    def _read(self, seconds: float) -> Outcome:
        try:
            found = [*ElementTree.parse(self.report).iter("testcase")]
        except (OSError, ElementTree.ParseError):
            self.said.seek(0)
            lines = self.said.read().strip().splitlines()
            text = f"pytest ended with code {self.process.returncode}: {lines[-1] if lines else 'it said nothing'}"
            return Outcome(seconds=seconds, finished=False, note=text[:300])
        failed = [(case.get("name", ""), text) for case in found if (text := _failure(case))]
        skipped = sum(case.find("skipped") is not None for case in found)
        return Outcome(len(found) - len(failed) - skipped, len(failed), skipped, seconds, cases=tuple(failed))

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
