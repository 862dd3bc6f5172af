"""Processes that serve entrants: the same explicit threads and allocator for all, asked in turn, ended with the run."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from tconv_bench import jit

SCRIPT = jit.PACKAGE / "worker.py"
TIMEOUT = 900.0  # seconds for one answer: compiling a model takes the longest
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
# A fresh output is memory that was used before, for everyone: page faults of new memory would cost an engine that cannot
# write into a given array more than its arithmetic (fill of new memory 4 GB/s, of old 20). Huge pages, because which small ones
# a process gets is chance that stays with it: one kernel on 8 MiB of weights took 403 us in one process, 532 in another.
# Read by glibc, ignored elsewhere.
ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**62),
    "MALLOC_TOP_PAD_": str(2**26),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


class WorkerError(RuntimeError):
    """An entrant that failed, or a process that ended; one line that says how."""


class UnsupportedError(Exception):
    """An entrant that can't take a problem; its sentence."""


class WorkerProcess:
    """One process with a package tree on its path; ``ask`` sends a request and waits for its answer."""

    def __init__(self, tree: Path, threads: int, *, timeout: float = TIMEOUT, command: Sequence[str] | None = None):
        environment = os.environ | ({} if command else ALLOCATOR) | {name: str(threads) for name in _THREADS}
        environment["TCONV_BENCH_WISDOM"] = ""  # "auto" is judged by what every user has: the predictions
        environment["PYTHONPATH"] = os.pathsep.join([str(tree), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.timeout = timeout
        self.said = ""  # the last line of the standard error, once the process has ended
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self.process = subprocess.Popen(
            command or [sys.executable, "-W", "ignore", str(SCRIPT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=environment,
            start_new_session=True,  # Ctrl-C is the parent's: it ends its workers itself
        )
        self.answers: queue.Queue[bytes] = queue.Queue()
        self.collector = threading.Thread(target=self._collect, daemon=True)
        self.collector.start()

    def _collect(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.answers.put(line)
        self.answers.put(b"")

    def ask(self, op: str, **values: Any) -> dict[str, Any]:
        """The answer to one request.

        Raises:
            UnsupportedError: the entrant can't take the problem.
            WorkerError: it failed, the process ended, or no answer came in time (the process is then ended).
        """
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"op": op, **values}).encode() + b"\n")
            self.process.stdin.flush()
            line = self.answers.get(timeout=self.timeout)
        except queue.Empty:
            self.end()
            raise WorkerError(f"no answer within {self.timeout:.0f} s") from None
        except (BrokenPipeError, ValueError):
            line = b""
        if not line:
            raise WorkerError(self._last_words())
        answer: dict[str, Any] = json.loads(line)
        if "unsupported" in answer:
            raise UnsupportedError(answer["unsupported"])
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def _last_words(self) -> str:
        self.end()
        return f"the process ended with code {self.process.returncode}" + self.said

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self.process.poll() is None

    def end(self) -> None:
        """End the process and wait for it."""
        if self.errors.closed:
            return
        if self.alive:
            self.process.kill()
        self.process.wait()
        self.collector.join()
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        with self.errors as errors:
            errors.seek(0)
            lines = errors.read().decode(errors="replace").strip().splitlines()
        self.said = f": {lines[-1].strip()}" if lines else ""


class Pool:
    """The processes of one thread count, by name; a process that ended is started anew when it is asked next."""

    def __init__(self, threads: int):
        self.threads = threads
        self.processes: dict[tuple[str, Path], WorkerProcess] = {}

    def of(self, name: str, tree: Path) -> WorkerProcess:
        """The process of a name that serves a package tree."""
        key = (name, tree)
        if key not in self.processes or not self.processes[key].alive:
            self.processes[key] = WorkerProcess(tree, self.threads)
        return self.processes[key]

    def is_alive(self, name: str, tree: Path) -> bool:
        """Whether the process of a name runs."""
        return (name, tree) in self.processes and self.processes[name, tree].alive

    def drop(self) -> None:
        """Let the processes forget what they made ready."""
        for process in self.processes.values():
            if process.alive:
                process.ask("drop")

    def end(self, name: str) -> None:
        """End the processes of a name, whatever tree they serve."""
        for (its_name, _), process in self.processes.items():
            if its_name == name:
                process.end()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for process in self.processes.values():
            process.end()
